"""Report notebooks, run by papermill with parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.errors import LLMError, LLMTimeoutError, LLMValidationError

CELL_TIMEOUT_S = 600


def _kernel_manager() -> type:
    """Kernels whose sockets are encrypted: a plain one warns on stderr at every start."""
    from jupyter_client.manager import AsyncKernelManager

    return type("KernelManager", (AsyncKernelManager,), {"transport_encryption": "auto"})


def run_notebook(notebook: Path, output: Path, parameters: Mapping[str, Any]) -> Path:
    """Execute the notebook with the parameters; the executed notebook is kept in `output` even when a cell fails.

    Raises LLMValidationError data.file when there is no such notebook; LLMError run.failed with the failing
    cell's number, or run.crashed when the kernel dies; LLMTimeoutError timeout.run after 600 s in one cell.
    """
    if not notebook.is_file():
        raise LLMValidationError(
            f"there is no notebook {notebook}",
            code="data.file",
            next_step="give the path of an .ipynb with a cell tagged parameters",
        )
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    try:
        nbformat.validate(nbformat.read(notebook, as_version=4))
    except Exception as error:  # nbformat lets through whatever its reader stumbles over
        raise LLMValidationError(
            f"{notebook} is not a notebook: {type(error).__name__}: {error}",
            code="data.file",
            next_step="give the path of an .ipynb with a cell tagged parameters",
        ) from error
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
            f"cell {error.cell_index} of {notebook.name} failed: {error.ename}: {error.evalue}",
            code="run.failed",
            next_step=f"read the traceback in {output.name} beside the report",
        ) from error
    except CellTimeoutError as error:
        raise LLMTimeoutError(
            f"a cell of {notebook.name} ran longer than {CELL_TIMEOUT_S} s",
            code="timeout.run",
            next_step="make the run smaller, or split the cell",
        ) from error
    except DeadKernelError as error:
        raise LLMError(
            f"the kernel died while it ran {notebook.name}",
            code="run.crashed",
            next_step="see whether memory ran out, and run the report again",
        ) from error
    # Widget state would put a whole drawing library into the notebook.
    book = nbformat.read(output, as_version=4)
    if book.metadata.pop("widgets", None) is not None:
        nbformat.write(book, output)
    return output
