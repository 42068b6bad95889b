"""One model for everything: the honest competitor of every merge, and what `auto` falls back to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from workbench.decide.learn import check_values, worth_of_members, worth_of_nothing
from workbench.decide.pool import Pool, merged, nothing_to_learn, outcome_of, unfitted
from workbench.decide.votes import Floats, Outcome
from workbench.decide.weights import check_members, check_models
from workbench.facts import EnsembleResponse, ModelContribution


@dataclass(frozen=True)
class BestSingle:
    """The answer of the model that was best on the items it was fitted on; of the next best where it has none.

    ranking: the members, best first, learned by `fit`; equals are ranked by name.
    """

    ranking: tuple[str, ...] | None = None
    name: ClassVar[str] = "best_single"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        if self.ranking is not None:
            check_models(self.ranking)
            object.__setattr__(self, "ranking", tuple(self.ranking))

    @property
    def fitted(self) -> bool:
        """Whether it has learned."""
        return self.ranking is not None

    def fit(self, pool: Pool, values: Floats) -> Self:
        """The ranking by mean worth on these items; no answer is worth what worth_of_nothing says.

        An answer of unknown value is left out. Raises LLMValidationError fit.items.
        """
        check_values(self.name, pool, values)
        worth = worth_of_members(pool.ballots, values)
        if np.isnan(worth).all():
            raise nothing_to_learn(self.name, f"none of {len(pool)} items has an answer of known value")
        known = ~np.isnan(values).all(axis=1)
        nothing = worth_of_nothing(worth)
        told = np.where(pool.ballots.codes >= 0, worth, nothing)[known]
        count = (~np.isnan(told)).sum(axis=0)
        mean = np.where(count > 0, np.nansum(told, axis=0) / np.maximum(count, 1), nothing)
        order = sorted(range(len(pool.models)), key=lambda j: (-mean[j], pool.models[j]))
        return replace(self, ranking=tuple(pool.models[j] for j in order))

    def over(self, pool: Pool) -> Outcome:
        """The outcome of every item; raises LLMValidationError validation.unfitted, validation.weights."""
        if self.ranking is None:
            raise unfitted(self)
        check_members(dict.fromkeys(self.ranking, 1.0), pool.models)
        ballots = pool.ballots
        order = np.array([pool.models.index(model) for model in self.ranking])
        answered = ballots.codes[:, order] >= 0
        first = order[answered.argmax(axis=1)]
        rows = np.flatnonzero(answered.any(axis=1))
        share = np.zeros((len(pool), ballots.width))
        share[rows, ballots.codes[rows, first[rows]]] = 1.0
        outcome = outcome_of(ballots, share)
        # Its own response is the one to give, not that of another who says the same.
        return replace(outcome, chosen=outcome.chosen & (first[:, None] == np.arange(len(order))))

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises as decide/merge.py does, and validation.unfitted."""
        return merged(self, contributions)
