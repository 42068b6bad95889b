"""Logs for the tests of their upkeep: runs, calls and texts, and real second processes that write them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import duckdb

from workbench.facts import Call, Fact, Item, ItemAsked, Request, Response, RunEnded, RunStarted, Score, Span, Usage
from workbench.record.log import Log

ROOT = Path(__file__).parents[2]
DAY_NS = 86_400 * 10**9
HOSTILE = (
    "=1+1", "+1", "-1", "@SUM(A1)", "\ttab", "\rreturn", "\nline", "＝1", "'quoted", 'a,b;"c"\r\nd', "", "NULL", "a\0b",
)  # fmt: skip


def call(name: str, *, run: str | None = "r1", prompt: str = "2+2?", text: str | None = "4", **changes: Any) -> Call:
    """A call that was answered, with this span id."""
    response = None
    if text is not None:
        response = Response(
            request_key="k", model="p:m", text=text, usage=Usage(prompt_tokens=5, completion_tokens=1), latency_ms=12.5,
            ttft_ms=3.25, cost_usd=0.1 + 0.2, finish_reason="stop", source="simulated",
        )  # fmt: skip
    fields: dict[str, Any] = {
        "trace_id": "t1", "run_id": run, "item_id": "i1", "provider": "p", "model": "m", "failure": None,
        "start_unix_ns": 1_700_000_000_000_000_000, "duration_ms": 14.5,
    }  # fmt: skip
    return Call(span_id=name, request=Request.of(prompt), response=response, **{**fields, **changes})


def started(run: str, *, at_ns: int = 1) -> RunStarted:
    """A run that begins."""
    return RunStarted(run_id=run, name="n", source="simulated", models=("m",), spec={"a": [1]}, start_unix_ns=at_ns)


def ended(run: str, *, at_ns: int, status: Any = "finished") -> RunEnded:
    """A run that ends."""
    return RunEnded(run_id=run, status=status, end_unix_ns=at_ns, items=1)


def whole_run(run: str, *, end_ns: int | None, calls: int = 3, text: str = "answer") -> list[Fact]:
    """A run with an item, calls, scores and spans; end_ns None leaves it unfinished."""
    item = Item(item_id="i1", task="reasoning", prompt="shared prompt", reference="4", metadata={"n": run})
    facts: list[Fact] = [started(run), ItemAsked(run_id=run, position=0, item=item)]
    for n in range(calls):
        facts.append(call(f"{run}-{n}", run=run, prompt="shared prompt", text=f"{text} {run} {n}", start_unix_ns=2 + n))
        facts.append(Score(item_id=f"i{n}", model="p:m", scorer="exact", value=n / 3, run_id=run))
        facts.append(
            Span(
                trace_id="t",
                span_id=f"{run}-span-{n}",
                parent_id=None,
                component="c",
                operation="o",
                start_unix_ns=2 + n,
                duration_ms=1.5,
                ok=True,
                attributes={"n": n},
                run_id=run,
            )
        )
    return [*facts, ended(run, at_ns=end_ns)] if end_ns is not None else facts


def spooled(folder: Path) -> list[Path]:
    """The spool files."""
    return sorted((folder / "spool").glob("*.spool"))


def tampered(log: Log, *statements: str) -> None:
    """Change the database behind the log's back, with everything that was spooled in it."""
    log.ingest()
    with duckdb.connect(str(log.database)) as con:
        for statement in statements:
            con.execute(statement)


def contents(log: Log) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table as Python values, sorted by their words; read without the code under test."""
    with duckdb.connect(str(log.database), read_only=True) as con:
        tables = [
            t for (t,) in con.execute("select table_name from duckdb_tables() where schema_name = 'log'").fetchall()
        ]
        return {t: sorted(con.execute(f"from log.{t}").fetchall(), key=repr) for t in sorted(tables)}


def child(code: str, *args: object) -> subprocess.Popen[str]:
    """A real process that runs the code after `log = Log.open(argv[1])`, with the builders of this module at hand."""
    setup = """
import os, sys
from record.kept import *
def say(text):
    os.write(1, f"{text}\\n".encode())
log = Log.open(sys.argv[1])
"""
    return subprocess.Popen(
        [sys.executable, "-c", setup + textwrap.dedent(code), *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
    )


def told(process: subprocess.Popen[str]) -> str:
    """The next line that the process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], word: str = "go") -> None:
    """Give the process a line to read."""
    assert process.stdin is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()


def over(process: subprocess.Popen[str], *, killed: bool = False) -> str:
    """The rest of what the process prints, once it has ended."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == (-9 if killed else 0), err
    return out
