r"""Whether one text is a copy of another: a leakage guard, apart from what the texts mean.

Two texts are near duplicates when

- NEAR of the shingles (5 letters in a row without white space, punctuation and digits; a CJK character counts as two)
  of the text with fewer occur in the other one, SAME_WORDS of the letters of the shorter text are in words that the
  longer one has, with one typo at most, and SAME_NUMBERS of the numbers of one are in the other: a copy with typos, in
  another case, with other space or punctuation, with its options in another order, or inside a longer text;
- or ONE_PIECE of the shorter text stands in the longer one in one piece, and no number differs outside of it.

So the same words with other numbers are another question. The guard rather excludes too much: questions of a few words,
long frames (instructions, worked examples) around short questions, and tasks with a closed vocabulary look like
copies of each other. Index the question, not the frame. It knows no meaning: a paraphrase passes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint32]

LONGEST = 20_000  # characters of a text that are read
SHINGLE = 5  # letters
NEAR = 0.6  # share of shingles; in steps of 0.1 the largest that finds 99.5 % of every kind of copy (see the tests)
SAME_NUMBERS = 0.9  # share of numbers
SAME_WORDS = 0.85  # share of letters; more would miss copies of short texts with two typos
ONE_PIECE = 0.78  # share of a text as normalised: what is 80 % of it as written can be somewhat less
PIECE = 512  # characters that are normalised at once: sorting the marks on one letter takes quadratic time
_SOLID = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao, Burmese, Khmer
    r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han, Hangul
)
_TOKEN = re.compile(rf"\d+|[{_SOLID}]+|[^\s\d{_SOLID}]+")
_NUMBER = re.compile(r"(?<= )\d+(?= )")
_UNIT = re.compile(rf"[{_SOLID}]|[^\s\d{_SOLID}]+")
_UNSPACED = re.compile(f"[{_SOLID}]")
_WIDE = 0x3040  # from the kana on a character says as much as two letters
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: no letter of a shingle is lost modulo 2**64


def near_duplicate(text: str, other: str) -> bool:
    """Whether two texts are near duplicates as the guard sees it; symmetric.

    >>> near_duplicate("How many eggs are left?", "please:  how many egs are LEFT")
    True
    >>> near_duplicate("Ann has 3 eggs. How many are left?", "Ann has 5 eggs. How many are left?")
    False
    """
    return alike(read(text)[0], read(other)[0])


# -- texts


class _Letters(dict[int, str | None]):
    """What a character becomes: letters, marks and symbols stay, digits become ASCII, the rest a space or nothing."""

    def __missing__(self, code: int) -> str | None:
        char = chr(code)
        kind = unicodedata.category(char)
        made: str | None = " "
        if kind == "Nd":
            made = str(unicodedata.decimal(char))
        elif kind == "So":
            made = f" {char} "
        elif kind == "Cf":  # joiners and soft hyphens do not part a word
            made = None
        elif kind[0] in "LMN" or kind in ("Cs", "Co", "Cn"):
            made = char
        if len(self) < 1 << 16:
            self[code] = made
        return made


_LETTERS = _Letters()


@dataclass(frozen=True, slots=True)
class Text:
    """What the guard compares. spaced: tokens between spaces. shingles: distinct, sorted. numbers: in their order."""

    spaced: str
    shingles: Hashes
    numbers: tuple[str, ...]


def read(text: str) -> tuple[Text, list[str]]:
    """A text as the guard compares it, and its distinct words in alphabetical order."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} {text[-(LONGEST // 2) :]}"
    if not text.isascii():
        pieces = (text[at : at + PIECE] for at in range(0, len(text), PIECE))
        text = "".join(unicodedata.normalize("NFKC", piece) for piece in pieces)[: 2 * LONGEST]
    tokens = _TOKEN.findall(text.casefold().translate(_LETTERS))
    letters = [token for token in tokens if not token.isdecimal()]
    words = set(letters)
    if not text.isascii():
        solid = [token for token in words if len(token) > 2 and _UNSPACED.match(token)]
        words.difference_update(solid)
        words.update("".join(pair) for token in solid for pair in pairwise(token))
    numbers = tuple(token for token in tokens if token.isdecimal())
    if numbers:
        words.add("0")
    return Text(f" {' '.join(tokens)} ", _shingles("".join(letters)), numbers), sorted(words)


def _shingles(letters: str) -> Hashes:
    codes = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    if not letters.isascii():
        codes = np.repeat(codes, 1 + (codes >= _WIDE))
    length = max(0, len(codes) - SHINGLE + 1)
    hashes = codes[:length]
    for shift in range(1, SHINGLE if length else 1):
        hashes = hashes * _FACTOR + codes[shift : shift + length]
    return np.unique((hashes >> np.uint64(32)).astype(np.uint32))


def alike(one: Text, other: Text) -> bool:
    """`near_duplicate` of texts that were read."""
    if one.spaced == other.spaced:
        return True
    short, long = sorted((one, other), key=lambda text: (len(text.spaced), text.spaced))
    numbers = _shared_numbers(short.numbers, long.numbers)
    mine, others = SAME_NUMBERS * len(short.numbers), SAME_NUMBERS * len(long.numbers)
    if (numbers >= mine or numbers >= others > 0) and len(short.shingles) and len(long.shingles):
        both = np.sort(np.concatenate([short.shingles, long.shingles]))
        shared = np.count_nonzero(both[1:] == both[:-1]) / min(len(short.shingles), len(long.shingles))
        if shared >= NEAR and _same_words(short.spaced, long.spaced):
            return True
    return _contains(long.spaced, short.spaced, 0 if numbers >= min(mine, others) else len(short.numbers))


def _shared_numbers(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    if "".join(one) == "".join(other):  # 1,000 is 1000, and 1,2 is 1, 2
        return max(len(one), len(other))
    return sum((Counter(one) & Counter(other)).values())


def _same_words(short: str, long: str) -> bool:
    """Whether nearly all of `short` are words that `long` has, with one typo at most, or holds in its letters."""
    mine, others = Counter(_units(short)), Counter(_units(long))
    letters, spare = long.replace(" ", ""), (1 - SAME_WORDS) * len("".join(mine.elements()))
    missing = [word for word in mine if word not in others and word not in letters]
    if sum(len(word) * mine[word] for word in missing) <= spare:
        return True
    typos = {cut for word in others - mine for cut in _cuts(word)}
    for word in missing:
        spare -= len(word) * mine[word] * typos.isdisjoint(_cuts(word))
        if spare < 0:
            return False
    return True


def _units(text: str) -> list[str]:
    """Words without numbers; in scripts without spaces, characters."""
    return [word for word in text.split() if not word.isdecimal()] if text.isascii() else _UNIT.findall(text)


def _cuts(word: str) -> set[str]:
    """A word and what is left without one of its letters: words one typo apart have one of these in common."""
    if not 4 <= len(word) <= 30:
        return {word}
    return {word, *(word[:i] + word[i + 1 :] for i in range(len(word)))}


def _contains(long: str, short: str, numbers: int) -> bool:
    """Whether ONE_PIECE of `short`, and of its numbers, stand in `long` in one piece.

    Every such piece holds the middle of `short`. The places where that is found do not overlap, so that looking at
    the edges of all of them is linear.
    """
    edge = int(len(short) * (1 - ONE_PIECE))
    left, middle, right = short[:edge], short[edge : len(short) - edge], short[len(short) - edge :]
    at = long.find(middle)
    while at >= 0:
        end = at + len(middle)
        before = _common(left[::-1], long[max(0, at - edge) : at][::-1])
        after = _common(right, long[end : end + edge])
        piece = long[at - before : end + after]
        if len(piece) >= len(short) - edge and len(_NUMBER.findall(piece)) >= ONE_PIECE * numbers:
            return True
        at = long.find(middle, end)
    return False


def _common(one: str, other: str) -> int:
    """Number of letters that two texts begin with alike."""
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)


# -- the index
