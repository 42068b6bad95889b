"""Sixteen situations of a failing provider, what is asked of a client in each, and in which order that is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.exam.wall import FULL, TEXT, Seen, Timings
from workbench.errors import LLMError
from workbench.facts import Response

A, B = "ok", "ok-noprefill"
PASS, PARTIAL, SAFE, FAIL = "pass", "partial", "safe", "fail"
PROMPT = "Please repeat the sixty words that you were taught to say whenever somebody asks for them again"


@dataclass(frozen=True, slots=True, kw_only=True)
class One:
    """One request: when it was sent, how long it took, and what came; None: nothing (a hang)."""

    sent_s: float
    took_s: float
    result: Response | LLMError | None

    @property
    def answered(self) -> bool:
        return isinstance(self.result, Response)

    @property
    def complete(self) -> bool:
        return isinstance(self.result, Response) and self.result.text.split() == TEXT.split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One scenario as it went: the requests, what the provider saw, and whether the client still worked after it."""

    requests: tuple[One, ...]
    seen: tuple[Seen, ...]
    primary: str
    fallback: str | None
    alive: bool = True
    timings: Timings = FULL

    @property
    def one(self) -> One:
        return self.requests[0]

    @property
    def on_primary(self) -> list[Seen]:
        return [s for s in self.seen if s.model == self.primary]

    @property
    def on_fallback(self) -> list[Seen]:
        return [s for s in self.seen if s.model == self.fallback]

    def primary_within(self, seconds: float) -> int:
        """Attempts on the primary in the first seconds."""
        return sum(s.at_s <= seconds for s in self.on_primary)

    @property
    def first_gap_s(self) -> float | None:
        """Seconds between the first two attempts on the primary."""
        times = [s.at_s for s in self.on_primary]
        return times[1] - times[0] if len(times) > 1 else None


Check = Callable[[Ran], bool | None]  # None: does not apply


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """name, the primary's and the fallback's model, the limit beyond which it hangs, and the checks by name."""

    name: str
    model: str
    limit_s: float
    fallback: str = A
    required: tuple[tuple[str, Check], ...] = ()
    advisory: tuple[tuple[str, Check], ...] = ()
    informational: tuple[tuple[str, Check], ...] = ()
    error_is_right: bool = False
    series: bool = False

    def limit_of(self, timings: Timings) -> float:
        return timings.each_s if self.series else self.limit_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """pass, partial, safe or fail, and the checks that were not met."""

    word: str
    missed: tuple[str, ...] = ()


def judged(scenario: Scenario, ran: Ran) -> Verdict:
    """The verdict; the order of the questions is part of the exam."""
    if any(one.result is None for one in ran.requests):
        return Verdict(word=FAIL, missed=("hang",))
    if not scenario.error_is_right and any(one.answered and not one.complete for one in ran.requests):
        return Verdict(word=FAIL, missed=("truncated success",))
    if missed := _missed(scenario.required, ran):
        return Verdict(word=FAIL, missed=missed)
    rescued = all(one.complete for one in ran.requests)
    if scenario.error_is_right:
        if ran.one.answered:
            return Verdict(word=PARTIAL, missed=("a clean error",))
        rescued = True
    if not rescued:
        return Verdict(word=SAFE)
    missed = _missed(scenario.advisory, ran)
    return Verdict(word=PARTIAL if missed else PASS, missed=missed)


def _missed(checks: Sequence[tuple[str, Check]], ran: Ran) -> tuple[str, ...]:
    return tuple(name for name, check in checks if check(ran) is False)


# -- checks


def shrinks(sizes: Sequence[int | None]) -> bool:
    """Whether there was one attempt, or a second that was smaller than the first; an unknown size is a repetition."""
    if len(sizes) <= 1:
        return True
    first, second, *more = sizes
    return not more and first is not None and second is not None and second < first


def total_s(limit_s: float) -> tuple[str, Check]:
    """The whole request within a limit."""
    return f"total <= {limit_s:g} s", lambda ran: ran.one.took_s <= limit_s


def total_with_fallback_s(limit_s: float) -> tuple[str, Check]:
    """The same where there is a fallback to go to."""
    return f"total <= {limit_s:g} s", lambda ran: None if ran.fallback is None else ran.one.took_s <= limit_s


def primaries(most: int, *, least: int = 0, within_s: float = 1e9) -> tuple[str, Check]:
    """A number of attempts on the primary, in the first seconds or in all."""
    when = f" within {within_s:g} s" if within_s < 1e9 else ""
    return f"{least} <= P{when} <= {most}", lambda ran: least <= ran.primary_within(within_s) <= most


def _usage(ran: Ran) -> bool:
    result = ran.one.result
    return (
        isinstance(result, Response)
        and result.usage.prompt_tokens is not None
        and result.usage.completion_tokens is not None
        and not result.estimated
    )


def _usage_with_fallback(ran: Ran) -> bool | None:
    return None if ran.fallback is None else _usage(ran)


def _names_fallback(ran: Ran) -> bool | None:
    if ran.fallback is None or not ran.on_fallback:
        return None
    return isinstance(ran.one.result, Response) and ran.fallback in ran.one.result.model


def _no_prefill_error(ran: Ran) -> bool:
    return ran.one.answered or not any(s.did == "prefill" for s in ran.seen)


def _outage_served(ran: Ran) -> bool | None:
    if ran.fallback is None:
        return None
    return all(one.answered for one in ran.requests if one.sent_s < ran.timings.outage_s)


def _back_soon(ran: Ran) -> bool | None:
    if ran.fallback is None:
        return None
    back_s = back_after_s(ran)
    return back_s is not None and back_s <= 30.0


def back_after_s(ran: Ran) -> float | None:
    """Seconds from the end of the outage to the primary's first answer."""
    return next((s.at_s - ran.timings.outage_s for s in ran.on_primary if s.did == "ok"), None)


def useless(ran: Ran) -> int:
    """Attempts on the primary during the outage."""
    return sum(s.at_s < ran.timings.outage_s for s in ran.on_primary)


_ALIVE: tuple[str, Check] = ("alive afterwards", lambda ran: ran.alive)
_SIX = primaries(6)

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="S01",
        model="limited-once",
        limit_s=20,
        required=(primaries(2, within_s=1.5),),
        advisory=(
            primaries(1_000, least=2),
            ("gap >= 1.8 s", lambda ran: ran.first_gap_s is not None and ran.first_gap_s >= 1.8),
        ),
    ),
    Scenario(name="S02", model="limited", limit_s=40, required=(primaries(4, within_s=3.0), _SIX)),
    Scenario(name="S03", model="server-once", limit_s=20, advisory=(primaries(1_000, least=2),)),
    Scenario(name="S04", model="overloaded", limit_s=40, required=(_SIX,)),
    Scenario(name="S05", model="reset-once", limit_s=20),
    Scenario(name="S06", model="silent", limit_s=130, required=(total_s(100),), advisory=(primaries(1),)),
    Scenario(name="S07", model="slow", limit_s=60, advisory=(total_with_fallback_s(15),)),
    Scenario(name="S08", model="cut", limit_s=40),
    Scenario(name="S09", model="stall", limit_s=70, required=(total_s(45), _ALIVE)),
    Scenario(
        name="S10",
        model="broken",
        limit_s=30,
        required=(_ALIVE,),
        advisory=(("complete text", lambda ran: ran.one.complete),),
    ),
    Scenario(name="S11", model="no-done", limit_s=30, required=(total_s(8),), advisory=(("usage", _usage),)),
    Scenario(
        name="S12",
        model="too-long",
        limit_s=20,
        required=(("no resend", lambda ran: shrinks([s.size for s in ran.on_primary])), primaries(2)),
    ),
    Scenario(
        name="S13",
        model="filtered",
        limit_s=20,
        required=(primaries(1, least=1),),
        informational=(("F >= 1", lambda ran: bool(ran.on_fallback)),),
        error_is_right=True,
    ),
    Scenario(
        name="S14",
        model="cut",
        fallback=B,
        limit_s=40,
        required=(("no error after a refused prefill", _no_prefill_error),),
    ),
    Scenario(
        name="S15",
        model="flap",
        limit_s=30,
        series=True,
        required=(("outage served", _outage_served), ("back within 30 s", _back_soon)),
        informational=(("P <= requests in the outage", lambda ran: useless(ran) <= 15),),
    ),
    Scenario(
        name="S16",
        model="overloaded",
        limit_s=40,
        required=(("names the fallback", _names_fallback), _SIX),
        advisory=(("usage", _usage_with_fallback),),
    ),
)

# Not of the exam: four of its faults on answers that are not streamed.
WHOLE = tuple(Scenario(name=f"whole {model}", model=model, limit_s=30) for model in ("slow", "cut", "stall", "broken"))
