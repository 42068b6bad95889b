"""Spool files: where a row is acknowledged.

Each process appends checksummed lines to a file of its own; a batch is one `write`, and when that returns the
rows survive `kill -9` (with durability "disk" a power cut too). The writer holds a lock on its file for life,
so whoever gets that lock knows that nobody will append again. A line is eight hexadecimal digits of CRC-32, a
space, and a JSON array of rows `[table, values...]`, or one such row; the first line names the columns of every
table, which lets a newer version read files that an older one wrote.
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

import orjson

from workbench.canonical import clean_text, plain_scalar
from workbench.errors import LLMError
from workbench.record.lock import try_lock

Durability = Literal["process", "disk"]
ROTATE_BYTES = 64 * 1024 * 1024
logger = logging.getLogger("workbench.record")


BATCH_ROWS = 1000  # rows of a line: what a torn line can hide
_PLAIN = (str, int, bool)
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=plain_scalar)


def encode(rows: Sequence[Sequence[Any]]) -> bytes:
    """The rows as checksummed lines."""
    batches = (rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS))
    return b"".join(map(sealed, batches))


def sealed(rows: Sequence[Sequence[Any]]) -> bytes:
    """The rows as one line behind its checksum."""
    return checked(_body(rows))


def checked(body: bytes) -> bytes:
    """The line of a text without line breaks behind its checksum."""
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _body(rows: Sequence[Any]) -> bytes:
    if _is_finite(rows):
        try:
            return orjson.dumps(rows, default=_finite_scalar, option=_OPTIONS)
        except TypeError:  # half a character, a long integer: the standard library has a form for both
            pass
    text = " " + _JSON.encode(rows)  # the space says who has to read it
    try:
        return text.encode()
    except UnicodeEncodeError:
        return clean_text(text).encode()


def _is_finite(rows: Sequence[Any]) -> bool:
    """Whether there is no number for which orjson would write null; what lies deeper is not looked at."""
    for row in rows:
        for value in row:
            if value is None or value.__class__ in _PLAIN:  # nearly all, and this is asked of every value of the log
                continue
            if isinstance(value, list | dict) or (isinstance(value, float) and value - value != 0):
                return False
    return True


def _finite_scalar(value: Any) -> Any:
    plain = plain_scalar(value)
    if isinstance(plain, float) and plain - plain != 0:
        raise TypeError("orjson would write null")
    return plain


def unsealed(line: bytes) -> list[Any] | None:
    """The array of one line without its newline, or None when its checksum does not hold."""
    if len(line) < 10 or line[8:9] != b" ":
        return None
    body = line[9:]
    try:
        if int(line[:8], 16) != zlib.crc32(body):
            return None
        try:
            value = json.loads(body.decode()) if body[:1] == b" " else orjson.loads(body)
        except orjson.JSONDecodeError:  # NaN, from before lines said who wrote them
            value = json.loads(body.decode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def decode(line: bytes) -> list[list[Any]] | None:
    """The rows of one line without its newline, or None when its checksum does not hold."""
    value = unsealed(line)
    if value is None or (value and isinstance(value[0], list)):
        return value
    return [value]  # as it was written before a line held several


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
        self._header = checked(_body(["#columns", {t: list(c) for t, c in columns.items()}]))
        # Again by the same thread: a span that the garbage collector closes in the middle of a write is a write, too.
        self._lock = threading.RLock()
        self._draining = False
        self._fd: int | None = None
        self._written = 0
        self._kept: list[bytes] = []  # batches that a failing disk refused, oldest first
        self._stale: list[int] = []  # files that failed, held until the batches that lean on their texts are written
        self.texts: set[str] = set()  # hashes of the texts in this file; another file begins with another set
        _writers.add(self)

    def after_fork(self) -> None:
        """Start over in a forked child."""
        self._lock = threading.RLock()
        self._draining = False
        self._kept = []
        self._release()

    def write(self, rows: Sequence[Sequence[Any]], *, texts: set[str] | None = None) -> bool:
        """Append the rows as one batch; on a failing disk they are kept in memory and written with the next.

        texts: the set `texts` that the rows lean on. False, and nothing is done, when it is that of an earlier file:
        its texts may be removed (record/retention.py) as soon as nobody holds that file.
        """
        batch = encode(rows)
        with self._lock:
            if self._draining:  # whoever is at it writes this batch before he returns
                self._kept.append(batch)
                return texts is None or texts is self.texts
            if self._written > ROTATE_BYTES and not self._kept:
                self._release()
            if texts is not None and texts is not self.texts:
                return False
            self._kept.append(batch)
            try:
                self._drain()
            except OSError as error:
                self._fail()
                if len(self._kept) == 1:
                    logger.warning("the log cannot be written (%s); rows are kept in memory", error)
        return True

    def flush(self) -> None:
        """Write what is kept in memory; LLMError `storage.full` or `storage.readonly` when that fails."""
        with self._lock:
            try:
                self._drain()
            except OSError as error:
                self._fail()
                raise storage_error(error, self.folder, len(self._kept)) from error

    def close(self) -> None:
        """Flush, and let others take the file over."""
        try:
            self.flush()
        finally:
            with self._lock:
                self._release()

    def _drain(self) -> None:
        if self._draining:
            return
        self._draining = True
        try:
            while self._kept:
                fd = self._file()
                batch = self._kept[0]
                _write_all(fd, batch)
                if self.durability == "disk":
                    os.fdatasync(fd) if hasattr(os, "fdatasync") else os.fsync(fd)
                self._written += len(batch)
                self._kept.pop(0)
        finally:
            self._draining = False
        while self._stale:
            os.close(self._stale.pop())

    def _fail(self) -> None:
        """Half a batch may be on disk: it goes on in a file of its own."""
        if self._fd is not None:
            self._stale.append(self._fd)
            self._fd = None
            self.texts = set()

    def _file(self) -> int:
        # Only who holds its lock takes a spool file away, so that one without a name was removed by somebody else.
        if self._fd is not None and not os.fstat(self._fd).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "its spool file was removed")
        if self._fd is None:
            name = f"{time.time_ns():020d}-{os.getpid()}-{os.urandom(4).hex()}"
            # Locked under another name first: a file that can be seen as *.spool is never unlocked and alive.
            hidden = self.folder / f"{name}.new"
            fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            try:
                try_lock(fd)
                _write_all(fd, self._header)
                hidden.rename(self.folder / f"{name}.spool")
                if self.durability == "disk":
                    _sync_folder(self.folder)
            except OSError:
                os.close(fd)
                hidden.unlink(missing_ok=True)
                raise
            self._fd, self._written = fd, 0
        return self._fd

    def _release(self) -> None:
        self.texts, self._written = set(), 0
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if not self._kept:
            while self._stale:
                os.close(self._stale.pop())


def _write_all(fd: int, data: bytes) -> None:
    done = os.write(fd, data)
    while done < len(data):  # a short write means a nearly full disk: the rest goes on or raises
        done += os.write(fd, data[done:])


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can be asked to (Windows cannot)."""
    if os.name != "nt":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def storage_error(error: OSError, folder: Path, batches: int) -> LLMError:
    """The typed form of a failing disk."""
    kept = f"; {batches} batches are in memory" if batches else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        code, step = "storage.full", "free disk space and call flush()"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        code, step = "storage.open", "close files, or raise the limit of open files (ulimit -n)"
    elif error.errno == errno.ENOENT:
        code, step = "storage.removed", "put the folder back and call flush(); what was written before is gone with it"
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
    """What one spool file holds beyond `start`: whole rows by table, and where reading stopped.

    rows: each as it stands in the file, with the table's name first. columns: of every table, as the file names them.
    """

    path: Path
    alive: bool
    end: int = 0
    rows: dict[str, list[list[Any]]] = field(default_factory=dict)
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    count: int = 0
    torn: list[bytes] = field(default_factory=list)

    def values(self, table: str, names: Sequence[str]) -> list[tuple[Any, ...]]:
        """The values of the named columns in every row of a table; None for what the file does not have."""
        theirs = self.columns[table]
        if tuple(theirs) == tuple(names) and all(len(row) == len(names) + 1 for row in self.rows[table]):
            return [tuple(row[1:]) for row in self.rows[table]]
        at = {name: index + 1 for index, name in enumerate(theirs)}
        places = [at.get(name) for name in names]
        return [tuple(row[i] if i is not None and i < len(row) else None for i in places) for row in self.rows[table]]


def read_spool(path: Path, start: int, *, alive: bool, limit: int = 200_000) -> SpoolFile:
    """Rows of a spool file from byte `start`, at most about `limit` of them.

    A last line without its end is left for later while the writer lives, and is torn when it is dead. A line
    whose checksum fails is torn too. Torn lines are returned, never guessed at.
    """
    found = SpoolFile(path=path, alive=alive, end=start)
    with path.open("rb") as file:
        header = file.readline()
        head = unsealed(header.rstrip(b"\n"))
        if not head or head[0] != "#columns":
            if not alive and header:
                file.seek(start)
                found.torn += [rest] if (rest := file.read()) else []
                found.end = path.stat().st_size
            return found
        found.columns = columns = head[1]
        file.seek(max(start, len(header)))
        found.end = file.tell()
        for line in _whole_lines(file, found):
            rows = decode(line[:-1])
            if rows is None or not _sorted(rows, found.rows, columns):
                found.torn.append(line)
                continue
            found.count += len(rows)
            if found.count >= limit:
                break
    return found


def _sorted(rows: list[list[Any]], tables: dict[str, list[list[Any]]], columns: Mapping[str, Any]) -> bool:
    """Whether each row begins with the name of a table; then they are added to those of its table."""
    for row in rows:
        if not isinstance(row, list) or not row or not isinstance(row[0], str) or row[0] not in columns:
            return False
    for row in rows:
        if (table := tables.get(row[0])) is None:
            table = tables[row[0]] = []
        table.append(row)
    return True


def _whole_lines(file: Iterable[bytes], found: SpoolFile) -> Iterator[bytes]:
    for line in file:
        if not line.endswith(b"\n"):
            if not found.alive:
                found.torn.append(line)
                found.end += len(line)
            return
        found.end += len(line)
        yield line
