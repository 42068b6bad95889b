"""The journal: every decision is written down with what is needed to make it again."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from workbench.act.journal import decide, encode
from workbench.act.trace import span
from workbench.act.world import World
from workbench.canonical import canonical_json
from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus
from workbench.decide.policies import policy
from workbench.errors import LLMOrchestratorError, LLMValidationError
from workbench.facts import Decision, Failure, ModelContribution, Response

FAILURE = Failure(kind="LLMProviderError", code="provider.server", message="503")


def said(model, answer, quality=None, weight=1.0):
    """A kept contribution."""
    response = Response(request_key="k", model=model, text=f"It is {answer}.", source="simulated")
    return ModelContribution(model=model, response=response, answer=answer, quality=quality, weight=weight)


PARTS = [
    said("b", "4", 0.5),
    said("a", "5", 0.25, 2.0),
    said("c", None),
    ModelContribution(model="d", failure=FAILURE, status="failed"),
]


def decision(world):
    """The one decision that was written."""
    (row,) = [f for f in world.sink.facts if isinstance(f, Decision)]
    return row


def test_a_decision_is_returned_and_written():
    """The policy's output comes back, and the row says who decided what from which inputs."""
    world = World.virtual()
    merge = WeightedConsensus(threshold=0.1)
    merged = decide(world, merge, kind="merge", request_key="q", run_id="r", item_id="i", contributions=PARTS)
    assert merged == merge(PARTS)
    row = decision(world)
    assert (row.kind, row.policy, row.version) == ("merge", "weighted_consensus", "1")
    assert (row.request_key, row.run_id, row.item_id) == ("q", "r", "i")
    assert row.params == {"threshold": 0.1}
    assert row.inputs == {
        "contributions": [
            ["b", "4", 0.5, 1.0, "kept", None],
            ["a", "5", 0.25, 2.0, "kept", None],
            ["c", None, None, 1.0, "kept", None],
            ["d", None, None, 1.0, "failed", "provider.server"],
        ]
    }
    # 4: 1 * 0.5 and 5: 2 * 0.25 tie; asked: those, and c and d at the mean 0.375: 1.75 in all
    assert row.output == {
        "answer": "4",
        "tied": ["4", "5"],
        "confidence": pytest.approx(0.5 / 1.75),
        "agreement": pytest.approx(0.5),
    }
    assert row.duration_us >= 0


def test_a_refusal_is_written_and_passed_on():
    """A typed refusal leaves a row with its code, and the same error goes to the caller."""
    world = World.virtual()
    with pytest.raises(LLMOrchestratorError) as caught:
        decide(world, MajorityVoting(threshold=0.9), kind="merge", contributions=PARTS[:2])
    row = decision(world)
    assert row.output == {"error": "ensemble.all_filtered"} == {"error": caught.value.code}
    assert len(row.inputs["contributions"]) == 2


def test_an_unexpected_error_is_not_written_as_a_decision_for_nothing():
    """A policy that breaks leaves a row that differs from one of a policy that returned None."""

    def broken(x):
        raise ZeroDivisionError(x)

    broke, returned = World.virtual(), World.virtual()
    with pytest.raises(ZeroDivisionError):
        decide(broke, broken, kind="route", x=1)
    assert decide(returned, lambda x: None, kind="route", x=1) is None
    assert decision(broke).output != decision(returned).output


@pytest.mark.parametrize("merge", [MajorityVoting(0.3), WeightedConsensus(), BestOfN(),
                                   WeightedConsensus({"a": 1, "b": 2, "c": 0, "d": 1 / 3})])  # fmt: skip
def test_a_decision_can_be_made_again_from_its_row(merge):
    """Through JSON and back, name, parameters and inputs give the same output."""
    world = World.virtual()
    decide(world, merge, kind="merge", contributions=PARTS)
    row = json.loads(canonical_json({k: getattr(decision(world), k) for k in ("policy", "params", "inputs", "output")}))
    again = [
        ModelContribution(
            model=model,
            answer=answer,
            quality=quality,
            weight=weight,
            status=status,
            failure=Failure(kind="", code=code, message="") if code else None,
        )
        for model, answer, quality, weight, status, code in row["inputs"]["contributions"]
    ]
    assert encode(policy(row["policy"], row["params"])(again)) == row["output"]


def test_the_run_of_a_decision_is_that_of_the_span_around_it():
    """Without a run of its own a decision belongs to the run of the open span; given one, to that."""
    world = World.virtual()
    with span(world, "study", "merge", run_id="outer"):
        decide(world, MajorityVoting(), kind="merge", contributions=PARTS)
        decide(world, MajorityVoting(), kind="merge", run_id="own", contributions=PARTS)
    runs = [f.run_id for f in world.sink.facts if isinstance(f, Decision)]
    assert runs == ["outer", "own"]


def test_a_policy_receives_its_facts_in_order():
    """Any callable with several inputs is a policy; its facts are logged by name and passed by position."""

    @dataclass(frozen=True)
    class Cheapest:
        limit_usd: float = 0.5

        def __call__(self, prices, fallback):
            return min((m for m in prices if prices[m] <= self.limit_usd), key=prices.get, default=fallback)

    world = World.virtual()
    assert decide(world, Cheapest(0.2), kind="route", prices={"a": 0.3, "b": 0.1}, fallback="z") == "b"
    row = decision(world)
    assert (row.policy, row.version, row.params) == ("Cheapest", "", {"limit_usd": 0.2})
    assert (row.inputs, row.output) == ({"prices": {"a": 0.3, "b": 0.1}, "fallback": "z"}, "b")


def test_the_row_does_not_change_with_the_callers_objects():
    """Inputs are written as they were at the decision: what the caller does to them later is not in the row."""
    world, prices = World.virtual(), {"a": [1, 2]}
    decide(world, lambda prices: "a", kind="route", prices=prices)
    prices["a"].append(3)
    prices["b"] = []
    assert decision(world).inputs == {"prices": {"a": [1, 2]}}


def test_a_decision_outside_the_input_is_refused_by_the_policy_not_the_journal():
    """The journal adds no checks of its own: an empty merge is the merge's refusal, and is in the log."""
    world = World.virtual()
    with pytest.raises(LLMValidationError):
        decide(world, MajorityVoting(), kind="merge", contributions=[])
    assert decision(world).output == {"error": "validation.models"}
