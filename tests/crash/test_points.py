"""A SIGKILL at every point of an ingest, an upgrade and a compaction at which the disk is asked for something."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from tests.crash.straced import ran, started
from workbench.record.log import Log
from workbench.record.schema import MIGRATIONS, VERSION

pytestmark = [
    pytest.mark.slow,
    pytest.mark.crash,
    pytest.mark.skipif(sys.platform != "linux", reason="strace is a program of Linux"),
]
# Between two of these a file only grows by lines that nobody believes yet.
CALLS = ("pwrite64", "fdatasync", "rename", "unlink")
ROWS = 300
DEAD_WRITER = f"""
    log = Log.open(sys.argv[1])
    log.write(*(score(n) for n in range({ROWS})))
    os._exit(0)
"""


def two_parts(folder: Path) -> None:
    """A log of which a part is in the database and a part in the file of a dead writer, which has both parts."""
    ran(DEAD_WRITER.replace(str(ROWS), "100"), folder)
    Log.open(folder).ingest()
    ran(DEAD_WRITER, folder)


def old_version(folder: Path) -> None:
    """A log of the first version with rows in the spool."""
    ran(DEAD_WRITER, folder)
    (folder / "workbench.duckdb").unlink()
    with duckdb.connect(str(folder / "workbench.duckdb")) as con:
        con.execute(MIGRATIONS[0])
        con.execute("insert into log.schema_version values (1, 0)")
        con.execute("insert into log.calls (span_id, model, ok) select 'old/' || range, 'm', true from range(1000)")


def with_holes(folder: Path) -> None:
    """A log whose database is mostly holes, with rows in the spool."""
    log = Log.open(folder)
    with log._connection() as con:
        con.execute("create table log.hole as select range as i, hash(range)::varchar as t from range(50_000)")
        con.execute("checkpoint")
        con.execute("drop table log.hole")
    ran(DEAD_WRITER, folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is cut off. prepare: makes the log that it begins with. old: calls of the first version in that log."""

    prepare: Callable[[Path], None]
    code: str
    old: int = 0


JOBS = {
    "ingest": Job(prepare=two_parts, code="log.ingest()"),
    "upgrade": Job(prepare=old_version, code="", old=1000),
    "compact": Job(prepare=with_holes, code="compact(log)"),
}
# The imports take longest under strace: all jobs are forked from one process, each with a count of calls of its own.
RUNNER = """
    from workbench.record.upkeep import compact
    for folder, code in zip(sys.argv[1::2], sys.argv[2::2]):
        pid = os.fork()
        if not pid:
            log = Log.open(folder)
            exec(code)
            os._exit(0)
        os.writev(1, [b"%d " % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])])
"""


def killed_at(folders: Mapping[str, Path], call: str, time: int) -> list[str]:
    """Those of the jobs that were killed when they made the call for the n-th time; the others came to their end."""
    deadly = ["-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={time}"]
    args = [part for job, folder in folders.items() for part in (folder, JOBS[job].code)]
    process = started(deadly, RUNNER, *args)
    codes, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    ends = dict(zip(folders, codes.split(), strict=True))
    assert set(ends.values()) <= {"0", "-9"}, (ends, said)
    return [job for job, end in ends.items() if end == "-9"]


def check(folder: Path, old: int, point: str) -> None:
    """The log opens and is whole: what was in the database and in the spool is there, once."""
    log = Log.open(folder)
    assert log.rows("select count(*), count(distinct item_id) from scores") == [(ROWS, ROWS)], point
    assert log.rows("select count(*), count(distinct span_id) from calls where attempts = 1") == [(old, old)], point
    assert log.rows("select max(version), count(*) from log.schema_version") == [(VERSION, VERSION)], point
    assert not (folder / "torn").exists(), point


def test_st_kill9_at_every_point_of_a_job_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Wherever an ingest, an upgrade or a compaction is killed, the log opens, is whole, and goes on."""
    points: dict[str, list[str]] = {job: [] for job in JOBS}
    for name, job in JOBS.items():
        job.prepare(tmp_path / name)
    for call in CALLS:
        left = list(JOBS)
        for time in itertools.count(1):
            folders = {job: tmp_path / f"{job}-{call}-{time}" for job in left}
            for job, folder in folders.items():
                shutil.copytree(tmp_path / job, folder)
            left = killed_at(folders, call, time)
            for job, folder in folders.items():
                check(folder, JOBS[job].old, f"{job} at {call} {time}")
                shutil.rmtree(folder)
            for job in left:
                points[job].append(f"{call} {time}")
            if not left:
                break
    print(points)
    for job, seen in points.items():
        assert {"fdatasync 1", "fdatasync 2", "unlink 1"} <= set(seen), job
