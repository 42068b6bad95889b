"""The choice of a strategy to rewrite a query with, from what is expected of each.

Leaving the query unchanged is always among the choices, and wins unless something promises more. Exploring is Thompson
sampling with draws given as arguments; caution is subtracted from the draw of a strategy whose 95 % interval still
includes 0, the more the better its group is known: in the beginning trying is an investment, later a doubtful strategy
is a risk. Without draws nothing is tried: a strategy must promise a gain by more than its own uncertainty.

Source: Thompson 1933; Russo et al. 2018, "A Tutorial on Thompson Sampling". The caution is our own: what it does to the
recorded answers of one model is in notebook 02.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from workbench.decide.evidence import UNCHANGED, Gain
from workbench.decide.weights import is_finite
from workbench.errors import LLMValidationError

CAUTION = 2.0  # standard deviations; see docs/decisions/0014
PRUDENT_AFTER = 50  # tellings in a group, at which half the caution applies


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A strategy, or `unchanged`, and why.

    gain: what is expected of it; exactly 0 for `unchanged`. confidence: probability that it is the better choice than
    leaving the query unchanged; for `unchanged`, that it is better than the most promising one. explored: without
    draws the choice would have been another.
    """

    strategy: str
    gain: Gain
    confidence: float
    explored: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseStrategy:
    """The pure choice among strategies.

    caution: in standard deviations, >= 0; 0 is plain Thompson sampling, and without draws the largest expected gain.
    """

    caution: float = CAUTION
    name: ClassVar[str] = "choose_strategy"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        if not is_finite(self.caution) or self.caution < 0:
            raise LLMValidationError(
                f"caution is {self.caution!r:.40}, not a number >= 0",
                code="validation.config",
                next_step="use 2, or 0 for no caution",
            )

    def __call__(self, gains: Sequence[Gain], draws: Sequence[float] | None = None) -> Choice:
        """The strategy with the largest positive score, of equal ones the first, else `unchanged`.

        draws: standard normal numbers, one for `unchanged` and one for each gain, to explore; None to take what is
        known. All gains are over the same unchanged queries, so that its draw counts against all: of K strategies that
        nothing is known of it is asked in one of K + 1 cases, and not in one of 2^K.
        """
        if draws is not None and len(draws) != len(gains) + 1:
            raise LLMValidationError(
                f"{len(draws)} draws for {len(gains)} strategies",
                code="validation.config",
                next_step="give one draw for unchanged and one for each strategy, or None",
            )
        for z in draws or ():
            if not is_finite(z):
                raise LLMValidationError(
                    f"a draw is {z!r:.40}, not a number",
                    code="validation.config",
                    next_step="give standard normal numbers, or None",
                )
        known = self._best(gains, [None] * len(gains))
        best = known if draws is None else self._best(gains, [(z - draws[0]) / math.sqrt(2) for z in draws[1:]])
        explored = best != known
        if best is None:
            return _unchanged(gains, explored=explored)
        gain = gains[best]
        why = ": tried, to learn about it" if explored else ""
        return Choice(
            strategy=gain.strategy, gain=gain, confidence=gain.positive, explored=explored, reason=_told(gain) + why
        )

    def _best(self, gains: Sequence[Gain], draws: Sequence[float | None]) -> int | None:
        """The place of the gain with the largest positive score, of equal ones the first; None where there is none."""
        scores = [self._score(gain, z) for gain, z in zip(gains, draws, strict=True)]
        best = max(range(len(gains)), key=scores.__getitem__, default=None)
        return best if best is not None and scores[best] > 0 else None

    def _score(self, gain: Gain, draw: float | None) -> float:
        if draw is None:
            return gain.mean - self.caution * gain.sd
        prudence = 0.0 if gain.low > 0 else self.caution * gain.told / (gain.told + PRUDENT_AFTER)
        return gain.mean + (draw - prudence) * gain.sd


def _unchanged(gains: Sequence[Gain], *, explored: bool) -> Choice:
    best = max(gains, key=lambda gain: gain.positive, default=None)
    return Choice(
        strategy=UNCHANGED,
        gain=Gain(UNCHANGED, 0.0, 0.0),
        confidence=1.0 - best.positive if best is not None else 1.0,
        explored=explored,
        reason="no strategy to choose from" if best is None else f"left unchanged: {_told(best)} is the most promising",
    )


def _told(gain: Gain) -> str:
    return f"{gain.strategy} {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] from {gain.n:.0f} tellings here"
