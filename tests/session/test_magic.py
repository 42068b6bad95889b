"""The magics in a real kernel: what a cell shows, what it leaves behind, and how it fails."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from workbench import Workbench
from workbench.errors import LLMValidationError
from workbench.session import magic

PATIENCE_S = 60.0
OPENING = """
%load_ext workbench
import asyncio, json
from workbench import Workbench
wb = Workbench.open(LOG)
"""


@dataclass
class Said:
    """What a cell showed: printed text, displayed data, its value, and its error."""

    printed: str = ""
    displays: list[str] = field(default_factory=list)
    value: str | None = None
    error: Mapping[str, Any] | None = None
    errors: int = 0


@dataclass
class Kernel:
    """A kernel with the extension and an open Workbench."""

    client: BlockingKernelClient
    log: Path

    def cell(self, code: str) -> Said:
        """What one cell showed."""
        said = Said()

        def hear(message: Mapping[str, Any]) -> None:
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "stream":
                said.printed += content["text"]
            elif kind == "display_data":
                said.displays.append(content["data"]["text/plain"])
            elif kind == "execute_result":
                said.value = content["data"]["text/plain"]
            elif kind == "error":
                said.error, said.errors = content, said.errors + 1

        answer = self.client.execute_interactive(code, timeout=PATIENCE_S, output_hook=hear, stop_on_error=False)
        assert (answer["content"]["status"] == "error") == (said.error is not None)
        return said

    def told(self, expression: str) -> Any:
        """The value of an expression."""
        said = self.cell(f"print(json.dumps({expression}))")
        assert said.error is None, said.error
        return json.loads(said.printed)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("a notebook")
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env={**os.environ, "IPYTHONDIR": str(folder / "ipython")}, cwd=str(folder))
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE_S)
        running = Kernel(client, folder / "log")
        opened = running.cell(f"LOG = {str(running.log)!r}\n{OPENING}")
        assert opened.error is None, opened.error
        yield running
    finally:
        manager.shutdown_kernel()  # in its own time, so that it tells what it has run
        client.stop_channels()


def short(said: Said) -> tuple[str, str]:
    """Type and text of an error, of which nothing but two lines may be shown."""
    assert said.error is not None
    assert said.errors == 1
    lines = said.error["traceback"]
    assert len(lines) == 2
    assert lines[1].startswith("next: ")
    assert lines[0].startswith(f"{said.error['ename']}: ")
    return said.error["ename"], lines[0]


# -- SQL


@pytest.mark.slow
def test_wbsql_gives_the_log_of_the_workbench_opened_last_as_a_frame(kernel: Kernel) -> None:
    """The cell's value is a frame; -o stores it under a name and shows nothing; --log asks another folder."""
    shown = kernel.cell("%%wbsql\nselect 6 * 7 as answer\n")
    assert shown.value is not None
    assert shown.value.split() == ["answer", "0", "42"]
    stored = kernel.cell("%%wbsql -o found\nselect status, count(*) as n\nfrom runs group by 1 -- none yet")
    assert (stored.value, stored.displays, stored.printed, stored.error) == (None, [], "", None)
    assert kernel.told("[type(found).__name__, list(found.columns), len(found)]") == ["DataFrame", ["status", "n"], 0]
    other = kernel.log.parent / "another log"
    with Workbench.open(other) as wb:
        wb.run_sync("general", models=["simulated:strong"])
    kernel.cell(f"%%wbsql -o found --log '{other}'\nselect name, status from runs")
    assert kernel.told("found.values.tolist()") == [["general", "finished"]]
    path = "{str(LOG).replace('/log', '/another log')!r}"  # as every magic's line, it takes the values of variables
    kernel.cell(f"%%wbsql -o again --log {path}\nselect name from runs")
    assert kernel.told("again.values.tolist()") == [["general"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "code", "says"),
    [
        ("%%wbsql\nselect no_such_column from calls", "validation.sql", "no_such_column"),
        ("%%wbsql\nselect * from read_text('/etc/hostname')", "security.sql", "reaches outside"),
        ("%%wbsql\n   ", "validation.magic", "no SQL"),
        ("%%wbsql --limit 5\nselect 1", "validation.magic", "--limit"),
        ("%%wbsql -o 'a b'\nselect 1", "validation.magic", "'a b' is not a name"),
        ("%%wbsql -o class\nselect 1", "validation.magic", "'class' is not a name"),
        ("%%wbsql -o 'a\nselect 1", "validation.magic", "cannot be read"),
        ("%%wbsql --log nowhere\nselect 1", "validation.magic", "no log in nowhere"),
        ("%%trace\n ", "validation.magic", "no code"),
    ],
    ids=["column", "outside", "empty", "option", "name", "keyword", "quotes", "folder", "no code"],
)
def test_magics_fail_in_two_lines(kernel: Kernel, cell: str, code: str, says: str) -> None:
    """The cell fails by a typed error whose code and next step are shown without any traceback."""
    name, line = short(kernel.cell(cell))
    assert name == "LLMValidationError"
    assert line.endswith(f"[{code}]")
    assert says in line
    assert not (kernel.log.parent / "nowhere").exists()


# -- traces


PARENTS = """
wb.log.rows("select p.operation, p.ok, p.failure_code, c.operation from spans p left join spans c "
            "on c.parent_id = p.span_id where p.component = 'notebook' and p.operation = ? order by all", ["{name}"])
"""


@pytest.mark.slow
def test_trace_awaits_a_cell_and_shows_the_spans_below_it(kernel: Kernel) -> None:
    """Top-level await works, also in parallel; names and the last value stay, every run is below the span."""
    said = kernel.cell(
        "%%trace two runs\n"
        "first, second = await asyncio.gather(*(wb.run('general', models=[m]) for m in\n"
        "                                       ('simulated:strong', 'simulated:weak')))\n"
        "async def doubled(n):\n    await asyncio.sleep(0)\n    return 2 * n\n"
        "[await doubled(k) for k in range(3)]"
    )
    assert said.error is None, said.error
    assert said.value == "[0, 2, 4]"
    [table] = said.displays
    lines = [line.replace("\xa0", " ") for line in table.splitlines()]
    assert lines[0].endswith("source: simulated")
    assert lines[3].startswith("notebook.two runs ")
    assert sum(line.startswith("   study.run general") for line in lines) == 2
    assert kernel.told(PARENTS.format(name="two runs")) == [["two runs", True, None, "run"]] * 2
    assert kernel.told("[first.run_id != second.run_id, doubled.__name__]") == [True, "doubled"]


@pytest.mark.slow
def test_trace_runs_a_line_with_and_without_await(kernel: Kernel) -> None:
    """A traced line may await, call synchronously or assign, also inside a function; braces are left to Python."""
    waited = kernel.cell("%trace run = await wb.run('general', models=['simulated:strong'])\nprint(run.run_id[:7])")
    assert (waited.error, waited.printed) == (None, "general\n")
    assert "study.run general" in waited.displays[0]
    called = kernel.cell("def g():\n    %trace wb.run_sync('general', models=['simulated:weak'])\ng()")
    assert called.error is None, called.error
    assert "study.run general" in called.displays[0]
    braces = kernel.cell("n = 3\n%trace text = f'{n + 1} $n'\ntext")
    assert (braces.error, braces.value) == (None, "'4 $n'")
    silent = kernel.cell("%trace 1 + 1;")
    assert (silent.error, silent.value) == (None, None)


@pytest.mark.slow
@pytest.mark.parametrize("wait", ["", "await asyncio.sleep(0)\n"], ids=["sync", "await"])
def test_trace_lets_an_error_of_the_cell_pass(kernel: Kernel, wait: str) -> None:
    """The error is shown once, by the user's own lines, after the table; the span keeps it; the next cell works."""
    name = f"broken {len(wait)}"
    said = kernel.cell(f"%%trace {name}\n{wait}def halve(n):\n    return n / 0\nhalve(7)")
    assert said.error is not None
    assert (said.error["ename"], said.errors, len(said.displays)) == ("ZeroDivisionError", 1, 1)
    shown = "\n".join(said.error["traceback"])
    assert "halve" in shown
    assert "magic.py" not in shown
    assert "contextlib" not in shown
    assert f"notebook.{name}" in said.displays[0]
    assert kernel.told(PARENTS.format(name=name)) == [[name, False, "untyped", None]]
    wrong = kernel.cell("%%trace\nx = = 1")
    assert wrong.error is not None
    assert (wrong.error["ename"], wrong.errors) == ("SyntaxError", 1)
    assert "x = = 1" in "\n".join(wrong.error["traceback"])
    assert kernel.told("6 * 7") == 42


@pytest.mark.slow
def test_trace_runs_the_code_also_where_no_span_is_kept(kernel: Kernel) -> None:
    """With tracing switched off the code runs all the same, and one line says why there is no table."""
    kernel.cell("from workbench import performance_tracer\nperformance_tracer.enabled = False")
    said = kernel.cell("%trace n = 20 + 3\nn")
    kernel.cell("performance_tracer.enabled = True")
    assert (said.error, said.value, said.displays) == (None, "23", [])
    assert said.printed.startswith("the spans cannot be shown: none was kept, for tracing is off")
    assert len(said.printed.splitlines()) == 1


@pytest.mark.slow
def test_an_interrupt_of_traced_code_is_shown_by_its_own_lines(kernel: Kernel) -> None:
    """What stops the code is an error of the cell like any other: no frame of ours, and the table before it."""
    for code in ("raise KeyboardInterrupt", "await asyncio.sleep(0)\nraise asyncio.CancelledError"):
        said = kernel.cell(f"%%trace stopped\n{code}")
        assert said.error is not None
        assert said.error["ename"] in ("KeyboardInterrupt", "CancelledError")
        assert (said.errors, len(said.displays)) == (1, 1)
        assert "magic.py" not in "\n".join(said.error["traceback"])


@pytest.mark.slow
def test_a_query_that_is_stopped_shows_one_line(kernel: Kernel) -> None:
    """The stop button ends the cell by KeyboardInterrupt, without the frames of threads and databases."""
    kernel.cell("from workbench.record.log import Log\nasked = Log.frame")
    kernel.cell("def stopped(*_):\n    raise KeyboardInterrupt\nLog.frame = stopped")
    said = kernel.cell("%%wbsql\nselect 1")
    kernel.cell("Log.frame = asked")
    assert said.error is not None
    assert (said.error["ename"], said.error["traceback"]) == ("KeyboardInterrupt", ["KeyboardInterrupt: stopped"])
    assert kernel.cell("%%wbsql\nselect 1").error is None


@pytest.mark.slow
def test_loading_the_extension_again_changes_nothing(kernel: Kernel) -> None:
    """A second %load_ext or %reload_ext leaves one transformer of cells, and the magics work as before."""
    assert kernel.cell("%load_ext workbench\n%reload_ext workbench\n%reload_ext workbench").error is None
    assert kernel.told("len(get_ipython().input_transformers_post)") == 1
    assert kernel.cell("%%trace\nawait asyncio.sleep(0)\n'done'").value == "'done'"


@pytest.mark.slow
def test_magics_say_so_when_no_workbench_is_open(kernel: Kernel) -> None:
    """The error names both ways out, and nothing runs; a Workbench that is opened then is found."""
    kernel.cell("from workbench.session import magic\nmagic._last.clear()\nran = False")
    for cell in ("%%wbsql\nselect 1", "%trace ran = True"):
        name, line = short(kernel.cell(cell))
        assert (name, "no Workbench is open" in line) == ("LLMValidationError", True)
    assert kernel.told("ran") is False
    kernel.cell("wb = Workbench.open(LOG)")
    assert kernel.cell("%%wbsql\nselect 1").error is None


# -- without a kernel


def test_the_workbench_opened_last_is_the_one_that_is_used(tmp_path: Path) -> None:
    """Of two the later one is found; when it is gone there is none, rather than an older one taken for it."""
    first, second = Workbench.open(tmp_path / "a"), Workbench.open(tmp_path / "b")
    assert magic.latest() is second
    magic.remember(first)
    assert magic.latest() is first
    del first, second
    with pytest.raises(LLMValidationError) as caught:
        magic.latest()
    assert caught.value.code == "validation.magic"
    assert len(caught.value.next_step) <= 160


def test_only_statements_of_the_trace_magic_are_awaited() -> None:
    """Other magics, text that looks like one, and code without await are left as they are."""

    class Shell:
        def transform_cell(self, code: str) -> str:
            return code

        def should_run_async(self, code: str, *, transformed_cell: str) -> bool:
            return "await" in transformed_cell

    lines = [
        "get_ipython().run_line_magic('time', 'await f()')\n",
        "get_ipython().run_line_magic('trace', 'f()')\n",
        "text = \"get_ipython().run_line_magic('trace', 'await f()')\"\n",
        "get_ipython().run_line_magic('trace', name)\n",
        "  get_ipython().run_line_magic('trace', 'await f()')\n",
        "x = get_ipython().run_line_magic('trace', 'await f()')\n",
        "get_ipython().run_cell_magic('trace', 'n', 'await f()\\n')\n",
    ]
    changed = magic.Magics(Shell()).awaited(lines)
    assert changed[:4] == lines[:4]
    assert changed[4:] == [
        "  await get_ipython().run_line_magic('trace', 'await f()')\n",
        "x = await get_ipython().run_line_magic('trace', 'await f()')\n",
        "await get_ipython().run_cell_magic('trace', 'n', 'await f()\\n')\n",
    ]


def test_unloading_takes_the_magics_away_and_leaves_others() -> None:
    """Nothing of ours stays in the shell; a magic and a transformer of somebody else do."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()  # type: ignore[no-untyped-call]

    def theirs(lines: list[str]) -> list[str]:
        return lines

    def known() -> dict[str, set[str]]:
        return {kind: set(names) for kind, names in shell.magics_manager.magics.items()}

    before = known()
    shell.input_transformers_post.append(theirs)
    magic.register(shell)
    assert known()["cell"] - before["cell"] == {"wbsql", "trace"}
    magic.unregister(shell)
    assert known() == before
    assert shell.input_transformers_post == [theirs]
    magic.unregister(shell)
