"""`soft_vote`: members say how sure they are, and are believed as far as they were right when that sure.

The claimed confidence of each member is calibrated on items with known answers, and an answer's support is the sum of
its supporters' log-odds. Where errors are independent and spread evenly, that sum is the log-odds of the answer itself
and its softmax the probability of being right, so that no other support has a better log score. The mean of calibrated
probabilities would not even be calibrated: it is less sure than its members together may be (Ranjan & Gneiting 2010).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, get_args

import numpy as np

from workbench.decide.calibration import Calibration, Curve, calibrated, calibration_of
from workbench.decide.learn import competence, log_odds, worth_of_members
from workbench.decide.pool import Pool, merged, outcome_of, softmax, unfitted, votes_for
from workbench.decide.votes import Floats, Outcome
from workbench.decide.weights import Signed, check_members, is_finite
from workbench.errors import LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution

MINIMUM, FOLDS, CAUTION = 20, 5, 2.0  # rated items, folds and standard errors before a confidence is believed


@dataclass(frozen=True)
class SoftVote:
    """The answer with the largest sum of its supporters' calibrated log-odds.

    A member's log-odds are log(p (K - 1) / (1 - p)): p is what its `quality` on this item is worth, or its accuracy
    where it has none. Quality that does not beat the accuracy in log score on items it was not calibrated on, by two
    standard errors, counts as none. So without quality, and with one that says nothing, this is `log_odds`.
    calibration: `temperature`, one number a member, or `isotonic`, any curve that never falls, which takes more labels.
    accuracy: model -> share right in (0, 1), learned by `fit`, as are the rest. maps: model -> its temperature, or the
    breakpoints (quality, probability) of its curve; models left out are taken at their accuracy. options: K > 1, the
    number of answers that errors spread over.
    Source: Guo et al. 2017 (temperature); Zadrozny & Elkan 2002 (isotonic); Nitzan & Paroush 1982 (log-odds).
    """

    calibration: Calibration = "temperature"
    accuracy: Mapping[str, float] | None = None
    maps: Mapping[str, float | Curve] | None = None
    options: float = 2.0
    name: ClassVar[str] = "soft_vote"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        if not isinstance(self.calibration, str) or self.calibration not in get_args(Calibration):
            known = " or ".join(get_args(Calibration))
            raise _refused(
                f"calibration {self.calibration!r:.60} is not {known}", "use temperature where labels are few"
            )
        if not is_finite(self.options) or self.options <= 1:
            raise _refused(f"options {self.options!r:.60} is no finite number > 1", "leave it out and fit the policy")
        if self.accuracy is not None:
            object.__setattr__(self, "accuracy", Signed(self.accuracy))
            if not all(0 < p < 1 for p in self.accuracy.values()):
                raise _refused(f"accuracy {dict(self.accuracy)!r:.80} leaves (0, 1)", "leave it out and fit the policy")
        if self.maps is not None:
            if not isinstance(self.maps, Mapping):
                raise _refused(f"maps {self.maps!r:.80} are no mapping by model", "leave maps out and fit the policy")
            object.__setattr__(self, "maps", {model: _map(model, by) for model, by in self.maps.items()})

    def __hash__(self) -> int:
        return hash((self.calibration, self.accuracy, frozenset((self.maps or {}).items()), self.options))

    @property
    def fitted(self) -> bool:
        """Whether it has learned."""
        return self.accuracy is not None

    def fit(self, pool: Pool, values: Floats) -> Self:
        """What each member's quality is worth; an answer counts as right by its value, which must lie in [0, 1].

        Raises LLMValidationError fit.items, fit.values.
        """
        accuracy, options = competence(self.name, pool, values)
        worth = worth_of_members(pool.ballots, values)
        maps: dict[str, float | Curve] = {}
        for model, quality, right in zip(pool.models, pool.ballots.quality.T, worth.T, strict=True):
            rated = ~np.isnan(quality) & ~np.isnan(right)
            order = np.lexsort((right[rated], quality[rated]))  # so that the order of the items has no influence
            claimed, good = quality[rated][order], right[rated][order]
            if self._informs(claimed, good):
                maps[model] = calibration_of(self.calibration, claimed, good)
        return replace(
            self,
            accuracy=dict(zip(pool.models, accuracy.tolist(), strict=True)),
            maps=maps,
            options=options,
        )

    def _informs(self, claimed: Floats, right: Floats) -> bool:
        """Whether calibrated quality beats the plain accuracy on items of other folds, by enough."""
        if len(claimed) < MINIMUM:
            return False
        gain = np.zeros(len(claimed))
        for fold in range(FOLDS):
            judge = np.arange(len(claimed)) % FOLDS == fold
            known = right[~judge]
            plain = np.full(int(judge.sum()), (known.sum() + 0.5) / (len(known) + 1))
            found = calibrated(calibration_of(self.calibration, claimed[~judge], known), claimed[judge])
            gain[judge] = _log_score(found, right[judge]) - _log_score(plain, right[judge])
        return bool(gain.mean() > CAUTION * gain.std(ddof=1) / np.sqrt(len(gain)))

    def over(self, pool: Pool) -> Outcome:
        """The outcome of every item; raises LLMValidationError validation.unfitted, validation.weights."""
        if self.accuracy is None:
            raise unfitted(self)
        check_members(self.accuracy, pool.models)
        ballots, known = pool.ballots, self.maps or {}
        p = np.empty(ballots.codes.shape)
        for j, model in enumerate(pool.models):
            told = ballots.quality[:, j]
            found = calibrated(known[model], told) if model in known else told
            p[:, j] = np.where(np.isnan(told) | (model not in known), self.accuracy[model], found)
        weights = log_odds(p, self.options)
        return outcome_of(ballots, softmax(votes_for(ballots.codes, weights, ballots.width), pool.present))

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises as decide/merge.py does, and validation.unfitted."""
        return merged(self, contributions)


def _log_score(p: Floats, right: Floats) -> Floats:
    return np.asarray(right * np.log(p) + (1 - right) * np.log1p(-p))


def _map(model: str, by: float | Curve) -> float | Curve:
    """A calibration map as plain numbers; refused where it does not lead into (0, 1)."""
    if is_finite(by):
        made: float | Curve = float(by)
        fine = by > 0
    else:
        try:
            made = tuple((float(x), float(p)) for x, p in by)  # type: ignore[union-attr]
        except (TypeError, ValueError, OverflowError) as error:
            raise _refused(f"map {by!r:.80} of {model!r} is none", "leave maps out and fit the policy") from error
        fine = bool(made) and all(0 < p < 1 for _, p in made)
    if not fine:
        raise _refused(f"map {by!r:.80} of {model!r} leaves (0, 1)", "leave maps out and fit the policy")
    return made


def _refused(found: str, instead: str) -> LLMValidationError:
    return LLMValidationError(f"soft_vote: {found}", code="validation.strategy", next_step=instead)
