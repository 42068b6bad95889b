"""Streams: whatever cuts, stalls or splits them, the text is whole, or the error is typed and has what came."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from contextlib import aclosing

import pytest

from faults.bench import Bench
from faults.server import FIN, RESET, STALL, Drip, FaultServer, Forever, Pause, head, reply, streamed
from faults.shapes import WIRES, closing, delta, document, event, events, opening, problem
from workbench.act.http import Http
from workbench.act.trace import span
from workbench.errors import LLMProviderError, LLMTimeoutError
from workbench.facts import Call

STREAM = head(content_type="text/event-stream", connection="close")


def started(wire: str, *texts: str) -> tuple[bytes, ...]:
    """The head and the first texts of a stream."""
    return (STREAM, *opening(wire), *(delta(wire, text) for text in texts))


def bench_on(server: FaultServer, wire: str, answer, *more, **options) -> Bench:
    """A streaming bench whose model answers so."""
    server.on("m", answer, *more)
    return Bench(server=server, wire=wire, stream=True, **options)


@pytest.mark.parametrize("wire", WIRES)
def test_sse_no_done_is_truncated_and_keeps_the_partial_text(server, wire):
    """Two chunks, then a clean end without a finish reason or [DONE]: no success."""
    error = bench_on(server, wire, (*started(wire, "fo", "ur"), FIN)).call().fails(
        LLMProviderError, "provider.truncated", caused=False
    )  # fmt: skip
    assert error.partial == "four"
    assert error.possibly_billed
    assert error.retryable


@pytest.mark.parametrize("wire", WIRES)
def test_sse_no_done_is_truncated_in_chunked_encoding_too(server, wire):
    """The same where HTTP itself says that the body was complete."""
    body = b"".join(started(wire, "fo", "ur")[1:])
    first = head(content_type="text/event-stream", transfer_encoding="chunked")
    error = bench_on(server, wire, (first, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))).call().fails(
        LLMProviderError, "provider.truncated", caused=False
    )  # fmt: skip
    assert error.partial == "four"


@pytest.mark.parametrize("skipped", ["done", "finish"])
def test_sse_no_done_or_no_finish_reason_alone_is_an_end(server, skipped):
    """Some servers leave out [DONE], some the finish reason: either is an end, and the text is whole."""
    parts = events("openai", "fo", "ur")
    parts = parts[:-1] if skipped == "done" else [p for p in parts if b'"finish_reason": "stop"' not in p]
    bench_on(server, "openai", streamed(parts)).call().answers("four")


@pytest.mark.parametrize("wire", WIRES)
def test_sse_reset_is_typed_and_keeps_the_partial_text(server, wire):
    """A RST after 200 bytes and more: provider.connection, what had come is on the error."""
    error = bench_on(server, wire, (*started(wire, "fo", "ur"), RESET)).call().fails(
        LLMProviderError, "provider.connection"
    )  # fmt: skip
    assert error.partial == "four"
    assert error.possibly_billed


@pytest.mark.parametrize("wire", WIRES)
def test_sse_reset_is_not_retried_after_text_was_shown(server, wire):
    """A consumer that has seen text sees the error, and not the same text again from a second attempt."""
    bench = bench_on(server, wire, (*started(wire, "fo", "ur"), RESET), streamed(events(wire, "four")), retries=3)
    outcome = bench.streaming()
    error = outcome.fails(LLMProviderError, "provider.connection")
    assert "".join(outcome.pieces) == "four"
    assert error.partial == "four"
    assert len(server.asked("m")) == 1


@pytest.mark.parametrize("wire", WIRES)
def test_sse_reset_before_any_text_was_shown_is_retried(server, wire):
    """Nothing was shown yet: the second attempt's text is the only one that the consumer sees."""
    bench = bench_on(server, wire, (*started(wire), RESET), streamed(events(wire, "fo", "ur")), retries=1)
    outcome = bench.streaming()
    outcome.holds()
    assert outcome.error is None
    assert outcome.pieces == ["fo", "ur"]
    assert len(server.asked("m")) == 2


@pytest.mark.parametrize("wire", WIRES)
def test_sse_reset_is_retried_where_nobody_listens(server, wire):
    """A call that returns a whole answer may be made again: nobody has seen the half of it."""
    bench = bench_on(server, wire, (*started(wire, "fo"), RESET), streamed(events(wire, "four")), retries=1)
    bench.call().answers("four", attempts=2)


@pytest.mark.parametrize("wire", WIRES)
def test_sse_stall_ends_at_the_idle_limit(server, wire):
    """A first chunk, then silence: timeout.idle at the limit, and the connection is closed."""
    bench = bench_on(server, wire, (*started(wire, "fo"), STALL), timeout_s=3, discipline={"idle_s": 0.4})
    outcome = bench.call()
    error = outcome.fails(LLMTimeoutError, "timeout.idle")
    assert 0.4 <= outcome.elapsed_s <= 0.65
    assert error.partial == "fo"
    assert "idle_s" in error.next_step
    assert server.asked("m")[0].left_s is not None
    assert outcome.rows[0].status == "timeout"


@pytest.mark.parametrize("sign", [b": keep-alive\n\n", b"\n"])
def test_sse_stall_behind_keep_alive_comments_is_still_a_stall(server, sign):
    """Comments are no text: a stream that only says that it lives ends at the idle limit."""
    answer = (*started("openai", "fo"), Forever(sign, every_s=0.05))
    outcome = bench_on(server, "openai", answer, timeout_s=3, discipline={"idle_s": 0.4}).call()
    outcome.fails(LLMTimeoutError, "timeout.idle")
    assert outcome.elapsed_s <= 0.65


@pytest.mark.parametrize("wire", WIRES)
def test_sse_stall_before_the_first_text_is_a_first_token_timeout(server, wire):
    """The head and what precedes the text come, the text does not."""
    bench = bench_on(server, wire, (*started(wire), STALL), timeout_s=1.5, discipline={"first_token_s": 0.4})
    outcome = bench.call()
    error = outcome.fails(LLMTimeoutError, "timeout.first_token")
    assert 0.4 <= outcome.elapsed_s <= 0.65
    assert "first_token_s" in error.next_step


@pytest.mark.parametrize("wire", WIRES)
def test_sse_endless_is_cut_at_the_deadline(server, wire):
    """'again ' for ever: the deadline ends it, the connection is closed, memory is bounded."""
    answer = (*started(wire), Forever(delta(wire, "again "), every_s=0.002))
    tracemalloc.start()
    try:
        outcome = bench_on(server, wire, answer, timeout_s=0.5).call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    error = outcome.fails(LLMTimeoutError, "timeout.deadline")
    assert 0.5 <= outcome.elapsed_s <= 0.75
    assert set(error.partial.split()) == {"again"}
    assert server.asked("m")[0].left_s is not None
    assert peak < 32 * 2**20


@pytest.mark.parametrize("wire", WIRES)
def test_sse_endless_is_cut_at_the_largest_answer(server, wire):
    """The limit of an answer's size holds for a stream as well, long before the deadline."""
    answer = (*started(wire), Forever(delta(wire, "again " * 500), every_s=0))
    outcome = bench_on(server, wire, answer, timeout_s=10, http={"max_response_bytes": 200_000}).call()
    error = outcome.fails(LLMProviderError, "provider.too_large", caused=False)
    assert len(error.partial) <= 200_000
    assert server.quiet()


@pytest.mark.parametrize("data", [b"data: " + b"x" * 70_000, b"data: xxxxxxxx\n", b": comment\n", b"event: ping\n\n"])
def test_sse_endless_lines_events_and_comments_are_bounded(server, data):
    """A line or an event that never ends is too large; comments without end are cut by a limit of time."""
    answer = (*started("openai"), Forever(data, every_s=0))
    options = {"timeout_s": 1.0, "discipline": {"first_token_s": 0.5}, "http": {"max_response_bytes": 200_000}}
    outcome = bench_on(server, "openai", answer, **options).call()
    outcome.holds()
    assert outcome.error.code in ("provider.too_large", "timeout.first_token")


@pytest.mark.parametrize("wire", WIRES)
def test_sse_error_mid_has_the_code_that_is_inside_it(server, wire):
    """An overload after some text: provider.overloaded, and the text is kept."""
    kind = {"openai": "overloaded_error", "anthropic": "overloaded_error", "gemini": "UNAVAILABLE"}[wire]
    made = problem(wire, "come back later", kind, code=None if wire == "anthropic" else 529)
    parts = (*started(wire, "fo"), event(made, "error" if wire == "anthropic" else ""))
    error = bench_on(server, wire, (*parts, FIN)).call().fails(LLMProviderError, "provider.overloaded", caused=False)
    assert error.partial == "fo"
    assert error.retryable
    assert "come back later" in error.message


@pytest.mark.parametrize("wire", WIRES)
def test_sse_error_mid_wins_over_an_end_that_follows(server, wire):
    """An error is not forgotten because a finish reason and the format's end come after it."""
    made = event(problem(wire, "broken", "overloaded_error", code=529), "error")
    error = bench_on(server, wire, streamed([*started(wire, "fo")[1:], made, *closing(wire)])).call().fails(
        LLMProviderError, "provider.overloaded", caused=False
    )  # fmt: skip
    assert error.partial == "fo"


@pytest.mark.parametrize("wire", WIRES)
def test_sse_bad_json_is_malformed(server, wire):
    """data: {"id": and nothing more, between good events: no JSONDecodeError, and no text with a hole in it."""
    bad = b'data: {"id":\n\n'
    parts = [*started(wire, "fo")[1:], bad, bad, delta(wire, "ur"), *closing(wire)]
    error = bench_on(server, wire, streamed(parts)).call().fails(LLMProviderError, "provider.malformed", caused=False)
    assert error.retryable


@pytest.mark.parametrize("wire", WIRES)
def test_sse_bad_json_in_the_only_event_is_malformed(server, wire):
    """A stream of one event that cannot be read."""
    bench_on(server, wire, streamed([b'data: {"id":\n\n'])).call().fails(
        LLMProviderError, "provider.malformed", caused=False
    )  # fmt: skip


@pytest.mark.parametrize("wire", WIRES)
def test_sse_bad_json_in_place_of_a_text_is_no_success_with_a_hole(server, wire):
    """One event that brought text is cut: whatever end and usage follow, the answer lacks a piece."""
    cut = delta(wire, " three")[:-12] + b"\n\n"
    parts = [*started(wire, "one", " two")[1:], cut, delta(wire, " four"), *closing(wire)]
    outcome = bench_on(server, wire, streamed(parts)).call()
    assert outcome.response is None, f"a success without ' three': {outcome.response.text!r}"
    outcome.fails(LLMProviderError, "provider.malformed", caused=False)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("body", [b"", b"\n\n", b": hello\n\n", b"event: ping\n\n", b"\xef\xbb\xbf"])
def test_sse_nothing_is_empty(server, wire, body):
    """An event stream without an event: closed at once, or after comments."""
    error = bench_on(server, wire, (STREAM + body, FIN)).call().fails(LLMProviderError, "provider.empty", caused=False)
    assert error.retryable


@pytest.mark.parametrize("wire", WIRES)
def test_sse_split_utf8_keeps_the_character(server, wire):
    """0xC3 in one packet and 0xA9 in the next are one é."""
    first = delta(wire, "caf@").replace(b"@", "é".encode())
    cut = first.index(b"\xc3") + 1
    parts = [*opening(wire), first[:cut], Pause(0.03), first[cut:], *closing(wire)]
    outcome = bench_on(server, wire, streamed(parts)).streaming()
    outcome.holds()
    assert outcome.error is None
    assert "".join(outcome.pieces) == "café"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("wire", WIRES)
def test_sse_split_utf8_at_every_place_keeps_the_text(server, wire, size):
    """The stream in packets of a few bytes reads as the whole one."""
    raw = b"".join([*opening(wire), delta(wire, "@ @").replace(b"@", "naïve 🎈".encode()), *closing(wire)])
    answer = (STREAM, Drip(raw, every_s=0, size=size), FIN)
    bench_on(server, wire, answer).call().answers("naïve 🎈 naïve 🎈")


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_sse_crlf_and_comments_leave_the_text_identical(server, wire, end, bom):
    """CRLF, LF or CR alone, with comments, field names and a byte order mark: the same text."""
    raw = b": keep-alive\n\n" + b"id: 4\n: keep-alive\nretry: 9\n\n".join(events(wire, "fo", "u", "r"))
    answer = (STREAM + bom + raw.replace(b"\n", end), FIN)
    bench_on(server, wire, answer).call().answers("four")


@pytest.mark.parametrize("wire", WIRES)
def test_sse_crlf_split_between_cr_and_lf_is_one_line_end(server, wire):
    """A CR at the end of one packet and its LF in the next end no event twice and none early."""
    raw = b"".join(events(wire, "fo", "ur")).replace(b"\n", b"\r\n")
    steps = [piece + b"\r" for piece in raw.split(b"\r")[:-1]]
    answer = (STREAM, *(step for s in steps for step in (s, Pause(0.002))), raw.rpartition(b"\r")[2], FIN)
    bench_on(server, wire, answer).call().answers("four")


@pytest.mark.parametrize("wire", WIRES)
def test_sse_usage_last_is_booked(server, wire):
    """Usage in a last chunk (for OpenAI with choices: []) is what the call is charged."""
    bench = bench_on(server, wire, streamed(events(wire, "fo", "ur")))
    response = bench.call().answers("four")
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (11, 7)
    assert not response.estimated
    assert bench.ledger.balance("model:p:m").spent == 25


@pytest.mark.parametrize("wire", WIRES)
def test_sse_cancel_closes_the_connection_and_settles_what_had_come(server, wire):
    """A consumer leaves after one piece: closed within 1 s, row `cancelled`, the reservation settled."""
    answer = (*started(wire, "fo"), Forever(delta(wire, " again"), every_s=0.01))
    bench = bench_on(server, wire, answer, timeout_s=3)
    outcome = bench.streaming(leave_after=1)
    outcome.holds()
    assert outcome.error is None
    assert outcome.pieces == ["fo"]
    assert outcome.elapsed_s < 1
    assert [(r.status, r.final) for r in outcome.rows] == [("cancelled", True)]
    account = bench.ledger.balance("model:p:m")
    assert account.reserved == 0
    assert account.spent == account.uncertain > 0
    seen = server.asked("m")[0]
    assert seen.left_s is not None
    assert seen.left_s - seen.at_s < 1


def test_sse_cancel_books_what_was_received_and_not_the_worst_case(server):
    """The first event told 11 prompt tokens, and two bytes of text came: that is settled, not 4096 tokens."""
    answer = (*started("anthropic", "fo"), STALL)
    bench = bench_on(server, "anthropic", answer, timeout_s=3)
    outcome = bench.streaming(leave_after=1)
    outcome.holds()
    assert bench.ledger.balance("model:p:m").spent < bench.worst_micro() / 10


def test_sse_end_leaves_no_task_behind(server):
    """When a streamed call returns, nothing of it is left for the loop to tidy up."""

    async def main():
        http = Http()
        with span(bench.world, "test", "run", run_id="r1"):
            response = await bench.chain(http, "m").complete(bench.request("main-0"))
        left = len(asyncio.all_tasks()) - 1
        await http.aclose()
        return response.text, left

    bench = bench_on(server, "openai", streamed(events("openai", "fo", "ur")))
    assert asyncio.run(main()) == ("four", 0)


@pytest.mark.parametrize("wire", ["openai", "anthropic"])  # Gemini's has no end but that of its connection
@pytest.mark.parametrize("after", [STALL, Forever(b": still here\n\n", every_s=0.02)])
def test_sse_end_is_not_waited_beyond(server, wire, after):
    """The format's own end came: a server that then keeps the connection open delays nobody and fails nothing."""
    outcome = bench_on(server, wire, (STREAM, *events(wire, "fo", "ur"), after), timeout_s=2).call()
    outcome.answers("four")
    assert outcome.elapsed_s < 0.5


@pytest.mark.parametrize("wire", WIRES)
def test_sse_end_gives_the_connection_back(server, wire):
    """Streams in chunked encoding end before their connection does: the next call uses it again."""
    chunks = [b"%x\r\n%s\r\n" % (len(e), e) for e in events(wire, "fo", "ur")]
    first = head(content_type="text/event-stream", transfer_encoding="chunked")
    bench = bench_on(server, wire, (first, *chunks, b"0\r\n\r\n"))
    bench.call(calls=3).answers("four")
    assert len({seen.connection for seen in server.asked("m")}) == 1


@pytest.mark.parametrize("wire", WIRES)
def test_sse_json_in_place_of_a_stream_is_read_as_the_answer_that_it_is(server, wire):
    """A server that does not stream answers whole: its text, its usage, no error."""
    bench_on(server, wire, reply(document(wire))).call().answers("four")


def test_sse_pieces_come_as_they_are_sent(server):
    """A consumer has the first piece long before the last one was sent."""
    parts = [delta("openai", "fo"), Pause(0.3), delta("openai", "ur"), *closing("openai")]
    bench = bench_on(server, "openai", streamed(parts))
    times = []

    async def main():
        http = Http()
        async with aclosing(bench.chain(http, "m").stream(bench.request("main-0"))) as pieces:
            times.extend([time.perf_counter() async for _ in pieces])
        await http.aclose()

    asyncio.run(main())
    assert len(times) == 2
    assert times[1] - times[0] >= 0.25
    assert [f.response.text for f in bench.sink.facts if isinstance(f, Call)] == ["four"]
