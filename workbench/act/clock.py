"""The times of one attempt: how long it may still take, and which limit it was that passed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from workbench.act.wire.reply import Reply
from workbench.act.world import World
from workbench.decide.classify import error_of
from workbench.errors import LLMError
from workbench.facts import Terms


class Clock:
    """The times of one attempt under its terms.

    deadline_s: on the world's clock, or None. ttft_ms: until the first text, or None. has_left: the request has.
    """

    def __init__(self, world: World, terms: Terms) -> None:
        self._world, self._terms = world, terms
        self.start_s = world.now_s()
        self.deadline_s = None if terms.timeout_s is None else self.start_s + terms.timeout_s
        self.ttft_ms: float | None = None
        self.has_left = False
        self.end_s: float | None = None

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds from the request's turn to the end of the answer, or to now."""
        now_s = self._world.now_s() if self.end_s is None else self.end_s
        return (now_s - self.start_s) * 1e3

    def first(self) -> None:
        """Text has come; the first time counts."""
        if self.ttft_ms is None:
            self.ttft_ms = self.elapsed_ms

    def limit(self) -> asyncio.Timeout:
        """The deadline, as long as the request waits for a connection: that silence is not the model's."""
        return asyncio.timeout(None if self.deadline_s is None else self.deadline_s - self._world.now_s())

    def turn(self, limit: asyncio.Timeout) -> None:
        """A connection is free: from now on the silence is the other side's."""
        self.start_s = self._world.now_s()
        if self._terms.stream:  # else only the deadline counts, and it stays
            self.move(limit, first=True)

    def sent(self) -> None:
        """The request leaves now."""
        self.has_left = True

    def over(self) -> None:
        """The answer is whole; what follows is courtesy."""
        if self.end_s is None:
            self.end_s = self._world.now_s()

    def soon(self, limit: asyncio.Timeout, seconds: float) -> None:
        """Wait no longer than `seconds` from now, nor past the deadline."""
        now_s = self._world.now_s()
        left_s = seconds if self.deadline_s is None else min(seconds, self.deadline_s - now_s)
        limit.reschedule(asyncio.get_running_loop().time() + left_s)

    def move(self, limit: asyncio.Timeout, *, first: bool) -> None:
        """Something came: the silence begins anew, but for the first text, which is waited for from the start."""
        now_s = self._world.now_s()
        left_s = self._left_s(first=first, silent_since_s=self.start_s if first else now_s)
        limit.reschedule(None if left_s is None else asyncio.get_running_loop().time() + left_s)

    def _left_s(self, *, first: bool, silent_since_s: float) -> float | None:
        terms = self._terms
        silence_s = (terms.first_token_s if first else terms.idle_s) if terms.stream else None
        ends = [] if self.deadline_s is None else [self.deadline_s]
        if silence_s is not None:
            ends.append(silent_since_s + silence_s)
        return min(ends) - self._world.now_s() if ends else None

    def error(self, model: str, reply: Reply) -> LLMError:
        """Which limit passed, as an error."""
        terms, waited = self._terms, self.elapsed_ms / 1e3
        if self.deadline_s is not None and self._world.now_s() >= self.deadline_s - 1e-3:
            code, what = "timeout.deadline", f"had not answered after {waited:.1f} s"
        elif reply.text:
            code, what = "timeout.idle", f"fell silent for {terms.idle_s:g} s in the middle of its answer"
        else:
            code, what = "timeout.first_token", f"had sent no text after {waited:.1f} s"
        return error_of(code, f"{model} {what}", model=model, billed=self.has_left, partial=reply.partial)


class Course:
    """What is called as a request gets its turn and leaves."""

    def __init__(self, clock: Clock, limit: asyncio.Timeout, on_send: Callable[[], None] | None) -> None:
        self._clock, self._limit, self._on_send = clock, limit, on_send

    def turn(self) -> None:
        """A connection is free."""
        self._clock.turn(self._limit)

    def sent(self) -> None:
        """The request leaves."""
        self._clock.sent()
        if self._on_send is not None:
            self._on_send()
