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
    """A clock that jumps to the next wake-up when every task of the loop sleeps."""

    # Passes of the event loop that the first sleeper lets go by before time moves: what could run has run then.
    IDLE_PASSES = 5

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int]] = []
        self._count = 0
        self._idle = 0

    async def sleep(self, seconds: float) -> None:
        """Return when the clock has reached now + `seconds`; sleepers wake in order of time, then of arrival."""
        self._count += 1
        mine = (self.now_s + max(0.0, seconds), self._count)
        heapq.heappush(self._due, mine)
        self._idle = 0
        try:
            while True:
                await asyncio.sleep(0)
                if self._due[0] != mine:
                    continue
                self._idle += 1
                if self._idle > self.IDLE_PASSES:
                    self.now_s = max(self.now_s, mine[0])
                    return
        finally:
            self._due.remove(mine)
            heapq.heapify(self._due)
            self._idle = 0


class MemorySink:
    """A sink that keeps facts in a list, for tests and for runs without a log."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def write(self, *facts: Fact) -> None:
        """Keep the facts."""
        self.facts.extend(facts)
