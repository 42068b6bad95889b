r"""The answer inside a free response, as a string that can be compared and counted.

Votes and scores need one thing: two responses that say the same must give the same string. So every kind
of answer has a canonical form (`normalise`), and a response is read for the place where it *states* an
answer (`extract`). What is not stated is `None`, and `None` never votes: a response that stops half way, or
refuses, or names two options, has numbers and letters in it but no answer.

How a response is read; the first step that finds something ends the search:
1. statements ("the answer is", "Answer:", "A:", "####", \boxed{...}, six more languages): the last wins,
   because models correct themselves; those after a new "Question:" line belong to another question;
2. for choices, weaker statements ("the correct option is"), again the last;
3. a response, or a last line, that is nothing but the answer, or opens with it ("B. Paris", "Yes, because");
4. a complete closing sentence that concludes ("Therefore ... (C).") and names exactly one answer.

Canonical forms. number: plain decimal, or a reduced fraction when the decimal does not end ("1/2" is "0.5",
"2/6" is "1/3"); currency and percent signs are dropped ("50%" is "50"); a comma groups thousands and a dot is
always the decimal sign ("1.234" stays, "3,5" is no number). choice: one capital letter. label: case folded,
outer punctuation removed. text: case folded, outer quotes and final dots removed. In labels and texts white
space is collapsed and Unicode is NFC; NUL and lone surrogates become U+FFFD, so any answer can be stored.

Invariants: `extract` never sees the reference; time is linear in the input, because statements are looked
for in the last TAIL characters only and every quantifier that reads them is bounded.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from math import gcd
from typing import Literal, get_args

AnswerKind = Literal["number", "choice", "label", "text"]
ANSWER_KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)

TAIL = 16_384  # characters of a response or prompt that are searched; recorded responses have up to 15,376
SPAN = 240  # characters after a cue in which its value must lie; a text may run to the end of its line
MAX_DIGITS = 100  # characters of a canonical number; longer ones are a model that fell into a loop
MAX_WORD = 256  # NFC sorts combining marks in quadratic time, so longer words are left as they are

_BROKEN = re.compile("[\x00\ud800-\udfff]")
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x2212: "-", 0x3002: ".", 0x3000: " "}
_QUOTES = " \"'`*“”‘’«»„"
# The last two are the signs that NFC turns into ";" and "`".
_OUTER = _QUOTES + ".,;:!?_~()[]{}<>$\\|、\u037e\u1fef"

# What announces an answer, one row per language or convention.
_CUE_ROWS = (
    (
        r"\banswers?(?: (?:to|for) [^.:\n]{1,80}?)?[*_]{0,3} {0,2}(?:\b(?:is|was)\b|=|must be|should be|would be"
        r"|will be|has to be|:(?! the answer)|[-–] )"
    ),
    r"\bfinal choice[*_]{0,3}:",
    r"\bantwort[*_]{0,3} ?(?:ist\b|lautet\b|:)",
    r"\bréponse(?: correcte| finale)?[*_]{0,3} ?(?:est\b|:)",
    r"\b(?:respuesta|resposta|risposta)(?: corr\w{3,5}| finale?)?[*_]{0,3} ?(?:es\b|é\b|è\b|:)",
    r"答案(?:应该|應該)?(?:是|为|為|:)",
    r"^[ \t]{0,4}A:",
    # The answer mark of GSM8K, not a heading such as "#### 2. Add the tips".
    r"^####(?= ?(?:[-+$€£]{0,2}[0-9][0-9,./]{0,40}|\(?[A-Z]\)?)[ \t.%]{0,3}$)",
)
_CUE = re.compile("(?P<boxed>\\\\boxed ?\\{)|" + "|".join(_CUE_ROWS), re.I | re.M)
_LOOSE_CUE = re.compile(
    r"\b(?:correct|closest|best|right|likely|probable|accurate)(?: [\w'-]{1,20}){0,8} (?:is|be|as)\b"
    r"|\b(?:option|choice|statement)(?: \w{1,20}){0,4} is\b"
    r"|\b(?:choose|select|pick|go with|result is|total is)\b",
    re.I,
)
_DENIED = re.compile(
    r"(?:\bnot|cannot|n['’]t|\bnever)(?: (?:think|believe|say|that|the|correct|right|final)){0,5} ?\Z", re.I
)
_NEXT_QUESTION = re.compile(r"\n[ \t*#]{0,6}(?:Q|Question|Problem) ?\d{0,3}[:.]", re.I)
# "Now, combining all the answers:" opens a list of answers to the prompt's examples, not to its question.
_RECAP = re.compile(r"\n[^\n]{0,40}(?:\ball (?:of )?the answers\b|总结[^\n]{0,12}答案)", re.I)
_NEGATION = re.compile(r"\b(?:not|cannot|neither|nor|never|nicht|pas|no es)\b|n['’]t\b|不", re.I)
_CONCLUDES = re.compile(r"\b(?:so|thus|hence|therefore|correct|answer|conclu\w{1,8}|closest|best)\b", re.I)
_REFUSES = re.compile(
    r"\bi(?:['’]m| am|['’]?m)? (?:cannot|can['’]?t|do not know|don['’]?t know|sorry|unable|not able)\b"
    r"|\b(?:cannot|can['’]t|unable to|not able to|impossible to) (?:answer|determine|help|provide|assist)\b",
    re.I,
)
_SENTENCE_END = re.compile(r"[.!?](?=[\s*\"')\]}]|$)|\n")
_NEXT_SENTENCE = re.compile(r"(?<=[^\s(][^\s(][.!?])\s")  # two signs and a dot: not after "is C."

_LEAD = r"[\s:*_\"'`(\[{$\\~]{0,16}"
_FILLER = (
    r"(?:(?:\\(?:text|textbf|mathrm|mathbf|boxed) ?\{|most|likely|probably|clearly|therefore|thus|indeed"
    rf"|simply|still|to|be|the|option|choice|letter|statement|answer|die|la|le|opci[oó]n|选项){_LEAD}){{0,5}}"
)
# A bare capital "A" or "I" is an English word unless something follows that cannot follow the word.
_LETTER = re.compile(
    _LEAD + r"(?i:" + _FILLER + r")(?:(?<=[(\[{*\"'])([A-Za-z])(?=[)\]}*\"'.:])|([B-HJ-Z])(?![\w'’+])"
    r"|([AI])(?=[).:,;*\]}$\\\"'-]|\s{0,3}$| ?\n| (?:because|since|as|which|for|due|given|\(|[-–—=]))"
    r"|([b-z])(?=[).]?\s{0,3}$|\)))"
)
_HEDGE = re.compile(
    r"[)\]}*]{0,3}(?: (?:or|and|oder|ou|o)|,|/| /) ?(?:option )?[(*]{0,3}([B-HJ-Z]|[AI](?=[).]))(?![\w'’])"
)
_NAMED = re.compile(
    r"\(([A-Z])\)|\b[Oo]ption \(?([B-HJ-Z])\b|\b[Oo]ption ([AI])(?=[.,)]| is\b)"
    r"|\b(?:is|are|as|be|except|the) ([A-Z])\. (?=\w)|\b([A-Z])[*]{0,2} is (?:the )?(?:correct|right|best)\b"
)
# Capitals only: "a)" and "(i)" open the parts of a solution.
_LETTER_LINE = re.compile(r"^[ \t*(\[]{0,6}([A-Z])(?:[)\]*.:]{1,4}(?=\s|$)|\s{0,8}\Z)", re.M)
_ENDS_IN_LETTER_LINE = re.compile(r" (?:is|are|was|were|be|as):[* ]{0,3}\n{1,2}[^\n]{1,480}\Z")
_OPTION_WORD = re.compile(r"(?:option|choice|answer|letter)[ :]{1,3}\(?([a-z])\Z", re.I)

_MARKS = re.compile(r"<<[^<>\n]{0,200}>>")  # GSM8K calculator marks: <<24*2=48>>
_FRAC = re.compile(r"\\[dt]?frac\{([0-9]{1,30})\}\{([0-9]{1,30})\}")
_NUMBER = re.compile(
    r"(?<![0-9A-Za-z_.,])[-+]?(?:[$€£¥₹] ?)?[-+]?(?:[0-9][0-9,]{0,100}(?:\.[0-9]{0,100})?|\.[0-9]{1,100})"
    r"(?![0-9])(?:e[-+]?[0-9]{1,9}(?![0-9]))?(?:/[0-9]{1,30}(?![0-9/]))?",
    re.I,
)
_BARE_NUMBER = re.compile(
    r"([-+]?)(?:[$€£¥₹] ?)?([-+]?)([0-9]{1,100}|[0-9]{1,3}(?:,[0-9]{2,3}){0,29},[0-9]{3})?"
    r"(?:\.([0-9]{0,100}))?(?:e([-+]?[0-9]{1,4}))?(?:/([0-9]{1,30}))? ?[%$€£¥₹°]?[.,]{0,3}",
    re.I,
)
_OPERATOR = re.compile(r" ?(?:[+*×÷=^/] ?[\w($-]|- ?[0-9($]|[xX] ?[0-9])")

_KNOWN_LABELS = ("yes", "no", "true", "false", "valid", "invalid", "positive", "negative", "neutral")
_OPTION = re.compile(
    r"(?P<question>^[ \t*#]{0,6}(?:Q|Question|QUESTION):)"
    r"|^[ \t*>]{0,8}(?:[Oo]ptions? {0,2}: {0,2})?(?:\(([A-Z])\)|([A-Z])[.):])(?=[ \t*])"
    r"|(?P<inline>(?<=[ \t])\(([A-Z])\)(?= ))",
    re.M,
)
_LABEL_LINES = re.compile(r":[ \t]{0,8}\n((?:[ \t]{0,4}[-•][ \t][^\n]{1,40}(?:\n|\Z)){2,12})")
_ASKS_NUMBER = re.compile(r"\bhow (?:many|much)\b|\bcalculate\b|\bcompute\b", re.I)


def extract(text: str | None, kind: AnswerKind, *, options: Sequence[str] = ()) -> str | None:
    r"""Normalised answer stated in a response, or None when it states none.

    options: letters of a choice or labels of a label; answers outside them are passed over. Empty: unknown.
    A text without a statement is the whole response; other kinds are searched in the last TAIL characters.
    >>> extract("So 24*2=<<24*2=48>>48 in all.\nA: 48", "number")
    '48'
    >>> extract("The answer is not B. Therefore the answer is (C).", "choice")
    'C'
    """
    if text is None:
        return None
    tail = _narrow(text[-TAIL:])
    if kind == "number":
        tail = _FRAC.sub(r"\1/\2", _MARKS.sub("", tail).replace("{,}", ",").replace("\\,", ""))
    allowed = tuple(form for option in options if (form := normalise(option, kind)) is not None)
    for pattern in (_CUE, _LOOSE_CUE) if kind == "choice" else (_CUE,):
        for span, deliberate in _statements(tail, pattern):
            # Prose may say "the answer is" anywhere; only in its last paragraph is that the answer.
            if kind == "text" and not deliberate and "\n\n" in span.strip():
                continue
            found = _announced(span, kind, allowed)
            if found is not None:
                return found
    if kind == "text":
        return normalise(text, "text")
    return None if _REFUSES.search(tail[-600:]) else _unannounced(tail.strip(), kind, allowed)


def normalise(value: str, kind: AnswerKind) -> str | None:
    """Canonical form of a bare value, or None when it is not a value of that kind.

    value: a reference, an option or an extracted span, without the sentence around it.
    Idempotent: a canonical form is its own canonical form. The forms are listed in the module docstring.
    >>> normalise("$1,200.50", "number"), normalise("b)", "choice"), normalise(" Yes! ", "label")
    ('1200.5', 'B', 'yes')
    """
    if kind == "number":
        return _number(_narrow(value.strip()[: 3 * MAX_DIGITS + 1]))
    if kind == "choice":
        narrow = _narrow(value.strip()[:SPAN])
        bare = narrow.strip(_OUTER + "\n\t")
        if len(bare) != 1:
            match = _LETTER_LINE.match(narrow) or _OPTION_WORD.match(bare)
            bare = match.group(1) if match else ""
        return bare.upper() if bare.isascii() and bare.isalpha() else None
    if kind == "label":
        return _fold(" ".join(_narrow(value).split()).strip(_OUTER)) or None
    collapsed = " ".join(_BROKEN.sub("\ufffd", value).split())
    return _fold(collapsed.lstrip(_QUOTES).rstrip(_QUOTES + ".")) or None


def infer_kind(reference: str | None, prompt: str) -> AnswerKind:
    """Kind of answer an item asks for, told from the format of its reference and prompt.

    A single letter, or a small whole number under lettered options (the index of an option), is a choice;
    any other number is a number; a listed or well-known label is a label; everything else is a text.
    Without a reference the options decide, then the words of the question.
    """
    options = options_in(prompt)
    lettered = bool(options) and all(len(option) == 1 for option in options)
    if reference is None:
        if options:
            return "choice" if lettered else "label"
        return "number" if _ASKS_NUMBER.search(prompt[-TAIL:]) else "text"
    letter = normalise(reference, "choice")
    if letter is not None and (letter in options or len(reference.strip(_OUTER)) == 1):
        return "choice"
    number = normalise(reference, "number")
    if number is not None:
        index = lettered and len(number) <= 2 and number.isdecimal() and int(number) < len(options)
        return "choice" if index else "number"
    label = normalise(reference[: 2 * SPAN], "label")
    listed = {normalise(option, "label") for option in options} - {None}
    return "label" if label in listed or label in _KNOWN_LABELS else "text"


def options_in(prompt: str) -> tuple[str, ...]:
    """Option letters, or else labels, listed in the last question of a prompt; empty when none.

    Letters lead their lines ("A. x", "(A) x", "A) x") or stand in one line as "(A) x (B) y"; they run from A
    without a gap and are at least two. Labels are two to twelve lines "- Yes" of at most three words after a
    line ending in ":". A line starting with "Q:" or "Question:" begins a new question.
    """
    tail = _narrow(prompt[-TAIL:])
    start, lines, inline = 0, "", ""
    for match in _OPTION.finditer(tail):
        if match["question"]:
            start, lines, inline = match.end(), "", ""
        lines += match[2] or match[3] or ""
        inline += match[2] or match[5] or ""  # "(A) x (B) y": the first one leads its line
    return _last_run(lines) or _last_run(inline) or _labels_in(tail[start:])


def agrees(response: str | None, reference: str, prompt: str) -> bool:
    """Whether a response states an answer and it equals the normalised reference of its item."""
    kind = infer_kind(reference, prompt)
    expected = normalise(reference, kind)
    return expected is not None and extract(response, kind, options=options_in(prompt)) == expected


def _last_run(letters: str) -> tuple[str, ...]:
    """The last run A, B, ... of at least two letters; letters out of order are passed over."""
    run, complete = "", ""
    for letter in letters:
        run = "" if letter == "A" else run
        run += letter if letter == chr(ord("A") + len(run)) else ""
        complete = run if len(run) > 1 else complete
    return tuple(complete)


def _narrow(text: str) -> str:
    """The text with full-width forms made ASCII and characters that cannot be stored replaced."""
    return text if text.isascii() and "\x00" not in text else _BROKEN.sub("\ufffd", text).translate(_WIDE)


def _fold(text: str) -> str:
    """Collapsed text, each word case folded and NFC."""
    return " ".join(word.lower() if word.isascii() else _fold_word(word) for word in text.split(" "))


def _fold_word(word: str) -> str:
    """One word, decomposed (which makes folding idempotent), case folded and composed."""
    if len(word) > MAX_WORD:
        return word
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", word).casefold())


def _number(value: str) -> str | None:
    """Plain decimal or reduced fraction of a bare number, None for anything else or over MAX_DIGITS."""
    match = _BARE_NUMBER.fullmatch(value) if len(value) <= 3 * MAX_DIGITS else None
    if match is None or not (match[3] or match[4]) or (match[1] and match[2]):
        return None
    sign = "-" if "-" in (match[1], match[2]) else ""
    whole, decimals = (match[3] or "").replace(",", ""), match[4] or ""
    if match[6] is None:
        return _plain(sign, whole + decimals, len(whole) + int(match[5] or 0))
    if decimals or match[5] or len(whole) > 30 or not int(match[6]):
        return None
    top, bottom = int(whole), int(match[6])
    top, bottom = top // gcd(top, bottom), bottom // gcd(top, bottom)
    shift = bottom.bit_length()  # 10**shift is a multiple of bottom exactly when 2 and 5 are its only primes
    if 10**shift % bottom:
        return f"{sign}{top}/{bottom}"
    digits = str(top * (10**shift // bottom)).rjust(shift + 1, "0")
    return _plain(sign, digits, len(digits) - shift)


def _plain(sign: str, digits: str, point: int) -> str | None:
    """Decimal string of `digits` with the decimal point after `point` of them."""
    # Strings, not Decimal or int: no context, no rounding, no limit of 4,300 digits to trip over.
    if abs(point) > MAX_DIGITS:
        return None if digits.strip("0") else "0"
    padded = digits.rjust(len(digits) - point, "0") if point < 0 else digits.ljust(point, "0")
    whole, rest = padded[: max(point, 0)].lstrip("0") or "0", padded[max(point, 0) :].rstrip("0")
    plain = f"{whole}.{rest}" if rest else whole
    signed = plain if plain == "0" else sign + plain
    return signed if len(plain) < MAX_DIGITS else None


def _statements(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[str, bool]]:
    """What follows each cue, last cue first, and whether the cue is deliberate: boxed or leading its line."""
    matches = list(pattern.finditer(text))
    if matches:
        ends = [m.start() for p in (_NEXT_QUESTION, _RECAP) if (m := p.search(text, matches[0].end()))]
        text = text[: min(ends, default=len(text))]
    for match in reversed(matches):
        if match.start() >= len(text) or _DENIED.search(text[max(0, match.start() - 48) : match.start()]):
            continue
        if match.groupdict().get("boxed") is None:
            before = text[max(0, match.start() - 4) : match.start()].rstrip(" *#")
            yield text[match.end() :], not before or before.endswith("\n")
        elif (inside := _braced(text, match.end())) is not None:
            yield inside, True


def _braced(text: str, start: int) -> str | None:
    """The text from `start` to its closing brace, or None when it is not closed within SPAN characters."""
    depth = 1
    for index in range(start, min(len(text), start + SPAN)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[start:index].strip("{} ")
    return None


def _announced(span: str, kind: AnswerKind, allowed: tuple[str, ...]) -> str | None:
    """The value announced at the start of a span, or None when there is none of that kind."""
    if kind == "text":
        return normalise(span.lstrip(" \t\r\n:*").partition("\n")[0], "text")
    head = span[:SPAN].lstrip(" \t\r\n:*$[\\")
    sentence = _SENTENCE_END.split(head, maxsplit=1)[0]
    if kind == "number":
        return _announced_number(sentence)
    if kind == "label":
        return _announced_label(sentence, allowed)
    match = _LETTER.match(span[:SPAN])
    if match is None:
        return _only_letter(sentence, allowed)
    letter = next(group for group in match.groups() if group).upper()
    hedge = _HEDGE.match(span[:SPAN], match.end())
    return letter if (not allowed or letter in allowed) and (hedge is None or hedge[1] == letter) else None


def _announced_number(sentence: str) -> str | None:
    """First number of a sentence, or the result when the sentence opens with a calculation."""
    first = _NUMBER.search(sentence)
    if first is None or _NEGATION.search(sentence, 0, first.start()):
        return None
    if _OPERATOR.match(sentence, first.end()):
        first = _NUMBER.search(sentence, sentence.rfind("=") + 1) if "=" in sentence else None
    return _number(first[0]) if first else None


def _announced_label(sentence: str, allowed: tuple[str, ...]) -> str | None:
    """Label a sentence opens with or names alone; any short sentence when the labels are unknown."""
    label = normalise(sentence, "label") or ""
    known = allowed or _KNOWN_LABELS
    opening = [name for name in known if re.match(re.escape(name) + r"(?!\w)", label)]
    if opening:
        return max(opening, key=len)
    named = [name for name in known if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", label)]
    if _NEGATION.search(label) or len(named) > 1:
        return None
    return named[0] if named else label if label and not allowed and len(label.split()) <= 4 else None


def _only_letter(sentence: str, allowed: tuple[str, ...]) -> str | None:
    """The one option letter a sentence names in brackets or as "option X"; None when negated or several."""
    letters = {next(group for group in match.groups() if group) for match in _NAMED.finditer(sentence)}
    if len(letters) != 1 or _NEGATION.search(sentence):
        return None
    return letters.pop() if not allowed or letters <= set(allowed) else None


def _unannounced(text: str, kind: AnswerKind, allowed: tuple[str, ...]) -> str | None:
    """Answer of a response without a cue: it is the answer, opens with it, or concludes with it."""
    first_line, last_line = text.partition("\n")[0][:SPAN], text.rpartition("\n")[2][-2 * SPAN :].strip(" *")
    closing = _NEXT_SENTENCE.split(last_line)[-1]
    if not closing.endswith((".", "!", ")", "]")) or not (closing == text or _CONCLUDES.search(closing)):
        closing = ""  # unfinished, or not a conclusion
    # A line "3." or "C. Foo" may open the next item of a list that was cut off.
    alone = text == last_line or not re.search(r"\w[.)] |\w[.)]\Z", last_line)
    bare = normalise(last_line, kind) if alone and len(last_line) < MAX_DIGITS else None
    if kind == "label":
        opening = normalise(re.split(r"[,.:;!]", first_line.lstrip(_OUTER), maxsplit=1)[0], "label")
        known = allowed or _KNOWN_LABELS
        if opening in known or bare in known:
            return opening if opening in known else bare
        if not allowed and text == last_line and len(text.split()) <= 3:
            return bare
        return _announced_label(closing, known) if closing else None
    if kind == "number":
        short = text == last_line and len(text) <= SPAN and (closing or len(text.split()) <= 8)
        if bare is None and short and (len(_NUMBER.findall(text)) == 1 or "=" in text):
            return _announced_number(text)
        stated = _NUMBER.findall(closing)
        return bare or (_number(stated[-1]) if stated else None)
    leading = {bare} if bare else {match[1] for match in _LETTER_LINE.finditer(text)}
    leads = bare or _LETTER_LINE.match(first_line) or _ENDS_IN_LETTER_LINE.search(text[-2 * SPAN - 8 :])
    if leads and len(leading) == 1 and (not allowed or leading <= set(allowed)):
        return leading.pop()
    return _only_letter(closing, allowed)


def _labels_in(question: str) -> tuple[str, ...]:
    """Labels of the last bulleted list of short items."""
    blocks = _LABEL_LINES.findall(question)
    labels = tuple(line.strip(" \t-•*") for line in blocks[-1].splitlines()) if blocks else ()
    return labels if all(label and len(label.split()) <= 3 for label in labels) else ()
