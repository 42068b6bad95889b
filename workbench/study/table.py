"""A run's answers and scores as arrays, read from the log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from workbench.canonical import clean_text
from workbench.decide.answers import normalise
from workbench.decide.evidence import group_of
from workbench.decide.learn import worth_of_nothing
from workbench.decide.pool import Pool
from workbench.decide.votes import Ballots
from workbench.errors import LLMValidationError
from workbench.facts import Failure, ModelContribution, Response, Status
from workbench.study.suite import SOURCE, TEXT_SCORERS, scorer_of

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]


class Reader(Protocol):
    """What study needs of the log: rows of a query over a snapshot."""

    def rows(self, sql: str, params: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows of the query."""

    def records(self, sql: str, params: Sequence[Any] | None = None) -> list[dict[str, Any]]:
        """Rows of the query as mappings."""

    def frame(self, sql: str, params: Sequence[Any] | None = None) -> pd.DataFrame:
        """The query's result as a frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTable:
    """One run: N items x M models, models in sorted order.

    scores: what a comparison uses: the suite's text metric, or the workbench's own extraction where the kind of score
    allows, else the recorded scores; NaN where unknown. source_scores: as the recording gives them; NaN where it gives
    none. reference: normalised gold answers, None where there is none. references: all of an item, as they stand in
    the suite, for a metric. failures: (item, model) indices of members that did not respond -> failure code.
    ballots: None where nothing was asked. groups: the category of each item.
    """

    run_id: str
    name: str
    source: str
    spec: Mapping[str, Any]
    status: str
    models: tuple[str, ...]
    item_ids: tuple[str, ...]
    tasks: tuple[str, ...]
    reference: tuple[str | None, ...]
    scores: Floats
    source_scores: Floats
    ballots: Ballots | None
    groups: tuple[str, ...] = ()
    references: tuple[tuple[str, ...], ...] = ()
    failures: Mapping[tuple[int, int], str] = field(default_factory=dict, repr=False)

    @property
    def score_kind(self) -> str:
        """What a score is, in its source's words."""
        return str(self.spec.get("score_kind", "correct"))

    @property
    def extracted(self) -> bool:
        """Whether scores come from comparing extracted answers."""
        return self.metric is None and bool(self.spec.get("extracted", True))

    @property
    def metric(self) -> str | None:
        """The text metric that scores come from, if they do."""
        return self.spec.get("metric")

    @property
    def scorer(self) -> str:
        """What the log calls these scores."""
        return scorer_of(self.metric, extracted=self.extracted)

    @property
    def nothing(self) -> float:
        """What an item without a winner scores: 0 by a metric or within [0, 1], else the worst score seen."""
        return 0.0 if self.metric is not None else worth_of_nothing(self.scores)

    @property
    def unit(self) -> str:
        """`fraction` for 0/1 scores, else the score's own unit."""
        if self.metric is not None:  # also where all happen to be 0 or 1
            return self.score_kind
        known = self.scores[~np.isnan(self.scores)]
        return "fraction" if np.isin(known, (0.0, 1.0)).all() else self.score_kind

    def scored(self) -> NDArray[np.intp]:
        """The items with a score for every model. Raises LLMValidationError data.no_scores for fewer than two."""
        rows = np.flatnonzero(~np.isnan(self.scores).any(axis=1))
        if len(rows) < 2:
            raise self._no_scores(f"{len(rows)} of {len(self.scores)} items with a score for every model")
        return rows

    def values(self) -> Floats:
        """Score of every answer of every item (see Ballots.values); NaN where an item has no reference to tell."""
        if self.ballots is None:
            raise self._no_text()
        if not self.extracted:
            return self.ballots.values(self.scores)
        told = np.array([gold is not None for gold in self.reference], dtype=bool)
        return np.where(told[:, None], self.ballots.values(self.scores, self.reference), np.nan)

    def worth_of_new(self, index: int, answer: str) -> float:
        """Score of an answer to one item that no member gave, by the metric of the run; without one, that of nothing.

        answer: normalised, which is all that is known of it here: what it lost in case and marks counts against it.
        """
        references = self.references[index] if self.references else ()
        return TEXT_SCORERS[self.metric](answer, references) if self.metric is not None and references else self.nothing

    def pool(self) -> Pool:
        """What a strategy sees of the run: no scores, no references, and no texts (see `read_pool`).

        No quality either: it is estimated from the scores of other items, and among them are those that judge.
        """
        if self.ballots is None:
            raise self._no_text()
        unrated = replace(self.ballots, quality=np.full_like(self.ballots.quality, np.nan))
        return Pool.of(unrated, groups=self.groups or None)

    def of_models(self, models: Sequence[str]) -> RunTable:
        """The table of some of its models, as if no other had been asked.

        Raises LLMValidationError validation.models.
        """
        asked = Ballots.of(self.models, []) if self.ballots is None else self.ballots
        part = asked.of_models(models)
        place = [self.models.index(name) for name in part.models]
        new = {old: j for j, old in enumerate(place)}
        return replace(
            self,
            models=part.models,
            scores=self.scores[:, place],
            source_scores=self.source_scores[:, place],
            ballots=None if self.ballots is None else part,
            failures={(i, new[j]): code for (i, j), code in self.failures.items() if j in new},
        )

    def closest(self, k: int) -> tuple[str, ...]:
        """The k models whose scores lie closest together, best first. Raises LLMValidationError data.no_scores."""
        ranked = self.top(len(self.models))
        mean = dict(zip(self.models, self._means(), strict=True))
        at = min(range(len(ranked) - k + 1), key=lambda i: float(mean[ranked[i]] - mean[ranked[i + k - 1]]))
        return ranked[at : at + k]

    def top(self, k: int) -> tuple[str, ...]:
        """The k models with the best scores, best first; equals by name. Raises LLMValidationError data.no_scores."""
        mean = self._means()
        return tuple(
            self.models[j] for j in sorted(range(len(self.models)), key=lambda j: (-mean[j], self.models[j]))[:k]
        )

    def chosen(self, pool: str) -> RunTable:
        """The table of a pool told in words: "all", "top:K" or "closest:K", by the scores of all items.

        Raises LLMValidationError validation.pool, data.no_scores.
        """
        kind, _, count = pool.partition(":") if isinstance(pool, str) else ("", "", "")
        if pool == "all":
            return self
        # The length first: Python refuses to read thousands of digits.
        if kind in ("top", "closest") and count.isdecimal() and len(count) < 10 and 2 <= int(count) <= len(self.models):
            return self.of_models(self.top(int(count)) if kind == "top" else self.closest(int(count)))
        raise LLMValidationError(
            f"pool {pool!r:.80} is none of {self.name} with its {len(self.models)} models",
            code="validation.pool",
            next_step=f"use all, top:K or closest:K with K from 2 to {len(self.models)}",
        )

    def _means(self) -> Floats:
        """Mean of the scores that each model has."""
        without = np.flatnonzero(np.isnan(self.scores).all(axis=0)).tolist()
        if without:
            raise self._no_scores(f"no score of {', '.join(self.models[j] for j in without)}"[:200])
        return np.asarray(np.nanmean(self.scores, axis=0))

    def _no_scores(self, found: str) -> LLMValidationError:
        return LLMValidationError(
            f"run {self.run_id} has {found}",
            code="data.no_scores",
            next_step="choose models that were scored on the same items, or see warn_without_labels(pool)",
        )

    def _no_text(self) -> LLMValidationError:
        return LLMValidationError(
            f"run {self.run_id} keeps scores but no text, so nothing can be merged",
            code="validation.no_text",
            next_step="compare single models, or run a recording that keeps the responses",
        )


def read_pool(reader: Reader, table: RunTable) -> Pool:
    """The table's pool with the text of each answer, and cost and latency of each response."""
    pool = table.pool()
    place = {item: i for i, item in enumerate(table.item_ids)}
    column = {model: j for j, model in enumerate(pool.models)}
    texts: list[list[str | None]] = [[None] * len(column) for _ in place]
    cost, latency = pool.cost_usd.copy(), pool.latency_ms.copy()
    rows = reader.rows(
        "select c.item_id, c.member, t.text, c.cost_usd, c.latency_ms from calls c "
        "left join texts t on t.hash = c.response_hash where c.run_id = ? and c.ok order by c.start_unix_ns, c.span_id",
        [table.run_id],
    )
    for item_id, member, text, usd, ms in rows:
        if item_id in place and member in column:
            i, j = place[item_id], column[member]
            texts[i][j] = text if pool.ballots.codes[i, j] >= 0 else None
            cost[i, j], latency[i, j] = (np.nan if x is None else x for x in (usd, ms))
    return Pool.of(pool.ballots, texts=texts, groups=pool.groups, cost_usd=cost, latency_ms=latency)


def find_run(reader: Reader, run_id: str | None) -> dict[str, Any]:
    """The run's row; the newest run that is no report when `run_id` is None or "latest".

    Raises LLMValidationError run.unknown, which lists the newest runs; for what is no text as well.
    """
    newest = "select * from runs where source <> 'report' order by start_unix_ns desc, run_id desc limit 5"
    if run_id in (None, "latest"):
        found = reader.records(newest)
    elif isinstance(run_id, str) and clean_text(run_id) == run_id:
        found = reader.records("select * from runs where run_id = ?", [run_id])
    else:
        found = []
    if not found:
        names = [r["run_id"] for r in reader.records(newest)]
        raise LLMValidationError(
            f"no run {run_id!r:.200} in the log; the newest are {', '.join(names)}"
            if names
            else "the log has no run yet",
            code="run.unknown",
            next_step="make one with `workbench run NAME`, or name one of those listed",
        )
    return found[0]


def read_table(reader: Reader, run_id: str | None) -> RunTable:
    """The run's table. Raises LLMValidationError run.unknown or run.unfinished."""
    run = find_run(reader, run_id)
    run_id = str(run["run_id"])
    if run["status"] != "finished":
        raise LLMValidationError(
            f"run {run_id} is {run['status']}, so its numbers would be of a part only",
            code="run.unfinished",
            next_step=f"workbench resume {run_id}, then compare it"[:160],
        )
    models = tuple(sorted(json.loads(run["models"])))
    items = reader.rows(
        "select item_id, task, reference, metadata->>'answer_kind', "
        "coalesce(metadata->>'group', metadata->>'category'), metadata->>'references' from items where run_id = ? "
        "order by position",
        [run_id],
    )
    place = {row[0]: i for i, row in enumerate(items)}
    column = {m: j for j, m in enumerate(models)}
    spec = json.loads(run["spec"])
    metric = spec.get("metric")
    scorer = scorer_of(metric, extracted=spec.get("extracted", True))
    own, source = _scores(reader, run_id, place, column, scorer)
    ballots: Ballots | None = None
    failures: dict[tuple[int, int], str] = {}
    if not spec.get("scores_only"):
        ballots, failures = _ballots(reader, run_id, models, place, column)
    return RunTable(
        run_id=run_id,
        name=str(run["name"]),
        source=_source(reader, run),
        spec=spec,
        status=str(run["status"]),
        models=models,
        item_ids=tuple(row[0] for row in items),
        tasks=tuple(row[1] for row in items),
        reference=tuple(None if ref is None else normalise(ref, kind) for _, _, ref, kind, *_ in items),
        scores=source if scorer == SOURCE else own,
        source_scores=source,
        ballots=ballots,
        groups=tuple(group_of(row[0], row[4]) for row in items),
        references=() if metric is None else tuple(_references(row[2], row[5]) for row in items),
        failures=failures,
    )


def _references(reference: str | None, further: str | None) -> tuple[str, ...]:
    """All references of an item; further: JSON."""
    return () if reference is None else (reference, *json.loads(further or "[]"))


def _source(reader: Reader, run: Mapping[str, Any]) -> str:
    """Where the answers came from, as they say themselves; what the plan said where nothing was answered."""
    told = reader.rows("select distinct source from calls where run_id = ? and ok order by 1", [run["run_id"]])
    return "+".join(str(source) for (source,) in told) or str(run["source"])


def _scores(
    reader: Reader, run_id: str, place: Mapping[str, int], column: Mapping[str, int], scorer: str
) -> tuple[Floats, Floats]:
    """The scores of this scorer, and those of the recording."""
    own = np.full((len(place), len(column)), np.nan)
    source = own.copy()
    target = {scorer: own, SOURCE: source}
    rows = reader.rows("select item_id, model, scorer, value from scores where run_id = ?", [run_id])
    for item_id, model, name, value in rows:
        if model in column and name in target:
            target[name][place[item_id], column[model]] = value
    return own, source


def _ballots(
    reader: Reader, run_id: str, models: Sequence[str], place: Mapping[str, int], column: Mapping[str, int]
) -> tuple[Ballots, dict[tuple[int, int], str]]:
    answers: list[list[str | None]] = [[None] * len(models) for _ in place]
    quality = np.full((len(place), len(models)), np.nan)
    failed = np.ones((len(place), len(models)), dtype=bool)
    failures: dict[tuple[int, int], str] = {}
    rows = reader.rows(
        "select item_id, model, answer, quality, status, failure_code from contributions where run_id = ?", [run_id]
    )
    for item_id, model, answer, rated, status, code in rows:
        i, j = place[item_id], column[model]
        answers[i][j] = answer
        quality[i, j] = np.nan if rated is None else rated
        failed[i, j] = status in ("failed", "late")
        if code is not None:
            failures[i, j] = code
    return Ballots.of(models, answers, quality=quality, failed=failed), failures


def contribution(
    model: str, answer: str | None, quality: float | None, weight: float, status: Status, failure_code: str | None
) -> ModelContribution:
    """A contribution as the log keeps it; the text, which takes no part in a merge, is not read back."""
    responded = failure_code is None and status not in ("failed", "late")
    return ModelContribution(
        model=model,
        answer=answer,
        quality=quality,
        weight=weight,
        status=status,
        failure=None if failure_code is None else Failure(kind="", code=failure_code, message=""),
        response=Response(request_key="", model=model, text="", source="recorded") if responded else None,
    )
