"""The accounts against the lab's own count, in a storm of timeouts, resets and cancellations."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest

from tests.chaos.storm import FAULTS, compared, rush, rush_usd, storm, storm_lab
from workbench import FaultLab, Workbench
from workbench.session.places import suites
from workbench.study.suite import read_suite


@pytest.mark.slow
def test_the_ledger_equals_the_count_of_the_server(tmp_path):
    """500 calls: a row for each accepted request and none besides, certain and possible money, one key a call."""
    with storm_lab(tmp_path, seed=1) as lab:
        ends = asyncio.run(storm(tmp_path / "log", calls=500, seed=1))
        seen = compared(lab, tmp_path / "log")
    assert seen.wrong == []
    assert seen.sent == seen.accepted
    assert (seen.certain, seen.reserved) == (seen.paid_for, 0)
    assert seen.possible >= seen.worked_for > 0
    assert {"ok", "cancelled", "timeout.deadline"} <= set(ends)
    assert len(ends) == 500
    assert len(seen.by_fault) == len(FAULTS)
    assert not [end for end in ends if end.startswith("text")]


@pytest.mark.slow
def test_second_requests_of_slow_calls_are_counted_too(tmp_path):
    """200 calls that are hedged after 30 ms: both requests of a call have one key, a row each, and are booked."""
    with storm_lab(tmp_path, seed=3) as lab:
        asyncio.run(storm(tmp_path / "log", calls=200, seed=3, hedge_after_s=0.03, hedge_ratio=1.0))
        seen = compared(lab, tmp_path / "log")
    assert seen.sent == seen.accepted > 250
    assert (seen.certain, seen.reserved, seen.keys) == (seen.paid_for, 0, seen.calls)


@pytest.mark.slow
def test_a_run_in_a_storm_has_a_row_for_every_request(tmp_path):
    """A suite asked of three models in three formats: every item has its contributions, and the counts agree."""
    rules = [f"*={fault}" for fault in ("net-reset-head@0.1", "http-500-always@0.1", "body-truncated@0.1")]
    models = ["lab:strong", "lab-anthropic:medium", "lab-gemini:weak"]
    with FaultLab(faults=rules, latency=0.02, seed=5) as lab:
        settings = {
            "timeout_s": 3,
            "base_delay_s": 0.01,
            "budget_run_usd": 10,
            "minimum_calls": 1000,
            "window_calls": 1000,
        }
        with lab.open(tmp_path / "log", models=models, **settings) as wb:
            run = wb.run_sync("question_answering", merge="majority_voting", concurrency=16)
            accounts = wb.budget().accounts
            rows = wb.sql("select * from attempts")
            parts = wb.sql("select status, count(*) as n from contributions group by status")
        assert lab.quiet()
        accepted = lab.accepted
    items = len(read_suite(suites()["question_answering"]).items)
    assert parts["n"].sum() == 3 * items
    assert Counter(rows["idempotency_key"]) == accepted.by_key
    assert len(accepted.by_key) == 3 * items
    assert accepted.by_fault.total() == (rows["status"] != "ok").sum() > 0
    run_account = accounts[f"run:{run.run_id}"]
    certain = rows[rows["status"] == "ok"]["cost_usd"].mul(1e6).round(3).apply(math.ceil).sum()
    assert (run_account.reserved, run_account.spent - run_account.uncertain) == (0, certain)


def test_a_rush_spends_what_the_budget_allows_and_no_more(tmp_path):
    """256 tasks at once with a budget for 100: 100 are answered, 156 refused before anything is sent."""
    with storm_lab(tmp_path, seed=1, faults=()) as lab:
        ends = asyncio.run(rush(tmp_path / "log", "lab:storm-a", tasks=256, budget_usd=rush_usd(100)))
        assert lab.accepted.total == 100
    assert ends == {"ok": 100, "budget.exceeded": 156}
    with Workbench.open(tmp_path / "log", budget_run_usd=1) as wb:
        accounts = wb.budget().accounts
    assert [(a.spent, a.reserved, a.uncertain) for a in accounts.values()] == [(4600, 0, 0)] * 3


@pytest.mark.parametrize("seed", [1, 2])
def test_a_rush_into_bad_weather_overspends_nothing(tmp_path, seed):
    """256 tasks at once, half of the requests break: what may have been billed counts, and the limit holds."""
    with storm_lab(tmp_path, seed=seed, faults=FAULTS) as lab:
        usd = rush_usd(100)
        ends = asyncio.run(
            rush(tmp_path / "log", "lab:storm-a", tasks=256, budget_usd=usd, timeout_s=2.0, max_retries=1)
        )
        assert lab.quiet()
        assert lab.accepted.total < 256, "the budget has kept nobody back"
    assert ends.total() == 256
    assert ends["ok"] > 0
    with Workbench.open(tmp_path / "log", budget_run_usd=1) as wb:
        accounts = [a for scope, a in wb.budget().accounts.items() if scope.startswith("run:")]
        booked = wb.log.rows("select sum(round(booked_usd * 1e6)) from attempts")
    assert [a.reserved for a in accounts] == [0]
    assert accounts[0].spent <= round(usd * 1e6)
    assert booked == [(accounts[0].spent,)]
