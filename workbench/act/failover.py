"""The discipline around a call: attempts, waits, hedges and fallbacks under one deadline.

A call goes through a chain of models until one answers. What to do after a failure is decided by a pure policy
(decide/retry.py) and logged; whom a failure concerns (decide/classify.py) says whether another model may help. All
attempts carry one idempotency key, each is one row of the log, and exactly one row of a call is its final one.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

from workbench.act.admission import Admission, Ticket, split_name
from workbench.act.attempts import OnText, Under
from workbench.act.call import ENDINGS, checked, cut_off, is_cancelled, too_slow, unexpected
from workbench.act.hedge import ended, hedged
from workbench.act.journal import decide
from workbench.act.trace import failure_of, span
from workbench.act.wake import awake
from workbench.decide.classify import error_of, meaning_of
from workbench.decide.retry import Next
from workbench.errors import LLMError, LLMFailoverError, LLMValidationError
from workbench.facts import Failure, LiveModel, Message, Model, Request, Response, Terms

_KEY = re.compile(r"[!-~]{1,255}")
SILENT = ("timeout.first_token", "timeout.idle", "timeout.attempt")


@dataclass(frozen=True, slots=True)
class Chain:
    """A model with its fallbacks, called under the discipline that all callers of `admission` share.

    models: asked in order, at least one. name: the first one's; a Response names the one that answered.
    """

    admission: Admission
    models: tuple[Model, ...]

    @property
    def name(self) -> str:
        """The first model's name."""
        return self.models[0].name

    async def complete(self, request: Request) -> Response:
        """The first answer of the chain; raises LLMError only, with `.attempts`."""
        return await self._call(request, self.name, self.admission.discipline.timeout_s)

    async def ask(
        self, request: Request, *, member: str | None = None, timeout_s: float | None = None, key: str | None = None
    ) -> Response | Failure:
        """The answer, or the failure as a value.

        timeout_s: for this call alone, instead of the discipline's. key: the idempotency key of its attempts, for a
        call that may repeat an earlier one; None for a new one.
        """
        limit = self.admission.discipline.timeout_s if timeout_s is None else timeout_s
        try:
            return await self._call(request, member or self.name, limit, key=key)
        except LLMError as error:
            return failure_of(error)

    async def stream(self, request: Request) -> AsyncGenerator[str, None]:
        """The text of the answer piece by piece; raises as `complete` does.

        Nothing is tried again once a piece was handed out. Leave it early inside `contextlib.aclosing`: the
        connection is closed with it, and what had arrived is settled.
        """
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        limit = self.admission.discipline.timeout_s
        call = asyncio.create_task(self._call(request, self.name, limit, on_text=pieces.put_nowait))
        call.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await call
        finally:
            await ended(call)

    async def _call(
        self,
        request: Request,
        member: str,
        timeout_s: float | None,
        on_text: OnText | None = None,
        key: str | None = None,
    ) -> Response:
        shared = self.admission
        _check(request)
        if key is not None and not _KEY.fullmatch(key):
            raise LLMValidationError(
                f"the idempotency key {key!r:.80} cannot be sent",
                code="validation.request",
                next_step="use 1 to 255 letters, digits and signs of ASCII, without spaces",
            )
        shared.begin()
        about = {"model": self.name, "item_id": request.item_id}
        with awake(), span(shared.world, "model", "complete", about) as here:
            start_s = shared.world.now_s()
            call = Under(
                world=shared.world,
                name=self.name,
                member=member,
                request=request,
                span=here,
                start_s=start_s,
                start_ns=shared.world.unix_ns(),
                deadline_s=None if timeout_s is None else start_s + timeout_s,
                key=key or shared.world.new_id(16),
                stream=shared.discipline.stream or on_text is not None,
                on_text=on_text,
            )
            try:
                response = await self._through(call)
            except BaseException as error:
                call.end(error)
                raise
            call.end(response)
            return response

    # -- the loop

    async def _through(self, call: Under) -> Response:
        untried, last = list(self.models), None
        while untried:
            model = untried.pop(0)
            number, retry = 0, True
            while retry:
                number += 1
                try:
                    response = await self._tried(call, model, untried)
                    if response is not None:
                        return response
                    break  # its circuit is open, or it is out for this run
                except LLMError as error:
                    error.model = error.model or model.name
                    call.failed = last = error
                untried, step = self._next(call, model, number, last, untried)
                retry = step.action == "retry"
                if step.action == "stop":
                    ended_by = self._given_up(call, last, step)
                    raise ended_by from (last.__cause__ if ended_by is last else last)
                call.write()
                if retry:
                    await self.admission.world.sleep(step.delay_s)
        ended_by = self._exhausted(call, last)
        raise ended_by from (last.__cause__ if last is not None and ended_by is last else last)

    def _next(
        self, call: Under, model: Model, number: int, error: LLMError, untried: Sequence[Model]
    ) -> tuple[list[Model], Next]:
        """The models that may still help, and what to do now."""
        shared, failure = self.admission, failure_of(error)
        scope = meaning_of(failure.code).scope
        others = [] if call.shown or scope in ("request", "caller") else list(untried)
        if scope == "content" and not shared.discipline.failover_on_content_filter:
            others = []
        elif scope == "context":
            others = [m for m in others if _may_be_larger(m, model)]
        remaining_s = call.left_s
        if remaining_s is not None and remaining_s <= 0:
            # One that was only out of its share of the time has a deadline for a reason now.
            shared_out = failure.code == "timeout.attempt"
            reason = "the deadline has passed"
            return [], Next(action="stop", reason=reason, give_up="deadline" if shared_out else "failure")
        if call.shown or call.hedged or scope == "caller":
            return others, Next(action="failover" if others else "stop", reason="not tried again")
        step = decide(
            shared.world,
            shared.discipline.retry,
            kind="retry",
            by_name=True,
            request_key=call.request.key,
            item_id=call.request.item_id,
            attempt=number,
            failure=failure,
            draw=shared.world.draw(),
            remaining_s=remaining_s,
            tokens=shared.retries,
            alternatives=len(others),
            delivered=bool(error.partial),
            silent=failure.code in SILENT,
        )
        if step.action == "retry" and not shared.pay_retry():  # somebody else was quicker
            step = Next(action="failover" if others else "stop", reason="retry budget is empty")
        return others, step

    # -- one attempt

    async def _tried(self, call: Under, model: Model, untried: list[Model]) -> Response | None:
        """The answer of one attempt, hedged where that is on; None when the model may not be asked now."""
        after_s = self.admission.discipline.hedge_after_s
        first = self._attempt(call, model, len(untried))
        if after_s is None or call.hedged or call.on_text is not None:
            return await first

        def second() -> Coroutine[Any, Any, Response | None] | None:
            # Another model does not share what makes this one slow; without one, the same is asked again.
            run_id = call.span.run_id
            ready = [m for m in (*untried, model) if self.admission.may_pass(run_id, m.name)]
            if not ready or not self.admission.pay_hedge():
                return None
            call.hedged, other = True, ready[0]
            if other in untried:
                untried.remove(other)
            return self._attempt(call, other, len(untried))

        return await hedged(first, self.admission.world.sleep(after_s), second)

    async def _attempt(self, call: Under, model: Model, others: int) -> Response | None:
        """The answer to one request sent once; None when the model's circuit is open or it is out for this run."""
        shared = self.admission
        if shared.is_disabled(call.span.run_id, model.name):
            return None
        ticket = await shared.enter(model, call.request, call.span.run_id, call.deadline_s)
        if ticket is None:
            return None
        begun = call.begin(model.name)
        outcome: Response | Failure | None = None
        source: object = None
        heard: list[str] = []
        try:
            source = outcome = await self._sent(call, model, ticket, others, heard)
            return outcome
        except LLMError as error:
            error.model = error.model or model.name
            source, outcome = error, failure_of(error)
            if meaning_of(outcome.code).scope == "account":
                shared.disable(call.span.run_id, model.name, error)
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and not is_cancelled():
                source = made = unexpected(model, error)
                outcome = failure_of(made)
                raise made from error
            source, outcome = error, cut_off(model, call.request, "".join(heard)) if heard else None
            raise
        finally:
            shared.leave(ticket, outcome)
            call.ended(begun, ticket, outcome, source)

    async def _sent(self, call: Under, model: Model, ticket: Ticket, others: int, heard: list[str]) -> Response:
        """The checked answer of one model within what is left of the deadline."""
        discipline, left_s = self.admission.discipline, call.left_s
        # A whole answer gives no sign of life: one silent model must not use up the time of those behind it.
        share_s = left_s if left_s is None or call.stream else left_s / (1 + others)
        limit: asyncio.Timeout | None = None
        try:
            if is_live(model):
                terms = Terms(
                    timeout_s=share_s,
                    first_token_s=discipline.first_token_s,
                    idle_s=discipline.idle_s,
                    idempotency_key=call.key,
                    stream=call.stream,
                )
                listen, leaves = self._listener(call, heard), partial(self.admission.send, ticket)
                return checked(model, call.request, await model.attempt(call.request, terms, listen, leaves))
            self.admission.send(ticket)
            async with asyncio.timeout(share_s) as limit:
                response = checked(model, call.request, await model.complete(call.request))
            if call.on_text is not None and response.text:  # it does not stream: one piece
                self._listener(call, heard)(response.text)
            return response
        except LLMError as error:
            if error.code == "timeout.deadline" and others and not call.stream:
                raise too_slow(model, share_s or 0.0, error) from error.__cause__
            raise
        except Exception as error:
            if limit is None or not limit.expired():
                raise unexpected(model, error) from error
            made = error_of("timeout.deadline", f"{model.name} had not answered in {share_s:.1f} s", model=model.name)
            raise (too_slow(model, share_s or 0.0, made) if others else made) from error
        except (asyncio.CancelledError, *ENDINGS):
            raise
        except BaseException as error:  # a panic of a library in another language is no Exception, and a failure
            raise unexpected(model, error) from error

    @staticmethod
    def _listener(call: Under, heard: list[str]) -> OnText:
        """What a piece of text is given to: from the first one handed out, nothing may be tried again."""

        def show(piece: str) -> None:
            heard.append(piece)
            if call.on_text is not None:
                call.shown = True
                call.on_text(piece)

        return show

    # -- the end

    def _given_up(self, call: Under, last: LLMError, step: Next) -> LLMError:
        """The error that ends a call: the last failure, or the deadline that left no time to try again."""
        tried = {a.model for a in call.attempts}
        if step.give_up == "deadline":
            last = error_of(
                "timeout.deadline",
                f"{last.message}; {step.reason}",
                model=last.model,
                billed=last.possibly_billed,
                partial=last.partial,
            )
        elif len(tried) > 1 and meaning_of(failure_of(last).code).scope not in ("request", "content", "caller"):
            return self._exhausted(call, last)
        last.attempts = tuple(call.attempts)
        return last

    def _exhausted(self, call: Under, last: LLMError | None) -> LLMError:
        """No model of the chain is left: none could be asked now, or all that could have failed."""
        names = ", ".join(m.name for m in self.models)
        waits = [self.admission.breakers.retry_after_s(*split_name(m.name)) for m in self.models]
        if last is None:
            if out := self.admission.disabled_error(call.span.run_id, [m.name for m in self.models]):
                return out
            wait_s = min(waits)
            when = f"wait {wait_s:.1f} s, lower cooldown_s" if wait_s < math.inf else "reset the breaker"
            return LLMFailoverError(
                f"the circuits of all models are open: {names}",
                code="failover.all_open",
                model=self.name,
                retry_after_s=wait_s if wait_s < math.inf else None,
                next_step=f"{when}, or name another model under [failover]",
            )
        if len(self.models) == 1:  # a chain of one has nothing to exhaust
            last.attempts = tuple(call.attempts)
            return last
        told = "; ".join(f"{a.model} {a.code} at {a.start_s:.1f} s" for a in call.attempts[-6:])
        return LLMFailoverError(
            f"no model of the chain answered ({names}): {told or last.message}",
            code="failover.exhausted",
            model=self.name,
            retry_after_s=getattr(last, "retry_after_s", None) or (min(waits) if 0 < min(waits) < math.inf else None),
            next_step="see .attempts for each failure; add a model under [failover], or raise max_retries",
            attempts=tuple(call.attempts),
            possibly_billed=any(a.possibly_billed for a in call.attempts),
            partial=last.partial,
        )


def _check(request: Request) -> None:
    """Refuse what cannot be sent or named, before anything is."""
    for message in request.messages:
        if not (isinstance(message, Message) and isinstance(message.content, str) and isinstance(message.role, str)):
            raise LLMValidationError(
                f"{message!r:.80} is no Message with a text as content and a role",
                code="validation.request",
                next_step="pass Message(role='user', content='...'); roles are system, user and assistant",
            )
    _ = request.key  # refuses parameters that have no form


def is_live(model: Model) -> TypeGuard[LiveModel]:
    """Whether a model sends one request at a time under given terms; a check of one attribute, for it is made often."""
    return callable(getattr(model, "attempt", None))


def _may_be_larger(other: Model, model: Model) -> bool:
    """Whether the other model may have a larger window; an unknown one may."""
    theirs, own = (getattr(getattr(m, "card", None), "context_window", None) for m in (other, model))
    return theirs is None or own is None or theirs > own
