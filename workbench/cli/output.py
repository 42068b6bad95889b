"""What every command shares: the two options, the result on stdout, and everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from workbench.session.workbench import Workbench

LogOption = Annotated[
    Path | None, typer.Option("--log", metavar="DIR", help="Log folder [WORKBENCH_LOG, or data/log].")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def fail(document: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print a failure: its document on stdout when JSON is wanted, its words on stderr."""
    if as_json:
        with contextlib.suppress(OSError):  # where standard output is what failed, the text below still tells
            put(document, "", True)
    say(text)


def wants_json(context: typer.Context, as_json: bool) -> bool:
    """Whether --json stands before or after the command."""
    return bool(as_json or (context.find_root().obj or {}).get("json"))


def _named_log(context: typer.Context, log: Path | None) -> Path | None:
    """The log folder that --log names, the nearer one first."""
    return log or (context.find_root().obj or {}).get("log")


def open_workbench(context: typer.Context, log: Path | None) -> Workbench:
    """The workbench on the log folder that is meant."""
    from workbench.session.workbench import Workbench

    return Workbench.open(_named_log(context, log))


def log_folder(context: typer.Context, log: Path | None) -> Path:
    """The log folder that is meant, without opening it."""
    from workbench.session.places import default_log

    return _named_log(context, log) or default_log()


def put(document: Any, text: str, as_json: bool) -> None:
    """Print the result: the JSON document, or the text."""
    from workbench.show.tables import visible

    if as_json:
        typer.echo(json.dumps(_finite(document), default=str, allow_nan=False))
    elif text:
        typer.echo(visible(text))


def _finite(value: Any) -> Any:
    """The value with NaN and infinities as null, which JSON has no words for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def say(text: str) -> None:
    """Print on stderr, with control characters shown."""
    from workbench.show.tables import visible

    typer.echo(visible(text), err=True)
