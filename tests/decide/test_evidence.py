"""What was told, and the gain it lets one expect: pooling, fading, and keeping."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.decide.evidence import (
    PRIOR_SD,
    TAU,
    UNCHANGED,
    Context,
    Evidence,
    Gain,
    Pattern,
    Tally,
    Tell,
    Telling,
    group_of,
    source_of,
)
from workbench.errors import LLMValidationError

FORGET_NOTHING = Tell(discount=1.0)
HERE = Context("m", "reasoning", "sums")


def told(*rows: tuple[Context, str, float], start: Evidence | None = None, step: Tell = FORGET_NOTHING) -> Evidence:
    evidence = start or Evidence()
    for context, strategy, quality in rows:
        evidence = evidence.tell(Telling(context, strategy, quality), step)
    return evidence


def many(context: Context, strategy: str, right: int, n: int) -> list[tuple[Context, str, float]]:
    return [(context, strategy, 1.0)] * right + [(context, strategy, 0.0)] * (n - right)


def gain(evidence: Evidence, context: Context = HERE, strategy: str = "cot") -> Gain:
    (found,) = evidence.gains(context, [strategy])
    return found


# -- nothing known


def test_nothing_told_is_a_gain_of_0_with_a_wide_interval() -> None:
    """The prior of the root and a step of TAU down each of the three levels."""
    found = gain(Evidence())
    assert (found.mean, found.n, found.told) == (0.0, 0.0, 0.0)
    assert found.sd == pytest.approx(math.sqrt(PRIOR_SD**2 + 3 * TAU**2))
    assert found.low < -0.5
    assert found.high > 0.5
    assert found.positive == pytest.approx(0.5)


def test_tellings_about_one_side_only_say_nothing_about_a_gain() -> None:
    """A gain is a difference: without unchanged queries nothing is known of it, whatever the quality."""
    found = gain(told(*many(HERE, "cot", 30, 30)))
    assert found.mean == 0.0
    assert (found.n, found.told) == (30.0, 30.0)
    assert found.sd == pytest.approx(gain(Evidence()).sd)


def test_intervals_stay_within_what_a_gain_can_be() -> None:
    """A difference of two qualities in [0, 1] lies in [-1, 1]."""
    assert (Gain("x", 0.9, 1.0).high, Gain("x", -0.9, 1.0).low) == (1.0, -1.0)


def test_a_gain_without_uncertainty_is_above_0_or_not() -> None:
    """The unchanged query has a gain of exactly 0."""
    assert (Gain("x", 0.0, 0.0).positive, Gain("x", 0.1, 0.0).positive) == (0.0, 1.0)


# -- one group


def test_many_tellings_in_a_group_outweigh_all_else() -> None:
    """1,000 tellings of 0.8 against 1,000 of 0.5 leave a gain close to 0.3, with about the binomial error."""
    evidence = told(*many(HERE, "cot", 800, 1000), *many(HERE, UNCHANGED, 500, 1000))
    found = gain(evidence)
    assert found.mean == pytest.approx(0.3, abs=0.005)
    # sqrt(.8 * .2 / 1000 + .5 * .5 / 1000) = 0.02025
    assert found.sd == pytest.approx(0.02025, rel=0.02)


def test_the_posterior_of_a_lonely_group_is_the_conjugate_one() -> None:
    """Prior N(0, .25^2 + 3 * .2^2), data N(.5, v): the textbook mean and variance of two normals."""
    evidence = told(*many(HERE, "cot", 9, 10), *many(HERE, UNCHANGED, 4, 10))
    # Variance of a mean: p(1 - p) / n with p = (right + .5) / (n + 1), p = 9.5/11 and 4.5/11.
    v = (9.5 / 11) * (1.5 / 11) / 10 + (4.5 / 11) * (6.5 / 11) / 10
    prior = 0.25**2 + 3 * 0.2**2
    found = gain(evidence)
    assert found.mean == pytest.approx(0.5 / v / (1 / v + 1 / prior))
    assert found.sd**2 == pytest.approx(1 / (1 / v + 1 / prior))


def test_graded_qualities_have_the_error_of_their_spread() -> None:
    """Qualities that are all 0.6 leave a smaller error than those of 0 and 1 with the same mean."""
    graded = told(*[(HERE, "cot", 0.6)] * 50, *many(HERE, UNCHANGED, 25, 50))
    binary = told(*many(HERE, "cot", 30, 50), *many(HERE, UNCHANGED, 25, 50))
    assert gain(graded).sd < gain(binary).sd


def test_old_tellings_count_less() -> None:
    """With a discount of 0.9 a group that turned from bad to good is mostly good after 20 tellings."""
    step = Tell(discount=0.9)
    changed = told(*many(HERE, "cot", 0, 100), *many(HERE, "cot", 20, 20), step=step)
    tally = changed.tallies(HERE)["cot"]
    # 1 - 0.9^20 of the weight of a long stream is in the last 20.
    assert tally.mean == pytest.approx(1 - 0.9**20, abs=1e-4)
    assert tally.n == pytest.approx(10.0, abs=1e-3)


def test_a_telling_about_one_strategy_fades_the_others_of_its_group_alone() -> None:
    """The discount counts tellings in the group, and what was told elsewhere is as old as before."""
    other = Context("m", "reasoning", "words")
    evidence = told((HERE, UNCHANGED, 1.0), (other, UNCHANGED, 1.0), (HERE, "cot", 1.0), step=Tell(discount=0.5))
    assert evidence.tallies(HERE)[UNCHANGED] == Tally(0.5, 0.5, 0.5)
    assert evidence.tallies(other)[UNCHANGED] == Tally(1.0, 1.0, 1.0)


# -- coarser levels


def siblings(gains: list[float], n: int = 200) -> Evidence:
    rows = []
    for k, more in enumerate(gains):
        context = Context("m", "reasoning", f"group {k}")
        rows += many(context, UNCHANGED, round(0.4 * n), n) + many(context, "cot", round((0.4 + more) * n), n)
    return told(*rows)


def test_a_new_group_expects_what_the_others_of_its_model_gained() -> None:
    """Ten groups with a gain of 0.3 make a new one expect almost that, less surely than they know their own."""
    evidence = siblings([0.3] * 10)
    new = gain(evidence, Context("m", "reasoning", "new"))
    assert new.mean == pytest.approx(0.3, abs=0.03)
    assert gain(evidence, Context("m", "reasoning", "group 0")).sd < new.sd < gain(Evidence()).sd


def test_groups_that_differ_make_a_new_one_less_sure() -> None:
    """The spread between groups goes into the interval of the next."""
    alike, apart = siblings([0.3] * 8), siblings([0.0, 0.6] * 4)
    here = Context("m", "reasoning", "new")
    assert gain(apart, here).sd > 1.5 * gain(alike, here).sd


def test_few_tellings_lean_on_the_other_groups_and_many_do_not() -> None:
    """A group that is harmed is first thought to be helped as the others are, and then no more."""
    evidence = siblings([0.3] * 10)
    harmed = Context("m", "reasoning", "harmed")
    few = told(*many(harmed, UNCHANGED, 3, 5), *many(harmed, "cot", 2, 5), start=evidence)
    lots = told(*many(harmed, UNCHANGED, 300, 500), *many(harmed, "cot", 200, 500), start=evidence)
    assert gain(few, harmed).mean > 0.05
    assert gain(lots, harmed).mean < -0.15


@pytest.mark.parametrize(
    ("where", "least"),
    [(Context("other", "reasoning", "sums"), 0.12), (Context("m", "translation", "sums"), 0.05)],
    ids=["another model", "another task"],
)
def test_other_models_and_tasks_are_leant_on_less(where: Context, least: float) -> None:
    """The further away, the less of a gain of 0.3 is expected, and the wider is the interval."""
    evidence = siblings([0.3] * 10)
    near, far = gain(evidence, Context("m", "reasoning", "new")), gain(evidence, where)
    assert least < far.mean < near.mean
    assert far.sd > near.sd


def test_a_group_is_not_its_own_prior() -> None:
    """A lonely group with 10 tellings a side leaves its siblings' prior as it was: counted once, not twice."""
    evidence = told(*many(HERE, "cot", 10, 10), *many(HERE, UNCHANGED, 0, 10))
    v = 2 * (0.5 / 11) * (10.5 / 11) / 10
    prior = 0.25**2 + 3 * 0.2**2
    assert gain(evidence).sd ** 2 == pytest.approx(1 / (1 / v + 1 / prior))


def test_strategies_do_not_mix() -> None:
    """What is told about one strategy says nothing about another."""
    evidence = siblings([0.3] * 5)
    assert gain(evidence, strategy="concise").mean == 0.0


def test_pooled_predictions_are_near_the_truth() -> None:
    """30 groups drawn from N(0.2, 0.15^2), 60 tellings a side: about 95 % of the intervals hold the true gain."""
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(10):
        true = np.clip(rng.normal(0.2, 0.15, 30), -0.35, 0.55)
        rows = []
        for k, more in enumerate(true):
            at = Context("m", "general", str(k))
            rows += many(at, UNCHANGED, rng.binomial(60, 0.4), 60) + many(at, "cot", rng.binomial(60, 0.4 + more), 60)
        evidence = told(*rows)
        for k, more in enumerate(true):
            found = gain(evidence, Context("m", "general", str(k)))
            inside.append(found.low <= more <= found.high)
    assert 0.91 <= np.mean(inside) <= 0.985


# -- keeping


RANDOM = st.lists(
    st.tuples(
        st.builds(
            Context, st.sampled_from(["a", "b"]), st.sampled_from(["general", "reasoning"]), st.sampled_from("xyz")
        ),
        st.sampled_from([UNCHANGED, "cot", "concise"]),
        st.floats(0, 1),
    ),
    max_size=40,
)


@given(RANDOM, st.sampled_from([1.0, 0.999, 0.7]))
def test_what_is_kept_as_rows_predicts_the_same_to_the_last_digit(
    rows: list[tuple[Context, str, float]], d: float
) -> None:
    """Rows through JSON and back give equal gains, and go on alike."""
    step = Tell(discount=d)
    evidence = told(*rows, step=step)
    again = Evidence.of([Pattern(**row) for row in json.loads(json.dumps([asdict(r) for r in evidence.rows()]))],
                        told=evidence.told)  # fmt: skip
    more = [(HERE, "cot", 0.25), (HERE, UNCHANGED, 0.75)]
    for one, other in (
        (evidence, again),
        (told(*more, start=evidence, step=step), told(*more, start=again, step=step)),
    ):
        assert one.rows() == other.rows()
        assert one.told == other.told
        for context in (HERE, Context("a", "general", "x")):
            assert one.gains(context, ["cot", "concise"]) == other.gains(context, ["cot", "concise"])


@given(RANDOM)
def test_telling_leaves_the_former_value_as_it_was(rows: list[tuple[Context, str, float]]) -> None:
    """A value is shared, never changed."""
    evidence = told(*rows)
    before, predicted = evidence.rows(), evidence.gains(HERE, ["cot"])
    told((HERE, "cot", 1.0), (HERE, UNCHANGED, 0.0), start=evidence)
    assert evidence.rows() == before
    assert evidence.gains(HERE, ["cot"]) == predicted


@given(RANDOM)
def test_predictions_are_finite_and_never_certain(rows: list[tuple[Context, str, float]]) -> None:
    """Whatever is told, a standard deviation stays above 0."""
    for found in told(*rows).gains(Context("a", "general", "x"), ["cot", "concise"]):
        assert math.isfinite(found.mean)
        assert 0 < found.sd < 1


def test_the_number_of_tellings_is_counted() -> None:
    """Also where it is not given with the rows."""
    evidence = told(*many(HERE, "cot", 2, 5))
    assert (evidence.told, Evidence.of(evidence.rows()).told) == (5, 5)


@pytest.mark.parametrize("quality", [-0.1, 1.1, float("nan"), "good", None, True], ids=str)
def test_a_quality_outside_0_to_1_is_refused(quality: object) -> None:
    """It says what to divide by."""
    with pytest.raises(LLMValidationError) as refused:
        FORGET_NOTHING({}, Telling(HERE, "cot", quality))  # type: ignore[arg-type]
    assert refused.value.code == "validation.feedback"


@pytest.mark.parametrize("discount", [0, 1.1, -1, float("nan"), "slow"], ids=str)
def test_a_discount_outside_0_to_1_is_refused(discount: object) -> None:
    """0 would forget everything at once."""
    with pytest.raises(LLMValidationError) as refused:
        Tell(discount=discount)  # type: ignore[arg-type]
    assert refused.value.code == "validation.config"


@pytest.mark.parametrize(
    "row",
    [
        Pattern("m", "t", "g", "s", 1.0, 2.0, 1.0),
        Pattern("m", "t", "g", "s", 1.0, 0.5, 0.6),
        Pattern("m", "t", "g", "s", -1.0, 0.0, 0.0),
        Pattern("m", "t", "g", "s", float("nan"), 0.0, 0.0),
        Pattern("m", "t", "g", None, 1.0, 0.0, 0.0),  # type: ignore[arg-type]
    ],
    ids=["total above n", "squares above total", "negative", "nan", "no text"],
)
def test_a_row_that_no_telling_leaves_is_refused(row: Pattern) -> None:
    """A damaged file does not become knowledge."""
    with pytest.raises(LLMValidationError) as refused:
        Evidence.of([row])
    assert refused.value.code == "validation.patterns"


def test_a_row_that_stands_twice_is_refused() -> None:
    """One of the two would be lost."""
    row = Pattern("m", "t", "g", "s", 1.0, 0.5, 0.5)
    with pytest.raises(LLMValidationError) as refused:
        Evidence.of([row, row])
    assert refused.value.code == "validation.patterns"


def test_the_group_of_an_item_is_told_or_read_from_its_id() -> None:
    """What the suite says comes first; an id without "-" has no group."""
    assert [group_of("word_sorting-12", None), group_of("a-b-3", "told"), group_of("17", None)] == [
        "word_sorting", "told", ""
    ]  # fmt: skip


# -- the same posterior, computed in another way


def between(found: list[tuple[float, float]]) -> float:
    """DerSimonian & Laird's tau^2 of (gain, variance) pairs, with TAU^2 as three more children."""
    if len(found) < 2:
        return 0.04
    y, v = np.array(found).T
    w = 1 / v
    q = (w * (y - (w * y).sum() / w.sum()) ** 2).sum()
    raw = max(0.0, (q - (len(y) - 1)) / (w.sum() - (w**2).sum() / w.sum()))
    return (raw * (len(y) - 1) + 0.04 * 3) / (len(y) + 2)


def pooled(found: list[tuple[float, float]]) -> tuple[float, float]:
    """Mean and variance of the pooled gain."""
    w = [1 / (v + between(found)) for _, v in found]
    return sum(a * y for a, (y, _) in zip(w, found, strict=True)) / sum(w), 1 / sum(w)


def joint(leaves: dict[tuple[str, str, str], tuple[float, float]], asked: tuple[str, str, str]) -> tuple[float, float]:
    """Mean and variance at a group, from the precision matrix of the whole tree of tasks, models and groups."""
    by_model: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for (task, model, _), seen in leaves.items():
        by_model.setdefault((task, model), []).append(seen)
    by_task: dict[str, list[tuple[float, float]]] = {}
    for (task, _), seen in by_model.items():
        by_task.setdefault(task, []).append(pooled(seen))
    tau = {(): between([pooled(seen) for seen in by_task.values()])}
    tau |= {(task,): between(seen) for task, seen in by_task.items()}
    tau |= {key: between(seen) for key, seen in by_model.items()}
    nodes = sorted({path[:k] for path in [*leaves, asked] for k in range(4)}, key=lambda n: (len(n), n))
    place = {node: i for i, node in enumerate(nodes)}
    precision, moment = np.zeros((len(nodes), len(nodes))), np.zeros(len(nodes))
    precision[0, 0] = 1 / 0.25**2
    for node in nodes[1:]:
        i, j, p = place[node], place[node[:-1]], 1 / tau.get(node[:-1], 0.04)
        precision[[i, j], [i, j]] += p
        precision[[i, j], [j, i]] -= p
    for path, (y, v) in leaves.items():
        precision[place[path], place[path]] += 1 / v
        moment[place[path]] += y / v
    covariance = np.linalg.inv(precision)
    return float((covariance @ moment)[place[asked]]), float(covariance[place[asked], place[asked]])


@pytest.mark.parametrize("seed", range(12))
def test_a_gain_is_the_joint_posterior_of_the_whole_tree(seed: int) -> None:
    """Up to three tasks, models and five groups, some without one side; also where nothing was told."""
    rng = np.random.default_rng(seed)
    evidence, leaves = Evidence(), {}
    for path in [(str(t), str(m), str(g)) for t in range(rng.integers(1, 4)) for m in range(rng.integers(1, 4))
                 for g in range(rng.integers(1, 6))]:  # fmt: skip
        sides = {}
        for strategy in (UNCHANGED, "cot"):
            if rng.random() < 0.85:
                q = rng.random(rng.integers(1, 40))
                q = (q < rng.random()).astype(float) if rng.random() < 0.6 else q
                evidence = told(*((Context(path[1], path[0], path[2]), strategy, float(x)) for x in q), start=evidence)
                n, first, second = len(q), (q.sum() + 0.5) / (len(q) + 1), ((q * q).sum() + 0.5) / (len(q) + 1)
                sides[strategy] = q.mean(), max(second - first**2, 1e-12) / n
        if len(sides) == 2:
            leaves[path] = sides["cot"][0] - sides[UNCHANGED][0], sides["cot"][1] + sides[UNCHANGED][1]
    for asked in [*list(leaves)[:4], ("0", "0", "new"), ("0", "new", "0"), ("new", "0", "0")]:
        found = gain(evidence, Context(asked[1], asked[0], asked[2]))
        mean, variance = joint(leaves, asked)
        assert found.mean == pytest.approx(mean, abs=1e-12)
        assert found.sd**2 == pytest.approx(variance, rel=1e-9)


def test_what_was_told_long_ago_is_forgotten_and_divides_nothing() -> None:
    """With a discount of 0.5 a strategy that is not told again leaves the tallies, and gains stay finite."""
    step = Tell(discount=0.5)
    other = Context("m", "reasoning", "words")
    evidence = told((HERE, "cot", 1.0), (HERE, UNCHANGED, 0.0), (other, "cot", 1.0), (other, UNCHANGED, 0.0), step=step)
    for _ in range(1100):
        evidence = evidence.tell(Telling(HERE, "verbose", 1.0), step)
    assert set(evidence.tallies(HERE)) == {"verbose"}
    assert math.isfinite(gain(evidence).mean)
    assert gain(evidence, other).n > 0


def test_the_name_of_a_model_says_where_its_answers_come_from() -> None:
    """A name without a provider says nothing, and nothing is made up."""
    names = ["simulated:weak", "recorded:gsm8k/x", "openai:gpt-4.1", "reader", ""]
    assert [source_of(name) for name in names] == ["simulated", "recorded", "live", "", ""]
