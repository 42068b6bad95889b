"""What the strategies learn with: linear models over the answers of an item, and how labels are read from values.

values: N x width, what each answer of each item is worth, NaN where nobody knows. Answers of one item compete with each
other alone, so that what is the same for all of them, such as how hard the item is, has no influence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workbench.decide.pool import Pool, nothing_to_learn, softmax
from workbench.decide.votes import Ballots, Floats
from workbench.decide.weights import LARGEST
from workbench.errors import LLMValidationError

STEPS, ENOUGH = 50, 1e-8
WIDE = 64


def supporters(ballots: Ballots) -> Floats:
    """N x width x M: 1 where a member gives an answer, else 0."""
    n, m = ballots.codes.shape
    made = np.zeros((n, ballots.width, m))
    rows, members = np.nonzero(ballots.codes >= 0)
    made[rows, ballots.codes[rows, members], members] = 1.0
    return made


def worth_of_members(ballots: Ballots, values: Floats) -> Floats:
    """N x M: what the answer of each member is worth; NaN where it has none, or nobody knows."""
    codes = ballots.codes
    found = np.take_along_axis(values, np.maximum(codes, 0).astype(np.intp), axis=1)
    return np.where(codes >= 0, found, np.nan)


def worth_of_nothing(values: Floats) -> float:
    """What no answer is worth: 0 where known values lie within [0, 1], as shares of being right do, else the least."""
    least = float(np.nanmin(values))
    return 0.0 if least >= 0 and float(np.nanmax(values)) <= 1 else least


def gold_codes(values: Floats) -> NDArray[np.intp]:
    """The code of each item's right answer, -1 where no answer given is right or nobody knows."""
    right = values == 1.0
    return np.where(right.any(axis=1), right.argmax(axis=1), -1)


def check_values(name: str, pool: Pool, values: Floats) -> None:
    """Refuse what are no values of the answers of a pool: N x width numbers within +-LARGEST, NaN unknown."""
    if not isinstance(pool, Pool):
        raise LLMValidationError(
            f"{name} is fitted on a pool, and found a {type(pool).__name__}",
            code="fit.values",
            next_step="use run.fit(policy), or fit(run.pool, run.table.values())",
        )
    wanted, kind = (len(pool), pool.ballots.width), getattr(values, "dtype", None)
    if not isinstance(values, np.ndarray) or values.shape != wanted or values.dtype.kind not in "fiu":
        found = f"{kind} of shape {values.shape}" if isinstance(values, np.ndarray) else f"a {type(values).__name__}"
        raise LLMValidationError(
            f"{name} needs values of the shape {wanted}, one number an answer, and found {found}",
            code="fit.values",
            next_step="use run.fit(policy), or fit(run.pool, run.table.values())",
        )
    if (np.abs(values) > LARGEST).any():
        raise LLMValidationError(
            f"{name} found values beyond {LARGEST:g}, which cannot be added up",
            code="fit.values",
            next_step="scale the scores, and leave items without a finite one out",
        )


def check_fractions(name: str, pool: Pool, values: Floats) -> None:
    """Refuse values outside [0, 1] where a strategy reads them as shares of being right; and what check_values does."""
    check_values(name, pool, values)
    known = values[~np.isnan(values)]
    if known.size and not (known.min() >= 0 and known.max() <= 1):
        raise LLMValidationError(
            f"{name} reads values as right or wrong, and found {known.min():g} to {known.max():g}",
            code="fit.values",
            next_step="use stacking or minimum_bayes_risk on scores of another scale",
        )


def all_known(pool: Pool, values: Floats) -> NDArray[np.intp]:
    """The items that have an answer, and none of unknown value."""
    return np.flatnonzero(pool.present.any(axis=1) & ~(np.isnan(values) & pool.present).any(axis=1))


def competence(name: str, pool: Pool, values: Floats) -> tuple[Floats, float]:
    """Share right of each member, M in (0, 1), and the number of answers that errors spread over.

    A share is (right + 1/2) / (asked + 1), of its answers of known value, which must lie in [0, 1].
    Raises LLMValidationError fit.items, fit.values. Source: Jeffreys 1946 for the half.
    """
    check_fractions(name, pool, values)
    worth = worth_of_members(pool.ballots, values)
    asked = (~np.isnan(worth)).sum(axis=0)
    if not asked.any():
        raise nothing_to_learn(name, f"none of {len(pool)} items has an answer of known value")
    wrong = np.where(worth < 1, pool.ballots.codes, -1)  # not those of unknown value, nor a second right answer
    return (np.nansum(worth, axis=0) + 0.5) / (asked + 1.0), effective_options(wrong, gold_codes(values))


def log_odds(p: Floats, options: float) -> Floats:
    """log(p (K - 1) / (1 - p)) for probabilities p within (0, 1) of being right; below 0 for one worse than chance.

    options: K > 1, the number of answers that errors spread over. Source: Nitzan & Paroush 1982 for K = 2.
    """
    return np.asarray(np.log(p) - np.log1p(-p) + np.log(options - 1.0))


def effective_options(codes: NDArray[np.int32], gold: NDArray[np.intp]) -> float:
    """Number of answers K that errors spread over: 1 + 1 / P(two wrong answers to one item are equal).

    codes: N x M, -1 where there is none, or none of known value. gold: N, -1 where no answer given is right. One equal
    pair is added to those seen, so that K is finite, and 2 where there is nothing to count.
    """
    equal = pairs = 0
    wrong = (codes >= 0) & (codes != gold[:, None])
    for j in range(1, codes.shape[1]):
        both = wrong[:, :j] & wrong[:, [j]]
        pairs += int(both.sum())
        equal += int((both & (codes[:, :j] == codes[:, [j]])).sum())
    return 1.0 + (pairs + 1) / (equal + 1)


def conditional_logit(
    features: Floats, present: NDArray[np.bool_], values: Floats, penalty: float, *, start: Floats | None = None
) -> Floats:
    """The weights F under which right answers are most probable, less penalty / 2 times their sum of squares.

    features: N x width x F. present: N x width, the answers that compete. values: N x width in {0, 1}; items where no
    answer or every one is right say nothing. start: weights to set out from; None: 0. Newton's
    method up to WIDE features, L-BFGS beyond; the function is concave where no item has several right answers.
    Source: McFadden 1974.
    """
    right = np.where(present, values, 0.0)
    total = right.sum(axis=1)
    telling = (total > 0) & (total < present.sum(axis=1))
    x, here, y = features[telling], present[telling], right[telling]
    weights = np.zeros(features.shape[2]) if start is None else start
    if not len(x):
        return weights
    good = here & (y > 0)
    if len(weights) > WIDE:
        return _climbed(x, here, good, weights, penalty)
    reached = log_likelihood(x, here, good, weights, penalty)
    for _ in range(STEPS):
        step = _newton(x, softmax(x @ weights, here), softmax(x @ weights, good), weights, penalty)
        found = log_likelihood(x, here, good, weights + step, penalty)
        while found < reached - ENOUGH and np.abs(step).max() > ENOUGH:  # beyond the maximum
            step = step / 2
            found = log_likelihood(x, here, good, weights + step, penalty)
        weights, reached = weights + step, found
        if np.abs(step).max() < ENOUGH:
            break
    return weights


def log_likelihood(
    x: Floats, here: NDArray[np.bool_], good: NDArray[np.bool_], weights: Floats, penalty: float = 0.0
) -> float:
    """Logarithm of the probability of the good among those that are here, less penalty / 2 times the sum of squares."""
    score = x @ weights
    both = [np.logaddexp.reduce(np.where(mask, score, -np.inf), axis=1) for mask in (good, here)]
    return float((both[0] - both[1]).sum() - penalty / 2 * weights @ weights)


def _climbed(x: Floats, here: NDArray[np.bool_], good: NDArray[np.bool_], weights: Floats, penalty: float) -> Floats:
    """The maximum by steps that need no F x F curvature, which is what takes long where there are many features."""
    from scipy.optimize import minimize

    rows = x.reshape(-1, x.shape[2])

    def downhill(now: Floats) -> tuple[float, Floats]:
        score = (rows @ now).reshape(here.shape)
        pull = softmax(score, good) - softmax(score, here)
        return -log_likelihood(x, here, good, now, penalty), penalty * now - pull.reshape(-1) @ rows

    found = minimize(downhill, weights, jac=True, method="L-BFGS-B", options={"maxiter": 20 * STEPS, "gtol": 1e-4})
    return np.asarray(found.x, dtype=np.float64)


def _newton(x: Floats, share: Floats, wanted: Floats, weights: Floats, penalty: float) -> Floats:
    """One step towards the maximum."""
    gradient = np.tensordot(wanted - share, x, axes=([0, 1], [0, 1])) - penalty * weights
    curvature = _curvature(x, share) + penalty * np.eye(len(weights))
    several = (wanted > 0).sum(axis=1) > 1
    if several.any():  # not concave everywhere; with its sign left out the curvature leads upwards there as well
        size, axes = np.linalg.eigh(curvature - _curvature(x[several], wanted[several]))
        curvature = np.asarray((axes * np.maximum(np.abs(size), ENOUGH)) @ axes.T, dtype=np.float64)
    return np.asarray(np.linalg.solve(curvature, gradient), dtype=np.float64)


def _curvature(x: Floats, share: Floats) -> Floats:
    """F x F: the covariance of the features under the shares, summed over the items."""
    mean = np.matmul(share[:, None, :], x)[:, 0, :]
    rows = x.reshape(-1, x.shape[2])
    return np.asarray((rows * share.reshape(-1, 1)).T @ rows - mean.T @ mean)


def ridge(features: Floats, present: NDArray[np.bool_], values: Floats, penalty: float) -> Floats:
    """The weights F of a ridge regression of values on features, both less the mean of their item.

    penalty counts in units of the centred values' variance, so that the weights scale with the scores.
    Source: Hoerl & Kennard 1970.
    """
    here = present[..., None]
    count = np.maximum(present.sum(axis=1), 1)[:, None]
    y = np.where(present, values, 0.0)
    y = np.where(present, y - y.sum(axis=1, keepdims=True) / count, 0.0).reshape(-1)
    x = np.where(here, features, 0.0)
    x = np.where(here, x - x.sum(axis=1, keepdims=True) / count[..., None], 0.0).reshape(-1, features.shape[2])
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
