"""One simulated world from beginning to end: the callers of a plan, the healing, and what was left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from tests.exam.wall import Seen
from tests.simulation.plan import Caller, ModelPlan, Plan
from tests.simulation.provider import Providers
from workbench.act.admission import Admission
from workbench.act.failover import Chain
from workbench.act.http import Http
from workbench.act.lanes import Limits
from workbench.act.ledger import MemoryLedger
from workbench.act.live import HttpModel
from workbench.act.provider import Provider
from workbench.act.trace import span
from workbench.act.world import MemorySink, World
from workbench.decide.budget import Account
from workbench.errors import LLMError
from workbench.facts import Fact, Failure, ModelCard, Refusal, Request, Response

PROMPT = "How much is the fish?"
LONG_S = 4000.0  # virtual seconds after which a call hangs
AUTHS = {"openai": "bearer", "anthropic": "x-api-key", "gemini": "x-goog-api-key"}


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How one call ended: answered, failed, cancelled, left (a stream that was abandoned), untyped or hung."""

    caller: Caller
    trace_id: str = ""
    began: bool = False
    start_s: float = 0.0
    end_s: float = 0.0
    cancelled_s: float | None = None
    how: str = "hung"
    value: Response | LLMError | Failure | BaseException | None = None
    pieces: list[str] = field(default_factory=list)
    deadline_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Lived:
    """Everything that a simulated world leaves behind."""

    plan: Plan
    facts: list[Fact]
    seen: list[Seen]
    outcomes: list[Outcome]
    accounts: dict[str, Account] = field(default_factory=dict)
    overspent: list[str] = field(default_factory=list)
    tasks_left: int = 0
    permits_in_use: int = 0
    slots_in_use: list[str] = field(default_factory=list)
    healed: dict[str, Response | Failure] = field(default_factory=dict)
    affordable: dict[str, bool] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    facts_before_healing: int = 0
    seen_before_healing: int = 0


class WatchedLedger(MemoryLedger):
    """A ledger that says whenever more is spent and set aside than is allowed."""

    def __init__(self, limits: dict[str, int]) -> None:
        super().__init__(limits)
        self.overspent: list[str] = []

    def reserve(self, scopes: Sequence[str], amount: int) -> Refusal | None:
        refusal = super().reserve(scopes, amount)
        for scope in scopes:
            account = self.balance(scope)
            if (
                refusal is None
                and amount
                and account.limit is not None
                and account.spent + account.reserved > account.limit
            ):
                self.overspent.append(f"{scope}: {account}")
        return refusal


class Simulation:
    """The objects of one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.sink = MemorySink()
        virtual = World.virtual(plan.seed, self.sink)
        self.offset_ns = 0
        self.lived = Lived(plan=plan, facts=self.sink.facts, seen=[], outcomes=[])
        self.world = replace(virtual, unix_ns=lambda: virtual.unix_ns() + self.offset_ns)
        self.providers = Providers(plan, self.world.now_s)
        self.lived.seen = self.providers.seen
        self.ledger = WatchedLedger(dict(plan.budget))
        self.limits: dict[str, Limits | None] = {m.name: m.limits for m in plan.models}
        self.admission = Admission(
            self.world, plan.discipline, ledger=self.ledger, limited=bool(plan.budget), limits=self.limits.get
        )
        http = Http(transport=self.providers.transport, max_connections=plan.connections)
        self.cards = {m.name: _card(m) for m in plan.models}
        self.models = tuple(HttpModel(_provider(m), m.model, http, self.world, cards=self.cards) for m in plan.models)

    def live(self) -> Lived:
        """Let the callers of the plan live, heal the providers, and look whether everything works again."""
        self.world.run(self._life())
        return self.lived

    async def _life(self) -> None:
        loop, lived = asyncio.get_running_loop(), self.lived
        for at_s, seconds in self.plan.jumps:
            loop.call_at(at_s, self._jump, seconds)
        tasks = []
        for caller in self.plan.callers:
            outcome = Outcome(caller=caller)
            lived.outcomes.append(outcome)
            task = asyncio.create_task(self._call(caller, outcome))
            tasks.append(task)
            for after_s in (caller.cancel_s, caller.cancel_again_s):
                if after_s is not None:
                    loop.call_at(caller.at_s + after_s, self._cancel, task, outcome)
        done, hung = await asyncio.wait(tasks, timeout=self.plan.heal_s + LONG_S)
        if hung:
            for task in hung:
                task.cancel()
            return
        for task in done:
            task.exception() if not task.cancelled() else None
        await self._left_behind(lived)
        await self._heal(lived)
        lived.accounts = dict(self.ledger.balances())
        lived.overspent = self.ledger.overspent

    def _jump(self, seconds: float) -> None:
        self.offset_ns += int(seconds * 1e9)

    def _cancel(self, task: asyncio.Task[None], outcome: Outcome) -> None:
        if task.cancel() and outcome.cancelled_s is None:
            outcome.cancelled_s = self.world.now_s()

    async def _call(self, caller: Caller, outcome: Outcome) -> None:
        await asyncio.sleep(max(caller.at_s - self.world.now_s(), 0.0))
        chain = Chain(self.admission, tuple(self.models[n] for n in caller.models))
        request = Request.of(PROMPT)
        if caller.max_tokens:
            request = replace(request, params={"max_tokens": caller.max_tokens})
        outcome.began, outcome.start_s = True, self.world.now_s()
        limit_s = caller.timeout_s or self.plan.discipline.timeout_s or LONG_S
        outcome.deadline_s = outcome.start_s + limit_s
        try:
            with span(self.world, "simulation", "call", run_id=caller.run_id) as here:
                outcome.trace_id = here.trace_id
                await self._made(chain, request, caller, outcome)
        except asyncio.CancelledError:
            outcome.how = "cancelled"
            raise
        except LLMError as error:
            outcome.how, outcome.value = "failed", error
        except BaseException as error:
            outcome.how, outcome.value = "untyped", error
        finally:
            outcome.end_s = self.world.now_s()

    async def _made(self, chain: Chain, request: Request, caller: Caller, outcome: Outcome) -> None:
        if caller.how == "complete":
            outcome.value = await chain.complete(request)
        elif caller.how == "ask":
            outcome.value = await chain.ask(request, timeout_s=caller.timeout_s)
        else:
            async with aclosing(chain.stream(request)) as pieces:
                async for piece in pieces:
                    outcome.pieces.append(piece)
                    if caller.leave_after is not None and len(outcome.pieces) > caller.leave_after:
                        outcome.how = "left"
                        return
        outcome.how = "failed" if isinstance(outcome.value, Failure) else "answered"

    async def _left_behind(self, lived: Lived) -> None:
        """What should be given back when the last call is over."""
        for _ in range(5):  # iterators that were dropped are closed in the loop's next rounds
            await asyncio.sleep(0)
        lived.tasks_left = len(asyncio.all_tasks()) - 1
        lived.permits_in_use = sum(c.permits_in_use for c in self.admission.breakers.circuits())
        for name, lane in self.admission._lanes.items():
            if lane is None or lane.limits.concurrency is None:
                continue
            slots, queue = lane.here()
            if slots._value != lane.limits.concurrency or queue.locked():
                lived.slots_in_use.append(name)
        lived.facts_before_healing, lived.seen_before_healing = len(self.sink.facts), len(self.providers.seen)

    async def _heal(self, lived: Lived) -> None:
        """Every fault is over: after the longest cooldown and a minute of rates, every model must answer again."""
        breaker = self.plan.discipline.breaker
        rest_s = breaker.max_cooldown_s + (breaker.half_open_limit_s or 0.0) + 62.0
        await asyncio.sleep(max(self.plan.heal_s - self.world.now_s(), 0.0) + rest_s)
        for model in self.models:
            provider, _, bare = model.name.partition(":")
            lived.refusals[model.name] = 0
            lived.affordable[model.name] = self._affordable(model)
            for _ in range(breaker.minimum_calls + 1):
                await self._round(Chain(self.admission, (model,)), lived)
                circuit = self.admission.breakers.circuit(provider, bare)
                if circuit.state == "closed" and not circuit.failed:
                    break  # nothing is left that could open it once more
                await asyncio.sleep(rest_s)
            lived.states[model.name] = self.admission.breakers.circuit(provider, bare).state

    async def _round(self, chain: Chain, lived: Lived) -> None:
        """One call, or as many as a circuit wants to see that is not closed."""
        provider, _, bare = chain.name.partition(":")
        closed = self.admission.breakers.circuit(provider, bare).state == "closed"
        for _ in range(1 if closed else self.plan.discipline.breaker.permits):
            lived.healed[chain.name] = result = await chain.ask(Request.of(PROMPT), timeout_s=90.0)
            if isinstance(result, Failure) and result.code == "failover.all_open":
                lived.refusals[chain.name] += 1
                return

    def _affordable(self, model: HttpModel) -> bool:
        """Whether the budget has plenty left; where it has little, a refusal is right."""
        prices = model.card.prompt_usd_per_mtok
        if prices is None:
            return not self.plan.budget or self.plan.discipline.allow_unknown_price
        lefts = [a.left for a in self.ledger.balances().values() if a.left is not None]
        lefts += [limit for _, limit in self.plan.budget]
        # A model that may write 100,000 tokens has a worst case of several dollars.
        most = (model.card.max_output_tokens or 4096) * (model.card.completion_usd_per_mtok or 0)
        return prices == 0 or min(lefts, default=10**9) > 900_000 + most


def _card(model: ModelPlan) -> ModelCard:
    prompt, completion = model.prices or (None, None)
    return ModelCard(
        name=model.name,
        context_window=model.window,
        max_output_tokens=model.max_output,
        prompt_usd_per_mtok=prompt,
        completion_usd_per_mtok=completion,
    )


def _provider(model: ModelPlan) -> Provider:
    return Provider(name=model.provider, wire=model.wire, base_url=f"http://{model.provider}.invalid/v1", auth="none")  # type: ignore[arg-type]


def lived(plan: Plan) -> Lived:
    """What a plan leaves behind."""
    return Simulation(plan).live()
