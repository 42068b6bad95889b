"""A raw HTTP/1.1 server in a thread of its own, whose answers are steps (steps.py).

It reads requests itself, so that it can send what no framework would let it, and notices when a client leaves
before the answer is complete. Whatever a client sends, its connection alone suffers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
import time
from abc import ABC, abstractmethod
from concurrent.futures import Future

from workbench.errors import LLMError, LLMValidationError
from workbench.serve.lab.http1 import Asked, Bounds, Refused, read_request
from workbench.serve.lab.steps import Answer, play, reply

START_S, STOP_S = 10.0, 10.0
LINGER_S = 0.5
_log = logging.getLogger("workbench.serve")


class Loopback(ABC):
    """The server. Start it with `start`, or use it as a context manager.

    port: 0 takes a free one; after the start it is the one that is listened on. tls: a context with a certificate,
    to speak HTTPS. connections: how many were opened. open_now: how many are open.
    """

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None, bounds: Bounds | None = None
    ) -> None:
        self.host, self.port, self.tls, self.bounds = host, port, tls, bounds or Bounds()
        self.connections = 0
        self.open_now = 0
        self._thread: threading.Thread | None = None

    @abstractmethod
    async def answer(self, asked: Asked) -> Answer:
        """The answer to a request that was read to its end; called in the server's own loop."""

    def refusal(self, status: int, why: str) -> Answer:
        """The answer to what cannot be read; the connection is closed after it."""
        return reply({"error": {"message": why, "type": "invalid_request_error"}}, status, connection="close")

    # -- life

    def start(self) -> None:
        """Listen, and return when connections are taken; a second time it does nothing.

        Raises LLMValidationError validation.port where the port cannot be had.
        """
        if self._thread is not None:
            return
        ready: Future[int] = Future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        thread = threading.Thread(target=self._run, args=(ready,), daemon=True, name="workbench-lab")
        thread.start()
        try:
            self.port = ready.result(START_S)
        except OSError as error:
            thread.join(STOP_S)
            raise LLMValidationError(
                f"{self.host}:{self.port} cannot be listened on: {error.strerror or error}",
                code="validation.port",
                next_step="choose another --port, or 0 for a free one, and a --host of this machine",
            ) from error
        self._thread = thread

    def stop(self) -> None:
        """Close everything, and return when nothing is left; a second time it does nothing."""
        if self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_S)
        if self._thread.is_alive():
            raise LLMError(
                f"the server on port {self.port} did not stop within {STOP_S:g} s",
                code="serve.stop",
                next_step="end the process; report what the clients were doing",
            )
        self._thread = None

    def quiet(self, within_s: float = 1.0) -> bool:
        """Whether every connection is closed, now or within so many seconds."""
        ends_s = time.monotonic() + within_s
        while self.open_now and time.monotonic() < ends_s:
            time.sleep(0.002)
        return self.open_now == 0

    def _run(self, ready: Future[int]) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main(ready))

    async def _main(self, ready: Future[int]) -> None:
        try:
            server = await asyncio.start_server(
                self._accept, self.host, self.port, ssl=self.tls, backlog=1024, limit=self.bounds.head_bytes
            )
        except (OSError, OverflowError) as error:
            ready.set_exception(error if isinstance(error, OSError) else OSError(str(error)))
            return
        ready.set_result(server.sockets[0].getsockname()[1])
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()
        await asyncio.sleep(0)

    # -- one connection

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        self.connections += 1
        self.open_now += 1
        try:
            writer.transport.set_write_buffer_limits(high=0)
            await self._converse(reader, writer, self.connections)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone
        except asyncio.CancelledError:
            pass  # the server stops
        except Exception:
            _log.exception("a connection of the fault lab failed")
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self.open_now -= 1
            if task is not None:
                self._tasks.discard(task)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        ahead, number = b"", 0
        while True:
            try:
                asked = await read_request(reader, writer, ahead, self.bounds)
            except Refused as refused:
                if refused.status is not None:
                    await self._refuse(reader, writer, refused.status, refused.why)
                return
            if asked is None:
                return
            number += 1
            asked.connection, asked.number = connection, number
            following = await self._exchange(reader, writer, asked)
            if following is None or not asked.keeps:
                return
            ahead = following

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: Asked) -> bytes | None:
        """Answer one request; what was read of the next one, or None when the connection has ended."""
        steps = await self.answer(asked)
        # What comes while we answer is the client's leaving, or the first byte of its next request.
        watch = asyncio.create_task(reader.read(1))
        playing = asyncio.create_task(play(steps, writer))
        try:
            await asyncio.wait({watch, playing}, return_when=asyncio.FIRST_COMPLETED)
            if not playing.done():
                if watch.exception() is None and watch.result():
                    # The next request is there already, and behind it nobody can be seen to leave: not for ever.
                    await asyncio.wait({playing}, timeout=self.bounds.body_s)
                if not playing.done():
                    asked.left_s = time.monotonic()
        finally:
            for task in (watch, playing):
                task.cancel()
            await asyncio.wait({watch, playing})
        if playing.cancelled() or playing.exception() is not None:
            asked.left_s = asked.left_s or time.monotonic()
            return None
        asked.answered = playing.result() != "reset"
        if playing.result() != "kept":
            return None
        if watch.cancelled():
            return b""
        return None if watch.exception() is not None else watch.result() or None

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int, why: str) -> None:
        await play(self.refusal(status, why), writer)
        # To close on unread bytes would reset the connection before the client has read why.
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(LINGER_S):
                if writer.can_write_eof():
                    writer.write_eof()
                while await reader.read(65_536):
                    pass
