"""What each column of the log is called in OpenTelemetry, and a span of the log in those words.

One version of the semantic conventions is spoken, SEMCONV: the last one that defines the GenAI names itself (later
ones only point to where they went). Names under `workbench.` are ours. SPANS and CALLS name every column of their
tables; a test holds them to that. Nothing here needs a library of OpenTelemetry: record/otlp.py writes the bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from workbench.canonical import clean_text, names_secret, redacted, redacted_json

SEMCONV = "1.41.1"
SCHEMA_URL = f"https://opentelemetry.io/schemas/{SEMCONV}"
MAX_CHARS = 4096  # of an attribute that is no prompt and no answer
EXACT = range(-(2**63), 2**63)  # whole numbers that the protocol can carry
_ID = {"trace_id": re.compile(r"[0-9a-f]{32}"), "span_id": re.compile(r"[0-9a-f]{16}")}
_ROLES = ("system", "developer", "user", "assistant", "tool")
# Called over no network, so that the span is of no client.
OFFLINE = ("recorded", "simulated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a column goes: names in OpenTelemetry, or none and the reason.

    texts: only when texts are asked for. attempt: on the event of an attempt and not on the span.
    """

    names: tuple[str, ...] = ()
    reason: str = ""
    texts: bool = False
    attempt: bool = False


def _to(*names: str, texts: bool = False, attempt: bool = False) -> Place:
    return Place(names=names, texts=texts, attempt=attempt)


def _out(reason: str) -> Place:
    return Place(reason=reason)


SPANS: Mapping[str, Place] = MappingProxyType(
    {
        "span_id": _to("span_id"),
        "trace_id": _to("trace_id"),
        "parent_id": _to("parent_span_id"),
        "run_id": _to("workbench.run.id"),
        "component": _to("workbench.component"),
        "operation": _to("workbench.operation"),
        "start_unix_ns": _to("start_time_unix_nano"),
        "duration_ms": _to("end_time_unix_nano"),
        "ok": _to("status.code"),
        "failure_kind": _to("workbench.failure.kind"),
        "failure_code": _to("error.type"),
        "failure_message": _to("status.message"),
        "attributes": _to("workbench.attribute.*"),
    }
)

PARAMS: Mapping[str, str] = MappingProxyType(
    {
        "temperature": "gen_ai.request.temperature",
        "top_p": "gen_ai.request.top_p",
        "top_k": "gen_ai.request.top_k",
        "max_tokens": "gen_ai.request.max_tokens",
        "max_completion_tokens": "gen_ai.request.max_tokens",
        "max_output_tokens": "gen_ai.request.max_tokens",
        "seed": "gen_ai.request.seed",
        "frequency_penalty": "gen_ai.request.frequency_penalty",
        "presence_penalty": "gen_ai.request.presence_penalty",
    }
)

CALLS: Mapping[str, Place] = MappingProxyType(
    {
        "span_id": _out("an attempt's id in the log; OpenTelemetry sees attempts as events of the call's span"),
        "trace_id": _out("the span's own"),
        "run_id": _out("the span's own"),
        "item_id": _to("workbench.item.id"),
        "provider": _to("gen_ai.provider.name"),
        "model": _to("gen_ai.request.model"),
        "request_key": _out("a hash of the texts, by which a guess of them could be confirmed"),
        "prompt_hash": _to("gen_ai.input.messages", texts=True),
        "params": _to(*dict.fromkeys(PARAMS.values())),
        "sample": _to("workbench.sample"),
        "source": _to("workbench.source"),
        "start_unix_ns": _to("time_unix_nano", attempt=True),
        "duration_ms": _to("workbench.duration_ms", attempt=True),
        "latency_ms": _to("workbench.latency_ms"),
        "ttft_ms": _to("gen_ai.response.time_to_first_chunk"),
        "prompt_tokens": _to("gen_ai.usage.input_tokens"),
        "completion_tokens": _to("gen_ai.usage.output_tokens"),
        "cost_usd": _to("workbench.cost_usd"),
        "finish_reason": _to("gen_ai.response.finish_reasons"),
        "response_hash": _to("gen_ai.output.messages", texts=True),
        "ok": _out("the span's own; of an attempt, workbench.status says it"),
        "failure_kind": _to("workbench.failure.kind"),
        "failure_code": _to("error.type"),
        "failure_message": _to("status.message"),
        "call_id": _out("the span_id of the call's span"),
        "attempt": _to("workbench.attempt", attempt=True),
        "final": _to("workbench.final", attempt=True),
        "member": _to("workbench.member"),
        "status": _to("workbench.status"),
        "possibly_billed": _to("workbench.possibly_billed"),
        "request_id": _to("workbench.request.id"),
        "served_model": _to("gen_ai.response.model"),
        "cached_tokens": _to("gen_ai.usage.cache_read.input_tokens"),
        "flags": _to("workbench.flags"),
        "idempotency_key": _out("of use to nobody but the provider that was sent it"),
        "attempts": _to("workbench.attempts"),
        "call_ms": _out("the duration of the span"),
        "booked_usd": _to("workbench.booked_usd"),
    }
)

# Where our short name is not the one that the conventions list.
PROVIDERS: Mapping[str, str] = MappingProxyType(
    {
        "gemini": "gcp.gemini", "google": "gcp.gemini", "vertex": "gcp.vertex_ai", "azure": "azure.ai.openai",
        "bedrock": "aws.bedrock", "mistral": "mistral_ai", "xai": "x_ai", "watsonx": "ibm.watsonx.ai",
    }
)  # fmt: skip

Value = str | bool | int | float | list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened inside a span, at a time in nanoseconds since 1970."""

    name: str
    unix_ns: int
    attributes: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class OtelSpan:
    """A span in the words of OpenTelemetry; ids as whole numbers, times in nanoseconds since 1970.

    client: it waited for another machine. message: why it failed, redacted; None where it did not.
    """

    name: str
    trace_id: int
    span_id: int
    parent_id: int | None
    start_unix_ns: int
    end_unix_ns: int
    client: bool
    ok: bool
    message: str | None
    attributes: Mapping[str, Value]
    events: tuple[Event, ...] = ()


def otel_span(span: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] = (), *, texts: bool = False) -> OtelSpan:
    """A row of `spans`, with the rows of its call, in the words of OpenTelemetry.

    rows: of `every_attempt` with this span's id as call_id, in order of attempt, at most one of them final; for
    texts they need `prompt` and `response` besides. A call of several attempts has an event for each.
    Its ids must be hexadecimal (16 and 32 digits) and its start in [0, 2**63), as the log's own code writes them.
    """
    call = next((row for row in rows if row["final"]), None)
    start, about = int(span["start_unix_ns"]), _span_attributes(span)
    message = span["failure_message"]
    name = f"{span['component']}.{span['operation']}"
    if call is not None:
        about |= _call_attributes(call)
        about["gen_ai.operation.name"] = "chat"
        name = f"chat {call['model']}"
        message = message or call["failure_message"]
        if texts:
            about |= _texts(call)
    return OtelSpan(
        name=_short(redacted(name)),
        trace_id=int(span["trace_id"], 16),
        span_id=int(span["span_id"], 16),
        parent_id=_id(span["parent_id"], "span_id"),
        start_unix_ns=start,
        end_unix_ns=start + _ns(span["duration_ms"]),
        client=call is not None and call["provider"] not in OFFLINE and call["source"] not in (*OFFLINE, "cache"),
        ok=bool(span["ok"]),
        message=None if span["ok"] else _short(redacted(message or "")),
        attributes=about,
        events=tuple(_attempt(row) for row in rows if row["attempt"]) if len(rows) > 1 else (),
    )


def is_sendable(span: Mapping[str, Any]) -> bool:
    """Whether the protocol can carry the row's ids and times."""
    ids = _id(span["span_id"], "span_id") and _id(span["trace_id"], "trace_id")
    start = span["start_unix_ns"]
    return bool(ids) and start is not None and 0 <= start < 2**62


def _id(text: str | None, kind: str) -> int | None:
    """The id as a number; None for one that is no such id, or the zero that means none."""
    return (int(text, 16) or None) if text and _ID[kind].fullmatch(text) else None


def _ns(duration_ms: float | None) -> int:
    return int(duration_ms * 1e6) if duration_ms is not None and 0 < duration_ms < 1e12 else 0


def _short(text: str) -> str:
    text = clean_text(text)
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"


def _value(value: Any) -> Value | None:
    """The value as the protocol carries it, texts redacted and cut; None for what is not sent."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if value in EXACT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _short(redacted(value))
    return _short(redacted_json(json.dumps(_unnamed(value), ensure_ascii=False)))


def _unnamed(value: Any) -> Any:
    """The value without what is named like a secret: in an object, or in a pair of a name and a text."""
    if isinstance(value, dict):
        return {
            key: "[redacted]" if names_secret(key) and not isinstance(part, int | float) else _unnamed(part)
            for key, part in value.items()
        }
    if isinstance(value, list):
        if len(value) == 2 and all(isinstance(part, str) for part in value) and names_secret(value[0]):
            return [value[0], "[redacted]"]
        return [_unnamed(part) for part in value]
    return value


def _kept(pairs: Mapping[str, Any]) -> dict[str, Value]:
    values = {name: _value(value) for name, value in pairs.items()}
    return {name: value for name, value in values.items() if value is not None}


def _span_attributes(span: Mapping[str, Any]) -> dict[str, Value]:
    own = _parsed(span["attributes"])
    # The name alone may say that a value is secret: `{"token": ...}`.
    found = {
        f"workbench.attribute.{_short(redacted(key))}": value for key, value in own.items() if not names_secret(key)
    }
    found |= {_name(SPANS, column): span[column] for column in ("run_id", "component", "operation")}
    return _kept(found | ({} if span["ok"] else _failure(span)))


def _name(places: Mapping[str, Place], column: str) -> str:
    return places[column].names[0]


def _failure(row: Mapping[str, Any]) -> dict[str, Any]:
    """The failure's code as error.type: few different ones, and the same in every run."""
    return {
        "error.type": row["failure_code"] or row["failure_kind"] or "_OTHER",
        _name(CALLS, "failure_kind"): row["failure_kind"],
    }


PLAIN = (
    "item_id", "model", "sample", "source", "latency_ms", "prompt_tokens", "completion_tokens", "cost_usd", "member",
    "status", "possibly_billed", "request_id", "served_model", "cached_tokens", "attempts", "booked_usd",
)  # fmt: skip


def _call_attributes(call: Mapping[str, Any]) -> dict[str, Value]:
    found = {_name(CALLS, column): call[column] for column in PLAIN}
    params = _parsed(call["params"])
    found |= {name: params[param] for param, name in PARAMS.items() if _is_number(params.get(param))}
    provider = call["provider"] or None
    found["gen_ai.provider.name"] = PROVIDERS.get(provider or "", provider)
    if call["ttft_ms"] is not None:
        found["gen_ai.response.time_to_first_chunk"] = call["ttft_ms"] / 1e3  # in seconds there
    kept = _kept(found | ({} if call["ok"] else _failure(call)))
    if call["finish_reason"]:
        kept["gen_ai.response.finish_reasons"] = [_short(call["finish_reason"])]
    if call["flags"]:
        kept["workbench.flags"] = call["flags"].split(",")
    return kept


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _attempt(row: Mapping[str, Any]) -> Event:
    about = _call_attributes({**row, "params": None})
    about |= _kept({_name(CALLS, c): row[c] for c in ("attempt", "final", "duration_ms")})
    if not row["ok"] and row["failure_message"]:
        about["workbench.failure.message"] = _short(redacted(row["failure_message"]))
    return Event(name="workbench.attempt", unix_ns=int(row["start_unix_ns"] or 0), attributes=about)


def _texts(call: Mapping[str, Any]) -> dict[str, Value]:
    """The texts in the conventions' form for spans: JSON of messages with their parts."""
    found: dict[str, Value] = {}
    if call["prompt"] is not None:
        asked = [{"role": role, "parts": [_part(text)]} for role, text in _messages(call["prompt"])]
        found["gen_ai.input.messages"] = clean_text(json.dumps(asked, ensure_ascii=False))
    if call["response"] is not None:
        reason = call["finish_reason"] or ("error" if not call["ok"] else "stop")
        said = [{"role": "assistant", "parts": [_part(call["response"])], "finish_reason": reason}]
        found["gen_ai.output.messages"] = clean_text(json.dumps(said, ensure_ascii=False))
    return found


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "content": text}


def _messages(prompt: str) -> list[tuple[str, str]]:
    """Roles and texts of a stored prompt: one of the user as it is, several as JSON pairs (record/rows.py)."""
    found: Any = None
    if prompt.startswith("[["):
        try:
            found = json.loads(prompt)
        except (ValueError, RecursionError):
            found = None
    pairs = isinstance(found, list) and all(
        isinstance(p, list) and len(p) == 2 and p[0] in _ROLES and isinstance(p[1], str) for p in found
    )
    return [(role, text) for role, text in found] if pairs else [("user", prompt)]


def _parsed(text: Any) -> dict[str, Any]:
    """The object of a JSON column; empty for anything else."""
    try:
        found = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def markdown() -> str:
    """The tables of the columns for docs/reference/otel.md."""
    parts = []
    for title, places in (("spans", SPANS), ("calls", CALLS)):
        lines = [f"| column of `{title}` | in OpenTelemetry |", "|---|---|"]
        for column, place in places.items():
            names = ", ".join(f"`{name}`" for name in place.names)
            note = " (with `--texts`)" if place.texts else " (of an attempt's event)" if place.attempt else ""
            lines.append(f"| `{column}` | {names + note if names else f'not sent: {place.reason}'} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
