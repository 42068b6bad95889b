"""How many requests and tokens may leave in a minute, as a pure value.

A sliding window over slots of one second. A slot counts until everything in it is at least a minute old, so no
window of 60 s, wherever it begins, ever holds more than the limit; the price is at most one second in 61, so a steady
load still reaches 98 % of a limit. A token bucket with a burst of a whole minute would let twice the limit through.

    state, wait_s = limit.admit(state, now_s=now, tokens=900)    # 0.0: booked, go now
                                                                 # else: nothing booked, ask again after wait_s
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar

from workbench.decide.retry import checked
from workbench.errors import LLMRateLimitError, LLMValidationError

MINUTE_S = 60.0
SLOT_S = 1.0
_REQUESTS, _TOKENS = attrgetter("requests"), attrgetter("tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What left in the second that begins at `index` seconds."""

    index: int
    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateState:
    """What left lately, oldest first; at most one slot per second of the window.

    requests, tokens: the sums of all slots, so that a load far below its limit is admitted without adding up.
    """

    slots: tuple[Slot, ...] = ()
    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """A limit on what leaves in any 60 s; None is no limit.

    requests_per_minute: > 0. The fraction of a number above 1 is not used: 2.5 lets 2 through in a minute; 0.5 lets 1
    through in two minutes. tokens_per_minute: a whole number > 0.
    Times are seconds of one monotonic clock; an earlier time than the last one booked counts as that one.
    Raises LLMValidationError validation.config.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: int | None = None
    name: ClassVar[str] = "sliding_window"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        if self.requests_per_minute is not None:
            rate = checked("requests_per_minute", self.requests_per_minute, positive=True)
            object.__setattr__(self, "requests_per_minute", rate)
        if self.tokens_per_minute is not None:
            tokens = checked("tokens_per_minute", self.tokens_per_minute, positive=True)
            if not tokens.is_integer():
                raise LLMValidationError(
                    f"tokens_per_minute is {tokens}, not a whole number",
                    code="validation.config",
                    next_step="set tokens_per_minute to a whole number > 0, or leave it out",
                )
            object.__setattr__(self, "tokens_per_minute", int(self.tokens_per_minute))

    def admit(self, state: RateState, *, now_s: float, tokens: int = 0) -> tuple[RateState, float]:
        """The state after one request with `tokens` tokens was booked, and 0.0; or seconds to wait before asking again.

        A wait > 0 means that nothing was booked. It is the shortest after which the request fits if nobody else comes
        first and nothing is given back.
        Raises LLMRateLimitError rate_limit.local for more tokens than ever fit, LLMValidationError validation.input.
        """
        _check_count("tokens", tokens)
        if self.tokens_per_minute is not None and tokens > self.tokens_per_minute:
            raise LLMRateLimitError(
                f"a request of {tokens} tokens never fits into tokens_per_minute={self.tokens_per_minute}",
                code="rate_limit.local",
                retryable=False,
                next_step="raise tokens_per_minute for this model, shorten the prompt, or lower max_tokens",
            )
        if not math.isfinite(now_s):
            raise _misused("now_s", now_s, "a finite number of seconds")
        slots = state.slots
        index = max(math.floor(now_s / SLOT_S), slots[-1].index if slots else -math.inf)
        free_at = now_s
        if self.requests_per_minute is not None:
            room = math.floor(self.requests_per_minute) or 1
            if state.requests + 1 > room:
                free_at = _free_at(slots, _REQUESTS, 1, room, self._request_window_s, now_s)
        if self.tokens_per_minute is not None and state.tokens + tokens > (room := self.tokens_per_minute) and tokens:
            free_at = max(free_at, _free_at(slots, _TOKENS, tokens, room, MINUTE_S, now_s))
        if free_at > now_s:
            return state, free_at - now_s
        return self._booked(state, int(index), now_s, tokens), 0.0

    def settle(self, state: RateState, *, reserved: int, actual: int, at_s: float) -> RateState:
        """The state after a request admitted at `at_s` with `reserved` tokens turned out to use `actual`.

        More than reserved may put the window over its limit; later requests then wait. Without effect when the request
        has left the window: what is given back then would be taken from a younger request.
        """
        _check_count("reserved", reserved)
        _check_count("actual", actual)
        return _adjusted(state, at_s, requests=0, tokens=actual - reserved)

    def refund(self, state: RateState, tokens: int = 0, *, at_s: float) -> RateState:
        """The state after a request admitted at `at_s` with `tokens` tokens was never sent."""
        _check_count("tokens", tokens)
        return _adjusted(state, at_s, requests=-1, tokens=-tokens)

    def moved(self, state: RateState, *, tokens: int, at_s: float, now_s: float) -> RateState:
        """The state after a request admitted at `at_s` with `tokens` tokens leaves only now, having waited elsewhere.

        It counts from now on, also where that puts the window over its limit: later requests then wait.
        """
        if math.floor(at_s / SLOT_S) == math.floor(now_s / SLOT_S):
            return state
        kept = self.refund(state, tokens, at_s=at_s)
        index = max(math.floor(now_s / SLOT_S), kept.slots[-1].index if kept.slots else 0)
        return self._booked(kept, index, now_s, tokens)

    @property
    def _request_window_s(self) -> float:
        """Seconds in which `requests_per_minute` (at least one) may leave."""
        return MINUTE_S / min(1.0, self.requests_per_minute or 1.0)

    def _booked(self, state: RateState, index: int, now_s: float, tokens: int) -> RateState:
        if self.requests_per_minute is None and self.tokens_per_minute is None:
            return RateState()
        # A minute is enough where the window of requests is longer: that one holds a single request, and it has left.
        slots, gone = state.slots, 0
        while gone < len(slots) and slots[gone].index * SLOT_S + SLOT_S + MINUTE_S <= now_s:
            gone += 1
        used, booked = state.requests + 1, state.tokens + tokens
        for slot in slots[:gone]:
            used, booked = used - slot.requests, booked - slot.tokens
        if len(slots) > gone and slots[-1].index == index:
            last = slots[-1]
            slot = Slot(index=index, requests=last.requests + 1, tokens=last.tokens + tokens)
            return RateState(slots=(*slots[gone:-1], slot), requests=used, tokens=booked)
        slot = Slot(index=index, requests=1, tokens=tokens)
        return RateState(slots=(*slots[gone:], slot), requests=used, tokens=booked)


def _free_at(
    slots: Iterable[Slot], amount: Callable[[Slot], int], wanted: int, room: int, window_s: float, now_s: float
) -> float:
    """The first moment from now_s on at which `wanted` fits into `room` beside what still counts.

    A slot counts until everything in it is at least window_s old.
    """
    offset_s = SLOT_S + window_s
    counted = [(end_s, amount(slot)) for slot in slots if (end_s := slot.index * SLOT_S + offset_s) > now_s]
    excess = sum(used for _, used in counted) + wanted - room
    free_at = now_s
    for end_s, used in counted:
        if excess <= 0:
            break
        free_at, excess = end_s, excess - used
    return free_at


def _adjusted(state: RateState, at_s: float, *, requests: int, tokens: int) -> RateState:
    index, slots = math.floor(at_s / SLOT_S), state.slots
    at = next((n for n in range(len(slots) - 1, -1, -1) if slots[n].index == index), None)
    if at is None:
        return state
    old = slots[at]
    new = Slot(index=index, requests=max(0, old.requests + requests), tokens=max(0, old.tokens + tokens))
    return RateState(
        slots=(*slots[:at], new, *slots[at + 1 :]),
        requests=state.requests + new.requests - old.requests,
        tokens=state.tokens + new.tokens - old.tokens,
    )


def _check_count(name: str, count: object) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise _misused(name, count, "a whole number >= 0")


def _misused(name: str, value: object, allowed: str) -> LLMValidationError:
    return LLMValidationError(f"{name} is {value!r}, not {allowed}", next_step=f"pass {name} as {allowed}")
