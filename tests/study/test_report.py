"""Report notebooks: parameters go in, the executed notebook comes out, whatever happens in its cells."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import LLMError, LLMValidationError
from workbench.study.report import run_notebook


def notebook(path: Path, *sources: str) -> Path:
    """A notebook of these code cells, the first of them tagged parameters."""
    cells: list[Any] = [
        {"cell_type": "code", "execution_count": None, "id": f"c{k}", "outputs": [], "source": source,
         "metadata": {"tags": ["parameters"]} if k == 0 else {}}
        for k, source in enumerate(sources)
    ]  # fmt: skip
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return path


def outputs(path: Path) -> list[Any]:
    return [o for cell in json.loads(path.read_text())["cells"] for o in cell.get("outputs", [])]


@pytest.mark.slow
def test_a_notebook_is_executed_with_its_parameters(tmp_path: Path):
    """The given values replace the defaults, quotes and all; cells run beside the output, widgets leave no state."""
    source = notebook(
        tmp_path / "source.ipynb",
        "who = 'nobody'\ntimes = 0",
        "import os, ipywidgets\nprint(who * times, os.getcwd())\nipywidgets.IntSlider()",
    )
    target = tmp_path / "deep" / "out.ipynb"
    assert run_notebook(source, target, {"who": 'it\'s "me"\n', "times": 2}) == target
    (printed,) = [o for o in outputs(target) if o["output_type"] == "stream"]
    assert "".join(printed["text"]) == 'it\'s "me"\nit\'s "me"\n ' + str(target.parent) + "\n"
    assert "widgets" not in json.loads(target.read_text())["metadata"]


@pytest.mark.slow
def test_nb_failing_cell_is_named_and_keeps_its_traceback(tmp_path: Path):
    """run.failed tells the cell and the error; the output has the traceback, and cells after it did not run."""
    source = notebook(tmp_path / "source.ipynb", "x = 1", "print('before')", "1 / 0", "print('after')")
    target = tmp_path / "out.ipynb"
    with pytest.raises(LLMError) as caught:
        run_notebook(source, target, {"x": 2})
    assert (type(caught.value), caught.value.code) == (LLMError, "run.failed")
    assert " of source.ipynb failed" in caught.value.message
    assert "ZeroDivisionError: division by zero" in caught.value.message
    assert "out.ipynb" in caught.value.next_step
    (error,) = [o for o in outputs(target) if o["output_type"] == "error"]
    traceback = re.sub(r"\x1b\[[0-9;]*m", "", "".join(error["traceback"]))
    assert (error["ename"], "1 / 0" in traceback) == ("ZeroDivisionError", True)
    assert "after" not in json.dumps(outputs(target))
    # The third cell that the user wrote; the cell that papermill adds for the parameters does not count.
    assert caught.value.message.startswith("cell 3 of source.ipynb")


@pytest.mark.slow
def test_nb_kernel_dies_is_a_crash(tmp_path: Path):
    """A kernel that ends under a cell is run.crashed; what ran before stays in the output notebook."""
    source = notebook(tmp_path / "source.ipynb", "x = 1", "print('before')", "import os; os._exit(9)", "print('after')")
    target = tmp_path / "out.ipynb"
    with pytest.raises(LLMError) as caught:
        run_notebook(source, target, {})
    assert (type(caught.value), caught.value.code) == (LLMError, "run.crashed")
    assert "source.ipynb" in caught.value.message
    assert ["".join(o["text"]) for o in outputs(target)] == ["before\n"]


@pytest.mark.slow
@pytest.mark.parametrize(("source", "left"), [("import sys; sys.exit(0)", 2), ("raise SystemExit", 2)])
def test_a_cell_that_exits_is_no_success(tmp_path: Path, source: str, left: int) -> None:
    """What came after it did not run: run.failed names the cell and counts the rest."""
    notebook(tmp_path / "source.ipynb", "x = 1", source, "print('after')", "print('last')")
    with pytest.raises(LLMError) as caught:
        run_notebook(tmp_path / "source.ipynb", tmp_path / "out.ipynb", {"x": 2})
    assert (caught.value.code, caught.value.message) == (
        "run.failed", f"cell 2 of source.ipynb ended the notebook; code cells not run after it: {left}"
    )  # fmt: skip
    assert "after" not in json.dumps(outputs(tmp_path / "out.ipynb"))


@pytest.mark.slow
def test_an_exit_in_the_last_cell_is_no_success_either(tmp_path: Path) -> None:
    """No cell is left, and the notebook still did not come to its end."""
    notebook(tmp_path / "source.ipynb", "x = 1", "raise SystemExit(0)")
    with pytest.raises(LLMError, match="code cells not run after it: 0"):
        run_notebook(tmp_path / "source.ipynb", tmp_path / "out.ipynb", {})


@pytest.mark.slow
def test_a_long_error_is_told_on_one_line(tmp_path: Path) -> None:
    """300 characters of it; the notebook keeps the whole."""
    notebook(tmp_path / "source.ipynb", "x = 1", "raise ValueError('one\\ntwo ' + 'z' * 5000)")
    with pytest.raises(LLMError) as caught:
        run_notebook(tmp_path / "source.ipynb", tmp_path / "out.ipynb", {})
    said = f"one two {'z' * 292}"
    assert caught.value.message == f"cell 2 of source.ipynb failed: ValueError: {said}"


@pytest.mark.slow
def test_a_kernel_that_dies_at_its_start_is_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cell was begun: run.crashed says so."""
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("import os; os._exit(1)")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook(tmp_path / "source.ipynb", "x = 1")
    with pytest.raises(LLMError, match="the kernel died at its start") as caught:
        run_notebook(tmp_path / "source.ipynb", tmp_path / "out.ipynb", {})
    assert caught.value.code == "run.crashed"


@pytest.mark.parametrize("name", ["absent.ipynb", "."])
def test_a_notebook_that_is_not_there_is_refused(tmp_path: Path, name: str):
    """data.file, before anything is written."""
    with pytest.raises(LLMValidationError) as caught:
        run_notebook(tmp_path / name, tmp_path / "out" / "out.ipynb", {})
    assert caught.value.code == "data.file"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["# Just Markdown\n", "[]", '{"cells": 3}'], ids=["text", "no object", "no cells"])
def test_a_file_that_is_no_notebook_is_refused(tmp_path: Path, content: str):
    """A file that is there but cannot be read as a notebook is data.file too, not a traceback."""
    (tmp_path / "bad.ipynb").write_text(content)
    with pytest.raises(LLMValidationError) as caught:
        run_notebook(tmp_path / "bad.ipynb", tmp_path / "out.ipynb", {})
    assert caught.value.code == "data.file"
