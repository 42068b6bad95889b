"""Models two at a time: whose errors go together, and who beats whom.

`error_correlation` needs gold answers; `excess_agreement` and `correlation_warning` find shared errors from votes
alone. `bradley_terry` ranks models by the wins of comparisons, and `position_swapped` makes those wins from the
verdicts of a judge that saw each pair in both orders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np

from workbench.decide.annotators import FLOOR, Codes, Floats, Indices, Width, one_coin
from workbench.decide.weights import is_finite
from workbench.errors import LLMValidationError

MOST_MODELS = 100  # 4,950 pairs, and an accuracy fitted for each of 100 models left out: seconds
FEWEST_MODELS = 4  # the agreements of three models just fix their accuracies: nothing is left to test
ROUNDING = 1e-12  # of a sum of logarithms, relative
MOST_GAMES = 1e15  # of a pair, and largest penalty: floats count no further one by one
_LOST = "some wins are too small beside the others for floats to tell their strengths"
EXACT_ITERATIONS, EXACT_TOLERANCE = 1000, 1e-9  # a test wants the maximum itself, far within its standard error


# -- errors that go together


def error_correlation(correct: Floats) -> Floats:
    """Phi correlation of the errors of each two models, M x M, in [-1, 1]; about 0 for independent errors.

    correct: N x M of 0 and 1, NaN where unknown; a pair is judged on the items where both are known.
    NaN where one of the two is right, or wrong, on all of those.
    Raises LLMValidationError: validation.shape, validation.correct.
    Source: Yule 1912, "On the Methods of Measuring Association Between Two Attributes".
    >>> float(error_correlation(np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))[0, 1].round(4))
    0.5774
    """
    c = _numbers("validation.correct", correct)
    if c.ndim != 2:
        raise _refused("validation.shape", f"correctness has {c.ndim} dimensions, not 2", "pass items x models")
    known = ~np.isnan(c)
    if not np.isin(c[known], (0.0, 1.0)).all():
        raise _refused(
            "validation.correct", "correctness holds other values than 0, 1 and NaN", "turn the scores into 0 and 1"
        )
    wrong, both = np.where(known, 1.0 - c, 0.0), known.astype(np.float64)
    n, mine = both.T @ both, wrong.T @ both
    theirs, shared = mine.T, wrong.T @ wrong
    spread = mine * (n - mine) * theirs * (n - theirs)
    phi: Floats = (n * shared - mine * theirs) / np.sqrt(np.where(spread > 0, spread, np.nan))
    return phi


@dataclass(frozen=True, slots=True, kw_only=True)
class PairAgreement:
    """How often each two of M models agree, and how often they would if their errors were independent; all M x M.

    items: on which both voted. observed, expected: shares of those. standard_error: of observed minus expected.
    NaN on the diagonal and for pairs without a common item.
    """

    items: Indices
    observed: Floats
    expected: Floats
    standard_error: Floats

    @property
    def excess(self) -> Floats:
        """Observed minus expected agreement; in [-1, 1], about 0 for independent errors."""
        return self.observed - self.expected

    @property
    def z(self) -> Floats:
        """Excess in standard errors; NaN where that is 0."""
        return self.excess / np.where(self.standard_error > 0, self.standard_error, np.nan)


def excess_agreement(codes: Codes, *, width: Width) -> PairAgreement:
    """How much more each two models agree than independent errors would make them, from votes alone.

    codes, width: as for annotators.one_coin, of at least 4 models. Independent errors let models a and b agree on item
    i with probability p_a p_b + (1 - p_a)(1 - p_b) / (width_i - 1). p_a is the one-coin accuracy fitted without the
    votes of b, and p_b without those of a: two models that copy each other would else make each other look accurate.
    The standard error counts both accuracies as estimated from the same items: by their linear expansion in the items'
    scores. Items that are hard for all models let every pair agree too often; so compare the pairs among themselves.
    Raises LLMValidationError as one_coin does, and validation.models for fewer than 4 models.
    Source: M-estimation, Huber 1967; information as the outer product of scores, Berndt, Hall, Hall & Hausman 1974.
    """
    try:
        votes = np.asarray(codes)
    except ValueError as ragged:
        raise _refused("validation.shape", "votes have rows of different lengths", "pass items x models") from ragged
    m = votes.shape[-1] if votes.ndim == 2 else 0
    if m > MOST_MODELS:
        found = f"{m} models have {m * (m - 1) // 2} pairs; {MOST_MODELS} models are tested at most"
        raise _refused("validation.models", found, f"pass the votes of up to {MOST_MODELS} models")
    if m < FEWEST_MODELS:
        found = f"{m} models leave nothing to test: their agreements just fix their accuracies"
        raise _refused("validation.models", found, f"pass the votes of {FEWEST_MODELS} models or more, items x models")
    one_coin(votes, width=width, iterations=1)  # refuses what is unfit, by name
    n, widths = len(votes), np.broadcast_to(np.asarray(width, dtype=np.float64), (len(votes),))
    accuracy, influence = np.empty((m, m)), np.empty((m, n, m))
    for b in range(m):  # [b, a]: model a, fitted without b
        accuracy[b], influence[b] = _without(votes, widths, b)
    items = np.zeros((m, m), dtype=np.intp)
    observed, expected, error = (np.full((m, m), np.nan) for _ in range(3))
    for a, b in combinations(range(m), 2):
        both = (votes[:, a] >= 0) & (votes[:, b] >= 0)
        items[a, b] = items[b, a] = both.sum()
        if not both.any():
            continue
        p, q, others = accuracy[b, a], accuracy[a, b], widths[both] - 1
        agree, chance = votes[both, a] == votes[both, b], p * q + (1 - p) * (1 - q) / others
        moment = np.zeros(n)
        moment[both] = agree - chance - (agree - chance).mean()
        moment -= (q - (1 - q) / others).sum() * influence[b, :, a] + (p - (1 - p) / others).sum() * influence[a, :, b]
        observed[a, b] = observed[b, a] = agree.mean()
        expected[a, b] = expected[b, a] = chance.mean()
        error[a, b] = error[b, a] = math.sqrt(moment @ moment) / both.sum()
    return PairAgreement(items=items, observed=observed, expected=expected, standard_error=error)


def _without(votes: Codes, widths: Floats, left_out: int) -> tuple[Floats, Floats]:
    """Accuracies fitted without a model, and the influence of each item on each of them (N x M)."""
    rest = votes.copy()
    rest[:, left_out] = -1
    fit = one_coin(rest, width=widths, iterations=EXACT_ITERATIONS, tolerance=EXACT_TOLERANCE)
    p = np.clip(fit.accuracy, FLOOR, 1 - FLOOR)
    own = np.take_along_axis(fit.posterior, np.maximum(rest, 0), axis=1)
    scores = np.where(rest >= 0, (own - p) / (p * (1 - p)), 0.0)
    return fit.accuracy, scores @ np.linalg.pinv(scores.T @ scores, hermitian=True)


def correlation_warning(models: Sequence[str], agreement: PairAgreement, *, level: float = 0.05) -> str | None:
    """The pair that agrees furthest beyond what independent errors allow, in words; None when no pair does.

    models: names, in the order of the columns. level: probability of any warning at all when all errors are
    independent, shared equally among the pairs (Bonferroni); each pair is tested one-sidedly. That holds for enough
    items: 5.0 % of 400 runs of 1,000 items x 5 models with 4 answers, 14 % of 200 with 100 items and 2 answers.
    Raises LLMValidationError validation.models when the names do not fit the pairs.
    """
    m = len(models)
    if agreement.items.shape != (m, m):
        found = f"{m} names for the agreement of {len(agreement.items)} models"
        raise _refused("validation.models", found, "name the models in the order of the columns of the votes")
    pairs = np.triu_indices(m, 1)
    z = agreement.z[pairs]
    tested = int((~np.isnan(z)).sum())
    limit = NormalDist().inv_cdf(1 - level / max(tested, 1))
    beyond = int((z > limit).sum())
    if not beyond:
        return None
    top = int(np.nanargmax(z))
    a, b = int(pairs[0][top]), int(pairs[1][top])
    rest = " (or the other two: four models cannot tell which)" if m == FEWEST_MODELS else ""
    return (
        f"{models[a]} and {models[b]}{rest} agree on {agreement.observed[a, b]:.1%} of {agreement.items[a, b]} items; "
        f"independent errors would give {agreement.expected[a, b]:.1%} "
        f"(standard error {agreement.standard_error[a, b]:.1%}, z = {z[top]:.1f}). "
        f"{beyond} of {tested} pairs exceed z = {limit:.2f}, the limit at {level:.0%} over all pairs"
    )


# -- who beats whom


def bradley_terry(
    wins: Floats,
    *,
    alpha: float = 0.0,
    models: Sequence[str] | None = None,
    iterations: int = 100,
    tolerance: float = 1e-9,
) -> Floats:
    """Log strengths of k models, mean 0: i beats j with probability 1 / (1 + exp(strength[j] - strength[i])).

    wins: k x k counts >= 0; wins[i, j] is how often i beat j, a tie half to both. The diagonal is 0.
    alpha: >= 0; the strengths maximise the log-likelihood less alpha times their sum of squares, as choix.opt_pairwise.
    0 is maximum likelihood, which exists only if every model beat every other, if through others.
    models: names for messages; None takes the row numbers. tolerance: largest change of the last step.
    Newton's method with halved steps: the function is concave, so any rise leads to the one maximum, and the chains of
    few games that take the MM algorithm thousands of steps take it about ten.
    Raises LLMValidationError: validation.wins, validation.penalty, validation.comparisons, validation.convergence.
    Source: Bradley & Terry 1952; Hunter 2004, assumption 1, for when the maximum exists.
    >>> bradley_terry(np.array([[0, 3], [1, 0]])).round(4).tolist()
    [0.5493, -0.5493]
    """
    w = _numbers("validation.wins", wins)
    _check_wins(w, alpha, models)
    if isinstance(iterations, bool) or not isinstance(iterations, int) or not is_finite(tolerance):
        raise _refused(
            "validation.convergence",
            f"{iterations!r:.40} iterations to a tolerance of {tolerance!r:.40}",
            "use numbers",
        )
    k, games = len(w), w + w.T
    strengths, value, size = np.zeros(k), _penalised(w, np.zeros(k), alpha), math.inf
    for _ in range(iterations):
        p = np.exp(-np.logaddexp(0.0, strengths - strengths[:, None]))  # p[i, j]: i beats j; exact near 0 as well
        gradient = (w * p.T - w.T * p).sum(axis=1) - 2 * alpha * strengths
        spread = games * p * p.T
        # 1 / k everywhere fixes what the games leave open: adding one number to all strengths.
        try:
            step = np.linalg.solve(np.diag(spread.sum(axis=1) + 2 * alpha) - spread + 1 / k, gradient)
        except np.linalg.LinAlgError as error:
            raise _refused(
                "validation.convergence", _LOST, "set alpha above 0, or count wins in whole games"
            ) from error
        while (found := _penalised(w, strengths + step, alpha)) < value - ROUNDING * abs(value):
            step = step / 2  # beyond the maximum
        strengths, value, size = strengths + step, found, float(np.abs(step).max())
        if size <= tolerance:
            return np.asarray(strengths - strengths.mean(), dtype=np.float64)
    raise _refused(
        "validation.convergence",
        f"strengths still move by {size:.2g} after {iterations} iterations",
        "allow more iterations, or a larger alpha or tolerance",
    )


def _penalised(wins: Floats, strengths: Floats, alpha: float) -> float:
    lost = np.logaddexp(0.0, strengths - strengths[:, None])
    return float(-(wins * lost).sum() - alpha * strengths @ strengths)


def _check_wins(wins: Floats, alpha: float, models: Sequence[str] | None) -> None:
    if wins.ndim != 2 or wins.shape[0] != wins.shape[1] or len(wins) < 2:
        raise _refused(
            "validation.wins", f"wins have the shape {wins.shape}, not k x k with k >= 2", "one row and column a model"
        )
    if wins.max() > MOST_GAMES:
        raise _refused("validation.wins", f"wins hold {wins.max():g} games", "count games, or scale the wins down")
    if not (np.isfinite(wins) & (wins >= 0)).all() or wins.diagonal().any():
        found = "wins hold a number below 0, one that is not finite, or a game of a model with itself"
        raise _refused("validation.wins", found, "count the games that each row won against each column")
    if not is_finite(alpha) or not 0 <= alpha <= MOST_GAMES:
        raise _refused(
            "validation.penalty", f"alpha is {alpha!r:.40}, not a finite number >= 0", "use 0 for maximum likelihood"
        )
    if models is not None and (isinstance(models, str) or not isinstance(models, Sequence)):
        raise _refused("validation.models", f"the names of the models are {models!r:.80}", "name every row, in order")
    names = [str(name) for name in (range(len(wins)) if models is None else models)]
    if len(names) != len(wins):
        raise _refused(
            "validation.models", f"{len(names)} names for {len(wins)} rows of wins", "name every row, in order"
        )
    if alpha > 0:
        return
    from scipy.sparse.csgraph import connected_components

    count, group = connected_components(wins > 0, connection="strong")
    if count > 1:
        groups = (", ".join(n for n, g in zip(names, group, strict=True) if g == c) for c in range(count))
        raise _refused(
            "validation.comparisons",
            f"between these {count} groups of models no wins go both ways, so no strengths fit best: "
            + " | ".join(groups),
            "set alpha above 0, or add comparisons until each group has beaten the others",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairVerdict:
    """A judge's choice between two answers to an item, shown in this order; winner: one of the two, None for a tie."""

    first: str
    second: str
    winner: str | None
    item_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwappedVerdicts:
    """What the verdicts on pairs shown in both orders come to.

    models: sorted. wins: k x k, as bradley_terry takes them; one game a pair and item.
    pairs: games. inconsistent: share of the games whose two verdicts differ.
    first, second: share of all verdicts for the answer shown first and shown second; the rest are ties. Without
    position bias they are equal but for chance, whoever is better, as each answer is shown once in each place.
    """

    models: tuple[str, ...]
    wins: Floats
    pairs: int
    inconsistent: float
    first: float
    second: float


def position_swapped(verdicts: Sequence[PairVerdict]) -> SwappedVerdicts:
    """The wins of verdicts given once in each order: to the winner of both, else half to both models.

    verdicts: for every item and pair of models exactly one in each order, in any sequence. A tie in both orders is
    consistent; a tie in one alone is not.
    Raises LLMValidationError validation.verdicts.
    Source: Zheng et al. 2023, "Judging LLM-as-a-Judge", section 3.4.
    """
    told: dict[tuple[str, str, str], PairVerdict] = {}
    if not isinstance(verdicts, Sequence) or not all(map(_is_verdict, verdicts)):
        raise _refused("validation.verdicts", f"verdicts are {verdicts!r:.80}", "pass a list of PairVerdict of names")
    for v in verdicts:
        shown = (v.item_id, v.first, v.second)
        if v.first == v.second or v.winner not in (v.first, v.second, None):
            raise _refused(
                "validation.verdicts", f"{v} names no winner between two models", "name first, second or None for a tie"
            )
        if shown in told:
            raise _refused("validation.verdicts", f"{_shown(v)} is judged twice", "pass one verdict for every order")
        told[shown] = v
    alone = next((v for (item, a, b), v in told.items() if (item, b, a) not in told), None)
    if alone or not told:
        found = f"{_shown(alone)} is not judged in the other order" if alone else "there are no verdicts"
        raise _refused("validation.verdicts", found, "judge every pair in both orders")
    models = tuple(sorted({name for v in told.values() for name in (v.first, v.second)}))
    place = {name: i for i, name in enumerate(models)}
    wins, changed = np.zeros((len(models), len(models))), 0
    for (item, a, b), v in told.items():
        other = told[item, b, a]
        changed += v.winner != other.winner  # both orders come by: every game counts twice here
        share = 0.5 if v.winner is None or v.winner != other.winner else float(v.winner == a)
        wins[place[a], place[b]] += share
    return SwappedVerdicts(
        models=models,
        wins=wins,
        pairs=len(told) // 2,
        inconsistent=changed / len(told),
        first=sum(v.winner == v.first for v in told.values()) / len(told),
        second=sum(v.winner == v.second for v in told.values()) / len(told),
    )


def _is_verdict(v: object) -> bool:
    return isinstance(v, PairVerdict) and isinstance(v.first, str) and isinstance(v.second, str)


def _shown(v: PairVerdict) -> str:
    return f"{v.first} before {v.second}" + (f" on item {v.item_id}" if v.item_id else "")


def _numbers(code: str, given: object) -> Floats:
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise _refused(code, f"{given!r:.80} are no rows of numbers", "pass a table of numbers, row by row") from error


def _refused(code: str, found: str, next_step: str) -> LLMValidationError:
    return LLMValidationError(found, code=code, next_step=next_step)
