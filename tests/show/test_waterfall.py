"""The waterfall: bars of a request worked out by hand from the spans and attempts that were logged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from workbench import show
from workbench.errors import LLMValidationError
from workbench.facts import Call, Failure, Request, Response, Span, Usage
from workbench.record.log import Log
from workbench.show.waterfall import Bar, plot_waterfall, waterfall_table, waterfall_values

T0 = 1_780_000_000_000_000_000
BUSY = Failure(kind="LLMRateLimitError", code="rate_limit", message="429 <b>slow</b> down")
LATE = Failure(kind="LLMTimeoutError", code="timeout.deadline", message="late")
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.open(tmp_path / "log")


def span(span_id: str, parent: str | None, at_ms: float, took_ms: float, **changes: Any) -> Span:
    failure: Failure | None = changes.pop("failure", None)
    attributes: Mapping[str, Any] = changes.pop("attributes", {})
    given: dict[str, Any] = {
        "trace_id": "T", "span_id": span_id, "parent_id": parent, "component": "model", "operation": "complete",
        "start_unix_ns": T0 + round(at_ms * 1e6), "duration_ms": took_ms, "ok": failure is None, "failure": failure,
        "attributes": attributes, **changes,
    }  # fmt: skip
    return Span(**given)


def attempt(span_id: str, call_id: str, number: int, at_ms: float, took_ms: float, **changes: Any) -> Call:
    failure: Failure | None = changes.pop("failure", None)
    request = Request.of("Hello?")
    response = Response(
        request_key=request.key, model="small", text="Hello.", usage=Usage(prompt_tokens=3, completion_tokens=2),
        cost_usd=0.25, source=changes.pop("source", "live"), request_id=changes.pop("request_id", None),
    )  # fmt: skip
    given: dict[str, Any] = {
        "span_id": span_id, "trace_id": "T", "run_id": "r", "item_id": "q1", "provider": "lab", "model": "small",
        "request": request, "response": None if failure else response, "failure": failure,
        "start_unix_ns": T0 + round(at_ms * 1e6), "duration_ms": took_ms, "call_id": call_id, "attempt": number,
        "final": changes.pop("final", True), "member": "lab:small", **changes,
    }  # fmt: skip
    return Call(**given)


def request_of_two(log: Log) -> None:
    """An item asked of two models: one answers at once, the other at its third attempt; a third timed out."""
    log.write(
        # As they are written: children first.
        attempt("a", "a", 1, 1, 20, source="simulated", provider="simulated", model="simulated:weak"),
        span("a", "item", 1, 21, attributes={"model": "simulated:weak"}),
        attempt("b", "b", 1, 2, 3, failure=BUSY, final=False),
        attempt("b2", "b", 2, 30, 4, failure=BUSY, final=False),
        attempt("b3", "b", 3, 60, 39, attempts=3, call_ms=97),
        span("b", "item", 2, 97, attributes={"model": "lab:small", "attempts": 3}),
        attempt("c", "c", 1, 3, 50, failure=LATE),
        span("c", "item", 3, 50, failure=LATE, attributes={"model": "lab:big"}),
        span("item", None, 0, 100, component="study", operation="item", attributes={"item_id": "q1"}),
        span("else", None, 0, 500, trace_id="another"),
    )


def told(bar: Bar) -> tuple[Any, ...]:
    return bar.depth, bar.label, bar.start_ms, bar.duration_ms, bar.status, bar.code, bar.source


TREE = [
    (0, "study.item q1", 0.0, 100.0, "ok", None, None),
    (1, "model.complete simulated:weak", 1.0, 21.0, "ok", None, "simulated"),
    (1, "model.complete lab:small", 2.0, 97.0, "ok", None, "live"),
    (2, "attempt 1 lab:small", 2.0, 3.0, "error", "rate_limit", None),
    (2, "attempt 2 lab:small", 30.0, 4.0, "error", "rate_limit", None),
    (2, "attempt 3 lab:small", 60.0, 39.0, "ok", None, "live"),
    (1, "model.complete lab:big", 3.0, 50.0, "timeout", "timeout.deadline", None),
]


def test_the_bars_of_a_trace_are_its_spans_and_attempts_in_tree_order(log: Log) -> None:
    """A parent comes before its attempts and children, these by start; one attempt is told with its span."""
    request_of_two(log)
    found = waterfall_values(log, "T")
    assert [told(bar) for bar in found.bars] == TREE
    assert [bar.kind for bar in found.bars] == ["span"] * 3 + ["attempt"] * 3 + ["span"]
    assert (found.trace_id, found.name, found.left_out, found.source, found.start_unix_ns) == (
        "T", "study.item q1", 0, "live+simulated", T0,
    )  # fmt: skip
    details = dict(found.bars[1].details)
    assert (details["model"], details["cost_usd"], details["prompt_tokens"]) == ("simulated:weak", "0.25", "3")
    assert dict(found.bars[3].details) == {"failure": BUSY.message}


@pytest.mark.parametrize("found", ["b", "b2"])
def test_a_call_is_shown_alone_by_its_own_or_an_attempts_id(log: Log, found: str) -> None:
    """Only the call and its attempts are there, and times count from its own start."""
    request_of_two(log)
    shown = waterfall_values(log, found)
    assert [told(bar)[:4] for bar in shown.bars] == [
        (0, "model.complete lab:small", 0.0, 97.0),
        (1, "attempt 1 lab:small", 0.0, 3.0),
        (1, "attempt 2 lab:small", 28.0, 4.0),
        (1, "attempt 3 lab:small", 58.0, 39.0),
    ]
    assert (shown.source, shown.start_unix_ns) == ("live", T0 + 2_000_000)


def test_what_has_no_parent_in_the_log_stands_at_the_top(log: Log) -> None:
    """A span whose parent never closed, a call whose span is missing, and spans in a circle are all there."""
    log.write(
        span("child", "never closed", 5, 10),
        attempt("x", "x", 1, 7, 2),
        span("egg", "hen", 8, 1, operation="egg"),
        span("hen", "egg", 9, 1, operation="hen"),
    )
    assert [(b.depth, b.label, b.start_ms) for b in waterfall_values(log, "T").bars] == [
        (0, "model.complete", 0.0), (0, "model.egg", 3.0), (0, "model.hen", 4.0), (0, "attempt 1 lab:small", 2.0),
    ]  # fmt: skip
    assert [b.label for b in waterfall_values(log, "x").bars] == ["attempt 1 lab:small"]


def test_a_call_that_ended_between_two_attempts_shows_the_attempts_that_were_sent(log: Log) -> None:
    """The end without an attempt is told by the call's own bar; a call that was never sent has no bar below it."""
    given_up = Failure(kind="LLMFailoverError", code="failover.exhausted", message="all closed")
    log.write(
        attempt("k", "k", 1, 0, 3, failure=BUSY, final=False),
        attempt("k0", "k", 0, 0, 40, failure=given_up, attempts=1),
        span("k", None, 0, 40, failure=given_up),
    )
    assert [told(b)[1:6] for b in waterfall_values(log, "k").bars] == [
        ("model.complete", 0.0, 40.0, "error", "failover.exhausted"),
        ("attempt 1 lab:small", 0.0, 3.0, "error", "rate_limit"),
    ]
    refused = Failure(kind="LLMError", code="budget.exceeded", message="spent")
    log.write(attempt("n", "n", 0, 0, 0, failure=refused, trace_id="N"), span("n", None, 0, 0.1, failure=refused,
                                                                              trace_id="N"))  # fmt: skip
    assert [told(b)[4:6] for b in waterfall_values(log, "N").bars] == [("refused", "budget.exceeded")]


def test_a_long_trace_keeps_what_failed_and_what_took_longest(log: Log) -> None:
    """Of 200 calls below 10 items the failed one and the longest stay, with their items and the run; a note says so."""
    log.write(span("run", None, 0, 1000, component="study", operation="run"))
    for k in range(10):
        log.write(span(f"item{k}", "run", k * 100, 90, component="study", operation="item"))
    for k in range(200):
        failure = BUSY if k == 7 else None
        log.write(span(f"call{k}", f"item{k // 20}", k * 5, 99 if k == 150 else 1, failure=failure))
        log.write(attempt(f"call{k}", f"call{k}", 1, k * 5, 1, failure=failure, request_id="simulated-1"))
    found = waterfall_values(log, "T", most=3)  # the failed call 7, the run, and call 150, of items 0 and 7
    assert [(b.depth, b.span_id) for b in found.bars] == [
        (0, "run"), (1, "item0"), (2, "call7"), (1, "item7"), (2, "call150"),
    ]  # fmt: skip
    assert (found.left_out, found.source) == (206, "live, simulated server")
    note = "5 of 211 spans are shown: those that failed or took longest, and what is above"
    assert note in waterfall_table(found).table.notes
    assert note in str(plot_waterfall(log, "T", most=3).layout.title.text)
    assert waterfall_values(log, "T", most=500).left_out == 0


@pytest.mark.parametrize("found", ["nothing", "", HOSTILE], ids=["unknown", "empty", "hostile"])
def test_an_unknown_id_is_refused(log: Log, found: str) -> None:
    """The error is typed, names the id and tells a query that finds one."""
    request_of_two(log)
    with pytest.raises(LLMValidationError) as caught:
        waterfall_values(log, found)
    assert caught.value.code == "validation.trace"
    assert repr(found) in caught.value.message
    assert len(caught.value.next_step) <= 160


@pytest.mark.parametrize("most", [0, -1, True, 2.5, "9", 1_000_001, 10**30])
def test_a_number_of_spans_out_of_range_is_refused(log: Log, most: Any) -> None:
    """Below one and beyond a million: the error is typed, for both figures, and comes before the log is read."""
    for draw in (lambda: plot_waterfall(log, "T", most=most), lambda: show.timeline(None, most=most)):
        with pytest.raises(LLMValidationError) as caught:
            draw()
        assert caught.value.code == "validation.config"


@pytest.mark.parametrize("given", [None, "data/log", 3], ids=["nothing", "folder", "number"])
def test_what_is_no_log_is_refused(given: Any) -> None:
    """The error names what was given and how to open a log; a table takes values alone."""
    for draw in (lambda: plot_waterfall(given, "T"), lambda: waterfall_table(given)):
        with pytest.raises(LLMValidationError) as caught:
            draw()
        assert caught.value.code == "validation.config"
        assert type(given).__name__ in caught.value.message
        assert len(caught.value.next_step) <= 160


def test_a_failure_without_a_code_is_told_by_its_type(log: Log) -> None:
    """And what somebody stopped is cancelled, which is no failure."""
    log.write(span("top", None, 0, 50, component="c", operation="top"))
    kinds = ["ValueError", "KeyboardInterrupt", "SystemExit", "GeneratorExit"]
    for k, kind in enumerate(kinds):
        log.write(span(f"s{k}", "top", k, 1, failure=Failure(kind=kind, code="untyped", message="no")))
    stopped = Failure(kind="CancelledError", code="cancelled", message="cancelled")
    log.write(span("s4", "top", 4, 1, failure=stopped))
    found = waterfall_values(log, "T")
    assert [(b.status, b.code) for b in found.bars] == [
        ("ok", None), ("error", "ValueError"), *[("cancelled", "cancelled")] * 4,
    ]  # fmt: skip
    assert [row[3] for row in waterfall_table(found).table.rows] == ["ok", "ValueError", *["cancelled"] * 4]
    [bars] = [t for t in plot_waterfall(log, "T").data if t.name == "model" and t.showlegend is False]
    assert [colour == "#D55E00" for colour in bars.marker.line.color] == [True, False, False, False, False]


def test_a_deep_trace_leaves_room_for_its_bars(log: Log) -> None:
    """Three spaces a level for eight levels, one for each below, forty at most; the margin is 340 pixels at most."""
    for k in range(40):
        log.write(span(f"s{k:02}", f"s{k - 1:02}" if k else None, k, 100 - k, operation="o" * 200))
    figure = plot_waterfall(log, "T")
    labels = [note.text for note in figure.layout.annotations]
    spaces = [len(label) - len(label.lstrip("\u00a0")) for label in labels]
    assert spaces[:11] == [0, 3, 6, 9, 12, 15, 18, 21, 24, 25, 26]
    assert (spaces[24], spaces[-1]) == (40, 40)
    assert 330 <= figure.layout.margin.l <= 340
    assert all("..." in label for label in labels)
    for label, indent in zip(labels, spaces, strict=True):
        assert 20 + 3.9 * indent + 7.2 * (len(label) - indent) <= 340


def test_six_components_have_a_colour_each_and_the_others_one(log: Log) -> None:
    """Those with the most time; entries of the legend have no red edge, and there is one for each colour."""
    log.write(span("top", None, 0, 500, component="top", operation="o"))
    for k in range(9):
        log.write(span(f"s{k}", "top", k, 10 * k + 10, component=f"c{k}", operation="o", failure=BUSY))
    figure = plot_waterfall(log, "T")
    shown = [t for t in figure.data if t.showlegend is not False]
    assert [t.name for t in shown] == ["top", "c4", "c5", "c6", "c7", "c8", "other components"]
    assert len({t.marker.color for t in shown}) == 7
    assert {t.marker.line.color for t in shown} == {None}
    others = next(t for t in figure.data if t.name == "other components" and t.showlegend is False)
    assert list(others.x) == [10.0, 20.0, 30.0, 40.0]


def test_the_table_shows_the_tree_and_how_each_ended(log: Log) -> None:
    """Spans are indented under their parent; times have one decimal; the caption has the trace and the source."""
    request_of_two(log)
    text = repr(waterfall_table(waterfall_values(log, "T"))).replace("\xa0", " ").splitlines()
    assert text[0] == "trace T, source: live+simulated"
    assert [line.split() for line in text[5:7]] == [
        ["model.complete", "lab:small", "2.0", "97.0", "ok", "live"],
        ["attempt", "1", "lab:small", "2.0", "3.0", "rate_limit", "-"],
    ]
    assert (text[5][:4], text[6][:7]) == ("   m", "      a")


def test_the_figure_draws_each_bar_where_its_numbers_say(log: Log) -> None:
    """Spans are coloured by component, attempts by how they ended; failures have a red edge and their code."""
    request_of_two(log)
    figure = show.plot_waterfall(log, "T")
    drawn = {
        y: (trace.name, base, x, text, edge)
        for trace in figure.data
        if trace.showlegend is False
        for y, base, x, text, edge in zip(
            trace.y, trace.base, trace.x, trace.text, trace.marker.line.color, strict=True
        )
    }
    assert [drawn[k][:3] for k in range(7)] == [
        ("study", 0.0, 100.0),
        ("model", 1.0, 21.0),
        ("model", 2.0, 97.0),
        ("attempt: error", 2.0, 3.0),
        ("attempt: error", 30.0, 4.0),
        ("attempt: ok", 60.0, 39.0),
        ("model", 3.0, 50.0),
    ]
    assert (drawn[6][3], drawn[1][3]) == ("50.0 ms  timeout.deadline", "21.0 ms")
    colours = {trace.name: trace.marker.color for trace in figure.data}
    assert len(set(colours.values())) == len(colours)
    assert {k for k in drawn if drawn[k][4] == "#D55E00"} == {3, 4, 6}
    labels = [note.text.replace("\xa0", " ") for note in figure.layout.annotations]
    assert [label.strip() for label in labels] == [bar[1] for bar in TREE]
    assert [len(label) - len(label.lstrip()) for label in labels] == [3 * bar[0] for bar in TREE]
    assert "source: live+simulated" in figure.layout.title.text


def test_sec_xss_names_and_attributes_of_spans_are_inert_in_the_figure(log: Log) -> None:
    """Markup in a component, an attribute or a message is drawn as text; a very long one is cut in its middle."""
    log.write(
        span("s", None, 0, 20_000, component=HOSTILE, operation=HOSTILE * 40, failure=BUSY,
             attributes={HOSTILE: HOSTILE, "model": HOSTILE, "long": "x" * 100_000, "list": [1, {"a": HOSTILE}]})
    )  # fmt: skip
    text = plot_waterfall(log, "s").to_json()
    assert "<script" not in text
    assert "\\u003cscript" not in text
    assert "<b>slow" not in text
    assert len(text) < 40_000
    assert "time since the start (s)" in text
