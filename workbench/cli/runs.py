"""The commands around a run: import, models, run, resume, compare, gains, styles, replay, sql, report, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import JsonOption, LogOption, open_workbench, put, say, wants_json
from workbench.errors import LLMValidationError

if TYPE_CHECKING:
    from workbench.facts import Merge
    from workbench.session.run import Run

MODELS_HELP = "Model names as written in the file, comma-separated; MODEL/STYLE where a model has several styles."
STRATEGY_HELP = "weighted_consensus, majority_voting, best_of_n, or one that learns, such as auto."


def import_(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Parquet files of the recordings' schema.")],
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import recordings; the same file again adds nothing, malformed rows are named and left out."""
    as_json = wants_json(context, as_json)
    with open_workbench(context, log) as wb:
        done = wb.import_files(files)
    problems = [p for d in done for p in d.problems]
    for problem in problems:
        say(str(problem))
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
    put(document[0] if len(document) == 1 else {"imports": document}, "\n".join(lines), as_json)
    if problems:
        raise typer.Exit(3)


def models(context: typer.Context, log: LogOption = None, as_json: JsonOption = False) -> None:
    """List recordings with models and prompt styles, suites, simulated models, live models and their short names."""
    from workbench.act.simulated import PROFILES
    from workbench.session.places import suites
    from workbench.session.settings import load_settings

    as_json = wants_json(context, as_json)
    with open_workbench(context, log) as wb:
        recordings = list(wb.recordings())
    names = [f"simulated:{name}" for name in PROFILES]
    loaded = load_settings()
    lines = []
    for r in recordings:
        lines.append(f"{r['recording']}  (recorded, {r['items']} items)")
        lines += [f"  {m['model']}  [{', '.join(m['styles'])}]" for m in r["models"]]
    lines += ["bundled suites", *(f"  {name}" for name in suites())]
    lines += ["simulated models", *(f"  {name}" for name in names)]
    lines += ["live models (the keys: workbench doctor)", *(f"  {name}" for name in loaded.cards)]
    lines += ["short names", *(f"  {alias}: {name}" for alias, name in loaded.aliases.items())]
    document = {
        "recordings": recordings,
        "suites": list(suites()),
        "simulated": names,
        "live": list(loaded.cards),
        "aliases": dict(loaded.aliases),
    }
    put(document, "\n".join(lines), as_json)


def run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="An imported recording or a bundled suite.")],
    models: Annotated[str | None, typer.Option(help=MODELS_HELP)] = None,
    merge: Annotated[str | None, typer.Option(help=STRATEGY_HELP)] = None,
    weights: Annotated[str | None, typer.Option(help="For weighted_consensus: model=weight, comma-separated.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Quality threshold of the merge, in [0, 1].")] = None,
    score_kind: Annotated[str | None, typer.Option(help="For a recording that mixes kinds of score.")] = None,
    rewrites: Annotated[
        str | None, typer.Option(help="Strategies, comma-separated: ask every prompt unchanged and rewritten by each.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest such run if it was interrupted.")
    ] = False,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the models every item, merge their answers, and log it all."""
    as_json = wants_json(context, as_json)
    policy = _policy(merge, weights, threshold)
    names = _split(models, "--models") if models is not None else None
    styles = _split(rewrites, "--rewrites") if rewrites is not None else ()
    with open_workbench(context, log) as wb:
        done = wb.run_sync(name, models=names, merge=policy, score_kind=score_kind, rewrites=styles, resume=resume)
        _show(done, as_json)


def resume(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or latest.")],
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run that was interrupted; what was answered is not asked or paid for again."""
    as_json = wants_json(context, as_json)
    with open_workbench(context, log) as wb:
        _show(wb.resume_sync(run_id), as_json)


def _show(done: Run, as_json: bool) -> None:
    """Print a run that was just made or finished."""
    table = done.table
    document: dict[str, Any] = {
        "run": done.run_id,
        "name": table.name,
        "source": table.source,
        "items": len(table.item_ids),
        "models": list(table.models),
        "merge": table.spec.get("merge"),
    }
    if done.resumed is not None:
        document["resumed"] = {"before": done.resumed.before, "kept": done.resumed.kept, "asked": done.resumed.asked}
    step = "styles" if table.spec.get("rewrites") else "compare"
    put(document, f"{done!r}\nnext: workbench {step} {done.run_id}" if not as_json else "", as_json)


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
    as_json = wants_json(context, as_json)
    policy = _policy(merge, weights, threshold)
    with open_workbench(context, log) as wb:
        found = wb.get_run(run_id)
        comparison = found.compare(*([policy] if policy is not None else []), seed=seed)
        words = "" if as_json else f"{found!r}\n\n{comparison!r}"
        put({**comparison.as_dict(), "words": list(comparison.words.sentences)}, words, as_json)


def gains(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Recordings or bundled suites.")],
    pool: Annotated[
        list[str] | None, typer.Option(help="all, top:K or closest:K; may be given several times [all].")
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(help="A strategy; may be given several times [all that are built in].")
    ] = None,
    splits: Annotated[int, typer.Option(min=2, help="Random half splits.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the splits.")] = 0,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what merging adds: every strategy minus the best single model chosen on the other half."""
    as_json = wants_json(context, as_json)
    with open_workbench(context, log) as wb:
        found = wb.gains_sync(*names, pools=pool or ["all"], strategies=strategy, splits=splits, seed=seed, told=say)
    put(found.as_dict(), "" if as_json else repr(found), as_json)


def styles(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or latest.")],
    base: Annotated[str | None, typer.Option(help="The style to compare with [unchanged, default or direct].")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resampling.")] = 0,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what prompt styles gain: each against the base style of the same model, paired by item."""
    as_json = wants_json(context, as_json)
    with open_workbench(context, log) as wb:
        found = wb.get_run(run_id).style_gains(base, seed=seed)
    put(found.as_dict(), "" if as_json else repr(found), as_json)


def replay(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or latest.")],
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide every merge and read every answer of a run again from the log, and report drifts."""
    as_json = wants_json(context, as_json)
    with open_workbench(context, log) as wb:
        found = wb.get_run(run_id).replay()
    lines = [
        (
            f"{found.run}: {found.merges} merges decided again, {found.merges_drifted} drifts; "
            f"{found.answers} answers read again, {found.answers_drifted} drifts"
        ),
        *(f"  {e['kind']} of {e['item_id']}: logged {e['logged']}, now {e['now']}" for e in found.examples),
    ]
    put(found.as_dict(), "\n".join(lines), as_json)
    if found.drifts:
        raise typer.Exit(4)


def sql(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="A query over calls, merges, scores, runs, items, spans, texts ...")],
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Query the log with DuckDB; read-only, over a snapshot."""
    as_json = wants_json(context, as_json)
    with open_workbench(context, log) as wb:
        columns, rows = wb.log.table(query)
    text = ""
    if not as_json:
        from workbench.show.tables import Table

        cells = tuple(tuple("NULL" if v is None else str(v) for v in row) for row in rows)
        text = Table(caption=f"{len(rows)} rows", columns=tuple(columns), rows=cells).text()
    put([dict(zip(columns, row, strict=True)) for row in rows], text, as_json)


def report_make(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or latest.")] = "latest",
    notebook: Annotated[Path | None, typer.Option(help="Another notebook with a parameters cell.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for reports [reports].")] = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the report notebook for a run and write reports/RUN/index.html."""
    as_json = wants_json(context, as_json)
    with open_workbench(context, log) as wb:
        found = wb.get_run(run_id)
        page = wb.report(notebook, run=found, out=out)
    put({"run": found.run_id, "report": str(page)}, str(page), as_json)


def demo(
    context: typer.Context,
    suite: Annotated[str, typer.Option(help="A bundled suite.")] = "question_answering",
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the simulated pool over a bundled suite, compare the merges, and write the report."""
    as_json = wants_json(context, as_json)
    with open_workbench(context, log) as wb:
        done = wb.run_sync(suite, models=None, merge="majority_voting")
        comparison = done.compare()
        say(f"run {done.run_id} is in the log {wb.log.folder}; making the report ...")
        page = wb.report(run=done)
        words = "" if as_json else f"{done!r}\n\n{comparison!r}\n\nreport: {page}"
        put({"run": done.run_id, "report": str(page), "log": str(wb.log.folder)}, words, as_json)


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
    from workbench.decide.policies import policy

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
