"""Learned weights: log-odds and stacking by hand, below even odds, with copies, and with members that are not there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.decide.strategies.cases import decided, refused, run_of
from workbench.decide.learn import ridge, supporters
from workbench.decide.pool import Pool
from workbench.decide.strategies.weighted import LogOdds, Stacking
from workbench.decide.votes import Ballots

NAN = float("nan")
BOTH = [LogOdds, Stacking]


# Gold is x on eight items. a is right on 7, b on 5, c on 2; b is silent once.
RIGHT = {
    "a": ["x", "x", "x", "x", "x", "x", "x", "y"],
    "b": ["x", "x", "x", "x", "x", "y", None, "y"],
    "c": ["x", "x", "y", "y", "z", "y", "z", "y"],
}
GOLD = ["x"] * 8


# --- log-odds -------------------------------------------------------------------------------------------


def test_log_odds_weights_are_those_of_a_hand_calculation():
    """p = (7.5 / 9, 5.5 / 8, 2.5 / 9), and all four pairs of wrong answers are equal, so that K = 1 + 5 / 5."""
    # Wrong pairs: b and c on the sixth item (y, y); a, b and c on the last (y, y, y), which makes three.
    fitted = LogOdds().fit(*run_of(RIGHT, GOLD))
    odds = {"a": 7.5 / 1.5, "b": 5.5 / 2.5, "c": 2.5 / 6.5}
    assert dict(fitted.weights) == pytest.approx({model: math.log(x) for model, x in odds.items()})


def test_agreement_is_the_probability_that_independent_errors_give_an_answer():
    """Of two answers with log-odds 2 log 3 and log 3 the first is right at 3 to 1; one of three members is mute."""
    strategy = LogOdds({"a": math.log(9), "b": math.log(3), "c": 5.0})
    merged = decided(strategy, "x", "y", None)
    assert (merged.answer, merged.text, merged.strategy) == ("x", "a x", "log_odds")
    assert merged.agreement == pytest.approx(3 / 4, abs=1e-8)
    assert merged.confidence == pytest.approx(3 / 4 * 2 / 3, abs=1e-8)


@pytest.mark.parametrize("kind", BOTH)
def test_equal_sums_of_weights_are_a_tie(kind):
    """0.1 + 0.2 and 0.3 differ in the last bit and tie all the same; the answer is the first in sorted order."""
    merged = decided(kind({"a": 0.1, "b": 0.2, "c": 0.3}), "y", "y", "x")
    assert (merged.answer, merged.tied) == ("x", ("x", "y"))
    assert merged.agreement == 0.5


@pytest.mark.parametrize("kind", BOTH)
def test_a_negative_weight_speaks_against_its_answer(kind):
    """It takes away from those who say the same, loses to silence on another answer, and wins alone."""
    strategy = kind({"a": 1.0, "b": -2.0, "c": -0.5})
    assert decided(strategy, "x", "x", "y").answer == "y"  # -1 against -0.5
    assert decided(strategy, None, "x", "y").answer == "y"
    assert decided(strategy, None, "x", None).answer == "x"


def test_a_member_below_chance_has_a_negative_weight():
    """Of two answers, being right on 1 of 9 tells where the right one is not."""
    columns = {"a": ["x"] * 8 + ["y"], "b": ["y"] * 8 + ["x"]}
    fitted = LogOdds().fit(*run_of(columns, ["x"] * 9))
    assert fitted.weights["b"] == pytest.approx(math.log(1.5 / 8.5))
    assert decided(fitted, "y", "x").answer == "y"


def wide(accuracies, options, items, seed=0):
    """Independent members with these accuracies, whose errors spread over the other options."""
    chance = np.random.default_rng(seed)
    gold = chance.integers(0, options, items)
    columns = {}
    for j, accuracy in enumerate(accuracies):
        wrong = (gold + chance.integers(1, options, items)) % options
        said = np.where(chance.random(items) < accuracy, gold, wrong)
        columns["abcdefgh"[j]] = [str(a) for a in said]
    return columns, [str(g) for g in gold]


@pytest.mark.parametrize("kind", BOTH)
def test_members_right_less_than_half_of_the_time_still_vote(kind):
    """Five members of 30 % over ten answers, all better than a guess: every item is decided, and better than by one."""
    columns, gold = wide([0.3] * 5, 10, 600)
    pool, values = run_of(columns, gold)
    fitted = kind().fit(pool.take(np.arange(300)), values[:300])
    assert all(weight > 0 for weight in fitted.weights.values())
    outcome = fitted.over(pool.take(np.arange(300, 600)))
    assert (outcome.winner >= 0).all()
    alone = max(np.mean([a == g for a, g in zip(column, gold, strict=True)]) for column in columns.values())
    assert outcome.scores(values[300:]).mean() > alone + 0.05


@pytest.mark.parametrize("kind", BOTH)
def test_members_all_below_chance_still_vote(kind):
    """Of two answers three members are right on 40 %: no weight is positive, and the rarer answer of each item wins."""
    columns, gold = wide([0.4] * 3, 2, 400)
    pool, values = run_of(columns, gold)
    fitted = kind().fit(pool, values)
    assert all(weight < 0 for weight in fitted.weights.values())
    outcome = fitted.over(pool)
    assert (outcome.winner >= 0).all()
    # The answer of one against two, or of all three where they agree.
    rarer = [min(row, key=lambda a: (row.count(a), a)) for row in zip(*columns.values(), strict=True)]
    assert [found[w] for found, w in zip(pool.ballots.answers, outcome.winner, strict=True)] == rarer


def test_items_of_unknown_value_teach_nothing():
    """Answers nobody has judged count neither as right nor, two alike, as wrong: the fit is that of the rest."""
    columns, gold = wide([0.8, 0.7, 0.6], 4, 200)
    pool, values = run_of(columns, gold)
    for kind in BOTH:
        known = kind().fit(pool.take(np.arange(60)), values[:60])
        some = values.copy()
        some[60:] = NAN
        assert dict(kind().fit(pool, some).weights) == pytest.approx(dict(known.weights)), kind.name


def test_a_second_right_answer_is_not_a_wrong_one():
    """Where two answers are worth 1, giving the second is no error: without equal errors K stays what it is."""
    ballots = Ballots.of(["a", "b", "c"], [["x", "y", "y"]] * 4)
    fitted = LogOdds().fit(Pool.of(ballots), np.ones((4, 2)))
    # All right on 4 of 4: p = 4.5 / 5; no errors, so K = 2.
    assert dict(fitted.weights) == pytest.approx(dict.fromkeys("abc", math.log(9)))


def test_graded_values_within_the_unit_interval_are_shares_of_being_right():
    """Worth 1, 0.5 and 0 on three items is 1.5 of 3."""
    ballots = Ballots.of(["a"], [["x"], ["x"], ["x"]])
    fitted = LogOdds().fit(Pool.of(ballots), np.array([[1.0], [0.5], [0.0]]))
    assert fitted.weights["a"] == pytest.approx(math.log(2 / 2))  # p = (1.5 + 0.5) / 4, K = 2


# --- stacking -------------------------------------------------------------------------------------------


def test_stacking_weights_stand_where_slope_and_penalty_are_equal():
    """a is right and b wrong on 15 of 20 items: by symmetry b = -a, and 15 - 20 p = 3 a with p = 1 / (1 + exp(-2a))."""
    columns = {"a": ["x"] * 15 + ["y"] * 5, "b": ["y"] * 15 + ["x"] * 5}
    weights = Stacking().fit(*run_of(columns, ["x"] * 20)).weights
    assert weights["b"] == pytest.approx(-weights["a"])
    assert 15 - 20 / (1 + math.exp(-2 * weights["a"])) == pytest.approx(3 * weights["a"], abs=1e-6)


def copies():
    """Independent x and z, right on 75 % and 55 %, and y with its copy on 70 %, of two answers."""
    columns, gold = wide([0.75, 0.7, 0.55], 2, 600, seed=1)
    return {"x": columns["a"], "y1": columns["b"], "y2": columns["b"], "z": columns["c"]}, gold


def test_copies_count_twice_in_log_odds_and_share_one_vote_in_stacking():
    """Two copies of a weaker model outvote the stronger one by log-odds; stacking learns that they are one voice."""
    columns, gold = copies()
    pool, values = run_of(columns, gold)
    odds, stacked = LogOdds().fit(pool, values).weights, Stacking().fit(pool, values).weights
    assert odds["y1"] == odds["y2"] < odds["x"] < odds["y1"] + odds["y2"]
    assert stacked["y1"] == pytest.approx(stacked["y2"])
    assert 0 < stacked["y1"] + stacked["y2"] < stacked["x"]
    said = ["1", "0", "0", None]  # x against both copies
    assert decided(LogOdds(odds), *said, models=sorted(columns)).answer == "0"
    assert decided(Stacking(stacked), *said, models=sorted(columns)).answer == "1"


def test_copies_have_together_the_weight_of_one():
    """Next to no penalty leaves the same function of the sum of both weights as of the one."""
    columns, gold = copies()
    two = Stacking(penalty=1e-7).fit(*run_of(columns, gold)).weights
    del columns["y2"]
    one = Stacking(penalty=1e-7).fit(*run_of(columns, gold)).weights
    assert two["y1"] + two["y2"] == pytest.approx(one["y1"], abs=1e-5)
    assert {m: two[m] for m in "xz"} == pytest.approx({m: one[m] for m in "xz"}, abs=1e-5)


def test_a_larger_penalty_holds_weights_closer_to_0():
    """Weights shrink as the penalty grows, towards none at all."""
    data = run_of(RIGHT, GOLD)
    sizes = [max(map(abs, Stacking(penalty=p).fit(*data).weights.values())) for p in (0.1, 3.0, 100.0, 1e9)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1e-6


def test_ratings_are_fitted_by_ridge_regression():
    """Scores of another scale give the ridge weights of who gave the answer; the better rated member wins."""
    ballots = Ballots.of(["a", "b", "c"], [["p", "q", "r"], ["p", "q", "q"], ["s", None, "t"], ["u", "u", None]])
    values = ballots.values(np.array([[-1.0, -4, -9], [-2, -5, -5], [-3, NAN, -8], [-1, -1, NAN]]))
    pool = Pool.of(ballots)
    fitted = Stacking(penalty=2.0).fit(pool, values)
    here = pool.present & ~np.isnan(values)
    expected = ridge(supporters(ballots), here, np.where(here, values, 0.0), 2.0)
    assert dict(fitted.weights) == pytest.approx(dict(zip("abc", expected, strict=True)))
    assert fitted.weights["a"] > fitted.weights["b"] > fitted.weights["c"]
    assert decided(fitted, "1", "2", "3").answer == "1"


def test_ratings_that_are_all_0_or_1_are_labels():
    """They are fitted as right or wrong, wherever they come from: half of them, as ratings, would weigh half."""
    pool, values = run_of(RIGHT, GOLD)
    labels = Stacking().fit(pool, values).weights
    ratings = Stacking().fit(pool, values * 2).weights
    assert dict(labels) != pytest.approx(dict(ratings))
    assert dict(ratings) == pytest.approx({m: 4 * w for m, w in Stacking().fit(pool, values / 2).weights.items()})


@pytest.mark.parametrize("penalty", [0, -1.0, NAN, float("inf")])
def test_a_penalty_is_a_positive_number(penalty):
    """Without a penalty separable labels would have no maximum."""
    assert repr(penalty) in refused(lambda: Stacking(penalty=penalty), "validation.penalty").message


# --- both -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
def test_nothing_known_teaches_nothing(kind):
    """Without items, answers or values there is nothing to learn from, and the refusal says what was found."""
    silent = Ballots.of(["a", "b"], [[None, None]] * 3)
    unknown = Ballots.of(["a", "b"], [["x", "y"]] * 3)
    for ballots, values in (
        (Ballots.of(["a", "b"], []), np.zeros((0, 1))),
        (silent, np.zeros((3, 1))),
        (unknown, np.full((3, 2), NAN)),
    ):
        assert kind.name in refused(lambda: kind().fit(Pool.of(ballots), values), "fit.items").message  # noqa: B023


def test_stacking_needs_two_answers_to_compare():
    """One answer of known value competes with none."""
    ballots = Ballots.of(["a", "b"], [["x", None]])
    assert "1 answers" in refused(lambda: Stacking().fit(Pool.of(ballots), np.ones((1, 1))), "fit.items").message


def test_log_odds_refuse_ratings():
    """A rating of 4 is neither right nor wrong."""
    pool, values = run_of(RIGHT, GOLD)
    assert "stacking" in refused(lambda: LogOdds().fit(pool, values * 4), "fit.values").next_step


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("models", "named"), [("ab", "'c'"), ("abcd", "leave out d"), ("abx", "'c'")], ids=["missing", "strange", "renamed"]
)
def test_members_that_the_weights_do_not_fit_are_refused(kind, models, named):
    """A member left out of the run and one that was not fitted are named, for one item and for many."""
    strategy = kind({"a": 1.0, "b": 0.5, "c": -1.0})
    pool = Pool.of(Ballots.of(list(models), [["x"] * len(models)]))
    for ask in (lambda: strategy.over(pool), lambda: decided(strategy, *"xxxx", models=models)):
        assert named in refused(ask, "validation.weights").message


@pytest.mark.parametrize("kind", BOTH)
def test_without_weights_nothing_is_decided(kind):
    """An unfitted vote names itself."""
    pool, values = run_of(RIGHT, GOLD)
    assert (kind().fitted, kind().fit(pool, values).fitted) == (False, True)
    assert kind.name in refused(lambda: kind().over(pool), "validation.unfitted").message


@pytest.mark.parametrize("kind", BOTH)
def test_weights_are_kept_as_given(kind):
    """They are checked once, and change neither with the mapping they came from nor by hand."""
    mine = {"a": 1, "b": -2.5}
    strategy = kind(mine)
    mine["a"] = 9
    assert dict(strategy.weights) == {"a": 1.0, "b": -2.5}
    with pytest.raises(TypeError):
        strategy.weights["a"] = 9
    refused(lambda: kind({"a": NAN}), "validation.weights")


@pytest.mark.parametrize("kind", BOTH)
def test_a_fit_does_not_look_at_the_order_of_items(kind):
    """Items in another order give the same weights."""
    pool, values = run_of(RIGHT, GOLD)
    order = np.array([5, 2, 7, 0, 1, 6, 3, 4])
    other = kind().fit(pool.take(order), values[order])
    assert dict(other.weights) == pytest.approx(dict(kind().fit(pool, values).weights))


@pytest.mark.parametrize("kind", BOTH)
def test_huge_weights_decide_as_large_ones(kind):
    """Sums beyond the range of numbers are no error: the larger wins, and the largest two tie."""
    huge = kind({"a": 1.7e308, "b": 1.7e308, "c": -1.7e308})
    assert decided(huge, "x", "x", "y").answer == "x"
    assert decided(huge, "x", "y", "y").answer == "x"
    assert decided(huge, "x", "y", None).tied == ("x", "y")
