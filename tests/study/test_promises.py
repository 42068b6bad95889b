"""Claimed gains beside recorded ones: confirmed, refuted, undecided, or not testable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from study.styled import styled_run
from workbench.errors import LLMValidationError
from workbench.study.promises import CLAIMS, Promise, promises
from workbench.study.table import RunTable


def code_run(base: float, better: float, n: int = 400, *, models: Sequence[str] = "m", seed: int = 0) -> RunTable:
    rng = np.random.default_rng(seed)
    scores = {
        (m, style): (rng.random(n) < p).astype(float) for m in models for style, p in (("default", base), ("s", better))
    }
    return styled_run(scores, tasks=["code_generation"] * n)


def of(task: str, *runs: RunTable) -> tuple[Promise, ...]:
    return tuple(row for row in promises(runs, splits=50) if row.task == task)


def test_every_claim_has_a_row_also_without_data() -> None:
    """What cannot be tested says what was looked through."""
    rows = promises([code_run(0.5, 0.5)], splits=5)
    assert [row.task for row in rows] == list(CLAIMS)
    for row in rows[:3]:
        assert (row.verdict, row.gain, row.claimed) == ("not testable", None, CLAIMS[row.task])
        assert "tiny (code_generation)" in row.reason
    assert "among: none" in promises([], splits=5)[0].reason


@pytest.mark.parametrize(
    ("base", "better", "verdict"),
    [(0.4, 0.8, "confirmed"), (0.5, 0.5, "refuted"), (0.5, 0.65, "cannot tell")],
    ids=["confirmed", "refuted", "cannot tell"],
)
def test_the_whole_interval_decides(base: float, better: float, verdict: str) -> None:
    """+30 % is claimed of code: doubling confirms it, no gain refutes it, and +30 % itself cannot be told."""
    run = code_run(base, better)
    (row,) = of("code_generation", run)
    assert row.verdict == verdict
    assert row.gain is not None
    plain, styled = run.scores.mean(axis=0)
    assert row.gain.value == pytest.approx(styled / plain - 1, abs=0.03)
    assert (row.base, row.styles, row.items, row.source) == ("default", ("s",), 400, "recorded")


def test_several_models_are_also_taken_together() -> None:
    """First all of them, each in its own best style, then each alone."""
    rows = of("code_generation", code_run(0.4, 0.5, models="mno"))
    assert [row.model for row in rows] == ["all 3 models", "m", "n", "o"]
    together = rows[0].gain
    assert together is not None
    assert together.value == pytest.approx(np.mean([row.gain.value for row in rows[1:] if row.gain]), abs=0.05)


def test_a_base_that_scores_nothing_has_no_relative_gain() -> None:
    """A share of nothing is not testable, and says why."""
    (row,) = of("code_generation", styled_run(
        {("m", "default"): np.zeros(20), ("m", "s"): np.ones(20)}, tasks=["code_generation"] * 20
    ))  # fmt: skip
    assert (row.verdict, row.gain) == ("not testable", None)
    assert "nothing" in row.reason


def test_only_items_of_the_claimed_task_count() -> None:
    """A recording with several task types is cut to the one that the claim is about."""
    run = styled_run(
        {("m", "default"): [1, 1, 0, 1] * 10, ("m", "s"): [1, 1, 1, 1] * 10},
        tasks=["code_generation", "general", "code_generation", "translation"] * 10,
    )
    (row,) = of("code_generation", run)
    assert row.items == 20
    (row,) = of("translation", run)
    assert (row.items, row.gain.value if row.gain else None) == (10, 0.0)


def test_a_run_without_styles_can_say_nothing() -> None:
    """It makes no claim testable, and does not keep others from being so."""
    plain = styled_run({("m", "default"): [1, 0]}, tasks=["code_generation"] * 2)
    (row,) = of("code_generation", plain)
    assert row.verdict == "not testable"
    (row,) = of("code_generation", plain, code_run(0.5, 0.5))
    assert row.verdict == "refuted"


def test_scores_below_0_have_no_relative_gain() -> None:
    """A share of a negative base means nothing."""
    (row,) = of("translation", styled_run(
        {("m", "default"): [-3.0, -1.0] * 10, ("m", "s"): [-1.0, 0.0] * 10}, tasks=["translation"] * 20
    ))  # fmt: skip
    assert (row.verdict, row.gain) == ("not testable", None)


def test_simulated_answers_test_no_claim() -> None:
    """What a style gains is declared there: it is shown, and neither confirms nor refutes anything."""
    (row,) = of("code_generation", code_run(0.4, 0.8, models=["simulated:m"]))
    assert row.verdict == "not testable"
    assert "declared" in row.reason
    assert row.gain is not None


def test_the_luck_of_the_best_of_many_styles_is_not_praised() -> None:
    """Eight styles that are the same coin gain nothing on the items that did not choose them."""
    rng = np.random.default_rng(3)
    scores = {("m", f"s{k}"): rng.integers(0, 2, 200) for k in range(8)}
    run = styled_run({("m", "default"): rng.integers(0, 2, 200), **scores}, tasks=["code_generation"] * 200)
    (row,) = of("code_generation", run)
    best_of_all = (
        max(values.mean() for values in scores.values()) / run.scores[:, run.models.index("m/default")].mean() - 1
    )
    assert row.gain is not None
    assert row.gain.value < best_of_all - 0.05


@pytest.mark.parametrize(
    ("given", "options", "code"), [([None], {}, "validation.table"), ([], {"seed": "x"}, "stats.seed")]
)
def test_bad_arguments_of_promises_are_refused(given: list, options: dict, code: str) -> None:
    """What is no table, and what is no seed."""
    with pytest.raises(LLMValidationError) as refused:
        promises(given, **options)
    assert refused.value.code == code
