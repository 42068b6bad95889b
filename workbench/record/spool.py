"""Spool files: where a row is acknowledged.

Each process appends checksummed lines to a file of its own; a batch is one `write`, and when that returns the
rows survive `kill -9` (with durability "disk" a power cut too). The writer holds a lock on its file for life,
so whoever gets that lock knows that nobody will append again. A line is eight hexadecimal digits of CRC-32, a
space, and a JSON array `[table, values...]`; the first line names the columns of every table, which lets a
newer version read files that an older one wrote.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from workbench.errors import LLMError
from workbench.record.lock import try_lock

Durability = Literal["process", "disk"]
ROTATE_BYTES = 64 * 1024 * 1024
logger = logging.getLogger("workbench.record")


def encode(rows: Iterable[Sequence[Any]]) -> bytes:
    """The rows as checksummed lines."""
    return b"".join(
        _line(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")) for row in rows
    )


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


class SpoolWriter:
    """Appends batches to this process's spool file; safe for threads and across forks."""

    def __init__(self, folder: Path, columns: Mapping[str, Sequence[str]], durability: Durability = "process") -> None:
        self.folder = folder
        self.durability = durability
        self._header = encode([["#columns", {t: list(c) for t, c in columns.items()}]])
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._pid = os.getpid()
        self._written = 0
        self._kept: list[bytes] = []  # batches that a failing disk refused, oldest first

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
            done = os.write(fd, batch)
            while done < len(batch):  # a short write means a nearly full disk: the rest goes on or raises
                done += os.write(fd, batch[done:])
            if self.durability == "disk":
                os.fdatasync(fd) if hasattr(os, "fdatasync") else os.fsync(fd)
            self._written += len(batch)
            self._kept.pop(0)

    def _file(self) -> int:
        if self._fd is not None and (self._pid != os.getpid() or self._written > ROTATE_BYTES):
            self._release()
        if self._fd is None:
            name = f"{time.time_ns():020d}-{os.getpid()}-{os.urandom(4).hex()}"
            # Locked under another name first: a file that can be seen as *.spool is never unlocked and alive.
            hidden = self.folder / f"{name}.new"
            fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            try:
                try_lock(fd)
                os.write(fd, self._header)
                hidden.rename(self.folder / f"{name}.spool")
            except OSError:
                os.close(fd)
                hidden.unlink(missing_ok=True)
                raise
            self._fd, self._pid, self._written = fd, os.getpid(), 0
        return self._fd

    def _release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def storage_error(error: OSError, folder: Path, batches: int) -> LLMError:
    """The typed form of a failing disk."""
    full = error.errno in (28, 122)  # ENOSPC, EDQUOT
    return LLMError(
        f"the log folder {folder} cannot be written: {error.strerror or error}; {batches} batches are in memory",
        code="storage.full" if full else "storage.readonly",
        retryable=full,
        next_step="free disk space and call flush()" if full else "make the folder writable, or choose another --log",
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
        if head is None or head[0] != "#columns":
            if not alive and header:
                found.torn.append(header + file.read())
                found.end = path.stat().st_size
            return found
        columns = head[1]
        file.seek(max(start, len(header)))
        found.end = file.tell()
        for line in _whole_lines(file, found):
            row = decode(line[:-1])
            if row is None or row[0] not in columns:
                found.torn.append(line)
            else:
                found.rows.setdefault(row[0], []).append(dict(zip(columns[row[0]], row[1:], strict=False)))
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
