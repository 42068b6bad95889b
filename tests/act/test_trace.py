"""Spans: right parents whatever runs side by side, and one row however the body ends."""

from __future__ import annotations

import asyncio
import contextvars
import json
import re
import subprocess
import sys
import threading
import weakref
from collections import Counter
from dataclasses import replace

import pytest

from workbench.act.aggregate import DEFAULT_WORLD
from workbench.act.safety import safe_execute
from workbench.act.trace import current_span, failure_of, span, trace_block, trace_block_async
from workbench.act.traced import trace_performance
from workbench.act.tracer import PerformanceTracer, performance_tracer
from workbench.act.world import MemorySink, World
from workbench.errors import LLMError, LLMFailoverError, LLMProviderError, LLMRateLimitError, LLMValidationError
from workbench.facts import Failure, Score, Span


@pytest.fixture
def switches():
    """The process's tracer, put back as it was."""
    performance_tracer.clear()
    before = (performance_tracer.enabled, performance_tracer.sample_rate, performance_tracer.slow_ms)
    yield performance_tracer
    performance_tracer.enabled, performance_tracer.sample_rate, performance_tracer.slow_ms = before
    performance_tracer.clear()


def by_operation(world):
    """The spans written so far, by operation, each of which must have closed once."""
    counts = Counter(s.operation for s in world.sink.facts)
    assert set(counts.values()) <= {1}
    return {s.operation: s for s in world.sink.facts}


def test_a_nested_span_is_the_child_of_the_one_around_it():
    """Inner spans point to the enclosing span, share its trace and run, and close before it."""
    world = World.virtual()
    with span(world, "study", "run", run_id="r1"):
        with span(world, "study", "item"), span(world, "model", "call"):
            pass
        with span(world, "study", "merge"):
            pass
    spans = by_operation(world)
    assert [s.operation for s in world.sink.facts] == ["call", "item", "merge", "run"]
    assert spans["run"].parent_id is None
    assert spans["item"].parent_id == spans["merge"].parent_id == spans["run"].span_id
    assert spans["call"].parent_id == spans["item"].span_id
    assert len({s.span_id for s in spans.values()}) == 4
    assert {s.trace_id for s in spans.values()} == {spans["run"].trace_id}
    assert {s.run_id for s in spans.values()} == {"r1"}


@pytest.mark.parametrize("how", ["gather", "task group"])
def test_parents_are_right_for_tasks_that_interleave(how):
    """Fifty tasks that take turns at every step still find their own span, not their neighbour's."""
    world = World.virtual()

    async def task(k):
        for _ in range(k % 3):
            await world.sleep(0.1)
        with span(world, "test", f"outer{k}"):
            await world.sleep(0.1)
            with span(world, "test", f"inner{k}"):
                await world.sleep(0.1 * (k % 5))
            assert current_span().attributes == {}
            await world.sleep(0.1)

    async def main():
        with span(world, "test", "root"):
            if how == "gather":
                await asyncio.gather(*(task(k) for k in range(50)))
            else:
                async with asyncio.TaskGroup() as group:
                    for k in range(50):
                        group.create_task(task(k))

    world.run(main())
    spans = by_operation(world)
    assert len(spans) == 101
    for k in range(50):
        assert spans[f"outer{k}"].parent_id == spans["root"].span_id
        assert spans[f"inner{k}"].parent_id == spans[f"outer{k}"].span_id


def test_tasks_without_a_common_span_have_traces_of_their_own():
    """Spans that were opened side by side outside of any span do not become each other's children."""
    world = World.virtual()

    async def task(k):
        with span(world, "test", f"t{k}"):
            await world.sleep(1)

    async def main():
        await asyncio.gather(task(0), task(1))
        assert current_span() is None

    world.run(main())
    first, second = world.sink.facts
    assert first.parent_id is None
    assert second.parent_id is None
    assert first.trace_id != second.trace_id


def test_a_span_measures_the_worlds_time():
    """Duration and start come from the world's clocks: an hour of virtual backoff is an hour."""
    world = World.virtual()

    async def main():
        await world.sleep(2)
        with span(world, "retry", "wait"):
            await world.sleep(3600)

    start = world.unix_ns()
    world.run(main())
    (wait,) = world.sink.facts
    assert wait.duration_ms == pytest.approx(3_600_000)
    assert wait.start_unix_ns == start + 2_000_000_000


def test_what_is_learned_inside_is_kept():
    """Attributes given at the start and added on the way are both in the row; the caller's mapping is untouched."""
    world, given = World.virtual(), {"model": "m"}
    with span(world, "c", "op", given) as here:
        here.attributes["tokens"] = 7
    assert world.sink.facts[0].attributes == {"model": "m", "tokens": 7}
    assert given == {"model": "m"}


def test_a_failure_is_kept_as_a_value_and_passed_on():
    """A typed error is in its span and the enclosing one, each once, and the very same error goes on."""
    world = World.virtual()
    error = LLMRateLimitError("slow down", status=429, retry_after_s=2.5, code="rate_limit")
    with pytest.raises(LLMRateLimitError) as caught, span(world, "c", "outer"), span(world, "c", "inner"):
        raise error
    assert caught.value is error
    expected = Failure(
        kind="LLMRateLimitError",
        code="rate_limit",
        message="slow down",
        retryable=True,
        retry_after_s=2.5,
        status=429,
    )
    spans = by_operation(world)
    assert [(s.ok, s.failure) for s in (spans["inner"], spans["outer"])] == [(False, expected)] * 2
    assert current_span() is None


def test_a_failure_that_is_handled_inside_does_not_fail_the_outer_span():
    """The span around the handler is ok, and its next child is its child again."""
    world = World.virtual()
    with span(world, "c", "outer"):
        with pytest.raises(KeyError), span(world, "c", "first"):
            raise KeyError("k")
        with span(world, "c", "second"):
            pass
    spans = by_operation(world)
    assert not spans["first"].ok
    assert spans["outer"].ok
    assert spans["second"].parent_id == spans["outer"].span_id


def test_cancellation_closes_every_open_span_once_and_passes_on():
    """A cancelled task writes each of its open spans once, as not ok, and stays cancelled; a sibling goes on."""
    world = World.virtual()
    forever = asyncio.Event

    async def victim():
        with span(world, "c", "outer"), span(world, "c", "inner"):
            await forever().wait()

    async def sibling():
        with span(world, "c", "sibling"):
            await world.sleep(1)

    async def main():
        tasks = [asyncio.create_task(victim()), asyncio.create_task(sibling())]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return [t.cancelled() for t in tasks]

    assert world.run(main()) == [True, False]
    spans = by_operation(world)
    assert {name: s.ok for name, s in spans.items()} == {"inner": False, "outer": False, "sibling": True}
    assert spans["inner"].failure.kind == "CancelledError"


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (
            LLMProviderError("no", status=500, code="provider.server", retryable=True),
            Failure(kind="LLMProviderError", code="provider.server", message="no", retryable=True, status=500),
        ),
        (
            LLMFailoverError("open", retry_after_s=30.0),
            Failure(
                kind="LLMFailoverError", code="failover.exhausted", message="open", retryable=True, retry_after_s=30
            ),
        ),
        (
            ZeroDivisionError("division by zero"),
            Failure(kind="ZeroDivisionError", code="untyped", message="division by zero"),
        ),
    ],
)
def test_an_error_becomes_a_failure_with_all_it_carries(error, failure):
    """Kind, code, message, and what a retry needs to know survive the way into a value."""
    assert failure_of(error) == failure


def test_a_span_that_is_closed_in_another_context_is_written_all_the_same():
    """With the facts that travel with it: a coroutine may be closed by whoever finds it, elsewhere."""
    world = World.virtual()

    class Waiting:
        def __await__(self):
            yield

    async def call():
        with span(world, "model", "complete") as here:
            here.facts.append(Score(run_id="r", item_id="1", model="m", scorer="s", value=1.0))
            await Waiting()

    left = call()
    contextvars.copy_context().run(left.send, None)
    left.close()
    assert [type(fact) for fact in world.sink.facts] == [Score, Span]


def lines(name, world):
    """A generator with a span around its items that is not decorated."""
    with span(world, "read", name):
        yield 1
        yield 2


def test_spans_that_overlap_leave_no_closed_one_behind():
    """Two generators side by side: the first closes before the second, which began inside it."""
    world = World.virtual()
    assert list(zip(lines("a", world), lines("b", world), strict=True)) == [(1, 1), (2, 2)]
    assert current_span() is None
    with span(world, "later", "outer") as outer:
        first, second = lines("c", world), lines("d", world)
        with span(world, "later", "inner") as inner:
            next(first)
            next(second)
            list(first)
            assert current_span() is inner
        list(second)
        assert current_span() is outer
    spans = by_operation(world)
    assert (spans["outer"].parent_id, spans["c"].parent_id) == (None, inner.span_id)


@pytest.mark.parametrize("is_late", [False, True])
def test_a_task_that_outlives_the_span_it_began_in_stays_its_child(is_late):
    """In its trace and its log, also where another log was opened since; and it keeps no log alive."""
    tracer, sinks, gone = PerformanceTracer(), [MemorySink(), MemorySink()], asyncio.Event()
    tracer.attach(sinks[0])

    async def child():
        await (gone.wait() if is_late else asyncio.sleep(0))
        with trace_block("c", "first", tracer=tracer):
            await gone.wait()
        with trace_block("c", "second", tracer=tracer):
            pass

    async def main():
        with trace_block("c", "parent", tracer=tracer) as parent:
            task = asyncio.create_task(child())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        tracer.attach(sinks[1])
        gone.set()
        await task
        return parent

    parent = asyncio.run(main())
    named = {s.operation: (s.trace_id, s.parent_id) for sink in sinks for s in sink.facts}
    assert named["first"] == named["second"] == (parent.trace_id, parent.span_id)
    if is_late:
        assert [s.operation for s in sinks[0].facts] == ["parent", "first", "second"]
    log = weakref.ref(sinks[0])
    sinks.clear()
    assert log() is None


# -- blocks


def test_the_promised_forms_of_a_block_work_as_written(switches):
    """Positional metadata, `async with` with the keyword, and the names left out."""
    with trace_block("c", "op", {"k": "v"}):
        pass

    async def main():
        async with trace_block_async("c", "op", metadata={"k": "v"}) as trace:
            trace.metadata["more"] = 1
            trace.metric("tokens", 12)

    asyncio.run(main())
    with trace_block():
        pass
    first, second, third = switches.get_metrics()
    assert (first.component, first.operation, first.metadata) == ("c", "op", {"k": "v"})
    assert (second.metadata, second.metrics) == ({"k": "v", "more": 1}, {"tokens": 12.0})
    assert (third.component, third.operation) == ("user", "block")


def test_ids_have_the_form_that_other_tools_expect(switches):
    """A trace has 32 hexadecimal digits, a span 16, and of 10,000 no two are the same."""
    seen = set()
    for _ in range(5_000):
        with trace_block() as outer, trace_block() as inner:
            pass
        assert re.fullmatch("[0-9a-f]{32}", outer.trace_id)
        assert re.fullmatch("[0-9a-f]{16}", outer.span_id)
        assert (inner.trace_id, inner.parent_id) == (outer.trace_id, outer.span_id)
        seen |= {outer.span_id, inner.span_id}
    assert len(seen) == 10_000
    assert len({m.trace_id for m in switches.get_metrics()}) == 5_000


def test_a_block_inside_a_span_belongs_to_its_trace_run_world_and_log(switches):
    """It has the world's clock and deterministic ids, and is written to the world's sink."""

    def once():
        world = World.virtual()

        async def main():
            with span(world, "study", "run", run_id="r1"):
                async with trace_block_async("mine", "step"):
                    await world.sleep(3)
                with span(world, "study", "item"):
                    pass

        world.run(main())
        return world.sink.facts

    facts = once()
    step, item, run = facts
    assert (step.operation, step.parent_id, step.trace_id, step.run_id) == ("step", run.span_id, run.trace_id, "r1")
    assert (step.duration_ms, item.parent_id) == (3000.0, run.span_id)
    assert facts == once()


def test_a_block_around_a_span_goes_where_the_span_goes(switches):
    """What stands outside of every span has no log of its own: a trace is written in one place, and whole."""
    sink = MemorySink()
    with trace_block("mine", "outer"), trace_block("mine", "inner"), span(World.real(sink), "model", "complete"):
        pass
    assert [s.operation for s in sink.facts] == ["complete", "inner", "outer"]
    assert [s.parent_id for s in sink.facts] == [sink.facts[1].span_id, sink.facts[2].span_id, None]
    with trace_block("mine", "alone"):
        pass
    assert len(sink.facts) == 3
    assert switches.get_stats("mine").count == 3


def test_an_attached_sink_takes_what_has_no_log_and_nothing_else(switches):
    """Spans of a world with a log stay there; those of safe_execute without one go to the attached sink."""
    attached, world = MemorySink(), World.virtual()
    switches.attach(attached)
    try:
        asyncio.run(safe_execute(lambda: 42, "mine", "safe"))
        with span(world, "study", "item"), trace_block("mine", "inside"):
            pass
    finally:
        switches.detach(attached)
    assert [s.operation for s in attached.facts] == ["safe"]
    assert [s.operation for s in world.sink.facts] == ["inside", "item"]


def test_a_span_of_the_package_feeds_the_tracer_and_its_sink(switches):
    """Each is counted with the world's time; the row has the numbers beside the attributes."""
    world = World.virtual()

    async def main():
        with span(world, "model", "complete", {"model": "m"}) as here:
            here.metric("tokens", 7)
            await world.sleep(1.5)

    world.run(main())
    assert (switches.get_stats("model", "complete").avg_ms, switches.get_stats().count) == (1500.0, 1)
    assert world.sink.facts[0].attributes == {"model": "m", "tokens": 7.0}


def test_results_are_written_while_tracing_is_off(switches):
    """What a run is read from stays: spans that name their run, and the facts of others; nothing else is written."""
    switches.enabled = False
    world = World.virtual()
    score = Score(run_id="r", item_id="1", model="m", scorer="s", value=1.0)
    with span(world, "study", "question", run_id="r"), span(world, "model", "complete") as here:
        here.facts.append(score)
        with trace_block("mine", "step"):
            assert current_span() is here
    assert [getattr(f, "operation", f) for f in world.sink.facts] == [score, "question"]
    assert (here.run_id, switches.get_stats().count) == ("r", 0)


def test_a_span_that_is_not_drawn_leaves_its_facts(switches):
    """Sampling leaves out the span's row, never a call's; a failed one is whole."""
    switches.sample_rate = 0.0
    world = World.virtual()
    score = Score(run_id="r", item_id="1", model="m", scorer="s", value=1.0)
    with span(world, "model", "complete") as here:
        here.facts.append(score)
    with pytest.raises(KeyError), span(world, "model", "complete") as here:
        raise KeyError
    assert [type(f) for f in world.sink.facts] == [Score, Span]
    assert switches.get_stats("model", "complete").count == 2


def test_a_call_whose_rows_cannot_be_written_says_so():
    """A sink's failure is swallowed for a span alone, never for the facts that travel with it."""

    class Broken:
        def write(self, *facts):
            raise OSError("disk full")

    world = replace(World.virtual(), sink=Broken())
    with span(world, "study", "item"):
        pass
    with pytest.raises(OSError, match="disk full"), span(world, "model", "complete") as here:
        here.facts.append(Score(run_id="r", item_id="1", model="m", scorer="s", value=1.0))
    assert current_span() is None


def test_a_thread_started_bare_has_a_trace_of_its_own_and_one_by_asyncio_does_not(switches):
    """asyncio.to_thread takes the context along; threading.Thread begins anew."""

    def work(name):
        with trace_block("c", name):
            pass

    async def main():
        with trace_block("c", "outer"):
            await asyncio.to_thread(work, "copied")
            thread = threading.Thread(target=work, args=("bare",))
            thread.start()
            await asyncio.to_thread(thread.join)

    asyncio.run(main())
    spans = {m.operation: m for m in switches.get_metrics()}
    assert (spans["copied"].parent_id, spans["copied"].trace_id) == (spans["outer"].span_id, spans["outer"].trace_id)
    assert spans["bare"].parent_id is None
    assert spans["bare"].trace_id != spans["outer"].trace_id


@pytest.mark.parametrize("how", ["gather", "task group"])
def test_blocks_of_tasks_that_interleave_have_the_right_parents(switches, how):
    """A hundred tasks of one block take turns; each inner block is the child of its own task's block."""

    async def task(k):
        async with trace_block_async("c", f"outer{k}"):
            for _ in range(k % 4):
                await asyncio.sleep(0)
            async with trace_block_async("c", f"inner{k}"):
                await asyncio.sleep(0)

    async def main():
        async with trace_block_async("c", "root"):
            if how == "gather":
                await asyncio.gather(*(task(k) for k in range(100)))
            else:
                async with asyncio.TaskGroup() as group:
                    for k in range(100):
                        group.create_task(task(k))

    asyncio.run(main())
    spans = {m.operation: m for m in switches.get_metrics()}
    assert len(spans) == switches.get_stats().count == 201
    for k in range(100):
        assert spans[f"outer{k}"].parent_id == spans["root"].span_id
        assert spans[f"inner{k}"].parent_id == spans[f"outer{k}"].span_id


CELLS = {
    "sync": ["with trace_block('cell', 'outer'):\n    get_ipython().run_cell(INNER)"],
    "async": [
        "async def work(name):\n    async with trace_block_async('cell', name):\n        await asyncio.sleep(0)",
        "async with trace_block_async('cell', 'outer'):\n    await asyncio.gather(work('inner'), work('other'))",
    ],
}
KERNEL = """
import asyncio, json, sys
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
from workbench import performance_tracer, trace_block, trace_block_async
shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
inner = "with trace_block('cell', 'inner'): pass"
shell.user_ns.update(trace_block=trace_block, trace_block_async=trace_block_async, asyncio=asyncio, INNER=inner)
for cell in [*json.loads(sys.argv[1]), "with trace_block('cell', 'next'): pass"]:
    shell.run_cell(cell).raise_error()
print(json.dumps({m.operation: [m.trace_id, m.span_id, m.parent_id] for m in performance_tracer.get_metrics()}))
"""


@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_inside_a_cell_is_its_child(kind):
    """A cell run by another, and tasks of a cell with await, belong to the block around them; the next does not."""
    command = [sys.executable, "-c", KERNEL, json.dumps(CELLS[kind])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    spans = json.loads(done.stdout.splitlines()[-1])
    trace_id, span_id, parent_id = spans["outer"]
    assert parent_id is None
    assert {tuple(spans[name][::2]) for name in set(spans) - {"outer", "next"}} == {(trace_id, span_id)}
    assert spans["next"][2] is None
    assert spans["next"][0] != trace_id


def test_a_block_is_opened_once():
    """Opened again it would be one span with two times: that is refused, and the first closes as usual."""
    tracer = PerformanceTracer()
    block = trace_block("c", "op", tracer=tracer)
    with block, pytest.raises(LLMValidationError, match="not opened before"):
        block.__enter__()
    block.__exit__(None, None, None)
    with pytest.raises(LLMValidationError):
        block.__enter__()
    assert tracer.get_stats().count == 1


@pytest.mark.parametrize(
    ("args", "named"),
    [(("",), "component"), ((None,), "component"), ((3, "op"), "component"), (("c", ""), "operation"),
     (("c", b"op"), "operation"), (("c", "op", "k=v"), "metadata"), (("c", "op", ["k"]), "metadata")],
)  # fmt: skip
def test_arguments_that_cannot_be_used_are_refused(args, named):
    """Before the body runs, by name, with what is allowed."""
    for make in (trace_block, trace_block_async):
        with pytest.raises(LLMValidationError, match=named) as caught:
            make(*args)
        assert caught.value.code == "validation.input"
        assert 0 < len(caught.value.next_step) <= 160


def test_a_tracer_that_is_none_is_refused():
    """Where it is given, with what is allowed."""
    for make in (trace_block, trace_block_async, trace_performance):
        with pytest.raises(LLMValidationError, match="tracer is"):
            make("a", tracer="x")


def test_times_that_are_not_known_yet_are_zero_and_an_open_span_is_no_value(switches):
    """What reads them goes on working where tracing is off."""
    block = trace_block("c", "op")
    assert (block.duration_ms, block.start_unix_ns) == (0.0, 0)
    with block, pytest.raises(LLMValidationError, match="closed"):
        block.as_metric()
    switches.enabled = False
    with trace_block("c", "op") as here:
        pass
    assert (here.duration_ms, here.start_unix_ns, here.as_metric().duration_ms) == (0.0, 0, 0.0)


def test_a_metric_after_the_end_is_ignored(switches):
    """It has been written, and the statistics agree with that."""
    with trace_block("c", "op") as here:
        here.metric("tokens", 1)
    here.metric("tokens", 5)
    here.metric("late", 5)
    assert switches.get_metrics()[0].metrics == {"tokens": 1.0}
    assert list(switches.get_stats("c", "op").metrics) == ["tokens"]


def test_long_names_are_cut(switches):
    """At 200 characters each, in the statistics as in the history."""
    with trace_block("c" * 300, "o" * 10**6):
        pass
    assert switches.get_stats("c" * 200, "o" * 200).count == 1
    assert len(switches.get_metrics()[0].operation) == 200


@pytest.mark.parametrize(
    ("name", "value"), [("", 1), (3, 1), ("n", "1"), ("n", None), ("n", float("nan")), ("n", True)]
)
def test_a_number_that_is_none_is_refused(name, value):
    """A metric is a name and a finite number."""
    with trace_block(tracer=PerformanceTracer()) as trace, pytest.raises(LLMValidationError, match="metric"):
        trace.metric(name, value)
    assert trace.metrics == {}


def test_an_odd_exception_passes_as_it_is(switches):
    """An LLMError of somebody's own that lacks everything an LLMError has, and one whose text cannot be read."""

    class BareError(LLMError):
        def __init__(self):
            Exception.__init__(self)

    class UnreadableError(Exception):
        def __str__(self):
            raise RuntimeError

    for error in (BareError(), UnreadableError()):
        with pytest.raises(type(error)) as caught, trace_block("c", "op"):
            raise error
        assert caught.value is error
        assert error.__context__ is None
    assert [m.failure.kind for m in switches.get_metrics()] == ["BareError", "UnreadableError"]


def test_what_a_failure_brought_along_is_written_and_not_remembered(switches):
    """The text that had arrived before an error goes to the log; the history has no room for it."""
    world = World.virtual()
    error = LLMProviderError("cut off, password=hunter22", partial="t" * 10_000)
    with pytest.raises(LLMProviderError), span(world, "model", "complete"):
        raise error
    assert world.sink.facts[0].failure.partial == "t" * 10_000
    (metric,) = switches.get_metrics()
    assert (metric.failure.partial, metric.failure.message) == (None, "cut off, password=[redacted]")


def test_a_secret_among_the_metadata_is_neither_written_nor_shown(switches):
    """By what it looks like and by what it is called, at any depth; a count of tokens is no secret."""
    secret = "sk-" + "a1B2" * 8
    about = {"api_key": "plain", "note": f"used {secret}", "deep": [{"Authorization": "Basic eA=="}], "token": 3}
    world = World.virtual()
    with span(world, "c", "outer"), trace_block("c", "op", about):
        pass
    written = world.sink.facts[0].attributes
    assert written == switches.get_metrics(operation="op")[0].metadata
    assert written == {
        "api_key": "[redacted]", "note": "used [redacted]", "deep": [{"Authorization": "[redacted]"}], "token": 3
    }  # fmt: skip


SECRET = "hunter2SECRETvalue"


@pytest.mark.parametrize(
    "about",
    [{name: SECRET} for name in ("accessToken", "secretKey", "private_key", "passphrase", "subscription-key", "pwd",
                                 "auth", "hf_token", "passwd")]
    + [{"token": {"value": SECRET}}, {"pair": ("api_key", SECRET)}, {"pairs": [("api_key", SECRET)]},
       {"password": [[SECRET]]}, {"api_key": SECRET.encode()},
       {"t": "x" * 1975 + f" https://u:{SECRET}@host/"}, {"b": b"x" * 1975 + f" https://u:{SECRET}@host/".encode()},
       {"x" * 185 + f" https://u:{SECRET}@host/": 1}],
    ids=lambda about: repr(about)[:20],
)  # fmt: skip
def test_a_secret_is_known_by_its_name_in_every_form_and_before_it_is_cut(switches, about):
    """What is left of one that a cut went through would not look like one any more."""
    sink = MemorySink()
    with span(World.real(sink), "c", "op", about):
        pass
    assert "hunter2" not in json.dumps([sink.facts[0].attributes, switches.get_report()])


def test_a_secret_in_the_name_of_a_span_is_neither_written_nor_shown(switches):
    """A key as the name of an operation."""
    world, key = World.virtual(), "sk-" + "a1B2" * 8
    with span(world, f"c {key}", f"use {key}"):
        pass
    assert (world.sink.facts[0].component, world.sink.facts[0].operation) == ("c [redacted]", "use [redacted]")
    assert switches.get_metrics()[0].operation == "use [redacted]"
    assert "a1B2" not in json.dumps(switches.get_report())


def test_the_default_world_has_no_log():
    """The rule above rests on it: the sink of the machine's own world drops what it is given."""
    with span(DEFAULT_WORLD, "c", "op") as here:
        assert here.is_open
    assert not hasattr(DEFAULT_WORLD.sink, "facts")
