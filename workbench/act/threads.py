"""Blocking functions beside the event loop, each in a thread that nobody has to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any


async def in_thread(function: Callable[[], Any], *, name: str) -> Any:
    """What a blocking function returns or raises, in a thread of its own that is forgotten when the waiting ends.

    It runs in a copy of the caller's context. name: of the thread, which does not keep the program alive.
    """
    # Not asyncio.to_thread: its pool is waited for at the end of the loop, and a few calls that hang fill it.
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if not done.done():
            done.set_result((result, error))

    def work() -> None:
        result, error = None, None
        try:
            result = context.run(function)
        except BaseException as raised:  # whatever it is, it belongs to the one who waits
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name=name, daemon=True).start()
    result, error = await done
    if error is not None:
        try:
            raise error
        finally:
            del error, done  # the traceback holds this frame
    return result
