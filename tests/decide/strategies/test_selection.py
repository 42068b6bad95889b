"""Ensemble selection: each pick against brute force, hand cases, the budget, and the caution of the beginning kept."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

from tests.contracts import merge_contract as contract
from tests.decide.strategies.cases import decided, refused, run_of
from workbench.decide.merge import WeightedConsensus, params_of
from workbench.decide.pool import Pool
from workbench.decide.strategies.selection import ROUNDS, EnsembleSelection
from workbench.decide.strategies.single import BestSingle
from workbench.decide.votes import Ballots, decide

NAN = float("nan")


def planted(items, seed=0, members=5, options=4, silent=0.1):
    """Members with errors of their own, some of them silent now and then, and a rating for every answer."""
    chance = np.random.default_rng(seed)
    accuracies = chance.uniform(0.3, 0.7, members)
    said = np.where(chance.random((items, members)) < accuracies, 0, chance.integers(1, options, (items, members)))
    mute = chance.random((items, members)) < silent
    rows = [[None if q else str(a) for a, q in zip(*both, strict=True)] for both in zip(said, mute, strict=True)]
    ballots = Ballots.of("abcdef"[:members], rows)
    return Pool.of(ballots), ballots.values(np.zeros((items, members)), ["0"] * items)


def votes_of(policy):
    return {model: int(votes) for model, votes in policy.members.items()}


# --- choosing ---------------------------------------------------------------------------------------------


def test_three_members_that_err_apart_are_chosen_together():
    """Each of a, b and c is right on five items of six and any two of them tie; all three are right on all."""
    fitted = EnsembleSelection(budget=3, caution=0).fit(
        *run_of({"a": "yxxxxx", "b": "xyxxxx", "c": "xxyxxx", "d": "yyyyyx"}, "x" * 6)
    )
    assert votes_of(fitted) == {"a": 1, "b": 1, "c": 1, "d": 0}


def test_a_second_vote_outweighs_a_copy():
    """b copies a, so that the two tie with c and d on the first item; a second vote for c decides it."""
    # One vote each: x wins five items, and the first is a tie of 2 against 2, which makes 5.5 of 6. c has the only
    # second vote that wins the first item and loses nothing: on the second, where c errs, it is 3 against 2.
    # d would do as well, and comes after c by name.
    fitted = EnsembleSelection(budget=4, caution=0).fit(
        *run_of({"a": "yxxxxx", "b": "yxxxxx", "c": "xyxxxx", "d": "xxyxxx"}, "x" * 6)
    )
    assert votes_of(fitted) == {"a": 1, "b": 1, "c": 2, "d": 1}


def test_the_first_pick_is_the_best_single_model():
    """With one call an item the member chosen is the one that scores best, equals by name."""
    for seed in range(8):
        pool, values = planted(40, seed=seed)
        chosen = [m for m, votes in votes_of(EnsembleSelection(budget=1).fit(pool, values)).items() if votes]
        assert chosen == [BestSingle().fit(pool, values).ranking[0]]


def greedy(pool, values, budget):
    """The search by deciding every item anew for every candidate: votes tried, and the scores of the items."""

    def best_of(votes, models):
        tried = [{**votes, model: votes.get(model, 0) + 1} for model in models]
        every = dict.fromkeys(pool.models, 0)
        scores = [decide(WeightedConsensus(every | more), pool.ballots).scores(values) for more in tried]
        best = max(score.mean() for score in scores)
        return next((more, score) for more, score in zip(tried, scores, strict=True) if score.mean() > best - 1e-9)

    votes, found = {}, []
    for _ in range(min(budget, len(pool.models))):
        votes, score = best_of(votes, [m for m in pool.models if m not in votes])
        found.append((votes, score))
        more = votes
        for _ in range(ROUNDS):
            more, score = best_of(more, sorted(votes))
            found.append((more, score))
    return found


@pytest.mark.parametrize("budget", [1, 2, 3, 6])
@pytest.mark.parametrize("seed", range(4))
def test_the_search_is_that_of_brute_force(seed, budget):
    """The votes are those of deciding every item anew for each candidate, and score what they scored there."""
    pool, values = planted(30, seed=seed, members=6)
    found = greedy(pool, values, budget)
    best = max(score.mean() for _, score in found)
    expected = next(votes for votes, score in found if score.mean() > best - 1e-9)
    fitted = EnsembleSelection(budget=budget, caution=0).fit(pool, values)
    assert votes_of(fitted) == dict.fromkeys(pool.models, 0) | expected
    assert fitted.over(pool).scores(values).mean() == pytest.approx(best)


def test_caution_keeps_the_fewest_members_that_are_not_surely_behind():
    """The vote kept is the first whose items fall behind the best by no more than so many standard errors."""
    sizes = set()
    for seed in range(6):
        pool, values = planted(30, seed=seed, members=6)
        found = greedy(pool, values, 6)
        scores = np.array([score for _, score in found])
        ahead = scores[np.argmax(scores.mean(axis=1).round(9))] - scores
        sure = ahead.mean(axis=1) > 1.5 * ahead.std(axis=1, ddof=1) / np.sqrt(30) + 1e-9
        expected = found[int(np.argmin(sure))][0]
        assert votes_of(EnsembleSelection(budget=6, caution=1.5).fit(pool, values)) == (
            dict.fromkeys(pool.models, 0) | expected
        )
        sizes.add(len(expected))
    assert len(sizes) > 1


def test_scores_of_any_scale_are_chosen_by():
    """On ratings the member with the best mean is chosen, and silence is worth the least that any answer was."""
    ballots = Ballots.of("ab", [["p", "q"], ["p", "q"], [None, "q"]])
    scores = np.array([[-1.0, -2.0], [-1.0, -2.0], [NAN, -2.0]])
    # a: -1, -1 and -2 for its silence; b: -2 throughout.
    fitted = EnsembleSelection(budget=1).fit(Pool.of(ballots), ballots.values(scores))
    assert votes_of(fitted) == {"a": 1, "b": 0}
    # At -9 the silence costs a more than it gained: (-1 - 1 - 9) / 3 against (-2 - 2 - 2) / 3.
    worse = Ballots.of("abc", [["p", "q", "r"], ["p", "q", "r"], [None, "q", "r"]])
    scores = np.array([[-1.0, -2.0, -9.0], [-1.0, -2.0, -9.0], [NAN, -2.0, -9.0]])
    assert votes_of(EnsembleSelection(budget=1).fit(Pool.of(worse), worse.values(scores))) == {"a": 0, "b": 1, "c": 0}


def test_a_silent_member_is_never_asked():
    """A member without any answer changes nothing, and takes no place that one with answers could use."""
    columns = {"0": [None] * 6, "a": "yxxxxx", "b": "xyxxxx", "c": "xxyxxx"}
    fitted = EnsembleSelection(budget=3, caution=0).fit(*run_of(columns, "x" * 6))
    assert votes_of(fitted) == {"0": 0, "a": 1, "b": 1, "c": 1}


def test_unlabelled_items_teach_nothing():
    """Items with an answer of unknown value are left out as a whole."""
    pool, values = planted(80)
    known = np.arange(80) % 3 > 0
    blank = np.where(known[:, None], values, NAN)
    assert EnsembleSelection().fit(pool, blank) == EnsembleSelection().fit(pool.take(known), values[known])


def test_one_item_is_enough():
    """The member that is right on it is chosen."""
    assert votes_of(EnsembleSelection().fit(*run_of({"a": "y", "b": "x"}, "x"))) == {"a": 0, "b": 1}


# --- deciding ---------------------------------------------------------------------------------------------


def test_votes_are_weights():
    """Two votes of a beat one of b and none of c and d; one against one is a tie; the text is that of a voter."""
    strategy = EnsembleSelection(members={"a": 2, "b": 1, "c": 0, "d": 0})
    merged = decided(strategy, "x", "y", "y", "y")
    assert (merged.answer, merged.text, merged.agreement) == ("x", "a x", pytest.approx(2 / 3))
    even = EnsembleSelection(members={"a": 0, "b": 1, "c": 1, "d": 0})
    merged = decided(even, "x", "x", "y", "y")
    assert (merged.tied, merged.text, merged.agreement) == (("x", "y"), "b x", 0.5)
    assert decided(even, "x", None, None, "x").answer is None


def test_it_decides_as_the_same_weights_do():
    """Winners, ties and agreement of a run are those of a weighted consensus."""
    pool, values = planted(100)
    fitted = EnsembleSelection(caution=0).fit(pool, values)
    ours, theirs = fitted.over(pool), decide(WeightedConsensus(votes_of(fitted)), pool.ballots)
    assert ours.winner.tolist() == theirs.winner.tolist()
    assert ours.tied.tolist() == theirs.tied.tolist()
    assert ours.agreement == pytest.approx(theirs.agreement, abs=1e-8)
    assert ours.chosen.tolist() == theirs.chosen.tolist()


# --- as a policy ------------------------------------------------------------------------------------------


def test_what_it_learned_survives_json():
    """Parameters written as JSON make an equal policy, of equal hash."""
    pool, values = planted(60)
    fitted = EnsembleSelection(budget=3).fit(pool, values)
    again = EnsembleSelection(**json.loads(json.dumps(params_of(fitted))))
    assert again == fitted == EnsembleSelection(budget=3).fit(pool, values)
    assert hash(again) == hash(fitted)
    assert fitted.fitted
    assert not EnsembleSelection().fitted


def test_the_order_of_items_and_models_does_not_matter():
    """Shuffled items and models teach the same."""
    for seed in range(5):
        pool, values = planted(60, seed=seed)
        chance = np.random.default_rng(seed)
        rows, columns = chance.permutation(60), chance.permutation(5)
        b = pool.ballots
        answers = [[b.answers[i][b.codes[i, j]] if b.codes[i, j] >= 0 else None for j in columns] for i in rows]
        other = Pool.of(Ballots.of([b.models[j] for j in columns], answers))
        assert EnsembleSelection(4).fit(other, values[rows]).members == EnsembleSelection(4).fit(pool, values).members


def test_it_refuses_what_it_cannot_use():
    """Unfitted, without labels, for other members, and with votes or budgets that are none."""
    pool, values = planted(30)
    refused(lambda: EnsembleSelection().over(pool), "validation.unfitted")
    refused(lambda: EnsembleSelection().fit(pool, np.full(values.shape, NAN)), "fit.items")
    refused(lambda: EnsembleSelection(members={"a": 1}).over(pool), "validation.weights")
    refused(lambda: EnsembleSelection(members={"a": 0}), "validation.weights")
    bad = [
        {"budget": 0},
        {"budget": 2.5},
        {"budget": True},
        {"caution": -1.0},
        {"caution": NAN},
        {"members": {"a": 0.5}},
        {"budget": 1, "members": {"a": 1, "b": 1}},
    ]
    for params in bad:
        refused(lambda params=params: EnsembleSelection(**params), "validation.strategy")


def test_a_pool_without_items_has_an_outcome_without_items():
    """Nothing is decided where there is nothing to decide."""
    pool, values = planted(30)
    nothing = pool.take(np.zeros(30, dtype=bool))
    assert EnsembleSelection().fit(pool, values).over(nothing).winner.shape == (0,)


@cache
def fitted_for(members, voting):
    """A selection of all these members; those without a vote are silent."""
    accuracy = dict(zip(contract.MODELS, (0.9, 0.7, 0.7, 0.6, 0.6, 0.4), strict=True))
    chance = np.random.default_rng(0)
    columns = {m: [str(int(x > accuracy[m]) * (1 + i % 3)) for i, x in enumerate(chance.random(40))] for m in accuracy}
    silent = [None] * 40
    pool, values = run_of({m: columns[m] if m in voting else silent for m in members}, "0" * 40)
    return EnsembleSelection(budget=6, caution=0).fit(pool, values)


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_contract_of_a_merge(monkeypatch, check):
    """Fitted for the members at hand, it keeps every promise."""
    monkeypatch.setattr(contract, "CASES", 100)
    known = set(contract.MODELS)
    check(lambda w: fitted_for(tuple(sorted(w)), frozenset(m for m in w if w[m] > 0 and m in known)))
