"""One call under one fault, with two well siblings beside it, and everything that must hold whatever happens.

`Bench.call` makes the call over real sockets, `Outcome.fails` and `Outcome.answers` check what the catalogue says of
it and, in the same go, the invariants that every entry carries.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import random
import re
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from faults.server import FaultServer, Seen, reply, streamed
from faults.shapes import document, events
from workbench.act.admission import Admission, Discipline
from workbench.act.failover import Chain
from workbench.act.http import Http
from workbench.act.lanes import Limits
from workbench.act.ledger import MemoryLedger
from workbench.act.live import HttpModel
from workbench.act.provider import AUTH_OF_WIRE, Provider
from workbench.act.secret import Secret
from workbench.act.trace import span
from workbench.act.world import MemorySink, World
from workbench.decide.retry import RetryPolicy
from workbench.errors import LLMError, LLMFailoverError
from workbench.facts import Call, Decision, Message, ModelCard, Request, Response, Span

SLACK_S = 0.25
CANARY = "sk-canary-0123456789abcdefghij"
PROMPT_USD, COMPLETION_USD = 1.0, 2.0  # per million tokens: micro-dollars per token
LIMIT = 1_000_000
SIBLINGS = ("well-1", "well-2")
NAMES = re.compile(  # a setting, a command, or a thing that one can look at or change
    r"[a-z]+_[a-z_]+|`workbench|max_tokens|\[failover\]|SemanticChunker|base_url|params|prompt|messages|parameter|key|"
    r"model|account|address|\.attempts|\.partial|rephrase|host"
)


def fast(retries: int = 0, **more: Any) -> RetryPolicy:
    """A policy whose waits are short."""
    return RetryPolicy(**{"max_retries": retries, "base_delay_s": 0.02, "max_delay_s": 0.1, **more})


@dataclass(kw_only=True)
class Bench:
    """How calls are made. models: the chain; each is a model's name, on `server` unless `bases` says otherwise."""

    server: FaultServer
    wire: str = "openai"
    stream: bool = False
    timeout_s: float = 2.0
    retries: int = 0
    models: Sequence[str] = ("m",)
    policy: RetryPolicy | None = None
    discipline: dict[str, Any] = field(default_factory=dict)
    cards: dict[str, ModelCard] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)
    http: dict[str, Any] = field(default_factory=dict)
    limits: Limits | None = None
    params: dict[str, Any] = field(default_factory=dict)
    prompt: str = "How much is 2+2?"
    draw: float | None = None
    seed: int = 7
    run_id: str | None = "r1"
    unlisted: Sequence[str] = ()
    key: str | None = CANARY

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        draw = chance.random if self.draw is None else lambda: self.draw
        self.sink = MemorySink()
        self.world = replace(World.real(self.sink), draw=draw)
        terms = {"timeout_s": self.timeout_s, "stream": self.stream, "retry": self.policy or fast(self.retries)}
        self.ledger = MemoryLedger({"run:*": LIMIT})
        self.admission = Admission(
            self.world,
            Discipline(**{**terms, **self.discipline}),
            ledger=self.ledger,
            limited=not self.unlisted,
            limits=lambda _: self.limits,
        )
        for name in SIBLINGS:
            self.server.on(name, self._well)

    def _well(self, seen: Seen) -> Any:
        text = f"{seen.model} is well"
        if self.stream:
            return streamed(events(self.wire, *re.findall(".{1,5}", text), served=seen.model))
        return reply(document(self.wire, text, served=seen.model))

    def card(self, name: str) -> ModelCard:
        """What is known of a model: a price, unless the test has given a card."""
        card = ModelCard(name=f"p:{name}", prompt_usd_per_mtok=PROMPT_USD, completion_usd_per_mtok=COMPLETION_USD)
        return self.cards.get(f"p:{name}", card)

    def chain(self, http: Http, *names: str) -> Chain:
        """A chain of these models under the bench's admission."""
        cards = {f"p:{n}": self.card(n) for n in names} | self.cards
        for name in self.unlisted:
            cards.pop(f"p:{name}", None)
        made = []
        for name in names:
            provider = Provider(
                name="p",
                wire=self.wire,  # type: ignore[arg-type]
                base_url=self.bases.get(name, self.server.url()),
                auth=AUTH_OF_WIRE[self.wire] if self.key else "none",  # type: ignore[index]
                key_env="FAULTS_KEY",
            )
            key = Secret(self.key, origin="FAULTS_KEY") if self.key else None
            made.append(HttpModel(provider, name, http, self.world, key=key, cards=cards))
        return Chain(self.admission, tuple(made))

    def request(self, name: str) -> Request:
        """A request that the log can tell apart by `name`."""
        return Request(messages=(Message(role="user", content=self.prompt),), params=self.params, item_id=name)

    def call(self, *, calls: int = 1, pause_s: float = 0.0) -> Outcome:
        """One call (or several, `pause_s` apart, of which the last is looked at) beside two well ones."""
        return asyncio.run(self._call(calls, pause_s))

    async def _call(self, calls: int, pause_s: float) -> Outcome:
        http = Http(**self.http)
        chain = self.chain(http, *self.models)
        start, made = len(self.sink.facts), None
        with span(self.world, "test", "run", run_id=self.run_id):
            for number in range(calls):
                await asyncio.sleep(pause_s if number else 0)
                siblings = [self.timed(self.chain(http, name), name) for name in SIBLINGS] if not number else []
                made, *others = await asyncio.gather(self.timed(chain, f"main-{number}"), *siblings)
                for name, other in zip(SIBLINGS, others, strict=False):
                    assert other.response is not None, f"{name} failed beside it: {other.error!r}"
                    assert other.response.text == f"{name} is well"
        assert made is not None
        await http.aclose()
        await settled()
        made.facts = self.sink.facts[start:]
        return made

    async def timed(self, chain: Chain, name: str) -> Outcome:
        """One call through a chain, whatever becomes of it."""
        start_s = time.perf_counter()
        made = Outcome(self, name)
        try:
            made.response = await chain.complete(self.request(name))
        except Exception as error:
            made.error = error
        made.elapsed_s = time.perf_counter() - start_s
        return made

    def streaming(self, *, leave_after: int | None = None) -> Outcome:
        """One call whose text is consumed piece by piece, left after so many pieces."""
        return asyncio.run(self._streaming(leave_after))

    async def _streaming(self, leave_after: int | None) -> Outcome:
        http = Http(**self.http)
        made = Outcome(self, "main-0")
        start_s = time.perf_counter()
        with span(self.world, "test", "run", run_id=self.run_id):
            try:
                async with aclosing(self.chain(http, *self.models).stream(self.request("main-0"))) as pieces:
                    async for piece in pieces:
                        made.pieces.append(piece)
                        if len(made.pieces) == leave_after:
                            break
            except Exception as error:
                made.error = error
        made.elapsed_s = time.perf_counter() - start_s
        await http.aclose()
        await settled()
        made.facts = list(self.sink.facts)
        return made

    def worst_micro(self) -> int:
        """What one attempt may cost at most: each byte of the prompt a token, and the longest answer."""
        prompt = len(self.prompt.encode()) + 8
        limit = self.params.get("max_tokens") or 4096
        return math.ceil(prompt * PROMPT_USD + limit * COMPLETION_USD)


@dataclass
class Outcome:
    """What became of the call, and what was recorded of it."""

    bench: Bench
    name: str
    response: Response | None = None
    error: Exception | None = None
    elapsed_s: float = 0.0
    pieces: list[str] = field(default_factory=list)
    facts: list[Any] = field(default_factory=list)

    @property
    def rows(self) -> list[Call]:
        """The rows of this call, in the order in which they were written."""
        return [f for f in self.facts if isinstance(f, Call) and f.item_id == self.name]

    @property
    def asked(self) -> list[Seen]:
        """The requests of this call that the server saw."""
        return [s for s in self.bench.server.seen if s.key == self.rows[0].idempotency_key]

    @property
    def waits(self) -> list[float]:
        """The delays that the retries of this call were given."""
        made = [f for f in self.facts if isinstance(f, Decision) and f.kind == "retry" and f.item_id == self.name]
        return [f.output["delay_s"] for f in made if f.output["action"] == "retry"]

    def answers(self, text: str, *, attempts: int = 1) -> Response:
        """The call succeeded with this text after so many attempts, and every invariant holds."""
        assert self.error is None, f"it failed: {self.error!r}"
        assert self.response is not None
        assert self.response.text == text
        self.holds()
        assert [r.status for r in self.rows if r.attempt][-1] == "ok"
        assert len(self.rows) == attempts
        return self.response

    def fails(self, kind: type[LLMError], code: str, *, attempts: int = 1, caused: bool = True) -> LLMError:
        """The call raised exactly this after so many attempts, and every invariant holds."""
        assert self.response is None, f"it answered: {self.response!r}"
        assert type(self.error) is kind, repr(self.error)
        assert isinstance(self.error, LLMError)
        assert self.error.code == code, repr(self.error)
        self.holds()
        assert len([r for r in self.rows if r.attempt]) == attempts
        if caused:
            assert self.error.__cause__ is not None
            assert not isinstance(self.error.__cause__, LLMError) or kind is LLMFailoverError
        return self.error

    # -- the invariants

    def holds(self) -> None:
        """All invariants."""
        limit_s = self.bench.admission.discipline.timeout_s or math.inf
        assert self.elapsed_s <= limit_s + SLACK_S, f"{self.elapsed_s:.3f} s"
        if self.error is not None:
            self._typed()
        self._logged()
        self._billed()
        self._clean()

    def _typed(self) -> None:
        error = self.error
        assert isinstance(error, LLMError), repr(error)
        assert error.next_step
        assert len(error.next_step) <= 160, error.next_step
        assert NAMES.search(error.next_step), error.next_step
        assert "\n" not in error.next_step
        assert isinstance(error.retryable, bool)
        assert error.model, "no model"
        assert error.trace_id, "no trace id"
        assert re.fullmatch("[0-9a-f]{32}", error.trace_id)
        assert {r.trace_id for r in self.rows} == {error.trace_id}
        tried = [r for r in self.rows if r.attempt]
        assert [(a.number, a.code) for a in error.attempts] == [
            (r.attempt, r.failure.code if r.failure else None) for r in tried
        ]
        assert all(a.start_s >= 0 and a.duration_ms >= 0 for a in error.attempts)
        assert f"next: {error.next_step}" in error.__notes__

    def _logged(self) -> None:
        rows = self.rows
        assert rows, "no row"
        assert len({r.call_id for r in rows}) == 1
        assert [r.final for r in rows] == [False] * (len(rows) - 1) + [True]
        tried = [r for r in rows if r.attempt]
        assert [r.attempt for r in tried] == list(range(1, len(tried) + 1))
        assert len({r.span_id for r in rows}) == len(rows)
        assert all(r.status in ("ok", "error", "timeout", "cancelled", "refused") for r in rows)
        assert all((r.response is None) != (r.failure is None) for r in rows)
        keys = {r.idempotency_key for r in rows}
        assert len(keys) == 1
        assert None not in keys
        sent = [r for r in tried if was_sent(r)]
        assert len(self.asked) == len(sent), f"{len(self.asked)} requests were seen, {len(sent)} rows were sent"
        assert [s.model for s in self.asked] == [r.model for r in sent] or "main-0" not in sent[0].member
        spans = [f for f in self.facts if isinstance(f, Span) and f.attributes.get("item_id") == self.name]
        assert len(spans) == 1
        assert spans[0].span_id == rows[0].call_id
        final = rows[-1]
        assert spans[0].ok == (final.status == "ok")

    def _billed(self) -> None:
        bench = self.bench
        worst, spent, uncertain = bench.worst_micro(), 0, 0
        for row in (f for f in bench.sink.facts if isinstance(f, Call) and f.attempt):
            cost = row.response.cost_usd if row.response else row.failure.cost_usd if row.failure else None
            booked = worst if cost is None else math.ceil(round(cost * 1e6, 3))
            if row.failure is not None and not row.failure.possibly_billed:
                booked = 0
            spent += booked
            uncertain += booked if row.failure is not None or cost is None else 0
        for scope, account in bench.ledger.balances().items():
            assert account.reserved == 0, f"{account.reserved} still reserved in {scope}"
            assert account.limit is None or account.spent <= account.limit
        account = bench.ledger.balance(f"run:{bench.run_id}")
        assert (account.spent, account.uncertain) == (spent, uncertain)

    def _clean(self) -> None:
        bench = self.bench
        assert bench.server.quiet(), f"{bench.server.open_now} connections are still open"
        gc.collect()  # what was not closed warns here, in the test that left it
        told = "".join(map(repr, (self.response, self.error, getattr(self.error, "__notes__", ""), *self.facts)))
        told += json.dumps(self.error.as_dict()) if isinstance(self.error, LLMError) else ""
        chain, error = [], self.error
        while error is not None and len(chain) < 10:
            chain.append(repr(error))
            error = error.__cause__ or error.__context__  # type: ignore[assignment]
        assert CANARY not in told + "".join(chain)


async def settled() -> None:
    """Return when this task is the only one; what needs more than a few turns of the loop is a leak."""
    for _ in range(10):
        if len(asyncio.all_tasks()) == 1:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"tasks left over: {asyncio.all_tasks()}")


def was_sent(row: Call) -> bool:
    """Whether the request of an attempt has left, as its row tells it."""
    unsent = ("provider.connection", "provider.dns", "provider.tls", "provider.protocol")
    return row.failure is None or row.failure.possibly_billed or row.failure.code not in unsent


def in_memory(answer: Any) -> httpx.MockTransport:
    """A transport that answers from memory: `answer` takes the request and gives the response."""
    return httpx.MockTransport(answer)
