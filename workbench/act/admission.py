"""What a call must pass before it is sent, and what is settled after it: circuit, rate, concurrency, budget.

All callers share one Admission. Nothing here tries again; an attempt that is refused was not sent and costs nothing.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import WeakKeyDictionary

from workbench.act.breakers import Breakers
from workbench.act.lanes import Lane, Limits
from workbench.act.world import World
from workbench.decide.breaker import Breaker, Permit
from workbench.decide.budget import exceeded, price_of
from workbench.decide.classify import error_of, meaning_of
from workbench.decide.retry import Bucket, RetryPolicy
from workbench.decide.tokens import estimated_prompt, largest_output, largest_prompt
from workbench.errors import LLMError, LLMTimeoutError, LLMValidationError
from workbench.facts import BudgetLedger, Failure, Model, ModelCard, Request, Response

T = TypeVar("T")
DISABLING = ("provider.auth", "provider.payment", "provider.not_found", "rate_limit.quota")
NO_CARD = ModelCard(name="")
WAITED_S = 0.01
POLL_S = 0.25  # how often a budget shared with other processes is asked again
HELD_S, LONGEST_HELD_S = 0.0005, 0.02  # the same while another process holds its accounts: a turn is short


@dataclass(frozen=True, slots=True, kw_only=True)
class Discipline:
    """How calls are made; the settings of the same names (docs/reference/settings.md).

    timeout_s: one deadline around all attempts, waits and fallbacks of a call; None for none.
    hedge_after_s: send the request a second time when no answer has come by then; None for never.
    """

    timeout_s: float | None = 30.0
    first_token_s: float | None = 10.0
    idle_s: float | None = 10.0
    stream: bool = False
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    retries: Bucket = field(default_factory=Bucket)
    breaker: Breaker = field(default_factory=Breaker)
    hedge_after_s: float | None = None
    hedges: Bucket = field(default_factory=lambda: Bucket(capacity=5.0, ratio=0.05))
    failover_on_content_filter: bool = False
    allow_unknown_price: bool = False


@dataclass(slots=True, kw_only=True)
class Ticket:
    """What one admitted attempt holds; `sent` turns true when the request leaves."""

    provider: str
    model: str
    permit: Permit
    started_s: float
    scopes: tuple[str, ...] = ()
    reserved: int = 0
    lane: Lane | None = None
    tokens: int = 0
    booked_s: float = 0.0
    sent: bool = False
    booked_usd: float | None = None


def split_name(name: str) -> tuple[str, str]:
    """Provider and model of `provider:model`; the provider is empty where none is named."""
    provider, colon, model = name.partition(":")
    return (provider, model) if colon else ("", name)


class Admission:
    """The state that all calls share: circuits, rates, money, and models that are out for a run.

    limits: for a model's name, what it may be sent. ledger: None keeps no accounts.
    """

    def __init__(
        self,
        world: World,
        discipline: Discipline,
        *,
        ledger: BudgetLedger | None = None,
        limited: bool = False,
        limits: Callable[[str], Limits | None] = lambda _: None,
    ) -> None:
        self.world, self.discipline = world, discipline
        self.breakers = Breakers(discipline.breaker, world)
        self.ledger = ledger
        self.limited = limited
        self._limits = limits
        self._lanes: dict[str, Lane | None] = {}
        self._settled: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Event] = WeakKeyDictionary()
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._held = ""  # why the accounts could not be asked when they were last asked
        self._session = f"session-{world.new_id(4)}"
        self._lock = threading.Lock()
        self._retries, self._hedges = discipline.retries, discipline.hedges
        self._disabled: dict[tuple[str, str], LLMError] = {}

    def under(self, discipline: Discipline) -> Admission:
        """The same money, rates and limits under another discipline, with circuits and buckets of its own."""
        made = Admission(self.world, discipline, ledger=self.ledger, limited=self.limited, limits=self._limits)
        made._lanes, made._settled, made._queues, made._session = (
            self._lanes, self._settled, self._queues, self._session
        )  # fmt: skip
        return made

    # -- what all callers share

    @property
    def _fair_s(self) -> float:
        """The shortest silence for which a model may be blamed."""
        limits = (self.discipline.first_token_s, self.discipline.timeout_s)
        return min((limit for limit in limits if limit is not None), default=0.0)

    @property
    def retries(self) -> float:
        """Tokens left for retries."""
        return self._retries.tokens

    def begin(self) -> None:
        """A call begins: it earns its part of a retry and of a hedge."""
        with self._lock:
            self._retries, self._hedges = self._retries.credit(), self._hedges.credit()

    def pay_retry(self) -> bool:
        """Whether there was a token for one more retry."""
        with self._lock:
            after = self._retries.debit()
            self._retries = after or self._retries
            return after is not None

    def pay_hedge(self) -> bool:
        """Whether there was a token for one more hedge."""
        with self._lock:
            after = self._hedges.debit()
            self._hedges = after or self._hedges
            return after is not None

    def disable(self, run_id: str | None, model: str, error: LLMError) -> None:
        """Ask the model no more in this run: its key, account or name is refused until somebody acts."""
        if run_id is not None and error.code in DISABLING:
            self._disabled[run_id, model] = error

    def is_disabled(self, run_id: str | None, model: str) -> bool:
        """Whether the model is out for this run."""
        return (run_id, model) in self._disabled

    def disabled_error(self, run_id: str | None, models: Sequence[str]) -> LLMError | None:
        """Why the first of the models that are out is out, as an error of its own; None when none is."""
        found = next((self._disabled[run_id, m] for m in models if run_id and (run_id, m) in self._disabled), None)
        if found is None:
            return None
        status = getattr(found, "status", None)
        return error_of(
            found.code,
            f"{found.model} is out for this run: {found.message}",
            status=status,
            billed=False,
            retryable=False,
            next_step=found.next_step,
            model=found.model,
        )

    def may_pass(self, run_id: str | None, model: str) -> bool:
        """Whether a call of the model would be let through now."""
        return not self.is_disabled(run_id, model) and self.breakers.retry_after_s(*split_name(model)) == 0

    def reset(self, model: str | None = None) -> None:
        """Close circuits and admit models again: of one `provider:model`, or of all, with a full retry budget."""
        if model is None:
            self.breakers.reset()
            self._retries, self._hedges = self.discipline.retries, self.discipline.hedges
        else:
            self.breakers.reset(*split_name(model))
        self._disabled = {k: e for k, e in self._disabled.items() if model not in (None, k[1])}

    # -- one attempt

    async def enter(
        self, model: Model, request: Request, run_id: str | None, deadline_s: float | None
    ) -> Ticket | None:
        """A ticket for one attempt, or None when the model's circuit is open.

        Raises LLMValidationError budget.exceeded, budget.unknown_price; LLMRateLimitError rate_limit.local;
        LLMTimeoutError timeout.deadline when it passes while waiting for a turn or for accounts that others hold.
        """
        provider, bare = split_name(model.name)
        permit = self.breakers.admit(provider, bare)
        if permit is None:
            return None
        ticket = Ticket(provider=provider, model=bare, permit=permit, started_s=self.world.now_s())
        try:
            # Money first: who waits for it must not hold a slot that others could use.
            await self._reserve(ticket, model, request, run_id, deadline_s)
            await self._take_lane(ticket, model, request, deadline_s)
        except BaseException:
            self.leave(ticket, None)
            raise
        waited_s, ticket.started_s = self.world.now_s() - ticket.started_s, self.world.now_s()
        if waited_s > WAITED_S:  # a result under a permit of a former state would not count
            permit = self.breakers.renewed(provider, bare, ticket.permit)
            if permit is None:
                self.leave(ticket, None)
                return None
            ticket.permit = permit
        return ticket

    def send(self, ticket: Ticket) -> None:
        """The request leaves now: what it has waited since its turn does not count for the rate."""
        ticket.sent = True
        if (lane := ticket.lane) is not None and lane.limits.rate is not None:
            with lane.lock:
                now_s = self.world.now_s()
                lane.rate = lane.limits.rate.moved(lane.rate, tokens=ticket.tokens, at_s=ticket.booked_s, now_s=now_s)
                ticket.booked_s = now_s

    def leave(self, ticket: Ticket, outcome: Response | Failure | None) -> None:
        """Give back what the ticket holds and settle what was spent; None: cancelled, or never sent."""
        if ticket.lane is not None:
            self._leave_lane(ticket, outcome)
        if ticket.scopes and self.ledger is not None:
            actual, uncertain = _spent(ticket, outcome)
            self.ledger.settle(ticket.scopes, ticket.reserved, actual, uncertain=uncertain)
            ticket.booked_usd = actual / 1e6
            if self._settled and (waited := self._settled.get(asyncio.get_running_loop())) is not None:
                waited.set()
        duration_s = max(self.world.now_s() - ticket.started_s, 0.0)
        if isinstance(outcome, Response):
            self.breakers.record(ticket.provider, ticket.model, ticket.permit, ok=True, duration_s=duration_s)
        elif outcome is not None and _is_charged(outcome, duration_s, self._fair_s):
            self.breakers.record(ticket.provider, ticket.model, ticket.permit, ok=False, duration_s=duration_s)
        else:
            self.breakers.release(ticket.provider, ticket.model, ticket.permit)

    # -- rate and concurrency

    async def _take_lane(self, ticket: Ticket, model: Model, request: Request, deadline_s: float | None) -> None:
        if model.name not in self._lanes:
            limits = self._limits(model.name)
            self._lanes[model.name] = Lane(limits) if limits is not None else None
        lane = self._lanes[model.name]
        if lane is None:
            return
        slots, queue = lane.here()
        if lane.limits.concurrency is not None:
            await self._patiently(slots.acquire(), deadline_s, f"a free slot of {model.name}")
        ticket.lane = lane
        if lane.limits.rate is not None:
            card = getattr(model, "card", None)
            tokens = estimated_prompt(request.messages) + (_longest(model, request) if card else 0)
            # Nobody overtakes who is waiting.
            if queue.locked() or self._booked(ticket, lane, tokens):
                await self._patiently(self._book(ticket, lane, queue, tokens, deadline_s), deadline_s, model.name)

    async def _book(
        self, ticket: Ticket, lane: Lane, queue: asyncio.Lock, tokens: int, deadline_s: float | None
    ) -> None:
        async with queue:
            while wait_s := self._booked(ticket, lane, tokens):
                if deadline_s is not None and self.world.now_s() + wait_s >= deadline_s:
                    raise error_of(
                        "rate_limit.local",
                        f"{ticket.provider}:{ticket.model} may be called again in {wait_s:.1f} s, past the deadline",
                        model=f"{ticket.provider}:{ticket.model}",
                        retry_after_s=wait_s,
                    )
                await self.world.sleep(wait_s)

    def _booked(self, ticket: Ticket, lane: Lane, tokens: int) -> float:
        """0.0 when the request was booked, else the seconds after which it may fit."""
        assert lane.limits.rate is not None
        with lane.lock:
            now_s = self.world.now_s()
            lane.rate, wait_s = lane.limits.rate.admit(lane.rate, now_s=now_s, tokens=tokens)
        if not wait_s:
            ticket.tokens, ticket.booked_s = tokens, now_s
        return wait_s

    def _leave_lane(self, ticket: Ticket, outcome: Response | Failure | None) -> None:
        lane, ticket.lane = ticket.lane, None
        assert lane is not None
        if lane.limits.rate is not None and ticket.tokens:
            with lane.lock:
                if not ticket.sent:
                    lane.rate = lane.limits.rate.refund(lane.rate, ticket.tokens, at_s=ticket.booked_s)
                elif outcome is not None and outcome.usage is not None and (used := sum(_counts(outcome))):
                    lane.rate = lane.limits.rate.settle(
                        lane.rate, reserved=ticket.tokens, actual=used, at_s=ticket.booked_s
                    )
        if lane.limits.concurrency is not None:
            lane.here()[0].release()

    # -- money

    async def _reserve(
        self, ticket: Ticket, model: Model, request: Request, run_id: str | None, deadline_s: float | None
    ) -> None:
        card = getattr(model, "card", None)
        if self.ledger is None or card is None:
            return
        price = price_of(card, estimated_prompt(request.messages))
        if price is None:
            if self.limited and not self.discipline.allow_unknown_price:
                raise LLMValidationError(
                    f"{model.name} has no known price, and a budget is set",
                    code="budget.unknown_price",
                    model=model.name,
                    next_step=f'give its prices under [models."{model.name}"], or set allow_unknown_price = true'[:160],
                )
            return
        worst = price.cost_micro(
            prompt_tokens=largest_prompt(request.messages, request.params),
            completion_tokens=_longest(model, request),
        )
        month = time.strftime("%Y-%m", time.gmtime(self.world.unix_ns() / 1e9))
        scopes = (f"run:{run_id or self._session}", f"model:{model.name}", f"month:{month}")
        queue = self._queues.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        # Nobody overtakes who is waiting, but for what costs nothing.
        waits = bool(worst) and queue.locked()
        try:
            waits = waits or self.ledger.reserve(scopes, worst) is not None
        except LLMError as error:
            if error.code != "storage.locked":
                raise
            waits = True
        if waits:
            turn = self._in_turn(queue, scopes, worst, model.name)
            await self._patiently(turn, deadline_s, f"room in the budgets of {model.name}", money=True)
        ticket.scopes, ticket.reserved = scopes, worst

    async def _in_turn(self, queue: asyncio.Lock, scopes: Sequence[str], worst: int, name: str) -> None:
        """Reserve as soon as it fits, first come, first served."""
        assert self.ledger is not None
        pause_s = HELD_S
        async with queue:
            while True:
                try:
                    refusal = self.ledger.reserve(scopes, worst)
                except LLMError as held:
                    if held.code != "storage.locked":
                        raise
                    self._held = f": {held.message}"
                    await self.world.sleep(pause_s := min(2 * pause_s, LONGEST_HELD_S))
                    continue
                self._held, pause_s = "", HELD_S
                if refusal is None:
                    return
                if not refusal.may_fit_later:
                    error = exceeded(refusal)
                    error.model = name
                    raise error
                await self._next_settlement()

    async def _next_settlement(self) -> None:
        """Wait until some call has settled, here or, looked at now and then, in another process."""
        loop = asyncio.get_running_loop()
        if (event := self._settled.get(loop)) is None or event.is_set():
            event = self._settled[loop] = asyncio.Event()
        try:
            async with asyncio.timeout(POLL_S):
                await event.wait()
        except TimeoutError:
            pass

    async def _patiently(self, waiting: Awaitable[T], deadline_s: float | None, what: str, *, money: bool = False) -> T:
        try:
            async with asyncio.timeout(None if deadline_s is None else deadline_s - self.world.now_s()):
                return await waiting
        except LLMTimeoutError:
            raise
        except TimeoutError as error:
            what += self._held if money else ""
            raise error_of("timeout.deadline", f"the deadline passed while waiting for {what}", billed=False) from error


def _longest(model: Model, request: Request) -> int:
    """The tokens that the model's answer may have; some are always sent a limit, and say so."""
    own = getattr(model, "longest", None)
    return (
        int(own(request)) if callable(own) else largest_output(request.params, getattr(model, "card", None) or NO_CARD)
    )


def _is_charged(failure: Failure, duration_s: float, fair_s: float) -> bool:
    """Whether the model is to blame: not for what was cancelled, nor for a deadline that gave it no fair time."""
    if failure.code == "cancelled" or (failure.code.startswith("timeout.") and not failure.possibly_billed):
        return False
    if failure.code == "timeout.deadline" and duration_s < 0.9 * fair_s:
        return False
    return meaning_of(failure.code).charged


def _counts(outcome: Response | Failure) -> tuple[int, int]:
    usage = outcome.usage
    return (0, 0) if usage is None else (usage.prompt_tokens or 0, usage.completion_tokens or 0)


def _spent(ticket: Ticket, outcome: Response | Failure | None) -> tuple[int, bool]:
    """Micro-US-dollars to book for an attempt, and whether they are only possibly billed."""
    if not ticket.sent:
        return 0, False
    if outcome is None:
        return ticket.reserved, True
    if isinstance(outcome, Failure) and not outcome.possibly_billed and not outcome.cost_usd:
        return 0, False
    uncertain = isinstance(outcome, Failure)
    if outcome.cost_usd is None:
        return ticket.reserved, True
    # Rounded up, as costs are, but not for the last bit of a float: 0.00021 USD are 210 micro-dollars.
    return math.ceil(round(outcome.cost_usd * 1e6, 3)), uncertain
