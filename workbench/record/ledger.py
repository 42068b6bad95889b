"""Budgets that all processes on one log share: exact to the micro-dollar, whoever is killed when.

One file of checksummed lines (`record/accounts.py`) holds the accounts. Each reservation and each settlement is one
line, appended under a lock; the file is rewritten to its sum when it has grown. A line survives `kill -9` once
`reserve` or `settle` has returned. In the thread of a running event loop these two never wait for the lock: `reserve`
raises storage.locked, to be tried again, and a settlement is kept and written a moment later, by a timer of that loop
or with the next turn; until then what was reserved stays set aside for everybody.

Every ledger object is an owner of what it reserves, and holds a lock on a file of its own for life. Whoever gets that
lock knows that the owner is gone: what it had set aside is then booked as possibly billed, neither released nor kept
for ever. Process ids play no part in this; they are used again.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from workbench.decide.budget import Account, check_micro, check_scopes, limit_of, reserve_all
from workbench.errors import LLMError
from workbench.facts import Refusal
from workbench.record.accounts import AccountsFile
from workbench.record.owners import Owner, TurnLock, is_gone, owner_path, owners_in
from workbench.record.spool import storage_error

T = TypeVar("T")
MANY_SCOPES = 10_000
REWRITE_BYTES = 512 * 1024
PATIENCE_S = 5.0
BRIEF_S = 0.5  # the same where an event loop has to stand still meanwhile
LATE_S, LATEST_S = 0.05, 1.0  # how soon a loop's timer tries again to write a settlement
PAUSE_S, LONGEST_PAUSE_S = 0.00005, 0.002  # a turn takes some 50 microseconds: who waits looks again soon
logger = logging.getLogger("workbench.record")
_ledgers: weakref.WeakSet[FileLedger] = weakref.WeakSet()
_behind: set[FileLedger] = set()  # with settlements to write: these must not be lost with the last reference


class FileLedger:
    """Reserve-then-settle accounting in integer micro-dollars, in a folder; safe for threads, processes and forks.

    folder: made at the first use. limits: as for MemoryLedger; each process applies its own to the shared accounts.
    patience_s: how long to wait for another process that holds the lock; in the thread of a running event loop
        `reserve`, `settle` and `open` do not wait, and the others for BRIEF_S at most.
    Raises LLMValidationError validation.budget for a limit that is no whole number >= 0.
    """

    def __init__(
        self, folder: str | os.PathLike[str], limits: Mapping[str, int], *, patience_s: float = PATIENCE_S
    ) -> None:
        for scope, limit in limits.items():
            check_micro(f"the limit of {scope}", limit)
        self.folder = Path(folder)
        self._limits = dict(limits)
        self._patience_s = patience_s
        self._bounds: dict[str, int | None] = {}  # limits by scope, as they were found
        self.after_fork()
        _ledgers.add(self)

    def after_fork(self) -> None:
        """Start over in a forked child: what the parent has open and set aside stays the parent's."""
        self._pid = os.getpid()
        self._guard = threading.Lock()
        self._lock = TurnLock(self.folder / "accounts.lock")
        self._file = AccountsFile(self.folder, rewrite_bytes=REWRITE_BYTES)
        self._mine: dict[str, int] = {}  # set aside by this object, by scope
        self._past: dict[str, int] = {}  # of these, what an owner had set aside whose file was removed
        self._late: list[list[Any]] = []  # settlements that are not written yet, oldest first
        self._number = 0  # of the last settlement
        self._timed: object = None  # the loop that has a timer for them
        self._untold: LLMError | None = None
        self._owner: Owner | None = None
        self._nobody = self._past_owner = os.urandom(8).hex()  # settles what no owner had set aside
        self._closed = self._unread = self._in_vain = False

    # -- the accounts

    def open(self) -> None:
        """Read the accounts, and book what processes had set aside that are gone; LLMError storage.*.

        In the thread of a running event loop a held lock leaves this to the next turn.
        """
        try:
            self._turn(self._bury_all, brief_s=0.0)
        except LLMError as error:
            if error.code != "storage.locked" or _loop() is None:
                raise
            self._unread = True

    def reserve(self, scopes: Sequence[str], amount: int) -> Refusal | None:
        """None when `amount` was set aside in every scope; else the refusal, and nothing was set aside anywhere.

        A scope named twice counts once. 0 is never refused. Raises LLMError storage.readonly, storage.full,
        storage.open, storage.locked (in the thread of a running event loop at once), storage.schema, storage.corrupt
        (once; the damaged file is kept aside, and the accounts go on with what could be read): nothing is set aside
        then either.
        """
        names = check_scopes(scopes)
        check_micro("amount", amount)
        if self._untold is not None or not amount:
            with self._guarded():
                if (untold := self._untold) is not None:
                    self._untold = None
                    raise untold
                if not amount and self._file.whole and all(name in self._file.books.accounts for name in names):
                    return None  # it changes nothing: free models pay for no file
        try:
            return self._turn(self._reserve, names, amount, brief_s=0.0)
        except LLMError as error:
            if amount or error.code != "storage.locked":
                raise
            return None  # nor do they wait for one

    def _reserve(self, names: Sequence[str], amount: int) -> Refusal | None:
        books = self._file.books
        if not all(books.fits(name, amount, self._bound(name)) for name in names):
            after = reserve_all({name: self._account(name) for name in names}, amount)
            # Who waits for calls that nobody will settle would wait in vain.
            if isinstance(after, Refusal) and after.may_fit_later and self._bury():
                after = reserve_all({name: self._account(name) for name in names}, amount)
            if isinstance(after, Refusal):
                return after
        self._file.append(["r", self._own(), amount, *names])
        for name in names if amount else ():
            self._mine[name] = self._mine.get(name, 0) + amount
        return None

    def settle(self, scopes: Sequence[str], reserved: int, actual: int, *, uncertain: bool = False) -> None:
        """Replace a reservation of this object by what was spent, in every scope or, on an error, in none.

        scopes, reserved: as they were reserved. actual: 0 for a call that was never sent; may be more than reserved.
        uncertain: the call may have been billed; `actual` is then the worst case. What a failing disk refuses, or a
        held lock keeps back, is written with the next turn; until then, and after a `kill -9`, the worst case stays
        booked. The next reservation tells of a disk that still fails.
        Raises LLMValidationError validation.budget when this object has less than `reserved` set aside.
        """
        names = check_scopes(scopes)
        check_micro("reserved", reserved)
        check_micro("actual", actual)
        with self._guarded():
            mine = self._mine
            for name in names:
                if mine.get(name, 0) < reserved:
                    Account(reserved=mine.get(name, 0)).settle(reserved=reserved, actual=actual)  # it refuses
            if not reserved and not actual:
                return
            owner = self._owner.name if self._owner is not None else self._nobody
            if self._past and all(self._past.get(name, 0) >= reserved for name in names):
                owner = self._past_owner
            self._number += 1
            self._late.append(["p", owner, self._number, reserved, actual, int(uncertain), *names])
            for name in names if reserved else ():
                mine[name] -= reserved
                if not mine[name]:
                    del mine[name]
            if self._past:
                less = {name: reserved if owner == self._past_owner and name in names else 0 for name in self._past}
                self._past = {s: min(n - less[s], mine[s]) for s, n in self._past.items() if s in mine and n > less[s]}
        try:
            self._turn(brief_s=0.0)
        except LLMError as error:
            self._keep(error)
            if len(self._late) == 1 and (error.code != "storage.locked" or _loop() is None):
                logger.warning("a settlement cannot be written (%s); it is kept in memory", error)
        if self._closed and (not self._late or _loop() is None):
            self._leave()

    def balance(self, scope: str) -> Account:
        """The account of a scope as all processes have made it; untouched scopes have one too."""
        return self._turn(self._balance, scope) or Account()

    def balances(self) -> Mapping[str, Account]:
        """Every account by scope, of earlier processes too, as one moment saw them all."""
        return self._turn(self._balances) or {}

    def close(self) -> None:
        """Let go of the files; calls under way may still settle, and the ledger may be used again."""
        if self._late:
            try:
                self._turn()
            except LLMError as error:
                logger.warning("settlements were not written (%s); their worst case stays booked", error)
        self._closed = True
        self._leave()

    # -- turns

    def _guarded(self) -> AbstractContextManager[Any]:
        """Keep other threads out for the length of the body."""
        if self._pid != os.getpid():  # forked without a word to Python
            self.after_fork()
        return self._guard

    def _turn(self, act: Callable[..., T] | None = None, *given: Any, brief_s: float = BRIEF_S) -> T | None:
        """What `act` returns, with the lock held and the accounts caught up with all that was written."""
        waits: Iterator[None] | None = None
        while True:
            with self._guarded():
                try:
                    try:
                        if self._lock.take():
                            self._begin()
                            return None if act is None else act(*given)
                    finally:
                        self._lock.let_go()
                except OSError as error:
                    raise storage_error(error, self.folder, 0) from error
                finally:
                    self._lock.let_go()  # once more: an interrupt may have met the first
            # Outside the guard: who may not wait must not wait for another thread that does.
            waits = waits or self._waits(brief_s)
            next(waits)

    def _waits(self, brief_s: float) -> Iterator[None]:
        """Each step waits a moment, until it is too long."""
        patience_s = self._patience_s if _loop() is None else min(brief_s, self._patience_s)
        if self._in_vain and len(self._late) > 1:  # then the others do not wait after each other
            patience_s = 0.0
        give_up, pause_s = time.monotonic() + patience_s, PAUSE_S
        while time.monotonic() < give_up:
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)
            yield
        self._in_vain = self._in_vain or patience_s > 0
        raise LLMError(
            f"the accounts in {self.folder} are held by another process, waited {patience_s:g} s",
            code="storage.locked",
            retryable=True,
            next_step="let the process that uses this --log go on, or end it, and try again",
        )

    def _begin(self) -> None:
        self._in_vain = False
        if self._file.catch_up():
            self._renew_owner()
        while self._late:
            row = self._late[0]
            if self._file.books.numbers.get(row[1], 0) < row[2]:  # else an interrupt came when it was written
                self._file.append(row)
            del self._late[0]
        if _behind:
            _behind.discard(self)
        if self._unread:
            self._bury_all()
        if self._file.end > self._file.rewrite_at:
            self._file.shrink()

    # -- settlements that could not be written at once

    def _keep(self, error: LLMError, pause_s: float = LATE_S) -> None:
        """See to it that the settlements are written later: by the running loop, with the next turn, or at the end."""
        if error.code == "storage.corrupt":  # it is mended, so nobody else would be told
            self._untold = error
        _behind.add(self)
        loop = _loop()
        if loop is not None and self._timed is not loop:
            self._timed = loop
            loop.call_later(pause_s, self._write_late, min(2 * pause_s, LATEST_S))

    def _write_late(self, pause_s: float) -> None:
        self._timed = None
        if self._late:
            try:
                self._turn(brief_s=0.0)
            except LLMError as error:
                self._keep(error, pause_s)
                return
        if self._closed:
            self._leave()

    # -- the accounts, in a turn

    def _balance(self, scope: str) -> Account:
        self._bury()
        return self._account(scope)

    def _balances(self) -> Mapping[str, Account]:
        self._bury()
        return MappingProxyType({scope: self._account(scope) for scope in self._file.books.accounts})

    def _account(self, scope: str) -> Account:
        return self._file.books.account(scope, self._bound(scope))

    def _bound(self, scope: str) -> int | None:
        """The limit of a scope, looked for once."""
        if scope not in self._bounds:
            if len(self._bounds) >= MANY_SCOPES:
                self._bounds.clear()
            self._bounds[scope] = limit_of(self._limits, scope)
        return self._bounds[scope]

    # -- owners

    def _own(self) -> str:
        """The name under which this object reserves."""
        self._closed = False
        if self._owner is None:
            self._owner = Owner(self.folder)
        return self._owner.name

    def _leave(self) -> None:
        """Let go of the files, once no call is under way."""
        with self._guarded():
            if self._mine:
                return
            owner, self._owner = self._owner, None
            self._lock.close()
            self._file.forget()
            if owner is not None:
                path = owner.path
                del owner
                with contextlib.suppress(OSError):  # whoever comes next clears it away
                    path.unlink()

    def _renew_owner(self) -> None:
        """Reserve under a new name where others would take the old one for gone, as when the folder was removed."""
        if self._owner is not None and not self._owner.is_seen():
            self._past, self._past_owner, self._owner = dict(self._mine), self._owner.name, None

    def _bury_all(self) -> None:
        self._bury(everybody=True)
        self._unread = False

    def _bury(self, *, everybody: bool = False) -> bool:
        """Book what owners that are gone had set aside as possibly billed; whether any was gone."""
        names = set(self._file.books.held)
        if everybody:  # those too that had nothing set aside, for the sake of their files
            names |= owners_in(self.folder)
        if self._owner is not None:
            names.discard(self._owner.name)
        gone = [name for name in sorted(names) if is_gone(self.folder, name)]
        for name in gone:
            if name in self._file.books.held:
                self._file.append(["g", name])
            owner_path(self.folder, name).unlink(missing_ok=True)
        return bool(gone)


def _loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@atexit.register
def _write_behind() -> None:
    """At the end of the process, for loops that ended before their timers."""
    for ledger in list(_behind):
        ledger._patience_s = min(ledger._patience_s, BRIEF_S)
        ledger.close()


def _forget_parent() -> None:
    """In a forked child: nobody of the parent's threads is here to let go of its guards."""
    _behind.clear()
    for ledger in _ledgers:
        ledger.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
