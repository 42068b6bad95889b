"""The headline notebook in a real JupyterLab, run by a real browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "01_merge_strategies.ipynb"
SETTINGS = {
    # Every cell is in the page, also those out of sight; no pop-up asks about news.
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none", "scrollPastEnd": False},
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false", "checkForUpdates": False},
}


class Lab(NamedTuple):
    url: str
    folder: Path


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def lab(chromium: str, tmp_path: Path) -> Iterator[Lab]:
    """JupyterLab on loopback over a folder with an unexecuted copy of the notebook."""
    work = tmp_path / "work"
    work.mkdir()
    book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    (work / NOTEBOOK.name).write_text(json.dumps(book), encoding="utf-8")
    for name, settings in SETTINGS.items():
        file = tmp_path / "settings" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings), encoding="utf-8")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ, "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"), "WORKBENCH_LOG": str(tmp_path / "log"),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "IPYTHONDIR": str(tmp_path / "ipython"),
    }  # fmt: skip
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=", "--allow-root", f"--ServerApp.root_dir={work}",
    ]  # fmt: skip
    with (tmp_path / "lab.log").open("wb") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            wait_for(f"{url}/api", server, tmp_path / "lab.log")
            yield Lab(url, work)
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait(timeout=20)
    shutil.rmtree(tmp_path / "runtime", ignore_errors=True)


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text(errors="replace")
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not answer within 60 s:\n{log.read_text(errors='replace')}")


def outputs(path: Path) -> list[Any]:
    return [o for c in json.loads(path.read_text(encoding="utf-8"))["cells"] for o in c.get("outputs", [])]


def run_all(page: Any) -> None:
    """Run all cells; asked again where the page has just connected to its kernel and drops the first request."""
    for _ in range(6):
        page.locator(".jp-Notebook").click()
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
        page.locator('li[data-command="runmenu:run-all"]').click()
        try:
            page.wait_for_function(
                "() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
                ".some(p => /\\[[*\\d]/.test(p.textContent))",
                timeout=5_000,
            )
        except playwright.TimeoutError:
            continue
        return
    pytest.fail("JupyterLab did not start a cell")


def test_the_headline_notebook_runs_in_jupyterlab(lab: Lab, chromium: str):
    """Run all: every cell ends without an error, figures are drawn, the verdicts stand in a table, nothing goes out."""
    code_cells = sum(c["cell_type"] == "code" for c in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"])
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
        requests: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{lab.url}/lab/tree/{NOTEBOOK.name}", timeout=60_000)
        idle = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
        page.wait_for_selector(idle, timeout=60_000)
        run_all(page)
        # The last code cell has a number when all have run.
        page.wait_for_function(
            "n => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
            ".filter(p => /\\[\\d+\\]/.test(p.textContent)).length === n",
            arg=code_cells, timeout=120_000,
        )  # fmt: skip
        page.wait_for_selector(idle, timeout=60_000)

        assert page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]').count() == 0
        assert page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
        page.wait_for_function(
            "() => document.querySelectorAll('.js-plotly-plot .main-svg').length > 0", timeout=30_000
        )
        assert page.locator(".js-plotly-plot").count() == 2
        for k in range(2):
            assert page.locator(".js-plotly-plot").nth(k).locator(".scatterlayer .point").count() > 0
        tables = page.locator(".workbench-table table")
        assert tables.count() >= 3
        verdicts = tables.nth(1)
        header = [h.text_content() for h in verdicts.locator("th").all()]
        assert ("verdict" in header, "split verdict" in header) == (True, True)
        rows = [[c.text_content() for c in r.locator("td").all()] for r in verdicts.locator("tbody tr").all()]
        assert [row[0] for row in rows] == ["majority_voting", "weighted_consensus", "best_of_n"]
        assert {row[header.index("verdict")] for row in rows} <= {"better", "worse", "cannot tell"}
        assert verdicts.is_visible()
        assert [
            url for url in requests if not url.startswith((lab.url, lab.url.replace("http", "ws"), "data:", "blob:"))
        ] == []
        assert errors == []

        page.keyboard.press("Control+s")
        until = time.monotonic() + 20
        while not outputs(lab.folder / NOTEBOOK.name) and time.monotonic() < until:
            page.wait_for_timeout(200)
        browser.close()
    saved = outputs(lab.folder / NOTEBOOK.name)
    assert saved
    assert [o for o in saved if o["output_type"] == "error"] == []
