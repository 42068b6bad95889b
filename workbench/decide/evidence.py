"""What was told about rewritings, and the gain that it lets one expect.

Qualities are told one at a time, for what was really asked: in a group of queries (model, task, group), under one
strategy or `unchanged`. The gain of a strategy is its mean quality minus that of the unchanged query. Groups with few
tellings lean on the other groups of the same model, these on the other models of the same task, these on the other
tasks, and where nothing was told the gain is 0 with a wide interval:

    any task  ->  task  ->  model  ->  group            gain of a child ~ Normal(gain of its parent, tau^2)

Each level's tau^2 is estimated from how much its children differ; but for that a group's own tellings do not enter its
prior. Evidence is a value: `tell` makes a new one that shares all that did not change.

This is the joint posterior of the normal model, given the variances; tests/decide/test_evidence.py computes it in
another way.

Source: partial pooling as in Gelman et al. 2013, "Bayesian Data Analysis", chapter 5 (normal hierarchical model, with
the variances plugged in); tau^2 by DerSimonian & Laird 1986, shrunk towards TAU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import NormalDist
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from workbench.decide.weights import is_finite
from workbench.errors import LLMValidationError

UNCHANGED = "unchanged"
PRIOR_SD = 0.25  # of a gain about which nothing was told: 0 +- 0.49
TAU = 0.2  # between children, before they tell how much they differ
TAU_CHILDREN = 3  # children that this guess weighs as much as
DISCOUNT = 0.999
FORGOTTEN = 1e-9  # tellings: less is nothing, and would divide by nothing
_Z95 = NormalDist().inv_cdf(0.975)


class Context(NamedTuple):
    """Which queries are alike: the model that answers, the task type, and the group within it ("" for none)."""

    model: str = ""
    task: str = "general"
    group: str = ""


def source_of(model: str) -> str:
    """Where answers of a model come from, by its name: `simulated`, `recorded`, `live`; empty where it says nothing."""
    provider, colon, _ = model.partition(":")
    return (provider if provider in ("simulated", "recorded") else "live") if colon else ""


def group_of(item_id: str, told: str | None) -> str:
    """The group of an item: what its suite says, or else its id before the last "-"; "" without either."""
    return told if told is not None else item_id.rpartition("-")[0]


class Gain(NamedTuple):
    """The expected gain in quality of a strategy over the unchanged query: a normal distribution.

    mean, sd: in the unit of the qualities, which are in [0, 1]. n, told: discounted tellings in the group itself, about
    the strategy and about any.
    """

    strategy: str
    mean: float
    sd: float
    n: float = 0.0
    told: float = 0.0

    @property
    def low(self) -> float:
        """Lower end of the central 95 % interval, at least -1."""
        return max(-1.0, self.mean - _Z95 * self.sd)

    @property
    def high(self) -> float:
        """Upper end of the central 95 % interval, at most 1."""
        return min(1.0, self.mean + _Z95 * self.sd)

    @property
    def positive(self) -> float:
        """Probability that the gain is above 0."""
        return 0.5 * math.erfc(-self.mean / (self.sd * math.sqrt(2))) if self.sd > 0 else float(self.mean > 0)


class Tally(NamedTuple):
    """Discounted number of tellings, and sums of their qualities and of the squares."""

    n: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float:
        """Mean quality; n must be above 0."""
        return self.total / self.n

    @property
    def variance(self) -> float:
        """Of the mean. One more telling, of 0 and 1 by halves, keeps it above 0; for 0/1 qualities it is binomial."""
        first, second = (self.total + 0.5) / (self.n + 1), (self.squares + 0.5) / (self.n + 1)
        return max(second - first * first, 1e-12) / self.n


Tallies = Mapping[str, Tally]


class Telling(NamedTuple):
    """What was told once: the quality in [0, 1] of an answer to a query of this context under a strategy.

    at_unix_ns: when; for the log, which orders tellings by it.
    """

    context: Context
    strategy: str
    quality: float
    at_unix_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """The pure step of learning: the tallies of a group after one more telling about one of its strategies.

    discount: in (0, 1]; what a telling is worth after one more telling in its group: 1 forgets nothing, and about
    1 / (1 - discount) are remembered.
    """

    discount: float = DISCOUNT
    name: ClassVar[str] = "tell"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        if not (is_finite(self.discount) and 0 < self.discount <= 1):
            raise LLMValidationError(
                f"discount is {self.discount!r:.40}, not a number in (0, 1]",
                code="validation.config",
                next_step="use 0.999, or 1 to forget nothing",
            )

    def __call__(self, tallies: Tallies, telling: Telling) -> dict[str, Tally]:
        """The new tallies; raises LLMValidationError validation.feedback for a quality that is not in [0, 1]."""
        strategy, quality = telling.strategy, telling.quality
        if not is_finite(quality) or not 0 <= quality <= 1:
            raise LLMValidationError(
                f"result_quality is {quality!r:.60}, not a number in [0, 1]",
                code="validation.feedback",
                next_step="divide by the largest possible quality, such as 100 for chrF",
            )
        d = self.discount
        faded = {name: Tally(d * t.n, d * t.total, d * t.squares) for name, t in tallies.items()}
        after = {name: tally for name, tally in faded.items() if tally.n > FORGOTTEN}
        n, total, squares = after.get(strategy, Tally())
        q = float(quality)
        after[strategy] = Tally(n + 1.0, total + q, squares + q * q)
        return after


@dataclass(frozen=True, slots=True)
class Pattern:
    """A learned pattern, as a row: how good answers were in a context under a strategy."""

    model: str
    task: str
    group: str
    strategy: str
    n: float
    total: float
    squares: float


class _Normal(NamedTuple):
    mean: float
    variance: float


@dataclass(frozen=True)
class _Group:
    """Tallies of one group."""

    tallies: Tallies

    @cached_property
    def _differences(self) -> dict[str, _Normal]:
        base = self.tallies.get(UNCHANGED)
        if base is None or base.n <= 0:
            return {}
        return {
            name: _Normal(t.mean - base.mean, t.variance + base.variance)
            for name, t in self.tallies.items()
            if name != UNCHANGED and t.n > 0
        }

    def seen(self, strategy: str) -> _Normal | None:
        """Difference of the mean qualities and its variance; None where one of the two was never told."""
        return self._differences.get(strategy)


@dataclass(frozen=True)
class _Level:
    """Children by name, each a level or a group; what was computed of it is kept, since it never changes."""

    children: Mapping[str, _Level | _Group] = field(default_factory=dict)
    _kept: dict[str, tuple[float, float, float]] = field(default_factory=dict, compare=False, repr=False)

    def seen(self, strategy: str) -> _Normal | None:
        """The pooled gain of the children, and its variance; None where no child has one."""
        weight, moment, _ = self._sums(strategy)
        return _Normal(moment / weight, 1 / weight) if weight > 0 else None

    def prior_of(self, child: str, strategy: str, mine: _Normal) -> _Normal:
        """What this level and the other children say of a child, before it says anything itself."""
        weight, moment, tau2 = self._sums(strategy)
        own = self.children[child].seen(strategy) if child in self.children else None
        if own is not None:
            w = 1 / (own.variance + tau2)
            # Of a single child nothing is left, and rounding must not leave less.
            weight, moment = max(weight - w, 0.0), moment - w * own.mean
        precision = 1 / mine.variance + weight
        return _Normal((mine.mean / mine.variance + moment) / precision, 1 / precision + tau2)

    def _sums(self, strategy: str) -> tuple[float, float, float]:
        """Sum of the weights of the children, of weight times gain, and tau^2."""
        if strategy not in self._kept:
            found = [seen for child in self.children.values() if (seen := child.seen(strategy)) is not None]
            tau2 = _between(found)
            weights = [1 / (seen.variance + tau2) for seen in found]
            moment = math.fsum(w * seen.mean for w, seen in zip(weights, found, strict=True))
            self._kept[strategy] = math.fsum(weights), moment, tau2
        return self._kept[strategy]

    def with_child(self, name: str, child: _Level | _Group) -> _Level:
        return _Level({**self.children, name: child})


def _between(found: Sequence[_Normal]) -> float:
    """Variance of the true gains of the children; the guess TAU^2 counts as TAU_CHILDREN of them."""
    k = len(found)
    if k < 2:
        return TAU**2
    w = [1 / seen.variance for seen in found]
    total = math.fsum(w)
    mean = math.fsum(a * seen.mean for a, seen in zip(w, found, strict=True)) / total
    q = math.fsum(a * (seen.mean - mean) ** 2 for a, seen in zip(w, found, strict=True))
    spread = total - math.fsum(a * a for a in w) / total
    raw = max(0.0, (q - (k - 1)) / spread) if spread > 0 else 0.0
    return (raw * (k - 1) + TAU**2 * TAU_CHILDREN) / (k - 1 + TAU_CHILDREN)


@dataclass(frozen=True)
class Evidence:
    """All that was told; `Evidence()` knows nothing.

    told: number of tellings. Equal tellings in the same order give equal values, and so does `of(rows(), told=told)`.
    """

    told: int = 0
    _root: _Level = field(default_factory=_Level, repr=False)

    def tallies(self, context: Context) -> Tallies:
        """What was told in the group itself, by strategy."""
        at: _Level | _Group | None = self._root
        for name in (context.task, context.model, context.group):
            at = at.children.get(name) if isinstance(at, _Level) else None
        return at.tallies if isinstance(at, _Group) else MappingProxyType({})

    def gains(self, context: Context, strategies: Sequence[str]) -> tuple[Gain, ...]:
        """The expected gain of each strategy in a context, in the order of the strategies."""
        here = self.tallies(context)
        told = math.fsum(tally.n for tally in here.values())
        beliefs = [self._belief(context, name) for name in strategies]
        return tuple(
            Gain(name, belief.mean, math.sqrt(belief.variance), here.get(name, Tally()).n, told)
            for name, belief in zip(strategies, beliefs, strict=True)
        )

    def _belief(self, context: Context, strategy: str) -> _Normal:
        belief = _Normal(0.0, PRIOR_SD**2)
        level = self._root
        for name in (context.task, context.model, context.group):
            belief = level.prior_of(name, strategy, belief)
            child = level.children.get(name, _Level())
            if isinstance(child, _Group):
                own = child.seen(strategy)
                if own is not None:
                    precision = 1 / belief.variance + 1 / own.variance
                    mean = (belief.mean / belief.variance + own.mean / own.variance) / precision
                    belief = _Normal(mean, 1 / precision)
            else:
                level = child
        return belief

    def with_group(self, context: Context, tallies: Tallies) -> Evidence:
        """The evidence after one more telling, which left the group with these tallies (see Tell)."""
        return replace(self, told=self.told + 1, _root=self._placed(context, tallies))

    def _placed(self, context: Context, tallies: Tallies) -> _Level:
        task = self._root.children.get(context.task, _Level())
        assert isinstance(task, _Level)
        model = task.children.get(context.model, _Level())
        assert isinstance(model, _Level)
        model = model.with_child(context.group, _Group(dict(tallies)))
        return self._root.with_child(context.task, task.with_child(context.model, model))

    def tell(self, telling: Telling, step: Tell) -> Evidence:
        """The evidence after a telling; raises as `Tell` does."""
        return self.with_group(telling.context, step(self.tallies(telling.context), telling))

    def rows(self) -> tuple[Pattern, ...]:
        """The learned patterns, in the order in which contexts and strategies were first told."""
        return tuple(self._rows())

    def _rows(self) -> Iterator[Pattern]:
        for task, models in self._root.children.items():
            assert isinstance(models, _Level)
            for model, groups in models.children.items():
                assert isinstance(groups, _Level)
                for group, held in groups.children.items():
                    assert isinstance(held, _Group)
                    for strategy, tally in held.tallies.items():
                        yield Pattern(model, task, group, strategy, *tally)

    @classmethod
    def of(cls, rows: Sequence[Pattern], *, told: int | None = None) -> Evidence:
        """The evidence with these patterns; told: number of tellings behind them, default the sum of their n.

        Raises LLMValidationError validation.patterns for a row that no telling can leave behind.
        """
        tree: dict[str, dict[str, dict[str, dict[str, Tally]]]] = {}
        for row in rows:
            sums = (row.n, row.total, row.squares)
            texts = (row.model, row.task, row.group, row.strategy)
            slack = 1e-9 * (1 + abs(row.n) if is_finite(row.n) else 0)
            sound = all(is_finite(x) for x in sums) and -slack <= row.squares <= row.total + slack <= row.n + 2 * slack
            group = tree.setdefault(row.task, {}).setdefault(row.model, {}).setdefault(row.group, {})
            if not sound or not all(isinstance(t, str) for t in texts) or row.strategy in group:
                raise LLMValidationError(
                    f"the pattern {row!r:.200} is not one that was learned, or stands twice",
                    code="validation.patterns",
                    next_step="give the rows of evidence.rows(): 0 <= squares <= total <= n",
                )
            group[row.strategy] = Tally(*map(float, sums))
        root = _Level({t: _Level({m: _Level({g: _Group(held) for g, held in groups.items()})
                                  for m, groups in models.items()}) for t, models in tree.items()})  # fmt: skip
        if told is None:
            told = round(sum(row.n for row in rows))
        return cls(told, root)
