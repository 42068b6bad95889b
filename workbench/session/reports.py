"""Reports: a notebook, a run, one folder with the executed notebook and its page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from workbench.act.world import World
from workbench.errors import LLMError
from workbench.facts import RunStarted
from workbench.record.log import Log
from workbench.session.claims import claimed, close_left_behind
from workbench.session.places import notebooks, root
from workbench.show.export import export_html
from workbench.study.report import check_folder, check_notebook, run_notebook
from workbench.study.run import ending_told

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


def report_of(
    log: Log,
    world: World,
    report_id: str,
    run_id: str,
    *,
    notebook: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """`make_report` as a run of the log by itself, with the id `report_id`; see `Workbench.report`."""
    given = notebooks() / BENCHMARK if notebook is None else notebook
    check_notebook(given)
    source = Path(given)
    check_folder(report_folder(run_id, out))
    told = RunStarted(
        run_id=report_id, name=source.name, source="report", models=(),
        spec={"kind": "report", "notebook": source.name, "run": run_id}, start_unix_ns=world.unix_ns(),
    )  # fmt: skip
    with claimed(log.folder, report_id, now_unix_ns=world.unix_ns()):
        log.write(told)
        try:
            with ending_told(world, report_id, items=0):
                return make_report(log.folder, run_id, notebook=source, out=out)
        except LLMError as error:  # what its kernel was running has ended with it
            ended: Any = "timeout" if error.code == "timeout.run" else "crashed"
            close_left_behind(log, world, status=ended, parent=os.getpid())
            raise
