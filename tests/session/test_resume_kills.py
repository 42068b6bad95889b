"""A run that dies at any moment goes on, and pays for nothing twice."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.session.resuming import killed_run, place, uninterrupted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.crash,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked"),
]


def test_a_run_that_is_killed_at_random_moments_pays_for_nothing_twice(tmp_path: Path) -> None:
    """12 kills: no answer of the log is asked for again, every repetition has its key, and the report is the same."""
    chance, kills, repeated, phases = random.Random(11), 0, 0, set()
    with place(tmp_path) as (lab, process):
        expected = uninterrupted(lab, tmp_path / "whole")
        for number in range(12):
            seen = killed_run(
                lab, process, tmp_path / f"log{number}", chance=chance, kills=min(4, 12 - kills), expected=expected
            )
            assert (seen.again, seen.strange, seen.lost, seen.wrong) == ([], [], [], [])
            kills, repeated, phases = kills + seen.kills, repeated + seen.repeated, phases | set(seen.phases)
            if kills >= 12:
                break
    assert kills == 12
    assert "asking" in phases
    assert repeated > 0  # some were under way when their process died: asked again, under the key that they had
