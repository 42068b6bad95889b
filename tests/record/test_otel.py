"""The log's columns in the words of OpenTelemetry."""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from workbench.record.otel import CALLS, PARAMS, PROVIDERS, SCHEMA_URL, SEMCONV, SPANS, is_sendable, markdown, otel_span
from workbench.record.schema import COLUMNS

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
START = 1_700_000_000_000_000_000
SPAN: dict[str, Any] = {
    "span_id": "00000000000000ff", "trace_id": "0000000000000000000000000000000a", "parent_id": "0000000000000010",
    "run_id": "r1", "component": "study", "operation": "item", "start_unix_ns": START, "duration_ms": 1.5, "ok": True,
    "failure_kind": None, "failure_code": None, "failure_message": None, "attributes": '{"item_id":"i7"}',
}  # fmt: skip
# Every column has a value that no other has, so that it can be found again.
CALL: dict[str, Any] = {
    "span_id": "00000000000000aa", "trace_id": "0000000000000000000000000000000b", "run_id": "run-of-call",
    "item_id": "item-1", "provider": "openai", "model": "model-1", "request_key": "key-of-request",
    "prompt_hash": "hash-of-prompt", "sample": 3, "source": "live", "start_unix_ns": START + 41, "duration_ms": 12.25,
    "params": '{"temperature":0.5,"top_p":0.75,"top_k":40,"max_tokens":77,"seed":5,"frequency_penalty":0.125,'
              '"presence_penalty":0.25,"user":"param-of-the-user"}',
    "latency_ms": 11.5, "ttft_ms": 250.0, "prompt_tokens": 101, "completion_tokens": 102, "cost_usd": 0.03,
    "finish_reason": "length", "response_hash": "hash-of-response", "ok": True, "failure_kind": None,
    "failure_code": None, "failure_message": None, "call_id": "00000000000000ff", "attempt": 1, "final": True,
    "member": "member-1", "status": "ok", "possibly_billed": False, "request_id": "req-1", "served_model": "served-1",
    "cached_tokens": 64, "flags": "model_mismatch,text_replaced", "idempotency_key": "idem-1", "attempts": 4,
    "call_ms": 99.5, "booked_usd": 0.04,
}  # fmt: skip
ABOUT_CALL = {
    "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "model-1",
    "gen_ai.request.temperature": 0.5, "gen_ai.request.top_p": 0.75, "gen_ai.request.top_k": 40,
    "gen_ai.request.max_tokens": 77, "gen_ai.request.seed": 5, "gen_ai.request.frequency_penalty": 0.125,
    "gen_ai.request.presence_penalty": 0.25, "gen_ai.response.model": "served-1",
    "gen_ai.response.finish_reasons": ["length"], "gen_ai.response.time_to_first_chunk": 0.25,
    "gen_ai.usage.input_tokens": 101, "gen_ai.usage.output_tokens": 102, "gen_ai.usage.cache_read.input_tokens": 64,
    "workbench.item.id": "item-1", "workbench.sample": 3, "workbench.source": "live", "workbench.latency_ms": 11.5,
    "workbench.cost_usd": 0.03, "workbench.member": "member-1", "workbench.status": "ok",
    "workbench.possibly_billed": False, "workbench.request.id": "req-1", "workbench.attempts": 4,
    "workbench.booked_usd": 0.04, "workbench.flags": ["model_mismatch", "text_replaced"],
}  # fmt: skip
ABOUT_SPAN = {
    "workbench.run.id": "r1", "workbench.component": "study", "workbench.operation": "item",
    "workbench.attribute.item_id": "i7",
}  # fmt: skip


# -- the table


@pytest.mark.parametrize(("table", "places"), [("spans", SPANS), ("calls", CALLS)])
def test_every_column_has_a_name_or_a_reason(table: str, places: Any):
    """Nothing of a row is forgotten: it is sent under a name, or left out for a reason that is written down."""
    assert tuple(places) == COLUMNS[table]
    for column, place in places.items():
        assert bool(place.names) != bool(place.reason), column


def test_a_name_is_ours_or_the_conventions():
    """What is not defined by the pinned version stands under `workbench.`, and nothing deprecated is used."""
    pytest.importorskip("opentelemetry.semconv", reason="the extra [otel] is not installed")
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
    from opentelemetry.semconv.attributes import error_attributes

    defined: dict[str, bool] = {}
    for module in (gen_ai_attributes, error_attributes):
        text = inspect.getsource(module)
        for name, said in re.findall(r'Final\s*=\s*\(?\s*"([^"]+)"\s*\)?\s*"""(.*?)"""', text, flags=re.S):
            defined[name] = "Deprecated" not in said
    fields = {"span_id", "trace_id", "parent_span_id", "start_time_unix_nano", "end_time_unix_nano", "time_unix_nano",
              "status.code", "status.message"}  # fmt: skip
    names = {name for place in (*SPANS.values(), *CALLS.values()) for name in place.names}
    names |= {"gen_ai.operation.name", *PARAMS.values()}
    theirs = {name for name in names - fields if not name.startswith("workbench.")}
    assert len(theirs) > 15
    assert {name for name in theirs if not defined.get(name)} == set()


def test_the_version_is_the_one_that_the_extra_pins():
    """The schema's address names the version of the installed conventions, and the extra takes no other."""
    pytest.importorskip("opentelemetry.semconv", reason="the extra [otel] is not installed")
    from opentelemetry.semconv._incubating.attributes.gen_ai_attributes import GenAiOperationNameValues as Operations
    from opentelemetry.semconv._incubating.attributes.gen_ai_attributes import GenAiProviderNameValues as Providers
    from opentelemetry.semconv.schemas import Schemas

    assert SCHEMA_URL == list(Schemas)[-1].value == f"https://opentelemetry.io/schemas/{SEMCONV}"
    package = "opentelemetry-semantic-conventions"
    extra = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["optional-dependencies"]["otel"]
    assert f"{package}=={metadata.version(package)}" in extra
    assert set(PROVIDERS.values()) <= {one.value for one in Providers}
    assert "chat" in {one.value for one in Operations}


def test_the_documentation_has_the_table():
    """docs/reference/otel.md shows what markdown() makes."""
    text = (PYPROJECT.parent / "docs" / "reference" / "otel.md").read_text("utf-8")
    shown = text.partition("<!-- columns -->\n")[2].partition("\n<!-- end of columns -->")[0]
    assert shown == markdown()
    assert SCHEMA_URL in text


# -- a span


def test_a_span_keeps_its_ids_its_parent_and_its_times():
    """1.5 ms are 1,500,000 ns; the ids are the log's, read as the hexadecimal numbers that they are."""
    made = otel_span(SPAN)
    assert (made.trace_id, made.span_id, made.parent_id) == (10, 255, 16)
    assert (made.start_unix_ns, made.end_unix_ns) == (START, START + 1_500_000)
    assert (made.name, made.ok, made.message, made.client, made.events) == ("study.item", True, None, False, ())
    assert made.attributes == ABOUT_SPAN


def test_secrets_are_taken_out_of_names_and_pairs():
    """A key in the place of an operation, and values that only their name shows to be secret."""
    secret, key = "hunter2-and-more", "sk-abcdefghijKLMNOPQRSTUVWXYZ123456"
    about = {"headers": [["api_key", secret], ["accept", "json"]], "deep": {"password": [secret], "n": 1}, key: 1}
    made = otel_span({**SPAN, "operation": key, "attributes": json.dumps(about)})
    assert made.name == "study.[redacted]"
    assert secret not in repr(made)
    assert key not in repr(made)
    assert json.loads(str(made.attributes["workbench.attribute.headers"]))[1] == ["accept", "json"]
    assert json.loads(str(made.attributes["workbench.attribute.deep"])) == {"password": "[redacted]", "n": 1}


def test_a_call_brings_the_genai_names():
    """A model's span has what its call says, a time to first token in seconds, and the name that the rules give it."""
    made = otel_span(SPAN, [CALL])
    assert made.name == "chat model-1"
    assert made.client
    assert made.attributes == ABOUT_SPAN | ABOUT_CALL
    assert made.events == ()


def test_what_the_table_sends_is_sent_and_what_it_leaves_out_is_not():
    """Every name of the table is found on the span or an attempt of it; no value of a column left out is anywhere."""
    failed = {"ok": False, "failure_kind": "LLMTimeoutError", "failure_code": "timeout.attempt",
              "failure_message": "slow"}  # fmt: skip
    rows = [{**CALL, **failed, "final": False}, {**CALL, "attempt": 2, "prompt": "asked", "response": "said"}]
    made = otel_span({**SPAN, **failed}, rows, texts=True)
    first = made.events[0]
    fields = {"span_id", "trace_id", "parent_span_id", "start_time_unix_nano", "end_time_unix_nano", "time_unix_nano",
              "status.code", "status.message", "workbench.attribute.*"}  # fmt: skip
    sent = {n for place in (*SPANS.values(), *CALLS.values()) for n in place.names} - fields
    assert sent == (set(made.attributes) | set(first.attributes)) & sent
    on_events = {n for place in CALLS.values() if place.attempt for n in place.names} - fields
    assert on_events <= set(first.attributes)
    assert not on_events & set(made.attributes)
    told = repr(made)
    for column in ("span_id", "trace_id", "run_id", "request_key", "idempotency_key", "call_ms"):
        assert CALLS[column].reason
        assert str(CALL[column]) not in told


def test_only_numbers_of_the_parameters_leave():
    """A parameter that the conventions do not know, or a text, may hold what the user wrote."""
    odd = {**CALL, "params": '{"stop":"canary-1","temperature":"canary-2","user":"canary-3","seed":true}'}
    made = otel_span(SPAN, [odd])
    assert "canary" not in repr(made)
    assert not {n for n in made.attributes if n.startswith("gen_ai.request.")} - {"gen_ai.request.model"}


@pytest.mark.parametrize(
    ("row", "client"),
    [({}, True), ({"provider": "simulated", "source": "simulated"}, False), ({"source": "cache"}, False),
     ({"provider": "recorded", "source": None}, False), ({"source": None}, True)],
)  # fmt: skip
def test_only_what_went_over_a_network_is_a_clients_span(row: dict[str, Any], client: bool):
    """A recorded, simulated or cached answer came from no other machine."""
    assert otel_span(SPAN, [{**CALL, **row}]).client is client


@pytest.mark.parametrize(("ours", "theirs"), [("gemini", "gcp.gemini"), ("openai", "openai"), ("my-own", "my-own")])
def test_a_provider_has_the_conventions_name_where_there_is_one(ours: str, theirs: str):
    """Others keep the name of the configuration."""
    assert otel_span(SPAN, [{**CALL, "provider": ours}]).attributes["gen_ai.provider.name"] == theirs


def test_a_failure_is_told_by_its_code_and_its_redacted_words():
    """error.type has few values; the words go into the status, without keys."""
    failed = {**SPAN, "ok": False, "failure_kind": "LLMProviderError", "failure_code": "provider.auth",
              "failure_message": "wrong key sk-canary0123456789abcdef"}  # fmt: skip
    made = otel_span(failed)
    assert (made.ok, made.message) == (False, "wrong key [redacted]")
    assert made.attributes["error.type"] == "provider.auth"
    assert made.attributes["workbench.failure.kind"] == "LLMProviderError"


def test_several_attempts_are_events_in_order():
    """The span has the final row; each attempt has its number, time, outcome and price; attempt 0 is none."""
    slow = {**CALL, "ok": False, "final": False, "status": "timeout", "failure_code": "timeout.attempt",
            "failure_kind": "LLMTimeoutError", "failure_message": "late", "model": "first"}  # fmt: skip
    ended = {**CALL, "attempt": 0, "model": "none"}
    made = otel_span(SPAN, [ended | {"final": False}, slow, {**CALL, "attempt": 2, "start_unix_ns": START + 99}])
    assert [(e.name, e.unix_ns) for e in made.events] == [
        ("workbench.attempt", START + 41), ("workbench.attempt", START + 99),
    ]  # fmt: skip
    assert [e.attributes["workbench.attempt"] for e in made.events] == [1, 2]
    assert [e.attributes["gen_ai.request.model"] for e in made.events] == ["first", "model-1"]
    assert made.events[0].attributes["error.type"] == "timeout.attempt"
    assert made.events[0].attributes["workbench.failure.message"] == "late"
    assert "error.type" not in made.events[1].attributes
    assert made.attributes["gen_ai.request.model"] == "model-1"


# -- texts


def test_texts_stay_unless_they_are_asked_for():
    """The rows may hold them: without the switch neither is in the span."""
    row = {**CALL, "prompt": "what the user asked", "response": "what the model said"}
    assert "what the" not in repr(otel_span(SPAN, [row]))
    sent = otel_span(SPAN, [row], texts=True).attributes
    assert json.loads(str(sent["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": "what the user asked"}]}
    ]
    assert json.loads(str(sent["gen_ai.output.messages"])) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "what the model said"}], "finish_reason": "length"}
    ]


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ('[["system","Be brief."],["user","How many?"]]', [("system", "Be brief."), ("user", "How many?")]),
        ('[["poet","Sing."]]', [("user", '[["poet","Sing."]]')]),
        ("[[1, 2], [3]]", [("user", "[[1, 2], [3]]")]),
        ("[[", [("user", "[[")]),
    ],
)
def test_several_messages_keep_their_roles(stored: str, said: list[tuple[str, str]]):
    """A conversation is stored as pairs; what only looks like one is the user's text."""
    sent = otel_span(SPAN, [{**CALL, "prompt": stored, "response": None}], texts=True).attributes
    found = json.loads(str(sent["gen_ai.input.messages"]))
    assert [(m["role"], m["parts"][0]["content"]) for m in found] == said
    assert "gen_ai.output.messages" not in sent


# -- values that do not fit


def attributes(**own: Any) -> dict[str, Any]:
    """What is sent of a span's own attributes."""
    sent = otel_span({**SPAN, "attributes": json.dumps(own)}).attributes
    prefix = "workbench.attribute."
    return {name.removeprefix(prefix): value for name, value in sent.items() if name.startswith(prefix)}


def test_an_attribute_of_any_kind_becomes_one_that_can_be_carried():
    """Nested values as JSON, nothing left out as null, numbers of any size, and no text without end."""
    assert attributes(a=1, b=2.5, c=True, d=None, e=[1, "x"], f={"g": 2}) == {
        "a": 1, "b": 2.5, "c": True, "e": '[1, "x"]', "f": '{"g": 2}',
    }  # fmt: skip
    assert attributes(n=2**63, m=-(2**63)) == {"n": str(2**63), "m": -(2**63)}
    assert attributes(x=float("inf")) == {}
    assert attributes(text="y" * 5000)["text"] == "y" * 4095 + "…"
    assert attributes(half="\ud83d") == {"half": "\ufffd"}


def test_an_attribute_that_is_secret_by_its_name_or_its_look_stays():
    """`token` names one; a key is known by its form wherever it stands."""
    assert attributes(token="canary-a", api_key="canary-b", password="canary-c", tokens=12) == {"tokens": 12}
    assert attributes(note="use sk-canary0123456789abcdef", deep={"at": ["sk-canary0123456789abcdef"]}) == {
        "note": "use [redacted]", "deep": '{"at":["[redacted]"]}',
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "[1]", "{", "null", None, "[" * 5000])
def test_attributes_that_are_no_object_are_none(text: str | None):
    """What cannot be read is left out, and the span goes."""
    sent = otel_span({**SPAN, "attributes": text}).attributes
    assert sent == {name: value for name, value in ABOUT_SPAN.items() if "attribute" not in name}


@pytest.mark.parametrize("duration", [None, -1.0, 0.0, 1e300])
def test_a_duration_that_is_none_ends_the_span_where_it_began(duration: float | None):
    """No span ends before it begins, or beyond what the protocol can say."""
    assert otel_span({**SPAN, "duration_ms": duration}).end_unix_ns == START


@pytest.mark.parametrize(
    ("column", "value"),
    [("span_id", "x"), ("span_id", "0" * 16), ("span_id", None), ("trace_id", "ab"), ("trace_id", "0" * 32),
     ("start_unix_ns", -1), ("start_unix_ns", 2**63), ("start_unix_ns", None)],
)  # fmt: skip
def test_ids_and_times_that_cannot_be_carried_are_known(column: str, value: Any):
    """Such a row is left out, and counted."""
    assert is_sendable(SPAN)
    assert not is_sendable({**SPAN, column: value})


def test_a_parent_that_is_no_id_is_no_parent():
    """The span goes without it."""
    for parent in (None, "", "0" * 16, "nobody"):
        assert otel_span({**SPAN, "parent_id": parent}).parent_id is None
