"""A real JupyterLab over a copy of a notebook, and what a user does in it."""

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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
IDLE = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
SETTINGS = {
    # Every cell is in the page, also those out of sight; no pop-up asks about news.
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none", "scrollPastEnd": False},
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false", "checkForUpdates": False},
}


class Lab(NamedTuple):
    url: str
    file: Path

    @property
    def code_cells(self) -> int:
        """How many code cells the notebook has."""
        return sum(cell["cell_type"] == "code" for cell in json.loads(self.file.read_text("utf-8"))["cells"])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def served(notebook: str, tmp_path: Path) -> Iterator[Lab]:
    """JupyterLab on loopback over a folder with an unexecuted copy of the notebook; its log is tmp_path / "log"."""
    work = tmp_path / "work"
    work.mkdir()
    book = json.loads((NOTEBOOKS / notebook).read_text(encoding="utf-8"))
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    (work / notebook).write_text(json.dumps(book), encoding="utf-8")
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
            yield Lab(url, work / notebook)
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
    """The outputs of a saved notebook; none while it is being written."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except ValueError:
        return []
    return [o for c in cells for o in c.get("outputs", [])]


class Heard(NamedTuple):
    """What a page has asked for, and what went wrong in it."""

    requests: list[str]
    errors: list[str]


def opened(browser: Any, lab: Lab) -> tuple[Any, Heard]:
    """A page with the notebook, connected to its kernel, and what is heard of it from its first request on."""
    page, heard = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page(), Heard([], [])
    page.on("request", lambda request: heard.requests.append(request.url))
    page.on("pageerror", lambda error: heard.errors.append(str(error)))
    page.goto(f"{lab.url}/lab/tree/{lab.file.name}", timeout=60_000)
    page.wait_for_selector(IDLE, timeout=60_000)
    return page, heard


def run_all(page: Any, lab: Lab) -> None:
    """Run all cells to the end, none of them with an error; once more where the page lost its kernel on the way."""
    for _ in range(3):
        _start_all(page)
        with suppress(playwright.TimeoutError):
            # The last code cell has a number when all have run.
            page.wait_for_function(
                "n => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
                ".filter(p => /\\[\\d+\\]/.test(p.textContent)).length === n",
                arg=lab.code_cells, timeout=60_000,
            )  # fmt: skip
            break
    else:
        prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_text_contents()
        dialogs = page.locator(".jp-Dialog").all_text_contents()
        pytest.fail(f"the cells have not all run: {prompts}; dialogs: {dialogs}")
    page.wait_for_selector(IDLE, timeout=60_000)
    for kind in ("error", "stderr"):
        assert page.locator(f'.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.{kind}"]').count() == 0


def _start_all(page: Any) -> None:
    """Run all cells; asked again where the page has just connected to its kernel and drops the first request.

    A dialog that the page opens meanwhile, such as the choice of a kernel that is slow to come, is accepted.
    """
    accept = page.locator(".jp-Dialog-button.jp-mod-accept")
    for _ in range(12):
        if accept.count():
            accept.first.click()
        try:
            page.locator(".jp-Notebook").click(timeout=5_000)
            page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click(timeout=5_000)
            page.locator('li[data-command="runmenu:run-all"]').click(timeout=5_000)
            page.wait_for_function(
                "() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
                ".some(p => /\\[[*\\d]/.test(p.textContent))",
                timeout=5_000,
            )
        except playwright.TimeoutError:
            continue
        return
    dialogs = page.locator(".jp-Dialog").all_text_contents()
    pytest.fail(f"JupyterLab did not start a cell; dialogs: {dialogs}")
