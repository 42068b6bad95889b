"""Where an exception came from: contexts that note, count and log what passes through them, and swallow nothing."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Generator
from types import TracebackType
from typing import Any, TypeVar, cast

from workbench.act.aggregate import DEFAULT_WORLD, ErrorAggregator, described, error_aggregator, logger_of
from workbench.act.world import World
from workbench.errors import LLMError, LLMValidationError

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_COMPONENT = "user"  # code that did not say where it belongs


class ErrorContext:
    """A context, sync or async, that times its body and says where an exception came from; it never swallows one.

    error: the exception that left the body, of whatever kind, or None. user_id: for whom, kept out of every text.
    An Exception is noted with component.operation, counted in `aggregator` and logged once, by the innermost context.
    Raises LLMValidationError validation.config for a name that is no text.
    """

    def __init__(
        self,
        component: str = DEFAULT_COMPONENT,
        operation: str = "block",
        *,
        user_id: str | None = None,
        aggregator: ErrorAggregator | None = None,
        world: World | None = None,
    ) -> None:
        self.component = checked_name("component", component)
        self.operation = checked_name("operation", operation)
        self.user_id = user_id
        self.error: BaseException | None = None
        self._aggregator = aggregator or error_aggregator
        self._world = world or DEFAULT_WORLD
        self._start_s: float | None = None
        self._ended_ms = 0.0

    @property
    def duration_ms(self) -> float:
        """Milliseconds inside the body: so far, or in all when it has ended; never negative."""
        if self._start_s is None:
            return self._ended_ms
        return max(0.0, (self._world.now_s() - self._start_s) * 1e3)

    def __enter__(self) -> ErrorContext:
        self.error, self._start_s = None, self._world.now_s()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended_ms, self._start_s = self.duration_ms, None
        self.error = error
        if error is None:
            self._aggregator.add_success(self.component, self.operation)
        elif isinstance(error, Exception):
            _record(error, self.component, self.operation, self._aggregator, user_id=self.user_id)

    async def __aenter__(self) -> ErrorContext:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


def error_context(
    component: str = DEFAULT_COMPONENT,
    operation: str | None = None,
    *,
    user_id: str | None = None,
    aggregator: ErrorAggregator | None = None,
    world: World | None = None,
) -> Callable[[F], F]:
    """A decorator that runs every call inside an ErrorContext; for functions and generators, sync and async.

    operation: by default the function's name. A generator's time includes its consumer's; what is sent to an
    asynchronous generator does not reach it.
    """
    checked_name("component", component)

    def decorate(function: F) -> F:
        name = checked_name("operation", operation or name_of(function))

        def context() -> ErrorContext:
            return ErrorContext(component, name, user_id=user_id, aggregator=aggregator, world=world)

        async def items(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            with context():
                async with contextlib.aclosing(function(*args, **kwargs)) as inner:
                    async for item in inner:
                        yield item

        def steps(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with context():
                return (yield from function(*args, **kwargs))

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            with context():
                return await function(*args, **kwargs)

        def called(*args: Any, **kwargs: Any) -> Any:
            with context():
                return function(*args, **kwargs)

        wrapper: Callable[..., Any] = called
        if inspect.isasyncgenfunction(function):
            wrapper = items
        elif inspect.isgeneratorfunction(function):
            wrapper = steps
        elif is_async(function):
            wrapper = awaited
        return cast("F", functools.wraps(function)(wrapper))

    return decorate


def handle_error(
    error: BaseException,
    component: str = DEFAULT_COMPONENT,
    operation: str = "block",
    *,
    aggregator: ErrorAggregator | None = None,
) -> LLMError:
    """The error as an LLMError, to be raised or shown; counted, and logged under `workbench.<component>`.

    An LLMError comes back itself, any other Exception as the __cause__ of an LLMError execution.failed.
    Raises `error` itself when it is no Exception: an interrupt or a cancellation.
    """
    if not isinstance(error, Exception):
        raise error
    typed = error
    if not isinstance(typed, LLMError):
        typed = LLMError(
            f"{component}.{operation} failed: {described(error)}",
            code="execution.failed",
            next_step="read the cause; call it through safe_execute(..., max_retries=3) if it may pass",
        )
        typed.__cause__ = error
    _record(typed, component, operation, aggregator or error_aggregator)
    return typed


def note(error: BaseException, text: str) -> None:
    """Add a line under the error's traceback, unless it is there already."""
    # An exception class may redefine all of this; that must not hide the exception.
    with contextlib.suppress(Exception):
        if text not in getattr(error, "__notes__", ()):
            BaseException.add_note(error, text)


def name_of(function: object) -> str:
    """The name of a function, or of the type of what is called like one."""
    function = _inner(function)
    return str(getattr(function, "__name__", type(function).__name__))


def is_async(function: object) -> bool:
    """Whether calling it gives a coroutine: an async function, an object with an async __call__, a partial of them."""
    function = _inner(function)
    if inspect.iscoroutinefunction(function):
        return True
    return inspect.iscoroutinefunction(inspect.getattr_static(type(function), "__call__", None))


def _inner(function: object) -> object:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def checked_name(field: str, value: object) -> str:
    """The name itself, when it is a text; LLMValidationError validation.config otherwise."""
    if isinstance(value, str) and value.strip():
        return value
    raise LLMValidationError(
        f"{field} is {type(value).__name__} {value!r:.40}, not a name",
        code="validation.config",
        next_step=f'name it: {field}="..."',
    )


def _record(
    error: Exception, component: str, operation: str, aggregator: ErrorAggregator, *, user_id: str | None = None
) -> None:
    note(error, f"in {component}.{operation}")
    if aggregator.add_error(error, component, operation):
        # The text only: a traceback holds source lines and is not redacted.
        logger_of(component).error(
            "%s.%s failed: %s", component, operation, described(error), extra={"user_id": user_id}
        )
