"""The log of a folder: written through the spool, read through DuckDB snapshots.

`Log.open(folder)` checks the folder before anything is paid for. `write` only appends to this process's spool
file. Whoever reads first moves what all processes have spooled into `workbench.duckdb`, under the folder's lock
and in one transaction per batch, and then reads from a read-only connection. No connection outlives a call.
Files in the folder that are not ours are left alone.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from workbench.canonical import clean_text
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import Fact
from workbench.record.database import DAMAGE, first_line, to_read, to_write, waited_for
from workbench.record.ingest import clear_unnamed, ingest_file
from workbench.record.lock import locked
from workbench.record.migrations import is_current, migrate
from workbench.record.rows import rows_of
from workbench.record.schema import COLUMNS
from workbench.record.spool import Durability, SpoolWriter, storage_error

if TYPE_CHECKING:
    import pandas as pd

KNOWN_TEXTS = 500_000
_logs: weakref.WeakSet[Log] = weakref.WeakSet()
_held = threading.local()  # folders of which this thread has a snapshot open


class Log:
    """One log folder, as seen by this process: a Sink to write to and a place to ask."""

    def __init__(self, folder: Path, durability: Durability) -> None:
        self.folder = folder
        self.database = folder / "workbench.duckdb"
        self.spool = folder / "spool"
        self._lock_file = folder / "workbench.lock"
        self._writer = SpoolWriter(self.spool, COLUMNS, durability)
        self._done: dict[str, int] = {}  # bytes of each spool file that are known to be in the database
        self._guard = threading.Lock()
        _logs.add(self)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, durability: Durability = "process") -> Log:
        """The log in `folder`, made when absent.

        Raises LLMError: storage.readonly, storage.corrupt, storage.schema (a newer version, or a database that
        is not a log), storage.locked.
        """
        if durability not in ("process", "disk"):
            raise LLMValidationError(
                f"durability {durability!r} is neither process nor disk",
                code="validation.config",
                next_step="use process (survives kill -9) or disk (survives a power cut)",
            )
        if not str(folder).strip():
            raise LLMValidationError(
                "the log folder has an empty name",
                code="validation.config",
                next_step="name a folder with --log or WORKBENCH_LOG, or leave it out for data/log",
            )
        path = Path(folder).expanduser()
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
        if not log._is_current():  # readers share the lock, so that a long query keeps nobody from opening
            with log._connection():
                pass
        return log

    def _is_current(self) -> bool:
        if not self.database.exists():
            return False
        with locked(self._lock_file, shared=True), to_read(self.database) as con:
            return is_current(con, self.database)

    # -- writing

    def write(self, *facts: Fact) -> None:
        """Acknowledge the facts: when this returns they are in the spool file."""
        while True:
            known = self._writer.texts
            rows: list[list[Any]] = []
            texts: list[str] = []
            for fact in facts:
                for row in rows_of(fact):
                    if row[0] == "texts":
                        if row[1] in known:
                            continue
                        texts.append(row[1])
                    rows.append(row)
            if self._writer.write(rows, texts=known):
                break
        _remember(known, texts)  # only now: until they are written, nobody may rely on them

    def knows(self, hashes: Iterable[str]) -> None:
        """Tell that these texts are stored for good, so that they are not spooled again."""
        _remember(self._writer.texts, hashes)

    def flush(self) -> None:
        """Write what a failing disk left in memory; LLMError when it still can't be written."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and let go of the spool file; the log may be opened again."""
        self._writer.close()

    # -- reading

    def rows(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows of a query over a snapshot that includes everything acknowledged before the call."""
        with self.snapshot() as con, _typed():
            return waited_for(con, lambda: _run(con, sql, params).fetchall())

    def records(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The same, each row a mapping by column name."""
        with self.snapshot() as con, _typed():
            names, rows = waited_for(con, lambda: _whole(_run(con, sql, params)))
            return [dict(zip(names, row, strict=True)) for row in rows]

    def table(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names, each once, and rows of a query."""
        with self.snapshot() as con, _typed():
            columns, rows = waited_for(con, lambda: _whole(_run(con, sql, None)))
        names: list[str] = []
        for column in columns:
            twice = sum(n == column or n.startswith(f"{column}_") for n in names)
            names.append(column if column not in names else f"{column}_{twice}")
        return names, rows

    def frame(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pd.DataFrame:
        """The same as a pandas frame."""
        with self.snapshot() as con, _typed():
            return waited_for(con, lambda: _run(con, sql, params).df())

    @contextmanager
    def snapshot(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A read-only connection without access to files, for the length of the body.

        Inside another snapshot of this thread nothing new is moved in: that one holds the folder's lock.
        """
        held: set[Path] = _held.__dict__.setdefault("folders", set())
        here = self.folder.resolve()
        nested = here in held
        if not nested:
            self.ingest()
        with locked(self._lock_file, shared=True) if not nested else nullcontext():
            held.add(here)
            try:
                with to_read(self.database) as con:
                    yield con
            finally:
                if not nested:
                    held.discard(here)

    # -- moving the spool into the database

    def ingest(self) -> int:
        """Move what is spooled into the database; the number of rows read. Cheap when nothing is new."""
        self._writer.flush()
        with self._guard:
            try:
                if not self._pending():
                    return 0
                with self._connection() as con:
                    clear_unnamed(self.spool)
                    return sum(self._ingested(con, path) for path in sorted(self.spool.glob("*.spool")))
            except OSError as error:
                raise storage_error(error, self.folder, 0) from error

    def _ingested(self, con: duckdb.DuckDBPyConnection, path: Path) -> int:
        rows, end = ingest_file(con, path, self.folder / "torn")
        if end is None:
            self._done.pop(path.name, None)
        else:
            self._done[path.name] = end
        return rows

    def _pending(self) -> bool:
        for path in self.spool.glob("*.spool"):
            try:
                if path.stat().st_size > self._done.get(path.name, 0) or path.name not in self._done:
                    return True
            except FileNotFoundError:  # another process has just finished it
                continue
        return False

    # -- connections

    @contextmanager
    def _connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The database, held for writing under the folder's lock for the length of the body."""
        with locked(self._lock_file), to_write(self.database) as con:
            migrate(con, self.database)  # others may have moved the file aside, or brought it to a newer version
            yield con


def _remember(known: set[str], texts: Iterable[str]) -> None:
    for text in texts:
        if len(known) >= KNOWN_TEXTS:
            known.clear()
        known.add(text)


def _after_fork() -> None:
    """In a forked child: nobody of the parent's threads is here to let go of its guards."""
    for log in _logs:
        log._guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def _typed() -> Iterator[None]:
    """Turn what DuckDB says of a query into the caller's error."""
    try:
        yield
    except duckdb.PermissionException as error:
        raise LLMValidationError(
            f"the query reaches outside the log: {first_line(error)}",
            code="security.sql",
            next_step="query the log's own tables; load other files with pandas or duckdb in your notebook",
        ) from error
    except duckdb.Error as error:
        if any(word in str(error) for word in DAMAGE):
            raise
        raise LLMValidationError(
            f"the query failed: {first_line(error)}",
            code="validation.sql",
            next_step="see the tables with: select table_name, column_name from duckdb_columns() where not internal",
        ) from error


def _whole(result: duckdb.DuckDBPyConnection) -> tuple[list[str], list[tuple[Any, ...]]]:
    return [column[0] for column in result.description or []], result.fetchall()


def _run(con: duckdb.DuckDBPyConnection, sql: str, params: Any) -> duckdb.DuckDBPyConnection:
    if not isinstance(sql, str):
        raise LLMValidationError(
            f"the query is a {type(sql).__name__}, not a text",
            code="validation.sql",
            next_step="write a select, for example: select * from runs",
        )
    if clean_text(sql) != sql:
        raise LLMValidationError(
            "the query holds half a character (a lone surrogate)",
            code="validation.sql",
            next_step="pass such a value as a parameter, or leave it out",
        )
    result = con.execute(sql, params)
    if result is None or result.description is None:
        raise LLMValidationError(
            "the query has no statement that gives rows",
            code="validation.sql",
            next_step="write a select, for example: select * from runs",
        )
    return result
