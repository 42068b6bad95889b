"""What crowd-kit and choix make of votes and wins; run in their environment, with JSON in and out."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any


def aggregated(votes: list[list[int]]) -> dict[str, Any]:
    """Labels (-1 without a vote), iterations and parameters of crowd-kit's aggregators for items x models of codes."""
    import pandas as pd
    from crowdkit.aggregation import DawidSkene, MajorityVote, OneCoinDawidSkene

    rows = [(i, j, code) for i, row in enumerate(votes) for j, code in enumerate(row) if code >= 0]
    frame = pd.DataFrame(rows, columns=["task", "worker", "label"])
    found: dict[str, Any] = {}
    for name, method in (
        ("majority", MajorityVote()),
        ("dawid_skene", DawidSkene(n_iter=100)),
        ("one_coin", OneCoinDawidSkene(n_iter=100)),
    ):
        method.fit(frame)
        labels = method.labels_.reindex(range(len(votes)), fill_value=-1)
        found[name] = {"labels": [int(label) for label in labels]}
        if name != "majority":
            found[name]["iterations"] = len(method.loss_history_)
            found[name]["posterior"] = method.probas_.sort_index(axis=1).sort_index().to_numpy().tolist()
    found["one_coin"]["accuracy"] = method.skills_.sort_index().tolist()
    return found


def strengths(wins: list[list[int]], alpha: float) -> list[float]:
    """Log strengths by choix: iterated spectral ranking without a penalty, its optimiser with one."""
    import choix

    k = len(wins)
    games = [(i, j) for i in range(k) for j in range(k) for _ in range(wins[i][j])]
    if alpha:
        return [float(s) for s in choix.opt_pairwise(k, games, alpha=alpha, tol=1e-12)]
    return [float(s) for s in choix.ilsr_pairwise(k, games, max_iter=1000, tol=1e-12)]


def main() -> None:
    """Answer {"votes": tables, "wins": [matrix, alpha] pairs}."""
    warnings.simplefilter("ignore")
    asked = json.load(sys.stdin)
    answer = {
        "votes": [aggregated(table) for table in asked["votes"]],
        "wins": [strengths(matrix, alpha) for matrix, alpha in asked["wins"]],
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
