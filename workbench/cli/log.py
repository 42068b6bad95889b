"""The commands around the log's upkeep: log status, ingest, verify, compact, export, gc."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import JsonOption, LogOption, log_folder, put, wants_json

if TYPE_CHECKING:
    from workbench.record.log import Log
    from workbench.record.retention import Collected
    from workbench.record.status import LogStatus
    from workbench.record.verify import Verification

log_app = typer.Typer(
    help="Keeping the log: its state, proof, size and copies.", no_args_is_help=True, rich_markup_mode=None
)
LOCKS = {
    "free": "nobody holds the lock",
    "read": "readers hold the lock",
    "written": "the lock is held by one who moves rows or rewrites the database",
    "unknown": "the lock cannot be looked at",
}

NAMES = 10  # of runs that gc removed, in words


@log_app.command("status")
def status(context: typer.Context, log: LogOption = None, as_json: JsonOption = False) -> None:
    """Show rows, sizes, the spool and the lock, without moving anything; exit code 1 when the log cannot be read."""
    from workbench.record.status import read_status

    as_json = wants_json(context, as_json)
    found = read_status(Path(log_folder(context, log)))
    put(found.as_dict(), "" if as_json else _status(found), as_json)
    if found.problem is not None:
        raise typer.Exit(1)


@log_app.command("ingest")
def ingest(context: typer.Context, log: LogOption = None, as_json: JsonOption = False) -> None:
    """Move what is spooled into the database."""
    as_json = wants_json(context, as_json)
    opened = _opened(context, log)
    rows = opened.ingest()
    put({"folder": str(opened.folder), "rows": rows}, f"{_number(rows)} rows moved into {opened.database}", as_json)


@log_app.command("verify")
def verify(context: typer.Context, log: LogOption = None, as_json: JsonOption = False) -> None:
    """Prove hashes, references, keys and checksums, changing nothing; exit code 1 when something is wrong."""
    from workbench.record.verify import verify as look

    as_json = wants_json(context, as_json)
    found = look(Path(log_folder(context, log)))
    put(found.as_dict(), "" if as_json else _verification(found), as_json)
    if not found.ok:
        raise typer.Exit(1)


@log_app.command("compact")
def compact(context: typer.Context, log: LogOption = None, as_json: JsonOption = False) -> None:
    """Rewrite the database without its holes; the rows stay as they are, whatever interrupts it."""
    from workbench.record.upkeep import compact as rewrite

    as_json = wants_json(context, as_json)
    done = rewrite(_opened(context, log))
    words = f"{done.folder}: {_size(done.before_bytes)} before, {_size(done.after_bytes)} now; all rows compared equal"
    put(done.as_dict(), words, as_json)


@log_app.command("export")
def export(
    context: typer.Context,
    to: Annotated[Path, typer.Option("--to", metavar="PATH", help="New folder; for duckdb, a new file.")],
    form: Annotated[str, typer.Option("--format", help="parquet, csv, jsonl or duckdb.")] = "parquet",
    tables: Annotated[str | None, typer.Option(help="Tables, comma-separated [all].")] = None,
    run: Annotated[str | None, typer.Option(metavar="ID", help="Only the rows of this run, or of latest.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the tables of the log as files of others: one moment of all of them, whole or not at all."""
    from workbench.record.export import export as write

    as_json = wants_json(context, as_json)
    opened = _opened(context, log)
    names = None if tables is None else [name.strip() for name in tables.split(",")]
    wanted = _latest(opened) if run == "latest" else run
    done = write(opened, to, format=form, tables=names, run=wanted, force=force)
    counts = ", ".join(f"{table} {_number(rows)}" for table, rows in done.rows.items())
    put(done.as_dict(), f"{done.path}: {_size(done.size_bytes)} of {done.format}\nrows: {counts}", as_json)


@log_app.command("gc")
def gc(
    context: typer.Context,
    older_than: Annotated[str | None, typer.Option(metavar="AGE", help="Runs that ended longer ago: 90d, 12h.")] = None,
    max_size: Annotated[str | None, typer.Option(metavar="SIZE", help="Oldest runs until so small: 5GB.")] = None,
    runs: Annotated[
        list[str] | None, typer.Option("--run", metavar="ID", help="This run, or latest, ended or not.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove whole runs, the oldest first, and texts that nothing refers to; without limits, only such texts."""
    from workbench.record.retention import Retention, collect
    from workbench.record.upkeep import bytes_of, seconds_of

    as_json = wants_json(context, as_json)
    opened = _opened(context, log)
    retention = Retention(
        older_than_s=None if older_than is None else seconds_of(older_than),
        max_bytes=None if max_size is None else bytes_of(max_size),
        runs=tuple(dict.fromkeys(_latest(opened) if run == "latest" else run for run in runs or ())),
    )
    done = collect(opened, retention, dry_run=dry_run)
    put(done.as_dict(), "" if as_json else _collected(done), as_json)


def _opened(context: typer.Context, log: Path | None) -> Log:
    """The log that is meant; it is not made where there is none."""
    from workbench.record.log import Log
    from workbench.record.status import require_log

    return Log.open(require_log(Path(log_folder(context, log))))


def _latest(log: Log) -> str:
    """The run that began last, reports aside; the word itself where there is none, so that the error names it."""
    newest = "select run_id from runs where source <> 'report' order by start_unix_ns desc, run_id desc limit 1"
    found = log.rows(newest)
    return str(found[0][0]) if found else "latest"


# -- words


def _status(found: LogStatus) -> str:
    from workbench.show.tables import Table

    if not found.exists:
        return f"there is no log in {found.folder} yet; the first run makes it"
    version = "unknown" if found.schema_version is None else str(found.schema_version)
    newest = "none" if found.newest_unix_ns is None else _time(found.newest_unix_ns)
    lines = [
        f"log {found.folder}",
        f"schema version {version}, this workbench knows {found.known_version}; {LOCKS[found.lock]}",
        f"database {_size(found.database_bytes)}, newest row {newest}",
        (
            f"spool {_size(found.spool_bytes)} in {len(found.spool)} files "
            f"({sum(file.alive for file in found.spool)} with a living writer), "
            f"{_number(found.waiting_rows)} rows wait, {found.bad_lines} lines fail their checksum"
        ),
        f"set aside: {found.torn_lines} lines in {found.torn_files} files, {_size(found.torn_bytes)}",
    ]
    if found.problem is not None:
        lines += [f"the database cannot be read: {found.problem.message}", f"next: {found.problem.next_step}"]
    parts = ["\n".join(lines)]
    if found.rows:
        rows = tuple((table, _number(count)) for table, count in found.rows.items())
        parts.append(_text(Table(caption="in the database", columns=("table", "rows"), rows=rows, numeric=_RIGHT)))
    if found.spool:
        files = tuple(
            (f.name, "alive" if f.alive else "dead", _size(f.size_bytes), _number(f.waiting_rows), str(f.bad_lines))
            for f in found.spool
        )
        columns = ("file", "writer", "size", "rows", "bad_lines")
        parts.append(_text(Table(caption="in the spool", columns=columns, rows=files, numeric=_RIGHT)))
    return "\n\n".join(parts)


_RIGHT = frozenset({"rows", "size", "bad_lines"})


def _text(table: Any) -> str:
    return str(table.text())


def _verification(found: Verification) -> str:
    from workbench.show.tables import inline

    wrong = sum(finding.state == "wrong" for finding in found.findings)
    lines = [
        f"log {found.folder}",
        f"read {_number(found.rows)} rows, followed {found.references} columns of references",
        f"computed the hashes of {_number(found.texts)} texts and the checksums of {_number(found.lines)} spool lines",
    ]
    for finding in found.findings:
        lines.append(f"{finding.state:<5} {finding.check} {inline(finding.where)}: {inline(finding.message)}")
        lines.append(f"      next: {inline(finding.next_step)}")
    lines.append(f"{wrong} things are wrong" if wrong else "nothing is wrong")
    return "\n".join(lines)


def _collected(done: Collected) -> str:
    would = "would remove" if done.dry_run else "removed"
    rows = ", ".join(f"{table} {_number(count)}" for table, count in done.rows.items()) or "none"
    names = ", ".join(done.runs[:NAMES]) or "none"
    more = f" and {_number(len(done.runs) - NAMES)} more" if len(done.runs) > NAMES else ""
    lines = [
        f"{would} {len(done.runs)} runs: {names}{more}",
        f"rows: {rows}",
        f"texts that nothing refers to: {_number(done.texts)}; {_number(done.kept_texts)} more go with their writer",
        f"values of {_size(done.value_bytes)} before compression; {len(done.torn_files)} files of lines set aside",
        f"database: {_size(done.before_bytes)} before, {'about ' * done.dry_run}{_size(done.after_bytes)} after",
    ]
    if done.kept_bytes:
        lines.append(f"{_size(done.kept_bytes)} above --max-size: what is left has not ended, or belongs to no run")
    return "\n".join(lines)


def _number(count: int) -> str:
    return f"{count:,}"


def _size(count: int) -> str:
    """Bytes with the unit in which they are read most easily."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "B" else f"{count} B"
        size /= 1000
    return f"{size:.3g} TB"


def _time(unix_ns: int) -> str:
    return datetime.fromtimestamp(unix_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
