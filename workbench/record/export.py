"""The tables of a log as files of others: Parquet, CSV, JSON lines, or a plain DuckDB database.

An export is one snapshot: everything acknowledged before it began, of all tables at the same moment. It is written
beside its place and renamed, so that an interrupted one leaves nothing there. Columns of JSON are text in every
format. A folder of files has `export.json` in it, which names the tables, their columns, types and rows.

CSV is opened by spreadsheets, which run a cell that begins like a formula. So a text that begins with one of
FORMULA, or with the apostrophe itself, gets an apostrophe in front; who reads the file with a program takes one
apostrophe away from the front of each text that has one, and has the texts as they were. An empty text is `""`, and
nothing at all is null. JSON lines have no number for NaN and infinities: they are the texts "nan", "inf" and "-inf".
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from workbench.errors import LLMValidationError
from workbench.record.database import OFFLINE, _one, unusable
from workbench.record.lock import locked
from workbench.record.log import Log
from workbench.record.schema import COLUMNS, VERSION
from workbench.record.status import LOCK, has_run, no_run, stored_columns, stored_tables
from workbench.record.upkeep import disk_full, name_of_sql, synced, text_of_sql

FORMATS = ("parquet", "csv", "jsonl", "duckdb")
MANIFEST = "export.json"
TURNS = 20  # to take the place of an earlier export, while others do the same
TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)  # another one came first
# Full-width forms are formulas to some spreadsheets too.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
Connection = duckdb.DuckDBPyConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An export: where it is, its format, rows by table, its bytes, and the run it was limited to, or None."""

    path: str
    format: str
    rows: Mapping[str, int]
    size_bytes: int
    run: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The export as plain JSON values."""
        return {**asdict(self), "rows": dict(self.rows)}


def export(
    log: Log,
    to: str | os.PathLike[str],
    *,
    format: str = "parquet",  # noqa: A002 - the word that everybody looks for
    tables: str | Sequence[str] | None = None,
    run: str | None = None,
    force: bool = False,
) -> Exported:
    """Write tables of the log to a new folder (or, for duckdb, a new file) `to`.

    format: one of FORMATS. tables: a name or names of the log's tables, all when None. run: only the rows of this
    run, with the texts they refer to, and no imported answers. force: replace an earlier export at that place, and
    nothing else.
    Raises LLMValidationError validation.export, validation.run; LLMError storage.*.
    """
    place = Path(to)
    with disk_full(place):
        _check(log, place, format, force=force)
    log.ingest()
    # Shortened: the whole of a long name would be longer than a name may be.
    part = place.with_name(f".{place.name[:40]}.part-{os.getpid()}-{os.urandom(4).hex()}")
    with disk_full(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with disk_full(place):
            if format != "duckdb":
                part.mkdir()
        with _snapshot(log) as con:
            wanted = _wanted(con, (tables,) if isinstance(tables, str) else tables, run)
            with disk_full(place):
                rows = _write(con, part, format, wanted, run)
        with disk_full(place):
            size = sum(file.stat().st_size for file in _files(part))
            _published(part, place, force=force)
    finally:
        _remove(part)
    return Exported(path=str(place), format=format, rows=rows, size_bytes=size, run=run)


# -- the request


def _check(log: Log, to: Path, form: str, *, force: bool) -> None:
    if form not in FORMATS:
        raise _refused(f"{form!r} is no format of an export", f"choose one of {', '.join(FORMATS)}")
    place = to.resolve()
    if not to.name or log.folder.resolve() in (place, *place.parents):
        raise _refused(f"an export cannot go to {to}, inside the log", "choose a place outside of the log folder")
    if place in log.folder.resolve().parents:
        raise _refused(f"an export cannot go to {to}: the log is inside", "choose a place outside of the log folder")
    _require_free(to, force=force)


def _require_free(to: Path, *, force: bool) -> None:
    if not (to.exists() or to.is_symlink()):
        return
    if not force:
        raise _refused(f"{to} is there already", "choose another place, or replace an earlier export with --force")
    if not (_is_export(to) or _is_export(to)):  # twice: another export may have come between two parts of a look
        raise _refused(f"{to} is no export of a log, and is not replaced", "choose another place")


def _refused(message: str, step: str) -> LLMValidationError:
    return LLMValidationError(message, code="validation.export", next_step=step)


def _is_export(to: Path) -> bool:
    """Whether nothing but an earlier export is at that place."""
    if to.is_symlink():
        return False
    if to.is_file():
        try:
            with duckdb.connect(str(to), read_only=True, config=dict(OFFLINE)) as con:
                return _is_database_of_export(con)
        except duckdb.Error:
            return False
    try:
        names = {file.name for file in to.iterdir()}
    except FileNotFoundError:  # another export is about to take its place
        return True
    except NotADirectoryError:  # a device, or a pipe
        return False
    try:
        manifest = json.loads((to / MANIFEST).read_text("utf-8"))
        return names == {MANIFEST, *(table["file"] for table in manifest["tables"].values())}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return not names


def _is_database_of_export(con: Connection) -> bool:
    """Whether the stamp of an export is in the database, and nothing that is in no export."""
    found = con.execute(
        "select schema_name, table_name from duckdb_tables() where not internal union all "
        "select schema_name, view_name from duckdb_views() where not internal"
    ).fetchall()
    stamp = con.execute(
        "select column_name from duckdb_columns() where schema_name = 'main' and table_name = 'exported' order by all"
    ).fetchall()
    known = {("main", name) for name in ("exported", "recorded", *COLUMNS)}
    return stamp == [("run",), ("schema_version",)] and known.issuperset(found)


def _wanted(con: Connection, tables: Sequence[str] | None, run: str | None) -> list[str]:
    """The tables to write, in the order of their names; only those that can have rows of the run."""
    known = stored_tables(con)
    if unknown := [table for table in tables or () if table not in known]:
        raise _refused(
            f"there is no table {', '.join(map(str, unknown))}; the log has {', '.join(known)}", "name some of these"
        )
    if run is None:
        return [table for table in known if tables is None or table in tables]
    if not has_run(con, run):
        raise no_run(run)
    of_run = [table for table in known if table == "texts" or "run_id" in stored_columns(con, table)]
    return [table for table in of_run if tables is None or table in tables]


# -- reading


@contextmanager
def _snapshot(log: Log) -> Iterator[Connection]:
    """A connection that reads the database and may write other files, under the folder's lock."""
    # What does not fit in memory goes beside the database, not to whatever folder is the current one.
    config: dict[str, str | bool | int | float | list[str]] = {**OFFLINE, "temp_directory": f"{log.database}.tmp"}
    # The lock keeps the database as it is: one moment for all tables.
    with locked(log.folder / LOCK, shared=True):
        try:
            with _one, duckdb.connect(":memory:", config=config) as con:
                con.execute(f"attach {text_of_sql(str(log.database))} as source (read_only)")
                con.execute("use source")
                yield con
        except duckdb.Error as error:
            raise unusable(log.database, error) from error


def _selected(con: Connection, table: str, form: str, run: str | None) -> str:
    """The query that gives the rows of a table as the format has them."""
    columns = ", ".join(
        f"{_shaped(name_of_sql(name), kind, form)} as {name_of_sql(name)}"
        for name, kind in stored_columns(con, table).items()
    )
    return f"select {columns} from log.{table} {_where(con, table, run)}"


def _where(con: Connection, table: str, run: str | None) -> str:
    if run is None:
        return ""
    one = f"run_id = {text_of_sql(run)}"
    if table != "texts":
        return f"where {one}"
    referring = [
        f"select {name} from log.{other} where {one}"
        for other in stored_tables(con)
        for name in stored_columns(con, other)
        if name in ("prompt_hash", "response_hash") and "run_id" in stored_columns(con, other)
    ]
    return f"where hash in ({' union all '.join(referring)})"


def _shaped(value: str, kind: str, form: str) -> str:
    if kind == "JSON":
        value, kind = f"cast({value} as varchar)", "VARCHAR"
    if form == "csv" and kind == "VARCHAR":
        begins = " or ".join(f"starts_with({value}, {_character(c)})" for c in (*FORMULA, "'"))
        return f"case when {begins} then chr(39) || {value} else {value} end"
    if form == "jsonl" and kind == "DOUBLE":
        return f"case when isfinite({value}) then to_json({value}) else to_json(cast({value} as varchar)) end"
    return value


def _character(c: str) -> str:
    return f"chr({ord(c)})"


# -- writing


def _write(con: Connection, part: Path, form: str, tables: Sequence[str], run: str | None) -> dict[str, int]:
    """Write the tables to `part` and bring them to the disk; rows by table."""
    rows = {}
    if form == "duckdb":
        con.execute(f"attach {text_of_sql(str(part))} as target")
        for table in tables:
            query = _selected(con, table, form, run)
            con.execute(f"create table target.main.{table} as {query}")
            rows[table] = _number(con, f"target.main.{table}")
        con.execute("create table target.main.exported(schema_version integer, run varchar)")
        con.execute("insert into target.main.exported values (?, ?)", [VERSION, run])
        con.execute("detach target")
        synced(part)
        return rows
    options = {
        "parquet": "format parquet, compression zstd",
        "csv": "format csv, header true, nullstr '', delimiter ',', quote '\"', escape '\"'",
        "jsonl": "format json, array false",
    }[form]
    described: dict[str, Any] = {}
    for table in tables:
        file = part / f"{table}.{form}"
        query = _selected(con, table, form, run)
        [(rows[table],)] = con.execute(f"copy ({query}) to {text_of_sql(str(file))} ({options})").fetchall()
        synced(file)
        types = {name: "VARCHAR" if kind == "JSON" else kind for name, kind in stored_columns(con, table).items()}
        described[table] = {"file": file.name, "rows": rows[table], "columns": types}
    manifest = {"format": form, "schema_version": VERSION, "run": run, "tables": described}
    (part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    synced(part / MANIFEST)
    synced(part)
    return rows


def _number(con: Connection, table: str) -> int:
    [(count,)] = con.execute(f"select count(*) from {table}").fetchall()
    return int(count)


def _published(part: Path, to: Path, *, force: bool) -> None:
    """Put what is written in its place; an earlier export stays whole until the new one can be seen."""
    old = part.with_name(f"{part.name}.old")
    for left in reversed(range(TURNS)):
        _require_free(to, force=force)  # something may have come there meanwhile
        with suppress(FileNotFoundError):  # another export has just put it aside
            if to.is_dir() or (to.exists() and part.is_dir()):
                to.replace(old)
        try:
            part.replace(to)
            break
        except OSError as error:
            if left and error.errno in TAKEN:
                _remove(old)
                continue
            if old.exists() and not to.exists():
                old.replace(to)
            raise
    _remove(old)
    synced(to.parent)


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.iterdir())


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        for path in (place, place.with_name(f"{place.name}.wal")):
            path.unlink(missing_ok=True)
