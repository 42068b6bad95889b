"""What the processes of the arena do until they are killed: write, move, upgrade, check in, read.

Each is a plain function that runs in a forked process. A row's identity says who wrote it and where it stands in
that writer's order, so that a lost, doubled, strange or altered row can be named afterwards.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from workbench.errors import LLMError
from workbench.facts import Score, Span
from workbench.record import migrations, schema
from workbench.record.lock import locked
from workbench.record.log import Log
from workbench.record.spool import Durability

IDLE, BUSY = b"i", b"b"
OLD_ROWS = 5_000
SLOW = (
    "create table log.slow as select range as i, hash(range)::varchar as t from range(1_500_000); drop table log.slow;"
)
PAUSE_S = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What all writers together shall write: each `batches` of `size` spans, and a score to every third batch.

    acks: the folder in which every writer keeps one byte for each batch of its that was acknowledged.
    """

    folder: Path
    acks: Path
    writers: int
    batches: int
    size: int
    durability: Durability = "process"

    def told(self, writer: int) -> Path:
        """The file with a writer's acknowledgements."""
        return self.acks / f"{writer}.acks"

    def acknowledged(self, writer: int) -> int:
        """How many batches of a writer were acknowledged; they are the first ones."""
        try:
            return self.told(writer).stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def errors(self) -> Path:
        """The file in which everything is written down that nobody should have been shown."""
        return self.acks / "errors.txt"

    @property
    def gate(self) -> Path:
        """The file whose length says how many of its batches each writer may have written by now."""
        return self.acks / "gate"

    def open_gate(self, share: float) -> None:
        """Let every writer go on until this share of its batches is written, in [0, 1]."""
        self.gate.touch()
        os.truncate(self.gate, math.ceil(self.batches * min(share, 1.0)))


@contextmanager
def noting(plan: Plan) -> Iterator[None]:
    """Write an error of the log down as a problem and go on, so that what it costs can be counted as well."""
    try:
        yield
    except LLMError as error:
        with plan.errors.open("a", encoding="utf-8") as file:
            file.write(f"{error.code}: {error.message}\n")


class Lamp:
    """A byte in a file that says whether its process is in the middle of something; others see it after its death."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.show(IDLE)

    def show(self, state: bytes) -> None:
        """Show another state."""
        os.pwrite(self.fd, state, 0)


def span(writer: int, batch: int, place: int, *, size: int) -> Span:
    """The one span that belongs there."""
    return Span(
        trace_id=f"{writer}/{batch}",
        span_id=f"{writer}/{batch}/{place}",
        parent_id=None,
        component=f"writer {writer}",
        operation="work",
        start_unix_ns=batch * size + place,
        duration_ms=place / 4,
        ok=True,
        attributes={"place": place},
    )


def score(writer: int, batch: int) -> Score:
    """The score that belongs to every third batch."""
    return Score(item_id=f"{writer}/{batch}", model="m", scorer="s", value=float(batch), run_id="r")


def write(plan: Plan, writer: int, lamp: Lamp) -> None:
    """Write what is not acknowledged yet, in all ways there are, and note each acknowledgement afterwards."""
    log = Log.open(plan.folder, durability=plan.durability)
    with plan.told(writer).open("ab", buffering=0) as told:
        for batch in range(plan.acknowledged(writer), plan.batches):
            while batch >= plan.gate.stat().st_size:
                lamp.show(IDLE)
                time.sleep(0.002)
            lamp.show(BUSY)
            spans = [span(writer, batch, place, size=plan.size) for place in range(plan.size)]
            match batch % 3:
                case 0:  # each alone, as tracing does: spans may be held back until the flush
                    for one in spans:
                        log.write(one)
                    log.flush()
                case 1:
                    log.write(*spans, score(writer, batch))
                case _:
                    log.write(*spans)
                    log.flush()
            told.write(b"+")
    log.close()


def take_turns(plan: Plan, writer: int, *, every: int) -> None:
    """Write batch after batch, and open the database for writing, commit and close it in between."""
    log = Log.open(plan.folder, durability=plan.durability)
    with plan.told(writer).open("ab", buffering=0) as told:
        for batch in range(plan.batches):
            spans = [span(writer, batch, place, size=plan.size) for place in range(plan.size)]
            log.write(*spans, *([score(writer, batch)] if batch % 3 == 1 else []))
            log.flush()
            told.write(b"+")
            if batch % every == every - 1:
                with noting(plan):
                    log.ingest()
    log.close()


def move(plan: Plan, lamp: Lamp) -> None:
    """Move what is spooled into the database, again and again."""
    log = Log.open(plan.folder)
    while True:
        lamp.show(BUSY)
        log.ingest()
        lamp.show(IDLE)
        time.sleep(PAUSE_S)


def check_in(plan: Plan, lamp: Lamp) -> None:
    """Make holes in the database and have DuckDB write it anew, as `compact` and every closing do."""
    log = Log.open(plan.folder)
    while True:
        lamp.show(BUSY)
        with log._connection() as con:
            con.execute(
                "create or replace table log.hole as select range as i, hash(range)::varchar as t from range(100_000)"
            )
            con.execute("checkpoint")
            con.execute("drop table log.hole")
            con.execute("checkpoint")
        lamp.show(IDLE)
        time.sleep(PAUSE_S)


def upgrade(plan: Plan, lamp: Lamp) -> None:
    """Open the log of an old version; its migration ends as it always does, but takes longer."""
    first, *later = migrations.MIGRATIONS
    migrations.MIGRATIONS = (first, *(SLOW + step for step in later))
    lamp.show(BUSY)
    Log.open(plan.folder)
    lamp.show(IDLE)


def poll(plan: Plan, lamp: Lamp) -> None:
    """Read again and again: a snapshot never lacks a row that was acknowledged before it was asked for."""
    log = Log.open(plan.folder)
    lamp.show(BUSY)
    while True:
        wanted = plan.size * sum(plan.acknowledged(w) for w in range(plan.writers))
        with noting(plan):
            [(found,)] = log.rows("select count(*) from spans")
            if found < wanted:
                raise LLMError(f"a snapshot has {found} of {wanted} spans", code="crash.snapshot", next_step="look")
        time.sleep(0.2)


def version_in(plan: Plan) -> int:
    """The schema version as it stands in the file, read without the code under test."""
    with locked(plan.folder / "workbench.lock"), duckdb.connect(str(plan.folder / "workbench.duckdb")) as con:
        row = con.execute("select max(version) from log.schema_version").fetchone()
    return int(row[0]) if row else 0


def put_old_log(plan: Plan) -> None:
    """Put a database of the first version in the place of the one that is there, as from an old backup."""
    old = plan.folder / "old.duckdb"
    with duckdb.connect(str(old)) as con:
        con.execute(schema.MIGRATIONS[0])
        con.execute("insert into log.schema_version values (1, 0)")
        con.execute(
            f"insert into log.calls (span_id, model, ok) select 'old/' || range, 'm', true from range({OLD_ROWS})"
        )
    with locked(plan.folder / "workbench.lock"):
        old.rename(plan.folder / "workbench.duckdb")


QUESTIONS: Mapping[str, str] = {
    "doubled": "select count(*) - count(distinct span_id) from log.spans",
    "lost": "select count(*) from wanted anti join log.spans using (span_id) where acknowledged",
    "strange": "select count(*) from log.spans anti join wanted using (span_id)",
    "altered": "select count(*) from log.spans join wanted w using (span_id) "
    "where (component, trace_id, start_unix_ns, duration_ms, cast(attributes->>'place' as integer)) is distinct from "
    "('writer ' || w.writer, w.writer || '/' || w.batch, w.batch * $size + w.place, w.place / 4, w.place)",
    "scores lost or doubled": "select abs(count(*) - (select count(distinct (writer, batch)) from wanted "
    "where batch % 3 = 1 and acknowledged)) + count(*) - count(distinct item_id) from log.scores",
    "old calls lost or doubled": "select abs(count(*) - $old) + count(*) - count(distinct span_id) from calls "
    "where span_id like 'old/%' and attempts = 1",
}


def judge(plan: Plan, *, old: int) -> dict[str, int]:
    """Counts of what is wrong with the log, every one of them 0 when all is well; spans found and files left over."""
    log = Log.open(plan.folder)
    log.ingest()
    with log._connection() as con:
        con.execute(
            "create temp table wanted as select w || '/' || b || '/' || p as span_id, w as writer, b as batch, "
            "p as place, b < list_extract(?, w + 1) as acknowledged from range(?) a(w), range(?) c(b), range(?) d(p)",
            [[plan.acknowledged(w) for w in range(plan.writers)], plan.writers, plan.batches, plan.size],
        )
        given = {"size": plan.size, "old": old}
        found = {name: _one(con, sql, given) for name, sql in QUESTIONS.items()}
        found["spans"] = _one(con, "select count(*) from log.spans", {})
    found["spool files left"] = len(list((plan.folder / "spool").iterdir()))
    return found


def _one(con: duckdb.DuckDBPyConnection, sql: str, given: Mapping[str, int]) -> int:
    [row] = con.execute(sql, {name: value for name, value in given.items() if f"${name}" in sql}).fetchall()
    return int(row[0])
