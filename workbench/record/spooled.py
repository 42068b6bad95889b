"""What lies in the spool, read without moving, locking or changing any of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.record.lock import try_lock
from workbench.record.spool import decode

HEADER = "#columns"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolLine:
    """One line of a spool file.

    start: its first byte. rows: each with its table's name first; None where the checksum fails.
    ended: whether it has its line break; a line without one is still being written, or its writer was killed.
    """

    start: int
    rows: tuple[list[Any], ...] | None
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolState:
    """One spool file.

    pid: the process that writes it, or wrote it. alive: whether it can still write. read_bytes: how far the database
    has it, 0 for a database that does not know it. waiting_rows: whole rows after that. bad_lines: after that too,
    those whose checksum fails; a last line that is cut off is none.
    """

    name: str
    pid: int | None
    alive: bool
    size_bytes: int
    read_bytes: int
    waiting_rows: int
    bad_lines: int

    def as_dict(self) -> dict[str, Any]:
        """The state as plain JSON values."""
        return asdict(self)


def spool_files(folder: Path) -> list[Path]:
    """The spool files of a log folder, the oldest first."""
    return sorted((folder / "spool").glob("*.spool"))


def lines_of(path: Path, *, start: int = 0) -> Iterator[SpoolLine]:
    """The lines that begin at byte `start` or after it, header included; nothing for a file that is gone."""
    try:
        file = path.open("rb")
    except FileNotFoundError:  # moved into the database meanwhile
        return
    with file:
        file.seek(start)
        at = start
        for line in file:
            ended = line.endswith(b"\n")
            rows = decode(line[:-1]) if ended else None
            yield SpoolLine(start=at, rows=None if rows is None else tuple(rows), ended=ended)
            at += len(line)


def columns_of(path: Path) -> Mapping[str, tuple[str, ...]] | None:
    """The columns of every table as the file's first line names them, or None where it has no such line."""
    for line in lines_of(path):
        head = line.rows[0] if line.rows else []
        if len(head) == 2 and head[0] == HEADER and isinstance(head[1], dict):
            return {table: tuple(names) for table, names in head[1].items()}
        break
    return None


def rows_in(line: SpoolLine) -> list[list[Any]]:
    """The rows that a line brings to tables: none for the header, or a line whose checksum fails."""
    return [row for row in line.rows or () if row and isinstance(row[0], str) and row[0] != HEADER]


def spool_state(path: Path, read_bytes: int) -> SpoolState | None:
    """The state of a spool file of which the database has `read_bytes`; None when the file is gone."""
    try:
        size = path.stat().st_size
        alive = is_alive(path)
    except FileNotFoundError:
        return None
    waiting = bad = 0
    for line in lines_of(path, start=read_bytes):
        waiting += len(rows_in(line))
        bad += line.ended and line.rows is None
    parts = path.stem.split("-")
    return SpoolState(
        name=path.name,
        pid=int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else None,
        alive=alive,
        size_bytes=size,
        read_bytes=read_bytes,
        waiting_rows=waiting,
        bad_lines=bad,
    )


def is_alive(path: Path) -> bool:
    """Whether the writer of a spool file still has it; FileNotFoundError when the file is gone."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return not try_lock(fd, shared=True)
    finally:
        os.close(fd)


def torn_files(folder: Path) -> list[Path]:
    """The files of lines that were set aside."""
    return sorted(path for path in (folder / "torn").glob("*") if path.is_file())


def lines_in(path: Path) -> int:
    """Number of lines of a file, a last one without its end included; 0 for one that is gone."""
    count, last = 0, b"\n"
    with suppress(FileNotFoundError), path.open("rb") as file:
        while block := file.read(1 << 20):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def size_of(path: Path) -> int:
    """Bytes of a file; 0 for one that is gone."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def database_bytes(database: Path) -> int:
    """Bytes of the database and of what DuckDB keeps beside it until the next checkpoint."""
    return size_of(database) + sum(size_of(path) for path in write_ahead_files(database))


def write_ahead_files(database: Path) -> list[Path]:
    """What DuckDB has written ahead of the database file."""
    return [path for path in database.parent.glob(f"{database.name}.*") if "wal" in path.suffixes[-1]]
