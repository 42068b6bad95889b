"""What nobody cleans up after a death, and keys that two rows have in common."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.crash.straced import ran
from workbench.facts import Span
from workbench.record.log import Log

DIES_UNNAMED = """
    def watch(event, args):
        if event == "os.rename" and str(args[1]).endswith(".spool"):
            os.kill(os.getpid(), 9)
    log = Log.open(sys.argv[1])
    if not os.fork():
        sys.addaudithook(watch)
        log.write(score("a"))
    say(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork and SIGKILL are not for Windows")
def test_st_kill9_before_a_spool_file_has_its_name_leaves_nothing_behind(tmp_path: Path) -> None:
    """A file whose writer died before it could be seen is removed by who moves the spool, a minute later."""
    spool = tmp_path / "log" / "spool"
    assert ran(DIES_UNNAMED, tmp_path / "log") == f"{-signal.SIGKILL}\n"
    (left,) = spool.iterdir()
    log = Log.open(tmp_path / "log")
    log.write(a_span(1))
    log.ingest()
    assert left.exists()  # its writer might be about to name it
    old = left.rename(spool / f"{1:020d}{left.name[20:]}")
    log.write(a_span(2))
    log.ingest()
    assert not old.exists()
    assert log.rows("select count(*) from spans") == [(2,)]


def test_rows_with_one_key_are_one_row(tmp_path: Path) -> None:
    """A span is the same when its name and its moment are, also where others lie between its two rows."""
    log = Log.open(tmp_path / "log")
    for moment in (1, 1000, 1, 500, 1000):
        log.write(a_span(moment))
        log.ingest()
    log.write(a_span(500), a_span(7), a_span(7))
    assert log.rows("select span_id, start_unix_ns from spans order by 2") == [
        ("a", 1), ("a", 7), ("a", 500), ("a", 1000),
    ]  # fmt: skip


def a_span(moment: int) -> Span:
    """One with the name that all have here."""
    return Span(
        trace_id="t", span_id="a", parent_id=None, component="c", operation="o", start_unix_ns=moment,
        duration_ms=1.0, ok=True,
    )  # fmt: skip
