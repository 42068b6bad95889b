"""The query optimizer: what it says at first, what it learns, and that all of it is kept."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from study.styled import styled_run
from workbench import LLMError, LLMValidationError, Profile, QueryOptimizer, Request, Response, Workbench
from workbench.act.journal import encode
from workbench.act.world import MemorySink, World
from workbench.decide.evidence import UNCHANGED, Context, Gain, Tally, Tell, Telling
from workbench.decide.optimize import OptimizeQuery
from workbench.decide.rewrite import Example
from workbench.facts import Decision
from workbench.record.log import Log

QUERY = "Could you please explain why ice floats on water?"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The draws of the real world are those of `random`: every test has the same ones each time."""
    random.seed(20)


@pytest.fixture
def optimizer(log_folder: Path) -> Iterator[QueryOptimizer]:
    made = QueryOptimizer(model="m", log=log_folder)
    yield made
    made.close()


def taught(optimizer: QueryOptimizer, n: int = 60, *, good: str = "verbose", group: str | None = None) -> None:
    """Answers under one strategy are better than all others."""
    for k in range(n):
        made = optimizer.optimize_query(f"Question {k}: why does ice float?", task="general", group=group)
        optimizer.update_weights(0.9 if made.strategies == (good,) else 0.3, of=made)


# -- at first


def test_it_predicts_0_with_a_wide_interval_at_first(optimizer: QueryOptimizer) -> None:
    """Nothing is built in about any strategy: the promised names are there, and say so."""
    made = optimizer.optimize_query(QUERY, explore=False)
    assert made.optimized_query == made.original_query == QUERY
    assert (made.estimated_quality_gain, made.strategies, made.changed) == (0.0, (), False)
    assert made.task_type in ("general", "question_answering")
    assert 0 <= made.confidence_score <= 1
    tried = next(m for m in (optimizer.optimize_query(QUERY) for _ in range(50)) if m.changed)
    assert tried.estimated_quality_gain == 0.0
    assert tried.gain_interval[0] < -0.5 < 0.5 < tried.gain_interval[1]
    assert tried.optimized_query != QUERY


def test_it_comes_to_take_what_helps(optimizer: QueryOptimizer) -> None:
    """After 200 tellings the good strategy is taken without exploring, and predicted to gain about what it does."""
    taught(optimizer, 200)
    made = optimizer.optimize_query("Why does ice float?", task="general", explore=False)
    assert made.strategies == ("verbose",)
    assert made.gain_interval[0] < 0.6 < made.gain_interval[1]
    assert made.confidence_score > 0.95


def test_groups_learn_for_themselves(optimizer: QueryOptimizer) -> None:
    """What is good in one group and bad in the other is taken in the one and not in the other."""
    for k in range(500):
        for group, quality in (("up", 1.0), ("down", 0.0)):
            made = optimizer.optimize_query(f"Question {k}: why?", task="general", group=group)
            optimizer.update_weights(quality if made.strategies == ("verbose",) else 0.5, of=made)
    ask = {g: optimizer.optimize_query("Why?", task="general", group=g, explore=False) for g in ("up", "down")}
    assert (ask["up"].strategies, ask["down"].strategies) == (("verbose",), ())


def test_feedback_goes_to_the_newest_query_or_the_one_named(optimizer: QueryOptimizer) -> None:
    """Concurrent queries are told by name."""
    first = optimizer.optimize_query(QUERY, group="one", explore=False)
    second = optimizer.optimize_query(QUERY, group="two", explore=False)
    optimizer.update_weights(1.0)
    optimizer.update_weights(0.0, of=first)
    tallies = {c.group: optimizer.evidence.tallies(c)[UNCHANGED] for c in (first.context, second.context)}
    assert tallies == {"two": Tally(1, 1, 1), "one": Tally(1, 0, 0)}


def test_switched_off_it_leaves_queries_alone_and_still_learns(log_folder: Path) -> None:
    """The toggle of the name that was promised; what is told then is about unchanged queries."""
    optimizer = QueryOptimizer(enable_query_optimization=False, log=log_folder)
    made = [optimizer.optimize_query(QUERY) for _ in range(20)]
    assert {m.optimized_query for m in made} == {QUERY}
    optimizer.update_weights(0.5)
    assert [row.strategy for row in optimizer.evidence.rows()] == [UNCHANGED]
    assert "switched off" in repr(optimizer)
    optimizer.enable_query_optimization = True
    assert any(optimizer.optimize_query(QUERY).changed for _ in range(50))
    optimizer.close()


def test_the_history_has_the_newest_outcomes(log_folder: Path) -> None:
    """At most max_history of them, oldest first; 10,000 unless told otherwise."""
    optimizer = QueryOptimizer(max_history=3, log=log_folder)
    for k in range(5):
        optimizer.optimize_query(f"Question {k}?")
        optimizer.update_weights(k / 10, answer=f"answer {k}")
    assert [(o.query, o.quality, o.answer) for o in optimizer.history] == [
        (f"Question {k}?", k / 10, f"answer {k}") for k in (2, 3, 4)
    ]
    assert QueryOptimizer(log=log_folder).max_history == 10_000
    optimizer.close()


def test_examples_come_from_history_but_never_the_item_itself(log_folder: Path) -> None:
    """A good answer to another question is shown; the same item, or a copy of it, is not."""
    optimizer = QueryOptimizer(strategies=["exemplify"], log=log_folder, explore=True)
    about = {"task": "question_answering"}
    assert not any(optimizer.optimize_query("Why is it?", **about).changed for _ in range(20))  # none yet
    for item, query, answer in [("q-1", "Name the large capital that Colombia has.", "Bogota"),
                                ("q-2", "What is the capital of Peru?", "Lima")]:  # fmt: skip
        made = optimizer.optimize_query(query, item_id=item, explore=False, **about)
        optimizer.update_weights(1.0, of=made, answer=answer)
    asked = (optimizer.optimize_query("what is the  capital of Peru", item_id="q-3", **about) for _ in range(200))
    tried = next(made for made in asked if made.changed)
    assert "Bogota" in tried.optimized_query
    assert "Lima" not in tried.optimized_query
    # Examples are of the same task type: a translation helps no question.
    other = (optimizer.optimize_query("the capital of Chile", task="translation") for _ in range(100))
    assert not any(made.changed for made in other)
    optimizer.close()


# -- kept and replayed


def test_saving_and_loading_gives_identical_choices(log_folder: Path, tmp_path: Path) -> None:
    """The state is a value: with equal draws the loaded optimizer decides the same, and learns the same."""
    first = QueryOptimizer(log=log_folder, model="m", world=World.virtual(3, MemorySink()))
    taught(first, 80, group="g")
    first.update_weights(0.8, answer="because of its density")
    file = first.save(tmp_path / "state.json")
    pair = [
        QueryOptimizer(log=log_folder, model="m", world=World.virtual(7, MemorySink())).load(file) for _ in range(2)
    ]
    assert pair[0].evidence.rows() == first.evidence.rows()
    assert pair[0].history == first.history
    for k in range(40):
        made = [o.optimize_query(f"Why {k}?", group="g") for o in pair]
        assert made[0].rewrite == made[1].rewrite
        for o, m in zip(pair, made, strict=True):
            o.update_weights(k % 2, of=m)
    assert pair[0].evidence.rows() == pair[1].evidence.rows()


def test_the_log_gives_the_same_state_back(optimizer: QueryOptimizer, log_folder: Path) -> None:
    """Learned patterns are rows: another process goes on from them, and reads them with SQL."""
    taught(optimizer, 40, group="g")
    optimizer.close()
    other = QueryOptimizer(model="m", log=log_folder)
    assert other.learn_from_log() == 40
    assert other.evidence.rows() == optimizer.evidence.rows()
    with closing(Log.open(log_folder)) as log:
        rows = log.rows("select strategy, tellings, quality from patterns where model = 'm' and \"group\" = 'g'")
        assert sum(n for _, n, _ in rows) == 40
        assert {s: q for s, _, q in rows}["verbose"] == pytest.approx(0.9)
    other.close()


def test_every_decision_can_be_made_again_from_the_log(optimizer: QueryOptimizer, log_folder: Path) -> None:
    """Both kinds: what was chosen, from query, gains and draws; and what was learned, from what was known before."""
    taught(optimizer, 30)
    optimizer.close()
    with closing(Log.open(log_folder)) as log:
        rows = log.rows("select kind, params, inputs, output from decisions order by kind")
    assert {kind for kind, *_ in rows} == {"optimize", "learn"}
    for kind, params, text, output in rows:
        inputs = json.loads(text)
        if kind == "optimize":
            made = OptimizeQuery(**json.loads(params))(
                inputs["query"],
                Context(*inputs["context"]),
                [Gain(*gain) for gain in inputs["gains"]],
                inputs["draws"],
                [Example(**example) for example in inputs["examples"]],
            )
        else:
            context, *rest = inputs["telling"]
            before = {name: Tally(*tally) for name, tally in inputs["tallies"].items()}
            made = Tell(**json.loads(params))(before, Telling(Context(*context), *rest))
        assert json.loads(json.dumps(encode(made))) == json.loads(output)


def test_threads_lose_no_telling(optimizer: QueryOptimizer) -> None:
    """Ten threads tell a hundred qualities each."""

    def work() -> None:
        for _ in range(100):
            optimizer.update_weights(1.0, of=optimizer.optimize_query(QUERY, explore=False))

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert optimizer.evidence.told == 1000
    assert len(optimizer.history) == 1000


def test_operations_are_traced(optimizer: QueryOptimizer, log_folder: Path) -> None:
    """Each has its span, with the task and what was done."""
    optimizer.optimize_query(QUERY, task="translation")
    optimizer.update_weights(0.5)
    optimizer.learn_from_log()
    optimizer.close()
    with closing(Log.open(log_folder)) as log:
        spans = dict(log.rows("select operation, attributes from spans where component = 'query_optimizer'"))
    assert set(spans) == {"optimize_query", "update_weights", "learn_from_log"}
    assert json.loads(spans["optimize_query"])["task"] == "translation"


# -- shown


def test_an_optimized_query_shows_what_it_did(log_folder: Path) -> None:
    """As text and as HTML: strategy, gain with interval, reasons, cues, and the change; markup in a query is inert."""
    optimizer = QueryOptimizer(strategies=["verbose"], log=log_folder)
    asked = "Explain <b>why</b> ice floats."
    made = next(m for m in (optimizer.optimize_query(asked) for _ in range(100)) if m.changed)
    for part in ("verbose", "predicted gain +0.000 [-0.837, +0.837]", "tried"):
        assert part in repr(made)
    html = made._repr_html_()
    assert "&lt;b&gt;why" in html
    assert "<b>" not in html
    assert "<ins>" in html
    still = optimizer.optimize_query(asked, explore=False)
    assert "unchanged" in still._repr_html_()
    optimizer.close()


def test_patterns_are_a_table(optimizer: QueryOptimizer) -> None:
    """One row a strategy and context, with what is expected of it; the same as a frame."""
    taught(optimizer, 50)
    shown = repr(optimizer.patterns)
    assert "verbose" in shown
    assert "50 tellings" in shown
    frame = optimizer.df()
    assert set(frame.columns) >= {"model", "task", "group", "strategy", "n", "quality"}
    assert len(frame) == len(optimizer.evidence.rows())


# -- refused


@pytest.mark.parametrize(
    ("options", "code"),
    [({"max_history": 0}, "validation.config"), ({"max_history": True}, "validation.config"),
     ({"strategies": ["shout"]}, "validation.strategy"), ({"strategies": []}, "validation.strategy"),
     ({"caution": math.nan}, "validation.config"), ({"discount": 0}, "validation.config"),
     ({"nonsense": 1}, "validation.config")],
    ids=str,
)  # fmt: skip
def test_bad_options_are_refused(options: dict, code: str, log_folder: Path) -> None:
    """Before anything is asked or written."""
    with pytest.raises(LLMValidationError) as refused:
        QueryOptimizer(log=log_folder, **options)
    assert refused.value.code == code
    assert refused.value.next_step
    assert not log_folder.exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [({"task": "poetry"}, "validation.task"), ({"group": 7}, "validation.group"), ({"model": 7}, "validation.model")],
    ids=str,
)
def test_bad_arguments_are_refused(optimizer: QueryOptimizer, arguments: dict, code: str) -> None:
    """Each by its own code."""
    with pytest.raises(LLMValidationError) as refused:
        optimizer.optimize_query(QUERY, **arguments)
    assert refused.value.code == code


@pytest.mark.parametrize("quality", [1.5, -0.1, "good", None, math.nan], ids=str)
def test_a_quality_outside_0_to_1_changes_nothing(optimizer: QueryOptimizer, quality: object) -> None:
    """It is refused, and what was known stays."""
    optimizer.optimize_query(QUERY)
    with pytest.raises(LLMValidationError) as refused:
        optimizer.update_weights(quality)  # type: ignore[arg-type]
    assert refused.value.code == "validation.feedback"
    assert (optimizer.evidence.told, optimizer.history) == (0, ())


def test_feedback_without_a_query_is_refused(optimizer: QueryOptimizer) -> None:
    """There is nothing to tell about."""
    for of in (None, "that one"):
        with pytest.raises(LLMValidationError) as refused:
            optimizer.update_weights(0.5, of=of)  # type: ignore[arg-type]
        assert refused.value.code == "validation.feedback"


IMPOSSIBLE = {"model": "m", "task": "t", "group": "", "strategy": "s", "n": 1, "total": 9, "squares": 1}
DAMAGED = {
    "empty": "",
    "list": "[]",
    "object": "{}",
    "text": "not json",
    "no parts": '{"format": "workbench.optimizer/1"}',
    "impossible": json.dumps({"format": "workbench.optimizer/1", "told": 1, "history": [], "patterns": [IMPOSSIBLE]}),
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_and_changes_nothing(optimizer: QueryOptimizer, tmp_path: Path, text: str) -> None:
    """The state stays as it was."""
    optimizer.optimize_query(QUERY)
    optimizer.update_weights(1.0)
    file = tmp_path / "state.json"
    file.write_text(text, "utf-8")
    before = optimizer.evidence
    with pytest.raises(LLMValidationError) as refused:
        optimizer.load(file)
    assert refused.value.code in ("data.file", "validation.patterns")
    assert optimizer.evidence is before


def test_a_file_that_is_not_there_or_cannot_be_written_is_named(optimizer: QueryOptimizer, tmp_path: Path) -> None:
    """Both ways, with the path."""
    for act in (optimizer.load, optimizer.save):
        with pytest.raises(LLMValidationError, match=r"none.state\.json") as refused:
            act(tmp_path / "none" / "state.json")
        assert refused.value.code == "data.file"


def test_a_log_that_cannot_be_used_is_refused_typed(tmp_path: Path) -> None:
    """Nothing is optimized without being logged."""
    file = tmp_path / "file"
    file.write_text("", "utf-8")
    with pytest.raises(LLMError) as refused:
        QueryOptimizer(log=file).optimize_query(QUERY)
    assert refused.value.code.startswith("storage.")


# -- the fault catalogue


@pytest.mark.parametrize("query", ["", "   ", "\n\t\u3000"], ids=["empty", "blank", "white space"])
def test_opt_empty_query_is_refused_typed(optimizer: QueryOptimizer, query: str) -> None:
    """Never an exception from a regular expression."""
    with pytest.raises(LLMValidationError) as refused:
        optimizer.optimize_query(query)
    assert refused.value.code == "validation.query"
    assert refused.value.next_step


@pytest.mark.parametrize(
    "query",
    ["a" * 2**20, "(" * 2**20, "🙂" * 50, "👩‍👩‍👧‍👦" * 2**15, "`" * 2**20, '"' * 2**20, "\ud800 half a pair", "a\x00b"],
    ids=["1 MB", "brackets", "emoji", "1 MB emoji", "backticks", "quotes", "surrogate", "nul"],
)
def test_opt_empty_huge_and_odd_queries_come_through(optimizer: QueryOptimizer, query: str) -> None:
    """Unchanged, or with something said beside them: the query itself is all there."""
    for explore in (False, True):
        assert query.strip() in optimizer.optimize_query(query, explore=explore).optimized_query


MARKERS = "### SYSTEM\n</user> {placeholder} %s {{ x }} <|im_end|> [example 1 0] ${HOME} %(name)s \\1 {0}"


def test_prompt_inject_markers_in_a_query_stay_literal(log_folder: Path) -> None:
    """Under every strategy the optimizer's own markers in user text are text: nothing is formatted, split or obeyed."""
    optimizer = QueryOptimizer(log=log_folder)
    made = optimizer.optimize_query("Explain why the sky is blue.", explore=False)
    optimizer.update_weights(1.0, of=made, answer=MARKERS)
    seen = set()
    for _ in range(300):
        tried = optimizer.optimize_query(f"Explain this line: {MARKERS}", task="general")
        assert MARKERS in tried.optimized_query
        seen |= set(tried.strategies)
    assert {"exemplify", "verbose", "concise", "step_by_step"} <= seen
    optimizer.close()


def test_decisions_hold_the_query_and_no_more_than_they_need() -> None:
    """A row has what is needed to decide again: query, context, gains, draws, examples."""
    sink = MemorySink()
    optimizer = QueryOptimizer(world=World.virtual(0, sink))
    optimizer.optimize_query(QUERY)
    (decision,) = [fact for fact in sink.facts if isinstance(fact, Decision)]
    assert set(decision.inputs) == {"query", "context", "gains", "draws", "examples"}
    assert decision.policy == "query_optimizer"


# -- learning from runs


def test_a_run_in_styles_teaches_the_optimizer(optimizer: QueryOptimizer, log_folder: Path) -> None:
    """Every answer of the run is a telling, in the group of its item; what gained there is taken from then on."""
    reader = Profile(name="reader", skill={"reasoning": 0.4}, gains={"step_by_step": 0.5})
    with Workbench.open(log_folder) as wb:
        run = wb.run_sync("reasoning", models=[reader], rewrites=["step_by_step", "concise"])
        assert optimizer.learn_from(run, model="m") == 48 * 3
        groups = {row.group for row in optimizer.evidence.rows()}
        assert groups == set(run.table.groups)
        made = optimizer.optimize_query("How many?", task="reasoning", group=run.table.groups[0], explore=False)
        assert made.strategies == ("step_by_step",)
        assert optimizer.evidence.told == optimizer.learn_from_log() == 144
        other = QueryOptimizer(log=log_folder)
        other.learn_from(run)
        assert {row.model for row in other.evidence.rows()} == {"simulated:reader"}
        other.close()


def test_styles_of_other_names_are_told_as_strategies(optimizer: QueryOptimizer) -> None:
    """A recording calls step by step `cot`, and unchanged prompts `direct`; a style without a strategy is left out."""
    run = styled_run({("m", "direct"): [0.0] * 5, ("m", "cot"): [1.0] * 5, ("m", "odd"): [0.5] * 5}, groups=["g"] * 5)
    assert optimizer.learn_from(run, styles={"cot": "step_by_step"}) == 10
    tallies = optimizer.evidence.tallies(Context("m", "reasoning", "g"))
    assert {name: tally.mean for name, tally in tallies.items()} == {UNCHANGED: 0.0, "step_by_step": 1.0}


@pytest.mark.parametrize(
    ("run", "options", "code"),
    [
        (styled_run({("m", "direct"): [0, 1], ("m", "cot"): [1, 1]}), {}, "validation.styles"),
        (
            styled_run({("m", "direct"): [0, 1], ("m", "cot"): [1, 1]}),
            {"styles": {"cot": "shout"}},
            "validation.strategy",
        ),
        (styled_run({("m", "default"): [0, -3], ("m", "concise"): [-1, 1]}), {}, "validation.score_kind"),
        (
            styled_run({(m, s): [0, 1] for m in "mn" for s in ("default", "concise")}),
            {"model": "x"},
            "validation.models",
        ),
        ("a run", {}, "validation.runs"),
    ],
    ids=["no strategy", "unknown strategy", "scores", "two models", "no run"],
)
def test_a_run_that_teaches_nothing_is_refused(
    optimizer: QueryOptimizer, run: object, options: dict, code: str
) -> None:
    """Before anything is learned."""
    with pytest.raises(LLMValidationError) as refused:
        optimizer.learn_from(run, **options)  # type: ignore[arg-type]
    assert refused.value.code == code
    assert optimizer.evidence.told == 0


def test_a_short_name_is_learned_under_the_full_one(log_folder: Path) -> None:
    """What is told of gpt4 counts for the model that it stands for."""
    optimizer = QueryOptimizer(log=log_folder, model="gpt4")
    full = optimizer.optimize_query(QUERY).context.model
    assert full.startswith("openai:")
    assert optimizer.optimize_query(QUERY, model=full).context.model == full
    optimizer.close()


# -- what a second look found


def test_a_strategy_that_comes_second_still_has_its_examples(log_folder: Path) -> None:
    """Where the first choice finds nothing to do, examples are looked for after all."""
    optimizer = QueryOptimizer(strategies=["simplify", "exemplify"], log=log_folder)
    context = Context("", "general", "")
    for strategy, quality in (("simplify", 0.9), ("exemplify", 0.8), (UNCHANGED, 0.2)):
        for _ in range(150):
            optimizer._tell(Telling(context, strategy, quality), None)
    made = optimizer.optimize_query("Explain why snow melts.", task="general", explore=False)
    optimizer.update_weights(1.0, of=made, answer="It gets warm.")
    asked = optimizer.optimize_query("Explain why ice floats.", task="general", explore=False)
    assert asked.strategies == ("exemplify",)
    assert "It gets warm." in asked.optimized_query
    assert "simplify found nothing to change" in asked.rewrite.reasons
    optimizer.close()


@pytest.mark.parametrize("answer", [5, b"text", ["text"]], ids=str)
def test_an_answer_that_is_no_text_changes_nothing(optimizer: QueryOptimizer, answer: object) -> None:
    """Neither the evidence nor the history."""
    optimizer.optimize_query(QUERY)
    with pytest.raises(LLMValidationError) as refused:
        optimizer.update_weights(0.5, answer=answer)  # type: ignore[arg-type]
    assert refused.value.code == "validation.feedback"
    assert (optimizer.evidence.told, optimizer.history) == (0, ())


def test_an_item_id_that_is_no_text_is_refused(optimizer: QueryOptimizer) -> None:
    """Before anything is decided."""
    with pytest.raises(LLMValidationError) as refused:
        optimizer.optimize_query(QUERY, item_id=5)  # type: ignore[arg-type]
    assert refused.value.code == "validation.item_id"


def test_any_number_is_logged_as_a_number(optimizer: QueryOptimizer) -> None:
    """A fraction or a numpy number is told as its value, and the log gives it back."""
    for quality in (Fraction(1, 4), np.float32(0.25), 0.25, 1):
        optimizer.optimize_query(QUERY, explore=False)
        optimizer.update_weights(quality)  # type: ignore[arg-type]
    before = optimizer.evidence.rows()
    assert optimizer.learn_from_log() == 4
    assert optimizer.evidence.rows() == before


def test_a_refused_quality_is_no_telling_of_the_log(optimizer: QueryOptimizer, log_folder: Path) -> None:
    """Its decision is logged with the error, and neither the views nor another optimizer take it for one."""
    optimizer.optimize_query(QUERY, explore=False)
    with pytest.raises(LLMValidationError):
        optimizer.update_weights(7.0)
    optimizer.update_weights(0.5)
    assert optimizer.learn_from_log() == 1
    optimizer.close()
    with closing(Log.open(log_folder)) as log:
        assert log.rows("select count(*) from decisions where kind = 'learn'") == [(2,)]
        assert log.rows("select quality, source from tellings") == [(0.5, None)]


def test_the_log_gives_tellings_back_in_their_order_whatever_the_clock_says(log_folder: Path) -> None:
    """A clock that stands still, or goes back, leaves the order that discounting depends on."""
    times = iter([1000, 1000, 990, 1000, 5, *range(2000, 1900, -1)])
    with Workbench.open(log_folder) as wb:
        world = replace(World.real(wb.log), unix_ns=lambda: next(times))
        optimizer = QueryOptimizer(log=log_folder, world=world, discount=0.8)
        for k in range(60):
            optimizer._tell(Telling(Context("m", "general", ""), UNCHANGED if k % 2 else "concise", (k % 7) / 7), None)
        live = optimizer.evidence.rows()
        other = QueryOptimizer(log=log_folder, discount=0.8)
        other.learn_from_log()
        assert other.evidence.rows() == live
        other.close()
        optimizer.close()


def test_what_examples_come_from_is_saved_too(log_folder: Path, tmp_path: Path) -> None:
    """An answer that left the history may still be an example; the loaded optimizer has the same ones."""
    options = {"max_history": 2, "strategies": ["exemplify"], "log": log_folder}
    first = QueryOptimizer(**options, world=World.virtual(1, MemorySink()))  # type: ignore[arg-type]
    made = first.optimize_query("Which capital does Peru have?", task="general", explore=False)
    first.update_weights(1.0, of=made, answer="Lima")
    for k in range(3):
        first.update_weights(0.1, of=first.optimize_query(f"Word {k}?", task="general", explore=False))
    file = first.save(tmp_path / "state.json")
    pair = [QueryOptimizer(**options, world=World.virtual(5, MemorySink())).load(file) for _ in range(2)]
    asked = "Which capital does Chile have?"
    made = [[one.optimize_query(asked, task="general").rewrite for _ in range(20)] for one in pair]
    assert made[0] == made[1]
    assert any("Lima" in rewrite.text for rewrite in made[0])


def test_many_may_save_one_file_at_once(optimizer: QueryOptimizer, tmp_path: Path) -> None:
    """Threads that tell and save at the same time: every file is whole, and none is left behind."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(15):
                optimizer.update_weights(0.5, of=optimizer.optimize_query(QUERY, explore=False))
                optimizer.save(tmp_path / "state.json")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["state.json"]
    assert QueryOptimizer().load(tmp_path / "state.json").evidence.told > 0


@pytest.mark.parametrize("place", [None, 5, "\x00"], ids=repr)
def test_a_file_that_is_none_is_refused_typed(optimizer: QueryOptimizer, place: object) -> None:
    """Both ways."""
    for act in (optimizer.load, optimizer.save):
        with pytest.raises(LLMValidationError) as refused:
            act(place)  # type: ignore[arg-type]
        assert refused.value.code == "data.file"


OUTCOME = {
    "query": "q",
    "strategies": [],
    "context": ["m", "general", ""],
    "quality": 0.5,
    "item_id": None,
    "answer": None,
}


@pytest.mark.parametrize(
    "broken",
    [{"told": -5}, {"told": 1e999}, {"told": True}, {"history": [{**OUTCOME, "query": 5}]},
     {"history": [{**OUTCOME, "strategies": "clarify"}]}, {"history": [{**OUTCOME, "quality": "x"}]},
     {"history": [{**OUTCOME, "context": [1, 2, 3]}]}, {"history": [{**OUTCOME, "answer": 7}]}, {"examples": []},
     {"examples": {"general": [{"item_id": None, "prompt": "", "answer": "a", "quality": 1}]}}],
    ids=str,
)  # fmt: skip
def test_a_file_with_an_impossible_part_is_refused(optimizer: QueryOptimizer, tmp_path: Path, broken: dict) -> None:
    """Nothing of it is taken."""
    whole = {"format": "workbench.optimizer/1", "told": 0, "patterns": [], "history": [OUTCOME], "examples": {}}
    file = tmp_path / "state.json"
    file.write_text(json.dumps(whole), "utf-8")
    assert len(optimizer.load(file).history) == 1
    file.write_text(json.dumps({**whole, **broken}), "utf-8")
    with pytest.raises(LLMValidationError) as refused:
        optimizer.load(file)
    assert refused.value.code in ("data.file", "validation.example")
    assert len(optimizer.history) == 1


def test_half_a_character_in_a_name_is_one_context(optimizer: QueryOptimizer) -> None:
    """What the log cannot hold is not what is learned under."""
    made = optimizer.optimize_query(QUERY, group="a\ud800", explore=False)
    optimizer.update_weights(0.5, of=made)
    live = optimizer.evidence.rows()
    optimizer.learn_from_log()
    assert optimizer.evidence.rows() == live


# -- rewritten by a model


class Writer:
    """A model that answers a request for a rewriting with a text of the test, between the lines it was given."""

    name = "writer"

    def __init__(self, written: str) -> None:
        self.written = written

    async def complete(self, request: Request) -> Response:
        *_, begin, _, end = request.prompt.rpartition("[prompt ")[1:] and request.prompt.splitlines()
        text = f"{begin}\n{self.written}\n{end}"
        return Response(request_key=request.key, model=self.name, text=text, source="live")


@pytest.mark.anyio
async def test_a_rewriting_by_a_model_passes_the_same_invariants_or_is_rejected(
    optimizer: QueryOptimizer, log_folder: Path
) -> None:
    """The same with other words is taken; a lost number leaves the query as it was, and says so."""
    asked = "please tell me why ice floats at 3 degrees"
    kept = await optimizer.rewrite_by_model(asked, Writer("Explain why ice floats at 3 degrees."))
    assert (kept.changed, kept.text) == (True, "Explain why ice floats at 3 degrees.")
    lost = await optimizer.rewrite_by_model(asked, Writer("Explain why ice floats."))
    assert (lost.changed, lost.text) == (False, asked)
    assert "3" in lost.reason
    await optimizer.aclose()
    with closing(Log.open(log_folder)) as log:
        assert log.rows("select count(*) from decisions where kind = 'rewrite'") == [(2,)]
        assert ("rewrite_by_model",) in log.rows("select operation from spans where component = 'query_optimizer'")


def test_a_long_query_is_offered_no_examples(log_folder: Path) -> None:
    """They are not even among the choices, so that no reason says that they were tried."""
    optimizer = QueryOptimizer(strategies=["exemplify"], log=log_folder)
    about = {"task": "general", "explore": False}
    optimizer.update_weights(1.0, of=optimizer.optimize_query("Explain why snow melts.", **about), answer="It is warm.")
    for query, offered in (("Explain why ice melts.", 1), ("Explain why ice melts. " * 100, 0)):
        sink = MemorySink()
        optimizer._world = World.virtual(0, sink)
        optimizer.optimize_query(query, **about)
        (decision,) = [fact for fact in sink.facts if isinstance(fact, Decision)]
        assert len(decision.inputs["gains"]) == offered
    optimizer.close()
