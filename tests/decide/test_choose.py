"""The choice of a strategy: what is known, what is tried, and how careful it is."""

from __future__ import annotations

import math
from collections import Counter
from statistics import NormalDist

import numpy as np
import pytest

from workbench.decide.choose import CAUTION, PRUDENT_AFTER, Choice, ChooseStrategy
from workbench.decide.evidence import UNCHANGED, Gain
from workbench.errors import LLMValidationError

NOTHING_KNOWN = Gain("clarify", 0.0, 0.3)


def choose(*gains: Gain, caution: float = CAUTION, draws: list[float] | None = None) -> Choice:
    """draws: of the strategies' gains; that of unchanged is 0, so that a gain's own is 1 / sqrt(2) of what is given."""
    given = None if draws is None else [0.0, *(z * math.sqrt(2) for z in draws)]
    return ChooseStrategy(caution=caution)(gains, given)


def test_nothing_known_leaves_the_query_unchanged() -> None:
    """Without draws a strategy must promise something, and nothing promises 0."""
    made = choose(NOTHING_KNOWN)
    assert (made.strategy, made.gain.mean, made.gain.low, made.gain.high, made.explored) == (UNCHANGED, 0, 0, 0, False)
    assert made.confidence == pytest.approx(0.5)


def test_no_strategies_leave_the_query_unchanged_for_certain() -> None:
    """There is nothing that could be better."""
    made = choose()
    assert (made.strategy, made.confidence) == (UNCHANGED, 1.0)
    assert "no strategy" in made.reason


def test_a_gain_larger_than_its_uncertainty_is_taken() -> None:
    """Mean 0.25 less two standard deviations of 0.1 is above 0; its confidence is that of a normal at 2.5 of them."""
    made = choose(Gain("expand", 0.25, 0.1), NOTHING_KNOWN)
    assert made.strategy == "expand"
    assert made.confidence == pytest.approx(NormalDist().cdf(2.5))
    assert not made.explored


def test_a_gain_smaller_than_its_uncertainty_is_not() -> None:
    """Mean 0.15 less two standard deviations of 0.1 is below 0, but not without caution."""
    doubtful = Gain("expand", 0.15, 0.1)
    assert choose(doubtful).strategy == UNCHANGED
    assert choose(doubtful, caution=0).strategy == "expand"


def test_of_equal_scores_the_first_wins() -> None:
    """The order of the strategies breaks ties."""
    assert choose(Gain("a", 0.4, 0.1), Gain("b", 0.4, 0.1)).strategy == "a"


def test_a_draw_tries_what_is_unknown() -> None:
    """In a group that is not known yet there is no caution: a draw of one deviation is tried, and said to be."""
    made = choose(NOTHING_KNOWN, draws=[1.0])
    assert (made.strategy, made.explored) == ("clarify", True)
    assert "tried" in made.reason
    assert choose(NOTHING_KNOWN, draws=[-0.1]).strategy == UNCHANGED


def test_caution_grows_with_what_is_known_of_a_group() -> None:
    """At PRUDENT_AFTER tellings half the caution is subtracted: a draw of 0.9 deviations is not enough then."""
    fresh, known = Gain("x", 0.0, 0.2, told=0), Gain("x", 0.0, 0.2, told=PRUDENT_AFTER)
    assert choose(fresh, draws=[0.9]).strategy == "x"
    assert choose(known, draws=[0.9]).strategy == UNCHANGED
    assert choose(known, draws=[1.1]).strategy == "x"


def test_there_is_no_caution_once_the_interval_lies_above_0() -> None:
    """What is sure to help is left out by plain Thompson sampling only: at 3 deviations, by a draw below -3."""
    sure = Gain("x", 0.3, 0.1, told=1e6)
    assert choose(sure, draws=[-2.9]).strategy == "x"
    made = choose(sure, draws=[-3.1])
    assert (made.strategy, made.explored) == (UNCHANGED, True)


def test_thompson_sampling_tries_a_strategy_as_often_as_it_may_be_better() -> None:
    """Without caution the share of draws that choose it is P(gain > 0): here Phi(0.5) = 0.691."""
    policy, gain = ChooseStrategy(caution=0), Gain("x", 0.1, 0.2, told=1000)
    draws = np.random.default_rng(0).standard_normal((20_000, 2))
    share = np.mean([policy([gain], two.tolist()).strategy == "x" for two in draws])
    assert share == pytest.approx(NormalDist().cdf(0.5), abs=0.01)


def test_of_many_unknown_strategies_unchanged_is_asked_as_often_as_each() -> None:
    """Seven strategies and unchanged, all alike: each in one of eight cases, for all are set against the same."""
    gains = [Gain(name, 0.0, 0.3) for name in "abcdefg"]
    draws = np.random.default_rng(0).standard_normal((16_000, 8))
    chosen = Counter(ChooseStrategy()(gains, row.tolist()).strategy for row in draws)
    assert {name: n / 16_000 for name, n in chosen.items()} == pytest.approx(
        dict.fromkeys([*"abcdefg", UNCHANGED], 1 / 8), abs=0.012
    )


@pytest.mark.parametrize("caution", [-0.1, float("nan"), float("inf"), "much", None], ids=str)
def test_a_caution_that_is_no_number_is_refused(caution: object) -> None:
    """Negative, infinite and wordy cautions say what to use."""
    with pytest.raises(LLMValidationError) as refused:
        ChooseStrategy(caution=caution)  # type: ignore[arg-type]
    assert refused.value.code == "validation.config"


def test_draws_are_one_for_each_strategy() -> None:
    """A missing draw would choose silently."""
    with pytest.raises(LLMValidationError) as refused:
        ChooseStrategy()([NOTHING_KNOWN, NOTHING_KNOWN], [0.5, 0.5])
    assert refused.value.code == "validation.config"


def test_exploring_is_choosing_what_would_not_be_chosen_without_draws() -> None:
    """Another strategy, or unchanged, in the place of the known choice; and nothing else."""
    known, other = Gain("a", 0.5, 0.1), Gain("b", 0.3, 0.1)
    assert not choose(known, other, draws=[0.0, 0.0]).explored
    assert choose(known, other, draws=[0.0, 4.0]).explored
    assert choose(Gain("x", 0.05, 0.1), caution=0, draws=[-3.0]).explored  # unchanged, though x is expected to gain
    assert not choose(Gain("x", 0.15, 0.1), draws=[-3.0]).explored  # unchanged either way


def test_a_draw_that_is_no_number_is_refused() -> None:
    """It would win in silence."""
    with pytest.raises(LLMValidationError) as refused:
        ChooseStrategy()([NOTHING_KNOWN], [0.0, float("nan")])
    assert refused.value.code == "validation.config"
