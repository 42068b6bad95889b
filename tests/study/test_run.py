"""Running a suite: what is asked, read, scored, merged and logged, and what never looks at the item it decides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from workbench.act.world import World
from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus
from workbench.decide.strategies.mbr import MinimumBayesRisk
from workbench.errors import LLMProviderError, LLMValidationError
from workbench.facts import Item, Merge, Request, Response
from workbench.record.log import Log
from workbench.study.run import Member, Plan, check_plan, estimated_quality, execute, spec_of
from workbench.study.suite import Suite
from workbench.study.table import read_table


@dataclass(frozen=True)
class Script:
    """A model that says what it was given for each item, or raises it."""

    name: str
    says: Mapping[str, Any]

    async def complete(self, request: Request) -> Response:
        said = self.says[str(request.item_id)]
        if isinstance(said, BaseException):
            raise said
        if not isinstance(said, str):
            return said
        return Response(request_key=request.key, model=self.name, text=said, source="live")


@dataclass
class Counted:
    """A model that knows how many of its calls, and of its friends', were open at once."""

    name: str
    tally: dict[str, int]
    asked: list[str] = field(default_factory=list)

    async def complete(self, request: Request) -> Response:
        self.tally["open"] += 1
        self.tally["most"] = max(self.tally["most"], self.tally["open"])
        self.asked.append(str(request.item_id))
        for _ in range(5):
            await asyncio.sleep(0)
        self.tally["open"] -= 1
        return Response(request_key=request.key, model=self.name, text="The answer is 1.", source="live")


def suite(references: Sequence[str | None], **changes: Any) -> Suite:
    """Number questions i0, i1, ... with these references."""
    items = tuple(
        Item(item_id=f"i{k}", task="reasoning", prompt=f"Question {k}?", reference=reference,
             metadata={"answer_kind": "number", "options": ()})
        for k, reference in enumerate(references)
    )  # fmt: skip
    return Suite(**{"name": "tiny", "kind": "suite", "items": items, **changes})


def says(name: str, *answers: str | BaseException | None) -> Member:
    """A member with these answers to i0, i1, ...; None is a text without an answer."""
    texts = {
        f"i{k}": "I cannot tell." if a is None else a if isinstance(a, BaseException) else f"The answer is {a}."
        for k, a in enumerate(answers)
    }
    return Member(name=name, model=Script(f"test:{name}", texts), recorded_as=name)


def plan_of(asked: Suite, members: Sequence[Member], merge: Merge | None, run_id: str = "r", **changes: Any) -> Plan:
    spec = spec_of(asked, merge, models=[m.name for m in members])
    plan = Plan(run_id=run_id, suite=asked, members=tuple(members), merge=merge, source="live", spec=spec)
    return replace(plan, **changes)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = Log.open(tmp_path / "log")
    yield opened
    opened.close()


def run(log: Log, plan: Plan) -> None:
    asyncio.run(execute(World.real(log), plan))


MEMBERS = (says("a", "1", "2", "9"), says("b", "1", "8", "9"), says("c", "7", "8", None))


# --- what a run writes ----------------------------------------------------------------------------------


def test_a_run_writes_one_call_and_one_contribution_per_item_and_member(log: Log):
    """Three items and three members make exactly nine calls and nine contributions, each pair once."""
    run(log, plan_of(suite(["1", "2", "3"]), MEMBERS, MajorityVoting()))
    pairs = sorted((f"i{k}", m) for k in range(3) for m in "abc")
    assert sorted(log.rows("select item_id, model from calls where run_id = 'r'")) == pairs
    assert sorted(log.rows("select item_id, model from contributions where run_id = 'r'")) == pairs


def test_a_run_writes_one_decision_per_item(log: Log):
    """Every item has one merge decision under the policy's name, with the winner of a hand count."""
    run(log, plan_of(suite(["1", "2", "3"]), MEMBERS, MajorityVoting()))
    rows = log.rows("select item_id, strategy, answer from merges order by item_id")
    # i0: 1, 1, 7; i1: 2, 8, 8; i2: 9, 9 and no answer.
    assert rows == [("i0", "majority_voting", "1"), ("i1", "majority_voting", "8"), ("i2", "majority_voting", "9")]


def test_a_run_scores_every_member_and_the_merge_on_every_item(log: Log):
    """Scores are 1 where the answer equals the reference, 0 elsewhere, also where there is no answer."""
    run(log, plan_of(suite(["1", "2", "3"]), MEMBERS, MajorityVoting()))
    rows = log.rows("select model, item_id, value from scores where scorer = 'exact_answer' order by model, item_id")
    found = {name: [v for m, _, v in rows if m == name] for name in {m for m, _, _ in rows}}
    assert found == {"a": [1, 1, 0], "b": [1, 0, 0], "c": [0, 0, 0], "majority_voting": [1, 0, 0]}


def test_a_run_without_a_merge_decides_nothing(log: Log):
    """Asking alone leaves calls, contributions and scores, but no decision."""
    run(log, plan_of(suite(["1", "2", "3"]), MEMBERS, None))
    counts = [log.rows(f"select count(*) from {t}")[0][0] for t in ("calls", "contributions", "scores", "decisions")]
    assert counts == [9, 9, 9, 0]


def test_a_run_has_a_start_and_an_end(log: Log):
    """The run's row knows name, source, members, plan, status, item count and that it ended after it began."""
    run(log, plan_of(suite(["1", "2", "3"]), MEMBERS, MajorityVoting(threshold=0.0)))
    (row,) = log.records("select * from runs")
    assert (row["run_id"], row["name"], row["source"], row["status"], row["items"]) == (
        "r",
        "tiny",
        "live",
        "finished",
        3,
    )
    assert json.loads(row["models"]) == ["a", "b", "c"]
    assert json.loads(row["spec"])["merge"] == {"policy": "majority_voting", "params": {"threshold": 0.0}}
    assert row["end_unix_ns"] >= row["start_unix_ns"]
    assert row["failure"] is None


def test_spans_stand_under_the_phase_that_opened_them(log: Log):
    """One tree: run > ask > item > complete, and the other phases under the run; all of one trace."""
    run(log, plan_of(suite(["1", "2", "3"]), MEMBERS, MajorityVoting()))
    spans = log.records("select * from spans where run_id = 'r'")
    by_id = {s["span_id"]: s for s in spans}
    edges = sorted((by_id[s["parent_id"]]["operation"] if s["parent_id"] else "-", s["operation"]) for s in spans)
    assert edges == sorted(
        [("-", "run"), ("run", "ask"), ("run", "read_answers"), ("run", "score"), ("run", "merge")]
        + [("ask", "item")] * 3
        + [("item", "complete")] * 9
    )
    assert len({s["trace_id"] for s in spans}) == 1
    for s in spans:  # a call stands under its own item's span
        if s["operation"] == "complete":
            parent = json.loads(by_id[s["parent_id"]]["attributes"])
            assert parent["item_id"] == json.loads(s["attributes"])["item_id"]
    assert {c["span_id"] for c in log.records("select span_id from calls")} <= set(by_id)


def test_the_log_gives_the_run_back_as_arrays(log: Log):
    """A table read from the log has models in sorted order, items in suite order, and the scores of the hand count."""
    run(log, plan_of(suite(["1", "2", "3"]), (MEMBERS[2], MEMBERS[0], MEMBERS[1]), MajorityVoting()))
    table = read_table(log, "latest")
    assert (table.models, table.item_ids, table.reference) == (("a", "b", "c"), ("i0", "i1", "i2"), ("1", "2", "3"))
    assert table.scores.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert table.unit == "fraction"


# --- ties, failures, filters ----------------------------------------------------------------------------


def test_a_tie_is_scored_by_expectation(log: Log):
    """Two tied answers with the gold among them score 1/2, three 1/3, and a tie without the gold 0."""
    members = (says("a", "1", "1", "1"), says("b", "2", "2", "2"), says("c", None, "3", "3"))
    run(log, plan_of(suite(["1", "3", "9"]), members, MajorityVoting()))
    rows = log.rows("select value from scores where model = 'majority_voting' order by item_id")
    assert [r[0] for r in rows] == [1 / 2, 1 / 3, 0]


@pytest.mark.parametrize(
    "failure",
    [
        LLMProviderError("down", code="provider.server", status=503),
        ValueError("not even typed"),
        asyncio.CancelledError(),
    ],
    ids=["typed", "untyped", "cancelled by itself"],
)
def test_a_failing_member_takes_no_other_down(log: Log, failure: BaseException):
    """One member fails on one item: the run finishes, the others are merged, the failure is one row and scores 0."""
    members = (says("a", "1", "2"), says("b", failure, "2"), says("c", "1", "2"))
    run(log, plan_of(suite(["1", "2"]), members, MajorityVoting()))
    assert log.rows("select status from runs") == [("finished",)]
    assert log.rows("select item_id, model from calls where not ok") == [("i0", "b")]
    assert log.rows("select item_id, model from contributions where status = 'failed'") == [("i0", "b")]
    assert log.rows("select answer from merges order by item_id") == [("1",), ("2",)]
    assert log.rows("select value from scores where model = 'b' order by item_id") == [(0.0,), (1.0,)]


def test_a_member_that_returns_nonsense_fails_alone(log: Log):
    """None instead of a Response is that member's failure provider.malformed."""
    broken = Member(name="b", model=Script("test:b", {"i0": None}))
    run(log, plan_of(suite(["1"]), (says("a", "1"), broken), MajorityVoting()))
    assert log.rows("select failure_code from calls where model = 'b'") == [("provider.malformed",)]
    assert log.rows("select answer from merges") == [("1",)]


def test_an_item_on_which_all_fail_is_logged_and_scores_zero(log: Log):
    """The decision keeps ensemble.all_failed; the merge scores 0 there and the run goes on."""
    down = LLMProviderError("down", code="provider.server")
    run(log, plan_of(suite(["1", "2"]), (says("a", down, "2"), says("b", down, "2")), MajorityVoting()))
    outputs = [json.loads(o) for (o,) in log.rows("select output from decisions order by item_id")]
    assert outputs[0] == {"error": "ensemble.all_failed"}
    assert outputs[1]["answer"] == "2"
    assert log.rows("select value from scores where model = 'majority_voting' order by item_id") == [(0.0,), (1.0,)]


def test_an_item_on_which_all_are_filtered_is_logged_and_scores_zero(log: Log):
    """Quality under the threshold on the other items leaves nothing: logged as all_filtered, scored 0."""
    # On the items other than i0 both models have 1 of 2 right, 0.5 < 0.6; for i1 and i2 only `a` has 1/2, too.
    members = (says("a", "1", "2", "9"), says("b", "1", "9", "3"))
    run(log, plan_of(suite(["1", "2", "3"]), members, MajorityVoting(threshold=0.6)))
    outputs = {i: json.loads(o) for i, o in log.rows("select item_id, output from decisions")}
    assert outputs["i0"] == {"error": "ensemble.all_filtered"}
    assert outputs["i1"]["answer"] == "9"  # a: 1 of {1, 0} = 0.5; b: 1 of {1, 1} = 1.0
    assert outputs["i2"]["answer"] == "9"  # a: 1.0; b: 0.5
    scores = dict(log.rows("select item_id, value from scores where model = 'majority_voting'"))
    assert scores == {"i0": 0.0, "i1": 0.0, "i2": 0.0}


def test_contributions_that_were_filtered_are_logged_as_filtered(log: Log):
    """Status `filtered` stands in the log, also where the filter left nobody."""
    members = (says("a", "1", "2", "9"), says("b", "1", "9", "3"))
    run(log, plan_of(suite(["1", "2", "3"]), members, MajorityVoting(threshold=0.6)))
    rows = log.rows("select item_id, model from contributions where status = 'filtered' order by 1, 2")
    assert rows == [("i0", "a"), ("i0", "b"), ("i1", "a"), ("i2", "b")]


# --- texts scored by a metric ---------------------------------------------------------------------------


def texts(references: Sequence[Sequence[str]], metric: str = "rouge_l") -> Suite:
    """Text questions i0, i1, ..., each with its references."""
    items = tuple(
        Item(item_id=f"i{k}", task="summarization", prompt=f"Question {k}?", reference=first,
             metadata={"answer_kind": "text", "options": (), "metric": metric, "references": tuple(further)})
        for k, (first, *further) in enumerate(references)
    )  # fmt: skip
    return Suite(name="texts", kind="suite", items=items, score_kind=metric, metric=metric, extracted=False)


def writes(name: str, *said: Any) -> Member:
    """A member with these texts for i0, i1, ..."""
    return Member(name=name, model=Script(f"test:{name}", {f"i{k}": text for k, text in enumerate(said)}))


def scores_of(log: Log, run_id: str = "r") -> dict[str, list[float]]:
    """Scores by model, in the order of the items."""
    rows = log.rows("select model, list(value order by item_id) from scores where run_id = ? group by 1", [run_id])
    return dict(rows)


def test_texts_are_scored_by_the_metric_of_their_suite(log: Log):
    """Members and merge get the metric of their text, under its name; F1 counted by hand."""
    down = LLMProviderError("down", code="provider.server")
    members = (writes("a", "a b c d", "x y"), writes("b", "A B c d!", ""), writes("c", "z", down))
    run(log, plan_of(texts([("a c", "a b c"), ("x y",)]), members, MajorityVoting()))
    # i0: "a b c d" has 3 words of "a b c" in order, 2*3/7; i1: equal; no answer; and a failure.
    assert {m: pytest.approx(v) for m, v in scores_of(log).items()} == {
        "a": [6 / 7, 1], "b": [6 / 7, 0], "c": [0, 0],
        "majority_voting": [(6 / 7 + 6 / 7 + 0) / 3, 1],  # "a b c d", "a b c d!" and "z" are a tie
    }  # fmt: skip
    assert log.rows("select distinct scorer from scores") == [("rouge_l",)]


def test_a_text_is_measured_as_it_stands_and_not_as_it_is_counted(log: Log):
    """Two texts that differ in case are one answer, and chrF gives each its own score."""
    run(log, plan_of(texts([("AB",), ("ab",)], "chrf"), (writes("a", "AB", "AB"), writes("b", "ab", "ab")), BestOfN()))
    # On the other item one of the two is better each time, which best_of_n follows: it is wrong both times.
    assert scores_of(log) == {"a": [100, 0], "b": [0, 100], "best_of_n": [0, 0]}
    assert log.rows("select item_id, count(distinct answer) from contributions group by 1 order by 1") == [
        ("i0", 1), ("i1", 1),
    ]  # fmt: skip


def test_quality_by_a_metric_is_the_mean_score_in_the_unit_interval(log: Log):
    """chrF of 100, 100 and 0 leaves 1/2, 1/2 and 1 on the other items: a share of its scale and no rank."""
    members = (writes("a", "ab", "ab", "zz"), writes("b", "zz", "zz", "ab"))
    run(log, plan_of(texts([("ab",)] * 3, "chrf"), members, BestOfN()))
    rows = log.rows("select item_id, model, quality, quality_source from contributions order by 1, 2")
    assert [r[2] for r in rows] == [0.5, 0.5, 0.5, 0.5, 1.0, 0.0]
    assert {r[3] for r in rows} == {"score_on_other_items"}


def test_an_item_on_which_no_text_is_left_scores_zero(log: Log):
    """Nothing is the floor of a metric, also where no text scores so little."""
    members = (writes("a", "x q", "y q"), writes("b", "x q", "y q"))
    run(log, plan_of(texts([("x",), ("y",)]), members, MajorityVoting(threshold=0.9)))
    assert scores_of(log) == {"a": [2 / 3, 2 / 3], "b": [2 / 3, 2 / 3], "majority_voting": [0, 0]}


@pytest.mark.parametrize("merge", [BestOfN(), WeightedConsensus(), MinimumBayesRisk("rouge_l")], ids=lambda m: m.name)
def test_a_reference_of_texts_does_not_reach_the_decision_of_its_own_item(log: Log, merge: Merge):
    """Another reference of i0 changes its scores and leaves its decision as it was."""
    members = (writes("a", "p q", "k l"), writes("b", "p r", "k m"), writes("c", "s t", "k l"))
    for run_id, reference in (("ab", "p q r"), ("c", "s t"), ("none", "z")):
        run(log, plan_of(texts([(reference,), ("k l",)]), members, merge, run_id))
    assert decision_of(log, "ab", "i0") == decision_of(log, "c", "i0") == decision_of(log, "none", "i0")
    assert scores_of(log, "ab")["a"] != scores_of(log, "c")["a"]


# --- quality never looks at the item under decision -----------------------------------------------------


def decision_of(log: Log, run_id: str, item_id: str) -> tuple[Any, Any]:
    ((inputs, output),) = log.rows(
        "select inputs, output from decisions where run_id = ? and item_id = ?", [run_id, item_id]
    )
    return json.loads(inputs), json.loads(output)


@pytest.mark.parametrize("merge", [BestOfN(), WeightedConsensus(), MajorityVoting(threshold=0.4)], ids=lambda m: m.name)
def test_a_reference_does_not_reach_the_decision_of_its_own_item(log: Log, merge: Merge):
    """Another reference of i0 turns its scores round and leaves its decision, quality included, as it was."""
    members = (says("a", "1", "2", "3", "9"), says("b", "5", "2", "3", "4"), says("c", "5", "7", "3", "4"))
    for run_id, reference in (("right_a", "1"), ("right_bc", "5"), ("right_none", "77")):
        run(log, plan_of(suite([reference, "2", "3", "4"]), members, merge, run_id))
    assert (
        decision_of(log, "right_a", "i0") == decision_of(log, "right_bc", "i0") == decision_of(log, "right_none", "i0")
    )
    # The other items do see it: their qualities differ.
    assert decision_of(log, "right_a", "i1")[0] != decision_of(log, "right_bc", "i1")[0]


def graded(rows: Mapping[str, Sequence[float]], kind: str = "rating") -> Suite:
    """A suite with recorded scores: model -> its score on i0, i1, ..."""
    scores = {(f"i{k}", model, ""): value for model, values in rows.items() for k, value in enumerate(values)}
    count = len(next(iter(rows.values())))
    return suite([None] * count, kind="recording", score_kind=kind, scores=scores, extracted=False)


def test_a_recorded_score_does_not_reach_the_decision_of_its_own_item(log: Log):
    """Two models with equal records on the other items stay tied whatever they score on this one."""
    # On i1 and i2 both have 0.0 and 0.1. On i0 the one has 0.0 and the other 0.2: not to be seen when deciding i0.
    members = (says("a", "1", "2", "3"), says("b", "5", "2", "3"))
    for run_id, own in (("equal", (0.0, 0.0)), ("b_better", (0.0, 0.2)), ("a_better", (0.2, 0.0))):
        asked = graded({"a": [own[0], 0.0, 0.1], "b": [own[1], 0.0, 0.1]})
        run(log, plan_of(asked, members, BestOfN(), run_id))
    outputs = [decision_of(log, r, "i0")[1]["tied"] for r in ("equal", "b_better", "a_better")]
    assert outputs == [["1", "5"]] * 3


def test_a_score_outside_the_unit_interval_does_not_reach_its_own_item():
    """Whether qualities are means or ranks does not depend on the item under decision."""
    import numpy as np

    inside = np.array([[0.5, 0.5], [0.2, 0.9], [0.4, 0.1]])
    outside = np.array([[1.5, 0.5], [0.2, 0.9], [0.4, 0.1]])
    assert estimated_quality(inside)[0][0].tolist() == estimated_quality(outside)[0][0].tolist()


def test_quality_is_the_mean_score_on_the_other_items(log: Log):
    """Each contribution carries its model's share of right answers elsewhere, and names the estimator."""
    run(log, plan_of(suite(["1", "2", "3"]), MEMBERS, MajorityVoting()))
    rows = log.rows("select item_id, model, quality, quality_source from contributions order by 1, 2")
    # a: 1, 1, 0 -> 1/2, 1/2, 1; b: 1, 0, 0 -> 0, 1/2, 1/2; c: 0, 0, 0 -> 0.
    assert [r[2] for r in rows] == [0.5, 0.0, 0.0, 0.5, 0.5, 0.0, 1.0, 0.5, 0.0]
    assert {r[3] for r in rows} == {"score_on_other_items"}


def test_scores_without_a_unit_interval_are_ranked_for_quality(log: Log):
    """Negative ratings become ranks within their items; the log says so."""
    asked = graded({"a": [-3.0, -1.0, 0.0], "b": [-2.0, -5.0, -4.0]}, kind="human_mqm_negated")
    run(log, plan_of(asked, (says("a", "1", "2", "3"), says("b", "4", "5", "6")), BestOfN()))
    rows = log.rows("select item_id, model, quality, quality_source from contributions order by 1, 2")
    # Ranks: a 0, 1, 1 and b 1, 0, 0; the mean of the other two items.
    assert [r[2] for r in rows] == [1.0, 0.0, 0.5, 0.5, 0.5, 0.5]
    assert {r[3] for r in rows} == {"rank_on_other_items"}


# --- refusals before anything is asked ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "merge", "code"),
    [
        ({"members": ()}, MajorityVoting(), "validation.models"),
        ({"suite": suite([])}, MajorityVoting(), "data.empty"),
        ({}, WeightedConsensus({"a": 1.0, "b": 1.0, "d": 1.0}), "validation.weights"),
        ({}, WeightedConsensus({"a": 1.0}), "validation.weights"),
        ({"suite": suite(["1"], scores_only=True)}, MajorityVoting(), "validation.no_text"),
    ],
    ids=["no models", "no items", "unknown weight", "missing weights", "scores only"],
)
def test_an_impossible_plan_is_refused_before_any_call(log: Log, changes: dict[str, Any], merge: Merge, code: str):
    """The refusal is typed, and neither a call nor a run is in the log."""
    plan = replace(plan_of(suite(["1", "2", "3"]), MEMBERS, merge), **changes)
    with pytest.raises(LLMValidationError) as caught:
        run(log, plan)
    assert caught.value.code == code
    assert log.rows("select (select count(*) from calls), (select count(*) from runs)") == [(0, 0)]


def test_weights_that_are_all_zero_are_refused_where_they_are_written():
    """No plan can hold a consensus in which nobody has a vote."""
    with pytest.raises(LLMValidationError) as caught:
        WeightedConsensus({"a": 0.0, "b": 0.0})
    assert caught.value.code == "validation.weights"


def test_a_refused_weight_suggests_the_name_meant():
    """A misspelt member is answered with the closest name."""
    members = (says("strong", "1"), says("weak", "1"))
    plan = plan_of(suite(["1"]), members, WeightedConsensus({"strng": 1.0, "weak": 1.0}))
    with pytest.raises(LLMValidationError, match="strng") as caught:
        check_plan(plan)
    assert "'strong'" in caught.value.next_step


# --- concurrency and cancellation -----------------------------------------------------------------------


@pytest.mark.parametrize(("concurrency", "most"), [(1, 2), (3, 6), (100, 14)])
def test_concurrency_bounds_the_items_asked_at_once(log: Log, concurrency: int, most: int):
    """With two members and seven items, `concurrency` items make at most twice as many open calls."""
    tally = {"open": 0, "most": 0}
    models = [Counted("test:a", tally), Counted("test:b", tally)]
    members = [Member(name=m.name, model=m) for m in models]
    run(log, plan_of(suite(["1"] * 7), members, MajorityVoting(), concurrency=concurrency))
    assert tally == {"open": 0, "most": most}
    assert [sorted(m.asked) for m in models] == [[f"i{k}" for k in range(7)]] * 2


@dataclass(frozen=True)
class Stuck:
    """A model that answers the first item and hangs on the others."""

    name: str = "test:stuck"

    async def complete(self, request: Request) -> Response:
        if request.item_id != "i0":
            await asyncio.Event().wait()
        return Response(request_key=request.key, model=self.name, text="The answer is 1.", source="live")


def test_a_cancelled_run_is_marked_and_keeps_what_it_paid_for(log: Log):
    """Status `cancelled`; the finished call stays, the open one is logged as cancelled, and no table is made of it."""

    async def main() -> None:
        members = (Member(name="stuck", model=Stuck()),)
        task = asyncio.create_task(execute(World.real(log), plan_of(suite(["1", "2"]), members, None, concurrency=1)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert log.rows("select status from runs") == [("cancelled",)]
    assert log.rows("select item_id, ok, failure_code from calls order by 1") == [
        ("i0", True, None),
        ("i1", False, "cancelled"),
    ]
    with pytest.raises(LLMValidationError) as caught:
        read_table(log, "r")
    assert caught.value.code == "run.unfinished"
    assert "cancelled" in caught.value.message


@dataclass(frozen=True)
class Broken:
    """A merge with a bug."""

    name: str = "broken"

    def __call__(self, contributions: object) -> Any:
        raise ZeroDivisionError("a bug of the user's")


def test_a_merge_with_a_bug_fails_the_run_and_says_why(log: Log):
    """The error passes on as it is; the run is `failed` with the reason, and its calls stay."""
    with pytest.raises(ZeroDivisionError):
        run(log, plan_of(suite(["1"]), MEMBERS[:1], Broken()))
    (row,) = log.records("select status, failure from runs")
    assert row["status"] == "failed"
    assert json.loads(row["failure"])["kind"] == "ZeroDivisionError"
    assert log.rows("select count(*) from calls") == [(1,)]
