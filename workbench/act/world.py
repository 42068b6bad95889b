"""The one door to time and chance.

Code that waits, draws or names things takes a World. `World.real` is the machine's; `World.virtual` is a
simulated one in which an hour of waiting takes no time and every draw follows from the seed.
"""

from __future__ import annotations

import asyncio
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
        chance = random.Random(seed)
        clock = [0.0]

        async def sleep(seconds: float) -> None:
            clock[0] += max(0.0, seconds)
            await asyncio.sleep(0)

        return cls(
            now_s=lambda: clock[0],
            unix_ns=lambda: 1_700_000_000_000_000_000 + int(clock[0] * 1e9),
            sleep=sleep,
            draw=chance.random,
            new_id=lambda n: chance.randbytes(n).hex(),
            sink=sink or MemorySink(),
        )


class MemorySink:
    """A sink that keeps facts in a list, for tests and for runs without a log."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def write(self, *facts: Fact) -> None:
        """Keep the facts."""
        self.facts.extend(facts)
