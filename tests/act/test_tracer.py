"""The tracer: what it counts, what it remembers, and what it tells."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

import workbench.act.tracer as module
from workbench import PerformanceMetric, PerformanceStats
from workbench.act.performance import Totals
from workbench.act.trace import span, trace_block
from workbench.act.tracer import PerformanceTracer, get_performance_report, performance_tracer
from workbench.act.world import MemorySink, World
from workbench.errors import LLMRateLimitError, LLMValidationError
from workbench.facts import Failure


def metric(operation="op", duration_ms=1.0, component="c", **fields):
    """A measurement as a user would make one."""
    return PerformanceMetric(component=component, operation=operation, duration_ms=duration_ms, **fields)


def traced(tracer, operation, error=None, component="c"):
    """A block that ends with the error, which is swallowed here."""
    try:
        with trace_block(component, operation, tracer=tracer) as here:
            if error is not None:
                raise error
    except BaseException as caught:
        if caught is not error:
            raise
    return here


@pytest.fixture
def tracer():
    """A tracer of one's own."""
    return PerformanceTracer()


# -- counting


def test_statistics_are_those_of_a_hand_calculation(tracer):
    """Count, extremes, mean, sum and percentiles of 1, 2, 4 and 13 ms: the percentiles lie between neighbours."""
    for duration_ms in (4.0, 1.0, 13.0, 2.0):
        tracer.record_metric(metric(duration_ms=duration_ms))
    # Place of a percentile in four values: q * 3. p50: 1.5, between 2 and 4; p90: 2.7, p95: 2.85, p99: 2.97 of 4 to 13.
    assert tracer.get_stats("c", "op") == PerformanceStats(
        component="c",
        operation="op",
        count=4,
        successes=4,
        errors=0,
        cancelled=0,
        success_rate=1.0,
        error_rate=0.0,
        min_ms=1.0,
        max_ms=13.0,
        avg_ms=5.0,
        total_ms=20.0,
        p50_ms=3.0,
        p90_ms=pytest.approx(4 + 0.7 * 9),
        p95_ms=pytest.approx(4 + 0.85 * 9),
        p99_ms=pytest.approx(4 + 0.97 * 9),
        recent=4,
        metrics={},
    )


@pytest.mark.parametrize("n", [1, 2, 3, 10, 999])
def test_percentiles_are_those_of_numpy(tracer, n):
    """Linear between neighbours, for any number of values in any order."""
    values = np.random.default_rng(n).exponential(100.0, n)
    for value in values:
        tracer.record_metric(metric(duration_ms=float(value)))
    stats = tracer.get_stats("c", "op")
    expected = np.quantile(values, [0.5, 0.9, 0.95, 0.99])
    assert [stats.p50_ms, stats.p90_ms, stats.p95_ms, stats.p99_ms] == pytest.approx(list(expected))
    assert stats.min_ms <= stats.p50_ms <= stats.p90_ms <= stats.p95_ms <= stats.p99_ms <= stats.max_ms
    assert stats.min_ms <= stats.avg_ms <= stats.max_ms


def test_an_operation_that_was_never_seen_has_no_numbers(tracer):
    """Nothing is made up: counts are 0, times and rates None."""
    stats = tracer.get_stats("no", "such")
    assert (stats.count, stats.total_ms, stats.recent) == (0, 0.0, 0)
    assert stats.min_ms is stats.max_ms is stats.avg_ms is stats.p50_ms is stats.p99_ms is None
    assert stats.success_rate is stats.error_rate is None


def test_statistics_of_a_component_and_of_everything_are_those_of_their_parts_together(tracer):
    """Left out, the operation or the component stands for all of them: percentiles, too, are of all values."""
    for component, operation, duration_ms in (("a", "x", 1.0), ("a", "y", 3.0), ("b", "x", 11.0)):
        tracer.record_metric(metric(operation, duration_ms, component, metrics={"tokens": duration_ms}))
    a, x, everything = tracer.get_stats("a"), tracer.get_stats(None, "x"), tracer.get_stats()
    assert (a.count, a.p50_ms, a.total_ms, a.operation) == (2, 2.0, 4.0, None)
    assert (x.count, x.p50_ms, x.max_ms, x.component) == (2, 6.0, 11.0, None)
    assert (everything.count, everything.p50_ms, everything.avg_ms) == (3, 3.0, 5.0)
    assert (everything.metrics["tokens"].count, everything.metrics["tokens"].total) == (3, 15.0)


def test_errors_and_successes_have_rates_and_interruptions_have_none(tracer):
    """A cancellation or Ctrl-C is neither: 1 error in 4 outcomes stays a quarter, whatever was cancelled."""
    traced(tracer, "op", ValueError("no"))
    for _ in range(3):
        traced(tracer, "op")
    for error in (KeyboardInterrupt(), SystemExit(1), GeneratorExit()):
        traced(tracer, "op", error)
    tracer.record_metric(metric(failure=Failure(kind="Failure", code="cancelled", message="late")))
    stats = tracer.get_stats("c", "op")
    assert (stats.count, stats.successes, stats.errors, stats.cancelled) == (8, 3, 1, 4)
    assert (stats.success_rate, stats.error_rate) == (0.75, 0.25)


def test_own_numbers_have_statistics(tracer):
    """`trace.metric` keeps a number; of two of one name in a span the last counts."""
    for tokens in (10, 20, 60):
        with trace_block("c", "op", tracer=tracer) as trace:
            trace.metric("tokens", 1)
            trace.metric("tokens", tokens)
            trace.metric("cost_usd", np.float32(0.5))
    stats = tracer.get_stats("c", "op").metrics
    assert (stats["tokens"].count, stats["tokens"].min, stats["tokens"].max) == (3, 10.0, 60.0)
    assert (stats["tokens"].avg, stats["tokens"].total, stats["cost_usd"].total) == (30.0, 90.0, 1.5)
    assert [m.metrics["tokens"] for m in tracer.get_metrics()] == [10.0, 20.0, 60.0]


def test_slowest_operations_are_ordered_by_their_mean(tracer):
    """Ten at most, unless more are asked for; one slow span among quick ones does not make an operation slow."""
    for k in range(12):
        tracer.record_metric(metric(f"op{k}", float(k)))
    tracer.record_metric(metric("mixed", 15.0))
    tracer.record_metric(metric("mixed", 0.0))
    slowest = tracer.get_slowest_operations()
    assert [s.operation for s in slowest] == ["op11", "op10", "op9", "op8", "mixed", "op7", "op6", "op5", "op4", "op3"]
    assert [s.operation for s in tracer.get_slowest_operations(2)] == ["op11", "op10"]
    assert tracer.get_slowest_operations(0) == []
    assert [m.operation for m in tracer.get_slowest_metrics(2)] == ["mixed", "op11"]


def test_operations_above_one_percent_errors_are_named(tracer):
    """1 of 100 is not above 1 %, 2 of 100 is; the worst comes first, and the threshold can be set."""
    for operation, errors in (("one", 1), ("two", 2), ("half", 50), ("none", 0)):
        for k in range(100):
            tracer.record_metric(metric(operation, success=k >= errors))
    assert [s.operation for s in tracer.get_error_operations()] == ["half", "two"]
    assert [s.operation for s in tracer.get_error_operations(0.0)] == ["half", "two", "one"]
    assert [s.operation for s in tracer.get_error_operations(threshold=0.5)] == []


# -- bounds


def test_the_history_is_bounded_and_the_counts_are_not():
    """Of 25,000 spans 10,000 are remembered, the newest; count and sum are of all, percentiles of the remembered."""
    tracer = PerformanceTracer()
    for k in range(25_000):
        tracer.record_metric(metric(duration_ms=float(k)))
    stats = tracer.get_stats("c", "op")
    assert (tracer.max_history, len(tracer.get_metrics()), stats.recent, stats.count) == (
        10_000,
        10_000,
        10_000,
        25_000,
    )
    assert tracer.get_metrics()[0].duration_ms == 15_000.0
    assert stats.total_ms == 24_999 * 25_000 / 2
    assert (stats.min_ms, stats.p50_ms, stats.max_ms) == (0.0, (15_000 + 24_999) / 2, 24_999.0)


def test_a_rare_operation_keeps_its_percentiles(tracer):
    """Percentiles are kept per operation: 20,000 spans of another do not push the five of this one out."""
    for _ in range(5):
        tracer.record_metric(metric("rare", 7.0))
    for _ in range(20_000):
        traced(tracer, "often")
    assert (tracer.get_stats("c", "rare").p99_ms, tracer.get_stats("c", "often").count) == (7.0, 20_000)


def test_operations_that_never_come_again_do_not_pile_up(tracer):
    """At most 1,000 operations have statistics; those without a span for longest are forgotten, and it is said."""
    tracer.record_metric(metric("steady"))
    for k in range(5_000):
        tracer.record_metric(metric(f"item {k}"))
        if k % 50 == 0:
            tracer.record_metric(metric("steady"))
    report = tracer.get_report()
    assert len(report["operations"]) <= module.MOST_OPERATIONS
    assert report["forgotten_operations"] == 5_001 - len(report["operations"])
    assert tracer.get_stats("c", "steady").count == 101
    assert tracer.get_stats("c", "item 4999").count == 1


def test_a_remembered_span_keeps_nothing_of_its_surroundings_alive(tracer):
    """Neither the sink of its world, nor an exception, nor an object among its metadata."""

    class Thing:
        pass

    def work():
        sink, thing, error = MemorySink(), Thing(), ValueError("no")
        with span(World.real(sink), "c", "outer"):
            traced(tracer, "op", error)
            with trace_block("c", "about", {"thing": thing}, tracer=tracer):
                pass
        sink.facts.clear()
        return weakref.ref(sink), weakref.ref(thing)

    refs = work()
    gc.collect()  # the error and the frames of its traceback hold each other
    assert len(tracer.get_metrics()) == 2
    assert [ref() for ref in refs] == [None, None]


def test_no_span_is_lost_or_doubled_with_many_threads(tracer):
    """8 threads that close spans while a ninth asks for statistics: each of 16,000 is counted once."""
    stop = threading.Event()

    def work(k):
        for _ in range(2_000):
            traced(tracer, f"op{k % 3}")

    def ask():
        while not stop.is_set():
            tracer.get_report()

    reader = threading.Thread(target=ask)
    writers = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    reader.start()
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    # Threads 0, 3, 6 and 1, 4, 7 share a name, 2 and 5 another.
    assert [tracer.get_stats("c", f"op{k}").count for k in range(3)] == [6_000, 6_000, 4_000]
    assert len({m.span_id for m in tracer.get_metrics()}) == 10_000


def test_statistics_catch_up_while_others_go_on_closing_spans(tracer, monkeypatch):
    """A counting takes what was there when it began: here every span that is counted brings forth another one."""
    endless = Totals.add

    def add(self, duration_ms):
        endless(self, duration_ms)
        tracer._queue.append(metric())
        if self.count > 1_000:
            raise AssertionError("it never ends")

    tracer.record_metric(metric())
    monkeypatch.setattr(Totals, "add", add)
    assert [tracer.get_stats().count for _ in range(3)] == [1, 2, 3]


def test_who_closes_spans_faster_than_they_are_counted_waits(tracer):
    """The queue stays bounded while a reader is at work, and what waited is counted."""
    reading, stop = threading.Event(), threading.Event()

    def read():
        with tracer._all_counted():
            reading.set()
            stop.wait(10)

    def work():
        for _ in range(12_000):
            tracer.take(metric(), remembered=False)
        done.set()

    done = threading.Event()
    threads = [threading.Thread(target=read), threading.Thread(target=work)]
    threads[0].start()
    assert reading.wait(10)
    threads[1].start()
    while len(tracer._queue) <= 10_000:
        assert not done.wait(0.001)
    assert not done.wait(0.05)
    assert len(tracer._queue) == 10_001
    stop.set()
    for thread in threads:
        thread.join(10)
    assert done.is_set()
    assert tracer.get_stats().count == 12_000


def test_a_span_that_closes_in_the_midst_of_a_counting_waits_for_nobody(tracer):
    """A finaliser runs in whatever the thread is doing; it neither waits for itself nor counts a second time."""
    with tracer._all_counted():
        for _ in range(12_000):
            tracer.take(metric(), remembered=False)
        assert len(tracer._queue) == 12_000
        assert tracer.get_stats().count == 0
    assert tracer.get_stats().count == 12_000


# -- the switch and sampling


def test_tracing_can_be_switched_off_and_on(tracer):
    """While it is off nothing is counted, remembered or written; a block takes metadata and metrics all the same."""
    sink = MemorySink()
    tracer.attach(sink)
    tracer.enabled = False
    with trace_block("c", "op", {"k": "v"}, tracer=tracer) as trace:
        trace.metric("tokens", 1)
        trace.attributes["more"] = 2
        assert (trace.trace_id, trace.span_id, trace.parent_id) == ("", "", None)
    tracer.record_metric(metric())
    assert (tracer.get_stats().count, tracer.get_metrics(), sink.facts) == (0, [], [])
    tracer.enabled = "on"
    traced(tracer, "op")
    assert (tracer.get_stats().count, len(sink.facts), tracer.enabled) == (1, 1, True)


@pytest.mark.parametrize(
    ("given", "variable", "on"),
    [(None, None, True), (None, "off", False), (None, "OFF", False), (None, "1", True), (None, "", True),
     ("on", "off", True), ("off", "on", False), (False, None, False)],
)  # fmt: skip
def test_the_switch_is_a_parameter_or_a_variable(monkeypatch, given, variable, on):
    """The parameter comes before WORKBENCH_TRACING; without both tracing is on."""
    monkeypatch.delenv("WORKBENCH_TRACING", raising=False)
    if variable is not None:
        monkeypatch.setenv("WORKBENCH_TRACING", variable)
    assert PerformanceTracer(tracing=given).enabled is on


@pytest.mark.parametrize(
    ("word", "expected", "said"),
    [("off", "False", False), ("disabled", "False", False), ("n", "False", False), ("on", "True", False),
     ("enabled", "True", False), ("y", "True", False), ("perhaps", "True", True)],
)  # fmt: skip
def test_the_variable_is_read_by_the_process(word, expected, said):
    """`performance_tracer` follows WORKBENCH_TRACING; a word it cannot read leaves it on, and a warning says so."""
    program = "from workbench import performance_tracer; print(performance_tracer.enabled)"
    env = {**os.environ, "WORKBENCH_TRACING": word}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == expected
    assert ("RuntimeWarning: WORKBENCH_TRACING" in done.stderr) is said


def test_a_word_that_cannot_be_read_breaks_no_import():
    """Not even where warnings are errors."""
    program = "from workbench import performance_tracer; print(performance_tracer.enabled)"
    env = {**os.environ, "WORKBENCH_TRACING": "perhaps"}
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.strip() == "True"


def test_sampling_keeps_errors_and_slow_calls(tracer):
    """At rate 0 what failed and what took longer than slow_ms is remembered and written; everything is counted."""
    sink = MemorySink()
    tracer.attach(sink)
    tracer.sample_rate, tracer.slow_ms = 0.0, 1e9
    for _ in range(50):
        traced(tracer, "quick")
    traced(tracer, "failed", LLMRateLimitError("slow down"))
    tracer.slow_ms = 0.0
    traced(tracer, "slow")
    assert [m.operation for m in tracer.get_metrics()] == ["failed", "slow"]
    assert [s.operation for s in sink.facts] == ["failed", "slow"]
    assert (tracer.get_stats("c", "quick").count, tracer.get_stats("c", "quick").recent) == (50, 50)
    assert tracer.get_stats().count == 52


def test_sampling_keeps_its_share_of_traces_and_each_as_a_whole():
    """Of 4,000 traces of three spans about a quarter is kept, all three spans of each."""
    tracer = PerformanceTracer(20_000, sample_rate=0.25, slow_ms=1e9)
    for _ in range(4_000):
        with trace_block("c", "root", tracer=tracer), trace_block("c", "middle", tracer=tracer):
            traced(tracer, "leaf")
    traces: dict[str, int] = {}
    for kept in tracer.get_metrics():
        traces[kept.trace_id] = traces.get(kept.trace_id, 0) + 1
    assert set(traces.values()) == {3}
    # Six standard deviations of a binomial count: sqrt(4000 * 0.25 * 0.75) = 27.4.
    assert abs(len(traces) - 1_000) < 165


# -- where spans go


def test_an_outermost_block_goes_to_the_sink_attached_last(tracer):
    """Detached or gone, the one before takes its place; attached twice, it is written once."""
    first, second = MemorySink(), MemorySink()
    tracer.attach(first)
    tracer.attach(second)
    tracer.attach(second)
    traced(tracer, "a")
    tracer.detach(second)
    traced(tracer, "b")
    tracer.attach(second)
    del second
    traced(tracer, "c")
    tracer.detach(first)
    traced(tracer, "d")
    assert [s.operation for s in first.facts] == ["b", "c"]
    assert tracer.get_stats().count == 4


def test_a_sink_that_cannot_be_held_weakly_is_held(tracer):
    """An object with slots works as a sink, too."""

    class Slotted:
        __slots__ = ("seen",)

        def write(self, *facts):
            self.seen = facts

    sink = Slotted()
    tracer.attach(sink)
    traced(tracer, "op")
    assert sink.seen[0].operation == "op"
    tracer.detach(sink)
    assert tracer.sink() is None


def test_a_failing_sink_never_breaks_the_traced_call(tracer, caplog):
    """The block's result and its own exception come out; the failure is counted, and logged once."""

    class Broken:
        def write(self, *facts):
            raise OSError("disk full, token=abcdefgh")

    sink, error = Broken(), KeyError("mine")
    tracer.attach(sink)
    with caplog.at_level(logging.WARNING, "workbench"):
        traced(tracer, "op")
        with pytest.raises(KeyError) as caught, trace_block("c", "op", tracer=tracer):
            raise error
    assert caught.value is error
    assert error.__context__ is None
    assert (tracer.unwritten, tracer.get_stats().count, tracer.get_report()["unwritten"]) == (2, 2, 2)
    assert [r.getMessage() for r in caplog.records] == [
        "a span could not be written, nor may the next ones: OSError: disk full, token=[redacted]"
    ]


# -- the report


def test_the_report_is_plain_json(tracer):
    """It has the whole, the operations, the slowest ten, those above 1 % errors, and what the process used."""
    for k in range(20):
        tracer.record_metric(metric(f"op{k}", float(k), metadata={"k": k}, metrics={"tokens": k}))
    traced(tracer, "failed", LLMRateLimitError("slow down"))
    report = json.loads(json.dumps(tracer.get_report(), allow_nan=False))
    assert (report["summary"]["count"], report["summary"]["errors"], report["remembered"]) == (21, 1, 21)
    assert len(report["operations"]) == 21
    assert len(report["slowest_operations"]) == len(report["slowest"]) == 10
    assert report["slowest"][0]["metadata"] == {"k": 19}
    assert report["slowest"][0]["metrics"] == {"tokens": 19.0}
    assert [s["operation"] for s in report["error_operations"]] == ["failed"]
    assert report["process"]["cpu_s"] > 0
    assert (report["tracing"], report["sample_rate"], report["max_history"]) == ("on", 1.0, 10_000)


def test_the_report_of_an_empty_tracer_is_plain_json(tracer):
    """Nothing measured is nothing, not an error."""
    report = json.loads(json.dumps(tracer.get_report(), allow_nan=False))
    assert (report["operations"], report["slowest"], report["summary"]["count"]) == ([], [], 0)


def test_get_performance_report_is_that_of_the_process():
    """What the package itself times is in it, and what a user times."""
    performance_tracer.clear()
    with span(World.virtual(), "model", "complete"):
        traced(performance_tracer, "mine")
    report = get_performance_report()
    assert {(s["component"], s["operation"]) for s in report["operations"]} == {("model", "complete"), ("c", "mine")}


def test_a_sum_beyond_the_range_of_a_float_is_none(tracer):
    """The report stays JSON: no infinity in it."""
    for _ in range(3):
        tracer.record_metric(metric(duration_ms=1.7e308, metrics={"q": -1.7e308}))
    report = json.loads(json.dumps(tracer.get_report(), allow_nan=False))
    found = report["operations"][0]
    assert (found["total_ms"], found["avg_ms"], found["p50_ms"], found["count"]) == (None, None, 1.7e308, 3)
    assert found["metrics"]["q"] == {"count": 3, "min": -1.7e308, "max": -1.7e308, "avg": None, "total": None}
    assert report["slowest_operations"][0]["max_ms"] == 1.7e308


def test_a_secret_in_a_recorded_measurement_is_not_shown(tracer):
    """Neither in its name nor in what its failure says."""
    key = "sk-" + "a1B2" * 8
    failure = Failure(kind="Odd", code="untyped", message=f"with {key}")
    tracer.record_metric(metric(operation=f"use {key}", failure=failure))
    assert "a1B2" not in json.dumps(tracer.get_report())
    assert tracer.get_all_stats()[0].operation == "use [redacted]"


def test_clear_forgets_everything_but_the_switches(tracer):
    """Counts, history and refusals begin again at 0."""
    tracer.slow_ms = 3.0
    traced(tracer, "op")
    tracer.clear()
    assert (tracer.get_stats().count, tracer.get_metrics(), tracer.slow_ms) == (0, [], 3.0)


def test_metrics_can_be_chosen_by_trace(tracer):
    """One trace, one component or one operation of what is remembered, oldest first."""
    with trace_block("a", "outer", tracer=tracer) as outer:
        traced(tracer, "inner", component="b")
    traced(tracer, "inner", component="a")
    assert [m.operation for m in tracer.get_metrics(trace_id=outer.trace_id)] == ["inner", "outer"]
    assert [m.component for m in tracer.get_metrics(operation="inner")] == ["b", "a"]
    assert [m.operation for m in tracer.get_metrics("a")] == ["outer", "inner"]


# -- refusals


@pytest.mark.parametrize(
    "options",
    [{"max_history": 0}, {"max_history": True}, {"max_history": 1.5}, {"max_history": 10**30},
     {"tracing": "perhaps"}, {"tracing": 1},
     {"sample_rate": 1.1}, {"sample_rate": -0.1}, {"sample_rate": float("nan")}, {"sample_rate": "all"},
     {"slow_ms": -1}, {"slow_ms": None}],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be_used_are_refused(options):
    """By name, with the value and what is allowed."""
    with pytest.raises(LLMValidationError, match=next(iter(options))) as caught:
        PerformanceTracer(**options)
    assert caught.value.code == "validation.config"
    assert 0 < len(caught.value.next_step) <= 160


@pytest.mark.parametrize(("name", "value"), [("enabled", "perhaps"), ("sample_rate", 2), ("slow_ms", float("inf"))])
def test_a_switch_refuses_what_the_constructor_refuses(tracer, name, value):
    """And stays as it was."""
    before = getattr(tracer, name)
    with pytest.raises(LLMValidationError):
        setattr(tracer, name, value)
    assert getattr(tracer, name) == before


@pytest.mark.parametrize(
    "given",
    [None, {"component": "c"}, metric(component=""), metric(operation=None), metric(duration_ms=-1.0),
     metric(duration_ms=float("nan")), metric(duration_ms=True), metric(duration_ms="1"),
     metric(metrics={"tokens": float("inf")}), metric(metrics={"tokens": "many"}), metric(metrics={"": 1}),
     metric(metrics=None), metric(metrics=[1]), metric(failure="boom"), metric(trace_id=object()), metric(span_id=1),
     metric(start_unix_ns="x"), metric(start_unix_ns=True)],
    ids=lambda given: repr(given)[-40:],
)  # fmt: skip
def test_a_metric_that_cannot_be_counted_is_refused(tracer, given):
    """Nothing of it is counted."""
    with pytest.raises(LLMValidationError) as caught:
        tracer.record_metric(given)
    assert caught.value.code == "validation.input"
    assert tracer.get_stats().count == 0


@pytest.mark.parametrize("ask", ["get_slowest_operations", "get_slowest_metrics"])
@pytest.mark.parametrize("n", [-1, 1.5, None, True])
def test_a_number_of_operations_is_a_whole_number(tracer, ask, n):
    """Anything else is refused."""
    with pytest.raises(LLMValidationError):
        getattr(tracer, ask)(n)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_can_count_and_names_its_spans_anew(tracer):
    """A lock that another thread held when the process forked does not stop the child; its ids are its own."""
    with tracer._lock:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                here = traced(tracer, "op")
                answer = f"{tracer.get_stats().count} {here.span_id}"
            except BaseException as error:
                answer = repr(error)
            os.write(writing, answer.encode())
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        count, theirs = pipe.read().split()
    assert count == "1"
    ours = int(traced(tracer, "op").span_id, 16)
    # One step of the parent's own series would have led to the same number.
    assert int(theirs, 16) != ours
