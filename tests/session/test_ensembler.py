"""One question to several models: weights, thresholds, executors, failures, and what stays in the log."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from workbench import MultiModelEnsembler, Workbench
from workbench.act.aggregate import error_aggregator
from workbench.act.journal import encode
from workbench.decide.policies import policy
from workbench.decide.quorum import Quorum
from workbench.errors import LLMOrchestratorError, LLMProviderError, LLMRouterError, LLMValidationError
from workbench.facts import EnsembleResponse
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
        ({"weights": {"gpt4": 1.0}}, LLMValidationError, "validation.weights"),
        ({"weights": {**WEIGHTS, "nobody": 1.0}}, LLMValidationError, "validation.weights"),
        ({"weights": {**WEIGHTS, "gpt4": -1.0}}, LLMValidationError, "validation.weights"),
        ({"weights": {**WEIGHTS, "gpt4": float("nan")}}, LLMValidationError, "validation.weights"),
        ({"weights": dict.fromkeys(NAMES, 0.0)}, LLMValidationError, "validation.weights"),
        ({"strategy": "majority"}, LLMValidationError, "validation.strategy"),
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
