"""safe_execute: one deadline, retries, a fallback, typed errors, and nothing that is swallowed or left hanging."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
import traceback
from dataclasses import replace

import pytest

from workbench.act.aggregate import ErrorAggregator, error_aggregator
from workbench.act.context import ErrorContext, error_context
from workbench.act.safety import safe_execute
from workbench.act.trace import current_span
from workbench.act.world import World
from workbench.errors import LLMError, LLMProviderError, LLMRateLimitError, LLMTimeoutError, LLMValidationError
from workbench.facts import Span

INTERRUPTS = [KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError()]


class HostileError(Exception):
    """An exception whose text cannot be read."""

    def __str__(self):
        raise RuntimeError("no text for you")


class Op:
    """An asynchronous operation: each call takes `seconds` and does the next thing, the last one for ever."""

    def __init__(self, world, *does, seconds=0.0):
        self.world, self.does, self.seconds, self.at_s = world, does, seconds, []

    async def __call__(self):
        self.at_s.append(self.world.now_s())
        does = self.does[min(len(self.at_s), len(self.does)) - 1]
        await self.world.sleep(self.seconds)
        if isinstance(does, BaseException):
            raise does
        if isinstance(does, type):
            raise does(f"attempt {len(self.at_s)}")
        return does


@pytest.fixture
def world():
    """A virtual world in which every draw is one half."""
    return replace(World.virtual(), draw=lambda: 0.5)


@pytest.fixture
def counts(world):
    """An aggregator of the test's own."""
    return ErrorAggregator(world=world)


@pytest.fixture
def execute(world, counts):
    """safe_execute for router.select on the virtual clock, run to its end."""

    async def main(op, settings):
        return await safe_execute(op, "router", "select", world=world, aggregator=counts, **settings)

    return lambda op, **settings: world.run(main(op, settings))


def fail(execute, op, kind=LLMError, **settings):
    """The error that comes out."""
    with pytest.raises(kind) as caught:
        execute(op, **settings)
    assert type(caught.value) is kind
    return caught.value


def join_left_behind():
    """Wait for the threads of operations called op."""
    for thread in threading.enumerate():
        if thread.name == "workbench op":
            thread.join(60)


def spans(world):
    """The spans written so far."""
    return [fact for fact in world.sink.facts if isinstance(fact, Span)]


# -- results


def test_a_result_comes_back_and_counts_as_success(world, counts, execute):
    """One attempt, one success, one span that says so."""
    assert execute(Op(world, "done")) == "done"
    assert counts.count("router") == (0, 1)
    (timed,) = spans(world)
    assert (timed.component, timed.operation, timed.ok, timed.attributes) == ("router", "select", True, {"attempts": 1})


def test_promised_forms_of_the_call(world, counts):
    """Component and operation by keyword, by position or left out; awaited, entered, or made a task."""
    options = {"world": world, "aggregator": counts}

    async def op():
        return "done"

    async def main():
        assert await safe_execute(
            op, component="llm_router", operation_name="select", timeout=30.0, max_retries=3, fallback=None, **options
        ) == "done"  # fmt: skip
        assert await safe_execute(op, "llm_router", "select", **options) == "done"
        assert await safe_execute(op, **options) == "done"
        async with safe_execute(op, **options) as result:
            assert result == "done"
        assert await asyncio.create_task(safe_execute(op, **options)) == "done"
        assert await asyncio.gather(safe_execute(op, **options), safe_execute(op, **options)) == ["done"] * 2
        return [(s.component, s.operation) for s in spans(world)]

    assert world.run(main()) == [("llm_router", "select")] * 2 + [("user", "op")] * 5
    assert world.run(safe_execute(op, **options)) == "done"


def test_the_defaults_need_no_world():
    """Without options the machine's clock and the global counts are used, outside of any log."""
    name = "test_the_defaults_need_no_world"

    async def main():
        return await safe_execute(lambda: 42, name)

    assert asyncio.run(main()) == 42
    assert error_aggregator.count(name) == (0, 1)


def test_the_body_of_async_with_keeps_its_own_exceptions(world, counts):
    """What the body raises passes as it is: the operation was over, and is neither repeated nor charged."""
    op = Op(world, "done")

    async def main():
        async with safe_execute(op, "router", world=world, aggregator=counts) as result:
            raise KeyError(result)

    with pytest.raises(KeyError):
        world.run(main())
    assert len(op.at_s) == 1
    assert counts.count("router") == (0, 1)


def test_an_execution_is_used_once(world):
    """A second await says that the first one has had the result."""

    async def main():
        once = safe_execute(Op(world, "done"), world=world)
        assert await once == "done"
        with pytest.raises(RuntimeError, match="already awaited"):
            await once

    world.run(main())


def test_an_execution_that_is_not_wanted_can_be_closed(world):
    """Closed before it began, it has run nothing and warns of nothing; forgotten, it would warn like a coroutine."""
    op = Op(world, "done")
    safe_execute(op, world=world).close()
    forgotten = safe_execute(op, world=world)
    with pytest.warns(RuntimeWarning, match="never awaited"):
        del forgotten
    assert op.at_s == []


def test_every_kind_of_callable_is_called(world, execute):
    """Sync and async functions, lambdas that give a coroutine, partials and objects: the result is the result."""

    def plain():
        return 1

    async def waiting():
        await world.sleep(5)
        return 2

    async def given(k):
        return k

    assert execute(plain, timeout=None) == 1
    assert execute(waiting) == 2
    assert execute(lambda: given(3), timeout=None) == 3
    assert execute(functools.partial(given, 4)) == 4
    assert execute(Op(world, 5)) == 5
    assert execute(functools.partial(Op(world, 6))) == 6


def test_a_sync_operation_runs_beside_the_loop_and_knows_its_span(world, execute):
    """A blocking function has a thread of its own, in which the enclosing span is the current one."""
    seen = []

    def op():
        seen.append((threading.current_thread() is threading.main_thread(), current_span().attributes["attempts"]))
        if len(seen) < 3:
            raise OSError("busy")
        return "done"

    assert execute(op, timeout=None) == "done"
    assert seen == [(False, 1), (False, 2), (False, 3)]


def test_an_awaitable_itself_is_accepted_for_one_attempt(world, execute):
    """A coroutine or a future can be awaited once: with max_retries=0 it is."""

    async def op():
        return "done"

    assert execute(op(), max_retries=0) == "done"

    async def main():
        future = asyncio.get_running_loop().create_future()
        future.set_result("there")
        return await safe_execute(future, max_retries=0, world=world)

    assert world.run(main()) == "there"


# -- retries


def test_passing_failures_are_healed(world, counts, execute):
    """Two failures and an answer: three attempts 0.25 and 0.5 s apart, one success, no error, a span that is ok."""
    op = Op(world, OSError, LLMProviderError("busy", retryable=True), "done")
    assert execute(op, base_delay=0.5) == "done"
    assert op.at_s == [0.0, 0.25, 0.75]
    assert counts.count() == (0, 1)
    (timed,) = spans(world)
    assert (timed.ok, timed.attributes["attempts"], timed.duration_ms) == (True, 3, 750.0)


def test_what_fails_for_good_is_typed(world, counts, execute):
    """A foreign exception comes out as execution.failed: cause, component, operation, attempts, last error, trace."""
    error = fail(execute, Op(world, OSError), max_retries=2)
    assert (error.code, error.retryable) == ("execution.failed", False)
    assert error.message == "router.select failed after 3 attempts: OSError: attempt 3"
    assert isinstance(error.__cause__, OSError)
    assert 0 < len(error.next_step) <= 160
    (timed,) = spans(world)
    assert (timed.ok, timed.failure.code, timed.attributes["attempts"]) == (False, "execution.failed", 3)
    assert error.trace_id == timed.trace_id
    assert counts.count("router") == (1, 0)


def test_a_typed_error_comes_out_as_it_is(world, execute):
    """The last LLMError is raised itself, with its type and fields."""
    raised = LLMRateLimitError("slow down", retry_after_s=1.0)
    op = Op(world, raised)
    assert fail(execute, op, LLMRateLimitError, max_retries=1) is raised
    assert len(op.at_s) == 2


def test_the_traceback_does_not_grow_with_the_attempts(world, execute):
    """An exception object that is raised in each of 50 attempts shows the frames of one."""

    def frames(max_retries):
        error = fail(execute, Op(world, OSError("always")), timeout=None, max_retries=max_retries)
        return [frame.name for frame in traceback.extract_tb(error.__cause__.__traceback__)]

    assert frames(50) == frames(0)
    assert frames(0).count("__call__") == 1


def test_what_no_retry_heals_is_not_retried(world, execute):
    """An LLMError with retryable=False ends it after one attempt."""
    op = Op(world, LLMValidationError("wrong"))
    fail(execute, op, LLMValidationError)
    assert len(op.at_s) == 1


def test_an_absurd_hint_ends_it_at_once(world, execute):
    """Who asks to come back in 999999 s is not waited for: its own error comes out, not a timeout."""
    op = Op(world, LLMRateLimitError("slow down", retry_after_s=999_999))
    fail(execute, op, LLMRateLimitError, timeout=5)
    assert (len(op.at_s), world.now_s()) == (1, 0.0)


def test_retry_zero_means_one_attempt(world, execute):
    """max_retries=0 calls once, and the message counts one attempt."""
    op = Op(world, OSError)
    assert "after 1 attempt:" in fail(execute, op, max_retries=0).message
    assert len(op.at_s) == 1


@pytest.mark.parametrize("error", INTERRUPTS, ids=repr)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_retry_baseexception_passes_at_once(world, counts, error, kind):
    """Ctrl-C, exit and cancellation are raised on: one attempt, no fallback, no count, from a thread too."""
    attempts = []

    def plain():
        attempts.append(1)
        raise error

    async def waiting():
        plain()

    async def main():
        op = plain if kind == "sync" else waiting
        with pytest.raises(type(error)) as caught:
            await safe_execute(op, fallback="instead", timeout=None, world=world, aggregator=counts)
        return caught.value

    assert world.run(main()) is error
    assert attempts == [1]
    assert counts.count() == (0, 0)


def test_a_hostile_exception_is_typed(world, counts, execute):
    """An exception without a readable text is retried, wrapped, counted and logged by its type."""
    error = fail(execute, Op(world, HostileError()), max_retries=1)
    assert "HostileError" in error.message
    assert isinstance(error.__cause__, HostileError)
    assert counts.count() == (1, 0)


def test_no_secret_comes_out(world, counts, execute, caplog):
    """Keys in an exception's text are taken out of the message, the counts and every log line."""
    secret = "sk-" + "a1B2c3D4" * 4
    with caplog.at_level(logging.DEBUG, "workbench"):
        error = fail(execute, Op(world, ValueError(f"refused {secret}")), fallback=None)
    everything = [error.message, *error.__notes__, caplog.text, counts.get_recent_errors()[0].message]
    assert all("[redacted]" in text for text in (error.message, caplog.text))
    assert not [text for text in everything if secret in text]


# -- the deadline


def test_the_deadline_ends_a_slow_operation(world, counts, execute):
    """An operation of 100 s under a deadline of 30 s: LLMTimeoutError after 30 s, no second attempt."""
    op = Op(world, "late", seconds=100)
    error = fail(execute, op, LLMTimeoutError, timeout=30.0)
    assert error.code == "timeout.deadline"
    assert isinstance(error, TimeoutError)
    assert "router.select" in error.message
    assert "30 s" in error.message
    assert (len(op.at_s), world.now_s()) == (1, 30.0)
    assert counts.count("router") == (1, 0)


def test_the_deadline_is_one_for_all_attempts_and_waits(world, execute):
    """Attempts of 12 s and waits of 0.5 s under 30 s: the third is cut at 30 s, the second's error is named."""
    op = Op(world, OSError, seconds=12)
    error = fail(execute, op, LLMTimeoutError, timeout=30.0, max_retries=9, base_delay=1.0, backoff_factor=1.0)
    assert op.at_s == [0.0, 12.5, 25.0]
    assert world.now_s() == 30.0
    assert "last error: OSError: attempt 2" in error.message


def test_retry_deadline_a_wait_that_would_pass_it_is_not_begun(world, execute):
    """Deadline 1 s, wait 2 s: raised at once with the attempt's error as the cause, nothing slept."""
    op = Op(world, OSError)
    error = fail(execute, op, LLMTimeoutError, timeout=1.0, base_delay=4.0)
    assert error.code == "timeout.deadline"
    assert isinstance(error.__cause__, OSError)
    assert "last error: OSError: attempt 1" in error.message
    assert (len(op.at_s), world.now_s()) == (1, 0.0)


def test_a_wait_that_takes_too_long_begins_no_attempt(world, counts):
    """When the machine wakes up after the deadline, no further call is begun that could not be waited for."""
    slow = replace(world, sleep=lambda seconds: world.sleep(seconds + 50))
    attempts = []

    async def op():
        attempts.append(world.now_s())
        raise OSError("busy")

    async def main():
        with pytest.raises(LLMTimeoutError) as caught:
            await safe_execute(op, timeout=30.0, world=slow, aggregator=counts)
        return caught.value

    error = world.run(main())
    assert attempts == [0.0]
    assert isinstance(error.__cause__, OSError)


def test_a_sync_operation_is_left_behind_at_the_deadline(world, execute):
    """A function that blocks is not waited for: the deadline holds, and its late outcome disturbs nobody."""
    release, ended = threading.Event(), threading.Event()

    def op():
        release.wait(60)
        ended.set()
        raise OSError("too late to matter")

    try:
        fail(execute, op, LLMTimeoutError, timeout=30.0)
        assert not ended.is_set()
        assert [t.daemon for t in threading.enumerate() if t.name == "workbench op"] == [True]
    finally:
        release.set()
    join_left_behind()
    assert ended.is_set()


def test_a_late_outcome_while_the_loop_still_runs_is_dropped(world, counts):
    """The thread ends after the deadline with the loop still there: nothing reaches the loop's error handler."""
    release, complaints = threading.Event(), []

    def op():
        release.wait(60)
        return "late"

    async def main():
        with pytest.raises(LLMTimeoutError):
            await safe_execute(op, timeout=1.0, world=world, aggregator=counts)
        release.set()
        asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
        await asyncio.to_thread(join_left_behind)
        await asyncio.sleep(0)

    world.run(main())
    assert complaints == []


def test_an_answer_that_is_there_is_not_thrown_away(world, counts):
    """An operation that blocked the loop past the deadline, and then returned, has an answer: it is used."""

    async def op():
        world.pause(100)
        return "late but here"

    async def main():
        return await safe_execute(op, timeout=30.0, world=world, aggregator=counts)

    assert world.run(main()) == "late but here"


def test_a_failure_that_overshoots_the_deadline_is_not_retried(world, execute):
    """An operation that blocked the loop past the deadline, and then failed, is not called again."""
    attempts = []

    async def op():
        attempts.append(1)
        world.pause(100)
        raise OSError("busy")

    error = fail(execute, op, LLMTimeoutError, timeout=30.0)
    assert attempts == [1]
    assert isinstance(error.__cause__, OSError)


def test_an_operation_that_turns_its_cancellation_into_an_error_is_out_of_time(world, execute):
    """Raising something else when the deadline cancels it does not buy a retry."""
    attempts = []

    async def op():
        attempts.append(1)
        try:
            await world.sleep(100)
        except asyncio.CancelledError:
            raise LLMProviderError("connection lost", retryable=True) from None

    error = fail(execute, op, LLMTimeoutError, timeout=30.0)
    assert attempts == [1]
    assert isinstance(error.__cause__, LLMProviderError)


def test_an_operations_own_timeout_is_an_error_like_others(world, execute):
    """A TimeoutError from inside, before the deadline, is retried, and wrapped in the end."""
    op = Op(world, TimeoutError)
    error = fail(execute, op, max_retries=2)
    assert (error.code, len(op.at_s)) == ("execution.failed", 3)


def test_without_a_timeout_an_hour_is_waited_for(world, execute):
    """timeout=None sets no deadline."""
    assert execute(Op(world, "done", seconds=3600), timeout=None) == "done"
    assert world.now_s() == 3600.0


# -- cancellation


@pytest.mark.parametrize(("seconds", "at_s"), [(100.0, 1.0), (0.0, 1.0)], ids=["operation", "backoff"])
def test_a_cancellation_passes_at_once(world, counts, seconds, at_s):
    """Cancelled in the operation or in the backoff: no attempt more, no fallback, no count; one closed span."""
    op = Op(world, OSError, seconds=seconds)

    async def main():
        running = safe_execute(op, base_delay=8.0, fallback="instead", world=world, aggregator=counts)
        task = asyncio.create_task(running)
        await asyncio.sleep(at_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return world.now_s()

    assert world.run(main()) == at_s
    assert len(op.at_s) == 1
    assert counts.count() == (0, 0)
    assert [s.failure.kind for s in spans(world)] == ["CancelledError"]


def test_an_outer_timeout_is_the_callers(world, counts):
    """A deadline around safe_execute that strikes first comes out as the caller's TimeoutError."""

    async def main():
        async with asyncio.timeout(5):
            await safe_execute(Op(world, "late", seconds=100), world=world, aggregator=counts)

    with pytest.raises(TimeoutError) as caught:
        world.run(main())
    assert not isinstance(caught.value, LLMError)
    assert world.now_s() == 5.0


# -- the fallback


async def _answer():
    return "instead"


def _giving():
    return _answer()


class Fallback:
    """An object with an asynchronous __call__."""

    async def __call__(self):
        return "instead"


@pytest.mark.parametrize(
    "fallback",
    ["instead", lambda: "instead", _answer, Fallback(), _giving],
    ids=["value", "sync", "async", "object", "gives a coroutine"],
)
def test_a_fallback_stands_in_and_says_so(world, counts, execute, fallback, caplog):
    """Its value or result is returned; the failure is logged at WARNING, counted as an error, and in the span."""
    with caplog.at_level(logging.WARNING, "workbench"):
        assert execute(Op(world, OSError), timeout=None, fallback=fallback) == "instead"
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("workbench.router", "WARNING")
    assert "router.select failed, its fallback is used" in record.getMessage()
    assert "OSError: attempt 4" in record.getMessage()
    assert counts.count("router") == (1, 0)
    (timed,) = spans(world)
    assert (timed.ok, timed.failure.code) == (False, "execution.failed")
    assert timed.attributes == {"attempts": 4, "fallback": True}


@pytest.mark.parametrize("value", [0, "", False, []], ids=repr)
def test_a_fallback_that_is_empty_is_still_one(world, execute, value):
    """Only None means that there is no fallback."""
    assert execute(Op(world, OSError), fallback=value) is value


def test_a_fallback_is_not_used_for_a_success(world, execute):
    """As long as an attempt succeeds, the fallback is not called."""
    called = []
    assert execute(Op(world, OSError, "done"), fallback=lambda: called.append(1)) == "done"
    assert called == []


def test_a_fallback_stands_in_after_the_deadline_and_for_what_is_not_retried(world, execute):
    """A timeout and an LLMError without retry are failures like others to a fallback."""
    assert execute(Op(world, "late", seconds=100), timeout=30.0, fallback=_answer) == "instead"
    assert execute(Op(world, LLMValidationError("wrong")), fallback=_answer) == "instead"


@pytest.mark.parametrize("does", [OSError, LLMRateLimitError("slow down")], ids=["foreign", "typed"])
def test_a_fallback_that_fails_leaves_both_errors_visible(world, counts, execute, does, caplog):
    """The operation's error comes out with its cause; the fallback's is in its notes, context, log and counts."""
    second = ZeroDivisionError("no luck")

    async def fallback():
        raise second

    with caplog.at_level(logging.WARNING, "workbench"):
        error = fail(execute, Op(world, does), LLMError if does is OSError else LLMRateLimitError, fallback=fallback)
    assert (error is does) != isinstance(error.__cause__, OSError)
    assert "the fallback failed too: ZeroDivisionError: no luck" in error.__notes__
    assert error.__context__ is second
    assert [r.levelname for r in caplog.records] == ["WARNING", "ERROR"]
    assert {(e.kind, e.operation) for e in counts.get_recent_errors()} == {
        (type(error).__name__, "select"),
        ("ZeroDivisionError", "select.fallback"),
    }


def test_a_fallback_that_hangs_has_the_same_time_again(world, execute):
    """A fallback function is cut after `timeout` seconds of its own: 30 and 30."""

    async def fallback():
        await world.sleep(1000)

    error = fail(execute, Op(world, "late", seconds=100), LLMTimeoutError, timeout=30.0, fallback=fallback)
    assert any("the fallback failed too" in note for note in error.__notes__)
    assert world.now_s() == 60.0


@pytest.mark.parametrize("interrupt", INTERRUPTS, ids=repr)
def test_retry_baseexception_in_a_fallback_passes(world, execute, interrupt):
    """An interrupt inside the fallback is raised on as it is."""

    def fallback():
        raise interrupt

    with pytest.raises(type(interrupt)):
        execute(Op(world, OSError), timeout=None, max_retries=0, fallback=fallback)


# -- contexts and counts


def test_nested_executions_count_one_failure(world, counts, caplog):
    """An operation that is itself executed, in a context: one count and log line, of the innermost, and all notes."""
    options = {"world": world, "aggregator": counts}

    @error_context("outer", "o", **options)
    async def outer():
        return await safe_execute(inner, "middle", "m", **options)

    async def inner():
        async with ErrorContext("inner", "i", **options):
            raise LLMProviderError("down")

    async def main():
        with pytest.raises(LLMProviderError) as caught:
            await outer()
        return caught.value

    with caplog.at_level(logging.ERROR, "workbench"):
        error = world.run(main())
    assert [r.name for r in caplog.records] == ["workbench.inner"]
    assert [n.partition(",")[0] for n in error.__notes__[1:]] == ["in inner.i", "in middle.m", "in outer.o"]
    assert (counts.count(), counts.count("inner")) == ((1, 0), (1, 0))


def test_a_wrapped_failure_is_not_retried_by_the_one_around(world, execute, counts):
    """Retries do not multiply: an inner safe_execute that gave up is final for the outer one."""
    op = Op(world, OSError)

    async def inner():
        return await safe_execute(op, "inner", max_retries=2, world=world, aggregator=counts)

    fail(execute, inner, max_retries=5)
    assert len(op.at_s) == 3


def test_five_hundred_at_once_each_get_their_own(world, counts):
    """Side by side, every third fails: each result and error is its own, and counts are exact."""

    async def op(k):
        await world.sleep(k % 7)
        if k % 3 == 0:
            raise ValueError(f"item {k}")
        return k

    async def main():
        options = {"max_retries": 1, "world": world, "aggregator": counts}
        return await asyncio.gather(
            *(safe_execute(functools.partial(op, k), "router", **options) for k in range(500)), return_exceptions=True
        )

    results = world.run(main())
    for k, result in enumerate(results):
        assert result == k if k % 3 else str(result).endswith(f"ValueError: item {k}")
    assert counts.count("router") == (167, 333)
    assert len(spans(world)) == 500


# -- what is refused


@pytest.mark.parametrize("field", ["timeout", "max_retries", "base_delay", "backoff_factor", "max_delay"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, "3"], ids=repr)
def test_nonsense_is_refused_before_anything_is_called(field, value):
    """Negative, not finite, truth values, texts: refused by name when called, even before the await."""
    with pytest.raises(LLMValidationError, match=field) as caught:
        safe_execute(_answer, **{field: value})
    assert caught.value.code == "validation.config"
    assert field in caught.value.next_step


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"timeout": 0}, "timeout"), ({"component": ""}, "component"), ({"operation_name": 5}, "operation_name")],
)
def test_no_time_and_no_name_are_refused(settings, named):
    """A deadline of 0 s is none, and names are texts."""
    with pytest.raises(LLMValidationError, match=named) as caught:
        safe_execute(_answer, **settings)
    assert caught.value.code == "validation.config"


def test_what_can_be_awaited_once_cannot_be_retried():
    """A coroutine with retries is refused, and closed; the message says why, the next step what to pass instead."""
    coroutine = _answer()
    with pytest.raises(LLMValidationError, match="awaited once") as caught:
        safe_execute(coroutine)
    assert "max_retries=0" in caught.value.next_step
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_a_fallback_that_may_never_be_awaited_is_refused():
    """A coroutine as a fallback is refused, and closed: the function itself is wanted."""
    coroutine = _answer()
    with pytest.raises(LLMValidationError, match="fallback") as caught:
        safe_execute(_answer, fallback=coroutine)
    assert "fallback=function" in caught.value.next_step
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_what_cannot_be_called_is_refused():
    """A value in the operation's place is named by its type."""
    with pytest.raises(LLMValidationError, match="int") as caught:
        safe_execute(42)
    assert len(caught.value.next_step) <= 160
