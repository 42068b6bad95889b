"""Coroutines from synchronous code, also inside a running event loop.

Without a loop in this thread the coroutine gets one of its own. Inside one (a notebook cell) it runs on a loop
in another thread while this one waits; an interrupt cancels the work over there and waits for its end, so that
nothing goes on and bills. A second interrupt stops the waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import signal
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from workbench.act.wake import LOOK_S, awake

T = TypeVar("T")


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result; its exception is raised here."""
    result: list[T] = []

    async def main() -> None:
        # Not returned: asyncio.run asks the signal module about its handler, which makes a repr of the finished
        # task with its result, and the repr of a run computes its whole table.
        with awake():
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


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let an interrupt reach this thread while it waits.

    A loop's own handler (a kernel's for a cell with `await`, asyncio.run's) asks the loop to cancel the task that
    runs, and the loop is what stands still here.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or before is signal.default_int_handler:  # ignored, by the system's default, or as needed
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
    with _interruptible():
        try:
            thread.start()
            _wait(done)  # not join(): an interrupted join marks the thread as ended while it still runs (Python 3.11)
        except BaseException:
            if thread.ident is not None:
                _wait(ready)
                for loop, task in started:
                    with contextlib.suppress(RuntimeError):  # the loop has just been closed
                        loop.call_soon_threadsafe(task.cancel)
                _wait(done)
                thread.join()
            raise
    thread.join()
    if error:
        raise error[0]


def _wait(event: threading.Event) -> None:
    """Wait in pieces: a signal just before a wait is seen when it ends (see act/wake.py)."""
    while not event.wait(LOOK_S):
        pass
