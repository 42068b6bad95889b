"""The templates of the six tasks: what they say with and without options, and that the query stays as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.decide.answers import extract
from workbench.decide.library import library, template_for
from workbench.errors import LLMValidationError
from workbench.facts import TASKS

QUERY = "What is 2 < 3 in {{ x }}?\n"
# Per task: options that turn everything on, and what must then stand there.
OPTIONS = {
    "summarization": {"max_words": 50, "audience": "nurses", "form": "bullet points"},
    "translation": {"target_language": "German", "register": "formal", "keep": ["Jupyter", "kernel"]},
    "question_answering": {"only_context": True, "max_words": 7, "answer": "a year"},
    "code_generation": {"language": "Python", "requirements": ["no recursion", "no imports"], "explain": True},
    "reasoning": {"style": "direct", "answer": "a letter"},
    "general": {"instructions": ["be brief", "be kind"]},
}
SAID = {
    "summarization": ["at most 50 words", "for nurses", "as bullet points"],
    "translation": ["into German", "a formal register", "Do not translate: Jupyter; kernel."],
    "question_answering": ["from the passages above alone", "at most 7 words", "RESULT is a year."],
    "code_generation": ["in Python", "\n- no recursion\n- no imports"],
    "reasoning": ["the result alone", "RESULT is a letter."],
    "general": ["\n- be brief\n- be kind"],
}


def test_there_is_a_template_for_each_task():
    """Named like it, of the role user, with a slot for the query."""
    assert list(library()) == list(TASKS)
    for task in TASKS:
        template = template_for(task)
        assert (template.name, template.role) == (task, "user")
        assert [slot.name for slot in template.slots if slot.required] == ["query"]


@pytest.mark.parametrize("task", ["poetry", "", None, "Translation", ["general"]])
def test_another_task_is_refused_with_the_choices(task):
    """And with the closest, where one is close."""
    with pytest.raises(LLMValidationError) as caught:
        template_for(task)
    assert caught.value.code == "validation.task"
    assert "code_generation" in caught.value.message
    assert ("'translation'" in caught.value.next_step) == (task == "Translation")


@pytest.mark.parametrize("task", TASKS)
def test_the_query_comes_first_and_as_it_is(task):
    """What follows stands in a paragraph of its own."""
    for options in ({}, OPTIONS[task]):
        text = template_for(task).render(query=QUERY, **options)
        assert text.startswith(QUERY)
        assert text == QUERY or text.startswith(QUERY + "\n\n")


@pytest.mark.parametrize("task", TASKS)
def test_options_are_said_where_they_are_given_and_only_there(task):
    """Each of them changes the prompt, and all of them together say what they are for."""
    template = template_for(task)
    plain, full = template.render(query="q"), template.render(query="q", **OPTIONS[task])
    assert {slot.name for slot in template.slots} == {"query", *OPTIONS[task]}
    for said in SAID[task]:
        assert said in full
        assert said not in plain
    for name, value in OPTIONS[task].items():
        assert template.render(query="q", **{name: value}) != plain


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("which", ["none", "all"])
def test_a_prompt_is_clean_text(task, which):
    """No holes, no doubled blanks, no blank at a line's end, no line at the end."""
    text = template_for(task).render(query="q", **(OPTIONS[task] if which == "all" else {}))
    assert "\n\n\n" not in text
    assert "  " not in text
    assert text == text.strip()
    assert all(line == line.rstrip() for line in text.splitlines())


def test_the_general_template_adds_nothing_by_itself():
    """So that a prompt of which nothing is known is sent as it is."""
    assert template_for("general").render(query=QUERY) == QUERY


@given(st.text(min_size=1, max_size=50))
def test_no_query_changes_what_is_said_about_it(query):
    """Whatever it holds, also signs of the template language."""
    for task in TASKS:
        rest = template_for(task).render(query="q").removeprefix("q")
        assert template_for(task).render(query=query) == query + rest


def test_the_whole_prompt_for_a_sum():
    """As a reader would want to see it once."""
    assert template_for("reasoning").render(query="What is 17 + 4?") == (
        "What is 17 + 4?\n\nWork it out step by step, and check the result against what is given. Put it in a last "
        'line of the form "Answer: RESULT".'
    )


@pytest.mark.parametrize(("kind", "result", "found"), [("number", "21", "21"), ("choice", "C", "C")])
def test_what_is_asked_for_can_be_read(kind, result, found):
    """A reply that keeps to the form is read as what it says."""
    for task, options in [("reasoning", {}), ("question_answering", {"answer": "the result"})]:
        asked = template_for(task).render(query="q", **options)
        form = asked.partition('"')[2].partition('"')[0]
        assert extract(f"17 is 10 and 7, so B is not it.\n{form.replace('RESULT', result)}", kind) == found
