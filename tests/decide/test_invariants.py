"""What a rewriting must keep: which parts are found, what counts as a loss, and time that grows like the text."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.decide.hostile import HOSTILE, grows_linearly
from workbench.decide.invariants import Violation, protected, violations


def parts(text: str, kind: str) -> list[str]:
    """The parts of a kind as they stand in the text."""
    return [text[p.start : p.end] for p in protected(text) if p.kind == kind]


def told(original: str, text: str, **options: object) -> list[str]:
    return [str(v) for v in violations(original, text, **options)]  # type: ignore[arg-type]


# -- what is found


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3 apples and 12 pears", ["3", "12"]),
        ("costs $1,234.50 or 99 €", ["$1,234.50", "99 €"]),
        ("5 km at 20 °C, up to 50%", ["5 km", "20 °C", "50%"]),
        ("on 2024-03-15 at 10:30", ["2024-03-15", "10:30"]),
        ("1/2 cup, ½ cup, 1.5e3", ["1/2", "½", "1.5e", "3"]),
        ("x = 5 - 3", ["= 5", "- 3"]),
        ("-4 and ≤ 7", ["-4", "≤ 7"]),
        ("the 1990s, the 2nd, 3kg", ["1990s", "2nd", "3kg"]),
        ("3,5 Prozent von 1'000", ["3,5 Prozent", "1'000"]),
        ("two dogs, zwei Hunde, deux, dos", ["two", "zwei", "deux", "dos"]),
        ("三个苹果和十二个梨", ["三", "十二"]),
        ("model x2 of GPT4", ["2", "4"]),
        ("one dog, un perro", []),
    ],
)
def test_numbers_are_found_with_sign_separators_and_unit(text: str, numbers: list[str]):
    """As digits in any writing and as words, but not the words that are articles too."""
    assert parts(text, "number") == numbers


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Ask Bob Smith in Paris.", ["Bob", "Smith", "Paris"]),
        ("What did Ada O'Neill's team do? Then what?", ["Ada", "O'Neill's"]),
        ("First. Second: Third\nFourth", []),
        ("call my_function and getValue on the iPhone", ["my_function", "getValue", "iPhone"]),
        ("mail a.b@c.org, see https://x.y/z?q=a", ["a.b@c.org", "https://x.y/z?q=a"]),
        ("open /etc/hosts and src\\main.py", ["/etc/hosts", "src\\main.py"]),
        ("I think I'd say OK", []),
        ("he and/or she, b/c of it, e.g. so", []),
        ("use \\frac here", ["\\frac"]),
        ("der Hund im Wald", ["Hund", "Wald"]),
        ("отправь Анне письмо", ["Анне"]),
    ],
)
def test_names_have_a_capital_inside_a_sentence_or_a_form_no_prose_has(text: str, names: list[str]):
    """A capital at the beginning of a sentence, of a line or behind a colon makes no name."""
    assert parts(text, "name") == names


@pytest.mark.parametrize(
    ("text", "senses"),
    [
        ("do not, don't, don’t, cannot", ["not", "not", "not", "not"]),
        ("no one, never, without, w/o, unless", ["no", "never", "without", "without", "unless"]),
        ("nicht ohne keine", ["nicht", "ohne", "kein"]),
        ("il n'est pas là sans aucun", ["ne", "pas", "sans", "aucun"]),
        ("nunca sin nada", ["nunca", "sin", "nada"]),
        ("不要，没有", ["不", "没"]),
        ("非常感谢", []),
        ("DO NOT", ["not"]),
        ("a note on knots", []),
    ],
)
def test_negations_are_found_by_their_sense(text: str, senses: list[str]):
    """Contractions and short forms mean what they are short for; words that only contain one do not."""
    assert [p.value for p in protected(text) if p.kind == "negation"] == senses


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ('say "please do" now', ['"please do"']),
        ("say “please do” now", ["“please do”"]),
        ("sag „bitte nicht“ jetzt", ["„bitte nicht“"]),
        ("dis «s'il te plaît» ou »bitte«", ["«s'il te plaît»", "»bitte«"]),
        ("说「请」和『你』", ["「请」", "『你』"]),
        ("say 'I don't know' but it's fine", ["'I don't know'"]),
        ("the boys' and girls' toys", []),
        ("say ‘I don’t know’ now", ["‘I don’t know’"]),
        ("say ‚bitte‘ und ‹oui›", ["‚bitte‘", "‹oui›"]),
        ('a 6" pipe, a "red one", a 7" long', ['"red one"', ', a 7"']),
        ('he said : " please do so . " and left', ['" please do so . "']),
        ('print("a", "b") ', ['"a"', '"b"']),
        ('"first line\nsecond line" end', ['"first line\nsecond line"']),
        ('an "open one\n\nnext paragraph', ['"open one']),
        ('x "one "two" y', ['"one ', '"two"']),
        ("as ``primarily a tool'' goes", ["``primarily a tool''"]),
    ],
)
def test_quotations_of_every_style_are_found(text: str, quoted: list[str]):
    """Apostrophes and inches are no marks; one that is not closed holds to the end of its paragraph."""
    assert parts(text, "quotation") == quoted


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("run\n```py\nx = 1\n```\nnow", ["```py\nx = 1\n```"]),
        ("run\n~~~\n```\n~~~\nnow", ["~~~\n```\n~~~"]),
        ("run\n```\nx = 1", ["```\nx = 1"]),
        ("run `x = 1` and ``a`b`` now", ["`x = 1`", "``a`b``"]),
        ("a single ` tick", []),
        ("run\n    x = 1\n\ty = 2\nnow", ["    x = 1", "\ty = 2"]),
        ("a ````` b", []),
    ],
)
def test_code_is_found_fenced_in_ticks_and_indented(text: str, code: list[str]):
    """A fence is closed by one of its own sign, at least as long; equally many ticks belong together."""
    assert parts(text, "code") == code


PLACEHOLDERS = [
    "{name}",
    "{}",
    "{{ x }}",
    "{% if x %}",
    "<x>",
    "</user>",
    "%s",
    "%(x)s",
    "$x",
    "${x}",
    "[topic]",
    "%5.2f",
]


@pytest.mark.parametrize("placeholder", PLACEHOLDERS)
def test_placeholders_of_every_style_are_found(placeholder: str):
    """And a text with one is another text without it."""
    assert parts(f"write {placeholder} now", "placeholder") == [placeholder]
    assert f"placeholder {placeholder!r} lost" in told(f"write {placeholder} now", "write now")


def test_a_percentage_is_no_placeholder():
    """Nor is a comparison, a price or a reference."""
    assert parts("50% of 3 < 5 > 2 for $5 [1]", "placeholder") == []


def test_parts_come_in_the_order_of_the_text():
    """Of all kinds together; a part of one may lie inside another."""
    found = protected('Tell Bob "it is not 5" and {x}.')
    assert [p.start for p in found] == sorted(p.start for p in found)
    assert {p.kind for p in found} == {"name", "quotation", "negation", "number", "placeholder"}


# -- what is a violation


@pytest.mark.parametrize(
    ("original", "text", "expected"),
    [
        ("add 3 and 4", "add 3 and 5", ["number '4' lost", "number '5' added"]),
        ("add 3 and 4", "add 4 and 3", ["number '4' moved"]),
        ("add 3 and 3", "add 3", ["number '3' lost"]),
        ("take 5 km", "take 5 m", ["number '5km' lost", "number '5m' added"]),
        ("from 5 - 3", "from 5 + 3", ["number '-3' lost", "number '+3' added"]),
        ("do not go", "go", ["negation 'not' lost"]),
        ("go now", "go never", ["negation 'never' added"]),
        ("tell Al and Bo", "tell Bo and Al", ["name 'Bo' moved"]),
        ("tell Al", "tell them", ["name 'Al' lost"]),
        ("tell them", "tell Al", ["name 'Al' added"]),
        ("call f_1", "call f_2", ["number '1' lost", "number '2' added", "name 'f_1' lost", "name 'f_2' added"]),
        ('say "a b"', 'say "a  b"', ["quotation '\"a b\"' lost", "quotation '\"a  b\"' added"]),
        ("run `a`", "run a", ["code '`a`' lost"]),
        ("two dogs", "three dogs", ["number 'two' lost", "number 'three' added"]),
    ],
)
def test_losses_additions_and_moves_are_named(original: str, text: str, expected: list[str]):
    """Each with its kind and the part."""
    assert told(original, text) == expected


@pytest.mark.parametrize(
    ("original", "text"),
    [
        ("Which city is Paris?", "Paris is which city?"),
        ("don't go w/o 5 km", "do not go without 5km"),
        ("Please explain this.", "Describe this."),
        ("electrons move. Electrons spin.", "Electrons move and electrons spin."),
        ("x = 5", "x=5"),
        ("tell   Bob", "tell Bob"),
    ],
)
def test_the_same_in_other_words_is_no_violation(original: str, text: str):
    """Contractions, spaces, ordinary words, and names that come to the beginning of a sentence."""
    assert told(original, text) == []


def test_a_name_that_begins_a_sentence_is_not_exchanged():
    """Though its capital there tells nothing: it is no ordinary word, and it is gone."""
    assert told("Einstein found what?", "Newton found what?") == ["name 'Einstein' lost", "name 'Newton' added"]
    assert told("Bob gave it to Al", "Al gave it to Bob") == ["name 'Al' moved"]


def test_a_violation_shows_the_beginning_of_a_long_part():
    """80 characters of it."""
    (lost,) = violations("say `" + "x" * 500 + "`", "say")
    assert (lost, len(lost.value)) == (Violation(kind="code", problem="lost", value="`" + "x" * 79), 80)


# -- what is declared

ADDED = "Do not add 7 to Bob."


@pytest.mark.parametrize(
    ("original", "text"),
    [
        ("Sum it.", f"{ADDED}\n\nSum it."),
        ("Sum it.", f"Sum it.\n\n{ADDED}"),
        ("Sum it.  \n", f"Sum it.\n\n{ADDED}  \n"),
        ("Sum it.\nAnswer:", f"Sum it.\n{ADDED}\nAnswer:"),
        ("Sum it.\nA: Let's think step by step.", f"Sum it.\n{ADDED}\nA: Let's think step by step."),
        ("答案是？\n答案：", f"答案是？\n{ADDED}\n答案："),
    ],
)
def test_declared_paragraphs_around_the_text_are_its_own(original: str, text: str):
    """At the beginning, at the end, and before the cue; undeclared they are violations."""
    at = text.index(ADDED)
    start, end = at, at + len(ADDED)
    if not text[:start].strip():
        end += 2
    elif original.startswith(("Sum it.\n", "答")):
        end += 1
    else:
        start -= 2
    assert told(original, text, added=[(start, end)]) == []
    assert "negation 'not' added" in told(original, text)


@pytest.mark.parametrize(
    ("original", "text", "word"),
    [
        ("Do delete it.", "Do not delete it.", "not "),  # inside of a line
        ("Do it.\nDelete it.", "Do it.\nnever\nDelete it.", "never\n"),  # a line in the middle
        ("Delete it.", "never Delete it.", "never "),  # at the beginning, but no line of its own
        ("Delete it", "Delete it never", " never"),
        ("Do it.\nDelete all of it, please: now", "Do it.\nnever\nDelete all of it, please: now", "never\n"),
    ],
)
def test_a_declaration_inside_of_the_users_text_is_not_believed(original: str, text: str, word: str):
    """What it brought counts as an addition."""
    at = text.index(word)
    found = told(original, text, added=[(at, at + len(word))])
    assert f"negation {word.strip()!r} added" in found


def test_declarations_that_overlap_or_lie_outside_are_not_believed():
    """The whole text is compared then."""
    text = f"{ADDED}\n\nSum it."
    for spans in ([(0, 22), (10, 22)], [(0, 22), (5, 999)], [(-3, 22)], [(22, 0)]):
        assert told("Sum it.", text, added=spans)


def test_several_declarations_are_taken_out_together():
    """Two at the beginning, one at the end."""
    text = f"{ADDED}\n\n{ADDED}\n\nSum it.\n\n{ADDED}"
    assert told("Sum it.", text, added=[(0, 22), (22, 44), (51, len(text))]) == []


# -- any text


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_time_is_linear_in_hostile_text(name: str):
    """Twice the text takes less than four times the time."""
    assert grows_linearly(lambda text: (protected(text), violations(text, f"{text} ")), HOSTILE[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_of_anything_is_read(name: str):
    """A quadratic pattern would take hours; a number behind it is seen, unless an open fence holds it."""
    text = HOSTILE[name](1_000_000)
    assert violations(text, text) == ()
    assert violations(text, f"{text}\n7")


@given(st.text(max_size=300))
@example("İİ don't")
@example("\ud800 not 5")
def test_a_text_is_never_in_violation_of_itself(text: str):
    """And its parts are where they say."""
    assert violations(text, text) == ()
    for part in protected(text):
        assert 0 <= part.start < part.end <= len(text)
