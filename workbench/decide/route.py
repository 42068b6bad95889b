"""Which of several models may take a request, and which of those does, by declared figures and measured latency.

A constraint removes models by name, so that an empty choice says what removed whom. An unknown figure never passes a
constraint on it: a model without a price is not cheap. Without history a latency is unknown, not 0: such models are
tried first, in the order given, because only that brings a figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from workbench.decide.budget import price_of
from workbench.decide.retry import checked
from workbench.errors import LLMRouterError, LLMValidationError
from workbench.facts import ModelCard, Route

Preference = Literal["listed", "cost", "latency"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model that may be chosen; latency_ms: the mean of its answered calls, None without any."""

    card: ModelCard
    latency_ms: float | None = None

    @property
    def name(self) -> str:
        """`provider:model`."""
        return self.card.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a request asks of a model, in tokens and US dollars.

    max_cost_usd: most that its worst case (all of max_tokens) may cost; None for any. min_context: tokens that the
    context window must have; None for any.
    Raises LLMValidationError validation.config for figures that are no finite numbers >= 0.
    """

    prompt_tokens: int = 0
    max_tokens: int = 0
    max_cost_usd: float | None = None
    min_context: int | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "max_tokens", "max_cost_usd", "min_context"):
            if getattr(self, name) is not None:
                checked(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class ByFigures:
    """The first candidate that meets the need, in the order preferred: as listed, cheapest or fastest first."""

    prefer: Preference = "listed"
    name: ClassVar[str] = "by_figures"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        if self.prefer not in get_args(Preference):
            raise LLMValidationError(
                f"prefer is {self.prefer!r}, not one of {', '.join(get_args(Preference))}",
                code="validation.config",
                next_step="use listed, cost or latency",
            )

    def __call__(self, candidates: Sequence[Candidate], need: Need) -> Route:
        """The route; its scores are what was compared: US dollars or milliseconds, the smaller the better.

        Raises LLMRouterError router.no_candidate that says which constraint removed which model.
        """
        removed = {c.name: why for c in candidates if (why := _removed(c, need)) is not None}
        left = [c for c in candidates if c.name not in removed]
        if not left:
            told = "; ".join(f"{name}: {why}" for name, why in removed.items()) or "there are none"
            raise LLMRouterError(
                f"no model of {len(candidates)} can take the request: {told}",
                next_step="raise max_cost_usd, lower min_context or max_tokens, or add a model",
            )
        figures = {c.name: self._figure(c, need) for c in left}
        ranked = sorted(left, key=lambda c: self._rank(figures[c.name]))
        chosen = ranked[0].name
        figure = figures[chosen]
        reason = f"first of {len(left)} by {self.prefer}" + ("" if figure is None else f" ({figure:.6g})")
        return Route(
            models=(chosen,),
            ensemble=False,
            scores={name: value for name, value in figures.items() if value is not None},
            propensity=1.0,
            reason=reason + (f"; removed: {', '.join(removed)}" if removed else ""),
        )

    def _figure(self, candidate: Candidate, need: Need) -> float | None:
        if self.prefer == "cost":
            return _cost_usd(candidate, need)
        return candidate.latency_ms if self.prefer == "latency" else None

    def _rank(self, figure: float | None) -> float:
        # Sorting is stable: equals stay in the order given.
        if figure is None:
            return float("inf") if self.prefer == "cost" else float("-inf")
        return figure


def _cost_usd(candidate: Candidate, need: Need) -> float | None:
    price = price_of(candidate.card, need.prompt_tokens)
    if price is None:
        return None
    return price.cost_usd(prompt_tokens=need.prompt_tokens, completion_tokens=need.max_tokens)


def _removed(candidate: Candidate, need: Need) -> str | None:
    """Why a model cannot take the request, or None."""
    window = candidate.card.context_window
    if need.min_context is not None and (window is None or window < need.min_context):
        return f"min_context={need.min_context} ({'unknown window' if window is None else f'window {window}'})"
    if need.max_cost_usd is None:
        return None
    cost = _cost_usd(candidate, need)
    if cost is None or cost > need.max_cost_usd:
        found = "unknown price" if cost is None else f"worst case {cost:.6g} USD"
        return f"max_cost_usd={need.max_cost_usd:g} ({found})"
    return None
