"""Asking a suite in several styles: every model under every rewriting of the prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from workbench.act.simulated import SimulatedModel
from workbench.decide.evidence import UNCHANGED
from workbench.decide.optimize import check_strategies
from workbench.decide.rewrite import rewrite
from workbench.errors import LLMValidationError
from workbench.facts import Model
from workbench.study.run import Member
from workbench.study.suite import Suite

NEEDS_EXAMPLES = "exemplify"


def styles_of(rewrites: Sequence[str]) -> tuple[str, ...]:
    """`unchanged`, which everything is compared with, and the strategies. Raises LLMValidationError."""
    given = (rewrites,) if isinstance(rewrites, str) else rewrites
    if not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise LLMValidationError(
            f"rewrites are {rewrites!r:.60}, not a list of strategies",
            code="validation.strategy",
            next_step="pass a list such as ['step_by_step', 'concise']",
        )
    wanted = check_strategies([name for name in given if name != UNCHANGED])
    if NEEDS_EXAMPLES in wanted:
        raise LLMValidationError(
            f"{NEEDS_EXAMPLES} needs examples, and a run has none",
            code="validation.strategy",
            next_step="leave it out here; a QueryOptimizer takes examples from its history",
        )
    return (UNCHANGED, *wanted)


def in_styles(suite: Suite, members: Sequence[Member], styles: Sequence[str]) -> tuple[Suite, list[Member]]:
    """The suite with the prompts of every strategy, and every member once for each and once unchanged, as MODEL/STYLE.

    A strategy that finds nothing to change in a prompt asks it as it is. Simulated models do not read prompts: they
    know the rewritten ones as they know the items. Raises LLMValidationError validation.rewrites for recorded models,
    and for simulated ones inside other objects.
    """
    if recorded := next((m.name for m in members if m.recorded_as is not None), None):
        raise LLMValidationError(
            f"{recorded} was recorded: what it would answer to a rewritten prompt is not known",
            code="validation.rewrites",
            next_step="name live or simulated models, or run the recording's own prompt styles without rewrites",
        )
    for member in members:
        if member.model.name.startswith("simulated:") and not isinstance(member.model, SimulatedModel):
            raise LLMValidationError(
                f"{member.name} is a {type(member.model).__name__}: a simulated model in it cannot be told the style",
                code="validation.rewrites",
                next_step="name the simulated model itself, or give the object another name",
            )
    prompts = {style: {item.item_id: _asked(item.prompt, style, item.task) for item in suite.items} for style in styles}
    found = [
        replace(m, name=f"{m.name}/{s}", style=s, model=_knowing(m, s, prompts[s])) for m in members for s in styles
    ]
    return replace(suite, prompts={**suite.prompts, **prompts}), found


def _asked(prompt: str, style: str, task: str) -> str:
    return prompt if style == UNCHANGED else rewrite(prompt, style, task=task).text


def _knowing(member: Member, style: str, prompts: Mapping[str, str]) -> Model:
    """The member's model; a simulated one with the items as they are asked now, and told the style."""
    model = member.model
    if not isinstance(model, SimulatedModel):
        return model
    key = {i: replace(item, prompt=prompts.get(i, item.prompt)) for i, item in model.key.items()}
    return replace(model, key=key, style=style)


def before_styles(models: Sequence[str], styles: Sequence[str]) -> list[str]:
    """The models of a run in styles, each once, from the names of its members."""
    found = (name.removesuffix(f"/{style}") for name in models for style in styles if name.endswith(f"/{style}"))
    return list(dict.fromkeys(found))
