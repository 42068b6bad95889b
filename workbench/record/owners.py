"""Files that are locked: for a turn at what is shared, or for as long as their owner lives."""

from __future__ import annotations

import os
from pathlib import Path

from workbench.record.lock import try_lock, unlock


class OpenFile:
    """An open file that is closed when nothing refers to it any more."""

    def __init__(self, path: Path, flags: int) -> None:
        self.fd = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o644)
        self.stat = os.fstat(self.fd)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    def is_at(self, path: str) -> bool:
        """Whether the file still stands at this path: it may have been removed, or replaced by another."""
        try:
            found = os.stat(path)  # noqa: PTH116 - a Path costs as much as the call
        except FileNotFoundError:
            return False
        return found.st_ino == self.stat.st_ino and found.st_dev == self.stat.st_dev

    def is_same(self, found: os.stat_result) -> bool:
        """Whether this is the file that was found."""
        return found.st_ino == self.stat.st_ino and found.st_dev == self.stat.st_dev


class TurnLock:
    """The lock at a path, which whoever takes a turn holds; it is never waited for."""

    __slots__ = ("_file", "_mine", "_path", "_place")

    def __init__(self, path: Path) -> None:
        self._path, self._place = path, str(path)  # the text is asked for with each turn
        self._file: OpenFile | None = None
        self._mine = False  # whether it may be held

    def take(self) -> bool:
        """Whether the lock could be had now; its folder is made where it is missing."""
        while True:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = OpenFile(self._path, os.O_RDWR | os.O_CREAT)
            self._mine = True  # said first: an interrupt may follow the lock at once
            if not try_lock(self._file.fd):
                self._mine = False
                return False
            # Somebody may have removed the folder to begin anew: then others lock another file.
            if self._file.is_at(self._place):
                return True
            self._file = None

    def let_go(self) -> None:
        """Let go of the lock; once more does nothing."""
        if self._mine:
            if self._file is not None:
                try:  # noqa: SIM105 - suppress() costs as much as the call, with each turn
                    unlock(self._file.fd)
                except OSError:  # Windows minds when it was not had
                    pass
            self._mine = False

    def close(self) -> None:
        """Close the file, and so let go of the lock; `take` opens it again."""
        self._file = None


class Owner:
    """A name that is locked, by a file in `folder`, until this object goes or its process dies."""

    def __init__(self, folder: Path) -> None:
        self.name = os.urandom(8).hex()
        self.path = owner_path(folder, self.name)
        self._file = OpenFile(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        if not try_lock(self._file.fd):
            raise BlockingIOError(f"{self.path.name} is new, and locked by somebody else")

    def is_seen(self) -> bool:
        """Whether others still find the file, and so can tell that the owner lives."""
        return self._file.is_at(str(self.path))


def owner_path(folder: Path, name: str) -> Path:
    """Where the file of an owner is."""
    return folder / f"owner-{name}.lock"


def owners_in(folder: Path) -> set[str]:
    """The names of the owners that have a file, living or gone."""
    return {path.stem.removeprefix("owner-") for path in folder.glob("owner-*.lock")}


def is_gone(folder: Path, name: str) -> bool:
    """Whether nobody holds an owner's lock any more; asked under a lock under which owners are made."""
    try:
        file = OpenFile(owner_path(folder, name), os.O_RDWR)
    except FileNotFoundError:
        return True
    return try_lock(file.fd)
