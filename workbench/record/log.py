"""The log of a folder: written through the spool, read through DuckDB snapshots.

`Log.open(folder)` checks the folder before anything is paid for. `write` only appends to this process's spool
file. Whoever reads first moves what all processes have spooled into `workbench.duckdb`, under the folder's lock
and in one transaction per batch, and then reads from a read-only connection. No connection outlives a call.
Files in the folder that are not ours are left alone.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from workbench.errors import LLMError, LLMValidationError
from workbench.facts import Fact
from workbench.record.lock import locked, try_lock
from workbench.record.rows import rows_of
from workbench.record.schema import COLUMNS, KEYS, MIGRATIONS, VERSION
from workbench.record.spool import Durability, SpoolFile, SpoolWriter, read_spool

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("workbench.record")
OFFLINE = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
SEALED = {**OFFLINE, "enable_external_access": "false", "lock_configuration": "true"}
KNOWN_TEXTS = 500_000


class Log:
    """One log folder, as seen by this process: a Sink to write to and a place to ask."""

    def __init__(self, folder: Path, durability: Durability) -> None:
        self.folder = folder
        self.database = folder / "workbench.duckdb"
        self.spool = folder / "spool"
        self._lock_file = folder / "workbench.lock"
        self._writer = SpoolWriter(self.spool, COLUMNS, durability)
        self._known_texts: set[str] = set()
        self._done: dict[str, int] = {}  # bytes of each spool file that are known to be in the database
        self._guard = threading.Lock()

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, durability: Durability = "process") -> Log:
        """The log in `folder`, made when absent.

        Raises LLMError: storage.readonly, storage.corrupt, storage.schema (a newer version, or a database that
        is not a log), storage.locked.
        """
        path = Path(folder)
        try:
            (path / "spool").mkdir(parents=True, exist_ok=True)
            probe = path / "spool" / f"probe-{os.getpid()}-{os.urandom(4).hex()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise LLMError(
                f"the log folder {path} cannot be written: {error.strerror or error}",
                code="storage.readonly",
                next_step="make the folder writable, or choose another with --log or WORKBENCH_LOG",
            ) from error
        log = cls(path, durability)
        with log._connection() as con:
            migrate(con, log.database)
        return log

    # -- writing

    def write(self, *facts: Fact) -> None:
        """Acknowledge the facts: when this returns they are in the spool file."""
        rows: list[list[Any]] = []
        for fact in facts:
            for row in rows_of(fact):
                if row[0] == "texts":
                    if row[1] in self._known_texts:
                        continue
                    self._remember(row[1])
                rows.append(row)
        self._writer.write(rows)

    def _remember(self, text: str) -> None:
        if len(self._known_texts) >= KNOWN_TEXTS:
            self._known_texts.clear()
        self._known_texts.add(text)

    def knows(self, hashes: Iterable[str]) -> None:
        """Tell that these texts are stored already, so that they are not spooled again."""
        for text in hashes:
            self._remember(text)

    def flush(self) -> None:
        """Write what a failing disk left in memory; LLMError when it still can't be written."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and let go of the spool file; the log may be opened again."""
        self._writer.close()

    # -- reading

    def rows(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows of a query over a snapshot that includes everything acknowledged before the call."""
        with self.snapshot() as con:
            return _run(con, sql, params).fetchall()

    def records(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The same, each row a mapping by column name."""
        with self.snapshot() as con:
            result = _run(con, sql, params)
            names = [d[0] for d in result.description or []]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def table(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names and rows of a query."""
        with self.snapshot() as con:
            result = _run(con, sql, None)
            return [d[0] for d in result.description or []], result.fetchall()

    def frame(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pd.DataFrame:
        """The same as a pandas frame."""
        with self.snapshot() as con:
            return _run(con, sql, params).df()

    @contextmanager
    def snapshot(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A read-only connection without access to files, for the length of the body."""
        self.ingest()
        with locked(self._lock_file, shared=True):
            con = self._connect(read_only=True, config=SEALED)
            try:
                yield con
            finally:
                con.close()

    # -- moving the spool into the database

    def ingest(self) -> int:
        """Move what is spooled into the database; the number of rows read. Cheap when nothing is new."""
        self._writer.flush()
        with self._guard:
            if not self._pending():
                return 0
            with self._connection() as con:
                return sum(self._ingest_file(con, path) for path in sorted(self.spool.glob("*.spool")))

    def _pending(self) -> bool:
        for path in self.spool.glob("*.spool"):
            try:
                if path.stat().st_size > self._done.get(path.name, 0) or path.name not in self._done:
                    return True
            except FileNotFoundError:  # another process has just finished it
                continue
        return False

    def _ingest_file(self, con: duckdb.DuckDBPyConnection, path: Path) -> int:
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return 0
        try:
            alive = not try_lock(fd)
            total = 0
            while True:
                known = con.execute("select max(read_bytes) from log.spool_files where name = ?", [path.name])
                start = (known.fetchone() or (None,))[0] or 0
                found = read_spool(path, start, alive=alive)
                if found.end == start and not found.torn:
                    break
                self._set_aside(found)
                _store(con, found, start)
                total += found.count
            self._done[path.name] = found.end
            if not alive:
                path.unlink(missing_ok=True)
                con.execute("delete from log.spool_files where name = ?", [path.name])
                self._done.pop(path.name, None)
            return total
        finally:
            os.close(fd)

    def _set_aside(self, found: SpoolFile) -> None:
        if not found.torn:
            return
        aside = self.folder / "torn"
        aside.mkdir(exist_ok=True)
        with (aside / found.path.name).open("ab") as file:
            file.writelines(found.torn)
        logger.warning(
            "%d torn lines of %s were set aside in %s; all whole rows are kept", len(found.torn), found.path.name, aside
        )

    # -- connections

    @contextmanager
    def _connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The database, held for writing under the folder's lock for the length of the body."""
        with locked(self._lock_file):
            con = self._connect(read_only=False, config=OFFLINE)
            try:
                yield con
            finally:
                con.close()

    def _connect(self, *, read_only: bool, config: Mapping[str, str]) -> duckdb.DuckDBPyConnection:
        try:
            return duckdb.connect(str(self.database), read_only=read_only, config=dict(config))
        except duckdb.Error as error:
            holder = re.search(r"PID (\d+)", str(error))
            if holder:
                raise LLMError(
                    f"{self.database.name} is held open by process {holder[1]}, outside the log's own lock",
                    code="storage.locked",
                    retryable=True,
                    next_step=f"close the database in process {holder[1]}; rows go on collecting in the spool",
                ) from error
            raise LLMError(
                f"{self.database} cannot be opened as a DuckDB database",
                code="storage.corrupt",
                next_step="move the file aside and open the log again; spooled rows are kept",
            ) from error


def migrate(con: duckdb.DuckDBPyConnection, database: Path) -> None:
    """Bring the log to the current schema in one transaction."""
    tables = {r[0] for r in con.execute("select table_name from duckdb_tables() where schema_name = 'log'").fetchall()}
    foreign = con.execute("select count(*) from duckdb_tables() where schema_name <> 'log'").fetchone()
    if "schema_version" not in tables and (tables or (foreign and foreign[0])):
        raise LLMError(
            f"{database} is a DuckDB database, but not a log of workbench",
            code="storage.schema",
            next_step="choose another folder with --log or WORKBENCH_LOG",
        )
    version = 0
    if tables:
        row = con.execute("select max(version) from log.schema_version").fetchone()
        version = int(row[0]) if row and row[0] is not None else 0
    if version > VERSION:
        raise LLMError(
            f"{database} has schema version {version}; this workbench knows versions up to {VERSION}",
            code="storage.schema",
            next_step="upgrade workbench, or choose another folder with --log",
        )
    if version == VERSION:
        return
    con.begin()
    try:
        for step in range(version, VERSION):
            con.execute(MIGRATIONS[step])
            con.execute("insert into log.schema_version values (?, ?)", [step + 1, time.time_ns()])
        con.commit()
    except BaseException:
        con.rollback()
        raise


def _store(con: duckdb.DuckDBPyConnection, found: SpoolFile, start: int) -> None:
    """Insert the rows that are new and remember how far the file is read, in one transaction."""
    con.begin()
    try:
        for table, rows in found.rows.items():
            names = COLUMNS[table]
            con.execute(f"create or replace temp table stage as from log.{table} limit 0")
            with con.appender("stage") as appender:
                appender.append_rows([tuple(row.get(name) for name in names) for row in rows])
            same = " and ".join(f"t.{k} = s.{k}" for k in KEYS[table])
            con.execute(
                f"insert into log.{table} select distinct on ({', '.join(KEYS[table])}) * from stage s "
                f"where not exists (from log.{table} t where {same})"
            )
        con.execute("drop table if exists stage")
        if start:
            con.execute("update log.spool_files set read_bytes = ? where name = ?", [found.end, found.path.name])
        else:
            con.execute("insert into log.spool_files values (?, ?)", [found.path.name, found.end])
        con.commit()
    except BaseException:
        con.rollback()
        raise


def _run(con: duckdb.DuckDBPyConnection, sql: str, params: Any) -> duckdb.DuckDBPyConnection:
    try:
        return con.execute(sql, params)
    except duckdb.PermissionException as error:
        raise LLMValidationError(
            f"the query reaches outside the log: {_first_line(error)}",
            code="security.sql",
            next_step="query the log's own tables; load other files with pandas or duckdb in your notebook",
        ) from error
    except duckdb.Error as error:
        raise LLMValidationError(
            f"the query failed: {_first_line(error)}",
            code="validation.sql",
            next_step="see the tables with: select table_name, column_name from duckdb_columns()",
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
