"""Recorded models give again what was recorded, and refuse whatever was not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from workbench.act.recorded import RecordedModel
from workbench.errors import LLMProviderError, LLMValidationError
from workbench.facts import Message, Recorded, Request, Usage


def row(item_id, prompt, response, **more):
    """One recorded answer of `davinci` in style `few-shot`."""
    given = {
        "recording": "gsm8k",
        "task": "reasoning",
        "item_id": item_id,
        "prompt": prompt,
        "reference": "4",
        "model": "davinci",
        "prompt_style": "few-shot",
        "response": response,
        "score": 1.0,
        "score_kind": "correct",
        "prompt_tokens": 12,
        "completion_tokens": 3,
        "latency_ms": None,
        "cost_usd": None,
    }
    return Recorded(**{**given, **more})


MODEL = RecordedModel.of(
    [
        row("q1", "2 + 2?", "It is 4.", latency_ms=120.0, cost_usd=0.002),
        row("q2", "3 + 3?", "It is 6."),
        row("q3", "Again?", "No."),
        row("q4", "Again?", "Yes."),
        row("q5", "Long?", None),
    ]
)


def complete(request):
    """The model's answer."""
    return asyncio.run(MODEL.complete(request))


def unrecorded(request):
    """The refusal of a request that is a new experiment."""
    with pytest.raises(LLMValidationError) as caught:
        complete(request)
    assert caught.value.code == "replay.unrecorded"
    assert caught.value.model == MODEL.name
    return caught.value


def test_a_recorded_answer_is_given_again_with_its_numbers():
    """Text, tokens, latency and cost are the recorded ones, and the source says so."""
    request = Request.of("2 + 2?", task="reasoning", item_id="q1")
    response = complete(request)
    assert (response.text, response.source, response.model) == (
        "It is 4.",
        "recorded",
        "recorded:gsm8k/davinci/few-shot",
    )
    assert response.request_key == request.key
    assert response.usage == Usage(prompt_tokens=12, completion_tokens=3)
    assert (response.latency_ms, response.cost_usd) == (120.0, 0.002)


def test_what_was_not_measured_stays_unknown():
    """A recording without latency and cost gives None, never 0."""
    response = complete(Request.of("3 + 3?", item_id="q2"))
    assert (response.latency_ms, response.ttft_ms, response.cost_usd) == (None, None, None)


def test_a_prompt_without_an_item_finds_its_answer():
    """The exact prompt is enough where one item has it."""
    assert complete(Request.of("3 + 3?")).text == "It is 6."


def test_a_prompt_that_several_items_share_needs_an_item():
    """Two items with one prompt cannot be told apart without an id; with one they can."""
    assert "2 items" in unrecorded(Request.of("Again?")).message
    assert complete(Request.of("Again?", item_id="q4")).text == "Yes."


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (Request.of("2 + 2 = ?", item_id="q1"), "another prompt"),
        (Request.of("2 + 2? ", item_id="q1"), "another prompt"),
        (Request.of("3 + 3?", item_id="q1"), "another prompt"),
        (Request.of("2 + 2 = ?"), "0 items"),
        (Request.of("2 + 2?", item_id="q99"), "no answer to item 'q99'"),
        (replace(Request.of("2 + 2?", item_id="q1"), sample=1), "sample 1"),
        (replace(Request.of("2 + 2?", item_id="q1"), params={"temperature": 0.7}), "temperature"),
    ],
    ids=[
        "rewritten",
        "one space more",
        "other item's",
        "unknown prompt",
        "unknown item",
        "second sample",
        "parameters",
    ],
)
def test_what_was_not_recorded_is_refused(request_, why):
    """A changed prompt, another sample or other parameters are a new experiment, and the refusal says which."""
    assert why in unrecorded(request_).message


@pytest.mark.parametrize(
    "messages",
    [
        (Message(role="system", content="Answer like a pirate."), Message(role="user", content="2 + 2?")),
        (
            Message(role="user", content="1 + 1?"),
            Message(role="assistant", content="2"),
            Message(role="user", content="2 + 2?"),
        ),
        (Message(role="user", content="2 + 2?"), Message(role="assistant", content="Well,")),
    ],
    ids=["system prompt", "earlier turns", "prefilled answer"],
)
@pytest.mark.parametrize("item_id", ["q1", None])
def test_more_messages_than_were_recorded_are_another_prompt(messages, item_id):
    """A system prompt or another turn changes what the model is asked, so there is no recorded answer to it."""
    unrecorded(Request(messages=messages, item_id=item_id))


def test_a_score_without_text_is_no_answer():
    """Where the recording keeps only the score, the model fails as `replay.no_text` instead of inventing a text."""
    with pytest.raises(LLMProviderError) as caught:
        complete(Request.of("Long?", item_id="q5"))
    assert (caught.value.code, caught.value.model) == ("replay.no_text", MODEL.name)
    assert not caught.value.retryable
