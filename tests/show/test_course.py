"""The course of a run: starts, durations and the calls under way, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from workbench import Workbench, show
from workbench.errors import LLMValidationError
from workbench.facts import Call, Failure, Request, Response, RunEnded, RunStarted
from workbench.record.log import Log
from workbench.show.course import Load, load_of, timeline_values

T0 = 1_780_000_000_000_000_000
BUSY = Failure(kind="LLMRateLimitError", code="rate_limit", message="429")
POOR = Failure(kind="LLMError", code="budget.exceeded", message="spent")


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.open(tmp_path / "log")


def started(log: Log) -> SimpleNamespace:
    log.write(
        RunStarted(run_id="r", name="pets", source="live", models=(), spec={}, start_unix_ns=T0),
        RunEnded(run_id="r", status="finished", end_unix_ns=T0 + 10**10, items=3),
    )
    return SimpleNamespace(log=log, run_id="r")


def call(span_id: str, member: str, at_s: float, took_ms: float, **changes: Any) -> Call:
    failure: Failure | None = changes.pop("failure", None)
    request = Request.of("Hello?")
    response = Response(request_key=request.key, model="m", text="Hi.", source="live",
                        request_id=changes.pop("request_id", None))  # fmt: skip
    given: dict[str, Any] = {
        "span_id": span_id, "trace_id": "t", "run_id": "r", "item_id": f"q-{span_id}", "provider": "lab",
        "model": "m", "request": request, "response": None if failure else response, "failure": failure,
        "start_unix_ns": T0 + round(at_s * 1e9), "duration_ms": took_ms, "member": member, **changes,
    }  # fmt: skip
    return Call(**given)


def test_a_call_lasts_from_its_first_attempt_to_its_end(log: Log) -> None:
    """Start and duration are those of the whole call, of which the log's row is the last attempt."""
    run = started(log)
    log.write(
        call("a", "lab:m", 0.5, 250),
        call("b1", "lab:n", 1.0, 100, call_id="b", final=False, failure=BUSY),
        # Its second attempt began 2 s after the run and took 0.5 s; the whole call took 1.5 s: it began after 1 s.
        call("b2", "lab:n", 2.0, 500, call_id="b", attempt=2, attempts=2, call_ms=1500, request_id="simulated-7"),
        call("c", "lab:n", 3.0, 0, attempt=0, failure=POOR),
    )
    found = timeline_values(run)
    assert [(d.call_id, d.member, d.item_id, d.start_s, d.duration_ms, d.attempts) for d in found.dots] == [
        ("a", "lab:m", "q-a", 0.5, 250.0, 1),
        ("b", "lab:n", "q-b2", 1.0, 1500.0, 2),
        ("c", "lab:n", "q-c", 3.0, 0.0, 0),
    ]
    assert [(d.status, d.code, d.source) for d in found.dots] == [
        ("ok", None, "live"), ("ok", None, "live"), ("refused", "budget.exceeded", None),
    ]  # fmt: skip
    assert (found.name, found.status, found.calls, found.members) == ("pets", "finished", 3, ("lab:m", "lab:n"))
    assert found.source == "live, simulated server"
    # a: 0.5 to 0.75; b: 1 to 2.5; c takes no time.
    assert [(x.at_s, x.calls) for x in found.load] == [(0.5, 1), (0.75, 0), (1.0, 1), (2.5, 0), (3.0, 0)]


def test_the_load_counts_what_is_under_way() -> None:
    """A call that ends when another begins is not under way with it; equal moments are one step."""
    assert load_of([(0, 2), (1, 3), (2, 4), (2, 4)]) == [
        Load(at_s=0.0, calls=1), Load(at_s=1.0, calls=2), Load(at_s=2.0, calls=3), Load(at_s=3.0, calls=2),
        Load(at_s=4.0, calls=0),
    ]  # fmt: skip


def test_a_long_load_keeps_its_peaks_and_its_end() -> None:
    """Of 2,000 changes 100 remain, with the short peak of seven calls among them, and zero at the end."""
    calls = [(k, k + 0.5) for k in range(1000)] + [(400.1, 400.2)] * 6
    found = load_of(calls, steps=100)
    assert len(found) <= 102
    assert max(x.calls for x in found) == 7
    assert next(x.at_s for x in found if x.calls == 7) <= 400.2
    assert found[-1] == Load(at_s=999.5, calls=0)


def test_a_long_run_is_thinned_out_but_keeps_its_failures(log: Log) -> None:
    """Of 100 calls with 5 failures 20 dots keep the 5, and 15 others evenly spaced; the load is that of all."""
    run = started(log)
    log.write(*(call(f"{k:03}", "lab:m", k, 500, failure=BUSY if k % 20 == 3 else None) for k in range(100)))
    found = timeline_values(run, most=20)
    assert (len(found.dots), found.calls, len(found.load)) == (20, 100, 200)
    assert [d.call_id for d in found.dots if d.status != "ok"] == ["003", "023", "043", "063", "083"]
    fine = [int(d.call_id) for d in found.dots if d.status == "ok"]
    assert len(fine) == 15
    assert fine[0] == 0
    assert {later - sooner for sooner, later in pairwise(fine)} <= {6, 7, 8}
    assert "100 calls, of which 20 are drawn" in str(show.timeline(run, most=20).layout.title.text)
    assert len(timeline_values(run, most=3).dots) == 3


def test_a_run_without_calls_is_refused(log: Log) -> None:
    """An unknown run, and one that called nothing, are a typed error."""
    run = started(log)
    for wanted in (run, SimpleNamespace(log=log, run_id="unknown")):
        with pytest.raises(LLMValidationError) as caught:
            timeline_values(wanted)
        assert caught.value.code == "data.empty"
        assert repr(wanted.run_id) in caught.value.message


def test_the_figure_has_a_panel_for_each_model_and_one_for_the_load(log: Log) -> None:
    """Dots stand at their start and duration; status is one legend entry each; a refused call stands at the edge."""
    run = started(log)
    log.write(
        call("a", "lab:m", 0.5, 250),
        call("b", "lab:<b>n", 1.0, 2000, failure=BUSY),
        call("c", "lab:<b>n", 3.0, 0, attempt=0, failure=POOR),
        call("d", "lab:<b>n", 4.0, 20),
    )
    figure = show.timeline(run)
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["<b>lab:m</b>", "<b>lab:&lt;b&gt;n</b>", "<b>calls under way</b>"]
    drawn = [(t.name, t.yaxis, list(t.x), list(t.y), t.showlegend) for t in figure.data]
    assert drawn == [
        ("ok", "y", [0.5], [250.0], True),
        ("ok", "y2", [4.0], [20.0], False),
        ("error", "y2", [1.0], [2000.0], True),
        ("refused", "y2", [3.0], [pytest.approx(15.0)], True),  # the axis begins at 20 / 1.6 = 12.5 ms
        ("calls under way", "y3", [0.5, 0.75, 1.0, 3.0, 4.0, 4.02], [1, 0, 1, 0, 1, 0], False),
    ]
    assert len({(t.marker.color, t.marker.symbol) for t in figure.data[:4]}) == 3
    assert "4 calls, source: live; run r, finished" in str(figure.layout.title.text)


@pytest.mark.parametrize("given", ["r", None, Log, SimpleNamespace(log=None, run_id="r")])
def test_what_is_no_run_is_refused(given: Any) -> None:
    """The error names what was given and how a run is found."""
    with pytest.raises(LLMValidationError) as caught:
        show.timeline(given)
    assert (caught.value.code, "get_run" in caught.value.next_step) == ("validation.config", True)


def test_a_workbench_is_no_run(tmp_path: Path) -> None:
    """It has a log, and many runs."""
    with Workbench.open(tmp_path / "log") as wb, pytest.raises(LLMValidationError, match="a run is needed"):
        show.timeline(wb)


def test_times_far_below_a_millisecond_keep_their_places(log: Log) -> None:
    """Calls of 30 and 90 microseconds: the axis is theirs, with two round numbers at least."""
    run = started(log)
    log.write(call("a", "lab:m", 0.1, 0.03), call("b", "lab:m", 0.2, 0.09))
    figure = show.timeline(run)
    assert list(figure.data[0].y) == [0.03, 0.09]
    assert "after 0.03 ms" in figure.data[0].hovertext[0]
    # The axis goes from 0.03 / 1.6 = 0.01875 to 0.09 * 1.6 = 0.144.
    assert list(figure.layout.yaxis.tickvals) == [0.02, 0.05, 0.1]
    assert list(figure.layout.yaxis.ticktext) == ["0.02", "0.05", "0.1"]


def test_a_short_axis_has_three_ticks(log: Log) -> None:
    """One call of 3 ms: from 1.875 to 4.8 ms only 2 is round, so three numbers of two digits take its place."""
    run = started(log)
    log.write(call("a", "lab:m", 0.1, 3))
    # 1.875 * 2.56 ** 0.15 = 2.159, 3, and 1.875 * 2.56 ** 0.85 = 4.168.
    assert list(show.timeline(run).layout.yaxis.tickvals) == [2.2, 3.0, 4.2]


def test_a_failure_without_a_code_is_told_by_its_type_here_too(log: Log) -> None:
    """A call that broke by an ordinary exception."""
    run = started(log)
    log.write(call("a", "lab:m", 0.1, 3, failure=Failure(kind="ValueError", code="untyped", message="no")))
    assert [d.code for d in timeline_values(run).dots] == ["ValueError"]


@pytest.mark.parametrize(("source", "told"), [("simulated", True), ("live", False)])
def test_the_times_of_simulated_models_are_explained(log: Log, source: str, told: bool) -> None:
    """Their durations are not what the model would take; the caption names the view that has it."""
    run = started(log)
    given = call("a", "lab:m", 0.1, 3, request_id="simulated-1")
    assert given.response is not None
    log.write(replace(given, response=replace(given.response, source=source)))
    assert ("latency_ms is in the view" in show.timeline(run).layout.title.text) == told


def test_many_models_share_the_last_panel(log: Log) -> None:
    """Of twelve models nine have a panel of their own; nothing of the other three is left out."""
    run = started(log)
    log.write(*(call(f"c{k:02}", f"lab:m{k:02}", k, 100) for k in range(12)))
    figure = show.timeline(run)
    assert [note.text for note in figure.layout.annotations][8:] == [
        "<b>lab:m08</b>", "<b>other models</b>", "<b>calls under way</b>",
    ]  # fmt: skip
    assert [list(t.x) for t in figure.data if t.yaxis == "y10"] == [[9.0, 10.0, 11.0]]


def test_a_run_of_the_workbench_is_drawn_as_it_is(tmp_path: Path) -> None:
    """A Run and a Workbench go in directly; simulated answers are called so."""
    with Workbench.open(tmp_path / "log") as wb:
        run = wb.run_sync("general", models=["simulated:strong", "simulated:weak"])
        figure = show.timeline(run)
        assert "source: simulated" in str(figure.layout.title.text)
        assert sum(len(t.x) for t in figure.data[:-1]) == timeline_values(run).calls
        assert timeline_values(run).calls == wb.sql("select 2 * count(*) as n from items")["n"][0]
        [[trace]] = wb.sql("select trace_id from spans where operation = 'run'").values.tolist()
        assert "source: simulated" in str(show.plot_waterfall(wb, trace).layout.title.text)
