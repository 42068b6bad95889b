"""Scoring many weight vectors: the winners, ties and scores of the vote itself, from patterns instead of items."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workbench.decide import reweigh
from workbench.decide.merge import WeightedConsensus
from workbench.decide.reweigh import Landscape, simplex
from workbench.decide.votes import Ballots, decide
from workbench.errors import LLMValidationError

NAMES = ["m:1", "m:10", "m:2", "M:1", "é:x", "a", "b", "c"]
ANSWERS = ["10", "9", "", "yes", "é", None]
UNIT = 1e-9  # of decide/weights.py, where the largest weight is 1

weight = st.one_of(
    st.sampled_from([0.0, 1, 2, 3, 0.1, 0.2, 0.3, 1 / 3, 2 / 3, 1e-9, 1e-12, 5e-324, 1e-300, 1e9, 1e300, 1.7e308]),
    st.integers(0, 12).map(lambda k: 0.5 + k * UNIT),  # differences at which rounding to units decides
    st.floats(0, 1e6),
)


@st.composite
def runs(draw, weights=weight):
    """Ballots of some models and items, and a weight for every model."""
    models = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=8, unique=True))
    m, n = len(models), draw(st.integers(1, 4))
    alphabet = draw(st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=6))
    answers = draw(st.lists(st.lists(st.sampled_from(alphabet), min_size=m, max_size=m), min_size=n, max_size=n))
    failed = draw(st.lists(st.lists(st.integers(0, 9), min_size=m, max_size=m), min_size=n, max_size=n))
    given_weights = draw(st.lists(weights, min_size=m, max_size=m).filter(any))
    return models, answers, np.array(failed) == 0, dict(zip(models, given_weights, strict=True))


def telling(ballots):
    """Values whose mean over a set of answers tells the set: with at most 9 answers no digit carries over."""
    return np.tile(10.0 ** np.arange(ballots.width), (len(ballots.codes), 1))


@settings(max_examples=150, deadline=None)
@given(runs())
@example((["a", "b", "c"], [["9", "10", "10"]], np.zeros((1, 3), bool), {"a": 2 / 3, "b": 1 / 3, "c": 1 / 3}))
@example((["a", "b"], [["9", None], [None, "9"]], np.zeros((2, 2), bool), {"a": 1.7e308, "b": 5e-324}))
@example((["a", "b", "c"], [["9", "10", None]], np.zeros((1, 3), bool), {"a": 0.5, "b": 0.5 + 3 * UNIT, "c": 1.0}))
@example((["a", "b"], [[None, None]], np.ones((1, 2), bool), {"a": 1.0, "b": 0.0}))
def test_every_item_has_the_winners_of_the_vote(run):
    """Alone in a landscape, an item scores the mean over exactly the answers that votes.decide finds tied."""
    models, answers, failed, weights = run
    ballots = Ballots.of(models, answers, failed=failed)
    values = telling(ballots)
    outcome = decide(WeightedConsensus(weights), ballots)
    expected = outcome.scores(values, missing=-1.0)
    for i in range(len(answers)):
        landscape = Landscape.of(ballots, values, rows=np.array([i]), missing=-1.0)
        assert landscape.score(weights) == pytest.approx(expected[i], rel=1e-12, abs=0)
        assert landscape.tie_share(weights) == float(outcome.tied[i].sum() > 1)


@settings(max_examples=75, deadline=None)
@given(runs(), st.data())
def test_a_run_scores_the_mean_over_its_items(run, data):
    """With values of any kind, the items of a pattern share what they are worth and lose nothing."""
    models, answers, failed, weights = run
    ballots = Ballots.of(models, answers, failed=failed)
    cells = data.draw(st.lists(st.floats(-9, 9), min_size=len(answers), max_size=len(answers)))
    values = np.outer(cells, 1 + np.arange(ballots.width))
    rows = np.array(data.draw(st.lists(st.integers(0, len(answers) - 1), min_size=1, max_size=12)))
    outcome = decide(WeightedConsensus(weights), ballots)
    landscape = Landscape.of(ballots, values, rows=rows, missing=0.25)
    assert landscape.score(weights) == pytest.approx(outcome.scores(values, missing=0.25)[rows].mean(), abs=1e-12)
    assert landscape.tie_share(weights) == pytest.approx((outcome.tied.sum(axis=1) > 1)[rows].mean(), abs=1e-12)


@settings(max_examples=75, deadline=None)
@given(runs(st.integers(0, 40)), st.sampled_from([1, 7, 0.1, 1 / 3, 1e-200, 1e300]))
def test_whole_weights_tie_exactly_where_their_sums_are_equal(run, factor):
    """The winners of whole weights are those of counting on paper, in whatever unit the weights are given."""
    models, answers, _, weights = run
    ballots = Ballots.of(models, answers)
    expected = []
    for i, row in enumerate(answers):
        support = Counter()
        for model, answer in zip(models, row, strict=True):
            if answer is not None:
                support[answer] += Fraction(weights[model])
        best = max(support.values(), default=0)
        won = [10.0 ** ballots.answers[i].index(a) for a, s in support.items() if s == best > 0]
        expected.append(sum(won) / len(won) if won else 0.0)
    landscape = Landscape.of(ballots, telling(ballots))
    scaled = {model: w * factor for model, w in weights.items()}
    assert landscape.score(scaled) == pytest.approx(sum(expected) / len(expected), rel=1e-12, abs=0)


@pytest.mark.parametrize("cells", [1, 40, reweigh.CELLS])
@pytest.mark.parametrize("models", [1, 2, 7, 25])
def test_many_vectors_at_once_score_as_one_by_one(models, cells, monkeypatch):
    """Scores do not depend on the parts in which patterns and vectors are worked on, nor on the number of models."""
    rng = np.random.default_rng(models)
    answers = [[None if a > 4 else "abcde"[a] for a in row] for row in rng.integers(0, 6, (50, models)).tolist()]
    ballots = Ballots.of([f"m{j:02}" for j in range(models)], answers)
    values = rng.random((50, ballots.width))
    weights = np.vstack([rng.dirichlet(np.ones(models), 20), rng.integers(0, 4, (20, models)), np.ones(models)])
    weights = weights[weights.any(axis=1)]
    monkeypatch.setattr(reweigh, "CELLS", cells)
    landscape = Landscape.of(ballots, values, missing=0.5)
    expected = [
        decide(WeightedConsensus(dict(zip(ballots.models, w, strict=True))), ballots).scores(values, missing=0.5).mean()
        for w in weights.tolist()
    ]
    np.testing.assert_allclose(landscape.scores(weights), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose([landscape.score(w) for w in weights], expected, rtol=0, atol=1e-12)


def test_memory_does_not_grow_with_the_vectors():
    """4,000 vectors over 400 patterns of up to 5 answers stay below 8 MB, where all at once would take over 50."""
    answers = [["abcde"[a] for a in row] for row in np.random.default_rng(0).integers(0, 5, (400, 8)).tolist()]
    ballots = Ballots.of([f"m{j}" for j in range(8)], answers)
    landscape = Landscape.of(ballots, telling(ballots))
    weights = np.random.default_rng(1).random((4000, 8))
    tracemalloc.start()
    try:
        landscape.scores(weights)
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("models", [3, 6])
def test_supports_some_units_apart_tie_as_in_the_vote(models):
    """Around one unit per member, where floats and rounded units disagree, the units decide."""
    rng = np.random.default_rng(0)
    ballots = Ballots.of([f"m{j}" for j in range(models)], [[*"xy"] * (models // 2) + ["z"] * (models % 2)])
    values = telling(ballots)
    level = rng.choice([0.25, 1 / 3, 0.5, 1.0], (1500, models // 2))
    weights = np.column_stack([level.repeat(2, axis=1), np.full((1500, models % 2), 0.125)])
    weights += rng.uniform(-models, models, weights.shape) * UNIT
    found = Landscape.of(ballots, values).scores(weights)
    expected = [
        float(decide(WeightedConsensus(dict(zip(ballots.models, w, strict=True))), ballots).scores(values)[0])
        for w in weights.tolist()
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert {1.0, 5.5, 10.0} == set(expected)  # x, a tie of x and y, y


def test_the_first_of_seventy_models_still_counts():
    """Items and blocks that differ in the first of many models alone are told apart."""
    names, others = [f"m{j:02}" for j in range(70)], ["a"] * 69
    ballots = Ballots.of(names, [["a", *others], ["b", *others], [None, *others]])
    landscape = Landscape.of(ballots, np.array([[1.0, 0.0], [10.0, 100.0], [1000.0, 0.0]]))
    assert landscape.score([100] + [1] * 69) == (1 + 100 + 1000) / 3  # on the second item 100 against 69
    assert landscape.score([68] + [1] * 69) == (1 + 10 + 1000) / 3
    assert sum(len(p.codes) for p in landscape.patterns) == 3


def test_items_that_agree_alike_are_one_pattern():
    """What the answers say plays no part, only who agrees with whom: aab, xxy and bba are one pattern."""
    ballots = Ballots.of(["m", "n", "o"], [["a", "a", "b"], ["x", "x", "y"], ["b", "b", "a"], ["b", "a", "a"]])
    landscape = Landscape.of(ballots, ballots.values(np.zeros((4, 3)), ["a", "x", "a", "b"]))
    (patterns,) = landscape.patterns
    assert sorted(zip(patterns.codes.tolist(), patterns.counts.tolist(), patterns.worth.T.tolist(), strict=True)) == [
        ([0, 0, 1], 3, [2, 1]),  # a and x are right where two agree, a of bba where one stands alone
        ([0, 1, 1], 1, [1, 0]),
    ]
    assert landscape.score([1, 1, 1]) == 0.5  # 2 of 4
    assert landscape.score([5, 1, 1]) == 0.75  # the first model is followed: right on items 0, 1 and 3


def test_scores_by_hand():
    """Ties score their mean, an item without a winner what `missing` says, and a vote of weight 0 is none."""
    ballots = Ballots.of(["m", "n"], [["a", "b"], [None, "b"], [None, None]])
    values = np.array([[1.0, 0.25], [0.75, np.nan], [np.nan, np.nan]])
    landscape = Landscape.of(ballots, values, missing=-3.0)
    assert landscape.score({"n": 2, "m": 2}) == ((1 + 0.25) / 2 + 0.75 - 3) / 3
    assert landscape.score({"n": 1, "m": 2}) == (1 + 0.75 - 3) / 3
    assert landscape.score({"n": 0, "m": 2}) == (1 - 3 - 3) / 3
    assert landscape.tie_share([1, 1]) == 1 / 3
    assert Landscape.of(ballots, values).score([1, 1]) == ((1 + 0.25) / 2 + 0.75) / 3


def test_a_run_without_any_answer_scores_what_is_missing():
    """Where nobody answers, every vector scores the same and nothing is tied."""
    ballots = Ballots.of(["m", "n"], [[None, None], ["a", "a"]], failed=np.array([[False, False], [True, True]]))
    landscape = Landscape.of(ballots, np.zeros((2, 1)), missing=0.25)
    assert landscape.patterns == ()
    assert landscape.scores(np.array([[1, 0], [1, 1]])).tolist() == [0.25, 0.25]
    assert landscape.tie_share([1, 1]) == 0.0


def test_rows_are_a_mask_or_an_index():
    """A landscape of some items is that of the ballots with only these items."""
    ballots = Ballots.of(["m", "n"], [["a", "b"], ["a", "a"], ["b", "a"]])
    values = ballots.values(np.zeros((3, 2)), ["a", "b", "b"])
    assert Landscape.of(ballots, values, rows=np.array([True, False, True])).score([2, 1]) == 1.0
    assert Landscape.of(ballots, values, rows=np.array([0, 1])).score([2, 1]) == 0.5
    assert Landscape.of(ballots, values, rows=np.array([1, 1, 0])).score([2, 1]) == pytest.approx(1 / 3)


# --- grids ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("models", "steps"), [(1, 3), (2, 4), (3, 5), (4, 3)])
def test_a_grid_holds_every_vector_once(models, steps):
    """The grid is what filtering all combinations of whole steps leaves, in the same order."""
    expected = [np.array(c) / steps for c in product(range(steps + 1), repeat=models) if sum(c) == steps]
    assert np.array_equal(simplex(models, 1 / steps), expected)


def test_five_models_at_a_twentieth_make_10626_vectors():
    """24 over 4, the figure of the goal; each sums to 1."""
    grid = simplex(5, 0.05)
    assert grid.shape == (10_626, 5)
    np.testing.assert_allclose(grid.sum(axis=1), 1, rtol=0, atol=1e-15)


def test_a_landscape_over_its_grid_by_hand():
    """Two models that disagree: the heavier one is followed, in the middle half of the score is left."""
    ballots = Ballots.of(["m", "n"], [["a", "b"]])
    grid, scores = Landscape.of(ballots, ballots.values(np.zeros((1, 2)), ["b"])).score_simplex(0.25)
    assert grid[:, 1].tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert scores.tolist() == [1, 1, 0.5, 0, 0]


def test_ties_on_a_grid_are_those_of_whole_numbers():
    """0.1 + 0.2 and 0.3 tie: a third vote of a tenth decides, however the sums come out in floats."""
    ballots = Ballots.of(["m", "n", "o", "p"], [["a", "a", "b", "c"]])
    grid, scores = Landscape.of(ballots, telling(ballots)).score_simplex(0.1)
    for row, score in zip(np.rint(grid * 10).astype(int).tolist(), scores.tolist(), strict=True):
        support = {1: row[0] + row[1], 10: row[2], 100: row[3]}
        won = [value for value, s in support.items() if s == max(support.values())]
        assert score == pytest.approx(sum(won) / len(won), rel=1e-12)


# --- refusals -------------------------------------------------------------------------------------------


def _small():
    ballots = Ballots.of(["m", "n"], [["a", "b"], ["a", None]])
    return ballots, np.zeros((2, 2))


@pytest.mark.parametrize(
    ("weights", "code", "said"),
    [
        ([1, 2, 3], "validation.shape", r"shape \(1, 3\) for 2 models"),
        (3.0, "validation.shape", r"shape \(1,\) for 2 models"),
        ([1, -1], "validation.weights", "weight of 'n' is -1"),
        ([float("nan"), 1], "validation.weights", "weight of 'm' is nan"),
        ([1, float("inf")], "validation.weights", "weight of 'n' is inf"),
        ([0, 0], "validation.weights", "all 2 weights are zero"),
        (["x", 1], "validation.weights", "not numbers"),
        ({"m": 1}, "validation.weights", "leave out n"),
        ({"m": 1, "n": "x"}, "validation.weights", "weight of 'n' is 'x'"),
    ],
)
def test_unusable_weights_are_refused_by_name(weights, code, said):
    """The error says which weight is wrong."""
    landscape = Landscape.of(*_small())
    for method in (landscape.score, landscape.tie_share):
        with pytest.raises(LLMValidationError, match=said) as error:
            method(weights)
        assert error.value.code == code


def test_one_bad_vector_among_many_is_refused():
    """The error is about the vector that is wrong."""
    with pytest.raises(LLMValidationError, match="weight of 'n' is -2") as error:
        Landscape.of(*_small()).scores(np.array([[1.0, 1.0], [1.0, -2.0]]))
    assert error.value.code == "validation.weights"


def test_no_vectors_have_no_scores():
    """A table of no rows gives no scores."""
    assert Landscape.of(*_small()).scores(np.zeros((0, 2))).shape == (0,)


def test_unknown_values_are_refused_unless_nobody_gave_the_answer():
    """An answer without a value is an error, a column without an answer is none."""
    ballots, values = _small()
    values[1, 1] = np.nan
    assert Landscape.of(ballots, values).score([1, 1]) == 0.0
    values[1, 0] = np.nan
    with pytest.raises(LLMValidationError, match="1 of 2 items have an answer without a finite value") as error:
        Landscape.of(ballots, values)
    assert error.value.code == "validation.values"
    assert Landscape.of(ballots, values, rows=np.array([0])).items == 1


def test_a_missing_score_is_a_finite_number():
    """NaN for items without a winner would be NaN for all."""
    with pytest.raises(LLMValidationError, match="would score nan") as error:
        Landscape.of(*_small(), missing=float("nan"))
    assert error.value.code == "validation.values"


def test_misshapen_values_and_no_items_are_refused():
    """Values must fit the ballots, and a mean needs an item."""
    ballots, values = _small()
    with pytest.raises(LLMValidationError, match=r"values have the shape \(2, 1\), the ballots \(2, 2\)") as error:
        Landscape.of(ballots, values[:, :1])
    assert error.value.code == "validation.shape"
    with pytest.raises(LLMValidationError, match="none of 2 items is kept") as error:
        Landscape.of(ballots, values, rows=np.zeros(2, dtype=bool))
    assert error.value.code == "validation.shape"


@pytest.mark.parametrize("step", [0.0, -0.5, 0.3, 1.5, float("nan"), float("inf"), 5e-324])
def test_a_step_that_does_not_part_1_is_refused(step):
    """Only 1 divided by a whole number makes a grid."""
    with pytest.raises(LLMValidationError, match="does not part 1") as error:
        simplex(3, step)
    assert error.value.code == "validation.step"


def test_a_grid_beyond_memory_is_refused():
    """16 models at a twentieth would be 3,247,943,160 vectors (35 over 15)."""
    with pytest.raises(LLMValidationError, match="make 3247943160 vectors") as error:
        simplex(16, 0.05)
    assert error.value.code == "validation.step"


def test_a_grid_needs_a_model():
    """No models, no weights."""
    with pytest.raises(LLMValidationError, match="0 models") as error:
        simplex(0, 0.5)
    assert error.value.code == "validation.models"


@pytest.mark.parametrize(
    ("models", "step", "code"),
    [
        (1000, 0.5, "validation.step"),  # 500,500 vectors of 1,000 weights are 4 GB
        (10**6, 1e-6, "validation.step"),  # the number of vectors alone takes minutes to count
        (10**30, 0.5, "validation.models"),
        (2.5, 0.5, "validation.models"),
        (3, None, "validation.step"),
        (3, float("nan"), "validation.step"),
    ],
)
def test_a_grid_that_no_memory_holds_is_refused_at_once(models, step, code):
    """By the numbers in it, and not by the vectors alone."""
    with pytest.raises(LLMValidationError) as error:
        simplex(models, step)
    assert error.value.code == code


@pytest.mark.parametrize("values", [np.array([[1e308, -1e308]]), np.array([["a", "b"]]), [[1.0, 0.0]], None])
def test_values_that_cannot_be_added_up_are_refused(values):
    """The sum over items would leave the range of floats."""
    with pytest.raises(LLMValidationError) as error:
        Landscape.of(Ballots.of(["a", "b"], [["x", "y"]]), values)
    assert error.value.code in ("validation.values", "validation.shape")
