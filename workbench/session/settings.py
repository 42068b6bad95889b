"""Settings: one table of them, and for each value where it came from.

    argument  >  environment WORKBENCH_<NAME>  >  workbench.toml  >  default

The same file declares providers, models, short names and failover chains. It is `$WORKBENCH_CONFIG`, or
workbench.toml at the repository root in a checkout and in the working directory of an installed package. It holds
names of keys and never a key. Whatever cannot be used is refused before anything is sent, with its place.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from workbench.act.provider import Provider
from workbench.facts import ModelCard
from workbench.session.cards import Catalog, card_of, catalog_of, failover_of
from workbench.session.discipline import discipline_of, limits_of
from workbench.session.places import root
from workbench.session.providers import providers_of
from workbench.session.rules import check_keys, check_table, refusal, shown
from workbench.session.table import GROUPS, SETTINGS, Setting, Settings

__all__ = ["SETTINGS", "Loaded", "Provider", "Setting", "Settings", "config_file", "load_settings", "markdown"]

TABLES = ("providers", "models", "aliases", "failover")
# Variables of this package that are no settings.
OTHER_VARIABLES = ("WORKBENCH_CONFIG", "WORKBENCH_LOG", "WORKBENCH_RECORDINGS", "WORKBENCH_TRACING")


def set_log_level(settings: Settings) -> None:
    """Give the loggers `workbench.*` the configured level, if there is one."""
    if settings.log_level is not None:
        logging.getLogger("workbench").setLevel(settings.log_level.upper())


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The configuration as it is in force.

    origins: setting -> "argument", "WORKBENCH_TIMEOUT_S", "workbench.toml [call] timeout_s" or "default".
    providers: by name. cards, aliases: see session/cards.py. failover: model -> models that take over, in order.
    file: the configuration file that was read, or None.
    """

    settings: Settings
    origins: Mapping[str, str]
    providers: Mapping[str, Provider]
    catalog: Catalog
    failover: Mapping[str, tuple[str, ...]]
    file: Path | None

    @property
    def cards(self) -> Mapping[str, ModelCard]:
        """The listed models' cards by `provider:model`."""
        return self.catalog.cards

    @property
    def aliases(self) -> Mapping[str, str]:
        """Short name -> `provider:model`."""
        return self.catalog.aliases

    def resolve(self, name: str) -> str:
        """The model's full name; a name that is no short name is its own."""
        return self.aliases.get(name, name)

    def card(self, name: str) -> ModelCard:
        """The card of a model, by full or short name; figures are None where unknown.

        Raises LLMRouterError router.unknown_model for a name without a known provider.
        """
        return card_of(name, self.catalog, self.providers)


def load_settings(
    *, overrides: Mapping[str, Any] | None = None, file: Path | None = None, env: Mapping[str, str] | None = None
) -> Loaded:
    """The configuration in force; no file is no error unless it was named.

    overrides: settings by name, as a caller gave them. file: default see `config_file`. env: default os.environ.
    Raises LLMValidationError: validation.config, validation.budget, security.url.
    """
    environment = os.environ if env is None else env
    path = config_file(environment) if file is None else Path(file)
    data = {} if path is None else _read(path)
    label = path.name if path is not None else "workbench.toml"
    check_keys(data, [*GROUPS, *TABLES], label)
    given = dict(overrides or {})
    check_keys(given, SETTINGS, "the call")
    _check_variables(environment)
    groups = {group: check_table(data.get(group, {}), f"{label} [{group}]") for group in GROUPS}
    for group, table in groups.items():
        check_keys(table, [s.name for s in SETTINGS.values() if s.group == group], f"{label} [{group}]")
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, setting in SETTINGS.items():
        table = groups[setting.group]
        if name in given:
            origins[name], values[name] = "argument", setting.rule.check(given[name], f"argument {name}")
        elif environment.get(setting.variable, "").strip():
            origins[name] = setting.variable
            values[name] = setting.rule.parse(environment[setting.variable], setting.variable)
        elif name in table:
            origins[name] = f"{label} [{setting.group}] {name}"
            values[name] = setting.rule.check(table[name], origins[name])
        else:
            origins[name] = "default"
    providers = providers_of(data.get("providers", {}), file=path)
    catalog = catalog_of(data.get("models", {}), data.get("aliases", {}), providers=providers, label=label)
    settings = Settings(**values)
    discipline_of(settings)  # what does not go together is refused here, not by the first call
    limits_of(settings)
    return Loaded(
        settings=settings,
        origins=MappingProxyType(origins),
        providers=MappingProxyType(providers),
        catalog=catalog,
        failover=failover_of(data.get("failover", {}), aliases=catalog.aliases, providers=providers, label=label),
        file=path,
    )


def config_file(env: Mapping[str, str]) -> Path | None:
    """The file that WORKBENCH_CONFIG names, else workbench.toml at its place when there is one."""
    named = env.get("WORKBENCH_CONFIG", "").strip()
    if named:
        return Path(named).expanduser()
    usual = root() / "workbench.toml"
    return usual if usual.exists() else None


def _check_variables(environment: Mapping[str, str]) -> None:
    """Refuse a variable that is nearly a setting: a mistyped budget must not be no budget."""
    known = [*(setting.variable for setting in SETTINGS.values()), *OTHER_VARIABLES]
    for name in environment:
        if name.startswith("WORKBENCH_") and name not in known:
            # Variables that are like no setting may belong to another program of that name.
            near = difflib.get_close_matches(name.removeprefix("WORKBENCH_").lower(), SETTINGS, n=1, cutoff=0.75)
            if near:
                step = f"did you mean {SETTINGS[near[0]].variable}? unset {name} otherwise"
                raise refusal(f"the environment has {shown(name)}, which is no setting", step)


def _read(path: Path) -> dict[str, Any]:
    """The file's tables."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        why = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise refusal(f"{path} cannot be read: {why}", "correct WORKBENCH_CONFIG, or unset it") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", str(error))
        line = int(found[1]) if found and found[1] else max(1, len(text.splitlines()))
        what = str(error)[: found.start()] if found else str(error)
        step = f"correct line {line}; docs/reference/settings.md has the form"
        raise refusal(f"{path}:{line}: not TOML: {what}", step) from None


def markdown() -> str:
    """The table of the settings for docs/reference/settings.md."""
    lines = ["| setting | in | default | may be | means |", "|---|---|---|---|---|"]
    for setting in SETTINGS.values():
        default = "none" if setting.default is None else str(setting.default).lower()
        cells = (f"`{setting.name}`", f"`[{setting.group}]`", default, setting.rule.allowed, setting.help)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
