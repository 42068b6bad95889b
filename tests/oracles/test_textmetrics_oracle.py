"""Text metrics against sacrebleu and rouge-score themselves, on generated texts and on answers of real models."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pytest

from oracles.environment import answer, python
from workbench.decide.textmetrics import METRICS

REQUIREMENTS = ("sacrebleu==2.6.0", "rouge-score==0.1.2")
SCRIPT = Path(__file__).with_name("score_texts.py")
PAIRS = 500
TOLERANCE = 1e-9  # of scores in [0, 1]

Pair = tuple[str, list[str]]

# What the tokenisers look at, in any neighbourhood, and characters of every width.
PIECES = [
    *"abAB019 .,;:!?'\"-_/\\()[]{}<>|&@#$%^*+=~`\n\t\r\v\x1c\x85\u00a0\u2028\u3000ßéİſK世界、。я٣²½\x00",
    *("the ", "cat ", "The ", "1,234.5", "x-1", "2019-20", "..", ".,", "-\n", "&quot;", "&amp;", "&amp;lt;", "&gt;"),
    *("<skipped>", "don't", "  ", "e\u0301", "😀", "👩\u200d👧", "\ud800", "\udfff", "\U0010ffff"),
]


@pytest.fixture(scope="module")
def interpreter() -> Path:
    """That of the environment with both packages."""
    return python("text", REQUIREMENTS)


def largest_differences(interpreter: Path, pairs: Sequence[Pair]) -> dict[str, float]:
    """The largest absolute difference of every metric that the packages have; scores are in [0, 1]."""
    theirs = answer(interpreter, SCRIPT, pairs)
    assert len(theirs) == len(pairs)
    return {
        name: max(abs(METRICS[name](*pair) - scores[name]) for pair, scores in zip(pairs, theirs, strict=True))
        for name in theirs[0]
    }


def generated(chance: random.Random) -> Pair:
    """A text and one to three references: texts of their own, or the text with some pieces changed."""
    pieces = [chance.choice(PIECES) for _ in range(chance.randrange(60))]
    references = []
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        share = chance.choice([0.0, 0.1, 0.3, 1.0])
        changed = ["".join(chance.choices(PIECES, k=chance.randrange(3))) if chance.random() < share else piece
                   for piece in pieces]  # fmt: skip
        references.append("".join(changed))
    return "".join(pieces), references


def test_generated_texts_score_as_with_the_packages(interpreter: Path) -> None:
    """Punctuation, numbers, entities, scripts, white space, lone surrogates and several references."""
    chance = random.Random(0)
    pairs = [("", [""]), ("", ["a"]), ("a", [""]), *(generated(chance) for _ in range(PAIRS))]
    assert max(largest_differences(interpreter, pairs).values()) <= TOLERANCE


def test_answers_of_models_score_as_with_the_packages(interpreter: Path, recordings: Path) -> None:
    """Translations against their reference, and summaries against all eleven of theirs."""
    translations = "select response, [reference] from read_parquet($folder || '/wmt23_ende_mqm.parquet')"
    summaries = (
        "select response, list(r.reference) from read_parquet($folder || '/summeval_cnndm.parquet') "
        "join read_parquet($folder || '/summeval_cnndm.references.parquet') r using (item_id) "
        "group by item_id, model, response"
    )
    pairs: list[Pair] = []
    for query in (translations, summaries):
        rows = duckdb.execute(f"{query} order by hash(item_id, model)", {"folder": str(recordings)}).fetchall()
        pairs += rows[: PAIRS // 2]
    assert max(largest_differences(interpreter, pairs).values()) <= TOLERANCE
