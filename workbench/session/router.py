"""Choosing a model by its figures, from names as users write them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from workbench.act.journal import decide
from workbench.act.trace import span
from workbench.act.world import World
from workbench.decide.route import ByFigures, Candidate, Need, Preference
from workbench.decide.tokens import DEFAULT_OUTPUT, estimated_prompt
from workbench.errors import LLMValidationError
from workbench.facts import Message, ModelCard, Route
from workbench.session.later import LaterLog
from workbench.session.live import Live
from workbench.session.resolve import unknown_model
from workbench.session.settings import load_settings


class LLMRouter:
    """Chooses one of several live models for a query; every choice is in the log with the figures of all.

    models: `provider:model` or short names. log: folder; default WORKBENCH_LOG, or data/log. settings: of
    docs/reference/settings.md. Raises LLMRouterError router.unknown_model, LLMValidationError validation.models.
    """

    def __init__(self, models: Sequence[str], *, log: str | os.PathLike[str] | None = None, **settings: Any) -> None:
        loaded = load_settings(overrides=settings)
        self._log = LaterLog(log, durability=loaded.settings.durability)
        self._live = Live(World.real(self._log), loaded=loaded)
        if isinstance(models, str) or not models:
            raise LLMValidationError(
                f"a router chooses among models, and was given {models!r}",
                code="validation.models",
                next_step="pass a list of names, such as ['gpt4', 'ollama:llama3']",
            )
        for name in models:
            if not (isinstance(name, str) and self._live.knows(name)):
                raise unknown_model(str(name), [*loaded.aliases, *loaded.cards], "the models that can be called here")
        self._cards: dict[str, ModelCard] = {name: loaded.card(name) for name in models}

    def __repr__(self) -> str:
        return f"LLMRouter({', '.join(self._cards)})"

    def select_model(
        self,
        query: str,
        *,
        prefer: Preference = "listed",
        max_cost_usd: float | None = None,
        min_context: int | None = None,
        max_tokens: int = DEFAULT_OUTPUT,
    ) -> str:
        """The name, as it was given, of the model that takes the query; `route` says why.

        prefer: `listed` takes the first that fits, `cost` the cheapest, `latency` the fastest by the log (models
        without history first). max_cost_usd: of the worst case. Raises LLMRouterError router.no_candidate.
        """
        need = Need(
            prompt_tokens=estimated_prompt([Message(role="user", content=query)]),
            max_tokens=max_tokens,
            max_cost_usd=max_cost_usd,
            min_context=min_context,
        )
        chosen = self.route(need, prefer=prefer).models[0]
        return next(name for name, card in self._cards.items() if card.name == chosen)

    def route(self, need: Need, *, prefer: Preference = "listed") -> Route:
        """The choice with its reason and the figures of all models that were left."""
        policy = ByFigures(prefer=prefer)
        self._log.open()
        seen = self._latencies() if prefer == "latency" else {}
        candidates = [Candidate(card=card, latency_ms=seen.get(card.name)) for card in self._cards.values()]
        world = self._live.world
        with span(world, "llm_router", "select_model", {"prefer": prefer}):
            return decide(world, policy, kind="route", candidates=candidates, need=need)

    def _latencies(self) -> dict[str, float]:
        """Mean latency in milliseconds of the answered attempts, by `provider:model`."""
        rows = self._log.open().rows(
            "select provider || ':' || model, avg(latency_ms) from attempts "
            "where ok and latency_ms is not null group by 1"
        )
        return dict(rows)

    def close(self) -> None:
        """Let go of the log."""
        self._log.close()
