"""The tables of a run and of a comparison."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.show.tables import Table, without_blank
from workbench.study.compare import Compared, Single
from workbench.study.summary import Spent, difference, explain, interval, label, number, source_line, unit_name

STRATEGIES = ("strategy", "score", "delta", "95 % interval", "verdict", "split delta", "split interval",
              "split verdict", "better on", "worse on", "tied")  # fmt: skip
MODELS = ("model", "score", "95 % interval", "minus best", "answered", "source score", "agreement",
          "latency p50 ms", "latency p95 ms", "cost USD", "calls", "failed", "source")  # fmt: skip


def strategies_table(found: Compared, *, words: bool = True) -> Table:
    """Merges against the best single model, with both verdicts, and the words below."""
    unit = found.unit
    rows = [
        (
            label(s), number(s.score, unit), difference(s.delta, unit),
            interval(s.ci_low, s.ci_high, unit), s.verdict, difference(s.split_delta, unit),
            interval(s.split_low, s.split_high, unit), s.split_verdict, str(s.gained), str(s.lost),
            f"{s.tied * 100:.0f} %",
        )
        for s in found.strategies
    ]  # fmt: skip
    best = found.best_single
    caption = (
        f"{found.name}: {found.items} items, {len(found.models)} models, source {found.source}. "
        f"Best single model {best['model']} {number(best['score'], unit)}. Deltas in {unit_name(unit)}."
    )
    notes = (
        *(explain(found) if words else ()),
        f"{found.samples} paired bootstrap samples, {found.splits} half splits.",
    )
    return Table(
        caption=caption, columns=STRATEGIES, rows=tuple(rows), numeric=frozenset(STRATEGIES) - {"strategy", "verdict",
        "split verdict"}, notes=notes,
    )  # fmt: skip


def models_table(found: Compared, spent: Mapping[str, Spent]) -> Table:
    """Each model alone: score with interval, agreement with the source, latency and cost."""
    unit = found.unit
    rows = []
    for s in found.singles:
        calls = spent.get(s.model)
        rows.append(
            (
                s.model, number(s.score, unit), f"[{number(s.ci_low, unit)}, {number(s.ci_high, unit)}]",
                difference(s.delta, unit), _share(s.answered),
                _source_score(s, unit), _share(s.source_agreement),
                _optional(calls.latency_p50_ms if calls else None, ".0f"),
                _optional(calls.latency_p95_ms if calls else None, ".0f"),
                _optional(calls.cost_usd if calls else None, ".4f"),
                str(calls.calls if calls else 0), str(calls.failed if calls else 0),
                calls.source if calls else found.source,
            )
        )  # fmt: skip
    line = source_line(found.singles)
    table = Table(
        caption=f"{found.name}: each model alone on {found.items} items ({found.score_kind})",
        columns=MODELS,
        rows=tuple(rows),
        numeric=frozenset(MODELS) - {"model", "source"},
        notes=(line,) if line else (),
    )
    return without_blank(table)


def _source_score(s: Single, unit: str) -> str:
    return "-" if s.source_score is None or s.source_agreement is None else number(s.source_score, unit)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.1f} %"


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
