"""What does it cost to optimize a query, and to tell its task type.

The queries are those of the bundled suites, and of the recordings where there are some. An optimizer is timed whole:
task type, expected gains of every strategy, draws, rewriting and the rows of the log, with 200 groups known and as many
as 10,000 other prompts with answers in the history. Beside it is what one regular expression costs over the query, so
that the figures have a scale. Goals: detection at most 1 ms and the whole at most 2 ms, both at the 95th percentile of
all calls (7 to 14 ms are usually promised).
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _timing import finish, goal, spread

from workbench import QueryOptimizer
from workbench.decide.rewrite import STRATEGIES, rewrite
from workbench.decide.tasks import detect

SUITES = Path(__file__).resolve().parent.parent / "data" / "suites"
WORD = re.compile(r"\w+")
QUERIES, GROUPS, HISTORY, ROUNDS = 600, 200, 10_000, 5


def prompts() -> tuple[list[str], list[str]]:
    """Queries of every kind, spread evenly over what there is; and others, for the history."""
    lines = [line for file in sorted(SUITES.glob("*.jsonl")) for line in file.read_text("utf-8").splitlines()]
    asked, others = [str(json.loads(line)["prompt"]) for line in lines], []
    if folder := os.environ.get("WORKBENCH_RECORDINGS"):
        import duckdb

        for file in sorted(Path(folder).glob("*.parquet")):
            if "." not in file.stem:  # the others are side files
                sql = "select distinct prompt from read_parquet(?) where trim(prompt) > '' order by md5(prompt)"
                found = [str(prompt) for (prompt,) in duckdb.execute(sql, [str(file)]).fetchall()]
                asked += found[:100]
                others += found[100:]
    np.random.default_rng(0).shuffle(others)
    return asked[:: max(1, len(asked) // QUERIES)], (others or asked)[:HISTORY]


def times_ms(function: Callable[[str], object], asked: list[str]) -> list[float]:
    """Milliseconds of every call, over all rounds: what exploring draws is a part of what it costs."""
    taken = []
    for _ in range(ROUNDS):
        for query in asked:
            start = time.perf_counter()
            function(query)
            taken.append((time.perf_counter() - start) * 1e3)
    return taken


def p95(values: list[float]) -> float:
    """The 95th percentile."""
    return float(np.percentile(values, 95))


def main() -> None:
    """Time detection, each strategy, and the whole."""
    asked, others = prompts()
    print(f"{len(asked)} queries of {spread([len(q) for q in asked])} characters, {len(others)} prompts in the history")
    with tempfile.TemporaryDirectory() as folder:
        optimizer = QueryOptimizer(model="m", log=Path(folder) / "log")
        rng = np.random.default_rng(0)
        for k, query in enumerate(others):
            optimized = optimizer.optimize_query(query, group=f"group {k % GROUPS}", explore=k % 10 == 0)
            optimizer.update_weights(float(rng.random()), of=optimized, answer=f"answer {k}")
        timed = {
            "one regular expression": times_ms(WORD.findall, asked),
            "detect": times_ms(detect, asked),
            **{name: times_ms(lambda q, s=name: rewrite(q, s), asked) for name in STRATEGIES},
            "optimize_query": times_ms(lambda q: optimizer.optimize_query(q, group="group 7"), asked),
            "optimize_query, no exploring": times_ms(
                lambda q: optimizer.optimize_query(q, group="group 7", explore=False), asked
            ),
        }
        last = optimizer.optimize_query(asked[0], group="group 7")
        told = times_ms(lambda _: optimizer.update_weights(0.5, of=last), asked)
        optimizer.close()
    timed["update_weights"] = told
    for name, values in timed.items():
        print(f"{name:30} ms p50 {float(np.median(values)):.3f}  p95 {p95(values):.3f}  max {max(values):.3f}")
    ratio = np.sum(timed["optimize_query"]) / np.sum(timed["one regular expression"])
    print(f"optimize_query / one regular expression: {ratio:.1f} x")
    finish([
        goal("task detection, p95", p95(timed["detect"]), 1.0, "ms"),
        goal("optimize_query, p95", p95(timed["optimize_query"]), 2.0, "ms"),
        goal("update_weights, p95", p95(timed["update_weights"]), 2.0, "ms"),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
