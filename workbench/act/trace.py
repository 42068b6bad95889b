"""Spans: what ran, for how long, under which parent.

The parent is kept in a context variable, so it is right under `gather`, task groups and nested calls. A span
is written when it closes, whether its body returned, raised or was cancelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from workbench.act.world import World
from workbench.errors import LLMError
from workbench.facts import Failure, Span


@dataclass(slots=True)
class OpenSpan:
    """A span that is still running; put what you learn into `attributes`, and a failure that is not raised."""

    trace_id: str
    span_id: str
    run_id: str | None
    attributes: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None


_current: ContextVar[OpenSpan | None] = ContextVar("workbench_span", default=None)


def current_span() -> OpenSpan | None:
    """The innermost open span of this task, or None."""
    return _current.get()


@contextmanager
def span(
    world: World,
    component: str,
    operation: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    run_id: str | None = None,
) -> Iterator[OpenSpan]:
    """A timed span around the body; on failure it keeps the error as a value and lets it pass."""
    parent = _current.get()
    here = OpenSpan(
        trace_id=parent.trace_id if parent else world.new_id(16),
        span_id=world.new_id(8),
        run_id=run_id or (parent.run_id if parent else None),
        attributes=dict(attributes or {}),
    )
    token = _current.set(here)
    start_ns, start_s = world.unix_ns(), world.now_s()
    try:
        yield here
    except BaseException as error:
        here.failure = failure_of(error)
        if isinstance(error, LLMError) and error.trace_id is None:
            error.trace_id = here.trace_id
        raise
    finally:
        _current.reset(token)
        world.sink.write(
            Span(
                trace_id=here.trace_id,
                span_id=here.span_id,
                parent_id=parent.span_id if parent else None,
                component=component,
                operation=operation,
                start_unix_ns=start_ns,
                duration_ms=(world.now_s() - start_s) * 1e3,
                ok=here.failure is None,
                failure=here.failure,
                attributes=here.attributes,
                run_id=here.run_id,
            )
        )


def failure_of(error: BaseException) -> Failure:
    """The error as a value."""
    if isinstance(error, LLMError):
        return Failure(
            kind=type(error).__name__,
            code=error.code,
            message=error.message,
            retryable=error.retryable,
            retry_after_s=getattr(error, "retry_after_s", None),
            status=getattr(error, "status", None),
        )
    return Failure(kind=type(error).__name__, code="untyped", message=str(error))
