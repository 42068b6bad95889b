"""Understanding an ensemble: values, pairs, sub-pools, categories and confidence against second computations."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.decide.answers import extract, infer_kind, normalise, options_in
from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus
from workbench.decide.pool import Pool
from workbench.decide.votes import Ballots
from workbench.errors import LLMValidationError
from workbench.study.found import EDGES, Found, Pair, SubPool, matrix_of, sign_flip, spread_bins
from workbench.study.stats import wilson_interval
from workbench.study.table import RunTable
from workbench.study.understand import (
    agreement_matrix,
    by_group,
    error_correlation,
    label_first,
    model_values,
    reliability_of,
    spread_curve,
    warn_without_labels,
)

Answers = Sequence[Sequence[str | None]]
NAN = float("nan")

# Six items, gold answer 1 everywhere. Right: a 5 of 6, b 3, c 2. Votes: 1, 2, 1, 1, a tie of 1/2/3, 2.
SIX: Answers = [
    ["1", "1", "1"],
    ["1", "2", "2"],
    ["1", "1", "2"],
    ["2", "1", "1"],
    ["1", "2", "3"],
    ["1", "2", "2"],
]
VOTED = [1, 0, 1, 1, 1 / 3, 0]


def table(
    answers: Answers,
    *,
    scores: Any = None,
    models: Sequence[str] | None = None,
    groups: Sequence[str] = (),
    score_kind: str = "correct",
) -> RunTable:
    """A run whose gold answer is 1 on every item, or one with graded scores."""
    right = [[float(a == "1") for a in row] for row in answers]
    numbers = np.asarray(right if scores is None else scores, dtype=float)
    names = tuple(models or "abcdefghijklmnopqrstuvwxyz"[: numbers.shape[1]])
    known = ~np.isnan(numbers).any(axis=1)
    quality = np.broadcast_to(numbers[known].mean(axis=0) if known.any() else 0.5, numbers.shape)
    return RunTable(
        run_id="r",
        name="tiny",
        source="simulated",
        spec={"score_kind": score_kind, "extracted": scores is None, "scores_only": False},
        status="finished",
        models=names,
        item_ids=tuple(f"i{k}" for k in range(len(numbers))),
        tasks=("reasoning",) * len(numbers),
        reference=("1" if scores is None else None,) * len(numbers),
        scores=numbers,
        source_scores=np.full_like(numbers, NAN),
        ballots=Ballots.of(names, answers, quality=np.clip(quality, 0, 1)),
        groups=tuple(groups),
    )


def drawn(n: int, accuracies: Sequence[float], *, options: int = 4, common: float = 0.0, seed: int = 0) -> RunTable:
    """A run with answers at random; `common`: how often a model errs together with all others, on one wrong answer."""
    rng = np.random.default_rng(seed)
    luck, shared = rng.random((n, 1)), rng.random((n, len(accuracies))) < common
    wrong = np.where(shared, luck, rng.random((n, len(accuracies)))) > np.array(accuracies)
    instead = np.where(shared, 2, rng.integers(2, options + 1, wrong.shape))
    return table([[str(x) for x in row] for row in np.where(wrong, instead, 1).tolist()])


def vote_of(row: Sequence[str | None], members: Sequence[int]) -> float:
    """Expected share of right answers of the plain vote of some members, by counting."""
    votes = Counter(row[j] for j in members if row[j] is not None)
    top = [a for a, n in votes.items() if n == max(votes.values())]
    return sum(a == "1" for a in top) / len(top) if top else 0.0


def shares_of(answers: Answers) -> list[float]:
    """Shapley values of the vote's mean score, as mean gains over all orders of joining."""
    m = len(answers[0])
    gained = [0.0] * m
    for order in permutations(range(m)):
        for k, j in enumerate(order):
            gained[j] += sum(vote_of(row, order[: k + 1]) - vote_of(row, order[:k]) for row in answers)
    return [g / math.factorial(m) / len(answers) for g in gained]


def refusal(call: Any) -> LLMValidationError:
    with pytest.raises(LLMValidationError) as refused:
        call()
    assert len(str(refused.value.next_step)) <= 160
    return refused.value


# --- values of models -----------------------------------------------------------------------------------


def test_shares_of_quality_are_those_of_votes_counted_in_every_order():
    """Shapley and leave-one-out values of a tiny run, the largest share first."""
    found = model_values(table(SIX))
    shares = shares_of(SIX)
    assert [v.model for v in found] == ["a", "b", "c"]
    assert [v.shapley.value for v in found] == pytest.approx(shares)
    assert [v.alone for v in found] == pytest.approx([5 / 6, 3 / 6, 2 / 6])
    everybody = sum(VOTED) / 6
    without = [np.mean([vote_of(row, [j for j in range(3) if j != k]) for row in SIX]) for k in range(3)]
    assert [v.leave_one_out.value for v in found] == pytest.approx([everybody - w for w in without])
    assert sum(shares) == pytest.approx(everybody)
    assert {(v.measure, v.items) for v in found} == {("quality", 6)}


def test_an_interval_of_a_share_is_that_of_the_share_of_resampled_items():
    """Averaging items first or sharing first is the same: here the vote is counted again on every resample."""
    run = drawn(30, [0.7, 0.5, 0.6])
    answers = _answers(run)
    found = next(iter(model_values(run, samples=60, seed=3)))
    resamples = np.random.default_rng(3).integers(0, 30, (60, 30))
    place = run.models.index(found.model)
    again = [shares_of([answers[i] for i in rows])[place] for rows in resamples.tolist()]
    assert (found.shapley.low, found.shapley.high) == pytest.approx(tuple(np.percentile(again, [2.5, 97.5])))


def test_cost_and_latency_are_shared_on_the_items_where_all_are_known():
    """A cost is the model's own; of time the slower of two models adds what it takes longer."""
    cost = [[1.0, 2.0]] * 5 + [[NAN, 2.0]]
    latency = [[100.0, 300.0]] * 4 + [[NAN, 300.0]] * 2
    run = table([row[:2] for row in SIX])
    pool = Pool.of(run.pool().ballots, cost_usd=np.array(cost), latency_ms=np.array(latency))
    found = {(v.measure, v.model): v for v in model_values(run, pool)}
    assert found["cost_usd", "a"].shapley.value == found["cost_usd", "a"].leave_one_out.value == 1.0
    assert found["cost_usd", "b"].shapley.value == 2.0
    assert found["cost_usd", "a"].items == 5
    assert found["latency_ms", "a"].shapley.value == 50.0  # half of the first 100 ms
    assert found["latency_ms", "b"].shapley.value == 250.0
    assert [found["latency_ms", m].leave_one_out.value for m in "ab"] == [0.0, 200.0]
    assert found["latency_ms", "a"].items == 4
    assert found["quality", "a"].items == 6


def test_measures_that_the_source_does_not_tell_are_left_out():
    """A pool without cost and latency has values of quality alone."""
    run = table(SIX)
    assert {v.measure for v in model_values(run, run.pool())} == {"quality"}


def test_chosen_models_are_valued_as_if_no_other_had_been_asked():
    """The values of a and c are those of a run of a and c."""
    chosen = model_values(table(SIX), models=["c", "a"])
    alone = model_values(table([[row[0], row[2]] for row in SIX], models=["a", "c"]))
    assert chosen.rows == alone.rows


def test_more_than_twelve_models_have_to_be_chosen_from():
    """The refusal says how many, and how to choose."""
    refused = refusal(lambda: model_values(drawn(5, [0.5] * 13)))
    assert refused.code == "validation.models"
    assert "models=[...]" in str(refused.next_step)
    assert len(model_values(drawn(5, [0.5] * 13), models="abcdefghijkl", samples=10).rows) == 12


def test_graded_scores_start_from_the_worst_one_seen():
    """Shares add up to the vote's mean score less -9, and `about` tells it."""
    run = table([["x", "y"], ["x", "x"], ["y", None]], scores=[[-1.0, -2.0], [-3.0, -3.0], [-9.0, -9.0]])
    found = model_values(run)
    vote = (-1.5 - 3.0 - 9.0) / 3
    assert sum(v.shapley.value for v in found) == pytest.approx(vote + 9)
    assert found.about["nothing"] == -9.0
    assert found.unit == "correct"


def test_items_without_a_score_are_left_out_and_counted():
    """As in a comparison: for all models."""
    scores = [[1.0, 0.0], [NAN, 1.0], [0.0, 0.0]]
    found = model_values(table([["x", "y"]] * 3, scores=scores))
    assert (found.items, found.items_dropped) == (2, 1)
    assert refusal(lambda: model_values(table([["x", "y"]] * 2, scores=[[1.0, NAN]] * 2))).code == "data.no_scores"


def test_a_long_run_is_shared_out_in_pieces(monkeypatch: pytest.MonkeyPatch):
    """The pieces that bound the memory change nothing."""
    run = drawn(40, [0.6, 0.5, 0.7])
    whole = model_values(run, samples=50)
    monkeypatch.setattr("workbench.study.understand.CHUNK_CELLS", 64)
    assert model_values(run, samples=50) == whole


def test_frames_have_one_row_each_and_carry_the_source():
    """An estimate is its value and the two ends; what holds for all rows stands in each."""
    frame = model_values(table(SIX)).df()
    assert list(frame.columns) == [
        "model", "measure", "alone", "shapley", "shapley_low", "shapley_high", "leave_one_out", "leave_one_out_low",
        "leave_one_out_high", "items", "nothing", "source",
    ]  # fmt: skip
    assert set(frame["source"]) == {"simulated"}
    assert len(frame) == 3


# --- pairs ----------------------------------------------------------------------------------------------


def pair(found: Found[Pair], first: str, second: str) -> Pair:
    return next(p for p in found if {p.first, p.second} == {first, second})


def test_phi_is_the_correlation_of_wrong_answers():
    """Against numpy's correlation of the scores, with counts by hand."""
    run = drawn(300, [0.7, 0.4, 0.55], common=0.5)
    found = error_correlation(run, samples=100)
    models, matrix = matrix_of(found)
    assert models == ("a", "c", "b")  # by score
    order = [run.models.index(m) for m in models]
    expected = np.corrcoef(run.scores[:, order].T)
    np.testing.assert_allclose(matrix[np.triu_indices(3, 1)], expected[np.triu_indices(3, 1)])
    assert np.isnan(np.diag(matrix)).all()
    ab = pair(error_correlation(table(SIX)), "a", "b")
    assert (ab.items, ab.both, ab.first_only, ab.second_only) == (6, 0, 1, 3)


def test_the_interval_of_phi_is_close_to_that_of_resampled_correlations():
    """The linear expansion gives the ends that recomputing phi on every resample gives, to 0.02."""
    run = drawn(600, [0.7, 0.5], common=0.6)
    found = error_correlation(run, samples=2000).rows[0]
    rng = np.random.default_rng(5)
    again = [np.corrcoef(run.scores[rng.integers(0, 600, 600)].T)[0, 1] for _ in range(1000)]
    assert (found.value.low, found.value.high) == pytest.approx(tuple(np.percentile(again, [2.5, 97.5])), abs=0.02)


def test_phi_of_a_model_that_is_never_wrong_is_unknown():
    """There is nothing to correlate; the others are not affected."""
    found = error_correlation(table([["1", "1", "2"], ["1", "2", "1"], ["1", "2", "2"], ["1", "1", "1"]]))
    unknown = pair(found, "a", "b").value
    assert np.isnan([unknown.value, unknown.low, unknown.high]).all()
    assert pair(found, "b", "c").value.value == pytest.approx(0.0)
    assert found.df()["relation"].tolist() == ["error correlation"] * 3


def test_agreement_counts_items_that_both_answer():
    """By hand, with a missing answer: a and b say the same on 1 of the 2 items that both answer."""
    found = agreement_matrix(table([["1", "1", "2"], ["1", None, "2"], ["3", "2", "2"]]))
    ab = pair(found, "a", "b")
    assert (ab.value.value, ab.items, ab.both, ab.first_only, ab.second_only) == (0.5, 2, 1, 1, 0)
    assert (ab.value.low, ab.value.high) == wilson_interval(0.5, 2)
    assert pair(found, "b", "c").value.value == 0.5
    assert pair(found, "a", "c").value.value == 0.0


def test_agreement_needs_no_scores_and_is_unknown_without_a_common_item():
    """Unlabelled runs have it too."""
    found = agreement_matrix(table([["x", None], [None, "y"], ["x", None]], scores=[[NAN, NAN]] * 3))
    assert np.isnan(found.rows[0].value.value)
    assert (found.rows[0].first_only, found.rows[0].second_only, found.items, found.items_dropped) == (2, 1, 3, 0)


def test_pairs_need_two_models_and_right_or_wrong_answers():
    """One model has no pair; graded scores have no errors to correlate."""
    one = table([["1"], ["2"]])
    for call in (error_correlation, agreement_matrix):
        assert refusal(lambda call=call: call(one)).code == "validation.models"
    graded = table([["x", "y"]] * 3, scores=[[0.5, 1.0]] * 3, score_kind="bleu")
    assert refusal(lambda: error_correlation(graded)).code == "validation.score_kind"


# --- sub-pools ------------------------------------------------------------------------------------------


def test_gains_of_pairs_are_those_of_votes_counted():
    """Spread, best member and gain of each two models of six items, the smallest spread first."""
    found = spread_curve(table(SIX), size=2, samples=50)
    assert found.about == {"size": 2, "possible": 3}
    assert [p.models for p in found] == [("b", "c"), ("a", "b"), ("a", "c")]
    assert [p.best for p in found] == ["b", "a", "a"]
    assert [p.spread for p in found] == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    expected = [
        np.mean([vote_of(row, members) for row in SIX]) - best
        for members, best in (([1, 2], 3 / 6), ([0, 1], 5 / 6), ([0, 2], 5 / 6))
    ]
    assert [p.gain.value for p in found] == pytest.approx(expected)
    assert all(p.gain.low <= p.gain.value <= p.gain.high for p in found)


def test_more_than_500_sub_pools_are_drawn_with_the_seed():
    """Different ones, the same for a seed and others for another; all of them where there are fewer."""
    run = drawn(20, [0.5] * 16)
    found = spread_curve(run, samples=10)
    assert found.about["possible"] == 560
    assert len({p.models for p in found}) == len(found.rows) == 500
    assert all(len(set(p.models)) == 3 and list(p.models) == sorted(p.models) for p in found)
    assert {p.models for p in spread_curve(run, samples=10)} == {p.models for p in found}
    assert {p.models for p in spread_curve(run, samples=10, seed=1)} != {p.models for p in found}
    assert len(spread_curve(run, size=15, samples=10).rows) == 16


@pytest.mark.parametrize("size", [1, 4])
def test_sub_pools_have_from_two_to_all_models(size: int):
    """A vote of one is no vote, and of more than there are none."""
    assert refusal(lambda: spread_curve(table(SIX), size=size)).code == "validation.models"


def curve(*points: tuple[float, float, float, float], unit: str = "fraction") -> Found[SubPool]:
    """Sub-pools from spread, gain and its two ends."""
    from workbench.study.timings import Estimate

    rows = [
        SubPool(models=("a", "b"), best="a", spread=s, gain=Estimate(value=g, low=low, high=high))
        for s, g, low, high in points
    ]
    return Found(
        rows=tuple(rows), run="r", name="n", source="s", unit=unit, items=9, items_dropped=0, samples=1, seed=0,
        about={},
    )  # fmt: skip


def test_bins_count_sub_pools_from_an_edge_up_to_below_the_next():
    """By hand; the last bin holds its upper edge too, and an empty one has no share."""
    found = spread_bins(
        curve((0.0, 0.2, 0.1, 0.3), (0.05, -0.1, -0.2, -0.05), (0.07, 0.1, -0.1, 0.2), (1.0, -1, -2, -1))
    )
    assert [(b.low, b.high) for b in found] == list(pairwise(EDGES))
    assert [b.pools for b in found] == [1, 2, 0, 0, 1]
    assert [b.won for b in found] == pytest.approx([1.0, 0.5, NAN, NAN, 0.0], nan_ok=True)
    assert [(b.better, b.worse) for b in found] == [(1, 0), (0, 1), (0, 0), (0, 0), (0, 1)]
    assert found[1].mean_gain == pytest.approx(0.0)


def test_bins_of_graded_scores_are_fifths_of_the_widest_spread_and_edges_can_be_given():
    """No pool is lost at the upper end."""
    found = curve((0.5, 1, 1, 1), (10.0, 1, 1, 1), unit="mqm")
    assert [b.high for b in spread_bins(found)] == [2, 4, 6, 8, 10]
    assert sum(b.pools for b in spread_bins(found)) == 2
    assert [b.pools for b in spread_bins(found, [0, 1])] == [1]
    assert [b.pools for b in spread_bins(curve((0.0, 1, 1, 1), unit="mqm"))] == [1, 0, 0, 0, 0]


# --- categories -----------------------------------------------------------------------------------------


def test_categories_are_compared_with_the_best_single_model_of_all_items():
    """The vote on the two categories of six items, by hand."""
    found = by_group(table(SIX, groups=["x", "x", "x", "y", "y", "y"]), [MajorityVoting()], samples=200)
    assert found.about["best_single"] == "a"
    assert [(r.group, r.kind, r.strategy) for r in found][:4] == [
        ("x", "merge", "majority_voting"), ("x", "single", "a"), ("x", "single", "b"), ("x", "single", "c"),
    ]  # fmt: skip
    votes = [r for r in found if r.kind == "merge"]
    assert [r.score for r in votes] == pytest.approx([2 / 3, 4 / 9])
    assert [r.delta.value for r in votes] == pytest.approx([2 / 3 - 1, 4 / 9 - 2 / 3])
    assert [r.items for r in votes] == [3, 3]
    best = [r for r in found if r.strategy == "a"]
    assert {(r.delta.value, r.p_value, r.p_holm, r.verdict) for r in best} == {(0.0, 1.0, 1.0, "cannot tell")}


def test_a_category_is_told_from_chance_after_the_correction_only():
    """b is right on all 12 items of x, where a is wrong: p = 2/4096; on the others nothing differs."""
    answers = [["2", "1"]] * 12 + [["1", "1"]] * 8 + [["1", "2"]] * 14
    found = by_group(table(answers, groups=["x"] * 12 + ["y"] * 8 + ["z"] * 14), [], samples=20_000)
    rows = {r.group: r for r in found if r.strategy == "b"}
    assert found.about["best_single"] == "a"
    assert rows["x"].p_value == pytest.approx(2 / 4096, abs=6e-4)
    assert rows["x"].p_holm == pytest.approx(2 * rows["x"].p_value)  # z is smaller still
    assert {g: r.verdict for g, r in rows.items()} == {"x": "better", "y": "cannot tell", "z": "worse"}
    assert rows["x"].delta.value == 1.0


def test_a_category_of_one_item_has_no_interval():
    """It is listed all the same."""
    found = by_group(table(SIX, groups=["x"] * 5 + ["y"]), [MajorityVoting()], samples=20)
    alone = next(r for r in found if r.group == "y")
    assert (alone.items, alone.delta.value, alone.p_value) == (1, -1.0, 1.0)
    assert np.isnan([alone.delta.low, alone.delta.high]).all()


def test_two_merges_of_one_name_are_told_apart_by_their_parameters():
    """The built-in ones are those of a comparison, unless others are given."""
    weights = [WeightedConsensus({"a": x, "b": 1.0, "c": 1.0}) for x in (3.0, 5.0)]
    run = table(SIX, groups=list("xyxyxy"))
    names = {r.strategy for r in by_group(run, weights, samples=20) if r.kind == "merge"}
    assert len(names) == 2
    assert all("'a': " in name for name in names)
    built_in = {r.strategy for r in by_group(run, samples=20) if r.kind == "merge"}
    assert built_in == {"majority_voting", "weighted_consensus", "best_of_n"}


def test_a_run_without_texts_compares_its_models_alone():
    """Nothing can be merged, and the models differ by category all the same."""
    found = by_group(replace(table(SIX, groups=list("xyxyxy")), ballots=None), samples=20)
    assert {(r.kind, r.strategy) for r in found} == {("single", m) for m in "abc"}


def test_learners_are_judged_on_items_of_other_folds():
    """One that is right only on as many items as it has seen is right nowhere."""
    found = by_group(table([["1", "2"]] * 40, groups=["x", "y"] * 20), [Remembers()], samples=20)
    assert [r.score for r in found if r.kind == "merge"] == [0.0, 0.0]


def _answers(run: RunTable) -> list[list[str | None]]:
    assert run.ballots is not None
    b = run.ballots
    return [[None if c < 0 else b.answers[i][c] for c in row] for i, row in enumerate(b.codes)]


def test_a_run_of_one_category_is_refused():
    """There is nothing to tell apart, be it named or not."""
    for groups in ((), ["x"] * 6):
        refused = refusal(lambda groups=groups: by_group(table(SIX, groups=groups)))
        assert refused.code == "data.no_groups"


def test_sign_flips_of_wins_and_losses_are_mcnemars_exact_test():
    """9 won and 2 lost of 20: p = 2 P(X <= 2), X binomial with 11 and 1/2; 134 / 2048."""
    differences = np.array([[1.0] * 9 + [-1.0] * 2 + [0.0] * 9, [0.0] * 20]).T
    found = sign_flip(differences, samples=40_000)
    assert found[0] == pytest.approx(134 / 2048, abs=0.005)
    assert found[1] == 1.0
    assert sign_flip(np.ones((30, 1)), samples=99)[0] == pytest.approx(0.01)  # never 0: the data are one draw more


def test_sign_flips_do_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch):
    """Draws come from one stream, piece by piece."""
    differences = np.random.default_rng(0).normal(size=(10, 2)) + 0.3
    whole = sign_flip(differences, samples=100)
    monkeypatch.setattr("workbench.study.found.CHUNK_CELLS", 50)
    assert sign_flip(differences, samples=100).tolist() == whole.tolist()


# --- confidence -----------------------------------------------------------------------------------------


def test_the_reliability_of_a_vote_is_counted_by_hand():
    """Six items: unanimity once, two of three four times, and a tie of three with a third right."""
    found = reliability_of(table(SIX), MajorityVoting(), bins=3)
    assert [(b.low, b.high, b.items) for b in found] == [
        (0.0, pytest.approx(1 / 3), 1), (pytest.approx(1 / 3), pytest.approx(2 / 3), 4), (pytest.approx(2 / 3), 1.0, 1)
    ]  # fmt: skip
    assert [b.confidence for b in found] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert [b.right.value for b in found] == pytest.approx([1 / 3, 0.5, 1.0])
    assert (found.rows[1].right.low, found.rows[1].right.high) == pytest.approx(wilson_interval(0.5, 4))
    assert found.about == {
        "strategy": "majority_voting",
        "expected_calibration_error": pytest.approx((0 + 4 * (2 / 3 - 1 / 2) + 0) / 6),
    }


def test_the_reliability_of_a_choice_by_quality_goes_by_the_quality_on_other_items():
    """The best of three is a, right on five of six: alone with its answer on four, with another on one, all on one."""
    found = reliability_of(table(SIX), BestOfN(), bins=3)
    assert [(b.items, round(b.confidence, 9)) for b in found] == [(4, round(1 / 3, 9)), (1, round(2 / 3, 9)), (1, 1.0)]
    assert sum(b.items * b.right.value for b in found) == pytest.approx(5)


@pytest.mark.parametrize("n", [6, 40])
def test_a_learner_is_fitted_without_the_items_that_judge_it(n: int):
    """One that is right only on as many items as it has seen is right nowhere, also with fewer items than folds."""
    found = reliability_of(table([["1", "2"]] * n), Remembers())
    assert sum(b.items for b in found) == n
    assert all(b.right.value == 0.0 for b in found)


@dataclass(frozen=True)
class Remembers:
    """Says what a says where it is asked for as many items as it has seen, else what b says."""

    seen: int = 0
    name = "remembers"

    @property
    def fitted(self) -> bool:
        return self.seen > 0

    def fit(self, pool: Pool, values: Any) -> Remembers:
        return Remembers(seen=len(pool))

    def over(self, pool: Pool) -> Any:
        from workbench.decide.pool import outcome_of

        share = np.zeros((len(pool), pool.ballots.width))
        share[:, 0 if len(pool) == self.seen else 1] = 1.0
        return outcome_of(pool.ballots, share)

    def __call__(self, contributions: Any) -> Any:
        raise AssertionError("decided item by item")


@dataclass(frozen=True)
class OneByOne:
    """A merge of the user's own, without an array form."""

    name = "one_by_one"

    def __call__(self, contributions: Any) -> Any:
        raise AssertionError("not reached")


def test_reliability_needs_a_strategy_over_pools_and_right_or_wrong_answers():
    """What cannot be judged is refused, with what to do."""
    refused = refusal(lambda: reliability_of(table(SIX), OneByOne()))
    assert refused.code == "validation.strategy"
    assert "over(pool)" in str(refused.next_step)
    graded = table([["x", "y"]] * 3, scores=[[-0.5, -1.0]] * 3)
    assert refusal(lambda: reliability_of(graded, MajorityVoting())).code == "validation.score_kind"
    assert refusal(lambda: reliability_of(table(SIX), BestOfN(), bins=0)).code == "validation.calibration"


# --- without labels -------------------------------------------------------------------------------------


def test_independent_models_of_like_accuracy_raise_no_warning():
    """Nothing speaks against their vote."""
    assert warn_without_labels(drawn(400, [0.8, 0.8, 0.8, 0.8, 0.8]).pool()) == ()


def test_two_models_that_err_together_are_named():
    """Of six, those that copy each other; then what to label."""
    run = drawn(400, [0.7] * 5)
    copied = table([[*row, row[4]] for row in _answers(run)])
    told = warn_without_labels(copied.pool())
    assert told[0].startswith("Models err together, and a vote counts their common errors twice: e and f agree on 100")
    first = ", ".join(map(str, label_first(copied.pool(), 5)))
    assert told[-1].endswith(f"first those at the positions {first}.")


def test_a_wide_spread_of_estimated_accuracies_is_told():
    """The best and the worst by the votes alone, within five points of their 90 % and 50 %."""
    told = warn_without_labels(drawn(1000, [0.9, 0.8, 0.8, 0.5], options=10).pool())
    spread = re.match(r"By the votes alone, a is right on (\d+)% of items and d on (\d+)%", told[0])
    assert spread is not None
    assert (int(spread[1]), int(spread[2])) == (pytest.approx(90, abs=5), pytest.approx(50, abs=5))


def test_answers_that_hardly_anybody_shares_make_a_vote_a_draw():
    """Free texts: nothing is said of accuracies that votes cannot tell."""
    texts = [[f"{i} by {j}" for j in range(4)] for i in range(20)]
    texts[3][1] = texts[3][0]
    told = warn_without_labels(table(texts).pool())
    assert told[0] == "On 95% of 20 items no two models say the same: a plain vote is a draw there."
    assert not any("By the votes alone" in t for t in told)


def test_few_models_cannot_be_tested_for_common_errors():
    """Two and three say so; one is refused."""
    for m in (2, 3):
        told = warn_without_labels(drawn(100, [0.7] * m).pool())
        assert told[0] == f"{m} models are too few to tell from their votes whether they err together."
    assert refusal(lambda: warn_without_labels(drawn(10, [0.5]).pool())).code == "validation.models"


def test_the_number_of_possible_answers_can_be_given():
    """With ever more possible answers, models that agree on a wrong one are less likely to do so by chance."""
    pool = drawn(300, [0.6] * 5, options=3).pool()
    assert warn_without_labels(pool) == warn_without_labels(pool, width=3)
    assert any("Models err together" in t for t in warn_without_labels(pool, width=1000))


def test_items_to_label_first_are_those_whose_votes_are_most_divided():
    """Three answers before two to one before unanimity; ties by position."""
    pool = table([["1", "1", "1"], ["1", "2", "2"], ["1", "2", "3"], ["2", "1", "1"], ["3", "2", "1"]]).pool()
    assert label_first(pool, 4) == (2, 4, 1, 3)
    assert label_first(pool, 99) == (2, 4, 1, 3, 0)
    assert refusal(lambda: label_first(pool, 0)).code == "validation.k"


# --- real answers ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mmlu_pro(recordings: Path) -> RunTable:
    """MMLU-Pro read from its file, every answer 1 where it is the reference."""
    import duckdb

    query = "select item_id, model, prompt, response, reference from read_parquet(?) order by item_id, model"
    rows = duckdb.connect().execute(query, [str(recordings / "mmlu_pro.parquet")]).fetchall()
    models = sorted({row[1] for row in rows})
    answers: dict[str, dict[str, str | None]] = {}
    for item, model, prompt, response, reference in rows:
        kind = infer_kind(reference, prompt)
        answer = extract(response, kind, options=options_in(prompt))
        answers.setdefault(item, {})[model] = "1" if answer == normalise(reference, kind) else answer
    return table([[row[m] for m in models] for row in answers.values()], models=models)


@pytest.mark.long
@pytest.mark.no_cover
def test_votes_of_three_models_win_where_they_are_close(mmlu_pro: RunTable):
    """The 220 triples of MMLU-Pro, each vote counted by a Counter: the numbers of docs/reference/understanding.md."""
    rows = _answers(mmlu_pro)
    right = mmlu_pro.scores.mean(axis=0)
    won: Counter[int] = Counter()
    pools: Counter[int] = Counter()
    for triple in combinations(range(12), 3):
        best, worst = (pick(right[j] for j in triple) for pick in (max, min))
        place = min(4, int((best - worst) / 0.05))
        pools[place] += 1
        won[place] += sum(vote_of(row, triple) for row in rows) / len(rows) > best
    found = spread_bins(spread_curve(mmlu_pro, samples=100))
    assert [b.pools for b in found] == [pools[k] for k in range(5)] == [5, 26, 34, 19, 136]
    assert [round(b.won * b.pools) for b in found] == [won[k] for k in range(5)] == [5, 19, 20, 1, 3]


@pytest.mark.long
@pytest.mark.no_cover
def test_shares_of_the_five_closest_models_are_those_of_all_orders(mmlu_pro: RunTable):
    """Five models of MMLU-Pro, all 120 orders counted by a Counter: the numbers of docs/reference/understanding.md."""
    chosen = mmlu_pro.of_models(mmlu_pro.closest(5))
    found = {v.model: v for v in model_values(chosen)}
    shares = dict(zip(chosen.models, _shares_by_subset(_answers(chosen)), strict=True))
    for model, v in found.items():
        assert v.shapley.value == pytest.approx(shares[model])
    assert {m: round(100 * v.shapley.value, 1) for m, v in found.items()} == {
        "Meta-Llama-3_1-8B-Instruct": 11.3, "Phi-3-mini-4k-instruct": 11.1, "mathstral-7B": 10.6,
        "Mixtral-8x7B-Instruct-v0.1": 10.4, "c4ai-command-r-v01": 8.7,
    }  # fmt: skip


def _shares_by_subset(answers: Answers) -> list[float]:
    """As `shares_of`, every subset counted once."""
    m = len(answers[0])
    worth = {
        s: sum(vote_of(row, s) for row in answers) / len(answers)
        for k in range(m + 1)
        for s in combinations(range(m), k)
    }
    gained = [0.0] * m
    for order in permutations(range(m)):
        for k, j in enumerate(order):
            gained[j] += worth[tuple(sorted(order[: k + 1]))] - worth[tuple(sorted(order[:k]))]
    return [g / math.factorial(m) for g in gained]


@pytest.mark.parametrize("given", [None, 5, "x", object()], ids=["none", "number", "text", "object"])
@pytest.mark.parametrize("look", [model_values, error_correlation, agreement_matrix, spread_curve, by_group])
def test_what_is_no_table_is_refused(look, given):
    """A run has its table in `run.table`."""
    with pytest.raises(LLMValidationError) as caught:
        look(given)
    assert caught.value.code == "validation.table"


@pytest.mark.parametrize("look", [warn_without_labels, lambda pool: label_first(pool, 1)])
def test_what_is_no_pool_is_refused(look):
    """A run has its pool in `run.pool`."""
    with pytest.raises(LLMValidationError) as caught:
        look(None)
    assert caught.value.code == "validation.pool"
