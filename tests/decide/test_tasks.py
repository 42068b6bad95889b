"""Task types of prompts: five languages, what counts as material, hostile texts, and the cues that are shown."""

from __future__ import annotations

import math
import re
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.decide.tasks import EDGE, FOUND, MATERIAL, READ, Detected, detect
from workbench.decide.tasks_cues import RULES
from workbench.errors import LLMValidationError
from workbench.facts import TASKS

# -- five languages

SAID = {
    "summarization": [
        "Summarize the text in two sentences.",
        "tl;dr of the article below",
        "Give me the main points of this report.",
        "Fasse den folgenden Text in zwei Sätzen zusammen: Der Rat tagte am Abend.",
        "Kannst du den Bericht kurz zusammenfassen?",
        "Peux-tu résumer cet article ?",
        "Faites un résumé du rapport ci-dessous.",
        "Resume el siguiente artículo en dos frases.",
        "Haz un resumen del informe.",
        "请用一句话总结下面的文章。",
        "概括以下段落：今天市议会开会。",
    ],
    "translation": [
        "Translate the sentence into Finnish.",
        "How do you say 'good evening' in French?",
        "English to Spanish: where is the station",
        "Übersetze den Satz ins Französische: Wie viele Äpfel hast du?",
        "Bitte ins Deutsche übersetzen: The council met today.",
        "Traduis cette phrase en allemand : Où est la gare ?",
        "Pouvez-vous traduire ce texte en anglais ?",
        "Traduce al inglés: ¿Dónde está la estación?",
        "把这句话翻译成英文：你叫什么名字？",
        "“谢谢”用德语怎么说？",
    ],
    "question_answering": [
        "Who wrote the Odyssey?",
        "Which metal is liquid at room temperature?\nA. Iron\nB. Mercury\nC. Zinc\nAnswer:",
        "Based on the passage, answer the question.\n\nPassage: The mill closed in 1931.\n\nWhen did it close?",
        "Wann endete der Dreißigjährige Krieg?",
        "Was ist die Hauptstadt von Peru?",
        "Quelle est la capitale de l'Australie ?",
        "¿Quién pintó Las Meninas?",
        "澳大利亚的首都是哪里？",
    ],
    "code_generation": [
        "Write a function that reverses a list.",
        "Fix the bug in this script:\n```python\nprint(x\n```",
        "class Stack:\n    def push(self, value):\n        ...",
        "Schreibe eine Python-Funktion, die eine Liste umkehrt.",
        "Écris une fonction Python qui inverse une liste.",
        "Crea un programa que ordene números.",
        "请编写一个程序，输出前100个质数。",
    ],
    "reasoning": [
        "Solve for x: 2x + 3 = 9",
        "A box holds 12 eggs. How many eggs are in 7 boxes?",
        "If all zugs are blue and Tom is a zug, is Tom blue? Let's think step by step.",
        "Anna hat 5 Äpfel und kauft 7 dazu. Wie viele Äpfel hat sie insgesamt?",
        "Résous l'équation 3x + 4 = 19.",
        "Luis tiene 12 canicas y pierde 5. ¿Cuántas canicas le quedan?",
        "请一步一步推理：小明有12个苹果，吃了5个，还剩多少个？",
    ],
    "general": [
        "Write a poem about autumn.",
        "How can I sleep better?",
        "Classify the message.\n\nMessage: I loved it.\n\nOptions:\n- positive\n- negative\n\nAnswer:",
        "Schreibe ein Gedicht über den Herbst.",
        "Écris une histoire pour enfants sur un renard.",
        "Escribe un poema sobre el mar.",
        "写一首关于秋天的诗。",
        "Guten Morgen!",
    ],
}


@pytest.mark.parametrize(("task", "query"), [(task, query) for task, queries in SAID.items() for query in queries])
def test_plain_instructions_are_told_apart_in_five_languages(task: str, query: str):
    """English, German, French, Spanish and Chinese, all six tasks, with a cue that names the task."""
    found = detect(query)
    assert found.task == task
    assert task == "general" or task in {cue.task for cue in found.cues}


def test_a_decomposed_accent_is_the_same_letter():
    """A word is looked up in its composed form, and shown where and as it stands."""
    query = unicodedata.normalize("NFD", "Bitte: Résumé")
    (cue,) = detect(query).cues
    assert (cue.task, cue.found, cue.start) == ("summarization", unicodedata.normalize("NFD", "Résumé"), 7)


# -- what is refused, and what is not


@pytest.mark.parametrize(
    "query", ["", " \n\t ", "\u3000", None, 7, b"Translate", {0: 10**5000}], ids=lambda q: type(q).__name__
)
def test_a_query_of_nothing_is_refused(query: object):
    """Blank, or no text at all."""
    with pytest.raises(LLMValidationError) as caught:
        detect(query)  # type: ignore[arg-type]
    assert caught.value.code == "validation.query"
    assert len(caught.value.next_step) <= 160


@pytest.mark.parametrize("query", ["😀🎉", "\ud800\udfff\ud800", "\x00", "12", "...", "Δοκιμή", "مرحبا", "\u200b"])
def test_what_says_nothing_is_general(query: str):
    """Without a cue the score of `general` is that of half a hint: e^0.5 / (e^0.5 + 5) = 1.64872 / 6.64872."""
    found = detect(query)
    assert (found.task, found.cues) == ("general", ())
    assert found.confidence == pytest.approx(0.247976, abs=1e-6)


@given(st.text(st.characters(codec=None), min_size=1).filter(lambda text: text.strip()))
def test_no_text_fails(query: str):
    """Any text, lone surrogates included, has a type whose cues are places in it."""
    check_shape(query, detect(query))


def check_shape(query: str, found: Detected) -> None:
    assert list(found.scores) == list(TASKS)
    assert math.fsum(found.scores.values()) == pytest.approx(1)
    assert found.confidence == found.scores[found.task] == max(found.scores.values())
    assert list(found.cues) == sorted(found.cues, key=lambda cue: cue.start)
    for cue in found.cues:
        assert query[cue.start :].startswith(cue.found)
        assert 0 < len(cue.found) <= FOUND
        assert cue.weight > 0


# -- scores


def test_scores_are_the_softmax_of_the_weights():
    """Translation 3 + 1.5, general 0.5 + 2.5 / 4: 90.0171 / (90.0171 + 3.08022 + 4)."""
    found = detect("Translate into German: Write a poem.")
    assert [(cue.name, cue.weight) for cue in found.cues] == [
        ("translate", 3.0),
        ("into a language", 1.5),
        ("write a text", 0.625),
    ]
    assert found.confidence == pytest.approx(0.927081, abs=1e-6)


def test_equal_scores_go_to_the_first_task():
    """Two words of weight 2: summarization stands before reasoning, whatever their order in the text."""
    for query in ("a riddle, a kurzfassung", "a kurzfassung, a riddle"):
        found = detect(query)
        assert found.scores["summarization"] == found.scores["reasoning"]
        assert found.task == "summarization"


def test_repeating_a_word_adds_nothing():
    """A rule counts once, by its best place."""
    once, often = detect("Solve the puzzle."), detect("Solve the puzzle. " + "A puzzle is a puzzle. " * 9)
    assert once.scores == often.scores


def test_a_verb_counts_half_in_prose():
    """A command begins a sentence or follows a polite opening."""
    assert weights("Translate this.")["translate"] == 3.0
    assert weights("Could you please translate this")["translate"] == 3.0
    assert weights("Hi Kim, translate this")["translate"] == 3.0
    assert weights("We translate whatever comes")["translate"] == 1.5
    assert "list" not in weights("The list is long")  # no verb there


def weights(query: str) -> dict[str, float]:
    return {cue.name: cue.weight for cue in detect(query).cues}


# -- the instruction and its material


@pytest.mark.parametrize(
    "query",
    [
        'What does "a riddle" mean?',
        "What does “a riddle” mean?",
        "Was heißt „ein Rätsel“ genau?",
        "Que veut dire «une énigme» ici ?",
        "What is `riddle` here?",
        "See:\n```\na riddle\n```\nand go on",
        "See:\n```\na riddle",
        "Summarize this:\nIt was a riddle.",
        "Write an e-mail. \nIt was a riddle.",
        "x" * EDGE + " riddle " + "x" * EDGE,
        "Q: a riddle\nA: yes\nQ: and now\nA:",
        "Which?\nA. a riddle\nB. a poem\nAnswer:",
    ],
)
def test_material_counts_a_quarter(query: str):
    """Quotations, fences, what a first line governs, the middle, examples and options: 2 x 0.25."""
    assert weights(query)["puzzle"] == 2.0 * MATERIAL == 0.5


@pytest.mark.parametrize(
    "query",
    [
        "a riddle",
        "x" * 2 * EDGE + "\na riddle",
        "The riddle ends.\n\nIt does.",
        "Answer this:\na riddle",  # the question tells a problem from a question
        "Q: and now\nA: yes\nQ: a riddle\nA:",
        "```\nx\n```\na riddle",
        '5" and a riddle\nof 7"',  # a quotation does not go over a line
    ],
)
def test_what_is_no_material_counts_fully(query: str):
    """The beginning, the end, and the last question."""
    assert weights(query)["puzzle"] == 2.0


def test_the_instruction_beats_what_it_is_applied_to():
    """The same two commands, each in the other's place."""
    assert detect("Translate into German:\n\nWrite a Python function that reverses a list.").task == "translation"
    assert detect("Write a Python function that can translate English to German.").task == "code_generation"
    assert detect("Summarize: Write a poem and translate it.").task == "summarization"
    assert detect("The council met. It was a long night.\n\nSummarize the text above.").task == "summarization"
    assert detect("Explain this code:\n```python\ndef f(x):\n    return x\n```").task == "general"
    assert detect("Note: be quick.\nTranslate this.").task == "translation"


def test_worked_examples_are_reasoning():
    """With steps the options are only a form; the same examples without them are questions."""
    steps = "A: Let's think step by step. It is red. So the answer is (B)."
    shot = "Q: Which is it?\nOptions:\n(A) blue\n(B) red\n"
    assert detect(f"{shot}{steps}\n\n{shot}A: Let's think step by step.").task == "reasoning"
    assert detect(f"{shot}A: (B)\n\n{shot}A:").task == "question_answering"


def test_options_are_shown_where_they_stand():
    """Lines with letters, the last of several lists; an answer line is no option; in one line from its first letter."""
    query = "Q: One?\nA. x\nB. y\nA: B\n\nQ: Two?\nOptions:\n(A) red\n(B) blue\n(C) green\nA: Let's see."
    cue = next(cue for cue in detect(query).cues if cue.name == "lettered options")
    assert cue.found == "(A) red\n(B) blue\n(C) green"
    inline = "Choose one: (A) red (B) blue"
    cue = next(cue for cue in detect(inline).cues if cue.name == "lettered options")
    assert cue.found == "(A) red (B) blue"
    assert "lettered options" not in weights("Plan A. Go.\nA. We start.\nC. We end.")
    assert "listed labels" in weights("Say which:\n- good\n- bad\n")
    # Full-width letters are options to decide/answers.py, but have no place that could be shown.
    assert "lettered options" not in weights("Which?\nＡ. red\nＢ. blue\n")


def test_numbers_make_a_word_problem_of_a_question():
    """Two amounts, a quantity and a question; none of the three alone, and not in a long text."""
    assert "word problem" in weights("A pen costs 2 euros. What is the price of 7 pens?")
    assert "word problem" not in weights("A pen costs 2 euros. What is the price of some pens?")
    assert "word problem" not in weights("A pen costs 2 euros, 7 pens cost more.")
    assert "word problem" not in weights("In 1914 and 1939, what happened?")
    assert "word problem" not in weights("x" * 1_500 + " A pen costs 2 euros. What is the price of 7 pens?")


def test_code_and_its_judge_speak_for_code():
    """Code at the beginning more than elsewhere; headings of an exercise."""
    assert weights("import json\nprint(1)")["begins with code"] == 3.5
    assert weights("Look:\nimport json\nprint(1)")["code"] == 0.7
    assert weights("Some task.\nInput: a\nOutput: b")["input and output"] == 1.5
    assert "input and output" not in weights("Input: a\nInput: b")


# -- long texts


def test_what_lies_between_the_ends_is_not_read():
    """An instruction is found at either end and shown at its place in the query."""
    filler = "x" * 50_000
    assert detect(f"{filler} Translate this. {filler}").cues == ()
    for query in (f"Translate this. {filler}", f"{filler}\nTranslate this."):
        found = detect(query)
        assert found.task == "translation"
        check_shape(query, found)
        assert found.cues[0].start == query.index("Translate")


@pytest.mark.parametrize(
    ("query", "counts"),
    [
        ("```\n" + "x" * 3 * READ + "\n```\na riddle", 2.0),
        ("```\n" + "x" * READ + "\n```\n" + "x" * 2 * READ + "\na riddle", 2.0),
        ("```\n" + "x" * 3 * READ + "\na riddle", 0.5),
        ("x" * 2 * READ + "\n```\n" + "x" * 2 * READ + "\na riddle", 0.5),
    ],
)
def test_a_fence_goes_over_what_is_not_read(query: str, counts: float):
    """Opened and closed in the parts that are read, in the part that is not, or never closed."""
    assert weights(query)["puzzle"] == counts


HOSTILE = {
    "one letter": "a",
    "brackets": "([{",
    "quotes": '"',
    "open quotes": "«“„",
    "backticks": "`",
    "fences": "```\n",
    "emoji": "😀",
    "newlines": "\n",
    "latin-1": bytes(range(256)).decode("latin-1"),
    "surrogates": "\ud800",
    "accents": "e\u0301\u0301",
    "verbs": "write ",
    "open questions": "who ",
    "sayings": "how do you say ",
    "names": "Hi x, ",
    "turns": "Q: x\nA: y\n",
    "options": "A. x\nB. y\n",
    "labels": ":\n- good\n- bad\n",
    "code": "def f(",
    "digits": "1 ",
    "Chinese": "写用回答",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_time_is_linear_in_hostile_text(name: str):
    """Twice as long takes less than four times as long: within what is read, and from half a megabyte to a whole."""
    for n in (READ, 500_000):
        short, long = (("x" + HOSTILE[name] * (size // len(HOSTILE[name]) + 1))[:size] for size in (n, 2 * n))
        assert best_of_3(long) < 4 * max(best_of_3(short), 0.002)  # below 2 ms it is the machine that is measured


def best_of_3(query: str) -> float:
    taken = []
    for _ in range(3):
        start = time.process_time()
        detect(query)
        taken.append(time.process_time() - start)
    return min(taken)


# -- the table of cues


def test_every_rule_can_be_found():
    """A trigger is one word in the form in which words are looked up; weights are hints to certainties."""
    for rule in RULES:
        assert rule.task in TASKS
        assert 0 < rule.weight <= 3
        assert 0 <= rule.beside <= 1
        assert rule.triggers or re.search(r"[\u4e00-\u9fff]", rule.rest.pattern)  # a phrase is Chinese
        for word in rule.triggers:
            assert re.fullmatch(r"[^\W\d_]\w{0,39}", word), word
            assert word == unicodedata.normalize("NFC", word.lower())


def test_every_repetition_is_bounded():
    """No pattern of the table has a star or a plus outside of brackets and escapes, unless it only makes possessive."""
    for rule in RULES:
        bare = re.sub(r"\\.|\[[^\]]*\]|(?<=\})\+", "", rule.rest.pattern)
        assert not re.search(r"[*+]|\{\d+,\}", bare), rule.rest.pattern
