"""Calibrated votes: by hand, as log-odds where nothing is claimed, better where claims tell, no worse where not."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.contracts import merge_contract as contract
from tests.decide.strategies.cases import refused
from workbench.decide.calibration import temperature_scale
from workbench.decide.merge import params_of
from workbench.decide.pool import Pool
from workbench.decide.quality import on_other_items
from workbench.decide.strategies.soft import SoftVote
from workbench.decide.strategies.weighted import LogOdds
from workbench.decide.votes import Ballots
from workbench.facts import ModelContribution, Response

NAN = float("nan")
KINDS = ("temperature", "isotonic")


def decided(strategy, *claims):
    """The answer to one item, given by a, b, ... as (answer, quality)."""
    return strategy([
        ModelContribution(
            model=m, answer=a, quality=q, response=Response(request_key="", model=m, text=f"{m} {a}", source="live")
        )
        for m, (a, q) in zip("abcdef", claims, strict=False)
    ])  # fmt: skip


def planted(items, telling, seed=0, accuracies=(0.5, 0.55, 0.6, 0.65, 0.7), options=4):
    """Members that are right as often as they should be, and claim it with a logit twice too large.

    telling: how far an item moves what a member knows; 0 makes the claims idle: drawn without regard to anything.
    """
    chance = np.random.default_rng(seed)
    m = len(accuracies)
    z = np.log(np.array(accuracies) / (1 - np.array(accuracies))) + telling * chance.normal(size=(items, m))
    right = chance.random((items, m)) < 1 / (1 + np.exp(-z))
    said = np.where(right, 0, chance.integers(1, options, (items, m)))
    quality = 1 / (1 + np.exp(-2 * z)) if telling else chance.random((items, m))
    ballots = Ballots.of("abcdef"[:m], [[str(a) for a in row] for row in said], quality=quality)
    return Pool.of(ballots), ballots.values(np.zeros((items, m)), ["0"] * items)


def without_quality(pool):
    return replace(pool, ballots=replace(pool.ballots, quality=np.full(pool.ballots.codes.shape, NAN)))


# --- deciding ---------------------------------------------------------------------------------------------


def test_support_is_the_sum_of_calibrated_log_odds():
    """One sure member, 9 to 1, beats two at 2 to 1 each, whose odds multiply to 4 to 1."""
    strategy = SoftVote(accuracy={"a": 0.5, "b": 0.5, "c": 0.5}, maps={"a": 1.0, "b": 1.0, "c": 1.0})
    merged = decided(strategy, ("x", 0.9), ("y", 2 / 3), ("y", 2 / 3))
    assert (merged.answer, merged.text, merged.strategy) == ("x", "a x", "soft_vote")
    assert merged.agreement == pytest.approx(9 / 13, abs=1e-8)


def test_a_member_without_quality_or_map_has_its_accuracy():
    """a claims nothing and b's claims are not believed: 4 to 1 and 3 to 1, whatever b says."""
    strategy = SoftVote(accuracy={"a": 0.8, "b": 0.75}, maps={"a": 1.0})
    for claim in (0.01, 0.99, None):
        assert decided(strategy, ("x", None), ("y", claim)).agreement == pytest.approx(4 / 7, abs=1e-8)


def test_errors_that_spread_over_more_answers_count_less():
    """With K = 4 a member at 1/2 has odds of 3 to 1 for its answer; two of them that agree have 9 to 1."""
    strategy = SoftVote(accuracy=dict.fromkeys("abc", 0.5), options=4.0)
    assert decided(strategy, ("x", None), ("x", None), ("y", None)).agreement == pytest.approx(9 / 12, abs=1e-8)


def test_a_curve_is_read_at_the_claim():
    """0.4 lies half way from 0.1 to 0.7 on the curve, which is odds of 2 to 3 against 1 to 1."""
    strategy = SoftVote("isotonic", accuracy={"a": 0.9, "b": 0.5}, maps={"a": ((0.2, 0.1), (0.6, 0.7))})
    merged = decided(strategy, ("x", 0.4), ("y", None))
    assert merged.answer == "y"
    assert merged.agreement == pytest.approx(3 / 5, abs=1e-8)


# --- learning ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_without_quality_it_is_log_odds(kind):
    """It has the weights of log_odds and decides every item alike."""
    pool, values = planted(200, telling=0)
    pool = without_quality(pool)
    soft, hard = SoftVote(kind).fit(pool, values), LogOdds().fit(pool, values)
    odds = {m: math.log(p / (1 - p) * (soft.options - 1)) for m, p in soft.accuracy.items()}
    assert odds == pytest.approx(dict(hard.weights))
    assert soft.maps == {}
    assert soft.over(pool).winner.tolist() == hard.over(pool).winner.tolist()
    assert soft.over(pool).agreement == pytest.approx(hard.over(pool).agreement, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_idle_claims_do_not_hurt(kind):
    """On claims that say nothing it stays within half a point of log_odds on new items, in the mean of ten runs."""
    lost = []
    for seed in range(10):
        (pool, values), (new, worth) = planted(100, 0, seed=seed), planted(500, 0, seed=100 + seed)
        soft, hard = (s.fit(pool, values).over(new).scores(worth).mean() for s in (SoftVote(kind), LogOdds()))
        lost.append(hard - soft)
    assert np.mean(lost) < 0.005


@pytest.mark.parametrize("kind", KINDS)
def test_telling_claims_help(kind):
    """Members that know when they are right make more of it than five points against their accuracies alone."""
    (pool, values), (new, worth) = planted(400, 1.0, seed=1), planted(2000, 1.0, seed=2)
    soft, hard = (s.fit(pool, values) for s in (SoftVote(kind), LogOdds()))
    assert sorted(soft.maps) == list("abcde")
    assert soft.over(new).scores(worth).mean() > hard.over(new).scores(worth).mean() + 0.05


def test_the_temperature_planted_is_found():
    """Logits twice too large have T = 2."""
    fitted = SoftVote().fit(*planted(4000, 1.0, seed=3))
    assert list(fitted.maps.values()) == pytest.approx([2.0] * 5, abs=0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_on_other_items_is_no_claim(kind):
    """Accuracy on the other items is lower where this one is right, by its own share; that is not believed."""
    pool, values = planted(300, 0, seed=4)
    scores = np.take_along_axis(values, pool.ballots.codes.astype(np.intp), axis=1)
    pool = replace(pool, ballots=replace(pool.ballots, quality=on_other_items(scores)))
    assert SoftVote(kind).fit(pool, values).maps == {}


def test_few_claims_are_not_believed():
    """Nineteen rated items are too few, however well they tell; twenty are enough."""
    said = [["x"], ["y"]] * 10
    quality = np.array([[0.9], [0.1]] * 10)
    ballots = Ballots.of(["a"], said, quality=quality)
    pool, values = Pool.of(ballots), ballots.values(np.zeros((20, 1)), ["x"] * 20)
    assert list(SoftVote().fit(pool, values).maps) == ["a"]
    assert SoftVote().fit(pool.take(np.arange(19)), values[:19]).maps == {}


def test_a_member_that_never_answered_is_taken_at_a_half():
    """It has odds of 1 to 1, and its errors say nothing about K."""
    ballots = Ballots.of("ab", [["x", None], ["y", None], ["x", None]])
    fitted = SoftVote().fit(Pool.of(ballots), ballots.values(np.zeros((3, 2)), ["x"] * 3))
    assert dict(fitted.accuracy) == pytest.approx({"a": 2.5 / 4, "b": 0.5})
    assert fitted.options == 2.0


def test_answers_of_unknown_value_are_left_out():
    """Half of the labels blanked out: what is learned is learned from the other half alone."""
    pool, values = planted(200, 1.0)
    known = np.arange(200) % 2 == 0
    blank = np.where(known[:, None], values, NAN)
    assert SoftVote().fit(pool, blank) == SoftVote().fit(pool.take(known), values[known])


# --- as a policy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_learned_survives_json(kind):
    """Parameters written as JSON make an equal policy, of equal hash."""
    fitted = SoftVote(kind).fit(*planted(300, 1.0))
    again = SoftVote(**json.loads(json.dumps(params_of(fitted))))
    assert again == fitted
    assert hash(again) == hash(fitted)
    assert fitted.fitted
    assert not SoftVote(kind).fitted


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_items_and_models_does_not_matter(kind):
    """Shuffled items and models teach the same to the last bit."""
    pool, values = planted(120, 1.0)
    rows, columns = np.random.default_rng(0).permutation(120), [3, 0, 4, 1, 2]
    b = pool.ballots
    answers = [[b.answers[i][b.codes[i, j]] for j in columns] for i in rows]
    other = Ballots.of([b.models[j] for j in columns], answers, quality=b.quality[rows][:, columns])
    assert SoftVote(kind).fit(Pool.of(other), values[rows]) == SoftVote(kind).fit(pool, values)


def test_it_refuses_what_it_cannot_use():
    """Unfitted, without labels, on another scale, for other members, and with parameters out of range."""
    pool, values = planted(30, 0)
    refused(lambda: SoftVote().over(pool), "validation.unfitted")
    refused(lambda: SoftVote().fit(pool, np.full(values.shape, NAN)), "fit.items")
    refused(lambda: SoftVote().fit(pool, values * 7), "fit.values")
    refused(lambda: SoftVote(accuracy={"a": 0.5}).over(pool), "validation.weights")
    bad = [
        {"calibration": "platt"},
        {"options": 1.0},
        {"options": NAN},
        {"accuracy": {"a": 1.0}},
        {"maps": {"a": 0.0}},
        {"maps": {"a": ()}},
        {"maps": {"a": ((0.5, 1.0),)}},
    ]
    for params in bad:
        refused(lambda params=params: SoftVote(**params), "validation.strategy")


def test_a_pool_without_items_has_an_outcome_without_items():
    """Nothing is decided where there is nothing to decide."""
    pool, values = planted(30, 1.0)
    assert SoftVote().fit(pool, values).over(pool.take(np.zeros(30, dtype=bool))).winner.shape == (0,)


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_contract_of_a_merge(monkeypatch, check):
    """With members better and worse than chance, one believed by a temperature and one by a curve, it keeps it all."""
    monkeypatch.setattr(contract, "CASES", 100)
    accuracy = dict(zip(contract.MODELS, (0.9, 0.8, 0.7, 0.6, 0.4, 0.2), strict=True))
    maps = {"a:small": 1.5, "c:x": ((0.1, 0.3), (0.8, 0.9))}
    check(lambda weights: SoftVote(accuracy={m: accuracy.get(m, 0.5) for m in weights}, maps=maps, options=3.0))


def test_calibrated_claims_are_those_of_the_map():
    """The odds of a single claim are those of its scaled confidence."""
    strategy = SoftVote(accuracy={"a": 0.5, "b": 0.5}, maps={"a": 3.0})
    p = temperature_scale(np.array([0.95]), 3.0)[0]
    assert decided(strategy, ("x", 0.95), ("y", None)).agreement == pytest.approx(p, abs=1e-8)
