"""The calls of a run over time: one dot a call, by model, with how many were under way below.

    calls of the log --> timeline_values: dots and load --> timeline: one panel a model, and one of the load

A call lasts from asking to its answer or error, over all of its attempts and the waiting between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING, Any

from workbench.errors import LLMValidationError
from workbench.show.asked import Records, check_most, ended_by, sources_told
from workbench.show.latency import GREY
from workbench.show.plots import BLUE, plain, rounded
from workbench.show.tables import inline
from workbench.show.waterfall import FAILED

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_DOTS = 4000
MOST_PANELS = 10
LOAD_STEPS = 600
SHORTEST_MS = 1e-3  # for the logarithmic axis
OTHERS = "other models"
AT_ONCE = "durations are this machine's: simulated models answer at once; their latency_ms is in the view `latency`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One call. start_s: since the run began. duration_ms: of all its attempts. status, code: of its end."""

    call_id: str
    member: str
    item_id: str | None
    start_s: float
    duration_ms: float
    attempts: int
    status: str
    code: str | None
    source: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Calls under way from a moment on, at most, until the next one; at_s: since the run began."""

    at_s: float
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A run's calls by start, and the calls under way over time.

    calls: of the run; more than there are dots when they were thinned out. members: every model that was called.
    source: of the answers, with the server where that was simulated. status: of the run.
    """

    run_id: str
    name: str
    status: str
    dots: tuple[Dot, ...]
    load: tuple[Load, ...]
    calls: int
    members: tuple[str, ...]
    source: str


_CALLS = """
select call_id, member, item_id, (start_unix_ns - $start) / 1e9 + (duration_ms - call_ms) / 1e3 as start_s,
    call_ms as duration_ms, attempts, status, failure_kind, failure_code, source,
    request_id
from calls where run_id = $run order by start_s, call_id
"""


def timeline_values(run: Any, *, most: int = MOST_DOTS) -> Course:
    """The calls of a run over time. run: a Run, or anything with its log and run_id.

    most: dots to keep, >= 1; of a longer run every failed call as far as that goes, and the others evenly spaced. The
    load is always that of all calls.
    Raises LLMValidationError data.empty for a run that called nothing, validation.config for `most` < 1 and for what
    is no run.
    """
    check_most(most)
    reader = _reader_of(run)
    told = reader.records(
        "select run_id, name, status, start_unix_ns from runs where run_id = $run", {"run": run.run_id}
    )
    calls = reader.records(_CALLS, {"run": run.run_id, "start": told[0]["start_unix_ns"]}) if told else []
    if not calls:
        raise LLMValidationError(
            f"the run {inline(str(run.run_id))!r} has no calls to show over time",
            code="data.empty",
            next_step="list the runs with: select run_id, status from runs",
        )
    return Course(
        run_id=run.run_id,
        name=told[0]["name"],
        status=told[0]["status"],
        dots=tuple(map(_dot, _thinned(calls, most))),
        load=tuple(load_of((c["start_s"], c["start_s"] + c["duration_ms"] / 1e3) for c in calls)),
        calls=len(calls),
        members=tuple(dict.fromkeys(c["member"] for c in calls)),
        source=sources_told(calls),
    )


def _reader_of(run: Any) -> Records:
    reader: Records | None = getattr(run, "log", None)
    if reader is not None and isinstance(getattr(run, "run_id", None), str):
        return reader
    raise LLMValidationError(
        f"a run is needed, and a {type(run).__name__} was given",
        code="validation.config",
        next_step="take what wb.run_sync(...) gives, or one of the log: wb.get_run(run_id)",
    )


def _dot(call: Mapping[str, Any]) -> Dot:
    return Dot(
        call_id=call["call_id"], member=call["member"], item_id=call["item_id"], start_s=rounded(call["start_s"]),
        duration_ms=rounded(call["duration_ms"]), attempts=call["attempts"], status=call["status"],
        code=ended_by(call), source=call["source"],
    )  # fmt: skip


def _thinned(calls: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    if len(calls) <= most:
        return list(calls)
    failed = [k for k, c in enumerate(calls) if c["status"] != "ok"]
    fine = [k for k, c in enumerate(calls) if c["status"] == "ok"]
    kept = _spaced(failed, most) + _spaced(fine, most - min(len(failed), most))
    return [calls[k] for k in sorted(kept)]


def _spaced(places: Sequence[int], most: int) -> list[int]:
    if len(places) <= most:
        return list(places)
    return [places[k * len(places) // most] for k in range(most)]


def load_of(spells: Iterable[tuple[float, float]], *, steps: int = LOAD_STEPS) -> list[Load]:
    """Calls under way over time, from (start, end) in seconds; at most about `steps` moments, each with its highest.

    A call that ends when another begins is not under way with it.
    """
    changes: dict[float, int] = {}
    for start_s, end_s in spells:
        changes[start_s] = changes.get(start_s, 0) + 1
        changes[end_s] = changes.get(end_s, 0) - 1
    found: list[Load] = []
    now = 0
    for at_s in sorted(changes):
        now += changes[at_s]
        found.append(Load(at_s=rounded(at_s), calls=now))
    if len(found) <= steps:
        return found
    # Peaks are what one looks for: each stretch shows its highest, and the end stays the end.
    width = -(-len(found) // steps)
    parts = [found[k : k + width] for k in range(0, len(found), width)]
    return [Load(at_s=p[0].at_s, calls=max(x.calls for x in p)) for p in parts] + [found[-1]]


# -- drawing


def timeline(run: Any, *, most: int = MOST_DOTS) -> go.Figure:
    """A run's calls over time: start against duration, a panel a model; colour and symbol say how each ended.

    Below: calls under way. Refused calls took no time and stand at the lower edge. Beyond MOST_PANELS models the rest
    share one panel. See timeline_values.
    """
    from plotly.subplots import make_subplots

    found = timeline_values(run, most=most)
    panels = _panels(found)
    count = len(panels) + 1
    figure = make_subplots(
        rows=count, shared_xaxes=True, vertical_spacing=min(0.07, 0.30 / count),
        row_heights=[1.0] * len(panels) + [0.8],
        subplot_titles=[f"<b>{plain(name)}</b>" for name in panels] + ["<b>calls under way</b>"],
    )  # fmt: skip
    low, high = _range(found.dots)
    _dots(figure, found, panels, low)
    _load(figure, found, count)
    unit = "s" if high >= 20_000 else "ms"
    ticks = _ticks(low, high)
    for row in range(1, count):
        figure.update_yaxes(
            type="log", range=_decades(low, high), tickvals=ticks, title_text=unit,
            ticktext=[f"{t / 1e3:g}" if unit == "s" else f"{t:g}" for t in ticks], row=row,
        )  # fmt: skip
    end_s = found.load[-1].at_s or 1e-3
    figure.update_xaxes(range=[rounded(-0.01 * end_s), rounded(1.02 * end_s)], zeroline=False)
    figure.update_xaxes(title_text="time since the run began (s)", row=count)
    for note in figure.layout.annotations:
        note.update(x=0, xanchor="left", font={"size": 12})
    lines = _caption(found)
    caption = "".join(f"<br><sub>{plain(line)}</sub>" for line in lines)
    top = 90 + 28 * len(lines)
    return figure.update_layout(
        title={"text": f"{plain(found.name)} over time{caption}", "x": 0, "xanchor": "left"},
        template="plotly_white", height=top + 95 + 105 * count, margin={"l": 70, "r": 20, "t": top, "b": 95},
        legend={"orientation": "h", "yanchor": "bottom", "yref": "container", "y": 0, "x": 0, "xanchor": "left"},
    )  # fmt: skip


def _range(dots: Sequence[Dot]) -> tuple[float, float]:
    """Milliseconds of the axis: those of calls that were sent, if any; what took less stands at the lower edge."""
    took = [max(d.duration_ms, SHORTEST_MS) for d in dots if d.status != "refused"] or [SHORTEST_MS]
    return min(took) / 1.6, max(took) * 1.6


def _ticks(low: float, high: float) -> list[float]:
    """Round milliseconds on the axis: powers of ten, with 2 and 5 between them where the range is short."""
    steps = (1,) if high / low > 60 else (1, 2, 5)
    ticks = [float(f"{step}e{k}") for k in range(-3, 8) for step in steps]
    found = [t for t in ticks if low <= t <= high]
    return found if len(found) > 1 else [float(f"{low * (high / low) ** part:.2g}") for part in (0.15, 0.5, 0.85)]


def _decades(low: float, high: float) -> list[float]:
    return [rounded(log10(low)), rounded(log10(high))]


def _panels(found: Course) -> list[str]:
    if len(found.members) <= MOST_PANELS:
        return list(found.members)
    return [*found.members[: MOST_PANELS - 1], OTHERS]


def _dots(figure: go.Figure, found: Course, panels: Sequence[str], lowest: float) -> None:
    import plotly.graph_objects as go

    named = set(panels)
    told: set[str] = set()
    for row, name in enumerate(panels, 1):
        here = [d for d in found.dots if d.member == name or (name == OTHERS and d.member not in named)]
        # Failures last, so that they lie on top.
        for status in sorted({d.status for d in here}, key=lambda s: (s != "ok", s)):
            chosen = [d for d in here if d.status == status]
            colour, symbol = FAILED.get(status, (GREY, "square"))
            points = go.Scatter(
                name=status, legendgroup=status, showlegend=status not in told, mode="markers",
                x=[d.start_s for d in chosen], y=[max(d.duration_ms, rounded(lowest * 1.2)) for d in chosen],
                marker={"color": colour, "symbol": symbol, "size": 6 if status == "ok" else 8,
                        "opacity": 0.75 if status == "ok" else 1.0},
                hovertext=[_hover(d) for d in chosen], hovertemplate="%{hovertext}<extra></extra>",
            )  # fmt: skip
            told.add(status)
            figure.add_trace(points, row=row, col=1)


def _load(figure: go.Figure, found: Course, row: int) -> None:
    import plotly.graph_objects as go

    line = go.Scatter(
        name="calls under way", mode="lines", showlegend=False, x=[x.at_s for x in found.load],
        y=[x.calls for x in found.load], line={"shape": "hv", "width": 1, "color": BLUE}, fill="tozeroy",
        fillcolor="rgba(0,114,178,0.25)", hovertemplate="%{x:.2f} s: %{y} calls<extra></extra>",
    )  # fmt: skip
    figure.add_trace(line, row=row, col=1)
    figure.update_yaxes(title_text="calls", rangemode="tozero", nticks=4, row=row)


def _hover(dot: Dot) -> str:
    tries = "1 attempt" if dot.attempts == 1 else f"{dot.attempts} attempts"
    item = f"{dot.item_id}, " if dot.item_id else ""
    took = f"{dot.duration_ms:.1f}" if dot.duration_ms >= 1 else f"{dot.duration_ms:.2g}"
    said = f"{item}{dot.code or dot.status} after {took} ms, {tries}, from {dot.start_s:.2f} s on"
    where = f", {dot.source}" if dot.source else ""
    return f"{plain(dot.member)}<br>{plain(said + where)}<br>call {plain(dot.call_id)}"


def _caption(found: Course) -> list[str]:
    drawn = "" if len(found.dots) == found.calls else f", of which {len(found.dots):,} are drawn"
    told = f"{found.calls:,} calls{drawn}, source: {found.source}; run {found.run_id}, {found.status}"
    return [told, AT_ONCE] if "simulated" in found.source.partition(",")[0].split("+") else [told]
