"""Weighted votes with many weight vectors, over the recorded answers of one run.

What a weighted vote makes of an item depends on who agrees with whom there, not on what they say. So items are
gathered into patterns: an item's answers numbered in the order in which the members, sorted by name, bring them up.
Given the tied answers, the expected score of an item is linear in what its answers are worth: a pattern needs no more
than the sum of these values over its items, and is decided once for all of them.

Winners and ties are exactly those of votes.decide. Supports are sums of floats here, which are trusted only where
rounding to units cannot decide otherwise; what lies between is counted again in the units of decide/weights.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.decide.pool import Rows, votes_for
from workbench.decide.votes import Ballots, Codes, Floats, units
from workbench.decide.weights import LARGEST, SCALE, check_members, check_weights, is_finite
from workbench.errors import LLMValidationError

Weighting = Mapping[str, float] | Sequence[float] | Floats
Bools = NDArray[np.bool_]
Counts = NDArray[np.unsignedinteger[Any]]

CELLS = 1 << 17  # supports held at once: 1 MB, so that they stay in a cache close to the processor
VECTORS = 5_000_000  # of a grid, at most
NUMBERS = 100_000_000  # in the vectors of a grid, at most: 800 MB
PADDING = 1 / 4  # cells without an answer, at most, in exchange for fewer calls of numpy
# Rounding to units moves the difference of two supports by half a unit per member at most, and a tie is a difference
# of at most one unit per member. The largest support is 1 to M times the weight of the heaviest voter.
SURELY_TIED = 0.4 / SCALE  # of the largest support
MAYBE_TIED = 2.0 / SCALE  # of the largest support, per member
LEAST = 1e-290  # share of the largest weight below which floats lose digits: counted in units


@dataclass(frozen=True, slots=True, kw_only=True)
class Patterns:
    """U distinct patterns with at most K answers, K x U <= CELLS.

    codes: U x M, in 0..K-1 by first appearance, -1 where a member has no answer. counts: U; items of each.
    worth: K x U; the sum over these items of what answer k is worth. blocks: K x U; rows of Landscape.blocks.
    """

    codes: Codes
    counts: Floats
    worth: Floats
    blocks: NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """The mean score of a weighted vote as a function of its weights.

    models: names, length M, sorted: the order of weights. items: N. unanswered: items without any answer.
    missing: score of an item without a winner. blocks: B x M of 0 and 1; the distinct sets of members that agree.
    patterns: of all other items, by number of answers.

    >>> ballots = Ballots.of(["a", "b", "c"], [["x", "y", "y"], ["x", "y", "z"]])
    >>> landscape = Landscape.of(ballots, ballots.values(np.zeros((2, 3)), ["x", "x"]))
    >>> landscape.score([1, 1, 1]), landscape.score([3, 1, 1]), landscape.tie_share([2, 1, 1])
    (0.16666666666666666, 1.0, 0.5)
    """

    models: tuple[str, ...]
    items: int
    unanswered: int
    missing: float
    blocks: Floats
    patterns: tuple[Patterns, ...]

    @classmethod
    def of(cls, ballots: Ballots, values: Floats, *, rows: Rows | None = None, missing: float = 0.0) -> Landscape:
        """The landscape of some items.

        values: N x width, what each answer of each item is worth, as of Ballots.values; any finite number.
        rows: mask or index of items, an index may repeat them; None: all. missing: what an item without a winner
        scores. Members that failed have no vote.
        Raises LLMValidationError: validation.shape (values of another shape, or no items), validation.values (an
        answer of a kept item has no finite value, or `missing` is none).
        """
        n, width = len(ballots.codes), ballots.width
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
            raise _misshapen(f"values are {values!r:.80}, not an array of numbers", "use ballots.values()")
        if values.shape != (n, width):
            raise _misshapen(f"values have the shape {values.shape}, the ballots {(n, width)}", "use ballots.values()")
        kept = slice(None) if rows is None else rows
        codes, worth = np.where(ballots.failed, -1, ballots.codes)[kept], values[kept]
        if not len(codes):
            raise _misshapen(f"none of {n} items is kept, so there is no score", "keep at least one item in rows")
        renamed, place = _by_appearance(codes, width)
        first, number = _distinct(renamed + 1, range(2, codes.shape[1] + 2))
        item, code = np.nonzero(place >= 0)
        given = worth[item, code]
        if np.abs(given[np.isfinite(given)]).max(initial=0.0) > LARGEST:
            raise _unknown(f"an answer is worth more than {LARGEST:g}, which cannot be added up", "scale the values")
        if unknown := len(set(item[~np.isfinite(given)].tolist())):
            raise _unknown(
                f"{unknown} of {len(codes)} items have an answer without a finite value", "leave them out by rows"
            )
        if not is_finite(missing) or abs(missing) > LARGEST:
            raise _unknown(f"an item without a winner would score {missing!r:.40}", "let missing be a finite number")
        total = np.bincount(number[item] * width + place[item, code], weights=given, minlength=len(first) * width)
        blocks, patterns = _parted(renamed[first], np.bincount(number), np.asarray(total.reshape(-1, width)))
        return cls(
            models=ballots.models,
            items=len(codes),
            unanswered=int((codes < 0).all(axis=1).sum()),
            missing=missing,
            blocks=blocks,
            patterns=patterns,
        )

    def score(self, weights: Weighting) -> float:
        """Mean expected score over the items of the vote with these weights; chance decides among tied answers.

        weights: by model, or M numbers in the order of `models`; finite, >= 0, not all 0.
        Equals the mean of `scores` of votes.decide(WeightedConsensus(weights)) but for the order of addition.
        Raises LLMValidationError: validation.weights, validation.shape.
        """
        return float(self.scores(self._row(weights))[0])

    def scores(self, weights: Floats) -> Floats:
        """`score` of V weight vectors, V x M to V, in memory that does not grow with V x N."""
        checked = self._checked(weights)
        total = np.full(len(checked), self.missing * self.unanswered)
        for part, p, share, winners in self._decided(checked):
            total[part] += p.worth.ravel() @ share.reshape(p.worth.size, -1)
            if self.missing and winners is not None:
                total[part] += self.missing * (p.counts @ (winners == 0))
        return total / self.items

    def tie_share(self, weights: Weighting) -> float:
        """Share of the items on which several answers win with these weights; weights as for `score`."""
        found = [(p, winners) for _, p, _, winners in self._decided(self._checked(self._row(weights)))]
        return sum(float(p.counts @ (w[:, 0] > 1)) for p, w in found if w is not None) / self.items

    def score_simplex(self, step: float) -> tuple[Floats, Floats]:
        """The grid `simplex(M, step)`, V x M, and the score of each of its vectors, V."""
        grid = simplex(len(self.models), step)
        return grid, self.scores(grid)

    def _row(self, weights: Weighting) -> Floats:
        if isinstance(weights, Mapping):
            check_weights(weights)
            check_members(weights, self.models)
            weights = [float(weights[model]) for model in self.models]
        return _numbers(weights)[None]

    def _checked(self, weights: Floats) -> Floats:
        made, m = _numbers(weights), len(self.models)
        if made.ndim != 2 or made.shape[1] != m:
            raise _misshapen(
                f"weights of the shape {made.shape} for {m} models",
                f"give vectors with one weight for each of {', '.join(self.models)}"[:160],
            )
        # Comparisons are false where a weight is NaN.
        if made.size and not (made.min() >= 0 and made.max(axis=1).min() > 0 and made.max() < math.inf):
            for row in made.tolist():
                check_weights(dict(zip(self.models, row, strict=True)))
        return made

    def _decided(self, weights: Floats) -> Iterator[tuple[slice, Patterns, Floats, Counts | None]]:
        """Of some vectors and patterns: the share of each answer in the winners, K x U x V; how many win, U x V.

        No answer wins where nobody has a vote; None: one wins everywhere. Shares are overwritten by the next ones:
        memory that is asked for and given back each time costs as much as the sums.
        """
        cells = [p.blocks.size for p in self.patterns]
        size = max(1, CELLS // max(len(self.blocks), *cells, 1))
        room = np.empty(max(cells, default=0) * size)
        near = 1 - MAYBE_TIED * len(self.models)
        for start in range(0, len(weights), size):
            part = weights[start : start + size]
            relative = part / part.max(axis=1, keepdims=True)  # sums of huge weights would overflow
            everybody = relative.min() >= LEAST
            unsafe = np.zeros(1, dtype=bool) if everybody else ((part > 0) & (relative < LEAST)).any(axis=1)
            support = self.blocks @ relative.T
            for p in self.patterns:
                k, u = p.blocks.shape
                mine = room[: k * u * len(part)].reshape(k, u, len(part))
                support.take(p.blocks, axis=0, out=mine, mode="clip")
                top = mine.max(axis=0)
                tied, winners = mine > top * near, None
                if not everybody or np.count_nonzero(tied) > top.size:
                    _settle(tied, mine > top * (1 - SURELY_TIED), unsafe, p.codes, part)
                    winners = tied.sum(axis=0, dtype=np.min_scalar_type(k))
                np.copyto(mine, tied)
                if winners is not None and winners.max() > 1:
                    mine /= np.maximum(winners, 1)
                yield slice(start, start + size), p, mine, winners


def simplex(models: int, step: float) -> Floats:
    """Every vector of M weights that are multiples of the step and sum to 1, V x M, in ascending order.

    models: M >= 1. step: 1 / S for a whole S; V is S + M - 1 over M - 1. The weights are whole numbers divided by S.
    Raises LLMValidationError: validation.models, validation.step (also where V would exceed VECTORS).

    >>> simplex(2, 0.5).tolist()
    [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    """
    if isinstance(models, bool) or not isinstance(models, int) or not 1 <= models <= NUMBERS:
        raise LLMValidationError(
            f"a grid of weights for {models!r:.40} models",
            code="validation.models",
            next_step="ask for at least one model, and no more than the run has",
        )
    steps = round(1 / step) if is_finite(step) and 1 / VECTORS <= step <= 1 else 0
    if not steps or abs(steps * step - 1) > 1e-9:
        raise _bad_step(f"the step {step!r:.40} does not part 1 into equal pieces", "use 1 divided by a whole number")
    few = min(steps, models - 1)
    # From 30 on there are more than 10**17, and to count them takes long.
    size = math.comb(steps + models - 1, few) if few < 30 else math.inf
    if size > min(VECTORS, NUMBERS // models):
        raise _bad_step(
            f"{models} models at the step {step!r} make {size} vectors", "use a larger step or fewer models"
        )
    columns: list[NDArray[np.int64]] = []
    left = np.array([steps])
    for _ in range(models - 1):  # each row so far, with every number of steps that the next model may take
        row = np.repeat(np.arange(len(left)), left + 1)
        taken = np.arange(len(row)) - (np.cumsum(left + 1) - left - 1)[row]
        columns = [*(column[row] for column in columns), taken]
        left = left[row] - taken
    return np.column_stack([*columns, left]) / steps


def _by_appearance(codes: Codes, width: int) -> tuple[Codes, Codes]:
    """Codes numbered within each item by first appearance, N x M, and the new number of each old code, N x width."""
    n, m = codes.shape
    renamed, place = np.full((n, m), -1, dtype=np.int32), np.full((n, width), -1, dtype=np.int32)
    seen, rows = np.zeros(n, dtype=np.int32), np.arange(n)
    for j in range(m):
        given, code = codes[:, j] >= 0, np.maximum(codes[:, j], 0)
        new = given & (place[rows, code] < 0)
        place[rows[new], code[new]] = seen[new]
        seen += new
        renamed[:, j] = np.where(given, place[rows, code], -1)
    return renamed, place


def _distinct(rows: NDArray[Any], radices: Sequence[int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Index of the first of each distinct row, and for every row which of them it is; digit j is < radices[j]."""
    key, bound = np.zeros(len(rows), dtype=np.int64), 1
    for j, radix in enumerate(radices):
        if bound * radix >= 2**63:  # number the beginnings that occur
            found, key = np.unique(key, return_inverse=True)
            bound = len(found)
        key, bound = key * radix + rows[:, j], bound * radix
    _, first, number = np.unique(key, return_index=True, return_inverse=True)
    return first, number


def _parted(codes: Codes, counts: NDArray[np.intp], worth: Floats) -> tuple[Floats, tuple[Patterns, ...]]:
    """The distinct blocks, and the patterns with an answer in parts that are worked on at once."""
    answers, m = codes.max(axis=1) + 1, codes.shape[1]
    least, parts = 0, []
    for k in _sizes(answers[answers > 0]):
        found, most = np.flatnonzero((answers > least) & (answers <= k)), max(1, CELLS // k)
        parts += [(k, found[start : start + most]) for start in range(0, len(found), most)]
        least = k
    agree = [(codes[part] == np.arange(k)[:, None, None]).reshape(-1, m) for k, part in parts]
    members = np.concatenate([np.zeros((0, m), dtype=bool), *agree])
    first, number = _distinct(members, [2] * m)
    ends = np.cumsum([len(block) for block in agree])
    patterns = tuple(
        Patterns(
            codes=codes[part],
            counts=counts[part].astype(np.float64),
            worth=np.ascontiguousarray(worth[part, :k].T),
            blocks=number[end - k * len(part) : end].reshape(k, -1),
        )
        for (k, part), end in zip(parts, ends, strict=True)
    )
    return members[first].astype(np.float64), patterns


def _sizes(answers: Codes) -> list[int]:
    """The numbers of answers to which patterns with fewer are padded."""
    sizes: list[int] = []
    waiting = padding = 0
    for k, u in enumerate(np.bincount(answers).tolist()):
        padding += waiting
        if padding > answers.sum() * PADDING:
            sizes.append(k - 1)
            waiting = padding = 0
        waiting += u
    return [*sizes, int(answers.max())] if waiting else sizes


def _settle(tied: Bools, surely: Bools, unsafe: Bools, codes: Codes, weights: Floats) -> None:
    """Count again, by the rule of decide/weights.py, where floats cannot tell who is tied; changes `tied`.

    tied, surely: K x U x V, the answers that may be tied and those that must be. unsafe: V, or 1 for all; vectors for
    which no float can be trusted. codes: U x M. weights: V x M.
    """
    if unsafe.any() or np.count_nonzero(surely) < np.count_nonzero(tied):
        pattern, vector = np.nonzero((surely != tied).any(axis=0) | unsafe)
        given, mine = codes[pattern], weights[vector]
        counted = units(mine, (given >= 0) & (mine > 0)).astype(np.float64)
        support = votes_for(given, counted, len(tied))
        top = support.max(axis=1, keepdims=True)
        tied[:, pattern, vector] = ((support > 0) & (top - support <= codes.shape[1])).T


def _numbers(weights: object) -> Floats:
    try:
        return np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise LLMValidationError(
            f"weights are not numbers: {error}"[:200],
            code="validation.weights",
            next_step="give every member a finite weight >= 0, at least one of them positive",
        ) from error


def _unknown(problem: str, next_step: str) -> LLMValidationError:
    return LLMValidationError(problem, code="validation.values", next_step=next_step)


def _bad_step(problem: str, next_step: str) -> LLMValidationError:
    return LLMValidationError(problem, code="validation.step", next_step=next_step)


def _misshapen(problem: str, next_step: str) -> LLMValidationError:
    return LLMValidationError(problem, code="validation.shape", next_step=next_step)
