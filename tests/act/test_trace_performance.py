"""Decorated functions: each call is a span, whatever kind of function it is."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect

import pytest

from workbench import trace_performance
from workbench.act.trace import current_span, span, trace_block
from workbench.act.tracer import PerformanceTracer, performance_tracer
from workbench.act.world import World
from workbench.errors import LLMValidationError


@pytest.fixture
def tracer():
    """A tracer of one's own."""
    return PerformanceTracer()


def told(tracer):
    """Operation and success of what is remembered, oldest first."""
    return [(m.operation, m.success) for m in tracer.get_metrics()]


# -- forms


def test_the_promised_forms_work_as_written():
    """By keyword, by position, without an operation, without a component, and bare."""
    performance_tracer.clear()

    @trace_performance(component="llm_router", operation="select_model")
    def first():
        return 1

    @trace_performance("llm_router", "choose")
    def second():
        return 2

    @trace_performance("llm_router")
    def third():
        return 3

    @trace_performance()
    def fourth():
        return 4

    @trace_performance
    def fifth():
        return 5

    assert [f() for f in (first, second, third, fourth, fifth)] == [1, 2, 3, 4, 5]
    assert [(m.component, m.operation) for m in performance_tracer.get_metrics()] == [
        ("llm_router", "select_model"), ("llm_router", "choose"), ("llm_router", "third"), ("user", "fourth"),
        ("user", "fifth"),
    ]  # fmt: skip


def test_what_is_decorated_stays_what_it_was(tracer):
    """Name, docstring, signature, and the kind of function that `inspect` sees."""

    def plain(a, b=2):
        """What it does."""

    async def coroutine():
        pass

    def steps():
        yield

    async def items():
        yield

    decorate = trace_performance("c", tracer=tracer)
    wrapped = decorate(plain)
    assert (wrapped.__name__, wrapped.__doc__) == ("plain", "What it does.")
    assert str(inspect.signature(wrapped)) == "(a, b=2)"
    assert inspect.iscoroutinefunction(decorate(coroutine))
    assert inspect.isgeneratorfunction(decorate(steps))
    assert inspect.isasyncgenfunction(decorate(items))


def test_methods_of_every_kind_and_callable_objects_can_be_decorated(tracer):
    """Also with @staticmethod and @classmethod below the decorator, a partial, and an object with async __call__."""
    decorate = trace_performance("c", tracer=tracer)

    class Thing:
        @decorate
        def method(self, x):
            return self, x

        @decorate
        @staticmethod
        def static(x):
            return x

        @decorate
        @classmethod
        def of_class(cls, x):
            return cls, x

    class Caller:
        async def __call__(self):
            await asyncio.sleep(0)
            return current_span().operation

    thing = Thing()
    assert (thing.method(1), thing.static(2), thing.of_class(3)) == ((thing, 1), 2, (Thing, 3))
    assert decorate(functools.partial(int, "7"))() == 7
    assert asyncio.run(decorate(Caller())()) == "Caller"
    assert [name for name, _ in told(tracer)] == ["method", "static", "of_class", "int", "Caller"]


def test_the_metadata_of_a_decorator_are_kept_with_every_call(tracer):
    """Each call has a copy of its own, to which its body may add."""

    @trace_performance("c", metadata={"version": 2}, tracer=tracer)
    def work(x):
        current_span().attributes["x"] = x

    work(1)
    work(2)
    assert [m.metadata for m in tracer.get_metrics()] == [{"version": 2, "x": 1}, {"version": 2, "x": 2}]


@pytest.mark.parametrize("args", [(3,), ("",), ("c", ""), ("c", 3), (None,)])
def test_names_that_cannot_be_used_are_refused_where_they_stand(args):
    """When the function is decorated, not when it is called."""
    with pytest.raises(LLMValidationError):
        trace_performance(*args)


def test_what_is_no_function_is_refused():
    """A value cannot be timed."""
    with pytest.raises(LLMValidationError, match="decorates"):
        trace_performance("c")(42)
    with pytest.raises(LLMValidationError, match="metadata"):
        trace_performance("c", metadata=[1])


def test_a_class_is_refused():
    """It would be no class any more."""
    with pytest.raises(LLMValidationError, match="decorates"):

        @trace_performance("c")
        class Thing:
            pass


def test_objects_that_are_called_like_generators_are_generators(tracer):
    """Sync and async: the span covers the items, also through a partial."""

    class Steps:
        def __call__(self):
            yield from (1, 2, 3)

    class Items:
        async def __call__(self):
            for i in range(3):
                yield i

    async def main():
        return [i async for i in trace_performance("c", tracer=tracer)(Items())()]

    assert list(trace_performance("c", tracer=tracer)(functools.partial(Steps()))()) == [1, 2, 3]
    assert asyncio.run(main()) == [0, 1, 2]
    assert [(m.operation, m.metrics["items"]) for m in tracer.get_metrics()] == [("Steps", 3.0), ("Items", 3.0)]


def test_a_coroutine_that_a_plain_function_gives_back_belongs_to_its_span(tracer):
    """With what runs in it, and its failure; what runs between the two does not."""

    async def inside(is_bad):
        with trace_block("c", "inside", tracer=tracer):
            await asyncio.sleep(0)
        if is_bad:
            raise KeyError("bad")
        return 7

    @trace_performance("c", tracer=tracer)
    def give(is_bad):
        return inside(is_bad)

    async def main():
        waiting = give(False)
        with trace_block("c", "between", tracer=tracer):
            pass
        assert await waiting == 7
        with pytest.raises(KeyError):
            await give(True)
        assert current_span() is None

    asyncio.run(main())
    between, inner, first, _, second = tracer.get_metrics()
    assert (between.parent_id, inner.parent_id, inner.operation) == (None, first.span_id, "inside")
    assert [(m.operation, m.success) for m in (first, second)] == [("give", True), ("give", False)]


# -- functions


def test_an_awaited_function_is_timed_until_its_result_is_there(tracer):
    """The span of a coroutine lasts as long as its waiting, in the world's time."""
    world = World.virtual()

    @trace_performance("c", tracer=tracer)
    async def wait():
        await world.sleep(2)
        return 42

    async def main():
        with span(world, "study", "run"):
            return await asyncio.gather(wait(), wait())

    assert world.run(main()) == [42, 42]
    assert [m.duration_ms for m in tracer.get_metrics()] == [2000.0, 2000.0]
    run = world.sink.facts[-1]
    assert {m.parent_id for m in tracer.get_metrics()} == {run.span_id}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_exception_passes_unchanged(tracer, kind):
    """The same object comes out, with nothing added, and the call counts as an error."""
    error = ZeroDivisionError("mine")

    @trace_performance("c", "op", tracer=tracer)
    def called():
        raise error

    @trace_performance("c", "op", tracer=tracer)
    async def awaited():
        raise error

    with pytest.raises(ZeroDivisionError) as caught:
        called() if kind == "sync" else asyncio.run(awaited())
    assert caught.value is error
    assert (error.__context__, error.__cause__, getattr(error, "__notes__", [])) == (None, None, [])
    assert tracer.get_stats("c", "op").errors == 1


def test_recursion_gives_a_span_per_call(tracer):
    """Each inside the one that called it."""

    @trace_performance("c", tracer=tracer)
    def factorial(n):
        return 1 if n < 2 else n * factorial(n - 1)

    assert factorial(5) == 120
    kept = tracer.get_metrics()
    assert [m.parent_id for m in kept] == [*(m.span_id for m in kept[1:]), None]


def test_nothing_is_in_the_way_while_tracing_is_off(tracer):
    """Functions and generators give what they gave."""
    tracer.enabled = False

    @trace_performance("c", tracer=tracer)
    def steps():
        got = yield current_span()
        yield got

    @trace_performance("c", tracer=tracer)
    def called():
        return current_span()

    running = steps()
    assert (next(running), running.send(5), called(), told(tracer)) == (None, 5, None, [])


# -- generators


def test_a_generator_is_one_span_with_its_items(tracer):
    """From its first step to its end; calling it alone is no span; its result and what is sent to it pass through."""

    @trace_performance("c", "gen", tracer=tracer)
    def echo():
        """Give back what it is sent, until it is sent nothing."""
        got = yield "ready"
        while got is not None:
            got = yield got * 2
        return "done"

    def consume():
        running = echo()
        assert told(tracer) == []
        seen = [next(running), running.send(1), running.send(2)]
        result = None
        try:
            running.send(None)
        except StopIteration as end:
            result = end.value
        return seen, result

    assert consume() == (["ready", 2, 4], "done")
    (metric,) = tracer.get_metrics()
    assert (metric.operation, metric.success, metric.metrics["items"]) == ("gen", True, 3.0)
    assert 0 <= metric.metrics["active_ms"] <= metric.duration_ms
    assert echo().close() is None
    assert len(told(tracer)) == 1


def test_an_asynchronous_generator_is_one_span_with_its_items(tracer):
    """What is sent to it passes through, and its own waiting is its active time, its consumer's is not."""
    world = World.virtual()

    @trace_performance("c", "agen", tracer=tracer)
    async def echo():
        await world.sleep(1)
        got = yield "ready"
        await world.sleep(2)
        yield got

    async def main():
        with span(world, "study", "run"):
            running = echo()
            first = await anext(running)
            await world.sleep(10)
            second = await running.asend(7)
            with pytest.raises(StopAsyncIteration):
                await anext(running)
            return first, second

    assert world.run(main()) == ("ready", 7)
    (metric,) = tracer.get_metrics()
    assert (metric.duration_ms, metric.metrics) == (13_000.0, {"items": 2.0, "active_ms": 3000.0})
    assert metric.parent_id == world.sink.facts[-1].span_id


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_a_consumer_does_between_two_items_is_not_the_generators(tracer, kind):
    """Blocks of the body are its children, also across a yield; those of the consumer are their own."""
    decorate = trace_performance("c", "gen", tracer=tracer)

    def block(name):
        return trace_block("c", name, tracer=tracer)

    @decorate
    def steps():
        with block("first"):
            yield 1
            with block("inner"):
                pass
        with block("second"):
            yield 2

    @decorate
    async def items():
        with block("first"):
            yield 1
            with block("inner"):
                pass
        with block("second"):
            yield 2

    def consume():
        for item in steps():
            with block(f"consumer{item}"):
                pass

    async def consume_async():
        async for item in items():
            with block(f"consumer{item}"):
                await asyncio.sleep(0)

    consume() if kind == "sync" else asyncio.run(consume_async())
    spans = {m.operation: m for m in tracer.get_metrics()}
    parents = {name: m.parent_id for name, m in spans.items()}
    gen, first = spans["gen"].span_id, spans["first"].span_id
    assert parents == {
        "gen": None, "first": gen, "inner": first, "second": gen, "consumer1": None, "consumer2": None
    }  # fmt: skip
    assert current_span() is None


def test_two_generators_that_take_turns_do_not_mix(tracer):
    """zip() steps them alternately: each one's blocks are its own children, and nothing is left open."""

    @trace_performance("c", tracer=tracer)
    def steps(name):
        for k in range(3):
            with trace_block("c", f"{name}{k}", tracer=tracer):
                yield k

    assert list(zip(steps("a"), steps("b"), strict=True)) == [(0, 0), (1, 1), (2, 2)]
    spans = tracer.get_metrics()
    owners = {}
    for m in spans:
        if m.operation != "steps":
            owners.setdefault(m.operation[0], set()).add(m.parent_id)
    assert [len(owners[name]) for name in "ab"] == [1, 1]
    assert owners["a"] != owners["b"]
    assert current_span() is None


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_generator_that_is_left_early_has_not_failed(tracer, kind):
    """Its cleaning up runs, inside its span, which is closed and says so."""
    cleaned = []

    @trace_performance("c", "gen", tracer=tracer)
    def steps():
        try:
            yield from range(10)
        finally:
            cleaned.append(current_span().operation)

    @trace_performance("c", "gen", tracer=tracer)
    async def items():
        try:
            for k in range(10):
                yield k
        finally:
            cleaned.append(current_span().operation)

    def consume():
        running = steps()
        assert [next(running), next(running)] == [0, 1]
        running.close()

    async def consume_async():
        running = items()
        assert [await anext(running), await anext(running)] == [0, 1]
        await running.aclose()

    consume() if kind == "sync" else asyncio.run(consume_async())
    (metric,) = tracer.get_metrics()
    assert (cleaned, metric.success) == (["gen"], True)
    assert (metric.metadata, metric.metrics["items"]) == ({"closed_early": True}, 2.0)
    stats = tracer.get_stats("c", "gen")
    assert (stats.successes, stats.errors, stats.cancelled) == (1, 0, 0)


def test_a_generator_that_nobody_holds_any_more_is_closed_with_its_span(tracer):
    """Also when it is dropped in the middle, without a word."""

    @trace_performance("c", tracer=tracer)
    def steps():
        yield 1
        yield 2

    assert next(steps()) == 1
    gc.collect()
    assert told(tracer) == [("steps", True)]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_exception_thrown_into_a_generator_reaches_it(tracer, kind):
    """It may answer it and go on; one that it lets out is its failure, and the same object."""
    answered, last = ValueError("answered"), KeyError("last")

    @trace_performance("c", "gen", tracer=tracer)
    def steps():
        try:
            yield 1
        except ValueError as error:
            yield error
        yield 3

    @trace_performance("c", "gen", tracer=tracer)
    async def items():
        try:
            yield 1
        except ValueError as error:
            yield error
        yield 3

    def throw():
        running = steps()
        assert next(running) == 1
        assert running.throw(answered) is answered
        running.throw(last)

    async def throw_async():
        running = items()
        assert await anext(running) == 1
        assert await running.athrow(answered) is answered
        await running.athrow(last)

    with pytest.raises(KeyError) as caught:
        throw() if kind == "sync" else asyncio.run(throw_async())
    assert caught.value is last
    assert told(tracer) == [("gen", False)]


def test_an_error_while_a_generator_cleans_up_is_its_failure(tracer):
    """What its `finally` raises comes out of close(), and is in the span."""

    @trace_performance("c", tracer=tracer)
    def steps():
        try:
            yield 1
        finally:
            raise ZeroDivisionError

    running = steps()
    next(running)
    with pytest.raises(ZeroDivisionError):
        running.close()
    assert [m.failure.kind for m in tracer.get_metrics()] == ["ZeroDivisionError"]


def test_a_generator_may_be_stepped_in_different_contexts(tracer):
    """Each step leaves the context it ran in as it found it."""

    @trace_performance("c", tracer=tracer)
    def steps():
        with trace_block("c", "inner", tracer=tracer):
            yield 1
            yield 2

    running = steps()
    contexts = [contextvars.copy_context() for _ in range(3)]
    assert [context.run(next, running, None) for context in contexts] == [1, 2, None]
    assert [context.run(current_span) for context in contexts] == [None] * 3
    assert told(tracer) == [("inner", True), ("steps", True)]


def test_a_task_that_is_cancelled_inside_an_asynchronous_generator_closes_its_span(tracer):
    """Once, as cancelled, and the task stays cancelled."""

    @trace_performance("c", tracer=tracer)
    async def items():
        yield 1
        await asyncio.Event().wait()
        yield 2

    async def consume():
        async for _ in items():
            pass

    async def main():
        task = asyncio.create_task(consume())
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(main())
    assert told(tracer) == [("items", False)]
    assert tracer.get_stats().cancelled == 1
