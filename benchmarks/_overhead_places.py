"""Environments for the clients of others: made once under `.peers`, beside those of the tests, with pinned versions.

litellm needs an openai package below 3 and the SDK that is compared is 3, so that one environment cannot hold both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).resolve().parents[1] / ".peers"
INSTALL_S = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An environment. requirements: pinned. clients: who runs in it."""

    name: str
    requirements: tuple[str, ...]
    clients: tuple[str, ...]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return PEERS / self.name / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def made(self) -> str | None:
        """Make the environment where it is not there yet; what is in the way, or None."""
        stamp = PEERS / self.name / "installed.json"
        wanted = json.dumps({"requirement": " ".join(self.requirements), "python": sys.version.split()[0]})
        if stamp.is_file() and stamp.read_text("utf-8") == wanted:
            return None
        stamp.unlink(missing_ok=True)
        print(f"making .peers/{self.name}: {', '.join(self.requirements)} ...", flush=True)
        install = [str(self.python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(PEERS / self.name)],
            [*install, *self.requirements],
        ):
            if problem := _problem(command):
                return problem
        # Written last: an interrupted installation is made again.
        stamp.write_text(wanted, "utf-8")
        return None


def _problem(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__} in {' '.join(command[:4])}"
    if not done.returncode:
        return None
    said = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()[-1:]
    return (said or ["it gave no reason"])[0][:200]


PLACES = (
    Place(name="httpx-0.28.1", requirements=("httpx==0.28.1",), clients=("httpx",)),
    Place(
        name="clients-1",
        requirements=(
            "openai==3.52.0",
            "inspect-ai==0.3.285",
            "httpx==0.28.1",
            "httpx-aiohttp==0.2.0",
            "aiohttp==3.14.5",
        ),
        clients=("httpx-sniffio", "httpx-aiohttp", "aiohttp", "openai", "inspect"),
    ),
    # The same environment as that of tests/peers/programs.py, whose proxy needs the extra.
    Place(name="litellm-1.106.2", requirements=("litellm[proxy]==1.106.2",), clients=("litellm", "router")),
)
