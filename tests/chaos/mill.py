"""Thousands of calls of every kind on the same few objects, and what they leave behind in this process.

Three in ten requests meet a fault, one call in ten is cancelled by its caller, and of the streams that are read piece
by piece every second one is left after its first piece.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import LLMFailoverHandler, MultiModelEnsembler
from workbench.errors import LLMError

MODELS = ("lab:strong", "lab:medium", "lab:weak")
# Together three in ten, of whole answers and of streams.
FAULTS = (
    "*=net-reset-head@0.06", "*=net-stall-head@0.04", "*=http-500-always@0.06", "*=http-429-plain@0.05",
    "*=net-garbage@0.06", "*=sse-reset@0.06", "*=net-reset-body@0.06",
)  # fmt: skip
CANCELS = 0.1
# The circuits stay closed: who is refused at once leaves nothing behind.
SETTINGS: dict[str, Any] = {
    "timeout_s": 0.5, "max_retries": 1, "base_delay_s": 0.005, "retry_capacity": 1e6,
    "failure_rate": 1.0, "minimum_calls": 100, "window_calls": 100,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What this process holds; memory in megabytes, resident."""

    tasks: int
    threads: int
    descriptors: int
    memory_mb: float

    @classmethod
    def now(cls) -> Holdings:
        """As it is, after a full collection."""
        gc.collect()
        try:
            tasks = len(asyncio.all_tasks())
        except RuntimeError:  # no loop runs
            tasks = 0
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return cls(
            tasks=tasks,
            threads=threading.active_count(),
            descriptors=len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - a path object of each would be one more
            memory_mb=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        )


class Mill:
    """The objects that make the calls; `run` inside one event loop, `aclose` at the end."""

    def __init__(self, log: Path, *, seed: int) -> None:
        self.chance = random.Random(seed)
        self.whole = LLMFailoverHandler(MODELS[:2], log=log, **SETTINGS)
        self.streamed = LLMFailoverHandler(MODELS[:1], log=log, stream=True, **SETTINGS)
        self.ensemble = MultiModelEnsembler(MODELS, strategy="majority_voting", log=log, **SETTINGS)
        self.made = 0

    async def run(self, calls: int, *, at_once: int = 32) -> Counter[str]:
        """How so many calls ended."""
        ends: Counter[str] = Counter()
        waiting = iter(range(calls))

        async def worker() -> None:
            for _ in waiting:
                ends[await self._one()] += 1

        await asyncio.gather(*(worker() for _ in range(at_once)))
        return ends

    async def _one(self) -> str:
        self.made += 1
        prompt, kind, leaves = f"Call {self.made} of the mill?", self.chance.random(), self.chance.random() < 0.5
        cancel_s = self.chance.uniform(0.0, 0.02) if self.chance.random() < CANCELS else None
        work: Any = (
            self._read(prompt, leaves=leaves) if kind < 0.2
            else self.ensemble.get_ensemble_response(prompt) if kind < 0.3
            else self.streamed.execute(prompt) if kind < 0.5
            else self.whole.execute(prompt)
        )  # fmt: skip
        task = asyncio.create_task(work)
        if cancel_s is not None:
            await asyncio.wait({task}, timeout=cancel_s)
            task.cancel()
        try:
            await task
        except LLMError as error:
            return error.code
        except asyncio.CancelledError:
            return "cancelled"
        return "ok"

    async def _read(self, prompt: str, *, leaves: bool) -> None:
        async with aclosing(self.streamed.stream(prompt)) as pieces:
            async for _ in pieces:
                if leaves:
                    break

    async def aclose(self) -> None:
        """Close connections and log."""
        for held in (self.whole, self.streamed, self.ensemble):
            await held.aclose()


async def milled(log: Path, *, warm: int, calls: int, seed: int) -> tuple[Counter[str], Holdings, Holdings, float]:
    """How the calls ended, what was held before the first call and after the last, and the megabytes gained.

    The gain is counted from the end of `warm` calls on, while connections are open at both moments.
    """
    before = Holdings.now()
    mill = Mill(log, seed=seed)
    try:
        await mill.run(warm)
        warmed_mb = Holdings.now().memory_mb
        ends = await mill.run(calls)
        gained_mb = Holdings.now().memory_mb - warmed_mb
    finally:
        await mill.aclose()
    after = before
    for _ in range(100):  # sockets are closed in the loop's next turns
        await asyncio.sleep(0)
        after = Holdings.now()
        if (after.tasks, after.descriptors) == (before.tasks, before.descriptors):
            break
    return ends, before, after, gained_mb
