"""Worlds drawn from a seed: random models, faults, callers and clocks; what must hold in all, and that it can fail.

A world that fails is lived again with `lived(planned(SEED))`; benchmarks/simulation.py looks at many more of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from tests.simulation.invariants import problems
from tests.simulation.plan import FAULTS, Plan, planned
from tests.simulation.simulate import Lived, lived
from workbench.act.admission import Discipline
from workbench.act.journal import encode
from workbench.decide.breaker import Breaker
from workbench.decide.budget import Account
from workbench.decide.retry import RetryPolicy
from workbench.errors import LLMProviderError
from workbench.facts import Call, Decision, Failure, Response

SEEDS = 500
# Found beyond these, most of them by hedges or by waiting for a connection.
FOUND = (575, 811, 936, 1303, 1584, 2202, 3630, 5098, 5207, 5886, 7840)


@dataclass(slots=True)
class Many:
    """What many worlds had in them."""

    problems: dict[int, list[str]] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    circuits: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)

    def add(self, world: Lived) -> None:
        if found := problems(world):
            self.problems[world.plan.seed] = found
        self.faults.update(one.did for one in world.seen)
        self.ends.update(outcome.how for outcome in world.outcomes)
        for fact in world.facts:
            if isinstance(fact, Call):
                self.codes[fact.failure.code if fact.failure else "ok"] += 1
            elif isinstance(fact, Decision) and fact.kind == "breaker":
                self.circuits[f"{fact.inputs['state']} to {fact.output['state']}"] += 1
            elif isinstance(fact, Decision):
                self.decisions[fact.output["action"]] += 1


@pytest.fixture(scope="module")
def many() -> Many:
    made = Many()
    for seed in range(SEEDS):
        made.add(lived(planned(seed)))
    return made


def test_every_invariant_holds_in_every_world(many):
    """No hang, one end and one row per attempt, exact money, nothing left behind, and everything heals."""
    told = [f"seed {seed}: {line}" for seed, lines in many.problems.items() for line in lines]
    assert not told, "\n".join(told[:20])


@pytest.mark.parametrize("seed", FOUND)
def test_a_world_that_once_failed_holds(seed):
    """What was found among more seeds than are looked at here stays mended."""
    assert not problems(lived(planned(seed)))


@pytest.mark.parametrize("stream", [True, False])
def test_a_crowd_larger_than_the_pool_does_not_make_a_healthy_model_look_silent(stream):
    """600 calls at once, 256 connections, 6 s each: three rounds, so all are answered after 18 s of their 30."""
    slow = replace(planned(0).models[0], prices=None, latency_s=6.0, piece_s=0.0, limits=None)
    calm = replace(planned(0).callers[0], at_s=0.0, models=(0,), how="ask", timeout_s=None, max_tokens=None)
    caller = replace(calm, run_id=None, cancel_s=None, cancel_again_s=None, leave_after=None)
    plan = Plan(
        seed=0, models=(slow,), outages=(), callers=tuple(replace(caller, number=n) for n in range(600)),
        discipline=Discipline(stream=stream), budget=(), jumps=(), heal_s=1.0, connections=256,
    )  # fmt: skip
    world = lived(plan)
    codes = Counter(o.value.code if isinstance(o.value, Failure) else o.how for o in world.outcomes)
    opened = [f for f in world.facts if isinstance(f, Decision) and f.kind == "breaker"]
    assert (codes, opened) == ({"answered": 600}, [])


def test_the_worlds_have_everything_in_them(many):
    """Each fault was met, each way to end was taken, circuits opened and closed, retries and failovers were made."""
    assert set(many.faults) == {*FAULTS, "ok"}
    assert {"answered", "failed", "cancelled", "left"} <= set(many.ends)
    assert {"ok", "cancelled", "failover.all_open", "budget.exceeded", "budget.unknown_price"} <= set(many.codes)
    assert {"rate_limit", "rate_limit.local", "rate_limit.quota", "timeout.deadline", "timeout.idle"} <= set(many.codes)
    assert {"timeout.first_token", "timeout.attempt", "provider.truncated", "provider.malformed"} <= set(many.codes)
    assert {"closed to open", "open to half_open", "half_open to open", "half_open to closed"} <= set(many.circuits)
    assert set(many.decisions) == {"retry", "failover", "stop"}


@pytest.mark.parametrize("seed", range(0, 100, 5))
def test_a_seed_is_lived_again_identically(seed):
    """The same facts in the same order with the same ids, the same requests at the providers, the same ends."""
    one, other = lived(planned(seed)), lived(planned(seed))
    assert one.facts == other.facts
    assert one.seen == other.seen
    assert one.accounts == other.accounts
    assert [(o.how, o.start_s, o.end_s, repr(o.value)) for o in one.outcomes] == [
        (o.how, o.start_s, o.end_s, repr(o.value)) for o in other.outcomes
    ]


def test_another_seed_is_another_world():
    """So that looking at many of them means something."""
    assert len({repr(planned(seed)) for seed in range(100)}) == 100


# -- the invariants can fail


def rows(world: Lived) -> list[int]:
    """Where the rows of answered, paid attempts are in the facts."""
    return [
        n
        for n, fact in enumerate(world.facts)
        if isinstance(fact, Call) and fact.final and fact.response is not None and fact.response.cost_usd
    ]


def _row_lost(world: Lived) -> None:
    del world.facts[rows(world)[0]]


def _row_doubled(world: Lived) -> None:
    world.facts.append(world.facts[rows(world)[0]])


def _not_final(world: Lived) -> None:
    at = rows(world)[0]
    world.facts[at] = replace(world.facts[at], final=False)


def _tokens_changed(world: Lived) -> None:
    at = rows(world)[0]
    row = world.facts[at]
    assert isinstance(row, Call)
    assert row.response is not None
    usage = replace(row.response.usage, completion_tokens=90_000)
    world.facts[at] = replace(row, response=replace(row.response, usage=usage))


def _another_key(world: Lived) -> None:
    at = rows(world)[0]
    world.facts[at] = replace(world.facts[at], idempotency_key="0" * 32)


def _request_unseen(world: Lived) -> None:
    world.seen.append(replace(world.seen[0], key="f" * 32))


def _reserved(world: Lived) -> None:
    scope = next(iter(world.accounts))
    world.accounts[scope] = replace(world.accounts[scope], reserved=1)


def _overspent(world: Lived) -> None:
    world.accounts["run:zero"] = Account(limit=1, spent=2)


def _late(world: Lived) -> None:
    outcome = world.outcomes[0]
    outcome.end_s = outcome.deadline_s + 0.001


def _hung(world: Lived) -> None:
    world.outcomes[0].how = "hung"


def _untyped(world: Lived) -> None:
    world.outcomes[0].how, world.outcomes[0].value = "untyped", KeyError("choices")


def _wrong_text(world: Lived) -> None:
    for at in rows(world):
        row = world.facts[at]
        assert isinstance(row, Call)
        assert row.response is not None
        world.facts[at] = replace(row, response=replace(row.response, text="m0 piece 0."))


def _task_left(world: Lived) -> None:
    world.tasks_left = 1


def _permit_left(world: Lived) -> None:
    world.permits_in_use = 1


def _slot_left(world: Lived) -> None:
    world.slots_in_use = ["openai0:m0"]


def _does_not_heal(world: Lived) -> None:
    name = next(iter(world.healed))
    failure = next(f.failure for f in failing().facts if isinstance(f, Call) and f.failure)
    world.healed[name] = failure


def _does_not_close(world: Lived) -> None:
    name = next(name for name, result in world.healed.items() if isinstance(result, Response))
    world.states[name] = "open"


def _negative(world: Lived) -> None:
    at = rows(world)[0]
    world.facts[at] = replace(world.facts[at], duration_ms=-0.1)


def _other_error(world: Lived) -> None:
    world.outcomes[0].how, world.outcomes[0].value = "failed", LLMProviderError("no", model="a:b", trace_id="0" * 32)


TAMPERINGS = (
    _row_lost, _row_doubled, _not_final, _tokens_changed, _another_key, _request_unseen, _reserved, _overspent, _late,
    _hung, _untyped, _wrong_text, _task_left, _permit_left, _slot_left, _does_not_heal, _does_not_close, _negative,
    _other_error,
)  # fmt: skip


def paid() -> Lived:
    """A world in which all is well, everybody is answered, and answers cost money."""
    for seed in range(1000):
        plan = planned(seed)
        if plan.lies or plan.budget or not all(model.prices and model.prices[0] for model in plan.models):
            continue
        world = lived(plan)
        if not problems(world) and all(o.how == "answered" and o.caller.how == "complete" for o in world.outcomes[:1]):
            return world
    raise AssertionError("no such world")


def failing() -> Lived:
    """A world with a failed attempt."""
    worlds = (lived(planned(seed)) for seed in range(1000))
    return next(w for w in worlds if any(isinstance(f, Call) and f.failure for f in w.facts))


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__.strip("_"))
def test_each_invariant_notices_what_it_is_for(tamper: Callable[[Lived], None]):
    """One thing is changed in a world in which all was well: somebody must say so."""
    world = paid()
    tamper(world)
    assert problems(world)


def test_every_decision_can_be_made_again_from_its_row():
    """Retries and changes of circuits: policy, parameters and inputs of the log give the output of the log."""
    kinds = Counter()
    for seed in range(40):
        for fact in lived(planned(seed)).facts:
            if not isinstance(fact, Decision):
                continue
            kinds[fact.kind] += 1
            inputs = dict(fact.inputs)
            if fact.kind == "retry":
                failure = Failure(kind="", message="", **inputs.pop("failure"))
                again = encode(RetryPolicy(**fact.params)(failure=failure, **inputs))
                # What the policy allowed, another call may have used up in the meantime; the row says what it allowed.
                assert again == fact.output
            else:
                circuit = Breaker(**fact.params).again(inputs)
                assert {"state": circuit.state, "since_s": circuit.since_s} == fact.output
    assert kinds["retry"] > 50
    assert kinds["breaker"] > 50
