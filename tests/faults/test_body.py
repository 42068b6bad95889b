"""Bodies that are no answer: always typed, and never an error of a parser."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from faults.bench import Bench
from faults.server import reply, streamed
from faults.shapes import WIRES, closing, delta, document, opening
from workbench.act.http import Http
from workbench.act.trace import span
from workbench.errors import LLMProviderError

TEN_MB = 10_000_000


def refused(server, wire, *, stream=False, retries=0, caused=True, **headers):
    """The error of a bench whose model answers with what the server has been told."""
    outcome = Bench(server=server, wire=wire, stream=stream, retries=retries).call()
    return outcome.fails(LLMProviderError, "provider.malformed", attempts=len(outcome.rows), caused=caused)


@pytest.mark.parametrize("wire", WIRES)
def test_body_truncated_with_a_valid_length_is_retryable(server, wire):
    """The first 60 bytes of the JSON, announced as 60: malformed, tried again, and answered."""
    server.on("m", reply(json.dumps(document(wire)).encode()[:60]), reply(document(wire)))
    outcome = Bench(server=server, wire=wire, retries=1).call()
    outcome.answers("four", attempts=2)
    failure = outcome.rows[0].failure
    assert (failure.code, failure.retryable, failure.possibly_billed) == ("provider.malformed", True, True)


@pytest.mark.parametrize("wire", WIRES)
def test_body_truncated_at_every_length_is_malformed(server, wire):
    """Wherever the JSON is cut, the error is the same one."""
    body = json.dumps(document(wire)).encode()
    server.on("m", *(reply(body[:length]) for length in range(0, len(body), 23)))
    for _ in range(0, len(body), 23):
        refused(server, wire)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_body_html_of_a_portal_says_that_something_else_has_answered(server, wire, stream):
    """A page with status 200: the next step names base_url and a proxy or portal; nothing is tried again."""
    page = b"<!doctype html><html><head><title>Sign in to the hotel</title></head><body>...</body></html>"
    server.on("m", reply(page, content_type="text/html; charset=utf-8"))
    error = refused(server, wire, stream=stream, retries=2)
    assert "base_url" in error.next_step
    assert "portal" in error.next_step
    assert "HTML" in error.message
    assert len(server.asked("m")) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_body_empty_is_malformed(server, wire, stream):
    """Status 200 with Content-Length 0, of JSON."""
    server.on("m", reply(b""))
    assert refused(server, wire, stream=stream).status in (None, 200)


@pytest.mark.parametrize("wire", WIRES)
def test_body_badutf8_is_malformed_and_no_unicode_error(server, wire):
    """Bytes that are no UTF-8 inside a string of the answer."""
    body = json.dumps(document(wire, "caf@")).encode().replace(b"@", b"\xff\xfe")
    server.on("m", reply(body))
    refused(server, wire)


@pytest.mark.parametrize("wire", WIRES)
def test_body_badutf8_in_an_event_is_malformed_and_no_unicode_error(server, wire):
    """The same inside a stream: one event that cannot be read, without its usage, is no answer."""
    bad = delta(wire, "caf@").replace(b"@", b"\xff\xfe")
    server.on("m", streamed([*opening(wire), bad, bad, *closing(wire)]))
    outcome = Bench(server=server, wire=wire, stream=True).call()
    outcome.fails(LLMProviderError, "provider.malformed", caused=False)


@pytest.mark.parametrize("body", ["[]", "null", '"four"', "4", "true", "[{}]", "NaN", "1e999"])
@pytest.mark.parametrize("wire", WIRES)
def test_body_array_and_other_values_at_the_top_are_malformed(server, wire, body):
    """Valid JSON that is no object."""
    server.on("m", reply(body.encode()))
    refused(server, wire, caused=False)


@pytest.mark.parametrize("body", ["[" * 200_000, '{"a":' * 200_000, '{"choices":' + "[" * 100_000])
def test_body_nested_beyond_the_parser_is_malformed(server, body):
    """Depth is no RecursionError."""
    server.on("m", reply(body.encode()))
    refused(server, "openai")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_body_10mb_is_accepted_and_never_freezes_the_loop(server, wire, stream):
    """10,000,000 characters arrive whole, and the loop is never away for more than 100 ms."""
    text = "lorem ipsum " * (TEN_MB // 12) + "tail"
    if stream:
        pieces = [delta(wire, text[at : at + 20_000]) for at in range(0, len(text), 20_000)]
        server.on("m", streamed([b"".join([*opening(wire), *pieces, *closing(wire)])]))
    else:
        server.on("m", reply(document(wire, text)))
    bench = Bench(server=server, wire=wire, stream=stream, timeout_s=10)
    longest = []
    for number in range(3):  # a busy machine freezes everybody: the best of three is ours
        response, gap_s = asyncio.run(watched(bench, f"big-{number}"))
        assert response.text == text
        longest.append(gap_s)
        if gap_s <= 0.1:
            break
    assert min(longest) <= 0.1, f"the loop was away for {min(longest) * 1e3:.0f} ms"


async def watched(bench, name):
    """The response of one call, and the longest time in which the loop did not come round."""
    http, longest = Http(), 0.0

    async def tick():
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    longest = 0.0  # what it takes to open the connections is not about the answer
    with span(bench.world, "test", "run", run_id="r1"):
        response = await bench.chain(http, "m").complete(bench.request(name))
    await asyncio.sleep(0.005)
    ticking.cancel()
    await asyncio.wait({ticking})
    await http.aclose()
    return response, longest


@pytest.mark.parametrize("wire", WIRES)
def test_body_10mb_over_the_configured_limit_is_refused(server, wire):
    """With max_response_bytes below it, the same answer is refused by name, and the connection closed."""
    server.on("m", reply(document(wire, "x" * TEN_MB)))
    bench = Bench(server=server, wire=wire, timeout_s=5, http={"max_response_bytes": 1_000_000})
    error = bench.call().fails(LLMProviderError, "provider.too_large", caused=False)
    assert "max_response_bytes" in error.next_step
