"""The scripts of a provider played on a real socket: raw HTTP/1.1 on loopback, on an event loop in a thread.

Nothing stands between a step and the kernel: each piece of a body is written and handed over before the next step, an
early end closes the socket (FIN), and a reset is a RST. So what a client makes of it is its own doing. This server is
no part of the package, and shares nothing with the package's own fault lab.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import httpx

from tests.exam.wall import Answering, Body, End, Head, Script, Seen, Wait

PATIENCE_S = 10.0  # for what happens at once where nothing is wrong


@dataclass(slots=True)
class Peer:
    """One connection; ahead: the read of the next byte, which waits while an answer is being given."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    ahead: asyncio.Task[bytes]

    def look(self) -> None:
        """Begin to wait for the next byte: of the next request, or the end that tells that the client left."""
        self.ahead = asyncio.create_task(self.reader.read(1))


class OnSocket:
    """A server for scripts; use as a context manager.

    url: where it listens. connections: how many clients have opened. resets: how many it has answered with a RST.
    """

    def __init__(self, answer: Answering, now_s: Callable[[], float]) -> None:
        self._answer, self._now_s = answer, now_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="exam on a socket", daemon=True)
        self._ready: Future[int] = Future()
        self._playing = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: list[Exception] = []
        self.connections, self.resets = 0, 0
        self.url = ""

    def __enter__(self) -> OnSocket:
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._ready.result(PATIENCE_S)}"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the server did not stop"
        if self._broken:  # in a thread nobody would hear of it
            raise ExceptionGroup("the server of the exam failed", self._broken)

    async def settled(self) -> None:
        """Return when no answer is being given any more; callable from any other loop.

        A client whose call is over has either heard its answer to the end, or left: TimeoutError where it has not.
        """
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._quiet.wait(), self._loop))

    # -- the thread

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop, self._quiet = asyncio.Event(), asyncio.Event()
        self._quiet.set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._ready.set_result(server.sockets[0].getsockname()[1])
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        writer.transport.set_write_buffer_limits(high=0)  # so that drained means handed to the kernel
        peer = Peer(reader, writer, asyncio.create_task(reader.read(1)))
        try:
            while (request := await read(peer)) is not None and await self._exchange(peer, request):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the server stops
        except Exception as error:
            self._broken.append(error)
        finally:
            peer.ahead.cancel()
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await asyncio.gather(peer.ahead, return_exceptions=True)
                await writer.wait_closed()
            self._tasks.discard(task)

    async def _exchange(self, peer: Peer, request: httpx.Request) -> bool:
        """Answer one request; whether the connection may take another."""
        seen, script = self._answer(request)
        self._playing += 1
        self._quiet.clear()
        playing = asyncio.create_task(play(script, peer.writer))
        try:
            await asyncio.wait({playing, peer.ahead}, return_when=asyncio.FIRST_COMPLETED)
            if not playing.done():  # asked for nothing more, a client that is heard now is one that leaves
                playing.cancel()
            await asyncio.wait({playing})
            gone = playing.cancelled() or isinstance(playing.exception(), OSError)
            how = None if gone else playing.result()
            self._note(seen, how)
            return how == "whole"
        finally:
            playing.cancel()
            self._playing -= 1
            if not self._playing:
                self._quiet.set()

    def _note(self, seen: Seen, how: str | None) -> None:
        seen.end_s = self._now_s()
        self.resets += how == "reset"
        if how is None:
            seen.left_s = seen.end_s


async def read(peer: Peer) -> httpx.Request | None:
    """The next request of a connection; None when the client has closed it."""
    first = await peer.ahead
    if not first:
        return None
    lines = (first + await peer.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    headers = httpx.Headers([(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:-2])])
    body = await peer.reader.readexactly(int(headers.get("content-length", "0")))
    peer.look()
    return httpx.Request(method, f"http://{headers['host']}{target}", headers=headers, content=body)


async def play(script: Script, writer: asyncio.StreamWriter) -> str:
    """Take the steps of a script; how it ended."""
    framed: Callable[[bytes], bytes] = bytes
    last = b""
    for step in script:
        match step:
            case Wait(seconds):
                await asyncio.sleep(seconds)
            case Head(status, headers, length):
                if length is None:
                    framed, last = chunk, chunk(b"")
                await sent(writer, head(status, headers or {}, length))
            case Body(data):
                await sent(writer, framed(data))
            case End("whole"):
                await sent(writer, last)
                return "whole"
            case End("fin"):
                writer.close()
                return "fin"
            case End("reset"):
                plain: socket.socket = writer.get_extra_info("socket")
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return "reset"
            case End(how):  # nobody has accepted a connection that was refused
                raise ValueError(f"{how!r} is no end of a connection on which a request was read")
    raise ValueError("a script that does not end")


async def sent(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Return when the kernel has the bytes."""
    writer.write(data)
    await writer.drain()


def head(status: int, headers: Mapping[str, str], length: int | None) -> bytes:
    """Status line and headers, with the framing that the script asks for."""
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = [f"HTTP/1.1 {status} {httpx.codes.get_reason_phrase(status)}", framing]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; of nothing: the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)
