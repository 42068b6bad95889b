"""Confidences that mean what they say: calibration maps, and how far a confidence is from being right that often.

confidence: n numbers in [0, 1], what was claimed. right: n numbers in [0, 1], what came of it; 1 is right, 0 wrong.
A calibrated confidence of 0.8 is right eight times out of ten. Neither map changes the order of two confidences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workbench.errors import LLMValidationError

Floats = NDArray[np.float64]
Curve = tuple[tuple[float, float], ...]
Calibration = Literal["temperature", "isotonic"]

MOST_BINS = 10_000
EDGE = 1e-3  # confidences are kept this far from 0 and 1, whose logit is infinite: one error must not cost everything
COLDEST, HOTTEST = 0.01, 100.0  # temperatures


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBins:
    """A reliability diagram in numbers: B bins of equal width, closed above; the first holds 0 as well.

    edges: B + 1. count: B. confidence, accuracy: mean of each bin, NaN where it is empty.
    """

    edges: Floats
    count: NDArray[np.int64]
    confidence: Floats
    accuracy: Floats

    @property
    def error(self) -> float:
        """Mean distance of confidence and accuracy, bins weighted by their count; in [0, 1]."""
        gap = np.where(self.count > 0, np.abs(self.confidence - self.accuracy), 0.0)
        return float(gap @ self.count / self.count.sum())


def reliability(confidence: Floats, right: Floats, bins: int = 10) -> ReliabilityBins:
    """Mean confidence, accuracy and count of each of `bins` >= 1 bins.

    Raises LLMValidationError validation.calibration. Source: Guo et al. 2017, "On calibration of modern neural
    networks", section 2.
    """
    c, y = _checked(confidence, right)
    if isinstance(bins, bool) or not isinstance(bins, int) or not 1 <= bins <= MOST_BINS:
        raise _refused(f"{bins!r:.60} bins", f"use a whole number from 1 to {MOST_BINS}, such as 10")
    edges = np.arange(bins + 1) / bins
    place = np.maximum(np.searchsorted(edges, c, side="left") - 1, 0)
    count = np.bincount(place, minlength=bins)
    total = np.where(count > 0, count, np.nan)
    return ReliabilityBins(
        edges=edges,
        count=count,
        confidence=np.bincount(place, weights=c, minlength=bins) / total,
        accuracy=np.bincount(place, weights=y, minlength=bins) / total,
    )


def expected_calibration_error(confidence: Floats, right: Floats, bins: int = 10) -> float:
    """ECE: mean distance of confidence and accuracy over bins of equal width, in [0, 1]; depends on `bins`.

    Raises and source as for `reliability`.
    """
    return reliability(confidence, right, bins).error


def logit(confidence: Floats) -> Floats:
    """log(p / (1 - p)) of confidences, kept EDGE away from 0 and 1."""
    p = np.clip(confidence, EDGE, 1 - EDGE)
    return np.asarray(np.log(p) - np.log1p(-p))


def temperature(logits: Floats, right: Floats) -> float:
    """The T under which sigmoid(logit / T) has the highest log score; from COLDEST to HOTTEST.

    T > 1: the confidences were too sure. The log score is concave in 1 / T, so that there is one maximum.
    Raises LLMValidationError validation.calibration. Source: Guo et al. 2017, section 4.2.
    """
    z = np.asarray(logits, dtype=np.float64)
    _, y = _checked(np.where(np.isfinite(z), 0.5, np.nan), right)
    far, borne = np.abs(z), np.where(z >= 0, y, 1 - y)  # how sure, of either side, and whether that side was right
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(60):  # halvings: to the last bit
        middle = (low + high) / 2
        odds = np.exp(-middle * far)
        rising = far @ ((borne * odds - (1 - borne)) / (1 + odds)) > 0
        low, high = (middle, high) if rising else (low, middle)
    return 2 / (low + high)


def temperature_scale(confidence: Floats, t: float) -> Floats:
    """sigmoid(logit(confidence) / t), kept EDGE away from 0 and 1; t > 0."""
    return np.clip((1 + np.tanh(logit(confidence) / t / 2)) / 2, EDGE, 1 - EDGE)


def pool_adjacent_violators(y: Floats, w: Floats | None = None) -> Floats:
    """The sequence that never falls and is nearest to y in squares, weighted by w > 0 (None: all 1).

    y: n finite numbers. Linear in n. Raises LLMValidationError validation.calibration.
    Source: Ayer et al. 1955.
    >>> pool_adjacent_violators(np.array([1.0, 3.0, 2.0, 4.0])).tolist()
    [1.0, 2.5, 2.5, 4.0]
    """
    weights = np.ones(len(y)) if w is None else np.asarray(w, dtype=np.float64)
    if weights.shape != np.shape(y) or not (
        np.isfinite(y).all() and np.isfinite(weights).all() and (weights > 0).all()
    ):
        raise _refused(f"{np.shape(y)} numbers with {weights.shape} weights", "give finite numbers, each a weight > 0")
    blocks: list[tuple[float, float, int]] = []  # sum, weight and length of each stretch of equal values
    for value, weight in zip(y.tolist(), weights.tolist(), strict=True):
        total, mass, length = value * weight, weight, 1
        while blocks and blocks[-1][0] * mass >= total * blocks[-1][1]:
            before = blocks.pop()
            total, mass, length = total + before[0], mass + before[1], length + before[2]
        blocks.append((total, mass, length))
    return np.repeat([total / mass for total, mass, _ in blocks], [length for *_, length in blocks])


def isotonic(confidence: Floats, right: Floats) -> Curve:
    """Breakpoints (confidence, share right) of a calibration curve that never falls.

    One for each stretch that pool-adjacent-violators joins, at its mean confidence. Its share counts one item more
    than there are, as right as all of them are: three right out of three are not certain.
    Raises LLMValidationError validation.calibration. Source: Zadrozny & Elkan 2002, there without the item more.
    """
    c, y = _checked(confidence, right)
    order = np.lexsort((y, c))
    level, place = np.unique(c[order], return_inverse=True)
    asked = np.bincount(place)
    good = np.bincount(place, weights=y[order])
    share = pool_adjacent_violators(good / asked, asked.astype(np.float64))
    block = np.cumsum(np.diff(share, prepend=share[0]) > 0)
    asked_of = np.bincount(block, weights=asked)
    prior = (good.sum() + 0.5) / (len(c) + 1)
    smooth = (np.bincount(block, weights=good) + prior) / (asked_of + 1)
    return tuple(
        zip(
            (np.bincount(block, weights=level * asked) / asked_of).tolist(),
            pool_adjacent_violators(smooth, np.asarray(asked_of + 1.0)).tolist(),
            strict=True,
        )
    )


def calibration_of(kind: Calibration, confidence: Floats, right: Floats) -> float | Curve:
    """The map of that kind for these confidences: a temperature, or the breakpoints of an isotonic curve."""
    return temperature(logit(confidence), right) if kind == "temperature" else isotonic(confidence, right)


def calibrated(by: float | Curve, confidence: Floats) -> Floats:
    """What confidences are worth by a map of `calibration_of`, in (0, 1), NaN where they are.

    A curve is straight between its breakpoints and flat outside them.
    """
    if isinstance(by, float):
        return temperature_scale(confidence, by)
    x, p = np.array(by, dtype=np.float64).T
    return np.asarray(np.interp(confidence, x, p))


def _checked(confidence: Floats, right: Floats) -> tuple[Floats, Floats]:
    c, y = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if c.shape != y.shape or c.ndim != 1 or not c.size:
        raise _refused(
            f"{c.shape} confidences and {y.shape} outcomes", "give one outcome for each of one or more items"
        )
    if not ((c >= 0) & (c <= 1) & (y >= 0) & (y <= 1)).all():
        raise _refused("confidences or outcomes outside [0, 1]", "scale both to [0, 1], and leave out what is unknown")
    return c, y


def _refused(found: str, instead: str) -> LLMValidationError:
    return LLMValidationError(f"cannot calibrate: {found}", code="validation.calibration", next_step=instead)
