"""The contract of a Merge, run on every built-in strategy, on a user's own, and against merges that break it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest

from tests.contracts import merge_contract as contract
from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus, prepare
from workbench.errors import LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution

STRATEGIES: Mapping[str, contract.Factory] = {
    "majority_voting": lambda weights: MajorityVoting(),
    "majority_voting-threshold": lambda weights: MajorityVoting(threshold=0.5),
    "weighted_consensus-quality": lambda weights: WeightedConsensus(),
    "weighted_consensus-quality-threshold": lambda weights: WeightedConsensus(threshold=0.5),
    "weighted_consensus-weights": WeightedConsensus,
    "weighted_consensus-weights-threshold": lambda weights: WeightedConsensus(weights, threshold=0.5),
    "best_of_n": lambda weights: BestOfN(),
    "best_of_n-threshold": lambda weights: BestOfN(threshold=0.5),
}


@dataclass(frozen=True)
class Plurality:
    """A user's own merge, written from the protocol's docstring with none of the built-in counting."""

    name: str = "plurality"

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The most frequent answer."""
        parts = prepare(contributions, None)
        votes = Counter(c.answer for c in parts if c.votes and c.weight > 0)
        top = max(votes.values(), default=0)
        tied = sorted(a for a in votes if votes[a] == top and a is not None)
        said = [c.response.text for c in parts if c.response and c.votes and c.weight > 0 and c.answer in tied[:1]]
        return EnsembleResponse(
            text=said[0] if said else "",
            answer=tied[0] if tied else None,
            tied=tuple(tied),
            strategy=self.name,
            confidence=top / sum(c.weight > 0 for c in parts),
            agreement=top / votes.total() if votes else 0.0,
            contributions=tuple(parts),
        )


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_keeps_the_contract(strategy, check):
    """Each built-in strategy, with and without threshold and weights, keeps every promise of the protocol."""
    check(STRATEGIES[strategy])


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_a_users_own_merge_can_be_held_to_the_contract(check):
    """A merge from outside the workbench passes the same checks through a factory that ignores the weights."""
    check(lambda weights: Plurality())


@dataclass(frozen=True)
class Spoiled:
    """Majority voting with one promise broken: `before` spoils what it is given, `after` what it gives."""

    before: Callable[[Sequence[ModelContribution]], Sequence[ModelContribution]] = lambda parts: parts
    after: Callable[[EnsembleResponse], EnsembleResponse] = lambda merged: merged
    name: str = "spoiled"

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        return self.after(MajorityVoting()(self.before(contributions)))


def only_the_first(parts: Sequence[ModelContribution]) -> Sequence[ModelContribution]:
    return [replace(c, answer=c.answer if c is parts[0] else None) for c in parts]


def only_the_lightest(parts: Sequence[ModelContribution]) -> Sequence[ModelContribution]:
    voters = [c for c in parts if c.votes and c.weight > 0]
    lightest = min(voters, key=lambda c: (c.weight, c.model), default=None)
    return [replace(c, answer=c.answer if c is lightest else None) for c in parts]


def accept_nothing(parts: Sequence[ModelContribution]) -> Sequence[ModelContribution]:
    return parts or [contract._part("nobody", "yes", None, 1.0)]


def invent(merged: EnsembleResponse) -> EnsembleResponse:
    return replace(merged, answer="42", tied=("42",)) if merged.answer else merged


COUNTER = itertools.count()
BROKEN: Mapping[str, tuple[Callable[[contract.Factory], None], Spoiled]] = {
    "the first contribution decides": (contract.ignores_order, Spoiled(only_the_first)),
    "never sure": (
        contract.returns_the_unanimous_answer,
        Spoiled(after=lambda m: replace(m, confidence=m.confidence / 2)),
    ),
    "weight 0 counts": (
        contract.ignores_a_zero_weight,
        Spoiled(lambda parts: [replace(c, weight=c.weight or 1.0) for c in parts]),
    ),
    "the lightest decides": (contract.keeps_its_winner_when_a_supporter_grows, Spoiled(only_the_lightest)),
    "merges nothing": (contract.refuses_an_empty_input_by_name, Spoiled(accept_nothing)),
    "never twice the same": (
        contract.is_deterministic,
        Spoiled(after=lambda m: replace(m, text=f"{m.text} {next(COUNTER)}")),
    ),
    "invents an answer": (contract.answers_only_from_contributions, Spoiled(after=invent)),
    "more than sure": (
        contract.keeps_its_numbers_in_the_unit_interval,
        Spoiled(after=lambda m: replace(m, confidence=m.confidence * 2)),
    ),
    "None is an answer": (
        contract.gives_no_vote_to_a_missing_answer,
        Spoiled(lambda parts: [replace(c, answer=str(c.answer)) for c in parts]),
    ),
    "the failed vote": (
        contract.gives_no_vote_to_the_failed,
        Spoiled(lambda parts: [replace(c, status="kept", failure=None) for c in parts]),
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_each_check_catches_a_merge_that_breaks_its_promise(broken):
    """A check of the contract fails on a merge made to break just that promise, so no check is empty."""
    check, merge = BROKEN[broken]
    with pytest.raises(AssertionError):
        check(lambda weights: merge)


def test_every_check_has_its_counter_example():
    """No check is added to the contract without a broken merge that proves it can fail."""
    assert {check for check, _ in BROKEN.values()} == set(contract.CHECKS)


def test_an_empty_input_is_refused_before_weights_are_looked_at():
    """The refusal of an empty input says that there is nothing to merge, also where weights name members."""
    with pytest.raises(LLMValidationError, match="no contributions"):
        WeightedConsensus({"a": 1.0})([])
