"""Processes that take turns at one database lose no commit of each other.

DuckDB reads a file's headers before it takes its own lock on it. Who opens the file in between two commits of others
then goes on from the older state and writes over the newer one, unless a lock of ours is held around the whole.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.fights import benchmark
from tests.crash.straced import ran, started, told
from workbench.record.log import Log

pytestmark = [pytest.mark.slow, pytest.mark.crash]
TURN = """
    from pathlib import Path
    # Opened already, so that the only lock that it takes on the database is that of the ingest.
    log = Log(Path(sys.argv[1]), "process")
    log.write(score(sys.argv[2]))
    say("written")
    log.ingest()
    log.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="strace is a program of Linux")
def test_who_is_slow_to_open_the_database_loses_no_commit_of_the_others(tmp_path: Path) -> None:
    """A process that stands still between reading the headers and locking the file loses nobody's rows."""
    folder = tmp_path / "log"
    Log.open(folder).close()
    ran(TURN, folder, "first")
    trace = tmp_path / "trace"
    delay = ["-P", str(folder / "workbench.duckdb"), "-e", "trace=fcntl", "-e", "inject=fcntl:delay_enter=3500000"]
    slow = started(["-o", str(trace), *delay], TURN, folder, "slow")
    assert slow.stdout is not None
    assert slow.stdout.readline() == "written\n"
    others = [f"other {n}" for n in range(3)]
    for name in others:
        ran(TURN, folder, name)
    try:
        _, said = slow.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        slow.kill()
        slow.communicate()
        pytest.fail("the slow process never ends")
    assert slow.returncode == 0, said
    seen = "\n".join(told(trace))
    assert seen.count("DELAYED") == seen.count("F_WRLCK") == 1, seen
    found = sorted(item for (item,) in Log.open(folder).rows("select item_id from scores"))
    assert found == sorted(["first", "slow", *others])


def test_eight_writers_and_a_polling_reader_lose_no_batch(tmp_path: Path) -> None:
    """The small edition of `dev.py bench crash --race`: every acknowledged batch of all turns is there, once."""
    found = benchmark(tmp_path, "--race", "--batches", "480", "--every", "10")
    assert found.pop("batches that are missing") == 0
    assert found == dict.fromkeys(found, 0)
    assert len(found) == 6
