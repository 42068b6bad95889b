"""The best single model: how it is ranked, who answers in its place, and whose response is given."""

from __future__ import annotations

import json

import numpy as np
import pytest

from workbench.decide.merge import params_of
from workbench.decide.pool import Pool
from workbench.decide.strategies.single import BestSingle
from workbench.decide.votes import Ballots
from workbench.errors import LLMValidationError
from workbench.facts import ModelContribution, Response

NAN = float("nan")


def fitted(models, answers, values):
    """The ranking of a small run."""
    ballots = Ballots.of(models, answers)
    return BestSingle().fit(Pool.of(ballots), np.array(values, dtype=float)).ranking


def said(model, answer, quality=None):
    response = Response(request_key="", model=model, text=f"{model}: {answer}", source="live")
    return ModelContribution(model=model, answer=answer, response=response, quality=quality)


def refused(make, code):
    with pytest.raises(LLMValidationError) as caught:
        make()
    assert caught.value.code == code
    return caught.value


# --- the ranking ----------------------------------------------------------------------------------------


def test_members_are_ranked_by_what_their_answers_are_worth():
    """c is right on 3 of 3, a on 2, b on 1; equals are ranked by name."""
    answers = [["x", "y", "x"], ["x", "y", "x"], ["y", "x", "x"]]
    assert fitted(["a", "b", "c"], answers, [[1, 0]] * 3) == ("c", "a", "b")
    assert fitted(["b", "a"], [["x", "x"], ["y", "y"]], [[1], [0]]) == ("a", "b")


def test_no_answer_is_a_wrong_answer():
    """Right on 2 of 3 with one silence is behind right on 3 of 3, and level with 2 of 3 and an error."""
    answers = [["x", "x", "x"], ["x", "x", "x"], [None, "x", "y"]]
    assert fitted(["a", "b", "c"], answers, [[1, 0]] * 3) == ("b", "a", "c")


def test_no_answer_is_worth_the_worst_rating_where_ratings_are_negative():
    """Silence is not worth 0 where 0 is the best: -2 and silence (-9) is behind -4 and -5."""
    answers = [["p", "q", "r"], [None, "s", "t"]]
    # a: (-2 - 9) / 2, b: (-4 - 5) / 2, c: (-9 - 1) / 2
    assert fitted(["a", "b", "c"], answers, [[-2, -4, -9], [-5, -1, NAN]]) == ("b", "c", "a")


def test_no_answer_is_worth_the_worst_rating_where_ratings_are_positive():
    """As a comparison judges it: 5 and silence (2) is ahead of 4 and 2, and behind 4 and 4."""
    assert fitted(["a", "b"], [["p", "q"], [None, "s"]], [[5, 4], [2, NAN]]) == ("a", "b")
    assert fitted(["a", "b", "c"], [["p", "q", "r"], [None, "s", "t"]], [[5, 4, 2], [4, 4, NAN]]) == ("b", "a", "c")


def test_no_answer_is_worth_nothing_where_values_are_shares():
    """Within [0, 1] silence is 0, not the least share: 0.9 and silence is behind 0.5 and 0.5."""
    assert fitted(["a", "b"], [["p", "q"], [None, "s"]], [[0.9, 0.5], [0.5, NAN]]) == ("b", "a")


def test_an_answer_of_unknown_value_is_no_silence():
    """Nobody judged a's second answer: its mean is that of the first, while b's second was bad."""
    assert fitted(["a", "b"], [["p", "q"], ["r", "s"]], [[0.6, 0.7], [NAN, 0.3]]) == ("a", "b")
    # Of c nothing is known at all: it ranks as one that is never right.
    assert fitted(["a", "b", "c"], [["p", "q", "r"]], [[0.4, 0.0, NAN]]) == ("a", "b", "c")


def test_items_of_unknown_value_do_not_count():
    """Silence where nobody knows the right answer is not held against a member."""
    answers = [["x", "y"], [None, "y"], [None, "y"]]
    assert fitted(["a", "b"], answers, [[1, 0], [NAN, NAN], [NAN, NAN]]) == ("a", "b")


@pytest.mark.parametrize("values", [np.zeros((0, 1)), np.full((2, 2), NAN)], ids=["no items", "unknown"])
def test_nothing_known_ranks_nobody(values):
    """Without a known value there is nothing to rank by."""
    ballots = Ballots.of(["a", "b"], [["x", "y"]] * len(values))
    assert "best_single" in refused(lambda: BestSingle().fit(Pool.of(ballots), values), "fit.items").message


# --- the decision ---------------------------------------------------------------------------------------


def test_the_next_best_answers_where_the_best_has_none():
    """c is followed first, then a, then b; where nobody answers nothing is decided."""
    answers = [["1", "2", "3"], ["1", "2", None], [None, "2", None], [None, None, None]]
    pool = Pool.of(Ballots.of(["a", "b", "c"], answers))
    outcome = BestSingle(("c", "a", "b")).over(pool)
    won = [found[w] if w >= 0 else None for found, w in zip(pool.ballots.answers, outcome.winner, strict=True)]
    assert won == ["3", "1", "2", None]
    assert outcome.agreement.tolist() == [1, 1, 1, 0]
    assert outcome.confidence.tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert outcome.tied.sum(axis=1).tolist() == [1, 1, 1, 0]


def test_the_response_given_is_its_own():
    """Others may say the same in other words, and better rated ones: the best single model's own text is given."""
    strategy = BestSingle(("b", "a", "c"))
    parts = [said("a", "x", 0.9), said("b", "x", 0.1), said("c", "y", 1.0)]
    assert strategy(parts).text == "b: x"
    assert strategy([parts[0], said("b", None), parts[2]]).text == "a: x"
    outcome = strategy.over(Pool.one(parts))
    assert outcome.chosen.tolist() == [[False, True, False]]


def test_a_ranking_survives_json():
    """A list, as JSON gives it back, is the same ranking."""
    strategy = BestSingle(("b", "a"))
    assert BestSingle(**json.loads(json.dumps(params_of(strategy)))) == strategy
    assert BestSingle(["b", "a"]).ranking == ("b", "a")


@pytest.mark.parametrize("ranking", [(), ("a", "b", "a")], ids=["nobody", "twice"])
def test_a_ranking_names_each_member_once(ranking):
    """An empty ranking could follow nobody."""
    refused(lambda: BestSingle(ranking), "validation.models")


@pytest.mark.parametrize("models", [["a"], ["a", "b", "c"], ["a", "x"]], ids=["missing", "more", "renamed"])
def test_members_that_were_not_ranked_are_refused(models):
    """It is not known where they would stand."""
    pool = Pool.of(Ballots.of(models, [["x"] * len(models)]))
    refused(lambda: BestSingle(("b", "a")).over(pool), "validation.weights")


def test_without_a_ranking_nobody_is_followed():
    """An unfitted policy refuses by name."""
    pool = Pool.of(Ballots.of(["a"], [["x"]]))
    assert "best_single" in refused(lambda: BestSingle().over(pool), "validation.unfitted").message
    assert (BestSingle().fitted, BestSingle(("a",)).fitted) == (False, True)
