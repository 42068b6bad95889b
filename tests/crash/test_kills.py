"""Kills at random moments of everything that has to do with a log, and at every point where they could hurt."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crash.fights import benchmark
from tests.crash.programs import QUESTIONS, Plan, judge, score, span
from workbench.record.log import Log

pytestmark = [
    pytest.mark.slow,
    pytest.mark.crash,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="fork and SIGKILL are not for Windows"),
]


def test_st_kill9_of_everybody_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """The small edition of `dev.py bench crash`: writers, movers, upgraders and checkpoints die, the rows do not."""
    found = benchmark(tmp_path, "--spans", "32000", "--kills", "24", "--size", "50")
    assert found == dict.fromkeys(found, 0)
    assert {"lost", "doubled", "strange", "altered", "problems", "kills that are missing"} < found.keys()


def test_the_judge_of_the_fight_tells_lost_doubled_strange_and_altered_rows(tmp_path: Path) -> None:
    """Each thing that may be wrong with a log is counted under its name: otherwise the fight would prove nothing."""
    plan = Plan(folder=tmp_path / "log", acks=tmp_path, writers=2, batches=4, size=3)
    log = Log.open(plan.folder)
    for writer in range(2):
        for batch in range(4):
            log.write(*(span(writer, batch, place, size=3) for place in range(3)))
            if batch % 3 == 1:
                log.write(score(writer, batch))
        plan.told(writer).write_bytes(b"+" * 4)
    log.close()
    assert judge(plan, old=0) == {**dict.fromkeys(QUESTIONS, 0), "spans": 24, "spool files left": 0}
    with log._connection() as con:
        con.execute("delete from log.spans where span_id = '0/1/2'")
        con.execute("insert into log.spans from (from log.spans where span_id in ('0/0/0', '1/3/2'))")
        con.execute("insert into log.spans (span_id) values ('9/9/9')")
        con.execute("update log.spans set component = 'x' where span_id in ('1/0/0', '1/0/1', '1/0/2')")
        con.execute("delete from log.scores where item_id = '1/1'")
    assert judge(plan, old=1) == {
        "lost": 1, "doubled": 2, "strange": 1, "altered": 3, "scores lost or doubled": 1,
        "old calls lost or doubled": 1, "spans": 26, "spool files left": 0,
    }  # fmt: skip
    plan.told(0).write_bytes(b"+")
    assert judge(plan, old=0)["lost"] == 0  # what was never acknowledged is not lost
