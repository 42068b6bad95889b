"""A second request beside a slow first one: whoever answers first wins, the other is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
Request = Coroutine[Any, Any, T | None]


async def hedged(first: Request[T], delay: Awaitable[None], second: Callable[[], Request[T] | None]) -> T | None:
    """The first result that is not None; the first request's error or None when neither has one.

    second: called once when the first has not ended after `delay`; None where a hedge may not be sent.
    When this returns or is cancelled, no request is left running.
    """
    one = asyncio.create_task(first)
    two: asyncio.Task[T | None] | None = None
    try:
        timer = asyncio.ensure_future(delay)
        try:
            await asyncio.wait({one, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await ended(timer)
        if one.done() or (request := second()) is None:
            return await one
        two = asyncio.create_task(request)
        waiting = {one, two}
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for over in sorted(done, key=lambda t: t is two):
                if not over.cancelled() and over.exception() is None and (found := over.result()) is not None:
                    return found
        return await one
    finally:
        await ended(*(task for task in (one, two) if task is not None))


async def ended(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and return when all are over, however often we are cancelled meanwhile.

    What they raise was told elsewhere.
    """
    interrupted = False
    for task in tasks:
        task.cancel()
    while waiting := {task for task in tasks if not task.done()}:
        try:
            await asyncio.wait(waiting)
        except asyncio.CancelledError:
            interrupted = True
            for task in waiting:
                task.cancel()
    for task in tasks:
        if not task.cancelled():
            task.exception()
    if interrupted:
        raise asyncio.CancelledError
