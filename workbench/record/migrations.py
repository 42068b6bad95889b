"""Bringing a log to the current schema."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import duckdb

from workbench.errors import LLMError
from workbench.record.ingest import undo
from workbench.record.schema import MIGRATIONS, VERSION


def stored_version(con: duckdb.DuckDBPyConnection, database: Path) -> int:
    """Schema version of the database, 0 for an empty one.

    Raises LLMError storage.schema for a database that is not a log, or a log of a newer version.
    """
    with suppress(duckdb.CatalogException, duckdb.BinderException):  # the usual case, without a look around
        row = con.execute("select max(version), max(applied_unix_ns) from log.schema_version").fetchone()
        if row and row[0] == VERSION:
            return VERSION
    stamp = con.execute(
        "select count(*) from duckdb_columns() where schema_name = 'log' and table_name = 'schema_version' "
        "and column_name in ('version', 'applied_unix_ns')"
    ).fetchone()
    things = con.execute(
        "select (select count(*) from duckdb_tables() where not internal) + (select count(*) from duckdb_views() "
        "where not internal) + (select count(*) from duckdb_schemas() where schema_name = 'log')"
    ).fetchone()
    ours = stamp is not None and stamp[0] == 2
    if not ours and things and things[0]:
        raise LLMError(
            f"{database} is a DuckDB database, but not a log of workbench",
            code="storage.schema",
            next_step="choose another folder with --log or WORKBENCH_LOG",
        )
    version = 0
    if ours:
        row = con.execute("select max(version) from log.schema_version").fetchone()
        version = int(row[0]) if row and row[0] is not None else 0
    if version > VERSION:
        raise LLMError(
            f"{database} has schema version {version}; this workbench knows versions up to {VERSION}",
            code="storage.schema",
            next_step="upgrade workbench, or choose another folder with --log",
        )
    return version


def is_current(con: duckdb.DuckDBPyConnection, database: Path) -> bool:
    """Whether the log needs no migration; raises as `stored_version` does."""
    return stored_version(con, database) == VERSION


def migrate(con: duckdb.DuckDBPyConnection, database: Path) -> None:
    """Bring the log to the current schema in one transaction; raises as `stored_version` does."""
    version = stored_version(con, database)
    if version == VERSION:
        return
    con.begin()
    try:
        for step in range(version, VERSION):
            con.execute(MIGRATIONS[step])
            con.execute("insert into log.schema_version values (?, ?)", [step + 1, time.time_ns()])
        con.commit()
    except BaseException:
        undo(con)
        raise
