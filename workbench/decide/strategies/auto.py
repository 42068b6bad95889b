"""`auto`: the merge that does no harm: it takes the best single model unless it can tell that a merge is better.

A discrete super learner: every candidate is judged on items that it was not fitted on, in folds, against the single
model that was best on the other folds. Of the candidates whose gain exceeds `caution` times its error, the one
with the largest gain wins; without any the best single model answers. The choice and its reason are fields of the
fitted policy.

Source: van der Laan, Polley & Hubbard 2007, "Super Learner"; the rule of so many standard errors: Breiman et al. 1984.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from workbench.decide.learn import all_known
from workbench.decide.merge import MajorityVoting, params_of
from workbench.decide.pool import Pool, learned, merged, over, unfitted
from workbench.decide.strategies.single import BestSingle
from workbench.decide.strategies.weighted import LogOdds, Stacking
from workbench.decide.votes import Floats, Outcome
from workbench.decide.weights import is_finite
from workbench.errors import LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution

Candidate = BestSingle | MajorityVoting | LogOdds | Stacking
CANDIDATES: Mapping[str, type[Candidate]] = MappingProxyType(
    {c.name: c for c in (BestSingle, MajorityVoting, LogOdds, Stacking)}
)
TO_LABEL = (
    "label those of understand.label_first(run.pool, 50); understand.warn_without_labels(run.pool) tells the risk"
)
MINIMUM = 20  # items; with fewer a fold has too few to say anything


@dataclass(frozen=True)
class Auto:
    """Best single model, vote, log-odds or stacking: whichever wins on items it has not seen, by enough.

    chosen: name and parameters of the strategy taken, learned by `fit`. reason: why, in words.
    folds: 2 or more. caution: errors, >= 0, that a gain must exceed; 0 takes whatever is ahead. An error is the
    standard error of the gain and the weight of one item more. At 1.5, a merge that is no better is taken about once in
    15 times.
    """

    chosen: Mapping[str, Any] | None = None
    reason: str = ""
    folds: int = 5
    caution: float = 1.5
    name: ClassVar[str] = "auto"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        if isinstance(self.folds, bool) or not isinstance(self.folds, int) or self.folds < 2:
            raise _refused(f"folds {self.folds!r:.60} is no whole number from 2", "use 5")
        if not is_finite(self.caution) or self.caution < 0:
            raise _refused(f"caution {self.caution!r:.60} is no finite number >= 0", "use 1.5, or more to be surer")
        if self.chosen is not None:
            named = self.chosen.get("policy") if isinstance(self.chosen, Mapping) else None
            if not isinstance(named, str) or named not in CANDIDATES:
                names = ", ".join(CANDIDATES)
                raise _refused(f"chosen {self.chosen!r:.80} names none of {names}", "leave it out and fit the policy")
            try:
                taken = CANDIDATES[named](**self.chosen.get("params", {}))
            except TypeError as error:
                raise _refused(
                    f"chosen {named} cannot be made: {error!s:.80}", "leave it out and fit the policy"
                ) from error
            object.__setattr__(self, "chosen", {"policy": taken.name, "params": params_of(taken)})

    def __hash__(self) -> int:
        return hash((self.policy if self.fitted else None, self.reason, self.folds, self.caution))

    @property
    def fitted(self) -> bool:
        """Whether it has learned."""
        return self.chosen is not None

    @property
    def policy(self) -> Candidate:
        """The strategy taken, fitted."""
        if self.chosen is None:
            raise unfitted(self)
        return CANDIDATES[self.chosen["policy"]](**self.chosen["params"])

    def fit(self, pool: Pool, values: Floats) -> Self:
        """The choice of these items. Raises LLMValidationError fit.items where no item has a known value."""
        try:
            single = BestSingle().fit(pool, values)
        except LLMValidationError as error:
            if error.code == "fit.items":
                error.next_step = TO_LABEL
            raise
        known = all_known(pool, values)
        if len(known) < max(MINIMUM, 2 * self.folds):
            return self._with(single, f"{len(known)} labelled items are too few to compare merges on")
        ahead = {
            name: self._gain(rival(), pool, values, known) for name, rival in CANDIDATES.items() if name != single.name
        }
        told = "; ".join(f"{name} {_told(gain)}" for name, gain in ahead.items())
        sure = [(g[0], name) for name, g in ahead.items() if g is not None and g[0] > self.caution * g[1]]
        if not sure:
            return self._with(single, f"no merge is surely ahead of it on {len(known)} items: {told}")
        best = max(sure)[1]
        return self._with(learned(CANDIDATES[best](), pool, values), f"it is ahead on {len(known)} items: {told}")

    def _gain(
        self, rival: Candidate, pool: Pool, values: Floats, known: NDArray[np.intp]
    ) -> tuple[float, float] | None:
        """Mean gain over the best single model on unseen items, and its error: the standard error and one item more.

        None where the rival does not suit these values.
        """
        gains = np.zeros(len(known))
        for fold in range(self.folds):
            judge = np.arange(len(known)) % self.folds == fold
            train, test = known[~judge], known[judge]
            try:
                both = [learned(each, pool.take(train), values[train]) for each in (rival, BestSingle())]
            except LLMValidationError as error:
                if error.code == "fit.values":  # not on this scale of values
                    return None
                raise
            ours, theirs = (over(each, pool.take(test)).scores(values[test]) for each in both)
            gains[judge] = ours - theirs
        # Where few items differ their variance is luck too: one item more may count as much as the largest of them.
        unsure = gains.std(ddof=1) / np.sqrt(len(gains)) + np.abs(gains).max() / len(gains)
        return float(gains.mean()), float(unsure)

    def _with(self, strategy: Candidate, reason: str) -> Self:
        return replace(self, chosen={"policy": strategy.name, "params": params_of(strategy)}, reason=reason)

    def over(self, pool: Pool) -> Outcome:
        """The outcome of every item; raises LLMValidationError validation.unfitted, validation.weights."""
        return over(self.policy, pool)

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises as decide/merge.py does, and validation.unfitted."""
        return merged(self, contributions)


def _told(gain: tuple[float, float] | None) -> str:
    return "does not suit these values" if gain is None else f"{gain[0]:+.4f} ± {gain[1]:.4f}"


def _refused(found: str, instead: str) -> LLMValidationError:
    return LLMValidationError(found, code="validation.strategy", next_step=instead)
