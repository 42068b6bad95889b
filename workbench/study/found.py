"""What study/understand.py finds: rows of one kind, with what they rest on, and the items and models they are of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from workbench.decide.pool import Pool
from workbench.decide.votes import Ballots
from workbench.errors import LLMValidationError
from workbench.study.stats import CHUNK_CELLS, SAMPLES, Verdict, bootstrap_interval, drawn_by, wilson_interval
from workbench.study.table import Floats, RunTable
from workbench.study.timings import Estimate

if TYPE_CHECKING:
    import pandas as pd

Measure = Literal["quality", "cost_usd", "latency_ms"]
Rows = NDArray[np.intp]
Row = TypeVar("Row")
EDGES = (0.0, 0.05, 0.1, 0.15, 0.2, 1.0)  # of the spread of 0/1 scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(Generic[Row]):
    """Rows of one kind, and what they rest on.

    unit: of scores: `fraction`, or their kind. items: that were counted. items_dropped: left out, because a model has
    no score on them. samples, seed: of the resampling. about: what else holds for all rows.
    """

    rows: tuple[Row, ...]
    run: str
    name: str
    source: str
    unit: str
    items: int
    items_dropped: int
    samples: int
    seed: int
    about: Mapping[str, Any]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def df(self) -> pd.DataFrame:
        """One row each, with `source` and what holds for all; an estimate `x` has the columns x, x_low and x_high."""
        import pandas as pd

        return pd.DataFrame([_flat(row) for row in self.rows]).assign(**self.about, source=self.source)


def _flat(row: Any) -> dict[str, Any]:
    """The fields of a row; of an estimate its value under the name of the field."""
    told: dict[str, Any] = {}
    for field in fields(row):
        match getattr(row, field.name):
            case Estimate(value=value, low=low, high=high):
                told |= {field.name: value, f"{field.name}_low": low, f"{field.name}_high": high}
            case value:
                told[field.name] = value
    return told


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelValue:
    """What one model adds to the plain vote of a set of models, in one measure, per item.

    measure: `quality` (score of the vote), `cost_usd` (sum over the members) or `latency_ms` (of the slowest, all being
    asked at once). alone: the model by itself. shapley: its share of what all reach together (see decide/value.py).
    leave_one_out: all less all others. items: counted; of cost and latency those on which all are known.
    """

    model: str
    measure: Measure
    alone: float
    shapley: Estimate
    leave_one_out: Estimate
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two models. Of errors, value is phi, and `both`, `first_only`, `second_only` count items that they get wrong.

    Of agreement, value is the share of `both`, items with the same answer, among the `items` that both answer;
    first_only, second_only: items that one of them answers.
    """

    first: str
    second: str
    value: Estimate
    items: int
    both: int
    first_only: int
    second_only: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubPool:
    """Some models. spread: best score less worst. gain: of their vote over the best of them, on the same items."""

    models: tuple[str, ...]
    best: str
    spread: float
    gain: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadBin:
    """Sub-pools with a spread from low to high, exclusive but for the last bin.

    won: share with a gain above 0. better, worse: how many have the whole interval above, or below, 0. won and
    mean_gain are NaN without sub-pools.
    """

    low: float
    high: float
    pools: int
    won: float
    better: int
    worse: int
    mean_gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """A merge or a model on the items of one category.

    delta: to the best single model of all items; without interval (NaN) for one item. p_value: of the sign-flip test.
    p_holm: corrected over the categories. verdict: by p_holm at 5 %.
    """

    group: str
    items: int
    kind: Literal["merge", "single"]
    strategy: str
    score: float
    delta: Estimate
    p_value: float
    p_holm: float
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceBin:
    """Items decided with a confidence from low to high: their mean confidence, and their share `right`."""

    low: float
    high: float
    items: int
    confidence: float
    right: Estimate


def matrix_of(pairs: Found[Pair]) -> tuple[tuple[str, ...], Floats]:
    """The models of pairs in their order, and the values as M x M; NaN on the diagonal."""
    models = tuple(dict.fromkeys(name for p in pairs for name in (p.first, p.second)))
    made = np.full((len(models), len(models)), np.nan)
    for p in pairs:
        a, b = models.index(p.first), models.index(p.second)
        made[a, b] = made[b, a] = p.value.value
    return models, made


def spread_bins(curve: Found[SubPool], edges: Sequence[float] | None = None) -> tuple[SpreadBin, ...]:
    """Sub-pools in bins of spread between ascending edges; None: every 0.05 up to 0.2 for 0/1 scores, else fifths.

    The share that wins describes these models: sub-pools are no independent draws, so that it has no interval.
    """
    widest = max((p.spread for p in curve), default=0.0) or 1.0
    cut = edges if edges is not None else EDGES if curve.unit == "fraction" else np.linspace(0, widest, 6).tolist()
    made = []
    for low, high in pairwise(cut):
        gains = [p.gain for p in curve if low <= p.spread < high or (high == cut[-1] and p.spread == high)]
        made.append(
            SpreadBin(
                low=low,
                high=high,
                pools=len(gains),
                won=float(np.mean([g.value > 0 for g in gains])) if gains else np.nan,
                better=sum(g.low > 0 for g in gains),
                worse=sum(g.high < 0 for g in gains),
                mean_gain=float(np.mean([g.value for g in gains])) if gains else np.nan,
            )
        )
    return tuple(made)


# -- how rows are made


def found_in(
    table: RunTable, rows: Rows, made: Sequence[Row], *, samples: int = 0, seed: int = 0, **about: Any
) -> Found[Row]:
    """Rows with what they rest on: the items `rows` of the table."""
    return Found(
        rows=tuple(made),
        run=table.run_id,
        name=table.name,
        source=table.source,
        unit=table.unit,
        items=len(rows),
        items_dropped=len(table.item_ids) - len(rows),
        samples=samples,
        seed=seed,
        about=about,
    )


def estimates(parts: Floats, *, samples: int, seed: int) -> list[Estimate]:
    """The mean of each column of N x S with its bootstrap interval, which is NaN for a single item."""
    mean = parts.mean(axis=0)
    low, high = (
        bootstrap_interval(parts, samples=samples, seed=seed) if len(parts) > 1 else np.full((2, len(mean)), np.nan)
    )
    return [Estimate(value=float(v), low=float(a), high=float(b)) for v, a, b in zip(mean, low, high, strict=True)]


def sign_flip(differences: Floats, *, samples: int = SAMPLES, seed: int = 0) -> Floats:
    """Two-sided p-values of N x S paired differences, by random signs of the items; at least 1 / (samples + 1).

    Differences of -1, 0 and 1 make it McNemar's exact test, up to the draws. All columns share the draws.
    Source: Fisher 1935, "The Design of Experiments", section 21; one more draw: Phipson & Smyth 2010.
    """
    n = len(differences)
    rng = drawn_by(seed, samples)
    seen = np.abs(differences.sum(axis=0)) - 1e-9
    beyond = np.zeros(differences.shape[1])
    step = max(1, CHUNK_CELLS // n)
    for start in range(0, samples, step):
        signs = rng.integers(0, 2, (min(step, samples - start), n)) * 2.0 - 1.0
        beyond += (np.abs(signs @ differences) >= seen).sum(axis=0)
    return np.asarray((beyond + 1) / (samples + 1))


def wilson(share: float, n: int) -> Estimate:
    """A share of n items with Wilson's interval, which is NaN for none."""
    low, high = wilson_interval(share, n) if n else (np.nan, np.nan)
    return Estimate(value=float(share), low=low, high=high)


def check_given(table: object, pool: object = None) -> None:
    """Refuse what is no table of a run, or no pool. Raises LLMValidationError validation.table, validation.pool."""
    if not isinstance(table, RunTable):
        raise LLMValidationError(
            f"a {type(table).__name__} is not the table of a run", code="validation.table", next_step="pass run.table"
        )
    if pool is not None:
        check_pool(pool)


def check_pool(pool: object) -> None:
    """Refuse what is no pool of a run; raises LLMValidationError validation.pool."""
    if not isinstance(pool, Pool):
        raise LLMValidationError(
            f"a {type(pool).__name__} is not the pool of a run", code="validation.pool", next_step="pass run.pool"
        )


def check_right_or_wrong(table: RunTable, what: str) -> None:
    """Refuse graded scores; raises LLMValidationError validation.score_kind."""
    if table.unit != "fraction":
        raise LLMValidationError(
            f"{what} needs scores of 0 and 1; those of run {table.run_id} are graded ({table.unit})",
            code="validation.score_kind",
            next_step="see agreement_matrix and model_values, or take a run scored 0 or 1",
        )


def voters(table: RunTable, rows: Rows) -> tuple[Ballots, Floats, float]:
    """The ballots of some items, what their answers are worth, and what no answer is."""
    return table.pool().take(rows).ballots, table.values()[rows], table.nothing
