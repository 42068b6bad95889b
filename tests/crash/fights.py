"""Small editions of the benchmark `crash`, run as a program: who forks must have no threads of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def benchmark(folder: Path, *options: str, limit_s: float = 120.0) -> dict[str, Any]:
    """The values of its goals by name, but for the time it took, which says more of the machine than of the log."""
    place = folder / "fight"
    place.mkdir()
    command = [sys.executable, str(ROOT / "benchmarks" / "crash.py"), "--folder", str(place), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, env={**os.environ}, check=False)
    print(done.stdout, done.stderr)
    assert done.stdout, done.stderr
    assert not any(place.iterdir())
    return {r["name"]: r["value"] for r in json.loads(done.stdout.splitlines()[-1]) if r["name"] != "whole run"}
