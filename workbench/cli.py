"""The command line: `workbench import | models | run | compare | replay | report make | sql | demo`.

With --json one JSON document goes to stdout and everything else to stderr. Exit codes:

    0    done (whatever the verdict of a comparison)
    1    it failed: storage, a run, a report
    2    the request cannot be understood or met: options, names, data, a query (nothing was changed)
    3    imported, but malformed rows were left out (each is named)
    4    replay found decisions that came out differently
    130  interrupted
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from workbench import __version__
from workbench.errors import LLMError, LLMRouterError, LLMValidationError

if TYPE_CHECKING:
    from workbench.facts import Merge
    from workbench.session.workbench import Workbench

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
app.add_typer(report_app, name="report")

# Typer keeps its command-line parser to itself; this is the public way to what it raises on bad options.
UsageError: Any = typer.BadParameter.__base__

LogOption = Annotated[
    Path | None, typer.Option("--log", metavar="DIR", help="Log folder [WORKBENCH_LOG, or data/log].")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
INTERRUPTED = 130
MODELS_HELP = "Model names as written in the file, comma-separated; MODEL/STYLE where a model has several styles."
STRATEGY_HELP = "weighted_consensus, majority_voting or best_of_n."


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
        _out({"version": __version__}, f"workbench {__version__}", as_json)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("import")
def import_(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Parquet files of the recordings' schema.")],
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import recordings; the same file again adds nothing, malformed rows are named and left out."""
    as_json = _json(context, as_json)
    with _open(context, log) as wb:
        done = wb.import_files(files)
    problems = [p for d in done for p in d.problems]
    for problem in problems:
        _say(str(problem))
    document = [
        {
            "file": d.file,
            "recordings": list(d.recordings),
            "rows": d.rows,
            "added": d.added,
            "already": d.already,
            "rejected": d.rejected,
            "problems": [{"row": p.row, "column": p.column, "problem": p.problem} for p in d.problems],
        }
        for d in done
    ]
    lines = [
        f"{d.file}: {d.rows} rows, {d.added} added, {d.already} already there, {d.rejected} left out "
        f"({', '.join(d.recordings)})"
        for d in done
    ]
    _out(document[0] if len(document) == 1 else {"imports": document}, "\n".join(lines), as_json)
    if problems:
        raise typer.Exit(3)


@app.command()
def models(context: typer.Context, log: LogOption = None, as_json: JsonOption = False) -> None:
    """List recordings with their models and prompt styles, bundled suites, and simulated models."""
    from workbench.act.simulated import PROFILES
    from workbench.session.places import suites

    as_json = _json(context, as_json)
    with _open(context, log) as wb:
        recordings = list(wb.recordings())
    names = [f"simulated:{name}" for name in PROFILES]
    lines = []
    for r in recordings:
        lines.append(f"{r['recording']}  (recorded, {r['items']} items)")
        lines += [f"  {m['model']}  [{', '.join(m['styles'])}]" for m in r["models"]]
    lines += ["bundled suites", *(f"  {name}" for name in suites())]
    lines += ["simulated models", *(f"  {name}" for name in names)]
    document = {"recordings": recordings, "suites": list(suites()), "simulated": names}
    _out(document, "\n".join(lines), as_json)


@app.command()
def run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="An imported recording or a bundled suite.")],
    models: Annotated[str | None, typer.Option(help=MODELS_HELP)] = None,
    merge: Annotated[str | None, typer.Option(help=STRATEGY_HELP)] = None,
    weights: Annotated[str | None, typer.Option(help="For weighted_consensus: model=weight, comma-separated.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Quality threshold of the merge, in [0, 1].")] = None,
    score_kind: Annotated[str | None, typer.Option(help="For a recording that mixes kinds of score.")] = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the models every item, merge their answers, and log it all."""
    as_json = _json(context, as_json)
    policy = _policy(merge, weights, threshold)
    names = _split(models, "--models") if models is not None else None
    with _open(context, log) as wb:
        done = wb.run_sync(name, models=names, merge=policy, score_kind=score_kind)
        table = done.table
        document = {
            "run": done.run_id,
            "name": table.name,
            "source": table.source,
            "items": len(table.item_ids),
            "models": list(table.models),
            "merge": table.spec.get("merge"),
        }
        _out(document, f"{done!r}\nnext: workbench compare {done.run_id}" if not as_json else "", as_json)


@app.command()
def compare(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or latest.")],
    merge: Annotated[str | None, typer.Option(help=f"One more strategy: {STRATEGY_HELP}")] = None,
    weights: Annotated[str | None, typer.Option(help="For weighted_consensus: model=weight, comma-separated.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Quality threshold of that strategy, in [0, 1].")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resampling.")] = 0,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare merges with the best single model of a run, with intervals and verdicts."""
    as_json = _json(context, as_json)
    policy = _policy(merge, weights, threshold)
    with _open(context, log) as wb:
        found = wb.get_run(run_id)
        comparison = found.compare(*([policy] if policy is not None else []), seed=seed)
        words = "" if as_json else f"{found!r}\n\n{comparison!r}"
        _out({**comparison.as_dict(), "words": list(comparison.words.sentences)}, words, as_json)


@app.command()
def replay(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or latest.")],
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide every merge and read every answer of a run again from the log, and report drifts."""
    as_json = _json(context, as_json)
    with _open(context, log) as wb:
        found = wb.get_run(run_id).replay()
    lines = [
        (
            f"{found.run}: {found.merges} merges decided again, {found.merges_drifted} drifts; "
            f"{found.answers} answers read again, {found.answers_drifted} drifts"
        ),
        *(f"  {e['kind']} of {e['item_id']}: logged {e['logged']}, now {e['now']}" for e in found.examples),
    ]
    _out(found.as_dict(), "\n".join(lines), as_json)
    if found.drifts:
        raise typer.Exit(4)


@app.command()
def sql(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="A query over calls, merges, scores, runs, items, spans, texts ...")],
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Query the log with DuckDB; read-only, over a snapshot."""
    as_json = _json(context, as_json)
    with _open(context, log) as wb:
        columns, rows = wb.log.table(query)
    text = ""
    if not as_json:
        from workbench.show.tables import Table

        cells = tuple(tuple("NULL" if v is None else str(v) for v in row) for row in rows)
        text = Table(caption=f"{len(rows)} rows", columns=tuple(columns), rows=cells).text()
    _out([dict(zip(columns, row, strict=True)) for row in rows], text, as_json)


@report_app.command("make")
def report_make(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or latest.")] = "latest",
    notebook: Annotated[Path | None, typer.Option(help="Another notebook with a parameters cell.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for reports [reports].")] = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the report notebook for a run and write reports/RUN/index.html."""
    as_json = _json(context, as_json)
    with _open(context, log) as wb:
        found = wb.get_run(run_id)
        page = wb.report(notebook, run=found, out=out)
    _out({"run": found.run_id, "report": str(page)}, str(page), as_json)


@app.command()
def demo(
    context: typer.Context,
    suite: Annotated[str, typer.Option(help="A bundled suite.")] = "question_answering",
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the simulated pool over a bundled suite, compare the merges, and write the report."""
    as_json = _json(context, as_json)
    with _open(context, log) as wb:
        done = wb.run_sync(suite, models=None, merge="majority_voting")
        comparison = done.compare()
        _say(f"run {done.run_id} is in the log {wb.log.folder}; making the report ...")
        page = wb.report(run=done)
        words = "" if as_json else f"{done!r}\n\n{comparison!r}\n\nreport: {page}"
        _out({"run": done.run_id, "report": str(page), "log": str(wb.log.folder)}, words, as_json)


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
        _fail(error.as_dict(), f"{type(error).__name__}: {error.message}\nnext: {error.next_step}", as_json)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
        _fail({"error": "Interrupted", "code": "interrupted"}, "interrupted", as_json)
    except UsageError as error:
        code = 2
        usage = error.ctx.get_usage() if error.ctx else ""
        message = error.format_message()
        about = {"error": "UsageError", "code": "usage", "message": message, "next_step": "see --help"}
        _fail(about, f"{usage}\n{message}".strip(), as_json)
    except BrokenPipeError:
        code = 1
        sys.stderr.close()
    except OSError as error:
        code = 1
        step = "check the path, its permissions and the free space"
        message = f"{error.strerror or error}: {error.filename or 'standard output'}"
        _fail({"error": type(error).__name__, "code": "io", "message": message, "next_step": step}, message, as_json)
    except RuntimeError as error:
        if "interrupted" not in str(error).lower():  # DuckDB's form of an interrupt
            raise
        code = INTERRUPTED
        _fail({"error": "Interrupted", "code": "interrupted"}, "interrupted", as_json)
    raise SystemExit(code if isinstance(code, int) else 0)


def _fail(document: Mapping[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        with contextlib.suppress(OSError):  # where standard output is what failed, the text below still tells
            _out(document, "", True)
    _say(text)


def _json(context: typer.Context, as_json: bool) -> bool:
    return bool(as_json or (context.find_root().obj or {}).get("json"))


def _open(context: typer.Context, log: Path | None) -> Workbench:
    from workbench.session.workbench import Workbench

    return Workbench.open(log or (context.find_root().obj or {}).get("log"))


def _split(text: str, option: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise LLMValidationError(
            f"{option} {text!r} has an empty name", code="validation.models", next_step="separate names by one comma"
        )
    return names


def _policy(merge: str | None, weights: str | None, threshold: float | None) -> Merge | None:
    """The merge that the options describe; None when they describe none."""
    if merge is None:
        if weights is not None or threshold is not None:
            raise LLMValidationError(
                "--weights and --threshold belong to a strategy, and none is given",
                code="validation.strategy",
                next_step="add --merge weighted_consensus",
            )
        return None
    from workbench.decide.merge import policy

    params: dict[str, Any] = {} if threshold is None else {"threshold": threshold}
    if weights is not None:
        pairs = [_weight(part) for part in _split(weights, "--weights")]
        params["weights"] = dict(pairs)
        if len(params["weights"]) < len(pairs):
            raise LLMValidationError(
                f"--weights {weights!r} gives a model two weights",
                code="validation.weights",
                next_step="give every model one weight",
            )
    return policy(merge, params)


def _weight(part: str) -> tuple[str, float]:
    model, _, number = part.rpartition("=")
    try:
        return model.strip(), float(number)
    except ValueError as error:
        raise LLMValidationError(
            f"weight {part!r} is not of the form model=number",
            code="validation.weights",
            next_step="write, for example, --weights strong=0.5,weak=0.5",
        ) from error


def _out(document: Any, text: str, as_json: bool) -> None:
    """The result: the JSON document, or the text."""
    from workbench.show.tables import visible

    if as_json:
        typer.echo(json.dumps(_finite(document), default=str, allow_nan=False))
    elif text:
        typer.echo(visible(text))


def _finite(value: Any) -> Any:
    """The value with NaN and infinities as null, which JSON has no words for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def _say(text: str) -> None:
    from workbench.show.tables import visible

    typer.echo(visible(text), err=True)


__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
