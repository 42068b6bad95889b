"""LLMock, which breaks its answers as it is told, in all three formats."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from peers.caller import WIRES, call, listen, model_of
from peers.programs import Peer
from workbench.act.admission import Admission, Discipline
from workbench.act.embed import HttpEmbedder
from workbench.act.http import Http
from workbench.act.world import MemorySink, World

MODELS = {"openai": "gpt-4o", "anthropic": "claude-sonnet-4-6", "gemini": "gemini-2.0-flash"}
EVERY = list(MODELS.items())
BEFORE_SAID = {"openai": 3, "anthropic": 5, "gemini": 2}  # events before the one with the word "said: "
ECHO = "Hello! You said: 2+2?"


def told(peer: Peer, **behaviour: Any) -> Peer:
    """The peer, told how to behave the next few times."""
    peer.post("/_llmock/scenario", {"behaviors": [{"times": 5, **behaviour}]})
    return peer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("wire", "model"), EVERY)
def test_an_answer_is_read_in_every_format(script: Peer, wire: str, model: str, stream: bool) -> None:
    """Text, end, counts of tokens and their price, whole and in pieces."""
    answer = call(script, wire, model, stream=stream).answer
    assert (answer.text, answer.finish_reason, answer.flags) == (ECHO, "stop", ())
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 5)
    assert answer.cost_usd == pytest.approx(11e-6)
    # Its Gemini names the model in streams only.
    assert answer.served_model == (model if wire != "gemini" or stream else None)


@pytest.mark.parametrize(("wire", "model"), EVERY)
def test_a_stream_is_handed_out_in_pieces(script: Peer, wire: str, model: str) -> None:
    """A word at a time."""
    heard = listen(script, wire, model)
    assert [piece for piece in heard.pieces if piece] == ["Hello! ", "You ", "said: ", "2+2?"]


@pytest.mark.parametrize(("wire", "model"), EVERY)
@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (400, "provider.bad_request", False),
        (401, "provider.auth", False),
        (403, "provider.auth", False),
        (404, "provider.not_found", False),
        (408, "provider.server", True),
        (413, "provider.bad_request", False),
        (422, "provider.bad_request", False),
        (429, "rate_limit", True),
        (500, "provider.server", True),
        (503, None, True),
        (504, "provider.server", True),
        (529, "provider.overloaded", True),
    ],
)
def test_a_refusal_has_its_code(
    script: Peer, wire: str, model: str, status: int, code: str | None, retryable: bool
) -> None:
    """The same status is the same code in every format; 503 may be overload, which Anthropic's type says."""
    failure = call(told(script, type="fail", status=status), wire, model).failure
    expected = code or ("provider.overloaded" if wire == "anthropic" else "provider.server")
    assert (failure.code, failure.status, failure.retryable) == (expected, status, retryable)


@pytest.mark.parametrize(("wire", "model"), EVERY)
def test_the_wait_is_read_to_the_millisecond(script: Peer, wire: str, model: str) -> None:
    """`retry-after-ms` says 250, beside a `retry-after` that is rounded up to a second."""
    failure = call(told(script, type="fail", status=429, retry_after=0.25), wire, model).failure
    assert getattr(failure, "retry_after_s", None) == 0.25


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_outlives_two_refusals(script: Peer, stream: bool) -> None:
    """The third attempt answers, after the waits that the server asked for."""
    heard = call(told(script, type="fail", status=429, retry_after=0.01, times=2), *EVERY[0], retries=2, stream=stream)
    assert heard.answer.text == ECHO
    assert [row.attempt for row in heard.calls] == [1, 2, 3]


@pytest.mark.parametrize(("kind", "code"), [("truncate", "provider.truncated"), ("disconnect", "provider.connection")])
@pytest.mark.parametrize("wire", WIRES)
def test_a_broken_stream_is_no_answer(script: Peer, wire: str, kind: str, code: str) -> None:
    """Cut off or hung up on: a failure that keeps what was heard, never half an answer."""
    told(script, type="stream_fault", kind=kind, after_chunks=BEFORE_SAID[wire])
    failure = call(script, wire, MODELS[wire], stream=True).failure
    assert (failure.code, failure.retryable, failure.possibly_billed) == (code, True, True)
    assert failure.partial == "Hello! You "


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
def test_a_hole_in_a_stream_is_marked(script: Peer, wire: str) -> None:
    """One event that is no JSON is forgiven where end and usage came; the answer lacks a word and says so."""
    told(script, type="stream_fault", kind="malformed", after_chunks=BEFORE_SAID[wire])
    answer = call(script, wire, MODELS[wire], stream=True).answer
    assert (answer.text, answer.flags) == ("Hello! You 2+2?", ("event_skipped",))


def test_a_hole_where_text_has_been_is_refused(script: Peer) -> None:
    """What is left of Gemini's event still shows the place of its text: a word is missing, and no answer is given."""
    told(script, type="stream_fault", kind="malformed", after_chunks=BEFORE_SAID["gemini"])
    failure = call(script, "gemini", MODELS["gemini"], stream=True).failure
    assert (failure.code, failure.partial) == ("provider.malformed", "Hello! You 2+2?")


@pytest.mark.parametrize("wire", WIRES)
def test_silence_inside_a_stream_is_noticed(script: Peer, wire: str) -> None:
    """A server that stalls for seconds is left after idle_s."""
    told(script, type="stream_fault", kind="stall", after_chunks=BEFORE_SAID[wire], stall_seconds=3.0)
    failure = call(script, wire, MODELS[wire], stream=True, idle_s=0.3).failure
    assert (failure.code, failure.partial) == ("timeout.idle", "Hello! You ")


def test_a_late_first_piece_is_noticed(script: Peer) -> None:
    """The head has come, the text has not: first_token_s decides."""
    told(script, type="slow_first_token", seconds=3.0)
    failure = call(script, *EVERY[0], stream=True, first_token_s=0.3).failure
    assert (failure.code, failure.partial) == ("timeout.first_token", None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("wire", "model"), EVERY)
def test_a_tool_call_is_no_answer(script: Peer, wire: str, model: str, stream: bool) -> None:
    """No text, and no reason to ask again."""
    told(script, type="reply", tool_calls=[{"name": "add", "arguments": {"a": 2}}])
    failure = call(script, wire, model, stream=stream).failure
    assert (failure.code, failure.retryable) == ("provider.empty", False)
    assert "tool" in str(failure)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("wire", "model"), EVERY)
def test_an_answer_without_text_is_a_failure(script: Peer, wire: str, model: str, stream: bool) -> None:
    """An empty text is worth another attempt."""
    failure = call(told(script, type="reply", text=""), wire, model, stream=stream).failure
    assert (failure.code, failure.retryable) == ("provider.empty", True)


def test_characters_of_every_script_survive(script: Peer) -> None:
    """What is sent and what comes back is the same text."""
    prompt = "naïve 日本語 😀 \u202eabc"
    assert call(script, *EVERY[0], prompt=prompt, stream=True).answer.text == f"Hello! You said: {prompt}"


def test_vectors_are_one_for_each_text(script: Peer) -> None:
    """In order, of one length, and the same for the same text."""
    world = World.real(MemorySink())

    async def run() -> Any:
        http = Http()
        try:
            model = model_of(script, "openai", "text-embedding-3-small", http, world)
            return await HttpEmbedder(Admission(world, Discipline()), model).embed(["one", "two", "one"])
        finally:
            await http.aclose()

    first, second, third = asyncio.run(run())
    assert first == third != second
    assert len(first) == len(second) > 1
