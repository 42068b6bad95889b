"""`run.style_gains` and what comes of it, on a small recording in two styles and on real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import duckdb
import plotly.graph_objects as go
import pytest

from workbench import LLMValidationError, Workbench
from workbench.session.run import Run
from workbench.session.styles import StyleGains, promises_of
from workbench.show.styles import GroupCount, count_groups

# Two groups of four items, told by the item's id, and whether direct and cot are right.
RIGHT = {
    "sum-1": (0, 1), "sum-2": (0, 1), "sum-3": (0, 1), "sum-4": (0, 1),
    "word-1": (1, 1), "word-2": (1, 0), "word-3": (1, 1), "word-4": (0, 0),
}  # fmt: skip


def rows(recording: str) -> list[dict[str, Any]]:
    return [
        {"recording": recording, "task_type": "reasoning", "item_id": item, "prompt": f"Question {item}?",
         "reference": "4", "model": "m", "prompt_style": style, "response": f"The answer is {4 if ok else 5}.",
         "score": float(ok), "score_kind": "correct"}
        for item, both in RIGHT.items()
        for style, ok in zip(("direct", "cot"), both, strict=True)
    ]  # fmt: skip


def write(path: Path, made: Sequence[Mapping[str, Any]]) -> Path:
    """A Parquet file of the recordings' schema."""
    texts = ("recording", "task_type", "item_id", "prompt", "reference", "model", "prompt_style", "response")
    types = {
        **dict.fromkeys(texts, "varchar"), "score": "double", "score_kind": "varchar", "prompt_tokens": "bigint",
        "completion_tokens": "bigint", "latency_ms": "double", "cost_usd": "double",
    }  # fmt: skip
    with duckdb.connect() as con:
        con.execute(f"create table t({', '.join(f'{c} {kind}' for c, kind in types.items())})")
        con.executemany(
            f"insert into t values ({', '.join('?' * len(types))})", [[r.get(c) for c in types] for r in made]
        )
        con.execute(f"copy t to '{path}' (format parquet)")
    return path


@pytest.fixture(scope="module")
def wb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    folder = tmp_path_factory.mktemp("styles")
    with Workbench.open(folder / "log") as opened:
        opened.import_file(write(folder / "tiny.parquet", rows("tiny")))
        yield opened


@pytest.fixture(scope="module")
def run(wb: Workbench) -> Run:
    return wb.run_sync("tiny")


@pytest.fixture(scope="module")
def gains(run: Run) -> StyleGains:
    return run.style_gains()


def test_gains_are_paired_by_item_against_direct(gains: StyleGains):
    """Four items won and one lost: +3/8, and McNemar's p is 2 * (1 + 5) / 2^5 = 0.375; groups +1 and -1/4."""
    whole = gains["m", "cot", "all"]
    assert (whole.base, whole.items, whole.base_score, whole.score) == ("direct", 8, 0.375, 0.75)
    assert whole.gain.value == 0.375
    assert whole.p_value == pytest.approx(0.375)
    assert (gains["m", "cot", "sum"].gain.value, gains["m", "cot", "word"].gain.value) == (1.0, -0.25)
    assert gains["m", "cot", "sum"].p_value == pytest.approx(2 / 16)
    assert gains["m", "cot", "sum"].p_holm == pytest.approx(2 * 2 / 16)
    with pytest.raises(KeyError, match="of the table"):
        gains["m", "cot", "nothing"]


def test_gains_show_themselves(gains: StyleGains):
    """A table with the largest gain first, its source, a frame, and a figure."""
    lines = repr(gains).splitlines()
    assert "8 items, source: recorded" in lines[0]
    assert [line.split()[0] for line in lines[3:6]] == ["all", "sum", "word"]
    assert "<table" in gains._repr_html_()
    frame = gains.df()
    assert list(frame["gain"]) == [0.375, 1.0, -0.25]
    assert set(frame["source"]) == {"recorded"}
    assert isinstance(gains.plot(), go.Figure)


def test_another_base_turns_the_gains_around(run: Run):
    """The base is a choice; one that was not recorded is refused, with the nearest name."""
    assert run.style_gains("cot")["m", "direct", "all"].gain.value == -0.375
    with pytest.raises(LLMValidationError) as refused:
        run.style_gains("dirct")
    assert (refused.value.code, refused.value.next_step) == ("validation.styles", "did you mean 'direct'?")


def test_a_run_without_styles_is_refused(wb: Workbench):
    """One style of a model has nothing to be compared with."""
    one = wb.run_sync("tiny", models=["recorded:tiny/m/cot"])
    with pytest.raises(LLMValidationError) as refused:
        one.style_gains()
    assert refused.value.code == "validation.styles"


def test_what_is_left_on_other_items_has_base_and_seed_of_the_gains(run: Run, gains: StyleGains):
    """Rules by model; the seed is that of the gains unless another is given; splits are checked."""
    left = gains.chosen(splits=10)
    assert [row.rule for row in left.found] == ["best style", "best style of each group", "base unless sure"]
    assert (left.found.samples, left.found.seed) == (10, 0)
    assert run.style_gains(seed=5).chosen(splits=10).found.seed == 5
    assert gains.chosen(splits=10, seed=7).found.seed == 7
    assert [name for name, _ in run.style_gains("cot").chosen(splits=10).found.rows[0].chosen] == ["cot", "direct"]
    assert "what is left when the style is chosen on other items, 8 items, source: recorded" in repr(left)
    assert "<table" in left._repr_html_()
    assert set(left.df()["source"]) == {"recorded"}
    with pytest.raises(LLMValidationError) as refused:
        gains.chosen(splits=1)
    assert refused.value.code == "stats.splits"


def test_learning_online_shows_itself_and_stands_beside_hidden_groups(run: Run, gains: StyleGains):
    """Two tables, a frame, two figures; options reach the study, base and seed are those of the gains."""
    known = gains.online(orders=3)
    assert (known.found.base, known.found.orders, known.found.seed, known.found.grouped) == ("direct", 3, 0, True)
    assert known.found.always == 0.375
    assert run.style_gains("cot", seed=5).online(orders=2, caution=0.5).found.caution == 0.5
    assert run.style_gains("cot", seed=5).online(orders=2).found.seed == 5
    assert "gain of always cot" in repr(known)
    assert "Second half of the orders" in repr(known)
    assert known._repr_html_().count("<table") == 2
    assert set(known.df()["source"]) == {"recorded"}
    assert [len(known.plot().data), len(known.plot_reliability().data)] == [4, 2]
    beside = known.beside(gains.online(orders=3, grouped=False))
    assert beside.table.columns[3:] == ("groups known", "groups hidden")
    for other in (known, None, gains):
        with pytest.raises(LLMValidationError) as refused:
            known.beside(other)  # type: ignore[arg-type]
        assert refused.value.code == "validation.comparison"
    with pytest.raises(LLMValidationError) as unknown:
        gains.online(model="nobody")
    assert unknown.value.code == "validation.models"


def test_claims_that_nothing_was_recorded_for_cannot_be_tested(run: Run):
    """Reasoning says nothing of the four claims, whose reasons name what there was."""
    told = promises_of(run, splits=5, seed=2)
    assert [(row.task, row.verdict) for row in told.found] == [
        ("summarization", "not testable"), ("translation", "not testable"), ("question_answering", "not testable"),
        ("code_generation", "not testable"),
    ]  # fmt: skip
    assert "tiny (reasoning)" in repr(told)
    assert "5 half splits (seed 2)" in repr(told)
    assert "<table" in told._repr_html_()
    frame = told.df()
    assert list(frame["claimed"]) == [0.15, 0.2, 0.25, 0.3]
    assert all(isnan(x) for column in ("gain", "gain_low", "gain_high") for x in frame[column])
    assert [row.verdict for row in promises_of([]).found] == ["not testable"] * 4


@pytest.mark.parametrize("runs", [None, 5, "tiny", ["tiny"]], ids=repr)
def test_claims_are_set_beside_runs_only(runs: Any):
    """Names are not runs."""
    with pytest.raises(LLMValidationError) as refused:
        promises_of(runs)
    assert refused.value.code == "validation.runs"


# --- real answers ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """Runs of the three recordings that have prompt styles."""
    names = ("bbh_direct_vs_cot", "alpaca_eval_instructions", "classeval")
    with Workbench.open(tmp_path_factory.mktemp("real") / "log") as opened:
        for name in names:
            opened.import_file(recordings / f"{name}.parquet")
        # On alpaca_eval_instructions the models with styles, of 17: the others only take time.
        models = {names[1]: ["alpaca-7b/*", "claude-2.1/*", "gpt-3.5-turbo-1106/*"]}
        yield {name: opened.run_sync(name, models=models.get(name)) for name in names}


@pytest.mark.long
@pytest.mark.no_cover
def test_bbh_is_shown_with_22_points_and_with_13_and_2_tasks_before_the_correction(real: dict[str, Run]):
    """+22.1 [20.5, 23.7]; of 20 tasks 13 better and 2 worse by McNemar's test, after Holm's correction 11 and 1."""
    gains = real["bbh_direct_vs_cot"].style_gains()
    assert "4928  0.5211 → 0.7425  +22.1  better       [+20.5, +23.7]" in repr(gains)
    assert count_groups(gains.found) == (
        GroupCount(
            model="code-davinci-002", base="direct", style="cot", groups=20, better=13, worse=2, better_holm=11,
            worse_holm=1,
        ),
    )  # fmt: skip
    harmed = {row.group: round(100 * row.gain.value, 1) for row in gains.found if row.verdict == "worse"}
    assert harmed == {"word_sorting": -10.0}
    assert round(100 * gains["code-davinci-002", "cot", "ruin_names"].gain.value, 1) == -6.8
    drawn = gains.plot()
    assert json.loads(drawn.to_json())["layout"]["yaxis"]["ticktext"][:2] == [
        "<b>all items</b>", "tracking_shuffled_objects_seven_objects",
    ]  # fmt: skip


@pytest.mark.long
@pytest.mark.no_cover
def test_alpaca_is_shown_with_harm_by_concise_and_help_by_verbose(real: dict[str, Run]):
    """-0.071 and +0.041 of the judge's preference; of alpaca-7b it cannot be told."""
    gains = real["alpaca_eval_instructions"].style_gains()
    told = {(r.model, r.style): (round(r.gain.value, 3), r.verdict) for r in gains.found if r.group == "all"}
    assert told["claude-2.1", "concise"] == (-0.071, "worse")
    assert told["gpt-3.5-turbo-1106", "verbose"] == (0.041, "better")
    assert told["alpaca-7b", "verbose"][1] == "cannot tell"


@pytest.mark.long
@pytest.mark.no_cover
def test_the_claim_about_code_is_shown_as_refuted_and_three_as_not_testable(real: dict[str, Run]):
    """With all models of classeval together, whose styles are no instructions, as the note says."""
    told = promises_of(list(real.values()))
    first = {row.task: row.verdict for row in reversed(told.found)}
    assert first == {
        "summarization": "not testable", "translation": "not testable", "question_answering": "not testable",
        "code_generation": "refuted",
    }  # fmt: skip
    assert "ways of generating a class, not instructions" in repr(told)
    assert "alpaca_eval_instructions (general)" in repr(told)
