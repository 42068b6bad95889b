"""Deciding again from the log: nothing drifts on a clean run, and whatever was tampered with is found."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pytest

from workbench.act.world import World
from workbench.cli import main
from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus
from workbench.decide.strategies.mbr import MinimumBayesRisk
from workbench.errors import LLMProviderError, LLMValidationError
from workbench.facts import EnsembleResponse, Item, Merge, ModelContribution, Request, Response
from workbench.record.log import Log
from workbench.study.replay import drift
from workbench.study.run import Member, Plan, execute, spec_of
from workbench.study.suite import Suite


@dataclass(frozen=True)
class Script:
    """A model that says what it was given for each item, or raises it."""

    name: str
    says: Mapping[str, Any]

    async def complete(self, request: Request) -> Response:
        said = self.says[str(request.item_id)]
        if isinstance(said, BaseException):
            raise said
        return Response(request_key=request.key, model=self.name, text=said, source="live")


DOWN = LLMProviderError("down", code="provider.server")
# A tie, a majority, a failure, no answer at all, and an item on which all fail.
SAID: Mapping[str, Sequence[Any]] = {
    "a": ["The answer is 1.", "The answer is 2.", "The answer is 3.", "I cannot tell.", DOWN],
    "b": ["The answer is 5.", "The answer is 2.", DOWN, "I cannot tell.", DOWN],
    "c": ["The answer is 7.", "The answer is 9.", "The answer is 4.", "I cannot tell.", DOWN],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def log(folder: Path) -> Iterator[Log]:
    opened = Log.open(folder)
    yield opened
    opened.close()


def run(log: Log, merge: Merge | None, run_id: str = "r") -> None:
    items = tuple(
        Item(item_id=f"i{k}", task="reasoning", prompt=f"{k}?", reference="2", metadata={"answer_kind": "number"})
        for k in range(5)
    )
    suite = Suite(name="tiny", kind="suite", items=items)
    members = tuple(
        Member(name=n, model=Script(f"test:{n}", {f"i{k}": t for k, t in enumerate(said)})) for n, said in SAID.items()
    )
    plan = Plan(run_id=run_id, suite=suite, members=members, merge=merge, source="live", spec=spec_of(suite, merge))
    asyncio.run(execute(World.real(log), plan))
    log.ingest()


def tamper(folder: Path, sql: str) -> None:
    """Change the database file behind the log's back."""
    with duckdb.connect(str(folder / "workbench.duckdb")) as con:
        assert con.execute("select count(*) from log.decisions").fetchone() != (0,)
        con.execute(sql)


@pytest.mark.parametrize(
    "merge",
    [
        MajorityVoting(),
        MajorityVoting(threshold=0.2),
        WeightedConsensus(),
        WeightedConsensus({"a": 0.1, "b": 1 / 3, "c": 0.7}),
        BestOfN(),
    ],
    ids=["majority", "with a threshold", "quality weights", "weights", "best of n"],
)
def test_a_clean_run_does_not_drift(log: Log, merge: Merge):
    """Five merges and eleven answers come out as they are logged, failures and ties included."""
    run(log, merge)
    found = drift(log, "r")
    assert (found.merges, found.merges_drifted, found.answers, found.answers_drifted) == (5, 0, 11, 0)
    assert (found.drifts, found.examples) == (0, ())


def test_a_run_without_a_merge_has_answers_to_read_again_only(log: Log):
    """No decision, eleven answers, no drift."""
    run(log, None)
    found = drift(log, "latest")
    assert (found.merges, found.answers, found.drifts) == (0, 11, 0)


def test_a_merge_that_looks_at_texts_is_made_again_from_the_texts(log: Log, folder: Path):
    """Case is in a text and not in its answer: chrF sees it, when the run is made and when it is replayed."""
    metadata = {"answer_kind": "text", "metric": "chrf"}
    item = Item(item_id="i0", task="translation", prompt="?", reference="Ja", metadata=metadata)
    suite = Suite(name="texts", kind="suite", items=(item,), score_kind="chrf", metric="chrf", extracted=False)
    said = {"a": "DAS HAUS IST GROSS", "b": "Das Haus ist gut", "c": "Das Haus ist groß. The answer is yes."}
    members = tuple(Member(name=n, model=Script(f"test:{n}", {"i0": text})) for n, text in said.items())
    merge = MinimumBayesRisk()
    plan = Plan(run_id="r", suite=suite, members=members, merge=merge, source="live", spec=spec_of(suite, merge))
    asyncio.run(execute(World.real(log), plan))
    log.ingest()
    found = drift(log, "r")
    assert (found.merges, found.answers, found.drifts) == (1, 3, 0)
    tamper(folder, "update log.texts set text = 'Das Haus ist gut' where text like 'DAS%'")
    found = drift(log, "r")
    assert (found.merges_drifted, found.answers_drifted) == (1, 1)


@dataclass(frozen=True)
class Gambler:
    """A merge that is not a policy: it draws."""

    name: ClassVar[str] = "gambler"

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        drawn = f"{random.random():.12f}"
        return EnsembleResponse(
            text=drawn, answer=drawn, tied=(drawn,), strategy=self.name, confidence=1.0, agreement=1.0,
            contributions=tuple(contributions),
        )  # fmt: skip


def test_a_merge_that_draws_drifts(log: Log):
    """A planted impure policy comes out differently on every item, and the examples say how."""
    run(log, Gambler())
    found = drift(log, "r", [Gambler()])
    assert (found.merges, found.merges_drifted, found.answers_drifted) == (5, 5, 0)
    assert [e["item_id"] for e in found.examples] == ["i0", "i1", "i2", "i3", "i4"]
    assert all(e["kind"] == "merge" and e["logged"] != e["now"] for e in found.examples)


def test_a_policy_unknown_to_the_log_is_refused(log: Log, folder: Path, capsys: pytest.CaptureFixture[str]):
    """Nothing can be decided again by a merge that is not there: typed in Python, exit code 2 on the command line."""
    run(log, Gambler())
    with pytest.raises(LLMValidationError, match="gambler") as caught:
        drift(log, "r")
    assert caught.value.code == "replay.unknown_policy"
    log.close()
    with pytest.raises(SystemExit) as ended:
        main(["replay", "r", "--log", str(folder), "--json"])
    assert ended.value.code == 2
    assert json.loads(capsys.readouterr().out)["code"] == "replay.unknown_policy"


def test_an_unknown_run_is_refused_with_the_newest(log: Log):
    """run.unknown names the runs there are."""
    run(log, MajorityVoting(), "only_one")
    with pytest.raises(LLMValidationError, match="only_one") as caught:
        drift(log, "nope")
    assert caught.value.code == "run.unknown"


def test_a_logged_output_that_was_changed_is_found(log: Log, folder: Path):
    """One altered decision is one drift, told with both values."""
    run(log, MajorityVoting())
    tamper(folder, """update log.decisions set output = replace(output, '"answer":"2"', '"answer":"9"')""")
    found = drift(log, "r")
    assert (found.merges_drifted, found.answers_drifted) == (1, 0)
    example = found.examples[0]
    assert (example["item_id"], example["logged"]["answer"], example["now"]["answer"]) == ("i1", "9", "2")


def test_a_stored_response_that_was_changed_is_found(log: Log, folder: Path):
    """An altered text no longer gives the logged answer, for each member that gave it."""
    run(log, MajorityVoting())
    tamper(folder, "update log.texts set text = 'The answer is 8.' where text = 'The answer is 2.'")
    found = drift(log, "r")
    assert (found.merges_drifted, found.answers_drifted) == (0, 2)
    assert [(e["item_id"], e["model"], e["logged"], e["now"]) for e in found.examples] == [
        ("i1", "a", "2", "8"),
        ("i1", "b", "2", "8"),
    ]


def test_a_logged_answer_that_was_changed_is_found(log: Log, folder: Path):
    """An altered contribution no longer agrees with its stored response."""
    run(log, MajorityVoting())
    tamper(folder, "update log.contributions set answer = '8' where item_id = 'i1' and model = 'a'")
    assert drift(log, "r").answers_drifted == 1


def test_a_stored_response_that_was_removed_is_found(log: Log, folder: Path):
    """An answer whose text is gone cannot be read again: that is a drift, not one answer fewer."""
    run(log, MajorityVoting())
    tamper(folder, "delete from log.texts where text = 'The answer is 9.'")
    found = drift(log, "r")
    assert (found.answers, found.answers_drifted) == (11, 1)


def test_a_logged_decision_that_was_removed_is_found(log: Log, folder: Path):
    """A merged run owes one decision for every item; a missing one is a drift."""
    run(log, MajorityVoting())
    tamper(folder, "delete from log.decisions where item_id = 'i1'")
    assert drift(log, "r").drifts == 1


def test_long_answers_are_decided_again(log: Log):
    """Twenty members with code of 20 000 characters each: what a decision looked at is in the log whole."""
    item = Item(item_id="i0", task="code_generation", prompt="?", reference=None, metadata={"answer_kind": "text"})
    suite = Suite(name="long", kind="suite", items=(item,), extracted=False)
    members = tuple(Member(name=f"m{k}", model=Script(f"test:m{k}", {"i0": f"x{k} " * 6000})) for k in range(20))
    spec = spec_of(suite, MajorityVoting())
    plan = Plan(run_id="r", suite=suite, members=members, merge=MajorityVoting(), source="live", spec=spec)
    asyncio.run(execute(World.real(log), plan))
    found = drift(log, "r")
    assert (found.merges, found.answers, found.drifts) == (1, 20, 0)


def test_at_most_ten_examples_are_kept(log: Log, folder: Path):
    """All drifts are counted, ten are shown."""
    run(log, MajorityVoting())
    tamper(folder, "update log.contributions set answer = 'x'; update log.decisions set output = '{}'")
    found = drift(log, "r")
    assert (found.merges_drifted, found.answers_drifted, len(found.examples)) == (5, 11, 10)


def test_the_json_form_has_the_count_of_drifts(log: Log):
    """Plain values with `drifts`."""
    run(log, BestOfN())
    document = json.loads(json.dumps(drift(log, "r").as_dict()))
    assert (document["run"], document["drifts"], document["merges"], document["answers"]) == ("r", 0, 5, 11)
