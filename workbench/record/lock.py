"""Advisory locks on side files, shared or exclusive, that a dying process lets go of.

Every open of the database is made under one. DuckDB 2.0 keeps other processes out while one writes, and loses
commits when processes take turns without a lock of our own (docs/decisions/0002-spool-and-lock.md).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import LLMError

if os.name == "nt":  # pragma: no cover - exercised on Windows only
    import msvcrt

    def try_lock(fd: int, *, shared: bool = False) -> bool:
        """Whether the lock on an open file could be had now (Windows has no shared form here)."""
        os.lseek(fd, 1 << 40, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
else:
    import fcntl

    def try_lock(fd: int, *, shared: bool = False) -> bool:
        """Whether the lock on an open file could be had now; it goes when the file is closed."""
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def locked(path: Path, *, shared: bool = False, timeout_s: float = 60.0) -> Iterator[None]:
    """Hold the lock at `path` around the body; LLMError `storage.locked` when it can't be had in time."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        give_up = time.monotonic() + timeout_s
        pause = 0.001
        while not try_lock(fd, shared=shared):
            if time.monotonic() > give_up:
                raise LLMError(
                    f"the log's lock {path.name} was held by another process for {timeout_s:g} s",
                    code="storage.locked",
                    retryable=True,
                    next_step="wait for the other process to finish, or end it, and try again",
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        yield
    finally:
        os.close(fd)
