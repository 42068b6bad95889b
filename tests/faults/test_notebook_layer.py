"""The catalogue's layer `notebook`: a real kernel, a real server that stalls, and the stop button."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from faults.server import STALL, FaultServer, Pause, reply
from faults.shapes import document

pytestmark = pytest.mark.slow

MODELS = ("one", "two", "three")
PATIENCE_S = 20.0
OPENING = """
import asyncio, json, os, threading
from workbench import MultiModelEnsembler, Workbench
NAMES = ["lab:one", "lab:two", "lab:three"]
ensembler = MultiModelEnsembler(NAMES, log=LOG, timeout_s=60)
wb = Workbench.open(LOG, models=NAMES, timeout_s=60)
"""
LOOK = """
rows = wb.sql("select status, count(*) as n from attempts group by 1 order by 1").values.tolist()
ends = wb.sql("select status, count(*) as n from calls group by 1 order by 1").values.tolist()
runs = wb.sql("select status from runs order by start_unix_ns")["status"].tolist()
threads = [t.name for t in threading.enumerate() if t.name == "workbench-run-sync"]
tasks = [t.get_coro().__qualname__ for t in asyncio.all_tasks() if "workbench" in str(t.get_coro().cr_code.co_filename)]
print(json.dumps({"attempts": rows, "calls": ends, "runs": runs, "threads": threads, "tasks": tasks}))
"""
WAYS = {  # a cell, the requests that are under way then, and what the reader of the notebook sees
    "await ensemble": ("await ensembler.get_ensemble_response('How many?')", 3, "CancelledError"),
    "await run": ("await wb.run('general', concurrency=4)", 12, "CancelledError"),
    "sync ensemble": ("ensembler.get_ensemble_response_sync('How many?')", 3, "KeyboardInterrupt"),
    "sync run": ("wb.run_sync('general', concurrency=4)", 12, "KeyboardInterrupt"),
    "sync after await": (
        "await asyncio.sleep(0)\nensembler.get_ensemble_response_sync('How many?')",
        3,
        "KeyboardInterrupt",
    ),
}


@dataclass
class Kernel:
    """A kernel with a workbench in it, and the server that its models are on."""

    manager: KernelManager
    client: BlockingKernelClient
    server: FaultServer
    log: Path
    told: Mapping[str, Any] = field(default_factory=dict)

    def cell(self, code: str) -> str:
        """What a cell prints; an assertion when it fails."""
        said: list[str] = []

        def hear(message: Mapping[str, Any]) -> None:
            if message["header"]["msg_type"] == "stream":
                said.append(message["content"]["text"])

        answer = self.client.execute_interactive(code, timeout=PATIENCE_S, output_hook=hear, store_history=False)
        content = answer["content"]
        assert content["status"] == "ok", "\n".join(content.get("traceback", ()))
        return "".join(said)

    def look(self) -> Mapping[str, Any]:
        """What the log and the kernel say now."""
        return dict(json.loads(self.cell(LOOK)))

    def interrupted(self, code: str, *, requests: int) -> tuple[Mapping[str, Any], float, float]:
        """The reply of a cell that is interrupted once so many requests are under way.

        With it the seconds from the interrupt to the end of the last request, and to the reply.
        """
        before = len(self.server.seen)
        # A kernel aborts cells that reach it just after a failed one: that ends "Run all", and is not looked at here.
        asked = self.client.execute(code, store_history=False, stop_on_error=False)
        wait_for(lambda: len(self.server.seen) - before >= requests)
        start_s = time.monotonic()
        self.manager.interrupt_kernel()
        wait_for(lambda: all(seen.left_s for seen in self.server.seen[before:]))
        left_s = max(seen.left_s or 0.0 for seen in self.server.seen[before:]) - start_s
        while (answer := self.client.get_shell_msg(timeout=PATIENCE_S))["parent_header"].get("msg_id") != asked:
            pass
        return answer["content"], left_s, time.monotonic() - start_s


def wait_for(condition: Any) -> None:
    """Return as soon as it holds."""
    ends_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends_s, "it never came to that"
        time.sleep(0.002)


def counted(pairs: Any) -> dict[str, int]:
    return dict(pairs)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    """A kernel whose three models do not answer."""
    with FaultServer() as server:
        for name in MODELS:
            server.on(name, (STALL,))
        config = tmp_path / "workbench.toml"
        config.write_text(
            f'[providers.lab]\nwire = "openai"\nbase_url = "{server.url()}"\nauth = "none"\nlocal = true\n', "utf-8"
        )
        manager = KernelManager(kernel_name="python3")
        environment = {**os.environ, "WORKBENCH_CONFIG": str(config), "IPYTHONDIR": str(tmp_path / "ipython")}
        manager.start_kernel(env=environment, cwd=str(tmp_path))
        client = manager.blocking_client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=PATIENCE_S)
            running = Kernel(manager, client, server, tmp_path / "log")
            running.cell(f"LOG = {str(running.log)!r}\n{OPENING}")
            yield running
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def check_interrupt(kernel: Kernel, way: str) -> None:
    """Interrupt one way, look at everything that must hold, and go on in the next cell."""
    code, requests, name = WAYS[way]
    before = kernel.look()
    content, left_s, replied_s = kernel.interrupted(code, requests=requests)
    asked = len(kernel.server.seen)
    after = kernel.look()
    print(f"{way}: the last request ended after {left_s * 1e3:.0f} ms, the cell ended after {replied_s * 1e3:.0f} ms")
    assert (content["status"], content["ename"]) == ("error", name)
    assert left_s < 1.0
    assert replied_s < 5.0  # with the traceback, which takes the kernel longest
    for kind in ("attempts", "calls"):
        made = counted(after[kind])
        assert made.pop("cancelled") - counted(before[kind]).get("cancelled", 0) == requests
        assert made == {k: n for k, n in counted(before[kind]).items() if k != "cancelled"}
    assert after["runs"][len(before["runs"]) :] == (["cancelled"] if "run" in way else [])
    assert (after["threads"], after["tasks"]) == ([], [])
    # The next cell is answered, by requests of its own alone: what was interrupted sends none any more.
    for model in MODELS:
        kernel.server.on(model, (Pause(0.2), *reply(document("openai", "The answer is 4.", served=model))))
    assert kernel.cell("print((await ensembler.get_ensemble_response('And 2+2?')).answer)").strip() == "4"
    assert len(kernel.server.seen) - asked == len(MODELS)
    for model in MODELS:
        kernel.server.on(model, (STALL,))


def test_nb_interrupt_await_cancels_every_call_and_the_next_cell_works(kernel: Kernel) -> None:
    """The stop button during `await` ends all calls within 1 s, logs them as cancelled, and sends nothing more."""
    for way in ("await ensemble", "await run"):
        check_interrupt(kernel, way)


def test_nb_interrupt_sync_cancels_every_call_and_the_next_cell_works(kernel: Kernel) -> None:
    """The same holds for synchronous calls, which run on a loop in another thread, also after an `await`."""
    for way in ("sync ensemble", "sync run", "sync after await"):
        check_interrupt(kernel, way)


def test_nb_running_loop_synchronous_calls_work_in_a_cell(kernel: Kernel) -> None:
    """run_sync and get_ensemble_response_sync work inside the kernel's loop, without a patch of it."""
    for model in MODELS:
        kernel.server.on(model, reply(document("openai", "The answer is 4.", served=model)))
    code = """
    import sys
    merged = ensembler.get_ensemble_response_sync("How much is 2+2?")
    run = wb.run_sync("general", models=["simulated:strong"])
    await asyncio.sleep(0)
    again = ensembler.get_ensemble_response_sync("How much is 2+2?", quorum=3)
    print(merged.answer, again.confidence, "nest_asyncio" in sys.modules, asyncio.get_running_loop().is_running())
    """
    assert kernel.cell(code).split() == ["4", "1.0", "False", "True"]
    assert kernel.look()["runs"] == ["finished"]
