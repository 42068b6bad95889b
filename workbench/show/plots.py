"""Figures: one pure function returns the numbers, one draws them.

Values are rounded to six decimals, so that a figure's JSON is the same on every machine. Every caption names the
source of the numbers; error bars say what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.errors import LLMValidationError
from workbench.show.tables import inline
from workbench.study.compare import Compared
from workbench.study.summary import Spent, label, unit_name

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Colour-blind safe (Okabe & Ito 2008).
COLOURS = {"better": "#009E73", "worse": "#D55E00", "cannot tell": "#7F7F7F"}
BLUE, ORANGE = "#0072B2", "#E69F00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A value with its interval and how it is drawn: `group` is the legend entry, `note` the hover text."""

    label: str
    value: float
    low: float
    high: float
    group: str
    note: str = ""


def delta_values(found: Compared) -> list[Mark]:
    """Merges minus the best single model: on all items, and over half splits. Points for 0/1 scores."""
    scale = 100.0 if found.unit == "fraction" else 1.0
    marks = []
    for s in found.strategies:
        marks.append(
            Mark(
                label=label(s),
                value=rounded(s.delta * scale),
                low=rounded(s.ci_low * scale),
                high=rounded(s.ci_high * scale),
                group="all items, 95 % bootstrap",
                note=s.verdict,
            )
        )
        marks.append(
            Mark(
                label=label(s),
                value=rounded(s.split_delta * scale),
                low=rounded(s.split_low * scale),
                high=rounded(s.split_high * scale),
                group="half splits, 2.5-97.5 percentiles",
                note=s.split_verdict,
            )
        )
    return marks


def plot_deltas(found: Any) -> go.Figure:
    """Merges against the best single model as points with error bars; a Comparison or its numbers."""
    numbers = _numbers(found)
    unit = unit_name(numbers.unit)
    figure = _errors(delta_values(numbers), {0: BLUE, 1: ORANGE})
    figure.add_vline(x=0, line_width=1, line_dash="dash", line_color="#444")
    best = numbers.best_single["model"]
    return _finish(
        figure,
        title=f"Merges against the best single model, {best}",
        x=f"difference in {unit} (right of 0: the merge is better)",
        caption=_caption(numbers),
        rows=len(numbers.strategies),
    )


def score_values(found: Compared) -> list[Mark]:
    """Each model alone and each merge, with 95 % bootstrap intervals of the score for the models."""
    models = [
        Mark(
            label=s.model,
            value=rounded(s.score),
            low=rounded(s.ci_low),
            high=rounded(s.ci_high),
            group="model alone, 95 % bootstrap",
            note="" if s.answered is None else f"{s.answered * 100:.1f} % answered",
        )
        for s in found.singles
    ]
    best = found.best_single["score"]
    merges = [
        Mark(
            label=label(s),
            value=rounded(s.score),
            low=rounded(best + s.ci_low),
            high=rounded(best + s.ci_high),
            group="merge, 95 % bootstrap of its difference to the best model",
            note=s.conclusion,
        )
        for s in found.strategies
    ]
    return [*models, *merges]


def plot_scores(found: Any) -> go.Figure:
    """Every model and merge by score; the dotted line is the oracle that always picks the best answer."""
    numbers = _numbers(found)
    figure = _errors(score_values(numbers), {0: BLUE, 1: ORANGE})
    figure.add_vline(
        x=rounded(numbers.oracle), line_width=1, line_dash="dot", line_color="#444", annotation_text="oracle",
        annotation_position="bottom left",
    )  # fmt: skip
    label = "share of items right" if numbers.unit == "fraction" else f"mean score ({numbers.unit})"
    return _finish(
        figure,
        title=f"Models and merges on {numbers.name}",
        x=label,
        caption=_caption(numbers),
        rows=len(numbers.singles) + len(numbers.strategies),
    )


def cost_values(found: Compared, spent: Mapping[str, Spent]) -> list[dict[str, Any]]:
    """Score, total cost and median latency (None where unknown) of the models whose calls tell their cost."""
    return [
        {
            "model": s.model,
            "score": rounded(s.score),
            "cost_usd": rounded(calls.cost_usd),
            "latency_p50_ms": None if calls.latency_p50_ms is None else rounded(calls.latency_p50_ms),
            "source": calls.source,
        }
        for s in found.singles
        if (calls := spent.get(s.model)) is not None and calls.cost_usd is not None and calls.latency_p50_ms is not None
    ]


def plot_cost(found: Any, spent: Mapping[str, Spent]) -> go.Figure:
    """Score against total cost, one point a model, sized by median latency."""
    import plotly.graph_objects as go

    numbers = _numbers(found)
    rows = cost_values(numbers, spent)
    figure = go.Figure(
        go.Scatter(
            x=[r["cost_usd"] for r in rows],
            y=[r["score"] for r in rows],
            mode="markers+text",
            text=[plain(r["model"]) for r in rows],
            textposition="top center",
            marker={"color": BLUE, "size": [max(8, min(40, (r["latency_p50_ms"] or 0) / 25)) for r in rows]},
            hovertext=[
                "latency unknown" if r["latency_p50_ms"] is None else f"{r['latency_p50_ms']:.0f} ms median latency"
                for r in rows
            ],
        )
    )
    figure.update_yaxes(title_text="score", rangemode="tozero")
    sources = "+".join(sorted({str(r["source"]) for r in rows})) or "none"
    figure = _finish(
        figure,
        title="Score against cost; size: median latency",
        x=f"cost of {numbers.items} items in USD",
        caption=f"source: {sources}",
        rows=8,
    )
    return figure.update_layout(margin={"l": 70})


def plain(text: str) -> str:
    """The text without markup or control characters: plotly reads labels as a subset of HTML."""
    return inline(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _errors(marks: Sequence[Mark], colours: Mapping[int, str]) -> go.Figure:
    """One row a label, from the top down; two groups of one label stand a little apart."""
    import plotly.graph_objects as go

    figure = go.Figure()
    labels = list(dict.fromkeys(m.label for m in marks))
    groups = list(dict.fromkeys(m.group for m in marks))
    apart = 0.15 if len(labels) < len(marks) else 0.0
    for k, group in enumerate(groups):
        chosen = [m for m in marks if m.group == group]
        figure.add_trace(
            go.Scatter(
                name=group,
                x=[m.value for m in chosen],
                y=[labels.index(m.label) + (2 * k - 1) * apart for m in chosen],
                mode="markers",
                marker={"color": colours[k], "size": 9, "symbol": ("circle", "diamond")[k]},
                error_x=ends(chosen),
                hovertext=[plain(f"{m.label}: {m.note}") for m in chosen],
                hovertemplate="%{hovertext}<br>%{x}<extra></extra>",
            )
        )
    rows = list(range(len(labels)))
    figure.update_yaxes(
        tickmode="array", tickvals=rows, ticktext=[plain(x) for x in labels], range=[len(labels) - 0.5, -0.5],
        zeroline=False,
    )  # fmt: skip
    return figure


def _finish(figure: go.Figure, *, title: str, x: str, caption: str, rows: int) -> go.Figure:
    figure.update_layout(
        title={"text": f"{plain(title)}<br><sub>{plain(caption)}</sub>", "x": 0, "xanchor": "left"},
        template="plotly_white",
        height=210 + 34 * rows,
        margin={"l": 200, "r": 30, "t": 80, "b": 60},
        legend={
            "orientation": "h",
            "yanchor": "top",
            "y": rounded(-0.12 - 0.9 / (rows + 4)),
            "x": 0,
            "xanchor": "left",
        },
    )
    return figure.update_xaxes(title_text=plain(x))


def _caption(found: Compared) -> str:
    return f"{found.items} items, source: {found.source}, {found.samples} bootstrap samples, seed {found.seed}"


def _numbers(found: Any) -> Compared:
    numbers = found if isinstance(found, Compared) else getattr(found, "found", None)
    if not isinstance(numbers, Compared):
        raise LLMValidationError(
            f"a figure is made of a comparison, not of a {type(found).__name__}",
            code="validation.comparison",
            next_step="pass run.compare() or run.what_if(...)",
        )
    return numbers


def ends(marks: Sequence[Mark]) -> dict[str, Any]:
    """The error bars of marks, from low to high."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [rounded(m.high - m.value) for m in marks],
        "arrayminus": [rounded(m.value - m.low) for m in marks],
    }


def rounded(value: float) -> float:
    """A number as figures keep it: six decimals."""
    return round(float(value), 6)
