"""What an ensembler counts of its questions, and the figures that it tells of them.

Running totals, except for the latencies, of which the newest RECENT are kept: a long life takes no more memory than a
short one. The same numbers go to the span of each question, so the tracer and the log can be asked for them as well.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from workbench.act.fusion import Fusion
from workbench.act.judge import Judged
from workbench.act.performance import Totals
from workbench.act.trace import OpenSpan, failure_of
from workbench.errors import LLMOrchestratorError
from workbench.facts import EnsembleResponse, ModelContribution

if TYPE_CHECKING:
    import pandas as pd

RECENT = 10_000
Role = Literal["member", "aggregator", "judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetrics:
    """One model's part in the questions so far; shares in [0, 1], None where there is nothing to take a share of.

    asked: calls. answered: in time, whether or not the answer could be read or was good enough; filtered of them
    were below the quality threshold. behind_share: of the decided questions that it was asked, those whose answer is
    its own. agreement: the same share of those in which it voted. latency_ms: mean of what its source tells.
    cost_usd: sum of what is known; unpriced: answers of unknown cost. source: live, recorded, simulated or cache.
    """

    model: str
    role: Role
    asked: int
    answered: int
    failed: int
    late: int
    filtered: int
    behind_share: float | None
    agreement: float | None
    latency_ms: float | None
    cost_usd: float
    unpriced: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleMetrics:
    """An ensembler's questions since it was made; shares in [0, 1], None where there is nothing to take a share of.

    requests: questions that ended: decided, undecided (nobody's answer could be read), failed or cancelled.
    success_rate: of those that were not cancelled, the decided ones. agreement, confidence: means over the decided
    ones; tied_share of these have more than one winner. filtered_share: of the members' answers in time. late_share,
    failed_share: of their calls. p50_ms to p99_ms: of whole questions, the newest `recent`, linear between neighbours.
    cost_usd: sum of what is known, of aggregator and judge too; unpriced: answers of unknown cost.
    fused, fusion_failed: questions that the aggregator answered, and those where it should have.
    pairs, pairs_unread: compared by the judge, and not read. inconsistent_share: of the pairs, those in which its
    choice changed with the order. position_bias: share of its choices for the answer shown first, minus second.
    """

    requests: int
    decided: int
    undecided: int
    failed: int
    cancelled: int
    success_rate: float | None
    agreement: float | None
    confidence: float | None
    filtered_share: float | None
    late_share: float | None
    failed_share: float | None
    tied_share: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    recent: int
    cost_usd: float
    unpriced: int
    fused: int
    fusion_failed: int
    pairs: int
    pairs_unread: int
    inconsistent_share: float | None
    position_bias: float | None
    source: str
    models: tuple[ModelMetrics, ...] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; `models` is a list with one mapping a model."""
        return {**asdict(self), "models": [asdict(model) for model in self.models]}

    def df(self) -> pd.DataFrame:
        """One row a model, as `ModelMetrics` has it."""
        import pandas as pd

        return pd.DataFrame([asdict(model) for model in self.models])


@dataclass(slots=True)
class Asking:
    """A question while it is under way, as far as it is known.

    parts: what each member brought. merged: what the caller gets.
    """

    parts: Sequence[ModelContribution] = ()
    merged: EnsembleResponse | None = None
    judged: Judged | None = None
    fusion: Fusion | None = None

    def final(self, members: Sequence[str]) -> dict[str, ModelContribution]:
        """The members' contributions with the status that the merge gave them."""
        told = self.merged.contributions if self.merged is not None else ()
        last = {c.model: c for c in told}
        return {c.model: last.get(c.model, c) for c in self.parts if c.model in members}

    @property
    def answer(self) -> str | None:
        """What was decided, if anything was."""
        return None if self.merged is None else self.merged.answer

    def helpers(self) -> list[ModelContribution]:
        """The calls of judge and aggregator."""
        calls = [] if self.judged is None else [r.contribution(lambda text: text) for r in self.judged.replies]
        return calls + ([] if self.fusion is None or self.fusion.part is None else [self.fusion.part])


@dataclass(slots=True)
class _Tally:
    role: Role
    asked: int = 0
    answered: int = 0
    failed: int = 0
    late: int = 0
    filtered: int = 0
    decided: int = 0
    voted: int = 0
    behind: int = 0
    timed: int = 0
    latency_ms: float = 0.0
    cost_usd: float = 0.0
    unpriced: int = 0
    sources: set[str] = field(default_factory=set)

    def add(self, part: ModelContribution, answer: str | None) -> None:
        """Count a call; answer: what its question came to, None where nothing was decided."""
        self.asked += 1
        self.answered += part.status in ("kept", "filtered")
        self.failed += part.status == "failed"
        self.late += part.status == "late"
        self.filtered += part.status == "filtered"
        if answer is not None:
            self.decided += 1
            self.voted += part.votes
            self.behind += part.votes and part.answer == answer
        self.cost_usd += _cost(part) or 0.0
        if part.response is not None:
            self.sources.add(part.response.source)
            self.unpriced += part.response.cost_usd is None
            if part.response.latency_ms is not None:
                self.timed, self.latency_ms = self.timed + 1, self.latency_ms + part.response.latency_ms

    def told(self, model: str) -> ModelMetrics:
        """The counts as figures."""
        is_member = self.role == "member"
        return ModelMetrics(
            model=model,
            role=self.role,
            asked=self.asked,
            answered=self.answered,
            failed=self.failed,
            late=self.late,
            filtered=self.filtered,
            behind_share=_share(self.behind, self.decided) if is_member else None,
            agreement=_share(self.behind, self.voted) if is_member else None,
            latency_ms=_share(self.latency_ms, self.timed),
            cost_usd=self.cost_usd,
            unpriced=self.unpriced,
            source="+".join(sorted(self.sources)),
        )


class EnsembleCounts:
    """Counts questions; safe to use from many threads.

    roles: every model's name -> what it does.
    """

    def __init__(self, roles: Mapping[str, Role]) -> None:
        self._lock = threading.Lock()
        self._tallies = {name: _Tally(role) for name, role in roles.items()}
        self._members = [name for name, role in roles.items() if role == "member"]
        self._totals = Totals(RECENT)

    @contextmanager
    def question(self, here: OpenSpan) -> Iterator[Asking]:
        """Count what becomes of the question inside, and tell its span, which must be open."""
        asking, start_s = Asking(), here.now_s()
        failure = None
        try:
            yield asking
        except BaseException as error:
            failure = failure_of(error)
            if isinstance(error, LLMOrchestratorError) and error.contributions:
                asking.parts = error.contributions
            raise
        finally:
            members = asking.final(self._members)
            numbers = _numbers(asking, members)
            for name, value in numbers.items():
                here.metric(name, value)
            with self._lock:
                self._totals.add((here.now_s() - start_s) * 1e3)
                self._totals.add_numbers(numbers)
                if failure is not None:
                    self._totals.fail(failure)
                for part in (*members.values(), *asking.helpers()):
                    self._tallies[part.model].add(part, asking.answer)

    def metrics(self) -> EnsembleMetrics:
        """The figures so far."""
        with self._lock:
            stats = self._totals.stats(None, None)
            models = tuple(tally.told(name) for name, tally in self._tallies.items())
            sources = sorted(set[str]().union(*(tally.sources for tally in self._tallies.values())))

        def total(name: str) -> int:
            return round(stats.metrics[name].total or 0) if name in stats.metrics else 0

        def mean(name: str) -> float | None:
            return stats.metrics[name].avg if name in stats.metrics else None

        members = [model for model in models if model.role == "member"]
        asked, answered = sum(m.asked for m in members), sum(m.answered for m in members)
        decided = total("decided")
        pairs = total("pairs")
        return EnsembleMetrics(
            requests=stats.count,
            decided=decided,
            undecided=stats.successes - decided,
            failed=stats.errors,
            cancelled=stats.cancelled,
            success_rate=_share(decided, stats.count - stats.cancelled),
            agreement=mean("agreement"),
            confidence=mean("confidence"),
            filtered_share=_share(sum(m.filtered for m in members), answered),
            late_share=_share(sum(m.late for m in members), asked),
            failed_share=_share(sum(m.failed for m in members), asked),
            tied_share=mean("tied"),
            p50_ms=stats.p50_ms,
            p95_ms=stats.p95_ms,
            p99_ms=stats.p99_ms,
            recent=stats.recent,
            cost_usd=sum(m.cost_usd for m in models),
            unpriced=sum(m.unpriced for m in models),
            fused=total("fused"),
            fusion_failed=total("fusion_failed"),
            pairs=pairs,
            pairs_unread=total("pairs_unread"),
            inconsistent_share=_share(total("pairs_inconsistent"), pairs),
            position_bias=_share(total("shown_first") - total("shown_second"), 2 * pairs),
            source="+".join(sources),
            models=models,
        )


def _numbers(asking: Asking, members: Mapping[str, ModelContribution]) -> dict[str, float]:
    """What a question came to, as the finite numbers of its span: a merge of somebody's own may give any."""
    merged, judged, fusion = asking.merged, asking.judged, asking.fusion
    statuses = [c.status for c in members.values()]
    numbers: dict[str, float] = {name: statuses.count(name) for name in ("kept", "filtered", "failed", "late")}
    numbers["decided"] = asking.answer is not None
    if merged is not None and merged.answer is not None:
        numbers |= {"agreement": merged.agreement, "confidence": merged.confidence, "tied": len(merged.tied) > 1}
    calls = [*members.values(), *asking.helpers()]
    numbers["cost_usd"] = sum(_cost(c) or 0.0 for c in calls)
    numbers["unpriced"] = sum(c.response is not None and c.response.cost_usd is None for c in calls)
    if fusion is not None:
        numbers |= {"fused": fusion.part is not None and not fusion.failed, "fusion_failed": fusion.failed}
    if judged is not None:
        numbers |= {"pairs": len(judged.verdicts) // 2, "pairs_unread": judged.unread}
        if (swapped := judged.swapped) is not None:
            numbers |= {
                "pairs_inconsistent": round(swapped.inconsistent * swapped.pairs),
                "shown_first": round(swapped.first * 2 * swapped.pairs),
                "shown_second": round(swapped.second * 2 * swapped.pairs),
            }
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def _cost(part: ModelContribution) -> float | None:
    if part.response is not None:
        return part.response.cost_usd
    return None if part.failure is None else part.failure.cost_usd


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
