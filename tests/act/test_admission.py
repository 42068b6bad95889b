"""What a call must pass before it is sent, and what is settled after it."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.act.wire.harness import (
    REQUEST,
    STEADY,
    WORST_MICRO,
    Plain,
    Scripted,
    Step,
    answer,
    chain,
    check_error,
    check_log,
    failing,
    priced,
    raised,
    rows,
    shared,
)
from workbench.act.admission import Admission, Discipline, split_name
from workbench.act.failover import Chain
from workbench.act.lanes import Limits
from workbench.act.ledger import MemoryLedger
from workbench.act.trace import span
from workbench.act.world import World
from workbench.decide.breaker import Breaker
from workbench.decide.classify import error_of
from workbench.decide.rate import RateLimit
from workbench.decide.retry import Bucket
from workbench.decide.tokens import largest_prompt
from workbench.errors import LLMError, LLMRateLimitError, LLMTimeoutError, LLMValidationError
from workbench.facts import Failure, Request, Usage

NAME = "p:m"


def only(**more):
    """Limits for every model."""
    limits = Limits(**more)
    return lambda _: limits


def entered(world, admission, *, deadline_s=None, run_id=None, request=REQUEST):
    """The ticket of one attempt."""
    return world.run(admission.enter(Scripted(NAME, world), request, run_id, deadline_s))


@pytest.mark.parametrize(
    ("name", "parts"), [("p:m", ("p", "m")), ("p:org/m:free", ("p", "org/m:free")), ("m", ("", "m")), (":m", ("", "m"))]
)
def test_a_name_is_split_at_its_first_colon(name, parts):
    """Models may have colons in their names."""
    assert split_name(name) == parts


# -- rate and concurrency


def test_calls_beyond_the_rate_wait_in_the_order_in_which_they_came():
    """Two a minute: six callers are sent in pairs, first come, first served, 61 s apart."""
    world = World.virtual()
    model = Scripted(NAME, world)
    admission = shared(world, limits=only(rate=RateLimit(requests_per_minute=2)), timeout_s=None)
    done = []

    async def caller(n):
        await Chain(admission, (model,)).complete(REQUEST)
        done.append((n, world.now_s()))

    async def six():
        await asyncio.gather(*(caller(n) for n in range(6)))

    world.run(six())
    assert [n for n, _ in done] == [0, 1, 2, 3, 4, 5]
    assert [at_s for _, at_s in done] == [0, 0, 61, 61, 122, 122]


@pytest.mark.parametrize(("cooldown_s", "passes"), [(30.0, True), (90.0, False)])
def test_a_circuit_that_changes_while_a_call_waits_its_turn_is_asked_again(cooldown_s, passes):
    """One call a minute, the first sent at 50 s, which fails: the second's turn comes at 111 s, as a probe or not."""
    world = World.virtual()
    breaker = Breaker(minimum_calls=1, window_calls=1, cooldown_s=cooldown_s)
    admission = shared(world, limits=only(rate=RateLimit(requests_per_minute=1)), timeout_s=None, breaker=breaker)

    async def story():
        model = Scripted(NAME, world)
        first = await admission.enter(model, REQUEST, None, None)
        waiting = asyncio.create_task(admission.enter(model, REQUEST, None, None))
        await world.sleep(50.0)
        admission.send(first)
        admission.leave(first, Failure(kind="LLMProviderError", code="provider.server", message="no"))
        return await waiting

    ticket = world.run(story())
    assert world.now_s() == 111
    assert (ticket is not None and ticket.permit.probe) == passes
    if ticket is not None:
        admission.send(ticket)
        admission.leave(ticket, answer(NAME, "four"))
    assert admission.breakers.circuit("p", "m").state == ("closed" if passes else "open")


def test_a_turn_past_the_deadline_is_refused_at_once():
    """Nobody waits for what comes too late; the wait is on the error."""
    world, ledger = World.virtual(), MemoryLedger({})
    one = chain(
        world, Scripted(NAME, world), limits=only(rate=RateLimit(requests_per_minute=1)), timeout_s=5.0, ledger=ledger
    )
    world.run(one.complete(REQUEST))
    error = raised(world, one.complete(REQUEST))
    check_error(error, "rate_limit.local", attempts=0)
    assert isinstance(error, LLMRateLimitError)
    assert (error.retry_after_s, world.now_s()) == (61.0, 0.0)
    check_log(world, ledger)


def test_a_request_with_more_tokens_than_ever_fit_is_refused():
    """7 + 100 tokens at 50 a minute: waiting does not help."""
    world = World.virtual()
    one = chain(world, Scripted(NAME, world), limits=only(rate=RateLimit(tokens_per_minute=50)))
    error = raised(world, one.complete(REQUEST))
    check_error(error, "rate_limit.local", attempts=0)
    assert not error.retryable


def test_used_tokens_count_in_place_of_the_estimate():
    """107 are booked, 15 used: the next call fits at once where two estimates would not."""
    world = World.virtual()
    one = chain(world, Scripted(NAME, world), limits=only(rate=RateLimit(tokens_per_minute=150)), timeout_s=None)
    for _ in range(3):
        world.run(one.complete(REQUEST))
    assert world.now_s() == 0.0
    world.run(one.complete(REQUEST))  # 45 + 107 > 150
    assert world.now_s() == 61.0


def test_a_model_without_a_card_counts_its_prompt_alone():
    """Nothing is known of how long its answers may be."""
    world = World.virtual()
    one = chain(world, Plain(NAME), limits=only(rate=RateLimit(tokens_per_minute=10)), timeout_s=None)
    world.run(one.complete(REQUEST))  # 7
    world.run(one.complete(REQUEST))
    assert world.now_s() == 61.0


def test_what_was_never_sent_gives_its_place_in_the_minute_back():
    """The budget refused it after the rate had let it pass."""
    world = World.virtual()
    ledger = MemoryLedger({"model:p:dear": 0})
    limits = only(rate=RateLimit(requests_per_minute=1))
    admission = shared(world, ledger=ledger, limits=limits)
    dear = Scripted("p:dear", world)
    check_error(raised(world, Chain(admission, (dear,)).complete(REQUEST)), "budget.exceeded")
    dear.card = priced("p:dear")
    free = Scripted("p:dear", world)
    object.__setattr__(free, "card", None)
    assert world.run(Chain(admission, (free,)).complete(REQUEST)).text == "42"
    assert world.now_s() == 0.0


def test_no_more_are_under_way_than_allowed_and_they_go_in_order():
    """Ten callers through three slots: never more than three at once, 4 rounds of 1 s."""
    world = World.virtual()
    model = Scripted(NAME, world, (Step("42", after_s=1.0),))
    admission = shared(world, limits=only(concurrency=3))
    done = []

    async def caller(n):
        await Chain(admission, (model,)).complete(REQUEST)
        done.append(n)

    async def ten():
        await asyncio.gather(*(caller(n) for n in range(10)))

    world.run(ten())
    assert (model.most, world.now_s(), done) == (3, 4.0, list(range(10)))


def test_waiting_for_a_slot_ends_at_the_deadline_and_was_not_billed():
    """The slot itself is not lost by it."""
    world, ledger = World.virtual(), MemoryLedger({})
    model = Scripted(NAME, world, (Step("42", after_s=3.0), Step("43")))
    admission = shared(world, limits=only(concurrency=1), timeout_s=None, ledger=ledger)
    brief = Admission(world, Discipline(timeout_s=1.0, breaker=STEADY), ledger=ledger)
    brief._lanes = admission._lanes

    async def three():
        first = asyncio.create_task(Chain(admission, (model,)).complete(REQUEST))
        await asyncio.sleep(0)
        with pytest.raises(LLMTimeoutError) as caught:
            await Chain(brief, (model,)).complete(REQUEST)
        assert world.now_s() == 1.0
        await first
        return caught.value, await Chain(admission, (model,)).complete(REQUEST)

    error, response = world.run(three())
    check_error(error, "timeout.deadline", attempts=0)
    assert not error.possibly_billed
    assert response.text == "43"
    check_log(world, ledger)


def test_limits_hold_in_every_event_loop_that_is_used_in_turn():
    """A second loop has slots of its own, and the rate goes on."""
    world = World.virtual()
    admission = shared(world, limits=only(concurrency=1, rate=RateLimit(requests_per_minute=1)), timeout_s=None)
    one = Chain(admission, (Scripted(NAME, world),))
    world.run(one.complete(REQUEST))
    world.run(one.complete(REQUEST))
    assert world.now_s() == 61.0


# -- money


def test_scopes_are_the_run_the_model_and_the_month():
    """The virtual world begins in November 2023; a call outside a run has the session's account."""
    world, ledger = World.virtual(), MemoryLedger({})
    admission = shared(world, ledger=ledger)
    assert entered(world, admission, run_id="r1").scopes == ("run:r1", "model:p:m", "month:2023-11")
    assert entered(world, admission).scopes[0].startswith("run:session-")
    assert ledger.balance("model:p:m").reserved == 2 * WORST_MICRO


@pytest.mark.parametrize(
    ("outcome", "sent", "spent", "uncertain"),
    [
        (None, False, 0, 0),
        (None, True, WORST_MICRO, WORST_MICRO),
        (answer(NAME, "42", cost_usd=20e-6), True, 20, 0),
        (answer(NAME, "42", cost_usd=20.1e-6), True, 21, 0),
        (answer(NAME, "42", cost_usd=0.00021), True, 210, 0),
        (answer(NAME, "42", cost_usd=0.0), True, 0, 0),
        (answer(NAME, "42", cost_usd=None), True, WORST_MICRO, WORST_MICRO),
        (Failure(kind="x", code="provider.auth", message="m"), True, 0, 0),
        (Failure(kind="x", code="timeout.idle", message="m", possibly_billed=True), True, WORST_MICRO, WORST_MICRO),
        (Failure(kind="x", code="timeout.idle", message="m", possibly_billed=True, cost_usd=50e-6), True, 50, 50),
        (Failure(kind="x", code="timeout.idle", message="m", possibly_billed=True, cost_usd=50e-6), False, 0, 0),
    ],
)
def test_every_outcome_settles_what_was_set_aside(outcome, sent, spent, uncertain):
    """What it cost, nothing for what was not billed, the worst case for what nobody knows."""
    world, ledger = World.virtual(), MemoryLedger({})
    admission = shared(world, ledger=ledger)

    async def one():
        ticket = await admission.enter(Scripted(NAME, world), REQUEST, "r1", None)
        ticket.sent = sent
        admission.leave(ticket, outcome)

    world.run(one())
    for account in ledger.balances().values():
        assert (account.spent, account.uncertain, account.reserved) == (spent, uncertain, 0)


def test_the_worst_case_counts_what_the_parameters_say():
    """Tools and schemas are read and billed like the prompt: a byte of them may be a token; numbers are no text."""
    plain = largest_prompt(REQUEST.messages)
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 1000}}]
    assert largest_prompt(REQUEST.messages, {"tools": tools, "temperature": 0.7}) == plain + len(
        json.dumps(tools, separators=(",", ":"))
    )
    assert largest_prompt(REQUEST.messages, {"temperature": 0.7, "seed": 1}) == plain
    world, ledger = World.virtual(), MemoryLedger({"run:*": WORST_MICRO + 500})
    admission = shared(world, ledger=ledger)
    request = Request(messages=REQUEST.messages, params={"max_tokens": 16, "tools": tools})
    with pytest.raises(LLMValidationError) as caught:
        entered(world, admission, run_id="r", request=request)
    assert caught.value.code == "budget.exceeded"


def test_the_worst_case_grows_with_max_tokens():
    """17 for the prompt, 2 a token for the answer."""
    world, ledger = World.virtual(), MemoryLedger({})
    request = Request(messages=REQUEST.messages, params={"max_tokens": 1000})
    assert entered(world, shared(world, ledger=ledger), request=request).reserved == 17 + 2000


def test_money_that_others_have_reserved_is_waited_for_until_the_deadline():
    """The error names what was waited for, and nothing was sent."""
    world, ledger = World.virtual(), MemoryLedger({"model:*": WORST_MICRO})
    model = Scripted(NAME, world, (Step("42", after_s=9.0),))
    admission = shared(world, ledger=ledger, timeout_s=None)
    one = Chain(admission, (model,))

    async def two():
        first = asyncio.create_task(one.complete(REQUEST))
        await asyncio.sleep(0)
        failure = await one.ask(REQUEST, timeout_s=2.0)
        assert world.now_s() == pytest.approx(2.0)
        await first
        return failure

    failure = world.run(two())
    assert (failure.code, failure.possibly_billed) == ("timeout.deadline", False)
    assert "budgets of p:m" in failure.message
    assert len(model.seen) == 1
    check_log(world, ledger)


def test_money_that_another_process_gives_back_is_noticed():
    """Nobody in this loop settles; the ledger is asked again four times a second."""
    world, ledger = World.virtual(), MemoryLedger({"model:*": WORST_MICRO})
    ledger.reserve(["model:p:m"], WORST_MICRO)
    one = chain(world, Scripted(NAME, world), ledger=ledger)

    async def waits():
        call = asyncio.create_task(one.complete(REQUEST))
        await world.sleep(1.1)
        ledger.settle(["model:p:m"], WORST_MICRO, 0)
        return await call

    assert world.run(waits()).text == "42"
    assert world.now_s() == pytest.approx(1.25)


def test_a_refused_budget_charges_no_circuit_and_keeps_no_slot():
    """A thousand refusals leave the model as it was."""
    world, ledger = World.virtual(), MemoryLedger({"model:*": 0})
    admission = shared(world, ledger=ledger, limits=only(concurrency=1), breaker=Breaker(minimum_calls=1))
    for _ in range(3):
        with pytest.raises(LLMValidationError):
            entered(world, admission)
    circuit = admission.breakers.circuit("p", "m")
    assert (circuit.state, circuit.buffered) == ("closed", 0)


def test_without_a_ledger_nothing_is_accounted():
    """And nothing is refused."""
    world = World.virtual()
    assert entered(world, Admission(world, Discipline())).scopes == ()


# -- what is out for a run


def in_run(world, coroutine, run_id="r1"):
    """The result of a coroutine inside a run."""

    async def inside():
        with span(world, "session", "run", run_id=run_id):
            return await coroutine

    return world.run(inside())


@pytest.mark.parametrize("code", ["provider.auth", "provider.payment", "provider.not_found", "rate_limit.quota"])
def test_a_model_whose_account_is_refused_is_out_for_the_run(code):
    """It is not asked again in this run, in another it is; `reset` admits it at once."""
    world = World.virtual()
    model = Scripted(NAME, world, (failing(code), Step("42")))
    admission = shared(world)
    one = Chain(admission, (model,))
    first = in_run(world, one.ask(REQUEST))
    second = in_run(world, one.ask(REQUEST))
    assert (first.code, second.code, len(model.seen)) == (code, code, 1)
    assert "out for this run" in second.message
    assert not second.possibly_billed
    assert in_run(world, one.ask(REQUEST), "r2").text == "42"
    admission.reset("p:other")
    assert in_run(world, one.ask(REQUEST)).code == code
    admission.reset(NAME)
    assert in_run(world, one.ask(REQUEST)).text == "42"
    check_log(world, admission.ledger)


def test_outside_a_run_no_model_is_out():
    """There is nothing that it would be out for; other failures put no model out either."""
    world = World.virtual()
    model = Scripted(NAME, world, (failing("provider.auth"), failing("provider.bad_request"), Step("42")))
    one = Chain(shared(world), (model,))
    assert world.run(one.ask(REQUEST)).code == "provider.auth"
    assert in_run(world, one.ask(REQUEST)).code == "provider.bad_request"
    assert in_run(world, one.ask(REQUEST)).text == "42"


def test_the_error_of_a_disabled_model_is_a_new_one_with_its_status():
    """What is known of the first failure, without its attempts."""
    world = World.virtual()
    admission = shared(world)
    first = error_of("provider.auth", "no", status=401, model=NAME)
    admission.disable("r1", NAME, first)
    made = admission.disabled_error("r1", ["p:x", NAME])
    assert made is not first
    assert (made.code, made.status, made.model, made.retryable) == ("provider.auth", 401, NAME, False)
    assert admission.disabled_error("r1", ["p:x"]) is None
    assert admission.disabled_error(None, [NAME]) is None


def test_reset_closes_circuits_and_fills_the_buckets():
    """Of all models, or of one, which leaves the buckets alone."""
    world = World.virtual()
    small = Bucket(capacity=2.0, ratio=0.0)
    admission = shared(world, breaker=Breaker(minimum_calls=1), retries=small, hedges=small)
    for name in (NAME, "p:n"):
        world.run(Chain(admission, (Scripted(name, world, (failing("provider.server"),)),)).ask(REQUEST))
    assert admission.retries < 2
    assert admission.pay_hedge()
    left = admission.retries
    admission.reset(NAME)
    assert [c.state for c in admission.breakers.circuits()] == ["closed", "open"]
    assert admission.retries == left
    admission.reset()
    assert [c.state for c in admission.breakers.circuits()] == ["closed", "closed"]
    assert admission.retries == 2.0
    assert [admission.pay_hedge(), admission.pay_hedge(), admission.pay_hedge()] == [True, True, False]


def test_tokens_are_earned_by_calls_and_paid_by_retries():
    """A tenth each; none is paid that is not there."""
    world = World.virtual()
    admission = shared(world, retries=Bucket(tokens=0.0, capacity=1.0, ratio=0.1))
    assert not admission.pay_retry()
    for _ in range(10):
        admission.begin()
    assert admission.retries == 1.0
    assert admission.pay_retry()
    assert admission.retries == 0.0


# -- cancellation at every moment


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.floats(0, 4), st.floats(0, 4)), min_size=1, max_size=8),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([None, 0.4, 3.0]),
)
def test_whoever_is_cancelled_when_gives_everything_back(callers, slots, budgets, hedge_after_s):
    """Callers come and are cancelled at random: then all slots, money and permits are free, and every call is told."""
    world, ledger = World.virtual(), MemoryLedger({"model:*": budgets * WORST_MICRO + 10**6})
    model = Scripted(NAME, world, (Step("42", after_s=1.0), failing("provider.connection"), Step("42", after_s=0.5)))
    limits = only(concurrency=slots, rate=RateLimit(requests_per_minute=20))
    admission = shared(world, ledger=ledger, limits=limits, hedge_after_s=hedge_after_s, timeout_s=3.0)

    async def caller(begin_s, leave_s):
        await world.sleep(begin_s)
        call = asyncio.create_task(Chain(admission, (model,)).complete(REQUEST))
        await world.sleep(leave_s)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        if not call.cancelled() and call.exception() is not None:
            assert isinstance(call.exception(), LLMError)

    async def everybody():
        before = asyncio.all_tasks()
        await asyncio.gather(*(caller(*times) for times in callers))
        assert asyncio.all_tasks() == before
        lane = admission._lanes.get(NAME)
        if lane is not None:
            slot, queue = lane.here()
            assert (slot._value, queue.locked()) == (slots, False)

    world.run(everybody())
    assert model.under_way == 0
    assert model.most <= slots
    assert len(check_log(world, ledger)) == len([row for row in rows(world) if row.final])
    assert admission.breakers.circuit("p", "m").permits_in_use == 0


def test_usage_of_a_failure_counts_against_the_rate():
    """A refusal with a report of 5 tokens frees what was booked beyond them."""
    world = World.virtual()
    error = error_of("provider.refusal", "no", usage=Usage(prompt_tokens=3, completion_tokens=2))
    model = Scripted(NAME, world, (Step(error),))
    one = chain(world, model, limits=only(rate=RateLimit(tokens_per_minute=120)), timeout_s=None)
    for _ in range(3):
        assert world.run(one.ask(REQUEST)).code == "provider.refusal"
    assert world.now_s() == 0.0
