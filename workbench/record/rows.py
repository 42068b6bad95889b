"""Facts as rows of the log: one function per kind, and the texts they refer to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import orjson

from workbench.canonical import canonical_json, clean_text, plain_scalar, redacted, redacted_json, text_hash
from workbench.facts import (
    Call,
    Contribution,
    Decision,
    Fact,
    Failure,
    ItemAsked,
    Request,
    RunEnded,
    RunStarted,
    Score,
    Span,
    Usage,
)

Row = list[Any]
ATTRIBUTES_LIMIT = 100_000
LONGEST_INT = 1024  # bits
DEEPEST = 50
_FLAT = (str, int, bool, type(None))


def rows_of(fact: Fact) -> list[Row]:
    """The rows of one fact, texts first; each starts with its table's name."""
    return _ROWS[type(fact)](fact)


def to_json(value: Any) -> str:
    """JSON text of any value, keys sorted; what JSON cannot hold is kept as its repr."""
    plain = dict(value) if type(value) is MappingProxyType else value
    if type(plain) is dict and _is_flat(plain):
        try:
            return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS).decode()
        except TypeError:  # half a character, or a long integer
            pass
    return clean_text(canonical_json(_plain(plain, 0)))


def _is_flat(value: dict[Any, Any]) -> bool:
    """Whether it holds texts, truth values, finite numbers and nothing else: most do, and take the short way."""
    for key, part in value.items():
        if type(key) is not str or not (type(part) in _FLAT or (type(part) is float and part - part == 0)):
            return False
    return True


def _bounded(value: Any) -> str:
    """The same with at most ATTRIBUTES_LIMIT characters: for notes, never for what decisions are made from."""
    text = to_json(value)
    return text if len(text) <= ATTRIBUTES_LIMIT else to_json({"cut": text[: ATTRIBUTES_LIMIT // 2]})


def _plain(value: Any, depth: int) -> Any:
    """The value in JSON's types; a part that has none becomes its repr, and its neighbours stay as they are."""
    try:
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int):
            return value if value.bit_length() <= LONGEST_INT else _safe_repr(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else repr(value)
        if depth > DEEPEST:
            return _safe_repr(value)
        if isinstance(value, Mapping):
            return {_key(k): _plain(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_plain(v, depth + 1) for v in value]
        return _plain(plain_scalar(value), depth + 1)
    except Exception:  # whatever a foreign object does must not break the call that is being logged
        return _safe_repr(value)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else _safe_repr(key)


def _safe_repr(value: Any) -> str:
    try:
        return repr(value)[:10_000]
    except Exception as error:  # the same
        return f"<{type(value).__name__}: repr failed with {type(error).__name__}>"


def prompt_text(request: Request) -> str:
    """The stored form of what was asked: the prompt itself, or JSON when there are several messages."""
    if len(request.messages) == 1 and request.messages[0].role == "user":
        return clean_text(request.messages[0].content)
    return clean_text(canonical_json([[m.role, m.content] for m in request.messages]))


def _call(fact: Call) -> list[Row]:
    prompt = prompt_text(fact.request)
    prompt_hash = text_hash(prompt)
    rows: list[Row] = [["texts", prompt_hash, prompt]]
    response, failure = fact.response, fact.failure
    response_hash = None
    said = response.text if response is not None else failure.partial if failure is not None else None
    if said is not None:
        text = clean_text(said)
        response_hash = text_hash(text)
        rows.append(["texts", response_hash, text])
    usage = response.usage if response else (failure.usage if failure else None) or Usage()
    rows.append([
        "calls", fact.span_id, fact.trace_id, fact.run_id, fact.item_id, fact.provider, fact.model,
        fact.request.key, prompt_hash, redacted_json(to_json(fact.request.params)), fact.request.sample,
        response.source if response else None, fact.start_unix_ns, fact.duration_ms,
        response.latency_ms if response else None, response.ttft_ms if response else None,
        usage.prompt_tokens, usage.completion_tokens,
        response.cost_usd if response else failure.cost_usd if failure else None,
        response.finish_reason if response else None,
        response_hash, failure is None, *_failure(failure), fact.call_id or fact.span_id, fact.attempt, fact.final,
        fact.member or fact.model, fact.status, bool(failure and failure.possibly_billed),
        response.request_id if response else failure.request_id if failure else None,
        response.served_model if response else None, usage.cached_tokens,
        ",".join(response.flags) if response and response.flags else None, fact.idempotency_key,
        fact.attempts, fact.call_ms, fact.booked_usd,
    ])  # fmt: skip
    return rows


def _span(fact: Span) -> list[Row]:
    return [[
        "spans", fact.span_id, fact.trace_id, fact.parent_id, fact.run_id, fact.component, fact.operation,
        fact.start_unix_ns, fact.duration_ms, fact.ok, *_failure(fact.failure), _bounded(fact.attributes),
    ]]  # fmt: skip


def _decision(fact: Decision) -> list[Row]:
    return [[
        "decisions", fact.span_id, fact.run_id, fact.item_id, fact.request_key, fact.kind, fact.policy,
        fact.version, to_json(fact.params), to_json(fact.inputs), to_json(fact.output), fact.duration_us,
    ]]  # fmt: skip


def _contribution(fact: Contribution) -> list[Row]:
    part = fact.part
    return [[
        "contributions", fact.run_id, fact.item_id, part.model, part.answer, part.quality, part.quality_source,
        part.weight, part.status, part.failure.code if part.failure else None,
    ]]  # fmt: skip


def _item(fact: ItemAsked) -> list[Row]:
    item = fact.item
    prompt = clean_text(item.prompt)
    return [
        ["texts", text_hash(prompt), prompt],
        ["items", fact.run_id, item.item_id, fact.position, item.task, text_hash(prompt), item.reference,
         to_json(item.metadata)],
    ]  # fmt: skip


def _score(fact: Score) -> list[Row]:
    return [["scores", fact.run_id or "", fact.item_id, fact.model, fact.scorer, fact.value]]


def _run_started(fact: RunStarted) -> list[Row]:
    return [[
        "runs", fact.run_id, fact.name, fact.source, to_json(fact.models), to_json(fact.spec), fact.start_unix_ns,
    ]]  # fmt: skip


def _run_ended(fact: RunEnded) -> list[Row]:
    return [[
        "run_ends", fact.run_id, fact.status, fact.end_unix_ns, fact.items,
        fact.failure and to_json(_failure_dict(fact.failure)), fact.cpu_s, fact.peak_rss_bytes,
    ]]  # fmt: skip


_ROWS: Mapping[type[Fact], Callable[[Any], list[Row]]] = {
    Call: _call,
    Span: _span,
    Decision: _decision,
    Score: _score,
    Contribution: _contribution,
    ItemAsked: _item,
    RunStarted: _run_started,
    RunEnded: _run_ended,
}


def _failure(failure: Failure | None) -> tuple[str | None, str | None, str | None]:
    return (failure.kind, failure.code, redacted(clean_text(failure.message))) if failure else (None, None, None)


def _failure_dict(failure: Failure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    return {"kind": failure.kind, "code": failure.code, "message": redacted(failure.message)}
