"""Calibration: violators pooled, temperatures and curves by hand and by search, and what a reliability diagram says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.decide.calibration import (
    COLDEST,
    EDGE,
    HOTTEST,
    calibrated,
    calibration_of,
    expected_calibration_error,
    isotonic,
    logit,
    pool_adjacent_violators,
    reliability,
    temperature,
    temperature_scale,
)
from workbench.errors import LLMValidationError


def refused(make):
    with pytest.raises(LLMValidationError) as caught:
        make()
    assert caught.value.code == "validation.calibration"
    assert len(caught.value.next_step) <= 160


# --- pool adjacent violators ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "w", "expected"),
    [
        ([1, 2, 2, 5], None, [1, 2, 2, 5]),
        ([4, 2, 3, 1], None, [2.5, 2.5, 2.5, 2.5]),
        ([3, 1], [1, 3], [1.5, 1.5]),
        # 5 and 4 pool to 4.5, which the 1 with weight 7 pulls to (9 + 7) / 9.
        ([1, 5, 4, 1, 6], [1, 1, 1, 7, 1], [1, 16 / 9, 16 / 9, 16 / 9, 6]),
        ([7], [2], [7]),
        ([], None, []),
    ],
)
def test_violators_are_pooled_to_their_weighted_mean(y, w, expected):
    """Sequences small enough to pool by hand come out as they do by hand."""
    found = pool_adjacent_violators(np.array(y, dtype=float), None if w is None else np.array(w, dtype=float))
    assert found.tolist() == pytest.approx(expected)


@settings(max_examples=80)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 4)), min_size=1, max_size=9))
def test_pooling_is_the_largest_smallest_mean(pairs):
    """Each value is the max over beginnings of the min over ends of the mean of a stretch around it."""
    # Robertson, Wright & Dykstra 1988, "Order restricted statistical inference", theorem 1.4.4.
    y, w = np.array(pairs, dtype=float).T

    def mean(a, b):
        return (y[a : b + 1] @ w[a : b + 1]) / w[a : b + 1].sum()

    n = len(y)
    expected = [max(min(mean(a, b) for b in range(i, n)) for a in range(i + 1)) for i in range(n)]
    assert pool_adjacent_violators(y, w).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("y", "w"), [([1.0, 2.0], [1.0]), ([1.0], [0.0]), ([math.nan], None), ([1.0, 2.0], [1.0, math.inf])]
)
def test_numbers_that_cannot_be_pooled_are_refused(y, w):
    """Lengths that differ, weights that are not positive and numbers that are not finite are refused."""
    refused(lambda: pool_adjacent_violators(np.array(y), None if w is None else np.array(w)))


# --- temperature ------------------------------------------------------------------------------------------


def test_the_temperature_of_one_claim_is_its_logit_over_that_of_its_accuracy():
    """A logit of 2 that is right three times out of four has T = 2 / log 3."""
    assert temperature(np.full(4, 2.0), np.array([1.0, 1, 1, 0])) == pytest.approx(2 / math.log(3))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(-4, 4), st.integers(0, 1)), min_size=3, max_size=12))
def test_no_other_temperature_has_a_higher_log_score(pairs):
    """Of temperatures all over their range none scores higher than the one found."""
    z, y = np.array(pairs, dtype=float).T

    def log_score(t):
        return -np.logaddexp(0, np.where(y == 1, -z, z) / t).sum()

    found = log_score(temperature(z, y))
    assert found >= max(log_score(t) for t in np.geomspace(COLDEST, HOTTEST, 300)) - 1e-9


def test_temperatures_stay_in_their_range():
    """Claims that are always right are as cold as can be, claims that are worse than nothing as hot."""
    sure = np.array([1.0, -2.0])
    assert temperature(sure, np.array([1.0, 0.0])) == pytest.approx(COLDEST)
    assert temperature(sure, np.array([0.0, 1.0])) == pytest.approx(HOTTEST)


def test_scaling_by_a_temperature_keeps_the_order_and_the_half():
    """T = 1 changes nothing, T = 2 halves the logit: 0.8 becomes 2 / 3; certainty is kept off 0 and 1."""
    claims = np.array([0.2, 0.5, 0.8])
    assert temperature_scale(claims, 1.0) == pytest.approx(claims)
    assert temperature_scale(claims, 2.0) == pytest.approx([1 / 3, 1 / 2, 2 / 3])
    assert temperature_scale(np.array([0.0, 1.0]), 0.01).tolist() == [EDGE, 1 - EDGE]
    assert logit(np.array([0.0, 0.5])) == pytest.approx([math.log(EDGE / (1 - EDGE)), 0.0])


# --- isotonic ---------------------------------------------------------------------------------------------


def test_an_isotonic_curve_is_that_of_a_hand_calculation():
    """Two stretches, each shrunk by one item of (4 + 1/2) / (7 + 1)."""
    claims = np.array([0.2, 0.4, 0.4, 0.8, 0.8, 0.8, 0.9])
    right = np.array([1.0, 0, 0, 1, 1, 0, 1])
    # 0.2 (1 of 1) and 0.4 (0 of 2) pool to 1 of 3, at 1/3; 0.8 (2 of 3) and 0.9 (1 of 1) keep their order.
    prior = 4.5 / 8
    expected = [(1 / 3, (1 + prior) / 4), (0.8, (2 + prior) / 4), (0.9, (1 + prior) / 2)]
    assert np.array(isotonic(claims, right)) == pytest.approx(np.array(expected))


def test_shrinking_does_not_make_a_curve_fall():
    """A certain end of one item is drawn below the large stretch before it, and joins it."""
    claims = np.array([0.1] * 10 + [0.6] * 20 + [0.9])
    right = np.array([0.0] * 10 + [1.0] * 19 + [0.0, 1.0])
    curve = isotonic(claims, right)
    assert [x for x, _ in curve] == pytest.approx([0.1, 0.6, 0.9])
    # (19 + p) / 21 is above (1 + p) / 2 for p = 20.5 / 32; weighted by 21 and 2 they pool to (20 + 2 p) / 23.
    pooled = (20 + 2 * 20.5 / 32) / 23
    assert [p for _, p in curve] == pytest.approx([(20.5 / 32) / 11, pooled, pooled])


def test_a_curve_is_straight_between_its_breakpoints_and_flat_outside():
    """Half way between two breakpoints lies their mean; what is unknown stays unknown."""
    curve = ((0.2, 0.1), (0.6, 0.5))
    found = calibrated(curve, np.array([0.0, 0.2, 0.4, 0.6, 1.0, math.nan]))
    assert found[:5] == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.5])
    assert math.isnan(found[5])


def test_a_map_of_either_kind_brings_claims_closer_to_the_truth():
    """Claims whose logits are twice too large: the temperature is 2, and maps err a third at most."""
    chance = np.random.default_rng(0)
    truth = chance.uniform(0.1, 0.9, 4000)
    right = (chance.random(4000) < truth).astype(float)
    claims = 1 / (1 + ((1 - truth) / truth) ** 2)
    before = np.abs(claims - truth).mean()
    assert calibration_of("temperature", claims, right) == pytest.approx(2.0, abs=0.15)
    for kind in ("temperature", "isotonic"):
        after = calibrated(calibration_of(kind, claims, right), claims)
        assert np.abs(after - truth).mean() < before / 3


def test_a_map_does_not_depend_on_the_order_of_the_items():
    """The curve of shuffled items is the same to the last bit."""
    chance = np.random.default_rng(1)
    claims, right = chance.random(50), chance.integers(0, 2, 50).astype(float)
    order = chance.permutation(50)
    assert isotonic(claims[order], right[order]) == isotonic(claims, right)


# --- reliability ------------------------------------------------------------------------------------------


def test_reliability_counts_each_bin():
    """Bins are closed above, the first holds 0, and an empty one has no means."""
    found = reliability(np.array([0.0, 0.25, 0.3, 0.5, 1.0]), np.array([0.0, 1, 0, 1, 1]), bins=4)
    assert found.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.count.tolist() == [2, 2, 0, 1]
    assert found.confidence.tolist() == pytest.approx([0.125, 0.4, math.nan, 1.0], nan_ok=True)
    assert found.accuracy.tolist() == pytest.approx([0.5, 0.5, math.nan, 1.0], nan_ok=True)


def test_the_calibration_error_weighs_bins_by_their_count():
    """|0.125 - 0.5| and |0.4 - 0.5| with two items each and 0 with one make 0.95 / 5."""
    claims, right = np.array([0.0, 0.25, 0.3, 0.5, 1.0]), np.array([0.0, 1, 0, 1, 1])
    assert expected_calibration_error(claims, right, bins=4) == pytest.approx(0.19)
    assert expected_calibration_error(np.full(4, 0.75), np.array([1.0, 1, 1, 0])) == 0


@pytest.mark.parametrize(
    ("claims", "right", "bins"),
    [
        ([0.5], [1.0, 0.0], 10),
        ([], [], 10),
        ([[0.5]], [[1.0]], 10),
        ([1.5], [1.0], 10),
        ([math.nan], [1.0], 10),
        ([0.5], [2.0], 10),
        ([0.5], [1.0], 0),
        ([0.5], [1.0], True),
        ([0.5], [1.0], 2.5),
        ([0.5], [1.0], 10**30),
    ],
)
def test_claims_without_a_meaning_are_refused(claims, right, bins):
    """Lengths that differ, nothing at all, what is not in [0, 1], and no bins are refused."""
    refused(lambda: reliability(np.array(claims), np.array(right), bins))
    if bins == 10:
        refused(lambda: isotonic(np.array(claims), np.array(right)))


def test_a_temperature_needs_finite_logits():
    """An infinite logit, which a certain claim has, is refused; `logit` keeps claims away from it."""
    refused(lambda: temperature(np.array([math.inf]), np.array([1.0])))
    refused(lambda: temperature(np.array([math.nan, 1.0]), np.array([1.0, 0.0])))
