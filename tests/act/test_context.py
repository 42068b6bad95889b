"""Contexts and handled errors: what fails is noted, counted and logged once, and never replaced or swallowed."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import pickle
from dataclasses import replace

import pytest

from workbench.act.aggregate import ErrorAggregator, error_aggregator
from workbench.act.context import ErrorContext, error_context, handle_error
from workbench.act.world import World
from workbench.errors import LLMError, LLMRateLimitError, LLMValidationError

SECRET = "sk-" + "a1B2c3D4" * 4


class HostileError(Exception):
    """An exception whose text and notes cannot be used."""

    def __str__(self):
        raise RuntimeError("no text for you")

    def add_note(self, note):
        raise RuntimeError("no note for you")


@pytest.fixture
def world():
    """A virtual world."""
    return World.virtual()


@pytest.fixture
def counts(world):
    """An aggregator of the test's own."""
    return ErrorAggregator(world=world)


@pytest.fixture
def options(world, counts):
    """What keeps a context off the machine's clock and the global counts."""
    return {"world": world, "aggregator": counts}


# -- the context manager


def test_a_context_times_its_body_and_counts_a_success(world, counts, options):
    """The duration grows while the body runs, stands still afterwards, and is 0 before; no error, one success."""
    here = ErrorContext("router", "select", user_id="u1", **options)
    assert (here.duration_ms, here.error) == (0.0, None)
    with here as entered:
        world.pause(1.5)
        assert entered is here
        assert here.duration_ms == 1500.0
        world.pause(1.5)
    world.pause(60)
    assert (here.duration_ms, here.error, here.user_id) == (3000.0, None, "u1")
    assert (here.component, here.operation) == ("router", "select")
    assert counts.count("router") == (0, 1)


def test_an_asynchronous_context_does_the_same(world, counts, options):
    """`async with` times, counts and lets the exception pass, as `with` does."""
    error = ValueError("x")

    async def main():
        async with ErrorContext("router", "select", **options) as here:
            await world.sleep(2)
        assert (here.duration_ms, here.error) == (2000.0, None)
        with pytest.raises(ValueError, match="x") as caught:
            async with ErrorContext("router", "select", **options) as here:
                raise error
        assert here.error is caught.value is error

    world.run(main())
    assert counts.count("router") == (1, 1)


def test_an_exception_passes_unchanged_with_a_note(counts, options):
    """A foreign exception leaves as the same object, with a note that says where, counted there."""
    error = KeyError("choices")
    with pytest.raises(KeyError) as caught, ErrorContext("router", "select", **options) as here:
        raise error
    assert caught.value is here.error is error
    assert error.__notes__ == ["in router.select"]
    assert error.__cause__ is error.__context__ is None
    (entry,) = counts.get_recent_errors()
    assert (entry.kind, entry.code, entry.component, entry.operation) == ("KeyError", "untyped", "router", "select")


def test_a_typed_error_keeps_what_it_knows(counts, options):
    """An LLMError is noted and counted under its own code; its fields, and its way through pickle, stay."""
    error = LLMRateLimitError("slow down", code="rate.x", retry_after_s=3.0, model="p:m")
    with pytest.raises(LLMRateLimitError) as caught, ErrorContext("router", "select", **options):
        raise error
    assert caught.value is error
    assert (error.code, error.retry_after_s, error.model, error.message) == ("rate.x", 3.0, "p:m", "slow down")
    assert error.__notes__ == [f"next: {error.next_step}", "in router.select"]
    assert pickle.loads(pickle.dumps(error)).__notes__ == error.__notes__
    assert counts.get_recent_errors()[0].code == "rate.x"


def test_nested_contexts_tell_the_way_out_and_count_once(counts, options, caplog):
    """Three contexts around one exception: three notes from the inside out, one count and one log line, innermost."""
    with (
        caplog.at_level(logging.INFO, "workbench"),
        pytest.raises(ValueError, match="x") as caught,
        ErrorContext("c", "outer", **options),
        ErrorContext("b", "middle", **options),
        ErrorContext("a", "inner", **options),
    ):
        raise ValueError("x")
    assert caught.value.__notes__ == ["in a.inner", "in b.middle", "in c.outer"]
    assert (counts.count(), counts.count("a")) == ((1, 0), (1, 0))
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("workbench.a", "ERROR", "a.inner failed: ValueError: x")
    ]


def test_a_recursion_through_one_context_leaves_one_note(options):
    """A function that calls itself does not repeat the same note at every level."""

    @error_context("a", "descend", **options)
    def descend(depth):
        if depth == 0:
            raise ValueError("bottom")
        descend(depth - 1)

    with pytest.raises(ValueError, match="bottom") as caught:
        descend(20)
    assert caught.value.__notes__ == ["in a.descend"]


def test_an_error_that_is_handled_inside_counts_for_the_inner_context_only(counts, options):
    """What the body catches is an error of the inner context and a success of the outer one."""
    with ErrorContext("outer", "o", **options) as outer:
        try:
            with ErrorContext("inner", "i", **options):
                raise ValueError("x")
        except ValueError:
            pass
    assert outer.error is None
    assert (counts.count("inner"), counts.count("outer")) == ((1, 0), (0, 1))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError()], ids=repr)
def test_retry_baseexception_an_interrupt_is_neither_error_nor_success(counts, options, error):
    """Ctrl-C, exit and cancellation pass a context untouched: seen in .error, in no count and without a note."""
    with pytest.raises(type(error)) as caught, ErrorContext("a", "op", **options) as here:
        raise error
    assert caught.value is here.error is error
    assert counts.count() == (0, 0)
    assert not hasattr(error, "__notes__")


def test_a_hostile_exception_still_passes(counts, options, caplog):
    """An exception that refuses its text and its notes is the one that leaves, counted and logged by its type."""
    with caplog.at_level(logging.INFO, "workbench"), pytest.raises(HostileError), ErrorContext("a", "op", **options):
        raise HostileError
    assert counts.get_recent_errors()[0].kind == "HostileError"
    assert "HostileError" in caplog.text


def test_notes_that_are_no_list_do_not_hide_the_exception(options):
    """An exception that keeps something else under __notes__ leaves as it is."""
    error = ValueError("x")
    error.__notes__ = 42
    with pytest.raises(ValueError) as caught, ErrorContext("a", "op", **options):  # noqa: PT011
        raise error
    assert caught.value is error


def test_a_clock_that_runs_backwards_gives_no_negative_duration(world, options):
    """Whatever the clock does, inside and afterwards, the duration is at least 0."""
    times = iter([100.0, 50.0, 40.0])
    options["world"] = replace(world, now_s=lambda: next(times))
    with ErrorContext("a", "op", **options) as here:
        assert here.duration_ms == 0.0
    assert here.duration_ms == 0.0


def test_a_context_can_be_entered_again(world, options):
    """A second use starts afresh: its own duration, no error of the first."""
    here = ErrorContext("a", "op", **options)
    world.pause(5)
    with pytest.raises(ValueError, match="x"), here:
        raise ValueError("x")
    with here:
        assert here.error is None
        world.pause(2)
    assert (here.error, here.duration_ms) == (None, 2000.0)


def test_nothing_secret_is_logged_and_no_user(options, caplog):
    """A log line has the error's text without keys and without the user, who is an attribute of the record."""
    with (
        caplog.at_level(logging.INFO, "workbench"),
        pytest.raises(ValueError, match="refused"),
        ErrorContext("a", "op", user_id="alice", **options),
    ):
        raise ValueError(f"refused {SECRET}")
    assert "refused [redacted]" in caplog.text
    assert SECRET not in caplog.text
    assert "alice" not in caplog.text
    assert caplog.records[0].user_id == "alice"


@pytest.mark.parametrize("name", [None, "", "  ", 7, len], ids=repr)
def test_a_component_is_a_name(name):
    """Anything but a text is refused at once, also a function when the parentheses were forgotten."""
    for make in (ErrorContext, error_context):
        with pytest.raises(LLMValidationError) as caught:
            make(name, "op")
        assert caught.value.code == "validation.config"


# -- the decorator


def test_a_decorated_function_keeps_its_face(options):
    """Name, docstring, signature and kind are those of the function, which stays reachable."""

    def plain(a: int, *, b: str = "x") -> str:
        """Plain."""

    async def waiting(a: int) -> str:
        """Waiting."""

    def steps(a: int):
        """Steps."""
        yield a

    async def items(a: int):
        """Items."""
        yield a

    for function in (plain, waiting, steps, items):
        decorated = error_context("a", "op", **options)(function)
        assert decorated.__name__ == function.__name__
        assert decorated.__doc__ == function.__doc__
        assert inspect.signature(decorated) == inspect.signature(function)
        assert decorated.__wrapped__ is function
        for kind in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
            assert kind(decorated) == kind(function)


def test_a_decorated_function_returns_and_raises_as_before(counts, options):
    """Arguments and result go through; an exception is noted; the operation is by default the function's name."""

    @error_context("a", **options)
    def divide(x, *, by):
        return x / by

    assert divide(6, by=3) == 2
    with pytest.raises(ZeroDivisionError) as caught:
        divide(6, by=0)
    assert caught.value.__notes__ == ["in a.divide"]
    assert counts.count("a") == (1, 1)


def test_promised_form_without_options_uses_the_global_counts():
    """`@error_context(component=..., operation=...)` alone counts in the aggregator that everybody sees."""
    name = "test_promised_form_without_options"

    @error_context(component=name, operation="select_model")
    def select():
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        select()
    (entry,) = error_aggregator.get_recent_errors(component=name)
    assert (entry.operation, entry.count) == ("select_model", 1)


def test_calls_of_one_decorated_function_side_by_side_do_not_mix(world, counts, options):
    """Every call has a context of its own: of ten at once the even ones fail, each with its own exception."""

    @error_context("a", "op", **options)
    async def call(k):
        await world.sleep(10 - k)
        if k % 2 == 0:
            raise ValueError(str(k))
        return k

    async def main():
        return await asyncio.gather(*(call(k) for k in range(10)), return_exceptions=True)

    results = world.run(main())
    assert [str(r) for r in results] == [str(k) for k in range(10)]
    assert counts.count("a") == (5, 5)


class Caller:
    """An object with an asynchronous __call__ that fails."""

    async def __call__(self):
        raise ValueError("x")


@pytest.mark.parametrize("function", [Caller(), functools.partial(Caller())], ids=["object", "partial"])
def test_what_is_called_like_an_asynchronous_function_is_one(world, counts, options, function):
    """For an object with an async __call__, and a partial of it, the context is open until the result is there."""
    decorated = error_context("a", **options)(function)

    async def main():
        with pytest.raises(ValueError, match="x"):
            await decorated()

    world.run(main())
    assert counts.count("a") == (1, 0)
    assert counts.get_recent_errors()[0].operation == "Caller"


def test_a_generator_is_inside_its_context_while_it_runs(counts, options):
    """What is sent in and returned goes through; an exception half way is noted; stopping early is not an error."""

    @error_context("a", "op", **options)
    def steps(limit):
        got = yield "first"
        if got == "fail":
            raise ValueError("x")
        return (got, limit)

    running = steps(3)
    assert next(running) == "first"
    with pytest.raises(StopIteration) as stopped:
        running.send("go")
    assert stopped.value.value == ("go", 3)

    running = steps(3)
    next(running)
    with pytest.raises(ValueError, match="x") as caught:
        running.send("fail")
    assert caught.value.__notes__ == ["in a.op"]

    running = steps(3)
    next(running)
    running.close()
    assert counts.count("a") == (1, 1)


def test_an_asynchronous_generator_is_closed_with_its_context(world, counts, options):
    """Items come through, an exception is noted, and a reader who stops early closes the inner generator too."""
    closed = []

    @error_context("a", "op", **options)
    async def items(n):
        try:
            for k in range(n):
                yield k
            raise ValueError("x")
        finally:
            closed.append(n)

    async def main():
        failing = items(2)
        assert [await anext(failing), await anext(failing)] == [0, 1]
        with pytest.raises(ValueError, match="x") as caught:
            await anext(failing)
        assert caught.value.__notes__ == ["in a.op"]
        early = items(5)
        assert await anext(early) == 0
        await early.aclose()
        assert closed == [2, 5]

    world.run(main())
    assert counts.count("a") == (1, 0)


# -- handle_error


def test_a_foreign_exception_becomes_a_typed_error(counts, caplog):
    """The LLMError has the exception as its cause, a code, a next step and no secrets; it is counted and logged."""
    cause = KeyError(SECRET)
    with caplog.at_level(logging.INFO, "workbench"):
        error = handle_error(cause, "router", "select", aggregator=counts)
    assert type(error) is LLMError
    assert (error.code, error.retryable) == ("execution.failed", False)
    assert error.__cause__ is cause
    assert error.message == "router.select failed: KeyError: '[redacted]'"
    assert 0 < len(error.next_step) <= 160
    assert counts.count("router") == (1, 0)
    assert [(r.name, r.levelname) for r in caplog.records] == [("workbench.router", "ERROR")]
    assert SECRET not in caplog.text


def test_a_typed_error_is_handled_as_it_is(counts):
    """An LLMError comes back itself, noted and counted; handling it twice counts it once."""
    error = LLMRateLimitError("slow down")
    assert handle_error(error, "router", "select", aggregator=counts) is error
    assert handle_error(error, "router", "select", aggregator=counts) is error
    assert error.__notes__.count("in router.select") == 1
    assert counts.count() == (1, 0)


def test_a_handled_error_that_is_raised_on_counts_once(counts, options):
    """Contexts around the place where an exception was handled add nothing to its count."""

    @error_context("outer", "o", **options)
    def handles():
        try:
            with ErrorContext("inner", "i", **options):
                raise KeyError("x")
        except KeyError as cause:
            raise handle_error(cause, "middle", "m", aggregator=counts) from cause

    with pytest.raises(LLMError) as caught:
        handles()
    assert caught.value.code == "execution.failed"
    assert (counts.count(), counts.count("inner")) == ((1, 0), (1, 0))


def test_a_hostile_exception_is_handled(counts):
    """An exception without a readable text becomes a typed error that names its type."""
    error = handle_error(HostileError(), "router", "select", aggregator=counts)
    assert "HostileError" in error.message


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError()], ids=repr)
def test_retry_baseexception_an_interrupt_is_not_turned_into_an_error(counts, error):
    """Handed an interrupt or a cancellation, handle_error raises it on."""
    with pytest.raises(type(error)) as caught:
        handle_error(error, "router", "select", aggregator=counts)
    assert caught.value is error
    assert counts.count() == (0, 0)
