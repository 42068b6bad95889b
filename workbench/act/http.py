"""The one module that knows the HTTP library: connections, bounded bodies, and failures by their names.

The transport is driven directly and can be injected (any `httpx.AsyncBaseTransport`): redirects are not followed, so
that a key reaches no other host, nothing is decoded without a bound, and the library's timeouts, which are per
operation, stay out of it: whoever sends sets one deadline around everything.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import urllib.request
import zlib
from collections.abc import AsyncGenerator, Callable
from functools import lru_cache
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import httpx

from workbench.act.transport import AioTransport, Body
from workbench.canonical import redacted, text_of
from workbench.decide.classify import error_of
from workbench.errors import LLMError, LLMValidationError

MAX_RESPONSE_BYTES = 16 * 2**20
MAX_CONNECTIONS = 256
Headers = list[tuple[bytes, bytes]]


class Received:
    """An answer whose head has arrived; read it with `read` or `chunks`, and close it.

    status: of HTTP. headers: names in lower case, the last of several values. longest: bytes its body may have.
    """

    def __init__(self, response: httpx.Response, connections: _Connections, longest: int) -> None:
        self.status = response.status_code
        self.headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in response.headers.raw}
        self._response = response
        self._connections = connections
        self.longest = longest

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The decoded body as it arrives.

        Raises LLMProviderError provider.connection, provider.malformed (an encoding that was not asked for, or a
        corrupt one), provider.too_large.
        """
        if self._response.is_stream_consumed:  # an injected transport that answers whole, decoded already
            self._check(len(self._response.content))
            yield self._response.content
            return
        unpack = _unpacker(self.headers.get("content-encoding", ""), self.longest)
        size = 0
        try:
            async for raw in self._response.aiter_raw():
                for chunk in unpack(raw):
                    size += len(chunk)
                    self._check(size)
                    yield chunk
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            raise _broken(error) from error

    def _check(self, size: int) -> None:
        if size > self.longest:
            raise error_of("provider.too_large", f"the answer has more than {self.longest} bytes")

    async def read(self) -> bytes:
        """The whole body; raises as `chunks` does."""
        body, read, size = self._response.stream, [], 0
        if not isinstance(body, Body) or "content-encoding" in self.headers:
            return b"".join([chunk async for chunk in self.chunks()])
        try:  # nothing to unpack, and no generators
            while chunk := await body.piece():
                read.append(chunk)
                self._check(size := size + len(chunk))
        except httpx.ReadError as error:
            raise _broken(error) from error
        return b"".join(read)

    async def close(self) -> None:
        """Give the connection back, or close it where the body was not read to its end."""
        try:
            await self._response.aclose()
        except (httpx.HTTPError, OSError):  # it is gone already
            pass
        finally:
            self._connections.leave()


def _broken(error: Exception) -> LLMError:
    return error_of("provider.connection", f"the connection broke inside the answer ({type(error).__name__})")


class Http:
    """Connections to providers, a pool for each event loop; closed with their loop, or by `close`.

    transport: in the place of the network; made again for every event loop when it is a function.
    max_connections: open at once on one loop; further requests wait. None: a quarter of what the process may open,
        at most 256, so that many calls never run out of descriptors.
    max_response_bytes: of a decoded body.
    """

    def __init__(
        self,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        max_connections: int | None = None,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        if transport is not None and not isinstance(transport, httpx.AsyncBaseTransport):
            raise LLMValidationError(
                f"transport is a {type(transport).__name__}, not an httpx.AsyncBaseTransport",
                code="validation.config",
                next_step="pass a transport such as httpx.MockTransport(handler), or leave it out",
            )
        self.max_connections = max_connections or _affordable()
        self.max_response_bytes = max_response_bytes
        self._transport = transport
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections] = WeakKeyDictionary()

    async def post(
        self,
        url: Address,
        headers: Headers,
        body: bytes,
        *,
        on_turn: Callable[[], None] = lambda: None,
        on_send: Callable[[], None] = lambda: None,
    ) -> Received:
        """Send one request; the answer's head. The caller closes what it receives.

        on_turn: called when a connection may be made. on_send: called when the request begins to leave.
        Raises LLMProviderError provider.connection, provider.dns, provider.tls, provider.protocol. One whose
        `possibly_billed` is false has not left this machine.
        """
        connections = self._loops.get(asyncio.get_running_loop()) or await self._open()
        await connections.enter()
        try:
            on_turn()
            if self._transport is None:
                transport = connections.transport(url.host, url.scheme)
                response = await transport.post(url.text, headers, body, on_send)
            else:
                on_send()  # it does not tell
                request = httpx.Request("POST", url.parsed, headers=headers, content=body)
                response = await self._transport.handle_async_request(request)
        except BaseException as error:
            connections.leave()
            if isinstance(error, httpx.HTTPError | OSError):
                raise named(error, url) from error
            raise
        return Received(response, connections, self.max_response_bytes)

    async def _open(self) -> _Connections:
        for ended in [loop for loop in self._loops if loop.is_closed()]:
            self._loops.pop(ended).abandon()  # what a loop holds holds the loop
        connections = _Connections(self.max_connections)
        # An asynchronous generator is what a loop closes at its end: asyncio.run gives it the chance to say goodbye.
        connections.keeper = _keep(connections, self._loops)
        await anext(connections.keeper)
        self._loops[asyncio.get_running_loop()] = connections
        return connections

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        if (connections := self._loops.pop(asyncio.get_running_loop(), None)) and connections.keeper:
            await connections.keeper.aclose()


class Address:
    """A parsed URL, made once per model."""

    def __init__(self, url: str) -> None:
        try:
            self.parsed = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise _no_address(url, str(error)) from error
        self.scheme, self.host = self.parsed.scheme, self.parsed.host
        if self.scheme not in ("http", "https") or not self.host:
            raise _no_address(url, "only http:// and https:// with a host can be called")
        if self.parsed.userinfo:
            raise _no_address(f"{self.scheme}://...@{self.host}", "it contains a user name or password")
        try:
            self.host.encode("idna")
        except UnicodeError as error:
            raise _no_address(url, f"{self.host[:80]!r} is no host name") from error
        if self.parsed.port == 0:
            raise _no_address(url, "nobody listens on port 0")
        self.port = self.parsed.port or {"http": 80, "https": 443}[self.scheme]
        self.authority = self.parsed.netloc
        self.text = str(self.parsed)

    def __repr__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}{self.parsed.path}"


def _no_address(url: str, why: str) -> LLMValidationError:
    return LLMValidationError(
        f"base_url {redacted(url)!r} cannot be used: {why}",
        code="security.url",
        next_step="set base_url to http(s)://HOST[:PORT]/PATH, and the key with key_env",
    )


class _Connections:
    """What one event loop has open."""

    def __init__(self, limit: int) -> None:
        self._free = asyncio.Semaphore(limit)
        self._transports: dict[tuple[str, str], AioTransport] = {}
        self._by_proxy: dict[tuple[str, str], AioTransport] = {}
        self.keeper: AsyncGenerator[None, None] | None = None

    async def enter(self) -> None:
        await self._free.acquire()

    def leave(self) -> None:
        self._free.release()

    def transport(self, host: str, scheme: str) -> AioTransport:
        if (made := self._transports.get((scheme, host))) is None:
            proxy = _proxy(host, scheme)
            key = (scheme, proxy)
            made = self._by_proxy.get(key)
            if made is None:
                try:
                    made = AioTransport(verify=_certificates, proxy=proxy)
                except ValueError as error:
                    raise LLMValidationError(
                        f"the proxy that the environment names for {scheme}://{host} cannot be used: {text_of(error)}",
                        code="validation.config",
                        next_step="correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, or name the host in NO_PROXY",
                    ) from error
                self._by_proxy[key] = made
            self._transports[scheme, host] = made
        return made

    def abandon(self) -> None:
        for transport in self._by_proxy.values():
            transport.abandon()

    async def close(self) -> None:
        self._transports.clear()
        for transport in self._by_proxy.values():
            await transport.aclose()
        self._by_proxy.clear()


def _certificates() -> ssl.SSLContext:
    """The certificate authorities, loaded once for what the environment names."""
    return _loaded(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=4)
def _loaded(file: str | None, folder: str | None) -> ssl.SSLContext:
    return httpx.create_ssl_context()


async def _keep(
    connections: _Connections, loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections]
) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        loops.pop(asyncio.get_running_loop(), None)  # what a loop holds must not hold the loop
        await connections.close()


def _proxy(host: str, scheme: str) -> str:
    """The proxy that the environment names for a host (HTTPS_PROXY, ALL_PROXY, NO_PROXY), or an empty text."""
    proxies = urllib.request.getproxies()
    found = proxies.get(scheme) or proxies.get("all") or ""
    if not found or urllib.request.proxy_bypass(host):
        return ""
    return found if "://" in found else f"http://{found}"


def _affordable() -> int:
    """Connections that leave most descriptors to others."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MAX_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, soft // 4))


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    here: BaseException | None = error
    while here is not None and here not in found and len(found) < 10:
        found.append(here)
        here = here.__cause__ or here.__context__
    return found


def named(error: BaseException, url: Address) -> LLMError:
    """The transport's failure before an answer as one of ours, told from exception types and from how far it came."""
    causes = _causes(error)
    where = f"{url.host}:{url.port}"
    unsent = isinstance(
        error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.UnsupportedProtocol
    )
    if any(isinstance(c, socket.gaierror) for c in causes) and not isinstance(error, httpx.ProxyError):
        return error_of("provider.dns", f"the host name {url.host} is not known", billed=False)
    if isinstance(error, httpx.ConnectError) and (tls := [c for c in causes if isinstance(c, ssl.SSLError)]):
        told = [getattr(c, name, None) for name in ("verify_message", "reason") for c in tls]
        reason = next(filter(None, told), "handshake failed")
        return error_of("provider.tls", f"no secure connection to {where}: {reason}", billed=False)
    if isinstance(error, httpx.ProxyError):
        step = "check HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, or name the host in NO_PROXY"
        return error_of("provider.connection", f"the proxy gave no connection to {where}", billed=False, next_step=step)
    if unsent:
        step = f"is a server listening on {where}? Check base_url"
        return error_of("provider.connection", f"no connection to {where}", billed=False, next_step=step)
    if isinstance(error, httpx.RemoteProtocolError):  # bytes that are none of HTTP, or a close without a whole head
        return error_of("provider.protocol", f"{where} gave no whole answer in HTTP")
    if isinstance(error, httpx.LocalProtocolError):
        return error_of(
            "provider.protocol", f"the request to {where} could not be written", billed=False, retryable=False
        )
    return error_of("provider.connection", f"{where} closed the connection before it answered ({type(error).__name__})")


class _Unpack(Protocol):
    def __call__(self, raw: bytes) -> list[bytes]: ...


def _unpacker(encoding: str, longest: int) -> _Unpack:
    """A function from received to decoded pieces, none of which is much longer than `longest`."""
    coding = encoding.strip().lower()
    if coding in ("", "identity"):
        return lambda raw: [raw]
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise error_of(
            "provider.malformed",
            f"the body is encoded as {coding[:40]!r}, which was not asked for",
            retryable=False,
            next_step="check base_url: a proxy changes the answers on their way",
        )
    inflate: Any = zlib.decompressobj(zlib.MAX_WBITS | 32 if "gzip" in coding else zlib.MAX_WBITS)

    def unpack(raw: bytes) -> list[bytes]:
        try:
            # One byte more than is allowed is enough to know, and is all that a bomb may take.
            return [inflate.decompress(raw, longest + 1)] if raw else []
        except zlib.error as error:
            raise error_of("provider.malformed", "the compressed body is corrupt", retryable=False) from error

    return unpack
