"""Magics of a notebook: `%load_ext workbench` makes `%%wbsql`, `%trace` and `%%trace` known.

    %%wbsql [-o NAME] [--log PATH]    the cell is SQL over the log of the Workbench opened last; the result is a frame
    %trace CODE     %%trace [NAME]    the line or the cell runs inside a span; the spans below it are shown

Errors of the workbench are shown by their type, code and next step, without a traceback of its own; errors of traced
code are the caller's, from the first line of the cell on.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import re
import shlex
import weakref
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from inspect import CO_COROUTINE
from keyword import iskeyword
from pathlib import Path
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from workbench.act.trace import span
from workbench.act.world import World
from workbench.errors import LLMError, LLMValidationError
from workbench.record.log import Log

if TYPE_CHECKING:
    import pandas as pd

COMPONENT = "notebook"  # of the spans that magics make
MOST_SPANS = 40
# What IPython makes of %trace and %%trace at the beginning of a statement; the arguments are Python literals.
_MAGIC = re.compile(r"^(\s*(?:\w+ = )?)(get_ipython\(\)\.run_(?:line|cell)_magic(\('trace', .*\)))$")


class Opened(Protocol):
    """What a magic needs of a Workbench."""

    log: Log
    world: World


_last: list[weakref.ref[Opened]] = []  # one at most; who lets go of a Workbench shall not find it here


def remember(workbench: Opened) -> None:
    """Make this the Workbench that the magics of this process use, for as long as somebody holds it."""
    _last[:] = [weakref.ref(workbench)]


def latest() -> Opened:
    """The Workbench opened last that is still there; LLMValidationError validation.magic when there is none."""
    found = _last[0]() if _last else None
    if found is None:
        raise LLMValidationError(
            "no Workbench is open in this notebook",
            code="validation.magic",
            next_step='open one: wb = Workbench.open("data/log"); for SQL alone: %%wbsql --log data/log',
        )
    return found


def register(shell: Any) -> None:
    """Make the magics known to an IPython shell; doing it again changes nothing."""
    magics = Magics(shell)
    shell.register_magic_function(magics.wbsql, magic_kind="cell", magic_name="wbsql")
    shell.register_magic_function(magics.trace_line, magic_kind="line", magic_name="trace")
    shell.register_magic_function(magics.trace_cell, magic_kind="cell", magic_name="trace")
    _stop_awaiting(shell)
    shell.input_transformers_post.append(magics.awaited)


def unregister(shell: Any) -> None:
    """Take the magics from an IPython shell again; those of the same names that others have registered stay."""
    for kinds in shell.magics_manager.magics.values():
        for name in [n for n, f in kinds.items() if isinstance(getattr(f, "__self__", None), Magics)]:
            del kinds[name]
    _stop_awaiting(shell)


def _stop_awaiting(shell: Any) -> None:
    posts = shell.input_transformers_post
    posts[:] = [t for t in posts if not isinstance(getattr(t, "__self__", None), Magics)]


class Magics:
    """The magics of one IPython shell."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell

    # -- SQL

    def wbsql(self, line: str, cell: str) -> pd.DataFrame | None:
        """Run the cell as SQL over the log, over a snapshot that includes everything acknowledged.

        -o NAME stores the frame under a name instead of showing it. --log PATH asks the log in this folder.
        """
        with _short():
            asked = _options(line)
            if not cell.strip():
                raise _unusable("%%wbsql was given no SQL", "write a query below it, such as: select * from runs")
            frame = _ask(asked.log, cell)
        if asked.out is None:
            return frame
        self.shell.user_ns[asked.out] = frame
        return None

    # -- traces

    def trace_line(self, line: str) -> Coroutine[Any, Any, None] | None:
        """Run the line inside a span and show the spans below it."""
        return self._traced(line, "line")

    def trace_cell(self, line: str, cell: str) -> Coroutine[Any, Any, None] | None:
        """Run the cell inside a span, named by the magic's line, and show the spans below it."""
        return self._traced(cell, line.strip() or "cell")

    def awaited(self, lines: list[str]) -> list[str]:
        """The lines of a cell, with an `await` before each trace of code that awaits: only so does IPython wait."""
        return [self._awaited(line) for line in lines]

    def _awaited(self, line: str) -> str:
        found = _MAGIC.match(line.rstrip())
        if found is None:
            return line
        try:
            code = ast.literal_eval(found[3])[-1]
            awaits = self.shell.should_run_async(code, transformed_cell=self.shell.transform_cell(code))
        except (ValueError, SyntaxError):  # not of IPython's making, or code that will say itself what is wrong
            return line
        return f"{found[1]}await {found[2]}\n" if awaits else line

    def _traced(self, code: str, name: str) -> Coroutine[Any, Any, None] | None:
        with _short():
            if not code.strip():
                raise _unusable("%trace was given no code", "write it behind %trace, or below %%trace")
            workbench = latest()
        with self._errors_of_the_cell():
            parts = self._compiled(code)
        if any(part.co_flags & CO_COROUTINE for part in parts):
            return self._run_async(workbench, parts, name)
        self._run(workbench, parts, name)
        return None

    def _compiled(self, code: str) -> list[CodeType]:
        """The code as IPython would compile it, a last expression apart, whose value is shown."""
        text = self.shell.transform_cell(code)
        file = self.shell.compile.cache(text, self.shell.execution_count, raw_code=code)
        body = ast.parse(text, file, "exec").body
        last = [body.pop()] if body and isinstance(body[-1], ast.Expr) and not text.rstrip().endswith(";") else []
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        parts: list[CodeType] = []
        if body:
            parts.append(compile(ast.Module(body, []), file, "exec", flags))
        if last:
            parts.append(compile(ast.Interactive([*last]), file, "single", flags))
        return parts

    def _run(self, workbench: Opened, parts: Sequence[CodeType], name: str) -> None:
        with self._shown(workbench, name):
            for part in parts:
                eval(part, self.shell.user_global_ns, self.shell.user_ns)  # the user's own code, as in any cell

    async def _run_async(self, workbench: Opened, parts: Sequence[CodeType], name: str) -> None:
        with self._shown(workbench, name):
            for part in parts:
                value = eval(part, self.shell.user_global_ns, self.shell.user_ns)  # the same
                if part.co_flags & CO_COROUTINE:
                    await value

    @contextmanager
    def _shown(self, workbench: Opened, name: str) -> Iterator[None]:
        """A span around the body, and after it, however it ended, the table of what was below."""
        span_id = None
        try:
            with self._errors_of_the_cell(), span(workbench.world, COMPONENT, name) as here:
                span_id = here.span_id
                yield
        finally:
            if span_id is not None:
                _show_spans(workbench.log, span_id)

    @contextmanager
    def _errors_of_the_cell(self) -> Iterator[None]:
        """Show errors of the traced code from its own first frame on, as if the cell had been run alone."""
        try:
            yield
        except (Exception, KeyboardInterrupt, asyncio.CancelledError) as error:
            own = _from_the_cell(error.__traceback__)
            if own is not None:
                text = self.shell.InteractiveTB.structured_traceback(type(error), error, own)
                _shown_as(error, text)
            raise


def _from_the_cell(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of this file at its beginning."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


# IPython would put the values of variables in the place of braces, in f-strings and dictionaries too.
Magics.trace_line.__dict__["_ipython_magic_no_var_expand"] = True


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _unusable(f"%%wbsql does not understand its line: {message}", "use: %%wbsql [-o NAME] [--log PATH]")


def _options(line: str) -> argparse.Namespace:
    """The options of %%wbsql: out and log, None where not given."""
    parser = _Parser(prog="%%wbsql", add_help=False, allow_abbrev=False)
    parser.add_argument("-o", "--out")
    parser.add_argument("--log")
    try:
        asked = parser.parse_args(shlex.split(line))
    except ValueError as error:  # a quotation mark without its end
        raise _unusable(f"the line {line!r} cannot be read: {error}", "use: %%wbsql [-o NAME] [--log PATH]") from error
    if asked.out is not None and (not asked.out.isidentifier() or iskeyword(asked.out)):
        raise _unusable(f"{asked.out!r} is not a name for a variable", "use a name such as: %%wbsql -o frame")
    return asked


def _ask(folder: str | None, sql: str) -> pd.DataFrame:
    if folder is None:
        return latest().log.frame(sql)
    path = Path(folder).expanduser()
    if not (path / "spool").is_dir():  # opening would make one
        raise _unusable(f"there is no log in {path}", "name the folder that holds spool/ and workbench.duckdb")
    log = Log.open(path)
    try:
        return log.frame(sql)
    finally:
        log.close()


def _show_spans(log: Log, span_id: str) -> None:
    """Show the table; what keeps it from being read is said in one line, for the code has run all the same."""
    from IPython.display import display

    from workbench.show.waterfall import waterfall_table, waterfall_values

    try:
        table = waterfall_table(waterfall_values(log, span_id, most=MOST_SPANS))
    except LLMError as error:
        why = "; ".join(_lines(error))
        if error.code == "validation.trace":
            why = "none was kept, for tracing is off (performance_tracer.enabled), or samples (sample_rate)"
        print(f"the spans cannot be shown: {why}")
    else:
        display(table)  # type: ignore[no-untyped-call]


def _unusable(message: str, next_step: str) -> LLMValidationError:
    return LLMValidationError(message, code="validation.magic", next_step=next_step)


def _shown_as(error: Any, lines: Sequence[str]) -> None:
    """Have IPython show these lines in the place of the error's traceback."""
    with suppress(AttributeError):  # an error that takes no attributes is shown with our frames
        error._render_traceback_ = lambda: list(lines)


def _lines(error: LLMError) -> list[str]:
    return [f"{type(error).__name__}: {error.message} [{error.code}]", f"next: {error.next_step}"]


@contextmanager
def _short() -> Iterator[None]:
    """Let errors of the workbench be shown in two lines, and an interrupt in one: our frames tell a reader nothing."""
    try:
        yield
    except LLMError as error:
        _shown_as(error, _lines(error))
        raise
    except KeyboardInterrupt as error:
        _shown_as(error, ["KeyboardInterrupt: stopped"])
        raise
