"""The names that `workbench.show` offers are the ones it lists, and each of them is there."""

from __future__ import annotations

import inspect

import pytest

from workbench import show
from workbench.show.prompts import prompt_diff


def test_the_names_are_sorted_and_unique() -> None:
    """A reader finds a name where the alphabet puts it, and completion offers the same."""
    assert show.__all__ == sorted(set(show.__all__)) == dir(show)


@pytest.mark.parametrize("name", show.__all__)
def test_a_name_loads_and_is_documented(name: str) -> None:
    """Every listed name has a home, and says what it is."""
    assert inspect.getdoc(getattr(show, name))


def test_prompts_are_compared_by_show() -> None:
    """As the documentation of prompts does."""
    assert "prompt_diff" in show.__all__
    assert show.prompt_diff is prompt_diff


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name fails as any other attribute does."""
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = show.no_such_name
