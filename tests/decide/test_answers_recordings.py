"""The extraction agrees with the scores that the sources of the recordings computed themselves."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import duckdb
import pytest

from workbench.decide.answers import extract, infer_kind, normalise, options_in

pytestmark = [
    pytest.mark.recordings,
    pytest.mark.no_cover,
    pytest.mark.long,
]  # long on real data, and others reach every line

# item, model, style -> (extracted answer, normalised reference, source score)
Judged = dict[tuple[str, str, str], tuple[str | None, str | None, float]]


def judge(folder: Path, recording: str) -> Judged:
    """Extract the answer of every row of a recording."""
    query = "select item_id, model, prompt_style, prompt, response, reference, score from read_parquet(?)"
    path = folder / f"{recording}.parquet"
    judged: Judged = {}
    for item, model, style, prompt, response, reference, score in (
        duckdb.connect().execute(query, [str(path)]).fetchall()
    ):
        kind = infer_kind(reference, prompt)
        answer = extract(response, kind, options=options_in(prompt))
        judged[item, model, style or ""] = (answer, normalise(reference, kind), score)
    return judged


def agreement(judged: Judged) -> float:
    """Share of rows where our verdict equals that of the source."""
    same = [(answer is not None and answer == gold) == (score == 1) for answer, gold, score in judged.values()]
    return sum(same) / len(same)


def accuracies(judged: Judged, models: set[str] | None = None) -> dict[str, float]:
    """Share of right answers per model."""
    right: dict[str, list[bool]] = defaultdict(list)
    for (_, model, _), (answer, gold, _) in judged.items():
        if models is None or model in models:
            right[model].append(answer is not None and answer == gold)
    return {model: sum(verdicts) / len(verdicts) for model, verdicts in right.items()}


def vote_accuracy(judged: Judged, models: set[str] | None = None) -> float:
    """Expected share of right majority votes: a tie gives 1/len(tied), no answer gives no vote."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    golds: dict[str, str | None] = {}
    for (item, model, _), (answer, gold, _) in judged.items():
        golds[item] = gold
        if answer is not None and (models is None or model in models):
            votes[item][answer] += 1
    total = 0.0
    for item, gold in golds.items():
        top = max(votes[item].values(), default=0)
        tied = [answer for answer, count in votes[item].items() if count == top]
        total += 1 / len(tied) if gold in tied else 0.0
    return total / len(golds)


@pytest.fixture(scope="module")
def cache() -> dict[str, Judged]:
    """Recordings judged once per module."""
    return {}


def judged_once(cache: dict[str, Judged], folder: Path, recording: str) -> Judged:
    """The judged rows, from the cache when they are there."""
    if recording not in cache:
        cache[recording] = judge(folder, recording)
    return cache[recording]


def test_gsm8k_agrees_on_every_row(recordings: Path, cache: dict[str, Judged]) -> None:
    """Numbers on a last line "A: 42" leave no room for doubt."""
    judged = judged_once(cache, recordings, "gsm8k_openai2021")
    assert len(judged) == 5_276
    assert agreement(judged) == 1.0


def test_mmlu_pro_agrees_on_99_percent(recordings: Path, cache: dict[str, Judged]) -> None:
    """The source takes the first letter of several, and where none is stated some letter; we do neither."""
    judged = judged_once(cache, recordings, "mmlu_pro")
    assert len(judged) == 16_800
    assert agreement(judged) >= 0.99


@pytest.mark.parametrize("style", ["direct", "cot"])
def test_bbh_agrees_in_both_styles(recordings: Path, cache: dict[str, Judged], style: str) -> None:
    """Choices, labels, numbers, brackets and sorted words, answered at once or after a chain of thought."""
    judged = judged_once(cache, recordings, "bbh_direct_vs_cot")
    rows = {key: row for key, row in judged.items() if key[2] == style}
    assert len(rows) == 4_928
    assert agreement(rows) >= 0.999


def test_every_reference_has_a_canonical_form(recordings: Path, cache: dict[str, Judged]) -> None:
    """No item of the three recordings is lost because its reference cannot be read."""
    for recording in ("gsm8k_openai2021", "mmlu_pro", "bbh_direct_vs_cot"):
        judged = judged_once(cache, recordings, recording)
        assert [key for key, (_, gold, _) in judged.items() if gold is None] == []


def test_gsm8k_majority_is_below_its_best_model(recordings: Path, cache: dict[str, Judged]) -> None:
    """Four models of very unequal strength vote worse than the strongest alone."""
    judged = judged_once(cache, recordings, "gsm8k_openai2021")
    assert vote_accuracy(judged) == pytest.approx(0.482, abs=0.002)
    assert max(accuracies(judged).values()) == pytest.approx(0.5625, abs=0.001)


def test_mmlu_pro_majority_of_similar_models_beats_the_best(recordings: Path, cache: dict[str, Judged]) -> None:
    """Five models of similar strength gain about 7.5 points; all twelve do not reach the strongest."""
    judged = judged_once(cache, recordings, "mmlu_pro")
    five = {
        "Mixtral-8x7B-Instruct-v0.1",
        "mathstral-7B",
        "Phi-3-mini-4k-instruct",
        "Meta-Llama-3_1-8B-Instruct",
        "c4ai-command-r-v01",
    }
    gain = vote_accuracy(judged, five) - max(accuracies(judged, five).values())
    assert gain == pytest.approx(0.075, abs=0.008)
    assert vote_accuracy(judged) == pytest.approx(0.641, abs=0.01)
    assert vote_accuracy(judged) < max(accuracies(judged).values())
