"""Votes weighed without labels: planted accuracies and confusions, and what independence costs where it fails."""

from __future__ import annotations

import json

import numpy as np
import pytest

from workbench.decide.annotators import dawid_skene, one_coin
from workbench.decide.merge import MajorityVoting, params_of
from workbench.decide.pool import Pool, over
from workbench.decide.strategies.latent import DawidSkene, OneCoin
from workbench.decide.votes import Ballots
from workbench.errors import LLMValidationError

MODELS = ("a", "b", "c", "d", "e")
LETTERS = "ABCD"


def planted(skills=(0.9, 0.6, 0.6, 0.55, 0.5), *, n=600, seed=0, together=0.0):
    """Letters on N items, and who is right; with probability `together` the last four take one common draw."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 4, n)
    luck, shared = rng.random((n, len(skills))), rng.random(n)
    wrong, common = rng.integers(1, 4, (n, len(skills))), rng.integers(1, 4, n)
    joined = rng.random(n) < together
    luck[joined, 1:], wrong[joined, 1:] = shared[joined, None], common[joined, None]
    votes = np.where(luck < np.array(skills), gold[:, None], (gold[:, None] + wrong) % 4)
    answers = [[LETTERS[v] for v in row] for row in votes]
    ballots = Ballots.of(MODELS[: len(skills)], answers)
    values = ballots.values(np.full(ballots.codes.shape, np.nan), [LETTERS[g] for g in gold])
    return Pool.of(ballots), values


BLIND = np.zeros((0, 0))  # values are never looked at


def test_one_coin_finds_the_planted_accuracies_without_a_label():
    """Within three standard errors of 600 items, and the labels are those of the estimate itself."""
    pool, values = planted()
    fitted = OneCoin(options=4).fit(pool, BLIND)
    found = np.array([fitted.accuracy[m] for m in MODELS])
    assert found == pytest.approx([0.9, 0.6, 0.6, 0.55, 0.5], abs=0.06)
    outcome = fitted.over(pool)
    assert np.array_equal(outcome.winner, one_coin(pool.ballots.codes, width=4).labels)
    assert outcome.scores(values).mean() > over(MajorityVoting(), pool).scores(values).mean() + 0.02


def test_dawid_skene_uses_who_confuses_what():
    """A model that always says A for B is no worse than a good one, to who knows it."""
    rng = np.random.default_rng(2)
    gold = rng.integers(0, 4, 800)
    swapped = np.array([1, 0, 2, 3])[gold]  # says A for B and B for A, always
    fair = np.where(rng.random((800, 3)) < 0.7, gold[:, None], rng.integers(0, 4, (800, 3)))
    answers = [[LETTERS[v] for v in row] for row in np.column_stack([swapped, fair])]
    ballots = Ballots.of(MODELS[:4], answers)
    values = ballots.values(np.full(ballots.codes.shape, np.nan), [LETTERS[g] for g in gold])
    pool = Pool.of(ballots)
    fitted = DawidSkene().fit(pool, BLIND)
    table = np.array(fitted.confusion[0])
    assert table[0, 1] > 0.9
    assert table[1, 0] > 0.9
    assert (
        fitted.over(pool).scores(values).mean() > OneCoin(options=4).fit(pool, BLIND).over(pool).scores(values).mean()
    )


def test_dawid_skene_decides_as_its_labels():
    """Where the most probable class was given by somebody, it is the winner."""
    pool, _ = planted(n=300)
    votes = np.array(
        [[LETTERS.index(pool.ballots.answers[i][c]) for c in row] for i, row in enumerate(pool.ballots.codes)]
    )
    labels = dawid_skene(votes.astype(np.int32), classes=4).labels
    outcome = DawidSkene().fit(pool, BLIND).over(pool)
    told = [LETTERS.index(pool.ballots.answers[i][c]) for i, c in enumerate(outcome.winner)]
    given = [label in votes[i] for i, label in enumerate(labels)]
    assert np.array_equal(np.array(told)[given], labels[given])
    assert np.mean(given) > 0.95


@pytest.mark.parametrize("strategy", [OneCoin(), DawidSkene()])
def test_shared_errors_are_warned_of(strategy):
    """Four members that mostly draw together look as if they knew: the policy says so, and names two of them."""
    pool, _ = planted(together=0.8)
    warned = strategy.fit(pool, BLIND).warning
    assert sum(f"{m} " in f"{warned} " for m in MODELS[1:]) >= 2
    independent, _ = planted(skills=(0.7, 0.65, 0.65, 0.6, 0.6))
    assert strategy.fit(independent, BLIND).warning == ""


@pytest.mark.parametrize("strategy", [OneCoin(), DawidSkene()])
def test_a_fitted_policy_is_plain_data(strategy):
    """Through JSON and back it is equal and decides the same, also items with answers that it has never seen."""
    pool, _ = planted(n=200)
    fitted = strategy.fit(pool, BLIND)
    again = type(fitted)(**json.loads(json.dumps(params_of(fitted))))
    assert again == fitted
    new = Pool.of(Ballots.of(MODELS, [["A", "Z", "Z", None, "A"], ["Z"] * 5, [None] * 5]))
    assert np.array_equal(again.over(new).winner, fitted.over(new).winner)
    assert fitted.over(new).winner.tolist()[1:] == [0, -1]


def test_what_cannot_be_estimated_is_refused():
    """No two answers to any item; too many classes; parameters that fit nothing; not fitted at all."""
    alone = Pool.of(Ballots.of(("a", "b"), [["x", None], [None, "y"]]))
    many = Pool.of(Ballots.of(("a", "b"), [[f"{i}", f"{i}"] for i in range(61)]))
    for strategy, pool, code in [
        (OneCoin(), alone, "fit.items"),
        (DawidSkene(), alone, "fit.items"),
        (DawidSkene(), many, "fit.values"),
    ]:
        with pytest.raises(LLMValidationError) as refused:
            strategy.fit(pool, BLIND)
        assert refused.value.code == code
    for make in (
        lambda: OneCoin(accuracy={"a": 1.5}),
        lambda: OneCoin(options=1),
        lambda: DawidSkene(models=("a",), classes=("x", "y"), prior=(1.0,), confusion=(((1.0,),),)),
    ):
        with pytest.raises(LLMValidationError) as bad:
            make()
        assert bad.value.code == "validation.strategy"
    for strategy in (OneCoin(), DawidSkene()):
        with pytest.raises(LLMValidationError) as early:
            strategy.over(many)
        assert early.value.code == "validation.unfitted"


def test_a_silent_member_is_a_coin_that_says_nothing():
    """It has an accuracy of chance, and its later votes move nothing much."""
    answers = [["A", "A", "B", None] if i % 2 else ["B", "B", "B", None] for i in range(40)]
    fitted = OneCoin(options=4).fit(Pool.of(Ballots.of(MODELS[:4], answers)), BLIND)
    assert fitted.accuracy["d"] == 0.25
    outcome = fitted.over(Pool.of(Ballots.of(MODELS[:4], [["A", None, None, "C"]])))
    assert outcome.winner.tolist() == [0]


@pytest.mark.parametrize("policy", [OneCoin(), DawidSkene()], ids=lambda policy: policy.name)
def test_a_thousand_models_are_fitted_without_looking_at_their_pairs(policy):
    """The warning says so."""
    names = [f"m{j:03}" for j in range(1000)]
    pool = Pool.of(Ballots.of(names, [["x"] * 900 + ["y"] * 100] * 3))
    fitted = policy.fit(pool, np.full((3, 2), np.nan))
    assert "1000 models are too many" in fitted.warning
    assert fitted.over(pool).winner.tolist() == [0, 0, 0]
