"""Rules: which fault, to whom, how often, how many times and when."""

from __future__ import annotations

import math

import pytest

from workbench.errors import LLMValidationError
from workbench.serve.lab import FaultRule
from workbench.serve.lab.rules import Weather, rules_of


def chosen(rules, *, seed=0, n=1, **more):
    """The ids that n requests of `strong` meet, None for good weather."""
    weather = Weather(rules_of(rules, ["strong", "weak"]), seed=seed)
    terms = {"model": "strong", "wire": "openai", "stream": False, "attempt": 1, "at_s": 0.0, **more}
    found = [weather.choose(**terms) for _ in range(n)]
    ids = [f.id if f else None for f in found]
    return ids[0] if n == 1 else ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("strong=http-500-always", FaultRule(model="strong", fault="http-500-always")),
        ("strong=http-503-ra@0.3", FaultRule(model="strong", fault="http-503-ra", rate=0.3)),
        ("*=net-reset-head*2", FaultRule(model="*", fault="net-reset-head", first=2)),
        ("*=http-529/10-40", FaultRule(model="*", fault="http-529", from_s=10, until_s=40)),
        ("weak=http-529@0.25*3/1.5-", FaultRule(model="weak", fault="http-529", rate=0.25, first=3, from_s=1.5)),
        ("weak=http-529/-7", FaultRule(model="weak", fault="http-529", until_s=7)),
        (" weak = http-529 ", FaultRule(model="weak", fault="http-529")),
    ],
)
def test_a_text_is_a_rule(text, expected):
    """MODEL=FAULT[@RATE][*N][/FROM-UNTIL], and the rule's own text says the same again."""
    assert FaultRule.parse(text) == expected
    assert FaultRule.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"rate": 1e-5}, "*=http-529@0.00001"),
        ({"rate": 1 / 3}, "*=http-529@0.3333333333333333"),
        ({"rate": 5e-324}, None),
        ({"rate": -0.0}, "*=http-529@0"),
        ({"first": 10**12}, "*=http-529*1000000000000"),
        ({"from_s": 1_234_567.0}, "*=http-529/1234567-"),
        ({"from_s": 1000.123, "until_s": 1000.124}, "*=http-529/1000.123-1000.124"),
        ({"from_s": 1e22, "until_s": 1.7e308}, None),
    ],
)
def test_the_text_of_any_rule_is_read_as_that_rule(given, text):
    """Small and large numbers are written out, to their last digit."""
    rule = FaultRule(model="*", fault="http-529", **given)
    assert FaultRule.parse(str(rule)) == rule
    assert text in (None, str(rule))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http-500", "form"),
        ("=http-500", "form"),
        ("strong=", "form"),
        ("strong=http-500@", "form"),
        ("strong=http-500@half", "form"),
        ("strong=http-500/5", "form"),
        ("strong=http-500/5-2", "window"),
        ("strong=http-500@1.5", "rate"),
        ("strong=http-500*0", ">= 1"),
        ("strong=http-500@0.1@0.2", "form"),
        ("strong=htp-500", "'htp-500' is no fault"),
        ("strogn=http-500", "no model 'strogn'"),
    ],
)
def test_a_text_that_is_no_rule_is_refused_with_the_form(text, words):
    """The message quotes the rule, the next step shows the form or the closest id."""
    with pytest.raises(LLMValidationError, match=words) as caught:
        rules_of([text], ["strong"])
    assert caught.value.code == "validation.fault"
    assert len(caught.value.next_step) <= 160


def test_a_mistyped_fault_names_the_closest_and_all():
    """The next step has the id that was meant, the message every id."""
    with pytest.raises(LLMValidationError) as caught:
        FaultRule.parse("strong=net-reset-hed")
    assert caught.value.next_step == "did you mean 'net-reset-head'?"
    assert "sse-stall" in caught.value.message


def test_a_table_gives_a_model_one_rule_or_several():
    """Texts without the model's name, rules, and lists of either, in the order of the table."""
    rule = FaultRule(model="x", fault="http-529", rate=0.5)
    made = rules_of({"strong": ["http-500*1", rule], "*": "http-401/5-"}, ["strong"])
    assert [str(r) for r in made] == ["strong=http-500*1", "strong=http-529@0.5", "*=http-401/5-"]


def test_the_first_rule_that_applies_wins():
    """In the order given, whether a rule is for one model or for all."""
    assert chosen(["weak=http-400", "*=http-401", "strong=http-402"]) == "http-401"
    assert chosen(["strong=http-402", "*=http-401"]) == "http-402"
    assert chosen(["strong=http-402/5-", "*=http-401"]) == "http-401"
    assert chosen(["weak=http-400"]) is None


@pytest.mark.parametrize(("at_s", "fault"), [(0, None), (9.99, None), (10, "http-401"), (39.9, "http-401"), (40, None)])
def test_a_window_holds_from_its_beginning_to_before_its_end(at_s, fault):
    """Seconds since the start."""
    assert chosen(["*=http-401/10-40"], at_s=at_s) == fault


@pytest.mark.parametrize(
    ("rule", "attempts"),
    [("http-401*2", 2), ("http-409", 1), ("http-408", 2), ("http-408*5", 5), ("http-401", math.inf)],
)
def test_a_rule_hits_the_first_attempts_only(rule, attempts):
    """As many as the rule says, else as many as the fault itself says, else all."""
    for attempt in (1, 2, 3, 5, 6, 1000):
        found = chosen([f"strong={rule}"], attempt=attempt)
        assert (found is not None) == (attempt <= attempts)


def test_a_rate_is_met_and_reproducible():
    """The same seed gives the same draws, another one others; the share is the rate within four binomial errors."""
    one, again, other = (chosen(["strong=http-529@0.3"], n=2000, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    share = sum(f is not None for f in one) / 2000
    assert abs(share - 0.3) <= 4 * math.sqrt(0.3 * 0.7 / 2000)


def test_rates_of_two_rules_and_of_two_models_are_drawn_independently():
    """The second rule is asked where the first has not hit; its draws are its own."""
    found = chosen(["*=http-529@0.5", "*=http-401@0.5"], n=4000)
    shares = {f: found.count(f) / 4000 for f in ("http-529", "http-401", None)}
    for share, expected in zip(shares.values(), (0.5, 0.25, 0.25), strict=True):
        assert abs(share - expected) <= 4 * math.sqrt(expected * (1 - expected) / 4000)
    assert chosen(["*=http-529@0.5"], n=200) != chosen(["*=http-529@0.5"], n=200, model="weak")


def test_a_rate_of_nothing_never_hits():
    """0 is never and 1 is always."""
    assert set(chosen(["strong=http-529@0"], n=500)) == {None}
    assert set(chosen(["strong=http-529@1"], n=500)) == {"http-529"}


@pytest.mark.parametrize(
    ("fault", "wire", "stream", "applies"),
    [
        ("sse-reset", "openai", False, False),
        ("sse-reset", "gemini", True, True),
        ("net-fin-body", "openai", True, False),
        ("reply-filter", "anthropic", False, False),
        ("reply-refusal", "gemini", True, False),
        ("http-429-quota", "openai", True, True),
    ],
)
def test_a_rule_does_not_apply_where_its_fault_makes_no_sense(fault, wire, stream, applies):
    """A stream's fault passes a whole answer by, and the next rule is asked."""
    found = chosen([f"*={fault}", "*=http-401"], wire=wire, stream=stream)
    assert found == (fault if applies else "http-401")
