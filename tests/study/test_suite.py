"""Suites: a file is read whole or refused by file and line, and a recording becomes its own items."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.decide.answers import ANSWER_KINDS
from workbench.errors import LLMValidationError
from workbench.facts import TASKS, EnsembleResponse, ModelContribution, Recorded, Response
from workbench.study.suite import (
    EXTRACTED_KINDS,
    TEXT_SCORERS,
    Suite,
    answer_of,
    expected,
    gold_of,
    judge_of,
    read_suite,
    references_of,
    suite_of,
)

LINE: dict[str, Any] = {
    "item_id": "a",
    "task": "reasoning",
    "prompt": "2+2?",
    "reference": "4",
    "answer_kind": "number",
}
RECORDED = Recorded(
    recording="small", task="reasoning", item_id="i1", prompt="2+2?", reference="4", model="m1",
    prompt_style="default", response="The answer is 4.", score=1.0, score_kind="correct", prompt_tokens=None,
    completion_tokens=None, latency_ms=None, cost_usd=None,
)  # fmt: skip


def line(**changes: Any) -> str:
    return json.dumps({**LINE, **changes}, ensure_ascii=False)


def suite_file(folder: Path, *lines: str, end: str = "\n") -> Path:
    path = folder / "mine.jsonl"
    path.write_bytes("".join(text + end for text in lines).encode("utf-8", "surrogatepass"))
    return path


def refused(path: Path) -> LLMValidationError:
    with pytest.raises(LLMValidationError) as caught:
        read_suite(path)
    assert len(caught.value.next_step) <= 160
    return caught.value


# -- files


def test_a_file_is_read_in_its_order(tmp_path: Path) -> None:
    """Each line is one item; what the suite declares besides goes into its metadata."""
    path = suite_file(
        tmp_path,
        line(item_id="b"),
        line(item_id="a", task="general", prompt="Which?\nA. x\nB. y", reference="B", answer_kind="choice",
             options=["A", "B"], source="made here"),
    )  # fmt: skip
    suite = read_suite(path)
    assert (suite.name, suite.kind, suite.scores_only, suite.extracted) == ("mine", "suite", False, True)
    assert [i.item_id for i in suite.items] == ["b", "a"]
    first, second = suite.items
    assert (first.task, first.prompt, first.reference) == ("reasoning", "2+2?", "4")
    assert second.metadata == {"answer_kind": "choice", "options": ("A", "B"), "source": "made here"}
    assert [gold_of(i) for i in suite.items] == ["4", "B"]
    assert [answer_of(i, "The answer is (B).") for i in suite.items] == [None, "B"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n  \n"])
def test_line_ends_and_blank_lines_do_not_matter(tmp_path: Path, end: str) -> None:
    """Files of either line ending, with blank lines between, are the same suite."""
    suite = read_suite(suite_file(tmp_path, line(item_id="a"), line(item_id="b"), end=end))
    assert [i.item_id for i in suite.items] == ["a", "b"]


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    """A file whose last line is not terminated is whole."""
    path = tmp_path / "mine.jsonl"
    path.write_text(line(item_id="a") + "\n" + line(item_id="b"))
    assert len(read_suite(path).items) == 2


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_any_text_is_kept_in_a_prompt(tmp_path_factory: pytest.TempPathFactory, prompt: str) -> None:
    """What JSON may hold in a text does not end the line, whatever Unicode calls a line end."""
    suite = read_suite(suite_file(tmp_path_factory.mktemp("any"), line(prompt=prompt)))
    assert [i.prompt for i in suite.items] == [prompt]


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\x7f", "\ufeff"])
def test_ds_jsonl_bad_line_is_counted_by_newlines_only(tmp_path: Path, sign: str) -> None:
    """Signs that only some programs take for line ends neither break an item nor shift the line numbers."""
    error = refused(suite_file(tmp_path, line(prompt=f"a{sign}b"), "nonsense"))
    assert error.message.startswith("mine.jsonl, line 2: ")


BAD: dict[str, tuple[str, str]] = {
    "not JSON": ("nonsense", "not JSON"),
    "cut": (line()[:-5], "not JSON"),
    "two objects": (line() + line(), "not JSON"),
    "single quotes": ("{'item_id': 'b'}", "not JSON"),
    "NUL": ("\0", "not JSON"),
    "array": ("[1]", "not a JSON object"),
    "number": ("3", "not a JSON object"),
    "null": ("null", "not a JSON object"),
    "text": ('"x"', "not a JSON object"),
    "deep": ("[" * 100_000, "not JSON"),
    "long number": ("1" * 5000, "not"),
    "no item_id": (json.dumps({k: v for k, v in LINE.items() if k != "item_id"}), "item_id is missing"),
    "item_id number": (line(item_id=3), "item_id is missing or not a text"),
    "item_id blank": (line(item_id=" "), "item_id is missing"),
    "prompt null": (line(item_id="b", prompt=None), "prompt is missing"),
    "prompt empty": (line(item_id="b", prompt=""), "prompt is missing"),
    "reference list": (line(item_id="b", reference=["4"]), "reference is missing or not a text"),
    "reference number": (line(item_id="b", reference=4), "reference is missing or not a text"),
    "no answer_kind": (line(item_id="b", answer_kind=None), "answer_kind is missing"),
    "unknown task": (line(item_id="b", task="chess"), "task 'chess' is not one of"),
    "task case": (line(item_id="b", task="Reasoning"), "task 'Reasoning' is not one of"),
    "unknown kind": (line(item_id="b", answer_kind="essay"), "answer_kind 'essay' is not one of"),
    "options number": (line(item_id="b", options=5), "options"),
    "options text": (line(item_id="b", options="AB"), "options"),
    "options object": (line(item_id="b", options={"A": 1}), "options"),
    "options of numbers": (line(item_id="b", options=[1, 2]), "options"),
    "options nested": (line(item_id="b", options=[["A"]]), "options"),
    "metric unknown": (line(answer_kind="text", metric="rouge"), "metric 'rouge' is not one of chrf, bleu, rouge_1"),
    "metric list": (line(answer_kind="text", metric=["chrf"]), "metric ['chrf'] is not one of"),
    "metric of numbers": (line(metric="chrf"), "metric chrf scores answers of kind text, not number"),
    "references text": (
        line(answer_kind="text", metric="chrf", references="Vier"),
        "references is not a list of texts",
    ),
    "references numbers": (line(answer_kind="text", metric="chrf", references=[4]), "references is not"),
    "references blank": (line(answer_kind="text", metric="chrf", references=["Vier", " "]), "references is not"),
}


@pytest.mark.parametrize("name", BAD)
def test_ds_jsonl_bad_line_is_named_by_file_and_number(tmp_path: Path, name: str) -> None:
    """A line that is no item is data.row, with file, line and what is wrong with it."""
    bad, problem = BAD[name]
    error = refused(suite_file(tmp_path, line(), "", bad, line(item_id="z")))
    assert error.code == "data.row"
    assert error.message.startswith("mine.jsonl, line 3: ")
    assert problem in error.message


def test_ds_jsonl_bad_task_and_kind_list_what_is_known(tmp_path: Path) -> None:
    """An unknown task or kind of answer is answered with all known ones."""
    assert ", ".join(TASKS) in refused(suite_file(tmp_path, line(task="chess"))).message
    assert ", ".join(ANSWER_KINDS) in refused(suite_file(tmp_path, line(answer_kind="essay"))).message


def test_ds_jsonl_bad_line_is_quoted_in_brief(tmp_path: Path) -> None:
    """However long a bad value is, the message stays a few lines."""
    assert len(refused(suite_file(tmp_path, line(task="x" * 1_000_000))).message) < 1000


@pytest.mark.parametrize(
    "content", [b"\xff\xfe" + line().encode("utf-16-le"), b"\x80\n", b"PAR1\x00\xfe\xffPAR1", b"\xed\xa0\x80\n"]
)
def test_ds_jsonl_bad_encoding_is_named(tmp_path: Path, content: bytes) -> None:
    """A file that is not UTF-8 is data.file and names itself."""
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    error = refused(path)
    assert error.code == "data.file"
    assert "mine.jsonl" in error.message


@pytest.mark.parametrize("what", ["absent", "directory"])
def test_ds_jsonl_bad_path_is_named(tmp_path: Path, what: str) -> None:
    """A path where there is no file is data.file."""
    path = tmp_path / "mine.jsonl"
    if what == "directory":
        path.mkdir()
    assert refused(path).code == "data.file"


def test_ds_jsonl_dup_names_both_lines(tmp_path: Path) -> None:
    """An item_id that stands twice is data.duplicate, with both of its lines."""
    error = refused(suite_file(tmp_path, line(item_id="x"), line(), "", line(item_id="x", prompt="other")))
    assert error.code == "data.duplicate"
    assert "'x' stands in lines 1 and 4" in error.message
    assert "mine.jsonl" in error.message


@pytest.mark.parametrize("content", ["", "\n", " \n\t\n\n"])
def test_ds_jsonl_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    """A file without items is data.empty."""
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    error = refused(path)
    assert error.code == "data.empty"
    assert "mine.jsonl" in error.message


# -- texts scored by a metric


def free(folder: Path, **changes: Any) -> Suite:
    """A suite of one text with a metric."""
    about = {"task": "summarization", "reference": "a c", "answer_kind": "text", "metric": "rouge_l"}
    return read_suite(suite_file(folder, line(**{**about, **changes})))


def test_a_suite_of_texts_is_scored_by_its_metric(tmp_path: Path) -> None:
    """The metric is the kind of its scores and their name in the log; further fields stay metadata."""
    suite = free(tmp_path, references=["A b c!"], tests="assert f() == 1", entry_point="f")
    assert (suite.metric, suite.score_kind, suite.scorer, suite.extracted) == ("rouge_l", "rouge_l", "rouge_l", False)
    (item,) = suite.items
    assert references_of(item) == ("a c", "A b c!")
    assert item.metadata["references"] == ("A b c!",)
    assert (item.metadata["tests"], item.metadata["entry_point"]) == ("assert f() == 1", "f")
    assert read_suite(suite_file(tmp_path, line())).scorer == "exact_answer"
    assert suite_of("small", [replace(RECORDED, score_kind="meteor")]).scorer == "source"


def test_references_belong_to_a_metric(tmp_path: Path) -> None:
    """Without a metric a field of that name is metadata like any other."""
    suite = read_suite(suite_file(tmp_path, line(references="page 3")))
    assert suite.items[0].metadata["references"] == "page 3"


@pytest.mark.parametrize(
    ("second", "found"),
    [
        ({"answer_kind": "text", "metric": "chrf"}, "the metric is chrf, and in line 1 it is rouge_l"),
        ({}, "the metric is missing, and in line 1 it is rouge_l"),
    ],
    ids=["two metrics", "a metric and none"],
)
def test_mixed_metrics_are_refused(tmp_path: Path, second: dict[str, Any], found: str) -> None:
    """Scores of different kinds are never pooled: the second kind is data.row, with its line and the first one's."""
    first = line(item_id="x", answer_kind="text", metric="rouge_l")
    error = refused(suite_file(tmp_path, first, "", line(**second)))
    assert (error.code, error.message) == ("data.row", f"mine.jsonl, line 3: {found}")
    assert refused(suite_file(tmp_path, line(), line(item_id="x", answer_kind="text", metric="chrf"))).message == (
        "mine.jsonl, line 2: the metric is chrf, and in line 1 it is missing"
    )


def test_a_text_with_a_metric_is_an_answer_as_a_whole(tmp_path: Path) -> None:
    """Words that announce an answer elsewhere are a part of the text here."""
    said = "Die Antwort ist nein.\nA: so it goes"
    assert answer_of(free(tmp_path).items[0], said) == "die antwort ist nein. a: so it goes"
    assert answer_of(free(tmp_path).items[0], None) is None
    assert answer_of(free(tmp_path).items[0], " \n") is None
    plain = read_suite(suite_file(tmp_path, line(answer_kind="text"))).items[0]
    assert answer_of(plain, said) == "so it goes"


def test_a_metric_measures_the_text_against_the_nearest_reference(tmp_path: Path) -> None:
    """ROUGE-L of "a b c d": F1 2*2/6 with "a c", 2*3/7 with "a b c"; without an answer 0."""
    one, two = (free(tmp_path, references=references) for references in ([], ["a b c"]))
    judges = [judge_of(suite, suite.items[0]) for suite in (one, two)]
    assert [judge("x", "A b, c d") for judge in judges if judge] == [pytest.approx(4 / 6), pytest.approx(6 / 7)]
    assert [judge(None, "a c") for judge in judges if judge] == [0.0, 0.0]


def test_metrics_are_scored_in_the_unit_that_they_are_quoted_in() -> None:
    """A text is worth 100 against itself in chrF and BLEU, and 1 in the others."""
    text = "one two three four five"
    assert {name: score(text, [text]) for name, score in TEXT_SCORERS.items()} == pytest.approx(
        {"chrf": 100, "bleu": 100, "rouge_1": 1, "rouge_2": 1, "rouge_l": 1, "token_f1": 1}
    )


def test_an_answer_is_right_or_wrong_without_a_metric() -> None:
    """The answer is compared, not the text; recorded scores leave nothing to judge."""
    exact = suite_of("small", [RECORDED])
    judge = judge_of(exact, exact.items[0])
    assert judge is not None
    assert (judge("4", "Four."), judge("5", "4"), judge(None, "4")) == (1.0, 0.0, 0.0)
    rated = suite_of("small", [replace(RECORDED, score_kind="meteor")])
    assert judge_of(rated, rated.items[0]) is None


def merged(text: str, *tied: str, **said: str) -> EnsembleResponse:
    """A merge that gives a text; said: model -> what it said."""
    parts = tuple(
        ModelContribution(
            model=model,
            answer=what.lower(),
            response=Response(request_key="", model=model, text=what, source="live"),
        )
        for model, what in said.items()
    )
    return EnsembleResponse(
        text=text, answer=tied[0] if tied else None, tied=tied, strategy="m", confidence=1, agreement=1,
        contributions=parts,
    )  # fmt: skip


def test_a_merge_of_texts_scores_what_its_text_scores(tmp_path: Path) -> None:
    """The winner is judged by the text that was given, a tie by the mean, and an answer of nobody's by itself."""
    suite = free(tmp_path, metric="chrf", reference="AB")
    judge = judge_of(suite, suite.items[0])
    assert judge is not None
    assert expected(judge, merged("AB", "ab", a="ab", b="AB")) == 100.0  # of texts that differ in case, the one given
    assert expected(judge, merged("ab", "ab", a="ab", b="AB")) == 0.0
    assert expected(judge, merged("zz", "zz", "ab", a="zz", b="AB")) == 50.0
    assert expected(judge, merged("AB", "new", a="zz")) == 100.0
    assert expected(judge, merged("", a="AB")) == 0.0


# -- recordings


def test_a_recording_becomes_its_items() -> None:
    """Items come in the order of the rows, once each, with the kind of answer their references show."""
    rows = [
        RECORDED,
        replace(RECORDED, model="m2", response="5", score=0.0),
        replace(RECORDED, item_id="i2", prompt="Which?\nA. x\nB. y", reference="B", response="B", score=1.0),
    ]
    suite = suite_of("small", rows)
    assert (suite.name, suite.kind, suite.score_kind) == ("small", "recording", "correct")
    assert (suite.scores_only, suite.extracted) == (False, True)
    assert [(i.item_id, i.task, i.reference) for i in suite.items] == [
        ("i1", "reasoning", "4"), ("i2", "reasoning", "B"),
    ]  # fmt: skip
    assert [i.metadata["answer_kind"] for i in suite.items] == ["number", "choice"]
    assert suite.items[1].metadata["options"] == ("A", "B")
    assert suite.scores == {
        ("i1", "m1", "default"): 1.0, ("i1", "m2", "default"): 0.0, ("i2", "m1", "default"): 1.0,
    }  # fmt: skip


def test_each_style_asks_its_own_prompt() -> None:
    """A request of a style has the prompt that was recorded under that style, else the item's."""
    rows = [
        replace(RECORDED, prompt_style="cot", prompt="2+2? Think."),
        replace(RECORDED, prompt_style="direct"),
        replace(RECORDED, prompt_style="cot", item_id="i2", prompt="3+3?"),
        replace(RECORDED, prompt_style="direct", item_id="i2", prompt="3+3?"),
    ]
    suite = suite_of("small", rows)
    first, second = suite.items
    assert [suite.request(first, s).prompt for s in ("cot", "direct")] == ["2+2? Think.", "2+2?"]
    assert [suite.request(second, s).prompt for s in ("cot", "direct")] == ["3+3?", "3+3?"]
    assert suite.request(first).prompt == suite.request(first, "never recorded").prompt == first.prompt
    request = suite.request(first, "direct")
    assert (request.task, request.item_id) == ("reasoning", "i1")
    assert request.key != suite.request(first, "cot").key


def test_an_item_with_one_style_is_not_asked_with_the_prompt_of_another() -> None:
    """A style that an item was never recorded under falls back to the item, not to a neighbour."""
    rows = [RECORDED, replace(RECORDED, item_id="i2", prompt_style="cot", prompt="3+3? Think.")]
    suite = suite_of("small", rows)
    assert [suite.request(i, "cot").prompt for i in suite.items] == ["2+2?", "3+3? Think."]


def test_mixed_kinds_of_score_are_refused_and_listed() -> None:
    """Scores of different kinds are never pooled: without a choice they are refused, all kinds named in order."""
    rows = [replace(RECORDED, item_id=str(n), score_kind=kind) for n, kind in enumerate(("meteor", "correct", "mcq"))]
    with pytest.raises(LLMValidationError, match="small mixes 3 kinds of score: correct, mcq, meteor") as caught:
        suite_of("small", rows)
    assert caught.value.code == "validation.score_kind"
    assert "--score-kind" in caught.value.next_step


def test_a_chosen_kind_keeps_only_its_items() -> None:
    """With a kind chosen, the suite has the items and scores of that kind only."""
    rows = [
        RECORDED,
        replace(RECORDED, item_id="i2", score_kind="meteor", score=0.3, reference="ein Text"),
        replace(RECORDED, item_id="i3", score_kind=None, score=None),
    ]
    suite = suite_of("small", rows, score_kind="meteor")
    assert ([i.item_id for i in suite.items], suite.score_kind) == (["i2"], "meteor")
    assert suite.scores == {("i2", "m1", "default"): 0.3}
    assert suite.extracted is False


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    """A kind that the recording does not have is answered with its kinds."""
    with pytest.raises(LLMValidationError, match="no scores of kind 'meteor', only correct") as caught:
        suite_of("small", [RECORDED], score_kind="meteor")
    assert caught.value.code == "validation.score_kind"


def test_a_kind_asked_of_unscored_rows_is_refused_in_words() -> None:
    """Where nothing is scored, asking for a kind says so instead of ending in an empty list."""
    with pytest.raises(LLMValidationError) as caught:
        suite_of("small", [replace(RECORDED, score=None, score_kind=None)], score_kind="correct")
    assert not caught.value.message.rstrip().endswith("only")


def test_rows_without_score_of_a_single_kind_stay() -> None:
    """Rows that lack a score stay in a recording of one kind: they can be asked and scored anew."""
    rows = [RECORDED, replace(RECORDED, item_id="i2", score=None, score_kind=None)]
    suite = suite_of("small", rows)
    assert [i.item_id for i in suite.items] == ["i1", "i2"]
    assert suite.scores == {("i1", "m1", "default"): 1.0}


def test_a_recording_without_text_has_scores_only() -> None:
    """Where no response is kept, nothing can be asked or merged, and the recorded scores are what there is."""
    rows = [
        replace(RECORDED, response=None, reference=None),
        replace(RECORDED, response=None, reference=None, model="m2"),
    ]
    suite = suite_of("small", rows)
    assert (suite.scores_only, suite.extracted) == (True, False)
    assert len(suite.scores) == 2


def test_one_response_is_enough_for_text() -> None:
    """A single kept response makes the recording more than scores."""
    rows = [replace(RECORDED, response=None), replace(RECORDED, model="m2")]
    assert suite_of("small", rows).scores_only is False


@pytest.mark.parametrize(
    ("changes", "extracted"),
    [
        ({}, True),
        ({"score_kind": "correct_exact_match"}, True),
        ({"score_kind": "human_mqm_negated"}, False),
        ({"reference": None}, False),
        ({"score_kind": None, "score": None}, False),
    ],
)
def test_answers_are_compared_only_where_that_reproduces_the_score(changes: dict[str, Any], extracted: bool) -> None:
    """Comparing extracted answers stands for correctness kinds with references; other scores stay the source's."""
    assert suite_of("small", [replace(RECORDED, **changes)]).extracted is extracted
    assert frozenset({"correct", "correct_exact_match"}) == EXTRACTED_KINDS


def test_one_missing_reference_leaves_the_scores_to_the_source() -> None:
    """A recording in which one item lacks its reference is scored as its source did."""
    assert suite_of("small", [RECORDED, replace(RECORDED, item_id="i2", reference=None)]).extracted is False


def test_a_recording_without_references_is_answered_by_whole_texts() -> None:
    """Words such as "how many" in an open question do not turn its answers into numbers."""
    open_question = replace(RECORDED, prompt="How many are known?", reference=None, score=0.4, score_kind="judge")
    (item,) = suite_of("small", [open_question]).items
    assert item.metadata["answer_kind"] == "text"
    assert answer_of(item, "Nobody knows; perhaps 100 million.") is not None
