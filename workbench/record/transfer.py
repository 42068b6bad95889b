"""Recordings into the log, and out of it again as recorded answers.

A file of the recordings' schema (docs/reference/recordings.md) is read by DuckDB as a stream. Every malformed
row is named with its row number (1 is the first data row), column and problem; the good rows are kept. The same
file imported again adds nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from workbench.decide.weights import LARGEST, closest
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import TASKS, Recorded
from workbench.record.ingest import undo
from workbench.record.log import Log

SCHEMA: Mapping[str, str] = {
    "recording": "varchar",
    "task_type": "varchar",
    "item_id": "varchar",
    "prompt": "varchar",
    "reference": "varchar",
    "model": "varchar",
    "prompt_style": "varchar",
    "response": "varchar",
    "score": "double",
    "score_kind": "varchar",
    "prompt_tokens": "bigint",
    "completion_tokens": "bigint",
    "latency_ms": "double",
    "cost_usd": "double",
}
NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
IDENTITY = "recording, item_id, model, prompt_style"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProblem:
    """A row that was left out: 1-based row number, column and what is wrong with it."""

    file: str
    row: int
    column: str
    problem: str

    def __str__(self) -> str:
        return f"{self.file}: row {self.row}, column {self.column}: {self.problem}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import did: rows read, added, already there, and the rows that were left out."""

    file: str
    recordings: tuple[str, ...]
    rows: int
    added: int
    already: int
    problems: tuple[RowProblem, ...]

    @property
    def rejected(self) -> int:
        """Number of rows left out (one row may have several problems)."""
        return len({p.row for p in self.problems})


def import_files(log: Log, files: Sequence[str | os.PathLike[str]]) -> list[Imported]:
    """Read Parquet files of the recordings' schema into the log: all of them, or none when one is refused.

    Raises LLMValidationError: data.file (absent, or not Parquet), data.schema (a column is missing), data.empty.
    """
    with log._connection() as con:
        con.begin()
        try:
            done = [_import_file(con, Path(file)) for file in files]
            con.commit()
        except BaseException:
            undo(con)
            raise
    return done


def _import_file(con: duckdb.DuckDBPyConnection, path: Path) -> Imported:
    if not path.is_file():
        raise LLMValidationError(
            f"there is no file {path}", code="data.file", next_step="give the path of a Parquet recording"
        )
    try:
        return _import(con, path)
    except (duckdb.OutOfMemoryException, duckdb.TransactionException):
        raise
    except duckdb.Error as error:
        if any(words in str(error) for words in ("No space left", "Could not write file")):
            raise
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: duckdb.Error) -> LLMError:
    reason = str(error).strip().splitlines()[0]
    return LLMValidationError(
        f"{path.name} cannot be read as a Parquet recording: {reason}",
        code="data.file",
        next_step="check that the file is complete and was written as Parquet",
    )


def _import(con: duckdb.DuckDBPyConnection, path: Path) -> Imported:
    # A path is a path, not a pattern, and its folders are not columns.
    file = re.sub(r"([*?\[{])", r"[\1]", str(path))
    described = con.execute("describe select * from read_parquet(?, hive_partitioning = false)", [file]).fetchall()
    types = {row[0]: str(row[1]) for row in described}
    _check_columns(path, list(types))
    numbered = "file_row_number" not in types
    casts = ", ".join(f"{_read(c, types[c])} as {c}" for c in SCHEMA)
    lost = ", ".join(
        f"case when {_quoted(c)} is not null and ({_lost(c, types[c])}) "
        f"then {{'col': '{c}', 'value': left(cast({_quoted(c)} as varchar), 60)}} end"
        for c in SCHEMA
    )
    con.execute(
        f"create or replace temp table incoming as "
        f"select {'file_row_number + 1' if numbered else 'row_number() over ()'} as row, {casts}, "
        f"[x for x in [{lost}] if x is not null] as uncast "
        f"from read_parquet(?, hive_partitioning = false{', file_row_number = true' if numbered else ''})",
        [file],
    )
    total = con.execute("select count(*) from incoming").fetchone()
    if not total or not total[0]:
        raise LLMValidationError(f"{path.name} has no rows", code="data.empty", next_step="give a file with rows")
    con.execute("create or replace temp table problems(step integer, row bigint, col varchar, problem varchar)")
    # A malformed row must not spoil the others: they are compared only with rows that passed the steps before.
    for step, queries in enumerate((_rules(), _repetitions(), _differences(), _conflicts())):
        _look_at_sound_rows(con, step)
        for query in queries:
            con.execute(f"insert into problems select {step}, * from ({query})")
    added, already = _insert(con)
    problems = con.execute("select distinct row, col, problem from problems order by all").fetchall()
    names = con.execute(
        "select distinct recording from incoming where row not in (select row from problems where col = 'recording') "
        "order by 1"
    ).fetchall()
    con.execute("drop view sound")
    for table in ("incoming", "problems"):
        con.execute(f"drop table {table}")
    return Imported(
        file=path.name,
        recordings=tuple(n[0] for n in names),
        rows=int(total[0]),
        added=added,
        already=already,
        problems=tuple(RowProblem(file=path.name, row=r, column=c, problem=p) for r, c, p in problems),
    )


def _look_at_sound_rows(con: duckdb.DuckDBPyConnection, step: int) -> None:
    """A view, not a copy: the texts of a large file are held once."""
    con.execute(
        f"create or replace temp view sound as from incoming where row not in "
        f"(select row from problems where step < {step})"
    )


def _read(column: str, found: str) -> str:
    """The column's value in its declared type, null where it has none."""
    name, wanted = _quoted(column), SCHEMA[column]
    if wanted == "varchar" and found == "BLOB":
        return f"try(decode({name}))"
    return f"try_cast({name} as {wanted})"


def _lost(column: str, found: str) -> str:
    """Whether a value that is there cannot be read in the declared type without loss."""
    unread = f"{_read(column, found)} is null"
    if SCHEMA[column] == "bigint":
        return f"{unread} or try_cast({_quoted(column)} as double) <> floor(try_cast({_quoted(column)} as double))"
    return unread


def _check_columns(path: Path, found: Sequence[str]) -> None:
    missing = [c for c in SCHEMA if c not in found]
    if missing:
        near = {m: closest(m, found) for m in missing}
        hints = [f"{m} (found {n!r})" if n else m for m, n in near.items()]
        raise LLMValidationError(
            f"{path.name} lacks the columns {', '.join(hints)}; it has {', '.join(found)}",
            code="data.schema",
            next_step=f"rename or add: {', '.join(missing)}"[:160],
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _blank(column: str) -> str:
    return f"regexp_full_match(coalesce({column}, ''), '\\s*') and not {_unread(column)}"


def _unread(column: str) -> str:
    return f"list_contains([u.col for u in uncast], '{column}')"


def _rules() -> list[str]:
    """Queries for (row, column, problem): what can be told from one row."""
    tasks = ", ".join(f"'{t}'" for t in TASKS)
    rules = [(c, _blank(c), "'is missing'") for c in ("item_id", "model", "prompt_style")]
    rules += [
        (
            "recording",
            f"not regexp_full_match(coalesce(recording, ''), '{NAME}') and not {_unread('recording')}",
            "'is no name of letters, digits, dot, dash and underscore: ' || coalesce(left(recording, 60), 'missing')",
        ),
        (
            "task_type",
            f"(task_type is null or task_type not in ({tasks})) and not {_unread('task_type')}",
            "'is not one of the task types: ' || coalesce(left(task_type, 60), 'missing')",
        ),
        ("prompt", f"prompt is null and not {_unread('prompt')}", "'is missing'"),
        (
            "response",
            f"response is null and score is null and not {_unread('score')} and not {_unread('response')}",
            "'and score are both missing, so nothing is recorded'",
        ),
        ("score_kind", f"score is not null and {_blank('score_kind')}", "'is missing beside a score'"),
        ("score", f"isnan(score) or abs(score) > {LARGEST:g}", f"'is not a finite number within {LARGEST:g}'"),
    ]
    rules += [
        (c, f"{c} < 0 or isnan(cast({c} as double)) or cast({c} as double) > {LARGEST:g}", "'is not a number >= 0'")
        for c in ("prompt_tokens", "completion_tokens", "latency_ms", "cost_usd")
    ]
    queries = [f"select row, '{column}', {text} from sound where {when}" for column, when, text in rules]
    return [
        *queries,
        "select row, u.col, 'cannot be read: ' || u.value from (select row, unnest(uncast) as u from sound)",
    ]


def _repetitions() -> list[str]:
    first = f"(select row, min(row) over (partition by {IDENTITY}) as first from sound)"
    return [f"select row, 'item_id', 'repeats row ' || first from {first} where row > first"]


PER_ITEM = (
    ("reference", "reference", "recording, item_id"),
    ("task_type", "task", "recording, item_id"),
    ("prompt", "prompt_hash", "recording, item_id, prompt_style"),
)


def _differences() -> list[str]:
    """Rows that contradict the first row of their item in the file."""
    return [
        f"select row, '{column}', 'differs from row ' || start || ' of the same item' from (select row, {column} "
        f"as mine, first_value({column}) over w as theirs, min(row) over w as start from sound "
        f"window w as (partition by {group} order by row rows between unbounded preceding and current row)) "
        f"where mine is distinct from theirs"
        for column, _, group in PER_ITEM
    ]


_HASHED = (
    "select row, recording, task_type as task, item_id, sha256(prompt)[:32] as prompt_hash, reference, model, "
    "prompt_style, sha256(response)[:32] as response_hash, score, score_kind, prompt_tokens, completion_tokens, "
    "latency_ms, cost_usd from sound"
)
_COMPARED = ("response_hash", "score", "score_kind", "prompt_tokens", "completion_tokens", "latency_ms", "cost_usd")


def _conflicts() -> list[str]:
    """Rows that contradict what the log has: of the same answer, or of the same item."""
    answers = [
        f"select n.row, '{column.removesuffix('_hash')}', 'differs from the row imported earlier' "
        f"from ({_HASHED}) n join log.recorded o using ({IDENTITY}) where n.{column} is distinct from o.{column}"
        for column in _COMPARED
    ]
    items = [
        f"select n.row, '{column}', 'differs from the item imported earlier' from ({_HASHED}) n join "
        f"(select distinct {group}, {stored} as theirs from log.recorded) o using ({group}) "
        f"where n.{stored} is distinct from o.theirs"
        for column, stored, group in PER_ITEM
    ]
    return [*answers, *items]


def _insert(con: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    _look_at_sound_rows(con, 99)
    con.execute(f"create or replace temp table good as {_HASHED}")
    same = " and ".join(f"o.{c.strip()} = n.{c.strip()}" for c in IDENTITY.split(","))
    already = con.execute(f"select count(*) from good n where exists (from log.recorded o where {same})").fetchone()
    rows = con.execute(
        f"insert into log.recorded select n.* exclude (row) from good n "
        f"where not exists (from log.recorded o where {same}) order by row"
    ).fetchone()
    con.execute(
        "insert into log.texts select h, any_value(t) from ("
        "select sha256(prompt)[:32] as h, prompt as t from sound "
        "union all select sha256(response)[:32], response from sound where response is not null) "
        "where h not in (select hash from log.texts) group by h"
    )
    con.execute("drop table good")
    return int(rows[0]) if rows else 0, int(already[0]) if already else 0


class Recordings:
    """The imported recordings of a log, as a ReplaySource."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def recordings(self) -> Sequence[Mapping[str, Any]]:
        """One mapping per recording: recording, items, rows, models (list of {model, styles})."""
        rows = self._log.rows(
            "select recording, model, list(distinct prompt_style order by prompt_style), count(*), "
            "count(distinct item_id) from recorded group by 1, 2 order by 1, 2"
        )
        items = dict(self._log.rows("select recording, count(distinct item_id) from recorded group by 1"))
        out: dict[str, dict[str, Any]] = {}
        for recording, model, styles, count, _ in rows:
            entry = out.setdefault(
                recording, {"recording": recording, "items": items[recording], "rows": 0, "models": []}
            )
            entry["rows"] += count
            entry["models"].append({"model": model, "styles": styles})
        return list(out.values())

    def recorded(self, recording: str) -> Sequence[Recorded]:
        """Every recorded answer, ordered by item_id, model and prompt_style.

        Raises LLMValidationError data.recording when nothing of that name was imported.
        """
        with self._log.snapshot() as con:
            rows = con.execute(
                "select r.recording, r.task, r.item_id, p.text, r.reference, r.model, r.prompt_style, t.text, "
                "r.score, r.score_kind, r.prompt_tokens, r.completion_tokens, r.latency_ms, r.cost_usd, "
                "r.prompt_hash, r.response_hash from recorded r join texts p on p.hash = r.prompt_hash "
                "left join texts t on t.hash = r.response_hash where r.recording = ? "
                "order by r.item_id, r.model, r.prompt_style",
                [recording],
            ).fetchall()
        if not rows:
            known = [str(r["recording"]) for r in self.recordings()]
            raise LLMValidationError(
                f"no recording {recording!r} in the log; it has {', '.join(known) or 'none'}",
                code="data.recording",
                next_step="import it: workbench import FILE.parquet",
            )
        names = list(Recorded.__dataclass_fields__)
        self._log.knows(h for row in rows for h in row[14:16] if h)
        return [Recorded(**dict(zip(names, row[:14], strict=True))) for row in rows]
