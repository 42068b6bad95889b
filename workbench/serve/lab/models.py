"""The models of the lab: the simulated ones, asked with what a wire format has carried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from workbench.act.simulated import PROFILES, Profile, SimulatedModel
from workbench.decide.weights import closest
from workbench.errors import LLMRouterError, LLMValidationError
from workbench.facts import Item, Message, Request, Response
from workbench.session.places import suites as bundled_suites
from workbench.study.suite import Suite, read_suite

PREFIX = "simulated:"


def profiles_of(models: str | Profile | Iterable[str | Profile] | None) -> dict[str, Profile]:
    """The profiles by name; all bundled ones for None.

    models: profiles, or names with or without `simulated:`. Raises LLMRouterError router.unknown_model,
    LLMValidationError validation.models.
    """
    found: dict[str, Profile] = {}
    if isinstance(models, str | Profile):
        models = [models]
    for named in PROFILES if models is None else models:
        profile = named if isinstance(named, Profile) else PROFILES.get(named.removeprefix(PREFIX))
        if profile is None:
            hint = closest(str(named), list(PROFILES))
            raise LLMRouterError(
                f"there is no simulated model {named!r}, only {', '.join(PROFILES)}",
                code="router.unknown_model",
                next_step=f"did you mean {hint!r}?" if hint else "name one of them, or pass a Profile",
            )
        if profile.name in found:
            raise LLMValidationError(
                f"the model {profile.name!r} is named twice",
                code="validation.models",
                next_step="name every model once",
            )
        found[profile.name] = profile
    if not found:
        raise LLMValidationError(
            "a lab without models answers nothing", code="validation.models", next_step="name at least one model"
        )
    return found


def items_of(suites: str | Suite | Iterable[str | Suite] | None) -> dict[str, Item]:
    """The items by prompt; of all bundled suites for None. Raises LLMRouterError router.unknown_suite."""
    bundled = bundled_suites()
    if isinstance(suites, str | Suite):
        suites = [suites]
    items: dict[str, Item] = {}
    for named in bundled if suites is None else suites:
        if isinstance(named, str) and named not in bundled:
            raise LLMRouterError(
                f"there is no bundled suite {named!r}, only {', '.join(bundled)}",
                code="router.unknown_suite",
                next_step="name one of them, or pass a Suite",
            )
        suite = read_suite(bundled[named]) if isinstance(named, str) else named
        for item in suite.items:
            items.setdefault(item.prompt, item)
    return items


class Models:
    """The models by name, and the items that they know by prompt."""

    def __init__(self, profiles: Mapping[str, Profile], items: Mapping[str, Item]) -> None:
        self.profiles, self.items = profiles, items

    async def response(self, name: str, messages: Sequence[Message]) -> Response:
        """What the model says to a conversation, as it says it when it is called in-process.

        An item is told by its prompt, the last message of the user. Raises LLMProviderError with the profile's
        probability of failure.
        """
        asked = Request(messages=tuple(messages))
        item = self.items.get(asked.prompt)
        if item is None:
            return await SimulatedModel(self.profiles[name]).complete(asked)
        asked = Request(messages=tuple(messages), task=item.task, item_id=item.item_id)
        return await SimulatedModel(self.profiles[name], {item.item_id: item}).complete(asked)
