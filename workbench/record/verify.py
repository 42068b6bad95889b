"""Proof that a log is whole: hashes, references, keys, final rows and checksums. It never changes anything.

The folder's lock is held, shared, for about HOLD_S seconds at a time, so that rows can be moved in between two checks,
and a table is looked at in slices of about SLICE_ROWS rows, so that memory stays bounded. What is spooled counts as
there, rows and texts alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import duckdb

from workbench.canonical import clean_text, text_hash
from workbench.errors import LLMError
from workbench.record.database import to_read, unusable
from workbench.record.lock import locked
from workbench.record.migrations import stored_version
from workbench.record.schema import COLUMNS, KEYS, VERSION
from workbench.record.spooled import (
    columns_of,
    is_alive,
    lines_in,
    lines_of,
    rows_in,
    spool_files,
    torn_files,
)
from workbench.record.status import DATABASE, LOCK, positions_of, require_log, stored_columns, stored_tables

SLICE_ROWS = 2_000_000
HOLD_S = 1.0
EXAMPLES = 3
RECORDED_KEY = ("recording", "item_id", "model", "prompt_style")
REFERENCES = (
    ("calls", "prompt_hash"),
    ("calls", "response_hash"),
    ("items", "prompt_hash"),
    ("recorded", "prompt_hash"),
    ("recorded", "response_hash"),
)
ASIDE = f"move {DATABASE} aside (keep it), and open the log again: spooled rows come in, older ones are in the copy"
EXPORT = "export the sound tables: workbench log export --format duckdb --to COPY --tables ..."
Connection = duckdb.DuckDBPyConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it should be.

    state: wrong (rows are damaged, missing or doubled), or note (worth knowing; no acknowledged row is concerned).
    check: database, texts, references, keys, calls, spool or torn. where: a table or a file.
    """

    state: Literal["wrong", "note"]
    check: str
    where: str
    message: str
    next_step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was looked at, and what was found.

    rows: of all tables that were read whole. texts: whose hash was computed again, in the database and in the spool
    (a living writer's are in both). references: columns of references that were followed. lines: of the spool, whose
    checksum was computed again.
    """

    folder: str
    rows: int
    texts: int
    references: int
    lines: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; notes are not."""
        return all(finding.state != "wrong" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The verification as plain JSON values."""
        return {"ok": self.ok, **asdict(self), "findings": [asdict(finding) for finding in self.findings]}


def verify(folder: Path) -> Verification:
    """Look at everything in a log folder; each damage is a finding, none is an exception.

    Raises LLMValidationError validation.log where there is no log; LLMError storage.locked or storage.readonly when
    the folder's lock cannot be had, which says nothing about the log.
    """
    verifier = _Verifier(require_log(folder))
    try:
        return verifier.run()
    finally:
        verifier.let_go()


class _Verifier:
    """One look through a log folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._database = folder / DATABASE
        self._found: list[Finding] = []
        self._held = ExitStack()
        self._con: Connection | None = None
        self._since_s = 0.0
        self._rows = self._texts = self._references = self._lines = 0

    def run(self) -> Verification:
        """Every check, in the order in which one makes sense after the other."""
        self._spool()
        self._torn()
        tables: list[str] = []
        if self._database.exists() and self._try("database", DATABASE, lambda con: tables.extend(self._tables(con))):
            whole = {table for table in tables if self._try("database", table, partial(self._read, table))}
            for table in sorted(whole):
                self._try("keys", table, partial(self._keys, table))
            if "texts" in whole:
                self._try("texts", "texts", self._hashes)
                for table, column in REFERENCES:
                    if table in whole:
                        self._try("references", table, partial(self._refers, table, column))
            if "calls" in whole:
                self._try("calls", "calls", self._finals)
        return Verification(
            folder=str(self._folder),
            rows=self._rows,
            texts=self._texts,
            references=self._references,
            lines=self._lines,
            findings=tuple(sorted(self._found, key=lambda f: f.state == "note")),
        )

    def _add(self, state: Literal["wrong", "note"], check: str, where: str, message: str, next_step: str) -> None:
        self._found.append(Finding(state=state, check=check, where=where, message=message, next_step=next_step))

    def _try(self, check: str, where: str, look: Callable[[Connection], None]) -> bool:
        """Whether a check could be made; what kept it from that is a finding."""
        try:
            try:
                look(self._connection())
            except duckdb.Error as error:
                raise unusable(self._database, error) from error
        except LLMError as error:
            self.let_go()
            if error.code in ("storage.locked", "storage.readonly"):
                raise
            step = ASIDE if where == DATABASE and error.code == "storage.corrupt" else error.next_step
            step = EXPORT if where != DATABASE and error.code == "storage.corrupt" else step
            self._add("wrong", check, where, error.message, step)
            return False
        return True

    def _connection(self) -> Connection:
        """The database under the folder's lock, opened anew when it was held for a while."""
        if self._con is None or time.monotonic() - self._since_s > HOLD_S:
            self.let_go()
            self._held.enter_context(locked(self._folder / LOCK, shared=True, made=False))
            self._con = self._held.enter_context(to_read(self._database))
            self._since_s = time.monotonic()
        return self._con

    def let_go(self) -> None:
        """Close the database, and let go of the folder's lock."""
        self._con = None
        self._held.close()

    # -- the database

    def _tables(self, con: Connection) -> list[str]:
        version = stored_version(con, self._database)
        if version < VERSION:
            step = "open the log once, for example with workbench log ingest; it is brought to the newer version"
            self._add("note", "database", DATABASE, f"schema version {version} is older than {VERSION}", step)
        found = stored_tables(con) if version else []
        if missing := [table for table in COLUMNS if version and table not in found]:
            self._add("wrong", "database", DATABASE, f"there is no table {', '.join(missing)}", ASIDE)
        return found

    def _read(self, table: str, con: Connection) -> None:
        """Every value of every row: the database proves the checksum of each block it reads."""
        [(rows, _)] = con.execute(f"select count(*), bit_xor(hash(t)) from log.{table} t").fetchall()
        self._rows += rows

    def _keys(self, table: str, con: Connection) -> None:
        key = RECORDED_KEY if table == "recorded" else KEYS.get(table)
        if key is None:
            return
        names = ", ".join(key)
        doubled = 0
        examples: list[Any] = []
        for part in _slices(_count(con, f"from log.{table}")):
            query = f"select {names} from log.{table} where {part(names)} group by all having count(*) > 1"
            if found := _count(con, query):
                doubled += found
                examples += con.execute(f"{query} limit {EXAMPLES}").fetchall()
        if doubled:
            message = f"{doubled} keys ({names}) come more than once, such as {_shown(examples)}"
            step = "count with distinct keys, and report it with the output of workbench log status"
            self._add("wrong", "keys", table, message, step)

    def _hashes(self, con: Connection) -> None:
        # One text at a time is hashed by DuckDB; tests compare with the standard library's SHA-256.
        wrong = "select hash from log.texts where text is null or hash is null or left(sha256(text), 32) <> hash"
        self._texts += _count(con, "from log.texts")
        if count := _count(con, wrong):
            examples = con.execute(f"{wrong} limit {EXAMPLES}").fetchall()
            message = f"{count} texts do not have the hash they are stored under, such as {_shown(examples)}"
            step = "do not trust these texts; the rows that refer to them are found by prompt_hash and response_hash"
            self._add("wrong", "texts", "texts", message, step)

    def _refers(self, table: str, column: str, con: Connection) -> None:
        if column not in stored_columns(con, table):
            return
        self._references += 1
        self._spooled_hashes(con, "spooled_texts", "texts", "hash")
        self._spooled_hashes(con, "spooled_references", table, column)
        con.execute("create or replace temp view known as select hash from log.texts union all from spooled_texts")
        missing, examples = 0, []
        for part in _slices(max(_count(con, f"from log.{t}") for t in (table, "texts"))):
            query = (
                f"select distinct {column} as hash from (select {column} from log.{table} union all "
                f"select hash from spooled_references) where {column} is not null and {part(column)} "
                f"except select hash from known where {part('hash')}"
            )
            if found := _count(con, query):
                missing += found
                examples += con.execute(f"{query} limit {EXAMPLES}").fetchall()
        if missing:
            message = f"{missing} texts that {column} refers to are not there, such as {_shown(examples)}"
            step = "take them from a copy of the log; the rows themselves, with tokens and costs, are whole"
            self._add("wrong", "references", table, message, step)

    def _finals(self, con: Connection) -> None:
        if "final" not in stored_columns(con, "calls"):
            return
        self._spooled_calls(con)
        # A row that is in both, because it was written twice, counts once.
        ended = (
            "select call_id, count(distinct span_id) filter (final) as finals from (select coalesce(call_id, span_id) "
            "as call_id, coalesce(final, true) as final, span_id from log.calls union all by name from spooled_calls) "
            "where {part} group by call_id"
        )
        twice = never = 0
        examples: list[Any] = []
        for part in _slices(_count(con, "from log.calls")):
            query = ended.format(part=part("call_id"))
            count = f"select count(*) filter (finals > 1), count(*) filter (finals = 0) from ({query})"
            [(more, none)] = con.execute(count).fetchall()
            twice, never = twice + more, never + none
            if more:
                examples += con.execute(f"select call_id from ({query}) where finals > 1 limit {EXAMPLES}").fetchall()
        if twice:
            message = f"{twice} calls have more than one final row, such as {_shown(examples)}"
            step = "see them: select * from every_attempt where call_id = '...'; costs may be counted twice"
            self._add("wrong", "calls", "calls", message, step)
        if never:
            message = f"{never} calls have attempts and no final row: they are under way, or their process was killed"
            step = "nothing is lost: every attempt that ended is there; see select * from every_attempt"
            self._add("note", "calls", "calls", message, step)

    # -- the spool

    def _spool(self) -> None:
        for path in spool_files(self._folder):
            try:
                alive = is_alive(path)
            except FileNotFoundError:  # moved into the database meanwhile
                continue
            columns = columns_of(path)
            bad, strange, cut = 0, 0, False
            for line in lines_of(path):
                self._lines += line.ended
                bad += line.ended and line.rows is None
                texts = [row for row in rows_in(line) if row[0] == "texts"]
                strange += sum(_is_strange(row, columns or {}) for row in texts)
                self._texts += len(texts)
                cut = cut or not line.ended
            if bad:
                message = f"{bad} lines fail their checksum"
                step = "they are set aside in torn/ by the next ingest; the rows of all other lines are whole"
                self._add("wrong", "spool", path.name, message, step)
            elif columns is None and path.exists() and not (alive and cut):
                message = "the first line, which names the columns, is missing or cut off"
                step = "keep a copy of the file: the next ingest sets all of it aside in torn/"
                self._add("wrong", "spool", path.name, message, step)
            elif cut and not alive:
                message = "the last line is cut off: its writer was killed before it was told that the rows are safe"
                step = "nothing to do: the next ingest sets it aside in torn/"
                self._add("note", "spool", path.name, message, step)
            if strange:
                message = f"{strange} texts do not have the hash they are spooled under"
                step = "do not trust these texts; they were written wrong, for their lines are whole"
                self._add("wrong", "texts", path.name, message, step)

    def _torn(self) -> None:
        if files := torn_files(self._folder):
            message = f"{sum(map(lines_in, files))} lines in {len(files)} files were set aside by earlier ingests"
            step = "look at them; workbench log gc --older-than 90d removes old ones"
            self._add("note", "torn", "torn", message, step)

    def _spooled(self, con: Connection, table: str) -> Iterator[tuple[dict[str, int], list[list[Any]]]]:
        """Rows of a table that wait in the spool, line by line, with the place of each column."""
        positions = positions_of(con)
        for path in spool_files(self._folder):
            names = (columns_of(path) or {}).get(table, ())
            places = {name: index + 1 for index, name in enumerate(names)}
            for line in lines_of(path, start=positions.get(path.name, 0)):
                if rows := [row for row in rows_in(line) if row[0] == table and names and len(row) > len(names)]:
                    yield places, rows

    def _spooled_hashes(self, con: Connection, into: str, table: str, column: str) -> None:
        con.execute(f"create or replace temp table {into}(hash varchar)")
        for places, rows in self._spooled(con, table):
            if at := places.get(column):
                con.execute(f"insert into {into} select unnest(?::varchar[])", [[row[at] for row in rows]])

    def _spooled_calls(self, con: Connection) -> None:
        con.execute("create or replace temp table spooled_calls(call_id varchar, final boolean, span_id varchar)")
        for places, rows in self._spooled(con, "calls"):
            spans = [row[places["span_id"]] for row in rows]
            calls = [row[places["call_id"]] if "call_id" in places else None for row in rows]
            finals = [row[places["final"]] if "final" in places else True for row in rows]
            con.execute(
                "insert into spooled_calls select coalesce(c, s), coalesce(f, true), s from (select "
                "unnest(?::varchar[]) as c, unnest(?::boolean[]) as f, unnest(?::varchar[]) as s)",
                [calls, finals, spans],
            )


def _slices(rows: int) -> list[Callable[[str], str]]:
    """Conditions on a value that cut so many rows into parts of about SLICE_ROWS; equal values are in one part."""
    parts = 1 + rows // SLICE_ROWS
    return [_part(parts, i) for i in range(parts)]


def _part(parts: int, i: int) -> Callable[[str], str]:
    return lambda value: f"hash({value}) % {parts} = {i}" if parts > 1 else "true"


def _count(con: Connection, query: str) -> int:
    [(count,)] = con.execute(f"select count(*) from ({query})").fetchall()
    return int(count)


def _shown(examples: list[Any]) -> str:
    return ", ".join("/".join(str(part)[:40] for part in row) for row in examples[:EXAMPLES])


def _is_strange(row: list[Any], columns: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether a row of a text has another hash than that of its text."""
    values = dict(zip(columns.get("texts", ()), row[1:], strict=False))
    text = values.get("text")
    return not isinstance(text, str) or text_hash(clean_text(text)) != values.get("hash")
