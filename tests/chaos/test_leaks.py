"""What many calls leave behind in a process: nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.mill import CANCELS

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "leaks.py"
CALLS = 600


@pytest.mark.slow
def test_calls_with_faults_and_cancellations_leave_nothing_behind():
    """600 calls, 30 % of the requests broken, 10 % cancelled: tasks, threads and descriptors are as before.

    In a process of their own: what earlier tests let go of late would hide a leak, or look like one.
    """
    command = [sys.executable, BENCHMARK, "--calls", str(CALLS)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    found = {result["name"]: result["value"] for result in json.loads(made.stdout.splitlines()[-1])}
    assert found.pop("memory gained") <= 20
    assert found == {"tasks left": 0, "threads left": 0, "descriptors left": 0}
    accepted, faults = (sum(map(int, re.findall(rf"{what} (\d+)", made.stdout))) for what in ("accepted", r"fault \S+"))
    assert 0.2 < faults / accepted < 0.4
    assert int(re.search(r"'cancelled': (\d+)", made.stdout)[1]) > CALLS * CANCELS / 2
