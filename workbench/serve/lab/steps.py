"""Answers as steps: the bytes on the wire, and the pauses, drips and ends between them.

An answer is a tuple of steps, played in order. Nothing is added to the bytes, so that a fault is exactly what its
script says; a step that never ends (`STALL`, `Forever`) ends with the connection.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

REASONS = {
    200: "OK",
    307: "Temporary Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    413: "Content Too Large",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
    529: "Overloaded",
}
End = Literal["kept", "closed", "reset"]
NEVER_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Drip:
    """Send the bytes in pieces of `size`, one every `every_s` seconds."""

    data: bytes
    every_s: float = 0.05
    size: int = 1


@dataclass(frozen=True, slots=True)
class Forever:
    """Send the bytes again and again until the client leaves, every `every_s` seconds."""

    data: bytes
    every_s: float = 0.005


@dataclass(frozen=True, slots=True)
class Act:
    """One of the ends that are no bytes: `stall`, `fin` or `reset`."""

    name: str


STALL, FIN, RESET = Act("stall"), Act("fin"), Act("reset")
Step = bytes | Pause | Drip | Forever | Act
Answer = tuple[Step, ...]


def head(status: int = 200, *, length: int | None = None, **headers: Any) -> bytes:
    """A response head; underscores in header names stand for dashes. length: of the body, in bytes."""
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Whatever')}"]
    if length is not None:
        headers["content_length"] = length
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def reply(document: object, status: int = 200, **headers: Any) -> Answer:
    """A whole answer: a JSON document, or bytes as they are, with the right length."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    headers = {"content_type": "application/json", **headers}
    return (head(status, length=len(body), **headers) + body,)


def streamed(events: Iterable[Step], *ends: Step, **headers: Any) -> Answer:
    """An event stream that ends with its connection, unless `ends` say otherwise."""
    return (head(200, **{"content_type": "text/event-stream", "connection": "close", **headers}), *events, *ends, FIN)


def status_of(answer: Answer) -> int | None:
    """The HTTP status that an answer begins with; None where it begins with none."""
    first = answer[0] if answer else b""
    raw = first.data if isinstance(first, Drip | Forever) else first
    if isinstance(first, Pause):
        return status_of(answer[1:])
    if not isinstance(raw, bytes) or not raw.startswith(b"HTTP/1.1 ") or not raw[9:12].isdigit():
        return None
    return int(raw[9:12])


async def play(answer: Answer, writer: asyncio.StreamWriter) -> End:
    """Take the steps of an answer; how the connection is left.

    The writer's buffer has to have the limit 0, so that a drained writer has handed everything to the kernel.
    """
    for step in answer:
        match step:
            case bytes():
                writer.write(step)
                await writer.drain()
            case Pause():
                await asyncio.sleep(step.seconds)
            case Drip():
                for at in range(0, len(step.data), step.size):
                    writer.write(step.data[at : at + step.size])
                    await writer.drain()
                    await asyncio.sleep(step.every_s)
            case Forever():
                while True:
                    writer.write(step.data)
                    await writer.drain()
                    await asyncio.sleep(step.every_s)
            case Act("stall"):
                await asyncio.sleep(NEVER_S)
            case Act("fin"):
                writer.close()
                return "closed"
            case Act():
                await _reset(writer)
                return "reset"
    return "kept"


async def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a RST, once what was written has left."""
    await asyncio.sleep(0.02)  # the client reads what was sent before: a reset would throw it away
    found: socket.socket = writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
