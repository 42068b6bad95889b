"""Pools and outcomes: one item is a pool of one, ties are ties, and what nobody said never wins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workbench.decide import votes
from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus
from workbench.decide.pool import (
    Learner,
    Pool,
    Strategy,
    learned,
    merged,
    nothing_to_learn,
    outcome_of,
    over,
    softmax,
    unfitted,
    votes_for,
)
from workbench.decide.strategies.auto import Auto
from workbench.decide.strategies.single import BestSingle
from workbench.decide.strategies.weighted import LogOdds, Stacking
from workbench.decide.votes import Ballots
from workbench.errors import LLMOrchestratorError, LLMValidationError
from workbench.facts import Failure, ModelContribution, Response

NAN = float("nan")
FAILURE = Failure(kind="LLMProviderError", code="provider.server", message="503")
# Names whose sorted order is neither that of numbers nor that of lower-case letters.
NAMES = [f"m:{i}" for i in range(10)] + ["m:10", "M:1", "é:x", "z:z"]
ANSWERS = ["10", "9", "", "yes", "é", "None", *"abcdef"]

numbers = st.one_of(
    st.sampled_from([0.0, 0.1, 0.2, 0.3, -0.3, 1 / 3, 1.0, -2.0, 40.0, 5e-324, 1e9, -1e9, 1e300, 1.7e308, -1.7e308]),
    st.floats(-5, 5),
)
qualities = st.one_of(st.just(NAN), st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))


@st.composite
def strategies(draw, models):
    """A strategy as it is after fitting, with any numbers that a fit could have found."""
    weights = dict(zip(models, draw(st.lists(numbers, min_size=len(models), max_size=len(models))), strict=True))
    ranking = tuple(draw(st.permutations(models)))
    plain = [LogOdds(weights), Stacking(weights), BestSingle(ranking)]
    autos = [
        Auto(chosen={"policy": "majority_voting", "params": {}}),
        Auto(chosen={"policy": "stacking", "params": {"weights": weights}}),
        Auto(chosen={"policy": "best_single", "params": {"ranking": ranking}}),
    ]
    return draw(st.sampled_from([*plain, *autos]))


@st.composite
def runs(draw):
    """A strategy and a run: models in any order, answers, failures and qualities, items x models."""
    models = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=14, unique=True))
    m, n = len(models), draw(st.integers(1, 4))
    alphabet = draw(st.lists(st.sampled_from([*ANSWERS, None]), min_size=1, max_size=12))

    def table(cell):
        return draw(st.lists(st.lists(cell, min_size=m, max_size=m), min_size=n, max_size=n))

    failed = table(st.integers(0, 4).map(lambda k: k == 0))
    return draw(strategies(models)), models, table(st.sampled_from(alphabet)), table(qualities), failed


def said(model, answer, quality=None, weight=1.0):
    """A kept contribution whose text names its model."""
    response = Response(request_key="k", model=model, text=f"{model}: {answer}", source="simulated")
    return ModelContribution(model=model, response=response, answer=answer, quality=quality, weight=weight)


def failed_of(model):
    return ModelContribution(model=model, failure=FAILURE, status="failed")


def contributions(models, answers, quality, failed):
    """One item as the scalar form takes it."""
    return [
        failed_of(m) if f else said(m, a, None if np.isnan(q) else q)
        for m, a, q, f in zip(models, answers, quality, failed, strict=True)
    ]


def pool_of(models, answers, quality=None, failed=None):
    """A run as a pool; members that failed have no answer."""
    down = np.zeros((len(answers), len(models)), dtype=bool) if failed is None else np.array(failed, dtype=bool)
    kept = [[None if f else a for a, f in zip(*row, strict=True)] for row in zip(answers, down.tolist(), strict=True)]
    return Pool.of(Ballots.of(models, kept, quality=None if quality is None else np.array(quality), failed=down))


# --- one item and a million items are the same policy ---------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(runs())
@example((LogOdds({"m:0": 0.1, "m:1": 0.2, "m:2": 0.3}), ["m:2", "m:0", "m:1"], [["9", "10", "10"]],
          [[NAN] * 3], [[False] * 3]))  # fmt: skip
@example((Stacking({"m:0": 1.7e308, "m:1": 1.7e308, "m:2": -1.7e308}), ["m:0", "m:1", "m:2"],
          [["x", "x", "y"]], [[NAN] * 3], [[False] * 3]))  # fmt: skip
def test_one_item_is_decided_as_its_row_in_a_pool(run):
    """Answer, ties, agreement and confidence are equal to the last bit; a refusal is winner -1."""
    strategy, models, answers, quality, failed = run
    pool = pool_of(models, answers, quality, failed)
    outcome = strategy.over(pool)
    for i, found in enumerate(pool.ballots.answers):
        tied = tuple(a for c, a in enumerate(found) if outcome.tied[i, c])
        winner = None if outcome.winner[i] < 0 else found[outcome.winner[i]]
        try:
            one = strategy(contributions(models, answers[i], quality[i], failed[i]))
        except LLMOrchestratorError:
            assert (winner, tied, outcome.agreement[i], outcome.confidence[i]) == (None, (), 0.0, 0.0)
        else:
            assert (one.answer, one.tied) == (winner, tied)
            assert (one.agreement, one.confidence) == (outcome.agreement[i], outcome.confidence[i])
            assert one.strategy == strategy.name


@settings(max_examples=25, deadline=None)
@given(runs(), st.randoms(use_true_random=False))
def test_the_order_of_models_changes_nothing(run, chance):
    """Columns in another order give equal pools and equal decisions."""
    strategy, models, answers, quality, failed = run
    order = chance.sample(range(len(models)), len(models))
    one = pool_of(models, answers, quality, failed)
    two = pool_of(
        [models[j] for j in order],
        [[row[j] for j in order] for row in answers],
        np.array(quality)[:, order],
        np.array(failed)[:, order],
    )
    assert one.models == two.models == tuple(sorted(models))
    assert_equal(strategy.over(one), strategy.over(two))


@settings(max_examples=25, deadline=None)
@given(runs(), st.data())
def test_some_items_are_decided_as_among_all(run, data):
    """What is decided for an item does not depend on which others are in the pool, nor how often it is there."""
    strategy, models, answers, quality, failed = run
    pool = pool_of(models, answers, quality, failed)
    rows = np.array(data.draw(st.lists(st.integers(0, len(pool) - 1), max_size=5)), dtype=np.intp)
    whole, part = strategy.over(pool), strategy.over(pool.take(rows))
    for field in ("winner", "tied", "agreement", "confidence", "chosen"):
        assert np.array_equal(getattr(whole, field)[rows], getattr(part, field)), field


def test_rounding_makes_nobody_surer_than_agreed():
    """Three of three answer, and 3 x agreement / 3 may be a bit more than agreement: confidence is not."""
    ballots = Ballots.of(["a", "b", "c"], [["x", "y", "y"]] * 200)
    share = np.random.default_rng(0).random((200, 2))
    outcome = outcome_of(ballots, share)
    assert (outcome.agreement * 3 / 3 > outcome.agreement).any()  # or else the case has lost its point
    assert (outcome.confidence <= outcome.agreement).all()
    unequal = WeightedConsensus({"a": 0.1, "b": 0.1, "c": 0.5})
    many, one = votes.decide(unequal, ballots), unequal([said("a", "x"), said("b", "y"), said("c", "y")])
    assert (many.confidence <= many.agreement).all()
    assert one.confidence <= one.agreement


@settings(max_examples=25, deadline=None)
@given(runs())
def test_what_is_decided_was_said_and_is_no_surer_than_agreed(run):
    """A winner is an answer of its item, given by those who are chosen; 0 <= confidence <= agreement <= 1."""
    strategy, models, answers, quality, failed = run
    pool = pool_of(models, answers, quality, failed)
    outcome = strategy.over(pool)
    assert not (outcome.tied & ~pool.present).any()
    assert ((outcome.winner >= 0) == pool.present.any(axis=1)).all()
    assert (outcome.confidence >= 0).all()
    assert (outcome.confidence <= outcome.agreement).all()
    assert (outcome.agreement <= 1).all()
    backed = [{int(c) for c in codes[mask]} for codes, mask in zip(pool.ballots.codes, outcome.chosen, strict=True)]
    for behind, tied in zip(backed, outcome.tied, strict=True):
        assert behind == {int(c) for c in np.flatnonzero(tied)}


def assert_equal(one, two):
    for field in ("winner", "tied", "agreement", "confidence", "chosen"):
        assert np.array_equal(getattr(one, field), getattr(two, field)), field


FITTED = [
    LogOdds({"a": 1.0, "b": -1.0}),
    Stacking({"a": 1.0, "b": 0.0}),
    BestSingle(("b", "a")),
    Auto(chosen={"policy": "majority_voting", "params": {}}),
]


@pytest.mark.parametrize("strategy", FITTED, ids=lambda s: s.name)
def test_no_items_are_decided_to_nothing(strategy):
    """An empty pool gives empty arrays of the right width, not an error."""
    outcome = strategy.over(pool_of(["a", "b"], []))
    assert [outcome.winner.shape, outcome.agreement.shape, outcome.confidence.shape] == [(0,)] * 3
    assert (outcome.tied.shape, outcome.chosen.shape) == ((0, 1), (0, 2))


@pytest.mark.parametrize("strategy", FITTED, ids=lambda s: s.name)
def test_items_without_any_answer_are_not_decided(strategy):
    """Where nobody answered nothing wins, beside an item where somebody did."""
    outcome = strategy.over(pool_of(["a", "b"], [[None, None], ["x", None]]))
    assert outcome.winner.tolist() == [-1, 0]
    assert (outcome.agreement.tolist(), outcome.confidence.tolist()) == ([0.0, 1.0], [0.0, 0.5])
    assert outcome.chosen.tolist() == [[False, False], [True, False]]


# --- pools ----------------------------------------------------------------------------------------------


def test_a_pool_knows_nothing_that_it_is_not_told():
    """Without texts, groups, cost and latency there are None, "" and NaN of the right shape."""
    pool = pool_of(["b", "a"], [["x", "y"], [None, "y"], [None, None]])
    assert (len(pool), pool.models) == (3, ("a", "b"))
    assert pool.texts == ((None, None),) * 3
    assert pool.groups == ("", "", "")
    assert pool.cost_usd.shape == pool.latency_ms.shape == (3, 2)
    assert np.isnan(pool.cost_usd).all()
    assert np.isnan(pool.latency_ms).all()
    assert pool.present.tolist() == [[True, True], [True, False], [False, False]]


WRONG = {
    "no texts": {"texts": []},
    "short text row": {"texts": [["t", "t"], ["t"]]},
    "more groups": {"groups": ["g"] * 3},
    "flat cost": {"cost_usd": np.zeros(2)},
    "one cost": {"cost_usd": np.float64(0.1)},
    "long cost": {"cost_usd": np.zeros((3, 2))},
    "wide latency": {"latency_ms": np.zeros((2, 3))},
    "deep latency": {"latency_ms": np.zeros((2, 2, 1))},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_the_ballots_is_refused(wrong):
    """Tables of another shape are `validation.shape`, which says both shapes."""
    with pytest.raises(LLMValidationError, match="2 items x 2 models") as caught:
        Pool.of(Ballots.of(["a", "b"], [["x", "y"], ["x", "x"]]), **WRONG[wrong])
    assert caught.value.code == "validation.shape"


def test_a_pool_of_one_leaves_out_who_does_not_vote():
    """A member without weight, filtered, late or failed has neither answer nor text; who failed is marked."""
    parts = [
        said("e", "x", 0.5),
        said("d", "x", weight=0.0),
        replace(said("c", "x"), status="filtered"),
        replace(said("b", "x"), status="late"),
        failed_of("a"),
        said("f", None),
    ]
    pool = Pool.one(parts)
    assert pool.models == ("a", "b", "c", "d", "e", "f")
    assert pool.ballots.codes.tolist() == [[-1, -1, -1, -1, 0, -1]]
    assert pool.ballots.failed.tolist() == [[True, True, False, False, False, False]]
    assert pool.texts == ((None, None, None, None, "e: x", None),)
    assert np.array_equal(pool.ballots.quality, [[NAN, NAN, NAN, NAN, 0.5, NAN]], equal_nan=True)


def test_a_pool_of_one_knows_cost_and_latency_of_its_responses():
    """They are those of the response, NaN where it does not say or there is none."""
    told = replace(said("b", "x").response, cost_usd=0.25, latency_ms=40.0)
    pool = Pool.one([replace(said("b", "x"), response=told), said("a", "x"), failed_of("c")])
    assert np.array_equal(pool.cost_usd, [[NAN, 0.25, NAN]], equal_nan=True)
    assert np.array_equal(pool.latency_ms, [[NAN, 40.0, NAN]], equal_nan=True)


FULL = Pool.of(
    Ballots.of(
        ["a", "b", "c"],
        [["x", "y", "z"], ["x", "x", None], ["p", "q", "q"]],
        quality=np.arange(9).reshape(3, 3) / 9,
        failed=np.array([[False] * 3, [False, False, True], [False] * 3]),
    ),
    texts=[["1a", "1b", "1c"], ["2a", "2b", None], ["3a", "3b", "3c"]],
    groups=["g", "h", "i"],
    cost_usd=np.arange(9.0).reshape(3, 3),
    latency_ms=-np.arange(9.0).reshape(3, 3),
)


@pytest.mark.parametrize(
    ("rows", "items"),
    [
        (np.array([False, True, True]), [1, 2]),
        (np.array([2, 0, 2]), [2, 0, 2]),
        (np.array([False] * 3), []),
        (np.array([], dtype=np.intp), []),
    ],
    ids=["mask", "index", "empty mask", "empty index"],
)
def test_a_part_of_a_pool_keeps_everything_of_its_items(rows, items):
    """By mask or by index, every table has the rows of these items, in this order, at the width of the whole."""
    part = FULL.take(rows)
    assert (len(part), part.models, part.ballots.width) == (len(items), FULL.models, 3)
    assert part.present.shape == (len(items), 3)
    for name in ("texts", "groups", "cost_usd", "latency_ms"):
        assert list(map(repr, getattr(part, name))) == [repr(getattr(FULL, name)[i]) for i in items], name
    for name in ("codes", "answers", "quality", "failed"):
        kept = getattr(part.ballots, name)
        assert list(map(repr, kept)) == [repr(getattr(FULL.ballots, name)[i]) for i in items], name


def test_a_mask_of_another_length_is_no_mask_of_the_pool():
    """A mask made for other items is an error, not the items that happen to stand there."""
    with pytest.raises(IndexError):
        FULL.take(np.array([True, False]))


def test_a_pool_of_some_members_has_their_answers_alone():
    """Columns are in sorted order whatever order is asked for, and answers are numbered among those that are left."""
    part = FULL.of_models(["c", "a"])
    assert part.models == ("a", "c")
    assert part.ballots.answers == (("x", "z"), ("x",), ("p", "q"))
    assert part.ballots.codes.tolist() == [[0, 1], [0, -1], [0, 1]]
    assert part.texts == (("1a", "1c"), ("2a", None), ("3a", "3c"))
    assert part.cost_usd.tolist() == [[0, 2], [3, 5], [6, 8]]
    assert (part.latency_ms == -part.cost_usd).all()
    assert (part.ballots.quality * 9).round().tolist() == [[0, 2], [3, 5], [6, 8]]
    assert part.ballots.failed.tolist() == [[False, False], [False, True], [False, False]]
    assert part.groups == FULL.groups
    for wrong in (["a", "z"], [], ["a", "a"]):
        with pytest.raises(LLMValidationError) as caught:
            FULL.of_models(wrong)
        assert caught.value.code == "validation.models"


# --- outcomes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "tied"),
    [
        ([0.1 + 0.2, 0.3], [True, True]),  # differ in the last bit
        ([1.0, 1.0 - 2e-9], [True, True]),  # by two units, as many as there are members
        ([1.0, 1.0 - 3e-9], [True, False]),
        ([1e-300, 1e-300], [True, True]),  # the largest is all that counts
        ([0.0, 1e-12], [False, True]),
        ([0.0, 0.0], [False, False]),
    ],
)
def test_supports_are_equal_within_one_unit_per_member(share, tied):
    """A unit is a billionth of the largest support; two members, so two units are a tie and three are none."""
    outcome = outcome_of(Ballots.of(["a", "b"], [["x", "y"]]), np.array([share]))
    assert outcome.tied.tolist() == [tied]
    assert outcome.winner.tolist() == [tied.index(True) if any(tied) else -1]


def test_an_outcome_is_that_of_a_hand_count():
    """Shares 4 : 1 agree by 4/5; one of three members was not heard, so that confidence is 2/3 of it."""
    ballots = Ballots.of(["a", "b", "c"], [["x", "y", None], ["x", "y", "y"]])
    outcome = outcome_of(ballots, np.array([[0.8, 0.2], [0.5, 0.5]]))
    assert outcome.winner.tolist() == [0, 0]
    assert outcome.agreement.tolist() == [0.8, 0.5]
    assert outcome.confidence.tolist() == [pytest.approx(0.8 * 2 / 3), 0.5]
    assert outcome.chosen.tolist() == [[True, False, False], [True, True, True]]


def test_members_that_were_not_heard_stand_behind_nothing():
    """With `voting` only those marked count in confidence and are chosen, whoever else gave the answer."""
    ballots = Ballots.of(["a", "b", "c"], [["x", "x", "y"]])
    outcome = outcome_of(ballots, np.array([[1.0, 0.0]]), voting=np.array([[True, False, False]]))
    assert (outcome.agreement.tolist(), outcome.confidence.tolist()) == ([1.0], [1 / 3])
    assert outcome.chosen.tolist() == [[True, False, False]]


def test_a_code_that_nobody_gave_never_wins():
    """A negative support loses to another answer's, never to the 0 of a column that stands for no answer."""
    pool = pool_of(["a", "b", "c"], [["x", "y", "z"], ["x", "x", None]])
    outcome = LogOdds({"a": -5.0, "b": -1.0, "c": -9.0}).over(pool)
    assert outcome.winner.tolist() == [1, 0]
    assert outcome.tied.tolist() == [[False, True, False], [True, False, False]]


def test_softmax_shares_are_those_of_a_hand_calculation():
    """exp(log 2) : exp(0) is 2 : 1 over the answers present; absent ones have none, and huge scores stay finite."""
    scores = np.array([[np.log(2), 0.0, 7.0], [1e300, -1e300, 0.0], [5.0, 5.0, 5.0], [-800.0, -800.0, 9.0]])
    present = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 1, 0]], dtype=bool)
    found = softmax(scores, present)
    assert found == pytest.approx(np.array([[2 / 3, 1 / 3, 0], [1, 0, 0], [0, 0, 0], [0.5, 0.5, 0]]))


def test_votes_add_up_as_in_a_plain_loop():
    """Weights by member, or by item and member, are added to the code given; -1 is nobody's."""
    chance = np.random.default_rng(0)
    codes = chance.integers(-1, 4, (50, 6)).astype(np.int32)
    for weights in (chance.normal(size=6), chance.normal(size=(50, 6))):
        expected = np.zeros((50, 4))
        for (i, j), code in np.ndenumerate(codes):
            if code >= 0:
                expected[i, code] += weights[j] if weights.ndim == 1 else weights[i, j]
        assert votes_for(codes, weights, 4) == pytest.approx(expected)


# --- one item as a response -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Silent:
    """A vote that does not say who stands behind its winner."""

    name: ClassVar[str] = "silent"

    def over(self, pool):
        return replace(votes.decide(MajorityVoting(), pool.ballots), chosen=np.zeros(pool.ballots.codes.shape, bool))

    def __call__(self, parts):
        return merged(self, parts)


def test_the_text_is_that_of_the_best_rated_chosen_member():
    """The highest quality among those who stand behind the winner, the first by name among equals."""
    vote = Auto(chosen={"policy": "majority_voting", "params": {}})
    assert vote([said("a", "x"), said("b", "x", 0.4), said("c", "y", 0.9)]).text == "b: x"
    assert vote([said("b", "x", 0.4), said("a", "x", 0.4), said("c", "y", 0.9)]).text == "a: x"
    assert vote([said("a", "x", 0.9, weight=0.0), said("b", "x", 0.1), said("c", "x", 0.2)]).text == "c: x"
    assert BestSingle(("b", "a"))([said("a", "x", 0.9), said("b", "x", 0.1)]).text == "b: x"


def test_a_strategy_that_chooses_nobody_still_gives_a_text():
    """Any supporter of the winner speaks where none is chosen; without a text the answer itself does."""
    assert Silent()([said("a", "x", 0.1), said("b", "x", 0.2), said("c", "y", 0.9)]).text == "b: x"
    assert merged(Silent(), [ModelContribution(model="a", answer="x")]).text == "x"
    assert merged(Silent(), [said("a", None)]).text == ""


def test_a_member_without_weight_is_not_counted_among_those_asked():
    """Of three members with a weight two answer alike: confidence 2/3, however many have no weight."""
    parts = [said("a", "x"), said("b", "x"), said("c", None)]
    more = [*parts, said("d", "x", weight=0.0), said("e", "y", weight=0.0)]
    vote = Auto(chosen={"policy": "majority_voting", "params": {}})
    assert (vote(parts).agreement, vote(parts).confidence) == (1.0, pytest.approx(2 / 3))
    assert vote(more).confidence == pytest.approx(2 / 3)
    assert vote(more[3:] + parts[:2]).confidence == 1.0


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([], "validation.models"),
        ([said("a", "x"), said("a", "y")], "validation.models"),
        ([said("a", "x", quality=1.5)], "validation.quality"),
        ([said("a", "x", weight=-1.0)], "validation.weights"),
        ([failed_of("a")], "ensemble.all_failed"),
        ([ModelContribution(model="a")], "validation.no_text"),
    ],
)
def test_unusable_input_is_refused_as_by_the_other_merges(parts, code):
    """A strategy refuses what majority_voting refuses, with the same code."""
    for strategy in (Auto(chosen={"policy": "majority_voting", "params": {}}), MajorityVoting()):
        with pytest.raises((LLMValidationError, LLMOrchestratorError)) as caught:
            strategy(parts)
        assert caught.value.code == code


# --- protocols, and what is fitted ----------------------------------------------------------------------


def test_who_decides_many_and_who_learns_is_told_by_its_methods():
    """The three plain merges have no `over`; the four strategies have it, and learn."""
    assert not any(isinstance(m, Strategy) for m in (MajorityVoting(), WeightedConsensus(), BestOfN()))
    assert all(isinstance(s, Learner) for s in (Auto(), BestSingle(), LogOdds(), Stacking()))
    assert isinstance(Silent(), Strategy)
    assert not isinstance(Silent(), Learner)


def test_any_merge_decides_a_pool_and_is_fitted_where_it_learns():
    """A plain merge decides by its array form and stays itself; a learner comes back fitted."""
    pool = pool_of(["a", "b"], [["x", "y"], ["y", "y"]])
    assert_equal(over(MajorityVoting(), pool), votes.decide(MajorityVoting(), pool.ballots))
    assert_equal(over(BestSingle(("b", "a")), pool), BestSingle(("b", "a")).over(pool))
    right = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert learned(MajorityVoting(), pool, right) == MajorityVoting()
    assert learned(BestSingle(), pool, right) == BestSingle(("b", "a"))  # b is right twice, a once


@pytest.mark.parametrize("strategy", [Auto(), BestSingle(), LogOdds(), Stacking()], ids=lambda s: s.name)
def test_an_unfitted_strategy_refuses_to_decide(strategy):
    """One item or many: `validation.unfitted`, with the way to fit it."""
    assert not strategy.fitted
    for ask in (lambda: strategy.over(FULL), lambda: strategy([said("a", "x")]), lambda: strategy.over(FULL.take([]))):
        with pytest.raises(LLMValidationError, match=strategy.name) as caught:
            ask()
        assert caught.value.code == "validation.unfitted"
        assert f"run.fit({type(strategy).__name__}())" in caught.value.next_step


def test_refusals_say_what_to_do_in_a_line():
    """Both errors of learning have a next step that fits the notes under a traceback."""
    for error in (unfitted(Stacking()), nothing_to_learn("stacking", "3 items have 1 answer of known value")):
        assert 0 < len(error.next_step) <= 160
    assert nothing_to_learn("stacking", "no items").code == "fit.items"
