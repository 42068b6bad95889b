"""An outage rehearsed on the virtual clock: minutes of requests, failures and cooldowns in a moment of real time.

Only the models and the clock are simulated. Retries, deadlines, breakers and accounts are those of any other call, and
everything told here is read from the rows and decisions that they have logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

from workbench.act.admission import Admission, Discipline
from workbench.act.failover import Chain
from workbench.act.ledger import MemoryLedger
from workbench.act.simulated import Profile, SimulatedModel
from workbench.act.threads import in_thread
from workbench.act.wake import awake
from workbench.act.world import World
from workbench.decide.breaker import Breaker
from workbench.decide.classify import error_of
from workbench.errors import LLMValidationError
from workbench.facts import Item, ModelCard, Request, Response
from workbench.study.latency import Setup, measure
from workbench.study.table import Reader
from workbench.study.timings import Timed, questions

Kind = Literal["refusing", "silent"]
REFUSAL_S = 0.05  # how long a service takes to say that it is down
SILENCE_S = 86_400.0  # longer than any deadline may be
LONGEST = 256  # tokens that an answer is declared to have at most, which bounds what a lost request may cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A time in which a model does not answer.

    from_s, until_s: on the world's clock, until_s exclusive. kind: `refusing` answers 503 at once, `silent` takes the
    request and says nothing more, also after the outage.
    Raises LLMValidationError validation.outage.
    """

    from_s: float
    until_s: float
    kind: Kind = "refusing"

    def __post_init__(self) -> None:
        if not 0 <= self.from_s < self.until_s or self.kind not in ("refusing", "silent"):
            raise LLMValidationError(
                f"an outage from {self.from_s!r} to {self.until_s!r} s, {self.kind!r}, cannot be rehearsed",
                code="validation.outage",
                next_step="give 0 <= from_s < until_s, and refusing or silent",
            )


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A simulated model whose latency passes on the world's clock, and which is down when its outages say so.

    key: item_id -> item, the answers that it can know.
    """

    profile: Profile
    world: World
    outages: tuple[Outage, ...] = ()
    key: Mapping[str, Item] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """`simulated:NAME`."""
        return f"simulated:{self.profile.name}"

    @property
    def card(self) -> ModelCard:
        """The prices of the profile, so that accounts are kept."""
        return ModelCard(
            name=self.name,
            max_output_tokens=LONGEST,
            prompt_usd_per_mtok=self.profile.prompt_usd_per_mtok,
            completion_usd_per_mtok=self.profile.completion_usd_per_mtok,
            source="simulated: the profile of the model",
        )

    async def complete(self, request: Request) -> Response:
        """The simulated answer after its latency; LLMProviderError provider.server while it is refusing."""
        now_s = self.world.now_s()
        found = next((o for o in self.outages if o.from_s <= now_s < o.until_s), None)
        if found is not None:
            await self.world.sleep(REFUSAL_S if found.kind == "refusing" else SILENCE_S)
            raise error_of("provider.server", f"{self.name} is down (simulated)", status=503, model=self.name)
        response = await SimulatedModel(self.profile, self.key).complete(request)
        await self.world.sleep((response.latency_ms or 0.0) / 1e3)
        return response


async def rehearse(
    world: World,
    profiles: Sequence[Profile],
    items: Sequence[Item],
    *,
    name: str = "rehearsal",
    outages: Mapping[str, Sequence[Outage]] | None = None,
    discipline: Discipline | None = None,
    every_s: float = 1.0,
    seed: int = 0,
) -> str:
    """Ask a chain of simulated models a question every so many virtual seconds; the id of the run with the rows.

    world: whose log and names the rows get; its clock and chance are not used. profiles: in the order of the chain.
    outages: by name of profile. every_s: >= 0. seed: of all chance. Runs beside a running event loop; cancelled, it
    ends the run as cancelled.
    Raises LLMValidationError validation.outage for an outage of a model that is not in the chain; as `measure` does.
    """
    planned = {p.name: tuple((outages or {}).get(p.name, ())) for p in profiles}
    if unknown := sorted(set(outages or {}) - set(planned)):
        raise LLMValidationError(
            f"an outage is planned for {unknown[0]}, and the chain has {', '.join(planned) or 'nobody'}",
            code="validation.outage",
            next_step="name the outages by the profiles' names",
        )
    # Names from outside: two rehearsals with one seed would give their rows the same ids, and the log keeps one of two.
    virtual = replace(World.virtual(seed, world.sink), new_id=world.new_id)
    key = {item.item_id: item for item in items}
    models = tuple(Rehearsed(p, virtual, planned[p.name], key) for p in profiles)
    shared = Admission(virtual, discipline or Discipline(), ledger=MemoryLedger({}))
    asked = partial(
        measure,
        virtual,
        Setup(name=name, members=(Chain(shared, models),)),
        items,
        concurrency=None,
        every_s=every_s,
        source="simulated",
        about={"outages": {model.name: [asdict(o) for o in model.outages] for model in models}, "seed": seed},
    )
    return await _beside(virtual, asked)


async def _beside(virtual: World, work: Callable[[], Awaitable[str]]) -> str:
    """What the work returns on the virtual world's own loop, in a thread.

    Cancelled, it cancels the work over there and waits for its end; cancelled once more, it waits no longer.
    """
    stopped = False
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def outer() -> str:
        task = asyncio.current_task()
        assert task is not None
        started.append((asyncio.get_running_loop(), task))
        if stopped:  # before there was a task to cancel
            raise asyncio.CancelledError
        return await work()

    running = asyncio.ensure_future(in_thread(lambda: virtual.run(outer()), name="workbench-rehearsal"))
    with awake():
        try:
            return str(await asyncio.shield(running))
        except asyncio.CancelledError:
            stopped = True
            for loop, task in started:
                with contextlib.suppress(RuntimeError):  # the loop has just been closed
                    loop.call_soon_threadsafe(task.cancel)
            await asyncio.wait([running])
            if not running.cancelled():
                running.exception()  # looked at: who has cancelled does not ask for it
            raise


# -- questions asked of the log


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """A time in which a model's circuit was in one state; seconds since the run began."""

    model: str
    state: str
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One attempt: when it began, in seconds since the run did, on which model, how long it took and how it ended.

    status: `ok`, `error`, `timeout` or `cancelled`. code: of the failure, or None. booked_usd: what the accounts were
    charged when it ended, the worst case where `uncertain` (possibly billed).
    """

    at_s: float
    took_s: float
    model: str
    status: str
    code: str | None
    booked_usd: float
    uncertain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A run over time. ended_s: when it ended, in seconds since it began. source: of its answers.

    clock, server: see `study.timings.Summary`. outages: as they were planned, by model.
    """

    run_id: str
    name: str
    source: str
    clock: str
    server: str
    ended_s: float
    spells: tuple[Spell, ...]
    tries: tuple[Try, ...]
    questions: tuple[Timed, ...]
    outages: Mapping[str, tuple[Outage, ...]]


def timeline(reader: Reader, run_id: str) -> Timeline:
    """What happened when in a run of `rehearse` or `measure`, from its logged rows and decisions.

    A circuit is closed until a decision says otherwise. Raises LLMValidationError run.unknown.
    """
    rows = reader.rows(
        "select name, spec, (end_unix_ns - start_unix_ns) / 1e9 from runs where run_id = ? and status = 'finished'",
        [run_id],
    )
    if not rows or "chains" not in (spec := json.loads(rows[0][1])):
        raise LLMValidationError(
            f"there is no finished rehearsal {run_id!r} in the log",
            code="run.unknown",
            next_step="pass what rehearse(...) or measure(...) returned",
        )
    asked = tuple(questions(reader, run_id)[run_id])
    return Timeline(
        run_id=run_id,
        name=rows[0][0],
        source="+".join(sorted({source for row in asked for source in row.sources})) or "none",
        clock=spec.get("clock", ""),
        server=spec.get("server", ""),
        ended_s=float(rows[0][2]),
        spells=_spells(reader, run_id, spec, float(rows[0][2])),
        tries=_tries(reader, run_id),
        questions=asked,
        outages={model: tuple(Outage(**o) for o in found) for model, found in spec.get("outages", {}).items()},
    )


def _spells(reader: Reader, run_id: str, spec: Mapping[str, Any], ended_s: float) -> tuple[Spell, ...]:
    """The states of every circuit, by model and time."""
    rows = reader.rows(
        "select inputs->>'provider', inputs->>'model', output->>'state', cast(output->>'since_s' as double) "
        "from decisions where run_id = ? and kind = 'breaker' order by cast(inputs->>'now_s' as double), 4",
        [run_id],
    )
    moves: dict[str, list[tuple[float, str]]] = {name: [(0.0, "closed")] for c in spec["chains"] for name in c}
    for provider, model, state, since_s in rows:
        name = f"{provider}:{model}" if provider else model
        moves.setdefault(name, [(0.0, "closed")]).append((since_s - spec["start_s"], state))
    return tuple(
        Spell(model=model, state=state, from_s=from_s, until_s=until_s)
        for model, changes in moves.items()
        for (from_s, state), (until_s, _) in pairwise([*changes, (ended_s, "")])
        if until_s > from_s
    )


def _tries(reader: Reader, run_id: str) -> tuple[Try, ...]:
    """The attempts in the order in which they began."""
    rows = reader.rows(
        "select (a.start_unix_ns - r.start_unix_ns) / 1e9 as at_s, a.duration_ms / 1e3, "
        "case when a.provider = '' then a.model else a.provider || ':' || a.model end, a.status, a.failure_code, "
        "coalesce(a.booked_usd, 0), a.possibly_billed "
        "from attempts a join runs r using (run_id) where a.run_id = ? order by at_s, a.item_id, a.attempt",
        [run_id],
    )
    return tuple(
        Try(at_s=at, took_s=took, model=model, status=status, code=code, booked_usd=booked, uncertain=uncertain)
        for at, took, model, status, code, booked, uncertain in rows
    )


def decided_again(reader: Reader, run_id: str) -> tuple[int, int]:
    """How many logged transitions of circuits there are, and how many come out otherwise when decided again."""
    rows = reader.rows(
        "select params, inputs, output->>'state' from decisions where run_id = ? and kind = 'breaker'", [run_id]
    )
    again = [(Breaker(**json.loads(params)).again(json.loads(inputs)).state, state) for params, inputs, state in rows]
    return len(again), sum(made != logged for made, logged in again)
