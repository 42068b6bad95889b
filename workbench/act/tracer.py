"""What spans took: counted per operation, the newest remembered, and told as statistics and as a report.

A span that closes is put into a queue, and nothing else: statistics are made of the queue when somebody asks, or when
it is long. They count every span that closed while tracing was on; sampling decides which spans are remembered and
written, and keeps every error and every slow call.
"""

from __future__ import annotations

import math
import numbers
import os
import sys
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, Literal, Protocol

from workbench.act.aggregate import described, logger_of
from workbench.act.metadata import copied, kept, shown, shown_name
from workbench.act.performance import PerformanceMetric, PerformanceStats, Totals
from workbench.act.usage import usage_now
from workbench.canonical import redacted
from workbench.decide.retry import checked
from workbench.errors import LLMValidationError
from workbench.facts import Failure, Sink

MOST_OPERATIONS = 1_000
LONGEST_NAME = 200
_LONGEST_QUEUE = 500  # spans between two countings: a short queue stays in the processor's cache
_MOST_WAITING = 20 * _LONGEST_QUEUE  # from here on a span that closes waits until it can count
_WORDS = dict.fromkeys(("on", "1", "true", "yes", "y", "enabled"), True)
_WORDS |= dict.fromkeys(("off", "0", "false", "no", "n", "disabled"), False)

Switch = Literal["on", "off"] | bool


class Timed(Protocol):
    """Something that took time: a closed span or a PerformanceMetric."""

    @property
    def component(self) -> str:
        """Where it belongs."""

    @property
    def operation(self) -> str:
        """What it did."""

    @property
    def duration_ms(self) -> float:
        """How long it took."""

    @property
    def failure(self) -> Failure | None:
        """How it failed, or None."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Own numbers by name."""

    def as_metric(self) -> PerformanceMetric:
        """The same as a value that can be shown."""


class PerformanceTracer:
    """Counts and remembers what took how long; safe to use from many threads.

    max_history: whole number >= 1; the most spans that are remembered, and durations per operation. The most
        operations is MOST_OPERATIONS: beyond it those without a span for longest are forgotten.
    tracing: "on", "off" or a boolean; None: as the variable WORKBENCH_TRACING says, else on.
    sample_rate: share in [0, 1] of the traces that are remembered and written; each trace is, or is not, as a whole.
    slow_ms: >= 0; longer spans are remembered and written all the same, as are those that failed.
    Raises LLMValidationError validation.config for anything else.
    """

    def __init__(
        self,
        max_history: int = 10_000,
        *,
        tracing: Switch | None = None,
        sample_rate: float = 1.0,
        slow_ms: float = 5_000.0,
    ) -> None:
        if isinstance(max_history, bool) or not isinstance(max_history, int) or not 1 <= max_history <= sys.maxsize:
            raise bad("max_history", max_history, f"a whole number in [1, {sys.maxsize}]", code="validation.config")
        self.max_history = max_history
        self.unwritten = 0
        self._on = _switch(os.environ.get("WORKBENCH_TRACING") or "on" if tracing is None else tracing)
        self._rate, self._slow_ms = _rate(sample_rate), checked("slow_ms", slow_ms)
        self._attached: list[Callable[[], Sink | None]] = []
        # Of a thread that may come again: a finaliser closes spans in the midst of whatever it is doing.
        self._lock, self._is_counting = threading.RLock(), False
        self._queue: deque[Timed] = deque()
        self._history: deque[Timed] = deque(maxlen=max_history)
        self._totals: dict[tuple[str, str], Totals] = {}
        self._counted = self._forgotten = 0
        _tracers.add(self)

    def __repr__(self) -> str:
        return f"PerformanceTracer({'on' if self._on else 'off'}, {self.get_stats().count} spans)"

    # -- switches

    @property
    def enabled(self) -> bool:
        """Whether spans are counted, remembered and written; may be set to a boolean, "on" or "off"."""
        return self._on

    @enabled.setter
    def enabled(self, value: Switch) -> None:
        self._on = _switch(value)

    @property
    def sample_rate(self) -> float:
        """Share of the traces that are remembered and written, in [0, 1]; may be set."""
        return self._rate

    @sample_rate.setter
    def sample_rate(self, value: float) -> None:
        self._rate = _rate(value)

    @property
    def slow_ms(self) -> float:
        """From how many milliseconds on a span is kept whatever the sampling; may be set."""
        return self._slow_ms

    @slow_ms.setter
    def slow_ms(self, value: float) -> None:
        self._slow_ms = checked("slow_ms", value)

    def attach(self, sink: Sink) -> None:
        """From now on write what no open span's log takes to this sink, until it is detached or gone."""
        self.detach(sink)
        # Weak: a log that nobody holds any more must not be kept open by a tracer.
        try:
            self._attached = [*self._attached, weakref.ref(sink)]
        except TypeError:  # an object with slots
            self._attached = [*self._attached, lambda: sink]

    def detach(self, sink: Sink) -> None:
        """Write no more to the sink; the one that was attached before it takes its place."""
        self._attached = [ref for ref in self._attached if ref() is not None and ref() is not sink]

    def sink(self) -> Sink | None:
        """The sink attached last that is still there, or None."""
        return next((sink for ref in reversed(self._attached) if (sink := ref()) is not None), None)

    # -- taking in

    def record_metric(self, metric: PerformanceMetric) -> None:
        """Count and remember a measurement of one's own; not while tracing is off, and whatever the sampling.

        Raises LLMValidationError validation.input for what is no PerformanceMetric, or not one of a finite time >= 0,
        and for fields of other types than it names.
        """
        _check_metric(metric)
        failure = metric.failure and replace(metric.failure, message=redacted(metric.failure.message))
        if failure is None and not metric.success:
            failure = Failure(kind="Unknown", code="untyped", message="")
        told = replace(
            metric,
            component=shown_name(checked_text("component", metric.component)[:LONGEST_NAME]),
            operation=shown_name(checked_text("operation", metric.operation)[:LONGEST_NAME]),
            duration_ms=as_number("duration_ms", metric.duration_ms, low=0.0),
            success=failure is None,
            failure=failure,
            metadata=shown(kept(copied(metric.metadata))),
            metrics={checked_text("metric", k): as_number(f"metric {k}", v) for k, v in metric.metrics.items()},
        )
        if self._on:
            self.take(told, remembered=True)

    def take(self, timed: Timed, *, remembered: bool) -> None:
        """Count what has closed, and remember it if it is to be."""
        self._queue.append(timed)
        if remembered:
            self._history.append(timed)
        if len(self._queue) > _LONGEST_QUEUE:
            self.count_queue(wait=len(self._queue) > _MOST_WAITING)

    def count_queue(self, *, wait: bool = False) -> None:
        """Move what closed into the statistics; with `wait` also when another thread is doing so."""
        if self._lock.acquire(blocking=wait):
            try:
                with self._all_counted():
                    pass
            finally:
                self._lock.release()

    @contextmanager
    def _all_counted(self) -> Iterator[None]:
        """With what closed so far in the totals, which nobody changes meanwhile: no finaliser in our midst either."""
        with self._lock:
            was, self._is_counting = self._is_counting, True
            try:
                if not was:
                    self._count()
                yield
            finally:
                self._is_counting = was

    def tell_unwritten(self, error: Exception) -> None:
        """Note that a sink refused a span; the first time it is logged as a warning."""
        self.unwritten += 1
        if self.unwritten == 1:
            logger_of("trace").warning("a span could not be written, nor may the next ones: %s", described(error))

    def _count(self) -> None:
        totals, taken = self._totals, self._queue.popleft
        for _ in range(len(self._queue)):  # not until it is empty: other threads go on filling it
            timed = taken()
            key = (timed.component, timed.operation)
            own = totals.get(key)
            if own is None:
                own = totals[key] = Totals(self.max_history)
                if len(totals) > MOST_OPERATIONS:
                    self._forget()
            self._counted = own.newest = self._counted + 1
            own.add(timed.duration_ms)
            if timed.failure is not None:
                own.fail(timed.failure)
            if timed.metrics:
                own.add_numbers(timed.metrics)

    def _forget(self) -> None:
        # A tenth at once: names that never come again must not cost a search each.
        oldest = sorted(self._totals, key=lambda key: self._totals[key].newest)[: MOST_OPERATIONS // 10]
        oldest = [key for key in oldest if self._totals[key].newest]
        for key in oldest:
            del self._totals[key]
        self._forgotten += len(oldest)

    # -- telling

    def get_stats(self, component: str | None = None, operation: str | None = None) -> PerformanceStats:
        """How an operation did; without one, all of the component; without both, everything. Never seen: count 0."""
        with self._all_counted():
            matching = [
                totals
                for (of, what), totals in self._totals.items()
                if component in (None, of) and operation in (None, what)
            ]
            return Totals.together(matching).stats(component, operation)

    def get_all_stats(self) -> list[PerformanceStats]:
        """How each operation did, the one with the most time in all first."""
        with self._all_counted():
            found = [totals.stats(*map(shown_name, key)) for key, totals in self._totals.items()]
        return sorted(found, key=lambda stats: -_or_endless(stats.total_ms))

    def get_slowest_operations(self, n: int = 10) -> list[PerformanceStats]:
        """The n operations that take longest on average, slowest first."""
        _check_count(n)
        return sorted(self.get_all_stats(), key=lambda stats: -_or_endless(stats.avg_ms))[:n]

    def get_error_operations(self, threshold: float = 0.01) -> list[PerformanceStats]:
        """The operations whose error rate is above the threshold, in [0, 1]; highest first."""
        threshold = checked("threshold", threshold)
        failing = [s for s in self.get_all_stats() if s.error_rate is not None and s.error_rate > threshold]
        return sorted(failing, key=lambda stats: -(stats.error_rate or 0.0))

    def get_metrics(
        self, component: str | None = None, operation: str | None = None, *, trace_id: str | None = None
    ) -> list[PerformanceMetric]:
        """What is remembered, oldest first; of a component, an operation, a trace."""
        found = (
            t for t in self._history.copy() if component in (None, t.component) and operation in (None, t.operation)
        )
        return [m for m in (t.as_metric() for t in found) if trace_id in (None, m.trace_id)]

    def get_slowest_metrics(self, n: int = 10) -> list[PerformanceMetric]:
        """The n longest of what is remembered, longest first."""
        _check_count(n)
        return [t.as_metric() for t in sorted(self._history.copy(), key=lambda t: -t.duration_ms)[:n]]

    def get_report(self) -> dict[str, Any]:
        """Everything as plain values that `json.dumps` takes; secrets are taken out, times are milliseconds."""
        everything, operations = self.get_stats(), self.get_all_stats()
        return {
            "tracing": "on" if self._on else "off",
            "sample_rate": self._rate,
            "slow_ms": self._slow_ms,
            "max_history": self.max_history,
            "remembered": len(self._history),
            "unwritten": self.unwritten,
            "forgotten_operations": self._forgotten,
            "process": asdict(usage_now()),
            "summary": asdict(everything),
            "operations": [asdict(stats) for stats in operations],
            "slowest_operations": [asdict(stats) for stats in self.get_slowest_operations()],
            "error_operations": [asdict(stats) for stats in self.get_error_operations()],
            "slowest": [asdict(metric) for metric in self.get_slowest_metrics()],
        }

    def clear(self) -> None:
        """Forget everything; switches and attached sinks stay."""
        with self._all_counted():
            self._queue.clear()
            self._history.clear()
            self._totals.clear()
            self._counted = self._forgotten = self.unwritten = 0


_tracers: weakref.WeakSet[PerformanceTracer] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child: nobody of the parent's threads is here to let go of its locks."""
    for tracer in _tracers:
        tracer._lock, tracer._is_counting = threading.RLock(), False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def checked_text(field: str, value: object) -> str:
    """The text itself; LLMValidationError validation.input for anything else, and for an empty one."""
    if isinstance(value, str) and value.strip():
        return value
    raise bad(field, value, "a name")


def as_number(field: str, value: object, *, low: float = -math.inf) -> float:
    """A finite number >= low as a float; LLMValidationError validation.input for anything else."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except (OverflowError, ValueError, TypeError):
            number = math.nan
        if math.isfinite(number) and number >= low:
            return number
    raise bad(field, value, "a finite number" if low == -math.inf else f"a finite number >= {low:g}")


def bad(field: str, value: object, wanted: str, *, code: str = "validation.input") -> LLMValidationError:
    """The error that says what an argument of tracing is, and what it has to be."""
    try:
        found = f"{value!r:.40}"
    except Exception:  # an object whose repr fails is no reason for another error
        found = ""
    return LLMValidationError(
        f"{field} is {type(value).__name__} {found}".rstrip() + f", not {wanted}",
        code=code,
        next_step=f"give {field[:60]} as {wanted}",
    )


def _switch(value: object) -> bool:
    word = value.strip().lower() if isinstance(value, str) else value
    if isinstance(word, bool):
        return word
    if isinstance(word, str) and word in _WORDS:
        return _WORDS[word]
    raise bad("tracing", value, '"on" or "off"', code="validation.config")


def _rate(value: object) -> float:
    rate = checked("sample_rate", value)
    if rate <= 1:
        return rate
    raise bad("sample_rate", value, "a share in [0, 1]", code="validation.config")


def _or_endless(number: float | None) -> float:
    """What is None although there was something to count is beyond the range of a float."""
    return math.inf if number is None else number


def _check_metric(metric: object) -> None:
    if not isinstance(metric, PerformanceMetric):
        raise bad("metric", metric, "a PerformanceMetric")
    for name in ("trace_id", "span_id", "parent_id", "run_id"):
        if not isinstance(given := getattr(metric, name), str | None):
            raise bad(name, given, "a text or None")
    start = metric.start_unix_ns
    if start is not None and (isinstance(start, bool) or not isinstance(start, int)):
        raise bad("start_unix_ns", start, "a whole number or None")
    if not isinstance(metric.failure, Failure | None):
        raise bad("failure", metric.failure, "a Failure or None")
    if not isinstance(metric.metrics, Mapping):
        raise bad("metrics", metric.metrics, "a mapping")


def _check_count(n: object) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise bad("n", n, "a whole number >= 0")


def _of_environment() -> PerformanceTracer:
    """The tracer of the process. A word it cannot read leaves it on: an import is no place to refuse a setting."""
    try:
        return PerformanceTracer()
    except LLMValidationError as error:
        text = f"WORKBENCH_TRACING: {error.message}; tracing stays on"
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:  # made an error, which would break the import
        logger_of("trace").warning("%s", text)
    return PerformanceTracer(tracing="on")


performance_tracer = _of_environment()


def get_performance_report() -> dict[str, Any]:
    """The report of `performance_tracer`: see PerformanceTracer.get_report."""
    return performance_tracer.get_report()
