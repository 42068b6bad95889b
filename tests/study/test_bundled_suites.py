"""Bundled suites: what every item of data/suites/ keeps, and what their datasheet says about them.

Run as a script, this file tries the solutions of code items that come in on standard input: their asserts must not
run inside the process of the tests.
"""

import ast
import json
import operator
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from statistics import fmean
from types import CodeType, FrameType
from typing import Any

import pytest

from workbench.decide.answers import infer_kind, normalise, options_in
from workbench.decide.textmetrics import chrf, pairwise, rouge_l
from workbench.study.suite import Suite, answer_of, gold_of, read_suite

FOLDER = Path(__file__).resolve().parents[2] / "data" / "suites"
KINDS = {
    "code_generation": "text",
    "general": "label",
    "question_answering": "choice",
    "reasoning": "number",
    "summarization": "text",
    "translation": "text",
}
METRICS = {"code_generation": "chrf", "summarization": "rouge_l", "translation": "chrf"}
VOTED = [name for name in KINDS if name not in METRICS]
PREFIXES = {
    "code_generation": "co",
    "general": "ge",
    "question_answering": "qa",
    "reasoning": "rs",
    "summarization": "su",
    "translation": "tr",
}
FIELDS = {
    "code_generation": {"metric", "entry_point", "tests"},
    "general": {"options"},
    "question_answering": {"options"},
    "reasoning": {"check"},
    "summarization": {"metric", "references"},
    "translation": {"metric", "references", "source_language", "target_language"},
}

Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


ROWS = {name: rows_of(name) for name in KINDS}
SUITES: dict[str, Suite] = {name: read_suite(FOLDER / f"{name}.jsonl") for name in KINDS}
EVERY = [pytest.param(name, row, id=row["item_id"]) for name, rows in ROWS.items() for row in rows]
CHOSEN = [param for param in EVERY if param.values[0] in VOTED]
LISTED = [param for param in CHOSEN if param.values[0] != "reasoning"]
COMPUTED = [param for param in CHOSEN if param.values[0] == "reasoning"]
CODES, SUMMARIES, TRANSLATIONS = (ROWS[name] for name in METRICS)

each_suite = pytest.mark.parametrize("name", KINDS)
each_voted_suite = pytest.mark.parametrize("name", VOTED)
each_written_suite = pytest.mark.parametrize("name", METRICS)
each_item = pytest.mark.parametrize(("name", "row"), EVERY)
each_voted_item = pytest.mark.parametrize(("name", "row"), CHOSEN)
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


def sheet() -> str:
    """The datasheet, each paragraph on one line."""
    return re.sub(r"(?<=[^\n|])\n(?=[^\n|])", " ", (FOLDER / "README.md").read_text(encoding="utf-8"))


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


def test_the_folder_holds_exactly_the_six_suites() -> None:
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
    assert set(row) == {"item_id", "task", "prompt", "reference", "answer_kind", "category"} | FIELDS[name]
    assert (row["task"], row["answer_kind"]) == (name, KINDS[name])
    assert re.fullmatch(rf"{PREFIXES[name]}-\d{{3}}", row["item_id"])


@each_item
def test_a_prompt_is_short_and_ends_with_the_cue_where_answers_are_votes(name: str, row: Row) -> None:
    """A prompt has at most 1200 characters, the last of which ask for the answer unless it is a text."""
    assert len(row["prompt"]) <= 1200
    assert row["prompt"].endswith("\n\nAnswer:") == (name in VOTED)


@each_voted_item
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


@each_voted_suite
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
    counts = Counter((name, form_of(row)) for name in VOTED for row in ROWS[name])
    assert stated == sorted((*key, count) for key, count in counts.items())


def test_the_datasheet_counts_the_questions_with_five_options() -> None:
    """The only questions that can have the answer E are as many as the datasheet says."""
    assert sum(len(row["options"]) == 5 for row in ROWS["question_answering"]) == 8
    assert "Eight items of `question_answering` have five options" in sheet()


# -- suites of free text: what summaries, translations and programs keep


def references_of(row: Row) -> list[str]:
    """The texts that an item accepts, the reference first."""
    return [row["reference"], *row.get("references", [])]


LANGUAGES = {"de": "German", "en": r"English|Englische?|anglais|inglés", "es": "Spanish", "fr": "French"}
LENGTH = re.compile(r"\b(one|two)[ -]sentences?\b(?:.*\bat most (\d+) words)?", re.I)


def request_of(row: Row) -> tuple[str, str]:
    """Request and text of a prompt; the request is its first or last paragraph and alone says what is wanted."""
    wanted = LENGTH if row["task"] == "summarization" else re.compile(rf"\b(?:{LANGUAGES[row['target_language']]})\b")
    paragraphs = row["prompt"].split("\n\n")
    (place,) = [place for place, paragraph in enumerate(paragraphs) if wanted.search(paragraph)]
    assert place in (0, len(paragraphs) - 1)
    return paragraphs.pop(place), "\n\n".join(paragraphs)


COUNTED = {
    "de": "zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
    "en": "two three four five six seven eight nine ten eleven twelve",
    "es": "dos tres cuatro cinco seis siete ocho nueve diez once doce",
    "fr": "deux trois quatre cinq six sept huit neuf dix onze douze",
}
DATED = {
    "de": "montag dienstag mittwoch donnerstag freitag samstag sonntag "
    "januar februar märz april mai juni juli august september oktober november dezember",
    "en": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday "
    "January February March April May June July August September October November December",
    "es": "lunes martes miércoles jueves viernes sábado domingo "
    "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "fr": "lundi mardi mercredi jeudi vendredi samedi dimanche "
    "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
}
TITLES = {"I", "Mr", "Mrs", "Ms"}


def figures(text: str, language: str) -> Counter[str]:
    """Numbers, number words from two to twelve, months and weekdays of a text, in a form of no language."""
    grouped = re.sub(r"(?<=\d)[.,\u00a0](?=\d{3}(?!\d))", "", text)
    found = re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d)", ".", grouped))
    counted = {word: str(number) for number, word in enumerate(COUNTED[language].split(), 2)}
    dated = {word: f"date {number}" for number, word in enumerate(DATED[language].split())}
    for word in re.findall(r"[^\W\d_]+", text):
        # The English verbs "may" and "march" are no months. "Mondays" is German "montags", but French "mais" is no May.
        written = word if language == "en" else word.lower()
        for form in (written, written.removesuffix("s")) if language in ("de", "en") else (written,):
            if (figure := counted.get(form.lower()) or dated.get(form)) is not None:
                found.append(figure)
                break
    return Counter(found)


def names(text: str) -> set[str]:
    """Words with a capital that do not begin a sentence, without titles and English dates."""
    capital = re.findall(r"(?<=[^.!?:\s]\s)[A-ZÀ-Ý][\w-]*", text)
    return {word for word in capital if word not in TITLES and word.removesuffix("s") not in DATED["en"].split()}


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("de", "Am Montag, dem 3. Mai, um 9:05 Uhr, kosten zwölf Karten 1.250,50 Euro."),
        ("en", "On Monday 3 May, at 9:05, we may march: twelve tickets cost 1,250.50 euros."),
        ("es", "El lunes 3 de mayo, a las 9:05, doce entradas cuestan 1.250,50 euros."),
        (
            "fr",
            "Le lundi 3\u00a0mai, à 9\u00a0h\u00a005, mais pas avant, douze billets coûtent 1\u00a0250,50\u00a0euros.",
        ),
    ],
)
def test_figures_are_read_alike_in_four_languages(language: str, text: str) -> None:
    """What a translation must keep is found whatever the language writes it like."""
    assert figures(text, language) == Counter(["3", "9", "05", "12", "1250.50", "date 0", "date 11"])


def test_names_are_told_from_sentence_openings_titles_and_dates() -> None:
    """Only what has a capital for its own sake is a name."""
    assert names("We met Ms Roy in Bad Ems on Monday. Then I left.\nTom: She took line U4.") == {
        "Roy",
        "Bad",
        "Ems",
        "U4",
    }


def test_a_suite_of_free_text_is_scored_by_one_metric() -> None:
    """The metric follows from the suite, and the datasheet names it."""
    metrics = {name: {row["metric"] for row in ROWS[name]} for name in METRICS}
    assert metrics == {name: {metric} for name, metric in METRICS.items()}
    assert table("suite", "metric", "references per item") == [
        [name, METRICS[name], "/".join(sorted({str(len(references_of(row))) for row in ROWS[name]}))]
        for name in METRICS
    ]


@each_suite
def test_texts_are_nfc_and_have_no_trailing_spaces(name: str) -> None:
    """Prompts, references and tests are composed and clean at the end of each line."""
    for row in ROWS[name]:
        for text in (row["prompt"], row.get("tests", ""), *references_of(row)):
            assert unicodedata.is_normalized("NFC", text), row["item_id"]
            assert all(line == line.rstrip() for line in text.split("\n")), row["item_id"]
            assert "\t" not in text, row["item_id"]
            assert text == text.strip(), row["item_id"]


@each_suite
def test_categories_are_spread_evenly(name: str) -> None:
    """Either half of a suite has about as many items of each category."""
    half = len(ROWS[name]) // 2
    first, second = (Counter(row["category"] for row in part) for part in (ROWS[name][:half], ROWS[name][half:]))
    assert all(abs(first[category] - second[category]) <= 1 for category in first | second)


@each_written_suite
def test_no_two_items_of_free_text_are_alike(name: str) -> None:
    """Texts to summarise or translate, or prompts for code, have a chrF below 50 with each other."""
    rows = ROWS[name]
    alike = pairwise([row["prompt"] if name == "code_generation" else request_of(row)[1] for row in rows])
    assert [
        (rows[i]["item_id"], rows[j]["item_id"])
        for i, j in combinations(range(len(rows)), 2)
        if max(alike[i, j], alike[j, i]) >= 0.5
    ] == []


@pytest.mark.parametrize("name", ["summarization", "translation"])
def test_the_references_of_an_item_differ(name: str) -> None:
    """No reference repeats another, or is found in the text of its prompt."""
    for row in ROWS[name]:
        alike = pairwise(references_of(row))
        assert all(alike[i, j] < 0.9 for i in range(len(alike)) for j in range(i)), row["item_id"]
        assert not any(reference in request_of(row)[1] for reference in references_of(row)), row["item_id"]


def test_a_summary_has_the_length_that_is_asked_for() -> None:
    """References have the sentences and at most the words of the request, and at most 40 % of the text's words."""
    for row in SUMMARIES:
        request, text = request_of(row)
        wanted = LENGTH.search(request)
        assert wanted is not None
        assert 80 <= len(text.split()) <= 220, row["item_id"]
        for reference in references_of(row):
            words = len(reference.split())
            assert len(re.findall(r"[.!?](?=\s|$)", reference)) == {"one": 1, "two": 2}[wanted[1]], row["item_id"]
            assert words <= min(0.4 * len(text.split()), int(wanted[2] or words)), row["item_id"]
    lengths = [len(request_of(row)[1].split()) for row in SUMMARIES]
    assert f"They have {min(lengths)} to {max(lengths)} words." in sheet()


def test_a_summary_adds_no_figure_and_no_name() -> None:
    """Each number, date and name of a reference stands in its text."""
    for row in SUMMARIES:
        text = request_of(row)[1]
        for reference in references_of(row):
            assert figures(reference, "en").keys() <= figures(text, "en").keys(), row["item_id"]
            assert {name for name in names(reference) if name not in text} == set(), row["item_id"]


def test_the_datasheet_counts_the_sentences_asked_for() -> None:
    """The table of summary lengths is complete and right."""
    requests = [LENGTH.search(request_of(row)[0]) for row in SUMMARIES]
    counts = Counter((wanted[1].lower(), wanted[2] is not None) for wanted in requests if wanted)
    stated = [
        (length, int(items), int(limited)) for length, items, limited in table("sentences", "items", "word limit")
    ]
    assert stated == [(n, counts[n, False] + counts[n, True], counts[n, True]) for n in ("one", "two")]


def test_a_translation_keeps_figures_and_names() -> None:
    """Numbers, dates and names are the same in the source and in each reference."""
    for row in TRANSLATIONS:
        source, languages = request_of(row)[1], (row["source_language"], row["target_language"])
        for reference in references_of(row):
            assert figures(reference, languages[1]) == figures(source, languages[0]), row["item_id"]
            pairs = ((source, reference), (reference, source))
            # German writes every noun with a capital, so that its names cannot be told by it.
            for (text, other), language in zip(pairs, languages, strict=True):
                assert language == "de" or names(text) <= set(re.findall(r"[\w-]+", other)), row["item_id"]


def test_a_translation_is_of_the_length_announced() -> None:
    """Sources have 12 to 45 words, and references are between half as long and twice as long."""
    for row in TRANSLATIONS:
        source = request_of(row)[1]
        assert 12 <= len(source.split()) <= 45, row["item_id"]
        assert all(0.5 <= len(text) / len(source) <= 2 for text in references_of(row)), row["item_id"]
    lengths = [len(request_of(row)[1].split()) for row in TRANSLATIONS]
    assert f"pairs of them, of {min(lengths)} to {max(lengths)} words" in sheet()


def test_punctuation_follows_the_language() -> None:
    """French has a no-break space before : ; ? ! and units, Spanish opens each question and exclamation."""
    for row in TRANSLATIONS:
        request, source = request_of(row)
        texts = [(row["target_language"], text) for text in references_of(row)] + [(row["source_language"], source)]
        texts += [(row["source_language"], request)] if "anglais" in request or "inglés" in request else []
        for language, text in texts:
            if language == "fr":
                assert re.findall(r"[^\u00a0][:;?!]|\d (?:\d|h|heures|secondes|euros)\b", text) == [], row["item_id"]
            else:
                assert re.findall(r"\u00a0|\s[:;?!]", text) == [], row["item_id"]
            spanish = [text.count(mark) for mark in "¿¡"]
            assert spanish == ([text.count(mark) for mark in "?!"] if language == "es" else [0, 0]), row["item_id"]


def test_the_datasheet_counts_the_directions() -> None:
    """The table of directions is complete and right, and every direction has the same registers."""
    stated = [tuple(row) for row in table("from", "to", "everyday", "idiom", "official", "technical")]
    counts = Counter((row["source_language"], row["target_language"], row["category"]) for row in TRANSLATIONS)
    directions = sorted({key[:2] for key in counts})
    registers = ("everyday", "idiom", "official", "technical")
    assert stated == [(*d, *(str(counts[*d, register]) for register in registers)) for d in directions]
    assert {row[2:] for row in stated} == {("3", "1", "2", "2")}


def test_half_of_the_requests_for_english_are_in_the_language_of_the_source() -> None:
    """The datasheet says how many prompts are not in English."""
    foreign = [row for row in TRANSLATIONS if row["target_language"] == "en" and "English" not in row["prompt"]]
    assert Counter(row["source_language"] for row in foreign) == {"de": 4, "es": 4, "fr": 4}
    assert "Twelve prompts of `translation` are in German, French or Spanish" in sheet()


# -- programs


SWAPS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.GtE, ast.LtE),
    ast.LtE: (ast.Gt, ast.Lt),
    ast.Gt: (ast.LtE, ast.GtE),
    ast.GtE: (ast.Lt, ast.Gt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
MODULES = {"calendar", "collections", "datetime", "fractions", "heapq", "math", "re"}
LINES = 100_000  # of a solution and its tests; a wrong solution may loop for ever


def stub(solution: str) -> str:
    """The solution with all its functions and methods returning None at once."""
    tree = ast.parse(solution)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.Return(ast.Constant(None))]
    return ast.unparse(ast.fix_missing_locations(tree))


def mutants(solution: str) -> Iterator[str]:
    """The solution with one comparison negated, or moved by its limit: < becomes >= or <=."""
    tree = ast.parse(solution)
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for place, op in enumerate(node.ops):
                for other in SWAPS[type(op)]:
                    node.ops[place] = other()
                    yield ast.unparse(tree)
                node.ops[place] = op


def passes(solution: str, tests: str) -> bool:
    """Whether the solution passes the tests within LINES lines."""
    left = LINES

    def count(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        left -= event == "line"
        if left < 0:
            raise TimeoutError
        return count

    codes: list[CodeType] = [compile(text, "<item>", "exec") for text in (solution, tests)]
    space: dict[str, Any] = {}
    sys.settrace(count)
    try:
        for code in codes:
            exec(code, space)
    except Exception:
        return False
    finally:
        sys.settrace(None)
    return True


def tried(row: Row) -> dict[str, Any]:
    """What the tests of an item say about its reference, a stub and the mutants."""
    wrong = list(mutants(row["reference"]))
    return {
        "reference": passes(row["reference"], row["tests"]),
        "stub": passes(stub(row["reference"]), row["tests"]),
        "nothing": passes("", row["tests"]),
        "mutants": len(wrong),
        "survivors": sum(passes(text, row["tests"]) for text in wrong),
    }


@pytest.fixture(scope="module")
def trials() -> dict[str, dict[str, Any]]:
    """What the tests of each code item say, from one process for all, and what an endless program comes to."""
    endless = {"item_id": "endless", "reference": "while True:\n    pass", "tests": ""}
    given = json.dumps([*CODES, endless])
    done = subprocess.run(
        [sys.executable, "-P", __file__], input=given, capture_output=True, text=True, check=True, timeout=60
    )
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    assert list(found) == [*(row["item_id"] for row in CODES), "endless"]
    return found


def test_a_reference_passes_its_tests(trials: dict[str, dict[str, Any]]) -> None:
    """Every reference passes the asserts of its item, within 100,000 lines."""
    assert [row["item_id"] for row in CODES if not trials[row["item_id"]]["reference"]] == []


def test_a_program_that_does_nothing_fails_the_tests(trials: dict[str, dict[str, Any]]) -> None:
    """An empty program fails, and so does one whose functions all return None."""
    passed = [(row["item_id"], key) for row in CODES for key in ("stub", "nothing") if trials[row["item_id"]][key]]
    assert passed == []


def test_the_tests_notice_a_wrong_comparison(trials: dict[str, dict[str, Any]]) -> None:
    """At least 95 % of the references with one comparison negated or moved by its limit fail."""
    wrong, survivors = (sum(trial[key] for trial in trials.values()) for key in ("mutants", "survivors"))
    assert wrong > 150
    assert survivors <= 0.05 * wrong
    assert f"{wrong - survivors} of {wrong} such mutants fail" in sheet()


def test_a_program_that_never_ends_is_stopped(trials: dict[str, dict[str, Any]]) -> None:
    """A wrong solution cannot hold up the others."""
    assert not trials["endless"]["reference"]


def test_code_is_deterministic_and_needs_only_the_standard_library() -> None:
    """References and tests import a few modules, and neither read clocks or files nor evaluate texts."""
    for row in CODES:
        for node in (node for key in ("reference", "tests") for node in ast.walk(ast.parse(row[key]))):
            match node:
                case ast.Import(names=modules):
                    assert {module.name for module in modules} <= MODULES, row["item_id"]
                case ast.ImportFrom(module=module):
                    assert module in MODULES, row["item_id"]
                case ast.Name(id=used) | ast.Attribute(attr=used):
                    assert used not in {"open", "input", "eval", "exec", "now", "today", "print"}, row["item_id"]


def test_tests_are_asserts_about_the_entry_point() -> None:
    """An item has at least eight asserts at the top level of its tests, and they use what the reference defines."""
    for row in CODES:
        tests = ast.parse(row["tests"])
        defined = [n.name for n in ast.parse(row["reference"]).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        assert [name for name in defined if not name.startswith("_")] == [row["entry_point"]]
        assert sum(isinstance(node, ast.Assert) for node in tests.body) >= 8, row["item_id"]
        assert any(isinstance(node, ast.Name) and node.id == row["entry_point"] for node in ast.walk(tests))


def signatures(row: Row) -> Iterator[str]:
    """Name, arguments and result of what the tests may call, without white space."""
    tree = ast.parse(row["reference"])
    for scope in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))):
        for node in scope.body:
            if isinstance(node, ast.FunctionDef) and re.match(r"[^_]|__(?!eq__|hash__|init__\(self\))", _head(node)):
                yield _head(node)


def _head(function: ast.FunctionDef) -> str:
    result = f"->{ast.unparse(function.returns)}" if function.returns else ""
    return re.sub(r"\s", "", f"{function.name}({ast.unparse(function.args)}){result}")


def test_a_prompt_gives_the_signatures() -> None:
    """The prompt says what is to be defined: a function with its signature, or a class with those of its methods."""
    for row in CODES:
        prompt = re.sub(r"\s", "", row["prompt"]).replace('"', "'")
        assert row["entry_point"] in prompt, row["item_id"]
        assert [signature for signature in signatures(row) if signature not in prompt] == [], row["item_id"]


# -- what the metrics of free text can tell apart


def first_sentences(row: Row) -> str:
    """As many sentences from the beginning of the text as are asked for."""
    request, text = request_of(row)
    wanted = LENGTH.search(request)
    assert wanted is not None
    return " ".join(re.split(r"(?<=[.!?])\s+", text)[: {"one": 1, "two": 2}[wanted[1].lower()]])


def consistency(row: Row) -> float:
    """Mean score of a reference against the other references of its item."""
    alike = pairwise(references_of(row), row["metric"])
    return fmean(max(score for j, score in enumerate(scores) if i != j) for i, scores in enumerate(alike))


def test_the_datasheet_says_what_the_metrics_can_tell_apart() -> None:
    """The mean scores of good, of empty and of wrong answers are those of the table."""
    programs = [ast.unparse(ast.parse(row["reference"])) for row in CODES]
    other_programs, other_summaries = programs[1:] + programs[:1], SUMMARIES[1:] + SUMMARIES[:1]
    measured = {
        ("code_generation", "reference with one wrong comparison"): [
            chrf(wrong, program) for program in programs for wrong in [*mutants(program)][:1]
        ],
        ("code_generation", "functions that return None"): [chrf(stub(program), program) for program in programs],
        ("code_generation", "reference of the next item"): [*map(chrf, other_programs, programs)],
        ("summarization", "one reference against the others"): [consistency(row) for row in SUMMARIES],
        ("summarization", "first sentences of the text"): [
            rouge_l(first_sentences(row), references_of(row)) for row in SUMMARIES
        ],
        ("summarization", "reference of the next item"): [
            rouge_l(other["reference"], references_of(row))
            for row, other in zip(SUMMARIES, other_summaries, strict=True)
        ],
        ("translation", "one reference against the others"): [100 * consistency(row) for row in TRANSLATIONS],
        ("translation", "source, not translated"): [
            chrf(request_of(row)[1], references_of(row)) for row in TRANSLATIONS
        ],
    }
    digits = {"chrf": 0, "rouge_l": 2}
    assert table("suite", "answer", "mean score") == [
        [name, what, f"{fmean(scores):.{digits[METRICS[name]]}f}"] for (name, what), scores in measured.items()
    ]


if __name__ == "__main__":
    print(json.dumps({row["item_id"]: tried(row) for row in json.load(sys.stdin)}))
