"""One question to several models: weights, thresholds, executors, failures, and what stays in the log."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench import MajorityVoting, MultiModelEnsembler, Profile, WeightedConsensus, Workbench
from workbench.act.aggregate import error_aggregator
from workbench.act.journal import encode
from workbench.act.judge import PairwiseRanking
from workbench.decide.adaptive import AdaptiveWeights
from workbench.decide.policies import POLICIES, policy
from workbench.decide.pool import Learner, Pool
from workbench.decide.quorum import Quorum
from workbench.decide.strategies.weighted import LogOdds
from workbench.decide.votes import Ballots
from workbench.errors import LLMOrchestratorError, LLMProviderError, LLMRouterError, LLMValidationError
from workbench.facts import EnsembleResponse, Request, Response
from workbench.session.ensembler import QualityFilter
from workbench.study.table import contribution

NAMES = ["gpt4", "claude3", "gemini-pro"]
WEIGHTS = {"gpt4": 0.4, "claude3": 0.35, "gemini-pro": 0.25}
QUESTION = "How many legs do three spiders have?"


def says(answer: Any) -> Any:
    """A function that answers so, or raises it."""

    def function(prompt: str) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer if not isinstance(answer, int) else f"The answer is {answer}."

    return function


def ensemble(log: Path, answers: Mapping[str, Any], weights: Any = None, **options: Any) -> MultiModelEnsembler:
    executors = {name: says(answer) for name, answer in answers.items()}
    return MultiModelEnsembler(models=list(answers), weights=weights, executors=executors, log=log, **options)


def asked(ensembler: MultiModelEnsembler, **options: Any) -> EnsembleResponse:
    return asyncio.run(ensembler.get_ensemble_response(**{"query": QUESTION, **options}))


def test_the_weights_decide(log_folder: Path):
    """0.35 + 0.25 for 24 outweigh 0.4 for 8; confidence and agreement are 0.6."""
    merged = asked(ensemble(log_folder, dict(zip(NAMES, (8, 24, 24), strict=True)), WEIGHTS))
    assert (merged.answer, merged.tied, merged.strategy) == ("24", ("24",), "weighted_consensus")
    assert (merged.confidence, merged.agreement) == (pytest.approx(0.6), pytest.approx(0.6))
    assert merged.text == "The answer is 24."
    assert merged.unrated == 3


def test_the_promised_call_works_as_written(log_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """models, weights and executors by name; query and quality_threshold by name; the default threshold is 0.7."""
    monkeypatch.setenv("WORKBENCH_LOG", str(log_folder))
    ensembler = MultiModelEnsembler(
        models=["gpt4", "claude3", "gemini-pro"],
        weights={"gpt4": 0.4, "claude3": 0.35, "gemini-pro": 0.25},
        executors={name: says(24) for name in NAMES},
    )
    merged = asyncio.run(ensembler.get_ensemble_response(query=QUESTION, quality_threshold=0.7))
    assert (merged.answer, merged.confidence) == ("24", 1.0)
    assert (log_folder / "workbench.duckdb").is_file()
    default = inspect.signature(MultiModelEnsembler.get_ensemble_response).parameters["quality_threshold"].default
    assert default == 0.7


def test_without_weights_all_count_alike(log_folder: Path):
    """Three different answers are a three-way tie with a third of the confidence."""
    merged = asked(ensemble(log_folder, dict(zip(NAMES, (1, 2, 3), strict=True))))
    assert (merged.answer, merged.tied, merged.confidence) == ("1", ("1", "2", "3"), pytest.approx(1 / 3))


@pytest.mark.parametrize("strategy", ["majority_voting", "best_of_n", "weighted_consensus"])
def test_every_strategy_returns_the_unanimous_answer(log_folder: Path, strategy: str):
    """Agreement of all is their answer, with confidence 1."""
    merged = asked(ensemble(log_folder, dict.fromkeys(NAMES, 24), strategy=strategy))
    assert (merged.answer, merged.confidence, merged.strategy) == ("24", 1.0, strategy)


def test_a_failing_model_is_a_contribution_that_failed(log_folder: Path):
    """The others answer; the failure stands in the response with its code."""
    down = LLMProviderError("down", code="provider.server")
    merged = asked(ensemble(log_folder, {"gpt4": down, "claude3": 24, "gemini-pro": ZeroDivisionError("bug")}))
    status = {c.model: (c.status, c.failure.code if c.failure else None) for c in merged.contributions}
    assert merged.answer == "24"
    assert status == {
        "gpt4": ("failed", "provider.server"), "claude3": ("kept", None),
        "gemini-pro": ("failed", "provider.unexpected"),
    }  # fmt: skip


def test_when_all_fail_the_error_has_every_failure(log_folder: Path):
    """LLMOrchestratorError ensemble.all_failed carries one failure a member and no partial answer."""
    down = LLMProviderError("down", code="provider.server")
    with pytest.raises(LLMOrchestratorError) as caught:
        asked(ensemble(log_folder, dict.fromkeys(NAMES, down)))
    assert caught.value.code == "ensemble.all_failed"
    assert [f.code for f in caught.value.errors] == ["provider.server"] * 3
    assert caught.value.partial is None


def test_functions_may_be_coroutines_or_return_what_is_no_text(log_folder: Path):
    """An awaited answer counts; a number instead of a text is provider.malformed."""

    async def later(prompt: str) -> str:
        await asyncio.sleep(0)
        return "A: 24"

    merged = asked(
        MultiModelEnsembler(["a", "b"], executors={"a": later, "b": lambda prompt: 24}, log=log_folder),
    )
    assert merged.answer == "24"
    assert [c.failure.code if c.failure else None for c in merged.contributions] == [None, "provider.malformed"]


def test_the_kind_of_answer_may_be_named(log_folder: Path):
    """Labels are told apart where the query does not list them."""
    merged = asked(
        ensemble(log_folder, {"a": "Answer: Yes!", "b": "Answer: yes", "c": "Answer: no"}),
        query="Is water wet?", answer_kind="label",
    )  # fmt: skip
    assert (merged.answer, merged.agreement) == ("yes", pytest.approx(2 / 3))


def test_options_in_the_query_make_it_a_choice(log_folder: Path):
    """Lettered options are read from the query."""
    merged = asked(
        ensemble(log_folder, {"a": "I choose (B).", "b": "The answer is B."}),
        query="Which is a fruit?\nA. stone\nB. apple\nAnswer:",
    )
    assert (merged.answer, merged.confidence) == ("B", 1.0)


def test_simulated_models_answer_any_question(log_folder: Path):
    """The pool needs no key and no network."""
    ensembler = MultiModelEnsembler(["simulated:strong", "simulated:weak"], log=log_folder)
    merged = asked(ensembler)
    assert {c.response.source for c in merged.contributions if c.response} == {"simulated"}
    assert merged.answer is not None


@pytest.mark.parametrize(
    ("given", "error", "code"),
    [
        ({"models": []}, LLMValidationError, "validation.models"),
        ({"models": ["gpt4", "gpt4"]}, LLMValidationError, "validation.models"),
        ({"models": ["gpt5"]}, LLMRouterError, "router.unknown_model"),
        ({"models": NAMES[:2]}, LLMValidationError, "validation.models"),
        ({"executors": {"gpt4": "24"}}, LLMValidationError, "validation.models"),
        ({"weights": {"gpt4": 1.0}}, LLMValidationError, "validation.weights"),
        ({"weights": {**WEIGHTS, "nobody": 1.0}}, LLMValidationError, "validation.weights"),
        ({"weights": {**WEIGHTS, "gpt4": -1.0}}, LLMValidationError, "validation.weights"),
        ({"weights": {**WEIGHTS, "gpt4": float("nan")}}, LLMValidationError, "validation.weights"),
        ({"weights": dict.fromkeys(NAMES, 0.0)}, LLMValidationError, "validation.weights"),
        ({"strategy": "majority"}, LLMValidationError, "validation.strategy"),
        ({"strategy": MajorityVoting}, LLMValidationError, "validation.strategy"),
        ({"strategy": "stacking"}, LLMValidationError, "validation.unfitted"),
        ({"strategy": LogOdds({"gpt4": 1.0})}, LLMValidationError, "validation.weights"),
        ({"strategy": "majority_voting", "weights": WEIGHTS}, LLMValidationError, "validation.weights"),
        ({"strategy": WeightedConsensus(WEIGHTS), "weights": WEIGHTS}, LLMValidationError, "validation.weights"),
        ({"strategy": MajorityVoting(threshold=0.5)}, LLMValidationError, "validation.threshold"),
        ({"weights": AdaptiveWeights({"gpt4": 1.0})}, LLMValidationError, "validation.weights"),
        ({"quality": {"gpt4": 1.1}}, LLMValidationError, "validation.quality"),
        ({"quality": {"gpt5": 0.5}}, LLMValidationError, "validation.quality"),
        ({"quality": {"gpt4": "good"}}, LLMValidationError, "validation.quality"),
        ({"samples": 0}, LLMValidationError, "validation.config"),
        ({"samples": True}, LLMValidationError, "validation.config"),
        ({"params": {"temperature": float("nan")}}, LLMValidationError, "validation.params"),
        ({"fuse_below": 0.5}, LLMValidationError, "validation.config"),
        ({"aggregator": "gpt4", "fuse_below": 1.5}, LLMValidationError, "validation.config"),
        ({"aggregator": "nobody"}, LLMRouterError, "router.unknown_model"),
        ({"judge": "gpt4"}, LLMValidationError, "validation.strategy"),
        ({"strategy": "pairwise_ranking"}, LLMValidationError, "validation.strategy"),
        ({"strategy": "pairwise_ranking", "judge": "gpt4", "max_pairs": 0}, LLMValidationError, "validation.config"),
        ({"quorum": 4}, LLMValidationError, "validation.quorum"),
        ({"grace_s": -1.0}, LLMValidationError, "validation.config"),
        ({"timeout_s": 0}, LLMValidationError, "validation.config"),
        ({"wieghts": WEIGHTS}, LLMValidationError, "validation.config"),
        ({"max_retries": "many"}, LLMValidationError, "validation.config"),
        ({"cooldown_s": 600}, LLMValidationError, "validation.config"),
        ({"budget_run_usd": -1}, LLMValidationError, "validation.budget"),
    ],
)
def test_an_impossible_ensemble_is_refused_when_it_is_made(log_folder: Path, given: Any, error: Any, code: str):
    """Names, weights, strategies and settings are checked before any question, and no log is opened."""
    options = {"models": NAMES, "executors": {n: says(1) for n in NAMES}, "log": log_folder, **given}
    with pytest.raises(error) as caught:
        MultiModelEnsembler(**options)
    assert caught.value.code == code
    assert caught.value.next_step
    assert not log_folder.exists()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"query": "  "}, "validation.query"),
        ({"query": None}, "validation.query"),
        ({"quality_threshold": 1.1}, "validation.threshold"),
        ({"quality_threshold": "high"}, "validation.threshold"),
        ({"quality_threshold": True}, "validation.threshold"),
        ({"quorum": 2}, "validation.quorum"),
        ({"timeout_s": -1.0}, "validation.config"),
        ({"grace_s": float("nan")}, "validation.config"),
    ],
)
def test_an_impossible_question_is_refused_before_any_call(log_folder: Path, options: Any, code: str):
    """An empty query or a threshold outside [0, 1] is typed, and nobody is asked."""
    asked_models: list[str] = []
    ensembler = MultiModelEnsembler(["a"], executors={"a": lambda p: asked_models.append(p) or "1"}, log=log_folder)
    with pytest.raises(LLMValidationError) as caught:
        asked(ensembler, **options)
    assert caught.value.code == code
    assert asked_models == []


def test_an_unknown_kind_of_answer_is_refused_before_any_call(log_folder: Path):
    """A misspelt kind is the caller's mistake, and must not quietly turn every answer into a text."""
    asked_models: list[str] = []
    ensembler = MultiModelEnsembler(["a"], executors={"a": lambda p: asked_models.append(p) or "1"}, log=log_folder)
    with pytest.raises(LLMValidationError, match="colour"):
        asked(ensembler, answer_kind="colour")
    assert asked_models == []


def test_every_call_and_the_merge_are_in_the_log(log_folder: Path):
    """Three calls, one decision and their spans in one trace; the decision has the weights and the answers."""
    asked(ensemble(log_folder, dict(zip(NAMES, (8, 24, 24), strict=True)), WEIGHTS))
    with Workbench.open(log_folder) as wb:
        calls = wb.sql("select model, source, ok from calls order by model")
        assert calls.values.tolist() == [
            ["claude3", "live", True],
            ["gemini-pro", "live", True],
            ["gpt4", "live", True],
        ]
        merges = wb.sql("select strategy, answer, params->'weights'->>'gpt4' as w from merges")
        assert merges.values.tolist() == [["weighted_consensus", "24", "0.4"]]
        spans = wb.sql("select count(distinct trace_id) as traces, count(*) as n from spans")
        assert spans.values.tolist() == [[1, 4]]


def test_questions_may_be_asked_at_once(log_folder: Path):
    """Twenty concurrent questions on one ensembler leave forty calls and twenty decisions."""
    ensembler = ensemble(log_folder, {"a": 1, "b": 2})

    async def main() -> list[EnsembleResponse]:
        return await asyncio.gather(*(ensembler.get_ensemble_response(f"How many {k}?") for k in range(20)))

    assert [m.tied for m in asyncio.run(main())] == [("1", "2")] * 20
    with Workbench.open(log_folder) as wb:
        assert wb.log.rows("select (select count(*) from calls), (select count(*) from decisions)") == [(40, 20)]


@pytest.mark.parametrize("inside", [False, True], ids=["script", "running loop"])
def test_the_synchronous_form_gives_the_same_answer(log_folder: Path, inside: bool):
    """With and without a running event loop, with the options of the asynchronous one."""
    ensembler = ensemble(log_folder, {"a": "Answer: yes", "b": "Answer: yes"})

    def ask() -> EnsembleResponse:
        return ensembler.get_ensemble_response_sync("Is water wet?", None, answer_kind="label", quorum=2)

    async def cell() -> EnsembleResponse:
        return ask()

    merged = asyncio.run(cell()) if inside else ask()
    assert (merged.answer, merged.confidence) == ("yes", 1.0)


def test_the_deadline_is_the_setting_of_that_name(log_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """30 s by default; an argument or the environment moves it, for the models' own calls and the ensemble alike."""
    monkeypatch.setenv("WORKBENCH_TIMEOUT_S", "7")
    made = [ensemble(log_folder, {"a": 1}), ensemble(log_folder, {"a": 1}, timeout_s=90)]
    monkeypatch.delenv("WORKBENCH_TIMEOUT_S")
    made.append(ensemble(log_folder, {"a": 1}))
    assert [e.timeout_s for e in made] == [7.0, 90, 30.0]
    assert [e._live.admission.discipline.timeout_s for e in made] == [7.0, 90, 30.0]


def test_a_slow_member_is_late_and_the_others_are_merged(log_folder: Path):
    """The coroutine of `slow` is cancelled; status and confidence show that it took no part."""
    ended: list[str] = []

    async def slow(prompt: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("slow")
        return "The answer is 8."

    executors = {"a": says(24), "slow": slow}
    ensembler = MultiModelEnsembler(["slow", "a"], executors=executors, log=log_folder, timeout_s=0.1)
    merged = asked(ensembler)
    assert {c.model: c.status for c in merged.contributions} == {"a": "kept", "slow": "late"}
    assert (merged.answer, merged.confidence, ended) == ("24", 0.5, ["slow"])


def test_a_decision_with_late_members_is_made_again_from_the_log(log_folder: Path):
    """Policy, parameters and contributions of the log give the logged answer, tie, confidence and quorum."""

    async def stubborn(prompt: str) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "The answer is 8."
        return ""

    executors = {"a": says(24), "b": says(24), "late": stubborn, "bad": says(KeyError("x"))}
    ensembler = MultiModelEnsembler(list(executors), executors=executors, log=log_folder, quorum=2, grace_s=0.0)
    merged = asked(ensembler)
    assert {c.model: (c.status, c.answer) for c in merged.contributions}["late"] == ("late", "8")
    with Workbench.open(log_folder) as wb:
        rows = wb.log.rows("select kind, policy, params, inputs, output from decisions order by kind desc")
        assert wb.log.rows("select member, status from calls order by member") == [
            ("a", "ok"), ("b", "ok"), ("bad", "error"), ("late", "ok"),
        ]  # fmt: skip
    assert [kind for kind, *_ in rows] == ["quorum", "merge"]
    for kind, name, params, inputs, output in rows:
        parts = [contribution(*c) for c in json.loads(inputs)["contributions"]]
        again = Quorum(**json.loads(params)) if kind == "quorum" else policy(name, json.loads(params))
        assert encode(again(parts)) == json.loads(output)


def test_a_failed_ensemble_is_counted_once_and_has_its_first_cause(log_folder: Path):
    """Two members fail: two errors of `ensemble`; the ensemble's own error was raised from one of them."""
    error_aggregator.clear()
    down = LLMProviderError("down", code="provider.server")
    with pytest.raises(LLMOrchestratorError) as caught:
        asked(ensemble(log_folder, {"b": down, "a": KeyError("x")}))
    assert [f.code for f in caught.value.errors] == ["provider.server", "provider.unexpected"]
    assert [c.model for c in caught.value.contributions] == ["b", "a"]
    assert isinstance(caught.value.__cause__, LLMProviderError)
    assert caught.value.__cause__.code == "provider.server"
    assert error_aggregator.count() == (2, 0)
    error_aggregator.clear()


# -- strategies


def log_of(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    with Workbench.open(folder) as wb:
        return wb.log.rows(sql)


def taught(name: str) -> Any:
    """The registered strategy, fitted where it learns: of 40 items gpt4 has 12 right, the others have 36."""
    merge = policy(name)
    if not isinstance(merge, Learner):
        return name
    right = {"gpt4": lambda i: i % 10 < 3, "claude3": lambda i: i % 10 != 4, "gemini-pro": lambda i: i % 10 != 7}
    rows = [["24" if right[n](i) else str(i % 3) for n in NAMES] for i in range(40)]
    ballots = Ballots.of(NAMES, rows)
    texts = [[f"The answer is {answer}." for answer in row] for row in rows]
    return merge.fit(Pool.of(ballots, texts=texts), ballots.values(np.zeros((40, 3)), ["24"] * 40))


@pytest.mark.parametrize("name", POLICIES)
def test_every_registered_strategy_decides(log_folder: Path, name: str):
    """By name where it learns nothing, as a fitted object where it does; its decision is made again from the log."""
    merged = asked(ensemble(log_folder, dict(zip(NAMES, (8, 24, 24), strict=True)), strategy=taught(name)))
    # Nobody answers with an object, and that two of three agree is not sure enough for one that may be silent.
    silent = name in ("field_wise", "selective")
    assert (merged.answer, merged.strategy) == (None if silent else "24", name)
    ((logged, params, output),) = log_of(log_folder, "select policy, params, output from decisions")
    assert encode(policy(logged, json.loads(params))(merged.contributions)) == json.loads(output)


def test_a_strategy_of_somebodys_own_decides(log_folder: Path):
    """Any object that keeps the contract of a merge."""

    class Second:
        name = "second"

        def __call__(self, contributions: Any) -> EnsembleResponse:
            return MajorityVoting()(contributions[1:2])

    ensembler = ensemble(log_folder, dict(zip(NAMES, (8, 24, 8), strict=True)), strategy=Second())
    assert (asked(ensembler).answer, ensembler.strategy) == ("24", "second")


@pytest.mark.parametrize("strategy", ["majority_voting", LogOdds(WEIGHTS)], ids=["own threshold", "none"])
def test_estimates_of_the_caller_filter_under_every_strategy(log_folder: Path, strategy: Any):
    """Two below the threshold are left out, whoever has the filter; all of them is an error with the best kept."""
    quality = {"gpt4": 0.9, "claude3": 0.6, "gemini-pro": 0.5}
    ensembler = ensemble(
        log_folder, dict(zip(NAMES, (8, 24, 24), strict=True)), strategy=strategy, quality=quality,
    )  # fmt: skip
    merged = asked(ensembler)
    assert (merged.answer, merged.unrated) == ("8", 0)
    assert {c.model: c.status for c in merged.contributions} == {
        "gpt4": "kept", "claude3": "filtered", "gemini-pro": "filtered",
    }  # fmt: skip
    assert {c.quality_source for c in merged.contributions} == {"caller"}
    assert asked(ensembler, quality_threshold=None).answer == "24"
    with pytest.raises(LLMOrchestratorError) as caught:
        asked(ensembler, quality_threshold=1.0)
    assert (caught.value.code, caught.value.partial.model) == ("ensemble.all_filtered", "gpt4")
    assert "reaches quality 1.0" in caught.value.message


def test_the_filter_is_a_decision_that_is_made_again(log_folder: Path):
    """For a strategy without a threshold it stands before the merge, with what it left."""
    strategy, quality = LogOdds(WEIGHTS), {"gpt4": 0.1}
    asked(ensemble(log_folder, dict(zip(NAMES, (8, 24, 24), strict=True)), strategy=strategy, quality=quality))
    rows = log_of(log_folder, "select kind, params, inputs, output from decisions order by kind")
    assert [kind for kind, *_ in rows] == ["filter", "merge"]
    _, params, inputs, output = rows[0]
    parts = [contribution(*c) for c in json.loads(inputs)["contributions"]]
    assert encode(QualityFilter(**json.loads(params))(parts)) == json.loads(output)


# -- samples of one model


def test_self_consistency_draws_one_model_and_votes(log_folder: Path):
    """Five draws of a simulated model are five members and five different requests, merged by majority."""
    ensembler = MultiModelEnsembler.self_consistency("simulated:medium", 5, temperature=0.7, log=log_folder)
    merged = asked(ensembler)
    names = [f"simulated:medium#{k}" for k in range(1, 6)]
    assert [m.name for m in ensembler.members] == names == [c.model for c in merged.contributions]
    assert merged.strategy == "majority_voting"
    rows = log_of(log_folder, "select member, sample, params->>'temperature', request_key from calls order by member")
    assert [row[:3] for row in rows] == [(name, k, "0.7") for k, name in enumerate(names)]
    assert len({key for *_, key in rows}) == 5
    assert len({c.answer for c in merged.contributions}) > 1  # an unknown prompt: every draw has a number of its own
    again = asked(MultiModelEnsembler.self_consistency("simulated:medium", 5, temperature=0.7, log=log_folder))
    assert [c.answer for c in again.contributions] == [c.answer for c in merged.contributions]


def test_draws_of_a_function_are_calls_of_it(log_folder: Path):
    """Three of five calls say 24."""
    said = iter([24, 8, 24, 9, 24])
    lock = threading.Lock()

    def function(prompt: str) -> str:
        with lock:
            return f"Answer: {next(said)}"

    merged = asked(MultiModelEnsembler.self_consistency("mine", executors={"mine": function}, log=log_folder))
    assert (merged.answer, merged.agreement) == ("24", pytest.approx(3 / 5))


def test_several_models_may_be_drawn_several_times(log_folder: Path):
    """Members are NAME#k of every model; parameters reach all of them."""
    seen: list[Request] = []

    class Keeps:
        name = "keeps"

        async def complete(self, request: Request) -> Response:
            seen.append(request)
            return Response(request_key=request.key, model=self.name, text="Answer: 24", source="live")

    models = [Keeps(), Profile(name="own", skill={"general": 1.0})]
    ensembler = MultiModelEnsembler(models, samples=2, params={"top_p": 0.9}, log=log_folder)
    names = {c.model for c in asked(ensembler).contributions}
    assert names == {"keeps#1", "keeps#2", "simulated:own#1", "simulated:own#2"}
    assert [(r.sample, dict(r.params)) for r in seen] == [(0, {"top_p": 0.9}), (1, {"top_p": 0.9})]


# -- a model that writes the merge


def fusing(folder: Path, answers: Mapping[str, Any], written: Any, **options: Any) -> MultiModelEnsembler:
    executors = {name: says(answer) for name, answer in answers.items()} | {"writer": says(written)}
    return MultiModelEnsembler(list(answers), executors=executors, aggregator="writer", log=folder, **options)


def test_a_disagreement_is_fused_in_the_same_trace(log_folder: Path):
    """Three answers, no majority: the aggregator's is returned; its call is in the trace of the question."""
    merged = asked(fusing(log_folder, dict(zip(NAMES, (8, 24, 23), strict=True)), "8 x 3 = 24.\nAnswer: 24"))
    assert (merged.strategy, merged.answer, merged.text) == ("generative_fusion", "24", "8 x 3 = 24.\nAnswer: 24")
    assert merged.agreement == pytest.approx(1 / 3)
    assert merged.contributions[-1].model == "aggregator:writer"
    decided = log_of(log_folder, "select kind, policy, output->>'answer' from decisions")
    assert sorted(decided) == [
        ("fuse", "generative_fusion", "24"), ("gate", "fuse_below", None), ("merge", "weighted_consensus", "23"),
    ]  # fmt: skip
    calls = log_of(log_folder, "select member, ok from calls order by member")
    assert calls == [("aggregator:writer", True), *((name, True) for name in sorted(NAMES))]
    assert log_of(log_folder, "select count(distinct trace_id), count(*) from spans") == [(1, 5)]


def test_a_majority_is_not_fused(log_folder: Path):
    """The default limit is a half; fuse_below=1 fuses whatever is not unanimous."""
    answers = dict(zip(NAMES, (8, 24, 24), strict=True))
    assert asked(fusing(log_folder, answers, "Answer: 8")).strategy == "weighted_consensus"
    assert asked(fusing(log_folder, answers, "Answer: 8", fuse_below=1.0)).answer == "8"
    assert asked(fusing(log_folder, dict.fromkeys(NAMES, 24), "Answer: 8", fuse_below=1.0)).answer == "24"


def test_a_failing_aggregator_never_costs_the_answer(log_folder: Path):
    """The plain merge is returned, and shows what failed."""
    merged = asked(fusing(log_folder, {"a": 8, "b": 24}, KeyError("bug"), fuse_below=1.0))
    assert (merged.answer, merged.strategy) == ("24", "weighted_consensus")
    assert merged.contributions[-1].failure.code == "provider.unexpected"
    assert log_of(log_folder, "select member, status from calls where not ok") == [("aggregator:writer", "error")]


def test_nobody_is_fused_where_nobody_answered(log_folder: Path):
    """An ensemble that failed as a whole fails as ever, and the aggregator is not asked."""
    down = LLMProviderError("down", code="provider.server")
    with pytest.raises(LLMOrchestratorError) as caught:
        asked(fusing(log_folder, {"a": down, "b": down}, "Answer: 24"))
    assert [c.model for c in caught.value.contributions] == ["a", "b"]
    assert log_of(log_folder, "select count(*) from calls") == [(2,)]


def test_a_member_may_be_the_aggregator_too(log_folder: Path):
    """Its two parts are told apart by name, in the response and in the log."""
    ensembler = MultiModelEnsembler(
        ["simulated:strong", "simulated:weak"], aggregator="simulated:strong", fuse_below=1.0, log=log_folder
    )
    merged = asked(ensembler)
    assert [c.model for c in merged.contributions] == [
        "simulated:strong", "simulated:weak", "aggregator:simulated:strong",
    ]  # fmt: skip
    assert merged.answer == merged.contributions[-1].answer


# -- a judge


def prefers(answer: str) -> Any:
    """A judge for whom the response with this answer is the better one."""

    def function(prompt: str) -> str:
        said = re.search(r"\[response A \w+\]\n(.*)", prompt)
        return "Answer: A" if said and answer in said[1] else "Answer: B"

    return function


def judging(folder: Path, answers: Mapping[str, Any], judge: Any, **options: Any) -> MultiModelEnsembler:
    executors = {name: says(answer) for name, answer in answers.items()} | {"judge": judge}
    return MultiModelEnsembler(
        list(answers), strategy="pairwise_ranking", judge="judge", executors=executors, log=folder, **options
    )


def test_a_judge_ranks_the_answers(log_folder: Path):
    """The minority's answer wins; six comparisons are in the trace, and the decision is made again from the log."""
    ensembler = judging(log_folder, {"a": 8, "b": 8, "c": 24, "d": 9}, prefers("24"))
    merged = asked(ensembler)
    assert (merged.answer, merged.strategy) == ("24", "pairwise_ranking")
    assert log_of(log_folder, "select member, count(*) from calls where ok group by 1 order by 1") == [
        ("a", 1), ("b", 1), ("c", 1), ("d", 1), ("judge:judge", 6),
    ]  # fmt: skip
    assert log_of(log_folder, "select count(distinct trace_id) from spans") == [(1,)]
    sql = "select kind, policy, params, inputs, output from decisions where kind <> 'filter'"
    ((kind, name, params, inputs, output),) = log_of(log_folder, sql)
    assert (kind, name) == ("merge", "pairwise_ranking")
    parts = [contribution(*c) for c in json.loads(inputs)["contributions"]]
    assert encode(PairwiseRanking(**json.loads(params))(parts)) == json.loads(output)


def test_max_pairs_bounds_the_calls_of_the_judge(log_folder: Path):
    """One pair of four answers: the two that are first by support and name."""
    merged = asked(judging(log_folder, {"a": 4, "b": 3, "c": 2, "d": 1}, prefers("2"), max_pairs=1))
    assert merged.answer == "2"
    assert log_of(log_folder, "select count(*) from calls where member = 'judge:judge'") == [(2,)]


def test_a_silent_judge_leaves_a_vote(log_folder: Path):
    """Majority voting, named so."""
    merged = asked(judging(log_folder, {"a": 8, "b": 24, "c": 24}, says("no idea")))
    assert (merged.answer, merged.strategy, merged.agreement) == ("24", "majority_voting", pytest.approx(2 / 3))


def test_a_judge_is_asked_only_about_members_that_pass(log_folder: Path):
    """What the threshold leaves out is not compared; where nobody answered, the error is the usual one."""
    ensembler = judging(log_folder, {"a": 8, "b": 24, "c": 9}, prefers("9"), quality={"c": 0.1})
    assert asked(ensembler).answer == "24"
    down = LLMProviderError("down", code="provider.server")
    with pytest.raises(LLMOrchestratorError) as caught:
        asked(judging(log_folder, {"a": down}, prefers("9")))
    assert caught.value.code == "ensemble.all_failed"


# -- weights that follow feedback


def test_feedback_moves_the_weights_of_the_next_question(log_folder: Path):
    """a was wrong twice, b right: b's answer wins from then on; base 0.6 and 0.4, prior 1 + 1, discount 0.99."""
    ensembler = ensemble(log_folder, {"a": 8, "b": 24}, {"a": 0.6, "b": 0.4})
    first = asked(ensembler)
    assert first.answer == "8"
    ensembler.update_weights(first, quality=0.0)
    state = ensembler.update_weights({"a": 0.0, "b": 1.0})
    # a: 1 good of 2 + 0.99 + 1; b: 2 good of 2 + 0 + 1.
    a, b = 0.6 * 1 / 3.99, 0.4 * 2 / 3
    assert ensembler.weights == state.weights() == {"a": pytest.approx(a / (a + b)), "b": pytest.approx(b / (a + b))}
    second = asked(ensembler)
    assert (second.answer, second.agreement) == ("24", pytest.approx(b / (a + b)))
    rows = log_of(log_folder, "select kind, params, inputs, output from decisions where kind = 'adapt'")
    again = AdaptiveWeights({"a": 0.6, "b": 0.4})
    outputs = [json.loads(output) for *_, output in rows]
    for inputs in sorted((json.loads(inputs) for _, _, inputs, _ in rows), key=lambda told: len(told["quality"])):
        again = again.update(inputs["quality"])
        assert json.loads(json.dumps(encode(again))) in outputs
    assert again == state


def test_a_state_is_taken_up_again(log_folder: Path):
    """The weights of one object begin another; without feedback nothing moves."""
    state = AdaptiveWeights({"a": 1.0, "b": 1.0}, discount=0.5).update({"a": 0.0, "b": 1.0})
    ensembler = ensemble(log_folder, {"a": 8, "b": 24}, state)
    assert ensembler.weights == state.weights()
    assert asked(ensembler).answer == "24"
    assert ensembler.update_weights({"a": 1.0}) == state.update({"a": 1.0})
    assert ensemble(log_folder, {"a": 8, "b": 24}).weights == {"a": 1.0, "b": 1.0}
    assert ensemble(log_folder, {"a": 8}, strategy="majority_voting").weights is None


def test_weights_by_quality_start_alike(log_folder: Path):
    """A WeightedConsensus() without weights of its own counts by quality, until feedback gives it weights."""
    ensembler = ensemble(log_folder, {"a": 8, "b": 24}, strategy=WeightedConsensus(), quality={"a": 0.8, "b": 0.9})
    assert (ensembler.weights, asked(ensembler).agreement) == (None, pytest.approx(0.9 / 1.7))
    ensembler.update_weights({"a": 1.0})
    assert ensembler.weights == {"a": pytest.approx(4 / 7), "b": pytest.approx(3 / 7)}  # means 2/3 and 1/2


@pytest.mark.parametrize(
    ("strategy", "feedback", "code"),
    [
        ("majority_voting", {"a": 1.0}, "validation.weights"),
        ("weighted_consensus", {"nobody": 1.0}, "validation.feedback"),
        ("weighted_consensus", {"a": 2.0}, "validation.feedback"),
        ("weighted_consensus", {}, "validation.feedback"),
    ],
)
def test_impossible_feedback_changes_nothing(log_folder: Path, strategy: str, feedback: Any, code: str):
    """It is typed, and the weights stay."""
    ensembler = ensemble(log_folder, {"a": 8, "b": 24}, strategy=strategy)
    before = ensembler.weights
    with pytest.raises(LLMValidationError) as caught:
        ensembler.update_weights(feedback)
    assert (caught.value.code, ensembler.weights) == (code, before)


def test_no_feedback_of_any_thread_is_lost(log_folder: Path):
    """8 threads tell 25 times each: the evidence is that of 200 updates, and all are in the log."""
    ensembler = ensemble(log_folder, {"a": 8, "b": 24}, AdaptiveWeights({"a": 1.0, "b": 1.0}, discount=1.0))

    def tell() -> None:
        for _ in range(25):
            ensembler.update_weights({"a": 1.0, "b": 0.5})

    threads = [threading.Thread(target=tell) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = ensembler.update_weights({"a": 0.0})
    assert (state.evidence["a"], state.evidence["b"]) == ((200.0, 201.0), (100.0, 200.0))
    assert log_of(log_folder, "select count(*) from decisions where kind = 'adapt'") == [(201,)]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"models": None}, "validation.models"),
        ({"models": "a"}, "validation.models"),
        ({"executors": "a"}, "validation.config"),
        ({"params": "a"}, "validation.config"),
        ({"quality": "a"}, "validation.config"),
        ({"samples": 10**30}, "validation.config"),
        ({"strategy": np.array([1.0, 2.0])}, "validation.strategy"),
        ({"weights": {1: 1}}, "validation.weights"),
    ],
    ids=repr,
)
def test_options_of_another_type_are_refused_by_name(log_folder: Path, options: dict[str, Any], code: str):
    """Before anything is asked."""
    with pytest.raises(LLMValidationError) as caught:
        MultiModelEnsembler(**{"models": ["a"], "executors": {"a": says("4")}, "log": log_folder, **options})
    assert caught.value.code == code
    assert 0 < len(caught.value.next_step) <= 160


@pytest.mark.parametrize("made", [None, "24"])
def test_a_merge_that_makes_no_response_is_named(log_folder: Path, made: object):
    """Its question fails with what the strategy should have made."""

    class Mine:
        name, version = "mine", "1"

        def __call__(self, contributions: Any) -> Any:
            return made

    with pytest.raises(LLMValidationError, match="mine made a ") as caught:
        asked(ensemble(log_folder, {"a": 24}, strategy=Mine()))
    assert caught.value.code == "validation.strategy"
