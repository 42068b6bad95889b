"""What an optimizer knows, on its way in and out: files, the log, and runs in several styles."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.decide.evidence import UNCHANGED, Context, Evidence, Pattern, Tell, Telling
from workbench.decide.optimize import check_strategies
from workbench.decide.rewrite import STRATEGIES
from workbench.errors import LLMValidationError
from workbench.session.later import LaterLog
from workbench.study.online import check_qualities
from workbench.study.styles import styled
from workbench.study.table import RunTable

SAVED = "workbench.optimizer/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a query: one entry of the history. answer: of the model, where it was told."""

    query: str
    strategies: tuple[str, ...]
    context: Context
    quality: float
    item_id: str | None = None
    answer: str | None = None


def write_state(file: str | os.PathLike[str], evidence: Evidence, history: Sequence[Outcome]) -> Path:
    """Write both as JSON; the file is there whole or not at all. Raises LLMValidationError data.file."""
    place = Path(file)
    body = {
        "format": SAVED,
        "told": evidence.told,
        "patterns": [asdict(row) for row in evidence.rows()],
        "history": [asdict(outcome) for outcome in history],
    }
    part = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(body, ensure_ascii=True), "utf-8")
        part.replace(place)
    except OSError as error:
        raise _bad_file(place, "be written", error) from error
    return place


def read_state(file: str | os.PathLike[str]) -> tuple[Evidence, list[Outcome]]:
    """What `write_state` wrote. Raises LLMValidationError data.file, validation.patterns."""
    place = Path(file)
    try:
        body: Any = json.loads(place.read_text("utf-8"))
        if not isinstance(body, dict) or body.get("format") != SAVED:
            raise ValueError(f"it is not of the format {SAVED}")
        evidence = Evidence.of([Pattern(**row) for row in body["patterns"]], told=int(body["told"]))
        history = [
            Outcome(**{**row, "strategies": tuple(row["strategies"]), "context": Context(*row["context"])})
            for row in body["history"]
        ]
    except LLMValidationError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _bad_file(place, "be read", error) from error
    return evidence, history


def told_in(log: LaterLog) -> Iterator[Telling]:
    """Everything that optimizers told a log, by time."""
    rows = log.open().rows(
        "select inputs->'telling' from decisions where kind = 'learn' and policy = ? "
        "and output->>'error' is null order by cast(inputs->'telling'->>3 as bigint), span_id",
        [Tell.name],
    )
    for (text,) in rows:
        context, strategy, quality, at = json.loads(text)
        yield Telling(Context(*context), strategy, quality, at)


def _bad_file(place: Path, what: str, error: Exception) -> LLMValidationError:
    return LLMValidationError(
        f"{place} cannot {what}: {error!s:.200}",
        code="data.file",
        next_step="give a file that `save` can write or has written",
    )


def tellings_of(
    table: object, styles: Mapping[str, str], model: str | None, resolve: Callable[[str], str]
) -> list[tuple[str, Telling]]:
    """What a run in several styles tells an optimizer: item ids and tellings, item by item in the order of the run.

    styles: style -> strategy. model: the name to learn it under. Raises as `QueryOptimizer.learn_from`.
    """
    if not isinstance(table, RunTable):
        raise LLMValidationError(
            f"a {type(table).__name__} is no run",
            code="validation.runs",
            next_step="pass a run in several styles, such as wb.run(..., rewrites=[...]) gives",
        )
    models = styled(table)
    if model is not None and len(models) > 1:
        raise LLMValidationError(
            f"model={model!r:.60} was given for a run of {', '.join(m.name for m in models)}",
            code="validation.models",
            next_step="leave model out, or give a run of one model",
        )
    made: list[tuple[int, str, Telling]] = []
    for found in models:
        strategies = {style: styles.get(style, style) for style in found.styles}
        used = {found.base: UNCHANGED, **{style: name for style, name in strategies.items() if name in STRATEGIES}}
        if unknown := [name for style, name in strategies.items() if style in styles and name not in STRATEGIES]:
            check_strategies(unknown)
        if len(used) == 1:
            raise LLMValidationError(
                f"none of the styles {', '.join(found.styles)} of {found.name} is a strategy",
                code="validation.styles",
                next_step='say which are, such as styles={"cot": "step_by_step"}',
            )
        scores = np.column_stack([found.scores[style] for style in used])
        check_qualities(table, scores)
        name = resolve(found.name if model is None else model)
        for i, row in zip(found.rows.tolist(), scores.tolist(), strict=True):
            context = Context(name, table.tasks[i], table.groups[i] if table.groups else "")
            told = zip(used.values(), row, strict=True)
            made += [(i, table.item_ids[i], Telling(context, strategy, score)) for strategy, score in told]
    return [(item_id, telling) for _, item_id, telling in sorted(made, key=lambda entry: entry[0])]
