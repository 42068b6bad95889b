"""Rehearsed outages: timelines against what the policies must do on a clock, reckoned by hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.study.slow import items
from workbench.act.admission import Discipline
from workbench.act.simulated import Profile
from workbench.act.world import World
from workbench.decide.breaker import Breaker
from workbench.decide.retry import RetryPolicy
from workbench.errors import LLMValidationError
from workbench.facts import Call, Fact, RunEnded
from workbench.record.log import Log
from workbench.study.outage import Outage, Spell, Timeline, decided_again, rehearse, timeline

# Half a second for every answer, always right; two names for two models.
FIRST = Profile(
    name="first", skill={"general": 1.0}, no_answer=0.0, latency_ms=500, latency_sigma=0,
    prompt_usd_per_mtok=10, completion_usd_per_mtok=10,
)  # fmt: skip
SECOND = replace(FIRST, name="second")
EAGER = Discipline(
    timeout_s=20, retry=RetryPolicy(max_retries=0), breaker=Breaker(minimum_calls=3, window_calls=3, cooldown_s=10)
)
CLOSED = "closed"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = Log.open(tmp_path / "log")
    yield opened
    opened.close()


def rehearsed(log: Log, *outages: Outage, n: int = 30, discipline: Discipline = EAGER) -> Timeline:
    """A question a second, the first model down as planned."""
    asked = rehearse(
        World.real(log), (FIRST, SECOND), items(n), outages={"first": outages}, discipline=discipline, every_s=1.0
    )
    return timeline(log, asyncio.run(asked))


def of(found: Timeline, model: str) -> list[tuple[str, float, float]]:
    return [(s.state, round(s.from_s, 6), round(s.until_s, 6)) for s in found.spells if s.model == f"simulated:{model}"]


def test_the_circuit_of_a_refusing_model_opens_probes_and_closes(log: Log):
    """Refusals at 5, 6, 7 s (each 0.05 s) open it; the first question after 10 s of cooldown probes and closes it.

    It opens at 7.05 s, so that the call of 18 s is the first that may pass; its answer is there at 18.5 s. The last
    question, of 29 s, is answered at 29.5 s.
    """
    found = rehearsed(log, Outage(from_s=5, until_s=12))
    assert of(found, "first") == [
        ("closed", 0, 7.05), ("open", 7.05, 18), ("half_open", 18, 18.5), ("closed", 18.5, 29.5),
    ]  # fmt: skip
    assert of(found, "second") == [("closed", 0, 29.5)]
    assert found.ended_s == pytest.approx(29.5)


def test_a_probe_that_fails_opens_the_circuit_again(log: Log):
    """Down until 20 s: the probe of 18 s is refused at 18.05 s, and the next may go at 29 s."""
    found = rehearsed(log, Outage(from_s=5, until_s=20))
    assert of(found, "first")[1:] == [
        ("open", 7.05, 18), ("half_open", 18, 18.05), ("open", 18.05, 29), ("half_open", 29, 29.5),
    ]  # fmt: skip


def test_questions_wait_for_a_silent_model_until_its_share_of_the_time_is_over(log: Log):
    """Half of 20 s, for two models, and then half a second; those that begin with the circuit open, half a second."""
    found = rehearsed(log, Outage(from_s=5, until_s=60, kind="silent"), n=25)
    took = [round(q.took_ms / 1e3, 6) for q in found.questions]
    # Silent from 5 s on: three have timed out at 15, 16, 17 s; the question of 17 s finds the circuit open or not,
    # as its own beginning and the third timeout fall on one moment.
    assert took[:5] == [0.5] * 5
    assert took[5:17] == [10.5] * 12
    assert took[18:] == [0.5] * 7
    assert all(q.ok and q.right == 1 for q in found.questions)


def test_what_may_be_billed_is_told_from_what_is(log: Log):
    """A refusal costs nothing; a request that was given up is booked with its worst case, and said to be uncertain."""
    found = rehearsed(log, Outage(from_s=1, until_s=2), Outage(from_s=3, until_s=4, kind="silent"), n=6)
    by = {(round(t.at_s, 3), t.model): t for t in found.tries}
    refused, silent = by[1.0, "simulated:first"], by[3.0, "simulated:first"]
    assert (refused.status, refused.code, refused.booked_usd, refused.uncertain) == (
        "error",
        "provider.server",
        0,
        False,
    )
    assert (silent.status, silent.code, silent.uncertain) == ("timeout", "timeout.attempt", True)
    assert silent.took_s == pytest.approx(10)
    # 256 tokens at 10 USD per million are 0.00256 USD, and the prompt of some bytes comes on top.
    assert 0.00256 < silent.booked_usd < 0.0030
    answered = [t for t in found.tries if t.status == "ok"]
    assert len(answered) == 6
    assert all(0 < t.booked_usd < 0.001 and not t.uncertain for t in answered)


def test_every_row_is_labelled_simulated_and_has_the_virtual_time(log: Log):
    """The source of run and answers, and half a second an answer though no half second has passed."""
    found = rehearsed(log, n=4)
    assert (found.source, found.clock, found.server) == ("simulated", "virtual", "")
    assert log.rows("select distinct source from runs") == [("simulated",)]
    assert log.rows("select distinct source from calls") == [("simulated",)]
    assert [t.took_s for t in found.tries] == pytest.approx([0.5] * 4)
    assert [t.at_s for t in found.tries] == pytest.approx([0, 1, 2, 3])


def test_two_rehearsals_with_one_seed_say_the_same_and_keep_their_rows(log: Log):
    """Equal but for their ids; no row of the second is taken for one of the first."""
    plan = Outage(from_s=2, until_s=6)
    one, two = rehearsed(log, plan, n=12, discipline=Discipline()), rehearsed(log, plan, n=12, discipline=Discipline())
    assert one.run_id != two.run_id
    assert replace(one, run_id="") == replace(two, run_id="")
    assert log.rows("select count(*) from calls") == [(24,)]


def test_the_plan_is_in_the_log(log: Log):
    """Outages come back as they were planned, by the names that the rows use."""
    plan = (Outage(from_s=1, until_s=2), Outage(from_s=3, until_s=4, kind="silent"))
    assert rehearsed(log, *plan, n=5).outages == {"simulated:first": plan, "simulated:second": ()}


def test_transitions_are_decided_again_from_the_log(log: Log):
    """Three transitions, none different; one whose logged outcome was changed is found."""
    found = rehearsed(log, Outage(from_s=5, until_s=12))
    assert decided_again(log, found.run_id) == (3, 0)

    class Tampered:
        def rows(self, sql: str, params: object = None) -> list[tuple[object, ...]]:
            rows = log.rows(sql, params)  # type: ignore[arg-type]
            return [(rows[0][0], rows[0][1], "half_open"), *rows[1:]]

    assert decided_again(Tampered(), found.run_id) == (3, 1)  # type: ignore[arg-type]


def test_a_run_without_a_breakers_decisions_is_closed_throughout(log: Log):
    """One spell a model, from the beginning to the end."""
    found = rehearsed(log, n=3)
    assert found.spells == tuple(
        Spell(model=f"simulated:{name}", state=CLOSED, from_s=0.0, until_s=2.5) for name in ("first", "second")
    )


@pytest.mark.parametrize(
    "given", [{"from_s": 5, "until_s": 5}, {"from_s": -1, "until_s": 5}, {"from_s": 1, "until_s": 2, "kind": "loud"}]
)
def test_an_outage_that_cannot_be_is_refused(given):
    """Of no length, before the beginning, or of no known kind."""
    with pytest.raises(LLMValidationError) as caught:
        Outage(**given)
    assert caught.value.code == "validation.outage"


def test_an_outage_of_a_model_that_is_not_asked_is_refused(log: Log):
    """By name, and with the names there are."""
    plan = {"third": [Outage(from_s=1, until_s=2)]}
    with pytest.raises(LLMValidationError, match=r"third.*first, second"):
        asyncio.run(rehearse(World.real(log), (FIRST, SECOND), items(2), outages=plan))


def test_a_timeline_needs_a_finished_run(log: Log):
    """A run that is not there, and one of another kind."""
    with pytest.raises(LLMValidationError) as caught:
        timeline(log, "nowhere")
    assert caught.value.code == "run.unknown"


def test_a_rehearsal_runs_beside_a_running_loop(log: Log):
    """As a notebook's cell awaits it: the loop goes on meanwhile."""

    async def cell() -> int:
        turns = 0
        asked = asyncio.create_task(rehearse(World.real(log), (FIRST,), items(3)))
        while not asked.done():
            turns += 1
            await asyncio.sleep(0)
        return turns

    assert asyncio.run(cell()) > 1


# --- the stop button


class Held:
    """A sink that keeps a rehearsal at its third call until it may go on."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.reached, self.go_on = threading.Event(), threading.Event()

    def write(self, *facts: Fact) -> None:
        self.facts.extend(facts)
        if sum(isinstance(fact, Call) for fact in self.facts) == 3:
            self.reached.set()
            assert self.go_on.wait(10)


def ends(facts: list[Fact]) -> list[str]:
    return [fact.status for fact in facts if isinstance(fact, RunEnded)]


def rehearsals() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "workbench-rehearsal"]


def test_a_cancelled_rehearsal_ends_where_it_is():
    """Cancelled at its third of 500 calls: its run is cancelled when that is told, and nothing is written any more."""
    held = Held()

    async def main() -> int:
        asked = asyncio.create_task(rehearse(World.real(held), (FIRST,), items(500)))
        await asyncio.to_thread(held.reached.wait, 10)
        asked.cancel()
        await asyncio.sleep(0)
        held.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await asked
        return len(held.facts)

    told = asyncio.run(main())
    assert ends(held.facts) == ["cancelled"]
    assert isinstance(held.facts[-1], RunEnded)
    assert len(held.facts) == told
    assert sum(isinstance(fact, Call) for fact in held.facts) < 10


def test_a_rehearsal_cancelled_twice_is_not_waited_for():
    """The second time the caller is free at once, though the rehearsal is held up; it ends as cancelled later."""
    held = Held()

    async def main() -> None:
        asked = asyncio.create_task(rehearse(World.real(held), (FIRST,), items(500)))
        await asyncio.to_thread(held.reached.wait, 10)
        for _ in range(2):
            asked.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert ends(held.facts) == []
        held.go_on.set()
        while rehearsals():  # noqa: ASYNC110 - a thread tells nobody that it has ended
            await asyncio.sleep(0.001)

    asyncio.run(main())
    assert ends(held.facts) == ["cancelled"]


def test_a_rehearsal_cancelled_before_it_began_asks_nothing_to_its_end():
    """Whether its thread was there or not, no run is finished and no thread is left."""
    sink = Held()
    sink.go_on.set()

    async def main() -> None:
        asked = asyncio.create_task(rehearse(World.real(sink), (FIRST,), items(500)))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(main())
    assert ends(sink.facts) in ([], ["cancelled"])


def test_a_rehearsals_own_error_is_raised():
    """From its thread to the caller."""
    with pytest.raises(LLMValidationError) as caught:
        asyncio.run(rehearse(World.real(Held()), (FIRST,), []))
    assert caught.value.code == "data.empty"
