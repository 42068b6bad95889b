"""What merging adds: every strategy that applies, against the best single model chosen on the other half.

The table that answers "does ensembling help?" for several runs and sub-pools at once. A strategy that cannot be used on
a run's values, or with what is known of it, is left out and named with its reason: never silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.decide.pool import Pool
from workbench.errors import LLMValidationError
from workbench.facts import Merge
from workbench.study.compare import Compared, Strategy, compare
from workbench.study.stats import SPLITS, Verdict
from workbench.study.summary import difference
from workbench.study.table import RunTable

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """One strategy on one pool: mean and 2.5 / 97.5 percentiles of its difference over random half splits.

    pool: which models, such as "all" or "closest:5". delta, low, high: in the unit of the scores (0/1 scores are
    fractions), strategy minus the best single model chosen on the other half. headroom: what an oracle would gain that
    always picks the best answer. spread: best minus worst model. best_sd: standard deviation of the best model's
    scores. note: what a strategy that learns has chosen, and why.
    """

    name: str
    pool: str
    source: str
    strategy: str
    models: int
    items: int
    unit: str
    best_single: str
    delta: float
    low: float
    high: float
    verdict: Verdict
    headroom: float
    spread: float
    best_sd: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A strategy that does not apply to a pool, and why."""

    name: str
    pool: str
    strategy: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gains:
    """The table, row by row, and what is not in it."""

    rows: tuple[Gain, ...]
    left_out: tuple[LeftOut, ...]
    splits: int
    seed: int

    def df(self) -> pd.DataFrame:
        """One row a strategy and pool."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __getitem__(self, key: tuple[str, str, str]) -> Gain:
        for row in self.rows:
            if (row.name, row.pool, row.strategy) == key:
                return row
        raise KeyError(f"{key!r} is not in the table")


def gains_of(
    table: RunTable, pool: Pool, merges: Sequence[Merge], *, which: str = "all", splits: int = SPLITS, seed: int = 0
) -> Gains:
    """The gains of the merges on one pool of a run (see `RunTable.chosen`).

    pool: that of the whole table. A merge that some half of these items cannot teach is left out.
    Raises LLMValidationError validation.pool, data.no_scores, validation.no_text.
    """
    part = table.chosen(which)
    seen = pool if part is table else pool.of_models(part.models)
    rows, left_out = [], []
    for merge in merges:
        try:
            found = compare(part, [merge], pool=seen, samples=2, splits=splits, seed=seed)
        except LLMValidationError as error:
            if not error.code.startswith("fit."):
                raise
            left_out.append(LeftOut(name=table.name, pool=which, strategy=merge.name, reason=error.message))
        else:
            rows.append(_row(found, found.strategies[0], which, part))
    return Gains(rows=tuple(rows), left_out=tuple(left_out), splits=splits, seed=seed)


def together(parts: Sequence[Gains]) -> Gains:
    """Several tables as one."""
    return Gains(
        rows=tuple(row for part in parts for row in part.rows),
        left_out=tuple(row for part in parts for row in part.left_out),
        splits=parts[0].splits if parts else SPLITS,
        seed=parts[0].seed if parts else 0,
    )


def _row(found: Compared, s: Strategy, which: str, part: RunTable) -> Gain:
    best = part.scores[~np.isnan(part.scores).any(axis=1), part.models.index(found.best_single["model"])]
    return Gain(
        name=found.name,
        pool=which,
        source=found.source,
        strategy=s.strategy,
        models=len(found.models),
        items=found.items,
        unit=found.unit,
        best_single=found.best_single["model"],
        delta=s.split_delta,
        low=s.split_low,
        high=s.split_high,
        verdict=s.split_verdict,
        headroom=found.oracle - found.best_single["score"],
        spread=found.spread,
        best_sd=float(best.std()),
        note=_note(s.learned),
    )


def _note(learned: dict[str, Any]) -> str:
    """What a fitted strategy says of its choice."""
    chosen = learned.get("chosen")
    said = [str(learned[name]) for name in ("reason", "warning") if learned.get(name)]
    return ": ".join([str(chosen["policy"]), *said] if isinstance(chosen, dict) else said)


def shown(gain: Gain) -> str:
    """A gain as text: points for 0/1 scores, else the score's own unit."""
    low, high = difference(gain.low, gain.unit), difference(gain.high, gain.unit)
    return f"{difference(gain.delta, gain.unit)} [{low}, {high}]"
