"""The discipline around a call: who is asked, how often, until when, and what the log says of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from tests.act.wire.harness import (
    NO_RETRY,
    REQUEST,
    WORST_MICRO,
    Plain,
    Scripted,
    Server,
    Step,
    answer,
    chain,
    chat,
    check_error,
    check_log,
    decisions,
    document,
    events,
    failing,
    piece,
    raised,
    rows,
    shared,
    stream_of,
    wired,
)
from workbench.act.ensemble import Asked, fan_out
from workbench.act.failover import Chain
from workbench.act.ledger import MemoryLedger
from workbench.act.trace import span
from workbench.act.world import World
from workbench.decide.breaker import Breaker
from workbench.decide.classify import error_of
from workbench.decide.retry import Bucket, RetryPolicy
from workbench.errors import LLMError, LLMFailoverError, LLMProviderError, LLMTimeoutError
from workbench.facts import Failure, Message, Request, Response, Span, Usage

DOWN = failing("provider.server", status=500)
PLENTY = Bucket(capacity=100.0, ratio=1.0)


def asked_of(*models):
    """How often each model was asked."""
    return [len(model.seen) for model in models]


SECOND = (Step("second"),)


def pair(world, first, second=SECOND, *, windows=(None, None)):
    """Two models that follow their steps."""
    return (
        Scripted("p:a", world, first, window=windows[0]),
        Scripted("p:b", world, second, window=windows[1]),
    )


# -- one answer


def test_an_answer_is_one_row_and_one_span():
    """Under the member's name, with the key and the number of attempts."""
    world, ledger = World.virtual(), MemoryLedger({})
    one = chain(world, Scripted("p:m", world), ledger=ledger)
    assert one.name == "p:m"
    response = world.run(one.ask(REQUEST, member="m#2"))
    assert (response.text, response.model) == ("42", "p:m")
    ((row,),) = check_log(world, ledger).values()
    assert (row.provider, row.model, row.member, row.item_id) == ("p", "m", "m#2", "i1")
    assert (row.attempt, row.final, row.status, row.response) == (1, True, "ok", response)
    (timed,) = rows(world, Span)
    assert (timed.attributes["attempts"], timed.ok, timed.span_id) == (1, True, row.span_id)


def test_a_fallback_is_logged_under_its_own_name():
    """The member stays who it is; the model is the one that was asked."""
    world = World.virtual()
    models = pair(world, (failing("provider.auth"),))
    assert world.run(chain(world, *models).ask(REQUEST, member="m#2")).model == "p:b"
    (attempts,) = check_log(world).values()
    assert [(r.model, r.member, r.attempt, r.final) for r in attempts] == [
        ("a", "m#2", 1, False),
        ("b", "m#2", 2, True),
    ]


def test_every_attempt_carries_one_key_and_every_call_its_own():
    """So that a provider can tell a repetition from a new question."""
    world = World.virtual()
    model = Scripted("p:m", world, (DOWN, Step("42")))
    one = chain(world, model)
    world.run(one.complete(REQUEST))
    world.run(one.complete(REQUEST))
    keys = [terms.idempotency_key for terms in model.seen]
    assert keys[0] == keys[1] != keys[2]
    assert all(len(key) == 32 for key in keys)


def test_a_call_that_repeats_an_earlier_one_carries_its_key():
    """All attempts of `ask`, and of a member of a fan-out, are sent under the key that the caller gives."""
    world = World.virtual()
    model = Scripted("p:m", world, (DOWN, Step("42")))
    one = chain(world, model)
    assert isinstance(world.run(one.ask(REQUEST, key="again")), Response)
    world.run(fan_out(world, [Asked(name="m", model=one, request=REQUEST, key="once")], timeout_s=None))
    assert [terms.idempotency_key for terms in model.seen] == ["again", "again", "once"]


# -- whom a failure concerns


@pytest.mark.parametrize("code", ["provider.bad_request", "validation.request"])
def test_a_bad_request_stops_the_chain(code):
    """Any model would refuse it."""
    world = World.virtual()
    models = pair(world, (failing(code),))
    check_error(raised(world, chain(world, *models).complete(REQUEST)), code, attempts=1)
    assert asked_of(*models) == [1, 0]


@pytest.mark.parametrize(
    ("first", "second", "asked"), [(1000, 2000, 1), (1000, 1000, 0), (1000, 500, 0), (None, 500, 1), (1000, None, 1)]
)
def test_a_prompt_too_long_goes_only_to_a_larger_window(first, second, asked):
    """An unknown window may be larger: a refused attempt costs nothing, a call that nobody tries is lost."""
    world = World.virtual()
    models = pair(world, (failing("provider.context_length"),), windows=(first, second))
    result = world.run(chain(world, *models).ask(REQUEST))
    assert asked_of(*models) == [1, asked]
    assert isinstance(result, Response) if asked else result.code == "provider.context_length"


@pytest.mark.parametrize("code", ["provider.content_filter", "provider.refusal"])
@pytest.mark.parametrize("allowed", [False, True])
def test_filtered_content_goes_to_another_model_only_by_option(code, allowed):
    """Asking around for someone who answers is a choice."""
    world = World.virtual()
    models = pair(world, (failing(code),))
    result = world.run(chain(world, *models, failover_on_content_filter=allowed).ask(REQUEST))
    assert asked_of(*models) == [1, int(allowed)]
    assert result.text == "second" if allowed else result.code == code


@pytest.mark.parametrize("code", ["provider.auth", "provider.payment", "provider.not_found", "rate_limit.quota"])
def test_a_refused_account_takes_its_model_out_of_the_run(code):
    """The next call goes to the fallback at once."""
    world = World.virtual()
    models = pair(world, (failing(code),))
    one = chain(world, *models)

    async def run():
        with span(world, "session", "run", run_id="r1"):
            return [(await one.complete(REQUEST)).model for _ in range(3)]

    assert world.run(run()) == ["p:b"] * 3
    assert asked_of(*models) == [1, 3]
    check_log(world)


def test_a_refused_account_counts_for_a_hedge_too():
    """The model that was asked beside a slow one is out as well when its key is refused."""
    world = World.virtual()
    models = pair(world, (Step("42", after_s=3.0),), (failing("provider.auth"),))
    one = chain(world, *models, hedge_after_s=1.0, hedges=PLENTY)

    async def run():
        with span(world, "session", "run", run_id="r1"):
            return [(await one.complete(REQUEST)).text for _ in range(2)]

    assert world.run(run()) == ["42", "42"]
    assert len(models[1].seen) == 1


@pytest.mark.parametrize("code", ["provider.server", "provider.connection", "rate_limit", "provider.empty"])
def test_what_may_heal_is_tried_again_before_another_model_is_asked(code):
    """Two retries, then the fallback; each decision is in the log."""
    world = World.virtual()
    models = pair(world, (failing(code),))
    assert world.run(chain(world, *models).complete(REQUEST)).text == "second"
    assert asked_of(*models) == [3, 1]
    assert [d.output["action"] for d in decisions(world)] == ["retry", "retry", "failover"]
    check_log(world)


@pytest.mark.parametrize("code", ["provider.overloaded", "timeout.first_token", "timeout.idle"])
def test_an_overloaded_or_silent_model_is_left_at_once(code):
    """Asking it again would meet the same; without an alternative it is asked again."""
    world = World.virtual()
    models = pair(world, (failing(code),))
    world.run(chain(world, *models).complete(REQUEST))
    assert asked_of(*models) == [1, 1]
    alone = Scripted("p:a", world, (failing(code), Step("42")))
    assert world.run(chain(world, alone).complete(REQUEST)).text == "42"


def test_an_open_circuit_is_passed_over():
    """The fallback is asked without a try of the first, and no row tells of one."""
    world = World.virtual()
    models = pair(world, (DOWN,))
    one = chain(world, *models, breaker=Breaker(minimum_calls=1), retry=NO_RETRY)
    world.run(one.complete(REQUEST))
    world.run(one.complete(REQUEST))
    assert asked_of(*models) == [1, 2]
    calls = list(check_log(world).values())
    assert [[r.model for r in attempts] for attempts in calls] == [["a", "b"], ["b"]]


def test_a_chain_that_failed_and_is_open_behind_says_so():
    """The last failure is the cause; the row that ends the call was never sent."""
    world = World.virtual()
    first, second = pair(world, (DOWN,), (DOWN,))
    admission = shared(world, breaker=Breaker(minimum_calls=1, cooldown_s=20.0), retry=NO_RETRY)
    world.run(Chain(admission, (second,)).ask(REQUEST))
    error = raised(world, Chain(admission, (first, second)).complete(REQUEST))
    check_error(error, "failover.exhausted", attempts=1)
    assert isinstance(error, LLMFailoverError)
    assert isinstance(error.__cause__, LLMProviderError)
    assert error.retry_after_s == 20.0
    attempts = list(check_log(world).values())[-1]
    assert [(r.attempt, r.status, r.final) for r in attempts] == [(1, "error", False), (0, "error", True)]


def test_forced_open_names_no_time_to_wait():
    """It stays open until somebody resets it."""
    world = World.virtual()
    admission = shared(world)
    admission.breakers.force("p", "m", "forced_open")
    error = raised(world, Chain(admission, (Scripted("p:m", world),)).complete(REQUEST))
    check_error(error, "failover.all_open", attempts=0)
    assert error.retry_after_s is None
    assert "reset" in error.next_step


# -- time


def test_whole_answers_share_the_time_with_the_models_behind():
    """9 s for three models: 3 for the first, half of the rest for the second, all that is left for the last."""
    world, ledger = World.virtual(), MemoryLedger({})
    silent = Step("late", after_s=99.0)
    models = [Scripted(f"p:m{n}", world, (silent,)) for n in range(3)]
    error = raised(world, chain(world, *models, timeout_s=9.0, ledger=ledger).complete(REQUEST))
    assert [m.seen[0].timeout_s for m in models] == [3.0, 3.0, 3.0]
    assert world.now_s() == pytest.approx(9.0)
    assert [a.code for a in error.attempts] == ["timeout.attempt", "timeout.attempt", "timeout.deadline"]
    assert error.possibly_billed
    assert [r.status for r in rows(world)] == ["timeout"] * 3
    check_log(world, ledger)
    assert ledger.balance("model:p:m0").uncertain == WORST_MICRO


def test_an_answer_within_its_share_leaves_the_rest_alone():
    """A streamed answer shows that it lives, and has the whole time."""
    world = World.virtual()
    models = pair(world, (Step("42", after_s=4.0),))
    assert world.run(chain(world, *models, timeout_s=9.0).complete(REQUEST)).text == "42"
    streaming = pair(world, (Step("42", after_s=8.0),))
    assert world.run(chain(world, *streaming, timeout_s=9.0, stream=True).complete(REQUEST)).text == "42"
    assert streaming[0].seen[0].stream


@pytest.mark.parametrize("kind", [Scripted, Plain])
def test_a_model_that_is_late_is_left_at_the_deadline(kind):
    """Whether it knows terms or not."""
    world = World.virtual()
    model = kind("p:m", world, (Step(after_s=99.0),)) if kind is Scripted else Plain("p:m", after_s=99.0)
    error = raised(world, chain(world, model, timeout_s=2.0).complete(REQUEST))
    check_error(error, "timeout.deadline")
    assert isinstance(error, LLMTimeoutError)
    assert world.now_s() == pytest.approx(2.0)


def test_a_late_plain_model_leaves_its_share_to_the_next():
    """Half of the time each."""
    world = World.virtual()
    models = (Plain("p:a", after_s=99.0), Plain("p:b", "second"))
    assert world.run(chain(world, *models, timeout_s=4.0).complete(REQUEST)).text == "second"
    assert world.now_s() == pytest.approx(2.0)
    assert rows(world)[0].failure.code == "timeout.attempt"


def test_a_share_that_ends_after_the_deadline_is_the_deadline():
    """A model that blocks for longer than the call may take leaves no time for the next, and no advice about shares."""
    world = World.virtual()

    class Blocking(Plain):
        async def complete(self, request):
            world.pause(3.0)
            return await super().complete(request)

    models = (Blocking("p:a", after_s=99.0), Plain("p:b", "second"))
    error = raised(world, chain(world, *models, timeout_s=2.0).complete(REQUEST))
    assert isinstance(error, LLMTimeoutError)
    assert error.code == "timeout.deadline"
    assert [a.code for a in error.attempts] == ["timeout.attempt"]
    assert "share" not in error.next_step


def test_a_time_for_one_call_takes_the_place_of_the_settings():
    """And no time at all is no limit."""
    world = World.virtual()
    model = Scripted("p:m", world, (Step("42", after_s=5.0),))
    one = chain(world, model, timeout_s=1.0, retry=NO_RETRY)
    assert world.run(one.ask(REQUEST, timeout_s=6.0)).text == "42"
    assert world.run(one.ask(REQUEST)).code == "timeout.deadline"
    assert world.run(chain(world, model, timeout_s=None).complete(REQUEST)).text == "42"


def test_a_timeout_error_of_a_model_is_its_failure_and_no_deadline():
    """A plain model that raises TimeoutError by itself, at once, did not use up the time."""
    world = World.virtual()
    error = raised(
        world, chain(world, Plain("p:m", TimeoutError("mine")), timeout_s=9.0, retry=NO_RETRY).complete(REQUEST)
    )
    check_error(error, "provider.unexpected", attempts=1)
    assert world.now_s() == 0.0


# -- models that do what they should not


@pytest.mark.parametrize("kind", [ValueError, KeyError, RecursionError, OSError, asyncio.CancelledError])
@pytest.mark.parametrize("live", [True, False])
def test_a_foreign_exception_is_the_models_failure(kind, live):
    """It is typed, keeps its cause, is not tried again and may have been billed."""
    world, ledger = World.virtual(), MemoryLedger({})
    model = Scripted("p:m", world, (Step(kind("odd")),)) if live else Plain("p:m", kind("odd"))
    error = raised(world, chain(world, model, ledger=ledger).complete(REQUEST))
    check_error(error, "provider.unexpected", attempts=1)
    assert isinstance(error.__cause__, kind)
    assert error.possibly_billed
    assert kind.__name__ in error.message
    ((row,),) = check_log(world, ledger).values()
    assert (row.status, row.final) == ("error", True)


@pytest.mark.parametrize("kind", [ConnectionError, ConnectionResetError, TimeoutError])
@pytest.mark.parametrize("live", [True, False])
def test_a_connection_or_timeout_of_a_models_own_may_heal(kind, live):
    """It is tried again like a provider's, and every attempt may have been billed."""
    world, ledger = World.virtual(), MemoryLedger({})
    model = (
        Scripted("p:m", world, (Step(kind("odd")),)) if live and kind is not TimeoutError else Plain("p:m", kind("odd"))
    )
    error = raised(world, chain(world, model, ledger=ledger).complete(REQUEST))
    check_error(error, "provider.unexpected", attempts=3)
    assert isinstance(error.__cause__, kind)
    assert all(a.possibly_billed for a in error.attempts)
    check_log(world, ledger)


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        7,
        {"text": "42"},
        answer("p:m", None),
        answer("p:m", "42", usage=None),
        answer("p:m", "42", usage=Usage(prompt_tokens=-1)),
        answer("p:m", "42", usage=Usage(completion_tokens=2**63)),
        answer("p:m", "42", cost_usd=float("nan")),
        answer("p:m", "42", cost_usd=-1.0),
        answer("p:m", "42", latency_ms=float("inf")),
        Response(request_key="k", model="p:m", text="42", source="heaven"),
    ],
)
@pytest.mark.parametrize("live", [True, False])
def test_nonsense_is_malformed_and_possibly_billed(nonsense, live):
    """What is no usable response is the model's failure; that it came back says that it may cost."""
    world, ledger = World.virtual(), MemoryLedger({})
    model = Scripted("p:m", world, (Step(nonsense),)) if live else Plain("p:m", nonsense)
    error = raised(world, chain(world, model, ledger=ledger, retry=NO_RETRY).complete(REQUEST))
    check_error(error, "provider.malformed", attempts=1)
    assert error.possibly_billed
    check_log(world, ledger)
    if live:
        assert ledger.balance("model:p:m").uncertain == WORST_MICRO


def test_an_error_that_names_no_model_gets_its_name():
    """A model of the user's own need not say who it is."""
    world = World.virtual()
    error = raised(world, chain(world, Plain("p:m", LLMProviderError("no")), retry=NO_RETRY).complete(REQUEST))
    assert (error.model, error.code) == ("p:m", "provider.error")


@pytest.mark.parametrize("content", [None, 7, b"bytes"])
def test_a_message_that_is_no_text_is_refused_by_name(content):
    """As the caller's input, before anything is sent, and not as an AttributeError."""
    world, server = World.virtual(), Server([document(chat())])
    request = Request(messages=(Message(role="user", content=content),))
    error = raised(world, chain(world, wired(world, server)).complete(request))
    assert error.code.startswith("validation.")
    assert server.requests == []
    check_log(world)


def test_a_response_with_characters_that_cannot_be_stored_is_mended():
    """Lone surrogates are replaced."""
    world = World.virtual()
    assert world.run(chain(world, Plain("p:m", "4\ud800")).complete(REQUEST)).text == "4\ufffd"


# -- streams to a consumer


async def collected(stream):
    """The pieces, and the error that ended them."""
    pieces = []
    try:
        async with aclosing(stream):
            async for text in stream:
                pieces.append(text)  # noqa: PERF401 - what came before an error is kept
    except LLMError as error:
        return pieces, error
    return pieces, None


SPOKEN = Step("4 2", pieces=("4", " ", "2"), every_s=1.0)


def test_a_stream_gives_its_pieces_as_they_come():
    """One row, like any call; the request is asked for as a stream."""
    world, ledger = World.virtual(), MemoryLedger({})
    model = Scripted("p:m", world, (SPOKEN,))
    assert world.run(collected(chain(world, model, ledger=ledger).stream(REQUEST))) == (["4", " ", "2"], None)
    assert model.seen[0].stream
    ((row,),) = check_log(world, ledger).values()
    assert (row.status, row.response.text) == ("ok", "4 2")


def test_a_stream_is_tried_again_before_its_first_piece():
    """The consumer does not notice."""
    world = World.virtual()
    models = pair(world, (DOWN,), (SPOKEN,))
    assert world.run(collected(chain(world, *models).stream(REQUEST)))[0] == ["4", " ", "2"]
    assert asked_of(*models) == [3, 1]


@pytest.mark.parametrize("code", ["provider.truncated", "provider.connection", "timeout.idle", "provider.overloaded"])
def test_nothing_is_tried_again_after_the_first_piece(code):
    """What was handed out cannot be taken back: the error ends the stream."""
    world, ledger = World.virtual(), MemoryLedger({})
    models = pair(world, (Step(error_of(code, "cut", partial="4"), pieces=("4",)),))
    pieces, error = world.run(collected(chain(world, *models, ledger=ledger).stream(REQUEST)))
    assert pieces == ["4"]
    check_error(error, code, attempts=1)
    assert error.partial == "4"
    assert asked_of(*models) == [1, 0]
    check_log(world, ledger)


def test_a_consumer_that_leaves_early_closes_the_connection():
    """The row says cancelled, what had arrived is settled as possibly billed, and no task is left."""
    world, ledger = World.virtual(), MemoryLedger({})
    body = stream_of([events(piece(c), done=False) for c in "abc"], 1.0)
    one = chain(world, wired(world, Server([body])), ledger=ledger)

    async def leave():
        before = asyncio.all_tasks()
        async with aclosing(one.stream(REQUEST)) as pieces:
            async for text in pieces:
                assert text == "a"
                break
        assert asyncio.all_tasks() == before

    world.run(leave())
    assert body.stream.closed
    ((row,),) = check_log(world, ledger).values()
    assert (row.status, row.final) == ("cancelled", True)
    account = ledger.balance("model:p:gpt")
    assert (account.spent, account.uncertain) == (9, 9)  # 7 tokens asked at 1, the one that came at 2
    assert (row.failure.partial, world.now_s()) == ("a", 1.0)


def test_a_cancelled_consumer_takes_its_call_along():
    """While it waits for a piece."""
    world, ledger = World.virtual(), MemoryLedger({})
    model = Scripted("p:m", world, (Step("42", after_s=9.0),))

    async def cancelled():
        task = asyncio.create_task(collected(chain(world, model, ledger=ledger).stream(REQUEST)))
        await world.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    world.run(cancelled())
    assert model.under_way == 0
    assert [r.status for r in rows(world)] == ["cancelled"]
    check_log(world, ledger)


def test_a_stream_is_never_hedged():
    """Two answers at once would be mixed."""
    world = World.virtual()
    model = Scripted("p:m", world, (SPOKEN,))
    world.run(collected(chain(world, model, hedge_after_s=0.1).stream(REQUEST)))
    assert len(model.seen) == 1


def test_a_model_that_cannot_stream_gives_its_answer_as_one_piece():
    """A plain model in the chain does not make the answer disappear."""
    world = World.virtual()
    assert world.run(collected(chain(world, Plain("p:m", "42")).stream(REQUEST))) == (["42"], None)


def test_a_whole_error_in_the_place_of_a_stream_still_fails_over():
    """No text was shown, so the next model may answer."""
    world = World.virtual()
    broken = document({"error": {"type": "server_error", "message": "m"}})
    good = lambda: stream_of([events(piece("42", "stop"))])  # noqa: E731
    models = (wired(world, Server([broken]), name="a"), wired(world, Server([good]), name="b"))
    assert world.run(collected(chain(world, *models, retry=NO_RETRY).stream(REQUEST))) == (["42"], None)


# -- hedges


def test_a_hedge_that_may_not_be_paid_is_not_sent():
    """The first is waited for."""
    world = World.virtual()
    model = Scripted("p:m", world, (Step("42", after_s=3.0),))
    empty = Bucket(tokens=0.0, capacity=1.0, ratio=0.0)
    assert world.run(chain(world, model, hedge_after_s=1.0, hedges=empty).complete(REQUEST)).text == "42"
    assert (len(model.seen), world.now_s()) == (1, 3.0)


def test_a_failure_before_the_hedge_is_due_is_tried_again_as_ever():
    """Retry and hedge exclude each other only once a hedge was sent."""
    world = World.virtual()
    model = Scripted("p:m", world, (DOWN, Step("42")))
    assert world.run(chain(world, model, hedge_after_s=5.0).complete(REQUEST)).text == "42"
    assert len(model.seen) == 2


@pytest.mark.parametrize("first_fails", [True, False])
def test_one_failure_of_two_does_not_end_a_hedged_call(first_fails):
    """The other one answers; the row that ends the call is the answer's, and both are told."""
    world, ledger = World.virtual(), MemoryLedger({})
    late_failure, good = Step(DOWN.does, after_s=2.0), Step("42", after_s=4.0)
    quick_failure = Step(DOWN.does, after_s=0.5)
    steps = (late_failure, good) if first_fails else (good, quick_failure)
    model = Scripted("p:m", world, steps)
    assert world.run(chain(world, model, hedge_after_s=1.0, ledger=ledger).complete(REQUEST)).text == "42"
    (attempts,) = check_log(world, ledger).values()
    assert sorted(r.status for r in attempts) == ["error", "ok"]
    assert attempts[-1].status == "ok"


def test_a_hedged_call_that_fails_twice_goes_on_to_the_next_model():
    """There is a third one left."""
    world = World.virtual()
    models = [Scripted(f"p:m{n}", world, (Step(DOWN.does, after_s=2.0),)) for n in range(2)]
    third = Scripted("p:m2", world)
    assert world.run(chain(world, *models, third, hedge_after_s=1.0).complete(REQUEST)).model == "p:m2"
    assert asked_of(*models, third) == [1, 1, 1]
    check_log(world)


def test_a_hedge_to_an_open_circuit_leaves_the_first_alone():
    """It goes to the first model again, whose first answer is quicker."""
    world = World.virtual()
    models = pair(world, (Step("42", after_s=3.0),))
    admission = shared(world, hedge_after_s=1.0)
    admission.breakers.force("p", "b", "forced_open")
    assert world.run(Chain(admission, models).complete(REQUEST)).text == "42"
    assert asked_of(*models) == [2, 0]
    check_log(world)


def test_a_hedge_that_cannot_be_sent_costs_nothing():
    """With every circuit shut or open behind it, the call keeps its retries and its fallbacks, and no hedge is paid."""
    world = World.virtual()
    models = pair(world, (Step(failing("provider.server", status=500).does, after_s=3.0), Step("42")))
    admission = shared(world, hedge_after_s=1.0)
    for model in ("a", "b"):
        admission.breakers.force("p", model, "disabled" if model == "a" else "forced_open")
    admission.may_pass = lambda run_id, model: False
    assert world.run(Chain(admission, models).complete(REQUEST)).text == "42"
    assert asked_of(*models) == [2, 0]
    check_log(world)


def test_two_answers_at_the_same_moment_are_one_result():
    """The first request's; both are paid for and told, and the row that ends the call is the result's."""
    world, ledger = World.virtual(), MemoryLedger({})
    model = Scripted("p:m", world, (Step("first", after_s=2.0), Step("second", after_s=1.0)))
    response = world.run(chain(world, model, hedge_after_s=1.0, ledger=ledger).complete(REQUEST))
    (attempts,) = check_log(world, ledger).values()
    assert len(attempts) == 2
    assert attempts[-1].response == response
    spent = ledger.balance("model:p:m")
    assert spent.spent - spent.uncertain == 20 * sum(r.status == "ok" for r in attempts)
    assert spent.uncertain == WORST_MICRO * sum(r.status == "cancelled" for r in attempts)


def test_a_circuit_that_opens_under_a_call_of_one_model_leaves_its_last_failure():
    """The retry was decided, but the circuit lets nothing through: the call ends with what happened."""
    world, ledger = World.virtual(), MemoryLedger({})
    model = Scripted("p:m", world, (DOWN,))
    error = raised(world, chain(world, model, breaker=Breaker(minimum_calls=1), ledger=ledger).complete(REQUEST))
    check_error(error, "provider.server", attempts=1)
    assert len(model.seen) == 1
    (attempts,) = check_log(world, ledger).values()
    assert [(r.attempt, r.final) for r in attempts] == [(1, False), (0, True)]


def test_a_deadline_that_passes_in_an_attempt_ends_the_call():
    """Nothing is decided or tried after it, and the last failure is the answer to why."""
    world, ledger = World.virtual(), MemoryLedger({})
    model = Scripted("p:m", world, (Step("late", after_s=9.0),))
    error = raised(world, chain(world, model, timeout_s=2.0, ledger=ledger).complete(REQUEST))
    check_error(error, "timeout.deadline", attempts=1)
    assert decisions(world) == []
    check_log(world, ledger)


def test_a_backoff_past_the_deadline_keeps_what_was_said():
    """The timeout names the failure before it, and has its partial text."""
    world = World.virtual()

    class Slow(RetryPolicy):
        def delay_s(self, attempt, **_):
            return 5.0

    cut = Step(error_of("provider.truncated", "cut", partial="4"))
    error = raised(world, chain(world, Scripted("p:m", world, (cut,)), timeout_s=2.0, retry=Slow()).complete(REQUEST))
    check_error(error, "timeout.deadline", attempts=1)
    assert (error.partial, error.possibly_billed) == ("4", True)
    assert "cut" in error.message


# -- cancellation


@pytest.mark.parametrize("after", range(40))
@pytest.mark.parametrize("hedge_after_s", [None, 0.2])
def test_a_cancelled_call_ends_with_one_row_wherever_it_was(after, hedge_after_s):
    """Before, in, between and after attempts: one final row, nothing set aside, no task left, no permit in use."""
    world, ledger = World.virtual(), MemoryLedger({})
    steps = (Step(DOWN.does, after_s=0.5), Step(DOWN.does, after_s=0.5), Step("42", after_s=0.5))
    model = Scripted("p:m", world, steps)
    admission = shared(world, ledger=ledger, retry=RetryPolicy(base_delay_s=1.0), hedge_after_s=hedge_after_s)

    async def cancelled():
        before = asyncio.all_tasks()
        call = asyncio.create_task(Chain(admission, (model,)).complete(REQUEST))
        for _ in range(after % 8):
            await asyncio.sleep(0)
        await world.sleep(0.1 * (after // 8) * 2)
        call.cancel()
        result = (await asyncio.gather(call, return_exceptions=True))[0]
        assert asyncio.all_tasks() == before
        return result

    result = world.run(cancelled())
    assert isinstance(result, asyncio.CancelledError | Response | LLMError)
    calls = check_log(world, ledger) if rows(world) else {}
    if after:
        assert len(calls) == 1
        (attempts,) = calls.values()
        assert attempts[-1].status == (
            "cancelled" if isinstance(result, asyncio.CancelledError) else attempts[-1].status
        )
    assert model.under_way == 0
    assert admission.breakers.circuit("p", "m").permits_in_use == 0


def test_a_call_cancelled_between_two_attempts_ends_with_a_row_of_its_own():
    """It was no attempt: number 0."""
    world = World.virtual()

    class Slow(RetryPolicy):
        def delay_s(self, attempt, **_):
            return 5.0

    one = chain(world, Scripted("p:m", world, (DOWN,)), retry=Slow())

    async def cancelled():
        call = asyncio.create_task(one.complete(REQUEST))
        await world.sleep(1.0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    world.run(cancelled())
    (attempts,) = check_log(world).values()
    assert [(r.attempt, r.status, r.final) for r in attempts] == [(1, "error", False), (0, "cancelled", True)]


def test_a_failure_as_a_value_is_what_would_have_been_raised():
    """`ask` gives the code, class and hints of the error."""
    world = World.virtual()
    failure = world.run(chain(world, Scripted("p:m", world, (failing("rate_limit", retry_after_s=99.0),))).ask(REQUEST))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code, failure.retry_after_s) == ("LLMRateLimitError", "rate_limit", 99.0)
    assert world.now_s() == 0.0  # longer than max_retry_after_s is not waited for
