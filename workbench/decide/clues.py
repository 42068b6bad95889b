"""Clues in the responses to one item: what speaks for a solution beside who wrote it.

All are facts of the texts themselves, need no reference, and are compared within the item: a hard question makes every
response long. Time is linear in the length of the texts; a text beyond READ characters is read up to there.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

import numpy as np

from workbench.decide.votes import Floats

READ = 20_000
CLUES = ("wrong_arithmetic", "right_arithmetic", "relative_length", "shared_words")
_FIGURE = r"[$€£]?(\d[\d,]{0,18}(?:\.\d{1,12})?)%?"
_EQUATION = re.compile(rf"(?<![\d.,]){_FIGURE} ?([-+*/x×÷]) ?{_FIGURE} ?= ?{_FIGURE}(?![\d%])")
_WORD = re.compile(r"\w{1,64}")


@lru_cache(maxsize=8192)
def clues_of(texts: tuple[str | None, ...]) -> Floats:
    """M x len(CLUES) for the M responses to one item; 0 for a member without one.

    wrong_arithmetic, right_arithmetic: 1 where an equation of two numbers in the text is wrong; where all there are are
    right. relative_length: logarithm of the length over the item's mean logarithm. shared_words: mean share of
    words in common with each other response (Jaccard 1912), in [0, 1].
    """
    read = [None if text is None else text[:READ] for text in texts]
    found = np.zeros((len(texts), len(CLUES)))
    there = [j for j, text in enumerate(read) if text is not None]
    words = {j: frozenset(_WORD.findall(str(read[j]).lower())) for j in there}
    lengths = {j: math.log1p(len(str(read[j]))) for j in there}
    mean = sum(lengths.values()) / max(1, len(there))
    for j in there:
        right, wrong = arithmetic(str(read[j]))
        others = [len(words[j] & words[k]) / (len(words[j] | words[k]) or 1) for k in there if k != j]
        found[j] = (wrong > 0, right > 0 and not wrong, lengths[j] - mean, sum(others) / max(1, len(others)))
    found.flags.writeable = False  # the same array is handed out again
    return found


def arithmetic(text: str) -> tuple[int, int]:
    """How many equations of the form "a + b = c" in a text are right, and how many wrong; 1 % off is rounding.

    >>> arithmetic("2 + 3 = 5 apples, then 5 * 4 = 21")
    (1, 1)
    """
    right = wrong = 0
    for first, sign, second, told in _EQUATION.findall(text):
        a, b, c = (float(figure.replace(",", "")) for figure in (first, second, told))
        if sign in "/÷" and not b:
            continue
        value = {"+": a + b, "-": a - b}.get(sign, a / b if sign in "/÷" else a * b)
        if abs(value - c) <= 0.01 * max(1.0, abs(value)):
            right += 1
        else:
            wrong += 1
    return right, wrong
