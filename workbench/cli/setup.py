"""The commands around a machine's setup: config show, doctor. Neither asks anything of the network."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from workbench.cli.output import JsonOption, LogOption, log_folder, put, wants_json

if TYPE_CHECKING:
    from workbench.session.settings import Loaded


def config_show(context: typer.Context, log: LogOption = None, as_json: JsonOption = False) -> None:
    """Show every setting with its value and origin, and the providers with the state of their keys."""
    from workbench.session.doctor import key_of
    from workbench.session.settings import load_settings

    as_json = wants_json(context, as_json)
    loaded = load_settings()
    keys = {name: str(key_of(provider, os.environ)) for name, provider in loaded.providers.items()}
    document = {
        "file": None if loaded.file is None else str(loaded.file),
        "log": str(log_folder(context, log)),
        "settings": {
            name: {"value": getattr(loaded.settings, name), "origin": origin} for name, origin in loaded.origins.items()
        },
        "providers": [_provider(loaded, name, keys[name]) for name in loaded.providers],
        "aliases": dict(loaded.aliases),
        "failover": {name: list(chain) for name, chain in loaded.failover.items()},
    }
    put(document, "" if as_json else _tables(document), as_json)


def _provider(loaded: Loaded, name: str, key: str) -> dict[str, Any]:
    provider = loaded.providers[name]
    plain = ("name", "wire", "base_url", "auth", "requests_per_minute", "tokens_per_minute", "concurrency", "local")
    # Of headers and parameters the names are enough: their values are nobody else's business.
    return {
        **{field: getattr(provider, field) for field in plain},
        "key": key,
        "headers": sorted(provider.headers),
        "query": sorted(provider.query),
    }


def _tables(document: dict[str, Any]) -> str:
    from workbench.show.tables import Table

    settings = tuple((name, _shown(s["value"]), s["origin"]) for name, s in document["settings"].items())
    providers = tuple((p["name"], p["wire"], p["base_url"], p["key"]) for p in document["providers"])
    chains = tuple(f"failover {name}: {', '.join(chain)}" for name, chain in document["failover"].items())
    aliases = tuple(f"alias {alias}: {name}" for alias, name in document["aliases"].items())
    parts = (
        Table(
            caption=f"configuration file: {document['file'] or 'none'}; log: {document['log']}",
            columns=("setting", "value", "origin"),
            rows=settings,
            numeric=frozenset({"value"}),
        ),
        Table(
            caption="providers",
            columns=("provider", "wire", "base_url", "key"),
            rows=providers,
            notes=aliases + chains,
        ),
    )
    return "\n\n".join(table.text() for table in parts)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def doctor(context: typer.Context, log: LogOption = None, as_json: JsonOption = False) -> None:
    """Say what is set up, what is missing, and the next step for each; exit code 1 when something is broken."""
    from workbench.session.doctor import examine
    from workbench.show.tables import inline

    as_json = wants_json(context, as_json)
    found = examine(Path(log_folder(context, log)), env=os.environ)
    broken = [finding.name for finding in found if finding.state == "broken"]
    lines = []
    for finding in found:
        lines.append(f"{finding.state:<8} {finding.name}: {inline(finding.message)}")
        if finding.next_step:
            lines.append(f"{'':<8} next: {inline(finding.next_step)}")
    lines.append(f"broken: {', '.join(broken)}" if broken else "everything needed to work offline is there")
    put({"ok": not broken, "findings": [asdict(finding) for finding in found]}, "\n".join(lines), as_json)
    if broken:
        raise typer.Exit(1)
