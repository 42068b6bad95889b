"""What happened, as it goes to the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from workbench.facts.values import Failure, Item, ModelContribution, Request, Response

CallStatus = Literal["ok", "error", "timeout", "cancelled", "refused"]


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
class Score:
    """Value given to one model's answer by one scorer; higher is better."""

    item_id: str
    model: str
    scorer: str
    value: float
    run_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One attempt to get an answer: exactly one row of the log, answered or not.

    call_id: the same for all attempts of one call. attempt: its number, from 1; 0 for a call that ended without
    one (refused, or cancelled between two). final: whether the call ended with it.
    attempts, call_ms: of the whole call, on its final row. booked_usd: what the budgets were charged for this
    attempt, certainly or possibly.
    member: under which name the call was made; `model` is the one that was asked this time.
    """

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
    call_id: str = ""
    attempt: int = 1
    final: bool = True
    member: str = ""
    idempotency_key: str | None = None
    attempts: int | None = None
    call_ms: float | None = None
    booked_usd: float | None = None

    @property
    def status(self) -> CallStatus:
        """How it ended: ok, error, timeout, cancelled, or refused before it was sent."""
        if self.failure is None:
            return "ok"
        if self.failure.code == "cancelled":
            return "cancelled"
        if not self.attempt and not self.attempts:
            return "refused"
        return "timeout" if self.failure.code.startswith("timeout.") else "error"


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
    """A run ended with `status`; one that is taken up again ends again, and its newest end counts.

    crashed: its process died, as a later one found. timeout: it was ended from outside.
    cpu_s, peak_rss_bytes: of the whole process, between start and end and at most; None where they cannot be told.
    """

    run_id: str
    status: Literal["finished", "failed", "cancelled", "crashed", "timeout"]
    end_unix_ns: int
    items: int
    failure: Failure | None = None
    cpu_s: float | None = None
    peak_rss_bytes: int | None = None


Fact = Call | Span | Decision | Score | ItemAsked | Contribution | RunStarted | RunEnded
