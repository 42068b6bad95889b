"""What each model adds: the worth of every coalition of models, and how it is shared out among them.

A coalition is a number whose bit j says whether model j, in the order of the names, is in it; 0 is nobody. Worths are
arrays whose last axis runs over coalitions, so that one row an item and one row for their mean are the same to every
function here: a Shapley value is linear in the worths, and that of a mean is the mean of those of the items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.decide.votes import Ballots, Codes, Floats
from workbench.errors import LLMValidationError

MOST_MODELS = 12  # 4,096 coalitions; each further model doubles them
MOST_BITS = 63
CELLS = 16_384  # items x coalitions decided at once: their supports stay in the processor's cache

Coalitions = Sequence[int] | NDArray[np.integer[Any]]


def shapley(worth: Mapping[int, float] | Floats) -> Floats:
    """The share of each model in what all of them reach together: its mean gain over all orders of joining.

    worth: coalition -> worth for all 2^M coalitions, or an array (..., 2^M); at most 12 models.
    Returns (..., M); summed over models it is the worth of all less that of nobody. NaN where a worth is NaN.
    Raises LLMValidationError validation.coalitions, validation.models.
    Source: Shapley 1953, "A Value for n-Person Games", equation 13.
    >>> shapley({0b00: 0.0, 0b01: 1.0, 0b10: 2.0, 0b11: 4.0}).tolist()
    [1.5, 2.5]
    """
    known = _worths(worth)
    m = known.shape[-1].bit_length() - 1
    every = np.arange(1 << m)
    joined = (every[:, None] >> np.arange(m) & 1).astype(bool)
    size = joined.sum(axis=1)
    chance = np.array([1.0 / (m * math.comb(m - 1, s)) for s in range(m)])  # of s others standing before one
    gained, missed = chance[np.maximum(size - 1, 0)], chance[np.minimum(size, m - 1)]
    return np.asarray(known @ np.where(joined, gained[:, None], -missed[:, None]))


def leave_one_out(worth: Mapping[int, float] | Floats) -> Floats:
    """What all models reach together less what they reach without each of them; (..., M).

    worth, errors: as for `shapley`.
    >>> leave_one_out({0b00: 0.0, 0b01: 1.0, 0b10: 2.0, 0b11: 4.0}).tolist()
    [2.0, 3.0]
    """
    known = _worths(worth)
    everybody = known.shape[-1] - 1
    without = everybody ^ (1 << np.arange(everybody.bit_length()))
    return np.asarray(known[..., [everybody]] - known[..., without])


def coalition_worth(
    ballots: Ballots, values: Floats, *, coalitions: Coalitions | None = None, nothing: float = 0.0
) -> Floats:
    """Expected score of each item under the plain majority vote of each coalition, N x coalitions.

    values: N x width, what each answer is worth; NaN, unknown, spreads to the coalitions it wins in. An item whose
    answers tie is worth their mean value. nothing: worth of an item that nobody of the coalition answered, as all are
    to the empty one. coalitions: which; None takes all 2^M, for at most 12 models, in order.
    Raises LLMValidationError: validation.shape, validation.models (too many), validation.coalitions.
    """
    n, m = ballots.codes.shape
    if values.shape != (n, ballots.width):
        raise LLMValidationError(
            f"values have the shape {values.shape}, the answers {(n, ballots.width)}",
            code="validation.shape",
            next_step="pass ballots.values(scores, reference)",
        )
    asked = _asked(coalitions, m)
    bits = np.zeros((n, ballots.width), dtype=asked.dtype)  # of the supporters of each answer
    for j in range(m):
        given = np.flatnonzero(ballots.codes[:, j] >= 0)
        bits[given, ballots.codes[given, j]] |= asked.dtype.type(1 << j)
    worth = np.empty((n, len(asked)))
    step = max(1, CELLS // max(1, len(asked)))
    for start in range(0, n, step):
        part = slice(start, start + step)
        worth[part] = _voted(bits[part], values[part], asked, nothing)
    return worth


def cost_of_coalitions(cost_usd: Floats) -> Floats:
    """Cost of asking each coalition: the sum of its members' costs, (..., M) -> (..., 2^M), in the unit given.

    NaN where a member's is NaN. Raises LLMValidationError validation.models for more than 12.
    >>> cost_of_coalitions(np.array([1.0, 2.0])).tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    return _grown(cost_usd, np.add)


def latency_of_coalitions(latency_ms: Floats) -> Floats:
    """Time until the last member has answered when all are asked at once: the largest, (..., M) -> (..., 2^M).

    Pass items x models: the mean of the largest is more than the largest mean. NaN, errors: as for cost.
    >>> latency_of_coalitions(np.array([1.0, 2.0])).tolist()
    [0.0, 1.0, 2.0, 2.0]
    """
    return _grown(latency_ms, np.maximum)


def votes_of(codes: Codes) -> NDArray[np.int64]:
    """N x width: how many models gave each answer of an item; codes of -1 count for none."""
    return np.asarray((codes[:, :, None] == np.arange(codes.max(initial=0) + 1)).sum(axis=1))


def vote_entropy(codes: Codes) -> Floats:
    """Entropy of the shares of the answers given to each item, in nats; 0 where all who answer say the same.

    >>> vote_entropy(np.array([[0, 0, -1], [0, 1, -1]])).round(4).tolist()
    [0.0, 0.6931]
    """
    votes = votes_of(codes)
    share = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1)
    return np.asarray(entropy.round(12) + 0.0)  # equal splits are equal, and -0 is 0


def _grown(members: Floats, join: Callable[[Floats, Floats], Floats]) -> Floats:
    """Worths over all coalitions from those of single members; each model doubles what there is."""
    given = np.asarray(members, dtype=np.float64)
    m = given.shape[-1]
    _check_size(m, MOST_MODELS)
    worth = np.zeros((*given.shape[:-1], 1 << m))
    for j in range(m):
        worth[..., 1 << j : 2 << j] = join(worth[..., : 1 << j], given[..., [j]])
    return worth


def _voted(bits: NDArray[Any], values: Floats, asked: NDArray[Any], nothing: float) -> Floats:
    """Expected scores of some items, answer by answer: those ahead so far, how many they are and what they sum to."""
    shape = (len(bits), len(asked))
    top, count, total = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8), np.zeros(shape)
    for code in np.flatnonzero(bits.any(axis=0)):
        support = np.bitwise_count(bits[:, [code]] & asked)
        value = values[:, [code]]
        ahead, level = support > top, (support == top) & (support > 0)
        total = np.where(ahead, value, np.where(level, total + value, total))
        count = np.where(ahead, 1, count + level)
        np.maximum(top, support, out=top)
    return np.where(count > 0, total / np.maximum(count, 1), nothing)


def _asked(coalitions: Coalitions | None, m: int) -> NDArray[Any]:
    """Coalitions in the smallest type that holds them."""
    _check_size(m, MOST_MODELS if coalitions is None else MOST_BITS)
    given = np.arange(1 << m) if coalitions is None else np.asarray(coalitions, dtype=np.int64)
    if given.ndim != 1 or (given.size and not 0 <= int(given.min()) <= int(given.max()) < 1 << m):
        raise _no_coalitions(f"the coalitions of {m} models are numbers below 2^{m}, not these {given.shape}")
    return given.astype(np.min_scalar_type((1 << m) - 1))


def _worths(worth: Mapping[int, float] | Floats) -> Floats:
    """Worths as an array over all coalitions."""
    if isinstance(worth, Mapping):
        if set(worth) != set(range(len(worth))):
            raise _no_coalitions(f"{len(worth)} worths are not those of the coalitions 0 to {len(worth) - 1}")
        worth = np.array([worth[c] for c in range(len(worth))], dtype=np.float64)
    known = np.asarray(worth, dtype=np.float64)
    count = known.shape[-1] if known.ndim else 0
    if count < 2 or count & (count - 1):
        raise _no_coalitions(f"{count} worths are not those of all coalitions of one model or more")
    _check_size(count.bit_length() - 1, MOST_MODELS)
    return known


def _check_size(m: int, most: int) -> None:
    if not 1 <= m <= most:
        raise LLMValidationError(
            f"the coalitions of {m} models cannot be counted, those of 1 to {most} can",
            code="validation.models",
            next_step=f"choose at most {most} of the models",
        )


def _no_coalitions(found: str) -> LLMValidationError:
    return LLMValidationError(
        found, code="validation.coalitions", next_step="give 2^M worths, coalition c holding model j where bit j is set"
    )
