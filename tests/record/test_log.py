"""The log: every acknowledged fact arrives once, whatever is killed, torn, full or in the way."""

from __future__ import annotations

import json
import logging
import math
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.processes import environment, output
from workbench.canonical import text_hash
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import (
    Call,
    Contribution,
    Decision,
    Failure,
    Item,
    ItemAsked,
    Message,
    ModelContribution,
    Request,
    Response,
    RunEnded,
    RunStarted,
    Score,
    Span,
    Usage,
)
from workbench.record import ingest, spool
from workbench.record.log import Log
from workbench.record.schema import COLUMNS, MIGRATIONS, VERSION
from workbench.record.spool import checked, encode

HOSTILE = "x'); drop table log.scores; --"
BROKEN = Failure(kind="provider", code="provider.error", message="went away", retryable=True, status=503)


def call(span_id: object = "s1", *, prompt: str = "2+2?", text: str | None = "4", **changes: Any) -> Call:
    request = changes.pop("request", None) or Request.of(prompt, task="reasoning", item_id="i1")
    response = None
    if text is not None:
        response = Response(
            request_key="k",
            model="p:m",
            text=text,
            usage=changes.pop("usage", Usage(prompt_tokens=5, completion_tokens=1)),
            latency_ms=12.5,
            ttft_ms=3.25,
            cost_usd=0.002,
            finish_reason="stop",
            source="live",
        )
    fields: dict[str, Any] = {
        "trace_id": "t1", "run_id": "r1", "item_id": "i1", "provider": "p", "model": "m", "failure": None,
        "start_unix_ns": 1_700_000_000_000_000_000, "duration_ms": 14.5,
    }  # fmt: skip
    return Call(span_id=str(span_id), request=request, response=response, **{**fields, **changes})


def span(span_id: object = "s1", **attributes: Any) -> Span:
    return Span(
        trace_id="t1",
        span_id=str(span_id),
        parent_id=None,
        component="c",
        operation="o",
        start_unix_ns=1,
        duration_ms=2.5,
        ok=True,
        attributes=attributes,
    )


def score(item: object = "i1", value: float = 1.0, *, model: str = "p:m") -> Score:
    return Score(item_id=str(item), model=model, scorer="exact", value=value, run_id="r1")


def child(code: str, *args: object) -> subprocess.Popen[str]:
    """A real process that runs the code after `log = Log.open(argv[1])` and with score() at hand."""
    setup = """
import os, sys, time, random
from workbench.errors import LLMError
from workbench.facts import Score
from workbench.record.log import Log
def score(item):
    return Score(item_id=str(item), model="p:m", scorer="exact", value=1.0, run_id="r1")
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
        env=environment(code),
    )


def counted(log: Log) -> tuple[int, int]:
    """Number of scores, and of different ones."""
    [(rows, different)] = log.rows("select count(*), count(distinct (run_id, item_id, model, scorer)) from scores")
    return rows, different


def spooled(folder: Path) -> list[Path]:
    return sorted((folder / "spool").glob("*.spool"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def log(folder: Path) -> Iterator[Log]:
    opened = Log.open(folder)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A log with one score, for queries that may change nothing."""
    opened = Log.open(tmp_path_factory.mktemp("kept"))
    opened.write(score("a"))
    opened.close()
    return opened


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    """A log that several tests write to, each under ids of its own."""
    opened = Log.open(tmp_path_factory.mktemp("shared"))
    yield opened
    opened.close()


# -- facts come back as they were written


def test_a_call_reads_back_as_written(log: Log) -> None:
    """An answered call is one row of `calls` with every number it came with."""
    fact = call()
    log.write(fact)
    [row] = log.records("select * from calls")
    assert json.loads(row.pop("params")) == {}
    assert row == {
        "span_id": "s1", "trace_id": "t1", "run_id": "r1", "item_id": "i1", "provider": "p", "model": "m",
        "request_key": fact.request.key, "prompt_hash": text_hash("2+2?"), "sample": 0, "source": "live",
        "start_unix_ns": 1_700_000_000_000_000_000, "duration_ms": 14.5, "latency_ms": 12.5, "ttft_ms": 3.25,
        "prompt_tokens": 5, "completion_tokens": 1, "cost_usd": 0.002, "finish_reason": "stop",
        "response_hash": text_hash("4"), "ok": True, "failure_kind": None, "failure_code": None,
        "failure_message": None, "call_id": "s1", "attempts": 1, "member": "m", "status": "ok",
        "possibly_billed": False, "request_id": None, "served_model": None, "cached_tokens": None, "flags": None,
        "idempotency_key": None, "call_ms": 14.5, "booked_usd": None,
    }  # fmt: skip


def test_every_attempt_is_a_row_and_a_call_is_its_final_one(log: Log) -> None:
    """`attempts` has what was sent, `calls` one row a call; what was never sent is a call without an attempt."""
    first = replace(call(text=None, failure=BROKEN), call_id="c1", final=False, member="mine", idempotency_key="k1")
    answer = replace(call(), span_id="s2", call_id="c1", attempt=2, model="other", member="mine")
    refused = replace(call(text=None, failure=BROKEN), span_id="s3", call_id="c2", attempt=0)
    log.write(first, answer, refused)
    seen = log.rows("select call_id, attempt, model, status, final from attempts order by attempt")
    assert seen == [("c1", 1, "m", "error", False), ("c1", 2, "other", "ok", True)]
    calls = log.rows("select call_id, attempts, member, model, status from calls order by call_id")
    assert calls == [("c1", 2, "mine", "other", "ok"), ("c2", 0, "m", "m", "refused")]
    assert log.rows("select idempotency_key from attempts where attempt = 1") == [("k1",)]


def test_what_a_failed_attempt_brought_is_kept(log: Log) -> None:
    """The text that had arrived, its tokens and its cost, and that it may be billed, stay with the failed attempt."""
    cut = Failure(
        kind="LLMProviderError", code="provider.connection", message="cut", partial="half an ans", request_id="req_1",
        usage=Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=2), cost_usd=0.5, possibly_billed=True,
    )  # fmt: skip
    log.write(call(text=None, failure=cut))
    [row] = log.records("select c.*, t.text from attempts c join texts t on t.hash = c.response_hash")
    wanted = ("text", "request_id", "prompt_tokens", "completion_tokens", "cached_tokens", "cost_usd")
    assert [row[name] for name in wanted] == ["half an ans", "req_1", 7, 3, 2, 0.5]
    assert (row["possibly_billed"], row["ok"], row["status"]) == (True, False, "error")


def test_st_older_log_of_version_1_is_brought_up_to_date(folder: Path) -> None:
    """Rows written before calls had attempts read as calls of one attempt under the model's own name."""
    folder.mkdir()
    with duckdb.connect(str(folder / "workbench.duckdb")) as con:
        con.execute(MIGRATIONS[0])
        con.execute("insert into log.schema_version values (1, 0)")
        for span_id, ok, code in (("a", True, None), ("b", False, "timeout.deadline"), ("c", False, "cancelled")):
            con.execute(
                "insert into log.calls (span_id, model, provider, ok, failure_code) values (?, 'm', 'p', ?, ?)",
                [span_id, ok, code],
            )
    log = Log.open(folder)
    log.write(call(span_id="d"))
    assert log.rows("select span_id, call_id, attempts, member, status from calls order by span_id") == [
        ("a", "a", 1, "m", "ok"), ("b", "b", 1, "m", "timeout"), ("c", "c", 1, "m", "cancelled"),
        ("d", "d", 1, "m", "ok"),
    ]  # fmt: skip
    log.close()


def test_a_failed_call_reads_back_with_its_failure(log: Log) -> None:
    """A call without an answer keeps its prompt and its failure, and says nothing about an answer."""
    log.write(call(text=None, failure=BROKEN, run_id=None))
    [row] = log.records("select * from calls")
    assert (row["ok"], row["failure_kind"], row["failure_code"], row["failure_message"]) == (
        False, "provider", "provider.error", "went away",
    )  # fmt: skip
    unknown = ("source", "latency_ms", "prompt_tokens", "cost_usd", "finish_reason", "response_hash", "run_id")
    assert {row[name] for name in unknown} == {None}
    assert log.rows("select prompt, response from answers") == [("2+2?", None)]


def test_a_conversation_is_stored_whole(log: Log) -> None:
    """Several messages are one prompt text, as JSON with their roles."""
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="Hi\n“you”"))
    log.write(call(request=Request(messages=messages, params={"temperature": 0.5, "stop": ["\n"]}, sample=3)))
    [(prompt, params, sample)] = log.rows("select prompt, params, sample from answers join calls using (run_id)")
    assert json.loads(prompt) == [["system", "Be brief."], ["user", "Hi\n“you”"]]
    assert (json.loads(params), sample) == ({"temperature": 0.5, "stop": ["\n"]}, 3)


VIEWS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    (
        "spans",
        (
            Span(
                trace_id="t1", span_id="s9", parent_id="s8", component="router", operation="select",
                start_unix_ns=7, duration_ms=0.5, ok=False, failure=BROKEN, attributes={"n": 1, "x": [True, None]},
                run_id="r1",
            ),
        ),
        {
            "span_id": "s9", "trace_id": "t1", "parent_id": "s8", "run_id": "r1", "component": "router",
            "operation": "select", "start_unix_ns": 7, "duration_ms": 0.5, "ok": False,
            "failure_kind": "provider", "failure_code": "provider.error", "failure_message": "went away",
            "attributes": '{"n":1,"x":[true,null]}',
        },
    ),
    (
        "decisions",
        (
            Decision(
                span_id="s2", request_key="k", kind="route", policy="cheapest", version="1", params={"a": 0.1},
                inputs={"models": ["m"]}, output=["m"], duration_us=41.5, run_id="r1", item_id="i1",
            ),
        ),
        {
            "span_id": "s2", "run_id": "r1", "item_id": "i1", "request_key": "k", "kind": "route",
            "policy": "cheapest", "version": "1", "params": '{"a":0.1}', "inputs": '{"models":["m"]}',
            "output": '["m"]', "duration_us": 41.5,
        },
    ),
    (
        "merges",
        (
            Decision(
                span_id="s3", request_key="k", kind="merge", policy="majority_voting", version="1", params={},
                inputs={}, output={"answer": "4", "tied": ["4"], "confidence": 0.75, "agreement": 1.0},
                duration_us=3.0, run_id="r1", item_id="i1",
            ),
        ),
        {
            "run_id": "r1", "item_id": "i1", "strategy": "majority_voting", "version": "1", "params": "{}",
            "answer": "4", "tied": '["4"]', "confidence": 0.75, "agreement": 1.0, "duration_us": 3.0,
            "request_key": "k", "span_id": "s3", "source": None,
        },
    ),
    (
        "scores",
        (Score(item_id="i1", model="p:m", scorer="exact", value=0.1 + 0.2),),
        {"run_id": "", "item_id": "i1", "model": "p:m", "scorer": "exact", "value": 0.1 + 0.2, "source": None},
    ),
    (
        "contributions",
        (
            Contribution(
                run_id="r1",
                item_id="i1",
                part=ModelContribution(
                    model="p:m", failure=BROKEN, answer=None, quality=0.5, quality_source="other items",
                    weight=2.0, status="failed",
                ),
            ),
        ),
        {
            "run_id": "r1", "item_id": "i1", "model": "p:m", "answer": None, "quality": 0.5,
            "quality_source": "other items", "weight": 2.0, "status": "failed", "failure_code": "provider.error",
        },
    ),
    (
        "items",
        (
            ItemAsked(
                run_id="r1",
                position=4,
                item=Item(item_id="i1", task="general", prompt="Q", reference="A", metadata={"options": ("A", "B")}),
            ),
        ),
        {
            "run_id": "r1", "item_id": "i1", "position": 4, "task": "general", "prompt_hash": text_hash("Q"),
            "reference": "A", "metadata": '{"options":["A","B"]}',
        },
    ),
    (
        "runs",
        (RunStarted(run_id="r1", name="n", source="suite", models=("p:m", "p:n"), spec={"seed": 1}, start_unix_ns=5),),
        {
            "run_id": "r1", "name": "n", "source": "suite", "models": '["p:m","p:n"]', "spec": '{"seed":1}',
            "start_unix_ns": 5, "status": "unfinished", "end_unix_ns": None, "items": None, "failure": None,
            "cpu_s": None, "peak_rss_bytes": None,
        },
    ),
    (
        "runs",
        (
            RunStarted(run_id="r1", name="n", source="suite", models=(), spec={}, start_unix_ns=5),
            RunEnded(run_id="r1", status="crashed", end_unix_ns=7, items=3),
            RunEnded(
                run_id="r1", status="finished", end_unix_ns=9, items=3, cpu_s=1.5, peak_rss_bytes=2**30
            ),
        ),
        {
            "run_id": "r1", "name": "n", "source": "suite", "models": "[]", "spec": "{}", "start_unix_ns": 5,
            "status": "finished", "end_unix_ns": 9, "items": 3, "failure": None, "cpu_s": 1.5,
            "peak_rss_bytes": 2**30,
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("view", "facts", "expected"), VIEWS, ids=[f"{v}-{len(f)}-{f[0].__class__.__name__}" for v, f, _ in VIEWS]
)
def test_every_kind_of_fact_reads_back_as_written(
    log: Log, view: str, facts: tuple[Any, ...], expected: dict[str, Any]
) -> None:
    """A fact is one row of its view, value for value."""
    log.write(*facts)
    assert log.records(f"select * from {view}") == [expected]


def test_a_failed_run_keeps_its_failure(log: Log) -> None:
    """The failure that ended a run is in the view of runs."""
    log.write(
        RunStarted(run_id="r1", name="n", source="s", models=(), spec={}, start_unix_ns=5),
        RunEnded(run_id="r1", status="failed", end_unix_ns=9, items=0, failure=BROKEN),
    )
    [(status, failure)] = log.rows("select status, failure from runs")
    assert status == "failed"
    assert json.loads(failure) == {"kind": "provider", "code": "provider.error", "message": "went away"}


def test_a_text_is_stored_once(log: Log, folder: Path) -> None:
    """The same prompt or answer of many calls, items and processes is one row of `texts`."""
    log.write(*(call(i) for i in range(50)))
    log.write(ItemAsked(run_id="r1", position=0, item=Item(item_id="i1", task="general", prompt="2+2?")))
    log.close()
    again = Log.open(folder)
    again.write(call("later"))
    assert again.rows("select text from texts order by text") == [("2+2?",), ("4",)]
    assert again.rows("select count(*), min(prompt), min(response) from answers") == [(51, "2+2?", "4")]


def test_nothing_written_is_nothing_read(log: Log) -> None:
    """An empty write and an empty log are no error."""
    log.write()
    assert log.rows("select * from calls") == []
    assert log.ingest() == 0


def test_records_and_frames_name_their_columns(log: Log) -> None:
    """rows, records and frame give the same query as tuples, mappings and a pandas frame."""
    log.write(score("a", 0.5))
    sql, params = "select item_id, value from scores where item_id = ?", ["a"]
    assert log.rows(sql, params) == [("a", 0.5)]
    assert log.records(sql, params) == [{"item_id": "a", "value": 0.5}]
    assert log.frame(sql, params).to_dict("records") == [{"item_id": "a", "value": 0.5}]


# -- several processes and threads (nb)


def test_nb_two_kernels_see_each_other_at_once(log: Log, folder: Path) -> None:
    """A snapshot holds rows that another living process has just had acknowledged."""
    process = child(
        """
        for line in sys.stdin:
            log.write(score(line.strip()))
            say("acknowledged")
        """,
        folder,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for n in range(1, 6):
        process.stdin.write(f"{n}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "acknowledged\n"
        assert counted(log) == (n, n)
    output(process)


def test_nb_two_kernels_and_six_more_write_while_another_reads(log: Log, folder: Path) -> None:
    """Eight processes write and one polls: all rows arrive, none twice, and nobody sees a lock error."""
    writers = [
        child(
            """
            for n in range(0, 2000, 10):
                log.write(*(score(f"{sys.argv[2]}/{n + i}") for i in range(10)))
            log.close()
            """,
            folder,
            name,
        )
        for name in range(8)
    ]
    seen = [0]
    while any(w.poll() is None for w in writers):
        rows, different = counted(log)
        assert rows == different
        seen.append(rows)
        time.sleep(0.02)
    for writer in writers:
        output(writer)
    assert seen == sorted(seen)
    assert counted(log) == (16_000, 16_000)


def test_nb_two_kernels_that_write_and_read_both_go_on(folder: Path) -> None:
    """Processes that write, ingest and read in turns all end well with everybody's rows."""
    kernels = [
        child(
            """
            for n in range(12):
                log.write(*(score(f"{sys.argv[2]}/{n}/{i}") for i in range(8)))
                mine = log.rows("select count(*) from scores where item_id like ?", [f"{sys.argv[2]}/%"])
                assert mine == [((n + 1) * 8,)], mine
            """,
            folder,
            name,
        )
        for name in range(4)
    ]
    for kernel in kernels:
        output(kernel)
    assert counted(Log.open(folder)) == (384, 384)


def test_nb_two_kernels_may_open_a_new_folder_together(folder: Path) -> None:
    """Processes that open a folder for the first time at once make one log."""
    kernels = [child("log.write(score(sys.argv[2]))", folder, name) for name in range(4)]
    for kernel in kernels:
        output(kernel)
    log = Log.open(folder)
    assert log.rows("select version from log.schema_version order by 1") == [(n + 1,) for n in range(VERSION)]
    assert counted(log) == (4, 4)


def test_nb_two_kernels_where_one_forks_during_a_read_do_not_wait(log: Log, folder: Path) -> None:
    """A child forked while a snapshot is open does not hold the folder's lock after the snapshot is closed."""
    process = child(
        """
        with log.snapshot():
            pid = os.fork()
            if pid == 0:
                time.sleep(3)
                os._exit(0)
        say("closed")
        os.waitpid(pid, 0)
        """,
        folder,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "closed\n"
    log.write(score("a"))
    start = time.monotonic()
    assert counted(log) == (1, 1)
    waited = time.monotonic() - start
    output(process)
    assert waited < 1.5


def test_one_process_may_open_a_log_twice(log: Log, folder: Path) -> None:
    """Two logs of one folder in one process read and write as two processes do."""
    other = Log.open(folder)
    log.write(score("a"))
    other.write(score("b"))
    assert counted(log) == counted(other) == (2, 2)
    log.write(score("c"))
    assert counted(other) == (3, 3)
    assert counted(log) == (3, 3)


def test_a_written_fact_can_be_read_inside_an_open_snapshot_of_the_same_thread(log: Log) -> None:
    """A query inside the body of a snapshot answers; it does not wait for its own caller's lock."""
    done = threading.Event()

    def work() -> None:
        with log.snapshot():
            log.write(score("a"))
            with suppress(LLMError):
                log.rows("select 1")
        done.set()

    threading.Thread(target=work, daemon=True).start()
    assert done.wait(5)


def test_many_threads_write_and_read_one_log(log: Log) -> None:
    """Eight threads write and three read: no error, every row once, and each reader sees its own writes."""
    errors: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for n in range(40):
                log.write(*(score(f"{name}/{n}/{i}") for i in range(5)), call(f"{name}/{n}", text=f"answer {n % 7}"))
                if name < 3 and n % 8 == 0:
                    got = log.rows("select count(*) from scores where item_id like ?", [f"{name}/%"])
                    assert got == [((n + 1) * 5,)]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert counted(log) == (1600, 1600)
    assert log.rows("select count(*), count(prompt), count(response) from answers") == [(320, 320, 320)]
    assert log.rows("select count(*) from texts") == [(8,)]


def test_a_forked_child_writes_to_the_same_log(folder: Path) -> None:
    """Rows that parent and child write after a fork both arrive once."""
    process = child(
        """
        log.write(*(score(f"before/{i}") for i in range(10)))
        pid = os.fork()
        who = "parent" if pid else "child"
        log.write(*(score(f"{who}/{i}") for i in range(10)))
        if pid == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        say(log.rows("select count(*) from scores")[0][0])
        """,
        folder,
    )
    assert output(process) == "30\n"
    assert counted(Log.open(folder)) == (30, 30)


# -- storage: kills (st)


def test_st_kill9_of_a_writer_loses_nothing_acknowledged(log: Log, folder: Path) -> None:
    """After SIGKILLs at random moments every acknowledged row is there, once."""
    seed = random.Random(3)
    acknowledged: set[str] = set()
    for life in range(4):
        process = child(
            """
            n = 0
            while True:
                log.write(*(score(f"{sys.argv[2]}/{n}/{i}") for i in range(30)))
                say(f"{sys.argv[2]}/{n}")
                n += 1
            """,
            folder,
            life,
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(seed.randrange(5, 300))]
        process.kill()
        lines += [process.communicate()[0]]
        acknowledged.update(f"{batch}/{i}" for batch in "".join(lines).split() for i in range(30))
        if life % 2:
            rows, different = counted(log)
            assert rows == different
    got = [item for (item,) in log.rows("select item_id from scores")]
    assert len(got) == len(set(got))
    assert acknowledged <= set(got)
    assert len(acknowledged) > 500


def test_st_kill9_during_ingest_loses_and_doubles_nothing(log: Log, folder: Path) -> None:
    """A process killed while it moves the spool into the database leaves every row there once."""
    seed = random.Random(11)
    written = 0
    for _ in range(6):
        process = child(
            """
            say("ready")
            while True:
                log.ingest()
            """,
            folder,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        end = time.monotonic() + seed.uniform(0.005, 0.12)
        while time.monotonic() < end:
            log.write(*(score(written + i) for i in range(200)), call(written, prompt=f"prompt {written}"))
            written += 200
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert counted(log) == (written, written)
    assert log.rows("select count(*), count(prompt) from answers") == [(written // 200, written // 200)]


def test_st_kill9_after_ingest_leaves_a_readable_database(log: Log, folder: Path) -> None:
    """Reading works at once after a kill, also when nothing is left to ingest."""
    log.write(score("a"))
    process = child(
        """
        log.ingest()
        with log._connection() as con:
            con.execute("insert into log.scores values ('r1', 'b', 'm', 's', 1.0)")
            say("committed")
            time.sleep(60)
        """,
        folder,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "committed\n"
    process.kill()
    process.communicate()
    assert counted(log) == (2, 2)


def test_st_kill9_during_the_first_open_leaves_a_folder_that_opens(tmp_path: Path) -> None:
    """A process killed at a random moment of the first migration never spoils its folder."""
    seed = random.Random(5)
    for life in range(3):
        place = tmp_path / str(life)
        process = child(
            """
            for n in range(10_000):
                Log.open(f"{sys.argv[1]}/{n}")
                say(n)
            """,
            place,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seed.uniform(0, 0.12))
        process.kill()
        process.communicate()
        for made in (p for p in place.iterdir() if p.name.isdigit()):
            log = Log.open(made)
            log.write(score("a"))
            assert counted(log) == (1, 1)


def test_st_kill9_during_an_upgrade_leaves_the_former_version(log: Log, folder: Path) -> None:
    """A later version killed inside its migration leaves a database that this version opens with all rows."""
    log.write(score("a"))
    assert counted(log) == (1, 1)
    process = child(
        """
        from workbench.record import migrations as module
        module.MIGRATIONS += ("create table log.big as select i, i::varchar as t from range(20_000_000) r(i);",)
        module.VERSION += 1
        say("begins")
        Log.open(sys.argv[1])
        say("ended")
        """,
        folder,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    time.sleep(0.25)
    process.kill()
    assert process.communicate()[0] == ""
    again = Log.open(folder)
    assert again.rows("select max(version) from log.schema_version") == [(VERSION,)]
    assert counted(again) == (1, 1)


# -- storage: spool files (st)


def test_st_spool_dup_file_under_another_name_adds_nothing(log: Log, folder: Path) -> None:
    """A spool file that comes back under another name adds no row."""
    log.write(*(score(i) for i in range(100)), call(), span(), call("s2", text="5"))
    log.close()
    [path] = spooled(folder)
    copy = folder / "copy"
    shutil.copy(path, copy)
    before = {t: log.rows(f"select * from {t} order by all") for t in ("scores", "calls", "spans", "texts")}
    assert spooled(folder) == []
    for name in ("00000000000000000000-1-aa.spool", "99999999999999999999-1-bb.spool"):
        shutil.copy(copy, folder / "spool" / name)
        assert {t: log.rows(f"select * from {t} order by all") for t in before} == before
    assert spooled(folder) == []


def test_st_spool_dup_rows_within_one_file_are_one_row(log: Log) -> None:
    """A fact written twice before any reading is there once."""
    log.write(score("a"), score("a"))
    log.write(score("a"), call(), call())
    assert counted(log) == (1, 1)
    assert log.rows("select count(*) from calls") == [(1,)]


def set_aside(folder: Path, name: str) -> bytes:
    """What was set aside of the spool file, in the order of reading."""
    return b"".join(part.read_bytes() for part in sorted((folder / "torn").glob(f"{name}.*")))


def test_st_spool_torn_last_line_is_reported_once(log: Log, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A torn line of a dead writer is one warning; the whole rows are read and the bytes are kept."""
    log.write(score("a"), score("b"))
    log.close()
    [path] = spooled(folder)
    with path.open("ab") as file:
        file.write(b'0badc0de ["scores","r1","c"')
    for _ in range(3):
        assert counted(log) == (2, 2)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert path.name in warnings[0]
    assert warnings[0].startswith("1 lines")
    assert set_aside(folder, path.name) == b'0badc0de ["scores","r1","c"'
    assert spooled(folder) == []


def test_st_spool_torn_line_in_a_living_file_costs_only_itself(log: Log, folder: Path) -> None:
    """A damaged line in the middle of a file is set aside while later rows of its writer still arrive."""
    log.write(score("a"))
    [path] = spooled(folder)
    with path.open("ab") as file:
        file.write(b"00000000 [damaged]\n")
    log.write(score("b"))
    assert counted(log) == (2, 2)
    log.write(score("c"))
    assert counted(log) == (3, 3)
    assert set_aside(folder, path.name) == b"00000000 [damaged]\n"


@pytest.mark.parametrize(
    "content",
    [b'deadbeef ["#columns",{"sco', b"not ours at all\nnor this\n"],
    ids=["cut", "foreign"],
)
def test_st_spool_torn_header_ends_in_torn_and_reading_goes_on(folder: Path, content: bytes) -> None:
    """A dead file without a readable header is set aside once, and everything else is read."""
    process = child(
        """
        log.write(score("a"))
        say("written")
        sys.stdin.read(1)
        """,
        folder,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    (folder / "spool" / "0-headless.spool").write_bytes(content)
    reader = child("say(log.rows('select count(*) from scores')[0][0])", folder)
    try:
        assert output(reader, timeout_s=3) == "1\n"
        assert set_aside(folder, "0-headless.spool") == content
        assert not (folder / "spool" / "0-headless.spool").exists()
    finally:
        process.kill()
        process.communicate()


def test_st_spool_empty_file_of_a_dead_writer_is_removed(log: Log, folder: Path) -> None:
    """A spool file without a byte is no error and does not stay."""
    (folder / "spool" / "0-1-1.spool").touch()
    log.write(score("a"))
    assert counted(log) == (1, 1)
    assert [p.name for p in spooled(folder)] != []
    assert not (folder / "spool" / "0-1-1.spool").exists()


@pytest.mark.parametrize(
    "usage",
    [Usage(prompt_tokens=2**70), Usage(completion_tokens=-(2**70)), Usage(prompt_tokens="many")],  # type: ignore[arg-type]
    ids=["huge", "hugely negative", "text"],
)
def test_st_spool_row_that_no_column_can_hold_does_not_stop_the_others(log: Log, usage: Usage) -> None:
    """A provider's absurd token count costs at most its own number, never the reading of the log."""
    log.write(call("before"), score("a"))
    log.write(call("absurd", usage=usage))
    log.write(call("after"))
    got = {row[0] for row in log.rows("select span_id from calls")}
    assert {"before", "after"} <= got
    assert counted(log) == (1, 1)


def test_st_spool_keeps_the_text_of_a_call_whose_batch_was_refused(log: Log) -> None:
    """A write that raises has stored nothing, so the same prompt is stored with the next call."""
    bad = Request(messages=(Message(role="user", content="hello"),), params={"temperature": math.nan})
    with suppress(LLMError, ValueError):
        log.write(call("bad", request=bad))
    log.write(call("good", prompt="hello", text="hi"))
    assert log.rows("select prompt, response from answers join calls c using (model) where c.span_id = 'good'")[-1] == (
        "hello", "hi",
    )  # fmt: skip


def test_st_disk_full_rows_are_written_when_there_is_space_again(folder: Path) -> None:
    """Rows refused by a full disk stay in memory, the error says so, and nothing is lost or doubled."""
    process = child(
        """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        free = resource.RLIM_INFINITY
        log.write(score("first"))
        [path] = list(log.spool.glob("*.spool"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, free))
        for n in range(20):
            log.write(*(score(f"{n}/{i}") for i in range(20)))
        try:
            log.rows("select 1")
        except LLMError as error:
            say(error.code.split(".")[0])
        resource.setrlimit(resource.RLIMIT_FSIZE, (free, free))
        say(log.rows("select count(*) from scores")[0][0])
        """,
        folder,
    )
    assert output(process, timeout_s=8).split() == ["storage", "401"]
    assert counted(Log.open(folder)) == (401, 401)


# -- storage: folders and databases that are not as they should be (st)


def test_st_readonly_folder_below_a_file_is_refused_first(tmp_path: Path) -> None:
    """A folder that cannot be made is storage.readonly, with the path and a next step, before anything is made."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LLMError) as caught:
        Log.open(tmp_path / "file" / "log")
    assert caught.value.code == "storage.readonly"
    assert str(tmp_path / "file" / "log") in caught.value.message
    assert "--log" in caught.value.next_step
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("prepared", [False, True], ids=["new", "existing"])
def test_st_readonly_disk_is_refused_first(tmp_path: Path, prepared: bool) -> None:
    """A folder on a read-only file system is storage.readonly, whether or not a log is in it."""
    place = tmp_path / "disk"
    place.mkdir()
    if prepared:
        Log.open(place / "log").write(score("a"))
    try:
        done = subprocess.run(["mount", "--bind", place, place], capture_output=True, check=False).returncode
    except FileNotFoundError:
        done = 1
    if done:
        pytest.skip("mounting is not permitted here")
    try:
        if subprocess.run(["mount", "-o", "remount,bind,ro", place], capture_output=True, check=False).returncode:
            pytest.skip("remounting is not permitted here")
        with pytest.raises(LLMError) as caught:
            Log.open(place / "log")
        assert caught.value.code == "storage.readonly"
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def corrupt(database: Path, how: str) -> None:
    data = database.read_bytes()
    if how == "cut to a third":
        database.write_bytes(data[: len(data) // 3])
    elif how == "flipped":
        damaged = bytearray(data)
        for at in range(12_288 + 4096, len(data), 9_973):
            damaged[at] ^= 0xFF
        database.write_bytes(bytes(damaged))
    elif how == "text":
        database.write_text("this is no database\n" * 500)
    elif how == "cut in the header":
        database.write_bytes(data[:100])
    elif how == "zeroes":
        database.write_bytes(b"\0" * len(data))
    elif how == "headers":
        database.write_bytes(data[:4096] + b"\xaa" * 8192 + data[12288:])
    elif how == "directory":
        database.unlink()
        database.mkdir()


@pytest.mark.parametrize("how", ["text", "cut in the header", "zeroes", "headers", "directory"])
def test_st_corrupt_database_is_refused_and_left_as_it_is(folder: Path, how: str) -> None:
    """A file that is no readable database is storage.corrupt; it stays, and so do the spooled rows."""
    log = Log.open(folder)
    log.write(*(call(i, text="x" * 3000 + str(i)) for i in range(200)))
    log.ingest()
    log.write(score("a"))
    log.close()
    corrupt(log.database, how)
    before = log.database.read_bytes() if log.database.is_file() else None
    with pytest.raises(LLMError) as caught:
        Log.open(folder)
    assert (caught.value.code, caught.value.retryable) == ("storage.corrupt", False)
    assert "workbench.duckdb" in caught.value.message
    if before is not None:
        assert log.database.read_bytes() == before
    log.database.rename(folder / "aside")
    assert counted(Log.open(folder)) == (1, 1)


@pytest.mark.parametrize("how", ["flipped", "cut to a third"])
@pytest.mark.parametrize("pending", [False, True], ids=["nothing spooled", "rows spooled"])
def test_st_corrupt_data_is_a_typed_error(folder: Path, how: str, pending: bool) -> None:
    """Damage behind the header is storage.corrupt as soon as it is met, never a wrong row; spooled rows stay."""
    log = Log.open(folder)
    texts = [random.Random(i).randbytes(4000).hex() for i in range(300)]
    log.write(*(call(i, text=text) for i, text in enumerate(texts)))
    log.ingest()
    if pending:
        log.write(score("a"))
    log.close()
    corrupt(log.database, how)
    with pytest.raises(LLMError) as caught:
        Log.open(folder).rows("select * from answers")
    assert caught.value.code == "storage.corrupt"
    log.database.rename(folder / "aside")
    assert counted(Log.open(folder)) == ((1, 1) if pending else (0, 0))


def test_st_newer_schema_is_refused_and_left_as_it_is(log: Log, folder: Path) -> None:
    """A log of a later version is storage.schema, both versions are named, and no byte of it changes."""
    log.write(score("a"))
    log.ingest()
    log.close()
    with duckdb.connect(str(log.database)) as con:
        con.execute("insert into log.schema_version values (99, 0)")
    before = log.database.read_bytes()
    with pytest.raises(LLMError, match=rf"version 99.*up to {VERSION}") as caught:
        Log.open(folder)
    assert caught.value.code == "storage.schema"
    assert "upgrade" in caught.value.next_step
    assert log.database.read_bytes() == before


@pytest.mark.parametrize(
    "sql",
    [
        "create table customers(name varchar); insert into customers values ('kept')",
        "create schema log; create table log.other(a integer)",
        "create schema log; create table log.schema_version(a integer)",
        "create schema log",
        "create view texts as select 1 as a",
        "create schema mine; create table mine.t as select 1 as a",
    ],
    ids=["tables", "schema log with tables", "another schema_version", "empty schema log", "a view", "another schema"],
)
def test_st_foreign_database_is_refused_and_left_as_it_is(folder: Path, sql: str) -> None:
    """A DuckDB database of somebody else is storage.schema, and nothing in it changes."""
    folder.mkdir()
    with duckdb.connect(str(folder / "workbench.duckdb")) as con:
        con.execute(sql)
    before = (folder / "workbench.duckdb").read_bytes()
    with pytest.raises(LLMError) as caught:
        Log.open(folder)
    assert caught.value.code == "storage.schema"
    assert (folder / "workbench.duckdb").read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True], ids=["for writing", "for reading"])
def test_st_locked_by_another_process_stops_reading_only(log: Log, read_only: bool) -> None:
    """While a foreign process holds the database, writing goes on and reading names that process."""
    code = f"""
import duckdb, sys, time
con = duckdb.connect(sys.argv[1], read_only={read_only})
print("open", flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", code, str(log.database)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    log.write(score("a"))
    with pytest.raises(LLMError, match=f"process {holder.pid}") as caught:
        log.rows("select * from scores")
    assert (caught.value.code, caught.value.retryable) == ("storage.locked", True)
    log.write(score("b"))
    holder.kill()
    holder.communicate()
    assert counted(log) == (2, 2)


def test_st_locked_by_a_connection_in_this_process_is_not_called_corrupt(log: Log) -> None:
    """A user's own duckdb.connect in the same kernel is storage.locked: nothing is wrong with the file."""
    log.write(score("a"))
    with duckdb.connect(str(log.database)), pytest.raises(LLMError) as caught:
        counted(log)
    assert caught.value.code == "storage.locked"
    assert "aside" not in caught.value.next_step
    assert counted(log) == (1, 1)


@pytest.mark.parametrize("free", [0, 1])  # with 2, DuckDB 2.0.0 itself ends the process
def test_st_locked_when_files_run_out_is_not_called_corrupt(folder: Path, free: int) -> None:
    """Too many open files is a typed error of storage, and never advice to move a sound database away."""
    process = child(
        """
        import resource
        log.write(score("a"))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        used = len(os.listdir("/proc/self/fd")) - 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + int(sys.argv[2]), hard))
        try:
            log.rows("select 1")
            answer = "fine"
        except LLMError as error:
            answer = error.code
        except Exception as error:
            answer = type(error).__name__
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        say(answer)
        log.write(score("b"))
        say(log.rows("select count(*) from scores")[0][0])
        """,
        folder,
        free,
    )
    answer, rows = output(process).split()
    assert rows == "2"
    assert answer.startswith("storage.")
    assert answer != "storage.corrupt"


def test_st_foreign_files_in_the_folder_are_left_alone(folder: Path) -> None:
    """Files that are not the log's stay where they are, with their bytes, through every use of the log."""
    (folder / "spool").mkdir(parents=True)
    strange = {
        folder / "notes.txt": b"mine",
        folder / "other.duckdb": b"not yours",
        folder / "spool" / "readme.md": b"hello",
        folder / "spool" / "half.new": b"",
        folder / "torn.txt": b"torn",
    }
    for path, content in strange.items():
        path.write_bytes(content)
    log = Log.open(folder)
    log.write(call(), score("a"))
    log.close()
    assert counted(log) == (1, 1)
    assert {path: path.read_bytes() for path in strange} == strange


def test_st_log_whose_database_was_moved_away_starts_a_new_one(log: Log, folder: Path) -> None:
    """An open log goes on where the file was moved aside, as its own advice says: with what is still spooled."""
    log.write(score("a"))
    log.database.rename(folder / "aside.duckdb")
    assert counted(log) == (1, 1)
    log.write(score("b"))
    assert counted(Log.open(folder)) == (2, 2)


# -- security: SQL (sec)


def test_sec_sql_in_names_and_answers_is_stored_literally(log: Log) -> None:
    """Text that looks like SQL is text, wherever it stands."""
    fact = call(HOSTILE, prompt=HOSTILE, text=HOSTILE, model=HOSTILE, provider=HOSTILE, item_id=HOSTILE, run_id=HOSTILE)
    log.write(fact, score(HOSTILE, model=HOSTILE), span(**{HOSTILE: HOSTILE}))
    assert log.rows("select span_id, model, provider, item_id, run_id from calls") == [(HOSTILE,) * 5]
    assert log.rows("select prompt, response from answers") == [(HOSTILE, HOSTILE)]
    assert log.rows("select item_id from scores where model = ?", [HOSTILE]) == [(HOSTILE,)]
    assert json.loads(log.rows("select attributes from spans")[0][0]) == {HOSTILE: HOSTILE}


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_text('{secret}')",
        "select * from read_blob('{secret}')",
        "select * from read_csv('{secret}')",
        "select * from read_csv_auto('{secret}')",
        "select * from read_json('{secret}')",
        "select * from read_parquet('{secret}')",
        "select * from sniff_csv('{secret}')",
        "select * from glob('{folder}/*')",
        "from '{secret}'",
        "copy scores to '{target}'",
        "copy (select 1) to '{target}' (format csv)",
        "select 1; copy (select 1) to '{target}'",
        "export database '{target}'",
        "import database '{folder}'",
        "attach '{target}' as other",
        "attach '{secret}' as other (type sqlite)",
        "create temp table t(a varchar); copy t from '{secret}'",
        "install httpfs",
        "install '{secret}'",
        "load httpfs",
        "load '{secret}'",
        "select * from read_text('http://127.0.0.1:9/x')",
    ],
)
def test_sec_sql_fn_that_reach_files_are_refused(kept: Log, tmp_path: Path, sql: str) -> None:
    """A query can neither read, list nor write files, nor load code: it is refused as such, and nothing is made."""
    secret = tmp_path / "secret.txt"
    secret.write_text("canary")
    target = tmp_path / "written"
    with pytest.raises(LLMValidationError) as caught:
        kept.rows(sql.format(secret=secret, target=target, folder=tmp_path))
    assert caught.value.code == ("validation.sql" if sql.startswith("from") else "security.sql")
    assert "canary" not in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize(
    "sql",
    [
        "set enable_external_access = true",
        "set global enable_external_access = true",
        "reset enable_external_access",
        "pragma enable_external_access = true",
        "set lock_configuration = false",
        "set temp_directory = '/tmp'",
        "set memory_limit = '1TB'",
        "set autoinstall_known_extensions = true",
        "set extension_directory = '/tmp'",
        "set file_search_path = '/etc'",
    ],
)
def test_sec_sql_fn_settings_cannot_be_changed(kept: Log, sql: str) -> None:
    """A query cannot unlock what the snapshot has locked."""
    with pytest.raises(LLMValidationError) as caught:
        kept.rows(sql)
    assert caught.value.code in ("security.sql", "validation.sql")


def test_sec_sql_fn_variables_of_the_caller_are_out_of_reach(log: Log) -> None:
    """A query does not read Python variables that have the name of a table."""
    import pandas as pd

    some_frame = pd.DataFrame({"secret": ["canary"]})
    with pytest.raises(LLMValidationError):
        log.rows("select * from some_frame")
    assert len(some_frame) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "delete from log.scores",
        "drop table log.scores",
        "drop view scores",
        "update log.scores set value = 0",
        "insert into log.scores values ('r', 'i', 'm', 's', 1)",
        "create table log.mine as select 1 as a",
        "create or replace view scores as select 1 as a",
        "truncate log.scores",
        "select 1; delete from log.scores",
    ],
)
def test_sec_sql_cannot_change_the_log(kept: Log, sql: str) -> None:
    """A query that writes is refused, typed, and the rows are as before."""
    with pytest.raises(LLMValidationError):
        kept.rows(sql)
    assert counted(kept) == (1, 1)


WRONG: dict[str, tuple[str, Any]] = {
    "syntax": ("selct 1", None),
    "table": ("select * from no_such_table", None),
    "column": ("select no_such_column from scores", None),
    "cast": ("select 'a'::integer", None),
    "late": ("select error('late') from range(3000000) t(i) where i = 2999999", None),
    "many params": ("select ?", [1, 2]),
    "odd param": ("select ?", [object()]),
    "surrogate param": ("select ?", ["\ud800"]),
    "surrogate": ("select '\ud800'", None),
    "empty": ("", None),
    "blank": (" \n ", None),
    "comment": ("-- nothing but a comment", None),
    "semicolon": (";", None),
    "open": ("select (", None),
    "deep": ("(" * 5000 + "1", None),
}


@pytest.mark.parametrize("name", WRONG)
def test_sec_sql_that_is_wrong_is_a_typed_error(kept: Log, name: str) -> None:
    """Bad SQL is validation.sql in one line, with a next step."""
    with pytest.raises(LLMValidationError) as caught:
        kept.rows(*WRONG[name])
    assert caught.value.code == "validation.sql"
    assert "\n" not in caught.value.message
    assert 0 < len(caught.value.next_step) <= 160


@pytest.mark.parametrize("method", ["records", "frame"])
@pytest.mark.parametrize("name", ["syntax", "late", "empty"])
def test_sec_sql_that_is_wrong_is_typed_however_it_is_asked(kept: Log, method: str, name: str) -> None:
    """Mappings and frames raise what rows do."""
    with pytest.raises(LLMValidationError) as caught:
        getattr(kept, method)(*WRONG[name])
    assert caught.value.code == "validation.sql"


# -- odd texts and values


ODD = {
    "nul": ("a\0b", "a\0b"),
    "surrogate": ("a\ud800b", "a\ufffdb"),
    "pair": ("\ud83d\ude00", "\U0001f600"),
    "noncharacter": ("\uffff\ufdd0", "\uffff\ufdd0"),
    "bidi": ("\u202eabc\u2028\x85\x1c", "\u202eabc\u2028\x85\x1c"),
    "newlines": ("a\nb\r\nc", "a\nb\r\nc"),
    "empty": ("", ""),
}


def test_reply_nul_and_reply_surrogate_texts_are_kept(log: Log) -> None:
    """NUL stays, a lone surrogate becomes U+FFFD, everything else comes back as it was."""
    log.write(*(call(kind, item_id=kind, prompt=given, text=given) for kind, (given, _) in ODD.items()))
    got = {kind: (prompt, text) for kind, prompt, text in log.rows("select item_id, prompt, response from answers")}
    assert got == {kind: (kept, kept) for kind, (_, kept) in ODD.items()}


@pytest.mark.parametrize("kind", ODD)
def test_reply_nul_and_reply_surrogate_names_are_kept(log: Log, kind: str) -> None:
    """The same holds for item ids, model names, answers and references, in every table."""
    given, kept = ODD[kind]
    failure = Failure(kind=given, code=given, message=given)
    log.write(
        call(given, model=given, provider=given, item_id=given, run_id=given, trace_id=given),
        call("f", text=None, failure=failure),
        score(given, model=given),
        Contribution(run_id=given, item_id=given, part=ModelContribution(model=given, answer=given)),
        ItemAsked(run_id=given, position=0, item=Item(item_id=given, task="general", prompt="p", reference=given)),
    )
    assert log.rows("select model, provider, item_id, run_id, trace_id from calls where ok") == [(kept,) * 5]
    assert log.rows("select failure_kind, failure_code, failure_message from calls where not ok") == [(kept,) * 3]
    assert log.rows("select item_id, model from scores") == [(kept, kept)]
    assert log.rows("select run_id, item_id, model, answer from contributions") == [(kept,) * 4]
    assert log.rows("select run_id, item_id, reference from items") == [(kept,) * 3]


def test_reply_surrogate_in_an_id_is_not_taken_for_another_id(log: Log) -> None:
    """Two items whose ids differ only where one has a lone surrogate stay two items."""
    log.write(score("a\ud800"), score("a?"))
    assert counted(log) == (2, 2)


def test_reply_nul_and_reply_surrogate_metadata_is_kept(log: Log) -> None:
    """The same holds inside metadata and attributes, as keys and as values, and the JSON stays readable."""
    for kind, (given, _) in ODD.items():
        item = Item(item_id=kind, task="general", prompt="p", metadata={given: [given]})
        log.write(ItemAsked(run_id="r1", position=0, item=item), span(kind, **{given: {"x": given}}))
    metadata = {kind: json.loads(text) for kind, text in log.rows("select item_id, metadata from items")}
    assert metadata == {kind: {kept: [kept]} for kind, (_, kept) in ODD.items()}
    attributes = {kind: json.loads(text) for kind, text in log.rows("select span_id, attributes from spans")}
    assert attributes == {kind: {kept: {"x": kept}} for kind, (_, kept) in ODD.items()}
    assert log.rows("select distinct json_valid(attributes), json_type(attributes) from spans") == [(True, "OBJECT")]


@pytest.mark.parametrize("where", ["params", "task", "role"])
def test_reply_surrogate_in_a_request_is_logged(log: Log, where: str) -> None:
    """A lone surrogate anywhere in a request does not stop its call from being logged."""
    request = Request(
        messages=(Message(role="us\ud800er" if where == "role" else "user", content="hi"),),
        params={"stop": "\ud800"} if where == "params" else {},
        task="gener\ud800al" if where == "task" else "general",
    )
    log.write(call(request=request))
    assert log.rows("select count(*) from calls") == [(1,)]


class Unprintable:
    def __repr__(self) -> str:
        raise OSError("no")


class Untidy(dict[str, Any]):
    def items(self) -> Any:
        raise KeyError("no")


def _cycle() -> dict[str, Any]:
    ring: dict[str, Any] = {}
    ring["ring"] = ring
    return ring


def _deep() -> list[Any]:
    nest: list[Any] = []
    for _ in range(50_000):
        nest = [nest]
    return nest


@pytest.mark.parametrize(
    "value",
    [
        object(), Unprintable(), Untidy(a=1), {Unprintable(): 1}, _cycle(), _deep(), "x" * 10_000_000,
        ["y" * 1000] * 10_000, {str(i): i for i in range(100_000)}, '"' * 3_000_000, 10**6000, b"\xff", {1, 2},
        math.nan, math.inf, complex(1, 2), "\U0001f600" * 200_000,
    ],
    ids=[
        "object", "unprintable", "raising mapping", "unprintable key", "cyclic", "deep", "10 MB", "10 MB list",
        "wide", "quotes", "long integer", "bytes", "set", "nan", "inf", "complex", "emoji",
    ],
)  # fmt: skip
def test_trace_huge_or_strange_attributes_are_kept_as_far_as_possible(
    shared: Log, value: Any, request: pytest.FixtureRequest
) -> None:
    """An attribute that JSON cannot hold, or too large, never breaks the write and leaves short, valid JSON."""
    name = request.node.name
    shared.write(span(name, odd=value))
    [(attributes, valid)] = shared.rows(
        "select attributes, json_valid(attributes) from spans where span_id = ?", [name]
    )
    assert valid
    json.loads(attributes)
    assert len(attributes) <= 120_000


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, _cycle(), 10**6000], ids=["nan", "inf", "cyclic", "long integer"]
)
def test_trace_huge_or_strange_attribute_does_not_cost_its_neighbours(log: Log, value: Any) -> None:
    """One attribute that JSON cannot hold leaves the others where a query finds them."""
    log.write(span(odd=value, model="p:m", tokens=7))
    assert log.rows("select attributes->>'model', (attributes->'tokens')::integer from spans") == [("p:m", 7)]


def test_scores_that_are_no_finite_numbers_come_back_as_such(log: Log) -> None:
    """NaN and infinities of a scorer are stored as what they are."""
    log.write(score("a", math.inf), score("b", -math.inf), score("c", math.nan))
    [a, b, c] = [value for (value,) in log.rows("select value from scores order by item_id")]
    assert (a, b) == (math.inf, -math.inf)
    assert math.isnan(c)


def test_every_query_of_a_next_step_works(log: Log) -> None:
    """The query that the error for bad SQL recommends can be run as it stands."""
    with pytest.raises(LLMValidationError) as caught:
        log.rows("select nonsense")
    sql = re.sub(r"^.*: ", "", caught.value.next_step)
    assert ("scores", "value") in log.rows(sql)


def test_nb_fork_while_another_thread_reads_does_not_hang_the_child(log: Log, folder: Path) -> None:
    """Children forked in the middle of another thread's reads write and read for themselves, and end."""
    process = child(
        """
        import signal, threading
        done = threading.Event()
        def read():
            while not done.is_set():
                log.write(score("r"))
                log.rows("select count(*) from scores")
        readers = [threading.Thread(target=read) for _ in range(2)]
        for r in readers: r.start()
        codes = []
        for n in range(6):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                log.write(score(f"c{n}"))
                seen = log.rows("select count(*) from scores where item_id like 'c%'")[0][0]
                log.close()
                os._exit(0 if seen > n else 3)
            codes.append(os.waitpid(pid, 0)[1])
        done.set()
        for r in readers: r.join()
        say(codes)
        """,
        folder,
    )
    assert output(process, timeout_s=60).strip() == "[0, 0, 0, 0, 0, 0]"


def test_st_newer_version_made_beside_an_open_log_loses_no_row(log: Log, folder: Path) -> None:
    """Where another process has brought the database to a newer version, rows stay in the spool, whole."""
    log.write(score("a"))
    assert counted(log) == (1, 1)
    with duckdb.connect(str(log.database)) as con:
        con.execute("alter table log.scores add column extra varchar")
        con.execute("insert into log.schema_version values (99, 0)")
    log.write(score("b"))
    with pytest.raises(LLMError) as caught:
        counted(log)
    assert caught.value.code == "storage.schema"
    assert not (folder / "torn").exists()
    assert any(b'"b"' in path.read_bytes() for path in spooled(folder))


@pytest.mark.parametrize(
    "said",
    ["401 for key sk-abcdefghijklmnopqrstu", "Authorization: Bearer abc.def.ghi", "https://x/?api_key=verysecretvalue"],
)
def test_sec_secret_log_keys_in_error_messages_are_redacted(log: Log, said: str) -> None:
    """What looks like a key in the message of a failure does not reach the log."""
    failed = replace(call(), response=None, failure=Failure(kind="E", code="provider.auth", message=said))
    log.write(failed)
    [(message,)] = log.rows("select failure_message from calls")
    assert "[redacted]" in message
    assert not any(secret in message for secret in ("abcdefghijkl", "abc.def", "verysecret"))


def spool_of_a_dead_writer(folder: Path, *values: tuple[Any, ...]) -> None:
    """A spool file with these rows of scores, whatever they hold."""
    header = ["#columns", {table: list(columns) for table, columns in COLUMNS.items()}]
    lines = checked(json.dumps(header).encode()) + b"".join(encode([["scores", *value]]) for value in values)
    (folder / "spool" / "0-dead.spool").write_bytes(lines)


def test_st_spool_dup_of_a_row_that_no_table_holds_keeps_the_good_one(log: Log, folder: Path) -> None:
    """The first of two rows with one key is damaged: the second is kept, as all other rows are."""
    spool_of_a_dead_writer(folder, ("r", "1", "m", "s", "bad"), ("r", "1", "m", "s", 0.7), ("r", "2", "m", "s", 0.1))
    assert log.rows("select item_id, value from scores order by item_id") == [("1", 0.7), ("2", 0.1)]
    assert b"bad" in set_aside(folder, "0-dead.spool")


def test_st_spool_dup_of_a_key_in_another_type_is_one_row(log: Log, folder: Path) -> None:
    """Keys are compared as the table keeps them: the number 1 and the text 1 are one item there."""
    spool_of_a_dead_writer(folder, ("r", 1, "m", "s", 0.5), ("r", "1", "m", "s", 0.5))
    assert log.rows("select item_id, value from scores") == [("1", 0.5)]


@pytest.mark.parametrize("table", ["scores", "spans"])
@pytest.mark.parametrize("refused", [1, 2, 5])
def test_rows_that_a_table_refuses_never_keep_the_others_out(log: Log, folder: Path, table: str, refused: int) -> None:
    """Alone in their table or between good rows, they are set aside, and every later row is read."""
    bad = {
        "scores": [Score(run_id="r", item_id=f"b{n}", model="m", scorer="s", value="bad") for n in range(refused)],
        "spans": [replace(named(f"b{n}"), duration_ms="abc") for n in range(refused)],
    }[table]  # type: ignore[index]
    log.write(*bad)
    assert log.rows(f"select count(*) from {table}") == [(0,)]
    good = [Score(run_id="r", item_id="g", model="m", scorer="s", value=1.0), named("g")]
    log.write(good[0], *bad, good[1])
    assert log.rows("select (select count(*) from scores), (select count(*) from spans)") == [(1, 1)]
    assert sum(len(file.read_bytes().splitlines()) for file in (folder / "torn").iterdir()) == 2 * refused


def named(span_id: str) -> Span:
    """A span of that name."""
    return Span(
        trace_id="t", span_id=span_id, parent_id=None, component="c", operation="o", start_unix_ns=7,
        duration_ms=0.5, ok=True,
    )  # fmt: skip


def test_a_few_refused_rows_among_many_are_found_quickly(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """By halving: a few hundred tries for four of 20,000, and not one for each row."""
    tries = []
    real = ingest._fits
    monkeypatch.setattr(ingest, "_fits", lambda con, rows: tries.append(len(rows)) or real(con, rows))
    spans = [replace(named(f"s{n}"), duration_ms="abc" if n % 5000 == 17 else 1.0) for n in range(20_000)]
    log.write(*spans)
    assert log.rows("select count(*) from spans") == [(19_996,)]
    assert len(tries) < 4 * 2 * 15


def test_a_span_that_the_garbage_collector_closes_inside_of_a_write_is_written(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An abandoned generator may be collected anywhere, also where its thread holds the spool: no deadlock, no loss."""
    log.write(named("first"))
    real = spool._write_all

    def collecting(fd: int, data: bytes) -> None:
        monkeypatch.setattr(spool, "_write_all", real)
        log.write(named("collected"))
        real(fd, data)

    monkeypatch.setattr(spool, "_write_all", collecting)
    log.write(named("second"))
    assert log.rows("select span_id from spans order by 1") == [("collected",), ("first",), ("second",)]
