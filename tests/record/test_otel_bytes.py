"""Spans as OTLP bytes, read back with OpenTelemetry's own protobuf classes."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from workbench.errors import LLMError
from workbench.record.otel import SCHEMA_URL, Event, OtelSpan
from workbench.record.otlp import Encoder, rejected

SPAN = OtelSpan(
    name="chat m",
    trace_id=0x0123456789ABCDEF0123456789ABCDEF,
    span_id=0xFEDCBA9876543210,
    parent_id=0x11,
    start_unix_ns=1_700_000_000_000_000_001,
    end_unix_ns=1_700_000_000_250_000_002,
    client=True,
    ok=True,
    message=None,
    attributes={"s": "text", "i": 2**62, "f": 0.5, "b": True, "l": ["x", "y"]},
    events=(Event(name="e", unix_ns=1_700_000_000_000_000_005, attributes={"n": 1}),),
)


@pytest.fixture
def proto() -> Any:
    """The messages of a trace receiver."""
    reason = "the extra [otel] is not installed"
    return pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason=reason)


def test_ids_times_and_values_arrive_as_they_are(proto: Any):
    """Bytes of the ids in network order, whole nanoseconds, and each attribute with its own type."""
    request = proto.ExportTraceServiceRequest.FromString(Encoder().encode([SPAN]))
    (resource,) = request.resource_spans
    assert {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"] == "workbench"
    (scope,) = resource.scope_spans
    assert scope.scope.name == "workbench"
    assert resource.schema_url == scope.schema_url == SCHEMA_URL
    (span,) = scope.spans
    assert span.trace_id.hex() == "0123456789abcdef0123456789abcdef"
    assert (span.span_id.hex(), span.parent_span_id.hex()) == ("fedcba9876543210", "0000000000000011")
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1700000000000000001, 1700000000250000002)
    values = {a.key: a.value for a in span.attributes}
    assert (values["s"].string_value, values["i"].int_value, values["f"].double_value) == ("text", 2**62, 0.5)
    assert values["b"].bool_value is True
    assert [v.string_value for v in values["l"].array_value.values] == ["x", "y"]
    assert span.kind == 3  # SPAN_KIND_CLIENT
    assert span.status.code == 0  # STATUS_CODE_UNSET
    (event,) = span.events
    assert (event.name, event.time_unix_nano, event.attributes[0].value.int_value) == ("e", 1700000000000000005, 1)


def test_a_failed_root_of_this_machine(proto: Any):
    """No parent, the kind of an internal step, and the status of an error with its words."""
    made = replace(SPAN, parent_id=None, client=False, ok=False, message="it broke")
    request = proto.ExportTraceServiceRequest.FromString(Encoder().encode([made]))
    span = request.resource_spans[0].scope_spans[0].spans[0]
    assert span.parent_span_id == b""
    assert span.kind == 1  # SPAN_KIND_INTERNAL
    assert (span.status.code, span.status.message) == (2, "it broke")


def test_nothing_of_the_environment_is_sent(proto: Any, monkeypatch: pytest.MonkeyPatch):
    """OpenTelemetry's variables say something of a process that did not do the work, and may hold what is secret."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.token=canary")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "canary")
    body = Encoder().encode([SPAN])
    assert b"canary" not in body
    keys = {a.key for a in proto.ExportTraceServiceRequest.FromString(body).resource_spans[0].resource.attributes}
    assert keys == {"service.name", "service.version"}


def test_a_partial_success_is_read(proto: Any):
    """The number of rejected spans and the words; an empty or foreign body says that all were taken."""
    answer = proto.ExportTraceServiceResponse()
    assert rejected(answer.SerializeToString()) == (0, "")
    answer.partial_success.rejected_spans, answer.partial_success.error_message = 3, "too old"
    assert rejected(answer.SerializeToString()) == (3, "too old")
    for body in (b"{}", b"ok", b"\xff\xff\xff"):
        assert rejected(body) == (0, "")


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    """A missing library is one sentence and one command, not an ImportError."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.common.trace_encoder", None)
    with pytest.raises(LLMError, match="opentelemetry") as error:
        Encoder()
    assert (error.value.code, error.value.next_step) == ("setup.extra", "pip install 'workbench[otel]'")
