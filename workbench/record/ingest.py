"""From spool files into the database, idempotently.

Rows and the position up to which a file is read are committed together, and rows whose key is there already are
left out: a crash anywhere repeats work, never rows. What cannot be stored is set aside, never guessed at.
"""

from __future__ import annotations

import logging
import os
import re
import time
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

TIMES = {"calls": "start_unix_ns", "spans": "start_unix_ns"}  # when a row with a name of its own was made
UNNAMED_NS = 60_000_000_000  # a writer names its file at once
FEW = 64
_UNNAMED = re.compile(r"(\d{20})-\d+-[0-9a-f]{8}\.new")
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


def clear_unnamed(spool: Path) -> None:
    """Remove files that a writer was killed over before it could name them: there is nothing in them."""
    for path in spool.glob("*.new"):
        made = _UNNAMED.fullmatch(path.name)
        if made is None or time.time_ns() - int(made[1]) < UNNAMED_NS:
            continue
        with suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDWR)
            try:
                if try_lock(fd):
                    path.unlink()
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
    batches = {table: found.values(table, COLUMNS[table]) for table in found.rows}
    # Set aside first: after the commit nothing would ask for these lines again.
    set_aside(found.torn)
    try:
        _insert(con, found, batches)
    except (duckdb.Error, ValueError, OverflowError):
        sieved = {table: _sieve(con, table, rows) for table, rows in batches.items()}
        refused = [encode([[table, *row]]) for table, (_, bad) in sieved.items() for row in bad]
        if not refused:
            raise  # the table is the problem, and the rows stay where they are
        set_aside([*found.torn, *refused])
        _insert(con, found, {table: good for table, (good, _) in sieved.items() if good})


Rows = list[tuple[Any, ...]]


def _insert(con: duckdb.DuckDBPyConnection, found: SpoolFile, batches: Mapping[str, Rows]) -> None:
    """In one transaction; a second time, looking at every key, where a row seems to be there already."""
    for put in (_put, _put_new):
        con.begin()
        try:
            if not all(put(con, table, rows) for table, rows in batches.items()):
                con.rollback()
                continue
            con.execute("delete from log.spool_files where name = ?", [found.path.name])
            con.execute("insert into log.spool_files values (?, ?)", [found.path.name, found.end])
            con.commit()
            return
        except BaseException:
            undo(con)
            raise


def _put(con: duckdb.DuckDBPyConnection, table: str, rows: Rows) -> bool:
    """Whether the rows were put into the table, each of them new, at the cost of little more than appending them."""
    if table == "texts":
        return _put_texts(con, rows)
    moment = TIMES.get(table)
    if moment is None:
        return _put_new(con, table, rows)
    at = COLUMNS[table].index(moment)
    moments = [row[at] for row in rows if isinstance(row[at], int)]
    if len(moments) < len(rows):
        return False
    with con.appender(f"log.{table}") as appender:
        appender.append_rows(rows)
    # A row that was there has the same moment: only what is about as new is looked through.
    key, _ = KEYS[table]
    ((once,),) = con.execute(
        f"select count(*) = count(distinct {key}) from log.{table} where {moment} between ? and ?",
        [min(moments), max(moments)],
    ).fetchall()
    return bool(once)


def _put_texts(con: duckdb.DuckDBPyConnection, rows: Rows) -> bool:
    """The same for texts, of which one that is there already is the usual thing."""
    new = {text: row for row in rows if isinstance(text := row[0], str)}
    if len(new) < len(rows):
        return False
    known = con.execute("select hash from log.texts where hash in (select unnest(?::varchar[]))", [list(new)])
    for (text,) in known.fetchall():
        del new[text]
    if new:
        with con.appender("log.texts") as appender:
            appender.append_rows(list(new.values()))
    return True


def _put_new(con: duckdb.DuckDBPyConnection, table: str, rows: Rows) -> bool:
    """True, when those of the rows are in the table whose keys were not."""
    con.execute(f"create or replace temp table stage as from log.{table} limit 0")
    with con.appender("stage") as appender:
        appender.append_rows(rows)
    # The database compares keys as it stores them. Nearly always each comes once, and looking is cheap.
    keys = ", ".join(KEYS[table])
    ((twice,),) = con.execute(f"select count(*) > count(distinct ({keys})) from stage").fetchall()
    once = f"distinct on ({keys})" if twice else ""
    same = " and ".join(f"t.{k} is not distinct from s.{k}" for k in KEYS[table])
    runs = {row[0] for row in rows} if KEYS[table][0] == COLUMNS[table][0] == "run_id" else set()
    if runs and len(runs) <= FEW and all(isinstance(run, str) for run in runs):  # other runs need no look
        same += " and t.run_id in (select unnest(?::varchar[]))"
    con.execute(
        f"insert into log.{table} select {once} * from stage s where not exists (from log.{table} t where {same})",
        [list(runs)] if "?" in same else None,
    )
    con.execute("drop table stage")
    return True


def undo(con: duckdb.DuckDBPyConnection) -> None:
    """Roll back, also where a failed commit has ended the transaction already."""
    with suppress(duckdb.TransactionException):
        con.rollback()


def _sieve(con: duckdb.DuckDBPyConnection, table: str, rows: Rows) -> tuple[Rows, Rows]:
    """The rows that the table can hold, and those that it cannot, found by halving; all, when it holds none at all."""
    con.execute(f"create or replace temp table sieve as from log.{table} limit 0")
    good: Rows = []
    bad: Rows = []
    todo = [rows] if _fits(con, [(None,) * len(COLUMNS[table])]) else []
    while todo:
        part = todo.pop()
        if _fits(con, part):
            good += part
        elif len(part) == 1:
            bad += part
        else:
            todo += [part[len(part) // 2 :], part[: len(part) // 2]]
    con.execute("drop table sieve")
    return (good, bad) if good or bad else (rows, [])


def _fits(con: duckdb.DuckDBPyConnection, rows: Rows) -> bool:
    try:
        with con.appender("sieve") as appender:
            appender.append_rows(rows)
    except (duckdb.Error, ValueError, OverflowError):
        return False
    return True
