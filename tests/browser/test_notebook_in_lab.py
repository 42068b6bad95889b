"""Notebooks in a real JupyterLab, run by a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.lab import Lab, opened, outputs, playwright, run_all, served
from workbench import Workbench

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def browser(chromium: str) -> Iterator[Any]:
    """A running Chromium."""
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def lab(chromium: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """JupyterLab over a copy of the notebook that the test is marked with."""
    with served(request.param, tmp_path) as running:
        yield running


@pytest.mark.parametrize("lab", ["01_merge_strategies.ipynb"], indirect=True)
def test_the_headline_notebook_runs_in_jupyterlab(lab: Lab, browser: Any):
    """Run all: every cell ends without an error, figures are drawn, the verdicts stand in a table, nothing goes out."""
    page, heard = opened(browser, lab)
    run_all(page, lab)

    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot .main-svg').length > 0", timeout=30_000)
    assert page.locator(".js-plotly-plot").count() == 2
    for k in range(2):
        assert page.locator(".js-plotly-plot").nth(k).locator(".scatterlayer .point").count() > 0
    tables = page.locator(".workbench-table table")
    assert tables.count() >= 3
    verdicts = tables.nth(1)
    header = [h.text_content() for h in verdicts.locator("th").all()]
    assert ("verdict" in header, "split verdict" in header) == (True, True)
    rows = [[c.text_content() for c in r.locator("td").all()] for r in verdicts.locator("tbody tr").all()]
    assert [row[0] for row in rows] == ["majority_voting", "weighted_consensus", "best_of_n"]
    assert {row[header.index("verdict")] for row in rows} <= {"better", "worse", "cannot tell"}
    assert verdicts.is_visible()
    assert [
        url for url in heard.requests if not url.startswith((lab.url, lab.url.replace("http", "ws"), "data:", "blob:"))
    ] == []
    assert heard.errors == []

    page.keyboard.press("Control+s")
    until = time.monotonic() + 20
    while not outputs(lab.file) and time.monotonic() < until:
        page.wait_for_timeout(200)
    saved = outputs(lab.file)
    assert saved
    assert [o for o in saved if o["output_type"] == "error"] == []


@pytest.mark.parametrize("lab", ["04_tune_weights.ipynb"], indirect=True)
def test_a_slider_merges_the_recorded_answers_again(lab: Lab, browser: Any, tmp_path: Path):
    """The score and its interval follow a slider that a user moves, to and fro, and no model is asked again."""
    page, _ = opened(browser, lab)
    run_all(page, lab)
    panel = page.locator(".jp-OutputArea-output .widget-html .workbench-tune").first
    panel.wait_for(timeout=30_000)
    before, asked = panel.locator("b").text_content(), calls(tmp_path / "log")
    assert re.fullmatch(r"[+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\] points: (better|worse|cannot tell)", before)

    def moved(model: str, key: str, to: str) -> None:
        slider = page.locator(".widget-hslider", has_text=model).first
        slider.locator(".noUi-handle").focus()
        for _ in range(16):
            page.keyboard.press(key)
        playwright.expect(slider.locator(".widget-readout")).to_have_text(to)

    # The notebook has left the strong model at 1.00, where two of 0.20 cannot outvote it; at 1.00 each they do.
    for model in ("simulated:medium", "simulated:weak"):
        moved(model, "ArrowRight", "1.00")
    playwright.expect(panel.locator("tr", has_text="simulated:strong")).to_contain_text("33 %")
    playwright.expect(panel.locator("b")).not_to_have_text(before)
    outvoted = panel.locator("b").text_content()
    assert float(outvoted.split(" ")[0]) < float(before.split(" ")[0])
    for model in ("simulated:medium", "simulated:weak"):
        moved(model, "ArrowLeft", "0.20")
    playwright.expect(panel.locator("b")).to_have_text(before)
    assert panel.locator("svg circle").count() == 1
    assert calls(tmp_path / "log") == asked


def calls(folder: Path) -> int:
    """How many calls the log has."""
    with Workbench.open(folder) as wb:
        [(count,)] = wb.log.rows("select count(*) from calls")
    return int(count)
