"""From a query to the prompt that is sent, and what comes back for it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from workbench.act.context import ErrorContext
from workbench.act.failover import Chain
from workbench.act.journal import decide
from workbench.act.safety import safe_execute
from workbench.act.simulated import PROFILES, Profile
from workbench.act.trace import span
from workbench.act.world import World
from workbench.canonical import clean_text, text_hash
from workbench.decide.assemble import ChatPrompt, Dropped, Part, Passage, TokenBudget, assemble, fitted
from workbench.decide.library import library, template_for
from workbench.decide.optimize import check_query
from workbench.decide.prompt import PromptTemplate, placed
from workbench.decide.tasks import Cue, Detected, detect
from workbench.decide.template_language import bad_template, shown
from workbench.decide.tokens import TokenCount, conversation, family_of
from workbench.decide.weights import closest
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import Message, Request
from workbench.record import rows
from workbench.session.bridge import run_sync
from workbench.session.later import LaterLog
from workbench.session.live import Live
from workbench.session.optimizer import QueryOptimizer
from workbench.session.prompt_parts import Counter, Optimizer, having, quality_of, rewriting, token_count, told
from workbench.session.resolve import Named, other_member
from workbench.session.settings import load_settings
from workbench.session.tokens import TokenCounter
from workbench.show.prompts import prompt_html, prompt_text

COMPONENT = "prompt_engineer"
Process = Named | Callable[[str], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineeredPrompt:
    """A prompt as it is sent, and what it was made of; it shows itself.

    query: as engineer_prompt was given it. detected: the task as the query tells it, None where the caller named one.
    template, version: of the template. tokens: of the messages. budget: what they had to fit.
    """

    query: str
    task: str
    detected: Detected | None
    template: str
    version: str
    chat: ChatPrompt
    tokens: TokenCount
    budget: TokenBudget

    @property
    def messages(self) -> tuple[Message, ...]:
        """What a model is sent."""
        return self.chat.messages

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """What was left out, or cut, to fit the budget."""
        return self.chat.dropped

    @property
    def cues(self) -> tuple[Cue, ...]:
        """What in the query speaks for a task."""
        return () if self.detected is None else self.detected.cues

    @property
    def prompt_hash(self) -> str:
        """Under which the log keeps the text: `prompt_hash` of its calls."""
        return hash_of(self.request())

    def request(self, params: Mapping[str, Any] | None = None) -> Request:
        """The messages as a request; params: such as temperature."""
        return Request(messages=self.messages, params=params or {}, task=self.task)

    def render(self) -> str:
        """The text that a function is sent: the message itself, or all of them, each under its role in brackets."""
        return self.chat.render()

    def __repr__(self) -> str:
        return prompt_text(self)

    def _repr_html_(self) -> str:
        return prompt_html(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Processed:
    """What became of a query.

    optimized: what the optimizer made of it, None where it was not asked. response: a Response of a model, or what the
    function gave. quality: what `score` said of it, None where nobody asked.
    """

    prompt: EngineeredPrompt
    optimized: Any
    response: Any
    quality: float | None = None


class PromptEngineer:
    """Makes prompts from queries by templates, within a budget of tokens; each is in the log with its version.

    templates: of your own, known by their names; one named like a task takes the place of the bundled one. optimizer:
    what rewrites queries first; None: a new QueryOptimizer. enable_query_optimization: False leaves it unasked.
    counter: None: a new TokenCounter. log: folder; default WORKBENCH_LOG, or data/log, opened at the first call.
    transport, settings: for live models, as for `Workbench.open`.
    Raises LLMValidationError validation.template, validation.optimizer, validation.counter, validation.config.
    """

    def __init__(
        self,
        templates: Sequence[PromptTemplate] = (),
        *,
        optimizer: Optimizer | None = None,
        enable_query_optimization: bool = True,
        counter: Counter | None = None,
        log: str | os.PathLike[str] | None = None,
        transport: Any = None,
        **settings: Any,
    ) -> None:
        self.templates: Mapping[str, PromptTemplate] = {**library(), **_templates(templates)}
        self.enable_query_optimization = enable_query_optimization
        own_counter = TokenCounter(log=log, **settings) if counter is None else counter
        self._counter: Counter = having(own_counter, "counter", "count")
        loaded = load_settings(overrides=settings)
        self._log = LaterLog(log, durability=loaded.settings.durability)
        self._world = World.real(self._log)
        made = QueryOptimizer(log=log, world=self._world, **settings) if optimizer is None else optimizer
        self.optimizer: Optimizer = having(made, "optimizer", "optimize_query", "update_weights")
        self._live = Live(self._world, loaded=loaded, transport=transport, ledger=self._log.ledger)

    def __repr__(self) -> str:
        return f"PromptEngineer({', '.join(self.templates)})"

    # -- prompts

    def engineer_prompt(
        self,
        query: str,
        *,
        task: str | None = None,
        template: str | PromptTemplate | None = None,
        system: str | None = None,
        examples: Sequence[Any] = (),
        context: Sequence[str | Passage] = (),
        history: Sequence[Message | Mapping[str, str]] = (),
        budget_tokens: int | None = None,
        reserve_tokens: int | None = None,
        model: str | None = None,
        **slots: Any,
    ) -> EngineeredPrompt:
        """The prompt for a query.

        task: of facts.TASKS; None: told from the query. template: a name or a PromptTemplate; None: the task's. The
            query goes into its slot `query`; `slots` are the values of the others. A template of the role `system`
            makes the system message, and the query stands as it is.
        examples: (question, answer) pairs, or objects with `prompt` and `answer`; context: passages; both the most
            relevant first. history: messages of before, the oldest first.
        budget_tokens, reserve_tokens: as decide.assemble.TokenBudget says; the budget is the context window of `model`
            where that is known. model: whose tokens are counted.
        Raises LLMValidationError validation.query, validation.task, validation.template, validation.slot,
        validation.messages, validation.budget_tokens, validation.template_limit.
        """
        self._log.open()
        with (
            ErrorContext(COMPONENT, "engineer_prompt", world=self._world),
            span(self._world, COMPONENT, "engineer_prompt") as here,
        ):
            check_query(query)
            if not (model is None or isinstance(model, str)):
                raise LLMValidationError(f"model is a {type(model).__name__}", next_step="name it: openai:gpt-4o")
            found = detect(query) if task is None else None
            about: Any = task if found is None else found.task
            template_for(about)  # refuses an unknown task, also where a template is named
            chosen = self._named(about if template is None else template)
            question, system = placed(chosen, query, system, slots)
            parts = assemble(question, system=system, examples=examples, context=context, history=history)
            budget = TokenBudget(self._window(model) if budget_tokens is None else budget_tokens, reserve_tokens)
            known = {
                "task": about,
                "template": chosen.name,
                "template_version": chosen.version,
                "query": text_hash(clean_text(query)),
            }
            here.attributes.update(known)
            chat = self._fitted(parts, budget, model, known)
            tokens = self._tokens(chat.messages, model)
            here.metric("prompt_tokens", tokens.count)
            return EngineeredPrompt(
                query=query, task=about, detected=found, template=chosen.name, version=chosen.version, chat=chat,
                tokens=tokens, budget=budget,
            )  # fmt: skip

    def _fitted(
        self, parts: Sequence[Part], budget: TokenBudget, model: str | None, known: Mapping[str, str]
    ) -> ChatPrompt:
        """The parts that fit; which were left out is a decision of the log, `prompt`, with the hash of what stayed."""

        def count(text: str) -> int:
            return token_count(self._counter.count(text, model=model)).high

        tokens = [part.tokens(count) for part in parts]
        about: dict[str, Any] = {"parts": [(p.kind, n) for p, n in zip(parts, tokens, strict=True)], **known}
        try:
            chat = fitted(parts, tokens, budget, count, versions={known["template"]: known["template_version"]})
        except LLMValidationError:
            decide(self._world, budget, kind="prompt", by_name=True, **about)  # refuses it too, and is logged
            raise
        request = Request(messages=chat.messages, task=known["task"])
        about["prompt"] = hash_of(request)
        decide(self._world, budget, kind="prompt", request_key=request.key, by_name=True, **about)
        return chat

    def _tokens(self, messages: Sequence[Message], model: str | None) -> TokenCount:
        whole = getattr(self._counter, "count_messages", None)
        if whole is not None:
            return token_count(whole(messages, model))
        family = family_of("" if model is None else self._live.loaded.resolve(model))
        return conversation([token_count(self._counter.count(m.content, model=model)) for m in messages], family)

    def _window(self, model: str | None) -> int | None:
        if model is None or not self._live.knows(model):
            return None
        return self._live.loaded.card(model).context_window

    def _named(self, template: str | PromptTemplate) -> PromptTemplate:
        if isinstance(template, str) and template in self.templates:
            template = self.templates[template]
        if isinstance(template, PromptTemplate):
            if taken := sorted({slot.name for slot in template.slots} & OPTIONS):
                raise bad_template(
                    f"slot {taken[0]!r} of template {template.name!r} has the name of an option of engineer_prompt",
                    f"rename the slot, for example to {taken[0]}_text",
                )
            return template
        hint = closest(template[:80], self.templates) if isinstance(template, str) else None
        raise bad_template(
            f"template {shown(template, 60)} is not one of {', '.join(self.templates)}",
            f"did you mean {hint!r}?" if hint else "give it to the PromptEngineer, or pass the PromptTemplate itself",
        )

    # -- prompts and what comes back

    async def optimize_and_process(
        self, query: str, process: Process, *, params: Mapping[str, Any] | None = None, **options: Any
    ) -> Processed:
        """The response to a query that was optimized and made a prompt.

        process: a model (a name, a Profile or a Model), which is sent the messages, or a function of the text that
            `EngineeredPrompt.render` gives; a plain one runs in a thread of its own.
        params: of the model's request, such as temperature. options: of `engineer_prompt`; task is the optimizer's
            where it is not among them.
        Raises what `engineer_prompt` and the model raise; LLMError execution.failed for a function that fails.
        """
        return await self._through("optimize_and_process", query, process, None, params, options)

    async def process_with_feedback(
        self,
        query: str,
        process: Process,
        score: Callable[[Any], Any],
        *,
        params: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Processed:
        """As `optimize_and_process`; then the optimizer learns what `score` says of the response.

        score: a function of the response, plain or asynchronous; what it gives is in the unit that the optimizer takes,
            as a rule from 0 to 1, or True or False. Where the optimizer was not asked, nothing is learned.
        Raises LLMValidationError validation.score for what is no finite number. An LLMError of score or optimizer has
        the response as `.partial`.
        """
        if not callable(score):
            raise LLMValidationError(
                f"score is a {type(score).__name__}, not a function",
                code="validation.score",
                next_step="give a function that takes the response and returns a number from 0 to 1",
            )
        return await self._through("process_with_feedback", query, process, score, params, options)

    def optimize_and_process_sync(self, query: str, process: Process, **options: Any) -> Processed:
        """`optimize_and_process` from synchronous code; works inside a running event loop too."""
        return run_sync(self.optimize_and_process(query, process, **options))

    def process_with_feedback_sync(
        self, query: str, process: Process, score: Callable[[Any], Any], **options: Any
    ) -> Processed:
        """`process_with_feedback` from synchronous code; works inside a running event loop too."""
        return run_sync(self.process_with_feedback(query, process, score, **options))

    async def _through(
        self,
        operation: str,
        query: str,
        process: Process,
        score: Callable[[Any], Any] | None,
        params: Mapping[str, Any] | None,
        options: dict[str, Any],
    ) -> Processed:
        asked = self._asked(process)
        await self._log.ready()  # what cannot be logged is refused before anything is asked
        with (
            ErrorContext(COMPONENT, operation, world=self._world),
            span(self._world, COMPONENT, operation) as here,
        ):
            optimized, text = None, query
            if isinstance(process, str):
                options.setdefault("model", process)
            if self.enable_query_optimization:
                known = {name: options[name] for name in ("task", "model") if options.get(name) is not None}
                optimized = await told(self.optimizer.optimize_query, query, known)
                text, optimized_task, here.attributes["strategies"] = rewriting(optimized)
                options.setdefault("task", optimized_task)
            prompt = self.engineer_prompt(text, **options)
            if isinstance(asked, Chain):
                response: Any = await asked.complete(prompt.request(params))
            else:
                response = await self._carried_out(asked, prompt.render(), "process")
            quality = None
            try:
                if score is not None:
                    quality = quality_of(await self._carried_out(score, response, "score"))
                    here.metric("quality", quality)
                if quality is not None and optimized is not None:
                    answer = getattr(response, "text", response)
                    known = {"of": optimized, "answer": answer if isinstance(answer, str) else None}
                    await told(self.optimizer.update_weights, quality, known)
            except LLMError as error:
                error.partial = response  # it was paid for
                raise
            return Processed(prompt=prompt, optimized=optimized, response=response, quality=quality)

    async def _carried_out(self, function: Callable[[Any], Any], given: object, operation: str) -> Any:
        return await safe_execute(
            partial(function, given), COMPONENT, operation, timeout=None, max_retries=0, world=self._world
        )

    def _asked(self, process: Any) -> Chain | Callable[[str], Any]:
        """The chain of the model, or the function."""
        if isinstance(process, Chain):
            return process
        if isinstance(process, str | Profile) or callable(getattr(process, "complete", None)):
            model = other_member(process, {}, PROFILES, lambda: self._live).model
            return model if isinstance(model, Chain) else self._live.chain_of([model])
        if callable(process):
            return cast("Callable[[str], Any]", process)
        raise LLMValidationError(
            f"process is a {type(process).__name__}, neither a model nor a function",
            code="validation.process",
            next_step="name a model such as simulated:strong, or give a function that takes the prompt",
        )

    # -- closing

    def close(self) -> None:
        """Let go of the log; connections are closed with their event loop, or by `aclose`."""
        self._log.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and let go of the log."""
        try:
            await self._live.aclose()
        finally:
            self._log.close()


OPTIONS = {*inspect.signature(PromptEngineer.engineer_prompt).parameters, "process", "score", "params"} - {"query"}


def hash_of(request: Request) -> str:
    """Under which the log keeps the prompt of a request."""
    return text_hash(rows.prompt_text(request))


def _templates(templates: object) -> Mapping[str, PromptTemplate]:
    """The templates by their names."""
    if not isinstance(templates, Sequence) or not all(isinstance(t, PromptTemplate) for t in templates):
        raise bad_template(f"templates are {shown(templates, 60)}, not a list", "pass [PromptTemplate(...)]")
    found = {template.name: template for template in templates}
    if twice := [template.name for template in templates if found[template.name] != template]:
        raise bad_template(f"two different templates are called {shown(twice[0], 60)}", "give each a name of its own")
    return found
