"""dev.py and the coverage gate: what they decide, and what the built package holds."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import coverage_gate
import dev

ROOT = Path(dev.__file__).resolve().parent


class Recorder:
    """Stands in for `dev.run`: keeps the commands, and fails those that contain a word."""

    def __init__(self, failing: str | None = None) -> None:
        self.commands: list[str] = []
        self.failing = failing

    def __call__(self, command: Sequence[str | Path], **environment: str) -> int:
        self.commands.append(" ".join(str(part) for part in command))
        return int(self.failing is not None and self.failing in self.commands[-1])

    def count(self, word: str) -> int:
        """How many commands contained a word."""
        return sum(word in command for command in self.commands)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder of its own, with an environment that seems to work."""
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text(name, "utf-8")
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    monkeypatch.setattr(dev, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(dev, "LOCK", tmp_path / "requirements.lock")
    monkeypatch.setattr(dev, "STAMP", tmp_path / ".venv" / "installed.json")
    interpreter = tmp_path / ".venv" / "python"
    interpreter.parent.mkdir()
    interpreter.touch()
    monkeypatch.setattr(dev, "venv_python", lambda: interpreter)
    monkeypatch.setattr(dev.shutil, "which", lambda name: name)
    return tmp_path


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Commands are kept instead of run."""
    recorder = Recorder()
    monkeypatch.setattr(dev, "run", recorder)
    return recorder


# -- the environment


def test_it_needs_the_standard_library_only() -> None:
    """A fresh machine can run it before anything is installed."""
    tree = ast.parse((ROOT / "dev.py").read_text("utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize(("os_name", "where"), [("nt", "Scripts/python.exe"), ("posix", "bin/python")])
def test_the_interpreter_is_found_on_every_system(os_name: str, where: str) -> None:
    """Windows keeps it in Scripts, the others in bin."""
    assert dev.venv_python(Path("env"), os_name) == Path("env") / where


def test_a_first_preparation_installs_the_lock_and_the_package(folder: Path, recorder: Recorder) -> None:
    """A second one, with nothing changed, installs nothing."""
    dev.prepare()
    assert (recorder.count("sync"), recorder.count("-e .")) == (1, 1)
    dev.prepare()
    assert (recorder.count("sync"), recorder.count("-e .")) == (1, 1)


def test_a_changed_lock_is_installed_again(folder: Path, recorder: Recorder) -> None:
    """The stamp holds the hash of the lock; the package follows, for uv removes what the lock does not name."""
    dev.prepare()
    dev.LOCK.write_text("other", "utf-8")
    dev.prepare()
    assert (recorder.count("sync"), recorder.count("-e .")) == (2, 2)


def test_changed_metadata_reinstall_only_the_package(folder: Path, recorder: Recorder) -> None:
    """A new console script needs no new download."""
    dev.prepare()
    (folder / "pyproject.toml").write_text("other", "utf-8")
    dev.prepare()
    assert (recorder.count("sync"), recorder.count("-e .")) == (1, 2)


def test_a_moved_folder_reinstalls_the_package(folder: Path, recorder: Recorder) -> None:
    """An editable install points to a place, so the place is in the stamp."""
    dev.prepare()
    stamp = json.loads(dev.STAMP.read_text("utf-8"))
    dev.STAMP.write_text(json.dumps({**stamp, "project": "of another folder"}), "utf-8")
    dev.prepare()
    assert (recorder.count("sync"), recorder.count("-e .")) == (1, 2)


def test_a_failed_installation_is_tried_again(folder: Path, recorder: Recorder) -> None:
    """The stamp is written only after success."""
    recorder.failing = "-e ."
    with pytest.raises(dev.CommandError, match="installing workbench failed"):
        dev.prepare()
    recorder.failing = None
    dev.prepare()
    assert recorder.count("sync") == 2


def test_without_uv_pip_installs_the_lock(folder: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are required either way, and nothing is resolved again: a newer release of a package changes nothing."""
    monkeypatch.setattr(dev.shutil, "which", lambda name: None)
    dev.prepare()
    assert recorder.count("uv ") == 0
    [installs] = [command for command in recorder.commands if "-m pip" in command and "requirements.lock" in command]
    assert "--require-hashes" in installs
    assert "--no-deps" in installs


def test_a_broken_environment_is_made_again(folder: Path, recorder: Recorder) -> None:
    """An interpreter that no longer starts means a new .venv."""
    recorder.failing = "python -c"
    dev.prepare()
    assert recorder.count("uv venv") == 1


# -- arguments


def test_arguments_after_dashes_are_kept_apart() -> None:
    """They are pytest's, even when they look like our own."""
    assert dev.split_at_dashes(["--fast", "--", "--browser", "--"]) == (["--fast"], ["--browser", "--"])
    assert dev.split_at_dashes(["-x"]) == (["-x"], [])


@pytest.mark.parametrize("args", [["tests/test_dev.py"], ["tests/test_dev.py::test_x"], ["-k", "x"], ["--lf"]])
def test_a_selection_is_recognised(args: list[str]) -> None:
    """Totals such as coverage mean nothing for some of the tests."""
    assert dev.selects(args)


@pytest.mark.parametrize("args", [[], ["-x"], ["-q", "--maxfail=2"], ["-p", "no:cacheprovider"]])
def test_other_arguments_are_no_selection(args: list[str]) -> None:
    """The whole of the tests is still run."""
    assert not dev.selects(args)


def test_an_unknown_command_lists_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip of the finger costs no installation."""
    monkeypatch.setattr(dev, "prepare", lambda: pytest.fail("prepared"))
    with pytest.raises(dev.CommandError, match="demo, test, check, lab, bench, lock"):
        dev.main(["tset"])


NO_LONG = "not crash and not long"


@pytest.mark.parametrize(
    ("args", "wanted", "unwanted"),
    [
        ([], [f"not browser and {NO_LONG} and not peers", "--cov ", "mypy", "coverage_gate.py"], ["not slow"]),
        (["--browser", "--crash", "--long"], ["-m not peers --cov "], ["not browser", "not crash", "not long"]),
        (["--browser"], [f"-m {NO_LONG} and not peers --cov "], ["not browser"]),
        (["--peers"], ["-m peers"], ["not ", "--cov", "mypy", "coverage_gate.py", "--nbval", "--peers"]),
        (["--peers", "tests"], ["-m peers tests"], ["not ", "--cov"]),
        (["--fast"], [f"not browser and {NO_LONG} and not slow"], ["--cov", "mypy", "coverage_gate.py", "--nbval"]),
        (["tests"], ["not browser"], ["--cov", "mypy", "coverage_gate.py", "--nbval"]),
    ],
)  # fmt: skip
def test_the_parts_of_a_test_run(
    folder: Path, recorder: Recorder, args: list[str], wanted: list[str], unwanted: list[str]
) -> None:
    """Everything by default, less on request."""
    (folder / "tests").mkdir()
    assert dev.test(args) == 0
    assert [word for word in wanted if not recorder.count(word)] == []
    assert [word for word in unwanted if recorder.count(word)] == []


@pytest.mark.parametrize("failing", ["ruff format", "ruff check", "importlinter", "mypy", "--cov", "_gate", "--nbval"])
def test_any_failing_part_fails_the_run(
    folder: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str], failing: str
) -> None:
    """The closing line counts it, and the rest is still run."""
    (folder / "notebooks").mkdir()
    (folder / "notebooks" / "a.ipynb").touch()
    recorder.failing = failing
    assert dev.test([]) == 1
    assert re.fullmatch(r"===== 1 error in \d+\.\d\ds =====", capsys.readouterr().out.splitlines()[-1])
    assert recorder.count("--nbval ") == 1


# -- counts


def test_a_report_is_counted(tmp_path: Path) -> None:
    """Passed, failed, broken, skipped, and skipped for want of recordings."""
    report = tmp_path / "report.xml"
    report.write_text(
        """<testsuites><testsuite>
        <testcase/><testcase><system-out>words</system-out></testcase>
        <testcase><failure message="no"/></testcase>
        <testcase><error message="no"/></testcase>
        <testcase><skipped message="other system"/></testcase>
        <testcase><skipped message="$WORKBENCH_RECORDINGS is not set"/></testcase>
        </testsuite></testsuites>""",
        "utf-8",
    )
    assert +dev.counted(report) == {"passed": 2, "failed": 1, "errors": 1, "skipped": 2, "without recordings": 1}


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ({"passed": 3}, "===== 3 passed in 1.50s ====="),
        ({"errors": 1, "skipped": 2, "passed": 11}, "===== 11 passed, 2 skipped, 1 error in 1.50s ====="),
        ({"failed": 1, "errors": 2}, "===== 1 failed, 2 errors in 1.50s ====="),
        ({}, "===== no tests ran in 1.50s ====="),
    ],
)
def test_the_closing_line_is_in_the_form_of_pytest(counts: dict[str, int], line: str) -> None:
    """What reads pytest's last line reads ours."""
    assert dev.closing_line(Counter(counts), 1.5) == line


def covered(percent: float, branches: int = 0, covered_branches: int = 0) -> dict[str, Any]:
    """A file's entry in coverage.json."""
    numbers = {"percent_covered": percent, "num_branches": branches, "covered_branches": covered_branches}
    return {"summary": numbers}


def test_every_missed_threshold_is_named() -> None:
    """Branches of decide count together; 17 of 20 branches are 85 %."""
    files = {
        "workbench/decide/merge.py": covered(95, 10, 10),
        "workbench/decide/votes.py": covered(90, 10, 7),
        "workbench\\cli.py": covered(79.9),
        "workbench/facts.py": covered(80),
    }
    assert coverage_gate.gaps({"files": files, "totals": {"percent_covered": 84.9}}) == [
        "workbench/decide/ branches 85.0 % < 90 %",
        "overall 84.9 % < 85 %",
        "workbench/cli.py 79.9 % < 80 %",
    ]


def test_met_thresholds_are_silent() -> None:
    """Exactly the threshold is enough."""
    files = {"workbench/decide/merge.py": covered(95, 10, 9), "workbench/facts.py": covered(80)}
    assert coverage_gate.gaps({"files": files, "totals": {"percent_covered": 85}}) == []


def test_nothing_measured_is_a_failure(tmp_path: Path) -> None:
    """A missing report is not a passed gate."""
    assert coverage_gate.main(tmp_path / "coverage.json") == 1


# -- the package


def test_the_lock_has_every_declared_requirement() -> None:
    """`dev.py lock` was run after the last change of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["dev"], *extras["otel"]]
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE))
    assert {re.split(r"[^\w-]", requirement)[0].lower() for requirement in declared} <= pinned | {"workbench"}


def test_the_wheel_holds_the_package_its_data_and_its_notebooks(tmp_path: Path) -> None:
    """What places.py looks for in an installed package is there, and nothing else."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    expected = {f"workbench/_data/suites/{path.name}" for path in (ROOT / "data" / "suites").glob("*.jsonl")}
    expected |= {f"workbench/_notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    expected |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "workbench").rglob("*.py")}
    assert expected | {"workbench/py.typed"} <= names
    assert not [n for n in names if not re.match(r"workbench(-[\d.]+\.dist-info)?/", n) or n.endswith(".parquet")]
