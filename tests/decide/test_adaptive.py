"""Weights that follow feedback: by hand, against the definition of the discounted sums, within their bounds."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.act.journal import encode
from workbench.decide.adaptive import AdaptiveWeights, feedback_of
from workbench.decide.merge import MajorityVoting, WeightedConsensus, params_of
from workbench.errors import LLMValidationError
from workbench.facts import ModelContribution

EQUAL = {"a": 1.0, "b": 1.0}
feedbacks = st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(0, 1), min_size=1), max_size=12)


def after(feedback: list[Mapping[str, float]], **options: Any) -> AdaptiveWeights:
    """The weights of a, b and c after so many tellings."""
    weights = AdaptiveWeights(**{"base": dict.fromkeys("abc", 1.0), **options})
    for quality in feedback:
        weights = weights.update(quality)
    return weights


def test_two_updates_by_hand():
    """Prior 1 + 1; a was right, then wrong; b was wrong, then not judged."""
    once = AdaptiveWeights(EQUAL, discount=0.9).update({"a": 1.0, "b": 0.0})
    # Good over all, with the prior: two of three for a, one of three for b.
    assert once.weights() == {"a": pytest.approx(2 / 3), "b": pytest.approx(1 / 3)}
    twice = once.update({"a": 0.0})
    # What was told has become 0.9 of itself: 1 + 0.9 of 2 + 0.9 + 1 for a, 1 of 2 + 0.9 for b.
    assert (twice.mean("a"), twice.mean("b")) == (pytest.approx(1.9 / 3.9), pytest.approx(1 / 2.9))
    total = 1.9 / 3.9 + 1 / 2.9
    assert twice.weights() == {"a": pytest.approx(1.9 / 3.9 / total), "b": pytest.approx(1 / 2.9 / total)}


@settings(deadline=None)
@given(feedbacks, st.floats(0.5, 1), st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)))
def test_the_mean_is_that_of_the_discounted_sums(feedback, discount, prior):
    """One sum over all tellings, each worth discount to the power of its age, as the paper defines it."""
    found = after(feedback, discount=discount, prior=prior)
    for model in "abc":
        worth = [(discount ** (len(feedback) - 1 - t), told) for t, told in enumerate(feedback) if model in told]
        good = prior[0] + math.fsum(w * told[model] for w, told in worth)
        count = sum(prior) + math.fsum(w for w, _ in worth)
        assert found.mean(model) == pytest.approx(good / count, rel=1e-9)


@settings(deadline=None)
@given(feedbacks, st.sampled_from([0.0, 0.02, 0.2, 1 / 3]), st.sampled_from([1 / 3, 0.5, 1.0]))
def test_the_shares_keep_their_bounds_and_the_order_of_the_means(feedback, floor, ceiling):
    """They sum to 1; none leaves [floor, ceiling]; those inside are in the proportion of their means."""
    found = after(feedback, floor=floor, ceiling=ceiling)
    shares = found.weights()
    assert sum(shares.values()) == pytest.approx(1)
    assert all(floor - 1e-12 <= share <= ceiling + 1e-12 for share in shares.values())
    ranked = sorted("abc", key=found.mean)
    assert all(shares[a] <= shares[b] + 1e-12 for a, b in itertools.pairwise(ranked))
    inside = [m for m in "abc" if floor + 1e-9 < shares[m] < ceiling - 1e-9]
    scales = [shares[m] / found.mean(m) for m in inside]
    assert scales == pytest.approx(scales[:1] * len(scales))


@pytest.mark.parametrize(
    ("base", "floor", "ceiling", "shares"),
    [
        ((90, 5, 5), 0.1, 1.0, (0.8, 0.1, 0.1)),  # two are raised, the third has what is left
        ((80, 10, 10), 0.0, 0.5, (0.5, 0.25, 0.25)),  # one is cut, the others share the rest alike
        ((100, 10, 1), 0.2, 0.5, (0.5, 0.3, 0.2)),  # cut, free and raised
        ((5, 3, 0), 0.2, 1.0, (0.625, 0.375, 0.0)),  # a model that was left out stays out
        ((1, 1, 1), 1 / 3, 1 / 3, (1 / 3, 1 / 3, 1 / 3)),
        ((1e308, 1e-308, 1.0), 0.1, 1.0, (0.8, 0.1, 0.1)),
    ],
)
def test_bounds_by_hand(base, floor, ceiling, shares):
    """Before anything is told the means are equal, and the base weights are what is bounded."""
    weights = AdaptiveWeights(dict(zip("abc", base, strict=True)), floor=floor, ceiling=ceiling)
    assert list(weights.weights().values()) == pytest.approx(list(shares))


@given(feedbacks, st.floats(0, 1), st.floats(0, 1))
def test_a_better_answer_never_lowers_a_weight(feedback, one, other):
    """Of two tellings about a that differ in its quality, the higher one leaves it at least as large a share."""
    low, high = sorted((one, other))
    now = after(feedback)
    assert now.update({"a": low}).weights()["a"] <= now.update({"a": high}).weights()["a"] + 1e-12


def test_what_was_told_long_ago_is_forgotten():
    """a right 200 times, then wrong; b always worth 0.5: at discount 0.95 a falls behind with the 14th error.

    The sums are within 0.001 of their limit 20, so a's mean is (1 + 20 x 0.95^k) / 22, b's is 11 / 22, and 0.95^k falls
    below a half at k = 13.5. Without forgetting it takes 200 errors.
    """
    right, wrong = {"a": 1.0, "b": 0.5}, {"a": 0.0, "b": 0.5}
    behind = {k: after([right] * 200 + [wrong] * k, discount=0.95) for k in (13, 14)}
    assert [w.mean("a") < w.mean("b") for w in behind.values()] == [False, True]
    steady = after([right] * 200 + [wrong] * 199, discount=1.0)
    assert steady.mean("a") > steady.mean("b")


def test_a_model_of_which_nothing_is_told_returns_to_the_prior():
    """The discount is of all models at every update, not only of those that are told about."""
    weights = after([{"c": 0.0}] * 5 + [{"a": 1.0}] * 500, discount=0.9)
    assert weights.mean("c") == pytest.approx(0.5, abs=1e-9)


def test_the_state_survives_json_and_the_step_is_made_again():
    """Parameters and feedback as the log keeps them give the same next state, and the old one is untouched."""
    now = after([{"a": 1.0, "b": 0.25}, {"c": 0.5}], floor=0.1, prior=(2, 1))
    params, told = json.loads(json.dumps([params_of(now), {"b": 1.0}]))
    again = AdaptiveWeights(**params)
    assert (again, hash(again)) == (now, hash(now))
    assert json.dumps(encode(again(told))) == json.dumps(encode(now.update({"b": 1.0})))
    assert now.evidence["b"] == (pytest.approx(0.25 * 0.99), pytest.approx(0.99))


def test_the_weights_are_those_of_a_weighted_consensus():
    """A model that was right outvotes one that was wrong."""
    weights = AdaptiveWeights(EQUAL).update({"a": 1.0, "b": 0.0})
    parts = [ModelContribution(model=m, answer=m.upper()) for m in "ab"]
    assert WeightedConsensus(weights.weights())(parts).answer == "A"


@pytest.mark.parametrize(
    "quality",
    [{}, None, 0.5, {"nobody": 1.0}, {"a": 1.5}, {"a": -0.1}, {"a": math.nan}, {"a": True}, {"a": "good"}, {"a": None}],
)
def test_impossible_feedback_is_refused(quality):
    """An empty telling, an unknown model, and what is no number in [0, 1]."""
    with pytest.raises(LLMValidationError) as caught:
        AdaptiveWeights(EQUAL).update(quality)
    assert caught.value.code == "validation.feedback"
    assert 0 < len(caught.value.next_step) <= 160


def test_a_misspelt_model_is_told_with_what_was_meant():
    """The closest name is the next step."""
    with pytest.raises(LLMValidationError) as caught:
        AdaptiveWeights({"gpt4": 1.0}).update({"gtp4": 1.0})
    assert caught.value.next_step == "did you mean 'gpt4'?"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"base": {"a": 0.0}}, "validation.weights"),
        ({"base": {"a": -1.0, "b": 1.0}}, "validation.weights"),
        ({"discount": 0.0}, "validation.config"),
        ({"discount": 1.1}, "validation.config"),
        ({"discount": "0.9"}, "validation.config"),
        ({"discount": True}, "validation.config"),
        ({"floor": -0.1}, "validation.config"),
        ({"floor": 0.6}, "validation.config"),  # two models cannot have 0.6 each
        ({"ceiling": 0.4}, "validation.config"),  # nor together 1 with 0.4 each
        ({"ceiling": math.nan}, "validation.config"),
        ({"prior": (0.0, 1.0)}, "validation.config"),
        ({"prior": (1.0,)}, "validation.config"),
        ({"prior": "11"}, "validation.config"),
        ({"prior": (math.inf, 1.0)}, "validation.config"),
        ({"evidence": {"a": (2.0, 1.0)}}, "validation.config"),
        ({"evidence": {"a": 1.0}}, "validation.config"),
        ({"evidence": {"z": (0.0, 1.0)}}, "validation.config"),
        ({"evidence": [1.0]}, "validation.config"),
    ],
)
def test_impossible_settings_are_refused(options, code):
    """Whatever could not give shares is told by name when the weights are made."""
    with pytest.raises(LLMValidationError) as caught:
        AdaptiveWeights(**{"base": EQUAL, **options})
    assert caught.value.code == code
    assert caught.value.next_step


def test_the_quality_of_a_response_is_told_of_those_who_gave_its_answer():
    """Dissenters, the filtered and members without weight are told nothing about."""
    parts = [
        ModelContribution(model="right", answer="x"), ModelContribution(model="too", answer="x"),
        ModelContribution(model="other", answer="y"), ModelContribution(model="mute", answer="x", weight=0.0),
        ModelContribution(model="low", answer="x", quality=0.1),
    ]  # fmt: skip
    merged = MajorityVoting(threshold=0.5)(parts)
    assert feedback_of(merged, 0.8) == {"right": 0.8, "too": 0.8}


def test_feedback_that_is_neither_form_is_refused():
    """A mapping has its qualities already; an answer that nobody gave tells nothing of anybody."""
    assert feedback_of({"a": 1.0}, None) == {"a": 1.0}
    undecided = MajorityVoting()([ModelContribution(model="a", response=None, answer=None, weight=1.0),
                                  ModelContribution(model="b", answer="x", weight=0.0)])  # fmt: skip
    for given_, quality in (({"a": 1.0}, 0.5), (undecided, 0.5)):
        with pytest.raises(LLMValidationError) as caught:
            feedback_of(given_, quality)
        assert caught.value.code == "validation.feedback"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"discount": 10**400}, "validation.config"),
        ({"evidence": {"a": (1e308, 1e308)}, "prior": (1.0, 1.0)}, "validation.config"),
        ({"prior": (1e308, 1e308)}, "validation.config"),
    ],
)
def test_numbers_that_floats_cannot_add_up_are_refused(change, code):
    """Their sums would be infinite, and the weights no numbers."""
    with pytest.raises(LLMValidationError) as caught:
        AdaptiveWeights(**{"base": EQUAL, **change})
    assert caught.value.code == code


def test_a_whole_number_beyond_floats_is_no_feedback():
    """10**400 has no float, and is outside [0, 1]."""
    with pytest.raises(LLMValidationError) as caught:
        AdaptiveWeights({"a": 1.0}).update({"a": 10**400})
    assert caught.value.code == "validation.feedback"


@pytest.mark.parametrize("same", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_adaptive_weights_can_be_copied_and_pickled(same):
    """With all that they were told, which stays unchangeable."""
    told = AdaptiveWeights({"a": 2.0, "b": 1.0}, discount=0.5).update({"a": 0.25})
    again = same(told)
    assert again == told
    assert again.weights() == told.weights()
    with pytest.raises(TypeError):
        again.evidence["a"] = (1.0, 1.0)
