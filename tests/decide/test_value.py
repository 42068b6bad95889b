"""What models add: Shapley values against all orders of joining, and worths against votes counted subset by subset."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from workbench.decide.value import (
    coalition_worth,
    cost_of_coalitions,
    latency_of_coalitions,
    leave_one_out,
    shapley,
    vote_entropy,
    votes_of,
)
from workbench.decide.votes import Ballots
from workbench.errors import LLMValidationError

NAN = float("nan")


def over_all_orders(worth: Any) -> list[float]:
    """Mean gain of each model over all orders of joining: the definition, with no formula."""
    m = len(worth).bit_length() - 1
    gained = [0.0] * m
    for order in permutations(range(m)):
        there = 0
        for j in order:
            gained[j] += worth[there | 1 << j] - worth[there]
            there |= 1 << j
    return [g / math.factorial(m) for g in gained]


def over_all_subsets(worth: Any) -> list[float]:
    """Shapley's formula, subset by subset."""
    m = len(worth).bit_length() - 1
    found = []
    for j in range(m):
        total = 0.0
        for s in range(1 << m):
            if not s >> j & 1:
                size = s.bit_count()
                chance = math.factorial(size) * math.factorial(m - size - 1) / math.factorial(m)
                total += chance * (worth[s | 1 << j] - worth[s])
        found.append(total)
    return found


# --- Shapley and leave-one-out --------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6])
def test_shapley_values_are_the_mean_gain_over_all_orders(m: int):
    """They equal the definition for random worths, with a worth of nobody that is not 0."""
    worth = np.random.default_rng(m).normal(size=1 << m)
    assert shapley(worth) == pytest.approx(over_all_orders(worth))


@pytest.mark.parametrize("m", [7, 8, 9, 10])
def test_shapley_values_of_many_models_equal_the_formula_over_subsets(m: int):
    """Up to ten models."""
    worth = np.random.default_rng(m).normal(size=1 << m)
    assert shapley(worth) == pytest.approx(over_all_subsets(worth))


def test_the_glove_game_is_shared_as_in_the_textbook():
    """One left glove (model 2) and two right ones make one pair: the textbook's 1/6, 1/6, 4/6."""
    pairs = {s: float(s >> 2 & 1 and s & 0b011 > 0) for s in range(8)}
    assert shapley(pairs) == pytest.approx([1 / 6, 1 / 6, 4 / 6])


def test_shares_add_up_to_what_all_reach_beyond_nobody():
    """Efficiency, for each row of an array of worths."""
    worth = np.random.default_rng(0).normal(size=(3, 5, 16))
    found = shapley(worth)
    assert found.shape == (3, 5, 4)
    np.testing.assert_allclose(found.sum(axis=-1), worth[..., -1] - worth[..., 0])


def test_the_share_of_a_mean_is_the_mean_of_the_shares():
    """Shapley values are linear: rows may be averaged before or after."""
    worth = np.random.default_rng(1).normal(size=(7, 32))
    np.testing.assert_allclose(shapley(worth).mean(axis=0), shapley(worth.mean(axis=0)))


def test_leave_one_out_is_all_less_all_others():
    """By hand for three models: 10 less 4, 6 and 7."""
    worth = [0.0, 1.0, 2.0, 7.0, 3.0, 6.0, 4.0, 10.0]
    assert leave_one_out(np.array(worth)).tolist() == [6.0, 4.0, 3.0]
    assert leave_one_out(dict(enumerate(worth))).tolist() == [6.0, 4.0, 3.0]


@pytest.mark.parametrize(
    "worth", [{0: 0.0, 2: 1.0}, {0: 0.0}, np.zeros(3), np.zeros(1), np.array(1.0), np.zeros((2, 0))]
)
def test_worths_that_are_not_those_of_all_coalitions_are_refused(worth: Any):
    """A hole in a mapping, and a number of worths that is no power of two from 2."""
    for share in (shapley, leave_one_out):
        with pytest.raises(LLMValidationError, match="worths are not those of") as refused:
            share(worth)
        assert refused.value.code == "validation.coalitions"


def test_more_than_twelve_models_are_refused():
    """Their coalitions are too many; the message says how many models can be."""
    for call in (lambda: shapley(np.zeros(1 << 13)), lambda: cost_of_coalitions(np.zeros(13))):
        with pytest.raises(LLMValidationError, match="13 models") as refused:
            call()
        assert refused.value.code == "validation.models"
        assert "at most 12" in str(refused.value.next_step)


# --- what a vote is worth -------------------------------------------------------------------------------


def vote_of(answers: Any, values: Any, members: Any, nothing: float) -> float:
    """Expected score of the plain vote of some members on one item, by counting."""
    votes = Counter(answers[j] for j in members if answers[j] is not None)
    top = [a for a, n in votes.items() if n == max(votes.values())]
    return sum(values[a] for a in top) / len(top) if top else nothing


def random_ballots(n: int, m: int, seed: int) -> tuple[Ballots, Any, list[list[str | None]]]:
    """Ballots, the value of each answer by code, and the answers themselves."""
    rng = np.random.default_rng(seed)
    answers = [[None if x == 4 else f"answer {x}" for x in row] for row in rng.integers(0, 5, (n, m)).tolist()]
    ballots = Ballots.of([f"model {j:02}" for j in range(m)], answers)
    return ballots, rng.normal(size=(n, ballots.width)), answers


@pytest.mark.parametrize(("n", "m"), [(40, 1), (40, 4), (25, 7), (3, 9)])
def test_the_worth_of_every_coalition_is_that_of_its_votes_counted(n: int, m: int):
    """Every subset on every item, ties by expectation, no answer as `nothing`."""
    ballots, values, answers = random_ballots(n, m, seed=m)
    found = coalition_worth(ballots, values, nothing=-2.5)
    assert found.shape == (n, 1 << m)
    assert (found[:, 0] == -2.5).all()
    for i, row in enumerate(answers):
        worth = {a: values[i, c] for c, a in enumerate(ballots.answers[i])}
        for s in range(1 << m):
            members = [j for j in range(m) if s >> j & 1]
            assert found[i, s] == pytest.approx(vote_of(row, worth, members, -2.5))


def test_a_tie_is_worth_the_mean_of_its_answers_by_hand():
    """a says x, b says y, c says y: {a, b} ties, {a, b, c} is y, and c is not heard where it has no answer."""
    ballots = Ballots.of(["a", "b", "c"], [["x", "y", "y"], ["x", "y", None]])
    values = np.array([[1.0, 0.0], [1.0, 0.0]])
    #                                                -   a    b    ab   c   ac   bc   abc
    assert coalition_worth(ballots, values).tolist() == [
        [0.0, 1.0, 0.0, 0.5, 0.0, 0.5, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.5],
    ]


def test_chosen_coalitions_are_worth_what_they_are_among_all():
    """In the order asked for, twice if asked twice, and also where there are too many models for all."""
    ballots, values, _ = random_ballots(30, 6, seed=0)
    every = coalition_worth(ballots, values)
    np.testing.assert_array_equal(coalition_worth(ballots, values, coalitions=[5, 63, 5]), every[:, [5, 63, 5]])
    many, values, answers = random_ballots(10, 40, seed=1)
    found = coalition_worth(many, values, coalitions=[(1 << 39) + 1])
    for i, row in enumerate(answers):
        worth = {a: values[i, c] for c, a in enumerate(many.answers[i])}
        assert found[i, 0] == pytest.approx(vote_of(row, worth, [0, 39], 0.0))


def test_the_size_of_the_pieces_does_not_matter(monkeypatch: pytest.MonkeyPatch):
    """Items are decided in pieces that fit the cache."""
    ballots, values, _ = random_ballots(50, 5, seed=2)
    whole = coalition_worth(ballots, values)
    for cells in (1, 100):
        monkeypatch.setattr("workbench.decide.value.CELLS", cells)
        np.testing.assert_array_equal(coalition_worth(ballots, values), whole)


def test_an_unknown_value_is_unknown_where_its_answer_wins():
    """It does not spread to coalitions in which another answer wins."""
    ballots = Ballots.of(["a", "b", "c"], [["x", "y", "y"]])
    found = coalition_worth(ballots, np.array([[NAN, 1.0]]))[0]
    assert np.isnan(found).tolist() == [False, True, False, True, False, True, False, False]


def test_values_of_another_shape_are_refused():
    """The message gives both shapes."""
    ballots, values, _ = random_ballots(5, 3, seed=0)
    with pytest.raises(LLMValidationError, match="shape") as refused:
        coalition_worth(ballots, values[:, :1])
    assert refused.value.code == "validation.shape"


@pytest.mark.parametrize("coalitions", [[8], [-1], [[1, 2]]])
def test_coalitions_that_do_not_exist_are_refused(coalitions: Any):
    """Three models have those from 0 to 7."""
    ballots, values, _ = random_ballots(5, 3, seed=0)
    with pytest.raises(LLMValidationError) as refused:
        coalition_worth(ballots, values, coalitions=coalitions)
    assert refused.value.code == "validation.coalitions"


def test_no_coalition_is_no_column():
    """An empty list of coalitions is answered with no worth at all."""
    ballots, values, _ = random_ballots(5, 3, seed=0)
    assert coalition_worth(ballots, values, coalitions=[]).shape == (5, 0)


def test_models_beyond_the_bits_of_a_coalition_are_refused():
    """64 models do not fit a number, whatever is asked of them; 13 only as chosen coalitions."""
    for m, coalitions in ((64, [1]), (13, None)):
        ballots, values, _ = random_ballots(2, m, seed=0)
        with pytest.raises(LLMValidationError) as refused:
            coalition_worth(ballots, values, coalitions=coalitions)
        assert refused.value.code == "validation.models"


# --- cost and latency -----------------------------------------------------------------------------------


def test_costs_add_up_and_are_shared_as_they_arise():
    """A sum is additive: each model's share, alone or last, is its own cost."""
    cost = np.array([[1.0, 2.0, 4.0], [0.5, 0.0, 3.0]])
    worth = cost_of_coalitions(cost)
    assert worth[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_allclose(shapley(worth), cost, atol=1e-12)
    np.testing.assert_allclose(leave_one_out(worth), cost)


def test_the_latency_of_a_coalition_is_its_slowest_member():
    """Against the maximum of every subset."""
    latency = np.random.default_rng(0).uniform(100, 900, size=(6, 5))
    worth = latency_of_coalitions(latency)
    for s in range(1, 32):
        members = [j for j in range(5) if s >> j & 1]
        np.testing.assert_array_equal(worth[:, s], latency[:, members].max(axis=1))
    assert (worth[:, 0] == 0).all()


def test_latency_is_shared_as_the_airport_game():
    """Everyone who is slower shares each stretch of time equally (Littlechild & Owen 1973)."""
    latency = np.array([300.0, 100.0, 700.0, 450.0])
    # 100 ms by four, 200 more by three, 150 more by two, 250 more by the slowest alone.
    expected = [25 + 200 / 3, 25, 25 + 200 / 3 + 75 + 250, 25 + 200 / 3 + 75]
    assert shapley(latency_of_coalitions(latency)) == pytest.approx(expected)
    assert leave_one_out(latency_of_coalitions(latency)).tolist() == [0, 0, 250, 0]


def test_what_is_unknown_stays_unknown():
    """A coalition with a member of unknown cost or latency has none."""
    for grow in (cost_of_coalitions, latency_of_coalitions):
        assert np.isnan(grow(np.array([1.0, NAN]))).tolist() == [False, False, True, True]


# --- how divided votes are ------------------------------------------------------------------------------


def test_vote_entropy_is_that_of_the_shares_of_the_answers():
    """By hand: 2 to 1, 1 to 1, unanimity, one voter, nobody."""
    codes = np.array([[0, 0, 1], [0, 1, -1], [0, 0, 0], [-1, 0, -1], [-1, -1, -1]], dtype=np.int32)
    two_to_one = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert vote_entropy(codes) == pytest.approx([two_to_one, math.log(2), 0, 0, 0], abs=1e-12)
    assert votes_of(codes).tolist() == [[2, 1], [1, 1], [3, 0], [1, 0], [0, 0]]


def test_equal_splits_have_equal_entropy_to_the_last_bit():
    """Which answer has how many votes does not matter, so that ties can be broken by position."""
    codes = np.array([[0, 0, 0, 1, 1, 2], [2, 1, 1, 0, 0, 0], [0, 1, 1, 1, 2, 2]], dtype=np.int32)
    assert len(set(vote_entropy(codes).tolist())) == 1
