"""What an optimizer knows, on its way in and out: files, the log, and runs in several styles."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np

from workbench.decide.evidence import UNCHANGED, Context, Evidence, Pattern, Tell, Telling
from workbench.decide.examples import Shot
from workbench.decide.optimize import check_strategies
from workbench.decide.rewrite import STRATEGIES
from workbench.decide.weights import is_finite
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


@dataclass(frozen=True, slots=True)
class State:
    """What an optimizer knows: the evidence, the history, and by task type what examples are chosen from."""

    evidence: Evidence
    history: tuple[Outcome, ...]
    shots: Mapping[str, Sequence[Shot]]


def write_state(file: str | os.PathLike[str], state: State) -> Path:
    """Write it as JSON; the file is there whole or not at all. Raises LLMValidationError data.file."""
    body = {
        "format": SAVED,
        "told": state.evidence.told,
        "patterns": [asdict(row) for row in state.evidence.rows()],
        "history": [asdict(outcome) for outcome in state.history],
        "examples": {task: [asdict(shot) for shot in shots] for task, shots in state.shots.items()},
    }
    part = None
    try:
        place = Path(file)
        with NamedTemporaryFile(
            "w", encoding="utf-8", dir=place.parent, prefix=f".{place.name}.", delete=False
        ) as kept:
            part = Path(kept.name)
            json.dump(body, kept, ensure_ascii=True)
        part.replace(place)
    except (OSError, ValueError, TypeError) as error:
        if part is not None:
            part.unlink(missing_ok=True)
        raise _bad_file(file, "be written", error) from error
    return place


def read_state(file: str | os.PathLike[str]) -> State:
    """What `write_state` wrote. Raises LLMValidationError data.file, validation.patterns."""
    try:
        body: Any = json.loads(Path(file).read_text("utf-8"))
        if not isinstance(body, dict) or body.get("format") != SAVED:
            raise ValueError(f"it is not of the format {SAVED}")
        told = body["told"]
        if isinstance(told, bool) or not isinstance(told, int) or told < 0:
            raise ValueError(f"told is {told!r:.40}, not a number of tellings")
        evidence = Evidence.of([Pattern(**row) for row in body["patterns"]], told=told)
        history = tuple(_outcome(row) for row in body["history"])
        shots = {str(task): [Shot(**row) for row in rows] for task, rows in body["examples"].items()}
    except LLMValidationError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _bad_file(file, "be read", error) from error
    return State(evidence, history, shots)


def _outcome(row: Mapping[str, Any]) -> Outcome:
    model, task, group = row["context"]
    texts = [row["query"], model, task, group, *row["strategies"]]
    perhaps = [row["item_id"], row["answer"]]
    sound = is_finite(row["quality"]) and 0 <= row["quality"] <= 1 and isinstance(row["strategies"], list)
    if not sound or not all(isinstance(t, str) for t in texts) or not all(isinstance(t, str | None) for t in perhaps):
        raise ValueError(f"the outcome {str(row)[:100]} is none")
    return Outcome(
        query=row["query"],
        strategies=tuple(row["strategies"]),
        context=Context(model, task, group),
        quality=float(row["quality"]),
        item_id=row["item_id"],
        answer=row["answer"],
    )


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


def _bad_file(place: object, what: str, error: Exception) -> LLMValidationError:
    return LLMValidationError(
        f"{str(place)!r:.200} cannot {what}: {error!s:.200}",
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
