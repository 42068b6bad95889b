"""Does `auto` do harm, and how much of what an oracle could gain does anything recover? On real recorded answers.

Over the recordings of $WORKBENCH_RECORDINGS: every strategy that applies minus the best single model chosen on the
other half, 100 half splits. Then the planted correlation in which votes fail (five models, four answers, a share of
errors in common), and whether `caution`, the one constant of `auto` that trades gain against harm, is what the other
recordings would choose for each recording left out. `--splits N` and `--only NAME,NAME` make it shorter; 100 splits
take some minutes.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
from _timing import finish, goal

from workbench import Auto, Workbench
from workbench.decide.learn import worth_of_members
from workbench.decide.merge import MajorityVoting
from workbench.decide.policies import policy
from workbench.decide.pool import Pool, learned, over
from workbench.decide.strategies.single import BestSingle
from workbench.decide.votes import Ballots
from workbench.session.gains import DEFAULT, Gains
from workbench.study.gains import Gain

NAMES = ("gsm8k_openai2021", "mmlu_pro", "wmt23_ende_mqm", "ted_ende_mqm", "summeval_cnndm", "classeval")
POOLS = ("all", "closest:5", "top:3")
CAUTIONS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
SKILLS, CLASSES = (0.82, 0.65, 0.62, 0.60, 0.58), 4
LABELS, ITEMS, DRAWS = 300, 4000, 40


def harm(row: Gain) -> float:
    """The mean loss of a row in the unit of its promise: 0.5 points, or 0.1 standard deviations; 1 breaks it."""
    return -row.delta / (0.005 if row.unit == "fraction" else 0.1 * row.best_sd)


def promises(gains: Gains) -> list[dict[str, object]]:
    """What is promised of `auto`, and what the selector recovers of an oracle's gain."""
    autos = [row for row in gains.found.rows if row.strategy == "auto"]
    worst = max(autos, key=harm)
    print(f"worst for auto: {worst.name} {worst.pool}, {harm(worst):.2f} of what is allowed")
    for row in gains.found.rows:
        if row.strategy == "selector" and row.pool == "all":
            print(f"selector on {row.name}: {row.delta / row.headroom:.1%} of an oracle's gain of {row.headroom:.4f}")
    goals = [goal("auto, worst mean loss beside what is allowed", float(harm(worst)), 1.0, "x")]
    if five := [row for row in autos if (row.name, row.pool) == ("mmlu_pro", "closest:5")]:
        goals.append(
            goal(
                "auto on the five closest, points short of +7",
                float(max(0.0, 7.0 - five[0].delta * 100)),
                0.0,
                "points",
            )
        )
    return goals


# -- planted correlation


def planted(rho: float, seed: int) -> tuple[Pool, np.ndarray]:
    """Items on which models 2 to 5 each take, with probability rho, their luck and their error from a common source."""
    rng = np.random.default_rng(seed)
    n, m = LABELS + ITEMS, len(SKILLS)
    gold = rng.integers(0, CLASSES, n)
    luck, wrong = rng.random((n, m)), rng.integers(1, CLASSES, (n, m))
    common = [(rng.random((n, m)) < rho) & (np.arange(m) > 0) for _ in range(2)]
    luck = np.where(common[0], rng.random((n, 1)), luck)
    wrong = np.where(common[1], rng.integers(1, CLASSES, (n, 1)), wrong)
    votes = np.where(luck < np.array(SKILLS), gold[:, None], (gold[:, None] + wrong) % CLASSES)
    ballots = Ballots.of([f"m{j}" for j in range(m)], votes.astype(str).tolist())
    return Pool.of(ballots), ballots.values(np.full((n, m), np.nan), [str(g) for g in gold])


def correlated() -> list[dict[str, object]]:
    """`auto` beside the best single model and the vote, as errors come to be shared."""
    goals = []
    for rho in (0.0, 0.5, 0.9):
        found = []
        for seed in range(DRAWS):
            pool, values = planted(rho, seed)
            labels, rest = np.arange(len(pool)) < LABELS, np.arange(len(pool)) >= LABELS
            merges = [learned(m, pool.take(labels), values[labels]) for m in (Auto(), BestSingle(), MajorityVoting())]
            scores = [over(m, pool.take(rest)).scores(values[rest]).mean() for m in merges]
            found.append([*scores, np.nanmean(worth_of_members(pool.ballots, values)[rest], axis=0).max()])
        auto, taken, vote, best = np.mean(found, axis=0)
        print(f"rho {rho:.1f}: auto {auto:.4f}, best single {best:.4f} (chosen {taken:.4f}), vote {vote:.4f}")
        if rho == 0.9:
            goals.append(
                goal("rho 0.9, auto behind the best single", float(max(0.0, best - auto) * 100), 0.5, "points")
            )
        if rho == 0.5:
            goals.append(
                goal("rho 0.5, auto short of the vote + 4", float(max(0.0, 4 - (auto - vote) * 100)), 0.0, "points")
            )
    return goals


# -- the constant


def left_out(wb: Workbench, names: list[str], splits: int) -> list[dict[str, object]]:
    """For each recording, the caution that the others would choose, and what it does there beside the default."""
    table: dict[float, list[Gain]] = {}
    for caution in CAUTIONS:
        found = wb.gains_sync(*names, pools=POOLS, strategies=[Auto(caution=caution)], splits=splits)
        table[caution] = list(found.found.rows)
    worst = 0.0
    for name in names:

        def merit(caution: float, name: str = name) -> float:
            """Mean gain on the others, in standard deviations; a caution that breaks the promise there is out."""
            rows = [row for row in table[caution] if row.name != name]
            fine = max(map(harm, rows)) <= 1.0
            return float(np.mean([row.delta / row.best_sd for row in rows])) if fine else -np.inf

        chosen = max(CAUTIONS, key=merit)
        mine = [row for row in table[chosen] if row.name == name]
        default = [row for row in table[Auto().caution] if row.name == name]
        worst = max(worst, *map(harm, mine))
        told = [f"{np.mean([row.delta for row in rows]):+.4f}" for rows in (mine, default)]
        print(f"without {name}: caution {chosen:g}; mean gain there {told[0]}, with the default {told[1]}")
    return [goal("caution chosen without a recording, worst loss there beside what is allowed", float(worst), 1.0, "x")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--only", default=",".join(NAMES))
    options = parser.parse_args()
    names = [name for name in NAMES if name in options.only.split(",")]
    with tempfile.TemporaryDirectory() as folder, Workbench.open(folder) as wb:
        gains = wb.gains_sync(
            *names, pools=POOLS, strategies=[policy(name) for name in DEFAULT], splits=options.splits, told=print
        )
        print(repr(gains))
        goals = promises(gains)
        goals += left_out(wb, names, options.splits) if len(names) > 1 else []
    finish([*goals, *correlated()])
