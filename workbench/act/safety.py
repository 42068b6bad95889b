"""Calls that fail in an orderly way: retries, deadlines and fallbacks.

    error_context, ErrorContext   say where an exception came from, and count it (act/context.py)
    handle_error                  any exception as an LLMError, counted and logged (act/context.py)
    retry_with_backoff            calls a function again, and raises the function's own last exception (act/retry.py)
    safe_execute                  one operation under one deadline; what escapes is an LLMError

KeyboardInterrupt, SystemExit and asyncio.CancelledError pass through everything here at once: they are neither retried,
wrapped, counted nor swallowed. The decisions are those of decide/retry.py; here are only the waiting and the calling.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from workbench.act.aggregate import DEFAULT_WORLD, ErrorAggregator, described, error_aggregator, logger_of
from workbench.act.context import (
    DEFAULT_COMPONENT,
    ErrorContext,
    checked_name,
    error_context,
    handle_error,
    is_async,
    name_of,
    note,
)
from workbench.act.retry import decide_next, log_retry, retry_policy, retry_with_backoff
from workbench.act.threads import in_thread
from workbench.act.trace import OpenSpan, failure_of, span
from workbench.act.world import World
from workbench.decide.retry import RetryPolicy, checked
from workbench.errors import LLMError, LLMTimeoutError, LLMValidationError

__all__ = ["ErrorContext", "SafeExecution", "error_context", "handle_error", "retry_with_backoff", "safe_execute"]

T = TypeVar("T")


class SafeExecution(Coroutine[Any, Any, T]):
    """What safe_execute gives back: await it, make it a task, or enter it with `async with ... as result`; once."""

    def __init__(self, running: Coroutine[Any, Any, T]) -> None:
        self._running = running

    def __await__(self) -> Generator[Any, Any, T]:
        return self._running.__await__()

    def send(self, value: Any, /) -> Any:
        """The next awaitable of the coroutine, for the event loop."""
        return self._running.send(value)

    def throw(self, *error: Any) -> Any:
        """The next awaitable after an exception was thrown in, for the event loop."""
        return self._running.throw(*error)

    def close(self) -> None:
        """Give up without running."""
        self._running.close()

    async def __aenter__(self) -> T:
        return await self._running

    async def __aexit__(self, *error: object) -> None:
        """Leave the body's exceptions alone: the operation was over before it began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Everything one safe_execute was asked to do."""

    op: Any
    component: str
    operation: str
    timeout_s: float | None
    policy: RetryPolicy
    fallback: Any
    aggregator: ErrorAggregator
    world: World

    @property
    def name(self) -> str:
        return f"{self.component}.{self.operation}"


@overload
def safe_execute(
    op: Callable[[], Awaitable[T]] | Awaitable[T],
    component: str = ...,
    operation_name: str | None = ...,
    *,
    timeout: float | None = ...,
    max_retries: int = ...,
    fallback: Any = ...,
    base_delay: float = ...,
    backoff_factor: float = ...,
    max_delay: float = ...,
    aggregator: ErrorAggregator | None = ...,
    world: World | None = ...,
) -> SafeExecution[T]: ...
@overload
def safe_execute(
    op: Callable[[], T],
    component: str = ...,
    operation_name: str | None = ...,
    *,
    timeout: float | None = ...,
    max_retries: int = ...,
    fallback: Any = ...,
    base_delay: float = ...,
    backoff_factor: float = ...,
    max_delay: float = ...,
    aggregator: ErrorAggregator | None = ...,
    world: World | None = ...,
) -> SafeExecution[T]: ...
def safe_execute(
    op: Any,
    component: str = DEFAULT_COMPONENT,
    operation_name: str | None = None,
    *,
    timeout: float | None = 30.0,
    max_retries: int = 3,
    fallback: Any = None,
    base_delay: float = 0.5,
    backoff_factor: float = 2.0,
    max_delay: float = 8.0,
    aggregator: ErrorAggregator | None = None,
    world: World | None = None,
) -> SafeExecution[Any]:
    """What `op()` gives, under one deadline for all attempts and waits; to be awaited, or `async with ... as result`.

    op: called without arguments. A coroutine function runs here; any other callable runs in a thread of its own,
        which is left behind at the deadline (Python cannot stop it) and does not keep the program alive. Anything
        awaitable that comes back is awaited. A coroutine or future itself is accepted with max_retries=0 only.
    operation_name: by default the name of `op`. timeout: seconds > 0, or None for no deadline. Operations that
        refuse to be cancelled are waited for.
    max_retries, base_delay, backoff_factor, max_delay: as in retry_with_backoff. A wait that would pass the deadline
        is not begun.
    fallback: a value, or a sync or async function without arguments, used when everything failed; logged at WARNING
        and counted as an error. A function has `timeout` seconds of its own. None: no fallback.
    Raises LLMError only: an LLMError as it is, LLMTimeoutError timeout.deadline, and any other exception as the
        __cause__ of LLMError execution.failed. When the fallback fails too, the operation's error is raised with the
        fallback's in its notes and as its __context__.
    Raises LLMValidationError validation.config or validation.input at once for arguments that cannot be used.
    """
    try:
        plan = _Plan(
            op=op,
            component=checked_name("component", component),
            operation=checked_name("operation_name", operation_name or name_of(op)),
            timeout_s=None if timeout is None else checked("timeout", timeout, positive=True),
            policy=retry_policy(max_retries, base_delay, backoff_factor, max_delay),
            fallback=fallback,
            aggregator=aggregator or error_aggregator,
            world=world or DEFAULT_WORLD,
        )
        _check_callable(plan)
    except LLMValidationError:
        for unused in (op, fallback):
            if inspect.iscoroutine(unused):
                unused.close()
        raise
    return SafeExecution(_execute(plan))


async def _execute(plan: _Plan) -> Any:
    with span(plan.world, plan.component, plan.operation) as here:
        try:
            result = await _attempts(plan, here)
        except LLMError as failed:
            counted = plan.aggregator.add_error(failed, plan.component, plan.operation)
            if plan.fallback is not None:
                return await _fall_back(plan, failed, here)
            if counted:
                logger_of(plan.component).error("%s failed: %s", plan.name, described(failed))
            raise
        plan.aggregator.add_success(plan.component, plan.operation)
        return result


async def _attempts(plan: _Plan, here: OpenSpan) -> Any:
    """The first result; LLMError when there is none."""
    world, start_s, attempt = plan.world, plan.world.now_s(), 0
    left_s, last = plan.timeout_s, None
    while left_s is None or left_s > 0:
        attempt += 1
        here.attributes["attempts"] = attempt
        timer = asyncio.timeout(left_s)
        try:
            async with timer:
                return await _called(plan.op)
        except Exception as error:
            if timer.expired():
                raise _too_late(plan, f"passed in attempt {attempt}", last) from error
            left_s = _left_s(plan, start_s)
            then = decide_next(plan.policy, error, attempt, world, left_s)
            if then.action != "retry":
                note(error, f"in {plan.name}, attempt {attempt} of {plan.policy.max_retries + 1}: {then.reason}")
                if then.give_up == "deadline":
                    raise _too_late(plan, f"leaves no time after attempt {attempt}", error) from error
                if isinstance(error, LLMError):
                    raise
                raise _failed(plan, attempt, error) from error
            log_retry(logger_of(plan.component), plan.name, error, attempt, then.delay_s)
            last = error.with_traceback(None)  # as in act/retry.py; and a traceback kept here would be a cycle
        await world.sleep(then.delay_s)
        left_s = _left_s(plan, start_s)
    raise _too_late(plan, f"passed while waiting after attempt {attempt}", last) from last


async def _fall_back(plan: _Plan, failed: LLMError, here: OpenSpan) -> Any:
    here.failure, here.attributes["fallback"] = failure_of(failed), True
    logger_of(plan.component).warning("%s failed, its fallback is used: %s", plan.name, described(failed))
    if not callable(plan.fallback):
        return plan.fallback
    try:
        async with asyncio.timeout(plan.timeout_s):
            return await _called(plan.fallback)
    except Exception as second:
        note(failed, f"the fallback failed too: {described(second)}")
        plan.aggregator.add_error(second, plan.component, f"{plan.operation}.fallback")
        logger_of(plan.component).error("%s failed, and its fallback too: %s", plan.name, described(second))
        raise failed from failed.__cause__


async def _called(op: Any) -> Any:
    if not callable(op):
        return await op
    result = op() if is_async(op) else await in_thread(op, name=f"workbench {name_of(op)}")
    return await result if inspect.isawaitable(result) else result


def _left_s(plan: _Plan, start_s: float) -> float | None:
    return None if plan.timeout_s is None else plan.timeout_s - (plan.world.now_s() - start_s)


def _too_late(plan: _Plan, what: str, last: Exception | None) -> LLMTimeoutError:
    return LLMTimeoutError(
        f"{plan.name}: the deadline of {plan.timeout_s:g} s {what}"
        + (f"; last error: {described(last)}" if last else ""),
        next_step="raise timeout, or lower max_retries and base_delay",
    )


def _failed(plan: _Plan, attempts: int, error: Exception) -> LLMError:
    return LLMError(
        f"{plan.name} failed after {attempts} attempt{'s' if attempts > 1 else ''}: {described(error)}",
        code="execution.failed",
        next_step="read the cause; raise max_retries if it may pass, or give a fallback",
    )


def _check_callable(plan: _Plan) -> None:
    if inspect.isawaitable(plan.fallback) and not callable(plan.fallback):
        raise LLMValidationError(
            f"the fallback of {plan.name} is a {type(plan.fallback).__name__}, which may never be awaited",
            next_step="pass the function without calling it: fallback=function",
        )
    if callable(plan.op):
        return
    if not inspect.isawaitable(plan.op):
        raise LLMValidationError(
            f"{plan.name} is a {type(plan.op).__name__}, not a function without arguments",
            next_step="pass the function without calling it: safe_execute(function), or a lambda",
        )
    if plan.policy.max_retries:
        raise LLMValidationError(
            f"{plan.name} is a {type(plan.op).__name__}, which can be awaited once; "
            f"max_retries={plan.policy.max_retries} may need it {plan.policy.max_retries + 1} times",
            next_step="pass the function without calling it: safe_execute(function), or set max_retries=0",
        )
