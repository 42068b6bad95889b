"""The views of the log: sums, percentiles and shares as worked out by hand, and no column without a word about it."""

from __future__ import annotations

import re
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from workbench.facts import Call, Decision, Failure, Request, Response, RunEnded, RunStarted, Score, Source, Usage
from workbench.record.log import Log
from workbench.record.views import VIEWS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "reading.md"
DAY_NS = 86_400_000_000_000
NOV_30 = 1_796_083_199_000_000_000  # 2026-11-30 23:59:59 UTC
SLOW = Failure(kind="LLMTimeoutError", code="timeout.deadline", message="not answered in 5 s")
BUSY = Failure(kind="LLMRateLimitError", code="provider.rate_limit", message="429")
POOR = Failure(kind="LLMValidationError", code="budget.exceeded", message="the month's budget is spent")


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.open(tmp_path / "log")


def call(span_id: str, **changes: Any) -> Call:
    """An answered call of one attempt, or a failed one where `failure` is given."""
    source: Source = changes.pop("source", "live")
    usage, cost = changes.pop("usage", Usage()), changes.pop("cost_usd", None)
    latency_ms, ttft_ms = changes.pop("latency_ms", None), changes.pop("ttft_ms", None)
    request = Request.of("Hello?")
    response = Response(
        request_key=request.key, model="m", text="Hello.", usage=usage, cost_usd=cost, latency_ms=latency_ms,
        ttft_ms=ttft_ms, source=source,
    )  # fmt: skip
    given: dict[str, Any] = {
        "span_id": span_id, "trace_id": "t", "run_id": None, "item_id": None, "provider": "lab", "model": "m",
        "request": request, "response": None if "failure" in changes else response, "failure": None,
        "start_unix_ns": NOV_30, "duration_ms": 10.0, **changes,
    }  # fmt: skip
    return Call(**given)


def test_costs_are_summed_by_provider_model_day_and_source(log: Log) -> None:
    """Every attempt counts, days are those of UTC, what has no price is counted beside the sum, months follow."""
    log.write(
        # One call: an attempt that was cut and may be billed, then the answer; both on the last second of November.
        call("a1", call_id="a", attempt=1, final=False, failure=SLOW, booked_usd=0.5),
        call("a2", call_id="a", attempt=2, attempts=2, usage=Usage(prompt_tokens=100, completion_tokens=20,
                                                                   cached_tokens=60), cost_usd=0.25, booked_usd=0.25),
        call("b", usage=Usage(prompt_tokens=7), start_unix_ns=NOV_30 - DAY_NS),  # of unknown price
        call("c", cost_usd=1.0, start_unix_ns=NOV_30 + 1_000_000_000),  # the first second of December
        call("d", cost_usd=2.0, source="recorded"),
        call("e", attempt=0, failure=POOR),  # never sent
    )  # fmt: skip
    columns = "source, calls, attempts, answered, unpriced, prompt_tokens, cached_tokens, cost_usd, booked_usd"
    assert log.rows(f"select day, {columns} from costs order by day, source") == [
        (date(2026, 11, 29), "live", 1, 1, 1, 1, 7, None, None, None),
        (date(2026, 11, 30), "live", 2, 2, 1, 0, 100, 60, 0.25, 0.75),
        (date(2026, 11, 30), "recorded", 1, 1, 1, 0, None, None, 2.0, None),
        (date(2026, 12, 1), "live", 1, 1, 1, 0, None, None, 1.0, None),
    ]
    assert log.rows(f"select month, {columns} from monthly_costs order by month, source") == [
        ("2026-11", "live", 3, 3, 2, 1, 107, 60, 0.25, 0.75),
        ("2026-11", "recorded", 1, 1, 1, 0, None, None, 2.0, None),
        ("2026-12", "live", 1, 1, 1, 0, None, None, 1.0, None),
    ]


def test_latency_has_percentiles_of_answered_calls_by_source(log: Log) -> None:
    """Of 0, 10, ..., 1000 ms the p-th percentile is 10 p; failed calls are counted beside, other sources apart."""
    log.write(
        *(
            call(f"a{k}", duration_ms=10.0 * k, call_ms=20.0 * k, latency_ms=5.0 * k, ttft_ms=1.0 * k, attempts=1)
            for k in range(101)
        ),
        call("late", duration_ms=60_000.0, failure=SLOW),
        call("old", duration_ms=0.5, latency_ms=700.0, source="recorded"),
    )
    ours, recorded = sorted(log.records("from latency"), key=lambda row: str(row["source"]))
    assert (ours["source"], ours["calls"], ours["unanswered"]) == ("live", 101, 1)
    for column, step in (("duration_ms", 10), ("call_ms", 20), ("latency_ms", 5), ("ttft_ms", 1)):
        assert [ours[f"p{p}_{column}"] for p in (50, 90, 95, 99)] == pytest.approx([p * step for p in (50, 90, 95, 99)])
    assert (recorded["source"], recorded["calls"], recorded["unanswered"]) == ("recorded", 1, 0)
    assert (recorded["p50_duration_ms"], recorded["p99_latency_ms"], recorded["p50_ttft_ms"]) == (0.5, 700.0, None)


def test_errors_have_their_share_their_times_and_the_newest_message(log: Log) -> None:
    """Of eight rows of a model two failed one way and one another; a refusal of another model is all of its rows."""
    second = 1_000_000_000
    newest = Failure(kind=BUSY.kind, code=BUSY.code, message="429, again")
    log.write(
        *(call(f"ok{k}") for k in range(5)),
        call("b1", call_id="b", final=False, failure=BUSY, start_unix_ns=NOV_30 + second),
        call("b2", call_id="b", attempt=2, attempts=2, failure=newest, start_unix_ns=NOV_30 + 2 * second),
        call("s", failure=SLOW),
        call("r", provider="simulated", model="simulated:weak", attempt=0, failure=POOR),
    )
    columns = "model, source, failure_kind, failure_code, failures, calls, share, first_seen, last_seen, example"
    start, first, then = map(
        datetime.fromisoformat, ("2026-11-30 23:59:59", "2026-12-01 00:00:00", "2026-12-01 00:00:01")
    )
    assert log.rows(f"select {columns} from errors order by model, failure_code") == [
        ("m", "live", BUSY.kind, BUSY.code, 2, 1, 2 / 8, first, then, "429, again"),
        ("m", "live", SLOW.kind, SLOW.code, 1, 1, 1 / 8, start, start, SLOW.message),
        ("simulated:weak", "simulated", POOR.kind, POOR.code, 1, 1, 1.0, start, start, POOR.message),
    ]


def test_scores_and_merges_name_the_source_of_their_answers(log: Log) -> None:
    """A simulated or recorded model tells it by its name; a merge or another model has its run's; else it is null."""
    log.write(
        RunStarted(run_id="r", name="n", source="live+simulated", models=(), spec={}, start_unix_ns=1),
        *(
            Score(run_id="r", item_id="i", model=m, scorer="s", value=1.0)
            for m in ("simulated:weak", "recorded:a/b", "majority_voting")
        ),
        Score(run_id=None, item_id="i", model="m", scorer="s", value=1.0),
        Decision(span_id="d", request_key="k", kind="merge", policy="majority_voting", version="1", params={},
                 inputs={}, output={"answer": "4"}, duration_us=1.0, run_id="r", item_id="i"),
    )  # fmt: skip
    assert log.rows("select model, source from scores order by model") == [
        ("m", None), ("majority_voting", "live+simulated"), ("recorded:a/b", "recorded"),
        ("simulated:weak", "simulated"),
    ]  # fmt: skip
    assert log.rows("select answer, source from merges") == [("4", "live+simulated")]


def test_a_run_that_ended_twice_has_its_newest_end(log: Log) -> None:
    """The end that lies last in time counts, whichever was written first; the run stays one row."""
    log.write(
        RunStarted(run_id="r", name="n", source="live", models=(), spec={}, start_unix_ns=1),
        RunEnded(run_id="r", status="finished", end_unix_ns=9, items=5, cpu_s=0.5, peak_rss_bytes=7),
        RunEnded(run_id="r", status="cancelled", end_unix_ns=4, items=2, failure=SLOW),
    )
    columns = "status, end_unix_ns, items, failure, cpu_s, peak_rss_bytes"
    assert log.rows(f"select {columns} from runs") == [("finished", 9, 5, None, 0.5, 7)]
    assert log.rows("select count(*) from log.run_ends") == [(2,)]


def test_every_column_of_every_view_is_in_the_reference(log: Log) -> None:
    """docs/reference/reading.md names exactly the views there are, and under each exactly its columns."""
    page = PAGE.read_text(encoding="utf-8")
    told: dict[str, set[str]] = {}
    for name, part in re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", page, re.M | re.S):
        told[name] = set(re.findall(r"^\| `(\w+)` \|", part, re.M))
        for other, without in re.findall(r"All columns of `(\w+)` but (.*?)\.", part):
            told[name] |= told[other] - set(re.findall(r"`(\w+)`", without))
    found: dict[str, set[str]] = {}
    for view, column in log.rows(
        "select table_name, column_name from duckdb_columns() where schema_name = 'main' and not internal"
    ):
        found.setdefault(view, set()).add(column)
    assert set(found) == set(VIEWS)
    assert told == found


def test_the_queries_of_the_reference_run(log: Log) -> None:
    """Every example of SQL in docs/reference/reading.md is answered."""
    log.write(call("a", cost_usd=1.0), call("b", failure=BUSY))
    queries = re.findall(r"^    (select .*)$", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(queries) >= 3
    assert all(log.rows(query) for query in queries)
