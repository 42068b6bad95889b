"""From names as users write them to members of a run.

`recorded:RECORDING/MODEL[/STYLE]`, `simulated:NAME`, and inside a run of a recording the bare model names of the
file, with `/STYLE` where a model was recorded in several. Unknown and ambiguous names are refused with the
choices.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workbench.act.recorded import RecordedModel
from workbench.act.simulated import PROFILES, Profile, SimulatedModel
from workbench.decide.weights import closest
from workbench.errors import LLMRouterError, LLMValidationError
from workbench.facts import Item, Model, Recorded
from workbench.study.run import Member

if TYPE_CHECKING:
    from workbench.session.live import Live

Named = str | Profile | Model
POOL = ("simulated:strong", "simulated:medium", "simulated:weak")


def check_kinds(models: object, **mappings: object) -> None:
    """Refuse models that are no list, and what is neither a mapping nor left out.

    Raises LLMValidationError validation.models, validation.config.
    """
    if isinstance(models, str | bytes) or not isinstance(models, Sequence):
        raise LLMValidationError(
            f"models are {models!r:.60}, not a list",
            code="validation.models",
            next_step="name the models in a list, such as ['small', 'large']",
        )
    for name, given in mappings.items():
        if given is not None and not isinstance(given, Mapping):
            raise LLMValidationError(
                f"{name} are a {type(given).__name__}, not a mapping",
                code="validation.config",
                next_step=f"give {name} as a mapping by name, or leave them out",
            )


def unknown_model(name: str, known: Iterable[str], where: str) -> LLMRouterError:
    """The refusal of a name, with the closest one and all choices."""
    choices = list(known)
    hint = closest(name, choices)
    return LLMRouterError(
        f"unknown model {name!r} in {where}; choose from: {', '.join(choices)}",
        code="router.unknown_model",
        model=name,
        next_step=f"did you mean {hint!r}?" if hint else "name one of the models listed",
    )


def recorded_members(recording: str, rows: Sequence[Recorded], names: Sequence[str] | None) -> list[Member]:
    """Members for the named models of a recording, in the order named; all of them when `names` is None.

    Raises LLMRouterError router.unknown_model or router.ambiguous_model, with the choices.
    """
    groups: dict[tuple[str, str], list[Recorded]] = {}
    for row in rows:
        groups.setdefault((row.model, row.prompt_style), []).append(row)
    styles: dict[str, list[str]] = {}
    for model, style in groups:
        styles.setdefault(model, []).append(style)
    shown = {(m, s): m if len(styles[m]) == 1 else f"{m}/{s}" for m, s in groups}
    chosen = list(groups) if names is None else [k for n in names for k in _match(n, shown, styles, recording)]
    return [
        Member(name=shown[m, s], model=RecordedModel.of(groups[m, s]), style=s, recorded_as=m)
        for m, s in dict.fromkeys(chosen)
    ]


def _match(
    name: str, shown: Mapping[tuple[str, str], str], styles: Mapping[str, Sequence[str]], recording: str
) -> list[tuple[str, str]]:
    bare = name.removeprefix(f"recorded:{recording}/")
    exact = [key for key in shown if bare in (shown[key], f"{key[0]}/{key[1]}")]
    if exact:
        return exact
    if len(styles.get(bare, ())) > 1:
        choices = [f"{bare}/{style}" for style in styles[bare]]
        raise LLMRouterError(
            f"model {bare!r} was recorded in {len(choices)} prompt styles in {recording}: {', '.join(choices)}",
            code="router.ambiguous_model",
            model=bare,
            next_step=f"name one of them, such as {choices[0]!r}",
        )
    globbed = [key for key in shown if fnmatch.fnmatchcase(shown[key], bare)] if set(bare) & set("*?[") else []
    if globbed:
        return globbed
    raise unknown_model(name, shown.values(), recording)


def other_member(
    named: Named, key: Mapping[str, Item], profiles: Mapping[str, Profile], live: Callable[[], Live]
) -> Member:
    """A member for a simulated or live model, a profile, or any object with `name` and `complete`.

    live: gives the live models; called only for names that are none of the others'.
    """
    if isinstance(named, Profile):
        return Member(name=f"simulated:{named.name}", model=SimulatedModel(named, key))
    if not isinstance(named, str):
        if not (isinstance(getattr(named, "name", None), str) and callable(getattr(named, "complete", None))):
            raise LLMValidationError(
                f"{named!r} is neither a model name nor an object with `name` and `complete(request)`",
                code="validation.models",
                next_step="pass a name such as simulated:strong, a Profile, or a Model",
            )
        return Member(name=named.name, model=named)
    kind, _, bare = named.partition(":")
    if kind == "simulated" and bare in profiles:
        return Member(name=named, model=SimulatedModel(profiles[bare], key))
    simulated = [f"simulated:{p}" for p in profiles]
    if kind in ("simulated", "recorded"):
        raise unknown_model(named, simulated, "the models that can be called here")
    models = live()
    full = models.loaded.resolve(named)
    if full.partition(":")[0] == "simulated" and full != named:
        return replace(other_member(full, key, profiles, live), name=named)
    if not models.knows(named):
        known = [*simulated, *models.loaded.aliases, *models.loaded.cards]
        raise unknown_model(named, known, "the models that can be called here")
    # Without fallbacks: another model's answers would count as this one's.
    return Member(name=named, model=models.chain_of([models.model(full)]))


def _is_callable(name: str, live: Callable[[], Live]) -> bool:
    """Whether a name inside a run of a recording means a model that is called, and none of the recording's."""
    kind, colon, _ = name.partition(":")
    return kind == "simulated" or (bool(colon) and kind != "recorded" and live().knows(name))


def members_of(
    names: Sequence[Named] | None,
    *,
    recording: str | None,
    rows: Callable[[], Sequence[Recorded]],
    key: Mapping[str, Item],
    live: Callable[[], Live],
    profiles: Mapping[str, Profile] = PROFILES,
) -> list[Member]:
    """The members of a run, in the order named.

    Without names a recording is answered by all its models, a suite by the simulated pool. Raises
    LLMRouterError for unknown or ambiguous names and LLMValidationError for a model named twice.
    """
    if names is None:
        if recording is not None:
            return recorded_members(recording, rows(), None)
        names = POOL
    found: list[Member] = []
    for named in names:
        if isinstance(named, str) and recording is not None and not _is_callable(named, live):
            found.extend(recorded_members(recording, rows(), [named]))
        else:
            found.append(other_member(named, key, profiles, live))
    seen: dict[str, Any] = {}
    for member in found:
        if member.name in seen:
            raise LLMValidationError(
                f"model {member.name!r} is named twice",
                code="validation.models",
                next_step="name every model once",
            )
        seen[member.name] = member
    return found


def source_of(member: Member) -> str:
    """What the answers of a member count as: simulated, recorded or live."""
    if member.recorded_as is not None:
        return "recorded"
    return "simulated" if member.model.name.startswith("simulated:") else "live"
