"""The other side of `overhead`: a server on loopback that answers at once; prints its port, ends with its input.

python _overhead_server.py
"""

from __future__ import annotations

import asyncio
import sys

from _overhead_dialogue import response, split


class Answering(asyncio.Protocol):
    """One connection: every request is answered as soon as it is whole."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self.transport = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        """Answer what has become whole."""
        requests, self.rest = split(self.rest + data)
        if requests:
            self.transport.write(b"".join(map(response, requests)))  # type: ignore[attr-defined]


async def main() -> None:
    """Serve until the process that started this one closes the pipe, or is gone."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
