"""Edits as values: applied, composed, and told from two texts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from workbench.decide.edits import Edit, applied, between, composed


@given(st.data())
def test_composed_edits_do_what_both_do(data: Any):
    """Random edits of a random text, and random edits of the result."""

    def edits(text: str) -> list[Edit]:
        places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
        pairs = list(zip(places[::2], places[1::2], strict=False))
        return [
            Edit(start=a, before=text[a:b], after=data.draw(st.text("xyz", max_size=3)), reason="r") for a, b in pairs
        ]

    text = data.draw(st.text("abc", max_size=20))
    first = edits(text)
    middle = applied(text, first)
    second = edits(middle)
    whole = composed(text, first, middle, second)
    assert applied(text, whole) == applied(middle, second)
    assert all(text[e.start : e.end] == e.before for e in whole)
    assert all(a.end <= b.start for a, b in pairwise(whole))


@given(st.text("ab \n", max_size=12), st.text("ab \n", max_size=12))
def test_the_edit_between_two_texts_makes_one_of_the_other(original: str, text: str):
    """And declares nothing."""
    edits = between(original, text, "r")
    assert applied(original, edits) == text
    assert bool(edits) == (original != text)
    assert all(edit.before or not original for edit in edits)
