"""Canonical forms: what is hashed, compared and stored is written in one way only."""

from __future__ import annotations

import hashlib
import json
from typing import Any

_CANONICAL: Any = {"sort_keys": True, "separators": (",", ":"), "ensure_ascii": False}


def clean_text(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD, so that it can be hashed, stored and sent."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def text_hash(text: str) -> str:
    """Content address of a text: the first 32 hexadecimal digits of the SHA-256 of its UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal strings in every process."""
    return json.dumps(value, default=plain_scalar, allow_nan=False, **_CANONICAL)


def plain_scalar(value: Any) -> Any:
    """A numpy scalar as the Python number it stands for; TypeError for anything else JSON has no form for."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", 0) == 0:
        return item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
