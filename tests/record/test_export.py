"""Exports are whole, of one moment, equal to the log when read back, and never half there."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import duckdb
import pytest

from record.kept import HOSTILE, call, child, contents, over, told, whole_run
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import Score
from workbench.record import export as exporting
from workbench.record.export import FORMATS, FORMULA, export
from workbench.record.log import Log

every_format = pytest.mark.parametrize("form", FORMATS)
ODD = (math.nan, math.inf, -math.inf, 0.1 + 0.2, -0.0, 5e-324)


@pytest.fixture
def log(log_folder: Path) -> Log:
    """Two runs, hostile texts, odd numbers, and rows that still wait in the spool."""
    log = Log.open(log_folder)
    log.write(*whole_run("r1", end_ns=10), *whole_run("r2", end_ns=None))
    log.ingest()
    log.write(*(call(f"h{n}", run="r1", prompt=f"hostile {n}", text=text) for n, text in enumerate(HOSTILE)))
    log.write(*(Score(item_id=f"odd{n}", model="=m", scorer="s", value=v, run_id="r1") for n, v in enumerate(ODD)))
    return log


def bare(place: Path, form: str, table: str) -> list[tuple[Any, ...]]:
    """The rows of an exported table as a user reads them, with the types of the manifest."""
    if form == "duckdb":
        with duckdb.connect(str(place), read_only=True) as con:
            return con.execute(f"from {table}").fetchall()
    described = json.loads((place / "export.json").read_text())["tables"][table]
    file, types = place / described["file"], described["columns"]
    with duckdb.connect() as con:
        if form == "parquet":
            return con.execute("from read_parquet(?)", [str(file)]).fetchall()
        columns = "{" + ", ".join(f"'{name}': '{kind}'" for name, kind in types.items()) + "}"
        if form == "jsonl":
            return con.execute(
                f"from read_json(?, format = 'newline_delimited', columns = {columns})", [str(file)]
            ).fetchall()
        rows = con.execute(
            f"from read_csv(?, header = true, auto_detect = false, columns = {columns}, quote = '\"', escape = '\"', "
            "allow_quoted_nulls = false)", [str(file)],
        ).fetchall()  # fmt: skip
    # The one rule of the format: an apostrophe in front of a text is taken away.
    return [tuple(v[1:] if isinstance(v, str) and v.startswith("'") else v for v in row) for row in rows]


def words(rows: list[tuple[Any, ...]]) -> list[str]:
    """Rows that can be compared: NaN is NaN, and no order matters."""
    return sorted(map(repr, rows))


@every_format
def test_everything_is_read_back_equal(log: Log, tmp_path: Path, form: str) -> None:
    """Every value of every row of every table, spooled rows included; columns of JSON are texts."""
    place = tmp_path / f"out.{form}"
    done = export(log, place, format=form)
    stored = {t: rows for t, rows in contents(log).items() if t not in ("schema_version", "spool_files")}
    assert done.rows == {table: len(rows) for table, rows in stored.items()}
    assert done.rows["calls"] == 6 + len(HOSTILE)
    for table, rows in stored.items():
        assert words(bare(place, form, table)) == words(rows), table
    assert done.size_bytes == sum(p.stat().st_size for p in ([place] if place.is_file() else place.iterdir()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", place.name]
    log.close()


def test_no_cell_of_csv_begins_like_a_formula(log: Log, tmp_path: Path) -> None:
    """The standard library's reader finds no text that a spreadsheet would run; numbers stay numbers."""
    export(log, tmp_path / "out", format="csv")
    seen = 0
    for file in (tmp_path / "out").glob("*.csv"):
        types = json.loads((tmp_path / "out" / "export.json").read_text())["tables"][file.stem]["columns"]
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                texts = [row[name] for name, kind in types.items() if kind == "VARCHAR"]
                assert not [text for text in texts if text.startswith(FORMULA)]
                seen += sum(text.startswith("'") for text in texts)
    assert seen >= 9 + len(ODD)
    log.close()


def test_json_lines_are_json(log: Log, tmp_path: Path) -> None:
    """Every line is read by a strict reader: no NaN, no Infinity."""

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is no JSON")

    export(log, tmp_path / "out", format="jsonl")
    lines = [line for file in (tmp_path / "out").glob("*.jsonl") for line in file.read_text("utf-8").splitlines()]
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert {row["value"] for row in rows if str(row.get("item_id")).startswith("odd")} >= {"nan", "inf", "-inf"}
    assert all(isinstance(row["spec"], str) and json.loads(row["spec"]) == {"a": [1]} for row in rows if "spec" in row)
    log.close()


@every_format
def test_one_run_has_its_rows_and_its_texts(log: Log, tmp_path: Path, form: str) -> None:
    """Texts that only other runs refer to stay out; the shared prompt is in."""
    done = export(log, tmp_path / "out", format=form, run="r2")
    assert done.rows == {
        "calls": 3, "contributions": 0, "decisions": 0, "items": 1, "run_ends": 0, "runs": 1, "scores": 3, "spans": 3,
        "texts": 4,
    }  # fmt: skip
    texts = {row[1] for row in bare(tmp_path / "out", form, "texts")}
    assert texts == {"shared prompt", "answer r2 0", "answer r2 1", "answer r2 2"}
    log.close()


def test_tables_can_be_chosen(log: Log, tmp_path: Path) -> None:
    """Nothing else is written; an unknown table or run is refused before anything is."""
    export(log, tmp_path / "out", tables=["texts", "runs"], run="r1")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["export.json", "runs.parquet", "texts.parquet"]
    with pytest.raises(LLMValidationError, match="there is no table prices; the log has calls, ") as caught:
        export(log, tmp_path / "other", tables=["prices"])
    assert caught.value.code == "validation.export"
    with pytest.raises(LLMValidationError, match="no run 'r9'") as caught:
        export(log, tmp_path / "other", run="r9")
    assert caught.value.code == "validation.run"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "out"]
    log.close()


@every_format
def test_only_an_earlier_export_is_replaced_and_only_when_told(log: Log, tmp_path: Path, form: str) -> None:
    """A folder with anything else in it, and a file that is no export, are never touched."""
    place = tmp_path / "out"
    export(log, place, format=form)
    log.write(call("later"))
    with pytest.raises(LLMValidationError, match="is there already"):
        export(log, place, format=form)
    assert export(log, place, format="parquet", force=True).rows["calls"] == 7 + len(HOSTILE)
    assert len(bare(place, "parquet", "calls")) == 7 + len(HOSTILE)
    (place / "mine.txt").write_text("precious")
    with pytest.raises(LLMValidationError, match="is no export"):
        export(log, place, format=form, force=True)
    assert (place / "mine.txt").read_text() == "precious"
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(LLMValidationError, match="is no export"):
        export(log, file, format=form, force=True)
    assert file.read_text() == "precious"
    log.close()


def test_nothing_goes_into_or_around_the_log(log: Log, tmp_path: Path) -> None:
    """Not over the database, not into its folder, not over a folder that the log is in."""
    for place in (log.database, log.folder, log.folder / "spool" / "x", tmp_path, Path("/")):
        with pytest.raises(LLMValidationError, match="cannot go to"):
            export(log, place, format="duckdb", force=True)
    with pytest.raises(LLMValidationError, match="'xlsx' is no format"):
        export(log, tmp_path / "out", format="xlsx")
    log.close()


@every_format
def test_an_export_that_is_killed_leaves_nothing_in_its_place(log: Log, tmp_path: Path, form: str) -> None:
    """What was there before is still whole."""
    log.close()
    place = tmp_path / "out"
    code = """
    import pathlib, signal
    from workbench.record import export as exporting
    exporting._published = lambda part, to, *, force: os.kill(os.getpid(), signal.SIGKILL)
    exporting.export(log, pathlib.Path(sys.argv[2]), format=sys.argv[3], force=True)
    """
    with child(code, log.folder, place, form) as process:
        over(process, killed=True)
    assert not place.exists()
    export(log, place, format=form)
    before = words(bare(place, form, "texts"))
    with child(code, log.folder, place, form) as process:
        over(process, killed=True)
    assert words(bare(place, form, "texts")) == before


def test_an_export_that_fails_cleans_up(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is told as one, of the place that is full, and leaves neither export nor part."""

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(exporting, "synced", full)
    for form in FORMATS:
        with pytest.raises(LLMError, match="No space left") as caught:
            export(log, tmp_path / "out", format=form)
        assert caught.value.code == "storage.full"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["log"]
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(LLMError) as caught:
        export(log, blocked / "out")
    assert caught.value.code == "storage.readonly"
    log.close()


def test_all_tables_are_of_one_moment(log_folder: Path, tmp_path: Path) -> None:
    """While another process writes calls with new texts, no exported call lacks its text."""
    code = """
    say("ready")
    for n in range(400):
        log.write(call(f"s{n}", prompt=f"p{n}", text=f"t{n}"))
        if n % 20 == 0:
            log.ingest()
    """
    log = Log.open(log_folder)
    with child(code, log_folder) as process:
        assert told(process) == "ready"
        for n in range(4):
            export(log, tmp_path / f"out{n}", tables=["calls", "texts"])
            place = tmp_path / f"out{n}"
            with duckdb.connect() as con:
                [(lost,)] = con.execute(
                    f"select count(*) from '{place}/calls.parquet' where prompt_hash not in "
                    f"(select hash from '{place}/texts.parquet')"
                ).fetchall()
            assert lost == 0
        over(process)
    export(log, tmp_path / "last", tables=["calls"])
    assert len(bare(tmp_path / "last", "parquet", "calls")) == 400


@pytest.mark.parametrize("run", ["\ud800", "a\0b", "", 123, True, b"x", object()])
def test_what_cannot_be_a_run_is_no_damage(log: Log, tmp_path: Path, run: Any) -> None:
    """Whatever is asked for, a healthy database is not called corrupt."""
    with pytest.raises(LLMValidationError, match="there is no run ") as caught:
        export(log, tmp_path / "out", run=run)
    assert caught.value.code == "validation.run"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log"]
    log.close()


@pytest.mark.parametrize(
    "error",
    [
        duckdb.TransactionException('TransactionContext Error: Failed to commit: Could not write file "x.wal"'),
        duckdb.IOException("IO Error: Detached database 'target', but CHECKPOINT during DETACH failed."),
        duckdb.IOException('IO Error: Could not write file "x": No space left on device'),
    ],
)
def test_a_full_disk_is_that_of_the_export(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: duckdb.Error
) -> None:
    """Also when DuckDB tells it at a commit, or names only its own word for the new file."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(exporting, "_write", fail)
    with pytest.raises(LLMError) as caught:
        export(log, tmp_path / "out", format="duckdb")
    assert caught.value.code == "storage.full"
    assert caught.value.message.startswith(f"{tmp_path / 'out'} cannot be written: ")
    log.close()


@pytest.mark.parametrize(
    "statement",
    [
        "create table precious as from range(5)",
        "create view precious as from range(5)",
        "create schema mine; create table mine.runs(a int)",
        "drop table exported; create table exported(a int)",
        "drop table exported",
    ],
)
def test_a_database_of_somebody_else_is_not_replaced(log: Log, tmp_path: Path, statement: str) -> None:
    """A table called like the stamp is not enough, nor is the stamp with something else beside it."""
    place = tmp_path / "out.db"
    export(log, place, format="duckdb", tables="runs")
    export(log, place, format="duckdb", force=True)
    with duckdb.connect(str(place)) as con:
        con.execute(statement)
    before = place.read_bytes()
    with pytest.raises(LLMValidationError, match="is no export") as caught:
        export(log, place, format="duckdb", force=True)
    assert caught.value.code == "validation.export"
    assert place.read_bytes() == before
    log.close()


def test_a_place_may_be_a_text_and_a_table_one_name(log: Log, tmp_path: Path) -> None:
    """Names are not taken letter by letter; what is no name is refused."""
    done = export(log, str(tmp_path / "out"), tables="runs")
    assert (done.path, done.rows) == (str(tmp_path / "out"), {"runs": 2})
    odd: Any = [1]
    with pytest.raises(LLMValidationError, match="there is no table 1;"):
        export(log, tmp_path / "other", tables=odd)
    log.close()


def test_a_long_name_is_taken_and_one_that_is_too_long_refused(log: Log, tmp_path: Path) -> None:
    """A name may have 255 bytes; the part beside it fits too."""
    for form in FORMATS:
        export(log, tmp_path / f"{form}{'n' * 240}", format=form)
    with pytest.raises(LLMError, match="File name too long") as caught:
        export(log, tmp_path / ("n" * 256))
    assert (caught.value.code, caught.value.next_step) == ("storage.readonly", "choose another place with --to")
    assert len(list(tmp_path.iterdir())) == 1 + len(FORMATS)
    log.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@every_format
def test_a_pipe_or_a_device_is_not_replaced(log: Log, tmp_path: Path, form: str) -> None:
    """As /dev/null is one."""
    place = tmp_path / "pipe"
    os.mkfifo(place)
    with pytest.raises(LLMValidationError, match="is no export"):
        export(log, place, format=form, force=True)
    assert place.is_fifo()
    log.close()


@pytest.mark.parametrize("rival", ["takes", "puts"])
def test_exports_that_replace_each_other_end_whole(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rival: str
) -> None:
    """Another one takes the earlier export away, or puts his own there, just before this one does."""
    place, other = tmp_path / "out", tmp_path / "other"
    export(log, place, tables="runs")
    export(log, other, tables="runs")
    real, seen = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        if not seen and rival == "takes" and self == place:
            seen.append(real(place, tmp_path / "taken"))
        if not seen and rival == "puts" and target == place:
            seen.append(real(other, place))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    export(log, place, tables="items", force=True)
    assert seen
    assert sorted(p.name for p in place.iterdir()) == ["export.json", "items.parquet"]
    assert not list(tmp_path.glob(".*"))
    log.close()


def test_what_came_meanwhile_is_not_replaced_unasked(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place is looked at once more when the export is ready."""
    place, real = tmp_path / "out", exporting._write

    def write(*args: Any) -> dict[str, int]:
        place.mkdir()
        (place / "mine.txt").write_text("precious")
        return real(*args)

    monkeypatch.setattr(exporting, "_write", write)
    for force in (False, True):
        with pytest.raises(LLMValidationError, match=r"is there already|is no export"):
            export(log, place, force=force)
        assert [p.name for p in place.iterdir()] == ["mine.txt"]
        (place / "mine.txt").unlink()
        place.rmdir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log"]
    log.close()
