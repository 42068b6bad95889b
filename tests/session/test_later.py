"""A log and its accounts that are opened when they are first needed."""

from __future__ import annotations

from workbench.session.later import LaterLog


def test_rows_and_money_stay_in_one_folder_when_the_variable_changes(tmp_path, monkeypatch):
    """Closed and opened again under another WORKBENCH_LOG, the log is where its budgets are."""
    monkeypatch.setenv("WORKBENCH_LOG", str(tmp_path / "one"))
    log = LaterLog(None)
    ledger = log.ledger({"run:*": 100})
    ledger.reserve(["run:r1"], 5)
    ledger.settle(["run:r1"], 5, 5)
    log.close()
    monkeypatch.setenv("WORKBENCH_LOG", str(tmp_path / "two"))
    assert ledger.reserve(["run:r1"], 96) is not None
    assert log.open().folder == tmp_path / "one"
    assert ledger.open().folder == tmp_path / "one" / "ledger"
    log.close()
    assert not (tmp_path / "two").exists()
