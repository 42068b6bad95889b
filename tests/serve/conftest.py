"""A lab for the tests of a module; what outlives a test is somebody's leak."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serve.calls import one_set_of_authorities
from workbench.serve.lab import FaultLab


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[FaultLab]:
    """A running lab whose models answer at once."""
    with FaultLab(latency=0) as running:
        yield running


@pytest.fixture
def lab(shared_lab: FaultLab) -> Iterator[FaultLab]:
    """The lab, healed and with empty counts."""
    shared_lab.heal()
    shared_lab.reset()
    yield shared_lab
    assert shared_lab.quiet(), f"{shared_lab.open_now} connections are still open"


@pytest.fixture(scope="package", autouse=True)
def _authorities() -> Iterator[None]:
    with one_set_of_authorities():
        yield
