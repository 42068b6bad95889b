"""A function called again after an exception; what the waiting is for is decided in decide/retry.py."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast, overload

from workbench.act.aggregate import DEFAULT_WORLD, described, logger_of
from workbench.act.context import is_async, name_of
from workbench.act.trace import failure_of
from workbench.act.world import World
from workbench.canonical import text_of
from workbench.decide.retry import Next, RetryPolicy, checked
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import Failure

F = TypeVar("F", bound=Callable[..., Any])


@overload
def retry_with_backoff(function: F, /) -> F: ...
@overload
def retry_with_backoff(
    *,
    max_retries: int = 3,
    base_delay: float = 0.5,
    backoff_factor: float = 2.0,
    max_delay: float = 8.0,
    world: World | None = None,
) -> Callable[[F], F]: ...
def retry_with_backoff(
    function: Any = None,
    /,
    *,
    max_retries: int = 3,
    base_delay: float = 0.5,
    backoff_factor: float = 2.0,
    max_delay: float = 8.0,
    world: World | None = None,
) -> Any:
    """A decorator that calls a sync or async function again after an exception; also without parentheses.

    max_retries: further attempts, a whole number >= 0. base_delay, max_delay: seconds >= 0, the first and the
    largest ceiling; the delay is drawn between 0 and min(max_delay, base_delay * backoff_factor^(attempt - 1)).
    An error's `retry_after_s` is waited for instead; above 60 s it is not, and the error is raised at once.
    An LLMError with retryable=False is not retried. After the last attempt the function's own exception is raised.
    A sync function blocks its thread while it waits.
    Raises LLMValidationError validation.config at decoration time for settings that cannot be used.
    """
    policy = retry_policy(max_retries, base_delay, backoff_factor, max_delay)
    world = world or DEFAULT_WORLD

    def decorate(function: F) -> F:
        _check_retryable(function)

        def again(*args: Any, **kwargs: Any) -> Any:
            attempt = 0
            while True:
                attempt += 1
                try:
                    return function(*args, **kwargs)
                except Exception as error:
                    wait_s = _wait_s(policy, error, attempt, function, world)
                    if wait_s is None:
                        raise
                world.pause(wait_s)  # outside the handler: the next error must not name this one as its context

        async def again_async(*args: Any, **kwargs: Any) -> Any:
            attempt = 0
            while True:
                attempt += 1
                try:
                    return await function(*args, **kwargs)
                except Exception as error:
                    wait_s = _wait_s(policy, error, attempt, function, world)
                    if wait_s is None:
                        raise
                await world.sleep(wait_s)

        return cast("F", functools.wraps(function)(again_async if is_async(function) else again))

    return decorate if function is None else decorate(function)


def decide_next(policy: RetryPolicy, error: Exception, attempt: int, world: World, left_s: float | None) -> Next:
    """The policy's step; an exception that is no LLMError counts as retryable."""
    if isinstance(error, LLMError):
        failure = failure_of(error)
    else:
        failure = Failure(kind=type(error).__name__, code="untyped", message=text_of(error), retryable=True)
    hint = getattr(error, "retry_after_s", None)
    if not isinstance(hint, int | float) or isinstance(hint, bool):
        hint = None
    failure = replace(failure, retry_after_s=hint and min(hint, 1e9))  # an integer may be beyond floats
    draw = world.draw()
    return policy(attempt=attempt, failure=failure, draw=draw, remaining_s=left_s, tokens=1.0, alternatives=0)


def _wait_s(policy: RetryPolicy, error: Exception, attempt: int, function: object, world: World) -> float | None:
    """Seconds to wait before the next attempt, or None when there is none."""
    then = decide_next(policy, error, attempt, world, None)
    if then.action != "retry":
        return None
    log_retry(logger_of("retry"), name_of(function), error, attempt, then.delay_s)
    # One exception object may be raised every time, and would collect the traceback of every attempt.
    error.with_traceback(None)
    return then.delay_s


def log_retry(logger: logging.Logger, name: str, error: Exception, attempt: int, wait_s: float) -> None:
    """Say that an attempt failed and when the next one begins: an error that a retry heals is not lost."""
    logger.info("%s: attempt %d failed, the next in %.3f s: %s", name, attempt, wait_s, described(error))


def retry_policy(max_retries: int, base_delay: float, backoff_factor: float, max_delay: float) -> RetryPolicy:
    """The settings as a policy; refused under the names the caller used."""
    return RetryPolicy(
        max_retries=max_retries,
        base_delay_s=checked("base_delay", base_delay),
        backoff_factor=backoff_factor,
        max_delay_s=checked("max_delay", max_delay),
    )


def _check_retryable(function: object) -> None:
    generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    if callable(function) and not generator:
        return
    raise LLMValidationError(
        f"retry_with_backoff was given {'a generator function' if generator else type(function).__name__}",
        code="validation.config",
        next_step="decorate a function that returns its result: @retry_with_backoff(max_retries=3)",
    )
