"""Running a suite: ask every member every item, read the answers, score them, merge them, log it all.

The phases are separate because a contribution's quality is estimated from *other* items: all answers are in
before the first merge decides. A run that was interrupted goes through them again, and asks only what the log has no
answer to (study/resume.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from workbench.act.ensemble import Asked, Reply, fan_out
from workbench.act.journal import decide, encode
from workbench.act.trace import failure_of, span
from workbench.act.usage import ProcessUsage, usage_now
from workbench.act.world import World
from workbench.decide.merge import params_of
from workbench.decide.policies import POLICIES, check_ready
from workbench.decide.quality import ON_OTHER_ITEMS, RANK_ON_OTHER_ITEMS, on_other_items, ranks
from workbench.errors import LLMError, LLMOrchestratorError, LLMValidationError
from workbench.facts import (
    Contribution,
    EnsembleResponse,
    Failure,
    Item,
    ItemAsked,
    Merge,
    Model,
    ModelContribution,
    Response,
    RunEnded,
    RunStarted,
    Score,
)
from workbench.study.resume import Prior, call_key, suite_digest
from workbench.study.suite import SOURCE, Suite, answer_of, expected, judge_of, top_of

Floats = NDArray[np.float64]
EndStatus = Literal["finished", "failed", "cancelled", "crashed", "timeout"]
# Codes of what ends a run from outside, and the status that they leave.
_ENDS: Mapping[str, EndStatus] = MappingProxyType({"run.crashed": "crashed", "timeout.run": "timeout"})
NO_MONEY = "budget.exceeded"
# The model was not asked there, which is no wrong answer: nothing was recorded, there was no money, its circuit was
# open, or its key, account or name was refused.
NOT_ASKED = (
    "replay.unrecorded", "replay.no_text", NO_MONEY, "budget.unknown_price", "failover.all_open",
    "rate_limit.local", "rate_limit.quota", "provider.auth", "provider.payment", "provider.not_found",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A model in a run.

    name: unique in the run, as tables show it. style: the prompt style it is asked in, where a recording has one.
    recorded_as: the model's name in the recording, where it comes from one.
    """

    name: str
    model: Model
    style: str | None = None
    recorded_as: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a run needs; `spec` is what the log keeps to repeat it."""

    run_id: str
    suite: Suite
    members: tuple[Member, ...]
    merge: Merge | None
    source: str
    spec: Mapping[str, Any]
    concurrency: int = 16


def check_plan(plan: Plan) -> None:
    """Refuse a plan that cannot work, before anything is paid.

    Raises LLMValidationError: validation.models, validation.weights, validation.unfitted, validation.no_text,
    data.empty.
    """
    if not plan.members:
        raise LLMValidationError(
            f"no models to run on {plan.suite.name}", code="validation.models", next_step="name at least one model"
        )
    taken = {*POLICIES, *([plan.merge.name] if plan.merge is not None else [])}
    if clash := sorted(taken & {m.name for m in plan.members}):
        raise LLMValidationError(
            f"model {clash[0]!r} has the name of a merge, and their scores would mix",
            code="validation.models",
            next_step="give the model another name",
        )
    if not plan.suite.items:
        raise LLMValidationError(f"{plan.suite.name} has no items", code="data.empty", next_step="use another suite")
    if plan.merge is not None and plan.suite.scores_only:
        raise LLMValidationError(
            f"{plan.suite.name} keeps scores but no text, so there is nothing to merge",
            code="validation.no_text",
            next_step="run it without a merge: single models are compared by their recorded scores",
        )
    if plan.merge is not None:
        check_ready(plan.merge, [m.name for m in plan.members])


async def execute(world: World, plan: Plan, *, prior: Prior | None = None) -> None:
    """Run the plan; when it returns, everything is in the log. Raises LLMError; cancellation passes on.

    prior: what the log has of this run already, when it goes on; the plan must be the one that it began with.
    Raises LLMError run.failed when nothing could be asked (NOT_ASKED has the codes), or when the money ended on the
    way: nothing is scored then, and the run can go on.
    """
    check_plan(plan)
    about: dict[str, Any] = {"name": plan.suite.name}
    if prior is None:
        world.sink.write(
            RunStarted(
                run_id=plan.run_id,
                name=plan.suite.name,
                source=plan.source,
                models=tuple(m.name for m in plan.members),
                spec=plan.spec,
                start_unix_ns=world.unix_ns(),
            )
        )
    else:
        about |= {"resumed": prior.status, "kept": prior.kept}
    whole = span(world, "study", "run", about, run_id=plan.run_id)
    with ending_told(world, plan.run_id, items=len(plan.suite.items)), whole:
        await _phases(world, plan, prior)


@contextmanager
def ending_told(world: World, run_id: str, *, items: int) -> Iterator[None]:
    """Write how a run has ended, whatever becomes of the body; what it raises passes on.

    The time and memory of the process go with it; those of a virtual world have no use for anybody, and would differ
    from run to run.
    """
    status: EndStatus = "failed"
    failure: Failure | None = None
    begun = usage_now() if world.now_s is time.perf_counter else None
    try:
        yield
        status = "finished"
    except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):  # or dropped, with the loop that it ran on
        status = "cancelled"
        raise
    except BaseException as error:
        failure = failure_of(error)
        status = _ENDS.get(failure.code, "failed")
        raise
    finally:
        used = usage_now().since(begun) if begun else ProcessUsage(cpu_s=None, peak_rss_bytes=None)
        world.sink.write(
            RunEnded(
                run_id=run_id,
                status=status,
                end_unix_ns=world.unix_ns(),
                items=items,
                failure=failure,
                cpu_s=used.cpu_s,
                peak_rss_bytes=used.peak_rss_bytes,
            )
        )


async def _phases(world: World, plan: Plan, prior: Prior | None) -> None:
    suite = plan.suite
    if prior is None or prior.listed < len(suite.items):
        listed = (ItemAsked(run_id=plan.run_id, position=i, item=item) for i, item in enumerate(suite.items))
        world.sink.write(*listed)
    table: list[list[ModelContribution]] = []
    if not suite.scores_only:
        with span(world, "study", "ask"):
            replies = await _ask_all(world, plan, prior)
        with span(world, "study", "read_answers"):
            rows = _whole(plan, replies, prior)
            if prior is None or not prior.scored:
                _check_asked(plan.run_id, rows)
            table = [
                [reply.contribution(partial(answer_of, item)) for reply in row]
                for item, row in zip(suite.items, rows, strict=True)
            ]
    with span(world, "study", "score"):
        scores = _score(world, plan, table)
    if not table:
        return
    with span(world, "study", "merge"):
        merged = prior.merged() if prior is not None else set()
        for parts in _batches(_merged(world, plan, _rated(table, scores / top_of(suite.metric)), merged), 500):
            world.sink.write(*parts)


async def _ask_all(world: World, plan: Plan, prior: Prior | None) -> dict[tuple[str, str], Reply]:
    """Replies by item and member, under the members' own limits. A fixed number of workers take items in order."""
    replies: dict[tuple[str, str], Reply] = {}
    items: Sequence[Item] = plan.suite.items
    left = None if prior is None or prior.listed < len(items) else prior.left
    if left is not None:
        ids = {item_id for item_id, _ in left}
        items = [item for item in items if item.item_id in ids]
    todo = iter(items)

    async def work() -> None:
        for item in todo:
            with span(world, "study", "item", {"item_id": item.item_id}):
                members = [m for m in plan.members if left is None or (item.item_id, m.name) in left]
                for reply in await fan_out(world, [_asked(plan, item, m) for m in members], timeout_s=None):
                    replies[item.item_id, reply.name] = reply

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(plan.concurrency, len(items))):
                group.create_task(work())
    except ExceptionGroup as errors:  # one is enough to say why the run ended
        raise errors.exceptions[0] from errors
    return replies


def _asked(plan: Plan, item: Item, member: Member) -> Asked:
    request = plan.suite.request(item, member.style)
    key = call_key(plan.run_id, member.name, request)
    return Asked(name=member.name, model=member.model, request=request, key=key)


def _whole(plan: Plan, replies: Mapping[tuple[str, str], Reply], prior: Prior | None) -> list[list[Reply]]:
    """Replies by item and member, in the plan's order: those just made, else those of the log."""
    known: Mapping[tuple[str, str], Response | Failure] = {} if prior is None else prior.outcomes()

    def reply(item: Item, member: Member) -> Reply:
        key = item.item_id, member.name
        return replies[key] if key in replies else Reply(name=member.name, outcome=known[key])

    return [[reply(item, member) for member in plan.members] for item in plan.suite.items]


def _check_asked(run_id: str, rows: Sequence[Sequence[Reply]]) -> None:
    """Raise what stood in the way when no question could be asked, or no more of them for want of money.

    A run that finished without what it had no money for could not go on when there is some.
    """
    outcomes = [reply.outcome for row in rows for reply in row]
    failures = [o for o in outcomes if isinstance(o, Failure) and o.code in NOT_ASKED]
    if len(failures) == len(outcomes):
        codes = ", ".join(sorted({f.code for f in failures}))
        raise LLMError(
            f"nothing could be asked ({codes}); the first of {len(failures)} refusals: {failures[0].message}",
            code="run.failed",
            next_step="mend what the message names (key, budget, model), then `workbench resume` the run",
        )
    if broke := [f for f in failures if f.code == NO_MONEY]:
        raise LLMError(
            f"{len(broke)} of {len(outcomes)} questions could not be asked: {NO_MONEY}; the first: {broke[0].message}",
            code="run.failed",
            next_step=f"raise the budget that the message names, then `workbench resume {run_id}`"[:160],
        )


def _score(world: World, plan: Plan, table: Sequence[Sequence[ModelContribution]]) -> Floats:
    """Scores of all members, items x members, NaN where unknown; each is logged with its scorer."""
    suite = plan.suite
    own = np.full((len(suite.items), len(plan.members)), np.nan)
    for i, item in enumerate(suite.items):
        judge = judge_of(suite, item) if table else None
        facts = []
        for j, member in enumerate(plan.members):
            theirs = suite.scores.get((item.item_id, member.recorded_as or "", member.style or ""))
            if theirs is not None:
                facts.append(_fact(plan, item, member.name, SOURCE, theirs))
                own[i, j] = theirs
            if table and (failure := table[i][j].failure) and failure.code in NOT_ASKED:
                own[i, j] = np.nan  # neither right nor wrong, and left out of every comparison
            elif judge is not None:
                response = table[i][j].response
                own[i, j] = judge(table[i][j].answer, response.text if response else "")
                facts.append(_fact(plan, item, member.name, suite.scorer, own[i, j]))
        world.sink.write(*facts)
    return own


def _fact(plan: Plan, item: Item, model: str, scorer: str, value: float) -> Score:
    return Score(run_id=plan.run_id, item_id=item.item_id, model=model, scorer=scorer, value=float(value))


def _rated(table: Sequence[Sequence[ModelContribution]], scores: Floats) -> list[list[ModelContribution]]:
    """Contributions with the quality that their model showed on the other items."""
    quality, ranked = estimated_quality(scores)
    names = [RANK_ON_OTHER_ITEMS if r else ON_OTHER_ITEMS for r in ranked]
    return [
        [
            c if np.isnan(q) or c.failure else replace(c, quality=float(q), quality_source=name)
            for c, q in zip(row, qualities, strict=True)
        ]
        for row, qualities, name in zip(table, quality, names, strict=True)
    ]


def estimated_quality(scores: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Quality of each model for each item from the other items' scores, and for which items it is a rank.

    Scores within [0, 1] are averaged; others have no natural unit interval and are replaced by ranks first. Which
    of the two it is for an item depends on the other items alone, as everything here does.
    """
    outside = ((scores < 0) | (scores > 1)).any(axis=1)
    ranked = outside.sum() - outside > 0
    by_mean = on_other_items(np.clip(scores, 0.0, 1.0))
    if not ranked.any():
        return by_mean, ranked
    return np.where(ranked[:, None], on_other_items(ranks(scores)), by_mean), ranked


def _merged(
    world: World, plan: Plan, table: Sequence[Sequence[ModelContribution]], decided: Collection[str]
) -> Iterator[Any]:
    """Facts about every item's contributions and their merge; decided: the items whose decision is in the log."""
    for item, parts in zip(plan.suite.items, table, strict=True):
        merged = parts
        if plan.merge is not None:
            merged = _decided(world, plan, plan.merge, item, parts, logged=item.item_id in decided)
        for part in merged:
            yield Contribution(run_id=plan.run_id, item_id=item.item_id, part=part)


def _decided(
    world: World, plan: Plan, merge: Merge, item: Item, parts: Sequence[ModelContribution], *, logged: bool
) -> Sequence[ModelContribution]:
    about: dict[str, Any] = {"kind": "merge", "run_id": plan.run_id, "item_id": item.item_id, "contributions": parts}
    judge = judge_of(plan.suite, item)
    try:
        # Of the same contributions a merge makes the same again, and one decision of each item is enough.
        merged: EnsembleResponse = merge(parts) if logged else decide(world, merge, **about)
    except LLMOrchestratorError as error:  # nothing was left: logged with the decision, scored as no answer
        parts, value = error.contributions or parts, 0.0
    else:
        parts = merged.contributions
        value = np.nan if judge is None else expected(judge, merged)
    if judge is not None:
        world.sink.write(_fact(plan, item, merge.name, plan.suite.scorer, value))
    return parts


def _batches(facts: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for fact in facts:
        batch.append(fact)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def spec_of(suite: Suite, merge: Merge | None, **more: Any) -> dict[str, Any]:
    """What the log keeps of a plan."""
    return {
        "suite": suite.name,
        "kind": suite.kind,
        "score_kind": suite.score_kind,
        "extracted": suite.extracted,
        "metric": suite.metric,
        "scores_only": suite.scores_only,
        "suite_sha256": suite_digest(suite),
        "merge": None if merge is None else {"policy": merge.name, "params": params_of(merge)},
        **more,
    }


def member_spec(member: Member) -> dict[str, Any]:
    """What the log keeps of a member: name, model (with its chain or profile), style, recorded_as."""
    chain = [str(m.name) for m in getattr(member.model, "models", ())]
    profile = getattr(member.model, "profile", None)
    return {
        "name": member.name,
        "model": " > ".join(chain) or member.model.name,
        "style": member.style,
        "recorded_as": member.recorded_as,
        "profile": None if profile is None else {k: v for k, v in encode(profile).items() if k != "gains" or v},
    }


__all__ = [
    "LLMError", "Member", "Plan", "check_plan", "ending_told", "estimated_quality", "execute", "member_spec", "spec_of",
]  # fmt: skip
