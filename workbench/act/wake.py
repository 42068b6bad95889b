"""A loop that looks up now and then, so that the stop button is seen while nothing else happens.

A signal interrupts the system call that waits, but the wait goes on unless somebody woke the loop; ipykernel 7.4 asks
its loop to cancel the cell without waking it, and a signal that comes just before the call is not seen at all. While
calls hang, nothing else may happen for minutes.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from workbench.act.world import VirtualLoop

LOOK_S = 0.1


@dataclass(slots=True)
class _Beat:
    """The timer of one loop, shared by all that want it awake."""

    users: int = 0
    ticking: bool = False

    def tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ticking = self.users > 0
        if self.ticking:
            loop.call_later(LOOK_S, self.tick, loop)


_beats: WeakKeyDictionary[asyncio.AbstractEventLoop, _Beat] = WeakKeyDictionary()


class awake:  # noqa: N801 - it is used as a function
    """Keep the running loop from sleeping for longer than LOOK_S seconds inside the body.

    Only in the main thread, which is the one that signals reach, and not in a virtual world, where time would run on.
    """

    __slots__ = ("_beat",)

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._beat: _Beat | None = None
        if isinstance(loop, VirtualLoop) or threading.current_thread() is not threading.main_thread():
            return
        if (beat := _beats.get(loop)) is None:
            beat = _beats[loop] = _Beat()
        self._beat = beat
        beat.users += 1
        if not beat.ticking:
            beat.tick(loop)

    def __exit__(self, *_: object) -> None:
        if self._beat is not None:
            self._beat.users -= 1
