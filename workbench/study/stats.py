"""Statistics on paired items: intervals, tests and what could have been found at all.

Every comparison is on the same items for both sides. The difference of an item is strategy minus single model;
higher is better. Nothing here knows what was compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from workbench.errors import LLMValidationError

Floats = NDArray[np.float64]
Verdict = Literal["better", "worse", "cannot tell"]
SAMPLES = 10_000
SPLITS = 100
MOST = 1_000_000  # samples and half splits
CHUNK_CELLS = 4_000_000  # resampling counts held at once: 32 MB


def verdict(low: float, high: float) -> Verdict:
    """`better` or `worse` when the whole interval lies on one side of 0, else `cannot tell`."""
    return "better" if low > 0 else "worse" if high < 0 else "cannot tell"


def bootstrap_interval(
    differences: Floats, *, samples: int = SAMPLES, seed: int = 0, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Percentile interval of the mean difference, resampling items.

    differences: N items x S columns (or N). All columns share the resamples, which depend on N and the seed alone: an
    interval is the same whatever else is compared beside it.
    Returns (low, high), each of length S. Source: Efron & Tibshirani 1993, chapter 13.
    Raises LLMValidationError stats.items for fewer than 2 items.
    """
    d = np.atleast_2d(np.asarray(differences, dtype=np.float64).T).T
    n = len(d)
    if n < 2:
        raise LLMValidationError(
            f"an interval needs at least 2 items, found {n}",
            code="stats.items",
            next_step="compare on more items",
        )
    rng = drawn_by(seed, samples)
    means = np.empty((samples, d.shape[1]))
    step = max(1, CHUNK_CELLS // n)
    for start in range(0, samples, step):
        size = min(step, samples - start)
        means[start : start + size] = _counts(rng, size, n).astype(np.float64) @ d / n
    tail = (1 - level) / 2 * 100
    low, high = np.percentile(means, [tail, 100 - tail], axis=0)
    return low, high


def resamples(n: int, *, samples: int = SAMPLES, seed: int = 0) -> NDArray[np.int64]:
    """How often each of n items is drawn in each of the samples of a bootstrap, samples x n."""
    return _counts(drawn_by(seed, samples), samples, n)


def _counts(rng: np.random.Generator, size: int, n: int) -> NDArray[np.int64]:
    drawn = rng.integers(0, n, (size, n)) + np.arange(size)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)


def wilson_interval(share: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a share of n independent trials; (low, high) within [0, 1].

    Unlike a bootstrap it does not shrink to nothing at 0 and 1: 48 of 48 leave [0.93, 1]. For a mean of scores within
    [0, 1] it is too long rather than too short. Source: Wilson 1927; Brown, Cai & DasGupta 2001.
    Raises LLMValidationError stats.items for a share outside [0, 1] or fewer than 1 trial.
    """
    if n < 1 or not 0 <= share <= 1:
        raise LLMValidationError(
            f"a share of {share:g} of {n} trials is none", code="stats.items", next_step="pass a mean within [0, 1]"
        )
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(ours: Floats, theirs: Floats) -> float | None:
    """Two-sided exact p-value of McNemar's test, or None where a score is not 0 or 1.

    Source: McNemar 1947; exact form, binomial with probability 1/2 over the discordant items.
    """
    both = np.concatenate([ours, theirs])
    if not np.isin(both, (0.0, 1.0)).all():
        return None
    from scipy.special import bdtr

    won, lost = int(((ours == 1) & (theirs == 0)).sum()), int(((ours == 0) & (theirs == 1)).sum())
    if won + lost == 0:
        return 1.0
    return float(min(1.0, 2 * bdtr(min(won, lost), won + lost, 0.5)))


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """P-values of a family of tests, corrected so that they hold together; each at most 1.

    Source: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    try:
        p = np.asarray(p_values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        p = np.array(np.nan)  # refused below, with what is no list of shares
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise LLMValidationError(
            f"p-values are {p_values!r:.80}, not a list of numbers in [0, 1]",
            code="validation.p_values",
            next_step="pass the p-values of one family of tests",
        )
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def minimum_detectable_effect(differences: Floats) -> float:
    """Smallest true mean difference that this many items would show with power 0.80 at the 5 % level.

    Normal approximation: (1.960 + 0.842) x standard error of the mean difference. In the scores' unit.
    """
    d = np.asarray(differences, dtype=np.float64)
    return float(2.8015 * d.std(ddof=1) / np.sqrt(len(d))) if len(d) > 1 else float("nan")


def half_splits(n: int, *, splits: int = SPLITS, seed: int = 0) -> NDArray[np.bool_]:
    """`splits` x n; True marks the half on which things are chosen, False the half that judges them.

    Raises LLMValidationError stats.items for fewer than 2 items.
    """
    if n < 2:
        raise LLMValidationError(
            f"a half split needs at least 2 items, found {n}", code="stats.items", next_step="compare on more items"
        )
    rng = drawn_by(seed)
    chosen = np.zeros((splits, n), dtype=bool)
    for row in chosen:
        row[rng.permutation(n)[: n // 2]] = True
    return chosen


def check_splits(splits: object) -> None:
    """Refuse a number of half splits that is no whole number from 2 to MOST."""
    if not _is_whole(splits, 2, MOST):
        raise LLMValidationError(
            f"{splits!r:.60} half splits",
            code="stats.splits",
            next_step=f"use a whole number from 2 to {MOST}, such as {SPLITS}",
        )


def drawn_by(seed: object, samples: object = SAMPLES) -> np.random.Generator:
    """The generator of a seed; refuses a seed and a number of samples that are no whole numbers from 0 and 1.

    Raises LLMValidationError stats.seed, stats.samples.
    """
    if not _is_whole(samples, 1, MOST):
        raise LLMValidationError(
            f"{samples!r:.60} samples",
            code="stats.samples",
            next_step=f"use a whole number from 1 to {MOST}, such as {SAMPLES}",
        )
    if not _is_whole(seed, 0, 2**64):
        raise LLMValidationError(
            f"the seed is {seed!r:.60}", code="stats.seed", next_step="use a whole number from 0 to 2**64, such as 0"
        )
    return np.random.default_rng(cast(int, seed))


def _is_whole(value: object, least: int, most: int) -> bool:
    is_number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_number and least <= cast(int, value) <= most


@dataclass(frozen=True, slots=True)
class SplitResult:
    """Mean and 2.5 / 97.5 percentiles of a difference over random half splits."""

    delta: float
    low: float
    high: float


def split_differences(
    singles: Floats,
    strategy: Callable[[NDArray[np.bool_]], Floats],
    *,
    splits: int = SPLITS,
    seed: int = 0,
) -> SplitResult:
    """Strategy minus the best single model chosen on the other half, over random half splits.

    singles: N x M scores. strategy: given the mask of the choosing half, the strategy's N scores, with whatever
    it fits fitted on that half alone; only those of the judging half are used.
    """
    found = np.empty(splits)
    for k, choose in enumerate(half_splits(len(singles), splits=splits, seed=seed)):
        best = int(singles[choose].mean(axis=0).argmax())
        judge = ~choose
        found[k] = strategy(choose)[judge].mean() - singles[judge, best].mean()
    low, high = np.percentile(found, [2.5, 97.5])
    return SplitResult(float(found.mean()), float(low), float(high))
