"""Connections to a log's database: to write through one instance that is kept, to read from one of its own.

Starting DuckDB costs several times what a small batch of rows does, so each process keeps one instance in memory and
attaches the database to it for the length of one use. Readers get a sealed instance each: what a query does to it
ends with it. Who opens a database holds the folder's lock (record/lock.py).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import duckdb

from workbench.errors import LLMError

T = TypeVar("T")
OFFLINE = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
SEALED = {**OFFLINE, "enable_external_access": "false"}
# A notebook shows progress bars of its own, and one of DuckDB's stays behind an interrupted query.
QUIET = "set enable_progress_bar = false; set lock_configuration = true"
DAMAGE = ("orrupt", "checksum", "Could not read", "Failed to load metadata", "not a valid DuckDB")  # in DuckDB's words
_REFUSED = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.NotImplementedException,
)
FORK_PATIENCE_S = 5.0  # for databases in use, before a child is made all the same
_kept: list[duckdb.DuckDBPyConnection] = []
_one = threading.RLock()  # the instance that is kept
_gate = threading.Lock()  # held over a fork: meanwhile nobody begins to use a database
_idle = threading.Condition()
_users: dict[int, int] = {}  # by thread: how often it is using one


@contextmanager
def to_write(database: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The database, made when absent, as the default one of a connection; LLMError storage.* when it cannot be used."""
    with _in_use(), _one:
        try:
            if not _kept:
                _kept.append(duckdb.connect(":memory:", config=dict(OFFLINE)))
            with _kept[0].cursor() as con:
                con.execute(f"attach {_quoted(database)} as store")
                con.execute("use store")
                yield con
                with suppress(duckdb.TransactionException):
                    con.rollback()
                con.execute("use memory")
                con.execute("detach store")
        except BaseException as error:
            forget()  # lets go of the database, whatever state an error or an interrupt has left it in
            if (told := _told(database, error)) is None:
                raise
            raise told from error


@contextmanager
def to_read(database: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection without access to anything else; raises as `to_write` does."""
    try:
        with _in_use(), duckdb.connect(str(database.absolute()), read_only=True, config=dict(SEALED)) as con:
            with suppress(duckdb.InvalidInputException):  # sealed by another reader, who shares the instance
                con.execute(QUIET)
            yield con
    except (duckdb.Error, RuntimeError) as error:
        if (told := _told(database, error)) is None:
            raise
        raise told from error


def waited_for(con: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """What `work` with the connection returns. An interrupt ends it, for which DuckDB does not look while it works."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)
        finally:
            ended.set()

    ended = threading.Event()  # not join(): a thread whose join was interrupted counts as ended
    thread = threading.Thread(target=run, name="workbench-query", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more of them, or the program is about to end
        return work()
    try:
        ended.wait()
    except BaseException:
        con.interrupt()
        ended.wait()
        raise
    if failed:
        raise failed[0]
    return done[0]


def _told(database: Path, error: BaseException) -> BaseException | None:
    """What to raise for an error that came while a database was open; None for the error itself."""
    if isinstance(error, duckdb.Error):
        return unusable(database, error)
    if isinstance(error, RuntimeError) and "interrupted" in str(error).lower():  # DuckDB's form of an interrupt
        return KeyboardInterrupt()
    return None


def forget() -> None:
    """Close the instance that is kept; the next use starts another."""
    while _kept:
        _kept.pop().close()


def _quoted(path: Path) -> str:
    return "'" + str(path.absolute()).replace("'", "''") + "'"


@contextmanager
def _in_use() -> Iterator[None]:
    """Keep forks waiting for the length of the body: a child would inherit DuckDB in the middle of something."""
    me = threading.get_ident()
    if me not in _users:
        with _gate:
            _users[me] = 1
    else:
        _users[me] += 1
    try:
        yield
    finally:
        with _idle:
            _users[me] -= 1
            if not _users[me]:
                del _users[me]
                _idle.notify_all()


def _before_fork() -> None:
    """A child must inherit no instance: its threads would stay behind, and the child die in their place."""
    _gate.acquire()
    with _idle:
        _idle.wait_for(lambda: not _users.keys() - {threading.get_ident()}, FORK_PATIENCE_S)
    if _one.acquire(timeout=FORK_PATIENCE_S):
        forget()
        _one.release()


def _in_parent() -> None:
    _gate.release()


def _in_child() -> None:
    global _one, _gate, _idle
    _one, _gate, _idle = threading.RLock(), threading.Lock(), threading.Condition()
    for thread in _users.keys() - {threading.get_ident()}:
        del _users[thread]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)


def unusable(database: Path, error: duckdb.Error) -> LLMError:
    """The typed form of what DuckDB says of a database file."""
    reason = str(error)
    holder = re.search(r"PID (\d+)", reason)
    if holder or "different configuration" in reason or "already attached" in reason:
        who = f"process {holder[1]}" if holder else "this process"
        return LLMError(
            f"{database.name} is held open by {who}, outside the log's own lock",
            code="storage.locked",
            retryable=True,
            next_step=f"close the database in {who}; rows go on collecting in the spool",
        )
    if isinstance(error, duckdb.ConnectionException | duckdb.InterruptException):
        return LLMError(
            f"{database.name} was closed while it was used: {first_line(error)}",
            code="storage.locked",
            retryable=True,
            next_step="try again; a fork or an interrupt in the middle of a use ends it",
        )
    if "No space left" in reason or "Could not write file" in reason:
        return LLMError(
            f"the disk of {database} is full: {first_line(error)}",
            code="storage.full",
            retryable=True,
            next_step="free disk space and try again; nothing of the log is lost",
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return LLMError(
            f"memory ran out while {database.name} was used: {first_line(error)}",
            code="storage.memory",
            retryable=True,
            next_step="close other programs, or ask for less at once",
        )
    if "Cannot open file" in reason or "Too many open files" in reason:
        return LLMError(
            f"{database} cannot be opened: {first_line(error)}",
            code="storage.open",
            next_step="see the cause; permissions and the number of open files are the usual ones",
        )
    if isinstance(error, _REFUSED) and not any(word in reason for word in DAMAGE):
        return LLMError(  # of a healthy file, which nobody should move aside
            f"{database.name} does not take what was asked of it: {first_line(error)}",
            code="storage.query",
            next_step="check the values that were asked for; workbench log verify tells whether the tables are whole",
        )
    return LLMError(
        f"{database} cannot be used: {first_line(error)}",
        code="storage.corrupt",
        next_step="move the file aside and open the log again; spooled rows are kept",
    )


def first_line(error: Exception) -> str:
    """The first line of what an exception says."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
