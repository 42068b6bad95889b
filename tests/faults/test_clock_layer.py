"""The catalogue's layer `clock`: a wall clock that jumps during a call."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from tests.act.wire.harness import REQUEST, Scripted, Step, chain, check_log, failing, rows
from workbench.act.ledger import MemoryLedger
from workbench.act.world import MemorySink, World
from workbench.facts import Span

HOUR_NS = 3600 * 10**9


@pytest.mark.parametrize("jump_ns", [-HOUR_NS, 24 * HOUR_NS])
def test_clk_back_leaves_durations_and_the_order_of_rows_alone(monkeypatch, jump_ns):
    """The wall clock jumps inside a call: no duration is negative, rows keep their order, deadlines do not move."""
    wall_ns, shift = time.time_ns, 0
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns() + shift)
    monkeypatch.setattr(time, "time", lambda: (wall_ns() + shift) / 1e9)
    world = replace(World.virtual(), unix_ns=time.time_ns)

    class Jumping(Scripted):
        async def attempt(self, request, terms, on_text=None, on_send=None):
            nonlocal shift
            shift += jump_ns
            return await super().attempt(request, terms, on_text, on_send)

    ledger = MemoryLedger({})
    model = Jumping("p:m", world, (Step(failing("provider.server").does, after_s=2.0), Step("42", after_s=3.0)))
    response = world.run(chain(world, model, timeout_s=10.0, ledger=ledger).complete(REQUEST))
    assert response.text == "42"
    assert [terms.timeout_s for terms in model.seen] == [10.0, pytest.approx(8.0, abs=0.02)]
    (attempts,) = check_log(world, ledger).values()
    assert [(a.attempt, a.duration_ms) for a in attempts] == [(1, 2000.0), (2, pytest.approx(3000.0))]
    (timed,) = rows(world, Span)
    assert timed.duration_ms == pytest.approx(5000.0, abs=20.0)


def test_clk_back_in_the_real_world_measures_with_a_monotonic_clock(monkeypatch):
    """Also on the machine's own clock: a call during which time.time falls by an hour has a duration >= 0."""
    wall = time.time_ns
    calls = iter(range(10**6))
    monkeypatch.setattr(time, "time_ns", lambda: wall() - next(calls) * HOUR_NS)
    monkeypatch.setattr(time, "time", lambda: (wall() - next(calls) * HOUR_NS) / 1e9)
    world = World.real(MemorySink())
    model = Scripted("p:m", world, (failing("provider.server"), Step("42")))
    one = chain(world, model)

    async def several():
        return await asyncio.gather(*(one.complete(REQUEST) for _ in range(5)))

    assert [r.text for r in asyncio.run(several())] == ["42"] * 5
    assert all(0 <= r.duration_ms < 5000 for r in [*rows(world), *rows(world, Span)])
    for attempts in check_log(world).values():
        assert [a.attempt for a in attempts] == sorted(a.attempt for a in attempts)
