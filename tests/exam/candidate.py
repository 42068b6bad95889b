"""Who sits the exam: one client for all scenarios, whose chance follows from a seed, in virtual time or on sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from tests.exam.scenarios import PROMPT, SCENARIOS, A, B, One, Ran, Scenario, Verdict, judged
from tests.exam.sockets import OnSocket
from tests.exam.wall import FAST, FAULTS, FULL, TEXT, Timings, Wall
from workbench.act.admission import Admission, Discipline
from workbench.act.failover import Chain
from workbench.act.http import Http
from workbench.act.ledger import MemoryLedger
from workbench.act.live import HttpModel
from workbench.act.provider import Provider
from workbench.act.world import MemorySink, World
from workbench.decide.breaker import Breaker
from workbench.decide.retry import RetryPolicy
from workbench.errors import LLMError
from workbench.facts import Call, Failure, ModelCard, Request, Response

COMPARABLE = Discipline(timeout_s=30.0, stream=True, retry=RetryPolicy(max_retries=2))
DEFAULTS = Discipline(stream=True)  # the exam's requests are streamed
# The outage of the fast timings is a tenth of the full one, and so is the cooldown.
COMPARABLE_FAST = replace(COMPARABLE, breaker=Breaker(cooldown_s=3.0))
# Every limit of silence shrinks as the first token does, from 20 s to 3 s; what the exam itself allows does not.
DEFAULTS_FAST = replace(DEFAULTS, timeout_s=4.5, first_token_s=1.5, idle_s=1.5, breaker=Breaker(cooldown_s=3.0))
SEED = 3463  # one of those whose circuit opens and half-opens half a second away from any request of the outage
PRICES = {"prompt_usd_per_mtok": 1.0, "completion_usd_per_mtok": 2.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sat:
    """One scenario: how it went, the verdict, the rows of the log, and what it cost for certain and perhaps.

    connections, resets: how many connections the client opened for it, the probes after it included, and how many the
    provider has answered with a reset; 0 in virtual time, which has none.
    """

    scenario: Scenario
    ran: Ran
    verdict: Verdict
    rows: tuple[Call, ...]
    spent_micro: int
    uncertain_micro: int
    connections: int = 0
    resets: int = 0

    @property
    def attempts(self) -> list[Call]:
        return [row for row in self.rows if row.attempt]

    @property
    def story(self) -> tuple[object, ...]:
        """All that happened but for the times: as the caller, the provider, the log and the accounts tell it."""
        results = [_told(one.result) for one in self.ran.requests]
        seen = [(s.model, s.number, s.stream, s.role, s.size, s.did, s.left_s is not None) for s in self.ran.seen]
        rows = [
            (r.model, r.attempt, r.status, r.final, r.booked_usd, _told(r.response or r.failure)) for r in self.rows
        ]
        money = (self.spent_micro, self.uncertain_micro)
        return self.scenario.name, self.verdict, self.ran.alive, results, seen, rows, money


def _told(result: Response | Failure | LLMError | None) -> tuple[object, ...]:
    """What a result says, without times, names of this run, and words that name an address or a duration."""
    if isinstance(result, Response):
        return (result.text, result.model, result.usage, result.finish_reason, result.cost_usd, result.flags)
    if result is None:
        return ()
    return (result.code, result.retryable, result.possibly_billed, result.partial)


class Candidate:
    """One client object, its world and its provider; use as a context manager.

    fallbacks: whether it has any. sockets: the provider is a server on loopback and the time is real; the seed's draws
    are the same as in virtual time.
    """

    def __init__(
        self,
        seed: int,
        discipline: Discipline,
        *,
        fallbacks: bool = True,
        timings: Timings = FULL,
        sockets: bool = False,
    ) -> None:
        chance = random.Random(f"pauses of {seed}")
        self.sink = MemorySink()
        self.world = World.virtual(seed, self.sink)
        if sockets:
            self.world = replace(World.real(self.sink), draw=random.Random(seed).random)
        self.chance, self.fallbacks = chance, fallbacks
        self.wall = Wall(self.world.now_s, timings, lambda: timings.word_s * chance.uniform(0.8, 1.2))
        self.server = OnSocket(self.wall.answer, self.wall.since_s) if sockets else None
        self._open = ExitStack()
        url = self._open.enter_context(self.server).url if self.server else "http://wall.invalid"
        self.ledger = MemoryLedger({})
        self.admission = Admission(self.world, discipline, ledger=self.ledger)
        provider = Provider(name="wall", wire="openai", base_url=f"{url}/v1", auth="none")
        http = Http(transport=None if sockets else self.wall.transport)
        windows = {A: 131_072, B: 131_072}
        cards = {
            f"wall:{name}": ModelCard(name=f"wall:{name}", context_window=windows.get(name, 8192), **PRICES)
            for name in FAULTS
        }
        self.models = {name: HttpModel(provider, name, http, self.world, cards=cards) for name in FAULTS}
        self.chains: dict[tuple[str, ...], Chain] = {}

    def __enter__(self) -> Candidate:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def chain(self, *names: str) -> Chain:
        """The chain of these models, made once."""
        made = self.chains.get(names)
        if made is None:
            made = self.chains[names] = Chain(self.admission, tuple(self.models[name] for name in names))
        return made

    async def sit(self, scenario: Scenario) -> Sat:
        """Take one scenario with the log and the counters of the provider empty, and look whether A still answers."""
        pause_s = self.chance.random()
        if self.server is None:  # so that scenarios begin anywhere in a second, as they do by a real clock
            await asyncio.sleep(pause_s)
        self.wall.reset()
        first_row, before, wires = len(self.sink.facts), self._money(), self._wires()
        names = (scenario.model, scenario.fallback) if self.fallbacks else (scenario.model,)
        chain, limit_s = self.chain(*names), scenario.limit_of(self.wall.timings)
        requests = await (self._series(chain, limit_s) if scenario.series else self._single(chain, limit_s))
        if self.server is not None:
            await self.server.settled()
        seen, rows, after = tuple(self.wall.log), self.sink.facts[first_row:], self._money()
        ran = Ran(
            requests=tuple(requests),
            seen=seen,
            primary=scenario.model,
            fallback=names[1] if self.fallbacks else None,
            alive=await self._alive(),
            timings=self.wall.timings,
        )
        opened, reset = self._wires()
        return Sat(
            scenario=scenario,
            ran=ran,
            verdict=judged(scenario, ran),
            rows=tuple(fact for fact in rows if isinstance(fact, Call)),
            spent_micro=after[0] - before[0],
            uncertain_micro=after[1] - before[1],
            connections=opened - wires[0],
            resets=reset - wires[1],
        )

    def _wires(self) -> tuple[int, int]:
        return (self.server.connections, self.server.resets) if self.server else (0, 0)

    def _money(self) -> tuple[int, int]:
        accounts = [account for scope, account in self.ledger.balances().items() if scope.startswith("month:")]
        assert all(account.reserved == 0 for account in accounts)
        return sum(a.spent for a in accounts), sum(a.uncertain for a in accounts)

    async def _single(self, chain: Chain, limit_s: float) -> list[One]:
        return [await self._one(chain, limit_s)]

    async def _series(self, chain: Chain, limit_s: float) -> list[One]:
        """The requests of the outage, one after the other; a late one shifts the rest."""
        timings, made = self.wall.timings, []
        for _ in range(timings.requests):
            one = await self._one(chain, limit_s)
            made.append(one)
            await asyncio.sleep(max(timings.every_s - one.took_s, 0.0))
        return made

    async def _one(self, chain: Chain, limit_s: float) -> One:
        start_s = self.world.now_s()
        call = asyncio.create_task(chain.complete(Request.of(PROMPT)))
        await asyncio.wait({call}, timeout=limit_s + 1)
        took_s, result = self.world.now_s() - start_s, None
        if not call.done():
            call.cancel()
            await asyncio.wait({call})
        else:
            error = call.exception()
            result = call.result() if error is None else error
            assert isinstance(result, Response | LLMError), repr(result)
        return One(sent_s=start_s - self.wall._start_s, took_s=took_s, result=result)

    async def _alive(self) -> bool:
        """Whether A answers with the exact text: through the same client, and whole instead of streamed."""
        asked = await self.chain(A).ask(Request.of(PROMPT), timeout_s=10.0)
        async with asyncio.timeout(10.0):
            whole = await self.models[A].complete(Request.of(PROMPT))
        return all(isinstance(answer, Response) and answer.text == TEXT for answer in (asked, whole))

    async def take(self, scenarios: Sequence[Scenario]) -> list[Sat]:
        """The scenarios one after the other."""
        return [await self.sit(scenario) for scenario in scenarios]


def exam(
    seed: int,
    discipline: Discipline,
    *,
    scenarios: Sequence[Scenario] = SCENARIOS,
    fallbacks: bool = True,
    timings: Timings = FULL,
) -> list[Sat]:
    """The scenarios in order, taken by one client on one event loop, in virtual time."""
    candidate = Candidate(seed, discipline, fallbacks=fallbacks, timings=timings)
    made: list[Sat] = candidate.world.run(candidate.take(scenarios))
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Sitting:
    """What one client is given: with the same, both layers must tell the same story."""

    seed: int
    discipline: Discipline
    scenarios: tuple[Scenario, ...] = SCENARIOS
    fallbacks: bool = True

    def virtual(self, timings: Timings = FAST) -> list[Sat]:
        """It in virtual time."""
        return exam(self.seed, self.discipline, scenarios=self.scenarios, fallbacks=self.fallbacks, timings=timings)

    def real(self) -> Candidate:
        """Who takes it on sockets."""
        return Candidate(self.seed, self.discipline, fallbacks=self.fallbacks, timings=FAST, sockets=True)


def on_sockets(sittings: Sequence[Sitting]) -> list[list[Sat]]:
    """Each sitting by a client of its own with a server of its own, side by side on one event loop, in real time."""

    async def together(candidates: Sequence[Candidate]) -> list[list[Sat]]:
        return await asyncio.gather(*(c.take(s.scenarios) for c, s in zip(candidates, sittings, strict=True)))

    with ExitStack() as opened:
        return asyncio.run(together([opened.enter_context(sitting.real()) for sitting in sittings]))
