"""A query under the strategy that promises most: pure, explained, and never without its reasons."""

from __future__ import annotations

import pytest

from workbench.decide.evidence import UNCHANGED, Context, Gain
from workbench.decide.optimize import OptimizeQuery, check_query, check_strategies
from workbench.decide.rewrite import STRATEGIES, Example, rewrite
from workbench.errors import LLMValidationError

HERE = Context("m", "general", "")
QUERY = "Could you please explain why ice floats?"


def sure(strategy: str, mean: float = 0.4) -> Gain:
    return Gain(strategy, mean, 0.05, n=50, told=100)


def test_the_promising_strategy_is_applied() -> None:
    """Its text is that of the strategy, and its gain the one that was expected of it."""
    made = OptimizeQuery()(QUERY, HERE, [sure("verbose", 0.2), sure("simplify")])
    assert made.text == rewrite(QUERY, "simplify").text != QUERY
    assert (made.strategies, made.estimated_quality_gain, made.task) == (("simplify",), 0.4, "general")
    assert made.gain_low == pytest.approx(0.4 - 1.96 * 0.05, abs=1e-4)
    assert made.confidence_score > 0.99
    assert not made.explored


def test_nothing_known_changes_nothing() -> None:
    """The query comes back as it was given, with no gain and the reason."""
    made = OptimizeQuery()(QUERY, HERE, [Gain("simplify", 0.0, 0.4)])
    assert (made.text, made.strategies, made.estimated_quality_gain) == (QUERY, (), 0.0)
    assert "left unchanged" in made.reasons[0]


def test_a_strategy_with_nothing_to_do_is_passed_over() -> None:
    """The next best takes its place, and the reasons say so."""
    made = OptimizeQuery()("Why does ice float?", HERE, [sure("exemplify"), sure("verbose", 0.3)])
    assert made.strategies == ("verbose",)
    assert "exemplify found nothing to change" in made.reasons


def test_passing_over_keeps_the_draws_of_the_others() -> None:
    """What was drawn against a strategy still counts against it."""
    gains = [Gain("exemplify", 0.0, 0.3), Gain("verbose", 0.0, 0.3), Gain("concise", 0.0, 0.3)]
    made = OptimizeQuery()("Why does ice float?", HERE, gains, draws=[0.0, 3.0, -1.0, 1.0])
    assert (made.strategies, made.explored) == (("concise",), True)
    made = OptimizeQuery()("Why does ice float?", HERE, gains, draws=[0.0, 3.0, -1.0, -1.0])
    assert made.strategies == ()


def test_examples_are_put_before_the_query() -> None:
    """Only the strategy that needs them uses them."""
    shown = [Example(prompt="Why is snow white?", answer="It scatters all light.")]
    made = OptimizeQuery()("Why does ice float?", HERE, [sure("exemplify")], examples=shown)
    assert made.strategies == ("exemplify",)
    assert "It scatters all light." in made.text


def test_equal_facts_give_equal_rewritings() -> None:
    """A decision made again from what the log keeps is the same."""
    facts = (QUERY, HERE, [Gain(s, 0.0, 0.3) for s in STRATEGIES], [0.1 * k for k in range(len(STRATEGIES) + 1)])
    assert OptimizeQuery()(*facts) == OptimizeQuery()(*facts)


@pytest.mark.parametrize("query", ["", " \n\t", None, 7], ids=repr)
def test_a_blank_query_is_refused(query: object) -> None:
    """There is nothing to ask."""
    with pytest.raises(LLMValidationError) as refused:
        check_query(query)
    assert refused.value.code == "validation.query"


@pytest.mark.parametrize("names", [[], ["clarify", "clarify"], ["clarfy"], ["clarify", UNCHANGED]], ids=str)
def test_strategies_are_named_once_and_known(names: list[str]) -> None:
    """`unchanged` is always among the choices, and no strategy."""
    with pytest.raises(LLMValidationError) as refused:
        check_strategies(names)
    assert refused.value.code == "validation.strategy"


def test_a_misspelt_strategy_has_a_hint() -> None:
    """The closest name."""
    with pytest.raises(LLMValidationError) as refused:
        check_strategies("clarfy")
    assert refused.value.next_step == "did you mean 'clarify'?"
    assert check_strategies("clarify") == ("clarify",)


def test_a_bad_caution_is_refused_when_the_policy_is_made() -> None:
    """Before anything is decided with it."""
    with pytest.raises(LLMValidationError) as refused:
        OptimizeQuery(caution=-1)
    assert refused.value.code == "validation.config"


def test_it_says_beforehand_whether_it_comes_to_a_strategy() -> None:
    """As the first choice, or where those before it find nothing to do; not after one that changes the query."""
    policy, plain = OptimizeQuery(), "Why does ice float?"
    gains = [sure("simplify", 0.5), sure("exemplify", 0.3)]
    assert policy.comes_to("exemplify", plain, HERE, gains)  # simplify finds nothing in it
    assert not policy.comes_to("exemplify", QUERY, HERE, gains)
    assert policy.comes_to("simplify", QUERY, HERE, gains)
    assert not policy.comes_to("exemplify", plain, HERE, [sure("simplify"), Gain("exemplify", 0.0, 0.3)])
    assert policy.comes_to("exemplify", plain, HERE, [Gain("exemplify", 0.0, 0.3)], [0.0, 2.0])
