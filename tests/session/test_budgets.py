"""Budgets beside the log: shared by all objects and restarts on it, and no file where nothing is limited."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from workbench import LLMFailoverHandler, MultiModelEnsembler, Workbench
from workbench.act.ledger import MemoryLedger
from workbench.cli import main
from workbench.decide.budget import Account
from workbench.errors import LLMError, LLMValidationError
from workbench.session import places
from workbench.session.budgets import SHOWN_RUNS, Budgets

TOML = """
[call]
max_output_tokens = 100
max_retries = 0

[providers.lab]
wire = "openai"
base_url = "http://lab.test/v1"
auth = "none"

[models."lab:small"]
prompt_usd_per_mtok = 1.0
completion_usd_per_mtok = 2.0
"""
PAID = 120  # micro-dollars of an answer: 100 tokens at 1, 10 at 2
WORST = 210  # of "4?": 2 bytes and 8 for the form at 1, 100 tokens at 2


class Lab:
    """A provider in memory that counts what it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        choice = {"index": 0, "message": {"content": "The answer is 4."}, "finish_reason": "stop"}
        return httpx.Response(200, json={"id": "r1", "model": "small", "choices": [choice], "usage": usage})


@pytest.fixture(autouse=True)
def _configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration with one model of known price, and every default folder inside the test's own."""
    (tmp_path / "workbench.toml").write_text(TOML)
    monkeypatch.setattr("workbench.session.settings.root", lambda: tmp_path)
    monkeypatch.setattr(places, "root", lambda: tmp_path)


@pytest.fixture
def lab() -> Lab:
    """The provider."""
    return Lab()


def asked(lab: Lab, log: Path, **settings: Any) -> None:
    """One question to one model, from a handler of its own."""
    handler = LLMFailoverHandler(["lab:small"], log=log, transport=httpx.MockTransport(lab), **settings)
    try:
        assert asyncio.run(handler.execute("4?")).text == "The answer is 4."
    finally:
        handler.close()


def spent(log: Path) -> dict[str, int]:
    """What was spent, by scope without run."""
    with Workbench.open(log, budget_month_usd=1) as wb:
        accounts = wb.budget().accounts
    return {scope: account.spent for scope, account in accounts.items() if not scope.startswith("run:")}


def test_handlers_ensemblers_and_restarts_share_the_accounts_of_a_log(lab: Lab, log_folder: Path) -> None:
    """Each object begins where the last one ended; the one that finds the budget used up asks nothing."""
    limit = {"budget_model_usd": (2 * PAID + WORST) / 1e6}
    asked(lab, log_folder, **limit)
    ensembler = MultiModelEnsembler(["lab:small"], log=log_folder, transport=httpx.MockTransport(lab), **limit)
    asyncio.run(ensembler.get_ensemble_response("4?", None))
    asyncio.run(ensembler.aclose())
    asked(lab, log_folder, **limit)
    with pytest.raises(LLMValidationError) as caught:
        asked(lab, log_folder, **limit)
    assert (caught.value.code, lab.asked) == ("budget.exceeded", 3)
    assert "budget_model_usd" in caught.value.next_step
    found = spent(log_folder)
    assert found.pop("model:lab:small") == 3 * PAID
    assert {scope[:6] for scope in found} == {"month:"}
    assert sum(found.values()) == 3 * PAID


def test_two_objects_in_one_process_cannot_spend_the_budget_twice(lab: Lab, log_folder: Path) -> None:
    """Two handlers that are open at the same time draw on one account."""
    limit = {"budget_model_usd": (PAID + WORST - 1) / 1e6}
    one, two = (
        LLMFailoverHandler(["lab:small"], log=log_folder, transport=httpx.MockTransport(lab), **limit) for _ in "12"
    )
    asyncio.run(one.execute("4?"))
    with pytest.raises(LLMValidationError, match="model:lab:small"):
        asyncio.run(two.execute("4?"))
    accounts = [handler.chain.admission.ledger.balances() for handler in (one, two)]
    assert accounts[0] == accounts[1]
    assert accounts[0]["model:lab:small"].spent == PAID
    one.close()
    two.close()
    assert lab.asked == 1


def test_without_a_limit_no_account_is_a_file(lab: Lab, log_folder: Path) -> None:
    """Whoever sets no budget pays for none: accounts are in memory, and the log has no folder of them."""
    asked(lab, log_folder)
    with Workbench.open(log_folder) as wb:
        assert isinstance(wb.live.accounts, MemoryLedger)
        assert "this process" in repr(wb.budget())
    assert (log_folder / "workbench.duckdb").exists()
    assert not (log_folder / "ledger").exists()


def test_making_an_object_with_a_budget_makes_no_folder(log_folder: Path) -> None:
    """The accounts are opened with the log, by the first call."""
    LLMFailoverHandler(["lab:small"], log=log_folder, budget_run_usd=1).close()
    MultiModelEnsembler(["lab:small"], log=log_folder, budget_run_usd=1).close()
    assert not log_folder.exists()


def test_accounts_that_cannot_be_written_refuse_before_anything_is_sent(lab: Lab, log_folder: Path) -> None:
    """Where the ledger's folder cannot be made, no paid request leaves, and the error is about storage."""
    log_folder.mkdir()
    (log_folder / "ledger").write_text("in the way")
    with pytest.raises(LLMError) as caught:
        asked(lab, log_folder, budget_run_usd=1)
    assert (caught.value.code, lab.asked) == ("storage.readonly", 0)
    with pytest.raises(LLMError) as caught:
        Workbench.open(log_folder, budget_run_usd=1)
    assert caught.value.code == "storage.readonly"


# -- looking


def told(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """What the command prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_command_shows_each_account(
    lab: Lab, log_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limit, spent, possibly billed, reserved and left, as JSON and as a table; limits are those configured now."""
    asked(lab, log_folder, budget_month_usd=1)
    monkeypatch.setenv("WORKBENCH_BUDGET_MODEL_USD", "0.0005")
    found = json.loads(told(capsys, "budget", "--log", log_folder, "--json"))
    assert [row["scope"].partition(":")[0] for row in found["accounts"]] == ["month", "model", "run"]
    month, model, _ = found["accounts"]
    assert (month["limit_usd"], month["left_usd"], month["spent_usd"]) == (None, None, 0.00012)
    assert model == {
        "scope": "model:lab:small",
        "limit_usd": 0.0005,
        "spent_usd": 0.00012,
        "possibly_billed_usd": 0.0,
        "reserved_usd": 0.0,
        "left_usd": 0.00038,
    }
    text = told(capsys, "budget", "--log", log_folder)
    (row,) = (line.split() for line in text.splitlines() if line.startswith("model:"))
    assert row == ["model:lab:small", "0.0005", "0.00012", "0.00", "0.00", "0.00038"]


def test_the_command_makes_no_folder(log_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log without accounts says that nothing was spent, and is not made."""
    assert "nothing spent yet" in told(capsys, "budget", "--log", log_folder)
    assert json.loads(told(capsys, "budget", "--json", "--log", log_folder))["accounts"] == []
    assert not log_folder.exists()


def test_budgets_show_the_newest_runs_and_what_was_overspent() -> None:
    """Older runs are counted in a note, all are in the document; an overrun names the setting that raises it."""
    accounts = {f"run:r{n:02}": Account(spent=n, uncertain=n) for n in range(SHOWN_RUNS + 3)}
    found = Budgets(accounts={**accounts, "month:2026-11": Account(limit=5, spent=7)}, where="data/log")
    lines = repr(found).splitlines()
    assert lines[0] == "budgets in data/log"
    assert lines[3].split() == ["month:2026-11", "0.000005", "0.000007", "0.00", "0.00", "0.00"]
    assert [line.split()[0] for line in lines[4:-2]] == [f"run:r{n:02}" for n in range(SHOWN_RUNS + 2, 2, -1)]
    assert lines[-2].startswith("3 earlier runs are not shown")
    assert lines[-1] == "month:2026-11 is overspent: raise budget_month_usd"
    assert len(found.as_dict()["accounts"]) == SHOWN_RUNS + 4
    assert "<table" in found._repr_html_()
