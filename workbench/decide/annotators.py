"""Who is right, estimated from votes alone.

Two models of how votes come about, both fitted by EM from the shares of the votes: `dawid_skene` gives every model a
confusion matrix over classes that mean the same on every item; `one_coin` gives it one accuracy, and so also fits
where each item has answers of its own. Both take it that models err independently of each other, given the true
answer; `excess_agreement` in pairwise.py asks the votes whether they do.

Votes are N items x M models of codes >= 0, -1 for none. Posteriors within TIE of the largest count as equal to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workbench.decide.weights import is_finite
from workbench.errors import LLMValidationError

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Codes = NDArray[np.integer[Any]]
Width = float | Sequence[float] | Floats

FLOOR = 1e-10  # no probability falls to 0: what one step takes for impossible, a later one may need
NEVER = -1e300  # log of no chance at all; unlike -inf it gives 0 when multiplied by 0
TIE = 1e-9
ITERATIONS, TOLERANCE = 100, 1e-5
CELLS = 1 << 25  # of a table, at most: 256 MB, of which a fit holds several


@dataclass(frozen=True, slots=True, kw_only=True)
class DawidSkeneFit:
    """What `dawid_skene` found for N items, K classes and A annotators.

    labels: N; the class with the largest posterior, the lowest of a tie; -1 without a vote.
    posterior: N x K, each row sums to 1; the prior where an item has no vote.
    prior: K, sums to 1. confusion: A x K x K, row = true class, column = vote, each row sums to 1; NaN for an
    annotator without votes and for a class that got none.
    iterations: done. log_likelihood: of all votes under `prior` and `confusion`, natural logarithm.
    converged: whether the tolerance ended the iterations, and not their number.
    """

    labels: Indices
    posterior: Floats
    prior: Floats
    confusion: Floats
    iterations: int
    log_likelihood: float
    converged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OneCoinFit:
    """What `one_coin` found for N items and M models.

    labels: N; the code with the largest posterior, the lowest of a tie; -1 without a vote.
    posterior: N x (highest code + 1); what a row lacks to 1 is the probability that nobody gave the right answer.
    accuracy: M, in [0, 1]; NaN for a model without votes.
    iterations, log_likelihood, converged: as in DawidSkeneFit.
    """

    labels: Indices
    posterior: Floats
    accuracy: Floats
    iterations: int
    log_likelihood: float
    converged: bool


def dawid_skene(
    votes: Codes,
    *,
    classes: int | None = None,
    annotators: Sequence[int] | None = None,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> DawidSkeneFit:
    """Classes of the items and confusion matrices of the models, by maximum likelihood.

    votes: N x M classes that mean the same on every item, in 0..K-1; -1 for none.
    classes: K; None takes the highest vote + 1.
    annotators: for each column the number, from 0, of the annotator whose confusion matrix it shares, as repeated
    draws of one model do; None gives every column its own.
    iterations: at most. tolerance: stop when the bound of EM rises by less per vote. The bound counts the log prior of
    an item once per vote, as crowd-kit 1.4.2 does, so that both stop at the same iteration with the same labels; unlike
    the likelihood it can fall, so that only -inf makes sure of every iteration.
    Raises LLMValidationError: validation.shape, validation.votes, validation.classes.
    Source: Dawid & Skene 1979, equations 2.3 to 2.5, starting from the shares of equation 3.1.
    >>> dawid_skene(np.array([[0, 0, 1], [1, 1, 1], [0, 0, 0], [1, 1, 0]])).labels.tolist()
    [0, 1, 0, 1]
    """
    sheet = _Sheet.of(votes)
    k, groups = _class_count(sheet, classes), _groups(sheet, annotators)
    seen = np.flatnonzero(np.bincount(sheet.code, minlength=k))
    shares = sheet.support(k)[:, seen] / sheet.heard[:, None]
    fit = _climb(_confusions(sheet, seen, groups), shares, sheet.heard, iterations, tolerance)
    prior, confusion = np.zeros(k), np.full((len(fit.parameters), k, k), np.nan)
    prior[seen] = fit.posterior.mean(axis=0)
    confusion[:, seen, :] = 0 * fit.parameters[:, :, :1]  # 0, or NaN without votes
    confusion[:, seen[:, None], seen] = fit.parameters
    posterior = np.tile(prior, (sheet.items, 1))
    posterior[sheet.rows[:, None], seen] = fit.posterior
    return DawidSkeneFit(
        labels=sheet.labels(posterior),
        posterior=posterior,
        prior=prior,
        confusion=confusion,
        iterations=fit.iterations,
        log_likelihood=fit.log_likelihood,
        converged=fit.converged,
    )


def one_coin(
    codes: Codes,
    *,
    width: Width,
    shared: bool = False,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> OneCoinFit:
    """One accuracy per model, by maximum likelihood, where every item may have answers of its own.

    The true answer of an item is any of its `width` possible answers, all equally likely. Model j gives it with
    probability accuracy[j], and else any of the other width - 1, all equally likely.
    codes: N x M, numbered within each item as in votes.Ballots.codes; -1 for none.
    width: possible answers, one number or one per item, at least 2 and at least the distinct answers of the item; what
    it exceeds them by are answers that nobody gave, any of which may be the true one. Need not be whole.
    shared: codes mean the same on every item: the classes then have a fitted prior instead of equal chances.
    iterations: at most. tolerance: stop when the bound of EM, which here never falls, rises by less per item; when
    shared, as for dawid_skene.
    Raises LLMValidationError: validation.shape, validation.votes, validation.width.
    Source: Zhang, Chen, Zhou & Jordan 2016, "Spectral Methods Meet EM", section 2.
    >>> one_coin(np.array([[0, 0, 1], [0, 0, 0], [1, 1, 0]]), width=3).labels.tolist()
    [0, 0, 1]
    """
    sheet = _Sheet.of(codes)
    widths = _widths(sheet, width, shared)[sheet.rows]
    support = sheet.support(sheet.highest + 2)  # the last column: an answer that nobody gave
    counted = sheet.heard if shared else np.ones_like(sheet.heard)
    maximise = _coins(sheet, support, widths, shared)
    fit = _climb(maximise, support / sheet.heard[:, None], counted, iterations, tolerance)
    posterior = np.zeros((sheet.items, sheet.highest + 1))
    if shared:
        posterior += fit.posterior.mean(axis=0)[:-1]
    posterior[sheet.rows] = fit.posterior[:, :-1]
    return OneCoinFit(
        labels=sheet.labels(posterior),
        posterior=posterior,
        accuracy=fit.parameters,
        iterations=fit.iterations,
        log_likelihood=fit.log_likelihood,
        converged=fit.converged,
    )


# -- the two models


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Votes as flat arrays, one entry a vote, over the items that have any.

    item: place in `rows`. rows: the items with votes. heard: votes of each of those. items, models: N and M.
    """

    item: Indices
    model: Indices
    code: Indices
    rows: Indices
    heard: Indices
    items: int
    models: int

    @classmethod
    def of(cls, votes: Codes) -> _Sheet:
        try:
            v = np.asarray(votes)
        except ValueError as error:
            raise _misshapen("votes have rows of different lengths") from error
        if v.ndim != 2 or not np.issubdtype(v.dtype, np.integer):
            raise _misshapen(f"votes are {v.ndim}-dimensional {v.dtype}, not items x models of whole numbers")
        item, model = np.nonzero(v >= 0)
        if not item.size or v.min() < -1:
            found = f"the code {v.min()}" if item.size else f"no vote in {v.shape[0]} items x {v.shape[1]} models"
            raise _unusable(f"votes hold {found}", "give answers codes from 0 on, and -1 where a model has none")
        heard = np.bincount(item, minlength=len(v))
        rows = np.flatnonzero(heard)
        place = np.repeat(np.arange(len(rows)), heard[rows])
        return cls(place, model, v[item, model].astype(np.intp), rows, heard[rows], *v.shape)

    @property
    def highest(self) -> int:
        return int(self.code.max())

    def support(self, k: int) -> Floats:
        """Votes of every code, rows x k. Raises LLMValidationError validation.votes where that is more than CELLS."""
        if (size := len(self.rows) * k) > CELLS:
            found = f"codes up to {self.highest} on {len(self.rows)} items, which is {size:.4g} cells"
            raise _unusable(f"votes hold {found}", "number the answers of each item from 0 without gaps")
        counts = np.bincount(self.item * k + self.code, minlength=len(self.rows) * k)
        return counts.reshape(-1, k).astype(np.float64)

    def labels(self, posterior: Floats) -> Indices:
        labels = np.full(self.items, -1, dtype=np.intp)
        mine = posterior[self.rows]
        labels[self.rows] = (mine >= mine.max(axis=1, keepdims=True) - TIE).argmax(axis=1)
        return labels


class _Maximum(NamedTuple):
    """The parameters that a posterior makes most likely; scores: log-probability of an item's votes, rows x answers."""

    parameters: Floats
    log_prior: Floats
    scores: Floats


class _Fit(NamedTuple):
    posterior: Floats
    parameters: Floats
    iterations: int
    log_likelihood: float
    converged: bool


def _climb(
    maximise: Callable[[Floats], _Maximum], shares: Floats, counted: Indices, iterations: int, tolerance: float
) -> _Fit:
    """EM from the shares of the votes until the bound rises by less than the tolerance per counted item.

    The bound is the expected log-probability of votes and answers plus the posterior's entropy, with the log prior of
    an item `counted` times. Once makes it the evidence lower bound; it decides only when to stop.
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise _unusable(f"{iterations!r:.40} iterations fit nothing", "allow at least 1 iteration")
    if not is_finite(tolerance) and tolerance != -math.inf:
        raise _unusable(f"the tolerance {tolerance!r:.40} ends nothing", "use a number such as 1e-5, or -inf for never")
    found, posterior, last, done, converged = maximise(shares), shares, -math.inf, 0, False
    while done < iterations and not converged:
        posterior, _ = _normalised(found)
        found = maximise(posterior)
        q = np.maximum(posterior, FLOOR)
        bound = float((posterior * found.scores).sum() - (q * np.log(q)).sum())
        bound += float((posterior * found.log_prior).sum(axis=1) @ counted)
        done, converged, last = done + 1, bound - last < tolerance * int(counted.sum()), bound
    return _Fit(posterior, found.parameters, done, _normalised(found)[1], converged)


def _normalised(found: _Maximum) -> tuple[Floats, float]:
    """The posterior under the parameters, and their log-likelihood."""
    weights = found.scores + found.log_prior
    top = weights.max(axis=1, keepdims=True)
    shares = np.exp(weights - top)
    total = shares.sum(axis=1, keepdims=True)
    return shares / total, float((top + np.log(total)).sum())


def _confusions(sheet: _Sheet, seen: Indices, groups: Indices) -> Callable[[Floats], _Maximum]:
    """The maximisation of `dawid_skene` over the classes that were voted for, as products of sparse matrices."""
    from scipy.sparse import csr_array

    a, s = int(groups.max()) + 1, len(seen)
    column = groups[sheet.model] * s + np.searchsorted(seen, sheet.code)
    start = np.concatenate([[0], sheet.heard.cumsum()])
    votes = csr_array((np.ones(len(column)), column, start), shape=(len(sheet.rows), a * s))
    by_column = votes.T.tocsr()
    given = (np.bincount(column, minlength=a * s) > 0).reshape(a, s, 1)  # no floor for votes that one never gives

    def maximise(posterior: Floats) -> _Maximum:
        counts = (by_column @ posterior).reshape(a, s, s)  # annotator x vote x class
        raised = np.where(given, np.maximum(counts, FLOOR), 0.0)
        total = raised.sum(axis=1, keepdims=True)
        confusion = raised / np.where(total > 0, total, np.nan)
        table = np.log(np.where(given, confusion, 1.0)).reshape(a * s, s)
        log_prior = np.log(np.maximum(posterior.mean(axis=0), FLOOR))
        return _Maximum(confusion.transpose(0, 2, 1), log_prior, votes @ table)

    return maximise


def _coins(sheet: _Sheet, support: Floats, widths: Floats, shared: bool) -> Callable[[Floats], _Maximum]:
    """The maximisation of `one_coin`; the last column of `support` stands for all answers that nobody gave."""
    n, k = support.shape
    others, asked = widths[sheet.item] - 1, np.bincount(sheet.model, minlength=sheet.models)
    given = support > 0
    chances = given / widths[:, None]
    chances[:, -1] = 1 - given.sum(axis=1) / widths
    fixed = np.where(chances > 0, np.log(np.maximum(chances, FLOOR)), NEVER)
    possible = given.any(axis=0)

    def maximise(posterior: Floats) -> _Maximum:
        right = np.bincount(sheet.model, weights=posterior[sheet.item, sheet.code], minlength=sheet.models)
        accuracy = right / np.where(asked > 0, asked, np.nan)
        p = accuracy[sheet.model]
        hit = np.log(np.clip(p, FLOOR, 1 - FLOOR))
        miss = np.log(np.clip((1 - p) / others, FLOOR, 1 - FLOOR))
        gain = np.bincount(sheet.item * k + sheet.code, weights=hit - miss, minlength=n * k).reshape(n, k)
        scores = gain + np.bincount(sheet.item, weights=miss, minlength=n)[:, None]
        fitted = np.where(possible, np.log(np.maximum(posterior.mean(axis=0), FLOOR)), NEVER)
        return _Maximum(accuracy, fitted if shared else fixed, np.asarray(scores, dtype=np.float64))

    return maximise


# -- what is accepted


def _class_count(sheet: _Sheet, classes: int | None) -> int:
    if classes is not None and (not isinstance(classes, int | np.integer) or not is_finite(classes)):
        raise LLMValidationError(
            f"classes is {classes!r:.40}, not a whole number",
            code="validation.classes",
            next_step=f"pass classes={sheet.highest + 1} or more, or leave it out",
        )
    if classes is not None and classes <= sheet.highest:
        raise LLMValidationError(
            f"votes name class {sheet.highest}, beyond the {classes} classes 0..{classes - 1}",
            code="validation.classes",
            next_step=f"pass classes={sheet.highest + 1} or more, or number the classes from 0",
        )
    k = sheet.highest + 1 if classes is None else int(classes)
    if (size := k * k * sheet.models) > CELLS:
        raise LLMValidationError(
            f"the confusion matrices of {sheet.models} models over {k:.4g} classes have {size:.4g} cells",
            code="validation.classes",
            next_step="number the classes from 0 without gaps, or use one_coin, which needs no confusion matrices",
        )
    return k


def _groups(sheet: _Sheet, annotators: Sequence[int] | None) -> Indices:
    if annotators is None:
        return np.arange(sheet.models)
    try:
        groups = np.asarray(annotators, dtype=np.intp)
    except (TypeError, ValueError, OverflowError) as error:
        raise _misshapen(f"annotators {annotators!r:.80} are not whole numbers") from error
    if groups.shape != (sheet.models,) or groups.min() < 0 or groups.max() >= sheet.models:
        raise _misshapen(f"annotators {groups.tolist()!r:.80} do not number the {sheet.models} columns from 0")
    return groups


def _widths(sheet: _Sheet, width: Width, shared: bool = False) -> Floats:
    """The possible answers of each of the N items."""
    try:
        given = np.asarray(width, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise _misshapen(f"width {width!r:.80} is no number, and no list of them") from error
    if given.shape not in ((), () if shared else (sheet.items,)):
        wanted = "one number" if shared else f"one number, or one for each of {sheet.items} items"
        raise _misshapen(f"width has the shape {given.shape}, not {wanted}")
    widths = np.broadcast_to(given, (sheet.items,))
    distinct = np.full(sheet.items, 2)
    distinct[sheet.rows] = sheet.highest + 1 if shared else (sheet.support(sheet.highest + 1) > 0).sum(axis=1)
    unfit = ~(np.isfinite(widths) & (widths >= np.maximum(distinct, 2)))
    if unfit.any():
        i = int(unfit.argmax())
        raise LLMValidationError(
            f"item {i} has at least {max(int(distinct[i]), 2)} possible answers, but the width {widths[i]:g}",
            code="validation.width",
            next_step="count every answer that an item may have, and one more where nobody may be right",
        )
    return widths


def _misshapen(problem: str) -> LLMValidationError:
    return LLMValidationError(problem, code="validation.shape", next_step="give one value per item and model")


def _unusable(problem: str, next_step: str) -> LLMValidationError:
    return LLMValidationError(problem, code="validation.votes", next_step=next_step)
