"""Repairs of an instruction that leave its meaning: filler and politeness taken out, slips and short forms mended.

Both functions propose; decide/rewrite.py takes what touches no protected part and breaks no invariant. Nothing here is
a hedge: `if possible`, `I think` and `about` change what is asked, and stay. So do words that often are filler and
sometimes not: `Can you swim?` asks, `Can you please swim?` asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from workbench.decide.words import COMMANDS, Language, word_set

Change = tuple[int, int, str, str]  # start, end, what takes its place, why
Group = tuple[Change, ...]  # changes that belong together: all of them are made, or none

_SAME = "says the same in fewer words"
_POLITE = "politeness tells a model nothing"


@dataclass(frozen=True, slots=True)
class _Phrase:
    """Words that can be said shorter. key: what such a text has in lower case, looked for first because it is cheap.

    unless: what must not stand before them, within a line.
    """

    key: str
    pattern: re.Pattern[str]
    after: str
    unless: re.Pattern[str] | None = None


def _phrase(words: str, after: str, *, unless: str = "") -> _Phrase:
    pattern = re.compile(rf"\b{re.escape(words)}" + (r"\b" if words[-1].isalnum() else ""), re.I)
    return _Phrase(words, pattern, after, re.compile(unless, re.I) if unless else None)


# "Put them in order to save space" is not about a purpose.
_SEQUENCE = (
    r"\b(?:put|arrang|sort|list|plac|rank|keep|kept|stack|fil|lin|number|alphabetical|ascending|descending)\w{0,5}\b"
)
_SHORTER: Mapping[Language, tuple[_Phrase, ...]] = MappingProxyType(
    {
        "en": (
            _phrase("in order to", "to", unless=_SEQUENCE), _phrase("due to the fact that", "because"),
            _phrase("owing to the fact that", "because"),
            _phrase("in spite of the fact that", "although"),
            _phrase("despite the fact that", "although"), _phrase("in the event that", "if"),
            _phrase("for the purpose of", "for"), _phrase("at this point in time", "now"),
            _phrase("at the present time", "now"), _phrase("until such time as", "until"),
            _phrase("each and every", "every"), _phrase("first and foremost", "first"),
            _phrase("prior to", "before"),
            _phrase("subsequent to", "after"), _phrase("in close proximity to", "near"),
        ),
        "de": (
            _phrase("aufgrund der Tatsache, dass", "weil"), _phrase("wegen der Tatsache, dass", "weil"),
            _phrase("in Anbetracht der Tatsache, dass", "da"), _phrase("trotz der Tatsache, dass", "obwohl"),
            _phrase("für den Fall, dass", "falls"), _phrase("zum jetzigen Zeitpunkt", "jetzt"),
        ),
        "fr": (
            _phrase("afin de ", "pour "), _phrase("afin d'", "pour "), _phrase("afin d’", "pour "),
            _phrase("dans le but de ", "pour "), _phrase("dans le but d'", "pour "),
            _phrase("en raison du fait que", "parce que"), _phrase("en raison du fait qu'", "parce qu'"),
            _phrase("à l'heure actuelle", "actuellement"), _phrase("à l’heure actuelle", "actuellement"),
        ),
        "es": (
            _phrase("con el fin de ", "para "), _phrase("con el objetivo de ", "para "),
            _phrase("con el propósito de ", "para "), _phrase("debido al hecho de que", "porque"),
            _phrase("a pesar del hecho de que", "aunque"),
        ),
        "zh": (),
    }
)  # fmt: skip

_ASKED = (
    r"(?:I was|I am|I['’]m)(?: just)? wondering (?:if|whether) you (?:could|can|would|might)"
    r"|I(?: would|['’]d)(?: really)? (?:appreciate it|be (?:very )?(?:grateful|thankful)) if you (?:could|would)"
    r"|It would be (?:great|nice|good|helpful|lovely|wonderful) if you (?:could|would)"
    r"|(?:Could|Would|Can|Will) you(?= (?:please|kindly|pls|plz) )"
    r"|Would you be (?:so kind as|kind enough) to"
)
_REQUEST = re.compile(
    rf"(?:(?P<asked>{_ASKED})|I(?: would|['’]d)(?: really)? (?:like|love) you to|I (?:want|need) you to)"
    r"(?: (?:please|pls|plz|kindly|possibly)){0,3} (?P<verb>[a-z]+)\b(?!['’-])"
    r"|(?:please|pls|plz|kindly)(?: (?:please|kindly)){0,3},? (?P<plea>[a-z]+)\b(?!['’-])",
    re.I,
)
_NO_COMMAND = word_set(
    "a an the my your his her their our him them me us it everyone everybody anyone someone people users customers "
    "and or is was as to be in of for not never you yourself myself themselves"
)
_PLEADS = re.compile(r"\b(?:please|pls|plz|kindly|kind)\b", re.I)
_YOU_PLEASE = re.compile(r"\byou(?P<cut> (?:please|pls|plz))(?= (?P<verb>[a-z]+))", re.I)
_LAST_PLEASE = re.compile(r"\b(?P<word>[^\W\d_]+)(?P<cut>,? (?:please|pls|plz))(?=[.!?](?:\s|\Z)|\s*\Z)", re.I)
_WHO_PLEASES = word_set("i you we they who to and or will can say says said word not")
_SENTENCE_ENDS = re.compile(r"[.!?](?=\s|\Z)")

_BITTE_FIRST = re.compile(r"Bitte (?P<verb>[a-zäöüß]+)\b")
_BITTE = re.compile(r"\b(?:du|Sie|ihr|mir|uns)(?P<cut> bitte)(?= [\w„\"])")
_PLEASE: Mapping[Language, tuple[str, re.Pattern[str]]] = MappingProxyType(
    {
        "fr": ("pla", re.compile(r"(?P<cut>,? s['’]il (?:te|vous) pla[iî]t)(?=[.!?:]|\s*\Z)(?!,)", re.I)),
        "es": ("por favor", re.compile(r"(?P<cut>,? por favor)(?=[.!?:]|\s*\Z)(?!,)", re.I)),
    }
)
_PLEASE_FIRST: Mapping[Language, re.Pattern[str]] = MappingProxyType(
    {
        "fr": re.compile(r"S['’]il (?:te|vous) pla[iî]t,? (?P<verb>[a-zàâçéèêëîïôûù]+)\b(?!['’])"),
        "es": re.compile(r"Por favor,? (?P<verb>[a-záéíóúñ]+)\b"),
    }
)
_CHINESE_FIRST = re.compile(r"(?:请问(?:一下)?[，,]?|麻烦[您你]帮我|麻烦[您你])(?=[\u3400-\u9fff])")
_THANKS: Mapping[Language, re.Pattern[str]] = MappingProxyType(
    {
        "en": re.compile(
            r"(?<!\s)\s+(?:many )?(?:thanks|thank you|thx)(?: (?:so|very) much)?(?: in advance)?[.!]{0,3}(?=\s*\Z)",
            re.I,
        ),
        "de": re.compile(r"(?<!\s)\s+(?:vielen dank|danke(?: schön| sehr)?)(?: im voraus)?[.!]{0,3}(?=\s*\Z)", re.I),
        "fr": re.compile(r"(?<!\s)\s+merci(?: beaucoup| bien)?(?: (?:d['’]|par )avance)?[.!]{0,3}(?=\s*\Z)", re.I),
        "es": re.compile(r"(?<!\s)\s+(?:muchas )?gracias(?: de antemano| por adelantado)?[.!]{0,3}(?=\s*\Z)", re.I),
        "zh": re.compile(r"(?<!\s)\s*(?:非常感谢|谢谢)[您你]?[。！!]{0,3}(?=\s*\Z)"),
    }
)


def fillers(text: str, end: int, spoken: Language) -> list[Group]:
    """What can be taken out of an instruction, or said shorter; in the order of the text, without overlaps.

    end: where the instruction ends and its material begins. Time is linear in `end`.
    """
    zone = text[:end]
    low = zone.lower()
    found = list(_shorter(zone, low, spoken))
    if spoken == "en":
        if any(key in low for key in ("please", "pls", "plz", "kindly", "you")):
            found += _requests(zone)
    elif spoken == "de" and "bitte" in low:
        found += [g for m in _BITTE_FIRST.finditer(zone) if m["verb"] != "um" for g in _opened(zone, m, m["verb"])]
        found += [((*m.span("cut"), "", _POLITE),) for m in _BITTE.finditer(zone)]
    elif spoken in _PLEASE:
        key, pattern = _PLEASE[spoken]
        if key in low:
            found += [g for m in _PLEASE_FIRST[spoken].finditer(zone) for g in _opened(zone, m, m["verb"])]
            found += [((*m.span("cut"), "", _POLITE),) for m in pattern.finditer(zone) if m.start()]
    elif spoken == "zh":
        found += [((*m.span(), "", _POLITE),) for m in _CHINESE_FIRST.finditer(zone) if _begins(zone, m.start())]
    if not text[end:].strip() and (match := _THANKS[spoken].search(zone)) and _ends_sentence(zone, match.start()):
        found.append(((*match.span(), "", _POLITE),))
    return _apart(found)


def _shorter(zone: str, low: str, spoken: Language) -> Iterator[Group]:
    for phrase in _SHORTER[spoken]:
        if phrase.key.lower() not in low:
            continue
        for match in phrase.pattern.finditer(zone):
            before = zone[max(0, match.start() - 60) : match.start()].rpartition("\n")[2]
            if phrase.unless is None or not phrase.unless.search(before):
                yield ((*match.span(), _cased(match[0], phrase.after), _SAME),)


def _requests(zone: str) -> Iterator[Group]:
    """Commands put as wishes or questions, as plain commands; `please` where it is no verb."""
    for match in _REQUEST.finditer(zone):
        verb = (match["verb"] or match["plea"]).lower()
        # "I was wondering if you could swim" asks, unless it says please.
        if verb in _NO_COMMAND or (match["asked"] and verb not in COMMANDS and not _PLEADS.search(match[0])):
            continue
        for group in _opened(zone, match, match["verb"] or match["plea"]):
            end = _SENTENCE_ENDS.search(zone, match.end()) if match["asked"] else None
            if end is not None and end[0] == "?":
                yield (*group, (*end.span(), ".", "a command is no question"))
            else:
                yield group
    for match in _YOU_PLEASE.finditer(zone):
        if match["verb"].lower() not in _NO_COMMAND:
            yield ((*match.span("cut"), "", _POLITE),)
    for match in _LAST_PLEASE.finditer(zone):
        if match["word"].lower() not in _WHO_PLEASES:
            yield ((*match.span("cut"), "", _POLITE),)


def _opened(zone: str, match: re.Match[str], verb: str) -> Iterator[Group]:
    """A sentence that begins with its verb instead of the match; nothing where the match begins none."""
    if _begins(zone, match.start()) and (verb.islower() or verb.isupper()):
        yield ((*match.span(), _cased(match[0], verb), _POLITE),)


def _cased(before: str, after: str) -> str:
    """`after` with a capital where what it replaces has one."""
    return after[:1].upper() + after[1:] if before[:1].isupper() else after


def _begins(zone: str, at: int) -> bool:
    """Whether a sentence begins at a place; behind more than eight spaces none is seen."""
    before = zone[max(0, at - 8) : at].rstrip(" ")
    return before.endswith((".", "!", "?", "\n", "。", "！", "？")) or (not before and at <= 8)


def _ends_sentence(zone: str, at: int) -> bool:
    return zone[:at].rstrip().endswith((".", "!", "?", ":", "。", "！", "？"))


def _apart(groups: list[Group]) -> list[Group]:
    """The groups in order, without those that overlap an earlier one."""
    kept: list[Group] = []
    taken: list[tuple[int, int]] = []
    for group in sorted(groups, key=lambda g: (g[0][0], -g[0][1])):
        if all(end <= s or e <= start for start, end, _, _ in group for s, e in taken[-8:]):
            kept.append(group)
            taken += [(start, end) for start, end, _, _ in group]
            taken.sort()
    return kept


# -- slips and short forms

_SHORT: Mapping[Language, Mapping[str, str]] = MappingProxyType(
    {
        "en": {
            "pls": "please", "plz": "please", "b/c": "because", "cuz": "because", "w/o": "without", "w/": "with",
            "abt": "about", "thx": "thanks", "btwn": "between", "thru": "through", "tho": "though",
            "ppl": "people", "smth": "something", "sth": "something", "asap": "as soon as possible",
            "approx.": "approximately", "esp.": "especially", "incl.": "including",
        },
        "de": {
            "bzw.": "beziehungsweise", "d.h.": "das heißt", "d. h.": "das heißt", "evtl.": "eventuell",
            "ggf.": "gegebenenfalls", "inkl.": "inklusive",
        },
        "fr": {
            "svp": "s'il vous plaît", "stp": "s'il te plaît", "càd": "c'est-à-dire", "p. ex.": "par exemple",
            "qqch": "quelque chose", "bcp": "beaucoup", "tjs": "toujours",
        },
        "es": {"p. ej.": "por ejemplo", "p.ej.": "por ejemplo", "tmb": "también", "xfa": "por favor"},
        "zh": {},
    }
)  # fmt: skip
_LONG_FORMS = {spoken: {short.lower(): full for short, full in forms.items()} for spoken, forms in _SHORT.items()}


def _short_forms(spoken: Language) -> re.Pattern[str] | None:
    # A point belongs to a short form only where the sentence goes on behind it.
    goes_on, ends = r"(?-i:(?= [a-zäöüßáéíóúñ\d]))", r"(?![\w/'’-]|\.\w)"
    words = [re.escape(word) + (goes_on if word[-1] in "./" else ends) for word in _SHORT[spoken]]
    return re.compile(rf"(?<![\w/.'’@#-])(?:{'|'.join(words)})", re.I) if words else None


_SHORT_FORMS = {spoken: _short_forms(spoken) for spoken in _SHORT}
# Never twice in a row on purpose; `had had`, `that that` and `die die` may be right.
_DOUBLED: Mapping[Language, str] = MappingProxyType(
    {
        "en": "the of an from with", "de": "und mit für eine einen des", "fr": "et les des une dans",
        "es": "de el los una con para",
    }
)  # fmt: skip
_TWICE = {
    spoken: re.compile(
        "|".join(rf"(?<![\w'’-])[{w[0].upper()}{w[0]}]{w[1:]}(?: {w}){{1,4}}(?![\w'’-])" for w in words.split())
    )
    for spoken, words in _DOUBLED.items()
}
_GAP = re.compile(r"(?<=[\w,;.!?)]) {2,4}(?=[\w(])")
_MATERIAL = re.compile(
    r"\b(?:text|article|passage|paragraph|sentence|story|document|e-?mail|letter|report|review|abstract|excerpt|message"
    r"|transcript|conversation|dialogue|function|code|snippet|Artikel|Absatz|Abschnitt|Satz|Bericht|Nachricht|texte"
    r"|phrase|paragraphe|texto|artículo|frase|párrafo)s?\b|文章|文本|段落|短文|句子|代码",
    re.I,
)
_GIVEN = re.compile(
    r"\b(?:following|below|this|these|given|folgende\w?|diese\w?|suivante?s?|ce|cet|cette|siguientes?|este|esta)\b|以下|下面|这",
    re.I,
)
NAMING = 200  # characters of an instruction that is told from the beginning of its material
APART = 40  # characters of material that are worth a paragraph of their own


def repairs(text: str, end: int, spoken: Language, *, layout: bool) -> list[Group]:
    """Slips and short forms of an instruction; in the order of the text, without overlaps.

    end: as for `fillers`. layout: whether white space may be changed too, which code does not bear.
    """
    zone = text[:end]
    low = zone.lower()
    found: list[Group] = []
    short = _SHORT_FORMS[spoken]
    if short is not None and any(form in low for form in _LONG_FORMS[spoken]):
        for match in short.finditer(zone):
            full = _LONG_FORMS[spoken][match[0].lower()]
            found.append(((*match.span(), _cased(match[0], full), "a short form, written out"),))
    if spoken in _TWICE and any(f"{word} {word}" in low for word in _DOUBLED[spoken].split()):
        twice = _TWICE[spoken].finditer(zone)
        found += [((*m.span(), m[0].split(" ")[0], "a word that stands twice"),) for m in twice]
    if layout:
        found += _spaces(text, zone)
        found += _set_apart(text, end)
    return _apart(found)


def _spaces(text: str, zone: str) -> Iterator[Group]:
    begin, stop = len(text) - len(text.lstrip()), len(text.rstrip())
    second = text[begin:].partition("\n")[2]
    if begin and not second[:1].isspace():
        yield ((0, begin, "", "white space before the text"),)
    if stop < len(text):
        yield ((stop, len(text), "", "white space after the text"),)
    at = 0
    for line in zone.split("\n"):
        gaps = list(_GAP.finditer(line)) if "  " in line and "|" not in line and "\t" not in line else []
        if 0 < 3 * len(gaps) <= line.count(" ") - 2 * len(gaps):  # more of them are a table
            yield from (((at + m.start(), at + m.end(), " ", "more than one space"),) for m in gaps)
        at += len(line) + 1


def _set_apart(text: str, end: int) -> Iterator[Group]:
    """Material in a paragraph of its own, where a short instruction names it and a colon opens it."""
    mark, rest = text[end : end + 1], text[end + 1 :]
    gap = len(rest) - len(rest.lstrip(" "))
    named = end <= NAMING and _MATERIAL.search(text, 0, end) and _GIVEN.search(text, 0, end)
    if named and mark in (":", "：") and len(rest) - gap >= APART and rest[gap] != "\n":
        yield ((end, end + 1 + gap, f"{mark}\n\n", "the material stands apart from the instruction"),)
