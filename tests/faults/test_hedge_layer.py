"""The catalogue's layer `hedge`: a second request beside a slow first one."""

from __future__ import annotations

import asyncio

import pytest

from tests.act.wire.harness import (
    NO_RETRY,
    REQUEST,
    WORST_MICRO,
    Scripted,
    Step,
    chain,
    check_log,
    failing,
    raised,
    rows,
    shared,
)
from workbench.act.failover import Chain
from workbench.act.ledger import MemoryLedger
from workbench.act.world import World
from workbench.decide.retry import Bucket

GENEROUS = Bucket(capacity=1000.0, ratio=1.0)


def test_hedge_double_gives_one_result_and_books_both():
    """The first answers after 1 s, its hedge of 0.9 s would at 1.9: one result, the loser cancelled, both booked."""
    world, ledger = World.virtual(), MemoryLedger({})
    model = Scripted("p:m", world, (Step("first", after_s=1.0), Step("second", after_s=1.0)))
    one = chain(world, model, hedge_after_s=0.9, ledger=ledger)
    response = world.run(one.complete(REQUEST))
    assert response.text == "first"
    assert world.now_s() == 1.0
    assert len(model.seen) == 2
    assert model.under_way == 0
    (attempts,) = check_log(world, ledger).values()
    assert sorted((r.attempt, r.status) for r in attempts) == [(1, "ok"), (2, "cancelled")]
    account = ledger.balance("model:p:m")
    # 10 + 2 * 5 micro-dollars for the answer; nobody knows what the loser costs, so its worst case is booked.
    assert (account.spent, account.uncertain) == (20 + WORST_MICRO, WORST_MICRO)
    assert len({terms.idempotency_key for terms in model.seen}) == 1


def test_hedge_double_names_the_answer_as_the_final_row():
    """The row that ends the call is the winner's: a call that was answered is not in the log as cancelled."""
    for times in ((1.0, 1.0), (5.0, 0.5)):  # the first wins; the hedge wins
        world = World.virtual()
        steps = tuple(Step(f"after {t}", after_s=t) for t in times)
        world.run(chain(world, Scripted("p:m", world, steps), hedge_after_s=0.9).complete(REQUEST))
        (final,) = [row for row in rows(world) if row.final]
        assert final.status == "ok"


def test_hedge_double_takes_the_second_when_it_is_faster():
    """The first would take 10 s, the hedge answers after 0.9 + 0.1 s: that is the answer, the first is cancelled."""
    world, ledger = World.virtual(), MemoryLedger({})
    model = Scripted("p:m", world, (Step("first", after_s=10.0), Step("second", after_s=0.1)))
    response = world.run(chain(world, model, hedge_after_s=0.9, ledger=ledger).complete(REQUEST))
    assert response.text == "second"
    assert world.now_s() == pytest.approx(1.0)
    assert ledger.balance("model:p:m").uncertain == WORST_MICRO
    (attempts,) = check_log(world, ledger).values()
    assert sorted((r.attempt, r.status) for r in attempts) == [(1, "cancelled"), (2, "ok")]


def test_hedge_double_sends_at_most_five_in_a_hundred_and_a_burst_of_five():
    """A thousand slow calls cause at most 1000 x 5 % + 5 hedges, and at least the 50 that are due to them."""
    world = World.virtual()
    model = Scripted("p:m", world, (Step("42", after_s=2.0),))
    admission = shared(world, hedge_after_s=1.0, timeout_s=None)

    async def many():
        for _ in range(50):
            await asyncio.gather(*(Chain(admission, (model,)).complete(REQUEST) for _ in range(20)))

    world.run(many())
    assert 50 <= len(model.seen) - 1000 <= 55
    assert len(check_log(world, admission.ledger)) == 1000


def test_hedge_double_failing_twice_raises_the_first_error_once():
    """Neither answers: one typed error, two attempts on it, no retry on top, nothing left set aside."""
    world, ledger = World.virtual(), MemoryLedger({})
    steps = (Step(failing("provider.server", status=500).does, after_s=2.0), failing("provider.overloaded"))
    model = Scripted("p:m", world, steps)
    error = raised(world, chain(world, model, hedge_after_s=1.0, ledger=ledger).complete(REQUEST))
    assert (error.code, len(error.attempts)) == ("provider.server", 2)
    assert [a.code for a in error.attempts] == ["provider.server", "provider.overloaded"]
    assert len(model.seen) == 2
    (attempts,) = check_log(world, ledger).values()
    assert sorted(a.failure.code for a in attempts) == ["provider.overloaded", "provider.server"]


def test_hedge_double_cancelled_by_the_caller_leaves_nothing_running():
    """The caller leaves while both are under way: both rows say cancelled, no task and no reservation is left."""
    world, ledger = World.virtual(), MemoryLedger({})
    model = Scripted("p:m", world, (Step("42", after_s=9.0),))
    one = chain(world, model, hedge_after_s=1.0, ledger=ledger, hedges=GENEROUS)

    async def left():
        before = asyncio.all_tasks()
        call = asyncio.create_task(one.complete(REQUEST))
        await world.sleep(2.0)
        assert model.under_way == 2
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert asyncio.all_tasks() == before

    world.run(left())
    assert model.under_way == 0
    assert [r.status for r in rows(world)] == ["cancelled", "cancelled"]
    check_log(world, ledger)
    assert ledger.balance("model:p:m").uncertain == 2 * WORST_MICRO


def test_hedge_double_asks_another_model_where_there_is_one():
    """What makes the first slow is not shared by the second model of the chain."""
    world = World.virtual()
    slow, quick = Scripted("p:slow", world, (Step("late", after_s=9.0),)), Scripted("p:quick", world, (Step("42"),))
    one = chain(world, slow, quick, hedge_after_s=1.0, retry=NO_RETRY)
    assert world.run(one.complete(REQUEST)).model == "p:quick"
    assert (len(slow.seen), len(quick.seen)) == (1, 1)
    assert world.now_s() == 1.0
