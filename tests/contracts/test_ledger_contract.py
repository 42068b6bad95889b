"""The contract of a BudgetLedger, run on the one in memory, on the one in a folder, and against ones that break it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from tests.contracts import ledger_contract as contract
from workbench.act.ledger import MemoryLedger
from workbench.record.ledger import FileLedger


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_the_ledger_in_memory_keeps_the_contract(check):
    """Accounts of one process keep every promise."""
    check(MemoryLedger)


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_the_ledger_in_a_folder_keeps_the_contract(check, tmp_path):
    """Accounts that processes share keep every promise."""
    numbers = itertools.count()
    check(lambda limits: FileLedger(tmp_path / str(next(numbers)), limits))


class Spoiled(MemoryLedger):
    """The ledger in memory with one promise broken, named by `how`."""

    def __init__(self, how, limits):
        self.how = how
        super().__init__({k: v for k, v in limits.items() if type(v) is int} if how == "any limit" else limits)
        if how == "patterns first":
            self._limits["model:openai:gpt"] = 10

    def reserve(self, scopes, amount):
        """Reserve in a spoiled way."""
        if self.how == "one too many" and amount == 10:
            amount = 9
        if self.how == "free calls cost" and amount == 0:
            return super().reserve(scopes, 1)
        if self.how == "first scope only":
            scopes = scopes[:1]
        if self.how == "keeps a part" and (refusal := super().reserve(scopes, amount)):
            super().reserve(["run:r1"], 0 if amount > 200 else amount)
            self._accounts["run:r1"] = replace(self._accounts["run:r1"], reserved=1)
            return refusal
        if self.how == "twice" and len(set(scopes)) < len(scopes):
            super().reserve(scopes, 0)
            return super().reserve(list(set(scopes)), 2 * amount)
        found = super().reserve(scopes, amount)
        if found and self.how == "names the first":
            return replace(found, scope=scopes[0], may_fit_later=True)
        if found and self.how == "always later":
            return replace(found, may_fit_later=True)
        return found

    def settle(self, scopes, reserved, actual, *, uncertain=False):
        """Settle in a spoiled way."""
        if self.how == "capped":
            actual = min(actual, reserved)
        if self.how == "sure":
            uncertain = False
        if self.how == "careless":
            reserved = min(reserved, *(self.balance(scope).reserved for scope in scopes))
        super().settle(scopes, reserved, actual, uncertain=uncertain)

    def balance(self, scope):
        """Look in a spoiled way."""
        if self.how == "looking opens":
            self._accounts.setdefault(scope, self._account(scope))
        return super().balance(scope)


class Shortened(Spoiled):
    """Scopes are cut at odd characters."""

    def reserve(self, scopes, amount):
        """Reserve under the cut names."""
        return super().reserve([cut(scope) for scope in scopes], amount)

    def settle(self, scopes, reserved, actual, *, uncertain=False):
        """Settle under the cut names."""
        super().settle([cut(scope) for scope in scopes], reserved, actual, uncertain=uncertain)


def cut(scope):
    """The scope without what is not ASCII."""
    return scope.encode("ascii", "ignore").decode().strip()


class Unguarded(Spoiled):
    """Every third settlement from a thread is lost, as without a lock."""

    turns = 0

    def settle(self, scopes, reserved, actual, *, uncertain=False):
        """Lose some."""
        Unguarded.turns += 1
        super().settle(scopes, reserved, 0 if Unguarded.turns % 3 == 0 else actual, uncertain=uncertain)


BROKEN = {
    "counts_in_every_scope": (Spoiled, "first scope only"),
    "refuses_in_all_scopes_or_none": (Spoiled, "keeps a part"),
    "names_the_hopeless_before_the_full": (Spoiled, "names the first"),
    "admits_exactly_what_fits": (Spoiled, "one too many"),
    "refuses_no_free_call": (Spoiled, "free calls cost"),
    "books_an_overrun": (Spoiled, "capped"),
    "keeps_what_may_be_billed": (Spoiled, "sure"),
    "counts_a_repeated_scope_once": (Spoiled, "twice"),
    "settles_only_what_was_set_aside": (Spoiled, "careless"),
    "takes_whole_amounts_only": (Spoiled, "any limit"),
    "prefers_a_limit_of_its_own": (Spoiled, "patterns first"),
    "opens_no_account_by_looking": (Spoiled, "looking opens"),
    "takes_any_text_for_a_scope": (Shortened, ""),
    "adds_up_from_many_threads": (Unguarded, ""),
    "agrees_with_adding_up": (Spoiled, "always later"),
}


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_each_check_catches_a_ledger_that_breaks_its_promise(check):
    """A check of the contract fails on a ledger made to break just that promise, so no check is empty."""
    kind, how = BROKEN[check.__name__]
    with pytest.raises(AssertionError):
        check(lambda limits: kind(how, limits))
