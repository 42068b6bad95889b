"""The command line: one JSON document on stdout, everything else on stderr, and the exit codes it documents."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest

import workbench
from workbench import Workbench
from workbench.cli import main
from workbench.facts import TASKS
from workbench.record.transfer import SCHEMA

HEAVY = ("numpy", "pandas", "plotly", "scipy", "papermill", "duckdb", "nbconvert", "IPython")


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)


def shell(*args: str | Path, **environment: str) -> Said:
    """The command as a user starts it."""
    done = subprocess.run(
        [sys.executable, "-m", "workbench", *map(str, args)],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Any:
    """The same command inside this process."""

    def call(*args: str | Path) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in args])
        captured = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call


def parquet(path: Path, rows: Sequence[Mapping[str, Any]], **types: str) -> Path:
    """A Parquet file of the recordings' schema."""
    with duckdb.connect() as con:
        con.execute(f"create table t({', '.join(f'{c} {types.get(c, t)}' for c, t in SCHEMA.items())})")
        con.executemany(
            f"insert into t values ({', '.join('?' * len(SCHEMA))})", [[r.get(c) for c in SCHEMA] for r in rows]
        )
        con.execute(f"copy t to '{path}' (format parquet)")
    return path


def row(item: str, model: str, answer: str, gold: str = "4", **changes: Any) -> dict[str, Any]:
    given = {
        "recording": "maths", "task_type": "reasoning", "item_id": item, "prompt": f"Question {item}?",
        "reference": gold, "model": model, "prompt_style": "default", "response": f"The answer is {answer}.",
        "score": float(answer == gold), "score_kind": "correct",
    }  # fmt: skip
    return {**given, **changes}


def maths() -> list[dict[str, Any]]:
    """Three models on four items; `styled` was recorded in two styles."""
    return [
        *(row(f"q{k}", "good", "4") for k in range(4)),
        *(row(f"q{k}", "poor", "5" if k else "4") for k in range(4)),
        *(row(f"q{k}", "styled", "5", prompt_style=s) for k in range(4) for s in ("cot", "direct")),
    ]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with one recording and one merged run of it, made once."""
    folder = tmp_path_factory.mktemp("cli")
    with Workbench.open(folder / "log") as wb:
        wb.import_file(parquet(folder / "maths.parquet", maths()))
        wb.run_sync("maths", models=["good", "poor"], merge="majority_voting")
        wb.log.ingest()
    return folder / "log"


@pytest.fixture
def log(tmp_path: Path, template: Path) -> Path:
    """A copy of that log for the test alone."""
    return Path(shutil.copytree(template, tmp_path / "log"))


# --- help, version, options -----------------------------------------------------------------------------


def test_the_version_is_the_packages(cli: Any):
    """As text and as JSON."""
    assert cli("--version") == (0, f"workbench {workbench.__version__}\n", "")
    assert cli("--version", "--json").json == {"version": workbench.__version__}


@pytest.mark.parametrize("command", [(), ("run",), ("import",), ("compare",), ("report", "make"), ("sql",)])
def test_help_loads_nothing_heavy(command: tuple[str, ...]):
    """--help of every command answers without numpy, pandas, plotly, scipy, papermill or duckdb."""
    script = (
        "import sys\nfrom workbench.cli import main\n"
        f"try: main({[*command, '--help']!r})\nexcept SystemExit as e: assert not e.code\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert "Usage:" in done.stdout


def test_help_names_every_command_and_exit_code(cli: Any):
    """The overview has all commands and says what the exit codes mean."""
    text = cli("--help").out
    for command in ("import", "models", "run", "resume", "compare", "replay", "report", "sql", "demo", "log"):
        assert command in text
    assert "0 done, 1 failed, 2 bad request, 3 rows left out, 4 replay drifted" in " ".join(text.split())


@pytest.mark.parametrize(
    "args",
    [
        ("nonsense",), ("models", "--nonsense"), ("run",), ("compare",), ("import",), ("sql",),
        ("compare", "latest", "--seed", "-1"), ("compare", "latest", "--seed", "one"),
        ("run", "general", "--threshold", "high"), ("report", "nonsense"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_command_that_cannot_be_understood_is_exit_2(cli: Any, tmp_path: Path, args: tuple[str, ...]):
    """Usage goes to stderr; with --json stdout has one document that says usage."""
    plain = cli("--log", tmp_path / "log", *args)
    assert (plain.code, plain.out) == (2, "")
    assert "Usage:" in plain.err
    machine = cli("--log", tmp_path / "log", *args, "--json")
    assert (machine.code, machine.json["code"]) == (2, "usage")
    assert not (tmp_path / "log").exists()


# --- the log folder -------------------------------------------------------------------------------------


def test_the_log_is_named_before_or_after_the_command_or_by_the_environment(
    log: Path, tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
):
    """--log works in both places, wins over WORKBENCH_LOG, and the nearer one wins over the farther."""
    count = ("sql", "select count(*) as n from runs", "--json")
    assert cli("--log", log, *count).json == [{"n": 1}]
    assert cli(*count, "--log", log).json == [{"n": 1}]
    monkeypatch.setenv("WORKBENCH_LOG", str(log))
    assert cli(*count).json == [{"n": 1}]
    assert cli(*count, "--log", tmp_path / "other").json == [{"n": 0}]
    assert cli("--log", tmp_path / "other", *count, "--log", log).json == [{"n": 1}]


def test_the_environment_names_the_log_of_a_real_process(log: Path):
    """WORKBENCH_LOG reaches the command."""
    said = shell("sql", "select name from runs", "--json", WORKBENCH_LOG=str(log))
    assert (said.code, said.json, said.err) == (0, [{"name": "maths"}], "")


def test_a_log_that_cannot_be_used_is_exit_1(tmp_path: Path, cli: Any):
    """A file in the folder's place is a failure of storage, typed in the document."""
    (tmp_path / "file").write_text("x")
    said = cli("models", "--log", tmp_path / "file", "--json")
    assert (said.code, said.json["code"], said.json["error"]) == (1, "storage.readonly", "LLMError")
    assert "next:" in said.err


# --- every command, as text and as JSON -----------------------------------------------------------------


def test_import_says_what_was_added(tmp_path: Path, cli: Any):
    """Rows read and added; the same file again adds nothing."""
    file = parquet(tmp_path / "maths.parquet", maths())
    first = cli("import", file, "--log", tmp_path / "log", "--json")
    assert (first.code, first.err) == (0, "")
    assert first.json == {
        "file": "maths.parquet", "recordings": ["maths"], "rows": 16, "added": 16, "already": 0, "rejected": 0,
        "problems": [],
    }  # fmt: skip
    again = cli("import", file, "--log", tmp_path / "log")
    assert again.out == "maths.parquet: 16 rows, 0 added, 16 already there, 0 left out (maths)\n"


def test_import_of_malformed_rows_is_exit_3_and_names_each(tmp_path: Path, cli: Any):
    """File, row, column and problem stand on stderr and in the document; the good rows are kept."""
    rows = [
        row("q0", "good", "4"),
        row("q1", "good", "4", task_type="poetry"),
        row("q2", "good", "4", score=None, response=None),
    ]
    file = parquet(tmp_path / "bad.parquet", rows)
    said = cli("import", file, "--log", tmp_path / "log", "--json")
    assert said.code == 3
    assert (said.json["added"], said.json["rejected"]) == (1, 2)
    assert [(p["row"], p["column"]) for p in said.json["problems"]] == [(2, "task_type"), (3, "response")]
    assert "bad.parquet: row 2, column task_type: is not one of the task types: poetry" in said.err
    assert "bad.parquet: row 3, column response:" in said.err


def test_import_of_several_files_is_one_document(tmp_path: Path, cli: Any):
    """Two files make one document with two entries."""
    files = [parquet(tmp_path / f"{n}.parquet", [row("q0", "m", "4", recording=n)]) for n in ("one", "two")]
    said = cli("import", *files, "--log", tmp_path / "log", "--json")
    assert [i["recordings"] for i in said.json["imports"]] == [["one"], ["two"]]


def test_a_refused_import_changes_nothing(tmp_path: Path, cli: Any):
    """Exit code 2 promises that nothing was changed, also when an earlier file of the command was good."""
    good = parquet(tmp_path / "good.parquet", maths())
    said = cli("import", good, tmp_path / "absent.parquet", "--log", tmp_path / "log", "--json")
    assert (said.code, said.json["code"]) == (2, "data.file")
    assert cli("models", "--log", tmp_path / "log", "--json").json["recordings"] == []


def test_models_lists_recordings_suites_and_simulated_models(log: Path, cli: Any):
    """Names as they can be used, with styles."""
    text = cli("models", "--log", log).out
    for part in ("maths  (recorded, 4 items)", "  styled  [cot, direct]", "  question_answering", "  simulated:strong"):
        assert part in text
    document = cli("models", "--log", log, "--json").json
    assert document["suites"] == sorted(TASKS)
    assert document["recordings"][0]["models"][2] == {"model": "styled", "styles": ["cot", "direct"]}


def test_models_lists_live_models_and_short_names_without_a_key(
    log: Path, tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
):
    """The bundled ones and those of the configuration; what an error's next step sends the reader to."""
    file = tmp_path / "workbench.toml"
    file.write_text(
        '[providers.lab]\nwire = "openai"\nbase_url = "http://127.0.0.1:9/v1"\nauth = "none"\n'
        '[models."lab:small"]\ncontext_window = 100\n[aliases]\ntiny = "lab:small"\n'
    )
    monkeypatch.setenv("WORKBENCH_CONFIG", str(file))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    text = cli("models", "--log", log).out
    for line in (
        "live models",
        "  openai:gpt-4.1\n",
        "  lab:small\n",
        "short names",
        "  tiny: lab:small\n",
        "  gpt4: ",
    ):
        assert line in text
    document = cli("models", "--log", log, "--json").json
    assert set(document) == {"recordings", "suites", "simulated", "live", "aliases"}
    assert {"openai:gpt-4.1", "lab:small"} <= set(document["live"])
    assert document["aliases"]["tiny"] == "lab:small"


def test_run_says_what_ran_and_what_to_do_next(log: Path, cli: Any):
    """The table of the models and the next command; the document has run, source, items, models and merge."""
    args = ("run", "maths", "--models", "good,poor", "--merge", "weighted_consensus", "--weights", "good=2,poor=1")
    text = cli(*args, "--log", log)
    assert text.code == 0
    assert "good   1.0000" in text.out
    assert "next: workbench compare maths-" in text.out
    document = cli(*args, "--threshold", "0.1", "--log", log, "--json").json
    assert (document["name"], document["source"], document["items"], document["models"]) == (
        "maths", "recorded", 4, ["good", "poor"],
    )  # fmt: skip
    assert document["merge"] == {
        "policy": "weighted_consensus", "params": {"weights": {"good": 2.0, "poor": 1.0}, "threshold": 0.1},
    }  # fmt: skip


def test_compare_prints_the_verdicts(log: Path, cli: Any):
    """The document has all promised keys and the words; the text has both tables."""
    document = cli("compare", "latest", "--log", log, "--json").json
    assert {"run", "source", "items", "models", "score_kind", "best_single", "strategies", "oracle", "words"} <= set(
        document
    )
    assert document["best_single"] == {"model": "good", "score": 1.0}
    # A tie on three of four items: (1 + 3/2) / 4.
    assert document["strategies"][0]["score"] == pytest.approx(2.5 / 4)
    text = cli("compare", document["run"], "--log", log)
    assert text.code == 0
    assert "majority_voting" in text.out
    assert "each model alone on 4 items" in text.out


def test_compare_takes_one_more_strategy_and_a_seed(log: Path, cli: Any):
    """The strategy given stands beside the built-in ones."""
    said = cli("compare", "latest", "--merge", "best_of_n", "--threshold", "0.5", "--seed", "3", "--log", log, "--json")
    assert [(s["strategy"], s["params"]) for s in said.json["strategies"]] == [
        ("majority_voting", {}), ("best_of_n", {"threshold": 0.5}), ("weighted_consensus", {}), ("best_of_n", {}),
    ]  # fmt: skip
    assert said.json["seed"] == 3


def test_replay_of_a_clean_run_is_exit_0(log: Path, cli: Any):
    """Four merges and eight answers, no drift."""
    said = cli("replay", "latest", "--log", log, "--json")
    assert (said.code, said.json["drifts"], said.json["merges"], said.json["answers"]) == (0, 0, 4, 8)
    assert (
        "4 merges decided again, 0 drifts; 8 answers read again, 0 drifts" in cli("replay", "latest", "--log", log).out
    )


def test_replay_of_a_changed_log_is_exit_4(log: Path, cli: Any):
    """A drift is told with its item, in text and document."""
    with duckdb.connect(str(log / "workbench.duckdb")) as con:
        con.execute("update log.contributions set answer = '9' where item_id = 'q1' and model = 'good'")
    text, document = cli("replay", "latest", "--log", log), cli("replay", "latest", "--log", log, "--json")
    assert (text.code, document.code, document.json["drifts"]) == (4, 4, 1)
    assert "answer of q1: logged 9, now 4" in text.out


def test_sql_is_a_table_or_a_list(log: Path, cli: Any):
    """Rows as text with a count, NULL by name; as JSON a list of objects, NaN as null."""
    query = (
        "select model, avg(value) as score, null as nothing from scores where scorer = 'source' group by 1 order by 1"
    )
    assert cli("sql", query, "--log", log).out.splitlines() == [
        "2 rows",
        "model  score  nothing",
        "-----  -----  -------",
        "good   1.0    NULL",
        "poor   0.25   NULL",
    ]
    assert cli(
        "sql", "select 'NaN'::double as x, [1, 2] as l, date '2026-01-02' as d", "--log", log, "--json"
    ).json == [{"x": None, "l": [1, 2], "d": "2026-01-02"}]


def test_every_command_works_as_a_process(tmp_path: Path):
    """import, models, run, compare, replay and sql one after the other, each with one JSON document on stdout."""
    log = {"WORKBENCH_LOG": str(tmp_path / "log")}
    file = parquet(tmp_path / "maths.parquet", maths())
    for args in (
        ("import", file), ("models",), ("run", "maths", "--models", "good,poor", "--merge", "best_of_n"),
        ("compare", "latest"), ("replay", "latest"), ("sql", "select 1 as x"), ("--version",),
    ):  # fmt: skip
        said = shell(*args, "--json", **log)
        assert (said.code, said.err) == (0, ""), args
        assert len(said.out.splitlines()) == 1
        assert said.json


# --- failures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "named"),
    [
        (("run", "math"), "router.unknown_suite", ["maths", "question_answering"]),
        (("run", "maths", "--models", "god"), "router.unknown_model", ["good", "poor", "styled/cot", "styled/direct"]),
        (("run", "maths", "--models", "styled"), "router.ambiguous_model", ["styled/cot", "styled/direct"]),
        (("run", "maths", "--models", "good,good"), "validation.models", ["good"]),
        (("run", "maths", "--models", "good,,poor"), "validation.models", ["--models"]),
        (("run", "maths", "--models", ""), "validation.models", ["--models"]),
        (("run", "maths", "--merge", "majority"), "validation.strategy", ["majority_voting", "best_of_n"]),
        (("run", "maths", "--weights", "good=1"), "validation.strategy", ["--merge"]),
        (("run", "maths", "--threshold", "0.5"), "validation.strategy", ["--merge"]),
        (("run", "maths", "--merge", "weighted_consensus", "--weights", "good"), "validation.weights", ["'good'"]),
        (("run", "maths", "--merge", "weighted_consensus", "--weights", "good=x"), "validation.weights", ["good=x"]),
        (("run", "maths", "--merge", "weighted_consensus", "--weights", "good=1"), "validation.weights", ["poor"]),
        (("run", "maths", "--merge", "best_of_n", "--weights", "good=1"), "validation.strategy", ["weights"]),
        (("run", "maths", "--merge", "best_of_n", "--threshold", "1.5"), "validation.threshold", ["1.5"]),
        (("run", "maths", "--score-kind", "other"), "validation.score_kind", ["correct"]),
        (("compare", "nope"), "run.unknown", ["maths-"]),
        (("replay", "nope"), "run.unknown", ["maths-"]),
        (("report", "make", "nope"), "run.unknown", ["maths-"]),
        (("import", "absent.parquet"), "data.file", ["absent.parquet"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_request_that_cannot_be_met_is_exit_2_and_lists_the_choices(
    log: Path, cli: Any, args: tuple[str, ...], code: str, named: list[str]
):
    """One typed document on stdout, message and next step on stderr, and no new run or call."""
    count = ("sql", "select (select count(*) from runs) as runs, (select count(*) from calls) as calls", "--json")
    said = cli(*args, "--log", log, "--json")
    assert (said.code, said.json["code"]) == (2, code)
    for name in named:
        assert name in said.json["message"] + said.json["next_step"]
    assert said.json["message"] in said.err
    assert "next: " in said.err
    plain = cli(*args, "--log", log)
    assert (plain.code, plain.out) == (2, "")
    assert cli(*count, "--log", log).json == [{"runs": 1, "calls": 8}]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("selec 1", "validation.sql"),
        ("select * from nowhere", "validation.sql"),
        ("select * from read_csv('/etc/passwd')", "security.sql"),
        ("copy (select 1) to 'stolen.csv'", "security.sql"),
    ],
)
def test_a_query_that_fails_is_exit_2(log: Path, cli: Any, query: str, code: str):
    """A query that cannot be understood or answered is a bad request; the document says why."""
    said = cli("sql", query, "--log", log, "--json")
    assert said.json["code"] == code
    assert said.code == 2


def test_a_cancelled_run_is_not_compared(log: Path, cli: Any):
    """run.unfinished, exit code 2."""
    with duckdb.connect(str(log / "workbench.duckdb")) as con:
        con.execute("update log.run_ends set status = 'cancelled'")
    said = cli("compare", "latest", "--log", log, "--json")
    assert (said.code, said.json["code"]) == (2, "run.unfinished")


def test_a_run_that_cannot_be_shown_is_still_done(tmp_path: Path, cli: Any):
    """One item gives no interval, but the run is finished: exit code 0 and its id, as text and as JSON."""
    file = parquet(tmp_path / "one.parquet", [row("q0", m, "4") for m in ("good", "poor")])
    assert cli("import", file, "--log", tmp_path / "log").code == 0
    for flags in ((), ("--json",)):
        said = cli("run", "maths", "--merge", "majority_voting", "--log", tmp_path / "log", *flags)
        assert said.code == 0
        assert "maths-" in said.out


def test_a_merge_of_scores_alone_is_refused(tmp_path: Path, cli: Any):
    """A recording without text runs without a merge, and says so when one is asked of it."""
    rows = [
        row(f"q{k}", m, "4", response=None, reference=None, score=k / 4 > 0.3) for k in range(4) for m in ("a", "b")
    ]
    file, log = parquet(tmp_path / "scores.parquet", rows), tmp_path / "log"
    assert cli("import", file, "--log", log).code == 0
    refused = cli("run", "maths", "--merge", "majority_voting", "--log", log, "--json")
    assert (refused.code, refused.json["code"]) == (2, "validation.no_text")
    assert cli("run", "maths", "--log", log).code == 0
    assert cli("compare", "latest", "--log", log, "--json").json["strategies"] == []
    asked = cli("compare", "latest", "--merge", "majority_voting", "--log", log, "--json")
    assert (asked.code, asked.json["code"]) == (2, "validation.no_text")


def test_a_reader_that_goes_away_is_no_traceback(log: Path):
    """`workbench sql ... | head -1` ends quietly."""
    query = "select repeat('x', 100) as x from range(5000)"
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench", "sql", query, "--log", str(log)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert process.wait(timeout=30) in (0, 1)
    assert said == b""


# --- hostile data ---------------------------------------------------------------------------------------


def test_sec_ansi_escapes_in_data_are_shown(tmp_path: Path, cli: Any):
    """Model names and answers with escape sequences do not reach the terminal as such, in any command."""
    evil = "\x1b[2J\x1b]0;owned\x07"
    rows = [row(f"q{k}", f"m{evil}{j}", "4", response=f"The answer is 4.{evil}") for k in range(3) for j in range(2)]
    file, log = parquet(tmp_path / "evil.parquet", rows), tmp_path / "log"
    said = [
        cli("import", file, "--log", log), cli("models", "--log", log),
        cli("run", "maths", "--merge", "majority_voting", "--log", log), cli("compare", "latest", "--log", log),
        cli("sql", "select response from answers", "--log", log), cli("run", "maths", "--models", evil, "--log", log),
        cli("sql", f"select '{evil}", "--log", log),
    ]  # fmt: skip
    assert [s.code for s in said[:5]] == [0] * 5
    for s in said:
        assert "\x1b" not in s.out + s.err
        assert "\x07" not in s.out + s.err
    assert "\\x1b[2J" in said[1].out
    assert "\\x1b[2J" in said[4].out


def test_sec_ansi_json_carries_no_raw_control_characters(log: Path, cli: Any):
    """What stands in the document comes back from it exactly, and a terminal that shows it obeys nothing."""
    said = cli(
        "sql",
        "select chr(27) || '[2J' as a, chr(155) || '2J' as b, chr(8238) as c, chr(127) as d",
        "--log",
        log,
        "--json",
    )
    assert said.json == [{"a": "\x1b[2J", "b": "\x9b2J", "c": "\u202e", "d": "\x7f"}]
    assert [c for c in said.out if ord(c) < 32 and c != "\n"] == []
    assert not {"\x9b", "\u202e", "\x7f"} & set(said.out)


# --- reports --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_report_that_fails_is_exit_1_and_keeps_its_notebook(log: Path, tmp_path: Path, cli: Any):
    """The document names the cell; the executed notebook with the traceback stays beside where the page would be."""
    cells = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"c{k}",
            "metadata": {"tags": tags},
            "outputs": [],
            "source": s,
        }
        for k, (tags, s) in enumerate(
            [(["parameters"], "log = None\nrun_id = None"), ([], "raise RuntimeError('planted')")]
        )
    ]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = tmp_path / "failing.ipynb"
    notebook.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    said = cli("report", "make", "latest", "--notebook", notebook, "--out", tmp_path / "out", "--log", log, "--json")
    assert (said.code, said.json["code"]) == (1, "run.failed")
    assert "planted" in said.json["message"]
    (kept,) = (tmp_path / "out").rglob("*.ipynb")
    assert "planted" in kept.read_text()
    assert not list((tmp_path / "out").rglob("index.html"))


@pytest.mark.slow
def test_the_demo_ends_in_a_report(tmp_path: Path):
    """From nothing to a page: run, comparison and report of the simulated pool, with one JSON document."""
    said = shell("demo", "--json", WORKBENCH_LOG=str(tmp_path / "log"))
    assert said.code == 0, said.err
    assert set(said.json) == {"run", "report", "log"}
    page = Path(said.json["report"])
    try:
        text = page.read_text(encoding="utf-8")
        assert page.parent.name == said.json["run"]
        assert "simulated" in text
        assert text.count("Plotly.newPlot(") >= 3
        compared = shell("compare", said.json["run"], "--json", WORKBENCH_LOG=str(tmp_path / "log")).json
        assert compared["words"][0][:40] in text
    finally:
        for file in page.parent.iterdir():
            file.unlink()
        page.parent.rmdir()


# --- prompt styles


def test_a_run_is_asked_in_several_styles_and_shows_what_they_gain(cli: Any, tmp_path: Path):
    """`run --rewrites` asks every prompt unchanged and rewritten; `styles` sets the styles beside the base."""
    log = ("--log", tmp_path / "log")
    said = cli("run", "reasoning", "--models", "simulated:weak", "--rewrites", "concise,step_by_step", *log)
    assert "next: workbench styles reasoning-" in said.out
    found = cli("styles", "latest", "--json", *log)
    assert found.code == 0
    whole = [row for row in found.json["rows"] if row["group"] == "all"]
    assert [(row["style"], row["base"], row["items"]) for row in whole] == [
        ("concise", "unchanged", 48), ("step_by_step", "unchanged", 48)
    ]  # fmt: skip
    assert found.json["source"] == "simulated"
    assert "unchanged → concise" in cli("styles", "latest", *log).out
    assert cli("styles", "latest", "--base", "concise", "--json", *log).json["rows"][0]["base"] == "concise"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("run", "reasoning", "--models", "simulated:weak", "--rewrites", "shout"), "shout"),
        (("run", "reasoning", "--models", "simulated:weak", "--rewrites", "concise,"), "empty name"),
        (("styles", "latest"), "has no model in several prompt styles"),
    ],
    ids=["unknown", "empty", "no styles"],
)
def test_styles_that_cannot_be_had_are_exit_2(cli: Any, tmp_path: Path, command: Sequence[str], said: str):
    """With what was found and what to do next."""
    log = ("--log", tmp_path / "log")
    cli("run", "reasoning", "--models", "simulated:weak", *log)
    done = cli(*command, *log)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "next: " in done.err
