"""Bundled suites: what every item of data/suites/ keeps, and what their datasheet says about them."""

import ast
import json
import operator
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from workbench.decide.answers import infer_kind, normalise, options_in
from workbench.study.suite import Suite, answer_of, gold_of, read_suite

FOLDER = Path(__file__).resolve().parents[2] / "data" / "suites"
KINDS = {"general": "label", "question_answering": "choice", "reasoning": "number"}
PREFIXES = {"general": "ge", "question_answering": "qa", "reasoning": "rs"}

Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


ROWS = {name: rows_of(name) for name in KINDS}
SUITES: dict[str, Suite] = {name: read_suite(FOLDER / f"{name}.jsonl") for name in KINDS}
EVERY = [pytest.param(name, row, id=row["item_id"]) for name, rows in ROWS.items() for row in rows]
LISTED = [param for param in EVERY if param.values[0] != "reasoning"]
COMPUTED = [param for param in EVERY if param.values[0] == "reasoning"]

each_suite = pytest.mark.parametrize("name", KINDS)
each_item = pytest.mark.parametrize(("name", "row"), EVERY)
each_listed_item = pytest.mark.parametrize(("name", "row"), LISTED)
each_computed_item = pytest.mark.parametrize(("name", "row"), COMPUTED)


OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


def calculate(expression: str) -> Fraction:
    """Exact value of an arithmetic expression of plain numbers; ValueError for anything else in it."""

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                # The digits as written, because the float 2.40 is not exactly 2.40.
                return Fraction(str(ast.get_source_segment(expression, node)))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATIONS:
                return Fraction(OPERATIONS[type(op)](value(left), value(right)))
        raise ValueError(f"not plain arithmetic: {ast.unparse(node)}")

    return value(ast.parse(expression, mode="eval").body)


def table(*header: str) -> list[list[str]]:
    """Cells of the rows of the datasheet's table with this header, without back quotes."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    head = re.escape(f"| {' | '.join(header)} |")
    block = re.search(rf"^{head}\n\|[-|]+\|\n((?:\|.*\|\n)+)", text, re.M)
    assert block is not None, f"no table with the header {header}"
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in block[1].splitlines()]


def option_lines(row: Row) -> list[str]:
    """Lines of the prompt between the heading of the options and the cue."""
    return str(row["prompt"]).partition("\nOptions:\n")[2].removesuffix("\n\nAnswer:").split("\n")


def form_of(row: Row) -> str:
    """What the datasheet counts an item's gold answer as."""
    if row["answer_kind"] != "number":
        return str(row["reference"])
    return "negative" if row["reference"].startswith("-") else "decimal" if "." in row["reference"] else "whole"


def test_the_folder_holds_exactly_the_three_suites() -> None:
    """No suite lies in the folder without being checked here."""
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == set(KINDS)


@each_suite
def test_a_suite_is_read_completely(name: str) -> None:
    """The reader of suites accepts every line and keeps its prompt and reference."""
    read = [(item.item_id, item.task, item.prompt, item.reference) for item in SUITES[name].items]
    assert read == [(row["item_id"], row["task"], row["prompt"], row["reference"]) for row in ROWS[name]]


@each_suite
def test_a_suite_has_at_least_forty_items(name: str) -> None:
    """A suite is large enough for a first impression."""
    assert len(ROWS[name]) >= 40


def test_item_ids_are_unique_across_the_suites() -> None:
    """An item_id names one item, whichever suite it stands in."""
    counts = Counter(row["item_id"] for rows in ROWS.values() for row in rows)
    assert [item_id for item_id, count in counts.items() if count > 1] == []


def test_no_two_prompts_are_equal() -> None:
    """No question is asked twice, not even with other capitals or white space."""
    counts = Counter(" ".join(row["prompt"].casefold().split()) for rows in ROWS.values() for row in rows)
    assert [prompt for prompt, count in counts.items() if count > 1] == []


@each_item
def test_an_item_has_the_fields_of_its_suite(name: str, row: Row) -> None:
    """Task, answer kind, id and the set of fields follow from the suite."""
    extra = {"check"} if name == "reasoning" else {"options"}
    assert set(row) == {"item_id", "task", "prompt", "reference", "answer_kind", "category"} | extra
    assert (row["task"], row["answer_kind"]) == (name, KINDS[name])
    assert re.fullmatch(rf"{PREFIXES[name]}-\d{{3}}", row["item_id"])


@each_item
def test_a_prompt_is_short_and_ends_with_the_cue(name: str, row: Row) -> None:
    """A prompt has at most 1200 characters, the last of which ask for the answer."""
    assert len(row["prompt"]) <= 1200
    assert row["prompt"].endswith("\n\nAnswer:")


@each_item
def test_a_reference_is_canonical(name: str, row: Row) -> None:
    """Normalising a reference changes nothing."""
    assert normalise(row["reference"], row["answer_kind"]) == row["reference"]


@each_listed_item
def test_the_gold_answer_is_one_of_the_options(name: str, row: Row) -> None:
    """Exactly one of the options is the reference."""
    assert row["options"].count(row["reference"]) == 1


@each_listed_item
def test_the_options_are_those_of_the_prompt(name: str, row: Row) -> None:
    """The prompt lists the options of the item, in the same order and under one heading."""
    assert row["prompt"].count("\nOptions:\n") == 1
    listed = option_lines(row)
    marks = [line[:3] if name == "question_answering" else line for line in listed]
    assert marks == [f"{o}. " if name == "question_answering" else f"- {o}" for o in row["options"]]
    assert options_in(row["prompt"]) == tuple(row["options"])


@each_listed_item
def test_no_two_options_say_the_same(name: str, row: Row) -> None:
    """The texts of an item's options differ."""
    listed = option_lines(row)
    texts = {line.partition(" ")[2].casefold().strip() for line in listed}
    assert "" not in texts
    assert len(texts) == len(listed)


@each_item
def test_the_answer_kind_can_be_told_from_the_prompt(name: str, row: Row) -> None:
    """Inferring the kind from reference and prompt gives the kind that the item declares."""
    assert infer_kind(row["reference"], row["prompt"]) == row["answer_kind"]


@each_suite
def test_a_plain_statement_of_the_gold_answer_is_extracted(name: str) -> None:
    """A response that states the reference in a sentence is scored as correct, for every item."""
    form = "The answer is ({})." if name == "question_answering" else "The answer is {}."
    missed = [i.item_id for i in SUITES[name].items if answer_of(i, form.format(i.reference)) != gold_of(i)]
    assert missed == []


def test_the_letters_are_spread() -> None:
    """No letter is the answer to so many questions that always choosing it would pay."""
    rows = ROWS["question_answering"]
    counts = Counter(row["reference"] for row in rows)
    assert set(counts) == set("ABCDE")
    assert max(counts.values()) <= 0.45 * len(rows)


def test_the_correct_option_is_seldom_the_longest() -> None:
    """Choosing the longest option does not beat a blind guess by much."""
    longest = 0
    for row in ROWS["question_answering"]:
        listed = option_lines(row)
        longest += max(listed, key=len)[0] == row["reference"]
    assert longest <= 0.4 * len(ROWS["question_answering"])


def test_every_label_is_used_and_none_dominates() -> None:
    """Each label that a question allows is the gold answer of some, and of no more than its fair share and a fifth."""
    golds: dict[tuple[str, ...], Counter[str]] = {}
    for row in ROWS["general"]:
        golds.setdefault(tuple(row["options"]), Counter())[row["reference"]] += 1
    for options, counts in golds.items():
        assert set(counts) == set(options)
        assert max(counts.values()) <= (1 / len(options) + 0.2) * counts.total()


@each_computed_item
def test_the_calculation_gives_the_reference(name: str, row: Row) -> None:
    """The exact value of the check is the reference."""
    assert calculate(row["check"]) == Fraction(row["reference"])


@each_computed_item
def test_a_check_is_a_calculation_and_not_the_answer(name: str, row: Row) -> None:
    """A check has at least one operation, so it says where the number comes from."""
    assert isinstance(ast.parse(row["check"], mode="eval").body, ast.BinOp)


@pytest.mark.parametrize("expression", ["abs(3)", "x+1", "True+1", "'1'*3", "1 if 2 else 3", "2@3", "[1][0]", "1<2"])
def test_a_check_with_more_than_arithmetic_is_refused(expression: str) -> None:
    """Names, calls, comparisons and texts are not evaluated."""
    with pytest.raises(ValueError, match="not plain arithmetic"):
        calculate(expression)


def test_a_check_is_exact_in_decimals() -> None:
    """Tenths are tenths: 3 * 0.1 is 0.3, which binary fractions do not give."""
    assert calculate("3*0.1") == Fraction(3, 10)


def test_the_datasheet_counts_the_items() -> None:
    """The table of suites gives task, answer kind and number of items as they are."""
    stated = [
        (name, task, kind, int(items)) for name, task, kind, items in table("suite", "task", "answer kind", "items")
    ]
    assert stated == [(name, name, KINDS[name], len(ROWS[name])) for name in KINDS]


def test_the_datasheet_counts_the_categories() -> None:
    """The table of categories is complete and right."""
    stated = [(name, category, int(items)) for name, category, items in table("suite", "category", "items")]
    counts = Counter((name, row["category"]) for name, rows in ROWS.items() for row in rows)
    assert stated == sorted((*key, count) for key, count in counts.items())


def test_the_datasheet_counts_the_gold_answers() -> None:
    """The table of gold answers is complete and right."""
    stated = [(name, gold, int(items)) for name, gold, items in table("suite", "gold answer", "items")]
    counts = Counter((name, form_of(row)) for name, rows in ROWS.items() for row in rows)
    assert stated == sorted((*key, count) for key, count in counts.items())


def test_the_datasheet_counts_the_questions_with_five_options() -> None:
    """The only questions that can have the answer E are as many as the datasheet says."""
    assert sum(len(row["options"]) == 5 for row in ROWS["question_answering"]) == 8
    assert "Eight items of `question_answering` have five options" in (FOLDER / "README.md").read_text("utf-8")
