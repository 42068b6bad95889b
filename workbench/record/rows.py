"""Facts as rows of the log: one function per kind, and the texts they refer to."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from workbench.canonical import canonical_json, clean_text, plain_scalar, text_hash
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
)

Row = list[Any]
_SECRET = re.compile(
    r"(?P<name>(?i:\bbearer\s+|\b(?:authorization|x-api-key|api[_-]?key|token|secret|password)[\"']?\s{0,3}[:=]\s{0,3}[\"']?"
    r"(?:bearer\s+)?))[^\s\"',;]{4,}|\b(?:sk|pk|rk|ghp|gho|xox[abp]|AIza)[-_]?[A-Za-z0-9_\-]{16,}"
)
ATTRIBUTES_LIMIT = 100_000
LONGEST_INT = 1024  # bits
DEEPEST = 50


def rows_of(fact: Fact) -> Iterator[Row]:
    """The rows of one fact, texts first; each starts with its table's name."""
    match fact:
        case Call():
            yield from _call(fact)
        case Span():
            yield _span(fact)
        case Decision():
            yield _decision(fact)
        case Score():
            yield ["scores", fact.run_id or "", fact.item_id, fact.model, fact.scorer, fact.value]
        case Contribution():
            yield _contribution(fact)
        case ItemAsked():
            yield from _item(fact)
        case RunStarted():
            yield ["runs", fact.run_id, fact.name, fact.source, to_json(fact.models), to_json(fact.spec),
                   fact.start_unix_ns]  # fmt: skip
        case RunEnded():
            yield ["run_ends", fact.run_id, fact.status, fact.end_unix_ns, fact.items,
                   fact.failure and to_json(_failure_dict(fact.failure))]  # fmt: skip


def to_json(value: Any) -> str:
    """JSON text of any value; what JSON cannot hold is kept as its repr."""
    return clean_text(canonical_json(_plain(value, 0)))


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


def _call(fact: Call) -> Iterator[Row]:
    prompt = prompt_text(fact.request)
    prompt_hash = text_hash(prompt)
    yield ["texts", prompt_hash, prompt]
    response, failure = fact.response, fact.failure
    response_hash = None
    if response is not None:
        text = clean_text(response.text)
        response_hash = text_hash(text)
        yield ["texts", response_hash, text]
    yield [
        "calls", fact.span_id, fact.trace_id, fact.run_id, fact.item_id, fact.provider, fact.model,
        fact.request.key, prompt_hash, to_json(fact.request.params), fact.request.sample,
        response.source if response else None, fact.start_unix_ns, fact.duration_ms,
        response.latency_ms if response else None, response.ttft_ms if response else None,
        response.usage.prompt_tokens if response else None,
        response.usage.completion_tokens if response else None,
        response.cost_usd if response else None, response.finish_reason if response else None,
        response_hash, failure is None, *_failure(failure),
    ]  # fmt: skip


def _span(fact: Span) -> Row:
    return [
        "spans", fact.span_id, fact.trace_id, fact.parent_id, fact.run_id, fact.component, fact.operation,
        fact.start_unix_ns, fact.duration_ms, fact.ok, *_failure(fact.failure), _bounded(fact.attributes),
    ]  # fmt: skip


def _decision(fact: Decision) -> Row:
    return [
        "decisions", fact.span_id, fact.run_id, fact.item_id, fact.request_key, fact.kind, fact.policy,
        fact.version, to_json(fact.params), to_json(fact.inputs), to_json(fact.output), fact.duration_us,
    ]  # fmt: skip


def _contribution(fact: Contribution) -> Row:
    part = fact.part
    return [
        "contributions", fact.run_id, fact.item_id, part.model, part.answer, part.quality, part.quality_source,
        part.weight, part.status, part.failure.code if part.failure else None,
    ]  # fmt: skip


def _item(fact: ItemAsked) -> Iterator[Row]:
    item = fact.item
    prompt = clean_text(item.prompt)
    yield ["texts", text_hash(prompt), prompt]
    yield ["items", fact.run_id, item.item_id, fact.position, item.task, text_hash(prompt), item.reference,
           to_json(item.metadata)]  # fmt: skip


def _failure(failure: Failure | None) -> tuple[str | None, str | None, str | None]:
    return (failure.kind, failure.code, redacted(clean_text(failure.message))) if failure else (None, None, None)


def redacted(text: str) -> str:
    """The text with what looks like a key, a token or an authorization header taken out."""
    return _SECRET.sub(lambda m: f"{m['name'] or ''}[redacted]", text)


def _failure_dict(failure: Failure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    return {"kind": failure.kind, "code": failure.code, "message": redacted(failure.message)}
