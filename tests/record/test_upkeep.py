"""Compaction makes the file smaller, keeps every row, and survives being killed anywhere."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from record.kept import call, child, contents, over, spooled, tampered, tell, told, whole_run
from workbench.errors import LLMError, LLMValidationError
from workbench.record import upkeep
from workbench.record.log import Log
from workbench.record.upkeep import bytes_of, compact, seconds_of
from workbench.record.verify import verify


@pytest.fixture
def holey(log_folder: Path) -> Log:
    """A log of which most rows were deleted, so that its file is mostly holes."""
    log = Log.open(log_folder)
    log.write(*whole_run("kept", end_ns=10))
    log.write(*(call(f"s{n}", prompt=f"prompt {n} " * 40, text=f"{n * 7919 % 10_007} " * 300) for n in range(2000)))
    log.close()
    log = Log.open(log_folder)
    tampered(log, "delete from log.calls where span_id like 's%'", "delete from log.texts where length(text) > 100")
    return log


def test_the_file_is_smaller_and_the_rows_are_the_same(holey: Log) -> None:
    """Bytes are measured before and after; every row of every table is compared here by hand."""
    rows, before = contents(holey), holey.database.stat().st_size
    done = compact(holey)
    assert (done.before_bytes, done.after_bytes) == (before, holey.database.stat().st_size)
    assert done.after_bytes < before
    assert done.rows["log.calls"] == 3
    assert contents(holey) == rows
    assert verify(holey.folder).ok
    assert sorted(p.name for p in holey.folder.iterdir()) == [
        "spool",
        "workbench.duckdb",
        "workbench.gate",
        "workbench.lock",
    ]


def test_the_views_and_the_log_work_as_before(holey: Log) -> None:
    """The log is read and written through the new file."""
    before = holey.rows("select table_name from duckdb_columns() where schema_name = 'main' order by all")
    compact(holey)
    assert holey.rows("select table_name from duckdb_columns() where schema_name = 'main' order by all") == before
    holey.write(call("later"))
    assert holey.rows("select count(*) from calls") == [(4,)]
    holey.close()


def test_rows_that_wait_come_in_once_afterwards(holey: Log) -> None:
    """The position in a living writer's file goes with the database."""
    holey.write(call("before"))
    holey.ingest()
    holey.write(call("after"))
    compact(holey)
    assert holey.rows("select count(*), count(distinct span_id) from calls") == [(5, 5)]
    holey.close()


@pytest.mark.parametrize("step", ["copied", "synced", "replacing", "replaced"])
def test_a_kill_at_any_step_loses_nothing(holey: Log, step: str) -> None:
    """The log opens, has all its rows, and the next compaction clears what was left."""
    rows = contents(holey)
    code = """
    import pathlib, signal
    from workbench.record import upkeep
    step, real, seen = sys.argv[2], {"synced": upkeep.synced, "replace": pathlib.Path.replace}, []
    def die():
        os.kill(os.getpid(), signal.SIGKILL)
    def synced(path):
        if step == "copied" or (step == "replaced" and seen):
            die()
        real["synced"](path)
        if step == "synced":
            die()
    def replace(self, target):
        if step == "replacing":
            die()
        seen.append(target)
        return real["replace"](self, target)
    upkeep.synced, pathlib.Path.replace = synced, replace
    upkeep.compact(log)
    """
    with child(code, holey.folder, step) as process:
        over(process, killed=True)
    assert contents(Log.open(holey.folder)) == rows
    assert verify(holey.folder).ok
    compact(Log.open(holey.folder))
    assert contents(holey) == rows
    assert not list(holey.folder.glob("*.compact*"))


def test_kills_at_random_moments_lose_nothing(holey: Log) -> None:
    """A process that compacts over and over is killed while others write."""
    code = """
    from workbench.record.upkeep import compact
    say("ready")
    while True:
        compact(log)
        say("once")
    """
    for n in range(6):
        with child(code, holey.folder) as process:
            assert told(process) == "ready"
            for _ in range(n % 3):
                told(process)
            holey.write(call(f"new-{n}"))
            process.kill()
            process.communicate(timeout=60)
    assert holey.rows("select count(*), count(distinct span_id) from calls") == [(9, 9)]
    holey.close()
    assert verify(holey.folder).ok


def test_compaction_waits_for_readers_and_writers_do_not_wait_for_it(holey: Log) -> None:
    """A reader keeps its snapshot; a row written meanwhile is there afterwards."""
    code = """
    from workbench.record.upkeep import compact
    say("ready")
    sys.stdin.readline()
    say(compact(log).after_bytes)
    """
    with child(code, holey.folder) as process:
        assert told(process) == "ready"
        with holey.snapshot() as con:
            tell(process)
            holey.write(call("meanwhile"))
            assert con.execute("select count(*) from calls").fetchall() == [(3,)]
        assert int(over(process)) > 0
    assert holey.rows("select count(*) from calls") == [(4,)]
    holey.close()


def test_a_copy_that_differs_is_thrown_away(holey: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file stays in its place."""
    rows, real, seen = contents(holey), upkeep.fingerprints, []

    def altered(con: duckdb.DuckDBPyConnection) -> dict[str, tuple[int, int, int]]:
        if seen:
            con.execute("update log.scores set value = value + 1 where item_id = 'i0'")
        seen.append(1)
        return real(con)

    monkeypatch.setattr(upkeep, "fingerprints", altered)
    with pytest.raises(LLMError, match=r"log\.scores") as caught:
        compact(holey)
    assert caught.value.code == "storage.changed"
    assert contents(holey) == rows
    assert not list(holey.folder.glob("*.compact*"))


def test_a_damaged_database_is_not_replaced(holey: Log) -> None:
    """Compaction refuses, and leaves every byte as it was."""
    data = bytearray(holey.database.read_bytes())
    for at in range(len(data) // 4, len(data) * 3 // 4, 16_384):
        data[at : at + 4096] = b"\xff" * 4096
    holey.database.write_bytes(data)
    with pytest.raises(LLMError) as caught:
        compact(holey)
    assert caught.value.code == "storage.corrupt"
    assert holey.database.read_bytes() == data


def test_two_compactions_at_once_take_turns(holey: Log) -> None:
    """Each finds a whole log."""
    rows = contents(holey)
    code = "from workbench.record.upkeep import compact; say(compact(log).rows['log.calls'])"
    processes = [child(code, holey.folder) for _ in range(2)]
    assert [over(process).strip() for process in processes] == ["3", "3"]
    assert contents(holey) == rows
    assert not spooled(holey.folder)


def test_ages_and_sizes_have_units() -> None:
    """A bare number is refused: bytes that were meant as gigabytes would remove everything."""
    assert [seconds_of(age) for age in ("90d", "12h", "30m", "45s", "2w", "1.5d")] == [
        7_776_000, 43_200, 1800, 45, 1_209_600, 129_600,
    ]  # fmt: skip
    assert [bytes_of(size) for size in ("5GB", "500 MB", "2GiB", "1kb", "7B")] == [
        5_000_000_000, 500_000_000, 2_147_483_648, 1000, 7,
    ]  # fmt: skip
    for text in ("5", "", "GB", "-5GB", "5 parsecs", "1e3GB", "nanGB", "infB"):
        with pytest.raises(LLMValidationError, match="is no size"):
            bytes_of(text)
    for text in ("90", "", "d", "-1d", "3y", "nand"):
        with pytest.raises(LLMValidationError, match="is no age"):
            seconds_of(text)
