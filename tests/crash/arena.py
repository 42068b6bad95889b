"""Eight processes that write one log, and somebody who kills them and those who move it, upgrade it, check it in.

Every child is forked from a process that has opened nothing: no thread, no database, no spool file. A SIGKILL is a
real one, at a random moment, and for all but writers in the middle of what they do.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.programs import (
    BUSY,
    IDLE,
    OLD_ROWS,
    Lamp,
    Plan,
    check_in,
    judge,
    move,
    poll,
    put_old_log,
    take_turns,
    upgrade,
    version_in,
    write,
)
from workbench.record.log import Log
from workbench.record.schema import VERSION

PATIENCE_S = 600.0
# How long after the beginning of its work a process is killed, at most: about the length of that work.
LONGEST_S = {"mover": 0.2, "checker": 0.15, "upgrader": 0.4, "writer": 0.05, "reader": 0.2}
# Of the kills, so many shares hit whom.
SHARES = {"writer": 8, "mover": 6, "checker": 3, "reader": 1}


@dataclass(slots=True)
class Child:
    """A process of the arena. job: what it runs, so that another can take its place."""

    role: str
    number: int
    job: Callable[[Lamp], object]
    lamp: Path
    pid: int = 0

    @property
    def busy(self) -> bool:
        """Whether it is, or was when it died, in the middle of something."""
        return self.lamp.read_bytes() == BUSY


@dataclass(slots=True)
class Arena:
    """The processes of a plan, and who was killed. killed: kills by role. midst: those that hit it at work."""

    plan: Plan
    seed: int
    killed: Counter[str] = field(default_factory=Counter)
    midst: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def add(self, role: str, job: Callable[[Lamp], object], number: int = 0) -> Child:
        """Start a process that does the job."""
        child = Child(role, number, job, self.plan.acks / f"{role}-{number}.lamp")
        self.start(child)
        self.children.append(child)
        return child

    def start(self, child: Child) -> None:
        """Start it, or start another in the place of a dead one."""
        child.lamp.write_bytes(IDLE)  # that of a dead one may still say otherwise
        child.pid = os.fork()
        if child.pid:
            return
        code = 1
        try:
            child.job(Lamp(child.lamp))
            code = 0
        except BaseException:
            with self.plan.errors.open("a", encoding="utf-8") as file:
                file.write(f"{child.role} {child.number}: {traceback.format_exc()}\n")
        finally:
            os._exit(code)

    def done(self, child: Child) -> bool:
        """Whether it has ended by itself; how it failed becomes a problem."""
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if not pid:
            return False
        self.children.remove(child)
        if status:
            self.problems.append(f"{child.role} {child.number} ended with {os.waitstatus_to_exitcode(status)}")
        return True

    def kill(self, child: Child) -> bool:
        """Kill it at a random moment of its work; whether it died in the midst of it. False also where it has ended."""
        give_up = time.monotonic() + PATIENCE_S
        while child.role != "writer" and not child.busy:
            if self.done(child):
                return False
            assert time.monotonic() < give_up, f"the {child.role} does nothing for {PATIENCE_S:g} s"
            time.sleep(0.001)
        time.sleep(self.chance.uniform(0, LONGEST_S[child.role]))
        if self.done(child):
            return False
        self.end(child)
        self.killed[child.role] += 1
        self.midst[child.role] += child.busy
        return child.busy

    def end(self, child: Child) -> None:
        """SIGKILL, and wait for its death; whether it had ended by itself before is told by a problem."""
        os.kill(child.pid, signal.SIGKILL)
        _, status = os.waitpid(child.pid, 0)
        self.children.remove(child)
        if os.WIFEXITED(status) and status:
            self.problems.append(f"{child.role} {child.number} ended with {os.waitstatus_to_exitcode(status)}")

    def replaced(self, child: Child) -> None:
        """Put a new process in the place of a killed one."""
        self.start(child)
        self.children.append(child)

    def answer(self, question: Callable[[], Any]) -> Any:
        """What a question gives, asked in a process of its own: this one never opens the log."""
        path = self.plan.acks / "answer.json"
        path.unlink(missing_ok=True)
        child = self.add("asker", lambda _: path.write_text(json.dumps(question()), "utf-8"))
        self.wait_for(lambda: self.done(child))
        assert path.exists(), self.said()
        return json.loads(path.read_text("utf-8"))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return as soon as it holds."""
        give_up = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < give_up, f"it never came to that; {self.said()}"
            time.sleep(0.002)

    def said(self) -> str:
        """The problems, and what the failed processes wrote."""
        wrote = self.plan.errors.read_text("utf-8") if self.plan.errors.exists() else ""
        return "\n".join([*self.problems, wrote]).strip()


def fight(plan: Plan, *, kills: int, seed: int) -> Mapping[str, Any]:
    """Let the plan be carried out with so many kills; everything that is wrong afterwards, by name, and figures."""
    start_s = time.monotonic()
    plan.acks.mkdir(parents=True)
    plan.open_gate(0)
    arena = Arena(plan, seed)
    try:
        for number in range(plan.writers):
            arena.add("writer", lambda lamp, w=number: write(plan, w, lamp), number)  # type: ignore[misc]
        plan.open_gate(0.02)
        arena.wait_for(lambda: all(plan.acknowledged(w) for w in range(plan.writers)) or bool(arena.problems))
        plan.open_gate(0.08)
        upgrades = upgrade_under_fire(arena, kills=max(2, kills // 8))
        kill_at_work(arena, kills=kills)
        wrote_s = time.monotonic() - start_s
        found = arena.answer(lambda: judge(plan, old=OLD_ROWS))
    finally:
        for child in list(arena.children):
            arena.end(child)
    return {
        **found,
        "problems": arena.said(),
        "kills": sum(arena.killed.values()),
        "killed": dict(arena.killed),
        "in the midst of it": dict(arena.midst),
        "in the midst of a migration": upgrades,
        "unacknowledged": plan.writers * plan.batches - sum(plan.acknowledged(w) for w in range(plan.writers)),
        "seconds to write": wrote_s,
        "seconds": time.monotonic() - start_s,
    }


def upgrade_under_fire(arena: Arena, *, kills: int) -> int:
    """Kill those who upgrade an old log, then let one do it; how many kills left the former version in place."""
    arena.answer(lambda: put_old_log(arena.plan))
    unfinished = 0
    upgrader = arena.add("upgrader", lambda lamp: upgrade(arena.plan, lamp))
    for _ in range(kills):
        if arena.kill(upgrader):
            version = arena.answer(lambda: version_in(arena.plan))
            if version not in (1, VERSION):
                arena.problems.append(f"a killed migration left version {version}")
            unfinished += version == 1
        if upgrader not in arena.children:
            arena.replaced(upgrader)
    arena.wait_for(lambda: arena.done(upgrader))
    if (version := arena.answer(lambda: version_in(arena.plan))) != VERSION:
        arena.problems.append(f"the migration that was left alone ended at version {version}")
    return unfinished


def kill_at_work(arena: Arena, *, kills: int) -> None:
    """Spread the kills over the writing; then, with the writers done, give the rest to the others."""
    plan, left = arena.plan, kills - sum(arena.killed.values())
    helpers = {"mover": move, "checker": check_in, "reader": poll}
    for role, program in helpers.items():
        arena.add(role, lambda lamp, p=program: p(plan, lamp))  # type: ignore[misc]
    roles, shares = list(SHARES), list(SHARES.values())
    while (done := sum(arena.killed.values())) < kills and not arena.problems:
        plan.open_gate(0.1 + 0.9 * (1 - (kills - done - 1) / left))
        [role] = arena.chance.choices(roles, shares)
        alive(arena)
        if not (crowd := [c for c in arena.children if c.role == role]):
            continue
        victim = arena.chance.choice(crowd)
        arena.kill(victim)
        if victim not in arena.children and (victim.role != "writer" or left_to_write(plan, victim.number)):
            arena.replaced(victim)
    plan.open_gate(1)
    arena.wait_for(lambda: not alive(arena))
    for child in list(arena.children):
        arena.end(child)


def alive(arena: Arena) -> bool:
    """Whether a writer still runs; who has ended by itself is looked at."""
    for child in list(arena.children):
        arena.done(child)
    return any(c.role == "writer" for c in arena.children)


def left_to_write(plan: Plan, writer: int) -> bool:
    """Whether a writer has batches that are not acknowledged."""
    return plan.acknowledged(writer) < plan.batches


# -- the race


def race(plan: Plan, *, every: int) -> Mapping[str, Any]:
    """Writers that take turns at the database after so many batches each, with a polling reader; what is wrong."""
    start_s = time.monotonic()
    plan.acks.mkdir(parents=True)
    plan.open_gate(1)
    arena = Arena(plan, 0)
    arena.answer(lambda: Log.open(plan.folder).close())
    try:
        arena.add("reader", lambda lamp: poll(plan, lamp))
        for number in range(plan.writers):
            arena.add("writer", lambda _, w=number: take_turns(plan, w, every=every), number)  # type: ignore[misc]
        arena.wait_for(lambda: not alive(arena))
        if not arena.children:
            arena.problems.append("the reader has ended")
        for child in list(arena.children):
            arena.end(child)
        found = arena.answer(lambda: judge(plan, old=0))
    finally:
        for child in list(arena.children):
            arena.end(child)
    return {
        **found,
        "problems": arena.said(),
        "acknowledged batches": sum(plan.acknowledged(w) for w in range(plan.writers)),
        "seconds": time.monotonic() - start_s,
    }
