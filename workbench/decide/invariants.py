"""What a rewriting must keep: numbers, names, negations, quotations, code and placeholders.

    original --> parts of each kind, in order --> compared with those of the rewritten text --> lost, added, moved

A rewriting that says something of its own (an instruction, examples) declares where. What is declared is taken out
before texts are compared, and only where it stands for itself: whole lines before the user's text, after it, or before
the cue that ends it. Anything else counts as a change of the user's own text, declared or not.

This is a net, not a proof. It holds words and not their relations: a text with the same numbers, names and negations in
the same order may still say something else. It errs towards finding too much: every German noun is a name, `sin` is a
negation in a text about trigonometry, and a list that gets numbers has new numbers.

Every pattern stops where the next part of its kind may begin, so time is linear in the length of any text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

from workbench.decide.marks import Part, code, matches, quotations
from workbench.decide.words import NEGATIONS, NUMBERS, ORDINARY, SHORT_FORMS, UNNAMED

Kind = Literal["number", "name", "negation", "quotation", "code", "placeholder"]
Problem = Literal["lost", "added", "moved"]
REMEMBERED = 20_000  # characters of a text whose parts are kept for the next question about it
SHOWN = 80  # characters of a part that a violation shows
# The last line of a prompt, behind which the answer is to be written.
CUE = re.compile(
    r"[ \t>*#]{0,6}[^\W\d_][^:：\n.!?。！？]{0,40}[:：][ \t*_]{0,4}"
    r"(?:(?:Let['’]s think|Denken wir|Réfléchissons|Pensemos|让我们)[^.\n。]{0,40}[.。]?)?\s*\Z"
)


class Protected(NamedTuple):  # a tuple, for a hostile text has half a million of them
    """A part of a text that a rewriting keeps: text[start:end]. value: what is compared.

    Parts of different kinds may overlap, as a number in a quotation does.
    """

    kind: Kind
    start: int
    end: int
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A part that a rewriting did not keep: it is gone, it is new, or its kind stands in another order.

    value: the part, at most SHOWN characters; of an order, its first part that comes too early.
    """

    kind: Kind
    problem: Problem
    value: str

    def __str__(self) -> str:
        return f"{self.kind} {self.value!r} {self.problem}"


def protected(text: str) -> tuple[Protected, ...]:
    """The parts of a text that a rewriting keeps, by their start.

    number: digits with sign, currency, separators and unit; number words. name: words with a capital other than at the
    beginning of a sentence, and what no prose has: identifiers, addresses, paths. negation: also what limits like one,
    such as `except` and `only`; by its sense, so that `don't` and `do not` are equal. quotation: what stands between
    quotation marks of any style. code: fenced, in backticks, indented. placeholder: {x}, {{ x }}, <x>, %s, %(x)s, $x,
    ${x}, [x].
    """
    read = _read(text)
    found = [Protected(kind, *part) for kind, parts in read.channels for part in parts]
    found += [Protected("name", *part) for part in read.names]
    return tuple(sorted(found, key=lambda part: part[1]))


def violations(original: str, text: str, *, added: Sequence[tuple[int, int]] = ()) -> tuple[Violation, ...]:
    """What a rewriting of `original` into `text` did not keep; empty for one that kept all.

    added: spans (start, end) of `text` that the rewriting declares as its own. Of each kind the number of every part
    and the order of all must be the same. A word with a capital at the beginning of a sentence may move and lose its
    capital; unless it is an ordinary word it may neither vanish nor appear.
    """
    body = _without(text, added)
    if body == original:
        return ()
    was, now = _read(original), _read(body)
    found: list[Violation] = []
    for (kind, before), (_, after) in zip(was.channels, now.channels, strict=True):
        a, b = _values(before), _values(after)
        found += _compared(kind, a, b, a, b)
    return (*found, *_compared_names(was, now))


def _values(parts: Sequence[Part]) -> list[str]:
    return [value for _, _, value in parts]


def _compared(
    kind: Kind, was: list[str], now: list[str], all_was: list[str], all_now: list[str]
) -> Iterator[Violation]:
    """Parts of `was` that are not in `all_now`, of `now` not in `all_was`, or else the first that is out of order."""
    if was == now:
        return
    lost, new = Counter(was) - Counter(all_now), Counter(now) - Counter(all_was)
    yield from (Violation(kind=kind, problem="lost", value=value[:SHOWN]) for value in lost.elements())
    yield from (Violation(kind=kind, problem="added", value=value[:SHOWN]) for value in new.elements())
    if not lost and not new:
        for parts, whole in ((was, iter(all_now)), (now, iter(all_was))):
            moved = next((value for value in parts if value not in whole), None)  # a search eats what it passes
            if moved is not None:
                yield Violation(kind=kind, problem="moved", value=moved[:SHOWN])
                return


def _compared_names(was: _Read, now: _Read) -> Iterator[Violation]:
    """Names as the other parts, though one text's may begin a sentence in the other."""
    names = _values(was.names), _values(now.names)
    found = list(_compared("name", *names, _values(was.capitals), _values(now.capitals)))
    sides: tuple[tuple[Problem, _Read, _Read], ...] = (("lost", was, now), ("added", now, was))
    for problem, one, other in sides:
        known = other.words() if one.openers else set()
        gone = {word for word in _values(one.openers) if word.lower() not in known}
        found += [Violation(kind="name", problem=problem, value=word[:SHOWN]) for word in sorted(gone)]
    if not found:
        everywhere = [_values(sorted(read.names + read.openers)) for read in (was, now)]
        if Counter(everywhere[0]) == Counter(everywhere[1]):
            found += _compared("name", *everywhere, *everywhere)
    yield from found


# -- declared additions


def _without(text: str, added: Sequence[tuple[int, int]]) -> str:
    """The text without those of its declared additions that stand for themselves."""
    spans = sorted(added)
    if any(not 0 <= start <= end <= len(text) for start, end in spans) or any(b[0] < a[1] for a, b in pairwise(spans)):
        return text
    first, at = 0, 0
    while first < len(spans) and not text[at : spans[first][0]].strip():
        at = spans[first][1]
        first += 1
    last, at = len(spans), len(text)
    while last > first:
        gap = text[spans[last - 1][1] : at]
        if gap.strip() and (last < len(spans) or not CUE.match(gap)):
            break
        last -= 1
        at = spans[last][0]
    kept, at = [], 0
    for start, end in [s for s in (*spans[:first], *spans[last:]) if _whole_lines(text, *s)]:
        kept.append(text[at:start])
        at = end
    return "".join((*kept, text[at:]))


def _whole_lines(text: str, start: int, end: int) -> bool:
    begins = start == 0 or "\n" in text[start - 1 : start + 1]
    return begins and ("\n" in text[max(start, end - 1) : end + 1] or not text[end:].strip())


# -- reading

_DIGITS = r"[\d½¼¾⅓⅔⅛]+"
_UNITS = (
    r"km|cm|mm|m|mi|ft|kg|g|mg|lbs?|oz|s|ms|h|min|kB|KB|MB|GB|TB|l|ml|mL|L|W|kW|kWh|V|Hz|kHz|MHz|GHz|USD|EUR|GBP"
    r"|percent|per cent|Prozent|pour cent|por ciento|dollars?|euros?|Euro|cents?|hours?|minutes?|seconds?|days?|weeks?"
    r"|months?|years?|Stunden?|Minuten?|Sekunden?|Tagen?|Wochen?|Monaten?|Jahren?|heures?|jours?|semaines?|mois|ans?"
    r"|horas?|minutos?|días?|semanas?|mes(?:es)?|años?|thousand|[mb]illions?|Millionen|Milliarden?|milliards?|millones"
)
_NUMBER = re.compile(
    rf"{_DIGITS}(?:[.,:/'’^_-]{_DIGITS})*"
    rf"(?: ?(?:%|‰|°(?: ?[CFK]\b)?|[$€£¥₹])|[^\W\d_]{{1,8}}(?![^\W\d_])| (?:{_UNITS})(?!\w))?"
)
_SIGN = re.compile(r"(?:[-+−±<>≤≥=≈≠×÷*/^~] ?)?(?:[$€£¥₹] ?)?\Z")
_UPPER = "".join(c for c in map(chr, (*range(0x41, 0x590), *range(0x1E00, 0x2000))) if c != c.lower())
_CAPITAL = re.compile(rf"(?<!\w)[^\W{_UPPER}]*+[{_UPPER}]\w*(?:['’]\w+){{0,3}}")
_WORD = re.compile(r"[wW]/[oO](?!\w)|[^\W\d_]\w*(?:['’]\w+){0,3}")
_BEGINS = re.compile(r"[.!?:;…\n\r。！？：；][\W\d_]*\Z")
_BEFORE = 40  # characters before a word in which the end of a sentence is looked for
_SPECIAL = re.compile(r"[_@/\\]|(?<=\w)\.(?=\w)")
_CHUNK = re.compile(r"[^\s\"'`“”„«»‹›()\[\]{}<>,;，。；！？：「」『』《》|]+")
_LETTER = re.compile(r"[^\W\d]")
_HAN = re.compile(r"[\u3400-\u9fff]")
_CHINESE_NOT = re.compile(r"(?:非(?!常)|[不没沒无無别別勿未莫只仅])+")
_CHINESE_NUMBER = re.compile(r"[〇零一二三四五六七八九十百千万萬亿億两兩半]+")
_PLACEHOLDER = re.compile(
    r"\{\{[^{}\n]{0,200}\}\}|\{%[^{}\n]{0,200}%\}|\$?\{[^{}\n]{0,200}\}|</?[^\W\d][^<>\n]{0,200}>"
    r"|%\(\w{1,60}\)[#0-9.]{0,8}[a-zA-Z]|%[-+#0-9.]{0,8}[sdifrxgeEc]\b|\$[^\W\d]\w{0,60}|\[[^\W\d][^\[\]\n]{0,200}\]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """The parts of a text, each list in the order of the text.

    capitals: all words with a capital. openers: those at the beginning of a sentence that are not ordinary words.
    """

    text: str
    names: list[Part]
    capitals: list[Part]
    openers: list[Part]
    channels: tuple[tuple[Kind, list[Part]], ...]  # what is compared with its own kind alone

    def words(self) -> set[str]:
        """All words, in lower case."""
        return set(_WORD.findall(self.text.lower()))


def _read(text: str) -> _Read:
    """The parts of a text; those of short ones are remembered, for a rewriting asks for them again and again."""
    return _remembered(text) if len(text) <= REMEMBERED else _freshly_read(text)


def _freshly_read(text: str) -> _Read:
    names, capitals, openers = _capitals(text)
    negations, number_words = _counting_words(text)
    return _Read(
        text=text,
        names=names,
        capitals=capitals,
        openers=openers,
        channels=(
            ("number", sorted([*_numbers(text), *number_words])),
            ("negation", sorted(negations)),
            ("name", list(_identifiers(text))),
            ("quotation", sorted(quotations(text))),
            ("code", code(text)),
            ("placeholder", matches(_PLACEHOLDER, text, "{<%$[")),
        ),
    )


_remembered = lru_cache(maxsize=32)(_freshly_read)


def _numbers(text: str) -> Iterator[Part]:
    for match in _NUMBER.finditer(text):
        start, end = match.span()
        if start and not (text[start - 1] == " " and start > 1 and text[start - 2].isalnum()):
            sign = _SIGN.search(text, max(0, start - 4), start)
            start = sign.start() if sign else start
        yield start, end, text[start:end].replace(" ", "")


def _capitals(text: str) -> tuple[list[Part], list[Part], list[Part]]:
    """Names; all words with a capital; of those at the beginning of a sentence the ones that are not ordinary."""
    names: list[Part] = []
    capitals: list[Part] = []
    openers: list[Part] = []
    for match in _CAPITAL.finditer(text):
        start, end = match.span()
        word = match[0]
        low = word.lower()
        if low in _COUNTING:
            continue
        part = (start, end, word)
        capitals.append(part)
        inside = word[0] == low[0] or (word[1:] != low[1:] and word != word.upper())
        if inside or not _begins(text, start):
            if low not in UNNAMED:
                names.append(part)
        elif low not in ORDINARY:
            openers.append(part)
    return names, capitals, openers


def _begins(text: str, at: int) -> bool:
    """Whether a word at `at` begins a sentence, a line, or what a colon opens."""
    if at > 1 and text[at - 1] == " " and (text[at - 2].isalnum() or text[at - 2] == ","):
        return False
    before = text[at - _BEFORE : at] if at > _BEFORE else "\n" + text[:at]
    return _BEGINS.search(before) is not None


def _counting_words(text: str) -> tuple[list[Part], list[Part]]:
    """Negations by their sense, and number words."""
    negations: list[Part] = []
    numbers: list[Part] = []
    low = text.lower()
    if len(low) != len(text):  # some letters become two
        low = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    for match in _WORD.finditer(low):
        word = match[0]
        if word in _COUNTING or "'" in word or "’" in word:
            if (sense := NEGATIONS.get(word) or _sense(word)) is not None:
                negations.append((match.start(), match.end(), sense))
            elif word in NUMBERS:
                numbers.append((match.start(), match.end(), word))
    if _HAN.search(text):
        negations += matches(_CHINESE_NOT, text, "非不没沒无無别別勿未莫只仅")
        numbers += [(m.start(), m.end(), m[0]) for m in _CHINESE_NUMBER.finditer(text)]
    return negations, numbers


_COUNTING = frozenset((*NEGATIONS, *NUMBERS))


def _sense(word: str) -> str | None:
    """The sense of a negation in a contraction, or None."""
    if "'" not in word and "’" not in word:
        return None
    word = word.replace("’", "'")
    if word.endswith("n't"):
        return "not"
    return "ne" if word.startswith("n'") else NEGATIONS.get(word.rpartition("'")[2])


def _identifiers(text: str) -> Iterator[Part]:
    """Addresses, paths, commands, and names with a stroke, a point or an underscore inside."""
    at = 0
    for sign in _SPECIAL.finditer(text):
        if sign.start() < at:
            continue
        start, end = max(at, text.rfind(" ", at, sign.start())), text.find(" ", sign.end())
        at = end if end >= 0 else len(text)
        for match in _CHUNK.finditer(text, start, at):
            chunk = match[0].rstrip(".:!?")
            if _SPECIAL.search(chunk) and chunk.lower() not in SHORT_FORMS and _LETTER.search(chunk):
                yield match.start(), match.start() + len(chunk), chunk
