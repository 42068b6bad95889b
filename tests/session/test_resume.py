"""`wb.resume`, `run(resume=True)`, `workbench resume`: from a run in the log back to its plan, and who may run it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from workbench import MajorityVoting, Profile, Workbench
from workbench.act.world import World
from workbench.cli import root, runs
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import EnsembleResponse, Failure, Request, Response, RunEnded, RunStarted
from workbench.record.log import Log
from workbench.record.transfer import SCHEMA
from workbench.session import claims
from workbench.session.claims import claimed, claims_in, close_left_behind

POOL = ["simulated:strong", "simulated:weak"]


@dataclass
class Halting:
    """A model that answers so many items and then waits for ever."""

    name: str = "own:model"
    answers: int = 10
    asked: list[str] = field(default_factory=list)
    waits: asyncio.Event = field(default_factory=asyncio.Event)

    async def complete(self, request: Request) -> Response:
        self.asked.append(str(request.item_id))
        if len(self.asked) > self.answers:
            self.waits.set()
            await asyncio.Event().wait()
        return Response(request_key=request.key, model=self.name, text="The answer is 4.", source="live")


@dataclass(frozen=True)
class First:
    """A merge of the user's own: the first model's answer, by name."""

    name: str = "first"

    def __call__(self, contributions: Any) -> EnsembleResponse:
        parts = tuple(sorted(contributions, key=lambda c: c.model))
        answer = parts[0].answer or "0"
        return EnsembleResponse(
            text=answer, answer=answer, tied=(answer,), strategy=self.name, confidence=1.0, agreement=1.0,
            contributions=parts,
        )  # fmt: skip


def halted(wb: Workbench, *more: Any, name: str = "general", **options: Any) -> str:
    """The id of a run that was cancelled when its own model waited."""
    model = Halting()

    async def main() -> None:
        task = asyncio.create_task(wb.run(name, models=[model, *more], concurrency=1, **options))
        await model.waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    return wb.get_run().run_id


# --- going on -------------------------------------------------------------------------------------------


def test_a_run_goes_on_under_its_name(log_folder: Path) -> None:
    """What was answered is kept, the rest is asked, the result says both, and the log has one run."""
    with Workbench.open(log_folder) as wb:
        run_id = halted(wb, *POOL, merge="majority_voting")
        again = Halting(answers=10_000)
        run = wb.resume_sync(run_id, models=[again])
        assert run.run_id == run_id
        # Eleven items were begun one after the other, and the own model hung at the eleventh.
        assert len(again.asked) == 48 - 10
        assert (run.resumed.before, run.resumed.kept + run.resumed.asked) == ("cancelled", 3 * 48)
        assert wb.log.rows("select run_id, status from runs") == [(run_id, "finished")]
        assert len(run.df()) == 4 * 48  # the merge has rows too
        assert str(run.resumed) in repr(run)
        assert str(run.resumed) not in repr(wb.get_run(run_id))
        assert run.replay().drifts == 0


def test_a_finished_run_is_returned_without_a_call(log_folder: Path) -> None:
    """It says that it is finished; its table is that of the run."""
    with Workbench.open(log_folder) as wb:
        done = wb.run_sync("general", models=POOL, merge="majority_voting")
        calls = wb.log.rows("select count(*) from calls")
        again = wb.resume_sync()
        assert (again.run_id, str(again.resumed)) == (done.run_id, f"run {done.run_id} is finished: nothing was asked")
        assert wb.log.rows("select count(*) from calls") == calls
        assert again.table.scores.tolist() == done.table.scores.tolist()


def test_models_and_merges_of_the_users_own_are_given_again(log_folder: Path) -> None:
    """Neither is in the log: without them the refusal names them, with them the run goes on."""
    with Workbench.open(log_folder) as wb:
        run_id = halted(wb, merge=First())
        with pytest.raises(LLMValidationError, match="'first' is not built in") as caught:
            wb.resume_sync(run_id, models=[Halting(answers=10_000)])
        assert caught.value.code == "run.changed"
        with pytest.raises(LLMValidationError, match="own:model") as caught:
            wb.resume_sync(run_id, merge=First())
        assert caught.value.code == "run.changed"
        assert wb.resume_sync(run_id, models=[Halting(answers=10_000)], merge=First()).table.status == "finished"
    with Workbench.open(log_folder, models=[Halting(answers=10_000)]) as wb:
        run_id = halted(wb)
        assert wb.resume_sync(run_id).table.status == "finished"  # those given to `open` are known


def test_a_profile_of_the_users_own_comes_from_the_log(log_folder: Path) -> None:
    """Its fields are in the run's spec; a changed one under its name is a change."""
    own = Profile(name="mine", skill={"general": 0.9}, seed=5)
    with Workbench.open(log_folder, models=[own]) as wb:
        run_id = halted(wb, own)
        whole = wb.run_sync("general", models=[own])
    with Workbench.open(log_folder) as wb:
        run = wb.resume_sync(run_id, models=[Halting(answers=10_000)])
        mine = run.df().query("model == 'simulated:mine'")["answer"].tolist()
        assert mine == whole.df()["answer"].tolist()
        run_id = halted(wb, own)
        other = Profile(name="mine", skill={"general": 0.1}, seed=5)
        with pytest.raises(LLMValidationError, match="simulated:mine had the profile") as caught:
            wb.resume_sync(run_id, models=[Halting(answers=10_000), other])
        assert caught.value.code == "run.changed"


def write_recording(path: Path, rows: list[Mapping[str, Any]]) -> Path:
    """A Parquet file of the recordings' schema."""
    import duckdb

    with duckdb.connect() as con:
        con.execute(f"create table t({', '.join(f'{c} {t}' for c, t in SCHEMA.items())})")
        for row in rows:
            con.execute(f"insert into t values ({', '.join('?' * len(SCHEMA))})", [row.get(c) for c in SCHEMA])
        con.execute(f"copy t to '{path}' (format parquet)")
    return path


def recorded(item: str, model: str, answer: str, **more: Any) -> Mapping[str, Any]:
    row = {
        "recording": "maths", "task_type": "reasoning", "item_id": item, "prompt": f"Question {item}?",
        "reference": "4", "model": model, "prompt_style": "default", "response": f"The answer is {answer}.",
        "score": float(answer == "4"), "score_kind": "correct",
    }  # fmt: skip
    return {**row, **more}


def test_a_run_of_a_recording_goes_on_and_sees_that_it_grew(tmp_path: Path) -> None:
    """Kind of score and styles come from the spec; a further item, or a log without the recording, is run.changed."""
    twelve = [recorded(f"q{k:02}", model, "4") for k in range(12) for model in "ab"]
    rated = [recorded("z", "a", "4", score=3.5, score_kind="rating")]
    with Workbench.open(tmp_path / "log") as wb:
        wb.import_file(write_recording(tmp_path / "one.parquet", [*twelve, *rated]))
        run_id = halted(wb, "a", "b", name="maths", merge="best_of_n", score_kind="correct")
        again = Halting(answers=10_000)
        run = wb.resume_sync(run_id, models=[again])
        assert (len(again.asked), run.table.models) == (2, ("a", "b", "own:model"))
        run_id = halted(wb, "a", name="maths", score_kind="correct")
        wb.import_file(write_recording(tmp_path / "two.parquet", [recorded("q99", "a", "4")]))
        with pytest.raises(LLMValidationError, match=r"'q99' is new .12 items then, 13 now.") as caught:
            wb.resume_sync(run_id, models=[Halting(answers=10_000)])
        assert caught.value.code == "run.changed"
        wb.log.ingest()
        with wb.log._connection() as con:
            con.execute("delete from log.recorded")
        with pytest.raises(LLMValidationError, match="maths") as caught:
            wb.resume_sync(run_id)
        assert caught.value.code == "run.changed"


def test_a_measurement_and_an_unknown_run_cannot_go_on(log_folder: Path) -> None:
    """run.not_resumable and run.unknown."""
    with Workbench.open(log_folder) as wb:
        with pytest.raises(LLMValidationError) as caught:
            wb.resume_sync("nope")
        assert caught.value.code == "run.unknown"
        wb.log.write(
            RunStarted(run_id="l", name="l", source="live", models=("m",), spec={"setup": "l"}, start_unix_ns=1)
        )
        with pytest.raises(LLMValidationError) as caught:
            wb.resume_sync("l")
        assert caught.value.code == "run.not_resumable"


# --- a cell that is run again ---------------------------------------------------------------------------


def test_a_cell_with_resume_starts_goes_on_and_starts_anew(log_folder: Path) -> None:
    """The newest run of the same plan goes on while it has not finished; another plan, or a finished one, begins."""
    with Workbench.open(log_folder) as wb:
        run_id = halted(wb, "simulated:weak", merge="majority_voting")
        plan: dict[str, Any] = {"models": [Halting(answers=10_000), "simulated:weak"], "resume": True}
        other = wb.run_sync("general", merge="best_of_n", **plan)
        assert other.run_id != run_id
        assert wb.run_sync("general", merge="majority_voting", concurrency=5, **plan).run_id == run_id
        assert wb.run_sync("general", merge="majority_voting", **plan).run_id not in (run_id, other.run_id)
        assert wb.log.rows("select distinct status from runs") == [("finished",)]


def test_a_cell_with_resume_finds_its_run_behind_many_of_other_models(log_folder: Path) -> None:
    """Newer runs of the same items by other models, and a report of that name, hide nothing."""
    with Workbench.open(log_folder) as wb:
        run_id = halted(wb, "simulated:weak")
        ((spec,),) = wb.log.rows("select spec from runs")
        other = {"name": "general", "spec": json.loads(spec), "start_unix_ns": wb.world.unix_ns()}
        for k in range(200):
            wb.log.write(RunStarted(run_id=f"other{k}", source="live", models=("m",), **other))
        wb.log.write(RunStarted(run_id="report", source="report", models=(), **other))
        again = wb.run_sync("general", models=[Halting(answers=10_000), "simulated:weak"], resume=True)
        assert again.run_id == run_id


@pytest.mark.parametrize("given", [None, 1, "general-1"])
def test_resume_of_a_run_is_true_or_false(log_folder: Path, given: Any) -> None:
    """An id there would begin another run: refused, with the call that takes one."""
    with Workbench.open(log_folder) as wb:
        with pytest.raises(LLMValidationError) as caught:
            wb.run_sync("general", models=POOL, resume=given)
        assert (caught.value.code, "wb.resume(" in caught.value.next_step) == ("validation.config", True)
        assert wb.log.rows("select count(*) from runs") == [(0,)]


@pytest.mark.parametrize("concurrency", [0, True, "4"])
def test_a_concurrency_that_is_none_is_refused_when_a_run_goes_on(log_folder: Path, concurrency: Any) -> None:
    """As for a run that begins, and for a finished run too."""
    with Workbench.open(log_folder) as wb:
        run = wb.run_sync("general", models=POOL)
        with pytest.raises(LLMValidationError) as caught:
            wb.resume_sync(run, concurrency=concurrency)
        assert caught.value.code == "validation.config"


def test_a_run_is_had_by_itself_and_by_nothing_that_is_no_id(log_folder: Path) -> None:
    """A Run stands for its id; whatever is no clean text is run.unknown, and a log without runs says so."""
    with Workbench.open(log_folder) as wb:
        with pytest.raises(LLMValidationError, match=r"^the log has no run yet"):
            wb.resume_sync()
        run = wb.run_sync("general", models=POOL)
        assert wb.get_run(run).run_id == wb.resume_sync(run).run_id == run.run_id
        unknown: list[Any] = [123, b"x", True, [], ["a"], {"a": 1}, "\ud800", ""]
        for given in unknown:
            for had in (wb.get_run, wb.resume_sync):
                with pytest.raises(LLMValidationError, match=f"the newest are {run.run_id}") as caught:
                    had(given)
                assert caught.value.code == "run.unknown"


# --- who runs it ----------------------------------------------------------------------------------------


def test_a_run_that_is_under_way_is_refused_to_a_second(log_folder: Path) -> None:
    """run.locked names the process; the file goes with the run, and the run can be had afterwards."""
    with Workbench.open(log_folder) as wb:
        run_id = halted(wb)
        with claimed(log_folder, run_id, now_unix_ns=1):
            with pytest.raises(LLMError) as caught:
                wb.resume_sync(run_id, models=[Halting(answers=10_000)])
            assert (caught.value.code, caught.value.retryable) == ("run.locked", True)
            assert f"process {os.getpid()}" in caught.value.message
            assert close_left_behind(wb.log, wb.world) == []
        assert list(claims_in(log_folder).iterdir()) == []
        assert wb.resume_sync(run_id, models=[Halting(answers=10_000)]).table.status == "finished"


HOLDER = """
import sys, time
from pathlib import Path
from workbench.session.claims import claimed
with claimed(Path(sys.argv[1]), sys.argv[2], now_unix_ns=int(sys.argv[3])):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(log: Path, run_id: str, since: int) -> subprocess.Popen[str]:
    """Another process that runs a run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(log), run_id, str(since)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("pauses", [3, None], ids=["soon", "never"])
def test_a_claim_of_the_dead_that_somebody_closes_is_waited_for(
    log_folder: Path, monkeypatch: pytest.MonkeyPatch, pauses: int | None
) -> None:
    """Whoever closes it lets go in a moment; one who does not is told apart from one who runs it."""
    Log.open(log_folder).close()
    process = hold(log_folder, "r", 1)
    kill(process)
    closing = claims._locked(claims._path(log_folder, "r"))
    assert closing is not None
    slept: list[float] = []

    def sleep(s: float) -> None:
        slept.append(s)
        if len(slept) == pauses:
            os.close(closing)

    monkeypatch.setattr(claims, "time", SimpleNamespace(sleep=sleep))
    if pauses is not None:
        with claimed(log_folder, "r", now_unix_ns=2):
            assert len(slept) == pauses
        return
    with pytest.raises(LLMError, match=f"left by process {process.pid}") as caught:
        claimed(log_folder, "r", now_unix_ns=2).__enter__()
    os.close(closing)
    assert (caught.value.code, sum(slept)) == ("run.locked", pytest.approx(2.0, abs=0.1))


def begun(log: Log, run_id: str) -> None:
    log.write(
        RunStarted(
            run_id=run_id, name="n", source="live", models=("m",), spec={}, start_unix_ns=World.real(log).unix_ns()
        )
    )


def test_a_run_whose_process_was_killed_is_closed_as_crashed(log_folder: Path) -> None:
    """While it lives the run is unfinished; after its death the next to open the log closes it, once."""
    log = Log.open(log_folder)
    begun(log, "r")
    process = hold(log_folder, "r", 1)
    with Workbench.open(log_folder) as wb:
        assert wb.sql("select status from runs")["status"].tolist() == ["unfinished"]
        with pytest.raises(LLMError, match=f"process {process.pid}") as caught:
            wb.resume_sync("r")
        assert caught.value.code == "run.locked"
        kill(process)
        wb.get_run("r")  # a look at it is enough, too
        ((status, failure),) = wb.log.rows("select status, failure from runs")
        assert (status, json.loads(failure)["code"]) == ("crashed", "run.crashed")
        assert str(process.pid) in json.loads(failure)["message"]
        assert close_left_behind(wb.log, wb.world) == []
    assert list(claims_in(log_folder).iterdir()) == []
    log.close()


@pytest.mark.parametrize("before", ["finished", "cancelled"])
def test_a_run_that_had_ended_before_its_process_died_keeps_its_end(log_folder: Path, before: Any) -> None:
    """The claim is older than the end: there is nothing to add."""
    log = Log.open(log_folder)
    begun(log, "r")
    kill(hold(log_folder, "r", 1))
    log.write(RunEnded(run_id="r", status=before, end_unix_ns=World.real(log).unix_ns(), items=1))
    assert close_left_behind(log, World.real(log)) == []
    assert log.rows("select status from runs") == [(before,)]
    log.close()


def test_a_run_that_died_again_while_it_went_on_is_crashed_again(log_folder: Path) -> None:
    """Its earlier end is older than the claim of the process that went on with it."""
    log = Log.open(log_folder)
    world = World.real(log)
    begun(log, "r")
    log.write(RunEnded(run_id="r", status="cancelled", end_unix_ns=world.unix_ns(), items=1, failure=None))
    kill(hold(log_folder, "r", world.unix_ns()))
    assert close_left_behind(log, world) == ["r"]
    assert log.rows("select status from runs") == [("crashed",)]
    log.close()


def test_a_claim_without_a_run_goes_away(log_folder: Path) -> None:
    """A process that died before its run began, or before it had written the claim, leaves nothing to close."""
    log = Log.open(log_folder)
    kill(hold(log_folder, "never-begun", 1))
    (claims_in(log_folder) / "torn.lock").write_text("{", "utf-8")
    assert close_left_behind(log, World.real(log)) == []
    assert list(claims_in(log_folder).iterdir()) == []
    log.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_neither_holds_nor_ends_its_parents_run(log_folder: Path) -> None:
    """The child leaves the claim's file alone, and its life does not keep the run when the parent has let go."""
    log = Log.open(log_folder)
    reading, writing = os.pipe()
    with claimed(log_folder, "r", now_unix_ns=1):
        child = os.fork()
        if child == 0:  # pragma: no cover - the child's coverage is nobody's
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        assert len(list(claims_in(log_folder).iterdir())) == 1
    with claimed(log_folder, "r", now_unix_ns=2):
        pass
    os.close(writing)
    os.waitpid(child, 0)
    os.close(reading)
    log.close()


def test_a_name_that_is_no_file_name_is_claimed_all_the_same(log_folder: Path) -> None:
    """A run id with slashes stays inside the folder of claims."""
    Log.open(log_folder).close()
    with claimed(log_folder, "../../x", now_unix_ns=1):
        (path,) = claims_in(log_folder).iterdir()
        assert json.loads(path.read_text("utf-8"))["run_id"] == "../../x"
    assert not (log_folder.parent.parent / "x.lock").exists()


def test_a_claim_that_cannot_be_written_is_storage_readonly(log_folder: Path) -> None:
    """A file in the place of the folder is told with its next step, before anything is asked."""
    with Workbench.open(log_folder) as wb:
        claims_in(log_folder).write_text("a file", "utf-8")
        with pytest.raises(LLMError) as caught:
            wb.run_sync("general", models=POOL)
        assert caught.value.code == "storage.readonly"
        assert wb.log.rows("select count(*) from runs") == [(0,)]


# --- the frame, and the command -------------------------------------------------------------------------


def test_a_model_that_was_called_twice_for_an_item_has_one_row_in_the_frame(log_folder: Path) -> None:
    """The call that was cut off and the one that answered are two calls of one answer, which has the frame's row."""
    with Workbench.open(log_folder) as wb:
        run = wb.resume_sync(halted(wb), models=[Halting(answers=10_000)])
        assert wb.log.rows("select count(*) from calls") == [(49,)]
        assert len(run.df()) == 48
        assert set(run.df()["source"]) == {"live"}


def command() -> typer.Typer:
    """The two commands alone, with the options of all."""
    app = typer.Typer()
    app.callback(invoke_without_command=True)(root)
    app.command()(runs.run)
    app.command()(runs.resume)
    return app


def test_the_command_goes_on_and_says_what_it_did(log_folder: Path) -> None:
    """As text it is the run with a note, as JSON a document with the counts."""
    with Workbench.open(log_folder) as wb:
        run = wb.run_sync("general", models=POOL, merge="majority_voting")
    said = CliRunner().invoke(command(), ["resume", run.run_id, "--log", str(log_folder)])
    assert (said.exit_code, f"run {run.run_id} is finished: nothing was asked" in said.stdout) == (0, True)
    told = CliRunner().invoke(command(), ["--log", str(log_folder), "--json", "resume", "latest"])
    document = json.loads(told.stdout)
    assert document["resumed"] == {"before": "finished", "kept": 96, "asked": 0}
    assert (document["run"], document["merge"]) == (run.run_id, {"policy": "majority_voting", "params": {}})


def test_the_run_command_goes_on_with_an_interrupted_run(log_folder: Path) -> None:
    """`workbench run NAME --resume` takes the newest run of the same plan."""
    options = ["--models", ",".join(POOL), "--merge", "majority_voting", "--log", str(log_folder), "--json"]
    first = CliRunner().invoke(command(), ["run", "general", *options])
    run_id = json.loads(first.stdout)["run"]
    with Workbench.open(log_folder) as wb:
        down = Failure(kind="LLMError", code="run.failed", message="x")
        end = RunEnded(run_id=run_id, status="failed", end_unix_ns=wb.world.unix_ns(), items=48, failure=down)
        wb.log.write(end)
    again = CliRunner().invoke(command(), ["run", "general", "--resume", *options])
    assert json.loads(again.stdout)["run"] == run_id
    assert json.loads(again.stdout)["resumed"] == {"before": "failed", "kept": 96, "asked": 0}


def test_a_key_that_was_refused_is_tried_again(log_folder: Path) -> None:
    """What put a model out of the run may be mended when it goes on, in the same object too."""
    from workbench import FaultLab

    with FaultLab(["strong"], latency=0) as lab, lab.open(log_folder, models=["lab:strong"]) as wb:
        lab.set_faults("*=http-401")
        with pytest.raises(LLMError, match=r"provider\.auth"):
            wb.run_sync("general", merge=MajorityVoting())
        lab.heal()
        run = wb.resume_sync()
        assert (run.table.status, run.resumed.before, run.resumed.asked) == ("finished", "failed", 48)
