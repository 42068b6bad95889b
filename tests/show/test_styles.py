"""What prompt styles gain, as tables and figures: values against hand-made rows, drawings against values."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
import pytest

from show.drawn import texts
from workbench import show
from workbench.errors import LLMValidationError
from workbench.show.online import (
    MOST_POINTS,
    beside_table,
    curve_values,
    gain_marks,
    late_table,
    online_table,
    plot_learning,
    plot_predicted,
)
from workbench.show.plots import COLOURS
from workbench.show.styles import (
    LONGEST,
    GroupCount,
    chosen_table,
    count_groups,
    plot_style_gains,
    promises_table,
    style_gains_table,
    style_values,
)
from workbench.show.tables import Table
from workbench.show.understanding import SYMBOLS
from workbench.study.found import Found
from workbench.study.online import GainBin, LateGroup, Online
from workbench.study.promises import Promise
from workbench.study.styles import ChosenGain, StyleGain
from workbench.study.timings import Estimate

HOSTILE = "<a href='javascript:alert(1)'>x</a><script>alert(2)</script>"
NAN = float("nan")


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high)


WHOLE = StyleGain(
    model="m", task="reasoning", style="cot", base="direct", group="all", items=40, base_score=0.5, score=0.625,
    gain=estimate(0.125, 0.05, 0.2), test="mcnemar", p_value=0.00001, p_holm=0.00002, verdict="better",
)  # fmt: skip
# Groups in the order of their names: better in both ways, better and worse only before the correction, neither.
GROUPS = [
    replace(WHOLE, group="a", items=10, gain=estimate(0.3, 0.1, 0.5), p_value=0.01, p_holm=0.04),
    replace(WHOLE, group="b", items=10, gain=estimate(0.4, 0.1, 0.7), p_value=0.04, p_holm=0.12, verdict="cannot tell"),
    replace(WHOLE, group="c", items=10, gain=estimate(-0.2, -0.4, 0), p_value=0.03, p_holm=0.09, verdict="cannot tell"),
    replace(WHOLE, group="d", items=10, gain=estimate(0.0, -0.1, 0.1), p_value=1.0, p_holm=1.0, verdict="cannot tell"),
]
WORSE = replace(
    WHOLE, model="n", style="concise", base="default", gain=estimate(-0.06, -0.1, -0.02), p_value=0.003, p_holm=0.003,
    test="sign_flip", verdict="worse",
)  # fmt: skip


def found(*rows: Any, **changes: Any) -> Found[Any]:
    return Found(
        rows=rows, run="r", name="n", source="recorded", unit=changes.pop("unit", "fraction"), items=40,
        items_dropped=2, samples=70, seed=3, about={}, **changes,
    )  # fmt: skip


GAINS = found(WHOLE, *GROUPS)
TWO = found(WHOLE, WORSE, *GROUPS)


def title(figure: go.Figure) -> str:
    """Title and caption, as if on one line."""
    return str(figure.layout.title.text).replace("</sub><br><sub>", " ")


# --- gains of styles ------------------------------------------------------------------------------------


def test_groups_are_counted_before_and_after_the_correction():
    """By p at 5 %, and by the verdict, which is by p after Holm's correction."""
    [count] = count_groups(GAINS)
    assert count == GroupCount(
        model="m", base="direct", style="cot", groups=4, better=2, worse=1, better_holm=1, worse_holm=0
    )
    assert count_groups(found(WHOLE, WORSE)) == ()


def test_the_table_has_all_items_first_and_then_the_groups_by_gain():
    """From base to style, in points, with the verdict, the interval and both p-values."""
    table = style_gains_table(GAINS)
    assert table.columns == ("group", "items", "score", "gain", "verdict", "95 % interval", "p", "p (Holm)")
    assert table.rows[0] == (
        "all items", "40", "0.5000 → 0.6250", "+12.5", "better", "[+5.0, +20.0]", "<0.0001", "<0.0001"
    )  # fmt: skip
    assert [(row[0], row[3], row[4], row[6], row[7]) for row in table.rows[1:]] == [
        ("b", "+40.0", "cannot tell", "0.0400", "0.1200"),
        ("a", "+30.0", "better", "0.0100", "0.0400"),
        ("d", "+0.0", "cannot tell", "1.0000", "1.0000"),
        ("c", "-20.0", "cannot tell", "0.0300", "0.0900"),
    ]
    assert table.caption == (
        "n: prompt styles against the base style, m, direct → cot, 40 items (2 left out), source: recorded, "
        "70 samples, seed 3. Gains in points."
    )
    assert "m, direct → cot: of 4 groups 2 better and 1 worse by p; 1 better and 0 worse by p (Holm)." in table.notes


def test_every_style_has_its_own_groups_below_it():
    """The rows of a model and style stand together, whatever order they came in."""
    assert [(row[0], row[2]) for row in style_gains_table(TWO).rows] == [
        ("m", "all items"), ("m", "b"), ("m", "a"), ("m", "d"), ("m", "c"), ("n", "all items"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "said", "first"),
    [
        (GAINS, "m, direct → cot, ", "group"),
        (found(WHOLE, replace(WHOLE, style="brief")), "m, ", "style"),
        (found(WHOLE, replace(WHOLE, model="n")), "", "model"),
    ],
    ids=["one style", "one model", "two models"],
)
def test_what_every_row_would_repeat_stands_in_the_caption(rows: Found[StyleGain], said: str, first: str):
    """A model alone, and with its only style; several models keep both columns."""
    table = style_gains_table(rows)
    assert table.caption.startswith(f"n: prompt styles against the base style, {said}40 items")
    assert table.columns[0] == first
    assert {len(row) for row in table.rows} == {len(table.columns)}


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (TWO, "p: McNemar's exact test or the sign-flip test. p (Holm): corrected over the 2 rows of all items and"),
        (GAINS, "p: McNemar's exact test. p (Holm): corrected over the groups of each model and style;"),
        (found(WORSE, replace(WORSE, model="o")), "p: the sign-flip test. p (Holm): corrected over the 2 rows of all"),
    ],
    ids=["both", "groups", "models"],
)  # fmt: skip
def test_the_notes_name_the_test_and_the_family(rows: Found[StyleGain], told: str):
    """How often was looked, and by which test."""
    assert style_gains_table(rows).notes[1].startswith(told)


def test_a_group_called_all_is_a_group():
    """The row of all items is the first of its model and style, not the one of that name."""
    table = style_gains_table(found(WHOLE, replace(GROUPS[0], group="all")))
    assert [row[0] for row in table.rows] == ["all items", "all"]


def test_what_has_no_name_and_no_interval_is_told():
    """A group of one item: nothing is left blank, and NaN is not shown."""
    bare = replace(GROUPS[0], group="", items=1, gain=estimate(1.0, NAN, NAN))
    row = style_gains_table(found(WHOLE, bare)).rows[1]
    assert (row[0], row[5]) == ("(none)", "-")


def test_graded_gains_keep_their_unit():
    """Three decimals in the unit of the score, in the table and in the figure."""
    graded = replace(TWO, unit="preference")
    assert style_gains_table(graded).rows[0][4:8] == ("0.500 → 0.625", "+0.125", "better", "[+0.050, +0.200]")
    assert "Gains in preference." in style_gains_table(graded).caption
    assert style_values(graded)[0].marks[0].value == 0.125
    axes = [axis.title.text for axis in plot_style_gains(graded).select_xaxes() if axis.title.text]
    assert axes == ["gain over the base style in preference<br>(right of 0: the style is better)"]
    assert "+0.125 [+0.050, +0.200]" in {a.text for a in plot_style_gains(graded).layout.annotations}


def test_panels_are_all_models_and_then_the_groups_of_each():
    """Points; the verdict is the group of a mark; what is known of it its note."""
    first, second = style_values(TWO)
    assert [(m.label, m.value, m.low, m.high, m.group) for m in first.marks] == [
        ("m: direct → cot", 12.5, 5.0, 20.0, "better"), ("n: default → concise", -6.0, -10.0, -2.0, "worse"),
    ]  # fmt: skip
    assert (first.title, first.unit, first.grouped) == ("all items", "points", False)
    assert [m.label for m in second.marks] == ["all items", "b", "a", "d", "c"]
    assert (second.title, second.grouped) == ("m: cot against direct", True)
    assert second.marks[0].note == "40 items, 0.5000 → 0.6250, p <0.0001, Holm <0.0001"


def test_one_model_has_one_panel_and_a_common_base_is_in_the_title():
    """With groups it is theirs, without it is that of all items."""
    assert [panel.grouped for panel in style_values(GAINS)] == [True]
    [panel] = style_values(found(WHOLE))
    assert (panel.title, panel.marks[0].label) == ("all items, against direct", "m: cot")


def test_the_forest_has_every_mark_once_with_colour_and_marker():
    """Triangles and circles say what the colours say; all items are larger, bold, and above a line."""
    figure = plot_style_gains(TWO)
    panels = style_values(TWO)
    drawn = [(x, y, t.name) for t in figure.data for x, y in zip(t.x, t.y, strict=True)]
    assert sorted(drawn) == sorted((m.value, k, m.group) for p in panels for k, m in enumerate(p.marks))
    for trace in figure.data:
        assert (trace.marker.color, trace.marker.symbol) == (COLOURS[trace.name], SYMBOLS[trace.name])
    assert sorted(t.name for t in figure.data if t.showlegend) == ["better", "cannot tell", "worse"]
    better = next(t for t in figure.data if t.name == "better" and len(t.x) == 2)
    assert better.marker.size[0] > better.marker.size[1]
    assert list(better.error_x.array) == pytest.approx([7.5, 20.0])
    assert list(figure.layout.yaxis2.ticktext) == ["<b>all items</b>", "b", "a", "d", "c"]
    assert "+12.5 [+5.0, +20.0]" in {a.text for a in figure.layout.annotations}
    assert "−6.0 [−10.0, −2.0]" in {a.text for a in figure.layout.annotations}


def test_captions_name_the_source_and_what_the_bars_are():
    """Also the rule of the colours; simulated numbers are labelled as such."""
    told = title(plot_style_gains(replace(GAINS, source="simulated")))
    assert "40 items (2 left out), source: simulated, 70 samples, seed 3" in told
    assert "bars: 95 % bootstrap over items; colour and marker: p (Holm) at 5 %" in told


def test_a_figure_without_intervals_and_gains_can_be_drawn():
    """A single item has no bar, and no gain at all leaves room on the axis."""
    bare = replace(WHOLE, gain=estimate(0.0, NAN, NAN))
    figure = plot_style_gains(found(bare))
    assert list(figure.layout.xaxis.range) == [-1, 1]
    assert "+0.0" in {a.text for a in figure.layout.annotations}
    assert "NaN" not in figure.to_json()


def test_long_names_keep_both_ends():
    """Beside the axis the middle is left out; on hover the name is whole."""
    long = "tracking_" + "x" * 60 + "_objects"
    figure = plot_style_gains(found(WHOLE, replace(GROUPS[0], group=long)))
    shown = figure.layout.yaxis.ticktext[1]
    assert len(shown) <= LONGEST
    assert (shown[:9], shown[-8:]) == ("tracking_", "_objects")
    assert any(long in text for trace in figure.data for text in trace.hovertext)


# --- chosen on other items ------------------------------------------------------------------------------

CHOSEN = found(
    ChosenGain(model="m", rule="best style", gain=estimate(0.2, 0.1, 0.3), chosen=(("direct", 0.25), ("cot", 0.75))),
    ChosenGain(model="m", rule="base unless sure", gain=estimate(0.0, 0.0, 0.0), chosen=(("direct", 1.0),)),
)


def test_what_is_left_is_a_table_with_verdicts():
    """The verdict is by the percentiles; the source is in the caption."""
    table = chosen_table(CHOSEN)
    assert table.rows == (
        ("m", "best style", "+20.0", "[+10.0, +30.0]", "better", "direct 25 %, cot 75 %"),
        ("m", "base unless sure", "+0.0", "[+0.0, +0.0]", "cannot tell", "direct 100 %"),
    )
    assert "40 items, source: recorded. Gains in points." in table.caption
    assert "70 half splits (seed 3)" in table.notes[0]


@pytest.mark.parametrize("shown", [style_gains_table, plot_style_gains, chosen_table])
@pytest.mark.parametrize("given", [None, [], found(), found("row")], ids=["none", "list", "no rows", "other rows"])
def test_what_is_no_result_is_refused_by_name(shown: Callable[[Any], Any], given: Any):
    """Nothing is drawn of another thing, or of no rows."""
    with pytest.raises(LLMValidationError) as refused:
        shown(given)
    assert refused.value.code == "validation.styles"


# --- claims ---------------------------------------------------------------------------------------------

PROMISES = [
    Promise(task="summarization", claimed=0.15, verdict="not testable", reason="no answers"),
    Promise(
        task="code_generation", claimed=0.3, verdict="refuted", reason="measured", gain=estimate(-0.0856, -0.23, 0.047),
        name="classeval", model="all 8 models", base="holistic", styles=("one", "two"), items=64, source="recorded",
    ),
    Promise(
        task="code_generation", claimed=0.3, verdict="not testable", reason="no answers", name="classeval", model="m",
        base="holistic", styles=("one",), items=64, source="recorded",
    ),
]  # fmt: skip


def test_claims_stand_beside_what_was_measured():
    """Claim, verdict, reason, relative gain with interval, models, items, recording, source and styles."""
    table = promises_table(PROMISES, splits=100, seed=7)
    assert table.rows == (
        ("summarization", "+15 %", "not testable", "(1)", "-", "-", "-", "-", "-", "-", "-"),
        ("code_generation", "+30 %", "refuted", "(2)", "-8.6 %", "[-23.0 %, +4.7 %]", "all 8 models", "64", "classeval",
         "recorded", "holistic → one, two"),
        ("code_generation", "+30 %", "not testable", "(1)", "-", "-", "m", "64", "classeval", "recorded",
         "holistic → one"),
    )  # fmt: skip
    assert table.notes[:2] == ("(1) no answers.", "(2) measured.")
    assert "over 100 half splits (seed 7)" in table.notes[2]
    assert table.caption.endswith("beside answers, source: recorded")


def test_claims_stand_beside_the_source_that_their_answers_have():
    """Simulated answers are not called recorded."""
    simulated = [replace(row, source="simulated") for row in PROMISES[1:]]
    assert promises_table(simulated, splits=100, seed=7).caption.endswith("beside answers, source: simulated")
    mixed = [*PROMISES, *simulated, replace(PROMISES[1], source="live+recorded")]
    assert promises_table(mixed, splits=100, seed=7).caption.endswith("source: live+recorded+simulated")


def test_claims_without_answers_have_no_empty_columns():
    """What is left are claim, verdict and reason."""
    table = promises_table(PROMISES[:1], splits=100, seed=0)
    assert table.columns == ("claim for", "claimed", "verdict", "why")
    assert table.rows == (("summarization", "+15 %", "not testable", "(1)"),)
    assert table.caption.endswith("commonly said to bring, nothing to measure them on")


def test_the_note_says_what_a_style_is():
    """Nothing but the styles of a recording was tried; those of classeval are no instructions."""
    tried = "What was tried are the styles of the recordings, and nothing else"
    *_, told = promises_table(PROMISES, splits=100, seed=0).notes
    assert told == f"{tried}; for classeval they are ways of generating a class, not instructions."
    assert promises_table(PROMISES[:1], splits=100, seed=0).notes[-1] == f"{tried}."


# --- learning online ------------------------------------------------------------------------------------

ONLINE = Online(
    name="n", source="recorded", model="m", base="direct", styles=("cot",), items=4, orders=5, seed=3, caution=1.0,
    grouped=True, gain=estimate(0.15, 0.1, 0.2), always=0.2, share=estimate(0.75, 0.5, 1.0),
    second_half=estimate(0.18, 0.12, 0.24),
    groups=(
        LateGroup(group="a", items=2, gain=estimate(-0.02, -0.04, 0.0), always=-0.1, taken=0.25),
        LateGroup(group="b", items=1, gain=estimate(0.4, NAN, NAN), always=0.5, taken=1.0),
    ),
    bins=(
        GainBin(predicted=-0.05, measured=estimate(-0.1, -0.2, 0.0), items=3, share=0.5),
        GainBin(predicted=0.4, measured=estimate(0.41, NAN, NAN), items=1, share=0.5),
    ),
    calibration_error=0.03, coverage=0.9, curve=(0.0, 0.1, 0.1, 0.15),
)  # fmt: skip
HIDDEN = replace(
    ONLINE, grouped=False, gain=estimate(0.14, 0.1, 0.2), share=estimate(0.7, 0.5, 1.0), calibration_error=0.055,
    groups=(replace(ONLINE.groups[0], gain=estimate(-0.09, -0.1, -0.08)),),
)  # fmt: skip
NOTHING = replace(ONLINE, always=0.0, share=estimate(NAN, NAN, NAN), gain=estimate(-0.01, -0.02, 0.0))


def test_the_summary_has_gains_share_calibration_and_coverage():
    """Points and per cent, with the percentiles over the orders; the source is in the caption."""
    table = online_table(ONLINE, "fraction")
    assert table.rows == (
        ("gain of always cot", "points", "+20.0", "-"),
        ("gain of choosing", "points", "+15.0", "[+10.0, +20.0]"),
        ("share of the gain of always cot", "%", "75.0", "[50.0, 100.0]"),
        ("gain of choosing, second half", "points", "+18.0", "[+12.0, +24.0]"),
        ("calibration error of the predicted gain, second half", "quality", "0.030", "-"),
        ("coverage of the last 95 % intervals", "%", "90.0", "-"),
    )
    assert table.caption == (
        "n: learning online, 4 items, source: recorded, 5 random orders, seed 3, groups known, caution 1; "
        "m: cot against direct"
    )
    assert online_table(ONLINE, "preference").rows[1] == (
        "gain of choosing",
        "preference",
        "+0.150",
        "[+0.100, +0.200]",
    )


def test_a_share_of_nothing_is_not_shown():
    """Where no style is better than the base, the base is what would always be taken."""
    rows = online_table(NOTHING, "fraction").rows
    assert rows[0] == ("gain of always direct", "points", "+0.0", "-")
    assert rows[2] == ("share of the gain of always direct", "%", "-", "-")
    share = beside_table(NOTHING, replace(NOTHING, grouped=False), "fraction").rows[2]
    assert share == ("share of the gain of always direct", "%", "-", "-", "-")


def test_several_styles_are_called_the_best_of_them():
    """Which one it was, the numbers do not say."""
    several = replace(ONLINE, styles=("cot", "verbose"))
    assert online_table(several, "fraction").rows[0][0] == "gain of always the best style"
    assert "always: the style that is best in the group" in late_table(several, "fraction").notes[0]


def test_late_groups_stand_from_the_largest_gain_to_the_largest_harm():
    """Always, chosen with its interval, and how often it was asked otherwise."""
    table = late_table(ONLINE, "fraction")
    assert table.rows == (
        ("b", "1", "+50.0", "+40.0", "-", "100 %"),
        ("a", "2", "-10.0", "-2.0", "[-4.0, +0.0]", "25 %"),
    )
    assert "gain over direct in points, source: recorded" in table.caption
    unnamed = replace(ONLINE, groups=(replace(ONLINE.groups[0], group=""),))
    assert late_table(unnamed, "fraction").rows[0][0] == "(none)"


def test_groups_known_stand_beside_groups_hidden():
    """Every measure and every group; a group that one of them did not meet late has no number there."""
    table = beside_table(ONLINE, HIDDEN, "fraction")
    assert table.columns == ("measure", "unit", "always", "groups known", "groups hidden")
    assert table.rows == (
        ("gain of always cot", "points", "-", "+20.0", "+20.0"),
        ("gain of choosing", "points", "+20.0", "+15.0 [+10.0, +20.0]", "+14.0 [+10.0, +20.0]"),
        ("share of the gain of always cot", "%", "100.0", "75.0 [50.0, 100.0]", "70.0 [50.0, 100.0]"),
        ("gain of choosing, second half", "points", "+20.0", "+18.0 [+12.0, +24.0]", "+18.0 [+12.0, +24.0]"),
        ("calibration error of the predicted gain, second half", "quality", "-", "0.030", "0.055"),
        ("coverage of the last 95 % intervals", "%", "-", "90.0", "90.0"),
        ("second half: b", "points", "+50.0", "+40.0", "-"),
        ("second half: a", "points", "-10.0", "-2.0 [-4.0, +0.0]", "-9.0 [-10.0, -8.0]"),
    )
    assert "source: recorded" in table.caption


def test_two_cautions_stand_beside_each_other():
    """What differs is the name of the column."""
    table = beside_table(ONLINE, replace(ONLINE, caution=0.0), "fraction")
    assert table.columns[3:] == ("groups known, caution 1", "groups known, caution 0")


@pytest.mark.parametrize(
    "other", [ONLINE, replace(HIDDEN, items=5), replace(HIDDEN, seed=4)], ids=["same", "items", "seed"]
)
def test_what_is_no_other_way_on_the_same_items_is_refused(other: Online):
    """Twice the same, other items, or other orders."""
    with pytest.raises(LLMValidationError) as refused:
        beside_table(ONLINE, other, "fraction")
    assert refused.value.code == "validation.comparison"


def test_the_curve_is_thinned_evenly_and_keeps_its_end():
    """A short one is whole; of 4,928 items at most MOST_POINTS are drawn."""
    assert curve_values(ONLINE, "fraction") == [(1, 0.0), (2, 10.0), (3, 10.0), (4, 15.0)]
    assert curve_values(ONLINE, "preference")[-1] == (4, 0.15)
    many = curve_values(replace(ONLINE, curve=tuple(k / 10_000 for k in range(4928))), "preference")
    assert len(many) <= MOST_POINTS
    assert many[-1] == (4928, 0.4927)
    assert {b[0] - a[0] for a, b in pairwise(many[:-1])} == {10}


def test_the_learning_curve_has_lines_for_always_and_for_nothing():
    """And the gain over all items with its percentiles; the axes name items and points."""
    figure = plot_learning(ONLINE, "fraction")
    always, nothing, curve, whole = figure.data
    assert (always.name, list(always.y)) == ("always cot", [20.0, 20.0])
    assert (nothing.name, list(nothing.y)) == ("always direct", [0.0, 0.0])
    assert list(zip(curve.x, curve.y, strict=True)) == curve_values(ONLINE, "fraction")
    assert (whole.y[0], whole.error_y.array[0], whole.error_y.arrayminus[0]) == (15.0, 5.0, 5.0)
    assert "2.5 to 97.5 percentiles of the orders" in whole.name
    assert figure.layout.xaxis.title.text == "items so far"
    assert "(points)" in figure.layout.yaxis.title.text
    assert "source: recorded" in title(figure)


def test_the_base_has_one_line_where_nothing_is_better():
    """Two lines at 0 would hide each other."""
    assert [t.name for t in plot_learning(NOTHING, "fraction").data][:2] == [
        "always direct",
        "chosen, mean over the orders",
    ]


def test_marks_of_predictions_are_measured_gains_at_mean_predictions():
    """In points, with the bootstrap interval; the note counts the items."""
    first, second = gain_marks(ONLINE, "fraction")
    assert (first.label, first.value, first.low, first.high, first.note) == ("-5.0", -10.0, -20.0, 0.0, "3 items")
    assert second.value == 41.0


def test_the_reliability_diagram_has_a_diagonal_and_the_error_in_its_title():
    """On both axes the same range, which holds every bin and its interval."""
    figure = plot_predicted(ONLINE, "fraction")
    diagonal, bins = figure.data
    assert list(diagonal.x) == list(diagonal.y)
    assert list(bins.x) == [-5.0, 40.0]
    assert list(bins.y) == [-10.0, 41.0]
    assert "95 % bootstrap over items" in bins.name
    assert list(figure.layout.xaxis.range) == list(figure.layout.yaxis.range) == list(diagonal.x)
    assert figure.layout.xaxis.range[0] < -20
    assert figure.layout.xaxis.range[1] > 41
    assert "calibration error 0.030 (3.0 points)" in title(figure)
    assert "Second half: 4 items, source: recorded" in title(figure)
    assert figure.layout.xaxis.title.text == "predicted gain (points)"
    assert "NaN" not in figure.to_json()
    graded = plot_predicted(ONLINE, "preference")
    assert "calibration error 0.030<br>" in title(graded)
    assert graded.layout.yaxis.title.text == "measured gain (preference)"


# --- narrow cells ---------------------------------------------------------------------------------------

LONG = "meta-llama/Llama-3.1-70B-Instruct-Turbo"
LONG_ONLINE = replace(ONLINE, name="alpaca_eval_instructions", model=LONG, styles=("step_by_step", "concise", "simple"))
NARROW = {
    "styles": lambda: plot_style_gains(replace(GAINS, name="alpaca_eval_instructions")),
    "learning": lambda: plot_learning(LONG_ONLINE, "fraction"),
    "predicted": lambda: plot_predicted(LONG_ONLINE, "fraction"),
}


@pytest.mark.parametrize("kind", NARROW)
def test_a_figure_fits_a_narrow_cell(kind: str):
    """It takes the width it is given. A letter is at most 8.5 pixels wide in a title, and 6.5 in a caption."""
    figure = NARROW[kind]()
    assert figure.layout.width is None
    first, *rest = figure.layout.title.text.split("<br>")
    assert len(rest) >= 2
    assert len(first) * 8.5 <= 650
    assert all(len(line.removeprefix("<sub>").removesuffix("</sub>")) * 6.5 <= 650 for line in rest)


# --- hostile labels -------------------------------------------------------------------------------------

EVIL = found(
    *(replace(r, model=HOSTILE, style=HOSTILE, base=HOSTILE, group=HOSTILE) for r in (WHOLE, *GROUPS)), unit=HOSTILE
)
EVIL = replace(EVIL, name=HOSTILE, source=HOSTILE)
EVIL_ONLINE = replace(
    ONLINE, name=HOSTILE, source=HOSTILE, model=HOSTILE, base=HOSTILE, styles=(HOSTILE,),
    groups=tuple(replace(g, group=HOSTILE) for g in ONLINE.groups),
)  # fmt: skip
EVIL_CHOSEN = replace(CHOSEN, rows=tuple(replace(r, model=HOSTILE, chosen=((HOSTILE, 1.0),)) for r in CHOSEN))
EVIL_PROMISE = replace(PROMISES[1], name=HOSTILE, model=HOSTILE, base=HOSTILE, styles=(HOSTILE,), reason=HOSTILE)
FIGURES = {
    "styles": lambda: plot_style_gains(EVIL),
    "learning": lambda: plot_learning(EVIL_ONLINE, HOSTILE),
    "predicted": lambda: plot_predicted(EVIL_ONLINE, HOSTILE),
}
TABLES = {
    "styles": lambda: style_gains_table(EVIL),
    "chosen": lambda: chosen_table(EVIL_CHOSEN),
    "promises": lambda: promises_table([EVIL_PROMISE], splits=2, seed=0),
    "online": lambda: online_table(EVIL_ONLINE, HOSTILE),
    "late": lambda: late_table(EVIL_ONLINE, HOSTILE),
    "beside": lambda: beside_table(EVIL_ONLINE, replace(EVIL_ONLINE, grouped=False), HOSTILE),
}


@pytest.mark.parametrize("kind", FIGURES)
def test_sec_xss_markup_in_names_is_text_in_figures(kind: str):
    """Models, styles, groups, source and unit reach plotly without markup that it would read."""
    drawn = json.loads(FIGURES[kind]().to_json())
    strings = [*texts(drawn["data"]), *texts(drawn["layout"])]
    assert [s for s in strings if "<script" in s or "<a " in s] == []
    assert any("&lt;script&gt;" in s for s in strings)


@pytest.mark.parametrize("kind", TABLES)
def test_sec_xss_markup_in_names_is_text_in_tables(kind: str):
    """Every cell, caption and note is escaped."""
    table: Table = TABLES[kind]()
    assert "<script" in table.text()
    assert "<script" not in table.html()
    assert "<a " not in table.html()


def test_tables_and_figures_are_offered_by_name():
    """`show` has them; what a notebook holds is taken as well as its rows."""
    names = {"chosen_table", "online_table", "plot_learning", "plot_predicted", "plot_style_gains", "style_gains_table"}
    assert names <= set(dir(show))
    assert show.plot_style_gains is plot_style_gains
    holder = type("Holder", (), {"found": GAINS})()
    assert show.style_gains_table(holder) == style_gains_table(GAINS)
