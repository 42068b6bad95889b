"""Strategies by name: made again from the log, and refused before a run that they cannot decide."""

from __future__ import annotations

import copy
import json
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import pytest

from workbench.act.world import World
from workbench.decide.merge import MajorityVoting, WeightedConsensus, params_of
from workbench.decide.policies import POLICIES, as_merge, check_ready, policy
from workbench.decide.strategies.auto import Auto
from workbench.decide.strategies.single import BestSingle
from workbench.decide.strategies.weighted import LogOdds, Stacking
from workbench.errors import LLMValidationError
from workbench.facts import Item, ModelContribution, Request, Response
from workbench.record.log import Log
from workbench.study.run import Member, Plan, check_plan, execute, spec_of
from workbench.study.suite import Suite

WEIGHTS = {"a": 1.5, "b": -0.25, "c": 0.0}
FITTED = [
    BestSingle(("b", "a", "c")),
    LogOdds(WEIGHTS),
    Stacking(WEIGHTS, penalty=0.5),
    Auto(chosen={"policy": "best_single", "params": {"ranking": ("b", "a", "c")}}, reason="few labels"),
    Auto(chosen={"policy": "stacking", "params": {"weights": WEIGHTS}}, folds=3, caution=0.0),
    Auto(chosen={"policy": "majority_voting", "params": {}}),
]
UNFITTED = [BestSingle(), LogOdds(), Stacking(), Auto()]


def refused(make, code):
    with pytest.raises(LLMValidationError) as caught:
        make()
    assert caught.value.code == code
    assert len(caught.value.next_step) <= 160
    return caught.value


# --- by name --------------------------------------------------------------------------------------------


def test_every_strategy_stands_under_its_own_name():
    """The registry's key is the name that tables and the log show, and each is made without parameters."""
    assert all(name == cls.name == policy(name).name for name, cls in POLICIES.items())


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("stackin", "stacking"), ("logodds", "log_odds"), ("best_singel", "best_single"), ("AUTO", "majority_voting")],
)
def test_an_unknown_name_is_answered_with_the_closest(asked, meant):
    """A misspelt strategy gets the name that was meant, or the plain vote where nothing is alike."""
    error = refused(lambda: policy(asked), "validation.strategy")
    assert f"use {meant}," in error.next_step
    assert all(name in error.message for name in POLICIES)


@pytest.mark.parametrize(
    ("name", "params", "code"),
    [("log_odds", {"threshold": 0.5}, "strategy"), ("stacking", {"penalty": "much"}, "penalty"),
     ("best_single", {"ranking": 3}, "models"), ("best_of_n", {"threshold": 1.5}, "threshold"),
     ("auto", {"chosen": {"policy": "stacking", "params": {"weight": {}}}}, "strategy"),
     ("auto", {"caution": None}, "strategy")],
)  # fmt: skip
def test_parameters_that_a_strategy_cannot_take_are_refused(name, params, code):
    """A wrong name or kind of parameter is a typed refusal, by the policy's own code where it has a narrower one."""
    refused(lambda: policy(name, params), f"validation.{code}")


JUNK = [
    "", "a", b"x", 0, -1, 2.5, float("nan"), float("inf"), 10**400, True, object(), [None], [1], [["a"]], {"a": None},
    {1: 1}, {"a": {"b": 1}}, {"policy": ["x"]}, {"policy": "best_single", "params": None},
    {"policy": "best_single", "params": {"x": 1}}, np.array([1.0, 2.0]), 1j,
]  # fmt: skip


@pytest.mark.parametrize("field", [(n, f.name) for n, made in POLICIES.items() for f in fields(made)], ids="-".join)
def test_a_field_takes_a_value_or_refuses_it_by_name(field):
    """Whatever stands in a field, also of an edited log, the policy is made or a refusal says what to do."""
    name, param = field
    for value in JUNK:
        for make in (lambda given: POLICIES[name](**given), lambda given: policy(name, given)):
            refusal = None
            try:
                make({param: value})
            except LLMValidationError as error:
                refusal = error
            assert refusal is None or (refusal.code.startswith("validation.") and 0 < len(refusal.next_step) <= 160)


@pytest.mark.parametrize("params", ["a", 1, [1]])
def test_parameters_that_are_no_mapping_are_refused(params):
    """As they could stand in an edited log."""
    error = refused(lambda: policy("majority_voting", params), "validation.strategy")
    assert "majority_voting does not take" in error.message


@pytest.mark.parametrize("name", [None, 5, ["auto"], "a" * 100_000])
def test_what_is_no_name_of_a_strategy_is_refused_in_few_words(name):
    """Also what cannot be looked up, or is as long as a book."""
    with pytest.raises(LLMValidationError) as caught:
        policy(name)
    assert caught.value.code == "validation.strategy"
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("made", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("given", [None, 5, "abc", [None], [1], {}], ids=repr)
def test_what_are_no_contributions_is_refused(made, given):
    """One sequence of ModelContribution, or a refusal."""
    with pytest.raises(LLMValidationError) as caught:
        made()(given)
    assert caught.value.code in ("validation.contributions", "validation.models")


@pytest.mark.parametrize("quality", ["x", float("nan"), 10**400, True])
def test_a_quality_that_is_no_number_is_refused(quality):
    """It would be compared as one."""
    parts = [ModelContribution(model="a", answer="4", quality=quality)]
    refused(lambda: MajorityVoting()(parts), "validation.quality")


@pytest.mark.parametrize("fitted", [*FITTED, *UNFITTED], ids=repr)
def test_a_fitted_policy_is_made_again_from_its_logged_parameters(fitted):
    """Name and parameters, as JSON keeps them, give an equal policy with equal parameters."""
    again = policy(fitted.name, json.loads(json.dumps(params_of(fitted), allow_nan=False)))
    assert again == fitted
    assert params_of(again) == params_of(fitted)
    assert type(again) is type(fitted)


@pytest.mark.parametrize("fitted", [*FITTED, *UNFITTED], ids=repr)
def test_a_fitted_policy_is_a_value(fitted):
    """Equal ones have equal hashes, copies are equal, and fields cannot be set."""
    assert copy.deepcopy(fitted) == fitted
    assert hash(policy(fitted.name, params_of(fitted))) == hash(fitted)
    with pytest.raises(FrozenInstanceError):
        fitted.version = "2"


def test_a_name_or_an_object_stands_for_a_merge():
    """A name gives the policy of that name, and a policy is itself."""
    assert as_merge("stacking") == Stacking()
    assert as_merge(FITTED[0]) is FITTED[0]


@pytest.mark.parametrize(
    "merge", [Stacking, 3, None, object(), lambda parts: parts], ids=["class", "number", "none", "object", "function"]
)
def test_what_is_no_merge_is_refused(merge):
    """A class, a number, and a function without a name are neither a name nor a policy."""
    refused(lambda: as_merge(merge), "validation.strategy")


# --- before a run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fitted", FITTED, ids=repr)
def test_a_policy_fitted_on_the_members_is_ready(fitted):
    """Whatever the order in which the members are named."""
    check_ready(fitted, ["c", "a", "b"])


@pytest.mark.parametrize("unfitted", UNFITTED, ids=repr)
def test_a_policy_that_has_learned_nothing_is_not_ready(unfitted):
    """An unfitted policy could decide no item of a run."""
    refused(lambda: check_ready(unfitted, ["a", "b", "c"]), "validation.unfitted")


@pytest.mark.parametrize("fitted", FITTED[:-1], ids=repr)
@pytest.mark.parametrize("models", [["a", "b"], ["a", "b", "c", "d"], ["a", "b", "x"]], ids=" ".join)
def test_a_policy_fitted_on_others_is_not_ready(fitted, models):
    """A member that the fit does not know, and one of the fit that is not there, are named."""
    error = refused(lambda: check_ready(fitted, models), "validation.weights")
    assert any(name in error.message for name in {*models} ^ {"a", "b", "c"})


def test_a_plain_merge_is_ready_where_its_weights_are():
    """Without weights any members do; with them they must be the members."""
    check_ready(MajorityVoting(), ["a"])
    check_ready(FITTED[-1], ["x", "y"])  # `auto` that votes
    check_ready(WeightedConsensus({"a": 1.0}), ["a"])
    refused(lambda: check_ready(WeightedConsensus({"a": 1.0}), ["a", "b"]), "validation.weights")


@dataclass(frozen=True)
class Asked:
    """A model that must not be asked."""

    name: str

    async def complete(self, request: Request) -> Response:
        raise AssertionError("a call was made for a run that could not be merged")


@dataclass(frozen=True)
class Rule:
    """A merge of the user's own with weights that are no mapping, which are its own affair."""

    weights: Any = (1.0, 2.0)
    name: ClassVar[str] = "rule"

    def __call__(self, parts):
        return MajorityVoting()(parts)


def plan_of(merge):
    items = (Item(item_id="i0", task="reasoning", prompt="?", reference="1", metadata={"answer_kind": "number"}),)
    suite = Suite(name="tiny", kind="suite", items=items)
    members = tuple(Member(name=n, model=Asked(f"test:{n}")) for n in "abc")
    return Plan(run_id="r", suite=suite, members=members, merge=merge, source="live", spec=spec_of(suite, merge))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("merge", "code"),
    [
        *((unfitted, "validation.unfitted") for unfitted in UNFITTED),
        (Stacking({"a": 1.0, "b": 1.0, "d": 1.0}), "validation.weights"),
        (BestSingle(("a", "b")), "validation.weights"),
        (Auto(chosen={"policy": "best_single", "params": {"ranking": ("a", "b", "d")}}), "validation.weights"),
    ],
    ids=repr,
)
async def test_a_run_that_could_not_be_merged_makes_no_call(merge, code, log_folder):
    """The plan is refused first: no call, no run in the log."""
    refused(lambda: check_plan(plan_of(merge)), code)
    log = Log.open(log_folder)
    with pytest.raises(LLMValidationError):
        await execute(World.real(log), plan_of(merge))
    assert log.rows("select (select count(*) from calls), (select count(*) from runs)") == [(0, 0)]
    log.close()


def test_a_users_own_rule_is_ready_for_anybody():
    """Only a mapping of weights is held against the members."""
    check_ready(Rule(), ["a", "b", "c"])
    check_plan(plan_of(Rule()))
