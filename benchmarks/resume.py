"""Going on with an interrupted run: what is paid twice, and how long it takes to skip what is finished.

A run over real sockets is killed at random moments and goes on each time; the lab counts the requests that it accepts.
Then a run of 200,000 finished items and one that is left goes on: the time to the question that is left. Goals: after
200 kills 0 answers of the log asked for again, 0 requests under another key than their own, 0 answers lost, 0 reports
that differ from an uninterrupted run's; less than 1 s CPU, the digest of the suite and a new connection included.

--kills, --seed: fewer, or other, moments. --items: of the second part; 0 leaves it out.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from _timing import finish, goal, median, spread

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.session.resuming import killed_run, place, uninterrupted
from workbench.act.world import World
from workbench.facts import Call, Item, ItemAsked, Request, Response, RunStarted, Usage
from workbench.record.log import Log
from workbench.study.resume import check_same, read_prior
from workbench.study.run import Member, Plan, execute, member_spec, spec_of
from workbench.study.suite import Suite

MOST_KILLS = 12  # of one run


def killed(folder: Path, *, kills: int, seed: int) -> list[dict[str, object]]:
    """Kill runs so many times in all; the goals."""
    chance, start_s = random.Random(seed), time.perf_counter()
    done = runs = starts = repeated = again = strange = lost = 0
    phases: Counter[str] = Counter()
    wrong: list[str] = []
    with place(folder) as (lab, process):
        expected = uninterrupted(lab, folder / "whole")
        while done < kills:
            log = folder / f"log{runs}"
            most = min(MOST_KILLS, kills - done)
            seen = killed_run(lab, process, log, chance=chance, kills=most, expected=expected)
            runs, done, starts, repeated = runs + 1, done + seen.kills, starts + seen.starts, repeated + seen.repeated
            again, strange, lost = again + len(seen.again), strange + len(seen.strange), lost + len(seen.lost)
            phases += seen.phases
            wrong += seen.wrong
    took_s = time.perf_counter() - start_s
    print(f"{done} kills of {runs} runs in {took_s:.0f} s, {starts} starts; killed while {dict(phases)}")
    print(f"{repeated} requests were under way when their process died, and were asked again under their own key")
    print(*wrong[:10], sep="\n")
    return [
        goal("answers of the log asked for again", again, 0, "calls"),
        goal("requests under a strange key", strange, 0, "requests"),
        goal("answers lost", lost, 0, "answers"),
        goal("reports that differ", len(wrong), 0, "reports"),
    ]


@dataclass
class Last:
    """A model that answers nothing, and knows when it was asked first."""

    name: str = "bench:last"
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def complete(self, request: Request) -> Response:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError


def finished(log: Log, items: tuple[Item, ...], plan: Plan) -> None:
    """Write a run of which every item but the last is answered."""
    log.write(
        RunStarted(
            run_id=plan.run_id, name=plan.suite.name, source="live", models=("last",), spec=plan.spec, start_unix_ns=1
        )
    )
    for start in range(0, len(items), 5000):
        facts: list[ItemAsked | Call] = []
        for position, item in enumerate(items[start : start + 5000], start):
            facts.append(ItemAsked(run_id=plan.run_id, position=position, item=item))
            if position == len(items) - 1:
                continue
            request = plan.suite.request(item)
            response = Response(
                request_key=request.key, model="bench:last", text=f"The answer is {position}.", source="live",
                usage=Usage(prompt_tokens=12, completion_tokens=5), latency_ms=10.0, cost_usd=1e-5,
            )  # fmt: skip
            facts.append(
                Call(
                    span_id=f"{position:016x}", trace_id="0" * 32, run_id=plan.run_id, item_id=item.item_id,
                    provider="bench", model="last", request=request, response=response, failure=None, start_unix_ns=1,
                    duration_ms=10.0, call_id=f"{position:016x}", member="last",
                )
            )  # fmt: skip
        log.write(*facts)
    log.ingest()


def skipped(folder: Path, count: int) -> list[dict[str, object]]:
    """Go on with a run of so many finished items, five times; the seconds to the question that is left."""
    items = tuple(
        Item(item_id=f"i{n}", task="reasoning", prompt=f"How much is {n} and {n}? Show your work, step by step.",
             reference=str(2 * n), metadata={"answer_kind": "number", "options": ()})
        for n in range(count + 1)
    )  # fmt: skip
    suite = Suite(name="many", kind="suite", items=items)
    log = Log.open(folder)

    def plan() -> Plan:
        members = (Member(name="last", model=Last()),)
        spec = spec_of(suite, None, members=[member_spec(m) for m in members])
        return Plan(run_id="many-1", suite=suite, members=members, merge=None, source="live", spec=spec)

    finished(log, items, plan())

    async def first_question() -> tuple[float, float, int]:
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        made = plan()
        prior = read_prior(log, made.run_id)
        check_same(prior, made.suite, made.spec)
        task = asyncio.create_task(execute(World.real(log), made, prior=prior))
        model = made.members[0].model
        assert isinstance(model, Last)
        await model.asked.wait()
        took_s, took_cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return took_s, took_cpu_s, prior.kept

    rounds = [asyncio.run(first_question()) for _ in range(5)]
    log.close()
    assert {kept for _, _, kept in rounds} == {count}
    wall, cpu = [took_s for took_s, _, _ in rounds], [took_cpu_s for _, took_cpu_s, _ in rounds]
    print(f"to the question that is left: s {spread(wall)}, CPU s {spread(cpu)}")
    return [goal(f"skip {count} finished items, median of five", median(cpu), 1.0, "s CPU")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--items", type=int, default=200_000)
    given = parser.parse_args()
    goals: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as kept:
        if given.kills:
            goals += killed(Path(kept), kills=given.kills, seed=given.seed)
        if given.items:
            goals += skipped(Path(kept) / "many", given.items)
    finish(goals)
