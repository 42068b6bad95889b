"""One client in a process of its own: reads a batch as a line of JSON, makes its calls, writes what they cost.

    python _overhead_worker.py CLIENT URL HOME

{"calls": 1000, "concurrency": 32} is answered with CPU seconds of the whole process, `cpu_s`, of which `flush_cpu_s`
after the last answer, and `wall_s`; {"calls": 1000, "profile": 25} also with lines of text.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import json
import os
import pstats
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

from _overhead_clients import CLIENTS, Client
from _overhead_dialogue import answer

WARM_UP = 100


class Caller:
    """Makes calls of one client, each with a number that was never used before, and checks every answer."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._numbers = count()
        self.made = 0

    async def make(self, calls: int, concurrency: int) -> None:
        """That many calls, so many at once."""
        todo = iter(range(calls))

        async def caller() -> None:
            for _ in todo:
                number = next(self._numbers)
                text = await self.client.call(number)
                if text != answer(number):
                    raise AssertionError(f"call {number} was answered {text!r}")

        await asyncio.gather(*(caller() for _ in range(concurrency)))
        self.made += calls

    async def batch(self, calls: int, concurrency: int) -> dict[str, float]:
        """What so many calls cost, once the connections are open."""
        await self.make(max(2 * concurrency, 20), concurrency)
        self.client.flush()
        gc.collect()
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        await self.make(calls, concurrency)
        made_cpu_s = time.process_time()
        self.client.flush()
        end_cpu_s, end_s = time.process_time(), time.perf_counter()
        self.check()
        return {"cpu_s": end_cpu_s - start_cpu_s, "flush_cpu_s": end_cpu_s - made_cpu_s, "wall_s": end_s - start_s}

    def check(self) -> None:
        """Raise when a log holds another number of calls than were made."""
        logged = self.client.logged()
        if logged not in (None, self.made):
            raise AssertionError(f"{self.made} calls were made and {logged} are in the log")

    async def profiled(self, calls: int, rows: int) -> dict[str, Any]:
        """A batch one after the other, without and then with the profiler, and where its own time went."""
        cost = await self.batch(calls, 1)
        profile = cProfile.Profile(time.process_time)
        start_s = time.process_time()
        profile.enable()
        await self.make(calls, 1)
        self.client.flush()
        profile.disable()
        with_it_us = (time.process_time() - start_s) / calls * 1e6
        head = f"{cost['cpu_s'] / calls * 1e6:.0f} us CPU a call, {with_it_us:.0f} with the profiler; own time of:"
        return {**cost, "lines": [head, *_largest(profile, calls, rows)]}


def _largest(profile: cProfile.Profile, calls: int, rows: int) -> list[str]:
    """The functions with the most own time, in microseconds a call."""
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    largest = sorted(stats.items(), key=lambda item: -item[1][2])[:rows]
    lines = [f"{'own us':>8} {'all us':>8} {'times':>7}  where"]
    for (file, line, name), (_, times, own_s, all_s, _) in largest:
        place = f"{Path(*Path(file).parts[-3:])}:{line}" if line else "built in"
        lines.append(f"{own_s / calls * 1e6:8.1f} {all_s / calls * 1e6:8.1f} {times / calls:7.2f}  {name}  {place}")
    return lines


async def main(name: str, url: str, home: str) -> None:
    """Answer one batch after the other until the standard input ends."""
    # A client may print what it likes: the answers go through a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    caller = Caller(CLIENTS[name](url, Path(home)))
    await caller.make(WARM_UP, 1)
    print(json.dumps({"ready": name}), file=answers)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        if rows := order.get("profile"):
            print(json.dumps(await caller.profiled(order["calls"], rows)), file=answers)
        else:
            print(json.dumps(await caller.batch(order["calls"], order["concurrency"])), file=answers)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
