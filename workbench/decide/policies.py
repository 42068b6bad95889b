"""Every merge strategy by its name, as users and the log know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus
from workbench.decide.pool import Learner, Pool, unfitted
from workbench.decide.strategies.auto import Auto
from workbench.decide.strategies.cascade import Cascade
from workbench.decide.strategies.fields import FieldWise
from workbench.decide.strategies.latent import DawidSkene, OneCoin
from workbench.decide.strategies.mbr import MinimumBayesRisk, TextStacking
from workbench.decide.strategies.selection import EnsembleSelection
from workbench.decide.strategies.selective import Selective
from workbench.decide.strategies.selector import Selector
from workbench.decide.strategies.single import BestSingle
from workbench.decide.strategies.soft import SoftVote
from workbench.decide.strategies.weighted import LogOdds, Stacking
from workbench.decide.votes import Ballots
from workbench.decide.weights import check_members, closest
from workbench.errors import LLMValidationError
from workbench.facts import Merge

_EVERY: tuple[type[Merge], ...] = (
    WeightedConsensus, MajorityVoting, BestOfN,
    Auto, BestSingle, Cascade, DawidSkene, EnsembleSelection, FieldWise, LogOdds, MinimumBayesRisk, OneCoin, Selective,
    Selector, SoftVote, Stacking, TextStacking,
)  # fmt: skip
POLICIES: Mapping[str, type[Merge]] = MappingProxyType({str(made.name): made for made in _EVERY})


def policy(name: str, params: Mapping[str, Any] | None = None) -> Merge:
    """The built-in strategy called `name` with `params`, as the log stores them."""
    if not isinstance(name, str) or name not in POLICIES:
        raise LLMValidationError(
            f"merge strategy {name!r:.60} is not one of {', '.join(POLICIES)}",
            code="validation.strategy",
            next_step=f"use {closest(str(name), POLICIES) or 'majority_voting'}, or pass a policy object",
        )
    try:
        return POLICIES[name](**dict(params or {}))
    except LLMValidationError:
        raise
    except (TypeError, ValueError) as error:
        raise LLMValidationError(
            f"{name} does not take the parameters {params!r:.80}: {error!s:.120}",
            code="validation.strategy",
            next_step=f"see the fields of workbench.{POLICIES[name].__name__}",
        ) from error


def as_merge(merge: object) -> Merge:
    """The policy that a name or an object stands for.

    Raises LLMValidationError validation.strategy for an unknown name, a class, or an object that is no policy.
    """
    if isinstance(merge, str):
        return policy(merge)
    named = isinstance(getattr(merge, "name", None), str)
    if isinstance(merge, type) or not named or not isinstance(merge, Merge):
        raise LLMValidationError(
            f"merge {merge!r:.60} is neither the name of a strategy nor a policy object",
            code="validation.strategy",
            next_step="pass a name such as majority_voting, or an object such as MajorityVoting()",
        )
    return merge


def check_ready(merge: Merge, models: Sequence[str]) -> None:
    """Refuse a merge that cannot decide for these models, before anything is asked for it.

    Raises LLMValidationError validation.unfitted, validation.weights.
    """
    if isinstance(merge, Learner):
        if not merge.fitted:
            raise unfitted(merge)
        merge.over(Pool.of(Ballots.of(models, [])))  # says for itself whether it knows these models
    elif isinstance(weights := getattr(merge, "weights", None), Mapping):
        check_members(weights, models)
