"""Clients that do what no client should: their connection suffers, the lab does not."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time

import pytest

from workbench.serve.lab import FaultLab
from workbench.serve.lab.http1 import Bounds

ASK = json.dumps({"model": "weak", "messages": [{"role": "user", "content": "Hello?"}]}).encode()
MODELS = b"GET /v1/models HTTP/1.1\r\n\r\n"


def post(body=ASK, *lines, path="/v1/chat/completions", version="1.1", length=True):
    """A request as bytes."""
    head = [f"POST {path} HTTP/{version}".encode(), *(line.encode() for line in lines)]
    if length:
        head.append(b"content-length: %d" % len(body))
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def exchange(lab, *parts, pause_s=0.0, close=True):
    """Everything that the lab says to these bytes until it closes, or for a moment where it does not."""
    said = b""
    with socket.create_connection(("127.0.0.1", lab.port), timeout=3) as conn:
        for part in parts:
            conn.sendall(part)
            time.sleep(pause_s)
        conn.settimeout(3 if close else 0.3)
        try:
            while piece := conn.recv(65_536):
                said += piece
        except TimeoutError:
            assert not close, f"the connection is still open after {said[:200]!r}"
    return said


def status(said):
    """The status of an answer."""
    return int(said[9:12])


@pytest.fixture(autouse=True)
def _well_afterwards(lab):
    """Whatever a client did, the next one is answered, and nothing is left open."""
    yield
    assert status(exchange(lab, post(ASK, "connection: close"))) == 200
    assert lab.quiet()


CLOSE = "connection: close"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
        (b"GET /v1/models HTTP/1.1\r\nno colon here\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\n: x\r\n\r\n", 400),
        (post(length=False), 411),
        (post(b"", "content-length: -5", length=False), 400),
        (post(b"", "content-length: 1e3", length=False), 400),
        (post(b"", "content-length: 99999999999", length=False), 413),
        (post(b"", "content-length: 5", "content-length: 6", length=False), 400),
        (post(b"0\r\n\r\n", "transfer-encoding: chunked"), 400),
        (post(b"0\r\n\r\n", "transfer-encoding: gzip", length=False), 400),
        (post(b"xyz\r\n\r\n", "transfer-encoding: chunked", length=False), 400),
        (post(b"3\r\nabcdef\r\n0\r\n\r\n", "transfer-encoding: chunked", length=False), 400),
        (post(b"fffffff\r\n", "transfer-encoding: chunked", length=False), 413),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000 + b"\r\n\r\n", 431),
    ],
)
def test_what_cannot_be_read_is_refused_and_the_connection_closed(lab, sent, expected):
    """The status says why; nothing was accepted."""
    said = exchange(lab, sent)
    assert status(said) == expected
    assert b"connection: close" in said
    assert lab.log == ()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (post(b"{", CLOSE), 400),
        (post(b"[]", CLOSE), 400),
        (post(b"\xff\xfe", CLOSE), 400),
        (post(b"[" * 100_000, CLOSE), 400),
        (post(b"{}", CLOSE), 400),
        (post(b'{"model": 7, "messages": []}', CLOSE), 400),
        (post(b'{"model": "weak"}', CLOSE), 400),
        (post(b'{"model": "weak", "messages": "hi"}', CLOSE), 400),
        (post(b'{"model": "nobody", "messages": [{"role": "user", "content": "x"}]}', CLOSE), 404),
        (post(b'{"model": "weak!", "messages": [{"role": "user", "content": [{"type": "image"}]}]}', CLOSE), 200),
        (post(b'{"model": "weak!nothing", "messages": [{"role": "user", "content": "x"}]}', CLOSE), 400),
        (post(b'{"contents": []}', CLOSE, path="/v1beta/models/weak:generateContent"), 400),
        (post(ASK, CLOSE, path="/v1/completions"), 404),
        (b"GET /v1/chat/completions HTTP/1.1\r\nconnection: close\r\n\r\n", 405),
        (b"HEAD /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n", 404),
        (b"DELETE /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n", 404),
    ],
)
def test_what_no_model_can_be_asked_is_refused_in_words(lab, sent, expected):
    """A JSON error with a message, whatever the body holds."""
    said = exchange(lab, sent)
    assert status(said) == expected
    body = said.partition(b"\r\n\r\n")[2]
    if sent.startswith(b"HEAD"):
        assert body == b""
    else:
        assert expected == 200 or json.loads(body)["error"]["message"]
    assert len(lab.log) == 1


def test_a_body_in_chunks_is_read(lab):
    """Pieces of any size with extensions and trailers, as some clients send them."""
    chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(ASK[at : at + 7]), ASK[at : at + 7]) for at in range(0, len(ASK), 7))
    sent = post(chunks + b"0\r\ntrailer: x\r\n\r\n", "transfer-encoding: chunked", "connection: close", length=False)
    assert status(exchange(lab, sent)) == 200
    assert lab.accepted.by_model == {"weak": 1}


def test_a_request_byte_by_byte_is_read(lab):
    """However it is cut into packets."""
    sent = post(ASK, CLOSE)
    assert status(exchange(lab, *(sent[at : at + 1] for at in range(len(sent))))) == 200


def test_requests_sent_in_one_go_are_answered_in_order(lab):
    """Pipelining: three requests in one packet, three answers, the last closes."""
    said = exchange(lab, post() + MODELS + post(ASK, CLOSE))
    assert said.count(b"HTTP/1.1 200 OK") == 3
    kinds = [b'"chat.completion"', b'"list"', b'"chat.completion"']
    places = [said.index(kinds[0]), said.index(kinds[1]), said.rindex(kinds[2])]
    assert places == sorted(places)
    assert [entry.method for entry in lab.log] == ["POST", "GET", "POST"]


def test_http_1_0_is_answered_and_closed_unless_it_asks_to_keep(lab):
    """Without chunks, also a stream."""
    assert status(exchange(lab, post(version="1.0"))) == 200
    kept = exchange(lab, post(ASK, "connection: keep-alive", version="1.0") * 2, close=False)
    assert kept.count(b"HTTP/1.1 200 OK") == 2
    body = json.dumps({**json.loads(ASK), "stream": True}).encode()
    said = exchange(lab, post(body, version="1.0"))
    assert said.endswith(b"data: [DONE]\n\n")
    assert b"chunked" not in said


def test_expect_100_continue_is_told_to_continue(lab):
    """The body is asked for first; a body that is too large is refused instead."""
    head, _, body = post(ASK, "expect: 100-continue", CLOSE).partition(b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", lab.port), timeout=3) as conn:
        conn.sendall(head + b"\r\n\r\n")
        assert conn.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        conn.sendall(body)
        assert status(conn.recv(65_536)) == 200
    large = post(b"", "expect: 100-continue", "content-length: 999999999", length=False)
    assert status(exchange(lab, large)) == 413


def test_a_body_over_the_limit_is_refused_while_it_comes(lab):
    """The client reads the 413 although it has not finished sending."""
    said = exchange(lab, post(b"x" * 100_000, "content-length: 999999999", length=False))
    assert status(said) == 413


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_never_harm(lab, seed):
    """Bytes that look a little like HTTP, cut off anywhere."""
    chance = random.Random(seed)
    words = [b"GET ", b"POST ", b"/v1/chat/completions", b" HTTP/1.1", b"\r\n", b"\r\n\r\n", b"content-length: ", b"5",
             b"\x00", b"\xff\xfe", b"{", b"transfer-encoding: chunked", b":", b" ", b"0\r\n\r\n"]  # fmt: skip
    sent = b"".join(chance.choice(words) for _ in range(chance.randrange(1, 60)))
    with socket.create_connection(("127.0.0.1", lab.port), timeout=3) as conn:
        conn.sendall(sent)
        conn.shutdown(socket.SHUT_WR)
        try:
            while conn.recv(65_536):
                pass
        except ConnectionError:
            pass  # closed on what it had not read


def test_slow_heads_bodies_and_idle_connections_are_let_go():
    """Each has a limit of time of its own: 408 for what has begun, a silent close for what has not."""
    bounds = Bounds(head_s=0.3, body_s=0.2, idle_s=0.3)
    with FaultLab(["weak"], suites=(), latency=0, bounds=bounds) as strict:
        assert status(exchange(strict, b"GET /v1/mod")) == 408
        assert status(exchange(strict, post()[:-5])) == 408
        assert exchange(strict) == b""
        assert exchange(strict, MODELS).count(b"200 OK") == 1
        assert strict.quiet()


def test_a_client_that_sends_ahead_and_leaves_a_stalled_answer_is_let_go():
    """Behind the bytes of the next request its leaving cannot be seen; a limit of time ends it."""
    stalled = post(ASK.replace(b"weak", b"weak!net-stall-head"))
    with FaultLab(["weak"], suites=(), latency=0, bounds=Bounds(body_s=0.2)) as strict:
        with socket.create_connection(("127.0.0.1", strict.port), timeout=3) as conn:
            conn.sendall(stalled + MODELS)
            ends_s = time.monotonic() + 2
            while not strict.log and time.monotonic() < ends_s:
                time.sleep(0.002)
        assert strict.quiet(2)
        (entry,) = strict.log
    assert not entry.answered
    assert entry.left_s - entry.at_s >= 0.2


def test_a_client_that_leaves_at_any_byte_does_no_harm(lab):
    """Cut off with a reset in the head, in the body, and while the answer comes."""
    sent = post()
    for length in (1, 10, 60, len(sent) - 1, len(sent)):
        with socket.create_connection(("127.0.0.1", lab.port), timeout=3) as conn:
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            conn.sendall(sent[:length])
    assert lab.quiet()
    assert lab.accepted.total <= 1


def test_a_thousand_connections_are_answered(lab):
    """1,000 sockets open at once, each with a question, and each gets its own answer."""

    async def main():
        opened = []
        try:
            for number in range(1000):
                opened.append(await asyncio.open_connection("127.0.0.1", lab.port))
                body = json.dumps({"model": ("weak", "strong")[number % 2], "messages": [{"content": f"{number}?"}]})
                opened[-1][1].write(post(body.encode(), f"idempotency-key: k{number}"))
            return [await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20) for reader, _ in opened], lab.open_now
        finally:
            for _, writer in opened:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for _, writer in opened), return_exceptions=True)

    heads, open_then = asyncio.run(main())
    assert [status(head) for head in heads] == [200] * 1000
    assert open_then == 1000
    assert lab.quiet(10)
    counts = lab.accepted
    assert counts.total == 1000
    assert set(counts.by_key.values()) == {1}
    assert counts.by_model == {"weak": 500, "strong": 500}
