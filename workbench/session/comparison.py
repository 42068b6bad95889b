"""A comparison as a notebook shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.show.results import strategies_table
from workbench.show.tables import Shown, Words
from workbench.study.compare import Compared, Strategy
from workbench.study.summary import explain, label

if TYPE_CHECKING:
    import pandas as pd


class Comparison:
    """What `Run.compare` and `Run.what_if` return: merges against the best single model."""

    def __init__(self, found: Compared) -> None:
        self.found = found

    def __repr__(self) -> str:
        return strategies_table(self.found).text()

    def _repr_html_(self) -> str:
        return strategies_table(self.found).html()

    def __getitem__(self, strategy: str) -> Strategy:
        for s in self.found.strategies:
            if strategy in (s.strategy, label(s)):
                return s
        raise KeyError(f"{strategy!r} is not among {', '.join(label(s) for s in self.found.strategies) or 'no merges'}")

    @property
    def words(self) -> Words:
        """The comparison in sentences."""
        return Words(tuple(explain(self.found)))

    @property
    def numbers(self) -> Shown:
        """The table without the sentences."""
        return Shown(strategies_table(self.found, words=False))

    def df(self) -> pd.DataFrame:
        """One row a strategy and one a single model (`kind`), deltas in the score's own unit."""
        import pandas as pd

        merges = [{"kind": "merge", **s} for s in self.as_dict()["strategies"]]
        singles = [
            {
                "kind": "single",
                "strategy": s.model,
                "score": s.score,
                "delta": s.delta,
                "ci_low": s.delta_low,
                "ci_high": s.delta_high,
                "verdict": s.verdict,
            }
            for s in self.found.singles
        ]
        return pd.DataFrame([*merges, *singles]).assign(source=self.found.source)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: what `workbench compare --json` prints."""
        return self.found.as_dict()
