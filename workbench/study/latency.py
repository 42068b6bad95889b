"""Setups of models, timed on the same questions: a chain that takes over from one another, or several merged.

    questions --> measure(setup) --> rows of the log --> study/timings.py: percentiles, shares and costs

A question's time runs from asking to the merged answer, or to the error. Nothing is kept beside the log: each setup is
a run of it, each question a span.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from time import gmtime, strftime
from typing import Any, Protocol

from workbench.act.admission import Admission
from workbench.act.ensemble import Asked, check_limits, fan_out
from workbench.act.failover import Chain
from workbench.act.hedge import ended
from workbench.act.journal import decide
from workbench.act.trace import failure_of, span
from workbench.act.world import World
from workbench.decide.quorum import Quorum
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import (
    Contribution,
    Item,
    ItemAsked,
    Merge,
    Model,
    ModelContribution,
    Request,
    RunStarted,
    Score,
)
from workbench.study.run import ending_told
from workbench.study.suite import EXACT_ANSWER, answer_of, gold_of

OPERATION = "question"  # of the spans that time one


class Models(Protocol):
    """What `chain` asks of a workbench's live models."""

    world: World
    admission: Admission

    def model(self, name: str) -> Model:
        """One model by its name."""


def chain(models: Models, *names: str, **changes: Any) -> Chain:
    """The named models, asked one after the other, with circuits and a retry budget of their own.

    Budgets and rates are those of `models`, such as `wb.live`, whose discipline holds where `changes` (fields of
    act.admission.Discipline, such as hedge_after_s=0.2) say nothing else.
    Raises what `models.model` raises; LLMValidationError validation.config for a change that is none.
    """
    try:
        discipline = replace(models.admission.discipline, **changes)
    except TypeError as error:
        raise LLMValidationError(
            f"a chain cannot be made with {', '.join(changes)}: {error}",
            code="validation.config",
            next_step="name fields of Discipline, such as hedge_after_s, first_token_s, stream, retry, breaker",
        ) from error
    return Chain(models.admission.under(discipline), tuple(models.model(name) for name in names))


def variants(models: Models, names: Sequence[str], changes: Mapping[str, Mapping[str, Any]]) -> list[Setup]:
    """One setup a line of `changes` (its name -> what `chain` shall change), each the same models in a new chain."""
    return [Setup(name=name, members=(chain(models, *names, **given),)) for name, given in changes.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A way to get one answer to a question.

    members: asked at once. merge: makes one answer of theirs; None for a single member. quality: member's name ->
    estimate in [0, 1] that was made on other questions. quorum, grace_s, timeout_s: as for `fan_out`;
    timeout_s None leaves the members their own limits.
    Raises LLMValidationError validation.setup, validation.config, validation.quorum.
    """

    name: str
    members: tuple[Model, ...]
    merge: Merge | None = None
    quality: Mapping[str, float] = field(default_factory=dict)
    quorum: int = 1
    grace_s: float | None = None
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        names = [m.name for m in self.members]
        if not names or len(set(names)) < len(names) or (self.merge is None and len(names) > 1):
            raise LLMValidationError(
                f"setup {self.name!r} has the members {', '.join(names) or 'none'} and "
                f"{'no merge' if self.merge is None else 'the merge ' + self.merge.name}",
                code="validation.setup",
                next_step="name different members, and give a merge where there is more than one",
            )
        check_limits(members=len(names), timeout_s=self.timeout_s, quorum=self.quorum, grace_s=self.grace_s)


async def measure(
    world: World,
    setup: Setup,
    items: Sequence[Item],
    *,
    concurrency: int | None = 8,
    every_s: float = 0.0,
    source: str = "live",
    about: Mapping[str, Any] | None = None,
) -> str:
    """Ask a setup every question; the id of the run that holds its rows.

    The run's `spec` keeps the clock of the times, `real` or `virtual`, and the server (see `server_of`).
    items: each once. concurrency: questions under way at once, >= 1; None for all. every_s: seconds between the
    beginnings of two questions, >= 0. source: what the run is listed as; the rows of its calls say where each answer
    came from. about: what else the run's `spec` shall say. A question that ends with an LLMError is a failed one;
    what else is raised ends the run, cancels the other questions and is raised. Raises LLMValidationError
    validation.items for items that are scored by a metric: here an answer is right or wrong.
    """
    if graded := next((item for item in items if item.metadata.get("metric")), None):
        raise LLMValidationError(
            f"item {graded.item_id!r:.60} is scored by {graded.metadata['metric']}; here answers are right or wrong",
            code="validation.items",
            next_step="leave such items out: [item for item in items if 'metric' not in item.metadata]",
        )
    free = asyncio.Semaphore(len(items) if concurrency is None else concurrency)

    async def one(number: int, item: Item, run_id: str) -> None:
        await world.sleep(number * every_s)
        async with free:
            await _question(world, setup, item, run_id)

    spec = {
        **(about or {}), "setup": setup.name, "concurrency": concurrency, "every_s": every_s, "quorum": setup.quorum,
        "grace_s": setup.grace_s, "timeout_s": setup.timeout_s,
    }  # fmt: skip
    async with _logged(world, setup, items, source=source, spec=spec) as run_id:
        await _all_or_none([asyncio.create_task(one(i, item, run_id)) for i, item in enumerate(items)])
    return run_id


async def measure_all(
    world: World,
    setups: Sequence[Setup],
    items: Sequence[Item],
    *,
    concurrency: int = 8,
    before: Callable[[], object] = lambda: None,
) -> list[str]:
    """Ask one setup after the other every question, as `measure` does; the ids of their runs.

    before: called ahead of each setup, such as a fault lab's `reset`, so that all have the same weather.
    """
    run_ids = []
    for setup in setups:
        before()
        run_ids.append(await measure(world, setup, items, concurrency=concurrency))
    return run_ids


async def _all_or_none(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Return when all tasks have ended; when one raises, the others are cancelled and its error is raised."""
    try:
        await asyncio.gather(*tasks)
    finally:
        await ended(*tasks)


@asynccontextmanager
async def _logged(
    world: World, setup: Setup, items: Sequence[Item], *, source: str, spec: Mapping[str, Any]
) -> AsyncIterator[str]:
    """A run of the log around the body, which is given its id; raises LLMValidationError data.empty without items."""
    if len({item.item_id for item in items}) < max(len(items), 1):
        raise LLMValidationError(
            f"{setup.name} was given {len(items)} questions, of which some have the same item_id or there is none",
            code="data.empty" if not items else "data.duplicate",
            next_step="give at least one question, and each once",
        )
    stamp = strftime("%Y%m%dT%H%M%S", gmtime(world.unix_ns() / 1e9))
    run_id = f"latency-{stamp}-{world.new_id(3)}"
    started = RunStarted(
        run_id=run_id,
        name=setup.name,
        source=source,
        models=tuple(m.name for m in setup.members),
        spec={
            **spec,
            "chains": [[m.name for m in _chained(member)] for member in setup.members],
            "start_s": world.now_s(),  # decisions know the monotonic clock only
            "clock": clock_of(world),
            "server": server_of(setup.members),
        },
        start_unix_ns=world.unix_ns(),
    )
    world.sink.write(started, *(ItemAsked(run_id=run_id, position=i, item=item) for i, item in enumerate(items)))
    with ending_told(world, run_id, items=len(items)):
        yield run_id


def _chained(member: Model) -> tuple[Model, ...]:
    return member.models if isinstance(member, Chain) else (member,)


def clock_of(world: World) -> str:
    """`real` for the machine's clock, `virtual` for any other."""
    return "real" if world.now_s == World.real(world.sink).now_s else "virtual"


def server_of(members: Sequence[Model]) -> str:
    """`simulated` where every model that is asked over a network is, by its card; `partly simulated` where some are.

    Empty where none is, as far as the cards say, and where nothing is asked over a network.
    """
    asked = [m for member in members for m in _chained(member) if not m.name.startswith("simulated:")]
    found = [getattr(getattr(m, "card", None), "source", "").startswith("simulated") for m in asked]
    return "simulated" if found and all(found) else "partly simulated" if any(found) else ""


async def _question(world: World, setup: Setup, item: Item, run_id: str) -> None:
    """Ask one question; its answer's score, or its failure, is in the log."""
    tied: tuple[str, ...] = ()
    about = {"item_id": item.item_id, "setup": setup.name}
    with span(world, "study", OPERATION, about, run_id=run_id) as here:
        try:
            tied = await _answers(world, setup, item, run_id)
        except LLMError as error:
            here.failure = failure_of(error)
    value = 1.0 / len(tied) if gold_of(item) in tied else 0.0
    world.sink.write(
        Score(item_id=item.item_id, model=setup.name, scorer=EXACT_ANSWER, value=value, run_id=run_id)
    )  # fmt: skip


async def _answers(world: World, setup: Setup, item: Item, run_id: str) -> tuple[str, ...]:
    """The winning answers of the setup, more than one for a tie; raises LLMError where there is no response."""
    request = Request.of(item.prompt, task=item.task, item_id=item.item_id)
    asked = [Asked(name=m.name, model=m, request=request) for m in setup.members]
    replies = await fan_out(
        world, asked, timeout_s=setup.timeout_s, quorum=setup.quorum, grace_s=setup.grace_s
    )  # fmt: skip
    parts = [_rated(reply.contribution(partial(answer_of, item)), setup.quality) for reply in replies]
    if setup.merge is None:
        if replies[0].error is not None:
            raise replies[0].error
        return () if parts[0].answer is None else (parts[0].answer,)
    world.sink.write(*(Contribution(run_id=run_id, item_id=item.item_id, part=part) for part in parts))
    about: dict[str, Any] = {"request_key": request.key, "item_id": item.item_id}
    if setup.quorum > 1:
        decide(world, Quorum(setup.quorum), kind="quorum", contributions=parts, **about)
    return decide(world, setup.merge, kind="merge", contributions=parts, **about).tied


def _rated(part: ModelContribution, quality: Mapping[str, float]) -> ModelContribution:
    known = quality.get(part.model)
    return part if known is None else replace(part, quality=known, quality_source="other items")
