"""Advisory locks on side files, shared or exclusive, that a dying process lets go of.

Every open of the database is made under one. DuckDB 2.0 keeps other processes out while one writes, and loses
commits when processes take turns without a lock of our own (docs/decisions/0002-spool-and-lock.md).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workbench.errors import LLMError

CLAIMS = "runs"  # where in a log folder each run under way has a locked file
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
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

    def unlock(fd: int) -> None:
        """Let go of the lock on an open file."""
        os.lseek(fd, 1 << 40, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined,unused-ignore]
else:
    import fcntl

    def try_lock(fd: int, *, shared: bool = False) -> bool:
        """Whether the lock on an open file could be had now; it goes when the file is closed."""
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(fd: int) -> None:
        """Let go of the lock on an open file, also where a forked child still has the file open."""
        fcntl.flock(fd, fcntl.LOCK_UN)


@contextmanager
def locked(path: Path, *, shared: bool = False, made: bool = True, timeout_s: float = 60.0) -> Iterator[None]:
    """Hold the lock at `path` around the body.

    Who waits does so behind a gate, in whose order new holders come: readers that overlap cannot keep a writer
    out. made: whether files that are not there are made. A reader holds no lock where there is none to hold: nobody
    can write where the files cannot be made, and nobody has written yet who would have made them.
    Raises LLMError: storage.locked when the lock can't be had in time, storage.readonly when the file can't
    be opened.
    """
    give_up = time.monotonic() + timeout_s
    with (
        _opened(path.with_suffix(".gate"), shared=shared, made=made) as gate,
        _opened(path, shared=shared, made=made) as fd,
    ):
        _wait(gate, path, shared=False, give_up=give_up, timeout_s=timeout_s)
        try:
            _wait(fd, path, shared=shared, give_up=give_up, timeout_s=timeout_s)
        finally:
            _let_go(gate)
        try:
            yield
        finally:
            _let_go(fd)


@contextmanager
def _opened(path: Path, *, shared: bool, made: bool) -> Iterator[int | None]:
    """The open file; None for a reader where there is none."""
    fd = _descriptor(path, shared=shared, made=made)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def _descriptor(path: Path, *, shared: bool, made: bool) -> int | None:
    try:
        try:
            return os.open(path, os.O_RDWR | (os.O_CREAT if made else 0), 0o644)
        except OSError as error:
            if not shared or error.errno not in (*UNWRITABLE, *(() if made else (errno.ENOENT,))):
                raise
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY)
        return None
    except OSError as error:
        raise LLMError(
            f"the log's lock {path} cannot be opened: {error.strerror or error}",
            code="storage.readonly",
            next_step="make the log folder writable, or choose another with --log",
        ) from error


def _let_go(fd: int | None) -> None:
    if fd is not None:
        unlock(fd)


def _wait(fd: int | None, path: Path, *, shared: bool, give_up: float, timeout_s: float) -> None:
    pause = 0.001
    while fd is not None and not try_lock(fd, shared=shared):
        if time.monotonic() > give_up:
            raise LLMError(
                f"the log's lock {path.name} was held by another process for {timeout_s:g} s",
                code="storage.locked",
                retryable=True,
                next_step="wait for the other process to finish, or end it, and try again",
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
