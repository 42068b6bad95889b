"""Prompt styles on the same items: differences, tests and choices against second computations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from study.styled import styled_run
from workbench import Workbench
from workbench.errors import LLMValidationError
from workbench.study.styles import RULES, chosen_gains, style_gains, styled

NAN = float("nan")
# Ten items: cot wins four, loses one, both right on three, both wrong on two.
DIRECT = [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]
COT = [1, 1, 1, 1, 0, 1, 1, 1, 0, 0]


def test_a_gain_is_the_mean_difference_on_the_same_items() -> None:
    """(4 - 1) / 10, with McNemar's exact test over the five discordant items."""
    (row,) = style_gains(styled_run({("m", "direct"): DIRECT, ("m", "cot"): COT}), samples=500)
    assert (row.model, row.style, row.base, row.group, row.items) == ("m", "cot", "direct", "all", 10)
    assert (row.base_score, row.score) == (0.4, 0.7)
    assert row.gain.value == pytest.approx(0.3)
    assert row.test == "mcnemar"
    assert row.p_value == pytest.approx(binomtest(1, 5).pvalue)
    assert (row.p_holm, row.verdict) == (row.p_value, "cannot tell")


def test_graded_scores_are_tested_by_signs() -> None:
    """Differences of one sign on ten items are as rare as 2 in 2^10."""
    graded = {("m", "default"): np.full(10, 0.2), ("m", "verbose"): 0.3 + np.arange(10) / 100}
    (row,) = style_gains(styled_run(graded), samples=20_000)
    assert row.test == "sign_flip"
    assert row.p_value == pytest.approx(2 / 2**10, abs=1e-3)
    assert row.verdict == "better"


@pytest.mark.parametrize(
    ("styles", "base"),
    [(("cot", "direct"), "direct"), (("concise", "default"), "default"), (("direct", "unchanged"), "unchanged"),
     (("b", "a"), "b")],
    ids=["direct", "default", "unchanged", "first"],
)  # fmt: skip
def test_the_base_is_the_plain_style(styles: tuple[str, str], base: str) -> None:
    """`unchanged`, `default` or `direct`, and else the first."""
    (found,) = styled(styled_run({("m", styles[0]): DIRECT, ("m", styles[1]): COT}))
    assert found.base == base


def test_the_base_can_be_named() -> None:
    """Then the other style is compared with it, and models without it are left out."""
    run = styled_run({("m", "direct"): DIRECT, ("m", "cot"): COT, ("n", "a"): DIRECT, ("n", "b"): COT})
    found = style_gains(run, "cot", samples=100)
    assert found.about == {"without_base": "n"}
    (row,) = found
    assert (row.model, row.style, row.base) == ("m", "direct", "cot")
    assert row.gain.value == pytest.approx(-0.3)


def test_items_without_a_score_in_one_style_are_left_out_of_that_model() -> None:
    """Each model is compared on its own items, and what was left out is counted."""
    run = styled_run(
        {("m", "direct"): [NAN, *DIRECT[1:]], ("m", "cot"): COT, ("n", "direct"): DIRECT, ("n", "cot"): COT}
    )
    found = style_gains(run, samples=100)
    assert [(row.model, row.items) for row in found] == [("m", 9), ("n", 10)]
    assert (found.items, found.items_dropped) == (10, 0)


def test_groups_are_a_family_of_their_own() -> None:
    """Holm over the groups of one model and style; the overall row is another family."""
    better = np.r_[np.zeros(20), np.zeros(20)], np.r_[np.ones(20), np.zeros(20)]
    run = styled_run({("m", "direct"): better[0], ("m", "cot"): better[1]}, groups=["up"] * 20 + ["same"] * 20)
    whole, same, up = style_gains(run, samples=100)
    assert (whole.group, same.group, up.group) == ("all", "same", "up")
    # 20 of 20 discordant: 2 / 2^20, twice that after Holm over two groups; the other group has p = 1.
    assert up.p_value == pytest.approx(2 / 2**20)
    assert up.p_holm == pytest.approx(4 / 2**20)
    assert (same.p_value, same.p_holm) == (1.0, 1.0)
    assert (up.verdict, same.verdict) == ("better", "cannot tell")


def test_a_style_that_harms_is_worse() -> None:
    """Ten losses of ten are no chance."""
    (row,) = style_gains(styled_run({("m", "default"): [1] * 10, ("m", "concise"): [0] * 10}), samples=100)
    assert row.verdict == "worse"


@pytest.mark.parametrize(
    ("scores", "base", "code"),
    [
        ({("m", "direct"): DIRECT, ("n", "direct"): COT}, None, "validation.styles"),
        ({("m", "direct"): DIRECT, ("m", "cot"): COT}, "cott", "validation.styles"),
        ({("m", "direct"): [NAN] * 10, ("m", "cot"): COT}, None, "data.no_scores"),
    ],
    ids=["one style each", "unknown base", "no common items"],
)
def test_what_cannot_be_compared_is_refused(scores: dict, base: str | None, code: str) -> None:
    """It says what was found and what to do."""
    with pytest.raises(LLMValidationError) as refused:
        style_gains(styled_run(scores), base)
    assert refused.value.code == code
    assert refused.value.next_step


def test_an_unknown_base_has_a_hint() -> None:
    """The closest style is named."""
    with pytest.raises(LLMValidationError, match="only cot, direct") as refused:
        styled(styled_run({("m", "direct"): DIRECT, ("m", "cot"): COT}), "dirct")
    assert refused.value.next_step == "did you mean 'direct'?"


def test_a_model_that_never_answered_is_no_result() -> None:
    """A dead server scores 0 in every style; that is refused with its codes, not shown as a gain of 0."""
    run = styled_run({("m", "direct"): np.zeros(10), ("m", "cot"): np.zeros(10)})
    dead = replace(run, failures={(i, 0): "provider.connection" for i in range(10)})
    with pytest.raises(LLMValidationError, match=r"none of 10 items: provider\.connection") as refused:
        style_gains(dead)
    assert refused.value.code == "data.no_answers"
    some = replace(run, failures={(i, 0): "provider.connection" for i in range(9)})
    assert style_gains(some, samples=100).items == 10


# -- choosing on one half


def test_a_style_that_always_helps_is_chosen_and_keeps_its_gain() -> None:
    """Chosen on any half, judged on the other: exactly the gain, 1."""
    run = styled_run({("m", "direct"): np.zeros(40), ("m", "cot"): np.ones(40)})
    found = {row.rule: row for row in chosen_gains(run, splits=20)}
    assert {row.gain.value for row in found.values()} == {1.0}
    assert found["best style"].chosen == (("direct", 0.0), ("cot", pytest.approx(1.0)))


def test_a_lucky_style_loses_its_gain_on_other_items() -> None:
    """Of eight styles that are all the same coin the best on one half gains nothing on the other."""
    rng = np.random.default_rng(0)
    run = styled_run(
        {("m", "direct"): rng.integers(0, 2, 300), **{("m", f"s{k}"): rng.integers(0, 2, 300) for k in range(8)}}
    )
    found = {row.rule: row for row in chosen_gains(run, splits=50)}
    best_of_all = max(row.gain.value for row in style_gains(run, samples=100))
    assert found["best style"].gain.value < best_of_all
    assert abs(found["base unless sure"].gain.value) <= abs(found["best style"].gain.value) + 0.02


def test_groups_choose_for_themselves() -> None:
    """Where one style helps half of the groups and harms the others, choosing by group gains what one style cannot."""
    up, down = np.r_[np.zeros(40), np.ones(40)], np.r_[np.ones(40), np.zeros(40)]
    run = styled_run({("m", "direct"): up, ("m", "cot"): down}, groups=["a"] * 40 + ["b"] * 40)
    found = {row.rule: row for row in chosen_gains(run, splits=20)}
    assert set(found) == set(RULES)
    assert found["best style of each group"].gain.value == pytest.approx(0.5, abs=0.05)
    assert abs(found["best style"].gain.value) < 0.1


def test_one_group_is_no_choice_by_group() -> None:
    """The rule is left out where it would repeat another."""
    run = styled_run({("m", "direct"): DIRECT, ("m", "cot"): COT}, groups=["g"] * 10)
    assert [row.rule for row in chosen_gains(run, splits=5)] == ["best style", "base unless sure"]


# -- real recordings


@pytest.mark.recordings
@pytest.mark.slow
def test_step_by_step_gains_22_points_on_bbh_and_harms_word_sorting(recordings: Path, log_folder: Path) -> None:
    """The recorded gain, its interval, and the counts before and after Holm."""
    with Workbench.open(log_folder) as wb:
        wb.import_file(recordings / "bbh_direct_vs_cot.parquet")
        table = wb.run_sync("bbh_direct_vs_cot").table
    whole, *groups = style_gains(table)
    assert 100 * whole.gain.value == pytest.approx(22.1, abs=0.05)
    assert 100 * np.array([whole.gain.low, whole.gain.high]) == pytest.approx([20.5, 23.7], abs=0.1)
    assert (whole.items, len(groups)) == (4928, 20)
    better = [row for row in groups if row.p_value < 0.05 and row.gain.value > 0]
    assert len(better) == 13
    assert [row.group for row in groups if row.p_holm < 0.05 and row.gain.value < 0] == ["word_sorting"]
    assert sum(row.verdict == "better" for row in groups) == 11
    by_name = {row.group: row for row in groups}
    assert 100 * by_name["word_sorting"].gain.value == pytest.approx(-10.0)
    assert 100 * by_name["ruin_names"].gain.value == pytest.approx(-6.8)
    found = {row.rule: row for row in chosen_gains(table)}
    assert found["best style of each group"].gain.value > found["best style"].gain.value
