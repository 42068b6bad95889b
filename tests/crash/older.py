"""The little that the log uses of DuckDB 2 and that DuckDB 1 has not, so that the same race can be run on both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb


class Appender:
    """Takes rows for a table."""

    def __init__(self, connection: Connection, table: str) -> None:
        self.connection = connection
        self.table = table

    def append_rows(self, rows: Iterable[Sequence[Any]]) -> None:
        """Insert the rows."""
        given = [list(row) for row in rows]
        if given:
            columns = ", ".join(["unnest(?)"] * len(given[0]))
            self.connection.execute(
                f"insert into {self.table} select {columns}", [list(c) for c in zip(*given, strict=True)]
            )


class Connection:
    """A connection of DuckDB 1 with an appender."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __enter__(self) -> Connection:
        self.real.__enter__()
        return self

    def __exit__(self, *how: Any) -> None:
        self.real.__exit__(*how)

    def cursor(self) -> Connection:
        """Another connection to the same instance."""
        return Connection(self.real.cursor())

    @contextmanager
    def appender(self, table: str) -> Iterator[Appender]:
        """What puts rows into a table."""
        yield Appender(self, table)


def complete() -> None:
    """Give DuckDB 1 what it has not; DuckDB 2 is left as it is."""
    if hasattr(duckdb.DuckDBPyConnection, "appender"):
        return
    connect = duckdb.connect
    duckdb.connect = lambda *args, **options: Connection(connect(*args, **options))  # type: ignore[assignment]
