"""A log and its accounts that are opened when they are first needed: naming models makes no folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from workbench.act.threads import in_thread
from workbench.decide.budget import Account
from workbench.facts import Fact, Refusal
from workbench.record.ledger import FileLedger
from workbench.record.log import Log
from workbench.record.spool import Durability
from workbench.session.places import default_log


class LaterLog:
    """A Sink on a log folder (default WORKBENCH_LOG, or data/log, as first used) that `open` or the first write makes.

    durability: as for `Log.open`.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, *, durability: Durability = "process") -> None:
        self._folder, self._durability = folder, durability
        self._log: Log | None = None
        self._ledgers: list[LaterLedger] = []
        self._lock = threading.Lock()

    def open(self) -> Log:
        """The log; raises LLMError storage.* when the folder cannot be used."""
        with self._lock:
            if self._log is None:
                if self._folder is None:  # found once: the budgets stay where they are, and so must the rows
                    self._folder = default_log()
                self._log = Log.open(self._folder, durability=self._durability)
            return self._log

    async def ready(self) -> None:
        """Open the log without holding up the event loop: it may have to wait for another process."""
        if self._log is None:
            await in_thread(self.open, name="open the log")

    def write(self, *facts: Fact) -> None:
        """Write to the log."""
        self.open().write(*facts)

    def ledger(self, limits: Mapping[str, int]) -> LaterLedger:
        """The budgets beside this log, under these limits; they are closed with it."""
        ledger = LaterLedger(self, limits)
        self._ledgers.append(ledger)
        return ledger

    def close(self) -> None:
        """Let go of the log, if it was opened, and of its budgets; the next write opens it again."""
        with self._lock:
            log, self._log = self._log, None
        for ledger in self._ledgers:
            ledger.close()
        if log is not None:
            log.close()


class LaterLedger:
    """The budgets of a log folder, opened with the log by the first reservation; a BudgetLedger."""

    def __init__(self, log: LaterLog, limits: Mapping[str, int]) -> None:
        self._log, self._limits = log, limits
        self._ledger: FileLedger | None = None
        self._lock = threading.Lock()

    def open(self) -> FileLedger:
        """The ledger in the log's folder; raises LLMError storage.* when it cannot be used."""
        if (ledger := self._ledger) is not None:
            return ledger
        with self._lock:
            if self._ledger is None:
                ledger = FileLedger(ledger_in(self._log.open().folder), self._limits)
                ledger.open()
                self._ledger = ledger
            return self._ledger

    def reserve(self, scopes: Sequence[str], amount: int) -> Refusal | None:
        """None when `amount` was set aside in every scope; else the refusal. Raises as FileLedger does."""
        return self.open().reserve(scopes, amount)

    def settle(self, scopes: Sequence[str], reserved: int, actual: int, *, uncertain: bool = False) -> None:
        """Replace a reservation by what was spent."""
        self.open().settle(scopes, reserved, actual, uncertain=uncertain)

    def balances(self) -> Mapping[str, Account]:
        """Every account by scope."""
        return self.open().balances()

    def close(self) -> None:
        """Let go of the files, if they were opened."""
        if self._ledger is not None:
            self._ledger.close()


def ledger_in(log: Path) -> Path:
    """Where in a log folder its budgets lie."""
    return log / "ledger"
