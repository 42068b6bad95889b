"""The catalogue's layer `breaker`: when circuits open, who may probe, and by which clock."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from tests.act.wire.harness import (
    NO_RETRY,
    REQUEST,
    WORST_MICRO,
    Scripted,
    Server,
    Step,
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
from workbench.act.world import MemorySink, World
from workbench.decide.breaker import Breaker
from workbench.errors import LLMFailoverError, LLMProviderError
from workbench.facts import Failure, Response

DOWN = failing("provider.server", status=500)
COOLDOWN_S = 30.0


def alone(world, model, breaker):
    """A chain of one model, and the state behind it."""
    admission = shared(world, breaker=breaker, retry=NO_RETRY)
    return Chain(admission, (model,)), admission


def test_br_one_fail_leaves_the_circuit_closed():
    """The first and only call fails, five are the minimum: the next call still goes out."""
    world = World.virtual()
    model = Scripted("p:m", world, (DOWN, Step("42")))
    one, admission = alone(world, model, Breaker(minimum_calls=5))
    error = raised(world, one.complete(REQUEST))
    check_error(error, "provider.server", attempts=1)
    assert type(error) is LLMProviderError
    assert admission.breakers.circuit("p", "m").state == "closed"
    assert world.run(one.complete(REQUEST)).text == "42"
    assert [r.status for r in rows(world)] == ["error", "ok"]
    check_log(world, admission.ledger)


def test_br_halfopen_race_lets_exactly_the_permits_through():
    """Of 256 callers that arrive at once at a half-open circuit with 4 permits, 4 reach the server."""
    world = World.virtual()
    model = Scripted("p:m", world, (DOWN, Step("42", after_s=1.0)))
    one, admission = alone(world, model, Breaker(minimum_calls=1, permits=4, cooldown_s=COOLDOWN_S))

    async def race():
        await one.ask(REQUEST)
        await world.sleep(COOLDOWN_S)
        barrier = asyncio.Event()

        async def caller():
            await barrier.wait()
            return await one.ask(REQUEST)

        callers = [asyncio.create_task(caller()) for _ in range(256)]
        await asyncio.sleep(0)
        barrier.set()
        return await asyncio.gather(*callers)

    results = world.run(race())
    assert len(model.seen) == 1 + 4
    assert sum(isinstance(r, Response) for r in results) == 4
    refused = [r for r in results if isinstance(r, Failure)]
    assert {(f.kind, f.code) for f in refused} == {("LLMFailoverError", "failover.all_open")}
    assert len(refused) == 252
    assert admission.breakers.circuit("p", "m").state == "closed"  # four good probes
    check_log(world, admission.ledger)
    error = raised(world, Chain(admission, (Scripted("p:m", world, (DOWN,)),)).complete(REQUEST))
    check_error(error, "provider.server")
    check_error(raised(world, one.complete(REQUEST)), "failover.all_open", attempts=0)


def test_br_halfopen_cancel_gives_the_permit_back():
    """The only probe is cancelled: the next caller may probe, and its success closes the circuit."""
    world = World.virtual()
    model = Scripted("p:m", world, (DOWN, Step("late", after_s=5.0), Step("42")))
    one, admission = alone(world, model, Breaker(minimum_calls=1, permits=1, cooldown_s=COOLDOWN_S))

    async def cancelled():
        await one.ask(REQUEST)
        await world.sleep(COOLDOWN_S)
        probe = asyncio.create_task(one.complete(REQUEST))
        await world.sleep(1.0)
        assert (await one.ask(REQUEST)).code == "failover.all_open"  # the permit is in use
        assert admission.breakers.circuit("p", "m").permits_in_use == 1
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert admission.breakers.circuit("p", "m").permits_in_use == 0
        return await one.complete(REQUEST)

    assert world.run(cancelled()).text == "42"
    assert admission.breakers.circuit("p", "m").state == "closed"
    assert [r.status for r in rows(world)] == ["error", "refused", "cancelled", "ok"]
    check_log(world, admission.ledger)
    assert admission.ledger.balance("model:p:m").uncertain == WORST_MICRO  # of the probe: a 500 costs nothing


def test_br_slow_opens_on_slow_successes():
    """Every call succeeds, half of the window is slow: the circuit opens, with a failure rate of 0."""
    world = World.virtual()
    quick, slow = Step("42", after_s=0.1), Step("42", after_s=3.0)
    model = Scripted("p:m", world, (quick, slow, quick, slow))
    breaker = Breaker(minimum_calls=4, window_calls=4, slow_rate=0.5, slow_call_s=2.0, cooldown_s=COOLDOWN_S)
    one, admission = alone(world, model, breaker)
    for _ in range(4):
        assert world.run(one.complete(REQUEST)).text == "42"
    circuit = admission.breakers.circuit("p", "m")
    assert (circuit.state, circuit.failure_rate, circuit.slow_rate) == ("open", 0.0, 0.5)
    error = raised(world, one.complete(REQUEST))
    check_error(error, "failover.all_open", attempts=0)
    assert type(error) is LLMFailoverError
    assert len(model.seen) == 4
    check_log(world, admission.ledger)


def test_br_clock_back_waits_by_the_monotonic_clock(monkeypatch):
    """The wall clock jumps back an hour while the circuit is open: it lets a probe through after its cooldown."""
    now_s = 1000.0
    world = replace(World.real(MemorySink()), now_s=lambda: now_s)
    model = Scripted("p:m", world, (DOWN, Step("42")))
    one, admission = alone(world, model, Breaker(minimum_calls=1, cooldown_s=COOLDOWN_S))
    assert world.run(one.ask(REQUEST)).code == "provider.server"
    wall, wall_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: wall() - 3600)
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns() - 3600 * 10**9)
    now_s += COOLDOWN_S - 0.5
    failure = world.run(one.ask(REQUEST))
    assert (failure.code, failure.retry_after_s) == ("failover.all_open", 0.5)
    now_s += 0.5
    assert world.run(one.complete(REQUEST)).text == "42"
    assert len(model.seen) == 2
    check_log(world, admission.ledger)


def test_br_clock_forward_opens_nothing_early(monkeypatch):
    """A wall clock that jumps a day ahead does not end the wait either."""
    now_s = 1000.0
    world = replace(World.real(MemorySink()), now_s=lambda: now_s)
    model = Scripted("p:m", world, (DOWN,))
    one, _ = alone(world, model, Breaker(minimum_calls=1, cooldown_s=COOLDOWN_S))
    world.run(one.ask(REQUEST))
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + 86_400)
    now_s += 1.0
    assert world.run(one.ask(REQUEST)).retry_after_s == COOLDOWN_S - 1.0
    assert len(model.seen) == 1


def test_br_4xx_leaves_the_circuit_closed_after_a_thousand_bad_prompts():
    """A thousand users' errors say nothing about the model: the circuit has not counted one of them."""
    world = World.virtual()
    server = Server([document({"error": {"type": "invalid_request_error", "message": "bad"}}, 400)])
    one, admission = alone(world, wired(world, server), Breaker(minimum_calls=1))

    async def all_of_them():
        return [await one.ask(REQUEST) for _ in range(1000)]

    results = world.run(all_of_them())
    assert {(f.kind, f.code) for f in results} == {("LLMProviderError", "provider.bad_request")}
    assert len(server.requests) == 1000
    circuit = admission.breakers.circuit("p", "gpt")
    assert (circuit.state, circuit.buffered, circuit.not_permitted) == ("closed", 0, 0)
    check_error(raised(world, one.complete(REQUEST)), "provider.bad_request", attempts=1)
    assert len(check_log(world, admission.ledger)) == 1001


@pytest.mark.parametrize("status", [401, 402, 403, 404, 413, 422, 429])
def test_br_4xx_of_any_kind_charges_no_circuit(status):
    """What the service refuses on purpose is no failure of the service."""
    world = World.virtual()
    server = Server([document({"error": {}}, status)])
    one, admission = alone(world, wired(world, server), Breaker(minimum_calls=1))
    assert world.run(one.ask(REQUEST)).status == status
    assert admission.breakers.circuit("p", "gpt").buffered == 0


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529])
def test_br_5xx_opens_the_circuit(status):
    """What the service fails at is charged: after one such answer nothing more is sent."""
    world = World.virtual()
    server = Server([document({"error": {}}, status), document(chat())])
    one, _ = alone(world, wired(world, server), Breaker(minimum_calls=1))
    assert world.run(one.ask(REQUEST)).status == status
    assert world.run(one.ask(REQUEST)).code == "failover.all_open"
    assert len(server.requests) == 1
