"""Calls to a lab through the workbench's own chain, over real sockets."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from workbench.act.admission import Admission, Discipline
from workbench.act.failover import Chain
from workbench.act.http import Http
from workbench.act.live import HttpModel
from workbench.act.provider import Provider
from workbench.act.world import MemorySink, World
from workbench.decide.retry import RetryPolicy
from workbench.errors import LLMError
from workbench.facts import Call, Request, Response
from workbench.serve.lab import FaultLab

WIRES = ("openai", "anthropic", "gemini")
NAMES = {"openai": "lab", "anthropic": "lab-anthropic", "gemini": "lab-gemini"}


@contextmanager
def one_set_of_authorities() -> Iterator[None]:
    """Read the list of authorities once and not for each client: it takes 40 ms."""
    make, made = httpx.create_ssl_context, dict[Any, ssl.SSLContext]()

    def once(*args: Any, **options: Any) -> ssl.SSLContext:
        key = (os.environ.get("SSL_CERT_FILE"), args, tuple(sorted(options.items())))
        if key not in made:
            made[key] = make(*args, **options)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", once, raising=False)
        patch.setattr("httpx._config.create_ssl_context", once)
        yield


@dataclass
class Client:
    """A workbench's models on one set of connections."""

    lab: FaultLab
    http: Http
    sink: MemorySink = field(default_factory=MemorySink)

    def chain(self, *names: str, wire: str = "openai", base_url: str | None = None, **discipline: Any) -> Chain:
        """A chain of models of the lab."""
        world = World.real(self.sink)
        base = self.lab.base_url(wire) if base_url is None else base_url  # type: ignore[arg-type]
        provider = Provider(name=NAMES[wire], wire=wire, base_url=base, auth="none")  # type: ignore[arg-type]
        retries = discipline.pop("retries", 0)
        delay_s = discipline.pop("base_delay_s", 0.01)
        terms = {"timeout_s": 5.0, "retry": RetryPolicy(max_retries=retries, base_delay_s=delay_s), **discipline}
        cards = self.lab.cards()
        members = tuple(HttpModel(provider, name, self.http, world, cards=cards) for name in names)
        return Chain(Admission(world, Discipline(**terms)), members)

    async def call(self, *names: str, prompt: str = "How much is 2+2?", **options: Any) -> Response | LLMError:
        """The answer of the first model that gives one, or the error."""
        try:
            return await self.chain(*names, **options).complete(Request.of(prompt))
        except LLMError as error:
            return error

    async def streamed(self, name: str, *, leave_after: int | None = None, **options: Any) -> list[str]:
        """The pieces of a stream, left after so many."""
        pieces: list[str] = []
        chain = self.chain(name, stream=True, **options)
        async with aclosing(chain.stream(Request.of("How much is 2+2?"))) as found:
            async for piece in found:
                pieces.append(piece)
                if len(pieces) == leave_after:
                    break
        return pieces

    @property
    def rows(self) -> Sequence[Call]:
        """The rows of the attempts."""
        return [fact for fact in self.sink.facts if isinstance(fact, Call)]


def run(lab: FaultLab, program: Callable[[Client], Coroutine[Any, Any, Any]], **http: Any) -> Any:
    """What the program gives back; the connections are closed after it."""

    async def main() -> Any:
        client = Client(lab, Http(**http))
        try:
            return await program(client)
        finally:
            await client.http.aclose()

    return asyncio.run(main())
