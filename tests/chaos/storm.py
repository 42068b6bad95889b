"""Thousands of calls under random timeouts, resets and cancellations: the accounts against what the lab has counted.

Every attempt that the lab has accepted has a row that says it was sent, and the other way round; what is booked as
certain is the price of the answers that came through, and what is booked as possible covers what the lab may have
worked for beyond them. Prices are counted here by hand: 1 and 2 micro-dollars a token, tokens by the simulation's
convention of four characters.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.arena import PRICES, configured
from tests.chaos.verdict import was_sent
from workbench import FaultLab, LLMFailoverHandler, Profile, Workbench
from workbench.decide.budget import Account
from workbench.errors import LLMError
from workbench.serve.lab import LabRequest

MODELS = ("storm-a", "storm-b")
TIMEOUTS_S = (0.06, 0.15, 0.4, 1.0)
BUDGET_USD = 1000.0
# Of each model: rates of what is left after the rules before.
FAULTS = (
    "net-reset-head@0.08", "net-stall-head@0.06", "http-500-always@0.08", "http-504@0.05", "http-429-plain@0.05",
    "net-reset-body@0.06", "net-fin-body@0.05", "net-stall-body@0.05", "body-truncated@0.05", "net-garbage@0.05",
    "sse-reset@0.08", "sse-no-done@0.06", "sse-stall@0.05",
)  # fmt: skip
REFUSALS = {"http-500-always", "http-429-plain"}  # the provider says that it has done nothing
SETTINGS: dict[str, Any] = {
    "max_retries": 2, "base_delay_s": 0.01, "max_output_tokens": 64, "budget_run_usd": BUDGET_USD,
    "minimum_calls": 10_000, "window_calls": 10_000, "retry_capacity": 1e6,
}  # fmt: skip
RUSH_TOKENS = 64
ANSWER = "This is a simulated answer to a prompt outside the suite. The answer is "


@dataclass(slots=True, kw_only=True)
class Figures:
    """What was seen. Money in micro-US-dollars; under: booked less than the whole answer would have cost.

    wrong: sentences, none of which there should be.
    """

    calls: int = 0
    attempts: int = 0
    sent: int = 0
    accepted: int = 0
    keys: int = 0
    by_end: Counter[str] = field(default_factory=Counter)
    by_fault: Counter[str] = field(default_factory=Counter)
    certain: int = 0
    paid_for: int = 0
    possible: int = 0
    worked_for: int = 0
    reserved: int = 0
    under: int = 0
    wrong: list[str] = field(default_factory=list)


@contextmanager
def storm_lab(folder: Path, *, seed: int, faults: Sequence[str] = FAULTS) -> Iterator[FaultLab]:
    """A lab in this weather, in the configuration that is in force."""
    models = [Profile(name=n, skill={}, no_answer=0.0, latency_ms=25.0, latency_sigma=0.9, **PRICES) for n in MODELS]
    rules = [f"{name}={fault}" for name in MODELS for fault in faults]
    with FaultLab(models, suites=[], faults=rules, seed=seed) as lab, configured(lab, folder):
        yield lab


async def storm(
    log: Path, *, calls: int, seed: int, at_once: int = 24, cancels: float = 0.05, **settings: Any
) -> list[str]:
    """How each call ended: `ok`, a code, or `cancelled`; cancels: share of calls that are cancelled by the caller."""
    chance = random.Random(seed)
    held = [
        LLMFailoverHandler(
            [f"lab:{name}" for name in MODELS[:chain]],
            log=log,
            timeout_s=timeout_s,
            stream=stream,
            **{**SETTINGS, **settings},
        )
        for chain in (1, 2)
        for timeout_s in TIMEOUTS_S
        for stream in (False, True)
    ]
    gate = asyncio.Semaphore(at_once)

    async def one(number: int, handler: LLMFailoverHandler, leave_s: float | None) -> str:
        async with gate:
            task = asyncio.create_task(handler.execute(prompt_of(number)))
            if leave_s is not None:
                await asyncio.wait({task}, timeout=leave_s)
                task.cancel()
            try:
                response = await task
            except LLMError as error:
                return error.code
            except asyncio.CancelledError:
                return "cancelled"
            return "ok" if re.fullmatch(re.escape(ANSWER) + r"\d+\.", response.text) else f"text {response.text!r}"

    try:
        for handler in held:  # opens the log and the accounts, which holds the loop up
            with contextlib.suppress(LLMError):
                await handler.execute(prompt_of(0))
        leaves = [chance.uniform(0.0, 0.15) if chance.random() < cancels else None for _ in range(calls)]
        return await asyncio.gather(*(one(n + 1, chance.choice(held), leave_s) for n, leave_s in enumerate(leaves)))
    finally:
        for handler in held:
            await handler.aclose()


async def rush(log: Path, model: str, *, tasks: int, budget_usd: float, **settings: Any) -> Counter[str]:
    """How many tasks ended how, all of them begun at once under one budget, each with another question."""
    settings = {"timeout_s": 20.0, "max_output_tokens": RUSH_TOKENS, "budget_run_usd": budget_usd, **settings}
    held = LLMFailoverHandler([model], log=log, **settings)

    async def one(number: int) -> str:
        try:
            await held.execute(prompt_of(number))
        except LLMError as error:
            return error.code
        return "ok"

    try:
        return Counter(await asyncio.gather(*(one(number) for number in range(tasks))))
    finally:
        await held.aclose()


def rush_usd(calls: int) -> float:
    """The budget for exactly so many calls: the last of them still needs its worst case, the others what they cost.

    A prompt of `prompt_of` has 40 characters, which count as 40 + 8 tokens at worst and as 10 when they are counted;
    the answer has 74 or 75, which count as 18.
    """
    cost, worst = 10 + 2 * 18, 40 + 8 + 2 * RUSH_TOKENS
    return ((calls - 1) * cost + worst) / 1e6


def prompt_of(number: int) -> str:
    """A question of 40 characters, whatever the number."""
    return f"Storm call {number:06d}: how much is 2 and 2??"


def compared(lab: FaultLab, log: Path) -> Figures:
    """The log and the accounts against the lab's count."""
    assert lab.quiet(10.0), f"{lab.open_now} connections are still open"
    with Workbench.open(log, budget_run_usd=BUDGET_USD) as wb:
        frame = wb.sql(
            "select a.call_id, a.model, a.attempt, a.final, a.status, a.failure_code, a.possibly_billed, a.cost_usd,"
            " a.booked_usd, a.idempotency_key as key, p.text as prompt, t.text as answer from every_attempt a"
            " join texts p on p.hash = a.prompt_hash left join texts t on t.hash = a.response_hash order by a.attempt"
        )
        accounts = wb.budget().accounts
    made = Figures()
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    _count(made, rows, lab)
    _money(made, rows, accounts)
    entries: dict[str, list[LabRequest]] = {}
    for entry in lab.log:
        entries.setdefault(entry.idempotency_key, []).append(entry)
    sent: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if was_sent(row):
            sent.setdefault(row["key"], []).append(row)
    for key in {*entries, *sent}:
        _one_call(made, sent.get(key, []), entries.get(key, []))
    if made.certain != made.paid_for:
        made.wrong.append(f"certain: {made.certain} booked, {made.paid_for} are the price of what came through")
    if made.possible < made.worked_for:
        made.wrong.append(f"possible: {made.possible} booked, the lab may have worked for {made.worked_for}")
    return made


def _count(made: Figures, rows: Sequence[Mapping[str, Any]], lab: FaultLab) -> None:
    tried = [row for row in rows if row["attempt"]]
    made.calls, made.attempts = len({row["call_id"] for row in rows}), len(tried)
    made.sent, made.accepted = sum(map(was_sent, rows)), lab.accepted.total
    made.by_fault = lab.accepted.by_fault
    made.keys = len({row["key"] for row in rows})
    made.by_end = Counter(row["failure_code"] or "ok" for row in rows if row["final"])
    if made.sent != made.accepted:
        made.wrong.append(f"counts: {made.sent} rows were sent, the lab has accepted {made.accepted}")
    if len({(row["call_id"], row["key"]) for row in rows}) != made.calls or made.keys != made.calls:
        made.wrong.append(f"keys: {made.keys} keys of {made.calls} calls")
    if sum(row["final"] for row in rows) != made.calls:
        made.wrong.append("rows: not one final row a call")


def _money(made: Figures, rows: Sequence[Mapping[str, Any]], accounts: Mapping[str, Account]) -> None:
    sums: dict[str, list[int]] = {}
    for scope, account in accounts.items():
        kind = sums.setdefault(scope.partition(":")[0], [0, 0, 0])
        for place, amount in enumerate((account.spent, account.uncertain, account.reserved)):
            kind[place] += amount
    spent, made.possible, made.reserved = sums["model"]
    made.certain = spent - made.possible
    if len({tuple(one) for one in sums.values()}) != 1 or set(sums) != {"run", "model", "month"}:
        made.wrong.append(f"accounts: they differ, {sums}")
    if made.reserved:
        made.wrong.append(f"accounts: {made.reserved} is still set aside")
    booked = sum(round((row["booked_usd"] or 0.0) * 1e6) for row in rows)
    if booked != spent:
        made.wrong.append(f"accounts: {spent} spent, the rows have {booked}")


def _one_call(made: Figures, sent: Sequence[Mapping[str, Any]], accepted: Sequence[LabRequest]) -> None:
    """The attempts of one call were made one after the other: the n-th row is the n-th request."""
    if [row["model"] for row in sent] != [entry.model for entry in accepted]:
        made.wrong.append(
            f"counts: rows {[(r['attempt'], r['status'], r['failure_code']) for r in sent]}, "
            f"accepted {[(e.attempt, e.fault, e.left_s) for e in accepted]}"
        )
        return
    for row, entry in zip(sent, accepted, strict=True):
        booked = round((row["booked_usd"] or 0.0) * 1e6)
        if row["status"] == "ok":
            price = len(row["prompt"]) // 4 + 2 * (len(row["answer"]) // 4)
            made.paid_for += price
            # Who has read the end of a stream may leave before the server has closed it.
            arrived = entry.answered or (entry.stream and re.fullmatch(re.escape(ANSWER) + r"\d+\.", row["answer"]))
            if booked != price or entry.fault is not None or not arrived:
                made.wrong.append(f"paid: {booked} booked for an answer that costs {price} ({entry})")
        elif entry.fault in REFUSALS:
            if row["status"] == "error" and booked:
                made.wrong.append(f"possible: {booked} booked for a refusal ({entry})")
        else:
            # Of a stream that broke off nobody knows what was made beyond what arrived; a word is sure.
            whole = len(row["prompt"]) // 4 + 2 * (len(ANSWER + "4.") // 4)
            least = len(row["prompt"]) // 4 if entry.stream else whole
            made.worked_for += least
            made.under += booked < whole
            if booked < least:
                made.wrong.append(f"possible: {booked} booked, the lab may have worked for {least} ({entry}, {row})")
