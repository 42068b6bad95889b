"""Requests of HTTP/1.1 and 1.0 off a socket, as much of it as clients of models use, and nothing unbounded.

A request is accepted when its body was read to the end. What cannot be read is a `Refused` with the status to answer
with; the connection is closed after it, because nobody knows where the next request would begin.
Source: RFC 9112, sections 2, 6 and 7.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

_LINE = re.compile(r"([A-Z]{1,20}) (\S+) HTTP/(\d\.\d)")
_LENGTH = re.compile(r"[0-9]{1,15}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(;[^\r\n]*)?\r\n")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a client may take: bytes of a head and of a body, seconds for either, and between two requests."""

    head_bytes: int = 65_536
    body_bytes: int = 16 * 2**20
    head_s: float = 10.0
    body_s: float = 60.0
    idle_s: float = 75.0


class Refused(Exception):  # noqa: N818 - an answer, and no error of ours
    """A request that cannot be read. status: what to answer with, or None to close without a word."""

    def __init__(self, status: int | None, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


@dataclass(slots=True)
class Asked:
    """One request as it arrived.

    connection, number: of the connection, and of the request on it, from 1. at_s: monotonic, when it was read.
    left_s: when the client left before the end of the answer. answered: the answer was sent to its end.
    """

    connection: int
    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    at_s: float
    left_s: float | None = None
    answered: bool = False
    number: int = 1
    version: str = "1.1"

    @property
    def body(self) -> Any:
        """The parsed body; None where it is no JSON."""
        try:
            return json.loads(self.raw)
        except (ValueError, RecursionError):
            return None

    @property
    def model(self) -> str:
        """The model that was asked, from the body or, for Gemini, from the path; empty where none is named."""
        body = self.body
        if isinstance(body, dict) and isinstance(body.get("model"), str):
            return str(body["model"])
        return unquote(urlsplit(self.path).path.rpartition("/")[2].rpartition(":")[0])

    @property
    def key(self) -> str:
        """The idempotency key, or an empty text."""
        return self.headers.get("idempotency-key", "")

    @property
    def keeps(self) -> bool:
        """Whether the client wants to use the connection again."""
        tokens = [t.strip() for t in self.headers.get("connection", "").lower().split(",")]
        return "close" not in tokens if self.version == "1.1" else "keep-alive" in tokens


async def read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ahead: bytes, bounds: Bounds
) -> Asked | None:
    """The next request of a connection; None when the client has closed it in between.

    ahead: bytes that were read already. Raises Refused.
    """
    try:
        async with asyncio.timeout(bounds.idle_s):
            while not ahead or ahead in (b"\r", b"\n"):  # RFC 9112, 2.2: line ends before a request are nothing
                ahead = await reader.readexactly(1)
    except (asyncio.IncompleteReadError, TimeoutError):
        return None
    if ahead == b"\x16":
        raise Refused(400, "this port speaks HTTP, and the client began a TLS handshake")
    try:
        async with asyncio.timeout(bounds.head_s):
            lines = (ahead + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.LimitOverrunError:
        raise Refused(431, f"the head has more than {bounds.head_bytes} bytes") from None
    except TimeoutError:
        raise Refused(408, f"the head did not end within {bounds.head_s:g} s") from None
    found = _LINE.fullmatch(lines[0])
    if found is None:
        raise Refused(400, "the first line is no request of HTTP/1.1")
    method, path, version = found.groups()
    if version not in ("1.0", "1.1"):
        raise Refused(505, f"HTTP/{version} is not spoken here")
    headers = _headers(lines[1:-2])
    try:
        async with asyncio.timeout(bounds.body_s):
            raw = await _body(reader, writer, method, version, headers, bounds)
    except TimeoutError:
        raise Refused(408, f"the body did not end within {bounds.body_s:g} s") from None
    except asyncio.LimitOverrunError:
        raise Refused(400, "the size of a chunk cannot be read") from None
    return Asked(0, method, path, headers, raw, time.monotonic(), version=version)


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise Refused(400, "a header line cannot be read")
        name, value = name.lower(), value.strip()
        if name in ("content-length", "transfer-encoding") and headers.get(name, value) != value:
            raise Refused(400, f"two {name} headers contradict each other")
        headers[name] = value
    return headers


async def _body(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    method: str,
    version: str,
    headers: dict[str, str],
    bounds: Bounds,
) -> bytes:
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None and (length is not None or coding.lower() != "chunked"):
        raise Refused(400, "transfer-encoding is chunked and nothing else here, and excludes content-length")
    if coding is None and length is None:
        if method in ("POST", "PUT", "PATCH"):
            raise Refused(411, "the request names no length: send content-length, or chunks")
        return b""
    if length is not None and not _LENGTH.fullmatch(length):
        raise Refused(400, "content-length is no number")
    if length is not None and int(length) > bounds.body_bytes:
        raise Refused(413, f"the body has {length} bytes, {bounds.body_bytes} are read here")
    if headers.get("expect", "").lower() == "100-continue" and version == "1.1":
        writer.write(CONTINUE)
        await writer.drain()
    return await reader.readexactly(int(length)) if length is not None else await _chunks(reader, bounds.body_bytes)


async def _chunks(reader: asyncio.StreamReader, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        found = _CHUNK.fullmatch(await reader.readuntil(b"\r\n"))
        if found is None:
            raise Refused(400, "the size of a chunk cannot be read")
        length = int(found[1], 16)
        size += length
        if size > most:
            raise Refused(413, f"the body has more than {most} bytes")
        if not length:
            break
        parts.append(await reader.readexactly(length))
        if await reader.readexactly(2) != b"\r\n":
            raise Refused(400, "a chunk is longer than it says")
    for _ in range(100):  # trailers, which say nothing here
        if await reader.readuntil(b"\r\n") == b"\r\n":
            return b"".join(parts)
    raise Refused(400, "too many lines after the last chunk")
