"""The exported page: every figure drawn, one plotly.js, nothing asked of another host, data inert."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import plotly.graph_objects as go
import pytest

from workbench.show.export import PLOTLY, WIDGET, draw_figures, export_html, without_outside

HOSTILE = "<img src=x onerror=alert(1)><script>alert('pwned')</script>"
LOADING = {
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("object", "data"),
}


def figure(name: str) -> dict[str, Any]:
    return json.loads(go.Figure(go.Scatter(x=[1], y=[2], name=name, text=[name]), {"title": {"text": name}}).to_json())


def book(*outputs: Any, markdown: str = "# Title") -> Any:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(markdown)])
    for data in outputs:
        output = data if "output_type" in data else nbformat.v4.new_output("display_data", data=data)
        made.cells.append(nbformat.v4.new_code_cell("secret_source()", outputs=[output], execution_count=1))
    return made


def page_of(tmp_path: Path, made: Any, title: str = "a report") -> str:
    nbformat.write(made, tmp_path / "made.ipynb")
    return export_html(tmp_path / "made.ipynb", tmp_path / "made.html", title=title).read_text(encoding="utf-8")


class Page(HTMLParser):
    """Elements, what they load, event handlers, and the visible text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("script", "style"):
            self._inside.append(tag)
        for name, value in attrs:
            if (tag, name) in LOADING:
                self.loads.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data


def outside(page: Page) -> list[str]:
    """Addresses that the page loads and does not carry itself; an empty one loads nothing."""
    return [address for address in page.loads if address and not address.startswith(("data:", "#"))]


def test_every_figure_is_drawn_and_plotly_is_there_once(tmp_path: Path):
    """Three figures have an element of their own each; the library of 4 MB stands in the page a single time."""
    made = book(*({PLOTLY: figure(f"figure {k}")} for k in range(3)))
    page = page_of(tmp_path, made)
    ids = Page(page).ids
    assert [i for i in ids if i.startswith("figure-")] == ["figure-0", "figure-1", "figure-2"]
    assert page.count("Plotly.newPlot(") >= 3
    one = page_of(tmp_path, book({PLOTLY: figure("alone")}))
    assert len(one) > 1_000_000
    assert len(page) - len(one) < 100_000


def test_a_page_without_figures_has_no_plotly(tmp_path: Path):
    """Text alone makes a small page."""
    assert len(page_of(tmp_path, book({"text/plain": "only text"}))) < 1_000_000


def test_plotly_data_are_replaced_in_place():
    """The count is returned, and no output keeps plotly's own type."""
    made = book({PLOTLY: figure("x"), "text/plain": "Figure()"}, {"text/plain": "2"}, {PLOTLY: figure("y")})
    assert draw_figures(made) == 2
    data = [o["data"] for c in made.cells for o in c.get("outputs", [])]
    assert all(PLOTLY not in d for d in data)
    assert [("text/html" in d) for d in data] == [True, False, True]


def test_widget_views_fall_back_to_their_text(tmp_path: Path):
    """A slider's view needs a server; its text is shown instead, and no widget state is kept in the page."""
    made = book(
        {WIDGET: {"model_id": "abc", "version_major": 2, "version_minor": 0}, "text/plain": "IntSlider(value=5)"}
    )
    made.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {"abc": {}}}}
    page = page_of(tmp_path, made)
    assert "IntSlider(value=5)" in Page(page).text
    assert "widget-state" not in page
    assert "model_id" not in page


def test_code_is_left_out_and_output_is_shown(tmp_path: Path):
    """A report is for reading: prose, tables and figures without the cells that made them."""
    page = page_of(tmp_path, book({"text/html": "<b>bold</b>", "text/plain": "bold"}, markdown="# What was found"))
    seen = Page(page)
    assert "secret_source" not in page
    assert "What was found" in seen.text
    assert "bold" in seen.text


def test_sec_nothing_is_loaded_from_another_host(tmp_path: Path):
    """No element of the page names an outside address to load from, with figures, widgets, mathematics and frames."""
    made = book(
        {PLOTLY: figure("x")},
        {WIDGET: {"model_id": "a"}, "text/plain": "w"},
        {"text/latex": "$x^2$", "text/plain": "x"},
        markdown="Mathematics $a^2$ and a [link](https://example.org/paper).",
    )
    assert outside(Page(page_of(tmp_path, made))) == []


def test_sec_an_image_of_a_notebook_does_not_ask_another_host(tmp_path: Path):
    """An outside picture in prose or in an output would tell a stranger who reads the report, and when."""
    made = book(
        {"text/html": '<img src="https://example.org/track.gif">', "text/plain": "x"},
        markdown="![a picture](https://example.org/picture.png)",
    )
    assert outside(Page(page_of(tmp_path, made))) == []


@pytest.mark.parametrize("title", [HOSTILE, "</title>" + HOSTILE])
def test_sec_xss_a_hostile_title_is_text(tmp_path: Path, title: str):
    """The page's title cannot open an element."""
    seen = Page(page_of(tmp_path, book({"text/plain": "x"}), title=title))
    clean = Page(page_of(tmp_path, book({"text/plain": "x"}), title="clean"))
    assert seen.tags == clean.tags
    assert seen.handlers == clean.handlers == []


def test_sec_xss_hostile_data_is_text_in_the_page(tmp_path: Path):
    """Streams, plain results, tracebacks and figure labels with markup add no element and no handler."""

    def made(text: str) -> Any:
        stream = nbformat.v4.new_output("stream", name="stdout", text=f"\x1b[31m{text}\x1b[0m")
        error = nbformat.v4.new_output("error", ename="E", evalue=text, traceback=[f"\x1b[31m{text}"])
        return book(stream, error, {"text/plain": text}, {PLOTLY: figure(text)})

    seen, clean = Page(page_of(tmp_path, made(HOSTILE))), Page(page_of(tmp_path, made("clean")))
    assert seen.tags == clean.tags
    assert seen.handlers == clean.handlers == []
    assert seen.text.count("<img src=x onerror=alert(1)>") >= 3


def test_the_page_of_the_benchmark_notebook_has_all_its_figures(tmp_path: Path):
    """The committed notebook exports with as many drawings as it has figures, inert and on its own."""
    source = Path(__file__).resolve().parents[2] / "notebooks" / "90_benchmark_report.ipynb"
    cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
    figures = sum(PLOTLY in o.get("data", {}) for c in cells for o in c.get("outputs", []))
    page = export_html(source, tmp_path / "page.html", title="t").read_text(encoding="utf-8")
    seen = Page(page)
    assert figures >= 3
    assert [i for i in seen.ids if i.startswith("figure-")] == [f"figure-{k}" for k in range(figures)]
    assert outside(seen) == []
    assert seen.handlers == []


def test_outside_scripts_and_styles_are_taken_out():
    """Absolute and protocol-relative addresses go, inline scripts and prose stay."""
    page = (
        '<script src="https://cdn.example/x.js"></script><script src="//cdn.example/y.js" async></script>'
        '<link rel="stylesheet" href="https://cdn.example/z.css"><script>inline()</script>'
        "<p>prose</p>"
    )
    assert without_outside(page) == "<script>inline()</script><p>prose</p>"
