"""Which spans of a log have been sent to which receiver, and which are still to be.

For each receiver a file in the log's folder `otel/` holds the ids of the spans that it has taken, 8 bytes each in
order of sending. An id is added only after the receiver's answer: what a crash leaves out is sent again under the
same id.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import LLMError
from workbench.record.lock import try_lock
from workbench.record.otel import OtelSpan, is_sendable, otel_span
from workbench.record.spool import storage_error

if TYPE_CHECKING:
    import numpy as np

    from workbench.record.log import Log

ID_BYTES = 8
VALID = (
    "regexp_full_match(span_id, '[0-9a-f]{16}') and regexp_full_match(trace_id, '[0-9a-f]{32}') and "
    "span_id <> repeat('0', 16) and trace_id <> repeat('0', 32) and start_unix_ns between 0 and 4611686018427387903"
)  # what is_sendable says of a row


class Outbox:
    """The ids that a receiver has taken; made by `outbox`, which holds it for this process alone."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd, self._path = fd, path

    def taken(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """The ids taken so far, in order of sending."""
        import numpy as np

        os.lseek(self._fd, 0, os.SEEK_SET)
        parts = []
        while part := os.read(self._fd, 1 << 24):
            parts.append(part)
        return np.frombuffer(b"".join(parts), dtype=">u8").astype(np.uint64)

    def add(self, ids: Iterable[int]) -> None:
        """Note that the receiver has taken these; LLMError storage.* when the disk refuses."""
        data = b"".join(n.to_bytes(ID_BYTES, "big") for n in ids)
        try:
            done = os.write(self._fd, data)
            while done < len(data):
                done += os.write(self._fd, data[done:])
        except OSError as error:
            raise storage_error(error, self._path.parent, 0) from error


@contextmanager
def outbox(folder: Path, receiver: str) -> Iterator[Outbox]:
    """What a receiver has taken of the log in `folder`, held for the length of the body.

    Raises LLMError: otel.busy when another process is sending to the same receiver, storage.* for a failing disk.
    """
    path = folder / "otel" / f"{hashlib.sha256(receiver.encode()).hexdigest()[:16]}.sent"
    try:
        path.parent.mkdir(exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        there, kind = (path, "file") if path.is_dir() else (path.parent, "folder")
        raise LLMError(
            f"{there} is to be a {kind} that remembers which spans were sent, and is none",
            code="storage.readonly",
            next_step="move it away; without it everything is sent again",
        ) from error
    except OSError as error:
        raise storage_error(error, path.parent, 0) from error
    try:
        if not try_lock(fd):
            raise LLMError(
                f"another process is sending this log to {receiver}",
                code="otel.busy",
                retryable=True,
                next_step="wait for it to finish, and call `workbench log otel` again",
            )
        # A write that was interrupted leaves part of an id, behind which the others would be misread.
        os.ftruncate(fd, os.fstat(fd).st_size // ID_BYTES * ID_BYTES)
        yield Outbox(fd, path)
    finally:
        os.close(fd)


def waiting(
    log: Log, taken: np.ndarray[Any, np.dtype[np.uint64]], *, run_id: str | None, since_unix_ns: int | None
) -> tuple[list[str], int, int]:
    """Ids of the spans to send, oldest first; how many were taken before, and how many no receiver could take."""
    import numpy as np

    where = "(?::varchar is null or run_id = ?) and (?::bigint is null or start_unix_ns >= ?)"
    params = [run_id, run_id, since_unix_ns, since_unix_ns]
    found = log.frame(
        f"select cast('0x' || span_id as ubigint) as id from spans where {VALID} and {where} "
        "order by start_unix_ns, span_id", params,
    )["id"].to_numpy(dtype=np.uint64)  # fmt: skip
    [(odd,)] = log.rows(f"select count(*) from spans where not coalesce({VALID}, false) and {where}", params)
    left = found[~np.isin(found, taken)]
    return [f"{int(n):016x}" for n in left], len(found) - len(left), int(odd)


def read_spans(log: Log, ids: Sequence[str], *, texts: bool) -> list[OtelSpan]:
    """The spans of these ids in the words of OpenTelemetry, oldest first; texts: with prompts and answers."""
    wanted = "(select unnest(?::varchar[]))"
    spans = log.records(f"select * from spans where span_id in {wanted} order by start_unix_ns, span_id", [list(ids)])
    said, joined = "", ""
    if texts:
        said = ", p.text as prompt, r.text as response"
        joined = "left join texts p on p.hash = a.prompt_hash left join texts r on r.hash = a.response_hash"
    rows = log.records(
        f"select a.*{said} from every_attempt a {joined} where a.call_id in {wanted} order by a.call_id, a.attempt",
        [list(ids)],
    )
    calls: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        calls.setdefault(row["call_id"], []).append(row)
    return [otel_span(span, calls.get(span["span_id"], ()), texts=texts) for span in spans if is_sendable(span)]
