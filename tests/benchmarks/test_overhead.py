"""What benchmarks/overhead.py asks and is answered, and how its costs become ratios."""

from __future__ import annotations

import json

from benchmarks._overhead_dialogue import answer, messages, response, split
from benchmarks._overhead_figures import ratios, table, worst_ratio

POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nContent-Length: 5\r\n\r\n"


def test_requests_are_split_wherever_the_network_has_cut_them() -> None:
    """Two requests in a row are found whole, however many bytes of them have arrived."""
    stream = POST + b"first" + POST + b"again"
    for cut in range(len(stream) + 1):
        early, rest = split(stream[:cut])
        late, nothing = split(rest + stream[cut:])
        assert [*early, *late] == [POST + b"first", POST + b"again"]
        assert nothing == b""


def test_a_chunked_request_ends_with_its_last_chunk() -> None:
    """A body without a length is whole when the empty chunk is there, and not before."""
    head = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    body = b"3\r\nabc\r\n0\r\n\r\n"
    assert split(head + body[:-1]) == ([], head + body[:-1])
    assert split(head + body + b"P") == ([head + body], b"P")


def test_a_length_in_a_body_is_none_of_the_request() -> None:
    """What looks like a header inside a body does not move the request's end."""
    body = b"\r\ncontent-length: 9\r\n"
    head = b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body)
    assert split(head + body) == ([head + body], b"")


def test_each_call_has_an_answer_of_its_own() -> None:
    """The server's answer to call 7 is the text that call 7 expects, and no other call does."""
    head, _, body = response(json.dumps({"messages": messages(7)}).encode()).partition(b"\r\n\r\n")
    said = json.loads(body)["choices"][0]["message"]["content"]
    assert said == answer(7)
    assert said != answer(77)
    assert f"content-length: {len(body)}".encode() in head


def test_a_request_without_a_number_is_refused() -> None:
    """What was not asked by the benchmark gets no answer that could pass for one."""
    assert response(b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_ratios_compare_costs_of_the_same_round() -> None:
    """A slow round slows both sides and leaves its ratio as it is."""
    costs = {("ours", 1): [50.0, 500.0], ("httpx", 1): [100.0, 1000.0], ("ours", 32): [30.0]}
    assert ratios(costs, "ours", "httpx", 1) == [0.5, 0.5]
    assert ratios(costs, "ours", "httpx", 32) == []
    assert ratios(costs, "ours", "router", 1) == []


def test_the_worst_ratio_is_that_of_the_worst_concurrency() -> None:
    """Each concurrency counts with its median: 0.2 of (0.1, 0.2, 0.9) and 0.4 of (0.3, 0.4, 0.5) give 0.4."""
    costs = {
        ("ours", 1): [1.0, 2.0, 9.0],
        ("router", 1): [10.0, 10.0, 10.0],
        ("ours", 32): [3.0, 4.0, 5.0],
        ("router", 32): [10.0, 10.0, 10.0],
    }
    assert worst_ratio(costs, "ours", "router", (1, 32)) == 0.4
    assert worst_ratio(costs, "ours", "openai", (1, 32)) is None


def test_the_table_ends_with_the_cheapest_and_leaves_out_who_was_not_measured() -> None:
    """One line for each client with figures, dearest first, with median, least and most."""
    costs = {("httpx", 1): [100.0, 110.0, 90.0], ("router", 1): [], ("openai", 1): [300.0, 330.0, 270.0]}
    first, second = table(costs, ("httpx", "router", "openai"), "httpx", 1)
    assert first.split() == ["openai", "300", "[270,", "330]", "us", "x", "httpx", "3.000", "[3.000,", "3.000]"]
    assert second.split() == ["httpx", "100", "[90,", "110]", "us", "x", "httpx", "1.000", "[1.000,", "1.000]"]
