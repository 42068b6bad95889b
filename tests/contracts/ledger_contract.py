"""What every BudgetLedger must do, as checks that take a factory.

A factory makes an empty ledger under limits, micro-dollars by scope or pattern: `make({"run:*": 1000})`. Beyond the
protocol the checks look at `balance(scope)` and `balances()`. Use them on your own ledger in one line:

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_ledger(check): check(lambda limits: MyLedger(limits))

Each check raises AssertionError and says what was promised. The events come from a fixed seed.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workbench.decide.budget import Account, micro_usd
from workbench.errors import LLMValidationError
from workbench.facts import Refusal

Factory = Callable[[Mapping[str, int]], Any]

SCOPES = ("run:r1", "model:openai:gpt", "month:2026-11")
ODD_SCOPES = ("run:\n\r\0", "run:\ud800", "run:Zoë ✓", 'run:["a"]', "run: ", "run:*", "x" * 5000)


def counts_in_every_scope(make: Factory) -> None:
    """600 and 100 set aside in three scopes, 450 spent of the first, the second released: 450 in each."""
    ledger = make({"run:*": 1000, "model:*": 2000})
    assert ledger.reserve(SCOPES, 600) is None
    assert ledger.reserve(SCOPES, 100) is None
    assert _all(ledger, Account(reserved=700)), "700 are not set aside in every scope"
    ledger.settle(SCOPES, 600, 450)
    ledger.settle(SCOPES, 100, 0)
    assert ledger.balances() == {
        "run:r1": Account(limit=1000, spent=450),
        "model:openai:gpt": Account(limit=2000, spent=450),
        "month:2026-11": Account(spent=450),
    }


def refuses_in_all_scopes_or_none(make: Factory) -> None:
    """A refusal tells the state of the scope that refused, and whether waiting helps; nothing is set aside."""
    ledger = make({"run:r1": 1000, "model:openai:gpt": 500})
    assert ledger.reserve(SCOPES, 300) is None
    said = ledger.reserve(SCOPES, 300)
    assert said == Refusal(
        scope="model:openai:gpt", limit=500, spent=0, reserved=300, amount=300, may_fit_later=True
    ), said
    assert not ledger.reserve(SCOPES, 501).may_fit_later, "501 never fit into 500"
    assert _all(ledger, Account(reserved=300)), "a refusal has changed an account"


def names_the_hopeless_before_the_full(make: Factory) -> None:
    """Where one scope is only full for now and another can never pay, the second is named."""
    ledger = make({"run:r1": 100, "month:2026-11": 50})
    ledger.reserve(["run:r1"], 100)
    said = ledger.reserve(["run:r1", "month:2026-11"], 60)
    assert (said.scope, said.may_fit_later) == ("month:2026-11", False), said


def admits_exactly_what_fits(make: Factory) -> None:
    """Whatever limit and cost, floor(limit / cost) calls of many are admitted, and no micro-dollar more is spent."""
    for limit, cost, settles in ((0, 1, True), (1, 1, False), (999, 7, True), (1000, 10, False), (59, 60, True)):
        ledger = make({"run:*": limit})
        admitted = 0
        for _ in range(256):
            if ledger.reserve(SCOPES, cost) is None:
                admitted += 1
                if settles:
                    ledger.settle(SCOPES, cost, cost)
        assert admitted == min(256, limit // cost), f"{admitted} calls of {cost} were admitted into {limit}"


def refuses_no_free_call(make: Factory) -> None:
    """0 fits into a budget of 0 and after an overrun, and is counted as nothing."""
    ledger = make({"run:*": micro_usd(0)})
    for _ in range(2):
        assert ledger.reserve(["run:r1"], 0) is None
        ledger.settle(["run:r1"], 0, 0)
    assert ledger.balances() == {"run:r1": Account(limit=0)}
    ledger.settle(["run:r1"], 0, 5)
    assert ledger.reserve(["run:r1"], 0) is None
    assert not ledger.reserve(["run:r1"], 1).may_fit_later


def books_an_overrun(make: Factory) -> None:
    """A call that cost 150 of 100 is booked in both scopes; only the one over its limit refuses from then on."""
    ledger = make({"run:r1": 100, "model:m": 1000})
    ledger.reserve(["run:r1", "model:m"], 100)
    ledger.settle(["run:r1", "model:m"], 100, 150)
    assert ledger.balance("run:r1").overrun == 50
    said = ledger.reserve(["run:r1", "model:m"], 1)
    assert (said.scope, said.may_fit_later) == ("run:r1", False), said
    assert ledger.reserve(["model:m"], 1) is None


def keeps_what_may_be_billed(make: Factory) -> None:
    """What is only possibly billed counts as spent, and is told apart."""
    ledger = make({})
    for uncertain in (True, False):
        ledger.reserve(SCOPES, 10)
        ledger.settle(SCOPES, 10, 7, uncertain=uncertain)
    assert _all(ledger, Account(spent=14, uncertain=7))


def counts_a_repeated_scope_once(make: Factory) -> None:
    """A run that is its own parent is not charged double."""
    ledger = make({"run:r1": 10})
    assert ledger.reserve(["run:r1", "run:r1"], 10) is None
    ledger.settle(["run:r1", "run:r1"], 10, 9)
    assert ledger.balance("run:r1") == Account(limit=10, spent=9)


def settles_only_what_was_set_aside(make: Factory) -> None:
    """Settling twice, or more than was set aside, is refused, and every account stays as it was."""
    ledger = make({})
    ledger.reserve(["a"], 5)
    ledger.reserve(["b"], 4)
    before = ledger.balances()
    for scopes, reserved, actual in ((["a", "b"], 5, 5), (["b", "a"], 5, 0), (["c"], 1, 1)):
        _refused(lambda s=scopes, r=reserved, a=actual: ledger.settle(s, r, a))
    ledger.settle(["a"], 5, 0)
    _refused(lambda: ledger.settle(["a"], 5, 5))
    assert ledger.balances() == {**before, "a": Account()}


def takes_whole_amounts_only(make: Factory) -> None:
    """Amounts, limits and scopes of a wrong kind are refused by name and change nothing."""
    for limit in (-1, 1.5, True, "10", float("nan"), None):
        _refused(lambda limit=limit: make({"run:*": limit}), "the limit of run")
    ledger = make({})
    for amount in (-1, 1.5, True, "10", float("nan"), None):
        _refused(lambda amount=amount: ledger.reserve(SCOPES, amount))
        _refused(lambda amount=amount: ledger.settle(SCOPES, 0, amount))
    for scopes in ("run:r1", [""], [1]):
        _refused(lambda scopes=scopes: ledger.reserve(scopes, 1), "scopes")
    assert ledger.balances() == {}


def prefers_a_limit_of_its_own(make: Factory) -> None:
    """`model:*` bounds each model by itself, except the one that has an entry; no entry is no limit."""
    ledger = make({"model:*": 10, "model:openai:gpt": 20})
    assert ledger.reserve(["model:a"], 10) is None
    assert ledger.reserve(["model:b"], 10) is None
    assert ledger.reserve(["model:b"], 1).limit == 10
    assert ledger.reserve(["model:openai:gpt"], 20) is None
    assert ledger.reserve(["run:r1"], 10**15) is None
    assert ledger.balance("run:r1") == Account(reserved=10**15)


def opens_no_account_by_looking(make: Factory) -> None:
    """An untouched scope has a balance and is not listed; what was read does not change later."""
    ledger = make({"run:*": 7})
    assert ledger.balance("run:new") == Account(limit=7)
    assert ledger.balances() == {}
    ledger.reserve(["run:r1"], 1)
    seen = ledger.balances()
    ledger.reserve(["run:r1"], 1)
    assert seen["run:r1"].reserved == 1


def takes_any_text_for_a_scope(make: Factory) -> None:
    """Line breaks, half characters and long names are scopes like others, each one by itself."""
    ledger = make({})
    for amount, scope in enumerate(ODD_SCOPES, start=1):
        assert ledger.reserve([scope], amount) is None
        ledger.settle([scope], amount, amount)
    assert {scope: account.spent for scope, account in ledger.balances().items()} == {
        scope: amount for amount, scope in enumerate(ODD_SCOPES, start=1)
    }


def adds_up_from_many_threads(make: Factory) -> None:
    """Eight threads reserve and settle 40 times each; the books equal the sum of what they paid."""
    ledger, paid = make({"run:*": 10**9}), [0] * 8
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        barrier.wait()
        for turn in range(40):
            reserved, actual = turn % 7 + 1, (turn * number) % 5
            if ledger.reserve(SCOPES, reserved) is None:
                ledger.settle(SCOPES, reserved, actual, uncertain=turn % 2 == 0)
                paid[number] += actual

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {(account.spent, account.reserved) for account in ledger.balances().values()}
    assert found == {(sum(paid), 0)}, f"{found} is not the sum {sum(paid)}"


def agrees_with_adding_up(make: Factory) -> None:
    """Over random events each answer and each account is what adding up all events from the start gives."""
    chance = random.Random(4)
    for _ in range(12):
        limits = {scope: chance.randrange(60) for scope in SCOPES if chance.random() < 0.7}
        ledger, model = make(limits), Sums(limits)
        for _ in range(60):
            names = chance.sample(SCOPES, chance.randint(1, 3))
            if chance.random() < 0.5 or not model.open:
                amount = chance.randrange(25)
                said = ledger.reserve(names, amount)
                assert (said is None) == model.fits(names, amount), f"{said} for {amount} in {names}"
                if said is None:
                    model.open.append((names, amount))
                else:
                    later = model.fits(names, amount, reserved=False)
                    assert (said.may_fit_later, said.spent) == (later, model.spent(said.scope)), said
            else:
                names, amount = model.open.pop(chance.randrange(len(model.open)))
                actual, uncertain = chance.randint(0, amount + 3), chance.random() < 0.3
                ledger.settle(names, amount, actual, uncertain=uncertain)
                model.booked.append((names, actual, uncertain))
            for scope in SCOPES:
                assert ledger.balance(scope) == model.account(scope), scope


CHECKS: tuple[Callable[[Factory], None], ...] = (
    counts_in_every_scope,
    refuses_in_all_scopes_or_none,
    names_the_hopeless_before_the_full,
    admits_exactly_what_fits,
    refuses_no_free_call,
    books_an_overrun,
    keeps_what_may_be_billed,
    counts_a_repeated_scope_once,
    settles_only_what_was_set_aside,
    takes_whole_amounts_only,
    prefers_a_limit_of_its_own,
    opens_no_account_by_looking,
    takes_any_text_for_a_scope,
    adds_up_from_many_threads,
    agrees_with_adding_up,
)


class Sums:
    """The plain model: lists of what happened, added up for every question."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.limits = dict(limits)
        self.open: list[tuple[Sequence[str], int]] = []
        self.booked: list[tuple[Sequence[str], int, bool]] = []

    def spent(self, scope: str) -> int:
        """What was booked."""
        return sum(actual for names, actual, _ in self.booked if scope in names)

    def fits(self, names: Sequence[str], amount: int, *, reserved: bool = True) -> bool:
        """Whether an amount fits into all scopes, or would without what is set aside."""
        return all(
            amount == 0
            or scope not in self.limits
            or self.spent(scope) + (self._reserved(scope) if reserved else 0) + amount <= self.limits[scope]
            for scope in names
        )

    def account(self, scope: str) -> Account:
        """The account as it should be."""
        uncertain = sum(actual for names, actual, unsure in self.booked if scope in names and unsure)
        return Account(
            limit=self.limits.get(scope), spent=self.spent(scope), reserved=self._reserved(scope), uncertain=uncertain
        )

    def _reserved(self, scope: str) -> int:
        return sum(amount for names, amount in self.open if scope in names)


def _all(ledger: Any, wanted: Account) -> bool:
    found = [ledger.balance(scope) for scope in SCOPES]
    return all((a.spent, a.reserved, a.uncertain) == (wanted.spent, wanted.reserved, wanted.uncertain) for a in found)


def _refused(act: Callable[[], object], words: str = "") -> None:
    said = None
    try:
        act()
    except LLMValidationError as error:
        said = error
    assert said is not None, "what should have been refused was taken"
    assert said.code == "validation.budget", said.code
    assert words in said.message, said.message
