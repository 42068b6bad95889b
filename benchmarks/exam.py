"""The failover exam: is each scenario passed, with every seed, and how long do all sixteen take in virtual time.

One client takes all scenarios in order (tests/exam/), with 20 seeds of jitter for each of two configurations. Goals:
16 of 16 passed with each seed; all sixteen of one seed in less than 2 s; at most 4 useless calls in the outage (S15).

--sockets: the same on real sockets beside virtual time, with the fast timings and one seed; about 50 s. Goals: 16 of 16
passed on both layers, whole answers too, and no scenario of which the two tell different stories.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from _timing import finish, goal, median, spread

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.exam.candidate import (
    COMPARABLE,
    COMPARABLE_FAST,
    DEFAULTS,
    DEFAULTS_FAST,
    SEED,
    Sat,
    Sitting,
    exam,
    on_sockets,
)
from tests.exam.scenarios import PASS, WHOLE, back_after_s, useless


def told(sat: Sat) -> str:
    """One line: the verdict, attempts on primary and fallback, seconds of the longest request, money."""
    ran, slowest_s = sat.ran, max(one.took_s for one in sat.ran.requests)
    counts = f"{len(ran.on_primary)}/{len(ran.on_fallback)}"
    missed = f"  missed: {', '.join(sat.verdict.missed)}" if sat.verdict.missed else ""
    money = f"{sat.spent_micro:6} micro-USD, {sat.uncertain_micro:6} of them uncertain"
    return f"{sat.scenario.name} {sat.verdict.word:7} P/F {counts:5} {slowest_s:6.2f} s  {money}{missed}"


def main(seeds: int) -> None:
    """Print the first seed's scenarios, all verdicts that are no pass, and the goals."""
    passed, real_s, wasted, back_s, all_s = 0, [], [], [], 16 * seeds * 2
    for name, discipline in (("comparable budget", COMPARABLE), ("our defaults", DEFAULTS)):
        for seed in range(seeds):
            start_s = time.perf_counter()
            sats = exam(seed, discipline)
            real_s.append(time.perf_counter() - start_s)
            if seed == 0:
                print(name, *map(told, sats), sep="\n  ")
            for sat in sats:
                passed += sat.verdict.word == PASS
                if seed and sat.verdict.word != PASS:
                    print(f"  seed {seed}: {told(sat)}")
                if sat.scenario.series:
                    wasted.append(useless(sat.ran))
                    back_s.append(back_after_s(sat.ran) or float("inf"))
    print(f"real seconds for one sitting of 16 scenarios {spread(real_s)}, {len(real_s)} sittings")
    print(f"S15: useless calls {spread(wasted)}, back after {spread(back_s)} s")
    finish(
        [
            goal("scenarios not passed", all_s - passed, 0, f"of {all_s}"),
            goal("one sitting, median", median(real_s), 2.0, "s"),
            goal("one sitting, worst", max(real_s), 2.0, "s"),
            goal("useless calls in the outage, worst", max(wasted), 4, "calls"),
            goal("back on the primary, worst", max(back_s), 30.0, "s"),
        ]
    )


def beside(virtual: Sat, real: Sat) -> str:
    """One line: for each layer the verdict, attempts on primary and fallback, and seconds of the longest request."""
    told = []
    for sat in (virtual, real):
        counts = f"{len(sat.ran.on_primary)}/{len(sat.ran.on_fallback)}"
        told.append(f"{sat.verdict.word:7} {counts:5} {max(one.took_s for one in sat.ran.requests):6.2f} s")
    wires = f"{real.connections} opened, {real.resets} reset"
    same = "same" if virtual.story == real.story else "OTHER: " + ", ".join(differences(virtual, real))
    return f"{real.scenario.name:13} {told[0]}   {told[1]}   {wires:20} {same}"


def differences(virtual: Sat, real: Sat) -> list[str]:
    """Where two stories of one scenario differ."""
    names = ("name", "verdict", "alive", "results", "attempts seen", "rows", "money")
    return [name for name, a, b in zip(names, virtual.story, real.story, strict=True) if a != b]


def main_on_sockets(seed: int) -> None:
    """Print both layers side by side, one scenario a line, and the goals; the sittings share the time."""
    sittings = {
        "comparable budget": Sitting(seed=seed, discipline=COMPARABLE_FAST),
        "our defaults, scaled": Sitting(seed=seed, discipline=DEFAULTS_FAST),
    }
    for name, sitting in list(sittings.items()):
        whole = replace(sitting.discipline, stream=False)
        sittings[f"{name}, not streamed"] = Sitting(seed=seed, discipline=whole, scenarios=WHOLE)
    start_s = time.perf_counter()
    real = on_sockets(list(sittings.values()))
    real_s, failed, other = time.perf_counter() - start_s, 0, 0
    print(f"{'seed ' + str(seed):13} virtual                 on sockets              connections")
    for (name, sitting), sats in zip(sittings.items(), real, strict=True):
        twins = sitting.virtual()
        print(name, *map(beside, twins, sats), sep="\n  ")
        failed += sum(sat.verdict.word != PASS for sat in [*twins, *sats])
        other += sum(twin.story != sat.story for twin, sat in zip(twins, sats, strict=True))
    count = sum(map(len, real))
    finish(
        [
            goal("scenarios not passed on either layer", failed, 0, f"of {2 * count}"),
            goal("scenarios told differently", other, 0, f"of {count}"),
            goal("all sittings side by side on sockets", real_s, 60.0, "s"),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="of virtual time")
    parser.add_argument("--sockets", action="store_true", help="real sockets beside virtual time")
    parser.add_argument("--seed", type=int, default=SEED, help="of --sockets")
    args = parser.parse_args()
    if args.sockets:
        main_on_sockets(args.seed)
    else:
        main(args.seeds)
