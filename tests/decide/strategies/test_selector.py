"""The selector: what it looks at, and that it finds planted signs which no vote can see."""

from __future__ import annotations

import json

import numpy as np
import pytest

from workbench.decide.clues import CLUES
from workbench.decide.merge import params_of
from workbench.decide.policies import policy
from workbench.decide.pool import Pool
from workbench.decide.strategies.selector import Selector, feature_names, features
from workbench.decide.votes import Ballots
from workbench.errors import LLMValidationError
from workbench.facts import ModelContribution, Response

MODELS = ("a", "b", "c")


def planted(n=400, *, seed=0):
    """Three models of 55 % with answers of their own; a right solution calculates well, a wrong one often does not."""
    rng = np.random.default_rng(seed)
    answers, texts, gold = [], [], []
    for i in range(n):
        right = rng.random(3) < 0.55
        answers.append([str(i) if ok else f"wrong {name}" for ok, name in zip(right, MODELS, strict=True)])
        careful = right | (rng.random(3) < 0.2)
        texts.append(["2 + 2 = 4" if ok else "2 + 2 = 5" for ok in careful])
        gold.append(str(i))
    pool = Pool.of(Ballots.of(MODELS, answers), texts=texts, groups=["even" if i % 2 == 0 else "odd" for i in range(n)])
    return pool, pool.ballots.values(np.full((n, 3), np.nan), gold)


def test_it_learns_what_speaks_for_a_solution():
    """Wrong arithmetic counts against an answer, and the answers it takes are right more often than those of a vote."""
    pool, values = planted()
    half = np.arange(len(pool)) < 200
    fitted = Selector().fit(pool.take(half), values[half])
    assert fitted.weights["wrong_arithmetic"] < 0 < fitted.weights["right_arithmetic"]
    judged = pool.take(~half)
    share = fitted.over(judged).scores(values[~half]).mean()
    votes = Selector(dict.fromkeys(MODELS, 1.0), models=MODELS).over(judged).scores(values[~half]).mean()
    # Of three at 55 %, one is right on 91 % of items; counting takes it where two agree, or a third of the rest.
    assert votes < 0.75
    assert share > votes + 0.05


def test_the_features_are_the_named_ones():
    """Members, pairs, members alone, members by category with enough items, and the clues."""
    pool, _ = planted(30)
    names = feature_names(pool)
    assert names[:9] == ["a", "b", "c", "a & b", "a & c", "b & c", "a alone", "b alone", "c alone"]
    assert names[9:15] == ["a @ even", "b @ even", "c @ even", "a @ odd", "b @ odd", "c @ odd"]
    assert names[15:] == list(CLUES)
    ballots = Ballots.of(MODELS, [["x", "x", "y"]])
    one = features(Pool.of(ballots, groups=["odd"]), names)[0]
    assert {name for name, on in zip(names, one[0], strict=True) if on} == {"a", "b", "a & b", "a @ odd", "b @ odd"}
    assert {name for name, on in zip(names, one[1], strict=True) if on} == {"c", "c alone", "c @ odd"}


def test_a_category_may_be_called_anything_and_be_missing_where_it_decides():
    """Its name may look like a feature; without items of it its weights count for nobody."""
    pool, values = planted(60)
    groups = ["a @ b", "c"] * 30
    fitted = Selector().fit(Pool.of(pool.ballots, groups=groups), values)
    assert {"a @ a @ b", "a @ c"} <= set(fitted.weights)
    names = list(fitted.weights)
    here = features(Pool.of(pool.ballots, groups=["a @ b"] * 60), names)
    assert np.array_equal(here[..., names.index("b @ a @ b")], here[..., names.index("b")])
    assert not features(pool, names)[..., names.index("b @ c")].any()
    assert fitted.over(Pool.of(pool.ballots)).tied.any(axis=1).all()


def test_pairs_of_many_members_have_no_weights():
    """Forty have 780 pairs; of more there would be more weights than any labels could tell apart."""
    for members, pairs in ((40, 780), (41, 0)):
        names = feature_names(Pool.of(Ballots.of([f"m{j:02}" for j in range(members)], [["x"] * members] * 12)))
        assert sum(" & " in name for name in names) == pairs


def test_a_category_of_few_items_gets_no_weight_of_its_own():
    """Nine items of a category are too few, and one category alone says nothing."""
    pool, _ = planted(30)
    few = Pool.of(pool.ballots, groups=["rare"] * 9 + ["common"] * 21)
    assert not [name for name in feature_names(few) if name.endswith("@ rare")]
    assert not [name for name in feature_names(Pool.of(pool.ballots)) if "@" in name]


def test_it_goes_through_the_log_and_decides_the_same():
    """Name and parameters as JSON make the policy again, with equal decisions."""
    pool, values = planted(100)
    fitted = Selector().fit(pool, values)
    again = policy("selector", json.loads(json.dumps(params_of(fitted))))
    assert again == fitted
    assert np.array_equal(again.over(pool).winner, fitted.over(pool).winner)


def test_one_item_is_decided_as_in_the_run():
    """The scalar form sees the same texts; a category that it is not told has no weight."""
    pool, values = planted(100)
    plain = Pool.of(pool.ballots, texts=pool.texts)
    fitted = Selector().fit(plain, values)
    outcome = fitted.over(plain)
    for i in range(20):
        codes = plain.ballots.codes[i]
        parts = [
            ModelContribution(
                model=model,
                answer=plain.ballots.answers[i][codes[j]],
                response=Response(request_key="k", model=model, text=str(plain.texts[i][j]), source="simulated"),
            )
            for j, model in enumerate(MODELS)
        ]
        merged = fitted(parts)
        assert merged.answer == plain.ballots.answers[i][outcome.winner[i]]
        assert merged.confidence == pytest.approx(outcome.confidence[i])


def test_too_little_to_learn_from_is_refused():
    """Items on which all are right, or all wrong, tell nothing; values of another scale are no labels."""
    pool, values = planted(40)
    with pytest.raises(LLMValidationError) as few:
        Selector().fit(pool.take(np.arange(3)), values[:3])
    assert few.value.code == "fit.items"
    with pytest.raises(LLMValidationError) as scale:
        Selector().fit(pool, values * 7)
    assert scale.value.code == "fit.values"
    with pytest.raises(LLMValidationError) as early:
        Selector().over(pool)
    assert early.value.code == "validation.unfitted"
