"""Spans as the bytes of OTLP/HTTP, written by OpenTelemetry's own encoder: the one home of its library.

Its exporter is not used: it takes a redirect for success, does not look whether spans were rejected, reads headers
from the environment unasked, and brings an HTTP client of its own. What is sent is its encoder's work all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from workbench.errors import LLMError
from workbench.record.otel import SCHEMA_URL, OtelSpan

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

CONTENT_TYPE = "application/x-protobuf"


def check_installed() -> None:
    """Do nothing where the extra is installed; LLMError setup.extra where it is not."""
    try:
        import opentelemetry.exporter.otlp.proto.common.trace_encoder
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError as error:
        raise LLMError(
            f"spans are to be sent to OpenTelemetry, and its library is not here ({error.name or error})",
            code="setup.extra",
            next_step="pip install 'workbench[otel]'",
        ) from error


class Encoder:
    """Writes spans as export requests, all under one resource; raises LLMError setup.extra without the extra."""

    def __init__(self) -> None:
        check_installed()
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        version = metadata.version("workbench")
        # Not Resource.create: it would add what the environment says of this process, which did not do the work.
        self._resource: Resource = Resource({"service.name": "workbench", "service.version": version}, SCHEMA_URL)
        self._scope: InstrumentationScope = InstrumentationScope("workbench", version, SCHEMA_URL)

    def encode(self, spans: Sequence[OtelSpan]) -> bytes:
        """The spans as one export request."""
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

        return bytes(encode_spans([self._readable(span) for span in spans]).SerializeToString())

    def _readable(self, span: OtelSpan) -> Any:
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        def context(span_id: int) -> SpanContext:
            return SpanContext(span.trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

        return ReadableSpan(
            name=span.name,
            context=context(span.span_id),
            parent=None if span.parent_id is None else context(span.parent_id),
            resource=self._resource,
            attributes=dict(span.attributes),
            events=[Event(e.name, dict(e.attributes), e.unix_ns) for e in span.events],
            kind=SpanKind.CLIENT if span.client else SpanKind.INTERNAL,
            # OK is the word of somebody who looked at it; a span that only did not fail stays unset.
            status=Status(StatusCode.UNSET) if span.ok else Status(StatusCode.ERROR, span.message),
            start_time=span.start_unix_ns,
            end_time=span.end_unix_ns,
            instrumentation_scope=self._scope,
        )


def rejected(body: bytes) -> tuple[int, str]:
    """How many spans a receiver says it did not take, and its words; (0, "") for an answer that does not say."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    answer = ExportTraceServiceResponse()
    try:
        answer.ParseFromString(body)
    except Exception:  # a receiver may answer 200 with any body, JSON too; the status is what counts
        return 0, ""
    partial = answer.partial_success
    return max(0, int(partial.rejected_spans)), str(partial.error_message)
