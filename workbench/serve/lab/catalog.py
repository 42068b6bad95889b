"""All faults by id, and the table of them for people."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from workbench.decide.weights import closest
from workbench.errors import LLMValidationError
from workbench.serve.lab import breaks, refusals, replies
from workbench.serve.lab.fault import Fault

FAULTS: Mapping[str, Fault] = MappingProxyType(
    {fault.id: fault for fault in (*refusals.FAULTS, *breaks.FAULTS, *replies.FAULTS)}
)


def fault_of(name: str, where: str, *, answers: bool = True) -> Fault:
    """The fault of an id.

    where: what named it, for the message. answers: only faults that the answer to a request can provoke.
    Raises LLMValidationError validation.fault with the closest id and all of them.
    """
    found = FAULTS.get(name)
    if found is None:
        hint = closest(name, list(FAULTS))
        raise LLMValidationError(
            f"{where}: {name!r} is no fault; the faults are {', '.join(FAULTS)}",
            code="validation.fault",
            next_step=f"did you mean {hint!r}?" if hint else "list them with `workbench simulate --list-faults`",
        )
    if answers and found.way != "answer":
        step = f'give the provider the base_url of lab.base_url(wire, fault="{name}")'
        raise LLMValidationError(
            f"{where}: {name} cannot be provoked by an answer to a request: {found.does}",
            code="validation.fault",
            next_step=step if found.way == "address" else "provoke it in the client, as docs/reference/lab.md says",
        )
    return found


def rows() -> list[tuple[str, ...]]:
    """The faults as rows: id, what the lab does, where, what to expect, error and code."""
    made: list[tuple[str, ...]] = []
    for fault in FAULTS.values():
        wires = "all" if len(fault.wires) == 3 else ", ".join(fault.wires)
        forms = "" if len(fault.forms) == 2 else f", {fault.forms[0]}"
        ends = f"{fault.error} {fault.code}" if fault.code else "none"
        made.append((fault.id, fault.does, f"{wires}{forms}", fault.expect, ends))
    return made


def markdown() -> str:
    """The table of the faults for docs/reference/lab.md."""
    lines = ["| fault | the lab ... | formats | the client ... | ends with |", "|---|---|---|---|---|"]
    for id_, does, where, expect, ends in rows():
        shown = " ".join(f"`{word}`" for word in ends.split())
        lines.append(f"| `{id_}` | {does} | {where} | {expect} | {'success' if ends == 'none' else shown} |")
    return "\n".join(lines)
