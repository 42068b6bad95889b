"""Simulated worlds: in how many of them does an invariant fail, and how many are lived in a second.

Each seed draws models, faults, callers, limits and clock jumps (tests/simulation/); after the faults everything must
heal. Goals: 0 failures, 10,000 seeds in 60 s on 2 cores. A failing seed is printed and is lived again identically.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from _timing import finish, goal

ROOT = str(Path(__file__).resolve().parents[1])
sys.path.insert(0, ROOT)

CHUNK = 50
SECONDS, SEEDS = 60.0, 10_000


def look(seeds: Sequence[int]) -> list[tuple[int, list[str]]]:
    """The seeds among these in which something does not hold, with what does not."""
    from tests.simulation.invariants import problems
    from tests.simulation.plan import planned
    from tests.simulation.simulate import lived

    found = []
    for seed in seeds:
        try:
            lines = problems(lived(planned(seed)))
        except Exception as error:
            lines = [f"broke: {type(error).__name__}: {error}"]
        if lines:
            found.append((seed, lines))
    return found


def main(first: int, seeds: int, processes: int) -> None:
    """Live the worlds of the seeds, print what fails, and the goals."""
    chunks = [range(n, min(n + CHUNK, first + seeds)) for n in range(first, first + seeds, CHUNK)]
    start_s, failures = time.perf_counter(), 0
    with multiprocessing.get_context("spawn").Pool(
        processes, initializer=gc.set_threshold, initargs=(20_000, 20, 20)
    ) as pool:
        for found in pool.imap_unordered(look, chunks):
            for seed, lines in found:
                failures += 1
                if failures <= 20:
                    print(f"seed {seed}:", *lines, sep="\n  ", flush=True)
    took_s = time.perf_counter() - start_s
    print(f"{seeds} seeds, {processes} processes, {took_s:.1f} s, {seeds / took_s:.0f} seeds/s, {failures} failures")
    finish(
        [
            goal("failing seeds", failures, 0, "seeds"),
            goal(f"time for {SEEDS} seeds, scaled from {seeds}", took_s * SEEDS / seeds, SECONDS, "s"),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    main(given.first, given.seeds, given.processes)
