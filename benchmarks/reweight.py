"""How fast is a recorded run scored again with other weights? Beside pandas and crowd-kit.

    python dev.py bench reweight [--rounds 15] [--no-peers]

CPU time with one thread of BLAS, in rounds that take turns: one weight vector over 10,000 items x 8 models and over
100,000 x 16, and the whole grid of five models at steps of 1/20 over 10,000 items. Weights are random or all equal,
which is where many items tie. Beside ours the same vote in pandas, in crowd-kit (an environment of its own under
`.peers`) and by votes.decide, and the floor: reading N x M bytes once.

Goals: 10,000 x 8 at most 100 us and 1/100 of pandas and of crowd-kit; 100,000 x 16 at most 4 ms; the grid, 10,626
vectors, at most 50 ms.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _overhead_places import Place
from _timing import cpu_s, finish, goal, interleaved, median, spread

CROWD_KIT = Place(name="crowd-kit-1.4.2", requirements=("crowd-kit==1.4.2",), clients=())
Timed = dict[str, Callable[[], float]]


class Case:
    """Answers of models of unequal skill; six are possible, one in fifty is missing."""

    def __init__(self, items: int, models: int) -> None:
        from workbench.decide.reweigh import Landscape
        from workbench.decide.votes import Ballots

        rng = np.random.default_rng(0)
        gold = rng.integers(0, 6, items)
        right = rng.random((items, models)) < np.linspace(0.5, 0.85, models)
        given = np.where(right, gold[:, None], (gold[:, None] + rng.integers(1, 6, (items, models))) % 6)
        given[rng.random((items, models)) < 0.02] = 6
        self.name = f"{items:,} x {models}"
        names, letters = [f"m{j:02}" for j in range(models)], [*"ABCDEF", None]
        self.ballots = Ballots.of(names, [[*map(letters.__getitem__, row)] for row in given.tolist()])
        self.values = self.ballots.values(np.zeros((items, models)), [letters[g] for g in gold])
        self.bytes = self.ballots.codes.astype(np.int8).ravel().view(np.uint64)
        self.build_s = cpu_s(lambda: Landscape.of(self.ballots, self.values))
        self.landscape = Landscape.of(self.ballots, self.values)
        self.random = rng.dirichlet(np.full(models, 5.0))
        self.equal = np.ones(models)
        item, model = np.nonzero(given < 6)
        self.long = pd.DataFrame({"task": item, "worker": model, "label": given[item, model]})
        self.gold = pd.Series(gold, name="gold")

    def read(self) -> float:
        """One pass over the bytes of the answers."""
        return float(np.bitwise_xor.reduce(self.bytes))

    def by_item(self, weights: np.ndarray) -> float:
        """The score of votes.decide."""
        from workbench.decide.merge import WeightedConsensus
        from workbench.decide.votes import decide

        policy = WeightedConsensus(dict(zip(self.ballots.models, weights.tolist(), strict=True)))
        return float(decide(policy, self.ballots).scores(self.values).mean())

    def by_pandas(self) -> float:
        """The accuracy with the random weights, which leave no ties."""
        voted = self.long.assign(weight=self.random[self.long["worker"].to_numpy()])
        support = voted.groupby(["task", "label"], sort=False)["weight"].sum().reset_index()
        won = support.loc[support.groupby("task")["weight"].idxmax()].set_index("task")["label"]
        return float((won.reindex(self.gold.index) == self.gold).mean())


def per_call_us(function: Callable[[], object], calls: int = 1) -> Callable[[], float]:
    """CPU microseconds of one of so many calls."""

    def timed() -> float:
        return cpu_s(lambda: [function() for _ in range(calls)]) / calls * 1e6

    return timed


@contextmanager
def crowd_kit(case: Case) -> Iterator[Callable[[], float]]:
    """CPU microseconds of one evaluation in a process that stays; its accuracy must be ours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.pickle"
        pd.to_pickle((case.long, case.gold, case.random), path)
        command = [str(CROWD_KIT.python), __file__, "--peer", str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def timed() -> float:
                print("again", file=process.stdin, flush=True)
                cost_us, accuracy = map(float, process.stdout.readline().split())
                assert abs(accuracy - case.landscape.score(case.random)) < 1e-9, accuracy
                return cost_us

            yield timed
            process.stdin.close()


def peer(path: str) -> None:
    """The other side of `crowd_kit`: an evaluation for each line of the standard input."""
    from crowdkit.aggregation import MajorityVote

    long, gold, weights = pd.read_pickle(path)
    skills = pd.Series(weights, index=np.arange(len(weights)))
    found: list[Any] = []
    for _ in sys.stdin:
        spent_s = cpu_s(lambda: found.append((MajorityVote().fit_predict(long, skills=skills) == gold).mean()))
        print(spent_s * 1e6, found[-1], flush=True)


def shown(case: Case, timed: Timed, rounds: int) -> dict[str, list[float]]:
    """Costs over the rounds, printed after one round that does not count."""
    interleaved(timed, 1)
    found = interleaved(timed, rounds)
    patterns = sum(len(p.codes) for p in case.landscape.patterns)
    print(f"{case.name}: {patterns:,} patterns, made in {case.build_s * 1e3:.1f} ms CPU; us CPU of one evaluation")
    for name, costs in found.items():
        print(f"  {name:32} {spread(costs)}")
    return found


def main(rounds: int, peers: bool) -> None:
    """Print what each form costs, and the goals."""
    small, large, five = Case(10_000, 8), Case(100_000, 16), Case(10_000, 5)
    for case in (small, large, five):
        for weights in (case.random, case.equal):
            assert abs(case.landscape.score(weights) - case.by_item(weights)) < 1e-12
    assert abs(small.by_pandas() - small.landscape.score(small.random)) < 1e-9
    many = np.random.default_rng(1).dirichlet(np.ones(8), 512)
    timed: Timed = {
        "random weights": per_call_us(lambda: small.landscape.score(small.random), 50),
        "equal weights": per_call_us(lambda: small.landscape.score(small.equal), 50),
        "512 random vectors, each": lambda: per_call_us(lambda: small.landscape.scores(many))() / 512,
        "votes.decide": per_call_us(lambda: small.by_item(small.random)),
        "pandas": per_call_us(small.by_pandas),
        "floor: reading N x M bytes": per_call_us(small.read, 50),
    }
    problem = CROWD_KIT.made() if peers else "--no-peers"
    if problem:
        print(f"crowd-kit is left out: {problem}")
        found = shown(small, timed, rounds)
    else:
        with crowd_kit(small) as evaluated:
            found = shown(small, {**timed, "crowd-kit": evaluated}, rounds)
    timed = {
        "random weights": per_call_us(lambda: large.landscape.score(large.random), 3),
        "equal weights": per_call_us(lambda: large.landscape.score(large.equal), 3),
        "floor: reading N x M bytes": per_call_us(large.read, 10),
    }
    most = shown(large, timed, rounds)
    grid = shown(five, {"grid of 1/20": per_call_us(lambda: five.landscape.score_simplex(0.05))}, rounds)
    results = []
    for name in ("pandas", "crowd-kit"):
        if name in found:
            ratios = [o / t for o, t in zip(found["random weights"], found[name], strict=True)]
            results.append(goal(f"a vector over {small.name} beside {name}", median(ratios), 0.01, "x"))
    for name in ("random weights", "equal weights"):
        results.append(goal(f"{name} over {small.name}", median(found[name]), 100.0, "us CPU"))
        results.append(goal(f"{name} over {large.name}", median(most[name]) / 1e3, 4.0, "ms CPU"))
    results.append(goal(f"the grid over {five.name}", median(grid["grid of 1/20"]) / 1e3, 50.0, "ms CPU"))
    finish(results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peer:
        peer(asked.peer)
    elif os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # read when numpy is loaded, so a new process
        again = [sys.executable, *sys.argv]
        sys.exit(subprocess.run(again, check=False, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}).returncode)
    else:
        main(asked.rounds, not asked.no_peers)
