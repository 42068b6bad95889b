"""`workbench log otel`: the command around sending spans."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer

from faults.server import FaultServer, reply
from workbench import Workbench
from workbench.cli.otel import otel, unix_ns_of
from workbench.errors import LLMProviderError, LLMValidationError

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
S = 1_000_000_000


@pytest.fixture
def collector() -> Iterator[FaultServer]:
    """A receiver that takes everything."""
    pytest.importorskip("opentelemetry.sdk.trace", reason="the extra [otel] is not installed")
    with FaultServer() as server:
        server.on("", reply(b"", content_type="application/x-protobuf"))
        yield server


def call(*args: str | Path) -> None:
    """The command by itself."""
    app = typer.Typer()
    app.command()(otel)
    app(args=[str(a) for a in args], standalone_mode=False)


def test_it_says_what_it_has_sent(collector: FaultServer, log_folder: Path, capsys: pytest.CaptureFixture[str]):
    """As a sentence and as one JSON document."""
    with Workbench.open(log_folder, models=["simulated:weak"]) as wb:
        run = wb.run_sync("question_answering")
        [(count,)] = wb.log.rows("select count(*) from spans")
    call("--endpoint", collector.url(""), "--log", log_folder, "--run", run.run_id, "--since", "1h")
    place = f"http://127.0.0.1:{collector.port}/v1/traces"
    assert capsys.readouterr().out == f"{count} spans sent to {place}, 0 were there before\n"
    call("--endpoint", collector.url(""), "--log", log_folder, "--json")
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert said == {
        "endpoint": place, "sent": 0, "before": count, "unsendable": 0, "requests": 0, "texts": False,
        "semconv": "1.41.1",
    }  # fmt: skip
    call("--endpoint", collector.url(""), "--log", log_folder, "--texts", "--again", "--json")
    assert json.loads(capsys.readouterr().out)["sent"] == count
    assert b"gen_ai.input.messages" in collector.seen[-1].raw


def test_headers_of_a_named_variable_are_sent(
    collector: FaultServer, log_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """And printed nowhere, also when they are refused."""
    with Workbench.open(log_folder, models=["simulated:weak"]) as wb:
        wb.run_sync("question_answering")
    monkeypatch.setenv("RECEIVER", "x-key=canary0123456789")
    collector.on("", reply({"sent": "canary0123456789"}, 403))
    options = ("--endpoint", collector.url(""), "--log", log_folder, "--headers-env", "RECEIVER")
    with pytest.raises(LLMProviderError, match="answered 403") as error:
        call(*options)
    assert collector.seen[0].headers["x-key"] == "canary0123456789"
    told = capsys.readouterr()
    assert "canary" not in error.value.message + told.out + told.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", datetime(2026, 3, 10, 10, 30, tzinfo=UTC)),
        ("45s", datetime(2026, 3, 10, 11, 59, 15, tzinfo=UTC)),
        ("24h", datetime(2026, 3, 9, 12, 0, tzinfo=UTC)),
        (" 7d ", datetime(2026, 3, 3, 12, 0, tzinfo=UTC)),
        ("2w", datetime(2026, 2, 24, 12, 0, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:30", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
        ("2026-01-31T12:30+02:00", datetime(2026, 1, 31, 10, 30, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_length_back_or_a_date(text: str, expected: datetime):
    """Whole seconds here, so that the expected number is exact."""
    assert unix_ns_of(text, now=NOW) == int(expected.timestamp()) * S


def test_a_moment_keeps_its_microseconds():
    """Nanoseconds since 1970 have more digits than a float."""
    assert unix_ns_of("1970-01-02T00:00:00.000001", now=NOW) == 86_400 * S + 1000


@pytest.mark.parametrize("text", ["", "soon", "-1d", "1y", "999999999w", "2026-13-01", "1.5h", "\u0661d"])
def test_what_is_no_moment_is_refused(text: str):
    """With the forms that are."""
    with pytest.raises(LLMValidationError, match="--since") as error:
        unix_ns_of(text, now=NOW)
    assert "24h" in error.value.next_step


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31", "9999-12-31T23:59:59.999999", "1500-06-01"])
def test_a_time_that_no_log_can_hold_is_refused(text: str):
    """By the option's name, and not by a failing query."""
    with pytest.raises(LLMValidationError, match="--since") as error:
        unix_ns_of(text, now=NOW)
    assert "1678" in error.value.message


def test_a_folder_without_a_log_is_refused(tmp_path: Path):
    """A typing error makes no log."""
    with pytest.raises(LLMValidationError, match="no log") as error:
        call("--endpoint", "http://127.0.0.1:9", "--log", tmp_path / "typo")
    assert error.value.code == "validation.log"
    assert list(tmp_path.iterdir()) == []
