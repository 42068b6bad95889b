"""Merges against the best single model, with the interval that says whether the difference is there.

Two forms, side by side. On all items: the best single model of all items, a paired bootstrap interval. On random
half splits: the single model, and everything a strategy fits, chosen on one half and judged on the other, which
is what a user of the best model really gets. When the two disagree the words are `cannot tell`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from workbench.decide import votes
from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus, params_of
from workbench.decide.policies import POLICIES, policy
from workbench.decide.pool import Learner, Pool
from workbench.decide.pool import Strategy as DecidesMany
from workbench.decide.votes import Ballots, Outcome
from workbench.errors import LLMOrchestratorError
from workbench.facts import Merge, ModelContribution
from workbench.study.run import estimated_quality
from workbench.study.stats import (
    SAMPLES,
    SPLITS,
    Verdict,
    bootstrap_interval,
    mcnemar,
    minimum_detectable_effect,
    split_differences,
    verdict,
)
from workbench.study.suite import top_of
from workbench.study.table import Floats, RunTable, contribution

BUILT_IN = (MajorityVoting, WeightedConsensus, BestOfN)
FOLDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """One model alone.

    score, ci_low, ci_high: mean score and its bootstrap interval. source_score: mean as the recording gives it.
    source_agreement: share of items on which our score equals the source's, or None where there is none.
    answered: share of items with an answer that could be read, or None where nothing was asked.
    delta ... verdict: minus the best single model of all items.
    """

    model: str
    score: float
    ci_low: float
    ci_high: float
    source_score: float | None
    source_agreement: float | None
    answered: float | None
    delta: float
    delta_low: float
    delta_high: float
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """One merge against the best single model.

    delta, ci_low, ci_high, verdict: on all items. split_*: over random half splits. conclusion: the verdict
    when both agree, else `cannot tell`. gained, lost: expected number of items on which the merge did better
    or worse than the single model; of the lost, lost_tied ended in a tie and lost_undecided
    without any winner. tied: share of items with several winners. mcnemar_p: None where a tie
    leaves a score between 0 and 1. mde: minimum detectable effect at power 0.80. learned: the parameters of a strategy
    that learns, fitted on all items: what a user would take along.
    """

    strategy: str
    params: dict[str, Any]
    score: float
    delta: float
    ci_low: float
    ci_high: float
    verdict: Verdict
    split_delta: float
    split_low: float
    split_high: float
    split_verdict: Verdict
    conclusion: Verdict
    gained: int
    lost: int
    tied: float
    mcnemar_p: float | None
    mde: float
    lost_tied: int = 0
    lost_undecided: int = 0
    learned: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Everything a comparison found; `as_dict()` is its JSON form."""

    run: str
    name: str
    source: str
    items: int
    items_dropped: int
    models: tuple[str, ...]
    score_kind: str
    unit: str
    best_single: dict[str, Any]
    singles: tuple[Single, ...]
    strategies: tuple[Strategy, ...]
    oracle: float
    spread: float
    samples: int
    splits: int
    seed: int
    left_out: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; deltas of 0/1 scores are fractions."""
        return asdict(self)


def strategies_of(table: RunTable, extra: Sequence[Merge] = ()) -> list[Merge]:
    """The run's own merge, the ones asked for, and the three built-in ones, each once.

    The run's own is left out of a part of its models where its weights are for all of them.
    """
    if table.ballots is None:
        return []
    logged = table.spec.get("merge")
    own = [policy(logged["policy"], logged["params"])] if logged and logged["policy"] in POLICIES else []
    own = [merge for merge in own if set(getattr(merge, "weights", None) or table.models) == {*table.models}]
    found: list[Merge] = []
    for merge in [*own, *extra, *(cls() for cls in BUILT_IN)]:
        if all(m.name != merge.name or params_of(m) != params_of(merge) for m in found):
            found.append(merge)
    return found


def compare(
    table: RunTable,
    strategies: Sequence[Merge] | None = None,
    *,
    pool: Pool | None = None,
    samples: int = SAMPLES,
    splits: int = SPLITS,
    seed: int = 0,
) -> Compared:
    """The comparison of a run; `strategies` None takes those of `strategies_of`.

    pool: what strategies see of the run; None: what the table has, which is no texts. What a strategy learns is
    learned on other items than those it is judged on: those of nine other folds out of ten, or of the other half.
    Items on which a model has no score are left out for all (`items_dropped`); scores by extraction are never
    missing: no answer scores 0. Raises LLMValidationError data.no_scores, stats.items.
    """
    rows = table.scored()
    singles = table.scores[rows]
    best = int(singles.mean(axis=0).argmax())
    merges = strategies_of(table) if strategies is None else list(strategies)
    if pool is None and table.ballots is not None:
        pool = table.pool()
    found = [Evaluated(table, merge, rows, pool) for merge in merges]
    columns = [e.scores for e in found]
    deltas = np.column_stack([*columns, *singles.T]) - singles[:, [best]]
    low, high = bootstrap_interval(np.column_stack([deltas, singles]), samples=samples, seed=seed)
    s, m = len(found), singles.shape[1]
    return Compared(
        run=table.run_id,
        name=table.name,
        source=table.source,
        items=len(rows),
        items_dropped=len(table.item_ids) - len(rows),
        models=table.models,
        score_kind=table.score_kind,
        unit=table.unit,
        best_single={"model": table.models[best], "score": float(singles[:, best].mean())},
        singles=tuple(
            _single(table, rows, j, deltas[:, s + j], (low[s + j], high[s + j]), (low[s + m + j], high[s + m + j]))
            for j in np.argsort(-singles.mean(axis=0), kind="stable")
        ),
        strategies=tuple(
            _strategy(e, singles, best, (float(low[k]), float(high[k])), splits=splits, seed=seed)
            for k, e in enumerate(found)
        ),
        oracle=float(singles.max(axis=1).mean()),
        spread=float(np.ptp(singles.mean(axis=0))),
        samples=samples,
        splits=splits,
        seed=seed,
        left_out=_left_out(table, merges),
    )


def _left_out(table: RunTable, merges: Sequence[Merge]) -> str | None:
    """The name of the run's own merge where it is a class of the user's that is not at hand."""
    logged = table.spec.get("merge")
    if not logged or logged["policy"] in POLICIES or any(m.name == logged["policy"] for m in merges):
        return None
    return str(logged["policy"])


class Evaluated:
    """A merge's scores on the items `rows`, and on a split with its quality fitted on one half only."""

    def __init__(self, table: RunTable, merge: Merge, rows: NDArray[np.intp], pool: Pool | None) -> None:
        self.merge, self.rows, self.table, self.pool = merge, rows, table, pool
        self.values = table.values()
        self.nothing = table.nothing
        self.scores, self.winners = self._crossed() if isinstance(merge, Learner) else self._decided(None)

    @property
    def shipped(self) -> Merge:
        """The merge as a user would take it along: fitted on all these items where it learns."""
        return self._learned(self.rows)

    def _learned(self, rows: NDArray[np.intp]) -> Merge:
        """The merge, fitted on these items where it learns."""
        if not isinstance(self.merge, Learner) or self.pool is None:
            return self.merge
        return self.merge.fit(self.pool.take(rows), self.values[rows])

    def _crossed(self) -> tuple[Floats, NDArray[np.int64]]:
        """Scores and winners of the items, each decided by what was learned on items of other folds."""
        rows = self.rows
        scores, winners = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
        for fold in range(FOLDS):
            judge = np.arange(len(rows)) % FOLDS == fold
            if judge.any():
                scores[judge], winners[judge] = self._over(self._learned(rows[~judge]), rows[judge])
        return scores, winners

    def _over(self, merge: Merge, rows: NDArray[np.intp]) -> tuple[Floats, NDArray[np.int64]]:
        """What a strategy decides for some items: their scores, and how many answers won each."""
        assert self.pool is not None
        assert isinstance(merge, DecidesMany)
        part = self.pool.take(rows)
        return self._scored(merge.over(part), part.ballots, rows)

    def _scored(self, outcome: Outcome, ballots: Ballots, rows: NDArray[np.intp]) -> tuple[Floats, NDArray[np.int64]]:
        """What was decided for some items: their scores, and how many answers won each."""
        values = self.values[rows]
        if not self.table.extracted:  # worth the rating of the response that is given, not of others that say the same
            values = ballots.values(np.where(outcome.chosen, self.table.scores[rows], np.nan))
        return outcome.scores(values, missing=self.nothing), outcome.tied.sum(axis=1)

    def on_split(self, choose: NDArray[np.bool_]) -> Floats:
        """Scores with every model's quality, and whatever a strategy learns, from the choosing half alone."""
        if isinstance(self.merge, Learner):
            rows, scores = self.rows, self.scores.copy()
            scores[~choose], _ = self._over(self._learned(rows[choose]), rows[~choose])
            return scores
        if isinstance(self.merge, DecidesMany) or (has_array_form(self.merge) and not _fits(self.merge)):
            return self.scores
        half = self.table.scores[self.rows[choose]] / top_of(self.table.metric)
        quality, _ = estimated_quality(np.vstack([half, np.full((1, half.shape[1]), np.nan)]))
        return self._decided(quality[-1])[0]

    def _decided(self, quality: Floats | None) -> tuple[Floats, NDArray[np.int64]]:
        """Scores of the items, and how many answers won each; quality None takes the logged one."""
        ballots = self.table.ballots
        if isinstance(self.merge, DecidesMany):
            return self._over(self.merge, self.rows)
        if has_array_form(self.merge) and ballots is not None:
            part = ballots.take(self.rows)
            return self._scored(votes.decide(self.merge, part, quality=quality), part, self.rows)
        found = [self._scalar(int(i), quality) for i in self.rows]
        return np.array([f[0] for f in found]), np.array([f[1] for f in found])

    def _scalar(self, index: int, quality: Floats | None) -> tuple[float, int]:
        """One item by a policy that has no array form."""
        try:
            merged = self.merge(contributions_at(self.table, index, quality))
        except LLMOrchestratorError:
            return self.nothing, 0
        if not merged.tied:
            return self.nothing, 0
        assert self.table.ballots is not None
        answers, gold = self.table.ballots.answers[index], self.table.reference[index]
        if self.table.extracted:  # it may give an answer that no member gave
            won = [float(a == gold) for a in merged.tied]
        else:
            new = self.table.worth_of_new
            won = [self.values[index, answers.index(a)] if a in answers else new(index, a) for a in merged.tied]
        return float(np.mean(won)), len(merged.tied)


def has_array_form(merge: Merge) -> TypeGuard[votes.Policy]:
    """Whether votes.py decides as this merge does; a subclass may decide otherwise."""
    return type(merge) in BUILT_IN


def _fits(merge: votes.Policy) -> bool:
    """Whether the merge looks at estimated quality, which must then come from the other half."""
    by_quality = isinstance(merge, WeightedConsensus) and merge.weights is None
    return by_quality or isinstance(merge, BestOfN) or merge.threshold is not None


def contributions_at(table: RunTable, index: int, quality: Floats | None = None) -> list[ModelContribution]:
    """The contributions to one item, as a merge sees them; quality replaces the logged one, by model."""
    ballots = table.ballots
    assert ballots is not None
    parts = []
    for j, model in enumerate(ballots.models):
        code = int(ballots.codes[index, j])
        failed = bool(ballots.failed[index, j])
        rated = float(ballots.quality[index, j] if quality is None else quality[j])
        parts.append(
            contribution(
                model,
                ballots.answers[index][code] if code >= 0 else None,
                None if np.isnan(rated) or failed else rated,
                1.0,
                "failed" if failed else "kept",
                table.failures.get((index, j)),
            )
        )
    return parts


def _single(
    table: RunTable,
    rows: NDArray[np.intp],
    j: int,
    delta: Floats,
    around_delta: tuple[float, float],
    around_score: tuple[float, float],
) -> Single:
    source = table.source_scores[rows, j]
    known = ~np.isnan(source)
    ours = table.scores[rows, j]
    answered = None if table.ballots is None else float((table.ballots.codes[rows, j] >= 0).mean())
    return Single(
        model=table.models[j],
        score=float(ours.mean()),
        ci_low=float(around_score[0]),
        ci_high=float(around_score[1]),
        source_score=float(source[known].mean()) if known.any() else None,
        source_agreement=(
            # Where our score is the source's own there is nothing to agree.
            float((source[known] == ours[known]).mean()) if table.extracted and known.any() else None
        ),
        answered=answered,
        delta=float(delta.mean()),
        delta_low=float(around_delta[0]),
        delta_high=float(around_delta[1]),
        verdict=verdict(around_delta[0], around_delta[1]),
    )


def _strategy(
    e: Evaluated, singles: Floats, best: int, interval: tuple[float, float], *, splits: int, seed: int
) -> Strategy:
    difference = e.scores - singles[:, best]
    lost = difference < 0
    split = split_differences(singles, e.on_split, splits=splits, seed=seed)
    on_all, on_splits = verdict(*interval), verdict(split.low, split.high)
    return Strategy(
        strategy=e.merge.name,
        params=params_of(e.merge),
        score=float(e.scores.mean()),
        delta=float(difference.mean()),
        ci_low=interval[0],
        ci_high=interval[1],
        verdict=on_all,
        split_delta=split.delta,
        split_low=split.low,
        split_high=split.high,
        split_verdict=on_splits,
        conclusion=on_all if on_all == on_splits else "cannot tell",
        gained=int((difference > 0).sum()),
        lost=int(lost.sum()),
        lost_tied=int((lost & (e.winners > 1)).sum()),
        lost_undecided=int((lost & (e.winners == 0)).sum()),
        tied=float((e.winners > 1).mean()),
        mcnemar_p=mcnemar(e.scores, singles[:, best]) if e.table.unit == "fraction" else None,
        mde=minimum_detectable_effect(difference),
        learned=params_of(e.shipped) if isinstance(e.merge, Learner) else {},
    )
