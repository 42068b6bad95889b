"""The command `workbench log otel`: the log's spans to an OpenTelemetry receiver."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from workbench.cli.output import JsonOption, LogOption, log_folder, put, wants_json
from workbench.errors import LLMValidationError
from workbench.record.otel import EXACT

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def otel(
    context: typer.Context,
    endpoint: Annotated[str, typer.Option(metavar="URL", help="OTLP/HTTP receiver; /v1/traces is added.")],
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="Spans of one run only; latest for the newest.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Began since: 90m, 24h, 7d, or a date such as 2026-01-31T12:00.")
    ] = None,
    texts: Annotated[bool, typer.Option("--texts", help="Send prompts and answers too.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Send also what this receiver has taken before.")] = False,
    headers_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable with headers for it: NAME=VALUE[,NAME=VALUE].")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one request with its retries.")] = 30.0,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send the log's spans to an OpenTelemetry receiver, each once; texts stay here unless --texts is given."""
    from workbench.record.log import Log
    from workbench.record.status import require_log
    from workbench.session.otel import send_spans_sync

    as_json = wants_json(context, as_json)
    since_unix_ns = None if since is None else unix_ns_of(since, now=datetime.now(UTC))
    opened = Log.open(require_log(log_folder(context, log)))
    try:
        done = send_spans_sync(
            opened,
            endpoint,
            run_id=run,
            since_unix_ns=since_unix_ns,
            texts=texts,
            again=again,
            headers_env=headers_env,
            timeout_s=timeout,
        )
    finally:
        opened.close()
    put(done.as_dict(), str(done), as_json)


def unix_ns_of(when: str, *, now: datetime) -> int:
    """The moment that a text names, in nanoseconds since 1970: a time back from now (90m, 24h, 7d, 2w) or ISO 8601.

    A date without a zone is in UTC. Raises LLMValidationError validation.input for anything else, and for a time
    that the log's nanoseconds cannot tell.
    """
    text = when.strip()
    try:
        if found := re.fullmatch(r"([0-9]{1,9})([smhdw])", text):
            moment = now - timedelta(**{UNITS[found[2]]: int(found[1])})
        else:
            moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise LLMValidationError(
            f"--since {when[:40]!r} is neither a length of time nor a date",
            next_step="write 90m, 24h, 7d or 2w, or a date such as 2026-01-31 or 2026-01-31T12:00",
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since_1970 = moment - datetime(1970, 1, 1, tzinfo=UTC)
    unix_ns = (since_1970.days * 86_400 + since_1970.seconds) * 1_000_000_000 + since_1970.microseconds * 1000
    if unix_ns not in EXACT:
        raise LLMValidationError(
            f"--since {when[:40]!r} is a time before 1678 or after 2261, of which no log can have spans",
            next_step="leave --since out, or name a time such as 24h or 2026-01-31",
        )
    return unix_ns
