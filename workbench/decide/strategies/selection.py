"""`ensemble_selection`: which members are worth asking at all, and how many votes each of them gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from workbench.decide.learn import all_known, check_values, worth_of_members, worth_of_nothing
from workbench.decide.pool import Pool, merged, nothing_to_learn, outcome_of, unfitted, votes_for
from workbench.decide.votes import Ballots, Codes, Floats, Outcome
from workbench.decide.weights import Weights, check_members, is_finite
from workbench.errors import LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution

ROUNDS = 6  # votes beyond the first of each member; 12 did no better on new items of recorded runs
ROUNDING = 1e-9  # means that differ by less are equal, in whatever order their items were added up


@dataclass(frozen=True)
class EnsembleSelection:
    """A vote of at most `budget` members, chosen one at a time: each the one with which the vote scores best.

    First each gets one vote; then further votes go, one at a time, to those of the first 1, 2, ... budget members. (A
    second vote for the best member never lowers the score, and would end the search if it was allowed at once.) Of
    all these votes the one with the fewest members is kept that the best is not surely ahead of. A tie is worth the
    mean of its answers; equal members are chosen by name.
    budget: from 1; calls that an item may cost. caution: standard errors, >= 0, that the best must be ahead by; 0
    takes the best. members: model -> votes, whole numbers, learned by `fit`; 0 for those who need not be asked.
    Source: Caruana, Niculescu-Mizil, Crew & Ksikes 2004, "Ensemble selection from libraries of models"; the rule of so
    many standard errors: Breiman et al. 1984.
    """

    budget: int = 5
    caution: float = 1.0
    members: Mapping[str, float] | None = None
    name: ClassVar[str] = "ensemble_selection"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        if isinstance(self.budget, bool) or not isinstance(self.budget, int) or self.budget < 1:
            raise _refused(
                f"budget {self.budget!r:.60} is no whole number from 1", "use the calls that an item may cost"
            )
        if not is_finite(self.caution) or self.caution < 0:
            raise _refused(f"caution {self.caution!r:.60} is no finite number >= 0", "use 1, or more to be surer")
        if self.members is None:
            return
        object.__setattr__(self, "members", Weights(self.members))
        votes = list(self.members.values())
        if any(v % 1 for v in votes) or sum(v > 0 for v in votes) > self.budget:
            raise _refused(
                f"the votes {votes!r:.60} are not whole, or more than the budget of {self.budget} have some",
                "give whole numbers of votes to as many members as the budget allows, and 0 to the others",
            )

    @property
    def fitted(self) -> bool:
        """Whether it has learned."""
        return self.members is not None

    def fit(self, pool: Pool, values: Floats) -> Self:
        """The votes of these items; those with an answer of unknown value are left out.

        values may have any scale; where nobody chosen answers, the item is worth what worth_of_nothing says.
        Raises LLMValidationError fit.items.
        """
        check_values(self.name, pool, values)
        known = all_known(pool, values)
        if not len(known):
            raise nothing_to_learn(self.name, f"none of {len(pool)} items has answers that all have a known value")
        found = _searched(pool.take(known).ballots, values[known], self.budget)
        scores = np.column_stack([score for _, score in found])
        ahead = scores[:, [_first_of_best(scores.mean(axis=0))]] - scores
        error = ahead.std(axis=0) / np.sqrt(max(len(known) - 1, 1))
        kept = found[int((ahead.mean(axis=0) <= self.caution * error + ROUNDING).argmax())][0]
        return replace(self, members={model: kept.count(j) for j, model in enumerate(pool.models)})

    def over(self, pool: Pool) -> Outcome:
        """The outcome of every item; raises LLMValidationError validation.unfitted, validation.weights."""
        if self.members is None:
            raise unfitted(self)
        check_members(self.members, pool.models)
        ballots = pool.ballots
        votes = np.array([self.members[model] for model in pool.models])
        outcome = outcome_of(ballots, votes_for(ballots.codes, votes, ballots.width))
        return replace(outcome, chosen=outcome.chosen & (votes > 0))

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises as decide/merge.py does, and validation.unfitted."""
        return merged(self, contributions)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tally:
    """A vote over n items: the columns of its members, one for each vote they have, and what it comes to.

    votes: n x width. top: the most votes of an answer. tied, total: how many answers have these, and their worth.
    """

    given: tuple[int, ...]
    votes: NDArray[np.intp]
    top: NDArray[np.intp]
    tied: NDArray[np.intp]
    total: Floats

    def with_one_of(self, columns: Sequence[int], codes: Codes, worth: Floats, nothing: float) -> tuple[_Tally, Floats]:
        """The vote with one vote more, for the best of these columns, and what each item is worth then.

        A vote changes an item only where its answer passes or reaches the top, so that nothing is counted anew.
        """
        safe, mine = np.maximum(codes[:, columns], 0), worth[:, columns]
        more = np.take_along_axis(self.votes, safe, axis=1) + 1
        told, top = codes[:, columns] >= 0, self.top[:, None]
        alone, joins = told & (more > top), told & (more == top)
        total = np.where(alone, mine, np.where(joins, self.total[:, None] + mine, self.total[:, None]))
        tied = np.where(alone, 1, self.tied[:, None] + joins)
        scores = np.where(tied > 0, total / np.maximum(tied, 1), nothing)
        j = _first_of_best(scores.mean(axis=0))
        votes = self.votes.copy()
        votes[np.arange(len(votes)), safe[:, j]] += told[:, j]
        return _Tally(
            given=(*self.given, columns[j]),
            votes=votes,
            top=np.where(alone[:, j], more[:, j], self.top),
            tied=tied[:, j],
            total=total[:, j],
        ), scores[:, j]


def _searched(ballots: Ballots, values: Floats, budget: int) -> list[tuple[tuple[int, ...], Floats]]:
    """The votes tried, as columns, and what each item is worth by them; those of fewer members, then votes, first."""
    n = len(ballots.codes)
    worth = worth_of_members(ballots, values)
    nothing = worth_of_nothing(worth)
    free = np.flatnonzero((ballots.codes >= 0).any(axis=0)).tolist()
    none = np.zeros(n, dtype=np.intp)
    first = _Tally(given=(), votes=np.zeros(values.shape, dtype=np.intp), top=none, tied=none, total=np.zeros(n))
    found = []
    for _ in range(min(budget, len(free))):
        first, score = first.with_one_of(free, ballots.codes, worth, nothing)
        found.append((first.given, score))
        free.remove(first.given[-1])
        members, more = sorted(first.given), first
        for _ in range(ROUNDS):
            more, score = more.with_one_of(members, ballots.codes, worth, nothing)
            found.append((more.given, score))
    return found


def _first_of_best(means: Floats) -> int:
    return int((means >= means.max() - ROUNDING).argmax())


def _refused(found: str, instead: str) -> LLMValidationError:
    return LLMValidationError(f"ensemble_selection: {found}", code="validation.strategy", next_step=instead)
