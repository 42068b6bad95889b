"""How a prompt is built: what rewritings added, the user's text, its instruction, and the cue that ends it.

    additions | the user's text: an instruction, its material | additions | cue

Everything is told from the user's text alone, so it stays the same when more is added: that is what makes a rewriting
find nothing left to do in what it has made. Only a few thousand characters are looked at, whatever the length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from workbench.decide.answers import options_in
from workbench.decide.invariants import CUE
from workbench.decide.wordings import EVERY, LONGEST
from workbench.decide.words import Language, language, word_set
from workbench.errors import LLMValidationError
from workbench.facts import TASKS

EDGE = 1_500  # characters at the beginning and at the end in which demands on the answer are looked for
INSTRUCTION = 4_000  # characters; what is longer before any material is material itself
_BLOCK = re.compile(r"\[example 1 ([0-9a-f]{8})\]\n")

_TURN = re.compile(
    r"^[ \t]{0,4}(?:A|Answer|Output|Solution|Antwort|Réponse|Respuesta|答案?)[ \t]?\d{0,3}[ \t]?[:：]", re.M
)
_MATERIAL_MARK = re.compile(r"[:：](?=\s)|：|\n[ \t]*(?:[-*•|>#]|```|\(?\w{1,3}[.)][ \t])|\n\n|\Z")
# Such a prompt is about words themselves, and a phrase in it may be what is asked about.
_ABOUT_WORDING = word_set(
    "word words wording phrase phrases sentence sentences expression expressions idiom idioms spell spelled spelling "
    "grammar grammatical grammatically typo typos proofread proofreading paraphrase paraphrasing rephrase rephrasing "
    "reword polite politely politeness synonym synonyms antonym antonyms letter letters character characters "
    "verbatim abbreviation abbreviations acronym acronyms slang punctuation pronounce pronunciation "
    "satz sätze wort wörter wörtlich grammatik rechtschreibung höflich höflicher abkürzung abkürzungen "
    "mot mots orthographe grammaire poli polie politesse abréviation abréviations "
    "palabra palabras frase frases oración oraciones ortografía gramática cortés abreviatura abreviaturas"
)
_ABOUT_CHINESE = ("单词", "句子", "词语", "语法", "拼写", "礼貌", "缩写", "标点")
_MATERIAL_TASKS = ("summarization", "translation")
_NAMES_TASK = re.compile(
    r"summ?ar|translat|tl;dr|condens|shorten|headline|übersetz|zusammenfass|fasse|résum|tradu|resum|摘要|总结|概括|翻译",
    re.I,
)
_LETTERS = re.compile(r"[^\W\d_]+")
_ABOVE = re.compile(
    r"\b(?:above|preceding|previous|obige\w?|vorstehende\w?|ci-dessus|précédente?s?|anterior)\b|上述|上面|以上", re.I
)
# What follows is looked for in lower case.
_ASKS = (
    r"\b(?:answers?|respond|reply|replies|outputs?|returns?|print|provide|give|format|write|state|present|express|use"
    r"|antworte\w?|gib|nenne|schreibe?|réponds|répondez|donne[rz]?|écris|écrivez|responde|da|escribe)\b"
)
_FORM = re.compile(
    _ASKS + r"[^.\n!?]{0,60}?\b(?:format|form|json|ya?ml|xml|csv|html|markdown|latex|table|tabelle|tableau|tabla"
    r"|bullets?|lists?|liste|lista|letters?|numbers?|digits?|words?|sentences?|paragraphs?|lines?|integer|only"
    r"|alone|true or false|yes or no|code block|buchstaben?|zahl|wort|satz|sätzen|zeile|lettre|nombre|mots?|phrases?"
    r"|ligne|letra|número|palabras?|frases?|línea)\b|\\boxed|\bjson\b|\byaml\b|\bfinal answer\b"
    r"|\b(?:in|as) (?:a |one )?(?:table|bullet points)\b|格式|列表|表格|字以内|一句话"
)
_CODE_FORM = re.compile(
    r"\bcode[- ]?(?:block|fence)s?\b|\bmarkdown\b|\bonly (?:the )?code\b|\bcode only\b|```|代码块|只.{0,4}代码"
)
_ALONE = re.compile(
    _ASKS + r"[^.\n!?]{0,60}?\b(?:only|just|alone|nothing else|nothing but|nur|nichts anderes|seulement|uniquement"
    r"|solo|sólo|solamente|únicamente)\b"
    r"|\b(?:only|just|nur|solo|sólo|seulement) (?:(?:answer|respond|reply|output|return|print)\b"
    r"|(?:with )?(?:the|die|den|la|el|le) (?:final |correct |richtigen? )?(?:answer|letter|number|result|translation"
    r"|summary|code|antwort|buchstaben?|zahl|ergebnis|réponse|lettre|respuesta|letra|resultado)\b)"
    r"|\b(?:without|no|ohne|sans|sin) (?:any |further |weitere |aucune )?(?:explan|erklär|expli)"
    r"|(?:只|仅)(?:需|要|回答|输出|给出|返回)|不要解释"
)
_COUNT = r"\w{1,12}"
_BRIEF = re.compile(
    r"\b(?:briefly|be brief|brief (?:and|but)|concise(?:ly)?|succinct(?:ly)?|terse(?:ly)?"
    r"|(?:short|brief) (?:\w{1,12} )?(?:answers?|response|reply|summary|explanation|description|sentences?|paragraphs?)"
    r"|(?:keep|make) (?:it|(?:the|your) \w{1,12}) (?:short|brief)"
    r"|in (?:a|one|two|three|\d{1,3}) (?:words?|sentences?|lines?|paragraphs?)"
    r"|(?:within|under|at most|no more than|up to|less than|fewer than|maximum of|max\.?)"
    rf" (?:{_COUNT} )?(?:words?|sentences?|lines?|paragraphs?|characters?)"
    r"|kurz|knapp|kurze \w{1,12}|in (?:einem|zwei|drei|\d{1,3}) (?:satz|sätzen|wort|worten|wörtern)"
    rf"|höchstens {_COUNT} (?:wörter|sätze)|brièvement|bref|courte réponse"
    r"|en (?:un|une|deux|trois|\d{1,3}) (?:mots?|phrases?)|breve(?:mente)?"
    r"|en (?:una|dos|tres|\d{1,3}) (?:palabras?|frases?))\b|简短|简要|简洁|简明|字以内|一句话"
)
_DETAILED = re.compile(
    r"\b(?:detail(?:s|ed)?|thorough(?:ly)?|comprehensive(?:ly)?|extensive(?:ly)?|in[- ]depth|elaborate"
    r"|exhaustive(?:ly)?|(?:at least|more than|minimum of|no less than)"
    rf" (?:{_COUNT} )?(?:words?|sentences?|lines?|paragraphs?|pages?)"
    rf"|ausführlich\w{{0,3}}|detaillierte?\w?|mindestens {_COUNT} (?:wörter|sätze)"
    rf"|détail\w{{0,4}}|approfondie?s?|au moins {_COUNT} (?:mots|phrases)"
    rf"|detalle|detallad\w{{1,7}}|exhaustiv\w{{1,7}}|al menos {_COUNT} (?:palabras|frases))\b|详细|详尽|深入"
)
_STEPS = re.compile(r"step[- ]by[- ]step|schritt für schritt|étape par étape|pas à pas|paso a paso|一步一步|逐步|分步")


def check_query(text: object, task: str = "general") -> None:
    """Refuse a query that is no text, or blank, and an unknown task.

    Raises LLMValidationError validation.query, validation.task.
    """
    if not isinstance(text, str) or not text or text.isspace():
        raise LLMValidationError(
            f"the query is {text!r:.40}, with nothing to work on",
            code="validation.query",
            next_step="pass the text of a prompt",
        )
    if task not in TASKS:
        raise LLMValidationError(
            f"task {task!r:.40} is none of {', '.join(TASKS)}",
            code="validation.task",
            next_step="pass decide.tasks.detect(query).task, or leave it out",
        )


class Spans(NamedTuple):
    """Where the user's text stands: text[start:stop] + text[resume:]; the rest was added."""

    start: int
    stop: int
    resume: int
    cue: int | None  # where the line of the cue begins; None without one that has a line of its own


def _spans(text: str) -> Spans:
    start, bare = 0, len(text.rstrip())
    while 0 < (end := _added_until(text, start)) < bare:
        start = end
    line = max(text.rfind("\n", start, bare) + 1, start)
    cue = line if line > start and bare - line <= 120 and CUE.match(text[line:bare]) else None
    stop = resume = bare if cue is None else cue
    while True:
        end = stop if cue is None else stop - 2
        if cue is not None and text[end:stop] != "\n\n":
            break
        at = text.rfind("\n\n", max(start, end - LONGEST - 2), end)
        if at < 0 or text[at + 2 : end] not in EVERY:
            break
        stop = at if cue is None else at + 2
    return Spans(start, stop, resume, cue)


def _added_until(text: str, at: int) -> int:
    """Where the addition that begins at `at` ends, with the empty line behind it; 0 without one."""
    end = text.find("\n\n", at, at + LONGEST + 2)
    if end >= 0 and text[at:end] in EVERY:
        return end + 2
    if match := _BLOCK.match(text, at):
        mark = f"\n[end of examples {match[1]}]\n\n"
        end = text.find(mark, match.end())
        return end + len(mark) if end >= 0 else 0
    return 0


def _is_about_wording(low: str) -> bool:
    if not _ABOUT_WORDING.isdisjoint(_LETTERS.findall(low)):
        return True
    return not low.isascii() and any(word in low for word in _ABOUT_CHINESE)


@dataclass(frozen=True)
class Layout:
    """How a prompt is built; each part is told when it is asked for.

    text: the prompt. task: one of facts.TASKS, as which it is read.
    """

    text: str
    task: str

    @cached_property
    def spans(self) -> Spans:
        """Where the user's text stands."""
        return _spans(self.text)

    @cached_property
    def body(self) -> str:
        """The user's text, without additions."""
        start, stop, resume, _ = self.spans
        return self.text[start:stop] + self.text[resume:]

    @cached_property
    def edges(self) -> str:
        """Where the user's text may say how to answer, in lower case: its beginning and its end.

        Of a prompt with examples only what stands before them: they are full of words that demand nothing.
        """
        if self.few_shot:
            return self.body[:EDGE].lstrip().partition("\n\n")[0].lower()
        body = self.body.lower()
        return body if len(body) <= 2 * EDGE else f"{body[:EDGE]}\n{body[-EDGE:]}"

    @cached_property
    def spoken(self) -> Language:
        """The language that the prompt speaks."""
        return language(self.body)

    @cached_property
    def options(self) -> bool:
        """Whether the answer is one of lettered options."""
        found = options_in(self.body)
        return bool(found) and all(len(option) == 1 for option in found)

    @cached_property
    def few_shot(self) -> bool:
        """Whether the prompt shows questions with their answers before its own."""
        body = self.body
        label = re.split("[:：]", body.rstrip().rpartition("\n")[2][:60], maxsplit=1)[0]
        if self.spans.cue is not None and label and body.count(f"\n{label}:") + body.count(f"\n{label}：") > 1:
            return True
        return len(_TURN.findall(body)) > 1

    @cached_property
    def has_examples(self) -> bool:
        """Whether examples were added to it."""
        return _BLOCK.search(self.text, 0, self.spans.start) is not None

    @property
    def cue(self) -> bool:
        """Whether the prompt ends where its answer is to begin."""
        return self.spans.cue is not None or self.ends_in_label

    @cached_property
    def ends_in_label(self) -> bool:
        """Whether its end is a cue in the middle of a line, before which nothing can be said."""
        return self.spans.cue is None and self.body.rstrip().endswith((":", "："))

    @cached_property
    def open_ended(self) -> bool:
        """Whether its end lies in code or in a quotation, so that nothing can be said behind it."""
        last = self.body.rstrip().rpartition("\n\n")[2][-2000:]
        return (
            self.body.count("```") % 2 == 1
            or last.count('"') % 2 == 1
            or last.rpartition("\n")[2].startswith(("    ", "\t"))
            or any(last.rfind(mark) > last.rfind(end) for mark, end in ("“”", "«»", "「」", "„“"))
        )

    @cached_property
    def instruction(self) -> int:
        """Where the instruction at the beginning of the user's text ends; 0 where it cannot be told from material."""
        body, cue = self.body, self.spans.cue
        if self.few_shot:
            return 0
        begin = len(body) - len(body.lstrip())
        mark = _MATERIAL_MARK.search(body, begin, begin + INSTRUCTION + 1)
        end = mark.start() if mark else begin
        if cue is not None:
            end = min(end, self.spans.stop - self.spans.start)
        rest = body[end:].strip(" \t\r\n:：")
        if (
            end - begin > INSTRUCTION
            or (self.task in _MATERIAL_TASKS and not (rest and _NAMES_TASK.search(body, begin, end)))
            or _is_about_wording(body[begin:end].lower())
            or (rest and _ABOVE.search(rest, max(0, len(rest) - EDGE)))
        ):
            return 0
        return end

    @cached_property
    def says_form(self) -> bool:
        """Whether the user says how the answer is to look, or shows it."""
        # "Write a function that returns a list" says nothing about the answer.
        form = _CODE_FORM if self.task == "code_generation" else _FORM
        return self.few_shot or form.search(self.edges) is not None

    @cached_property
    def brief(self) -> str | None:
        """The words that limit the length of the answer, in lower case."""
        found = _BRIEF.search(self.edges)
        return found[0] if found else None

    @cached_property
    def detailed(self) -> str | None:
        """The words that ask for a long answer, in lower case."""
        found = _DETAILED.search(self.edges)
        return found[0] if found else None

    @cached_property
    def says_alone(self) -> bool:
        """Whether the user wants the answer and nothing beside it."""
        return _ALONE.search(self.edges) is not None

    @property
    def says_brief(self) -> bool:
        """Whether the user limits the length of the answer."""
        return self.brief is not None

    @property
    def says_detailed(self) -> bool:
        """Whether the user asks for a long answer."""
        return self.detailed is not None

    @cached_property
    def says_steps(self) -> bool:
        """Whether the user asks for steps, or shows them."""
        return _STEPS.search(self.body.lower()) is not None
