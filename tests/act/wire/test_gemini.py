"""The Gemini format: what is sent, and what is read of answers and events."""

from __future__ import annotations

import pytest

from workbench.act.wire.gemini import Gemini
from workbench.act.wire.reply import Reply, verdict_on
from workbench.errors import LLMValidationError
from workbench.facts import Message, Request, Usage

WIRE = Gemini()


def answer(*parts, reason="STOP", **more):
    """A document with one candidate."""
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": reason, "index": 0}
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini", "responseId": "g1", **more}


def read(*documents):
    """What is read of documents, and the pieces of text they gave."""
    reply = Reply()
    pieces = []
    for document in documents:
        reply.events += 1
        pieces.append(WIRE.event(document, reply))
    return reply, pieces


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ("gemini-pro", "/models/gemini-pro"),
        ("models/gemini-pro", "/models/gemini-pro"),
        ("tunedModels/x", "/tunedModels/x"),
        ("a b?c#d", "/models/a%20b%3Fc%23d"),
        ("../x", "/../x"),
    ],
)
def test_the_model_is_part_of_the_path(model, place):
    """Quoted, so that no name changes where the request goes."""
    assert WIRE.path(model, stream=False) == f"{place}:generateContent"
    assert WIRE.path(model, stream=True) == f"{place}:streamGenerateContent?alt=sse"


def test_a_request_goes_by_google_names():
    """Roles, system text and the parameters of the generation; others stay at the top."""
    messages = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Yes?"),
    )
    params = {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "seed": 1,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "stop": "END",
        "safetySettings": [],
        "generationConfig": {"responseMimeType": "application/json", "temperature": 1},
    }
    assert WIRE.body("gemini", Request(messages=messages, params=params), stream=True, max_tokens=99) == {
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Yes?"}]}],
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "safetySettings": [],
        "generationConfig": {
            "responseMimeType": "application/json",
            "maxOutputTokens": 7,
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 3,
            "seed": 1,
            "presencePenalty": 0.1,
            "frequencyPenalty": 0.2,
            "stopSequences": ["END"],
        },
    }


def test_what_is_not_asked_for_is_not_sent():
    """A bare prompt has contents only; a configuration of the caller's own stays as it is; stops may be a list."""
    assert set(WIRE.body("gemini", Request.of("Hi"), stream=False, max_tokens=9)) == {"contents"}
    own = Request(messages=(), params={"generationConfig": {"topK": 1}})
    assert WIRE.body("gemini", own, stream=False, max_tokens=9)["generationConfig"] == {"topK": 1}
    listed = Request(messages=(), params={"stop": ["a", "b"]})
    made = WIRE.body("gemini", listed, stream=False, max_tokens=9)
    assert made["generationConfig"] == {"stopSequences": ["a", "b"]}


def test_reserved_parameters_are_refused():
    """The contents are the messages."""
    with pytest.raises(LLMValidationError):
        WIRE.body("gemini", Request(messages=(), params={"contents": []}), stream=False, max_tokens=1)


def test_an_answer_is_read_without_its_thoughts():
    """Thought parts are no answer; their tokens are paid all the same."""
    usage = {
        "promptTokenCount": 10,
        "candidatesTokenCount": 5,
        "thoughtsTokenCount": 30,
        "totalTokenCount": 45,
        "cachedContentTokenCount": 4,
    }
    reply = Reply()
    WIRE.whole(answer({"text": "hm", "thought": True}, {"text": "4"}, {"text": "2"}, usageMetadata=usage), reply)
    assert (reply.whole, reply.finish, reply.found) == ("42", "stop", True)
    assert reply.usage == Usage(prompt_tokens=10, completion_tokens=35, cached_tokens=4)
    assert (reply.total_tokens, reply.served_model, reply.request_id) == (45, "gemini", "g1")


@pytest.mark.parametrize(
    ("usage", "completion"),
    [({"promptTokenCount": 1}, None), ({"thoughtsTokenCount": 3}, 3), ({"candidatesTokenCount": 2}, 2)],
)
def test_missing_counts_stay_missing(usage, completion):
    """No number is made of none."""
    assert read(answer({"text": "x"}, usageMetadata=usage))[0].usage.completion_tokens == completion


@pytest.mark.parametrize(
    ("reason", "finish", "code"),
    [
        ("STOP", "stop", None),
        ("MAX_TOKENS", "length", None),
        ("SAFETY", "content_filter", "provider.content_filter"),
        ("RECITATION", "content_filter", "provider.content_filter"),
        ("BLOCKLIST", "content_filter", "provider.content_filter"),
        ("PROHIBITED_CONTENT", "content_filter", "provider.content_filter"),
        ("SPII", "content_filter", "provider.content_filter"),
        ("LANGUAGE", "content_filter", "provider.content_filter"),
        ("IMAGE_SAFETY", "content_filter", "provider.content_filter"),
        ("MALFORMED_FUNCTION_CALL", "tool_calls", "provider.empty"),
        ("UNEXPECTED_TOOL_CALL", "tool_calls", "provider.empty"),
        ("OTHER", "error", "provider.truncated"),
        ("MALFORMED_RESPONSE", "malformed_response", "provider.truncated"),
        ("FINISH_REASON_UNSPECIFIED", None, None),
        (None, None, None),
        (3, None, None),
    ],
)
def test_every_finish_reason_has_its_meaning(reason, finish, code):
    """Filtered answers and tool calls are none, although text came with them."""
    reply, _ = read(answer({"text": "42"}, reason=reason))
    assert reply.finish == finish
    made = verdict_on(reply, model="p:gemini", streamed=False)
    assert (made.code if made else None) == code


def test_a_blocked_prompt_is_filtered():
    """There is no candidate then."""
    reply, _ = read({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}})
    made = verdict_on(reply, model="p:gemini", streamed=False)
    assert (made.code, made.retryable) == ("provider.content_filter", False)


def test_a_function_call_is_no_answer():
    """Whatever stands beside it."""
    reply, _ = read(answer({"text": "x"}, {"functionCall": {"name": "f"}}))
    assert verdict_on(reply, model="p:gemini", streamed=False).code == "provider.empty"


@pytest.mark.parametrize(
    "document",
    [{}, {"candidates": None}, {"candidates": {}}, {"candidates": [None]}, {"candidates": [{"content": []}]},
     {"usageMetadata": 1},
     {"modelVersion": 1, "responseId": []}, {"promptFeedback": "x"}],
)  # fmt: skip
def test_fields_of_the_wrong_type_are_missing_fields(document):
    """Nothing raises."""
    reply, pieces = read(document)
    assert (reply.whole, reply.usage, reply.found, reply.finish, pieces) == ("", Usage(), False, None, [""])


def test_only_the_first_candidate_is_the_answer():
    """As only one is asked for."""
    document = answer({"text": "a"})
    document["candidates"].append({"content": {"parts": [{"text": "b"}]}, "finishReason": "SAFETY"})
    reply, _ = read(document)
    assert (reply.whole, reply.finish) == ("a", "stop")


def test_a_stream_is_put_together():
    """Events have the form of answers; the end comes with the last one."""
    reply, pieces = read(answer({"text": "4"}, reason=None), answer({"text": "2", "thoughtSignature": "s"}))
    assert (pieces, reply.whole, reply.finish) == (["4", "2"], "42", "stop")
    assert verdict_on(reply, model="p:gemini", streamed=True) is None


def test_an_error_event_is_an_error():
    """By its typed status."""
    reply, _ = read(
        answer({"text": "4"}, reason=None), {"error": {"code": 503, "message": "m", "status": "UNAVAILABLE"}}
    )
    made = verdict_on(reply, model="p:gemini", streamed=True)
    assert (made.code, made.retryable, made.partial) == ("provider.server", True, "4")
