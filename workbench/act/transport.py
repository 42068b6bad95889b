"""Connections of aiohttp, at a fraction of the CPU of httpx's own pool, and they tell when a request leaves.

Answers are httpx's, so that an injected httpx transport can take their place (docs/decisions/0010). Connections are
not limited here, and nothing times out: whoever sends does both. A failure comes as the httpx exception that says
how far the request had come.
"""

from __future__ import annotations

import atexit
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any
from weakref import WeakSet

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http import HttpProcessingError
from yarl import URL

from workbench.act.threads import in_thread

KEEP_ALIVE_S = 30.0
LONGEST_LINE, MOST_HEADERS = 64 * 1024, 1000  # of an answer's head; httpx takes about as much


class AioTransport:
    """Connections that are kept; they belong to the event loop on which this was made.

    verify: loads the certificate authorities, called where the first https request goes out. proxy: the URL of one, or
    an empty text; ValueError for one that cannot be used.
    """

    def __init__(self, *, verify: Callable[[], ssl.SSLContext], proxy: str = "") -> None:
        self._verify = verify
        self._proxy, self._proxy_headers = _split(proxy)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=KEEP_ALIVE_S, resolver=_Resolver(), ttl_dns_cache=60
            ),
            request_class=_Request,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),
            auto_decompress=False,
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_LINE,
            max_headers=MOST_HEADERS,
        )
        _alive.add(self)

    async def post(
        self, url: str, headers: Sequence[tuple[bytes, bytes]], body: bytes, on_send: Callable[[], None]
    ) -> httpx.Response:
        """The head of the answer; on_send: called when the request begins to leave. Raises httpx.TransportError."""
        way = _Way(on_send)
        mark = _ways.set(way)
        failed: Exception | None = None
        tunnelled = url.startswith("https:")
        secured = tunnelled or (self._proxy is not None and self._proxy.scheme == "https")
        sent = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        if self._proxy_headers and not tunnelled:  # aiohttp gives them to CONNECT alone
            sent.extend(self._proxy_headers.items())
        try:
            answer = await self._session.request(
                "POST",
                _parsed(url),
                headers=sent,
                data=body,
                allow_redirects=False,
                ssl=self._verify() if secured else True,
                proxy=self._proxy,
                proxy_headers=self._proxy_headers,
            )
            return httpx.Response(answer.status, headers=answer.raw_headers, stream=Body(answer, way))
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            failed = error
        finally:
            _ways.reset(mark)
        # Outside of `except`, and from nothing that quotes what was sent or received: a key may be in it.
        made = _before_an_answer(failed, left=way.left, proxied=self._proxy is not None)
        raise made from failed if isinstance(failed, OSError) else None

    async def aclose(self) -> None:
        """Close all connections."""
        _alive.discard(self)
        await self._session.close()

    def abandon(self) -> None:
        """Let go of the connections of a loop that has ended without closing them; they are closed as they go."""
        _alive.discard(self)
        connector = self._session.connector
        self._session.detach()
        if connector is not None:  # its own close() is for a loop that still runs
            connector._close()


_alive: WeakSet[AioTransport] = WeakSet()


@atexit.register
def _abandon_all() -> None:
    """Say nothing at the program's end of connections whose loop nobody has closed."""
    for transport in list(_alive):
        transport.abandon()


class _Way:
    """How far a request has come. connection: the protocol of the connection that it was written to."""

    def __init__(self, on_send: Callable[[], None]) -> None:
        self._on_send = on_send
        self.left = False
        self.connection: Any = None

    def leave(self, connection: Any) -> None:
        """The request leaves now."""
        self.left, self.connection = True, connection
        self._on_send()


_ways: ContextVar[_Way] = ContextVar("ways")


class _Request(aiohttp.ClientRequest):
    """A request that tells when it leaves; what goes to a proxy first is of another class."""

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        _ways.get().leave(conn.protocol)
        return await super().send(conn)


class Body(httpx.AsyncByteStream):
    """The bytes of an answer as they arrive."""

    def __init__(self, answer: aiohttp.ClientResponse, way: _Way) -> None:
        self._answer = answer
        framed = "content-length" in answer.headers or "chunked" in answer.headers.get("transfer-encoding", "")
        self._connection = None if framed else way.connection

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        while chunk := await self.piece():
            yield chunk

    async def piece(self) -> bytes:
        """What has arrived since the last time, at least one byte; nothing at the end. Raises httpx.ReadError."""
        try:
            if chunk := await self._answer.content.readany():
                return chunk
            # An answer that ends with its connection: aiohttp takes a reset for its end, too.
            if self._connection is not None and isinstance(lost := self._connection.exception(), OSError):
                raise lost
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            failed = error
        else:
            return b""
        raise httpx.ReadError(type(failed).__name__) from failed if isinstance(failed, OSError) else None

    async def aclose(self) -> None:
        """Give the connection back where the body was read to its end, else close it."""
        self._answer.release()


class _Resolver(AbstractResolver):
    """Names looked up in threads that nobody waits for: the system's own look-up cannot be interrupted."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        def look_up() -> list[Any]:
            return socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)

        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=found,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found, _, proto, _, address in await in_thread(look_up, name=f"look up {host}")
        ]

    async def close(self) -> None:
        """Nothing is kept."""


def _before_an_answer(error: Exception, *, left: bool, proxied: bool) -> httpx.TransportError:
    """How a request has ended that got no answer."""
    said = type(error).__name__
    if not left or isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error, ValueError) and not isinstance(error, aiohttp.ClientError | OSError):
            return httpx.LocalProtocolError(said)
        secret = isinstance(error, aiohttp.ClientSSLError)  # what the other side of the tunnel showed
        return httpx.ProxyError(said) if proxied and not secret else httpx.ConnectError(said)
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientResponseError | HttpProcessingError):
        return httpx.RemoteProtocolError(said)
    return httpx.ReadError(said)


def _split(proxy: str) -> tuple[URL | None, dict[str, str] | None]:
    """A proxy's address without its user and password, and the header that carries them."""
    if not proxy:
        return None, None
    url = URL(proxy)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"{url.scheme or 'no'} proxies cannot be used, only http:// and https:// with a host")
    if url.user is None:
        return url, None
    login = aiohttp.encode_basic_auth(url.user, url.password or "")
    return url.with_user(None), {"Proxy-Authorization": login}


@lru_cache(maxsize=1024)
def _parsed(url: str) -> URL:
    """A URL as it is: it was read and written by httpx before."""
    return URL(url, encoded=True)
