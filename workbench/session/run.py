"""A run, and what can be asked of it without a new call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from workbench.decide.policies import as_merge
from workbench.decide.pool import Learner, Pool, Strategy
from workbench.errors import LLMValidationError
from workbench.facts import Merge
from workbench.record.log import Log
from workbench.session.comparison import Comparison
from workbench.show.results import models_table
from workbench.show.tables import Table
from workbench.study.compare import compare, strategies_of
from workbench.study.replay import Drift, drift
from workbench.study.resume import Resumed
from workbench.study.stats import SPLITS, check_splits
from workbench.study.summary import Spent, spent
from workbench.study.table import RunTable, read_pool, read_table
from workbench.study.tune import FittedWeights, Objective, fit_weights

if TYPE_CHECKING:
    import pandas as pd

    from workbench.session.styles import StyleGains

M = TypeVar("M", bound=Merge)


class Run:
    """One run of the log: its answers, scores and merges. Reading it makes no call.

    resumed: what was asked for and what was in the log already, where this object comes from `Workbench.resume`.
    """

    def __init__(self, log: Log, run_id: str, *, merge: Merge | None = None, resumed: Resumed | None = None) -> None:
        self.log = log
        self.run_id = run_id
        self.merge = merge
        self.resumed = resumed

    @cached_property
    def table(self) -> RunTable:
        """Answers and scores as arrays, read once."""
        return read_table(self.log, self.run_id)

    @cached_property
    def spent(self) -> dict[str, Spent]:
        """Calls, latency and cost by model."""
        return spent(self.log, self.run_id)

    @cached_property
    def _table(self) -> Table:
        table = self._numbers
        return table if self.resumed is None else replace(table, notes=(*table.notes, str(self.resumed)))

    @cached_property
    def _numbers(self) -> Table:
        try:
            return models_table(compare(self.table, []), self.spent)
        except LLMValidationError as error:  # unfinished, or nothing to compare: the run still shows itself
            columns = ("model", "calls", "failed", "source")
            rows = tuple((s.model, str(s.calls), str(s.failed), s.source) for s in self.spent.values())
            return Table(caption=error.message, columns=columns, rows=rows, notes=(f"next: {error.next_step}",))

    def __repr__(self) -> str:
        return f"Run {self.run_id}\n{self._table.text()}"

    def _repr_html_(self) -> str:
        return self._table.html()

    def df(self) -> pd.DataFrame:
        """One row an item and model: answer, quality, status, score, latency_ms, cost_usd, source."""
        # A failed call has no response to name its source, and a merge no call: the model's kind and the run do.
        return self.log.frame(
            "select i.position, i.item_id, i.task, s.model, c.answer, c.quality, c.status, s.value as score, "
            "s.scorer, k.latency_ms, k.cost_usd, coalesce(k.source, "
            "case k.provider when 'simulated' then 'simulated' when 'recorded' then 'recorded' else r.source end) "
            "as source from scores s join runs r on r.run_id = s.run_id "
            "join items i on i.run_id = s.run_id and i.item_id = s.item_id "
            "left join contributions c on c.run_id = s.run_id and c.item_id = s.item_id and c.model = s.model "
            # A run that went on after an interruption has called some of its models twice for an item.
            "left join (from calls where run_id = ? qualify row_number() over (partition by item_id, member "
            "order by ok desc, start_unix_ns desc, span_id) = 1) k on k.item_id = s.item_id and k.member = s.model "
            "where s.run_id = ? and s.scorer = ? order by i.position, s.model",
            [self.run_id, self.run_id, self.table.scorer],
        )

    @cached_property
    def pool(self) -> Pool:
        """What strategies see of the run: answers, texts, costs and latencies, and no scores."""
        return read_pool(self.log, self.table)

    def fit(self, merge: M, *, models: Sequence[str] | None = None) -> M:
        """The merge with what it learns from all items of the run, ready to be used elsewhere.

        Judge it by `compare`, which fits it on other items. Raises LLMValidationError fit.items, fit.values,
        validation.models; validation.strategy for a merge that has nothing to learn.
        """
        if not isinstance(merge, Learner):
            raise LLMValidationError(
                f"{getattr(merge, 'name', merge)!s:.60} has nothing to learn",
                code="validation.strategy",
                next_step="use it as it is, or fit one of auto, log_odds, stacking and the others that learn",
            )
        table, pool = self._part(models)
        return merge.fit(pool, table.values())

    def fit_weights(
        self,
        *,
        objective: Objective = "accuracy",
        models: Sequence[str] | None = None,
        splits: int = SPLITS,
        seed: int = 0,
    ) -> FittedWeights:
        """Weights for weighted_consensus, with the gain that they have on items they were not fitted on.

        objective: "accuracy", "cost", "latency", or prices of accuracy, cost_usd and latency_ms (study/tune.py).
        """
        check_splits(splits)
        table, pool = self._part(models)
        return fit_weights(table, pool, objective=objective, splits=splits, seed=seed)

    def _part(self, models: Sequence[str] | None) -> tuple[RunTable, Pool]:
        if models is None:
            return self.table, self.pool
        return self.table.of_models(models), self.pool.of_models(models)

    def compare(self, *strategies: Merge | str, models: Sequence[str] | None = None, seed: int = 0) -> Comparison:
        """Every merge against the best single model: the run's own, those given, and the three built-in ones.

        models: compare as if only these had been asked. What learns is fitted on other items than it is judged on, also
        where it comes fitted.
        """
        wanted = [as_merge(s) for s in strategies]
        own = [self.merge] if self.merge is not None and models is None else []
        table = self.table if models is None else self.table.of_models(models)
        return self._compared(strategies_of(table, [*own, *wanted]), models, seed, given=bool(strategies))

    def what_if(self, *strategies: Merge | str, models: Sequence[str] | None = None, seed: int = 0) -> Comparison:
        """The given merges of the recorded answers against the best single model; no call is made.

        models: compare as if only these had been asked.
        """
        return self._compared([as_merge(s) for s in strategies], models, seed, given=bool(strategies))

    def _compared(self, merges: Sequence[Merge], models: Sequence[str] | None, seed: int, *, given: bool) -> Comparison:
        if given:
            self.table.values()  # refuses a run without text
        table = self.table if models is None else self.table.of_models(models)
        pool = self._part(models)[1] if any(isinstance(m, Strategy) for m in merges) else None
        return Comparison(compare(table, merges, pool=pool, seed=seed))

    def style_gains(self, base: str | None = None, *, seed: int = 0) -> StyleGains:
        """Every prompt style of every model against its base style, paired by item, on all items and in each group.

        base: the style to compare with; None: `unchanged`, `default` or `direct`, which a model has, else its first.
        Raises LLMValidationError validation.styles, data.no_scores.
        """
        from workbench.session.styles import StyleGains

        return StyleGains(self.table, base, seed=seed)

    def replay(self, *policies: Merge) -> Drift:
        """Decide every merge and read every answer again from the log; `.drifts` is 0 when all agree.

        policies: the caller's own merges, for a run that was merged by one.
        """
        own = [self.merge] if self.merge is not None else []
        return drift(self.log, self.run_id, [*own, *policies])
