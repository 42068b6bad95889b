"""Canonical forms: what is hashed, compared and stored is written in one way only."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any


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
    return _CANONICAL.encode(value)


def plain_scalar(value: Any) -> Any:
    """A numpy scalar as the Python number it stands for; TypeError for anything else JSON has no form for."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", 0) == 0:
        return item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=plain_scalar
)


MAX_TEXT = 500  # characters of an error's text that are kept
_MAX_READ = 20 * MAX_TEXT  # characters searched for secrets; a secret cut at this edge is cut away by MAX_TEXT
# Behind a name, which may stand in JSON inside of JSON, with the escapes of it.
_IS = r"\\{0,3}[\"']?\s{0,3}[:=]\s{0,3}\\{0,3}[\"']?"
_VALUE = r"(?:[^\s\"',;\\]|\\(?![\"'\\])){4,}"
_NAMED = re.compile(
    r"(\bbearer\s+|(?:authorization|(?:api|access|secret|private|account|subscription)[_-]?key|secret|"
    rf"(?:access|auth|refresh|id|session|api|bearer|security|csrf|bot)[_-]?token|passw(?:or)?d|passphrase|credentials?)"
    rf"{_IS}(?:(?:bearer|basic|token|digest|apikey)\s+)?|[?&](?:key|sig|signature)=)" + _VALUE,
    re.I,
)
# Languages and models have tokens too: one by that name alone is secret behind "=", or where its value has a digit.
_TOKEN = re.compile(
    rf"((?<![a-z_-])token(?:\\{{0,3}}[\"']?\s{{0,3}}=\s{{0,3}}\\{{0,3}}[\"']?|"
    rf"{_IS}(?=(?:(?:bearer|basic)\s+)?[^\s\"',;\\]{{0,200}}\d))(?:(?:bearer|basic)\s+)?)" + _VALUE,
    re.I,
)
_COOKIE = re.compile(rf"(cookie{_IS})[^\"'\\\r\n]{{4,}}", re.I)  # its value has semicolons and spaces
_ADDRESS = re.compile(r"(://)[^\s/@\"'<>?#]{1,500}(?=@)")
_PEM = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:.{0,8000}?-----END [A-Z ]{0,40}KEY-----|.{0,8000})", re.S)
# Each begins where no such character stands before it: from the middle of a long run nothing is tried.
_LOOKS = re.compile(
    r"(?<![A-Za-z0-9_\-])(?:eyJ[A-Za-z0-9_\-]{8,4000}\.[A-Za-z0-9_\-]{8,4000}(?:\.[A-Za-z0-9_\-]{0,4000})?|"
    r"(?:sk|pk|rk|hf|gsk|xai|nvapi|pplx|glpat|ya29)(?:[-.]|_(?=[A-Za-z0-9_\-]{0,200}\d))[A-Za-z0-9_\-]{16,}|"
    r"gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|xox[abeprs]-[A-Za-z0-9\-]{10,}|AIza[A-Za-z0-9_\-]{16,}|"
    r"(?:AKIA|ASIA)[A-Z0-9]{12,})"
)


def redacted(text: str) -> str:
    """The text with what looks like a key, a token, a password in an address or an authorization header taken out."""
    # Most texts hold nothing of it, and looking for words costs a tenth of what looking for patterns does.
    lower = text.lower()
    if "private key-----" in lower:
        text = _PEM.sub("[redacted]", text)
    if "cookie" in lower:
        text = _COOKIE.sub(r"\1[redacted]", text)
    if (
        "key" in lower or "token" in lower or "secret" in lower or "pass" in lower or "credential" in lower
        or "authorization" in lower or "bearer" in lower or "sig" in lower
    ):  # fmt: skip
        text = _NAMED.sub(r"\1[redacted]", text)
        if "token" in lower:
            text = _TOKEN.sub(r"\1[redacted]", text)
    if "@" in text and "://" in text:
        text = _ADDRESS.sub(r"\1[redacted]", text)
    return _LOOKS.sub("[redacted]", text)


def redacted_json(text: str) -> str:
    """A JSON text without what looks like a secret in its texts, or is named like one; it stays JSON.

    Nearly every text comes back as it is. Numbers stay, whatever they are called.
    """
    if len(text) <= 2 or redacted(text) == text:
        return text
    return canonical_json(_without_secrets(json.loads(text), named=False))


def _without_secrets(value: Any, *, named: bool) -> Any:
    if isinstance(value, str):
        return "[redacted]" if named and value else redacted(value)
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, part in value.items():
            name = redacted(key)
            while name in found:  # two keys that are taken out stay two
                name += "#"
            found[name] = _without_secrets(part, named=names_secret(key))
        return found
    if isinstance(value, list):
        return [_without_secrets(part, named=named) for part in value]
    return value


def names_secret(name: str) -> bool:
    """Whether a text of that name is taken out by its name alone, such as `api_key`."""
    return redacted(f"{name}: {'x9' * 4}") != redacted(name) + f": {'x9' * 4}"


def text_of(error: BaseException) -> str:
    """What an exception says: redacted, on one line, at most MAX_TEXT characters; for any exception."""
    try:
        text = str(error)
    except Exception:  # a broken __str__ must not take the place of the error it belongs to
        text = f"(a {type(error).__name__} whose text cannot be read)"
    return " ".join(redacted(clean_text(text[:_MAX_READ])).split())[:MAX_TEXT]
