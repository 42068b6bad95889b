"""The waterfall and the course of a run in a real Chromium: all drawn, every label whole and none upon another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench import FaultLab, Workbench, show, trace_block

pytestmark = [pytest.mark.browser, pytest.mark.slow]
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

WIDTHS = (700, 1100)  # a notebook's column on a small and on a wide screen


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of a run against a server that fails often."""
    folder = tmp_path_factory.mktemp("figures")
    faults = ["weak=http-429-plain@0.4", "medium=http-500-always@0.4"]
    with FaultLab(["strong", "medium", "weak"], faults=faults, latency=0.02, seed=1) as lab:
        names = ["lab:strong", "lab-anthropic:weak", "lab:medium"]
        with lab.open(folder / "log", models=names, timeout_s=5) as wb:
            run = wb.run_sync("general", concurrency=4)
            [item] = wb.log.rows(
                "select parent_id from spans join attempts using (trace_id) where call_id = spans.span_id "
                "group by parent_id order by count(*) desc, parent_id limit 1"
            )
            [trace] = wb.log.rows("select trace_id from spans where span_id = ?", item)
            with Workbench.open(folder / "other log") as other:
                simulated = other.run_sync("general", models=["simulated:strong"])
                top = _deep(20)
            return {
                "deep waterfall": show.plot_waterfall(other, top),
                "simulated timeline": show.timeline(simulated),
                "waterfall": show.plot_waterfall(wb, item[0]),
                "cut waterfall": show.plot_waterfall(wb, trace[0], most=12),
                "timeline": show.timeline(run),
            }


def _deep(levels: int) -> str:
    """The id of a span with as many below one another, of long names and many components."""
    with trace_block(f"component_{levels}", "operation_" * 8) as here:
        if levels:
            _deep(levels - 1)
    assert here.span_id is not None
    return here.span_id


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["waterfall", "cut waterfall", "deep waterfall", "timeline", "simulated timeline"])
def test_a_figure_is_drawn_whole(chromium: str, tmp_path: Path, figures: dict[str, Any], name: str, width: int) -> None:
    """Bars or dots are there, and no label leaves the figure or lies upon another one."""
    figure = figures[name]
    page_file = tmp_path / "figure.html"
    figure.write_html(page_file, include_plotlyjs=True, default_width=f"{width}px")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": width + 40, "height": 1400}).new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(page_file.as_uri())
        page.wait_for_selector(".main-svg text")
        drawn = page.locator(".js-plotly-plot .barlayer .point, .js-plotly-plot .scatterlayer .point").count()
        whole = page.locator(".js-plotly-plot").bounding_box()
        texts = page.evaluate(
            "() => [...document.querySelectorAll('.js-plotly-plot .main-svg text')].filter(t => t.textContent.trim())"
            ".map(t => [t.textContent, t.getBoundingClientRect()])"
            ".map(([t, r]) => [t, r.left, r.top, r.right, r.bottom]).filter(b => b[3] > b[1])"
        )
        browser.close()
    assert errors == []
    assert drawn == sum(len(t.x) for t in figure.data if t.type == "bar" or t.mode == "markers")
    assert len(texts) > 10
    assert whole is not None
    left, right = whole["x"] - 1, whole["x"] + whole["width"] + 1
    assert [text for text, x0, _, x1, _ in texts if x0 < left or x1 > right] == []
    assert [(a[0], b[0]) for i, a in enumerate(texts) for b in texts[:i] if overlap(a, b)] == []


def overlap(a: list[Any], b: list[Any]) -> bool:
    """Whether two boxes (text, left, top, right, bottom) share more than an edge of two pixels."""
    return min(a[3], b[3]) - max(a[1], b[1]) > 2 and min(a[4], b[4]) - max(a[2], b[2]) > 2
