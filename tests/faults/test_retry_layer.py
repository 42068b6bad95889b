"""The catalogue's layer `retry`: what is asked again, when, how often, and who pays for it."""

from __future__ import annotations

import asyncio

import pytest

from tests.act.wire.harness import (
    REQUEST,
    WORST_MICRO,
    Scripted,
    Server,
    Step,
    chain,
    check_error,
    check_log,
    decisions,
    document,
    failing,
    raised,
    rows,
    shared,
    wired,
)
from workbench import safe_execute
from workbench.act.failover import Chain
from workbench.act.ledger import MemoryLedger
from workbench.act.retry import retry_with_backoff
from workbench.act.world import World
from workbench.decide.retry import Bucket, RetryPolicy
from workbench.errors import LLMTimeoutError, LLMValidationError
from workbench.facts import Failure

DOWN = failing("provider.server", status=500)


class Patient(RetryPolicy):
    """A policy that always waits as long as it may: no draw makes a delay short."""

    def delay_s(self, attempt, *, draw, retry_after_s=None, overloaded=False):
        return super().delay_s(attempt, draw=1 - 2**-53, retry_after_s=retry_after_s, overloaded=overloaded)


def test_retry_deadline_raises_at_once_instead_of_sleeping_past_it():
    """The deadline is 1 s away and the backoff takes 2: the call ends now, as a timeout, and has slept for nothing."""
    world, ledger = World.virtual(), MemoryLedger({})
    model = Scripted("p:m", world, (DOWN,))
    error = raised(
        world, chain(world, model, timeout_s=1.0, retry=Patient(base_delay_s=2.0), ledger=ledger).complete(REQUEST)
    )
    check_error(error, "timeout.deadline", attempts=1)
    assert type(error) is LLMTimeoutError
    assert isinstance(error, TimeoutError)
    assert world.now_s() == 0.0
    assert len(model.seen) == 1
    (decided,) = decisions(world)
    assert (decided.output["action"], decided.output["give_up"]) == ("stop", "deadline")
    check_log(world, ledger)


def test_retry_deadline_waits_where_the_backoff_still_fits():
    """With 3 s left the same backoff of 2 s is waited for."""
    world = World.virtual()
    model = Scripted("p:m", world, (DOWN, Step("42")))
    response = world.run(chain(world, model, timeout_s=3.0, retry=Patient(base_delay_s=2.0)).complete(REQUEST))
    assert response.text == "42"
    assert world.now_s() == pytest.approx(2.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"max_retries": True},
        {"base_delay": float("nan")},
        {"base_delay": -1.0},
        {"max_delay": float("inf")},
        {"backoff_factor": 0.5},
    ],
)
def test_retry_zero_refuses_settings_that_cannot_be(settings):
    """Negative attempts and a delay that is no number are refused where they are written, by name."""
    with pytest.raises(LLMValidationError) as caught:
        retry_with_backoff(**settings)
    assert caught.value.code == "validation.config"
    assert next(iter(settings)).removesuffix("_s") in caught.value.message + caught.value.next_step
    assert 0 < len(caught.value.next_step) <= 160


def test_retry_zero_means_one_attempt():
    """max_retries=0 asks once, as a decorator and in a chain."""
    world, asked = World.virtual(), []

    @retry_with_backoff(max_retries=0, world=world)
    def always():
        asked.append(1)
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        always()
    assert len(asked) == 1
    model = Scripted("p:m", world, (DOWN,))
    check_error(
        raised(world, chain(world, model, retry=RetryPolicy(max_retries=0)).complete(REQUEST)), "provider.server"
    )
    assert len(model.seen) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
def test_retry_baseexception_is_never_retried_wrapped_or_swallowed(kind):
    """What ends a program or a task passes through the decorator and safe_execute as itself, after one attempt."""
    world, asked = World.virtual(), []

    def ends():
        asked.append(1)
        raise kind("now")

    async def ends_later():
        ends()

    async def safely():
        return await safe_execute(ends_later, max_retries=3, fallback="hidden", world=world)

    with pytest.raises(kind) as caught:
        retry_with_backoff(max_retries=3, world=world)(ends)()
    assert (type(caught.value), len(asked), world.now_s()) == (kind, 1, 0.0)
    with pytest.raises(kind) as caught:
        world.run(safely())
    assert (type(caught.value), len(asked), world.now_s()) == (kind, 2, 0.0)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_retry_baseexception_of_a_model_ends_the_chain(kind):
    """A model that is interrupted is not asked again, and its money does not stay set aside."""
    world, ledger = World.virtual(), MemoryLedger({})
    model = Scripted("p:m", world, (Step(kind("now")),))
    with pytest.raises(kind):
        world.run(chain(world, model, Scripted("p:b", world), ledger=ledger).complete(REQUEST))
    assert len(model.seen) == 1
    (row,) = rows(world)
    assert (row.status, row.final) == ("cancelled", True)
    check_log(world, ledger)
    assert ledger.balance("model:p:m").uncertain == WORST_MICRO


def test_retry_storm_adds_at_most_a_tenth_and_the_bucket():
    """1,000 callers of a service that always fails: 1,000 attempts, plus 100 earned, plus what was in the bucket."""
    world = World.virtual()
    server = Server([document({"error": {"type": "server_error", "message": "down"}}, 500)])
    model = wired(world, server)
    admission = shared(
        world, retry=RetryPolicy(max_retries=2), retries=Bucket(capacity=100.0, ratio=0.1), timeout_s=None
    )

    async def storm():
        async def caller(n):
            await world.sleep(n * 0.01)
            return await Chain(admission, (model,)).ask(REQUEST)

        return await asyncio.gather(*(caller(n) for n in range(1000)))

    results = world.run(storm())
    assert {(f.kind, f.code) for f in results if isinstance(f, Failure)} == {("LLMProviderError", "provider.server")}
    assert len(results) == 1000
    assert len(server.requests) <= 1000 * 1.1 + 100
    assert len(server.requests) >= 1000 + 100  # the bound is used: retries were made until nothing was left
    calls = check_log(world, admission.ledger)
    assert len(calls) == 1000
    assert sum(len(attempts) for attempts in calls.values()) == len(server.requests)


def test_retry_storm_of_simultaneous_callers_is_bounded_too():
    """All of the thousand at the same moment, with an empty bucket: 1,100 attempts at the most."""
    world = World.virtual()
    model = Scripted("p:m", world, (DOWN,))
    admission = shared(world, retries=Bucket(tokens=0.0, capacity=100.0, ratio=0.1), timeout_s=None)

    async def storm():
        return await asyncio.gather(*(Chain(admission, (model,)).ask(REQUEST) for _ in range(1000)))

    world.run(storm())
    assert 1000 < len(model.seen) <= 1100
    check_log(world, admission.ledger)


def test_retry_partial_bill_books_both_attempts_under_one_key():
    """The server takes both requests and answers neither in time: both are booked as possibly billed, under one key."""
    world, ledger = World.virtual(), MemoryLedger({})
    silent, heard = Server([60.0]), Server([60.0])
    models = (wired(world, silent, name="a"), wired(world, heard, name="b"))
    error = raised(world, chain(world, *models, timeout_s=2.0, ledger=ledger).complete(REQUEST))
    assert error.possibly_billed
    assert len(silent.requests) == 1
    assert len(heard.requests) >= 1
    sent = [*silent.requests, *heard.requests]
    keys = {r.headers["idempotency-key"] for r in sent}
    (attempts,) = check_log(world, ledger).values()
    assert keys == {attempts[0].idempotency_key}
    assert len(attempts) == len(sent)
    assert all(a.failure.possibly_billed for a in attempts)
    assert all(a.possibly_billed for a in error.attempts)
    month = next(a for scope, a in ledger.balances().items() if scope.startswith("month:"))
    assert (month.spent, month.uncertain) == (len(sent) * WORST_MICRO, len(sent) * WORST_MICRO)
    assert world.now_s() <= 2.0


def test_retry_partial_bill_is_seen_when_the_second_attempt_answers():
    """The answer of the retry is paid, and the attempt before it stays visible as possibly billed."""
    world, ledger = World.virtual(), MemoryLedger({})
    model = Scripted("p:m", world, (failing("provider.connection"), Step("42")))
    assert world.run(chain(world, model, ledger=ledger).complete(REQUEST)).text == "42"
    (attempts,) = check_log(world, ledger).values()
    assert [(a.status, bool(a.failure and a.failure.possibly_billed)) for a in attempts] == [
        ("error", True),
        ("ok", False),
    ]
    account = ledger.balance("model:p:m")
    assert (account.spent, account.uncertain) == (20 + WORST_MICRO, WORST_MICRO)
