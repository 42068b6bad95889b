"""The one door to time and chance.

Code that waits, draws or names things takes a World. `World.real` is the machine's; `World.virtual` is a
simulated one in which an hour of waiting takes no time and every draw follows from the seed.
"""

from __future__ import annotations

import asyncio
import os
import random
import selectors
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from workbench.facts import Fact, Sink

PATIENCE_S = 5.0  # for a thread to answer, before a virtual world says that it waits for nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Clock, sleep, chance, names and the sink for facts.

    now_s: monotonic seconds, for durations. unix_ns: wall clock, for showing when; never subtracted.
    sleep waits without blocking the loop, pause blocks the thread: for plain functions.
    draw: a number in [0, 1). new_id(n): n random bytes as hexadecimal digits.
    run: the result of a coroutine, on a new event loop whose timers go by this world's clock.
    """

    now_s: Callable[[], float]
    unix_ns: Callable[[], int]
    sleep: Callable[[float], Awaitable[None]]
    pause: Callable[[float], None]
    draw: Callable[[], float]
    new_id: Callable[[int], str]
    sink: Sink
    run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run

    @classmethod
    def real(cls, sink: Sink) -> World:
        """The machine's own clock and chance."""
        return cls(
            now_s=time.perf_counter,
            unix_ns=time.time_ns,
            sleep=asyncio.sleep,
            pause=time.sleep,
            draw=random.random,
            new_id=_new_id,
            sink=sink,
        )

    @classmethod
    def virtual(cls, seed: int = 0, sink: Sink | None = None) -> World:
        """A world whose clock moves only when everybody waits, and whose draws follow from `seed`.

        What waits runs under `world.run(...)`: there `asyncio.sleep`, `asyncio.timeout` and every other timer are
        virtual too, and sleeping on another loop is refused.
        """
        chance, names = random.Random(seed), random.Random(f"names of {seed}")
        clock = VirtualClock()
        return cls(
            now_s=lambda: clock.now_s,
            unix_ns=lambda: 1_700_000_000_000_000_000 + int(clock.now_s * 1e9),
            sleep=clock.sleep,
            pause=clock.advance,
            draw=chance.random,
            new_id=lambda n: names.randbytes(n).hex(),  # a stream of its own: one more id changes no draw
            sink=sink or MemorySink(),
            run=clock.run,
        )


# The system's generator costs more than all else that an id is for; one seeded by it is as good for names.
_names = random.Random(os.urandom(32))
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _names.seed(os.urandom(32)))


def _new_id(n: int) -> str:
    return _names.randbytes(n).hex()


class VirtualClock:
    """A clock that jumps to the next timer of its event loop when nothing is left to do now."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`; zero and less do nothing."""
        self.now_s += max(seconds, 0.0)

    async def sleep(self, seconds: float) -> None:
        """Return when the clock has reached now + `seconds`; sleepers wake in order of time, then of arrival."""
        if seconds > 0 and not isinstance(asyncio.get_running_loop(), VirtualLoop):
            raise RuntimeError(
                "a virtual world waits only on its own event loop: run the coroutine with world.run(...)"
            )
        await asyncio.sleep(max(seconds, 0))

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The coroutine's result, on a new event loop that goes by this clock."""
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(self)) as runner:
            return runner.run(coroutine)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that moves a virtual clock to its next timer instead of waiting for it."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        super().__init__(_JumpingSelector(clock))

    def time(self) -> float:
        """The virtual seconds."""
        return self.clock.now_s


class _JumpingSelector(selectors.SelectSelector):
    """A selector that does not wait for timers: being asked to means that nothing else is left to do.

    Without a timer it waits in earnest, for threads: theirs is the only time that is not virtual.
    """

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(PATIENCE_S if timeout is None else 0)
        if not ready and timeout is None:
            raise RuntimeError("everybody waits for something that never happens")
        if not ready:
            self._clock.advance(timeout or 0.0)
        return ready


class MemorySink:
    """A sink that keeps facts in a list, for tests and for runs without a log."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def write(self, *facts: Fact) -> None:
        """Keep the facts."""
        self.facts.extend(facts)
