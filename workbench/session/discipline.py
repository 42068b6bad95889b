"""Settings as policies of calls: the one place where the numbers of the table meet the rules that use them."""

from __future__ import annotations

from workbench.act.admission import Discipline
from workbench.decide.breaker import Breaker
from workbench.decide.budget import SETTINGS, micro_usd
from workbench.decide.retry import Bucket, RetryPolicy
from workbench.session.table import Settings

HEDGES_AT_ONCE = 5.0


def limits_of(settings: Settings) -> dict[str, int]:
    """The budgets that are set, in micro-US-dollars by pattern of scope.

    Raises LLMValidationError validation.budget for more than an account can hold.
    """
    given = {kind: (name, getattr(settings, name)) for kind, name in SETTINGS.items()}
    return {f"{kind}:*": micro_usd(usd, name) for kind, (name, usd) in given.items() if usd is not None}


def discipline_of(settings: Settings) -> Discipline:
    """The settings of calls and breakers as policies.

    Raises LLMValidationError validation.config for settings that do not go together, such as max_cooldown_s below
    cooldown_s.
    """
    # Full at the beginning, as five second calls may be sent at once; where none is earned, none is given either.
    earned = Bucket(capacity=HEDGES_AT_ONCE, ratio=settings.hedge_ratio)
    none = Bucket(tokens=0.0, capacity=HEDGES_AT_ONCE, ratio=0.0)
    return Discipline(
        timeout_s=settings.timeout_s,
        first_token_s=settings.first_token_s,
        idle_s=settings.idle_s,
        stream=settings.stream,
        retry=RetryPolicy(
            max_retries=settings.max_retries,
            base_delay_s=settings.base_delay_s,
            backoff_factor=settings.backoff_factor,
            max_delay_s=settings.max_delay_s,
            max_retry_after_s=settings.max_retry_after_s,
        ),
        retries=Bucket(capacity=settings.retry_capacity, ratio=settings.retry_ratio),
        breaker=Breaker(
            failure_rate=settings.failure_rate,
            slow_rate=settings.slow_rate,
            slow_call_s=settings.slow_call_s,
            minimum_calls=settings.minimum_calls,
            window_calls=settings.window_calls,
            cooldown_s=settings.cooldown_s,
            cooldown_factor=settings.cooldown_factor,
            max_cooldown_s=settings.max_cooldown_s,
            permits=settings.permits,
        ),
        hedge_after_s=settings.hedge_after_s,
        hedges=earned if settings.hedge_ratio else none,
        failover_on_content_filter=settings.failover_on_content_filter,
        allow_unknown_price=settings.allow_unknown_price,
    )
