"""Amounts, accounts and prices in whole micro-dollars."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.decide.budget import (
    Account,
    Price,
    check_scopes,
    exceeded,
    limit_of,
    micro_usd,
    price_of,
    reserve_all,
    tokens_of,
    usd_text,
)
from workbench.errors import LLMValidationError
from workbench.facts import ModelCard, Refusal, Usage

# -- amounts


@pytest.mark.parametrize(
    "value",
    [
        math.nan, math.inf, -math.inf, -0.01, -1, True, False, "1", "nan", None, [1], 1j, 10**400, 1e13, -(10**5000),
        Decimal("nan"), Decimal("snan"), Decimal("inf"), Decimal(-1), Decimal("-1e-999999"), Decimal("1e999999"),
        Fraction(-1, 10**9), np.float64("nan"), np.float32(0.5), np.bool_(True),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_bud_nan_refuses_what_is_no_amount(value):
    """NaN, infinite, negative, boolean, textual and absurd budgets are refused by the setting's name."""
    with pytest.raises(LLMValidationError, match="budget_run_usd is") as caught:
        micro_usd(value, "budget_run_usd")
    assert caught.value.code == "validation.budget"
    assert "budget_run_usd" in caught.value.next_step
    assert len(caught.value.next_step) <= 160


@pytest.mark.parametrize(
    ("value", "micro"),
    [
        (0, 0), (0.0, 0), (-0.0, 0), (1, 1_000_000), (0.29, 290_000), (0.1, 100_000), (1.1, 1_100_000),
        (1e-6, 1), (9.99e-7, 0), (5e-324, 0), (0.000_001_9, 1), (2.5e6, 2_500_000_000_000),
        (Decimal("0.1234569"), 123_456), (Decimal("1e-999999999"), 0), (Decimal("0e999999999"), 0),
        (Fraction(1, 3), 333_333), (np.float64(0.1), 100_000), (np.int64(2), 2_000_000),
    ],
    ids=repr,
)  # fmt: skip
def test_an_amount_is_whole_micro_dollars_rounded_down(value, micro):
    """0.29 is 290,000 and not 289,999; what is less than a micro-dollar is nothing."""
    assert micro_usd(value) == micro


@given(st.integers(0, 10**15))
def test_an_amount_with_six_decimals_is_exact(micro):
    """Every amount of whole micro-dollars is read exactly, as a float below a billion dollars and as a fraction."""
    assert micro_usd(Fraction(micro, 10**6)) == micro
    assert micro_usd(float(f"{micro // 10**6}.{micro % 10**6:06d}")) == micro


@pytest.mark.parametrize(
    ("micro", "text"),
    [(0, "0.00"), (1, "0.000001"), (10_000, "0.01"), (1_230_000, "1.23"), (1_000_100, "1.0001"), (-5, "-0.000005")],
)
def test_amounts_are_shown_in_dollars_without_needless_zeros(micro, text):
    """Two decimals, more where they say something."""
    assert usd_text(micro) == text


# -- accounts


def test_a_reservation_is_set_aside_and_then_replaced_by_the_cost():
    """Of 100, 60 are set aside, 50 spent: 50 are left."""
    reserved = Account(limit=100).reserve(60)
    assert (reserved.reserved, reserved.left) == (60, 40)
    assert reserved.reserve(41) is None
    settled = reserved.settle(reserved=60, actual=50)
    assert (settled.spent, settled.reserved, settled.left, settled.uncertain) == (50, 0, 50, 0)


def test_what_is_possibly_billed_counts_as_spent():
    """An uncertain settlement takes the money and is told apart."""
    account = Account(limit=100).reserve(60).settle(reserved=60, actual=60, uncertain=True)
    assert (account.spent, account.uncertain, account.left) == (60, 60, 40)


def test_an_account_without_a_limit_counts_and_refuses_nothing():
    """None is no limit: nothing is left to say, nothing overrun."""
    account = Account().reserve(10**15).settle(reserved=10**15, actual=2 * 10**15)
    assert (account.spent, account.left, account.overrun) == (2 * 10**15, None, 0)
    assert account.could_fit(10**18)


def test_bud_zero_refuses_every_paid_call_and_lets_free_models_run():
    """A budget of 0 admits 0 and nothing else."""
    account = Account(limit=0)
    assert account.reserve(1) is None
    assert account.reserve(0) == account
    assert not account.could_fit(1)
    assert account.could_fit(0)


def test_bud_actual_higher_books_the_overrun_and_stops_everything_paid():
    """A call that cost 130 of 100 reserved is booked in full, flagged as 30 over, and is the last that costs money."""
    account = Account(limit=100).reserve(100).settle(reserved=100, actual=130)
    assert (account.spent, account.overrun, account.left) == (130, 30, 0)
    assert account.reserve(1) is None
    assert not account.could_fit(1)
    assert account.reserve(0) is not None
    assert account.could_fit(0)


def test_bud_actual_higher_is_bounded_by_the_calls_under_way():
    """Two calls under way may both overrun; a third is refused although only the first has been booked."""
    account = Account(limit=100).reserve(50).reserve(50).settle(reserved=50, actual=70)
    assert account.reserve(1) is None
    assert account.settle(reserved=50, actual=50).overrun == 20


def test_could_fit_looks_past_the_reservations_of_others():
    """With 60 reserved and 30 spent of 100: 70 would fit later, 71 never."""
    account = Account(limit=100, spent=30, reserved=60)
    assert account.reserve(70) is None
    assert account.could_fit(70)
    assert not account.could_fit(71)


def test_more_than_is_set_aside_cannot_be_settled():
    """A reservation cannot be settled twice."""
    account = Account(limit=100).reserve(10).settle(reserved=10, actual=1)
    with pytest.raises(LLMValidationError, match="10 is to be settled, but only 0 is set aside") as caught:
        account.settle(reserved=10, actual=1)
    assert caught.value.code == "validation.budget"


@pytest.mark.parametrize("amount", [-1, 1.0, True, "1", None, math.nan], ids=repr)
def test_bud_nan_is_refused_wherever_an_amount_enters(amount):
    """Limits, reservations and settlements are whole numbers >= 0."""
    account = Account(limit=100, reserved=5)
    for call in (
        lambda: account.reserve(amount),
        lambda: account.could_fit(amount),
        lambda: account.settle(reserved=amount, actual=0),
        lambda: account.settle(reserved=0, actual=amount),
        lambda: Account(spent=amount),
        lambda: Account(limit="no" if amount is None else amount),
    ):
        with pytest.raises(LLMValidationError, match="whole number") as caught:
            call()
        assert caught.value.code == "validation.budget"


def test_more_uncertain_than_spent_is_refused():
    """What is possibly billed is part of what is spent."""
    with pytest.raises(LLMValidationError, match="uncertain"):
        Account(spent=1, uncertain=2)


# -- several accounts


def test_one_refusal_refuses_all():
    """Money is set aside in every account or in none, and the accounts given are not changed."""
    accounts = {"run:r": Account(limit=100), "model:m": Account(limit=10, spent=3, reserved=4)}
    refusal = reserve_all(accounts, 5)
    assert refusal == Refusal(scope="model:m", limit=10, spent=3, reserved=4, amount=5, may_fit_later=True)
    assert {scope: account.reserved for scope, account in reserve_all(accounts, 3).items()} == {
        "run:r": 3,
        "model:m": 7,
    }
    assert accounts["run:r"].reserved == 0


def test_the_account_that_never_fits_is_named_first():
    """Where one account waits and another can never bear the amount, waiting is of no use and the second is named."""
    accounts = {"run:r": Account(limit=10, reserved=10), "month:2026-11": Account(limit=10, spent=8)}
    refusal = reserve_all(accounts, 5)
    assert (refusal.scope, refusal.may_fit_later) == ("month:2026-11", False)


@pytest.mark.parametrize(
    ("scope", "setting"),
    [
        ("run:r1", "budget_run_usd"),
        ("month:2026-11", "budget_month_usd"),
        ("model:openai:gpt", "budget_model_usd"),
        ("team:a", "the budget of this scope"),
    ],
)
@pytest.mark.parametrize("later", [True, False])
def test_an_exceeded_budget_names_the_amounts_and_the_setting(scope, setting, later):
    """The error tells scope, limit, spent, reserved and amount in dollars, and what to raise."""
    refusal = Refusal(scope=scope, limit=1_000_000, spent=700_000, reserved=250_000, amount=50_001, may_fit_later=later)
    error = exceeded(refusal)
    assert error.message == (
        f"0.050001 USD do not fit into the budget of {scope}: limit 1.00 USD, spent 0.70 USD, reserved 0.25 USD"
    )
    assert (error.code, error.retryable) == ("budget.exceeded", False)
    assert setting in error.next_step
    assert error.next_step.startswith("wait" if later else "raise")
    assert len(error.next_step) <= 160


def test_the_longest_pattern_gives_the_limit():
    """A scope's own entry wins over `model:openai:*`, that over `model:*`, that over `*`."""
    limits = {"*": 1, "model:*": 2, "model:openai:*": 3, "model:openai:gpt": 4}
    names = ("run:r", "model:x:y", "model:openai:o", "model:openai:gpt")
    assert [limit_of(limits, scope) for scope in names] == [1, 2, 3, 4]
    assert limit_of({"model:*": 2}, "run:r") is None
    assert limit_of({"run": 2}, "run:r") is None


def test_scopes_are_a_list_of_names_each_counted_once():
    """A scope named twice counts once; a single text, which would be read letter by letter, is refused."""
    assert check_scopes(["a", "b", "a"]) == ("a", "b")
    for scopes in ("run:r", ["", "b"], [1]):
        with pytest.raises(LLMValidationError, match="scopes") as caught:
            check_scopes(scopes)
        assert caught.value.code == "validation.budget"


# -- prices


def test_one_dollar_per_million_is_one_micro_dollar_per_token():
    """2.50 for prompts and 10.00 for completions: 1,000 and 200 tokens are 2,500 + 2,000 micro-dollars."""
    price = Price(prompt_usd_per_mtok=2.5, completion_usd_per_mtok=10.0)
    assert price.cost_micro(prompt_tokens=1000, completion_tokens=200) == 4500
    assert price.cost_usd(prompt_tokens=1000, completion_tokens=200) == 0.0045


def test_cached_tokens_are_part_of_the_prompt_at_their_own_price():
    """Of 1,000 prompt tokens 400 at 0.25 and 600 at 2.50: 100 + 1,500; without a cached price all at 2.50."""
    price = Price(prompt_usd_per_mtok=2.5, completion_usd_per_mtok=10, cached_usd_per_mtok=0.25)
    assert price.cost_micro(prompt_tokens=1000, completion_tokens=0, cached_tokens=400) == 1600
    plain = Price(prompt_usd_per_mtok=2.5, completion_usd_per_mtok=10)
    assert plain.cost_micro(prompt_tokens=1000, completion_tokens=0, cached_tokens=400) == 2500


def test_a_report_of_more_cached_than_prompt_tokens_is_charged_in_full():
    """An inconsistent report still has a cost: 100 cached tokens at 0.50, no negative remainder."""
    price = Price(prompt_usd_per_mtok=1, completion_usd_per_mtok=1, cached_usd_per_mtok=0.5)
    assert price.cost_micro(prompt_tokens=40, completion_tokens=0, cached_tokens=100) == 50


def test_a_cost_is_exact_before_it_is_rounded_up():
    """0.15 x 20 tokens is 3 and not 4; 0.15 x 21 is 3.15, so 4; a millionth of a micro-dollar is 1."""
    price = Price(prompt_usd_per_mtok=0.15, completion_usd_per_mtok=0.6)
    assert price.cost_micro(prompt_tokens=20, completion_tokens=0) == 3
    assert price.cost_micro(prompt_tokens=21, completion_tokens=0) == 4
    assert price.cost_usd(prompt_tokens=21, completion_tokens=0) == 3.15e-6
    assert (
        Price(prompt_usd_per_mtok=1e-6, completion_usd_per_mtok=0).cost_micro(prompt_tokens=1, completion_tokens=0) == 1
    )


def test_a_free_model_costs_nothing():
    """Price 0 is a cost of 0 for any number of tokens."""
    price = Price(prompt_usd_per_mtok=0, completion_usd_per_mtok=0)
    assert price.cost_micro(prompt_tokens=10**12, completion_tokens=10**12) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, True, "1", 1e10], ids=repr)
@pytest.mark.parametrize("name", ["prompt_usd_per_mtok", "completion_usd_per_mtok", "cached_usd_per_mtok"])
def test_bud_nan_price_is_refused(name, value):
    """A price that is NaN, infinite, negative, boolean, text or absurd is refused by its name."""
    prices = {"prompt_usd_per_mtok": 1, "completion_usd_per_mtok": 1} | {name: value}
    with pytest.raises(LLMValidationError, match=name) as caught:
        Price(**prices)
    assert caught.value.code == "validation.config"


def test_an_unknown_price_is_not_a_price_of_nothing():
    """None for a prompt or completion price is refused; only the cached price may be left out."""
    with pytest.raises(LLMValidationError, match="prompt_usd_per_mtok"):
        Price(prompt_usd_per_mtok=None, completion_usd_per_mtok=1)


def test_a_card_without_both_prices_has_no_price():
    """A prompt or a completion price that is not known makes the whole price unknown, never 0."""
    known = {"prompt_usd_per_mtok": 2.0, "completion_usd_per_mtok": 8.0}
    assert price_of(ModelCard(name="p:m", **known)) == Price(**known)
    cached = price_of(ModelCard(name="p:m", **known, cached_usd_per_mtok=0.5))
    assert cached.cost_micro(prompt_tokens=10, completion_tokens=1, cached_tokens=10) == 13
    for name in known:
        assert price_of(ModelCard(name="p:m", **known | {name: None})) is None


def test_a_price_that_ends_at_a_prompt_length_is_unknown_beyond_it():
    """A card whose prices hold up to 100 prompt tokens has one at 100, and none at 101."""
    card = ModelCard(name="p:m", prompt_usd_per_mtok=1.0, completion_usd_per_mtok=1.0, prices_up_to_tokens=100)
    assert price_of(card, 100) == price_of(card) == Price(prompt_usd_per_mtok=1.0, completion_usd_per_mtok=1.0)
    assert price_of(card, 101) is None


def test_the_counts_of_a_usage_fit_a_price():
    """What a provider reports goes into a cost; what it leaves out counts as 0 tokens."""
    price = Price(prompt_usd_per_mtok=1, completion_usd_per_mtok=10, cached_usd_per_mtok=0.5)
    usage = Usage(prompt_tokens=100, completion_tokens=3, cached_tokens=40)
    assert price.cost_micro(**tokens_of(usage)) == 60 + 20 + 30
    assert price.cost_micro(**tokens_of(Usage(completion_tokens=3))) == 30


@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "cached_tokens"])
@pytest.mark.parametrize("count", [-1, 1.5, True, None], ids=repr)
def test_a_count_of_tokens_that_is_none_has_no_cost(name, count):
    """Unknown or impossible token counts are refused and never booked as 0."""
    price = Price(prompt_usd_per_mtok=1, completion_usd_per_mtok=1)
    with pytest.raises(LLMValidationError, match=name):
        price.cost_micro(**{"prompt_tokens": 1, "completion_tokens": 1} | {name: count})


hundredths = st.integers(0, 100_000)


@given(prompt=hundredths, completion=hundredths, cached=hundredths, tokens=st.tuples(*[st.integers(0, 10**6)] * 3))
def test_a_cost_equals_the_same_sum_in_whole_cents(prompt, completion, cached, tokens):
    """Prices of whole cents, counted in integers a hundredth of a micro-dollar wide, give the same rounded cost."""
    uncached, completed, from_cache = tokens
    price = Price(
        prompt_usd_per_mtok=prompt / 100, completion_usd_per_mtok=completion / 100, cached_usd_per_mtok=cached / 100
    )
    counts = {
        "prompt_tokens": uncached + from_cache,
        "completion_tokens": completed,
        "cached_tokens": from_cache,
    }
    exact = prompt * uncached + completion * completed + cached * from_cache
    assert price.cost_micro(**counts) == -(-exact // 100)
    assert price.cost_usd(**counts) == float(Fraction(exact, 10**8))
