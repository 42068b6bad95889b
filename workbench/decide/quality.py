"""Estimates of a contribution's quality that never look at the item under decision.

Each estimator's name goes into the log beside its value (`quality_source`), so that a reader can tell what the
filter and best_of_n relied on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ON_OTHER_ITEMS = "score_on_other_items"
RANK_ON_OTHER_ITEMS = "rank_on_other_items"


def on_other_items(scores: Floats) -> Floats:
    """Each model's mean score on every item but this one.

    scores: items x models, in [0, 1], NaN where a model has no score.
    Returns the same shape, in [0, 1]; NaN for a model without a score on any other item.
    """
    known = ~np.isnan(scores)
    count = known.sum(axis=0) - known
    # Sums before and after each item, never a total minus the own score: a rounding left behind by that
    # subtraction would let the item's own score break ties between models.
    total = np.vstack([np.zeros((1, scores.shape[1])), np.where(known, scores, 0.0)])
    before = np.cumsum(total, axis=0)[:-1]
    after = np.cumsum(total[::-1], axis=0)[::-1][1:]
    after = np.vstack([after[1:], np.zeros((1, scores.shape[1]))])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (before + after) / count
    return np.where(count > 0, np.clip(mean, 0.0, 1.0), np.nan)


def ranks(scores: Floats) -> Floats:
    """Rank of each model within its item, scaled to [0, 1]; ties share their mean rank.

    The scale-free stand-in for scores without a unit interval (human ratings, error counts).
    scores: items x models, higher is better, NaN where missing. Returns the same shape; 0.5 where only one
    model has a score.
    """
    known = ~np.isnan(scores)
    filled = np.where(known, scores, np.nan)
    below = (filled[:, None, :] < filled[:, :, None]).sum(axis=2)
    equal = (filled[:, None, :] == filled[:, :, None]).sum(axis=2) - 1
    others = known.sum(axis=1, keepdims=True) - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (below + equal / 2) / others
    return np.where(known, np.where(others > 0, share, 0.5), np.nan)
