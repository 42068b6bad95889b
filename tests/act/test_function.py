"""A function in a model's place, and the threads in which blocking functions run."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from workbench.act.function import FunctionModel
from workbench.act.threads import in_thread
from workbench.errors import LLMProviderError
from workbench.facts import Request, Response

HERE: contextvars.ContextVar[str] = contextvars.ContextVar("HERE", default="outside")


def answer(function: Callable[[str], Any]) -> Response:
    return asyncio.run(FunctionModel("mine", function).complete(Request.of("hello")))


async def later(prompt: str) -> str:
    return prompt.upper()


def awaitable(prompt: str) -> Coroutine[Any, Any, str]:
    return later(prompt)


@pytest.mark.parametrize("function", [str.upper, later, awaitable])
def test_a_function_answers_in_a_models_place(function: Callable[[str], Any]):
    """Plain, asynchronous, or plain with something to await: the text is the answer, and it counts as live."""
    response = answer(function)
    assert (response.text, response.model, response.source) == ("HELLO", "mine", "live")


def test_what_is_no_text_is_refused():
    """A number is no answer."""
    with pytest.raises(LLMProviderError) as caught:
        answer(lambda prompt: 5)
    assert caught.value.code == "provider.malformed"


def test_what_a_function_raises_comes_out_as_it_is():
    """Its own exception, not a wrapped one."""
    with pytest.raises(ConnectionError, match="hello"):
        answer(lambda prompt: (_ for _ in ()).throw(ConnectionError(prompt)))


def test_a_function_that_is_given_up_keeps_no_loop_waiting():
    """The loop ends while the function still blocks, in a daemon thread; its late answer disturbs nobody."""
    release, ended = threading.Event(), threading.Event()
    names: list[tuple[str, bool]] = []

    async def main() -> None:
        started, loop = asyncio.Event(), asyncio.get_running_loop()

        def blocks(prompt: str) -> str:
            names.append((threading.current_thread().name, threading.current_thread().daemon))
            loop.call_soon_threadsafe(started.set)
            release.wait(5)
            ended.set()
            return prompt

        task = asyncio.create_task(FunctionModel("mine", blocks).complete(Request.of("hello")))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    try:
        asyncio.run(main())
        assert not ended.is_set()
        assert names == [("workbench mine", True)]
    finally:
        release.set()
    assert ended.wait(5)


def test_a_thread_runs_in_a_copy_of_the_context():
    """It sees the caller's variables, and changes only its own."""

    def function() -> str:
        found = HERE.get()
        HERE.set("changed")
        return found

    async def main() -> tuple[str, str]:
        HERE.set("inside")
        return await in_thread(function, name="a thread"), HERE.get()

    assert asyncio.run(main()) == ("inside", "inside")
