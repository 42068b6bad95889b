"""The state of a log folder is told without changing it, also when the log cannot be opened."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import duckdb
import pytest

from record.kept import call, child, over, spooled, tampered, told, whole_run
from workbench.errors import LLMError
from workbench.record.database import unusable
from workbench.record.lock import locked, try_lock
from workbench.record.log import Log
from workbench.record.schema import VERSION
from workbench.record.spooled import lines_in
from workbench.record.status import lock_state, read_status
from workbench.record.verify import verify


def snapshot_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file of a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


unwritable = pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])


def lock_is_free(path: Path) -> bool:
    """Whether another open file could have the lock for itself."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return try_lock(fd)
    finally:
        os.close(fd)


def test_a_folder_that_is_not_there_is_told_and_not_made(log_folder: Path) -> None:
    """Looking makes nothing."""
    found = read_status(log_folder)
    assert not found.exists
    assert found.as_dict()["problem"] is None
    assert not log_folder.exists()


def test_rows_that_wait_are_counted_and_stay_where_they_are(log_folder: Path) -> None:
    """Two texts, one call: three rows wait; after the ingest none, and the call is the newest row."""
    log = Log.open(log_folder)
    log.write(call("a"))
    before = snapshot_of(log_folder)
    found = read_status(log_folder)
    assert (found.waiting_rows, found.rows["calls"], found.newest_unix_ns) == (3, 0, None)
    assert [(file.alive, file.pid, file.bad_lines) for file in found.spool] == [(True, os.getpid(), 0)]
    assert found.spool_bytes == spooled(log_folder)[0].stat().st_size
    assert snapshot_of(log_folder) == before

    log.ingest()
    log.write(call("b", prompt="3+3?"))
    found = read_status(log_folder)
    assert (found.waiting_rows, found.rows["calls"], found.rows["texts"]) == (2, 1, 2)
    assert found.newest_unix_ns == 1_700_000_000_000_000_000
    assert found.schema_version == found.known_version == VERSION
    log.close()


def test_a_dead_writer_is_told_from_a_living_one(log_folder: Path) -> None:
    """A process that was killed has left its file behind."""
    with child("log.write(call('a')); say('ready'); sys.stdin.readline()", log_folder) as process:
        assert told(process) == "ready"
        assert [file.alive for file in read_status(log_folder).spool] == [True]
        process.kill()
        over(process, killed=True)
    [file] = read_status(log_folder).spool
    assert (file.alive, file.pid, file.waiting_rows) == (False, process.pid, 3)


def test_status_works_while_others_write(log_folder: Path) -> None:
    """Each look finds a whole number of batches: three rows of a call, then one for each further one."""
    code = """
    say("ready")
    for n in range(2000):
        log.write(call(f"s{n}"))
    """
    Log.open(log_folder).close()
    with child(code, log_folder) as process:
        assert told(process) == "ready"
        seen = [read_status(log_folder).waiting_rows for _ in range(20)]
        over(process)
    assert seen == sorted(seen)
    assert read_status(log_folder).waiting_rows == 2002


def test_torn_and_set_aside_lines_are_counted(log_folder: Path) -> None:
    """A damaged line waits in the spool as one, and in torn/ after the ingest."""
    log = Log.open(log_folder)
    log.write(call("a"))
    log.close()
    [file] = spooled(log_folder)
    with file.open("ab") as out:
        out.write(b"00000000 [[1]]\nhalf a li")
    found = read_status(log_folder)
    assert (found.bad_lines, found.torn_lines, found.waiting_rows) == (1, 0, 3)
    log.ingest()
    found = read_status(log_folder)
    assert (found.bad_lines, found.torn_lines, found.torn_files, found.torn_bytes) == (0, 2, 1, 15 + 9)


@pytest.mark.parametrize("damage", ["zero", "text", "half"])
def test_a_database_that_cannot_be_read_still_shows_its_spool(log_folder: Path, damage: str) -> None:
    """The problem is typed, the rows in the spool are counted."""
    log = Log.open(log_folder)
    log.write(*whole_run("r1", end_ns=10))
    log.ingest()
    log.write(call("later"))
    if damage == "half":
        os.truncate(log.database, log.database.stat().st_size // 2)
    else:
        log.database.write_bytes(b"" if damage == "zero" else b"not a database " * 4000)
    found = read_status(log_folder)
    assert found.problem is not None
    assert found.problem.code == "storage.corrupt"
    assert found.schema_version is None
    assert found.waiting_rows >= 2
    log.close()


def test_a_newer_schema_is_refused_and_shown(log_folder: Path) -> None:
    """Nothing is rewritten."""
    log = Log.open(log_folder)
    tampered(log, f"insert into log.schema_version values ({VERSION + 1}, 0)")
    before = snapshot_of(log_folder)
    found = read_status(log_folder)
    assert found.problem is not None
    assert found.problem.code == "storage.schema"
    assert snapshot_of(log_folder) == before


def test_an_older_schema_is_shown_as_it_is(log_folder: Path) -> None:
    """A look does not migrate."""
    log = Log.open(log_folder)
    tampered(log, f"delete from log.schema_version where version = {VERSION}")
    assert read_status(log_folder).schema_version == VERSION - 1
    with duckdb.connect(str(log.database), read_only=True) as con:
        assert con.execute("select max(version) from log.schema_version").fetchall() == [(VERSION - 1,)]


def test_the_lock_is_told_and_not_waited_for_long(log_folder: Path) -> None:
    """While somebody rewrites the database, its part is missing and the spool is shown."""
    log = Log.open(log_folder)
    log.write(call("a"))
    lock = log_folder / "workbench.lock"
    assert lock_state(log_folder) == "free"
    with locked(lock, shared=True):
        assert read_status(log_folder).lock == "read"
    with locked(lock):
        found = read_status(log_folder, wait_s=0.0)
    assert found.lock == "written"
    assert found.problem is not None
    assert found.problem.code == "storage.locked"
    assert found.waiting_rows == 3
    log.close()


def test_a_file_is_no_log_folder(tmp_path: Path) -> None:
    """It is not called a log that will come to be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LLMError, match="is a file") as caught:
        read_status(tmp_path / "file")
    assert caught.value.code == "storage.readonly"


def test_a_copied_database_is_looked_at_and_nothing_is_made(log_folder: Path, tmp_path: Path) -> None:
    """Without the lock's files, which a look does not make."""
    log = Log.open(log_folder)
    log.write(*whole_run("r1", end_ns=10))
    log.ingest()
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(log.database, copy)
    found = read_status(copy)
    assert (found.problem, found.rows["calls"], found.lock) == (None, 3, "free")
    assert verify(copy).ok
    assert [p.name for p in copy.iterdir()] == ["workbench.duckdb"]
    log.close()


def forbid_writing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No file can be opened to be written (the superuser could, whatever the permissions say)."""
    real = os.open

    def refuse(path: str | Path, flags: int, *args: int, **options: int | None) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refuse)


@pytest.fixture
def sound(log_folder: Path) -> Path:
    """The folder of a log with one run in its database."""
    log = Log.open(log_folder)
    log.write(*whole_run("r1", end_ns=10))
    log.close()
    log.ingest()
    return log_folder


@pytest.mark.parametrize("locks", [True, False])
@unwritable
def test_a_log_that_cannot_be_written_can_be_looked_at(
    sound: Path, monkeypatch: pytest.MonkeyPatch, number: int, locks: bool
) -> None:
    """Under its lock, where there is one; a writer still needs a lock that it can write."""
    if not locks:
        for name in ("workbench.lock", "workbench.gate"):
            (sound / name).unlink()
    before = snapshot_of(sound)
    forbid_writing(monkeypatch, number)
    found = read_status(sound)
    assert (found.problem, found.rows["calls"]) == (None, 3)
    assert verify(sound).ok
    assert snapshot_of(sound) == before
    with pytest.raises(LLMError) as caught, locked(sound / "workbench.lock"):
        pytest.fail("a writer got a lock that it cannot write")
    assert caught.value.code == "storage.readonly"


@unwritable
def test_a_reader_shuts_writers_out_through_a_lock_that_it_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The lock is held on the file as it was opened."""
    lock = tmp_path / "workbench.lock"
    for path in (lock, lock.with_suffix(".gate")):
        path.touch()
    forbid_writing(monkeypatch, number)
    with locked(lock, shared=True):
        assert lock_is_free(lock) is False
    assert lock_is_free(lock) is True


def test_lines_set_aside_may_go_meanwhile(tmp_path: Path) -> None:
    """A collection removes them while somebody looks."""
    assert lines_in(tmp_path / "gone") == 0


@pytest.mark.parametrize(
    "kind",
    [
        duckdb.BinderException,
        duckdb.CatalogException,
        duckdb.ConversionException,
        duckdb.InvalidInputException,
        duckdb.NotImplementedException,
    ],
)
def test_a_refused_query_is_no_damage_unless_it_says_so(tmp_path: Path, kind: type[duckdb.Error]) -> None:
    """Nobody is told to move a healthy file aside."""
    healthy = unusable(tmp_path / "x.duckdb", kind("could not convert string 'a' to INT32"))
    assert healthy.code == "storage.query"
    assert "aside" not in healthy.next_step
    damaged = unusable(tmp_path / "x.duckdb", kind("Corrupt database file: computed checksum 1 does not match 2"))
    assert (damaged.code, "aside" in damaged.next_step) == ("storage.corrupt", True)
