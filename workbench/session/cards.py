"""What is known of live models: limits and prices from the bundled list, then from the configuration file.

Nothing here guesses. A model that is not listed has a card of unknowns, and an unknown price is None, never 0;
only models of a provider that runs on the user's own machines cost 0.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from graphlib import CycleError, TopologicalSorter
from types import MappingProxyType
from typing import Any

from workbench.act.provider import Provider
from workbench.decide.budget import LARGEST_PRICE
from workbench.decide.weights import closest
from workbench.errors import LLMError, LLMRouterError
from workbench.facts import ModelCard
from workbench.session.places import bundled
from workbench.session.providers import OFFLINE
from workbench.session.rules import Rule, check_table, read_fields, refusal, shown

__all__ = ["Catalog", "ModelCard", "bundled_catalog", "card_of", "catalog_of", "failover_of"]

_COUNT, _PRICE = Rule(kind="integer", low=1), Rule(kind="number", low=0, high=LARGEST_PRICE)
PRICES = ("prompt_usd_per_mtok", "completion_usd_per_mtok", "cached_usd_per_mtok")
FIELDS: Mapping[str, Rule] = MappingProxyType(
    {"context_window": _COUNT, "max_output_tokens": _COUNT, **dict.fromkeys(PRICES, _PRICE)}
)
_BUNDLED_FIELDS = {**FIELDS, "prices_up_to_tokens": _COUNT, "source": Rule(kind="text"), "date": Rule(kind="text")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The cards by model, and the short names.

    cards: `provider:model` -> card. aliases: short name -> `provider:model`.
    """

    cards: Mapping[str, ModelCard]
    aliases: Mapping[str, str]


@cache
def bundled_catalog() -> Catalog:
    """The catalog that comes with the package, data/models.toml; LLMError storage.missing without it."""
    file = bundled("models.toml")
    try:
        data = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise LLMError(
            f"the bundled list of models {file} cannot be read: {error.strerror or error}",
            code="storage.missing",
            next_step="install the package again, or clone the repository with its data/models.toml",
        ) from error
    cards = {
        name: ModelCard(name=name, **read_fields(entry, _BUNDLED_FIELDS, f"models.toml [models.{name!r}]"))
        for name, entry in data["models"].items()
    }
    return Catalog(
        cards=MappingProxyType(cards),
        aliases=MappingProxyType(dict(data["aliases"])),
    )


def catalog_of(
    models: Mapping[str, Any], aliases: Mapping[str, Any], *, providers: Mapping[str, Provider], label: str
) -> Catalog:
    """The bundled catalog with [models] and [aliases] of a configuration file over it.

    label: the file's name, for messages and as the source of its figures. Raises LLMValidationError
    validation.config for unknown providers and keys, and for figures that are none.
    """
    known = bundled_catalog()
    cards = dict(known.cards)
    for name, entry in check_table(models, f"{label} [models]").items():
        where = f"{label} [models.{shown(name)}]"
        _check_name(name, providers, where)
        given = read_fields(check_table(entry, where), FIELDS, where)
        card = cards.get(name, ModelCard(name=name))
        said = f"{label}: {', '.join(given)}" if card.source else label
        if set(given) & set(PRICES):
            card = replace(card, prices_up_to_tokens=None)
        cards[name] = replace(card, **given, source=f"{card.source}; {said}" if card.source else said)
    short = dict(known.aliases)
    for alias, target in check_table(aliases, f"{label} [aliases]").items():
        where = f"{label} [aliases] {shown(alias)}"
        if not alias.strip() or ":" in alias or not alias.isprintable():
            raise refusal(f"{where} cannot be a short name", "use a name without a colon, such as gpt4")
        _check_name(target, providers, where, offline=True)
        short[alias] = target
    return Catalog(
        cards=MappingProxyType(cards),
        aliases=MappingProxyType(short),
    )


def _check_name(name: Any, providers: Mapping[str, Provider], where: str, *, offline: bool = False) -> None:
    """Refuse what is not `provider:model` with a known provider; `offline` lets recorded and simulated ones in."""
    choices = [*providers, *(OFFLINE if offline else ())]
    provider, _, model = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not model.strip() or not model.isprintable():
        raise refusal(f"{where}: {shown(name)} is not of the form provider:model", "write, for example, openai:gpt-4o")
    if provider not in choices:
        hint = closest(provider, choices)
        step = f"did you mean {hint!r}?" if hint else f"add [providers.{provider}], or use one of {', '.join(choices)}"
        raise refusal(f"{where}: {shown(name)} names an unknown provider", step)


def failover_of(
    table: Mapping[str, Any], *, aliases: Mapping[str, str], providers: Mapping[str, Provider], label: str
) -> Mapping[str, tuple[str, ...]]:
    """Model -> the models that take over when it fails, in order; short names are written out.

    Raises LLMValidationError validation.config for names that are none, a model that stands twice, and a cycle.
    """
    where = f"{label} [failover]"
    chains: dict[str, tuple[str, ...]] = {}
    for name, chain in check_table(table, where).items():
        if not isinstance(chain, list) or not chain:
            raise refusal(f"{where} {shown(name)} is {shown(chain)}, not a list of models", 'write ["provider:model"]')
        full = [aliases.get(n, n) if isinstance(n, str) else n for n in [name, *chain]]
        for model in full:
            _check_name(model, providers, f"{where} {shown(name)}", offline=True)
        if full[0] in chains or len(set(full[1:])) < len(full) - 1:
            raise refusal(f"{where} {shown(name)} names a model twice", "name every model of a chain once")
        chains[full[0]] = tuple(full[1:])
    try:
        TopologicalSorter(chains).prepare()
    except CycleError as error:
        path = " -> ".join(_forward(error.args[1], chains))
        raise refusal(f"{where} goes in a circle: {path}", "take one of these models out of its chain") from None
    return MappingProxyType(chains)


def _forward(cycle: Sequence[str], chains: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The cycle in the order in which models would take over."""
    return cycle if cycle[1] in chains.get(cycle[0], ()) else cycle[::-1]


def card_of(name: str, catalog: Catalog, providers: Mapping[str, Provider]) -> ModelCard:
    """The card of a model of a known provider, without figures when the model is not listed.

    Raises LLMRouterError router.unknown_model for a name whose provider is unknown.
    """
    full = catalog.aliases.get(name, name)
    provider = providers.get(full.partition(":")[0])
    if provider is None or not full.partition(":")[2]:
        hint = closest(name, [*catalog.aliases, *catalog.cards])
        raise LLMRouterError(
            f"{shown(name)} is neither provider:model with a known provider ({', '.join(providers)}) nor a short name",
            code="router.unknown_model",
            next_step=f"did you mean {hint!r}?" if hint else "add the provider or the alias to workbench.toml",
            model=name,
        )
    card = catalog.cards.get(full, ModelCard(name=full))
    if provider.local and all(getattr(card, price) is None for price in PRICES):
        own = card.source or "runs on your own machines"
        return replace(card, prompt_usd_per_mtok=0.0, completion_usd_per_mtok=0.0, cached_usd_per_mtok=0.0, source=own)
    return card
