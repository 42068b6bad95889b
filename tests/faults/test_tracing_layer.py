"""The catalogue's layer `tracing`: spans around what fails, and metadata that nobody can store."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping

import pytest

from workbench.act.trace import current_span, trace_block
from workbench.act.traced import trace_performance
from workbench.act.tracer import PerformanceTracer
from workbench.act.world import MemorySink
from workbench.record.log import Log

DEPTH = 5
NAMES = [f"depth{k}" for k in range(DEPTH)]
TEN_MB = 10 * 2**20


@pytest.fixture
def tracer():
    """A tracer of one's own with a sink."""
    own = PerformanceTracer()
    own.kept_for_test = MemorySink()  # attached sinks are held weakly
    own.attach(own.kept_for_test)
    return own


def check_chain(tracer, code):
    """Each of the five spans closed once, innermost first, each the child of the one around it, all with `code`."""
    spans = tracer.kept_for_test.facts
    assert [s.operation for s in spans] == NAMES[::-1]
    assert [s.failure.code for s in spans] == [code] * DEPTH
    assert [s.parent_id for s in spans] == [*(s.span_id for s in spans[1:]), None]
    assert len({s.trace_id for s in spans}) == 1
    assert tracer.get_stats().count == len(tracer.get_metrics()) == DEPTH
    assert current_span() is None


def test_trace_nested_raise_closes_each_span_once(tracer):
    """An exception at depth 5 leaves as the very same object; five spans are closed, with the right parents."""
    error = ZeroDivisionError("deep")

    def descend(k):
        with trace_block("c", NAMES[k], tracer=tracer):
            if k + 1 == DEPTH:
                raise error
            descend(k + 1)

    with pytest.raises(ZeroDivisionError) as caught:
        descend(0)
    assert caught.value is error
    check_chain(tracer, "untyped")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_trace_nested_raise_in_a_generator(tracer, kind):
    """Five traced generators inside each other, the innermost raising after its first item, close as five spans."""
    error = KeyError("deep")

    def level(k):
        @trace_performance("c", NAMES[k], tracer=tracer)
        def steps():
            if k == DEPTH - 1:
                yield 1
                raise error
            yield from level(k + 1)()

        @trace_performance("c", NAMES[k], tracer=tracer)
        async def items():
            if k == DEPTH - 1:
                yield 1
                raise error
            async for item in level(k + 1)():
                yield item

        return steps if kind == "sync" else items

    def consume():
        for _ in level(0)():
            assert current_span() is None

    async def consume_async():
        async for _ in level(0)():
            assert current_span() is None

    with pytest.raises(KeyError) as caught:
        consume() if kind == "sync" else asyncio.run(consume_async())
    assert caught.value is error
    check_chain(tracer, "untyped")


def test_trace_nested_raise_in_a_cancelled_task(tracer):
    """A task that is cancelled inside five spans closes them all, stays cancelled, and counts as no error."""

    async def deep(k):
        async with trace_block("c", NAMES[k], tracer=tracer):
            await (deep(k + 1) if k + 1 < DEPTH else asyncio.Event().wait())

    async def main():
        task = asyncio.create_task(deep(0))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(main())
    check_chain(tracer, "cancelled")
    stats = tracer.get_stats()
    assert (stats.cancelled, stats.errors, stats.error_rate) == (DEPTH, 0, None)


class Hostile:
    """An object that fails whatever is asked of it."""

    def __repr__(self):
        raise RuntimeError("no repr")

    def __getattr__(self, name):
        raise RuntimeError(f"no {name}")


def cyclic():
    """A list and a mapping that contain each other."""
    a: list[object] = []
    a.append({"again": a})
    return a


HUGE = {
    "object()": object(),
    "hostile": Hostile(),
    "cyclic": cyclic(),
    "10 MB of text": "x" * TEN_MB,
    "10 MB of bytes": b"\xff" * TEN_MB,
    "10 MB in a list": ["y" * 1024] * (TEN_MB // 1024),
    "10 MB of keys": {f"key {k}": k for k in range(100_000)},
    "deep": eval("[" * 90 + "]" * 90),
    "int": 10**6000,
    "nan": float("nan"),
    "surrogate": "\ud83d",
    "type": Hostile,
}


@pytest.mark.parametrize("name", HUGE)
def test_trace_huge_metadata_is_kept_as_a_safe_repr_and_cut(tracer, name):
    """Whatever the metadata are, the traced call gives its result; what is kept is plain, short JSON."""
    with trace_block("c", "op", {"about": HUGE[name], "next": 1}, tracer=tracer) as here:
        here.attributes["later"] = HUGE[name]
        result = 42
    assert result == 42
    (span,), (metric,) = tracer.kept_for_test.facts, tracer.get_metrics()
    assert span.attributes == metric.metadata
    assert metric.metadata["next"] == 1
    assert "about" in metric.metadata
    text = json.dumps(tracer.get_report(), allow_nan=False)
    assert len(text) < 60_000
    assert tracer.get_stats("c", "op").successes == 1


def test_trace_huge_says_what_was_cut(tracer):
    """The kept form tells a reader what stood there: the length, the cycle, the type."""
    about = {"text": HUGE["10 MB of text"], "cyclic": HUGE["cyclic"], "hostile": Hostile(), "object": object()}
    with trace_block("c", "op", about, tracer=tracer):
        pass
    kept = tracer.get_metrics()[0].metadata
    assert kept["text"].startswith("xxx")
    assert kept["text"].endswith(f"({TEN_MB} characters)")
    assert kept["cyclic"] == [{"again": "<list that contains itself>"}]
    assert kept["hostile"] == "<Hostile: repr failed with RuntimeError>"
    assert kept["object"].startswith("<object object")


def test_trace_huge_metadata_do_not_stay_alive(tracer):
    """10 MB given as metadata is not held by the history: its text is, cut."""
    text = "z" * TEN_MB
    before = sys.getrefcount(text)
    with trace_block("c", "op", {"text": text, "list": [text]}, tracer=tracer):
        pass
    assert sys.getrefcount(text) == before


@pytest.mark.parametrize("mapping", ["items", "len"])
def test_trace_huge_a_mapping_that_cannot_be_read_breaks_nothing(tracer, mapping):
    """A mapping of somebody's own that raises while it is read leaves a note in its place."""

    class Odd(Mapping):
        def __getitem__(self, key):
            raise RuntimeError("no items")

        def __iter__(self):
            return iter(["a"])

        def __len__(self):
            if mapping == "len":
                raise RuntimeError("no length")
            return 1

    with trace_block("c", "op", Odd(), tracer=tracer):
        pass
    with trace_block("c", "op", {"inner": Odd()}, tracer=tracer):
        pass
    first, second = (m.metadata for m in tracer.get_metrics())
    assert first == {"metadata": "<Odd: reading failed with RuntimeError>"}
    assert second == {"inner": "<Odd: reading failed with RuntimeError>"}


def test_trace_huge_goes_into_the_log_and_comes_back(tmp_path):
    """The log takes the span of a block with every one of these values, and its row can be read."""
    own = PerformanceTracer()
    log = Log.open(tmp_path)
    own.attach(log)
    for name, value in HUGE.items():
        with trace_block("c", name, {"about": value}, tracer=own):
            pass
    rows = log.rows("select operation, ok from spans")
    log.close()
    assert sorted(rows) == sorted((name, True) for name in HUGE)
    assert own.unwritten == 0
