"""Numbers of tokens: estimates, upper bounds, and reports that are believed, estimated or cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.decide.tokens import (
    DEFAULT_OUTPUT,
    LARGEST,
    counted,
    estimated_prompt,
    estimated_tokens,
    largest_output,
    largest_prompt,
)
from workbench.facts import Message, ModelCard, Usage

CARD = ModelCard(name="p:m")
HI = (Message(role="user", content="How many?"),)  # 9 bytes: 3 tokens, and 4 for role and separators


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("é" * 4, 2), ("世" * 4, 3), ("\ud800", 1)]
)
def test_an_estimate_is_a_token_for_every_four_bytes(text, tokens):
    """Rounded up, so that no text but the empty one has none; a lone surrogate counts too."""
    assert estimated_tokens(text) == tokens


def test_a_prompt_counts_every_message_and_its_frame():
    """4 more per message for the estimate, 8 for the most."""
    two = (Message(role="system", content="abcd"), Message(role="user", content="abcde"))
    assert estimated_prompt(two) == (1 + 4) + (2 + 4)
    assert largest_prompt(two) == (4 + 8) + (5 + 8)
    assert estimated_prompt(()) == largest_prompt(()) == 0


@given(st.lists(st.text()))
def test_the_most_is_never_less_than_the_estimate(texts):
    """A token is at least one byte: no reservation is too small for an estimate."""
    messages = tuple(Message(role="user", content=text) for text in texts)
    assert largest_prompt(messages) >= estimated_prompt(messages)


@pytest.mark.parametrize(
    ("params", "limit", "expected"),
    [
        ({"max_tokens": 7}, None, 7),
        ({"max_tokens": 10**6}, 100, 10**6),
        ({}, 100, 100),
        ({}, None, DEFAULT_OUTPUT),
        ({}, 10**6, 10**6),
        ({"max_tokens": 0}, 100, 100),
        ({"max_tokens": -5}, 100, 100),
        ({"max_tokens": True}, 100, 100),
        ({"max_tokens": "7"}, 100, 100),
        ({"max_tokens": 7.0}, 100, 7),
        ({"max_tokens": np.int64(30_000)}, 100, 30_000),
        ({"max_completion_tokens": 30_000}, 100, 30_000),
        ({"n_predict": 300}, 100, 300),
        ({"generationConfig": {"maxOutputTokens": 300}}, 100, 300),
        ({"max_tokens": 5, "max_completion_tokens": 50}, 100, 50),
        ({"generationConfig": "odd"}, 100, 100),
        ({"max_tokens": 10**400}, 100, LARGEST),
        ({"max_tokens": float("inf")}, 100, LARGEST),
        ({"max_tokens": float("nan")}, 100, 100),
    ],
)
def test_the_longest_answer_is_what_the_request_says_or_the_model_allows(params, limit, expected):
    """Under any of its names, below LARGEST; what is no number > 0 says nothing, and of two the larger counts."""
    assert largest_output(params, ModelCard(name="p:m", max_output_tokens=limit)) == expected


def booked(prompt, completion, *, total=None, cached=None, text="abcde", limit=100, card=CARD):
    """The counts and flags for a report about HI."""
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached)
    made = counted(usage, total, messages=HI, text=text, limit=limit, card=card)
    return made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.cached_tokens, made.flags


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ((10, 5), (10, 5, None, ())),
        ((0, 5), (7, 5, None, ("usage_estimated",))),
        ((10, 0), (10, 2, None, ("usage_estimated",))),
        ((None, None), (7, 2, None, ("usage_estimated",))),
        ((10, None), (10, 2, None, ("usage_estimated",))),
        ((None, 5), (7, 5, None, ("usage_estimated",))),
        ((-1, 5), (7, 5, None, ("usage_estimated",))),
        ((True, 5), (7, 5, None, ("usage_estimated",))),
        ((10.0, "5"), (7, 2, None, ("usage_estimated",))),
    ],
)
def test_missing_negative_and_wrong_counts_are_estimated(reported, expected):
    """What is there is believed, the rest is estimated from the bytes, and the flag says so."""
    assert booked(*reported) == expected


def test_a_count_of_zero_is_believed_only_of_nothing():
    """An answer without text has no tokens; a prompt with text has some, whatever is reported."""
    assert booked(10, 0, text="") == (10, 0, None, ())
    silent = (Message(role="user", content=""),)
    made = counted(Usage(prompt_tokens=0, completion_tokens=5), None, messages=silent, text="x", limit=9, card=CARD)
    assert (made.usage.prompt_tokens, made.flags) == (0, ())


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (15, (10, 5, None, ())),
        (99, (10, 89, None, ())),  # some providers count reasoning in the total only, and charge for it
        (14, (10, 5, None, ("usage_capped",))),
        (0, (10, 5, None, ("usage_capped",))),
        (-1, (10, 5, None, ())),
        (None, (10, 5, None, ())),
    ],
)
def test_a_report_above_its_own_total_contradicts_itself(total, expected):
    """10 + 5 within what the request allows stay, flagged where the total is less; a larger total is believed."""
    assert booked(10, 5, total=total) == expected


def test_counts_that_no_model_reaches_are_cut_to_what_the_request_allows():
    """Prompt to its bytes and frame, answer to max_tokens."""
    assert booked(10**9, 5) == (17, 5, None, ("usage_capped",))
    assert booked(10, 10**9) == (10, 100, None, ("usage_capped",))
    assert booked(LARGEST, LARGEST) == (LARGEST, LARGEST, None, ())
    small = ModelCard(name="p:m", context_window=50)
    assert booked(51, 5, card=small) == (17, 5, None, ("usage_capped",))
    assert booked(50, 1000, card=small) == (50, 1000, None, ())  # reasoning may exceed max_tokens, up to ten times
    assert booked(50, 1001, card=small) == (17, 100, None, ("usage_capped",))
    # A text that is there was written: 20,000 bytes are no 100 tokens, whatever the limit was taken for.
    assert booked(10, 10**9, text="x" * 20_000) == (10, 5_000, None, ("usage_capped",))


@pytest.mark.parametrize(
    ("cached", "kept"), [(0, 0), (4, 4), (10, 10), (11, 10), (-1, None), (None, None), ("4", None)]
)
def test_no_more_is_cached_than_was_sent(cached, kept):
    """Cached tokens are part of the prompt's."""
    assert booked(10, 5, cached=cached)[2] == kept


COUNT = st.none() | st.integers(-(10**20), 10**20) | st.booleans() | st.floats() | st.text(max_size=3)


@given(COUNT, COUNT, COUNT, COUNT, st.integers(1, 10**6), st.none() | st.integers(1, 10**7))
def test_whatever_is_reported_is_booked_as_counts_within_bounds(prompt, completion, cached, total, limit, window):
    """No report makes a count negative, unknown or unbounded."""
    card = ModelCard(name="p:m", context_window=window)
    made = booked(prompt, completion, cached=cached, total=total, limit=limit, card=card)
    assert 0 <= made[0] <= max(window or LARGEST, 17)
    assert 0 <= made[1] <= max(10 * limit, window or LARGEST)
    assert made[2] is None or 0 <= made[2] <= made[0]
