"""The seams between rooms; the docstring of each is the contract that `tests/contracts/` checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from workbench.facts.events import Fact
from workbench.facts.values import (
    EnsembleResponse,
    Failure,
    ModelCard,
    ModelContribution,
    Recorded,
    Refusal,
    Request,
    Response,
    Terms,
)


class Model(Protocol):
    """Something that answers requests.

    `complete` is called concurrently, also for equal requests. It raises LLMError only; CancelledError passes.
    """

    @property
    def name(self) -> str:
        """`provider:model`, unique inside one run."""

    async def complete(self, request: Request) -> Response:
        """The model's answer."""


class LiveModel(Model, Protocol):
    """A model that is reached over the network, one attempt at a time; who calls it keeps the discipline."""

    @property
    def card(self) -> ModelCard:
        """Its limits and prices."""

    async def attempt(
        self,
        request: Request,
        terms: Terms,
        on_text: Callable[[str], None] | None = None,
        on_send: Callable[[], None] | None = None,
    ) -> Response:
        """The answer to one request sent once, within its terms; LLMError only.

        on_text: is given each piece of a streamed answer as it arrives. on_send: is called when the request leaves.
        """


class Disciplined(Model, Protocol):
    """A model that makes its own attempts and writes their rows to the log."""

    async def ask(self, request: Request, *, member: str | None = None) -> Response | Failure:
        """The answer, or the failure as a value; `member`: the name under which the caller knows the model."""


@runtime_checkable
class Merge(Protocol):
    """A pure policy that makes one answer of many.

    It ignores the order of contributions and zero weights, returns the answer when all agree, never lets a winner
    lose because a supporter's weight grew, and refuses an empty input by name.
    """

    @property
    def name(self) -> str:
        """The strategy's name in tables and in the log."""

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises LLMError only."""


class Embedder(Protocol):
    """Something that turns texts into vectors of one length."""

    @property
    def name(self) -> str:
        """`provider:model`."""

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector for each text, in order; LLMError only."""


class Sink(Protocol):
    """Where facts go. `write` returns when the facts are acknowledged, and never waits for a database."""

    def write(self, *facts: Fact) -> None:
        """Take the facts, in order, as one batch."""


class ReplaySource(Protocol):
    """Recorded answers by recording name. Unknown names raise LLMValidationError that lists the known ones."""

    def recordings(self) -> Sequence[Mapping[str, Any]]:
        """One mapping per recording: recording, items, models (list of {model, styles}), rows."""

    def recorded(self, recording: str) -> Sequence[Recorded]:
        """Every recorded answer, ordered by item_id, model and prompt_style."""


class BudgetLedger(Protocol):
    """Reserve-then-settle accounting in integer micro-US-dollars, over several scopes at once."""

    def reserve(self, scopes: Sequence[str], amount: int) -> Refusal | None:
        """Set `amount` aside in all scopes, or in none and say why."""

    def settle(self, scopes: Sequence[str], reserved: int, actual: int, *, uncertain: bool = False) -> None:
        """Replace a reservation by what was spent; uncertain: only possibly so."""
