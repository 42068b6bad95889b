"""Whether a failed call is made again, when, and how many such calls a fleet may cause.

Two values, no clock and no chance: `RetryPolicy` looks at one failure and names the next step, `Bucket` bounds what
all callers together may add to a failing provider. A failure's own `retryable` is trusted: it was set where the
provider's answer was translated. Whether another model *may* take over is decided by the caller, who passes
`alternatives=0` where it may not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from workbench.errors import LLMValidationError
from workbench.facts import Failure

HINT_JITTER_S = 0.25
MAX_EXPONENT = 2**53  # the largest power that floats still count one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Tokens that retries (or hedges) are paid with: every call earns a little, every retry costs one.

    tokens: in [0, capacity]; more than the capacity, and so the default, means full.
    capacity: > 0, what may be used at once after a quiet time. ratio: >= 0, tokens earned per call.
    N calls cause at most capacity + ratio * N retries, however they fail. Counted in billionths of a token, so that
    ten credits of 0.1 are one token.
    Raises LLMValidationError validation.config. Source: gRPC proposal A6, "Throttling Retry Attempts and Hedged
    RPCs", which also fills by a ratio; the 10 % of the Google SRE book, "Addressing Cascading Failures".
    """

    tokens: float = math.inf
    capacity: float = 100.0
    ratio: float = 0.1

    def __post_init__(self) -> None:
        for name in ("capacity", "ratio"):
            object.__setattr__(self, name, checked(name, getattr(self, name), positive=name == "capacity"))
        full = isinstance(self.tokens, float) and self.tokens == math.inf
        tokens = self.capacity if full else min(checked("tokens", self.tokens), self.capacity)
        object.__setattr__(self, "tokens", tokens)

    def credit(self) -> Bucket:
        """The bucket after one call has begun."""
        if self.tokens == self.capacity:  # as it mostly is
            return self
        return replace(self, tokens=min(self.capacity, round(self.tokens + self.ratio, 9)))

    def debit(self, cost: float = 1.0) -> Bucket | None:
        """The bucket after a retry was paid for, or None when it holds less than `cost` tokens (cost > 0)."""
        cost = checked("cost", cost, positive=True)
        return None if self.tokens < cost else replace(self, tokens=max(0.0, round(self.tokens - cost, 9)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What to do after a failure.

    action: `retry` the same model after delay_s seconds, `failover` to another at once, or `stop`.
    reason: a few words for the log and for the message.
    give_up: which error ends the call when there is nothing left to do: the `failure` itself, or the `deadline`.
    """

    action: Literal["retry", "failover", "stop"]
    delay_s: float = 0.0
    reason: str
    give_up: Literal["failure", "deadline"] = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter, bounded by the deadline, the provider's hint and the retry bucket.

    max_retries: further attempts per model, a whole number >= 0; 0 means one attempt.
    base_delay_s, max_delay_s: >= 0; first and largest ceiling of the drawn delay. backoff_factor: >= 1.
    max_retry_after_s: >= 0; a longer hint of the provider is not waited for.
    Raises LLMValidationError validation.config. Source: AWS Architecture Blog, "Exponential Backoff And Jitter"
    (2015), the variant "full jitter"; callers that failed together do not come back together.
    """

    max_retries: int = 2
    base_delay_s: float = 0.5
    backoff_factor: float = 2.0
    max_delay_s: float = 8.0
    max_retry_after_s: float = 60.0
    name: ClassVar[str] = "full_jitter"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        retries = self.max_retries
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise _refused("max_retries", retries, "a whole number >= 0; 0 means one attempt")
        for name in ("base_delay_s", "max_delay_s", "max_retry_after_s"):
            object.__setattr__(self, name, checked(name, getattr(self, name)))
        object.__setattr__(self, "backoff_factor", checked("backoff_factor", self.backoff_factor, least=1.0))

    def ceiling_s(self, attempt: int) -> float:
        """Largest delay after the attempt with this number, counted from 1: min(max, base * factor^(attempt - 1)).

        Raises LLMValidationError validation.input for a number below 1.
        """
        if isinstance(attempt, bool) or not isinstance(attempt, int) or attempt < 1:
            raise _misused("attempt", attempt, "a whole number >= 1")
        if self.base_delay_s == 0:
            return 0.0
        try:
            return min(self.max_delay_s, self.base_delay_s * self.backoff_factor ** min(attempt - 1, MAX_EXPONENT))
        except OverflowError:
            return self.max_delay_s

    def delay_s(
        self, attempt: int, *, draw: float, retry_after_s: float | None = None, overloaded: bool = False
    ) -> float:
        """Seconds to wait after a failed attempt (counted from 1), never negative.

        draw: in [0, 1). overloaded: the provider is short of capacity; doubles the ceiling.
        retry_after_s: the provider's hint. It wins, and up to 0.25 s are drawn on top: never earlier than asked, and
        not all at the same moment. A negative or non-finite hint is no hint.
        Raises LLMValidationError validation.input for an attempt or a draw out of range.
        """
        if isinstance(draw, bool) or not isinstance(draw, int | float) or not 0 <= draw < 1:
            raise _misused("draw", draw, "a number in [0, 1)")
        ceiling = self.ceiling_s(attempt) * (2 if overloaded else 1)
        if (hint := _hint(retry_after_s)) is not None:
            return hint + draw * min(HINT_JITTER_S, ceiling)
        return draw * ceiling

    def __call__(
        self,
        *,
        attempt: int,
        failure: Failure,
        draw: float,
        remaining_s: float | None,
        tokens: float,
        alternatives: int,
        delivered: bool = False,
        silent: bool = False,
    ) -> Next:
        """The next step after the failure of an attempt, counted from 1 on this model; the rules apply in order.

        remaining_s: to the deadline, or None without one. tokens: left in the bucket. alternatives: other models
        that are still untried and allowed. delivered: text of the answer had already arrived. silent: a first-token
        or idle limit passed.
        """

        def leave(reason: str, give_up: Literal["failure", "deadline"] = "failure") -> Next:
            return Next(action="failover" if alternatives > 0 else "stop", reason=reason, give_up=give_up)

        if not failure.retryable:
            return leave("not retryable")
        if attempt > self.max_retries:
            return leave("no retries left")
        # The same request to a route that cut or kept silent mostly meets the same end, and is paid for again.
        if (delivered or silent) and alternatives > 0:
            return leave("stream was cut" if delivered else "route was silent")
        overloaded = failure.code == "provider.overloaded" or failure.status == 529
        if overloaded and alternatives > 0:
            return leave("provider is overloaded")
        if failure.code == "provider.connection" and not failure.possibly_billed and alternatives > 0:
            return leave("nobody is there")
        hint = _hint(failure.retry_after_s)
        delay = self.delay_s(attempt, draw=draw, retry_after_s=hint, overloaded=overloaded)
        if hint is not None and hint > self.max_retry_after_s:
            return leave("asked to wait longer than max_retry_after_s")
        if remaining_s is not None and not delay < remaining_s:
            # Where the provider chose the wait, its refusal says more than our deadline.
            if hint is not None and not hint < remaining_s:
                return leave("asked to wait past the deadline")
            return leave("delay would pass the deadline", "deadline")
        if alternatives > 0 and delay > self.max_delay_s:
            return leave("another model answers sooner")
        if tokens < 1:
            return leave("retry budget is empty")
        return Next(action="retry", delay_s=delay, reason="retryable")


def checked(name: str, value: object, *, least: float = 0.0, positive: bool = False) -> float:
    """A setting as a float, when it is a finite number >= `least` (or > 0).

    Raises LLMValidationError validation.config that names the field, the value and what is allowed.
    """
    allowed = "a finite number > 0" if positive else f"a finite number >= {least:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused(name, value, allowed)
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the range of floats
        raise _refused(name, value, allowed) from None
    if not math.isfinite(number) or number < least or (positive and number == 0):
        raise _refused(name, value, allowed)
    return number


def _hint(retry_after_s: float | None) -> float | None:
    """The provider's hint as a number of seconds >= 0, or None where it is none that can be waited for."""
    return retry_after_s if retry_after_s is not None and 0 <= retry_after_s < math.inf else None


def _shown(value: object) -> str:
    try:
        return repr(value)[:40]
    except ValueError:  # an integer with more digits than Python prints
        return "a number beyond all bounds"


def _refused(name: str, value: object, allowed: str) -> LLMValidationError:
    return LLMValidationError(
        f"{name} is {_shown(value)}, not {allowed}", code="validation.config", next_step=f"set {name} to {allowed}"
    )


def _misused(name: str, value: object, allowed: str) -> LLMValidationError:
    return LLMValidationError(
        f"{name} is {_shown(value)}, not {allowed}", code="validation.input", next_step=f"pass {name} as {allowed}"
    )
