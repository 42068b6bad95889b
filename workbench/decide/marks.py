"""Where quotations and code stand in a text, in whatever way they are marked.

Where marks are ambiguous more is taken for marked than less: what is marked is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Part = tuple[int, int, str]  # start, end, value

# A mark that is not closed holds as far as it can.
_QUOTED = re.compile(
    r"“+[^“”]*”?|„+[^„“”]*[“”]?|«+[^«»]*»?|»[^«»]*«|‹+[^‹›]*›?|「+[^「」]*」?|『+[^『』]*』?|《+[^《》]*》?|``[^`']*''"
)
_SINGLY_QUOTED = re.compile(
    r"(?<![\w'])'(?=[^\s'])[^'\n]*(?:(?<=\w)'(?=\w)[^'\n]*){0,50}'(?!\w)"
    r"|‘+[^‘’\n]*(?:’(?=\w)[^‘’\n]*){0,50}’?|‚[^‚‘’\n]*[‘’]?"
)
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.M)
_TICKS = re.compile(r"`+")
_INDENTED = re.compile(r"^(?: {4}|\t)[ \t]*\S[^\n]*", re.M)


def matches(pattern: re.Pattern[str], text: str, signs: str) -> list[Part]:
    """Every match, where there is one of the signs that it needs: looking for a sign costs next to nothing."""
    if not any(sign in text for sign in signs):
        return []
    return [(m.start(), m.end(), m[0]) for m in pattern.finditer(text)]


def quotations(text: str) -> Iterator[Part]:
    """What stands between quotation marks of any style, with its marks; one style after the other."""
    yield from matches(_QUOTED, text, "“„«»‹「『《`")
    yield from matches(_SINGLY_QUOTED, text, "'‘‚")
    if '"' in text:
        yield from _straight(text)


def _straight(text: str) -> Iterator[Part]:
    """What stands between straight double marks, which do not tell whether they open or close.

    One before a space does not open unless a space is before it too, and one after a space does not close unless a
    space follows: so the inches of a 6" pipe open nothing. One that is not closed holds to the end of its paragraph.
    One that closes nothing may show that marks before it were taken for others: it holds back to them in its line.
    """
    opened: int | None = None
    last = -1  # where the mark before ends
    for match in re.finditer('"+', text):
        start, end = match.span()
        before, after = text[start - 1 : start] or " ", text[end : end + 1] or " "
        opens, closes = not after.isspace() or before.isspace(), not before.isspace() or after.isspace()
        if opened is None and opens:
            opened = start
        elif opened is None:
            if last >= 0 and "\n" not in text[last:start]:
                yield last, end, text[last:end]
        elif closes:
            yield opened, end, text[opened:end]
            opened = None
        else:  # a second one that opens: the first had no end, or was none
            yield opened, start, text[opened:start]
            opened = start
        last = end
    if opened is not None:
        end = text.find("\n\n", opened)
        end = len(text) if end < 0 else end
        yield opened, end, text[opened:end]


def code(text: str) -> list[Part]:
    """In the order of the text: fenced blocks, what stands between equally many backticks, and indented lines.

    Backticks are paired through fences too: where a fence begins inside of a line, nobody can say what it closes.
    """
    spans: list[tuple[int, int]] = []
    if "```" in text or "~~~" in text:
        opened: re.Match[str] | None = None
        for mark in _FENCE.finditer(text):
            if opened is None:
                opened = mark
            elif mark[1][0] == opened[1][0] and len(mark[1]) >= len(opened[1]):
                spans.append((opened.start(), mark.end()))
                opened = None
        if opened is not None:
            spans.append((opened.start(), len(text)))
    if "`" in text:
        spans += _between_ticks(text)
    if "    " in text or "\t" in text:
        spans += [m.span() for m in _INDENTED.finditer(text)]
    return [(start, end, text[start:end].rstrip()) for start, end in sorted(set(spans))]


def _between_ticks(text: str) -> Iterator[tuple[int, int]]:
    runs = [m.span() for m in _TICKS.finditer(text)]
    following: dict[int, int] = {}  # length -> index of the next run of it
    partner = [0] * len(runs)
    for i in range(len(runs) - 1, -1, -1):
        length = runs[i][1] - runs[i][0]
        partner[i] = following.get(length, 0)
        following[length] = i
    i = 0
    while i < len(runs):
        if partner[i]:
            yield runs[i][0], runs[partner[i]][1]
            i = partner[i]
        i += 1
