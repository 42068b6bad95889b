"""Errors and successes counted per component, and what they say about its health.

One failure counts once, however many contexts it passes on its way out: it is charged to the innermost component
that saw it, and so is an error raised `from` it. The totals of everything are exact; the history of entries and
outcomes is bounded, and so is the number of components with totals of their own.
Nothing here keeps an exception alive: what is kept is its type, its code and its redacted text.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from workbench.act.world import World
from workbench.canonical import text_of
from workbench.decide.retry import checked
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import Fact

_MAX_CAUSES = 16
_MARK = "_workbench_counted"

# Silent unless the application asks: a library never prints by itself.
logging.getLogger("workbench").addHandler(logging.NullHandler())


class _Nowhere:
    """A sink that drops what it is given."""

    def write(self, *facts: Fact) -> None:
        """Drop the facts."""


DEFAULT_WORLD = World.real(_Nowhere())


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedError:
    """Equal errors of one component and operation, as one entry.

    kind: name of the exception's type. code: an LLMError's code, `untyped` for other exceptions.
    message: redacted, on one line, at most MAX_TEXT characters. count: how often, >= 1.
    first_unix_ns, last_unix_ns: when it came first and last.
    """

    kind: str
    code: str
    message: str
    component: str | None
    operation: str | None
    count: int
    first_unix_ns: int
    last_unix_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a component (None: everything) has been doing.

    error_rate: errors / (errors + successes) in [0, 1], None when there were none of either: status `unknown`.
    last_error: its newest entry, however old, or None.
    """

    component: str | None
    status: Literal["healthy", "degraded", "unhealthy", "unknown"]
    error_rate: float | None
    errors: int
    successes: int
    last_error: RecordedError | None


class ErrorAggregator:
    """Counts and remembers errors and successes; safe to use from many threads.

    max_history: whole number >= 1; the most entries that are remembered, the most outcomes a window can see, and the
        most components with totals of their own: beyond it the one that had no outcome for longest begins again at 0.
    world: the clock, by default the machine's.
    Raises LLMValidationError validation.config for another max_history.
    """

    def __init__(self, max_history: int = 10_000, *, world: World | None = None) -> None:
        if isinstance(max_history, bool) or not isinstance(max_history, int) or max_history < 1:
            raise LLMValidationError(
                f"max_history is {max_history!r:.40}, not a whole number >= 1",
                code="validation.config",
                next_step="set max_history to a whole number >= 1",
            )
        self.max_history = max_history
        self._world = world or DEFAULT_WORLD
        # Reentrant: a finaliser may run, and record, while this thread is inside.
        self._lock = threading.RLock()
        self._mark = self._world.new_id(8)
        self._entries: OrderedDict[tuple[str | None, ...], RecordedError] = OrderedDict()
        self._outcomes: deque[tuple[float, str | None, bool]] = deque(maxlen=max_history)
        self._everything = [0, 0]
        self._totals: dict[str | None, list[int]] = {}

    def __repr__(self) -> str:
        errors, successes = self.count()
        return f"ErrorAggregator({errors} errors, {successes} successes)"

    def add_error(self, error: BaseException, component: str | None = None, operation: str | None = None) -> bool:
        """Whether the error was counted; not when it, or an error it was raised from, was counted before.

        Raises LLMValidationError validation.input for what is no exception.
        """
        if not isinstance(error, BaseException):
            raise LLMValidationError(
                f"add_error was given a {type(error).__name__}, not an exception",
                next_step="pass the exception itself: add_error(error, component, operation)",
            )
        kind, code, message = type(error).__name__, code_of(error), text_of(error)
        key = (kind, code, message, component, operation)
        with self._lock:
            if not self._claim(error):
                return False
            self._count(component, failed=True)
            now_ns = self._world.unix_ns()
            known = self._entries.pop(key, None)
            self._entries[key] = (
                replace(known, count=known.count + 1, last_unix_ns=now_ns)
                if known
                else RecordedError(
                    kind=kind,
                    code=code,
                    message=message,
                    component=component,
                    operation=operation,
                    count=1,
                    first_unix_ns=now_ns,
                    last_unix_ns=now_ns,
                )
            )
            if len(self._entries) > self.max_history:
                self._entries.popitem(last=False)
        return True

    def add_success(self, component: str | None = None, operation: str | None = None) -> None:
        """Count a success of the component; the operation is accepted for symmetry with add_error."""
        with self._lock:
            self._count(component, failed=False)

    def count(self, component: str | None = None, window_s: float | None = None) -> tuple[int, int]:
        """Errors and successes of a component (None: of all), since the last clear() or in the last window_s seconds.

        window_s: > 0; a window sees at most the newest max_history outcomes.
        Raises LLMValidationError validation.config for another window.
        """
        if window_s is None:
            with self._lock:
                errors, successes = self._everything if component is None else self._totals.get(component, (0, 0))
            return errors, successes
        window_s = checked("window_s", window_s, positive=True)
        errors = successes = 0
        with self._lock:
            since_s = self._world.now_s() - window_s
            for at_s, of, failed in reversed(self._outcomes):
                if at_s < since_s:
                    break
                if component in (None, of):
                    errors, successes = errors + failed, successes + (not failed)
        return errors, successes

    def get_error_rate(self, component: str | None = None, window_s: float | None = None) -> float | None:
        """Share of errors among all outcomes, in [0, 1]; None when nothing was recorded. See count()."""
        errors, successes = self.count(component, window_s)
        return errors / (errors + successes) if errors + successes else None

    def get_recent_errors(self, n: int = 10, *, component: str | None = None) -> list[RecordedError]:
        """The n entries that came last, newest first; an entry moves to the front each time it comes again."""
        with self._lock:
            entries = [e for e in reversed(self._entries.values()) if component in (None, e.component)]
        return list(islice(entries, max(n, 0)))

    def clear(self) -> None:
        """Forget everything; an exception that was counted before counts again."""
        with self._lock:
            self._mark = self._world.new_id(8)
            self._entries.clear()
            self._outcomes.clear()
            self._everything = [0, 0]
            self._totals.clear()

    def _count(self, component: str | None, *, failed: bool) -> None:
        self._outcomes.append((self._world.now_s(), component, failed))
        own = self._totals.pop(component, None) or [0, 0]
        if len(self._totals) >= self.max_history:
            del self._totals[next(iter(self._totals))]
        self._totals[component] = own  # put in again as the last: whoever is active is kept
        for totals in (self._everything, own):
            totals[0 if failed else 1] += 1

    def _claim(self, error: BaseException) -> bool:
        """Mark the error and its causes as counted here; False when one of them was already."""
        # A mark on the exception and not a table of ids: ids are used again, and a table would keep errors alive.
        # It names the object too, so that a copy, or one sent from another process, counts as an error of its own.
        chain = [(object.__getattribute__(e, "__dict__"), (self._mark, id(e))) for e in _causes(error)]
        fresh = not any(mark in state.get(_MARK, ()) for state, mark in chain)
        for state, mark in chain:
            state[_MARK] = (*(m for m in state.get(_MARK, ())[-7:] if m != mark), mark)
        return fresh


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, innermost last."""
    here: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if here is None:
            return
        yield here
        here = here.__cause__


error_aggregator = ErrorAggregator()


def check_health(
    component: str | None = None,
    *,
    window_s: float | None = 300.0,
    degraded_rate: float = 0.1,
    unhealthy_rate: float = 0.5,
    aggregator: ErrorAggregator | None = None,
) -> Health:
    """How a component, or everything, did in the last window_s seconds (None: since the last clear()).

    degraded_rate, unhealthy_rate: error rates in [0, 1] from which on the status is `degraded` and `unhealthy`.
    Raises LLMValidationError validation.config for a window or a rate that is none.
    """
    aggregator = aggregator or error_aggregator
    degraded_rate, unhealthy_rate = checked("degraded_rate", degraded_rate), checked("unhealthy_rate", unhealthy_rate)
    errors, successes = aggregator.count(component, window_s)
    rate = errors / (errors + successes) if errors + successes else None
    status: Literal["healthy", "degraded", "unhealthy", "unknown"] = "healthy"
    if rate is None:
        status = "unknown"
    elif rate >= unhealthy_rate:
        status = "unhealthy"
    elif rate >= degraded_rate:
        status = "degraded"
    return Health(
        component=component,
        status=status,
        error_rate=rate,
        errors=errors,
        successes=successes,
        last_error=next(iter(aggregator.get_recent_errors(1, component=component)), None),
    )


def code_of(error: BaseException) -> str:
    """An LLMError's code, `untyped` for any other exception."""
    return error.code if isinstance(error, LLMError) else "untyped"


def described(error: BaseException) -> str:
    """Type and text of an exception, as a log line or a message shows them."""
    return f"{type(error).__name__}: {text_of(error)}".removesuffix(": ")


def logger_of(component: str | None) -> logging.Logger:
    """The standard logger `workbench.<component>`."""
    return logging.getLogger(f"workbench.{component}" if component else "workbench")
