"""Votes weighed without labels: who is right is estimated from who agrees with whom (decide/annotators.py).

Both assume that members err independently. Where they share their errors, as models of one family do, the estimate
takes their agreement for knowledge: the fitted policy then carries a warning in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from workbench.decide.annotators import dawid_skene, one_coin
from workbench.decide.learn import log_odds
from workbench.decide.pairwise import MOST_MODELS, correlation_warning, excess_agreement
from workbench.decide.pool import Pool, merged, nothing_to_learn, outcome_of, softmax, unfitted, votes_for
from workbench.decide.votes import Ballots, Floats, Outcome
from workbench.decide.weights import Signed, check_members, check_models, is_finite
from workbench.errors import LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution

MOST_CLASSES = 60
FEWEST_MODELS = 4  # of which agreement beyond chance can be told
SMALLEST = 1e-9  # probability of a vote that was never seen


@dataclass(frozen=True)
class OneCoin:
    """The answer that is most probably right when each member is right with a probability of its own.

    accuracy: model -> probability, estimated by `fit` from the votes alone. options: answers that there could be to an
    item, >= 2; None: one more than the most that any item got. warning: members whose agreement goes beyond independent
    errors, in words.
    Source: Dawid & Skene 1979 with one parameter a model; Zhang, Chen, Zhou & Jordan 2016.
    """

    accuracy: Mapping[str, float] | None = None
    options: int | None = None
    warning: str = ""
    name: ClassVar[str] = "one_coin"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        if self.accuracy is not None:
            object.__setattr__(self, "accuracy", Signed(self.accuracy))
            if not all(0 <= p <= 1 for p in self.accuracy.values()):
                raise _refused(f"accuracy {dict(self.accuracy)!r:.100} is not all in [0, 1]")
        if self.options is not None and (not is_finite(self.options) or self.options < 2):
            raise _refused(f"options {self.options!r:.60} is no number of answers from 2")

    @property
    def fitted(self) -> bool:
        """Whether it has learned."""
        return self.accuracy is not None

    def fit(self, pool: Pool, values: Floats) -> Self:
        """The accuracies of these items; values are not looked at. Raises LLMValidationError fit.items."""
        _check_votes(self.name, pool)
        width = self._width(pool.ballots)
        found = one_coin(pool.ballots.codes, width=width)
        # A member that never voted is a coin that says nothing.
        known = np.where(np.isnan(found.accuracy), 1 / width, found.accuracy)
        return replace(
            self,
            accuracy=dict(zip(pool.models, known.tolist(), strict=True)),
            options=width,
            warning=_warning(pool, width),
        )

    def _width(self, ballots: Ballots) -> int:
        return max(2, ballots.width + 1 if self.options is None else self.options, ballots.width)

    def over(self, pool: Pool) -> Outcome:
        """The outcome of every item; raises LLMValidationError validation.unfitted, validation.weights."""
        if self.accuracy is None:
            raise unfitted(self)
        check_members(self.accuracy, pool.models)
        own = np.array([self.accuracy[model] for model in pool.models])
        weights = log_odds(np.clip(own, SMALLEST, 1 - SMALLEST), self.options or 2)
        ballots = pool.ballots
        return outcome_of(ballots, softmax(votes_for(ballots.codes, weights, ballots.width), pool.present))

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises as decide/merge.py does, and validation.unfitted."""
        return merged(self, contributions)


@dataclass(frozen=True)
class DawidSkene:
    """The answer that is most probably right when each member confuses classes in a way of its own.

    For answers that mean the same on every item, such as letters or labels, of at most 60 different ones.
    models, classes, prior, confusion, warning: learned by `fit` from the votes alone. confusion: for each model a row
    for each true class, with the probability of each vote. Of the classes only those that somebody gives can win.
    Source: Dawid & Skene 1979.
    """

    models: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    prior: tuple[float, ...] | None = None
    confusion: tuple[tuple[tuple[float, ...], ...], ...] = ()
    warning: str = ""
    name: ClassVar[str] = "dawid_skene"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        try:
            tables = tuple(tuple(tuple(map(float, row)) for row in table) for table in self.confusion)
            prior = None if self.prior is None else tuple(map(float, self.prior))
            models, classes = tuple(self.models), tuple(map(str, self.classes))
        except (TypeError, ValueError, OverflowError) as error:
            raise _refused(f"what dawid_skene has learned cannot be read: {error!s:.80}") from error
        for field, value in (("models", models), ("classes", classes), ("prior", prior), ("confusion", tables)):
            object.__setattr__(self, field, value)
        if prior is None:
            return
        check_models(models)
        k = len(classes)
        fits = len(prior) == k and len(tables) == len(models) and all(len(table) == k for table in tables)
        if not fits or any(len(row) != k for table in tables for row in table):
            raise _refused(f"prior and confusion do not fit {k} classes and {len(models)} models")
        if not all(0 <= p <= 1 for row in (prior, *(row for table in tables for row in table)) for p in row):
            raise _refused("prior and confusion are not all in [0, 1]")

    @property
    def fitted(self) -> bool:
        """Whether it has learned."""
        return self.prior is not None

    def fit(self, pool: Pool, values: Floats) -> Self:
        """The confusions of these items; values are not looked at. Raises LLMValidationError fit.items, fit.values."""
        _check_votes(self.name, pool)
        classes = tuple(sorted({answer for found in pool.ballots.answers for answer in found}))
        if len(classes) > MOST_CLASSES:
            raise LLMValidationError(
                f"{self.name} needs answers that mean the same on every item, and found {len(classes)} different ones",
                code="fit.values",
                next_step="use one_coin, which counts agreement within each item",
            )
        found = dawid_skene(_votes(pool.ballots, classes), classes=len(classes))
        even = np.full(len(classes), 1 / len(classes))  # of a class that nobody was found in, and of a silent model
        table = np.where(
            np.isnan(found.confusion) | (found.confusion.sum(axis=2, keepdims=True) == 0), even, found.confusion
        )
        return replace(
            self,
            models=pool.models,
            classes=classes,
            prior=tuple(found.prior.tolist()),
            confusion=tuple(tuple(tuple(row) for row in one) for one in table.tolist()),
            warning=_warning(pool, max(2, len(classes))),
        )

    def over(self, pool: Pool) -> Outcome:
        """The outcome of every item; raises LLMValidationError validation.unfitted, validation.weights."""
        if self.prior is None:
            raise unfitted(self)
        check_members(dict.fromkeys(self.models, 1.0), pool.models)
        tables = np.log(np.maximum(np.array(self.confusion), SMALLEST))
        known = _votes(pool.ballots, self.classes)
        score = np.tile(np.log(np.maximum(np.array(self.prior), SMALLEST)), (len(pool), 1))
        for j, model in enumerate(pool.models):
            told = known[:, j] >= 0  # a vote for a class that was never seen says nothing of the others
            score[told] += tables[self.models.index(model)][:, known[told, j]].T
        place = {name: c for c, name in enumerate(self.classes)}
        of_codes = np.full((len(pool), pool.ballots.width), np.log(SMALLEST) * (len(pool.models) + 1))
        for i, answers in enumerate(pool.ballots.answers):
            for code, answer in enumerate(answers):
                if answer in place:
                    of_codes[i, code] = score[i, place[answer]]
        return outcome_of(pool.ballots, softmax(of_codes, pool.present))

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises as decide/merge.py does, and validation.unfitted."""
        return merged(self, contributions)


def _votes(ballots: Ballots, classes: Sequence[str]) -> NDArray[np.int32]:
    """N x M: the class of each vote, -1 for none and for one that is not among the classes."""
    place = {name: c for c, name in enumerate(classes)}
    made = np.full(ballots.codes.shape, -1, dtype=np.int32)
    for i, answers in enumerate(ballots.answers):
        table = np.array([*(place.get(answer, -1) for answer in answers), -1], dtype=np.int32)
        made[i] = table[ballots.codes[i]]  # a code of -1 takes the last
    return made


def _check_votes(name: str, pool: Pool) -> None:
    if len(pool.models) < 2 or not ((pool.ballots.codes >= 0).sum(axis=1) > 1).any():
        raise nothing_to_learn(
            name, f"no item of {len(pool)} has the answers of two members, and agreement is all it sees"
        )


def _warning(pool: Pool, width: int) -> str:
    """What speaks against independent errors, in words; nothing where there are too few members to tell."""
    if len(pool.models) < FEWEST_MODELS:
        return ""
    if len(pool.models) > MOST_MODELS:
        return f"errors that models share were not looked for: {len(pool.models)} models are too many"
    return correlation_warning(pool.models, excess_agreement(pool.ballots.codes, width=width)) or ""


def _refused(found: str) -> LLMValidationError:
    return LLMValidationError(found, code="validation.strategy", next_step="leave it out and fit the policy")
