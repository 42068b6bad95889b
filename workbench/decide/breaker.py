"""The circuit breaker as a value: what a circuit knows, and the pure rules that move it.

    closed --rates reach a threshold--> open --cooldown, then a caller--> half_open --good probes--> closed
                                          ^------------- bad probes, or the limit -----'

`forced_open` refuses every call, `disabled` passes every call and counts nothing, `metrics_only` passes and counts
but never opens; they are entered and left by `force` and `reset` alone.

A `Circuit` belongs to one (provider, model), never to an address: another model behind the same address may be well.
Each state change gives it a new epoch; a permit carries the epoch it was given in, so the late result of a former
state moves nothing. Times are seconds of one monotonic clock, handed in by the caller; wall time never appears.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, get_args

from workbench.errors import LLMValidationError

State = Literal["closed", "open", "half_open", "forced_open", "disabled", "metrics_only"]
Bucket = tuple[int, int, int, int]  # second, calls, failed, slow

STATES: tuple[State, ...] = get_args(State)
_PASSING = frozenset({"closed", "disabled", "metrics_only"})
_COUNTING = frozenset({"closed", "half_open", "metrics_only"})
# One letter per result: capital when quick, small when slow.
_LETTERS = {(False, False): "S", (True, False): "F", (False, True): "s", (True, True): "f"}

# Below the shortest, a wait would vanish in the rounding of a clock that has run for long.
SHORTEST_S, YEAR_S = 0.001, 31_536_000
# Field -> lowest, highest, whether the lowest itself is allowed, whether it is a whole number.
_RANGES: Mapping[str, tuple[float, float, bool, bool]] = {
    "failure_rate": (0, 1, False, False),
    "slow_rate": (0, 1, False, False),
    "slow_call_s": (0, YEAR_S, False, False),
    "minimum_calls": (1, 10_000, True, True),
    "window_calls": (1, 10_000, True, True),
    "window_s": (1, 3600, True, True),
    "cooldown_s": (SHORTEST_S, YEAR_S, True, False),
    "cooldown_factor": (1, 1000, True, False),
    "max_cooldown_s": (SHORTEST_S, YEAR_S, True, False),
    "permits": (1, 10_000, True, True),
    "half_open_limit_s": (SHORTEST_S, YEAR_S, True, False),
}
_OPTIONAL = frozenset({"window_s", "half_open_limit_s"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """What an admitted call carries until its result is recorded, once, or the permit is released.

    epoch: of the circuit that admitted it. started_s: when. probe: whether it tests a half-open circuit.
    number: tells the probes of one epoch apart, so that none is given back twice; 0 when it is no probe.
    """

    epoch: int
    started_s: float
    probe: bool = False
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """What is known of one (provider, model): its state and the results that decide about the next one.

    since_s: when the state began, on the monotonic clock of the caller.
    epoch: number of state changes and resets so far.
    results: the last results, oldest first: S success, F failure, small letters when slow (count window, half-open).
    buckets: (second, calls, failed, slow) per second with results, oldest first (time window).
    buffered, failed, slow: results in the window, how many of them failed, how many were slow.
    needed: results without which there is no rate.
    probes: numbers of the permits in use while half-open. probed: probes admitted in this epoch.
    openings: how often it opened without having closed in between.
    not_permitted: calls refused since the circuit was new or reset.
    tripped: in `metrics_only`, whether a threshold was reached, so that the event is told once.
    An open circuit keeps the window that opened it.
    """

    provider: str
    model: str
    state: State = "closed"
    since_s: float = 0.0
    epoch: int = 0
    results: str = ""
    buckets: tuple[Bucket, ...] = ()
    buffered: int = 0
    failed: int = 0
    slow: int = 0
    needed: int = 1
    probes: tuple[int, ...] = ()
    probed: int = 0
    openings: int = 0
    not_permitted: int = 0
    tripped: bool = False

    @property
    def failure_rate(self) -> float | None:
        """Share of failed results in the window, in [0, 1]; None while there are too few to judge."""
        return self.failed / self.buffered if self.buffered >= self.needed else None

    @property
    def slow_rate(self) -> float | None:
        """Share of slow results in the window, failed or not, in [0, 1]; None while there are too few to judge."""
        return self.slow / self.buffered if self.buffered >= self.needed else None

    @property
    def permits_in_use(self) -> int:
        """Number of half-open probes that have neither a result nor been released."""
        return len(self.probes)

    def as_dict(self) -> dict[str, Any]:
        """The circuit as plain JSON values; `from_dict` makes it again."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "buckets": [list(b) for b in self.buckets], "probes": list(self.probes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Circuit:
        """The circuit that `as_dict` was made from, also after a passage through JSON."""
        buckets = tuple((second, calls, failed, slow) for second, calls, failed, slow in values["buckets"])
        return cls(**{**values, "buckets": buckets, "probes": tuple(values["probes"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """When a circuit opens, how long it waits, and what closes it again; every method returns a new value.

    failure_rate, slow_rate: shares in (0, 1] of the window at which it opens; reaching one is enough.
    slow_call_s: a call that takes this long or longer is slow, whether it succeeds or fails.
    minimum_calls: results needed before a rate counts; a count window never needs more than it can hold.
    window_calls: the last so many results are judged. window_s: judge those of the last so many whole seconds instead.
    cooldown_s: wait in open before a call may probe; each further opening without a close multiplies it by
        cooldown_factor, up to max_cooldown_s.
    permits: probes of a half-open circuit; when all have results it closes or opens by the same thresholds.
    half_open_limit_s: when results are missing for so long, it goes to half_open_then (`open`, `closed`); None: never.
    automatic: become half-open when the cooldown has passed, without waiting for a caller.
    Raises LLMValidationError validation.config for a field out of its range.
    Source: the states and defaults of resilience4j's CircuitBreaker, with a window for tens of calls, not hundreds.

    >>> breaker, circuit = Breaker(minimum_calls=2, cooldown_s=30), Circuit(provider="openai", model="gpt")
    >>> for _ in range(2):
    ...     circuit, permit = breaker.admit(circuit, 0.0)
    ...     circuit = breaker.record(circuit, permit, ok=False, duration_s=1.0, now_s=1.0)
    >>> circuit.state, circuit.failure_rate, breaker.retry_after_s(circuit, 11.0)
    ('open', 1.0, 20.0)
    """

    failure_rate: float = 0.7
    slow_rate: float = 1.0
    slow_call_s: float = 60.0
    minimum_calls: int = 3
    window_calls: int = 10
    window_s: int | None = None
    cooldown_s: float = 30.0
    cooldown_factor: float = 1.0
    max_cooldown_s: float = 300.0
    permits: int = 1
    half_open_limit_s: float | None = None
    half_open_then: Literal["open", "closed"] = "open"
    automatic: bool = False
    name: ClassVar[str] = "circuit_breaker"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        for field in _RANGES:
            value = getattr(self, field)
            if value is not None or field not in _OPTIONAL:
                object.__setattr__(self, field, _checked(field, value))  # 60 and 60.0 are one policy, in the log too
        if self.max_cooldown_s < self.cooldown_s:
            raise _bad("max_cooldown_s", self.max_cooldown_s, f"at least cooldown_s, which is {self.cooldown_s:g}")
        if not isinstance(self.half_open_then, str) or self.half_open_then not in ("open", "closed"):
            raise _bad("half_open_then", self.half_open_then, "'open' or 'closed'")
        if not isinstance(self.automatic, bool):
            raise _bad("automatic", self.automatic, "True or False")

    def admit(self, circuit: Circuit, now_s: float) -> tuple[Circuit, Permit | None]:
        """The circuit after a call asked to pass, and its permit; None when the call is refused."""
        if circuit.state not in _PASSING:
            circuit = self._settled(circuit, now_s)
            if circuit.state == "open" and now_s >= circuit.since_s + self.wait_s(circuit.openings):
                circuit = self._changed(circuit, "half_open", now_s)
        if circuit.state in _PASSING:
            return circuit, Permit(epoch=circuit.epoch, started_s=now_s)
        if not self._has_room(circuit):
            return replace(circuit, not_permitted=circuit.not_permitted + 1), None
        number = circuit.probed + 1
        circuit = replace(circuit, probes=(*circuit.probes, number), probed=number)
        return circuit, Permit(epoch=circuit.epoch, started_s=now_s, probe=True, number=number)

    def record(self, circuit: Circuit, permit: Permit, *, ok: bool, duration_s: float, now_s: float) -> Circuit:
        """The circuit after an admitted call came to a result; unchanged when the permit is of a former epoch."""
        if circuit.state == "half_open":
            circuit = self._settled(circuit, now_s)
            if (released := self.release(circuit, permit)) is circuit:
                return circuit
            circuit = released
        if permit.epoch != circuit.epoch or circuit.state not in _COUNTING:
            return circuit
        circuit = self.counted(circuit, ok=ok, duration_s=duration_s, now_s=now_s)
        if self.exceeded(circuit):
            if circuit.state == "metrics_only":
                return circuit if circuit.tripped else replace(circuit, tripped=True)
            return self._changed(circuit, "open", now_s)
        if circuit.state == "half_open" and circuit.buffered >= circuit.needed:
            return self._changed(circuit, "closed", now_s)
        return circuit

    def release(self, circuit: Circuit, permit: Permit) -> Circuit:
        """The circuit after a call ended without a result (cancelled, or the caller's own error).

        A permit that is not in use any more changes nothing, so a `finally` may release what was recorded.
        """
        if permit.epoch != circuit.epoch or permit.number not in circuit.probes:
            return circuit
        return replace(circuit, probes=tuple(n for n in circuit.probes if n != permit.number))

    def tick(self, circuit: Circuit, now_s: float) -> Circuit:
        """The circuit after time alone has passed: due transitions made, results out of the time window dropped."""
        circuit = self._settled(circuit, now_s)
        if circuit.state not in ("closed", "metrics_only") or not circuit.buckets:
            return circuit
        buckets, buffered, failed, slow = self._kept(circuit, math.floor(now_s))
        return replace(circuit, buckets=buckets, buffered=buffered, failed=failed, slow=slow)

    def reset(self, circuit: Circuit, now_s: float) -> Circuit:
        """The circuit closed and as good as new; permits given before do not count any more."""
        return replace(self._changed(circuit, "closed", now_s), not_permitted=0)

    def force(self, circuit: Circuit, state: State, now_s: float) -> Circuit:
        """The circuit put into `state`, with an empty window.

        Raises LLMValidationError validation.config for a state that there is not.
        """
        if not isinstance(state, str) or state not in STATES:
            raise _bad("state", state, f"one of {', '.join(STATES)}")
        return self._changed(_emptied(circuit), state, now_s)

    def retry_after_s(self, circuit: Circuit, now_s: float) -> float:
        """Seconds until time alone lets a call pass: 0 when one may pass now, infinity when it is forced open.

        Half-open with every permit in use and no limit, it depends on the probes: then the present cooldown, as a hint.
        """
        circuit = self._settled(circuit, now_s)
        if circuit.state in _PASSING or (circuit.state == "half_open" and self._has_room(circuit)):
            return 0.0
        if circuit.state == "forced_open":
            return math.inf
        if circuit.state == "open":
            return _until(circuit.since_s + self.wait_s(circuit.openings), now_s)
        if self.half_open_limit_s is None:
            return self.wait_s(circuit.openings)
        left = circuit.since_s + self.half_open_limit_s
        if self.half_open_then == "open":
            left += self.wait_s(circuit.openings + 1)
        return _until(left, now_s)

    def wait_s(self, openings: int) -> float:
        """Seconds that a circuit stays open after so many openings without a close, at most max_cooldown_s."""
        try:
            wait_s = self.cooldown_s * self.cooldown_factor ** max(openings - 1, 0)
        except OverflowError:
            return self.max_cooldown_s
        return min(wait_s, self.max_cooldown_s)

    def exceeded(self, circuit: Circuit) -> bool:
        """Whether there are enough results and one of the two rates reaches its threshold.

        Both sides of the comparison are the doubles nearest to the fraction and to the written threshold, so
        3 of 5 reaches 0.6 exactly.
        """
        n = circuit.buffered
        return n >= circuit.needed and (circuit.failed / n >= self.failure_rate or circuit.slow / n >= self.slow_rate)

    def counted(self, circuit: Circuit, *, ok: bool, duration_s: float, now_s: float) -> Circuit:
        """The circuit with one more result in its window, before it is judged."""
        results, buckets = circuit.results, circuit.buckets
        is_failed, is_slow = not ok, duration_s >= self.slow_call_s
        if self.window_s is None or circuit.state == "half_open":
            size = self.permits if circuit.state == "half_open" else self.window_calls
            results = (results + _LETTERS[is_failed, is_slow])[-size:]
            buffered, doubly = len(results), results.count("f")
            failed, slow = results.count("F") + doubly, results.count("s") + doubly
        else:
            buckets, buffered, failed, slow = self._kept(circuit, math.floor(now_s))
            buckets = _added(buckets, (math.floor(now_s), 1, int(is_failed), int(is_slow)))
            buffered, failed, slow = buffered + 1, failed + is_failed, slow + is_slow
        # Every field by name: `replace` costs more than all the rest of the happy path.
        return Circuit(
            provider=circuit.provider, model=circuit.model, state=circuit.state, since_s=circuit.since_s,
            epoch=circuit.epoch, results=results, buckets=buckets, buffered=buffered, failed=failed, slow=slow,
            needed=self._needed(circuit.state), probes=circuit.probes, probed=circuit.probed,
            openings=circuit.openings, not_permitted=circuit.not_permitted, tripped=circuit.tripped,
        )  # fmt: skip

    def due(self, circuit: Circuit, now_s: float) -> Circuit | None:
        """The circuit after the next transition that time alone brings, or None when none is due.

        The half-open limit counts from its own moment, not from when somebody looked: the cooldown that follows
        may be over already.
        """
        limit = self.half_open_limit_s
        if circuit.state == "half_open" and limit is not None and now_s >= circuit.since_s + limit:
            return self._changed(circuit, self.half_open_then, circuit.since_s + limit)
        if circuit.state == "open" and self.automatic and now_s >= circuit.since_s + self.wait_s(circuit.openings):
            return self._changed(circuit, "half_open", now_s)
        return None

    def again(self, inputs: Mapping[str, Any]) -> Circuit:
        """The circuit that a logged transition led to, decided again from the inputs in the log.

        inputs: event (call, result, time, forced, reset), circuit (`Circuit.as_dict`), now_s; for a result also
        permit, ok and duration_s; for forced also `to`.
        """
        circuit, now_s = Circuit.from_dict(inputs["circuit"]), inputs["now_s"]
        match inputs["event"]:
            case "call":
                return self.admit(circuit, now_s)[0]
            case "result":
                permit, ok = Permit(**inputs["permit"]), inputs["ok"]
                return self.record(circuit, permit, ok=ok, duration_s=inputs["duration_s"], now_s=now_s)
            case "time":
                return self.due(circuit, now_s) or circuit
            case "reset":
                return self.reset(circuit, now_s)
            case "forced":
                return self.force(circuit, inputs["to"], now_s)
        raise _bad("event", inputs["event"], "one of call, result, time, reset, forced")

    def _settled(self, circuit: Circuit, now_s: float) -> Circuit:
        # A clock that went back (a circuit kept over a restart) must not hold a circuit longer than one wait.
        if now_s < circuit.since_s:
            circuit = replace(circuit, since_s=now_s)
        while (later := self.due(circuit, now_s)) is not None:
            circuit = later
        return circuit

    def _changed(self, circuit: Circuit, state: State, since_s: float) -> Circuit:
        """The circuit in another state; only an open one keeps its window, as the evidence."""
        changed = replace(circuit, state=state, since_s=since_s, epoch=circuit.epoch + 1, probes=(), probed=0)
        if state == "open":
            return replace(changed, openings=circuit.openings + 1)
        openings = circuit.openings if state == "half_open" else 0
        return replace(_emptied(changed), needed=self._needed(state), openings=openings)

    def _needed(self, state: State) -> int:
        if state == "half_open":
            return self.permits
        return self.minimum_calls if self.window_s is not None else min(self.minimum_calls, self.window_calls)

    def _has_room(self, circuit: Circuit) -> bool:
        return circuit.state == "half_open" and len(circuit.probes) + circuit.buffered < self.permits

    def _kept(self, circuit: Circuit, second: int) -> tuple[tuple[Bucket, ...], int, int, int]:
        """The buckets that are in the time window at `second`, and their totals."""
        buckets, oldest, dropped = _moved_back(circuit.buckets, second), second - (self.window_s or 0), 0
        calls, failed, slow = circuit.buffered, circuit.failed, circuit.slow
        for at, more_calls, more_failed, more_slow in buckets:
            if at > oldest:
                break
            dropped += 1
            calls, failed, slow = calls - more_calls, failed - more_failed, slow - more_slow
        return buckets[dropped:], calls, failed, slow


def _emptied(circuit: Circuit) -> Circuit:
    return replace(circuit, results="", buckets=(), buffered=0, failed=0, slow=0, tripped=False)


def _added(buckets: tuple[Bucket, ...], bucket: Bucket) -> tuple[Bucket, ...]:
    """The buckets with one more, joined with the last where both are of one second."""
    if not buckets or buckets[-1][0] != bucket[0]:
        return (*buckets, bucket)
    second, calls, failed, slow = buckets[-1]
    return (*buckets[:-1], (second, calls + bucket[1], failed + bucket[2], slow + bucket[3]))


def _moved_back(buckets: tuple[Bucket, ...], second: int) -> tuple[Bucket, ...]:
    """The buckets after the clock went back: what it now calls the future happened by `second`."""
    if not buckets or buckets[-1][0] <= second:
        return buckets
    moved: tuple[Bucket, ...] = ()
    for at, calls, failed, slow in buckets:
        moved = _added(moved, (min(at, second), calls, failed, slow))
    return moved


def _until(due_s: float, now_s: float) -> float:
    """Seconds from now until `due_s`, rounded so that now plus them is never a hair too early."""
    left = due_s - now_s
    return max(left if now_s + left >= due_s else math.nextafter(due_s, math.inf) - now_s, 0.0)


def _checked(field: str, value: Any) -> float:
    low, high, inclusive, whole = _RANGES[field]
    allowed = f"{'a whole number' if whole else 'a number'} in {'[' if inclusive else '('}{low}, {high}]"
    if isinstance(value, bool) or not issubclass(type(value), numbers.Real):
        raise _bad(field, value, allowed)
    number = float(value) if low <= value <= high else math.nan  # the range first: 10**400 has no float
    if math.isnan(number) or (number == low and not inclusive) or (whole and not number.is_integer()):
        raise _bad(field, value, allowed)
    return int(number) if whole else number


def _bad(field: str, value: object, allowed: str) -> LLMValidationError:
    try:
        shown = f"{value!r:.40}"
    except Exception:  # an integer with more digits than Python prints, or a broken repr
        shown = f"a {type(value).__name__}"
    allowed += ", or None" if field in _OPTIONAL else ""
    return LLMValidationError(
        f"the circuit breaker's {field} is {shown}, not {allowed}",
        code="validation.config",
        next_step=f"set {field} to {allowed}",
    )
