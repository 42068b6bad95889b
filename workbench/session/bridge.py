"""Coroutines from synchronous code, also inside a running event loop.

Without a loop in this thread the coroutine gets one of its own. Inside one (a notebook cell) it runs on a loop
in another thread while this one waits; an interrupt cancels the work over there and waits for its end, so that
nothing goes on and bills.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result; its exception is raised here."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    return _in_thread(coroutine)


def _in_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    result: list[T] = []
    error: list[BaseException] = []
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = []
    ready = threading.Event()
    context = contextvars.copy_context()

    async def main() -> T:
        task: asyncio.Task[T] = asyncio.get_running_loop().create_task(coroutine)
        started.append((asyncio.get_running_loop(), task))
        ready.set()
        return await task

    def work() -> None:
        try:
            result.append(context.run(asyncio.run, main()))
        except BaseException as failed:  # handed over to the waiting thread, whatever it is
            error.append(failed)
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="workbench-run-sync", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        ready.wait()
        for loop, task in started:
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    if error:
        raise error[0]
    return result[0]
