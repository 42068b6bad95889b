"""Tables and figures of timings and outages: the numbers against the values, the drawing against the numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest

from workbench import show
from workbench.errors import LLMValidationError
from workbench.show.latency import Spend, spend_values, spending_values, success_values, timing_values
from workbench.study.outage import Outage, Spell, Timeline, Try
from workbench.study.timings import Estimate, Summary, Timed

HOSTILE = "<script>alert(1)</script>"


def summary(name: str = "chain", **changes: Any) -> Summary:
    made = Summary(
        run_id="latency-1",
        name=name,
        n=40,
        p50_ms=Estimate(value=100, low=90, high=120),
        p95_ms=Estimate(value=400, low=200, high=900),
        p99_ms=950.0,
        answered=Estimate(value=0.975, low=0.925, high=1.0),
        right=Estimate(value=0.8, low=0.7, high=0.9),
        cost_usd=0.0002,
        booked_usd=0.0005,
        attempts=1.25,
        source="live",
        clock="real",
        server="",
        samples=2000,
        seed=7,
    )
    return replace(made, **changes)


def attempt(at_s: float, took_s: float, usd: float, *, uncertain: bool = False, status: str = "ok") -> Try:
    code = None if status == "ok" else "provider.server"
    return Try(
        at_s=at_s, took_s=took_s, model="simulated:a", status=status, code=code, booked_usd=usd, uncertain=uncertain
    )


def asked(at_s: float, took_ms: float) -> Timed:
    return Timed(
        setup="with", item_id=f"q{at_s}", at_s=at_s, took_ms=took_ms, ok=True, code=None, right=1, attempts=1,
        cost_usd=0.1, booked_usd=0.1, sources=("simulated",), clock="virtual", server="",
    )  # fmt: skip


def outage(name: str = "with") -> Timeline:
    return Timeline(
        run_id="latency-2", name=name, source="simulated", clock="virtual", server="", ended_s=40.0,
        spells=(
            Spell(model="simulated:a", state="closed", from_s=0, until_s=10),
            Spell(model="simulated:a", state="open", from_s=10, until_s=30),
            Spell(model="simulated:a", state="half_open", from_s=30, until_s=31),
            Spell(model="simulated:a", state="closed", from_s=31, until_s=40),
        ),
        tries=(
            attempt(0, 9, 0.004, uncertain=True, status="timeout"), attempt(1, 1, 0.001), attempt(3, 2, 0.002),
            attempt(6, 0, 0.0, status="error"),
        ),
        questions=(asked(0, 500.0), asked(20, 15_000.0)),
        outages={"simulated:a": (Outage(from_s=8, until_s=25),), "simulated:b": ()},
    )  # fmt: skip


def title(figure: go.Figure) -> str:
    return str(figure.layout.title.text)


def named(figure: go.Figure, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name)


# --- numbers --------------------------------------------------------------------------------------------


def test_values_of_timings_are_those_of_the_summaries():
    """Milliseconds as they are, shares in per cent, costs per 1000 questions, in the order given."""
    rows = [summary("a"), summary("b", p50_ms=Estimate(value=7, low=6, high=9))]
    times = timing_values(rows)
    assert [(m.label, m.value, m.low, m.high) for m in times] == [
        ("a", 100, 90, 120), ("a", 400, 200, 900), ("b", 7, 6, 9), ("b", 400, 200, 900),
    ]  # fmt: skip
    assert [(m.value, m.low, m.high) for m in success_values(rows)[:2]] == [(97.5, 92.5, 100), (80, 70, 90)]
    assert spending_values(rows)[0] == {"setup": "a", "known_usd": 0.2, "perhaps_usd": 0.3}


def test_money_is_added_up_as_attempts_end():
    """Ends at 2, 5, 6 and 9 s: 1, 3, 3 thousandths of a dollar for certain, and 4 more that may be billed at 9 s."""
    assert spend_values(outage()) == [
        Spend(at_s=0, certain_usd=0, at_most_usd=0),
        Spend(at_s=2, certain_usd=0.001, at_most_usd=0.001),
        Spend(at_s=5, certain_usd=0.003, at_most_usd=0.003),
        Spend(at_s=6, certain_usd=0.003, at_most_usd=0.003),
        Spend(at_s=9, certain_usd=0.003, at_most_usd=0.007),
    ]


# --- table ----------------------------------------------------------------------------------------------


def test_the_table_has_every_number_with_its_interval_and_its_source():
    """One row a setup; what the intervals are and what `at most` means stands below."""
    text = repr(show.timings_table([summary("a"), summary("b", source="simulated")]))
    assert "2 setups, 40 questions each, source live + simulated" in text
    row = next(line for line in text.splitlines() if line.startswith("a "))
    assert row.split("  ")[0] == "a"
    for cell in (
        "100 [90, 120]",
        "400 [200, 900]",
        "950",
        "98 [92, 100]",
        "80 [70, 90]",
        "1.25",
        "0.200",
        "0.500",
        "live",
    ):
        assert cell in row
    assert "2000 bootstrap resamples of the questions, seed 7" in text
    assert "may be billed" in text


def test_a_table_shows_names_as_text():
    """A setup's name is no markup."""
    assert HOSTILE not in show.timings_table([summary(HOSTILE)])._repr_html_()


@pytest.mark.parametrize("given", [[], [outage()]])
def test_other_things_than_summaries_are_refused(given: list[Any]):
    """By the table and by the figure, with the way to get some."""
    for draw in (show.timings_table, show.plot_timings):
        with pytest.raises(LLMValidationError) as caught:
            draw(given)
        assert caught.value.code == "validation.timings"
        assert "summaries" in str(caught.value.next_step)


# --- figures --------------------------------------------------------------------------------------------


def test_the_figure_of_timings_draws_its_values():
    """Points and error bars are the marks'; bars of cost stack what is known and what may be billed."""
    rows = [summary("a"), summary("b", cost_usd=0.001, booked_usd=0.001)]
    figure = show.plot_timings(rows, title="a title")
    p95 = named(figure, "p95, 95 % bootstrap")
    assert list(p95.x) == [400, 400]
    assert (list(p95.error_x.array), list(p95.error_x.arrayminus)) == ([500, 500], [200, 200])
    assert list(named(figure, "known cost").x) == [0.2, 1.0]
    assert list(named(figure, "perhaps billed on top").x) == [0.3, 0.0]
    assert figure.layout.barmode == "stack"
    assert list(figure.layout.yaxis.ticktext) == ["a", "b"]


def test_the_figure_of_timings_says_what_it_shows():
    """Units on the axes; the questions, the source and the meaning of the bars in the caption."""
    figure = show.plot_timings([summary()], title="a title")
    assert title(figure).startswith("a title<br>")
    assert "40 questions each, source: live; bars: 95 % intervals" in title(figure)
    axes = (figure.layout.xaxis, figure.layout.xaxis2, figure.layout.xaxis3)
    assert [axis.title.text for axis in axes] == [
        "time to the answer (ms, log)", "share of questions (%)", "USD per 1000 questions",
    ]  # fmt: skip


def test_every_interval_lies_within_the_axis_of_times():
    """The logarithmic range reaches below the least and above the largest end of an interval."""
    figure = show.plot_timings([summary(), summary("b", p50_ms=Estimate(value=3, low=2, high=4))])
    low, high = (10**end for end in figure.layout.xaxis.range)
    assert low < 2
    assert high > 900
    assert all(low <= tick <= high for tick in figure.layout.xaxis.tickvals)


def test_the_figure_of_an_outage_draws_spells_attempts_waits_and_money():
    """Each state's spells as bars from their beginning, attempts by their ending, seconds, and dollars."""
    figure = show.plot_outage(outage())
    closed, half = named(figure, "closed"), named(figure, "half open")
    assert (list(closed.base), list(closed.x)) == ([0, 31], [10, 9])
    assert (list(half.base), list(half.x)) == ([30], [1])
    assert list(named(figure, "attempt: ok").x) == [1, 3]
    assert list(named(figure, "attempt: timeout").x) == [0]
    assert list(named(figure, "with").y) == [0.5, 15]
    assert list(named(figure, "with: with possibly billed").y) == [0, 0.001, 0.003, 0.003, 0.007]


def test_the_figure_of_an_outage_says_that_it_is_simulated_and_virtual():
    """In the caption and on the axis of time; planned outages are shaded in every panel, and named."""
    figure = show.plot_outage(outage())
    assert "2 questions, source: simulated, on the virtual clock" in title(figure)
    assert figure.layout.xaxis4.title.text == "time since the start (s, virtual clock)"
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(8, 25)] * 4
    assert [note.text for note in figure.layout.annotations if "refusing" in note.text] == ["a is refusing"]


def test_a_live_run_is_not_captioned_as_rehearsed_or_virtual():
    """Nothing planned and the machine's clock: the caption names the simulated server, and nothing is shaded."""
    live = replace(outage("live run"), source="live", clock="real", server="simulated", outages={"lab:a": ()})
    figure = show.plot_outage(live)
    assert title(figure) == "A run over time: live run<br><sub>2 questions, source: live, simulated server</sub>"
    assert figure.layout.xaxis4.title.text == "time since the start (s)"
    assert not figure.layout.shapes


def test_a_run_of_an_older_log_is_given_no_clock():
    """What the log does not say, the axis and the caption do not either."""
    figure = show.plot_outage(replace(outage(), clock=""))
    assert "clock" not in title(figure)
    assert figure.layout.xaxis4.title.text == "time since the start (s)"


def test_the_caption_has_the_source_of_the_run_beside():
    """Both sources, both clocks, both numbers of questions, and whose outages are shaded."""
    live = replace(outage("live"), source="live", clock="real", server="simulated", outages={})
    figure = show.plot_outage(outage(), beside=replace(live, questions=live.questions[:1]))
    assert (
        "2 and 1 questions, source: simulated, on the virtual clock against live, simulated server; "
        "shaded: the outage of with"
    ) in title(figure)
    assert figure.layout.xaxis4.title.text == "time since the start (s, real and virtual clock)"


def test_timings_name_the_simulated_server_and_the_virtual_clock():
    """In the table's caption and column, and in the figure's caption."""
    rows = [summary("a", server="simulated"), summary("b", source="simulated", clock="virtual")]
    words = "live, simulated server + simulated, on the virtual clock"
    text = repr(show.timings_table(rows))
    assert f"source {words}" in text
    assert next(line for line in text.splitlines() if line.startswith("a ")).rstrip().endswith("live, simulated server")
    assert f"source: {words}; bars" in title(show.plot_timings(rows))


def test_another_run_is_drawn_beside_where_both_can_be_compared():
    """Its waits and money, not its circuits and attempts, of which the panels name the owner."""
    figure = show.plot_outage(outage(), beside=outage("without"))
    names = [trace.name for trace in figure.data]
    assert {"with", "without", "with: certain", "without: certain"} <= set(names)
    assert names.count("closed") == names.count("attempt: ok") == 1
    assert title(figure).startswith("An outage rehearsed: with against without<br>")
    assert "circuits (with)" in figure.layout.annotations[0].text


def test_names_are_text_in_figures():
    """No name becomes markup of the drawing."""
    figures = (show.plot_timings([summary(HOSTILE)], title=HOSTILE), show.plot_outage(outage(HOSTILE)))
    assert all(HOSTILE not in repr(json.loads(figure.to_json())) for figure in figures)
    assert all("&lt;script&gt;" in title(figure) for figure in figures)
