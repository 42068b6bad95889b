"""The public names of the package are the ones it lists, and each of them is there."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import workbench


def test_the_public_names_are_sorted_and_unique() -> None:
    """A reader finds a name where the alphabet puts it."""
    assert list(workbench.__all__) == sorted(set(workbench.__all__))


@pytest.mark.parametrize("name", workbench.__all__)
def test_a_public_name_can_be_imported_and_is_documented(name: str) -> None:
    """Every listed name loads, and says what it is."""
    value = getattr(workbench, name)
    if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
        assert inspect.getdoc(value)


def test_dir_lists_what_is_public() -> None:
    """Completion in a notebook offers the public names and nothing else."""
    offered = {name for name in dir(workbench) if not name.startswith("_")}
    assert offered == {name for name in workbench.__all__ if not name.startswith("_")}


def test_a_star_import_works_in_a_fresh_process() -> None:
    """Loading on first use also serves `from workbench import *`."""
    program = "from workbench import *; import workbench; print(set(workbench.__all__) - set(globals()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name fails as any other attribute does."""
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = workbench.no_such_name
