"""Spans: what ran, for how long, under which parent.

The parent is kept in a context variable, so it is right under `gather`, task groups and nested calls. A span closes
once, whether its body returned, raised or was cancelled; then it is counted by a tracer (act/tracer.py) and written.

Where to: a span of the package to the sink of its world; a block to where the span around it is written. A block with
nothing around it is written where the first span inside it was, else to the sink attached to the tracer (that of the
Workbench opened last), else it is only remembered.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import time
import weakref
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Any

from workbench.act.aggregate import DEFAULT_WORLD
from workbench.act.context import DEFAULT_COMPONENT
from workbench.act.metadata import copied, kept, shown, shown_name
from workbench.act.performance import PerformanceMetric
from workbench.act.tracer import LONGEST_NAME, PerformanceTracer, as_number, bad, checked_text, performance_tracer
from workbench.act.world import World
from workbench.canonical import MAX_TEXT, redacted, text_of
from workbench.errors import LLMError
from workbench.facts import Fact, Failure, Sink, Span, Usage

_STEP = 0x9E3779B97F4A7C15  # odd, so that 2^64 numbers in a row have different last 64 bits
_LOW, _ALL = 2**64 - 1, 2**128 - 1
_NO_NUMBERS: Mapping[str, float] = MappingProxyType({})
_REAL_ID, _NOWHERE = DEFAULT_WORLD.new_id, DEFAULT_WORLD.sink
_next_number: Callable[[], int]
_clock_s, _clock_ns = time.perf_counter, time.time_ns


def _reseed() -> None:
    """Begin a new series of numbers: in a new process, and in a forked one."""
    global _next_number  # noqa: PLW0603
    _next_number = itertools.count(int.from_bytes(os.urandom(16), "big"), _STEP).__next__


_reseed()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reseed)

INNERMOST: ContextVar[OpenSpan | None] = ContextVar("workbench_span", default=None)


class OpenSpan:
    """A span, which its `with` or `async with` opens and closes, once.

    Put what you learn into `attributes` (or `metadata`, the same), numbers into `metric`, and a failure that is not
    raised into `failure`. facts: written with the span, in one batch: for what is known at its very end.
    duration_ms: of the whole; 0 before it has closed. start_unix_ns: 0 before it has opened. metrics: the numbers given
    so far. is_open: entered, and not closed; never where tracing was off.
    Entering a second time raises LLMValidationError validation.input.
    """

    # Ids are numbers until somebody reads them: text costs more than all else that is done with most of them.
    __slots__ = (
        "_about", "_always", "_facts", "_key", "_last_sink", "_parent", "_parent_key", "_sink", "_start_s", "_token",
        "_trace", "_tracer", "_world", "component", "duration_ms", "failure", "is_open", "metrics", "operation",
        "run_id", "start_unix_ns",
    )  # fmt: skip

    _about: dict[Any, Any] | None
    _facts: list[Fact] | None
    _key: int | str | None
    _parent: OpenSpan | None
    _parent_key: int | str | None
    _last_sink: weakref.ref[Sink] | None
    _sink: Sink | None
    _start_s: float
    _token: Token[OpenSpan | None] | None
    _trace: int | str
    duration_ms: float
    failure: Failure | None
    metrics: Mapping[str, float]
    run_id: str | None
    start_unix_ns: int

    def __init__(
        self,
        component: str,
        operation: str,
        about: dict[Any, Any] | None,
        tracer: PerformanceTracer,
        world: World | None = None,
        run_id: str | None = None,
    ) -> None:
        if len(component) + len(operation) > LONGEST_NAME:
            component, operation = component[:LONGEST_NAME], operation[:LONGEST_NAME]
        self.component, self.operation, self._about, self._tracer = component, operation, about, tracer
        self._world, self.run_id = world, run_id
        # What the results of a run are read from is written whatever becomes of tracing.
        self._always, self.is_open = run_id is not None, False
        self._key = self._facts = self._token = self._parent = self._parent_key = self._sink = None
        self._last_sink = self.failure = None
        self.metrics, self.duration_ms, self.start_unix_ns = _NO_NUMBERS, 0.0, 0

    def __repr__(self) -> str:
        return f"OpenSpan({self.component}.{self.operation})"

    # -- what it is told

    @property
    def attributes(self) -> dict[str, Any]:
        """What is known about it: any values; they are kept as plain ones, cut."""
        if self._about is None:
            self._about = {}
        return self._about

    metadata = attributes

    @property
    def facts(self) -> list[Fact]:
        """What is written with it."""
        if self._facts is None:
            self._facts = []
        return self._facts

    def metric(self, name: str, value: float) -> None:
        """Keep a finite number of one's own, such as tokens; of several of one name the last counts.

        One that is given after the span has closed is ignored: it has been counted and written.
        Raises LLMValidationError validation.input for another name or number.
        """
        number = as_number(f"metric {checked_text('metric', name)}", value)
        if self._key is not None and not self.is_open:
            return
        if self.metrics is _NO_NUMBERS:
            self.metrics = {}
        self.metrics[name] = number  # type: ignore[index]

    # -- what it is called

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits, the same for all spans of a trace; empty before it is opened."""
        if self._key is None:
            return ""
        return f"{self._trace & _ALL:032x}" if isinstance(self._trace, int) else self._trace

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits; empty before it is opened."""
        return _span_id(self._key) or ""

    @property
    def parent_id(self) -> str | None:
        """The span_id of the span around it, or None."""
        return None if self._key is None else _span_id(self._parent_key)

    # -- opening and closing

    def __enter__(self) -> OpenSpan:
        if self._key is not None:
            raise bad("the span", self, "one that was not opened before")
        world, parent = self._world, INNERMOST.get()
        if world is None:
            if not self._tracer._on:
                return self
            if parent is not None:
                world = self._world = parent._world
        elif world.sink is not _NOWHERE:
            self._sink = world.sink
        if parent is not None:
            self._parent, self._parent_key, self._trace = parent, parent._key, parent._trace
            if self._sink is None:
                self._sink = parent._sink if parent.is_open or parent._last_sink is None else parent._last_sink()
            if self.run_id is None:
                self.run_id = parent.run_id
        if world is None or world.new_id is _REAL_ID:
            self._key = number = _next_number()
            if parent is None:
                self._trace = number
        else:
            self._name(world)
        self.is_open = True
        self._token = INNERMOST.set(self)
        self.start_unix_ns = _clock_ns() if world is None else world.unix_ns()
        self._start_s = _clock_s() if world is None else world.now_s()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.is_open:
            return
        self.is_open = False
        world, parent, sink, tracer = self._world, self._parent, self._sink, self._tracer
        self.duration_ms = ((_clock_s() if world is None else world.now_s()) - self._start_s) * 1e3
        if self._token is not None:
            inner = INNERMOST.get()
            while inner is not None and inner is not self:
                inner = inner._parent
            if inner is self:  # else spans overlapped, and it is out of the chain since the one around it closed
                try:
                    INNERMOST.reset(self._token)
                except ValueError:  # a coroutine that is closed elsewhere, in a copy of its context
                    INNERMOST.set(parent)
        # The history keeps this object: it must not keep a log, a world or a chain of parents with it.
        self._world = self._parent = self._sink = self._token = None
        if error is not None:
            self._fail(error)
        if self._about:
            self._about = kept(self._about)
        failure = self.failure
        if failure is not None:  # the history has no room for what had arrived of an answer
            self.failure = replace(failure, message=failure.message[:MAX_TEXT], partial=None)
        keeps = tracer._on and (
            tracer._rate >= 1.0
            or failure is not None
            or self.duration_ms > tracer._slow_ms
            or self._is_drawn(tracer._rate)
        )
        if tracer._on:
            tracer.take(self, remembered=keeps)
        if sink is None and tracer._attached:
            sink = tracer.sink()
        if sink is not None:
            if parent is not None and parent.is_open and parent._sink is None:
                parent._sink = sink
            with suppress(TypeError):  # an object with slots
                self._last_sink = weakref.ref(sink)
            self._write(sink, failure, keeps=keeps or self._always)

    async def __aenter__(self) -> OpenSpan:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def now_s(self) -> float:
        """Seconds of the clock that it is timed by, while it is open."""
        return _clock_s() if self._world is None else self._world.now_s()

    def step_out(self) -> None:
        """Stay open without being the span around what follows: for a generator that hands over."""
        if self._token is not None:
            INNERMOST.reset(self._token)
            self._token = None

    def as_metric(self) -> PerformanceMetric:
        """The closed span as a value; secrets are taken out.

        Raises LLMValidationError validation.input for one that is still open; one that tracing was off for took 0 ms.
        """
        if self.is_open:
            raise bad("the span", self, "one that has closed")
        failure = self.failure and replace(self.failure, message=redacted(self.failure.message))
        return PerformanceMetric(
            component=shown_name(self.component),
            operation=shown_name(self.operation),
            duration_ms=self.duration_ms,
            success=failure is None,
            failure=failure,
            start_unix_ns=self.start_unix_ns,
            trace_id=self.trace_id,
            span_id=self.span_id,
            parent_id=self.parent_id,
            run_id=self.run_id,
            metadata=shown(kept(self._about or {})),
            metrics=dict(self.metrics),
        )

    def _name(self, world: World) -> None:
        if self._parent is None:
            self._trace = world.new_id(16)
        self._key = world.new_id(8)

    def _is_drawn(self, rate: float) -> bool:
        # By the trace's id and not by chance: a trace is kept as a whole, and the same ones are kept again.
        return zlib.crc32(self.trace_id.encode()) < rate * 2**32

    def _fail(self, error: BaseException) -> None:
        try:
            self.failure = failure_of(error)
            if isinstance(error, LLMError) and error.trace_id is None:
                error.trace_id = self.trace_id
        except Exception:  # an exception of somebody's own must pass as it is, however odd
            self.failure = Failure(kind=type(error).__name__, code="untyped", message="")

    def _write(self, sink: Sink, failure: Failure | None, *, keeps: bool) -> None:
        facts, self._facts = self._facts, None
        if not keeps:
            if facts:
                sink.write(*facts)
            return
        span = Span(
            trace_id=self.trace_id,
            span_id=self.span_id,
            parent_id=self.parent_id,
            component=shown_name(self.component),
            operation=shown_name(self.operation),
            start_unix_ns=self.start_unix_ns,
            duration_ms=self.duration_ms,
            ok=failure is None,
            failure=failure,
            attributes=shown({**(self._about or {}), **self.metrics}),
            run_id=self.run_id,
        )
        if facts:  # the rows of a call: who made it must hear that they could not be written
            sink.write(*facts, span)
            return
        try:
            sink.write(span)
        except Exception as error:  # a log that fails must not break the work that is only timed
            self._tracer.tell_unwritten(error)


def current_span() -> OpenSpan | None:
    """The innermost open span of this task, or None."""
    return INNERMOST.get()


def span(
    world: World,
    component: str,
    operation: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    run_id: str | None = None,
) -> OpenSpan:
    """A timed span of the package around the body; on failure it keeps the error as a value and lets it pass.

    It is written to the world's sink: one with a run_id always, since results are read from it, others unless tracing
    is off or their trace is not drawn. Its `facts` are always written.
    """
    return OpenSpan(component, operation, dict(attributes) if attributes else None, performance_tracer, world, run_id)


def trace_block(
    component: str = DEFAULT_COMPONENT,
    operation: str = "block",
    metadata: Mapping[str, Any] | None = None,
    *,
    tracer: PerformanceTracer | None = None,
) -> OpenSpan:
    """A span around the body of a `with`, also of an `async with`; errors pass through unchanged.

    metadata: any values; they are kept as plain ones, cut, and without secrets. tracer: default performance_tracer.
    Raises LLMValidationError validation.input for names that are no text, metadata that are no mapping, and a tracer
    that is none.
    """
    if not (type(component) is type(operation) is str and component and operation):
        component, operation = checked_text("component", component), checked_text("operation", operation)
    about = None
    if type(metadata) is dict:
        about = metadata.copy()
    elif metadata is not None:
        if not isinstance(metadata, Mapping):
            raise bad("metadata", metadata, "a mapping")
        about = copied(metadata)
    if tracer is not None and not isinstance(tracer, PerformanceTracer):
        raise bad("tracer", tracer, "a PerformanceTracer")
    return OpenSpan(component, operation, about, performance_tracer if tracer is None else tracer)


def trace_block_async(
    component: str = DEFAULT_COMPONENT,
    operation: str = "block",
    metadata: Mapping[str, Any] | None = None,
    *,
    tracer: PerformanceTracer | None = None,
) -> OpenSpan:
    """A span around the body of an `async with`: what `trace_block` gives, under the name that says so."""
    return trace_block(component, operation, metadata, tracer=tracer)


def _span_id(key: int | str | None) -> str | None:
    return f"{key & _LOW:016x}" if isinstance(key, int) else key


def failure_of(error: BaseException) -> Failure:
    """The error as a value."""
    if isinstance(error, LLMError):  # of anybody's making: what is not of its type is left out
        status, request_id = getattr(error, "status", None), getattr(error, "request_id", None)
        return Failure(
            kind=type(error).__name__,
            code=error.code if isinstance(error.code, str) else "untyped",
            message=error.message if isinstance(error.message, str) else text_of(error),
            retryable=error.retryable is True,
            retry_after_s=_amount(getattr(error, "retry_after_s", None)),
            status=status if isinstance(status, int) else None,
            possibly_billed=error.possibly_billed is True,
            partial=error.partial if isinstance(error.partial, str) else None,
            request_id=request_id if isinstance(request_id, str) else None,
            usage=error.usage if isinstance(error.usage, Usage) else None,
            cost_usd=_amount(error.cost_usd),
        )
    if isinstance(error, asyncio.CancelledError):
        return Failure(kind=type(error).__name__, code="cancelled", message="cancelled")
    return Failure(kind=type(error).__name__, code="untyped", message=text_of(error))


def _amount(value: object) -> float | None:
    """A finite number >= 0, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if 0 <= number < math.inf else None
