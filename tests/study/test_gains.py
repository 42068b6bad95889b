"""What merging adds, over pools: the same numbers as a comparison, and what does not apply is named."""

from __future__ import annotations

import numpy as np
import pytest

from study.test_compare import table
from workbench.decide.merge import MajorityVoting
from workbench.decide.policies import POLICIES, policy
from workbench.decide.strategies.auto import Auto
from workbench.decide.strategies.weighted import LogOdds, Stacking
from workbench.errors import LLMValidationError
from workbench.study.compare import compare
from workbench.study.gains import gains_of, shown, together

MODELS = ("a", "b", "c", "d")


def planted(n=120, *, skills=(0.8, 0.7, 0.68, 0.3), seed=1):
    """Models of these skills, whose wrong answers are of three kinds."""
    rng = np.random.default_rng(seed)
    right = rng.random((n, len(skills))) < np.array(skills)
    wrong = rng.integers(0, 3, (n, len(skills)))
    answers = [
        ["gold" if ok else f"wrong {w}" for ok, w in zip(row, kinds, strict=True)]
        for row, kinds in zip(right, wrong, strict=True)
    ]
    return table(answers, references=["gold"] * n, models=MODELS[: len(skills)])


def graded(n=40):
    """Two models with ratings, which are no shares of being right."""
    rng = np.random.default_rng(2)
    answers = [[f"text {i} of a", f"text {i} of b"] for i in range(n)]
    return table(answers, scores=rng.normal(-3, 1, (n, 2)), models=("a", "b"), score_kind="human_mqm_negated")


def test_a_row_says_what_the_comparison_says():
    """Difference and percentiles are those over half splits; headroom and spread are of the pool."""
    run = planted()
    found = gains_of(run, run.pool(), [MajorityVoting(), Stacking()], splits=20)
    told = compare(run, [MajorityVoting(), Stacking()], splits=20, samples=50)
    for row, strategy in zip(found.rows, told.strategies, strict=True):
        assert (row.delta, row.low, row.high) == (strategy.split_delta, strategy.split_low, strategy.split_high)
        assert row.strategy == strategy.strategy
        assert row.headroom == pytest.approx(told.oracle - told.best_single["score"])
    scores = run.scores[:, 0]
    assert found["tiny", "all", "stacking"].best_sd == pytest.approx(scores.std())
    assert (found.rows[0].models, found.rows[0].items, found.rows[0].source) == (4, 120, "recorded")


def test_a_pool_is_a_part_of_the_models():
    """The best and the closest by the scores of all items; the others take no part in anything."""
    run = planted()
    means = dict(zip(run.models, run.scores.mean(axis=0), strict=True))
    assert set(run.top(2)) == set(sorted(means, key=lambda m: -means[m])[:2])
    assert set(run.closest(2)) <= {"a", "b", "c"}
    part = run.chosen("top:3")
    assert "d" not in part.models
    same = planted(skills=(0.8, 0.7, 0.68, 0.3)).of_models(part.models)
    assert gains_of(run, run.pool(), [MajorityVoting()], which="top:3", splits=10).rows[0].delta == (
        compare(same, [MajorityVoting()], splits=10, samples=50).strategies[0].split_delta
    )


@pytest.mark.parametrize("pool", ["", "best", "top", "top:1", "top:5", "closest:x", "top:-2", "all:3"])
def test_a_pool_that_is_none_is_refused(pool: str):
    """The error says what there is."""
    run = planted()
    with pytest.raises(LLMValidationError, match="4 models") as refused:
        gains_of(run, run.pool(), [MajorityVoting()], which=pool)
    assert refused.value.code == "validation.pool"


def test_what_does_not_apply_is_left_out_by_name():
    """Log-odds read values as right or wrong, and ratings are neither; the others are there."""
    run = graded()
    found = gains_of(run, run.pool(), [LogOdds(), Stacking(), MajorityVoting()], splits=10)
    assert [row.strategy for row in found.rows] == ["stacking", "majority_voting"]
    [out] = found.left_out
    assert (out.strategy, out.pool) == ("log_odds", "all")
    assert "right or wrong" in out.reason


def test_the_unit_is_that_of_the_scores():
    """Shares are shown in points, ratings as they are."""
    run, rated = planted(), graded()
    points = gains_of(run, run.pool(), [MajorityVoting()], splits=10).rows[0]
    stars = gains_of(rated, rated.pool(), [MajorityVoting()], splits=10).rows[0]
    assert shown(points).startswith(f"{points.delta * 100:+.1f} [")
    assert (stars.unit, shown(stars).startswith(f"{stars.delta:+.3f} [")) == ("human_mqm_negated", True)


def test_auto_says_what_it_took_and_why():
    """The note names the strategy and the gains that it saw on other folds."""
    run = planted(300, skills=(0.7, 0.7, 0.68))
    found = gains_of(run, run.pool(), [Auto()], splits=10).rows[0]
    taken, _, why = found.note.partition(": ")
    assert taken in POLICIES
    assert "stacking" in why
    assert "±" in why


def test_tables_are_put_together():
    """Rows and what was left out, in order, and the frame has a line for each row."""
    run, rated = planted(), graded()
    both = together([gains_of(t, t.pool(), [policy("log_odds")], splits=10) for t in (run, rated)])
    assert len(both.rows) == len(both.left_out) == 1
    assert both.df()["strategy"].tolist() == ["log_odds"]
    assert both.as_dict()["splits"] == 10
    with pytest.raises(KeyError):
        both["tiny", "all", "auto"]
