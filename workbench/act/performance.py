"""The values of tracing: one measurement, the statistics of many, and the running totals behind them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.facts import Failure

MOST_NUMBERS = 100  # own numbers with statistics, per operation
# How a body ends without having failed.
_INTERRUPTIONS = ("CancelledError", "KeyboardInterrupt", "SystemExit", "GeneratorExit")


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceMetric:
    """One timed operation: a span that closed, or a measurement of one's own for `record_metric`.

    duration_ms: >= 0. success: False for errors and cancellations; failure says which, where it is known.
    start_unix_ns: None where unknown. metadata: plain values, cut and without secrets. metrics: own numbers by name.
    """

    component: str
    operation: str
    duration_ms: float
    success: bool = True
    failure: Failure | None = None
    start_unix_ns: int | None = None
    trace_id: str | None = None
    span_id: str | None = None
    parent_id: str | None = None
    run_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def as_metric(self) -> PerformanceMetric:
        """Itself."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberStats:
    """A number of one's own over all spans that gave it, in its own unit.

    avg, total: None where the sum is beyond the range of a float.
    """

    count: int
    min: float
    max: float
    avg: float | None
    total: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceStats:
    """How an operation did (component or operation None: all of them), since the start or the last clear().

    count: spans, of which `cancelled` were interrupted or cancelled: these are neither successes nor errors.
    success_rate, error_rate: of successes and errors together, in [0, 1]; None when there were none of either.
    min_ms, max_ms, avg_ms, total_ms: of all; None, and 0 for the total, without spans; the last two also where the sum
        is beyond the range of a float. p50_ms to p99_ms: of the newest `recent` ones, at most max_history per
        operation, linear between two neighbours.
    metrics: own numbers by name.
    """

    component: str | None
    operation: str | None
    count: int
    successes: int
    errors: int
    cancelled: int
    success_rate: float | None
    error_rate: float | None
    min_ms: float | None
    max_ms: float | None
    avg_ms: float | None
    total_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    recent: int
    metrics: Mapping[str, NumberStats]


_Numbers = tuple[int, float, float, float]  # how many, the lowest, the highest and the sum of them


class Totals:
    """Running totals of one operation, and its newest durations in a ring.

    newest: the number of the last span that was counted here, among all spans.
    """

    __slots__ = ("cancelled", "count", "errors", "high", "low", "newest", "numbers", "ring", "size", "total")

    def __init__(self, size: int) -> None:
        self.size, self.ring = size, array("d")
        self.count = self.errors = self.cancelled = self.newest = 0
        self.total, self.low, self.high = 0.0, math.inf, -math.inf
        self.numbers: dict[str, _Numbers] = {}

    def add(self, duration_ms: float) -> None:
        """Count one duration."""
        count = self.count
        self.count = count + 1
        self.total += duration_ms
        if count < self.size:
            self.ring.append(duration_ms)
        else:
            self.ring[count % self.size] = duration_ms
        if not self.low <= duration_ms <= self.high:
            self.low, self.high = min(self.low, duration_ms), max(self.high, duration_ms)

    def fail(self, failure: Failure) -> None:
        """Count what was just added as an error, or as cancelled."""
        if failure.code == "cancelled" or failure.kind in _INTERRUPTIONS:
            self.cancelled += 1
        else:
            self.errors += 1

    def add_numbers(self, numbers: Mapping[str, float]) -> None:
        """Count own numbers; at most MOST_NUMBERS names."""
        for name, value in tuple(numbers.items()):
            self._merge(name, (1, value, value, value))

    def _merge(self, name: str, more: _Numbers) -> None:
        known = self.numbers.get(name)
        if known is None:
            if len(self.numbers) < MOST_NUMBERS:
                self.numbers[name] = more
            return
        self.numbers[name] = (
            known[0] + more[0], min(known[1], more[1]), max(known[2], more[2]), known[3] + more[3]
        )  # fmt: skip

    @classmethod
    def together(cls, several: Iterable[Totals]) -> Totals:
        """The totals of several operations as if they were one."""
        whole = cls(1)
        for one in several:
            whole.ring.extend(one.ring)
            whole.count, whole.errors = whole.count + one.count, whole.errors + one.errors
            whole.cancelled, whole.total = whole.cancelled + one.cancelled, whole.total + one.total
            whole.low, whole.high = min(whole.low, one.low), max(whole.high, one.high)
            for name, numbers in one.numbers.items():
                whole._merge(name, numbers)
        return whole

    def stats(self, component: str | None, operation: str | None) -> PerformanceStats:
        """The totals as statistics."""
        ended, (avg, total) = self.count - self.cancelled, _mean(self.count, self.low, self.high, self.total)
        recent = sorted(self.ring)
        p50, p90, p95, p99 = (percentile(recent, q) for q in (0.50, 0.90, 0.95, 0.99))
        return PerformanceStats(
            component=component,
            operation=operation,
            count=self.count,
            successes=ended - self.errors,
            errors=self.errors,
            cancelled=self.cancelled,
            success_rate=(ended - self.errors) / ended if ended else None,
            error_rate=self.errors / ended if ended else None,
            min_ms=self.low if self.count else None,
            max_ms=self.high if self.count else None,
            avg_ms=avg,
            total_ms=total,
            p50_ms=p50,
            p90_ms=p90,
            p95_ms=p95,
            p99_ms=p99,
            recent=len(recent),
            metrics={name: _number_stats(*numbers) for name, numbers in self.numbers.items()},
        )


def _mean(count: int, low: float, high: float, total: float) -> tuple[float | None, float | None]:
    """The mean and the total, each None where it has no number."""
    if not math.isfinite(total):
        return None, None
    # Rounding must not put the mean beside what it is the mean of.
    return min(max(total / count, low), high) if count else None, total


def _number_stats(count: int, low: float, high: float, total: float) -> NumberStats:
    avg, summed = _mean(count, low, high, total)
    return NumberStats(count=count, min=low, max=high, avg=avg, total=summed)


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value below which a share of the ordered values lies, linear between two neighbours; None without values.

    The definition that numpy and DuckDB's quantile_cont take by default: Hyndman and Fan 1996, type 7.
    >>> percentile([1.0, 2.0, 4.0], 0.75)
    3.0
    """
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    if below + 1 >= len(ordered):
        return ordered[-1]
    return ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])
