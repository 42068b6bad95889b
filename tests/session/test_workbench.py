"""The workbench: opening a log, naming models, running, and asking the log."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pandas as pd
import pytest

from workbench import MajorityVoting, Profile, Workbench
from workbench.act.function import FunctionModel
from workbench.errors import LLMError, LLMRouterError, LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution, Request, Response
from workbench.record.transfer import SCHEMA

# Item, gold answer, and what each model said; c was asked in two styles.
MATHS: Sequence[tuple[str, str, Mapping[str, str | None]]] = [
    ("q1", "4", {"a": "4", "b": "4", "c/concise": "5", "c/verbose": "4"}),
    ("q2", "7", {"a": "7", "b": "9", "c/concise": "9", "c/verbose": "7"}),
    ("q3", "2", {"a": "1", "b": "2", "c/concise": "2", "c/verbose": None}),
    ("q4", "3", {"a": "3", "b": "8", "c/concise": "6", "c/verbose": "3"}),
]


def write_recording(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A Parquet file of the recordings' schema; columns that a row leaves out are null."""
    with duckdb.connect() as con:
        con.execute(f"create table t({', '.join(f'{c} {t}' for c, t in SCHEMA.items())})")
        con.executemany(
            f"insert into t values ({', '.join('?' * len(SCHEMA))})", [[r.get(c) for c in SCHEMA] for r in rows]
        )
        con.execute(f"copy t to '{path}' (format parquet)")
    return path


def maths(path: Path) -> Path:
    rows = []
    for item, gold, said in MATHS:
        for who, answer in said.items():
            model, _, style = who.partition("/")
            text = "I cannot tell." if answer is None else f"The answer is {answer}."
            rows.append(
                {"recording": "maths", "task_type": "reasoning", "item_id": item, "prompt": f"Question {item}?",
                 "reference": gold, "model": model, "prompt_style": style or "default", "response": text,
                 "score": float(answer == gold), "score_kind": "correct"}
            )  # fmt: skip
    return write_recording(path, rows)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with the recording, made once."""
    folder = tmp_path_factory.mktemp("workbench")
    with Workbench.open(folder / "log") as opened:
        opened.import_file(maths(folder / "maths.parquet"))
    return folder / "log"


@pytest.fixture
def wb(tmp_path: Path, template: Path) -> Iterator[Workbench]:
    """A workbench on a copy of that log."""
    with Workbench.open(shutil.copytree(template, tmp_path / "log")) as opened:
        yield opened


# --- opening --------------------------------------------------------------------------------------------


def test_opening_makes_the_folder_and_closing_lets_go(tmp_path: Path):
    """The context manager makes the log where there is none; a second workbench may open it afterwards."""
    with Workbench.open(tmp_path / "deep" / "log") as wb:
        assert repr(wb) == f"Workbench({str(tmp_path / 'deep' / 'log')!r})"
        assert wb.recordings() == []
    with Workbench.open(tmp_path / "deep" / "log") as again:
        assert len(again.sql("select * from runs")) == 0


def test_opening_where_nothing_can_be_written_is_refused(tmp_path: Path):
    """A file in the folder's place is storage.readonly, with what to do."""
    (tmp_path / "log").write_text("a file")
    with pytest.raises(LLMError) as caught:
        Workbench.open(tmp_path / "log")
    assert (caught.value.code, type(caught.value)) == ("storage.readonly", LLMError)
    assert "WORKBENCH_LOG" in caught.value.next_step


def test_opening_a_broken_database_is_refused(tmp_path: Path):
    """Bytes that are no DuckDB database are storage.corrupt."""
    (tmp_path / "workbench.duckdb").write_bytes(b"not a database at all" * 500)
    with pytest.raises(LLMError) as caught:
        Workbench.open(tmp_path)
    assert caught.value.code == "storage.corrupt"


def test_opening_somebody_elses_database_is_refused(tmp_path: Path):
    """A DuckDB file that is not a log is storage.schema, and stays as it is."""
    with duckdb.connect(str(tmp_path / "workbench.duckdb")) as con:
        con.execute("create table mine as select 42 as x")
    with pytest.raises(LLMError) as caught:
        Workbench.open(tmp_path)
    assert caught.value.code == "storage.schema"
    with duckdb.connect(str(tmp_path / "workbench.duckdb")) as con:
        assert con.execute("select x from mine").fetchall() == [(42,)]


def test_a_folder_left_out_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """WORKBENCH_LOG says where the log lies."""
    monkeypatch.setenv("WORKBENCH_LOG", str(tmp_path / "elsewhere"))
    with Workbench.open() as wb:
        assert wb.log.folder == tmp_path / "elsewhere"


# --- naming what to run ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "members"),
    [
        (None, ["a", "b", "c/concise", "c/verbose"]),
        (["a", "b"], ["a", "b"]),
        (["recorded:maths/a", "c/concise"], ["a", "c/concise"]),
        (["recorded:maths/c/verbose"], ["c/verbose"]),
        (["recorded:maths/*"], ["a", "b", "c/concise", "c/verbose"]),
        (["[ab]", "c/v*"], ["a", "b", "c/verbose"]),
        (["a", "simulated:strong"], ["a", "simulated:strong"]),
        (["a/default"], ["a"]),
    ],
)
def test_models_of_a_recording_are_named_in_many_ways(wb: Workbench, models: Any, members: list[str]):
    """Bare names, full names, styles and patterns mean the models of the file; simulated ones may join them."""
    run = wb.run_sync("maths", models=models)
    assert sorted(run.table.models) == members


@pytest.mark.parametrize(
    ("models", "error", "code", "said"),
    [
        (["c"], LLMRouterError, "router.ambiguous_model", ["c/concise", "c/verbose"]),
        (["recorded:maths/c"], LLMRouterError, "router.ambiguous_model", ["c/concise", "c/verbose"]),
        (["c/concis"], LLMRouterError, "router.unknown_model", ["did you mean 'c/concise'?"]),
        (["z*"], LLMRouterError, "router.unknown_model", ["a, b, c/concise, c/verbose"]),
        (["simulated:stron"], LLMRouterError, "router.unknown_model", ["did you mean 'simulated:strong'?"]),
        (["a", "a"], LLMValidationError, "validation.models", ["'a' is named twice"]),
        (["a", "*"], LLMValidationError, "validation.models", ["'a' is named twice"]),
        ([], LLMValidationError, "validation.models", ["no models"]),
        ([42], LLMValidationError, "validation.models", ["42"]),
        ([len], LLMValidationError, "validation.models", ["complete"]),
    ],
)
def test_a_name_that_cannot_be_met_is_refused_with_the_choices(
    wb: Workbench, models: Any, error: type[LLMError], code: str, said: list[str]
):
    """The refusal is typed, lists what there is, and comes before any call."""
    with pytest.raises(error) as caught:
        wb.run_sync("maths", models=models)
    assert caught.value.code == code
    for text in said:
        assert text in f"{caught.value.message} {caught.value.next_step}"
    assert wb.sql("select (select count(*) from calls) + (select count(*) from runs) as n")["n"][0] == 0


def test_an_unknown_suite_is_refused_with_the_choices(wb: Workbench):
    """Recordings and bundled suites are listed, and the closest is proposed."""
    with pytest.raises(LLMRouterError, match=r"maths.*question_answering") as caught:
        wb.run_sync("math")
    assert (caught.value.code, caught.value.next_step) == ("router.unknown_suite", "did you mean 'maths'?")


@dataclass(frozen=True)
class Parrot:
    """A Model object of the user's own."""

    name: str = "mine:parrot"

    async def complete(self, request: Request) -> Response:
        return Response(request_key=request.key, model=self.name, text="The answer is 4.", source="live")


def test_profiles_model_objects_and_functions_answer_like_models(wb: Workbench):
    """Each is a member under its own name, and the log tells live from simulated and recorded answers."""
    always = Profile(name="always", skill={"reasoning": 1.0}, shared=0.0, no_answer=0.0)
    run = wb.run_sync(
        "maths", models=["a", always, Parrot(), FunctionModel("mine:seven", lambda prompt: "It is 7.\nA: 7")]
    )
    frame = wb.sql("select model, any_value(source) as source, count(*) as n from calls group by 1 order by 1")
    assert frame.values.tolist() == [
        ["a", "recorded", 4],
        ["mine:parrot", "live", 4],
        ["mine:seven", "live", 4],
        ["simulated:always", "simulated", 4],
    ]
    scores = {s.model: s.score for s in run.compare().found.singles}
    # a: q1, q2, q4; parrot says 4, right on q1; seven is right on q2.
    assert scores == {"a": 0.75, "mine:parrot": 0.25, "mine:seven": 0.25, "simulated:always": 1.0}
    assert run.table.source == "live+recorded+simulated"


def test_a_profile_given_to_open_is_known_by_name(tmp_path: Path):
    """Models given when opening are the default of a run, and their names resolve later."""
    oracle = Profile(name="oracle", skill={"general": 1.0}, shared=0.0, no_answer=0.0)
    with Workbench.open(tmp_path / "log", models=[oracle]) as wb:
        assert wb.run_sync("general").table.models == ("simulated:oracle",)
        both = wb.run_sync("general", models=["simulated:oracle", "simulated:weak"])
        assert both.table.models == ("simulated:oracle", "simulated:weak")
        assert both.compare().found.best_single == {"model": "simulated:oracle", "score": 1.0}


def test_a_text_given_to_open_is_one_model(tmp_path: Path):
    """Not its letters."""
    with Workbench.open(tmp_path / "log", models="simulated:strong") as wb:
        assert wb.run_sync("general").table.models == ("simulated:strong",)


def test_recorded_models_given_to_open_are_taken_for_their_recording_only(wb: Workbench, tmp_path: Path):
    """A default of another recording does not join a run."""
    other = Workbench(wb.log, ["recorded:maths/a", "recorded:another/x", "simulated:weak"])
    assert other.run_sync("maths").table.models == ("a", "simulated:weak")
    assert other.run_sync("general").table.models == ("simulated:weak",)


# --- refusals before anything is paid -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"concurrency": 0}, "validation.config"),
        ({"concurrency": True}, "validation.config"),
        ({"concurrency": "16"}, "validation.config"),
        ({"merge": "majority"}, "validation.strategy"),
        ({"merge": 42}, "validation.strategy"),
        ({"merge": MajorityVoting}, "validation.strategy"),
        ({"score_kind": "nope"}, "validation.score_kind"),
    ],
    ids=["no concurrency", "true", "text", "unknown merge", "no merge at all", "a class, not a policy", "score kind"],
)
def test_an_option_that_cannot_work_is_refused_before_any_call(wb: Workbench, options: dict[str, Any], code: str):
    """The refusal is typed, and nothing was asked."""
    with pytest.raises(LLMValidationError) as caught:
        wb.run_sync("maths", **options)
    assert caught.value.code == code
    assert wb.sql("select count(*) as n from calls")["n"][0] == 0


def test_mixed_kinds_of_score_are_never_pooled(tmp_path: Path):
    """A recording with two kinds is refused with both names, and runs on the one that is chosen."""
    rows = [
        {"recording": "mixed", "task_type": "general", "item_id": f"{kind}{k}", "prompt": f"{kind} {k}?",
         "model": model, "prompt_style": "default", "response": f"text {model}", "score": k / 4, "score_kind": kind}
        for kind in ("meteor", "judge") for k in range(3) for model in ("a", "b")
    ]  # fmt: skip
    with Workbench.open(tmp_path / "log") as wb:
        wb.import_file(write_recording(tmp_path / "mixed.parquet", rows))
        with pytest.raises(LLMValidationError, match="judge, meteor") as caught:
            wb.run_sync("mixed")
        assert (caught.value.code, "score_kind" in caught.value.next_step) == ("validation.score_kind", True)
        run = wb.run_sync("mixed", score_kind="judge", merge="majority_voting")
        assert (run.table.score_kind, len(run.table.item_ids)) == ("judge", 3)


# --- running --------------------------------------------------------------------------------------------


def test_run_and_run_sync_do_the_same(wb: Workbench):
    """The coroutine and its synchronous form give equal tables."""
    first = asyncio.run(wb.run("maths", merge="majority_voting")).table
    second = wb.run_sync("maths", merge="majority_voting").table
    assert first.scores.tolist() == second.scores.tolist()
    assert first.run_id != second.run_id


def test_nb_running_loop_run_sync_works_in_a_cell(wb: Workbench):
    """Inside a running event loop, as in a notebook cell, run_sync returns the finished run."""

    async def cell() -> Any:
        return wb.run_sync("maths", merge="majority_voting")

    run = asyncio.run(cell())
    assert run.table.status == "finished"
    assert len(wb.sql("select * from calls where run_id = ?", [run.run_id])) == 16


@dataclass(frozen=True)
class First:
    """A merge of the user's own: the first model's answer."""

    name: ClassVar[str] = "first"

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        answer = next((c.answer for c in contributions if c.answer is not None), None)
        return EnsembleResponse(
            text="", answer=answer, tied=(answer,) if answer else (), strategy=self.name, confidence=1.0, agreement=1.0,
            contributions=tuple(contributions),
        )  # fmt: skip


def test_a_merge_of_the_users_own_is_run_compared_and_replayed(wb: Workbench):
    """Any object with a name and a call is a merge: its score is that of the model it follows."""
    run = wb.run_sync("maths", models=["a", "b"], merge=First())
    assert run.compare()["first"].score == 0.75
    assert run.replay().drifts == 0
    assert wb.get_run().replay(First()).drifts == 0


def test_the_newest_run_is_the_latest(wb: Workbench):
    """get_run finds a run by id; without an id, or as latest, the newest."""
    first = wb.run_sync("maths", models=["a", "b"])
    second = wb.run_sync("maths", models=["b", "c/concise"])
    assert wb.get_run().run_id == wb.get_run("latest").run_id == second.run_id
    assert wb.get_run(first.run_id).table.models == ("a", "b")
    with pytest.raises(LLMValidationError, match=first.run_id) as caught:
        wb.get_run("nope")
    assert caught.value.code == "run.unknown"


# --- asking the log -------------------------------------------------------------------------------------


def test_sql_returns_a_frame(wb: Workbench):
    """Parameters are bound, the columns are named, the values are those of the file."""
    wb.run_sync("maths", models=["a", "b"])
    frame = wb.sql("select model, sum(value) as right from scores where scorer = ? group by 1 order by 1", ["source"])
    assert isinstance(frame, pd.DataFrame)
    assert frame.to_dict("list") == {"model": ["a", "b"], "right": [3.0, 2.0]}


def test_sql_leaves_no_handle_open(wb: Workbench):
    """After a query another process opens the database for writing while the workbench is still open."""
    wb.run_sync("maths", models=["a", "b"])
    wb.sql("select 1")
    script = f"import duckdb; c = duckdb.connect({str(wb.log.database)!r}); c.execute('create table log.probe(x int)')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("selec 1", "validation.sql"),
        ("select * from nothing", "validation.sql"),
        ("delete from log.calls", "validation.sql"),
        ("select * from read_csv('/etc/passwd')", "security.sql"),
        ("copy (select 1) to '/tmp/workbench-should-not-be-there.csv'", "security.sql"),
        ("attach '/tmp/workbench-should-not-be-there.duckdb'", "security.sql"),
        ("install httpfs", "security.sql"),
    ],
)
def test_sec_sql_stays_in_the_log(wb: Workbench, query: str, code: str):
    """Bad queries, writes and everything outside the log are refused, typed."""
    with pytest.raises(LLMValidationError) as caught:
        wb.sql(query)
    assert caught.value.code == code
    assert not list(Path("/tmp").glob("workbench-should-not-be-there*"))


def test_the_recordings_are_listed_with_models_and_styles(wb: Workbench):
    """What was imported, in the words of the file."""
    (listed,) = wb.recordings()
    assert (listed["recording"], listed["items"], listed["rows"]) == ("maths", 4, 16)
    assert [(m["model"], list(m["styles"])) for m in listed["models"]] == [
        ("a", ["default"]), ("b", ["default"]), ("c", ["concise", "verbose"]),
    ]  # fmt: skip


def test_an_item_that_a_model_was_not_recorded_on_is_left_out(tmp_path: Path):
    """Two models recorded on different halves are compared on what they share, not as wrong on the rest."""
    rows = [
        {"recording": "halves", "task_type": "general", "item_id": f"i{k}", "prompt": f"{k}?", "reference": "4",
         "model": model, "prompt_style": "default", "response": "The answer is 4.", "score": 1.0,
         "score_kind": "correct"}
        for model, items in (("a", range(6)), ("b", range(3, 9))) for k in items
    ]  # fmt: skip
    with Workbench.open(tmp_path / "log") as wb:
        wb.import_file(write_recording(tmp_path / "halves.parquet", rows))
        found = wb.run_sync("halves", merge="majority_voting").compare().found
        assert (found.items, found.items_dropped) == (3, 6)
        assert [s.score for s in found.singles] == [1.0, 1.0]
        assert "6 items without a score" in wb.get_run().compare().words.sentences[0]


@pytest.mark.parametrize("strategy", ["best_of_n", MajorityVoting()], ids=str)
def test_questions_take_names_and_policies(wb: Workbench, strategy: Any):
    """A what-if takes what a run takes; a class or a misspelt name is refused."""
    run = wb.run_sync("maths")
    assert len(run.what_if(strategy).found.strategies) == 1
    for wrong in ("best_of", MajorityVoting, None, 42):
        with pytest.raises(LLMValidationError) as caught:
            run.what_if(wrong)
        assert caught.value.code == "validation.strategy"
