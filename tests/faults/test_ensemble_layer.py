"""The catalogue's layer `ensemble`: members that fail, stall, raise or tie, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from faults.bench import SLACK_S, settled
from faults.server import RESET, STALL, FaultServer, Pause, reply
from faults.shapes import document, problem
from workbench import MajorityVoting, MultiModelEnsembler, Workbench
from workbench.decide.merge import BestOfN, WeightedConsensus
from workbench.errors import LLMError, LLMOrchestratorError, LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution

QUESTION = "How much is 2+2?"
MODELS = ("lab:one", "lab:two", "lab:three")
DOWN = reply(problem("openai", "down", "server_error"), 500)


def says(number: int, *, after_s: float = 0.0) -> Any:
    """The answer of a model that says so, after some seconds."""
    return (Pause(after_s), *reply(document("openai", f"The answer is {number}.")))


class Lab:
    """An ensemble of three models on the server, and its log."""

    def __init__(self, server: FaultServer, folder: Path) -> None:
        self.server, self.log = server, folder / "log"

    def ensemble(self, *answers: Any, models: Sequence[str] = MODELS, **options: Any) -> MultiModelEnsembler:
        """An ensembler whose models answer so; no attempt is repeated."""
        for name, answer in zip(models, answers, strict=True):
            self.server.on(name.partition(":")[2], answer)
        return MultiModelEnsembler(list(models), log=self.log, **{"max_retries": 0, **options})

    def rows(self) -> list[tuple[Any, ...]]:
        """Member, status and attempts of every call, in order of the members."""
        with Workbench.open(self.log) as wb:
            finals = "select sum(final::int) from attempts group by call_id"
            assert {n for (n,) in wb.log.rows(finals)} == {1}
            return wb.log.rows("select member, status, attempts from calls order by member")


@pytest.fixture
def lab(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab whose provider is the server."""
    config = tmp_path / "workbench.toml"
    table = f'[providers.lab]\nwire = "openai"\nbase_url = "{server.url()}"\nauth = "none"\nlocal = true\n'
    config.write_text(table, encoding="utf-8")
    monkeypatch.setenv("WORKBENCH_CONFIG", str(config))
    return Lab(server, tmp_path)


def asked(ensembler: MultiModelEnsembler, **options: Any) -> tuple[EnsembleResponse, float]:
    """The answer and how long it took; no task is left."""

    async def main() -> tuple[EnsembleResponse, float]:
        start_s = time.monotonic()
        try:
            return await ensembler.get_ensemble_response(QUESTION, **options), time.monotonic() - start_s
        finally:
            await ensembler.aclose()
            await settled()

    return asyncio.run(main())


def refused(ensembler: MultiModelEnsembler, code: str, **options: Any) -> LLMOrchestratorError:
    """The error of an ensemble that fails as a whole, with what every such error has."""
    with pytest.raises(LLMOrchestratorError) as caught:
        asked(ensembler, **options)
    error = caught.value
    assert error.code == code
    assert 0 < len(error.next_step) <= 160
    assert error.trace_id
    assert isinstance(error.__cause__, LLMError)
    assert [c.model for c in error.contributions] == [m.name for m in ensembler.members]
    return error


# -- members that fail


def test_ens_all_fail_holds_every_cause_in_order(lab: Lab) -> None:
    """A 500, a reset and a timeout: one error with the three causes in the order of the models, and three rows."""
    error = refused(lab.ensemble(DOWN, (RESET,), (STALL,), timeout_s=1.0), "ensemble.all_failed")
    assert [f.code for f in error.errors] == ["provider.server", "provider.connection", "timeout.deadline"]
    assert [c.status for c in error.contributions] == ["failed", "failed", "late"]
    assert error.partial is None
    assert lab.rows() == [("lab:one", "error", 1), ("lab:three", "timeout", 1), ("lab:two", "error", 1)]
    assert lab.server.quiet()


def test_ens_all_fail_keeps_a_late_answer_as_partial(lab: Lab) -> None:
    """Where nobody answered in time, an answer that came all the same is not thrown away."""

    async def late(prompt: str) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return "The answer is 4."

    with pytest.raises(LLMOrchestratorError) as caught:
        asked(MultiModelEnsembler(["a"], executors={"a": late}, timeout_s=0.2, log=lab.log))
    assert (caught.value.code, caught.value.errors) == ("ensemble.all_failed", ())
    assert (caught.value.partial.status, caught.value.partial.answer) == ("late", "4")
    assert lab.rows() == [("a", "ok", 1)]


def test_ens_quorum_names_got_and_needed_and_keeps_the_answer(lab: Lab) -> None:
    """One of three answers where two are needed: the error says so and has the one answer in .partial."""
    error = refused(lab.ensemble(DOWN, says(4), (STALL,), timeout_s=1.0, quorum=2), "ensemble.quorum")
    assert error.message.startswith("1 of 3 members answered in time, 2 are needed")
    assert "lab:three: timeout.deadline" in error.message
    assert (error.partial.model, error.partial.answer) == ("lab:two", "4")
    assert [f.code for f in error.errors] == ["provider.server", "timeout.deadline"]
    assert [status for _, status, _ in lab.rows()] == ["error", "timeout", "ok"]
    with Workbench.open(lab.log) as wb:
        decided = wb.log.rows("select kind, policy, params, output from decisions where kind in ('quorum', 'merge')")
    assert [(k, p, json.loads(i), json.loads(o)) for k, p, i, o in decided] == [
        ("quorum", "quorum", {"needed": 2}, {"error": "ensemble.quorum"})
    ]


def test_ens_quorum_of_nobody_is_all_failed(lab: Lab) -> None:
    """Where no member answered, every cause is told under the code of that, whatever the quorum."""
    error = refused(lab.ensemble(DOWN, DOWN, DOWN, quorum=3), "ensemble.all_failed")
    assert [f.code for f in error.errors] == ["provider.server"] * 3


@pytest.mark.parametrize("quorum", [0, 4, True, 1.5])
def test_ens_quorum_that_cannot_be_is_refused_before_any_call(lab: Lab, quorum: Any) -> None:
    """When the ensemble is made, and when it is asked."""
    with pytest.raises(LLMValidationError, match="quorum") as made:
        lab.ensemble(says(4), says(4), says(4), quorum=quorum)
    with pytest.raises(LLMValidationError, match="quorum") as called:
        asked(lab.ensemble(says(4), says(4), says(4)), quorum=quorum)
    assert made.value.code == called.value.code == "validation.quorum"
    assert lab.server.seen == []


@pytest.mark.parametrize("limits", [{"timeout_s": 1.0}, {"quorum": 2, "grace_s": 1.0}, {"quorum": 2, "grace_s": 0.0}])
def test_ens_one_slow_is_cancelled_and_flagged(lab: Lab, limits: dict[str, Any]) -> None:
    """Two answer, one stalls: their merge comes at the soft deadline, and the straggler's connection is closed."""
    merged, took_s = asked(lab.ensemble(says(4, after_s=0.01), says(4, after_s=0.01), (STALL,), **limits))
    due_s = limits.get("grace_s", 1.0)
    assert due_s <= took_s <= due_s + SLACK_S + 0.1  # 0.1 s: the first connections, and the log that is opened
    assert (merged.answer, merged.agreement, merged.confidence) == ("4", 1.0, pytest.approx(2 / 3))
    assert {c.model: c.status for c in merged.contributions} == {
        "lab:one": "kept",
        "lab:two": "kept",
        "lab:three": "late",
    }
    code = "cancelled" if "grace_s" in limits else "timeout"
    assert lab.rows() == [("lab:one", "ok", 1), ("lab:three", code, 1), ("lab:two", "ok", 1)]
    assert lab.server.quiet()
    assert lab.server.asked("three")[0].left_s is not None


def test_ens_one_slow_may_be_given_other_limits_for_one_question(lab: Lab) -> None:
    """timeout_s, quorum and grace_s of the call replace those of the ensemble."""
    ensembler = lab.ensemble(says(4), says(4), says(4, after_s=0.5), timeout_s=0.2, quorum=3, grace_s=0.0)
    merged, _ = asked(ensembler, timeout_s=5.0)
    assert [c.status for c in merged.contributions] == ["kept"] * 3
    merged, _ = asked(ensembler, quorum=2)
    assert sorted(c.status for c in merged.contributions) == ["kept", "kept", "late"]
    assert refused(ensembler, "ensemble.quorum").message.startswith("2 of 3")


def test_ens_one_raises_is_isolated_and_wrapped(lab: Lab) -> None:
    """A plug-in's KeyError is its own typed failure which names it; the other two are merged."""

    def broken(prompt: str) -> str:
        return {}["choices"]

    for name in ("one", "two"):
        lab.server.on(name, says(4))
    ensembler = MultiModelEnsembler([*MODELS[:2], "mine"], executors={"mine": broken}, log=lab.log)
    merged, _ = asked(ensembler)
    assert (merged.answer, merged.agreement) == ("4", 1.0)
    (failure,) = [c.failure for c in merged.contributions if c.failure]
    assert (failure.kind, failure.code) == ("LLMProviderError", "provider.unexpected")
    assert "KeyError: 'choices'" in failure.message
    assert [status for _, status, _ in lab.rows()] == ["ok", "ok", "error"]


# -- ties, and weights


TIE = """
import sys
from workbench import MajorityVoting, ModelContribution
parts = [ModelContribution(model=m, answer=a) for m, a in zip("dbca", sys.argv[1:])]
for merged in (MajorityVoting()(parts), MajorityVoting()(parts[::-1])):
    print(merged.answer, *merged.tied)
"""


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_ens_tie_is_the_same_under_any_hash_seed(hash_seed: str) -> None:
    """1:1 and 2:2 votes: the first tied answer in sorted order, all of them in `tied`."""
    for answers, wanted in ((("9", "10"), "10 10 9"), (("b", "a", "a", "b"), "a a b")):
        done = subprocess.run(
            [sys.executable, "-c", TIE, *answers],
            env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert done.stdout.splitlines() == [wanted, wanted]


@pytest.mark.parametrize("policy", [MajorityVoting(), WeightedConsensus(), BestOfN()], ids=lambda p: str(p.name))
@pytest.mark.parametrize("answers", ["xy", "xxyy", "xyz"])
def test_ens_tie_is_the_same_in_any_order(policy: Callable[..., EnsembleResponse], answers: str) -> None:
    """Every order of the members gives the same answer and the same list of tied ones."""
    parts = [ModelContribution(model=f"m{i}", answer=a) for i, a in enumerate(answers)]
    found = {(m.answer, m.tied) for m in map(policy, itertools.permutations(parts))}
    assert found == {("x", tuple(sorted(set(answers))))}


def test_ens_tie_over_sockets_does_not_depend_on_who_is_faster(lab: Lab) -> None:
    """The slower of two that disagree wins or loses by its answer, not by its time."""
    for first, second in ((0.0, 0.1), (0.1, 0.0)):
        answers = says(5, after_s=first), says(4, after_s=second)
        merged, _ = asked(lab.ensemble(*answers, models=MODELS[:2]))
        assert (merged.answer, merged.tied) == ("4", ("4", "5"))


def refused_weights(lab: Lab, weights: Mapping[str, Any]) -> LLMValidationError:
    """The refusal of weights, before any call is paid and any log is opened."""
    with pytest.raises(LLMValidationError) as caught:
        lab.ensemble(says(4), says(4), models=MODELS[:2], weights=weights)
    assert caught.value.code == "validation.weights"
    assert lab.server.seen == []
    assert not lab.log.exists()
    return caught.value


def test_ens_weights_zero_are_refused_before_any_call(lab: Lab) -> None:
    """Nobody could vote."""
    assert "all 2 weights are zero" in refused_weights(lab, {"lab:one": 0, "lab:two": 0}).message


def test_ens_weights_neg_are_refused_before_any_call(lab: Lab) -> None:
    """The message names the model and its weight."""
    assert "'lab:one' is -1" in refused_weights(lab, {"lab:one": -1, "lab:two": 2}).message


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_ens_weights_nan_or_infinite_are_refused_before_any_call(lab: Lab, weight: float) -> None:
    """What is no finite number cannot be counted."""
    assert "'lab:two'" in refused_weights(lab, {"lab:one": 1, "lab:two": weight}).message


def test_ens_weights_unknown_are_refused_with_the_closest_name(lab: Lab) -> None:
    """A typing error is told, with what was probably meant."""
    error = refused_weights(lab, {"lab:one": 1, "lab:tow": 1})
    assert "'lab:tow'" in error.message
    assert error.next_step == "did you mean 'lab:two'?"


def test_ens_zero_models_are_refused(lab: Lab) -> None:
    """An ensemble of nobody cannot be made."""
    with pytest.raises(LLMValidationError) as caught:
        MultiModelEnsembler([], log=lab.log)
    assert caught.value.code == "validation.models"
    assert not lab.log.exists()


# -- the caller leaves


def test_ens_cancel_over_sockets_closes_every_connection(lab: Lab) -> None:
    """Cancelled at 20 random moments: back within 1 s, each call one final row, no connection and no task left."""
    chance = random.Random(4)

    async def main() -> None:
        ensembler = lab.ensemble(says(4, after_s=0.1), DOWN, (STALL,), timeout_s=30.0)
        await ensembler._log.ready()  # who is cancelled while the log is opened has asked nobody, and has no rows
        for _ in range(20):
            before = len(lab.server.seen)
            call = asyncio.create_task(ensembler.get_ensemble_response(QUESTION))
            await asyncio.sleep(chance.random() * 0.2)
            call.cancel()
            start_s = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert time.monotonic() - start_s < 1.0
            await settled()
            assert len(lab.server.seen) - before <= 3
        await ensembler.aclose()

    asyncio.run(main())
    assert lab.server.quiet()
    rows = lab.rows()
    assert len(rows) == 60
    statuses = {member: {status for name, status, _ in rows if name == member} for member in MODELS}
    assert statuses["lab:three"] == {"cancelled"}
    assert statuses["lab:one"] <= {"cancelled", "ok"}
    assert statuses["lab:two"] <= {"cancelled", "error", "refused"}
