"""What each model adds to an ensemble, where models err together, when a vote pays, and whether confidence holds.

Everything is read from a run's table and pool; nothing is asked. Items on which a model has no score are left out for
all, as in study/compare.py, and counted. Intervals are 95 %, and resample items unless a docstring says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from workbench.decide import value
from workbench.decide.annotators import one_coin
from workbench.decide.calibration import reliability
from workbench.decide.merge import params_of
from workbench.decide.pairwise import FEWEST_MODELS, MOST_MODELS, correlation_warning, excess_agreement
from workbench.decide.pairwise import error_correlation as phi_of
from workbench.decide.policies import as_merge
from workbench.decide.pool import Learner, Pool, Strategy, learned, over
from workbench.errors import LLMValidationError
from workbench.facts import Merge
from workbench.study.compare import FOLDS, Evaluated, has_array_form, strategies_of
from workbench.study.found import (
    ConfidenceBin,
    Found,
    GroupRow,
    Measure,
    ModelValue,
    Pair,
    Rows,
    SubPool,
    check_given,
    check_pool,
    check_right_or_wrong,
    estimates,
    found_in,
    sign_flip,
    voters,
    wilson,
)
from workbench.study.stats import CHUNK_CELLS, SAMPLES, drawn_by, holm, verdict
from workbench.study.table import Floats, RunTable
from workbench.study.timings import Estimate

MOST_POOLS = 500
CURVE_SAMPLES = 2_000  # resamples for each of up to 500 sub-pools
NOTABLE = 0.1  # spread of estimated accuracies, and share of items without agreement, that are worth a warning


# -- what each model adds


def model_values(
    table: RunTable,
    pool: Pool | None = None,
    *,
    models: Sequence[str] | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Found[ModelValue]:
    """Shapley and leave-one-out values of each model, measure by measure, the largest share of quality first.

    pool: as read_pool gives it; None, or one that does not tell: no cost and no latency. models: which; None takes all,
    at most 12. A model's values depend on who else is in the set. Nobody's vote is worth 0, or, where scores are not
    within [0, 1], the worst score seen; it enters the quality of all models alike.
    Raises LLMValidationError: validation.models, validation.no_text, data.no_scores.
    """
    check_given(table, pool)
    if models is not None:
        table, pool = table.of_models(models), None if pool is None else pool.of_models(models)
    m, most = len(table.models), value.MOST_MODELS
    if m > most:
        raise LLMValidationError(
            f"the values of {m} models rest on the votes of all 2^{m} sets of them; {most} models at most",
            code="validation.models",
            next_step=f"choose up to {most} of them with models=[...], such as those of table.top({most})",
        )
    rows = table.scored()
    ballots, values, nothing = voters(table, rows)

    def voted(part: slice) -> Floats:
        return value.coalition_worth(replace(ballots, codes=ballots.codes[part]), values[part], nothing=nothing)

    games: dict[Measure, Floats] = {"quality": _shares(voted, len(rows), m)}
    if pool is not None:
        games["cost_usd"] = _grown(pool.cost_usd[rows], value.cost_of_coalitions)
        games["latency_ms"] = _grown(pool.latency_ms[rows], value.latency_of_coalitions)
    order = np.argsort(-games["quality"][1].mean(axis=0), kind="stable")
    found: list[ModelValue] = []
    for measure, (alone, share, last) in games.items():
        if len(alone) < 2:  # its source does not tell
            continue
        sure = estimates(np.hstack([share, last]), samples=samples, seed=seed)
        found += [
            ModelValue(
                model=table.models[j],
                measure=measure,
                alone=float(alone[:, j].mean()),
                shapley=sure[j],
                leave_one_out=sure[m + j],
                items=len(alone),
            )
            for j in order
        ]
    return found_in(table, rows, found, samples=samples, seed=seed, nothing=nothing)


def _shares(worth: Callable[[slice], Floats], n: int, m: int) -> Floats:
    """3 x N x M: what each model is worth alone, its Shapley and its leave-one-out value, item by item."""
    made = np.empty((3, n, m))
    step = max(1, CHUNK_CELLS >> m)
    for start in range(0, n, step):
        part = slice(start, start + step)
        known = worth(part)
        made[:, part] = known[:, 1 << np.arange(m)], value.shapley(known), value.leave_one_out(known)
    return made


def _grown(known: Floats, grow: Callable[[Floats], Floats]) -> Floats:
    """The same of costs or latencies, N x M, on the items where all are known."""
    told = known[~np.isnan(known).any(axis=1)]
    return _shares(lambda part: grow(told[part]), *told.shape)


# -- who errs with whom


def error_correlation(table: RunTable, *, samples: int = SAMPLES, seed: int = 0) -> Found[Pair]:
    """Phi correlation of the errors of each two models; models with the best score first.

    NaN where one is right, or wrong, on every item. Phi is about 0 for independent errors; it reaches 1 only for two
    models that are wrong equally often. Its interval is that of its linear expansion in the items.
    Raises LLMValidationError: validation.models (one model), validation.score_kind (graded scores), data.no_scores.
    Source: Yule 1912; influence function of a correlation: Devlin, Gnanadesikan & Kettenring 1975.
    """
    check_given(table)
    check_right_or_wrong(table, "a correlation of errors")
    rows, order = table.scored(), _ranked(table)
    wrong = 1.0 - table.scores[rows][:, order]
    first, second = np.triu_indices(len(order), 1)
    phi = phi_of(1.0 - wrong)[first, second]
    deviation = wrong.std(axis=0)
    z = (wrong - wrong.mean(axis=0)) / np.where(deviation > 0, deviation, np.nan)
    a, b = z[:, first], z[:, second]
    sure = estimates(a * b + phi * (1 - (a**2 + b**2) / 2), samples=samples, seed=seed)
    values = [replace(e, low=max(e.low, -1.0), high=min(e.high, 1.0)) for e in sure]  # NaN stays
    pairs = _pairs(table, order, wrong > 0, values, [len(rows)] * len(values), wrong.T @ wrong)
    return found_in(table, rows, pairs, samples=samples, seed=seed, relation="error correlation")


def agreement_matrix(table: RunTable) -> Found[Pair]:
    """Share of items on which two models say the same, among those that both answer; models with the best score first.

    On all items, scored or not; Wilson's interval. NaN for two that never answer the same item.
    Raises LLMValidationError: validation.models (one model), validation.no_text.
    """
    check_given(table)
    order = _ranked(table)
    codes = table.pool().ballots.codes[:, order]
    given = codes >= 0
    values, items, same = [], [], np.zeros((len(order), len(order)))
    for i, j in combinations(range(len(order)), 2):
        both = given[:, i] & given[:, j]
        items.append(int(both.sum()))
        same[i, j] = (codes[both, i] == codes[both, j]).sum()
        values.append(wilson(same[i, j] / items[-1] if items[-1] else np.nan, items[-1]))
    pairs = _pairs(table, order, given, values, items, same)
    return found_in(table, np.arange(len(codes)), pairs, relation="agreement")


def _pairs(
    table: RunTable,
    order: Sequence[int],
    marked: NDArray[np.bool_],
    values: Sequence[Estimate],
    items: Sequence[int],
    both: Floats,
) -> list[Pair]:
    """Pairs of the columns `order`. marked: N x M, where a model errs or answers. both: M x M, upper triangle."""
    return [
        Pair(
            first=table.models[order[i]],
            second=table.models[order[j]],
            value=values[k],
            items=items[k],
            both=int(both[i, j]),
            first_only=int((marked[:, i] & ~marked[:, j]).sum()),
            second_only=int((marked[:, j] & ~marked[:, i]).sum()),
        )
        for k, (i, j) in enumerate(combinations(range(len(order)), 2))
    ]


# -- when a vote pays


def spread_curve(table: RunTable, *, size: int = 3, samples: int = CURVE_SAMPLES, seed: int = 0) -> Found[SubPool]:
    """What a plain vote gains over the best member, in sub-pools of `size` models, the smallest spread first.

    All of them, or 500 drawn with the seed where there are more; `about` says how many are `possible`. The best
    member is the best on the same items, which favours it. Sub-pools share models and items. See `spread_bins`.
    Raises LLMValidationError: validation.models, validation.no_text, data.no_scores.
    """
    check_given(table)
    m = len(table.models)
    if isinstance(size, bool) or not isinstance(size, int) or not 2 <= size <= m:
        raise _too_few(f"sub-pools of {size!r:.40} of {m} models", f"pass a size from 2 to {m}")
    rows = table.scored()
    ballots, values, nothing = voters(table, rows)
    scores = table.scores[rows]
    mean = scores.mean(axis=0)
    chosen = _drawn(m, size, seed)
    best = np.take_along_axis(chosen, mean[chosen].argmax(axis=1)[:, None], axis=1)[:, 0]
    worth = value.coalition_worth(ballots, values, coalitions=(1 << chosen).sum(axis=1), nothing=nothing)
    gains = estimates(worth - scores[:, best], samples=samples, seed=seed)
    spread = np.ptp(mean[chosen], axis=1)
    pools = [
        SubPool(
            models=tuple(table.models[j] for j in chosen[k]),
            best=table.models[best[k]],
            spread=float(spread[k]),
            gain=gains[k],
        )
        for k in np.argsort(spread, kind="stable")
    ]
    possible = math.comb(m, size)
    return found_in(table, rows, pools, samples=samples, seed=seed, size=size, possible=possible)


def _drawn(m: int, size: int, seed: int) -> Rows:
    """Sub-pools as rows of ascending columns: all, or 500 different ones."""
    if math.comb(m, size) <= MOST_POOLS:
        return np.array(list(combinations(range(m), size)), dtype=np.intp)
    rng = drawn_by(seed)
    drawn: set[tuple[int, ...]] = set()
    while len(drawn) < MOST_POOLS:
        drawn.add(tuple(sorted(rng.choice(m, size, replace=False).tolist())))
    return np.array(sorted(drawn), dtype=np.intp)


# -- category by category


def by_group(
    table: RunTable,
    strategies: Sequence[Merge] | None = None,
    *,
    pool: Pool | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Found[GroupRow]:
    """Merges and models category by category, against the best single model of all items.

    strategies, pool: as for study/compare.py; what a strategy learns is learned on other items, of all categories.
    Raises LLMValidationError: data.no_groups, data.no_scores.
    """
    check_given(table, pool)
    rows = table.scored()
    groups = np.array(table.groups or ("",) * len(table.item_ids))[rows]
    if len(names := sorted(set(groups.tolist()))) < 2:
        raise LLMValidationError(
            f"the items of run {table.run_id} are all of one category, {names[0]!r}",
            code="data.no_groups",
            next_step="give items a metadata field `group`, or compare the run as a whole",
        )
    merges = strategies_of(table) if strategies is None else [as_merge(s) for s in strategies]
    seen = table.pool() if pool is None and table.ballots is not None else pool
    order = np.argsort(-table.scores[rows].mean(axis=0), kind="stable")
    singles = table.scores[rows][:, order]
    scores = np.column_stack([*(Evaluated(table, m, rows, seen).scores for m in merges), *singles.T])
    deltas = scores - singles[:, :1]
    parts = [groups == name for name in names]
    p = np.array([sign_flip(deltas[part], samples=samples, seed=seed) for part in parts])
    corrected = np.apply_along_axis(holm, 0, p)
    found = []
    for g, part in enumerate(parts):
        sure = estimates(deltas[part], samples=samples, seed=seed)
        for k, name in enumerate([*_called(merges), *(table.models[j] for j in order)]):
            found.append(
                GroupRow(
                    group=names[g],
                    items=int(part.sum()),
                    kind="merge" if k < len(merges) else "single",
                    strategy=name,
                    score=float(scores[part, k].mean()),
                    delta=sure[k],
                    p_value=float(p[g, k]),
                    p_holm=float(corrected[g, k]),
                    verdict=verdict(sure[k].value, sure[k].value) if corrected[g, k] <= 0.05 else "cannot tell",
                )
            )
    return found_in(table, rows, found, samples=samples, seed=seed, best_single=table.models[order[0]])


# -- whether confidence holds


def reliability_of(table: RunTable, merge: Merge, *, pool: Pool | None = None, bins: int = 10) -> Found[ConfidenceBin]:
    """How often a merge is right where it is so confident, in bins of equal width; those without items are left out.

    A tie is right in the share of its answers that are; Wilson's interval. What the merge learns it learns on the
    other nine of ten folds. `about`: `strategy` and `expected_calibration_error`.
    Raises LLMValidationError: validation.score_kind (graded scores), validation.no_text, data.no_scores,
    validation.strategy (a merge without `over`), validation.calibration (bins).
    """
    check_given(table, pool)
    merge = as_merge(merge)
    check_right_or_wrong(table, "a share of right answers")
    if not (isinstance(merge, Strategy) or has_array_form(merge)):
        raise LLMValidationError(
            f"{merge.name} decides item by item, so that nothing decides the folds of run {table.run_id}",
            code="validation.strategy",
            next_step="give it over(pool), as the strategies of decide/strategies have, or take a built-in one",
        )
    rows = table.scored()
    values = table.values()[rows]
    # The three of decide/merge.py go by the quality on other items, which no strategy may see.
    rated = Pool.of(table.ballots) if has_array_form(merge) and table.ballots is not None else pool
    seen = (table.pool() if rated is None else rated).take(rows)
    confidence, right = np.zeros(len(rows)), np.zeros(len(rows))
    folds = FOLDS if isinstance(merge, Learner) else 1
    for fold in range(folds):
        judge = np.arange(len(rows)) % folds == fold
        if judge.any():
            outcome = over(learned(merge, seen.take(~judge), values[~judge]), seen.take(judge))
            confidence[judge], right[judge] = outcome.confidence, outcome.scores(values[judge])
    told = reliability(confidence, right, bins)
    found = [
        ConfidenceBin(
            low=float(told.edges[k]),
            high=float(told.edges[k + 1]),
            items=int(told.count[k]),
            confidence=float(told.confidence[k]),
            right=wilson(float(told.accuracy[k]), int(told.count[k])),
        )
        for k in np.flatnonzero(told.count)
    ]
    return found_in(table, rows, found, strategy=merge.name, expected_calibration_error=told.error)


# -- without labels


def warn_without_labels(pool: Pool, *, width: float | None = None) -> tuple[str, ...]:
    """What speaks against a plain vote of these models, from the votes alone, in sentences; () where nothing does.

    width: possible answers of an item; None takes the number of different answers in the whole pool.
    Raises LLMValidationError: validation.models for one model, validation.votes where nobody answers.
    """
    check_pool(pool)
    codes, models = pool.ballots.codes, pool.models
    if len(models) < 2:
        raise _too_few("a pool of one model", "ask at least two models; the errors of four can be tested")
    asked = max(2, len({a for found in pool.ballots.answers for a in found})) if width is None else width
    told = []
    if len(models) < FEWEST_MODELS:
        told.append(f"{len(models)} models are too few to tell from their votes whether they err together.")
    elif len(models) > MOST_MODELS:
        told.append(f"{len(models)} models are too many to look for errors that they share; choose {MOST_MODELS}.")
    elif warning := correlation_warning(models, excess_agreement(codes, width=asked)):
        told.append(f"Models err together, and a vote counts their common errors twice: {warning}.")
    lone = (value.votes_of(codes).max(axis=1) < 2).mean()
    if lone > NOTABLE:
        told.append(f"On {lone:.0%} of {len(codes)} items no two models say the same: a plain vote is a draw there.")
    if len(models) > 2 and lone < 0.5:
        accuracy = one_coin(codes, width=asked).accuracy
        high, low = int(np.nanargmax(accuracy)), int(np.nanargmin(accuracy))
        if accuracy[high] - accuracy[low] > NOTABLE:
            told.append(
                f"By the votes alone, {models[high]} is right on {accuracy[high]:.0%} of items and {models[low]} on "
                f"{accuracy[low]:.0%} (too high where models err together), and a plain vote counts both alike."
            )
    split = int((value.vote_entropy(codes) > 0).sum())
    if told and split:
        first = ", ".join(map(str, label_first(pool, min(5, split))))
        told.append(f"Label some of the {split} items on which models differ, first those at the positions {first}.")
    return tuple(told)


def label_first(pool: Pool, k: int) -> tuple[int, ...]:
    """Positions of the k items to label first: those whose votes are divided most, ties by position.

    All items where k is more. Raises LLMValidationError validation.k for k < 1.
    Source: vote entropy, Dagan & Engelson 1995, "Committee-Based Sampling".
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise LLMValidationError(
            f"{k!r:.40} items cannot be labelled", code="validation.k", next_step="pass k from 1 on"
        )
    check_pool(pool)
    return tuple(np.argsort(-value.vote_entropy(pool.ballots.codes), kind="stable")[:k].tolist())


# -- what they share


def _ranked(table: RunTable) -> list[int]:
    """Columns of the models, those with the best mean score first; at least two."""
    if len(table.models) < 2:
        raise _too_few(f"a run of one model, {table.models[0]},", "run two models or more")
    known = ~np.isnan(table.scores)
    mean = np.where(known, table.scores, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return [int(j) for j in np.argsort(-mean, kind="stable")]


def _called(merges: Sequence[Merge]) -> list[str]:
    """Names of the merges, with their parameters where two have the same."""
    names = [m.name for m in merges]
    return [f"{m.name}({params_of(m)})" if names.count(m.name) > 1 else m.name for m in merges]


def _too_few(found: str, instead: str) -> LLMValidationError:
    return LLMValidationError(f"{found} cannot be compared", code="validation.models", next_step=instead)
