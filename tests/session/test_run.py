"""A run and a comparison as a notebook holds them: frames, text first, HTML in which data are inert."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest

from workbench import BestOfN, MajorityVoting, Profile, WeightedConsensus, Workbench
from workbench.errors import LLMError, LLMProviderError, LLMValidationError
from workbench.facts import Item, Request, Response
from workbench.session.comparison import Comparison
from workbench.session.run import Run
from workbench.study.run import Member, Plan, execute, spec_of
from workbench.study.suite import Suite

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
HARMLESS = {"div", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}


@pytest.fixture(scope="module")
def wb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    with Workbench.open(tmp_path_factory.mktemp("run") / "log") as opened:
        yield opened


@pytest.fixture(scope="module")
def run(wb: Workbench) -> Run:
    return wb.run_sync("general", merge="majority_voting")


@dataclass(frozen=True)
class Says:
    """A model that says one thing, or raises it."""

    name: str
    said: Any

    async def complete(self, request: Request) -> Response:
        if isinstance(self.said, BaseException):
            raise self.said
        return Response(request_key=request.key, model=self.name, text=self.said, source="live")


def run_suite(wb: Workbench, suite: Suite, models: list[Any], run_id: str, merge: Any = None) -> Run:
    """A run of a suite that is neither bundled nor recorded."""
    members = tuple(Member(name=m.name, model=m) for m in models)
    spec = spec_of(suite, merge)
    plan = Plan(run_id=run_id, suite=suite, members=members, merge=merge, source="live", spec=spec)
    asyncio.run(execute(wb.world, plan))
    return wb.get_run(run_id)


def text_suite(name: str, references: list[str | None], **changes: Any) -> Suite:
    items = tuple(
        Item(item_id=f"i{k}", task="general", prompt="Say it.", reference=r, metadata={"answer_kind": "text"})
        for k, r in enumerate(references)
    )
    return Suite(name=name, kind="suite", items=items, **changes)


# --- frames ---------------------------------------------------------------------------------------------


def test_a_run_is_a_frame_of_items_and_models(wb: Workbench, run: Run):
    """One row an item and member, in the order of the suite, with what the log says of it."""
    frame = run.df()
    members = frame[frame["model"].str.startswith("simulated:")]
    assert len(members) == 48 * 3
    assert members["item_id"].drop_duplicates().tolist() == [f"ge-{k:03}" for k in range(1, 49)]
    # The mean of each model's scores, counted by SQL of its own, is what the comparison shows.
    by_sql = wb.sql(
        "select model, avg(value) as score from scores where run_id = ? and scorer = 'exact_answer' group by 1",
        [run.run_id],
    )
    shown = {s.model: s.score for s in run.compare().found.singles}
    assert members.groupby("model")["score"].mean().to_dict() == pytest.approx(shown)
    assert shown.items() <= dict(zip(by_sql["model"], by_sql["score"], strict=True)).items()


def test_every_row_of_a_run_names_its_true_source(run: Run):
    """Nothing of a simulated run is labelled recorded, the rows of its merge included."""
    assert set(run.df()["source"]) == {"simulated"}


def test_a_failed_call_keeps_its_source_in_the_frame(wb: Workbench):
    """A live or simulated model that fails is not labelled recorded."""
    down = Profile(name="down", skill={"general": 0.5}, fail=1.0)
    frame = wb.run_sync("general", models=["simulated:weak", down]).df()
    assert len(frame[frame["model"] == "simulated:down"]) == 48
    assert "recorded" not in set(frame["source"])


def test_every_result_has_a_frame(run: Run):
    """Runs, comparisons, what-ifs and replays all give a pandas frame."""
    for result in (run, run.compare(), run.what_if(MajorityVoting()), run.replay()):
        assert isinstance(result.df(), pd.DataFrame), type(result)


def test_a_comparison_is_a_frame_of_merges_and_models(run: Run):
    """Three merges and three models, each with its difference, all with the source."""
    frame = run.compare().df()
    assert frame["kind"].tolist() == ["merge"] * 3 + ["single"] * 3
    assert set(frame["source"]) == {"simulated"}
    best = frame[(frame["kind"] == "single") & (frame["delta"] == 0)]
    assert best["strategy"].tolist() == [run.compare().found.best_single["model"]]


def test_a_strategy_is_found_by_name(run: Run):
    """A comparison gives the strategy of that name, and refuses another with the names there are."""
    comparison = run.compare()
    assert comparison["best_of_n"].strategy == "best_of_n"
    with pytest.raises((KeyError, LLMError), match="best_of_n"):
        comparison["best_of"]


# --- asking again costs nothing -------------------------------------------------------------------------


def test_asking_again_makes_no_call(wb: Workbench, run: Run):
    """What-ifs, comparisons, replays and frames leave the log exactly as it is."""
    count = "select (select count(*) from calls), (select count(*) from decisions), (select count(*) from spans)"
    before = wb.log.rows(count)
    run.what_if(MajorityVoting(), BestOfN(), WeightedConsensus(dict.fromkeys(run.table.models, 1.0)))
    run.compare(BestOfN(threshold=0.5))
    run.replay()
    run.df()
    assert wb.log.rows(count) == before


def test_a_what_if_shows_the_merges_asked_for_and_no_other(run: Run):
    """Equal weights decide like the majority; the run's own merge is not added."""
    equal = WeightedConsensus(dict.fromkeys(run.table.models, 1.0))
    found = run.what_if(MajorityVoting(), equal).found.strategies
    assert [s.strategy for s in found] == ["majority_voting", "weighted_consensus"]
    assert found[0].score == found[1].score


def test_a_comparison_has_the_runs_own_merge_those_given_and_the_built_in_ones(wb: Workbench):
    """Each once, the run's own first, also in a run that is reopened from the log."""
    made = wb.run_sync("general", merge=MajorityVoting(threshold=0.6))
    names = [(s.strategy, s.params) for s in wb.get_run(made.run_id).compare(BestOfN(threshold=0.5)).found.strategies]
    assert names == [
        ("majority_voting", {"threshold": 0.6}), ("best_of_n", {"threshold": 0.5}), ("majority_voting", {}),
        ("weighted_consensus", {}), ("best_of_n", {}),
    ]  # fmt: skip


def test_a_merge_of_scores_alone_is_refused_in_every_question(wb: Workbench):
    """A run without text says that there is nothing to merge, in a comparison as in a what-if."""
    scores = {(f"i{k}", m, ""): float(k % 2) for k in range(4) for m in ("a", "b")}
    suite = text_suite("scores", [None] * 4, scores=scores, scores_only=True, extracted=False)
    members = tuple(Member(name=m, model=Says(m, ""), recorded_as=m) for m in ("a", "b"))
    plan = Plan(run_id="scores", suite=suite, members=members, merge=None, source="recorded", spec=spec_of(suite, None))
    asyncio.run(execute(wb.world, plan))
    run = wb.get_run("scores")
    assert run.compare().found.strategies == ()
    for question in (run.what_if, run.compare):
        with pytest.raises(LLMValidationError) as caught:
            question(MajorityVoting())
        assert caught.value.code == "validation.no_text"


# --- how results show themselves ------------------------------------------------------------------------


def test_a_run_shows_itself_as_text(run: Run):
    """The representation is the table of the models, best first, with the run's id and its source."""
    lines = repr(run).splitlines()
    assert lines[0] == f"Run {run.run_id}"
    assert lines[1] == "general: each model alone on 48 items (correct)"
    assert lines[2].split()[:2] == ["model", "score"]
    assert lines[4].startswith("simulated:strong")
    assert lines[4].endswith("simulated")


def test_a_comparison_shows_itself_as_text(run: Run):
    """The table, the sentences below it, and how it was computed."""
    text = repr(run.compare())
    assert text.startswith("general: 48 items, 3 models, source simulated. Best single model simulated:strong")
    assert "majority_voting" in text
    assert "10000 paired bootstrap samples, 100 half splits." in text
    assert repr(run.compare().words).startswith("- On 48 items (simulated)")
    assert "On 48 items" not in repr(run.compare().numbers)


@pytest.mark.parametrize(("references", "why"), [(["yes"], "one item"), ([None, None, None], "no reference, no score")])
def test_a_run_that_cannot_be_compared_still_shows_itself(wb: Workbench, references: list[str | None], why: str):
    """A finished run has a text and an HTML form, whether or not it has numbers to show."""
    suite = text_suite("few", references)
    run = run_suite(wb, suite, [Says("a", "yes"), Says("b", "no")], f"few-{len(references)}", MajorityVoting())
    assert run.table.status == "finished"
    assert run.run_id in repr(run), why
    assert "<" in run._repr_html_()


class Tags(HTMLParser):
    """The elements and attributes of a piece of HTML."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.data: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.data.append(data)


def assert_inert(page: str) -> Tags:
    seen = Tags(page)
    assert seen.tags <= HARMLESS, seen.tags - HARMLESS
    assert seen.attributes <= {"style", "class"}, seen.attributes
    return seen


def test_sec_xss_hostile_names_are_inert_in_every_html_form(wb: Workbench):
    """Model and suite names with markup are shown as the text they are, in tables, words and numbers."""
    suite = text_suite(HOSTILE, ["yes"] * 4)
    models = [Says(f"evil:{HOSTILE}", "yes"), Says("b", HOSTILE)]
    run = run_suite(wb, suite, models, "hostile", MajorityVoting())
    comparison = run.compare(WeightedConsensus({m.name: 1.0 for m in models}))
    for shown in (run, comparison, comparison.words, comparison.numbers):
        seen = assert_inert(shown._repr_html_())
        assert HOSTILE in "".join(seen.data)


def test_sec_xss_hostile_score_kinds_and_strategies_are_inert(run: Run):
    """A unit, a kind of score, a source or a strategy's name cannot bring markup along either."""
    found = run.compare().found
    evil = replace(
        found, name=HOSTILE, unit=HOSTILE, score_kind=HOSTILE, source=HOSTILE,
        strategies=tuple(replace(s, strategy=HOSTILE, params={HOSTILE: HOSTILE}) for s in found.strategies),
    )  # fmt: skip
    for shown in (Comparison(evil), Comparison(evil).words, Comparison(evil).numbers):
        assert_inert(shown._repr_html_())


def test_sec_xss_hostile_answers_are_inert_in_frames_of_the_log(wb: Workbench):
    """A frame of answers shows markup as text."""
    run_suite(wb, text_suite("answers", ["yes"] * 2), [Says("a", HOSTILE)], "answers")
    frame = wb.sql("select response from answers where run_id = 'answers'")
    assert frame["response"].tolist() == [HOSTILE, HOSTILE]
    seen = Tags(frame._repr_html_())
    assert not {"img", "script"} & seen.tags


def test_sec_ansi_hostile_names_do_not_reach_the_terminal(wb: Workbench):
    """Escape sequences of names are shown as escapes in the text forms."""
    run = run_suite(
        wb, text_suite("esc\x1b]0;title\x07", ["yes"] * 2), [Says("a\x1b[2J", "yes"), Says("b", "no")], "ansi"
    )
    shown = repr(run) + repr(run.compare())
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "a\\x1b[2J" in shown


def test_a_member_that_always_fails_is_counted_and_scores_zero(wb: Workbench):
    """The table shows its failures; the merge goes on without it."""
    suite = text_suite("failing", ["yes"] * 3)
    down = Says("down", LLMProviderError("down", code="provider.server"))
    run = run_suite(wb, suite, [Says("a", "yes"), down], "failing", MajorityVoting())
    assert (run.spent["down"].failed, run.spent["down"].source) == (3, "none")
    assert {s.model: s.score for s in run.compare().found.singles} == {"a": 1.0, "down": 0.0}
    assert run.compare()["majority_voting"].score == 1.0


def test_a_run_of_a_log_that_is_open_twice_is_seen_by_both(wb: Workbench, run: Run):
    """Another workbench on the same folder finds the run and gets the same numbers."""
    with Workbench.open(wb.log.folder) as other:
        assert other.get_run(run.run_id).compare().found == run.compare().found
