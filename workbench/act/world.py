"""The one door to time and chance.

Code that waits, draws or names things takes a World. `World.real` is the machine's; `World.virtual` is a
simulated one in which an hour of waiting takes no time and every draw follows from the seed.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from workbench.facts import Fact, Sink


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Clock, sleep, chance, names and the sink for facts.

    now_s: monotonic seconds, for durations. unix_ns: wall clock, for showing when; never subtracted.
    draw: a number in [0, 1). new_id(n): n random bytes as hexadecimal digits.
    """

    now_s: Callable[[], float]
    unix_ns: Callable[[], int]
    sleep: Callable[[float], Awaitable[None]]
    draw: Callable[[], float]
    new_id: Callable[[int], str]
    sink: Sink

    @classmethod
    def real(cls, sink: Sink) -> World:
        """The machine's own clock and chance."""
        return cls(
            now_s=time.perf_counter,
            unix_ns=time.time_ns,
            sleep=asyncio.sleep,
            draw=random.random,
            new_id=lambda n: os.urandom(n).hex(),
            sink=sink,
        )

    @classmethod
    def virtual(cls, seed: int = 0, sink: Sink | None = None) -> World:
        """A world whose clock moves only when somebody sleeps, and whose draws follow from `seed`."""
        chance, names = random.Random(seed), random.Random(f"names of {seed}")
        clock = VirtualClock()
        return cls(
            now_s=lambda: clock.now_s,
            unix_ns=lambda: 1_700_000_000_000_000_000 + int(clock.now_s * 1e9),
            sleep=clock.sleep,
            draw=chance.random,
            new_id=lambda n: names.randbytes(n).hex(),  # a stream of its own: one more id changes no draw
            sink=sink or MemorySink(),
        )


class VirtualClock:
    """A clock that jumps to the next wake-up when no task of the loop has anything left to do now."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0
        self._ticking: asyncio.AbstractEventLoop | None = None

    async def sleep(self, seconds: float) -> None:
        """Return when the clock has reached now + `seconds`; sleepers wake in order of time, then of arrival."""
        if not seconds > 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        self._count += 1
        heapq.heappush(self._due, (self.now_s + seconds, self._count, woken))
        if self._ticking is not loop:
            self._ticking = loop
            loop.call_soon(self._tick, loop)
        await woken

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        # asyncio has no public word for "idle": its queue of callbacks is empty but for this one.
        if not getattr(loop, "_ready", ()):
            while self._due and self._due[0][2].done():  # cancelled sleepers
                heapq.heappop(self._due)
            if not self._due:
                self._ticking = None
                return
            self.now_s, _, woken = heapq.heappop(self._due)
            woken.set_result(None)
        loop.call_soon(self._tick, loop)


class MemorySink:
    """A sink that keeps facts in a list, for tests and for runs without a log."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def write(self, *facts: Fact) -> None:
        """Keep the facts."""
        self.facts.extend(facts)
