"""Frozen values: what the workbench knows about a call, a merge or a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from workbench.canonical import canonical_json, clean_text
from workbench.errors import LLMValidationError

Source = Literal["live", "recorded", "simulated", "cache"]
Status = Literal["kept", "filtered", "failed", "late"]
TASKS = ("summarization", "translation", "question_answering", "code_generation", "reasoning", "general")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation; role is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens as reported by the source of the answer; None where it reports none.

    cached_tokens: the part of prompt_tokens that the provider read from its own cache.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a model.

    sample: index of the draw; part of the key, so that the n-th draw is not a cache hit of the first.
    item_id: the suite item that asks, for replay and the log; not part of the key.
    """

    messages: tuple[Message, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    task: str = "general"
    sample: int = 0
    item_id: str | None = None
    _key: str | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "messages", tuple(self.messages))
        except TypeError as error:
            raise LLMValidationError(
                f"messages are a {type(self.messages).__name__}, not a list of them",
                code="validation.request",
                next_step="pass a list of Message, or use Request.of(prompt)",
            ) from error
        object.__setattr__(self, "params", MappingProxyType(dict(self.params)))

    @property
    def key(self) -> str:
        """SHA-256 (hexadecimal) of the canonical JSON of messages, params, task and sample.

        Raises LLMValidationError validation.params for parameters that JSON has no form for.
        """
        if self._key is not None:
            return self._key
        body = [[[m.role, m.content] for m in self.messages], dict(self.params), self.task, self.sample]
        try:
            text = canonical_json(body)
        except (TypeError, ValueError) as error:
            raise LLMValidationError(
                f"the parameters {dict(self.params)!r} cannot be written as JSON: {error}",
                code="validation.params",
                next_step="use texts, finite numbers, lists and mappings with text keys",
            ) from error
        key = hashlib.sha256(clean_text(text).encode()).hexdigest()
        parts = (*self.params.values(), *(part for m in self.messages for part in (m.role, m.content)))
        if all(isinstance(part, str | int | float | None) for part in parts):
            object.__setattr__(self, "_key", key)  # a list inside could still be changed
        return key

    @property
    def prompt(self) -> str:
        """The text of the last user message, or the empty string."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @classmethod
    def of(cls, prompt: str, *, task: str = "general", item_id: str | None = None) -> Request:
        """A request with one user message."""
        return cls(messages=(Message(role="user", content=prompt),), task=task, item_id=item_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a model answered.

    latency_ms, ttft_ms: of the model itself; None when its source does not tell (most recordings).
    cost_usd: None when the price is unknown.
    served_model: the model that the provider says has answered, where it says so. request_id: the provider's own.
    flags: what is unusual about the answer, such as `usage_estimated`; see docs/reference/models.md.
    """

    request_key: str
    model: str
    text: str
    usage: Usage = Usage()
    latency_ms: float | None = None
    ttft_ms: float | None = None
    cost_usd: float | None = None
    finish_reason: str | None = None
    source: Source
    served_model: str | None = None
    request_id: str | None = None
    flags: tuple[str, ...] = ()

    @property
    def truncated(self) -> bool:
        """Whether the answer was cut at its limit of tokens: raise `max_tokens` to have it whole."""
        return self.finish_reason == "length"

    @property
    def estimated(self) -> bool:
        """Whether tokens and cost are estimates, because the provider reported none that can be used."""
        return "usage_estimated" in self.flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as a value: what a call that did not answer leaves behind.

    possibly_billed: the request had left, and nobody knows whether it will be charged.
    partial: text that had arrived, or that the model gave as its refusal.
    usage, cost_usd: what the attempt is known to have used all the same, or None.
    """

    kind: str
    code: str
    message: str
    retryable: bool = False
    retry_after_s: float | None = None
    status: int | None = None
    possibly_billed: bool = False
    partial: str | None = None
    request_id: str | None = None
    usage: Usage | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one attempt is bound to.

    timeout_s: for the whole attempt. first_token_s, idle_s: longest silence before the first text and between two
        pieces of it, for streamed answers.
    idempotency_key: the same for all attempts of one call, so that a provider can tell a repetition.
    stream: ask for the answer piece by piece.
    """

    timeout_s: float | None = None
    first_token_s: float | None = None
    idle_s: float | None = None
    idempotency_key: str | None = None
    stream: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What is known of a live model; None where it is not.

    name: `provider:model`. context_window, max_output_tokens: tokens. The prices are US dollars per million tokens,
    those of cached tokens the prompt's where None; they hold for prompts of up to prices_up_to_tokens, where a
    provider charges more for longer ones. source, date: where the figures come from.
    """

    name: str
    context_window: int | None = None
    max_output_tokens: int | None = None
    prompt_usd_per_mtok: float | None = None
    completion_usd_per_mtok: float | None = None
    cached_usd_per_mtok: float | None = None
    prices_up_to_tokens: int | None = None
    source: str = ""
    date: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt of a call, as its error lists it; code is None for the one that answered.

    start_s: seconds after the call began.
    """

    model: str
    number: int
    start_s: float
    duration_ms: float
    code: str | None
    possibly_billed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a budget did not admit a call; amounts in micro-US-dollars.

    may_fit_later: it would fit if the reservations of others were released.
    """

    scope: str
    limit: int
    spent: int
    reserved: int
    amount: int
    may_fit_later: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContribution:
    """One member's part in a merge.

    answer: normalised (see decide/answers.py); None when none could be extracted: it does not vote.
    quality: estimate in [0, 1] made without the item's reference or score, or None (unrated).
    quality_source: name of the estimator behind `quality`, or None.
    weight: vote of the member, >= 0.
    """

    model: str
    response: Response | None = None
    failure: Failure | None = None
    answer: str | None = None
    quality: float | None = None
    quality_source: str | None = None
    weight: float = 1.0
    status: Status = "kept"

    @property
    def votes(self) -> bool:
        """Whether the contribution takes part in the vote."""
        return self.status == "kept" and self.answer is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleResponse:
    """The merged answer.

    answer: the winner, or None when no contribution had an answer.
    tied: every answer with the winning support, in canonical (sorted) order; `answer` is the first.
    agreement: support of `answer` over the support of all voters, in [0, 1].
    confidence: support of `answer` over the weight of all members asked, in [0, 1]; not calibrated.
    """

    text: str
    answer: str | None
    tied: tuple[str, ...]
    strategy: str
    confidence: float
    agreement: float
    contributions: tuple[ModelContribution, ...]

    @property
    def unrated(self) -> int:
        """Number of kept contributions whose quality is unknown."""
        return sum(c.status == "kept" and c.quality is None for c in self.contributions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A router's choice; propensity is the probability with which it was drawn, in (0, 1]."""

    models: tuple[str, ...]
    ensemble: bool
    scores: Mapping[str, float]
    propensity: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """A query and what it was rewritten to; the gain is a prediction, not a measurement.

    strategies: that were applied, none where the query was left unchanged. confidence_score: probability, by what was
    told so far, that this is the better choice than the unchanged query, or where it was left, than every strategy.
    estimated_quality_gain: expected mean quality less that of the unchanged query, qualities being in [0, 1]; gain_low,
    gain_high: its 95 % interval. explored: tried in order to learn. reasons: of the choice, and of each edit.
    """

    original: str
    text: str
    task: str
    strategies: tuple[str, ...]
    confidence_score: float
    estimated_quality_gain: float
    gain_low: float = 0.0
    gain_high: float = 0.0
    explored: bool = False
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question of a suite.

    reference: gold answer, or None where the suite has scores only.
    metadata: answer_kind, options, score_kind and whatever else the suite declares.
    """

    item_id: str
    task: str
    prompt: str
    reference: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One recorded answer of one model to one item, as an imported file gives it."""

    recording: str
    task: str
    item_id: str
    prompt: str
    reference: str | None
    model: str
    prompt_style: str
    response: str | None
    score: float | None
    score_kind: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_ms: float | None
    cost_usd: float | None
