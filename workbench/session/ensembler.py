"""One question, several models, one merged answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from workbench.act.call import ask
from workbench.act.function import FunctionModel
from workbench.act.journal import decide
from workbench.act.simulated import PROFILES
from workbench.act.trace import span
from workbench.act.world import World
from workbench.decide.answers import ANSWER_KINDS, AnswerKind, extract, infer_kind, options_in
from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus, check_threshold
from workbench.decide.weights import check_members, check_weights
from workbench.errors import LLMValidationError
from workbench.facts import EnsembleResponse, Failure, ModelContribution, Request
from workbench.record.log import Log
from workbench.session.places import default_log
from workbench.session.resolve import Named, other_member
from workbench.study.run import Member

QUALITY_THRESHOLD = 0.7
STRATEGIES: Mapping[str, type[WeightedConsensus] | type[MajorityVoting] | type[BestOfN]] = {
    s.name: s for s in (WeightedConsensus, MajorityVoting, BestOfN)
}


class MultiModelEnsembler:
    """Asks several models at once and merges their answers; every call and merge is in the log.

    models: names, Profiles or Model objects. weights: model -> weight >= 0, for every model; None: equal.
    strategy: weighted_consensus, majority_voting or best_of_n. executors: name -> function(prompt) that answers in
    the place of the model of that name. log: folder; default WORKBENCH_LOG, or data/log, opened at the first call.
    Raises LLMValidationError validation.models, validation.weights, validation.strategy; LLMRouterError.
    """

    def __init__(
        self,
        models: Sequence[Named],
        weights: Mapping[str, float] | None = None,
        *,
        strategy: str = "weighted_consensus",
        executors: Mapping[str, Callable[[str], Any]] | None = None,
        log: str | os.PathLike[str] | None = None,
    ) -> None:
        if strategy not in STRATEGIES:
            raise LLMValidationError(
                f"merge strategy {strategy!r} is not one of {', '.join(STRATEGIES)}",
                code="validation.strategy",
                next_step="use one of the strategies listed",
            )
        functions = dict(executors or {})
        self.members = [self._member(named, functions) for named in models]
        for name in functions:
            if name not in models:
                raise LLMValidationError(
                    f"executor {name!r} names no model of the ensemble",
                    code="validation.models",
                    next_step=f"give functions under the models' names: {', '.join(map(str, models))}"[:160],
                )
        names = [m.name for m in self.members]
        if not names or len(set(names)) < len(names):
            raise LLMValidationError(
                f"an ensemble needs different models, at least one; found {', '.join(names) or 'none'}",
                code="validation.models",
                next_step="name every model once",
            )
        if weights is not None:
            check_weights(weights)
            check_members(weights, names)
        self.weights = weights
        self.strategy = strategy
        self._folder = log

    @staticmethod
    def _member(named: Named, functions: Mapping[str, Callable[[str], Any]]) -> Member:
        if isinstance(named, str) and named in functions:
            if not callable(functions[named]):
                raise LLMValidationError(
                    f"executor {named!r} is a {type(functions[named]).__name__}, not a function",
                    code="validation.models",
                    next_step="give a function that takes the prompt and returns a text",
                )
            return Member(name=named, model=FunctionModel(named, functions[named]))
        return other_member(named, {}, PROFILES)

    @cached_property
    def _log(self) -> Log:
        return Log.open(default_log() if self._folder is None else self._folder)

    @cached_property
    def _world(self) -> World:
        return World.real(self._log)

    def close(self) -> None:
        """Let go of the log, if a call has opened it."""
        if "_log" in self.__dict__:
            self._log.close()

    async def get_ensemble_response(
        self,
        query: str,
        quality_threshold: float | None = QUALITY_THRESHOLD,
        *,
        answer_kind: AnswerKind | None = None,
    ) -> EnsembleResponse:
        """The merged answer of all models to the query.

        quality_threshold: contributions with a known quality below it are left out; unknown quality passes and
            is counted in `.unrated`. answer_kind: number, choice, label or text; None: told from the query.
        Raises LLMOrchestratorError ensemble.all_failed or ensemble.all_filtered, with .errors and .partial.
        """
        check_threshold(quality_threshold)
        if not isinstance(query, str) or not query.strip():
            raise LLMValidationError("the query is empty", code="validation.query", next_step="ask something")
        if answer_kind is not None and answer_kind not in ANSWER_KINDS:
            raise LLMValidationError(
                f"answer_kind {answer_kind!r} is not one of {', '.join(ANSWER_KINDS)}",
                code="validation.answer_kind",
                next_step="use one of the kinds listed, or None to tell it from the query",
            )
        request = Request.of(query)
        kind = answer_kind or infer_kind(None, query)
        policy = (
            WeightedConsensus(self.weights or dict.fromkeys((m.name for m in self.members), 1.0), quality_threshold)
            if self.strategy == WeightedConsensus.name
            else STRATEGIES[self.strategy](threshold=quality_threshold)
        )
        world = self._world
        with span(world, "ensembler", "get_ensemble_response"):
            replies = await asyncio.gather(*(ask(world, m.model, request, member=m.name) for m in self.members))
            parts = [
                ModelContribution(model=m.name, failure=r, status="failed")
                if isinstance(r, Failure)
                else ModelContribution(
                    model=m.name, response=r, answer=extract(r.text, kind, options=options_in(query))
                )
                for m, r in zip(self.members, replies, strict=True)
            ]
            return decide(world, policy, kind="merge", request_key=request.key, contributions=parts)
