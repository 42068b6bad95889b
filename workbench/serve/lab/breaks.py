"""The faults of the layers transport and body: connections that break, and bodies that are no answer."""

from __future__ import annotations

import json
import random
import zlib
from dataclasses import replace
from functools import cache

from workbench.serve.lab.fault import EVENTS, Fault, Shot, events, ident_of, opened, told
from workbench.serve.lab.shapes import document, event, opening
from workbench.serve.lab.steps import FIN, RESET, STALL, Answer, Drip, Pause, reply

PROVIDER, TIMEOUT = "LLMProviderError", "LLMTimeoutError"
BOMB_BYTES, LONG_CHARS = 64 * 2**20, 10_000_000
PAGE = b"<!doctype html><html><head><title>Sign in to the network</title></head><body>Welcome</body></html>"


def _raw(shot: Shot) -> bytes:
    """The good answer as bytes."""
    return b"".join(step for step in told(shot) if isinstance(step, bytes))


def _split(shot: Shot) -> tuple[bytes, bytes]:
    raw = _raw(shot)
    cut = raw.index(b"\r\n\r\n") + 4
    return raw[:cut], raw[cut:]


def _reset_body(shot: Shot) -> Answer:
    first, body = _split(shot)
    return (first + body[: len(body) // 2], RESET)


def _fin_body(shot: Shot) -> Answer:
    first, body = _split(shot)
    return (first + body[: min(120, len(body) // 2)], FIN)


def _stall_body(shot: Shot) -> Answer:
    first, body = _split(shot)
    return (first + body[:40], STALL)


def _drip(shot: Shot) -> Answer:
    first, body = _split(shot)
    return (first, Drip(body), FIN)


def _garbage(shot: Shot) -> Answer:
    return (random.Random(1).randbytes(512), Pause(0.05), FIN)


@cache
def bomb(first: bytes, last: bytes) -> bytes:
    """The bytes with 64 MB of A between them, compressed to some 64 kB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = b"A" * 2**20
    middle = [packer.compress(block) for _ in range(BOMB_BYTES // 2**20)]
    return packer.compress(first) + b"".join(middle) + packer.compress(last) + packer.flush()


def _bomb(shot: Shot) -> Answer:
    # Of nobody's answer, so that it is compressed once for each format and not for each request.
    said = replace(shot.said, text="@", model="simulated", ident="simulated-bomb")
    first, _, last = json.dumps(document(said)).encode().partition(b"@")
    kind = EVENTS["content_type"] if shot.stream else "application/json"
    headers = {**ident_of(shot.said), "content_type": kind, "content_encoding": "gzip"}
    return reply(bomb(first, last), **headers)


def _lie(shot: Shot) -> Answer:
    return told(shot) if shot.on_connection == 1 else (FIN,)


def _cut(shot: Shot) -> Answer:
    return reply(json.dumps(document(shot.said)).encode()[:60], **ident_of(shot.said))


def _not_utf8(shot: Shot) -> Answer:
    said = replace(shot.said, text="caf@")
    if not shot.stream:
        raw = json.dumps(document(said)).encode().replace(b"@", b"\xff\xfe")
        return reply(raw, **ident_of(said))
    before = [event(said.wire, one) for one in opening(said)]
    after = events(shot, said, parts=["caf@", "@"])[len(before) :]
    return opened(said, *before, *(one.replace(b"@", b"\xff\xfe") for one in after), FIN)


def _long(shot: Shot) -> Answer:
    text = "lorem ipsum " * (LONG_CHARS // 12) + "tail"
    step = 20_000
    parts = [text[at : at + step] for at in range(0, len(text), step)] if shot.stream else None
    return told(shot, replace(shot.said, text=text), parts=parts)


def _html(shot: Shot) -> Answer:
    return reply(PAGE, **{**ident_of(shot.said), "content_type": "text/html; charset=utf-8"})


TRANSPORT: tuple[Fault, ...] = (
    Fault(id="net-refused", layer="transport", way="address", error=PROVIDER, code="provider.connection",
          does="an address on which nobody listens", expect="retryable, nothing billed, failover at once"),
    Fault(id="net-dns", layer="transport", way="address", error=PROVIDER, code="provider.dns",
          does="an address whose host name does not exist", expect="no retries; base_url is named"),
    Fault(id="net-tls", layer="transport", way="address", error=PROVIDER, code="provider.tls",
          does="an https address with a self-signed certificate; net-tls-plain is https on the plain port",
          expect="never falls back to plain HTTP; the certificate's problem is named"),
    Fault(id="net-reset-head", layer="transport", error=PROVIDER, code="provider.connection",
          does="resets the connection after 30 bytes of the head", expect="retryable; possibly billed",
          script=lambda shot: (_raw(shot)[:30], RESET)),
    Fault(id="net-reset-body", layer="transport", error=PROVIDER, code="provider.connection", forms=("whole",),
          does="resets the connection in the middle of the body", expect="no partial text as an answer",
          script=_reset_body),
    Fault(id="net-fin-body", layer="transport", error=PROVIDER, code="provider.connection", forms=("whole",),
          does="closes the connection before Content-Length is reached", expect="a connection's error, not JSON's",
          script=_fin_body),
    Fault(id="net-stall-head", layer="transport", error=TIMEOUT, code="timeout.deadline",
          does="takes the request and says nothing", expect="ends at the deadline; possibly billed",
          script=lambda _: (STALL,)),
    Fault(id="net-stall-body", layer="transport", error=TIMEOUT, code="timeout.deadline", forms=("whole",),
          does="sends the head and 40 bytes, then nothing", expect="ends at the deadline", script=_stall_body),
    Fault(id="net-drip", layer="transport", error=TIMEOUT, code="timeout.deadline",
          does="sends the body at 20 bytes a second", expect="ends at the deadline, though every read is quick",
          script=_drip),
    Fault(id="net-garbage", layer="transport", error=PROVIDER, code="provider.protocol",
          does="sends 512 random bytes where HTTP should be", expect="typed; the connection is not used again",
          script=_garbage),
    Fault(id="net-gzip-bomb", layer="transport", error=PROVIDER, code="provider.too_large",
          does="sends 64 MB compressed to some 64 kB", expect="stops at max_response_bytes", script=_bomb),
    Fault(id="net-keepalive-lie", layer="transport", forms=("whole",),
          does="answers the first request of a connection with keep-alive, and closes it on reading the second",
          expect="one retry on a fresh connection; succeeds", script=_lie),
    Fault(id="net-fd-limit", layer="transport", way="client",
          does="lies in the client: limit its descriptors (`ulimit -n 64`) and make 256 calls at once",
          expect="calls queue; all finish"),
)  # fmt: skip

BODY: tuple[Fault, ...] = (
    Fault(id="body-truncated", layer="body", error=PROVIDER, code="provider.malformed", script=_cut,
          does="sends the first 60 bytes of the JSON as if they were all", expect="typed, retryable"),
    Fault(id="body-html", layer="body", error=PROVIDER, code="provider.malformed", script=_html,
          does="answers 200 with a portal's HTML page", expect="no retry; says that something else has answered"),
    Fault(id="body-empty", layer="body", error=PROVIDER, code="provider.malformed",
          script=lambda shot: reply(b"", **ident_of(shot.said)),
          does="answers 200 with no body", expect="typed"),
    Fault(id="body-badutf8", layer="body", error=PROVIDER, code="provider.malformed", script=_not_utf8,
          does="sends bytes that are no UTF-8 inside a text", expect="typed, and no error of a decoder"),
    Fault(id="body-array", layer="body", error=PROVIDER, code="provider.malformed",
          script=lambda shot: reply(b"[]", **ident_of(shot.said)),
          does="answers with a JSON array", expect="typed, and no error of an attribute"),
    Fault(id="body-10mb", layer="body", script=_long,
          does="answers with 10,000,000 characters", expect="accepted, or refused by max_response_bytes"),
)  # fmt: skip
FAULTS = (*TRANSPORT, *BODY)
