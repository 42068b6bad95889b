"""Crashes: what is left of a million spans when the processes that write and keep the log are killed over and over.

Goals: 0 acknowledged rows lost, 0 doubled, the log opens each time, at least 80 kills, the whole run in 60 s. `--race`
lets eight writers take turns at the database instead, beside a polling reader: 0 of 10,000 acknowledged batches lost.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _overhead_places import Place
from _timing import finish, goal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
WRONG = ("doubled", "lost", "strange", "altered", "scores lost or doubled")


def goals(found: Mapping[str, Any]) -> list[dict[str, object]]:
    """What must be nothing at the end."""
    results = [goal(name, found[name], 0, "rows") for name in WRONG]
    return [*results, goal("problems", len(found["problems"].splitlines()), 0, "lines")]


def killed(options: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """The fight, printed; its goals."""
    from tests.crash.arena import fight
    from tests.crash.programs import Plan

    per_writer = options.spans // options.processes
    plan = Plan(
        folder=folder / "log",
        acks=folder / "acks",
        writers=options.processes,
        batches=per_writer // options.size,
        size=options.size,
        durability=options.durability,
    )
    found = fight(plan, kills=options.kills, seed=options.seed)
    table(found)
    return [
        *goals(found),
        goal("whole run", found["seconds"], options.limit_s, "s"),
        goal("old calls lost or doubled", found["old calls lost or doubled"], 0, "rows"),
        goal("batches without an acknowledgement", found["unacknowledged"], 0, "batches"),
        goal("kills that are missing", options.kills - found["kills"], 0, "kills"),
    ]


def raced(options: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """The race, printed; its goals."""
    from tests.crash.arena import race
    from tests.crash.older import complete
    from tests.crash.programs import Plan

    complete()
    batches = options.batches // options.processes
    plan = Plan(folder=folder / "log", acks=folder / "acks", writers=options.processes, batches=batches, size=5)
    found = race(plan, every=options.every)
    table(found)
    missing = options.batches - found["acknowledged batches"]
    return [*goals(found), goal("batches that are missing", missing, 0, "batches")]


def table(found: Mapping[str, Any]) -> None:
    """Everything that was found, line by line."""
    import duckdb

    print(f"duckdb {duckdb.__version__}, Python {sys.version.split()[0]}")
    for name, value in found.items():
        print(f"{name:>30}  {value if not isinstance(value, float) else f'{value:.1f}'}")


def elsewhere(version: str, arguments: Sequence[str]) -> int:
    """Do the same with another DuckDB, in an environment that holds only what the log needs; the exit code."""
    import subprocess

    import orjson

    needed = (f"duckdb=={version}", f"orjson=={orjson.__version__}")
    place = Place(name=f"duckdb-{version}", requirements=needed, clients=())
    if problem := place.made():
        sys.exit(f"duckdb {version} cannot be installed: {problem}")
    return subprocess.run([place.python, __file__, *arguments], check=False).returncode


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--spans", type=int, default=1_000_000, help="in the fight")
    parser.add_argument("--kills", type=int, default=88, help="in the fight")
    parser.add_argument("--size", type=int, default=125, help="spans in a batch of the fight")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--durability", choices=("process", "disk"), default="process")
    parser.add_argument("--race", action="store_true")
    parser.add_argument("--batches", type=int, default=10_000, help="in the race")
    parser.add_argument("--every", type=int, default=20, help="batches between a writer's turns at the database")
    parser.add_argument("--duckdb", metavar="VERSION", help="another version, in an environment of its own")
    parser.add_argument("--limit-s", type=float, default=60.0, help="for the fight")
    parser.add_argument("--folder", type=Path, help="where the log is made; a temporary folder by default")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Print what happened and the goals."""
    options = parsed(arguments)
    if not hasattr(os, "fork"):
        sys.exit("this benchmark needs fork and SIGKILL: it does not run on Windows")
    if options.duckdb:
        at = list(arguments).index("--duckdb")
        sys.exit(elsewhere(options.duckdb, [*arguments[:at], *arguments[at + 2 :]]))
    with tempfile.TemporaryDirectory(prefix="workbench-crash-", dir=options.folder) as folder:
        results = (raced if options.race else killed)(options, Path(folder))
    finish(results)


if __name__ == "__main__":
    main(sys.argv[1:])
