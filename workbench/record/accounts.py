"""Accounts as the lines of a ledger file make them: whoever reads the same lines has the same accounts.

A line is eight hexadecimal digits of CRC-32, a space, and a JSON array; whole micro-US-dollars throughout:

    ["#ledger", 2]                                         the form, first in the file
    ["a", scope, spent, uncertain]                         an account, as the lines before this file left it
    ["h", owner, scope, amount]                            what an owner has set aside, likewise
    ["l", owner, scope, amount]                            what was set aside by an owner that is gone, likewise
    ["r", owner, amount, scope...]                         a reservation
    ["p", owner, n, reserved, actual, uncertain, scope...] an owner's settlement n, 1 and up; uncertain is 0 or 1
    ["n", owner, n]                                        its last settlement before this file: n and below are known
    ["g", owner]                                           an owner is gone: what it had set aside may have been spent

Form 1 has no "n", and in the place of "p" settlements without a number, ["s", owner, reserved, actual, uncertain, ...].
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from workbench.decide.budget import Account
from workbench.errors import LLMError
from workbench.record.owners import OpenFile
from workbench.record.spool import checked, unsealed

FORM = 2
FORMS = (1, 2)  # that can be read
KEPT_RUNS = 1000  # accounts of runs that survive a rewriting of the file, the newest
KEPT_GONE = 100
KEPT_NUMBERS = 1000  # owners whose last settlement is known: long after an interrupt nobody writes one again
NOTHING = (0, 0, 0)
logger = logging.getLogger("workbench.record")


def line_of(row: list[Any]) -> bytes:
    """The row as a checksummed line."""
    try:
        return checked(orjson.dumps(row))
    except TypeError:  # any text is a scope, half a character too
        return checked(json.dumps(row).encode())


class Books:
    """What was spent and set aside, by scope, and by whom.

    accounts: scope -> [spent, reserved, uncertain], the one touched last at the end. held: owner -> scope -> set
    aside and not settled. lapsed: the same for owners that are gone; it is in `spent` and `uncertain` already.
    numbers: owner -> its last settlement.
    """

    __slots__ = ("accounts", "held", "lapsed", "numbers")

    def __init__(self) -> None:
        self.accounts: dict[str, list[int]] = {}
        self.held: dict[str, dict[str, int]] = {}
        self.lapsed: dict[str, dict[str, int]] = {}
        self.numbers: dict[str, int] = {}

    def account(self, scope: str, limit: int | None) -> Account:
        """The account of a scope, under this limit."""
        spent, reserved, uncertain = self.accounts.get(scope, NOTHING)
        return Account(limit=limit, spent=spent, reserved=reserved, uncertain=uncertain)

    def fits(self, scope: str, amount: int, limit: int | None) -> bool:
        """Whether the account would take the amount; said in plain numbers, for it is asked with each call."""
        if not amount or limit is None:
            return True
        spent, reserved, _ = self.accounts.get(scope, NOTHING)
        return spent + reserved + amount <= limit

    def apply(self, row: list[Any]) -> None:
        """Take one more line in; ValueError, TypeError or LookupError for a row of no known form."""
        kind = row[0]
        if kind == "r":
            self._hold(row[1], row[2], row[3:])
        elif kind == "p":
            # Written twice where an interrupt came between the file and the memory of its owner.
            if self.numbers.get(row[1], 0) < row[2]:
                self._settle(row[1], row[3], row[4], row[5], row[6:])
                self.numbers[row[1]] = row[2]
        elif kind == "s":
            self._settle(row[1], row[2], row[3], row[4], row[5:])
        elif kind == "g":
            self._gone(row[1])
        elif kind == "a":
            self.accounts[row[1]] = [row[2] + 0, 0, row[3] + 0]
        elif kind == "h":
            self._hold(row[1], row[3], [row[2]])
        elif kind == "l":
            self.lapsed.setdefault(row[1], {})[row[2]] = row[3] + 0
        elif kind == "n":
            self.numbers[row[1]] = row[2] + 0
        elif kind != "#ledger" or row[1:] not in [[form] for form in FORMS]:
            raise ValueError(f"a line of an unknown kind {kind!r}")

    def rows(self) -> Iterator[list[Any]]:
        """The shortest rows that make these accounts."""
        yield ["#ledger", FORM]
        for scope, (spent, _, uncertain) in self.accounts.items():
            yield ["a", scope, spent, uncertain]
        for letter, owners in (("h", self.held), ("l", self.lapsed)):
            for owner, amounts in owners.items():
                yield from ([letter, owner, scope, amount] for scope, amount in amounts.items())
        yield from (["n", owner, number] for owner, number in self.numbers.items())

    def prune(self) -> None:
        """Forget runs and lost owners of long ago, so that the file stays small; models and months are kept."""
        runs = [scope for scope, (_, reserved, _) in self.accounts.items() if scope.startswith("run:") and not reserved]
        forgotten = set(runs[:-KEPT_RUNS])
        self.accounts = {scope: account for scope, account in self.accounts.items() if scope not in forgotten}
        kept = list(self.lapsed.items())[-KEPT_GONE:]
        lapsed = {who: {s: amount for s, amount in amounts.items() if s not in forgotten} for who, amounts in kept}
        self.lapsed = {who: amounts for who, amounts in lapsed.items() if amounts}
        newest = set(list(self.numbers)[-KEPT_NUMBERS:])
        self.numbers = {who: number for who, number in self.numbers.items() if who in newest or who in self.held}

    def _touched(self, scope: str) -> list[int]:
        account = self.accounts.pop(scope, None)
        if account is None:
            account = [0, 0, 0]
        self.accounts[scope] = account
        return account

    def _hold(self, owner: str, amount: int, scopes: list[str]) -> None:
        held = self.held.setdefault(owner, {}) if amount else {}
        for scope in scopes:
            self._touched(scope)[1] += amount
            held[scope] = held.get(scope, 0) + amount

    def _settle(self, owner: str, reserved: int, actual: int, uncertain: int, scopes: list[str]) -> None:
        held, lapsed = self.held.get(owner, {}), self.lapsed.get(owner, {})
        for scope in scopes:
            account = self._touched(scope)
            # What is not set aside any more was booked when its owner was taken for gone, and must not count twice;
            # where it is neither, a damaged line is missing, and what was spent is booked all the same.
            open_now = _take(held, scope, reserved)
            booked = min(_take(lapsed, scope, reserved - open_now), account[2])
            account[0] += actual - booked
            account[1] -= open_now
            account[2] += (actual if uncertain else 0) - booked
        for owners, amounts in ((self.held, held), (self.lapsed, lapsed)):
            if not amounts:
                owners.pop(owner, None)

    def _gone(self, owner: str) -> None:
        held = self.held.pop(owner, {})
        lapsed = self.lapsed.setdefault(owner, {}) if held else {}
        for scope, amount in held.items():
            account = self.accounts[scope]
            account[0] += amount
            account[1] -= amount
            account[2] += amount
            lapsed[scope] = lapsed.get(scope, 0) + amount


def _take(amounts: dict[str, int], scope: str, wanted: int) -> int:
    """As much of `wanted` as there is, taken away."""
    there = amounts.get(scope, 0)
    taken = min(there, wanted)
    if taken == there:
        amounts.pop(scope, None)
    else:
        amounts[scope] = there - taken
    return taken


class AccountsFile:
    """The lines in `accounts.ledger` of a folder and their books; everything here needs the folder's lock.

    rewrite_bytes: when to make it the sum of its lines. books: what its first `end` bytes say. whole: whether they
    do; not after an interrupt in the middle. rewrite_at: the bytes at which `shrink` is due.
    """

    def __init__(self, folder: Path, *, rewrite_bytes: int) -> None:
        self.folder = folder
        self.rewrite_at = self._rewrite_bytes = rewrite_bytes
        self._path = folder / "accounts.ledger"
        self._place = str(self._path)  # asked for with each turn
        self.forget()

    def forget(self) -> None:
        """Close the file; it is read anew by the next `catch_up`."""
        self._file: OpenFile | None = None
        self.books = Books()
        self.end = 0
        self.whole = False

    def catch_up(self) -> bool:
        """Take in what others have written since the last turn, and repair what a killed one left.

        Whether all was read anew. Raises LLMError storage.schema, storage.corrupt; OSError.
        """
        try:
            found = os.stat(self._place)  # noqa: PTH116 - a Path costs as much as the call
        except FileNotFoundError:
            self.forget()
            self._rewrite()
            return True
        anew = False
        if self._file is None or not self.whole or not self._file.is_same(found):
            self.forget()
            anew = True
            self._file = OpenFile(self._path, os.O_RDWR | os.O_APPEND)
        elif found.st_size == self.end:
            return False
        damaged = int(found.st_size < self.end) or self._read_on(self._file.fd)
        self.whole = True
        if damaged:
            raise self._moved_aside(damaged)
        return anew

    def _read_on(self, fd: int) -> int:
        """Take in the lines after `_end`; the number of them that cannot be read."""
        begun, self.whole = self.end, False
        os.lseek(fd, begun, os.SEEK_SET)
        data = b""
        while more := os.read(fd, 1 << 20):
            data += more
        damaged = 0
        lines = data.split(b"\n")
        torn = lines.pop()
        if not begun:
            damaged += self._bad_head(lines[0] if lines else b"")
        for line in lines:
            row = unsealed(line)
            try:
                self.books.apply(row or [None])
            except (ValueError, TypeError, LookupError):
                damaged += 1
        self.end += len(data) - len(torn)
        if torn and not damaged:
            # A process died in its write, before anybody was told that it had reserved or settled.
            if b"\0" in torn:
                return 1
            os.ftruncate(fd, self.end)
        return damaged

    def _bad_head(self, line: bytes) -> int:
        head = unsealed(line)
        if head and head[0] == "#ledger" and head[1:] != [FORM]:
            if head[1:] in [[form] for form in FORMS]:
                self.rewrite_at = 0  # in this form: to a version that reads none but its own, our lines are damage
                return 0
            raise LLMError(
                f"{self._path} has form {head[1:]}, and this version of the workbench reads form {FORM}",
                code="storage.schema",
                next_step="use the newer version of the workbench that wrote it, or another --log",
            )
        # A damaged line is counted where it is read; a whole one in the wrong place, or none, is counted here.
        return int(not line or (head is not None and head[0] != "#ledger"))

    def _moved_aside(self, damaged: int) -> LLMError:
        """Begin a new file with what could be read, the damaged one kept beside it; the error that says so."""
        aside = self.folder / f"accounts-{time.time_ns()}.corrupt"
        shutil.copyfile(self._path, aside)
        self._rewrite()
        return LLMError(
            f"{damaged} places of {self._path} could not be read; it is kept as {aside.name}, and the accounts go on "
            f"with the {len(self.books.accounts)} that could",
            code="storage.corrupt",
            retryable=True,
            next_step="compare `workbench budget` with your bills, lower the limits by what is missing, and call again",
        )

    def append(self, row: list[Any]) -> None:
        """Write one more line and take it in; after an OSError it is in neither."""
        assert self._file is not None
        data, fd = line_of(row), self._file.fd
        self.whole = False
        try:
            written = os.write(fd, data)
            while written < len(data):  # a short write means a nearly full disk: the rest goes on or raises
                written += os.write(fd, data[written:])
        except OSError:
            os.ftruncate(fd, self.end)
            raise
        self.books.apply(row)
        self.end += len(data)
        self.whole = True

    def shrink(self) -> None:
        """Make the file the sum of its lines; where that fails, it goes on growing for a while."""
        self.whole = False
        self.books.prune()
        try:
            self._rewrite()
        except OSError as error:
            self.rewrite_at = self.end * 2
            logger.warning("the accounts in %s could not be rewritten (%s)", self.folder, error)
            self.catch_up()  # of the file that stays

    def _rewrite(self) -> None:
        """Put a file in place that holds the books and no more; whoever is killed meanwhile leaves the old one."""
        for stray in self.folder.glob("accounts-*.new"):  # of a process that was killed right here
            stray.unlink()
        new = self.folder / f"accounts-{os.urandom(4).hex()}.new"
        data = b"".join(map(line_of, self.books.rows()))
        try:
            with new.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._file = None  # Windows replaces no file that is open
            new.replace(self._path)
        except OSError:
            new.unlink(missing_ok=True)
            self.whole = False
            raise
        self._file = OpenFile(self._path, os.O_RDWR | os.O_APPEND)
        self.end, self.whole = len(data), True
        self.rewrite_at = max(self._rewrite_bytes, 2 * len(data))
