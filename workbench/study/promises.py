"""Gains that rewriting is commonly said to bring, beside what recorded answers show.

A claim is about a relative gain in quality: "+25 % on question answering". It is set beside the relative gain of the
styles that were recorded for the same task type, where the style is chosen on one half of the items and the gain is
measured on the other, so that the best of several styles is not praised for its luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from workbench.study.found import Rows, check_given
from workbench.study.stats import SPLITS, check_splits, drawn_by, half_splits
from workbench.study.styles import Styled, has_styles, styled
from workbench.study.table import Floats, RunTable
from workbench.study.timings import Estimate

Said = Literal["confirmed", "refuted", "cannot tell", "not testable"]
# Relative gains, as they are commonly promised of rewriting prompts.
CLAIMS = MappingProxyType(
    {"summarization": 0.15, "translation": 0.20, "question_answering": 0.25, "code_generation": 0.30}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A claimed relative gain, and what one recording shows of one model; without one, why nothing can be said.

    claimed, gain: fractions of the base style's mean score. gain: mean and 2.5 / 97.5 percentiles over half splits.
    verdict: `confirmed` when the whole interval is at or above the claim, `refuted` when it is below; simulated answers
    test nothing.
    """

    task: str
    claimed: float
    verdict: Said
    reason: str
    gain: Estimate | None = None
    name: str = ""
    model: str = ""
    base: str = ""
    styles: tuple[str, ...] = ()
    items: int = 0
    source: str = ""


def promises(tables: Sequence[RunTable], *, splits: int = SPLITS, seed: int = 0) -> tuple[Promise, ...]:
    """Every claim beside the recorded answers to prompts of that task type in several styles, in the order of CLAIMS.

    tables: of runs, such as `run.table`; one without prompt styles says nothing of any claim. For each claim and table
    there is first a row of all models together, each in the style that was best for it, then one of each model.
    Raises LLMValidationError data.no_scores, stats.splits.
    """
    check_splits(splits)
    drawn_by(seed)
    for table in tables:
        check_given(table)
    found: list[Promise] = []
    seen = ", ".join(sorted({f"{t.name} ({'+'.join(sorted(set(t.tasks)))})" for t in tables})) or "none"
    for task, claimed in CLAIMS.items():
        rows = [row for table in tables for row in _tested(task, claimed, table, splits=splits, seed=seed)]
        missing = f"no answers to {task} prompts in several styles among: {seen}"
        found += rows or [Promise(task=task, claimed=claimed, verdict="not testable", reason=missing)]
    return tuple(found)


def _tested(task: str, claimed: float, table: RunTable, *, splits: int, seed: int) -> list[Promise]:
    known = styled(table) if has_styles(table) else ()
    models = [part for model in known if task in table.tasks and len((part := _on_task(table, model, task)).rows) > 1]
    common = [i for i in range(len(table.item_ids)) if all(i in model.rows for model in models)]
    pools = [[_at(model, np.array(common, dtype=np.intp)) for model in models]] if len(models) > 1 < len(common) else []
    rows = []
    for pool in [*pools, *([model] for model in models)]:
        gains = _relative([np.column_stack(list(model.scores.values())) for model in pool], splits=splits, seed=seed)
        told, gain, why = _verdict(claimed, gains)
        if any(model.name.startswith("simulated:") for model in pool):
            told, why = "not testable", "simulated models do not read prompts: what a style gains is declared"
        rows.append(
            Promise(
                task=task,
                claimed=claimed,
                verdict=told,
                gain=gain,
                name=table.name,
                model=pool[0].name if len(pool) == 1 else f"all {len(pool)} models",
                base="+".join(sorted({model.base for model in pool})),
                styles=tuple(dict.fromkeys(style for model in pool for style in model.styles)),
                items=len(pool[0].rows),
                source=table.source,
                reason=why,
            )
        )
    return rows


def _verdict(claimed: float, gains: Floats | None) -> tuple[Said, Estimate | None, str]:
    if gains is None:
        return (
            "not testable",
            None,
            "on a half of the items the base scores 0 or less, and a share of that means nothing",
        )
    low, high = np.percentile(gains, [2.5, 97.5])
    gain = Estimate(value=float(gains.mean()), low=float(low), high=float(high))
    said: Said = "confirmed" if gain.low >= claimed else "refuted" if gain.high < claimed else "cannot tell"
    return said, gain, "the style that is best on one half of the items, judged on the other"


def _on_task(table: RunTable, model: Styled, task: str) -> Styled:
    return _at(model, np.array([i for i in model.rows.tolist() if table.tasks[i] == task], dtype=np.intp))


def _at(model: Styled, rows: Rows) -> Styled:
    """The model on some of its items."""
    at = np.searchsorted(model.rows, rows)
    return replace(model, rows=rows, scores={style: scores[at] for style, scores in model.scores.items()})


def _relative(models: Sequence[Floats], *, splits: int, seed: int) -> Floats | None:
    """Gain over the base, as a share of the base's score, on the judging half, of each model's best style.

    models: N x styles each, the base first, all of the same items; their gains and base scores are added up. None where
    the base scores nothing on a half.
    """
    found = np.empty(splits)
    for k, choose in enumerate(half_splits(len(models[0]), splits=splits, seed=seed)):
        judged = [scores[~choose].mean(axis=0) for scores in models]
        best = [1 + int(scores[choose, 1:].mean(axis=0).argmax()) for scores in models]
        base = sum(float(mean[0]) for mean in judged)
        if base <= 0:
            return None
        found[k] = sum(float(mean[j]) for mean, j in zip(judged, best, strict=True)) / base - 1
    return found
