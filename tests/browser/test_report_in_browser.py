"""A report opened in a real Chromium: every figure drawn, the verdict to be read, and not one request to anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from workbench import Workbench
from workbench.show.export import PLOTLY, export_html

pytestmark = [pytest.mark.browser, pytest.mark.slow]
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


class Report(NamedTuple):
    page: Path
    figures: int
    words: list[str]


class Opened(NamedTuple):
    page: Any
    requests: list[str]
    errors: list[str]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A report of a simulated run, its number of figures, and the sentences of its comparison."""
    folder = tmp_path_factory.mktemp("report")
    with Workbench.open(folder / "log") as wb:
        run = wb.run_sync("question_answering", merge="majority_voting")
        page = wb.report(run=run, out=folder / "out")
        words = list(run.compare().words.sentences)
    cells = json.loads((page.parent / "90_benchmark_report.ipynb").read_text(encoding="utf-8"))["cells"]
    return Report(page, sum(PLOTLY in o.get("data", {}) for c in cells for o in c.get("outputs", [])), words)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


def opened(browser: Any, file: Path, *, offline: bool = False) -> Opened:
    """The file in a page of its own whose requests and errors are written down."""
    context = browser.new_context()
    context.set_offline(offline)
    page = context.new_page()
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(file.as_uri())
    page.wait_for_load_state("load")
    page.wait_for_timeout(1000)  # whatever is loaded late shows up now
    return Opened(page, requests, errors)


@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
def test_a_report_draws_everything_and_asks_nobody(browser: Any, report: Report, offline: bool):
    """All figures of the notebook are drawn, nothing but the file itself is requested, no script fails."""
    seen = opened(browser, report.page, offline=offline)
    assert report.figures >= 3
    assert seen.page.locator(".js-plotly-plot").count() == report.figures
    for k in range(report.figures):
        figure = seen.page.locator(".js-plotly-plot").nth(k)
        assert figure.locator(".main-svg").count() > 0
        assert figure.locator(".scatterlayer .point").count() > 0
        box = figure.bounding_box()
        assert box is not None
        assert box["width"] > 200
        assert box["height"] > 150
    assert [url for url in seen.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert [url for url in seen.requests if url.startswith("file:")] == [report.page.as_uri()]
    assert seen.errors == []
    seen.page.context.close()


def test_a_report_shows_the_verdict_and_where_its_numbers_come_from(browser: Any, report: Report):
    """The sentences of the comparison are visible text, and simulated answers are called so."""
    seen = opened(browser, report.page)
    text = " ".join(seen.page.locator("body").inner_text().split())
    for sentence in report.words:
        assert " ".join(sentence.split()) in text
    assert seen.page.get_by_text("majority_voting:").first.is_visible()
    assert "answers simulated" in text
    captions = [t.text_content() for t in seen.page.locator(".js-plotly-plot .gtitle").all()]
    assert len(captions) == report.figures
    assert all("source: simulated" in (caption or "") for caption in captions)
    assert seen.page.title() == f"{report.page.parent.name} - workbench report"
    seen.page.context.close()


def test_sec_xss_hostile_data_do_nothing_in_a_browser(browser: Any, tmp_path: Path):
    """Markup in results, streams and figure labels neither runs nor asks for anything."""
    import nbformat
    import plotly.graph_objects as go

    from workbench.show.plots import plain
    from workbench.show.tables import Shown, Table

    figure = go.Figure(
        go.Scatter(x=[1], y=[1], text=[plain(HOSTILE)], mode="text"), {"title": {"text": plain(HOSTILE)}}
    )
    table = Shown(Table(caption=HOSTILE, columns=("a",), rows=((HOSTILE,),)))
    outputs = [
        nbformat.v4.new_output("display_data", data={PLOTLY: json.loads(figure.to_json())}),
        nbformat.v4.new_output("display_data", data={"text/html": table._repr_html_(), "text/plain": repr(table)}),
        nbformat.v4.new_output("stream", name="stdout", text=HOSTILE),
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)])
    nbformat.write(book, tmp_path / "hostile.ipynb")
    page = export_html(tmp_path / "hostile.ipynb", tmp_path / "hostile.html", title="safe")
    seen = opened(browser, page)
    assert seen.page.title() == "safe"
    assert seen.page.locator(".js-plotly-plot .main-svg").count() > 0
    assert seen.page.locator("img[src=x]").count() == 0
    assert seen.requests == [page.as_uri()]
    assert "onerror" in seen.page.locator("body").inner_text()
    seen.page.context.close()
