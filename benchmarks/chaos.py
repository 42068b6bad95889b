"""Chaos: what becomes of calls when all that can go wrong on the wire does, over real sockets with the fault lab.

Every wire fault of the catalogue meets five strategies, in three formats, whole, streamed and read piece by piece. Then
thousands of calls go through a storm of random timeouts, resets and cancellations, and the accounts are compared with
the lab's own count. At last 256 tasks rush at a budget for 100. Goals: nothing hangs, is untyped, wrong, lost, doubled,
paid twice or overspent; no call ends more than 250 ms after its deadline of 3 s.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from _timing import finish, goal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.chaos.arena import STRATEGIES, arena, rounds
from tests.chaos.storm import BUDGET_USD, compared, rush, rush_usd, storm, storm_lab
from tests.chaos.verdict import judged, settled
from workbench import Workbench

PROMISES = ("hang", "untyped", "code", "needless", "silent", "text", "isolated", "failover", "rows", "attempts")


def matrix(folder: Path) -> list[dict[str, object]]:
    """Run every cell; the goals."""
    cells, start_s = rounds(others=STRATEGIES), time.perf_counter()
    with arena(folder, cells) as place:
        found = asyncio.run(place.run(cells))
        wrong = [problem for outcome in found for problem in judged(outcome)]
        in_log, sums = settled(place, found)
    # A sentence is "CELL: PROMISE: what was seen".
    broken = Counter(problem.split(": ")[1] if ": " in problem else "rows" for problem in [*wrong, *in_log])
    print(f"matrix: {len(found)} cells in {time.perf_counter() - start_s:.1f} s; {sums}")
    print(*sorted(Counter(outcome.cell.strategy for outcome in found).items()))
    print(*[*wrong, *in_log][:40], sep="\n")
    late_ms = max(outcome.took_s - outcome.cell.deadline_s for outcome in found) * 1e3
    slowest = sorted(found, key=lambda outcome: -outcome.took_s)[:3]
    print("longest:", *(f"{outcome.cell} {outcome.took_s:.3f} s;" for outcome in slowest))
    named = [goal(f"matrix, {promise}", broken.pop(promise, 0), 0, "cells") for promise in PROMISES]
    return [
        *named,
        goal("matrix, anything else", broken.total(), 0, "cells"),
        goal("matrix, rows beside requests", abs(sums["sent"] - sums["accepted"]), 0, "rows"),
        goal("matrix, worst overshoot of the deadline", max(late_ms, 0.0), 250.0, "ms"),
    ]


def weather(folder: Path, calls: int, seed: int) -> list[dict[str, object]]:
    """Run the storm; the goals."""
    folder.mkdir()
    start_s = time.perf_counter()
    with storm_lab(folder, seed=seed) as lab:
        ends = Counter(asyncio.run(storm(folder / "log", calls=calls, seed=seed)))
        seen = compared(lab, folder / "log")
    print(f"storm: {seen.calls} calls in {time.perf_counter() - start_s:.1f} s; ends {dict(ends.most_common())}")
    print(f"  faults {dict(seen.by_fault.most_common())}")
    print(f"  {seen.attempts} attempts, {seen.sent} of them sent, {seen.accepted} accepted; {seen.keys} keys")
    print(f"  micro-USD: certain {seen.certain}, price of what came through {seen.paid_for}; possible {seen.possible}")
    print(f"  of which {seen.worked_for} were surely worked for; {seen.under} broken streams are booked by their text")
    print(*seen.wrong[:40], sep="\n")
    return [
        goal("storm, rows beside accepted requests", abs(seen.sent - seen.accepted), 0, "rows"),
        goal("storm, certain money beside the answers' price", abs(seen.certain - seen.paid_for), 0, "micro-USD"),
        goal("storm, worked for and not booked", max(seen.worked_for - seen.possible, 0), 0, "micro-USD"),
        goal("storm, still set aside", seen.reserved, 0, "micro-USD"),
        goal("storm, keys beside calls", abs(seen.keys - seen.calls), 0, "keys"),
        goal("storm, anything else", len(seen.wrong), 0, "findings"),
    ]


def budget(folder: Path, seed: int) -> list[dict[str, object]]:
    """256 tasks at once; the goals."""
    folder.mkdir()
    usd = rush_usd(100)
    with storm_lab(folder, seed=seed, faults=()) as lab:
        ends = asyncio.run(rush(folder / "log", "lab:storm-a", tasks=256, budget_usd=usd))
        accepted = lab.accepted.total
    with Workbench.open(folder / "log", budget_run_usd=BUDGET_USD) as wb:
        spent = max(account.spent for account in wb.budget().accounts.values())
    print(f"rush: {dict(ends)}, {accepted} accepted, {spent} of {usd * 1e6:.0f} micro-USD spent")
    return [
        goal("rush, overspent", max(spent - round(usd * 1e6), 0), 0, "micro-USD"),
        goal("rush, admitted beside 100", abs(accepted - 100), 0, "calls"),
    ]


def main(calls: int, seed: int) -> None:
    """Print what was seen and the goals."""
    with tempfile.TemporaryDirectory() as folder:
        finish([
            *matrix(Path(folder)),
            *weather(Path(folder) / "storm", calls, seed),
            *budget(Path(folder) / "rush", seed),
        ])  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    main(options.calls, options.seed)
