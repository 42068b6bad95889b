"""Leaks: what ten thousand calls leave behind, of which 10 % are cancelled and 30 % of the requests meet a fault.

The fault lab is a process of its own, so that everything counted here is the client's. Goals: tasks, threads and
descriptors as before the first call; at most 20 MB more resident memory than after the first thousand calls.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _timing import finish, goal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.chaos.mill import FAULTS, milled


@contextmanager
def lab(folder: Path) -> Iterator[None]:
    """A lab in another process, in the configuration that is in force; its counts are printed at the end."""
    rules = [part for rule in FAULTS for part in ("--faults", rule)]
    command = [sys.executable, "-m", "workbench", "simulate", "--port", "0", "--latency", "0", "--seed", "1", *rules]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        lines = []
        for line in running.stdout:
            lines.append(line)
            # The last table of the configuration is that of the last model's price.
            if len(re.findall(r"^completion_usd_per_mtok", "".join(lines), re.M)) == 9:
                break
        path = folder / "workbench.toml"
        path.write_text("".join(lines[lines.index("# lines for workbench.toml:\n") :]), encoding="utf-8")
        os.environ["WORKBENCH_CONFIG"] = str(path)
        yield
    finally:
        running.terminate()
        print(*(line.rstrip() for line in running.stdout if line.strip()), sep="; ")
        running.wait(10)


def main(calls: int, seed: int) -> None:
    """Print what is held before and after, and the goals."""
    with tempfile.TemporaryDirectory() as name, lab(Path(name)):
        start_s = time.perf_counter()
        warm = min(1000, calls)
        ends, before, after, gained_mb = asyncio.run(milled(Path(name) / "log", warm=warm, calls=calls, seed=seed))
        print(f"{calls} calls after {warm} in {time.perf_counter() - start_s:.1f} s: {dict(ends.most_common())}")
    print(f"before {before}\nafter  {after}")
    finish(
        [
            goal("tasks left", after.tasks - before.tasks, 0, "tasks"),
            goal("threads left", after.threads - before.threads, 0, "threads"),
            goal("descriptors left", after.descriptors - before.descriptors, 0, "descriptors"),
            goal("memory gained", gained_mb, 20.0, "MB"),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    main(options.calls, options.seed)
