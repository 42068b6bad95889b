"""Merges of free text: what the texts have in common decides, not whether they are equal.

The members' answers stand for the answers there could be, each with the weight of its supporters. An answer is worth
what it would score on average if one of them, drawn by weight, were the reference; one compared with itself scores 1.
So with a metric that is 1 for equals and else 0 this is a weighted vote.

The answer itself is among those references on purpose. Were it left out of the sum alone, the heaviest would lose most:
the best model would be punished for being trusted. Were the other weights made to sum to 1 again, an answer's own
weight would not count at all, and a winner could lose because its supporter's weight grew.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from workbench.canonical import text_hash
from workbench.decide.learn import check_values, ridge, supporters, worth_of_members, worth_of_nothing
from workbench.decide.pool import Pool, merged, nothing_to_learn, outcome_of, softmax, unfitted, votes_for
from workbench.decide.strategies.weighted import LARGEST
from workbench.decide.textmetrics import check_metric, pairwise
from workbench.decide.votes import Floats, Outcome
from workbench.decide.weights import SCALE, Signed, Weights, check_members, is_finite
from workbench.errors import LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution

# Of the weights of texts, what the choice among answers may keep.
TRUST = (0.0, 0.25, 0.5, 1.0)
# Standard deviations of the models' means that raise a weight by e: from all alike to hardly anybody but the best.
TEMPERATURES = (math.inf, 1.0, 0.5, 0.25, 0.1, 0.02)
LENGTH = "length"
# The most that different answers are alike: of those that a metric cannot tell apart, the one with more weight wins.
OTHER = 1 - 1e-6
# Tables of similarities that are kept, of at most so many texts each: 8 bytes x 8192 x 32 x 32 are 64 MiB.
MEMO, MEMO_TEXTS = 8192, 32


@dataclass(frozen=True)
class MinimumBayesRisk:
    """The answer with the largest expected utility: u(y) = sum of w_j metric(y, y_j) over sum of w_j, all members j.

    metric: a name of METRICS in decide/textmetrics.py; y is the hypothesis, y_j the reference. Answers that are equal
    once normalised are one, with the text of its first supporter by name; it counts 1 against its own supporters.
    weights: model -> weight >= 0, not all 0; 0 leaves a member out. None: all members alike, which takes no labels.
    agreement is the winner's expected utility, and the share of its votes where answers have nothing in common.
    Source: Kumar & Byrne 2004, "Minimum Bayes-risk decoding".
    """

    metric: str = "chrf"
    weights: Mapping[str, float] | None = None
    name: ClassVar[str] = "minimum_bayes_risk"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        check_metric(self.metric)
        if self.weights is not None:
            object.__setattr__(self, "weights", Weights(self.weights))

    @property
    def fitted(self) -> bool:
        """Always: without weights all members count alike."""
        return True

    def fit(self, pool: Pool, values: Floats) -> Self:
        """The weights of these items: a softmax of the models' mean values, at the temperature that does best here.

        Means are standardised, so that no scale of values is preferred; of equal temperatures the highest is taken. A
        model is worth what worth_of_nothing says where it has no answer, and an answer of unknown value the mean of its
        item. Raises LLMValidationError fit.items.
        """
        check_values(self.name, pool, values)
        rows, known = _guessed(pool, values)
        if not len(rows):
            raise nothing_to_learn(self.name, f"none of {len(pool)} items has an answer of known value")
        part = pool.take(rows)
        worth = worth_of_members(part.ballots, known)
        mean = np.where(np.isnan(worth), worth_of_nothing(worth), worth).mean(axis=0)
        heard = mean[~np.isnan(worth).all(axis=0)]  # a member that is never heard has no influence on the others
        spread = float(heard.std())
        alike = spread * SCALE <= np.abs(heard).max()  # but for rounding
        apart = np.zeros(len(mean)) if alike else (mean - heard.mean()) / spread
        rivals = softmax(apart / np.array(TEMPERATURES)[:, None], np.ones((len(TEMPERATURES), len(mean)), dtype=bool))
        tables = _tables(part, part.ballots.codes >= 0, self.metric)
        reached = [_decided(part, tables, own).scores(known).mean() for own in rivals]
        best = rivals[int(np.argmax(reached))]
        return replace(self, weights=dict(zip(pool.models, best.tolist(), strict=True)))

    def over(self, pool: Pool) -> Outcome:
        """The outcome of every item; raises LLMValidationError validation.weights.

        Where a pool has no texts, the normalised answers are compared.
        """
        if self.weights is not None:
            check_members(self.weights, pool.models)
        own = np.array([1.0 if self.weights is None else self.weights[model] for model in pool.models])
        own = own / own.max()  # sums of huge weights would overflow
        return _decided(pool, _tables(pool, (pool.ballots.codes >= 0) & (own > 0), self.metric), own)

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises as decide/merge.py does."""
        return merged(self, contributions)


@dataclass(frozen=True)
class TextStacking:
    """A ridge regression of an answer's value on who gave it, what it has in common with the others, and its length.

    All is less the mean of its item. The text features of an answer, its expected utility under each metric with all
    members alike and the logarithm of its length, are standardised within the item.
    metrics: names of METRICS, each once. penalty: > 0; the larger, the more labels it takes to move a weight.
    weights: model -> weight, text_weights: metric or "length" -> weight, both learned by `fit`.
    Source: Hoerl & Kennard 1970; Wolpert 1992, "Stacked generalization".
    """

    metrics: tuple[str, ...] = ("chrf",)
    penalty: float = 3.0
    weights: Mapping[str, float] | None = None
    text_weights: Mapping[str, float] | None = None
    name: ClassVar[str] = "text_stacking"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        given = list(self.metrics) if isinstance(self.metrics, tuple | list) else []
        for metric in given:
            check_metric(metric)
        if not given or len(set(given)) < len(given):
            raise _refused(f"metrics {self.metrics!r:.80} are no list of different names", 'use ("chrf",)')
        object.__setattr__(self, "metrics", tuple(self.metrics))
        if not is_finite(self.penalty) or self.penalty <= 0:
            raise _refused(
                f"penalty {self.penalty!r:.60} is no finite number > 0", "use 3, or more where labels are few"
            )
        for field in ("weights", "text_weights"):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, Signed(getattr(self, field)))
        if (self.weights is None) != (self.text_weights is None):
            raise _refused("one of weights and text_weights is there without the other", "leave out both, and fit it")
        if self.text_weights is not None and set(self.text_weights) != {*self.metrics, LENGTH}:
            named = ", ".join(self.text_weights)
            raise _refused(f"text_weights name {named}", f"give one for {', '.join(self.metrics)} and {LENGTH} each")

    @property
    def fitted(self) -> bool:
        """Whether it has learned."""
        return self.weights is not None

    def fit(self, pool: Pool, values: Floats) -> Self:
        """The weights of these items.

        The regression is of all answers, but only the one that is chosen counts. So the text weights are multiplied by
        the number of TRUST under which the choice is best on these items, of equals the smallest; 0 leaves who gave it.
        Raises LLMValidationError fit.items.
        """
        check_values(self.name, pool, values)
        present = pool.present & ~np.isnan(values)
        if present.sum() < 2:
            raise nothing_to_learn(self.name, f"{len(pool)} items have {int(present.sum())} answers of known value")
        features = self._features(pool)
        found = ridge(features, present, np.where(present, values, 0.0), self.penalty)
        m = len(pool.models)
        rows, known = _guessed(pool, values)
        rivals = [np.concatenate([found[:m], trust * found[m:]]) for trust in TRUST]
        part, x = pool.take(rows), features[rows]
        reached = [outcome_of(part.ballots, softmax(x @ own, part.present)).scores(known).mean() for own in rivals]
        best = rivals[int(np.argmax(reached))].tolist()
        return replace(
            self,
            weights=dict(zip(pool.models, best[:m], strict=True)),
            text_weights=dict(zip((*self.metrics, LENGTH), best[m:], strict=True)),
        )

    def _features(self, pool: Pool) -> Floats:
        """N x width x (M + metrics + 1)."""
        voting, present = pool.ballots.codes >= 0, pool.present
        votes = supporters(pool.ballots)
        alike = votes.sum(axis=2)
        texts = [_utilities(_tables(pool, voting, metric), alike) for metric in self.metrics]
        lengths = np.zeros(present.shape)
        for row, spoken in zip(lengths, _spoken(pool, voting), strict=True):
            row[: len(spoken)] = np.log1p([len(text) for text in spoken])
        return np.concatenate([votes, *(_standardised(x, present)[..., None] for x in (*texts, lengths))], axis=2)

    def over(self, pool: Pool) -> Outcome:
        """The outcome of every item; raises LLMValidationError validation.unfitted, validation.weights.

        Where a pool has no texts, the normalised answers are compared.
        """
        if self.weights is None or self.text_weights is None:
            raise unfitted(self)
        check_members(self.weights, pool.models)
        own = [self.weights[model] for model in pool.models]
        by_text = [self.text_weights[name] for name in (*self.metrics, LENGTH)]
        score = self._features(pool) @ np.clip([*own, *by_text], -LARGEST, LARGEST)
        return outcome_of(pool.ballots, softmax(score, pool.present))

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged answer; raises as decide/merge.py does, and validation.unfitted."""
        return merged(self, contributions)


def expected_utility(similarity: Floats, weights: Floats) -> Floats:
    """Mean similarity of each of k candidates to all of them, by weight.

    similarity: k x k, [i, j] of candidate i to reference j; larger is better. weights: k, finite, >= 0, not all 0.
    Raises LLMValidationError validation.shape, validation.weights.
    >>> expected_utility([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]], [2, 1, 1]).tolist()
    [0.625, 0.5, 0.25]
    """
    table, own = _numbers(similarity), _numbers(weights)
    if own.ndim != 1 or table.shape != (len(own), len(own)) or not np.isfinite(table).all():
        raise LLMValidationError(
            f"similarities of the shape {table.shape} for weights of the shape {own.shape}",
            code="validation.shape",
            next_step="give k x k finite similarities and k weights",
        )
    if not (np.isfinite(own).all() and (own >= 0).all() and own.any()):
        raise LLMValidationError(
            f"weights {own.tolist()!r:.80} are not finite numbers >= 0, one of them positive",
            code="validation.weights",
            next_step="give every candidate a finite weight >= 0, at least one of them positive",
        )
    share = own / own.max()  # sums of huge weights would overflow
    return np.asarray(table @ (share / share.sum()))


def by_embeddings(vectors: Floats) -> Floats:
    """Cosine similarity of k vectors, k x k in [-1, 1]; that of a zero vector is 0, to itself 1.

    vectors: k x d, finite. Raises LLMValidationError validation.vectors.
    >>> by_embeddings([[1, 0], [3, 0], [0, 2]]).tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    made = _numbers(vectors)
    if made.ndim != 2 or not np.isfinite(made).all():
        raise LLMValidationError(
            f"vectors of the shape {made.shape}, {int((~np.isfinite(made)).sum())} numbers of them not finite",
            code="validation.vectors",
            next_step="give k vectors of the same length, all numbers finite",
        )
    top = np.abs(made).max(axis=1, keepdims=True, initial=0.0)
    scaled = made / np.where(top > 0, top, 1.0)  # squares of huge or tiny numbers leave the range of floats
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit = scaled / np.where(length > 0, length, 1.0)
    cosine = np.clip(unit @ unit.T, -1.0, 1.0)
    np.fill_diagonal(cosine, 1.0)
    return cosine


def mbr_choice(vectors: Floats, weights: Floats) -> int:
    """Index of the candidate with the largest expected cosine similarity; of equals the first.

    vectors: k x d, one per candidate. weights: k; who has weight 0 is no candidate. Raises as the two functions above.
    >>> mbr_choice([[0, 1], [1, 0.1], [1, 0]], [1, 1, 1])
    1
    """
    own = _numbers(weights)
    reached = np.where(own > 0, expected_utility(by_embeddings(vectors), own), -np.inf)
    return int(np.argmax(reached >= reached.max() - 1 / SCALE))


def _utilities(tables: Sequence[Floats], votes: Floats) -> Floats:
    """N x width: the expected utility of every answer; 0 for codes that stand for none."""
    made = np.zeros(votes.shape)
    for row, table, own in zip(made, tables, votes, strict=True):
        k = len(table)
        row[:k] = table @ own[:k]
    total = votes.sum(axis=1, keepdims=True)
    return np.asarray(made / np.where(total > 0, total, 1.0))


def _decided(pool: Pool, tables: Sequence[Floats], own: Floats) -> Outcome:
    """The outcome under these weights of the members, M in [0, 1]."""
    codes = pool.ballots.codes
    voting = (codes >= 0) & (own > 0)
    votes = votes_for(codes, own, pool.ballots.width)
    utility = np.where(votes > 0, np.minimum(_utilities(tables, votes), 1.0), 0.0)
    outcome = outcome_of(pool.ballots, utility, voting=voting)
    won = utility[np.arange(len(pool)), np.maximum(outcome.winner, 0)]
    agreement = np.where(outcome.winner >= 0, won, 0.0)
    return replace(outcome, agreement=agreement, confidence=agreement * voting.mean(axis=1))


def _spoken(pool: Pool, voting: NDArray[np.bool_]) -> list[tuple[str, ...]]:
    """The text of every answer of every item: its first voting supporter's, else the normalised answer."""
    found = []
    said = np.where(voting, pool.ballots.codes, -1).tolist()
    for answers, codes, texts in zip(pool.ballots.answers, said, pool.texts, strict=True):
        spoken = list(answers)
        for code, text in zip(reversed(codes), reversed(texts), strict=True):
            if code >= 0 and text:
                spoken[code] = text
        found.append(tuple(spoken))
    return found


def _tables(pool: Pool, voting: NDArray[np.bool_], metric: str) -> list[Floats]:
    """The similarities between the answers of every item."""
    return [_similarity(texts, metric) for texts in _spoken(pool, voting)]


_MEMO: OrderedDict[str, Floats] = OrderedDict()


def _similarity(texts: tuple[str, ...], metric: str) -> Floats:
    """Similarities of k texts, k x k in [0, 1], 1 on the diagonal; computed once for all the splits of a run.

    Kept by a digest, so that texts are not held; the tables made first go first.
    """
    key = text_hash(repr((metric, texts)))
    kept = _MEMO.get(key)
    if kept is not None:
        return kept
    table = np.minimum(pairwise(texts, metric), OTHER)
    np.fill_diagonal(table, 1.0)
    table.flags.writeable = False  # the same array is handed out again
    if len(texts) <= MEMO_TEXTS:
        _MEMO[key] = table
        if len(_MEMO) > MEMO:
            _MEMO.popitem(last=False)
    return table


def _guessed(pool: Pool, values: Floats) -> tuple[NDArray[np.intp], Floats]:
    """The items where some value is known, and theirs; an answer of unknown value is worth the mean of its item."""
    known = pool.present & ~np.isnan(values)
    rows = np.flatnonzero(known.any(axis=1))
    told, found = known[rows], values[rows]
    mean = np.where(told, found, 0.0).sum(axis=1, keepdims=True) / told.sum(axis=1, keepdims=True)
    return rows, np.where(told, found, mean)


def _standardised(x: Floats, present: NDArray[np.bool_]) -> Floats:
    """Less the mean of its item, over its standard deviation; 0 where all are equal, and for absent codes."""
    count = np.maximum(present.sum(axis=1, keepdims=True), 1)
    apart = np.where(present, x - np.where(present, x, 0.0).sum(axis=1, keepdims=True) / count, 0.0)
    spread = np.sqrt((apart**2).sum(axis=1, keepdims=True) / count)
    return np.asarray(np.where(spread > 1 / SCALE, apart / np.where(spread > 0, spread, 1.0), 0.0))


def _numbers(given: object) -> Floats:
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise LLMValidationError(
            f"{given!r:.80} are not numbers",
            code="validation.shape",
            next_step="give similarities or vectors as rows of numbers, and k weights",
        ) from error


def _refused(found: str, instead: str) -> LLMValidationError:
    return LLMValidationError(found, code="validation.strategy", next_step=instead)
