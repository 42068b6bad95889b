"""A run's table and pool as they are read from the log: texts, groups, values, and parts of the models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.act.world import World
from workbench.decide.merge import MajorityVoting
from workbench.decide.votes import Ballots
from workbench.errors import LLMProviderError, LLMValidationError
from workbench.facts import Item, Request, Response
from workbench.record.log import Log
from workbench.study.run import Member, Plan, execute, spec_of
from workbench.study.suite import Suite
from workbench.study.table import RunTable, find_run, read_pool, read_table

NAN = float("nan")
DOWN = LLMProviderError("down", code="provider.server")


@dataclass(frozen=True)
class Script:
    """A model that says what it was given for each item, or raises it; it may tell cost and latency."""

    name: str
    says: Mapping[str, Any]
    cost_usd: float | None = None
    latency_ms: float | None = None

    async def complete(self, request: Request) -> Response:
        said = self.says[str(request.item_id)]
        if isinstance(said, BaseException):
            raise said
        return Response(
            request_key=request.key, model=self.name, text=said, source="live",
            cost_usd=self.cost_usd, latency_ms=self.latency_ms,
        )  # fmt: skip


MEMBERS = {
    "b": Script("test:b", {"sum-1": "The answer is 1.", "sum-2": "I cannot tell.", "x": DOWN}, 0.25, 40.0),
    "a": Script("test:a", {"sum-1": "So 1.", "sum-2": "The answer is 3.", "x": "The answer is 4."}),
}


@pytest.fixture
def log(log_folder: Path) -> Iterator[Log]:
    opened = Log.open(log_folder)
    yield opened
    opened.close()


def ran(log: Log, *, groups: Mapping[str, str] | None = None, members: Sequence[str] = ("b", "a")) -> RunTable:
    """The table of a run of three items; the third has no reference."""
    told = groups or {}
    items = tuple(
        Item(item_id=i, task="reasoning", prompt=f"{i}?", reference=gold,
             metadata={"answer_kind": "number"} | ({"group": told[i]} if i in told else {}))
        for i, gold in (("sum-1", "1"), ("sum-2", "3"), ("x", None))
    )  # fmt: skip
    suite = Suite(name="tiny", kind="suite", items=items)
    made = tuple(Member(name=n, model=MEMBERS[n]) for n in members)
    spec = spec_of(suite, MajorityVoting())
    plan = Plan(run_id="r", suite=suite, members=made, merge=MajorityVoting(), source="live", spec=spec)
    asyncio.run(execute(World.real(log), plan))
    return read_table(log, "r")


def refused(make: Any, code: str) -> LLMValidationError:
    with pytest.raises(LLMValidationError) as caught:
        make()
    assert caught.value.code == code
    assert len(str(caught.value.next_step)) <= 160
    return caught.value


# --- the pool of a run ----------------------------------------------------------------------------------


def test_a_pool_has_the_text_of_each_answer(log: Log):
    """Columns are sorted by model; who failed, and who said nothing that could be read, has no text."""
    pool = read_pool(log, ran(log))
    assert pool.models == ("a", "b")
    assert pool.texts == (("So 1.", "The answer is 1."), ("The answer is 3.", None), ("The answer is 4.", None))
    assert pool.ballots.codes.tolist() == [[0, 0], [0, -1], [0, -1]]
    assert pool.ballots.failed.tolist() == [[False, False], [False, False], [False, True]]


def test_a_pool_has_cost_and_latency_of_each_response(log: Log):
    """NaN where the model does not tell, and where it failed; a response without an answer has its price as well."""
    pool = read_pool(log, ran(log))
    assert np.array_equal(pool.cost_usd, [[NAN, 0.25], [NAN, 0.25], [NAN, NAN]], equal_nan=True)
    assert np.array_equal(pool.latency_ms, [[NAN, 40.0], [NAN, 40.0], [NAN, NAN]], equal_nan=True)


def test_a_pool_without_texts_is_that_of_the_table(log: Log):
    """What the table knows by itself has neither texts nor prices, and the same answers and groups."""
    made = ran(log)
    bare, whole = made.pool(), read_pool(log, made)
    assert bare.texts == ((None, None),) * 3
    assert np.isnan(bare.cost_usd).all()
    assert bare.groups == whole.groups
    assert np.array_equal(bare.ballots.codes, whole.ballots.codes)
    assert bare.ballots.answers == whole.ballots.answers == made.ballots.answers


def test_a_pool_holds_no_quality_that_was_estimated_from_scores(log: Log):
    """The run's estimates come from other items, and with them the labels of those that judge a strategy."""
    made = ran(log)
    assert not np.isnan(made.ballots.quality).all()
    assert np.isnan(made.pool().ballots.quality).all()
    assert np.isnan(read_pool(log, made).ballots.quality).all()


def test_a_pool_of_some_models_has_their_columns(log: Log):
    """Rows of the log about members that are not in the table are left alone."""
    made = ran(log)
    pool = read_pool(log, made.of_models(["b"]))
    assert pool.models == ("b",)
    assert pool.texts == (("The answer is 1.",), (None,), (None,))
    assert np.array_equal(pool.cost_usd[:, 0], [0.25, 0.25, NAN], equal_nan=True)


def test_an_items_group_is_told_or_is_the_beginning_of_its_id(log: Log):
    """The suite's word comes first, an empty one too; else the id before its last "-", or nothing."""
    assert ran(log).groups == ("sum", "sum", "")
    assert read_table(log, "r").pool().groups == ("sum", "sum", "")


def test_groups_that_the_suite_tells_are_kept(log: Log):
    """A told group replaces what the id would say."""
    assert ran(log, groups={"sum-2": "hard", "x": "easy"}).groups == ("sum", "hard", "easy")


# --- values ---------------------------------------------------------------------------------------------


def test_an_item_without_a_reference_has_unknown_values(log: Log):
    """Nobody is wrong where nobody knows the right answer: NaN, so that nothing is learned of it."""
    values = ran(log).values()
    assert np.array_equal(values, [[1.0], [1.0], [NAN]], equal_nan=True)


def rated() -> RunTable:
    """Two texts of three models with ratings; `c` failed on the second item."""
    scores = np.array([[1.0, 3.0, 5.0], [4.0, 4.0, NAN]])
    return RunTable(
        run_id="r", name="tiny", source="recorded", spec={"extracted": False, "score_kind": "rating_1to5"},
        status="finished", models=("a", "b", "c"), item_ids=("i0", "i1"), tasks=("general",) * 2,
        reference=(None, None), scores=scores, source_scores=scores,
        ballots=Ballots.of(["a", "b", "c"], [["p", "p", "q"], ["r", "s", None]]), failures={(1, 2): "provider.server"},
    )  # fmt: skip


def test_a_rated_answer_is_worth_the_mean_of_its_ratings():
    """References play no part where scores are the source's own."""
    assert rated().values().tolist() == [[2.0, 5.0], [4.0, 4.0]]
    assert rated().unit == "rating_1to5"


def measured(log: Log, metric: str, said: Mapping[str, Sequence[str]]) -> RunTable:
    """The table of a run of three texts, each with two references, scored by a metric."""
    metadata = {"answer_kind": "text", "metric": metric, "references": ("Guten Tag",)}
    items = tuple(
        Item(item_id=f"i{k}", task="translation", prompt=f"{k}?", reference="Hallo du", metadata=metadata)
        for k in range(3)
    )
    suite = Suite(name="texts", kind="suite", items=items, score_kind=metric, metric=metric, extracted=False)
    members = tuple(
        Member(name=n, model=Script(f"test:{n}", {f"i{k}": text for k, text in enumerate(texts)}))
        for n, texts in said.items()
    )
    plan = Plan(run_id="r", suite=suite, members=members, merge=None, source="live", spec=spec_of(suite, None))
    asyncio.run(execute(World.real(log), plan))
    return read_table(log, "r")


def test_a_run_of_texts_is_read_with_the_scores_of_its_metric(log: Log):
    """ROUGE-L by hand; an answer is worth its score, nothing is worth 0, and the unit is the metric's name."""
    said = {"a": ["hallo du", "guten Tag", "Hallo"], "b": ["Hallo du!", "guten", "Hallo"]}
    made = measured(log, "rouge_l", said)
    assert made.scores.tolist() == [[1, 1], [1, pytest.approx(2 / 3)], [pytest.approx(2 / 3)] * 2]
    assert np.isnan(made.source_scores).all()
    # i0: "hallo du" and "hallo du!"; i1: "guten" before "guten tag"; i2: one answer.
    values = [[1, 1], [pytest.approx(2 / 3), 1], [pytest.approx(2 / 3), NAN]]
    assert made.values().tolist()[:2] == values[:2]
    assert made.values()[2, 0] == made.scores[2, 0]  # the mean of equal scores is that score
    assert (made.metric, made.scorer, made.extracted, made.nothing) == ("rouge_l", "rouge_l", False, 0.0)
    assert made.unit == made.score_kind == "rouge_l"
    assert made.of_models(["b"]).worth_of_new(0, "guten tag") == 1.0


def test_scores_of_a_metric_are_no_shares_of_right_answers(log: Log):
    """Also where each happens to be 0 or 1 the unit stays the metric."""
    assert measured(log, "rouge_l", {"a": ["Hallo du", "x", "y"]}).unit == "rouge_l"


def test_an_answer_that_no_member_gave_is_measured(log: Log):
    """Against the nearest reference, as chrF in its own unit; without a metric it is worth what nothing is."""
    made = measured(log, "chrf", {"a": ["Hallo du", "x", "y"]})
    assert made.worth_of_new(1, "Guten Tag") == 100.0
    assert 0 < made.worth_of_new(1, "guten tag") < 100
    assert replace(made, references=()).worth_of_new(1, "Guten Tag") == 0.0
    assert rated().worth_of_new(0, "x") == rated().nothing == 1.0


def test_a_run_without_text_has_neither_values_nor_pool():
    """There is nothing that a merge could choose from."""
    bare = replace(rated(), ballots=None)
    for make in (bare.values, bare.pool):
        refused(make, "validation.no_text")


# --- parts of the models --------------------------------------------------------------------------------


def test_a_part_is_the_table_of_a_run_without_the_others():
    """Scores, failures and answers of the models named, in sorted order, numbered among their own answers."""
    part = rated().of_models(["c", "a"])
    assert part.models == part.pool().models == ("a", "c")
    assert np.array_equal(part.scores, [[1.0, 5.0], [4.0, NAN]], equal_nan=True)
    assert part.failures == {(1, 1): "provider.server"}
    assert part.ballots is not None
    assert part.ballots.answers == (("p", "q"), ("r",))
    assert part.ballots.codes.tolist() == [[0, 1], [0, -1]]
    assert rated().of_models(["a", "b"]).failures == {}
    assert replace(rated(), ballots=None).of_models(["b", "a"]).scores.tolist() == [[1.0, 3.0], [4.0, 4.0]]


@pytest.mark.parametrize("text", [True, False], ids=["text", "scores alone"])
@pytest.mark.parametrize("models", [["a", "z"], []], ids=["strange", "none"])
def test_models_that_are_not_in_the_run_have_no_part(models: list[str], text: bool):
    """A name that was not asked, and no name at all, are refused."""
    whole = rated() if text else replace(rated(), ballots=None)
    refused(lambda: whole.of_models(models), "validation.models")


def test_pools_are_told_in_words():
    """The best, and those closest together: a 2.5, b 3.5, c 5 on what they were rated on."""
    assert rated().top(2) == ("c", "b")
    assert rated().closest(2) == ("b", "a")
    assert rated().chosen("top:2").models == ("b", "c")
    assert rated().chosen("closest:2").models == ("a", "b")
    assert rated().chosen("all").models == ("a", "b", "c")
    for wrong in ("top:1", "top:4", "best:2", "top", "closest:x", ""):
        refused(lambda: rated().chosen(wrong), "validation.pool")  # noqa: B023


def test_models_without_any_score_cannot_be_ranked():
    """They are named, and a warning of an empty mean is not what a user sees."""
    scores = rated().scores.copy()
    scores[:, 1] = np.nan
    told = refused(lambda: replace(rated(), scores=scores).chosen("top:2"), "data.no_scores")
    assert told.message == "run r has no score of b"


# --- which run ------------------------------------------------------------------------------------------


def test_a_run_is_found_by_its_id_or_as_the_newest(log: Log):
    """An unknown id, and what is no id, are refused with the newest runs."""
    assert refused(lambda: find_run(log, "latest"), "run.unknown").message == "the log has no run yet"
    ran(log)
    assert [find_run(log, i)["run_id"] for i in ("r", "latest", None)] == ["r"] * 3
    for wrong in ("q", 3, "r\x00"):
        assert "the newest are r" in refused(lambda: find_run(log, wrong), "run.unknown").message  # type: ignore[arg-type]  # noqa: B023
