"""Seeded damage to valid answers: at bytes, at events, and inside their JSON."""

from __future__ import annotations

import json
import random
import re
from typing import Any

from faults.shapes import delta, document, event, events

TEXT = ("The answer ", "is four", ", naïve 🎈.")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3.5, 10**18, -(10**18), 10**400, 1e308, float("nan"), float("inf"), "", "x", "\ud83d",
    "\x00\x1b[2J", "<|endoftext|>", [], {}, [[]], [None], [1, "x"], {"text": "four"}, {"content": None},
    [{"type": "text", "text": "four"}], "0", "500", "stop", "length", "tool_calls", {"code": 10**30}, "x" * 70_000,
)  # fmt: skip


def valid(wire: str, *, stream: bool) -> list[bytes]:
    """A good answer: one body, or its events."""
    return events(wire, *TEXT) if stream else [json.dumps(document(wire, "".join(TEXT)), ensure_ascii=False).encode()]


def at_bytes(chance: random.Random, parts: list[bytes]) -> bytes:
    """One to four flips, cuts, insertions, repetitions or deletions at random places."""
    raw = bytearray(b"".join(parts))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(raw) + 1)
        until = min(len(raw), at + chance.randint(1, 40))
        match chance.randrange(6):
            case 0 if at < len(raw):
                raw[at] ^= 1 << chance.randrange(8)
            case 1:
                del raw[at:]
            case 2:
                raw[at:at] = chance.randbytes(chance.randint(1, 8))
            case 3:
                raw[at:at] = raw[at:until]
            case 4:
                del raw[at:until]
            case _:
                raw[at:at] = chance.choice([b"\x00", b"\r", b"\n\n", b"\xff", b"\xef\xbb\xbf", b'"', b"}", b"\\u0000"])
    return bytes(raw)


def at_events(chance: random.Random, parts: list[bytes]) -> bytes:
    """Events repeated, exchanged, left out, merged, commented, or with other line ends."""
    made = list(parts)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(7):
            case 0 if at < len(made):
                made.insert(chance.randrange(len(made) + 1), made[at])
            case 1:
                chance.shuffle(made)
            case 2 if at < len(made):
                del made[at]
            case 3:
                made.insert(
                    at, chance.choice([b": comment\n\n", b"\n\n", b"event: ping\n\n", b"data\n\n", b"data:\n\n"])
                )
            case 4:
                made.insert(
                    at, chance.choice([b"data: [DONE]\n\n", b"data: {}\n\n", b"data: 4\n\n", b"data: null\n\n"])
                )
            case 5 if at < len(made):
                made[at] = made[at].replace(b"\n\n", b"\n")
            case _:
                made.insert(at, b'data: {"id":\n\n')
    raw = b"".join(made)
    return chance.choice([b"", b"", b"", b"\xef\xbb\xbf"]) + raw.replace(b"\n", chance.choice([b"\n", b"\r\n", b"\r"]))


def at_json(chance: random.Random, parts: list[bytes]) -> bytes:
    """A wrong value, a missing or a doubled key somewhere inside the JSON of one part."""
    made = list(parts)
    for _ in range(chance.randint(1, 2)):
        at = chance.randrange(len(made))
        found = re.search(rb"\{.*\}", made[at], re.S)
        if found is None:
            continue
        try:
            changed = _changed(chance, json.loads(found[0]))
        except RecursionError:  # already as deep as it gets
            continue
        made[at] = made[at][: found.start()] + changed + made[at][found.end() :]
    return b"".join(made)


def _changed(chance: random.Random, document: Any) -> bytes:
    places = list(_places(document))
    if not places:
        return b"{}"
    holder, key = chance.choice(places)
    match chance.randrange(5):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            # JSON allows the same key twice; every reader that we know takes the last.
            text, marker = json.dumps(document), json.dumps(key) + ":"
            return text.replace(marker, marker + json.dumps(chance.choice(VALUES)) + ", " + marker, 1).encode()
        case 2 if isinstance(holder, list):
            holder.append(holder[key])
        case 3:
            mark = "@depth@"
            holder[key] = mark
            depth = chance.choice([10, 500, 100_000])
            return json.dumps(document).replace(f'"{mark}"', "[" * depth + "]" * depth).encode()
        case _:
            holder[key] = chance.choice(VALUES)
    return json.dumps(document).encode()


def _places(value: Any) -> Any:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


def late(wire: str) -> list[bytes]:
    """A stream that goes on after its end."""
    return [*events(wire, *TEXT), delta(wire, " and more"), event({"x": 1})]


# -- an independent, simple reading of what the OpenAI format says


def simple_whole(raw: bytes) -> str | None:
    """The text of the first choice; None when there is none to be read."""
    try:
        content = json.loads(raw.decode())["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return _mended(_text(content))


def simple_stream(raw: bytes) -> str | None:
    """The texts of the deltas up to [DONE], of the first choice 0 in each event, one after the other."""
    told = []
    for block in _blocks(raw.removeprefix(b"\xef\xbb\xbf")):
        if block.strip() == b"[DONE]":
            break
        try:
            choices = json.loads(block.decode())["choices"]
            told.append(next((_text(c["delta"]["content"]) for c in choices if c.get("index", 0) in (0, None)), None))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
    return _mended("".join(t or "" for t in told))


def _blocks(raw: bytes) -> list[bytes]:
    made: list[bytes] = []
    data: list[bytes] = []
    for line in [*re.split(b"\r\n|\n|\r", raw), b""]:
        name, _, value = line.partition(b":")
        if name == b"data" and line:
            data.append(value[1:] if value.startswith(b" ") else value)
        elif not line and data:
            made.append(b"\n".join(data))
            data = []
    return made


def _text(content: Any) -> str | None:
    if isinstance(content, list):
        return "".join(p["text"] for p in content if isinstance(p, dict) and isinstance(p.get("text"), str))
    return content if isinstance(content, str) else None


def _mended(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
