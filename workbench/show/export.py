"""A notebook as one HTML page that needs no network.

nbconvert has no drawing for plotly's own output type and leaves the place empty without failing. So every
figure is turned into a drawn one here, with plotly.js once in the page; widget views fall back to their text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"


def export_html(notebook: Path, page: Path, *, title: str) -> Path:
    """Write the executed notebook as a self-contained page without code cells; the page's path."""
    import nbformat
    from nbconvert import HTMLExporter

    book = nbformat.read(notebook, as_version=4)
    draw_figures(book)
    book.metadata.pop("widgets", None)
    book.metadata["title"] = title
    exporter = HTMLExporter(exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True)
    for address in ("mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url"):
        setattr(exporter, address, "")
    body, _ = exporter.from_notebook_node(book)
    page.write_text(without_outside(body), encoding="utf-8")
    return page


def draw_figures(book: Any) -> int:
    """Replace plotly's data by drawn figures, in place; the number of figures."""
    import plotly.io as pio

    drawn = 0
    for cell in book.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop(WIDGET, None)
            figure = data.pop(PLOTLY, None)
            if figure is None:
                continue
            data["text/html"] = pio.to_html(
                {"data": figure["data"], "layout": figure["layout"]},
                full_html=False,
                include_plotlyjs=drawn == 0,
                include_mathjax=False,
                div_id=f"figure-{drawn}",
                config={"responsive": True, "displaylogo": False},
                validate=False,
            )
            drawn += 1
    return drawn


def without_outside(page: str) -> str:
    """The page without script and style tags that would ask another host."""
    page = re.sub(r'<script[^>]*\ssrc="(?:https?:)?//[^"]*"[^>]*>\s*</script>', "", page)
    return re.sub(r'<link[^>]*\shref="(?:https?:)?//[^"]*"[^>]*>', "", page)
