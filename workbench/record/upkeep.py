"""Keeping a log small and readable by others: compaction, and what every such change has in common.

A file is always written beside the one it replaces, brought to the disk, and renamed under the folder's lock: whoever
is killed in between leaves the old file whole, and a leftover that the next one removes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from workbench.errors import LLMError, LLMValidationError
from workbench.record.database import first_line, to_write
from workbench.record.lock import locked
from workbench.record.log import Log
from workbench.record.migrations import migrate
from workbench.record.spooled import database_bytes, write_ahead_files
from workbench.record.status import LOCK

Connection = duckdb.DuckDBPyConnection
FRESH = ".compact"
SECONDS: Mapping[str, float] = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
BYTES: Mapping[str, int] = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What a compaction did: bytes of the database before and after, and its rows, which stayed as they were."""

    folder: str
    before_bytes: int
    after_bytes: int
    rows: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The compaction as plain JSON values."""
        return {**asdict(self), "rows": dict(self.rows)}


def compact(log: Log) -> Compacted:
    """Rewrite the database without its holes; what is spooled stays in the spool.

    A checksum over every table is compared before the new file takes the old one's place. Needs as much free disk
    space as the database has rows. Raises LLMError: storage.full, storage.corrupt, storage.locked, storage.changed.
    """
    database = log.database
    fresh = database.with_name(database.name + FRESH)
    with locked(log.folder / LOCK):
        before_bytes = database_bytes(database)
        try:
            _remove(fresh)
            with to_write(database) as con:
                migrate(con, database)
                con.execute("checkpoint")
                rows = _copied(con, fresh)
            if write_ahead_files(database) or write_ahead_files(fresh):
                # It would be replayed on the new file, to which it does not belong.
                raise LLMError(
                    f"{database.name} still has rows written ahead, so that it cannot be replaced",
                    code="storage.locked",
                    retryable=True,
                    next_step="end other programs that use the database, and try again",
                )
            synced(fresh)
            fresh.replace(database)
            synced(log.folder)
        finally:
            _remove(fresh)
        return Compacted(
            folder=str(log.folder),
            before_bytes=before_bytes,
            after_bytes=database_bytes(database),
            rows={name: print_[0] for name, print_ in rows.items()},
        )


Print = tuple[int, int, int]


def _copied(con: Connection, fresh: Path) -> dict[str, Print]:
    """Copy the current database to a new file; the fingerprints of its tables, which are the same in both."""
    [(here,)] = con.execute("select current_database()").fetchall()
    con.execute(f"attach {text_of_sql(str(fresh))} as fresh")
    try:
        con.execute(f"copy from database {here} to fresh")
        before = fingerprints(con)
        con.execute("use fresh")
        try:
            after = fingerprints(con)
        finally:
            con.execute(f"use {here}")
    finally:
        con.execute("detach fresh")
    if before != after:
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        raise LLMError(
            f"the rewritten database differs in {', '.join(changed)}, and was thrown away",
            code="storage.changed",
            next_step="run workbench log verify; the log is as it was",
        )
    return {name: print_ for name, print_ in before.items() if name.startswith("log.")}


def fingerprints(con: Connection) -> dict[str, Print]:
    """Number of rows and two checksums over every value of every table, by schema and name; no order matters."""
    found = con.execute(
        "select schema_name, table_name from duckdb_tables() where not internal and not temporary "
        "and database_name = current_database() order by all"
    ).fetchall()
    prints = {}
    for schema, table in found:
        name = f"{name_of_sql(schema)}.{name_of_sql(table)}"
        [(rows, xor, total)] = con.execute(
            f"select count(*), coalesce(bit_xor(hash(t)), 0), coalesce(sum(hash(t)), 0) from {name} t"
        ).fetchall()
        prints[f"{schema}.{table}"] = (int(rows), int(xor), int(total))
    return prints


def _remove(fresh: Path) -> None:
    for path in (fresh, *write_ahead_files(fresh)):
        path.unlink(missing_ok=True)


def synced(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    if path.is_dir() and os.name == "nt":  # pragma: no cover - a folder has no such call there
        return
    fd = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def text_of_sql(text: str) -> str:
    """The text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def name_of_sql(name: str) -> str:
    """The name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def seconds_of(text: str) -> float:
    """Seconds of an age such as 90d, 12h or 30m (s, m, h, d, w); LLMValidationError validation.age otherwise."""
    number, unit = _measured(text)
    if number is None or unit not in SECONDS:
        raise LLMValidationError(
            f"{text!r} is no age", code="validation.age", next_step="write a number and s, m, h, d or w: 90d"
        )
    return number * SECONDS[unit]


def bytes_of(text: str) -> int:
    """Bytes of a size such as 5GB, 500MB or 2GiB; LLMValidationError validation.size otherwise."""
    number, unit = _measured(text)
    if number is None or unit not in BYTES:  # a bare number would be bytes, and so remove nearly everything
        raise LLMValidationError(
            f"{text!r} is no size", code="validation.size", next_step="write a number and B, kB, MB, GB, TB or GiB: 5GB"
        )
    return int(number * BYTES[unit])


def _measured(text: str) -> tuple[float | None, str]:
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([a-z]*)", text.strip().lower(), flags=re.ASCII)
    return (float(found[1]), found[2]) if found else (None, "")


@contextmanager
def disk_full(place: Path) -> Iterator[None]:
    """Turn what DuckDB and the system say of a full or closed disk at `place` into storage errors of that place."""
    try:
        yield
    except (duckdb.IOException, duckdb.TransactionException, OSError) as error:
        reason = first_line(error)
        # What is written is called target. That its last blocks could not be is all DuckDB says, and not why.
        full = any(words in reason for words in ("No space left", "Could not write", "CHECKPOINT during DETACH"))
        if isinstance(error, duckdb.Error) and not full and not any(n in reason for n in (place.name, "'target'")):
            raise  # it is about the file that is read
        raise LLMError(
            f"{place} cannot be written: {reason}",
            code="storage.full" if full else "storage.readonly",
            retryable=full,
            next_step="free disk space and try again" if full else "choose another place with --to",
        ) from error
