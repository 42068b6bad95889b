"""Verification finds every damage, names it with a next step, and changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from functools import partial
from pathlib import Path

import pytest

from record.kept import call, child, over, spooled, tampered, told, whole_run
from record.test_upkeep_status import snapshot_of
from workbench.canonical import text_hash
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import Failure
from workbench.record import verify as verifying
from workbench.record.lock import locked
from workbench.record.log import Log
from workbench.record.schema import VERSION
from workbench.record.verify import Verification, verify


def wrong(found: Verification) -> list[tuple[str, str]]:
    """Check and place of what is wrong; each with a next step that fits on a line or two."""
    assert all(finding.next_step and len(finding.next_step) <= 160 for finding in found.findings)
    return [(finding.check, finding.where) for finding in found.findings if finding.state == "wrong"]


def notes(found: Verification) -> list[tuple[str, str]]:
    return [(finding.check, finding.where) for finding in found.findings if finding.state == "note"]


sliced = pytest.mark.parametrize("slice_rows", [2, 2_000_000])


@pytest.fixture
def log(log_folder: Path) -> Log:
    """A log with a finished run in the database."""
    log = Log.open(log_folder)
    log.write(*whole_run("r1", end_ns=10, calls=9))
    log.ingest()
    log.close()
    log = Log.open(log_folder)
    log.ingest()  # and so removes the file that was closed
    assert not spooled(log_folder)
    return log


def test_a_sound_log_is_read_whole_and_left_alone(log: Log) -> None:
    """1 run, 1 end, 1 item, 9 calls, 9 scores, 9 spans and 10 texts are 40 rows."""
    before = snapshot_of(log.folder)
    found = verify(log.folder)
    assert found.ok
    assert found.findings == ()
    assert (found.rows, found.texts, found.references) == (40, 10, 5)
    assert snapshot_of(log.folder) == before
    assert json.loads(json.dumps(found.as_dict()))["ok"] is True


def test_what_is_spooled_counts_as_there(log: Log) -> None:
    """A call whose texts and final row are still in the spool is whole."""
    failed = Failure(kind="provider", code="provider.error", message="gone", retryable=True)
    log.write(call("a", prompt="new", call_id="c", attempt=1, final=False, failure=failed, text=None))
    log.ingest()
    log.write(call("b", prompt="new", text="newer", call_id="c", attempt=2))
    found = verify(log.folder)
    assert found.ok
    assert found.findings == ()
    assert found.lines >= 3
    log.close()


def test_every_text_has_the_hash_it_is_stored_under(log: Log) -> None:
    """The standard library's SHA-256 is what the database's is held against."""
    stored = log.rows("select hash, text from texts")
    assert all(hashlib.sha256(text.encode()).hexdigest()[:32] == key for key, text in stored)
    tampered(log, "update log.texts set text = text || ' ' where text like '%r1 0'")
    found = verify(log.folder)
    assert wrong(found) == [("texts", "texts")]
    assert text_hash("answer r1 0") in found.findings[0].message


@sliced
def test_a_missing_text_is_missed(log: Log, slice_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the calls that refer to it as their answer, and by calls and items as their prompt; however it is sliced."""
    monkeypatch.setattr(verifying, "SLICE_ROWS", slice_rows)
    tampered(log, f"delete from log.texts where hash = '{text_hash('answer r1 1')}'")
    assert wrong(verify(log.folder)) == [("references", "calls")]
    tampered(log, f"delete from log.texts where hash = '{text_hash('shared prompt')}'")
    assert wrong(verify(log.folder)) == [("references", "calls"), ("references", "calls"), ("references", "items")]


def test_a_row_that_waits_is_missed_its_text_too(log: Log) -> None:
    """A spooled call whose prompt is nowhere."""
    log.knows([text_hash("never written")])
    log.write(call("a", prompt="never written", text=None))
    assert wrong(verify(log.folder)) == [("references", "calls")]
    log.close()


@pytest.mark.parametrize("table", ["runs", "run_ends", "items", "calls", "scores", "spans", "texts"])
def test_a_doubled_key_is_found_in_every_table(log: Log, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of the table is put in again; tables of several rows are looked at in slices."""
    monkeypatch.setattr(verifying, "SLICE_ROWS", 3)
    tampered(log, f"insert into log.{table} from log.{table} limit 1")
    assert ("keys", table) in wrong(verify(log.folder))


@sliced
def test_a_call_has_one_final_row(log: Log, slice_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are wrong; none is what a killed process leaves, and a note; however the table is sliced."""
    monkeypatch.setattr(verifying, "SLICE_ROWS", slice_rows)
    log.write(call("a", call_id="c"), call("b", call_id="c"), call("d", call_id="e", final=False))
    log.ingest()
    found = verify(log.folder)
    assert wrong(found) == [("calls", "calls")]
    assert notes(found) == [("calls", "calls")]
    assert "c" in found.findings[0].message.split("such as ")[1]
    log.close()


def test_a_second_final_row_in_the_spool_is_found(log: Log) -> None:
    """Before it is moved in."""
    log.write(call("a", call_id="c"))
    log.ingest()
    log.write(call("b", call_id="c"))
    assert wrong(verify(log.folder)) == [("calls", "calls")]
    log.close()


def test_a_broken_line_is_wrong_and_a_cut_one_is_not(log: Log) -> None:
    """Who is killed while it writes leaves a cut line, which was never acknowledged; nothing else breaks a line."""
    log.write(call("a", prompt="p1"))
    log.close()
    [file] = spooled(log.folder)
    whole = file.read_bytes()
    file.write_bytes(whole + b"1234")
    found = verify(log.folder)
    assert found.ok
    assert notes(found) == [("spool", file.name)]
    at = whole.rindex(b"p1")
    file.write_bytes(whole[:at] + b"P" + whole[at + 1 :])
    assert ("spool", file.name) in wrong(verify(log.folder))
    file.write_bytes(b"0" + whole)
    assert ("spool", file.name) in wrong(verify(log.folder))


def test_a_spooled_text_under_another_hash_is_found(log: Log) -> None:
    """Its line is whole: it was written wrong."""
    log.write(call("a", prompt="p1"))
    log.close()
    [file] = spooled(log.folder)
    body = json.dumps([["texts", "0" * 32, "p1"]]).encode()
    with file.open("ab") as out:
        out.write(b"%08x %s\n" % (zlib.crc32(body), body))
    assert wrong(verify(log.folder)) == [("texts", file.name)]


def test_lines_set_aside_are_a_note(log: Log) -> None:
    """They were reported once already."""
    (log.folder / "torn").mkdir()
    (log.folder / "torn" / "x.spool.0").write_bytes(b"a\nb\n")
    found = verify(log.folder)
    assert found.ok
    assert notes(found) == [("torn", "torn")]
    assert found.findings[0].message.startswith("2 lines")


@pytest.mark.parametrize("damage", ["zero", "text", "half", "middle"])
def test_a_damaged_database_is_a_finding(log: Log, damage: str) -> None:
    """Zero-length, another file, cut by half, overwritten in its middle: each with what to do, the spool looked at."""
    log.write(*whole_run("big", end_ns=10, calls=3000, text="x" * 200))
    log.ingest()
    log.write(call("later"))
    size = log.database.stat().st_size
    if damage == "half":
        os.truncate(log.database, size // 2)
    elif damage == "middle":
        with log.database.open("r+b") as file:
            for at in range(size // 4, size * 3 // 4, 65_536):
                file.seek(at)
                file.write(b"\xff" * 4096)
    else:
        log.database.write_bytes(b"" if damage == "zero" else b"not a database " * 4000)
    found = verify(log.folder)
    assert not found.ok
    assert {check for check, _ in wrong(found)} == {"database"}
    assert any("aside" in f.next_step or "export" in f.next_step for f in found.findings)
    assert found.lines >= 2
    log.close()


def test_an_older_schema_is_a_note_and_a_newer_one_is_wrong(log: Log) -> None:
    """Neither is rewritten."""
    tampered(log, f"delete from log.schema_version where version = {VERSION}")
    assert notes(verify(log.folder)) == [("database", "workbench.duckdb")]
    tampered_at = log.database.stat().st_mtime_ns
    assert verify(log.folder).ok
    assert log.database.stat().st_mtime_ns == tampered_at


def test_a_missing_table_is_found(log: Log) -> None:
    """A table that somebody dropped."""
    tampered(log, "drop view scores", "drop table log.scores cascade")
    assert ("database", "workbench.duckdb") in wrong(verify(log.folder))


def test_verification_goes_on_while_others_write_and_ingest(log_folder: Path) -> None:
    """Nothing is ever wrong with a log that is being written."""
    code = """
    say("ready")
    for n in range(300):
        log.write(call(f"s{n}", prompt=f"p{n}", text=f"t{n}"))
        if n % 10 == 0:
            log.ingest()
    """
    Log.open(log_folder).close()
    with child(code, log_folder) as process:
        assert told(process) == "ready"
        found = [verify(log_folder) for _ in range(6)]
        over(process)
    assert [wrong(one) for one in found] == [[]] * 6
    assert verify(log_folder).ok


def test_there_must_be_a_log(tmp_path: Path) -> None:
    """A mistyped folder is no sound log, and is not made into one."""
    with pytest.raises(LLMValidationError, match="there is no log") as caught:
        verify(tmp_path / "nowhere")
    assert caught.value.code == "validation.log"
    assert not (tmp_path / "nowhere").exists()


def test_a_lock_that_is_held_says_nothing_about_the_log(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised as what it is."""
    lock = log.folder / "workbench.lock"
    monkeypatch.setattr(verifying, "locked", partial(locked, timeout_s=0.0))
    with locked(lock), pytest.raises(LLMError) as caught:
        verify(log.folder)
    assert caught.value.code == "storage.locked"


def test_a_lock_that_cannot_be_opened_says_nothing_about_the_log(log: Log) -> None:
    """A folder stands where the lock should be."""
    lock = log.folder / "workbench.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    with pytest.raises(LLMError) as caught:
        verify(log.folder)
    assert caught.value.code == "storage.readonly"
