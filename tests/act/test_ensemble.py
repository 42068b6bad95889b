"""Many models at once: the deadline, the quorum's grace, losers, late answers, and whoever refuses to end."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.act.wire.harness import (
    REQUEST,
    WORST_MICRO,
    Plain,
    Scripted,
    Step,
    answer,
    chain,
    check_log,
    rows,
    shared,
)
from workbench.act import ensemble
from workbench.act.aggregate import ErrorAggregator
from workbench.act.ensemble import END_S, Asked, Reply, fan_out
from workbench.act.failover import Chain
from workbench.act.function import FunctionModel
from workbench.act.journal import encode
from workbench.act.ledger import MemoryLedger
from workbench.act.trace import failure_of
from workbench.act.world import MemorySink, World
from workbench.decide.merge import MajorityVoting
from workbench.decide.quorum import Quorum
from workbench.errors import (
    LLMError,
    LLMOrchestratorError,
    LLMProviderError,
    LLMRateLimitError,
    LLMTimeoutError,
    LLMValidationError,
)
from workbench.facts import Failure, Response
from workbench.study.table import contribution


@dataclass
class Stubborn:
    """A model that swallows so many cancellations, and answers after virtual seconds all the same."""

    name: str
    after_s: float
    swallows: int = 1_000_000
    cancelled: int = 0

    async def complete(self, request: Any) -> Response:
        ends_s = asyncio.get_running_loop().time() + self.after_s
        while (left_s := ends_s - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.sleep(left_s)
            except asyncio.CancelledError:
                self.cancelled += 1
                if self.cancelled > self.swallows:
                    raise
        return answer(self.name, "too late", request)


@dataclass
class Own:
    """A disciplined model of somebody's own, which knows no limit and may raise anything."""

    name: str
    does: Any = "42"
    after_s: float = 0.0

    async def complete(self, request: Any) -> Response:
        raise AssertionError("a disciplined model is asked by ask()")

    async def ask(self, request: Any, *, member: str | None = None) -> Response | Failure:
        await asyncio.sleep(self.after_s)
        if isinstance(self.does, BaseException):
            raise self.does
        return answer(self.name, self.does, request)


@dataclass
class Asking:
    """A virtual world, and what its members brought."""

    world: World = field(default_factory=World.virtual)
    counted: ErrorAggregator = field(default_factory=ErrorAggregator)
    after_s: float = 0.0
    replies: tuple[Reply, ...] = ()

    def ask(self, *models: Any, rest_s: float = 0.0, **limits: Any) -> list[Any]:
        """Status and answer, or failure's code, of each; no task is left. rest_s: how long to look on afterwards."""

        async def main() -> None:
            before, start_s = asyncio.all_tasks(), self.world.now_s()
            asked = [Asked(name=m.name, model=m, request=REQUEST) for m in models]
            self.replies = await fan_out(self.world, asked, aggregator=self.counted, **limits)
            self.after_s = self.world.now_s() - start_s
            assert asyncio.all_tasks() == before
            await asyncio.sleep(rest_s)

        self.world.run(main())
        assert [r.name for r in self.replies] == [m.name for m in models]
        return [(p.status, p.failure.code if p.failure else p.answer) for p in self.parts]

    @property
    def parts(self) -> list[Any]:
        return [reply.contribution(str.strip) for reply in self.replies]

    @property
    def logged(self) -> dict[str, tuple[str, bool]]:
        """Status and finality of the one row that each member has."""
        found = {row.member: (row.status, row.final) for row in rows(self.world)}
        assert len(found) == len(rows(self.world)), "a member has two rows"
        return found


# -- answers and failures


def test_every_reply_comes_back_in_the_order_of_the_members():
    """Three answers after 3, 1 and 2 s take 3 s together; each has one final row."""
    made = Asking()
    assert made.ask(Plain("c", "1", 3.0), Plain("a", "2", 1.0), Plain("b", "3", 2.0)) == [
        ("kept", "1"),
        ("kept", "2"),
        ("kept", "3"),
    ]
    assert made.after_s == 3.0
    assert made.logged == dict.fromkeys("abc", ("ok", True))


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (Plain("bad", KeyError("choices")), "provider.unexpected"),
        (Plain("bad", LLMProviderError("down", code="provider.server")), "provider.server"),
        (Plain("bad", {"text": "42"}), "provider.malformed"),
        (Plain("bad", TimeoutError()), "provider.unexpected"),
        (Plain("bad", asyncio.CancelledError()), "cancelled"),
        (Own("bad", KeyError("choices")), "provider.unexpected"),
        (Own("bad", LLMTimeoutError("slow")), "timeout.deadline"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{type(value).__name__} {type(value.does).__name__}",
)
def test_what_a_member_raises_is_its_own_failure(bad: Any, code: str):
    """Whatever one member does, the others keep their answers."""
    made = Asking()
    assert made.ask(Plain("a"), bad, Plain("c")) == [("kept", "42"), ("failed", code), ("kept", "42")]


def test_what_is_nobodys_failure_is_raised_when_all_have_ended():
    """A log that cannot be written to is not the model's fault: it is raised, and the other call has ended first."""

    class Full(MemorySink):
        def write(self, *facts: Any) -> None:
            if any(getattr(f, "member", "") == "a" for f in facts):
                raise LLMError("the disk is full", code="storage.full")
            super().write(*facts)

    made = Asking(World.virtual(sink=Full()))
    with pytest.raises(LLMError, match="disk is full"):
        made.ask(Plain("a"), Plain("b", after_s=2.0))
    assert made.world.now_s() == 2.0
    assert made.logged == {"b": ("ok", True)}


def test_failures_and_answers_are_counted():
    """Two errors and one success under `ensemble`; the operation is the member's name."""
    made = Asking()
    made.ask(Plain("a"), Plain("b", KeyError("x")), Plain("c", after_s=9.0), timeout_s=1.0)
    assert made.counted.count("ensemble") == (2, 1)
    assert {(e.operation, e.code) for e in made.counted.get_recent_errors()} == {
        ("b", "provider.unexpected"),
        ("c", "timeout.deadline"),
    }
    assert [r.error.code if r.error else None for r in made.replies] == [
        None, "provider.unexpected", "timeout.deadline",
    ]  # fmt: skip


def test_who_was_not_waited_for_counts_neither_as_error_nor_as_success():
    """Being cancelled says nothing about a model."""
    made = Asking()
    made.ask(Plain("a"), Plain("b", after_s=9.0), grace_s=0.0)
    assert made.counted.count() == (0, 1)


# -- the deadline


def test_a_member_that_has_not_answered_by_the_deadline_is_late():
    """At the deadline it is cancelled: a typed timeout, one final row, and the others' answers."""
    made = Asking()
    assert made.ask(Plain("a", after_s=0.5), Plain("b", after_s=60.0), timeout_s=2.0) == [
        ("kept", "42"),
        ("late", "timeout.deadline"),
    ]
    assert made.after_s == 2.0
    assert made.logged == {"a": ("ok", True), "b": ("timeout", True)}
    assert made.parts[1].failure.kind == "LLMTimeoutError"
    assert made.parts[1].failure.possibly_billed


def test_without_a_limit_nobody_is_late():
    """timeout_s None waits for as long as the members need."""
    made = Asking()
    assert made.ask(Plain("a", after_s=3600.0), timeout_s=None) == [("kept", "42")]


def test_a_chain_gets_the_deadline_as_its_own_and_books_what_may_be_billed():
    """It ends by itself: a row `timeout`, and the worst case of the open request stays booked as uncertain."""
    made, ledger = Asking(), MemoryLedger({})
    model = Scripted("p:slow", made.world, (Step(after_s=60.0),))
    assert made.ask(Plain("a"), chain(made.world, model, ledger=ledger), timeout_s=2.0) == [
        ("kept", "42"),
        ("late", "timeout.deadline"),
    ]
    assert (made.after_s, model.seen[0].timeout_s) == (2.0, 2.0)
    assert made.logged["p:slow"] == ("timeout", True)
    assert ledger.balance("model:p:slow").uncertain == WORST_MICRO


def test_the_limit_of_the_fan_out_replaces_that_of_the_chain():
    """A chain of 1 s may take the 5 s that the caller gives this time, and keeps its own limit without one."""
    for timeout_s, status in ((5.0, "kept"), (None, "failed")):
        made = Asking()
        slow = chain(made.world, Scripted("p:m", made.world, (Step(after_s=3.0),)), timeout_s=1.0)
        assert made.ask(slow, timeout_s=timeout_s)[0][0] == status


def test_a_disciplined_model_that_knows_no_limit_is_cancelled_at_the_deadline():
    """The contribution is late with a typed timeout; its rows are its own."""
    made = Asking()
    assert made.ask(Own("own", after_s=60.0), timeout_s=2.0) == [("late", "timeout.deadline")]
    assert made.after_s == 2.0


def test_a_members_own_earlier_timeout_is_a_failure_and_not_late():
    """Late means that the ensemble's time was up; a model that gave up before has failed."""
    made = Asking()
    assert made.ask(Plain("a", LLMTimeoutError("own limit"), 1.0), timeout_s=2.0) == [("failed", "timeout.deadline")]


def test_an_answer_that_comes_after_the_deadline_is_logged_and_does_not_count():
    """The model swallows its cancellation and answers at once: a row `ok`, a late contribution with the response."""

    class Hasty(Stubborn):
        async def complete(self, request: Any) -> Response:
            try:
                await asyncio.sleep(60.0)
            except asyncio.CancelledError:
                await asyncio.sleep(0.3)
            return answer(self.name, "too late", request)

    made = Asking()
    assert made.ask(Plain("a"), Hasty("b", 0.0), timeout_s=2.0) == [("kept", "42"), ("late", "too late")]
    assert made.after_s == pytest.approx(2.3)
    assert made.logged["b"] == ("ok", True)
    assert made.parts[1].response.text == "too late"
    assert not made.parts[1].votes
    assert made.counted.count() == (0, 1)


# -- quorum and grace


def test_without_grace_the_losers_are_cancelled_as_soon_as_the_quorum_has_answered():
    """Two of three have answered after 1 s: the third is cancelled then, and its money stays booked."""
    made, ledger = Asking(), MemoryLedger({})
    loser = chain(made.world, Scripted("p:slow", made.world, (Step(after_s=20.0),)), ledger=ledger)
    found = made.ask(Plain("a", after_s=0.5), Plain("b", after_s=1.0), loser, quorum=2, grace_s=0.0)
    assert found == [("kept", "42"), ("kept", "42"), ("late", "cancelled")]
    assert made.after_s == 1.0
    assert made.logged == {"a": ("ok", True), "b": ("ok", True), "p:slow": ("cancelled", True)}
    assert ledger.balance("model:p:slow").uncertain == WORST_MICRO
    assert made.parts[2].failure.possibly_billed


@pytest.mark.parametrize(
    ("third_s", "third", "took_s"), [(1.4, ("kept", "42"), 1.4), (1.6, ("late", "cancelled"), 1.5)]
)
def test_grace_is_how_much_longer_the_others_are_waited_for(third_s: float, third: Any, took_s: float):
    """With 0.5 s of grace after 1 s, an answer at 1.4 s counts and one at 1.6 s does not."""
    made = Asking()
    found = made.ask(Plain("a", after_s=1.0), Plain("b", after_s=third_s), quorum=1, grace_s=0.5)
    assert found == [("kept", "42"), third]
    assert made.after_s == pytest.approx(took_s)


def test_failures_do_not_count_towards_the_quorum():
    """One failure and one answer are not two answers: the third is waited for."""
    made = Asking()
    found = made.ask(Plain("a", KeyError("x")), Plain("b"), Plain("c", after_s=5.0), quorum=2, grace_s=0.0)
    assert [status for status, _ in found] == ["failed", "kept", "kept"]


def test_grace_never_outlasts_the_deadline():
    """A grace of an hour ends with the deadline of 2 s."""
    made = Asking()
    assert made.ask(Plain("a"), Plain("b", after_s=60.0), timeout_s=2.0, grace_s=3600.0)[1] == (
        "late",
        "timeout.deadline",
    )
    assert made.after_s == 2.0


def test_a_loser_that_answers_while_it_is_cancelled_is_late_with_its_answer():
    """The row says ok, the contribution late; the merge does not hear it, with any grace."""
    made = Asking()
    found = made.ask(Plain("a", "24"), Stubborn("b", after_s=0.5), grace_s=0.0)
    assert found == [("kept", "24"), ("late", "too late")]
    assert made.logged["b"] == ("ok", True)
    merged = MajorityVoting()(made.parts)
    assert (merged.answer, merged.agreement, merged.confidence) == ("24", 1.0, 0.5)


def test_a_function_in_a_thread_is_not_waited_for():
    """A plain function cannot be stopped: it is left to its thread, and the reply is there at once."""
    ended = threading.Event()
    made = Asking(World.real(MemorySink()))
    blocked = FunctionModel("blocked", lambda _: str(ended.wait(30)))
    try:
        assert made.ask(FunctionModel("a", lambda _: "42"), blocked, grace_s=0.0) == [
            ("kept", "42"),
            ("late", "cancelled"),
        ]
    finally:
        ended.set()
    assert made.after_s < 5.0
    assert made.logged["blocked"] == ("cancelled", True)


# -- who refuses to end


@pytest.mark.parametrize("limits", [{"timeout_s": 2.0}, {"grace_s": 0.0}], ids=["deadline", "loser"])
def test_a_member_that_swallows_its_cancellation_is_left_behind_within_a_second(limits: Any):
    """The caller gets its answer, the row says what happened, and nothing more is logged when the model ends."""
    made, stubborn = Asking(), Stubborn("b", after_s=50.0)
    status, code = made.ask(Plain("a"), stubborn, rest_s=100.0, **limits)[1]
    assert (status, code) == ("late", "timeout.deadline" if "timeout_s" in limits else "cancelled")
    assert made.after_s <= limits.get("timeout_s", 0.0) + END_S
    assert made.logged["b"] == ("timeout" if "timeout_s" in limits else "cancelled", True)
    (row,) = [row for row in rows(made.world) if row.member == "b"]
    assert row.failure.message.endswith("was left behind")
    assert row.failure == made.parts[1].failure
    assert stubborn.cancelled == 1
    assert not ensemble._left


def test_a_stubborn_model_in_a_chain_is_left_behind_too():
    """The chain's row is a typed timeout at the deadline and not a call that never ends."""
    made = Asking()
    one = Chain(shared(made.world), (Stubborn("p:stubborn", after_s=50.0),))
    assert made.ask(Plain("a"), one, rest_s=100.0, timeout_s=2.0) == [("kept", "42"), ("late", "timeout.deadline")]
    assert made.after_s <= 2.0 + END_S
    assert made.logged["p:stubborn"] == ("timeout", True)
    check_log(made.world)


def test_a_disciplined_model_that_never_ends_is_left_behind_and_named():
    """Nobody can write its row for it: the reply says that there is none yet."""

    class Deaf(Own):
        async def ask(self, request: Any, *, member: str | None = None) -> Response | Failure:
            return await Stubborn(self.name, after_s=50.0).complete(request)

    made = Asking()
    assert made.ask(Plain("a"), Deaf("deaf"), rest_s=100.0, timeout_s=2.0) == [("kept", "42"), ("late", "cancelled")]
    assert made.after_s <= 2.0 + 2 * END_S
    assert made.parts[1].failure.message.endswith("it has a row once it ends")


def test_who_was_left_behind_does_not_hold_up_the_end_of_the_loop():
    """The loop is closed although a model still swallows every cancellation: an hour of its time is not waited for."""
    made, stubborn = Asking(), Stubborn("b", after_s=3600.0)
    made.ask(Plain("a"), stubborn, grace_s=0.0)
    assert made.world.now_s() <= END_S
    assert stubborn.cancelled == 1
    ensemble._left.clear()


# -- the caller leaves


def crowd(world: World, chance: random.Random, ledger: MemoryLedger) -> list[Any]:
    """A member of each kind, with latencies of up to 4 s."""
    live = [
        chain(world, Scripted(f"p:{name}", world, (Step(after_s=chance.random() * 4),)), ledger=ledger, **more)
        for name, more in (("live", {}), ("hedged", {"hedge_after_s": 0.7}))
    ]
    own = [Plain("plain", after_s=chance.random() * 4), Plain("broken", KeyError("x"), chance.random() * 4)]
    slow = Stubborn("closing", after_s=chance.random() * 0.8)
    return [*live, *own, slow, Chain(shared(world), (Plain("p:chained", after_s=chance.random() * 4),))]


@pytest.mark.parametrize("seed", range(100))
def test_ens_cancel_at_a_random_moment_leaves_nothing_running(seed: int):
    """Cancelled anywhere in 4 s: the caller is back within 1 s, each member has one final row, and no task is left."""
    chance, ledger, world = random.Random(seed), MemoryLedger({}), World.virtual(seed)
    models, at_s, grace_s = crowd(world, chance, ledger), chance.random() * 4, 0.3 if seed % 4 == 0 else None

    async def main() -> bool:
        before = asyncio.all_tasks()
        asked = [Asked(name=m.name, model=m, request=REQUEST) for m in models]
        call = asyncio.create_task(fan_out(world, asked, grace_s=grace_s))
        await asyncio.sleep(at_s)
        running = not call.done()
        call.cancel()
        if chance.random() < 0.5:  # and once more, while it is on its way out
            await asyncio.sleep(0)
            call.cancel()
        start_s = world.now_s()
        await asyncio.wait([call])
        assert world.now_s() - start_s <= 1.0
        assert asyncio.all_tasks() == before
        assert call.cancelled() == running
        return running

    cut = world.run(main())
    finals = {row.member: row.status for row in rows(world) if row.final}
    assert set(finals) == {m.name for m in models}
    assert len([row for row in rows(world) if row.final]) == len(models)
    assert set(finals.values()) <= {"ok", "error", "cancelled"}
    assert cut or grace_s or "cancelled" not in finals.values()
    assert max(row.start_unix_ns + row.duration_ms * 1e6 for row in rows(world)) <= 1.7e18 + (at_s + 1.0) * 1e9
    assert all(account.reserved == 0 for account in ledger.balances().values())


def test_ens_cancel_writes_every_open_call_as_cancelled():
    """Three calls are open when the caller leaves after 1 s: three rows `cancelled`, at that moment."""
    world, ledger = World.virtual(), MemoryLedger({})
    live = chain(world, Scripted("p:live", world, (Step(after_s=9.0),)), ledger=ledger)
    models = [live, Plain("a", after_s=9.0), Plain("b", after_s=9.0)]

    async def main() -> None:
        asked = [Asked(name=m.name, model=m, request=REQUEST) for m in models]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await fan_out(world, asked)

    world.run(main())
    assert world.now_s() == 1.0
    assert {row.member: (row.status, row.final, row.duration_ms) for row in rows(world)} == dict.fromkeys(
        ("p:live", "a", "b"), ("cancelled", True, 1000.0)
    )
    assert ledger.balance("model:p:live").uncertain == WORST_MICRO


def test_ens_cancel_is_not_held_up_by_a_member_that_refuses():
    """The caller is back within 1 s, and the row of the member that was left behind says so."""
    world, stubborn = World.virtual(), Stubborn("b", after_s=50.0)

    async def main() -> None:
        call = asyncio.create_task(fan_out(world, [Asked(name="b", model=stubborn, request=REQUEST)]))
        await asyncio.sleep(3.0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert world.now_s() <= 4.0
        await asyncio.sleep(100.0)

    world.run(main())
    (row,) = rows(world)
    assert (row.status, row.final) == ("cancelled", True)
    assert row.failure.message.endswith("was left behind")


# -- limits, and decisions made again


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"quorum": 0}, "validation.quorum"),
        ({"quorum": 3}, "validation.quorum"),
        ({"quorum": True}, "validation.quorum"),
        ({"quorum": 1.0}, "validation.quorum"),
        ({"timeout_s": 0}, "validation.config"),
        ({"timeout_s": float("nan")}, "validation.config"),
        ({"timeout_s": "30"}, "validation.config"),
        ({"grace_s": -1.0}, "validation.config"),
        ({"grace_s": float("inf")}, "validation.config"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused_before_any_call(limits: Any, code: str):
    """A typed refusal, and nobody was asked."""
    made = Asking()
    with pytest.raises(LLMValidationError) as caught:
        made.ask(Plain("a"), Plain("b"), **limits)
    assert caught.value.code == code
    assert rows(made.world) == []


@pytest.mark.parametrize("policy", [MajorityVoting(), Quorum(1), Quorum(2)])
def test_what_was_decided_with_late_members_is_decided_equally_from_the_log(policy: Any):
    """The log's form of kept, failed, cut-off and late contributions leads to the same output or the same error."""
    made = Asking()
    made.ask(
        Plain("a", "24"),
        Plain("b", KeyError("x")),
        Plain("c", after_s=9.0),
        Stubborn("d", after_s=0.5),
        grace_s=0.0,
    )
    assert [part.status for part in made.parts] == ["kept", "failed", "late", "late"]
    logged = json.loads(json.dumps(encode(made.parts)))

    def decided(parts: Any) -> Any:
        try:
            return encode(policy(parts))
        except LLMOrchestratorError as error:
            return error.code

    assert decided([contribution(*c) for c in logged]) == decided(made.parts)
    swapped = [replace(part, status="kept", failure=None, answer="7") for part in made.parts[2:]]
    assert decided([*made.parts[:2], *swapped]) != decided(made.parts)


@pytest.mark.parametrize("said", [None, "a text", 7])
def test_what_a_disciplined_model_of_somebodys_own_returns_is_checked(said: Any):
    """Something else than a Response or a Failure is its own failure; the others keep their answers."""

    class Wrong(Own):
        async def ask(self, request: Any, *, member: str | None = None) -> Any:
            return said

    asking = Asking()
    assert asking.ask(Wrong("p:wrong"), Own("p:right")) == [("failed", "provider.malformed"), ("kept", "42")]


@pytest.mark.parametrize(
    "error",
    [
        LLMRateLimitError("slow down", retry_after_s=7.0, status=429, request_id="r1"),
        LLMProviderError("no", code="provider.server", status=503, request_id="r2"),
        LLMTimeoutError("late", code="timeout.idle", possibly_billed=True, partial="some"),
    ],
)
def test_a_failure_is_the_error_again_that_it_was(error: LLMError):
    """What `failure_of` reads, `error_from` writes back."""
    made = ensemble.error_from(failure_of(error), "p:m")
    assert type(made) is type(error)
    assert failure_of(made) == failure_of(error)


class Panic(BaseException):
    """What a library in another language may raise: no Exception."""


@pytest.mark.parametrize("panics", [Own("p:bad", Panic("rust")), Plain("p:bad", Panic("rust"))])
def test_a_panic_is_the_failure_of_the_member_that_raised_it(panics: Any):
    """The others keep their answers, and its row says what it was."""
    asking = Asking()
    assert asking.ask(panics, Plain("p:good", "42")) == [("failed", "provider.unexpected"), ("kept", "42")]
    assert "Panic: rust" in asking.parts[0].failure.message


def test_a_panic_in_a_chain_is_a_failure_too():
    """And the next model may answer."""
    world = World.virtual()
    chain = Chain(shared(world), (Plain("p:bad", Panic("rust")), Plain("p:good", "42")))
    assert world.run(chain.complete(REQUEST)).text == "42"
