"""What was sent to whom, and what is still to be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from workbench.errors import LLMError
from workbench.facts import Call, Failure, Request, Response, Span
from workbench.record.log import Log
from workbench.record.outbox import outbox, read_spans, waiting

START = 1_700_000_000_000_000_000
TRACE = "ab" * 16
PLACE = "http://127.0.0.1:4318/v1/traces"


def span(n: int, **more: object) -> Span:
    """The n-th span; each begins a second after the one before."""
    return Span(**{
        "trace_id": TRACE, "span_id": f"{n:016x}", "parent_id": None, "component": "c", "operation": "o",
        "start_unix_ns": START + n * 1_000_000_000, "duration_ms": 1.0, "ok": True, **more,
    })  # fmt: skip


def ids(*numbers: int) -> list[str]:
    return [f"{n:016x}" for n in numbers]


@pytest.fixture
def log(log_folder: Path) -> Log:
    """A log of six spans, written out of order, the biggest id with its first bit set."""
    made = Log.open(log_folder)
    made.write(span(3), span(1, run_id="r1"), span(2, run_id="r1"), span(5), span(4))
    made.write(span(9, span_id="f" * 16))
    made.flush()
    return made


def test_what_a_receiver_has_taken_is_remembered(log: Log):
    """Each receiver by itself, over any number of openings."""
    with outbox(log.folder, PLACE) as box:
        assert box.taken().tolist() == []
        box.add([1, 2**64 - 1])
    with outbox(log.folder, PLACE) as box:
        box.add([3])
        assert box.taken().tolist() == [1, 2**64 - 1, 3]
    with outbox(log.folder, "http://127.0.0.1:9/v1/traces") as box:
        assert box.taken().tolist() == []


def test_the_receivers_address_is_no_files_name(log: Log):
    """A file tells nobody where the log was sent."""
    with outbox(log.folder, "http://secret.test/v1/traces"):
        (file,) = (log.folder / "otel").iterdir()
        assert "secret" not in file.name


def test_a_torn_id_is_dropped(log: Log):
    """What a crash has cut off is sent again, and what comes after it is not misread."""
    with outbox(log.folder, PLACE) as box:
        box.add([1])
    (file,) = (log.folder / "otel").iterdir()
    with file.open("ab") as out:
        out.write(b"\x00\x00\x00")
    with outbox(log.folder, PLACE) as box:
        box.add([2])
        assert box.taken().tolist() == [1, 2]


def test_two_processes_do_not_send_at_once(log: Log):
    """The second is told, and may go when the first has ended, however it ended."""
    program = (
        "import sys, pathlib; from workbench.record.outbox import outbox\n"
        f"with outbox(pathlib.Path(sys.argv[1]), {PLACE!r}): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(log.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LLMError, match="another process") as error, outbox(log.folder, PLACE):
            pass
        assert (error.value.code, error.value.retryable) == ("otel.busy", True)
        other.kill()
    with outbox(log.folder, PLACE) as box:
        assert box.taken().tolist() == []


def test_the_rest_is_told_oldest_first(log: Log):
    """What was taken is counted, and what nobody could take is counted apart."""
    with outbox(log.folder, PLACE) as box:
        none = box.taken()
        assert waiting(log, none, run_id=None, since_unix_ns=None) == ([*ids(1, 2, 3, 4, 5), "f" * 16], 0, 0)
        box.add([2, 4, 77])
        taken = box.taken()
    assert waiting(log, taken, run_id=None, since_unix_ns=None) == ([*ids(1, 3, 5), "f" * 16], 2, 0)
    assert waiting(log, taken, run_id="r1", since_unix_ns=None) == (ids(1), 1, 0)
    since = START + 3_000_000_000
    assert waiting(log, none, run_id=None, since_unix_ns=since) == ([*ids(3, 4, 5), "f" * 16], 0, 0)
    assert waiting(log, none, run_id="r1", since_unix_ns=since) == ([], 0, 0)


def test_spans_that_cannot_be_carried_are_counted(log: Log):
    """By their ids or their times; the others are sent."""
    log.write(span(20, span_id="short"), span(21, trace_id="0" * 32), span(22, span_id="0" * 16))
    log.write(span(23, start_unix_ns=-1), span(24, trace_id="AB" * 16))
    with outbox(log.folder, PLACE) as box:
        found, before, odd = waiting(log, box.taken(), run_id=None, since_unix_ns=None)
    assert (len(found), before, odd) == (6, 0, 5)
    assert len(read_spans(log, [*found, "short", "0" * 16], texts=False)) == 6


def test_a_span_is_read_with_its_call(log: Log):
    """The final attempt gives the attributes, whatever id its own row has; texts only when asked for."""
    request = Request.of("What is asked?", item_id="i1")
    about = {"trace_id": TRACE, "run_id": "r1", "item_id": "i1", "provider": "openai", "request": request,
             "start_unix_ns": START, "duration_ms": 1.0, "call_id": ids(1)[0], "member": "m"}  # fmt: skip
    late = Failure(kind="LLMTimeoutError", code="timeout.attempt", message="late")
    said = Response(request_key=request.key, model="openai:b", text="What is said.", source="live")
    log.write(
        Call(span_id=ids(1)[0], model="a", response=None, failure=late, attempt=1, final=False, **about),
        Call(span_id="e" * 16, model="b", response=said, failure=None, attempt=2, final=True, attempts=2, **about),
    )
    (plain,) = read_spans(log, ids(1), texts=False)
    assert (plain.name, plain.attributes["workbench.attempts"]) == ("chat b", 2)
    assert [event.attributes["gen_ai.request.model"] for event in plain.events] == ["a", "b"]
    assert "What is" not in repr(plain)
    (full,) = read_spans(log, ids(1), texts=True)
    assert "What is asked?" in str(full.attributes["gen_ai.input.messages"])
    assert "What is said." in str(full.attributes["gen_ai.output.messages"])


def test_a_file_in_the_place_of_the_outbox_is_named(log: Log):
    """And a folder in the place of its file."""
    with outbox(log.folder, PLACE):
        (file,) = (log.folder / "otel").iterdir()
    file.unlink()
    file.mkdir()
    with pytest.raises(LLMError, match="is to be a file") as error, outbox(log.folder, PLACE):
        pass
    assert error.value.code == "storage.readonly"
    file.rmdir()
    (log.folder / "otel").rmdir()
    (log.folder / "otel").write_text("")
    with pytest.raises(LLMError, match="otel is to be a folder") as error, outbox(log.folder, PLACE):
        pass
    assert error.value.code == "storage.readonly"
    assert "move it away" in error.value.next_step
