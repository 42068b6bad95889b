"""The lab's loopback server, with a script for each model instead of its simulated models.

Each answer is a tuple of steps (bytes, pauses, drips, resets ...), so that the bytes on the wire are exactly those a
test has written. The server records every request that it has read to the end, and whether the client left before
the answer was complete.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable, Sequence

from workbench.serve.lab.http1 import Asked as Seen
from workbench.serve.lab.loopback import Loopback
from workbench.serve.lab.steps import FIN, RESET, STALL, Answer, Drip, Forever, Pause, head, reply, streamed

__all__ = [
    "FIN", "RESET", "STALL", "Answer", "Drip", "FaultServer", "Forever", "Pause", "Seen", "head", "reply", "streamed",
]  # fmt: skip


class FaultServer(Loopback):
    """The server; use as a context manager.

    scripts: for a model, its answers in order, of which the last repeats; a function makes one from the request.
    tls: a context with a certificate, to speak HTTPS.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self.scripts: dict[str, Sequence[Answer | Callable[[Seen], Answer]]] = {}
        self.seen: list[Seen] = []
        self._count: Counter[str] = Counter()

    def on(self, model: str, *answers: Answer | Callable[[Seen], Answer]) -> None:
        """What the model answers, first to last; the last one also to every request after it."""
        self.scripts[model] = answers

    def asked(self, model: str) -> list[Seen]:
        """The requests for one model, in order of arrival."""
        return [s for s in self.seen if s.model == model]

    @property
    def accepted(self) -> int:
        """Connections that were opened."""
        return self.connections

    @property
    def keys(self) -> Counter[str]:
        """Requests by idempotency key."""
        return Counter(s.key for s in self.seen)

    def url(self, path: str = "/v1") -> str:
        """The address to give to a provider."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}{path}"

    def __enter__(self) -> FaultServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def answer(self, asked: Seen) -> Answer:
        """The next answer of the script of the model."""
        self.seen.append(asked)
        script = self.scripts.get(asked.model)
        if script is None:
            return reply({"error": {"message": f"no script for {asked.model}", "type": "invalid_request_error"}}, 400)
        number = self._count[asked.model]
        self._count[asked.model] += 1
        found = script[min(number, len(script) - 1)]
        return found(asked) if callable(found) else found
