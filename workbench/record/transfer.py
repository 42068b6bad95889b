"""Recordings into the log, and out of it again as recorded answers.

A file of the recordings' schema (docs/reference/recordings.md) is read by DuckDB as a stream. Every malformed
row is named with its row number (1 is the first data row), column and problem; the good rows are kept. The same
file imported again adds nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from workbench.decide.weights import closest
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import TASKS, Recorded
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


def import_file(log: Log, file: str | os.PathLike[str]) -> Imported:
    """Read a Parquet file of the recordings' schema into the log.

    Raises LLMValidationError: data.file (absent, or not Parquet), data.schema (a column is missing), data.empty.
    """
    path = Path(file)
    if not path.is_file():
        raise LLMValidationError(
            f"there is no file {path}", code="data.file", next_step="give the path of a Parquet recording"
        )
    with log._connection() as con:
        con.begin()
        try:
            done = _import(con, path)
            con.commit()
        except duckdb.Error as error:
            con.rollback()
            raise _unreadable(path, error) from error
        except BaseException:
            con.rollback()
            raise
    return done


def _unreadable(path: Path, error: duckdb.Error) -> LLMError:
    reason = str(error).strip().splitlines()[0]
    return LLMValidationError(
        f"{path.name} cannot be read as a Parquet recording: {reason}",
        code="data.file",
        next_step="check that the file is complete and was written as Parquet",
    )


def _import(con: duckdb.DuckDBPyConnection, path: Path) -> Imported:
    found = [r[0] for r in con.execute("describe select * from read_parquet(?)", [str(path)]).fetchall()]
    _check_columns(path, found)
    casts = ", ".join(f"try_cast({_quoted(c)} as {t}) as {c}" for c, t in SCHEMA.items())
    lost = ", ".join(
        f"case when {_quoted(c)} is not null and try_cast({_quoted(c)} as {t}) is null "
        f"then '{c}: ' || left(cast({_quoted(c)} as varchar), 60) end"
        for c, t in SCHEMA.items()
    )
    con.execute(
        f"create or replace temp table incoming as select file_row_number + 1 as row, {casts}, "
        f"[x for x in [{lost}] if x is not null] as uncast from read_parquet(?, file_row_number = true)",
        [str(path)],
    )
    total = con.execute("select count(*) from incoming").fetchone()
    if not total or not total[0]:
        raise LLMValidationError(f"{path.name} has no rows", code="data.empty", next_step="give a file with rows")
    con.execute("create or replace temp table problems(row bigint, col varchar, problem varchar)")
    for query in _checks():
        con.execute(f"insert into problems {query}")
    for query in _conflicts():
        con.execute(f"insert into problems {query}")
    added, already = _insert(con)
    problems = con.execute("select distinct row, col, problem from problems order by all").fetchall()
    names = con.execute("select distinct recording from incoming where recording is not null order by 1").fetchall()
    con.execute("drop table incoming")
    con.execute("drop table problems")
    return Imported(
        file=path.name,
        recordings=tuple(n[0] for n in names),
        rows=int(total[0]),
        added=added,
        already=already,
        problems=tuple(RowProblem(file=path.name, row=r, column=c, problem=p) for r, c, p in problems),
    )


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


def _checks() -> list[str]:
    """Queries for (row, column, problem), one per rule."""
    tasks = ", ".join(f"'{t}'" for t in TASKS)
    rules = [(c, f"trim(coalesce({c}, '')) = ''", "'is missing'") for c in ("item_id", "model", "prompt_style")]
    rules += [
        ("recording", "not regexp_full_match(coalesce(recording, ''), '[A-Za-z0-9][A-Za-z0-9._-]{0,99}')",
         "'is not a name of letters, digits, dot, dash and underscore: ' || coalesce(left(recording, 60), 'missing')"),
        ("task_type", f"task_type is null or task_type not in ({tasks})",
         "'is not one of the task types: ' || coalesce(left(task_type, 60), 'missing')"),
        ("prompt", "prompt is null", "'is missing'"),
        ("response", "response is null and score is null and not list_contains(uncast, 'score')",
         "'and score are both missing, so nothing is recorded'"),
        ("score_kind", "score is not null and trim(coalesce(score_kind, '')) = ''", "'is missing beside a score'"),
        ("score", "isnan(score) or isinf(score)", "'is not finite'"),
    ]  # fmt: skip
    rules += [
        (c, f"{c} < 0 or isnan(cast({c} as double)) or isinf(cast({c} as double))", "'is not a number >= 0'")
        for c in ("prompt_tokens", "completion_tokens", "latency_ms", "cost_usd")
    ]
    queries = [f"select row, '{column}', {text} from incoming where {when}" for column, when, text in rules]
    queries.append(
        "select row, split_part(u, ': ', 1), 'cannot be read: ' || u[len(split_part(u, ': ', 1)) + 3:] "
        "from (select row, unnest(uncast) as u from incoming)"
    )
    queries.append(
        f"select row, 'item_id', 'repeats row ' || first from "
        f"(select row, min(row) over (partition by {IDENTITY}) as first from incoming) where row > first"
    )
    for column, group in (
        ("reference", "recording, item_id"),
        ("task_type", "recording, item_id"),
        ("prompt", "recording, item_id, prompt_style"),
    ):
        queries.append(
            f"select row, '{column}', 'differs from row ' || start || ' of the same item' from (select row, {column} "
            f"as mine, first_value({column}) over w as theirs, min(row) over w as start from incoming "
            f"window w as (partition by {group} order by row rows between unbounded preceding and current row)) "
            f"where mine is distinct from theirs"
        )
    return queries


_HASHED = (
    "select row, recording, task_type as task, item_id, sha256(prompt)[:32] as prompt_hash, reference, model, "
    "prompt_style, sha256(response)[:32] as response_hash, score, score_kind, prompt_tokens, completion_tokens, "
    "latency_ms, cost_usd from incoming where row not in (select row from problems)"
)
_COMPARED = ("prompt_hash", "reference", "response_hash", "score", "score_kind")


def _conflicts() -> list[str]:
    """Rows that are in the log already, with other content."""
    return [
        f"select n.row, '{column.removesuffix('_hash')}', 'differs from the row imported earlier' "
        f"from ({_HASHED}) n join log.recorded o using ({IDENTITY}) where n.{column} is distinct from o.{column}"
        for column in _COMPARED
    ]


def _insert(con: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    con.execute(f"create or replace temp table good as {_HASHED}")
    same = " and ".join(f"o.{c.strip()} = n.{c.strip()}" for c in IDENTITY.split(","))
    already = con.execute(f"select count(*) from good n where exists (from log.recorded o where {same})").fetchone()
    rows = con.execute(
        f"insert into log.recorded select n.* exclude (row) from good n "
        f"where not exists (from log.recorded o where {same}) order by row"
    ).fetchone()
    con.execute(
        "insert into log.texts select h, any_value(t) from ("
        "select sha256(prompt)[:32] as h, prompt as t from incoming where row in (select row from good) "
        "union all select sha256(response)[:32], response from incoming "
        "where row in (select row from good) and response is not null) "
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
