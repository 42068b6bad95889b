"""The stop button at every line of opening, using and closing the database: the next cell finds the log as it was."""

from __future__ import annotations

import itertools
import linecache
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.crash.straced import ran
from workbench.facts import Score
from workbench.record import database
from workbench.record.log import Log


def interrupted(action: Callable[[], object], *, line: int) -> bool:
    """Whether the action was interrupted at the n-th line that it runs in record/database.py; False when it ended."""
    ran = itertools.count(1)

    def local(frame: FrameType, event: str, _: Any) -> Any:
        # Python looks for no signal at a line with nothing but `try:`, nor between the end of a `with` and its exit.
        here = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and not here.startswith(("try:", "with ")) and next(ran) == line:
            raise KeyboardInterrupt
        return local

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        return local if frame.f_code.co_filename == database.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("use", ["ingest", "rows"])
def test_an_interrupt_at_any_line_leaves_a_log_that_can_be_read_at_once(tmp_path: Path, use: str) -> None:
    """Wherever it hits, nothing stays open: the next read shows no error and has every row once."""
    log = Log.open(tmp_path / "log")
    action: Callable[[], object] = log.ingest if use == "ingest" else lambda: log.rows("select count(*) from scores")
    for line in itertools.count(1):
        log.write(Score(item_id=str(line), model="m", scorer="s", value=1.0, run_id="r"))
        hit = interrupted(action, line=line)
        assert log.rows("select count(*), count(distinct item_id) from scores") == [(line, line)], f"line {line}"
        if not hit:
            break
    assert line > 10  # as many as these are there to be hit
    other = threading.Thread(target=log.ingest, daemon=True)
    log.write(Score(item_id="last", model="m", scorer="s", value=1.0, run_id="r"))
    other.start()
    other.join(20)
    assert not other.is_alive(), "a lock was left behind"


STOPPED = """
    import random, signal
    log, chance, wrong, hit = Log.open(sys.argv[1]), random.Random(3), set(), 0
    def stop(*_):
        raise KeyboardInterrupt
    signal.signal(signal.SIGALRM, stop)
    for n in range(40):
        log.write(*(score(f"{n}/{i}") for i in range(50)))
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0005, 0.03))
            try:
                log.ingest()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            hit += 1
        except BaseException as error:
            wrong.add(repr(error))
        try:
            assert log.rows("select count(*), count(distinct item_id) from scores") == [((n + 1) * 50,) * 2]
        except BaseException as error:
            wrong.add(f"afterwards {error!r}")
    say(hit > 5)
    say(sorted(wrong))
"""


@pytest.mark.skipif(os.name == "nt", reason="these signals are not for Windows")
def test_an_ingest_that_is_interrupted_by_a_signal_ends_as_a_keyboard_interrupt(tmp_path: Path) -> None:
    """What the stop button raises is what arrives, wherever DuckDB was, and the next query has every row once."""
    assert ran(STOPPED, tmp_path / "log").split("\n")[:2] == ["True", "[]"]


LONG = """
    import signal, time
    log = Log.open(sys.argv[1])
    log.write(score("a"))
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for ask in (log.rows, log.records, log.table, log.frame):
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        start_s = time.monotonic()
        try:
            ask("select count(*) from range(1_000_000_000_000) t(i) where i % 7 = 3")
        except KeyboardInterrupt:
            say((time.monotonic() - start_s < 5, log.rows("select count(*) from scores")))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals are not for Windows")
def test_an_interrupt_ends_a_query_that_would_take_hours(tmp_path: Path) -> None:
    """The stop button is heard while DuckDB works, whatever form the rows are asked in, and the next query answers."""
    assert ran(LONG, tmp_path / "log") == "(True, [(1,)])\n" * 4
