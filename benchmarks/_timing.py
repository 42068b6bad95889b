"""Shared by the benchmarks: CPU time of functions and of whole processes, and how results are printed."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def cpu_s(function: Callable[[], object]) -> float:
    """CPU seconds of one call, in this process."""
    start = time.process_time()
    function()
    return time.process_time() - start


def process_cpu_s(code: str) -> float:
    """CPU seconds of a fresh interpreter that runs `code`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def interleaved(functions: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each function's results over the rounds, taken in turn so that a slow moment hits all of them."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            found[name].append(function())
    return found


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """Median with minimum and maximum."""
    return f"{median(values):.4g} [{min(values):.4g}, {max(values):.4g}]"


def goal(name: str, value: float, limit: float, unit: str) -> dict[str, object]:
    """A measured value beside its goal, printed and returned."""
    met = value <= limit
    print(f"{name}: {value:.3f} {unit} (goal <= {limit:g} {unit}): {'met' if met else 'MISSED'}")
    return {"name": name, "value": value, "goal": limit, "unit": unit, "met": met}


def finish(results: Sequence[Mapping[str, object]]) -> None:
    """Print the results as one JSON line; exit 1 when a goal is missed."""
    print(json.dumps(list(results)))
    sys.exit(0 if all(r["met"] for r in results) else 1)


def recordings() -> Path:
    """The folder of the recordings, or an exit with what to do."""
    folder = os.environ.get("WORKBENCH_RECORDINGS")
    if not folder or not Path(folder).is_dir():
        sys.exit("this benchmark needs recordings: set WORKBENCH_RECORDINGS to their folder")
    return Path(folder)
