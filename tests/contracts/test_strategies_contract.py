"""The contract of a Merge, run on every strategy that decides whole pools, fitted where it learns."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest

from tests.contracts import merge_contract as contract
from workbench.decide.merge import MajorityVoting
from workbench.decide.policies import POLICIES, policy
from workbench.decide.pool import Learner, Pool, Strategy, learned
from workbench.decide.strategies.auto import Auto
from workbench.decide.votes import Ballots
from workbench.errors import LLMValidationError
from workbench.facts import Merge

ACCURACY = dict(zip(contract.MODELS, (0.9, 0.7, 0.7, 0.6, 0.6, 0.4), strict=True))
# Hundreds of fits; and a few items must be enough for a bound on the risk.
QUICK = {"auto": {"folds": 2}, "selective": {"risk": 0.9}}
NAMES = [name for name in POLICIES if isinstance(policy(name), Strategy)]


@pytest.fixture(autouse=True)
def _fewer_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the contract's cases: each set of members is a fit of its own."""
    monkeypatch.setattr(contract, "CASES", 100)


@cache
def fitted(name: str, members: tuple[str, ...], voting: frozenset[str]) -> Merge:
    """A strategy, fitted on a planted run of these members; strangers and those without a vote are silent in it.

    Where one member alone leaves nothing to learn the plain vote stands in, as the refusal advises.
    """
    chance, items = random.Random(7), 40
    gold = [chance.choice(contract.ANSWERS) for _ in range(items)]
    said: dict[str, list[str | None]] = {model: [None] * items for model in members}
    for model, accuracy in ACCURACY.items():
        wrong = [chance.choice([a for a in contract.ANSWERS if a != g]) for g in gold]
        right = [chance.random() < accuracy for _ in gold]
        if model in voting:
            said[model] = [g if r else w for g, r, w in zip(gold, right, wrong, strict=True)]
    ballots = Ballots.of(members, list(zip(*said.values(), strict=True)))
    values = ballots.values(np.zeros((items, len(members))), gold)
    try:
        return learned(policy(name, QUICK.get(name)), Pool.of(ballots), values)
    except LLMValidationError as error:
        if error.code != "fit.items" or len(voting) > 1:
            raise
        return MajorityVoting()


def factory(name: str) -> contract.Factory:
    """How a strategy is made for these weights: fitted for the members that are there."""

    def make(weights: Mapping[str, float]) -> Merge:
        voting = frozenset(model for model, weight in weights.items() if weight > 0 and model in contract.MODELS)
        return fitted(name, tuple(sorted(weights)), voting)

    return make


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_of_pools_keeps_the_contract(name, check):
    """Each strategy with an array form of its own, fitted for the members at hand, keeps every promise of a Merge."""
    check(factory(name))


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("policy_taken", ["best_single", "majority_voting"])
def test_auto_keeps_the_contract_whatever_it_takes(policy_taken, check):
    """The best single model, as after a fit on few labels, and the plain vote keep the promises under its name."""

    def make(weights: Mapping[str, float]) -> Merge:
        params = {"ranking": sorted(weights, reverse=True)} if policy_taken == "best_single" else {}
        return Auto(chosen={"policy": policy_taken, "params": params})

    check(make)


@pytest.mark.parametrize("name", NAMES)
def test_the_contract_is_that_of_fitted_strategies(name):
    """What is checked is the strategy itself, and after a fit where it learns."""
    merge = fitted(name, contract.MODELS, frozenset(contract.MODELS))
    assert merge.name == name
    assert not isinstance(merge, Learner) or merge.fitted
