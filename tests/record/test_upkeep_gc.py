"""Retention removes whole runs and loose texts, and never a text that a living writer may refer to."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any, cast

import pytest

from record.kept import DAY_NS, call, child, contents, ended, over, spooled, started, tell, told, whole_run
from workbench.errors import LLMValidationError
from workbench.record import retention as retaining
from workbench.record.log import Log
from workbench.record.retention import Retention, collect
from workbench.record.upkeep import compact
from workbench.record.verify import verify

NOW_S = 1000 * 86_400.0


@pytest.fixture
def log(log_folder: Path) -> Log:
    """Runs that ended 200, 100 and 10 days ago, one that never ended, and a call of no run; nobody writes."""
    writer = Log.open(log_folder)
    writer.write(*whole_run("old", end_ns=800 * DAY_NS), *whole_run("older", end_ns=700 * DAY_NS))
    writer.write(*whole_run("new", end_ns=990 * DAY_NS), *whole_run("open", end_ns=None))
    writer.write(call("loose", run=None, prompt="loose prompt", text="loose answer"))
    writer.close()
    log = Log.open(log_folder)
    log.ingest()
    assert not spooled(log_folder)
    return log


def runs(log: Log) -> set[str]:
    return {run for (run,) in log.rows("select run_id from runs")}


def test_runs_that_ended_long_ago_go_as_a_whole(log: Log) -> None:
    """Each has a run, an end, an item, 3 calls, 3 scores, 3 spans, and 3 texts of its own; the prompt is shared."""
    before = {table: len(rows) for table, rows in contents(log).items()}
    done = collect(log, Retention(older_than_s=90 * 86_400.0), now_unix_s=NOW_S)
    assert done.runs == ("older", "old")
    assert done.rows == {"runs": 2, "run_ends": 2, "items": 2, "calls": 6, "scores": 6, "spans": 6}
    assert (done.texts, done.kept_texts) == (6, 0)
    after = {table: len(rows) for table, rows in contents(log).items()}
    gone = {table: count - after[table] for table, count in before.items() if count != after[table]}
    assert gone == {**done.rows, "texts": 6}
    assert runs(log) == {"new", "open"}
    assert log.rows("select count(*) from texts where text in ('shared prompt', 'loose prompt')") == [(2,)]
    assert verify(log.folder).ok


def test_a_dry_run_says_the_same_and_removes_nothing(log: Log) -> None:
    """Runs, rows and texts are those of the real one."""
    torn = log.folder / "torn" / "x.spool.0"
    torn.parent.mkdir()
    torn.write_bytes(b"line\n")
    os.utime(torn, (1.0, 1.0))
    before = contents(log)
    limits = Retention(older_than_s=90 * 86_400.0)
    told_before = collect(log, limits, dry_run=True, now_unix_s=NOW_S)
    assert contents(log) == before
    assert torn.exists()
    done = collect(log, limits, now_unix_s=NOW_S)
    for name in ("runs", "rows", "texts", "value_bytes", "torn_files", "before_bytes"):
        assert getattr(told_before, name) == getattr(done, name), name
    assert done.torn_files == ("x.spool.0",)
    assert not torn.exists()


def test_files_set_aside_lately_stay(log: Log) -> None:
    """Those younger than the limit, and all where no age is given."""
    torn = log.folder / "torn" / "x.spool.0"
    torn.parent.mkdir()
    torn.write_bytes(b"line\n")
    os.utime(torn, (NOW_S - 80 * 86_400, NOW_S - 80 * 86_400))
    assert collect(log, Retention(older_than_s=90 * 86_400.0), now_unix_s=NOW_S).torn_files == ()
    assert collect(log, Retention(), now_unix_s=NOW_S).torn_files == ()
    assert torn.exists()


def test_what_has_not_ended_goes_only_by_name(log: Log) -> None:
    """A limit of no time at all takes every ended run, and leaves the open one and the call of no run."""
    assert collect(log, Retention(older_than_s=0.0), now_unix_s=NOW_S).runs == ("older", "old", "new")
    assert collect(log, Retention(max_bytes=1), now_unix_s=NOW_S).runs == ()
    done = collect(log, Retention(runs=("open",)), now_unix_s=NOW_S)
    assert (done.runs, done.texts) == (("open",), 4)
    assert log.rows("select span_id from calls") == [("loose",)]
    with pytest.raises(LLMValidationError, match="no run 'open'") as caught:
        collect(log, Retention(runs=("open",)), now_unix_s=NOW_S)
    assert caught.value.code == "validation.run"


def test_a_run_that_was_taken_up_again_has_not_ended(log: Log) -> None:
    """It ended 200 days ago, and was called after that."""
    log.write(call("again", run="old", start_unix_ns=999 * DAY_NS))
    assert collect(log, Retention(older_than_s=86_400.0), now_unix_s=NOW_S).runs == ("older", "new")
    log.write(ended("old", at_ns=999 * DAY_NS + 1))
    assert collect(log, Retention(older_than_s=86_400.0), now_unix_s=NOW_S).runs == ()
    assert collect(log, Retention(older_than_s=0.5 * 86_400.0), now_unix_s=NOW_S).runs == ("old",)
    log.close()


@pytest.fixture
def large(log_folder: Path) -> Log:
    """Six runs of about 1 MB of texts that hardly compress, ended one day after the other."""
    writer = Log.open(log_folder)
    draw = random.Random(1)
    for n in range(6):
        run = f"r{n}"
        writer.write(started(run), ended(run, at_ns=(n + 1) * DAY_NS))
        writer.write(
            *(call(f"{run}-{i}", run=run, text=draw.randbytes(5000).hex(), start_unix_ns=1) for i in range(100))
        )
    writer.close()
    log = Log.open(log_folder)
    log.ingest()
    return log


def test_the_oldest_runs_go_until_the_database_is_small_enough(large: Log) -> None:
    """Below the limit in the end, and with one run more it would not be."""
    limit = int(large.database.stat().st_size * 0.6)
    done = collect(large, Retention(max_bytes=limit), now_unix_s=NOW_S)
    assert done.after_bytes == large.database.stat().st_size <= limit
    assert done.kept_bytes == 0
    assert 2 <= len(done.runs) <= 4
    assert done.runs == tuple(f"r{n}" for n in range(len(done.runs)))
    assert runs(large) == {f"r{n}" for n in range(len(done.runs), 6)}
    assert verify(large.folder).ok


def test_both_limits_hold_together(large: Log) -> None:
    """The age takes two runs, the size one or two more."""
    limit = int(large.database.stat().st_size * 0.5)
    dry = collect(large, Retention(older_than_s=NOW_S - 2.5 * 86_400, max_bytes=limit), dry_run=True, now_unix_s=NOW_S)
    assert dry.runs[:2] == ("r0", "r1")
    assert len(dry.runs) >= 3
    done = collect(large, Retention(older_than_s=NOW_S - 2.5 * 86_400, max_bytes=limit), now_unix_s=NOW_S)
    assert done.runs[:2] == ("r0", "r1")
    assert done.after_bytes <= limit
    assert abs(len(dry.runs) - len(done.runs)) <= 1


def test_holes_are_closed_before_a_run_goes_for_its_size(large: Log) -> None:
    """A file that is too large for its rows is rewritten, and nothing is removed."""
    with large._connection() as con:
        con.execute("delete from log.calls where run_id = 'r0'")
        con.execute(
            "delete from log.texts where hash not in (select unnest([prompt_hash, response_hash]) from log.calls)"
        )
    before = large.database.stat().st_size
    done = collect(large, Retention(max_bytes=before - 200_000), now_unix_s=NOW_S)
    assert done.runs == ()
    assert done.after_bytes < before - 200_000


def test_a_size_that_cannot_be_reached_is_told(log: Log) -> None:
    """What is left has not ended, or belongs to no run."""
    done = collect(log, Retention(max_bytes=1000), now_unix_s=NOW_S)
    assert runs(log) == {"open"}
    assert done.kept_bytes == done.after_bytes - 1000 > 0


def test_a_failure_in_the_middle_removes_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts and rows go in one transaction."""
    before = contents(log)

    def broken(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(retaining, "_Removed", broken)
    with pytest.raises(KeyboardInterrupt):
        retaining._round(log, Retention(older_than_s=0.0), NOW_S)
    assert contents(log) == before


def test_a_limit_below_nothing_is_refused(log: Log) -> None:
    """Also one that is no number."""
    for limits in (Retention(older_than_s=-1.0), Retention(max_bytes=-1), Retention(older_than_s=float("nan"))):
        with pytest.raises(LLMValidationError, match="below 0"):
            collect(log, limits, now_unix_s=NOW_S)
    for limits in (Retention(older_than_s=cast(Any, "90d")), Retention(max_bytes=cast(Any, "5GB"))):
        with pytest.raises(LLMValidationError, match="no number") as caught:
            collect(log, limits, now_unix_s=NOW_S)
        assert caught.value.code == "validation.retention"


# -- writers that live on


def test_a_text_that_a_living_writer_remembers_stays(log_folder: Path) -> None:
    """Another process wrote it for a run that goes; it refers to it again, without writing it again."""
    code = """
    log.write(*whole_run("gone", end_ns=10))
    say("written")
    sys.stdin.readline()
    log.write(call("again", run=None, prompt="shared prompt", text="answer gone 1"))
    say("again")
    sys.stdin.readline()
    """
    log = Log.open(log_folder)
    with child(code, log_folder) as process:
        assert told(process) == "written"
        done = collect(log, Retention(runs=("gone",)), now_unix_s=NOW_S)
        assert (done.runs, done.texts, done.kept_texts) == (("gone",), 0, 4)
        tell(process)
        assert told(process) == "again"
        assert log.rows("select prompt, response from answers") == [("shared prompt", "answer gone 1")]
        assert verify(log_folder).ok
        tell(process)
        over(process)
    done = collect(log, Retention(), now_unix_s=NOW_S)  # the writer has ended: two texts were its last ones
    assert (done.texts, done.kept_texts) == (2, 0)
    assert verify(log_folder).ok


def test_a_row_that_waits_keeps_its_text(log_folder: Path) -> None:
    """A killed process has written a row that nobody has moved in yet; its text was moved in long ago."""
    code = """
    log.write(*whole_run("gone", end_ns=10))
    log.ingest()
    log.write(call("waits", run=None, prompt="shared prompt", text="answer gone 0"))
    say("written")
    sys.stdin.readline()
    """
    log = Log.open(log_folder)
    with child(code, log_folder) as process:
        assert told(process) == "written"
        process.kill()
        over(process, killed=True)
    done = collect(log, Retention(runs=("gone",)), now_unix_s=NOW_S)
    assert (done.runs, done.texts) == (("gone",), 2)
    assert log.rows("select prompt, response from answers") == [("shared prompt", "answer gone 0")]
    assert verify(log_folder).ok


def test_runs_go_while_others_write(log_folder: Path) -> None:
    """A writer that makes and ends runs with shared texts, and a process that removes them, over and over."""
    code = """
    say("ready")
    for n in range(60):
        log.write(*whole_run(f"run{n}", end_ns=n + 10, calls=2, text="same"))
        log.write(call(f"free{n}", run=None, prompt="shared prompt", text="same run0 0"))
    say("done")
    sys.stdin.readline()
    """
    log = Log.open(log_folder)
    with child(code, log_folder) as process:
        assert told(process) == "ready"
        for _ in range(5):
            collect(log, Retention(older_than_s=1.0), now_unix_s=NOW_S)
        assert told(process) == "done"
        assert verify(log_folder).ok
        tell(process)
        over(process)
    collect(log, Retention(older_than_s=1.0), now_unix_s=NOW_S)
    assert verify(log_folder).ok
    assert log.rows("select count(*), count(distinct response) from answers") == [(60, 1)]
    assert log.rows("select count(*) from texts") == [(2,)]


@pytest.mark.parametrize("end", ["rotated", "closed"])
def test_a_writer_that_begins_another_file_writes_its_texts_again(log_folder: Path, end: str) -> None:
    """Its first file is full, or was closed, so that nothing keeps the text any more; it refers to the text again."""
    code = """
    from workbench.record import spool
    log.write(*whole_run("gone", end_ns=10))
    if sys.argv[2] == "rotated":
        spool.ROTATE_BYTES = 1
        log.write(started("next"))
    else:
        log.close()
    say("written")
    sys.stdin.readline()
    log.write(call("again", run=None, prompt="shared prompt", text="answer gone 1"))
    say("again")
    sys.stdin.readline()
    """
    log = Log.open(log_folder)
    with child(code, log_folder, end) as process:
        assert told(process) == "written"
        done = collect(log, Retention(runs=("gone",)), now_unix_s=NOW_S)
        assert (done.texts, done.kept_texts) == (4, 0)
        tell(process)
        assert told(process) == "again"
        assert log.rows("select prompt, response from answers") == [("shared prompt", "answer gone 1")]
        assert verify(log_folder).ok
        tell(process)
        over(process)


def test_a_forked_child_writes_its_texts_itself(log_folder: Path) -> None:
    """What the parent has written is gone with the parent's file."""
    code = """
    log.write(*whole_run("gone", end_ns=10))
    child = os.fork()
    if child:
        log.close()
        say("written")
        os.waitpid(child, 0)
        os._exit(0)
    sys.stdin.readline()
    log.write(call("again", run=None, prompt="shared prompt", text="answer gone 1"))
    say("again")
    os._exit(0)
    """
    log = Log.open(log_folder)
    with child(code, log_folder) as process:
        assert told(process) == "written"
        assert collect(log, Retention(runs=("gone",)), now_unix_s=NOW_S).texts == 4
        tell(process)
        assert told(process) == "again"
        over(process)
    assert log.rows("select prompt, response from answers") == [("shared prompt", "answer gone 1")]
    assert verify(log_folder).ok


def test_rows_that_a_failing_disk_kept_back_find_their_texts(log_folder: Path) -> None:
    """They lean on a file that failed, which its writer holds until they are written."""
    code = """
    from workbench.record import spool
    log.write(*whole_run("gone", end_ns=10))
    real = spool._write_all
    def full(fd, data):
        raise OSError(28, "No space left on device")
    spool._write_all = full
    log.write(call("again", run=None, prompt="shared prompt", text="answer gone 1"))
    spool._write_all = real
    say("kept")
    sys.stdin.readline()
    log.flush()
    say("again")
    sys.stdin.readline()
    """
    log = Log.open(log_folder)
    with child(code, log_folder) as process:
        assert told(process) == "kept"
        done = collect(log, Retention(runs=("gone",)), now_unix_s=NOW_S)
        assert (done.texts, done.kept_texts) == (0, 4)
        tell(process)
        assert told(process) == "again"
        assert log.rows("select prompt, response from answers") == [("shared prompt", "answer gone 1")]
        assert verify(log_folder).ok
        tell(process)
        over(process)


def test_a_run_that_goes_on_again_stays(log_folder: Path) -> None:
    """It ended long ago, was taken up again, and has made no call yet: whoever runs it holds its file."""
    log = Log.open(log_folder)
    log.write(*whole_run("old", end_ns=10), *whole_run("again", end_ns=10))
    (log_folder / "runs").mkdir()
    (log_folder / "runs" / "again.lock").write_text('{"run_id": "again"}', "utf-8")
    (log_folder / "runs" / "new.lock").write_text("", "utf-8")  # its process has not written yet
    assert collect(log, Retention(older_than_s=1.0), now_unix_s=NOW_S).runs == ("old",)
    assert log.rows("select run_id from runs") == [("again",)]
    assert collect(log, Retention(runs=("again",)), now_unix_s=NOW_S).runs == ("again",)


@pytest.mark.parametrize("run", ["\ud800", "", 1, "nope"])
def test_what_cannot_be_a_run_is_refused_and_no_damage(log: Log, run: Any) -> None:
    """By its form that can be read."""
    for dry_run in (True, False):
        with pytest.raises(LLMValidationError, match="there is no run ") as caught:
            collect(log, Retention(runs=(run,)), dry_run=dry_run)
        assert caught.value.code == "validation.run"
        assert repr(run) in caught.value.message
    with pytest.raises(LLMValidationError, match="there is no run 'nope' "):
        collect(log, Retention(runs=cast(Any, "nope")))


def test_a_dry_run_of_everything_leaves_an_empty_log(log_folder: Path) -> None:
    """What it expects is what a log without a row takes, and not nothing."""
    log = Log.open(log_folder)
    empty = compact(log).after_bytes
    log.write(*whole_run("r1", end_ns=10))
    log.close()
    expected = collect(log, Retention(max_bytes=0), dry_run=True)
    assert expected.after_bytes == expected.kept_bytes == empty


def test_a_file_set_aside_that_another_one_removes_is_no_error(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two collections at once."""
    monkeypatch.setattr(retaining, "torn_files", lambda folder: [folder / "torn" / "gone"])
    done = collect(log, Retention(older_than_s=1e12), now_unix_s=NOW_S)
    assert (done.torn_files, done.runs) == ((), ())
