"""Merges of one set of contributions over their normalised answers.

Three strategies under the field's names. Support is counted in the integer units of decide/weights.py. A tie
keeps all its answers in `tied`; `answer` is the first in sorted order, which does not depend on the order of the
models. `decide/votes.py` computes the same over a whole run; a property test holds the two equal.

Who votes: a contribution that is kept (not filtered, failed or late), has an answer and a positive weight.
An unknown quality passes the filter and is counted in `EnsembleResponse.unrated`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar

from workbench.decide.quorum import best, nobody
from workbench.decide.weights import Weights, check_members, check_models, check_weights, is_finite, units_of
from workbench.errors import LLMOrchestratorError, LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution


@dataclass(frozen=True)
class MajorityVoting:
    """The answer most members give; every member with a positive weight has one vote.

    threshold: contributions with a known quality below it are left out; None keeps all. In [0, 1].
    Source: Wang et al. 2023, "Self-Consistency", section 2 (there over samples of one model).
    """

    threshold: float | None = None
    name: ClassVar[str] = "majority_voting"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises LLMValidationError on unusable input, LLMOrchestratorError when nothing is left."""
        parts = prepare(contributions, self.threshold)
        return by_support(self.name, parts, one_each(parts))


@dataclass(frozen=True)
class WeightedConsensus:
    """The answer with the largest sum of weights behind it.

    weights: model -> weight >= 0, for every member, not all zero. None: each member weighs its contribution's
        `weight` times its `quality`; an unrated one takes the mean quality of the rated (1 when none is rated).
    threshold: as for MajorityVoting.
    Source: weighted majority, Littlestone & Warmuth 1994, with fixed weights.
    """

    weights: Mapping[str, float] | None = None
    threshold: float | None = None
    name: ClassVar[str] = "weighted_consensus"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if self.weights is not None:
            object.__setattr__(self, "weights", Weights(self.weights))

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises LLMValidationError on unusable input, LLMOrchestratorError when nothing is left."""
        check_contributions(contributions)
        if self.weights is not None and contributions:
            check_members(self.weights, [c.model for c in contributions])
            contributions = [replace(c, weight=float(self.weights[c.model])) for c in contributions]
        parts = prepare(contributions, self.threshold)
        weights = [c.weight for c in parts] if self.weights is not None else quality_weights(parts)
        return by_support(self.name, parts, weights)


@dataclass(frozen=True)
class BestOfN:
    """The answer of the member with the highest estimated quality among those that have one.

    Equal qualities, or no known quality at all, leave a tie of their distinct answers. The estimate comes from
    the caller or from the model's record on *other* items, never from the item's own reference or score.
    threshold: as for MajorityVoting.
    """

    threshold: float | None = None
    name: ClassVar[str] = "best_of_n"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises LLMValidationError on unusable input, LLMOrchestratorError when nothing is left."""
        parts = prepare(contributions, self.threshold)
        voters = [c for c in parts if c.votes and c.weight > 0]
        best = max((_rank(c) for c in voters), default=0.0)
        tied = sorted({str(c.answer) for c in voters if _rank(c) == best})
        return conclude(self.name, parts, one_each(parts), tied)


def params_of(merge: object) -> dict[str, Any]:
    """A policy's parameters as plain JSON values; `policy(name, params)` makes it again."""
    names = [f.name for f in fields(merge)] if is_dataclass(merge) and not isinstance(merge, type) else []
    values = {name: getattr(merge, name) for name in names}
    return {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items() if v is not None}


def check_threshold(threshold: float | None) -> None:
    """Refuse a quality threshold that is not a number in [0, 1]."""
    if threshold is None:
        return
    if not is_finite(threshold) or not 0 <= threshold <= 1:
        raise LLMValidationError(
            f"quality threshold {threshold!r:.60} is not in [0, 1]",
            code="validation.threshold",
            next_step="use a number from 0 to 1, or None to keep every contribution",
        )


def prepare(contributions: Sequence[ModelContribution], threshold: float | None) -> list[ModelContribution]:
    """The contributions sorted by model, filtered by quality, after every check of the input."""
    check_contributions(contributions)
    check_models([c.model for c in contributions])
    check_weights({c.model: c.weight for c in contributions})
    for c in contributions:
        if c.quality is not None and not (is_finite(c.quality) and 0 <= c.quality <= 1):
            raise LLMValidationError(
                f"quality of {c.model!r} is {c.quality!r:.60}, not in [0, 1]",
                code="validation.quality",
                next_step="scale the estimate to [0, 1], or pass None when it is unknown",
            )
    if all(c.response is None and c.answer is None and not _is_failed(c) for c in contributions):
        raise LLMValidationError(
            "the contributions have neither text nor answers, so there is nothing to merge",
            code="validation.no_text",
            next_step="compare single models by score, or use a recording that keeps the responses",
        )
    return _filtered(sorted(contributions, key=lambda c: c.model), threshold)


def check_contributions(contributions: object) -> None:
    """Refuse what is no sequence of contributions."""
    if not isinstance(contributions, Sequence) or not all(isinstance(c, ModelContribution) for c in contributions):
        raise LLMValidationError(
            f"contributions are {contributions!r:.80}, not a list of ModelContribution",
            code="validation.contributions",
            next_step="pass a list with one ModelContribution a member",
        )


def _is_failed(c: ModelContribution) -> bool:
    return c.failure is not None or c.status in ("failed", "late")


def _filtered(parts: list[ModelContribution], threshold: float | None) -> list[ModelContribution]:
    kept = [_below(c, threshold) for c in parts]
    if any(c.status == "kept" for c in kept):
        return kept
    answered = [c for c in parts if not _is_failed(c)]
    if not answered:
        raise nobody(kept)
    top = best(answered)
    raise LLMOrchestratorError(
        f"none of {len(parts)} contributions reaches quality {threshold} (best: {top.model} at {top.quality})",
        code="ensemble.all_filtered",
        errors=[c.failure for c in parts if c.failure],
        partial=top,
        contributions=kept,
        next_step="lower quality_threshold, or use the best contribution kept in .partial",
    )


def _below(c: ModelContribution, threshold: float | None) -> ModelContribution:
    if c.failure is not None and c.status == "kept":
        return replace(c, status="failed")
    if threshold is not None and c.quality is not None and c.quality < threshold and c.status == "kept":
        return replace(c, status="filtered")
    return c


def one_each(parts: Sequence[ModelContribution]) -> list[float]:
    """One vote for every member with a positive weight."""
    return [float(c.weight > 0) for c in parts]


def quality_weights(parts: Sequence[ModelContribution]) -> list[float]:
    """Weight times quality; unrated members take the mean quality of the rated, or 1.

    Where every voter comes out at 0, all count alike: members that were wrong elsewhere may still agree here.
    """
    total, rated = 0.0, 0
    for c in parts:  # added one by one, as votes.py does: sum() compensates from Python 3.12 on
        if c.quality is not None and c.weight > 0 and not _is_failed(c):
            total, rated = total + c.quality, rated + 1
    mean = total / rated if rated else 1.0
    weights = [c.weight * (mean if c.quality is None or _is_failed(c) else c.quality) for c in parts]
    heard = any(w > 0 for w, c in zip(weights, parts, strict=True) if c.votes)
    return weights if heard else [c.weight for c in parts]


def by_support(name: str, parts: Sequence[ModelContribution], weights: Sequence[float]) -> EnsembleResponse:
    """The answers whose summed units reach the largest sum, within one unit per member."""
    support = _support(parts, weights)
    top = max(support.values(), default=0)
    tied = sorted(a for a, s in support.items() if top - s <= len(parts))
    return conclude(name, parts, weights, tied)


def conclude(
    name: str, parts: Sequence[ModelContribution], weights: Sequence[float], tied: Sequence[str]
) -> EnsembleResponse:
    """The response for the tied answers: the first is the answer, its strongest supporter gives the text."""
    support = _support(parts, weights)
    answer = tied[0] if tied else None
    agreement = support.get(answer, 0) / sum(support.values()) if answer is not None else 0.0
    asked = heard = 0.0
    top = max(weights) or 1.0  # sums of huge weights would overflow
    for c, w in zip(parts, weights, strict=True):
        asked, heard = asked + w / top, heard + (w / top if c.votes else 0.0)
    order = sorted(zip(parts, weights, strict=True), key=lambda p: (-p[1], -_rank(p[0]), p[0].model))
    text = next((c.response.text for c, _ in order if c.response and c.votes and c.answer == answer), "")
    return EnsembleResponse(
        text=text or (answer or ""),
        answer=answer,
        tied=tuple(tied),
        strategy=name,
        confidence=min(agreement, agreement * heard / asked) if answer is not None else 0.0,  # but for rounding
        agreement=agreement,
        contributions=tuple(parts),
    )


def _support(parts: Sequence[ModelContribution], weights: Sequence[float]) -> dict[str, int]:
    voters = [(str(c.answer), w) for c, w in zip(parts, weights, strict=True) if c.votes and w > 0]
    support: dict[str, int] = {}
    for (answer, _), units in zip(voters, units_of([w for _, w in voters]), strict=True):
        support[answer] = support.get(answer, 0) + units
    return support


def _rank(c: ModelContribution) -> float:
    return -1.0 if c.quality is None else c.quality
