"""The OpenAI format: what is sent, and what is read of whole answers and of events."""

from __future__ import annotations

import pytest

from tests.act.wire.harness import chat, piece
from workbench.act.wire.openai import OpenAI
from workbench.act.wire.reply import Reply
from workbench.errors import LLMValidationError
from workbench.facts import Message, Request, Usage

WIRE = OpenAI()


def whole(document):
    """What is read of a whole answer."""
    reply = Reply()
    WIRE.whole(document, reply)
    return reply


def streamed(*documents):
    """What is read of events, and the pieces of text they gave."""
    reply = Reply()
    return reply, [WIRE.event(document, reply) for document in documents]


def test_the_path_is_the_same_for_every_model():
    """Whole or streamed."""
    assert WIRE.path("gpt", stream=False) == WIRE.path("x/y", stream=True) == "/chat/completions"


def test_a_request_keeps_its_messages_and_params():
    """Roles, order and every parameter come through; no limit of tokens is invented."""
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="Hi"))
    params = {"temperature": 0.5, "stop": ("a", "b"), "logit_bias": {"1": 2}}
    request = Request(messages=messages, params=params)
    assert WIRE.body("gpt", request, stream=False, max_tokens=100) == {
        "model": "gpt",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "temperature": 0.5,
        "stop": ["a", "b"],
        "logit_bias": {"1": 2},
    }


def test_a_stream_asks_for_its_usage():
    """Without being asked, the provider reports none."""
    body = WIRE.body("gpt", Request.of("Hi"), stream=True, max_tokens=100)
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


@pytest.mark.parametrize("name", ["model", "messages", "stream", "stream_options", "n", "input", "contents", "system"])
def test_a_parameter_that_the_workbench_sets_itself_is_refused(name):
    """By name, with what to do instead."""
    with pytest.raises(LLMValidationError) as caught:
        WIRE.body("gpt", Request(messages=(), params={name: 1}), stream=False, max_tokens=1)
    assert caught.value.code == "validation.params"
    assert name in caught.value.message
    assert "sample" in caught.value.next_step


def test_a_whole_answer_is_read():
    """Text, end, usage with its cached part, total, model and id."""
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    reply = whole(chat("42", usage=usage, model="gpt-2026-01-01"))
    assert (reply.whole, reply.finish, reply.found, reply.tools) == ("42", "stop", True, False)
    assert (reply.usage, reply.total_tokens) == (Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4), 15)
    assert (reply.served_model, reply.request_id, reply.error) == ("gpt-2026-01-01", "c1", None)


def test_content_parts_that_are_text_are_the_answer():
    """Of a list of typed parts, text counts, a refusal is one, and images and strangers are nothing."""
    parts = [
        {"type": "text", "text": "4"},
        {"type": "image_url", "image_url": {}},
        {"type": "output_text", "text": "2"},
        "stray",
        {"type": "text", "text": None},
    ]
    assert whole(chat(parts)).whole == "42"
    assert whole(chat([{"type": "refusal", "refusal": "No."}])).refusal == ["No."]


def test_only_the_first_choice_is_the_answer():
    """Others have another index; a choice without one is the first."""
    first = {"message": {"content": "a"}, "finish_reason": "stop"}
    second = {"index": 1, "message": {"content": "b"}, "finish_reason": "length"}
    assert (whole({"choices": [second, first]}).whole, whole({"choices": [second, first]}).finish) == ("a", "stop")


@pytest.mark.parametrize(
    ("written", "finish"),
    [("stop", "stop"), ("length", "length"), ("max_tokens", "length"), ("eos", "stop"), ("function_call", "tool_calls"),
     ("content_filter", "content_filter"), ("tool_calls", "tool_calls"), ("odd", "odd"), (None, None), (7, None)],
)  # fmt: skip
def test_finish_reasons_have_one_name_each(written, finish):
    """The words of other servers are translated, unknown ones kept."""
    assert whole(chat(choice={"finish_reason": written})).finish == finish


@pytest.mark.parametrize("field", ["tool_calls", "function_call"])
def test_a_tool_call_is_noticed(field):
    """An empty list of calls is none."""
    assert whole(chat(None, message={field: [{"id": "t"}]})).tools
    assert not whole(chat(None, message={field: []})).tools


def test_a_refusal_is_kept():
    """In its own field, beside a content of null."""
    assert whole(chat(None, message={"refusal": "I cannot."})).refusal == ["I cannot."]


@pytest.mark.parametrize(
    "document",
    [{}, {"choices": None}, {"choices": {}}, {"choices": [None, 3, "x"]}, {"choices": [{"message": None}]},
     {"choices": [{"message": []}]}, {"choices": [{"text": "old"}]}, {"usage": []}, {"model": 7, "id": []}],
)  # fmt: skip
def test_fields_of_the_wrong_type_are_missing_fields(document):
    """Nothing raises, and nothing is made up."""
    reply = whole(document)
    assert (reply.whole, reply.found, reply.usage, reply.served_model, reply.request_id) == (
        "",
        False,
        Usage(),
        None,
        None,
    )


@pytest.mark.parametrize("wrong", [True, 1.5, "10", None, [1]])
def test_counts_that_are_no_whole_numbers_are_missing(wrong):
    """The others stay."""
    reply = whole(chat(usage={"prompt_tokens": wrong, "completion_tokens": 5}))
    assert reply.usage == Usage(prompt_tokens=None, completion_tokens=5)


def test_an_error_in_the_document_is_kept():
    """With its typed fields; the first of several events wins."""
    reply, _ = streamed({"error": {"code": "a", "message": "first"}}, {"error": {"code": "b"}})
    assert reply.error is not None
    assert (reply.error[0][0], reply.error[1]) == ("a", "first")


def test_a_stream_is_put_together():
    """Each event gives its piece; role, end and usage give none."""
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    role = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    reply, pieces = streamed(
        role, piece("4"), piece("2"), piece(None, "stop"), {"choices": [], "usage": usage}, {"usage": None}
    )
    assert pieces == ["", "4", "2", "", "", ""]
    assert (reply.whole, reply.finish, reply.usage) == ("42", "stop", Usage(prompt_tokens=10, completion_tokens=2))
