"""The log: what a span, a row, a batch among eight writers, a report and a stored span cost, beside others.

    python dev.py bench log [--parts span,rows,writers,report,pipeline] [--spans 10_000_000]

Goals: a span at most 2 us of CPU, 1/8 of OpenTelemetry's own and 1/500 of MLflow's; a row, written in batches of 1,000
and moved into DuckDB, at most 6 us and 1.5 of DuckDB's Appender alone; of eight processes that write at once 95 of 100
batches within 5 ms; the report query through our view at most 1.2 of the same over a plain table; a call with tracing
at most 1.05 of one without. Bytes of a stored span are shown, with 80 as the mark.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _overhead_places import Place
from _timing import cpu_s, finish, goal, interleaved, median, spread

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from workbench.facts import Span
from workbench.record.log import Log
from workbench.record.rows import rows_of

HERE = Path(__file__).resolve().parent
TRACERS = Place(
    name="tracers-1",
    requirements=("opentelemetry-sdk==1.45.2", "mlflow==3.17.2"),
    clients=("otel", "mlflow"),
)
Goals = list[dict[str, object]]
MODELS = ("openai:gpt", "anthropic:claude", "gemini:pro", "ollama:llama")
BATCH = 1000
REPORT = """
    select operation, {hour} as hour, count(*), quantile_cont(duration_ms, 0.5), quantile_cont(duration_ms, 0.95),
        avg((not ok)::int)
    from {table} group by all
"""
HOUR = "start_unix_ns // 3_600_000_000_000"


def made(number: int, seed: int = 0) -> list[Span]:
    """Spans with random names, as calls of four models leave them."""
    chance, start_ns = random.Random(seed), time.time_ns()
    return [
        Span(
            trace_id=f"{chance.getrandbits(128):032x}",
            span_id=f"{chance.getrandbits(64):016x}",
            parent_id=f"{chance.getrandbits(64):016x}",
            component="model",
            operation="complete",
            start_unix_ns=start_ns + i * 1_000_000,
            duration_ms=chance.lognormvariate(6, 0.5),
            ok=True,
            attributes={"model": chance.choice(MODELS), "item_id": f"item-{i}"},
            run_id="run-1",
        )
        for i in range(number)
    ]


# -- a span


def of_spans(rounds: int) -> Goals:
    """Ours beside two others', each in a process of its own, in turns."""
    if problem := TRACERS.made():
        sys.exit(f"no environment for the others: {problem}")
    plan = {"ours": (sys.executable, 20_000), "otel": (TRACERS.python, 20_000), "mlflow": (TRACERS.python, 500)}
    found: dict[str, list[float]] = {name: [] for name in plan}
    for _ in range(rounds):
        for name, (python, number) in plan.items():
            command = [str(python), str(HERE / "_log_spans.py"), name, "3", str(number)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(min(json.loads(done.stdout.splitlines()[-1])["us"]))
    for name, costs in found.items():
        print(f"span, {name}: {spread(costs)} us CPU")
    pairs = {name: [o / t for o, t in zip(found["ours"], found[name], strict=True)] for name in ("otel", "mlflow")}
    return [
        goal("span", median(found["ours"]), 2.0, "us"),
        goal("span beside OpenTelemetry", median(pairs["otel"]), 1 / 8, "x"),
        goal("span beside MLflow", median(pairs["mlflow"]), 1 / 500, "x"),
    ]


# -- a row


def of_rows(rounds: int, rows: int = 50_000) -> Goals:
    """Batches of 1,000 spans written and moved, and DuckDB's Appender with the same rows and a commit for each."""
    import duckdb

    def ours() -> float:
        facts = made(rows)
        with tempfile.TemporaryDirectory() as folder:
            log = Log.open(folder)
            log.ingest()

            def work() -> None:
                for start in range(0, rows, BATCH):
                    log.write(*facts[start : start + BATCH])
                log.ingest()

            spent = cpu_s(work)
            assert log.rows("select count(*) from spans") == [(rows,)]
            log.close()
        return spent / rows * 1e6

    def appender() -> float:
        values = [tuple(row[1:]) for fact in made(rows) for row in rows_of(fact)]
        with tempfile.TemporaryDirectory() as folder:
            Log.open(folder).close()  # the same tables

            def work() -> None:
                with duckdb.connect(str(Path(folder) / "workbench.duckdb")) as con:
                    for start in range(0, rows, BATCH):
                        con.begin()
                        with con.appender("log.spans") as into:
                            into.append_rows(values[start : start + BATCH])
                        con.commit()

            spent = cpu_s(work)
        return spent / rows * 1e6

    found = interleaved({"ours": ours, "appender": appender}, rounds)
    for name, costs in found.items():
        print(f"row, {name}: {spread(costs)} us CPU")
    ratios = [o / a for o, a in zip(found["ours"], found["appender"], strict=True)]
    return [
        goal("row", median(found["ours"]), 6.0, "us"),
        goal("row beside the Appender", median(ratios), 1.5, "x"),
    ]


# -- eight writers


def _writing(folder: str, batches: int, seed: int, told: Any) -> None:
    log, facts, took_ms = Log.open(folder), made(200, seed), []
    for _ in range(batches):
        for fact in facts:
            object.__setattr__(fact, "span_id", f"{random.getrandbits(64):016x}")
        start_s = time.perf_counter()
        log.write(*facts)
        took_ms.append((time.perf_counter() - start_s) * 1e3)
        time.sleep(0.01)  # a writer that never does anything else would wait for the processor, not for the log
    log.close()
    told.put(took_ms)


def of_writers(processes: int = 8, batches: int = 100) -> Goals:
    """Batches of 200 spans from all processes at once, while another reads the log over and over."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        log, told = Log.open(folder), context.Queue()
        writers = [context.Process(target=_writing, args=(folder, batches, n + 1, told)) for n in range(processes)]
        for writer in writers:
            writer.start()
        took_ms: list[float] = []
        reads = 0
        while len(took_ms) < processes * batches:
            log.rows("select count(*) from spans")
            reads += 1
            while not told.empty():
                took_ms += told.get()
        for writer in writers:
            writer.join()
        ((rows,),) = log.rows("select count(*) from spans")
    assert rows == processes * batches * 200, f"{rows} rows"
    took_ms.sort()
    p50, p95 = took_ms[len(took_ms) // 2], took_ms[int(0.95 * len(took_ms))]
    print(f"writers: {processes} x {batches} batches of 200, p50 {p50:.2f}, p95 {p95:.2f}, most {took_ms[-1]:.1f} ms; "
          f"{reads} reads beside them")  # fmt: skip
    return [goal("batch of eight writers, p95", p95, 5.0, "ms")]


# -- a report


def of_report(rounds: int, spans: int) -> Goals:
    """The report query through the view and over a plain table with the same columns and rows, and bytes of a span."""
    with tempfile.TemporaryDirectory() as folder:
        log = Log.open(folder)
        stored = _filled(log, spans)
        print(f"report: {spans:,} spans, {stored:.1f} bytes each with random names (mark: 80)")

        def timed(table: str) -> Callable[[], float]:
            sql = REPORT.format(hour=HOUR, table=table)

            def run() -> float:
                with log.snapshot() as con:
                    return cpu_s(lambda: con.execute(sql).fetchall())

            return run

        found = interleaved({"view": timed("spans"), "plain": timed("log.plain")}, rounds)
    for name, costs in found.items():
        print(f"report, {name}: {spread(costs)} s CPU")
    ratios = [o / a for o, a in zip(found["view"], found["plain"], strict=True)]
    return [goal("report beside plain SQL", median(ratios), 1.2, "x")]


def _filled(log: Log, spans: int) -> float:
    """Bytes of a span in the database, which holds so many afterwards, and then a plain table of the same."""
    before = log.database.stat().st_size
    with log._connection() as con:
        con.execute("select setseed(0.5)")
        con.execute(
            f"""
            insert into log.spans by name
            select printf('%016x', hash(i)) as span_id, md5((i // 3)::varchar) as trace_id,
                printf('%016x', hash(i // 3 + {spans})) as parent_id, 'run-1' as run_id, 'model' as component,
                ['complete', 'embed', 'merge', 'route', 'read', 'score', 'ask', 'rewrite'][1 + i % 8] as operation,
                1_700_000_000_000_000_000 + i * 60_000_000_000 // 1000 as start_unix_ns,
                exp(6 + 0.5 * random()) as duration_ms, i % 50 > 0 as ok,
                '{{"model":"openai:gpt","item_id":"item-' || i % 5000 || '"}}' as attributes
            from range({spans}) t(i)
            """
        )
        con.execute("checkpoint")
    stored = (log.database.stat().st_size - before) / spans
    with log._connection() as con:
        con.execute("create table log.plain as from log.spans")
    return stored


# -- a pipeline


def of_pipeline(rounds: int, calls: int) -> Goals:
    """Calls over a loopback server, with tracing and without, each in a process of its own, in turns."""
    import asyncio

    from _overhead_clients import workbench
    from _overhead_worker import Caller
    from overhead import serving

    from workbench import performance_tracer

    async def measured(url: str, home: Path) -> list[float]:
        caller, ratios = Caller(workbench(url, home)), []
        await caller.make(200, 1)
        for _ in range(rounds):
            costs = {}
            for on in random.sample((True, False), 2):
                performance_tracer.enabled = on
                costs[on] = (await caller.batch(calls, 1))["cpu_s"] / calls * 1e6
            performance_tracer.enabled = True
            print(f"pipeline: {costs[True]:.0f} us with tracing, {costs[False]:.0f} without")
            ratios.append(costs[True] / costs[False])
        return ratios

    with serving() as url, tempfile.TemporaryDirectory() as folder:
        ratios = asyncio.run(measured(url, Path(folder)))
    print(f"pipeline, traced beside untraced: {spread(ratios)} x")
    return [goal("tracing of a whole call", median(ratios), 1.05, "x")]


def main(parts: Sequence[str], rounds: int, spans: int, calls: int) -> None:
    """Print what each part costs, and the goals."""
    results: Goals = []
    for part in parts:
        if part == "span":
            results += of_spans(rounds)
        elif part == "rows":
            results += of_rows(rounds)
        elif part == "writers":
            results += of_writers()
        elif part == "report":
            results += of_report(rounds, spans)
        elif part == "pipeline":
            results += of_pipeline(rounds, calls)
        else:
            sys.exit(f"no part is called {part!r}: span, rows, writers, report, pipeline")
    finish(results)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parts", default="span,rows,writers,report,pipeline")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--spans", type=int, default=10_000_000, help="of the log that is reported on")
    options.add_argument("--calls", type=int, default=1000, help="of a batch of the pipeline")
    given = options.parse_args()
    main(given.parts.split(","), given.rounds, given.spans, given.calls)
