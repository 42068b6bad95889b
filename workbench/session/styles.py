"""What prompt styles gain, what learning online gains, and what is left of common claims, as a notebook shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from workbench.decide.choose import CAUTION
from workbench.errors import LLMValidationError
from workbench.show.online import beside_table, late_table, online_table, plot_learning, plot_predicted
from workbench.show.styles import chosen_table, plot_style_gains, promises_table, style_gains_table
from workbench.show.tables import Shown, Table
from workbench.study.found import Found
from workbench.study.online import ORDERS, Online, learn_online
from workbench.study.promises import Promise, promises
from workbench.study.stats import SPLITS
from workbench.study.styles import ChosenGain, StyleGain, chosen_gains, style_gains
from workbench.study.table import RunTable

if TYPE_CHECKING:
    import pandas as pd


class StyleGains:
    """What `Run.style_gains` returns: every prompt style of every model against its base style, paired by item."""

    def __init__(self, table: RunTable, base: str | None = None, *, seed: int = 0) -> None:
        self.found: Found[StyleGain] = style_gains(table, base, seed=seed)
        self._table, self._base = table, base

    def __repr__(self) -> str:
        return style_gains_table(self.found).text()

    def _repr_html_(self) -> str:
        return style_gains_table(self.found).html()

    def __getitem__(self, key: tuple[str, str, str]) -> StyleGain:
        """The row of (model, style, group); the group "all" is that of all items."""
        for row in self.found:
            if (row.model, row.style, row.group) == key:
                return row
        known = "; ".join(sorted({f"{row.model}, {row.style}" for row in self.found}))
        raise KeyError(f"{key!r} is not (model, style, group) of the table, with the models and styles {known}")

    def df(self) -> pd.DataFrame:
        """One row a model, style and group, gains in the score's own unit."""
        return self.found.df()

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: what `workbench styles --json` prints."""
        return asdict(self.found)

    def plot(self) -> Any:
        """The figure (plotly): gains with their intervals, all items above the groups."""
        return plot_style_gains(self.found)

    def chosen(self, *, splits: int = SPLITS, seed: int | None = None) -> ChosenGains:
        """What is left when the style is chosen on one half of the items and judged on the other.

        seed: None: that of the gains. Raises LLMValidationError stats.splits, stats.seed.
        """
        seed = self.found.seed if seed is None else seed
        return ChosenGains(chosen_gains(self._table, self._base, splits=splits, seed=seed))

    def online(
        self,
        *,
        model: str | None = None,
        orders: int = ORDERS,
        caution: float = CAUTION,
        grouped: bool = True,
        seed: int | None = None,
    ) -> OnlineGains:
        """The query optimizer over the recorded answers of one model, one item after another, in random orders.

        model: None where only one has styles. grouped: False hides the groups from it. seed: None: that of the gains.
        Raises LLMValidationError validation.models, validation.score_kind (scores outside [0, 1]), validation.config.
        """
        seed = self.found.seed if seed is None else seed
        made = learn_online(
            self._table, model=model, base=self._base, orders=orders, seed=seed, caution=caution, grouped=grouped
        )
        return OnlineGains(made, self.found.unit)


class ChosenGains:
    """What `StyleGains.chosen` returns: rules that choose a style, judged on other items."""

    def __init__(self, found: Found[ChosenGain]) -> None:
        self.found = found

    def __repr__(self) -> str:
        return chosen_table(self.found).text()

    def _repr_html_(self) -> str:
        return chosen_table(self.found).html()

    def df(self) -> pd.DataFrame:
        """One row a model and rule."""
        return self.found.df()


class OnlineGains:
    """What `StyleGains.online` returns: what learning over the recorded answers gained.

    unit: of the scores: `fraction`, or their kind.
    """

    def __init__(self, found: Online, unit: str) -> None:
        self.found = found
        self.unit = unit

    @property
    def _tables(self) -> tuple[Table, Table]:
        return online_table(self.found, self.unit), late_table(self.found, self.unit)

    def __repr__(self) -> str:
        return "\n\n".join(table.text() for table in self._tables)

    def _repr_html_(self) -> str:
        return "".join(table.html() for table in self._tables)

    def df(self) -> pd.DataFrame:
        """The groups in the second half of the orders, one row each."""
        return self.found.df()

    def beside(self, other: OnlineGains) -> Shown:
        """Another way of learning over the same items, such as `online(grouped=False)`, in one table with this one.

        Raises LLMValidationError validation.comparison.
        """
        if not isinstance(other, OnlineGains):
            raise LLMValidationError(
                f"a {type(other).__name__} cannot be set beside what was learned online",
                code="validation.comparison",
                next_step="pass what run.style_gains().online(grouped=False) gives",
            )
        return Shown(beside_table(self.found, other.found, self.unit))

    def plot(self) -> Any:
        """The learning curve (plotly): mean gain over the items so far."""
        return plot_learning(self.found, self.unit)

    def plot_reliability(self) -> Any:
        """The reliability diagram (plotly): measured against predicted gain in the second half of the orders."""
        return plot_predicted(self.found, self.unit)


class Promises:
    """What `promises_of` returns: gains that rewriting is commonly said to bring, beside recorded answers."""

    def __init__(self, found: Sequence[Promise], *, splits: int, seed: int) -> None:
        self.found = tuple(found)
        self.splits, self.seed = splits, seed

    def __repr__(self) -> str:
        return self._table.text()

    def _repr_html_(self) -> str:
        return self._table.html()

    @property
    def _table(self) -> Table:
        return promises_table(self.found, splits=self.splits, seed=self.seed)

    def df(self) -> pd.DataFrame:
        """One row a claim and model; claimed and gain are fractions of the base's mean score."""
        import pandas as pd

        rows = []
        for row in self.found:
            gain = asdict(row.gain) if row.gain is not None else dict.fromkeys(("value", "low", "high"), float("nan"))
            told = {"gain": gain["value"], "gain_low": gain["low"], "gain_high": gain["high"]}
            rows.append({**asdict(row), **told, "styles": ", ".join(row.styles)})
        return pd.DataFrame(rows)


class Tabled(Protocol):
    """What claims are tested with: a run, whose answers are read as a table."""

    @property
    def table(self) -> RunTable:
        """Answers and scores as arrays."""


def promises_of(runs: Tabled | Sequence[Tabled], *, splits: int = SPLITS, seed: int = 0) -> Promises:
    """The gains that rewriting is commonly said to bring, beside the recorded answers of these runs.

    runs: with prompt styles. Raises LLMValidationError validation.runs, validation.styles, data.no_scores,
    stats.splits, stats.seed.
    """
    given = runs if isinstance(runs, Sequence) else [runs]
    tables = [table for run in given if isinstance(table := getattr(run, "table", None), RunTable)]
    if len(tables) < len(given):
        raise LLMValidationError(
            f"runs are {runs!r:.60}, not a list of runs",
            code="validation.runs",
            next_step="pass runs of recordings with prompt styles, such as [wb.get_run(RUN_ID), ...]",
        )
    return Promises(promises(tables, splits=splits, seed=seed), splits=splits, seed=seed)
