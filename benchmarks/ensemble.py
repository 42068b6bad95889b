"""The ensemble: how long do three models take together that answer after 50 ms each, and how much of it is ours.

They are on a loopback server in a thread of this process; an ensembler with a log asks them over sockets, one question
after the other. Goals, for the slowest twentieth: at most 115 ms in all, of which merging takes less than 5 ms and
confidence less than 10 ms. Confidence is counted inside the merge; here it is timed by itself, on equal contributions.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from _timing import finish, goal, spread

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.faults.server import FaultServer, Pause, reply
from tests.faults.shapes import document
from workbench import MultiModelEnsembler, Workbench
from workbench.decide.merge import conclude
from workbench.facts import EnsembleResponse

LATENCY_S = 0.05
ANSWERS = {"one": 24, "two": 24, "three": 8}
WARM = 3  # connections, imports and the log are opened by the first questions


def quantile(values: list[float], share: float) -> float:
    """The smallest value that so large a share of all does not exceed."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


async def asked(ensembler: MultiModelEnsembler, questions: int) -> list[tuple[float, EnsembleResponse]]:
    """Milliseconds and answer of each question."""
    found = []
    for number in range(questions):
        start_s = time.perf_counter()
        merged = await ensembler.get_ensemble_response(f"How many legs do {number} spiders have?")
        found.append(((time.perf_counter() - start_s) * 1e3, merged))
    await ensembler.aclose()
    return found


def confidence_ms(merged: EnsembleResponse) -> float:
    """Milliseconds of counting support, agreement and confidence of these contributions once more."""
    start_s = time.perf_counter()
    again = conclude(merged.strategy, merged.contributions, [1.0] * len(merged.contributions), merged.tied)
    took_ms = (time.perf_counter() - start_s) * 1e3
    assert again.confidence == merged.confidence
    return took_ms


def main(questions: int) -> None:
    """Print the times and the goals."""
    with tempfile.TemporaryDirectory() as folder, FaultServer() as server:
        for name, number in ANSWERS.items():
            answer = reply(document("openai", f"The answer is {number}.", served=name))
            server.on(name, (Pause(LATENCY_S), *answer))
        config = Path(folder) / "workbench.toml"
        table = f'[providers.lab]\nwire = "openai"\nbase_url = "{server.url()}"\nauth = "none"\nlocal = true\n'
        config.write_text(table, encoding="utf-8")
        os.environ["WORKBENCH_CONFIG"] = str(config)
        ensembler = MultiModelEnsembler([f"lab:{name}" for name in ANSWERS], log=Path(folder) / "log")
        found = asyncio.run(asked(ensembler, questions + WARM))[WARM:]
        with Workbench.open(Path(folder) / "log") as wb:
            merges = wb.log.rows("select duration_us / 1e3 from merges")
            calls = wb.log.rows("select count(*) from calls where ok")
    assert calls == [(3 * (questions + WARM),)]
    whole, merging = [took_ms for took_ms, _ in found], [took_ms for (took_ms,) in merges]
    confidence = [confidence_ms(merged) for _, merged in found]
    for name, values in (("whole", whole), ("merging", merging), ("confidence", confidence)):
        print(f"{name} ms {spread(values)}, p50 {quantile(values, 0.5):.3f}, p95 {quantile(values, 0.95):.3f}")
    assert min(whole) >= LATENCY_S * 1e3, "somebody has not waited"
    finish(
        [
            goal("whole, p50", quantile(whole, 0.5), 115.0, "ms"),
            goal("whole, p95", quantile(whole, 0.95), 115.0, "ms"),
            goal("merging, p95", quantile(merging, 0.95), 5.0, "ms"),
            goal("confidence, p95", quantile(confidence, 0.95), 10.0, "ms"),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=100)
    main(parser.parse_args().questions)
