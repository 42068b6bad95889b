"""Runs of models in several prompt styles, with scores chosen by the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench.study.table import RunTable


def styled_run(
    scores: Mapping[tuple[str, str], Sequence[float]],
    *,
    groups: Sequence[str] = (),
    tasks: Sequence[str] | None = None,
    score_kind: str = "correct",
) -> RunTable:
    """scores: (model, style) -> one score an item; the member of it is called MODEL/STYLE."""
    names = sorted(f"{model}/{style}" for model, style in scores)
    column = {f"{model}/{style}": np.asarray(values, dtype=float) for (model, style), values in scores.items()}
    matrix = np.column_stack([column[name] for name in names])
    members: list[dict[str, Any]] = [
        {"name": f"{model}/{style}", "model": f"recorded:{model}", "style": style, "recorded_as": model}
        for model, style in scores
    ]
    return RunTable(
        run_id="r",
        name="tiny",
        source="recorded",
        spec={"score_kind": score_kind, "extracted": False, "scores_only": True, "members": members},
        status="finished",
        models=tuple(names),
        item_ids=tuple(f"i-{k}" for k in range(len(matrix))),
        tasks=tuple(tasks or ["reasoning"] * len(matrix)),
        reference=(None,) * len(matrix),
        scores=matrix,
        source_scores=matrix,
        ballots=None,
        groups=tuple(groups),
    )
