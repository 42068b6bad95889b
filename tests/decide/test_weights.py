"""Weights: which are accepted, that they are values, and how they are counted."""

from __future__ import annotations

import copy
from fractions import Fraction

import numpy as np
import pytest

from workbench.decide.weights import (
    SCALE,
    Signed,
    Weights,
    check_members,
    check_models,
    closest,
    units_of,
)
from workbench.errors import LLMValidationError


def refused(make, code="validation.weights"):
    with pytest.raises(LLMValidationError) as caught:
        make()
    assert caught.value.code == code
    assert len(caught.value.next_step) <= 160
    return caught.value


@pytest.mark.parametrize(
    "weights", [{"a": -1.5, "b": 2}, {"a": 0.0, "b": 0}, {"a": Fraction(-1, 3)}, {"a": np.float64(0.1)}, {}]
)
def test_signed_weights_are_any_finite_numbers(weights):
    """Negative ones, and nothing but zeros, are kept as floats."""
    signed = Signed(weights)
    assert dict(signed) == {model: float(weight) for model, weight in weights.items()}
    assert all(type(weight) is float for weight in signed.values())
    assert len(signed) == len(weights)


@pytest.mark.parametrize("kind", [Signed, Weights])
@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -float("inf"), True, "1", None, 1j, 10**400])
def test_what_is_no_finite_number_is_no_weight(kind, weight):
    """The refusal names the model; an integer beyond the range of floats is shown in short."""
    error = refused(lambda: kind({"a": 1.0, "b": weight}))
    assert "'b'" in error.message
    assert len(error.message) < 120


@pytest.mark.parametrize("weights", [[1.0, 2.0], None, "ab", 3])
def test_weights_are_a_mapping(weights):
    """A bare list says nothing about whose weights they are."""
    assert "not a mapping" in refused(lambda: Signed(weights)).message


@pytest.mark.parametrize("weights", [{"a": -0.1, "b": 1}, {"a": 0.0, "b": 0}, {}], ids=["negative", "zeros", "none"])
def test_weights_of_a_vote_are_not_negative_and_not_all_zero(weights):
    """What a learned weight may be, a share of a vote may not."""
    refused(lambda: Weights(weights))
    assert len(Signed(weights)) == len(weights)


def test_an_integer_of_more_digits_than_python_prints_is_refused_in_words():
    """The refusal itself does not fail on a number that cannot be written down."""
    assert "beyond the range" in refused(lambda: Signed({"a": 10**5000})).message


def test_weights_are_values():
    """Equal whatever their order, usable as a key, copied, and independent of what they were made from."""
    mine = {"a": 1.0, "b": -2.0}
    signed = Signed(mine)
    again = Signed({"b": -2, "a": 1})
    mine["a"] = 5.0
    assert signed == again == {"a": 1.0, "b": -2.0}
    assert hash(signed) == hash(again)
    assert copy.deepcopy(signed) == signed
    assert repr(signed) == "{'a': 1.0, 'b': -2.0}"
    with pytest.raises(KeyError):
        signed["c"]


def test_members_and_weights_must_name_the_same_models():
    """A stranger is answered with the closest member, a member without a weight by its name."""
    check_members({"small": 1.0, "large": -1.0}, ["large", "small"])
    assert "'small'" in refused(lambda: check_members({"smal": 1.0, "large": 1.0}, ["large", "small"])).next_step
    assert "leave out small" in refused(lambda: check_members({"large": 1.0}, ["large", "small"])).message
    far = refused(lambda: check_members({"zzz": 1.0}, ["large"]))
    assert "did you mean" not in far.next_step


@pytest.mark.parametrize(("models", "found"), [([], "no contributions"), (["a", "b", "a"], "'a' contributes twice")])
def test_models_are_named_once(models, found):
    """None at all, and two of one name, are refused."""
    assert found in refused(lambda: check_models(models), "validation.models").message


def test_the_closest_name_is_one_that_is_alike():
    """A misspelling finds its name, and something else finds none."""
    assert closest("stackin", ["auto", "stacking"]) == "stacking"
    assert closest("xyz", ["auto", "stacking"]) is None


def test_weights_are_counted_in_billionths_of_the_largest():
    """The largest is SCALE units, a third of it a third, and nothing positive leaves nothing."""
    assert units_of([3.0, 1.0, 0.0]) == [SCALE, round(SCALE / 3), 0]
    assert units_of([1e-300, 5e-301]) == [SCALE, SCALE // 2]
    assert units_of([0.0, 0.0]) == [0, 0]
    assert units_of([]) == []
