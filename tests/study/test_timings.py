"""Percentiles, shares and their intervals: against hand calculation and the textbook's resampling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.study.slow import Slow, alone, items
from workbench.act.world import World
from workbench.errors import LLMValidationError
from workbench.facts import Request, Response
from workbench.record.log import Log
from workbench.study.latency import Setup, measure
from workbench.study.timings import quantile_interval, summaries


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = Log.open(tmp_path / "log")
    yield opened
    opened.close()


@pytest.fixture
def world(log: Log) -> World:
    return World.virtual(5, log)


# --- numbers --------------------------------------------------------------------------------------------


def test_a_summary_is_reckoned_from_the_rows(log: Log, world: World):
    """Of 1, 2, 3, 4 s: median 2500 ms, p95 3850 (2.85 steps from the least), half of them answered."""

    @dataclass
    class Turns:
        name: str = "a:turns"

        async def complete(self, request: Request) -> Response:
            return await Slow(
                self.name, world, 1.0 + int(str(request.item_id)[1:]), broken=frozenset({"q0", "q3"})
            ).complete(request)

    setup = Setup(name="turns", members=(alone(world, Turns()),))  # type: ignore[arg-type]
    (found,) = summaries(log, [world.run(measure(world, setup, items(4)))], samples=500)
    assert (found.name, found.n, found.samples, found.source) == ("turns", 4, 500, "simulated")
    assert found.p50_ms.value == pytest.approx(2500)
    assert found.p95_ms.value == pytest.approx(3850)
    assert found.p99_ms == pytest.approx(3970)
    assert found.answered.value == found.right.value == 0.5
    assert found.attempts == 1
    assert found.cost_usd == pytest.approx(0.001)
    assert 1000 <= found.p50_ms.low <= 2500 <= found.p50_ms.high <= 4000
    assert (found.answered.low, found.answered.high) == pytest.approx((0.1500, 0.8500), abs=5e-5)  # Wilson, 2 of 4


def test_an_unknown_run_and_a_single_question_are_refused(log: Log, world: World):
    """One names the run, the other the number that an interval needs."""
    with pytest.raises(LLMValidationError, match="nowhere") as caught:
        summaries(log, ["nowhere"])
    assert caught.value.code == "run.unknown"
    setup = Setup(name="one", members=(alone(world, Slow("a:x", world, 1.0)),))
    with pytest.raises(LLMValidationError) as caught:
        summaries(log, [world.run(measure(world, setup, items(1)))])
    assert caught.value.code == "stats.items"


def test_the_interval_of_a_quantile_is_the_textbook_bootstrap():
    """Against one resample after the other with another generator, within what 4000 resamples may differ."""
    values = np.random.default_rng(8).lognormal(0, 0.5, 60)
    chance = np.random.default_rng(99)
    medians = [np.quantile(values[chance.integers(0, 60, 60)], 0.5) for _ in range(4000)]
    low, high = quantile_interval(values, 0.5, samples=4000, seed=1)
    # The ends lie between neighbouring values of the sample, so the largest gap near them bounds the difference.
    assert (low, high) == pytest.approx(tuple(np.percentile(medians, [2.5, 97.5])), abs=0.06)


def test_the_interval_of_a_median_covers_it_as_often_as_it_says():
    """Of 300 samples of 40 draws with median 1, some 95 % of the intervals hold it, and certainly 90 %."""
    chance = np.random.default_rng(3)
    held = 0
    for seed in range(300):
        low, high = quantile_interval(chance.lognormal(0, 0.5, 40), 0.5, samples=400, seed=seed)
        held += low <= 1 <= high
    assert 0.90 <= held / 300 <= 0.99


def test_the_interval_of_equal_values_is_that_value():
    """No spread, no interval, at any level."""
    assert quantile_interval(np.full(9, 7.0), 0.95, samples=50) == (7.0, 7.0)
