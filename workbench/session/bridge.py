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
    result: list[T] = []

    async def main() -> None:
        # Not returned: asyncio.run asks the signal module about its handler, which makes a repr of the finished
        # task with its result, and the repr of a run computes its whole table.
        result.append(await coroutine)

    if _loop_is_running():
        _in_thread(main())
    else:
        asyncio.run(main())
    return result[0]


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_thread(main: Coroutine[Any, Any, None]) -> None:
    error: list[BaseException] = []
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []
    ready, done = threading.Event(), threading.Event()
    context = contextvars.copy_context()

    async def outer() -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(main)
        started.append((asyncio.get_running_loop(), task))
        ready.set()
        await task

    def work() -> None:
        try:
            context.run(asyncio.run, outer())
        except BaseException as failed:  # handed over to the waiting thread, whatever it is
            error.append(failed)
        finally:
            ready.set()
            done.set()

    thread = threading.Thread(target=work, name="workbench-run-sync", daemon=True)
    thread.start()
    try:
        done.wait()  # not join(): an interrupted join marks the thread as ended while it still runs (Python 3.11)
    except BaseException:
        ready.wait()
        for loop, task in started:
            if not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)
        done.wait()
        thread.join()
        raise
    thread.join()
    if error:
        raise error[0]
