"""Rate limits against a plain model: a list of everything that was let through."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.decide.rate import RateLimit, RateState
from workbench.errors import LLMRateLimitError, LLMValidationError

EMPTY = RateState()


def admit_when_possible(limit, state, now_s, tokens=0):
    """Ask until the request is let through: the new state and the time of it."""
    for _ in range(100):
        state, wait_s = limit.admit(state, now_s=now_s, tokens=tokens)
        if wait_s == 0:
            return state, now_s
        now_s += wait_s
    raise AssertionError("still waiting after a hundred waits")


def most_in_a_minute(through):
    """The most requests and the most tokens in any 60 s, both ends included, by looking at every window."""
    windows = [[t for at, t in through if end - 60 <= at <= end] for end, _ in through]
    return max(map(len, windows), default=0), max(map(sum, windows), default=0)


# -- the settings


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "60"], ids=repr)
@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute"])
def test_a_limit_that_is_no_positive_number_is_refused(name, value):
    """Zero, negative, non-finite, boolean and textual limits are refused by the setting's name."""
    with pytest.raises(LLMValidationError, match=name) as caught:
        RateLimit(**{name: value})
    assert caught.value.code == "validation.config"


def test_a_fraction_of_a_token_is_refused():
    """Tokens come whole."""
    with pytest.raises(LLMValidationError, match="tokens_per_minute"):
        RateLimit(tokens_per_minute=0.5)


@pytest.mark.parametrize("tokens", [-1, 1.5, True, "3"], ids=repr)
def test_a_request_of_no_count_of_tokens_is_refused(tokens):
    """Negative, fractional, boolean and textual numbers of tokens are refused, also on the way back."""
    limit = RateLimit(tokens_per_minute=100)
    for call in (
        lambda: limit.admit(EMPTY, now_s=0.0, tokens=tokens),
        lambda: limit.refund(EMPTY, tokens, at_s=0.0),
        lambda: limit.settle(EMPTY, reserved=tokens, actual=1, at_s=0.0),
        lambda: limit.settle(EMPTY, reserved=1, actual=tokens, at_s=0.0),
    ):
        with pytest.raises(LLMValidationError, match="whole number"):
            call()


def test_a_time_that_is_no_time_is_refused():
    """NaN seconds would make every comparison false."""
    with pytest.raises(LLMValidationError, match="now_s"):
        RateLimit(requests_per_minute=1).admit(EMPTY, now_s=math.nan)


def test_a_request_larger_than_the_limit_never_fits():
    """Waiting cannot help, so the error is not retryable and names the setting."""
    limit = RateLimit(tokens_per_minute=1000)
    assert limit.admit(EMPTY, now_s=0.0, tokens=1000)[1] == 0.0
    with pytest.raises(LLMRateLimitError, match="1001 tokens never fits into tokens_per_minute=1000") as caught:
        limit.admit(EMPTY, now_s=0.0, tokens=1001)
    assert (caught.value.code, caught.value.retryable) == ("rate_limit.local", False)
    assert "tokens_per_minute" in caught.value.next_step


def test_no_limit_lets_everything_through_and_remembers_nothing():
    """Without limits the state stays empty, however much passes."""
    assert RateLimit().admit(EMPTY, now_s=5.0, tokens=10**9) == (EMPTY, 0.0)


# -- the window


def test_a_refused_request_is_not_booked_and_fits_after_the_wait():
    """Two per minute: the third at 10 s waits until the first's second (0 to 1) is a minute old, at 61 s."""
    limit = RateLimit(requests_per_minute=2)
    state, _ = limit.admit(EMPTY, now_s=0.5)
    state, _ = limit.admit(state, now_s=7.0)
    assert limit.admit(state, now_s=10.0) == (state, 51.0)
    assert limit.admit(state, now_s=60.9)[1] == pytest.approx(0.1)
    assert limit.admit(state, now_s=61.0)[1] == 0.0


def test_the_wait_is_the_longer_of_requests_and_tokens():
    """With room for a request but 10 tokens too few, the request waits for the tokens of the first second."""
    limit = RateLimit(requests_per_minute=100, tokens_per_minute=100)
    state, _ = limit.admit(EMPTY, now_s=0.0, tokens=60)
    state, _ = limit.admit(state, now_s=20.0, tokens=30)
    assert limit.admit(state, now_s=30.0, tokens=10)[1] == 0.0
    assert limit.admit(state, now_s=30.0, tokens=20)[1] == 31.0
    assert limit.admit(state, now_s=30.0, tokens=71)[1] == 51.0
    assert limit.admit(state, now_s=30.0)[1] == 0.0


def test_half_a_request_per_minute_is_one_in_two_minutes():
    """Limits below one stretch the window: the second request waits until the first's second is 120 s old."""
    limit = RateLimit(requests_per_minute=0.5)
    state, _ = limit.admit(EMPTY, now_s=0.0)
    assert limit.admit(state, now_s=60.0)[1] == 61.0
    assert limit.admit(state, now_s=121.0)[1] == 0.0


def test_two_and_a_half_requests_per_minute_are_two():
    """A third request inside a minute would be more than 2.5."""
    limit = RateLimit(requests_per_minute=2.5)
    state, _ = limit.admit(EMPTY, now_s=0.0)
    state, _ = limit.admit(state, now_s=0.0)
    assert limit.admit(state, now_s=0.0)[1] == 61.0


def test_a_clock_that_steps_back_frees_nothing():
    """A time before the last booking counts as that booking's second."""
    limit = RateLimit(requests_per_minute=2)
    state, _ = limit.admit(EMPTY, now_s=100.0)
    state, wait_s = limit.admit(state, now_s=40.0)
    assert wait_s == 0.0
    assert limit.admit(state, now_s=160.9)[1] == pytest.approx(0.1)


def test_the_state_stays_small():
    """A day of requests leaves at most one slot for each second of the window."""
    limit, state = RateLimit(requests_per_minute=10_000), EMPTY
    for second in range(5000):
        state, _ = limit.admit(state, now_s=second * 0.7)
        assert len(state.slots) <= 62


requests = st.lists(st.tuples(st.floats(0, 40), st.integers(0, 50)), max_size=60)


@given(arrivals=requests, per_minute=st.integers(1, 12), tokens_per_minute=st.integers(50, 200))
def test_no_window_of_a_minute_ever_holds_more_than_the_limit(arrivals, per_minute, tokens_per_minute):
    """Whenever requests come and however large they are, every closed window of 60 s keeps both limits."""
    limit, state, now_s, through = (
        RateLimit(requests_per_minute=per_minute, tokens_per_minute=tokens_per_minute),
        EMPTY,
        0.0,
        [],
    )
    for gap_s, tokens in arrivals:
        state, now_s = admit_when_possible(limit, state, now_s + gap_s, tokens)
        through.append((now_s, tokens))
    most_requests, most_tokens = most_in_a_minute(through)
    assert most_requests <= per_minute
    assert most_tokens <= tokens_per_minute


@given(arrivals=requests, tokens_per_minute=st.integers(50, 200))
def test_nobody_waits_who_had_room_in_the_last_61_seconds(arrivals, tokens_per_minute):
    """A request that keeps the limit in the last 61 s is let through at once: the window is not wider than that."""
    limit, state, now_s, through = RateLimit(tokens_per_minute=tokens_per_minute), EMPTY, 0.0, []
    for gap_s, tokens in arrivals:
        now_s += gap_s
        used = sum(t for at, t in through if at >= now_s - 61)
        state, wait_s = limit.admit(state, now_s=now_s, tokens=tokens)
        assert wait_s == 0.0 or used + tokens > tokens_per_minute
        assert wait_s <= 61
        if wait_s == 0.0:
            through.append((now_s, tokens))


changes = st.lists(
    st.tuples(
        st.floats(0, 30),
        st.integers(0, 60),
        st.sampled_from(["keep", "settle", "refund"]),
        st.integers(0, 90),
        st.integers(0, 5),
    ),
    max_size=50,
)


@given(steps=changes)
def test_what_is_settled_and_given_back_keeps_every_window_too(steps):
    """With each request at what it used or reserves, nobody is let through into a window that would exceed a limit.

    Requests settle late and in any order, some with more than was reserved, some after they left the window.
    """
    limit, state, now_s = RateLimit(requests_per_minute=8, tokens_per_minute=100), EMPTY, 0.0
    through = []  # [time, tokens now counted, settled, sent]
    for gap_s, tokens, change, actual, which in steps:
        state, now_s = admit_when_possible(limit, state, now_s + gap_s, tokens)
        through.append([now_s, tokens, False, True])
        window = [entry for entry in through if entry[0] >= now_s - 60 and entry[3]]
        assert sum(entry[1] for entry in window) <= 100
        assert len(window) <= 8
        open_entries = [entry for entry in through if not entry[2]]
        if change == "keep" or not open_entries:
            continue
        entry = open_entries[which % len(open_entries)]
        if change == "settle":
            state = limit.settle(state, reserved=entry[1], actual=actual, at_s=entry[0])
            entry[1:3] = actual, True
        else:
            state = limit.refund(state, entry[1], at_s=entry[0])
            entry[1:] = 0, True, False


# -- settling


def test_unused_tokens_are_free_at_once():
    """A request that reserved 100 and used 10 leaves room for 90."""
    limit = RateLimit(tokens_per_minute=100)
    state, _ = limit.admit(EMPTY, now_s=3.0, tokens=100)
    state = limit.settle(state, reserved=100, actual=10, at_s=3.0)
    assert limit.admit(state, now_s=5.0, tokens=90)[1] == 0.0
    assert limit.admit(state, now_s=5.0, tokens=91)[1] > 0.0


def test_tokens_beyond_the_reservation_are_waited_for():
    """A request that used 150 of 100 keeps the others out until its second is a minute old."""
    limit = RateLimit(tokens_per_minute=100)
    state, _ = limit.admit(EMPTY, now_s=3.0, tokens=50)
    state = limit.settle(state, reserved=50, actual=150, at_s=3.0)
    assert limit.admit(state, now_s=5.0, tokens=1)[1] == 59.0


def test_a_request_that_was_never_sent_gives_back_its_place():
    """A refund frees the request and its tokens; settling at 0 frees the tokens alone."""
    limit = RateLimit(requests_per_minute=1, tokens_per_minute=100)
    state, _ = limit.admit(EMPTY, now_s=3.0, tokens=100)
    assert limit.admit(limit.refund(state, 100, at_s=3.0), now_s=3.5, tokens=100)[1] == 0.0
    assert limit.admit(limit.settle(state, reserved=100, actual=0, at_s=3.0), now_s=3.5)[1] == 60.5


def test_what_has_left_the_window_gives_nothing_back():
    """An answer after two minutes does not take its unused tokens from a younger request."""
    limit = RateLimit(tokens_per_minute=100)
    state, _ = limit.admit(EMPTY, now_s=0.0, tokens=100)
    state, _ = limit.admit(state, now_s=120.0, tokens=100)
    state = limit.settle(state, reserved=100, actual=0, at_s=0.0)
    assert limit.admit(state, now_s=121.0, tokens=1)[1] == 60.0


# -- throughput


@pytest.mark.parametrize("per_minute", [1, 2, 7, 60, 300])
def test_a_steady_load_reaches_nine_tenths_of_the_request_limit(per_minute):
    """Over half an hour of callers that always have one more request, at least 90 % of the limit passes."""
    limit, state, now_s, passed = RateLimit(requests_per_minute=per_minute), EMPTY, 0.0, 0
    while True:
        state, now_s = admit_when_possible(limit, state, now_s)
        if now_s >= 1800:
            break
        passed += 1
    assert 0.9 * 30 * per_minute <= passed <= 30 * per_minute


def test_a_steady_load_reaches_nine_tenths_of_the_token_limit():
    """Requests of 100 to 1,000 tokens, reserved at twice what they use, pass at least 90 % of 60,000 per minute."""
    limit, state, now_s, passed = RateLimit(tokens_per_minute=60_000), EMPTY, 0.0, 0
    draws = random.Random(5)
    while True:
        used = draws.randint(100, 1000)
        state, now_s = admit_when_possible(limit, state, now_s, 2 * used)
        if now_s >= 1800:
            break
        state = limit.settle(state, reserved=2 * used, actual=used, at_s=now_s)
        passed += used
    assert 0.9 * 30 * 60_000 <= passed <= 30 * 60_000


def test_an_even_load_at_the_limit_is_hardly_slowed():
    """One request per second at a limit of 60 per minute: after half an hour the last is at most 30 s late."""
    limit, state, now_s = RateLimit(requests_per_minute=60), EMPTY, 0.0
    for due_s in range(1800):
        state, now_s = admit_when_possible(limit, state, max(now_s, float(due_s)))
    assert now_s - 1799 <= 30


def test_a_request_that_leaves_later_counts_from_then_on():
    """Three a minute: admitted at 0 s and sent at 50 s they keep the fourth out until 111 s, not until 61 s."""
    limit, state = RateLimit(requests_per_minute=3), RateState()
    for _ in range(3):
        state, wait_s = limit.admit(state, now_s=0.0)
        assert wait_s == 0.0
    assert limit.admit(state, now_s=50.0)[1] == 11.0
    for _ in range(3):
        state = limit.moved(state, tokens=0, at_s=0.0, now_s=50.0)
    assert limit.admit(state, now_s=62.0)[1] == 111.0 - 62.0
    assert sum(slot.requests for slot in state.slots) == 3
    assert limit.moved(state, tokens=0, at_s=50.2, now_s=50.7) is state
