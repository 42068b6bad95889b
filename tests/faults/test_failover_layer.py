"""The catalogue's layer `failover`: what a chain of models does when its members fail."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.act.wire.harness import (
    NO_RETRY,
    REQUEST,
    Scripted,
    Server,
    Step,
    chain,
    chat,
    check_error,
    check_log,
    document,
    failing,
    raised,
    rows,
    shared,
    wired,
)
from workbench.act.failover import Chain
from workbench.act.ledger import MemoryLedger
from workbench.act.world import MemorySink, World
from workbench.decide.breaker import Breaker
from workbench.errors import LLMFailoverError, LLMProviderError

DOWN = failing("provider.server", status=500)


def test_fo_exhausted_names_the_chain_its_attempts_and_their_times():
    """Three models are down: the error lists each model, each attempt, and when it was made."""
    world, ledger = World.virtual(), MemoryLedger({})
    steps = (Step(DOWN.does, after_s=1.0),)
    models = [Scripted(f"p:m{n}", world, steps) for n in range(3)]
    error = raised(world, chain(world, *models, retry=NO_RETRY, ledger=ledger).complete(REQUEST))
    check_error(error, "failover.exhausted", attempts=3)
    assert type(error) is LLMFailoverError
    assert [a.model for a in error.attempts] == ["p:m0", "p:m1", "p:m2"]
    assert [(a.number, a.start_s, a.duration_ms, a.code) for a in error.attempts] == [
        (1, 0.0, 1000.0, "provider.server"),
        (2, 1.0, 1000.0, "provider.server"),
        (3, 2.0, 1000.0, "provider.server"),
    ]
    assert all(name in error.message for name in ("p:m0", "p:m1", "p:m2"))
    assert isinstance(error.__cause__, LLMProviderError)
    (attempts,) = check_log(world, ledger).values()
    assert [(row.model, row.status, row.final) for row in attempts] == [
        ("m0", "error", False),
        ("m1", "error", False),
        ("m2", "error", True),
    ]


def test_fo_all_open_sends_nothing_and_says_when_the_first_circuit_may_be_tried():
    """Three open circuits: no request leaves, no time passes, and retry_after is the shortest of the three waits."""
    world = World.virtual()
    models = [Scripted(f"p:m{n}", world, (DOWN,)) for n in range(3)]
    breaker = Breaker(minimum_calls=1, cooldown_s=30.0)
    admission = shared(world, breaker=breaker, retry=NO_RETRY, timeout_s=None)
    chains = [Chain(admission, (model,)) for model in models]

    async def opened():
        for one in chains:  # opened at 0, 4 and 8 s
            await one.ask(REQUEST)
            await world.sleep(4.0)

    world.run(opened())
    before_s, sent = world.now_s(), len(rows(world))
    error = raised(world, Chain(admission, tuple(models)).complete(REQUEST))
    check_error(error, "failover.all_open", attempts=0)
    assert type(error) is LLMFailoverError
    assert error.retry_after_s == error.retry_after == 30.0 - 12.0
    assert world.now_s() - before_s < 0.005
    assert [len(m.seen) for m in models] == [1, 1, 1]
    (refused,) = rows(world)[sent:]
    assert (refused.status, refused.attempt, refused.final) == ("refused", 0, True)
    check_log(world, admission.ledger)


def test_fo_all_open_waits_no_real_time():
    """On the machine's own clock too, an open chain answers within 5 ms."""
    world = World.real(MemorySink())
    admission = shared(world, breaker=Breaker(minimum_calls=1), retry=NO_RETRY)
    model = Scripted("p:m", world, (DOWN,))

    async def fastest():
        await Chain(admission, (model,)).ask(REQUEST)
        spent = []
        for _ in range(20):
            start_s = time.perf_counter()
            failure = await Chain(admission, (model,)).ask(REQUEST)
            spent.append(time.perf_counter() - start_s)
            assert failure.code == "failover.all_open"
        return min(spent)  # the others share two cores with whatever else runs

    assert asyncio.run(fastest()) < 0.005
    assert len(model.seen) == 1


@pytest.mark.parametrize("wire", ["openai", "anthropic", "gemini"])
def test_fo_auth_no_failover_does_not_burn_the_chain_with_a_bad_request(wire):
    """A 400 for the prompt itself goes to one model only, once; the others are not asked the same."""
    world, ledger = World.virtual(), MemoryLedger({})
    refusal = {"error": {"message": "temperature is too hot", "type": "invalid_request_error", "code": None}}
    first, others = Server([document(refusal, 400)]), Server([document(chat())])
    models = (
        wired(world, first, wire, name="a"),
        wired(world, others, wire, name="b"),
        wired(world, others, wire, name="c"),
    )
    error = raised(world, chain(world, *models, ledger=ledger).complete(REQUEST))
    check_error(error, "provider.bad_request", attempts=1)
    assert type(error) is LLMProviderError
    assert (error.status, error.model) == (400, "p:a")
    assert "temperature is too hot" in error.message
    assert (len(first.requests), len(others.requests)) == (1, 0)
    (attempts,) = check_log(world, ledger).values()
    assert [(a.model, a.status) for a in attempts] == [("a", "error")]
    assert ledger.balance("model:p:a").spent == 0
