"""Fitted weights with their honest number, and settings read one after another."""

from __future__ import annotations

import numpy as np
import pytest

from study.test_compare import table
from study.test_gains import graded, planted
from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus
from workbench.decide.pool import Pool
from workbench.errors import LLMValidationError
from workbench.study.compare import compare
from workbench.study.tune import Setting, Tuner, fit_weights

MODELS = ("a", "b", "c")


def priced(run, cost, latency):
    """The run's pool with a cost in USD and a latency in ms of each model, the same on every item."""
    n = len(run.item_ids)
    return Pool.of(run.ballots, cost_usd=np.tile(cost, (n, 1)), latency_ms=np.tile(latency, (n, 1)))


def useless(n=200, seed=3):
    """Three models that are right by a coin of their own: no weights are better than others."""
    rng = np.random.default_rng(seed)
    return table(
        [
            ["x" if c else f"wrong {name}" for c, name in zip(row, MODELS, strict=True)]
            for row in rng.random((n, 3)) < 0.5
        ],
        references=["x"] * n,
    )


# -- fitted weights


def test_the_honest_number_is_smaller_than_the_apparent_one_where_there_is_nothing_to_find():
    """Among models that are alike, the best vector gains by luck where it was chosen, and loses that elsewhere."""
    run = useless()
    fitted = fit_weights(run, run.pool(), splits=40)
    assert fitted.optimism > 0
    assert fitted.shrunk_delta == pytest.approx(fitted.apparent_delta - fitted.optimism)
    assert fitted.shrunk_delta < fitted.apparent_delta
    assert fitted.low <= fitted.delta <= fitted.high


def test_weights_that_help_are_found_and_hold_on_the_other_half():
    """Two good models and a good deal of noise: the vote that trusts the good ones is better than either."""
    rng = np.random.default_rng(5)
    n = 400
    right = np.column_stack([rng.random(n) < p for p in (0.75, 0.75, 0.75, 0.2)])
    noise = rng.integers(0, 2, (n, 4))
    answers = [
        ["gold" if ok else f"wrong {k}" for ok, k in zip(r, z, strict=True)] for r, z in zip(right, noise, strict=True)
    ]
    run = table(answers, references=["gold"] * n, models=("a", "b", "c", "d"))
    fitted = fit_weights(run, run.pool(), splits=30)
    assert fitted.verdict == "better"
    assert fitted.weights["d"] < min(fitted.weights[m] for m in "abc")
    assert sum(fitted.weights.values()) == pytest.approx(1.0)
    # The apparent gain is what a comparison of these weights finds on all items.
    told = compare(run, [fitted.merge], samples=50, splits=10).strategies[0]
    assert fitted.apparent_delta == pytest.approx(told.delta)
    assert isinstance(fitted.merge, WeightedConsensus)


def test_the_cheapest_members_that_are_no_worse_are_found():
    """One model alone is as good as any vote with the dear one, so nobody else is asked."""
    n = 60
    answers = [["x", "x", f"wrong {i}"] if i % 3 else [f"w{i}", f"v{i}", f"u{i}"] for i in range(n)]
    run = table(answers, references=["x"] * n)
    pool = priced(run, [0.5, 0.1, 0.05], [100.0, 900.0, 50.0])
    cheap = fit_weights(run, pool, objective="cost", splits=10)
    assert {m for m, w in cheap.weights.items() if w > 0} == {"b"}  # as right as a, and c is never right
    assert (cheap.cost_usd, cheap.latency_ms) == (pytest.approx(0.1), pytest.approx(900.0))
    fast = fit_weights(run, pool, objective="latency", splits=10)
    assert {m for m, w in fast.weights.items() if w > 0} == {"a"}
    mixed = fit_weights(run, pool, objective={"accuracy": 1.0, "cost_usd": 0.001, "latency_ms": 0.01}, splits=10)
    assert {m for m, w in mixed.weights.items() if w > 0} <= {"a", "c"}


def test_an_unknown_cost_is_not_taken_for_none():
    """A model without a price cannot be weighed by cost; accuracy needs none, and shows none."""
    run = planted(60)
    with pytest.raises(LLMValidationError, match="cost of some model") as unknown:
        fit_weights(run, run.pool(), objective="cost", splits=4)
    assert unknown.value.code == "validation.objective"
    with pytest.raises(LLMValidationError, match="latency"):
        fit_weights(run, run.pool(), objective={"accuracy": 1.0, "latency_ms": 1e-4}, splits=4)
    assert fit_weights(run, run.pool(), splits=4).cost_usd is None


@pytest.mark.parametrize(
    "objective",
    [
        "speed", {}, {"acuracy": 1.0}, {"accuracy": -1.0}, {"accuracy": float("nan")}, None, 5, ["accuracy"],
        {"accuracy": "x"}, {"accuracy": 1e308}, {"accuracy": 10**400}, np.array([1.0, 2.0]),
    ],
)  # fmt: skip
def test_an_objective_that_is_none_is_refused(objective):
    """The error names what there is."""
    run = planted(30)
    with pytest.raises(LLMValidationError, match="objective") as refused:
        fit_weights(run, run.pool(), objective=objective, splits=4)
    assert refused.value.code == "validation.objective"
    assert len(refused.value.next_step) <= 160


def test_one_model_and_unlabelled_items_are_refused():
    """There is nothing to weigh, or nothing to weigh by."""
    run = planted(30).of_models(["a"])
    with pytest.raises(LLMValidationError) as alone:
        fit_weights(run, run.pool(), splits=4)
    assert alone.value.code == "validation.models"
    bare = table([["x", "y"]] * 3, scores=[[np.nan, 1.0]] * 3, models=("a", "b"))
    with pytest.raises(LLMValidationError) as blind:
        Tuner(bare)
    assert blind.value.code == "data.no_scores"


def test_a_rated_run_is_weighed_in_its_own_unit():
    """Ratings are no shares; the gain is counted as they are."""
    run = graded(60)
    fitted = fit_weights(run, run.pool(), splits=10)
    assert fitted.unit == "human_mqm_negated"
    assert abs(fitted.apparent_delta) < 5


# -- settings


@pytest.mark.parametrize("strategy", ["majority_voting", "weighted_consensus", "best_of_n"])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_reading_is_the_comparison_of_its_merge(strategy, threshold):
    """Score, difference and counts equal those of a comparison; the interval comes from fewer samples and is close."""
    run = planted(120)
    tuner = Tuner(run)
    weights = dict(zip(run.models, (1.0, 0.5, 0.5, 0.1), strict=True))
    reading = tuner.read(Setting(strategy=strategy, weights=weights, threshold=threshold))
    merge = {
        "majority_voting": MajorityVoting(threshold),
        "weighted_consensus": WeightedConsensus(weights, threshold),
        "best_of_n": BestOfN(threshold),
    }[strategy]
    told = compare(run, [merge], splits=10).strategies[0]
    assert (reading.score, reading.delta) == (pytest.approx(told.score), pytest.approx(told.delta))
    assert (reading.better, reading.worse, reading.tied) == (told.gained, told.lost, pytest.approx(told.tied))
    assert (reading.low, reading.high) == (pytest.approx(told.ci_low, abs=0.01), pytest.approx(told.ci_high, abs=0.01))


def test_a_rated_run_is_read_by_the_response_that_is_given():
    """Best-of-n is worth the rating of the response that it takes."""
    run = graded(40)
    reading = Tuner(run).read(Setting(strategy="best_of_n", weights={"a": 1.0, "b": 1.0}))
    assert reading.score == pytest.approx(compare(run, [BestOfN()], splits=10, samples=50).strategies[0].score)


def test_settings_that_cannot_be_are_refused():
    """Weights that are all 0, of a stranger, a strategy that is none, a threshold beyond 1."""
    tuner = Tuner(planted(30))
    good = tuner.start().weights
    for setting, code in [
        (Setting(strategy="weighted_consensus", weights=dict.fromkeys(good, 0.0)), "validation.weights"),
        (Setting(strategy="weighted_consensus", weights={**good, "z": 1.0}), "validation.weights"),
        (Setting(strategy="best", weights=good), "validation.strategy"),
        (Setting(strategy="majority_voting", weights=good, threshold=1.5), "validation.threshold"),
    ]:
        with pytest.raises(LLMValidationError) as refused:
            tuner.read(setting)
        assert refused.value.code == code
    with pytest.raises(LLMValidationError):
        tuner.start({"a": 1.0})


def test_an_item_without_a_winner_is_the_worst_there_is_where_ratings_leave_the_unit_interval():
    """A member that often has no answer gains nothing by it: no answer to a negated error count is not 0, the best."""
    n = 40
    answers = [["x" if i % 2 else None, "y"] for i in range(n)]
    run = table(answers, scores=[[-5.0, -3.0]] * n, models=("a", "b"), score_kind="human_mqm_negated")
    fitted = fit_weights(run, run.pool(), splits=4)
    assert (fitted.apparent_delta, fitted.delta) == (0.0, 0.0)  # b decides wherever it may, and is the best single
    assert fitted.weights["b"] > fitted.weights["a"]


@pytest.mark.parametrize("scores", [(0.4, 0.6), (-5.0, -3.0)])
def test_a_setting_without_a_winner_scores_as_in_a_comparison(scores):
    """Shares without an answer are 0, other ratings the worst one seen."""
    answers = [["x" if i % 2 else None, f"y{i}"] for i in range(20)]
    run = table(answers, scores=[scores] * 20, models=("a", "b"), score_kind="rating")
    weights = {"a": 1.0, "b": 0.0}
    read = Tuner(run).read(Setting(strategy="weighted_consensus", weights=weights))
    told = compare(run, [WeightedConsensus(weights)], samples=10, splits=2).strategies[0]
    assert read.score == pytest.approx(told.score) == pytest.approx((scores[0] + (0 if scores[0] > 0 else -5)) / 2)
