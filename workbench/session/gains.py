"""What merging adds over several runs and pools, as a notebook shows it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from workbench.decide.policies import POLICIES, as_merge
from workbench.errors import LLMValidationError
from workbench.facts import Merge
from workbench.record.log import Log
from workbench.session.places import recordings, suites
from workbench.session.run import Run
from workbench.show.gains import gains_table, plot_gains
from workbench.study import gains as study
from workbench.study.run import Plan
from workbench.study.stats import SPLITS

if TYPE_CHECKING:
    import pandas as pd

# One merges objects field by field, the other answers a part of the items: these are other questions.
LONGEST = 9  # digits of the size of a pool
DEFAULT = tuple(name for name in POLICIES if name not in ("field_wise", "selective"))


class Gains:
    """What `Workbench.gains` returns: every strategy that applies, against the best single model."""

    def __init__(self, found: study.Gains) -> None:
        self.found = found

    def __repr__(self) -> str:
        return gains_table(self.found).text()

    def _repr_html_(self) -> str:
        return gains_table(self.found).html()

    def __getitem__(self, key: tuple[str, str, str]) -> study.Gain:
        """The row of (answers, pool, strategy)."""
        return self.found[key]

    def plot(self) -> Any:
        """The figure (plotly): a panel for each pool."""
        return plot_gains(self.found)

    def df(self) -> pd.DataFrame:
        """One row a strategy and pool."""
        return self.found.df()

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: what `workbench gains --json` prints."""
        return self.found.as_dict()


def gains_over(
    runs: Sequence[Run],
    pools: Sequence[str],
    strategies: Sequence[Merge | str] | None,
    *,
    splits: int = SPLITS,
    seed: int = 0,
    told: Callable[[str], None] = lambda _: None,
) -> Gains:
    """The gains of strategies (None: all that are built in and answer every item) on pools of runs.

    A pool that a run has too few models for is left out of that run, but for "all". told: is given a line before each.
    """
    merges = merges_of(strategies)
    parts = []
    for run in runs:
        for which in pools_of(pools):
            size = which.partition(":")[2][:LONGEST]
            if size.isdecimal() and int(size) >= len(run.table.models):
                continue
            told(f"{run.table.name}, {which}: {len(merges)} strategies over {splits} half splits ...")
            parts.append(study.gains_of(run.table, run.pool, merges, which=which, splits=splits, seed=seed))
    return Gains(study.together(parts))


def merges_of(strategies: Sequence[Merge | str] | None) -> list[Merge]:
    """The policies asked for, the default ones for None. Raises LLMValidationError validation.strategy."""
    given = DEFAULT if strategies is None else [strategies] if isinstance(strategies, str) else strategies
    if not isinstance(given, Sequence):
        raise LLMValidationError(
            f"strategies are {given!r:.60}, not a list",
            code="validation.strategy",
            next_step="pass names or policies in a list, such as ['majority_voting', Stacking()]",
        )
    return [as_merge(s) for s in given]


def pools_of(pools: Sequence[str]) -> Sequence[str]:
    """The pools asked for, as a list of texts. Raises LLMValidationError validation.pool."""
    given = [pools] if isinstance(pools, str) else pools
    if not isinstance(given, Sequence) or not all(isinstance(which, str) for which in given):
        raise LLMValidationError(
            f"pools are {pools!r:.60}, not a list of texts",
            code="validation.pool",
            next_step="pass a list such as ['all', 'top:3', 'closest:5']",
        )
    return given


class Asks(Protocol):
    """What is needed of a Workbench to find a run, or to make it."""

    log: Log

    def recordings(self) -> Sequence[Mapping[str, Any]]:
        """The imported recordings."""

    def import_file(self, file: Path) -> object:
        """Import a recording."""

    def plan(self, name: str) -> Plan:
        """What a run of all its models would do."""

    async def run(self, name: str) -> Run:
        """Make the run."""


async def finished_run(wb: Asks, name: str) -> Run:
    """The newest finished run of all models of a recording or suite; made where there is none."""
    known = {r["recording"] for r in wb.recordings()} | {*suites()}
    if isinstance(name, str) and name not in known:
        # By the names of what is there: not every text may be a part of a path.
        for file in recordings().glob("*.parquet"):
            if file.stem == name:
                wb.import_file(file)
    wanted = sorted(member.name for member in wb.plan(name).members)
    rows = wb.log.rows(
        "select run_id, models from runs where name = ? and status = 'finished' and source <> 'report' "
        "order by start_unix_ns desc, run_id desc",
        [name],
    )
    found = next((str(run_id) for run_id, models in rows if sorted(json.loads(models)) == wanted), None)
    return await wb.run(name) if found is None else Run(wb.log, found)
