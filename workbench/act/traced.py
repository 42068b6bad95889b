"""Functions that are timed at every call: `trace_performance`, for functions and generators, sync and async."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from contextlib import ExitStack, suppress
from contextvars import Token
from types import CoroutineType, TracebackType
from typing import Any, TypeVar, cast, overload

from workbench.act.context import DEFAULT_COMPONENT, is_async, name_of
from workbench.act.trace import INNERMOST, OpenSpan, trace_block
from workbench.act.tracer import PerformanceTracer, bad

F = TypeVar("F", bound=Callable[..., Any])


@overload
def trace_performance(component: F) -> F: ...


@overload
def trace_performance(
    component: str = DEFAULT_COMPONENT,
    operation: str | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
    tracer: PerformanceTracer | None = None,
) -> Callable[[F], F]: ...


def trace_performance(
    component: str | F = DEFAULT_COMPONENT,
    operation: str | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
    tracer: PerformanceTracer | None = None,
) -> Callable[[F], F] | F:
    """A decorator that makes every call a span; for functions and generators, sync and async. Works bare, too.

    operation: by default the function's name. metadata: kept with every span. A coroutine that a plain function gives
    back belongs to its span, which ends with it.
    A generator's span begins with its first step and ends with its end; between two steps it is nobody's parent. Its
    metric `items` counts what it gave, `active_ms` is its own part of the time. One that is closed early has not
    failed, and has the metadata `closed_early`.
    Raises LLMValidationError validation.input when the function is decorated, for what cannot be used.
    """
    if not isinstance(component, str) and callable(component):
        return trace_performance()(component)
    trace_block(
        component, "block" if operation is None else operation, metadata, tracer=tracer
    )  # refuses what is wrong

    def decorate(function: F) -> F:
        if isinstance(function, staticmethod | classmethod):
            inner: Callable[..., Any] = function.__func__
            return cast("F", type(function)(decorate(cast("F", inner))))
        if not callable(function) or isinstance(function, type):
            raise bad("what trace_performance decorates", function, "a function")
        name = name_of(function) if operation is None else operation

        def block() -> OpenSpan:
            return trace_block(component, name, metadata, tracer=tracer)

        return cast("F", functools.wraps(function)(_wrapper(function, block)))

    return decorate


def _wrapper(function: Callable[..., Any], block: Callable[[], OpenSpan]) -> Callable[..., Any]:
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        with block():
            return await function(*args, **kwargs)

    def called(*args: Any, **kwargs: Any) -> Any:
        span = block().__enter__()
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            span.__exit__(type(error), error, error.__traceback__)
            raise
        if type(result) is CoroutineType:
            span.step_out()
            return _rest(span, result)
        span.__exit__(None, None, None)
        return result

    if _is(inspect.isasyncgenfunction, function):
        return _async_generator(function, block)
    if _is(inspect.isgeneratorfunction, function):
        return _generator(function, block)
    return awaited if is_async(function) else called


def _is(kind: Callable[[object], bool], function: object) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return kind(function) or kind(inspect.getattr_static(type(function), "__call__", None))


async def _rest(span: OpenSpan, coroutine: Coroutine[Any, Any, Any]) -> Any:
    with ExitStack() as closing:
        closing.push(span)
        with _Inside(span):
            return await coroutine


def _async_generator(function: Callable[..., Any], block: Callable[[], OpenSpan]) -> Callable[..., Any]:
    async def items(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        steps = _Steps(block())
        inner = function(*args, **kwargs)
        with steps:
            given: Any = None
            thrown: BaseException | None = None
            while True:
                try:
                    with steps.inside:
                        item = await (inner.asend(given) if thrown is None else inner.athrow(thrown))
                except StopAsyncIteration:
                    return
                given = thrown = None
                steps.items += 1
                try:
                    given = yield item
                except GeneratorExit:
                    with steps.inside:
                        await inner.aclose()
                    steps.close_early()
                    raise
                except BaseException as error:
                    thrown = error

    return items


def _generator(function: Callable[..., Any], block: Callable[[], OpenSpan]) -> Callable[..., Any]:
    def stepped(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        steps = _Steps(block())
        inner = function(*args, **kwargs)
        with steps:
            given: Any = None
            thrown: BaseException | None = None
            while True:
                try:
                    with steps.inside:
                        item = inner.send(given) if thrown is None else inner.throw(thrown)
                except StopIteration as end:
                    return end.value
                given = thrown = None
                steps.items += 1
                try:
                    given = yield item
                except GeneratorExit:
                    with steps.inside:
                        inner.close()
                    steps.close_early()
                    raise
                except BaseException as error:
                    thrown = error

    return stepped


class _Steps:
    """The span of a generator, which is open all the time and the parent of what the generator itself does."""

    __slots__ = ("_is_closed_early", "inside", "items", "span")

    def __init__(self, span: OpenSpan) -> None:
        self.span, self.inside, self.items, self._is_closed_early = span, _Inside(span), 0, False

    def __enter__(self) -> None:
        self.span.__enter__()
        # What its consumer does between two steps is not part of the generator.
        self.span.step_out()

    def close_early(self) -> None:
        """Its consumer wants no more, which is no failure."""
        self._is_closed_early = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.span.is_open:
            self.span.metric("items", self.items)
            self.span.metric("active_ms", max(0.0, self.inside.active_s * 1e3))
        if self._is_closed_early and isinstance(error, GeneratorExit):
            self.span.attributes["closed_early"] = True
            kind = error = traceback = None
        self.span.__exit__(kind, error, traceback)


class _Inside:
    """The time and the context of a generator's steps: each goes on with the innermost span that the last one left."""

    __slots__ = ("_innermost", "_span", "_start_s", "_token", "active_s")

    def __init__(self, span: OpenSpan) -> None:
        self._span, self.active_s, self._start_s = span, 0.0, 0.0
        self._innermost: OpenSpan | None = span
        self._token: Token[OpenSpan | None] | None = None

    def __enter__(self) -> None:
        if self._span.is_open:
            self._token, self._start_s = INNERMOST.set(self._innermost), self._span.now_s()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            self.active_s += self._span.now_s() - self._start_s
            self._innermost = INNERMOST.get()
            with suppress(ValueError):  # a coroutine that is closed elsewhere
                INNERMOST.reset(self._token)
            self._token = None
