"""Random histories of a circuit against a plain model that keeps every result in a list and counts anew each time.

Times are multiples of a quarter of a second, so that sums are exact and both sides must agree to the last digit.
"""

from __future__ import annotations

import json
import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from workbench.decide.breaker import STATES, Breaker, Circuit, Permit

LEGAL = {("closed", "open"), ("open", "half_open"), ("half_open", "open"), ("half_open", "closed")}
STEPS = settings(max_examples=100, stateful_step_count=50)

quarters = st.integers(0, 60).map(lambda n: n / 4)
rates = st.sampled_from([0.25, 1 / 3, 0.5, 0.6, 0.75, 1.0])


class Plain:
    """The rules again, slowly: lists of results and of probes that are out, nothing kept that can be counted."""

    def __init__(self, breaker):
        self.b = breaker
        self.state, self.since_s, self.openings, self.refused, self.tripped = "closed", 0.0, 0, 0, False
        self.results, self.out, self.era = [], [], 0

    def go(self, state, at, *, keep=False):
        self.openings = {"open": self.openings + 1, "half_open": self.openings}.get(state, 0)
        self.state, self.since_s, self.out, self.tripped = state, at, [], False
        self.results = self.results if keep else []
        self.era += 1

    def wait_s(self):
        wait_s = self.b.cooldown_s
        for _ in range(self.openings - 1):
            wait_s = min(wait_s * self.b.cooldown_factor, self.b.max_cooldown_s)
        return wait_s

    def look(self, now):
        """What time alone brings to an open or half-open circuit."""
        self.since_s = min(self.since_s, now)
        limit = self.b.half_open_limit_s
        if self.state == "half_open" and limit is not None and now >= self.since_s + limit:
            self.go(self.b.half_open_then, self.since_s + limit, keep=self.b.half_open_then == "open")
        if self.state == "open" and self.b.automatic and now >= self.since_s + self.wait_s():
            self.go("half_open", now)

    def sweep(self, now):
        """Move results of the future to now, drop those that have left the time window."""
        second = math.floor(now)
        self.results = [(min(at, second), ok, slow) for at, ok, slow in self.results]
        self.results = [r for r in self.results if r[0] > second - self.b.window_s]

    def admit(self, now):
        if self.state in ("open", "half_open", "forced_open"):
            self.look(now)
        if self.state == "open" and now >= self.since_s + self.wait_s():
            self.go("half_open", now)
        if self.state in ("closed", "disabled", "metrics_only"):
            return ("plain", self.era)
        if self.state == "half_open" and len(self.out) + len(self.results) < self.b.permits:
            permit = ("probe", self.era, object())
            self.out.append(permit)
            return permit
        self.refused += 1
        return None

    def record(self, permit, ok, slow, now):
        if self.state == "half_open":
            self.look(now)
        if permit[1] != self.era or self.state == "disabled":
            return
        if self.state == "half_open":
            if permit not in self.out:
                return
            self.out.remove(permit)
        elif self.b.window_s is not None:
            self.sweep(now)
        self.results.append((math.floor(now), ok, slow))
        if self.b.window_s is None and self.state != "half_open":
            self.results = self.results[-self.b.window_calls :]
        self.judge(now)

    def judge(self, now):
        if len(self.results) < self.needed():
            return
        if self.bad():
            if self.state == "metrics_only":
                self.tripped = True
            else:
                self.go("open", now, keep=True)
        elif self.state == "half_open":
            self.go("closed", now)

    def needed(self):
        if self.state == "half_open":
            return self.b.permits
        return min([self.b.minimum_calls] + ([] if self.b.window_s else [self.b.window_calls]))

    def bad(self):
        n = len(self.results)
        return self.failed() / n >= self.b.failure_rate or self.slow() / n >= self.b.slow_rate

    def failed(self):
        return len([ok for _, ok, _ in self.results if not ok])

    def slow(self):
        return len([slow for _, _, slow in self.results if slow])

    def release(self, permit):
        self.out = [p for p in self.out if p != permit]

    def tick(self, now):
        self.look(now)
        if self.b.window_s is not None and self.state in ("closed", "metrics_only"):
            self.sweep(now)


class Machine(RuleBasedStateMachine):
    """One circuit and its model, driven by callers that come, finish, vanish and come late, on a restless clock."""

    window_s = st.none()

    @initialize(data=st.data())
    def start(self, data):
        cooldown_s = data.draw(st.sampled_from([0.25, 2.0, 5.0]))
        self.breaker = Breaker(
            failure_rate=data.draw(rates),
            slow_rate=data.draw(rates),
            slow_call_s=2.0,
            minimum_calls=data.draw(st.integers(1, 5)),
            window_calls=data.draw(st.integers(1, 7)),
            window_s=data.draw(self.window_s),
            cooldown_s=cooldown_s,
            cooldown_factor=data.draw(st.sampled_from([1.0, 1.5, 2.0])),
            max_cooldown_s=max(cooldown_s, data.draw(st.sampled_from([5.0, 9.0]))),
            permits=data.draw(st.integers(1, 4)),
            half_open_limit_s=data.draw(st.sampled_from([None, None, 0.5, 3.0])),
            half_open_then=data.draw(st.sampled_from(["open", "closed"])),
            automatic=data.draw(st.booleans()),
        )
        self.plain = Plain(self.breaker)
        self.circuit = Circuit(provider="p", model="m")
        self.now = 100.0
        self.permits = []
        self.edges = []

    def step(self, after, *, forced=False):
        """Take the circuit's next value; a state change has a new epoch and goes along an arrow of the diagram."""
        before, self.circuit = self.circuit, after
        assert after.epoch >= before.epoch
        if before.state != after.state:
            assert after.epoch > before.epoch
            # Between two looks the limit, the cooldown and the caller may each have moved it once.
            ways = {before.state}
            for _ in range(after.epoch - before.epoch):
                ways = {end for way in ways for start, end in LEGAL if start == way}
            assert forced or after.state in ways

    @rule(seconds=quarters)
    def time_passes(self, seconds):
        self.now += seconds

    @rule(seconds=quarters)
    def the_clock_goes_back(self, seconds):
        self.now -= seconds

    @rule(callers=st.integers(1, 6))
    def callers_arrive(self, callers):
        for _ in range(callers):
            circuit, permit = self.breaker.admit(self.circuit, self.now)
            self.step(circuit)
            expected = self.plain.admit(self.now)
            assert (permit is None) == (expected is None)
            if permit is not None:
                assert permit.probe == (expected[0] == "probe")
                self.permits.append((permit, expected))

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), ok=st.booleans(), slow=st.booleans(), forget=st.sampled_from([True, True, True, False]))
    def a_call_ends(self, data, ok, slow, forget):
        """Also again, when the permit is not forgotten: then it was a probe, or it counts as another call."""
        at = data.draw(st.integers(0, len(self.permits) - 1))
        permit, expected = self.permits.pop(at) if forget else self.permits[at]
        duration_s = 2.0 if slow else 1.75
        self.step(self.breaker.record(self.circuit, permit, ok=ok, duration_s=duration_s, now_s=self.now))
        self.plain.record(expected, ok, slow, self.now)

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), forget=st.booleans())
    def a_call_is_cancelled(self, data, forget):
        at = data.draw(st.integers(0, len(self.permits) - 1))
        permit, expected = self.permits.pop(at) if forget else self.permits[at]
        self.step(self.breaker.release(self.circuit, permit))
        self.plain.release(expected)

    @rule()
    def somebody_looks(self):
        self.step(self.breaker.tick(self.circuit, self.now))
        assert self.breaker.tick(self.circuit, self.now) == self.circuit
        self.plain.tick(self.now)

    @rule(state=st.sampled_from((*STATES, "closed", "half_open", "half_open", "half_open")))
    def an_operator_forces(self, state):
        self.step(self.breaker.force(self.circuit, state, self.now), forced=True)
        self.plain.go(state, self.now)

    @rule()
    def an_operator_resets(self):
        self.step(self.breaker.reset(self.circuit, self.now), forced=True)
        self.plain.go("closed", self.now)
        self.plain.refused = 0

    @invariant()
    def the_circuit_is_what_the_model_is(self):
        c, p = self.circuit, self.plain
        assert (c.state, c.since_s, c.openings, c.not_permitted, c.tripped) == (
            p.state, p.since_s, p.openings, p.refused, p.tripped
        )  # fmt: skip
        assert (c.buffered, c.failed, c.slow) == (len(p.results), p.failed(), p.slow())
        assert c.permits_in_use == len(p.out)
        assert c.epoch == p.era

    @invariant()
    def the_rates_are_those_of_the_model_or_none(self):
        c, p = self.circuit, self.plain
        if p.state in ("closed", "metrics_only", "half_open"):
            enough = p.results and len(p.results) >= p.needed()
            assert c.failure_rate == (p.failed() / len(p.results) if enough else None)
            assert c.slow_rate == (p.slow() / len(p.results) if enough else None)

    @invariant()
    def never_more_probes_than_permits(self):
        assert 0 <= self.circuit.permits_in_use <= self.breaker.permits
        if self.circuit.state == "half_open":
            assert self.circuit.permits_in_use + self.circuit.buffered <= self.breaker.permits
        else:
            assert self.circuit.permits_in_use == 0

    @invariant()
    def who_waits_as_told_may_pass(self):
        wait_s = self.breaker.retry_after_s(self.circuit, self.now)
        passes = self.breaker.admit(self.circuit, self.now)[1] is not None
        assert passes == (wait_s == 0)
        asked_of_probes = self.circuit.state == "half_open" and self.breaker.half_open_limit_s is None
        if 0 < wait_s < math.inf and not asked_of_probes:
            circuit = self.breaker.tick(self.circuit, self.now)
            assert self.breaker.admit(circuit, self.now + wait_s)[1] is not None
            assert self.breaker.admit(circuit, self.now + wait_s - 0.125)[1] is None

    @invariant()
    def the_log_keeps_it_whole(self):
        assert Circuit.from_dict(json.loads(json.dumps(self.circuit.as_dict()))) == self.circuit

    @invariant()
    def a_healed_backend_is_back_after_one_cooldown_and_the_probes(self):
        """From open: wait as told, let `permits` probes succeed, and it is closed; nothing else is needed."""
        circuit, now = self.breaker.tick(self.circuit, self.now), self.now
        if circuit.state != "open":
            return
        now += self.breaker.retry_after_s(circuit, now)
        assert now - self.now <= self.breaker.max_cooldown_s
        for _ in range(self.breaker.permits):
            assert circuit.state in ("open", "half_open")
            circuit, permit = self.breaker.admit(circuit, now)
            circuit = self.breaker.record(circuit, permit, ok=True, duration_s=0.25, now_s=now)
        assert circuit.state == "closed"

    @invariant()
    def cancelled_probes_never_leave_it_stuck(self):
        """Half-open, with every permit that is out released, the next caller may probe."""
        circuit = self.circuit
        if circuit.state == "half_open":
            for number in circuit.probes:
                lost = Permit(epoch=circuit.epoch, started_s=0.0, probe=True, number=number)
                circuit = self.breaker.release(circuit, lost)
            assert self.breaker.retry_after_s(circuit, circuit.since_s) == 0
            assert self.breaker.admit(circuit, circuit.since_s)[1].probe


class TimeMachine(Machine):
    """The same with a time window."""

    window_s = st.integers(1, 8)


TestCountWindow = Machine.TestCase
TestTimeWindow = TimeMachine.TestCase
TestCountWindow.settings = TestTimeWindow.settings = STEPS
