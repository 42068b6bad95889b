"""The merges of decide/merge.py over a whole run, as numpy arrays.

A run's answers become integer codes, numbered within each item in sorted order of its distinct answers. So the
lowest code of a tie is the answer that the scalar merge returns, and no string is touched again when weights
move. Supports are the same integer units as in merge.py: both forms give equal winners, ties and shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus
from workbench.decide.weights import SCALE, check_members, check_models
from workbench.errors import LLMValidationError

Floats = NDArray[np.float64]
Codes = NDArray[np.int32]
Policy = MajorityVoting | WeightedConsensus | BestOfN


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballots:
    """A run's answers as codes.

    models: names, length M, in sorted order, as merge.py sorts its contributions.
    codes: N x M; -1 where a member has no answer or failed.
    answers: length N; the distinct answers of each item, sorted; code c means answers[i][c].
    quality: N x M in [0, 1], NaN where unknown.
    failed: N x M; members that did not respond at all.
    width: columns that an array over codes has: the largest number of distinct answers of an item, at least 1; a
    part of the items keeps the width of the whole.
    """

    models: tuple[str, ...]
    codes: Codes
    answers: tuple[tuple[str, ...], ...]
    quality: Floats
    failed: NDArray[np.bool_]
    width: int

    @classmethod
    def of(
        cls,
        models: Sequence[str],
        answers: Sequence[Sequence[str | None]],
        *,
        quality: Floats | None = None,
        failed: NDArray[np.bool_] | None = None,
    ) -> Ballots:
        """Ballots of N items x M models from normalised answers, None where there is none; one that failed has none.

        Raises LLMValidationError: validation.models (none, or one twice), validation.shape.
        """
        check_models(models)
        if isinstance(answers, str) or not isinstance(answers, Sequence):
            raise _misshapen(f"answers are {answers!r:.80}, not a list with a row for each item")
        shape = (len(answers), len(models))
        q = _shaped("quality", np.full(shape, np.nan) if quality is None else quality, shape)
        f = _shaped("failed", np.zeros(shape) if failed is None else failed, shape).astype(bool)
        order = sorted(range(len(models)), key=models.__getitem__)
        codes = np.full(shape, -1, dtype=np.int32)
        distinct: list[tuple[str, ...]] = []
        for i, row in enumerate(answers):
            if isinstance(row, str) or not isinstance(row, Sequence) or len(row) != len(models):
                raise _misshapen(f"item {i} has the answers {row!r:.80} for {len(models)} models")
            if strange := [a for a in row if a is not None and not isinstance(a, str)]:
                raise _misshapen(f"an answer to item {i} is {strange[0]!r:.80}, not a text")
            given = [None if down else a for a, down in zip(row, f[i].tolist(), strict=True)]
            found = sorted({a for a in given if a is not None})
            place = {a: c for c, a in enumerate(found)}
            codes[i] = [-1 if (a := given[j]) is None else place[a] for j in order]
            distinct.append(tuple(found))
        return cls(
            models=tuple(models[j] for j in order),
            codes=codes,
            answers=tuple(distinct),
            quality=q[:, order],
            failed=f[:, order],
            width=max(1, int(codes.max(initial=-1)) + 1),
        )

    def take(self, index: NDArray[np.intp]) -> Ballots:
        """The ballots of some items, by index."""
        return replace(
            self,
            codes=self.codes[index],
            answers=tuple(self.answers[i] for i in index),
            quality=self.quality[index],
            failed=self.failed[index],
        )

    def of_models(self, models: Sequence[str]) -> Ballots:
        """The ballots of some of the members, with the answers that they gave.

        Raises LLMValidationError validation.models for none, one twice, or one that is not among the members.
        """
        check_models(models)
        if strange := [name for name in models if name not in self.models]:
            raise LLMValidationError(
                f"{', '.join(strange)[:200]} is not among the members {', '.join(self.models)}",
                code="validation.models",
                next_step="name members of the run",
            )
        place = [self.models.index(name) for name in models]
        codes = self.codes[:, place]
        answers = [
            [found[c] if c >= 0 else None for c in row] for found, row in zip(self.answers, codes.tolist(), strict=True)
        ]
        return Ballots.of(models, answers, quality=self.quality[:, place], failed=self.failed[:, place])

    def values(self, scores: Floats, reference: Sequence[str | None] | None = None) -> Floats:
        """Score of every answer of every item, N x width.

        reference: normalised gold answers: 1 where an answer equals it, else 0. Without it, an answer is worth
        the mean score of the members that gave it (scores: N x M in the order of `models`, NaN unknown).
        """
        value = np.zeros((len(self.codes), self.width))
        if reference is not None:
            for i, (found, gold) in enumerate(zip(self.answers, reference, strict=True)):
                if gold in found:
                    value[i, found.index(str(gold))] = 1.0
            return value
        count = np.zeros_like(value)
        rows = np.arange(len(value))
        for j in range(self.codes.shape[1]):
            given = (self.codes[:, j] >= 0) & ~np.isnan(scores[:, j])
            at = rows[given], self.codes[given, j]
            count[at] += 1
            value[at] += (scores[given, j] - value[at]) / count[at]  # the mean of equal scores is that score, exactly
        return np.where(count > 0, value, np.nan)


def _misshapen(problem: str) -> LLMValidationError:
    return LLMValidationError(problem, code="validation.shape", next_step="give one value, or None, per item and model")


def _shaped(name: str, array: object, shape: tuple[int, ...]) -> Floats:
    try:
        made = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise _misshapen(f"{name} holds what is no number: {error!s:.80}") from error
    if made.shape != shape:
        raise _misshapen(f"{name} has the shape {made.shape}, the answers have {shape}")
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a merge decided for every item.

    winner: N codes, -1 where nothing could be decided. tied: N x width. agreement, confidence: N, in [0, 1].
    chosen: N x M; members whose response stands behind a winner: all its supporters in a vote, in best_of_n only
    those with the highest quality.
    """

    winner: Codes
    tied: NDArray[np.bool_]
    agreement: Floats
    confidence: Floats
    chosen: NDArray[np.bool_]

    def scores(self, values: Floats, *, missing: float = 0.0) -> Floats:
        """Expected score of every item: the mean value over its tied answers, `missing` where none won."""
        count = self.tied.sum(axis=1)
        total = np.where(self.tied, values, 0.0).sum(axis=1)
        return np.where(count > 0, total / np.maximum(count, 1), missing)


def decide(policy: Policy, ballots: Ballots, *, quality: Floats | None = None) -> Outcome:
    """What `policy` decides for every item of `ballots`.

    quality: replaces the ballots' own; N x M, or M when one estimate per model holds for all items.
    """
    n, m = ballots.codes.shape
    given = ballots.quality if quality is None else np.asarray(quality, dtype=np.float64)
    if given.shape not in ((n, m), (m,)):
        raise _misshapen(f"quality has the shape {given.shape}, neither {(n, m)} nor {(m,)}")
    q = np.where(ballots.failed, np.nan, given)
    kept = ~ballots.failed
    if policy.threshold is not None:
        with np.errstate(invalid="ignore"):
            kept = kept & ~(q < policy.threshold)
    answered = (ballots.codes >= 0) & kept
    weights = _weights(policy, ballots, q, answered)
    voting = answered & (weights > 0)
    support = _support(ballots, units(weights, voting))
    if isinstance(policy, BestOfN):
        rank = np.where(np.isnan(q), -1.0, q)
        best = np.where(voting, rank, -np.inf).max(axis=1, keepdims=True)
        chosen = voting & (rank == best)
        tied = _mark(ballots, chosen)
    else:
        top = support.max(axis=1, keepdims=True)
        tied = (support > 0) & (top - support <= m)
        chosen = voting & np.take_along_axis(tied, np.maximum(ballots.codes, 0), axis=1)
    return _outcome(tied, chosen, support, *_heard(weights, voting))


def _weights(policy: Policy, ballots: Ballots, quality: Floats, voting: NDArray[np.bool_]) -> Floats:
    n, m = ballots.codes.shape
    if not isinstance(policy, WeightedConsensus):
        return np.ones((1, m))
    if policy.weights is not None:
        check_members(policy.weights, ballots.models)
        return np.array([[float(policy.weights[name]) for name in ballots.models]])
    known = ~np.isnan(quality)
    total, rated = np.zeros(n), known.sum(axis=1)
    for j in range(m):  # one by one, in the order of merge.py: the sums are then equal to the last bit
        total = total + np.where(known[:, j], quality[:, j], 0.0)
    mean = np.where(rated > 0, total / np.maximum(rated, 1), 1.0)
    weights = np.where(known, quality, mean[:, None])
    heard = (voting & (weights > 0)).any(axis=1, keepdims=True)
    return np.where(heard, weights, 1.0)


def units(weights: Floats, voting: NDArray[np.bool_]) -> NDArray[np.int64]:
    """N x M: the voters' weights as whole units, the largest of an item being SCALE (see decide/weights.py)."""
    mine = np.where(voting, weights, 0.0)
    top = mine.max(axis=1, keepdims=True)
    return np.rint(mine / np.where(top > 0, top, 1.0) * SCALE).astype(np.int64)


def _heard(weights: Floats, voting: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Weight of the voters and of all members; added one by one, in the order of merge.py."""
    n, m = voting.shape
    asked, heard = np.zeros(n), np.zeros(n)
    top = weights.max(axis=1, keepdims=True)
    every = np.broadcast_to(weights / np.where(top > 0, top, 1.0), (n, m))
    for j in range(m):
        asked = asked + every[:, j]
        heard = heard + np.where(voting[:, j], every[:, j], 0.0)
    return heard, np.where(asked > 0, asked, 1.0)


def _support(ballots: Ballots, votes: NDArray[np.int64]) -> NDArray[np.int64]:
    n, m = ballots.codes.shape
    width = ballots.width
    support = np.zeros(n * width, dtype=np.int64)
    start = np.arange(n) * width
    safe = np.maximum(ballots.codes, 0)
    for j in range(m):  # within one member every item appears once, so plain indexing adds correctly
        support[start + safe[:, j]] += votes[:, j]
    return support.reshape(n, width)


def _mark(ballots: Ballots, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    marked = np.zeros((len(ballots.codes), ballots.width), dtype=bool)
    rows, members = np.nonzero(chosen)
    marked[rows, ballots.codes[rows, members]] = True
    return marked


def _outcome(
    tied: NDArray[np.bool_], chosen: NDArray[np.bool_], support: NDArray[np.int64], heard: Floats, asked: Floats
) -> Outcome:
    won = tied.any(axis=1)
    winner = np.where(won, tied.argmax(axis=1), -1).astype(np.int32)
    mine = np.where(won, support[np.arange(len(support)), np.maximum(winner, 0)], 0)
    agreement = mine / np.maximum(support.sum(axis=1), 1)
    confidence = np.minimum(agreement, agreement * heard / asked)  # but for rounding
    return Outcome(winner=winner, tied=tied, agreement=agreement, confidence=confidence, chosen=chosen)
