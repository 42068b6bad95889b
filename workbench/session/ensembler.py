"""One question, several models, one merged answer."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any, ClassVar

from workbench.act.context import ErrorContext
from workbench.act.ensemble import Asked, Reply, check_limits, fan_out
from workbench.act.function import FunctionModel
from workbench.act.fusion import Aggregator, FuseBelow, Question
from workbench.act.journal import decide
from workbench.act.judge import MAX_PAIRS, PairwiseJudge, PairwiseRanking, check_pairs
from workbench.act.simulated import PROFILES
from workbench.act.trace import span
from workbench.act.world import World
from workbench.decide.adaptive import AdaptiveWeights, feedback_of
from workbench.decide.answers import ANSWER_KINDS, AnswerKind, infer_kind, options_in
from workbench.decide.merge import MajorityVoting, WeightedConsensus, check_threshold, prepare
from workbench.decide.policies import as_merge, check_ready
from workbench.decide.quorum import Quorum
from workbench.decide.votes import Policy
from workbench.decide.weights import check_members
from workbench.errors import LLMOrchestratorError, LLMValidationError
from workbench.facts import EnsembleResponse, Merge, Message, ModelContribution, Request
from workbench.session.bridge import run_sync
from workbench.session.later import LaterLog
from workbench.session.live import Live
from workbench.session.metrics import Asking, EnsembleCounts, EnsembleMetrics, Role
from workbench.session.resolve import Named, check_kinds, other_member
from workbench.session.settings import load_settings
from workbench.study.run import Member

QUALITY_THRESHOLD = 0.7
FUSE_BELOW = 0.5
MOST_SAMPLES = 1000  # draws of a model for one question
BY_CALLER = "caller"  # who estimated a quality


class MultiModelEnsembler:
    """Asks several models at once and merges their answers; every call and decision is in the log.

    models: names, Profiles or Model objects. weights: model -> weight >= 0, for every model; None: equal; or an
    AdaptiveWeights to go on with. They go with weighted_consensus only.
    strategy: the name of a registered strategy, pairwise_ranking, or a policy object, fitted where it learns.
    executors: name -> function(prompt) that answers in the place of the model of that name. quorum: members that must
    answer, from 1 to all. grace_s: how long to wait for the rest once they have, >= 0; None: until timeout_s.
    samples: draws of each model, as members NAME#1 to NAME#n; None: one, under its own name. params: of every member's
    request, such as temperature. quality: model -> the caller's own estimate in [0, 1], which quality_threshold and
    strategies by quality go by; models without one are unrated.
    aggregator: a model that writes the answer where agreement is below fuse_below, in (0, 1], default 0.5.
    judge: a model that compares answers for pairwise_ranking, max_pairs of them at most.
    log: folder; default WORKBENCH_LOG, or data/log, opened at the first call. transport, settings: for live models, as
    for `Workbench.open`; timeout_s, 30 by default, is the deadline of an ensemble too.
    Raises LLMValidationError validation.models, validation.weights, validation.strategy, validation.unfitted,
    validation.quality, validation.threshold, validation.quorum, validation.config, validation.params,
    validation.budget; LLMRouterError.
    """

    def __init__(
        self,
        models: Sequence[Named],
        weights: Mapping[str, float] | AdaptiveWeights | None = None,
        *,
        strategy: str | Merge = WeightedConsensus.name,
        executors: Mapping[str, Callable[[str], Any]] | None = None,
        quorum: int = 1,
        grace_s: float | None = None,
        samples: int | None = None,
        params: Mapping[str, Any] | None = None,
        quality: Mapping[str, float] | None = None,
        aggregator: Named | None = None,
        fuse_below: float | None = None,
        judge: Named | None = None,
        max_pairs: int = MAX_PAIRS,
        log: str | os.PathLike[str] | None = None,
        transport: Any = None,
        **settings: Any,
    ) -> None:
        check_kinds(models, executors=executors, params=params, quality=quality)
        functions = dict(executors or {})
        loaded = load_settings(overrides=settings)
        self._log = LaterLog(log, durability=loaded.settings.durability)
        self._world = World.real(self._log)
        self._live = Live(self._world, loaded=loaded, transport=transport, ledger=self._log.ledger)
        self.members, self._draws = self._drawn([self._member(named, functions) for named in models], samples)
        self._check_executors(functions, [*models, aggregator, judge])
        names = [m.name for m in self.members]
        if not names or len(set(names)) < len(names):
            raise LLMValidationError(
                f"an ensemble needs different models, at least one; found {', '.join(names) or 'none'}",
                code="validation.models",
                next_step="name every model once",
            )
        self._params = dict(params or {})
        _ = Request(messages=(), params=self._params).key  # refuses parameters that cannot be written
        self._quality = _checked_quality(quality or {}, names)
        self._adaptive = weights if isinstance(weights, AdaptiveWeights) else None
        self._adapting = threading.Lock()
        self._merge = _merge_of(strategy, weights, names, judged=judge is not None)
        self.strategy = self._merge.name
        self.timeout_s = loaded.settings.timeout_s
        check_limits(members=len(names), timeout_s=self.timeout_s, quorum=quorum, grace_s=grace_s)
        self.quorum, self.grace_s = quorum, grace_s
        self._aggregator = self._aggregator_of(aggregator, fuse_below, functions)
        check_pairs(max_pairs)
        self._max_pairs = max_pairs
        self._judge = None
        if judge is not None:
            member = self._member(judge, functions)
            self._judge = PairwiseJudge(member.model, f"judge:{member.name}")
        self._counts = EnsembleCounts(self._roles())

    @classmethod
    def self_consistency(
        cls, model: Named, samples: int = 5, *, temperature: float | None = None, **options: Any
    ) -> MultiModelEnsembler:
        """Several draws of one model, merged by majority: what any ensemble has to beat at the same number of calls.

        temperature: of every draw; None: the model's default. At 0 all draws are alike. options: as for the class.
        Source: Wang et al. 2023, "Self-Consistency", section 2.
        """
        if temperature is not None:
            options["params"] = {**(options.get("params") or {}), "temperature": temperature}
        return cls([model], strategy=MajorityVoting.name, samples=samples, **options)

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

    @staticmethod
    def _drawn(members: Sequence[Member], samples: int | None) -> tuple[list[Member], list[int]]:
        """The members with as many draws of each, and the number of each draw."""
        if samples is None:
            return list(members), [0] * len(members)
        if isinstance(samples, bool) or not isinstance(samples, int) or not 1 <= samples <= MOST_SAMPLES:
            raise LLMValidationError(
                f"samples is {samples!r:.40}, not a whole number from 1 to {MOST_SAMPLES}",
                code="validation.config",
                next_step="use a number of draws such as 5, or leave it out for one",
            )
        drawn = [(replace(m, name=f"{m.name}#{k + 1}"), k) for m in members for k in range(samples)]
        return [member for member, _ in drawn], [k for _, k in drawn]

    @staticmethod
    def _check_executors(functions: Mapping[str, object], models: Sequence[Named | None]) -> None:
        for name in functions:
            if name not in models:
                raise LLMValidationError(
                    f"executor {name!r} names no model of the ensemble",
                    code="validation.models",
                    next_step="give functions under the models' names: "
                    f"{', '.join(str(m) for m in models if m is not None)}"[:160],
                )

    def _aggregator_of(
        self, named: Named | None, fuse_below: float | None, functions: Mapping[str, Callable[[str], Any]]
    ) -> Aggregator | None:
        if named is None:
            if fuse_below is not None:
                raise LLMValidationError(
                    f"fuse_below is {fuse_below!r:.40}, and there is no aggregator",
                    code="validation.config",
                    next_step="name the model that writes the answer: aggregator=...",
                )
            return None
        member = self._member(named, functions)
        gate = FuseBelow(FUSE_BELOW if fuse_below is None else fuse_below)
        return Aggregator(name=f"aggregator:{member.name}", model=member.model, gate=gate)

    def _roles(self) -> dict[str, Role]:
        roles: dict[str, Role] = {m.name: "member" for m in self.members}
        if self._aggregator is not None:
            roles[self._aggregator.name] = "aggregator"
        if self._judge is not None:
            roles[self._judge.name] = "judge"
        return roles

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
        merge = self._policy(quality_threshold)
        await self._log.ready()  # what cannot be logged is refused before anything is asked
        asked = self._asked(query)
        with (
            ErrorContext("ensembler", "get_ensemble_response", world=self._world),
            span(self._world, "ensembler", "get_ensemble_response", dict(limits)) as here,
            self._counts.question(here) as asking,
        ):
            question = Question(
                text=query,
                kind=answer_kind or infer_kind(None, query),
                options=options_in(query),
                key=asked[0].request.key,
                ends_s=None if limits["timeout_s"] is None else self._world.now_s() + limits["timeout_s"],
            )
            replies = await fan_out(self._world, asked, **limits)
            asking.parts = [self._part(reply, question) for reply in replies]
            try:
                asking.merged = await self._decided(question, merge, asking, limits["quorum"], quality_threshold)
                return asking.merged
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

    def get_ensemble_metrics(self) -> EnsembleMetrics:
        """What became of the questions since this object was made; `.df()` has one row a model."""
        return self._counts.metrics()

    # -- weights

    @property
    def weights(self) -> dict[str, float] | None:
        """Model -> weight as the next question counts it; None where the strategy takes none."""
        merge = self._policy(None)
        return dict(merge.weights) if isinstance(merge, WeightedConsensus) and merge.weights is not None else None

    def update_weights(
        self, feedback: Mapping[str, float] | EnsembleResponse, quality: float | None = None
    ) -> AdaptiveWeights:
        """Adapt the weights that the next question counts by to what is now known of quality; gives the new state.

        feedback: model -> quality in [0, 1] of its answer; or a response, whose `quality` is told of the members that
        gave its answer, and of no other: what they answered was not judged. It is a decision of the log, `adapt`.
        Raises LLMValidationError validation.weights for another strategy than weighted_consensus, validation.feedback.
        """
        if not isinstance(self._merge, WeightedConsensus):
            raise LLMValidationError(
                f"{self.strategy} has no weights that feedback could move",
                code="validation.weights",
                next_step="use strategy='weighted_consensus', or fit a strategy that learns on a run",
            )
        told = feedback_of(feedback, quality)
        with self._adapting:
            now = self._adaptive
            if now is None:
                now = AdaptiveWeights(self.weights or dict.fromkeys((m.name for m in self.members), 1.0))
            self._adaptive = decide(self._world, now, kind="adapt", quality=told)
            return self._adaptive

    def _policy(self, threshold: float | None) -> Merge:
        """The strategy with the weights of now, and the threshold of a question where it takes one."""
        merge, adaptive = self._merge, self._adaptive
        if isinstance(merge, WeightedConsensus) and adaptive is not None:
            merge = replace(merge, weights=adaptive.weights())
        return replace(merge, threshold=threshold) if isinstance(merge, Policy) else merge

    # -- one question

    def _asked(self, query: str) -> list[Asked]:
        messages = (Message(role="user", content=query),)
        draws = {k: Request(messages=messages, params=self._params, sample=k) for k in sorted(set(self._draws))}
        return [
            Asked(name=member.name, model=member.model, request=draws[k])
            for member, k in zip(self.members, self._draws, strict=True)
        ]

    def _part(self, reply: Reply, question: Question) -> ModelContribution:
        part = reply.contribution(question.read)
        rated = self._quality.get(reply.name)
        return part if rated is None or part.failure else replace(part, quality=rated, quality_source=BY_CALLER)

    async def _decided(
        self, question: Question, merge: Merge, asking: Asking, quorum: int, threshold: float | None
    ) -> EnsembleResponse:
        """The merge of the contributions, once enough have answered; every step is a decision of the log."""
        world, key, parts = self._world, question.key, asking.parts
        if quorum > 1:
            decide(world, Quorum(quorum), kind="quorum", request_key=key, contributions=parts)
        if not isinstance(merge, Policy) and (self._judge is not None or (self._quality and threshold is not None)):
            parts = decide(world, QualityFilter(threshold), kind="filter", request_key=key, contributions=parts)
        if self._judge is not None and isinstance(merge, PairwiseRanking):
            merge, asking.judged = await self._judge.ranked(world, merge, question, parts, self._max_pairs)
        merged = decide(world, merge, kind="merge", request_key=key, contributions=parts)
        if not isinstance(merged, EnsembleResponse):
            raise LLMValidationError(
                f"{merge.name} made a {type(merged).__name__} of the contributions, not an EnsembleResponse",
                code="validation.strategy",
                next_step="let the strategy's __call__ return a workbench.EnsembleResponse",
            )
        if self._aggregator is not None:
            asking.fusion = await self._aggregator.over(world, question, merged)
            merged = asking.fusion.merged
        return merged


@dataclass(frozen=True)
class QualityFilter:
    """The filter of the built-in merges, for strategies without a threshold of their own."""

    threshold: float | None = None
    name: ClassVar[str] = "quality_filter"
    version: ClassVar[str] = "1"

    def __call__(self, contributions: Sequence[ModelContribution]) -> tuple[ModelContribution, ...]:
        """The contributions, those of known quality below the threshold `filtered`; raises as a merge does."""
        return tuple(prepare(contributions, self.threshold))


def _merge_of(
    strategy: str | Merge, weights: Mapping[str, float] | AdaptiveWeights | None, names: Sequence[str], *, judged: bool
) -> Merge:
    """The policy of an ensemble, ready to decide for its members."""
    named = strategy if isinstance(strategy, str) else None
    ranks = named == PairwiseRanking.name or isinstance(strategy, PairwiseRanking)
    if ranks != judged:
        raise LLMValidationError(
            f"the strategy is {getattr(strategy, 'name', strategy)!r:.60}, with {'a' if judged else 'no'} judge",
            code="validation.strategy",
            next_step="give judge=MODEL together with strategy='pairwise_ranking', or neither",
        )
    merge = PairwiseRanking() if named == PairwiseRanking.name else as_merge(strategy)
    if isinstance(merge, Policy) and merge.threshold is not None:
        raise LLMValidationError(
            f"{merge.name} has a threshold of its own, {merge.threshold}",
            code="validation.threshold",
            next_step="give quality_threshold with each question instead",
        )
    if weights is not None and not (isinstance(merge, WeightedConsensus) and merge.weights is None):
        raise LLMValidationError(
            f"weights were given to {merge.name}{', which has its own' if hasattr(merge, 'weights') else ''}",
            code="validation.weights",
            next_step="leave weights out, or use strategy='weighted_consensus'",
        )
    if isinstance(weights, AdaptiveWeights):
        check_members(weights.base, names)
        weights = weights.weights()
    elif weights is None and named == WeightedConsensus.name:
        weights = dict.fromkeys(names, 1.0)
    if isinstance(merge, WeightedConsensus) and weights is not None:
        merge = replace(merge, weights=weights)
    check_ready(merge, names)
    return merge


def _checked_quality(quality: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The caller's estimates; models without one are unrated."""
    for model, value in quality.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if model not in names or not is_number or not 0 <= value <= 1:
            raise LLMValidationError(
                f"quality of {model!r} is {value!r:.40}, not a number in [0, 1] for one of {', '.join(names)}",
                code="validation.quality",
                next_step="give members an estimate from 0 to 1, and leave out those without one",
            )
    return dict(quality)


def _check_question(query: object, threshold: float | None, answer_kind: object) -> None:
    """Refuse what cannot be asked, or not be read."""
    check_threshold(threshold)
    if not isinstance(query, str) or not query.strip():
        raise LLMValidationError("the query is empty", code="validation.query", next_step="ask something")
    if answer_kind is not None and not (isinstance(answer_kind, str) and answer_kind in ANSWER_KINDS):
        raise LLMValidationError(
            f"answer_kind {answer_kind!r:.60} is not one of {', '.join(ANSWER_KINDS)}",
            code="validation.answer_kind",
            next_step="use one of the kinds listed, or None to tell it from the query",
        )
