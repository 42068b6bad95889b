"""Clarity: what each rule finds, what it does not, and a score that is made of nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decide.hostile import HOSTILE, grows_linearly
from workbench.decide.clarity import clarity
from workbench.decide.rewrite import STRATEGIES, Example, rewrite_all
from workbench.errors import LLMValidationError

LONG = "Explain " + "this and " * 60 + "that."


def cues(text: str) -> dict[str, str]:
    return {cue.name: cue.found for cue in clarity(text).cues}


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("It does not work, can you help me with the printer?", "vague opening", "It does"),
        ("Das ist kaputt, was kann man da tun?", "vague opening", "Das ist"),
        ("Fix it.", "nothing referred to", "Fix it"),
        ("Explain this to me", "nothing referred to", "Explain this"),
        ("Erkläre das.", "nothing referred to", "Erkläre das"),
        ("解释一下它。", "nothing referred to", "解释一下它"),
        ("Summarize the text below.", "missing material", "the text below"),
        ("Translate this sentence to French", "missing material", "this sentence"),
        ("Übersetze den folgenden Text und diesen Brief.", "missing material", "folgenden Text"),
        ("Résume le texte suivant.", "missing material", "le texte suivant"),
        ("Resume el texto siguiente.", "missing material", "el texto siguiente"),
        ("请翻译以下文章。", "missing material", "以下文章"),
        ("Write a poem about [insert topic].", "unfilled placeholder", "[insert topic]"),
        ("Write to {customer_name} today.", "unfilled placeholder", "{customer_name}"),
        ("Write {{ topic }} down.", "unfilled placeholder", "{{ topic }}"),
        ("Tell me something.", "vague word", "something"),
        ("Erzähl mir irgendwas und schreib es auf.", "vague word", "irgendwas"),
        ("Explain briefly, but in detail, how ice floats.", "contradictory length", "briefly"),
        ("Who was it? Where was it? When did it end?", "several questions", "When did it end?"),
        (LONG, "long sentence", LONG[:60].strip()),
        ("The dog sat on the mat and slept.", "no instruction", "The dog sat on the mat and slept."),
        ("这只狗睡在垫子上。", "no instruction", "这只狗睡在垫子上。"),
        ("Ice", "very short", "Ice"),
    ],
)
def test_each_rule_shows_what_it_found(text: str, name: str, found: str):
    """In the words of the text, at their place."""
    assert cues(text).get(name) == found
    (cue,) = [cue for cue in clarity(text).cues if cue.name == name]
    assert text[cue.start :].lstrip().startswith(found)
    assert 0 < cue.weight < 1
    assert cue.reason


@pytest.mark.parametrize(
    "text",
    [
        "What is the capital of France?",
        "Explain in two sentences why ice floats.",
        'Fix it: "The cat sit on the mat."',
        'Rewrite the following text: "The cat sat on the mat all day."',
        "Summarize the text below.\n\nThe cat sat on the mat all day and slept.",
        "The cat sat on the mat all day and slept.\n\nSummarize the text above.",
        "What does this function do?\n```\ndef f(): pass\n```",
        'Translate "Is it? Is it? Is it something?" to German.',
        "Write \\begin{article} and {x} for 5 people.",
        "Write a short story about the details of a day.",
        "Wie viele Beine haben drei Spinnen?",
        "Schreibe ein Gedicht über den Regen.",
        "Explique pourquoi la glace flotte.",
        "Escribe un poema sobre la lluvia.",
        "请写一首关于雨的诗。",
        "什么是黑洞？",
        "I need a list of rivers in Peru.",
        "Sort it.\n\nQ: b a?\nA: a b\n\nQ: d c?\nA: c d\n\nQ: f e?\nA:",
        "Which is blue?\nA. the sky\nB. grass\nAnswer:",
    ],
)
def test_a_clear_prompt_has_no_cue(text: str):
    """Quotations, code, examples and options are not read as instructions; a score of 1."""
    assert clarity(text).cues == ()
    assert clarity(text).score == 1.0


def test_the_score_is_the_product_of_what_the_cues_leave():
    """0.4 and 0.3 taken leave 0.6 x 0.7 = 0.42."""
    found = clarity("Fix it.")
    assert [cue.name for cue in found.cues] == ["nothing referred to", "very short"]
    assert found.score == pytest.approx(0.42)


def test_what_rewritings_added_does_not_count():
    """Neither their words nor their questions; places are those of the whole text."""
    text = "It is late. Tell me something about the moon, with stuff.\nAnswer:"
    shots = [Example(prompt="Who? What? Where is something?", answer="x")]
    made = rewrite_all(text, [s for s in STRATEGIES if s not in ("clarify", "simplify")], examples=shots)
    before, after = clarity(text), clarity(made.text)
    assert (before.score, [cue.found for cue in before.cues]) == (after.score, [cue.found for cue in after.cues])
    assert all(made.text[cue.start :].startswith(cue.found) for cue in after.cues)


def test_only_the_beginning_of_a_long_text_is_read():
    """4,000 characters; and of what may stand behind them it is not said that it is missing."""
    far = "Summarize the text below. " + "word " * 2_000
    assert cues(far) == {}
    assert "vague word" not in cues("x " * 3_000 + "something")


@pytest.mark.parametrize("text", ["", " \n", None, 3])
def test_a_blank_query_is_refused(text: Any):
    """As by the other functions of the prompt side."""
    with pytest.raises(LLMValidationError) as caught:
        clarity(text)
    assert caught.value.code == "validation.query"


@given(st.text(min_size=1, max_size=200).filter(str.strip))
def test_any_text_has_a_score(text: str):
    """In (0, 1], the product over its cues, which stand in order."""
    found = clarity(text)
    assert 0 < found.score <= 1
    assert found.score == pytest.approx(math.prod(1 - cue.weight for cue in found.cues))
    assert [cue.start for cue in found.cues] == sorted(cue.start for cue in found.cues)


@pytest.mark.parametrize("name", sorted(set(HOSTILE) - {"newlines", "spaces", "indented"}))
def test_time_is_linear_in_hostile_text(name: str):
    """Twice the text takes less than four times the time; a megabyte is read."""
    assert grows_linearly(clarity, HOSTILE[name])
    assert clarity(HOSTILE[name](1_000_000)).score <= 1
