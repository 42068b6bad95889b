"""LiteLLM's proxy in front of mocked models and of another server, called in all three formats."""

from __future__ import annotations

import asyncio

import pytest

from peers.caller import WIRES, call, listen, model_of
from peers.conftest import ANSWER
from peers.programs import Peer
from workbench.act.admission import Admission, Discipline
from workbench.act.embed import HttpEmbedder
from workbench.act.http import Http
from workbench.act.world import MemorySink, World

ECHO = "Hello! You said: 2+2?"  # LLMock's answer; it counts 1 token before it and 5 in it
RELAYED = ("relayed", "relayed-claude")  # of an OpenAI and of an Anthropic provider behind the proxy


@pytest.mark.parametrize("wire", WIRES)
def test_a_whole_answer_is_read_in_every_format(litellm: Peer, wire: str) -> None:
    """Text, end and the proxy's own name for the model arrive; Gemini's format names none."""
    answer = call(litellm, wire, "plain").answer
    assert (answer.text, answer.finish_reason, answer.model) == (ANSWER, "stop", "peer:plain")
    assert answer.served_model == (None if wire == "gemini" else "plain")
    assert answer.flags == ()


@pytest.mark.parametrize(("wire", "usage"), [("openai", (10, 20)), ("anthropic", (2095, 503)), ("gemini", (10, 20))])
def test_the_usage_of_a_mocked_model_is_the_proxys_own(litellm: Peer, wire: str, usage: tuple[int, int]) -> None:
    """The proxy's constants for a mocked answer are read, and priced at 1 and 2 dollars for a million."""
    answer = call(litellm, wire, "plain").answer
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == usage
    assert answer.cost_usd == pytest.approx((usage[0] + 2 * usage[1]) / 1e6)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", RELAYED)
@pytest.mark.parametrize("wire", ["openai", "anthropic"])
def test_a_relayed_answer_keeps_text_usage_and_end(litellm: Peer, wire: str, model: str, stream: bool) -> None:
    """Whichever format the provider behind the proxy speaks, whole or in pieces."""
    answer = call(litellm, wire, model, stream=stream).answer
    assert (answer.text, answer.finish_reason, answer.served_model) == (ECHO, "stop", model)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 5)
    assert (answer.ttft_ms is not None) == stream


@pytest.mark.parametrize("model", RELAYED)
def test_a_relayed_answer_keeps_its_usage_in_geminis_format(litellm: Peer, model: str) -> None:
    """A whole answer in Google's names."""
    answer = call(litellm, "gemini", model).answer
    assert (answer.text, answer.finish_reason) == (ECHO, "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 5)


@pytest.mark.parametrize("model", ["plain", *RELAYED])
def test_a_stream_in_geminis_format_has_its_text_and_end(litellm: Peer, model: str) -> None:
    """Every event is a whole document, and only the last one has an end."""
    answer = call(litellm, "gemini", model, stream=True).answer
    assert (answer.text, answer.finish_reason) == (ANSWER if model == "plain" else ECHO, "stop")


def test_a_usage_of_zero_for_an_answer_with_text_is_not_believed(litellm: Peer) -> None:
    """The proxy ends every stream in Gemini's format with counts of 0; booked as they are, the answer is free."""
    answer = call(litellm, "gemini", "relayed", stream=True).answer
    assert "usage_estimated" in answer.flags
    assert (answer.usage.prompt_tokens or 0) > 0
    assert (answer.usage.completion_tokens or 0) > 0


@pytest.mark.parametrize("wire", WIRES)
def test_a_stream_is_handed_out_in_pieces(litellm: Peer, wire: str) -> None:
    """The pieces are the provider's, in order, and make the whole text."""
    heard = listen(litellm, wire, "relayed")
    assert heard.error is None
    assert "".join(heard.pieces) == ECHO
    assert [piece for piece in heard.pieces if piece] == ["Hello! ", "You ", "said: ", "2+2?"]


def test_a_whole_answer_in_the_place_of_a_stream_is_taken(litellm: Peer) -> None:
    """The proxy answers a streamed request for a mocked model whole in Anthropic's format; it is one piece."""
    assert listen(litellm, "anthropic", "plain").pieces == [ANSWER]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "code", "status", "retryable"),
    [
        ("limited", "rate_limit", 429, True),
        ("broken", "provider.server", 500, True),
        ("overloaded", "provider.overloaded", 529, True),
        ("late", "provider.server", 408, True),
        # The body's typed fields say `invalid_request_error` and 400; only its prose tells what was wrong.
        ("too-long", "provider.bad_request", 400, False),
        ("unknown", "provider.bad_request", 400, False),
    ],
)
def test_a_refusal_has_its_code_and_status(
    litellm: Peer, model: str, code: str, status: int, retryable: bool, stream: bool
) -> None:
    """The proxy's typed fields hold the status as digits, and a type that need not be OpenAI's."""
    failure = call(litellm, "openai", model, stream=stream).failure
    assert (failure.code, failure.status, failure.retryable) == (code, status, retryable)
    assert f"answered {status}" in str(failure)
    assert failure.next_step


@pytest.mark.parametrize(("model", "code"), [("limited", "rate_limit"), ("unknown", "provider.bad_request")])
def test_a_refusal_in_anthropics_format_has_its_code(litellm: Peer, model: str, code: str) -> None:
    """The error stands under `error`, beside `type: error`."""
    assert call(litellm, "anthropic", model).failure.code == code


def test_an_unknown_model_in_geminis_format_is_refused(litellm: Peer) -> None:
    """The proxy answers in OpenAI's form of an error, whatever was asked in."""
    assert call(litellm, "gemini", "unknown").failure.code == "provider.bad_request"


@pytest.mark.parametrize("wire", WIRES)
def test_a_wrong_key_is_an_error_of_the_account(litellm: Peer, wire: str) -> None:
    """A proxy without a database answers 400 with the type `no_db_connection` to every key but its own."""
    failure = call(litellm, wire, "plain", key="sk-wrong-0123456789").failure
    assert failure.code == "provider.auth"
    assert "PEER_KEY" in (failure.next_step or "")
    assert "sk-wrong" not in str(failure)


def test_every_attempt_is_a_row(litellm: Peer) -> None:
    """Two retries of a limited model: three rows, the last one final, one span, and the third error raised."""
    heard = call(litellm, "openai", "limited", retries=2)
    assert [row.attempt for row in heard.calls] == [1, 2, 3]
    assert [row.final for row in heard.calls] == [False, False, True]
    assert len([span for span in heard.spans if span.operation == "complete"]) == 1
    assert len(heard.failure.attempts) == 3


def test_the_next_model_answers_for_a_broken_one(litellm: Peer) -> None:
    """A chain of two models of one proxy: the answer names the model that gave it."""
    heard = call(litellm, "openai", "broken", "plain")
    assert (heard.answer.text, heard.answer.model) == (ANSWER, "peer:plain")
    assert [row.final for row in heard.calls] == [False, True]


def test_the_wait_that_a_provider_behind_the_proxy_asks_for_is_known(litellm: Peer, script: Peer) -> None:
    """The proxy hands the provider's Retry-After on under names of its own."""
    fail = {"type": "fail", "status": 429, "retry_after": 0.75, "times": 5}
    script.post("/_llmock/scenario", {"behaviors": [fail]})
    failure = call(litellm, "openai", "relayed").failure
    assert (failure.code, getattr(failure, "retry_after_s", None)) == ("rate_limit", 0.75)


def test_an_error_inside_a_relayed_stream_is_an_error(litellm: Peer, script: Peer) -> None:
    """In Anthropic's format the proxy says that the provider's stream has broken off, in an event of type error."""
    cut = {"type": "stream_fault", "kind": "truncate", "after_chunks": 3, "times": 5}
    script.post("/_llmock/scenario", {"behaviors": [cut]})
    failure = call(litellm, "anthropic", "relayed", stream=True).failure
    assert (failure.code, failure.retryable) == ("provider.server", True)


def test_vectors_come_from_the_proxy(litellm: Peer) -> None:
    """The mocked model gives the same vector for one text, and one is all it gives."""
    world = World.real(MemorySink())

    async def run() -> object:
        http = Http()
        try:
            embedder = HttpEmbedder(Admission(world, Discipline()), model_of(litellm, "openai", "vectors", http, world))
            return await embedder.embed(["one"])
        finally:
            await http.aclose()

    assert list(asyncio.run(run())) == [(0.25, 0.5)]
