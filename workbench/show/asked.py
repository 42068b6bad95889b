"""What figures ask of a log, and how they tell what a span or a call ended by and where answers came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from workbench.errors import LLMValidationError

MOST = 1_000_000  # spans or dots of a figure
INTERRUPTS = ("KeyboardInterrupt", "SystemExit", "CancelledError", "GeneratorExit")


class Records(Protocol):
    """What is asked of a log: `workbench.record.log.Log`."""

    def records(self, sql: str, params: Any = None) -> list[dict[str, Any]]:
        """Rows of the query as mappings."""


def reader_of(log: Any) -> Records:
    """The log itself, or that of a Workbench; LLMValidationError validation.config for anything else."""
    reader: Records = getattr(log, "log", log)
    if callable(getattr(reader, "records", None)):
        return reader
    raise LLMValidationError(
        f"a Log or a Workbench is needed, and a {type(log).__name__} was given",
        code="validation.config",
        next_step='open it: wb = Workbench.open("data/log"), and give wb',
    )


def check_most(most: int) -> None:
    """Nothing; LLMValidationError validation.config unless `most` is a whole number in [1, MOST]."""
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MOST:
        raise LLMValidationError(
            f"most={most!r:.40} is not a whole number >= 1 and <= {MOST}",
            code="validation.config",
            next_step="leave it out, or name how much to draw at most, such as most=80",
        )


def sources_told(tries: Sequence[Mapping[str, Any]]) -> str:
    """Where the answers of calls came from, `none` without one; a server that calls itself simulated is named."""
    told = "+".join(sorted({t["source"] for t in tries if t["source"]})) or "none"
    simulated = any(str(t["request_id"] or "").startswith("simulated-") for t in tries)  # so the fault lab's are
    return f"{told}, simulated server" if simulated else told


def ended_by(row: Mapping[str, Any]) -> str | None:
    """What a span or a call failed with: the code, else the exception's type; `cancelled` for an interrupt."""
    kind: str | None = row["failure_kind"]
    code: str | None = row["failure_code"]
    if kind in INTERRUPTS:
        return "cancelled"
    return (kind or code) if code == "untyped" else code
