"""Budgets of one process: money set aside before a call, in several accounts at once, and settled after it.

A scope is one account: `run:ID`, `model:PROVIDER:MODEL`, `month:2026-11`. A reservation counts in all its scopes or
in none, also with many threads: 256 callers at a budget for 100 calls are 100 admitted and 156 refused.
`record/ledger.py` has the accounts that processes share.

    refusal = ledger.reserve(scopes, price.cost_micro(...))     # the worst case
    if refusal: raise exceeded(refusal)
    ledger.settle(scopes, reserved, actual)                      # 0: never sent; uncertain=True: possibly billed
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from workbench.decide.budget import Account, check_micro, check_scopes, exceeded, limit_of, reserve_all
from workbench.facts import Refusal

__all__ = ["MemoryLedger", "Refusal", "exceeded"]


class MemoryLedger:
    """Reserve-then-settle accounting in integer micro-dollars, in memory; safe to use from several threads.

    limits: micro-dollars by scope, or by pattern: `model:*` is the limit of each scope that begins with `model:` and
    has no entry of its own (the longest pattern wins). A scope without a limit is counted without bound.
    Raises LLMValidationError validation.budget for a limit that is no whole number >= 0.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        for scope, limit in limits.items():
            check_micro(f"the limit of {scope}", limit)
        self._limits = dict(limits)
        self._accounts: dict[str, Account] = {}
        self._lock = threading.Lock()

    def reserve(self, scopes: Sequence[str], amount: int) -> Refusal | None:
        """None when `amount` was set aside in every scope; else the refusal, and nothing was set aside anywhere.

        A scope named twice counts once. 0 is never refused.
        """
        names = check_scopes(scopes)
        with self._lock:
            after = reserve_all({name: self._account(name) for name in names}, amount)
            if isinstance(after, Refusal):
                return after
            self._accounts.update(after)
            return None

    def settle(self, scopes: Sequence[str], reserved: int, actual: int, *, uncertain: bool = False) -> None:
        """Replace a reservation by what was spent, in every scope or, on an error, in none.

        scopes, reserved: as they were reserved. actual: 0 for a call that was never sent; may be more than reserved.
        uncertain: the call may have been billed; `actual` is then the worst case.
        Raises LLMValidationError validation.budget when a scope has less than `reserved` set aside.
        """
        names = check_scopes(scopes)
        with self._lock:
            self._accounts.update(
                {
                    name: self._account(name).settle(reserved=reserved, actual=actual, uncertain=uncertain)
                    for name in names
                }
            )

    def balance(self, scope: str) -> Account:
        """The account of a scope as it is now; untouched scopes have one too."""
        with self._lock:
            return self._account(scope)

    def balances(self) -> Mapping[str, Account]:
        """Every account that was ever reserved in or settled, by scope, as one moment saw them all."""
        with self._lock:
            return MappingProxyType(dict(self._accounts))

    def _account(self, scope: str) -> Account:
        found = self._accounts.get(scope)
        return Account(limit=limit_of(self._limits, scope)) if found is None else found
