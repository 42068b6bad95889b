"""Report notebooks, run by papermill with parameters."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.canonical import text_of
from workbench.errors import LLMError, LLMTimeoutError, LLMValidationError

CELL_TIMEOUT_S = 600
MAX_SAID = 300  # characters of a cell's error in a message
_ADDED = frozenset({"injected-parameters", "papermill-error-cell-tag"})  # tags of the cells that papermill adds


def _kernel_manager() -> type:
    """Kernels whose sockets are encrypted: a plain one warns on stderr at every start."""
    from jupyter_client.manager import AsyncKernelManager

    return type("KernelManager", (AsyncKernelManager,), {"transport_encryption": "auto"})


def run_notebook(notebook: Path, output: Path, parameters: Mapping[str, Any]) -> Path:
    """Execute the notebook with the parameters; the executed notebook is kept in `output` even when a cell fails.

    Raises LLMValidationError data.file when there is no such notebook; LLMError run.failed when a cell fails or exits,
    or run.crashed when the kernel dies; LLMTimeoutError timeout.run after 600 s in one cell. Each names the cell,
    counted from 1 as in the notebook that was given.
    """
    check_notebook(notebook)
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            notebook,
            output,
            parameters=dict(parameters),
            kernel_name="python3",
            progress_bar=False,
            cwd=str(output.parent),
            execution_timeout=CELL_TIMEOUT_S,
            kernel_manager_class=_kernel_manager(),
        )
    except papermill.exceptions.PapermillExecutionError as error:
        raise LLMError(
            f"cell {_reached(output)} of {notebook.name} failed: {error.ename}: {_said(error.evalue)}",
            code="run.failed",
            next_step=f"read the traceback in {output.name} beside the report",
        ) from error
    except CellTimeoutError as error:
        raise LLMTimeoutError(
            f"cell {_reached(output)} of {notebook.name} ran longer than {CELL_TIMEOUT_S} s and was ended",
            code="timeout.run",
            next_step="make the cell's work smaller, or split it; `workbench resume` goes on with its runs",
        ) from error
    except RuntimeError as error:
        if not isinstance(error, DeadKernelError) and "Kernel died" not in str(error):
            raise
        reached = _reached(output)
        raise LLMError(
            f"the kernel died {f'in cell {reached} of' if reached else 'at its start, before the cells of'} "
            f"{notebook.name}",
            code="run.crashed",
            next_step="see whether memory ran out, and run the report again; `workbench resume` goes on with its runs",
        ) from error
    _check_executed(notebook, output)
    # Widget state would put a whole drawing library into the notebook.
    book = nbformat.read(output, as_version=4)
    if book.metadata.pop("widgets", None) is not None:
        nbformat.write(book, output)
    return output


def check_notebook(notebook: str | os.PathLike[str]) -> None:
    """Refuse what is no notebook, before a kernel starts.

    Raises LLMValidationError data.file.
    """
    if not isinstance(notebook, str | os.PathLike) or not Path(notebook).is_file():
        raise LLMValidationError(
            f"there is no notebook {notebook}",
            code="data.file",
            next_step="give the path of an .ipynb with a cell tagged parameters",
        )
    import nbformat

    try:
        nbformat.validate(nbformat.read(notebook, as_version=4))
    except Exception as error:  # nbformat lets through whatever its reader stumbles over
        raise LLMValidationError(
            f"{notebook} is not a notebook: {type(error).__name__}: {error}",
            code="data.file",
            next_step="give the path of an .ipynb with a cell tagged parameters",
        ) from error


def check_folder(folder: Path) -> None:
    """Make the folder of a report, and refuse one that nothing can be written to, before a kernel starts.

    Raises LLMError storage.readonly.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise LLMError(
            f"the report cannot be written to {folder}: {error.strerror or error}",
            code="storage.readonly",
            next_step="choose a folder that can be written to with out= or --out",
        ) from error


def _cells(output: Path) -> list[Any]:
    """The cells of an executed notebook, without those that papermill adds."""
    import nbformat

    return [c for c in nbformat.read(output, as_version=4).cells if not _ADDED & set(c.metadata.get("tags", ()))]


def _reached(output: Path) -> int:
    """The number of the cell that was begun last; 0 when there is none."""
    begun = [n for n, cell in enumerate(_cells(output), 1) if cell.metadata.get("papermill", {}).get("start_time")]
    return max(begun, default=0)


def _check_executed(notebook: Path, output: Path) -> None:
    """Raise run.failed for a notebook that ended itself in a cell: papermill takes sys.exit(0) for a success."""
    cells, reached = _cells(output), _reached(output)
    left = sum(c.cell_type == "code" and not c.metadata.get("papermill", {}).get("end_time") for c in cells)
    last = [shown.get("ename") for cell in cells[:reached][-1:] for shown in cell.get("outputs", ())]
    if left or "SystemExit" in last:
        raise LLMError(
            f"cell {reached} of {notebook.name} ended the notebook; code cells not run after it: {left}",
            code="run.failed",
            next_step="take sys.exit() out of the notebook, and run the report again",
        )


def _said(text: object) -> str:
    return text_of(Exception(text))[:MAX_SAID]
