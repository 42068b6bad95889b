"""What happens in one simulated world, all of it drawn from one seed: models, faults, callers, limits, clock jumps."""

from __future__ import annotations

import random
from dataclasses import dataclass

from workbench.act.admission import Discipline
from workbench.act.lanes import Limits
from workbench.decide.breaker import Breaker
from workbench.decide.rate import RateLimit
from workbench.decide.retry import Bucket, RetryPolicy

STATUSES = (500, 502, 503, 504, 529, 408, 409, 429, 401, 402, 403, 404, 400, 451, 302, 204)
FAULTS = (
    "status",
    "status",
    "limited",
    "limited_date",
    "quota",
    "context",
    "filtered",
    "refused",
    "reset",
    "fin",
    "cut",
    "reset_inside",
    "silent",
    "stall",
    "slow",
    "drip",
    "malformed",
    "broken_event",
    "error_event",
    "empty",
    "no_usage",
    "lie",
    "flaky",
    "whole_instead",
    "ends_early",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """One model: where it is, what it charges per million tokens, and how fast it talks."""

    provider: str
    wire: str
    model: str
    prices: tuple[float, float] | None
    window: int | None
    max_output: int | None
    latency_s: float
    piece_s: float
    pieces: int
    limits: Limits | None

    @property
    def name(self) -> str:
        return f"{self.provider}:{self.model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A fault of one model from start_s to end_s; amount is what the fault makes of it."""

    model: str
    start_s: float
    end_s: float
    fault: str
    amount: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One call: when, of whom, how it is made, and how the caller loses patience."""

    number: int
    at_s: float
    models: tuple[int, ...]
    how: str
    timeout_s: float | None
    max_tokens: int | None
    run_id: str | None
    cancel_s: float | None
    cancel_again_s: float | None
    leave_after: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One world.

    heal_s: when all faults are over. jumps: seconds by which the wall clock jumps, by time. connections: open at once.
    """

    seed: int
    models: tuple[ModelPlan, ...]
    outages: tuple[Outage, ...]
    callers: tuple[Caller, ...]
    discipline: Discipline
    budget: tuple[tuple[str, int], ...]
    jumps: tuple[tuple[float, float], ...]
    heal_s: float
    connections: int | None

    @property
    def lies(self) -> bool:
        """Whether a provider may report more tokens than a call can have: an overrun is then its doing."""
        return any(outage.fault == "lie" for outage in self.outages)


def planned(seed: int) -> Plan:
    """The plan of a seed."""
    chance = random.Random(f"plan {seed}")
    heal_s = chance.uniform(20.0, 90.0)
    models = tuple(_model(chance, number) for number in range(chance.randint(1, 4)))
    outages = tuple(_outage(chance, model, heal_s) for model in models for _ in range(chance.choice((0, 1, 1, 2, 3))))
    callers = tuple(_caller(chance, number, len(models), heal_s) for number in range(chance.randint(2, 9)))
    return Plan(
        seed=seed,
        models=models,
        outages=outages,
        callers=callers,
        discipline=_discipline(chance),
        budget=_budget(chance),
        jumps=_jumps(chance, heal_s),
        heal_s=heal_s,
        connections=chance.choice((None, None, None, None, 1, 2)),
    )


def _maybe(chance: random.Random, share: float, value: float) -> float | None:
    return value if chance.random() < share else None


def _model(chance: random.Random, number: int) -> ModelPlan:
    wire = chance.choice(("openai", "openai", "anthropic", "gemini"))
    prices = chance.choice((None, (0.0, 0.0), (1.0, 2.0), (2.5, 10.0), (0.15, 0.6), (30.0, 60.0)))
    return ModelPlan(
        provider=f"{wire}{chance.randint(0, 1)}",
        wire=wire,
        model=f"m{number}",
        prices=prices,
        window=chance.choice((None, 8_192, 131_072)),
        max_output=chance.choice((None, 64, 1_000, 100_000)),
        latency_s=chance.choice((0.0, 0.01, 0.2, 1.0, 3.0)),
        piece_s=chance.choice((0.0, 0.01, 0.3)),
        pieces=chance.randint(1, 6),
        limits=_limits(chance),
    )


def _limits(chance: random.Random) -> Limits | None:
    if chance.random() < 0.6:
        return None
    tokens = chance.choice((None, 150_000, 300_000))
    rate = RateLimit(requests_per_minute=chance.choice((None, 3, 7.5, 60)), tokens_per_minute=tokens)
    return Limits(rate=rate if chance.random() < 0.7 else None, concurrency=chance.choice((None, 1, 2, 5)))


def _outage(chance: random.Random, model: ModelPlan, heal_s: float) -> Outage:
    start_s = chance.choice((0.0, chance.uniform(0.0, heal_s)))
    end_s = min(start_s + chance.choice((0.5, 5.0, 20.0, 100.0)) * chance.random(), heal_s)
    amount = chance.random()
    return Outage(model=model.name, start_s=start_s, end_s=end_s, fault=chance.choice(FAULTS), amount=amount)


def _caller(chance: random.Random, number: int, models: int, heal_s: float) -> Caller:
    chain = tuple(chance.sample(range(models), chance.randint(1, models)))
    how = chance.choice(("complete", "complete", "ask", "stream"))
    cancel_s = chance.choice((0.0, 0.2, 1.0, chance.uniform(0, 40.0))) if chance.random() < 0.25 else None
    again_s = None if cancel_s is None or chance.random() < 0.6 else cancel_s + chance.choice((0.0, 0.0, 0.5))
    return Caller(
        number=number,
        at_s=chance.choice((0.0, 5.0, chance.uniform(0.0, heal_s))),  # many at one moment, others alone
        models=chain,
        how=how,
        timeout_s=chance.choice((0.3, 2.0, 45.0)) if how == "ask" and chance.random() < 0.5 else None,
        max_tokens=chance.choice((None, None, 16, 256)),
        run_id=chance.choice((None, "r1", "r2")),
        cancel_s=cancel_s,
        cancel_again_s=again_s,
        leave_after=chance.randint(0, 3) if how == "stream" and chance.random() < 0.4 else None,
    )


def _discipline(chance: random.Random) -> Discipline:
    breaker = Breaker(
        failure_rate=chance.choice((0.3, 0.5, 0.7, 1.0)),
        minimum_calls=chance.choice((1, 2, 3, 5)),
        window_calls=chance.choice((3, 10, 20)),
        window_s=chance.choice((None, None, 10)),
        cooldown_s=chance.choice((1.0, 5.0, 30.0)),
        cooldown_factor=chance.choice((1.0, 2.0)),
        max_cooldown_s=60.0,
        permits=chance.choice((1, 1, 2, 3)),
        half_open_limit_s=chance.choice((None, None, 20.0)),
        half_open_then=chance.choice(("open", "closed")),
        automatic=chance.random() < 0.3,
    )
    retry = RetryPolicy(
        max_retries=chance.choice((0, 1, 2, 5)),
        base_delay_s=chance.choice((0.0, 0.5, 2.0)),
        max_delay_s=chance.choice((0.5, 8.0)),
        max_retry_after_s=chance.choice((5.0, 60.0)),
    )
    return Discipline(
        timeout_s=chance.choice((1.0, 5.0, 30.0, 30.0, 60.0)),
        first_token_s=_maybe(chance, 0.8, chance.choice((0.5, 2.0, 10.0))),
        idle_s=_maybe(chance, 0.8, chance.choice((0.5, 2.0, 10.0))),
        stream=chance.random() < 0.5,
        retry=retry,
        retries=Bucket(capacity=chance.choice((1.0, 3.0, 100.0)), ratio=chance.choice((0.0, 0.1, 1.0))),
        breaker=breaker,
        hedge_after_s=_maybe(chance, 0.4, chance.choice((0.0, 0.1, 1.0, 4.0))),
        hedges=Bucket(capacity=chance.choice((1.0, 5.0)), ratio=chance.choice((0.05, 1.0))),
        failover_on_content_filter=chance.random() < 0.5,
        allow_unknown_price=chance.random() < 0.7,
    )


def _budget(chance: random.Random) -> tuple[tuple[str, int], ...]:
    if chance.random() < 0.65:
        return ()
    scopes = chance.sample(("run:*", "run:r1", "model:*", "month:*"), chance.randint(1, 3))
    return tuple((scope, chance.choice((0, 300, 9_000, 50_000, 1_000_000))) for scope in scopes)


def _jumps(chance: random.Random, heal_s: float) -> tuple[tuple[float, float], ...]:
    count = chance.choice((0, 0, 1, 3))
    steps = (-3600.0, 86_400.0, -0.5, 40.0 * 86_400, -400.0 * 86_400)
    return tuple((chance.uniform(0.0, heal_s), chance.choice(steps)) for _ in range(count))
