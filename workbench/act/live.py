"""Models behind HTTP: one attempt, from a request to an answer or a typed failure.

Nothing here tries twice; who calls decides that (act/failover.py). Every wait is under the terms of the attempt: one
deadline around everything, a limit to the first text and one between two pieces of a stream.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from workbench.act.clock import Clock, Course
from workbench.act.http import Address, Headers, Http, Received
from workbench.act.provider import Provider
from workbench.act.secret import Secret
from workbench.act.wire.anthropic import VERSION, Anthropic
from workbench.act.wire.gemini import Gemini
from workbench.act.wire.openai import OpenAI
from workbench.act.wire.pieces import drained, halved, nobody, read_json, without_body, written
from workbench.act.wire.reply import ENDS, Reply, Wire, error_fields, quoted, retry_delay, verdict_on
from workbench.act.wire.sse import EventStream
from workbench.act.world import World
from workbench.canonical import clean_text, redacted
from workbench.decide.budget import price_of, tokens_of
from workbench.decide.classify import classify, duration_s, error_of
from workbench.decide.tokens import DEFAULT_OUTPUT, Counted, asked_output, counted, largest_output
from workbench.decide.weights import closest
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import ModelCard, Request, Response, Terms, Usage

WIRES: Mapping[str, Wire] = {"openai": OpenAI(), "anthropic": Anthropic(), "gemini": Gemini()}
REQUEST_IDS = ("x-request-id", "request-id", "x-goog-request-id", "apim-request-id", "x-litellm-call-id")
_VERSION = re.compile(r":.*$|[-@](?:latest|\d{3,}[\w.-]*|\d{4}-\d\d(?:-\d\d)?)$")
TEXT_MARKS = (b'"content"', b'"text"', b'"delta"', b'"parts"')
GRACE_S = 1.0
BOM = b"\xef\xbb\xbf"
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class HttpModel:
    """One model of one provider.

    cards: what is known of the provider's models, by `provider:model`; for the price of the one that served, and
    for the closest name when this one does not exist. key: None for a provider that takes none.
    output_limit: tokens that an answer may have where the request sets no limit; None leaves it to the provider.
    """

    provider: Provider
    model: str
    http: Http
    world: World
    key: Secret | None = None
    cards: Mapping[str, ModelCard] = field(default_factory=dict)
    output_limit: int | None = None
    card: ModelCard = field(init=False)
    _addresses: tuple[Address, Address] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "card", self.cards.get(self.name) or ModelCard(name=self.name))
        wire = WIRES[self.provider.wire]
        object.__setattr__(
            self, "_addresses", tuple(Address(self._url(wire.path(self.model, stream=s))) for s in (False, True))
        )

    @property
    def name(self) -> str:
        """`provider:model`."""
        return f"{self.provider.name}:{self.model}"

    def _url(self, path: str) -> str:
        query = urlencode(self.provider.query)
        url = self.provider.base_url.rstrip("/") + path
        return url + ("?&"["?" in url] + query if query else "")

    async def complete(self, request: Request) -> Response:
        """The answer to one request sent once, whole, without a limit of time."""
        return await self.attempt(request, Terms())

    async def attempt(
        self,
        request: Request,
        terms: Terms,
        on_text: Callable[[str], None] | None = None,
        on_send: Callable[[], None] | None = None,
    ) -> Response:
        """The answer to one request sent once.

        on_text: is given each piece of a streamed answer as it arrives. on_send: is called when the request leaves.
        Raises LLMError with `possibly_billed`, `partial` and, where they are known, `usage` and `cost_usd`.
        """
        clock = Clock(self.world, terms)
        reply = Reply()
        try:
            async with clock.limit() as limit:
                body, address = self._body(request, stream=terms.stream), self._addresses[terms.stream]
                received = await self._post(address, body, terms, reply, Course(clock, limit, on_send))
                try:
                    if terms.stream:
                        await self._stream(received, clock, limit, reply, on_text or nobody)
                    else:
                        WIRES[self.provider.wire].whole(self._document(await received.read(), received), reply)
                finally:
                    await received.close()
        except TimeoutError as error:
            if not (reply.ended or reply.complete):  # else only the connection was kept open
                raise self._about(clock.error(self.name, reply), request, reply) from error
        except LLMError as error:
            raise self._about(error, request, reply) from error.__cause__
        clock.over()
        response = self._response(request, terms, clock, reply)
        if reply.held and on_text is not None:  # its other half never came
            on_text(clean_text(reply.held))
        return response

    # -- sending

    async def post_json(
        self,
        path: str,
        body: Mapping[str, Any],
        request: Request,
        terms: Terms,
        on_send: Callable[[], None] | None = None,
    ) -> tuple[Mapping[str, Any], float]:
        """The document that another path of the provider answers with, and its latency in milliseconds."""
        terms = replace(terms, stream=False)
        clock, reply = Clock(self.world, terms), Reply()
        raw = written(body)
        try:
            async with clock.limit() as limit:
                course = Course(clock, limit, on_send)
                received = await self._post(Address(self._url(path)), raw, terms, reply, course)
                try:
                    return self._document(await received.read(), received), clock.elapsed_ms
                finally:
                    await received.close()
        except TimeoutError as error:
            raise self._about(clock.error(self.name, reply), request, reply) from error
        except LLMError as error:
            raise self._about(error, request, reply) from error.__cause__

    async def _post(self, address: Address, body: bytes, terms: Terms, reply: Reply, course: Course) -> Received:
        headers = self._headers(terms)
        received = await self.http.post(address, headers, body, on_turn=course.turn, on_send=course.sent)
        reply.request_id = next((received.headers[n] for n in REQUEST_IDS if n in received.headers), None)
        self._scrub(reply)
        if received.status == 200:
            return received
        try:
            raise await self._refused(received, reply, len(body))
        finally:
            await received.close()

    def _body(self, request: Request, *, stream: bool) -> bytes:
        for message in request.messages:
            if message.role not in ROLES:
                raise LLMValidationError(
                    f"message role {message.role!r} is not one of {', '.join(ROLES)}",
                    code="validation.request",
                    next_step="use system, user or assistant",
                )
        wire = WIRES[self.provider.wire]
        document = wire.body(self.model, request, stream=stream, max_tokens=self.longest(request))
        if self.output_limit is not None and asked_output(request.params) is None:
            wire.limit(document, self.output_limit, own_service=self.provider.name == "openai")
        return written(document)

    def longest(self, request: Request) -> int:
        """The tokens that an answer may have: what is sent as its limit, else what the model can give."""
        if (asked := asked_output(request.params) or self.output_limit) is not None:
            return asked
        largest = largest_output({}, self.card)
        return min(largest, DEFAULT_OUTPUT) if self.provider.wire == "anthropic" else largest

    def _headers(self, terms: Terms) -> Headers:
        made = [
            (b"host", self._addresses[0].authority),
            (b"content-type", b"application/json"),
            (b"accept", b"text/event-stream" if terms.stream else b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"workbench"),
        ]
        if terms.idempotency_key:
            made.append((b"idempotency-key", terms.idempotency_key.encode()))
        if self.provider.wire == "anthropic":
            made.append((b"anthropic-version", VERSION.encode()))
        made.extend((name.encode(), value.encode()) for name, value in self.provider.headers.items())
        if self.key is not None and self.provider.auth != "none":
            bearer = self.provider.auth == "bearer"
            name = "authorization" if bearer else self.provider.auth
            made.append((name.encode(), self.key.header("Bearer " if bearer else "")))
        return made

    # -- reading

    def _document(self, raw: bytes, received: Received) -> Mapping[str, Any]:
        html = "html" in received.headers.get("content-type", "").lower()
        try:
            document = read_json(raw.removeprefix(BOM))
        except (ValueError, RecursionError) as error:
            without_body(error)
            what = "an HTML page" if html else f"{len(raw)} bytes that are no JSON"
            raise error_of("provider.malformed", f"{self.name} answered with {what}", retryable=not html) from error
        if not isinstance(document, dict):
            kind = type(document).__name__
            raise error_of("provider.malformed", f"{self.name} answered with a JSON {kind}, no object", retryable=False)
        return document

    async def _stream(
        self,
        received: Received,
        clock: Clock,
        limit: asyncio.Timeout,
        reply: Reply,
        on_text: Callable[[str], None],
    ) -> None:
        """Read a stream to its end, moving the limit of time on with every event."""
        if "event-stream" not in received.headers.get("content-type", "event-stream").lower():
            # A server that does not stream answers whole; read as such, not as a broken stream.
            clock.move(limit, first=False)
            WIRES[self.provider.wire].whole(self._document(await received.read(), received), reply)
            reply.events, reply.ended = 1, True
            self._scrub(reply)
            if verdict_on(reply, model=self.name, streamed=True) is None:
                on_text(clean_text(reply.whole))
            return
        events = EventStream(received.longest)
        chunks = received.chunks()
        size = 0
        async for chunk in chunks:
            before = reply.events
            for data in events.feed(chunk):
                size += self._event(data, clock, reply, on_text)
                if reply.ended or reply.error is not None:  # what follows is no part of the answer
                    clock.over()
                    await drained(chunks)
                    return
            if reply.complete:  # only the format's end is missing, and some servers never send it
                clock.over()
                clock.soon(limit, GRACE_S)
                continue
            if size > received.longest:
                raise error_of("provider.too_large", f"{self.name} has sent more than {received.longest} characters")
            if reply.events > before:
                clock.move(limit, first=not (reply.text or reply.thought))
        for data in events.close():
            if not (reply.ended or reply.error is not None):
                self._event(data, clock, reply, on_text, last=events.torn)

    def _event(
        self, data: bytes, clock: Clock, reply: Reply, on_text: Callable[[str], None], *, last: bool = False
    ) -> int:
        """Read one event; the number of characters that it adds to the answer."""
        if not data.strip() or (len(data) < 40 and b'"' not in data and b"{" not in data and b"[" not in data):
            return 0  # a sign of life
        if data.strip() == b"[DONE]" and self.provider.wire == "openai":
            reply.ended = True
            return 0
        try:
            document = read_json(data)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            if not last:  # what a broken connection has cut off is no event
                reply.broken += 1
                reply.torn = reply.torn or any(mark in data for mark in TEXT_MARKS)
            return 0
        reply.events += 1
        piece = WIRES[self.provider.wire].event(document, reply)
        if piece:
            clock.first()
            half, shown = halved(reply.held + piece)
            shown, begun = self.key.settled(shown) if self.key else (shown, "")
            reply.held = begun + half
            if shown:
                on_text(clean_text(shown))
        return len(piece)

    async def _refused(self, received: Received, reply: Reply, size: int) -> LLMError:
        """The error that a status other than 200 stands for, with the provider's own words, redacted and cut."""
        try:
            raw = await received.read()
        except LLMError:  # the status says enough
            raw = b""
        try:
            found = json.loads(raw.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            found = None
        document: Mapping[str, Any] = found if isinstance(found, dict) else {}
        words, said = error_fields(document) or ((), "")
        if not said and raw != b"null":  # no error object: the body in its own words
            said = found if isinstance(found, str) else raw[:2000].decode("utf-8", "replace")
        verdict = classify(
            received.status,
            words,
            received.headers,
            hint_s=duration_s(retry_delay(document)),
            now_unix_s=self.world.unix_ns() / 1e9,
        )
        return error_of(
            verdict.code,
            f"{self.name} answered {received.status}: {quoted(self._safe(said))}",
            retryable=verdict.retryable,
            billed=verdict.billed,
            retry_after_s=verdict.retry_after_s,
            status=received.status,
            request_id=reply.request_id,
            next_step=self._step(verdict.code, received.status, size),
        )

    def _step(self, code: str, status: int, size: int) -> str | None:
        """What to do, where it depends on the model; None for the code's own."""
        if code == "provider.auth":
            key = self.provider.key_env or self.provider.key_file or "key_env"
            return f"check {key} and that it may use {self.model}; see `workbench doctor`"
        if code == "provider.not_found":
            known = [n for n in self.cards if n.startswith(f"{self.provider.name}:") and n != self.name]
            near = closest(self.name, known)
            return f"did you mean {near!r}? Known: {', '.join(known[:3])} ... (`workbench models`)" if near else None
        if code == "provider.context_length":
            window = self.card.context_window
            return (
                f"~{size // 4} tokens were sent, {window or 'an unknown number'} fit: shorten the prompt "
                "(SemanticChunker) or use a larger context_window"
            )
        if status == 413:
            return f"the request has {size} bytes: shorten the messages, or split them (SemanticChunker)"
        return None

    def _safe(self, said: str) -> str:
        return redacted(self.key.scrub(said) if self.key else said)

    def _scrub(self, reply: Reply) -> None:
        """Take the key out of whatever a provider gives back, and what looks like one out of its errors."""
        if reply.error is not None:
            reply.error = (reply.error[0], self._safe(reply.error[1]))
        if self.key is None:
            return
        for name in ("request_id", "served_model", "finish"):
            if (value := getattr(reply, name)) is not None:
                setattr(reply, name, self.key.scrub(value))
        reply.text, reply.refusal = (
            [self.key.scrub("".join(said))] if said else [] for said in (reply.text, reply.refusal)
        )

    def _about(self, error: LLMError, request: Request, reply: Reply) -> LLMError:
        """The error with what is known of this model, of the answer so far, and of what it used."""
        self._scrub(reply)
        error.model = error.model or self.name
        error.partial = error.partial if error.partial is not None else reply.partial
        if getattr(error, "request_id", "") is None:
            error.request_id = reply.request_id  # type: ignore[attr-defined]
        if reply.partial or reply.usage != Usage():
            booked = self._booked(request, reply)
            error.usage, error.cost_usd = booked.usage, self.cost_usd(booked.usage, reply.served_model)
            error.possibly_billed = True  # whatever it says: it has worked
        return error

    # -- the answer

    def _response(self, request: Request, terms: Terms, clock: Clock, reply: Reply) -> Response:
        self._scrub(reply)
        failed = verdict_on(reply, model=self.name, streamed=terms.stream)
        if failed is not None:
            raise self._about(failed, request, reply)
        text = clean_text(reply.whole)
        booked = self._booked(request, reply)
        flags = list(booked.flags)
        if text.count("\ufffd") > reply.whole.count("\ufffd"):
            flags.append("text_replaced")
        if reply.redacted:
            flags.append("text_redacted")
        if reply.finish is not None and reply.finish not in ENDS:
            flags.append("finish_unknown")
        if reply.broken:
            flags.append("event_skipped")
        if self._is_another(reply.served_model):
            flags.append("model_mismatch")
        return Response(
            request_key=request.key,
            model=self.name,
            text=text,
            usage=booked.usage,
            latency_ms=clock.elapsed_ms,
            ttft_ms=clock.ttft_ms,
            cost_usd=self.cost_usd(booked.usage, reply.served_model),
            finish_reason=reply.finish or "stop",
            source="live",
            served_model=reply.served_model,
            request_id=reply.request_id,
            flags=tuple(flags),
        )

    def booked(self, request: Request, reported: Usage, text: str = "", total: int | None = None) -> Counted:
        """The usage to book for an answer, and what was unusual about the report."""
        limit = self.longest(request)
        return counted(reported, total, messages=request.messages, text=text, limit=limit, card=self.card)

    def _booked(self, request: Request, reply: Reply) -> Counted:
        return self.booked(request, reply.usage, reply.partial or "", reply.total_tokens)

    def _is_another(self, served: str | None) -> bool:
        """Whether another model answered; a dated, tagged or prefixed form of the name is the same one."""
        if served is None or served == self.model:
            return False
        asked, got = (_VERSION.sub("", n.lower().rpartition("/")[2]) for n in (self.model, served))
        return asked != got

    def cost_usd(self, usage: Usage, served: str | None) -> float | None:
        """US dollars for the usage, at the price of the model that served where it is known; None without a price."""
        known = self.cards.get(f"{self.provider.name}:{served}")
        prompt = usage.prompt_tokens or 0
        price = (price_of(known, prompt) if known is not None else None) or price_of(self.card, prompt)
        return None if price is None else price.cost_usd(**tokens_of(usage))
