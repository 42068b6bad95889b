"""How a workbench reaches the lab: addresses, providers, cards, and the lines of a configuration file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from workbench.act.provider import WIRES, Provider, Wire
from workbench.errors import LLMValidationError
from workbench.facts import ModelCard

if TYPE_CHECKING:
    from workbench.act.simulated import Profile
    from workbench.session.settings import Loaded
    from workbench.session.workbench import Workbench

# What follows the address in base_url, as the real services have it.
PATHS: Mapping[Wire, str] = MappingProxyType({"openai": "/v1", "anthropic": "", "gemini": "/v1beta"})
NAMES: Mapping[Wire, str] = MappingProxyType({"openai": "lab", "anthropic": "lab-anthropic", "gemini": "lab-gemini"})
ADDRESSES = ("net-refused", "net-dns", "net-tls", "net-tls-plain")
SOURCE = "simulated: the profile of the model"


class Reachable(Protocol):
    """What is asked of a lab here."""

    @property
    def profiles(self) -> Mapping[str, Profile]:
        """The models by name."""

    def base_url(self, wire: Wire = "openai", *, fault: str | None = None) -> str:
        """The base_url for a wire format, or of an address with a fault."""


def host_of(host: str) -> str:
    """The host to connect to, for one that is listened on, as it stands in an address."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def path_of(wire: Wire) -> str:
    """The path of base_url; LLMValidationError validation.config for an unknown wire format."""
    if wire not in PATHS:
        raise LLMValidationError(
            f"wire {wire!r} is not one of {', '.join(WIRES)}",
            code="validation.config",
            next_step="use openai, anthropic or gemini",
        )
    return PATHS[wire]


def providers(lab: Reachable, addresses: Sequence[str]) -> dict[str, Provider]:
    """The lab's providers by name; none takes a key."""
    found = [Provider(name=NAMES[w], wire=w, base_url=lab.base_url(w), auth="none") for w in WIRES]
    for fault in addresses:
        url = lab.base_url(fault=fault)
        found.append(Provider(name=f"lab-{fault}", wire="openai", base_url=url, auth="none"))
    return {provider.name: provider for provider in found}


def cards(lab: Reachable, addresses: Sequence[str]) -> dict[str, ModelCard]:
    """The models' prices by `provider:model`."""
    names = [*NAMES.values(), *(f"lab-{fault}" for fault in addresses)]
    made = [
        ModelCard(
            name=f"{name}:{p.name}",
            prompt_usd_per_mtok=p.prompt_usd_per_mtok,
            completion_usd_per_mtok=p.completion_usd_per_mtok,
            source=SOURCE,
        )
        for name in names
        for p in lab.profiles.values()
    ]
    return {card.name: card for card in made}


def toml(lab: Reachable, addresses: Sequence[str]) -> str:
    """The lines of workbench.toml."""
    lines = ["# The fault lab: everything behind these addresses is simulated."]
    for provider in providers(lab, addresses).values():
        lines += [f"[providers.{provider.name}]", f'wire = "{provider.wire}"', f'base_url = "{provider.base_url}"', ""]
    for card in cards(lab, addresses).values():
        lines += [
            f"[models.{json.dumps(card.name)}]",
            f"prompt_usd_per_mtok = {card.prompt_usd_per_mtok}",
            f"completion_usd_per_mtok = {card.completion_usd_per_mtok}",
            "",
        ]
    return "\n".join(lines)


def loaded(lab: Reachable, addresses: Sequence[str], settings: Mapping[str, Any]) -> Loaded:
    """The configuration in force and the lab in it."""
    from workbench.session.cards import Catalog
    from workbench.session.settings import load_settings

    base = load_settings(overrides=settings)
    catalog = Catalog(
        cards=MappingProxyType({**base.cards, **cards(lab, addresses)}), aliases=MappingProxyType(dict(base.aliases))
    )
    known = MappingProxyType({**base.providers, **providers(lab, addresses)})
    return replace(base, providers=known, catalog=catalog)


def workbench(
    lab: Reachable,
    log: str | os.PathLike[str] | None,
    models: Sequence[Any] | None,
    addresses: Sequence[str],
    settings: Mapping[str, Any],
) -> Workbench:
    """A workbench whose configuration has the lab in it."""
    from workbench.session.workbench import Workbench

    given = dict(settings)
    return Workbench.open(
        log,
        models=[f"lab:{name}" for name in lab.profiles] if models is None else models,
        durability=given.pop("durability", None),  # None as for Workbench.open: as configured
        loaded=loaded(lab, addresses, given),
    )


def listed(lab: Reachable, wire: Wire) -> dict[str, Any]:
    """The answer to a question for the list of models, as the format writes it."""
    names = list(lab.profiles)
    if wire == "gemini":
        made = [{"name": f"models/{n}", "displayName": f"{n} (simulated)"} for n in names]
        return {"models": [{**m, "supportedGenerationMethods": ["generateContent"]} for m in made]}
    if wire == "anthropic":
        found = [{"type": "model", "id": n, "display_name": f"{n} (simulated)"} for n in names]
        return {"data": found, "has_more": False, "first_id": names[0], "last_id": names[-1]}
    return {"object": "list", "data": [{"id": n, "object": "model", "owned_by": "simulated"} for n in names]}
