"""`cascade`: members are asked one after the other, and no more of them once the answer is probably right.

After each answer the leader is the one that most of those heard gave, among equals the one given last. How often a
leader with so many votes out of so many answers was right is counted on items with known answers; the cascade stops
where that reaches a threshold. On recorded answers every threshold can be tried without a call, and all of them are.

Source: Chen, Zaharia & Zou 2023, "FrugalGPT"; Aggarwal et al. 2023, "AutoMix".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from workbench.decide.calibration import pool_adjacent_violators
from workbench.decide.learn import all_known, check_fractions, worth_of_members
from workbench.decide.pool import Pool, merged, nothing_to_learn, unfitted
from workbench.decide.votes import Codes, Floats, Outcome
from workbench.decide.weights import check_members, check_models, is_finite
from workbench.errors import LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution

Indices = NDArray[np.intp]
Chances = tuple[tuple[float, ...], ...]
ROUNDING = 1e-9


@dataclass(frozen=True)
class Cascade:
    """Asks members in order until the leading answer is right with probability `threshold`, or nobody is left.

    order: the members as they are asked, kept by `fit`; None lets it put the cheapest first: by mean cost_usd where
        every member has one, else by mean latency_ms, else the least accurate first, as if accuracy were the price.
    tolerance: share right, >= 0, that `fit` may give away for fewer calls, counted from the best single model.
    ranking, chances, threshold, reason: learned by `fit`. ranking: the order used. chances: row k has the probability
        that a leader with 1 ... k votes out of k answers is right, never falling. threshold: in [0, 1]; 1 asks all.
    A member that has no answer is passed over: confidence is, like agreement, the share of those heard.
    """

    order: tuple[str, ...] | None = None
    threshold: float | None = None
    tolerance: float = 0.0
    ranking: tuple[str, ...] | None = None
    chances: Chances | None = None
    reason: str = ""
    name: ClassVar[str] = "cascade"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        for field in ("order", "ranking"):
            if (names := getattr(self, field)) is not None:
                check_models(names)
                object.__setattr__(self, field, tuple(names))
        if not is_finite(self.tolerance) or self.tolerance < 0:
            raise _refused(
                f"tolerance {self.tolerance!r:.60} is no finite number >= 0", "use 0, or 0.01 for one in 100"
            )
        if self.threshold is not None and not (is_finite(self.threshold) and 0 <= self.threshold <= 1):
            raise _refused(f"threshold {self.threshold!r:.60} is not in [0, 1]", "leave it out and fit the policy")
        if self.chances is not None:
            try:
                rows = tuple(tuple(float(p) for p in row) for row in self.chances)
            except (TypeError, ValueError, OverflowError) as error:
                raise _refused(f"chances cannot be read: {error!s:.80}", "leave them out and fit the policy") from error
            if [len(row) for row in rows] != list(range(1, len(self.ranking or ()) + 1)):
                raise _refused(
                    "chances are no rows of 1, 2, ... up to the ranking", "leave them out and fit the policy"
                )
            object.__setattr__(self, "chances", rows)

    @property
    def fitted(self) -> bool:
        """Whether it has learned."""
        return None not in (self.ranking, self.chances, self.threshold)

    def fit(self, pool: Pool, values: Floats) -> Self:
        """The order, the chances, and of all thresholds the cheapest that keeps up with the best single model.

        Cheapest by cost_usd where every member has one, else by calls; of equals the most accurate. Where none keeps
        up, the most accurate of all is taken, and `reason` says so. Only items count whose answers all have a known
        value, which must lie in [0, 1]. Raises LLMValidationError fit.items, fit.values, validation.weights.
        """
        check_fractions(self.name, pool, values)
        known = all_known(pool, values)
        if not len(known):
            raise nothing_to_learn(self.name, f"none of {len(pool)} items has answers that all have a known value")
        pool, values = pool.take(known), values[known]
        accuracy = np.nan_to_num(worth_of_members(pool.ballots, values)).mean(axis=0)
        ranking = self.order or _cheapest_first(pool, accuracy)
        columns = _columns(ranking, pool)
        walk = _Walk.of(pool.ballots.codes[:, columns], pool.ballots.width)
        right = np.where(walk.heard > 0, np.take_along_axis(values, walk.leader, axis=1), 0.0)
        chances = _chances(walk, right)
        priced = _means(pool.cost_usd) is not None
        spent = np.cumsum(_filled(pool.cost_usd)[:, columns] if priced else np.ones(right.shape), axis=1)
        best = float(accuracy.max())
        arm, enough = _cheapest(_arms(walk, chances, right, spent), best - self.tolerance - ROUNDING)
        reason = (
            f"{arm.accuracy:.4f} right for {arm.price:.4g} {'USD' if priced else 'calls'} an item; asking all takes "
            f"{spent[:, -1].mean():.4g}; the best single model is {best:.4f} right"
        )
        if not enough:
            reason = f"no threshold keeps up, so it is the most accurate: {reason}"
        return replace(self, ranking=ranking, chances=chances, threshold=arm.threshold, reason=reason)

    def over(self, pool: Pool) -> Outcome:
        """The outcome of every item; raises LLMValidationError validation.unfitted, validation.weights."""
        columns, walk, at = _walked(self, pool)
        votes, heard, leader = (each[np.arange(len(at)), at] for each in (walk.votes, walk.heard, walk.leader))
        winner = np.where(heard > 0, leader, -1).astype(np.int32)
        supports = (pool.ballots.codes == winner[:, None]) & (winner >= 0)[:, None]
        share = votes / np.maximum(heard, 1)
        return Outcome(
            winner=winner,
            tied=np.arange(pool.ballots.width) == winner[:, None],
            agreement=share,
            confidence=share,
            chosen=supports & _asked(columns, at),
        )

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises as decide/merge.py does, and validation.unfitted."""
        return merged(self, contributions)


def calls_made(policy: Cascade, pool: Pool) -> Indices:
    """Number of members that the cascade asks on each of N items, with those that had no answer.

    Raises LLMValidationError validation.unfitted, validation.weights.
    """
    return _walked(policy, pool)[2] + 1


def cost_of(policy: Cascade, pool: Pool) -> Floats:
    """Sum of cost_usd of the members asked on each of N items, NaN where one of them is unknown.

    Raises LLMValidationError validation.unfitted, validation.weights.
    """
    columns, _, at = _walked(policy, pool)
    return np.asarray(np.where(_asked(columns, at), pool.cost_usd, 0.0).sum(axis=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    """N items x M steps, in the order of asking.

    given: whether the member of this step has an answer. heard: answers so far. votes: of the leader. leader: its
    code, without meaning where nothing was heard.
    """

    given: NDArray[np.bool_]
    heard: Indices
    votes: Indices
    leader: Indices

    @classmethod
    def of(cls, codes: Codes, width: int) -> _Walk:
        """The walk over the codes of members in the order of asking."""
        n, m = codes.shape
        rows, given = np.arange(n), codes >= 0
        votes, leader = np.zeros((2, n, m), dtype=np.intp)
        count, last = np.zeros((2, n, width), dtype=np.intp)
        for k in range(m):
            told = given[:, k]
            count[rows[told], codes[told, k]] += 1
            last[rows[told], codes[told, k]] = k + 1
            leader[:, k] = (count * (m + 1) + last).argmax(axis=1)
            votes[:, k] = count[rows, leader[:, k]]
        return cls(given=given, heard=np.cumsum(given, axis=1), votes=votes, leader=leader)

    def stops(self, chances: Chances, threshold: float) -> Indices:
        """The last step of each item, from 0."""
        m = self.given.shape[1]
        table = np.full((m + 1, m + 1), -1.0)  # nobody stops before an answer was heard
        for k, row in enumerate(chances, 1):
            table[k, 1 : k + 1] = row
        enough = table[self.heard, self.votes] >= threshold
        enough[:, -1] = True
        return np.asarray(enough.argmax(axis=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arm:
    """What a threshold comes to: mean share right, and mean cost in US dollars or calls."""

    threshold: float
    accuracy: float
    price: float


def _arms(walk: _Walk, chances: Chances, right: Floats, spent: Floats) -> list[_Arm]:
    """Every threshold that makes a difference. right, spent: N x M, what an item is worth and costs after each step."""
    found = []
    for threshold in sorted({1.0, *(p for row in chances for p in row)}):
        at = walk.stops(chances, threshold)[:, None]
        accuracy, price = (float(np.take_along_axis(each, at, axis=1).mean()) for each in (right, spent))
        found.append(_Arm(threshold=threshold, accuracy=accuracy, price=price))
    return found


def _cheapest(arms: Sequence[_Arm], floor: float) -> tuple[_Arm, bool]:
    """The cheapest arm whose accuracy reaches the floor, and True; else the most accurate, and False."""
    enough = [arm for arm in arms if arm.accuracy >= floor]
    if enough:
        return min(enough, key=lambda arm: (arm.price, -arm.accuracy, -arm.threshold)), True
    return min(arms, key=lambda arm: (-arm.accuracy, arm.price, -arm.threshold)), False


def _chances(walk: _Walk, right: Floats) -> Chances:
    """Row k: share of right leaders with 1 ... k votes out of k answers, made never to fall.

    Each share counts one item more than there are, as right as all leaders out of k answers, so that none is 0 or 1
    and an unseen one is theirs.
    """
    rows = []
    for k in range(1, walk.given.shape[1] + 1):
        at = walk.given & (walk.heard == k)
        asked = np.bincount(walk.votes[at], minlength=k + 1)[1:]
        good = np.bincount(walk.votes[at], weights=right[at], minlength=k + 1)[1:]
        prior = (good.sum() + 0.5) / (asked.sum() + 1)
        rows.append(tuple(pool_adjacent_violators((good + prior) / (asked + 1.0), np.asarray(asked + 1.0)).tolist()))
    return tuple(rows)


def _cheapest_first(pool: Pool, accuracy: Floats) -> tuple[str, ...]:
    price = next((p for p in (_means(pool.cost_usd), _means(pool.latency_ms)) if p is not None), accuracy)
    return tuple(pool.models[j] for j in sorted(range(len(price)), key=lambda j: (price[j], pool.models[j])))


def _means(told: Floats) -> Floats | None:
    """The mean of each column of what is known, None where a column has nothing."""
    count = (~np.isnan(told)).sum(axis=0)
    return np.nansum(told, axis=0) / count if count.all() else None


def _filled(told: Floats) -> Floats:
    return np.where(np.isnan(told), np.nanmean(told, axis=0), told)


def _columns(ranking: Sequence[str], pool: Pool) -> Indices:
    check_members(dict.fromkeys(ranking, 1.0), pool.models)
    return np.array([pool.models.index(model) for model in ranking], dtype=np.intp)


def _walked(policy: Cascade, pool: Pool) -> tuple[Indices, _Walk, Indices]:
    """The columns in the order of asking, the walk over them, and the last step of each item."""
    if policy.ranking is None or policy.chances is None or policy.threshold is None:
        raise unfitted(policy)
    columns = _columns(policy.ranking, pool)
    walk = _Walk.of(pool.ballots.codes[:, columns], pool.ballots.width)
    return columns, walk, walk.stops(policy.chances, policy.threshold)


def _asked(columns: Indices, at: Indices) -> NDArray[np.bool_]:
    """N x M, in the order of the pool's models: who was asked."""
    return np.argsort(columns) <= at[:, None]


def _refused(found: str, instead: str) -> LLMValidationError:
    return LLMValidationError(f"cascade: {found}", code="validation.strategy", next_step=instead)
