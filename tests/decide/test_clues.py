"""Clues in the responses to one item."""

from __future__ import annotations

import math

import numpy as np
import pytest

from workbench.decide.clues import CLUES, READ, arithmetic, clues_of

WRONG, RIGHT, LENGTH, SHARED = range(len(CLUES))


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("48/2=24, and <<48+24=72>>72", 2, 0),
        ("$1,200 x 3 = $3,600", 1, 0),
        ("10 - 4 = 5", 0, 1),
        ("7 / 0 = 3", 0, 0),
        ("10 / 3 = 3.33", 1, 0),  # 1 % off is rounding
        ("there is no equation, 5 and 6", 0, 0),
        ("2 ÷ 4 = 0.5 and 2 × 4 = 9", 1, 1),
    ],
)
def test_equations_are_checked(text: str, right: int, wrong: int):
    """Right and wrong ones are counted; a division by nothing is none."""
    assert arithmetic(text) == (right, wrong)


def test_each_response_is_compared_with_the_others():
    """Lengths relative to the item's mean logarithm, words as mean Jaccard similarity; no response is all 0."""
    found = clues_of(("a b c", "a b", None, "1 + 1 = 3"))
    assert found[2].tolist() == [0.0] * len(CLUES)
    lengths = [math.log(6), math.log(4), math.log(10)]
    assert found[[0, 1, 3], LENGTH] == pytest.approx(np.array(lengths) - sum(lengths) / 3)
    # {a, b, c} and {a, b} share 2 of 3 words; {1, 3} shares none with either.
    assert found[[0, 1, 3], SHARED] == pytest.approx([1 / 3, 1 / 3, 0.0])
    assert found[:, WRONG].tolist() == [0, 0, 0, 1]
    assert found[:, RIGHT].tolist() == [0, 0, 0, 0]


def test_one_response_alone_shares_nothing():
    """There is nobody to share with, and nothing is divided by."""
    assert clues_of(("2 + 2 = 4",)).tolist() == [[0.0, 1.0, 0.0, 0.0]]


def test_only_the_beginning_of_a_long_response_is_read():
    """A wrong equation beyond the limit is not seen, and a megabyte takes no longer than its beginning."""
    assert clues_of(("x" * READ + " 1 + 1 = 3", "y"))[0, WRONG] == 0
    assert clues_of(("1+" * 500_000, "9" * 1_000_000)).shape == (2, len(CLUES))


def test_what_is_handed_out_again_cannot_be_changed():
    """The array is shared by all who ask for the same texts."""
    with pytest.raises(ValueError, match="read-only"):
        clues_of(("a", "b"))[0, 0] = 1.0
