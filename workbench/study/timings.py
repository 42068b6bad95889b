"""How long answers took, how often they came and what they cost: percentiles, shares and sums with intervals.

Everything is read from the log of `measure` (study/latency.py). The times of failed questions count too: giving up
quickly must not look like answering quickly, and neither must waiting long for nothing be left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workbench.errors import LLMValidationError
from workbench.study.latency import OPERATION
from workbench.study.stats import wilson_interval
from workbench.study.suite import EXACT_ANSWER
from workbench.study.table import Reader

Floats = NDArray[np.float64]
SAMPLES = 2_000  # resamples of an interval: a quantile sorts each of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One question of a run.

    setup: the name of what was asked. at_s: when, in seconds since the run began. took_ms: until the answer or the
    error. code: of the error, None for an answer. right: its score in [0, 1]. cost_usd: of what is known to be billed.
    booked_usd: what budgets were charged, which adds the worst case of requests that were given up and may be billed.
    sources: of the answers it got, as the log has them. clock, server: of its run (see `Summary`).
    """

    setup: str
    item_id: str
    at_s: float
    took_ms: float
    ok: bool
    code: str | None
    right: float
    attempts: int
    cost_usd: float
    booked_usd: float
    sources: tuple[str, ...]
    clock: str
    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval: of a share Wilson's, of anything else a bootstrap's."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One setup in numbers, over all its n questions, answered or not.

    p50_ms, p95_ms, p99_ms: of the time until the answer or the error; p99_ms has no interval, for with few questions
    it is the slowest of them. answered, right: shares. cost_usd, booked_usd, attempts: per question (see Timed).
    source: of the answers, as the log has it. clock: of the times, `real` or `virtual`. server: behind live answers,
    `simulated`, `partly simulated` or empty (see `study.latency.server_of`). Both are empty in older logs.
    """

    run_id: str
    name: str
    n: int
    p50_ms: Estimate
    p95_ms: Estimate
    p99_ms: float
    answered: Estimate
    right: Estimate
    cost_usd: float
    booked_usd: float
    attempts: float
    source: str
    clock: str
    server: str
    samples: int
    seed: int


# One query for all runs: each reading takes a snapshot of the log.
_QUESTIONS = """
    with asked as (select * from runs where list_contains($1, run_id)),
    spent as (
        select run_id, item_id, count(*) filter (attempt > 0) as attempts, coalesce(sum(cost_usd), 0) as cost_usd,
            coalesce(sum(greatest(coalesce(booked_usd, 0), coalesce(cost_usd, 0))), 0) as booked_usd,
            list(distinct source) filter (source is not null) as sources
        from every_attempt where list_contains($1, run_id) group by all)
    select r.run_id, r.name, s.attributes->>'item_id' as item, (s.start_unix_ns - r.start_unix_ns) / 1e9,
        s.duration_ms, s.ok, s.failure_code, coalesce(v.value, 0), coalesce(a.attempts, 0), coalesce(a.cost_usd, 0),
        coalesce(a.booked_usd, 0), coalesce(a.sources, []),
        coalesce(r.spec->>'clock', ''), coalesce(r.spec->>'server', '')
    from asked r join spans s on s.run_id = r.run_id and s.component = 'study' and s.operation = $2
    left join spent a on a.run_id = s.run_id and a.item_id = s.attributes->>'item_id'
    left join scores v on v.run_id = s.run_id and v.item_id = s.attributes->>'item_id' and v.scorer = $3
    order by s.start_unix_ns, item
"""


def questions(reader: Reader, *run_ids: str) -> dict[str, list[Timed]]:
    """The questions of each run, in the order in which they were asked.

    Raises LLMValidationError run.unknown for a run without any.
    """
    found: dict[str, list[Timed]] = {run_id: [] for run_id in run_ids}
    rows = reader.rows(_QUESTIONS, [list(run_ids), OPERATION, EXACT_ANSWER])
    for run_id, name, item, at_s, took_ms, ok, code, right, attempts, cost, booked, sources, clock, server in rows:
        found[run_id].append(
            Timed(
                setup=name, item_id=item, at_s=at_s, took_ms=took_ms, ok=ok, code=code, right=right,
                attempts=attempts, cost_usd=cost, booked_usd=booked, sources=tuple(sorted(sources)),
                clock=clock, server=server,
            )
        )  # fmt: skip
    if empty := [run_id for run_id, rows in found.items() if not rows]:
        raise LLMValidationError(
            f"run {empty[0]} has no timed questions", code="run.unknown", next_step="pass what measure(...) returned"
        )
    return found


def summaries(reader: Reader, run_ids: Sequence[str], *, samples: int = SAMPLES, seed: int = 0) -> list[Summary]:
    """Each run in numbers, in the order given.

    Raises LLMValidationError run.unknown for a run without questions, stats.items for one with a single question.
    """
    found = questions(reader, *run_ids)
    return [_summary(run_id, found[run_id], samples, seed) for run_id in run_ids]


def _summary(run_id: str, rows: Sequence[Timed], samples: int, seed: int) -> Summary:
    took = np.array([row.took_ms for row in rows])

    def of_quantile(q: float) -> Estimate:
        low, high = quantile_interval(took, q, samples=samples, seed=seed)
        return Estimate(value=float(np.quantile(took, q)), low=low, high=high)

    def share(values: Sequence[float]) -> Estimate:
        mean = sum(values) / len(values)
        low, high = wilson_interval(mean, len(values))
        return Estimate(value=mean, low=low, high=high)

    return Summary(
        run_id=run_id,
        name=rows[0].setup,
        n=len(rows),
        p50_ms=of_quantile(0.5),
        p95_ms=of_quantile(0.95),
        p99_ms=float(np.quantile(took, 0.99)),
        answered=share([float(row.ok) for row in rows]),
        right=share([row.right for row in rows]),
        cost_usd=sum(row.cost_usd for row in rows) / len(rows),
        booked_usd=sum(row.booked_usd for row in rows) / len(rows),
        attempts=sum(row.attempts for row in rows) / len(rows),
        source="+".join(sorted({source for row in rows for source in row.sources})) or "none",
        clock=rows[0].clock,
        server=rows[0].server,
        samples=samples,
        seed=seed,
    )


def quantile_interval(
    values: Floats, q: float, *, samples: int = SAMPLES, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of a quantile (linear interpolation), resampling the values; (low, high) in their unit.

    q: in [0, 1]. Of few values the extreme quantiles are known badly, and such an interval never goes beyond the
    largest value seen: it is too short rather than too long.
    Source: Efron & Tibshirani 1993, chapter 13. Raises LLMValidationError stats.items for fewer than 2 values.
    """
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2:
        raise LLMValidationError(
            f"an interval needs at least 2 values, found {len(found)}",
            code="stats.items",
            next_step="measure more questions",
        )
    drawn = np.random.default_rng(seed).integers(0, len(found), (samples, len(found)))
    quantiles = np.quantile(found[drawn], q, axis=1)
    tail = (1 - level) / 2 * 100
    low, high = np.percentile(quantiles, [tail, 100 - tail])
    return float(low), float(high)
