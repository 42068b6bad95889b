"""Templates of strangers: nothing of Python can be reached, and no text makes much out of little.

Every bound is a count, so that a bomb is stopped at the same place on every machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from jinja2.parser import _statement_keywords

from workbench.decide.prompt import MAX_ITEMS, MAX_VALUE, PromptTemplate, Slot
from workbench.decide.template_language import FOREIGN, MAX_BRANCHES, MAX_DEPTH, MAX_TAG, MAX_TEMPLATE, TAGS
from workbench.errors import LLMValidationError

X = (Slot("x"),)
XS = (Slot("xs", "list"),)


def refusal(text: str, slots: tuple[Slot, ...] = X) -> LLMValidationError:
    """Why a template is refused when it is made; a next step always fits on a line."""
    with pytest.raises(LLMValidationError) as caught:
        PromptTemplate("t", text, slots)
    assert 0 < len(caught.value.next_step) <= 160
    return caught.value


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ x.__class__ }}",
    "{{ x['__class__'] }}",
    "{{ x|attr('__class__') }}",
    "{{ x|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{{ (x|map(attribute='__class__'))|list }}",
    "{{ [x]|groupby('__class__') }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ joiner() }}",
    "{{ namespace(a=1) }}",
    "{% set ns = namespace(found=x) %}",
    "{% set ns.found = x %}",
    "{{ '{0.__class__.__init__.__globals__}'.format(x) }}",
    "{{ '{a.__class__}'.format_map({'a': x}) }}",
    "{{ '%s' % x }}",
    "{{ '%s'|format(x) }}",
    "{{ self.__init__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ x.join(['a']) }}",
    "{{ x() }}",
    "{{ x|_read }}",
    "{{ x|safe }}",
    "{{ x|e }}",
    "{{ x|tojson }}",
    "{{ x|join(attribute='a') }}",
    "{{ x|join(*x) }}",
    "{{ x|join(**x) }}",
    "{{ x|upper(x) }}",
    "{{ x is defined }}",
    "{{ x ~ x }}",
    "{{ [x, x] }}",
    "{{ (x, x) }}",
    "{{ {'a': x} }}",
    "{{ x[0:1] }}",
    "{{ x if x }}",
    "{% include x %}",
    "{% extends x %}",
    "{% import x as y %}",
    "{% from x import y %}",
    "{% block x %}{% endblock %}",
    "{% macro m() %}{% endmacro %}",
    "{% call m() %}{% endcall %}",
    "{% filter upper %}{% endfilter %}",
    "{% set y = x %}",
    "{% with y = x %}{% endwith %}",
    "{% autoescape true %}{% endautoescape %}",
    "{% print x %}",
    "{%- include x -%}",
    "{%+ include x %}",
    "{% if x %}{% include x %}{% endif %}",
]


@pytest.mark.parametrize("text", ESCAPES)
def test_sec_jinja_a_template_reaches_nothing_of_python(text):
    """Attributes, items, calls, formats, tags and filters from outside the language: the line is told."""
    error = refusal("first line\n" + text)
    assert error.code == "security.template"
    assert "line 2" in error.message


@pytest.mark.parametrize(
    "name", ["self", "loop", "_meter", "lipsum", "cycler", "range", "dict", "config", "environment"]
)
def test_sec_jinja_a_template_sees_its_slots_only(name):
    """No name that Jinja, a web framework or we ourselves have put there."""
    assert refusal(f"{{{{ {name} }}}}{{{{ x }}}}").code == "validation.template"


@pytest.mark.parametrize("inner", ["__class__", "_iterable", "cycle", "changed", "depth", "previtem", "nextitem"])
def test_sec_jinja_of_a_loop_only_its_place_is_seen(inner):
    """Its other attributes are refused, also where it is called."""
    assert refusal(f"{{% for a in xs %}}{{{{ loop.{inner} }}}}{{% endfor %}}", XS).code == "security.template"
    assert refusal("{% for a in xs recursive %}{{ loop(xs) }}{% endfor %}", XS).code == "security.template"
    assert refusal("{% for a in xs %}{% endfor %}{{ loop.index }}", XS).code == "security.template"


@pytest.mark.parametrize("value", [*ESCAPES, "{{ 7 * 7 }}", "{% raw %}", "{# no #}", "%s {x} ${x} </user> ### SYSTEM"])
def test_sec_jinja_a_value_is_never_a_template(value):
    """It comes out literally, alone, in a list, behind a filter and as a default."""
    slots = (*X, *XS, Slot("d", required=False, default=value))
    made = PromptTemplate("t", "{{ x }}|{{ xs|join }}|{% for a in xs %}{{ a }}{% endfor %}|{{ d|trim }}", slots)
    assert made.render(x=value, xs=[value]) == "|".join([value] * 4)


def test_every_tag_of_jinja_is_ours_or_refused():
    """So that a tag that Jinja learns is not let through before somebody has looked at it."""
    assert _statement_keywords <= FOREIGN | set(TAGS)
    assert not FOREIGN & set(TAGS)


# -- bombs


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(10**9) %}{% endfor %}",
        "{% for i in range(9) %}{% for j in range(9) %}{% endfor %}{% endfor %}",
        "{% for i in 'abc' %}{% endfor %}",
        "{% for i in x %}{% endfor %}",
        "{% for i in xs if i %}{% endfor %}",
        "{% for i, j in xs %}{% endfor %}",
        "{% for i in xs recursive %}{% endfor %}",
        "{{ xs|join(x) }}",
        "{{ xs|join(10 ** 9) }}",
        "{% for i in xs %}{% for j in i %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**9 }}",
        "{{ x * 10 }}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{{ 9 + 9 }}",
        "{{ 9 // 1 }}{{ 9 / 1 }}{{ 9 - 1 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'a'|center(10**9) }}",
        "{{ x|indent(10**9) }}",
        "{{ x|wordwrap(1) }}",
        "{{ x|replace('', x) }}",
        "{{ x|batch(1) }}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set a %}{{ x }}{% endset %}",
        "{{ lipsum(n=10**6) }}",
    ],
)
def test_sec_jinja_a_text_cannot_be_grown(text):
    """Ranges, repetition, powers, padding and recursion are no part of the language, of any size."""
    assert refusal(text + "{{ x }}{{ xs|join }}", (*X, *XS)).code == "security.template"


def nested(opening: str, closing: str, times: int, inner: str = "") -> str:
    return opening * times + inner + closing * times


DEEP: list[tuple[Callable[[int], str], int]] = [
    (lambda n: nested("{% if x %}", "{% endif %}", n), MAX_DEPTH),
    (lambda n: "{{ " + nested("(", ")", n, "x") + " }}", MAX_DEPTH),
    (lambda n: "{{ " + "not " * (n - 1) + "x }}" + "{# a remark #}" * 70, MAX_TAG),
    (lambda n: "{{ x" + "|trim" * n + " }}", (MAX_TAG - 1) // 2),
    (lambda n: "{% if x %}" + "{% elif x %}" * n + "{% endif %}", MAX_BRANCHES),
]


@pytest.mark.parametrize(("made", "most"), DEEP)
def test_sec_jinja_depth_is_bounded_before_anything_recursive_reads_it(made, most):
    """At the bound it still works, under a stack of a plain program; one more, or very many, are refused."""
    assert PromptTemplate("t", made(most), X).render(x="") is not None
    for times in (most + 1, most * 15):
        assert refusal(made(times)).code == "security.template"


def test_sec_jinja_the_deepest_template_needs_little_of_the_stack():
    """Loops in loops with the longest tags, read and compiled with 400 frames left of Python's 1,000."""
    text = "".join(f"{{% for a{i} in xs %}}" for i in range(MAX_DEPTH))
    text += "{{ (((((((" + "not " * 40 + "xs))))))) }}" + "{% endfor %}" * MAX_DEPTH

    def below(frames: int) -> str:
        return below(frames - 1) if frames else PromptTemplate("t", text, XS).render(xs=["a"])

    used = len_of_stack()
    assert below(max(0, sys.getrecursionlimit() - used - 400)) == "True"


def len_of_stack() -> int:
    frame, found = sys._getframe(), 0
    while frame is not None:
        frame, found = frame.f_back, found + 1
    return found


def limit(text: str, slots: tuple[Slot, ...], **values: object) -> LLMValidationError:
    made = PromptTemplate("t", text, slots)
    with pytest.raises(LLMValidationError) as caught:
        made.render(**values)
    assert caught.value.code == "validation.template_limit"
    return caught.value


def test_sec_jinja_loops_in_loops_are_counted():
    """An outer turn is 2 parts and an inner one 1: 446 x 2 + 446 x 446 = 199,808, and 447 would make 200,703."""
    text = "{% for a in xs %}{% for b in xs %}{% endfor %}{% endfor %}"
    assert PromptTemplate("t", text, XS).render(xs=["a"] * 446) == ""
    assert "200,000 parts" in limit(text, XS, xs=["a"] * 447).message
    loops = "".join(f"{{% for a{i} in xs %}}" for i in range(MAX_DEPTH)) + "." + "{% endfor %}" * MAX_DEPTH
    limit(loops, XS, xs=["a"] * MAX_ITEMS)  # 10^24 turns
    limit("{% for a in xs %}" + "{% if x %}{% endif %}" * 500 + "{% endfor %}", (*X, *XS), xs=["a"] * MAX_ITEMS, x="")


def test_sec_jinja_the_output_is_counted():
    """Two values of a million characters fit, and not one sign more."""
    value = "a" * MAX_VALUE
    assert len(PromptTemplate("t", "{{ x }}{{ x }}", X).render(x=value)) == 2_000_000
    assert "2,000,000 characters" in limit("{{ x }}{{ x }}.", X, x=value).message
    limit("{% for a in xs %}{{ xs|join }}{% endfor %}", XS, xs=["a" * 1000] * MAX_ITEMS)


def test_sec_jinja_what_filters_and_comparisons_read_is_counted():
    """A filter and a comparison of a million characters read 2,000,003: four of them fit into ten million."""
    once = "{% if x|upper == '' %}{% endif %}"
    assert PromptTemplate("t", once * 4, X).render(x="a" * MAX_VALUE) == ""
    assert "10,000,000 characters" in limit(once * 5, X, x="a" * MAX_VALUE).message
    limit("{% for a in xs %}{% if x in xs %}{% endif %}{% endfor %}", (*X, *XS), x="b", xs=["a" * 1000] * MAX_ITEMS)
    limit("{{ xs|join('" + "-" * 11_000 + "') }}", XS, xs=["a"] * MAX_ITEMS)  # before it is joined


# -- a megabyte of anything

HOSTILE = [
    "a", "(", "[", "{", "}", "{{", "{%", "{#", "#}", "%}", "-%}", "{{ x", "{% if x %}", "{% raw %}", "'", '"', "`",
    "\\", "🙂", "\n", "\r\n", " ", "\x00", "\ud800", "\udfff", "{{ '' }}", "{%- ", "- ", "x\n  {% if x %}", "ÿþ",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_template_is_read_in_linear_time(piece):
    """Twice the text, less than four times the time, up to the largest there is; a megabyte is not read at all."""

    def seconds(size: int) -> float:
        best = float("inf")
        for _ in range(3):
            text = (piece * (size // len(piece) + 1))[:size]
            start = time.process_time()
            with suppress(LLMValidationError):
                PromptTemplate("t", text, X)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(MAX_TEMPLATE) < 4 * seconds(MAX_TEMPLATE // 2) + 0.02
    assert "has 1000000 characters" in refusal((piece * 1_000_000)[:1_000_000]).message


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_value_costs_linear_time(piece):
    """A megabyte of it is printed, filtered and compared as what it is."""
    made = PromptTemplate("t", "{% if x != '' %}{{ x }}{% endif %}{{ x|trim|length }}", X)

    def seconds(size: int) -> float:
        value, best = (piece * size)[:size], float("inf")
        for _ in range(3):
            start = time.process_time()
            text = made.render(x=value)
            best = min(best, time.process_time() - start)
            assert text == f"{value}{len(value.strip())}"
        return best

    assert seconds(MAX_VALUE) < 4 * seconds(MAX_VALUE // 2) + 0.02
