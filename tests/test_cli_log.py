"""`workbench log ...`: one document with --json, words for a terminal, and the documented exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from record.kept import call, spooled, started, tampered, whole_run
from workbench.cli import main
from workbench.record.log import Log


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], log_folder: Path) -> Any:
    """The command inside this process, on the test's log."""

    def run(*args: str | Path) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["log", *map(str, args), "--log", str(log_folder)])
        captured = capsys.readouterr()
        return Said(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def log(log_folder: Path) -> Log:
    """A log with a finished run, all of it in the spool of a writer that has ended."""
    writer = Log.open(log_folder)
    writer.write(*whole_run("r1", end_ns=10))
    writer.close()
    return Log.open(log_folder)


def test_status_moves_nothing_and_ingest_moves_it(cli: Any, log: Log) -> None:
    """Rows wait, are moved, and wait no more; the words say the same as the document."""
    before = cli("status", "--json").json
    # The prompt is written with the item, and once more with each call of the same batch.
    assert (before["waiting_rows"], before["rows"]["calls"], len(spooled(log.folder))) == (19, 0, 1)
    assert "19 rows wait" in cli("status").out
    assert cli("ingest", "--json").json == {"folder": str(log.folder), "rows": 19}
    assert cli("ingest").out.startswith("0 rows moved")
    after = cli("status", "--json").json
    assert (after["waiting_rows"], after["rows"]["calls"], after["problem"]) == (0, 3, None)


def test_a_log_that_is_not_there_is_not_made(cli: Any, log_folder: Path) -> None:
    """Status says so and is content; the others need one."""
    found = cli("status", "--json")
    assert (found.code, found.json["exists"]) == (0, False)
    assert "no log in" in cli("status").out
    for command in (["ingest"], ["verify"], ["compact"], ["gc"], ["export", "--to", "x"]):
        refused = cli(*command, "--json")
        assert (refused.code, refused.json["code"]) == (2, "validation.log")
    assert not log_folder.exists()


def test_a_damaged_log_ends_with_code_1(cli: Any, log: Log) -> None:
    """Status shows the spool all the same; verify lists what is wrong with a next step."""
    log.ingest()
    log.write(call("later"))
    log.close()
    log.database.write_bytes(b"not a database " * 4000)
    found = cli("status", "--json")
    assert (found.code, found.json["problem"]["code"]) == (1, "storage.corrupt")
    assert found.json["waiting_rows"] >= 2
    assert "next: " in cli("status").out
    found = cli("verify", "--json")
    assert (found.code, found.json["ok"]) == (1, False)
    assert all(finding["next_step"] for finding in found.json["findings"])
    words = cli("verify")
    assert (words.code, "things are wrong" in words.out) == (1, True)
    refused = cli("compact", "--json")
    assert (refused.code, refused.json["code"]) == (1, "storage.corrupt")


def test_verify_tells_a_sound_log_from_one_with_a_changed_text(cli: Any, log: Log) -> None:
    """Codes 0 and 1."""
    log.ingest()
    found = cli("verify")
    assert (found.code, "nothing is wrong" in found.out) == (0, True)
    tampered(log, "update log.texts set text = 'another' where text = 'shared prompt'")
    assert cli("verify").code == 1


def test_compact_says_what_it_gained(cli: Any, log: Log) -> None:
    """Bytes before and after."""
    log.ingest()
    done = cli("compact", "--json").json
    assert done["rows"]["log.calls"] == 3
    assert done["after_bytes"] == log.database.stat().st_size
    assert "all rows compared equal" in cli("compact").out


def test_export_writes_where_it_is_told(cli: Any, log: Log, tmp_path: Path) -> None:
    """A folder of files, one run, the newest run; never over something else."""
    place = tmp_path / "out"
    done = cli("export", "--to", place, "--format", "csv", "--tables", "calls, texts", "--run", "latest", "--json")
    assert (done.code, done.json["rows"], done.json["run"]) == (0, {"calls": 3, "texts": 4}, "r1")
    assert "calls 3" in cli("export", "--to", tmp_path / "other", "--run", "r1").out
    for options in ([], ["--format", "xlsx", "--force"]):
        refused = cli("export", "--to", place, *options, "--json")
        assert (refused.code, refused.json["code"]) == (2, "validation.export")
    assert cli("export", "--to", place, "--force").code == 0
    assert log.folder.exists()


def test_latest_of_a_log_without_runs_is_refused(cli: Any, log_folder: Path, tmp_path: Path) -> None:
    """By its name."""
    Log.open(log_folder)
    refused = cli("export", "--to", tmp_path / "out", "--run", "latest", "--json")
    assert (refused.code, refused.json["code"]) == (2, "validation.run")


def test_the_latest_run_is_no_report(cli: Any, log: Log, tmp_path: Path) -> None:
    """A report that began later is passed over; of two runs that began at once the last by name is taken, by gc too."""
    log.write(*whole_run("r0", end_ns=10), replace(started("report", at_ns=99), source="report"))
    assert cli("export", "--to", tmp_path / "out", "--run", "latest", "--json").json["run"] == "r1"
    assert cli("gc", "--run", "latest", "--dry-run", "--json").json["runs"] == ["r1"]
    assert cli("gc", "--run", "latest", "--run", "r1", "--json").json["runs"] == ["r1"]
    assert cli("gc", "--run", "latest", "--json").json["runs"] == ["r0"]
    refused = cli("gc", "--run", "latest", "--json")
    assert (refused.code, refused.json["code"]) == (2, "validation.run")
    assert "'latest'" in refused.json["message"]
    assert "there is no run '' in" in cli("gc", "--run", "").err
    log.close()


def test_of_many_removed_runs_some_are_named(cli: Any, log_folder: Path) -> None:
    """The first ten in words, all of them in the document."""
    writer = Log.open(log_folder)
    writer.write(*(fact for n in range(12) for fact in whole_run(f"r{n:02}", end_ns=10 + n, calls=1)))
    writer.close()
    words = cli("gc", "--older-than", "1d", "--dry-run").out
    assert f"would remove 12 runs: {', '.join(f'r{n:02}' for n in range(10))} and 2 more\n" in words
    assert len(cli("gc", "--older-than", "1d", "--dry-run", "--json").json["runs"]) == 12


def test_gc_says_what_goes_before_it_goes(cli: Any, log: Log) -> None:
    """A dry run, the real one, and a size that cannot be reached."""
    dry = cli("gc", "--older-than", "90d", "--dry-run", "--json").json
    assert (dry["dry_run"], dry["runs"], dry["rows"]["calls"], dry["texts"]) == (True, ["r1"], 3, 4)
    assert "would remove 1 runs: r1" in cli("gc", "--older-than", "90d", "--dry-run").out
    done = cli("gc", "--older-than", "90d", "--max-size", "1kB")
    assert "removed 1 runs: r1" in done.out
    assert "above --max-size" in done.out
    assert cli("gc", "--run", "r1", "--json").json["code"] == "validation.run"
    for option, text, code in (("--max-size", "5", "validation.size"), ("--older-than", "old", "validation.age")):
        refused = cli("gc", option, text, "--json")
        assert (refused.code, refused.json["code"]) == (2, code)


def test_control_characters_of_a_log_are_shown_and_not_obeyed(cli: Any, log_folder: Path) -> None:
    """A run's name from elsewhere cannot drive the terminal."""
    writer = Log.open(log_folder)
    writer.write(*whole_run("r\x1b[2J", end_ns=10))
    writer.close()
    found = cli("gc", "--older-than", "1d", "--dry-run")
    assert "\x1b" not in found.out
    assert "\\x1b" in found.out


def test_the_commands_are_there_as_a_user_starts_them(log: Log) -> None:
    """A process of its own, with the options before the command."""
    done = subprocess.run(
        [sys.executable, "-m", "workbench", "--json", "--log", str(log.folder), "log", "status"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout)["waiting_rows"] == 19
