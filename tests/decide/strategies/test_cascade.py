"""The cascade: who is asked, when it stops, what it costs, and its threshold against every other one."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from tests.contracts import merge_contract as contract
from tests.decide.strategies.cases import decided, refused, run_of
from workbench.decide.learn import worth_of_members
from workbench.decide.merge import params_of
from workbench.decide.pool import Pool
from workbench.decide.strategies.cascade import Cascade, calls_made, cost_of
from workbench.decide.votes import Ballots

NAN = float("nan")
# One answer is right half of the time, two votes out of two nine times out of ten, and so on.
CHANCES = ((0.5,), (0.4, 0.9), (0.3, 0.6, 0.95))


def abc(threshold, ranking="abc"):
    return Cascade(threshold=threshold, ranking=tuple(ranking), chances=CHANCES)


def planted(items, seed=0, accuracies=(0.5, 0.6, 0.7), options=4, silent=0.1):
    """Members a, b, ... with independent errors, some of them silent now and then."""
    chance = np.random.default_rng(seed)
    m = len(accuracies)
    said = np.where(chance.random((items, m)) < accuracies, 0, chance.integers(1, options, (items, m)))
    mute = chance.random((items, m)) < silent
    rows = [[None if q else str(a) for a, q in zip(*both, strict=True)] for both in zip(said, mute, strict=True)]
    ballots = Ballots.of("abcdef"[:m], rows)
    return Pool.of(ballots), ballots.values(np.zeros((items, m)), ["0"] * items)


# --- asking -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "answers", "calls", "winner"),
    [
        (0.5, "xyz", 1, "x"),  # one answer is enough
        (0.6, "xxy", 2, "x"),  # two that agree are enough
        (0.6, "xyx", 3, "x"),  # two that differ are not; then two of three
        (0.9, "xyz", 3, "z"),  # nobody is left, and of equals the last leads
        (0.95, "xxx", 3, "x"),
        (1.0, "xxy", 3, "x"),
        (0.4, "xyz", 1, "x"),
    ],
)
def test_it_stops_when_the_leader_is_probably_right(threshold, answers, calls, winner):
    """It asks until a leader's chance reaches the threshold, or everybody was asked."""
    pool, _ = run_of(dict(zip("abc", answers, strict=True)), "x")
    strategy = abc(threshold)
    assert calls_made(strategy, pool).tolist() == [calls]
    assert decided(strategy, *answers).answer == winner
    assert pool.ballots.answers[0][strategy.over(pool).winner[0]] == winner


def test_agreement_and_text_are_of_those_asked():
    """c says the same as a but was not asked; a and b were, and a's text is given."""
    merged = decided(abc(0.4, "bac"), "x", "y", "x")
    assert (merged.answer, merged.text, merged.agreement, merged.confidence) == ("y", "b y", 1.0, 1.0)
    merged = decided(abc(0.6, "bac"), "x", "x", "y")
    assert (merged.answer, merged.agreement) == ("x", 1.0)
    assert abc(0.6, "bac").over(run_of({"a": ["x"], "b": ["x"], "c": ["x"]}, "x")[0]).chosen.tolist() == [
        [True, True, False]
    ]
    assert decided(abc(0.6), "x", "y", "y").agreement == pytest.approx(2 / 3)


def test_those_not_asked_have_no_influence():
    """Other answers of members that were not asked change neither winner nor shares, on any item."""
    pool, values = planted(200)
    strategy = Cascade().fit(pool, values)
    before, calls = strategy.over(pool), calls_made(strategy, pool)
    columns = [pool.models.index(model) for model in strategy.ranking]
    rows = [[pool.ballots.answers[i][c] if c >= 0 else None for c in pool.ballots.codes[i]] for i in range(200)]
    for i, made in enumerate(calls):
        for j in columns[made:]:
            rows[i][j] = "other"
    other = Ballots.of(pool.models, rows)
    after = strategy.over(Pool.of(other))
    assert calls.max() > calls.min()
    for i in range(200):
        told = [
            (b.answers[i][o.winner[i]] if o.winner[i] >= 0 else None)
            for b, o in ((pool.ballots, before), (other, after))
        ]
        assert told[0] == told[1]
    assert before.agreement.tolist() == after.agreement.tolist()


def test_a_member_without_an_answer_is_passed_over():
    """It costs a call, its silence is no vote, and the next is asked; where nobody answers, nothing is decided."""
    pool, _ = run_of({"a": [None, None], "b": ["x", None], "c": ["y", None]}, "xx")
    strategy = abc(0.5)
    assert calls_made(strategy, pool).tolist() == [2, 3]
    outcome = strategy.over(pool)
    assert outcome.winner.tolist() == [0, -1]
    assert outcome.agreement.tolist() == [1.0, 0.0]
    assert outcome.chosen.tolist() == [[False, True, False], [False] * 3]


def test_nobody_stops_before_an_answer_is_heard():
    """Even a threshold of 0 waits for the first answer."""
    pool, _ = run_of({"a": [None], "b": [None], "c": ["x"]}, "x")
    assert calls_made(abc(0.0), pool).tolist() == [3]


def test_the_cost_is_that_of_the_members_asked():
    """c at 4 and a at 1 US dollars were asked, and b where they differ; an unknown cost makes an unknown sum."""
    cost = np.array([[1.0, 2.0, 4.0], [1.0, 2.0, NAN], [1.0, 2.0, 4.0], [1.0, NAN, 4.0]])
    pool, _ = run_of({"a": "xxyx", "b": "yyyy", "c": "xxxx"}, "xxxx", cost_usd=cost)
    strategy = abc(0.9, "cab")
    assert calls_made(strategy, pool).tolist() == [2, 2, 3, 2]
    assert cost_of(strategy, pool).tolist() == pytest.approx([5.0, NAN, 7.0, 5.0], nan_ok=True)
    assert strategy.over(pool).chosen.tolist() == [
        [True, False, True],
        [True, False, True],
        [True, True, False],
        [True, False, True],
    ]


# --- learning ---------------------------------------------------------------------------------------------


def test_chances_are_those_of_a_hand_calculation():
    """Shares of right leaders, each with one item more, as right as all leaders after as many answers."""
    # a is right on 2 of 4, b on 3; asked in this order they agree on items 1 (right) and 4 (wrong), and b leads else.
    fitted = Cascade(order=("a", "b")).fit(*run_of({"a": "xxyy", "b": "xzxy"}, "xxxx"))
    one, two = fitted.chances
    assert one == pytest.approx([(2 + 2.5 / 5) / 5])
    # Two answers: leaders with 1 vote are right once out of 2, with 2 votes once out of 2: all share 2.5 / 5.
    assert two == pytest.approx([(1 + 0.5) / 3, (1 + 0.5) / 3])


def test_silence_is_counted_once():
    """After one answer of two members an item is counted once, whichever of them gave it."""
    # First answers: right on three of four items; two answers: right on one of two.
    fitted = Cascade(order=("a", "b")).fit(*run_of({"a": ["x", None, "x", "y"], "b": [None, "x", "x", "y"]}, "xxxx"))
    assert fitted.chances[0] == pytest.approx([(3 + 3.5 / 5) / 5])
    assert fitted.chances[1] == pytest.approx([0.5, (1 + 1.5 / 3) / 3])


def test_chances_never_fall_with_votes():
    """Also where few items have many votes, a leader with more of them is not believed less."""
    for seed in range(5):
        chances = Cascade().fit(*planted(40, seed=seed, accuracies=(0.3, 0.4, 0.5, 0.5))).chances
        assert [len(row) for row in chances] == [1, 2, 3, 4]
        assert all(p <= q for row in chances for p, q in pairwise(row))
        assert all(0 < p < 1 for row in chances for p in row)


def told_apart(rows, gold, ranking, chances, threshold):
    """Answers, calls and right ones, item by item, as the docstring says it; written without the code under test."""
    calls, right = [], []
    for row, answer in zip(rows, gold, strict=True):
        heard, leader = [], None
        for k, column in enumerate(ranking, 1):
            if row[column] is not None:
                heard.append(row[column])
                leader = max(heard, key=lambda a: (heard.count(a), max(i for i, h in enumerate(heard) if h == a)))
            done = bool(heard) and chances[len(heard) - 1][heard.count(leader) - 1] >= threshold
            if done or k == len(ranking):
                break
        calls.append(k)
        right.append(float(leader == answer))
    return np.array(calls), np.array(right)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("accuracies", [(0.5, 0.55, 0.6, 0.6), (0.2, 0.2, 0.2, 0.9)])
def test_no_other_threshold_is_cheaper_and_as_good(accuracies, seed):
    """Of all thresholds none that keeps up with the best single model makes fewer calls than the one found."""
    pool, values = planted(40, seed=seed, accuracies=accuracies)
    fitted = Cascade(tolerance=0.02).fit(pool, values)
    rows = [
        [pool.ballots.answers[i][c] if c >= 0 else None for c in codes] for i, codes in enumerate(pool.ballots.codes)
    ]
    rows = [row for row in rows if any(a is not None for a in row)]
    ranking = [pool.models.index(model) for model in fitted.ranking]
    tried = [*np.linspace(0, 1, 101), *(p for row in fitted.chances for p in row)]
    arms = [told_apart(rows, ["0"] * len(rows), ranking, fitted.chances, t) for t in [*tried, fitted.threshold]]
    arms = [(right.mean(), calls.mean()) for calls, right in arms]
    single = max(np.mean([row[j] == "0" for row in rows]) for j in ranking)
    enough = [(calls, -right) for right, calls in arms if right >= single - 0.02 - 1e-12]
    if enough:
        right, calls = arms[-1]
        assert (calls, -right) == min(enough)
    else:
        assert arms[-1] == max(arms, key=lambda arm: (arm[0], -arm[1]))
        assert "no threshold keeps up" in fitted.reason
    alive = np.flatnonzero(pool.present.any(axis=1))
    calls, right = told_apart(rows, ["0"] * len(rows), ranking, fitted.chances, fitted.threshold)
    assert calls_made(fitted, pool)[alive].tolist() == calls.tolist()
    assert fitted.over(pool).scores(values)[alive].tolist() == right.tolist()


def test_where_no_threshold_keeps_up_it_says_so():
    """One good member among poor ones that err alike is outvoted: the most accurate threshold is taken."""
    columns = {"a": "y" * 20, "b": "y" * 20, "c": "y" * 20, "d": "x" * 20}
    fitted = Cascade().fit(*run_of(columns, "x" * 20))
    assert fitted.reason.startswith("no threshold keeps up, so it is the most accurate: 0.0000 right")
    assert fitted.reason.endswith("the best single model is 1.0000 right")
    assert "no threshold" not in Cascade(tolerance=1.0).fit(*run_of(columns, "x" * 20)).reason


def test_tolerance_buys_fewer_calls():
    """A share right given away is paid back in calls, and no more is given away than allowed."""
    pool, values = planted(400, accuracies=(0.5, 0.5, 0.5, 0.6))
    strict, loose = (Cascade(tolerance=t).fit(pool, values) for t in (0.0, 0.1))
    assert calls_made(loose, pool).mean() < calls_made(strict, pool).mean() < 4
    single = np.nan_to_num(worth_of_members(pool.ballots, values)).mean(axis=0).max()
    assert single > loose.over(pool).scores(values).mean() >= single - 0.1
    assert strict.over(pool).scores(values).mean() >= single


@pytest.mark.parametrize(
    ("known", "ranking"),
    [
        ({}, "bca"),  # weakest first: b is right on 1, c on 2, a on 3
        ({"latency_ms": np.array([[20.0, 30.0, 10.0]] * 4)}, "cab"),
        ({"latency_ms": np.array([[20.0, NAN, 10.0]] * 4)}, "bca"),
        ({"cost_usd": np.array([[1.0, 2.0, 3.0]] * 4), "latency_ms": np.array([[9.0, 8.0, 7.0]] * 4)}, "abc"),
        ({"cost_usd": np.array([[2.0, 2.0, 1.0]] * 3 + [[2.0, 3.0, NAN]])}, "cab"),
    ],
)
def test_the_cheapest_is_asked_first(known, ranking):
    """By mean cost where every member has one, else by mean latency, else the least accurate first."""
    pool, values = run_of({"a": "xxxy", "b": "xzzz", "c": "xxyy"}, "xxxx", **known)
    assert Cascade().fit(pool, values).ranking == tuple(ranking)


def test_equally_cheap_members_are_asked_by_name():
    """Members that are right equally often come in the order of their names."""
    assert Cascade().fit(*run_of({"b": "xxy", "a": "xyx", "c": "xyy"}, "xxx")).ranking == ("c", "a", "b")


def test_a_stated_order_is_kept():
    """What is learned is asked in the order given, whatever it costs."""
    pool, values = run_of({"a": "xxxy", "b": "xzzz", "c": "xxyy"}, "xxxx")
    assert Cascade(order=["c", "b", "a"]).fit(pool, values).ranking == ("c", "b", "a")
    refused(lambda: Cascade(order=("a", "b")).fit(pool, values), "validation.weights")


def test_known_costs_are_what_is_saved():
    """The price of an item is counted in US dollars where every member's is known, else in calls."""
    pool, values = planted(300, accuracies=(0.6, 0.7, 0.75))
    priced = Pool.of(pool.ballots, cost_usd=np.tile([0.1, 0.2, 10.0], (300, 1)))
    fitted = Cascade().fit(priced, values)
    assert "USD an item; asking all takes 10.3" in fitted.reason
    assert cost_of(fitted, priced).mean() < 10.3
    assert "calls an item; asking all takes 3" in Cascade().fit(pool, values).reason


def test_unlabelled_items_teach_nothing():
    """Items with an answer of unknown value are left out as a whole."""
    pool, values = planted(80)
    known = np.arange(80) % 3 > 0
    blank = np.where(known[:, None], values, NAN)
    assert Cascade().fit(pool, blank) == Cascade().fit(pool.take(known), values[known])


# --- as a policy ------------------------------------------------------------------------------------------


def test_what_it_learned_survives_json():
    """Parameters written as JSON make an equal policy, of equal hash, that decides the same."""
    pool, values = planted(100)
    fitted = Cascade().fit(pool, values)
    again = Cascade(**json.loads(json.dumps(params_of(fitted))))
    assert again == fitted == Cascade().fit(pool, values)
    assert hash(again) == hash(fitted)
    assert fitted.fitted
    assert not Cascade(order=("a", "b", "c"), threshold=0.9).fitted


def test_the_order_of_items_and_models_does_not_matter():
    """Shuffled items and models teach the same to the last bit."""
    pool, values = planted(100)
    rows, columns = np.random.default_rng(0).permutation(100), [2, 0, 1]
    b = pool.ballots
    answers = [[b.answers[i][b.codes[i, j]] if b.codes[i, j] >= 0 else None for j in columns] for i in rows]
    other = Ballots.of([b.models[j] for j in columns], answers)
    assert Cascade().fit(Pool.of(other), values[rows]) == Cascade().fit(pool, values)


def test_it_refuses_what_it_cannot_use():
    """Unfitted, without labels, on another scale, for other members, and with parameters out of range."""
    pool, values = planted(30)
    refused(lambda: Cascade().over(pool), "validation.unfitted")
    refused(lambda: calls_made(Cascade(), pool), "validation.unfitted")
    refused(lambda: Cascade().fit(pool, np.full(values.shape, NAN)), "fit.items")
    refused(lambda: Cascade().fit(pool, values * 7), "fit.values")
    refused(lambda: abc(0.5, "abd").over(pool), "validation.weights")
    refused(lambda: Cascade(order=("a", "a")), "validation.models")
    bad = [
        {"tolerance": -0.1},
        {"tolerance": NAN},
        {"threshold": 1.5},
        {"threshold": NAN},
        {"chances": CHANCES},
        {"chances": CHANCES[:2], "ranking": ("a", "b", "c")},
        {"chances": ((0.5,), (0.5,)), "ranking": ("a", "b")},
    ]
    for params in bad:
        refused(lambda params=params: Cascade(**params), "validation.strategy")


def test_a_pool_without_items_has_an_outcome_without_items():
    """Nothing is decided, and nobody asked, where there is nothing to decide."""
    pool, values = planted(30)
    fitted, nothing = Cascade().fit(pool, values), pool.take(np.zeros(30, dtype=bool))
    assert fitted.over(nothing).winner.shape == (0,)
    assert calls_made(fitted, nothing).shape == cost_of(fitted, nothing).shape == (0,)


@cache
def fitted_for(members, voting):
    """A cascade fitted for these members; those without a vote are silent."""
    accuracy = dict(zip(contract.MODELS, (0.9, 0.7, 0.7, 0.6, 0.6, 0.4), strict=True))
    chance = np.random.default_rng(0)
    columns = {m: [str(int(x > accuracy[m]) * (1 + i % 3)) for i, x in enumerate(chance.random(40))] for m in accuracy}
    silent = [None] * 40
    return Cascade().fit(*run_of({m: columns[m] if m in voting else silent for m in members}, "0" * 40))


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_contract_of_a_merge(monkeypatch, check):
    """Fitted for the members at hand, it keeps every promise."""
    monkeypatch.setattr(contract, "CASES", 100)
    known = set(contract.MODELS)
    check(lambda w: fitted_for(tuple(sorted(w)), frozenset(m for m in w if w[m] > 0 and m in known)))
