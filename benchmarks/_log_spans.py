"""What one span costs, in a process of its own: prints CPU microseconds of each round as a line of JSON.

    python _log_spans.py TRACER ROUNDS SPANS

Each span has six attributes and stands under one parent, as a traced call of a model does.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ABOUT: dict[str, Any] = {
    "model": "openai:gpt",
    "item_id": "question 17",
    "prompt": "What is the capital of France, and since when?",
    "answer": "Paris, since the tenth century, with some years of exception.",
    "prompt_tokens": 24,
    "completion_tokens": 31,
}


@contextmanager
def ours() -> Iterator[Callable[[int], None]]:
    """Blocks of ours, counted by the tracer and kept in its history."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from workbench import trace_block

    def spans(number: int) -> None:
        for _ in range(number):
            with trace_block("model", "complete", ABOUT):
                pass

    with trace_block("study", "run"):
        yield spans


@contextmanager
def otel() -> Iterator[Callable[[int], None]]:
    """OpenTelemetry's own package, in batches to nobody."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nobody(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            pass

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nobody()))
    tracer = provider.get_tracer("benchmark")

    def spans(number: int) -> None:
        for _ in range(number):
            with tracer.start_as_current_span("complete", attributes=ABOUT):
                pass

    with tracer.start_as_current_span("run"):
        yield spans
    provider.shutdown()


@contextmanager
def mlflow() -> Iterator[Callable[[int], None]]:
    """MLflow, to a database of its own; a trace for each hundred spans, and its end belongs to their cost."""
    import mlflow

    def spans(number: int) -> None:
        for _ in range(number // 100):
            with mlflow.start_span("run"):
                for _ in range(100):
                    with mlflow.start_span("complete") as span:
                        span.set_attributes(ABOUT)
        mlflow.flush_trace_async_logging()

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.set_experiment("benchmark")
        yield spans


TRACERS = {"ours": ours, "otel": otel, "mlflow": mlflow}


def main(name: str, rounds: int, number: int) -> None:
    """Print what a span costs in each round."""
    costs = []
    with TRACERS[name]() as spans:
        spans(number)
        for _ in range(rounds):
            start_s = time.process_time()
            spans(number)
            costs.append((time.process_time() - start_s) / number * 1e6)
    print(json.dumps({"us": costs}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
