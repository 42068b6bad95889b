"""Retries of a function: how often, how long between, what is left of the failures, and what is never retried."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import random
import traceback
from dataclasses import replace

import pytest

from workbench.act.retry import retry_with_backoff
from workbench.act.world import World
from workbench.errors import LLMProviderError, LLMRateLimitError, LLMValidationError

MODES = pytest.mark.parametrize("mode", ["sync", "async"])


class Script:
    """A function that raises or returns, call after call, what it was given; the last entry for ever."""

    def __init__(self, world, *does):
        self.world, self.does, self.at_s = world, does, []

    def __call__(self):
        """Do the next thing, and remember when."""
        self.at_s.append(self.world.now_s())
        does = self.does[min(len(self.at_s), len(self.does)) - 1]
        if isinstance(does, BaseException):
            raise does
        if isinstance(does, type):
            raise does(f"attempt {len(self.at_s)}")
        return does


def drawing(draw):
    """A virtual world in which every draw is the same."""
    return replace(World.virtual(), draw=lambda: draw)


def play(mode, script, **settings):
    """The outcome of a script under the decorator, in a plain or in an asynchronous function."""
    if mode == "sync":
        return retry_with_backoff(world=script.world, **settings)(script)()

    @retry_with_backoff(world=script.world, **settings)
    async def call():
        return script()

    return script.world.run(call())


@MODES
def test_a_passing_failure_is_healed(mode):
    """Two failures and then an answer: three attempts, and the answer."""
    script = Script(World.virtual(), OSError, ValueError, "done")
    assert play(mode, script) == "done"
    assert len(script.at_s) == 3


@MODES
def test_the_last_exception_is_raised_as_it_is(mode):
    """With max_retries=3 the fourth attempt's own exception comes out, without the others as its context."""
    script = Script(World.virtual(), OSError)
    with pytest.raises(OSError, match="attempt 4") as caught:
        play(mode, script, max_retries=3)
    assert len(script.at_s) == 4
    assert caught.value.__cause__ is caught.value.__context__ is None


@MODES
def test_waits_grow_by_the_factor_up_to_the_largest(mode):
    """Draws of 0.5 with base 1, factor 3, largest 10: ceilings 1, 3, 9, 10, 10 give waits of 0.5, 1.5, 4.5, 5, 5."""
    script = Script(drawing(0.5), OSError)
    with pytest.raises(OSError, match="attempt 6"):
        play(mode, script, max_retries=5, base_delay=1.0, backoff_factor=3.0, max_delay=10.0)
    waits = [b - a for a, b in zip(script.at_s, script.at_s[1:], strict=False)]
    assert waits == [0.5, 1.5, 4.5, 5.0, 5.0]


@MODES
def test_jitter_is_full(mode):
    """Waits are the world's draws times the ceiling, from 0 up: who failed together does not come back together."""
    script = Script(World.virtual(7), OSError)
    with pytest.raises(OSError, match="attempt"):
        play(mode, script, max_retries=50, base_delay=1.0, backoff_factor=1.0)
    waits = [b - a for a, b in zip(script.at_s, script.at_s[1:], strict=False)]
    draws = random.Random(7)
    assert waits == pytest.approx([draws.random() for _ in range(50)])


@MODES
def test_an_hours_backoff_takes_no_time(mode):
    """Under a virtual world waits move the clock and nothing else."""
    script = Script(drawing(0.99), OSError)
    with pytest.raises(OSError, match="attempt"):
        play(mode, script, max_retries=40, base_delay=3600.0, max_delay=3600.0)
    assert script.at_s[-1] == pytest.approx(40 * 0.99 * 3600)


@MODES
def test_the_hint_of_the_error_is_waited_for(mode):
    """An error that says 7 s is waited for 7 s and up to 0.25 s more, not the drawn backoff."""
    script = Script(drawing(0.5), LLMRateLimitError("slow down", retry_after_s=7.0), "done")
    assert play(mode, script, base_delay=1.0) == "done"
    assert script.at_s == [0.0, 7.125]


@MODES
@pytest.mark.parametrize("hint", [float("nan"), -5.0, "7", True, None], ids=repr)
def test_a_hint_that_is_none_is_ignored(mode, hint):
    """A hint that is not a number of seconds >= 0 leaves the backoff as it is."""
    error = OSError("x")
    error.retry_after_s = hint
    script = Script(drawing(0.5), error, "done")
    assert play(mode, script, base_delay=1.0) == "done"
    assert script.at_s == [0.0, 0.5]


@MODES
@pytest.mark.parametrize("hint", [61.0, 999_999, 10**400], ids=["61", "999999", "10^400"])
def test_a_hint_beyond_a_minute_ends_the_retries(mode, hint):
    """Who asks for more than 60 s is not waited for: the error comes out at once."""
    script = Script(World.virtual(), LLMRateLimitError("slow down", retry_after_s=hint), "done")
    with pytest.raises(LLMRateLimitError):
        play(mode, script)
    assert script.at_s == [0.0]


@MODES
def test_an_error_that_no_retry_heals_is_not_retried(mode):
    """An LLMError with retryable=False comes out after one attempt; one with retryable=True is retried."""
    script = Script(World.virtual(), LLMValidationError("wrong"))
    with pytest.raises(LLMValidationError):
        play(mode, script)
    assert len(script.at_s) == 1
    script = Script(World.virtual(), LLMProviderError("busy", retryable=True), "done")
    assert play(mode, script) == "done"


@MODES
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
def test_retry_baseexception_is_never_retried(mode, error):
    """Ctrl-C, exit and cancellation inside the function come out as they are, after one attempt."""
    raised = error()
    script = Script(World.virtual(), raised, "done")
    with pytest.raises(error) as caught:
        play(mode, script)
    assert len(script.at_s) == 1
    if mode == "sync":
        assert caught.value is raised


@MODES
def test_retry_zero_means_one_attempt(mode):
    """max_retries=0 calls once and does not wait."""
    script = Script(World.virtual(), OSError)
    with pytest.raises(OSError, match="attempt 1"):
        play(mode, script, max_retries=0)
    assert script.at_s == [0.0]


BAD = [-1, float("nan"), float("inf"), True, "3", None]


@pytest.mark.parametrize("field", ["max_retries", "base_delay", "backoff_factor", "max_delay"])
@pytest.mark.parametrize("value", BAD, ids=repr)
def test_retry_zero_nonsense_is_refused_when_decorating(field, value):
    """Negative, not finite, truth values, texts: refused by name before anything is called, with a next step."""
    with pytest.raises(LLMValidationError, match=field) as caught:
        retry_with_backoff(**{field: value})
    assert caught.value.code == "validation.config"
    assert field in caught.value.next_step
    assert len(caught.value.next_step) <= 160


def test_half_a_retry_is_refused():
    """A number of retries is whole."""
    with pytest.raises(LLMValidationError):
        retry_with_backoff(max_retries=1.5)


def test_what_cannot_be_retried_is_refused_when_decorating():
    """A number in the function's place and generator functions, whose call runs nothing, are named as such."""

    def steps():
        yield 1

    async def items():
        yield 1

    for wrong in (5, "name", steps, items):
        with pytest.raises(LLMValidationError, match="retry_with_backoff") as caught:
            retry_with_backoff(wrong)
        assert caught.value.code == "validation.config"
    with pytest.raises(LLMValidationError, match="generator"):
        retry_with_backoff(max_retries=1)(steps)


def test_the_decorator_works_without_parentheses():
    """`@retry_with_backoff` alone has the default settings, and gives up at once on a hint beyond a minute."""
    attempts = []

    @retry_with_backoff
    def instant(x):
        attempts.append(x)
        raise LLMRateLimitError("now", retry_after_s=61)

    with pytest.raises(LLMRateLimitError):
        instant("a")
    assert attempts == ["a"]
    assert instant.__name__ == "instant"


def test_a_decorated_function_keeps_its_face():
    """Name, docstring, signature and being asynchronous are the function's."""

    def plain(a: int, *, b: str = "x") -> str:
        """Plain."""

    async def waiting(a: int) -> str:
        """Waiting."""

    for function in (plain, waiting):
        decorated = retry_with_backoff(max_retries=1)(function)
        assert (decorated.__name__, decorated.__doc__) == (function.__name__, function.__doc__)
        assert inspect.signature(decorated) == inspect.signature(function)
        assert inspect.iscoroutinefunction(decorated) == inspect.iscoroutinefunction(function)


def test_methods_and_arguments_go_through():
    """A method sees its own object and its arguments in every attempt."""
    world = World.virtual()

    class Client:
        def __init__(self):
            self.seen = []

        @retry_with_backoff(world=world)
        def ask(self, question, *, style):
            self.seen.append((question, style))
            if len(self.seen) < 3:
                raise OSError("busy")
            return "42"

    client = Client()
    assert client.ask("how many?", style="plain") == "42"
    assert client.seen == [("how many?", "plain")] * 3


def test_a_partial_of_an_asynchronous_function_is_awaited_in_every_attempt():
    """What is called like an async function is retried like one."""
    world, attempts = World.virtual(), []

    async def call(k):
        attempts.append(k)
        if len(attempts) < 3:
            raise OSError("busy")
        return k

    decorated = retry_with_backoff(world=world)(functools.partial(call, 5))
    assert world.run(decorated()) == 5
    assert attempts == [5, 5, 5]


@MODES
def test_the_traceback_does_not_grow_with_the_attempts(mode):
    """An exception object that is raised in each of 50 attempts shows the frames of one."""

    def frames(max_retries):
        with pytest.raises(OSError, match="always") as caught:
            play(mode, Script(World.virtual(), OSError("always")), max_retries=max_retries)
        return [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]

    assert frames(50) == frames(0)
    assert frames(0).count("__call__") == 1


def test_a_cancellation_while_waiting_ends_it():
    """A task that is cancelled in its backoff is cancelled at once and makes no further attempt."""
    script = Script(drawing(0.5), OSError)

    @retry_with_backoff(base_delay=8.0, world=script.world)
    async def call():
        return script()

    async def main():
        task = asyncio.create_task(call())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return script.world.now_s()

    assert script.world.run(main()) == 1.0
    assert script.at_s == [0.0]


def test_a_failure_that_is_healed_is_logged(caplog):
    """Each failed attempt that is followed by another leaves an INFO line with its error and the wait."""
    with caplog.at_level(logging.INFO, "workbench"):
        play("sync", Script(drawing(0.5), OSError("api_key=abcdefgh"), "done"), base_delay=1.0)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("workbench.retry", "INFO")
    assert "attempt 1 failed, the next in 0.500 s: OSError: api_key=[redacted]" in record.getMessage()
