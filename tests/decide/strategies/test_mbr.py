"""Merges of free text: utilities by hand, the traps of leaving oneself out, what is learned, and vectors."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from tests.contracts import merge_contract as contract
from tests.decide.strategies.cases import refused
from workbench.decide.merge import params_of
from workbench.decide.policies import check_ready
from workbench.decide.pool import Learner, Pool
from workbench.decide.strategies import mbr
from workbench.decide.strategies.mbr import (
    MinimumBayesRisk,
    TextStacking,
    by_embeddings,
    expected_utility,
    mbr_choice,
)
from workbench.decide.textmetrics import METRICS
from workbench.decide.votes import Ballots
from workbench.facts import ModelContribution, Response
from workbench.study.stats import split_differences

NAN = float("nan")
BOTH = [MinimumBayesRisk, TextStacking]
WORDS = ("red", "blue", "green", "car", "bus", "tram", "old", "new")


def pool_of(*rows, models="abcdefgh", texts=True):
    """A pool of these texts; an item's answers are its texts in lower case."""
    members = models[: len(rows[0])]
    ballots = Ballots.of(members, [[None if text is None else text.lower() for text in row] for row in rows])
    return Pool.of(ballots, texts=rows if texts else None)


def decided(strategy, *texts, models="abcdefgh"):
    """The answer to one item, given by these models in order."""
    return strategy([
        ModelContribution(
            model=m, answer=text.lower(), response=Response(request_key="", model=m, text=text, source="live")
        )
        for m, text in zip(models, texts, strict=False)
    ])  # fmt: skip


def phrase(chance, words=4):
    return " ".join(chance.choice(WORDS) for _ in range(words))


def random_rows(items, members=4, seed=0):
    """Texts of few words, some equal, some missing."""
    chance = random.Random(seed)
    return [[phrase(chance, 2) if chance.random() > 0.1 else None for _ in range(members)] for _ in range(items)]


def rated(scores, pool):
    """Values of the answers of a pool whose members score so, N x M."""
    return pool.ballots.values(np.asarray(scores, dtype=np.float64))


# --- deciding ---------------------------------------------------------------------------------------------


def test_the_winner_is_the_text_most_like_all_others():
    """Token F1 of the first with both others is 1/2 and of these with each other 0: (1 + 1/2 + 1/2) / 3 of 1."""
    merged = decided(MinimumBayesRisk("token_f1"), "red bus", "red car", "blue car")
    assert (merged.answer, merged.text, merged.strategy) == ("red car", "red car", "minimum_bayes_risk")
    assert (merged.agreement, merged.confidence) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_texts_without_anything_in_common_are_a_weighted_vote():
    """Three words without a common letter: 3 of 7 and 4 of 7 of the weight."""
    strategy = MinimumBayesRisk(weights={"a": 3, "b": 2, "c": 2})
    merged = decided(strategy, "mmm", "xyz", "xyz")
    assert (merged.answer, merged.agreement, merged.confidence) == ("xyz", pytest.approx(4 / 7), pytest.approx(4 / 7))
    assert decided(strategy, "mmm", "xyz", "uvw").tied == ("mmm",)
    assert decided(MinimumBayesRisk(), "mmm", "xyz", "uvw").tied == ("mmm", "uvw", "xyz")


@pytest.mark.parametrize("metric", METRICS)
def test_utilities_are_those_of_a_plain_double_loop(metric):
    """Every outcome equals a loop over pairs with the metric of one pair, for random texts and weights."""
    rows = random_rows(25)
    weights = {"a": 0.5, "b": 2.0, "c": 1.0, "d": 0.25}
    outcome = MinimumBayesRisk(metric, weights).over(pool_of(*rows))
    for i, row in enumerate(rows):
        said = {m: t for m, t in zip("abcd", row, strict=True) if t is not None}
        total = sum(weights[m] for m in said)
        utility = {
            one: sum(
                weights[m] * (1 if one == other else min(METRICS[metric](one, other), 1 - 1e-6))
                for m, other in said.items()
            )
            / total
            for one in said.values()
        }
        best = max(utility.values(), default=0.0)
        tied = sorted(text for text, u in utility.items() if u > best - 1e-9)
        found = sorted(set(said.values()))
        assert [found[code] for code in np.flatnonzero(outcome.tied[i])] == tied
        assert outcome.agreement[i] == pytest.approx(best, abs=1e-12)
        assert outcome.confidence[i] == pytest.approx(best * len(said) / 4, abs=1e-12)
        assert outcome.chosen[i].tolist() == [text in tied for text in row]


def test_equal_answers_are_one_candidate_with_the_text_of_the_first_by_name():
    """a and c answer x, which is worth 1 to both; of their texts that of a is compared, at 1/2, and c's at 0."""
    ballots = Ballots.of("abc", [["x", "y", "x"]])
    outcome = MinimumBayesRisk("token_f1").over(Pool.of(ballots, texts=[["red car", "red bus", "tram"]]))
    assert outcome.agreement[0] == pytest.approx((2 + 1 / 2) / 3)
    assert outcome.chosen.tolist() == [[True, False, True]]
    silent = Pool.of(ballots, texts=[["", "red bus", "tram"]])  # no text: the next supporter's
    assert MinimumBayesRisk("token_f1").over(silent).agreement[0] == pytest.approx(2 / 3)


def test_of_texts_that_a_metric_cannot_tell_apart_the_one_with_more_weight_wins():
    """Token F1 sees no case and no dots, so that both texts are worth the same but for who gave them."""
    weights = {"a": 1.0, "b": 1.5, "c": 1.0}
    strategy = MinimumBayesRisk("token_f1", weights)
    assert decided(strategy, "Yes, two.", "yes two!", "red").tied == ("yes two!",)
    assert decided(MinimumBayesRisk("token_f1"), "Yes, two.", "yes two!").tied == ("yes two!", "yes, two.")


def test_answers_stand_in_for_texts_that_are_not_there():
    """Without texts the normalised answers are compared."""
    rows = [["red bus", "red car", "blue car"]]
    bare, told = pool_of(*rows, texts=False), pool_of(*rows)
    for strategy in (MinimumBayesRisk("token_f1"), TextStacking().fit(told, rated([[1.0, 2.0, 3.0]], told))):
        assert strategy.over(bare).tied.tolist() == strategy.over(told).tied.tolist()


def test_weight_0_leaves_a_member_out_as_candidate_and_as_reference():
    """Of a pair that agrees and one of weight 0 between them nothing is left but the other two."""
    strategy = MinimumBayesRisk("token_f1", {"a": 1.0, "b": 0.0, "c": 1.0})
    outcome = strategy.over(pool_of(["red bus", "red car", "blue car"]))
    assert outcome.tied.tolist() == [[True, True, False]]  # in sorted order: blue car, red bus, red car
    assert outcome.agreement[0] == pytest.approx(1 / 2)
    assert outcome.confidence[0] == pytest.approx(1 / 2 * 2 / 3)


def test_an_item_without_any_voter_has_no_winner():
    """Nobody answered, or only those of weight 0 did."""
    pool = pool_of([None, None], ["red", None])
    for outcome in (MinimumBayesRisk(weights={"a": 0, "b": 1}).over(pool), MinimumBayesRisk().over(pool.take([0]))):
        assert outcome.winner.tolist() == [-1] * len(outcome.winner)
        assert not outcome.agreement.any()
        assert not outcome.confidence.any()


@pytest.mark.parametrize("kind", BOTH)
def test_a_part_of_a_pool_is_decided_as_in_the_whole(kind):
    """What other items a pool has makes no difference."""
    pool = pool_of(*random_rows(30))
    strategy = kind().fit(pool, rated(np.random.default_rng(0).normal(size=(30, 4)), pool))
    whole, rows = strategy.over(pool), np.array([7, 3, 29])
    part = strategy.over(pool.take(rows))
    for name in ("winner", "tied", "agreement", "confidence", "chosen"):
        assert getattr(part, name).tolist() == getattr(whole, name)[rows].tolist()


# --- the traps of leaving oneself out -----------------------------------------------------------------------


def without_oneself(similarity, weights, *, renormalised):
    """Expected utility against the others alone."""
    s, w = np.array(similarity), np.array(weights, dtype=np.float64)
    others = s @ w - np.diag(s) * w
    return others / (w.sum() - w) if renormalised else others / w.sum()


def test_leaving_oneself_out_of_the_sum_would_punish_the_best_model():
    """Three texts equally alike: the one of weight 3 would come last; counted with itself it comes first."""
    alike = [[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]]
    assert without_oneself(alike, [3, 1, 1], renormalised=False).tolist() == [0.2, 0.4, 0.4]
    assert without_oneself(alike, [3, 1, 1], renormalised=True).tolist() == [0.5, 0.5, 0.5]  # blind to the weight
    assert expected_utility(alike, [3, 1, 1]).tolist() == pytest.approx([0.8, 0.6, 0.6])
    assert decided(MinimumBayesRisk("token_f1", {"a": 1, "b": 3, "c": 1}), "red car", "red bus", "car bus").tied == (
        "red bus",
    )


def test_leaving_oneself_out_renormalised_would_let_a_winner_lose_when_its_weight_grows():
    """Weight 9 instead of 1 draws the second up to the first, whose own weight is not seen: 0.7 against 0.77."""
    s = [[1, 0.8, 0.6], [0.8, 1, 0.5], [0.6, 0.5, 1]]
    assert without_oneself(s, [1, 1, 1], renormalised=True).tolist() == pytest.approx([0.7, 0.65, 0.55])
    assert without_oneself(s, [9, 1, 1], renormalised=True).tolist() == pytest.approx([0.7, 0.77, 0.59])
    for own in (1, 9):
        assert expected_utility(s, [own, 1, 1]).argmax() == 0


def test_with_equal_weights_oneself_makes_no_difference():
    """(1 + others) / k ranks as others / (k - 1) does."""
    chance = np.random.default_rng(0)
    for _ in range(20):
        s = chance.random((6, 6))
        np.fill_diagonal(s, 1.0)
        ours, theirs = expected_utility(s, np.ones(6)), without_oneself(s, np.ones(6), renormalised=True)
        assert ours.argsort().tolist() == theirs.argsort().tolist()


# --- learning weights -----------------------------------------------------------------------------------------


def one_good(items=40, seed=0):
    """b writes what is right; a, c and d copy one another in what is wrong."""
    chance = random.Random(seed)
    rows = [[wrong := phrase(chance), phrase(chance), wrong + " so", wrong + " it"] for _ in range(items)]
    pool = pool_of(*rows)
    return pool, rated([[-3.0, -1.0, -3.0, -3.0]] * items, pool)


def noisy_copies(items=60, seed=0, members=5):
    """Members equally good: each copies the reference with one or two words wrong, worth minus their number."""
    chance = random.Random(seed)
    rows, scores = [], []
    for _ in range(items):
        reference = phrase(chance, 8).split()
        texts, lost = [], []
        for _ in range(members):
            errors = chance.choice((0, 1, 2, 4))
            wrong = set(chance.sample(range(8), errors))
            texts.append(" ".join(f"x{chance.randrange(999)}" if k in wrong else w for k, w in enumerate(reference)))
            lost.append(-float(errors))
        rows.append(texts)
        scores.append(lost)
    pool = pool_of(*rows)
    return pool, rated(scores, pool), np.array(scores)


def test_fit_trusts_the_best_model_where_the_others_agree_in_error():
    """The best model's answer wins every item, also against three that write nearly the same."""
    pool, values = one_good()
    assert (MinimumBayesRisk().over(pool).scores(values) == -3.0).all()
    fitted = MinimumBayesRisk().fit(pool, values)
    assert max(fitted.weights, key=fitted.weights.get) == "b"
    assert (fitted.over(pool).scores(values) == -1.0).all()


def test_fit_lets_members_of_independent_errors_correct_one_another():
    """Among equally good members the text in the middle is better than any one of them, on items not fitted on."""
    pool, values, scores = noisy_copies(120)
    fitted = MinimumBayesRisk().fit(pool.take(range(60)), values[:60])
    reached = fitted.over(pool.take(range(60, 120))).scores(values[60:]).mean()
    assert reached > scores[60:].mean(axis=0).max() + 0.3


def test_fitted_weights_are_a_softmax_of_standardised_means_at_one_of_the_temperatures():
    """Means 0, 1, 2 stand 1.2247 standard deviations apart, so that weights grow by exp(1.2247 / temperature)."""
    rows = [[phrase(random.Random(3 * i + j)) for j in range(3)] for i in range(12)]
    pool = pool_of(*rows)
    for scale in (1.0, 250.0):
        fitted = MinimumBayesRisk().fit(pool, rated([[0.0, scale, 2 * scale]] * 12, pool))
        a, b, c = (fitted.weights[m] for m in "abc")
        assert a + b + c == pytest.approx(1)
        assert b / a == pytest.approx(c / b)
        temperature = math.sqrt(1.5) / math.log(b / a)
        assert any(temperature == pytest.approx(t) for t in mbr.TEMPERATURES if math.isfinite(t))


def test_where_no_temperature_is_better_all_members_count_alike():
    """Every answer is worth the same, so that weights have nothing to add."""
    pool = pool_of(*random_rows(10))
    assert set(MinimumBayesRisk().fit(pool, rated(np.ones((10, 4)), pool)).weights.values()) == {0.25}


def test_means_that_differ_by_rounding_alone_are_alike():
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floats, and no reason to prefer one of three models."""
    pool = pool_of(*[[f"red {i}", f"blue {i}", f"red {i} car"] for i in range(3)])
    orders = np.array([[0.1, 0.3, 0.2], [0.2, 0.2, 0.3], [0.3, 0.1, 0.1]])
    assert len(set(orders.mean(axis=0))) > 1
    assert set(MinimumBayesRisk().fit(pool, rated(orders, pool)).weights.values()) == {1 / 3}


def test_a_member_that_never_answers_has_no_influence_on_the_others():
    """The weights of the others stand in the same proportion as without it."""
    rows = random_rows(30, members=3, seed=2)
    scores = np.random.default_rng(3).normal(size=(30, 3)) + np.array([0, 0.5, 1])
    pool, more = pool_of(*rows), pool_of(*[[*row, None] for row in rows])
    one = MinimumBayesRisk().fit(pool, rated(scores, pool)).weights
    two = MinimumBayesRisk().fit(more, rated(np.hstack([scores, np.full((30, 1), NAN)]), more)).weights
    assert [two[m] / two["a"] for m in "abc"] == pytest.approx([one[m] / one["a"] for m in "abc"])


def test_unknown_values_and_items_are_passed_over():
    """An item nobody rated changes nothing, and one rated answer of an item is enough to learn from."""
    pool, values = one_good()
    more = pool_of(*pool.texts, *random_rows(5, seed=1))
    for kind in BOTH:
        padded = np.full((45, more.ballots.width), NAN)
        padded[:40, : values.shape[1]] = values
        full, part = kind().fit(pool, values), kind().fit(more, padded)
        assert part == kind(**{**params_of(part), "weights": part.weights})
        assert dict(part.weights) == pytest.approx(dict(full.weights), abs=1e-9)


def test_an_answer_of_unknown_value_is_worth_the_mean_of_its_item():
    """A fit on what is known equals one on the item's mean in its place."""
    pool = pool_of(*random_rows(20, seed=4))
    values = rated(np.random.default_rng(1).normal(-5, 1, (20, 4)), pool)
    sparse = np.where(np.random.default_rng(2).random(values.shape) < 0.4, NAN, values)
    sparse[0] = values[0]
    told = ~np.isnan(sparse).all(axis=1)
    mean = np.nanmean(sparse[told], axis=1, keepdims=True)
    filled = np.where(np.isnan(sparse[told]), mean, sparse[told])
    one, two = MinimumBayesRisk().fit(pool, sparse), MinimumBayesRisk().fit(pool.take(told), filled)
    assert dict(one.weights) == pytest.approx(dict(two.weights))


def test_a_missing_answer_is_worth_the_least_that_any_was():
    """b is better where it answers, and answers one item in four; the least is -3 of c."""
    rows = [[f"red {i} w", f"red {i} x" if i % 4 == 0 else None, f"red {i} z"] for i in range(8)]
    pool = pool_of(*rows)
    fitted = MinimumBayesRisk().fit(pool, rated([[-1.5, -1.0, -3.0]] * 8, pool))
    assert list(fitted.weights) == ["a", "b", "c"]
    assert fitted.weights["a"] > fitted.weights["b"] >= fitted.weights["c"]


# --- stacking with texts ------------------------------------------------------------------------------------------


def test_features_are_members_standardised_utilities_and_lengths():
    """Utilities 1/2, 1/2 and 2/3 deviate by -1, -1 and 2 of sqrt(2); lengths 8, 7 and 7 by 2, -1 and -1 of sqrt(2)."""
    pool = pool_of(["red car", "blue car", "red bus"])  # sorted: blue car, red bus, red car
    features = TextStacking(metrics=("token_f1",))._features(pool)
    assert features[0, :, :3].tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    root = math.sqrt(2)
    assert features[0, :, 3] == pytest.approx(np.array([-1, -1, 2]) / root, abs=1e-5)
    assert features[0, :, 4] == pytest.approx(np.array([2, -1, -1]) / root)


def test_lengths_are_compared_by_their_logarithms():
    """1, 3 and 7 characters, plus one, are 2, 4 and 8: equally far apart."""
    features = TextStacking()._features(pool_of(["x", "yyy", "zzzzzzz"]))
    assert features[0, :, 4] == pytest.approx(np.array([-1, 0, 1]) * math.sqrt(1.5))


def test_features_of_equals_and_of_absent_answers_are_0():
    """Nothing tells apart one answer, or answers equally long and alike, whose sums of sixths differ by rounding."""
    alike = ["p q a b c d", "p r e f g h", "q r i j k l"]
    sums = mbr._similarity(tuple(alike), "rouge_1") @ np.ones(3)
    assert len(set(sums)) > 1
    features = TextStacking(metrics=("rouge_1",))._features(
        pool_of(["red"] * 3, ["red x", "red y", None], [None] * 3, alike)
    )
    assert not features[:, :, 3:].any()


def test_text_stacking_weights_are_those_of_a_least_squares_solver():
    """Rows sqrt(penalty) added to the centred features make least squares a ridge regression."""
    pool, values, _ = noisy_copies(60, seed=3)
    fitted = TextStacking(metrics=("chrf", "rouge_l"), penalty=2.0).fit(pool, values)
    x = fitted._features(pool)
    there = pool.present & ~np.isnan(values)
    rows, wanted = [], []
    for i in range(len(pool)):
        rows.append(x[i, there[i]] - x[i, there[i]].mean(axis=0))
        wanted.append(values[i, there[i]] - values[i, there[i]].mean())
    a = np.vstack([*rows, math.sqrt(2.0) * np.eye(x.shape[2])])
    solved = np.linalg.lstsq(a, np.concatenate([*wanted, np.zeros(x.shape[2])]), rcond=None)[0]
    assert list(fitted.weights.values()) == pytest.approx(solved[:5].tolist(), abs=1e-8)
    learned = np.array([fitted.text_weights[name] for name in ("chrf", "rouge_l", "length")])
    trusts = learned / solved[5:]
    assert trusts == pytest.approx(np.full(3, trusts[0]))
    assert any(trusts[0] == pytest.approx(trust) for trust in mbr.TRUST[1:])


def test_text_stacking_learns_that_what_is_like_the_others_is_better():
    """On items not fitted on it beats every member where errors are independent."""
    pool, values, scores = noisy_copies(120)
    fitted = TextStacking().fit(pool.take(range(60)), values[:60])
    assert fitted.text_weights["chrf"] > 0
    reached = fitted.over(pool.take(range(60, 120))).scores(values[60:]).mean()
    assert reached > scores[60:].mean(axis=0).max() + 0.3


def test_text_stacking_keeps_to_the_best_model_where_texts_mislead():
    """Three members that copy one another are alike and wrong: what is learned is to follow b."""
    pool, values = one_good()
    fitted = TextStacking().fit(pool, values)
    assert max(fitted.weights, key=fitted.weights.get) == "b"
    assert (fitted.over(pool).scores(values) == -1.0).all()


def test_text_weights_that_choose_no_better_are_dropped():
    """Where choosing by who wrote it is best on every item already, the smallest trust is taken: 0."""
    pool, values = one_good()
    assert set(TextStacking().fit(pool, values).text_weights.values()) == {0.0}


# --- vectors ------------------------------------------------------------------------------------------------------


def test_cosine_similarity_is_that_of_the_angle():
    """45 degrees are 1 / sqrt(2), opposite vectors -1, whatever their lengths."""
    found = by_embeddings([[1, 0], [5, 5], [-2, 0]])
    half = 1 / math.sqrt(2)
    assert found == pytest.approx(np.array([[1, half, -1], [half, 1, -half], [-1, -half, 1]]))


def test_huge_tiny_and_zero_vectors_are_compared_without_overflow():
    """Squares of 1e300 and 1e-300 leave the range of floats; a zero vector is like itself alone."""
    found = by_embeddings([[1e300, 1e300], [1e-300, 1e-300], [0, 0]])
    assert found == pytest.approx(np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]]))
    assert by_embeddings(np.zeros((0, 3))).shape == (0, 0)
    assert by_embeddings(np.zeros((2, 0))).tolist() == [[1, 0], [0, 1]]


def test_the_choice_by_vectors_is_the_one_most_like_all_by_weight():
    """The vector in the middle wins with equal weights, the heavy one with its own, the first of equals in a tie."""
    vectors = [[0, 1], [1, 1], [1, 0]]
    assert mbr_choice(vectors, [1, 1, 1]) == 1
    assert mbr_choice(vectors, [9, 1, 1]) == 0
    assert mbr_choice(vectors, [1, 0, 1]) == 0
    assert mbr_choice(vectors, [0, 0, 5]) == 2
    assert mbr_choice([[6, 3], [48, 24], [1, 2]], [1, 1, 1]) == 0  # the second is ahead by rounding alone
    assert mbr_choice([[3, 4], [0.6, 0.8]], [1e308, 1e308]) == 0


@pytest.mark.parametrize("vectors", [[1, 2], [[NAN, 1]], [[math.inf, 1]]])
def test_vectors_that_are_none_are_refused(vectors):
    """One list of numbers is no list of vectors, and NaN and infinity have no direction."""
    refused(lambda: by_embeddings(vectors), "validation.vectors")


def test_similarities_and_weights_must_fit_together():
    """The shapes and the numbers that are wrong are named."""
    assert "(1, 2)" in str(refused(lambda: expected_utility([[1, 2]], [1]), "validation.shape"))
    refused(lambda: expected_utility([[1]], [[1]]), "validation.shape")
    for weights in ([0, 0], [-1, 2], [NAN, 1], [math.inf, 1]):
        refused(lambda w=weights: expected_utility(np.eye(2), w), "validation.weights")


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """The calls of `pairwise`, with an empty memo."""
    calls = []
    plain = mbr.pairwise
    monkeypatch.setattr(mbr, "_MEMO", type(mbr._MEMO)())
    monkeypatch.setattr(mbr, "pairwise", lambda texts, metric: (calls.append(texts), plain(texts, metric))[1])
    return calls


def test_similarities_are_computed_once_for_all_parts_of_a_run(counted):
    """Fits and decisions on many splits compare the texts of an item once for each metric."""
    pool = pool_of(*[[f"red {i}", f"blue {i}", f"red {i} car"] for i in range(12)])
    values = rated(np.random.default_rng(0).random((12, 3)), pool)
    for half in (range(6), range(3, 9), range(12)):
        for kind in BOTH:
            kind().fit(pool.take(half), values[list(half)]).over(pool)
    assert len(counted) == 12


def test_the_memo_is_bounded_and_holds_no_texts(counted, monkeypatch):
    """The oldest table goes first, keys are digests, and tables of many texts are not kept at all."""
    monkeypatch.setattr(mbr, "MEMO", 3)
    for i in range(10):
        MinimumBayesRisk().over(pool_of([f"red {i}", "blue"]))
    assert len(mbr._MEMO) == 3
    assert {len(key) for key in mbr._MEMO} == {32}
    MinimumBayesRisk().over(pool_of(["red 9", "blue"], ["red 0", "blue"]))
    assert len(counted) == 11
    many = [f"red {i}" for i in range(mbr.MEMO_TEXTS + 1)]
    pool = pool_of(many, models=[f"m{i:02}" for i in range(len(many))])
    assert MinimumBayesRisk().over(pool).winner[0] >= 0
    assert mbr.MEMO_TEXTS + 1 not in {len(table) for table in mbr._MEMO.values()}
    assert not any(table.flags.writeable for table in mbr._MEMO.values())


def test_another_metric_and_another_split_of_the_same_letters_are_other_tables(counted):
    """Neither the metric nor the borders between texts are lost in a key."""
    for texts in (["ab", "c"], ["a", "bc"]):
        for metric in ("chrf", "bleu"):
            MinimumBayesRisk(metric).over(pool_of(texts))
    assert len(counted) == len(mbr._MEMO) == 4


# --- the policy as data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: MinimumBayesRisk("chrff"), "validation.metric"),
        (lambda: MinimumBayesRisk(None), "validation.metric"),
        (lambda: MinimumBayesRisk(weights={"a": -1}), "validation.weights"),
        (lambda: MinimumBayesRisk(weights={"a": 0}), "validation.weights"),
        (lambda: TextStacking(metrics=("chrf", "sari")), "validation.metric"),
        (lambda: TextStacking(metrics=[["chrf"]]), "validation.metric"),
        (lambda: TextStacking(metrics=()), "validation.strategy"),
        (lambda: TextStacking(metrics="chrf"), "validation.strategy"),
        (lambda: TextStacking(metrics=("chrf", "chrf")), "validation.strategy"),
        (lambda: TextStacking(penalty=0), "validation.strategy"),
        (lambda: TextStacking(penalty=math.inf), "validation.strategy"),
        (lambda: TextStacking(weights={"a": 1}), "validation.strategy"),
        (lambda: TextStacking(weights={"a": 1}, text_weights={"chrf": 1}), "validation.strategy"),
        (lambda: TextStacking(weights={"a": NAN}, text_weights={"chrf": 1, "length": 0}), "validation.weights"),
    ],
)
def test_fields_that_cannot_be_used_are_refused(make, code):
    """Each with the code of what is wrong, and a next step."""
    refused(make, code)


def test_a_misspelt_metric_is_told_the_closest_one():
    """The next step names a metric that exists."""
    assert "rouge_l" in refused(lambda: MinimumBayesRisk("rouge-l"), "validation.metric").next_step


@pytest.mark.parametrize("kind", BOTH)
def test_nothing_to_learn_from_is_refused(kind):
    """No item with a known value, and no item at all."""
    pool = pool_of(["red", "blue"], [None, None])
    refused(lambda: kind().fit(pool, np.full((2, 2), NAN)), "fit.items")
    refused(lambda: kind().fit(pool.take([]), np.zeros((0, 2))), "fit.items")


def test_text_stacking_decides_only_once_it_has_learned():
    """The refusal says how to fit it; minimum_bayes_risk needs no labels and is ready at once."""
    refused(lambda: TextStacking().over(pool_of(["red"])), "validation.unfitted")
    assert (TextStacking().fitted, MinimumBayesRisk().fitted) == (False, True)


@pytest.mark.parametrize("kind", BOTH)
def test_other_members_than_those_fitted_on_are_refused(kind):
    """The member that is not there is named."""
    pool, values = one_good()
    fitted = kind().fit(pool, values)
    assert "'d'" in str(refused(lambda: fitted.over(pool_of(["x"] * 4, models="abce")), "validation.weights"))


@pytest.mark.parametrize("kind", BOTH)
def test_a_fitted_policy_is_plain_data(kind):
    """Its parameters survive JSON, and the policy made of them is equal and decides alike."""
    pool, values, _ = noisy_copies(30)
    fitted = kind().fit(pool, values)
    again = kind(**json.loads(json.dumps(params_of(fitted))))
    assert again == fitted
    assert hash(again) == hash(fitted)
    assert again.over(pool).agreement.tolist() == fitted.over(pool).agreement.tolist()
    assert isinstance(fitted, Learner)


@pytest.mark.parametrize("kind", BOTH)
def test_a_fitted_policy_is_ready_for_its_members(kind):
    """What is checked before anything is asked holds for them, and names who is not there."""
    pool, values = one_good()
    fitted = kind().fit(pool, values)
    check_ready(fitted, list("dcba"))
    refused(lambda: check_ready(fitted, list("abc")), "validation.weights")


@pytest.mark.parametrize("kind", BOTH)
def test_numbers_at_the_end_of_their_range_do_no_harm(kind):
    """Weights of 1e308 are compared as those of 1 are."""
    weights = dict.fromkeys("abc", 1e308)
    texts = {"text_weights": {"chrf": 1e308, "length": -1e308}} if kind is TextStacking else {}
    outcome = kind(weights=weights, **texts).over(pool_of(["red bus", "red car", "blue car"]))
    assert outcome.winner.tolist() == [2]  # the text in the middle
    assert np.isfinite(outcome.confidence).all()


def learned(kind, **fields):
    """The policy, fitted on a planted run of all the models of the contract."""
    chance = np.random.default_rng(0)
    said = [[f"{m} says {chance.choice(contract.ANSWERS)}" for m in contract.MODELS] for _ in range(30)]
    ballots = Ballots.of(contract.MODELS, [[text.rpartition(" ")[2] for text in row] for row in said])
    scores = -chance.random((30, len(contract.MODELS))) * np.arange(1, 1 + len(contract.MODELS))
    return kind(**fields).fit(Pool.of(ballots, texts=said), ballots.values(scores))


STACKING = learned(TextStacking, metrics=("chrf", "token_f1"))


def stacking(weights):
    """The fitted policy for these members alone; strangers have the weight of the first."""
    own = {m: STACKING.weights.get(m, STACKING.weights["a:large"]) for m in weights}
    return replace(STACKING, weights=own)


FACTORIES = {
    "alike": lambda weights: MinimumBayesRisk("token_f1"),
    "weights": lambda weights: MinimumBayesRisk(weights=weights),
    "stacking": stacking,
}


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", FACTORIES)
def test_the_merges_of_free_text_keep_the_contract(name, check):
    """With members alike, with weights and with what was learned, they keep every promise of a Merge."""
    check(FACTORIES[name])


# --- real answers ---------------------------------------------------------------------------------------------------


@pytest.mark.recordings
@pytest.mark.no_cover
@pytest.mark.long
@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("recording", ["wmt23_ende_mqm", "ted_ende_mqm", "summeval_cnndm"])
def test_on_rated_texts_they_are_not_surely_worse_than_the_best_single_model(recording, kind, recordings: Path):
    """Fitted and judged on random half splits, the interval of the difference reaches above 0."""
    query = "select item_id, model, response, score from read_parquet(?)"
    found = duckdb.connect().execute(query, [str(recordings / f"{recording}.parquet")]).fetchall()
    items, models = sorted({row[0] for row in found}), sorted({row[1] for row in found})
    scores = np.full((len(items), len(models)), NAN)
    texts = [[""] * len(models) for _ in items]
    for item, model, text, score in found:
        i, j = items.index(item), models.index(model)
        scores[i, j], texts[i][j] = score, text
    pool = Pool.of(Ballots.of(models, texts), texts=texts)
    values = pool.ballots.values(scores)

    def strategy(choose):
        return kind().fit(pool.take(choose), values[choose]).over(pool).scores(values)

    result = split_differences(scores, strategy)
    assert result.high > 0
