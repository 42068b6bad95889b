"""A selector beyond votes: which of an item's answers is right, learned from who supports it and from its solution.

A conditional logit as in stacking, with more to look at: each member, also by the category of the item, each pair of
members that agree, a member that stands alone, and the clues of decide/clues.py in the responses. One penalty for all,
chosen by the likelihood of items that were not fitted on, keeps what does not help near 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from workbench.decide.clues import CLUES, clues_of
from workbench.decide.learn import check_fractions, conditional_logit, log_likelihood, supporters
from workbench.decide.pool import Pool, merged, nothing_to_learn, outcome_of, softmax, unfitted
from workbench.decide.votes import Floats, Outcome
from workbench.decide.weights import Signed, check_members, check_models, is_finite
from workbench.errors import LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution

PENALTIES = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3)
FOLDS = 3
FEWEST = 10  # items of a category, for a weight of its own
PAIRED = 40  # members, at most, whose pairs have weights: 780 of them


@dataclass(frozen=True)
class Selector:
    """The answer that is most probably right by its supporters, their agreements, its category and its solution.

    weights: feature -> weight, learned by `fit`: "m" for a member, "m & n" for a pair that agrees, of up to 40 members,
    "m alone", "m @ category", and the clues. models: the members fitted on. penalty: the one chosen.
    """

    weights: Mapping[str, float] | None = None
    models: tuple[str, ...] = ()
    penalty: float | None = None
    name: ClassVar[str] = "selector"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        is_empty = isinstance(self.models, tuple | list) and not self.models
        if self.weights is not None or not is_empty:
            check_models(self.models)
        object.__setattr__(self, "models", tuple(self.models))
        if self.penalty is not None and not is_finite(self.penalty):
            raise LLMValidationError(
                f"penalty {self.penalty!r:.60} is no finite number",
                code="validation.penalty",
                next_step="leave it out and fit the policy",
            )
        if self.weights is not None:
            object.__setattr__(self, "weights", Signed(self.weights))

    @property
    def fitted(self) -> bool:
        """Whether it has learned."""
        return self.weights is not None

    def fit(self, pool: Pool, values: Floats) -> Self:
        """The weights of these items. Raises LLMValidationError fit.items, fit.values."""
        check_fractions(self.name, pool, values)
        present = pool.present & ~np.isnan(values)
        known = np.where(present, values, 0.0)
        told = np.flatnonzero((known.max(axis=1, initial=0.0) == 1.0) & (known.sum(axis=1) < present.sum(axis=1)))
        if len(told) < 2 * FOLDS:
            raise nothing_to_learn(self.name, f"{len(told)} of {len(pool)} items tell right answers from wrong ones")
        names = feature_names(pool)
        x = features(pool, names)[told]
        here, right = present[told], known[told] == 1.0
        penalty = _chosen_penalty(x, here, right)
        found = conditional_logit(x, here, right.astype(np.float64), penalty)
        weights = dict(zip(names, found.tolist(), strict=True))
        return replace(self, weights=weights, models=pool.models, penalty=penalty)

    def over(self, pool: Pool) -> Outcome:
        """The outcome of every item; raises LLMValidationError validation.unfitted, validation.weights."""
        if self.weights is None:
            raise unfitted(self)
        check_members(dict.fromkeys(self.models, 1.0), pool.models)
        names = list(self.weights)
        score = features(pool, names) @ np.array([self.weights[name] for name in names])
        return outcome_of(pool.ballots, softmax(score, pool.present))

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises as decide/merge.py does, and validation.unfitted."""
        return merged(self, contributions)


def feature_names(pool: Pool) -> list[str]:
    """The features of a pool: members, pairs, members alone, members by category, clues."""
    counts = {group: pool.groups.count(group) for group in sorted(set(pool.groups))}
    large = [group for group, count in counts.items() if count >= FEWEST] if len(counts) > 1 else []
    return [
        *pool.models,
        *(f"{one} & {other}" for one, other in combinations(pool.models, 2) if len(pool.models) <= PAIRED),
        *(f"{model} alone" for model in pool.models),
        *(f"{model} @ {group}" for group in large for model in pool.models),
        *CLUES,
    ]


def features(pool: Pool, names: Sequence[str]) -> Floats:
    """N x width x F: the named features of every answer; 0 for codes that stand for none."""
    who = supporters(pool.ballots)
    place = {model: j for j, model in enumerate(pool.models)}
    alone = who * (who.sum(axis=2, keepdims=True) == 1)
    groups = np.array(pool.groups, dtype=object)
    grouped = {f"{model} @ {group}": (j, group) for group in set(pool.groups) for model, j in place.items()}
    clues = _clues(pool, who) if set(CLUES) & set(names) else who
    made = np.zeros((*who.shape[:2], len(names)))
    pairs = {f"{a} & {b}": (place[a], place[b]) for a, b in combinations(pool.models, 2)}
    single = {f"{model} alone": j for model, j in place.items()}
    for column, name in enumerate(names):
        if name in place:
            made[..., column] = who[..., place[name]]
        elif name in pairs:
            made[..., column] = who[..., pairs[name][0]] * who[..., pairs[name][1]]
        elif name in single:
            made[..., column] = alone[..., single[name]]
        elif name in CLUES:
            made[..., column] = clues[..., CLUES.index(name)]
        elif name in grouped:  # else of a category that no item here has
            j, group = grouped[name]
            made[..., column] = who[..., j] * (groups == group)[:, None]
    return made


def _clues(pool: Pool, who: Floats) -> Floats:
    """N x width x clues: the mean over an answer's supporters."""
    every = (
        np.stack([clues_of(texts) for texts in pool.texts]) if len(pool) else np.zeros((0, who.shape[2], len(CLUES)))
    )
    return np.asarray(np.matmul(who, every) / np.maximum(who.sum(axis=2, keepdims=True), 1.0))


def _chosen_penalty(x: Floats, here: NDArray[np.bool_], right: NDArray[np.bool_]) -> float:
    """The penalty under which items of other folds are most probable."""
    fold = np.arange(len(x)) % FOLDS
    found = dict.fromkeys(PENALTIES, 0.0)
    for judge in range(FOLDS):
        learn, test = fold != judge, fold == judge
        start: Floats | None = None
        for penalty in PENALTIES:
            start = conditional_logit(x[learn], here[learn], right[learn].astype(np.float64), penalty, start=start)
            found[penalty] += log_likelihood(x[test], here[test], right[test], start)
    return max(found, key=lambda penalty: found[penalty])
