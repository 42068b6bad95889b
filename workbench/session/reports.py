"""Reports: a notebook, a run, one folder with the executed notebook and its page."""

from __future__ import annotations

import os
from pathlib import Path

from workbench.session.places import notebooks, root
from workbench.show.export import export_html
from workbench.study.report import run_notebook

BENCHMARK = "90_benchmark_report.ipynb"


def report_folder(run_id: str, out: str | os.PathLike[str] | None = None) -> Path:
    """Where the report of a run lies: `<out>/<run_id>`, by default under reports/."""
    return (root() / "reports" if out is None else Path(out)).resolve() / run_id


def make_report(
    log: Path,
    run_id: str,
    *,
    notebook: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """Run the notebook for the run; the path of `<out>/<run_id>/index.html`, with the notebook beside it."""
    source = notebooks() / BENCHMARK if notebook is None else Path(notebook)
    folder = report_folder(run_id, out)
    executed = folder / source.name
    run_notebook(source, executed, {"log": str(log.resolve()), "run_id": run_id})
    return export_html(executed, folder / "index.html", title=f"{run_id} - workbench report")
