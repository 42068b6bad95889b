"""`selective`: answers only where the vote is sure enough, so that few of the answers it gives are wrong.

The threshold is tested, not tuned. From unanimity downwards each threshold of a fixed grid is held against "more than
`risk` of what it answers is wrong"; the first that the labels cannot refute ends the search. So the chance of ending
with a threshold that errs more often than `risk` is at most 1 - level, whatever the members are like, for items drawn
as the labelled ones were. Thresholds that answer too few labelled items for any test are passed over by their number
alone; that keeps the bound where errors do not grow rarer as agreement falls.

Source: Angelopoulos, Bates, Candès, Jordan & Lei 2021, "Learn then Test" (fixed sequence testing).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from workbench.decide.learn import check_fractions
from workbench.decide.pool import Pool, merged, nothing_to_learn, outcome_of, unfitted, votes_for
from workbench.decide.votes import Floats, Outcome
from workbench.decide.weights import Weights, check_members, is_finite
from workbench.errors import LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution

GRID = np.arange(100, -1, -1) / 100  # thresholds on agreement, in the order of testing
NEVER = 2.0  # no agreement reaches it
ROUNDING = 1e-7  # of agreement, which is counted in whole units


@dataclass(frozen=True)
class Selective:
    """The answer of a vote where its agreement reaches `threshold`; None, with confidence 0, elsewhere and on ties.

    weights: model -> weight >= 0 of the vote, not learned; None: one vote each. risk: in (0, 1), share wrong of the
    answers given that is still fine. level: in (0, 1), how sure `fit` must be of it.
    threshold, reason: learned by `fit`. threshold: in [0, 1], or 2 where not even unanimity is safe enough: then it
    never answers, not even with the answer that all members give.
    """

    weights: Mapping[str, float] | None = None
    risk: float = 0.1
    level: float = 0.9
    threshold: float | None = None
    reason: str = ""
    name: ClassVar[str] = "selective"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        for field in ("risk", "level"):
            share = getattr(self, field)
            if not is_finite(share) or not 0 < share < 1:
                raise _refused(f"{field} {share!r:.60} is not in (0, 1)", "use risk=0.1 and level=0.9")
        known = self.threshold is None or (is_finite(self.threshold) and self.threshold >= 0)
        if not known or (self.threshold is not None and 1 < self.threshold != NEVER):
            raise _refused(
                f"threshold {self.threshold!r:.60} is neither in [0, 1] nor {NEVER:g}",
                "leave it out and fit the policy",
            )
        if self.weights is not None:
            object.__setattr__(self, "weights", Weights(self.weights))

    @property
    def fitted(self) -> bool:
        """Whether it has learned."""
        return self.threshold is not None

    def fit(self, pool: Pool, values: Floats) -> Self:
        """The lowest threshold that is safe by these items; an answer is right if its value is 1.

        Raises LLMValidationError fit.items, fit.values, validation.weights.
        """
        check_fractions(self.name, pool, values)
        agreement, right = _judged(_vote(self.weights, pool), values)
        if not agreement.size:
            raise nothing_to_learn(self.name, f"the vote has no answer of known value on any of {len(pool)} items")
        threshold = safe_threshold(agreement, right, risk=self.risk, level=self.level)
        answered = agreement + ROUNDING >= threshold
        told = (
            f"{int(answered.sum())} of {len(agreement)} labelled items, {int((~right[answered]).sum())} of them wrong"
        )
        if threshold == NEVER:
            told = f"never: no threshold is safe on {len(agreement)} labelled items, {int(right.sum())} of them right"
        return replace(self, threshold=threshold, reason=f"answers {told}")

    def over(self, pool: Pool) -> Outcome:
        """The outcome of every item; raises LLMValidationError validation.unfitted, validation.weights."""
        if self.threshold is None:
            raise unfitted(self)
        vote = _vote(self.weights, pool)
        sure = (vote.tied.sum(axis=1) == 1) & (vote.agreement + ROUNDING >= self.threshold)
        return Outcome(
            winner=np.where(sure, vote.winner, -1).astype(np.int32),
            tied=vote.tied & sure[:, None],
            agreement=np.where(sure, vote.agreement, 0.0),
            confidence=np.where(sure, vote.confidence, 0.0),
            chosen=vote.chosen & sure[:, None],
        )

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises as decide/merge.py does, and validation.unfitted."""
        return merged(self, contributions)


def safe_threshold(confidence: Floats, right: NDArray[np.bool_], *, risk: float, level: float) -> float:
    """The lowest threshold of GRID whose share wrong is at most `risk`, or NEVER.

    Where the true share wrong above the threshold exceeds `risk`, this happens with probability at most 1 - level.
    confidence, right: n labelled items. The p-value of a threshold that answers a items, k of them wrong, is the
    exact P(Binomial(a, risk) <= k); testing ends with the first above 1 - level. Thresholds whose p-value would be
    above it without any error are passed over.
    """
    from scipy.special import bdtr

    above = confidence[:, None] + ROUNDING >= GRID
    answered = above.sum(axis=0)
    p = bdtr((above & ~right[:, None]).sum(axis=0), answered, risk)
    testable = (1.0 - risk) ** answered <= 1.0 - level
    safe = np.logical_and.accumulate((p <= 1.0 - level) | ~testable) & testable
    return float(GRID[safe][-1]) if safe.any() else NEVER


def coverage_and_risk(policy: Selective, pool: Pool, values: Floats) -> tuple[float, float]:
    """Share of items that are answered, and share wrong of the answers of known value; NaN where there is none.

    An answer is right if its value is 1. Raises LLMValidationError validation.unfitted, validation.weights.
    """
    outcome = policy.over(pool)
    _, right = _judged(outcome, values)
    answered = float((outcome.winner >= 0).mean()) if len(pool) else np.nan
    return answered, 1.0 - float(right.mean()) if right.size else np.nan


def risk_coverage_curve(confidence: Floats, right: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Coverage and risk of answering the surest items only, one point for each distinct confidence, surest first.

    Source: El-Yaniv & Wiener 2010, "On the foundations of noise-free selective classification".
    >>> risk_coverage_curve(np.array([0.5, 1.0, 0.5, 1.0]), np.array([True, True, False, True]))
    (array([0.5, 1. ]), array([0.  , 0.25]))
    """
    levels, place = np.unique(-np.asarray(confidence), return_inverse=True)
    answered = np.cumsum(np.bincount(place, minlength=len(levels)))
    wrong = np.cumsum(np.bincount(place, weights=~np.asarray(right, dtype=bool), minlength=len(levels)))
    return answered / len(place), wrong / answered


def _vote(weights: Mapping[str, float] | None, pool: Pool) -> Outcome:
    """The vote of everybody, ties and all."""
    if weights is not None:
        check_members(weights, pool.models)
    own = np.array([1.0 if weights is None else weights[model] for model in pool.models])
    outcome = outcome_of(pool.ballots, votes_for(pool.ballots.codes, own, pool.ballots.width))
    return replace(outcome, chosen=outcome.chosen & (own > 0))


def _judged(outcome: Outcome, values: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Agreement of the single winners of known value, and whether they are right."""
    worth = values[np.arange(len(values)), np.maximum(outcome.winner, 0)]
    known = (outcome.tied.sum(axis=1) == 1) & ~np.isnan(worth)
    return outcome.agreement[known], worth[known] == 1.0


def _refused(found: str, instead: str) -> LLMValidationError:
    return LLMValidationError(f"selective: {found}", code="validation.strategy", next_step=instead)
