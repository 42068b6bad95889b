"""Templates for the six tasks: what the user asks, as it stands, and below it what a good answer has to be.

They are a place to start from; whether they raise quality is for a run to find out. Without options the one for
`general` adds nothing. Results are asked for in a form that decide/answers.py reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from workbench.decide.prompt import PromptTemplate, Slot
from workbench.decide.template_language import shown
from workbench.decide.weights import closest
from workbench.errors import LLMValidationError
from workbench.facts import TASKS


def _text(name: str) -> Slot:
    return Slot(name, required=False, default="", max_chars=2_000)


def _texts(name: str) -> Slot:
    return Slot(name, "list", required=False, default=(), max_chars=20_000)


def _flag(name: str) -> Slot:
    return Slot(name, "boolean", required=False, default=False)


def _choice(name: str, *choices: str) -> Slot:
    return Slot(name, "choice", required=False, default=choices[0], choices=choices)


_QUERY = Slot("query")
_MAX_WORDS = Slot("max_words", "integer", required=False, default=0)  # 0: no limit

_SUMMARIZATION = """\
{{ query }}

Write a summary that stands on its own: the main point first, then what it rests on. Keep names, numbers and dates as \
they are, and add nothing.
{%- if max_words %} Use at most {{ max_words }} words.{% endif %}
{%- if audience %} Write for {{ audience }}.{% endif %}
{%- if form != "prose" %} Give it as {{ form }}.{% endif %}"""

_TRANSLATION = """\
{{ query }}

Give the translation{% if target_language %} into {{ target_language }}{% endif %}
 and nothing else. Keep meaning, tone and layout; names, numbers, code and placeholders stay as they are.
{%- if register != "of the text" %} Use a {{ register }} register.{% endif %}
{%- if keep %} Do not translate: {{ keep|join("; ") }}.{% endif %}"""

_QUESTION_ANSWERING = """\
{{ query }}

{% if only_context %}
Answer from the passages above alone; where they do not hold the answer, say so instead of guessing.
{%- else %}
Answer what is asked, and say so where you do not know.
{%- endif %}
{%- if max_words %} Use at most {{ max_words }} words.{% endif %}
{%- if answer %} End with a line of the form "Answer: RESULT", where RESULT is {{ answer }}.{% endif %}"""

_CODE_GENERATION = """\
{{ query }}

Give the whole code{% if language %} in {{ language }}{% endif %}
 in one fenced block, ready to run, with the names and signatures that are asked for. It must cope with empty input \
and with the limits of its input.
{%- if requirements %} It must also keep to this:
- {{ requirements|join("\\n- ") }}
{%- endif %}
{%- if not explain %}{{ "\\n" if requirements else " " }}Write nothing outside of the block.{% endif %}"""

_REASONING = """\
{{ query }}

{% if style == "step by step" %}
Work it out step by step, and check the result against what is given. Put it in a last line of the form \
"Answer: RESULT"
{%- else %}
Give the result alone, in one line of the form "Answer: RESULT"
{%- endif %}
{%- if answer %}, where RESULT is {{ answer }}{% endif %}."""

_GENERAL = """\
{{ query }}
{%- if instructions %}


Keep to this:
- {{ instructions|join("\\n- ") }}
{%- endif %}"""


@cache
def library() -> Mapping[str, PromptTemplate]:
    """Task -> its template, for all of facts.TASKS; made at the first call, which loads Jinja."""
    made = (
        PromptTemplate(
            "summarization",
            _SUMMARIZATION,
            (_QUERY, _MAX_WORDS, _text("audience"), _choice("form", "prose", "bullet points", "one sentence")),
        ),
        PromptTemplate(
            "translation",
            _TRANSLATION,
            (
                _QUERY,
                _text("target_language"),
                _choice("register", "of the text", "formal", "informal"),
                _texts("keep"),
            ),
        ),
        PromptTemplate(
            "question_answering", _QUESTION_ANSWERING, (_QUERY, _flag("only_context"), _MAX_WORDS, _text("answer"))
        ),
        PromptTemplate(
            "code_generation", _CODE_GENERATION, (_QUERY, _text("language"), _texts("requirements"), _flag("explain"))
        ),
        PromptTemplate("reasoning", _REASONING, (_QUERY, _choice("style", "step by step", "direct"), _text("answer"))),
        PromptTemplate("general", _GENERAL, (_QUERY, _texts("instructions"))),
    )
    return MappingProxyType({template.name: template for template in made})


def template_for(task: str) -> PromptTemplate:
    """The template of a task of facts.TASKS; LLMValidationError validation.task for any other."""
    if isinstance(task, str) and task in TASKS:
        return library()[task]
    hint = closest(task[:80], TASKS) if isinstance(task, str) else None
    raise LLMValidationError(
        f"task {shown(task, 60)} is not one of {', '.join(TASKS)}",
        code="validation.task",
        next_step=f"did you mean {hint!r}?" if hint else "name one of them",
    )
