"""How many tokens a text has, from its characters alone: a linear function of which kind follows which.

Each character is one of 16 kinds (lower case, digit, blank, Cyrillic ...). A character costs what its kind costs,
more or less where the kind before it changes that: a word that begins after a bracket, a digit after a digit. One
pass makes the counts of all pairs of kinds; their costs are whole thousandths of a token, so that the same text has
the same estimate on every machine.

The costs were fitted on 2026-11-29, by least squares on relative errors, to exact counts of one half of the prompts of
ten recordings (the half whose SHA-256 begins with an odd byte), answers in them, Python, JavaScript and HTML, and texts
in 106 languages: messages of Django 5.2. Vocabularies: cl100k_base and o200k_base of tiktoken; those of Llama 3 and 4
(llama-models 0.3.0); version 3 and tekken of Mistral (mistral-common 1.13.1); Qwen (dashscope 2.0.2). `anthropic` was
fitted to the usage that claude-3-haiku reported for its half of 809 prompts and answers, near the costs of cl100k_base
and o200k_base where those say nothing. Where a family has several vocabularies, the costs are a compromise of all.

For Gemini no real count was at hand: what router_arena_2models says of it is 1.3 times the number of words, rounded
down, for each of its 809 prompts. It gets the costs and the band of `other`, which are those of all vocabularies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# n line breaks and tabs, _ blank, . all else in ASCII that is no letter and no digit, l Latin with marks, c Greek and
# Cyrillic, h Hebrew, Arabic and their neighbours, i Indic and Thai, v Vietnamese and others of U+1xxx, s symbols,
# z Han, k Kana, g Hangul, e what is beyond U+FFFF.
_KINDS = "n_aA0.lchivszkge"
# What each kind costs, and what the second of a pair costs more or less, in thousandths of a token.
_COSTS = """
     o200k_base cl100k_base      openai   anthropic       llama     mistral        qwen       other
n            59          30          30         156          30          44          30          30
_           561         503         533         651         532         445         494         508
a           102         116         108          88         109         137         118         117
A           416         599         508         577         511         524         584         527
0          1555        1553        1559        1602        1566        1507        1609        1565
.           544         560         552         670         545         677         572         584
l          1331        1404        1432        1512         842        1691         912        1245
c           900        1258        1116        1178         993         871        1177        1029
h           326         971         471         726         466         538         523         493
i           352        1365         514        1010         558         676        1162         614
v           350        1811         514        1210         579         715        1012         625
s          1552        2040        1778        2000        1726        2198        2082        1896
z           803        1104         920        1165         722        1026         683         832
k           620         906         725         857         497         752         590         621
g           550         957         699         844         519         780         680         649
e          1296        1838        1526        1760        1556        2290        1255        1666
__         -509        -449        -483        -528        -477        -351        -442        -446
an          920         759         864         905         870         765         777         839
a.          444         393         435         694         437         449         373         430
00        -1312       -1305       -1309       -1419       -1308        -374        -517       -1043
A.          625         379         500         564         449         525         362         466
na         1232        1288        1255        1420        1266        1454        1315        1326
0_         -324        -269        -305         -23        -336        -171        -245        -255
la          219        1627         713        1064        1204         508        1961         976
0a          624         606         613         345         618         773         546         646
An         1322        1040        1185        1303        1125        1372        1072        1216
n.          228         171         182         322         192         379         140         224
..         -253        -281        -264        -198        -277        -337        -297        -292
nn          -31         -44         -24         -79         -23         308         -45           8
aA          -11        -530        -254        -186        -233        -305        -531        -303
AA         -306        -500        -402        -440        -404        -302        -480        -395
cc         -723        -788        -867        -846        -788        -547        -847        -768
ss         -649       -1171        -630       -1019        -586        -591       -1834        -756
ee          334         513         408         474         618         625        -101         393
"""
SLACK = 2  # tokens on either side of every band: for short texts factors alone are no band
_BLOCK = 2**18  # characters at once: what is made of them stays in the cache
_CONTINUATION = bytes(range(0x80, 0xC0))  # bytes that go on with a character
_LETTERS = "lchivzkg"  # kinds of letters beyond ASCII


# Words that few other languages have: a text of letters without them is in one that makes do with ASCII, or in none.
_ENGLISH = tuple(
    f" {word} ".encode()
    for word in (
        "the", "and", "that", "with", "this", "are", "you", "from", "what", "how", "which", "be", "it", "not", "was",
        "your", "have",
    )
)  # fmt: skip
_SHORTEST = 40  # characters of a text that is long enough to tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Factors on an estimate between which, SLACK aside, the true count lies for at least nine of ten texts.

    low, high: of a text in English, and of code and data in ASCII. high_plain: of words in ASCII that are not English.
    low_other, high_other: of a text with more than one letter in a hundred characters beyond ASCII.
    """

    low: float
    high: float
    low_other: float
    high_other: float
    high_plain: float = 2.2


# No narrower than the 5th and the 95th percentiles of each of the ten recordings and of code, estimated by costs that
# were fitted without it, and of other scripts, by costs without their language. Widened on 2026-11-29 for what they had
# not shown: readmes, licences, C, Perl and JavaScript, and messages of GNU and GNOME programs in half of 100 languages.
_BANDS: Mapping[str, Band] = MappingProxyType(
    {
        "o200k_base": Band(low=0.82, high=1.20, low_other=0.74, high_other=1.65),
        "cl100k_base": Band(low=0.82, high=1.20, low_other=0.68, high_other=1.55),
        "openai": Band(low=0.82, high=1.20, low_other=0.66, high_other=2.46),
        "anthropic": Band(low=0.82, high=1.20, low_other=0.63, high_other=2.41),
        "llama": Band(low=0.82, high=1.20, low_other=0.64, high_other=2.80),
        "mistral": Band(low=0.83, high=1.30, low_other=0.60, high_other=2.40, high_plain=2.4),
        "qwen": Band(low=0.82, high=1.20, low_other=0.60, high_other=1.75),
        "gemini": Band(low=0.74, high=1.40, low_other=0.58, high_other=2.80, high_plain=2.4),
        "other": Band(low=0.74, high=1.40, low_other=0.58, high_other=2.80, high_plain=2.4),
    }
)
FAMILIES = tuple(_BANDS)


def likely_tokens(text: str, family: str) -> tuple[int, float, float]:
    """The estimate for a text that is not empty, >= 1, and the factors on it that make its band.

    family: one of FAMILIES. Linear in the length of the text.
    """
    encoded = text.encode("utf-8", "replace")
    pairs = _pairs(encoded)
    cost, balance = (pairs @ _costs(family)).tolist()
    band = _BANDS[family]
    low, high = (band.low_other, band.high_other) if balance > 0 else (band.low, band.high)
    if balance <= 0 and _is_plain(encoded, pairs):
        high = max(high, band.high_plain)
    return max(1, (cost + 500) // 1000), low, high


def _is_plain(encoded: bytes, pairs: np.ndarray) -> bool:
    """Whether a text is of words in ASCII, as code and data are not, and none of them English."""
    kinds = dict(zip(_KINDS, pairs.reshape(16, 16).sum(axis=0).tolist(), strict=True))
    letters, size = kinds["a"] + kinds["A"], sum(kinds.values())
    if size < _SHORTEST or letters < 0.7 * size or kinds["."] > 0.08 * size:
        return False
    lower = encoded.lower()
    return bool(200 * sum(lower.count(word) for word in _ENGLISH) < letters)


def _pairs(encoded: bytes) -> np.ndarray:
    """How often each kind follows each, 256 counts; the first character follows a line break."""
    import numpy as np

    # One byte stays for each character, and becomes its kind.
    kinds = b"\0" + encoded.translate(_kinds(), _CONTINUATION)
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, len(kinds) - 1, _BLOCK):
        block = np.frombuffer(kinds, dtype=np.uint8, count=min(_BLOCK + 1, len(kinds) - start), offset=start)
        counts += np.bincount(block[:-1] * np.uint8(16) + block[1:], minlength=256)
    return counts


@cache
def _kinds() -> bytes:
    """The kind of a character by its first byte in UTF-8."""
    ranges = (
        (0x00, 0x7F, "."), (0x09, 0x0D, "n"), (0x20, 0x20, "_"), (0x30, 0x39, "0"), (0x41, 0x5A, "A"),
        (0x61, 0x7A, "a"), (0xC0, 0xC2, "."), (0xC3, 0xCD, "l"), (0xCE, 0xD3, "c"), (0xD4, 0xDF, "h"),
        (0xE0, 0xE0, "i"), (0xE1, 0xE1, "v"), (0xE2, 0xE2, "s"), (0xE3, 0xE3, "k"), (0xE4, 0xE9, "z"),
        (0xEA, 0xED, "g"), (0xEE, 0xEF, "s"), (0xF0, 0xFF, "e"),
    )  # fmt: skip
    table = bytearray(256)
    for first, last, kind in ranges:  # the later ones lie inside the first
        table[first : last + 1] = bytes([_KINDS.index(kind)]) * (last - first + 1)
    return bytes(table)


@cache
def _costs(family: str) -> np.ndarray:
    """For the second of each pair, 256 rows: what it costs in thousandths of a token, and 99 or -1.

    The latter sum up to more than 0 where more than one character in a hundred is a letter beyond ASCII.
    """
    import numpy as np

    families, *rows = (line.split() for line in _COSTS.strip().splitlines())
    column = 1 + families.index("other" if family == "gemini" else family)
    figures = {row[0]: int(row[column]) for row in rows}
    costs = [max(0, figures[second] + figures.get(first + second, 0)) for first in _KINDS for second in _KINDS]
    return np.array([costs, [99 if second in _LETTERS else -1 for second in _KINDS] * 16], dtype=np.int64).T
