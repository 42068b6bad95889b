"""Tables and figures of timed setups and of rehearsed outages: numbers first, drawing second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from workbench.errors import LLMValidationError
from workbench.show.plots import BLUE, COLOURS, ORANGE, Mark, _errors, plain, rounded
from workbench.show.tables import Shown, Table
from workbench.study.outage import Timeline
from workbench.study.timings import Estimate, Summary

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLUMNS = ("setup", "n", "p50 ms", "p95 ms", "p99 ms", "answered %", "right %", "attempts", "USD per 1000", "at most",
           "source")  # fmt: skip
GREEN, RED, PALE, GREY = COLOURS["better"], COLOURS["worse"], "#F0E442", "#7F7F7F"
STATES = {"closed": GREEN, "open": RED, "half_open": PALE, "forced_open": RED, "disabled": GREY, "metrics_only": GREY}
ENDINGS = {"ok": (GREEN, "circle"), "error": (RED, "x"), "timeout": (ORANGE, "diamond"), "cancelled": (GREY, "cross")}
TICKS_MS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000]


# -- setups


def timings_table(rows: Sequence[Summary]) -> Shown:
    """The setups one by one, with 95 % intervals; costs in US dollars per 1000 questions."""
    first = _some(rows)
    table = Table(
        caption=f"{len(rows)} setups, {_asked(rows)}, source {_sources(rows)}",
        columns=COLUMNS,
        rows=tuple(
            (
                s.name, str(s.n), _told(s.p50_ms), _told(s.p95_ms), f"{s.p99_ms:.0f}", _told(s.answered, 100),
                _told(s.right, 100), f"{s.attempts:.2f}", f"{s.cost_usd * 1e3:.3f}", f"{s.booked_usd * 1e3:.3f}",
                source_of(s),
            )
            for s in rows
        ),
        numeric=frozenset(COLUMNS) - {"setup", "source"},
        notes=(
            (f"Times are of all questions, until the answer or the error. Intervals: 95 %; of times {first.samples} "
            f"bootstrap resamples of the questions, seed {first.seed}; of shares Wilson's. p99, close to the slowest "
            "question, has none."),
            ("USD per 1000: what answers have cost; at most: what the budgets were charged, with the worst case of "
            "requests that were given up and may be billed."),
        ),
    )  # fmt: skip
    return Shown(table)


def timing_values(rows: Sequence[Summary]) -> list[Mark]:
    """Median and 95th percentile of each setup in milliseconds, with 95 % bootstrap intervals."""
    found = [(s, group, e) for s in rows for group, e in (("p50", s.p50_ms), ("p95", s.p95_ms))]
    return [_mark(s, f"{group}, 95 % bootstrap", e) for s, group, e in found]


def success_values(rows: Sequence[Summary]) -> list[Mark]:
    """Shares of questions answered and answered right of each setup, in per cent, with 95 % Wilson intervals."""
    found = [(s, group, e) for s in rows for group, e in (("answered", s.answered), ("right", s.right))]
    return [_mark(s, f"{group}, 95 % Wilson", e, scale=100.0) for s, group, e in found]


def spending_values(rows: Sequence[Summary]) -> list[dict[str, Any]]:
    """Cost of each setup per 1000 questions in US dollars: what is known, and what may be billed on top."""
    return [
        {
            "setup": s.name,
            "known_usd": rounded(s.cost_usd * 1e3),
            "perhaps_usd": rounded((s.booked_usd - s.cost_usd) * 1e3),
        }
        for s in rows
    ]


def plot_timings(rows: Sequence[Summary], *, title: str = "Setups on the same questions") -> go.Figure:
    """Setups by time, success and cost, side by side; times on a logarithmic axis. title: says what was measured.

    The caption says where the answers come from, which server and which clock, as the log has it.
    """
    from plotly.subplots import make_subplots

    _some(rows)
    figure = make_subplots(cols=3, shared_yaxes=True, column_widths=[0.42, 0.33, 0.25], horizontal_spacing=0.035)
    times = timing_values(rows)
    for col, (marks, colours) in enumerate(((times, (BLUE, ORANGE)), (success_values(rows), (GREEN, "#CC79A7"))), 1):
        drawn = _errors(marks, dict(enumerate(colours)))
        figure.add_traces(drawn.data, rows=1, cols=col)
        figure.update_yaxes(drawn.layout.yaxis.to_plotly_json(), col=col)
    figure.update_yaxes(showticklabels=False, col=2)
    _spend(figure, spending_values(rows))
    low, high = min(m.low for m in times) / 1.2, max(m.high for m in times) * 1.2
    ticks = [t for t in TICKS_MS if low <= t <= high]
    figure.update_xaxes(title_text="time to the answer (ms, log)", type="log", range=_log(low, high), col=1)
    figure.update_xaxes(tickmode="array", tickvals=ticks, ticktext=[f"{t:,}" for t in ticks], col=1)
    figure.update_xaxes(title_text="share of questions (%)", range=[0, 104], col=2)
    figure.update_xaxes(title_text="USD per 1000 questions", rangemode="tozero", col=3)
    figure.update_yaxes(range=[len(rows) - 0.5, -0.5])
    longest = max(len(s.name) for s in rows)
    caption = f"{_asked(rows)}, source: {_sources(rows)}; bars: 95 % intervals"
    return framed(figure, title, caption, height=230 + 36 * len(rows), left=min(40 + 7 * longest, 330))


def _spend(figure: go.Figure, found: Sequence[Mapping[str, Any]]) -> None:
    import plotly.graph_objects as go

    for name, key, colour in (
        ("known cost", "known_usd", "#4D4D4D"),
        ("perhaps billed on top", "perhaps_usd", "#BDBDBD"),
    ):
        bar = go.Bar(
            name=name, orientation="h", x=[row[key] for row in found], y=list(range(len(found))), width=0.45,
            marker={"color": colour}, hovertemplate="%{x:.3f} USD<extra></extra>",
        )  # fmt: skip
        figure.add_trace(bar, row=1, col=3)
    figure.update_layout(barmode="stack")


def _mark(s: Summary, group: str, e: Estimate, *, scale: float = 1.0) -> Mark:
    return Mark(
        label=s.name,
        value=rounded(e.value * scale),
        low=rounded(e.low * scale),
        high=rounded(e.high * scale),
        group=group,
        note=group,
    )


# -- outages


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """Money booked up to a moment, in US dollars: for certain, and with what may be billed."""

    at_s: float
    certain_usd: float
    at_most_usd: float


def spend_values(run: Timeline) -> list[Spend]:
    """What the attempts of a run had been booked with, each at its end, added up; begins with 0 at 0 s."""
    ends = sorted(run.tries, key=lambda t: t.at_s + t.took_s)
    certain = accumulate((0.0 if t.uncertain else t.booked_usd for t in ends), initial=0.0)
    at_most = accumulate((t.booked_usd for t in ends), initial=0.0)
    times = [0.0, *(t.at_s + t.took_s for t in ends)]
    return [
        Spend(at_s=rounded(at), certain_usd=rounded(sure), at_most_usd=rounded(most))
        for at, sure, most in zip(times, certain, at_most, strict=True)
    ]


def plot_outage(run: Timeline, *, beside: Timeline | None = None) -> go.Figure:
    """A run over time: circuits, attempts, times to the answer, money; the planned outages are shaded.

    beside: another run of the same questions, drawn with it where both have something to compare: times and money.
    """
    from plotly.subplots import make_subplots

    whose = "" if beside is None else f" ({plain(run.name)})"
    titles = [f"circuits{whose}", f"attempts{whose}", "time to the answer", "booked money"]
    figure = make_subplots(
        rows=4, shared_xaxes=True, vertical_spacing=0.065, row_heights=[0.15, 0.17, 0.34, 0.34],
        subplot_titles=[f"<b>{t}</b>" for t in titles],
    )  # fmt: skip
    models = list(dict.fromkeys(spell.model for spell in run.spells))
    _circuits(figure, run, models)
    _attempts(figure, run, models)
    runs = [(run, BLUE, "circle")] + ([] if beside is None else [(beside, ORANGE, "circle-open")])
    for shown, colour, symbol in runs:
        _waits(figure, shown, colour, symbol)
        _money(figure, shown, colour)
    for row in (1, 2):
        figure.update_yaxes(
            tickmode="array", tickvals=list(range(len(models))), ticktext=[plain(m) for m in models],
            range=[len(models) - 0.5, -0.5], zeroline=False, row=row,
        )  # fmt: skip
    figure.update_yaxes(title_text="s, log", type="log", tickvals=[0.2, 0.5, 1, 2, 5, 10, 20, 50], row=3)
    figure.update_yaxes(title_text="USD", rangemode="tozero", row=4)
    ended_s = max(shown.ended_s for shown, _, _ in runs)
    figure.update_xaxes(range=[0, rounded(ended_s)], showgrid=True)
    figure.update_xaxes(title_text=_time_axis([shown for shown, _, _ in runs]), row=4)
    for note in figure.layout.annotations:
        note.update(x=0, xanchor="left", font={"size": 13})
    _shaded(figure, run)
    names = " against ".join(shown.name for shown, _, _ in runs)
    told = "An outage rehearsed" if any(run.outages.values()) else "A run over time"
    return framed(figure, f"{told}: {names}", _caption(run, beside), height=760, left=150)


def _caption(run: Timeline, beside: Timeline | None) -> str:
    """How many questions, where the answers of both runs come from, and whose outages are shaded."""
    both = [run] if beside is None else [run, beside]
    counts = " and ".join(dict.fromkeys(str(len(shown.questions)) for shown in both))
    sources = list(dict.fromkeys(source_of(shown) for shown in both))
    said = sources[0] if len(sources) == 1 else " against ".join(sources)
    whose = f" of {run.name}" if beside is not None and beside.outages != run.outages else ""
    return f"{counts} questions, source: {said}" + (f"; shaded: the outage{whose}" if any(run.outages.values()) else "")


def source_of(told: Summary | Timeline) -> str:
    """Where the answers of a run come from, what stood behind live ones, and the clock if it was not the machine's."""
    server = f", {told.server} server" if told.server else ""
    return f"{told.source}{server}" + (", on the virtual clock" if told.clock == "virtual" else "")


def _time_axis(runs: Sequence[Timeline]) -> str:
    clocks = sorted({run.clock for run in runs} - {""})
    if clocks in ([], ["real"]):
        return "time since the start (s)"
    return f"time since the start (s, {' and '.join(clocks)} clock)"


def _circuits(figure: go.Figure, run: Timeline, models: Sequence[str]) -> None:
    import plotly.graph_objects as go

    for state in dict.fromkeys(spell.state for spell in run.spells):
        found = [spell for spell in run.spells if spell.state == state]
        # A half-open spell lasts as long as one probe: a line around it keeps it visible.
        bar = go.Bar(
            name=state.replace("_", " "), orientation="h", base=[rounded(s.from_s) for s in found],
            x=[rounded(s.until_s - s.from_s) for s in found], y=[models.index(s.model) for s in found], width=0.6,
            marker={"color": STATES.get(state, GREY), "line": {"width": 2 if state == "half_open" else 0,
                                                               "color": "#B8A800"}},
            hovertemplate=f"{state}: from %{{base:.1f}} s for %{{x:.1f}} s<extra></extra>",
        )  # fmt: skip
        figure.add_trace(bar, row=1, col=1)
    figure.update_layout(barmode="overlay")


def _attempts(figure: go.Figure, run: Timeline, models: Sequence[str]) -> None:
    import plotly.graph_objects as go

    for status, (colour, symbol) in ENDINGS.items():
        found = [t for t in run.tries if t.status == status and t.model in models]
        if not found:
            continue
        points = go.Scatter(
            name=f"attempt: {status}", mode="markers", x=[rounded(t.at_s) for t in found],
            y=[models.index(t.model) + (0.0 if status == "ok" else 0.22) for t in found],
            marker={"color": colour, "symbol": symbol, "size": 6},
            hovertext=[plain(f"{t.code or 'ok'}, {t.took_s:.2f} s") for t in found],
            hovertemplate="%{x:.1f} s: %{hovertext}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(points, row=2, col=1)


def _waits(figure: go.Figure, run: Timeline, colour: str, symbol: str) -> None:
    import plotly.graph_objects as go

    points = go.Scatter(
        name=plain(run.name), mode="markers", x=[rounded(q.at_s) for q in run.questions],
        y=[rounded(q.took_ms / 1e3) for q in run.questions],
        marker={"color": colour, "symbol": symbol, "size": 7},
        hovertemplate="asked at %{x:.1f} s, took %{y:.2f} s<extra></extra>",
    )  # fmt: skip
    figure.add_trace(points, row=3, col=1)


def _money(figure: go.Figure, run: Timeline, colour: str) -> None:
    import plotly.graph_objects as go

    found = spend_values(run)
    for words, key, dash in (("certain", "certain_usd", "solid"), ("with possibly billed", "at_most_usd", "dash")):
        line = go.Scatter(
            name=plain(f"{run.name}: {words}"), mode="lines", line={"color": colour, "dash": dash},
            x=[s.at_s for s in found], y=[getattr(s, key) for s in found],
            hovertemplate="%{x:.1f} s: %{y:.4f} USD<extra></extra>",
        )  # fmt: skip
        figure.add_trace(line, row=4, col=1)


def _shaded(figure: go.Figure, run: Timeline) -> None:
    for model, found in run.outages.items():
        for outage in found:
            figure.add_vrect(
                x0=outage.from_s, x1=outage.until_s, fillcolor=RED, opacity=0.10, line_width=0, layer="below",
                row="all", col=1,
            )  # fmt: skip
            figure.add_annotation(
                x=(outage.from_s + outage.until_s) / 2, y=1, xref="x4", yref="y4 domain", yanchor="top",
                text=plain(f"{model.rpartition(':')[2]} is {outage.kind}"), showarrow=False,
                font={"size": 12, "color": "#A04400"},
            )  # fmt: skip


def framed(figure: go.Figure, title: str, caption: str, *, height: int, left: int) -> go.Figure:
    """The figure with its title, what it rests on in small below it, and the legend at its foot."""
    return figure.update_layout(
        title={"text": f"{plain(title)}<br><sub>{plain(caption)}</sub>", "x": 0, "xanchor": "left"},
        template="plotly_white",
        height=height,
        margin={"l": left, "r": 30, "t": 100, "b": 120},
        legend={
            "orientation": "h",
            "yanchor": "bottom",
            "yref": "container",
            "y": 0,
            "xref": "container",
            "x": 0,
            "xanchor": "left",
            "traceorder": "normal",
        },
    )


def _asked(rows: Sequence[Summary]) -> str:
    counts = sorted({s.n for s in rows})
    return f"{'-'.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} questions each"


def _sources(rows: Sequence[Summary]) -> str:
    return " + ".join(sorted({source_of(s) for s in rows}))


def _some(rows: Sequence[Summary]) -> Summary:
    if not rows or not all(isinstance(s, Summary) for s in rows):
        raise LLMValidationError(
            f"timings are shown of summaries, found {type(rows[0]).__name__ if rows else 'none'}",
            code="validation.timings",
            next_step="pass what summaries(wb.log, run_ids) returned",
        )
    return rows[0]


def _told(e: Estimate, scale: float = 1.0) -> str:
    return f"{e.value * scale:.0f} [{e.low * scale:.0f}, {e.high * scale:.0f}]"


def _log(low: float, high: float) -> list[float]:
    from math import log10

    return [rounded(log10(low)), rounded(log10(high))]
