"""What is set up and what is missing on this machine, each with the next step; nothing is asked of the network.

A finding is `broken` when it stops offline work or would stop every call (a log that cannot be written, a
configuration or a key that cannot be used), `missing` when something optional is not there, `warning` when what
is there is probably not meant. Looking changes nothing: a log folder that does not exist yet is not made.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from workbench.act.provider import Provider
from workbench.act.secret import read_key
from workbench.act.vocab import files_of, folders
from workbench.decide.tokens import ENCODINGS
from workbench.errors import LLMError
from workbench.session.places import recordings, suites
from workbench.session.providers import BUILT_IN, is_loopback
from workbench.session.settings import OTHER_VARIABLES, SETTINGS, Loaded, load_settings

State = Literal["ok", "missing", "warning", "broken"]
KeyState = Literal["set", "missing", "unusable", "not needed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line: what was looked at, how it is, and what to do about it (empty when nothing)."""

    name: str
    state: State
    message: str
    next_step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFound:
    """Whether a provider's key is there. place: its variable or file, "" without one; message: what is wrong."""

    state: KeyState
    place: str
    message: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.state}" if self.place else self.state


def key_of(provider: Provider, env: Mapping[str, str]) -> KeyFound:
    """Whether the provider's key is there and could be sent; the key itself goes no further."""
    if provider.auth == "none":
        return KeyFound(state="not needed", place="")
    place = " or ".join(filter(None, (provider.key_env, provider.key_file)))
    try:
        key = read_key(env=provider.key_env, file=provider.key_file, environ=env)
    except LLMError as error:
        return KeyFound(state="unusable", place=place, message=error.message)
    return KeyFound(state="missing", place=place) if key is None else KeyFound(state="set", place=key.origin)


def examine(log: Path, *, env: Mapping[str, str]) -> tuple[Finding, ...]:
    """Everything that was looked at, in the order in which it matters for a first run offline.

    log: the log folder. env: the environment, for settings and keys.
    """
    loaded, config = _config(env)
    providers = BUILT_IN if loaded is None else loaded.providers
    found = [_python(), _duckdb(), _suites(), _log(log), config, *_variables(env), _recordings(), _vocabulary(env)]
    return (*found, *(_provider(provider, env) for provider in providers.values()))


def _python() -> Finding:
    # An older Python does not get as far as this line: the package's syntax and metadata refuse it.
    return Finding(name="python", state="ok", message=f"Python {platform.python_version()} on {platform.system()}")


def _duckdb() -> Finding:
    step = "install the package again: pip install --force-reinstall workbench"
    try:
        version = metadata.version("duckdb")
    except metadata.PackageNotFoundError:
        return Finding(name="duckdb", state="broken", message="DuckDB is not installed", next_step=step)
    if int(version.partition(".")[0]) < 2:
        message = f"DuckDB {version} is older than 2.0"
        return Finding(name="duckdb", state="broken", message=message, next_step=step)
    return Finding(name="duckdb", state="ok", message=f"DuckDB {version}")


def _suites() -> Finding:
    names = list(suites())
    if names:
        return Finding(name="suites", state="ok", message=f"bundled: {', '.join(names)}")
    step = "install the package again, or clone the repository with its data/suites"
    return Finding(name="suites", state="broken", message="no bundled suite was found", next_step=step)


def _log(folder: Path) -> Finding:
    if (folder / "workbench.duckdb").exists() or (folder / "spool").exists() or folder.is_file():
        from workbench.record.log import Log

        try:
            Log.open(folder).close()
        except LLMError as error:
            return Finding(name="log", state="broken", message=error.message, next_step=error.next_step)
        return Finding(name="log", state="ok", message=f"{folder} can be written")
    above = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return Finding(name="log", state="ok", message=f"{folder} will be made by the first run")
    message, step = f"{folder} cannot be made in {above}", "make it writable, or choose another with WORKBENCH_LOG"
    return Finding(name="log", state="broken", message=message, next_step=step)


def _config(env: Mapping[str, str]) -> tuple[Loaded | None, Finding]:
    try:
        loaded = load_settings(env=env)
    except LLMError as error:
        return None, Finding(name="config", state="broken", message=error.message, next_step=error.next_step)
    own = sum(origin != "default" for origin in loaded.origins.values())
    where = f"{loaded.file} is valid" if loaded.file else "no workbench.toml, which is fine"
    return loaded, Finding(name="config", state="ok", message=f"{where}; {own} of {len(SETTINGS)} settings set")


def _variables(env: Mapping[str, str]) -> Iterator[Finding]:
    known = {*OTHER_VARIABLES, *(setting.variable for setting in SETTINGS.values())}
    for name in sorted(env):
        if name.startswith("WORKBENCH_") and name not in known:
            step = "see docs/reference/settings.md for the names, or unset it"
            yield Finding(name="environment", state="warning", message=f"{name} is no setting", next_step=step)


def _recordings() -> Finding:
    folder = recordings()
    count = len(list(folder.glob("*.parquet"))) if folder.is_dir() else 0
    if count:
        return Finding(name="recordings", state="ok", message=f"{count} files in {folder}")
    step = "put Parquet recordings there, or name their folder in WORKBENCH_RECORDINGS; the suites need none"
    return Finding(name="recordings", state="missing", message=f"no recordings in {folder}", next_step=step)


def _vocabulary(env: Mapping[str, str]) -> Finding:
    files = [file for name in ENCODINGS for file in files_of(name, folders(env))]
    damaged = [f"{file.path} {file.problem}" for file in files if file.problem]
    places = sorted({str(file.path.parent) for file in files if not file.problem})
    missing = [name for name in ENCODINGS if all(file.problem for file in files_of(name, folders(env)))]
    if not missing:
        return Finding(name="vocabulary", state="ok", message=f"tokens are counted with those in {', '.join(places)}")
    message = "; ".join([f"no vocabulary {', '.join(missing)}: tokens are estimated", *damaged])
    step = "pip install 'workbench[tokens]', or workbench tokens fetch, which downloads them"
    return Finding(name="vocabulary", state="warning" if damaged else "missing", message=message, next_step=step)


def _provider(provider: Provider, env: Mapping[str, str]) -> Finding:
    name, key = f"provider {provider.name}", key_of(provider, env)
    message = f"{key}; {provider.base_url}"
    url = urlsplit(provider.base_url)
    if key.state == "unusable":
        step = f"correct {key.place}, or unset it"
        return Finding(name=name, state="broken", message=key.message, next_step=step)
    if key.state == "missing":
        step = f"set {key.place} to call {provider.name}:MODEL; recorded and simulated models need no key"
        return Finding(name=name, state="missing", message=message, next_step=step[:160])
    if key.state == "set" and url.scheme == "http" and not is_loopback(url.hostname or ""):
        step = f"use https in base_url of [providers.{provider.name}]"
        return Finding(name=name, state="warning", message=f"{message}: the key travels unencrypted", next_step=step)
    return Finding(name=name, state="ok", message=message)
