"""The commands of a developer, the same on Linux, macOS and Windows; needs only Python >= 3.11.

    python3 dev.py demo              the main job, offline, on simulated models
    python3 dev.py test [ARGS]       check, all tests with coverage thresholds, the notebooks; --browser adds the
                                     browser tests, --crash those that kill processes over and over, --long those
                                     that take tens of seconds each, --fast runs only the quick ones, --peers only
                                     those that call servers of others; ARGS go to pytest, and when they select
                                     tests (a path, -k, -m, --lf) nothing else is run
    python3 dev.py check             format, lint, import contracts, types
    python3 dev.py lab               JupyterLab on 127.0.0.1
    python3 dev.py bench [NAME]      a benchmark, or the list of them
    python3 dev.py lock              make requirements.lock again (needs uv; --upgrade for newer versions)

Each makes or mends `.venv` beside this file first: from requirements.lock, with uv if there is one, else pip.
What follows `--` is passed on as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "installed.json"
OLDEST = (3, 11)
TEST_OPTIONS = ("--browser", "--crash", "--long", "--fast", "--peers")
LINT_IMPORTS = "from importlinter.cli import lint_imports_command as lint; lint()"
CHECKS = {
    "format": ["-m", "ruff", "format", "--check", "."],
    "lint": ["-m", "ruff", "check", "."],
    "imports": ["-c", LINT_IMPORTS, "--no-logo"],
    "types": ["-m", "mypy"],
}
LOCK_COMMAND = [
    "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-emit-index-url", "--no-header",
    "--python-version", "3.11", "pyproject.toml", "--extra", "dev", "--output-file", LOCK.name,
]  # fmt: skip
# What makes the outputs of a notebook the same in every run.
NOTEBOOK_ENVIRONMENT = {"PLOTLY_RENDERER": "plotly_mimetype", "TQDM_DISABLE": "1", "PYTHONHASHSEED": "0"}


class CommandError(Exception):
    """What went wrong and what to do next; ends the command without a traceback."""


# -- the environment


def venv_python(folder: Path = VENV, os_name: str = os.name) -> Path:
    """The interpreter inside a virtual environment."""
    return folder / ("Scripts/python.exe" if os_name == "nt" else "bin/python")


def run(command: Sequence[str | Path], **environment: str) -> int:
    """Run a command from the repository root with the environment's programs first; its exit code."""
    sys.stdout.flush()
    path = os.pathsep.join([str(venv_python().parent), os.environ.get("PATH", "")])
    # uv trusts only its own list of certificate authorities unless it is told to ask the system.
    trust = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}
    inside = {**trust, **os.environ, "VIRTUAL_ENV": str(VENV), "PATH": path, **environment}
    return subprocess.call([str(part) for part in command], cwd=ROOT, env=inside)


def must(command: Sequence[str | Path], purpose: str) -> None:
    """Run a command that has to succeed."""
    if code := run(command):
        raise CommandError(f"{purpose} failed with exit code {code}: {' '.join(str(part) for part in command)}")


def wanted_stamp() -> dict[str, str]:
    """What an up-to-date environment is made from: the lock, the package's metadata and the place of both."""
    project = (ROOT / "pyproject.toml").read_bytes() + str(ROOT).encode()
    return {"lock": hashlib.sha256(LOCK.read_bytes()).hexdigest(), "project": hashlib.sha256(project).hexdigest()}


def found_stamp() -> dict[str, str]:
    """What the environment was made from; empty when it was never finished."""
    try:
        return dict(json.loads(STAMP.read_text("utf-8")))
    except (OSError, ValueError):
        return {}


def prepare() -> None:
    """Make the environment, or install again what changed; does nothing when all is up to date."""
    wanted, found = wanted_stamp(), found_stamp()
    works = venv_python().exists() and run([venv_python(), "-c", ""]) == 0
    if works and found == wanted:
        return
    # An interrupted installation leaves no stamp, so the next command starts it again.
    STAMP.unlink(missing_ok=True)
    uv = shutil.which("uv")
    if not works:
        print(f"making .venv with Python {sys.version.split()[0]} ...", flush=True)
        make = [uv, "venv", "--quiet", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
        must([*make, "--clear", VENV], "making .venv (does this Python have its venv package?)")
    if not works or found.get("lock") != wanted["lock"]:
        print(f"installing {LOCK.name} into .venv with {'uv' if uv else 'pip'} ...", flush=True)
        # uv also removes what the lock does not name. The lock is whole, so pip has nothing to resolve: asked to, an
        # older pip takes the newest release behind an extra, and refuses it for want of a hash.
        how = [uv, "pip", "sync", "--python", venv_python()] if uv else [*pip(), "install", "--no-deps", "-r"]
        must([*how, LOCK, "--quiet", "--require-hashes"], "installing the locked packages")
    print("installing workbench itself (editable) ...", flush=True)
    how = [uv, "pip", "install", "--python", venv_python()] if uv else [*pip(), "install"]
    must([*how, "--quiet", "--no-deps", "--no-build-isolation", "-e", "."], "installing workbench")
    STAMP.write_text(json.dumps(wanted), "utf-8")


def pip() -> list[str | Path]:
    """The environment's own pip, put there first when uv made the environment without one."""
    if run([venv_python(), "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('pip') is None)"]):
        must([venv_python(), "-m", "ensurepip"], "putting pip into .venv")
    return [venv_python(), "-m", "pip", "--disable-pip-version-check"]


# -- the commands


def demo(args: Sequence[str]) -> int:
    """Run the headline job of the package."""
    return run([venv_python(), "-m", "workbench.cli", "demo", *args])


def lab(args: Sequence[str]) -> int:
    """Open JupyterLab on this machine only."""
    as_root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return run([venv_python(), "-m", "jupyterlab", "--ip=127.0.0.1", f"--ServerApp.root_dir={ROOT}", *as_root, *args])


def bench(args: Sequence[str]) -> int:
    """Run benchmarks/NAME.py, or list what there is."""
    names = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_"))
    if args and args[0] not in names:
        raise CommandError(f"no benchmark {args[0]!r}; there are: {', '.join(names) or 'none'}")
    if args:
        return run([venv_python(), ROOT / "benchmarks" / f"{args[0]}.py", *args[1:]])
    print("\n".join(names) or "no benchmarks yet")
    return 0


def lock(args: Sequence[str]) -> int:
    """Make requirements.lock again: universal, hashed, without the address of any registry."""
    if not shutil.which("uv"):
        raise CommandError("`lock` needs uv on the PATH")
    must([*LOCK_COMMAND, *args], "resolving the dependencies")
    if "://" in (text := LOCK.read_text("utf-8")):
        raise CommandError(f"{LOCK.name} contains an address; find the requirement that brings it")
    print(f"{LOCK.name}: {sum(line[:1].isalnum() for line in text.splitlines())} pinned requirements")
    return 0


def check(args: Sequence[str]) -> int:
    """Run every check, also after a failure."""
    if args:
        raise CommandError(f"`check` takes no arguments, got {' '.join(args)}")
    start = time.monotonic()
    failed = failed_checks()
    counts = {"failed": len(failed), "passed": len(CHECKS) - len(failed)}
    return close(counts, failed, time.monotonic() - start)


def test(args: Sequence[str]) -> int:
    """Run the checks, the tests with the coverage thresholds, and the notebooks; also after a failure."""
    start = time.monotonic()
    own, passed_on = split_at_dashes(args)
    browser, crash, long, fast, peers = (option in own for option in TEST_OPTIONS)
    chosen = [arg for arg in own if arg not in TEST_OPTIONS] + passed_on
    out = {"browser": not browser, "crash": not crash, "long": not long, "slow": fast, "peers": True}
    left_out = [mark for mark in out if out[mark]]
    marks = ["-m", "peers" if peers else " and ".join(f"not {mark}" for mark in left_out)]
    full = not (fast or peers or selects(chosen))
    failed = failed_checks() if full else []
    counts = Counter(errors=len(failed))
    with tempfile.TemporaryDirectory(prefix="workbench-test-") as folder:
        results = Path(folder)
        (ROOT / "coverage.json").unlink(missing_ok=True)
        coverage = ["--cov", "--cov-report=term", "--cov-report=json"] if full else []
        workers = [] if selects(chosen) else ["--numprocesses=auto", "--dist=worksteal"]
        if not pytest("tests", [*marks, *coverage, *workers, *chosen], results, counts):
            failed.append("tests")
        if full and run([venv_python(), ROOT / "tests" / "coverage_gate.py"]):
            failed.append("coverage")
            counts["errors"] += 1
        if full and not notebooks(results, counts):
            failed.append("notebooks")
    return close(counts, failed, time.monotonic() - start)


def failed_checks() -> list[str]:
    """The names of the checks that do not pass."""
    failed = []
    for name, command in CHECKS.items():
        print(f"-- {name}", flush=True)
        if run([venv_python(), *command]):
            failed.append(name)
    return failed


def notebooks(results: Path, counts: Counter[str]) -> bool:
    """Run each notebook and compare its outputs with the committed ones; the log goes to a throwaway folder."""
    files = sorted((ROOT / "notebooks").glob("*.ipynb"))
    if not files:
        print("-- notebooks: there are none", flush=True)
        return True
    rules = ROOT / "tests" / "notebooks" / "sanitize.cfg"
    sanitize = [f"--nbval-sanitize-with={rules}"] if rules.is_file() else []
    options = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=300", *sanitize, *map(str, files)]
    environment = {**NOTEBOOK_ENVIRONMENT, "WORKBENCH_LOG": str(results / "log")}
    return pytest("notebooks", options, results, counts, **environment)


def pytest(name: str, args: Sequence[str], results: Path, counts: Counter[str], **environment: str) -> bool:
    """Whether pytest passed; adds what it counted to `counts`, where a pytest that broke is one error."""
    print(f"-- {name}", flush=True)
    report = results / f"{name}.xml"
    code = run([venv_python(), "-m", "pytest", f"--junitxml={report}", *args], **environment)
    found = counted(report) if report.is_file() else Counter()
    if code and not found["failed"] + found["errors"]:
        found["errors"] += 1
    counts.update(found)
    return code == 0


# -- arguments and counts


def split_at_dashes(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments before the first `--`, and those after it."""
    at = list(args).index("--") if "--" in args else len(args)
    return list(args[:at]), list(args[at + 1 :])


def selects(pytest_args: Sequence[str]) -> bool:
    """Whether arguments for pytest choose some of the tests, so that totals would mean nothing."""
    options = ("-k", "-m", "--lf", "--last-failed", "--deselect", "--ignore")
    places = (arg.partition("::")[0] for arg in pytest_args if not arg.startswith("-"))
    return any(arg.startswith(options) for arg in pytest_args) or any((ROOT / place).exists() for place in places)


def counted(report: Path) -> Counter[str]:
    """How many tests passed, failed, broke, were skipped, and were skipped for want of recordings (JUnit XML)."""
    counts: Counter[str] = Counter()
    for case in ET.parse(report).iter("testcase"):
        said = {child.tag: child.get("message", "") for child in case}
        names = {"error": "errors", "failure": "failed", "skipped": "skipped"}
        counts[next((names[tag] for tag in names if tag in said), "passed")] += 1
        counts["without recordings"] += "WORKBENCH_RECORDINGS" in said.get("skipped", "")
    return counts


def closing_line(counts: Mapping[str, int], seconds: float) -> str:
    """What happened, in the form of pytest's own last line."""
    names = [name for name in ("failed", "passed", "skipped", "errors") if counts.get(name)]
    said = [f"{counts[name]} {'error' if (name, counts[name]) == ('errors', 1) else name}" for name in names]
    return f"===== {', '.join(said) or 'no tests ran'} in {seconds:.2f}s ====="


def close(counts: Mapping[str, int], failed: Sequence[str], seconds: float) -> int:
    """Say what failed and what was not run, then the closing line; the exit code."""
    if missing := counts.get("without recordings"):
        print(f"{missing} recording tests were not run: no recordings at $WORKBENCH_RECORDINGS")
    if failed:
        print(f"failed: {', '.join(failed)}")
    print(closing_line(counts, seconds), flush=True)
    return 1 if failed else 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {f.__name__: f for f in (demo, test, check, lab, bench, lock)}


def main(arguments: Sequence[str]) -> int:
    """Run one command; its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    name, args = arguments[0], list(arguments[1:])
    if sys.version_info < OLDEST:
        raise CommandError(f"workbench needs Python {OLDEST[0]}.{OLDEST[1]} or newer, this is {sys.version.split()[0]}")
    if name not in COMMANDS:
        raise CommandError(f"no command {name!r}; there are: {', '.join(COMMANDS)}")
    if name != "lock":
        prepare()
    return COMMANDS[name](args[1:] if name != "test" and args[:1] == ["--"] else args)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CommandError as stop:
        print(f"dev.py: {stop}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
