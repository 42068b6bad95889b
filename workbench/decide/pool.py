"""What a strategy sees of a whole run, and how its supports become an outcome.

A strategy is a frozen policy in two forms that are one: `over(pool)` decides N items at once, and calling it with the
contributions of one item decides that item, as a pool of one. What it learns, `fit(pool, values)` learns from items
with known values and puts into its fields, so that a fitted policy is plain data: logged, compared, replayed.
A pool has no score and no reference: nothing in it could tell who is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from workbench.decide import votes
from workbench.decide.merge import prepare
from workbench.decide.votes import Ballots, Floats, Outcome, Policy
from workbench.decide.weights import SCALE
from workbench.errors import LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution

Rows = NDArray[np.intp] | NDArray[np.bool_]
Decides = TypeVar("Decides", bound="Policy | Strategy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """N items x M models.

    ballots: the answers, as codes. texts: N rows of M responses, None where there is none or none was kept.
    groups: the category of each item, of length N; "" where it has none. cost_usd, latency_ms: N x M, NaN unknown.
    """

    ballots: Ballots
    texts: tuple[tuple[str | None, ...], ...]
    groups: tuple[str, ...]
    cost_usd: Floats
    latency_ms: Floats

    @classmethod
    def of(
        cls,
        ballots: Ballots,
        *,
        texts: Sequence[Sequence[str | None]] | None = None,
        groups: Sequence[str] | None = None,
        cost_usd: Floats | None = None,
        latency_ms: Floats | None = None,
    ) -> Pool:
        """A pool with what is known; columns in the order of `ballots.models`.

        Raises LLMValidationError validation.shape.
        """
        n, m = ballots.codes.shape
        blank = ((None,) * m,) * n
        made = cls(
            ballots=ballots,
            texts=blank if texts is None else tuple(tuple(row) for row in texts),
            groups=("",) * n if groups is None else tuple(groups),
            cost_usd=np.full((n, m), np.nan) if cost_usd is None else np.asarray(cost_usd, dtype=np.float64),
            latency_ms=np.full((n, m), np.nan) if latency_ms is None else np.asarray(latency_ms, dtype=np.float64),
        )
        shapes = {(len(made.groups), m), (len(made.texts), m), *((n, len(row)) for row in made.texts)}
        if strange := (shapes | {made.cost_usd.shape, made.latency_ms.shape}) - {(n, m)}:
            raise LLMValidationError(
                f"what is known of {n} items x {m} models has the shape {', '.join(map(str, sorted(strange)))}",
                code="validation.shape",
                next_step="give one text, group, cost and latency per item and model of the ballots",
            )
        return made

    @classmethod
    def one(cls, contributions: Sequence[ModelContribution]) -> Pool:
        """One item as a pool; members without weight, and those that are not kept, have no answer in it."""
        parts = sorted(contributions, key=lambda c: c.model)
        heard = [c.votes and c.weight > 0 for c in parts]
        known = [[np.nan if c.quality is None else c.quality for c in parts]]
        ballots = Ballots.of(
            [c.model for c in parts],
            [[c.answer if h else None for c, h in zip(parts, heard, strict=True)]],
            quality=np.array(known, dtype=np.float64),
            failed=np.array([[c.failure is not None or c.status in ("failed", "late") for c in parts]]),
        )
        responses = [c.response for c in parts]
        told = [[np.nan if r is None or r.cost_usd is None else r.cost_usd for r in responses]]
        took = [[np.nan if r is None or r.latency_ms is None else r.latency_ms for r in responses]]
        texts = [[r.text if r is not None and h else None for r, h in zip(responses, heard, strict=True)]]
        return cls.of(ballots, texts=texts, cost_usd=np.array(told), latency_ms=np.array(took))

    def __len__(self) -> int:
        return len(self.ballots.codes)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the members, in sorted order."""
        return self.ballots.models

    @property
    def present(self) -> NDArray[np.bool_]:
        """N x width: which codes of an item stand for an answer that somebody gave."""
        counts = np.array([len(found) for found in self.ballots.answers], dtype=np.intp)
        return np.arange(self.ballots.width)[None, :] < counts[:, None]

    def take(self, rows: Rows) -> Pool:
        """The pool of some items, by mask or index; a mask is as long as the pool."""
        index = np.arange(len(self))[rows]
        return replace(
            self,
            ballots=self.ballots.take(index),
            texts=tuple(self.texts[i] for i in index),
            groups=tuple(self.groups[i] for i in index),
            cost_usd=self.cost_usd[index],
            latency_ms=self.latency_ms[index],
        )

    def of_models(self, models: Sequence[str]) -> Pool:
        """The pool of some of its members. Raises LLMValidationError validation.models."""
        ballots = self.ballots.of_models(models)
        place = [self.models.index(name) for name in ballots.models]
        return replace(
            self,
            ballots=ballots,
            texts=tuple(tuple(row[j] for j in place) for row in self.texts),
            cost_usd=self.cost_usd[:, place],
            latency_ms=self.latency_ms[:, place],
        )


@runtime_checkable
class Strategy(Protocol):
    """A policy that decides one item and many alike."""

    @property
    def name(self) -> str:
        """Its name in tables and in the log."""

    def over(self, pool: Pool) -> Outcome:
        """What it decides for every item of the pool."""

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer of one item; raises LLMError only."""


@runtime_checkable
class Learner(Strategy, Protocol):
    """A strategy that learns from items whose answers have known values."""

    @property
    def fitted(self) -> bool:
        """Whether it has learned."""

    def fit(self, pool: Pool, values: Floats) -> Self:
        """The same policy with what it learned in its fields.

        values: N x width, what each answer of each item is worth (NaN unknown); larger is better. The columns of
        `pool.ballots.codes` index into it. Raises LLMValidationError fit.items where there is nothing to learn from.
        """


def over(merge: Policy | Strategy, pool: Pool) -> Outcome:
    """What a merge decides for every item: a strategy, or one of the three of decide/merge.py."""
    return merge.over(pool) if isinstance(merge, Strategy) else votes.decide(merge, pool.ballots)


def learned(merge: Decides, pool: Pool, values: Floats) -> Decides:
    """The merge, fitted on these items where it learns."""
    return merge.fit(pool, values) if isinstance(merge, Learner) else merge


def outcome_of(ballots: Ballots, share: Floats, *, voting: NDArray[np.bool_] | None = None) -> Outcome:
    """The outcome of supports: the answers with the largest share of their item.

    share: N x width, >= 0; 0 for codes that stand for no answer. Shares are counted in the integer units of
    decide/weights.py, and two of them are equal within one unit per member, so that ties are ties on every machine.
    voting: N x M, members that were heard; None: all with an answer. confidence is agreement times their share.
    """
    n, m = ballots.codes.shape
    heard = ballots.codes >= 0 if voting is None else voting
    top = share.max(axis=1, keepdims=True, initial=0.0)
    units = np.rint(share / np.where(top > 0, top, 1.0) * SCALE).astype(np.int64)
    tied = (units > 0) & (units.max(axis=1, keepdims=True, initial=0) - units <= m)
    won = tied.any(axis=1)
    winner = np.where(won, tied.argmax(axis=1), -1).astype(np.int32)
    mine = np.where(won, units[np.arange(n), np.maximum(winner, 0)], 0)
    agreement = mine / np.maximum(units.sum(axis=1), 1)
    chosen = heard & (ballots.codes >= 0) & np.take_along_axis(tied, np.maximum(ballots.codes, 0), axis=1)
    return Outcome(
        winner=winner,
        tied=tied,
        agreement=agreement,
        confidence=np.minimum(agreement, agreement * heard.sum(axis=1) / m),  # but for rounding
        chosen=chosen,
    )


def softmax(scores: Floats, present: NDArray[np.bool_]) -> Floats:
    """Shares proportional to exp(score) over the codes that are present; rows without any are all 0."""
    masked = np.where(present, scores, -np.inf)
    top = masked.max(axis=1, keepdims=True, initial=-np.inf)
    raised = np.where(present, np.exp(masked - np.where(np.isfinite(top), top, 0.0)), 0.0)
    total = raised.sum(axis=1, keepdims=True)
    return np.asarray(raised / np.where(total > 0, total, 1.0))


def votes_for(codes: NDArray[np.int32], weights: Floats, width: int) -> Floats:
    """N x width: the sum of weights (M, or N x M) behind each code; codes of -1 count for nobody."""
    n, m = codes.shape
    support = np.zeros(n * width)
    start = np.arange(n) * width
    every = np.broadcast_to(weights, (n, m))
    for j in range(m):  # within one member every item appears once, so plain indexing adds correctly
        given = codes[:, j] >= 0
        support[start[given] + codes[given, j]] += every[given, j]
    return support.reshape(n, width)


def merged(strategy: Strategy, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
    """What a strategy makes of one item: `over` on a pool of one, as a response.

    The text is that of the chosen member with the highest quality, the first by name among equals.
    Raises as the merges of decide/merge.py do on unusable input, and where nobody answered.
    """
    parts = prepare(contributions, None)
    pool = Pool.one(parts)
    outcome = strategy.over(pool)
    found = pool.ballots.answers[0]
    tied = tuple(answer for code, answer in enumerate(found) if outcome.tied[0, code])
    answer = tied[0] if tied else None
    order = sorted(parts, key=lambda c: (-(-1.0 if c.quality is None else c.quality), c.model))
    supporters = [c for c in order if c.answer == answer and c.votes and c.weight > 0]
    chosen = [c for c in supporters if outcome.chosen[0, pool.models.index(c.model)]] or supporters
    text = next((c.response.text for c in chosen if c.response), "")
    agreement, confidence = float(outcome.agreement[0]), float(outcome.confidence[0])
    asked = sum(c.weight > 0 for c in parts)
    if asked < len(parts):  # the pool counts members without weight among those who were asked
        confidence = min(agreement, confidence * len(parts) / asked)
    return EnsembleResponse(
        text=text or (answer or ""),
        answer=answer,
        tied=tied,
        strategy=strategy.name,
        confidence=confidence,
        agreement=agreement,
        contributions=tuple(parts),
    )


def unfitted(strategy: Strategy) -> LLMValidationError:
    """The error of a strategy that is asked to decide before it has learned."""
    kind = type(strategy).__name__
    return LLMValidationError(
        f"{strategy.name} has learned nothing yet: {kind}() was not fitted",
        code="validation.unfitted",
        next_step=f"fit it on a run: run.fit({kind}()); run.compare({kind}()) fits it on other items by itself",
    )


def nothing_to_learn(name: str, found: str) -> LLMValidationError:
    """The error of a strategy that is given too little to learn from."""
    return LLMValidationError(
        f"{name} cannot be fitted: {found}",
        code="fit.items",
        next_step="give more items with a reference or a score, or use majority_voting, which learns nothing",
    )
