"""What is wrong with a cell of the matrix, and between the log and the lab's own count; no sentence, nothing wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tests.chaos import expected
from tests.chaos.arena import CHAINS, SLACK_S, Arena, Cell, Outcome, wrong_number
from tests.chaos.expected import FAILS, PASSES, REQUEST_SCOPED
from workbench import Workbench
from workbench.errors import LLMError
from workbench.facts import EnsembleResponse, ModelContribution, Response

LONG = "lorem ipsum " * 833_333 + "tail"  # ten million characters


# -- what is wrong with a cell


def judged(found: Outcome) -> list[str]:
    """What is wrong with it, in words that begin with the promise that was broken."""
    cell, wrong = found.cell, []
    if found.took_s > cell.deadline_s + SLACK_S:
        wrong.append(f"hang: it took {found.took_s:.3f} s")
    if found.took_s < expected.WAITS_S.get(cell.fault, 0.0) and cell.strategy == "single":
        wrong.append(f"wait: it was asked again after {found.took_s:.3f} s")
    if found.error is not None and not isinstance(found.error, LLMError):
        wrong.append(f"untyped: {found.error!r}")
    elif cell.strategy in CHAINS:
        wrong += _of_chain(found)
    else:
        wrong += _of_ensemble(found)
    if isinstance(found.error, LLMError):
        wrong += _of_error(found.error, of_model=cell.strategy in CHAINS)
    return [f"{cell}: {one}" for one in wrong]


def fails_as(cell: Cell) -> tuple[str, str] | None:
    """Class and code that a single model or a chain ends with; None where it answers."""
    fails = FAILS.get(cell.fault)
    if cell.strategy != "failover" or fails is None:
        return fails
    stays = cell.fault in REQUEST_SCOPED or cell.fault in expected.TAKES_ALL_TIME
    return fails if stays or (cell.form == "pieces" and cell.fault in expected.SHOWN) else None


def _of_chain(found: Outcome) -> list[str]:
    cell, fails = found.cell, fails_as(found.cell)
    if fails is not None:
        if found.error is None:
            return [f"silent: it answered {found.text!r:.80} where {fails[1]} is expected"]
        got = (type(found.error).__name__, getattr(found.error, "code", ""))
        wrong = [f"code: {got}, not {fails}"] if got != fails else []
        if not cell.wrong.startswith("".join(found.said)) and cell.fault not in expected.OWN_WORDS:
            wrong.append(f"text: it handed out {''.join(found.said)!r:.80}")
        return wrong
    if found.error is not None:
        return [f"needless: {found.error!r:.300}"]
    by_fallback = cell.strategy == "failover" and cell.fault in FAILS
    wrong = []
    if isinstance(found.response, Response) and found.response.model != cell.models[by_fallback]:
        wrong.append(f"failover: {found.response.model} answered, not {cell.models[by_fallback]}")
    if problem := _text_problem(cell, found.text or "", cell.right if by_fallback else None):
        wrong.append(problem)
    return wrong


def _text_problem(cell: Cell, text: str, healthy: str | None) -> str | None:
    """What is wrong with a text; healthy: of a well model, None for that of the model with the fault."""
    if healthy is None and cell.fault == "body-10mb":
        return None if text == LONG else f"text: {len(text)} characters"
    if healthy is None and cell.fault == "reply-length":
        return None if text and cell.wrong.startswith(text) and text != cell.wrong else f"text: {text!r:.80}"
    want = cell.wrong + expected.TAILS.get(cell.fault, "") if healthy is None else healthy
    return None if text == want else f"text: {text!r:.80}, not {want!r:.80}"


def _of_ensemble(found: Outcome) -> list[str]:
    cell, merged = found.cell, found.response
    if not isinstance(merged, EnsembleResponse):
        return [f"isolated: the ensemble failed as a whole: {found.error!r:.300}"]
    wrong, parts = [], {part.model: part for part in merged.contributions}
    for name in cell.models[1:]:
        part = parts[name]
        if part.status != "kept" or part.response is None or part.response.text != cell.right:
            wrong.append(f"isolated: {name} brought {part!r:.200}")
    first = parts[cell.first]
    if (fails := FAILS.get(cell.fault)) is not None:
        got = (first.failure.kind, first.failure.code) if first.failure else ("", "")
        wrong += [f"code: {got}, not {fails}"] if got != fails else []
        wrong += [f"silent: {first!r:.200}"] if first.response is not None or first.votes else []
    elif first.response is None:
        wrong.append(f"needless: {first.failure!r:.300}")
    elif problem := _text_problem(cell, first.response.text, None):
        wrong.append(problem)
    answers = _answers(cell, first)
    if (merged.answer, merged.text) != answers:
        wrong.append(f"silent: the merge says {merged.answer!r}: {merged.text!r:.80}, not {answers!r:.90}")
    return wrong


def _answers(cell: Cell, first: ModelContribution) -> tuple[str, str]:
    """Answer and text of the merge: two of three say the same, and only where nobody counts votes can one win."""
    right, wrong = str(2 * cell.number), str(wrong_number(cell.number))
    voted = first.answer == wrong and first.status == "kept"
    if cell.strategy == "best_of_n" and voted and wrong < right:
        return wrong, first.response.text if first.response else ""
    return right, cell.right


def _of_error(error: LLMError, *, of_model: bool) -> list[str]:
    wrong = []
    if not error.next_step or len(error.next_step) > 160:
        wrong.append(f"next_step: {error.next_step!r}")
    known = bool(error.model) or not of_model
    if not error.code or not known or not error.trace_id or not isinstance(error.retryable, bool):
        wrong.append(f"error: code, model, trace_id or retryable is missing on {error!r:.200}")
    return wrong


# -- the log against the lab


def settled(place: Arena, found: Sequence[Outcome]) -> tuple[list[str], dict[str, int]]:
    """What is wrong between rows, attempts and the lab's count, and the sums of each."""
    assert place.lab.quiet(5.0), f"{place.lab.open_now} connections are still open"
    with Workbench.open(place.log) as wb:
        frame = wb.sql(
            "select t.text as prompt, a.call_id, a.span_id, a.provider, a.model, a.status, a.attempt, a.final,"
            " a.idempotency_key as key, a.possibly_billed, a.failure_code from every_attempt a"
            " join texts t on t.hash = a.prompt_hash"
        )
        (total,) = wb.log.rows("select count(*) from log.calls")[0]
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in frame.to_dict("records"):
        rows.setdefault(row["prompt"], []).append(row)
    by_key, wrong = place.lab.accepted.by_key, []
    for outcome in found:
        wrong += [f"{outcome.cell}: {one}" for one in _of_rows(outcome, rows.get(outcome.cell.prompt, []), by_key)]
    sent = Counter(str(r["key"]) for r in frame.to_dict("records") if was_sent(r))
    sums = {"rows": total, "sent": sent.total(), "accepted": place.lab.accepted.total}
    if len(frame) != total:
        wrong.append(f"rows: {total} in the log, {len(frame)} of them with a prompt")
    if set(by_key) - set(sent):
        wrong.append(f"rows: {len(set(by_key) - set(sent))} calls that the lab knows are not in the log")
    return wrong, sums


def was_sent(row: Mapping[str, Any]) -> bool:
    """Whether the request of an attempt has left this machine, as its row of the log tells it."""
    unsent = ("provider.connection", "provider.dns", "provider.tls", "provider.protocol", "timeout.", "cancelled")
    if not row["attempt"] or row["status"] == "ok":
        return bool(row["attempt"])
    return bool(row["possibly_billed"]) or not row["failure_code"].startswith(unsent)


def _of_rows(found: Outcome, rows: Sequence[dict[str, Any]], by_key: Counter[str]) -> list[str]:
    cell, wrong = found.cell, []
    calls: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        calls.setdefault(row["call_id"], []).append(row)
    members = 1 if cell.strategy in CHAINS else 3
    if len(calls) != members * found.calls:
        wrong.append(f"rows: {len(calls)} calls in the log, not {members * found.calls}")
    if len({row["span_id"] for row in rows}) != len(rows):
        wrong.append("rows: doubled")
    for call in calls.values():
        tried = sorted(row["attempt"] for row in call if row["attempt"])
        if tried != list(range(1, len(tried) + 1)) or sum(row["final"] for row in call) != 1:
            wrong.append(f"rows: attempts {tried}, {sum(row['final'] for row in call)} final")
        if len(keys := {row["key"] for row in call}) != 1:
            wrong.append(f"rows: a call with the keys {keys}")
        arrived = [row for row in call if was_sent(row)]
        if by_key[call[0]["key"]] != len(arrived):
            wrong.append(f"rows: {len(arrived)} attempts, and the lab has accepted {by_key[call[0]['key']]}")
    first = [row for row in rows if row["model"] == f"ill-{cell.lane}" and row["attempt"]]
    # Of two calls the first may meet a fresh connection, and needs one attempt less.
    if (most := PASSES.get(cell.fault)) is not None and not 0 <= most * found.calls - len(first) < found.calls:
        wrong.append(f"attempts: {len(first)}, not {most}")
    if (
        isinstance(found.error, LLMError)
        and cell.strategy in CHAINS
        and len(found.error.attempts) != len([r for r in rows if r["attempt"]])
    ):
        wrong.append(f"attempts: {len(found.error.attempts)} on the error, {len(rows)} rows")
    if cell.fault in REQUEST_SCOPED and len(first) != 1:
        wrong.append(f"attempts: {len(first)} of a request that no repetition heals")
    return wrong
