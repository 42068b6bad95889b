"""What a run cost in time and money, per model, and what a comparison says in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from workbench.decide.merge import MajorityVoting, WeightedConsensus
from workbench.study.compare import Compared, Single, Strategy
from workbench.study.table import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """One model's calls of a run; None where the source of the answers does not tell.

    latency_p50_ms, latency_p95_ms: the model's own, of answered calls. cost_usd: sum over calls with a price.
    """

    model: str
    calls: int
    failed: int
    source: str
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    cost_usd: float | None


def spent(reader: Reader, run_id: str) -> dict[str, Spent]:
    """The calls of a run by model; empty where nothing was asked.

    What was asked again, when the run was taken up again, counts once, with its answer; its costs all count.
    """
    rows = reader.rows(
        "select member, count(*) filter (counts), count(*) filter (counts and not ok), "
        "string_agg(distinct source, '+' order by source), quantile_cont(latency_ms, 0.5) filter (ok), "
        "quantile_cont(latency_ms, 0.95) filter (ok), sum(cost_usd) "
        "from (select *, final and row_number() over (partition by final, member, coalesce(item_id, span_id), "
        "request_key order by ok desc, start_unix_ns desc) = 1 as counts from every_attempt where run_id = ?) "
        "group by member order by member",
        [run_id],
    )
    return {
        model: Spent(
            model=model, calls=n, failed=failed, source=source or "none", latency_p50_ms=p50, latency_p95_ms=p95,
            cost_usd=cost,
        )
        for model, n, failed, source, p50, p95, cost in rows
    }  # fmt: skip


def number(value: float, unit: str) -> str:
    """A score as text: 0/1 scores as 0.5625, others with three decimals."""
    return f"{value:.4f}" if unit == "fraction" else f"{value:.3f}"


def difference(value: float, unit: str) -> str:
    """A difference as text: points (hundredths) for 0/1 scores, else the score's own unit."""
    shown = round(value * 100, 1) if unit == "fraction" else round(value, 3)
    return f"{shown + 0.0:+.1f}" if unit == "fraction" else f"{shown + 0.0:+.3f}"  # adding 0.0 turns -0.0 into 0.0


def interval(low: float, high: float, unit: str) -> str:
    """An interval of differences as text."""
    return f"[{difference(low, unit)}, {difference(high, unit)}]"


def unit_name(unit: str) -> str:
    """What a difference is counted in, for labels."""
    return "points" if unit == "fraction" else unit


def label(s: Strategy) -> str:
    """A strategy with the parameters that it was given."""
    shown = ", ".join(f"{k}={_short(v) if isinstance(v, Mapping) else v}" for k, v in s.params.items())
    return f"{s.strategy}({shown})" if shown else s.strategy


def _short(value: object) -> str:
    """A parameter as text; the weights of models with six digits."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_short(part)}' for name, part in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def explain(found: Compared) -> list[str]:
    """The comparison in words: one sentence on the pool, then one paragraph a strategy."""
    best = found.best_single
    worst = min(found.singles, key=lambda s: s.score)
    pool = (
        f"On {found.items} items ({found.source}) the best single model is {best['model']} with "
        f"{number(best['score'], found.unit)}; the {len(found.models)} models spread over "
        f"{_amount(found.spread, found.unit)}, down to {worst.model} with {number(worst.score, found.unit)}. "
        f"Always picking the best answer of each item (an oracle, not a method) would reach "
        f"{number(found.oracle, found.unit)}."
    )
    if found.items_dropped:
        pool += f" {found.items_dropped} items without a score for every model were left out."
    own = [f"The run's own merge, {found.left_out}, is not built in: give it to compare(...) to see it here."]
    return [pool, *(_about(s, found) for s in found.strategies), *(own if found.left_out else [])]


def _about(s: Strategy, found: Compared) -> str:
    unit, best = found.unit, found.best_single["model"]
    measured = (
        f"{difference(s.delta, unit)} {unit_name(unit)} {interval(s.ci_low, s.ci_high, unit)} on all items, "
        f"{difference(s.split_delta, unit)} {interval(s.split_low, s.split_high, unit)} with the single model "
        f"chosen on the other half"
    )
    balance = f"against {best} it did worse on {s.lost} items and better on {s.gained}"
    if s.gained == s.lost == 0:
        return f"{label(s)}: the same as {best} on every item ({measured})."
    match s.conclusion:
        case "worse":
            return f"{label(s)} hurt: {measured}; {balance}. {_how_it_lost(s, found)}"
        case "better":
            return f"{label(s)} helped: {measured}; {balance}. The models differ by {_amount(found.spread, unit)}."
    why = f"{label(s)}: cannot tell it from {best}: {measured}; {balance}."
    if s.verdict != s.split_verdict:
        why += f" The two forms disagree ({s.verdict} on all items, {s.split_verdict} on half splits)."
    elif s.mde > 0:
        why += f" A difference under {_amount(s.mde, unit)} would not show on {found.items} items."
    return why


def _how_it_lost(s: Strategy, found: Compared) -> str:
    """What happened on the lost items, counted."""
    other = s.lost - s.lost_tied - s.lost_undecided
    voted = s.strategy in (MajorityVoting.name, WeightedConsensus.name)
    parts = [
        (other, "weaker models outvoted it" if voted else "the merge took another model's answer"),
        (s.lost_tied, "the answers tied"),
        (s.lost_undecided, "no answer was left to win"),
    ]
    told = "; on ".join(f"{n} {what}" for n, what in parts if n)
    return f"The models differ by {_amount(found.spread, found.unit)}. Of the items it lost, on {told}."


def _amount(value: float, unit: str) -> str:
    return f"{value * 100:.1f} points" if unit == "fraction" else f"{value:.3f} {unit}"


def source_line(singles: tuple[Single, ...]) -> str:
    """How far the extracted answers agree with the recording's own scores, or an empty string."""
    agreements = [s.source_agreement for s in singles if s.source_agreement is not None]
    if not agreements:
        return ""
    return (
        f"Agreement of the extracted answers with the source's own scores: {min(agreements) * 100:.1f} % to "
        f"{max(agreements) * 100:.1f} % of items, by model."
    )
