"""Connections that fail: typed, told apart, inside the deadline, and booked as possibly billed where they were sent."""

from __future__ import annotations

import base64
import gc
import gzip
import json
import random
import resource
import socket
import ssl
import subprocess
import sys
import traceback
import tracemalloc
from pathlib import Path

import pytest

from faults.bench import CANARY, Bench, fast
from faults.server import FIN, RESET, STALL, Drip, FaultServer, Pause, head, reply, streamed
from faults.shapes import WIRES, document, events
from workbench.errors import LLMProviderError, LLMTimeoutError

ROOT = Path(__file__).parents[2]
FORMS = [(wire, stream) for wire in WIRES for stream in (False, True)]


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def whole(wire: str = "openai", text: str = "four") -> bytes:
    """A good answer, as bytes."""
    return reply(document(wire, text))[0]


def test_net_refused_names_host_and_port_and_bills_nothing(server):
    """Retryable, never sent, nothing booked; the next step names where nobody listens."""
    port = closed_port()
    bench = Bench(server=server, retries=2, bases={"m": f"http://127.0.0.1:{port}/v1"})
    error = bench.call().fails(LLMProviderError, "provider.connection", attempts=3)
    assert f"127.0.0.1:{port}" in error.next_step
    assert error.retryable
    assert not error.possibly_billed
    assert bench.ledger.balance("model:p:m").spent == 0


@pytest.mark.parametrize("stream", [False, True])
def test_net_refused_fails_over_at_once(server, stream):
    """A fallback is asked without waiting for retries of a port that is closed."""
    server.on("other", streamed(events("openai", "other")) if stream else reply(document("openai", "other")))
    bases = {"m": f"http://127.0.0.1:{closed_port()}/v1"}
    policy = fast(2, base_delay_s=1.0, max_delay_s=1.0)
    outcome = Bench(server=server, stream=stream, policy=policy, models=("m", "other"), bases=bases, draw=0.9).call()
    outcome.answers("other", attempts=len(outcome.rows))
    assert outcome.elapsed_s < 0.5, f"answered after {outcome.elapsed_s:.2f} s and {len(outcome.rows)} attempts"


def test_net_dns_says_to_check_base_url(server, monkeypatch):
    """A name that does not exist is asked for once, not in a storm of retries."""
    asked, ask = [], socket.getaddrinfo

    def unknown(host, *args, **options):
        if host in ("name.invalid", b"name.invalid"):
            asked.append(host)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    bench = Bench(server=server, retries=3, bases={"m": "http://name.invalid:8080/v1"})
    error = bench.call().fails(LLMProviderError, "provider.dns")
    assert "base_url" in error.next_step
    assert "name.invalid" in error.message
    assert not error.possibly_billed
    assert len(asked) == 1
    assert bench.ledger.balance("model:p:m").spent == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    made = folder / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
               "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    made.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return made


def tls_server(certificate: Path) -> FaultServer:
    """A server that speaks HTTPS with a certificate that nobody has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return FaultServer(tls=context)


def test_net_tls_against_plain_http_never_falls_back(server):
    """https:// to a port that speaks HTTP: a TLS error, and no request in clear text."""
    base = server.url().replace("http:", "https:")
    bench = Bench(server=server, retries=2, bases={"m": base})
    server.on("m", reply(document("openai")))
    error = bench.call().fails(LLMProviderError, "provider.tls")
    assert "certificate" in error.next_step
    assert not error.possibly_billed
    assert not server.asked("m")


def test_net_tls_names_the_problem_of_a_self_signed_certificate(server, certificate):
    """Verification stays on: the certificate's problem is named, and nothing was sent."""
    with tls_server(certificate) as secure:
        secure.on("m", reply(document("openai")))
        bench = Bench(server=server, retries=2, bases={"m": secure.url()})
        error = bench.call().fails(LLMProviderError, "provider.tls")
        assert "self-signed certificate" in error.message.replace("self signed", "self-signed")
        assert not secure.seen
        assert secure.quiet()


def test_net_tls_accepts_ones_own_certificate_as_the_next_step_says(server, certificate, monkeypatch):
    """SSL_CERT_FILE, which the next step names, makes the same server answer."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with tls_server(certificate) as secure:
        secure.on("m", reply(document("openai")))
        server.on("m", reply(document("openai")))
        outcome = Bench(server=server, bases={"m": secure.url()}).call()
        assert outcome.error is None, repr(outcome.error)
        assert outcome.response.text == "four"
        assert len(secure.seen) == 1
        assert secure.quiet()


def test_net_tls_handshake_without_an_answer_ends_at_the_deadline_unbilled(server):
    """A listener that never answers the handshake: in time, the connection closed, and no request had left."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        bench = Bench(server=server, timeout_s=0.5, bases={"m": f"https://127.0.0.1:{listener.getsockname()[1]}/v1"})
        error = bench.call().error
        ended = (isinstance(error, LLMTimeoutError), error.possibly_billed)
        del error  # its traceback would keep what was left open
        silent, _ = listener.accept()
        with silent:
            silent.settimeout(0.5)
            try:
                while silent.recv(4096):
                    pass
                closed = True
            except TimeoutError:
                closed = False
    gc.collect()  # a connection that was left open warns here, and not in another test
    assert closed, "the connection is still open half a second after the call"
    assert ended == (True, False)
    assert bench.ledger.balance("model:p:m").spent == 0


@pytest.mark.parametrize(("wire", "stream"), FORMS)
def test_net_reset_head_is_retryable_and_possibly_billed(server, wire, stream):
    """A RST after 30 bytes of the head: a retry gets the answer, the first attempt stays possibly billed."""
    good = streamed(events(wire, "four")) if stream else (whole(wire),)
    server.on("m", (whole(wire)[:30], RESET), good)
    bench = Bench(server=server, wire=wire, stream=stream, retries=1)
    outcome = bench.call()
    outcome.answers("four", attempts=2)
    assert outcome.rows[0].failure.code == "provider.connection"
    assert outcome.rows[0].failure.possibly_billed
    assert bench.ledger.balance("model:p:m").uncertain == bench.worst_micro()


@pytest.mark.parametrize(("wire", "stream"), FORMS)
def test_net_reset_head_without_retries_is_a_connection_error(server, wire, stream):
    """The same, raised: class, code, cause."""
    server.on("m", (whole(wire)[:30], RESET))
    error = Bench(server=server, wire=wire, stream=stream).call().fails(LLMProviderError, "provider.connection")
    assert error.retryable
    assert error.possibly_billed


@pytest.mark.parametrize("wire", WIRES)
def test_net_reset_body_returns_no_partial_text_as_an_answer(server, wire):
    """A RST after the head and a part of the JSON is no answer, whatever of the text had come."""
    raw = reply(document(wire, "four " * 20))[0]
    server.on("m", (raw[:-90], RESET))
    error = Bench(server=server, wire=wire, retries=1).call().fails(
        LLMProviderError, "provider.connection", attempts=2
    )  # fmt: skip
    assert error.possibly_billed
    assert error.retryable


@pytest.mark.parametrize("length", [0, 1, 60, 120])
@pytest.mark.parametrize("wire", WIRES)
def test_net_fin_body_is_a_connection_error_not_a_json_error(server, wire, length):
    """A clean close before Content-Length is reached, at several places of the body."""
    body = json.dumps(document(wire)).encode()
    server.on("m", (head(length=len(body), content_type="application/json") + body[:length], FIN))
    error = Bench(server=server, wire=wire).call().fails(LLMProviderError, "provider.connection")
    assert error.possibly_billed


@pytest.mark.parametrize("wire", WIRES)
def test_net_fin_body_inside_chunked_encoding_is_a_connection_error(server, wire):
    """The same for a body in chunks whose last chunk never comes."""
    body = json.dumps(document(wire)).encode()
    first = head(content_type="application/json", transfer_encoding="chunked")
    server.on("m", (first + b"%x\r\n%s\r\n" % (len(body), body), FIN))
    Bench(server=server, wire=wire).call().fails(LLMProviderError, "provider.connection")


@pytest.mark.parametrize(("wire", "stream"), FORMS)
def test_net_stall_head_ends_at_the_deadline(server, wire, stream):
    """No byte comes: the error comes at the deadline, the connection is closed, the row says timeout."""
    server.on("m", (STALL,))
    bench = Bench(server=server, wire=wire, stream=stream, retries=3, timeout_s=0.4)
    outcome = bench.call()
    error = outcome.fails(LLMTimeoutError, "timeout.deadline")
    assert 0.4 <= outcome.elapsed_s <= 0.65
    assert outcome.rows[0].status == "timeout"
    assert error.possibly_billed
    assert bench.ledger.balance("model:p:m").uncertain == bench.worst_micro()
    seen = server.asked("m")[0]
    assert seen.left_s is not None
    assert seen.left_s - seen.at_s <= 0.65


@pytest.mark.parametrize("wire", WIRES)
def test_net_stall_body_ends_at_the_deadline(server, wire):
    """The head and 40 bytes, then silence: the same bound."""
    raw = whole(wire)
    server.on("m", (raw[: raw.index(b"\r\n\r\n") + 44], STALL))
    outcome = Bench(server=server, wire=wire, retries=3, timeout_s=0.4).call()
    outcome.fails(LLMTimeoutError, "timeout.deadline")
    assert 0.4 <= outcome.elapsed_s <= 0.65
    assert server.asked("m")[0].left_s is not None


@pytest.mark.parametrize(("wire", "stream"), FORMS)
def test_net_drip_keeps_the_total_deadline(server, wire, stream):
    """20 bytes a second: every read is quick, and the deadline is kept all the same."""
    first = whole(wire)
    if stream:
        first = b"".join(step for step in streamed(events(wire, "four")) if isinstance(step, bytes))
    cut = first.index(b"\r\n\r\n") + 4
    server.on("m", (first[:cut], Drip(first[cut:], every_s=0.05)))
    outcome = Bench(server=server, wire=wire, stream=stream, retries=2, timeout_s=0.5).call()
    outcome.fails(LLMTimeoutError, "timeout.deadline")
    assert 0.5 <= outcome.elapsed_s <= 0.75


def test_net_drip_of_the_head_keeps_the_total_deadline(server):
    """The same inside the head."""
    server.on("m", (Drip(whole(), every_s=0.05),))
    Bench(server=server, retries=2, timeout_s=0.6).call().fails(LLMTimeoutError, "timeout.deadline")


@pytest.mark.parametrize("stream", [False, True])
def test_net_garbage_is_typed_and_the_connection_is_not_used_again(server, stream):
    """512 random bytes where HTTP should be; the retry comes on another connection."""
    server.on("m", (random.Random(1).randbytes(512), Pause(0.05), FIN))
    error = Bench(server=server, stream=stream, retries=1).call().fails(
        LLMProviderError, "provider.protocol", attempts=2
    )  # fmt: skip
    assert "base_url" in error.next_step
    first, second = server.asked("m")
    assert first.connection != second.connection


@pytest.mark.parametrize("seed", range(12))
def test_net_garbage_of_any_bytes_is_typed(server, seed):
    """Other random bytes, with line ends and zeros among them, are never more than a typed error."""
    chance = random.Random(seed)
    raw = bytes(chance.choice(b"\r\n \x00:HTP/1.20\xff\x80") for _ in range(512))
    server.on("m", (raw, FIN))
    outcome = Bench(server=server).call()
    outcome.holds()
    assert outcome.error.code in ("provider.protocol", "provider.connection")


def bomb(encoding: str) -> bytes:
    """64 MB of A inside a JSON answer, compressed."""
    assert encoding == "gzip"
    text = json.dumps(document("openai", "@")).encode()
    return gzip.compress(text.replace(b"@", b"A" * (64 * 2**20)), compresslevel=9)


@pytest.mark.parametrize("stream", [False, True])
def test_net_gzip_bomb_stops_at_the_response_limit(server, stream):
    """16 MB decoded are the end of it, with less than 64 MB of memory on the way."""
    body = bomb("gzip")
    kind = "text/event-stream" if stream else "application/json"
    server.on("m", reply(body, content_type=kind, content_encoding="gzip"))
    bench = Bench(server=server, retries=2, stream=stream, timeout_s=10)
    tracemalloc.start()
    try:
        outcome = bench.call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    error = outcome.fails(LLMProviderError, "provider.too_large", caused=False)
    assert "max_response_bytes" in error.next_step
    assert not error.retryable
    assert peak < 64 * 2**20, f"{peak / 2**20:.0f} MB"


def test_net_keepalive_lie_of_a_closed_connection_is_not_seen_by_the_user(server):
    """Keep-alive was promised, then the connection closed: the second call opens another without a failure."""
    server.on("m", (whole(), Pause(0.02), FIN), (whole(text="five"),))
    outcome = Bench(server=server, retries=0).call(calls=2, pause_s=0.1)
    outcome.answers("five")
    first, second = server.asked("m")[0], server.asked("m")[-1]
    assert first.connection != second.connection


@pytest.mark.parametrize("end", [FIN, RESET])
def test_net_keepalive_lie_on_the_second_request_is_retried_on_a_fresh_connection(server, end):
    """The server reads the second request and closes without a word: one retry, on another connection."""
    server.on("m", (whole(),), (end,), (whole(text="five"),))
    outcome = Bench(server=server, retries=1).call(calls=2)
    outcome.answers("five", attempts=2)
    assert outcome.rows[0].failure.possibly_billed
    _, two, three = server.asked("m")
    assert two.connection != three.connection


CHILD = """
import asyncio, json, resource, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from workbench.act.admission import Admission, Discipline
from workbench.act.failover import Chain
from workbench.act.http import Http
from workbench.act.live import HttpModel
from workbench.act.provider import Provider
from workbench.act.world import MemorySink, World
from workbench.facts import Call, Failure, Request

async def main():
    sink = MemorySink()
    world, http = World.real(sink), Http()
    provider = Provider(name="p", wire="openai", base_url=sys.argv[1], auth="none")
    chain = Chain(Admission(world, Discipline(timeout_s=20)), (HttpModel(provider, "m", http, world),))
    made = await asyncio.gather(*(chain.ask(Request.of(f"question {n}")) for n in range(256)))
    await http.aclose()
    codes = sorted({f"{m.code}: {m.message}" for m in made if isinstance(m, Failure)})
    rows = [f for f in sink.facts if isinstance(f, Call)]
    print(json.dumps({"texts": [getattr(m, "text", None) for m in made], "codes": codes, "rows": len(rows)}))

asyncio.run(main())
"""


def test_net_fd_limit_queues_calls_instead_of_running_out(server):
    """256 calls at once with 64 descriptors: all finish, each with its own answer, and no OSError escapes."""
    answer = lambda seen: (Pause(0.01), *reply(document("openai", seen.body["messages"][0]["content"].upper())))  # noqa: E731
    server.on("m", answer)
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD, server.url()],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert child.stderr == ""
    told = json.loads(child.stdout)
    assert told["codes"] == []
    assert told["texts"] == [f"QUESTION {n}" for n in range(256)]
    assert told["rows"] == 256
    assert len(server.seen) == 256
    assert server.accepted <= 64
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64  # the limit was the child's alone


@pytest.mark.parametrize(
    "extra", [{"content_security_policy": "x" * 9000}, {f"x_{n}": n for n in range(200)}], ids=["long", "many"]
)
def test_net_heads_as_large_as_others_take_are_read(server, extra):
    """A long policy or many headers of a proxy cost no answer."""
    server.on("m", reply(document("openai", "four"), **extra))
    Bench(server=server).call().answers("four")


@pytest.mark.parametrize("first", ["HTTP/1.1 2OO", "HTTP/1.1 200 OK\r\nbad header"])
def test_net_garbage_that_quotes_the_key_does_not_show_it(server, first):
    """Neither the message nor any exception behind it repeats what came."""
    server.on("m", (f"{first} {CANARY}\r\n\r\n".encode(), FIN))
    error = Bench(server=server).call().fails(LLMProviderError, "provider.protocol")
    assert CANARY not in "".join(traceback.format_exception(error))


def test_net_proxies_are_told_who_calls_for_plain_http_too(server, monkeypatch):
    """The proxy of the environment gets its user and password with the request, and they show nowhere else."""
    server.on("m", reply(document("openai", "four")))
    monkeypatch.setenv("http_proxy", f"http://user:hunter2@127.0.0.1:{server.port}")
    bench = Bench(server=server, bases={"m": "http://api.example/v1", "well-1": "http://api.example/v1"})
    outcome = bench.call()
    outcome.answers("four")
    (seen,) = server.asked("m")
    assert seen.headers["proxy-authorization"] == f"Basic {base64.b64encode(b'user:hunter2').decode()}"
    assert "hunter2" not in repr(outcome.facts)


def test_net_refused_by_the_proxy_is_told_of_the_proxy(monkeypatch, server):
    """Whose base_url is right must not look there."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    bench = Bench(server=server, bases={"m": "http://api.example/v1"})
    error = bench.call().fails(LLMProviderError, "provider.connection")
    assert "proxy" in error.message
    assert "NO_PROXY" in error.next_step
    assert not error.possibly_billed
