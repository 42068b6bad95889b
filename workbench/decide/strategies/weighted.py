"""Votes whose weights are learned from items with known answers.

Both add the weights of an answer's supporters and turn the sums into shares by a softmax over the answers given, so a
weight is a difference in log-odds. A weight may be negative: who is worse than chance speaks against its answer.
Weights floored at 0 would leave nobody voting where every member is right less than half of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from workbench.decide.learn import check_values, competence, conditional_logit, log_odds, ridge, supporters
from workbench.decide.pool import Pool, merged, nothing_to_learn, outcome_of, softmax, unfitted, votes_for
from workbench.decide.votes import Floats, Outcome
from workbench.decide.weights import Signed, check_members, is_finite
from workbench.errors import LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution

LARGEST = 1e300  # sums of larger weights would overflow


@dataclass(frozen=True)
class LogOdds:
    """The answer with the largest sum of its supporters' log-odds of being right.

    weights: model -> log(p (K - 1) / (1 - p)), learned by `fit`: p is the model's accuracy, K the number of answers
    that errors spread over. Right where errors are independent and spread evenly; correlated errors count twice.
    Source: Nitzan & Paroush 1982 (K = 2); for K answers the same argument with errors of 1 / (K - 1) each.
    """

    weights: Mapping[str, float] | None = None
    name: ClassVar[str] = "log_odds"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        if self.weights is not None:
            object.__setattr__(self, "weights", Signed(self.weights))

    @property
    def fitted(self) -> bool:
        """Whether it has learned."""
        return self.weights is not None

    def fit(self, pool: Pool, values: Floats) -> Self:
        """The weights of these items; an answer counts as right by its value, which must lie in [0, 1].

        Raises LLMValidationError fit.items, fit.values.
        """
        found = log_odds(*competence(self.name, pool, values))
        return replace(self, weights=dict(zip(pool.models, found.tolist(), strict=True)))

    def over(self, pool: Pool) -> Outcome:
        """The outcome of every item; raises LLMValidationError validation.unfitted, validation.weights."""
        return _by_weights(self, pool)

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises as decide/merge.py does, and validation.unfitted."""
        return merged(self, contributions)


@dataclass(frozen=True)
class Stacking:
    """Weights that are learned together, so that members with the same errors share one vote.

    A conditional logit over the answers of an item, with the members as features: the weights maximise the probability
    of the right answers less penalty / 2 times their sum of squares. On scores other than 0 and 1 they are those of a
    ridge regression of an answer's value, less the mean of its item, on who gave it.
    weights: model -> weight, learned by `fit`. penalty: > 0; the larger, the more labels it takes to move a weight.
    Source: McFadden 1974, "Conditional logit analysis"; Wolpert 1992, "Stacked generalization".
    """

    weights: Mapping[str, float] | None = None
    penalty: float = 3.0
    name: ClassVar[str] = "stacking"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        if not is_finite(self.penalty) or self.penalty <= 0:
            raise LLMValidationError(
                f"penalty {self.penalty!r:.60} is no finite number > 0",
                code="validation.penalty",
                next_step="use 3, or more where labels are few",
            )
        if self.weights is not None:
            object.__setattr__(self, "weights", Signed(self.weights))

    @property
    def fitted(self) -> bool:
        """Whether it has learned."""
        return self.weights is not None

    def fit(self, pool: Pool, values: Floats) -> Self:
        """The weights of these items. Raises LLMValidationError fit.items."""
        check_values(self.name, pool, values)
        features, present = supporters(pool.ballots), pool.present & ~np.isnan(values)
        if present.sum() < 2:
            raise nothing_to_learn(self.name, f"{len(pool)} items have {int(present.sum())} answers of known value")
        known = np.where(present, values, 0.0)
        if np.isin(values[present], (0.0, 1.0)).all():
            found = conditional_logit(features, present, known, self.penalty)
        else:
            found = ridge(features, present, known, self.penalty)
        return replace(self, weights=dict(zip(pool.models, found.tolist(), strict=True)))

    def over(self, pool: Pool) -> Outcome:
        """The outcome of every item; raises LLMValidationError validation.unfitted, validation.weights."""
        return _by_weights(self, pool)

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises as decide/merge.py does, and validation.unfitted."""
        return merged(self, contributions)


def _by_weights(strategy: LogOdds | Stacking, pool: Pool) -> Outcome:
    weights = strategy.weights
    if weights is None:
        raise unfitted(strategy)
    check_members(weights, pool.models)
    ballots = pool.ballots
    own = np.clip([weights[model] for model in pool.models], -LARGEST, LARGEST)
    return outcome_of(ballots, softmax(votes_for(ballots.codes, own, ballots.width), pool.present))
