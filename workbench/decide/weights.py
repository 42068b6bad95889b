"""Weights of members: what is accepted, how it is kept, and how it is counted.

Support is counted in integer units, so that a tie is a tie on every machine and in every order of addition: the
largest weight among the voters is SCALE units, the others are rounded to whole units. Two supports count as
equal when they differ by no more than one unit per member: weights such as 1/3 cannot be written exactly.
"""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeGuard

from workbench.errors import LLMValidationError

SCALE = 1_000_000_000
LARGEST = 1e100  # of a score, a cost or a price: sums of squares of larger ones leave the range of floats


class Signed(Mapping[str, float]):
    """Model -> a number of either sign, unchangeable; can be copied, compared and used as a key.

    Raises LLMValidationError validation.weights for what is not a mapping to finite numbers.
    """

    __slots__ = ("_items",)

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._check(weights)
        self._items = tuple((model, float(weight)) for model, weight in weights.items())

    def _check(self, weights: Mapping[str, float]) -> None:
        check_numbers(weights)
        for model, weight in weights.items():
            if not is_finite(weight):
                raise _bad_weights(f"weight of {model!r} is {_shown(weight)}, not a finite number")

    def __getitem__(self, model: str) -> float:
        for name, weight in self._items:
            if name == model:
                return weight
        raise KeyError(model)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items))

    def __repr__(self) -> str:
        return repr(dict(self._items))


class Weights(Signed):
    """Weights of a vote: checked as `check_weights` does, and not all 0."""

    __slots__ = ()

    def _check(self, weights: Mapping[str, float]) -> None:
        check_weights(weights)


def check_numbers(weights: Mapping[str, float]) -> None:
    """Refuse what is not a mapping from model to a number."""
    if not isinstance(weights, Mapping):
        raise _bad_weights(f"weights are a {type(weights).__name__}, not a mapping from model to weight")
    for model, weight in weights.items():
        if not isinstance(model, str):
            raise _bad_weights(f"weights name {model!r:.60}, which is no model's name", "use the models' names as keys")
        if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
            raise _bad_weights(f"weight of {model!r} is {weight!r:.60}, not a number")


def check_weights(weights: Mapping[str, float]) -> None:
    """Refuse weights that are negative, not finite, not numbers, or all zero."""
    check_numbers(weights)
    for model, weight in weights.items():
        if not is_finite(weight) or weight < 0:
            raise _bad_weights(f"weight of {model!r} is {_shown(weight)}, not a finite number >= 0")
    if not any(weights.values()):
        raise _bad_weights(f"all {len(weights)} weights are zero, so no model could vote")


def is_finite(value: object) -> TypeGuard[float]:
    """Whether a value is a real number that is finite as a float; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # an integer beyond the range of floats
        return False


def _shown(weight: float) -> str:
    try:
        return str(weight)[:40]
    except ValueError:  # an integer with more digits than Python prints
        return "beyond the range of numbers"


def check_members(weights: Mapping[str, float], members: Iterable[str]) -> None:
    """Refuse weights that name an unknown model or leave a member out."""
    known = list(members)
    for model in weights:
        if model not in known:
            hint = closest(model, known)
            raise _bad_weights(
                f"weights name {model!r}, which is not among the members {', '.join(known)}",
                f"did you mean {hint!r}?" if hint else None,
            )
    missing = [m for m in known if m not in weights]
    if missing:
        raise _bad_weights(f"weights leave out {', '.join(missing)}", "give every member a weight; 0 leaves it out")


def check_models(models: Sequence[str]) -> None:
    """Refuse what is no list of models' names, an empty one, and a model that stands in it twice."""
    if not isinstance(models, Sequence) or not all(isinstance(m, str) for m in models):
        raise LLMValidationError(
            f"models are {models!r:.80}, not a list of names",
            code="validation.models",
            next_step="name the models in a list, such as ['small', 'large']",
        )
    if not models:
        raise LLMValidationError(
            "no contributions to merge", code="validation.models", next_step="name at least one model"
        )
    if len(set(models)) < len(models):
        twice = next(m for m in models if models.count(m) > 1)
        raise LLMValidationError(
            f"model {twice!r} contributes twice",
            code="validation.models",
            next_step="give each draw of one model a name of its own, such as model#2",
        )


def _bad_weights(message: str, next_step: str | None = None) -> LLMValidationError:
    step = next_step or "give every member a finite weight >= 0, at least one of them positive"
    return LLMValidationError(message, code="validation.weights", next_step=step)


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


def units_of(weights: Sequence[float]) -> list[int]:
    """The voters' weights as whole units, the largest being SCALE; all 0 when no weight is positive."""
    top = max(weights, default=0.0)
    return [round(w / top * SCALE) if top > 0 else 0 for w in weights]
