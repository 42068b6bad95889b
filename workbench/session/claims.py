"""Who runs a run: a lock file for each in `runs/` of the log folder, which a dying process lets go of.

A run that is under way has a file with a lock on it; one that has ended has none. A file without its lock is what a
process has left that died: whoever finds it writes how the run has ended. Nobody has to ask the log for that, so that
opening one stays cheap.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.act.world import World
from workbench.errors import LLMError
from workbench.facts import Failure, RunEnded
from workbench.record.lock import CLAIMS, try_lock
from workbench.record.log import Log

logger = logging.getLogger("workbench.session")
_held: set[int] = set()
CLOSING_S = 2.0  # how long somebody may need to close what a dead process has left


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who runs a run, and since when; parent: the process that had started that one."""

    run_id: str
    pid: int
    parent: int
    since_unix_ns: int


def claims_in(log: Path) -> Path:
    """Where in a log folder its claims lie."""
    return log / CLAIMS


@contextmanager
def claimed(log: Path, run_id: str, *, now_unix_ns: int) -> Iterator[None]:
    """Hold the run for the length of the body.

    A claim that a dead process has left is waited for, CLOSING_S at most, while somebody closes it. Raises LLMError:
    run.locked when somebody runs it, storage.readonly when the claim cannot be written.
    """
    path, pid = _path(log, run_id), os.getpid()
    try:
        path.parent.mkdir(exist_ok=True)
        fd = _locked(path)
        waited_s = 0.0
        while fd is None and waited_s < CLOSING_S and _is_dead(_read(path)):  # somebody is closing it just now
            time.sleep(0.02)
            waited_s += 0.02
            fd = _locked(path)
        if fd is None:
            raise _taken(run_id, path)
        _held.add(fd)
        try:
            os.ftruncate(fd, 0)
            about = {"run_id": run_id, "pid": pid, "parent": os.getppid(), "since_unix_ns": now_unix_ns}
            os.write(fd, json.dumps(about).encode())
        except BaseException:
            _let_go(fd, path)
            raise
    except OSError as error:
        raise LLMError(
            f"run {run_id} cannot be claimed in {path.parent}: {error.strerror or error}",
            code="storage.readonly",
            next_step="make the log folder writable, or choose another with --log or WORKBENCH_LOG",
        ) from error
    try:
        yield
    finally:
        if os.getpid() == pid:  # not in a child that was forked meanwhile
            _let_go(fd, path)


def close_left_behind(
    log: Log, world: World, *, status: Literal["crashed", "timeout"] = "crashed", parent: int | None = None
) -> list[str]:
    """Write the end of the runs whose process has died; their ids.

    status, parent: how to call the end of those whose process was started by this one; the others have crashed. A log
    that cannot be read now leaves them to the next who looks.
    """
    closed = []
    for path in sorted(claims_in(log.folder).glob("*.lock")):
        with suppress(OSError):
            fd = _locked(path, made=False)
            if fd is None:
                continue
            _held.add(fd)
            try:
                claim = _read(path)
                ended = status if claim is not None and claim.parent == parent else "crashed"
                if claim is not None and _close(log, world, claim, ended):
                    closed.append(claim.run_id)
            except LLMError as error:
                logger.warning("the runs that were left behind stay open: %s", error.message)
                _held.discard(fd)
                os.close(fd)  # the file stays: the next one tries again
                break
            except BaseException:
                _held.discard(fd)
                os.close(fd)
                raise
            _let_go(fd, path)
    return closed


def _close(log: Log, world: World, claim: Claim, status: Literal["crashed", "timeout"]) -> bool:
    """Write the end of a run, unless it had ended before its process died, or never began."""
    found = log.rows(
        "select status, end_unix_ns, (select count(*) from items i where i.run_id = r.run_id) from runs r "
        "where run_id = ?",
        [claim.run_id],
    )
    if not found:
        return False
    ((before, end_unix_ns, items),) = found
    if before == "finished" or (end_unix_ns is not None and end_unix_ns >= claim.since_unix_ns):
        return False
    code, what = ("run.crashed", "died") if status == "crashed" else ("timeout.run", "was ended from outside")
    failure = Failure(kind="LLMError", code=code, message=f"process {claim.pid} {what} while it ran {claim.run_id}")
    end = RunEnded(run_id=claim.run_id, status=status, end_unix_ns=world.unix_ns(), items=items, failure=failure)
    log.write(end)
    return True


def _path(log: Path, run_id: str) -> Path:
    safe = re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,180}", run_id)
    return claims_in(log) / f"{run_id if safe else hashlib.sha256(run_id.encode()).hexdigest()[:32]}.lock"


def _locked(path: Path, *, made: bool = True) -> int | None:
    """The file, open and locked; None when somebody else has the lock, or, unless it may be made, when it is gone."""
    while True:
        try:
            fd = os.open(path, os.O_RDWR | (os.O_CREAT if made else 0), 0o644)
        except FileNotFoundError:
            return None
        try:
            if not try_lock(fd):
                os.close(fd)
                return None
            # Who held it before may have removed it meanwhile: the lock of a file without a name keeps nobody out.
            if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _let_go(fd: int, path: Path) -> None:
    with suppress(OSError):  # an open file cannot be removed on Windows; the next one to look does it
        path.unlink()
    _held.discard(fd)
    os.close(fd)


def _read(path: Path) -> Claim | None:
    """The claim in the file; None for one whose process died before it had written it, and so before the run began."""
    try:
        return Claim(**json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError, OSError):
        return None


def _is_dead(claim: Claim | None) -> bool:
    if claim is None or os.name == "nt":  # where signal 0 is an interrupt
        return False
    try:
        os.kill(claim.pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError, TypeError):  # somebody else's process, or no number of one
        pass
    return False


def _taken(run_id: str, path: Path) -> LLMError:
    claim = _read(path)
    if claim is not None and _is_dead(claim):
        return LLMError(
            f"run {run_id} was left by process {claim.pid}, which has died, and another process is closing it",
            code="run.locked",
            retryable=True,
            next_step="try again in some seconds",
        )
    who = f"process {claim.pid}" if claim is not None else "another process"
    return LLMError(
        f"run {run_id} is being run by {who}",
        code="run.locked",
        retryable=True,
        next_step=f"wait until {who} has finished it, or end that one; then resume the run",
    )


def _after_fork() -> None:
    """In a forked child: the runs are the parent's, and its death must let go of them."""
    for fd in _held:
        with suppress(OSError):
            os.close(fd)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
