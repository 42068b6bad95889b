"""The catalogue's layer `budget`: what is admitted, refused and booked when money is short."""

from __future__ import annotations

import asyncio

import pytest

from tests.act.wire.harness import (
    REQUEST,
    WORST_MICRO,
    Plain,
    Scripted,
    Server,
    Step,
    answer,
    chain,
    chat,
    check_error,
    check_log,
    document,
    raised,
    rows,
    shared,
    wired,
)
from workbench.act.failover import Chain
from workbench.act.ledger import MemoryLedger
from workbench.act.trace import span
from workbench.act.world import World
from workbench.decide.budget import micro_usd
from workbench.errors import LLMValidationError
from workbench.facts import ModelCard, Response

PAID = 20  # micro-dollars of one scripted answer: 10 tokens at 1, 5 at 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -0.01, "10", "", None, True, [], 1j])
def test_bud_nan_is_refused_where_the_budget_is_made(value):
    """A budget that is no finite amount >= 0 is refused by name, before anything is asked."""
    with pytest.raises(LLMValidationError) as caught:
        micro_usd(value, "budget_run_usd")
    assert caught.value.code == "validation.budget"
    assert "budget_run_usd" in caught.value.next_step
    assert len(caught.value.next_step) <= 160


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, "10", 0.5, None, True])
def test_bud_nan_is_refused_by_the_ledger_too(value):
    """Nor does a ledger take a limit that is no whole number of micro-dollars."""
    with pytest.raises(LLMValidationError) as caught:
        MemoryLedger({"run:*": value})
    assert caught.value.code == "validation.budget"


def test_bud_zero_refuses_paid_calls_before_the_network_and_runs_free_ones():
    """A budget of 0: no paid request leaves, whatever is asked; a model of price 0 answers."""
    world, ledger = World.virtual(), MemoryLedger({"run:*": 0})
    server, local = Server([document(chat())]), Server([document(chat(model="llama"))])
    paid = wired(world, server)
    free = wired(
        world,
        local,
        name="llama",
        cards={"p:llama": ModelCard(name="p:llama", prompt_usd_per_mtok=0.0, completion_usd_per_mtok=0.0)},
    )
    admission = shared(world, ledger=ledger)
    for _ in range(3):
        error = raised(world, Chain(admission, (paid,)).complete(REQUEST))
        check_error(error, "budget.exceeded", attempts=0)
        assert type(error) is LLMValidationError
        assert not error.possibly_billed
        assert "budget_run_usd" in error.next_step
    assert world.run(Chain(admission, (free,)).complete(REQUEST)).cost_usd == 0
    assert (len(server.requests), len(local.requests)) == (0, 1)
    assert [r.status for r in rows(world)] == ["refused"] * 3 + ["ok"]
    check_log(world, ledger)


def race(cost_usd, limit, callers=256):
    """The results of so many callers that begin at the same moment, the model, and the ledger."""
    world, ledger = World.virtual(), MemoryLedger({"run:*": limit})
    model = Scripted("p:m", world, (Step("42", after_s=1.0, cost_usd=cost_usd),))
    admission = shared(world, ledger=ledger)

    async def all_at_once():
        with span(world, "session", "run", run_id="r1"):
            one = Chain(admission, (model,))
            return await asyncio.gather(*(one.complete(REQUEST) for _ in range(callers)), return_exceptions=True)

    results = world.run(all_at_once())
    check_log(world, ledger)
    return results, model, ledger.balance("run:r1")


def test_bud_race_admits_exactly_what_the_budget_is_for():
    """256 callers at a budget for 100: exactly 100 are sent and answered, 156 refused, and not a micro-dollar over."""
    results, model, account = race(WORST_MICRO / 1e6, 100 * WORST_MICRO)
    assert len(model.seen) == 100
    assert sum(isinstance(r, Response) for r in results) == 100
    refused = [r for r in results if not isinstance(r, Response)]
    assert len(refused) == 156
    for error in refused:
        check_error(error, "budget.exceeded", attempts=0)
        assert not error.possibly_billed
    assert (account.spent, account.reserved, account.overrun) == (100 * WORST_MICRO, 0, 0)


def test_bud_race_waits_for_what_others_have_only_reserved():
    """When answers cost less than their worst case, those who waited are admitted with what is given back."""
    results, model, account = race(PAID / 1e6, 10 * WORST_MICRO, callers=40)
    assert all(isinstance(r, Response) for r in results)
    assert model.most == 10
    assert (account.spent, account.reserved) == (40 * PAID, 0)


@pytest.mark.parametrize("after_s", [0.0, 0.5])
def test_bud_settle_fail_keeps_no_reservation_of_a_call_that_died(after_s):
    """A call cancelled between reserve and settle is booked as possibly billed; nothing stays set aside."""
    world, ledger = World.virtual(), MemoryLedger({"run:*": 2 * WORST_MICRO})
    model = Scripted("p:m", world, (Step("late", after_s=5.0), Step("42")))
    admission = shared(world, ledger=ledger)

    async def dies():
        with span(world, "session", "run", run_id="r1"):
            call = asyncio.create_task(Chain(admission, (model,)).complete(REQUEST))
            await world.sleep(after_s)
            await asyncio.sleep(0)
            assert ledger.balance("run:r1").reserved == WORST_MICRO
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert ledger.balance("run:r1").reserved == 0
            return await Chain(admission, (model,)).complete(REQUEST)

    assert world.run(dies()).text == "42"
    account = ledger.balance("run:r1")
    assert (account.spent, account.uncertain) == (WORST_MICRO + PAID, WORST_MICRO)
    check_log(world, ledger)


def test_bud_actual_higher_books_the_overrun_and_stops_the_rest():
    """The answer costs four times its worst case: all of it is booked, and the next call is refused."""
    world, limit = World.virtual(), WORST_MICRO + 100
    ledger = MemoryLedger({"run:*": limit})
    model = Scripted("p:m", world, (Step("42", cost_usd=4 * WORST_MICRO / 1e6),))
    admission = shared(world, ledger=ledger)

    async def two():
        with span(world, "session", "run", run_id="r1"):
            await Chain(admission, (model,)).complete(REQUEST)
            return await Chain(admission, (model,)).complete(REQUEST)

    check_error(raised(world, two()), "budget.exceeded", attempts=0)
    account = ledger.balance("run:r1")
    assert (account.spent, account.overrun) == (4 * WORST_MICRO, 4 * WORST_MICRO - limit)
    assert account.overrun <= 4 * WORST_MICRO  # one call's
    assert len(model.seen) == 1
    check_log(world, ledger)


def test_bud_actual_higher_is_flagged_when_usage_exceeds_max_tokens():
    """A usage beyond its own total is cut to what the request allows and flagged: a lie changes no budget."""
    world = World.virtual()
    lie = {"prompt_tokens": 10, "completion_tokens": 10**9, "total_tokens": 15}
    response = world.run(chain(world, wired(world, Server([document(chat(usage=lie))]))).complete(REQUEST))
    assert response.flags == ("usage_capped",)
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (10, 100)
    assert response.cost_usd == pytest.approx((10 + 2 * 100) / 1e6)


def test_bud_price_unknown_is_refused_under_a_budget():
    """A model without a price is not sent anything where a budget is set; the next step names the setting."""
    world, ledger = World.virtual(), MemoryLedger({"run:*": 10**6})
    server = Server([document(chat())])
    one = chain(world, wired(world, server, cards={}), ledger=ledger)
    error = raised(world, one.complete(REQUEST))
    check_error(error, "budget.unknown_price", attempts=0)
    assert type(error) is LLMValidationError
    assert "allow_unknown_price" in error.next_step
    assert server.requests == []
    (row,) = rows(world)
    assert (row.status, row.final) == ("refused", True)
    check_log(world, ledger)


@pytest.mark.parametrize(("limited", "allowed"), [(True, True), (False, False)])
def test_bud_price_unknown_is_never_booked_as_zero(limited, allowed):
    """Allowed by name, or without a budget, it answers; its cost is unknown, not 0."""
    world, ledger = World.virtual(), MemoryLedger({})
    admission = shared(world, ledger=ledger, limited=limited, allow_unknown_price=allowed)
    model = wired(world, Server([document(chat())]), cards={})
    assert world.run(Chain(admission, (model,)).complete(REQUEST)).cost_usd is None
    assert dict(ledger.balances()) == {}


def test_bud_price_unknown_models_without_a_card_are_not_accounted():
    """A model that is no provider's has no card, and no budget keeps it from answering."""
    world, ledger = World.virtual(), MemoryLedger({"run:*": 0})
    one = chain(world, Plain("mine:m", answer("mine:m", "42")), ledger=ledger)
    assert world.run(one.complete(REQUEST)).text == "42"
    assert dict(ledger.balances()) == {}
