"""Suites by name: a bundled one of texts goes through everything that a run can be asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench import MajorityVoting, Workbench
from workbench.decide.textmetrics import chrf
from workbench.errors import LLMRouterError, LLMValidationError
from workbench.session import places, suites
from workbench.session.run import Run

REFERENCES = [f"Der Zug Nummer {k} nach Ulm fährt heute leider erst um {k} Uhr ab." for k in range(24)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of 24 translations, each with two references."""
    path = tmp_path_factory.mktemp("suites") / "trains.jsonl"
    rows = [
        {"item_id": f"tr-{k:03}", "task": "translation", "prompt": f"Translate sentence {k}.", "reference": reference,
         "references": [reference.replace("leider erst", "erst")], "answer_kind": "text", "metric": "chrf"}
        for k, reference in enumerate(REFERENCES)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def _bundled(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "suites", lambda: {**places.suites(), "trains": file})


@pytest.fixture(scope="module")
def wb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    with Workbench.open(tmp_path_factory.mktemp("suites") / "log") as opened:
        yield opened


@pytest.fixture
def run(wb: Workbench) -> Run:
    return wb.run_sync("trains", merge="minimum_bayes_risk")


class NoRecordings:
    """A source in which nothing is recorded."""

    def recordings(self) -> list[dict[str, Any]]:
        return []

    def recorded(self, recording: str) -> list[Any]:
        raise AssertionError(recording)


def test_a_bundled_suite_has_scores_of_one_kind() -> None:
    """Its own kind may be named; another is refused with the one that there is."""
    for name, kind in (("trains", "chrf"), ("general", "correct")):
        for asked in (None, kind):
            rows, suite = suites.find_suite(NoRecordings(), name, asked)
            assert (rows, suite.score_kind) == ((), kind)
        with pytest.raises(
            LLMValidationError, match=f"{name} has scores of kind '{kind}' only, not 'meteor'"
        ) as caught:
            suites.find_suite(NoRecordings(), name, "meteor")
        assert caught.value.code == "validation.score_kind"


def test_an_unknown_suite_is_answered_with_the_closest() -> None:
    """All suites are listed, and one is suggested."""
    with pytest.raises(LLMRouterError, match="question_answering") as caught:
        suites.find_suite(NoRecordings(), "train", None)
    assert (caught.value.code, caught.value.next_step) == ("router.unknown_suite", "did you mean 'trains'?")


def test_a_run_of_texts_scores_what_was_said(wb: Workbench, run: Run) -> None:
    """Every score of a model in the log is the chrF of its response against the nearer reference."""
    said = wb.sql(
        "select c.item_id, c.member, t.text, s.value from calls c join texts t on t.hash = c.response_hash "
        "join scores s on s.run_id = c.run_id and s.item_id = c.item_id and s.model = c.member "
        "where c.run_id = ? and s.scorer = 'chrf' order by all",
        [run.run_id],
    )
    assert len(said) == 3 * 24
    for item_id, text, value in zip(said["item_id"], said["text"], said["value"], strict=True):
        reference = REFERENCES[int(item_id[3:])]
        assert value == max(chrf(text, reference), chrf(text, reference.replace("leider erst", "erst")))
    assert 0 < said["value"].min() < 90 < said["value"].max() == 100


def test_a_run_of_texts_answers_every_question(run: Run) -> None:
    """Frame, comparison, fit, gains and replay work, in the unit of the metric."""
    frame = run.df()
    assert (set(frame["scorer"]), set(frame["model"])) == ({"chrf"}, {*run.table.models, "minimum_bayes_risk"})
    compared = run.compare("auto", "text_stacking").found
    assert (compared.unit, compared.items_dropped) == ("chrf", 0)
    assert {s.strategy for s in compared.strategies} >= {"minimum_bayes_risk", "auto", "text_stacking"}
    assert all(s.mcnemar_p is None for s in compared.strategies)
    shown = {s.model: s.score for s in compared.singles}
    assert frame[frame["model"] != "minimum_bayes_risk"].groupby("model")["score"].mean().to_dict() == pytest.approx(
        shown
    )
    assert "Deltas in chrf." in repr(run.compare())
    assert "(chrf)" in repr(run)
    assert run.fit_weights(splits=2).unit == "chrf"
    assert run.replay().drifts == 0


def test_a_run_of_texts_is_found_again(wb: Workbench, run: Run) -> None:
    """What is asked for again is not made again, and a finished run has nothing left to ask."""
    assert wb.resume_sync(run.run_id).resumed.asked == 0
    again = wb.run_sync("trains", merge=MajorityVoting(), resume=True)
    assert again.run_id != run.run_id
    # A vote over texts ties wherever the models say different things; a tie scores the mean of its texts.
    logged = wb.sql("select avg(value) as v from scores where run_id = ? and model = 'majority_voting'", [again.run_id])
    assert again.compare()["majority_voting"].score == pytest.approx(logged["v"][0])
