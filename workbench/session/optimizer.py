"""Rewriting queries, and learning from what came of it."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from workbench.act.context import ErrorContext
from workbench.act.journal import decide
from workbench.act.rewriter import ModelRewriter
from workbench.act.simulated import PROFILES
from workbench.act.trace import span
from workbench.act.world import World
from workbench.canonical import clean_text
from workbench.decide.choose import CAUTION
from workbench.decide.evidence import DISCOUNT, UNCHANGED, Context, Evidence, Gain, Tell, Telling, source_of
from workbench.decide.examples import ExampleIndex, Shot, select
from workbench.decide.optimize import OptimizeQuery, check_query, check_strategies
from workbench.decide.rewrite import STRATEGIES, Example, Rewritten, rewrite
from workbench.decide.tasks import Cue, detect
from workbench.decide.weights import is_finite
from workbench.errors import LLMValidationError
from workbench.facts import TASKS
from workbench.session.later import LaterLog
from workbench.session.learned import Outcome, State, read_state, tellings_of, told_in, write_state
from workbench.session.live import Live
from workbench.session.optimized import OptimizedQuery
from workbench.session.resolve import Named, other_member
from workbench.session.settings import load_settings
from workbench.session.styles import Tabled
from workbench.show.rewriting import patterns_table
from workbench.show.tables import Shown

if TYPE_CHECKING:
    import pandas as pd

MAX_HISTORY = 10_000
MOST_HISTORY = 1_000_000
EXAMPLES = 3
EXEMPLIFY = "exemplify"
LONGEST_SHOWN = 1_500  # characters of a query that is given examples: those of longer ones would drown it
ANY_EXAMPLE = Example(prompt="?", answer="!")
_NORMAL = NormalDist()


class QueryOptimizer:
    """Rewrites queries with the strategy that promises most, and learns which one does.

    It begins by knowing nothing: every gain is predicted as 0 with a wide interval. Each `update_weights` tells it how
    good the answer to an optimized query was; from then on it predicts by model, task type and group.

    max_history: outcomes that are kept, >= 1, and of each task type as many with an answer, to choose examples from.
    model: that will answer, unless a query names another. strategies: to choose among; None: all of them. explore: try
    doubtful strategies as Thompson sampling does, or take only what is known to gain. caution: in standard deviations,
    >= 0. discount: in (0, 1]; what a telling is worth after one more in its group. enable_query_optimization: False
    leaves every query unchanged, and goes on learning about unchanged ones. log: folder; default WORKBENCH_LOG, or
    data/log. settings: of docs/reference/settings.md.
    Raises LLMValidationError validation.config, validation.strategy.
    """

    def __init__(
        self,
        max_history: int = MAX_HISTORY,
        *,
        model: str = "",
        strategies: Sequence[str] | None = None,
        explore: bool = True,
        caution: float = CAUTION,
        discount: float = DISCOUNT,
        enable_query_optimization: bool = True,
        log: str | os.PathLike[str] | None = None,
        world: World | None = None,
        **settings: Any,
    ) -> None:
        whole = isinstance(max_history, int) and not isinstance(max_history, bool)
        if not whole or not 1 <= max_history <= MOST_HISTORY:
            raise LLMValidationError(
                f"max_history is {str(max_history)[:40]!r}, not a whole number from 1 to {MOST_HISTORY}",
                code="validation.config",
                next_step=f"use {MAX_HISTORY}, or fewer",
            )
        _check_text("model", model)
        self.max_history = max_history
        self.model = model
        self.strategies = tuple(STRATEGIES) if strategies is None else check_strategies(strategies)
        self.explore = explore
        self.enable_query_optimization = enable_query_optimization
        self._policy, self._step = OptimizeQuery(caution=caution), Tell(discount=discount)
        loaded = load_settings(overrides=settings)
        self._name = loaded.resolve
        self._log = LaterLog(log, durability=loaded.settings.durability)
        self._world = World.real(self._log) if world is None else world
        self._live = Live(self._world, loaded=loaded, ledger=self._log.ledger)
        self._evidence = Evidence()
        self._history: deque[Outcome] = deque(maxlen=max_history)
        self._shots: dict[str, ExampleIndex] = {}  # by task type: an example of another kind would mislead
        self._told_ns = 0
        self._last: OptimizedQuery | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        state = "" if self.enable_query_optimization else "; switched off"
        return f"QueryOptimizer({self._evidence.told} tellings, {len(self._evidence.rows())} patterns{state})"

    # -- deciding

    def optimize_query(
        self,
        query: str,
        *,
        task: str | None = None,
        model: str | None = None,
        group: str | None = None,
        item_id: str | None = None,
        explore: bool | None = None,
    ) -> OptimizedQuery:
        """The query as it should be asked, and what is expected of that.

        task: one of the six task types; None: told from the query. model: that will answer; None: the optimizer's.
        group: of queries that are alike, such as a category. item_id: its own answer is never an example. explore: for
        this query alone. Raises LLMValidationError validation.query, validation.task,
        validation.group; LLMError storage.* when the log cannot be used.
        """
        check_query(query)
        if item_id is not None:
            _check_text("item_id", item_id)
        with (
            ErrorContext("query_optimizer", "optimize_query", world=self._world),
            span(self._world, "query_optimizer", "optimize_query") as here,
        ):
            cues: tuple[Cue, ...] = ()
            if task is None:
                detected = detect(query)
                task, cues = detected.task, detected.cues
            context = _context(self.model if model is None else model, task, group, self._name)
            with self._lock:
                evidence, shots = self._evidence, self._shots.get(task) if len(query) <= LONGEST_SHOWN else None
            offered = self._offered(shots)
            gains = evidence.gains(context, offered)
            trying = self.explore if explore is None else explore
            draws = [self._draw() for _ in (UNCHANGED, *offered)] if trying else None
            examples = self._examples(query, context, gains, draws, item_id, shots)
            rewritten = decide(
                self._world,
                self._policy,
                kind="optimize",
                item_id=item_id,
                query=query,
                context=context,
                gains=gains,
                draws=draws,
                examples=examples,
            )
            here.attributes.update({"task": task, "strategies": ",".join(rewritten.strategies)})
            found = OptimizedQuery(rewrite=rewritten, context=context, cues=cues, item_id=item_id)
        with self._lock:
            self._last = found
        return found

    def _offered(self, shots: ExampleIndex | None) -> tuple[str, ...]:
        if not self.enable_query_optimization:
            return ()
        return tuple(s for s in self.strategies if s != EXEMPLIFY or shots is not None)

    def _examples(
        self,
        query: str,
        context: Context,
        gains: Sequence[Gain],
        draws: Sequence[float] | None,
        item_id: str | None,
        shots: ExampleIndex | None,
    ) -> tuple[Example, ...]:
        """Examples where the decision would come to use them: looking for them takes longer than all else."""
        if shots is None or all(gain.strategy != EXEMPLIFY for gain in gains):
            return ()
        if not self._policy.comes_to(EXEMPLIFY, query, context, gains, draws):
            return ()
        if not rewrite(query, EXEMPLIFY, task=context.task, examples=(ANY_EXAMPLE,)).changed:
            return ()  # no example would be shown, such as in a prompt that has its own
        chosen = select(shots, query, k=EXAMPLES, item_id=item_id).chosen
        return tuple(Example(prompt=c.shot.prompt, answer=c.shot.answer) for c in chosen)

    def _draw(self) -> float:
        return _NORMAL.inv_cdf(min(max(self._world.draw(), 1e-12), 1 - 1e-12))

    async def rewrite_by_model(
        self, query: str, model: Named, *, task: str | None = None, timeout_s: float = 30.0
    ) -> Rewritten:
        """The query as a model rewrites it, where that keeps its meaning by invariant; else as it was, with the reason.

        model: a name, a Profile or a Model object. A failing or late model leaves the query as it was too. Raises
        LLMValidationError validation.query, validation.task; LLMRouterError for an unknown name.
        """
        check_query(query)
        task = detect(query).task if task is None else _context("", task, None, self._name).task
        member = other_member(model, {}, PROFILES, lambda: self._live)
        with (
            ErrorContext("query_optimizer", "rewrite_by_model", world=self._world),
            span(self._world, "query_optimizer", "rewrite_by_model", {"model": member.name, "task": task}),
        ):
            return await ModelRewriter(member.model).rewrite(self._world, query, task=task, timeout_s=timeout_s)

    # -- learning

    def update_weights(
        self, result_quality: float, *, of: OptimizedQuery | None = None, answer: str | None = None
    ) -> None:
        """Tell how good the answer was, in [0, 1], to the newest optimized query or to the one given as `of`.

        answer: the text, to become an example for others. A query that was asked several times may be told of as often.
        Raises LLMValidationError validation.feedback; then nothing was learned.
        """
        if answer is not None and not isinstance(answer, str):
            raise LLMValidationError(
                f"the answer is a {type(answer).__name__}, not a text",
                code="validation.feedback",
                next_step="pass the text of the answer, or leave it out",
            )
        quality = float(result_quality) if is_finite(result_quality) else result_quality
        with self._lock:
            told = self._last if of is None else of
            if not isinstance(told, OptimizedQuery):
                raise LLMValidationError(
                    "no query was optimized yet" if of is None else f"of is a {type(of).__name__}, no optimized query",
                    code="validation.feedback",
                    next_step="call optimize_query first, or pass its result as of=...",
                )
            with (
                ErrorContext("query_optimizer", "update_weights", world=self._world),
                span(self._world, "query_optimizer", "update_weights"),
            ):
                strategy = told.strategies[0] if told.changed else UNCHANGED
                self._tell(Telling(told.context, strategy, quality), told.item_id)
                self._remember(told, quality, answer)

    def _remember(self, told: OptimizedQuery, quality: float, answer: str | None) -> None:
        outcome = Outcome(
            query=told.original_query,
            strategies=told.strategies,
            context=told.context,
            quality=quality,
            item_id=told.item_id,
            answer=answer,
        )
        self._history.append(outcome)
        if answer and answer.strip():
            task = outcome.context.task
            self._shots[task] = self._shots.get(task, ExampleIndex.of((), limit=self.max_history)).added(_shot(outcome))

    def learn_from(self, run: Tabled, *, styles: Mapping[str, str] | None = None, model: str | None = None) -> int:
        """Learn from a run in several prompt styles, as if each answer had been asked for; the number of tellings.

        Every score is told, that of the base as of `unchanged`, in the item's task type and group. styles: style of the
        run -> strategy, such as {"cot": "step_by_step"}; a style with the name of a strategy needs no entry, and others
        are left out. model: the name under which it is learned, where the run has one model; None: its own.
        Raises LLMValidationError validation.styles, validation.models, validation.score_kind (scores outside [0, 1]),
        validation.runs, data.no_scores, data.no_answers; then nothing is learned.
        """
        with (
            ErrorContext("query_optimizer", "learn_from", world=self._world),
            span(self._world, "query_optimizer", "learn_from"),
        ):
            tellings = tellings_of(run.table if hasattr(run, "table") else run, styles or {}, model, self._name)
            with self._lock:
                for item_id, telling in tellings:
                    self._tell(telling, item_id)
        return len(tellings)

    def _tell(self, telling: Telling, item_id: str | None) -> None:
        # Later than the one before, whatever the clock says: the log gives them back in this order.
        told_ns = max(self._world.unix_ns(), self._told_ns + 1)
        telling = telling._replace(at_unix_ns=told_ns)
        before = self._evidence.tallies(telling.context)
        after = decide(self._world, self._step, kind="learn", item_id=item_id, tallies=before, telling=telling)
        self._evidence, self._told_ns = self._evidence.with_group(telling.context, after), told_ns

    def learn_from_log(self) -> int:
        """Go on from everything that optimizers told this log; the number of tellings. What was known is replaced.

        Tellings are taken in the order of their time. The history stays as it is.
        """
        with (
            ErrorContext("query_optimizer", "learn_from_log", world=self._world),
            span(self._world, "query_optimizer", "learn_from_log"),
            self._lock,  # nothing is told meanwhile that would be lost
        ):
            evidence = Evidence()
            for telling in told_in(self._log):
                evidence = evidence.tell(telling, self._step)
                self._told_ns = max(self._told_ns, telling.at_unix_ns)
            self._evidence = evidence
        return evidence.told

    # -- what is known

    @property
    def evidence(self) -> Evidence:
        """What was told so far, as a value."""
        return self._evidence

    @property
    def history(self) -> tuple[Outcome, ...]:
        """The newest outcomes, oldest first, at most max_history."""
        return tuple(self._history)

    @property
    def patterns(self) -> Shown:
        """The learned patterns as a table: what is expected of each strategy in each context."""
        return Shown(patterns_table(self._evidence))

    def df(self) -> pd.DataFrame:
        """The learned patterns, one row each: model, task, group, strategy, n (discounted), mean quality, source."""
        import pandas as pd

        rows = [
            {**asdict(row), "quality": row.total / row.n, "source": source_of(row.model)}
            for row in self._evidence.rows()
        ]
        columns = ["model", "task", "group", "strategy", "n", "quality", "source"]
        return pd.DataFrame(rows, columns=columns)

    # -- keeping

    def save(self, file: str | os.PathLike[str]) -> Path:
        """Write what is known, the history and the examples as JSON; the file is there whole or not at all.

        Raises LLMValidationError data.file.
        """
        with self._lock:
            state = State(self._evidence, tuple(self._history), {t: index.shots for t, index in self._shots.items()})
        return write_state(file, state)

    def load(self, file: str | os.PathLike[str]) -> QueryOptimizer:
        """The optimizer itself, with what a file of `save` knows in the place of what it knew.

        Raises LLMValidationError data.file, validation.patterns; then nothing is changed.
        """
        state = read_state(file)
        shots = {task: ExampleIndex.of(held, limit=self.max_history) for task, held in state.shots.items()}
        with self._lock:
            self._evidence, self._shots = state.evidence, shots
            self._history = deque(state.history, maxlen=self.max_history)
        return self

    def close(self) -> None:
        """Let go of the log; connections of live models are closed with their event loop, or by `aclose`."""
        self._log.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and let go of the log."""
        try:
            await self._live.aclose()
        finally:
            self.close()


def _context(model: str, task: str, group: str | None, resolve: Callable[[str], str]) -> Context:
    if task not in TASKS:
        raise LLMValidationError(
            f"task {task!r:.60} is not one of {', '.join(TASKS)}",
            code="validation.task",
            next_step="choose one of these, or leave it out to have it told from the query",
        )
    _check_text("model", model)
    if group is not None:
        _check_text("group", group)
    return Context(clean_text(resolve(model)) if model else "", task, clean_text(group or ""))


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise LLMValidationError(
            f"{name} is a {type(value).__name__}, not a text",
            code=f"validation.{name}",
            next_step="pass its name, or leave it out",
        )


def _shot(outcome: Outcome) -> Shot:
    return Shot(item_id=outcome.item_id, prompt=outcome.query, answer=outcome.answer or "", quality=outcome.quality)
