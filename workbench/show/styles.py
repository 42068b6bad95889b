"""Tables of what prompt styles gain, and of what rewriting is said to gain, and the figure of the gains.

Numbers first, drawing second: `style_values` is pure, and the drawing adds nothing. A verdict has a colour and a
marker, for print.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.errors import LLMValidationError
from workbench.show.plots import COLOURS, Mark, ends, plain, rounded
from workbench.show.tables import Table, without_blank
from workbench.show.understanding import SYMBOLS, caption, mark, scale, titled
from workbench.study.found import Found
from workbench.study.promises import Promise
from workbench.study.stats import verdict
from workbench.study.styles import ChosenGain, StyleGain
from workbench.study.summary import difference, interval, number, unit_name

if TYPE_CHECKING:
    import plotly.graph_objects as go

Row = TypeVar("Row")
COLUMNS = ("model", "style", "group", "items", "score", "gain", "verdict", "95 % interval", "p", "p (Holm)")
CHOSEN = ("model", "rule", "gain", "2.5 to 97.5 %", "verdict", "share of the items by style")
PROMISED = ("claim for", "claimed", "verdict", "why", "measured", "2.5 to 97.5 %", "models", "items", "recording",
            "source", "styles tried")  # fmt: skip
TESTS = {"mcnemar": "McNemar's exact test", "sign_flip": "the sign-flip test"}
# Recordings whose styles are no ways of wording a prompt.
OTHER_STYLES = {"classeval": "ways of generating a class, not instructions"}
ROW, GAP, BOTTOM = 24, 58, 130  # pixels: a mark, between panels, axis title and legend
LONGEST = 52  # characters of a name beside an axis


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCount:
    """In how many groups a style of a model is better or worse at 5 %, before and after Holm's correction."""

    model: str
    base: str
    style: str
    groups: int
    better: int
    worse: int
    better_holm: int
    worse_holm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """One panel: its marks from the top down; grouped: the first mark is of all items, the others are of groups."""

    title: str
    unit: str
    grouped: bool
    marks: tuple[Mark, ...]


def count_groups(found: Found[StyleGain]) -> tuple[GroupCount, ...]:
    """The counts of every model and style that has groups."""
    return tuple(
        GroupCount(
            model=whole.model,
            base=whole.base,
            style=whole.style,
            groups=len(groups),
            better=sum(row.p_value <= 0.05 and row.gain.value > 0 for row in groups),
            worse=sum(row.p_value <= 0.05 and row.gain.value < 0 for row in groups),
            better_holm=sum(row.verdict == "better" for row in groups),
            worse_holm=sum(row.verdict == "worse" for row in groups),
        )
        for whole, *groups in _pairs(found)
        if groups
    )


def style_gains_table(gains: Any) -> Table:
    """Every style of every model on all items, and under it its groups, the largest gain first.

    A model, and its only style, that every row would repeat stand in the caption.
    """
    found = _found(gains, StyleGain)
    unit, pairs = found.unit, _pairs(found)
    tests = " or ".join(TESTS[test] for test in TESTS if any(row.test == test for row in found))
    family = " and over ".join(
        [f"the {len(pairs)} rows of all items"] * (len(pairs) > 1)
        + ["the groups of each model and style"] * any(len(pair) > 1 for pair in pairs)
    )
    counts = (
        f"{c.model}, {c.base} → {c.style}: of {c.groups} groups {c.better} better and {c.worse} worse by p; "
        f"{c.better_holm} better and {c.worse_holm} worse by p (Holm)."
        for c in count_groups(found)
    )
    rows = [_told(row, unit, whole=at == 0) for pair in pairs for at, row in enumerate(pair)]
    same = 2 if len(pairs) == 1 else int(len({row.model for row in found}) == 1)
    about = ", ".join(["prompt styles against the base style", *rows[0][:same], caption(found)])
    return Table(
        caption=f"{found.name}: {about}. Gains in {unit_name(unit)}.",
        columns=COLUMNS[same:],
        rows=tuple(row[same:] for row in rows),
        numeric=frozenset({"items", "gain", "95 % interval", "p", "p (Holm)"}),
        notes=(
            "Score: mean of the base → mean of the style, on the items scored in every style. Bootstrap intervals.",
            f"p: {tests}. p (Holm): corrected over {family}; the verdict is by it, at 5 %.",
            *counts,
        ),
    )


def _told(row: StyleGain, unit: str, *, whole: bool) -> tuple[str, ...]:
    return (
        row.model, f"{row.base} → {row.style}", "all items" if whole else row.group or "(none)", str(row.items),
        f"{number(row.base_score, unit)} → {number(row.score, unit)}", difference(row.gain.value, unit),
        row.verdict, "-" if isnan(row.gain.low) else interval(row.gain.low, row.gain.high, unit),
        _p(row.p_value), _p(row.p_holm),
    )  # fmt: skip


def chosen_table(gains: Any) -> Table:
    """What is left of the gain where the style is chosen on one half of the items and judged on the other."""
    found = _found(gains, ChosenGain)
    unit = found.unit
    return Table(
        caption=f"{found.name}: what is left when the style is chosen on other items, {found.items} items, source: "
        f"{found.source}. Gains in {unit_name(unit)}.",
        columns=CHOSEN,
        rows=tuple(
            (
                row.model, row.rule, difference(row.gain.value, unit), interval(row.gain.low, row.gain.high, unit),
                verdict(row.gain.low, row.gain.high),
                ", ".join(f"{style} {share * 100:.0f} %" for style, share in row.chosen),
            )
            for row in found
        ),
        numeric=frozenset({"gain", "2.5 to 97.5 %"}),
        notes=(
            (f"Chosen minus base on the judging half, mean and percentiles over {found.samples} half splits (seed "
            f"{found.seed}); the verdict is by the percentiles. Base unless sure: another style only where the 95 % "
            "interval of its gain lies above 0 on the choosing half."),
        ),
    )  # fmt: skip


# -- the figure


def style_values(found: Found[StyleGain]) -> list[Forest]:
    """The panels: all models and styles, where there are several or no groups; then the groups of each.

    Gains in points for 0/1 scores, else in the score's own unit; a mark's group is its verdict.
    """
    pairs, unit, factor = _pairs(found), unit_name(found.unit), scale(found.unit)
    grouped = [pair for pair in pairs if len(pair) > 1]
    panels = []
    if len(pairs) > 1 or not grouped:
        bases = {whole.base for whole, *_ in pairs}
        labels = [f"{w.model}: {w.style if len(bases) == 1 else f'{w.base} → {w.style}'}" for w, *_ in pairs]
        marks = tuple(_marked(label, pair[0], factor) for label, pair in zip(labels, pairs, strict=True))
        title = f"all items, against {bases.pop()}" if len(bases) == 1 else "all items"
        panels.append(Forest(title=title, unit=unit, grouped=False, marks=marks))
    for whole, *groups in grouped:
        named = [("all items", whole), *((row.group or "(none)", row) for row in groups)]
        panels.append(
            Forest(
                title=f"{whole.model}: {whole.style} against {whole.base}",
                unit=unit,
                grouped=True,
                marks=tuple(_marked(label, row, factor) for label, row in named),
            )
        )
    return panels


def _marked(label: str, row: StyleGain, factor: float) -> Mark:
    note = f"{row.items} items, {row.base_score:.4f} → {row.score:.4f}, p {_p(row.p_value)}, Holm {_p(row.p_holm)}"
    return mark(label, row.gain, factor, group=row.verdict, note=note)


def plot_style_gains(gains: Any) -> go.Figure:
    """Gains with their intervals from the top down, all items first; a panel for each model and style with groups."""
    from plotly.subplots import make_subplots

    found = _found(gains, StyleGain)
    panels = style_values(found)
    heights = [ROW * (len(panel.marks) + 1) for panel in panels]
    drawn = sum(heights) + GAP * (len(panels) - 1)
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes="all",
        subplot_titles=[f"<b>{plain(panel.title)}</b>" for panel in panels],
        row_heights=heights,
        vertical_spacing=GAP / drawn if len(panels) > 1 else 0.0,
    )
    labels = [m.label for panel in panels for m in panel.marks]
    left = 30 + 7 * min(max(map(len, labels)), LONGEST)
    figure.update_annotations(x=0, xanchor="left", xshift=10 - left, font={"size": 13})
    seen: set[str] = set()
    for at, panel in enumerate(panels, start=1):
        _draw(figure, panel, at, seen)
    reached = [x for panel in panels for m in panel.marks for x in (m.value, m.low, m.high) if not isnan(x)] + [0.0]
    edge = 0.03 * (max(reached) - min(reached)) or 1.0
    figure.update_xaxes(
        range=[rounded(min(reached) - edge), rounded(max(reached) + edge)], zeroline=False, showticklabels=True
    )
    figure.update_xaxes(
        title_text=f"gain over the base style in {plain(panels[0].unit)}<br>(right of 0: the style is better)",
        row=len(panels),
    )
    about = f"{caption(found)}; bars: 95 % bootstrap over items; colour and marker: p (Holm) at 5 %"
    figure = titled(figure, f"What prompt styles gain: {found.name}", about, body=drawn + BOTTOM, left=left, above=54)
    return figure.update_layout(margin={"r": 170, "b": BOTTOM})


def _draw(figure: go.Figure, panel: Forest, at: int, seen: set[str]) -> None:
    """One panel, with its numbers beside it; seen: the verdicts that stand in the legend already."""
    import plotly.graph_objects as go

    places = range(len(panel.marks))
    for told, colour in COLOURS.items():
        rows = [k for k in places if panel.marks[k].group == told]
        if not rows:
            continue
        marks = [panel.marks[k] for k in rows]
        sizes = [(9 if told == "cannot tell" else 12) + 3 * (panel.grouped and k == 0) for k in rows]
        trace = go.Scatter(
            name=told, legendgroup=told, showlegend=told not in seen, mode="markers",
            x=[m.value for m in marks], y=rows, error_x={**ends(marks), "color": colour, "thickness": 1.5, "width": 3},
            marker={"color": colour, "symbol": SYMBOLS[told], "size": sizes},
            hovertext=[plain(f"{m.label}: {m.note}") for m in marks],
            hovertemplate="%{hovertext}<br>%{x}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(trace, row=at, col=1)
        seen.add(told)
    figure.add_vline(x=0, line_width=1, line_dash="dash", line_color="#444", row=at, col=1)
    if panel.grouped:
        figure.add_hline(y=0.5, line_width=1, line_color="#BBB", row=at, col=1)
    names = [_short(m.label) for m in panel.marks]
    if panel.grouped:
        names[0] = f"<b>{names[0]}</b>"
    figure.update_yaxes(
        tickmode="array", tickvals=list(places), ticktext=names, range=[len(names) - 0.5, -0.5], zeroline=False,
        showgrid=False, row=at, col=1,
    )  # fmt: skip
    for k, m in enumerate(panel.marks):
        figure.add_annotation(
            text=_beside(m, panel.unit), x=1.01, xref="x domain", xanchor="left", y=k, showarrow=False,
            font={"size": 12, "color": "#2A3F5F"}, row=at, col=1,
        )  # fmt: skip


def _short(name: str) -> str:
    """A name that fits beside the axis, its middle left out where it is long."""
    half = (LONGEST - 1) // 2
    return plain(name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}")


def _beside(m: Mark, unit: str) -> str:
    """A mark's numbers as text."""
    digits = 1 if unit == "points" else 3
    value, low, high = (f"{round(x, digits) + 0.0:+.{digits}f}".replace("-", "−") for x in (m.value, m.low, m.high))
    return value if isnan(m.low) else f"{value} [{low}, {high}]"


# -- claims


def promises_table(found: Sequence[Promise], *, splits: int, seed: int) -> Table:
    """Claim by claim what is said of rewriting, and what answers show; without any, no columns for them."""
    reasons = list(dict.fromkeys(row.reason for row in found))
    sources = "+".join(sorted({source for row in found for source in row.source.split("+") if source}))
    other = [f"for {name} they are {what}" for name, what in OTHER_STYLES.items() if any(r.name == name for r in found)]
    beside = f"beside answers, source: {sources}" if sources else "nothing to measure them on"
    table = Table(
        caption=f"Gains that rewriting is commonly said to bring, {beside}",
        columns=PROMISED,
        rows=tuple(
            (
                row.task, _percent(row.claimed), row.verdict, f"({reasons.index(row.reason) + 1})",
                "-" if row.gain is None else _percent(row.gain.value, 1),
                "-" if row.gain is None else f"[{_percent(row.gain.low, 1)}, {_percent(row.gain.high, 1)}]",
                row.model or "-", str(row.items) if row.items else "-", row.name or "-", row.source or "-",
                f"{row.base} → {', '.join(row.styles)}" if row.styles else "-",
            )
            for row in found
        ),
        numeric=frozenset({"claimed", "measured", "2.5 to 97.5 %", "items"}),
        notes=(
            *(f"({k}) {reason}." for k, reason in enumerate(reasons, start=1)),
            (f"Measured: gain as a share of the base's mean score, mean and percentiles over {splits} half splits "
            f"(seed {seed}). Confirmed: the whole interval reaches the claim; refuted: all of it is below."),
            "; ".join(["What was tried are the styles of the recordings, and nothing else", *other]) + ".",
        ),
    )  # fmt: skip
    return without_blank(table)


# -- what they share


def _found(given: Any, kind: type[Row]) -> Found[Row]:
    """The rows, given as they are or as a notebook shows them; refuses others, and none."""
    found = given if isinstance(given, Found) else getattr(given, "found", None)
    if not isinstance(found, Found) or not found.rows or not all(isinstance(row, kind) for row in found.rows):
        raise LLMValidationError(
            f"this is shown of rows of {kind.__name__}, and a {type(given).__name__} has none",
            code="validation.styles",
            next_step="pass what run.style_gains() or its chosen() gives",
        )
    return found


def _pairs(found: Found[StyleGain]) -> list[list[StyleGain]]:
    """The rows of each model and style: that of all items, then its groups, the largest gain first."""
    pairs: dict[tuple[str, str], list[StyleGain]] = {}
    for row in found:  # the row of all items comes before those of groups, one of which may be called "all"
        pairs.setdefault((row.model, row.style), []).append(row)
    return [[whole, *sorted(groups, key=lambda r: (-r.gain.value, r.group))] for whole, *groups in pairs.values()]


def _p(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _percent(share: float, digits: int = 0) -> str:
    return f"{round(share * 100, digits) + 0.0:+.{digits}f} %"
