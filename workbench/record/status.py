"""The state of a log folder, read without opening it for writing: nothing is made, moved or migrated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import duckdb

from workbench.canonical import clean_text
from workbench.errors import LLMError, LLMValidationError
from workbench.record.database import to_read
from workbench.record.lock import locked, try_lock
from workbench.record.migrations import stored_version
from workbench.record.schema import VERSION
from workbench.record.spooled import (
    SpoolState,
    database_bytes,
    lines_in,
    size_of,
    spool_files,
    spool_state,
    torn_files,
)

DATABASE = "workbench.duckdb"
LOCK = "workbench.lock"
LockState = Literal["free", "read", "written", "unknown"]
BOOKKEEPING = ("schema_version", "spool_files")
TIMES = {"runs": "start_unix_ns", "run_ends": "end_unix_ns", "calls": "start_unix_ns", "spans": "start_unix_ns"}
WAIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStatus:
    """What is in a log folder.

    exists: whether there is a folder. schema_version: of the database; 0 for none, None where it cannot be told.
    rows: by table, in the database. database_bytes: with what DuckDB keeps beside the file. waiting_rows: in the
    spool and not in the database yet (all rows of the spool, where the database cannot be read). torn_lines: set
    aside. newest_unix_ns: the newest time of a row in the database. lock: of the folder, at the moment of asking.
    problem: why the database cannot be read, or None.
    """

    folder: str
    exists: bool
    schema_version: int | None = 0
    known_version: int = VERSION
    rows: Mapping[str, int] = field(default_factory=dict)
    database_bytes: int = 0
    spool: tuple[SpoolState, ...] = ()
    torn_files: int = 0
    torn_lines: int = 0
    torn_bytes: int = 0
    newest_unix_ns: int | None = None
    lock: LockState = "free"
    problem: LLMError | None = None

    @property
    def spool_bytes(self) -> int:
        """Bytes of all spool files."""
        return sum(file.size_bytes for file in self.spool)

    @property
    def waiting_rows(self) -> int:
        """Rows in the spool that are not in the database."""
        return sum(file.waiting_rows for file in self.spool)

    @property
    def bad_lines(self) -> int:
        """Lines of the spool whose checksum fails and that were not set aside yet."""
        return sum(file.bad_lines for file in self.spool)

    def as_dict(self) -> dict[str, Any]:
        """The status as plain JSON values."""
        return {
            "folder": self.folder,
            "exists": self.exists,
            "schema_version": self.schema_version,
            "known_version": self.known_version,
            "rows": dict(self.rows),
            "database_bytes": self.database_bytes,
            "spool_bytes": self.spool_bytes,
            "waiting_rows": self.waiting_rows,
            "bad_lines": self.bad_lines,
            "spool": [file.as_dict() for file in self.spool],
            "torn_files": self.torn_files,
            "torn_lines": self.torn_lines,
            "torn_bytes": self.torn_bytes,
            "newest_unix_ns": self.newest_unix_ns,
            "lock": self.lock,
            "problem": None if self.problem is None else self.problem.as_dict(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """What the database says: its version, rows by table, positions in spool files, the newest time."""

    version: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    positions: Mapping[str, int] = field(default_factory=dict)
    newest_unix_ns: int | None = None


def read_status(folder: Path, *, wait_s: float = WAIT_S) -> LogStatus:
    """The state of the log in `folder`; a database that cannot be read is told in `problem`.

    wait_s: how long to wait for the folder's lock, in seconds; a compaction may hold it for longer.
    Raises LLMError storage.readonly where something else than a folder is at that place.
    """
    if not folder.is_dir():
        if folder.exists():
            raise LLMError(
                f"the log folder {folder} is a file",
                code="storage.readonly",
                next_step="choose another with --log or WORKBENCH_LOG",
            )
        return LogStatus(folder=str(folder), exists=False)
    lock = lock_state(folder)
    stored, problem = _Stored(), None
    spool: tuple[SpoolState, ...] = ()
    try:
        if (folder / DATABASE).exists():
            with locked(folder / LOCK, shared=True, made=False, timeout_s=wait_s):
                with to_read(folder / DATABASE) as con:
                    stored = _read(con, folder / DATABASE)
                # Under the lock still: nobody moves rows between the two looks.
                spool = _spool(folder, stored.positions)
        else:
            spool = _spool(folder, {})
    except LLMError as error:
        problem, spool = error, _spool(folder, {})
    torn = torn_files(folder)
    return LogStatus(
        folder=str(folder),
        exists=True,
        schema_version=None if problem else stored.version,
        rows=stored.rows,
        database_bytes=database_bytes(folder / DATABASE),
        spool=spool,
        torn_files=len(torn),
        torn_lines=sum(map(lines_in, torn)),
        torn_bytes=sum(map(size_of, torn)),
        newest_unix_ns=stored.newest_unix_ns,
        lock=lock,
        problem=problem,
    )


def require_log(folder: Path) -> Path:
    """The folder, when there is a log in it; LLMValidationError validation.log when there is none."""
    if not (folder / DATABASE).exists() and not (folder / "spool").is_dir():
        raise LLMValidationError(
            f"there is no log in {folder}",
            code="validation.log",
            next_step="name its folder with --log or WORKBENCH_LOG",
        )
    return folder


def lock_state(folder: Path) -> LockState:
    """Who holds the folder's lock now: nobody, readers, or one who moves rows or rewrites the database."""
    try:
        fd = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return "free"
    except OSError:
        return "unknown"
    try:
        if try_lock(fd):
            return "free"
        return "read" if try_lock(fd, shared=True) else "written"
    finally:
        os.close(fd)


def stored_tables(con: duckdb.DuckDBPyConnection) -> list[str]:
    """The tables of rows in the database, sorted; without those that the log keeps for itself."""
    found = con.execute(
        "select table_name from duckdb_tables() where schema_name = 'log' and database_name = current_database()"
    ).fetchall()
    return sorted(name for (name,) in found if name not in BOOKKEEPING)


def stored_columns(con: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """Name and type of the columns of a table, in their order."""
    found = con.execute(
        "select column_name, data_type from duckdb_columns() where schema_name = 'log' and table_name = ? "
        "and database_name = current_database() order by column_index",
        [table],
    ).fetchall()
    return dict(found)


def has_run(con: duckdb.DuckDBPyConnection, run: object) -> bool:
    """Whether the database has a run of this id; only a text that can be stored is one."""
    if not isinstance(run, str) or clean_text(run) != run:
        return False
    return bool(con.execute("select 1 from log.runs where run_id = ?", [run]).fetchall())


def no_run(*runs: object) -> LLMValidationError:
    """The error that tells of runs that the database does not have."""
    names = ", ".join(" ".join(repr(run).split())[:80] for run in runs)
    return LLMValidationError(
        f"there is no run {names} in the log",
        code="validation.run",
        next_step="list them: workbench sql 'select run_id, status from runs'",
    )


def positions_of(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """How many bytes of each spool file the database has."""
    return dict(con.execute("select name, max(read_bytes) from log.spool_files group by name").fetchall())


def _read(con: duckdb.DuckDBPyConnection, database: Path) -> _Stored:
    version = stored_version(con, database)
    if not version:
        return _Stored()
    rows, newest = {}, []
    for table in stored_tables(con):
        time = f"max({TIMES[table]})" if table in TIMES else "null"
        [(count, latest)] = con.execute(f"select count(*), {time} from log.{table}").fetchall()
        rows[table] = count
        newest += [latest] if latest is not None else []
    return _Stored(version=version, rows=rows, positions=positions_of(con), newest_unix_ns=max(newest, default=None))


def _spool(folder: Path, positions: Mapping[str, int]) -> tuple[SpoolState, ...]:
    states = (spool_state(path, positions.get(path.name, 0)) for path in spool_files(folder))
    return tuple(state for state in states if state is not None)
