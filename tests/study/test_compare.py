"""Comparisons: hand-computed numbers, both forms of the difference, graded scores, and merges of the user's own."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from workbench.act.journal import encode
from workbench.act.world import World
from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus, params_of
from workbench.decide.policies import POLICIES, policy
from workbench.decide.pool import Learner, Pool
from workbench.decide.strategies.single import BestSingle
from workbench.decide.strategies.weighted import Stacking
from workbench.decide.votes import Ballots, Outcome
from workbench.errors import LLMOrchestratorError, LLMProviderError, LLMValidationError
from workbench.facts import EnsembleResponse, Item, Merge, ModelContribution, Request, Response
from workbench.record.log import Log
from workbench.study.compare import FOLDS, Compared, compare, contributions_at, strategies_of
from workbench.study.run import Member, Plan, estimated_quality, execute, spec_of
from workbench.study.stats import half_splits
from workbench.study.suite import Suite
from workbench.study.table import RunTable, read_table

Answers = Sequence[Sequence[str | None]]
NAN = float("nan")


def table(
    answers: Answers | None,
    *,
    references: Sequence[str] | None = None,
    scores: Any = None,
    models: Sequence[str] = ("a", "b", "c"),
    failed: Any = None,
    score_kind: str = "correct",
    merge: Merge | None = None,
) -> RunTable:
    """A run's table as it is read from the log: extracted where there are references, else with these scores."""
    if references is not None and answers is not None:
        scores = [[float(a == gold) for a in row] for row, gold in zip(answers, references, strict=True)]
    numbers = np.asarray(scores, dtype=float)
    suite = Suite(name="tiny", kind="recording", items=(), score_kind=score_kind, extracted=references is not None)
    ballots = None
    if answers is not None:
        ballots = Ballots.of(models, answers, quality=estimated_quality(numbers)[0], failed=failed)
    return RunTable(
        run_id="r",
        name="tiny",
        source="recorded",
        spec=spec_of(suite, merge),
        status="finished",
        models=tuple(models),
        item_ids=tuple(f"i{k}" for k in range(len(numbers))),
        tasks=("reasoning",) * len(numbers),
        reference=tuple(references) if references is not None else (None,) * len(numbers),
        scores=numbers,
        source_scores=np.full_like(numbers, np.nan),
        ballots=ballots,
    )


# Six items, gold answer 1 everywhere. Right: a 5 of 6, b 3, c 2. Votes: 1, 2, 1, 1, a tie of 1/2/3, 2.
SIX: Answers = [
    ["1", "1", "1"],
    ["1", "2", "2"],
    ["1", "1", "2"],
    ["2", "1", "1"],
    ["1", "2", "3"],
    ["1", "2", "2"],
]
GOLD = ["1"] * 6
VOTED = [1, 0, 1, 1, 1 / 3, 0]


def six(**changes: Any) -> RunTable:
    return table(SIX, references=GOLD, **changes)


def found(compared: Compared, name: str) -> Any:
    return next(s for s in compared.strategies if s.strategy == name)


# --- numbers of a tiny run ------------------------------------------------------------------------------


def test_the_best_single_model_spread_and_oracle_are_those_of_a_hand_count():
    """a is best with 5/6, the models spread over 3/6, and on every item somebody is right."""
    compared = compare(six(), [MajorityVoting()])
    assert compared.best_single == {"model": "a", "score": pytest.approx(5 / 6)}
    assert compared.spread == pytest.approx(3 / 6)
    assert compared.oracle == 1.0
    assert [(s.model, s.score) for s in compared.singles] == [
        ("a", pytest.approx(5 / 6)), ("b", pytest.approx(3 / 6)), ("c", pytest.approx(2 / 6)),
    ]  # fmt: skip
    assert (compared.items, compared.items_dropped, compared.unit) == (6, 0, "fraction")


def test_a_merge_is_measured_against_the_best_single_model_on_the_same_items():
    """Majority voting scores 10/18; it gains i3, loses i1, i4 and i5, and one item in six is tied."""
    majority = found(compare(six(), [MajorityVoting()]), "majority_voting")
    assert majority.score == pytest.approx(sum(VOTED) / 6)
    assert majority.delta == pytest.approx((10 / 3 - 5) / 6)
    assert (majority.gained, majority.lost, majority.tied) == (1, 3, pytest.approx(1 / 6))
    assert majority.mcnemar_p is None  # a third of a point is not right or wrong


def test_the_interval_is_that_of_all_resamples():
    """The interval equals the percentiles over all 6^6 resamples, up to one step of the discrete distribution."""
    majority = found(compare(six(), [MajorityVoting()]), "majority_voting")
    differences = np.array(VOTED) - [1, 1, 1, 0, 1, 1]
    means = differences[np.array(list(itertools.product(range(6), repeat=6)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    assert (majority.ci_low, majority.ci_high) == (pytest.approx(low, abs=0.056), pytest.approx(high, abs=0.056))
    assert majority.verdict == "cannot tell"


def test_the_split_form_chooses_the_single_model_on_the_other_half():
    """Mean and percentiles over the half splits equal a pandas computation."""
    majority = found(compare(six(), [MajorityVoting()]), "majority_voting")
    frame = pd.DataFrame([[float(x == "1") for x in row] for row in SIX], columns=list("abc")).assign(voted=VOTED)
    deltas = []
    for choose in half_splits(6, splits=100, seed=0):
        best = frame.loc[choose, ["a", "b", "c"]].mean().idxmax()
        judged = frame.loc[~choose]
        deltas.append(judged["voted"].mean() - judged[best].mean())
    assert majority.split_delta == pytest.approx(np.mean(deltas))
    assert (majority.split_low, majority.split_high) == pytest.approx(tuple(np.percentile(deltas, [2.5, 97.5])))


def test_mcnemar_and_the_detectable_effect_are_those_of_a_hand_calculation():
    """Following c alone gains one item and loses four: p = 2 (1 + 5) / 32; the effect follows from the spread."""
    only_c = WeightedConsensus({"a": 0.0, "b": 0.0, "c": 1.0})
    result = compare(six(), [only_c]).strategies[0]
    assert (result.gained, result.lost, result.mcnemar_p) == (1, 4, pytest.approx(12 / 32))
    # Differences 0, -1, -1, 1, -1, -1: mean -1/2, sum of squares around it 5 - 6/4 = 3.5.
    assert result.mde == pytest.approx(2.8015 * (3.5 / 5) ** 0.5 / 6**0.5)


def test_following_the_best_model_alone_changes_nothing():
    """All weight on the best model is a difference of exactly 0 with an interval of no width, in no direction."""
    result = compare(six(), [WeightedConsensus({"a": 1.0, "b": 0.0, "c": 0.0})]).strategies[0]
    assert (result.delta, result.ci_low, result.ci_high, result.mcnemar_p) == (0, 0, 0, 1)
    assert (result.verdict, result.conclusion) == ("cannot tell", "cannot tell")


def test_a_single_model_carries_its_distance_from_the_best():
    """b is 2/6 under a; the best is 0 from itself."""
    singles = {s.model: s for s in compare(six(), []).singles}
    assert singles["b"].delta == pytest.approx(-2 / 6)
    assert (singles["a"].delta, singles["a"].delta_low, singles["a"].delta_high) == (0, 0, 0)
    assert singles["a"].answered == 1.0


def test_a_clear_difference_is_better_or_worse_in_both_forms():
    """Three models that err on different items are better together; two that err together outvote a third."""
    # Each of 30 items is missed by exactly one of three models: each is right on 20, the vote always.
    apart = [["2" if k % 3 == m else "1" for m in range(3)] for k in range(30)]
    better = compare(table(apart, references=["1"] * 30), [MajorityVoting()]).strategies[0]
    assert (better.score, better.verdict, better.split_verdict, better.conclusion) == (
        1.0,
        "better",
        "better",
        "better",
    )
    together = [["1", "2", "2"] if k % 2 else ["1", "1", "1"] for k in range(40)]
    worse = compare(table(together, references=["1"] * 40), [MajorityVoting()]).strategies[0]
    assert (worse.delta, worse.verdict, worse.split_verdict, worse.conclusion) == (-0.5, "worse", "worse", "worse")


def test_the_same_seed_gives_the_same_numbers():
    """Everything is repeated exactly, and another seed moves the intervals only."""
    first, again, other = (compare(six(), seed=s) for s in (0, 0, 1))
    assert first == again
    assert [s.delta for s in first.strategies] == [s.delta for s in other.strategies]


# --- what the split form may not see --------------------------------------------------------------------


def test_quality_is_fitted_on_the_choosing_half_alone():
    """best_of_n then follows the very model that the half chooses, so the split difference is 0 on every split."""
    # Exactly one of two models is right on each of 6 items; a half has 3, so the choice is never a tie.
    answers = [["1", "2"], ["2", "1"], ["1", "2"], ["2", "1"], ["1", "2"], ["2", "1"]]
    two = table(answers, references=["1"] * 6, models=("a", "b"))
    result = found(compare(two, [BestOfN()]), "best_of_n")
    assert (result.split_delta, result.split_low, result.split_high) == (0, 0, 0)
    # On all items its quality comes from the other five: always the wrong model, and a quality of the item's own
    # half would have looked like it.
    assert result.score == 0.0


def test_a_threshold_is_applied_to_the_quality_of_the_choosing_half():
    """With a threshold of 0.6 the vote follows the model that the half rates, and no other."""
    answers = [["1", "2"], ["2", "1"], ["1", "2"], ["2", "1"], ["1", "2"], ["2", "1"]]
    two = table(answers, references=["1"] * 6, models=("a", "b"))
    result = compare(two, [MajorityVoting(threshold=0.6)]).strategies[0]
    assert (result.split_delta, result.split_low, result.split_high) == (0, 0, 0)


def test_the_conclusion_is_cannot_tell_when_the_two_forms_disagree():
    """Worse than the best of many equal models in hindsight, but not than the one chosen beforehand."""
    rng = np.random.default_rng(0)
    names = [f"m{k:02}" for k in range(20)]
    answers = [["1" if x < 0.5 else "2" for x in rng.random(20)] for _ in range(60)]
    luck = table(answers, references=["1"] * 60, models=names)
    follow = [WeightedConsensus({n: float(n == chosen) for n in names}) for chosen in names]
    compared = compare(luck, follow)
    disagree = [s for s in compared.strategies if s.verdict != s.split_verdict]
    assert disagree, "the case has lost its point: no strategy on which the forms disagree"
    assert {s.conclusion for s in disagree} == {"cannot tell"}
    assert all(s.conclusion == s.verdict for s in compared.strategies if s not in disagree)


# --- a merge of the user's own --------------------------------------------------------------------------


@dataclass(frozen=True)
class Twin:
    """A built-in merge behind a class of the user's own, which has no array form."""

    of: Any
    name: ClassVar[str] = "twin"

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        return self.of(contributions)


@dataclass(frozen=True)
class Plurality:
    """A vote written from scratch, which refuses to decide without an answer."""

    name: ClassVar[str] = "plurality"

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        votes = Counter(c.answer for c in contributions if c.answer is not None and c.status == "kept")
        if not votes:
            raise LLMOrchestratorError("nobody answered", code="ensemble.all_failed")
        tied = tuple(sorted(a for a, n in votes.items() if n == max(votes.values())))
        return EnsembleResponse(
            text=tied[0], answer=tied[0], tied=tied, strategy=self.name, confidence=1.0, agreement=1.0,
            contributions=tuple(contributions),
        )  # fmt: skip


def same_numbers(given: RunTable, merge: Merge, twin: Merge) -> None:
    ours, theirs = compare(given, [merge, twin]).strategies
    differ = {"strategy", "params"}
    assert {k: v for k, v in asdict(theirs).items() if k not in differ} == {
        k: v for k, v in asdict(ours).items() if k not in differ
    }


@pytest.mark.parametrize(
    "merge", [MajorityVoting(), WeightedConsensus({"a": 0.4, "b": 0.3, "c": 0.3})], ids=lambda m: m.name
)
def test_a_merge_of_ones_own_gives_the_numbers_of_its_array_twin(merge: Merge):
    """The item-by-item path and the array path agree in every number, ties and missing answers included."""
    answers = [*SIX, [None, "1", "2"], [None, None, "1"]]
    same_numbers(table(answers, references=["1"] * 8), merge, Twin(merge))


@pytest.mark.parametrize("merge", [BestOfN(), WeightedConsensus(), MajorityVoting(threshold=0.5)], ids=lambda m: m.name)
def test_a_merge_of_ones_own_sees_the_quality_of_the_choosing_half_too(merge: Merge):
    """A merge that looks at quality is fitted on the other half, whoever wrote it."""
    same_numbers(six(), merge, Twin(merge))


def test_a_merge_of_ones_own_meets_an_item_on_which_nobody_answers():
    """Members that responded without an answer are not taken for missing ones: the item scores 0, as in the arrays."""
    same_numbers(table([*SIX, [None, None, None]], references=["1"] * 7), MajorityVoting(), Twin(MajorityVoting()))


def test_a_merge_of_ones_own_that_refuses_an_item_scores_the_worst_there():
    """Where ratings are negative, 0 would be the best: a refusal is worth the worst rating, as in the arrays."""
    answers = [["x", "x", "y"], ["x", "y", "y"], [None, None, None]]
    scores = [[-1.0, -1.0, -4.0], [-2.0, -3.0, -3.0], [-5.0, -25.0, -6.0]]
    rated = table(answers, scores=scores, score_kind="human_mqm_negated")
    same_numbers(rated, MajorityVoting(), Plurality())
    # x (-1), y (-3), and the worst rating of all.
    assert compare(rated, [Plurality()]).strategies[0].score == pytest.approx((-1 - 3 - 25) / 3)


@dataclass(frozen=True)
class Script:
    """A model that says what it was given for each item, or raises it."""

    name: str
    says: Mapping[str, Any]

    async def complete(self, request: Request) -> Response:
        said = self.says[str(request.item_id)]
        if isinstance(said, BaseException):
            raise said
        return Response(request_key=request.key, model=self.name, text=said, source="live")


def test_a_merge_of_ones_own_sees_what_it_saw_in_the_run(tmp_path: Path):
    """Contributions made from a table equal those of the logged decisions, failures and silence included."""
    down = LLMProviderError("down", code="provider.server")
    says = {
        "a": {"i0": "The answer is 1.", "i1": "The answer is 2."},
        "b": {"i0": down, "i1": "I cannot tell."},
    }
    items = tuple(
        Item(item_id=i, task="reasoning", prompt=f"{i}?", reference="1", metadata={"answer_kind": "number"})
        for i in ("i0", "i1")
    )
    suite = Suite(name="tiny", kind="suite", items=items)
    members = tuple(Member(name=n, model=Script(f"test:{n}", s)) for n, s in says.items())
    merge = MajorityVoting()
    plan = Plan(run_id="r", suite=suite, members=members, merge=merge, source="live", spec=spec_of(suite, merge))
    log = Log.open(tmp_path / "log")
    asyncio.run(execute(World.real(log), plan))
    made = read_table(log, "r")
    logged = log.rows("select inputs from decisions order by item_id")
    log.close()
    for index, (inputs,) in enumerate(logged):
        now = contributions_at(made, index)
        assert [encode(c) for c in now] == json.loads(inputs)["contributions"]
        assert [c.response is None for c in now] == [c.status == "failed" for c in now]


# --- graded scores --------------------------------------------------------------------------------------

# Ratings from 1 to 5 of texts; the last item has no rating of c.
TEXTS: Answers = [["x", "x", "y"], ["p", "q", "r"], ["m", "n", "n"], ["s", "s", "s"]]
RATINGS = [[4.0, 2.0, 5.0], [3.0, 3.0, 1.0], [5.0, 1.0, 2.0], [4.0, 4.0, NAN]]


def test_a_graded_answer_is_worth_the_mean_rating_of_those_who_gave_it():
    """Votes are worth 3, 7/3 (three tied) and 1.5; the best single model has 4; nothing is called points."""
    compared = compare(table(TEXTS, scores=RATINGS, score_kind="rating_1to5"), [MajorityVoting()])
    majority = compared.strategies[0]
    assert compared.best_single == {"model": "a", "score": 4.0}
    assert majority.score == pytest.approx((3 + 7 / 3 + 1.5) / 3)
    assert majority.delta == pytest.approx((3 + 7 / 3 + 1.5) / 3 - 4)
    assert (compared.unit, compared.score_kind) == ("rating_1to5", "rating_1to5")
    assert compared.oracle == pytest.approx((5 + 3 + 5) / 3)
    assert compared.spread == pytest.approx(4 - 2)
    assert majority.mcnemar_p is None


def test_items_without_a_score_of_every_model_are_left_out_for_all():
    """Three of four items remain, and the number left out is told."""
    compared = compare(table(TEXTS, scores=RATINGS, score_kind="rating_1to5"))
    assert (compared.items, compared.items_dropped) == (3, 1)


def test_a_graded_item_that_nobody_answers_is_worth_the_worst_rating():
    """Negative ratings have no 0 to fall back on: the worst rating that was seen stands in."""
    answers = [["x", "x"], ["y", "z"], [None, None]]
    rated = table(answers, scores=[[-1.0, -1.0], [-2.0, -4.0], [-9.0, -7.0]], models=("a", "b"), score_kind="mqm")
    assert compare(rated, [MajorityVoting()]).strategies[0].score == pytest.approx((-1 - 3 - 9) / 3)


def measured(answers: Answers, scores: Any, references: Sequence[str], metric: str = "rouge_l") -> RunTable:
    """A table of texts that a metric has scored."""
    made = table(answers, scores=scores, models=("a", "b"), score_kind=metric)
    return replace(made, spec={**made.spec, "metric": metric}, references=tuple((r,) for r in references))


def test_texts_are_compared_in_the_unit_of_their_metric():
    """A tie of two texts is worth their mean, no winner 0, and no test of right and wrong is made."""
    run = measured([["p q", "p r"], ["s", "s"], [None, None]], [[1, 0.5], [1, 1], [0, 0]], ["p q", "s", "t"])
    compared = compare(run, [MajorityVoting()])
    assert (compared.unit, compared.best_single) == ("rouge_l", {"model": "a", "score": pytest.approx(2 / 3)})
    majority = compared.strategies[0]
    assert majority.score == pytest.approx((0.75 + 1 + 0) / 3)
    assert majority.mcnemar_p is None
    assert (majority.gained, majority.lost, majority.lost_tied) == (0, 1, 1)
    assert all(s.source_score is s.source_agreement is None for s in compared.singles)
    every = measured([["p", "q"]] * 6, [[1, 0], [0, 1]] * 3, ["p"] * 6)
    assert compare(every, [BestOfN()], splits=2).strategies[0].mcnemar_p is None  # though all scores are 0 or 1


def test_the_other_half_tells_quality_in_the_scale_of_the_metric():
    """chrF of 40 and 30 is a quality of 0.4 and 0.3: a threshold of 0.2 keeps both, in a tie worth 35."""
    run = measured([["x", "y"]] * 6, [[40, 30]] * 6, ["z"] * 6, "chrf")
    majority = compare(run, [MajorityVoting(threshold=0.2)], splits=2).strategies[0]
    assert majority.split_delta == pytest.approx(-5)


def test_three_who_say_the_same_gain_nothing_by_rounding():
    """Three times 0.1 is 0.30000000000000004: their mean is 0.1 all the same, and no item counts as gained."""
    same = table([["x"] * 3] * 4, scores=[[0.1] * 3, [0.7] * 3, [15.139] * 3, [2.2] * 3], score_kind="meteor")
    majority = compare(same, [MajorityVoting()]).strategies[0]
    assert (majority.gained, majority.lost, majority.delta) == (0, 0, 0.0)


def test_scores_alone_are_compared_without_merges():
    """A run without text has singles, spread and oracle, and no strategies; nobody was asked anything."""
    compared = compare(table(None, scores=[[1, 0], [1, 1], [0, 1], [1, 0]], models=("a", "b")))
    assert compared.strategies == ()
    assert compared.best_single == {"model": "a", "score": 0.75}
    assert (compared.oracle, compared.spread) == (1.0, 0.25)
    assert [s.answered for s in compared.singles] == [None, None]


def test_a_merge_of_scores_alone_is_refused():
    """There is no text to merge: the refusal is typed and says so."""
    with pytest.raises(LLMValidationError) as caught:
        compare(table(None, scores=[[1, 0], [1, 1]], models=("a", "b")), [MajorityVoting()])
    assert caught.value.code == "validation.no_text"


@pytest.mark.parametrize("scores", [[[1.0, 0.0]], [[1.0, NAN], [NAN, 1.0], [1.0, 1.0]]], ids=["one", "one in common"])
def test_fewer_than_two_common_items_are_refused(scores: Any):
    """No interval can be had of one item: data.no_scores."""
    with pytest.raises(LLMValidationError) as caught:
        compare(table(None, scores=scores, models=("a", "b")))
    assert caught.value.code == "data.no_scores"


# --- which strategies, and the JSON ---------------------------------------------------------------------


def test_the_runs_own_merge_comes_first_and_each_strategy_once():
    """A logged threshold makes a strategy of its own; the same merge with the same parameters does not repeat."""
    own = strategies_of(six(merge=MajorityVoting(threshold=0.5)))
    assert own == [MajorityVoting(threshold=0.5), MajorityVoting(), WeightedConsensus(), BestOfN()]
    assert strategies_of(six(merge=BestOfN()), [BestOfN()]) == [BestOfN(), MajorityVoting(), WeightedConsensus()]
    assert strategies_of(table(None, scores=[[1], [0]], models=("a",))) == []


def test_weights_that_name_a_stranger_are_refused():
    """A what-if with a model that was not in the run names it."""
    with pytest.raises(LLMValidationError, match="nobody") as caught:
        compare(six(), [WeightedConsensus({"a": 1.0, "b": 1.0, "c": 1.0, "nobody": 1.0})])
    assert caught.value.code == "validation.weights"


def test_the_json_form_has_every_promised_key():
    """Plain values that survive a round trip, with all names that callers rely on."""
    document = compare(six(merge=MajorityVoting())).as_dict()
    back = json.loads(json.dumps(document, allow_nan=False))
    assert {"run", "source", "items", "models", "score_kind", "best_single", "strategies", "oracle"} <= set(back)
    assert set(back["best_single"]) == {"model", "score"}
    promised = {"strategy", "score", "delta", "ci_low", "ci_high", "verdict", "split_delta", "split_low", "split_high",
                "split_verdict"}  # fmt: skip
    assert [s["strategy"] for s in back["strategies"]] == ["majority_voting", "weighted_consensus", "best_of_n"]
    assert all(promised <= set(s) for s in back["strategies"])
    assert (back["run"], back["source"], back["items"], back["models"]) == ("r", "recorded", 6, ["a", "b", "c"])


def test_best_of_n_is_worth_the_response_that_it_takes():
    """Two texts that read the same have ratings of their own; the member taken counts, not the mean of both."""
    same = table([["x", "x"]] * 4, scores=[[4.0, 1.0], [5.0, 2.0], [4.0, 1.0], [5.0, 1.0]], models=("a", "b"))
    result = found(compare(same, [BestOfN(), MajorityVoting()]), "best_of_n")
    assert (result.score, result.delta) == (pytest.approx(4.5), 0.0)
    assert found(compare(same, [MajorityVoting()]), "majority_voting").score == pytest.approx((2.5 + 3.5 + 2.5 + 3) / 4)


def test_a_member_without_weight_does_not_rate_the_answer_of_another():
    """The one with a weight gives the response, so its own rating counts, not the mean with who says the same."""
    same = table([["x", "x"]] * 4, scores=[[4.0, 1.0], [5.0, 2.0], [4.0, 1.0], [5.0, 1.0]], models=("a", "b"))
    (alone,) = compare(same, [WeightedConsensus({"a": 1.0, "b": 0.0})]).strategies
    assert alone.score == pytest.approx(4.5)


@dataclass(frozen=True)
class Between:
    """A merge of the user's own that answers what no member said, and what one said, in a tie."""

    name: ClassVar[str] = "between"
    version: ClassVar[str] = "1"

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        tied = (str(contributions[0].answer), "of its own")
        return EnsembleResponse(
            text="", answer=tied[0], tied=tied, strategy=self.name, confidence=0.5, agreement=0.5,
            contributions=tuple(contributions),
        )  # fmt: skip


def test_an_answer_that_no_member_gave_is_right_where_it_is_the_gold_answer():
    """One of two tied answers is right on the first item, where nobody gave it, and on the second; none on the last."""
    answers = [["1", "2"], ["1", "2"], ["1", "2"]]
    run = table(answers, references=["of its own", "1", "2"], models=("a", "b"))
    assert compare(run, [Between()], splits=2).strategies[0].score == pytest.approx(1 / 3)  # (1/2 + 1/2 + 0) / 3
    rated = table(answers, scores=[[-1, -8], [-1, -8], [-4, -8]], models=("a", "b"), score_kind="human_mqm_negated")
    # An answer without a rating is worth the worst one: (-1 - 8) / 2, the same, and (-4 - 8) / 2.
    assert compare(rated, [Between()], splits=2).strategies[0].score == pytest.approx(-5.0)
    texts = measured(answers, [[0.5, 0.1], [0.5, 0.1], [0.3, 0.2]], ["of its own", "its", "x"])
    # A metric measures it: 1, "its" in three words is 2*1/4, 0; each in a tie with the text of a.
    assert compare(texts, [Between()], splits=2).strategies[0].score == pytest.approx((1.5 + 1.0 + 0.3) / 2 / 3)


def test_a_subclass_is_compared_by_what_it_does():
    """A user's own rule on top of a built-in class is not replaced by the built-in one."""

    class First(MajorityVoting):
        def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
            return super().__call__([c for c in contributions if c.model == "a"])

    assert compare(six(), [First()]).strategies[0].score == pytest.approx(5 / 6)


def test_the_words_count_what_happened_on_the_lost_items():
    """Of i1, i4 and i5 that the vote loses, two were outvoted and one ended in a tie."""
    majority = found(compare(six(), [MajorityVoting()]), "majority_voting")
    assert (majority.lost, majority.lost_tied, majority.lost_undecided) == (3, 1, 0)


# --- strategies that learn ------------------------------------------------------------------------------

LEARNERS = [name for name in POLICIES if isinstance(policy(name), Learner)]


def with_names(given: RunTable) -> Pool:
    """The table's pool, in which the texts of an item are its id, so that a strategy can tell what it sees."""
    ballots = given.ballots
    assert ballots is not None
    return Pool.of(ballots, texts=[[item] * len(ballots.models) for item in given.item_ids])


def named(pool: Pool) -> tuple[str, ...]:
    return tuple(str(row[0]) for row in pool.texts)


@dataclass(frozen=True)
class Watched:
    """A learner that keeps a record of what it was fitted on, what it learned and what it decided."""

    of: Any = field(default_factory=BestSingle)
    taught: tuple[str, ...] = ()
    fits: list[tuple[tuple[str, ...], Any]] = field(default_factory=list, compare=False)
    learned: list[dict[str, Any]] = field(default_factory=list, compare=False)
    asked: list[tuple[frozenset[str], tuple[str, ...], Any]] = field(default_factory=list, compare=False)
    name: ClassVar[str] = "watched"

    @property
    def fitted(self) -> bool:
        return bool(self.of.fitted)

    def fit(self, pool: Pool, values: Any) -> Watched:
        self.fits.append((named(pool), values))
        taught = replace(self, of=self.of.fit(pool, values), taught=named(pool))
        self.learned.append(params_of(taught.of))
        return taught

    def over(self, pool: Pool) -> Outcome:
        outcome = self.of.over(pool)
        told = zip(outcome.tied.tolist(), outcome.agreement.tolist(), outcome.confidence.tolist(), strict=True)
        self.asked.append((frozenset(self.taught), named(pool), list(told)))
        return outcome

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        raise AssertionError("a strategy of pools is not asked item by item")


def planted(items: int = 24, seed: int = 0, rated: bool = False) -> RunTable:
    """Three models, right on 80, 60 and 50 % of items with three answers; or texts with ratings of their own."""
    chance = np.random.default_rng(seed)
    gold = chance.integers(0, 3, items)
    wrong = (gold[:, None] + chance.integers(1, 3, (items, 3))) % 3
    answers = np.where(chance.random((items, 3)) < [0.8, 0.6, 0.5], gold[:, None], wrong).astype(str).tolist()
    if rated:
        return table(answers, scores=-chance.gamma(2.0, size=(items, 3)), score_kind="human_mqm_negated")
    return table(answers, references=[str(g) for g in gold])


def test_a_learner_is_judged_on_items_of_other_folds_only():
    """Ten interleaved folds: each item is decided once, by what was learned on all items of the other nine."""
    watched, given_table = Watched(), planted()
    compare(given_table, [watched], pool=with_names(given_table), splits=1)
    folds = watched.asked[:FOLDS]
    every = set(given_table.item_ids)
    assert [set(judged) for _, judged, _ in folds] == [{f"i{k}" for k in range(24) if k % 10 == f} for f in range(10)]
    assert all(taught == every - set(judged) for taught, judged, _ in folds)


def test_a_learner_is_fitted_on_the_choosing_half_and_judged_on_the_other():
    """Each of the random half splits fits once, on the very half on which the single model is chosen."""
    watched, given_table = Watched(), planted()
    compare(given_table, [watched], pool=with_names(given_table), splits=7, seed=3)
    halves = half_splits(24, splits=7, seed=3)
    assert len(watched.asked) == FOLDS + 7
    for choose, (taught, judged, _) in zip(halves, watched.asked[FOLDS:], strict=True):
        assert taught == {f"i{k}" for k in np.flatnonzero(choose)}
        assert set(judged) == {f"i{k}" for k in np.flatnonzero(~choose)}


@pytest.mark.parametrize("rated", [False, True], ids=["labels", "ratings"])
def test_a_learner_is_given_the_values_of_its_items(rated: bool):
    """Every fit sees the rows of values that belong to its items."""
    watched, given_table = Watched(), planted(rated=rated)
    compare(given_table, [watched], pool=with_names(given_table), splits=3)
    values = given_table.values()
    for items, seen in watched.fits:
        assert np.array_equal(seen, values[[int(item[1:]) for item in items]], equal_nan=True)


def test_items_without_a_score_teach_a_learner_nothing():
    """What is left out of the comparison is neither fitted on nor decided; folds count the items that are left."""
    answers = [["x", "y"], ["x", "y"], ["p", "q"], ["p", "q"]]
    given_table = table(answers, scores=[[4, 2], [3, NAN], [5, 2], [4, 1]], models=("a", "b"), score_kind="rating")
    watched = Watched()
    compare(given_table, [watched], pool=with_names(given_table), splits=2)
    assert {item for items, _ in watched.fits for item in items} == {"i0", "i2", "i3"}
    assert [judged for _, judged, _ in watched.asked[:3]] == [("i0",), ("i2",), ("i3",)]


def test_what_a_learner_would_ship_is_fitted_on_all_items():
    """`learned` has the parameters of a fit on everything, `params` what was asked for."""
    given_table = planted()
    compared = compare(given_table, [Stacking(penalty=2.0), BestSingle(), MajorityVoting()], splits=2)
    whole = Stacking(penalty=2.0).fit(given_table.pool(), given_table.values())
    stacking, single, vote = compared.strategies
    assert stacking.params == {"penalty": 2.0}
    assert stacking.learned == params_of(whole)
    means = dict(zip("abc", given_table.scores.mean(axis=0), strict=True))
    assert single.learned == {"ranking": tuple(sorted("abc", key=lambda m: -means[m]))}
    assert vote.learned == {}
    assert json.loads(json.dumps(compared.as_dict()))["strategies"][0]["learned"]["weights"] == dict(whole.weights)


def test_a_learner_that_comes_fitted_is_fitted_anew():
    """What it learned before, perhaps of these very items, is not what is judged."""
    given_table = planted()
    fresh, stale = compare(given_table, [BestSingle(), BestSingle(("c", "b", "a"))], splits=5).strategies
    assert (fresh.score, fresh.split_delta) == (stale.score, stale.split_delta)


@pytest.mark.parametrize("rated", [False, True], ids=["labels", "ratings"])
@pytest.mark.parametrize("name", LEARNERS)
def test_the_scores_of_an_item_do_not_change_its_decision(name: str, rated: bool):
    """Whatever an item's own answers are worth, in folds and halves it is decided as before; others may not be."""
    before = planted(40, seed=2, rated=rated)
    moved = False
    for item in (0, 13, 39):
        if rated:
            scores = before.scores.copy()
            scores[item] = scores[item][::-1] * [3.0, 0.1, 30.0]
            after = replace(before, scores=scores)
        else:
            reference = list(before.reference)
            reference[item] = next(a for a in "0123" if a != reference[item])
            scores = before.scores.copy()
            scores[item] = 1 - scores[item]
            after = replace(before, reference=tuple(reference), scores=scores)
        assert after.ballots is not None
        quality = estimated_quality(after.scores)[0]
        after = replace(after, ballots=replace(after.ballots, quality=quality))
        seen, learned = [], []
        for given_table in (before, after):
            watched = Watched(of=policy(name))
            try:
                compare(given_table, [watched], pool=with_names(given_table), splits=3, samples=10)
            except LLMValidationError as error:
                if error.code != "fit.values" or not rated:
                    raise
                return  # it reads labels only
            seen.append(watched.asked)
            learned.append(watched.learned)
        first, second = (
            [d for _, judged, told in asked for i, d in zip(judged, told, strict=True) if i == f"i{item}"]
            for asked in seen
        )
        assert first == second
        assert first
        moved = moved or learned[0] != learned[1]
    if name in ("dawid_skene", "one_coin"):  # which learn without labels
        assert not moved
    elif name not in ("best_single", "ensemble_selection"):  # whose choices one label seldom moves
        assert moved, "the case has lost its point: no fit was moved by any score"


def test_a_learner_that_follows_one_model_is_worth_that_models_own_ratings():
    """Two texts that read the same have ratings of their own: the best single model is no better than itself."""
    same = table([["x", "x"]] * 4, scores=[[4.0, 1.0], [5.0, 2.0], [4.0, 1.0], [5.0, 1.0]], models=("a", "b"))
    single, stacked = compare(same, [BestSingle(), Stacking()], splits=6).strategies
    assert (single.score, single.delta) == (pytest.approx(4.5), 0.0)
    assert (single.split_delta, single.split_low, single.split_high) == (0, 0, 0)
    # All supporters stand behind the answer of a vote, so that it is worth the mean of their ratings.
    assert stacked.score == pytest.approx((2.5 + 3.5 + 2.5 + 3) / 4)


def test_a_strategy_of_pools_that_learns_nothing_is_decided_once():
    """Its scores on the halves are those on all items, as for any fixed vote."""

    @dataclass(frozen=True)
    class First:
        asked: list[int] = field(default_factory=list, compare=False)
        name: ClassVar[str] = "first"

        def over(self, pool: Pool) -> Outcome:
            self.asked.append(len(pool))
            return BestSingle(("a", "b", "c")).over(pool)

        def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
            return BestSingle(("a", "b", "c"))(contributions)

    first = First()
    result = compare(six(), [first], splits=5).strategies[0]
    assert first.asked == [6]
    assert (result.score, result.learned) == (pytest.approx(5 / 6), {})


def test_a_learner_of_scores_alone_is_refused():
    """There is no text to merge, whatever could be learned."""
    with pytest.raises(LLMValidationError) as caught:
        compare(table(None, scores=[[1, 0], [1, 1]], models=("a", "b")), [BestSingle()])
    assert caught.value.code == "validation.no_text"


def test_two_items_are_enough_for_a_learner_that_needs_one():
    """Each is decided by what the other taught: a is best on the first, b on the second, and both are wrong."""
    two = table([["1", "2"], ["2", "1"]], references=["1", "1"], models=("a", "b"))
    assert compare(two, [BestSingle()], splits=2).strategies[0].score == 0.0
