"""How clear a prompt is, by rules that show what they found.

A heuristic: each rule is something that people stumble over, its weight is a judgement, and nothing links the score to
the quality of answers until a log shows a link. Use the cues to look at a prompt; compare prompts by measured scores.

The rules know English, German, French, Spanish and Chinese. What rewritings added (decide/wordings.py) is not read, and
what stands in quotations and code does not count. Read are the first READ characters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from workbench.decide.invariants import protected
from workbench.decide.layout import Layout, check_query
from workbench.decide.words import COMMANDS, word_set

READ = 4_000
LONG = 60  # words of a sentence
MANY = 3  # questions
MISSING = 20  # characters that are no material
SHOWN = 60  # characters of a cue that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class ClarityCue:
    """Something that makes a prompt less clear.

    found: the words, at most SHOWN characters, at `start` of the text. weight: share of the score that it takes, in
    (0, 1). reason: what is wrong.
    """

    name: str
    found: str
    start: int
    weight: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Clarity:
    """How clear a prompt is. score: the product of 1 - weight over the cues, in (0, 1]; 1 without any."""

    score: float
    cues: tuple[ClarityCue, ...]


def clarity(text: str) -> Clarity:
    """The clarity of a prompt, with its cues in the order of the text.

    Raises LLMValidationError validation.query for a blank text, or none.
    >>> [cue.name for cue in clarity("Summarize the following article.").cues]
    ['missing material']
    """
    check_query(text)
    layout = Layout(text, "general")
    found = sorted(_cues(layout), key=lambda cue: (cue.start, cue.name))
    return Clarity(score=math.prod(1 - cue.weight for cue in found), cues=tuple(found))


_PRONOUN = re.compile(
    r"\s{0,200}(?:it|this|that|they|these|those|he|she|es|das|dies|er|sie|ça|cela|ceci|il|elle|eso|esto|ello)"
    r"(?:['’]s| (?:is|was|are|were|does|doesn['’]t|do|don['’]t|has|have|had|works?|looks?|seems?|needs?|should|can"
    r"|can['’]t|will|won['’]t|ist|war|hat|geht|funktioniert|muss|soll|kann|est|était|a|marche|doit|peut|fue|tiene"
    r"|funciona|debe|puede|no))\b|\s{0,200}[它这那](?:是|有|不|会|能)",
    re.I,
)
_DANGLING = re.compile(
    r"\b(?:fix|explain|improve|summari[sz]e|translate|rewrite|describe|analy[sz]e|solve|continue|do|change|correct|check"
    r"|shorten|expand|convert|compare|erkläre?|verbessere?|übersetze?|korrigiere?|explique[rz]?|corrige[rz]?"
    r"|améliore[rz]?|traduis|explica|mejora|traduce|corrige)"
    r"(?:[ -](?:it|this|that|them|these|those|es|das|dies|ça|cela|le|la|lo|esto|eso)\b|l[oa]\b)"
    r"(?=\s*(?:[.!?]|\Z)| (?:to|into|in|for|now|again|better|please|nach|auf|ins|en|à|al)\b)"
    r"|(?:解释|翻译|总结|改进|修改|完成)(?:一下)?[它这那](?![\u3400-\u9fff]{2})",
    re.I,
)
_MATERIAL = (
    r"(?:text|article|passage|paragraph|sentence|story|document|e-?mail|letter|report|review|abstract|excerpt|message"
    r"|transcript|code|function|snippet|table|data|list|question|problem)s?"
)
_ANNOUNCED = re.compile(
    rf"\b(?:the following|this|the given|the attached) {_MATERIAL}\b(?! (?:is|are|was|that|which|of|about|from))"
    rf"|\b(?:the|this) {_MATERIAL} (?:below|attached)\b"
    r"|\b(?:folgende[nmrs]?|diese[nmrs]?|beigefügte[nmrs]?) (?:Text|Artikel|Absatz|Satz|Code|Bericht|Brief|Tabelle)\b"
    r"|\b(?:le|la|l['’]|ce|cet|cette) ?(?:texte|article|passage|phrase|code)"
    r" (?:suivante?|ci-dessous|ci-joint)\b"
    r"|\b(?:el|la|este|esta) (?:siguiente (?:texto|artículo|párrafo|frase|código|tabla)"
    r"|(?:texto|artículo|párrafo|frase|código|tabla) (?:siguiente|adjunt[oa]))\b"
    r"|(?:以下|下面|下列)的?(?:文章|文本|段落|短文|句子|代码|内容)",
    re.I,
)
_UNFILLED = re.compile(
    r"\[(?:insert|your|enter|add|paste|topic|name|text|company|hier|votre|insérer|tu|insertar|此处|插入)[^\[\]\n]{0,80}\]"
    r"|\{\{ ?\w{1,40} ?\}\}|(?<![\\\w}])\{[a-z_]{2,40}\}|<(?:insert|your|enter|paste)[^<>\n]{0,80}>",
    re.I,
)
_VAGUE = re.compile(
    r"\b(?:something|stuff|things?|somehow|whatever|and so on|irgendwas|irgendetwas|irgendwie|Dinge|Zeug|quelque chose"
    r"|trucs?|choses|n['’]importe quoi|algo|cosas|de alguna manera)\b|\betc\b|什么的|之类|某些东西",
    re.I,
)
_ASKING = word_set(
    "what which who whom whose when where why how is are was were do does did can could will would should may might "
    "has have am wer wie wo wann warum welche welcher welches wieso weshalb ist sind hat haben kann können que qui "
    "quoi quel quelle quels quelles où quand comment pourquoi combien est-ce qué quién cuál cuáles cómo dónde cuándo "
    "cuánto please kindly pls plz bitte veuillez merci peux pouvez puedes podrías necesito quiero"
)
_WISH = re.compile(
    r"\b(?:please|i (?:need|want|would like|['’]d like|am looking for)|you (?:are|will|must|should|need)"
    r"|your (?:task|job)|ich (?:möchte|brauche|suche)|deine aufgabe|je (?:veux|voudrais|cherche)|por favor|tu tarea)\b",
    re.I,
)
_CHINESE_COMMAND = re.compile(
    r"[请問问写寫译解算找列说說给給比改做编編画畫帮幫吗嗎呢]|什么|什麼|怎|如何|为何|哪|谁|多少|几|总结|概括|分析|描述|介绍"
)
_QUESTION = re.compile(r"\?(?=\s|\Z)|？")
_SENTENCE = re.compile(r"[^.!?。！？\n]+")
_FIRST_WORD = re.compile(r"(?:\A|[.!?:;,()\n。！？：，；\-*])[\s\d.)*#\-]{0,12}([^\W\d_][\w'’-]*)")
_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def _cues(layout: Layout) -> Iterator[ClarityCue]:
    shift = layout.spans.start
    body = layout.body[:READ]
    said = _said(body)
    whole = len(layout.body) <= READ

    def cue(name: str, start: int, end: int, weight: float, reason: str) -> ClarityCue:
        found = body[start:end].strip()[:SHOWN]
        return ClarityCue(name=name, found=found, start=start + shift, weight=weight, reason=reason)

    short = whole and len(body.split()) <= 8 and said == body and "\n" not in body.strip() and ":" not in body
    if match := _PRONOUN.match(said):
        yield cue("vague opening", *match.span(), 0.2, "it opens with a pronoun, and nothing says what that means")
    if short and (match := _DANGLING.search(said)):
        yield cue("nothing referred to", *match.span(), 0.4, "there is nothing that the pronoun can mean")
    if (match := _ANNOUNCED.search(said)) and whole and _is_missing(body, match):
        yield cue("missing material", *match.span(), 0.5, "a text is announced, and there is none")
    if match := _UNFILLED.search(said):
        yield cue("unfilled placeholder", *match.span(), 0.3, "a placeholder was left as it is")
    if (match := _VAGUE.search(said, 0, layout.instruction or 0)) is not None:
        yield cue("vague word", *match.span(), 0.1, "a word that could mean anything")
    if layout.brief and layout.detailed and not layout.few_shot:
        start = max(0, body.lower().find(layout.brief))
        yield cue("contradictory length", start, start + len(layout.brief), 0.3,
                  f"it wants a short answer, and also: {layout.detailed}")  # fmt: skip
    marks = [m.start() for m in _QUESTION.finditer(said)] if not layout.few_shot else []
    if len(marks) >= MANY:
        first = marks[-2] + 1
        yield cue("several questions", first, marks[-1] + 1, 0.15, f"{len(marks)} questions at once")
    for match in _SENTENCE.finditer(said[: layout.instruction]):
        if len(match[0].split()) > LONG:
            yield cue("long sentence", *match.span(), 0.1, f"a sentence of more than {LONG} words")
            break
    if whole and not layout.cue and not layout.few_shot and not _asks(said):
        yield cue("no instruction", 0, len(body), 0.4, "nothing is asked, and nothing is told to be done")
    if whole and "?" not in body and len(body.split()) < MANY and len(_HAN.findall(body)) < MANY + 2:
        yield cue("very short", 0, len(body), 0.3, "too short to say what is wanted")


def _said(body: str) -> str:
    """The text with spaces where quotations and code stand, so that places stay."""
    parts, at = [], 0
    for part in protected(body):
        if part.kind in ("quotation", "code") and part.end > at:
            start = max(at, part.start)
            parts += [body[at:start], " " * (part.end - start)]
            at = part.end
    return "".join((*parts, body[at:])) if parts else body


def _is_missing(body: str, match: re.Match[str]) -> bool:
    """Whether there is nothing beside the sentence that announces a text."""
    before = re.split(r"[.:!?\n]", body[: match.start()])
    after = re.split(r"[.:!?\n。：！？]", body[match.end() :], maxsplit=1)
    return len("".join(before[:-1]).strip()) < MISSING and len("".join(after[1:]).strip()) < MISSING


def _asks(said: str) -> bool:
    """Whether a text asks something, or tells to do something."""
    if "?" in said or _WISH.search(said):
        return True
    if any(word.lower() in COMMANDS or word.lower() in _ASKING for word in _FIRST_WORD.findall(said)):
        return True
    return _HAN.search(said) is not None and _CHINESE_COMMAND.search(said) is not None
