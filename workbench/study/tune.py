"""Weights of a vote, fitted to a run and judged on the other half; and one setting after another for a slider.

The best of thousands of weight vectors looks better than it is: it was lucky as well (the winner's curse). So three
numbers stand side by side: what the fitted weights gain on the items they were fitted on, by how much such a gain
shrinks on the other half, and what is left there: the honest one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from workbench.decide import votes
from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus
from workbench.decide.pool import Pool
from workbench.decide.reweigh import Landscape, simplex
from workbench.decide.weights import LARGEST, check_members, check_weights, is_finite
from workbench.errors import LLMValidationError
from workbench.study.stats import SPLITS, Verdict, half_splits, resamples, verdict
from workbench.study.table import Floats, RunTable

Goal = Literal["accuracy", "cost", "latency"]
Objective = Goal | Mapping[str, float]
TERMS = ("accuracy", "cost_usd", "latency_ms")
VECTORS = 12_000  # of a grid, at most
FINEST = 20
STRATEGIES = {p.name: p for p in (WeightedConsensus, MajorityVoting, BestOfN)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedWeights:
    """Weights, and what they are worth.

    weights: model -> share, summing to 1: the best vector on all items; of equals, the one nearest to their middle.
    step: of the grid. apparent_delta: their gain over the best single model on the items that they were fitted on.
    optimism: by how much the best vector of a half gains less on the other half, on average. delta, low, high: mean
    and 2.5 / 97.5 percentiles of the gain on the other half: the honest number. shrunk_delta: apparent_delta less
    optimism. cost_usd, latency_ms: of one question to the members with a weight; None where unknown.
    """

    run: str
    source: str
    objective: Mapping[str, float] | str
    weights: Mapping[str, float]
    step: float
    items: int
    unit: str
    best_single: str
    apparent_delta: float
    optimism: float
    shrunk_delta: float
    delta: float
    low: float
    high: float
    verdict: Verdict
    cost_usd: float | None
    latency_ms: float | None
    splits: int
    seed: int

    @property
    def merge(self) -> WeightedConsensus:
        """The merge with these weights."""
        return WeightedConsensus(self.weights)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def fit_weights(
    table: RunTable,
    pool: Pool,
    *,
    objective: Objective = "accuracy",
    splits: int = SPLITS,
    seed: int = 0,
) -> FittedWeights:
    """The weights that serve an objective best, with the gain that they have on items they were not fitted on.

    objective: "accuracy": the best mean score. "cost" or "latency": the cheapest or fastest members whose vote is no
    worse than the best single model. A mapping of accuracy, cost_usd and latency_ms to prices: the largest
    accuracy x its price - cost_usd x its price - latency_ms x its price; accuracy is the mean score.
    Every vector of the simplex is tried, at the finest step of at least 1/20 that leaves no more than 12,000 of them.
    Raises LLMValidationError validation.objective, validation.models, data.no_scores, validation.no_text.
    """
    if len(table.models) < 2:
        raise LLMValidationError(
            "one model has no weights to fit", code="validation.models", next_step="fit the weights of two or more"
        )
    rows = table.scored()
    grid, step = _grid(len(table.models))
    judge = _Judge(objective, grid, pool)
    singles = table.scores[rows]
    honest, optimism = _repeated(table, pool, rows, judge, splits=splits, seed=seed)
    best = int(singles.mean(axis=0).argmax())
    single = singles[:, best].mean()
    scores = Landscape.of(pool.ballots, table.values(), rows=rows, missing=table.nothing).scores(grid)
    winner = judge.best(scores, float(single))
    weights, apparent = grid[winner], scores[winner] - single
    low, high = np.percentile(honest, [2.5, 97.5])
    cost, latency = judge.spent(weights)
    return FittedWeights(
        run=table.run_id,
        source=table.source,
        objective=objective if isinstance(objective, str) else dict(objective),
        weights=dict(zip(table.models, np.round(weights, 6).tolist(), strict=True)),
        step=step,
        items=len(rows),
        unit=table.unit,
        best_single=table.models[best],
        apparent_delta=float(apparent),
        optimism=float(optimism.mean()),
        shrunk_delta=float(apparent - optimism.mean()),
        delta=float(honest.mean()),
        low=float(low),
        high=float(high),
        verdict=verdict(float(low), float(high)),
        cost_usd=cost,
        latency_ms=latency,
        splits=splits,
        seed=seed,
    )


def _repeated(
    table: RunTable, pool: Pool, rows: NDArray[np.intp], judge: _Judge, *, splits: int, seed: int
) -> tuple[Floats, Floats]:
    """Of every half split: the gain on the other half, and how much larger it was on the half that chose."""
    ballots, values, singles, nothing = pool.ballots, table.values(), table.scores[rows], table.nothing
    honest, optimism = np.empty(splits), np.empty(splits)
    for k, half in enumerate(half_splits(len(rows), splits=splits, seed=seed)):
        chosen, judged = (Landscape.of(ballots, values, rows=rows[h], missing=nothing) for h in (half, ~half))
        scores = chosen.scores(judge.grid)
        best = int(singles[half].mean(axis=0).argmax())
        single = singles[half, best].mean()
        winner = judge.best(scores, float(single))
        honest[k] = judged.score(judge.grid[winner]) - singles[~half, best].mean()
        optimism[k] = scores[winner] - single - honest[k]
    return honest, optimism


def _grid(models: int) -> tuple[Floats, float]:
    """Every weight vector of a step, the finest that is not too fine."""
    parts = next((s for s in range(FINEST, 1, -1) if math.comb(s + models - 1, models - 1) <= VECTORS), 1)
    return simplex(models, 1 / parts), 1 / parts


class _Judge:
    """Which of the vectors of a grid serves the objective best, given their scores."""

    def __init__(self, objective: Objective, grid: Floats, pool: Pool) -> None:
        self.objective, self.pool, self.grid = objective, pool, grid
        known = dict(objective) if isinstance(objective, Mapping) else {}
        if not isinstance(objective, Mapping) and not (isinstance(objective, str) and objective in get_args(Goal)):
            raise _no_objective(f"objective {objective!r:.60} is none")
        if isinstance(objective, Mapping):
            if strange := [name for name in known if name not in TERMS]:
                raise _no_objective(f"objective names {', '.join(map(repr, strange))[:80]}")
            if not known or not all(is_finite(price) and 0 <= price <= LARGEST for price in known.values()):
                raise _no_objective(f"the prices of objective are {known!r:.100}, not finite numbers >= 0")
        self.cost = self._each("cost") if objective == "cost" or known.get("cost_usd") else None
        self.latency = self._each("latency") if objective == "latency" or known.get("latency_ms") else None
        self.prices = known

    def best(self, scores: Floats, single: float) -> int:
        """Index of the best vector; of equals, where asking costs, those of fewest members, and then the middle one."""
        price = self.latency if self.cost is None else self.cost
        if self.objective == "accuracy":
            worth = scores
        elif isinstance(self.objective, str) and price is not None:
            able = scores >= single - 1e-12
            worth = np.where(able, -price, -np.inf) if able.any() else scores
        else:
            worth = self.prices.get("accuracy", 0.0) * scores
            for name, spent in (("cost_usd", self.cost), ("latency_ms", self.latency)):
                worth = worth if spent is None else worth - self.prices[name] * spent
        equal = np.flatnonzero(worth >= worth.max() - 1e-12)
        if price is not None:  # nobody is asked who adds nothing
            members = (self.grid[equal] > 0).sum(axis=1)
            equal = equal[members == members.min()]
        middle = self.grid[equal].mean(axis=0)
        return int(equal[np.abs(self.grid[equal] - middle).sum(axis=1).argmin()])

    def spent(self, weights: Floats) -> tuple[float | None, float | None]:
        """Cost in USD and latency in ms of one question to the members with a weight; None where unknown."""
        active = weights > 0
        cost, latency = _cost(self.pool, active), _latency(self.pool, active)
        return (None if math.isnan(cost) else cost), (None if math.isnan(latency) else latency)

    def _each(self, what: Literal["cost", "latency"]) -> Floats:
        """Cost or latency of every vector of the grid, which hangs on who has a weight at all."""
        sets, place = np.unique(self.grid > 0, axis=0, return_inverse=True)
        of = _cost if what == "cost" else _latency
        found = np.array([of(self.pool, active) for active in sets])
        if np.isnan(found).any():
            raise _no_objective(f"the {what} of some model of the run is unknown, so it cannot be weighed")
        return np.asarray(found[place.reshape(-1)])


def _cost(pool: Pool, active: NDArray[np.bool_]) -> float:
    """Mean cost of asking these members, in USD an item; NaN where one is unknown."""
    known = ~np.isnan(pool.cost_usd)
    mean = np.where(known, pool.cost_usd, 0.0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    return float(mean[active].sum())


def _latency(pool: Pool, active: NDArray[np.bool_]) -> float:
    """Mean of the slowest of these members, asked at once, in ms; NaN where nothing is known of one."""
    mine = pool.latency_ms[:, active]
    if np.isnan(mine).all(axis=0).any():
        return math.nan
    slowest = np.where(np.isnan(mine), -np.inf, mine).max(axis=1)
    return float(slowest[np.isfinite(slowest)].mean())


def _no_objective(problem: str) -> LLMValidationError:
    return LLMValidationError(
        problem,
        code="validation.objective",
        next_step="use accuracy, cost, latency, or prices such as {'accuracy': 1, 'cost_usd': 2, 'latency_ms': 0.0001}",
    )


# -- one setting after another


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One position of the sliders: a strategy, weights for weighted_consensus, a quality threshold."""

    strategy: str
    weights: Mapping[str, float]
    threshold: float | None = None

    @property
    def merge(self) -> MajorityVoting | WeightedConsensus | BestOfN:
        """The merge at this position. Raises LLMValidationError validation.strategy, validation.weights."""
        if self.strategy not in STRATEGIES:
            raise LLMValidationError(
                f"strategy {self.strategy!r:.60} is not one of {', '.join(STRATEGIES)}",
                code="validation.strategy",
                next_step="use one of the strategies listed",
            )
        if self.strategy == WeightedConsensus.name:
            return WeightedConsensus(self.weights, self.threshold)
        return STRATEGIES[self.strategy](threshold=self.threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a setting gives: score, and the difference to the best single model of all items with its 95 % interval.

    better, worse: items on which the merge scores more or less than that model. tied: share of items. undecided: items
    without a winner.
    """

    setting: Setting
    score: float
    delta: float
    low: float
    high: float
    verdict: Verdict
    better: int
    worse: int
    tied: float
    undecided: int


class Tuner:
    """Settings read from the recorded answers of one run, without a call; the resamples are drawn once.

    samples: paired bootstrap samples behind an interval, fewer for long runs: a slider shall not wait for them.
    """

    def __init__(self, table: RunTable, *, seed: int = 0) -> None:
        self.table, self.rows = table, table.scored()
        self.values = table.values()
        assert table.ballots is not None
        self.ballots = table.ballots
        self.singles = table.scores[self.rows]
        self.best = int(self.singles.mean(axis=0).argmax())
        self.samples = max(200, min(2000, 8_000_000 // len(self.rows)))
        self._counts = resamples(len(self.rows), samples=self.samples, seed=seed).astype(np.float32)

    @property
    def best_single(self) -> str:
        """The model that is best on all items."""
        return self.table.models[self.best]

    def read(self, setting: Setting) -> Reading:
        """The numbers of a setting. Raises LLMValidationError validation.* for one that cannot be."""
        outcome = votes.decide(setting.merge, self.ballots)
        values = self.values
        if not self.table.extracted:  # worth the rating of the response that is given
            values = self.ballots.values(np.where(outcome.chosen, self.table.scores, np.nan))
        scores = outcome.scores(values, missing=self.table.nothing)[self.rows]
        difference = scores - self.singles[:, self.best]
        means = self._counts @ difference.astype(np.float32) / len(difference)
        low, high = (float(bound) for bound in np.percentile(means, [2.5, 97.5]))
        winners = outcome.tied[self.rows].sum(axis=1)
        return Reading(
            setting=setting,
            score=float(scores.mean()),
            delta=float(difference.mean()),
            low=low,
            high=high,
            verdict=verdict(low, high),
            better=int((difference > 0).sum()),
            worse=int((difference < 0).sum()),
            tied=float((winners > 1).mean()),
            undecided=int((winners == 0).sum()),
        )

    def start(self, weights: Mapping[str, float] | None = None) -> Setting:
        """The first position: these weights, or equal ones. Raises LLMValidationError validation.weights."""
        given = dict.fromkeys(self.ballots.models, 1.0) if weights is None else dict(weights)
        check_weights(given)
        check_members(given, self.ballots.models)
        return Setting(strategy=WeightedConsensus.name, weights=given)
