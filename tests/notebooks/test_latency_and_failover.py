"""The committed notebook on latency and failover: what is compared, what is claimed, and under which label."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest

FILE = Path(__file__).resolve().parents[2] / "notebooks" / "03_latency_and_failover.ipynb"
PLOTLY = "application/vnd.plotly.v1+json"


@pytest.fixture(scope="module")
def cells() -> list[Any]:
    return [cell for cell in nbformat.read(FILE, as_version=4).cells if cell.cell_type == "code"]


def data_of(cell: Any) -> list[Any]:
    return [output.get("data", {}) for output in cell.outputs]


def test_it_takes_the_log_the_number_of_questions_and_a_seed(cells: list[Any]):
    """In the one cell that papermill may replace."""
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert [node.targets[0].id for node in ast.parse(cell.source).body] == ["log", "n", "seed"]


def test_only_what_a_real_clock_has_timed_is_not_compared(cells: list[Any]):
    """Outputs that are ignored show live numbers; all simulated ones are compared with every run."""
    shown = [(cell, repr(data_of(cell))) for cell in cells if any(data_of(cell))]
    ignored = ["nbval-ignore-output" in cell.metadata.get("tags", []) for cell, _ in shown]
    assert ignored == ["source live" in text or "source: live" in text for _, text in shown]
    assert any(ignored)
    assert not all(ignored)


def test_every_figure_names_its_source(cells: list[Any]):
    """Three of live calls to a simulated server, one of the virtual clock."""
    titles = [data[PLOTLY]["layout"]["title"]["text"] for cell in cells for data in data_of(cell) if PLOTLY in data]
    assert ["source: live" in text and "simulated server" in text for text in titles] == [True, True, True, False]
    assert "source: simulated, on the virtual clock" in titles[-1]


def test_what_it_claims_was_so_when_it_was_committed(cells: list[Any]):
    """The last cell says the number of questions, the source and the server, and that each claim holds."""
    (data,) = data_of(cells[-1])
    said = ast.literal_eval("".join(data["text/plain"]))
    claims = {key: value for key, value in said.items() if key not in ("questions", "source", "server")}
    assert (said["source"], said["server"]) == (["live"], "simulated")
    assert len(claims) >= 5
    assert all(value is True for value in claims.values())


def test_nothing_failed_when_it_was_committed(cells: list[Any]):
    """No cell holds an error or a warning."""
    kinds = {(output.output_type, output.get("name")) for cell in cells for output in cell.outputs}
    assert not {kind for kind in kinds if kind[0] == "error" or kind[1] == "stderr"}
