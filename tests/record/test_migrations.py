"""Logs of earlier versions, stored as the code of their time left them, are brought up to date without losing a row."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest

from workbench.record.log import Log
from workbench.record.schema import COLUMNS, KEYS, VERSION
from workbench.record.views import VIEWS

STORED = Path(__file__).parent / "logs"
LOGS = {"v1": 1, "v2-early": 2, "v2": 2, "v3": 3}  # archive -> schema version of its database
Rows = dict[str, Counter[tuple[tuple[str, Any], ...]]]


def unpacked(name: str, folder: Path) -> Path:
    """A copy of a stored log."""
    with tarfile.open(STORED / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def old_rows(folder: Path) -> Rows:
    """Every row of an old log with the columns of its time, read without the code under test.

    A row of the spool whose key is in the database, or further up in the spool, is the same row.
    """
    found: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
    with duckdb.connect(str(folder / "workbench.duckdb"), read_only=True) as con:
        for table in [*COLUMNS, "recorded"]:
            result = con.execute(f"from log.{table}")
            names = [d[0] for d in result.description]
            for values in result.fetchall():
                add(found, table, dict(zip(names, values, strict=True)))
    for file in folder.glob("spool/*.spool"):
        lines = [json.loads(line[9:]) for line in file.read_bytes().splitlines() if checked(line)]
        columns = lines[0][1]
        for table, *values in lines[1:]:
            add(found, table, dict(zip(columns[table], values, strict=True)))
    return {table: Counter(tuple(row.items()) for row in rows.values()) for table, rows in found.items()}


def add(found: dict[str, dict[tuple[Any, ...], dict[str, Any]]], table: str, row: dict[str, Any]) -> None:
    key = tuple(row[name] for name in KEYS.get(table, tuple(row)))
    found.setdefault(table, {}).setdefault(key, row)


def checked(line: bytes) -> bool:
    assert int(line[:8], 16) == zlib.crc32(line[9:])
    return True


def new_rows(log: Log, old: Rows) -> Rows:
    """The same columns of every row as the log has them now."""
    found: Rows = {}
    with log.snapshot() as con:
        for table, rows in old.items():
            names = [name for name, _ in next(iter(rows))]
            got = con.execute(f"select {', '.join(names)} from log.{table}").fetchall()
            found[table] = Counter(tuple(zip(names, row, strict=True)) for row in got)
    return found


def version_of(folder: Path) -> int:
    with duckdb.connect(str(folder / "workbench.duckdb"), read_only=True) as con:
        [(version,)] = con.execute("select max(version) from log.schema_version").fetchall()
    return int(version)


@pytest.mark.parametrize("name", LOGS)
def test_st_older_log_stored_is_brought_up_to_date_with_every_row(tmp_path: Path, name: str) -> None:
    """Every row of the database and of the spool is there once and equal, in every column that it had."""
    folder = unpacked(name, tmp_path)
    assert version_of(folder) == LOGS[name]
    old = old_rows(folder)
    assert {table for table, rows in old.items() if rows} == {*COLUMNS, "recorded"}
    assert sum(map(len, old.values())) > 300
    log = Log.open(folder)
    assert new_rows(log, old) == old
    counted = " union all ".join(f"select '{table}', count(*) from log.{table}" for table in old)
    assert dict(log.rows(counted)) == {table: rows.total() for table, rows in old.items()}
    assert log.rows("select version from log.schema_version order by 1") == [(n,) for n in range(1, VERSION + 1)]
    assert list(folder.glob("spool/*.spool")) == []
    assert not (folder / "torn").exists()


@pytest.mark.parametrize("name", LOGS)
def test_st_older_log_stored_answers_every_view(tmp_path: Path, name: str) -> None:
    """Runs, calls, attempts, sums of money and summaries come out as the 26 items that were logged make them."""
    log = Log.open(unpacked(name, tmp_path))
    with log.snapshot() as con:
        empty = [view for view in VIEWS if not con.execute(f"from {view}").fetchall()]
    assert empty == ["tellings", "patterns"]  # no optimizer was told anything yet
    assert log.rows("select run_id, status, items, cpu_s from runs order by run_id") == [
        ("pets-1", "finished", 12, None),
        ("pets-2", "cancelled", 6, None),
        ("pets-3", "unfinished", None, None),
        ("pets-4", "failed", 3, None),
    ]
    # 26 items (0 to 25) asked of two models; from version 2 on, the second model was tried twice at every third item.
    tries = 52 if name == "v1" else 52 + 9
    counted = "select (select count(*) from calls), (select count(*) from attempts), (select count(*) from merges)"
    assert log.rows(counted) == [(52, tries, 26)]
    # Every answer of item k that is no multiple of 5 cost 0.00012 * (k + 1); items 3, 10, 17, 24 failed at the second.
    each = [0.00012 * (k + 1) for k in range(26) if k % 5]
    failed = [0.00012 * (k + 1) for k in (3, 10, 17, 24) if k % 5]
    wanted = {"simulated": sum(each), "live": sum(each) - sum(failed)}
    spent = dict(log.rows("select source, sum(cost_usd) from costs group by 1"))
    assert spent == pytest.approx(wanted)
    assert dict(log.rows("select source, sum(cost_usd) from monthly_costs group by 1")) == pytest.approx(wanted)
    ended = log.rows("select provider, model, source, failure_code, calls from errors where calls > 0")
    assert ended == [("lab", "small", "live", "timeout.deadline", 4)]


def test_st_older_log_stored_takes_new_rows(tmp_path: Path) -> None:
    """A log that was brought up to date is a log like any other: a second opening changes nothing, rows go in."""
    from workbench.facts import RunEnded

    folder = unpacked("v1", tmp_path)
    old = old_rows(folder)
    Log.open(folder).close()
    log = Log.open(folder)
    log.write(
        RunEnded(run_id="pets-2", status="finished", end_unix_ns=1_790_000_000_000_000_000, items=6, cpu_s=1.5,
                 peak_rss_bytes=2**40)
    )  # fmt: skip
    [row] = log.records("select status, items, cpu_s, peak_rss_bytes from runs where run_id = 'pets-2'")
    assert row == {"status": "finished", "items": 6, "cpu_s": 1.5, "peak_rss_bytes": 2**40}
    assert log.rows("select count(*) from runs") == [(4,)]
    ends = old.pop("run_ends")
    assert new_rows(log, old) == old
    assert ends <= new_rows(log, {"run_ends": ends})["run_ends"]


FORKS = """
import os, signal, sys, time
from workbench.record.log import Log
for line in sys.stdin:  # a folder a line: a child of its own opens it, so that nothing is imported twenty times
    folder, after_s = line.rstrip(chr(10)).split(chr(9))
    start_s = time.monotonic()
    child = os.fork()
    if not child:
        Log.open(folder).rows("select 1")
        os._exit(0)
    if after_s:
        time.sleep(float(after_s))
        os.kill(child, signal.SIGKILL)  # harmless where it has ended: it is not reaped yet
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, time.monotonic() - start_s, flush=True)
"""


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_st_kill9_at_random_moments_of_a_migration_loses_nothing(tmp_path: Path) -> None:
    """After each of 20 kills the log opens, is of the newest version, and has every old row once and equal."""
    name = min(LOGS)  # the oldest: all steps are in its way
    old = old_rows(unpacked(name, tmp_path / "old"))
    chance = random.Random(5)
    killed, before = 0, 0
    with subprocess.Popen([sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:

        def opened(folder: Path, kill_after_s: float | None) -> tuple[int, float]:
            """How a process ended that opened the folder, and after how many seconds."""
            assert p.stdin is not None
            assert p.stdout is not None
            print(folder, "" if kill_after_s is None else kill_after_s, sep="\t", file=p.stdin, flush=True)
            code, took_s = p.stdout.readline().split()
            return int(code), float(took_s)

        whole, takes_s = opened(unpacked(name, tmp_path / "whole"), None)
        assert whole == 0
        for k in range(20):
            folder = unpacked(name, tmp_path / str(k))
            code, _ = opened(folder, chance.uniform(0, takes_s))
            assert code in (0, -signal.SIGKILL)
            killed += code != 0
            before += version_of(folder) < VERSION
            log = Log.open(folder)
            assert version_of(folder) == VERSION
            assert new_rows(log, old) == old
            log.close()
    print(f"{killed} of 20 killed within {takes_s:.3f} s, {before} of them before the migration was committed")
    assert killed >= 5
