"""One call to a peer, as a program would make it, and everything that it left behind."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from peers.programs import Peer
from workbench.act.admission import Admission, Discipline
from workbench.act.failover import Chain
from workbench.act.http import Http
from workbench.act.live import HttpModel
from workbench.act.provider import AUTH_OF_WIRE, Provider
from workbench.act.secret import Secret
from workbench.act.world import MemorySink, World
from workbench.decide.retry import RetryPolicy
from workbench.errors import LLMError
from workbench.facts import Call, ModelCard, Request, Response, Span

QUESTION = "2+2?"
WIRES = ("openai", "anthropic", "gemini")


@dataclass(kw_only=True)
class Heard:
    """What a call gave. pieces: of a stream that was read piece by piece. calls: the rows of its attempts."""

    response: Response | None = None
    error: LLMError | None = None
    pieces: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    @property
    def answer(self) -> Response:
        """The answer; a failure here says which error came instead."""
        assert self.response is not None, f"{self.error!r} {getattr(self.error, 'code', '')}"
        return self.response

    @property
    def failure(self) -> LLMError:
        """The error; a failure here shows the answer that came instead."""
        assert self.error is not None, self.response
        return self.error


def model_of(
    peer: Peer, wire: str, model: str, http: Http, world: World, *, key: str | None = None, name: str = "peer"
) -> HttpModel:
    """A model of a peer; key: another one than the peer takes."""
    used = key or peer.key
    provider = Provider(
        name=name, wire=wire, base_url=peer.base(wire), auth=AUTH_OF_WIRE[wire] if used else "none", key_env="PEER_KEY"
    )
    card = ModelCard(name=f"{name}:{model}", prompt_usd_per_mtok=1.0, completion_usd_per_mtok=2.0)
    secret = Secret(used, origin="PEER_KEY") if used else None
    return HttpModel(provider, model, http, world, key=secret, cards={card.name: card})


def call(
    peer: Peer,
    wire: str,
    model: str,
    *fallbacks: str,
    stream: bool = False,
    key: str | None = None,
    prompt: str = QUESTION,
    params: dict[str, Any] | None = None,
    retries: int = 0,
    **discipline: Any,
) -> Heard:
    """Ask a peer's model once; in a stream the pieces are joined by the workbench."""
    heard, world = Heard(), World.real(sink := MemorySink())

    asked = replace(Request.of(prompt), params=params or {})

    async def run() -> None:
        http = Http()
        policy = RetryPolicy(max_retries=retries, base_delay_s=0.01, max_delay_s=0.05)
        shared = Admission(world, Discipline(stream=stream, retry=policy, **{"timeout_s": 20.0, **discipline}))
        chain = Chain(shared, tuple(model_of(peer, wire, m, http, world, key=key) for m in (model, *fallbacks)))
        try:
            heard.response = await chain.complete(asked)
        except LLMError as error:
            heard.error = error
        finally:
            await http.aclose()

    world.run(run())
    heard.calls = [fact for fact in sink.facts if isinstance(fact, Call)]
    heard.spans = [fact for fact in sink.facts if isinstance(fact, Span)]
    return heard


def listen(peer: Peer, wire: str, model: str, *, prompt: str = QUESTION) -> Heard:
    """Read a peer's stream piece by piece, as a notebook does."""
    heard, world = Heard(), World.real(MemorySink())

    async def run() -> None:
        http = Http()
        shared = Admission(world, Discipline(retry=RetryPolicy(max_retries=0), timeout_s=20.0))
        chain = Chain(shared, (model_of(peer, wire, model, http, world),))
        try:
            async with aclosing(chain.stream(Request.of(prompt))) as pieces:
                async for piece in pieces:
                    heard.pieces.append(piece)
        except LLMError as error:
            heard.error = error
        finally:
            await http.aclose()

    world.run(run())
    return heard
