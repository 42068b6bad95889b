"""The optimizer as it would have learned: a recording with styles replayed one item at a time, in random orders.

At each item it sees what it was told of earlier ones, chooses a style with a draw, and is told the quality of the
answer in that style alone: the other styles of the item stay unseen, as in real use. What it would have gained by
another choice is known to us only, because all styles were recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.decide.choose import CAUTION, ChooseStrategy
from workbench.decide.evidence import UNCHANGED, Context, Evidence, Tell, Telling
from workbench.errors import LLMValidationError
from workbench.study.found import Rows, estimates
from workbench.study.stats import bootstrap_interval, drawn_by
from workbench.study.styles import Styled, styled
from workbench.study.table import Floats, RunTable
from workbench.study.timings import Estimate

if TYPE_CHECKING:
    import pandas as pd

ORDERS = 20
RESAMPLES = 2_000  # there are up to some thousand items in each of the bins
MOST_ORDERS = 10_000
BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class GainBin:
    """Predictions of about the same gain: their mean, the mean gain that was measured, and how many items.

    measured: with the bootstrap interval over items.
    """

    predicted: float
    measured: Estimate
    items: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LateGroup:
    """A group in the second half of the orders: chosen style minus base, per item, averaged over the orders.

    always: the gain of always taking the best of the other styles, on the same items. gain: with the bootstrap interval
    over items. taken: share of the choices that were not the base.
    """

    group: str
    items: int
    gain: Estimate
    always: float
    taken: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Online:
    """What learning online gained, over random orders.

    gain: chosen minus base over the whole stream, mean and 2.5 / 97.5 percentiles over orders. always: gain of the best
    style taken for every item, 0 where the base is best. share: gain / always, per order, mean and percentiles; NaN
    where always is 0. second_half: as gain, in the second half. groups: the second half group by group. bins,
    calibration_error: predicted against measured gain of each other style in the second half, all orders together, in
    bins of equal size. coverage: share of groups and orders whose last 95 % interval holds the gain on all items of the
    group. grouped: whether the groups were known. curve: mean gain over orders up to each item.
    """

    name: str
    source: str
    model: str
    base: str
    styles: tuple[str, ...]
    items: int
    orders: int
    seed: int
    caution: float
    grouped: bool
    gain: Estimate
    always: float
    share: Estimate
    second_half: Estimate
    groups: tuple[LateGroup, ...]
    bins: tuple[GainBin, ...]
    calibration_error: float
    coverage: float
    curve: tuple[float, ...]

    def df(self) -> pd.DataFrame:
        """The groups in the second half, one row each."""
        import pandas as pd

        rows = [
            {"group": g.group, "items": g.items, "gain": g.gain.value, "gain_low": g.gain.low, "gain_high": g.gain.high,
             "always": g.always, "taken": g.taken}
            for g in self.groups
        ]  # fmt: skip
        return pd.DataFrame(rows).assign(model=self.model, grouped=self.grouped, source=self.source)


@dataclass(frozen=True, slots=True)
class _Course:
    """One order: the styles but the base, the items, the style chosen for each, and the gains that were predicted."""

    names: tuple[str, ...]
    order: Rows
    chosen: Rows
    predicted: Floats
    evidence: Evidence


def learn_online(
    table: RunTable,
    *,
    model: str | None = None,
    base: str | None = None,
    orders: int = ORDERS,
    seed: int = 0,
    caution: float = CAUTION,
    grouped: bool = True,
    samples: int = RESAMPLES,
) -> Online:
    """The optimizer over the recorded styles of one model, in `orders` random orders.

    model: one of those in several styles; None where there is only one. grouped: False hides the groups from it.
    Scores must be in [0, 1]: they are the qualities it is told.
    Raises LLMValidationError validation.styles, validation.models, validation.score_kind, validation.config,
    data.no_scores.
    """
    found = _one_of(styled(table, base), model)
    scores = np.column_stack(list(found.scores.values()))
    check_qualities(table, scores)
    if isinstance(orders, bool) or not isinstance(orders, int) or not 1 <= orders <= MOST_ORDERS:
        raise LLMValidationError(
            f"orders is {orders!r:.40}",
            code="validation.config",
            next_step=f"use a whole number from 1 to {MOST_ORDERS}",
        )
    told = [table.groups[i] if table.groups else "" for i in found.rows]
    tasks = [table.tasks[i] for i in found.rows]
    contexts = [Context(found.name, task, g if grouped else "") for task, g in zip(tasks, told, strict=True)]
    # A group is one of a task type: what is predicted for one type says nothing of another.
    groups = told if len(set(tasks)) == 1 else [f"{task}: {g}" for task, g in zip(tasks, told, strict=True)]
    policy, rng = ChooseStrategy(caution=caution), drawn_by(seed)
    courses = [_course(scores, found.styles, contexts, policy, rng) for _ in range(orders)]
    return _found(
        table, found, scores, groups, contexts, courses, policy=policy, seed=seed, samples=samples, grouped=grouped
    )


def check_qualities(table: RunTable, scores: Floats) -> None:
    """Refuse scores that are no qualities in [0, 1]; raises LLMValidationError validation.score_kind."""
    if scores.min() < 0 or scores.max() > 1:
        raise LLMValidationError(
            f"scores of {table.name} are from {scores.min():g} to {scores.max():g}, and qualities are in [0, 1]",
            code="validation.score_kind",
            next_step="use a recording with scores within [0, 1]",
        )


def _one_of(models: Sequence[Styled], name: str | None) -> Styled:
    names = [m.name for m in models]
    if (name is None and len(models) > 1) or (name is not None and name not in names):
        raise LLMValidationError(
            f"{'no model' if name is None else repr(name)[:60]} was named, of those in styles: {', '.join(names)}",
            code="validation.models",
            next_step=f"pass model={names[0]!r}, or another of them",
        )
    return models[0 if name is None else names.index(name)]


def _course(
    scores: Floats, styles: Sequence[str], contexts: Sequence[Context], policy: ChooseStrategy, rng: np.random.Generator
) -> _Course:
    n = len(scores)
    order = rng.permutation(n)
    draws = rng.standard_normal((n, 1 + len(styles)))
    chosen, predicted = np.empty(n, dtype=np.intp), np.empty((n, len(styles)))
    evidence, step = Evidence(), Tell()
    # The base is what the optimizer calls unchanged; a style of that name, beside another base, has to give way.
    names = [f"{style} style" if style == UNCHANGED else style for style in styles]
    place = {UNCHANGED: 0, **{name: j for j, name in enumerate(names, 1)}}
    for t, i in enumerate(order.tolist()):
        gains = evidence.gains(contexts[i], names)
        choice = policy(gains, draws[t].tolist()).strategy
        chosen[t], predicted[t] = place[choice], [gain.mean for gain in gains]
        evidence = evidence.tell(Telling(contexts[i], choice, float(scores[i, chosen[t]])), step)
    return _Course(tuple(names), order, chosen, predicted, evidence)


def _found(
    table: RunTable, model: Styled, scores: Floats, groups: Sequence[str], contexts: Sequence[Context],
    courses: Sequence[_Course], *, policy: ChooseStrategy, seed: int, samples: int, grouped: bool,
) -> Online:  # fmt: skip
    n, half = len(scores), len(scores) // 2
    gained = np.array([scores[c.order, c.chosen] - scores[c.order, 0] for c in courses])
    always = float((scores - scores[:, :1]).mean(axis=0).max())  # of the differences, so that no rounding is left
    late = [_late(scores, c, half) for c in courses]
    bins = _reliability(late, scores, courses, half, samples=samples, seed=seed)
    whole = gained.mean(axis=1)
    return Online(
        name=table.name,
        source=table.source,
        model=model.name,
        base=model.base,
        styles=model.styles,
        items=n,
        orders=len(courses),
        seed=seed,
        caution=policy.caution,
        grouped=grouped,
        gain=_over_orders(whole),
        always=always,
        share=_over_orders(whole / always if always > 0 else np.full(len(whole), np.nan)),
        second_half=_over_orders(gained[:, half:].mean(axis=1)),
        groups=_late_groups(scores, groups, late, samples=samples, seed=seed),
        bins=bins,
        calibration_error=float(sum(b.share * abs(b.predicted - b.measured.value) for b in bins)),
        coverage=_coverage(scores, contexts, groups, courses),
        curve=tuple((np.cumsum(gained, axis=1) / np.arange(1, n + 1)).mean(axis=0).tolist()),
    )


def _over_orders(values: Floats) -> Estimate:
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(value=float(values.mean()), low=float(low), high=float(high))


def _late(scores: Floats, course: _Course, half: int) -> tuple[NDArray[np.bool_], Floats, NDArray[np.bool_]]:
    """Which items came in the second half, what choosing gained on them, and whether it was not the base; by item."""
    seen, gained, taken = (np.zeros(len(scores), dtype=kind) for kind in (bool, np.float64, bool))
    at, chosen = course.order[half:], course.chosen[half:]
    seen[at], taken[at] = True, chosen > 0
    gained[at] = scores[at, chosen] - scores[at, 0]
    return seen, gained, taken


def _late_groups(
    scores: Floats, groups: Sequence[str], late: Sequence[tuple[NDArray[np.bool_], Floats, NDArray[np.bool_]]],
    *, samples: int, seed: int,
) -> tuple[LateGroup, ...]:  # fmt: skip
    times = np.sum([seen for seen, _, _ in late], axis=0)
    gained = np.sum([gain for _, gain, _ in late], axis=0)
    taken = np.sum([took for _, _, took in late], axis=0)
    names = np.array(groups, dtype=object)
    best = scores - scores[:, :1]
    made = []
    for name in sorted(set(groups)):
        at = np.flatnonzero((names == name) & (times > 0))
        if not len(at):
            continue
        made.append(
            LateGroup(
                group=name,
                items=len(at),
                gain=estimates((gained[at] / times[at])[:, None], samples=samples, seed=seed)[0],
                always=float(best[at][:, 1:].mean(axis=0).max()),
                taken=float(taken[at].sum() / times[at].sum()),
            )
        )
    return tuple(made)


def _reliability(
    late: Sequence[Any], scores: Floats, courses: Sequence[_Course], half: int, *, samples: int, seed: int
) -> tuple[GainBin, ...]:
    """Predictions in bins of equally many; an item that is in a bin several times counts once in its interval."""
    items = np.concatenate([np.repeat(c.order[half:], scores.shape[1] - 1) for c in courses])
    predicted = np.concatenate([c.predicted[half:].ravel() for c in courses])
    measured = np.concatenate([(scores[c.order[half:], 1:] - scores[c.order[half:], :1]).ravel() for c in courses])
    place = np.searchsorted(np.quantile(predicted, np.arange(1, BINS) / BINS), predicted)
    made = []
    for b in np.unique(place):
        at = place == b
        index, where = np.unique(items[at], return_inverse=True)
        count = np.bincount(where).astype(np.float64)
        total = np.asarray(np.bincount(where, weights=measured[at]), dtype=np.float64)
        low, high = _ratio_interval(total, count, samples=samples, seed=seed) if len(index) > 1 else (np.nan, np.nan)
        mean = float(total.sum() / count.sum())
        made.append(
            GainBin(
                predicted=float(predicted[at].mean()),
                measured=Estimate(value=mean, low=low, high=high),
                items=len(index),
                share=float(at.mean()),
            )
        )
    return tuple(made)


def _ratio_interval(total: Floats, count: Floats, *, samples: int, seed: int) -> tuple[float, float]:
    """Interval of sum(total) / sum(count), resampling items: that of the mean of its linear part."""
    ratio = total.sum() / count.sum()
    low, high = bootstrap_interval((total - ratio * count) / count.mean(), samples=samples, seed=seed)
    return float(ratio + low[0]), float(ratio + high[0])


def _coverage(scores: Floats, contexts: Sequence[Context], groups: Sequence[str], courses: Sequence[_Course]) -> float:
    names = np.array(groups, dtype=object)
    met = []
    for name in sorted(set(groups)):
        at = np.flatnonzero(names == name)
        true = (scores[at, 1:] - scores[at, :1]).mean(axis=0)
        for course in courses:
            gains = course.evidence.gains(contexts[int(at[0])], course.names)
            met += [gain.low <= t <= gain.high for gain, t in zip(gains, true.tolist(), strict=True)]
    return float(np.mean(met))
