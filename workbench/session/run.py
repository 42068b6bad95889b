"""A finished run, and what can be asked of it without a new call."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from workbench.facts import Merge
from workbench.record.log import Log
from workbench.session.comparison import Comparison
from workbench.study.compare import compare, strategies_of
from workbench.study.table import RunTable, read_table

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """One run of the log: its answers, scores and merges."""

    def __init__(self, log: Log, run_id: str, *, merge: Merge | None = None) -> None:
        self.log = log
        self.run_id = run_id
        self.merge = merge

    @cached_property
    def table(self) -> RunTable:
        """Answers and scores as arrays, read once."""
        return read_table(self.log, self.run_id)

    def compare(self, *strategies: Merge, seed: int = 0) -> Comparison:
        """Every merge against the best single model; the run's own, those given, and the three built-in."""
        extra = [*([self.merge] if self.merge is not None else []), *strategies]
        return Comparison(compare(self.table, strategies_of(self.table, extra), seed=seed))

    def what_if(self, *strategies: Merge, seed: int = 0) -> Comparison:
        """The given merges of the recorded answers against the best single model; no call is made."""
        return Comparison(compare(self.table, strategies, seed=seed))
