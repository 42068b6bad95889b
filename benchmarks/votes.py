"""How long does it take to merge and score a whole run again? 10,000 items x 5 models.

Beside ours, the same majority in plain pandas, so that the figure has a scale. Goal: at most 10 ms CPU for one
re-merge with its scores, for each strategy.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from _timing import cpu_s, finish, goal, interleaved, median, spread

from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus
from workbench.decide.votes import Ballots, decide

N, M = 10_000, 5
WARM_UP, ROUNDS = 3, 15


def ballots() -> tuple[Ballots, np.ndarray]:
    """Answers of five models of unequal skill; six answers are possible, some are missing."""
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 6, N)
    right = rng.random((N, M)) < np.linspace(0.5, 0.85, M)
    given = np.where(right, gold[:, None], rng.integers(0, 6, (N, M)))
    answers = [[None if rng.random() < 0.02 else "ABCDEF"[g] for g in row] for row in given]
    made = Ballots.of([f"m{j}" for j in range(M)], answers, quality=np.tile(right.mean(axis=0), (N, 1)))
    return made, made.values(np.zeros((N, M)), ["ABCDEF"[g] for g in gold])


def with_pandas(made: Ballots) -> float:
    """The majority's counts in pandas."""
    frame = pd.DataFrame({"item": np.repeat(np.arange(N), M), "code": made.codes.ravel()})
    frame = frame[frame["code"] >= 0]
    counts = frame.groupby(["item", "code"]).size()
    return float((counts == counts.groupby("item").transform("max")).sum())


if __name__ == "__main__":
    made, values = ballots()
    weights = {m: 1.0 + 0.1 * k for k, m in enumerate(made.models)}
    merges = {
        "majority_voting": MajorityVoting(),
        "weighted_consensus": WeightedConsensus(weights),
        "weighted_consensus by quality": WeightedConsensus(),
        "best_of_n": BestOfN(),
    }
    timed = {
        name: lambda m=merge: cpu_s(lambda: decide(m, made).scores(values).mean()) for name, merge in merges.items()
    }
    timed["pandas majority"] = lambda: cpu_s(lambda: with_pandas(made))
    interleaved(timed, WARM_UP)
    found = interleaved(timed, ROUNDS)
    for name, seconds in found.items():
        print(f"{name:30} CPU ms {spread([s * 1e3 for s in seconds])}")
    worst = max(merges, key=lambda name: median(found[name]))
    print(f"pandas / ours, majority: {median(found['pandas majority']) / median(found['majority_voting']):.1f} x")
    finish([goal(f"re-merge and score {N} x {M}, {worst}", median(found[worst]) * 1e3, 10.0, "ms CPU")])
