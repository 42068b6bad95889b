"""The command line: `workbench COMMAND`, the commands as `workbench --help` lists them.

With --json one JSON document goes to stdout and everything else to stderr. Exit codes:

    0    done (whatever the verdict of a comparison)
    1    it failed: storage, a run, a report, a setup that `doctor` found broken
    2    the request cannot be understood or met: options, names, data, a query (nothing was changed)
    3    imported, but malformed rows were left out (each is named)
    4    replay found decisions that came out differently
    130  interrupted
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from workbench import __version__
from workbench.cli import budget, runs, setup, simulate
from workbench.cli.log import log_app
from workbench.cli.otel import otel
from workbench.cli.output import JsonOption, LogOption, fail, put
from workbench.cli.tokens import tokens_app
from workbench.errors import LLMError, LLMRouterError, LLMValidationError

app = typer.Typer(
    name="workbench",
    help="Compare merges of language models on recorded or simulated answers, with error bars.",
    epilog="Exit codes: 0 done, 1 failed, 2 bad request, 3 rows left out, 4 replay drifted, 130 interrupted.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
report_app = typer.Typer(help="Reports made from notebooks.", no_args_is_help=True, rich_markup_mode=None)
config_app = typer.Typer(help="The configuration in force.", no_args_is_help=True, rich_markup_mode=None)

# Typer keeps its command-line parser to itself; this is the public way to what it raises on bad options.
UsageError: Any = typer.BadParameter.__base__

INTERRUPTED = 130


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    log: LogOption = None,
    as_json: JsonOption = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Compare merges of language models on recorded or simulated answers, with error bars."""
    context.obj = {"log": log, "json": as_json}
    if version:
        put({"version": __version__}, f"workbench {__version__}", as_json)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("import")(runs.import_)
for command in (runs.models, runs.run, runs.resume, runs.compare, runs.gains, runs.styles, runs.replay, runs.sql):
    app.command()(command)
report_app.command("make")(runs.report_make)
app.add_typer(report_app, name="report")
app.command()(runs.demo)
app.command()(simulate.simulate)
config_app.command("show")(setup.config_show)
app.add_typer(config_app, name="config")
log_app.command()(otel)
app.add_typer(log_app, name="log")
app.add_typer(tokens_app, name="tokens")
app.command()(setup.doctor)
app.command()(budget.budget)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; every failure is a message, a next step and an exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    code: Any = 0
    try:
        code = app(args=arguments, standalone_mode=False)
        if code == INTERRUPTED:  # typer answers an interrupt with this code and no word
            raise KeyboardInterrupt
    except LLMError as error:
        code = 2 if isinstance(error, LLMValidationError | LLMRouterError) else 1
        fail(error.as_dict(), f"{type(error).__name__}: {error.message}\nnext: {error.next_step}", as_json)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
        fail({"error": "Interrupted", "code": "interrupted"}, "interrupted", as_json)
    except UsageError as error:
        code = 2
        usage = error.ctx.get_usage() if error.ctx else ""
        message = error.format_message()
        about = {"error": "UsageError", "code": "usage", "message": message, "next_step": "see --help"}
        fail(about, f"{usage}\n{message}".strip(), as_json)
    except BrokenPipeError:
        code = 1
        sys.stderr.close()
    except OSError as error:
        code = 1
        step = "check the path, its permissions and the free space"
        message = f"{error.strerror or error}: {error.filename or 'standard output'}"
        fail({"error": type(error).__name__, "code": "io", "message": message, "next_step": step}, message, as_json)
    except RuntimeError as error:
        if "interrupted" not in str(error).lower():  # DuckDB's form of an interrupt
            raise
        code = INTERRUPTED
        fail({"error": "Interrupted", "code": "interrupted"}, "interrupted", as_json)
    raise SystemExit(code if isinstance(code, int) else 0)


__all__ = ["app", "main"]
