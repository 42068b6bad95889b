"""The catalogue's layer `storage`: what goes wrong with a log's folder while it is in use, and what it costs.

Whatever it is, writing goes on and raises nothing, reading and opening say what is wrong and what to do, and when
that is done all rows are there, each once. Single parts of this have tests of their own in tests/record and
tests/crash.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from workbench.errors import LLMError
from workbench.facts import Score, Span
from workbench.record.log import Log
from workbench.record.schema import MIGRATIONS, VERSION

ROOT = Path(__file__).resolve().parents[2]
SETUP = """
import os, sys
from workbench.facts import Score
from workbench.record.log import Log
log = Log.open(sys.argv[1])
def score(item):
    return Score(item_id=str(item), model="m", scorer="s", value=1.0, run_id="r")
"""


def score(item: object) -> Score:
    return Score(item_id=str(item), model="m", scorer="s", value=1.0, run_id="r")


def span(name: object, **attributes: object) -> Span:
    return Span(
        trace_id="t", span_id=str(name), parent_id=None, component="c", operation="o", start_unix_ns=1,
        duration_ms=1.0, ok=True, attributes=attributes,
    )  # fmt: skip


def items(log: Log) -> list[str]:
    """The scored items, sorted; one that is there twice is there twice."""
    return sorted(item for (item,) in log.rows("select item_id from scores"))


def child(code: str, *args: object) -> subprocess.Popen[str]:
    """A process that runs the code with `log` and score() at hand."""
    command = [sys.executable, "-c", SETUP + textwrap.dedent(code), *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def mounted(*options: object) -> None:
    """Mount, or skip the test where that is not permitted."""
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", *map(str, options)], capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting is not permitted here")


# -- the troubles: each begins with the body and is mended after it, as the error's next step says


@contextmanager
def disk_full(log: Log) -> Iterator[None]:
    """No byte is left on the log's disk."""
    filler = log.folder / "filler"
    with filler.open("wb", buffering=0) as file:
        while shutil.disk_usage(log.folder).free:
            try:
                file.write(b"x" * 4096)
            except OSError:
                break
    yield
    filler.unlink()


@contextmanager
def readonly(log: Log) -> Iterator[None]:
    """The folder becomes read-only for everything that is opened from now on."""
    mounted("--bind", log.folder, log.folder)
    try:
        mounted("-o", "remount,bind,ro", log.folder)
        yield
    finally:
        subprocess.run(["umount", "-l", log.folder], check=True)


def spoiled(spoil: Callable[[bytes], bytes]) -> Callable[[Log], AbstractContextManager[None]]:
    """The database becomes other bytes; it is moved aside, never removed."""

    @contextmanager
    def trouble(log: Log) -> Iterator[None]:
        data = spoil(log.database.read_bytes())
        log.database.write_bytes(data)
        yield
        assert log.database.read_bytes() == data or spoil is in_the_middle  # which is met by whoever reads that block
        log.database.rename(log.folder / "aside.duckdb")

    return trouble


def in_the_middle(data: bytes) -> bytes:
    """The data with 4 kB of something else in the middle."""
    at = len(data) // 2
    return data[:at] + b"\xa5" * 4096 + data[at + 4096 :]


@contextmanager
def newer(log: Log) -> Iterator[None]:
    """The database is that of the next version; it is one that knows it who reads it then."""
    with duckdb.connect(str(log.database)) as con:
        con.execute("insert into log.schema_version values (?, 0)", [VERSION + 1])
    before = log.database.read_bytes()
    yield
    assert log.database.read_bytes() == before
    with duckdb.connect(str(log.database)) as con:
        con.execute("delete from log.schema_version where version > ?", [VERSION])


@contextmanager
def held(log: Log) -> Iterator[None]:
    """A program that knows nothing of the log's lock has the database open."""
    code = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(log.database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        yield
        holder.communicate("")


@contextmanager
def locked_out(log: Log) -> Iterator[None]:
    """The lock file has become a folder, which nobody can lock."""
    lock = log.folder / "workbench.lock"
    lock.unlink()
    lock.mkdir()
    yield
    lock.rmdir()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What happens to an open log. words: of the next step. everywhere: whether it is met before all rows are read."""

    begins: Callable[[Log], AbstractContextManager[None]]
    code: str
    words: str
    everywhere: bool = True


ASIDE = "move the file aside"
TROUBLES = {
    "st-disk-full": Trouble(begins=disk_full, code="storage.full", words="free disk space"),
    "st-readonly": Trouble(begins=readonly, code="storage.readonly", words="writable"),
    "st-corrupt-middle": Trouble(begins=spoiled(in_the_middle), code="storage.corrupt", words=ASIDE, everywhere=False),
    "st-corrupt-half": Trouble(begins=spoiled(lambda d: d[: len(d) // 2]), code="storage.corrupt", words=ASIDE),
    "st-corrupt-empty": Trouble(begins=spoiled(lambda d: b""), code="storage.corrupt", words=ASIDE),
    "st-corrupt-text": Trouble(begins=spoiled(lambda d: b"a text\n" * 999), code="storage.corrupt", words=ASIDE),
    "st-newer": Trouble(begins=newer, code="storage.schema", words="upgrade workbench"),
    "st-locked": Trouble(begins=held, code="storage.locked", words="close the database in process"),
    "st-readonly-lock": Trouble(begins=locked_out, code="storage.readonly", words="writable"),
}


def check_trouble(folder: Path, trouble: Trouble) -> None:
    """Write before, during and after; read and open in between; look at everything at the end."""
    log = Log.open(folder)
    log.write(*(span(n, filler=os.urandom(3000).hex()) for n in range(600)))  # so that the middle is full of data
    log.write(score("stored"))
    assert items(log) == ["stored"]
    log.write(score("spooled"))
    with trouble.begins(log):
        log.write(score("during"))
        log.write(span("held back"))
        uses = [lambda: log.rows("select * from spans"), lambda: Log.open(folder).rows("select * from spans")]
        for use in [*uses, *([log.ingest, lambda: items(log)] if trouble.everywhere else [])]:
            with pytest.raises(LLMError) as caught:
                use()
            assert caught.value.code == trouble.code, caught.value.message
            assert trouble.words in caught.value.next_step
            assert len(caught.value.next_step) <= 160
            log.write(score(f"after {caught.value.code}"))
        log.write(score("last"))
    log.write(score("mended"))
    wanted = sorted(["stored", "spooled", "during", f"after {trouble.code}", "last", "mended"])
    assert items(log) == wanted
    log.close()
    again = Log.open(folder)
    assert items(again) == wanted
    assert again.rows("select count(*), count(distinct span_id) from spans") == [(601, 601)]
    assert not (folder / "torn").exists()


@pytest.mark.parametrize("name", [name for name in TROUBLES if name != "st-disk-full"])
def test_st_readonly_st_corrupt_st_newer_and_st_locked_cost_no_row(tmp_path: Path, name: str) -> None:
    """A log whose database or folder is taken away goes on collecting, says what to do, and has all rows then."""
    check_trouble(tmp_path / "log", TROUBLES[name])


def test_st_disk_full_costs_no_row(tmp_path: Path) -> None:
    """The same on a disk that is full, whose rows wait in memory."""
    mounted("-t", "tmpfs", "-o", "size=64m", "tmpfs", tmp_path)
    try:
        check_trouble(tmp_path / "log", TROUBLES["st-disk-full"])
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_st_disk_full_in_the_middle_of_an_ingest_leaves_a_sound_database(tmp_path: Path) -> None:
    """The spool had room for the rows, the database has not: it stays as it was, and they go in later."""
    mounted("-t", "tmpfs", "-o", "size=64m", "tmpfs", tmp_path)
    try:
        log = Log.open(tmp_path / "log")
        log.write(score("stored"))
        assert items(log) == ["stored"]
        for _ in range(3):  # 6 MB of what cannot be compressed
            log.write(*(span(os.urandom(8).hex(), filler=os.urandom(10_000).hex()) for n in range(100)))
        filler = tmp_path / "filler"
        filler.write_bytes(b"x" * (shutil.disk_usage(tmp_path).free - 300_000))
        with pytest.raises(LLMError) as caught:
            log.ingest()
        assert (caught.value.code, caught.value.retryable) == ("storage.full", True)
        filler.unlink()
        assert items(Log.open(tmp_path / "log")) == ["stored"]
        assert log.rows("select count(*), count(distinct span_id) from spans") == [(300, 300)]
        log.close()
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


# -- spool files


def dead(folder: Path, batches: int, size: int) -> Path:
    """The spool file of a process that wrote so many batches of scores and died."""
    code = """
    for batch in range(int(sys.argv[2])):
        log.write(*(score(f"{batch}/{n}") for n in range(int(sys.argv[3]))))
    print(next(log.spool.glob(f"*-{os.getpid()}-*.spool")), flush=True)
    os.kill(os.getpid(), 9)
    """
    out, said = child(code, folder, batches, size).communicate(timeout=30)
    assert out, said
    return Path(out.strip())


def test_st_spool_torn_at_every_byte_of_its_last_line(tmp_path: Path) -> None:
    """Whole lines are read, the torn one is set aside once as it is: no byte of it is taken for a row."""
    whole = dead(tmp_path / "log", 2, 3)
    data = whole.read_bytes()
    whole.unlink()
    start = data.rindex(b"\n", 0, -1) + 1
    log = Log.open(tmp_path / "log")
    expected = sorted(f"0/{n}" for n in range(3))
    for cut in range(start, len(data)):  # at the last of these only the end of the line is missing
        file = log.spool / f"{cut:020d}-1-torn.spool"
        file.write_bytes(data[:cut])
    assert items(log) == expected  # and none of the second batch, whose line is not whole in any of the files
    torn = {path.name.split("-")[0]: path.read_bytes() for path in (tmp_path / "log" / "torn").iterdir()}
    assert torn == {f"{cut:020d}": data[start:cut] for cut in range(start + 1, len(data))}
    assert list(log.spool.iterdir()) == []


@pytest.mark.parametrize("moment", ["before it is removed", "after it is removed"])
def test_st_spool_dup_of_a_file_whose_reader_was_killed_adds_nothing(tmp_path: Path, moment: str) -> None:
    """Killed between the commit and the removal of the file, or just after it: the rows are there once."""
    dead(tmp_path / "log", 3, 5)
    code = """
    def watch(event, args):
        if event == "os.remove" and str(args[0]).endswith(".spool"):
            if sys.argv[2] == "after it is removed":
                os.rename(args[0], str(args[0]) + ".gone")  # a removal, as far as the log can see
            os.kill(os.getpid(), 9)
    sys.addaudithook(watch)
    log.ingest()
    """
    process = child(code, tmp_path / "log", moment)
    process.communicate(timeout=30)
    assert process.returncode == -9
    log = Log.open(tmp_path / "log")
    wanted = sorted(f"{batch}/{n}" for batch in range(3) for n in range(5))
    with duckdb.connect(str(log.database), read_only=True) as con:
        assert con.execute("select count(*) from log.scores").fetchall() == [(15,)]
    assert items(log) == wanted
    assert list(log.spool.glob("*.spool")) == []
    assert log.rows("select count(*) from log.spool_files") == [(0,)] or moment == "after it is removed"


def test_st_older_log_with_rows_in_the_spool_is_brought_up_to_date_with_all_of_them(tmp_path: Path) -> None:
    """A log of version 1 that was left behind with a full spool opens with its own rows and with those."""
    folder = tmp_path / "log"
    dead(folder, 2, 5)
    (folder / "workbench.duckdb").unlink()
    with duckdb.connect(str(folder / "workbench.duckdb")) as con:
        con.execute(MIGRATIONS[0])
        con.execute("insert into log.schema_version values (1, 0)")
        con.execute("insert into log.scores values ('r', 'old', 'm', 's', 1.0)")
    assert items(Log.open(folder)) == sorted(["old", *(f"{batch}/{n}" for batch in range(2) for n in range(5))])
