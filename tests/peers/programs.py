"""Programs of others as test peers: each in an environment of its own, run on a free loopback port.

An environment is made once in `.peers/NAME-VERSION` and kept; what cannot be made is a reason to skip. A program runs
with no account, no key of the developer's, a home of its own, and a proxy at which nobody listens, so that it reaches
this machine and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[2] / ".peers"
INSTALL_S, START_S, STOP_S = 600, 90, 10
NOWHERE = "http://127.0.0.1:9"  # the discard port, where nothing listens


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A pinned program. kind: `python` or `node`. requirement: what is installed, as its installer writes it."""

    name: str
    version: str
    kind: str
    requirement: str

    @property
    def folder(self) -> Path:
        """Where its environment is."""
        return CACHE / f"{self.name}-{self.version}"

    def script(self, name: str) -> Path:
        """One of its commands."""
        if self.kind == "node":
            return self.folder / "node_modules" / ".bin" / name
        return self.folder / ("Scripts" if os.name == "nt" else "bin") / name


LITELLM = Program(name="litellm", version="1.106.2", kind="python", requirement="litellm[proxy]==1.106.2")
LLMOCK = Program(name="llmock", version="0.2.2", kind="python", requirement="llmock==0.2.2")
AIMOCK = Program(name="aimock", version="1.43.0", kind="node", requirement="@copilotkit/aimock@1.43.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A running program. bases: the base_url of each wire format. key: the one that it takes, or None."""

    name: str
    url: str
    bases: Mapping[str, str]
    key: str | None = None
    log: Path = field(repr=False)

    def base(self, wire: str) -> str:
        """The base_url of a wire format."""
        return self.url + self.bases[wire]

    def post(self, path: str, document: object) -> None:
        """Send a document to the program's own controls."""
        request = urllib.request.Request(self.url + path, json.dumps(document).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()


def installed(program: Program) -> Program:
    """The program with its environment made; skips the test, with the reason, where it cannot be."""
    stamp = program.folder / "installed.json"
    wanted = json.dumps({"requirement": program.requirement, "python": sys.version.split()[0]})
    if stamp.is_file() and stamp.read_text("utf-8") == wanted:
        return program
    stamp.unlink(missing_ok=True)
    for command in _steps(program):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"no environment for {program.requirement}: {type(error).__name__} in {command[0]}")
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if " error " in line.lower() or "ERROR" in line]
            pytest.skip(f"no environment for {program.requirement}: {(said or ['it gave no reason'])[0][:200]}")
    # Written last: an interrupted installation is made again.
    stamp.write_text(wanted, "utf-8")
    return program


def _steps(program: Program) -> Sequence[Sequence[str]]:
    folder = str(program.folder)
    if program.kind == "node":
        program.folder.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm") or "npm"
        # What a package wants to run at its installation is not run.
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        return [[npm, "install", *options, "--prefix", folder, program.requirement]]
    python = str(program.script("python"))
    if uv := shutil.which("uv"):
        make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder]
        return [make, [uv, "pip", "install", "--quiet", "--python", python, program.requirement]]
    install = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", program.requirement]
    return [[sys.executable, "-m", "venv", "--clear", folder], install]


@contextmanager
def running(
    name: str, command: Sequence[str | Path], *, port: int, health: str, home: Path, **environment: str
) -> Iterator[Path]:
    """Run a program until the block ends; gives its log when `health`, a path, has answered."""
    log = home / f"{name}.log"
    kept = {k: os.environ[k] for k in ("PATH", "SYSTEMROOT", "LANG", "TMPDIR") if k in os.environ}
    closed = {"HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "ALL_PROXY": NOWHERE, "NO_PROXY": "127.0.0.1,localhost"}
    closed |= {name.lower(): value for name, value in closed.items()}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=home,
            env={**kept, **closed, "HOME": str(home), **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait(f"http://127.0.0.1:{port}{health}", process, log)
            yield log
        finally:
            _stop(process)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"{address} did not answer:\n{log.read_text('utf-8', 'replace')[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=STOP_S)


def free_port() -> int:
    """A port of loopback that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
