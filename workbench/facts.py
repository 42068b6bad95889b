"""Frozen values and protocols that cross rooms.

What the workbench knows about a call, a merge or a run is one of these values: made once, never changed, written
to the log as it is. A protocol's docstring is the contract that `tests/contracts/` checks on implementations.

Units are in the names: `_ms` milliseconds, `_s` seconds, `_usd` US dollars, `_unix_ns` nanoseconds since 1970.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol, runtime_checkable

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
    """Tokens as reported by the source of the answer; None where it reports none."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", MappingProxyType(dict(self.params)))

    @property
    def key(self) -> str:
        """SHA-256 (hexadecimal) of the canonical JSON of messages, params, task and sample.

        Raises LLMValidationError validation.params for parameters that JSON has no form for.
        """
        body = [[[m.role, m.content] for m in self.messages], dict(self.params), self.task, self.sample]
        try:
            text = canonical_json(body)
        except (TypeError, ValueError) as error:
            raise LLMValidationError(
                f"the parameters {dict(self.params)!r} cannot be written as JSON: {error}",
                code="validation.params",
                next_step="use texts, finite numbers, lists and mappings with text keys",
            ) from error
        return hashlib.sha256(clean_text(text).encode()).hexdigest()

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as a value: what a call that did not answer leaves behind."""

    kind: str
    code: str
    message: str
    retryable: bool = False
    retry_after_s: float | None = None
    status: int | None = None


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
    """A rewritten prompt; estimated_quality_gain is a prediction, not a measurement."""

    original: str
    text: str
    task: str
    strategies: tuple[str, ...]
    confidence_score: float
    estimated_quality_gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """State of the circuit breaker of one (provider, model)."""

    provider: str
    model: str
    state: Literal["closed", "open", "half_open"] = "closed"
    since_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One timed operation of a trace."""

    trace_id: str
    span_id: str
    parent_id: str | None
    component: str
    operation: str
    start_unix_ns: int
    duration_ms: float
    ok: bool
    failure: Failure | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One choice made by a policy: inputs, parameters and output, enough to make it again."""

    span_id: str
    request_key: str
    kind: str
    policy: str
    version: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Any]
    output: Any
    duration_us: float
    run_id: str | None = None
    item_id: str | None = None


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
class Score:
    """Value given to one model's answer by one scorer; higher is better."""

    item_id: str
    model: str
    scorer: str
    value: float
    run_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One attempt to get an answer: exactly one row of the log, answered or not."""

    span_id: str
    trace_id: str
    run_id: str | None
    item_id: str | None
    provider: str
    model: str
    request: Request
    response: Response | None
    failure: Failure | None
    start_unix_ns: int
    duration_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemAsked:
    """An item as one run asked it."""

    run_id: str
    position: int
    item: Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """A member's part in one item of a run."""

    run_id: str
    item_id: str
    part: ModelContribution


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """A run began; spec holds everything needed to repeat it."""

    run_id: str
    name: str
    source: str
    models: tuple[str, ...]
    spec: Mapping[str, Any]
    start_unix_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """A run ended with `status`: finished, failed or cancelled."""

    run_id: str
    status: Literal["finished", "failed", "cancelled"]
    end_unix_ns: int
    items: int
    failure: Failure | None = None


Fact = Call | Span | Decision | Score | ItemAsked | Contribution | RunStarted | RunEnded


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


class Model(Protocol):
    """Something that answers requests.

    `complete` is called concurrently, also for equal requests. It raises LLMError only; CancelledError passes.
    """

    @property
    def name(self) -> str:
        """`provider:model`, unique inside one run."""

    async def complete(self, request: Request) -> Response:
        """The model's answer."""


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
    """Reserve-then-settle accounting in integer micro-units."""

    def reserve(self, key: str, amount: int) -> bool:
        """Whether `amount` could be set aside under `key`."""

    def settle(self, key: str, reserved: int, actual: int) -> None:
        """Replace a reservation by what was spent."""
