"""Texts to vectors, through `/embeddings` of a provider, under the same discipline as every call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.act.admission import Admission
from workbench.act.failover import Chain
from workbench.act.live import HttpModel
from workbench.act.wire.reply import error_fields, mapping, sequence, whole_number
from workbench.decide.budget import price_of
from workbench.decide.classify import classify, error_of
from workbench.errors import LLMValidationError
from workbench.facts import Message, ModelCard, Request, Response, Terms, Usage

BATCH = 256  # texts in one request; providers take 2048 and more


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded(Response):
    """A response that carries vectors instead of text, so that one discipline serves both."""

    vectors: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class HttpEmbedder:
    """An Embedder behind an OpenAI-compatible `/embeddings`."""

    admission: Admission
    model: HttpModel

    def __post_init__(self) -> None:
        if self.model.provider.wire != "openai":
            raise LLMValidationError(
                f"{self.model.name} speaks {self.model.provider.wire}; embeddings are asked for in the OpenAI format",
                code="validation.models",
                next_step='name a model of a provider with wire = "openai"',
            )

    @property
    def name(self) -> str:
        """`provider:model`."""
        return self.model.name

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector for each text, in order; all have one length.

        Raises LLMValidationError validation.input for what is no list of texts, and what calls raise.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) and text for text in texts):
            raise LLMValidationError(
                "embed takes a list of texts, none of them empty",
                code="validation.input",
                next_step="pass a list such as ['first text', 'second text']",
            )
        chain = Chain(self.admission, (_Endpoint(self.model),))
        found: list[tuple[float, ...]] = []
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            answer = await chain.complete(Request(messages=tuple(Message(role="user", content=t) for t in batch)))
            assert isinstance(answer, Embedded)
            found.extend(answer.vectors)
        if len({len(vector) for vector in found}) > 1:
            raise error_of("provider.malformed", f"{self.name} gave vectors of different lengths", model=self.name)
        return found


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """`/embeddings` of a model, as something that a Chain can call."""

    model: HttpModel

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def card(self) -> ModelCard:
        card = self.model.card
        return card if card.completion_usd_per_mtok is not None else replace(card, completion_usd_per_mtok=0.0)

    def longest(self, request: Request) -> int:
        return 0

    async def complete(self, request: Request) -> Response:
        return await self.attempt(request, Terms())

    async def attempt(
        self,
        request: Request,
        terms: Terms,
        on_text: Callable[[str], None] | None = None,
        on_send: Callable[[], None] | None = None,
    ) -> Response:
        body = {"model": self.model.model, "input": [m.content for m in request.messages]}
        document, latency_ms = await self.model.post_json("/embeddings", body, request, terms, on_send)
        if (error := error_fields(document)) is not None:
            verdict = classify(200, error[0])
            raise error_of(verdict.code, f"{self.name} sent an error", retryable=verdict.retryable, model=self.name)
        vectors = _vectors(document, len(request.messages))
        if vectors is None:
            raise error_of(
                "provider.malformed",
                f"{self.name} did not give {len(request.messages)} vectors of numbers",
                model=self.name,
                retryable=False,
            )
        usage = mapping(document.get("usage"))
        counted = Usage(prompt_tokens=whole_number(usage.get("prompt_tokens")), completion_tokens=0)
        made = self.model.booked(request, counted)
        price = price_of(self.card)
        return Embedded(
            request_key=request.key,
            model=self.name,
            text="",
            usage=replace(made.usage, completion_tokens=0),
            latency_ms=latency_ms,
            cost_usd=price.cost_usd(prompt_tokens=made.usage.prompt_tokens or 0, completion_tokens=0)
            if price
            else None,
            finish_reason="stop",
            source="live",
            flags=made.flags,
            vectors=vectors,
        )


def _vectors(document: Mapping[str, Any], wanted: int) -> tuple[tuple[float, ...], ...] | None:
    """The vectors in the order of their indexes; None where they are not what was asked for."""
    entries = [mapping(entry) for entry in sequence(document.get("data"))]
    by_index = {whole_number(entry.get("index")): sequence(entry.get("embedding")) for entry in entries}
    rows = [by_index.get(index, ()) for index in range(wanted)]
    if len(entries) != wanted or not all(rows) or len({len(row) for row in rows}) > 1:
        return None
    if not all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for row in rows for x in row
    ):
        return None
    return tuple(tuple(float(x) for x in row) for row in rows)
