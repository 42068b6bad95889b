"""Quality estimates: right, and blind to the item under decision."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus
from workbench.decide.quality import on_other_items, ranks
from workbench.decide.votes import Ballots, decide

NAN = float("nan")


def tables(cell, *, rows=(1, 8), columns=(1, 6)):
    """Arrays of items x models."""
    shapes = st.tuples(st.integers(*rows), st.integers(*columns))
    return shapes.flatmap(
        lambda shape: st.lists(
            st.lists(cell, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
        ).map(np.array)
    )


zero_one = st.sampled_from([0.0, 1.0, 1.0, NAN])
shares = st.one_of(st.just(NAN), st.sampled_from([0.1, 0.2, 0.3, 0.7]), st.floats(0, 1))
ratings = st.one_of(st.just(NAN), st.integers(-3, 3).map(float), st.floats(-50, 50))


def mean_elsewhere(scores, i, j):
    """The definition, one cell at a time."""
    others = [scores[k][j] for k in range(len(scores)) if k != i and not math.isnan(scores[k][j])]
    return math.fsum(others) / len(others) if others else NAN


def rank_within(row, j):
    """Share of the other known scores that lie below, an equal one counting half."""
    if math.isnan(row[j]):
        return NAN
    others = [x for k, x in enumerate(row) if k != j and not math.isnan(x)]
    return sum(1.0 if x < row[j] else 0.5 if x == row[j] else 0.0 for x in others) / len(others) if others else 0.5


@settings(deadline=None)
@given(tables(shares))
def test_on_other_items_is_the_mean_over_all_other_known_scores(scores):
    """Every estimate equals the one of a loop over the other items, and stays in [0, 1]."""
    found = on_other_items(scores)
    n, m = scores.shape
    expected = np.array([[mean_elsewhere(scores, i, j) for j in range(m)] for i in range(n)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    known = found[~np.isnan(found)]
    assert ((known >= 0) & (known <= 1)).all()


def test_on_other_items_by_hand():
    """A model's estimate differs between items by what it scored there."""
    scores = np.array([[1.0, 0.0, NAN], [0.0, 1.0, NAN], [1.0, NAN, 1.0]])
    # model 0: others of item 0 are 0, 1; of item 1 are 1, 1; of item 2 are 1, 0. Model 2 is known only on item 2.
    expected = [[0.5, 1.0, 1.0], [1.0, 0.0, 1.0], [0.5, 0.5, NAN]]
    assert np.array_equal(on_other_items(scores), expected, equal_nan=True)


@settings(deadline=None)
@given(tables(ratings))
def test_ranks_are_shares_of_the_others_that_are_beaten(scores):
    """Every rank equals the one of a loop over the other models, ties counting half."""
    n, m = scores.shape
    expected = np.array([[rank_within(scores[i], j) for j in range(m)] for i in range(n)])
    np.testing.assert_allclose(ranks(scores), expected, rtol=0, atol=1e-12)


@settings(deadline=None)
@given(tables(ratings), st.floats(0.1, 10), st.floats(-100, 100))
def test_ranks_do_not_depend_on_the_scale(scores, factor, shift):
    """A rating in other units has the same ranks."""
    moved = scores * factor + shift
    known = scores[~np.isnan(scores)]
    assume(len(np.unique(known)) == len(np.unique(moved[~np.isnan(moved)])))  # no two scores rounded together
    assert np.array_equal(ranks(moved), ranks(scores), equal_nan=True)


@pytest.mark.parametrize("cell", [zero_one, shares], ids=["0/1 scores", "shares"])
def test_an_estimate_never_sees_the_items_own_scores(cell):
    """Whatever replaces the scores of item i, the estimates for item i stay the same to the last bit."""

    @settings(max_examples=300, deadline=None)
    @given(tables(cell, rows=(2, 8)), st.data())
    def holds(scores, data):
        i = data.draw(st.integers(0, len(scores) - 1))
        changed = scores.copy()
        changed[i] = data.draw(st.lists(cell, min_size=scores.shape[1], max_size=scores.shape[1]))
        assert np.array_equal(on_other_items(changed)[i], on_other_items(scores)[i], equal_nan=True)
        changed = scores.copy()
        changed[i] = data.draw(st.permutations(list(scores[i])))
        assert np.array_equal(on_other_items(changed)[i], on_other_items(scores)[i], equal_nan=True)

    holds()


@settings(max_examples=200, deadline=None)
@given(tables(ratings, rows=(2, 8)), st.data())
def test_ranks_of_other_items_never_see_the_items_own_scores(scores, data):
    """The rank-based estimate of an item is blind to that item's ratings as well."""
    i = data.draw(st.integers(0, len(scores) - 1))
    changed = scores.copy()
    changed[i] = data.draw(st.lists(ratings, min_size=scores.shape[1], max_size=scores.shape[1]))
    before, after = on_other_items(ranks(scores))[i], on_other_items(ranks(changed))[i]
    assert np.array_equal(before, after, equal_nan=True)


@pytest.mark.parametrize(
    "policy", [MajorityVoting(0.6), WeightedConsensus(), WeightedConsensus(threshold=0.6), BestOfN()]
)
def test_decisions_do_not_change_with_the_scores_of_their_item(policy):
    """Permuting the scores of every single item in turn leaves the decision for that item as it was."""
    chance = np.random.default_rng(0)
    n, models = 120, list("abcde")
    answers = chance.choice(["1", "2", "3"], (n, 5)).tolist()
    scores = chance.choice([0.1, 0.2, 0.3, 0.6, 0.7, 1.0], (n, 5))
    before = decide(policy, Ballots.of(models, answers, quality=on_other_items(scores)))
    for i in range(n):
        permuted = scores.copy()
        permuted[i] = chance.permutation(permuted[i])
        after = decide(policy, Ballots.of(models, answers, quality=on_other_items(permuted)))
        assert before.winner[i] == after.winner[i]
        assert (before.tied[i] == after.tied[i]).all()
        assert (before.agreement[i], before.confidence[i]) == (after.agreement[i], after.confidence[i])


def test_equal_records_elsewhere_tie_whatever_was_scored_here():
    """Two models that scored alike on all other items are equally good here: best_of_n ties, for any own score."""
    elsewhere = [0.1, 0.2]
    for mine in (0.0, 0.3, 0.7, 1.0):
        for theirs in (0.0, 0.3, 0.7, 1.0):
            scores = np.column_stack([[*elsewhere, mine], [*elsewhere, theirs]])
            ballots = Ballots.of(["a", "b"], [["x", "y"]] * 3, quality=on_other_items(scores))
            assert decide(BestOfN(), ballots).tied[2].tolist() == [True, True]
