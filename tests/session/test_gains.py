"""`wb.gains` and `workbench gains`: runs are made where there is none, and used again where there is one."""

from __future__ import annotations

import json
from pathlib import Path

import plotly.graph_objects as go
import pytest

from workbench import Auto, LLMRouterError, LLMValidationError, LogOdds, MajorityVoting, WeightedConsensus, Workbench
from workbench.cli import main
from workbench.show.gains import gains_values


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with one finished run of the simulated pool."""
    folder = tmp_path_factory.mktemp("gains") / "log"
    with Workbench.open(folder) as wb:
        wb.run_sync("question_answering")
    return folder


def runs(wb: Workbench) -> int:
    [(count,)] = wb.log.rows("select count(*) from runs")
    return int(count)


def test_a_finished_run_is_used_and_a_missing_one_is_made(folder: Path):
    """The pool of all models is asked once, whoever asks for the table again."""
    told: list[str] = []
    with Workbench.open(folder) as wb:
        before = runs(wb)
        found = wb.gains_sync("question_answering", strategies=["majority_voting"], splits=10, told=told.append)
        assert runs(wb) == before
        wb.gains_sync("general", strategies=["majority_voting"], splits=10)
        wb.gains_sync("general", strategies=["majority_voting"], splits=10)
        assert runs(wb) == before + 1
        assert wb.log.rows("select distinct source from runs") == [("simulated",)]
    assert found["question_answering", "all", "majority_voting"].source == "simulated"
    assert [line.partition(",")[0] for line in told] == ["question_answering"]


def test_a_run_of_some_models_does_not_stand_for_all(folder: Path):
    """The table is of all models of the suite."""
    with Workbench.open(folder) as wb:
        wb.run_sync("reasoning", models=["simulated:strong", "simulated:weak"])
        found = wb.gains_sync("reasoning", strategies=["majority_voting"], splits=10)
        assert found.found.rows[0].models == 3


def test_pools_that_are_no_smaller_are_left_out(folder: Path):
    """Three models have no closest five; top:2 is there."""
    with Workbench.open(folder) as wb:
        found = wb.gains_sync(
            "question_answering", pools=["all", "top:2", "closest:5"], strategies=[LogOdds()], splits=10
        )
    assert [row.pool for row in found.found.rows] == ["all", "top:2"]


def test_what_is_unknown_is_refused(folder: Path):
    """A name that is no suite, a strategy that is none, splits that are none."""
    with Workbench.open(folder) as wb:
        with pytest.raises(LLMRouterError, match="unknown recording or suite"):
            wb.gains_sync("nobody")
        with pytest.raises(LLMValidationError, match="not one of"):
            wb.gains_sync("question_answering", strategies=["nothing"])
        with pytest.raises(LLMValidationError) as few:
            wb.gains_sync("question_answering", splits=1)
        assert few.value.code == "stats.splits"


def test_the_table_and_the_figure_show_every_row(folder: Path):
    """Best first, with what was left out; a panel a pool, coloured by verdict, and the source in its title."""
    with Workbench.open(folder) as wb:
        found = wb.gains_sync(
            "question_answering", pools=["all", "top:2"], strategies=["majority_voting", Auto()], splits=10
        )
    text = repr(found)
    assert text.count("majority_voting") >= 2
    assert "auto: " in text
    assert "<table" in found._repr_html_()
    panels = gains_values(found.found)
    assert [len(panel.marks) for panel in panels] == [2, 2]
    assert all("simulated" in panel.title for panel in panels)
    assert [m.value for m in panels[0].marks] == sorted((m.value for m in panels[0].marks), reverse=True)
    figure = found.plot()
    assert isinstance(figure, go.Figure)
    drawn = {x for trace in figure.data for x in trace.x}
    assert drawn == {mark.value for panel in panels for mark in panel.marks}


def test_the_command_prints_the_table_or_json(folder: Path, capsys: pytest.CaptureFixture[str]):
    """One command makes the table; --json has the same numbers."""
    args = ["gains", "question_answering", "--log", str(folder), "--strategy", "auto", "--splits", "10"]
    with pytest.raises(SystemExit) as done:
        main(args)
    assert done.value.code == 0
    assert "What merging adds" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*args, "--json"])
    [row] = json.loads(capsys.readouterr().out)["rows"]
    assert row["strategy"] == "auto"


def test_a_fitted_strategy_is_taken_along(folder: Path):
    """`run.fit` learns from the whole run; the policy merges another; one that was not fitted is refused first."""
    with Workbench.open(folder) as wb:
        run = wb.get_run()
        fitted = wb.run_sync("question_answering").fit(LogOdds())
        assert set(fitted.weights) == {"simulated:medium", "simulated:strong", "simulated:weak"}
        before = runs(wb)
        with pytest.raises(LLMValidationError) as early:
            wb.run_sync("general", merge=LogOdds())
        assert (early.value.code, runs(wb)) == ("validation.unfitted", before)
        merged = wb.run_sync("general", merge=fitted)
        assert merged.replay().drifts == 0
        with pytest.raises(LLMValidationError, match="nothing to learn"):
            run.fit(MajorityVoting())


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"strategies": ["nope"]}, "validation.strategy"),
        ({"strategies": 5}, "validation.strategy"),
        ({"pools": None}, "validation.pool"),
        ({"pools": [5]}, "validation.pool"),
        ({"seed": -1}, "stats.seed"),
        ({"splits": 10**30}, "stats.splits"),
    ],
)
def test_a_mistake_is_told_before_anything_is_asked(tmp_path: Path, options: dict[str, object], code: str):
    """No run is made for a table that could not be computed."""
    with Workbench.open(tmp_path / "log") as wb:
        with pytest.raises(LLMValidationError) as caught:
            wb.gains_sync("question_answering", **options)
        assert caught.value.code == code
        assert runs(wb) == 0


@pytest.mark.parametrize(
    "name", ["a" * 5000, "x\0", "../general", ["general"], None, 5], ids=lambda name: repr(name)[:20]
)
def test_what_is_no_name_of_a_recording_is_refused(folder: Path, name: object):
    """Also a text that no file could be called."""
    with Workbench.open(folder) as wb:
        with pytest.raises(LLMRouterError) as caught:
            wb.gains_sync(name)
        assert caught.value.code == "router.unknown_suite"


@pytest.mark.parametrize("pool", ["top:" + "9" * 5000, "closest:" + "9" * 5000])
def test_a_pool_of_more_models_than_can_be_counted_is_left_out(folder: Path, pool: str):
    """Python refuses to read thousands of digits, which is no reason to fail."""
    with Workbench.open(folder) as wb:
        found = wb.gains_sync("question_answering", pools=[pool], strategies=["majority_voting"], splits=2)
        assert found.found.rows == ()


def test_a_fitted_auto_can_be_compared_and_shown(folder: Path):
    """Its parameters hold another strategy's, and the label of its row shows them."""
    with Workbench.open(folder) as wb:
        run = wb.get_run()
        assert "auto(chosen={policy: " in repr(run.what_if(run.fit(Auto())))


def test_a_part_of_the_models_is_compared_without_weights_for_all(folder: Path):
    """The run's own weighted merge is for three models; of two of them it is left out, and the rest is compared."""
    weights = {"simulated:medium": 1.0, "simulated:strong": 2.0, "simulated:weak": 1.0}
    two = ["simulated:medium", "simulated:strong"]
    with Workbench.open(folder) as wb:
        run = wb.run_sync("question_answering", merge=WeightedConsensus(weights))
        assert run.compare().found.strategies[0].params == {"weights": weights}
        part = run.compare("stacking", models=two).found
        assert part.models == tuple(two)
        names = [s.strategy for s in part.strategies]
        assert names == ["stacking", "majority_voting", "weighted_consensus", "best_of_n"]
        again = wb.get_run(run.run_id).compare(models=two).found
        assert [s.strategy for s in again.strategies] == names[1:]
