"""Tables and figures of an optimizer that learned over a recording: what it gained, where, and what it predicted.

Numbers first, drawing second. unit: of the scores; gains are points for `fraction`, else in the score's own unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING

from workbench.errors import LLMValidationError
from workbench.show.plots import BLUE, COLOURS, Mark, ends, plain, rounded
from workbench.show.tables import Table
from workbench.show.understanding import mark, scale, titled
from workbench.study.online import LateGroup, Online
from workbench.study.summary import difference, interval, unit_name
from workbench.study.timings import Estimate

if TYPE_CHECKING:
    import plotly.graph_objects as go

MEASURES = ("measure", "unit", "value", "interval")
LATE = ("group", "items", "always", "chosen", "95 % interval", "asked otherwise")
MOST_POINTS = 500  # of the learning curve


@dataclass(frozen=True, slots=True)
class _Measure:
    """A line of the summary, as text; always: the same number where the best style is always taken."""

    name: str
    unit: str
    value: str
    interval: str = ""
    always: str = "-"


def online_table(found: Online, unit: str) -> Table:
    """What learning gained beside always taking the best style, and how well the gain was predicted."""
    return Table(
        caption=f"{found.name}: learning online, {_about(found)}",
        columns=MEASURES,
        rows=tuple((m.name, m.unit, m.value, m.interval or "-") for m in _measures(found, unit)),
        numeric=frozenset({"value", "interval"}),
        notes=(_method(found),),
    )


def late_table(found: Online, unit: str) -> Table:
    """The groups in the second half of the orders, the largest gain of always asking otherwise first."""
    return Table(
        caption=f"Second half of the orders, group by group: gain over {found.base} in {unit_name(unit)}, "
        f"source: {found.source}",
        columns=LATE,
        rows=tuple(
            (
                g.group or "(none)", str(g.items), difference(g.always, unit), difference(g.gain.value, unit),
                _interval(g.gain, unit) or "-", f"{g.taken * 100:.0f} %",
            )
            for g in _ranked(found)
        ),
        numeric=frozenset(LATE) - {"group"},
        notes=(_of_groups(found),),
    )  # fmt: skip


def beside_table(first: Online, second: Online, unit: str) -> Table:
    """Two ways of learning over the same items, such as with the groups known and hidden.

    Raises LLMValidationError validation.comparison for other items or styles, and for the same way twice.
    """
    names = _ways(first, second)
    rows = [
        (a.name, a.unit, a.always, *(f"{m.value} {m.interval}".strip() for m in (a, b)))
        for a, b in zip(_measures(first, unit), _measures(second, unit), strict=True)
    ]
    late = [{g.group: g.gain for g in found.groups} for found in (first, second)]
    for g in _ranked(first):
        told = (_estimate(gains[g.group], unit) if g.group in gains else "-" for gains in late)
        name = f"second half: {g.group or '(none)'}"
        rows.append((name, unit_name(unit), difference(g.always, unit), *told))
    return Table(
        caption=f"{first.name}: learning online, {' beside '.join(names)}, {_about(first, how=False)}",
        columns=("measure", "unit", "always", *names),
        rows=tuple(rows),
        numeric=frozenset({"always", *names}),
        notes=(_method(first), _of_groups(first)),
    )


def _ways(first: Online, second: Online) -> tuple[str, str]:
    """What tells the two apart, as names of columns."""
    same = all(
        getattr(first, name) == getattr(second, name)
        for name in ("name", "source", "model", "base", "styles", "items", "orders", "seed")
    )
    cautions = first.caution != second.caution
    names = [_groups(found) + f", caution {found.caution:g}" * cautions for found in (first, second)]
    if not same or names[0] == names[1]:
        raise LLMValidationError(
            f"two ways of learning on the same items are set side by side, and these are "
            f"{'twice the same' if same else 'of other items, styles or orders'}",
            code="validation.comparison",
            next_step="pass online(grouped=False), with the orders and the seed of this one",
        )
    return names[0], names[1]


def _measures(found: Online, unit: str) -> list[_Measure]:
    always, points = difference(found.always, unit), unit_name(unit)
    share, between, whole = "-", "", "-"
    if found.always > 0:  # a share of nothing means nothing
        share, low, high = (f"{x * 100:.1f}" for x in (found.share.value, found.share.low, found.share.high))
        between, whole = f"[{low}, {high}]", "100.0"
    return [
        _Measure(f"gain of {_always(found)}", points, always),
        _Measure("gain of choosing", points, difference(found.gain.value, unit), _interval(found.gain, unit), always),
        _Measure(f"share of the gain of {_always(found)}", "%", share, between, whole),
        _Measure(
            "gain of choosing, second half", points, difference(found.second_half.value, unit),
            _interval(found.second_half, unit), always,
        ),
        _Measure("calibration error of the predicted gain, second half", "quality", f"{found.calibration_error:.3f}"),
        _Measure("coverage of the last 95 % intervals", "%", f"{found.coverage * 100:.1f}"),
    ]  # fmt: skip


# -- figures


def curve_values(found: Online, unit: str) -> list[tuple[int, float]]:
    """Items so far, and the mean gain over them; at most MOST_POINTS of them, evenly, the last one included."""
    n = len(found.curve)
    step = -(-n // MOST_POINTS)
    places = sorted({*range(step, n + 1, step), n})
    return [(k, rounded(found.curve[k - 1] * scale(unit))) for k in places]


def plot_learning(found: Online, unit: str) -> go.Figure:
    """Mean gain over the items so far, with the gain of always taking the best style, and that of nothing."""
    import plotly.graph_objects as go

    curve, points = curve_values(found, unit), plain(unit_name(unit))
    always = rounded(found.always * scale(unit))
    whole = mark("all items", found.gain, scale(unit), group="all items", note="")
    figure = go.Figure()
    levels = {_always(found): (always, COLOURS["better"], "dash"), f"always {found.base}": (0.0, "#444", "dot")}
    for name, (height, colour, dash) in levels.items():
        line = {"color": colour, "dash": dash, "width": 2}
        figure.add_trace(
            go.Scatter(name=plain(name), mode="lines", x=[1, found.items], y=[height] * 2, line=line, hoverinfo="name")
        )
    figure.add_trace(
        go.Scatter(
            name="chosen, mean over the orders", mode="lines", x=[k for k, _ in curve], y=[gain for _, gain in curve],
            line={"color": BLUE, "width": 2}, hovertemplate="%{x} items: %{y:+.3f}<extra></extra>",
        )
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            name="all items, 2.5 to 97.5 percentiles of the orders", mode="markers", x=[found.items], y=[whole.value],
            marker={"color": BLUE, "size": 9}, error_y={**ends([whole]), "color": BLUE}, cliponaxis=False,
            hovertemplate="%{y:+.3f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title_text="items so far", range=[0, rounded(found.items * 1.02)], zeroline=False)
    figure.update_yaxes(title_text=f"mean gain so far<br>({points})", zeroline=False)
    return titled(figure, f"Learning online: {found.name}", _about(found), body=430, left=100)


def gain_marks(found: Online, unit: str) -> list[Mark]:
    """Measured gain of each bin of predictions, with its interval; the label is the mean predicted gain."""
    factor = scale(unit)
    return [
        mark(str(rounded(b.predicted * factor)), b.measured, factor, group="95 % bootstrap", note=f"{b.items} items")
        for b in found.bins
    ]


def plot_predicted(found: Online, unit: str) -> go.Figure:
    """Measured gain against predicted gain, in bins of equally many predictions; on the diagonal they agree."""
    import plotly.graph_objects as go

    marks, points = gain_marks(found, unit), plain(unit_name(unit))
    predicted = [float(m.label) for m in marks]
    reached = [x for m in marks for x in (m.value, m.low, m.high) if not isnan(x)] + predicted + [0.0]
    edge = 0.05 * (max(reached) - min(reached)) or 1.0
    span = [rounded(min(reached) - edge), rounded(max(reached) + edge)]
    diagonal = go.Scatter(
        name="prediction that holds", mode="lines", x=span, y=span, line={"color": "#444", "dash": "dash", "width": 1},
        hoverinfo="skip",
    )  # fmt: skip
    shown = go.Scatter(
        name=f"measured in {len(marks)} bins, 95 % bootstrap over items", mode="markers+lines", x=predicted,
        y=[m.value for m in marks], marker={"color": BLUE, "size": 9}, line={"color": BLUE, "width": 1},
        error_y={**ends(marks), "color": BLUE}, hovertext=[m.note for m in marks],
        hovertemplate="predicted %{x:+.3f}, measured %{y:+.3f}, %{hovertext}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure([diagonal, shown])
    axis = {"range": span, "zeroline": True, "zerolinecolor": "#BBB"}
    figure.update_xaxes(title_text=f"predicted gain ({points})", **axis)
    figure.update_yaxes(title_text=f"measured gain ({points})", **axis)
    title = f"Predicted gain, {found.name}: calibration error {_error(found, unit)}"
    return titled(figure, title, f"Second half: {_about(found)}", body=550, left=80)


# -- what they share


def _always(found: Online) -> str:
    """The best fixed choice: a style where one is better than the base, else the base."""
    style = found.styles[0] if len(found.styles) == 1 else "the best style"
    return f"always {style}" if found.always > 0 else f"always {found.base}"


def _ranked(found: Online) -> list[LateGroup]:
    return sorted(found.groups, key=lambda g: (-g.always, g.group))


def _interval(e: Estimate, unit: str) -> str:
    """The interval as text, empty where there is none."""
    return "" if isnan(e.low) else interval(e.low, e.high, unit)


def _estimate(e: Estimate, unit: str) -> str:
    return f"{difference(e.value, unit)} {_interval(e, unit)}".strip()


def _error(found: Online, unit: str) -> str:
    """The calibration error in quality, and where gains are shown in points, in these."""
    error = found.calibration_error
    return f"{error:.3f} ({error * 100:.1f} points)" if unit == "fraction" else f"{error:.3f}"


def _groups(found: Online) -> str:
    return "groups known" if found.grouped else "groups hidden"


def _about(found: Online, *, how: bool = True) -> str:
    """What it rests on; how: and in which way it was learned."""
    learned = f", {_groups(found)}, caution {found.caution:g}" if how else ""
    return (
        f"{found.items} items, source: {found.source}, {found.orders} random orders, seed {found.seed}{learned}; "
        f"{found.model}: {', '.join(found.styles)} against {found.base}"
    )


def _method(found: Online) -> str:
    return (
        "At each item the optimizer knows what earlier items told of the styles it took, and nothing else. Intervals: "
        f"2.5 and 97.5 percentiles over {found.orders} orders. Coverage: share of the groups and orders in which the "
        "last 95 % interval of the predicted gain holds the gain on all items of the group."
    )


def _of_groups(found: Online) -> str:
    style = found.styles[0] if len(found.styles) == 1 else "the style that is best in the group"
    return (
        f"Of a group, always: {style} for each of its items that came in a second half; chosen: what the optimizer "
        "took, mean over the orders, with a 95 % bootstrap over items."
    )
