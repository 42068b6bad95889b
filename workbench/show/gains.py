"""The table and the figure of what merging adds, over several runs and pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.errors import LLMValidationError
from workbench.show.plots import BLUE, COLOURS, Mark, ends, plain, rounded
from workbench.show.tables import Table
from workbench.study.gains import Gain, Gains, shown
from workbench.study.summary import difference, unit_name

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLUMNS = ("answers", "pool", "strategy", "gain", "2.5 to 97.5 %", "verdict", "unit", "source")
ROW, GAP, TOP, BOTTOM = 24, 95, 150, 70  # pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pool of one run: its marks, best first, and what their axis counts."""

    title: str
    unit: str
    marks: tuple[Mark, ...]


def gains_table(found: Gains) -> Table:
    """Every strategy minus the best single model chosen on the other half, best first within a pool."""
    rows = []
    method = "the single model, and everything that a strategy learns, come from one half; the other judges"
    notes = [f"Mean and percentiles over {found.splits} random half splits (seed {found.seed}): {method}."]
    for rows_of in _pools(found):
        first = rows_of[0]
        notes.append(
            f"{first.name}, {first.pool}: {first.models} models, {first.items} items, best {first.best_single}; spread "
            f"{_amount(first.spread, first.unit)}, an oracle would gain {_amount(first.headroom, first.unit)}."
        )
        notes += [f"{first.name}, {first.pool}: {row.strategy}: {row.note}." for row in rows_of if row.note]
        rows += [
            (
                row.name, row.pool, row.strategy, difference(row.delta, row.unit),
                shown(row).partition(" ")[2], row.verdict, unit_name(row.unit), row.source,
            )
            for row in rows_of
        ]  # fmt: skip
    notes += [f"{o.name}, {o.pool}: without {o.strategy}: {o.reason}." for o in found.left_out]
    return Table(
        caption="What merging adds: strategy minus the best single model chosen on the other half",
        columns=COLUMNS,
        rows=tuple(rows),
        numeric=frozenset({"gain", "2.5 to 97.5 %"}),
        notes=tuple(notes),
    )


def gains_values(found: Gains) -> list[Panel]:
    """The panels of the figure; points for 0/1 scores, else the score's own unit."""
    panels = []
    for rows in _pools(found):
        first = rows[0]
        scale = 100.0 if first.unit == "fraction" else 1.0
        marks = tuple(
            Mark(
                label=row.strategy,
                value=rounded(row.delta * scale),
                low=rounded(row.low * scale),
                high=rounded(row.high * scale),
                group=row.verdict,
                note=row.note,
            )
            for row in rows
        )
        title = f"{first.name} · {first.pool} · {first.models} models · {first.items} items · {first.source}"
        panels.append(Panel(title=title, unit=unit_name(first.unit), marks=marks))
    return panels


def plot_gains(gains: Any) -> go.Figure:
    """A panel for each pool: gains with their percentiles, coloured by what they say; the line is the single model."""
    from plotly.subplots import make_subplots

    found = _numbers(gains)
    panels = gains_values(found)
    heights = [ROW * (len(panel.marks) + 1) for panel in panels]
    drawn = sum(heights) + GAP * (len(panels) - 1) or 1
    figure = make_subplots(
        rows=max(1, len(panels)),
        cols=1,
        subplot_titles=[plain(panel.title) for panel in panels],
        row_heights=heights or None,
        vertical_spacing=GAP / drawn if len(panels) > 1 else 0.0,
    )
    told: set[str] = set()
    for at, panel in enumerate(panels, start=1):
        _draw(figure, panel, at, told)
    splits = f"{found.splits} half splits, error bars 2.5 to 97.5 percentiles; the dashed line is the best single model"
    made: go.Figure = figure.update_layout(
        title={
            "text": f"What merging adds<br><sub>{splits}</sub>",
            "x": 0,
            "xanchor": "left",
            "y": 1 - 30 / (drawn + TOP),
        },
        template="plotly_white",
        height=drawn + TOP + BOTTOM,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1 + 40 / drawn, "xanchor": "left", "x": 0},
        margin={"l": 170, "r": 30, "t": TOP, "b": BOTTOM},
    )
    return made


def _draw(figure: go.Figure, panel: Panel, at: int, told: set[str]) -> None:
    """One panel; told: the verdicts that stand in the legend already."""
    import plotly.graph_objects as go

    for verdict, colour in COLOURS.items():
        marks = [mark for mark in panel.marks if mark.group == verdict]
        if not marks:
            continue
        figure.add_trace(
            go.Scatter(
                x=[m.value for m in marks],
                y=[m.label for m in marks],
                error_x={**ends(marks), "thickness": 1.5},
                mode="markers",
                marker={"color": colour, "size": 9},
                name=verdict,
                legendgroup=verdict,
                showlegend=verdict not in told,
                hovertext=[plain(m.note) for m in marks],
            ),
            row=at,
            col=1,
        )
        told.add(verdict)
    figure.add_vline(x=0, line_width=1, line_dash="dash", line_color=BLUE, row=at, col=1)
    reached = [end for mark in panel.marks for end in (mark.low, mark.high)] + [0.0]
    least, most = min(reached), max(reached)
    edge = 0.04 * (most - least) or 1.0
    labels = [mark.label for mark in reversed(panel.marks)]
    figure.update_yaxes(categoryorder="array", categoryarray=labels, row=at, col=1)
    figure.update_xaxes(title_text=f"gain in {plain(panel.unit)}", range=[least - edge, most + edge], row=at, col=1)


def _numbers(gains: Any) -> Gains:
    found = gains if isinstance(gains, Gains) else getattr(gains, "found", None)
    if not isinstance(found, Gains):
        raise LLMValidationError(
            f"this figure is made of gains, not of a {type(gains).__name__}",
            code="validation.comparison",
            next_step="pass what wb.gains(...) gives",
        )
    return found


def _pools(found: Gains) -> list[list[Gain]]:
    """The rows of each run and pool, best first."""
    pools: dict[tuple[str, str], list[Gain]] = {}
    for row in found.rows:
        pools.setdefault((row.name, row.pool), []).append(row)
    return [sorted(rows, key=lambda row: (-row.delta, row.strategy)) for rows in pools.values()]


def _amount(value: float, unit: str) -> str:
    return f"{value * 100:.1f} points" if unit == "fraction" else f"{value:.3f} {unit}"
