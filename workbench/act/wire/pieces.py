"""Small steps between text and the bytes on their way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import orjson

from workbench.canonical import clean_text
from workbench.errors import LLMError

DRAIN_S = 0.05


def without_body(error: BaseException) -> None:
    """Take what was read out of a decoding error: it is somebody's text, and may quote a key."""
    if isinstance(error, json.JSONDecodeError):
        error.doc = ""
    elif isinstance(error, UnicodeDecodeError):
        error.args = (error.encoding, b"", 0, 0, error.reason)
        error.object = b""


def halved(piece: str) -> tuple[str, str]:
    """Half a character at the end of a piece, whose other half the next may bring, and what stands before it."""
    return (piece[-1], piece[:-1]) if "\ud800" <= piece[-1:] <= "\udbff" else ("", piece)


def nobody(piece: str) -> None:
    """Who listens to a stream that nobody listens to."""


async def drained(chunks: AsyncGenerator[bytes, None]) -> None:
    """Read what follows the end of an answer, for a moment, so that the connection can be used again."""
    try:
        async with asyncio.timeout(DRAIN_S):
            async for _ in chunks:
                pass
    except (TimeoutError, LLMError):
        pass  # the answer is whole all the same; the connection is closed then


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_EXACT = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def written(document: Mapping[str, Any]) -> bytes:
    """A document as it is sent."""
    try:
        return orjson.dumps(document, option=_EXACT)
    except TypeError:  # half a character, a long integer: the standard library has a form for both
        return clean_text(_JSON.encode(document)).encode()


def read_json(raw: bytes) -> Any:
    """The value that a text in JSON stands for; ValueError or RecursionError when it is none."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:  # NaN, half a character, a depth of 2,000: the standard library reads on
        return json.loads(raw.decode())
