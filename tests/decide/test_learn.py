"""Linear models over the answers of an item, against a general optimiser, least squares and hand calculations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from workbench.decide import learn
from workbench.decide.learn import (
    all_known,
    check_fractions,
    competence,
    conditional_logit,
    effective_options,
    gold_codes,
    log_odds,
    ridge,
    supporters,
    worth_of_members,
    worth_of_nothing,
)
from workbench.decide.policies import POLICIES
from workbench.decide.pool import Learner, Pool
from workbench.decide.votes import Ballots
from workbench.errors import LLMValidationError

NAN = float("nan")
BALLOTS = Ballots.of(["a", "b", "c"], [["x", "y", "x"], ["y", None, "y"], [None, None, None]])
TWO = Pool.of(Ballots.of(["a", "b"], [["x", "y"]]))  # one item with two answers
LEARNERS = [
    made()
    for name, made in POLICIES.items()
    if isinstance(made(), Learner) and name not in ("one_coin", "dawid_skene")  # these do not look at values
]


# --- what is read from ballots and values ---------------------------------------------------------------


def test_supporters_are_those_who_gave_the_answer():
    """1 for every member at the code of its own answer, 0 elsewhere."""
    assert supporters(BALLOTS).tolist() == [
        [[1, 0, 1], [0, 1, 0]],  # x by a and c, y by b
        [[1, 0, 1], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0]],
    ]


def test_a_members_answer_is_worth_what_its_code_is():
    """NaN where it gave none, and where nobody knows."""
    values = np.array([[1.0, 0.0], [NAN, 0.0], [7.0, 7.0]])
    expected = [[1.0, 0.0, 1.0], [NAN, NAN, NAN], [NAN, NAN, NAN]]
    assert np.array_equal(worth_of_members(BALLOTS, values), expected, equal_nan=True)


@pytest.mark.parametrize(
    ("values", "nothing"), [([0.4, NAN, 1.0], 0.0), ([0.0], 0.0), ([2.0, 5.0], 2.0), ([-9.0, NAN, 0.0], -9.0)]
)
def test_no_answer_is_worth_0_among_shares_and_else_the_least(values, nothing):
    """Where 0 is the best there is, or not on the scale, silence must not be worth it."""
    assert worth_of_nothing(np.array([values])) == nothing


def test_the_gold_code_is_that_of_the_first_right_answer():
    """-1 where no answer given is right, and where nobody knows."""
    values = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.5], [NAN, NAN], [NAN, 1.0]])
    assert gold_codes(values).tolist() == [1, 0, -1, -1, 1]


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.5, NAN], [NAN, NAN]])
def test_shares_of_being_right_pass(values):
    """What lies in [0, 1] or is unknown is read as right or wrong."""
    check_fractions("log_odds", TWO, np.array([values]))


@pytest.mark.parametrize("values", [[0.0, 5.0], [-1.0, NAN]])
def test_values_of_another_scale_are_refused(values):
    """The refusal names the strategy and the range that was found."""
    with pytest.raises(LLMValidationError, match="log_odds reads values as right or wrong") as caught:
        check_fractions("log_odds", TWO, np.array([values]))
    assert caught.value.code == "fit.values"
    assert f"{np.nanmin(values):g} to {np.nanmax(values):g}" in caught.value.message


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.array([[np.inf, 0.0]]), "beyond 1e+100"),
        (np.array([[-1e101, 0.0]]), "beyond 1e+100"),
        (np.zeros((1, 3)), "float64 of shape (1, 3)"),
        (np.zeros(2), "float64 of shape (2,)"),
        (np.array([["0", "1"]]), "<U1 of shape (1, 2)"),
        ([[0.0, 1.0]], "a list"),
        (None, "a NoneType"),
    ],
)
@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner.name)
def test_what_are_no_values_of_the_pool_is_refused_by_every_learner(learner, values, found):
    """One finite number, or NaN, for each answer of each item; anything else is named."""
    with pytest.raises(LLMValidationError) as caught:
        learner.fit(TWO, values)
    assert caught.value.code == "fit.values"
    assert found in caught.value.message


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner.name)
def test_what_is_no_pool_teaches_nothing(learner):
    """Ballots alone are not enough."""
    with pytest.raises(LLMValidationError, match="is fitted on a pool, and found a Ballots") as caught:
        learner.fit(BALLOTS, np.zeros((1, 2)))
    assert caught.value.code == "fit.values"


# --- log-odds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "options", "odds"),
    [(0.7, 2, 7 / 3), (0.7, 10, 9 * 7 / 3), (0.5, 2, 1.0), (0.05, 10, 9 / 19), (0.9, 3, 2 * 9)],
)
def test_log_odds_are_those_of_a_hand_calculation(p, options, odds):
    """log(p (K - 1) / (1 - p))."""
    assert log_odds(np.array([p]), options).tolist() == [pytest.approx(math.log(odds), abs=1e-12)]


def test_log_odds_change_sign_at_chance():
    """With K = 10 a member right in 1 of 10 counts about nothing, below that against its answer, above for it."""
    found = log_odds(np.array([0.005, 0.05, 0.1, 0.15, 0.5]), 10.0)
    assert (np.sign(np.round(found, 12)) == [-1, -1, 0, 1, 1]).all()
    assert (np.diff(found) > 0).all()


def test_competence_is_the_share_right_of_the_answers_of_known_value():
    """Half an answer more is right and half an answer more is wrong: (1 + 1/2) / (1 + 1) and the like."""
    values = np.array([[1.0, 0.0], [NAN, NAN], [0.0, 0.0]])
    p, options = competence("log_odds", Pool.of(BALLOTS), values)
    # On the first item a and c are right and b is wrong; the second is unknown, and nobody answers the third.
    assert (p.tolist(), options) == ([0.75, 0.25, 0.75], 2.0)
    with pytest.raises(LLMValidationError) as caught:
        competence("log_odds", Pool.of(BALLOTS), np.full((3, 2), NAN))
    assert caught.value.code == "fit.items"


def test_items_count_as_known_where_all_their_answers_are():
    """One without any answer, and one with an answer of unknown value, do not."""
    assert all_known(Pool.of(BALLOTS), np.array([[1.0, 0.0], [1.0, NAN], [0.0, 0.0]])).tolist() == [0, 1]
    assert all_known(Pool.of(BALLOTS), np.array([[1.0, NAN], [0.0, 0.0], [0.0, 0.0]])).tolist() == [1]


def test_the_number_of_options_is_that_of_a_hand_count():
    """Of four pairs of wrong answers to one item one is equal: with one equal pair added, K = 1 + 5 / 2."""
    codes = np.array([[0, 1, 1, 2], [1, 2, 0, -1], [0, 0, 0, 0], [-1, -1, 3, -1]], dtype=np.int32)
    # Gold 0, 0, 0, none. Wrong pairs: (1, 1), (1, 2), (1, 2) in the first item, (1, 2) in the second.
    assert effective_options(codes, np.array([0, 0, 0, -1])) == pytest.approx(1 + 5 / 2)


@pytest.mark.parametrize("codes", [[[-1, -1]], [[0, 0]], [[0, -1]]], ids=["no answers", "all right", "alone"])
def test_without_two_wrong_answers_there_are_two_options(codes):
    """Where nothing can be counted K is 2: right or wrong."""
    assert effective_options(np.array(codes, dtype=np.int32), np.array([0])) == 2.0
    assert effective_options(np.zeros((0, 2), dtype=np.int32), np.zeros(0, dtype=np.intp)) == 2.0


@pytest.mark.parametrize("options", [2, 4, 10])
def test_the_options_of_planted_errors_are_found(options):
    """Errors that spread evenly over the wrong answers of K give K back, within 5 %."""
    chance = np.random.default_rng(options)
    gold = chance.integers(0, options, 4000)
    wrong = (gold[:, None] + chance.integers(1, options, (4000, 4))) % options
    codes = np.where(chance.random((4000, 4)) < 0.4, gold[:, None], wrong).astype(np.int32)
    # Two wrong answers of K - 1 are equal with probability 1 / (K - 1).
    assert effective_options(codes, gold) == pytest.approx(options, rel=0.05)


# --- the conditional logit ------------------------------------------------------------------------------


def loss(features, present, values, penalty):
    """The penalised negative log-likelihood, item by item and answer by answer."""

    def at(weights):
        total = penalty / 2 * sum(w * w for w in weights)
        for x, here, worth in zip(features, present, values, strict=True):
            scores = [float(x[c] @ weights) for c in range(len(x)) if here[c]]
            right = [float(x[c] @ weights) for c in range(len(x)) if here[c] and worth[c] == 1]
            if 0 < len(right) < len(scores):
                total -= np.logaddexp.reduce(right) - np.logaddexp.reduce(scores)
        return total

    return at


def slow(features, present, values, penalty):
    """The weights a general optimiser finds, from several starts."""
    at = loss(features, present, values, penalty)
    width = features.shape[2]
    starts = [np.zeros(width), *np.random.default_rng(9).normal(size=(3, width))]
    found = [minimize(at, start, method="BFGS", options={"gtol": 1e-8}) for start in starts]
    return min(found, key=lambda r: r.fun).x


def drawn(seed, *, right, items=25, width=4, count=3, scale=1.0):
    """Random features, answers that are there, and `right` right ones among the codes of each item."""
    chance = np.random.default_rng(seed)
    features = chance.normal(size=(items, width, count)) * scale
    values = np.zeros((items, width))
    likely = features @ np.linspace(1, -1, count) + chance.gumbel(size=(items, width))
    np.put_along_axis(values, np.argsort(-likely, axis=1)[:, :right], 1.0, axis=1)
    return features, chance.random((items, width)) < 0.85, values


@pytest.mark.parametrize("penalty", [0.1, 3.0])
@pytest.mark.parametrize("right", [1, 2, 3])
def test_the_conditional_logit_is_where_a_general_optimiser_ends(right, penalty):
    """Weights agree to 1e-6 where one, and where several answers of an item are right."""
    data = drawn(0, right=right)
    assert conditional_logit(*data, penalty) == pytest.approx(slow(*data, penalty), abs=1e-6)


def test_many_right_answers_do_not_keep_the_maximum_out_of_reach():
    """With one wrong answer of twenty the function is far from concave; the slope at the end is still 0."""
    data = drawn(3, right=19, items=60, width=20)
    at, found = loss(*data, 0.01), conditional_logit(*data, 0.01)
    slope = [(at(found + d) - at(found - d)) / 2e-5 for d in np.eye(3) * 1e-5]
    assert slope == pytest.approx([0, 0, 0], abs=1e-4)
    assert at(found) < at(np.zeros(3))


def test_supporters_as_features_have_a_closed_form_for_one_member():
    """One member against the rest, right on 7 of 9 pairs, without penalty: its log-odds, log(7 / 2)."""
    features = np.zeros((9, 2, 1))
    features[:, 0, 0] = 1.0
    values = np.array([[1.0, 0.0]] * 7 + [[0.0, 1.0]] * 2)
    found = conditional_logit(features, np.ones((9, 2), dtype=bool), values, 1e-12)
    assert found == pytest.approx([math.log(7 / 2)], abs=1e-6)


def test_separable_data_give_finite_weights():
    """A member that is always right would have infinite weight; the penalty holds it where slope and pull are equal."""
    features = np.zeros((20, 2, 2))
    features[:, 0, 0] = features[:, 1, 1] = 1.0
    values = np.tile([1.0, 0.0], (20, 1))
    a, b = conditional_logit(features, np.ones((20, 2), dtype=bool), values, 3.0)
    # The slope in a is 20 (1 - p) - 3 a, with p = 1 / (1 + exp(b - a)); b is -a by symmetry.
    assert b == pytest.approx(-a)
    assert 20 * (1 - 1 / (1 + math.exp(-2 * a))) == pytest.approx(3 * a)
    tiny = conditional_logit(features, np.ones((20, 2), dtype=bool), values, 1e-10)
    assert np.isfinite(tiny).all()
    assert tiny[0] > 8


@pytest.mark.parametrize("scale", [1e-8, 1e3, 1e6, 1e100])
def test_extreme_features_give_finite_weights(scale):
    """Features of any size, whether they tell the right answer or nothing, never give NaN, infinity or a warning."""
    features, present, values = drawn(0, right=1, scale=scale)
    assert np.isfinite(conditional_logit(features, present, values, 3.0)).all()
    features[..., 0] = values * scale
    assert np.isfinite(conditional_logit(features, present, values, 3.0)).all()


def test_a_step_too_far_is_taken_back():
    """From a start far off, where the function is nearly straight, Newton's steps are halved until they climb."""
    features = np.array([[[0.0], [1.0]]] * 30 + [[[1.0], [0.0]]] * 10)
    values = np.tile([0.0, 1.0], (40, 1))
    present = np.ones((40, 2), dtype=bool)
    near = conditional_logit(features, present, values, 1e-3)
    far = conditional_logit(features, present, values, 1e-3, start=np.array([-12.0]))
    assert near == pytest.approx([math.log(3)], abs=1e-3)  # 30 to 10, hardly held back
    assert far == pytest.approx(near, abs=1e-6)


def test_items_that_cannot_tell_say_nothing():
    """Items without a right answer, with nothing but right ones, or with one answer alone change no weight."""
    features, present, values = drawn(1, right=1)
    before = conditional_logit(features, present, values, 3.0)
    more = np.random.default_rng(2).normal(size=(4, 4, 3)) * 10
    there = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    worth = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]], dtype=float)
    after = conditional_logit(
        np.concatenate([features, more]), np.concatenate([present, there]), np.concatenate([values, worth]), 3.0
    )
    assert after == pytest.approx(before, abs=1e-12)
    assert conditional_logit(more, there, worth, 3.0).tolist() == [0.0, 0.0, 0.0]


def test_what_is_the_same_for_all_answers_of_an_item_has_no_influence():
    """A constant added to the features of an item, such as how hard it is, moves nothing."""
    features, present, values = drawn(4, right=1)
    shifted = features + np.random.default_rng(5).normal(size=(25, 1, 3)) * 5
    assert conditional_logit(shifted, present, values, 1.0) == pytest.approx(
        conditional_logit(features, present, values, 1.0), abs=1e-6
    )


def test_many_features_are_fitted_as_few():
    """Beyond WIDE features another method finds the same weights as Newton's."""
    data = drawn(6, right=1, items=40, count=learn.WIDE + 6)
    wide = conditional_logit(*data, 3.0)
    # The slope of the penalised log-likelihood, by hand.
    features, present, values = data
    slope = -3.0 * wide
    for x, here, worth in zip(features, present, values, strict=True):
        if 0 < (here & (worth == 1)).sum() < here.sum():
            share = np.where(here, np.exp(x @ wide), 0.0)
            slope = slope + x[here & (worth == 1)].sum(axis=0) - share @ x / share.sum()
    assert np.abs(slope).max() < 1e-3
    few = (features[..., :5], present, values)
    assert learn._climbed(
        few[0][_telling(few)], present[_telling(few)], (present & (values == 1))[_telling(few)], np.zeros(5), 3.0
    ) == pytest.approx(conditional_logit(*few, 3.0), abs=1e-4)


def _telling(data):
    _, present, values = data
    right = (present & (values == 1)).sum(axis=1)
    return (right > 0) & (right < present.sum(axis=1))


# --- ridge ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.01, 3.0])
def test_ridge_solves_the_augmented_least_squares(penalty):
    """Least squares over the centred answers and sqrt(penalty) rows of the identity gives the same weights."""
    chance = np.random.default_rng(7)
    features, present = chance.normal(size=(30, 4, 3)), chance.random((30, 4)) < 0.7
    values = features @ [2.0, -1.0, 0.0] + chance.normal(size=(30, 4)) - 40
    rows, targets = [], []
    for x, here, worth in zip(features, present, values, strict=True):
        for c in np.flatnonzero(here):
            rows.append(x[c] - x[here].mean(axis=0))
            targets.append(worth[c] - worth[here].mean())
    augmented = np.vstack([*rows, math.sqrt(penalty) * np.eye(3)])
    expected, *_ = np.linalg.lstsq(augmented, np.array([*targets, 0, 0, 0]), rcond=None)
    assert ridge(features, present, values, penalty) == pytest.approx(expected, abs=1e-9)


def test_ridge_weights_scale_with_the_scores_and_forget_where_they_start():
    """Scores times 100, plus anything that is the same for one item, give weights times 100."""
    features, present, values = drawn(8, right=2)
    level = np.random.default_rng(1).normal(size=(25, 1)) * 30
    assert ridge(features, present, values * 100 + level, 3.0) == pytest.approx(
        100 * ridge(features, present, values, 3.0)
    )


def test_ridge_without_a_difference_has_no_weights():
    """Items with one answer, or none, and items of equal answers leave every weight at 0."""
    features = np.random.default_rng(0).normal(size=(3, 2, 2))
    present = np.array([[1, 0], [0, 0], [1, 1]], dtype=bool)
    assert ridge(features, present, np.array([[5.0, 0], [0, 0], [2, 2]]), 3.0).tolist() == [0.0, 0.0]
