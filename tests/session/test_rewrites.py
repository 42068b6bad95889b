"""A suite in several styles: every model is asked the prompts unchanged and rewritten, and the run resumes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench import LLMValidationError, Profile, Response, Workbench
from workbench.decide.rewrite import rewrite
from workbench.facts import Request

READER = Profile(name="reader", skill={"reasoning": 0.5}, gains={"step_by_step": 0.3, "concise": -0.2})


class Counting:
    """Answers 42, and keeps what it was asked; after some calls it answers no more, and the run is cancelled."""

    name = "counting"

    def __init__(self, calls: int = 10**9) -> None:
        self.left, self.prompts = calls, []
        self.task: asyncio.Task[object] | None = None

    async def complete(self, request: Request) -> Response:
        if self.left <= 0 and self.task is not None:
            self.task.cancel()
            await asyncio.sleep(3600)
        self.left -= 1
        self.prompts.append(request.prompt)
        return Response(request_key=request.key, model=self.name, text="42", source="live")


@pytest.fixture
def wb(log_folder: Path) -> Iterator[Workbench]:
    with Workbench.open(log_folder) as opened:
        yield opened


def test_every_model_is_asked_in_every_style(wb: Workbench) -> None:
    """Unchanged first; the prompts in the log are those that `rewrite` gives."""
    model = Counting()
    run = wb.run_sync("reasoning", models=[model], rewrites=["step_by_step"])
    assert set(run.table.models) == {"counting/unchanged", "counting/step_by_step"}
    rows = wb.log.rows(
        "select i.item_id, p.text, c.member, t.text from calls c join items i using (run_id, item_id) "
        "join texts p on p.hash = i.prompt_hash join texts t on t.hash = c.prompt_hash where c.run_id = ?", [run.run_id]
    )  # fmt: skip
    assert len(rows) == 96
    for _, prompt, member, asked in rows:
        style = member.partition("/")[2]
        assert asked == (prompt if style == "unchanged" else rewrite(prompt, style, task="reasoning").text)


def test_a_declared_gain_of_a_simulated_model_is_found(wb: Workbench) -> None:
    """What the profile says of a strategy shows as a paired gain, labelled simulated; what it does not name gains 0."""
    run = wb.run_sync("reasoning", models=[READER], rewrites=["step_by_step", "concise", "verbose"])
    found = run.style_gains()
    gains = {
        style: found["simulated:reader", style, "all"].gain.value for style in ("step_by_step", "concise", "verbose")
    }
    assert gains["step_by_step"] == pytest.approx(0.3, abs=0.15)
    assert gains["concise"] < 0
    assert gains["verbose"] == 0
    assert run.table.source == "simulated"


def test_a_run_in_styles_goes_on_after_an_interruption(wb: Workbench) -> None:
    """It is planned again from the log, with its styles; nothing is asked twice."""
    broken = Counting(calls=30)

    async def cut() -> None:
        broken.task = asyncio.create_task(wb.run("reasoning", models=[broken, READER], rewrites=["concise"]))
        await broken.task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cut())
    assert len(broken.prompts) == 30
    whole = Counting()
    run = wb.resume_sync("latest", models=[whole, READER])
    assert len(broken.prompts) + len(whole.prompts) == 96
    assert set(run.table.models) == {
        f"{m}/{s}" for m in ("counting", "simulated:reader") for s in ("unchanged", "concise")
    }


def test_the_same_cell_resumes_only_the_same_styles(wb: Workbench) -> None:
    """Another set of rewritings is another run."""
    first = wb.run_sync("reasoning", models=[READER], rewrites=["concise"])
    again = wb.run_sync("reasoning", models=[READER], rewrites=["verbose"], resume=True)
    assert first.run_id != again.run_id
    (spec,) = wb.log.rows("select spec from runs where run_id = ?", [again.run_id])[0]
    assert json.loads(spec)["rewrites"] == ["verbose"]


@pytest.mark.parametrize(
    ("rewrites", "code"),
    [(["shout"], "validation.strategy"), (["concise", "concise"], "validation.strategy"),
     (["exemplify"], "validation.strategy"), (["unchanged"], "validation.strategy")],
    ids=str,
)  # fmt: skip
def test_what_cannot_rewrite_a_run_is_refused(wb: Workbench, rewrites: list[str], code: str) -> None:
    """Before anything is asked."""
    with pytest.raises(LLMValidationError) as refused:
        wb.run_sync("reasoning", models=[READER], rewrites=rewrites)
    assert refused.value.code == code
    assert wb.log.rows("select count(*) from runs") == [(0,)]


@pytest.mark.recordings
def test_recorded_models_cannot_be_asked_otherwise(wb: Workbench, recordings: Path) -> None:
    """A changed prompt is a new experiment, and the refusal says so."""
    wb.import_file(recordings / "classeval.parquet")
    with pytest.raises(LLMValidationError) as refused:
        wb.run_sync("classeval", models=["GPT-4-Turbo/class_holistic"], rewrites=["concise"])
    assert refused.value.code == "validation.rewrites"


@pytest.mark.parametrize("gain", [1.5, -2, float("nan")], ids=str)
def test_a_declared_gain_is_a_share(gain: float) -> None:
    """It is added to a probability."""
    with pytest.raises(LLMValidationError) as refused:
        Profile(name="x", skill={}, gains={"concise": gain})
    assert refused.value.code == "validation.profile"


def test_a_declared_gain_names_a_strategy() -> None:
    """A name that no strategy has would gain nothing, in silence."""
    with pytest.raises(LLMValidationError, match="'cot'") as refused:
        Profile(name="x", skill={}, gains={"cot": 0.2})
    assert refused.value.code == "validation.profile"


@pytest.mark.parametrize("rewrites", ["concise", ("concise",)], ids=str)
def test_one_strategy_may_be_a_text_and_is_kept_as_one(wb: Workbench, rewrites: object) -> None:
    """The plan in the log names it, so that the run can be planned again."""
    run = wb.run_sync("reasoning", models=[READER], rewrites=rewrites)  # type: ignore[arg-type]
    (spec,) = wb.log.rows("select spec from runs where run_id = ?", [run.run_id])[0]
    assert json.loads(spec)["rewrites"] == ["concise"]
    assert wb.resume_sync(run).resumed.asked == 0


@pytest.mark.parametrize("rewrites", [5, iter(["concise"]), [5]], ids=["number", "iterator", "list of numbers"])
def test_what_is_no_list_of_strategies_is_refused(wb: Workbench, rewrites: object) -> None:
    """An iterator would be empty when the plan is kept."""
    with pytest.raises(LLMValidationError) as refused:
        wb.run_sync("reasoning", models=[READER], rewrites=rewrites)  # type: ignore[arg-type]
    assert refused.value.code == "validation.strategy"


def test_a_simulated_model_inside_another_object_is_refused(wb: Workbench) -> None:
    """It could not be told the style, and would answer every rewritten prompt as a stranger."""

    class Wrapped:
        name = "simulated:weak"

        async def complete(self, request: Request) -> Response:
            raise AssertionError("nothing is asked")

    with pytest.raises(LLMValidationError) as refused:
        wb.run_sync("reasoning", models=[Wrapped()], rewrites=["concise"])
    assert refused.value.code == "validation.rewrites"


@pytest.mark.parametrize("gains", [None, {"concise": "x"}, ["concise"]], ids=str)
def test_declared_gains_are_a_mapping_of_numbers(gains: object) -> None:
    """Anything else is refused with the profile's name."""
    with pytest.raises(LLMValidationError) as refused:
        Profile(name="x", skill={}, gains=gains)  # type: ignore[arg-type]
    assert refused.value.code == "validation.profile"
