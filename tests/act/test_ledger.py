"""The ledger of one process: all scopes or none, from many threads, and never more than the budget."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.act.ledger import MemoryLedger, exceeded
from workbench.decide.budget import Account, Price, micro_usd
from workbench.errors import LLMValidationError
from workbench.facts import BudgetLedger, Refusal

SCOPES = ("run:r1", "model:openai:gpt", "month:2026-11")


@pytest.fixture
def _busy_threads():
    """Let threads take turns as often as the interpreter can, so that a missing lock shows."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def in_threads(count, work):
    """Let `count` threads begin `work(number)` at the same moment; their results."""
    barrier, results = threading.Barrier(count), [None] * count

    def body(number):
        barrier.wait()
        results[number] = work(number)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_reservation_counts_in_every_scope_until_it_is_settled():
    """600 are set aside in all three scopes, then 450 spent; 0 releases what was never sent."""
    ledger: BudgetLedger = MemoryLedger({"run:*": 1000, "model:*": 2000})
    assert ledger.reserve(SCOPES, 600) is None
    assert ledger.reserve(SCOPES, 100) is None
    ledger.settle(SCOPES, 600, 450)
    ledger.settle(SCOPES, 100, 0)
    assert ledger.balances() == {
        "run:r1": Account(limit=1000, spent=450),
        "model:openai:gpt": Account(limit=2000, spent=450),
        "month:2026-11": Account(spent=450),
    }


def test_a_refusal_sets_nothing_aside_anywhere():
    """Where the second scope refuses, the first keeps what it had, and the refusal tells the second's state."""
    ledger = MemoryLedger({"run:r1": 1000, "model:openai:gpt": 500})
    ledger.reserve(SCOPES, 300)
    assert ledger.reserve(SCOPES, 300) == Refusal(
        scope="model:openai:gpt", limit=500, spent=0, reserved=300, amount=300, may_fit_later=True
    )
    assert ledger.reserve(SCOPES, 501).may_fit_later is False
    assert {account.reserved for account in ledger.balances().values()} == {300}


def test_a_limit_of_its_own_wins_over_a_pattern():
    """`model:*` bounds each model by itself, except the one that has an entry."""
    ledger = MemoryLedger({"model:*": 10, "model:openai:gpt": 20})
    assert ledger.reserve(["model:a"], 10) is None
    assert ledger.reserve(["model:b"], 10) is None
    assert ledger.reserve(["model:b"], 1).limit == 10
    assert ledger.reserve(["model:openai:gpt"], 20) is None


def test_a_scope_without_a_limit_is_counted_without_bound():
    """No entry is no limit, and the spending is known all the same."""
    ledger = MemoryLedger({})
    assert ledger.reserve(["run:r1"], 10**15) is None
    assert ledger.balance("run:r1") == Account(reserved=10**15)


def test_an_untouched_scope_has_a_balance_and_is_not_listed():
    """Looking at an account does not open one."""
    ledger = MemoryLedger({"run:*": 7})
    assert ledger.balance("run:new") == Account(limit=7)
    assert ledger.balances() == {}


def test_the_balances_are_those_of_one_moment():
    """What was read does not change with what happens later, nor can it be changed."""
    ledger = MemoryLedger({})
    ledger.reserve(["a"], 1)
    seen = ledger.balances()
    ledger.reserve(["a"], 1)
    assert seen["a"].reserved == 1
    with pytest.raises(TypeError):
        seen["a"] = Account()


def test_a_scope_named_twice_counts_once():
    """A run that is its own parent is not charged double."""
    ledger = MemoryLedger({"run:r1": 10})
    assert ledger.reserve(["run:r1", "run:r1"], 10) is None
    ledger.settle(["run:r1", "run:r1"], 10, 9)
    assert ledger.balance("run:r1") == Account(limit=10, spent=9)


def test_what_was_not_set_aside_cannot_be_settled_in_any_scope():
    """Settling twice is refused and leaves every account as it was, those that could bear it too."""
    ledger = MemoryLedger({})
    ledger.reserve(["a"], 5)
    ledger.reserve(["b"], 4)
    before = ledger.balances()
    with pytest.raises(LLMValidationError, match="only 4 is set aside"):
        ledger.settle(["a", "b"], 5, 5)
    assert ledger.balances() == before


@pytest.mark.parametrize("limit", [-1, 1.5, True, "10", float("nan"), None], ids=repr)
def test_bud_nan_limit_is_refused_at_construction(limit):
    """A limit that is no whole number of micro-dollars is refused by the name of its scope."""
    with pytest.raises(LLMValidationError, match=r"the limit of run:\*") as caught:
        MemoryLedger({"run:*": limit})
    assert caught.value.code == "validation.budget"


def test_a_single_text_is_not_taken_for_a_list_of_scopes():
    """`"run:r1"` in place of `["run:r1"]` would be read letter by letter."""
    with pytest.raises(LLMValidationError, match="scopes"):
        MemoryLedger({}).reserve("run:r1", 1)


def test_bud_zero_refuses_paid_calls_and_admits_free_models():
    """Under a budget of 0 a call at a price is `budget.exceeded`, naming the setting; a free one runs."""
    ledger = MemoryLedger({"run:*": micro_usd(0)})
    free = Price(prompt_usd_per_mtok=0, completion_usd_per_mtok=0)
    paid = Price(prompt_usd_per_mtok=1, completion_usd_per_mtok=1)
    refusal = ledger.reserve(["run:r1"], paid.cost_micro(prompt_tokens=1, completion_tokens=0))
    error = exceeded(refusal)
    assert (error.code, refusal.may_fit_later) == ("budget.exceeded", False)
    assert "budget_run_usd" in error.next_step
    cost = free.cost_micro(prompt_tokens=100, completion_tokens=100)
    assert ledger.reserve(["run:r1"], cost) is None
    ledger.settle(["run:r1"], cost, 0)
    assert ledger.balance("run:r1") == Account(limit=0)


def test_bud_actual_higher_stops_the_scope_that_overran_and_no_other():
    """A call that cost 150 of 100 is booked in both scopes; only the one over its limit refuses from then on."""
    ledger = MemoryLedger({"run:r1": 100, "model:m": 1000})
    ledger.reserve(["run:r1", "model:m"], 100)
    ledger.settle(["run:r1", "model:m"], 100, 150)
    assert ledger.balance("run:r1").overrun == 50
    refusal = ledger.reserve(["run:r1", "model:m"], 1)
    assert (refusal.scope, refusal.may_fit_later) == ("run:r1", False)
    assert ledger.reserve(["model:m"], 1) is None


def test_bud_race_of_256_tasks_admits_exactly_100():
    """256 concurrent calls at 0.01 against 1.00: 100 admitted, 156 refused, 1.00 spent."""
    ledger, cost = MemoryLedger({"run:*": micro_usd(1.0)}), micro_usd(0.01)

    async def call():
        refusal = ledger.reserve(SCOPES, cost)
        await asyncio.sleep(0)
        if refusal is None:
            ledger.settle(SCOPES, cost, cost)
        return refusal

    async def main():
        return await asyncio.gather(*(call() for _ in range(256)))

    refusals = asyncio.run(main())
    assert sum(refusal is None for refusal in refusals) == 100
    assert {exceeded(refusal).code for refusal in refusals if refusal} == {"budget.exceeded"}
    assert ledger.balance("run:r1") == Account(limit=1_000_000, spent=1_000_000)


@pytest.mark.usefixtures("_busy_threads")
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.integers(0, 5000), cost=st.integers(1, 60))
def test_bud_race_of_256_threads_admits_exactly_what_fits(limit, cost):
    """Whatever limit and cost, 256 threads that begin together get floor(limit / cost) admissions between them."""
    ledger = MemoryLedger({"run:*": limit})

    def work(_):
        if (refusal := ledger.reserve(SCOPES, cost)) is None:
            ledger.settle(SCOPES, cost, cost)
        return refusal

    refusals = in_threads(256, work)
    admitted = min(256, limit // cost)
    assert sum(refusal is None for refusal in refusals) == admitted
    assert ledger.balances().get("run:r1", Account(limit=limit)) == Account(limit=limit, spent=admitted * cost)


@pytest.mark.usefixtures("_busy_threads")
def test_bud_race_loses_and_doubles_nothing():
    """Eight threads reserve and settle 500 times each; the books equal the sum of what they paid."""
    ledger = MemoryLedger({"run:*": 10**9})

    def work(number):
        paid = 0
        for turn in range(500):
            reserved, actual = turn % 7 + 1, (turn * number) % 5
            assert ledger.reserve(SCOPES, reserved) is None
            ledger.settle(SCOPES, reserved, actual, uncertain=turn % 2 == 0)
            paid += actual
        return paid

    paid = sum(in_threads(8, work))
    assert {(account.spent, account.reserved) for account in ledger.balances().values()} == {(paid, 0)}


@pytest.mark.anyio
async def test_a_cancelled_call_gives_its_reservation_back():
    """A call that is cancelled before it was sent settles at 0 and leaves no reservation behind."""
    ledger, started = MemoryLedger({"run:*": 100}), asyncio.Event()

    async def call():
        assert ledger.reserve(SCOPES, 100) is None
        try:
            started.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ledger.settle(SCOPES, 100, 0)
            raise

    task = asyncio.create_task(call())
    await started.wait()
    assert ledger.reserve(SCOPES, 1).may_fit_later
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ledger.reserve(SCOPES, 100) is None
