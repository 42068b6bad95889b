"""One call: a span, exactly one row, and a value, whatever the model does."""

from __future__ import annotations

import asyncio
import types
from dataclasses import dataclass, replace

import pytest

from workbench.act.call import ask
from workbench.act.trace import span
from workbench.act.world import World
from workbench.errors import LLMRateLimitError, LLMTimeoutError
from workbench.facts import Call, Failure, Message, Request, Response, Span, Usage

REQUEST = Request.of("How many?", item_id="i1")


@dataclass
class Fake:
    """A model that waits for virtual seconds, then returns or raises what it was given."""

    name: str
    does: object = "42"
    world: World | None = None
    seconds: float = 0.0

    async def complete(self, request):
        if self.world is not None:
            await self.world.sleep(self.seconds)
        if isinstance(self.does, BaseException):
            raise self.does
        if isinstance(self.does, str):
            return Response(request_key=request.key, model=self.name, text=self.does, source="live")
        return self.does


def rows(world, kind):
    """The facts of one kind, in the order in which they were written."""
    return [f for f in world.sink.facts if isinstance(f, kind)]


def test_an_answer_is_returned_and_logged_once():
    """The response comes back as it is; one call row and one span know the request, the model and the time."""
    world = World.virtual()
    model = Fake("openai:gpt", world=world, seconds=1.5)
    response = world.run(ask(world, model, REQUEST))
    assert response == Response(request_key=REQUEST.key, model="openai:gpt", text="42", source="live")
    (call,), (timed,) = rows(world, Call), rows(world, Span)
    assert (call.provider, call.model, call.item_id) == ("openai", "gpt", "i1")
    assert (call.request, call.response, call.failure) == (REQUEST, response, None)
    assert call.duration_ms == timed.duration_ms == 1500.0
    assert (call.span_id, call.trace_id) == (timed.span_id, timed.trace_id)
    assert timed.ok


def test_a_member_is_logged_under_its_name_in_the_run():
    """The same model twice in a run is told apart by the member's name."""
    world = World.virtual()
    world.run(ask(world, Fake("openai:gpt"), REQUEST, member="gpt#2"))
    assert (rows(world, Call)[0].provider, rows(world, Call)[0].model) == ("openai", "gpt#2")


def test_a_name_without_a_provider_still_names_the_model_in_the_log():
    """Where a model's name has no provider part, the row does not lose its name."""
    world = World.virtual()
    world.run(ask(world, Fake("mine"), REQUEST))
    assert rows(world, Call)[0].model == "mine"


def test_a_typed_error_becomes_a_failure_with_one_row():
    """What the model raises comes back as a value that keeps the code and what a retry needs."""
    world = World.virtual()
    error = LLMRateLimitError("slow down", status=429, retry_after_s=7.0)
    failure = world.run(ask(world, Fake("p:m", error), REQUEST))
    assert failure == Failure(
        kind="LLMRateLimitError",
        code="rate_limit",
        message="slow down",
        retryable=True,
        retry_after_s=7.0,
        status=429,
    )
    (call,) = rows(world, Call)
    assert (call.response, call.failure) == (None, failure)


def test_the_span_of_a_failed_call_is_not_ok():
    """A call that failed counts as failed in its span too: error rates of operations are read from spans."""
    world = World.virtual()
    failure = world.run(ask(world, Fake("p:m", LLMTimeoutError("too late")), REQUEST))
    (timed,) = rows(world, Span)
    assert timed.attributes["failure"] == "timeout.deadline"
    assert (timed.ok, timed.failure) == (False, failure)


def test_ens_one_raises_an_unexpected_error_and_the_others_answer():
    """A plug-in's KeyError is that member's failure, `provider.unexpected`; every other member keeps its answer."""
    world = World.virtual()
    members = [Fake("p:a", world=world), Fake("p:broken", KeyError("choices"), world), Fake("p:c", "43", world)]

    async def ensemble():
        return await asyncio.gather(*(ask(world, m, REQUEST) for m in members))

    first, broken, last = world.run(ensemble())
    assert (first.text, last.text) == ("42", "43")
    assert isinstance(broken, Failure)
    assert (broken.kind, broken.code) == ("LLMProviderError", "provider.unexpected")
    assert broken.message.endswith("raised KeyError: 'choices'")
    assert {c.model: c.failure for c in rows(world, Call)} == {"a": None, "broken": broken, "c": None}


@pytest.mark.parametrize("returned", [None, {"text": "42"}, 42], ids=["None", "dict", "int"])
def test_what_is_no_response_is_malformed(returned):
    """A model that returns anything but a Response fails as `provider.malformed`; the row keeps no response."""
    world = World.virtual()
    failure = world.run(ask(world, Fake("p:m", returned), REQUEST))
    assert failure.code == "provider.malformed"
    assert rows(world, Call)[0].response is None


def test_a_response_without_text_is_malformed_and_never_the_word_none():
    """A Response whose text is None does not reach a merge."""
    world = World.virtual()
    response = Response(request_key="k", model="p:m", text=None, source="live")
    assert world.run(ask(world, Fake("p:m", response), REQUEST)).code == "provider.malformed"


def test_reply_surrogate_is_replaced_before_anything_sees_it():
    """A lone surrogate in the reply becomes U+FFFD in the returned response and in the row; the rest is kept."""
    world = World.virtual()
    sent = Response(request_key="k", model="p:m", text="a\ud83d b \ude00\ud83d\ude00", latency_ms=3.0, source="live")
    response = world.run(ask(world, Fake("p:m", sent), REQUEST))
    assert response == replace(sent, text="a\ufffd b \ufffd\U0001f600")
    assert rows(world, Call)[0].response == response
    assert response.text.encode()


def test_reply_surrogate_in_the_prompt_does_not_stop_a_call():
    """A prompt with a lone surrogate can be asked: it has a key, and the model's answer comes back."""
    world = World.virtual()
    request = Request(messages=(Message(role="user", content="say \udcff"),))
    assert world.run(ask(world, Fake("p:m"), request)).text == "42"


def test_calls_are_children_of_the_item_that_asks():
    """Under gather the calls of two items hang under their own item's span."""
    world = World.virtual()

    async def item(name):
        request = Request.of("q", item_id=name)
        with span(world, "study", "item", {"item_id": name}, run_id="r"):
            await asyncio.gather(*(ask(world, Fake(f"p:{m}", world=world, seconds=s), request) for m, s in
                                   (("a", 2.0), ("b", 1.0))))  # fmt: skip

    async def main():
        await asyncio.gather(item("i1"), item("i2"))

    world.run(main())
    spans = {s.span_id: s for s in rows(world, Span)}
    assert len(rows(world, Call)) == 4
    for call in rows(world, Call):
        parent = spans[spans[call.span_id].parent_id]
        assert (parent.operation, parent.attributes["item_id"]) == ("item", call.item_id)
        assert call.run_id == "r"


def test_ens_cancel_at_any_moment_logs_every_started_call_once():
    """Wherever a cancellation strikes, each begun call has one row, answered or `cancelled`, and no task is left."""
    for turns in range(40):
        world, started = World.virtual(), []

        class Slow(Fake):
            async def complete(self, request, world=world, started=started):
                started.append(self.name)
                for _ in range(self.seconds):
                    await world.sleep(1)
                return await super().complete(request)

        async def main(turns=turns, world=world, model=Slow):
            members = [model(f"p:m{k}", seconds=3 * k) for k in range(8)]
            task = asyncio.create_task(_gathered(world, members))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return task.cancelled()

        cancelled = world.run(main())
        calls = rows(world, Call)
        assert sorted(f"p:{c.model}" for c in calls) == sorted(started)
        assert {c.failure.code for c in calls if c.response is None} <= {"cancelled"}
        assert len(rows(world, Span)) == len(calls)
        assert cancelled or all(c.response is not None for c in calls)


@types.coroutine
def suspended():
    """Give control back once, without an event loop."""
    yield


async def _gathered(world, members):
    return await asyncio.gather(*(ask(world, m, REQUEST) for m in members))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError()], ids=repr)
def test_an_interrupt_is_logged_as_cancelled_and_passes_on(error):
    """Ctrl-C, exit and cancellation inside a model leave one row and are never turned into a value."""
    world = World.virtual()
    stepping = ask(world, Fake("p:m", error), REQUEST)
    with pytest.raises(type(error)):
        stepping.send(None)
    (call,) = rows(world, Call)
    assert (call.response, call.failure.code) == (None, "cancelled")


def test_a_call_that_is_dropped_half_way_still_says_why_it_has_no_answer():
    """A coroutine closed while it waits, as at the end of an event loop, leaves one row with a failure."""

    class Waiting(Fake):
        async def complete(self, request):
            await suspended()

    world = World.virtual()
    stepping = ask(world, Waiting("p:m"), REQUEST)
    stepping.send(None)
    stepping.close()
    (call,) = rows(world, Call)
    assert call.response is None
    assert call.failure is not None


@pytest.mark.parametrize(
    "changes",
    [{"usage": None}, {"usage": Usage(prompt_tokens=2**70)}, {"latency_ms": "fast"}, {"cost_usd": float("nan")},
     {"source": "made up"}],
    ids=str,
)  # fmt: skip
def test_a_response_that_cannot_be_stored_is_the_models_failure(changes):
    """Counts, amounts and the source are checked before the row is written, so that no row is set aside later."""

    class Odd:
        name = "p:odd"

        async def complete(self, request):
            fields = {"request_key": request.key, "model": self.name, "text": "4", "source": "live", **changes}
            return Response(**fields)

    world = World.virtual()
    failure = world.run(ask(world, Odd(), REQUEST))
    assert failure.code == "provider.malformed"
    assert rows(world, Call)[0].response is None
