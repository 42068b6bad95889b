"""Frozen values and protocols that cross rooms.

What the workbench knows about a call, a merge or a run is one of these values: made once, never changed, written
to the log as it is.

Units are in the names: `_ms` milliseconds, `_s` seconds, `_usd` US dollars, `_unix_ns` nanoseconds since 1970.
"""

from workbench.facts.events import (
    Call,
    CallStatus,
    Contribution,
    Decision,
    Fact,
    ItemAsked,
    RunEnded,
    RunStarted,
    Score,
    Span,
)
from workbench.facts.protocols import (
    BudgetLedger,
    Disciplined,
    Embedder,
    LiveModel,
    Merge,
    Model,
    ReplaySource,
    Sink,
)
from workbench.facts.values import (
    TASKS,
    Attempt,
    EnsembleResponse,
    Failure,
    Item,
    Message,
    ModelCard,
    ModelContribution,
    Recorded,
    Refusal,
    Request,
    Response,
    Rewrite,
    Route,
    Source,
    Status,
    Terms,
    Usage,
)

__all__ = [
    "Attempt",
    "BudgetLedger",
    "Call",
    "CallStatus",
    "Contribution",
    "Decision",
    "Disciplined",
    "Embedder",
    "EnsembleResponse",
    "Fact",
    "Failure",
    "Item",
    "ItemAsked",
    "LiveModel",
    "Merge",
    "Message",
    "Model",
    "ModelCard",
    "ModelContribution",
    "Recorded",
    "Refusal",
    "ReplaySource",
    "Request",
    "Response",
    "Rewrite",
    "Route",
    "RunEnded",
    "RunStarted",
    "Score",
    "Sink",
    "Source",
    "Span",
    "Status",
    "TASKS",
    "Terms",
    "Usage",
]
