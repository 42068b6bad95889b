"""Figures of what models add, where they err together, when a vote pays and whether confidence holds.

Numbers first, drawing second: each function of values is pure, and the drawing adds nothing. 0/1 scores are shown in
points (hundredths). Colours are colour-blind safe, and what a colour says a symbol or a number says too, for print.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isnan
from textwrap import wrap
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.errors import LLMValidationError
from workbench.show.latency import framed
from workbench.show.plots import BLUE, COLOURS, ORANGE, Mark, ends, plain, rounded
from workbench.show.tables import Shown, Table, inline
from workbench.study.found import (
    ConfidenceBin,
    Found,
    GroupRow,
    ModelValue,
    Pair,
    SpreadBin,
    SubPool,
    matrix_of,
    spread_bins,
)
from workbench.study.stats import verdict
from workbench.study.summary import difference, interval, number, unit_name
from workbench.study.timings import Estimate

if TYPE_CHECKING:
    import plotly.graph_objects as go

Row = TypeVar("Row")
SYMBOLS = {"better": "triangle-up", "worse": "triangle-down", "cannot tell": "circle-open"}
PALE, WARM = "#7DB8DD", "#F2A45C"  # light enough for black numbers
DIVERGING = [[0.0, PALE], [0.5, "#FFFFFF"], [1.0, WARM]]
SEQUENTIAL = [[0.0, "#FFFFFF"], [1.0, PALE]]
AXES = {"quality": "share of the<br>vote's score ({})", "cost_usd": "share of the cost<br>(USD per 1000 items)",
        "latency_ms": "share of the time until<br>the last answer (ms)"}  # fmt: skip
GROUPS = ("category", "items", "strategy", "score", "delta", "95 % interval", "p", "p (Holm)", "verdict")
LONGEST = 40  # characters of a name beside an axis
TITLE, SMALL = 74, 96  # characters of a line of title and of caption, so that a notebook's cell of 650 pixels holds it
TOOLBAR, LINE = 46, 22  # pixels: from the upper edge to the baseline of the title, below plotly's buttons; to the next


# -- pairs


def pair_values(found: Found[Pair]) -> list[list[float | None]]:
    """The values of all pairs as rows of a square, in the order of the models; None on the diagonal and where NaN."""
    _, matrix = matrix_of(found)
    return [[None if isnan(x) else rounded(x) for x in row] for row in matrix.tolist()]


def plot_pairs(found: Found[Pair]) -> go.Figure:
    """A heat map of error correlation or of agreement; columns carry the numbers of the rows, the best model first."""
    import plotly.graph_objects as go

    pairs = _rows(found, Pair)
    models, _ = matrix_of(found)
    values = pair_values(found)
    errors = found.about["relation"] == "error correlation"
    numbers = [str(k) for k in range(1, len(models) + 1)]
    names = [f"{_short(name)}  {k}" for name, k in zip(models, numbers, strict=True)]
    told = {frozenset((p.first, p.second)): _about_pair(p, errors) for p in pairs}
    most = max([0.2, *(abs(x) for row in values for x in row if x is not None)])
    figure = go.Figure(
        go.Heatmap(
            z=values, x=numbers, y=names, zmin=-most if errors else 0, zmax=most,
            colorscale=DIVERGING if errors else SEQUENTIAL, xgap=1, ygap=1, texttemplate="%{text}",
            textfont={"color": "#000"},
            text=[["" if x is None else f"{round(x, 2) + 0.0:.2f}".replace("-", "−") for x in row] for row in values],
            hovertext=[[told.get(frozenset((a, b)), "") for b in models] for a in models],
            hovertemplate="%{hovertext}<extra></extra>", hoverongaps=False,
            colorbar={"title": {"text": "phi" if errors else "share", "side": "top"}, "thickness": 14, "len": 0.9},
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    figure.update_xaxes(side="top", type="category", showgrid=False)
    what = (
        "Phi correlation of the errors of two models" if errors else "Share of items on which two models say the same"
    )
    figure = _named(
        figure, models, found, title=f"{what}: {found.name}", body=60 + 30 * len(models),
        more="; columns: models by number, the best score first; grey: no value",
    )  # fmt: skip
    return figure.update_layout(
        width=max(760, _left(models) + 130 + 46 * len(models)), margin={"b": 20}, plot_bgcolor="#E5E5E5"
    )


def _about_pair(p: Pair, errors: bool) -> str:
    e = p.value
    told = "no value" if isnan(e.value) else f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"
    counts = (
        f"both wrong on {p.both}, only the first on {p.first_only}, only the second on {p.second_only}"
        if errors
        else f"the same answer on {p.both}"
    )
    return f"{plain(p.first)}<br>{plain(p.second)}<br>{told} on {p.items} items<br>{counts}"


# -- values


def value_marks(found: Found[ModelValue]) -> dict[str, list[Mark]]:
    """Shapley and leave-one-out values by measure: points or score, US dollars per 1000 items, milliseconds."""
    factors = {"quality": scale(found.unit), "cost_usd": 1e3, "latency_ms": 1.0}
    made: dict[str, list[Mark]] = {}
    for row in found:
        for group, e in (("Shapley value", row.shapley), ("leave one out", row.leave_one_out)):
            one = mark(row.model, e, factors[row.measure], group=f"{group}, 95 % bootstrap", note=group)
            made.setdefault(row.measure, []).append(one)
    return made


def plot_values(found: Found[ModelValue]) -> go.Figure:
    """What each model adds to the vote, one panel a measure: Shapley values as bars, leave-one-out as diamonds."""
    from plotly.subplots import make_subplots

    _rows(found, ModelValue)
    measures = value_marks(found)
    figure = make_subplots(cols=len(measures), shared_yaxes=True, horizontal_spacing=0.04)
    for col, (measure, marks) in enumerate(measures.items(), 1):
        for trace in _bars(marks, legend=col == 1):
            figure.add_trace(trace, row=1, col=col)
        figure.update_xaxes(
            title_text=AXES[measure].format(plain(unit_name(found.unit))), zeroline=True, zerolinecolor="#444", col=col
        )
    models = list(dict.fromkeys(row.model for row in found))
    figure.update_yaxes(
        tickmode="array", tickvals=list(range(len(models))), ticktext=[_short(m) for m in models],
        range=[len(models) - 0.5, -0.5], zeroline=False, showgrid=False,
    )  # fmt: skip
    title = f"What each of {len(models)} models adds to their plain vote: {found.name}"
    nothing = found.about["nothing"]
    more = f"; a vote of nobody is worth {nothing:g}" if nothing else ""
    return _named(figure, models, found, title=title, body=160 + 34 * len(models), more=more)


def _bars(marks: Sequence[Mark], *, legend: bool) -> list[Any]:
    import plotly.graph_objects as go

    whole, last = ([m for m in marks if m.group == g] for g in dict.fromkeys(m.group for m in marks))
    places = list(range(len(whole)))
    bars = go.Bar(
        name=whole[0].group, orientation="h", x=[m.value for m in whole], y=places, width=0.62, showlegend=legend,
        marker={"color": "#9ECAE1", "line": {"color": BLUE, "width": 1}},
        error_x={**ends(whole), "color": BLUE, "thickness": 1.5}, hovertemplate="%{x}<extra>%{fullData.name}</extra>",
    )  # fmt: skip
    points = go.Scatter(
        name=last[0].group, mode="markers", x=[m.value for m in last], y=places, showlegend=legend,
        marker={"color": ORANGE, "symbol": "diamond", "size": 8, "line": {"color": "#444", "width": 1}},
        error_x={**ends(last), "color": "#444", "thickness": 1}, hovertemplate="%{x}<extra>%{fullData.name}</extra>",
    )  # fmt: skip
    return [bars, points]


# -- spread and gain


def spread_marks(found: Found[SubPool]) -> list[Mark]:
    """Gain of the vote in each sub-pool, in points or score; the label is its spread, the group what can be told."""
    factor = scale(found.unit)
    return [
        mark(
            str(rounded(p.spread * factor)),
            p.gain,
            factor,
            group=verdict(p.gain.low, p.gain.high),
            note=" + ".join(p.models),
        )
        for p in found
    ]


def plot_spread(found: Found[SubPool]) -> go.Figure:
    """Gain of the vote over the best member against the spread of all members; steps: the mean of each bin."""
    import plotly.graph_objects as go

    pools, factor, unit = _rows(found, SubPool), scale(found.unit), unit_name(found.unit)
    marks = spread_marks(found)
    figure = go.Figure()
    widest = max(p.spread for p in pools)
    _steps(figure, [b for b in spread_bins(found) if b.pools], factor, widest)
    for group, symbol in SYMBOLS.items():
        chosen = [m for m in marks if m.group == group]
        points = go.Scatter(
            name=f"vote {group}" if group != "cannot tell" else group, mode="markers",
            x=[float(m.label) for m in chosen], y=[m.value for m in chosen],
            marker={"color": COLOURS[group], "symbol": symbol, "size": 7},
            error_y={**ends(chosen), "color": COLOURS[group], "thickness": 0.5, "width": 0},
            hovertext=[plain(m.note) for m in chosen],
            hovertemplate="%{hovertext}<br>spread %{x}, gain %{y}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(points)
    figure.add_hline(y=0, line_width=1, line_dash="dash", line_color="#444")
    figure.update_xaxes(
        title_text=plain(f"best less worst member ({unit})"), range=[0, rounded(widest * factor * 1.03 or 1.0)]
    )
    low, high = min(m.low for m in marks), max(0.0, *(m.high for m in marks))
    room = 0.05 * (high - low) or 1.0
    figure.update_yaxes(
        title_text=plain(f"vote less best member ({unit})"), range=[rounded(low - room), rounded(high + room)]
    )
    size, possible = found.about["size"], found.about["possible"]
    some = f"all {possible}" if possible == len(pools) else f"{len(pools)} of {possible}"
    title = f"When a vote of {size} beats the best of them: {some} sub-pools of {found.name}"
    return titled(figure, title, caption(found) + "; bars: 95 %", body=420, left=80, above=70)


def _steps(figure: go.Figure, bins: Sequence[SpreadBin], factor: float, widest: float) -> None:
    import plotly.graph_objects as go

    x: list[float | None] = []
    y: list[float | None] = []
    for b in bins:
        ends = [rounded(b.low * factor), rounded(min(b.high, widest) * factor)]
        x += [*ends, None]
        y += [rounded(b.mean_gain * factor)] * 2 + [None]
        figure.add_annotation(
            x=rounded(sum(ends) / 2), y=1, yref="paper", yanchor="bottom", showarrow=False, font={"size": 11},
            text=f"{round(b.won * b.pools)} of {b.pools}<br>win",
        )  # fmt: skip
    for before, _ in pairwise(bins):
        figure.add_vline(x=rounded(before.high * factor), line_width=1, line_dash="dot", line_color="#AAA")
    figure.add_trace(
        go.Scatter(name="mean of the bin", mode="lines", x=x, y=y, line={"color": "#000", "width": 3}, hoverinfo="skip")
    )


# -- confidence


def reliability_marks(found: Found[ConfidenceBin]) -> list[Mark]:
    """Share of right answers of each bin with Wilson's interval; the label is the mean confidence."""
    return [mark(str(rounded(b.confidence)), b.right, 1.0, group="95 % Wilson", note=f"{b.items} items") for b in found]


def plot_reliability(found: Found[ConfidenceBin]) -> go.Figure:
    """Share of right answers against confidence, above the number of items of each bin; on the diagonal they agree."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    bins = _rows(found, ConfidenceBin)
    marks = reliability_marks(found)
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.75, 0.25], vertical_spacing=0.05)
    diagonal = go.Scatter(
        name="confidence that holds",
        mode="lines",
        x=[0, 1],
        y=[0, 1],
        line={"color": "#444", "dash": "dash", "width": 1},
    )
    shares = go.Scatter(
        name="share right, 95 % Wilson", mode="markers+lines", x=[float(m.label) for m in marks],
        y=[m.value for m in marks], marker={"color": BLUE, "size": 9}, line={"color": BLUE, "width": 1},
        error_y={**ends(marks), "color": BLUE}, hovertext=[m.note for m in marks],
        hovertemplate="confidence %{x:.2f}: %{y:.3f} right, %{hovertext}<extra></extra>",
    )  # fmt: skip
    counts = go.Bar(
        name="items", x=[rounded((b.low + b.high) / 2) for b in bins], y=[b.items for b in bins], showlegend=False,
        width=[rounded((b.high - b.low) * 0.9) for b in bins], marker={"color": "#BDBDBD"},
        text=[b.items for b in bins], textposition="outside", cliponaxis=False,
        hovertemplate="%{y} items<extra></extra>",
    )  # fmt: skip
    figure.add_trace(diagonal, row=1, col=1)
    figure.add_trace(shares, row=1, col=1)
    figure.add_trace(counts, row=2, col=1)
    figure.update_xaxes(range=[0, 1.02], dtick=0.1)
    figure.update_xaxes(title_text="confidence", row=2)
    figure.update_yaxes(title_text="share of items right", range=[0, 1.02], dtick=0.2, row=1)
    figure.update_yaxes(title_text="items", rangemode="tozero", row=2)
    about = f"{caption(found)}; expected calibration error {found.about['expected_calibration_error']:.3f}"
    title = f"Confidence of {found.about['strategy']}: {found.name}"
    return titled(figure, title, about, body=510, left=70).update_layout(width=680)


# -- categories


def groups_table(found: Found[GroupRow], *, models: bool = False) -> Shown:
    """Merges category by category against the best single model of all items.

    models: the single models as well; they are shown, too, where there is no merge.
    """
    every = _rows(found, GroupRow)
    rows = [row for row in every if models or row.kind == "merge"] or every
    unit, best = found.unit, found.about["best_single"]
    table = Table(
        caption=f"{found.name}: {len({r.group for r in rows})} categories, {caption(found)}. "
        f"Deltas to {best} in {unit_name(unit)}.",
        columns=GROUPS,
        rows=tuple(
            (
                r.group or "(none)", str(r.items), r.strategy, number(r.score, unit), difference(r.delta.value, unit),
                "-" if isnan(r.delta.low) else interval(r.delta.low, r.delta.high, unit),
                f"{r.p_value:.4f}", f"{r.p_holm:.4f}", r.verdict,
            )
            for r in rows
        ),
        numeric=frozenset(GROUPS) - {"category", "strategy", "verdict"},
        notes=(
            ("p: sign-flip test of no difference; p (Holm): corrected over the categories, strategy by strategy; "
            f"the verdict is by it. The best single model is that of all {found.items} items."),
        ),
    )  # fmt: skip
    return Shown(table)


# -- what they share


def mark(label: str, e: Estimate, factor: float, *, group: str, note: str) -> Mark:
    """An estimate as a figure shows it: times the factor."""
    return Mark(
        label=label,
        value=rounded(e.value * factor),
        low=rounded(e.low * factor),
        high=rounded(e.high * factor),
        group=group,
        note=note,
    )


def scale(unit: str) -> float:
    """What a number is multiplied by: fractions are shown in points, others in their own unit."""
    return 100.0 if unit == "fraction" else 1.0


def _short(name: str) -> str:
    """A name that fits beside an axis, its middle left out where it is long."""
    half = (LONGEST - 1) // 2
    return plain(name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}")


def _left(models: Sequence[str]) -> int:
    return 40 + 7 * min(max(len(m) for m in models) + 3, LONGEST)


def _named(
    figure: go.Figure, models: Sequence[str], found: Found[Any], *, title: str, body: int, more: str = ""
) -> go.Figure:
    return titled(figure, title, caption(found) + more, body=body, left=_left(models))


def titled(figure: go.Figure, title: str, about: str, *, body: int, left: int, above: int = 42) -> go.Figure:
    """The figure with its title and what it rests on below plotly's buttons, on as many lines as 650 pixels need.

    body: height of the axes and what is below them; above: from the last line to the axes; both in pixels.
    """
    lines = [plain(line) for line in wrap(inline(title), TITLE, break_on_hyphens=False)]
    lines += [f"<sub>{plain(line)}</sub>" for line in wrap(inline(about), SMALL, break_on_hyphens=False)]
    top = TOOLBAR + LINE * (len(lines) - 1) + above
    figure = framed(figure, title, about, height=top + body, left=left)
    head = {"text": "<br>".join(lines), "y": rounded(1 - TOOLBAR / (top + body)), "yanchor": "top"}
    return figure.update_layout(title=head, margin={"t": top, "b": 110})


def caption(found: Found[Any]) -> str:
    """What numbers rest on: items, source, and how they were drawn."""
    dropped = f" ({found.items_dropped} left out)" if found.items_dropped else ""
    drawn = f", {found.samples} samples, seed {found.seed}" if found.samples else ""
    return f"{found.items} items{dropped}, source: {found.source}{drawn}"


def _rows(found: Found[Row], kind: type[Row]) -> tuple[Row, ...]:
    """The rows of a result; refuses other results, and one without rows."""
    if not isinstance(found, Found) or not found.rows or not all(isinstance(row, kind) for row in found.rows):
        raise LLMValidationError(
            f"this figure is made of rows of {kind.__name__}, found {type(found).__name__} without them",
            code="validation.understanding",
            next_step="pass what the function of study/understand.py returned",
        )
    return found.rows
