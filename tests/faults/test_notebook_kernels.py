"""The catalogue's layer `notebook`: several kernels on one log, forks of them, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from tests.processes import ended, environment
from workbench.record.log import Log

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and fork are not for Windows"),
]
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
NOISE = ("Task was destroyed", "never awaited", "Traceback", "Exception ignored", "lock")
OPENING = """
import os, sys
from workbench.facts import Score, Span
from workbench.record.log import Log
def score(item):
    return Score(item_id=str(item), model="m", scorer="s", value=1.0, run_id="r")
def span(name):
    return Span(trace_id="t", span_id=str(name), parent_id=None, component="c", operation="o", start_unix_ns=1,
                duration_ms=1.0, ok=True)
log = Log.open(LOG)
"""
TEN_THOUSAND = """
for n in range(0, 10_000, 50):
    log.write(*(score(f"{NAME}/{n + i}") for i in range(50)))
    log.write(span(f"{NAME}/{n}"))
    if n % 2500 == 0:
        mine = log.rows("select count(*) from scores where item_id like ?", [f"{NAME}/%"])
        assert mine == [(n + 50,)], mine
"""


@dataclass
class Kernel:
    """A kernel of its own process with a log open in it. said: what it printed, on both ways."""

    manager: KernelManager
    client: BlockingKernelClient
    output: IO[str]
    said: list[str] = field(default_factory=list)

    def ask(self, code: str) -> str:
        """Send a cell and wait for nothing; the id of its message."""
        return self.client.execute(code, store_history=False)

    def finish(self, asked: str) -> Mapping[str, Any]:
        """The reply to a cell."""
        while True:
            answer = self.client.get_shell_msg(timeout=PATIENCE_S)
            if answer["parent_header"].get("msg_id") == asked:
                return dict(answer["content"])

    def cell(self, code: str) -> str:
        """What a cell prints; an assertion when it fails."""
        said: list[str] = []

        def hear(message: Mapping[str, Any]) -> None:
            if message["header"]["msg_type"] == "stream":
                said.append(message["content"]["text"])

        answer = self.client.execute_interactive(code, timeout=PATIENCE_S, output_hook=hear, store_history=False)
        assert answer["content"]["status"] == "ok", "\n".join(answer["content"].get("traceback", ()))
        return "".join(said)

    def wrote(self) -> str:
        """What its process wrote to the terminal it was started from."""
        self.output.seek(0)
        return self.output.read()

    @property
    def pid(self) -> int:
        """Its process."""
        return int(self.cell("print(os.getpid())"))


@contextmanager
def kernel(folder: Path, name: str, *, runs: str = "") -> Iterator[Kernel]:
    """A kernel in which LOG and NAME are set and the log is open; runs: code that it will be given."""
    folder.mkdir(exist_ok=True)
    manager = KernelManager(kernel_name="python3")
    place = {**environment(runs), "IPYTHONDIR": str(folder / "ipython")}
    with (folder / f"{name}.txt").open("w+", encoding="utf-8") as output:
        manager.start_kernel(env=place, cwd=str(folder), stdout=output, stderr=output)
        client = manager.blocking_client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=PATIENCE_S)
            running = Kernel(manager, client, output)
            running.cell(f"LOG, NAME = {str(folder / 'log')!r}, {name!r}\n{OPENING}")
            yield running
        finally:
            client.stop_channels()
            if manager.is_alive():
                manager.shutdown_kernel(now=True)
            manager.cleanup_resources()


def script(folder: Path, code: str) -> subprocess.Popen[str]:
    """A program with the log open in it."""
    source = f"LOG, NAME = {str(folder / 'log')!r}, 'script'\n{OPENING}\n{textwrap.dedent(code)}"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(code),
    )


def counts(log: Log) -> tuple[int, int, int]:
    """Scores, different ones, and spans."""
    [(scores,)] = log.rows("select count(*) from scores")
    [(different,)] = log.rows("select count(distinct item_id) from scores")
    [(spans,)] = log.rows("select count(*) from spans")
    return scores, different, spans


# -- nb-two-kernels


def test_nb_two_kernels_and_a_papermill_run_write_ten_thousand_rows_each(tmp_path: Path) -> None:
    """Three processes write at once while another polls: 30,000 rows, none doubled, and nobody is shown a lock."""
    source = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(f"LOG, NAME = {str(tmp_path / 'log')!r}, 'report'\n{OPENING}{TEN_THOUSAND}")],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(source, tmp_path / "in.ipynb")
    with kernel(tmp_path, "one") as one, kernel(tmp_path, "two") as two:
        log = Log.open(tmp_path / "log")
        command = [sys.executable, "-m", "papermill", "--no-progress-bar", "in.ipynb", "out.ipynb"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path / "ipython")}
        report = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        asked = [(k, k.ask(TEN_THOUSAND)) for k in (one, two)]
        seen = [0]
        while report.poll() is None or seen[-1] < 20_000:
            [(rows, different)] = log.rows("select count(*), count(distinct item_id) from scores")
            assert rows == different
            assert rows >= seen[-1]
            seen.append(rows)
            assert len(seen) < 5_000
            time.sleep(0.05)
        said, _ = report.communicate()
        assert report.returncode == 0, said
        answers = [k.finish(message) for k, message in asked]
        assert [a["status"] for a in answers] == ["ok", "ok"], answers
        assert counts(log) == (30_000, 30_000, 600)
        for text in (said, one.wrote(), two.wrote(), (tmp_path / "out.ipynb").read_text("utf-8")):
            assert "storage.locked" not in text
            assert "Could not set lock" not in text
    print(f"{len(seen)} polls")


# -- nb-fork


FORKED = """
import json
log.write(*(score(f"before/{n}") for n in range(20)))
assert log.ingest() >= 20           # from here on an instance of DuckDB is kept in this process
log.write(score("spooled"), *(score(f"spooled/{n}") for n in range(5)))
log.write(span("held back"))        # a span that waits to be written, and a timer that would
pid = os.fork()
if pid == 0:
    import signal
    signal.alarm(20)
    handles = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
               if os.path.exists(f"/proc/self/fd/{fd}")]
    inherited = [h for h in handles if h.startswith(LOG)]
    log.write(score("child"))
    log.write(span("of the child"))
    seen = log.rows("select count(*) from scores")[0][0]
    mine = [path.read_bytes() for path in log.spool.glob(f"*-{os.getpid()}-*.spool")]
    mixed = [word for word in ("held back", "spooled", "before") if any(word.encode() in data for data in mine)]
    print(json.dumps({"inherited": inherited, "seen": seen, "files": len(mine), "mixed": mixed}), flush=True)
    log.close()
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
log.write(*(score(f"after/{n}") for n in range(10)))
print(json.dumps({"code": code, "seen": log.rows("select count(*) from scores")[0][0]}), flush=True)
log.close()
"""


def test_nb_fork_child_has_a_file_of_its_own_and_nothing_of_the_parents(tmp_path: Path) -> None:
    """Forked with rows spooled, a span held back and DuckDB kept open, a child writes, reads and ends for itself."""
    out, said = ended(script(tmp_path, FORKED))
    assert said == ""
    child, parent = [json.loads(line) for line in out.splitlines()]
    assert child == {"inherited": [], "seen": 27, "files": 1, "mixed": []}
    assert parent == {"code": 0, "seen": 37}
    log = Log.open(tmp_path / "log")
    assert counts(log) == (37, 37, 2)
    assert sorted(name for (name,) in log.rows("select span_id from spans")) == ["held back", "of the child"]


def test_nb_fork_child_that_ends_at_once_writes_nothing_of_the_parents(tmp_path: Path) -> None:
    """What the parent holds back is written by the parent alone, also when the child runs what is run at the end."""
    code = """
    log.write(span("of the parent"))
    if os.fork() == 0:
        sys.exit()                      # with everything that is registered for the end of a program
    os.wait()
    for path in log.spool.glob("*.spool"):
        print(f"-{os.getpid()}-" in path.name, flush=True)
    os._exit(0)                         # the parent itself dies without writing it
    """
    out, said = ended(script(tmp_path, code))
    assert said == ""
    assert "False" not in out
    assert counts(Log.open(tmp_path / "log"))[2] == out.count("True")


def test_nb_fork_pool_of_a_cell_writes_through_the_log_of_the_kernel(tmp_path: Path) -> None:
    """Workers that multiprocessing forks in a cell use the log that the cell opened, and lose nothing."""
    code = """
    import multiprocessing
    log.ingest()
    def work(n):
        log.write(*(score(f"worker/{n}/{i}") for i in range(10)))
        log.write(span(f"worker/{n}"))
        log.flush()
        return log.rows("select count(*) from scores where item_id like ?", [f"worker/{n}/%"])[0][0]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        found = pool.map(work, range(30), chunksize=1)
        pool.close()
        pool.join()
    log.write(score("kernel"))
    print(set(found), log.rows("select count(*), count(distinct item_id) from scores"))
    """
    with kernel(tmp_path, "forks", runs=code) as forks:
        assert forks.cell(textwrap.dedent(code)).split("\n")[0] == "{10} [(301, 301)]"
        assert counts(Log.open(tmp_path / "log")) == (301, 301, 30)


# -- nb-exit


ENDINGS = {
    "the end": "",
    "sys.exit": "sys.exit(3)",
    "sys.exit with words": "sys.exit('it did not work')",
    "a thread is left": "import threading as t, time\nt.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "a call is under way": """
import asyncio
from workbench import MultiModelEnsembler
async def main():
    ensembler = MultiModelEnsembler(["simulated:strong", "simulated:weak"], log=LOG)
    call = asyncio.create_task(ensembler.get_ensemble_response("How much is 2 + 2?"))
    await asyncio.sleep(0.01)
    sys.exit(0)
asyncio.run(main())
""",
}
PENDING = """
log.write(*(score(n) for n in range(10)))
for n in range(10):
    log.write(span(n))
"""


@pytest.mark.parametrize("how", ENDINGS)
def test_nb_exit_of_a_program_writes_what_is_pending(tmp_path: Path, how: str) -> None:
    """However a program comes to its end, rows and held-back spans are in the log within 2 s, without any noise."""
    process = script(tmp_path, f"print('open', flush=True)\n{PENDING}{ENDINGS[how]}")
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    start = time.monotonic()
    _, said = ended(process)
    assert time.monotonic() - start < 2 + 3 * (how == "a call is under way")  # which imports the whole package first
    assert not [word for word in NOISE if word in said], said
    scores, different, spans = counts(Log.open(tmp_path / "log"))
    assert (scores, different) == (10, 10)
    assert spans >= 10


def test_nb_exit_by_sigterm_writes_what_is_pending(tmp_path: Path) -> None:
    """A program that is asked to end by SIGTERM, as schedulers do, ends within 2 s with everything in the log."""
    process = script(tmp_path, f"import time\n{PENDING}print('written', flush=True)\ntime.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    _, said = ended(process)
    assert time.monotonic() - start < 2
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert not [word for word in NOISE if word in said], said
    assert counts(Log.open(tmp_path / "log")) == (10, 10, 10)


@pytest.mark.parametrize("how", ["shutdown", "SIGTERM"])
def test_nb_exit_of_a_kernel_writes_what_is_pending(tmp_path: Path, how: str) -> None:
    """A kernel that is shut down, or gets SIGTERM, with rows and a call pending ends within 2 s and says nothing."""
    call = """
    import asyncio
    from workbench import MultiModelEnsembler
    ensembler = MultiModelEnsembler(["simulated:strong", "simulated:weak"], log=LOG)
    pending = [asyncio.create_task(ensembler.get_ensemble_response(f"How much is {n} + 2?")) for n in range(20)]
    """
    with kernel(tmp_path, "ends") as ends:
        pid = ends.pid
        ends.cell(textwrap.dedent(call) + PENDING)
        start = time.monotonic()
        if how == "shutdown":
            ends.manager.shutdown_kernel()
        else:
            os.kill(pid, signal.SIGTERM)
            while ends.manager.is_alive():
                assert time.monotonic() - start < 10, "the kernel does not end"
                time.sleep(0.01)
        took_s = time.monotonic() - start
        wrote = ends.wrote()
    assert not [word for word in NOISE if word in wrote], wrote
    scores, different, spans = counts(Log.open(tmp_path / "log"))
    assert (scores, different) == (10, 10)
    assert spans >= 10
    assert took_s < 2 + (how == "shutdown")  # of which a kernel takes one to say goodbye
