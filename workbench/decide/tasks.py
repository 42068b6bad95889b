r"""The task type of a prompt, told from its words by rules that show what they found.

A cue is a place in the text that speaks for a task, with a weight in log-odds. The score of a task is the softmax of
the sum of its cues: one strong cue (3) leaves its task at 0.78, and cues that contradict each other divide the score
between their tasks. A rule counts once, by its best place: repeating a word adds nothing.

Where something stands matters more than how often. An instruction stands at the beginning or at the end; what it is
applied to is material and counts MATERIAL of its weight: quotations, fenced code, the options of a choice, the examples
of a few-shot prompt, the middle of a long text, and what follows a first line, or a colon in it, that already says what
to do. A prompt that is nothing but its material (a sentence to translate, an article to summarise) does not say what
it is for, and is `general`.

The rules know English, German, French, Spanish and Chinese (decide/tasks_cues.py); in other languages only the form is
seen: options, questions, code. Accuracy is measured in docs/reference/tasks.md.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from workbench.decide.answers import options_in
from workbench.decide.tasks_cues import RULES, Rule
from workbench.errors import LLMValidationError
from workbench.facts import TASKS

READ = 4_000  # characters read at the beginning, and as many at the end
FOUND = 80  # characters of a cue that are shown
EDGE = 400  # characters at the beginning, and as many at the end, in which an instruction is expected
MATERIAL = 0.25
GOVERNS = 2.0  # weight of a command from which on what follows its line is material
NOTHING = 0.5  # log-odds of `general` before anything is found
PROBLEM = 1_500  # characters of a word problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """A place in a query that speaks for a task.

    found: the text, at most FOUND characters. start: its position in the query. weight: log-odds, > 0, as they were
    counted there.
    """

    task: str
    name: str
    found: str
    start: int
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected:
    """The task type of a query.

    confidence: the score of `task`, in [0, 1]; a share of the evidence, not a frequency. scores: of each of
    facts.TASKS; they sum to 1. cues: in the order of the text; where there are none, the task is `general` with a
    confidence of 0.25.
    """

    task: str
    confidence: float
    scores: Mapping[str, float]
    cues: tuple[Cue, ...]


def detect(query: str) -> Detected:
    """The task type of a query, with the cues that decided.

    Only the first and the last READ characters are read: what lies between says nothing. Equal scores: the first task
    in the order of facts.TASKS. Time is linear in what is read.
    Raises LLMValidationError validation.query for a query that is blank or no text.
    >>> found = detect("Translate into German: Write a poem.")
    >>> found.task, [(cue.name, cue.weight) for cue in found.cues]
    ('translation', [('translate', 3.0), ('into a language', 1.5), ('write a text', 0.625)])
    """
    if not isinstance(query, str) or not query.strip():
        told = "blank" if isinstance(query, str) else f"a {type(query).__name__}"
        raise LLMValidationError(
            f"the query is {told}: there is nothing to tell its task from",
            code="validation.query",
            next_step="pass the text of a prompt",
        )
    text = f"{query[:READ]}\n{query[-READ:]}" if len(query) > 2 * READ else query
    shift = len(query) - len(text)
    best: dict[tuple[str, str], _Hit] = {}
    for hit in _hits(text, _fences(query, text)):
        known = best.get((hit.task, hit.name))
        if known is None or hit.weight > known.weight:
            best[hit.task, hit.name] = hit
    cues = tuple(
        Cue(
            task=hit.task,
            name=hit.name,
            found=text[hit.start : min(hit.end, hit.start + FOUND)],
            start=hit.start + (shift if hit.start > READ else 0),
            weight=hit.weight,
        )
        for hit in sorted(best.values(), key=lambda hit: (hit.start, hit.task, hit.name))
    )
    return _decided(cues)


def _decided(cues: tuple[Cue, ...]) -> Detected:
    odds = dict.fromkeys(TASKS, 0.0) | {"general": NOTHING}
    for cue in cues:
        odds[cue.task] += cue.weight
    most = max(odds.values())
    parts = {task: math.exp(value - most) for task, value in odds.items()}
    total = sum(parts.values())
    scores = MappingProxyType({task: part / total for task, part in parts.items()})
    task = max(TASKS, key=odds.__getitem__)  # of equal ones the first
    return Detected(task=task, confidence=scores[task], scores=scores, cues=cues)


# -- what is an instruction, and what is its material


class _Hit(NamedTuple):
    """A cue as it is found. commands: whether it begins a command."""

    task: str
    name: str
    weight: float
    start: int
    end: int
    commands: bool = False


_Span = tuple[int, int]
_QUOTED = re.compile(
    r"\"[^\"\n]{1,1000}\"|“[^“”]{1,1000}”|„[^„“”]{1,1000}[“”]|«[^«»]{1,1000}»|「[^「」]{1,1000}」|《[^《》]{1,1000}》"
    r"|`[^`\n]{1,1000}`"
)
_ASKED = re.compile(
    r"^[ \t]{0,4}(?:Q|Question|Input|Problem|Frage|Pregunta|问|問)[ \t]?\d{0,3}[ \t]?[:：]", re.M | re.I
)
_REPLIED = re.compile(
    r"^[ \t]{0,4}(?:A|Answer|Output|Solution|Antwort|Réponse|Respuesta|答)[ \t]?\d{0,3}[ \t]?[:：]", re.M | re.I
)
_OPTION_LINE = re.compile(r"^[ \t*>]{0,8}(?:[Oo]ptions? {0,2}: {0,2})?\(?([A-Z])[.):][ \t][^\n]{0,2000}", re.M)
_LABEL_LINES = re.compile(r"[:：][ \t]{0,8}\n(?:[ \t]{0,4}[-•][ \t][^\n]{1,40}(?:\n|\Z)){2,12}")


def _fences(query: str, text: str) -> list[_Span]:
    """Where fenced code stands in the text that is read of a query; what is not closed goes to the end."""
    marks = [m.start() for m in re.finditer("```", text)]
    if text is not query and (query.count("```", 0, -READ) - sum(m < READ for m in marks)) % 2:
        marks = sorted([*marks, READ])  # one that opens or closes in what is not read
    return list(zip(marks[::2], [*marks[1::2], len(text)], strict=False))


def _hits(text: str, fences: list[_Span]) -> Iterator[_Hit]:
    """Every cue of a text; a rule may come more than once."""
    turns = [m.start() for m in _ASKED.finditer(text)]
    shots = (turns[0], turns[-1]) if len(turns) > 1 and _REPLIED.search(text, turns[0], turns[-1]) else None
    choice = _choice(text, shots)
    words = list(_words(text))
    spans = [*fences, *(m.span() for m in _QUOTED.finditer(text))]
    lettered = choice is not None and choice.task == "question_answering"
    if choice and lettered:
        spans.append((choice.start, choice.end))
    if shots:
        spans.append(shots)
    else:
        spans += [(EDGE, len(text) - EDGE)] if len(text) > 2 * EDGE else []
        spans += _governed(text, words)
    starts, ends = _union(spans)
    form = _form(text, shots, lettered=lettered)
    for hit in (*words, *form):
        k = bisect_right(starts, hit.start) - 1
        yield hit._replace(weight=hit.weight * MATERIAL) if k >= 0 and hit.start < ends[k] else hit
    if fences:
        yield _Hit("code_generation", "fenced code", 1.0, *fences[0])
    worked = _WORKED.search(text, *shots) if shots else None
    if worked:
        yield _Hit("reasoning", "worked examples", 4.0, *worked.span())
    if choice:  # where examples are worked through, options are only the form of the answer
        yield choice._replace(weight=choice.weight * MATERIAL) if worked else choice


# A question is no material of the command to answer it: it is what tells a question from a problem.
_GOVERNING = ("summarization", "translation", "code_generation", "general")


def _governed(text: str, words: Sequence[_Hit]) -> list[_Span]:
    """What follows the first line, or the first colon in it, where a command stands before."""
    commands = (hit.start for hit in words if hit.commands and hit.weight >= GOVERNS and hit.task in _GOVERNING)
    command = min(commands, default=len(text))
    for mark in re.finditer(r"[:：][ \t\n]|\S[ \t]{0,8}\n", text):
        if mark.start() > command:
            return [(mark.end(), len(text))]
        if "\n" in mark[0]:
            break
    return []


def _union(spans: Sequence[_Span]) -> tuple[list[int], list[int]]:
    """Starts and ends of what spans cover, in order and disjoint."""
    starts: list[int] = []
    ends: list[int] = []
    for start, end in sorted(spans):
        if ends and start <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            starts.append(start)
            ends.append(end)
    return starts, ends


# -- words

_WORD = re.compile(r"[^\W\d_][\w\u0300-\u036f]{0,39}")
_HAN = re.compile(r"[\u3400-\u9fff]")
_BEFORE = 40  # characters before a word that tell whether a command begins with it
_LEAD = re.compile(
    r"(?:\A\s*|[.!?:;\n(*>#•。！？：；，]\s{0,4}|\b(?:please|pls|kindly|you|and|then|also|now|just|first|bitte|mir|du|sie"
    r"|tu|vous|moi|puis|et|y|puedes|puede|podrías|favor|plaît|(?:you|is|need|want|like|me|us|asked) to),? {1,3}"
    r"|(?:^|[.!?] )[^\s,.!?]{1,14}(?: [^\s,.!?]{1,8})?, )\Z",
    re.I | re.M,
)


def _index() -> dict[str, tuple[Rule, ...]]:
    found: dict[str, list[Rule]] = {}
    for rule in RULES:
        for word in rule.triggers:
            found.setdefault(word, []).append(rule)
    return {word: tuple(rules) for word, rules in found.items()}


_BY_WORD = _index()
_PHRASES = tuple(rule for rule in RULES if not rule.triggers)


def _words(text: str) -> Iterator[_Hit]:
    """What the rules find, without regard to material."""
    for word in _WORD.finditer(text):
        form = word[0].lower()
        rules = _BY_WORD.get(form if form.isascii() else unicodedata.normalize("NFC", form))
        if rules is None:
            continue
        start, led = word.start(), None
        for rule in rules:
            match = rule.rest.match(text, word.end())
            if match is None:
                continue
            if led is None:
                led = _LEAD.search(text[max(0, start - _BEFORE) : start]) is not None
            weight = rule.weight * (1.0 if led else rule.beside)
            if weight:
                yield _Hit(rule.task, rule.name, weight, start, match.end(), led and rule.beside < 1)
    if _HAN.search(text):
        for rule in _PHRASES:
            for match in rule.rest.finditer(text):
                yield _Hit(rule.task, rule.name, rule.weight, *match.span(), True)


# -- the form of a prompt

_CODE = (
    r"[ \t]{0,12}(?:(?:async )?def \w{1,60}\(|class \w{1,60} ?[(:{]|from [\w.]{1,60} import |#include\b|#!/"
    r"|import [\w.]{1,60}(?:[ \t]{0,4}$| as |,)|public (?:static|class) |(?:export )?function \w{0,60} ?\("
    r"|(?:const|var) \w{1,60} ?=|CREATE TABLE |SELECT [^\n]{1,200} FROM )"
)
_BEGINS_WITH_CODE = re.compile(r"\s{0,200}" + _CODE, re.M)
_CODE_LINE = re.compile("^" + _CODE, re.M)
_JUDGED = re.compile(r"^[ \t]{0,4}(?:sample )?(input|output|constraints|example)[ \t]?\d?[ \t]?:", re.M | re.I)
_GIVEN = re.compile(
    r"^[ \t]{0,4}(?:question|context|passage|frage|kontext|contexte|pregunta|contexto|问题)[ \t]?[:：]", re.M | re.I
)
_WORKED = re.compile(r"\b(?:so|thus|therefore|hence),? the (?:final )?answer is\b|\bstep by step\b", re.I)
_AMOUNT = re.compile(
    r"\d[\d.,]{0,20}|\b(?:half|twice|double|one|two|three|four|five|six|seven|eight|nine|ten|twelve|dozen|third|quarter"
    r"|halb|doppelt|zwei|drei|vier|fünf|deux|trois|quatre|cinq|moitié|dos|tres|cuatro|cinco|mitad)\b|[两兩二三四五六七八九十]",
    re.I,
)
_QUANTITY = re.compile(
    r"\bhow (?:many|much|long|far|old|fast|tall|big|high|heavy|wide|deep)\b|\bwie ?(?:viele?|lange|weit|alt)\b"
    r"|\bcombien\b|\bcu[aá]nt[oa]s?\b|多少|几|\b(?:total|altogether|average|percent(?:age)?|remaining|left over|profit"
    r"|speed|distance|price|cost|ratio|rate|difference|sum|times|perimeter|area|volume|more than|less than"
    r"|per (?:hour|day|week|month|year)|insgesamt|prozent|preis|prix|vitesse|precio|velocidad)\b",
    re.I,
)
_WANTED = re.compile(r"[?？]|\b(?:find|calculate|compute|determine|berechne|calculez?|calcula)\b", re.I)


def _choice(text: str, shots: _Span | None) -> _Hit | None:
    """The options of the last question: lines with the letters from A on, or a list of labels."""
    options = options_in(text)
    if not options:
        return None
    run: list[re.Match[str]] = []
    last = run
    for line in _OPTION_LINE.finditer(text, shots[1] if shots else 0):
        if line[1] == "A":
            run = [line]
        elif run and ord(line[1]) == ord(run[-1][1]) + 1:
            run.append(line)
            last = run
    if last:
        return _Hit("question_answering", "lettered options", 3.5, last[0].start(), last[-1].end())
    inline = text.rfind("(A)")
    if options[0] == "A" and inline >= 0:
        return _Hit("question_answering", "lettered options", 3.5, inline, len(text))
    labels = [m.span() for m in _LABEL_LINES.finditer(text)]
    return _Hit("general", "listed labels", 2.5, *labels[-1]) if labels else None


def _form(text: str, shots: _Span | None, *, lettered: bool) -> Iterator[_Hit]:
    """Cues that are no words of the instruction."""
    if found := _BEGINS_WITH_CODE.match(text):
        yield _Hit("code_generation", "begins with code", 3.5, *found.span())
    elif found := _CODE_LINE.search(text):
        yield _Hit("code_generation", "code", 0.7, *found.span())
    judged = {m[1].lower(): m.span() for m in _JUDGED.finditer(text)}
    if len(judged) > 1:
        yield _Hit("code_generation", "input and output", 1.5, *min(judged.values()))
    bare = text.rstrip()
    if bare.endswith(("?", "？")):
        yield _Hit("question_answering", "ends in a question", 0.7, len(bare) - 1, len(bare))
    if not shots and (found := _GIVEN.search(text)):
        yield _Hit("question_answering", "marked question", 1.0, *found.span())
    if not lettered and len(text) <= PROBLEM and _WANTED.search(text) and len(_AMOUNT.findall(text)) > 1:
        quantities = [m.span() for m in _QUANTITY.finditer(text)]
        if quantities:
            yield _Hit("reasoning", "word problem", 3.0, *quantities[-1])
