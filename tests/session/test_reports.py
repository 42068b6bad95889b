"""Reports of a run: one folder with the executed notebook and a page that needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workbench import Workbench
from workbench.errors import LLMError, LLMValidationError

TINY = {
    "cells": [
        {"cell_type": "code", "execution_count": None, "id": "p", "metadata": {"tags": ["parameters"]}, "outputs": [],
         "source": "log = None\nrun_id = 'latest'"},
        {"cell_type": "code", "execution_count": None, "id": "r", "metadata": {}, "outputs": [],
         "source": "from workbench import Workbench, show\nrun = Workbench.open(log).get_run(run_id)\nrun"},
        {"cell_type": "code", "execution_count": None, "id": "f", "metadata": {}, "outputs": [],
         "source": "show.plot_deltas(run.compare())"},
    ],
    "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    "nbformat": 4, "nbformat_minor": 5,
}  # fmt: skip


@pytest.mark.slow
def test_a_report_is_a_folder_of_the_runs_name(tmp_path: Path):
    """The page and the executed notebook stand in <out>/<run_id>; the newest run is taken when none is named."""
    notebook = tmp_path / "tiny.ipynb"
    notebook.write_text(json.dumps(TINY))
    with Workbench.open(tmp_path / "log") as wb:
        first = wb.run_sync("general", models=["simulated:weak", "simulated:strong"], merge="majority_voting")
        newest = wb.run_sync("reasoning", models=["simulated:weak", "simulated:strong"], merge="majority_voting")
        page = wb.report(notebook, out=tmp_path / "out")
    assert page == tmp_path / "out" / newest.run_id / "index.html"
    assert sorted(p.name for p in page.parent.iterdir()) == ["index.html", "tiny.ipynb"]
    html = page.read_text(encoding="utf-8")
    assert f"<title>{newest.run_id} - workbench report</title>" in html
    assert newest.run_id in html
    assert first.run_id not in html
    assert html.count('id="figure-') == 1
    assert "run_id = " not in html  # code cells are left out of the page
    assert notebook.read_text() == json.dumps(TINY)  # the source is not touched


def test_a_report_of_an_unknown_run_or_notebook_is_refused(tmp_path: Path):
    """run.unknown and data.file come before any kernel starts, and leave no folder behind."""
    with Workbench.open(tmp_path / "log") as wb:
        with pytest.raises(LLMValidationError) as caught:
            wb.report(run="nope", out=tmp_path / "out")
        assert caught.value.code == "run.unknown"
        run = wb.run_sync("general", models=["simulated:weak"])
        with pytest.raises(LLMValidationError, match="absent") as caught:
            wb.report(tmp_path / "absent.ipynb", run=run, out=tmp_path / "out")
        assert caught.value.code == "data.file"
        number: Any = 123
        with pytest.raises(LLMValidationError, match="123") as caught:
            wb.report(number, run=run, out=tmp_path / "out")
        assert caught.value.code == "data.file"
    assert not (tmp_path / "out").exists()


def test_a_report_into_a_place_that_is_no_folder_is_refused(tmp_path: Path):
    """storage.readonly comes before any kernel starts, and the log gets no row of a report."""
    (tmp_path / "file").write_text("x")
    with Workbench.open(tmp_path / "log") as wb:
        run = wb.run_sync("general", models=["simulated:weak"])
        with pytest.raises(LLMError, match="cannot be written to") as caught:
            wb.report(run=run, out=tmp_path / "file")
        assert caught.value.code == "storage.readonly"
        assert wb.log.rows("select source from runs") == [("simulated",)]
