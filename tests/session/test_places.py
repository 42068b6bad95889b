"""Where things lie: relative to the repository, never to the working directory, unless the environment says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.facts import TASKS
from workbench.session import places

ROOT = Path(__file__).resolve().parents[2]


def test_the_default_log_is_in_the_repository_wherever_one_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """data/log of the checkout, from any working directory."""
    monkeypatch.chdir(tmp_path)
    assert places.default_log() == ROOT / "data" / "log"
    assert places.recordings() == ROOT / "data" / "recordings"
    assert places.notebooks() == ROOT / "notebooks"


def test_the_environment_moves_log_and_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """WORKBENCH_LOG and WORKBENCH_RECORDINGS win over the defaults; an empty value is none."""
    monkeypatch.setenv("WORKBENCH_LOG", str(tmp_path / "l"))
    monkeypatch.setenv("WORKBENCH_RECORDINGS", str(tmp_path / "r"))
    assert (places.default_log(), places.recordings()) == (tmp_path / "l", tmp_path / "r")
    monkeypatch.setenv("WORKBENCH_LOG", "")
    assert places.default_log() == ROOT / "data" / "log"


def test_the_bundled_suites_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each name leads to its file."""
    monkeypatch.chdir(tmp_path)
    found = places.suites()
    assert list(found) == sorted(TASKS)
    assert all(path.is_file() and path.stem == name for name, path in found.items())


def test_an_installed_package_uses_its_own_data_and_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Without a checkout around it the package reads `_data` and `_notebooks` in itself and writes where one works."""
    package = tmp_path / "site-packages" / "workbench"
    for folder in ("_data/suites", "_notebooks"):
        (package / folder).mkdir(parents=True)
    (package / "_data" / "suites" / "mine.jsonl").write_text("")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr(places, "PACKAGE", package)
    monkeypatch.chdir(work)
    assert places.default_log() == work / "data" / "log"
    assert places.notebooks() == package / "_notebooks"
    assert list(places.suites()) == ["mine"]
