"""The catalogue's layer `notebook`, where a run is under way: restarts, failing and hanging cells, kernels that die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from workbench import FaultLab, Workbench
from workbench.errors import LLMError, LLMTimeoutError
from workbench.session.claims import claims_in
from workbench.study import report

pytestmark = [pytest.mark.slow, pytest.mark.long]

PATIENCE_S = 60.0
MODELS = ["lab:strong", "lab:weak"]
CELL = """
from workbench import Workbench
wb = Workbench.open(LOG, models=["lab:strong", "lab:weak"], timeout_s=30)
run = await wb.run("general", merge="majority_voting", concurrency=4, resume=True)
"""
# A run inside a report whose model answers ten items and then does what the test wants.
RUN = """
import os, time
from workbench import Workbench
from workbench.facts import Response

class Own:
    name = "own:model"
    asked = 0
    async def complete(self, request):
        self.asked += 1
        if self.asked > 10:
            {then}
        return Response(request_key=request.key, model=self.name, text="The answer is 4.", source="live")

wb = Workbench.open(log)
"""
CALL = "wb.run_sync('general', models=[Own()], concurrency=1)"


def notebook(path: Path, *sources: str) -> Path:
    """A notebook of these code cells after the one with the parameters."""
    cells: list[Any] = [
        {"cell_type": "code", "execution_count": None, "id": f"c{k}", "outputs": [], "source": source,
         "metadata": {} if k else {"tags": ["parameters"]}}
        for k, source in enumerate(["log = None\nrun_id = None", *sources])
    ]  # fmt: skip
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}), "utf-8")
    return path


def outputs(path: Path) -> list[Any]:
    """All outputs of an executed notebook."""
    return [o for cell in json.loads(path.read_text("utf-8"))["cells"] for o in cell.get("outputs", [])]


@contextmanager
def reported(tmp_path: Path) -> Iterator[tuple[Workbench, str, Path]]:
    """A log with a finished run, and where its report would lie."""
    with Workbench.open(tmp_path / "log") as wb:
        run = wb.run_sync("general", models=["simulated:weak"])
        yield wb, run.run_id, tmp_path / "out" / run.run_id / "source.ipynb"


def rows(wb: Workbench) -> list[tuple[str, str, str | None]]:
    """Source, status and code of every run but the one that is reported."""
    query = "select source, status, failure->>'code' from runs where name <> 'general' or source = 'live' order by 1"
    return wb.log.rows(query)


# --- nb-restart -----------------------------------------------------------------------------------------


def ready(manager: KernelManager) -> BlockingKernelClient:
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=PATIENCE_S)
    return client


def test_nb_restart_the_same_cell_goes_on_and_recomputes_nothing(tmp_path: Path) -> None:
    """A kernel restarted in the middle of a run: the cell, run again, asks for no answer that the log has."""
    with FaultLab(["strong", "weak"], latency=0.3) as lab:
        config = tmp_path / "workbench.toml"
        config.write_text(lab.toml(), "utf-8")
        manager = KernelManager(kernel_name="python3")
        environment = {**os.environ, "WORKBENCH_CONFIG": str(config), "IPYTHONDIR": str(tmp_path / "ipython")}
        manager.start_kernel(env=environment, cwd=str(tmp_path))
        try:
            code = f"LOG = {str(tmp_path / 'log')!r}\n{CELL}"
            client = ready(manager)
            client.execute(code, store_history=False)
            ends_s = time.monotonic() + PATIENCE_S
            while lab.accepted.total < 30:
                assert time.monotonic() < ends_s, "the run never came so far"
                time.sleep(0.002)
            client.stop_channels()
            manager.restart_kernel(now=True)
            assert lab.quiet(within_s=PATIENCE_S)
            before = lab.accepted
            with lab.open(tmp_path / "log", models=MODELS) as wb:
                assert wb.log.rows("select status, failure->>'code' from runs") == [("crashed", "run.crashed")]
                answered = {key for (key,) in wb.log.rows("select idempotency_key from every_attempt where ok")}
            assert 0 < len(answered) < 96
            client = ready(manager)
            reply = client.execute_interactive(f"{code}\nprint(run.resumed)", timeout=PATIENCE_S, store_history=False)
            assert reply["content"]["status"] == "ok", reply["content"]
            client.stop_channels()
        finally:
            manager.shutdown_kernel(now=True)
        after = lab.accepted
        assert [key for key in answered if after.by_key[key] != before.by_key[key]] == []
        assert len(after.by_key) == 96  # two models and 48 items: whatever was asked twice was under way, with its key
        with lab.open(tmp_path / "log", models=MODELS) as wb:
            assert wb.log.rows("select status from runs") == [("finished",)]
            calls = Counter(wb.log.rows("select item_id, member from calls where ok"))
            assert (len(calls), set(calls.values())) == (96, {1})


# --- reports --------------------------------------------------------------------------------------------


def test_nb_failing_cell_fails_the_report_and_its_run_and_names_the_cell(tmp_path: Path) -> None:
    """run.failed with the cell's number; the traceback stays in the notebook, and the report's row has failed."""
    source = notebook(tmp_path / "source.ipynb", "x = 1", "print('before')", "y = 2", "1 / 0", "print('after')")
    with reported(tmp_path) as (wb, run_id, executed):
        with pytest.raises(LLMError) as caught:
            wb.report(source, run=run_id, out=tmp_path / "out")
        assert (caught.value.code, caught.value.message[:7]) == ("run.failed", "cell 5 ")
        assert rows(wb) == [("report", "failed", "run.failed")]
        assert wb.get_run().run_id == run_id  # a report is not the latest run
        ((spec,),) = wb.log.rows("select spec from runs where source = 'report'")
        assert json.loads(spec) == {"kind": "report", "notebook": "source.ipynb", "run": run_id}
    (error,) = [o for o in outputs(executed) if o["output_type"] == "error"]
    assert error["ename"] == "ZeroDivisionError"
    done = subprocess.run(
        [sys.executable, "-m", "workbench", "--log", str(tmp_path / "log"), "report", "make", run_id,
         "--notebook", str(source), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cell 5 of source.ipynb failed: ZeroDivisionError" in done.stderr


def test_nb_kernel_dies_closes_the_report_and_the_run_in_it_as_crashed(tmp_path: Path) -> None:
    """run.crashed within 60 s; what the kernel was running is closed as crashed, and goes on elsewhere."""
    source = notebook(tmp_path / "source.ipynb", RUN.format(then="os.kill(os.getpid(), 9)"), CALL)
    with reported(tmp_path) as (wb, run_id, _):
        start_s = time.monotonic()
        with pytest.raises(LLMError) as caught:
            wb.report(source, run=run_id, out=tmp_path / "out")
        assert time.monotonic() - start_s < 60
        assert (caught.value.code, "cell 3 of source.ipynb" in caught.value.message) == ("run.crashed", True)
        assert rows(wb) == [("live", "crashed", "run.crashed"), ("report", "crashed", "run.crashed")]
        assert list(claims_in(wb.log.folder).iterdir()) == []
        assert wb.log.rows("select count(*) from calls where provider = 'own' and ok") == [(10,)]


def test_nb_kernel_dies_with_its_report_and_the_next_start_closes_both(tmp_path: Path) -> None:
    """When the process that makes the report dies too, the next to open the log finds both runs and closes them."""
    then = "os.kill(os.getppid(), 9); os.kill(os.getpid(), 9)"
    source = notebook(tmp_path / "source.ipynb", RUN.format(then=then), CALL)
    with reported(tmp_path) as (_, run_id, _):
        pass
    code = f"from workbench import Workbench; Workbench.open({str(tmp_path / 'log')!r}).report({str(source)!r}, "
    code += f"run={run_id!r}, out={str(tmp_path / 'out')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == -9
    with Workbench.open(tmp_path / "log") as wb:
        assert rows(wb) == [("live", "crashed", "run.crashed"), ("report", "crashed", "run.crashed")]


def test_nb_cell_hang_ends_the_report_and_the_run_in_it_as_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timeout.run names the cell; the kernel is ended, and what it was running has timed out with it."""
    monkeypatch.setattr(report, "CELL_TIMEOUT_S", 6)
    source = notebook(tmp_path / "source.ipynb", RUN.format(then="time.sleep(10**6)"), CALL)
    with reported(tmp_path) as (wb, run_id, executed):
        with pytest.raises(LLMTimeoutError) as caught:
            wb.report(source, run=run_id, out=tmp_path / "out")
        assert (caught.value.code, "cell 3 of source.ipynb" in caught.value.message) == ("timeout.run", True)
        assert rows(wb) == [("live", "timeout", "timeout.run"), ("report", "timeout", "timeout.run")]
        assert executed.is_file()
