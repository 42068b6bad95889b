"""The commands around tokens: count, fetch, status. Only `fetch` asks anything of the network."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.cli.output import JsonOption, put, wants_json
from workbench.decide.tokens import ENCODINGS

tokens_app = typer.Typer(
    help="Count tokens, and the vocabularies to count them with.", no_args_is_help=True, rich_markup_mode=None
)


@tokens_app.command()
def count(
    context: typer.Context,
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Texts; - or none: stdin.")] = None,
    model: Annotated[str | None, typer.Option(help="provider:model or a short name.")] = None,
    exact: Annotated[
        bool | None, typer.Option("--exact/--estimate", help="Fail where the count is not exact, or never count.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Count the tokens of texts: exactly where the model's vocabulary is here, else as an estimate with its band."""
    from workbench.session.tokens import TokenCounter

    as_json = wants_json(context, as_json)
    counter = TokenCounter(exact=exact)
    named = files or [Path("-")]
    counts = {file: counter.count(_read(file), model) for file in dict.fromkeys(named)}  # stdin can be read once
    found = [{"file": str(file), **asdict(counts[file])} for file in named]
    put(found[0] if len(found) == 1 else {"counts": found}, "\n".join(map(_line, found)), as_json)


def _read(file: Path) -> str:
    """A text in UTF-8; bytes that are none count as one character each."""
    content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    return content.decode("utf-8", "replace")


def _line(entry: dict[str, Any]) -> str:
    band = f", {entry['low']} to {entry['high']}" if entry["low"] < entry["high"] else ""
    return f"{entry['count']} tokens ({entry['method']}{band})  {entry['file']}"


@tokens_app.command()
def fetch(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[ENCODING]...", help="Default: all.")] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder [TIKTOKEN_CACHE_DIR, or your own for the workbench].")
    ] = None,
    base: Annotated[str | None, typer.Option(metavar="URL", help="Another folder of the web with the files.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Download vocabularies from where tiktoken takes them, each proved by its SHA-256; intact ones are left alone."""
    from workbench.act import vocab

    as_json = wants_json(context, as_json)
    found = {name: str(vocab.fetch(name, to, base=base).path) for name in names or ENCODINGS}
    put(found, "\n".join(f"{name}: {path}" for name, path in found.items()), as_json)


@tokens_app.command()
def status(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show where vocabularies are looked for, and which of them can be used."""
    from workbench.act import vocab

    as_json = wants_json(context, as_json)
    folders = vocab.folders()
    encodings, lines = {}, ["looked for in", *(f"  {folder}" for folder in folders)]
    for name in ENCODINGS:
        files = list(vocab.files_of(name, folders))
        exact = not all(file.problem for file in files)
        listed = [{"path": str(file.path), "problem": file.problem or None} for file in files]
        encodings[name] = {"exact": exact, "files": listed}
        lines.append(f"{name}: {'counted exactly' if exact else 'estimated'}")
        lines += [f"  {file.path} {file.problem or 'is intact'}" for file in files]
        if not exact:
            lines.append(f"  next: {vocab.INSTALL}, or run `workbench tokens fetch {name}`")
    put({"folders": [str(folder) for folder in folders], "encodings": encodings}, "\n".join(lines), as_json)
