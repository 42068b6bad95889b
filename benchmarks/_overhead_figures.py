"""From the costs of batches to ratios: pure, so that the tests can hold them to figures made by hand."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

Costs = Mapping[tuple[str, int], Sequence[float]]
"""(client, concurrency) -> microseconds of CPU a call, one figure a round; NaN is not among them."""


def ratios(costs: Costs, client: str, base: str, concurrency: int) -> list[float]:
    """A client's cost over another's, round by round: what slowed a round slowed both.

    Empty when one of them was not measured.
    """
    own, other = costs.get((client, concurrency), ()), costs.get((base, concurrency), ())
    return [a / b for a, b in zip(own, other, strict=True)] if own and other else []


def worst_ratio(costs: Costs, client: str, base: str, concurrencies: Sequence[int]) -> float | None:
    """The largest of the medians over the concurrencies; None when nothing was measured."""
    found = [r for c in concurrencies if (r := ratios(costs, client, base, c))]
    return max(map(statistics.median, found), default=None)


def table(costs: Costs, clients: Sequence[str], base: str, concurrency: int) -> list[str]:
    """A line for each measured client, the cheapest last: cost and ratio as median [least, most]."""
    measured = [client for client in clients if costs.get((client, concurrency))]
    measured.sort(key=lambda client: -statistics.median(costs[client, concurrency]))
    return [
        f"  {client:14} {_spread(costs[client, concurrency], '.0f'):>22} us"
        f"   x {base} {_spread(ratios(costs, client, base, concurrency), '.3f')}"
        for client in measured
    ]


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "not measured"
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"
