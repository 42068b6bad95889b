"""Weights that follow what is told about quality, and forget what was told long ago.

A model's quality is the mean of a Beta distribution: prior counts plus what was told, each telling worth `discount` of
the next one. `update` makes a new value of the old one and the feedback, so a sequence of feedback gives the same
weights wherever it is repeated, and each step can be logged and made again.

Source: the discounted sums are those of discounted UCB (Garivier & Moulines 2011, section 2), in which an update
discounts all arms, also those it tells nothing about; the mean is that of a Beta posterior with fractional counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Self

from workbench.decide.weights import Weights, closest, is_finite
from workbench.errors import LLMValidationError
from workbench.facts import EnsembleResponse

MOST = 1e15  # of a count: the sum of larger ones with 1 is not exact
_LEAST = 1e-300  # of a share before it is bounded: one that underflows to 0 could not be raised to the floor


@dataclass(frozen=True)
class AdaptiveWeights:
    """Weights for WeightedConsensus: each base weight times the mean quality told of its model, as shares of 1.

    base: model -> weight >= 0 before anything is told, not all 0; a model of weight 0 stays out.
    discount: in (0, 1]; what a telling is worth after one more update; 1 forgets nothing, and about
        1 / (1 - discount) updates are remembered.
    floor, ceiling: bounds on the share of every model with a positive base weight; floor in [0, 1), ceiling in (0, 1].
    prior: pseudo-counts > 0 of good and bad answers that every model starts with.
    evidence: model -> discounted sum of its qualities, and number of them, as `update` keeps them.
    Raises LLMValidationError validation.weights for the base, validation.config for the rest.
    """

    base: Mapping[str, float]
    discount: float = 0.99
    floor: float = 0.02
    ceiling: float = 1.0
    prior: tuple[float, float] = (1.0, 1.0)
    evidence: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)
    name: ClassVar[str] = "adaptive_weights"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", Weights(self.base))
        _check("discount", self.discount, 0 < self._number("discount") <= 1, "in (0, 1]", "use 0.99")
        _check("floor", self.floor, 0 <= self._number("floor") < 1, "in [0, 1)", "use 0.02")
        _check("ceiling", self.ceiling, 0 < self._number("ceiling") <= 1, "in (0, 1]", "use 1 for none")
        heard = sum(weight > 0 for weight in self.base.values())
        possible = self.floor * heard <= 1 <= self.ceiling * heard
        _check("floor, ceiling", (self.floor, self.ceiling), possible, f"met by shares of {heard} models",
               f"keep floor <= 1/{heard} <= ceiling")  # fmt: skip
        prior = _pair(self.prior)
        _check("prior", self.prior, prior is not None and min(prior) > 0, "two counts > 0", "use (1, 1)")
        object.__setattr__(self, "prior", prior)
        given = self.evidence if isinstance(self.evidence, Mapping) else {"": self.evidence}
        evidence = {model: _pair(told) for model, told in given.items()}
        sound = all(told is not None and 0 <= told[0] <= told[1] for told in evidence.values())
        _check("evidence", self.evidence, sound and evidence.keys() <= set(self.base),
               "pairs 0 <= sum <= count of models with a base weight", "leave it out and call update")  # fmt: skip
        object.__setattr__(self, "evidence", MappingProxyType(evidence))

    def _number(self, name: str) -> float:
        value = getattr(self, name)
        return float(value) if is_finite(value) else math.nan

    def __reduce__(self) -> tuple[Any, ...]:
        # The evidence cannot be changed, and what stands in for it can be neither copied nor pickled.
        return type(self), (self.base, self.discount, self.floor, self.ceiling, self.prior, dict(self.evidence))

    def __call__(self, quality: Mapping[str, float]) -> Self:
        """`update`, as the log calls a policy."""
        return self.update(quality)

    def update(self, quality: Mapping[str, float]) -> Self:
        """The weights after one more telling: model -> quality in [0, 1] of its answer, for one model or more.

        Everything that was told before counts `discount` times what it did. Raises LLMValidationError
        validation.feedback for an empty telling, unknown models, and what is no number in [0, 1].
        """
        self._check_feedback(quality)
        told = {}
        for model in self.base:
            total, count = (self.discount * amount for amount in self.evidence.get(model, (0.0, 0.0)))
            if model in quality:
                # Rounding must not make the sum larger than the count.
                count = count + 1.0
                total = min(total + float(quality[model]), count)
            told[model] = (total, count)
        return replace(self, evidence=told)

    def mean(self, model: str) -> float:
        """The posterior mean quality of a model, in (0, 1)."""
        (good, bad), (total, count) = self.prior, self.evidence.get(model, (0.0, 0.0))
        return (good + total) / (good + bad + count)

    def weights(self) -> dict[str, float]:
        """Model -> share of the vote, in the order of the base; they sum to 1 but for rounding."""
        heard = [model for model, weight in self.base.items() if weight > 0]
        top = max(self.base.values())  # sums of huge weights would overflow
        raw = [max(self.base[model] / top * self.mean(model), _LEAST) for model in heard]
        shares = dict(zip(heard, _bounded(raw, self.floor, self.ceiling), strict=True))
        return {model: shares.get(model, 0.0) for model in self.base}

    def _check_feedback(self, quality: Mapping[str, float]) -> None:
        if not isinstance(quality, Mapping) or not quality:
            raise _bad_feedback(f"feedback is {quality!r:.80}, not a mapping from model to quality")
        for model, value in quality.items():
            if model not in self.base:
                hint = closest(str(model), self.base)
                raise _bad_feedback(
                    f"feedback names {model!r}, which is not among {', '.join(self.base)}",
                    f"did you mean {hint!r}?" if hint else None,
                )
            if not is_finite(value) or not 0 <= value <= 1:
                raise _bad_feedback(f"quality of {model!r} is {value!r:.40}, not a number in [0, 1]")


def feedback_of(feedback: Mapping[str, float] | EnsembleResponse, quality: float | None) -> Mapping[str, Any]:
    """Model -> quality, for `AdaptiveWeights.update`, which checks it.

    feedback: that mapping, without `quality`; or a response, whose `quality` is told of the members that voted for its
    answer, and of no other: what they answered was not judged.
    Raises LLMValidationError validation.feedback for both at once, and for an answer that no member gave.
    """
    if not isinstance(feedback, EnsembleResponse):
        if quality is not None:
            raise _bad_feedback("quality was given beside a mapping that has it", "leave quality out")
        return feedback
    voters = (c for c in feedback.contributions if c.votes and c.weight > 0)
    behind = {c.model: quality for c in voters if c.answer == feedback.answer}
    if not behind:
        raise _bad_feedback(f"no member stands behind the answer {feedback.answer!r:.60}")
    return behind


def _bounded(raw: Sequence[float], low: float, high: float) -> list[float]:
    """Shares clip(scale x raw, low, high) that sum to 1; raw: > 0."""

    def at(scale: float) -> list[float]:
        return [min(max(scale * r, low), high) for r in raw]

    # The sum grows with the scale, and is a straight line between two scales at which a member meets a bound.
    kinks = sorted({bound / r for r in raw for bound in (low, high)})
    start = max((k for k in kinks if math.fsum(at(k)) <= 1), default=0.0)
    free = math.fsum(r for r in raw if low / r <= start < high / r)
    return at(start + (1 - math.fsum(at(start))) / free if free > 0 else start)


def _pair(value: Any) -> tuple[float, float] | None:
    """Two finite numbers of at most MOST, or None for anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    known = all(is_finite(v) and v <= MOST for v in value)
    return (float(value[0]), float(value[1])) if known else None


def _check(name: str, value: object, kept: bool, wanted: str, instead: str) -> None:
    if not kept:
        raise LLMValidationError(
            f"{name} of adaptive weights is {value!r:.80}, not {wanted}", code="validation.config", next_step=instead
        )


def _bad_feedback(found: str, next_step: str | None = None) -> LLMValidationError:
    step = next_step or "give each model whose answer was judged a quality from 0 to 1"
    return LLMValidationError(found, code="validation.feedback", next_step=step)
