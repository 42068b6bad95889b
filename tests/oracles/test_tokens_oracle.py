"""Token counts against rs-bpe, a tokenizer of its own with tables of its own, on 10 MB of mixed text."""

from __future__ import annotations

import random
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pytest

from oracles.environment import answer, python
from workbench.act.vocab import load
from workbench.decide.tokens import ENCODINGS
from workbench.errors import LLMValidationError

REQUIREMENTS = ("rs-bpe==0.1.0",)
SCRIPT = Path(__file__).with_name("count_tokens.py")
SIZE = 10_000_000  # bytes of UTF-8
LONGEST = 4000  # characters

WORDS = {
    "english": "the of experiment weights don't I'll WE'VE model's merging unrecognisable a I answer, reply; better",
    "german": "der Straße Übertragungsgeschwindigkeit größer ähnlich nicht, GRÖSSE für können daß",
    "french": "l'été où garçon cœur d'aujourd'hui naïve ÉCOLE",
    "vietnamese": "Tiếng Việt được những người không",
    "russian": "Привет мир нейросеть Ёлка не",
    "greek": "Ελληνικά και λόγος ΤΟ ς",
    "arabic": "مرحبا بالعالم النموذج لا إله",
    "hebrew": "שלום עולם מודל",
    "hindi": "नमस्ते दुनिया मॉडल",
    "thai": "สวัสดีชาวโลก",
    "han": "你好 世界 模型的回答 繁體中文 一二三",
    "japanese": "こんにちは カタカナ 日本語のモデル ー",
    "korean": "안녕하세요 세계 모형",
    "code": "def __init__(self, x_1): return {'a': [0x1F, 1e-9]} != None; // camelCase HTTPServer2 </div> \\n ->> ::",
    "numbers": "0 12 123 1234 1,234,567.89 3.14159 2026-11-29 ²³ ١٢٣ Ⅳ",
    "emoji": "😀 👩‍👧‍👦 🏳️‍🌈 👍🏽 ❤️ 🇩🇪 ☃",
    "marks": "e\u0301 a\u0308o\u0302\u0323 Z\u0351\u036b\u0343 \u200d \ufeff \u200b",
    "special": "<|endoftext|> <|im_start|> <|fim_prefix|> <|endofprompt|> <| |>",
}
BLANKS = [
    " ",
    " ",
    " ",
    "",
    "  ",
    "   ",
    "\n",
    "\n\n",
    " \n",
    "\r\n",
    "\t",
    "\t\t",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\x0b",
    "\x85",
]


def generated(chance: random.Random, size: int) -> list[str]:
    """Texts of one or several languages, with runs of blanks and of one character, and random code points."""
    texts, made = [], 0
    while made < size:
        languages = chance.sample(list(WORDS), chance.choice([1, 1, 2, 4]))
        words = [word for language in languages for word in WORDS[language].split(" ")]
        noise = chance.choice([0.0, 0.02, 0.2])
        pieces: list[str] = []
        for _ in range(chance.randrange(1, LONGEST // 8)):
            if chance.random() < noise:
                pieces.append(strange(chance))
            pieces += (chance.choice(words), chance.choice(BLANKS))
        texts.append("".join(pieces)[:LONGEST])
        made += len(texts[-1].encode())
    return texts


def strange(chance: random.Random) -> str:
    """A run of one character, letters without sense, or code points of any plane but halves of one."""
    kind = chance.randrange(3)
    if kind == 0:
        return chance.choice(" \n\t.-=aA0é世😀'") * chance.randrange(1, 80)
    if kind == 1:
        return "".join(chance.choices("abcxyzABCXYZ019_+/=", k=chance.randrange(1, 60)))
    points = (chance.randrange(0x20, chance.choice([0x80, 0x3000, 0x110000])) for _ in range(chance.randrange(1, 20)))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def differing(texts: Sequence[str]) -> list[tuple[str, str]]:
    """The encoding and the text wherever the tokens are not the same, or not as many as we count."""
    try:
        ours = {name: load(name) for name in ENCODINGS}
    except LLMValidationError as error:
        pytest.skip(error.message)
    theirs = answer(python("tokens", REQUIREMENTS), SCRIPT, dict.fromkeys(ENCODINGS, texts))
    found = []
    for name, vocabulary in ours.items():
        for text, (count, crc) in zip(texts, theirs[name], strict=True):
            ids = vocabulary.encode(text)
            if (vocabulary.count(text), zlib.crc32(array("I", ids).tobytes())) != (count, crc):
                found.append((name, text))
    return found


def test_ten_megabytes_of_mixed_text_count_as_with_rs_bpe() -> None:
    """English, German, other scripts, emoji, combining marks, code, special tokens, runs of blanks: no difference."""
    texts = generated(random.Random(0), SIZE)
    assert sum(len(text.encode()) for text in texts) >= SIZE
    assert differing(texts) == []


def test_texts_of_the_recordings_count_as_with_rs_bpe(recordings: Path) -> None:
    """Prompts and answers of real models, each once."""
    query = """
        with all_texts as (
            select unnest([prompt, response]) as text from read_parquet($folder || '/*.parquet', union_by_name = true)
        ) select distinct text from all_texts where text is not null order by hash(text) limit 20000
    """
    texts = [text for (text,) in duckdb.execute(query, {"folder": str(recordings)}).fetchall()]
    assert differing(texts) == []
