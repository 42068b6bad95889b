"""What must hold in every simulated world, whatever its providers did; the money is counted again, by other means."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from fractions import Fraction

from tests.exam.wall import Seen
from tests.simulation.plan import ModelPlan
from tests.simulation.provider import text_of, usage_of
from tests.simulation.simulate import PROMPT, Lived, Outcome
from workbench.decide.classify import CODES
from workbench.errors import LLMError
from workbench.facts import Call, Decision, Failure, Response, Span

EPSILON_S = 1e-6
CLOCK_NS = 10_000  # rounding of the clocks
OURS = ("cancelled", "failover.exhausted", "failover.all_open", "budget.exceeded", "budget.unknown_price")


def problems(lived: Lived) -> list[str]:
    """Everything that does not hold, one line each; empty when all is well."""
    found: list[str] = []
    for outcome in lived.outcomes:
        found += [f"caller {outcome.caller.number}: {problem}" for problem in _ending(outcome)]
        found += [f"caller {outcome.caller.number}: {problem}" for problem in _rows(lived, outcome)]
    for check in (_requests, _left_behind, _money, _limits, _retries, _times, _liveness):
        found += check(lived)
    return found


def _calls(lived: Lived) -> list[Call]:
    return [fact for fact in lived.facts if isinstance(fact, Call)]


def _name(row: Call) -> str:
    return f"{row.provider}:{row.model}"


# -- one call


def _ending(outcome: Outcome) -> Iterator[str]:
    """It ended in time, in one of the ways in which calls end."""
    value = outcome.value
    if outcome.how == "hung":
        if outcome.began or outcome.cancelled_s is None:
            yield "hangs"
        return
    if outcome.how == "untyped":
        yield f"raised {value!r}"
    if outcome.end_s > outcome.deadline_s + EPSILON_S:
        yield f"ended {outcome.end_s - outcome.deadline_s:.3f} s after its deadline"
    if outcome.cancelled_s is not None:
        if outcome.how not in ("cancelled", "left"):
            yield f"was cancelled and ended as {outcome.how}"
        if outcome.began and outcome.end_s > outcome.cancelled_s + EPSILON_S:
            yield f"ended {outcome.end_s - outcome.cancelled_s:.3f} s after it was cancelled"
    elif outcome.how == "cancelled":
        yield "ended as cancelled, and nobody had cancelled it"
    if outcome.how == "failed" and isinstance(value, LLMError | Failure):
        yield from _failure(value)


def _failure(value: LLMError | Failure) -> Iterator[str]:
    if value.code not in CODES and value.code not in OURS:
        yield f"failed with the code {value.code}: {value.message}"
    if isinstance(value, LLMError):
        if not value.next_step or len(value.next_step) > 160:
            yield f"next_step is {value.next_step!r}"
        if value.model is None or value.trace_id is None:
            yield f"{value.code} knows no model or trace"


def _rows(lived: Lived, outcome: Outcome) -> Iterator[str]:
    """The log has one call with one end, which is the one that the caller saw."""
    rows = [row for row in _calls(lived) if outcome.trace_id and row.trace_id == outcome.trace_id]
    spans = [
        fact
        for fact in lived.facts
        if isinstance(fact, Span) and fact.trace_id == outcome.trace_id and fact.operation == "complete"
    ]
    if not outcome.began:
        if rows or spans:
            yield "never began and is in the log"
        return
    if outcome.caller.how == "stream" and not rows and not spans and outcome.how == "cancelled":
        return  # cancelled before the call behind the stream had its first step
    final = [row for row in rows if row.final]
    if len(final) != 1 or len(spans) != 1:
        yield f"has {len(final)} final rows and {len(spans)} spans"
        return
    if final[0] is not rows[-1]:
        yield "has rows after its final one"
    numbers = sorted(row.attempt for row in rows if row.attempt)
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"has attempts {numbers}"
    if spans[0].attributes.get("attempts") != len(numbers):
        yield f"its span counts {spans[0].attributes.get('attempts')} attempts of {len(numbers)}"
    if len({row.idempotency_key for row in rows}) != 1 or not rows[0].idempotency_key:
        yield "has several idempotency keys, or none"
    if len({row.call_id for row in rows}) != 1:
        yield "has several call ids"
    yield from _final(lived, outcome, rows, final[0], spans[0])


def _final(lived: Lived, outcome: Outcome, rows: list[Call], final: Call, span: Span) -> Iterator[str]:
    value = outcome.value
    if final.status == "ok" and (final.response is None or final.attempt == 0):
        yield "its final row has no attempt or no response"
    if outcome.how == "answered":
        if final.status != "ok" or not span.ok:
            yield f"was answered, and its final row says {final.status}"
        elif isinstance(value, Response) and value != final.response:
            yield "has another answer in its final row"
        elif final.response is not None and final.response.text != _truth(lived, final.response.model):
            yield f"was answered with {final.response.text!r}"
        if outcome.caller.how == "stream" and "".join(outcome.pieces) != (final.response and final.response.text):
            yield "was streamed another text than the log has"
    elif outcome.how == "failed" and isinstance(value, LLMError | Failure):
        code = final.failure.code if final.failure else "ok"
        # A call that used up its models or its time ends with its last attempt's row, which has that attempt's code.
        summed = value.code in ("failover.exhausted", "timeout.deadline") and final.attempt > 0 and code != "ok"
        if code != value.code and not summed:
            yield f"failed as {value.code}, and its final row says {code}"
        if isinstance(value, LLMError) and len(value.attempts) != sum(bool(row.attempt) for row in rows):
            yield f"its error lists {len(value.attempts)} attempts"
        if isinstance(value, LLMError):
            known = {row.attempt: row.failure and row.failure.code for row in rows}
            if any(known.get(a.number) != a.code for a in value.attempts):
                yield "its error lists other attempts than the log"
    elif outcome.how == "cancelled" and final.status != "cancelled" and not _just_over(lived, outcome, final, span):
        yield f"was cancelled, and its final row says {final.status}"
    winners = [row for row in rows if row.status == "ok"]
    if winners and final.status != "ok" and outcome.how not in ("cancelled", "left"):
        yield "has an answer in its log and did not end with it"


def _just_over(lived: Lived, outcome: Outcome, final: Call, span: Span) -> bool:
    """Whether the call ran in a task of its own (a stream, a hedge) and had ended when the cancellation arrived."""
    own_task = outcome.caller.how == "stream" or lived.plan.discipline.hedge_after_s is not None
    # Since the call began, by the wall clock: it may jump in a world, but hardly between these two moments.
    end_s = (final.start_unix_ns - span.start_unix_ns) / 1e9 + final.duration_ms / 1e3
    return own_task and abs(end_s - (outcome.end_s - outcome.start_s)) < EPSILON_S


def _truth(lived: Lived, name: str) -> str:
    model = next(m for m in lived.plan.models if m.name == name)
    return "".join(text_of(model))


# -- all calls


def _requests(lived: Lived) -> Iterator[str]:
    """Every attempt is one request that the provider saw, with the key of its call.

    Only an attempt that waited in vain for a connection has none; nothing may be paid for it.
    """
    attempts = [row for row in _calls(lived) if row.attempt]
    seen = Counter((one.model, one.key) for one in lived.seen)
    rows = Counter((_name(row), row.idempotency_key) for row in attempts)
    if lived.plan.connections is not None:
        paid = Counter(
            (_name(row), row.idempotency_key) for row in attempts if row.failure is None or row.failure.possibly_billed
        )
        if paid - seen:
            yield f"possibly billed, and never sent: {dict(paid - seen)}"
        rows &= seen
    if rows != seen:
        yield f"rows without a request {dict(rows - seen)}, requests without a row {dict(seen - rows)}"
    if any(row.attempt == 0 and not row.final for row in _calls(lived)):
        yield "a row without an attempt that is not final"
    if any(one.end_s is None for one in lived.seen):
        yield "a connection was left open"
    for row in _calls(lived):
        code = row.failure.code if row.failure else None
        if code and code not in CODES and code not in OURS:
            yield f"a row with the code {code}"


def _left_behind(lived: Lived) -> Iterator[str]:
    if lived.tasks_left:
        yield f"{lived.tasks_left} tasks are left"
    if lived.permits_in_use:
        yield f"{lived.permits_in_use} permits are in use"
    if lived.slots_in_use:
        yield f"slots are in use: {lived.slots_in_use}"


def _money(lived: Lived) -> Iterator[str]:
    """What the accounts say is what the rows of the log add up to."""
    yield from (f"more was set aside than allowed: {line}" for line in lived.overspent if not lived.plan.lies)
    models = {model.name: model for model in lived.plan.models}
    expected: dict[str, int] = defaultdict(int)
    for row in _calls(lived):
        if row.attempt:
            expected[f"model:{_name(row)}"] += _booked(row, models[_name(row)])
    totals: dict[str, int] = defaultdict(int)
    for scope, account in lived.accounts.items():
        kind = scope.partition(":")[0]
        totals[kind] += account.spent
        if account.reserved:
            yield f"{account.reserved} are still reserved in {scope}"
        if account.limit is not None and account.spent > account.limit and not lived.plan.lies:
            yield f"{scope} was overspent: {account.spent} of {account.limit}"
        if kind == "model" and account.spent != expected[scope]:
            yield f"{scope} has {account.spent}, its rows add up to {expected[scope]}"
    if lived.accounts and len({totals["run"], totals["month"], totals["model"]}) != 1:
        yield f"the accounts of runs, months and models disagree: {dict(totals)}"
    if any(amount and scope not in lived.accounts for scope, amount in expected.items()):
        yield "a model has costs and no account"


def _booked(row: Call, model: ModelPlan) -> int:
    """Micro-dollars that an attempt is to be booked with."""
    if model.prices is None:
        return 0
    prompt, completion = (Fraction(str(price)) for price in model.prices)
    most = model.max_output or 4096
    limit = row.request.params.get("max_tokens") or (min(most, 4096) if model.wire == "anthropic" else most)
    worst = math.ceil(prompt * (len(PROMPT) + 8) + completion * limit)
    if row.response is not None:
        usage = row.response.usage
        cost = prompt * (usage.prompt_tokens or 0) + completion * (usage.completion_tokens or 0)
        return math.ceil(cost)
    failure = row.failure
    if failure is None or not failure.possibly_billed:
        return 0
    if failure.usage is None:
        return worst
    return math.ceil(prompt * (failure.usage.prompt_tokens or 0) + completion * (failure.usage.completion_tokens or 0))


def _limits(lived: Lived) -> Iterator[str]:
    """Rates and concurrency hold at the provider, in every minute and at every moment."""
    for model in lived.plan.models:
        seen = [one for one in lived.seen if one.model == model.name]
        limits = model.limits
        if limits is not None and limits.rate is not None and limits.rate.requests_per_minute:
            room = math.floor(limits.rate.requests_per_minute)
            times = [one.at_s for one in seen]
            if any(later - first < 60.0 for first, later in zip(times, times[room:], strict=False)):
                yield f"{model.name} got more than {room} requests in a minute"
        if limits is not None and limits.concurrency is not None and _at_once(seen) > limits.concurrency:
            yield f"{model.name} had {_at_once(seen)} requests at once, {limits.concurrency} are allowed"


def _at_once(seen: list[Seen]) -> int:
    """The largest number of requests that were open at one moment; ends count before beginnings."""
    edges = sorted(
        [(one.at_s, 1) for one in seen] + [(math.inf if one.end_s is None else one.end_s, -1) for one in seen]
    )
    now = most = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def _retries(lived: Lived) -> Iterator[str]:
    """All callers together made no more retries than the bucket pays for, and no call more than its share."""
    discipline = lived.plan.discipline
    made = [
        fact
        for fact in lived.facts
        if isinstance(fact, Decision) and fact.kind == "retry" and fact.output.get("action") == "retry"
    ]
    calls = sum(isinstance(fact, Span) and fact.operation == "complete" for fact in lived.facts)
    most = discipline.retries.capacity + discipline.retries.ratio * calls
    if len(made) > most + 1e-9:
        yield f"{len(made)} retries, {most} are paid for"
    per_call = Counter(row.call_id for row in _calls(lived) if row.attempt)
    longest = len(lived.plan.models) * (discipline.retry.max_retries + 1) + 1
    if per_call and max(per_call.values()) > longest:
        yield f"a call made {max(per_call.values())} attempts"


def _times(lived: Lived) -> Iterator[str]:
    """Jumps of the wall clock make nothing last less than no time; without them a row lies within its call."""
    spans = {fact.span_id: fact for fact in lived.facts if isinstance(fact, Span)}
    for fact in lived.facts:
        if isinstance(fact, Call | Span) and not 0 <= fact.duration_ms < 1e7:
            yield f"{type(fact).__name__} lasted {fact.duration_ms} ms"
        if isinstance(fact, Call) and not lived.plan.jumps and (call := spans.get(fact.call_id)) is not None:
            early_ns = call.start_unix_ns - fact.start_unix_ns
            late_ns = fact.start_unix_ns + fact.duration_ms * 1e6 - call.start_unix_ns - call.duration_ms * 1e6
            if early_ns > CLOCK_NS or late_ns > CLOCK_NS:
                yield f"the row of attempt {fact.attempt} begins or ends outside its call by {late_ns / 1e9:.3f} s"


def _liveness(lived: Lived) -> Iterator[str]:
    """With all faults over, each model answers within one cooldown, and its circuit closes.

    Old failures in a window of counts may open a circuit once more, even on a success; one probe then closes it.
    """
    for name, result in lived.healed.items():
        if isinstance(result, Response):
            if result.text != _truth(lived, name):
                yield f"{name} answered {result.text!r} after healing"
            model = next(m for m in lived.plan.models if m.name == name)
            if (result.usage.prompt_tokens, result.usage.completion_tokens) != usage_of(model):
                yield f"{name} reported {result.usage} after healing"
            if (lived.states[name] != "closed" or lived.refusals[name] > 1) and not _starved(lived, name):
                yield f"{name} is {lived.states[name]} after healing, {lived.refusals[name]} refusals"
        elif not (result.code.startswith("budget.") and not lived.affordable[name]) and not _hasty(lived, name):
            yield f"{name} fails after healing: {result.code}: {result.message}"


def _starved(lived: Lived, name: str) -> bool:
    """Whether the rate lets fewer probes through than must succeed before the half-open limit: then none decides."""
    breaker = lived.plan.discipline.breaker
    limits = next(m for m in lived.plan.models if m.name == name).limits
    rate = limits.rate.requests_per_minute if limits is not None and limits.rate is not None else None
    window_s = breaker.half_open_limit_s
    return rate is not None and window_s is not None and rate * window_s / 60 < breaker.permits


def _hasty(lived: Lived, name: str) -> bool:
    """Whether the limits of silence are shorter than a healthy model needs: then it never answers a stream."""
    discipline = lived.plan.discipline
    model = next(m for m in lived.plan.models if m.name == name)
    return discipline.stream and (
        (discipline.first_token_s or math.inf) <= model.latency_s + model.piece_s
        or (discipline.idle_s or math.inf) <= model.piece_s
    )
