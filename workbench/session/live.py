"""Live models by name: the configuration made into models that share one discipline.

The HTTP library is loaded with the first live model, and keys are read then, so that a missing one is told before
anything is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.act.admission import Admission
from workbench.act.failover import Chain
from workbench.act.lanes import Limits
from workbench.act.ledger import MemoryLedger
from workbench.act.world import World
from workbench.decide.rate import RateLimit
from workbench.facts import Model
from workbench.session.budgets import Accounts
from workbench.session.discipline import discipline_of, limits_of
from workbench.session.settings import Loaded, load_settings, set_log_level

if TYPE_CHECKING:
    from workbench.act.embed import HttpEmbedder
    from workbench.act.http import Http
    from workbench.act.live import HttpModel


class Live:
    """The live models of one workbench; safe to use from several threads.

    loaded: the configuration; None reads it now. transport: an `httpx.AsyncBaseTransport` in the place of the network.
    ledger: makes the accounts for the limits that are set, micro-US-dollars by pattern of scope; None keeps them in
    memory, and so does a configuration without limits, which pays for no file. admission: what all calls share:
    circuits, retry budget, rates and money. accounts: the money.
    """

    def __init__(
        self,
        world: World,
        *,
        loaded: Loaded | None = None,
        transport: Any = None,
        ledger: Callable[[Mapping[str, int]], Accounts] | None = None,
    ) -> None:
        self.world = world
        self.loaded: Loaded = load_settings() if loaded is None else loaded
        set_log_level(self.loaded.settings)
        self._transport = transport
        self._http: Http | None = None
        self._lock = threading.Lock()
        settings = self.loaded.settings
        limits = limits_of(settings)
        self.accounts: Accounts = MemoryLedger(limits) if ledger is None or not limits else ledger(limits)
        self.admission = Admission(
            world,
            discipline_of(settings),
            ledger=self.accounts,
            limited=bool(limits),
            limits=self._limits,
        )

    @property
    def http(self) -> Http:
        """The connections."""
        from workbench.act.http import Http

        settings = self.loaded.settings
        with self._lock:
            if self._http is None:
                self._http = Http(
                    transport=self._transport,
                    max_connections=settings.max_connections,
                    max_response_bytes=settings.max_response_bytes,
                )
            return self._http

    def knows(self, name: str) -> bool:
        """Whether the name is a live model's: `provider:model` of a configured provider, or short for one."""
        full = self.loaded.resolve(name)
        return full.partition(":")[0] in self.loaded.providers and bool(full.partition(":")[2])

    def with_fallbacks(self, name: str) -> tuple[str, ...]:
        """The model's full name, and those that [failover] puts behind it."""
        full = self.loaded.resolve(name)
        return (full, *self.loaded.failover.get(full, ()))

    def chain_of(self, models: Sequence[Model]) -> Chain:
        """Any models, asked one after the other until one answers."""
        return Chain(self.admission, tuple(models))

    def model(self, name: str) -> HttpModel:
        """One model without fallbacks.

        Raises LLMRouterError router.unknown_model, LLMValidationError validation.config for a missing key.
        """
        from workbench.act.live import HttpModel

        full = self.loaded.resolve(name)
        card = self.loaded.card(full)  # refuses what no provider knows
        provider = self.loaded.providers[full.partition(":")[0]]
        return HttpModel(
            provider,
            full.partition(":")[2],
            self.http,
            self.world,
            key=provider.read_key(),
            cards={**self.loaded.cards, full: card},
            output_limit=self.loaded.settings.max_output_tokens,
        )

    def embedder(self, name: str) -> HttpEmbedder:
        """An embedder behind `/embeddings` of a provider that speaks the OpenAI format."""
        from workbench.act.embed import HttpEmbedder

        return HttpEmbedder(self.admission, self.model(name))

    def _limits(self, name: str) -> Limits | None:
        provider = self.loaded.providers.get(name.partition(":")[0])
        if provider is None:
            return None
        rate = None
        if provider.requests_per_minute is not None or provider.tokens_per_minute is not None:
            rate = RateLimit(
                requests_per_minute=provider.requests_per_minute, tokens_per_minute=provider.tokens_per_minute
            )
        if rate is None and provider.concurrency is None:
            return None
        return Limits(rate=rate, concurrency=provider.concurrency)

    async def aclose(self) -> None:
        """Close the connections of the running loop; those of other loops are closed with their loops."""
        if self._http is not None:
            await self._http.aclose()
