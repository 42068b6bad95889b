"""The waterfall of one request: its spans and attempts as bars, by start and duration, each under its parent.

    spans and attempts of the log --> waterfall_values: bars in tree order --> plot_waterfall, waterfall_table

A model call has a span, whose id is the `call_id` of its attempts: one attempt is told with the span, several are bars
below it. Starts are those of the wall clock and durations those of the monotonic one, so a child may stick out of its
parent by the difference of the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.errors import LLMValidationError
from workbench.show.asked import check_most, ended_by, reader_of, sources_told
from workbench.show.latency import ENDINGS, GREY, RED
from workbench.show.plots import plain, rounded
from workbench.show.tables import Shown, Table, inline

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_SPANS = 80
HOVER = 300  # characters of one attribute
NAME = 30  # characters of a component in the legend
SPACE = "\u00a0"  # not cut away as plain spaces at the beginning of a label are
INDENT = SPACE * 3
STEPS = 8  # levels with a whole indent
MOST_SPACES = 40
MARGIN_PX, CHAR_PX, SPACE_PX = 340, 7.2, 3.9  # room for labels; widths of a letter and of a space in them
# Okabe & Ito 2008 without the colours of endings, and two more; given out in the order in which components appear.
PALETTE = ("#0072B2", "#56B4E9", "#CC79A7", "#F0E442", "#8C6D31", "#7570B3")
OTHERS = ("other components", "#BBBBBB")
FAILED = {**ENDINGS, "refused": (GREY, "square")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A span, or one attempt of a model call.

    depth: 0 for the top. kind: `span` or `attempt`. label: what it is, in short. start_ms: since the first bar began.
    status: `ok`, `error`, `timeout`, `cancelled` or `refused`. code: of its failure, see ended_by. source: where its
    answer came from, or None. details: names and values for the hover text.
    """

    span_id: str
    depth: int
    kind: str
    component: str
    label: str
    start_ms: float
    duration_ms: float
    status: str
    code: str | None
    source: str | None
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Waterfall:
    """The bars of one request, parents before their children.

    left_out: spans of it that are not among the bars. source: of its answers, with the server where that was simulated.
    start_unix_ns: of the first bar.
    """

    trace_id: str
    name: str
    bars: tuple[Bar, ...]
    left_out: int
    source: str
    start_unix_ns: int


# The trace of an id, and the span from which on it is shown: null for all of it.
_FIND = """
with known as (select trace_id, span_id from spans union all select trace_id, call_id from every_attempt)
select trace_id, null as top, 0 as rank from known where trace_id = $id
union all select trace_id, span_id, 1 from known where span_id = $id
union all select trace_id, call_id, 2 from every_attempt where span_id = $id
order by rank limit 1
"""

_BELOW = """
with recursive here as (select * from spans where trace_id = $trace),
below as (
    select span_id from here where $top is null or span_id = $top
    union select h.span_id from here h join below b on h.parent_id = b.span_id)
"""

# Failures first, then what took longest, and all that stands above either: so a cut trace still explains itself.
_SPANS = f"""{_BELOW}, chosen as (
    select span_id, parent_id from here where span_id in (from below)
    order by ok, duration_ms desc, start_unix_ns, span_id limit $most),
above as (
    from chosen union select h.span_id, h.parent_id from here h join above a on h.span_id = a.parent_id
    where h.span_id in (from below))
select h.*, (select count(*) from below) as total from here h where span_id in (select span_id from above)
order by start_unix_ns, duration_ms desc, span_id
"""

# Of all calls, also of those that are not shown.
_SOURCES = f"""{_BELOW}
select source, max(request_id) filter (starts_with(request_id, 'simulated-')) as request_id from every_attempt
where trace_id = $trace and ($top is null or call_id = $top or call_id in (from below)) group by source
"""

# Of the spans that are shown, and those whose span is not in the log.
_ATTEMPTS = """
select * from every_attempt where trace_id = $trace and (call_id in (select unnest($spans::varchar[])) or (
    ($top is null or call_id = $top) and call_id not in (select span_id from spans where trace_id = $trace)))
order by attempt, start_unix_ns, span_id limit 10 * $most
"""


def waterfall_values(log: Any, found: str, *, most: int = MOST_SPANS) -> Waterfall:
    """The spans and attempts of a trace, of a call, or from a span on, in tree order.

    log: a Log or a Workbench. found: a trace_id (all of it), a span_id or call_id (it and what is below). most: spans
    to keep of a longer trace, the failed and the longest ones, beside all that stand above these.
    Raises LLMValidationError validation.trace where the log has no such id, validation.config for `most` < 1 and for
    what is no log.
    """
    check_most(most)
    reader = reader_of(log)
    told = reader.records(_FIND, {"id": str(found)})
    if not told:
        raise LLMValidationError(
            f"the log has no trace, call or span {inline(str(found))[:80]!r}",
            code="validation.trace",
            next_step="find one with: select trace_id, span_id, operation from spans order by start_unix_ns desc",
        )
    about = {"trace": told[0]["trace_id"], "top": told[0]["top"]}
    spans = reader.records(_SPANS, {**about, "most": most})
    tries = reader.records(_ATTEMPTS, {**about, "most": most, "spans": [s["span_id"] for s in spans]})
    start_ns = min(int(row["start_unix_ns"]) for row in [*spans, *tries])
    bars = tuple(_in_order(spans, tries, start_ns))
    return Waterfall(
        trace_id=told[0]["trace_id"],
        name=bars[0].label,
        bars=bars,
        left_out=spans[0]["total"] - len(spans) if spans else 0,
        source=sources_told(reader.records(_SOURCES, about)),
        start_unix_ns=start_ns,
    )


def _in_order(spans: Sequence[Mapping[str, Any]], tries: Sequence[Mapping[str, Any]], start_ns: int) -> Iterator[Bar]:
    """The bars from the top down: a parent, its attempts, its children by start."""
    known = {s["span_id"] for s in spans}
    children: dict[str | None, list[Mapping[str, Any]]] = {}
    for span in spans:
        children.setdefault(span["parent_id"] if span["parent_id"] in known else None, []).append(span)
    calls: dict[str, list[Mapping[str, Any]]] = {}
    for row in tries:
        calls.setdefault(row["call_id"], []).append(row)
    waiting = [(span, 0) for span in reversed(children.pop(None, []))]
    while waiting:
        span, depth = waiting.pop()
        made = calls.pop(span["span_id"], [])
        yield _span_bar(span, depth, made, start_ns)
        sent = [row for row in made if row["attempt"]]  # the end of a call between two attempts is told by its span
        if sent != made or len(sent) > 1:
            yield from (_attempt_bar(row, depth + 1, start_ns) for row in sent)
        waiting += [(child, depth + 1) for child in reversed(children.pop(span["span_id"], []))]
    for circle in children.values():  # of spans that stand above one another: nothing of ours, but rows of the log
        yield from (_span_bar(span, 0, calls.pop(span["span_id"], []), start_ns) for span in circle)
    for made in calls.values():
        yield from (_attempt_bar(row, 0, start_ns) for row in made)


def _span_bar(span: Mapping[str, Any], depth: int, tries: Sequence[Mapping[str, Any]], start_ns: int) -> Bar:
    made = next((row for row in tries if row["final"]), None)
    attributes = _attributes(span["attributes"])
    about = next((attributes[key] for key in ("model", "item_id", "name", "setup") if key in attributes), None)
    own = span if made is None or span["failure_code"] else made
    code = ended_by(own)
    status = made["status"] if made and own["failure_code"] == made["failure_code"] else _status(code)
    return Bar(
        span_id=span["span_id"],
        depth=depth,
        kind="span",
        component=span["component"],
        label=f"{span['component']}.{span['operation']}" + (f" {about}" if about else ""),
        start_ms=rounded((span["start_unix_ns"] - start_ns) / 1e6),
        duration_ms=rounded(span["duration_ms"]),
        status=status,
        code=code,
        source=made["source"] if made else None,
        details=(*attributes.items(), *(_told(tries[0]) if len(tries) == 1 else ()), *_message(span)),
    )


def _attempt_bar(row: Mapping[str, Any], depth: int, start_ns: int) -> Bar:
    model = row["model"] if not row["provider"] or ":" in row["model"] else f"{row['provider']}:{row['model']}"
    return Bar(
        span_id=row["span_id"],
        depth=depth,
        kind="attempt",
        component="model",
        label=f"attempt {row['attempt']} {model}",
        start_ms=rounded((row["start_unix_ns"] - start_ns) / 1e6),
        duration_ms=rounded(row["duration_ms"]),
        status=row["status"],
        code=ended_by(row),
        source=row["source"],
        details=(*_told(row), *_message(row)),
    )


def _status(code: str | None) -> str:
    if code is None:
        return "ok"
    return "cancelled" if code == "cancelled" else "timeout" if code.startswith("timeout.") else "error"


def _attributes(text: str | None) -> dict[str, str]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in found.items()}


def _told(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    names = ("source", "served_model", "request_id", "prompt_tokens", "completion_tokens", "cost_usd", "booked_usd",
             "ttft_ms", "finish_reason", "flags")  # fmt: skip
    yield from ((name, str(row[name])) for name in names if row[name] is not None)
    if row["possibly_billed"]:
        yield "possibly_billed", "yes"


def _message(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if row["failure_message"]:
        yield "failure", str(row["failure_message"])


# -- shown


def waterfall_table(found: Waterfall) -> Shown:
    """The bars as a table: what, when it began and how long it took in milliseconds, and how it ended.

    Raises LLMValidationError validation.config for what is no Waterfall.
    """
    if not isinstance(found, Waterfall):
        raise LLMValidationError(
            f"the values of a waterfall are needed, and a {type(found).__name__} was given",
            code="validation.config",
            next_step="make them: show.waterfall_table(show.waterfall_values(wb, id))",
        )
    columns = ("span", "start ms", "ms", "ended", "source")
    rows = tuple(
        (INDENT * b.depth + b.label, f"{b.start_ms:.1f}", f"{b.duration_ms:.1f}", _ended(b), b.source or "-")
        for b in found.bars
    )
    table = Table(
        caption=f"trace {found.trace_id}, source: {found.source}",
        columns=columns,
        rows=rows,
        numeric=frozenset({"start ms", "ms"}),
        notes=(_note(found),) if found.left_out else (),
    )
    return Shown(table)


def plot_waterfall(log: Any, found: str, *, most: int = MOST_SPANS) -> go.Figure:
    """The bars of a trace, a call or a span: colour by component, attempts by how they ended; see waterfall_values.

    Beyond six components those with the least time share a colour. What failed has a red edge and its code. Hovering
    shows attributes, tokens and the message of a failure.
    """
    import plotly.graph_objects as go

    told = waterfall_values(log, found, most=most)
    whole_ms = max(b.start_ms + b.duration_ms for b in told.bars) or 1.0
    scale, unit = (1e3, "s") if whole_ms >= 10_000 else (1.0, "ms")
    figure = go.Figure()
    for name, colour, chosen in _groups(told.bars):
        bars = [told.bars[k] for k in chosen]
        # The entry by itself, for one of bars would have the edge of the first of them, though only that had failed.
        entry = {"name": plain(_short(name, NAME)), "legendgroup": colour}
        figure.add_trace(go.Bar(x=[None], y=[None], orientation="h", marker={"color": colour}, **entry))
        bar = go.Bar(
            **entry, showlegend=False, orientation="h", y=chosen,
            width=[0.72 if b.kind == "span" else 0.5 for b in bars],
            base=[rounded(b.start_ms / scale) for b in bars], x=[rounded(b.duration_ms / scale) for b in bars],
            # The line keeps what took no time at all visible.
            marker={"color": colour, "line": {"width": [2 if _bad(b) else 1 for b in bars],
                                              "color": [RED if _bad(b) else colour for b in bars]}},
            text=[plain(_beside(b)) for b in bars], cliponaxis=False, constraintext="none", textangle=0,
            textposition=["inside" if _holds(b, whole_ms) else "outside" for b in bars], insidetextanchor="end",
            insidetextfont={"size": 11}, outsidetextfont={"size": 11, "color": "#333333"},
            hovertext=[_hover(b) for b in bars], hovertemplate="%{hovertext}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(bar)
    labels, left = _labels(told.bars)
    figure.update_yaxes(range=[len(labels) - 0.4, -0.6], showticklabels=False, zeroline=False, showgrid=False)
    ends = [rounded(-0.01 * whole_ms / scale), rounded(_reach(told.bars, whole_ms) / scale)]
    figure.update_xaxes(title_text=f"time since the start ({unit})", range=ends, zeroline=False)
    for k, label in enumerate(labels):  # the labels of an axis end at it, and would hide the tree
        figure.add_annotation(
            xref="paper", x=0, xanchor="left", xshift=10 - left, y=k, text=label, showarrow=False, align="left",
            font={"size": 12},
        )  # fmt: skip
    lines = [f"trace {told.trace_id}, source: {told.source}", *([_note(told)] if told.left_out else [])]
    caption = "".join(f"<br><sub>{plain(line)}</sub>" for line in lines)
    return figure.update_layout(
        title={"text": f"{plain(_short(told.name, 70))}{caption}", "x": 0, "xanchor": "left"},
        template="plotly_white", barmode="overlay", showlegend=True, height=210 + 24 * max(len(labels), 3),
        margin={"l": left, "r": 20, "t": 120, "b": 90},
        legend={"orientation": "h", "yanchor": "bottom", "yref": "container", "y": 0,
                "xref": "container", "x": 0, "xanchor": "left"},
    )  # fmt: skip


def _groups(bars: Sequence[Bar]) -> Iterator[tuple[str, str, list[int]]]:
    """Legend entry, colour and places of the spans of each component, and of the attempts by how they ended."""
    took: dict[str, float] = {}
    for b in bars:
        if b.kind == "span":
            took[b.component] = took.get(b.component, 0.0) + b.duration_ms
    longest = sorted(took, key=lambda component: -took[component])[: len(PALETTE)]
    named = [component for component in took if component in longest]
    for component, colour in zip(named, PALETTE, strict=False):
        yield component, colour, [i for i, b in enumerate(bars) if b.kind == "span" and b.component == component]
    if rest := [i for i, b in enumerate(bars) if b.kind == "span" and b.component not in named]:
        yield *OTHERS, rest
    for status in dict.fromkeys(b.status for b in bars if b.kind == "attempt"):
        chosen = [i for i, b in enumerate(bars) if b.kind == "attempt" and b.status == status]
        yield f"attempt: {status}", FAILED.get(status, (GREY, ""))[0], chosen


def _labels(bars: Sequence[Bar]) -> tuple[list[str], int]:
    """What stands beside the bars, indented by their depth, and the room it needs in pixels: MARGIN_PX at most."""
    found, widest = [], 0.0
    for bar in bars:
        spaces = min(len(INDENT) * min(bar.depth, STEPS) + max(0, bar.depth - STEPS), MOST_SPACES)
        label = _short(bar.label, int((MARGIN_PX - 20 - SPACE_PX * spaces) / CHAR_PX))
        widest = max(widest, SPACE_PX * spaces + CHAR_PX * len(label))
        found.append(plain(SPACE * spaces + label))
    return found, 20 + round(widest)


def _holds(bar: Bar, whole_ms: float) -> bool:
    """Whether what is told of a bar fits into it in a narrow notebook: 16 characters in a quarter of the width."""
    return bar.duration_ms / whole_ms * 64 > len(_beside(bar)) + 2


def _reach(bars: Sequence[Bar], whole_ms: float) -> float:
    """End of the axis in milliseconds, with room for what is written behind the bars."""
    behind = [b for b in bars if not _holds(b, whole_ms)]
    return max([whole_ms, *((b.start_ms + b.duration_ms) / (1 - (len(_beside(b)) + 1) / 64) for b in behind)])


def _bad(bar: Bar) -> bool:
    return bar.status not in ("ok", "cancelled")


def _ended(bar: Bar) -> str:
    return bar.code or bar.status


def _beside(bar: Bar) -> str:
    took = f"{bar.duration_ms / 1e3:.2f} s" if bar.duration_ms >= 10_000 else f"{bar.duration_ms:.1f} ms"
    return took if bar.status == "ok" else f"{took}  {_short(_ended(bar), 30)}"


def _hover(bar: Bar) -> str:
    lines = [f"<b>{plain(bar.label)}</b>", f"{bar.start_ms:.1f} ms + {bar.duration_ms:.1f} ms, {plain(_ended(bar))}"]
    lines += [f"{plain(_short(name, 60))}: {plain(_short(value, HOVER))}" for name, value in bar.details]
    return "<br>".join([*lines, f"span {plain(bar.span_id)}"])


def _note(found: Waterfall) -> str:
    spans = sum(b.kind == "span" for b in found.bars)
    return f"{spans} of {spans + found.left_out} spans are shown: those that failed or took longest, and what is above"


def _short(text: str, most: int) -> str:
    """The text with its middle left out where it is too long: both ends of an id or a path tell something."""
    if len(text) <= most:
        return text
    front = (most - 3) * 2 // 3
    return f"{text[:front]}...{text[len(text) - (most - 3 - front) :]}"
