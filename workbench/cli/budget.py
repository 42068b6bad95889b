"""The command around money: budget."""

from __future__ import annotations

import typer

from workbench.cli.output import JsonOption, LogOption, log_folder, put, wants_json


def budget(context: typer.Context, log: LogOption = None, as_json: JsonOption = False) -> None:
    """Show the accounts of the log: limits as configured, spent, possibly billed, reserved and left, in US dollars."""
    from workbench.record.ledger import FileLedger
    from workbench.session.budgets import Budgets
    from workbench.session.discipline import limits_of
    from workbench.session.later import ledger_in
    from workbench.session.settings import load_settings

    as_json = wants_json(context, as_json)
    limits = limits_of(load_settings().settings)
    folder = ledger_in(log_folder(context, log))
    accounts = {}
    if folder.exists():  # looking makes no folder
        ledger = FileLedger(folder, limits)
        ledger.open()
        accounts = dict(ledger.balances())
        ledger.close()
    found = Budgets(accounts=accounts, where=str(folder.parent))
    put(found.as_dict(), "" if as_json else repr(found), as_json)
