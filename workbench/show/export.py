"""A notebook as one HTML page that needs no network.

nbconvert has no drawing for plotly's own output type and leaves the place empty without failing. So every
figure is turned into a drawn one here, with plotly.js once in the page; widget views fall back to their text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# Inline scripts and styles only; workers and canvases of plotly.js come from the page itself.
POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline' "
    "'unsafe-eval' blob:; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; worker-src blob:\">"
)
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
    """The page without anything that would ask another host, and with a policy that forbids it to the browser."""
    parts = re.split(r"(<script\b.*?</script>)", page, flags=re.S | re.I)
    kept = [_script(p) if p[:7].lower() == "<script" else _markup(p) for p in parts]
    return "".join(kept).replace("<head>", f"<head>{POLICY}", 1)


def _script(block: str) -> str:
    """A script block, or nothing where it only loads another file."""
    opening = block[: block.index(">") + 1]
    return "" if re.search(r"\ssrc\s*=", opening, flags=re.I) else block


def _markup(text: str) -> str:
    text = re.sub(r"<link\b[^>]*>", "", text, flags=re.I)
    outside = r"(<(?:img|iframe|audio|video|source|embed|object|input)\b[^>]*?\s)(src|srcset|data|poster)(\s*=\s*)"
    return re.sub(outside + r"(?=[\"']?\s*(?:[a-z]+:)?//)", r"\1data-outside-\2\3", text, flags=re.I)
