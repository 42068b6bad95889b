"""A loop that looks up now and then: where signals arrive, while somebody wants it, and not in virtual time."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import Any

import pytest

from workbench.act.wake import awake
from workbench.act.world import World


def test_a_callback_that_wakes_nobody_runs_soon_while_the_loop_is_kept_awake():
    """A signal handler that only queues a callback, as a kernel's does, is heard within a fraction of a second."""

    async def main() -> float:
        loop, heard = asyncio.get_running_loop(), asyncio.Event()

        def handle(*_: Any) -> None:
            loop.call_soon(heard.set)  # and not call_soon_threadsafe

        before = signal.signal(signal.SIGUSR1, handle)
        threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1)).start()
        start_s = time.monotonic()
        try:
            with awake():
                async with asyncio.timeout(20):
                    await heard.wait()
        finally:
            signal.signal(signal.SIGUSR1, before)
        return time.monotonic() - start_s

    assert asyncio.run(main()) < 5.0  # without it: 20 s, and a TimeoutError


def ticking() -> int:
    """The timers of the running loop that will fire within a second."""
    loop: Any = asyncio.get_running_loop()
    return len([t for t in loop._scheduled if not t.cancelled()])


def test_many_share_one_timer_which_ends_with_the_last():
    """Nested and concurrent bodies do not multiply the wake-ups, and none is left soon after."""

    async def main() -> list[int]:
        found = []
        with awake(), awake():
            found.append(ticking())
        with awake():
            found.append(ticking())
        async with asyncio.timeout(20):
            while ticking() > 1:  # noqa: ASYNC110 - the timer tells nobody; the other one is the timeout's
                await asyncio.sleep(0)
        await asyncio.sleep(0)  # it was due, and now has run
        found.append(ticking())
        with awake():
            found.append(ticking())
        return found

    assert asyncio.run(main()) == [1, 1, 0, 1]


def test_in_another_thread_there_is_no_timer():
    """Signals do not reach it."""
    found: list[int] = []

    async def main() -> None:
        with awake():
            found.append(ticking())

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    thread.join(20)
    assert found == [0]


def test_virtual_time_does_not_run_on():
    """Where everybody waits for what never happens, the world says so instead of ticking for ever."""
    world = World.virtual()

    async def main() -> None:
        with awake():
            assert ticking() == 0
            await world.sleep(3600)

    world.run(main())
    assert world.now_s() == pytest.approx(3600)
