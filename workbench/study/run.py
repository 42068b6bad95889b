"""Running a suite: ask every member every item, read the answers, score them, merge them, log it all.

The phases are separate because a contribution's quality is estimated from *other* items: all answers are in
before the first merge decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.act.call import ask
from workbench.act.journal import decide
from workbench.act.trace import failure_of, span
from workbench.act.world import World
from workbench.decide.merge import POLICIES, WeightedConsensus, params_of
from workbench.decide.quality import ON_OTHER_ITEMS, RANK_ON_OTHER_ITEMS, on_other_items, ranks
from workbench.decide.weights import check_members
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
from workbench.study.suite import EXACT_ANSWER, SOURCE, Suite, answer_of, gold_of

Floats = NDArray[np.float64]
# A recording that has no row or no text for an item: its model was not asked there, which is no wrong answer.
NOT_RECORDED = ("replay.unrecorded", "replay.no_text")


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

    Raises LLMValidationError: validation.models, validation.weights, validation.no_text, data.empty.
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
    if isinstance(plan.merge, WeightedConsensus) and plan.merge.weights is not None:
        check_members(plan.merge.weights, [m.name for m in plan.members])


async def execute(world: World, plan: Plan) -> None:
    """Run the plan; when it returns, everything is in the log. Raises LLMError; cancellation passes on."""
    check_plan(plan)
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
    status, failure = "failed", None
    try:
        with span(world, "study", "run", {"name": plan.suite.name}, run_id=plan.run_id):
            await _phases(world, plan)
        status = "finished"
    except asyncio.CancelledError:
        status = "cancelled"
        raise
    except BaseException as error:
        failure = failure_of(error)
        raise
    finally:
        world.sink.write(
            RunEnded(
                run_id=plan.run_id,
                status="finished" if status == "finished" else "cancelled" if status == "cancelled" else "failed",
                end_unix_ns=world.unix_ns(),
                items=len(plan.suite.items),
                failure=failure,
            )
        )


async def _phases(world: World, plan: Plan) -> None:
    suite = plan.suite
    world.sink.write(*(ItemAsked(run_id=plan.run_id, position=i, item=item) for i, item in enumerate(suite.items)))
    table: list[list[ModelContribution]] = []
    if not suite.scores_only:
        with span(world, "study", "ask"):
            replies = await _ask_all(world, plan)
        with span(world, "study", "read_answers"):
            table = [
                [_contribution(m, item, reply) for m, reply in zip(plan.members, row, strict=True)]
                for item, row in zip(suite.items, replies, strict=True)
            ]
    with span(world, "study", "score"):
        scores = _score(world, plan, table)
    if not table:
        return
    with span(world, "study", "merge"):
        for parts in _batches(_merged(world, plan, _rated(table, scores)), 500):
            world.sink.write(*parts)


async def _ask_all(world: World, plan: Plan) -> list[list[Response | Failure]]:
    """Replies by item and member. A fixed number of workers take items in order."""
    replies: list[list[Response | Failure]] = [[] for _ in plan.suite.items]
    todo = iter(enumerate(plan.suite.items))

    async def work() -> None:
        for index, item in todo:
            with span(world, "study", "item", {"item_id": item.item_id}):
                asked = [ask(world, m.model, plan.suite.request(item, m.style), member=m.name) for m in plan.members]
                replies[index] = list(await asyncio.gather(*asked))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(plan.concurrency, len(plan.suite.items))):
                group.create_task(work())
    except ExceptionGroup as errors:  # one is enough to say why the run ended
        raise errors.exceptions[0] from errors
    return replies


def _contribution(member: Member, item: Item, reply: Response | Failure) -> ModelContribution:
    if isinstance(reply, Failure):
        return ModelContribution(model=member.name, failure=reply, status="failed")
    return ModelContribution(model=member.name, response=reply, answer=answer_of(item, reply.text))


def _score(world: World, plan: Plan, table: Sequence[Sequence[ModelContribution]]) -> Floats:
    """Scores of all members, items x members, NaN where unknown; each is logged with its scorer."""
    suite = plan.suite
    own = np.full((len(suite.items), len(plan.members)), np.nan)
    for i, item in enumerate(suite.items):
        gold = gold_of(item) if suite.extracted else None
        facts = []
        for j, member in enumerate(plan.members):
            theirs = suite.scores.get((item.item_id, member.recorded_as or "", member.style or ""))
            if theirs is not None:
                facts.append(_fact(plan, item, member.name, SOURCE, theirs))
                own[i, j] = theirs
            if table and (failure := table[i][j].failure) and failure.code in NOT_RECORDED:
                own[i, j] = np.nan  # not recorded: neither right nor wrong, and left out of every comparison
            elif suite.extracted and gold is not None:
                own[i, j] = float(table[i][j].answer == gold)
                facts.append(_fact(plan, item, member.name, EXACT_ANSWER, own[i, j]))
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


def _merged(world: World, plan: Plan, table: Sequence[Sequence[ModelContribution]]) -> Iterator[Any]:
    """Facts about every item's contributions and their merge."""
    for item, parts in zip(plan.suite.items, table, strict=True):
        merged = parts if plan.merge is None else _decided(world, plan, plan.merge, item, parts)
        for part in merged:
            yield Contribution(run_id=plan.run_id, item_id=item.item_id, part=part)


def _decided(
    world: World, plan: Plan, merge: Merge, item: Item, parts: Sequence[ModelContribution]
) -> Sequence[ModelContribution]:
    try:
        merged: EnsembleResponse = decide(
            world, merge, kind="merge", run_id=plan.run_id, item_id=item.item_id, contributions=parts
        )
    except LLMOrchestratorError as error:  # nothing was left: logged with the decision, scored as no answer
        parts, value = error.contributions or parts, 0.0
    else:
        parts = merged.contributions
        value = _expected(item, merged) if plan.suite.extracted else np.nan
    if plan.suite.extracted and gold_of(item) is not None:
        world.sink.write(_fact(plan, item, merge.name, EXACT_ANSWER, value))
    return parts


def _expected(item: Item, merged: EnsembleResponse) -> float:
    """Expected score of a merge: 1/len(tied) when the gold answer is among the tied, else 0."""
    return 1.0 / len(merged.tied) if gold_of(item) in merged.tied else 0.0


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
        "scores_only": suite.scores_only,
        "merge": None if merge is None else {"policy": merge.name, "params": params_of(merge)},
        **more,
    }


__all__ = ["LLMError", "Member", "Plan", "check_plan", "estimated_quality", "execute", "spec_of"]
