"""One question, several models, one merged answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import Any

from workbench.act.context import ErrorContext
from workbench.act.ensemble import Asked, check_limits, fan_out
from workbench.act.function import FunctionModel
from workbench.act.journal import decide
from workbench.act.simulated import PROFILES
from workbench.act.trace import span
from workbench.act.world import World
from workbench.decide.answers import ANSWER_KINDS, AnswerKind, extract, infer_kind, options_in
from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus, check_threshold
from workbench.decide.quorum import Quorum
from workbench.decide.weights import check_members, check_weights
from workbench.errors import LLMOrchestratorError, LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution, Request
from workbench.session.bridge import run_sync
from workbench.session.later import LaterLog
from workbench.session.live import Live
from workbench.session.resolve import Named, other_member
from workbench.session.settings import load_settings
from workbench.study.run import Member

QUALITY_THRESHOLD = 0.7
STRATEGIES: Mapping[str, type[WeightedConsensus] | type[MajorityVoting] | type[BestOfN]] = {
    s.name: s for s in (WeightedConsensus, MajorityVoting, BestOfN)
}


class MultiModelEnsembler:
    """Asks several models at once and merges their answers; every call and merge is in the log.

    models: names, Profiles or Model objects. weights: model -> weight >= 0, for every model; None: equal.
    strategy: weighted_consensus, majority_voting or best_of_n. executors: name -> function(prompt) that answers in
    the place of the model of that name. quorum: members that must answer, from 1 to all. grace_s: how long to wait
    for the rest once they have, >= 0; None: until timeout_s. log: folder; default WORKBENCH_LOG, or data/log, opened
    at the first call. transport, settings: for live models, as for `Workbench.open`; timeout_s, 30 by default, is the
    deadline of an ensemble too.
    Raises LLMValidationError validation.models, validation.weights, validation.strategy, validation.quorum,
    validation.config, validation.budget; LLMRouterError.
    """

    def __init__(
        self,
        models: Sequence[Named],
        weights: Mapping[str, float] | None = None,
        *,
        strategy: str = "weighted_consensus",
        executors: Mapping[str, Callable[[str], Any]] | None = None,
        quorum: int = 1,
        grace_s: float | None = None,
        log: str | os.PathLike[str] | None = None,
        transport: Any = None,
        **settings: Any,
    ) -> None:
        if strategy not in STRATEGIES:
            raise LLMValidationError(
                f"merge strategy {strategy!r} is not one of {', '.join(STRATEGIES)}",
                code="validation.strategy",
                next_step="use one of the strategies listed",
            )
        functions = dict(executors or {})
        loaded = load_settings(overrides=settings)
        self._log = LaterLog(log, durability=loaded.settings.durability)
        self._world = World.real(self._log)
        self._live = Live(self._world, loaded=loaded, transport=transport, ledger=self._log.ledger)
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
        self.timeout_s = loaded.settings.timeout_s
        check_limits(members=len(names), timeout_s=self.timeout_s, quorum=quorum, grace_s=grace_s)
        self.quorum = quorum
        self.grace_s = grace_s
        self.weights = weights
        self.strategy = strategy

    def _member(self, named: Named, functions: Mapping[str, Callable[[str], Any]]) -> Member:
        if isinstance(named, str) and named in functions:
            if not callable(functions[named]):
                raise LLMValidationError(
                    f"executor {named!r} is a {type(functions[named]).__name__}, not a function",
                    code="validation.models",
                    next_step="give a function that takes the prompt and returns a text",
                )
            return Member(name=named, model=FunctionModel(named, functions[named]))
        return other_member(named, {}, PROFILES, lambda: self._live)

    def close(self) -> None:
        """Let go of the log, if a call has opened it; connections are closed with their event loop, or by `aclose`."""
        self._log.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and let go of the log."""
        try:
            await self._live.aclose()
        finally:
            self._log.close()

    def __repr__(self) -> str:
        return f"MultiModelEnsembler({', '.join(m.name for m in self.members)}; {self.strategy})"

    async def get_ensemble_response(
        self,
        query: str,
        quality_threshold: float | None = QUALITY_THRESHOLD,
        *,
        answer_kind: AnswerKind | None = None,
        timeout_s: float | EllipsisType | None = ...,
        quorum: int | None = None,
        grace_s: float | EllipsisType | None = ...,
    ) -> EnsembleResponse:
        """The merged answer of the models that answered in time; who was late says so in `.contributions`.

        quality_threshold: contributions with a known quality below it are left out; unknown quality passes and
            is counted in `.unrated`. answer_kind: number, choice, label or text; None: told from the query.
        timeout_s, quorum, grace_s: for this question alone, in the place of the ensemble's; None is no limit: of
            timeout_s only the models' own remain.
        Raises LLMOrchestratorError ensemble.all_failed, ensemble.quorum or ensemble.all_filtered, with .errors and
        .contributions in the order of the models, and .partial.
        """
        limits: dict[str, Any] = {
            "timeout_s": self.timeout_s if timeout_s is ... else timeout_s,
            "quorum": self.quorum if quorum is None else quorum,
            "grace_s": self.grace_s if grace_s is ... else grace_s,
        }
        check_limits(members=len(self.members), **limits)
        _check_question(query, quality_threshold, answer_kind)
        await self._log.ready()  # what cannot be logged is refused before anything is asked
        request, kind = Request.of(query), answer_kind or infer_kind(None, query)
        options = options_in(query)
        with (
            ErrorContext("ensembler", "get_ensemble_response", world=self._world),
            span(self._world, "ensembler", "get_ensemble_response", dict(limits)),
        ):
            asked = [Asked(name=m.name, model=m.model, request=request) for m in self.members]
            replies = await fan_out(self._world, asked, **limits)
            parts = [reply.contribution(lambda text: extract(text, kind, options=options)) for reply in replies]
            try:
                return self._decided(request, parts, limits["quorum"], quality_threshold)
            except LLMOrchestratorError as error:
                place = {reply.name: i for i, reply in enumerate(replies)}
                error.contributions = tuple(sorted(error.contributions, key=lambda c: place[c.model]))
                error.errors = tuple(c.failure for c in error.contributions if c.failure)
                if error.code == "ensemble.all_filtered":
                    raise
                raise error from next((reply.error for reply in replies if reply.error), None)

    def get_ensemble_response_sync(
        self, query: str, quality_threshold: float | None = QUALITY_THRESHOLD, **options: Any
    ) -> EnsembleResponse:
        """`get_ensemble_response` from synchronous code; works inside a running event loop too."""
        return run_sync(self.get_ensemble_response(query, quality_threshold, **options))

    def _decided(
        self, request: Request, parts: Sequence[ModelContribution], quorum: int, threshold: float | None
    ) -> EnsembleResponse:
        """The merge of the contributions, once enough have answered; both are decisions of the log."""
        policy = (
            WeightedConsensus(self.weights or dict.fromkeys((m.name for m in self.members), 1.0), threshold)
            if self.strategy == WeightedConsensus.name
            else STRATEGIES[self.strategy](threshold=threshold)
        )
        if quorum > 1:
            decide(self._world, Quorum(quorum), kind="quorum", request_key=request.key, contributions=parts)
        return decide(self._world, policy, kind="merge", request_key=request.key, contributions=parts)


def _check_question(query: object, threshold: float | None, answer_kind: object) -> None:
    """Refuse what cannot be asked, or not be read."""
    check_threshold(threshold)
    if not isinstance(query, str) or not query.strip():
        raise LLMValidationError("the query is empty", code="validation.query", next_step="ask something")
    if answer_kind is not None and answer_kind not in ANSWER_KINDS:
        raise LLMValidationError(
            f"answer_kind {answer_kind!r} is not one of {', '.join(ANSWER_KINDS)}",
            code="validation.answer_kind",
            next_step="use one of the kinds listed, or None to tell it from the query",
        )
