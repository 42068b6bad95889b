"""A run that is killed at random moments and goes on each time, beside a server that counts what it accepts.

Run as a program it is a nursery: it forks a process for each line that it reads, which starts the run or goes on with
it, and kills that process when its time is up. A fork costs milliseconds where a fresh interpreter costs a second.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench import FaultLab, Workbench
from workbench.session.places import suites
from workbench.study.resume import call_key
from workbench.study.suite import Suite, read_suite

NAME, MERGE, MODELS = "general", "majority_voting", ("lab:strong", "lab:medium", "lab:weak")
LATENCY = 0.1  # of what the models say: asking takes half a second, and the run is killed in all of its phases
LONGEST_S = 1.0  # from the fork to the kill
SETTINGS: Mapping[str, Any] = {"timeout_s": 20, "max_retries": 0}
COLUMNS = ["position", "item_id", "model", "answer", "quality", "status", "score", "scorer", "cost_usd", "source"]


def suite() -> Suite:
    """The items that are asked."""
    return read_suite(suites()[NAME])


def keys(run_id: str) -> dict[str, tuple[str, str]]:
    """The idempotency keys that the calls of a run may have, with item and member."""
    asked = suite()
    return {
        call_key(run_id, model, asked.request(item)): (item.item_id, model) for item in asked.items for model in MODELS
    }


# -- the processes


def go_on(log: str) -> None:
    """Start the run, or go on with it."""
    with Workbench.open(log, models=MODELS, **SETTINGS) as wb:
        wb.run_sync(NAME, merge=MERGE, concurrency=8, resume=True)


def nursery() -> None:
    """Fork for each line of standard input; answer with the exit code of that process, negative for a signal."""
    import workbench.act.live
    import workbench.act.transport
    import workbench.study.compare  # noqa: F401 - loaded once here, and not by each process

    for line in sys.stdin:
        log, kill_s = json.loads(line)
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)
            try:
                go_on(log)
                os._exit(0)
            except BaseException as error:  # the parent reads the code alone
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        ended = _waited(child, kill_s)
        if ended is None:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)[1]
        print(os.waitstatus_to_exitcode(ended), flush=True)


def _waited(child: int, kill_s: float) -> int | None:
    ends_s = time.monotonic() + kill_s
    while time.monotonic() < ends_s:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.0005)
    return None


@contextmanager
def place(folder: Path) -> Iterator[tuple[FaultLab, subprocess.Popen[str]]]:
    """The server, and the nursery whose processes reach it."""
    with FaultLab(["strong", "medium", "weak"], suites=NAME, latency=LATENCY) as lab:
        config = folder / "workbench.toml"
        config.write_text(lab.toml(), "utf-8")
        root = Path(__file__).resolve().parents[2]
        path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
        with subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "WORKBENCH_CONFIG": str(config), "PYTHONPATH": path},
        ) as process:
            try:
                yield lab, process
            finally:
                assert process.stdin is not None
                process.stdin.close()


# -- what is seen


@dataclass(slots=True)
class Seen:
    """What became of one run that was killed until it was left to finish.

    again: keys that were accepted once more after their answer was in the log. strange: keys that no call of the run
    may have. lost: answers that were in the log, and then were not. wrong: what differs from an uninterrupted run.
    """

    kills: int = 0
    starts: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    again: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def told(wb: Workbench, run_id: str) -> dict[str, Any]:
    """All that a report shows of a run, without its id and its times."""
    run = wb.get_run(run_id)
    frame = run.df()[COLUMNS].sort_values(["position", "model"]).reset_index(drop=True)
    merges = wb.log.rows("select item_id, answer, tied, confidence from merges where run_id = ? order by 1", [run_id])
    compared = {k: v for k, v in run.compare().as_dict().items() if k != "run"}
    spent = {m: (s.calls, s.failed, s.source, round(s.cost_usd or 0, 9)) for m, s in run.spent.items()}
    status = wb.log.rows("select status, items from runs where run_id = ?", [run_id])
    return {
        "frame": frame.to_dict("list"), "merges": merges, "compared": compared, "spent": spent, "status": status,
        "drifts": run.replay().drifts, "parts": wb.log.rows(
            "select count(*) from contributions where run_id = ?", [run_id]),
    }  # fmt: skip


def uninterrupted(lab: FaultLab, log: Path) -> dict[str, Any]:
    """The same of a run that nobody has killed."""
    with lab.open(log, models=MODELS, **SETTINGS) as wb:
        return told(wb, wb.run_sync(NAME, merge=MERGE, concurrency=8).run_id)


def killed_run(
    lab: FaultLab, process: subprocess.Popen[str], log: Path, *, chance: random.Random, kills: int, expected: Any
) -> Seen:
    """Kill a run at random moments, `kills` times at most, let it finish, and look at everything."""
    assert process.stdin is not None
    assert process.stdout is not None
    seen, answered = Seen(), dict[str, int]()
    lab.reset()
    while True:
        kill_s = chance.uniform(0.0, LONGEST_S) if seen.kills < kills else 60.0
        process.stdin.write(json.dumps([str(log), kill_s]) + "\n")
        process.stdin.flush()
        seen.starts += 1
        code = int(process.stdout.readline())
        while not lab.quiet():
            time.sleep(0.001)
        counts = lab.accepted.by_key
        with lab.open(log, models=MODELS, **SETTINGS) as wb:
            phase = _look(wb, counts, answered, seen)
            if code not in (0, -signal.SIGKILL):
                raise AssertionError(f"a process of the run ended with exit code {code}")
            if code:
                seen.kills += 1
                seen.phases[phase] += 1
            if code == 0 or phase == "finished":  # the same cell would begin another run then
                _end(wb, counts, seen, expected)
                return seen


def _look(wb: Workbench, counts: Counter[str], answered: dict[str, int], seen: Seen) -> str:
    """Compare the log and the server's counts with what they were; where the run stands."""
    found = {key for (key,) in wb.log.rows("select distinct idempotency_key from every_attempt where ok")}
    seen.lost += [key for key in answered if key not in found]
    seen.again += [key for key, count in answered.items() if counts[key] != count]
    answered.update({key: counts[key] for key in found})
    (found_rows,) = wb.log.rows(
        "select (select count(*) from runs where status = 'finished'), (select count(*) from decisions), "
        "(select count(*) from scores), (select count(*) from calls), (select count(*) from runs)"
    )
    phases = ("finished", "merging", "scoring", "asking", "before asking")
    return next((phase for phase, count in zip(phases, found_rows, strict=True) if count), "opening")


def _end(wb: Workbench, counts: Counter[str], seen: Seen, expected: Mapping[str, Any]) -> None:
    runs = [run_id for (run_id,) in wb.log.rows("select run_id from runs")]
    if len(runs) != 1:
        seen.wrong.append(f"{len(runs)} runs instead of one")
        return
    may = keys(runs[0])
    seen.strange += [key for key in counts if key not in may]
    seen.lost += [key for key in may if key not in counts]
    seen.repeated += sum(count - 1 for count in counts.values())
    found = told(wb, runs[0])
    seen.wrong += [name for name, value in expected.items() if repr(found[name]) != repr(value)]


if __name__ == "__main__":
    nursery()
