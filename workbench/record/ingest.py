"""From spool files into the database, idempotently.

Rows and the position up to which a file is read are committed together, and rows whose key is there already are
left out: a crash anywhere repeats work, never rows. What cannot be stored is set aside, never guessed at.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from workbench.errors import LLMError
from workbench.record.lock import try_lock
from workbench.record.schema import COLUMNS, KEYS
from workbench.record.spool import SpoolFile, encode, read_spool

logger = logging.getLogger("workbench.record")


def ingest_file(con: duckdb.DuckDBPyConnection, path: Path, aside: Path) -> tuple[int, int | None]:
    """Move a spool file's new rows into the database; a file whose writer is dead is removed afterwards.

    aside: folder for lines that cannot be stored. Returns the number of rows read and the position reached, None
    when the file is gone. Raises LLMError storage.schema for a file of a newer workbench.
    """
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return 0, None
    try:
        alive = not try_lock(fd)
        total = 0
        while True:
            known = con.execute("select max(read_bytes) from log.spool_files where name = ?", [path.name])
            start = (known.fetchone() or (None,))[0] or 0
            found = read_spool(path, start, alive=alive)
            if found.end == start:
                break
            _store(con, found, partial(_set_aside, aside / f"{path.name}.{start:020d}"))
            total += found.count
        if alive:
            return total, found.end
        path.unlink(missing_ok=True)
        con.execute("delete from log.spool_files where name = ?", [path.name])
        return total, None
    finally:
        os.close(fd)


def _set_aside(file: Path, lines: Sequence[bytes]) -> None:
    """Keep the lines in a file named after where they stood, so that doing it again changes nothing."""
    if not lines or (file.exists() and file.read_bytes() == b"".join(lines)):
        return
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"".join(lines))
    logger.warning("%d lines that cannot be stored were set aside in %s; all whole rows are kept", len(lines), file)


def _store(con: duckdb.DuckDBPyConnection, found: SpoolFile, set_aside: Callable[[Sequence[bytes]], None]) -> None:
    """Insert the rows that are new and remember how far the file is read, in one transaction.

    Rows that no table can hold are set aside with the torn lines: they must not keep the others out.
    """
    unknown = [t for t in found.rows if t not in COLUMNS]
    if unknown:
        raise LLMError(
            f"{found.path.name} has rows for the table {unknown[0]!r}, which this workbench does not know",
            code="storage.schema",
            next_step="upgrade workbench: a newer one wrote this file",
        )
    batches = {
        table: [tuple(row.get(name) for name in COLUMNS[table]) for row in rows] for table, rows in found.rows.items()
    }
    # Set aside first: after the commit nothing would ask for these lines again.
    set_aside(found.torn)
    try:
        _insert(con, found, batches)
    except (duckdb.Error, ValueError, OverflowError):
        sieved = {table: _sieve(con, table, rows) for table, rows in batches.items()}
        refused = [encode([[table, *row]]) for table, (_, bad) in sieved.items() for row in bad]
        if not refused or any(rows and not sieved[table][0] and len(rows) > 1 for table, rows in batches.items()):
            raise  # nothing of a table fits: the table is the problem, and the rows stay where they are
        set_aside([*found.torn, *refused])
        _insert(con, found, {table: good for table, (good, _) in sieved.items()})


Rows = list[tuple[Any, ...]]


def _insert(con: duckdb.DuckDBPyConnection, found: SpoolFile, batches: Mapping[str, Rows]) -> None:
    con.begin()
    try:
        for table, rows in batches.items():
            con.execute(f"create or replace temp table stage as from log.{table} limit 0")
            with con.appender("stage") as appender:
                appender.append_rows(rows)
            same = " and ".join(f"t.{k} is not distinct from s.{k}" for k in KEYS[table])
            con.execute(
                f"insert into log.{table} select distinct on ({', '.join(KEYS[table])}) * from stage s "
                f"where not exists (from log.{table} t where {same})"
            )
        con.execute("drop table if exists stage")
        con.execute("delete from log.spool_files where name = ?", [found.path.name])
        con.execute("insert into log.spool_files values (?, ?)", [found.path.name, found.end])
        con.commit()
    except BaseException:
        undo(con)
        raise


def undo(con: duckdb.DuckDBPyConnection) -> None:
    """Roll back, also where a failed commit has ended the transaction already."""
    with suppress(duckdb.TransactionException):
        con.rollback()


def _sieve(con: duckdb.DuckDBPyConnection, table: str, rows: Rows) -> tuple[Rows, Rows]:
    """The rows that the table can hold, and those that it cannot, tried one by one."""
    good: Rows = []
    bad: Rows = []
    con.execute(f"create or replace temp table sieve as from log.{table} limit 0")
    for row in rows:
        try:
            with con.appender("sieve") as appender:
                appender.append_rows([row])
        except (duckdb.Error, ValueError, OverflowError):
            bad.append(row)
        else:
            good.append(row)
    con.execute("drop table sieve")
    return good, bad
