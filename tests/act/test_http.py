"""Connections and bodies: bounds, encodings, failures by their names, and addresses that are refused."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import ssl
import zlib

import httpx
import pytest

from tests.act.wire.harness import Drip
from workbench.act import http as module
from workbench.act.http import MAX_CONNECTIONS, Address, Http, named
from workbench.errors import LLMError, LLMProviderError, LLMValidationError

URL = Address("http://127.0.0.1:9/v1/chat")


def answered(body, *, headers=(), longest=1000, every_s=0.0):
    """What is read of a body that arrives in the given pieces."""
    stream = Drip(body, every_s)
    made = httpx.Response(200, stream=stream, headers=dict(headers))

    async def read():
        http = Http(transport=httpx.MockTransport(lambda request: made), max_response_bytes=longest)
        received = await http.post(URL, [(b"host", b"x")], b"{}")
        try:
            return await received.read()
        finally:
            await received.close()
            assert stream.closed

    return asyncio.run(read())


def refused(*args, **more):
    """The error that reading ends in."""
    with pytest.raises(LLMProviderError) as caught:
        answered(*args, **more)
    assert 0 < len(caught.value.next_step) <= 160
    return caught.value


def test_a_body_is_read_in_the_order_of_its_pieces():
    """Bytes come through as they are."""
    assert answered([b"ab", b"", b"c"]) == b"abc"
    assert answered([]) == b""


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "deflate", " identity ", ""])
def test_known_encodings_are_decoded(coding):
    """Also when they come in single bytes, and were not asked for."""
    pack = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}.get(coding.lower(), bytes)
    packed = pack(b"hello" * 100)
    assert (
        answered([packed[i : i + 1] for i in range(len(packed))], headers={"content-encoding": coding})
        == b"hello" * 100
    )


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br", "nonsense"])
def test_an_encoding_that_was_not_asked_for_is_malformed(coding):
    """Nothing is guessed, and asking again meets the same proxy."""
    error = refused([b"x"], headers={"content-encoding": coding})
    assert (error.code, error.retryable) == ("provider.malformed", False)


@pytest.mark.parametrize("body", [b"no gzip", gzip.compress(b"x" * 50, mtime=0)[:15] + b"\xff" * 30])
def test_a_corrupt_encoding_is_malformed_and_not_asked_again(body):
    """The cause is kept."""
    error = refused([body], headers={"content-encoding": "gzip"})
    assert (error.code, error.retryable) == ("provider.malformed", False)
    assert isinstance(error.__cause__, zlib.error)


@pytest.mark.parametrize("headers", [{}, {"content-encoding": "gzip"}])
def test_a_body_beyond_the_limit_is_refused(headers):
    """1,001 bytes are one too many, compressed or not; a bomb takes no more room than the limit."""
    assert answered([b"x" * 1000]) == b"x" * 1000
    body = gzip.compress(b"x" * 10**7) if headers else b"x" * 1001
    error = refused([body], headers=headers)
    assert error.code == "provider.too_large"
    assert "max_response_bytes" in error.next_step


def test_a_whole_answer_of_an_injected_transport_has_the_same_limit():
    """A transport that has read the body already is bound as well."""

    async def read():
        transport = httpx.MockTransport(lambda request: httpx.Response(200, content=b"x" * 1001))
        received = await Http(transport=transport, max_response_bytes=1000).post(URL, [], b"")
        return await received.read()

    with pytest.raises(LLMProviderError) as caught:
        asyncio.run(read())
    assert caught.value.code == "provider.too_large"


@pytest.mark.parametrize("broken", [httpx.ReadError("x"), httpx.RemoteProtocolError("x"), OSError(5, "x")])
def test_a_connection_that_breaks_inside_the_body_is_a_connection_failure(broken):
    """Retryable, possibly billed, with its cause."""
    error = refused([b"half", broken])
    assert (error.code, error.retryable, error.possibly_billed) == ("provider.connection", True, True)
    assert error.__cause__ is broken


def caused(error, cause):
    """The error as it is raised from another."""
    error.__cause__ = cause
    return error


TLS = ssl.SSLCertVerificationError(1, "certificate verify failed")
H11 = type("RemoteProtocolError", (Exception,), {"__module__": "h11._util"})("illegal status line")


@pytest.mark.parametrize(
    ("error", "code", "billed"),
    [
        (caused(httpx.ConnectError("x"), socket.gaierror(-2, "x")), "provider.dns", False),
        (caused(httpx.ConnectError("x"), TLS), "provider.tls", False),
        (caused(httpx.ConnectError("x"), ssl.SSLError("handshake")), "provider.tls", False),
        (httpx.ConnectError("refused"), "provider.connection", False),
        (httpx.ConnectTimeout("x"), "provider.connection", False),
        (httpx.PoolTimeout("x"), "provider.connection", False),
        (httpx.UnsupportedProtocol("x"), "provider.connection", False),
        (httpx.ReadError("reset"), "provider.connection", True),
        (httpx.WriteError("x"), "provider.connection", True),
        (httpx.ReadTimeout("x"), "provider.connection", True),
        (httpx.RemoteProtocolError("closed without an answer"), "provider.protocol", True),
        (caused(httpx.RemoteProtocolError("x"), H11), "provider.protocol", True),
        (httpx.LocalProtocolError("x"), "provider.protocol", False),
        (ConnectionResetError("x"), "provider.connection", True),
    ],
)
def test_a_failure_before_the_answer_is_told_by_its_type(error, code, billed):
    """Each has its code, and what has not left is not billed."""
    made = named(error, URL)
    assert (made.code, made.possibly_billed) == (code, billed)
    assert "127.0.0.1" in made.message
    assert 0 < len(made.next_step) <= 160


def test_a_circle_of_causes_ends():
    """Errors that name each other as their cause are looked at once."""
    one, two = httpx.ReadError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert named(one, URL).code == "provider.connection"


def test_a_failure_to_send_gives_the_connection_back():
    """With one connection, a request is not kept waiting by one that failed, or by one that was cancelled."""
    failing = [httpx.ConnectError("x"), None, None]

    async def handler(request):
        step = failing.pop(0)
        if step is not None:
            raise step
        if failing:
            await asyncio.sleep(60)
        return httpx.Response(200, content=b"ok")

    async def three():
        http = Http(transport=httpx.MockTransport(handler), max_connections=1)
        with pytest.raises(LLMError) as caught:
            await http.post(URL, [], b"")
        assert isinstance(caught.value.__cause__, httpx.ConnectError)
        stuck = asyncio.create_task(http.post(URL, [], b""))
        await asyncio.sleep(0)
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck
        left = []
        received = await http.post(URL, [], b"", on_send=lambda: left.append(1))
        assert left == [1]
        body = await received.read()
        await received.close()
        await http.aclose()
        await http.aclose()  # closing what is closed does nothing
        return body

    assert asyncio.run(three()) == b"ok"


def test_no_more_connections_are_open_than_allowed():
    """Five requests through two connections: never more than two under way."""
    under_way, most = 0, 0

    async def handler(request):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        return httpx.Response(200, content=b"ok")

    async def five():
        http = Http(transport=httpx.MockTransport(handler), max_connections=2)

        async def one():
            nonlocal under_way
            received = await http.post(URL, [], b"")
            await received.read()
            under_way -= 1
            await received.close()

        await asyncio.gather(*(one() for _ in range(5)))

    asyncio.run(five())
    assert most == 2


def test_closing_what_is_gone_already_is_no_error():
    """The connection is given back although its end complains."""

    class Gone(Drip):
        async def aclose(self):
            raise httpx.ReadError("gone")

    async def twice():
        transport = httpx.MockTransport(lambda r: httpx.Response(200, stream=Gone([b"x"])))
        http = Http(transport=transport, max_connections=1)
        for _ in range(2):
            await (await http.post(URL, [], b"")).close()

    asyncio.run(twice())


def test_the_headers_have_lower_case_names_and_the_last_value():
    """As the classification reads them."""

    async def headers():
        answer = httpx.Response(200, content=b"", headers=[(b"X-A", b"1"), (b"x-a", b"2"), (b"B", b"\xe9")])
        received = await Http(transport=httpx.MockTransport(lambda r: answer)).post(URL, [], b"")
        return received.headers, received.status

    found, status = asyncio.run(headers())
    assert (found["x-a"], found["b"], status) == ("2", "\xe9", 200)


def test_a_loop_that_has_ended_is_forgotten():
    """Its connections are closed with it, and nothing of it is kept."""
    http = Http()
    closed = []

    async def once():
        transport = (await http._open()).transport("127.0.0.1", "http")
        close = transport.aclose

        async def aclose():
            closed.append(1)
            await close()

        transport.aclose = aclose

    for _ in range(3):
        asyncio.run(once())
    assert closed == [1, 1, 1]
    assert len(http._loops) == 0


def test_a_transport_that_is_none_is_refused():
    """With what it should be, before anything is sent."""
    with pytest.raises(LLMValidationError, match="int"):
        Http(transport=3)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://h/x",
        "h/x",
        "",
        "http://",
        "http:///x",
        "http://u:hidden@h/x",
        "http://[::1",
        "data:,x",
    ],
)
def test_an_address_that_is_no_service_is_refused(url):
    """Only http and https with a host and without a password; the password is not repeated."""
    with pytest.raises(LLMValidationError) as caught:
        Address(url)
    assert caught.value.code == "security.url"
    assert "base_url" in caught.value.next_step
    assert "hidden" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "port", "authority"),
    [
        ("http://h/x", 80, b"h"),
        ("https://h/x?a=b", 443, b"h"),
        ("http://h:81/x", 81, b"h:81"),
        ("http://[::1]:5/", 5, b"[::1]:5"),
    ],
)
def test_an_address_knows_where_it_leads_and_shows_no_query(url, port, authority):
    """The port of the scheme where none is named."""
    address = Address(url)
    assert (address.port, address.authority) == (port, authority)
    assert "a=b" not in repr(address)


def test_connections_leave_most_descriptors_to_others(monkeypatch):
    """A quarter of what the process may open, at most 256, at least one."""
    resource = pytest.importorskip("resource")
    for soft, expected in ((64, 16), (2, 1), (10**6, MAX_CONNECTIONS), (resource.RLIM_INFINITY, MAX_CONNECTIONS)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert Http().max_connections == expected
    monkeypatch.setitem(__import__("sys").modules, "resource", None)
    assert Http().max_connections == MAX_CONNECTIONS
    assert Http(max_connections=3).max_connections == 3


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, ""),
        ({"http_proxy": "http://proxy:1"}, "http://proxy:1"),
        ({"http_proxy": "proxy:1"}, "http://proxy:1"),
        ({"all_proxy": "http://all:1"}, "http://all:1"),
        ({"https_proxy": "http://other:1"}, ""),
        ({"http_proxy": "http://proxy:1", "no_proxy": "api.example"}, ""),
    ],
)
def test_the_proxy_of_the_environment_is_used(monkeypatch, environment, proxy):
    """As other programs read it, without the hosts that are excepted."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert module._proxy("api.example", "http") == proxy


def test_one_transport_serves_all_hosts_behind_one_proxy_and_is_closed_with_the_loop():
    """Connections of different hosts share a pool; the pool ends with its event loop, or by aclose."""
    closed = []

    async def two():
        http = Http()
        connections = await http._open()
        first = connections.transport("127.0.0.1", "http")
        assert connections.transport("127.0.0.1", "http") is first
        assert connections.transport("localhost", "http") is first

        close = first.aclose

        async def aclose():
            closed.append(1)
            await close()

        first.aclose = aclose
        return http

    asyncio.run(two())
    assert closed == [1]


def test_no_message_shows_more_of_the_address_than_host_and_port():
    """A path or query may be private."""
    for kind in (httpx.ConnectError, httpx.ReadError, httpx.LocalProtocolError):
        made = named(kind("x"), Address("http://h.example:81/secret-path?key=hidden"))
        assert not re.search("secret-path|hidden", str(made) + made.next_step)


@pytest.mark.parametrize("url", ["http://a..b/v1", f"http://{'x' * 70}.example/v1", "http://127.0.0.1:0/v1"])
def test_an_address_that_nobody_can_have_is_refused_before_a_call(url):
    """A host name without a form, a port at which nobody listens."""
    with pytest.raises(LLMValidationError) as caught:
        Address(url)
    assert caught.value.code == "security.url"


def test_loops_that_were_closed_without_their_connections_are_swept():
    """Connections hold their loop, and nothing else would ever let go of them."""
    http = Http()
    for _ in range(5):
        loop = asyncio.new_event_loop()
        connections = loop.run_until_complete(http._open())
        loop.run_until_complete(_touch(connections))
        loop.close()
    assert len(http._loops) == 1
    connections.abandon()


async def _touch(connections):
    connections.transport("127.0.0.1", "http")
