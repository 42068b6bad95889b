"""Field-wise merges: fields by hand, what is equal, where an object is found, hostile input, and the contract."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts import merge_contract as contract
from workbench.canonical import canonical_json
from workbench.decide.answers import normalise
from workbench.decide.merge import params_of
from workbench.decide.strategies import fields
from workbench.decide.strategies.fields import ATTEMPTS, LEVELS, FieldWise
from workbench.errors import LLMOrchestratorError, LLMValidationError
from workbench.facts import EnsembleResponse, Failure, ModelContribution, Response

MEGABYTE = 1_000_000


def part(model, answer, text=None, weight=1.0):
    """A kept contribution; with a text of its own where there is one."""
    response = None if text is None else Response(request_key="k", model=model, text=text, source="simulated")
    return ModelContribution(model=model, answer=answer, response=response, weight=weight)


def merged(*objects, weights=None, **options):
    """What the objects of models a, b, ... come to; texts that are JSON stand for themselves."""
    answers = [o if isinstance(o, str) else json.dumps(o) for o in objects]
    own = weights or [1.0] * len(answers)
    return FieldWise(**options)([part(m, a, weight=w) for m, a, w in zip("abcdefgh", answers, own, strict=False)])


def found(*objects, **options):
    """The merged object."""
    return json.loads(merged(*objects, **options).answer)


def read(text):
    """The object that a text is read for, as JSON; None where it has none."""
    return FieldWise()([part("a", None, text)]).answer


def refused(make, code):
    with pytest.raises(LLMValidationError) as caught:
        make()
    assert caught.value.code == code
    assert len(caught.value.next_step) <= 160


# --- fields -----------------------------------------------------------------------------------------------


def test_every_field_is_voted_on_by_itself():
    """Three objects, all different: name by 2 of 3, age by 2 of 3, city by 2 of 3. Nobody gave the result."""
    response = merged(
        {"name": "Ann", "age": 31, "city": "Bonn"},
        {"name": "Ann", "age": 30, "city": "Köln"},
        {"name": "Anna", "age": 31, "city": "Köln"},
    )
    assert response.answer == response.text == '{"age":31,"city":"Köln","name":"Ann"}'
    assert (response.tied, response.strategy) == ((response.answer,), "field_wise")
    assert (response.agreement, response.confidence) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_nested_objects_are_merged_along_their_paths():
    """to.zip and to.city are won by different members, and an object outweighs one that wrote a string."""
    assert found(
        {"to": {"zip": "1", "city": "x"}},
        {"to": {"zip": "1", "city": "y"}},
        {"to": {"zip": "2", "city": "y"}},
        {"to": "1 y"},
    ) == {"to": {"zip": "1", "city": "y"}}


def test_a_key_is_kept_by_more_than_half_of_those_who_have_its_object():
    """b is in 2 of 3, c in 1 of 3; d in 1 of 2 of those with an object at a."""
    assert found({"b": 1}, {"b": 1, "c": 2}, {}) == {"b": 1}
    assert found({"b": 1}, {}) == {}
    assert found({"a": {"d": 1}}, {"a": {}}, {"a": 5}) == {"a": {}}
    assert found({"a": {"d": 1}}, {"a": {"d": 1}}, {"a": 5}) == {"a": {"d": 1}}


def test_agreement_is_the_mean_over_fields_of_the_weight_that_had_it_so():
    """a: 2 of 3 for 1; b: 3 of 3; c, dropped: 2 of 3 do not have it. Mean 7/9; one of four asked gave no object."""
    response = merged({"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 1}, "none")
    assert response.answer == '{"a":1,"b":1}'
    assert response.agreement == pytest.approx(7 / 9)
    assert response.confidence == pytest.approx(7 / 9 * 3 / 4)


def test_weights_decide_and_0_leaves_out():
    """2.5 against 1 + 1, from the contributions or from the policy."""
    objects = ({"a": "x", "k": 1}, {"a": "y"}, {"a": "y"})
    assert found(*objects, weights=[2.5, 1, 1]) == {"a": "x", "k": 1}
    assert found(*objects, weights=[1.0, 1, 1]) == {"a": "y"}
    assert json.loads(merged(*objects, weights=[2.5, 0, 0]).answer) == {"a": "x", "k": 1}
    policy = FieldWise(weights={"a": 2.5, "b": 1, "c": 1})
    parts = [part(m, json.dumps(o)) for m, o in zip("abc", objects, strict=True)]
    assert json.loads(policy(parts).answer) == {"a": "x", "k": 1}
    assert [c.weight for c in policy(parts).contributions] == [2.5, 1, 1]


@pytest.mark.parametrize(
    ("one", "two", "first"),
    [
        (10, 9, 10),
        ("b", "a", "a"),
        (1, "1", "1"),
        (True, False, False),
        (None, 0, 0),
        ([1], "z", "z"),
        ({}, None, None),
    ],
)
def test_ties_go_to_the_first_in_the_order_of_json(one, two, first):
    """Strings before numbers before lists before false, null and true, and objects last; nobody comes first."""
    assert found({"a": one}, {"a": two}) == found({"a": two}, {"a": one}) == {"a": first}


def test_weights_that_cannot_be_written_exactly_still_tie():
    """Three thirds are as much as one: a tie of values, and no majority for a key."""
    objects = ({"a": "y", "k": 1}, *[{"a": "x"}] * 3)
    assert found(*objects, weights=[1, 1 / 3, 1 / 3, 1 / 3]) == {"a": "x"}
    assert found(*objects, weights=[1.01, 1 / 3, 1 / 3, 1 / 3]) == {"a": "y", "k": 1}


def test_huge_weights_do_not_overflow():
    """The sum of two weights of 1e308 is beyond floats."""
    response = merged({"a": 1}, {"a": 1}, weights=[1e308, 1e308])
    assert (response.answer, response.confidence) == ('{"a":1}', 1.0)


# --- what is equal ------------------------------------------------------------------------------------------


def test_numbers_are_equal_by_value_and_spelt_as_most_do():
    """1, 1.0 and 1e0 outvote 2, as 1.0, which two of them write."""
    assert merged('{"a":1}', '{"a":1.0}', '{"a":1e0}', '{"a":2}', '{"a":2}').answer == '{"a":1.0}'
    assert found({"a": 0.3}, {"a": 0.1 + 0.2}, {"a": 0.1 + 0.2}) == {"a": 0.1 + 0.2}  # no tolerance
    assert found({"a": 2**53}, {"a": 2**53 + 1}, {"a": 2**53 + 1}) == {"a": 2**53 + 1}


@pytest.mark.parametrize(("one", "two"), [("true", "1"), ("false", "0"), ("null", "false"), ("1", '"1"'), ("[]", "{}")])
def test_types_are_told_apart(one, two):
    """Two for one and three for the other are not five for one."""
    response = merged(*[f'{{"a":{one}}}'] * 2, *[f'{{"a":{two}}}'] * 3)
    assert response.answer == f'{{"a":{two}}}'
    assert response.agreement == pytest.approx(3 / 5)


def test_strings_are_equal_in_nfc_with_white_space_collapsed():
    """Two spellings of Zoë Smith outvote Bob; the spelling of two is kept, and capitals count."""
    response = merged(
        {"a": "Zoe\u0308  Smith"}, {"a": "Zo\u00eb Smith"}, {"a": "Zo\u00eb Smith"}, {"a": "Bob"}, {"a": "Bob"}
    )
    assert (json.loads(response.answer), response.agreement) == ({"a": "Zo\u00eb Smith"}, pytest.approx(3 / 5))
    assert found({"a": "bob"}, {"a": "Bob"}, {"a": "Bob"}) == {"a": "Bob"}


def test_a_list_is_one_value():
    """[1, 2] of two beats lists that differ in one place; 1.0 and 1 are equal inside of it, as objects by any order."""
    assert found({"a": [1, 2]}, {"a": [1.0, 2]}, {"a": [1, 3]}, {"a": [4, 2]}) == {"a": [1, 2]}
    assert merged('{"a":[{"x":1,"y":2}]}', '{"a":[{"y":2,"x":1}]}', '{"a":[]}').agreement == pytest.approx(2 / 3)
    assert found({"a": [True]}, {"a": [1]}, {"a": [1]}) == {"a": [1]}


def test_lists_can_be_merged_by_position():
    """Each place by majority, also in objects within; the third place is in 1 of 3 and is dropped."""
    lists = ({"a": [1, {"x": 1, "y": 1}]}, {"a": [2, {"x": 1, "y": 2}, 7]}, {"a": [1, {"x": 3, "y": 2}]})
    assert found(*lists, lists="elementwise") == {"a": [1, {"x": 1, "y": 2}]}
    assert found({"a": [1]}, {"a": 5}, {"a": [1, 2]}, lists="elementwise") == {"a": [1]}


# --- where the object is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('Sure! ```json\n{"a": 1}\n``` Hope it helps.', '{"a":1}'),
        ('{"a": 1} and, corrected: {"a": 2}', '{"a":2}'),
        ('{"a": {"b": {"c": 1}}}', '{"a":{"b":{"c":1}}}'),
        ('{"a": "}{ \\" }"} :-}', '{"a":"}{ \\" }"}'),
        ('use { and " freely. {"a": 1} so }', '{"a":1}'),
        ('\\boxed{ {"a": 1} }', '{"a":1}'),
        ('{"a": 1} then {not json}', '{"a":1}'),
        ('{"a": 1} then { "a": 1, "b": {"c": 2}, }', None),
        ('{"a": {"b": 1}, "a": {"b": 1}}', None),
        ('{"a": "\\ud800"}', '{"a":"\ufffd"}'),
        ("no object", None),
        ('"{" }', None),
        ('{"a": 1', None),
        ("[1, 2]", None),
        ('"a"', None),
        ("", None),
        ('{"a": 1} ' + "}" * (ATTEMPTS - 1), '{"a":1}'),
        ('{"a": 1} ' + "}" * ATTEMPTS, None),
    ],
)
def test_the_last_object_of_a_text_is_read(text, answer):
    """With prose, code fences, braces in strings and stray braces around it, or within it."""
    assert read(text) == answer


def test_the_answer_goes_before_the_text():
    """The text is read where the answer holds no object, or no answer could be extracted."""
    assert FieldWise()([part("a", '{"a":1}', 'It is {"a":2}')]).answer == '{"a":1}'
    assert FieldWise()([part("a", "forty-two", 'It is {"a":2}')]).answer == '{"a":2}'
    assert FieldWise()([part("a", None, 'It is {"a":2}')]).answer == '{"a":2}'
    assert FieldWise()([part("a", '{"a":1}', "It is 1")]).answer == '{"a":1}'
    assert FieldWise()([part("a", '{"a":1}')]).answer == '{"a":1}'


def test_capitals_lost_in_a_normalised_answer_are_those_of_the_text():
    """An answer of free text is folded; the object in the text that says the same is what is voted on."""
    text = 'As JSON: {"Name": "Zoë  SMITH", "b": true}'
    answer = normalise('{"Name": "Zoë  SMITH", "b": true}', "text")
    assert answer == '{"name": "zoë smith", "b": true}'
    assert FieldWise()([part("a", answer, text)]).answer == '{"Name":"Zoë  SMITH","b":true}'
    assert FieldWise()([part("a", '{"name":"zoë smith","b":1}', text)]).answer == '{"b":1,"name":"zoë smith"}'


def test_without_any_object_nothing_wins():
    """Texts without an object are heard and say nothing, as texts without an answer do."""
    response = FieldWise()([part("a", "yes", "yes"), part("b", None, "no")])
    assert (response.answer, response.tied, response.text) == (None, (), "")
    assert (response.agreement, response.confidence) == (0.0, 0.0)


def test_filtered_failed_and_weightless_members_do_not_vote():
    """Only b is left; failures alone are an error by name."""
    failure = Failure(kind="LLMProviderError", code="provider.server", message="503")
    lost = ModelContribution(model="c", failure=failure, status="failed")
    out = replace(part("d", '{"a":4}'), status="filtered")
    response = FieldWise()([part("a", '{"a":1}', weight=0.0), part("b", '{"a":2}'), lost, out])
    assert (response.answer, response.agreement) == ('{"a":2}', 1.0)
    assert response.confidence == pytest.approx(1 / 3)
    with pytest.raises(LLMOrchestratorError):
        FieldWise()([lost])


# --- hostile input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":2}',
        '{"b":{"a":1,"a":1}}',
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":-Infinity}',
        '{"a":1e999}',
        '{"a":1' + "0" * 100 + "}",
        '{"a":' + "[" * LEVELS + "]" * LEVELS + "}",
        '{"a":' * (LEVELS + 1) + "1" + "}" * (LEVELS + 1),
        '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"a":\x00}',
    ],
    ids=range(12),
)
def test_what_cannot_be_read_does_not_vote(text):
    """Keys twice, numbers that are none or too long, too many levels: the others decide, and alone it says nothing."""
    assert FieldWise()([part("a", text, text)]).answer is None
    assert merged(text, {"a": 7}).answer == '{"a":7}'


def test_as_many_levels_as_allowed_are_merged():
    """LEVELS objects in each other, and a list in LEVELS - 1 of them."""
    for text in ('{"a":' * LEVELS + "1" + "}" * LEVELS, '{"a":' * (LEVELS - 1) + "[1]" + "}" * (LEVELS - 1)):
        for lists in ("whole", "elementwise"):
            assert merged(text, text, lists=lists).answer == text
        assert read(f"so {text} it is") == text


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit", ["{", "}", '"', "\\", '{"a":', '{"a":[', '{"', "}{", '\\"', '{"a":"', "{}", '{"a":{},', '{"a":1,}', "{{}"]
)
def test_a_megabyte_of_anything_is_read_in_linear_time(unit, monkeypatch):
    """Whatever is repeated, no more than the last few candidates are parsed, none of them twice as long as the text."""
    parsed = []
    plain = fields._read
    monkeypatch.setattr(fields, "_read", lambda text: (parsed.append(len(text)), plain(text))[1])
    text = unit * (MEGABYTE // len(unit))
    assert read(text) in (None, "{}")
    assert len(parsed) <= ATTEMPTS
    assert sum(parsed) <= len(text)


@pytest.mark.slow
def test_a_megabyte_of_fields_is_merged():
    """Three objects of 20,000 fields and long strings each; two of them agree."""
    chance = random.Random(0)
    base = {f"key {i}": ["x" * 20, i, {"y": chance.random()}] for i in range(20_000)}
    other = base | {f"key {i}": "wrong" for i in range(0, 20_000, 7)}
    assert len(json.dumps(base)) > MEGABYTE
    assert found(base, other, base) == base


# --- properties ----------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
leaves = scalars | st.text(max_size=8)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=3), values, max_size=4)
small = st.dictionaries(
    st.sampled_from("ab"),
    st.sampled_from([1, 1.0, True, "x", "x ", None, [1], []])
    | st.dictionaries(st.sampled_from("cd"), st.integers(0, 1)),
)
modes = st.sampled_from(["whole", "elementwise"])


def shuffled(value, chance):
    """The same value with the keys of its objects in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key], chance) for key in chance.sample(sorted(value), len(value))}
    return [shuffled(v, chance) for v in value] if isinstance(value, list) else value


@settings(max_examples=60, deadline=None)
@given(objects, st.integers(1, 5), modes, st.randoms(use_true_random=False))
def test_a_unanimous_object_comes_back_unchanged(value, members, lists, chance):
    """Whatever the object, the number of members and the order of its keys; agreement and confidence are 1."""
    response = merged(*(json.dumps(shuffled(value, chance)) for _ in range(members)), lists=lists)
    assert response.answer == canonical_json(value)
    assert (response.agreement, response.confidence) == (1.0, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(small, min_size=1, max_size=6), modes, st.randoms(use_true_random=False))
def test_the_order_of_members_and_of_keys_changes_nothing(given_objects, lists, chance):
    """The same response to the same contributions, in any order and written in any order."""
    parts = [
        part(m, json.dumps(o), weight=chance.choice([0.5, 1, 2])) for m, o in zip("abcdef", given_objects, strict=False)
    ]
    mixed = [replace(p, answer=json.dumps(shuffled(json.loads(p.answer), chance))) for p in parts]
    policy = FieldWise(lists=lists)
    one, two = policy(parts), policy(chance.sample(mixed, len(mixed)))
    assert (one.answer, one.agreement, one.confidence) == (two.answer, two.agreement, two.confidence)
    assert 0 < one.confidence <= one.agreement <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(small, min_size=1, max_size=4), small, modes)
def test_more_than_half_of_the_weight_has_its_way(others, wanted, lists):
    """An object with more weight than all others together is the result."""
    weights = [1.0] * len(others) + [len(others) + 0.5]
    response = merged(*others, wanted, weights=weights, lists=lists)
    same = {canonical_json(o) for o in (wanted, json.loads(response.answer))}
    if len(same) == 2:  # spelt as another member does, such as 1.0 for 1: equal all the same
        assert merged(wanted, json.loads(response.answer), lists=lists).agreement == 1.0


# --- the policy as data, and the contract ------------------------------------------------------------------------


def test_a_policy_is_plain_data():
    """Its parameters survive JSON, and the policy made of them is equal."""
    policy = FieldWise(weights={"a": 1, "b": 0.5}, lists="elementwise")
    again = FieldWise(**json.loads(json.dumps(params_of(policy))))
    assert (again, hash(again)) == (policy, hash(policy))


def test_what_cannot_be_used_is_refused_by_name():
    """Unknown modes, weights that are none, strangers, and a text that is not kept at all."""
    refused(lambda: FieldWise(lists="union"), "validation.strategy")
    refused(lambda: FieldWise(lists=["whole"]), "validation.strategy")
    refused(lambda: FieldWise(weights={"a": -1}), "validation.weights")
    refused(lambda: FieldWise(weights={"b": 1})([part("a", "{}")]), "validation.weights")
    refused(lambda: FieldWise(weights={"b": 1})([]), "validation.models")
    refused(lambda: FieldWise()([part("a", None)]), "validation.no_text")


@dataclass(frozen=True)
class Wrapped:
    """Field-wise merging of answers that are no objects: each becomes the one field of an object, and back."""

    policy: FieldWise
    name: str = "field_wise"

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        given = [replace(c, answer=c.answer and canonical_json({"v": {"w": c.answer}})) for c in contributions]
        response = self.policy(given)
        back = {c.model: c.answer for c in contributions}
        answer = response.answer and json.loads(response.answer)["v"]["w"]
        return replace(
            response,
            answer=answer,
            tied=() if answer is None else (answer,),
            contributions=tuple(replace(c, answer=back[c.model]) for c in response.contributions),
        )


@pytest.mark.parametrize("check", [c for c in contract.CHECKS if c is not contract.answers_only_from_contributions])
@pytest.mark.parametrize("own", [True, False], ids=["weights", "contributions"])
def test_a_field_keeps_the_contract_of_a_merge(check, own):
    """All of it but that answers come from contributions: merged objects may be nobody's."""
    check(lambda weights: Wrapped(FieldWise(weights=weights if own else None)))
