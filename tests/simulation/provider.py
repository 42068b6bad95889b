"""The providers of a simulated world: three wire formats, whole and streamed, with the faults of the plan."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from functools import lru_cache
from typing import Any

import httpx

from tests.exam.wall import (
    FIN,
    JSON,
    REFUSED,
    RESET,
    SSE,
    WHOLE,
    Body,
    Head,
    InMemory,
    Script,
    Seen,
    Step,
    Wait,
    refusal,
)
from tests.simulation.plan import STATUSES, ModelPlan, Outage, Plan

PROMPT_TOKENS = 7
LIE = 4_000  # tokens reported for a short answer: more than was set aside, less than what is called impossible
TRUE_UNIX_S = 1_700_000_000.0  # what the providers' clocks say at the beginning


def text_of(model: ModelPlan) -> tuple[str, ...]:
    """The pieces of the answer that the model gives to everything."""
    return tuple(f"{model.model} piece {number}. " for number in range(model.pieces))


class Providers:
    """All providers of a plan behind one transport, with the log of what they saw."""

    def __init__(self, plan: Plan, now_s: Callable[[], float]) -> None:
        self.seen: list[Seen] = []
        self._plan, self._now_s = plan, now_s
        self._models = {(m.provider, m.model): m for m in plan.models}
        self._chance = random.Random(f"providers {plan.seed}")
        self.transport = InMemory(self._answer, now_s)

    def _answer(self, request: httpx.Request) -> tuple[Seen, Script]:
        document = json.loads(request.content)
        provider, path = request.url.host.partition(".")[0], request.url.path
        gemini = path.rpartition("/")[2].partition(":")
        model = self._models[provider, str(document.get("model") or gemini[0])]
        stream = bool(document.get("stream")) or gemini[2].startswith("stream")
        outage = self._outage(model)
        fault = outage.fault if outage else "ok"
        script = FAULTS[fault](model, stream, outage.amount if outage else 0.0, self)
        key = request.headers.get("idempotency-key", "")
        seen = Seen(self._now_s(), model.name, len(self.seen), stream, "user", len(request.content), fault, key)
        self.seen.append(seen)
        return seen, script

    def _outage(self, model: ModelPlan) -> Outage | None:
        now_s = self._now_s()
        return next((o for o in self._plan.outages if o.model == model.name and o.start_s <= now_s < o.end_s), None)

    def chance(self) -> float:
        """A draw of the providers' own."""
        return self._chance.random()

    def date_in(self, seconds: float) -> str:
        """A date of HTTP, by the providers' clocks, which never jump."""
        return formatdate(TRUE_UNIX_S + self._now_s() + seconds, usegmt=True)


# -- the formats


def openai_whole(model: ModelPlan, said: str, usage: tuple[int, int] | None) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    return {"id": "c1", "model": model.model, "choices": [choice], **_openai_usage(usage)}


def openai_events(model: ModelPlan, pieces: Sequence[str], usage: tuple[int, int] | None) -> list[Any]:
    head = {"id": "c1", "model": model.model}
    made: list[Any] = [{**head, "choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    made.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage:
        made.append({**head, "choices": [], **_openai_usage(usage)})
    return [*made, "[DONE]"]


def _openai_usage(usage: tuple[int, int] | None) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}} if usage else {}


def anthropic_whole(model: ModelPlan, said: str, usage: tuple[int, int] | None) -> dict[str, Any]:
    made = {"type": "message", "id": "a1", "model": model.model, "content": [{"type": "text", "text": said}]}
    counts = {"usage": {"input_tokens": usage[0], "output_tokens": usage[1]}} if usage else {}
    return {**made, "stop_reason": "end_turn", **counts}


def anthropic_events(model: ModelPlan, pieces: Sequence[str], usage: tuple[int, int] | None) -> list[Any]:
    start = {"id": "a1", "model": model.model, **({"usage": {"input_tokens": usage[0]}} if usage else {})}
    last = {"usage": {"output_tokens": usage[1]}} if usage else {}
    return [
        {"type": "message_start", "message": start},
        *[{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": p}} for p in pieces],
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, **last},
        {"type": "message_stop"},
    ]


def gemini_whole(
    model: ModelPlan, said: str, usage: tuple[int, int] | None, finish: str | None = "STOP"
) -> dict[str, Any]:
    candidate = {"content": {"parts": [{"text": said}]}, **({"finishReason": finish} if finish else {})}
    counts = {"promptTokenCount": usage[0], "candidatesTokenCount": usage[1]} if usage else None
    return {"modelVersion": model.model, "candidates": [candidate], **({"usageMetadata": counts} if counts else {})}


def gemini_events(model: ModelPlan, pieces: Sequence[str], usage: tuple[int, int] | None) -> list[Any]:
    last = len(pieces) - 1
    return [
        gemini_whole(model, piece, usage if n == last else None, "STOP" if n == last else None)
        for n, piece in enumerate(pieces)
    ]


WHOLES: Mapping[str, Callable[..., dict[str, Any]]] = {
    "openai": openai_whole,
    "anthropic": anthropic_whole,
    "gemini": gemini_whole,
}
EVENTS: Mapping[str, Callable[..., list[Any]]] = {
    "openai": openai_events,
    "anthropic": anthropic_events,
    "gemini": gemini_events,
}


@lru_cache(maxsize=4096)
def document(wire: str, name: str, pieces: int, usage: tuple[int, int] | None) -> bytes:
    """A whole answer."""
    model = _stub(wire, name, pieces)
    return json.dumps(WHOLES[wire](model, "".join(text_of(model)), usage)).encode()


@lru_cache(maxsize=4096)
def events(wire: str, name: str, pieces: int, usage: tuple[int, int] | None) -> tuple[bytes, ...]:
    """The events of a streamed answer."""
    model = _stub(wire, name, pieces)
    made = EVENTS[wire](model, text_of(model), usage)
    return tuple(f"data: {e if isinstance(e, str) else json.dumps(e)}\n\n".encode() for e in made)


def _stub(wire: str, name: str, pieces: int) -> ModelPlan:
    """The part of a model that its answers depend on."""
    return ModelPlan(
        provider="", wire=wire, model=name, prices=None, window=None, max_output=None, latency_s=0.0, piece_s=0.0,
        pieces=pieces, limits=None,
    )  # fmt: skip


# -- healthy and less so


def usage_of(model: ModelPlan) -> tuple[int, int]:
    """The tokens that an honest answer reports."""
    return PROMPT_TOKENS, model.pieces


def healthy(
    model: ModelPlan,
    stream: bool,
    *,
    usage: tuple[int, int] | None,
    latency_s: float | None = None,
    piece_s: float | None = None,
) -> list[Step]:
    """An answer with all its steps."""
    wait = Wait(model.latency_s if latency_s is None else latency_s)
    if not stream:
        data = document(model.wire, model.model, model.pieces, usage)
        return [wait, Head(200, JSON, len(data)), Body(data), WHOLE]
    made: list[Step] = [Head(headers=SSE), wait]
    pause = Wait(model.piece_s if piece_s is None else piece_s)
    for data in events(model.wire, model.model, model.pieces, usage):
        made += (Body(data), pause) if pause.seconds else (Body(data),)
    return [*made, WHOLE]


def _ok(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
    return healthy(model, stream, usage=usage_of(model))


def _status(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
    status = STATUSES[int(amount * len(STATUSES))]
    if status in (302, 204):
        return [Head(status, {"location": "http://elsewhere.invalid/"}, 0), WHOLE]
    return [Wait(model.latency_s), *refusal(status, "no", "an_error", f"code_{status}")]


def _refusal(status: int, code: str) -> Fault:
    return lambda model, stream, amount, world: [Wait(model.latency_s), *refusal(status, "no", "an_error", code)]


def _limited(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
    after = ("0", "1", "2.5", "7", "100", "nonsense")[int(amount * 6)]
    return refusal(429, "slow down", "rate_limit_error", "rate_limit_exceeded", headers={"retry-after": after})


def _limited_date(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
    when = {"retry-after": world.date_in(20 * amount)}
    return refusal(429, "slow down", "rate_limit_error", "rate_limit_exceeded", headers=when)


def _inside(how: Step, *, silent_s: float = 0.0) -> Fault:
    """A whole answer of which `amount` arrives before the connection ends as told."""

    def fault(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
        silence = (Wait(silent_s), how)
        if not stream:
            data = document(model.wire, model.model, model.pieces, usage_of(model))
            part = data[: int(amount * (len(data) - 1))]
            return [Wait(model.latency_s), Head(200, JSON, len(data)), Body(part), *silence]
        told = b"".join(events(model.wire, model.model, model.pieces, usage_of(model))[: model.pieces])
        return [Head(headers=SSE), Wait(model.latency_s), Body(told[: int(amount * len(told))]), *silence]

    return fault


def _ends_early(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
    """A stream that ends in the middle as if nothing were missing."""
    if not stream:
        return [FIN]
    told = events(model.wire, model.model, model.pieces, usage_of(model))[: model.pieces - 1]
    return [Head(headers=SSE), Wait(model.latency_s), *map(Body, told[: 1 + int(amount * model.pieces)]), WHOLE]


def _slow(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
    return healthy(model, stream, usage=usage_of(model), latency_s=40.0 * amount)


def _drip(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
    return healthy(model, stream, usage=usage_of(model), piece_s=12.0 * amount)


def _malformed(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
    wrong = b'{"choices": 7, "content": {}, "candidates": null}'
    data = (b"<html>portal</html>", b"", b"[1, 2]", wrong)[int(amount * 4)]
    return [Head(200, JSON, len(data)), Body(data), WHOLE]


def _broken_event(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
    head, *rest = healthy(model, stream, usage=usage_of(model))
    if not stream:
        return _malformed(model, stream, amount, world)
    at = int(amount * len(rest))
    return [head, *rest[:at], Body(b'data: {"a": \n\n'), *rest[at:]]


def _error_event(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
    kind = ("overloaded_error", "server_error", "rate_limit_error", "invalid_request_error", "x")[int(amount * 5)]
    data = json.dumps({"type": "error", "error": {"type": kind, "message": "inside"}}).encode()
    if not stream:
        return [Head(200, JSON, len(data)), Body(data), WHOLE]
    told = events(model.wire, model.model, model.pieces, usage_of(model))[: int(amount * (model.pieces + 1))]
    return [Head(headers=SSE), *map(Body, told), Body(b"data: " + data + b"\n\n"), WHOLE]


def _empty(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
    if stream:
        return [Head(headers=SSE), Wait(model.latency_s), WHOLE]
    data = json.dumps(WHOLES[model.wire](model, "", usage_of(model))).encode()
    return [Head(200, JSON, len(data)), Body(data), WHOLE]


def _no_usage(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
    return healthy(model, stream, usage=None)


def _lie(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
    return healthy(model, stream, usage=(PROMPT_TOKENS, LIE))


def _flaky(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
    if world.chance() < amount:
        return refusal(500, "no", "server_error", "server_error")
    return _ok(model, stream, amount, world)


def _whole_instead(model: ModelPlan, stream: bool, amount: float, world: Providers) -> Script:
    """A whole answer where a stream was asked for."""
    return healthy(model, False, usage=usage_of(model))


Fault = Callable[[ModelPlan, bool, float, Providers], Script]
FAULTS: Mapping[str, Fault] = {
    "ok": _ok,
    "status": _status,
    "limited": _limited,
    "limited_date": _limited_date,
    "quota": _refusal(429, "insufficient_quota"),
    "context": _refusal(400, "context_length_exceeded"),
    "filtered": _refusal(400, "content_policy_violation"),
    "refused": lambda *_: [REFUSED],
    "reset": lambda *_: [RESET],
    "fin": lambda *_: [FIN],
    "cut": _inside(FIN),
    "reset_inside": _inside(RESET),
    "silent": lambda *_: [Wait(200.0), FIN],
    "stall": _inside(FIN, silent_s=200.0),
    "slow": _slow,
    "drip": _drip,
    "malformed": _malformed,
    "broken_event": _broken_event,
    "error_event": _error_event,
    "empty": _empty,
    "no_usage": _no_usage,
    "lie": _lie,
    "flaky": _flaky,
    "whole_instead": _whole_instead,
    "ends_early": _ends_early,
}
