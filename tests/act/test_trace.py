"""Spans: right parents whatever runs side by side, and one row however the body ends."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from workbench.act.trace import current_span, failure_of, span
from workbench.act.world import World
from workbench.errors import LLMFailoverError, LLMProviderError, LLMRateLimitError
from workbench.facts import Failure


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

    asyncio.run(main())
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

    asyncio.run(main())
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
    asyncio.run(main())
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
    error = LLMRateLimitError("slow down", status=429, retry_after_s=2.5, code="provider.rate_limit")
    with pytest.raises(LLMRateLimitError) as caught, span(world, "c", "outer"), span(world, "c", "inner"):
        raise error
    assert caught.value is error
    expected = Failure(
        kind="LLMRateLimitError",
        code="provider.rate_limit",
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

    assert asyncio.run(main()) == [True, False]
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
