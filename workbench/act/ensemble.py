"""Many models asked at once, each reply a value: one deadline, a quorum, and nobody left running.

    members --> a task each --> replies in the members' order, in time or late

- A member that has not ended when the time is up is late. What it still answers is logged, and does not count.
- A member that fails, however it does, is its own failure; the others keep their results.
- When `fan_out` returns, raises or is cancelled, every member has ended or was cancelled. One that refuses to end is
  left behind after PATIENCE_S: its row is written then, and nobody waits for it, the end of the loop neither.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from workbench import errors
from workbench.act.aggregate import ErrorAggregator, error_aggregator
from workbench.act.call import ENDINGS, ask, is_disciplined, unexpected
from workbench.act.call import checked as checked_answer
from workbench.act.failover import Chain, is_live
from workbench.act.recorded import RecordedModel
from workbench.act.simulated import SimulatedModel
from workbench.act.trace import failure_of
from workbench.act.wake import awake
from workbench.act.world import World
from workbench.decide.classify import error_of
from workbench.decide.quorum import check_quorum
from workbench.decide.retry import checked
from workbench.errors import LLMError
from workbench.facts import Disciplined, Failure, Model, ModelContribution, Request, Response

COMPONENT = "ensemble"
INSTANT = (RecordedModel, SimulatedModel)  # they wait for nothing, and a guard would double what their call costs
END_S = 1.0  # until everybody has ended or was left behind, from the cancellation on
PATIENCE_S = 0.9  # the same for a model of somebody's own: its row is written before END_S
CLOCK_S = 1e-6  # what the sums of a clock may lose
LIMIT_S = 0.01  # how much sooner than ours the limit of a chain may fire


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A member and what it is asked; name: unique, as the log and the merge know it.

    key: sent as the idempotency key of every attempt, by models that send one; None for a new one.
    """

    name: str
    model: Model
    request: Request
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a member brought.

    late: it had not ended when the time was up; its answer, where one came all the same, does not count.
    error: a failure as it is counted, to be the cause of what is raised; None for an answer.
    """

    name: str
    outcome: Response | Failure
    late: bool = False
    error: LLMError | None = field(default=None, repr=False, compare=False)

    def contribution(self, read: Callable[[str], str | None]) -> ModelContribution:
        """Its part in a merge; read: the normalised answer in a text, or None."""
        if isinstance(self.outcome, Failure):
            return ModelContribution(model=self.name, failure=self.outcome, status="late" if self.late else "failed")
        return ModelContribution(
            model=self.name,
            response=self.outcome,
            answer=read(self.outcome.text),
            status="late" if self.late else "kept",
        )


def check_limits(*, members: int, timeout_s: float | None, quorum: int, grace_s: float | None) -> None:
    """Refuse, before anything is asked, limits that a fan-out to so many members cannot keep.

    Raises LLMValidationError validation.config, validation.quorum.
    """
    if timeout_s is not None:
        checked("timeout_s", timeout_s, positive=True)
    if grace_s is not None:
        checked("grace_s", grace_s)
    check_quorum(quorum, members)


async def fan_out(
    world: World,
    members: Sequence[Asked],
    *,
    timeout_s: float | None = 30.0,
    quorum: int = 1,
    grace_s: float | None = None,
    aggregator: ErrorAggregator = error_aggregator,
) -> tuple[Reply, ...]:
    """One reply a member, in the members' order.

    timeout_s: when they must have answered, > 0; a Chain gets it as its own limit. None: the members' own limits.
    grace_s: how long to wait for the rest once `quorum` members have answered, >= 0; None: until they have ended.
    aggregator: counts every failure and every answer in time under `ensemble`.
    Raises LLMValidationError validation.config, validation.quorum before anything is asked; what is no model's
    failure, such as the log's, when all have ended. Failures are values: fewer answers than the quorum too.
    """
    check_limits(members=len(members), timeout_s=timeout_s, quorum=quorum, grace_s=grace_s)
    start_s = world.now_s()
    tasks = [asyncio.create_task(_one(world, member, timeout_s)) for member in members]
    try:
        with awake():
            await _in_time(world, tasks, start_s, timeout_s, quorum, grace_s)
        ended = [task.done() for task in tasks]
    finally:
        await _stopped(tasks, END_S)
    replies = [
        _reply(member, task, start_s + (timeout_s or math.inf), late=not done)
        for member, task, done in zip(members, tasks, ended, strict=True)
    ]
    for reply in replies:
        if reply.error is not None and reply.error.code != "cancelled":
            aggregator.add_error(reply.error, COMPONENT, reply.name)
        elif reply.error is None and not reply.late:
            aggregator.add_success(COMPONENT, reply.name)
    return tuple(replies)


async def _in_time(
    world: World,
    tasks: Sequence[asyncio.Task[tuple[Response | Failure, float]]],
    start_s: float,
    timeout_s: float | None,
    quorum: int,
    grace_s: float | None,
) -> None:
    """Return when all have ended, or when nobody is waited for any more."""
    # Members keep the deadline themselves, and write what becomes of them: this is for one that does not.
    ends_s = math.inf if timeout_s is None else start_s + timeout_s + END_S
    waiting, counting = set(tasks), grace_s is not None
    while waiting and (left_s := ends_s - world.now_s()) > 0:
        _, waiting = await asyncio.wait(
            waiting,
            timeout=left_s if left_s < math.inf else None,
            return_when=asyncio.FIRST_COMPLETED if counting else asyncio.ALL_COMPLETED,
        )
        if counting and grace_s is not None and sum(map(_answered, tasks)) >= quorum:
            counting, ends_s = False, min(ends_s, world.now_s() + grace_s)


def _answered(task: asyncio.Task[tuple[Response | Failure, float]]) -> bool:
    if not task.done() or task.cancelled() or task.exception() is not None:
        return False
    return isinstance(task.result()[0], Response)


def _reply(member: Asked, task: asyncio.Task[tuple[Response | Failure, float]], ends_s: float, *, late: bool) -> Reply:
    """What a member's task brought; late: it was not waited for, or ended when the time was up."""
    if task.done() and not task.cancelled():
        outcome, at_s = task.result()
        late = late or at_s >= ends_s - (LIMIT_S if isinstance(outcome, Failure) else CLOCK_S)
    else:
        what = "was cancelled: it was not waited for any longer, see timeout_s and grace_s"
        if not task.done():
            what = "did not end when it was cancelled, and was left behind; it has a row once it ends"
        outcome = Failure(
            kind="CancelledError", code="cancelled", message=f"{member.name} {what}", possibly_billed=True
        )
    error = error_from(outcome, member.name) if isinstance(outcome, Failure) else None
    return Reply(name=member.name, outcome=outcome, late=late, error=error)


async def _one(world: World, member: Asked, timeout_s: float | None) -> tuple[Response | Failure, float]:
    """What one member brought, and when it did."""
    model, request = member.model, member.request
    if isinstance(model, Chain):
        outcome = await _guarded(model).ask(request, member=member.name, timeout_s=timeout_s, key=member.key)
    elif is_disciplined(model):
        outcome = await _disciplined(model, member, timeout_s)
    else:
        guarded = model if isinstance(model, INSTANT) else Guarded(model, limit_s=timeout_s)
        outcome = await ask(world, guarded, request, member=member.name)
    return outcome, world.now_s()


async def _disciplined(model: Disciplined, member: Asked, timeout_s: float | None) -> Response | Failure:
    """What somebody's own disciplined model answers; it may neither know a limit nor keep its word on errors."""
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            outcome = await model.ask(member.request, member=member.name)
            return outcome if isinstance(outcome, Failure) else checked_answer(model, member.request, outcome)
    except (asyncio.CancelledError, *ENDINGS):
        raise
    except BaseException as error:
        if limit.expired():
            return failure_of(_too_late(model, timeout_s))
        return failure_of(error if isinstance(error, LLMError) else unexpected(model, error))


def _guarded(chain: Chain) -> Chain:
    """The chain with a guard around the models that are not ours; ours end when they are cancelled."""
    if all(is_live(model) for model in chain.models):
        return chain
    return replace(chain, models=tuple(m if is_live(m) else Guarded(m, chained=True) for m in chain.models))


@dataclass(frozen=True, slots=True)
class Guarded:
    """A model in whose stead somebody waits, so that one which swallows its cancellation holds nobody up.

    limit_s: within which it must answer. chained: its chain tells a cancellation, in rows of its own.
    """

    model: Model
    limit_s: float | None = None
    chained: bool = False

    @property
    def name(self) -> str:
        """The model's own."""
        return self.model.name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)  # its card, which has the price

    async def complete(self, request: Request) -> Response:
        """The model's answer, also one that still comes while it is cancelled.

        Raises what the model raises; LLMTimeoutError timeout.deadline; LLMError cancelled for one left behind.
        """
        running: asyncio.Future[Response] = asyncio.ensure_future(self.model.complete(request))
        try:
            await asyncio.wait({running}, timeout=self.limit_s)
        except asyncio.CancelledError as error:
            await _stopped([running], PATIENCE_S)
            if not running.done() and not self.chained:
                raise self._left_behind() from error
            if not _has_result(running):
                raise
        if not running.done():
            await _stopped([running], PATIENCE_S)
            if not _has_result(running):
                raise _too_late(self.model, self.limit_s, left_behind=not running.done())
        return running.result()

    def _left_behind(self) -> LLMError:
        return LLMError(
            f"{self.name} did not end within {PATIENCE_S} s of its cancellation, and was left behind",
            code="cancelled",
            model=self.name,
            possibly_billed=True,
            next_step="let CancelledError pass through complete(): it may still be running, and billed",
        )


def _has_result(running: asyncio.Future[Any]) -> bool:
    return running.done() and not running.cancelled() and running.exception() is None


def _too_late(model: Model, limit_s: float | None, *, left_behind: bool = False) -> LLMError:
    what = ", did not end when it was cancelled, and was left behind" if left_behind else ""
    message = f"{model.name} had not answered in {limit_s or 0.0:.1f} s{what}"
    return error_of("timeout.deadline", message, model=model.name)


def error_from(failure: Failure, model: str) -> LLMError:
    """A failure as the error that it was, without what caused it."""
    kind = getattr(errors, failure.kind, None)
    made = kind if isinstance(kind, type) and issubclass(kind, LLMError) else LLMError
    error = made(
        failure.message,
        code=failure.code,
        retryable=failure.retryable,
        model=model,
        possibly_billed=failure.possibly_billed,
        partial=failure.partial,
        usage=failure.usage,
        cost_usd=failure.cost_usd,
    )
    for name in ("retry_after_s", "status", "request_id"):  # what only some kinds have
        if hasattr(error, name):
            setattr(error, name, getattr(failure, name))
    return error


# -- the end of tasks

_left: set[asyncio.Future[Any]] = set()  # a loop holds its tasks weakly, and one that vanishes is complained about


async def _stopped(tasks: Collection[asyncio.Future[Any]], within_s: float) -> None:
    """Cancel tasks and wait for their end, so long at most, however often we are cancelled meanwhile."""
    for task in tasks:
        task.cancel()
    loop, interrupted = asyncio.get_running_loop(), False
    ends_s = loop.time() + within_s
    while (waiting := {t for t in tasks if not t.done()}) and (left_s := ends_s - loop.time()) > 0:
        try:
            await asyncio.wait(waiting, timeout=left_s)
        except asyncio.CancelledError:
            interrupted = True
    for task in waiting:
        _leave(task)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # told elsewhere
    if interrupted:
        raise asyncio.CancelledError


def _leave(task: asyncio.Future[Any]) -> None:
    """Wait no more for a task: the end of its loop, which waits for all that it knows, neither."""
    for gone in [other for other in _left if other.get_loop().is_closed()]:
        _left.discard(gone)
    if isinstance(task, asyncio.Task):
        asyncio.tasks._unregister_task(task)
    _left.add(task)
    task.add_done_callback(_forget)


def _forget(task: asyncio.Future[Any]) -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()
