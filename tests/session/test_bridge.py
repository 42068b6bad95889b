"""Coroutines from synchronous code: results, errors, and interrupts that leave nothing running."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from workbench.session.bridge import run_sync

HERE: contextvars.ContextVar[str] = contextvars.ContextVar("here", default="nowhere")


async def double(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


async def fail() -> None:
    await asyncio.sleep(0)
    raise LookupError("as it was raised")


def in_a_loop(call: Any) -> Any:
    """What a call returns inside a running event loop, as in a notebook cell."""

    async def cell() -> Any:
        return call()

    return asyncio.run(cell())


def test_without_a_loop_the_result_comes_back():
    """A script gets the value."""
    assert run_sync(double(21)) == 42


def test_nb_running_loop_the_result_comes_back():
    """Inside a running event loop the value comes back too, more than once."""
    assert in_a_loop(lambda: (run_sync(double(1)), run_sync(double(2)))) == (2, 4)


def test_nb_running_loop_two_levels_deep():
    """Synchronous code that is called by a coroutine of run_sync may use it again."""

    async def outer() -> int:
        return run_sync(double(5))

    assert in_a_loop(lambda: run_sync(outer())) == 10


@pytest.mark.parametrize("around", [lambda call: call(), in_a_loop], ids=["script", "running loop"])
def test_an_exception_is_raised_as_it_is(around: Any):
    """Type and message pass the bridge, with or without a loop."""
    with pytest.raises(LookupError, match="as it was raised"):
        around(lambda: run_sync(fail()))


def test_nb_running_loop_context_variables_are_those_of_the_caller():
    """The coroutine sees the caller's context, so that spans find their parents."""

    async def look() -> str:
        return HERE.get()

    def cell() -> str:
        HERE.set("in the cell")
        return run_sync(look())

    assert in_a_loop(cell) == "in the cell"


def test_nb_running_loop_no_thread_stays_behind():
    """When run_sync returns, its helper thread has ended."""
    in_a_loop(lambda: run_sync(double(1)))
    assert not [t for t in threading.enumerate() if t.name == "workbench-run-sync"]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler, lambda *_: None])
def test_nb_running_loop_the_handler_of_interrupts_is_put_back(handler: Any):
    """What the kernel has installed is there again afterwards; interrupts that are ignored stay so meanwhile."""
    before = signal.signal(signal.SIGINT, handler)
    seen: list[Any] = []

    async def look() -> None:
        seen.append(signal.getsignal(signal.SIGINT))

    try:
        in_a_loop(lambda: (signal.signal(signal.SIGINT, handler), run_sync(look())))
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIG_IGN if handler is signal.SIG_IGN else signal.default_int_handler]


INTERRUPTED = """
    import asyncio, signal, sys, threading
    from workbench import Workbench
    from workbench.facts import Response

    class Slow:
        name = "test:slow"
        started = threading.Event()
        async def complete(self, request):
            self.started.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0.5)  # closing a connection takes a moment
                print("model ended", flush=True)
                raise

    signal.signal(signal.SIGINT, signal.default_int_handler)  # who started the tests may ignore it

    def interrupt():
        Slow.started.wait(30)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    wb = Workbench.open(sys.argv[1])
    threading.Thread(target=interrupt, daemon=True).start()

    def script():
        try:
            wb.run_sync("general", models=[Slow()], concurrency=1)
        except KeyboardInterrupt:
            print("interrupted", flush=True)

    async def cell():
        script()

    if sys.argv[2] == "cell":  # as a kernel does it: a loop without asyncio.run's own signal handler
        asyncio.new_event_loop().run_until_complete(cell())
    elif sys.argv[2] == "cell with await":  # a handler that asks the loop, which stands still
        signal.signal(signal.SIGINT, lambda *_: asyncio.get_running_loop().call_soon(print, "the loop was asked"))
        asyncio.new_event_loop().run_until_complete(cell())
    else:
        script()
    print("threads", [t.name for t in threading.enumerate() if t.name == "workbench-run-sync"])
    print(wb.sql("select status from runs")["status"].tolist())
    print(wb.sql("select ok, failure_code from calls").values.tolist())
"""


@pytest.mark.parametrize("where", ["script", "cell", "cell with await"])
def test_nb_interrupt_cancels_the_work(tmp_path: Path, where: str):
    """An interrupt is a KeyboardInterrupt once the open call was cancelled, has ended and is logged."""
    file = tmp_path / "interrupted.py"
    file.write_text(textwrap.dedent(INTERRUPTED), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(file), str(tmp_path / "log"), where],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "model ended",
        "interrupted",
        "threads []",
        "['cancelled']",
        "[[False, 'cancelled']]",
    ]
