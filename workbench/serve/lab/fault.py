"""What a fault is: an id, a script that provokes it in each wire format, and what a client should make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workbench.act.provider import WIRES, Wire
from workbench.serve.lab.shapes import Said, closing, delta, document, done, event, opening, pieces, problem
from workbench.serve.lab.steps import FIN, Answer, Step, head, reply

Form = Literal["whole", "stream"]
Way = Literal["answer", "address", "client"]
FORMS: tuple[Form, ...] = ("whole", "stream")
MARK: Mapping[str, Any] = {"x_workbench_simulated": 1}
EVENTS: Mapping[str, Any] = {**MARK, "content_type": "text/event-stream", "cache_control": "no-cache"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """The request that a fault is provoked on.

    said: what the model would have answered. on_connection: number of the request on its connection, from 1.
    url: of the lab. now_unix_s: wall clock, in seconds.
    """

    said: Said
    stream: bool
    on_connection: int = 1
    url: str = ""
    now_unix_s: float = 0.0

    @property
    def wire(self) -> Wire:
        """The wire format that was spoken."""
        return self.said.wire


Script = Callable[[Shot], Answer]
Edit = Callable[[Shot, dict[str, Any]], dict[str, Any] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of the catalogue.

    does: what the lab does, one sentence. expect: what a client should make of it, one sentence.
    error, code: of the error that a call without retries ends with; None where it succeeds, if need be after retries.
    way: `answer` is provoked by the answer to a request, `address` by an address of its own, `client` by the client.
    first: how many attempts of each call it hits; None for all of them. A rule may say otherwise.
    wires, forms: where it makes sense.
    """

    id: str
    layer: Literal["http", "transport", "body", "reply", "stream"]
    does: str
    expect: str
    error: str | None = None
    code: str | None = None
    script: Script | None = None
    way: Way = "answer"
    first: int | None = None
    wires: tuple[Wire, ...] = WIRES
    forms: tuple[Form, ...] = FORMS

    def fits(self, wire: Wire, *, stream: bool) -> bool:
        """Whether it can be provoked on such a request."""
        return wire in self.wires and ("stream" if stream else "whole") in self.forms

    @property
    def waits(self) -> bool:
        """Whether it comes after the model's latency: it is (at first) an answer of the model."""
        return self.layer in ("body", "reply", "stream")


def ident_of(said: Said) -> dict[str, Any]:
    """The headers of every answer: that it is simulated, and its id."""
    return {**MARK, "x_request_id": said.ident}


def refused(shot: Shot, status: int, message: str, *, code: str | None = None, **headers: object) -> Answer:
    """An error in the format that was spoken."""
    found = problem(shot.wire, status, message, code=code)
    return reply(found, status, **{**ident_of(shot.said), **headers})


def told(
    shot: Shot, said: Said | None = None, *, edit: Edit | None = None, parts: Sequence[str | None] | None = None
) -> Answer:
    """An answer of the format that was spoken, whole or as a stream that ends with its connection.

    said: default what the model would have said. edit: changes each document, or leaves it out with None.
    parts: the pieces of a stream; default the words.
    """
    said = said or shot.said
    change: Edit = edit or (lambda _, found: found)
    if not shot.stream:
        return reply(change(shot, document(said)), **ident_of(said))
    return opened(said, *events(shot, said, change, parts), FIN)


def events(shot: Shot, said: Said, edit: Edit | None = None, parts: Sequence[str | None] | None = None) -> list[bytes]:
    """The events of a whole stream."""
    change: Edit = edit or (lambda _, found: found)
    words = parts if parts is not None else [None] if said.text is None else pieces(said.text)
    found = [*opening(said), *(delta(said, word) for word in words), *closing(said)]
    changed = [change(shot, one) for one in found]
    return [*(event(said.wire, one) for one in changed if one is not None), *done(said.wire)]


def opened(said: Said, *steps: Step) -> Answer:
    """The head of an event stream that ends with its connection, and what follows."""
    return (head(**EVENTS, connection="close", x_request_id=said.ident), *steps)


def begun(shot: Shot, words: int, *steps: Step) -> Answer:
    """A stream with its first words, and then something else."""
    said = shot.said
    first = [*opening(said), *(delta(said, piece) for piece in pieces(said.text or "")[:words])]
    return opened(said, *(event(said.wire, one) for one in first), *steps)
