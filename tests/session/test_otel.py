"""Spans sent to a real OTLP/HTTP receiver on loopback, which reads them with OpenTelemetry's own classes."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from faults.server import FIN, RESET, STALL, FaultServer, Seen, head, reply
from workbench import Workbench
from workbench.act.world import MemorySink, World
from workbench.errors import LLMError, LLMProviderError, LLMTimeoutError, LLMValidationError
from workbench.facts import Span
from workbench.record.log import Log
from workbench.session import otel
from workbench.session.otel import send_spans, send_spans_sync

proto = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="the extra [otel] is not installed"
)
pytest.importorskip("opentelemetry.sdk.trace", reason="the extra [otel] is not installed")

START = 1_700_000_000_000_000_000
CANARY = "canary0123456789abcdef"
TAKEN = reply(b"", content_type="application/x-protobuf")


class Collector(FaultServer):
    """A receiver of traces: takes everything, unless it is given other answers."""

    def __init__(self) -> None:
        super().__init__()
        self.answers(TAKEN)

    def answers(self, *answers: Any) -> None:
        """What it answers, first to last; the last one also to every request after it."""
        self.scripts[""] = answers
        self._count.clear()

    @property
    def spans(self) -> list[Any]:
        """Every span that arrived, in order of arrival."""
        requests = [proto.ExportTraceServiceRequest.FromString(seen.raw) for seen in self.seen]
        return [s for r in requests for rs in r.resource_spans for ss in rs.scope_spans for s in ss.spans]

    @property
    def ids(self) -> list[str]:
        """Their ids."""
        return [span.span_id.hex() for span in self.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A running receiver."""
    with Collector() as running:
        yield running


@pytest.fixture
def log(log_folder: Path) -> Log:
    """A log of five spans of two runs, a second apart."""
    made = Log.open(log_folder)
    for n in range(1, 6):
        made.write(
            Span(
                trace_id="ab" * 16,
                span_id=f"{n:016x}",
                parent_id=None if n == 1 else f"{1:016x}",
                component="c",
                operation="o",
                start_unix_ns=START + n * 1_000_000_000,
                duration_ms=1.0,
                ok=True,
                run_id="r1" if n < 4 else "r2",
            )
        )
    made.flush()
    return made


def ids(*numbers: int) -> list[str]:
    return [f"{n:016x}" for n in numbers]


def patient() -> World:
    """The machine's clock, and waits that take no time; they are kept."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    world = replace(World.real(MemorySink()), sleep=sleep, draw=lambda: 0.5)
    world.sink.waits = waits  # type: ignore[attr-defined]
    return world


def refused(log: Log, endpoint: str, **options: Any) -> LLMError:
    """The error of a sending that fails, without a second attempt."""
    with pytest.raises(LLMError) as error:
        send_spans_sync(log, endpoint, **{"max_retries": 0, **options})
    assert len(error.value.next_step) <= 160
    return error.value


# -- what arrives


def test_a_trace_has_the_logs_ids_parents_and_times(collector: Collector, log_folder: Path):
    """A real run of a simulated model, compared span by span with the rows of the log."""
    with Workbench.open(log_folder, models=["simulated:strong"]) as wb:
        run = wb.run_sync("question_answering", merge="majority_voting")
        done = send_spans_sync(wb.log, collector.url(""))
        rows = wb.log.records("select * from spans")
        models = dict(wb.log.rows("select call_id, model from calls"))
        tokens = dict(wb.log.rows("select call_id, prompt_tokens from calls"))
    assert done.sent == len(rows) == len(collector.spans) > 50
    assert {seen.path for seen in collector.seen} == {"/v1/traces"}
    assert {seen.headers["content-type"] for seen in collector.seen} == {"application/x-protobuf"}
    found = {span.span_id.hex(): span for span in collector.spans}
    for row in rows:
        span = found[row["span_id"]]
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (row["trace_id"], row["parent_id"] or "")
        assert span.start_time_unix_nano == row["start_unix_ns"]
        lasted = span.end_time_unix_nano - span.start_time_unix_nano
        assert lasted == pytest.approx(row["duration_ms"] * 1e6, abs=1)
        about = {a.key: a.value for a in span.attributes}
        assert about["workbench.run.id"].string_value == run.run_id
        assert ("gen_ai.request.model" in about) == (row["span_id"] in models)
        if row["span_id"] in models:
            assert about["gen_ai.request.model"].string_value == models[row["span_id"]]
            assert about["gen_ai.usage.input_tokens"].int_value == tokens[row["span_id"]]
            assert about["workbench.source"].string_value == "simulated"
            assert "gen_ai.input.messages" not in about
    assert len(models) == 48


def test_texts_go_only_when_they_are_asked_for(collector: Collector, log_folder: Path):
    """The same log, without and with the switch."""
    with Workbench.open(log_folder, models=["simulated:strong"]) as wb:
        wb.run_sync("question_answering")
        (prompt,) = wb.log.rows("select prompt from answers limit 1")[0]
        known = prompt.splitlines()[0].encode()
        send_spans_sync(wb.log, collector.url(""))
        assert known not in b"".join(seen.raw for seen in collector.seen)
        done = send_spans_sync(wb.log, collector.url(""), texts=True, again=True)
    assert done.texts
    assert known in b"".join(seen.raw for seen in collector.seen)


def test_a_span_is_sent_once(collector: Collector, log: Log):
    """A second call sends what is new, and `again` everything; another receiver has taken nothing yet."""
    assert send_spans_sync(log, collector.url("")).sent == 5
    repeated = send_spans_sync(log, collector.url("/v1/traces/"))
    assert (repeated.sent, repeated.before, repeated.requests) == (0, 5, 0)
    assert collector.ids == ids(1, 2, 3, 4, 5)
    log.write(replace(log_span(6), run_id="r2"))
    assert send_spans_sync(log, collector.url("")).sent == 1
    assert collector.ids[5:] == ids(6)
    assert send_spans_sync(log, collector.url(""), again=True).sent == 6
    assert send_spans_sync(log, collector.url("")).sent == 0
    assert send_spans_sync(log, collector.url("/team")).sent == 6
    assert collector.seen[-1].path == "/team/v1/traces"


def log_span(n: int) -> Span:
    return Span(trace_id="ab" * 16, span_id=f"{n:016x}", parent_id=None, component="c", operation="o",
                start_unix_ns=START + n * 1_000_000_000, duration_ms=1.0, ok=True)  # fmt: skip


def test_a_part_of_the_log_is_sent(collector: Collector, log_folder: Path):
    """One run, or what began since a moment."""
    with Workbench.open(log_folder, models=["simulated:weak"]) as wb:
        one, two = wb.run_sync("question_answering"), wb.run_sync("question_answering")
        [(of_one, of_two, begin)] = wb.log.rows(
            "select count(*) filter (run_id = ?), count(*) filter (run_id = ?), "
            "min(start_unix_ns) filter (run_id = ?) from spans", [one.run_id, two.run_id, two.run_id],
        )  # fmt: skip
        assert send_spans_sync(wb.log, collector.url(""), since_unix_ns=begin).sent == of_two
        assert send_spans_sync(wb.log, collector.url(""), run_id="latest").sent == 0
        done = send_spans_sync(wb.log, collector.url(""), run_id=one.run_id)
        assert (done.sent, done.before) == (of_one, 0)
        assert refused(wb.log, collector.url(""), run_id="nobody").code == "run.unknown"


def test_sending_makes_no_spans(collector: Collector, log: Log):
    """Else there would always be one more to send."""
    send_spans_sync(log, collector.url(""))
    assert log.rows("select count(*) from spans") == [(5,)]


def test_it_runs_inside_an_event_loop_too(collector: Collector, log: Log):
    """Awaited, and from a synchronous call in a cell."""

    async def cell() -> tuple[int, int]:
        return (await send_spans(log, collector.url(""))).sent, send_spans_sync(log, collector.url("")).before

    assert asyncio.run(cell()) == (5, 5)


def test_requests_stay_small(collector: Collector, log: Log, monkeypatch: pytest.MonkeyPatch):
    """By number and by bytes; a span that is too large by itself goes alone."""
    monkeypatch.setattr(otel, "BATCH", 2)
    assert send_spans_sync(log, collector.url("")).requests == 3
    monkeypatch.setattr(otel, "MAX_BATCH_BYTES", 100)
    assert send_spans_sync(log, collector.url(""), again=True).requests == 5
    assert collector.ids == ids(1, 2, 3, 4, 5) * 2


def test_spans_that_nobody_could_take_are_told(collector: Collector, log: Log):
    """They are left out and counted, each time."""
    log.write(replace(log_span(7), span_id="odd"))
    done = send_spans_sync(log, collector.url(""))
    assert (done.sent, done.unsendable) == (5, 1)
    assert "1 left out" in str(done)
    assert done.as_dict()["semconv"] == "1.41.1"


# -- what does not


def test_a_receiver_that_is_down(log: Log, collector: Collector):
    """One error with the next step, and nothing is noted as sent."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    error = refused(log, f"http://127.0.0.1:{port}")
    assert isinstance(error, LLMProviderError)
    assert (error.code, error.retryable) == ("otel.unreachable", True)
    assert f"127.0.0.1:{port}" in error.message
    assert "--endpoint" in error.next_step
    assert send_spans_sync(log, collector.url("")).sent == 5


@pytest.mark.parametrize(
    ("answer", "code", "retryable", "step"),
    [
        (reply({"message": "no such token"}, 401), "otel.refused", False, "--headers-env"),
        (reply(b"not found", 404), "otel.refused", False, "/v1/traces"),
        (reply(b"", 413), "otel.refused", False, "limit"),
        (reply(b"no protobuf", 400), "otel.refused", False, "/v1/traces"),
        (reply(b"slow down", 429), "otel.refused", True, "wait"),
        (reply(b"down", 503), "otel.refused", True, "wait"),
        ((head(307, length=0, location="http://127.0.0.1:9/v1/traces"),), "otel.refused", False, "redirects"),
        ((FIN,), "otel.unreachable", True, "collector"),
        ((RESET,), "otel.unreachable", True, "collector"),
        ((b"nonsense\r\n\r\n", FIN), "otel.unreachable", True, "collector"),
    ],
)
def test_what_is_not_taken_is_not_noted(
    collector: Collector, log: Log, answer: Any, code: str, retryable: bool, step: str
):
    """Each refusal has its words and its next step, and the spans are sent again by the next call."""
    collector.answers(answer)
    error = refused(log, collector.url(""))
    assert (error.code, error.retryable) == (code, retryable)
    assert step in error.next_step
    collector.answers(TAKEN)
    assert send_spans_sync(log, collector.url("")).sent == 5


def test_a_slow_receiver_is_given_up(collector: Collector, log: Log):
    """After timeout_s, with nothing noted."""
    collector.answers((STALL,))
    error = refused(log, collector.url(""), timeout_s=0.2)
    assert isinstance(error, LLMTimeoutError)
    assert error.code == "otel.timeout"
    assert "0.2 s" in error.message
    assert "--timeout" in error.next_step
    collector.answers(TAKEN)
    assert send_spans_sync(log, collector.url("")).sent == 5


def rejecting(*bad: str, status: int = 200) -> Any:
    """Answers of a receiver that takes no request with one of these spans: a partial success, or a status."""

    def answer(asked: Seen) -> Any:
        request = proto.ExportTraceServiceRequest.FromString(asked.raw)
        found = [s for rs in request.resource_spans for ss in rs.scope_spans for s in ss.spans]
        count = sum(span.span_id.hex() in bad for span in found)
        if not count:
            return TAKEN
        if status != 200:
            return reply(b"too large", status)
        said = proto.ExportTraceServiceResponse()
        said.partial_success.rejected_spans, said.partial_success.error_message = count, "too\nold"
        return reply(said.SerializeToString(), content_type="application/x-protobuf")

    return answer


@pytest.mark.parametrize("status", [200, 400, 413])
def test_a_rejected_span_keeps_no_other_back(collector: Collector, log: Log, status: int):
    """An answer does not say which span it means: the request is halved, and all others are sent and noted."""
    collector.answers(rejecting(*ids(3), status=status))
    error = refused(log, collector.url(""), max_retries=3)
    assert isinstance(error, LLMProviderError)
    assert (error.code, error.retryable) == ("otel.rejected", False)
    assert f"rejected 1 of 5 spans ({ids(3)[0]}): " in error.message
    assert error.message.endswith("too old" if status == 200 else "too large")
    assert error.next_step.startswith("sent 4 of 5;")
    assert "--since" in error.next_step
    # 1-5 is halved into 1 2 and 3 4 5, this into 3 and 4 5.
    assert collector.ids == ids(1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 3, 4, 5)
    assert refused(log, collector.url("")).next_step.startswith("sent 0 of 1;") == (status == 200)
    assert collector.ids[13:] == ids(3)  # the others are not sent again
    collector.answers(TAKEN)
    done = send_spans_sync(log, collector.url(""))
    assert (done.sent, done.before) == (1, 4)


def test_rejected_spans_are_counted_over_all_requests(collector: Collector, log: Log, monkeypatch: pytest.MonkeyPatch):
    """The first three are named; a request of which all are rejected is not halved."""
    monkeypatch.setattr(otel, "BATCH", 2)
    collector.answers(rejecting(*ids(1, 2, 4, 5)))
    error = refused(log, collector.url(""))
    first = ", ".join(ids(1, 2, 4))
    assert error.message.endswith(f"rejected 4 of 5 spans ({first} ...): too old")
    assert collector.ids == ids(1, 2, 3, 4, 3, 4, 5)


def test_a_receiver_that_refuses_every_span_is_left_alone(
    collector: Collector, log: Log, monkeypatch: pytest.MonkeyPatch
):
    """After a few spans that were refused by themselves the status is taken to be about all of them."""
    monkeypatch.setattr(otel, "BATCH", 1)
    monkeypatch.setattr(otel, "MOST_UNFIT", 2)
    collector.answers(TAKEN, reply(b"", 400))
    error = refused(log, collector.url(""))
    assert (error.code, collector.ids) == ("otel.refused", ids(1, 2, 3, 4))


def test_a_busy_receiver_is_asked_again_when_it_says(collector: Collector, log: Log):
    """429 and 503 are tried again, after Retry-After where there is one; a refusal is not."""
    collector.answers(reply(b"", 429, retry_after="7"), reply(b"", 503), TAKEN)
    world = patient()
    assert send_spans_sync(log, collector.url(""), world=world).sent == 5
    first, second = world.sink.waits  # type: ignore[attr-defined]
    assert 7.0 <= first <= 7.25
    assert second <= 1.0
    collector.answers(reply(b"", 401))
    before = len(collector.seen)
    refused(log, collector.url(""), max_retries=3, again=True, world=world)
    assert len(collector.seen) == before + 1


def test_an_error_half_way_keeps_what_was_taken(collector: Collector, log: Log, monkeypatch: pytest.MonkeyPatch):
    """The next call goes on from there: no span is taken twice."""
    monkeypatch.setattr(otel, "BATCH", 2)
    collector.answers(TAKEN, reply(b"", 500))
    refused(log, collector.url(""))
    collector.answers(TAKEN)
    done = send_spans_sync(log, collector.url(""))
    assert (done.sent, done.before) == (3, 2)
    assert collector.ids == ids(1, 2, 3, 4, 3, 4, 5)  # the second request was refused


@pytest.mark.parametrize(
    "endpoint",
    ["", "localhost:4318", "ftp://h/", f"http://user:{CANARY}@127.0.0.1:4318", f"http://127.0.0.1/?key={CANARY}",
     f"http:// {CANARY}", "http://169.254.169.254/", "http://127.0.0.1:99999/", f"{CANARY}"],
)  # fmt: skip
def test_an_endpoint_that_cannot_be_used_is_not_shown(log: Log, endpoint: str):
    """It may hold a password; the next step shows the form."""
    error = refused(log, endpoint)
    assert isinstance(error, LLMValidationError)
    assert error.code == "security.url"
    assert CANARY not in "".join(traceback.format_exception(error))
    assert "--headers-env" in error.next_step


# -- headers


def test_headers_come_from_the_variable_that_is_named(collector: Collector, log: Log):
    """And from no other; a value may have a word before its key, and is percent-decoded."""
    environ = {"RECEIVER": f"Authorization=Bearer%20{CANARY}, x-team = a%2Cb", "OTEL_EXPORTER_OTLP_HEADERS": "x-no=1"}
    send_spans_sync(log, collector.url(""), headers_env="RECEIVER", environ=environ)
    (seen,) = collector.seen
    assert (seen.headers["authorization"], seen.headers["x-team"]) == (f"Bearer {CANARY}", "a,b")
    assert "x-no" not in seen.headers


def test_a_header_that_is_echoed_is_not_shown(
    collector: Collector, log: Log, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
):
    """Neither in the error, nor in its traceback, nor in a logging record."""
    environ = {"RECEIVER": f"x-key={CANARY}"}
    caplog.set_level(logging.DEBUG)
    for answer in (reply({"you sent": CANARY}, 401), reply(f"<p>{CANARY}</p>".encode(), 503)):
        collector.answers(answer)
        error = refused(log, collector.url(""), headers_env="RECEIVER", environ=environ)
        assert "[redacted]" in error.message
        assert CANARY not in "".join(traceback.format_exception(error)) + repr(error.__dict__)
    told = capsys.readouterr()
    assert CANARY not in caplog.text + told.out + told.err


@pytest.mark.parametrize("value", ["abcd", "s3cr3t", "barbarbar", 'a"b\\c'])
def test_a_short_header_that_is_echoed_is_not_shown_either(collector: Collector, log: Log, value: str):
    """From four characters on, as it is and as JSON writes it, in any case of letters."""
    for answer in (reply({"you sent": f"Bearer {value}"}, 401), reply(f"<{value.upper()}>".encode(), 403)):
        collector.answers(answer)
        error = refused(log, collector.url(""), headers_env="R", environ={"R": f"authorization=Bearer%20{value}"})
        assert "[redacted]" in error.message
        assert value.lower() not in error.message.lower()
        assert json.dumps(value)[1:-1] not in error.message


@pytest.mark.parametrize(
    ("value", "what"),
    [(None, "not set"), (" ", "not set"), (CANARY, "entry 1"), (f"a=b,={CANARY}", "entry 2"),
     (f"x=two words {CANARY}", "entry 1"), (f"host={CANARY}", "entry 1"), ("x=", "is empty"),
     (f"x={CANARY}%0D%0Ay", "entry 1, has white space"), (f"x={CANARY}%C3%A9", "character")],
)  # fmt: skip
def test_headers_that_cannot_be_used_are_named_and_not_shown(log: Log, value: str | None, what: str):
    """The variable and the entry are named, the value is not; nothing is sent."""
    error = refused(
        log, "http://127.0.0.1:9", headers_env="RECEIVER", environ={} if value is None else {"RECEIVER": value}
    )
    assert error.code == "validation.config"
    assert "RECEIVER" in error.message
    assert what in error.message
    assert CANARY not in "".join(traceback.format_exception(error))


def test_headers_do_not_travel_in_the_clear(log: Log):
    """Over the network they need https; on this machine they do not."""
    error = refused(log, "http://collector.test:4318", headers_env="R", environ={"R": f"x-key={CANARY}"})
    assert error.code == "security.url"
    assert "https" in error.next_step


# -- options


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan, math.inf, True, "5"])
def test_a_timeout_that_is_none_is_refused(collector: Collector, log: Log, timeout_s: Any):
    """Also when nothing is to be sent."""
    send_spans_sync(log, collector.url(""))
    error = refused(log, collector.url(""), timeout_s=timeout_s)
    assert (error.code, len(collector.seen)) == ("validation.config", 1)
    assert "timeout_s" in error.message


@pytest.mark.parametrize("since", [2**63, -(2**63) - 1, 1.5e18, "2026"])
def test_a_time_that_the_log_cannot_hold_is_refused(log: Log, since: Any):
    """Before the log is asked for it."""
    error = refused(log, "http://127.0.0.1:9", since_unix_ns=since)
    assert error.code == "validation.config"
    assert "since_unix_ns" in error.message


def test_an_address_is_shown_as_it_is_written(log: Log):
    """Brackets around an IPv6 address; port 0 is refused in the endpoint's words."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert f"http://[::1]:{port}/v1/traces" in refused(log, f"http://[::1]:{port}").message
    error = refused(log, "http://127.0.0.1:0")
    assert error.code == "security.url"
    assert "port 0" in error.message
    assert "--headers-env" in error.next_step
