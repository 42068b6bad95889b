"""What the budgets of a log know: limits, what was spent and set aside, and what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from workbench.decide.budget import MICRO, SETTINGS, Account, usd_text
from workbench.facts import BudgetLedger
from workbench.show.tables import Table

KINDS = ("month", "model", "run")
SHOWN_RUNS = 10


class Accounts(BudgetLedger, Protocol):
    """A ledger that can be looked into."""

    def balances(self) -> Mapping[str, Account]:
        """Every account by scope, the one used last at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """The accounts of a log; shows itself as a table of months, models and the newest runs.

    accounts: by scope, the one used last at the end. where: what the caption says of their home.
    """

    accounts: Mapping[str, Account]
    where: str

    def as_dict(self) -> dict[str, Any]:
        """All accounts as plain JSON values, in US dollars; null is no limit."""
        return {"where": self.where, "accounts": [_row(scope, account) for scope, account in self._sorted]}

    @property
    def _sorted(self) -> list[tuple[str, Account]]:
        newest = list(self.accounts.items())[::-1]
        kinds = [*KINDS, *sorted({_kind(scope) for scope, _ in newest} - set(KINDS))]
        return [(scope, account) for kind in kinds for scope, account in newest if _kind(scope) == kind]

    @property
    def table(self) -> Table:
        """Months, models and the newest runs, in US dollars."""
        runs = [scope for scope, _ in self._sorted if _kind(scope) == "run"]
        hidden = set(runs[SHOWN_RUNS:])
        columns = ("budget", "limit_usd", "spent_usd", "possibly_billed_usd", "reserved_usd", "left_usd")
        notes = [f"{len(hidden)} earlier runs are not shown (workbench budget --json has them)"] if hidden else []
        notes += [f"{scope} is overspent: raise {_setting(scope)}" for scope, a in self._sorted if a.overrun]
        return Table(
            caption=f"budgets in {self.where}" if self.accounts else f"budgets in {self.where}: nothing spent yet",
            columns=columns,
            rows=tuple(
                (scope, _shown(a.limit), *map(usd_text, (a.spent, a.uncertain, a.reserved)), _shown(a.left))
                for scope, a in self._sorted
                if scope not in hidden
            ),
            numeric=frozenset(columns[1:]),
            notes=tuple(notes),
        )

    def __repr__(self) -> str:
        return self.table.text()

    def _repr_html_(self) -> str:
        return self.table.html()


def _kind(scope: str) -> str:
    return scope.partition(":")[0]


def _setting(scope: str) -> str:
    return SETTINGS.get(_kind(scope), "its limit")


def _row(scope: str, account: Account) -> dict[str, Any]:
    return {
        "scope": scope,
        "limit_usd": _usd(account.limit),
        "spent_usd": _usd(account.spent),
        "possibly_billed_usd": _usd(account.uncertain),
        "reserved_usd": _usd(account.reserved),
        "left_usd": _usd(account.left),
    }


def _usd(micro: int | None) -> float | None:
    return None if micro is None else micro / MICRO


def _shown(micro: int | None) -> str:
    return "none" if micro is None else usd_text(micro)
