"""Selective answers: thresholds by hand, the bound on what is wrong in simulation, and abstentions as responses."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.contracts import merge_contract as contract
from tests.decide.strategies.cases import decided, refused, run_of
from workbench.decide.merge import params_of
from workbench.decide.pool import Pool
from workbench.decide.strategies.selective import (
    NEVER,
    Selective,
    coverage_and_risk,
    risk_coverage_curve,
    safe_threshold,
)
from workbench.decide.votes import Ballots

NAN = float("nan")


def planted(items, seed=0, accuracy=0.8, members=5):
    """Members a, b, ... of equal accuracy with independent errors spread over three answers."""
    chance = np.random.default_rng(seed)
    wrong = chance.integers(1, 4, (items, members))
    said = np.where(chance.random((items, members)) < accuracy, 0, wrong)
    ballots = Ballots.of("abcdef"[:members], [[str(a) for a in row] for row in said])
    return Pool.of(ballots), ballots.values(np.zeros((items, members)), ["0"] * items)


def outcomes(*groups):
    """Confidence and right of groups of (confidence, items, wrong)."""
    confidence = np.concatenate([np.full(items, level) for level, items, _ in groups])
    right = np.concatenate([np.arange(items) >= wrong for _, items, wrong in groups])
    return confidence, right


# --- the threshold ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "wrong", "safe"),
    [
        (22, 0, True),  # 0.9^22 = 0.0985
        (21, 0, False),  # 0.9^21 = 0.1094
        (38, 1, True),  # 0.9^38 + 38 x 0.1 x 0.9^37 = 0.0182 + 0.0770 = 0.0953
        (37, 1, False),  # 0.9^37 + 37 x 0.1 x 0.9^36 = 0.0203 + 0.0834 = 0.1036
        (52, 2, True),  # 0.9^52 + 52 x 0.1 x 0.9^51 + 1326 x 0.01 x 0.9^50 = 0.0042 + 0.0241 + 0.0683 = 0.0966
        (51, 2, False),
    ],
)
def test_so_many_items_with_so_few_errors_are_safe(items, wrong, safe):
    """At risk 0.1 and level 0.9 a threshold is safe where P(Binomial(items, 0.1) <= wrong) is at most 0.1."""
    found = safe_threshold(*outcomes((0.8, items, wrong)), risk=0.1, level=0.9)
    assert found == (0.0 if safe else NEVER)  # all items have the same confidence: one threshold or none


def test_the_lowest_safe_threshold_is_taken():
    """Three answers out of five are safe together with those of more; two of five are not."""
    # At 1, 0.8 and 0.6: 0 of 30, 1 of 60 and 3 of 90 wrong, all far below 0.1; at 0.4: 33 of 120.
    found = safe_threshold(*outcomes((1.0, 30, 0), (0.8, 30, 1), (0.6, 30, 2), (0.4, 30, 30)), risk=0.1, level=0.9)
    assert found == 0.41


def test_testing_ends_with_the_first_threshold_that_fails():
    """At 1 eight of 40 are wrong; that no error is among the 500 below does not bring it back."""
    groups = ((1.0, 40, 8), (0.5, 500, 0))
    assert safe_threshold(*outcomes(*groups), risk=0.1, level=0.9) == NEVER
    assert safe_threshold(*outcomes((1.0, 540, 8)), risk=0.1, level=0.9) == 0.0


def test_thresholds_with_too_few_items_are_passed_over():
    """Five unanimous items could not be called safe without any error, but the forty below can."""
    found = safe_threshold(*outcomes((1.0, 5, 1), (0.8, 40, 0), (0.2, 9, 9)), risk=0.1, level=0.9)
    assert found == 0.21


@pytest.mark.parametrize("unanimous", [0.3, 0.02])
@pytest.mark.parametrize("risk", [0.059, 0.119, 0.195])
def test_what_is_answered_is_wrong_too_often_in_a_tenth_of_the_draws_at_most(unanimous, risk):
    """Of 1000 draws with a known truth, no more than a tenth and chance end with a threshold of more than `risk`."""
    # Shares and errors of the agreements 1, 0.8, 0.6, 0.4. With 0.3: wrong above each 0.02, 0.06, 0.12, 0.196.
    levels = np.array([1.0, 0.8, 0.6, 0.4])
    share = np.array([unanimous, 0.6 - unanimous, 0.2, 0.2])
    error = np.array([0.02, (0.036 - 0.02 * unanimous) / (0.6 - unanimous), 0.3, 0.5])
    truth = np.cumsum(share * error) / np.cumsum(share)
    assert truth[1:] == pytest.approx([0.06, 0.12, 0.196])
    chance = np.random.default_rng(5)
    drawn = chance.choice(4, size=(1000, 300), p=share)
    right = chance.random(drawn.shape) >= error[drawn]
    found = np.array([safe_threshold(levels[d], r, risk=risk, level=0.9) for d, r in zip(drawn, right, strict=True)])
    risks = np.where(found == NEVER, 0.0, truth[np.maximum((levels >= found[:, None] - 1e-9).sum(axis=1) - 1, 0)])
    violated = (risks > risk).mean()
    assert violated <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 1000)
    assert violated > 0.02  # the next threshold errs so little more often that the bound is put to the test


# --- learning ---------------------------------------------------------------------------------------------


def test_what_it_answers_elsewhere_keeps_the_risk():
    """Fitted on one run, it answers a good part of another with few errors, where the vote itself errs too often."""
    (pool, values), (new, worth) = planted(500, seed=1, accuracy=0.65), planted(4000, seed=2, accuracy=0.65)
    fitted = Selective(risk=0.05).fit(pool, values)
    coverage, risk = coverage_and_risk(fitted, new, worth)
    everything = coverage_and_risk(Selective(threshold=0.0), new, worth)
    assert 0.3 < coverage < everything[0]
    assert risk < 0.05 < everything[1]
    assert fitted.reason == "answers 223 of 433 labelled items, 2 of them wrong"


def test_an_unsafe_vote_never_answers_and_says_so():
    """Where even unanimous answers are wrong too often, or too few, nothing is answered, unanimous or not."""
    columns = dict.fromkeys("abc", "x" * 50)
    fitted = Selective(risk=0.1).fit(*run_of(columns, "x" * 30 + "y" * 20))
    assert fitted.threshold == NEVER
    assert fitted.reason == "answers never: no threshold is safe on 50 labelled items, 30 of them right"
    merged = decided(fitted, "x", "x", "x")
    assert (merged.answer, merged.text, merged.tied, merged.agreement, merged.confidence) == (None, "", (), 0.0, 0.0)
    few = Selective().fit(*run_of(dict.fromkeys("abc", "x" * 21), "x" * 21))
    assert few.threshold == NEVER
    assert all(math.isnan(x) or x == 0 for x in coverage_and_risk(few, *run_of(columns, "x" * 50)))


def test_a_single_unknown_value_is_left_out():
    """Items whose winner has no known value are no labels."""
    pool, values = planted(300)
    known = np.arange(300) % 3 > 0
    blank = np.where(known[:, None], values, NAN)
    assert Selective().fit(pool, blank) == Selective().fit(pool.take(known), values[known])


def test_half_right_is_wrong():
    """An answer worth less than 1 counts as an error, so that the bound holds for it as well."""
    pool, values = run_of({"a": "x" * 30, "b": "x" * 30}, "x" * 30)
    assert Selective().fit(pool, values).threshold == 0.0
    assert Selective().fit(pool, values * 0.5).threshold == NEVER


# --- deciding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "answers", "answer"),
    [
        (0.6, "xxxyz", "x"),
        (0.6, "xxxyy", "x"),  # counted in whole units, 3 of 5 is a little less than 0.6
        (0.61, "xxxyy", None),
        (0.0, "xxyyz", None),  # a tie is not sure
        (0.0, "xxyz", "x"),
        (1.0, "xxxxx", "x"),
        (1.0, "xxxxy", None),
        (NEVER, "xxxxx", None),
    ],
)
def test_it_answers_where_agreement_reaches_the_threshold(threshold, answers, answer):
    """Shares at the threshold are enough, ties are not."""
    merged = decided(Selective(threshold=threshold), *answers)
    assert merged.answer == answer
    assert merged.text == ("" if answer is None else f"a {answer}")
    assert len(merged.contributions) == len(answers)


def test_weights_make_the_agreement():
    """a with three fifths of the weight is enough at 0.6 against b and c, who have the other two."""
    strategy = Selective(weights={"a": 3, "b": 1, "c": 1, "d": 0}, threshold=0.6)
    assert decided(strategy, "x", "y", "y", "y").answer == "x"
    merged = decided(strategy, "y", "x", "x", "y")
    assert (merged.answer, merged.text) == ("y", "a y")
    assert Selective(threshold=0.6).over(run_of({"a": "x", "b": "y", "c": "y"}, "x")[0]).winner.tolist() == [1]


def test_coverage_and_risk_are_counted():
    """Of four items two are answered, one of them wrongly; a third, without known value, counts for coverage only."""
    pool, values = run_of({"a": "xyxx", "b": "xyyx", "c": "xyzx"}, "xxxx")
    values[3] = NAN
    assert coverage_and_risk(Selective(threshold=1.0), pool, values) == (0.75, 0.5)
    nothing = pool.take(np.zeros(4, dtype=bool))
    assert all(math.isnan(x) for x in coverage_and_risk(Selective(threshold=1.0), nothing, values[:0]))


def test_the_curve_has_a_point_for_each_confidence():
    """0.9: one, right; 0.7: two more, one wrong; 0.2: one more, wrong."""
    coverage, risk = risk_coverage_curve(np.array([0.7, 0.2, 0.9, 0.7]), np.array([True, False, True, False]))
    assert coverage.tolist() == [0.25, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0.0, 1 / 3, 0.5])
    assert [len(each) for each in risk_coverage_curve(np.array([]), np.array([]))] == [0, 0]


# --- as a policy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, {"a": 2.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 0.5}])
def test_what_it_learned_survives_json(weights):
    """Parameters written as JSON, which knows no infinity, make an equal policy, of equal hash."""
    for risk in (0.1, 1e-6):
        fitted = Selective(weights, risk=risk).fit(*planted(200))
        again = Selective(**json.loads(json.dumps(params_of(fitted), allow_nan=False)))
        assert again == fitted == Selective(weights, risk=risk).fit(*planted(200))
        assert hash(again) == hash(fitted)
        assert fitted.fitted
    assert not Selective(weights).fitted


def test_the_order_of_items_and_models_does_not_matter():
    """Shuffled items and models teach the same."""
    pool, values = planted(200)
    rows, columns = np.random.default_rng(0).permutation(200), [3, 0, 4, 1, 2]
    b = pool.ballots
    answers = [[b.answers[i][b.codes[i, j]] for j in columns] for i in rows]
    other = Pool.of(Ballots.of([b.models[j] for j in columns], answers))
    assert Selective().fit(other, values[rows]) == Selective().fit(pool, values)


def test_it_refuses_what_it_cannot_use():
    """Unfitted, without labels, with ties alone, on another scale, for other members, and with bad parameters."""
    pool, values = planted(30)
    refused(lambda: Selective().over(pool), "validation.unfitted")
    refused(lambda: Selective().fit(pool, np.full(values.shape, NAN)), "fit.items")
    refused(lambda: Selective().fit(*run_of({"a": "xx", "b": "yy"}, "xx")), "fit.items")
    refused(lambda: Selective().fit(pool, values * 7), "fit.values")
    refused(lambda: Selective({"a": 1}).fit(pool, values), "validation.weights")
    refused(lambda: Selective({"a": 0}), "validation.weights")
    for params in ({"risk": 0.0}, {"risk": NAN}, {"level": 1.0}, {"threshold": 1.5}, {"threshold": NAN}):
        refused(lambda params=params: Selective(**params), "validation.strategy")


def test_a_pool_without_items_has_an_outcome_without_items():
    """Nothing is decided where there is nothing to decide."""
    pool, _ = planted(30)
    assert Selective(threshold=0.5).over(pool.take(np.zeros(30, dtype=bool))).winner.shape == (0,)


FITTED = Selective(risk=0.1).fit(*planted(500, seed=1, accuracy=0.6))


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", ["plain", "weighted"])
def test_it_keeps_the_contract_of_a_merge(monkeypatch, kind, check):
    """With a threshold that unanimity reaches, which it learned, it keeps every promise."""
    monkeypatch.setattr(contract, "CASES", 100)
    assert 0.5 < FITTED.threshold < 1
    check(lambda w: Selective(w if kind == "weighted" else None, threshold=FITTED.threshold))


def test_without_a_safe_threshold_it_keeps_all_but_unanimity(monkeypatch):
    """A policy that never answers breaks one promise, that of the unanimous answer, and no other."""
    monkeypatch.setattr(contract, "CASES", 100)
    broken = []
    for check in contract.CHECKS:
        try:
            check(lambda w: Selective(threshold=NEVER))
        except AssertionError:
            broken.append(check.__name__)
    assert broken == ["returns_the_unanimous_answer"]
