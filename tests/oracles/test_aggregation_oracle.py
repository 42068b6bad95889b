"""Votes and wins aggregated as crowd-kit and choix do, on planted votes and on answers of real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.environment import answer, python
from workbench.decide.annotators import Codes, Floats, dawid_skene, one_coin
from workbench.decide.answers import extract, infer_kind, options_in
from workbench.decide.merge import MajorityVoting
from workbench.decide.pairwise import bradley_terry
from workbench.decide.votes import Ballots, decide

REQUIREMENTS = ("crowd-kit==1.4.2", "choix==0.4.1")
SCRIPT = Path(__file__).with_name("aggregate_votes.py")
LETTERS = "ABCDEFGHIJ"


@pytest.fixture(scope="module")
def interpreter() -> Path:
    """That of the environment with both packages."""
    return python("aggregation", REQUIREMENTS)


def planted(seed: int, *, best: float) -> Codes:
    """Votes of 5 models on 1,000 items of 4 classes, right with 0.4 to `best`, 5 % of them missing."""
    chance = np.random.default_rng(seed)
    truth = chance.choice(4, 1000, p=[0.4, 0.3, 0.2, 0.1])
    wrong = (truth[:, None] + chance.integers(1, 4, (1000, 5))) % 4
    votes = np.where(chance.random((1000, 5)) < chance.uniform(0.4, best, 5), truth[:, None], wrong)
    votes[:, 1:][chance.random((1000, 4)) < 0.05] = -1
    return votes


def majority(votes: Codes) -> list[set[int]]:
    """The codes that win under our majority voting; several where they tie, -1 where nobody votes."""
    answers = [[None if code < 0 else LETTERS[code] for code in row] for row in votes]
    ballots = Ballots.of([f"m{j}" for j in range(votes.shape[1])], answers)
    tied = decide(MajorityVoting(), ballots).tied
    return [
        {LETTERS.index(letter) for letter, wins in zip(found, row, strict=False) if wins} or {-1}
        for found, row in zip(ballots.answers, tied, strict=True)
    ]


def check(votes: Codes, theirs: dict[str, Any]) -> None:
    """Equal labels after equal numbers of iterations; posteriors to 1e-9 (theirs end with a floor of 1e-10).

    crowd-kit resolves ties of the majority in an order of its own: its label is then one of those that tie.
    """
    k, heard = int(votes.max()) + 1, (votes >= 0).any(axis=1)
    assert all(label in won for label, won in zip(theirs["majority"]["labels"], majority(votes), strict=True))
    full, coins = dawid_skene(votes), one_coin(votes, width=k, shared=True)
    for fit, expected in ((full, theirs["dawid_skene"]), (coins, theirs["one_coin"])):
        assert fit.iterations == expected["iterations"]
        assert fit.labels.tolist() == expected["labels"]
        np.testing.assert_allclose(fit.posterior[heard], expected["posterior"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(coins.accuracy, theirs["one_coin"]["accuracy"], rtol=0, atol=1e-9)


def test_planted_votes_get_the_labels_of_crowd_kit(interpreter: Path) -> None:
    """Easy tables, where EM soon stops, and hard ones, where it runs out of iterations."""
    tables = [planted(seed, best=best) for seed in range(3) for best in (0.9, 0.6)]
    found = answer(interpreter, SCRIPT, {"votes": [table.tolist() for table in tables], "wins": []})
    for table, theirs in zip(tables, found["votes"], strict=True):
        check(table, theirs)
    assert max(theirs["dawid_skene"]["iterations"] for theirs in found["votes"]) == 100


def test_real_answers_get_the_labels_of_crowd_kit(interpreter: Path, recordings: Path) -> None:
    """MMLU-Pro: 1,400 items x 12 models, ten letters, 8 % without an answer."""
    import duckdb

    query = "select model, prompt, response, reference from read_parquet(?) order by item_id, model"
    rows = duckdb.connect().execute(query, [str(recordings / "mmlu_pro.parquet")]).fetchall()
    found = [extract(said, infer_kind(gold, prompt), options=options_in(prompt)) for _, prompt, said, gold in rows]
    codes = [-1 if letter is None else LETTERS.index(letter) for letter in found]
    votes = np.array(codes).reshape(-1, len({row[0] for row in rows}))
    assert votes.shape == (1400, 12)
    (theirs,) = answer(interpreter, SCRIPT, {"votes": [votes.tolist()], "wins": []})["votes"]
    check(votes, theirs)


def test_wins_get_the_strengths_of_choix(interpreter: Path) -> None:
    """Within 1e-6, without a penalty and with several."""
    chance = np.random.default_rng(0)
    asked: list[tuple[Floats, float]] = []
    for size in (2, 3, 5, 8):
        wins = chance.integers(0, 7, (size, size)) * (1 - np.eye(size)) + np.roll(np.eye(size), 1, axis=1)
        asked += [(wins, alpha) for alpha in (0.0, 1e-6, 0.01, 1.0)]
    asked += [(np.triu(np.full((4, 4), 3.0), 1), alpha) for alpha in (0.01, 1.0)]  # nobody beats an earlier model
    question = {"votes": [], "wins": [(wins.astype(int).tolist(), alpha) for wins, alpha in asked]}
    for (wins, alpha), theirs in zip(asked, answer(interpreter, SCRIPT, question)["wins"], strict=True):
        np.testing.assert_allclose(bradley_terry(wins, alpha=alpha), theirs, rtol=0, atol=1e-6)
