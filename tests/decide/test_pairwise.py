"""Two models at a time: errors that go together, strengths from wins, and a judge that prefers a place."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.decide.answers import extract, infer_kind, options_in
from workbench.decide.pairwise import (
    PairVerdict,
    bradley_terry,
    correlation_warning,
    error_correlation,
    excess_agreement,
    position_swapped,
)
from workbench.errors import LLMValidationError

NAN = math.nan
NAMES = ["a", "b", "c", "d", "e"]
ACCURACY = (0.8, 0.7, 0.65, 0.6, 0.55)


def refused(call, code):
    """The error's code is the expected one, and it says what to do next in 160 characters."""
    with pytest.raises(LLMValidationError) as caught:
        call()
    assert caught.value.code == code
    assert 0 < len(caught.value.next_step) <= 160
    return str(caught.value)


def independent(seed, *, n=1000, k=4, accuracy=ACCURACY):
    """Votes of models that err independently and evenly over k answers."""
    chance = np.random.default_rng(seed)
    wrong = chance.integers(1, k, (n, len(accuracy)))
    return np.where(chance.random((n, len(accuracy))) < accuracy, 0, wrong)


# -- errors that go together


def test_error_correlation_by_hand():
    """Phi of the two-by-two table of errors, over the items where both models are known."""
    correct = np.array([[1, 1, NAN], [1, 0, 1], [0, 0, 0], [0, 0, NAN], [1, 1, 1], [0, 1, 0]])
    # Models 0 and 1 over six items: both wrong 2, only one wrong 1 and 1, both right 2: (2 x 2 - 1 x 1) / 9.
    # Models 0 and 2 over items 1, 2, 4, 5: always alike. Models 1 and 2 there: one item in each cell.
    expected = [[1, 1 / 3, 1], [1 / 3, 1, 0], [1, 0, 1]]
    np.testing.assert_allclose(error_correlation(correct), expected, atol=1e-12)


def test_error_correlation_is_that_of_pearson():
    """On complete tables it equals numpy's correlation coefficient."""
    correct = np.random.default_rng(0).integers(0, 2, (50, 4)).astype(float)
    np.testing.assert_allclose(error_correlation(correct), np.corrcoef(correct.T), atol=1e-12)


def test_a_model_that_never_or_always_errs_correlates_with_nothing():
    """There is no number for it, and no warning of a division."""
    found = error_correlation(np.array([[1, 0, 1], [1, 0, 0], [1, 0, NAN]]))
    assert np.isnan(found[:2]).all()
    assert np.isnan(found[:, :2]).all()
    assert found[2, 2] == 1


def test_correctness_that_is_no_table_of_0_and_1_is_refused():
    """Scores between, and a single column of numbers."""
    refused(lambda: error_correlation(np.array([[0.5, 1.0]])), "validation.correct")
    refused(lambda: error_correlation(np.array([0.0, 1.0])), "validation.shape")


def test_independent_errors_agree_as_expected():
    """Observed and expected agreement are within their standard error of what the planted accuracies make them."""
    found = excess_agreement(independent(1), width=4)
    for a, b in combinations(range(5), 2):
        p, q = ACCURACY[a], ACCURACY[b]
        agreement = p * q + (1 - p) * (1 - q) / 3
        assert abs(found.observed[a, b] - agreement) < 4 * math.sqrt(agreement * (1 - agreement) / 1000)
        assert abs(found.expected[a, b] - agreement) < 0.08
        assert found.items[a, b] == 1000
    assert (np.abs(found.z[~np.eye(5, dtype=bool)]) < 3.5).all()
    assert correlation_warning(NAMES, found) is None
    for table in (found.observed, found.excess, found.z, found.standard_error):
        assert np.array_equal(table, table.T, equal_nan=True)
        assert np.isnan(table.diagonal()).all()


def test_z_has_the_spread_of_a_standard_normal():
    """Over runs with independent errors: mean 0, standard deviation 1, and about 5 % of the runs with a warning."""
    accuracy = tuple(0.5 + 0.05 * j for j in range(8))
    found = [excess_agreement(independent(100 + run, n=300, accuracy=accuracy), width=4) for run in range(40)]
    z = np.array([pairs.z[np.triu_indices(8, 1)] for pairs in found])
    assert abs(z.mean()) < 0.2
    assert 0.85 < z.std() < 1.15  # 0.7 if the accuracies were taken as known
    # 40 runs at 5 %: 7 or more have a probability of 0.3 %.
    assert sum(correlation_warning([str(j) for j in range(8)], pairs) is not None for pairs in found) < 7


def test_the_standard_error_is_the_spread_over_runs():
    """Also where two poor models always agree: over 40 runs the excess varies as each of them says."""
    excess, error = [], []
    for run in range(40):
        votes = independent(500 + run, n=300, k=20, accuracy=(0.9, 0.85, 0.8, 0.3, 0.3))
        votes[:, 4] = votes[:, 3]
        found = excess_agreement(votes, width=20)
        excess.append(found.excess[3, 4])
        error.append(found.standard_error[3, 4])
    # A standard deviation of 40 draws is within 25 % of the true one in 97 % of cases.
    assert 0.75 < np.std(excess) / np.mean(error) < 1.25


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize(("a", "b"), [(0, 1), (3, 4), (1, 4)])
def test_the_pair_that_copies_is_named(share, a, b):
    """Whoever copies whom, on some items or on all, that pair is the one that is named, with the numbers."""
    votes = independent(2)
    copied = np.random.default_rng(3).random(1000) < share
    votes[copied, b] = votes[copied, a]
    found = excess_agreement(votes, width=4)
    text = correlation_warning(NAMES, found)
    assert text is not None
    assert text.startswith(f"{NAMES[a]} and {NAMES[b]} agree on {found.observed[a, b]:.1%} of 1000 items")
    # The z of a level of 5 % over ten pairs is that of 0.5 % on one side.
    assert "of 10 pairs exceed z = 2.58, the limit at 5% over all pairs" in text
    assert found.z[a, b] == np.nanmax(found.z) > 5


def test_answers_of_their_own_and_gaps_are_no_obstacle():
    """Codes numbered within each item, missing votes and a width per item still give the pair away."""
    votes = independent(4, n=1500, k=6)
    votes[::2, 2] = votes[::2, 0]
    chance = np.random.default_rng(5)
    names = chance.permuted(np.tile(np.arange(6), (1500, 1)), axis=1)
    votes = np.take_along_axis(names, votes, axis=1)
    votes[chance.random(votes.shape) < 0.2] = -1
    found = excess_agreement(votes, width=np.full(1500, 6))
    both = (votes[:, 0] >= 0) & (votes[:, 2] >= 0)
    assert found.items[0, 2] == both.sum()
    assert found.observed[0, 2] == pytest.approx((votes[both, 0] == votes[both, 2]).mean())
    assert str(correlation_warning(NAMES, found)).startswith("a and c agree")


def test_models_without_a_common_item_are_not_judged():
    """Their pair has no number, and is not counted among those tested."""
    votes = independent(6)
    votes[:500, 0], votes[500:, 1] = -1, -1
    votes[:, 2] = votes[:, 3]
    found = excess_agreement(votes, width=4)
    assert found.items[0, 1] == 0
    assert np.isnan(found.z[0, 1])
    assert "of 9 pairs exceed" in str(correlation_warning(NAMES, found))


def test_of_four_models_either_pair_may_be_meant():
    """One shared source of errors looks the same from both sides, and the text says so."""
    votes = independent(7, accuracy=ACCURACY[:4])
    votes[:600, 1] = votes[:600, 0]
    text = correlation_warning(NAMES[:4], excess_agreement(votes, width=4))
    assert "(or the other two: four models cannot tell which)" in str(text)


def test_a_model_that_is_never_wrong_leaves_the_others_their_numbers():
    """At accuracy 1 its score is 0 / 0; the standard errors of pairs without that model stay what they were."""
    votes = independent(8)
    votes[:, 0] = 0
    found = excess_agreement(votes, width=4)
    error = found.standard_error[2:, 2:][np.triu_indices(3, 1)]
    assert ((error > 0.005) & (error < 0.03)).all()  # sqrt(0.25 / 1000) = 0.016
    assert correlation_warning(NAMES, found) is None


def test_votes_that_leave_nothing_to_test_are_refused():
    """Three models, a list of codes, too small a width, and names that do not fit."""
    votes = independent(9, n=20)
    refused(lambda: excess_agreement(votes[:, :3], width=4), "validation.models")
    refused(lambda: excess_agreement(votes[:, 0], width=4), "validation.models")
    refused(lambda: excess_agreement(votes, width=1), "validation.width")
    refused(lambda: excess_agreement(votes, width=[4, 4]), "validation.shape")
    refused(lambda: correlation_warning(NAMES[:4], excess_agreement(votes, width=4)), "validation.models")


@pytest.mark.recordings
@pytest.mark.no_cover
@pytest.mark.long
def test_of_twelve_real_models_the_two_of_one_family_are_named(recordings: Path):
    """On MMLU-Pro the votes alone give away that Mistral-7B and Mixtral-8x7B err together."""
    import duckdb

    query = "select item_id, model, prompt, response, reference from read_parquet(?) order by item_id, model"
    rows = duckdb.connect().execute(query, [str(recordings / "mmlu_pro.parquet")]).fetchall()
    names = sorted({row[1] for row in rows})
    answers = [
        extract(response, infer_kind(reference, prompt), options=options_in(prompt))
        for _, _, prompt, response, reference in rows
    ]
    votes = np.array([-1 if answer is None else ord(answer) - ord("A") for answer in answers]).reshape(-1, len(names))
    text = correlation_warning(names, excess_agreement(votes, width=10))
    assert str(text).startswith("Mistral-7B-Instruct-v0.2 and Mixtral-8x7B-Instruct-v0.1 agree on ")


# -- who beats whom


def tournaments(most=6):
    """Win counts in which every model has beaten every other, if through others: a cycle plus anything."""
    sizes = st.integers(2, most)
    return sizes.flatmap(
        lambda k: st.lists(st.integers(0, 9), min_size=k * k, max_size=k * k).map(
            lambda counts: np.array(counts, dtype=float).reshape(k, k) * (1 - np.eye(k)) + np.roll(np.eye(k), 1, axis=1)
        )
    )


def test_two_models_by_hand():
    """3 wins against 1 are odds of 3, half of whose logarithm goes to either side."""
    np.testing.assert_allclose(bradley_terry(np.array([[0, 3], [1, 0]])), [math.log(3) / 2, -math.log(3) / 2])


@given(tournaments())
def test_strengths_are_a_fixed_point_of_the_mm_algorithm(wins):
    """Hunter's update, wins / sum of games / (strength + strength), moves nothing; the mean is 0."""
    strengths = bradley_terry(wins)
    assert strengths.mean() == pytest.approx(0, abs=1e-12)
    e = np.exp(strengths)
    updated = wins.sum(axis=1) / ((wins + wins.T) / (e[:, None] + e)).sum(axis=1)
    np.testing.assert_allclose(np.log(updated) - np.log(updated).mean(), strengths, atol=1e-7)


@given(tournaments(), st.sampled_from([1e-6, 1e-3, 0.5, 20.0]), st.data())
def test_the_penalty_pulls_towards_0(wins, alpha, data):
    """At the strengths the expected wins fall short of the wins by 2 alpha times the strength; no win is needed."""
    if data.draw(st.booleans()):
        wins = np.triu(wins)  # nobody ever beats an earlier model
    strengths = bradley_terry(wins, alpha=alpha)
    p = 1 / (1 + np.exp(strengths - strengths[:, None]))
    short = wins.sum(axis=1) - ((wins + wins.T) * p).sum(axis=1)
    np.testing.assert_allclose(short, 2 * alpha * strengths, atol=1e-6)
    order = data.draw(st.permutations(range(len(wins))))
    np.testing.assert_allclose(bradley_terry(wins[np.ix_(order, order)], alpha=alpha), strengths[order], atol=1e-6)


def test_a_chain_of_few_games_is_solved():
    """Thirty models, each of which won 3 of 5 games against the next: every step is log 1.5."""
    wins = np.diag(np.full(29, 3.0), 1) + np.diag(np.full(29, 2.0), -1)
    np.testing.assert_allclose(-np.diff(bradley_terry(wins)), math.log(1.5), atol=1e-9)


def test_a_step_beyond_the_maximum_is_halved():
    """Where the counts differ by ten orders of magnitude, plain Newton steps run away."""
    wins = np.zeros((6, 6))
    wins[0, [2, 3, 4]] = 531.0, 0.2, 43.4
    wins[1, [3, 4]] = 2434.8, 0.0037
    wins[2, [3, 5]] = 4265.2, 9814.8
    wins[3, [1, 4]] = 0.081, 0.0027
    wins[4, :4] = 30.9, 102.8, 1434.8, 39.9
    wins[5, [1, 2, 4]] = 0.099, 0.0011, 0.0079
    strengths = bradley_terry(wins)
    p = 1 / (1 + np.exp(strengths - strengths[:, None]))
    np.testing.assert_allclose(((wins + wins.T) * p).sum(axis=1), wins.sum(axis=1), rtol=1e-6)


def test_models_that_cannot_be_compared_are_named():
    """Without wins both ways between groups there is no maximum; the groups are named, and alpha ends it."""
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[1, 0] = wins[2, 3] = wins[3, 2] = 1
    wins[0, 2] = 5
    message = refused(lambda: bradley_terry(wins, models=["ada", "bob", "cyd", "dan"]), "validation.comparisons")
    assert "2 groups" in message
    assert "ada, bob" in message
    assert "cyd, dan" in message
    strengths = bradley_terry(wins, alpha=0.01)
    assert strengths[0] > strengths[2]


@pytest.mark.parametrize(
    ("wins", "options", "code"),
    [
        (np.zeros((2, 3)), {}, "validation.wins"),
        (np.zeros((1, 1)), {}, "validation.wins"),
        (np.array([[0, -1], [1, 0]]), {}, "validation.wins"),
        (np.array([[0, NAN], [1, 0]]), {}, "validation.wins"),
        (np.array([[1, 1], [1, 0]]), {}, "validation.wins"),
        (np.array([[0, 1], [1, 0]]), {"alpha": -1.0}, "validation.penalty"),
        (np.array([[0, 1], [1, 0]]), {"alpha": NAN}, "validation.penalty"),
        (np.array([[0, 1], [1, 0]]), {"models": ["a"]}, "validation.models"),
        (np.array([[0, 9], [1, 0]]), {"iterations": 1}, "validation.convergence"),
    ],
)
def test_wins_that_have_no_strengths_are_refused(wins, options, code):
    """By name, and with what to do next."""
    refused(lambda: bradley_terry(wins, **options), code)


# -- verdicts in both orders


def both_orders(first, second, winner, swapped, item_id=""):
    """The verdict on first before second, and the one on second before first."""
    return [
        PairVerdict(first=first, second=second, winner=winner, item_id=item_id),
        PairVerdict(first=second, second=first, winner=swapped, item_id=item_id),
    ]


def test_verdicts_that_change_with_the_order_count_half_to_both():
    """Five games by hand: two that stand, one tie, one that follows the place, one tied in one order alone."""
    verdicts = [
        *both_orders("b", "a", "a", "a", "1"),  # a wins in the second place, then in the first
        *both_orders("a", "b", "b", "b", "2"),
        *both_orders("a", "c", None, None, "1"),
        *both_orders("a", "c", "a", "c", "2"),  # whoever is first
        *both_orders("b", "c", "c", None, "1"),
    ]
    found = position_swapped(verdicts)
    assert found.models == ("a", "b", "c")
    assert found.wins.tolist() == [[0, 1, 1], [1, 0, 0.5], [1, 0.5, 0]]
    assert (found.pairs, found.inconsistent) == (5, 2 / 5)
    # First place wins once in each of the games 1 and 2 and twice in 4; second once in 1, 2 and 5.
    assert (found.first, found.second) == (4 / 10, 3 / 10)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["x", "y", None]), st.sampled_from(["x", "y", None])), min_size=1), st.data())
def test_the_sequence_of_verdicts_does_not_matter(games, data):
    """Every game is counted once, and shuffling the verdicts changes nothing."""
    verdicts = [v for i, (one, two) in enumerate(games) for v in both_orders("x", "y", one, two, str(i))]
    found, shuffled = position_swapped(verdicts), position_swapped(data.draw(st.permutations(verdicts)))
    assert found.wins.sum() == found.pairs == len(games)
    assert found.inconsistent == sum(one != two for one, two in games) / len(games)
    assert found.wins.tolist() == shuffled.wins.tolist()
    assert (found.inconsistent, found.first, found.second) == (
        shuffled.inconsistent, shuffled.first, shuffled.second,
    )  # fmt: skip


def test_a_judge_that_always_takes_the_first_says_nothing():
    """Every game is a draw, all are inconsistent, and so the strengths are equal."""
    found = position_swapped([*both_orders("a", "b", "a", "b", "1"), *both_orders("a", "b", "a", "b", "2")])
    assert (found.inconsistent, found.first, found.second) == (1.0, 1.0, 0.0)
    assert bradley_terry(found.wins).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        ([], "no verdicts"),
        ([PairVerdict(first="a", second="b", winner="a", item_id="7")], "a before b on item 7 is not judged"),
        (both_orders("a", "b", "a", "a") + both_orders("a", "b", "a", "a"), "a before b is judged twice"),
        ([PairVerdict(first="a", second="a", winner="a")], "no winner"),
        (both_orders("a", "b", "c", "a"), "no winner"),
    ],
)
def test_verdicts_that_make_no_games_are_refused(verdicts, words):
    """The message names the verdict that stands alone, twice, or for nobody."""
    assert words in refused(lambda: position_swapped(verdicts), "validation.verdicts")


@pytest.mark.parametrize(
    ("fit", "code"),
    [
        (lambda: bradley_terry(np.array([[0, 5e-324], [1, 0]])), "validation.convergence"),
        (lambda: bradley_terry(np.array([[0, 1e308], [1e308, 0]])), "validation.wins"),
        (lambda: bradley_terry("x"), "validation.wins"),
        (lambda: bradley_terry(np.array([[0, 1], [1, 0]]), alpha=None), "validation.penalty"),
        (lambda: bradley_terry(np.array([[0, 1], [1, 0]]), alpha=1e308), "validation.penalty"),
        (lambda: bradley_terry(np.array([[0, 1], [1, 0]]), models=5), "validation.models"),
        (lambda: bradley_terry(np.array([[0, 1], [1, 0]]), iterations=None), "validation.convergence"),
        (lambda: bradley_terry(np.array([[0, 1], [1, 0]]), tolerance="x"), "validation.convergence"),
        (lambda: position_swapped(None), "validation.verdicts"),
        (lambda: position_swapped([None]), "validation.verdicts"),
        (lambda: position_swapped([PairVerdict(first=[], second="b", winner=None)]), "validation.verdicts"),
        (lambda: error_correlation("x"), "validation.correct"),
    ],
)
def test_what_is_no_table_of_games_is_refused(fit, code):
    """Each with a typed error, also where floats could not tell the strengths."""
    with pytest.raises(LLMValidationError) as error:
        fit()
    assert error.value.code == code


def test_more_pairs_than_can_be_tested_are_refused_at_once():
    """1,000 models would be 499,500 pairs and 1,000 fits."""
    with pytest.raises(LLMValidationError, match="499500 pairs") as error:
        excess_agreement(np.zeros((3, 1000), dtype=int), width=2)
    assert error.value.code == "validation.models"
