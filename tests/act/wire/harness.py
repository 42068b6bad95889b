"""Models that follow a script, models over a transport in memory, and what every call must leave behind."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from workbench.act.admission import Admission, Discipline
from workbench.act.failover import Chain
from workbench.act.http import Http
from workbench.act.ledger import MemoryLedger
from workbench.act.live import HttpModel
from workbench.act.provider import Provider
from workbench.act.secret import Secret
from workbench.act.world import World
from workbench.decide.breaker import Breaker
from workbench.decide.classify import error_of
from workbench.decide.retry import RetryPolicy
from workbench.errors import LLMError
from workbench.facts import Call, Decision, ModelCard, Request, Response, Span, Usage

REQUEST = Request.of("How many?", item_id="i1")  # 9 bytes: 3 + 4 tokens estimated, 9 + 8 at most
KEY = "sk-canary-0123456789abcdef&<x>"
NO_RETRY = RetryPolicy(max_retries=0)
STEADY = Breaker(minimum_calls=10_000, window_calls=10_000)  # a breaker that stays out of the way

# One prompt token is 1 micro-dollar, one of the answer 2: the worst case of REQUEST is 17 + 2 * 100 = 217.
WORST_MICRO = 217


def priced(name: str, window: int | None = None) -> ModelCard:
    """A card of 1 and 2 US dollars per million tokens, and answers of at most 100 tokens."""
    return ModelCard(
        name=name,
        prompt_usd_per_mtok=1.0,
        completion_usd_per_mtok=2.0,
        max_output_tokens=100,
        context_window=window,
    )


@dataclass(frozen=True)
class Step:
    """One attempt: wait, give pieces, wait again, then answer, raise or call."""

    does: Any = "42"
    after_s: float = 0.0
    pieces: tuple[str, ...] = ()
    every_s: float = 0.0
    cost_usd: float | None = None


def failing(code: str, **more: Any) -> Step:
    """An attempt that fails with one of our codes."""
    return Step(error_of(code, f"failed with {code}", **more))


@dataclass
class Scripted:
    """A LiveModel whose attempts follow the steps, the last one for ever; `seen` are the terms of each attempt."""

    name: str
    world: World
    steps: Sequence[Step] = (Step(),)
    card: ModelCard = field(init=False)
    window: int | None = None
    seen: list[Any] = field(default_factory=list)
    under_way: int = 0
    most: int = 0

    def __post_init__(self) -> None:
        self.card = priced(self.name, self.window)

    async def complete(self, request: Request) -> Response:
        """Not used by a chain."""
        raise AssertionError("a chain asks a live model by attempt()")

    async def attempt(
        self,
        request: Request,
        terms: Any,
        on_text: Callable[[str], None] | None = None,
        on_send: Callable[[], None] | None = None,
    ) -> Response:
        """What the next step says, within the terms; the request leaves at once."""
        self.seen.append(terms)
        if on_send is not None:
            on_send()
        step = self.steps[min(len(self.seen), len(self.steps)) - 1]
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        given: list[str] = []
        try:
            async with asyncio.timeout(terms.timeout_s):
                return await self._done(step, request, on_text, given)
        except TimeoutError as error:
            if isinstance(error, LLMError):
                raise
            partial = "".join(given) or None
            raise error_of("timeout.deadline", f"{self.name} is late", model=self.name, partial=partial) from error
        finally:
            self.under_way -= 1

    async def _done(
        self, step: Step, request: Request, on_text: Callable[[str], None] | None, given: list[str]
    ) -> Response:
        await asyncio.sleep(step.after_s)
        for piece in step.pieces:
            given.append(piece)
            if on_text is not None:
                on_text(piece)
            await asyncio.sleep(step.every_s)
        if isinstance(step.does, BaseException):
            # A new one each time, as a provider's answer is: attempts and trace are written on it.
            made = step.does
            raise type(made)(*made.args) if not isinstance(made, LLMError) else _again(made, self.name)
        if isinstance(step.does, str):
            usage = Usage(prompt_tokens=10, completion_tokens=5)
            cost_usd = 20e-6 if step.cost_usd is None else step.cost_usd
            return answer(self.name, step.does, request, usage=usage, cost_usd=cost_usd)
        return step.does


def _again(error: LLMError, name: str) -> LLMError:
    build, arguments = error.__reduce__()
    made = build(*arguments)
    made.model = name
    return made


def answer(name: str, text: str, request: Request = REQUEST, **more: Any) -> Response:
    """A live model's response."""
    return Response(request_key=request.key, model=name, text=text, source="live", **more)


@dataclass
class Plain:
    """A model that is no LiveModel: it knows nothing of terms."""

    name: str
    does: Any = "42"
    after_s: float = 0.0

    async def complete(self, request: Request) -> Response:
        """What it was given, returned or raised, after virtual seconds."""
        await asyncio.sleep(self.after_s)
        if isinstance(self.does, BaseException):
            raise self.does
        return answer(self.name, self.does, request) if isinstance(self.does, str) else self.does


def shared(world: World, *, ledger: Any = None, limits: Any = lambda _: None, limited: bool = True, **more: Any) -> Any:
    """An Admission whose breaker stays out of the way and which keeps accounts, unless told otherwise."""
    more = {"breaker": STEADY, "retry": RetryPolicy(base_delay_s=0.01), **more}
    accounts = MemoryLedger({}) if ledger is None else ledger
    return Admission(world, Discipline(**more), ledger=accounts, limited=limited, limits=limits)


def rows(world: World, kind: type = Call) -> list[Any]:
    """The facts of one kind, in the order in which they were written."""
    return [fact for fact in world.sink.facts if isinstance(fact, kind)]


def raised(world: World, coroutine: Any) -> LLMError:
    """The LLMError that a coroutine ends with; whatever else it does fails the test."""
    try:
        result = world.run(coroutine)
    except LLMError as error:
        return error
    raise AssertionError(f"nothing was raised, but {result!r} returned")


def check_log(world: World, ledger: MemoryLedger | None = None) -> dict[str, list[Call]]:
    """The attempts of each call, after checking what holds for every call however it ended."""
    calls: dict[str, list[Call]] = defaultdict(list)
    for row in rows(world):
        calls[row.call_id].append(row)
    for attempts in calls.values():
        sent = [a.attempt for a in attempts if a.attempt]
        assert sorted(sent) == list(range(1, len(sent) + 1)), "an attempt is lost or doubled"
        assert [a.final for a in attempts].count(True) == 1, "exactly one row of a call is final"
        assert attempts[-1].final, "the final row comes last"
        assert len({a.idempotency_key for a in attempts}) == 1
        assert all(len(a.trace_id) == 32 and a.duration_ms >= 0 for a in attempts)
    spans = {s.span_id: s for s in rows(world, Span) if s.operation == "complete"}
    assert set(spans) == set(calls), "one span per call"
    names = [row.span_id for row in rows(world)]
    assert len(set(names)) == len(names), "no row is told twice"
    if ledger is not None:
        assert all(account.reserved == 0 for account in ledger.balances().values()), "money is still set aside"
    return calls


def check_error(error: LLMError, code: str, *, attempts: int | None = None) -> None:
    """What holds for every error that reaches a caller."""
    assert isinstance(error, LLMError)
    assert error.code == code
    assert 0 < len(error.next_step) <= 160
    assert error.model
    assert error.trace_id is not None
    assert len(error.trace_id) == 32
    assert isinstance(error.retryable, bool)
    if attempts is not None:
        assert len(error.attempts) == attempts


def told(error: BaseException) -> str:
    """Everything that an error shows: its texts, its values and its traceback."""
    values = repr(vars(error)) if hasattr(error, "__dict__") else ""
    return "\n".join([str(error), repr(error), values, *traceback.format_exception(error)])


# -- over HTTP, in memory


@dataclass
class Drip(httpx.AsyncByteStream):
    """A body that arrives in pieces after virtual seconds, and notes whether it was closed."""

    pieces: Iterable[bytes | BaseException]
    every_s: float = 0.0
    closed: bool = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            await asyncio.sleep(self.every_s)
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    async def aclose(self) -> None:
        """Note that nobody listens any more."""
        self.closed = True


@dataclass
class Server:
    """A transport's other side: keeps what it received and gives the next of its answers, the last for ever."""

    answers: Sequence[Any]
    requests: list[httpx.Request] = field(default_factory=list)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        made = self.answers[min(len(self.requests), len(self.answers)) - 1]
        made = made() if callable(made) else made
        if isinstance(made, BaseException):
            raise made
        if isinstance(made, float):
            await asyncio.sleep(made)
            raise AssertionError("waited for in vain")
        return made

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The documents that were sent."""
        return [json.loads(r.content) for r in self.requests]


def document(made: Any, status: int = 200, **headers: str) -> Callable[[], httpx.Response]:
    """A whole answer, made anew for each request."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: httpx.Response(status, json=made, headers=named)


def events(*documents: Any, done: bool = True) -> bytes:
    """Server-sent events, with the [DONE] of the OpenAI format."""
    lines = [f"data: {d if isinstance(d, str) else json.dumps(d)}\n\n" for d in documents]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def streamed(*documents: Any, done: bool = True) -> Callable[[], httpx.Response]:
    """A streamed answer in one piece, made anew for each request."""
    return lambda: stream_of([events(*documents, done=done)])


def stream_of(pieces: Iterable[bytes | BaseException], every_s: float = 0.0) -> httpx.Response:
    """A response that arrives in pieces."""
    body = Drip(pieces, every_s)
    return httpx.Response(200, stream=body, headers={"content-type": "text/event-stream"})


def wired(world: World, server: Any, wire: str = "openai", *, name: str = "gpt", **more: Any) -> HttpModel:
    """A model of the provider `p` with a key, whose requests go to `server`."""
    auth = {"openai": "bearer", "anthropic": "x-api-key", "gemini": "x-goog-api-key"}[wire]
    settings = {"key_env": "P_KEY", "auth": auth, **more.pop("provider", {})}
    provider = Provider(name="p", wire=wire, base_url="http://127.0.0.1:9/v1", **settings)
    cards = more.pop("cards", {f"p:{name}": priced(f"p:{name}")})
    key = more.pop("key", Secret(KEY, origin="P_KEY"))
    longest = more.pop("longest", 2**20)
    http = Http(transport=httpx.MockTransport(server), max_response_bytes=longest)
    return HttpModel(provider, name, http, world, key=key, cards=cards)


def chat(content: Any = "42", **more: Any) -> dict[str, Any]:
    """A whole answer of the OpenAI format; fields of the message, the choice or the document by `more`."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    made: dict[str, Any] = {"id": "c1", "model": "gpt", "choices": [choice], "usage": usage}
    choice["message"].update(more.pop("message", {}))  # type: ignore[attr-defined]
    choice.update(more.pop("choice", {}))
    made.update(more)
    return {name: value for name, value in made.items() if value is not ...}


def piece(content: Any = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One event of an OpenAI stream."""
    return {"model": "gpt", "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}], **more}


def chain(world: World, *models: Any, **more: Any) -> Chain:
    """A chain of models under an admission of their own."""
    return Chain(shared(world, **more), models)


def decisions(world: World, kind: str = "retry") -> list[Decision]:
    """The decisions of one kind."""
    return [d for d in rows(world, Decision) if d.kind == kind]
