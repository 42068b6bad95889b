"""Figures: the numbers against the comparison, the drawing against the numbers, and captions that name the source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from show.drawn import texts
from workbench import MajorityVoting, WeightedConsensus, Workbench, show
from workbench.session.run import Run
from workbench.show.plots import cost_values, delta_values, plain, score_values
from workbench.study.compare import Compared
from workbench.study.summary import Spent

HOSTILE = "<a href='javascript:alert(1)'>x</a><script>alert(2)</script>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with Workbench.open(tmp_path_factory.mktemp("plots") / "log") as wb:
        yield wb.run_sync("question_answering", merge="majority_voting")


@pytest.fixture(scope="module")
def found(run: Run) -> Compared:
    return run.compare().found


def title(figure: go.Figure) -> str:
    return str(figure.layout.title.text)


# --- numbers --------------------------------------------------------------------------------------------


def test_delta_values_are_the_differences_in_points(found: Compared):
    """Two marks a strategy: on all items and on half splits, a hundred times the fractions."""
    marks = delta_values(found)
    assert len(marks) == 2 * len(found.strategies) == 6
    for k, s in enumerate(found.strategies):
        whole, split = marks[2 * k], marks[2 * k + 1]
        assert (whole.label, split.label) == (s.strategy, s.strategy)
        assert (whole.value, whole.low, whole.high) == pytest.approx((s.delta * 100, s.ci_low * 100, s.ci_high * 100))
        assert (split.value, split.low, split.high) == pytest.approx(
            (s.split_delta * 100, s.split_low * 100, s.split_high * 100)
        )
        assert (whole.note, split.note) == (s.verdict, s.split_verdict)


def test_delta_values_of_graded_scores_keep_their_unit(found: Compared):
    """Nothing is multiplied by a hundred when a score is not a fraction."""
    marks = delta_values(replace(found, unit="mqm"))
    assert marks[0].value == pytest.approx(found.strategies[0].delta, abs=1e-6)
    figure = show.plot_deltas(replace(found, unit="mqm"))
    assert figure.layout.xaxis.title.text == "difference in mqm (right of 0: the merge is better)"


def test_score_values_are_models_and_merges_with_their_intervals(found: Compared):
    """Models have the interval of their score; merges that of their difference, around the best model's score."""
    marks = score_values(found)
    best = found.best_single["score"]
    assert [m.label for m in marks] == [s.model for s in found.singles] + [s.strategy for s in found.strategies]
    for mark, single in zip(marks, found.singles, strict=False):
        assert (mark.value, mark.low, mark.high) == pytest.approx(
            (single.score, single.ci_low, single.ci_high), abs=1e-6
        )
    for mark, s in zip(marks[len(found.singles) :], found.strategies, strict=True):
        assert (mark.value, mark.low, mark.high) == pytest.approx(
            (s.score, best + s.ci_low, best + s.ci_high), abs=1e-6
        )


def test_cost_values_are_those_of_the_log(run: Run, found: Compared):
    """Cost and median latency equal a pandas computation over the calls."""
    calls = run.log.frame("select model, cost_usd, latency_ms from calls where run_id = ?", [run.run_id])
    by_model = calls.groupby("model").agg(cost=("cost_usd", "sum"), p50=("latency_ms", "median"))
    rows = cost_values(found, run.spent)
    assert {r["model"] for r in rows} == set(by_model.index)
    for r in rows:
        assert (r["cost_usd"], r["latency_p50_ms"]) == pytest.approx(tuple(by_model.loc[r["model"]]), abs=1e-6)
        assert r["source"] == "simulated"


def test_models_without_cost_or_latency_are_left_out_of_the_cost_figure(found: Compared):
    """What a source does not tell is not drawn as 0."""
    unknown = Spent(
        model=found.singles[0].model, calls=48, failed=0, source="recorded", latency_p50_ms=None, latency_p95_ms=None,
        cost_usd=0.1,
    )  # fmt: skip
    assert cost_values(found, {unknown.model: unknown}) == []


# --- drawings -------------------------------------------------------------------------------------------


def bars(figure: go.Figure) -> dict[str, list[tuple[float, float, float]]]:
    """Value, low and high of every mark of every trace, read from the drawing."""
    return {
        t.name: [
            (x, x - m, x + p) for x, m, p in zip(t.x, t.error_x.arrayminus, t.error_x.array, strict=True)
        ]
        for t in figure.data
    }  # fmt: skip


@pytest.mark.parametrize(("plot", "values"), [(show.plot_deltas, delta_values), (show.plot_scores, score_values)])
def test_error_bars_reach_exactly_as_far_as_the_intervals(found: Compared, plot: Any, values: Any):
    """Every mark and its two ends, group by group, are the numbers of the value function."""
    drawn = bars(plot(found))
    wanted: dict[str, list[tuple[float, float, float]]] = {}
    for m in values(found):
        wanted.setdefault(m.group, []).append((m.value, m.low, m.high))
    assert drawn.keys() == wanted.keys()
    for group, marks in wanted.items():
        for ours, theirs in zip(drawn[group], marks, strict=True):
            assert ours == pytest.approx(theirs, abs=2e-6)


def test_error_bars_say_what_they_are(found: Compared):
    """The legend names bootstrap intervals and percentiles of half splits."""
    assert [t.name for t in show.plot_deltas(found).data] == [
        "all items, 95 % bootstrap", "half splits, 2.5-97.5 percentiles",
    ]  # fmt: skip
    assert all(t.error_x.type == "data" and t.error_x.symmetric is False for t in show.plot_scores(found).data)


def test_every_mark_stands_in_the_row_of_its_label(found: Compared):
    """The tick next to a mark is its own strategy, the first one on top."""
    figure = show.plot_deltas(found)
    names = list(figure.layout.yaxis.ticktext)
    assert names == [s.strategy for s in found.strategies]
    for trace in figure.data:
        assert [names[round(y)] for y in trace.y] == names
    low, high = figure.layout.yaxis.range
    assert low > high  # from the top down


@pytest.mark.parametrize("source", ["simulated", "recorded", "live+recorded"])
def test_captions_name_the_source_and_how_it_was_computed(found: Compared, source: str):
    """Items, source, samples and seed stand under the title of both figures."""
    for plot in (show.plot_deltas, show.plot_scores):
        text = title(plot(replace(found, source=source, seed=7)))
        assert f"48 items, source: {source}, 10000 bootstrap samples, seed 7" in text


def test_the_cost_figure_names_the_source_of_its_calls(run: Run, found: Compared):
    """Axes have units, the caption the source, the size of a point its latency."""
    figure = show.plot_cost(found, run.spent)
    assert "source: simulated" in title(figure)
    assert figure.layout.xaxis.title.text == "cost of 48 items in USD"
    assert list(figure.data[0].y) == [pytest.approx(s.score, abs=1e-6) for s in found.singles]
    assert len(figure.data[0].marker["size"]) == 3


def test_axes_carry_units_and_zero_is_marked(found: Compared):
    """Differences are in points, and a line stands at 0; the oracle is a line of its own."""
    deltas, scores = show.plot_deltas(found), show.plot_scores(found)
    assert deltas.layout.xaxis.title.text == "difference in points (right of 0: the merge is better)"
    assert [s.x0 for s in deltas.layout.shapes] == [0]
    assert scores.layout.xaxis.title.text == "share of items right"
    assert [s.x0 for s in scores.layout.shapes] == [pytest.approx(found.oracle, abs=1e-6)]
    assert scores.layout.annotations[0].text == "oracle"


def test_a_comparison_and_its_numbers_draw_the_same(run: Run, found: Compared):
    """Figures take what a notebook holds."""
    assert show.plot_deltas(run.compare()).to_json() == show.plot_deltas(found).to_json()
    assert show.plot_cost(run.compare(), run.spent).to_json() == show.plot_cost(found, run.spent).to_json()


def test_nothing_to_draw_is_an_empty_figure(found: Compared):
    """Without strategies or costs a figure is made all the same."""
    alone = replace(found, strategies=())
    assert len(show.plot_deltas(alone).data) == 0
    assert len(show.plot_scores(alone).data) == 1
    assert "source: none" in title(show.plot_cost(alone, {}))


def test_a_what_if_with_the_same_strategy_twice_draws_both(run: Run):
    """Weights tell them apart: every strategy has a row."""
    ones, twos = (WeightedConsensus(dict.fromkeys(run.table.models, w)) for w in (1.0, 2.0))
    figure = show.plot_deltas(run.what_if(ones, twos, MajorityVoting()))
    assert len(figure.layout.yaxis.ticktext) == 3


SCRIPT = """
import sys
from workbench import Workbench, show
wb = Workbench.open(sys.argv[1])
run = wb.get_run()
found = run.compare()
print(show.plot_deltas(found).to_json(), show.plot_scores(found).to_json(), show.plot_cost(found, run.spent).to_json())
"""


def test_the_json_of_a_figure_is_the_same_in_every_process(run: Run, found: Compared):
    """Two processes with different hash seeds write the same characters as this one, without random ids."""
    here = " ".join(
        f.to_json() for f in (show.plot_deltas(found), show.plot_scores(found), show.plot_cost(found, run.spent))
    )
    folder = str(Path(run.log.folder))
    for seed in ("1", "2"):
        made = subprocess.run(
            [sys.executable, "-c", SCRIPT, folder], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert made.stdout.strip() == here
    assert "uid" not in here


# --- hostile labels -------------------------------------------------------------------------------------


def evil(found: Compared, **fields: str) -> Compared:
    singles = tuple(replace(s, model=HOSTILE) for s in found.singles[:1]) + found.singles[1:]
    strategies = tuple(replace(s, params={"weights": {HOSTILE: 1.0}}) for s in found.strategies)
    best = {**found.best_single, "model": HOSTILE}
    return replace(found, singles=singles, strategies=strategies, best_single=best, **fields)


def test_sec_xss_markup_in_names_is_text_in_figures(run: Run, found: Compared):
    """Model, suite and source names reach plotly without markup that it would read."""
    given = evil(found, name=HOSTILE, source=HOSTILE)
    spent = {HOSTILE: replace(next(iter(run.spent.values())), model=HOSTILE, source=HOSTILE)}
    for figure in (show.plot_deltas(given), show.plot_scores(given), show.plot_cost(given, spent)):
        strings = list(texts(json.loads(figure.to_json())["data"])) + list(
            texts(json.loads(figure.to_json())["layout"])
        )
        assert [s for s in strings if "<script" in s or "<a " in s] == []
        assert any("&lt;script&gt;" in s for s in strings)


def test_sec_xss_markup_in_the_kind_of_score_is_text_in_axis_titles(found: Compared):
    """The unit of a graded score comes from the recording's file."""
    given = replace(found, unit=HOSTILE, score_kind=HOSTILE)
    for figure in (show.plot_deltas(given), show.plot_scores(given)):
        assert "<" not in figure.layout.xaxis.title.text


def test_markup_is_written_as_entities():
    """plotly reads a subset of HTML in labels."""
    assert plain("<b>A & B</b>") == "&lt;b&gt;A &amp; B&lt;/b&gt;"


def test_the_names_of_show_are_listed():
    """Only figures are offered, and an unknown name is an AttributeError."""
    assert {"plot_cost", "plot_deltas", "plot_scores"} <= set(dir(show))
    with pytest.raises(AttributeError, match="plot_nothing"):
        show.plot_nothing  # noqa: B018
