"""The circuits of all models: shared by threads and tasks, on one clock, with one row per transition."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from workbench.act.breakers import Breakers
from workbench.act.trace import span
from workbench.act.world import MemorySink, World
from workbench.decide.breaker import Breaker, Circuit, Permit
from workbench.decide.merge import params_of
from workbench.errors import LLMValidationError
from workbench.facts import Decision

GPT = ("openai", "gpt")
MINI = ("openai", "gpt-mini")
LLAMA = ("ollama", "llama")


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0


def shared(**fields):
    """Breakers with these fields, and the clock they go by."""
    clock = Clock()
    return Breakers(Breaker(**fields), replace(World.virtual(), now_s=lambda: clock.now_s)), clock


def rows(breakers):
    """The decisions in the log."""
    return [f for f in breakers._world.sink.facts if isinstance(f, Decision)]


def steps(breakers):
    """Each transition in the log as (event, state before, state after)."""
    return [(r.inputs["event"], r.inputs["state"], r.output["state"]) for r in rows(breakers)]


def fail(breakers, key, times, ok=False):
    """Let so many calls pass and fail."""
    for _ in range(times):
        breakers.record(*key, breakers.admit(*key), ok=ok, duration_s=1.0)


@contextmanager
def eager_threads() -> Iterator[None]:
    """Let threads interrupt each other as often as Python can, so that a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def at_once(times, work):
    """Run work(0), work(1), ... in as many threads, released by one barrier; what they returned."""
    barrier, results = threading.Barrier(times), [None] * times

    def run(index):
        barrier.wait()
        results[index] = work(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(times)]
    with eager_threads():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return results


# -- conformance row 24: at the edge


def test_row_24_fifty_threads_at_the_edge_open_it_once():
    """50 threads of 1000 calls each: one transition, and every call is admitted or refused, none both or neither."""
    breakers, _ = shared(minimum_calls=10_000, window_calls=10_000)
    permit_or_none = []

    def work(_index):
        admitted = 0
        for _ in range(1000):
            permit = breakers.admit(*GPT)
            if permit is not None:
                admitted += 1
                permit_or_none.append(permit)
                breakers.record(*GPT, permit, ok=False, duration_s=1.0)
        return admitted

    admitted = sum(at_once(50, work))
    circuit = breakers.circuit(*GPT)
    assert steps(breakers) == [("result", "closed", "open")]
    assert (circuit.state, circuit.buffered, circuit.failed) == ("open", 10_000, 10_000)
    assert len(permit_or_none) == admitted
    # A thread may be between admit and record when the window fills: at most one call each.
    assert 10_000 <= admitted < 10_000 + 50
    assert admitted + circuit.not_permitted == 50_000


def test_row_24_totals_of_fifty_threads_are_exact():
    """50 threads x 200 results, a fifth failed and a tenth slow: no result is lost, none counted twice."""
    breakers, _ = shared(window_calls=10_000, minimum_calls=10_000, failure_rate=0.9, slow_call_s=5.0)

    def work(_index):
        for n in range(200):
            permit = breakers.admit(*GPT)
            breakers.record(*GPT, permit, ok=n % 5 != 0, duration_s=9.0 if n % 10 == 3 else 1.0)

    at_once(50, work)
    circuit = breakers.circuit(*GPT)
    assert (circuit.state, circuit.buffered, circuit.failed, circuit.slow) == ("closed", 10_000, 2000, 1000)
    assert rows(breakers) == []


def test_row_24_a_thousand_tasks_at_the_edge_open_it_once():
    """1000 calls begun while closed all fail: the third opens it, the other 997 are late and count nowhere."""
    breakers, _ = shared()

    async def main():
        begun, down = [], asyncio.Event()

        async def task():
            begun.append(permit := breakers.admit(*GPT))
            await down.wait()
            breakers.record(*GPT, permit, ok=False, duration_s=1.0)

        tasks = [asyncio.create_task(task()) for _ in range(1000)]
        await asyncio.sleep(0)
        down.set()
        await asyncio.gather(*tasks)
        return begun

    assert None not in asyncio.run(main())
    assert steps(breakers) == [("result", "closed", "open")]
    assert breakers.circuit(*GPT).failed == breakers.circuit(*GPT).buffered == 3


def test_row_24_the_probes_of_many_threads_close_it_once():
    """Rounds of outage and recovery under 50 threads: never more probes than permits, one row per transition."""
    breakers, clock = shared(permits=4)
    for _ in range(20):
        fail(breakers, GPT, 3)
        clock.now_s += 30.0
        permits = [p for p in at_once(50, lambda _: breakers.admit(*GPT)) if p is not None]
        assert len(permits) == len({p.number for p in permits}) == 4
        at_once(4, lambda at, out=permits: breakers.record(*GPT, out[at], ok=True, duration_s=1.0))
    assert steps(breakers) == 20 * [
        ("result", "closed", "open"), ("call", "open", "half_open"), ("result", "half_open", "closed")
    ]  # fmt: skip
    assert breakers.circuit(*GPT).not_permitted == 20 * 46


# -- the fault catalogue


def test_br_one_fail_admits_the_next_call_and_logs_nothing():
    """One failure of one call does not close a model off."""
    breakers, _ = shared(minimum_calls=5)
    fail(breakers, GPT, 1)
    assert breakers.circuit(*GPT).state == "closed"
    assert breakers.admit(*GPT) is not None
    assert rows(breakers) == []


def test_br_halfopen_race_lets_exactly_the_permits_pass():
    """256 threads at one barrier when the cooldown is over, four permits: four probes, 252 refusals, one row."""
    breakers, clock = shared(permits=4)
    fail(breakers, GPT, 3)
    clock.now_s += 30.0
    permits = [p for p in at_once(256, lambda _: breakers.admit(*GPT)) if p is not None]
    assert sorted(p.number for p in permits) == [1, 2, 3, 4]
    assert all(p.probe for p in permits)
    circuit = breakers.circuit(*GPT)
    assert (circuit.permits_in_use, circuit.not_permitted) == (4, 252)
    assert steps(breakers)[1:] == [("call", "open", "half_open")]


def test_br_halfopen_cancel_gives_the_permit_back():
    """A probe task that is cancelled releases its permit; the next caller probes and closes the circuit."""
    breakers, clock = shared(permits=1)
    fail(breakers, GPT, 3)
    clock.now_s += 30.0

    async def probe(answers):
        permit = breakers.admit(*GPT)
        try:
            await answers.wait()
            breakers.record(*GPT, permit, ok=True, duration_s=1.0)
        finally:
            breakers.release(*GPT, permit)

    async def main():
        cancelled = asyncio.create_task(probe(asyncio.Event()))
        await asyncio.sleep(0)
        assert breakers.admit(*GPT) is None
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert (breakers.circuit(*GPT).state, breakers.circuit(*GPT).permits_in_use) == ("half_open", 0)
        answers = asyncio.Event()
        answers.set()
        await probe(answers)

    asyncio.run(main())
    assert breakers.circuit(*GPT).state == "closed"
    assert [step[2] for step in steps(breakers)] == ["open", "half_open", "closed"]


def test_br_slow_opens_on_the_share_of_slow_calls():
    """Half of the window answers late: open, though every call succeeded; the row says why."""
    breakers, _ = shared(minimum_calls=4, slow_rate=0.5, slow_call_s=10.0)
    for duration_s in (1.0, 12.0, 2.0, 10.0):
        breakers.record(*GPT, breakers.admit(*GPT), ok=True, duration_s=duration_s)
    assert breakers.admit(*GPT) is None
    (row,) = rows(breakers)
    assert (row.inputs["failure_rate"], row.inputs["slow_rate"], row.output["state"]) == (0.0, 0.5, "open")


def test_br_clock_back_of_the_wall_does_not_prolong_the_wait(monkeypatch):
    """The wall clock jumps back an hour while open: the next probe passes after the monotonic cooldown."""
    clock, wall = Clock(), [7200.0]
    monkeypatch.setattr(time, "time", lambda: wall[0])
    monkeypatch.setattr(time, "time_ns", lambda: int(wall[0] * 1e9))
    world = replace(World.real(MemorySink()), now_s=lambda: clock.now_s, unix_ns=time.time_ns)
    breakers = Breakers(Breaker(), world)
    fail(breakers, GPT, 3)
    wall[0] -= 3600.0
    assert breakers.retry_after_s(*GPT) == 30.0
    clock.now_s += 29.9
    assert breakers.admit(*GPT) is None
    clock.now_s += 0.1
    assert breakers.admit(*GPT).probe


# -- the key


def test_models_behind_one_provider_fail_apart():
    """Only the model that failed is closed off; the same model elsewhere is another circuit."""
    breakers, _ = shared()
    fail(breakers, GPT, 3)
    assert breakers.admit(*GPT) is None
    assert breakers.admit(*MINI) is not None
    assert breakers.admit("azure", "gpt") is not None


def test_circuits_are_listed_by_provider_and_model():
    """What was called is listed; what was only asked about is not."""
    breakers, _ = shared()
    for key in (GPT, LLAMA, MINI):
        fail(breakers, key, 1)
    assert breakers.circuit("x", "y") == Circuit(provider="x", model="y", since_s=1000.0)
    assert breakers.retry_after_s("x", "y") == 0.0
    assert [(c.provider, c.model) for c in breakers.circuits()] == [LLAMA, GPT, MINI]


# -- time without callers


def test_row_13_looking_is_enough_where_the_transition_is_automatic():
    """A timer that ticks, or anybody who looks, sees the circuit half-open; it is logged once."""
    breakers, clock = shared(automatic=True)
    fail(breakers, GPT, 3)
    clock.now_s += 30.0
    breakers.tick()
    assert {breakers.circuit(*GPT).state for _ in range(3)} == {"half_open"}
    assert steps(breakers)[1:] == [("time", "open", "half_open")]


def test_row_07_looking_shows_a_time_window_without_its_old_results():
    """Nobody called since: the rates are gone all the same."""
    breakers, clock = shared(window_s=10, failure_rate=1.0)
    fail(breakers, GPT, 3, ok=True)
    assert breakers.circuit(*GPT).failure_rate == 0.0
    clock.now_s += 10.0
    (circuit,) = breakers.circuits()
    assert (circuit.buffered, circuit.failure_rate) == (0, None)


def test_row_19_lost_probes_lead_through_open_to_a_new_probe():
    """Limit and cooldown passed before the next caller: both transitions are logged, and the caller probes."""
    breakers, clock = shared(half_open_limit_s=1.0)
    fail(breakers, GPT, 3)
    clock.now_s = 1030.0
    assert breakers.admit(*GPT).probe
    clock.now_s = 1061.0
    assert breakers.admit(*GPT).probe
    assert steps(breakers)[2:] == [("time", "half_open", "open"), ("call", "open", "half_open")]
    assert [r.output["since_s"] for r in rows(breakers)] == [1000.0, 1030.0, 1031.0, 1061.0]


def test_a_clock_that_starts_anew_is_noticed():
    """The clock says less than when the circuit opened: the wait counts from the next look."""
    breakers, clock = shared()
    fail(breakers, GPT, 3)
    clock.now_s = 5.0
    assert breakers.admit(*GPT) is None
    clock.now_s = 35.0
    assert breakers.admit(*GPT) is not None


# -- an operator


@pytest.mark.parametrize(
    ("given", "closed"),
    [
        ((), {LLAMA, GPT, MINI}),
        (("openai",), {GPT, MINI}),
        ((None, "llama"), {LLAMA}),
        (GPT, {GPT}),
        (("x", "y"), set()),
    ],
    ids=["all", "a provider", "a model", "both", "an unknown one"],
)
def test_reset_closes_what_it_names(given, closed):
    """All circuits, those of a provider, of a model, or one; a row for each that was not closed."""
    breakers, _ = shared()
    for key in (GPT, LLAMA, MINI):
        fail(breakers, key, 3)
    breakers.reset(*given)
    assert {(c.provider, c.model) for c in breakers.circuits() if c.state == "closed"} == closed
    assert steps(breakers)[3:] == [("reset", "open", "closed")] * len(closed)


def test_reset_of_a_closed_circuit_forgets_its_results_without_a_row():
    """Nothing changed its state, so there is nothing to tell; calls that are under way do not count afterwards."""
    breakers, _ = shared()
    late = breakers.admit(*GPT)
    fail(breakers, GPT, 2)
    breakers.reset()
    breakers.record(*GPT, late, ok=False, duration_s=1.0)
    assert breakers.circuit(*GPT).buffered == 0
    assert rows(breakers) == []


def test_row_23_a_forced_state_stays_until_reset():
    """Forced open refuses a model that never failed; the row says that it was forced."""
    breakers, clock = shared()
    breakers.force(*GPT, "forced_open")
    clock.now_s += 1e6
    assert breakers.admit(*GPT) is None
    assert breakers.retry_after_s(*GPT) == float("inf")
    breakers.reset(*GPT)
    assert breakers.admit(*GPT) is not None
    assert steps(breakers) == [("forced", "closed", "forced_open"), ("reset", "forced_open", "closed")]


def test_row_23_metrics_only_tells_once_that_it_would_have_opened():
    """The event is in the log, the state does not change, and every call passes."""
    breakers, _ = shared()
    breakers.force(*GPT, "metrics_only")
    fail(breakers, GPT, 50)
    assert steps(breakers)[1:] == [("result", "metrics_only", "metrics_only")]
    assert rows(breakers)[1].inputs["failure_rate"] == 1.0


def test_a_state_that_there_is_not_is_refused_and_changes_nothing():
    """The typed error of the policy reaches the caller."""
    breakers, _ = shared()
    with pytest.raises(LLMValidationError, match="half_open"):
        breakers.force(*GPT, "ajar")
    assert (breakers.circuits(), rows(breakers)) == ((), [])


# -- the log


def test_the_happy_path_writes_nothing():
    """Calls, cancellations and looks of a healthy model leave no row."""
    breakers, _ = shared()
    for _ in range(100):
        fail(breakers, GPT, 1, ok=True)
        breakers.release(*GPT, breakers.admit(*GPT))
        assert breakers.retry_after_s(*GPT) == 0.0
        breakers.circuits()
    assert rows(breakers) == []


def test_a_row_says_who_what_and_why():
    """Policy, version, parameters, the state before, the rates that decided, and the run it happened in."""
    breakers, clock = shared(minimum_calls=2, failure_rate=0.5)
    fail(breakers, GPT, 1, ok=True)
    clock.now_s = 1002.5
    with span(breakers._world, "study", "item", run_id="r1"):
        fail(breakers, GPT, 1)
    (row,) = rows(breakers)
    assert (row.kind, row.policy, row.version, row.run_id) == ("breaker", "circuit_breaker", "1", "r1")
    assert row.params == params_of(Breaker(minimum_calls=2, failure_rate=0.5))
    told = {name: row.inputs[name] for name in ("provider", "model", "event", "state", "now_s", "ok", "duration_s")}
    assert told == {
        "provider": "openai", "model": "gpt", "event": "result", "state": "closed", "now_s": 1002.5, "ok": False,
        "duration_s": 1.0,
    }  # fmt: skip
    assert (row.inputs["failure_rate"], row.inputs["slow_rate"]) == (0.5, 0.0)
    assert row.output == {"state": "open", "since_s": 1002.5}


@pytest.mark.parametrize("fields", [{}, {"window_s": 60}, {"automatic": True, "cooldown_factor": 2.0}], ids=str)
def test_every_logged_transition_is_decided_again_from_its_row(fields):
    """Parameters and inputs, after a passage through JSON, lead to the logged output."""
    breakers, clock = shared(permits=2, half_open_limit_s=1.0, **fields)
    for ok in (False, True):
        fail(breakers, GPT, 3)
        for wait_s in (30.0, 31.0, 61.0):
            clock.now_s += wait_s
            breakers.admit(*GPT)
        clock.now_s += 300.0
        breakers.tick()
        fail(breakers, GPT, 2, ok=ok)
        breakers.reset()
    breakers.force(*GPT, "metrics_only")
    fail(breakers, GPT, 3)
    logged = rows(breakers)
    assert {r.inputs["event"] for r in logged} == {"call", "result", "time", "forced", "reset"} - (
        {"call"} if "automatic" in fields else set()
    )
    for row in logged:
        params, inputs, output = json.loads(json.dumps([row.params, row.inputs, row.output]))
        circuit = Breaker(**params).again(inputs)
        assert {"state": circuit.state, "since_s": circuit.since_s} == output


class Refusing(MemorySink):
    """A sink that can be told to refuse."""

    broken = False

    def write(self, *facts):
        if self.broken:
            raise OSError("disk full")
        super().write(*facts)


def test_a_log_that_refuses_a_row_leaves_the_circuit_as_it_was():
    """No transition without its row, no permit lost: when the log works again, the next caller probes."""
    clock, sink = Clock(), Refusing()
    breakers = Breakers(Breaker(), replace(World.virtual(sink=sink), now_s=lambda: clock.now_s))
    fail(breakers, GPT, 3)
    clock.now_s += 30.0
    before, sink.broken = breakers.circuit(*GPT), True
    with pytest.raises(OSError, match="disk full"):
        breakers.admit(*GPT)
    assert breakers.circuit(*GPT) == before
    sink.broken = False
    probe = breakers.admit(*GPT)
    assert probe.probe
    sink.broken = True
    with pytest.raises(OSError, match="disk full"):
        breakers.record(*GPT, probe, ok=True, duration_s=1.0)
    sink.broken = False
    breakers.record(*GPT, probe, ok=True, duration_s=1.0)
    assert [step[2] for step in steps(breakers)] == ["open", "half_open", "closed"]


def test_a_permit_of_another_time_moves_nothing():
    """A permit whose circuit is not even known is ignored."""
    breakers, _ = shared()
    stale = Permit(epoch=7, started_s=0.0, probe=True, number=1)
    breakers.release(*GPT, stale)
    breakers.record(*GPT, stale, ok=False, duration_s=1.0)
    assert breakers.circuit(*GPT).buffered == 0
