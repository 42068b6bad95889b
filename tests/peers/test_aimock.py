"""Aimock, a server in JavaScript, in all three formats: keys, reasoning, ends of every kind."""

from __future__ import annotations

import pytest

from peers.caller import WIRES, call, listen
from peers.conftest import ANSWER, EMOJI
from peers.programs import Peer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_an_answer_is_read_in_every_format(aimock: Peer, wire: str, stream: bool) -> None:
    """Text, end, and the request's id, which this server sends as a header."""
    answer = call(aimock, wire, "plain", stream=stream).answer
    assert (answer.text, answer.finish_reason) == (ANSWER, "stop")
    assert (answer.request_id or "").startswith("req-")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_reasoning_is_no_part_of_the_answer(aimock: Peer, wire: str, stream: bool) -> None:
    """`reasoning_content`, a block of thinking, or a part that is a thought: counted, not shown."""
    answer = call(aimock, wire, "thinker", stream=stream).answer
    assert answer.text == "4."
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 7)


@pytest.mark.parametrize("wire", WIRES)
def test_a_character_that_two_events_share_is_one_character(aimock: Peer, wire: str) -> None:
    """Servers that cut UTF-16 put the halves of an emoji into two events, each as an escape of its own."""
    answer = call(aimock, wire, "emoji", stream=True).answer
    assert (answer.text, answer.flags) == (EMOJI, ())


@pytest.mark.parametrize("wire", WIRES)
def test_pieces_of_a_stream_can_be_written_out(aimock: Peer, wire: str) -> None:
    """Every piece has a UTF-8 form, also where the server has cut a character in two."""
    pieces = listen(aimock, wire, "emoji").pieces
    assert "".join(piece.encode().decode() for piece in pieces) == EMOJI


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_an_answer_that_was_cut_at_its_limit_says_so(aimock: Peer, wire: str, stream: bool) -> None:
    """`length`, `max_tokens` and `MAX_TOKENS` are one reason."""
    assert call(aimock, wire, "short", stream=stream).answer.finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_a_filtered_answer_is_no_answer(aimock: Peer, wire: str, stream: bool) -> None:
    """`content_filter`, also in the place of Anthropic's own reasons, and `SAFETY`."""
    assert call(aimock, wire, "filtered", stream=stream).failure.code == "provider.content_filter"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_a_tool_call_is_no_answer(aimock: Peer, wire: str, stream: bool) -> None:
    """Its Gemini ends with `FUNCTION_CALL`, which Google's reference does not list."""
    failure = call(aimock, wire, "tools", stream=stream).failure
    assert (failure.code, failure.retryable) == ("provider.empty", False)


@pytest.mark.parametrize("wire", WIRES)
def test_a_limit_is_told_with_its_wait(aimock: Peer, wire: str) -> None:
    """The typed word is OpenAI's even in Gemini's place for it; the status decides."""
    failure = call(aimock, wire, "limited").failure
    assert (failure.code, getattr(failure, "retry_after_s", None)) == ("rate_limit", 1.0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_a_wrong_key_is_an_error_of_the_account(aimock: Peer, wire: str, stream: bool) -> None:
    """401 in OpenAI's form of an error; the message names the variable and not the key."""
    failure = call(aimock, wire, "plain", key="sk-wrong-0123456789", stream=stream).failure
    assert (failure.code, failure.status, failure.retryable) == ("provider.auth", 401, False)
    assert "PEER_KEY" in (failure.next_step or "")
    assert "sk-wrong" not in str(failure)


@pytest.mark.parametrize("wire", WIRES)
def test_a_stream_that_breaks_off_is_no_answer(aimock: Peer, wire: str) -> None:
    """The server destroys the connection after three pieces, which it had not even sent."""
    failure = call(aimock, wire, "cut", stream=True).failure
    assert (failure.code, failure.retryable, failure.possibly_billed) == ("provider.protocol", True, True)


@pytest.mark.parametrize("wire", WIRES)
def test_a_usage_of_zero_for_an_answer_with_text_is_not_believed(aimock: Peer, wire: str) -> None:
    """Where its fixtures name no usage, this server counts 0 in two of the formats."""
    answer = call(aimock, wire, "plain").answer
    assert (answer.usage.prompt_tokens or 0) > 0
    assert (answer.usage.completion_tokens or 0) > 0


def test_what_the_server_does_not_know_is_an_error(aimock: Peer) -> None:
    """A prompt without a fixture is refused with 503, which is worth another attempt."""
    failure = call(aimock, "openai", "plain", prompt="something else").failure
    assert (failure.code, failure.status, failure.retryable) == ("provider.server", 503, True)
