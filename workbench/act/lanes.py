"""What one model may be sent: its rate, and how many requests may be under way."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from workbench.decide.rate import RateLimit, RateState


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one model may be sent; None is no limit."""

    rate: RateLimit | None = None
    concurrency: int | None = None


class Lane:
    """Rate and concurrency of one model; whoever comes first goes first."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.rate = RateState()
        self.lock = threading.Lock()
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[asyncio.Semaphore, asyncio.Lock]] = (
            WeakKeyDictionary()
        )

    def here(self) -> tuple[asyncio.Semaphore, asyncio.Lock]:
        """The slots and the queue of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            for ended in [other for other in self._loops if other.is_closed()]:
                del self._loops[ended]  # what waited there holds its loop
            self._loops[loop] = (asyncio.Semaphore(self.limits.concurrency or 1), asyncio.Lock())
        return self._loops[loop]
