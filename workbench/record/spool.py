"""Spool files: where a row is acknowledged.

Each process appends checksummed lines to a file of its own; a batch is one `write`, and when that returns the
rows survive `kill -9` (with durability "disk" a power cut too). The writer holds a lock on its file for life,
so whoever gets that lock knows that nobody will append again. A line is eight hexadecimal digits of CRC-32, a
space, and a JSON array `[table, values...]`; the first line names the columns of every table, which lets a
newer version read files that an older one wrote.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from workbench.canonical import clean_text, plain_scalar
from workbench.errors import LLMError
from workbench.record.lock import try_lock

Durability = Literal["process", "disk"]
ROTATE_BYTES = 64 * 1024 * 1024
logger = logging.getLogger("workbench.record")


def encode(rows: Iterable[Sequence[Any]]) -> bytes:
    """The rows as checksummed lines."""
    return b"".join(_line(_body(row)) for row in rows)


def _body(row: Sequence[Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=plain_scalar)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return clean_text(text).encode()


def _line(body: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(body), body)


def decode(line: bytes) -> list[Any] | None:
    """The row of one line without its newline, or None when its checksum does not hold."""
    if len(line) < 10 or line[8:9] != b" ":
        return None
    try:
        if int(line[:8], 16) != zlib.crc32(line[9:]):
            return None
        row = json.loads(line[9:])
    except ValueError:
        return None
    return row if isinstance(row, list) else None


_writers: weakref.WeakSet[SpoolWriter] = weakref.WeakSet()


def _forget_parent() -> None:
    """In a forked child: the parent's file, its lock and its half-written batches stay the parent's."""
    for writer in _writers:
        writer.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)


class SpoolWriter:
    """Appends batches to this process's spool file; safe for threads and across forks."""

    def __init__(self, folder: Path, columns: Mapping[str, Sequence[str]], durability: Durability = "process") -> None:
        self.folder = folder
        self.durability = durability
        self._header = encode([["#columns", {t: list(c) for t, c in columns.items()}]])
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._written = 0
        self._kept: list[bytes] = []  # batches that a failing disk refused, oldest first
        _writers.add(self)

    def after_fork(self) -> None:
        """Start over in a forked child."""
        self._lock = threading.Lock()
        self._kept = []
        self._release()

    def write(self, rows: Iterable[Sequence[Any]]) -> None:
        """Append the rows as one batch; on a failing disk they are kept in memory and written with the next."""
        batch = encode(rows)
        with self._lock:
            self._kept.append(batch)
            try:
                self._drain()
            except OSError as error:
                self._release()  # half a batch may be on disk: it goes on in a file of its own
                if len(self._kept) == 1:
                    logger.warning("the log cannot be written (%s); rows are kept in memory", error)

    def flush(self) -> None:
        """Write what is kept in memory; LLMError `storage.full` or `storage.readonly` when that fails."""
        with self._lock:
            try:
                self._drain()
            except OSError as error:
                self._release()
                raise storage_error(error, self.folder, len(self._kept)) from error

    def close(self) -> None:
        """Flush, and let others take the file over."""
        try:
            self.flush()
        finally:
            with self._lock:
                self._release()

    def _drain(self) -> None:
        while self._kept:
            fd = self._file()
            batch = self._kept[0]
            _write_all(fd, batch)
            if self.durability == "disk":
                os.fdatasync(fd) if hasattr(os, "fdatasync") else os.fsync(fd)
            self._written += len(batch)
            self._kept.pop(0)

    def _file(self) -> int:
        if self._written > ROTATE_BYTES:
            self._release()
        if self._fd is None:
            name = f"{time.time_ns():020d}-{os.getpid()}-{os.urandom(4).hex()}"
            # Locked under another name first: a file that can be seen as *.spool is never unlocked and alive.
            hidden = self.folder / f"{name}.new"
            fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            try:
                try_lock(fd)
                _write_all(fd, self._header)
                hidden.rename(self.folder / f"{name}.spool")
            except OSError:
                os.close(fd)
                hidden.unlink(missing_ok=True)
                raise
            self._fd, self._written = fd, 0
        return self._fd

    def _release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _write_all(fd: int, data: bytes) -> None:
    done = os.write(fd, data)
    while done < len(data):  # a short write means a nearly full disk: the rest goes on or raises
        done += os.write(fd, data[done:])


def storage_error(error: OSError, folder: Path, batches: int) -> LLMError:
    """The typed form of a failing disk."""
    kept = f"; {batches} batches are in memory" if batches else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        code, step = "storage.full", "free disk space and call flush()"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        code, step = "storage.open", "close files, or raise the limit of open files (ulimit -n)"
    else:
        code, step = "storage.readonly", "make the folder writable, or choose another --log"
    return LLMError(
        f"the log folder {folder} cannot be used: {error.strerror or error}{kept}",
        code=code,
        retryable=code != "storage.readonly",
        next_step=step,
    )


@dataclass(slots=True)
class SpoolFile:
    """What one spool file holds beyond `start`: whole rows by table, and where reading stopped."""

    path: Path
    alive: bool
    end: int = 0
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    count: int = 0
    torn: list[bytes] = field(default_factory=list)


def read_spool(path: Path, start: int, *, alive: bool, limit: int = 200_000) -> SpoolFile:
    """Rows of a spool file from byte `start`, at most about `limit` of them.

    A last line without its end is left for later while the writer lives, and is torn when it is dead. A line
    whose checksum fails is torn too. Torn lines are returned, never guessed at.
    """
    found = SpoolFile(path=path, alive=alive, end=start)
    columns: Mapping[str, Sequence[str]] = {}
    with path.open("rb") as file:
        header = file.readline()
        head = decode(header.rstrip(b"\n"))
        if not head or head[0] != "#columns":
            if not alive and header:
                file.seek(start)
                found.torn += [rest] if (rest := file.read()) else []
                found.end = path.stat().st_size
            return found
        columns = head[1]
        file.seek(max(start, len(header)))
        found.end = file.tell()
        for line in _whole_lines(file, found):
            row = decode(line[:-1])
            table = row[0] if row else None
            if row is None or not isinstance(table, str) or table not in columns:
                found.torn.append(line)
            else:
                found.rows.setdefault(table, []).append(dict(zip(columns[table], row[1:], strict=False)))
                found.count += 1
            if found.count >= limit:
                break
    return found


def _whole_lines(file: Iterable[bytes], found: SpoolFile) -> Iterator[bytes]:
    for line in file:
        if not line.endswith(b"\n"):
            if not found.alive:
                found.torn.append(line)
                found.end += len(line)
            return
        found.end += len(line)
        yield line
