"""One call under way, and its rows: each attempt is held back until it is known whether the call ends with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from workbench.act.admission import Ticket, split_name
from workbench.act.call import cancelled
from workbench.act.trace import OpenSpan, failure_of
from workbench.act.world import World
from workbench.errors import LLMError
from workbench.facts import Attempt, Call, Failure, Request, Response

OnText = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Under:
    """A call under way.

    name: of its chain. member: under which name the caller knows it. key: the idempotency key of all attempts.
    on_text: who listens to the pieces; shown: whether a piece was handed out. hedged: a second request went out.
    failed: the last attempt's error.
    """

    world: World
    name: str
    member: str
    request: Request
    span: OpenSpan
    start_s: float
    start_ns: int
    deadline_s: float | None
    key: str
    stream: bool
    on_text: OnText | None = None
    attempts: list[Attempt] = field(default_factory=list)
    hedged: bool = False
    shown: bool = False
    failed: LLMError | None = None
    _held: list[tuple[dict[str, Any], object]] = field(default_factory=list)

    @property
    def left_s(self) -> float | None:
        """Seconds to the deadline, or None without one."""
        return None if self.deadline_s is None else self.deadline_s - self.world.now_s()

    def begin(self, model: str) -> tuple[int, float, int]:
        """A new attempt on a model: its number, and when it begins on both clocks."""
        number, start_s = len(self.attempts) + 1, self.world.now_s()
        self.attempts.append(
            Attempt(model=model, number=number, start_s=start_s - self.start_s, duration_ms=0.0, code="")
        )
        return number, start_s, self.world.unix_ns()

    def ended(
        self, begun: tuple[int, float, int], ticket: Ticket, outcome: Response | Failure | None, source: object
    ) -> None:
        """Hold an attempt's row; source: the response or the error that it stands for; outcome None: cancelled."""
        number, start_s, start_ns = begun
        response = outcome if isinstance(outcome, Response) else None
        failure = outcome if isinstance(outcome, Failure) else None if response else cancelled(sent=ticket.sent)
        duration_ms = (self.world.now_s() - start_s) * 1e3
        begun_as = self.attempts[number - 1]
        self.attempts[number - 1] = Attempt(
            model=begun_as.model,
            number=number,
            start_s=begun_as.start_s,
            duration_ms=duration_ms,
            code=failure.code if failure else None,
            possibly_billed=failure is not None and failure.possibly_billed,
        )
        row = self._row(ticket.provider, ticket.model, response, failure, number)
        row["start_unix_ns"], row["duration_ms"], row["booked_usd"] = start_ns, duration_ms, ticket.booked_usd
        self._held.append((row, source))

    def write(self) -> None:
        """Write what is held: the call goes on, or ends with something else."""
        held, self._held = self._held, []
        if held:
            self.world.sink.write(*[Call(**row) for row, _ in held])

    def end(self, ending: Response | BaseException) -> None:
        """Write the rest, exactly one of it final: what the call ended with, or a row of its own (attempt 0)."""
        self.span.attributes["attempts"] = len(self.attempts)
        if isinstance(ending, LLMError):
            ending.attempts = ending.attempts or tuple(self.attempts)
            ending.trace_id = ending.trace_id or self.span.trace_id
        source = self.failed if isinstance(ending, LLMError) else ending
        index = next((i for i, (_, of) in enumerate(self._held) if of is source), None)
        if index is None and not isinstance(ending, Response | LLMError):
            answers = [i for i, (row, _) in enumerate(self._held) if Call(**row).status in ("ok", "cancelled")]
            index = next(iter(answers), None)
        if index is None:
            failure = failure_of(ending) if isinstance(ending, LLMError) else cancelled(sent=False)
            name = (ending.model if isinstance(ending, LLMError) else None) or self.name
            self._held.append((self._row(*split_name(name), None, failure, 0), ending))
            index = len(self._held) - 1
        last = self._held.pop(index)
        took_ms = (self.world.now_s() - self.start_s) * 1e3
        last[0].update(final=True, attempts=len(self.attempts), call_ms=took_ms)
        self._held.append(last)
        self.span.facts.extend([Call(**row) for row, _ in self._held])
        self._held = []

    def _row(
        self, provider: str, model: str, response: Response | None, failure: Failure | None, number: int
    ) -> dict[str, Any]:
        """The fields of a Call, which is made when it is known whether it is the final one."""
        return {
            "span_id": self.span.span_id if number == 1 or not self.attempts else self.world.new_id(8),
            "trace_id": self.span.trace_id,
            "run_id": self.span.run_id,
            "item_id": self.request.item_id,
            "provider": provider,
            "model": model,
            "request": self.request,
            "response": response,
            "failure": failure,
            "start_unix_ns": self.start_ns,
            "duration_ms": (self.world.now_s() - self.start_s) * 1e3,
            "call_id": self.span.span_id,
            "attempt": number,
            "final": False,
            "member": self.member,
            "idempotency_key": self.key,
        }
