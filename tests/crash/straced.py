"""Programs that run under strace: what they ask of the system, in order, and one such wish delayed or deadly."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETUP = """
import os, sys
from workbench.facts import Score, Span
from workbench.record.log import Log
def score(item):
    return Score(item_id=str(item), model="m", scorer="s", value=1.0, run_id="r")
def span(name):
    return Span(trace_id="t", span_id=str(name), parent_id=None, component="c", operation="o", start_unix_ns=1,
                duration_ms=1.0, ok=True)
def say(text):
    os.write(1, f"{text}\\n".encode())
"""


def program(code: str) -> str:
    """The code, with the log's names at hand."""
    return SETUP + textwrap.dedent(code)


def environment() -> dict[str, str]:
    """Where a program finds the package; without what measures it, whose files would be counted too."""
    return {k: v for k, v in os.environ.items() if not k.startswith("COV")} | {"PYTHONPATH": str(ROOT)}


def strace() -> str:
    """The path of strace; the test is skipped where it is missing or may not trace."""
    found = shutil.which("strace")
    if not found:
        pytest.skip("strace is not on the PATH: the order of system calls cannot be shown")
    if subprocess.run([found, "-o", os.devnull, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here: the order of system calls cannot be shown")
    return found


def started(options: Sequence[str], code: str, *args: object) -> subprocess.Popen[str]:
    """The program under strace with these options."""
    return subprocess.Popen(
        [strace(), "-f", "-qq", *options, sys.executable, "-c", program(code), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def ran(code: str, *args: object) -> str:
    """What a program prints, without strace; its failure fails the test."""
    command = [sys.executable, "-c", program(code), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(path: Path) -> list[str]:
    """The lines of a trace without the number of the process."""
    return [line.partition(" ")[2].strip() for line in path.read_text("utf-8", "replace").splitlines()]
