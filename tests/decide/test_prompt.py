"""Prompt templates: typed slots, literal values, a version of the content, and differences."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.decide import prompt as module
from workbench.decide.prompt import MAX_ITEMS, MAX_VALUE, Change, PromptTemplate, Slot, diff_texts, placed
from workbench.errors import LLMValidationError

X = (Slot("x"),)
XS = (Slot("xs", "list"),)
TEXTS = st.text(st.sampled_from("ab \n.é"), max_size=14)


def rendered(text: str, slots: tuple[Slot, ...] = X, /, **values: object) -> str:
    return PromptTemplate("t", text, slots).render(**values)


def refusal(call: object, *given: object, **named: object) -> LLMValidationError:
    assert callable(call)
    with pytest.raises(LLMValidationError) as caught:
        call(*given, **named)
    assert 0 < len(caught.value.next_step) <= 160
    return caught.value


# -- what comes out


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("{{ x }}", {"x": "a"}, "a"),
        ("{{ x|upper }}{{ x|lower }}{{ x|trim }}{{ x|length }}", {"x": " aB "}, " AB  ab aB4"),
        ("{% if x %}yes{% else %}no{% endif %}", {"x": ""}, "no"),
        ("{% if x == 'a' %}1{% elif x in 'bc' %}2{% elif not x %}3{% endif %}", {"x": "b"}, "2"),
        ("{{ 'long' if x|length > 3 and x != 'none' or x == '-' else 'short' }}", {"x": "abcd"}, "long"),
        ("{{ (x) }}{# a remark #}", {"x": "a"}, "a"),
        ("{% raw %}{{ x }}{% endraw %}{{ x }}", {"x": "a"}, "{{ x }}a"),
        ("a\r\n{{ x }}\n", {"x": "b\r\n"}, "a\nb\r\n\n"),
        ("<b>{{ x }}</b>", {"x": "<i>&"}, "<b><i>&</b>"),
        ("\ufffd{{ x }}\x00", {"x": "\udfff"}, "\ufffd\udfff\x00"),
    ],
)
def test_a_template_says_what_its_parts_say(text, values, expected):
    """Printing, branching, comparing and filters; nothing is escaped, and line ends of values stay."""
    assert rendered(text, **values) == expected


def test_a_loop_goes_over_a_list_slot_and_knows_its_place():
    """Also over an empty one, where its else is written."""
    text = "{% for a in xs %}{{ loop.index }}/{{ loop.length }} {{ a }}{% if not loop.last %}, {% endif %}"
    text += "{% else %}none{% endfor %}"
    assert rendered(text, XS, xs=["p", "q"]) == "1/2 p, 2/2 q"
    assert rendered(text, XS, xs=()) == "none"
    assert rendered("{{ xs|join(' + ') }}{{ xs|join }}{{ xs|length }}", XS, xs=["p", "q"]) == "p + qpq2"
    nested = "{% for a in xs %}{% for b in xs %}{{ a }}{{ b }} {% endfor %}{% endfor %}"
    assert rendered(nested, XS, xs=["p", "q"]) == "pp pq qp qq "


def test_lines_with_nothing_but_a_tag_leave_no_line():
    """Templates can be laid out without holes in the prompt."""
    text = "head\n{% for a in xs %}\n  {% if a != 'q' %}\n- {{ a }}\n  {% endif %}\n{% endfor %}\ntail"
    assert rendered(text, XS, xs=["p", "q", "r"]) == "head\n- p\n- r\ntail"


@given(st.text(max_size=60))
def test_a_value_comes_out_as_it_is(value):
    """Whatever is in it: to a template it is data."""
    assert rendered("[{{ x }}]", x=value) == f"[{value}]"


def test_a_message_has_the_role_of_its_template():
    """What render gives is its content."""
    made = PromptTemplate("t", "Be {{ x }}.", X, role="system").message(x="brief")
    assert (made.role, made.content) == ("system", "Be brief.")


# -- slots


@pytest.mark.parametrize(
    ("slot", "value", "expected"),
    [
        (Slot("s"), "a", "a"),
        (Slot("s", "number"), 2, 2),
        (Slot("s", "number"), np.float64(0.5), 0.5),
        (Slot("s", "integer"), np.int64(3), 3),
        (Slot("s", "boolean"), True, True),
        (Slot("s", "list"), ["a", "b"], ("a", "b")),
        (Slot("s", "choice", choices=["a", "b"]), "b", "b"),
        (Slot("s", max_chars=2), "ab", "ab"),
        (Slot("s", "list", max_chars=3), ["ab", "c"], ("ab", "c")),
        (Slot("s", "list"), ["a"] * MAX_ITEMS, ("a",) * MAX_ITEMS),
    ],
)
def test_a_slot_takes_values_of_its_type(slot, value, expected):
    """As the plain Python values that a template can print."""
    got = slot.accept(value)
    assert (got, type(got)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("slot", "value"),
    [
        (Slot("s"), 1),
        (Slot("s"), None),
        (Slot("s"), b"a"),
        (Slot("s", "number"), "1"),
        (Slot("s", "number"), True),
        (Slot("s", "number"), float("nan")),
        (Slot("s", "number"), 10**400),
        (Slot("s", "integer"), 1.0),
        (Slot("s", "integer"), False),
        (Slot("s", "boolean"), 1),
        (Slot("s", "list"), "ab"),
        (Slot("s", "list"), ["a", 1]),
        (Slot("s", "list"), {"a"}),
        (Slot("s", "list"), ["a"] * (MAX_ITEMS + 1)),
        (Slot("s", "choice", choices=("a", "b")), "c"),
        (Slot("s", "choice", choices=("a", "b")), ["a"]),
        (Slot("s", max_chars=2), "abc"),
        (Slot("s", "list", max_chars=3), ["ab", "cd"]),
    ],
)
def test_a_slot_refuses_values_of_another_kind(slot, value):
    """With what it takes, and what it was given."""
    error = refusal(slot.accept, value)
    assert error.code == "validation.slot"
    assert "slot 's' takes" in error.message


class Shout(str):
    def __str__(self) -> str:
        return "{{ shouted }}"

    __html__ = __str__


def test_of_a_subclass_of_text_only_the_characters_count():
    """What it would say of itself is code, and is not asked."""
    assert rendered("{{ x }}", x=Shout("quiet")) == "quiet"
    assert rendered("{{ xs|join }}", XS, xs=[Shout("quiet")]) == "quiet"


class Liar(str):
    """A text that is equal to every other, and says that it is short."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __len__(self) -> int:
        return 1

    def __format__(self, spec: str) -> str:
        return "{{ formatted }}"


class Turning(list):
    """A list that holds texts when it is read first, and numbers later."""

    read = 0

    def __iter__(self):
        self.read += 1
        return iter(["a"] if self.read == 1 else [1])


class Endless(list):
    """A list that says that it has one text, and never ends."""

    def __len__(self) -> int:
        return 1

    def __iter__(self):
        return iter(lambda: "a", None)


def test_what_a_value_says_of_itself_is_not_believed():
    """Not that it is one of the choices, nor how long it is; and a list is read once, no further than allowed."""
    choice = Slot("s", "choice", choices=("a", "b"))
    for slot, value in ((choice, Liar("c")), (Slot("s", max_chars=2), Liar("abc")), (Slot("s", "list"), Endless("a"))):
        assert refusal(slot.accept, value).code == "validation.slot"
    assert choice.accept(Liar("b")) == "b"
    assert Slot("s", "list").accept(Turning("a")) == ("a",)


def test_of_a_template_only_the_characters_count():
    """Of a subclass of text: it is compiled, hashed and shown as what it holds, and nothing else is in its place."""
    PromptTemplate("t", "{{ x }}", X)
    made = PromptTemplate(Liar("t"), Liar("{{ x }}!"), (Slot(Liar("x"), choices=()),))
    plain = PromptTemplate("t", "{{ x }}!", X)
    assert (made.render(x="a"), made.version, made.source) == ("a!", plain.version, plain.source)
    assert type(made.text) is type(made.name) is type(made.slots[0].name) is str
    assert refusal(PromptTemplate, "t", "x", role=Liar("tool")).code == "validation.template"
    assert refusal(Slot, "s", Liar("json")).code == "validation.slot"


def test_half_a_character_in_a_template_is_what_replaces_it():
    """So that equal versions are equal texts: no hash can be made of one."""
    made, other = PromptTemplate("t", "\ud800{{ x }}", X), PromptTemplate("t", "\ufffd{{ x }}", X)
    assert made == other
    assert made.render(x="a") == "\ufffda"


class Unshown:
    """A value whose repr raises."""

    def __repr__(self) -> str:
        raise RuntimeError("not for you")


@pytest.mark.parametrize(
    "value", [10**5000, -(10**5000), Unshown(), [Unshown()], [10**5000]], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize("kind", ["text", "number", "integer", "boolean", "list"])
def test_what_cannot_be_shown_is_refused_like_anything_else(kind, value):
    """Python prints no whole number of 5,000 digits, and a repr may raise anything."""
    assert refusal(Slot("s", kind).accept, value).code == "validation.slot"
    assert refusal(Slot, "s", max_chars=value).code == "validation.slot"
    assert refusal(Slot, "s", choices=value).code == "validation.slot"
    assert refusal(Slot, value).code == "validation.slot"
    assert refusal(Slot, "s", value).code == "validation.slot"
    assert refusal(Slot, "s", default=value).code == "validation.slot"
    assert refusal(PromptTemplate, value, "x").code == "validation.template"
    assert refusal(PromptTemplate, "t", "x", value).code == "validation.slot"
    assert refusal(PromptTemplate, "t", "x", role=value).code == "validation.template"


def test_sec_secret_a_refusal_quotes_no_secret():
    """Where a value is shown, what looks like a key is not."""
    key = "sk-" + "a1B2c3D4" * 3
    for error in (
        refusal(Slot("s", "choice", choices=("a",)).accept, key),
        refusal(Slot("s", "number").accept, key),
        refusal(PromptTemplate("t", "{{ x }}", X).render, **{key: "a", "x": "b"}),
    ):
        assert "[redacted]" in error.message
        assert key[:10] not in error.message + error.next_step


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": "Topic"},
        {"name": "_meter"},
        {"name": "a" * 41},
        {"name": "loop"},
        {"name": 3},
        {"type": "json"},
        {"max_chars": 0},
        {"max_chars": MAX_VALUE + 1},
        {"max_chars": True},
        {"choices": ("a",)},
        {"type": "choice"},
        {"type": "choice", "choices": "ab"},
        {"type": "choice", "choices": ("a", "a")},
        {"type": "choice", "choices": ("a", 1)},
        {"required": False},
        {"default": "a"},
        {"required": 1},
        {"required": False, "default": 1},
        {"type": "choice", "choices": ("a",), "required": False, "default": "b"},
    ],
)
def test_a_slot_that_contradicts_itself_is_refused(options):
    """When it is declared, not when it is first used."""
    assert refusal(Slot, **{"name": "s", **options}).code == "validation.slot"


def test_a_default_stands_for_what_is_left_out():
    """And an optional slot may still be given."""
    slots = (Slot("n", "integer", required=False, default=3), Slot("k", "list", required=False, default=["a"]))
    template = PromptTemplate("t", "{{ n }}{{ k|join }}", slots)
    assert template.render() == "3a"
    assert template.render(n=4, k=()) == "4"


@pytest.mark.parametrize(
    ("values", "told", "step"),
    [
        ({}, "needs topic, and was given no value", "pass topic=..."),
        ({"topic": "a", "tpoic": "b"}, "has no slot 'tpoic'", "did you mean 'topic'?"),
        ({"topic": "a", "zzz": "b"}, "has no slot 'zzz'", "the slots are: topic"),
    ],
)
def test_values_must_be_those_of_the_slots(values, told, step):
    """Missing and unknown ones are named."""
    error = refusal(PromptTemplate("t", "{{ topic }}", (Slot("topic"),)).render, **values)
    assert (error.code, error.next_step) == ("validation.slot", step)
    assert told in error.message


# -- templates that cannot be


@pytest.mark.parametrize(
    ("text", "slots", "told"),
    [
        ("a\nb {{ x", X, "line 2"),
        ("a\n\n{% endif %}{{ x }}", X, "line 3"),
        ("{% if x %}", X, "line 1"),
        ("{% fi %}{{ x }}", X, "unknown tag 'fi'"),
        ("{{ 'a }}{{ x }}", X, "line 1"),
        ("{{ x }}{# never ended", X, "line 1"),
        ("{{ x }}\n{{ y }}", X, "line 2 of the template names 'y'"),
        ("{{ xx }}", (Slot("xs"),), "names 'xx'"),
        ("{{ x }}", (*X, Slot("y"), Slot("z")), "never names: y, z"),
        ("{% for x in xs %}{% endfor %}{{ x }}", (*X, *XS), "a loop named 'x'"),
        ("{% for a in xs %}{% for a in xs %}{% endfor %}{% endfor %}", XS, "a loop named 'a'"),
        ("{% for é in xs %}{% endfor %}", XS, "a loop named 'é'"),
        ("{% for a in xs %}{% endfor %}{{ a }}", XS, "names 'a'"),
        ("{{ loop }}{{ x }}", X, "names 'loop'"),
        ("{{ " + "9" * 5000 + " }}{{ x }}", X, "line 1"),
    ],
)
def test_a_template_that_cannot_be_read_says_where(text, slots, told):
    """Syntax, unknown names, slots without use, and names used twice; with the line."""
    error = refusal(PromptTemplate, "t", text, slots)
    assert error.code == "validation.template"
    assert told in error.message


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("{{ x < 3 }}", {"x": "a"}),
        ("{{ x|join }}", {"x": "a"}),
        ("{{ -x }}", {"x": "a"}),
        ("{{ 3|upper }}{{ x }}", {"x": ""}),
    ],
)
def test_what_cannot_be_carried_out_is_told_by_type(text, values):
    """Order between kinds, and filters of what they are not for."""
    assert refusal(rendered, text, **values).code == "validation.template"


def test_a_list_is_not_printed_as_python_shows_it():
    """A prompt with brackets and quotes of ours would be a mistake."""
    assert refusal(rendered, "{{ xs }}", XS, xs=["a"]).code == "validation.template"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"name": " "}, "validation.template"),
        ({"name": "n" * 81}, "validation.template"),
        ({"text": None}, "validation.template"),
        ({"text": "a" * 20_001, "slots": ()}, "validation.template"),
        ({"role": "tool"}, "validation.template"),
        ({"slots": "x"}, "validation.slot"),
        ({"slots": Slot("x")}, None),
        ({"slots": 3}, "validation.slot"),
        ({"slots": (*X, *X)}, "validation.slot"),
    ],
)
def test_the_parts_of_a_template_are_checked(given, code):
    """Name, text, slots and role; a single slot need not stand in a list."""
    options = {"name": "t", "text": "{{ x }}", "slots": X, **given}
    if code is None:
        assert PromptTemplate(**options).slots == X
    else:
        assert refusal(PromptTemplate, **options).code == code


# -- version


def test_the_version_is_that_of_the_content():
    """Equal content, equal version, however it was written down; any change is a new one."""
    base = PromptTemplate("t", "{{ x }}", X)
    assert base.version == PromptTemplate("t", "{{ x }}", [Slot("x", "text")]).version
    others = [
        PromptTemplate("u", "{{ x }}", X),
        PromptTemplate("t", "{{ x }} ", X),
        PromptTemplate("t", "{{ x }}", (Slot("x", max_chars=9),)),
        PromptTemplate("t", "{{ x }}", (Slot("x", required=False, default=""),)),
        PromptTemplate("t", "{{ x }}", (Slot("x", "integer"),)),
        PromptTemplate("t", "{{ x }}", X, role="system"),
        PromptTemplate("t", "{{ x }}", (Slot("x", "choice", choices=("a", "b")),)),
        PromptTemplate("t", "{{ x }}", (Slot("x", "choice", choices=("b", "a")),)),
    ]
    assert len({t.version for t in (base, *others)}) == 9
    assert all(base.diff(other).changed for other in others)
    assert not base.diff(base).changed


def test_the_version_is_the_same_in_every_process():
    """By hand: sha256 of canonical JSON, 32 digits; whatever the seed of Python's own hashes."""
    # printf '%s' '["t","{{ x }}",[{...}],"user"]' | sha256sum
    program = (
        "from workbench.decide.prompt import *; import hashlib, json; t = PromptTemplate('t', '{{ x }}', (Slot('x'),));"
        "slot = dict(choices=[], default=None, max_chars=10**6, name='x', required=True, type='text');"
        "text = json.dumps(['t', '{{ x }}', [slot], 'user'], sort_keys=True, separators=(',', ':'));"
        "print(t.version, hashlib.sha256(text.encode()).hexdigest()[:32])"
    )
    found = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
        )
        found.update(done.stdout.split())
    assert found == {PromptTemplate("t", "{{ x }}", X).version}


# -- the place in a conversation


def test_what_a_template_makes_takes_the_place_of_its_role():
    """The question, or the system message; the query goes into the slot of that name."""
    user = PromptTemplate("u", "{{ query }}{{ x }}", (Slot("query"), *X))
    system = PromptTemplate("s", "Be {{ x }}.", X, role="system")
    about = PromptTemplate("a", "About {{ query }}", (Slot("query"),), role="system")
    assert placed(user, "why?", "sys", {"x": "!"}) == ("why?!", "sys")
    assert placed(system, "why?", None, {"x": "brief"}) == ("why?", "Be brief.")
    assert placed(about, "why?", None, {}) == ("why?", "About why?")


def test_a_template_without_a_place_is_refused():
    """Two system messages, an answer before the question, a template that the query does not go into."""
    system = PromptTemplate("s", "a", role="system")
    for template, told in [
        (system, "role system"),
        (PromptTemplate("s", "{{ query }}", (Slot("query"),), role="assistant"), "role assistant"),
        (PromptTemplate("s", "a"), "no slot 'query'"),
    ]:
        error = refusal(placed, template, "why?", "be brief", {})
        assert error.code == "validation.template"
        assert told in error.message


# -- differences


def marked(before: str, after: str) -> str:
    return str(diff_texts(before, after))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", ""),
        ("a\nb\n", "a\nb\n", "a\nb\n"),
        ("", "new", "{+new+}"),
        ("old", "", "[-old-]"),
        ("Be brief.", "Be very brief.", "Be {+very +}brief."),
        ("one two", "one three", "one [-two-]{+three+}"),
        ("a\nb\nc\n", "a\nc\n", "a\n[-b\n-]c\n"),
        ("a\nx y\nc\nd", "a\nx z\nc\ne", "a\nx [-y-]{+z+}\nc\n[-d-]{+e+}"),
        ("a b", "b a", "[-a -]b{+ a+}"),
    ],
)
def test_a_difference_is_told_by_lines_then_by_words(before, after, expected):
    """Worked out by hand; deletions come before insertions."""
    assert marked(before, after) == expected


@given(TEXTS, TEXTS)
def test_both_texts_can_be_read_from_a_difference(before, after):
    """Without insertions it is the first, without deletions the second; neighbours differ in kind."""
    changes = diff_texts(before, after).changes
    assert "".join(c.text for c in changes if c.kind != "insert") == before
    assert "".join(c.text for c in changes if c.kind != "delete") == after
    assert all(c.text for c in changes)
    assert all(a.kind != b.kind for a, b in pairwise(changes))


@given(*[st.lists(st.sampled_from(["a\n", "bb\n", "ccc\n"]), max_size=7)] * 2)
def test_as_many_characters_stay_as_lines_allow(before, after):
    """The most of all ways to keep lines, each of them tried; words may keep a line end more."""

    @cache
    def most(i: int, j: int) -> int:
        if i == len(before) or j == len(after):
            return 0
        both = len(before[i]) + most(i + 1, j + 1) if before[i] == after[j] else 0
        return max(both, most(i + 1, j), most(i, j + 1))

    changes = diff_texts("".join(before), "".join(after)).changes
    assert sum(len(c.text) for c in changes if c.kind == "equal") >= most(0, 0)


def test_beyond_the_bound_texts_are_replaced_as_a_whole(monkeypatch):
    """What both begin and end with stays; nine pairs of lines and nine of words, then nothing is left."""
    monkeypatch.setattr(module, "MAX_CELLS", 18)
    assert marked("a b\nk\nc d\n", "b a\nk\nd c\n") == "[-a -]b{+ a+}\nk\n[-c d-]{+d c+}\n"
    monkeypatch.setattr(module, "MAX_CELLS", 3)
    assert diff_texts("k a b c e", "k c b a e").changes == (
        Change("equal", "k "), Change("delete", "a b c"), Change("insert", "c b a"), Change("equal", " e"),
    )  # fmt: skip


HOSTILE = {
    "one letter": ("a" * 10, "b" * 10),
    "brackets": ("([{" * 4, "}])" * 4),
    "newlines": ("\n" * 10, "\n\r" * 5),
    "lines": ("a\n" * 5, "b\n" * 5),
    "words": ("a b " * 3, "b a " * 3),
    "emoji": ("🙂" * 10, "🙃" * 10),
    "surrogates": ("\ud800" * 10, "\udfff" * 10),
    "a word against many": ("a", "b " * 5),
    "a line against many": ("a\n", "b\n" * 5),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_difference_of_huge_texts_takes_linear_time(kind):
    """Twice the text, less than four times the time, best of three; and both ends are read again."""
    before, after = HOSTILE[kind]

    def seconds(times: int) -> float:
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            found = diff_texts(before * times, after * times)
            best = min(best, time.process_time() - start)
            assert "".join(c.text for c in found.changes if c.kind != "insert") == before * times
        return best

    times = 8_000
    assert seconds(2 * times) < 4 * seconds(times) + 0.05
