"""The retry rule and the bucket that bounds what all callers add."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.decide.retry import Bucket, Next, RetryPolicy, checked
from workbench.errors import LLMValidationError
from workbench.facts import Failure

POLICY = RetryPolicy()
SERVER = Failure(kind="LLMProviderError", code="provider.server", message="500", retryable=True, status=500)
REFUSED = Failure(kind="LLMProviderError", code="provider.bad_request", message="400", status=400)


def limited(retry_after_s):
    """A 429 with the provider's hint."""
    return Failure(
        kind="LLMRateLimitError",
        code="rate_limit",
        message="429",
        retryable=True,
        status=429,
        retry_after_s=retry_after_s,
    )


def overloaded(status=529):
    """A provider that says it is short of capacity."""
    return Failure(kind="LLMProviderError", code="provider.overloaded", message="busy", retryable=True, status=status)


def ask(failure=SERVER, *, policy=POLICY, **facts):
    """The next step after a first failed attempt with plenty of everything, except what the test says."""
    given_facts = {"attempt": 1, "draw": 0.5, "remaining_s": 60.0, "tokens": 50.0, "alternatives": 0} | facts
    return policy(failure=failure, **given_facts)


# -- the settings


@pytest.mark.parametrize("value", [-1, 1.0, True, "2", None, math.nan], ids=repr)
def test_retry_zero_refuses_what_is_no_count_of_retries(value):
    """A negative, fractional, boolean or textual number of retries is refused, by its name and with what is allowed."""
    with pytest.raises(LLMValidationError, match=r"max_retries is .*, not a whole number >= 0") as caught:
        RetryPolicy(max_retries=value)
    assert caught.value.code == "validation.config"
    assert "max_retries" in caught.value.next_step


@pytest.mark.parametrize("name", ["base_delay_s", "max_delay_s", "max_retry_after_s", "backoff_factor"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, True, "1", None, 10**400], ids=lambda v: repr(v)[:9])
def test_retry_zero_refuses_what_is_no_delay(name, value):
    """A delay or a factor that is NaN, infinite, negative, boolean, text or beyond floats is refused by its name."""
    with pytest.raises(LLMValidationError, match=name) as caught:
        RetryPolicy(**{name: value})
    assert caught.value.code == "validation.config"
    assert len(caught.value.next_step) <= 160


def test_retry_zero_refuses_a_factor_that_shrinks():
    """A backoff that comes closer with every failure is refused."""
    with pytest.raises(LLMValidationError, match="not a finite number >= 1"):
        RetryPolicy(backoff_factor=0.5)


def test_retry_zero_means_one_attempt():
    """With no retries the first failure ends the call, or passes it on."""
    once = RetryPolicy(max_retries=0)
    assert ask(policy=once).action == "stop"
    assert ask(policy=once, alternatives=1).action == "failover"


def test_a_number_beyond_what_python_prints_is_still_refused_by_name():
    """An integer of 5,000 digits, which has no repr, leads to the typed error."""
    with pytest.raises(LLMValidationError, match="beyond all bounds"):
        checked("max_delay_s", 10**5000)


def test_settings_are_kept_as_numbers_of_one_kind():
    """A whole delay becomes a float, so that the log shows equal policies equally."""
    assert RetryPolicy(base_delay_s=1) == RetryPolicy(base_delay_s=1.0)
    assert isinstance(RetryPolicy(max_delay_s=8).max_delay_s, float)
    assert (POLICY.name, POLICY.version) == ("full_jitter", "1")


# -- the delay


def test_the_ceiling_doubles_up_to_the_largest_delay():
    """0.5, 1, 2, 4, 8 seconds, and 8 ever after."""
    assert [POLICY.ceiling_s(n) for n in range(1, 8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


@pytest.mark.parametrize("attempt", [1100, 10**6, 10**400])
def test_the_ceiling_does_not_overflow(attempt):
    """Attempt numbers far beyond the range of powers stay at the largest delay; a factor of 1 stays at the base."""
    assert POLICY.ceiling_s(attempt) == 8.0
    assert RetryPolicy(backoff_factor=1.0).ceiling_s(attempt) == 0.5
    assert RetryPolicy(base_delay_s=0).ceiling_s(attempt) == 0.0


def test_a_base_above_the_largest_delay_is_cut():
    """The largest delay holds from the first retry on."""
    assert RetryPolicy(base_delay_s=30.0).ceiling_s(1) == 8.0


@pytest.mark.parametrize("attempt", [0, -1, 1.0, True])
def test_attempts_count_from_one(attempt):
    """An attempt number that no attempt can have is refused."""
    with pytest.raises(LLMValidationError, match="attempt") as caught:
        POLICY.ceiling_s(attempt)
    assert caught.value.code == "validation.input"


@pytest.mark.parametrize("draw", [1.0, -0.01, math.nan, "0.5", True])
def test_a_draw_outside_the_unit_interval_is_refused(draw):
    """What is not in [0, 1) is no draw."""
    with pytest.raises(LLMValidationError, match="draw"):
        POLICY.delay_s(1, draw=draw)


def test_full_jitter_spreads_the_whole_ceiling():
    """The delay is the drawn share of the ceiling: 0, a quarter, three quarters of 4 s at the fourth attempt."""
    assert [POLICY.delay_s(4, draw=d) for d in (0.0, 0.25, 0.75)] == [0.0, 1.0, 3.0]


def test_full_jitter_is_uniform():
    """Of 10,000 delays below 8 s each second holds 1,250, within a tenth."""
    draws = random.Random(7)
    seconds = [0] * 8
    for _ in range(10_000):
        seconds[int(POLICY.delay_s(9, draw=draws.random()))] += 1
    assert all(1125 <= count <= 1375 for count in seconds)


def test_http_529_backs_off_longer_than_500():
    """Overload doubles the ceiling, up to twice the largest delay."""
    assert POLICY.delay_s(2, draw=0.5, overloaded=True) == 1.0 == 2 * POLICY.delay_s(2, draw=0.5)
    assert POLICY.delay_s(50, draw=0.5, overloaded=True) == 8.0
    assert ask(overloaded()).delay_s == ask(overloaded(None)).delay_s == 2 * ask(SERVER).delay_s == 0.5


def test_a_hint_wins_and_callers_do_not_come_back_together():
    """Retry-After: 1 is waited for, and up to a quarter of a second is drawn on top."""
    assert POLICY.delay_s(5, draw=0.0, retry_after_s=1.0) == 1.0
    assert POLICY.delay_s(5, draw=0.5, retry_after_s=1.0) == 1.125
    assert POLICY.delay_s(1, draw=0.5, retry_after_s=0.0) == 0.125
    assert RetryPolicy(base_delay_s=0.1).delay_s(1, draw=0.5, retry_after_s=1.0) == 1.05


@pytest.mark.parametrize("hint", [-5.0, -0.001, math.nan, math.inf, -math.inf])
def test_http_429_negative_hint_is_no_hint(hint):
    """A negative or non-finite Retry-After leads to the normal backoff, never to a negative or endless sleep."""
    assert POLICY.delay_s(3, draw=0.5, retry_after_s=hint) == 1.0
    assert ask(limited(hint), draw=0.5) == ask(limited(None), draw=0.5)
    assert ask(limited(hint), draw=0.5).delay_s == 0.25


@given(
    attempt=st.integers(1, 10**6),
    draw=st.floats(0, 1, exclude_max=True),
    hint=st.none() | st.floats(0, 1e6),
    busy=st.booleans(),
)
def test_a_delay_is_between_the_hint_and_its_bound(attempt, draw, hint, busy):
    """Never negative, never before the hint, never more than the bound above it."""
    delay = POLICY.delay_s(attempt, draw=draw, retry_after_s=hint, overloaded=busy)
    if hint is None:
        assert 0 <= delay <= (16 if busy else 8)
    else:
        assert hint <= delay <= hint + 0.25


# -- the rules


def test_a_plain_failure_is_tried_again():
    """A server error with time, tokens and attempts left is retried after half of 0.5 s."""
    assert ask() == Next(action="retry", delay_s=0.25, reason="retryable")
    assert ask(alternatives=3) == ask()


def test_without_a_deadline_there_is_always_time():
    """None for what remains bounds nothing."""
    assert ask(remaining_s=None) == ask()


def test_what_is_not_retryable_is_never_retried():
    """A 400 goes to another model where one is allowed, else it ends the call."""
    assert ask(REFUSED) == Next(action="stop", reason="not retryable")
    assert ask(REFUSED, alternatives=1) == Next(action="failover", reason="not retryable")


def test_attempts_are_counted():
    """Two retries are three attempts: the third failure is the last."""
    assert [ask(attempt=n).action for n in (1, 2, 3, 4)] == ["retry", "retry", "stop", "stop"]
    assert ask(attempt=3, alternatives=1) == Next(action="failover", reason="no retries left")


@pytest.mark.parametrize("how", ["delivered", "silent"])
def test_a_cut_or_silent_route_is_left_at_once(how):
    """The same request to the same route is made again only where there is no other."""
    assert ask(alternatives=1, **{how: True}).action == "failover"
    assert ask(alternatives=0, **{how: True}).action == "retry"


def test_http_529_prefers_another_model():
    """An overloaded provider is left alone where another model may answer, by code and by status."""
    by_status = Failure(kind="LLMProviderError", code="provider.server", message="", retryable=True, status=529)
    for failure in (overloaded(), overloaded(200), by_status):
        assert ask(failure, alternatives=1) == Next(action="failover", reason="provider is overloaded")
        assert ask(failure).action == "retry"


@pytest.mark.parametrize("remaining_s", [5.0, None, 2e6])
def test_http_429_huge_hint_is_never_slept(remaining_s):
    """Retry-After: 999999 ends the call with the provider's own error, or passes it on, at once."""
    stop = ask(limited(999_999.0), remaining_s=remaining_s)
    assert (stop.action, stop.delay_s, stop.give_up) == ("stop", 0.0, "failure")
    assert ask(limited(999_999.0), remaining_s=remaining_s, alternatives=1).action == "failover"


def test_http_429_huge_hint_for_the_deadline_keeps_the_providers_error():
    """A hint of 20 s under a deadline of 5 s raises the rate limit, which tells how long to wait, not a timeout."""
    assert ask(limited(20.0), remaining_s=5.0).give_up == "failure"
    assert ask(limited(5.0), remaining_s=5.0).give_up == "failure"
    assert ask(limited(20.0), remaining_s=30.0).action == "retry"
    assert ask(limited(60.0), remaining_s=None).action == "retry"


def test_retry_deadline_shorter_than_the_backoff_stops_at_once():
    """A backoff of 2 s under a deadline of 1 s is not begun; what is raised is the deadline."""
    slow = RetryPolicy(base_delay_s=4.0)
    assert ask(policy=slow, draw=0.5, remaining_s=1.0) == Next(
        action="stop", reason="delay would pass the deadline", give_up="deadline"
    )
    assert ask(policy=slow, draw=0.5, remaining_s=2.0).action == "stop"
    assert ask(policy=slow, draw=0.5, remaining_s=2.001).action == "retry"
    assert ask(policy=slow, draw=0.5, remaining_s=1.0, alternatives=1).action == "failover"


@pytest.mark.parametrize("remaining_s", [0.0, -1.0, math.nan])
def test_retry_deadline_that_has_passed_leaves_no_retry(remaining_s):
    """With no time left not even a delay of 0 is begun."""
    assert ask(draw=0.0, remaining_s=remaining_s).give_up == "deadline"


def test_retry_deadline_too_close_for_the_jitter_is_a_deadline():
    """Where the hint fits and only our own draw on top does not, the deadline is what ends the call."""
    assert ask(limited(1.0), draw=0.9, remaining_s=1.1).give_up == "deadline"


def test_a_long_wait_is_not_waited_where_another_model_can_answer():
    """A hint of 10 s, longer than the largest delay, is waited for only without an alternative."""
    assert ask(limited(10.0)).action == "retry"
    assert ask(limited(10.0), alternatives=1) == Next(action="failover", reason="another model answers sooner")
    assert ask(limited(7.0), alternatives=1).action == "retry"


def test_an_empty_bucket_ends_the_retries():
    """Less than one token pays for no retry."""
    assert ask(tokens=0.999) == Next(action="stop", reason="retry budget is empty")
    assert ask(tokens=0.0, alternatives=1).action == "failover"
    assert ask(tokens=1.0).action == "retry"


facts = st.fixed_dictionaries(
    {
        "attempt": st.integers(1, 6),
        "draw": st.floats(0, 1, exclude_max=True),
        "remaining_s": st.none() | st.floats(-1, 100),
        "tokens": st.floats(0, 5),
        "alternatives": st.integers(0, 2),
        "delivered": st.booleans(),
        "silent": st.booleans(),
    }
)


@given(facts=facts, retryable=st.booleans(), hint=st.none() | st.floats(-10, 200), status=st.sampled_from([500, 529]))
def test_whatever_fails_the_step_keeps_its_promises(facts, retryable, hint, status):
    """A retry is affordable, counted, in time and not before the hint; the others wait for nothing."""
    failure = Failure(
        kind="E", code="provider.server", message="", retryable=retryable, retry_after_s=hint, status=status
    )
    step = POLICY(failure=failure, **facts)
    if step.action == "retry":
        assert retryable
        assert facts["attempt"] <= 2
        assert facts["tokens"] >= 1
        assert step.delay_s >= max(0.0, hint or 0.0)
        assert facts["remaining_s"] is None or step.delay_s < facts["remaining_s"]
        assert hint is None or hint <= 60
        assert not (facts["alternatives"] and (facts["delivered"] or facts["silent"] or status == 529))
    else:
        assert step.delay_s == 0.0
        assert step.action == ("failover" if facts["alternatives"] else "stop")
    assert step.reason


# -- the bucket


def test_a_bucket_begins_full_and_never_holds_more():
    """A new bucket holds its capacity; calls add nothing to it."""
    assert Bucket().tokens == 100.0
    assert Bucket().credit() == Bucket()
    assert Bucket(tokens=50.0, capacity=1.0).tokens == 1.0


def test_ten_calls_earn_exactly_one_retry():
    """Ten credits of 0.1 are 1 token and not 0.9999999999999999."""
    bucket = Bucket(tokens=0.0)
    for _ in range(9):
        bucket = bucket.credit()
    assert bucket.debit() is None
    assert bucket.credit().debit() == Bucket(tokens=0.0)


def test_a_hedge_budget_is_the_same_bucket_with_other_numbers():
    """One token at most, one in twenty calls: a hedge, then none for twenty calls."""
    bucket = Bucket(capacity=1.0, ratio=0.05).debit()
    hedges = 0
    for _ in range(100):
        bucket = bucket.credit()
        paid = bucket.debit()
        hedges, bucket = (hedges, bucket) if paid is None else (hedges + 1, paid)
    assert hedges == 5


def test_a_debit_takes_its_cost_or_nothing():
    """Five tokens pay one debit of 5 and no debit of 5.1."""
    assert Bucket(tokens=5.0).debit(5.0).tokens == 0.0
    assert Bucket(tokens=5.0).debit(5.1) is None


@pytest.mark.parametrize(
    "field",
    [{"tokens": -1.0}, {"tokens": math.nan}, {"capacity": 0}, {"capacity": math.inf}, {"ratio": -0.1}, {"ratio": "1"}],
    ids=str,
)
def test_a_bucket_refuses_numbers_that_bound_nothing(field):
    """A bucket of NaN or endless tokens is refused by the field's name."""
    with pytest.raises(LLMValidationError, match=next(iter(field))) as caught:
        Bucket(**field)
    assert caught.value.code == "validation.config"


@pytest.mark.parametrize("cost", [0, -1.0, math.nan])
def test_a_debit_of_nothing_is_refused(cost):
    """A retry that costs nothing would not be bounded."""
    with pytest.raises(LLMValidationError, match="cost"):
        Bucket().debit(cost)


@pytest.mark.parametrize("capacity", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("max_retries", [2, 50])
def test_retry_storm_is_bounded_by_the_bucket(capacity, max_retries):
    """1,000 calls that fail for ever make at most 1,000 x 1.1 + capacity attempts, however many retries each may."""
    policy, bucket, draws, attempts = (
        RetryPolicy(max_retries=max_retries),
        Bucket(capacity=capacity),
        random.Random(3),
        0,
    )
    waiting = []
    for _ in range(1000):
        bucket = bucket.credit()
        waiting.append(1)
    while waiting:
        attempt = waiting.pop(draws.randrange(len(waiting)))
        attempts += 1
        step = policy(
            attempt=attempt, failure=SERVER, draw=draws.random(), remaining_s=None, tokens=bucket.tokens, alternatives=0
        )
        if step.action == "retry":
            bucket = bucket.debit()
            waiting.append(attempt + 1)
    assert attempts == 1000 + capacity  # all calls began before the first retry: their credits met a full bucket
    assert attempts <= 1000 * 1.1 + capacity


def test_retry_storm_one_call_after_another_earns_a_tenth():
    """Calls that begin one after another retry what the bucket held and a tenth of their number, and no more."""
    bucket, attempts = Bucket(capacity=10.0), 0
    for _ in range(1000):
        bucket = bucket.credit()
        attempt = 1
        while True:
            attempts += 1
            step = ask(attempt=attempt, tokens=bucket.tokens)
            if step.action != "retry":
                break
            bucket, attempt = bucket.debit(), attempt + 1
    # The first call's credit meets a full bucket; the other 999 earn 99.9, which pay for 99 more.
    assert attempts == 1000 + 10 + 99
    assert attempts <= 1000 * 1.1 + 10


@given(
    capacity=st.integers(1, 20),
    percent=st.integers(0, 100),
    steps=st.lists(st.sampled_from(["call", "retry"]), max_size=200),
)
def test_retries_never_exceed_capacity_plus_ratio_of_the_calls(capacity, percent, steps):
    """In any order of calls and retries the bound holds, counted in exact fractions."""
    bucket, calls, retries = Bucket(capacity=capacity, ratio=percent / 100), 0, 0
    exact = Fraction(capacity)
    for step in steps:
        if step == "call":
            bucket, calls = bucket.credit(), calls + 1
            exact = min(Fraction(capacity), exact + Fraction(percent, 100))
        elif (paid := bucket.debit()) is not None:
            bucket, retries = paid, retries + 1
            exact -= 1
        else:
            assert exact < 1
    assert exact >= 0
    assert abs(Fraction(bucket.tokens) - exact) < Fraction(1, 10**9)
    assert retries <= capacity + Fraction(percent, 100) * calls
