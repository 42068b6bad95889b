"""Real processes that tests start: where they find the package, and their end."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORKS = ("os.fork", "multiprocessing")


def environment(code: str = "") -> dict[str, str]:
    """The environment of a program with this code.

    One that forks is not measured: a lock of coverage that another thread holds at that moment is held in the child for
    ever.
    """
    measured = not any(word in code for word in FORKS)
    inherited = {k: v for k, v in os.environ.items() if measured or not k.startswith("COV")}
    return {**inherited, "PYTHONPATH": str(ROOT)}


def ended(process: subprocess.Popen[str], said: str | None = None, *, timeout_s: float = 30) -> tuple[str, str]:
    """What a process prints to its end, on both ways, after it was told something; one that hangs fails the test."""
    try:
        return process.communicate(said, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            found = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            found = ("", "a child of it holds its pipes")
    pytest.fail(f"the process still runs after {timeout_s} s: {found}")


def output(process: subprocess.Popen[str], said: str | None = None, *, timeout_s: float = 30) -> str:
    """What a process prints; a failure or a hang of it fails the test."""
    out, err = ended(process, said, timeout_s=timeout_s)
    assert process.returncode == 0, err
    return out
