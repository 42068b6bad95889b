"""Retention: whole runs, the oldest first, and the texts that nothing refers to any more.

A run goes with everything logged under its id; one that has not ended goes only when it is named. Imported recordings
and rows of no run stay. All of it happens in one transaction under the folder's lock, after what is spooled was moved
in, so that no row that is on its way loses its text.

A process does not write a text again that its own spool file has already: later rows refer to it by hash. So a text
stays as long as it is in any spool file that is there, and a spool file is there as long as its writer lives.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from workbench.errors import LLMValidationError
from workbench.record.ingest import ingest_file, undo
from workbench.record.lock import CLAIMS
from workbench.record.log import Log
from workbench.record.spooled import columns_of, database_bytes, lines_of, rows_in, spool_files, torn_files
from workbench.record.status import has_run, no_run, stored_columns, stored_tables
from workbench.record.upkeep import compact

Connection = duckdb.DuckDBPyConnection
ROUNDS = 20  # of removal and compaction; nearly always one or two are all
HEADER_BYTES = 3 * 4096  # of a database, before its blocks
EMPTY_BYTES = HEADER_BYTES + 2 * 2**18  # of a log without a row, whose tables and views take two blocks
HASHES = ("prompt_hash", "response_hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What may go: at least one limit, or runs by name, or else only texts without a row.

    older_than_s: runs that ended longer ago than this many seconds, and such files of lines set aside. max_bytes:
    the oldest runs that ended, until the database is this small (the spool, which writers empty by themselves, does
    not count). runs: these, whether they ended or not.
    """

    older_than_s: float | None = None
    max_bytes: int | None = None
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was removed, or would be.

    runs: the oldest first. rows: by table. texts: of these rows, how many texts. torn_files: files of lines set
    aside. value_bytes: of what was removed, before compression. before_bytes, after_bytes: of the database; after_bytes
    is an estimate in a dry run. kept_bytes: how far it is above max_bytes, 0 otherwise. kept_texts: texts without
    a row that stay, because the process that wrote them may refer to them.
    """

    folder: str
    dry_run: bool
    runs: tuple[str, ...]
    rows: Mapping[str, int]
    texts: int
    kept_texts: int
    value_bytes: int
    torn_files: tuple[str, ...]
    before_bytes: int
    after_bytes: int
    kept_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """What was removed, as plain JSON values."""
        return {**asdict(self), "runs": list(self.runs), "rows": dict(self.rows), "torn_files": list(self.torn_files)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Removed:
    """What one transaction removed."""

    runs: tuple[str, ...] = ()
    rows: Mapping[str, int]
    texts: int = 0
    kept_texts: int = 0
    value_bytes: int = 0


def collect(log: Log, retention: Retention, *, dry_run: bool = False, now_unix_s: float | None = None) -> Collected:
    """Remove what the retention lets go, and give its disk space back.

    now_unix_s: the time that ages are counted to, in seconds; the clock's when None.
    Raises LLMValidationError validation.run for a run that is not there, validation.retention for a limit below 0;
    LLMError storage.*.
    """
    _check(retention)
    if isinstance(retention.runs, str):  # one run, and not one of each letter
        retention = replace(retention, runs=(retention.runs,))
    now_s = time.time() if now_unix_s is None else now_unix_s
    log.ingest()
    before_bytes = database_bytes(log.database)
    aside = _old_files(log.folder, retention, now_s)
    if dry_run:
        with log.snapshot() as con:
            used_bytes, ratio = _used_bytes(con), _ratio(con)
            removed = _sweep(
                con, log.folder, _chosen(con, retention, _under_way(log.folder), now_s=now_s), delete=False
            )
        after_bytes = max(EMPTY_BYTES, used_bytes - int(removed.value_bytes * ratio))
    else:
        for path in aside:
            path.unlink(missing_ok=True)
        removed = _rounds(log, retention, now_s)
        after_bytes = database_bytes(log.database)
    return Collected(
        folder=str(log.folder),
        dry_run=dry_run,
        runs=removed.runs,
        rows=removed.rows,
        texts=removed.texts,
        kept_texts=removed.kept_texts,
        value_bytes=removed.value_bytes,
        torn_files=tuple(path.name for path in aside),
        before_bytes=before_bytes,
        after_bytes=after_bytes,
        kept_bytes=0 if retention.max_bytes is None else max(0, after_bytes - retention.max_bytes),
    )


def _check(retention: Retention) -> None:
    for name in ("older_than_s", "max_bytes"):
        value = getattr(retention, name)
        if value is None or (isinstance(value, int | float) and value >= 0):
            continue
        raise LLMValidationError(
            f"{name} is {value!r}, below 0 or no number",
            code="validation.retention",
            next_step="give a number of seconds or bytes, such as 90 * 86400",
        )


def _old_files(folder: Path, retention: Retention, now_s: float) -> list[Path]:
    if retention.older_than_s is None:
        return []
    old = []
    for path in torn_files(folder):
        with suppress(FileNotFoundError):  # another one has just removed it
            if now_s - path.stat().st_mtime > retention.older_than_s:
                old.append(path)
    return old


def _rounds(log: Log, retention: Retention, now_s: float) -> _Removed:
    """Remove and compact, until the database is small enough or nothing is left that may go.

    How small a database gets by losing rows is known only afterwards, and a small one is mostly empty blocks: each
    round goes by an estimate, and a later one asks for twice as much.
    """
    total = _Removed(rows={})
    retention, limit = replace(retention, max_bytes=None), retention.max_bytes
    for n in range(ROUNDS):
        size_bytes = database_bytes(log.database) if n else None  # of a file without holes, from the second round on
        removed = _round(log, retention, now_s, eager=2.0 ** max(0, n - 1), size_bytes=size_bytes)
        total = _together(total, removed)
        if removed.runs or removed.texts or (n == 0 and _is_above(log, limit)):
            compact(log)  # before the first run goes for its size: holes may be all there is too much
        if not _is_above(log, limit) or (n > 0 and not removed.runs):
            break
        retention = Retention(max_bytes=limit)
    return total


def _is_above(log: Log, limit: int | None) -> bool:
    return limit is not None and database_bytes(log.database) > limit


def _round(
    log: Log, retention: Retention, now_s: float, *, eager: float = 1.0, size_bytes: int | None = None
) -> _Removed:
    """Remove in one transaction, after moving in what is spooled."""
    with log._connection() as con:
        for path in spool_files(log.folder):
            ingest_file(con, path, log.folder / "torn")
        con.execute("checkpoint")  # what is written ahead is in no block yet
        con.begin()
        try:
            busy = _under_way(log.folder)
            runs = _chosen(con, retention, busy, now_s=now_s, eager=eager, size_bytes=size_bytes)
            removed = _sweep(con, log.folder, runs, delete=True)
            con.commit()
        except BaseException:
            undo(con)
            raise
    return removed


def _together(one: _Removed, other: _Removed) -> _Removed:
    names = sorted(one.rows.keys() | other.rows.keys())
    return _Removed(
        runs=one.runs + other.runs,
        rows={name: one.rows.get(name, 0) + other.rows.get(name, 0) for name in names},
        texts=one.texts + other.texts,
        kept_texts=other.kept_texts,
        value_bytes=one.value_bytes + other.value_bytes,
    )


# -- which runs


def _chosen(
    con: Connection,
    retention: Retention,
    busy: Collection[str],
    *,
    now_s: float,
    eager: float = 1.0,
    size_bytes: int | None = None,
) -> tuple[str, ...]:
    """The runs that go, the oldest first.

    busy: runs that stay unless they are named. eager: by how much more than the estimate, to get below the size.
    size_bytes: of the database, where it is known better than from its blocks.
    """
    if missing := [run for run in retention.runs if not has_run(con, run)]:
        raise no_run(*missing)
    ended = [(run, end) for run, end in _ended(con) if run not in busy]
    chosen = dict.fromkeys(retention.runs)
    if retention.older_than_s is not None:
        limit_ns = (now_s - retention.older_than_s) * 1e9
        chosen |= dict.fromkeys(run for run, end in ended if end < limit_ns)
    size_bytes = _used_bytes(con) if size_bytes is None else size_bytes
    if retention.max_bytes is not None and (excess := size_bytes - retention.max_bytes) > 0:
        ratio, sizes = _ratio(con), _bytes_of_runs(con)
        left = excess * eager - sum(sizes.get(run, 0) for run in chosen) * ratio
        for run, _ in ended:
            if left <= 0:
                break
            if run not in chosen:
                chosen[run] = None
                left -= sizes.get(run, 0) * ratio
    order = dict(ended)
    return tuple(sorted(chosen, key=lambda run: (order.get(run, 0), run)))


def _under_way(folder: Path) -> set[str]:
    """Runs that somebody runs, or ran when he died and has not been told of yet."""
    found = set()
    for path in (folder / CLAIMS).glob("*.lock"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # gone meanwhile, or not written yet
            found.add(str(json.loads(path.read_text("utf-8"))["run_id"]))
    return found


def _ended(con: Connection) -> list[tuple[str, int]]:
    """Runs that ended and were not taken up again, with their newest end in Unix nanoseconds, the oldest first."""
    return con.execute(
        "select run_id, ended from (select run_id, max(end_unix_ns) as ended from log.run_ends group by run_id) "
        "left join (select run_id, max(start_unix_ns) as called from log.calls group by run_id) using (run_id) "
        "where run_id in (select run_id from log.runs) and coalesce(called <= ended, true) order by ended, run_id"
    ).fetchall()


def _used_bytes(con: Connection) -> int:
    """Bytes of the database without its holes."""
    found = con.execute(
        "select used_blocks * block_size from pragma_database_size() where database_name = current_database()"
    ).fetchall()
    return int(found[0][0]) + HEADER_BYTES


def _ratio(con: Connection) -> float:
    """Bytes of the database for each byte of its values: what compression makes of them."""
    values = sum(_bytes_in(con, table, "true") for table in stored_tables(con))
    return _used_bytes(con) / values if values else 0.0


def _bytes_of_runs(con: Connection) -> dict[str, int]:
    """Bytes of the values of each run, with those of the texts that only its rows refer to."""
    sizes: dict[str, int] = {}
    for table in _of_runs(con):
        found = con.execute(f"select run_id, {_width(con, table)} from log.{table} group by run_id").fetchall()
        for run, size in found:
            sizes[run] = sizes.get(run, 0) + int(size)
    referring = " union all ".join(
        f"select {_run_of(con, table)} as run_id, {column} as hash from log.{table}"
        for table, column in _referring(con)
    )
    alone = con.execute(
        f"select run_id, sum({_width(con, 'texts', each=True)}) from log.texts join (select hash, any_value(run_id) "
        f"as run_id from ({referring}) group by hash having count(distinct coalesce(run_id, '')) = 1) using (hash) "
        "where run_id is not null group by run_id"
    ).fetchall()
    for run, size in alone:
        sizes[run] = sizes.get(run, 0) + int(size)
    return sizes


def _run_of(con: Connection, table: str) -> str:
    return "run_id" if "run_id" in stored_columns(con, table) else "null"


def _of_runs(con: Connection) -> list[str]:
    return [table for table in stored_tables(con) if "run_id" in stored_columns(con, table)]


def _referring(con: Connection) -> list[tuple[str, str]]:
    """Table and column of every reference to a text."""
    return [(table, name) for table in stored_tables(con) for name in stored_columns(con, table) if name in HASHES]


def _width(con: Connection, table: str, *, each: bool = False) -> str:
    """The SQL of the bytes of a row's values (each), or of all rows: 8 for a number, and a text's own."""
    parts = [
        f"coalesce(strlen(cast({name} as varchar)), 0)" if kind in ("VARCHAR", "JSON") else "8"
        for name, kind in stored_columns(con, table).items()
    ]
    return " + ".join(parts) if each else f"coalesce(sum({' + '.join(parts)}), 0)"


def _bytes_in(con: Connection, table: str, where: str) -> int:
    [(size,)] = con.execute(f"select {_width(con, table)} from log.{table} where {where}").fetchall()
    return int(size)


# -- removing


def _sweep(con: Connection, folder: Path, runs: Sequence[str], *, delete: bool) -> _Removed:
    """Count the rows of the runs and the texts that nothing else refers to, and delete them when told."""
    _listed(con, "going", runs)
    rows, size = {}, 0
    for table in _of_runs(con):
        where = "run_id in (select value from going)"
        [(count,)] = con.execute(f"select count(*) from log.{table} where {where}").fetchall()
        rows[table] = count
        size += _bytes_in(con, table, where) if count else 0
    staying = " union all ".join(
        f"select {column} from log.{table} where {column} is not null"
        + (" and (run_id is null or run_id not in (select value from going))" if _run_of(con, table) != "null" else "")
        for table, column in _referring(con)
    )
    _listed(con, "spooled", _spooled_texts(folder))
    alone = f"hash not in ({staying})"
    loose = f"{alone} and hash not in (select value from spooled)"
    [(texts,)] = con.execute(f"select count(*) from log.texts where {loose}").fetchall()
    [(unreferred,)] = con.execute(f"select count(*) from log.texts where {alone}").fetchall()
    size += _bytes_in(con, "texts", loose)
    if delete:
        con.execute(f"delete from log.texts where {loose}")
        for table in rows:
            con.execute(f"delete from log.{table} where run_id in (select value from going)")
    con.execute("drop table going")
    con.execute("drop table spooled")
    found = {table: count for table, count in rows.items() if count}
    return _Removed(runs=tuple(runs), rows=found, texts=texts, kept_texts=unreferred - texts, value_bytes=size)


def _listed(con: Connection, name: str, values: Iterable[str]) -> None:
    """A table of these values for the length of a sweep."""
    con.execute(f"create or replace temp table {name}(value varchar)")
    some: list[str] = []
    for value in values:
        some.append(value)
        if len(some) == 100_000:
            con.execute(f"insert into {name} select unnest(?::varchar[])", [some])
            some = []
    if some:
        con.execute(f"insert into {name} select unnest(?::varchar[])", [some])


def _spooled_texts(folder: Path) -> Iterable[str]:
    """The hashes of all texts in spool files, those that the database has already included."""
    for path in spool_files(folder):
        names = (columns_of(path) or {}).get("texts", ())
        if "hash" not in names:
            continue
        at = names.index("hash") + 1
        for line in lines_of(path):
            yield from (row[at] for row in rows_in(line) if row[0] == "texts" and len(row) > at)
