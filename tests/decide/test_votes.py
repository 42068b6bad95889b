"""Merges over whole runs: the array form decides exactly what the scalar form decides, item by item."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus
from workbench.decide.votes import Ballots, Outcome, decide
from workbench.errors import LLMOrchestratorError, LLMValidationError
from workbench.facts import Failure, ModelContribution, Response

NAN = float("nan")
FAILURE = Failure(kind="LLMProviderError", code="provider.server", message="503")
# Names whose sorted order is neither that of numbers nor that of lower-case letters.
NAMES = [f"m:{i}" for i in range(10)] + ["m:10", "M:1", "é:x", "z:z"]
ANSWERS = ["10", "9", "", "yes", "é", "None"]

qualities = st.one_of(st.just(NAN), st.sampled_from([0.0, 0.1, 0.5, 1 / 3, 0.7, 1.0]), st.floats(0, 1))
weights_of_a_member = st.one_of(
    st.sampled_from([0.0, 0, 1, 2, 0.1, 0.2, 0.3, 1 / 3, 2 / 3, 1e-9, 1e-12, 5e-324, 1e9, 1e300, 1.7e308]),
    st.floats(0, 1e6),
)
thresholds = st.one_of(st.none(), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.floats(0, 1))


@st.composite
def runs(draw):
    """A policy and a run: models in any order, answers, failures and qualities, items x models."""
    models = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=14, unique=True))
    m, n = len(models), draw(st.integers(1, 5))
    alphabet = draw(st.lists(st.sampled_from([*ANSWERS, None]), min_size=1, max_size=7))

    def table(cell):
        return draw(st.lists(st.lists(cell, min_size=m, max_size=m), min_size=n, max_size=n))

    kind = draw(st.sampled_from(["majority", "best", "quality", "weights"]))
    threshold = draw(thresholds)
    if kind == "weights":
        given_weights = draw(st.lists(weights_of_a_member, min_size=m, max_size=m).filter(any))
        policy = WeightedConsensus(dict(zip(models, given_weights, strict=True)), threshold)
    else:
        policy = {"majority": MajorityVoting, "best": BestOfN, "quality": WeightedConsensus}[kind](threshold=threshold)
    failed = table(st.integers(0, 4).map(lambda k: k == 0))
    return policy, models, table(st.sampled_from(alphabet)), table(qualities), failed


def contributions(models, answers, quality, failed):
    """One item as the scalar merges take it."""
    return [
        ModelContribution(model=m, failure=FAILURE, status="failed", quality=None if np.isnan(q) else q)
        if f
        else ModelContribution(
            model=m,
            response=Response(request_key="k", model=m, text=f"{m} {a}", source="simulated"),
            answer=a,
            quality=None if np.isnan(q) else q,
        )
        for m, a, q, f in zip(models, answers, quality, failed, strict=True)
    ]


@settings(max_examples=500, deadline=None)
@given(runs())
@example((WeightedConsensus({"m:0": 1 / 3, "m:1": 1 / 3, "m:2": 2 / 3}), ["m:2", "m:0", "m:1"], [["9", "10", "10"]],
          [[NAN] * 3], [[False] * 3]))  # fmt: skip
@example((BestOfN(), ["m:0", "m:1"], [["9", "10"], ["10", "9"]], [[0.0, NAN], [NAN, 0.0]], [[False] * 2] * 2))
@example(
    (WeightedConsensus({"m:0": 1.7e308, "m:1": 1.7e308}), ["m:0", "m:1"], [["x", "x"]], [[NAN] * 2], [[False] * 2])
)
def test_the_array_form_decides_as_the_scalar_form(run):
    """Winner, ties, agreement and confidence of every item are equal to the last bit; a refusal is winner -1."""
    policy, models, answers, quality, failed = run
    ballots = Ballots.of(models, answers, quality=np.array(quality), failed=np.array(failed))
    outcome = decide(policy, ballots)
    for i in range(len(answers)):
        found = tuple(a for c, a in enumerate(ballots.answers[i]) if outcome.tied[i, c])
        winner = None if outcome.winner[i] < 0 else ballots.answers[i][outcome.winner[i]]
        try:
            merged = policy(contributions(models, answers[i], quality[i], failed[i]))
        except LLMOrchestratorError:
            assert (winner, found, outcome.agreement[i], outcome.confidence[i]) == (None, (), 0.0, 0.0)
        else:
            assert (winner, found) == (merged.answer, merged.tied)
            assert (outcome.agreement[i], outcome.confidence[i]) == (merged.agreement, merged.confidence)


@settings(max_examples=100, deadline=None)
@given(runs(), st.randoms(use_true_random=False))
def test_the_order_of_models_changes_nothing(run, chance):
    """Columns in another order give equal ballots and equal decisions."""
    policy, models, answers, quality, failed = run
    order = chance.sample(range(len(models)), len(models))
    one = Ballots.of(models, answers, quality=np.array(quality), failed=np.array(failed))
    two = Ballots.of(
        [models[j] for j in order],
        [[row[j] for j in order] for row in answers],
        quality=np.array(quality)[:, order],
        failed=np.array(failed)[:, order],
    )
    assert (one.models, one.answers) == (two.models, two.answers)
    for first, second in zip(_arrays(decide(policy, one)), _arrays(decide(policy, two)), strict=True):
        assert np.array_equal(first, second)


def test_a_subset_of_items_is_decided_as_before():
    """An item's decision depends on that item alone: dropping others, and with them wide rows, changes nothing."""
    answers = [["a", "b", "c"], ["x", "x", "y"], [None, "q", None]]
    whole = decide(MajorityVoting(), Ballots.of(["m", "n", "o"], answers))
    for k in (1, 2):
        for rows in combinations(range(3), k):
            part = decide(MajorityVoting(), Ballots.of(["m", "n", "o"], [answers[i] for i in rows]))
            assert part.winner.tolist() == whole.winner[list(rows)].tolist()
            assert part.agreement.tolist() == whole.agreement[list(rows)].tolist()


def _arrays(outcome):
    return outcome.winner, outcome.tied, outcome.agreement, outcome.confidence


# --- ballots --------------------------------------------------------------------------------------------


def test_ballots_number_answers_in_sorted_order_within_their_item():
    """Codes count the sorted distinct answers of one item, with the columns sorted by model."""
    ballots = Ballots.of(["b", "a"], [["9", "10"], [None, "x"], [None, None]])
    assert ballots.models == ("a", "b")
    assert ballots.answers == (("10", "9"), ("x",), ())
    assert ballots.codes.tolist() == [[0, 1], [0, -1], [-1, -1]]
    assert ballots.width == 2
    assert np.isnan(ballots.quality).all()
    assert not ballots.failed.any()


def test_ballots_move_quality_and_failures_with_their_models():
    """Sorting the models sorts the columns of every table."""
    ballots = Ballots.of(["b", "a"], [["x", "y"]], quality=np.array([[0.2, 0.9]]), failed=np.array([[True, False]]))
    assert ballots.quality.tolist() == [[0.9, 0.2]]
    assert ballots.failed.tolist() == [[False, True]]


def test_a_member_that_failed_or_was_late_has_no_answer_on_the_ballots():
    """What came after the time was up neither votes nor is an answer to vote for."""
    ballots = Ballots.of(["a", "b", "c"], [["x", "y", "y"]], failed=np.array([[False, True, True]]))
    assert (ballots.codes.tolist(), ballots.answers, ballots.width) == ([[0, -1, -1]], (("x",),), 1)


def test_an_empty_answer_is_an_answer():
    """The empty string votes; only None does not."""
    outcome = decide(MajorityVoting(), Ballots.of(["a", "b", "c"], [["", "", "x"]]))
    assert outcome.winner.tolist() == [0]
    assert outcome.agreement.tolist() == [2 / 3]


def test_no_items_are_decided_to_nothing():
    """A run without items gives empty arrays, not an error."""
    outcome = decide(WeightedConsensus(), Ballots.of(["a", "b"], []))
    assert [len(array) for array in _arrays(outcome)] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ballots.of(["a", "b"], [["x", "y"], ["x"]]),
        lambda: Ballots.of(["a", "b"], [["x", "y"]], quality=np.zeros((1, 3))),
        lambda: Ballots.of(["a", "b"], [["x", "y"]], quality=np.zeros((2, 2))),
        lambda: Ballots.of(["a", "b"], [["x", "y"]], quality=np.zeros(1)),
        lambda: Ballots.of(["a", "b"], [["x", "y"]], failed=np.zeros((1, 1), dtype=bool)),
        lambda: decide(MajorityVoting(0.5), Ballots.of(["a", "b"], [["x", "y"]]), quality=np.zeros(3)),
    ],
    ids=["short row", "wide quality", "long quality", "flat quality", "narrow failed", "quality of a decision"],
)
def test_wrong_shapes_are_refused_by_name(make):
    """Tables that do not fit the answers are refused as `validation.shape`, not by an index or broadcast error."""
    with pytest.raises(LLMValidationError) as caught:
        make()
    assert caught.value.code == "validation.shape"


@pytest.mark.parametrize("models", [[], ["a", "a"]], ids=["none", "twice"])
def test_ballots_refuse_the_models_a_scalar_merge_refuses(models):
    """No model at all, and two of one name, are `validation.models` in both forms."""
    with pytest.raises(LLMValidationError) as caught:
        decide(MajorityVoting(), Ballots.of(models, [["x"] * len(models)]))
    assert caught.value.code == "validation.models"


def test_weights_that_do_not_fit_the_models_are_refused():
    """The array form checks names as the scalar form does."""
    ballots = Ballots.of(["gpt4", "claude3"], [["x", "y"]])
    with pytest.raises(LLMValidationError, match="leave out claude3"):
        decide(WeightedConsensus({"gpt4": 1}), ballots)


def test_one_quality_per_model_holds_for_all_items():
    """A vector of M estimates, in the order of `ballots.models`, decides as the same estimates in every row."""
    ballots = Ballots.of(["b", "a"], [["x", "y"], ["y", "x"], ["x", None]])
    for policy in (BestOfN(), WeightedConsensus(), MajorityVoting(threshold=0.5)):
        by_vector = decide(policy, ballots, quality=np.array([0.9, 0.4]))  # a: 0.9, b: 0.4
        by_table = decide(policy, ballots, quality=np.tile([0.9, 0.4], (3, 1)))
        for one, two in zip(_arrays(by_vector), _arrays(by_table), strict=True):
            assert np.array_equal(one, two)
        # a says y, x, nothing; b passes only where no threshold is set
        decided = [ballots.answers[i][w] if w >= 0 else None for i, w in enumerate(by_vector.winner)]
        assert decided == ["y", "x", None if policy.threshold else "x"]


# --- values and scores ----------------------------------------------------------------------------------


def test_values_against_references_are_one_for_the_gold_answer():
    """With references an answer is worth 1 when it is the gold one; a missing or ungiven gold is worth nothing."""
    ballots = Ballots.of(["a", "b"], [["x", "y"], ["x", "z"], ["x", "y"], [None, None]])
    values = ballots.values(np.full((4, 2), 7.0), ["y", "q", None, "x"])
    assert values.tolist() == [[0, 1], [0, 0], [0, 0], [0, 0]]


def test_values_by_scores_are_means_over_those_who_gave_the_answer():
    """Without references an answer is worth the mean known score of its members, and NaN where none is known."""
    ballots = Ballots.of(["a", "b", "c"], [["x", "x", "y"], ["x", "x", None], ["x", "y", "y"]])
    values = ballots.values(np.array([[1.0, 4.0, 7.0], [NAN, 3.0, 9.0], [NAN, 2.0, NAN]]))
    # item 0: x = (1 + 4) / 2, y = 7; item 1: x = 3 alone; item 2: nobody's score of x is known, y = 2
    assert np.array_equal(values, [[2.5, 7.0], [3.0, NAN], [NAN, 2.0]], equal_nan=True)


def test_the_mean_of_equal_scores_is_that_score():
    """To the last bit: three times 0.1 over three is more than 0.1, and a merge would seem to gain by it."""
    ballots = Ballots.of(["a", "b", "c"], [["x", "x", "x"]])
    assert ballots.values(np.full((1, 3), 0.1)).tolist() == [[0.1]]


def test_a_tie_scores_by_expectation():
    """A tied item scores the mean of its tied answers, a lost one 0, and an undecided one what is asked for."""
    ballots = Ballots.of(["a", "b", "c"], [["x", "y", None], ["x", "y", "z"], ["x", "x", "y"], [None, None, None]])
    outcome = decide(MajorityVoting(), ballots)
    values = ballots.values(np.zeros((4, 3)), ["y", "z", "y", "x"])
    assert outcome.scores(values).tolist() == [1 / 2, 1 / 3, 0.0, 0.0]
    assert outcome.scores(values, missing=-1.0).tolist() == [1 / 2, 1 / 3, 0.0, -1.0]


def test_values_of_answers_that_did_not_win_do_not_matter():
    """An unknown value beside the winner does not make the item's score unknown."""
    outcome = Outcome(
        winner=np.array([0], dtype=np.int32),
        tied=np.array([[True, False]]),
        agreement=np.ones(1),
        confidence=np.ones(1),
        chosen=np.ones((1, 1), dtype=bool),
    )
    assert outcome.scores(np.array([[3.0, NAN]])).tolist() == [3.0]


def test_a_large_run_is_decided_as_item_by_item():
    """Two thousand random items of nine models agree with the scalar form in accuracy, for every strategy."""
    chance = np.random.default_rng(3)
    models = [f"m{j}" for j in range(9)]
    answers = [[None if a == 4 else str(a) for a in row] for row in chance.integers(0, 5, (2000, 9)).tolist()]
    gold = [str(a) for a in chance.integers(0, 4, 2000)]
    quality = chance.choice([NAN, 0.2, 0.6, 0.9], (2000, 9))
    ballots = Ballots.of(models, answers, quality=quality)
    values = ballots.values(np.zeros((2000, 9)), gold)
    for policy in (MajorityVoting(), WeightedConsensus(threshold=0.5), BestOfN()):
        merged = [_or_none(policy, models, a, q) for a, q in zip(answers, quality, strict=True)]
        expected = [1 / len(m.tied) if m and g in m.tied else 0.0 for m, g in zip(merged, gold, strict=True)]
        assert decide(policy, ballots).scores(values).tolist() == pytest.approx(expected)


def _or_none(policy, models, answers, quality):
    try:
        return policy(contributions(models, answers, quality, [False] * len(models)))
    except LLMOrchestratorError:
        return None


@pytest.mark.parametrize(
    ("models", "answers", "code"),
    [
        (None, [["x"]], "validation.models"),
        ([1], [["x"]], "validation.models"),
        ({"a": 1}, [["x"]], "validation.models"),
        (["a"], None, "validation.shape"),
        (["a"], [5], "validation.shape"),
        (["a"], [["x", "y"]], "validation.shape"),
        (["a"], [[1]], "validation.shape"),
        (["a"], [[["x"]]], "validation.shape"),
    ],
)
def test_what_are_no_models_or_answers_is_refused(models, answers, code):
    """Names and texts, item by item."""
    with pytest.raises(LLMValidationError) as error:
        Ballots.of(models, answers)
    assert error.value.code == code
