"""Merges of one set of contributions: hand-calculated cases, ties, filters and refusals.

What holds for every merge is in tests/contracts/merge_contract.py; here are the numbers of each strategy.
"""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus, params_of
from workbench.decide.policies import POLICIES, policy
from workbench.errors import LLMOrchestratorError, LLMValidationError
from workbench.facts import Failure, ModelContribution, Response

ROOT = Path(__file__).parents[2]
STRATEGIES = [MajorityVoting, WeightedConsensus, BestOfN]


def said(model, answer, quality=None, weight=1.0):
    """A kept contribution whose text names its model."""
    text = f"{model}: {answer}"
    response = Response(request_key="k", model=model, text=text, source="simulated")
    return ModelContribution(model=model, response=response, answer=answer, quality=quality, weight=weight)


def failed(model, code="provider.server"):
    """A contribution of a model that failed."""
    failure = Failure(kind="LLMProviderError", code=code, message=f"{model} failed")
    return ModelContribution(model=model, failure=failure, status="failed")


# --- the strategies -------------------------------------------------------------------------------------


def test_majority_voting_counts_one_vote_per_member():
    """The most frequent answer wins; the member without an answer counts in confidence only."""
    merged = MajorityVoting()([said("a", "4"), said("b", "5"), said("c", "4"), said("d", "4"), said("e", None)])
    assert (merged.answer, merged.tied, merged.strategy) == ("4", ("4",), "majority_voting")
    assert merged.agreement == pytest.approx(3 / 4)  # 3 of the 4 voters
    assert merged.confidence == pytest.approx(3 / 5)  # 3 of the 5 asked


def test_majority_voting_looks_at_neither_size_of_weights_nor_quality():
    """A heavy and highly rated member is outvoted by two others."""
    merged = MajorityVoting()([said("a", "4", 1.0, 100.0), said("b", "5", 0.1, 0.1), said("c", "5", 0.1, 0.1)])
    assert merged.answer == "5"


def test_weighted_consensus_adds_the_explicit_weights():
    """Two lighter members outweigh the heaviest, and the shares follow from the sums."""
    weights = {"gpt4": 0.4, "claude3": 0.35, "gemini-pro": 0.25}
    merged = WeightedConsensus(weights)([said("gpt4", "7"), said("claude3", "8"), said("gemini-pro", "8")])
    assert merged.answer == "8"
    assert merged.agreement == pytest.approx(0.60)  # 0.35 + 0.25 of 1.00
    assert merged.confidence == pytest.approx(0.60)


def test_weighted_consensus_keeps_a_failed_members_weight_in_confidence():
    """Agreement is over those who voted, confidence over the weight of all who were asked."""
    merged = WeightedConsensus({"a": 3, "b": 2, "c": 5})([said("a", "x"), said("b", "y"), failed("c")])
    assert merged.answer == "x"
    assert merged.agreement == pytest.approx(3 / 5, abs=1e-8)
    assert merged.confidence == pytest.approx(3 / 10, abs=1e-8)


def test_weighted_consensus_prefers_its_own_weights_to_those_of_the_contributions():
    """Explicit weights replace what the contributions carry, and the quality as well."""
    merged = WeightedConsensus({"a": 1, "b": 2})([said("a", "x", 1.0, 50.0), said("b", "y", 0.1, 1.0)])
    assert merged.answer == "y"
    assert {c.model: c.weight for c in merged.contributions} == {"a": 1.0, "b": 2.0}


def test_weighted_consensus_multiplies_weight_and_quality():
    """Without explicit weights a vote is weight times quality."""
    merged = WeightedConsensus()([said("a", "x", 0.9, 1.0), said("b", "y", 0.5, 2.0), said("c", "x", 0.3, 1.0)])
    assert merged.answer == "x"  # x: 0.9 + 0.3 = 1.2 against y: 2 * 0.5 = 1.0
    assert merged.agreement == pytest.approx(1.2 / 2.2, abs=1e-8)


def test_weighted_consensus_gives_the_unrated_the_mean_quality():
    """A member of unknown quality weighs as much as the rated ones do on average."""
    merged = WeightedConsensus()([said("a", "x", 0.9), said("b", "y", 0.3), said("c", "y")])
    # x: 0.9; y: 0.3 + mean(0.9, 0.3) = 0.3 + 0.6 = 0.9: a tie, and "x" sorts first
    assert merged.tied == ("x", "y")
    assert merged.agreement == pytest.approx(0.5, abs=1e-8)
    assert merged.unrated == 1


def test_weighted_consensus_of_the_unrated_is_majority_voting():
    """Where nobody is rated, every member weighs 1."""
    parts = [said("a", "x"), said("b", "y"), said("c", "y")]
    weighted, voted = WeightedConsensus()(parts), MajorityVoting()(parts)
    assert replace(weighted, strategy="") == replace(voted, strategy="")


def test_best_of_n_takes_the_answer_of_the_best_rated_member():
    """One good member beats a crowd; confidence is still its share of the votes."""
    merged = BestOfN()([said("a", "x", 0.6), said("b", "x", 0.7), said("c", "y", 0.8), said("d", "x")])
    assert merged.answer == "y"
    assert (merged.agreement, merged.confidence) == pytest.approx((1 / 4, 1 / 4))


def test_best_of_n_passes_over_members_that_cannot_vote():
    """The best rated member that failed, has no answer or no weight leaves the choice to the next best."""
    lost = replace(failed("z"), quality=1.0)
    merged = BestOfN()(
        [lost, said("y", None, 0.95), said("x", "9", 0.9, 0.0), said("b", "5", 0.8), said("a", "4", 0.2)]
    )
    assert merged.answer == "5"


def test_best_of_n_ranks_a_rating_of_zero_above_no_rating():
    """A known quality, however low, goes before an unknown one."""
    assert BestOfN()([said("a", "1"), said("b", "2", 0.0)]).answer == "2"


def test_best_of_n_leaves_a_tie_where_qualities_are_equal():
    """Equally rated members with two answers tie; a lower rated third answer is not among them."""
    merged = BestOfN()([said("a", "y", 0.8), said("b", "x", 0.8), said("c", "a", 0.7)])
    assert merged.tied == ("x", "y")


def test_the_text_is_that_of_the_strongest_supporter():
    """Among those who gave the answer, weight goes first, then quality, then the name."""
    by_weight = WeightedConsensus({"a": 1, "b": 2, "c": 1})([said("a", "4"), said("b", "4"), said("c", "5")])
    assert by_weight.text == "b: 4"
    by_quality = MajorityVoting()([said("a", "4", 0.2), said("b", "4", 0.6), said("c", "4", 0.6)])
    assert by_quality.text == "b: 4"


def test_responses_without_any_answer_make_no_winner():
    """Where nobody's answer can be read there is no answer, no tie and no confidence, and no error either."""
    for strategy in STRATEGIES:
        merged = strategy()([said("a", None, 0.5), said("b", None, 0.7)])
        assert (merged.answer, merged.tied, merged.confidence, merged.agreement) == (None, (), 0.0, 0.0)


def test_a_unanimous_answer_of_members_rated_zero_still_wins():
    """Two models that were wrong on all other items agree here: that is an answer, as in every other merge."""
    merged = WeightedConsensus()([said("a", "7", 0.0), said("b", "7", 0.0)])
    assert (merged.answer, merged.agreement, merged.confidence) == ("7", 1.0, 1.0)


def test_a_lone_voter_wins_however_small_its_weight():
    """A positive weight is a vote, also beside a failed member that weighs 10 ** 12 times as much."""
    merged = WeightedConsensus({"a": 1e12, "b": 1.0})([failed("a"), said("b", "7")])
    assert (merged.answer, merged.agreement) == ("7", 1.0)


def test_a_failed_member_does_not_blur_the_weights_of_the_others():
    """Of two voters the heavier one wins, whatever the weight of a third that failed."""
    merged = WeightedConsensus({"a": 1e9, "b": 1.0, "c": 2.0})([failed("a"), said("b", "1"), said("c", "2")])
    assert merged.tied == ("2",)


@pytest.mark.parametrize("weight", [5e-324, 1e-300, 1e300, 1.7e308])
def test_the_scale_of_weights_does_not_matter(weight):
    """Equal weights near the ends of the range of floats decide as equal weights of 1 do."""
    parts = [said("a", "x"), said("b", "y"), said("c", "y"), failed("d")]
    merged = WeightedConsensus(dict.fromkeys("abcd", weight))(parts)
    assert (merged.tied, merged.agreement, merged.confidence) == (("y",), pytest.approx(2 / 3), pytest.approx(1 / 2))


# --- ties -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ens_tie_is_broken_by_the_order_of_answers_not_of_models(strategy):
    """At 1:1 and 2:2 votes all answers are in `tied`, sorted, and the first is the answer, in any input order."""
    one_each = [said("zeta", "10"), said("alpha", "9")]
    two_each = [*one_each, said("beta", "10"), said("gamma", "9")]
    for parts in (one_each, two_each):
        for order in permutations(parts):
            merged = strategy()(order)
            assert (merged.answer, merged.tied) == ("10", ("10", "9"))  # as texts: "1" < "9"


def test_ens_tie_does_not_depend_on_the_hash_seed():
    """Other processes with other hash seeds break a four-fold tie alike."""
    code = (
        "import json\n"
        "from workbench.decide.policies import POLICIES\n"
        "from workbench.facts import ModelContribution, Response\n"
        "parts = [ModelContribution(model=m, answer=a, response=Response(request_key='k', model=m, text=m + a,"
        " source='simulated')) for m, a in zip('abcdefgh', ['yes', 'no', 'maybe', 'é'] * 2)]\n"
        "found = [POLICIES[name]()(parts) for name in ('best_of_n', 'majority_voting', 'weighted_consensus')]\n"
        "print(json.dumps([[m.answer, list(m.tied), m.text, m.agreement] for m in found]))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(seen) == 1
    # sorted by code point: "é" comes last; each of 4 answers has 2 of 8 votes; "c" is the first to say "maybe"
    expected = ["maybe", ["maybe", "no", "yes", "é"], "cmaybe", 0.25]
    assert json.loads(seen.pop()) == [expected] * 3


@pytest.mark.parametrize(
    "weights",
    [
        {"a": 0.1, "b": 0.2, "c": 0.3},  # as floats 0.1 + 0.2 > 0.3
        {"a": 1 / 3, "b": 1 / 3, "c": 2 / 3},
        {"a": 1.1, "b": 2.2, "c": 3.3},  # as floats 1.1 + 2.2 > 3.3
        {"a": 0.7, "b": 0.1, "c": 0.8},  # as floats 0.7 + 0.1 < 0.8
        {"a": 1e-30, "b": 2e-30, "c": 3e-30},
    ],
    ids=str,
)
def test_ens_tie_of_decimal_weights_is_a_tie(weights):
    """Weights that are equal on paper tie, though their binary sums differ in the last place."""
    merged = WeightedConsensus(weights)([said("a", "x"), said("b", "x"), said("c", "y")])
    assert merged.tied == ("x", "y")
    assert merged.agreement == pytest.approx(0.5, abs=1e-8)


def test_ens_tie_of_six_thirds_against_two_is_a_tie():
    """Six members of weight 1/3 weigh as much as two of weight 1."""
    weights = {**{f"s{i}": 1 / 3 for i in range(6)}, "l1": 1.0, "l2": 1.0}
    merged = WeightedConsensus(weights)([said(m, "x" if m.startswith("s") else "y") for m in weights])
    assert merged.tied == ("x", "y")


def test_a_difference_that_can_be_written_is_not_a_tie():
    """Weights that differ in the sixth decimal decide."""
    assert WeightedConsensus({"a": 0.500001, "b": 0.5})([said("a", "y"), said("b", "x")]).tied == ("y",)


# --- filters --------------------------------------------------------------------------------------------


def test_a_threshold_leaves_out_what_is_known_to_be_below_it():
    """A quality below the threshold is filtered, one at the threshold stays, an unknown one passes and is counted."""
    merged = MajorityVoting(threshold=0.7)(
        [said("a", "x", 0.69), said("b", "x", 0.1), said("c", "y", 0.7), said("d", "y")]
    )
    assert [c.status for c in merged.contributions] == ["filtered", "filtered", "kept", "kept"]
    assert merged.answer == "y"
    assert merged.unrated == 1
    assert (merged.agreement, merged.confidence) == pytest.approx((1.0, 2 / 4))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_everything_filtered_keeps_the_best_partial(strategy):
    """The refusal carries the best rated contribution and the failures of the others."""
    parts = [said("a", "x", 0.2), said("b", "y", 0.6), failed("c")]
    with pytest.raises(LLMOrchestratorError, match=r"best: b at 0\.6") as caught:
        strategy(threshold=0.9)(parts)
    assert caught.value.code == "ensemble.all_filtered"
    assert caught.value.partial == parts[1]
    assert caught.value.errors == (parts[2].failure,)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_failed_carries_every_cause_in_order_of_names(strategy):
    """When every member failed, `.errors` holds one failure per member and there is no partial."""
    with pytest.raises(LLMOrchestratorError, match="all 3 members failed") as caught:
        strategy()([failed("c", "timeout.idle"), failed("a", "provider.server"), failed("b", "provider.empty")])
    assert caught.value.code == "ensemble.all_failed"
    assert [f.code for f in caught.value.errors] == ["provider.server", "provider.empty", "timeout.idle"]
    assert caught.value.partial is None


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_failed_status_counts_as_failed_without_its_failure(threshold):
    """Contributions read back from a log, where only the status tells, are refused as all failed too."""
    parts = [ModelContribution(model=m, status="failed") for m in "ab"]
    with pytest.raises(LLMOrchestratorError) as caught:
        MajorityVoting(threshold)(parts)
    assert caught.value.code == "ensemble.all_failed"


def test_the_partial_of_a_filtered_ensemble_is_one_that_answered():
    """A failed member is never the best partial, also when only its status says that it failed."""
    lost = ModelContribution(model="a", status="failed", quality=1.0)
    with pytest.raises(LLMOrchestratorError) as caught:
        MajorityVoting(0.9)([lost, said("b", "x", 0.3)])
    assert caught.value.partial == said("b", "x", 0.3)


def test_contributions_of_a_merge_come_back_sorted_by_model():
    """The response lists every contribution, also those that did not vote, in the order of their names."""
    merged = MajorityVoting()([failed("c"), said("b", "x"), said("a", None)])
    assert [(c.model, c.status) for c in merged.contributions] == [("a", "kept"), ("b", "kept"), ("c", "failed")]


# --- refusals -------------------------------------------------------------------------------------------


def refused(call, code):
    """The LLMValidationError that `call` raises; it names its code and says what to do."""
    with pytest.raises(LLMValidationError) as caught:
        call()
    assert caught.value.code == code
    assert caught.value.next_step
    return caught.value


@pytest.mark.parametrize("weights", [{"a": 0, "b": 0.0}, {}, {"a": -0.0}], ids=str)
def test_ens_weights_zero_are_refused_before_any_merge(weights):
    """Weights that let no model vote cannot even make a policy."""
    refused(lambda: WeightedConsensus(weights), "validation.weights")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ens_weights_zero_on_all_contributions_are_refused(strategy):
    """Contributions that all carry weight 0 are refused by every strategy."""
    parts = [said("a", "x", weight=0.0), said("b", "x", weight=0.0)]
    refused(lambda: strategy()(parts), "validation.weights")


def test_ens_weights_neg_are_refused_by_name():
    """A negative weight is refused with its model and value, in the policy and in a contribution."""
    error = refused(lambda: WeightedConsensus({"a": -1, "b": 2}), "validation.weights")
    assert "'a'" in error.message
    assert "-1" in error.message
    refused(lambda: MajorityVoting()([said("a", "x", weight=-0.5), said("b", "x")]), "validation.weights")


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, None, "1", True, 10**400], ids=lambda w: str(w)[:8])
def test_ens_weights_nan_and_other_non_numbers_are_refused(weight):
    """NaN, infinity, and what is no number at all are refused before anything is merged."""
    refused(lambda: WeightedConsensus({"a": weight, "b": 1.0}), "validation.weights")


def test_ens_weights_unknown_name_suggests_the_closest_member():
    """A misspelt model is named, and the next step offers the member it resembles."""
    merge = WeightedConsensus({"gpt4": 1, "claud3": 1})
    error = refused(lambda: merge([said("gpt4", "x"), said("claude3", "x")]), "validation.weights")
    assert "'claud3'" in error.message
    assert "'claude3'" in error.next_step


def test_ens_weights_unknown_for_a_member_are_refused():
    """A member without a weight is not silently given one."""
    error = refused(lambda: WeightedConsensus({"a": 1})([said("a", "x"), said("b", "x")]), "validation.weights")
    assert "leave out b" in error.message


def test_weights_from_numpy_are_numbers():
    """Weights computed with numpy, as a tuning cell does, are taken as they are."""
    merge = WeightedConsensus({"a": np.float64(0.25), "b": np.float32(0.5), "c": np.int64(1)})
    assert merge([said("a", "x"), said("b", "x"), said("c", "y")]).tied == ("y",)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ens_zero_models_are_refused_by_every_strategy(strategy):
    """No contributions is a mistake of the caller, with a code of its own."""
    refused(lambda: strategy()([]), "validation.models")


def test_a_model_that_contributes_twice_is_refused():
    """Two contributions of one name cannot be told apart in the log."""
    error = refused(lambda: MajorityVoting()([said("a", "x"), said("b", "x"), said("a", "y")]), "validation.models")
    assert "'a' contributes twice" in error.message


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_scores_only_contributions_are_refused(strategy):
    """Where a recording keeps scores but no text there is nothing to merge."""
    parts = [ModelContribution(model="a", quality=0.9), ModelContribution(model="b", quality=0.4)]
    refused(lambda: strategy()(parts), "validation.no_text")


@pytest.mark.parametrize("quality", [-0.1, 1.5, math.nan, math.inf])
def test_a_quality_outside_the_unit_interval_is_refused(quality):
    """An estimate that is no share is refused by name instead of winning best_of_n."""
    error = refused(lambda: BestOfN()([said("a", "x", 0.5), said("b", "y", quality)]), "validation.quality")
    assert "'b'" in error.message


@pytest.mark.parametrize("threshold", [-0.01, 1.01, math.nan, math.inf, True, "0.7"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_threshold_outside_the_unit_interval_is_refused(strategy, threshold):
    """A threshold is a number from 0 to 1, checked when the policy is made."""
    refused(lambda: strategy(threshold=threshold), "validation.threshold")


# --- policies as values ---------------------------------------------------------------------------------

MADE = [
    MajorityVoting(),
    MajorityVoting(threshold=0.25),
    WeightedConsensus(),
    WeightedConsensus({"a": 0.4, "b": 1}),
    WeightedConsensus({"a": 1 / 3}, threshold=1.0),
    BestOfN(threshold=0),
]


@pytest.mark.parametrize("merge", MADE, ids=repr)
def test_a_policy_is_made_again_from_its_logged_parameters(merge):
    """Name and parameters, as JSON keeps them, give an equal policy."""
    again = policy(merge.name, json.loads(json.dumps(params_of(merge))))
    assert again == merge
    assert type(again) is type(merge)


@pytest.mark.parametrize("merge", MADE, ids=repr)
def test_a_policy_can_be_copied_and_used_as_a_key(merge):
    """A policy is a value: equal ones have equal hashes, and copies, as another process gets them, are equal."""
    assert copy.deepcopy(merge) == merge
    assert hash(policy(merge.name, params_of(merge))) == hash(merge)


def test_a_policy_does_not_change_with_the_mapping_it_was_made_from():
    """The weights are copied once, and neither they nor the fields can be set later."""
    mine = {"a": 1.0, "b": 2.0}
    merge = WeightedConsensus(mine)
    mine["a"] = 100.0
    assert merge([said("a", "x"), said("b", "y")]).answer == "y"
    with pytest.raises(TypeError):
        merge.weights["a"] = 100.0
    with pytest.raises(FrozenInstanceError):
        merge.threshold = 0.5


def test_policies_go_by_the_names_of_the_field():
    """The registry maps each strategy's name to its class."""
    assert {name: cls.__name__ for name, cls in POLICIES.items()} == {
        "majority_voting": "MajorityVoting",
        "weighted_consensus": "WeightedConsensus",
        "best_of_n": "BestOfN",
        "auto": "Auto",
        "best_single": "BestSingle",
        "cascade": "Cascade",
        "dawid_skene": "DawidSkene",
        "ensemble_selection": "EnsembleSelection",
        "field_wise": "FieldWise",
        "log_odds": "LogOdds",
        "minimum_bayes_risk": "MinimumBayesRisk",
        "one_coin": "OneCoin",
        "selective": "Selective",
        "selector": "Selector",
        "soft_vote": "SoftVote",
        "stacking": "Stacking",
        "text_stacking": "TextStacking",
    }


def test_an_unknown_strategy_is_refused_with_the_closest_name():
    """The refusal lists the strategies and offers the one that was probably meant."""
    error = refused(lambda: policy("majority_vote"), "validation.strategy")
    assert all(name in error.message for name in POLICIES)
    assert "use majority_voting" in error.next_step


def test_parameters_a_strategy_does_not_take_are_refused():
    """Weights for majority_voting are a mistake, not something to drop silently."""
    error = refused(lambda: policy("majority_voting", {"weights": {"a": 1}}), "validation.strategy")
    assert isinstance(error.__cause__, TypeError)
