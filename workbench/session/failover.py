"""One question, a chain of models, the first answer."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from workbench.act.function import FunctionModel
from workbench.act.simulated import PROFILES
from workbench.act.world import World
from workbench.decide.breaker import Circuit
from workbench.errors import LLMValidationError
from workbench.facts import Model, Request, Response
from workbench.session.later import LaterLog
from workbench.session.live import Live
from workbench.session.resolve import Named, other_member, unknown_model
from workbench.session.settings import load_settings


class LLMFailoverHandler:
    """Asks models in order until one answers, with retries, circuit breakers, budgets and one deadline.

    Behind them stand the fallbacks that [failover] in the configuration names for them.

    models: names (`openai:gpt-4.1`, short ones such as `gpt4`, `simulated:strong`), Profiles or Model objects.
    executors: name -> function(prompt) that answers in the place of the model of that name.
    log: folder; default WORKBENCH_LOG, or data/log, opened at the first call. transport: an
    `httpx.AsyncBaseTransport` in the place of the network. settings: of docs/reference/settings.md, such as
    max_retries=0 or cooldown_s=5.
    Raises LLMValidationError validation.models, validation.config, validation.budget; LLMRouterError
    router.unknown_model.
    """

    def __init__(
        self,
        models: Sequence[Named],
        *,
        executors: Mapping[str, Callable[[str], Any]] | None = None,
        log: str | os.PathLike[str] | None = None,
        transport: Any = None,
        **settings: Any,
    ) -> None:
        loaded = load_settings(overrides=settings)
        self._log = LaterLog(log, durability=loaded.settings.durability)
        self._live = Live(World.real(self._log), loaded=loaded, transport=transport, ledger=self._log.ledger)
        functions = dict(executors or {})
        if isinstance(models, str):
            models = [models]
        made: list[Model] = [self._model(named, functions) for named in models]
        names = [model.name for model in made]
        if not made or len(set(names)) < len(names):
            raise LLMValidationError(
                f"a chain needs different models, at least one; found {', '.join(names) or 'none'}",
                code="validation.models",
                next_step="name every model once",
            )
        if unused := [name for name in functions if name not in models]:
            raise LLMValidationError(
                f"executor {unused[0]!r} names no model of the chain",
                code="validation.models",
                next_step=f"give functions under the models' names: {', '.join(map(str, models))}"[:160],
            )
        for named in models:
            behind = self._live.with_fallbacks(named)[1:] if isinstance(named, str) and named not in functions else ()
            made += [self._model(name, {}) for name in behind if name not in {model.name for model in made}]
        self.chain = self._live.chain_of(made)

    def _model(self, named: Named, functions: Mapping[str, Callable[[str], Any]]) -> Model:
        if isinstance(named, str) and named in functions:
            return FunctionModel(named, functions[named])
        if isinstance(named, str) and self._live.knows(named):
            return self._live.model(named)
        return other_member(named, {}, PROFILES, lambda: self._live).model

    def __repr__(self) -> str:
        return f"LLMFailoverHandler({' -> '.join(model.name for model in self.chain.models)})"

    async def execute(self, query: str | Request) -> Response:
        """The first answer; the Response names the model that gave it.

        Raises LLMFailoverError failover.exhausted, failover.all_open, or the error that no other model can heal.
        """
        await self._log.ready()
        return await self.chain.complete(self._request(query))

    def stream(self, query: str | Request) -> AsyncGenerator[str, None]:
        """The first answer's text piece by piece; leave it early inside `contextlib.aclosing`."""
        return self._pieces(self._request(query))

    async def _pieces(self, request: Request) -> AsyncGenerator[str, None]:
        await self._log.ready()
        async with aclosing(self.chain.stream(request)) as pieces:
            async for piece in pieces:
                yield piece

    @staticmethod
    def _request(query: str | Request) -> Request:
        if isinstance(query, Request):
            return query
        if not isinstance(query, str):
            raise LLMValidationError(
                f"the query is a {type(query).__name__}, neither a text nor a Request",
                code="validation.query",
                next_step="pass the question as a text, or Request(messages=(Message(role='user', content='...'),))",
            )
        if not query.strip():
            raise LLMValidationError("the query is empty", code="validation.query", next_step="ask something")
        return Request.of(query)

    def reset(self, model: str | None = None) -> None:
        """Close the circuit of one model, or of all, and refill the retry budget."""
        full = None if model is None else self._live.loaded.resolve(model)
        names = [m.name for m in self.chain.models]
        if full is not None and full not in names:
            raise unknown_model(str(model), names, "this chain")
        self.chain.admission.reset(full)

    @property
    def circuits(self) -> tuple[Circuit, ...]:
        """The circuit breakers as they are now."""
        return self.chain.admission.breakers.circuits()

    def close(self) -> None:
        """Let go of the log; connections are closed with their event loop, or by `aclose`."""
        self._log.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and let go of the log."""
        try:
            await self._live.aclose()
        finally:
            self._log.close()
