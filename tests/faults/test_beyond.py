"""Faults that no catalogue lists: thousands of damaged answers, in memory and over the socket.

Never an untyped exception, never a hang, and never a success whose text is not what the bytes say.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest

from faults import mutate
from faults.bench import NAMES, Bench
from faults.mutate import at_bytes, at_events, at_json, valid
from faults.server import FIN, Answer, head, reply, streamed
from faults.shapes import WIRES, closing, document, events
from workbench.act.admission import Admission, Discipline
from workbench.act.failover import Chain
from workbench.act.http import Http
from workbench.act.ledger import MemoryLedger
from workbench.act.live import HttpModel
from workbench.act.provider import Provider
from workbench.act.world import World
from workbench.decide.breaker import Breaker
from workbench.decide.retry import RetryPolicy
from workbench.errors import LLMError
from workbench.facts import Call, ModelCard, Request

SEEDS = 300  # for each format, form and kind of damage: 3 * (2 + 3) * 300 cases in memory
SLOWEST_S = 0.5  # of processor time for one answer, on a busy machine


NEVER = Breaker(minimum_calls=10_000, window_calls=10_000)  # opens in none of these tests


@dataclass
class Body(httpx.AsyncByteStream):
    """A body in the pieces in which it arrives."""

    pieces: list[bytes]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece


def in_pieces(raw: bytes, chance: random.Random | None) -> list[bytes]:
    """The bytes at once, or cut at random places."""
    if chance is None:
        return [raw]
    cuts = sorted(chance.randrange(len(raw) + 1) for _ in range(chance.randint(0, 6)))
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


@dataclass(frozen=True)
class Read:
    """What became of one answer."""

    text: str | None
    code: str | None
    flags: tuple[str, ...] = ()


class Memory:
    """A client of one format whose answers come from memory, in virtual time."""

    def __init__(self, wire: str, *, stream: bool) -> None:
        self.stream = stream
        self.world = World.virtual(1)
        self.wire = wire
        self.answer: httpx.Response | None = None
        transport = httpx.MockTransport(self._answer)
        provider = Provider(name="p", wire=wire, base_url="http://127.0.0.1:9/v1", auth="none")
        card = ModelCard(name="p:m", prompt_usd_per_mtok=1, completion_usd_per_mtok=2)
        self.model = HttpModel(provider, "m", Http(transport=transport), self.world, cards={"p:m": card})

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        assert self.answer is not None
        return self.answer

    async def read(self, pieces: list[bytes], status: int = 200, *, slowest_s: float = SLOWEST_S) -> Read:
        """One call with this answer; every invariant that can be seen from here."""
        kind = "text/event-stream" if self.stream else "application/json"
        self.answer = httpx.Response(status, headers={"content-type": kind}, stream=Body(pieces))
        ledger = MemoryLedger({"run:*": 10**6})
        discipline = Discipline(stream=self.stream, retry=RetryPolicy(max_retries=0), timeout_s=5)
        chain = Chain(Admission(self.world, discipline, ledger=ledger, limited=True), (self.model,))
        facts = self.world.sink.facts  # type: ignore[attr-defined]
        facts.clear()
        error = response = None
        start_s = time.process_time()
        try:
            response = await chain.complete(Request.of("How much is 2+2?"))
        except LLMError as raised:
            error = raised
        assert time.process_time() - start_s < slowest_s
        rows = [f for f in facts if isinstance(f, Call)]
        assert [(r.attempt, r.final) for r in rows] == [(1, True)]
        assert all(account.reserved == 0 for account in ledger.balances().values())
        assert all(0 <= account.spent <= 10**6 for account in ledger.balances().values())
        if error is None:
            assert response is not None
            response.text.encode()  # no lone surrogate
            assert response.text.strip()
            usage = response.usage
            assert 0 <= usage.prompt_tokens < 2**63
            assert 0 <= usage.completion_tokens < 2**63
            return Read(response.text, None, response.flags)
        assert error.code.startswith(("provider.", "rate_limit", "timeout.")), error.code
        assert error.code != "provider.unexpected", repr(error.__cause__)
        assert 0 < len(error.next_step) <= 160
        assert NAMES.search(error.next_step)
        assert len(error.message) < 600
        return Read(None, error.code)


def simple(wire: str, raw: bytes, *, stream: bool) -> str | None:
    """The independent reading, where there is one."""
    assert wire == "openai"
    return mutate.simple_stream(raw) if stream else mutate.simple_whole(raw)


KINDS = [(w, s, k) for w in WIRES for s in (False, True) for k in (at_bytes, at_json, *([at_events] if s else []))]


@pytest.mark.parametrize(("wire", "stream", "kind"), KINDS, ids=lambda v: getattr(v, "__name__", str(v)))
def test_damaged_answers_are_read_rightly_or_refused_by_type(wire, stream, kind):
    """Each damaged answer, whole and in random pieces: the same outcome, and the text that the bytes say."""
    memory = Memory(wire, stream=stream)
    parts = valid(wire, stream=stream)
    wrong, outcomes = [], set()

    async def main():
        for seed in range(SEEDS):
            raw = kind(random.Random(seed), parts)
            try:
                once = await memory.read([raw])
                cut = await memory.read(in_pieces(raw, random.Random(seed)))
            except Exception as error:
                wrong.append((seed, repr(error)[:300], raw[:200]))
                continue
            outcomes.add(once.code)
            if once != cut:
                wrong.append((seed, f"{once} in one piece, {cut} in several", raw[-300:]))
            elif wire == "openai" and once.text is not None and once.text != simple(wire, raw, stream=stream):
                wrong.append((seed, f"{once} instead of {simple(wire, raw, stream=stream)!r}", raw[:400]))

    memory.world.run(main())
    assert not wrong, f"{len(wrong)} of {SEEDS} are wrong, the first: {wrong[0]}"
    assert len(outcomes) > 1, "the damage does nothing"


@pytest.mark.parametrize("wire", WIRES)
def test_undamaged_answers_are_read_as_they_are(wire):
    """The same harness without damage: success, the text, no flag; so the tests above can fail."""
    for stream in (False, True):
        memory = Memory(wire, stream=stream)
        raw = b"".join(valid(wire, stream=stream))
        found = memory.world.run(memory.read([raw]))
        assert found == Read("".join(mutate.TEXT), None)


@pytest.mark.parametrize("wire", ["openai", "anthropic"])  # Gemini's has no end of its own
def test_what_follows_the_end_of_a_stream_is_no_answer_however_it_is_cut(wire):
    """Text after the format's own end is left out, in the same piece as well as in another one."""
    memory, parts = Memory(wire, stream=True), mutate.late(wire)
    found = {memory.world.run(memory.read(p)) for p in ([b"".join(parts)], parts)}
    assert found == {Read("".join(mutate.TEXT), None)}


STATUSES = [
    201,
    202,
    203,
    204,
    205,
    206,
    207,
    226,
    299,
    300,
    304,
    305,
    418,
    421,
    426,
    431,
    451,
    499,
    507,
    511,
    520,
    522,
]
STATUSES += [524, 530, 599, 600, 666, 999]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_odd_statuses_are_no_success_even_with_a_good_body(wire, stream):
    """Whatever the body says, only 200 is an answer."""
    memory = Memory(wire, stream=stream)

    async def main():
        return [await memory.read([b"".join(valid(wire, stream=stream))], status) for status in STATUSES]

    for status, found in zip(STATUSES, memory.world.run(main()), strict=True):
        assert found.text is None, status
        assert found.code, status


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("wire", WIRES)
def test_damaged_refusals_keep_the_class_of_their_status(wire, seed):
    """Error bodies of any content with status 500 are provider errors, never an exception of their reader."""
    memory, chance = Memory(wire, stream=False), random.Random(seed)
    body = json.dumps({"error": {"message": "no", "type": "server_error", "code": 5, "details": [{"reason": "x"}]}})

    kinds = [at_bytes, at_json]
    bodies = [chance.choice(kinds)(chance, [body.encode()]) for _ in range(150)]

    async def main():
        return [await memory.read([damaged], 500) for damaged in bodies]

    codes = {found.code for found in memory.world.run(main())}
    assert codes <= {"provider.server", "provider.overloaded", "provider.context_length"}


# -- over the socket


def raw_answer(body: bytes, *lines: str, status: str = "HTTP/1.1 200 OK") -> Answer:
    """An answer of exactly these head lines and bytes, after which the connection is closed."""
    return ("\r\n".join([status, *lines, "", ""]).encode("latin-1") + body, FIN)


GOOD = json.dumps(document("openai")).encode()
N = len(GOOD)
SSE = b"".join(events("openai", "fo", "ur"))
JSON = "content-type: application/json"
CHUNKED = "transfer-encoding: chunked"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (N, GOOD)
PACKED = gzip.compress(GOOD)

# Name, answer, and the text that a success must have; "never" where there must be none, "any" where both will do.
ODD: dict[str, tuple[Answer, str]] = {
    "length too large": (raw_answer(GOOD, JSON, f"content-length: {N + 9}"), "never"),
    "length too small": (raw_answer(GOOD, JSON, f"content-length: {N - 9}"), "never"),
    "length negative": (raw_answer(GOOD, JSON, "content-length: -5"), "never"),
    "length no number": (raw_answer(GOOD, JSON, "content-length: many"), "never"),
    "length beyond everything": (raw_answer(GOOD, JSON, f"content-length: {10**30}"), "never"),
    "two lengths": (raw_answer(GOOD, JSON, f"content-length: {N}", f"content-length: {N - 1}"), "never"),
    "length and chunks": (raw_answer(CHUNKS, JSON, CHUNKED, f"content-length: {N}"), "any"),
    "no length": (raw_answer(GOOD, JSON), "four"),
    "chunks": (raw_answer(CHUNKS, JSON, CHUNKED), "four"),
    "chunk size garbage": (raw_answer(b"zz\r\n" + CHUNKS, JSON, CHUNKED), "never"),
    "chunk size negative": (raw_answer(b"-1\r\n" + CHUNKS, JSON, CHUNKED), "never"),
    "chunk size huge": (raw_answer(b"f" * 30 + b"\r\n" + GOOD, JSON, CHUNKED), "never"),
    "chunk too long": (raw_answer(b"%x\r\n%s" % (N - 9, GOOD), JSON, CHUNKED), "never"),
    "chunk without end": (raw_answer(b"%x\r\n%s\r\n" % (N, GOOD), JSON, CHUNKED), "never"),
    "100 continue first": ((b"HTTP/1.1 100 Continue\r\n\r\n", *reply(document("openai"))), "four"),
    "103 hints first": ((b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", *reply(document("openai"))), "four"),
    "102 for ever": ((b"HTTP/1.1 102 Processing\r\n\r\n" * 2000, FIN), "never"),
    "101 switching": (raw_answer(GOOD, "upgrade: h2c", "connection: upgrade", status="HTTP/1.1 101 X"), "never"),
    "204": ((head(204), FIN), "never"),
    "204 with a body": (raw_answer(GOOD, JSON, status="HTTP/1.1 204 No Content"), "never"),
    "206": (raw_answer(GOOD, JSON, f"content-length: {N}", status="HTTP/1.1 206 Partial"), "never"),
    "304": ((head(304), FIN), "never"),
    "status 999": (raw_answer(GOOD, JSON, status="HTTP/1.1 999 What"), "never"),
    "status 99": (raw_answer(GOOD, JSON, status="HTTP/1.1 99 What"), "never"),
    "status 2000": (raw_answer(GOOD, JSON, status="HTTP/1.1 2000 OK"), "never"),
    "no reason": (raw_answer(GOOD, JSON, f"content-length: {N}", status="HTTP/1.1 200"), "four"),
    "HTTP/1.0": (raw_answer(GOOD, JSON, status="HTTP/1.0 200 OK"), "four"),
    "HTTP/0.9": ((GOOD, FIN), "never"),
    "HTTP/2 preface": ((b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", FIN), "never"),
    "header bomb": (raw_answer(GOOD, *(f"x-{n}: {'y' * 100}" for n in range(5000))), "any"),
    "one long header": (raw_answer(GOOD, "x: " + "y" * 300_000), "any"),
    "header without colon": (raw_answer(GOOD, "nothing"), "never"),
    "header with NUL": (raw_answer(GOOD, "x: a\0b"), "never"),
    "latin-1 header": (raw_answer(GOOD, JSON, "x-request-id: \xe9\xff", f"content-length: {N}"), "four"),
    "folded header": (raw_answer(GOOD, JSON, "x: a\r\n b", f"content-length: {N}"), "any"),
    "line feeds only": ((f"HTTP/1.1 200 OK\n{JSON}\ncontent-length: {N}\n\n".encode() + GOOD, FIN), "any"),
    "carriage returns only": ((f"HTTP/1.1 200 OK\r{JSON}\rcontent-length: {N}\r\r".encode() + GOOD, FIN), "never"),
    "byte order mark": (reply(b"\xef\xbb\xbf" + GOOD), "any"),
    "UTF-16": (reply(GOOD.decode().encode("utf-16")), "never"),
    "gzip": (reply(PACKED, content_encoding="gzip"), "four"),
    "half of a gzip": (reply(PACKED[: len(PACKED) // 2], content_encoding="gzip"), "never"),
    "gzip without its checksum": (reply(PACKED[:-8], content_encoding="gzip"), "any"),
    "gzip with a wrong checksum": (reply(PACKED[:-8] + b"\0" * 8, content_encoding="gzip"), "never"),
    "no gzip": (reply(GOOD, content_encoding="gzip"), "never"),
    "deflate": (reply(zlib.compress(GOOD), content_encoding="deflate"), "four"),
    "br": (reply(GOOD, content_encoding="br"), "never"),
    "unknown encoding": (reply(GOOD, content_encoding="x" * 5000), "never"),
    "text/plain": (reply(GOOD, content_type="text/plain"), "any"),
    "no content type": (raw_answer(GOOD, f"content-length: {N}"), "any"),
    "a second answer behind the first": ((*reply(document("openai")), *reply(document("openai", "five"))), "any"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_http_is_typed_or_read_rightly(server, name):
    """What HTTP permits is read, what it forbids is refused by type; never a hang, never another text."""
    answer, allowed = ODD[name]
    server.on("m", answer)
    outcome = Bench(server=server, timeout_s=1.0).call()
    outcome.holds()
    text = outcome.response.text if outcome.response else None
    assert text in {"never": (None,), "any": (None, "four")}.get(allowed, (allowed,)), repr(outcome.error)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_damaged_bytes_on_the_wire_are_typed_or_read_rightly(server, wire, stream):
    """60 answers damaged anywhere, heads and all, each over a connection: typed, in time, and no other text."""
    body = valid(wire, stream=stream)
    whole = list(streamed(body)) if stream else list(reply(b"".join(body)))
    raw = [b"".join(p for p in whole if isinstance(p, bytes))]
    cases = [at_bytes(random.Random(seed), raw) for seed in range(60)]
    server.on("m", *((case, FIN) for case in cases))
    bench = Bench(server=server, wire=wire, stream=stream, timeout_s=1.0, discipline={"breaker": NEVER})

    async def main():
        http = Http()
        outcomes = [await bench.timed(bench.chain(http, "m"), f"case-{n}") for n in range(len(cases))]
        await http.aclose()
        return outcomes

    good = "".join(mutate.TEXT)
    for case, outcome in zip(cases, asyncio.run(main()), strict=True):
        outcome.facts = bench.sink.facts
        assert outcome.elapsed_s <= 1.25
        assert outcome.error is None or isinstance(outcome.error, LLMError), repr(outcome.error)
        if outcome.error is not None:
            assert outcome.error.code != "provider.unexpected", repr(outcome.error)
        elif wire == "openai" and case.startswith(raw[0][:12]) and b"\r\n\r\n" in case:
            said = case.partition(b"\r\n\r\n")[2]
            assert outcome.response.text in (good, simple(wire, said, stream=stream))
    assert server.quiet()


def test_a_stream_of_one_huge_event_is_read_in_time_that_grows_with_its_size():
    """Twice the bytes in small packets take about twice the time: nothing is copied for every packet."""
    memory, times = Memory("openai", stream=True), []
    for size in (1_000_000, 2_000_000, 4_000_000):
        raw = b"".join([events("openai", "x" * size)[1], *closing("openai")])
        pieces = [raw[at : at + 4096] for at in range(0, len(raw), 4096)]
        start_s = time.process_time()
        found = memory.world.run(memory.read(pieces, slowest_s=60))
        times.append(time.process_time() - start_s)
        assert len(found.text) == size
    assert times[2] < 4 * times[1] + 0.05, times
    assert times[2] < 1.0, times
