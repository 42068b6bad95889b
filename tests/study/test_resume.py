"""Going on with an interrupted run: what stands, what is asked again, and what must not have changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from workbench.act.world import MemorySink, World
from workbench.decide.merge import MajorityVoting, WeightedConsensus
from workbench.errors import LLMError, LLMProviderError, LLMValidationError
from workbench.facts import Contribution, Item, Merge, Request, Response, RunEnded, Score, Usage
from workbench.record.log import Log
from workbench.study.resume import call_key, check_same, is_same, read_prior, suite_digest
from workbench.study.run import Member, Plan, ending_told, execute, member_spec, spec_of
from workbench.study.suite import Suite
from workbench.study.table import read_table


class DiesError(BaseException):
    """What ends a run in these tests, wherever it is: nobody catches it."""


HANGS = object()


@dataclass
class Script:
    """A model that says what it was given for each item, raises it or hangs, and remembers what it was asked."""

    name: str
    says: dict[str, Any]
    asked: list[str] = field(default_factory=list)
    hangs: asyncio.Event = field(default_factory=asyncio.Event)

    async def complete(self, request: Request) -> Response:
        self.asked.append(str(request.item_id))
        said = self.says[str(request.item_id)]
        if said is HANGS:
            self.hangs.set()
            await asyncio.Event().wait()
        if isinstance(said, BaseException):
            raise said
        return Response(
            request_key=request.key, model=self.name, text=f"The answer is {said}.", source="live",
            usage=Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=2), latency_ms=12.5, ttft_ms=3.5,
            cost_usd=0.25, finish_reason="length", served_model="b-2", request_id="r-1", flags=("x", "y"),
        )  # fmt: skip


def suite(references: Sequence[str | None], **changes: Any) -> Suite:
    """Number questions i0, i1, ... with these references."""
    items = tuple(
        Item(item_id=f"i{k}", task="reasoning", prompt=f"Question {k}?", reference=reference,
             metadata={"answer_kind": "number", "options": ()})
        for k, reference in enumerate(references)
    )  # fmt: skip
    return Suite(**{"name": "tiny", "kind": "suite", "items": items, **changes})


def plan_of(asked: Suite, models: Sequence[Script], merge: Merge | None = None) -> Plan:
    members = tuple(Member(name=m.name.partition(":")[2], model=m) for m in models)
    spec = spec_of(asked, merge, members=[member_spec(m) for m in members])
    return Plan(run_id="r", suite=asked, members=members, merge=merge, source="live", spec=spec, concurrency=1)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = Log.open(tmp_path / "log")
    yield opened
    opened.close()


def start(log: Any, plan: Plan) -> None:
    asyncio.run(execute(World.real(log), plan))


def go_on(log: Log, plan: Plan) -> None:
    prior = read_prior(log, plan.run_id)
    check_same(prior, plan.suite, plan.spec)
    asyncio.run(execute(World.real(log), plan, prior=prior))


def interrupted(log: Log, plan: Plan) -> None:
    """Start a run, and cancel it as soon as one of its models hangs."""

    async def main() -> None:
        task = asyncio.create_task(execute(World.real(log), plan))
        (hanging,) = [m.model for m in plan.members if HANGS in m.model.says.values()]
        await hanging.hangs.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert log.rows("select status from runs") == [("cancelled",)]


SERVER = LLMProviderError("down", code="provider.server", status=503)
REFUSED = LLMProviderError("no such parameter", code="provider.bad_request", status=400)


@dataclass
class Ends:
    """A sink that lets so many contributions through, and then ends the process."""

    log: Log
    left: int

    def write(self, *facts: Any) -> None:
        for fact in facts:
            self.left -= isinstance(fact, Contribution)
            if self.left < 0:
                raise DiesError
            self.log.write(fact)


# --- what is asked again, and what is not ---------------------------------------------------------------


def test_an_answer_in_the_log_is_not_asked_for_again(log: Log) -> None:
    """Two of four items are answered when the run ends: only the other two are asked, and all four are scored."""
    model = Script("test:a", {"i0": 1, "i1": 9, "i2": HANGS, "i3": 4})
    interrupted(log, plan_of(suite(["1", "2", "3", "4"]), [model], MajorityVoting()))
    again = Script("test:a", {"i2": 3, "i3": 4})
    go_on(log, plan_of(suite(["1", "2", "3", "4"]), [again], MajorityVoting()))
    assert again.asked == ["i2", "i3"]
    assert log.rows("select item_id, value from scores where model = 'a' order by 1") == [
        ("i0", 1), ("i1", 0), ("i2", 1), ("i3", 1)
    ]  # fmt: skip
    assert log.rows("select status from runs") == [("finished",)]


def test_of_an_item_only_the_members_that_are_left_are_asked(log: Log) -> None:
    """The one that had answered is left alone, the one that had failed is asked, for the same item."""
    a, b = Script("test:a", {"i0": 1, "i1": HANGS}), Script("test:b", {"i0": SERVER, "i1": 2})
    interrupted(log, plan_of(suite(["1", "2"]), [a, b]))
    a, b = Script("test:a", {"i1": 2}), Script("test:b", {"i0": 1, "i1": 2})
    go_on(log, plan_of(suite(["1", "2"]), [a, b]))
    assert (a.asked, b.asked[0]) == (["i1"], "i0")
    assert log.rows("select item_id, model, answer from contributions order by 1, 2") == [
        ("i0", "a", "1"), ("i0", "b", "1"), ("i1", "a", "2"), ("i1", "b", "2")
    ]  # fmt: skip


def test_a_failure_that_lies_in_the_request_stands(log: Log) -> None:
    """What every repetition would meet is not asked again, and keeps its code; a server's failure is asked again."""
    interrupted(log, plan_of(suite(["1"] * 3), [Script("test:a", {"i0": REFUSED, "i1": SERVER, "i2": HANGS})]))
    again = Script("test:a", {"i1": 1, "i2": 1})
    go_on(log, plan_of(suite(["1"] * 3), [again]))
    assert again.asked == ["i1", "i2"]
    parts = log.rows("select item_id, status, failure_code from contributions order by 1")
    assert parts == [("i0", "failed", "provider.bad_request"), ("i1", "kept", None), ("i2", "kept", None)]


def test_an_answer_comes_back_from_the_log_as_it_was(log: Log) -> None:
    """Every field of a response is read back, so that what follows cannot tell the difference."""
    model = Script("test:a", {"i0": 1, "i1": HANGS})
    asked = suite(["1", "2"])
    interrupted(log, plan_of(asked, [model]))
    (kept,) = read_prior(log, "r").outcomes().values()
    assert kept == asyncio.run(model.complete(asked.request(asked.items[0])))


def test_a_failure_comes_back_with_what_it_had_used(log: Log) -> None:
    """Code, words, partial text and cost of a refusal stay."""
    refusal = LLMProviderError(
        "declined", code="provider.refusal", partial="I cannot.", usage=Usage(prompt_tokens=3), cost_usd=0.5,
        possibly_billed=True, request_id="r-2",
    )  # fmt: skip
    interrupted(log, plan_of(suite(["1", "2"]), [Script("test:a", {"i0": refusal, "i1": HANGS})]))
    (kept,) = read_prior(log, "r").outcomes().values()
    assert (kept.kind, kept.code, kept.message, kept.partial) == (
        "LLMProviderError", "provider.refusal", "declined", "I cannot."
    )  # fmt: skip
    assert (kept.usage, kept.cost_usd, kept.possibly_billed, kept.request_id) == (
        Usage(prompt_tokens=3), 0.5, True, "r-2"
    )  # fmt: skip


def test_a_cancelled_run_goes_on(log: Log) -> None:
    """The call that was under way is asked again; the run has ended twice, and the newest end counts."""
    interrupted(log, plan_of(suite(["1", "2"]), [Script("test:a", {"i0": 1, "i1": HANGS})]))
    again = Script("test:a", {"i1": 2})
    go_on(log, plan_of(suite(["1", "2"]), [again]))
    assert again.asked == ["i1"]
    assert log.rows("select status from runs") == [("finished",)]
    assert read_table(log, "r").scores.tolist() == [[1], [1]]


def test_an_answer_whose_text_is_gone_is_asked_for_again(log: Log) -> None:
    """A row without its text is no answer that anything could be made of."""
    model = Script("test:a", {"i0": 1, "i1": HANGS})
    interrupted(log, plan_of(suite(["1", "2"]), [model]))
    log.ingest()
    with log._connection() as con:
        con.execute("delete from log.texts where text = 'The answer is 1.'")
    assert read_prior(log, "r").left == {("i0", "a"), ("i1", "a")}


def test_a_run_that_died_before_its_items_were_listed_asks_everything(log: Log) -> None:
    """A batch that was torn has listed nothing, and nothing was asked."""
    asked = suite(["1", "2"])

    class Torn(Ends):
        def write(self, *facts: Any) -> None:
            if type(facts[0]).__name__ == "ItemAsked":
                log.write(facts[0])
                raise DiesError
            log.write(*facts)

    with pytest.raises(DiesError):
        start(Torn(log, 0), plan_of(asked, [Script("test:a", {})]))
    again = Script("test:a", {"i0": 1, "i1": 2})
    go_on(log, plan_of(asked, [again]))
    assert again.asked == ["i0", "i1"]
    assert read_table(log, "r").item_ids == ("i0", "i1")


# --- a run that was being scored ------------------------------------------------------------------------


@pytest.mark.parametrize("through", [0, 1, 3, 5])
def test_a_run_that_ended_among_its_merges_equals_one_that_did_not(tmp_path: Path, through: int) -> None:
    """Scores, qualities and merges are those of an uninterrupted run, each item is decided once, failures stay."""

    def models() -> list[Script]:
        return [Script("test:a", {"i0": 1, "i1": 2, "i2": 9}), Script("test:b", {"i0": 1, "i1": SERVER, "i2": 3})]

    seen = []
    for name, left in (("whole", 99), ("parts", through)):
        log = Log.open(tmp_path / name)
        plan = plan_of(suite(["1", "2", "3"]), models(), MajorityVoting())
        if left == 99:
            start(log, plan)
        else:
            with pytest.raises(DiesError):
                start(Ends(log, left), plan)
            again = models()
            go_on(log, plan_of(suite(["1", "2", "3"]), again, MajorityVoting()))
            assert [m.asked for m in again] == ([[], []] if log.rows("select * from scores") else [[], ["i1"]])
        seen.append(
            [
                log.rows(query)
                for query in (
                    "select item_id, model, scorer, value from scores order by all",
                    "from contributions order by all",
                    "select item_id, policy, inputs, output from decisions where kind = 'merge' order by all",
                    "select status, items from runs",
                )
            ]
        )
        log.close()
    assert seen[0] == seen[1]


# --- what must not have changed -------------------------------------------------------------------------


def changes() -> Mapping[str, tuple[Suite, Sequence[str], Merge | None, str]]:
    """What a run of two items, a member a and majority voting may meet: suite, members, merge, and what is said."""
    same = suite(["1", "2"])
    other = replace(same.items[1], prompt="Another question?")
    options = replace(same.items[1], metadata={"answer_kind": "number", "options": ("1", "2")})
    voting = MajorityVoting()
    return {
        "fewer items": (suite(["1"]), ["a"], voting, "item 'i1' is not there any more (2 items then, 1 now)"),
        "more items": (suite(["1", "2", "3"]), ["a"], voting, "item 'i2' is new (2 items then, 3 now)"),
        "reference": (suite(["1", "7"]), ["a"], voting, "item 'i1' has another reference"),
        "prompt": (replace(same, items=(same.items[0], other)), ["a"], voting, "item 'i1' has another prompt"),
        "options": (replace(same, items=(same.items[0], options)), ["a"], voting, "item 'i1' has another options"),
        "order": (replace(same, items=same.items[::-1]), ["a"], voting, "its items stand in another order"),
        "style": (replace(same, prompts={"s": {"i0": "x"}}), ["a"], voting, "in one of the prompt styles"),
        "kind": (replace(same, kind="recording"), ["a"], voting, "kind was 'suite' and is 'recording'"),
        "members": (same, ["a", "b"], voting, "its members changed: they were a and are a, b"),
        "no merge": (same, ["a"], None, "its merge changed: it was majority_voting {} and is none"),
        "merge": (same, ["a"], MajorityVoting(threshold=0.5), 'is majority_voting {"threshold": 0.5}'),
        "weights": (same, ["a"], WeightedConsensus({"a": 1.0}), "is weighted_consensus"),
    }  # fmt: skip


@pytest.mark.parametrize("name", changes())
def test_a_changed_run_is_refused_by_name_before_anything_is_asked(log: Log, name: str) -> None:
    """run.changed says what was and what is, and the log stays as it was."""
    interrupted(log, plan_of(suite(["1", "2"]), [Script("test:a", {"i0": HANGS})], MajorityVoting()))
    asked, members, merge, said = changes()[name]
    plan = plan_of(asked, [Script(f"test:{m}", {}) for m in members], merge)
    with pytest.raises(LLMValidationError) as caught:
        go_on(log, plan)
    assert caught.value.code == "run.changed"
    assert said in caught.value.message
    assert len(caught.value.next_step) <= 160
    assert log.rows("select status from runs") == [("cancelled",)]


def texts(*references: str, metric: str = "rouge_l") -> Suite:
    """Two texts with the same further references, scored by a metric."""
    metadata = {"answer_kind": "text", "options": (), "metric": metric, "references": references}
    items = [replace(item, metadata=metadata) for item in suite(["The answer is 1.", "The answer is 2."]).items]
    return suite([], items=tuple(items), score_kind=metric, metric=metric, extracted=False)


def test_a_run_of_texts_goes_on_as_it_began(log: Log) -> None:
    """Answers that were in the log are measured like those asked for now."""
    interrupted(log, plan_of(texts("is x"), [Script("test:a", {"i0": 1, "i1": HANGS})], MajorityVoting()))
    again = Script("test:a", {"i1": 3})
    go_on(log, plan_of(texts("is x"), [again], MajorityVoting()))
    assert again.asked == ["i1"]
    # "The answer is 3." has three of the four words of "The answer is 2.".
    assert log.rows("select item_id, model, scorer, value from scores order by all") == [
        ("i0", "a", "rouge_l", 1.0), ("i0", "majority_voting", "rouge_l", 1.0),
        ("i1", "a", "rouge_l", 0.75), ("i1", "majority_voting", "rouge_l", 0.75),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (texts("is y"), "item 'i0' has another list of references"),
        (texts("is x", metric="chrf"), "score_kind was 'rouge_l' and is 'chrf'"),
        (replace(texts("is x"), metric="rouge_1"), "metric was 'rouge_l' and is 'rouge_1'"),
    ],
    ids=["references", "score kind", "metric"],
)
def test_a_run_of_texts_does_not_go_on_under_another_measure(log: Log, now: Suite, said: str) -> None:
    """Other references or another metric would mix two kinds of score in one run."""
    interrupted(log, plan_of(texts("is x"), [Script("test:a", {"i0": HANGS})]))
    with pytest.raises(LLMValidationError) as caught:
        go_on(log, plan_of(now, [Script("test:a", {})]))
    assert (caught.value.code, said in caught.value.message) == ("run.changed", True)


def test_another_model_under_the_same_name_is_a_change(log: Log) -> None:
    """A short name that leads to another model now would mix two models' answers under one name."""
    asked = suite(["1"])
    interrupted(log, plan_of(asked, [Script("test:a", {"i0": HANGS})]))
    with pytest.raises(LLMValidationError, match="a had the model 'test:a', now 'other:a'"):
        go_on(log, plan_of(asked, [Script("other:a", {})]))


def test_a_run_of_an_older_version_is_compared_item_by_item(log: Log) -> None:
    """Without a digest in its spec the items of the log are enough, and its members have names only."""
    asked = suite(["1", "2"])
    old = plan_of(asked, [Script("test:a", {"i0": 1, "i1": HANGS})])
    spec = {k: v for k, v in old.spec.items() if k not in ("suite_sha256", "members")}
    interrupted(log, replace(old, spec=spec))
    again = Script("test:a", {"i1": 2})
    with pytest.raises(LLMValidationError, match="another reference"):
        go_on(log, plan_of(suite(["1", "3"]), [again]))
    go_on(log, plan_of(asked, [again]))
    assert again.asked == ["i1"]


def test_a_run_of_something_else_cannot_go_on(log: Log) -> None:
    """A measurement has no suite to go on with: run.not_resumable, and run.unknown for what is not there."""
    with ending_told(World.real(log), "latency-1", items=0):
        pass
    with pytest.raises(LLMValidationError) as caught:
        read_prior(log, "latency-1")
    assert caught.value.code == "run.unknown"
    plan = plan_of(suite(["1"]), [Script("test:a", {"i0": 1})])
    start(log, replace(plan, spec={"setup": "one"}))
    with pytest.raises(LLMValidationError) as caught:
        read_prior(log, "r")
    assert caught.value.code == "run.not_resumable"


def test_the_digest_of_a_suite_sees_what_is_asked_and_compared() -> None:
    """Equal suites have one digest; a lone surrogate, as recordings may have it, does no harm."""
    assert suite_digest(suite(["1", "2"])) == suite_digest(suite(["1", "2"]))
    others = [suite(["1"]), suite(["1", None]), suite(["1", "2"], prompts={"s": {"i0": "x"}}), suite(["1", "\ud800"])]
    assert len({suite_digest(s) for s in [suite(["1", "2"]), *others]}) == 5
    measured = [texts(), texts("x"), texts("x", "y"), texts("x y"), texts(metric="chrf"), texts("\ud800")]
    assert len({suite_digest(s) for s in measured}) == 6


def test_two_specs_are_the_same_run_whatever_their_concurrency() -> None:
    """Members, items and merge make a run; how many items are asked at once does not."""
    spec = plan_of(suite(["1"]), [Script("test:a", {})], MajorityVoting()).spec
    stored = json.loads(json.dumps({**spec, "concurrency": 3}))
    assert is_same(stored, {**spec, "concurrency": 16})
    assert not is_same(stored, plan_of(suite(["1"]), [Script("test:b", {})], MajorityVoting()).spec)
    assert not is_same({}, spec)


# --- keys -----------------------------------------------------------------------------------------------


def test_a_call_of_a_run_has_a_key_that_anybody_can_make_again() -> None:
    """32 hexadecimal digits, the same each time, and another for each run, item, member, prompt and sample."""
    request = Request.of("How many?", item_id="i0")
    key = call_key("r", "a", request)
    assert (len(key), key) == (32, call_key("r", "a", Request.of("How many?", item_id="i0")))
    assert int(key, 16) >= 0
    others = {
        call_key("q", "a", request),
        call_key("r", "b", request),
        call_key("r", "a", Request.of("How many?", item_id="i1")),
        call_key("r", "a", Request.of("How much?", item_id="i0")),
        call_key("r", "a", Request(messages=request.messages, item_id="i0", sample=1)),
    }
    assert len(others | {key}) == 6


# --- how a run ends -------------------------------------------------------------------------------------


def test_the_end_of_a_run_tells_what_the_process_used(log: Log) -> None:
    """CPU seconds of the run alone, and the peak memory of its process; a virtual run tells neither."""
    start(log, plan_of(suite(["1"]), [Script("test:a", {"i0": 1})]))
    ((cpu_s, peak),) = log.rows("select cpu_s, peak_rss_bytes from runs")
    assert 0 <= cpu_s < 60
    assert peak > 10_000_000  # an interpreter with numpy
    sink = MemorySink()
    with ending_told(World.virtual(sink=sink), "v", items=0):
        pass
    (ended,) = [f for f in sink.facts if isinstance(f, RunEnded)]
    assert (ended.cpu_s, ended.peak_rss_bytes) == (None, None)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (asyncio.CancelledError(), "cancelled", None),
        (GeneratorExit(), "cancelled", None),
        (KeyboardInterrupt(), "cancelled", None),
        (ValueError("x"), "failed", "untyped"),
        (LLMError("x", code="run.failed"), "failed", "run.failed"),
        (LLMError("x", code="run.crashed"), "crashed", "run.crashed"),
        (LLMError("x", code="timeout.run"), "timeout", "timeout.run"),
    ],
    ids=["cancelled", "dropped", "interrupted", "bug", "failed", "crashed", "timeout"],
)
def test_a_run_ends_as_what_ended_it(error: BaseException, status: str, code: str | None) -> None:
    """The status follows from what left the body, which passes on."""
    sink = MemorySink()
    with pytest.raises(type(error)), ending_told(World.virtual(sink=sink), "v", items=3):
        raise error
    (ended,) = [f for f in sink.facts if isinstance(f, RunEnded)]
    assert (ended.status, ended.failure.code if ended.failure else None, ended.items) == (status, code, 3)


def test_a_run_in_which_nothing_could_be_asked_has_failed(log: Log) -> None:
    """Every call was refused for money: no scores of nothing; when there is some, the run goes on."""
    broke = LLMValidationError("no money", code="budget.exceeded")
    plan = plan_of(suite(["1", "2"]), [Script("test:a", {"i0": broke, "i1": broke})])
    with pytest.raises(LLMError, match=r"nothing could be asked .budget\.exceeded") as caught:
        start(log, plan)
    assert (caught.value.code, "no money" in caught.value.message) == ("run.failed", True)
    assert log.rows("select status, failure->>'code' from runs") == [("failed", "run.failed")]
    assert log.rows("select count(*) from scores") == [(0,)]
    go_on(log, plan_of(suite(["1", "2"]), [Script("test:a", {"i0": 1, "i1": 2})]))
    assert read_table(log, "r").scores.tolist() == [[1], [1]]


def test_a_run_whose_money_ends_has_failed_and_goes_on_with_what_is_left(log: Log) -> None:
    """Nothing is scored or merged without it, and with more money only the questions that had none are asked."""
    broke = LLMValidationError("no money", code="budget.exceeded")
    models = [Script("test:a", {"i0": 1, "i1": broke, "i2": broke}), Script("test:b", {"i0": 1, "i1": 9, "i2": 3})]
    with pytest.raises(LLMError, match=r"^2 of 6 questions could not be asked: budget\.exceeded.*no money") as caught:
        start(log, plan_of(suite(["1", "2", "3"]), models, MajorityVoting()))
    assert (caught.value.code, "workbench resume r" in caught.value.next_step) == ("run.failed", True)
    assert log.rows("select status, failure->>'code' from runs") == [("failed", "run.failed")]
    for table in ("scores", "contributions", "merges"):
        assert log.rows(f"select count(*) from {table}") == [(0,)]
    again = [Script("test:a", {"i1": 2, "i2": 3}), Script("test:b", {})]
    go_on(log, plan_of(suite(["1", "2", "3"]), again, MajorityVoting()))
    assert [m.asked for m in again] == [["i1", "i2"], []]
    assert read_table(log, "r").scores.tolist() == [[1, 1], [1, 0], [1, 1]]


def test_a_run_that_was_scored_without_money_goes_on_as_it_is(log: Log) -> None:
    """Scores of an older version were made from the refusals: they stand, and the run can finish."""
    broke = LLMValidationError("no money", code="budget.exceeded")
    plan = plan_of(suite(["1", "2"]), [Script("test:a", {"i0": 1, "i1": broke})])
    with pytest.raises(LLMError, match="1 of 2 questions"):
        start(log, plan)
    log.write(Score(run_id="r", item_id="i0", model="a", scorer="exact_answer", value=1.0))
    again = Script("test:a", {})
    go_on(log, plan_of(suite(["1", "2"]), [again]))
    assert (again.asked, log.rows("select status from runs")) == ([], [("finished",)])


def test_a_run_in_which_something_could_be_asked_finishes(log: Log) -> None:
    """A wrong or failed answer is something; a model whose key or account was refused is left out."""
    no_key = LLMProviderError("no such key", code="provider.auth", status=401)
    start(log, plan_of(suite(["1", "2"]), [Script("test:a", {"i0": no_key, "i1": SERVER})]))
    assert log.rows("select status from runs") == [("finished",)]
