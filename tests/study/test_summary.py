"""Words and numbers of a comparison, and what a run cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from workbench.facts import Call, Failure, Request, Response
from workbench.record.log import Log
from workbench.study.compare import Compared, Single, Strategy
from workbench.study.summary import difference, explain, interval, label, number, source_line, spent, unit_name


def single(model: str, score: float, **changes: Any) -> Single:
    given = {
        "ci_low": score - 0.1, "ci_high": score + 0.1, "source_score": None, "source_agreement": None, "answered": 1.0,
        "delta": 0.0, "delta_low": 0.0, "delta_high": 0.0, "verdict": "cannot tell",
    }  # fmt: skip
    return Single(model=model, score=score, **{**given, **changes})


def strategy(**changes: Any) -> Strategy:
    given = {
        "strategy": "majority_voting", "params": {}, "score": 0.5, "delta": -0.081, "ci_low": -0.101, "ci_high": -0.062,
        "verdict": "worse", "split_delta": -0.0805, "split_low": -0.099, "split_high": -0.06, "split_verdict": "worse",
        "conclusion": "worse", "gained": 12, "lost": 120, "tied": 0.4, "mcnemar_p": None, "mde": 0.028,
    }  # fmt: skip
    return Strategy(**{**given, **changes})


def compared(*strategies: Strategy, **changes: Any) -> Compared:
    given = {
        "run": "r", "name": "tiny", "source": "recorded", "items": 1319, "items_dropped": 0, "models": ("good", "poor"),
        "score_kind": "correct", "unit": "fraction", "best_single": {"model": "good", "score": 0.5625},
        "singles": (single("good", 0.5625), single("poor", 0.217)), "oracle": 0.7, "spread": 0.3456, "samples": 10000,
        "splits": 100, "seed": 0,
    }  # fmt: skip
    return Compared(strategies=strategies, **{**given, **changes})


def test_the_pool_is_described_before_any_merge():
    """Items, source, best and worst model with their scores, the spread, and the oracle by its name."""
    (pool,) = explain(compared())
    for part in ("On 1319 items (recorded)", "good with 0.5625", "34.6 points", "poor with 0.2170", "oracle", "0.7000"):
        assert part in pool


def test_a_worse_merge_is_said_to_hurt():
    """The sentence says so, with both intervals, the balance of items, and the spread of the models."""
    text = explain(compared(strategy()))[1]
    assert text.startswith("majority_voting hurt: -8.1 points [-10.1, -6.2] on all items, -8.1 [-9.9, -6.0]")
    assert "worse on 120 items and better on 12" in text
    assert "against good" in text
    assert "34.6 points" in text


def test_a_better_merge_is_said_to_help():
    """The sentence says so, with its numbers."""
    better = strategy(delta=0.075, ci_low=0.054, ci_high=0.096, split_delta=0.08, split_low=0.05, split_high=0.1,
                      verdict="better", split_verdict="better", conclusion="better")  # fmt: skip
    text = explain(compared(better))[1]
    assert text.startswith("majority_voting helped: +7.5 points [+5.4, +9.6] on all items, +8.0 [+5.0, +10.0]")


def test_an_open_question_names_what_could_have_been_seen():
    """Cannot tell comes with the smallest difference that this many items would show."""
    open_question = strategy(verdict="cannot tell", split_verdict="cannot tell", conclusion="cannot tell")
    text = explain(compared(open_question))[1]
    assert text.startswith("majority_voting: cannot tell it from good: ")
    assert text.endswith("A difference under 2.8 points would not show on 1319 items.")
    assert "hurt" not in text
    assert "helped" not in text


def test_two_forms_that_disagree_are_both_named():
    """The words say which form found what, and draw no conclusion."""
    text = explain(compared(strategy(split_verdict="cannot tell", conclusion="cannot tell")))[1]
    assert "cannot tell it from good" in text
    assert text.endswith("The two forms disagree (worse on all items, cannot tell on half splits).")


def test_best_of_n_is_not_said_to_have_been_outvoted():
    """A strategy that takes one model's answer counts no votes, so votes cannot be its reason."""
    text = explain(compared(strategy(strategy="best_of_n")))[1]
    assert text.startswith("best_of_n hurt")
    assert "outvoted" not in text


def test_dropped_items_are_told():
    """Items left out for want of a score are counted in a sentence; without any there is none."""
    assert explain(compared(strategy(), items_dropped=7))[0].endswith(
        "7 items without a score for every model were left out."
    )
    assert not any("left out" in text for text in explain(compared(strategy())))


def test_graded_scores_keep_their_unit():
    """Nothing is called points or multiplied by a hundred when the score is not a fraction."""
    graded = compared(strategy(), unit="mqm", score_kind="mqm", best_single={"model": "good", "score": -1.056})
    pool, text = explain(graded)
    assert "good with -1.056" in pool
    assert "-0.081 mqm [-0.101, -0.062] on all items" in text
    assert "points" not in pool + text


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (number(0.5625, "fraction"), "0.5625"),
        (number(1, "fraction"), "1.0000"),
        (number(-1.0561, "mqm"), "-1.056"),
        (difference(-0.0811, "fraction"), "-8.1"),
        (difference(0.5, "fraction"), "+50.0"),
        (difference(0.0, "fraction"), "+0.0"),
        (difference(0.25, "mqm"), "+0.250"),
        (interval(-0.1, 0.02, "fraction"), "[-10.0, +2.0]"),
        (interval(-0.1, 0.02, "mqm"), "[-0.100, +0.020]"),
        (unit_name("fraction"), "points"),
        (unit_name("mqm"), "mqm"),
    ],
)
def test_numbers_are_written_with_their_sign_and_unit(made: str, text: str):
    """Scores have four or three decimals, differences a sign, fractions are shown in points."""
    assert made == text


@pytest.mark.parametrize("unit", ["fraction", "mqm"])
def test_a_difference_that_rounds_to_nothing_has_no_minus(unit: str):
    """A tiny negative difference is not shown as minus zero."""
    assert difference(-1e-9, unit) == difference(0.0, unit)


def test_a_strategy_is_labelled_with_the_parameters_it_was_given():
    """Weights by model, threshold by name, and nothing where nothing was given."""
    assert label(strategy()) == "majority_voting"
    given = strategy(strategy="weighted_consensus", params={"weights": {"a": 0.5, "b": 2.0}, "threshold": 0.7})
    assert label(given) == "weighted_consensus(weights={a: 0.5, b: 2}, threshold=0.7)"
    nested = strategy(strategy="auto", params={"chosen": {"policy": "stacking", "params": {"weights": {"a": 0.5}}}})
    assert label(nested) == "auto(chosen={policy: stacking, params: {weights: {a: 0.5}}})"


def test_the_source_line_spans_the_models_agreements():
    """The lowest and the highest agreement, and no line where the source has no scores."""
    singles = (single("a", 0.5, source_agreement=0.9977), single("b", 0.4, source_agreement=0.981), single("c", 0.3))
    assert source_line(singles) == (
        "Agreement of the extracted answers with the source's own scores: 98.1 % to 99.8 % of items, by model."
    )
    assert source_line((single("c", 0.3),)) == ""


def call(
    span_id: str, model: str, latency_ms: float | None, cost_usd: float | None, ok: bool = True, item: str = ""
) -> Call:
    item_id = item or span_id
    request = Request.of("1?", item_id=item_id)
    response = Response(
        request_key="k", model=model, text="1", latency_ms=latency_ms, cost_usd=cost_usd, source="simulated"
    )
    failure = Failure(kind="LLMProviderError", code="provider.server", message="down")
    return Call(
        span_id=span_id, trace_id="t", run_id="r", item_id=item_id, provider="p", model=model, request=request,
        response=response if ok else None, failure=None if ok else failure, start_unix_ns=0, duration_ms=1.0,
    )  # fmt: skip


def test_what_was_spent_is_counted_by_model(log_folder):
    """Medians and 95th percentiles of answered calls, sums of known costs, and None for what is unknown."""
    log = Log.open(log_folder)
    log.write(*(call(f"a{k}", "a", 100.0 * k, 0.001) for k in range(1, 6)), call("a6", "a", None, None, ok=False))
    log.write(call("b1", "b", None, None))
    log.write(replace(call("x", "a", 9e9, 9e9), run_id="another"))
    found = spent(log, "r")
    log.close()
    # 100 .. 500 ms: median 300; the 95th percentile interpolates between the 4th and 5th value, 400 + 0.8 * 100.
    a, b = found["a"], found["b"]
    assert (a.calls, a.failed, a.source) == (6, 1, "simulated")
    assert (a.latency_p50_ms, a.latency_p95_ms) == (300.0, pytest.approx(480.0))
    assert a.cost_usd == pytest.approx(0.005)
    assert (b.calls, b.failed, b.latency_p50_ms, b.latency_p95_ms, b.cost_usd) == (1, 0, None, None, None)


def test_what_was_asked_again_counts_once(log_folder):
    """A run that was taken up again asks for what had failed: the answer counts, and not the failure before it."""
    log = Log.open(log_folder)
    log.write(call("a1", "a", None, None, ok=False, item="i1"), call("a2", "a", 100.0, 0.25, item="i1"))
    log.write(call("a3", "a", None, None, ok=False, item="i2"), call("a4", "a", None, None, ok=False, item="i2"))
    found = spent(log, "r")["a"]
    log.close()
    assert (found.calls, found.failed, found.cost_usd) == (2, 1, 0.25)
