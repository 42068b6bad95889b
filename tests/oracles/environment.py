"""Environments of reference implementations, made as those of the peers: once, in `.peers/oracles-NAME`."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peers.programs import CACHE, INSTALL_S, Program, installed
from workbench.record.lock import locked

RUN_S = 600


def python(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of an environment with pinned requirements; skips, with the reason, where there can be none."""
    wanted = "\n".join(requirements)
    CACHE.mkdir(exist_ok=True)
    # Named by its content: another pin makes the environment again.
    listing = CACHE / f"oracles-{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}.txt"
    listing.write_text(wanted, "utf-8")
    program = Program(name="oracles", version=name, kind="python", requirement=f"--requirement={listing}")
    with locked(CACHE / f"oracles-{name}.lock", timeout_s=2 * INSTALL_S):  # workers of pytest-xdist come together
        return installed(program).script("python")


def answer(interpreter: Path, script: Path, question: object) -> Any:
    """What a script prints, as JSON, for the JSON that it is given on its standard input."""
    done = subprocess.run(
        [interpreter, "-I", script],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
