"""A provider whose model names pick its faults, in memory and in whatever time the event loop keeps.

What it does (a script of steps: wait, head, bytes, an end) is apart from how that reaches a client, so that the same
scripts can be played on a socket too. Every attempt is written down.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

TEXT = " ".join(f"{'abcdefghijklmnopqrst'[n % 20]}word{n}" for n in range(60))  # the one answer, 60 words
WORDS = TEXT.split()


# -- what a server can do with a connection


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers; length None: chunked."""

    status: int = 200
    headers: Mapping[str, str] | None = None
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Body:
    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """How it ends: `whole` as HTTP says, `fin` a plain close too early, `reset` a TCP reset, `refused` at once."""

    how: str


Step = Wait | Head | Body | End
Script = Iterable[Step]
WHOLE, FIN, RESET, REFUSED = End("whole"), End("fin"), End("reset"), End("refused")


@dataclass(slots=True)
class Seen:
    """One attempt as the provider saw it.

    left_s: when the client left before the script was over. end_s: when either side had done with it.
    """

    at_s: float
    model: str
    number: int
    stream: bool
    role: str
    size: int
    did: str
    key: str = ""
    left_s: float | None = None
    end_s: float | None = None


Answering = Callable[[httpx.Request], tuple[Seen, Script]]


class InMemory(httpx.AsyncBaseTransport):
    """Scripts played to a client in this process; what a broken connection means is told as httpcore tells it."""

    def __init__(self, answer: Answering, now_s: Callable[[], float]) -> None:
        self._answer, self._now_s = answer, now_s

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        seen, script = self._answer(request)
        steps = iter(script)
        try:
            for step in steps:
                match step:
                    case Wait(seconds):
                        await asyncio.sleep(seconds)
                    case Head(status, headers, length):
                        framing = (
                            {"transfer-encoding": "chunked"} if length is None else {"content-length": str(length)}
                        )
                        body = _Body(steps, seen, self._now_s)
                        return httpx.Response(status, headers={**(headers or {}), **framing}, stream=body)
                    case End("reset"):
                        seen.end_s = self._now_s()
                        raise httpx.ReadError("the connection was reset")
                    case End("refused"):
                        seen.end_s = self._now_s()
                        raise httpx.ConnectError("connection refused")
                    case _:
                        seen.end_s = self._now_s()
                        raise httpx.RemoteProtocolError("the server disconnected without sending a response")
        except asyncio.CancelledError:
            seen.left_s = seen.end_s = self._now_s()
            raise
        raise AssertionError("a script that says nothing")


class _Body(httpx.AsyncByteStream):
    def __init__(self, steps: Iterator[Step], seen: Seen, now_s: Callable[[], float]) -> None:
        self._steps, self._seen, self._now_s = steps, seen, now_s
        self._over = False

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        for step in self._steps:
            match step:
                case Wait(seconds):
                    await asyncio.sleep(seconds)
                case Body(data):
                    return data
                case End("whole"):
                    break
                case End(how):
                    self._over = True
                    if how == "reset":
                        raise httpx.ReadError("the connection was reset")
                    raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")
        self._over = True
        raise StopAsyncIteration

    async def aclose(self) -> None:
        if self._seen.end_s is None:
            self._seen.end_s = self._now_s()
            if not self._over:
                self._seen.left_s = self._seen.end_s


# -- the provider of the exam


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds of the faults, and how the twenty requests of the outage are spread."""

    retry_after_s: int = 2
    first_token_s: float = 20.0
    stall_s: float = 30.0
    silence_s: float = 120.0
    outage_s: float = 60.0
    word_s: float = 0.015
    requests: int = 20
    every_s: float = 4.0
    each_s: float = 30.0


FULL = Timings()
FAST = Timings(
    first_token_s=3.0, stall_s=4.0, silence_s=15.0, outage_s=6.0, word_s=0.005, requests=10, every_s=1.2, each_s=10.0
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, read."""

    model: str
    number: int
    since_s: float
    stream: bool
    usage: bool
    messages: tuple[Mapping[str, Any], ...]

    @property
    def rest(self) -> str:
        """What is left to say after a prefill by the caller."""
        last = self.messages[-1]
        said = str(last["content"])
        return TEXT[len(said) :].strip() if last["role"] == "assistant" and TEXT.startswith(said) else TEXT


class Wall:
    """The provider: answers by model name, counts attempts per model, and keeps its log since the last reset.

    word_s, when given, takes the place of the pause between two words.
    """

    def __init__(
        self, now_s: Callable[[], float], timings: Timings = FULL, word_s: Callable[[], float] | None = None
    ) -> None:
        self.timings = timings
        self.log: list[Seen] = []
        self._now_s = now_s
        self._word_s = word_s or (lambda: timings.word_s)
        self._start_s = now_s()
        self.transport = InMemory(self.answer, self.since_s)

    def since_s(self) -> float:
        """Seconds since the last reset."""
        return self._now_s() - self._start_s

    def reset(self) -> None:
        """Forget the attempts and begin to count the time anew."""
        self.log, self._start_s = [], self._now_s()

    def answer(self, request: httpx.Request) -> tuple[Seen, Script]:
        """The log's entry for a request, and the script to play."""
        since_s = self.since_s()
        if request.url.path.endswith("/models"):
            listed = _document({"object": "list", "data": [{"id": name, "object": "model"} for name in FAULTS]})
            return Seen(since_s, "", 0, False, "", 0, "models"), _whole(200, listed)
        document = json.loads(request.content)
        model, messages = str(document["model"]), tuple(document["messages"])
        asked = Asked(
            model=model,
            number=1 + sum(seen.model == model for seen in self.log),
            since_s=since_s,
            stream=bool(document.get("stream")),
            usage=bool((document.get("stream_options") or {}).get("include_usage")),
            messages=messages,
        )
        did, script = FAULTS.get(model, _unknown)(self, asked)
        size = sum(len(str(m["content"])) for m in messages)
        key = request.headers.get("idempotency-key", "")
        seen = Seen(since_s, model, asked.number, asked.stream, messages[-1]["role"], size, did, key)
        self.log.append(seen)
        return seen, script

    # -- scripts

    def healthy(self, asked: Asked) -> Script:
        """The whole answer, as one document or word by word."""
        if not asked.stream:
            return _whole(200, _answer(asked))
        return [Head(headers=SSE), *self.words(asked), *closing(asked), Body(_event("[DONE]")), WHOLE]

    def words(self, asked: Asked, count: int | None = None, *, bad_after: int | None = None) -> list[Step]:
        """The event of the role and those of the words; after `bad_after` words one whose JSON breaks off."""
        said = asked.rest.split()
        made: list[Step] = [Body(_piece(asked, {"role": "assistant", "content": ""}))]
        for index, word in enumerate(said[:count]):
            if index == bad_after:
                made.append(Body(b'data: {"id": "chatcmpl-1", "choices": \n\n'))
            made.append(Wait(self._word_s()))
            made.append(Body(_piece(asked, {"content": word if index == 0 else f" {word}"})))
        return made


def closing(asked: Asked) -> list[Step]:
    """The event with the finish reason and, where it was asked for, the one with the usage."""
    made: list[Step] = [Body(_piece(asked, {}, "stop"))]
    if asked.usage:
        made.append(Body(_event(json.dumps({"model": asked.model, "choices": [], "usage": _usage(asked)}))))
    return made


SSE = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()


def _piece(asked: Asked, delta: Mapping[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": asked.model, "choices": [choice]}
    return _event(json.dumps(chunk))


def _usage(asked: Asked) -> dict[str, int]:
    prompt = sum(len(str(m["content"]).split()) + 4 for m in asked.messages)
    said = len(asked.rest.split())
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}


def _answer(asked: Asked) -> bytes:
    message = {"role": "assistant", "content": asked.rest}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return _document({"id": "chatcmpl-1", "model": asked.model, "choices": [choice], "usage": _usage(asked)})


def _document(value: object) -> bytes:
    return json.dumps(value).encode()


def _whole(status: int, data: bytes, headers: Mapping[str, str] | None = None) -> Script:
    return [Head(status, {**JSON, **(headers or {})}, len(data)), Body(data), WHOLE]


def refusal(
    status: int, message: str, kind: str, code: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> Script:
    """An error in the form of OpenAI's."""
    about = {"message": message, "type": kind, "param": param, "code": code}
    return _whole(status, _document({"error": about}), headers)


# -- the faults, by model name

Fault = Callable[[Wall, Asked], tuple[str, Script]]


def _unknown(wall: Wall, asked: Asked) -> tuple[str, Script]:
    return "404", refusal(404, f"no model {asked.model}", "invalid_request_error", "model_not_found")


def _ok(wall: Wall, asked: Asked) -> tuple[str, Script]:
    return "ok", wall.healthy(asked)


def _no_prefill(wall: Wall, asked: Asked) -> tuple[str, Script]:
    if asked.messages[-1]["role"] == "assistant":
        return "prefill", refusal(400, "prefill is not supported", "invalid_request_error", "invalid_prefill")
    return _ok(wall, asked)


def _limited(wall: Wall, asked: Asked, **headers: str) -> tuple[str, Script]:
    return "429", refusal(429, "slow down", "rate_limit_error", "rate_limit_exceeded", headers=headers)


def _limited_once(wall: Wall, asked: Asked) -> tuple[str, Script]:
    if asked.number > 1:
        return _ok(wall, asked)
    return _limited(wall, asked, **{"retry-after": str(wall.timings.retry_after_s)})


def _server_once(wall: Wall, asked: Asked) -> tuple[str, Script]:
    return _ok(wall, asked) if asked.number > 1 else ("500", refusal(500, "oops", "server_error", "server_error"))


def _overloaded(wall: Wall, asked: Asked) -> tuple[str, Script]:
    return "503", refusal(503, "too busy", "server_error", "overloaded")


def _reset_once(wall: Wall, asked: Asked) -> tuple[str, Script]:
    return _ok(wall, asked) if asked.number > 1 else ("reset", [RESET])


def _silent(wall: Wall, asked: Asked) -> tuple[str, Script]:
    return "silence", [Wait(wall.timings.silence_s), FIN]


def _slow(wall: Wall, asked: Asked) -> tuple[str, Script]:
    late = Wait(wall.timings.first_token_s)
    head, *rest = wall.healthy(asked)
    return "slow", [head, late, *rest] if asked.stream else [late, head, *rest]


def _cut(wall: Wall, asked: Asked) -> tuple[str, Script]:
    if not asked.stream:
        data = _answer(asked)
        return "cut", [Head(200, JSON, len(data)), Body(data[: len(data) * 6 // 10]), FIN]
    return "cut", [Head(headers=SSE), *wall.words(asked, 40), FIN]


def _stall(wall: Wall, asked: Asked) -> tuple[str, Script]:
    silence = (Wait(wall.timings.stall_s), FIN)
    if not asked.stream:
        return "stall", [Head(200, JSON, len(_answer(asked))), *silence]
    return "stall", [Head(headers=SSE), *wall.words(asked, 20), *silence]


def _broken(wall: Wall, asked: Asked) -> tuple[str, Script]:
    if not asked.stream:
        data = _answer(asked)
        return "broken", _whole(200, data[: len(data) // 2] + b'"open')
    return "broken", [
        Head(headers=SSE), *wall.words(asked, bad_after=10), *closing(asked), Body(_event("[DONE]")), WHOLE
    ]  # fmt: skip


def _no_done(wall: Wall, asked: Asked) -> tuple[str, Script]:
    if not asked.stream:
        return _ok(wall, asked)
    return "no done", [Head(headers=SSE), *wall.words(asked), *closing(asked), WHOLE]


def _too_long(wall: Wall, asked: Asked) -> tuple[str, Script]:
    said = "this model takes at most 8192 tokens, the messages have 9631"
    return "400", refusal(400, said, "invalid_request_error", "context_length_exceeded", "messages")


def _filtered(wall: Wall, asked: Asked) -> tuple[str, Script]:
    return "400", refusal(400, "not allowed", "invalid_request_error", "content_policy_violation")


def _flap(code: str) -> Fault:
    def fault(wall: Wall, asked: Asked) -> tuple[str, Script]:
        if asked.since_s >= wall.timings.outage_s:
            return _ok(wall, asked)
        return "503", refusal(503, "down", "server_error", code)

    return fault


FAULTS: Mapping[str, Fault] = {
    "ok": _ok,
    "ok-noprefill": _no_prefill,
    "limited-once": _limited_once,
    "limited": _limited,
    "server-once": _server_once,
    "overloaded": _overloaded,
    "reset-once": _reset_once,
    "silent": _silent,
    "slow": _slow,
    "cut": _cut,
    "stall": _stall,
    "broken": _broken,
    "no-done": _no_done,
    "too-long": _too_long,
    "filtered": _filtered,
    "flap": _flap("service_unavailable"),
    "flap-overloaded": _flap("overloaded"),
}
