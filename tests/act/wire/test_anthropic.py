"""The Anthropic format: what is sent, and what is read of whole answers and of events."""

from __future__ import annotations

import pytest

from workbench.act.wire.anthropic import Anthropic
from workbench.act.wire.reply import Reply, verdict_on
from workbench.errors import LLMValidationError
from workbench.facts import Message, Request, Usage

WIRE = Anthropic()


def message(*blocks, reason="end_turn", **more):
    """A whole answer."""
    usage = {"input_tokens": 10, "output_tokens": 5}
    made = {
        "id": "m1",
        "type": "message",
        "model": "claude",
        "content": list(blocks),
        "stop_reason": reason,
        "usage": usage,
    }
    return {**made, **more}


TEXT = {"type": "text", "text": "42"}


def whole(document):
    """What is read of a whole answer."""
    reply = Reply()
    WIRE.whole(document, reply)
    return reply


def test_a_request_sets_system_messages_apart_and_always_limits_the_answer():
    """System texts are joined, `stop` goes by its other name, and max_tokens is compulsory."""
    messages = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Yes?"),
        Message(role="system", content="In French."),
        Message(role="user", content="Go"),
    )
    body = WIRE.body(
        "claude", Request(messages=messages, params={"stop": "END", "top_k": 3}), stream=True, max_tokens=77
    )
    assert body == {
        "model": "claude",
        "max_tokens": 77,
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "Go"},
        ],
        "stop_sequences": ["END"],
        "top_k": 3,
        "system": "Be brief.\n\nIn French.",
        "stream": True,
    }
    assert WIRE.path("claude", stream=True) == "/v1/messages"


def test_what_is_not_asked_for_is_not_sent():
    """No system, no stream and no stop without a reason; a list of stops stays one."""
    body = WIRE.body("claude", Request.of("Hi"), stream=False, max_tokens=5)
    assert set(body) == {"model", "max_tokens", "messages"}
    request = Request(messages=(), params={"stop": ["a", "b"], "max_tokens": 9})
    body = WIRE.body("claude", request, stream=False, max_tokens=9)
    assert (body["stop_sequences"], body["max_tokens"]) == (["a", "b"], 9)


def test_reserved_parameters_are_refused():
    """The system prompt is a message."""
    with pytest.raises(LLMValidationError) as caught:
        WIRE.body("claude", Request(messages=(), params={"system": "x"}), stream=False, max_tokens=1)
    assert caught.value.code == "validation.params"


def test_a_whole_answer_is_read_without_its_thinking():
    """Reasoning is no answer; text blocks follow one another."""
    thinking = {"type": "thinking", "thinking": "hmm", "signature": "s"}
    reply = whole(
        message(
            thinking,
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "4"},
            {"type": "text", "text": "2"},
        )
    )
    assert (reply.whole, reply.finish, reply.found) == ("42", "stop", True)
    assert (reply.served_model, reply.request_id) == ("claude", "m1")


def test_cached_tokens_belong_to_the_prompt():
    """input_tokens leaves out what was read from and written to the cache: 10 + 100 + 20 were sent."""
    usage = {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20}
    assert whole(message(TEXT, usage=usage)).usage == Usage(prompt_tokens=130, completion_tokens=5, cached_tokens=100)
    lies = {"input_tokens": 10, "cache_read_input_tokens": -5, "cache_creation_input_tokens": "x"}
    assert whole(message(TEXT, usage=lies)).usage.prompt_tokens == 10


@pytest.mark.parametrize(
    ("reason", "finish", "code"),
    [
        ("end_turn", "stop", None),
        ("stop_sequence", "stop", None),
        ("max_tokens", "length", None),
        ("model_context_window_exceeded", "length", None),
        ("pause_turn", "length", None),
        ("tool_use", "tool_calls", "provider.empty"),
        ("refusal", "refusal", "provider.refusal"),
        ("new_reason", "new_reason", None),
        (None, None, None),
    ],
)
def test_every_stop_reason_has_its_meaning(reason, finish, code):
    """A cut answer is one and says so; a refusal and a tool call are none."""
    reply = whole(message(TEXT, reason=reason))
    assert reply.finish == finish
    made = verdict_on(reply, model="p:claude", streamed=False)
    assert (made.code if made else None) == code


@pytest.mark.parametrize("kind", ["tool_use", "server_tool_use"])
def test_a_tool_call_is_no_answer(kind):
    """Although a text stands before it."""
    reply = whole(message(TEXT, {"type": kind, "name": "t", "input": {}}, reason="end_turn"))
    assert reply.tools
    assert verdict_on(reply, model="p:claude", streamed=False).code == "provider.empty"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"content": None},
        {"content": "text"},
        {"content": {}},
        {"usage": 7},
        {"model": 1, "id": 2, "stop_reason": 3},
    ],
)
def test_fields_of_the_wrong_type_are_missing_fields(document):
    """Nothing raises."""
    reply = whole(document)
    assert (reply.whole, reply.usage, reply.served_model, reply.finish, reply.found) == ("", Usage(), None, None, False)
    assert whole({"content": [None, 3, {"type": "text", "text": 5}]}).whole == ""


def test_an_error_document_is_an_error():
    """In a 200 too."""
    reply = whole({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    assert verdict_on(reply, model="p:claude", streamed=False).code == "provider.overloaded"


def delta(text, kind="text_delta", **more):
    """An event with a piece."""
    return {"type": "content_block_delta", "index": 0, "delta": {"type": kind, "text": text, **more}}


START = {
    "type": "message_start",
    "message": {"id": "m1", "model": "claude", "usage": {"input_tokens": 10, "output_tokens": 1}},
}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
END = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}
STOP = {"type": "message_stop"}


def test_a_stream_is_put_together():
    """Text only; pings, thinking and signatures give none; the last usage counts, the end is seen."""
    reply = Reply()
    ping, thought = (
        {"type": "ping"},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}},
    )
    flow = (START, BLOCK, ping, thought, delta("4"), delta("2"), {"type": "content_block_stop"}, END)
    pieces = [WIRE.event(e, reply) for e in flow]
    assert not reply.ended
    WIRE.event(STOP, reply)
    assert "".join(pieces) == reply.whole == "42"
    assert (reply.ended, reply.finish, reply.usage) == (True, "stop", Usage(prompt_tokens=10, completion_tokens=5))
    assert (reply.request_id, reply.served_model) == ("m1", "claude")


def test_a_tool_begun_in_a_stream_is_noticed():
    """By the block's start."""
    reply = Reply()
    WIRE.event({"type": "content_block_start", "content_block": {"type": "tool_use", "name": "t"}}, reply)
    assert reply.tools


def test_an_error_event_ends_in_the_error():
    """The first one is kept; what was said before stays."""
    reply = Reply()
    for event in (
        START,
        delta("4"),
        {"type": "error", "error": {"type": "overloaded_error", "message": "o"}},
        {"type": "error"},
    ):
        reply.events += 1
        WIRE.event(event, reply)
    made = verdict_on(reply, model="p:claude", streamed=True)
    assert (made.code, made.retryable, made.partial) == ("provider.overloaded", True, "4")


@pytest.mark.parametrize(
    "event", [{}, {"type": None}, {"type": "content_block_delta", "delta": 5}, {"type": "message_start"}]
)
def test_events_of_the_wrong_form_give_nothing(event):
    """And do not raise."""
    reply = Reply()
    assert WIRE.event(event, reply) == ""
    assert (reply.whole, reply.error, reply.usage) == ("", None, Usage())
