"""What an ensembler counts: against hand counts, in the tracer, in the log, under threads, in bounded memory."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench import LLMOrchestratorError, LLMProviderError, MultiModelEnsembler, Workbench, performance_tracer
from workbench.act.trace import span
from workbench.act.world import World
from workbench.facts import EnsembleResponse, Failure, ModelContribution, Response
from workbench.session import metrics
from workbench.session.metrics import EnsembleCounts, EnsembleMetrics, ModelMetrics

QUESTION = "How many legs do three spiders have?"


@pytest.fixture(autouse=True)
def _fresh_tracer() -> Iterator[None]:
    performance_tracer.clear()
    yield
    performance_tracer.clear()


def answers(*said: Any) -> Callable[[str], Any]:
    """A function that gives or raises these, one a call, and the last from then on."""
    left = list(said)

    def function(prompt: str) -> Any:
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, BaseException):
            raise found
        return found

    return function


def ask(ensembler: MultiModelEnsembler, **options: Any) -> EnsembleResponse | None:
    """The response, or None where the ensemble failed."""
    try:
        return asyncio.run(ensembler.get_ensemble_response(QUESTION, **options))
    except LLMOrchestratorError:
        return None


def of(found: EnsembleMetrics, model: str) -> ModelMetrics:
    return next(m for m in found.models if m.model == model)


def test_before_the_first_question_there_is_nothing_to_tell(log_folder: Path):
    """Counts are 0, shares unknown; no log is opened."""
    found = MultiModelEnsembler(["simulated:strong"], log=log_folder).get_ensemble_metrics()
    assert (found.requests, found.success_rate, found.agreement, found.p50_ms, found.cost_usd) == (
        0,
        None,
        None,
        None,
        0,
    )
    assert found.source == ""
    assert of(found, "simulated:strong").behind_share is None
    assert not log_folder.exists()


DOWN = LLMProviderError("down", code="provider.server")


def test_four_questions_by_hand(log_folder: Path):
    """Of four: a majority, a tie, one that cannot be read, and one at which all fail; c is below the threshold.

    question    1     2     3     4       weights 1, c always filtered where it answers
    a           24    8     hm    down
    b           24    24    hm    down
    c           24    24    24    down
    answer      24    24*   -     error   * tied with 8, first in sorted order
    """
    ensembler = MultiModelEnsembler(
        ["a", "b", "c"],
        quality={"c": 0.1},
        executors={
            "a": answers("Answer: 24", "Answer: 8", "hm, hm", DOWN),
            "b": answers("Answer: 24", "Answer: 24", "hm, hm", DOWN),
            "c": answers("Answer: 24", "Answer: 24", "Answer: 24", DOWN),
        },
        log=log_folder,
    )
    assert [r and r.answer for r in (ask(ensembler) for _ in range(4))] == ["24", "24", None, None]
    found = ensembler.get_ensemble_metrics()
    assert (found.requests, found.decided, found.undecided, found.failed, found.cancelled) == (4, 2, 1, 1, 0)
    assert found.success_rate == 0.5
    assert (found.agreement, found.tied_share) == (pytest.approx((1.0 + 0.5) / 2), 0.5)
    assert found.confidence == pytest.approx((2 / 3 + 1 / 3) / 2)  # c was asked too
    assert (found.filtered_share, found.failed_share, found.late_share) == (pytest.approx(3 / 9), 3 / 12, 0.0)
    assert (found.source, found.unpriced, found.cost_usd) == ("live", 9, 0.0)
    a, b, c = (of(found, name) for name in "abc")
    assert (a.asked, a.answered, a.failed, a.filtered, a.behind_share, a.agreement) == (4, 3, 1, 0, 0.5, 0.5)
    assert (b.behind_share, b.agreement, b.unpriced, b.latency_ms) == (1.0, 1.0, 3, None)
    assert (c.answered, c.filtered, c.behind_share, c.agreement) == (3, 3, 0.0, None)


def test_simulated_answers_have_cost_latency_and_source(log_folder: Path):
    """Sums and means are those of the calls in the log."""
    ensembler = MultiModelEnsembler(["simulated:strong", "simulated:weak"], log=log_folder)
    for _ in range(3):
        ask(ensembler)
    found = ensembler.get_ensemble_metrics()
    with Workbench.open(log_folder) as wb:
        sql = "select member, sum(cost_usd), avg(latency_ms), count(*) from calls group by 1 order by 1"
        for name, cost, latency, calls in wb.log.rows(sql):
            own = of(found, name)
            assert (own.cost_usd, own.latency_ms) == (pytest.approx(cost), pytest.approx(latency))
            assert (own.asked, own.answered, own.unpriced, own.source) == (calls, calls, 0, "simulated")
        ((total,),) = wb.log.rows("select sum(cost_usd) from calls")
    assert found.cost_usd == pytest.approx(total)
    assert (found.source, found.unpriced) == ("simulated", 0)


def test_a_late_member_is_counted_as_late(log_folder: Path):
    """It is asked and not answered, and the mixture of sources is named."""

    async def never(prompt: str) -> str:
        await asyncio.Event().wait()
        return prompt

    ensembler = MultiModelEnsembler(
        ["slow", "fast", "simulated:weak"], executors={"slow": never, "fast": answers("Answer: 24")}, log=log_folder
    )
    assert ask(ensembler, quorum=2, grace_s=0.0) is not None
    found = ensembler.get_ensemble_metrics()
    slow = of(found, "slow")
    assert (slow.asked, slow.answered, slow.late, slow.failed) == (1, 0, 1, 0)
    assert (found.late_share, found.source) == (pytest.approx(1 / 3), "live+simulated")


def test_a_cancelled_question_is_neither_success_nor_failure(log_folder: Path):
    """It is counted by itself."""
    begun = asyncio.Event()

    async def never(prompt: str) -> str:
        begun.set()
        await asyncio.Event().wait()
        return prompt

    ensembler = MultiModelEnsembler(["a"], executors={"a": never}, log=log_folder)

    async def main() -> None:
        task = asyncio.create_task(ensembler.get_ensemble_response(QUESTION))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    found = ensembler.get_ensemble_metrics()
    assert (found.requests, found.cancelled, found.failed, found.success_rate) == (1, 1, 0, None)


def test_a_fusion_is_counted_with_its_cost(log_folder: Path):
    """Fused once, failed once; the aggregator has a row of its own, and no share of the votes."""
    said = {"a": answers("Answer: 24"), "b": answers("Answer: 8"), "w": answers("Answer: 24", ZeroDivisionError("bug"))}
    ensembler = MultiModelEnsembler(["a", "b"], executors=said, aggregator="w", fuse_below=1.0, log=log_folder)
    assert [ask(ensembler).strategy for _ in range(2)] == ["generative_fusion", "weighted_consensus"]
    found = ensembler.get_ensemble_metrics()
    assert (found.decided, found.fused, found.fusion_failed) == (2, 1, 1)
    own = of(found, "aggregator:w")
    assert (own.role, own.asked, own.answered, own.failed, own.behind_share) == ("aggregator", 2, 1, 1, None)
    assert of(found, "a").behind_share == 1.0
    assert found.filtered_share == 0.0  # members only
    simulated = MultiModelEnsembler(
        ["simulated:weak", "simulated:medium"], aggregator="simulated:strong", fuse_below=1.0, log=log_folder
    )
    assert ask(simulated).strategy == "generative_fusion"
    found = simulated.get_ensemble_metrics()
    assert found.cost_usd == pytest.approx(sum(m.cost_usd for m in found.models))
    assert of(found, "aggregator:simulated:strong").cost_usd > 0


def test_the_bias_of_a_judge_is_told(log_folder: Path):
    """Always A on three pairs, then always right on three: half are inconsistent, and 9 of 12 choices for the first."""
    biased = [True]

    def judge(prompt: str) -> str:
        first = re.search(r"\[response A \w+\]\n(.*)", prompt)
        second = re.search(r"\[response B \w+\]\n(.*)", prompt)
        return "Answer: A" if biased[0] or (first and second and first[1] < second[1]) else "Answer: B"

    said = {name: answers(f"Answer: {n}") for name, n in (("a", 24), ("b", 8), ("c", 9))}
    ensembler = MultiModelEnsembler(
        ["a", "b", "c"], strategy="pairwise_ranking", judge="j", executors={**said, "j": judge}, log=log_folder
    )
    assert ask(ensembler).tied == ("24", "8", "9")
    biased[0] = False
    assert ask(ensembler).tied == ("24",)
    found = ensembler.get_ensemble_metrics()
    assert (found.pairs, found.pairs_unread, found.inconsistent_share) == (6, 0, 0.5)
    assert found.position_bias == pytest.approx((9 - 3) / 12)
    own = of(found, "judge:j")
    assert (own.role, own.asked, own.answered) == ("judge", 12, 12)


def test_a_judge_that_cannot_be_read_is_counted(log_folder: Path):
    """Its pairs are unread; there is no share of nothing."""
    said = {"a": answers("Answer: 24"), "b": answers("Answer: 8"), "j": answers(KeyError("bug"))}
    ensembler = MultiModelEnsembler(
        ["a", "b"], strategy="pairwise_ranking", judge="j", executors=said, log=log_folder
    )  # fmt: skip
    assert ask(ensembler).strategy == "majority_voting"
    found = ensembler.get_ensemble_metrics()
    assert (found.pairs, found.pairs_unread, found.inconsistent_share, found.position_bias) == (0, 1, None, None)
    assert (of(found, "judge:j").failed, of(found, "judge:j").asked) == (2, 2)


def test_the_tracer_and_the_log_have_the_same_figures(log_folder: Path):
    """Each question's span carries its numbers: `get_stats` averages them, `spans` lists them."""
    said = {"a": answers("Answer: 24"), "b": answers("Answer: 24", "Answer: 8"), "c": answers(DOWN)}
    ensembler = MultiModelEnsembler(["a", "b", "c"], executors=said, log=log_folder)
    for _ in range(2):
        ask(ensembler)
    found = ensembler.get_ensemble_metrics()
    stats = performance_tracer.get_stats("ensembler", "get_ensemble_response")
    assert (stats.count, stats.metrics["agreement"].avg) == (2, pytest.approx(0.75))
    assert (found.agreement, found.confidence) == (stats.metrics["agreement"].avg, stats.metrics["confidence"].avg)
    assert (stats.metrics["kept"].total, stats.metrics["failed"].total, stats.metrics["tied"].avg) == (4, 2, 0.5)
    assert stats.metrics["unpriced"].total == found.unpriced == 4
    with Workbench.open(log_folder) as wb:
        frame = wb.sql(
            "select cast(attributes->>'agreement' as double) as agreement, attributes from spans "
            "where component = 'ensembler' order by start_unix_ns"
        )
    assert frame["agreement"].tolist() == [1.0, 0.5]
    told = json.loads(frame["attributes"][1])
    assert {k: told[k] for k in ("confidence", "kept", "filtered", "failed", "late", "tied", "decided", "quorum")} == {
        "confidence": pytest.approx(1 / 3), "kept": 2, "filtered": 0, "failed": 1, "late": 0, "tied": 1, "decided": 1,
        "quorum": 1,
    }  # fmt: skip


def test_a_failed_question_has_its_numbers_too(log_folder: Path):
    """There is no agreement to tell, and the failures are."""
    ensembler = MultiModelEnsembler(["a", "b"], executors={"a": answers(DOWN), "b": answers(DOWN)}, log=log_folder)
    assert ask(ensembler) is None
    told = performance_tracer.get_metrics("ensembler")[0].metrics
    assert (told["failed"], told["decided"], told.get("agreement")) == (2, 0, None)


def test_the_figures_are_plain_values_and_a_frame(log_folder: Path):
    """`as_dict` is JSON; `df` has one row a model and every column of ModelMetrics."""
    ensembler = MultiModelEnsembler(["simulated:strong", "simulated:weak"], log=log_folder)
    ask(ensembler)
    found = ensembler.get_ensemble_metrics()
    told = json.loads(json.dumps(found.as_dict()))
    assert told["requests"] == 1
    assert [m["model"] for m in told["models"]] == ["simulated:strong", "simulated:weak"]
    frame = found.df()
    assert list(frame.columns) == [f.name for f in fields(ModelMetrics)]
    assert frame["source"].tolist() == ["simulated"] * 2
    assert len(fields(EnsembleMetrics)) >= 8
    with pytest.raises(AttributeError):
        found.requests = 5  # type: ignore[misc]


def test_questions_of_many_threads_are_all_counted(log_folder: Path):
    """8 threads ask 10 each."""
    ensembler = MultiModelEnsembler(["a"], executors={"a": lambda prompt: "Answer: 24"}, log=log_folder)

    def work() -> None:
        async def main() -> None:
            await asyncio.gather(*(ensembler.get_ensemble_response(QUESTION) for _ in range(10)))

        asyncio.run(main())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = ensembler.get_ensemble_metrics()
    assert (found.requests, found.decided, of(found, "a").asked) == (80, 80, 80)


# -- the counts alone, on a virtual clock


def count(counts: EnsembleCounts, world: World, took_s: float, parts: Mapping[str, str]) -> None:
    """A question that took so long, and its answers."""
    contributions = tuple(
        ModelContribution(
            model=m, answer=a, response=Response(request_key="", model=m, text=a, source="live", cost_usd=0.25)
        )
        for m, a in parts.items()
    )
    with span(world, "test", "question") as here, counts.question(here) as asking:
        world.pause(took_s)
        asking.parts = contributions
        asking.merged = EnsembleResponse(
            text="", answer="x", tied=("x",), strategy="s", confidence=1.0, agreement=1.0, contributions=contributions
        )


def test_percentiles_are_of_whole_questions():
    """101 questions of 0 to 100 ms: numpy's linear percentiles."""
    counts, world = EnsembleCounts({"a": "member"}), World.virtual()
    for ms in range(101):
        count(counts, world, ms / 1e3, {"a": "x"})
    found = counts.metrics()
    expected = np.percentile(range(101), [50, 95, 99])
    assert [found.p50_ms, found.p95_ms, found.p99_ms] == pytest.approx(expected.tolist())
    assert (found.recent, found.cost_usd, of(found, "a").behind_share) == (101, 25.25, 1.0)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """Of many questions the newest latencies are kept, and every total."""
    assert metrics.RECENT == 10_000
    monkeypatch.setattr(metrics, "RECENT", 10)
    counts, world = EnsembleCounts({"a": "member"}), World.virtual()
    for ms in range(25):
        count(counts, world, ms / 1e3, {"a": "x"})
    found = counts.metrics()
    assert (found.requests, found.recent, of(found, "a").asked) == (25, 10, 25)
    assert found.p50_ms == pytest.approx(np.median(range(15, 25)))


def test_no_count_of_any_thread_is_lost():
    """Threads that change places as often as they can: every total is that of all questions."""
    counts = EnsembleCounts({"a": "member"})
    interval = sys.getswitchinterval()

    def work() -> None:
        world = World.virtual()
        for _ in range(500):
            count(counts, world, 0.0, {"a": "x"})

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    found = counts.metrics()
    assert (found.requests, found.decided, of(found, "a").asked, found.cost_usd) == (2_000, 2_000, 2_000, 500.0)


def test_a_merge_without_a_number_does_not_break_the_count():
    """NaN from a strategy of somebody's own is left out of the means, and the question counts."""
    counts, world = EnsembleCounts({"a": "member"}), World.virtual()
    for agreement in (float("nan"), 0.5):
        with span(world, "test", "question") as here, counts.question(here) as asking:
            asking.merged = EnsembleResponse(
                text="", answer="x", tied=("x",), strategy="s", confidence=1.0, agreement=agreement, contributions=()
            )
    assert (counts.metrics().decided, counts.metrics().agreement) == (2, 0.5)


def test_what_a_failed_attempt_is_known_to_have_cost_is_counted():
    """A failure with a cost is paid; it is no answer, so it is not unpriced."""
    counts, world = EnsembleCounts({"a": "member", "b": "member"}), World.virtual()
    failure = Failure(kind="LLMProviderError", code="provider.server", message="cut", cost_usd=0.5)
    with span(world, "test", "question") as here, counts.question(here) as asking:
        part = ModelContribution(model="a", failure=failure, status="failed")
        asking.parts = (part, replace(part, model="b", failure=replace(failure, cost_usd=None)))
    found = counts.metrics()
    assert (found.cost_usd, found.unpriced, of(found, "a").cost_usd, of(found, "b").cost_usd) == (0.5, 0, 0.5, 0.0)
    assert (found.undecided, found.success_rate) == (1, 0.0)
