"""Figures of understanding: values against what was found, drawings against values, captions that name the source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest

from show.drawn import texts
from workbench import MajorityVoting, Workbench, show
from workbench.errors import LLMValidationError
from workbench.session.run import Run
from workbench.show.understanding import (
    LINE,
    LONGEST,
    TOOLBAR,
    groups_table,
    pair_values,
    plot_pairs,
    plot_reliability,
    plot_spread,
    plot_values,
    reliability_marks,
    spread_marks,
    titled,
    value_marks,
)
from workbench.study.found import (
    ConfidenceBin,
    Found,
    GroupRow,
    ModelValue,
    Pair,
    SubPool,
    matrix_of,
    spread_bins,
)
from workbench.study.timings import Estimate
from workbench.study.understand import (
    agreement_matrix,
    by_group,
    error_correlation,
    model_values,
    reliability_of,
    spread_curve,
)

HOSTILE = "<a href='javascript:alert(1)'>x</a><script>alert(2)</script>"
NAN = float("nan")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with Workbench.open(tmp_path_factory.mktemp("understanding") / "log") as wb:
        yield wb.run_sync("question_answering", merge="majority_voting")


@pytest.fixture(scope="module")
def results(run: Run) -> dict[str, Found[Any]]:
    """One result of each kind."""
    grouped = replace(run.table, groups=tuple("even" if k % 2 == 0 else "odd" for k in range(len(run.table.item_ids))))
    return {
        "values": model_values(run.table, run.pool, samples=100),
        "errors": error_correlation(run.table, samples=100),
        "agreement": agreement_matrix(run.table),
        "spread": spread_curve(run.table, size=2, samples=100),
        "reliability": reliability_of(run.table, MajorityVoting()),
        "groups": by_group(grouped, samples=100),
    }


DRAWN = {
    "values": plot_values, "errors": plot_pairs, "agreement": plot_pairs, "spread": plot_spread,
    "reliability": plot_reliability,
}  # fmt: skip


def title(figure: go.Figure) -> str:
    """Title and caption, as if on one line."""
    return str(figure.layout.title.text).replace("</sub><br><sub>", " ")


def found(rows: list[Any], **about: Any) -> Found[Any]:
    return Found(
        rows=tuple(rows), run="r", name="n", source="recorded", unit="fraction", items=9, items_dropped=2, samples=7,
        seed=3, about=about,
    )  # fmt: skip


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high)


# --- numbers --------------------------------------------------------------------------------------------


def test_values_of_pairs_are_a_square_with_nothing_on_the_diagonal():
    """Both halves, and no number where there is none."""
    rows = [
        Pair(first=a, second=b, value=estimate(x, 0, 1), items=9, both=1, first_only=2, second_only=3)
        for a, b, x in (("p", "q", -0.001), ("p", "r", NAN), ("q", "r", -0.5))
    ]
    pairs = found(rows, relation="error correlation")
    assert pair_values(pairs) == [[None, -0.001, None], [-0.001, None, -0.5], [None, -0.5, None]]
    assert matrix_of(pairs)[0] == ("p", "q", "r")
    heat = plot_pairs(pairs).data[0]
    assert [list(row) for row in heat.text] == [["", "0.00", ""], ["0.00", "", "−0.50"], ["", "−0.50", ""]]
    assert "no value on 9 items" in heat.hovertext[0][2]


def test_values_of_models_are_points_dollars_per_thousand_and_milliseconds():
    """A fraction times 100, a cost times 1000, a latency as it is."""
    one = ModelValue(
        model="m", measure="quality", alone=0.5, shapley=estimate(0.2, 0.1, 0.3),
        leave_one_out=estimate(-0.01, -0.02, 0), items=9,
    )  # fmt: skip
    rows = [one, replace(one, measure="cost_usd"), replace(one, measure="latency_ms")]
    marks = value_marks(found(rows, nothing=0.0))
    assert [(m.value, m.low, m.high) for m in marks["quality"]] == [(20, 10, 30), (-1, -2, 0)]
    assert marks["cost_usd"][0].value == 200
    assert marks["latency_ms"][0].value == 0.2
    graded = value_marks(replace(found(rows, nothing=-3.0), unit="mqm"))
    assert graded["quality"][0].value == 0.2


def test_marks_of_sub_pools_say_what_can_be_told():
    """By the interval of the gain; in points."""
    gains = [estimate(0.02, 0.01, 0.03), estimate(0.02, -0.01, 0.03), estimate(-0.02, -0.03, -0.01)]
    pools = [SubPool(models=("a", "b"), best="a", spread=0.1 * k, gain=g) for k, g in enumerate(gains)]
    marks = spread_marks(found(pools, size=2, possible=3))
    assert [m.group for m in marks] == ["better", "cannot tell", "worse"]
    assert [float(m.label) for m in marks] == [0, 10, 20]
    assert [m.value for m in marks] == [2, 2, -2]


def test_marks_of_reliability_are_shares_at_mean_confidences(results: dict[str, Found[Any]]):
    """One mark a bin, with Wilson's interval."""
    bins = results["reliability"]
    for mark, b in zip(reliability_marks(bins), bins, strict=True):
        assert (mark.value, mark.low, mark.high) == pytest.approx((b.right.value, b.right.low, b.right.high), abs=1e-6)
        assert float(mark.label) == pytest.approx(b.confidence, abs=1e-6)


# --- drawings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("source", ["simulated", "recorded"])
def test_captions_name_items_and_source(results: dict[str, Found[Any]], kind: str, source: str):
    """Simulated numbers are labelled as such, under the title of every figure."""
    assert f"48 items, source: {source}" in title(DRAWN[kind](replace(results[kind], source=source)))


def test_captions_tell_what_was_left_out_and_how_it_was_drawn():
    """Items without scores, and the resampling."""
    pairs = [Pair(first="a", second="b", value=estimate(0.1, 0, 1), items=9, both=1, first_only=2, second_only=3)]
    text = title(plot_pairs(found(pairs, relation="error correlation")))
    assert "9 items (2 left out), source: recorded, 7 samples, seed 3" in text


def test_titles_and_captions_are_broken_into_lines_below_the_buttons():
    """None has more characters than a cell holds; each moves the axes down, and not the title, by a line."""
    short, long = (
        titled(go.Figure(), " ".join(["word"] * n), " ".join(["<b>"] * n), body=300, left=50) for n in (1, 40)
    )
    first, second, third, *small = long.layout.title.text.split("<br>")  # 15, 15 and 10 words of five characters
    assert (len(first), len(second), len(third)) == (74, 74, 49)
    assert small == [f"<sub>{' '.join(['&lt;b&gt;'] * n)}</sub>" for n in (24, 16)]
    for figure in (short, long):
        assert (1 - figure.layout.title.y) * figure.layout.height == pytest.approx(TOOLBAR, abs=0.01)
        assert figure.layout.height - figure.layout.margin.t == 300
    assert long.layout.margin.t - short.layout.margin.t == 3 * LINE


def test_a_heat_map_has_the_numbers_of_the_pairs(results: dict[str, Found[Any]]):
    """In its colours and as text; columns are numbered as the rows are."""
    figure = plot_pairs(results["errors"])
    heat = figure.data[0]
    assert [list(row) for row in heat.z] == pair_values(results["errors"])
    models, _ = matrix_of(results["errors"])
    assert [name.rsplit("  ", 1) for name in heat.y] == [[m, str(k)] for k, m in enumerate(models, 1)]
    assert list(heat.x) == ["1", "2", "3"]
    assert heat.text[0][1] == f"{heat.z[0][1]:.2f}".replace("-", "−")
    assert heat.text[0][0] == ""
    assert (heat.zmin, heat.zmax) == (-heat.zmax, max(0.2, *(abs(x) for row in heat.z for x in row if x is not None)))
    assert "both wrong on" in heat.hovertext[0][1]
    agreement = plot_pairs(results["agreement"]).data[0]
    assert agreement.zmin == 0
    assert "the same answer on" in agreement.hovertext[0][1]


def test_bars_and_diamonds_are_the_values_with_their_intervals(results: dict[str, Found[Any]]):
    """A panel for quality, cost and latency, each with units and both kinds of value."""
    figure = plot_values(results["values"])
    marks = value_marks(results["values"])
    assert list(marks) == ["quality", "cost_usd", "latency_ms"]
    for k, measure in enumerate(marks):
        for trace, group in zip(figure.data[2 * k : 2 * k + 2], ("Shapley value", "leave one out"), strict=True):
            wanted = [m for m in marks[measure] if m.note == group]
            assert list(trace.x) == [m.value for m in wanted]
            assert list(trace.error_x.array) == pytest.approx([m.high - m.value for m in wanted], abs=2e-6)
            assert list(trace.error_x.arrayminus) == pytest.approx([m.value - m.low for m in wanted], abs=2e-6)
            assert trace.name == f"{group}, 95 % bootstrap"
    axes = [figure.layout[f"xaxis{k}"].title.text for k in ("", 2, 3)]
    assert [unit in axis for unit, axis in zip(("(points)", "(USD per 1000 items)", "(ms)"), axes, strict=True)] == [
        True, True, True,
    ]  # fmt: skip
    assert [t.showlegend for t in figure.data] == [True, True, False, False, False, False]


def test_values_of_graded_scores_say_what_nobody_is_worth(results: dict[str, Found[Any]]):
    """The caption has it where it is not 0."""
    graded = replace(results["values"], unit="mqm", about={"nothing": -25.0})
    assert "a vote of nobody is worth -25" in title(plot_values(graded))
    assert "nobody" not in title(plot_values(results["values"]))


def test_the_scatter_has_every_sub_pool_and_the_mean_of_each_bin(results: dict[str, Found[Any]]):
    """Symbols say what colours say; the steps are means, with the number of wins above."""
    curve = results["spread"]
    figure = plot_spread(curve)
    steps, *points = figure.data
    assert sum(len(t.x) for t in points) == len(curve.rows) == 3
    assert len({t.marker.symbol for t in points}) == 3
    bins = [b for b in spread_bins(curve) if b.pools]
    assert [y for y in steps.y if y is not None] == pytest.approx(
        [b.mean_gain * 100 for b in bins for _ in range(2)], abs=1e-6
    )
    assert [a.text for a in figure.layout.annotations] == [
        f"{round(b.won * b.pools)} of {b.pools}<br>win" for b in bins
    ]
    assert figure.layout.xaxis.title.text == "best less worst member (points)"
    assert figure.layout.yaxis.title.text == "vote less best member (points)"
    low, high = figure.layout.yaxis.range
    assert low < min(p.gain.low for p in curve) * 100
    assert high > max(0, *(p.gain.high * 100 for p in curve))
    assert "all 3 sub-pools" in title(figure)
    assert "3 of 900 sub-pools" in title(plot_spread(replace(curve, about={"size": 2, "possible": 900})))


def test_models_that_are_equal_everywhere_still_have_a_scatter():
    """No spread and no gain leave room on both axes."""
    same = SubPool(models=("a", "b"), best="a", spread=0.0, gain=estimate(0.0, 0.0, 0.0))
    layout = plot_spread(found([same], size=2, possible=1)).layout
    assert list(layout.xaxis.range) == [0, 1]
    assert list(layout.yaxis.range) == [-1, 1]


def test_the_reliability_diagram_has_a_diagonal_shares_and_counts(results: dict[str, Found[Any]]):
    """What is expected, what was found with its intervals, and on how many items."""
    bins = results["reliability"]
    diagonal, shares, counts = plot_reliability(bins).data
    assert list(diagonal.x) == list(diagonal.y) == [0, 1]
    assert list(shares.y) == [m.value for m in reliability_marks(bins)]
    assert list(counts.y) == [b.items for b in bins]
    assert sum(counts.y) == 48
    error = bins.about["expected_calibration_error"]
    assert f"expected calibration error {error:.3f}" in title(plot_reliability(bins))


def test_the_table_of_categories_has_the_merges_and_on_request_the_models(results: dict[str, Found[Any]]):
    """One row a category and strategy, in points, with both p-values and the verdict after correction."""
    groups = results["groups"]
    table = groups_table(groups).table
    merges = [r for r in groups if r.kind == "merge"]
    assert [row[:3] for row in table.rows] == [(r.group, str(r.items), r.strategy) for r in merges]
    assert table.rows[0][4] == f"{merges[0].delta.value * 100:+.1f}"
    assert table.rows[0][-2:] == (f"{merges[0].p_holm:.4f}", merges[0].verdict)
    assert "source: simulated" in table.caption
    assert f"Deltas to {groups.about['best_single']} in points" in table.caption
    assert len(groups_table(groups, models=True).table.rows) == len(groups.rows)
    singles = tuple(r for r in groups if r.kind == "single")
    assert len(groups_table(replace(groups, rows=singles)).table.rows) == len(singles)


def test_a_category_without_a_name_or_an_interval_is_told(results: dict[str, Found[Any]]):
    """Nothing is left blank, and NaN is not shown."""
    row = next(r for r in results["groups"] if r.kind == "merge")
    bare = replace(row, group="", delta=estimate(0.0, NAN, NAN))
    cells = groups_table(replace(results["groups"], rows=(bare,))).table.rows[0]
    assert (cells[0], cells[5]) == ("(none)", "-")


def test_long_names_keep_both_ends_and_figures_stay_readable():
    """A name of 60 characters is shortened in the middle beside the axis, and whole on hover."""
    long = "provider/" + "x" * 45 + "/v2"
    pairs = [Pair(first=long, second="b", value=estimate(0.1, 0, 1), items=9, both=1, first_only=2, second_only=3)]
    heat = plot_pairs(found(pairs, relation="agreement")).data[0]
    shown = heat.y[0].rsplit("  ", 1)[0]
    assert len(shown) <= LONGEST
    assert (shown[:9], shown[-3:]) == ("provider/", "/v2")
    assert long in heat.hovertext[0][1]


@pytest.mark.parametrize("kind", DRAWN)
def test_a_figure_is_made_of_its_own_result_only(results: dict[str, Found[Any]], kind: str):
    """Another result, none, and one without rows are refused by name."""
    other = results["reliability" if kind != "reliability" else "errors"]
    for given in (other, replace(results[kind], rows=()), None):
        with pytest.raises(LLMValidationError) as refused:
            DRAWN[kind](given)  # type: ignore[arg-type]
        assert refused.value.code == "validation.understanding"
    with pytest.raises(LLMValidationError):
        groups_table(results[kind])


# --- hostile labels -------------------------------------------------------------------------------------


def evil(result: Found[Any]) -> Found[Any]:
    """The result with markup for every name in it."""

    def renamed(row: Any) -> Any:
        match row:
            case ModelValue():
                return replace(row, model=HOSTILE)
            case Pair():
                return replace(row, first=HOSTILE, second=HOSTILE + row.second)
            case SubPool():
                return replace(row, models=(HOSTILE, *row.models[1:]), best=HOSTILE)
            case GroupRow():
                return replace(row, group=HOSTILE, strategy=HOSTILE)
            case ConfidenceBin():
                return row
        raise AssertionError(row)

    about = {k: HOSTILE if k in ("strategy", "best_single") else v for k, v in result.about.items()}
    return replace(
        result, rows=tuple(map(renamed, result.rows)), name=HOSTILE, source=HOSTILE, unit=HOSTILE, about=about
    )


@pytest.mark.parametrize("kind", DRAWN)
def test_sec_xss_markup_in_names_is_text_in_figures(results: dict[str, Found[Any]], kind: str):
    """Model, suite, source and unit reach plotly without markup that it would read."""
    drawn = json.loads(DRAWN[kind](evil(results[kind])).to_json())
    strings = [*texts(drawn["data"]), *texts(drawn["layout"])]
    assert [s for s in strings if "<script" in s or "<a " in s] == []
    assert any("&lt;script&gt;" in s for s in strings)


def test_sec_xss_markup_in_categories_is_text_in_the_table(results: dict[str, Found[Any]]):
    """The table escapes what it shows."""
    assert "<script" not in groups_table(evil(results["groups"]))._repr_html_()


def test_the_figures_are_offered_by_name():
    """`show` has them."""
    assert {"groups_table", "plot_pairs", "plot_reliability", "plot_spread", "plot_values"} <= set(dir(show))
    assert show.plot_pairs is plot_pairs
