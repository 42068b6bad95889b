"""Timed setups: what is in the log of one, against clocks, scores and costs reckoned by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.study.slow import Slow, alone, items
from workbench.act.world import World
from workbench.decide.merge import BestOfN, MajorityVoting
from workbench.errors import LLMValidationError
from workbench.facts import Item
from workbench.record.log import Log
from workbench.serve.lab import FaultLab
from workbench.session.workbench import Workbench
from workbench.study.latency import Setup, chain, clock_of, measure, measure_all, server_of, variants
from workbench.study.outage import timeline
from workbench.study.timings import questions, summaries


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = Log.open(tmp_path / "log")
    yield opened
    opened.close()


@pytest.fixture
def world(log: Log) -> World:
    return World.virtual(5, log)


def run(world: World, setup: Setup, asked: list[Item], **options: object) -> str:
    return str(world.run(measure(world, setup, asked, **options)))  # type: ignore[arg-type]


def exact(lab: FaultLab) -> list[Item]:
    """The lab's items with one right answer."""
    return [item for item in lab.models.items.values() if "metric" not in item.metadata]


# --- measuring ------------------------------------------------------------------------------------------


def test_a_question_takes_as_long_as_its_model(log: Log, world: World):
    """Two questions of 1.5 s one after the other: 1500 ms each, 0.002 USD, right, one attempt, begun at 0 and 1.5 s."""
    setup = Setup(name="one", members=(alone(world, Slow("a:x", world, 1.5)),))
    found = questions(log, run_id := run(world, setup, items(2), concurrency=1))[run_id]
    assert [(q.setup, q.item_id, q.ok, q.code, q.right, q.attempts, q.sources) for q in found] == [
        ("one", f"q{i}", True, None, 1.0, 1, ("simulated",)) for i in (0, 1)
    ]
    assert [q.took_ms for q in found] == pytest.approx([1500, 1500])
    assert [q.at_s for q in found] == pytest.approx([0, 1.5])
    assert [q.cost_usd for q in found] == pytest.approx([0.002, 0.002])


def test_items_that_a_metric_scores_are_refused(world: World):
    """Compared as they are, hardly any summary would be right."""
    graded = [replace(item, metadata={**item.metadata, "metric": "rouge_l"}) for item in items(2)]
    with pytest.raises(LLMValidationError) as refused:
        run(world, Setup(name="one", members=(alone(world, Slow("a:x", world, 1.0)),)), graded)
    assert refused.value.code == "validation.items"


def test_a_failed_question_counts_with_its_time_and_its_code(log: Log, world: World):
    """The error after a second is a row like an answer, not right, with the code of the error."""
    setup = Setup(name="one", members=(alone(world, Slow("a:x", world, 1.0, broken=frozenset({"q1"}))),))
    found = questions(log, run_id := run(world, setup, items(3)))[run_id]
    by = {q.item_id: q for q in found}
    assert (by["q1"].ok, by["q1"].code, by["q1"].right) == (False, "provider.server", 0.0)
    assert by["q1"].took_ms == pytest.approx(1000)
    assert [by[name].ok for name in ("q0", "q2")] == [True, True]


def test_no_more_questions_than_the_concurrency_are_under_way(world: World):
    """Seven questions, three at once: never more than three, and at some time three."""
    model = Slow("a:x", world, 1.0)
    run(world, Setup(name="one", members=(alone(world, model),)), items(7), concurrency=3)
    assert model.most == 3


def test_questions_begin_every_so_many_seconds_whether_answered_or_not(world: World):
    """Every 2 s, though an answer takes 5 s."""
    model = Slow("a:x", world, 5.0)
    setup = Setup(name="one", members=(alone(world, model),))
    run(world, setup, items(4), concurrency=None, every_s=2.0)
    assert model.asked_s == pytest.approx([0, 2, 4, 6])


def test_a_merge_is_timed_to_its_last_member_or_to_its_quorum(log: Log, world: World):
    """Members of 1, 2 and 9 s: 9 s when all are awaited, 2.5 s with a quorum of 2 and half a second of grace."""

    def setup(name: str, **waiting: object) -> Setup:
        members = tuple(alone(world, Slow(f"a:{s}", world, s)) for s in (1.0, 2.0, 9.0))
        return Setup(name=name, members=members, merge=MajorityVoting(), **waiting)  # type: ignore[arg-type]

    ids = [run(world, setup("all"), items(2)), run(world, setup("two", quorum=2, grace_s=0.5), items(2))]
    found = questions(log, *ids)
    assert [q.took_ms for q in found[ids[0]]] == pytest.approx([9000, 9000])
    assert [q.took_ms for q in found[ids[1]]] == pytest.approx([2500, 2500])
    # The third request was given up: two answers of 0.002 USD, and 0.002 at most for it: its prompt has at most as
    # many tokens as bytes (8), so 8 + 100 tokens of answer.
    late = found[ids[1]][0]
    assert late.cost_usd == pytest.approx(0.004)
    assert 0.004 < late.booked_usd < 0.0065


def test_a_tie_scores_the_share_of_its_right_answers(log: Log, world: World):
    """Two members, two answers, one of them right: half a point."""
    members = (alone(world, Slow("a:x", world, 1.0)), alone(world, Slow("a:y", world, 1.0, says="the answer is 5")))
    run_id = run(world, Setup(name="tie", members=members, merge=MajorityVoting()), items(2))
    assert [q.right for q in questions(log, run_id)[run_id]] == [0.5, 0.5]


def test_best_of_n_takes_the_quality_that_it_is_given(log: Log, world: World):
    """The answer of the member rated higher elsewhere, though it is the wrong one; the log names the estimate."""
    members = (alone(world, Slow("a:x", world, 1.0)), alone(world, Slow("a:y", world, 1.0, says="the answer is 5")))
    setup = Setup(name="best", members=members, merge=BestOfN(), quality={"a:x": 0.4, "a:y": 0.8})
    run_id = run(world, setup, items(2))
    assert [q.right for q in questions(log, run_id)[run_id]] == [0.0, 0.0]
    sources = log.rows("select distinct model, quality, quality_source from contributions order by model")
    assert sources == [("a:x", 0.4, "other items"), ("a:y", 0.8, "other items")]


def test_a_quorum_that_is_missed_is_a_failed_question(log: Log, world: World):
    """One of two members answers, two are needed."""
    broken = frozenset({"q0", "q1"})
    members = (alone(world, Slow("a:x", world, 1.0)), alone(world, Slow("a:y", world, 1.0, broken=broken)))
    setup = Setup(name="both", members=members, merge=MajorityVoting(), quorum=2)
    run_id = run(world, setup, items(2))
    assert [(q.ok, q.code) for q in questions(log, run_id)[run_id]] == [(False, "ensemble.quorum")] * 2


def test_the_run_is_listed_with_its_chain_and_what_it_was_about(log: Log, world: World):
    """Finished, by the setup's name, with the members of its chain and the caller's words in the spec."""
    setup = Setup(name="one", members=(alone(world, Slow("a:x", world, 1.0)),))
    run_id = run(world, setup, items(2), source="simulated", about={"why": "a test"})
    rows = log.rows("select name, status, source, spec->>'why', spec->'chains' from runs where run_id = ?", [run_id])
    assert rows == [("one", "finished", "simulated", "a test", '[["a:x"]]')]


def test_what_is_no_models_failure_ends_the_run(log: Log, world: World, monkeypatch: pytest.MonkeyPatch):
    """An error of the decision itself is raised as it is, the run is listed as failed, and the rest is not asked."""

    def wrong(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(MajorityVoting, "__call__", wrong)
    model = Slow("a:x", world, 1.0)
    setup = Setup(name="bug", members=(alone(world, model),), merge=MajorityVoting())
    with pytest.raises(RuntimeError, match="a bug"):
        run(world, setup, items(9), concurrency=1)
    assert len(model.asked_s) <= 2  # the next may have begun in the same moment
    assert log.rows("select status from runs") == [("failed",)]


def test_a_cancelled_run_is_listed_as_cancelled(log: Log, world: World):
    """Its questions are cancelled with it."""

    async def stopped() -> None:
        setup = Setup(name="one", members=(alone(world, Slow("a:x", world, 60.0)),), timeout_s=None)
        task = asyncio.create_task(measure(world, setup, items(3)))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    world.run(stopped())
    assert log.rows("select status from runs") == [("cancelled",)]


@pytest.mark.parametrize(("asked", "code"), [([], "data.empty"), ([*items(2), *items(1)], "data.duplicate")])
def test_no_questions_or_the_same_twice_are_refused(world: World, asked: list[Item], code: str):
    """Before anything is written."""
    with pytest.raises(LLMValidationError) as caught:
        run(world, Setup(name="one", members=(alone(world, Slow("a:x", world, 1.0)),)), asked)
    assert caught.value.code == code


def test_a_setup_that_makes_no_sense_is_refused(world: World):
    """Nobody, somebody twice, and several without a merge."""
    one, two = Slow("a:x", world, 1.0), Slow("a:y", world, 1.0)
    for members in ((), (one, one), (one, two)):
        with pytest.raises(LLMValidationError) as caught:
            Setup(name="odd", members=members)
        assert caught.value.code == "validation.setup"
    with pytest.raises(LLMValidationError, match="quorum"):
        Setup(name="odd", members=(one,), quorum=2)


# --- over real sockets ----------------------------------------------------------------------------------


def test_setups_are_measured_over_real_sockets(tmp_path: Path):
    """A lone model that always fails answers nothing; a chain answers all, live, and the lab is reset before each."""
    resets = []
    with FaultLab(["strong", "medium"], faults="strong=http-500-always", latency=False) as lab:
        wb = lab.open(tmp_path / "log", max_retries=0)
        asked = exact(lab)[:6]

        async def measured() -> list[str]:
            async with wb:
                names = ("lab:strong", "lab:medium")
                setups = [Setup(name="alone", members=(chain(wb.live, "lab:strong"),))]
                setups += variants(wb.live, names, {"chain": {}, "streamed": {"stream": True}})
                return await measure_all(wb.world, setups, asked, before=lambda: resets.append(lab.reset()))

        ids = asyncio.run(measured())
        found = {s.name: s for s in summaries(wb.log, ids)}
    assert len(resets) == 3
    assert [found[name].answered.value for name in ("alone", "chain", "streamed")] == [0.0, 1.0, 1.0]
    assert [found[name].source for name in ("alone", "chain", "streamed")] == ["none", "live", "live"]
    assert found["alone"].cost_usd == 0
    # Three refusals open the circuit of the strong model; which calls were under way by then is a matter of luck.
    assert 1.5 <= found["chain"].attempts <= 2


def test_the_clock_and_the_server_of_a_live_run_are_in_its_spec(tmp_path: Path):
    """The machine's clock, a server that is simulated, and both in what is read of the run."""
    with FaultLab(["medium"], latency=False) as lab:
        wb = lab.open(tmp_path / "log")
        asked = exact(lab)[:2]

        async def measured() -> str:
            async with wb:
                return await measure(wb.world, Setup(name="one", members=(chain(wb.live, "lab:medium"),)), asked)

        run_id = asyncio.run(measured())
        spec = json.loads(wb.log.rows("select spec from runs where run_id = ?", [run_id])[0][0])
        (found,), over_time = summaries(wb.log, [run_id]), timeline(wb.log, run_id)
    for told in ((spec["clock"], spec["server"]), (found.clock, found.server), (over_time.clock, over_time.server)):
        assert told == ("real", "simulated")


def test_a_server_is_simulated_as_far_as_the_cards_say(world: World, tmp_path: Path):
    """All, some or none of the models that are asked over a network; those in-process have no server."""
    plain = alone(world, Slow("a:x", world, 1.0))
    inside = alone(world, Slow("simulated:x", world, 1.0))
    with FaultLab(["medium"], latency=False) as lab, lab.open(tmp_path / "lab") as wb:
        behind = chain(wb.live, "lab:medium")
        found = [server_of(members) for members in ((behind,), (behind, inside), (behind, plain), (plain,), (inside,))]
    assert found == ["simulated", "simulated", "partly simulated", "", ""]
    assert (clock_of(world), clock_of(World.real(world.sink))) == ("virtual", "real")


def test_the_budget_of_the_workbench_holds_for_setups(tmp_path: Path):
    """A millionth of a dollar a run: every question of a chain and of its variants is refused, and nothing is sent."""
    with FaultLab(["medium"], latency=False) as lab:
        wb = lab.open(tmp_path / "log", budget_run_usd=1e-6)
        asked = exact(lab)[:3]
        setups = [Setup(name="chain", members=(chain(wb.live, "lab:medium"),))]
        setups += variants(wb.live, ["lab:medium"], {"plain": {}, "streamed": {"stream": True}})

        async def measured() -> list[str]:
            async with wb:
                return await measure_all(wb.world, setups, asked)

        found = questions(wb.log, *asyncio.run(measured()))
        assert lab.accepted.total == 0
    assert [q.code for rows in found.values() for q in rows] == ["budget.exceeded"] * 9


def test_setups_share_the_rate_of_their_provider(tmp_path: Path):
    """Two requests a minute: of four questions to two chains two are answered, two would be past the deadline."""
    with FaultLab(["medium"], latency=False) as lab:
        loaded = lab.loaded(timeout_s=10)
        known = dict(loaded.providers)
        known["lab"] = replace(known["lab"], requests_per_minute=2)
        wb = Workbench.open(tmp_path / "log", loaded=replace(loaded, providers=MappingProxyType(known)))
        asked = exact(lab)[:2]
        setups = variants(wb.live, ["lab:medium"], {"plain": {}, "streamed": {"stream": True}})

        async def measured() -> list[str]:
            async with wb:
                return await measure_all(wb.world, setups, asked)

        ids = asyncio.run(measured())
        found = questions(wb.log, *ids)
        assert lab.accepted.total == 2
    assert [[q.code for q in found[run_id]] for run_id in ids] == [[None, None], ["rate_limit.local"] * 2]


def test_a_chain_with_an_unknown_change_is_refused_with_the_known_ones(tmp_path: Path):
    """The next step names fields of the discipline."""
    lab = FaultLab(["medium"], latency=False)
    refused = pytest.raises(LLMValidationError, match="hedge_afer_s")
    with lab, lab.open(tmp_path / "log") as wb, refused as caught:
        chain(wb.live, "lab:medium", hedge_afer_s=1)
    assert "hedge_after_s" in str(caught.value.next_step)
