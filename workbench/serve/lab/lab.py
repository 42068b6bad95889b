"""The fault lab: the simulated models behind a real loopback port, with faults on demand.

    with FaultLab(["strong", "weak"], faults={"strong": "http-503-ra@0.3"}) as lab:
        wb = lab.open("data/log", models=["lab:strong", "lab-anthropic:weak"])

Everything in it is simulated and says so: the header x-workbench-simulated, the ids and the fingerprint. What is
measured through it is real: sockets, latencies that are waited for, retries. A model asked as `strong!sse-reset` has
that fault for this request.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from workbench.act.provider import Provider, Wire
from workbench.act.simulated import Profile
from workbench.decide.weights import closest
from workbench.errors import LLMProviderError, LLMValidationError
from workbench.facts import ModelCard, Response
from workbench.serve.lab import connect
from workbench.serve.lab.account import Accepted, Account, Entry, LabRequest
from workbench.serve.lab.asks import Ask, BadAsk, is_ask, read_ask, wire_of
from workbench.serve.lab.catalog import fault_of
from workbench.serve.lab.fault import EVENTS, MARK, Fault, Shot, events, refused, told
from workbench.serve.lab.http1 import Asked, Bounds
from workbench.serve.lab.loopback import Loopback
from workbench.serve.lab.models import Models, items_of, profiles_of
from workbench.serve.lab.rules import FaultRule, Faults, Weather, rules_of
from workbench.serve.lab.shapes import Said, document, problem
from workbench.serve.lab.steps import Answer, Pause, Step, head, reply, status_of
from workbench.serve.lab.tls import self_signed

if TYPE_CHECKING:
    from workbench.session.settings import Loaded
    from workbench.session.workbench import Workbench
    from workbench.study.suite import Suite

COUNTS = "/lab/counts"


class FaultLab(Loopback):
    """A simulated provider on a port of this machine; a context manager, for `async with` too.

    models: profiles or names of simulated models; default all bundled ones. suites: names of bundled suites or
    suites, whose items the models know; default all bundled ones. faults: see `set_faults`. port: 0 takes a free
    one. seed: of the draws of faults. latency: whether to wait as long as the models say, or a factor >= 0.
    tls: speak HTTPS with this context. Raises LLMValidationError, LLMRouterError for what there is not.
    """

    def __init__(
        self,
        models: str | Profile | Iterable[str | Profile] | None = None,
        *,
        suites: str | Suite | Iterable[str | Suite] | None = None,
        faults: Faults = (),
        port: int = 0,
        host: str = "127.0.0.1",
        seed: int = 0,
        latency: bool | float = True,
        tls: ssl.SSLContext | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        super().__init__(host=host, port=port, tls=tls, bounds=bounds)
        self.models = Models(profiles_of(models), items_of(suites))
        self.seed, self.latency = seed, _factor(latency)
        self._account = Account()
        self._ids = itertools.count(1)
        self._secure: _Secure | None = None
        self._closed: socket.socket | None = None
        self._weather = Weather(rules_of(faults, self.names), seed=seed)

    def __repr__(self) -> str:
        return f"FaultLab({list(self.names)!r}, url={self.url!r}, source=simulated)"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models."""
        return tuple(self.models.profiles)

    @property
    def profiles(self) -> Mapping[str, Profile]:
        """The models by name."""
        return self.models.profiles

    # -- life

    def start(self) -> None:
        """Listen; LLMValidationError validation.port where the port cannot be had."""
        super().start()
        self._account.reset()

    def stop(self) -> None:
        """Close every port and connection."""
        if self._secure is not None:
            self._secure.stop()
            self._secure = None
        if self._closed is not None:
            self._closed.close()
            self._closed = None
        super().stop()

    def __enter__(self) -> FaultLab:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> FaultLab:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    # -- how to reach it

    @property
    def url(self) -> str:
        """The address without a path."""
        return f"http{'s' if self.tls else ''}://{connect.host_of(self.host)}:{self.port}"

    def base_url(self, wire: Wire = "openai", *, fault: str | None = None) -> str:
        """The base_url of a provider of this wire format.

        fault: net-refused, net-dns, net-tls or net-tls-plain, for an address that has the fault itself. Raises
        LLMError serve.openssl where net-tls needs a certificate that cannot be made.
        """
        path = connect.path_of(wire)
        host = connect.host_of(self.host)
        if fault is None:
            return self.url + path
        if fault not in connect.ADDRESSES:
            fault_of(fault, "base_url(fault=...)", answers=False)
            raise LLMValidationError(
                f"{fault} has no address of its own, only {', '.join(connect.ADDRESSES)} have",
                code="validation.fault",
                next_step=f"pass it in faults=, or ask for the model as NAME!{fault}",
            )
        if fault == "net-dns":
            return f"http://name.invalid:{self.port}{path}"
        if fault == "net-tls-plain":
            return f"https://{host}:{self.port}{path}"
        port = self._closed_port() if fault == "net-refused" else self._secure_port()
        return f"http{'s' if fault == 'net-tls' else ''}://{host}:{port}{path}"

    def _closed_port(self) -> int:
        # Bound and not listened on: nobody else gets it, and connections to it are refused.
        if self._closed is None:
            host = connect.host_of(self.host).strip("[]")
            self._closed = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            self._closed.bind((host, 0))
        return int(self._closed.getsockname()[1])

    def _secure_port(self) -> int:
        if self._secure is None:
            secure = _Secure(self, self_signed())
            secure.start()
            self._secure = secure
        return self._secure.port

    def providers(self, *addresses: str) -> dict[str, Provider]:
        """The providers by name: `lab`, `lab-anthropic`, `lab-gemini`, and `lab-FAULT` for each address named.

        addresses: as `fault` of `base_url`.
        """
        return connect.providers(self, addresses)

    def cards(self, *addresses: str) -> dict[str, ModelCard]:
        """The models' cards with their prices, by `provider:model`, for all of `providers`."""
        return connect.cards(self, addresses)

    def toml(self, *addresses: str) -> str:
        """The lines to put into workbench.toml."""
        return connect.toml(self, addresses)

    def loaded(self, *addresses: str, **settings: Any) -> Loaded:
        """The configuration in force, with the lab's providers and cards in it; settings: as for Workbench.open."""
        return connect.loaded(self, addresses, settings)

    def open(
        self,
        log: str | os.PathLike[str] | None = None,
        *,
        models: Sequence[Any] | None = None,
        addresses: Sequence[str] = (),
        **settings: Any,
    ) -> Workbench:
        """A workbench that reaches the lab's models as `lab:NAME`; as Workbench.open otherwise.

        models: default all models of the lab, as `lab:NAME`.
        """
        return connect.workbench(self, log, models, addresses, settings)

    # -- faults and counts

    @property
    def faults(self) -> tuple[FaultRule, ...]:
        """The rules in force."""
        return self._weather.rules

    def set_faults(self, faults: Faults) -> None:
        """Put these rules into force in place of all others, from the next request on; from any thread.

        faults: texts such as "strong=http-503-ra@0.3" or FaultRule values, of which the first that applies wins; or a
        table of model -> "http-503-ra@0.3", rule, or a list of either. Windows count from the start or `reset`.
        """
        self._weather = Weather(rules_of(faults, self.names), seed=self.seed)

    def heal(self) -> None:
        """Take all faults away."""
        self.set_faults(())

    def reset(self) -> None:
        """Forget counts, attempts and draws, and begin the time of the windows again."""
        self._weather = Weather(self._weather.rules, seed=self.seed)
        self._account.reset()

    @property
    def accepted(self) -> Accepted:
        """How many questions to its models were read to their end."""
        return self._account.accepted

    @property
    def log(self) -> tuple[LabRequest, ...]:
        """Every request that was read to its end, in that order."""
        return self._account.log

    # -- answering

    def refusal(self, status: int, why: str) -> Answer:
        """The answer to what cannot be read."""
        return reply(problem("openai", status, why), status, **MARK, connection="close")

    async def answer(self, asked: Asked) -> Answer:
        """The steps of the answer to a request."""
        path = asked.path.partition("?")[0]
        if asked.method == "GET" and path == COUNTS:
            return reply(self.accepted.as_dict(), **MARK)
        entry = Entry(asked, wire_of(asked))
        try:
            steps = await self._steps(asked, path, entry)
        except BadAsk as bad:
            code = "model_not_found" if bad.status == 404 and entry.model else None
            found: Any = problem(entry.wire, bad.status, bad.why, code=code)
            # The answer to HEAD has no body; whoever asks so is told by the status alone.
            steps = reply(b"" if asked.method == "HEAD" else found, bad.status, **MARK)
        entry.status = status_of(steps)
        self._account.add(entry)
        asked.raw = b""  # nobody reads it any more, and the log is kept
        return steps

    async def _steps(self, asked: Asked, path: str, entry: Entry) -> Answer:
        if asked.method == "GET" and path.endswith("/models"):
            return reply(connect.listed(self, entry.wire), **MARK)
        if not is_ask(asked):
            raise BadAsk(
                404, f"there is no {path[:200]} here: ask /v1/chat/completions, /v1/messages or Gemini's paths"
            )
        if asked.method != "POST":
            raise BadAsk(405, f"{asked.method} is not answered here: use POST")
        ask = read_ask(asked)
        entry.wire, entry.model, entry.stream = ask.wire, ask.model, ask.stream
        name, _, wanted = ask.model.partition("!")
        if name not in self.names:
            hint = closest(name, list(self.names))
            near = f"did you mean {hint}? " if hint else ""
            raise BadAsk(404, f"the model {name[:100]!r} does not exist: {near}there are {', '.join(self.names)}")
        own = _own_fault(ask, wanted) if wanted else None
        entry.is_question = True
        entry.attempt = self._account.attempt(ask.model, asked.key)
        fault = self._fault(ask, name, own, entry)
        entry.fault = fault.id if fault else None
        return await self._told(ask, name, fault, asked)

    def _fault(self, ask: Ask, name: str, own: Fault | None, entry: Entry) -> Fault | None:
        """The fault of this attempt: its own, else the weather's."""
        if own is not None:
            return own if own.first is None or entry.attempt <= own.first else None
        at_s = entry.asked.at_s - self._account.start_s
        return self._weather.choose(model=name, wire=ask.wire, stream=ask.stream, attempt=entry.attempt, at_s=at_s)

    async def _told(self, ask: Ask, name: str, fault: Fault | None, asked: Asked) -> Answer:
        ident = f"simulated-{next(self._ids)}"
        try:
            response = await self.models.response(name, ask.messages)
        except LLMProviderError as error:
            said = Said(wire=ask.wire, model=ask.model, ident=ident, text="", usage=None)
            return refused(Shot(said=said, stream=ask.stream), error.status or 500, error.message)
        shot = Shot(
            said=_said(ask, ident, response),
            stream=ask.stream,
            on_connection=asked.number,
            url=self.url,
            now_unix_s=time.time(),
        )
        latency_s = (response.latency_ms or 0.0) / 1e3 * self.latency
        first_s = (response.ttft_ms or 0.0) / 1e3 * self.latency
        if fault is not None and fault.script is not None:
            wait = (Pause(first_s if ask.stream else latency_s),) if fault.waits else ()
            return (*wait, *fault.script(shot))
        if not ask.stream:
            whole = reply([document(shot.said)], **MARK, x_request_id=ident) if ask.listed else told(shot)
            return (Pause(latency_s), *whole)
        return _flow(shot, first_s, latency_s, chunked=asked.version == "1.1")


class _Secure(Loopback):
    """The second port of a lab, which speaks TLS."""

    def __init__(self, lab: FaultLab, tls: ssl.SSLContext) -> None:
        super().__init__(host=lab.host, tls=tls, bounds=lab.bounds)
        self._lab = lab

    async def answer(self, asked: Asked) -> Answer:
        """What the lab answers."""
        return await self._lab.answer(asked)


def _own_fault(ask: Ask, wanted: str) -> Fault:
    """The fault that stands behind the model's name. Raises BadAsk."""
    try:
        fault = fault_of(wanted, ask.model[:100])
    except LLMValidationError as error:
        raise BadAsk(400, f"{error.message}; {error.next_step}") from error
    if not fault.fits(ask.wire, stream=ask.stream):
        forms = " or ".join("a stream" if form == "stream" else "a whole answer" for form in fault.forms)
        raise BadAsk(400, f"{fault.id} makes sense for {forms} of {', '.join(fault.wires)} only")
    return fault


def _factor(latency: bool | float) -> float:
    if isinstance(latency, int | float) and math.isfinite(latency) and latency >= 0:
        return float(latency)
    raise LLMValidationError(
        f"latency {latency!r} is neither a truth value nor a number >= 0",
        code="validation.config",
        next_step="use latency=1 for the models' own latency, 0 for none",
    )


def _said(ask: Ask, ident: str, response: Response) -> Said:
    usage = (response.usage.prompt_tokens or 0, response.usage.completion_tokens or 0) if ask.usage else None
    return Said(
        wire=ask.wire,
        model=ask.model,
        ident=ident,
        text=response.text,
        usage=usage,
        finish=response.finish_reason or "stop",
    )


def _flow(shot: Shot, first_s: float, latency_s: float, *, chunked: bool) -> Answer:
    """A stream whose first text comes after first_s, and whose end after latency_s."""
    found = events(shot, shot.said)
    # The events before the text come with its first piece; what lies between the pieces is the rest of the latency.
    steps: list[Step] = [Pause(first_s)]
    gap_s = max(latency_s - first_s, 0.0) / max(len(found), 1)
    for one in found:
        steps += [b"%x\r\n%b\r\n" % (len(one), one) if chunked else one, Pause(gap_s)]
    ends: dict[str, Any] = {"transfer_encoding": "chunked"} if chunked else {"connection": "close"}
    first = head(**EVENTS, **ends, x_request_id=shot.said.ident)
    return (first, *steps, b"0\r\n\r\n") if chunked else (first, *steps)
