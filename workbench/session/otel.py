"""Spans of the log sent to an OTLP/HTTP receiver: each once, and none noted as sent before it was taken.

What is sent stands in record/otel.py. Nothing of the environment is used unasked: headers come from the one variable
that the caller names, and neither they nor a query of the address are ever shown.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from workbench.act.aggregate import ErrorAggregator
from workbench.act.http import Address, Headers, Http
from workbench.act.safety import safe_execute
from workbench.act.secret import REDACTED, Secret
from workbench.act.world import MemorySink, World
from workbench.canonical import clean_text, redacted
from workbench.decide.retry import checked
from workbench.errors import LLMError, LLMProviderError, LLMTimeoutError, LLMValidationError
from workbench.facts import Fact
from workbench.record.otel import EXACT, SEMCONV
from workbench.record.otlp import CONTENT_TYPE, Encoder, rejected
from workbench.record.outbox import Outbox, outbox, read_spans, waiting
from workbench.session.bridge import run_sync
from workbench.session.providers import check_url, is_loopback
from workbench.study.table import find_run

if TYPE_CHECKING:
    from workbench.record.log import Log
    from workbench.record.otel import OtelSpan

PATH = "/v1/traces"
PAGE = 4096  # spans read at once
BATCH = 512  # spans in one request
MAX_BATCH_BYTES = 4 * 2**20  # what receivers take by default, in their smallest setting
BUSY = (429, 502, 503, 504)  # the statuses that OTLP/HTTP names for trying again
UNFIT = (400, 413)  # statuses that one span may be the reason for
MOST_UNFIT = 32  # spans refused so by themselves, one after another, before it is taken to be about all of them
SHORTEST = 4  # characters of a header's value that is taken out of an answer
OURS = ("host", "content-length", "content-type", "content-encoding", "transfer-encoding")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SCHEME = re.compile(r"[A-Za-z0-9-]{0,20}")  # Bearer, Basic, Api-Token; or nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A header whose value is secret, but for the word that may stand before the key, such as `Bearer `."""

    name: str
    scheme: str
    secret: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class SentSpans:
    """What one sending did: spans sent now, taken before, and left out because no receiver could take them.

    requests: how many it took. semconv: version of the semantic conventions. texts: whether prompts and answers went.
    """

    endpoint: str
    sent: int
    before: int
    unsendable: int
    requests: int
    texts: bool
    semconv: str = SEMCONV

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        odd = f", {self.unsendable} left out (ids or times that OpenTelemetry cannot carry)" if self.unsendable else ""
        return f"{self.sent} spans sent to {self.endpoint}, {self.before} were there before{odd}"


async def send_spans(
    log: Log,
    endpoint: str,
    *,
    run_id: str | None = None,
    since_unix_ns: int | None = None,
    texts: bool = False,
    again: bool = False,
    headers_env: str | None = None,
    timeout_s: float = 30.0,
    max_retries: int = 3,
    world: World | None = None,
    http: Http | None = None,
    environ: Mapping[str, str] | None = None,
) -> SentSpans:
    """Send the log's spans to an OTLP/HTTP receiver, oldest first; those that it has taken before are left out.

    endpoint: http(s)://HOST[:PORT][/PATH]; /v1/traces is added. run_id: of one run only, "latest" for the newest.
    since_unix_ns: only what began then or later. texts: prompts and answers too; by default none leave the machine.
    again: also those that were taken before. headers_env: name of the variable with `NAME=VALUE[,NAME=VALUE]`,
    percent-encoded, as OTEL_EXPORTER_OTLP_HEADERS has them. timeout_s: for one request with its retries.
    environ: default os.environ.
    Raises LLMError setup.extra, otel.busy, storage.*; LLMValidationError security.url, validation.config,
    run.unknown; LLMProviderError otel.unreachable, otel.refused, otel.rejected; LLMTimeoutError otel.timeout. Spans
    of requests that were taken before an error stay noted as sent, so that the next call goes on from there; for
    otel.rejected these are all but those that the receiver does not take by themselves either.
    """
    checked("timeout_s", timeout_s, positive=True)
    _check_since(since_unix_ns)
    encoder = Encoder()
    receiver = Receiver(
        endpoint,
        headers=headers_of(headers_env, os.environ if environ is None else environ),
        http=http or Http(max_response_bytes=2**20),
        world=replace(world or World.real(MemorySink()), sink=_Nowhere()),
        timeout_s=timeout_s,
        max_retries=max_retries,
    )
    run = None if run_id is None else str(find_run(log, run_id)["run_id"])
    try:
        with outbox(log.folder, receiver.address.text) as box:
            taken = box.taken()
            ids, before, odd = waiting(log, taken[:0] if again else taken, run_id=run, since_unix_ns=since_unix_ns)
            known = {int(n) for n in taken} if again else set()
            sending = _Sending(receiver, encoder, box, known)
            for page in _cut(ids, PAGE):
                for batch in _cut(read_spans(log, page, texts=texts), BATCH):
                    await sending.send(batch)
            sending.check()
    finally:
        await receiver.http.aclose()
    return SentSpans(
        endpoint=receiver.shown, sent=sending.sent, before=before, unsendable=odd, requests=sending.requests,
        texts=texts,
    )  # fmt: skip


def send_spans_sync(log: Log, endpoint: str, **options: Any) -> SentSpans:
    """`send_spans` from synchronous code; works inside a running event loop too."""
    return run_sync(send_spans(log, endpoint, **options))


class Receiver:
    """An OTLP/HTTP receiver of traces at an address, asked with the given headers.

    shown: its address as messages name it. Raises LLMValidationError security.url for an address that cannot be
    used, or to which headers would travel unencrypted.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        headers: Sequence[Header],
        http: Http,
        world: World,
        timeout_s: float,
        max_retries: int,
    ) -> None:
        self.address = _address(endpoint, keyed=bool(headers))
        host = f"[{self.address.host}]" if ":" in self.address.host else self.address.host
        self.shown = f"{self.address.scheme}://{host}:{self.address.port}{self.address.parsed.path}"
        self.http = http
        self._secrets = [header.secret for header in headers]
        self._headers: Headers = [
            (b"host", self.address.authority),
            (b"content-type", CONTENT_TYPE.encode()),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"workbench"),
            *((header.name.encode(), header.secret.header(header.scheme)) for header in headers),
        ]
        self._world, self._timeout_s, self._max_retries = world, timeout_s, max_retries
        self._errors = ErrorAggregator()

    async def take(self, body: bytes, spans: int) -> tuple[int, str]:
        """Send a request; how many of its spans the receiver rejected, and its words. Raises as `send_spans` does."""
        try:
            return await safe_execute(
                partial(self._post, body),
                "otel",
                "send",
                timeout=self._timeout_s,
                max_retries=self._max_retries,
                aggregator=self._errors,
                world=self._world,
            )
        except LLMTimeoutError as error:
            raise LLMTimeoutError(
                f"{self.shown} did not take {spans} spans within {self._timeout_s:g} s",
                code="otel.timeout",
                next_step="look at the receiver, raise timeout_s (--timeout), and call it again: it goes on from here",
            ) from error

    async def _post(self, body: bytes) -> tuple[int, str]:
        try:
            received = await self.http.post(self.address, self._headers, body)
            try:
                answer = await received.read()
            finally:
                await received.close()
        except LLMValidationError:
            raise
        except LLMError as error:
            raise LLMProviderError(
                f"{self.shown} could not be reached: {redacted(self._safe(error.message))}",
                code="otel.unreachable",
                retryable=error.retryable,
                next_step="start a collector with an OTLP/HTTP receiver there, or name another with --endpoint",
            ) from error
        if not 200 <= received.status < 300:
            raise self._refused(received.status, received.headers, answer)
        count, why = rejected(answer)
        return count, self._quoted(why)

    def _refused(self, status: int, headers: Mapping[str, str], answer: bytes) -> LLMProviderError:
        said = self._quoted(answer[:2000].decode("utf-8", "replace"))
        step = f"check the path: OTLP/HTTP receivers take traces at {PATH}, usually on port 4318"
        if status in (401, 403):
            step = "put the receiver's header into a variable, NAME=VALUE, and name it in headers_env (--headers-env)"
        elif status in BUSY:
            step = "wait until the receiver is ready, and call it again: it goes on from here"
        elif status == 413:
            step = "raise the receiver's limit of bytes for a request (max_request_body_size)"
        elif 300 <= status < 400:
            step = "name the address that it redirects to in --endpoint; headers are sent to no other"
        error = LLMProviderError(
            f"{self.shown} answered {status}{f': {said}' if said else ''}",
            code="otel.refused",
            status=status,
            retryable=status in BUSY,
            next_step=step,
        )
        wait = headers.get("retry-after", "")
        if wait.isascii() and wait.isdigit() and len(wait) < 6:
            error.retry_after_s = float(wait)  # type: ignore[attr-defined]  # read by the retry policy
        return error

    def _safe(self, text: str) -> str:
        """The text without the values of the headers, also those so short that a text may have them by chance."""
        for secret in self._secrets:
            text, value = secret.scrub(text), secret.reveal()
            forms = {value, quote(value, safe=""), json.dumps(value)[1:-1]} if len(value) >= SHORTEST else set()
            for form in sorted(forms, key=len, reverse=True):
                text = re.sub(re.escape(form), REDACTED, text, flags=re.I)
        return text

    def _quoted(self, text: str) -> str:
        """A receiver's words on one line, without the headers that it may have echoed."""
        plain = "".join(ch if ch.isprintable() else " " for ch in clean_text(text))
        return " ".join(redacted(self._safe(plain)).split())[:200]


class _Sending:
    """Spans on their way to a receiver, with what it has taken of them and what it has not.

    A refusal does not say which span it means: the request is halved until that one stands alone.
    """

    def __init__(self, receiver: Receiver, encoder: Encoder, box: Outbox, known: set[int]) -> None:
        self.sent = self.requests = 0
        self._receiver, self._encoder, self._box, self._known = receiver, encoder, box, known
        self._rejected: list[int] = []
        self._why: str | LLMProviderError = ""
        self._in_a_row = 0

    async def send(self, spans: Sequence[OtelSpan]) -> None:
        """Send the spans and note those that were taken; raises as `send_spans` does, but for rejected spans."""
        for body, part in _bodies(self._encoder, spans):
            await self._take(body, part)

    async def _take(self, body: bytes, spans: Sequence[OtelSpan]) -> None:
        self.requests += 1
        try:
            count, why = await self._receiver.take(body, len(spans))
        except LLMProviderError as error:
            if error.status not in UNFIT or self._in_a_row >= MOST_UNFIT:
                raise
            count, self._why = 1, error
            self._in_a_row += len(spans) == 1
        else:
            self._why = why or self._why
        if not count:
            self._box.add(span.span_id for span in spans if span.span_id not in self._known)
            self.sent, self._in_a_row = self.sent + len(spans), 0
        elif count >= len(spans):
            self._rejected += [span.span_id for span in spans]
        else:
            half = len(spans) // 2
            await self.send(spans[:half])
            await self.send(spans[half:])

    def check(self) -> None:
        """Nothing; LLMProviderError otel.rejected when spans were left over, otel.refused when nothing was taken."""
        if not self._rejected:
            return
        if isinstance(self._why, LLMProviderError) and not self.sent:
            raise self._why
        why = self._why.message if isinstance(self._why, LLMProviderError) else self._why or "it does not say why"
        first = ", ".join(f"{n:016x}" for n in self._rejected[:3]) + (" ..." if len(self._rejected) > 3 else "")
        every = self.sent + len(self._rejected)
        raise LLMProviderError(
            f"{self._receiver.shown} rejected {len(self._rejected)} of {every} spans ({first}): {why}",
            code="otel.rejected",
            retryable=False,
            next_step=f"sent {self.sent} of {every}; the rejected are tried again next time, or leave them behind "
            "with --since",
        )


class _Nowhere:
    """A sink that keeps nothing: sending spans must not make more of them."""

    def write(self, *facts: Fact) -> None:
        """Drop the facts."""


def _cut(things: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (things[at : at + size] for at in range(0, len(things), size))


def _bodies(encoder: Encoder, spans: Sequence[OtelSpan]) -> Iterator[tuple[bytes, Sequence[OtelSpan]]]:
    """The spans as requests of a size that receivers take; one span may be larger, and goes alone."""
    body = encoder.encode(spans)
    if len(body) <= MAX_BATCH_BYTES or len(spans) == 1:
        yield body, spans
        return
    half = len(spans) // 2
    yield from _bodies(encoder, spans[:half])
    yield from _bodies(encoder, spans[half:])


def _check_since(since_unix_ns: int | None) -> None:
    if since_unix_ns is not None and (not isinstance(since_unix_ns, int) or since_unix_ns not in EXACT):
        raise LLMValidationError(
            f"since_unix_ns={since_unix_ns!r:.40} is no time in whole nanoseconds that the log can hold",
            code="validation.config",
            next_step="name nanoseconds since 1970 below 2**63, or leave it out",
        )


def _address(endpoint: str, *, keyed: bool) -> Address:
    try:
        parts = check_url(str(endpoint).strip(), "the endpoint")
        if parts.port == 0:
            raise LLMValidationError("the endpoint names port 0, on which nobody listens", code="security.url")
    except LLMValidationError as error:
        raise LLMValidationError(
            error.message,
            code=error.code,
            next_step="write it as http://127.0.0.1:4318 or https://HOST/PATH; headers go to --headers-env",
        ) from None
    if keyed and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise LLMValidationError(
            "the endpoint is not encrypted, and the headers would be sent to it over the network in the clear",
            code="security.url",
            next_step="use https:// in --endpoint, or leave --headers-env out",
        )
    path = parts.path.rstrip("/")
    return Address(f"{parts.scheme}://{parts.netloc}{path if path.endswith(PATH) else path + PATH}")


def headers_of(name: str | None, environ: Mapping[str, str]) -> list[Header]:
    """The headers that the named variable holds, `NAME=VALUE[,NAME=VALUE]`, percent-encoded; none without a name.

    Raises LLMValidationError validation.config, which names the variable and the entry and shows no value.
    """
    if name is None:
        return []
    if not environ.get(name, "").strip():
        raise LLMValidationError(
            f"headers are to come from the environment variable {redacted(name)!r:.80}, which is not set",
            code="validation.config",
            next_step="set it to NAME=VALUE[,NAME=VALUE], or leave headers_env (--headers-env) out",
        )
    return [_header(name, number, pair) for number, pair in enumerate(environ[name].split(","), 1)]


def _header(variable: str, number: int, pair: str) -> Header:
    name, equals, value = pair.strip().partition("=")
    name = name.strip().lower()
    scheme, space, key = unquote(value.strip()).rpartition(" ")
    if not equals or not _HEADER.fullmatch(name) or name in OURS:
        raise _bad_headers(variable, f"entry {number} is not NAME=VALUE with the name of a header that may be set")
    if not _SCHEME.fullmatch(scheme):
        raise _bad_headers(variable, f"the value of entry {number} is more than a key after the word for its kind")
    try:
        return Header(name=name, scheme=scheme + space, secret=Secret(key, origin=f"{variable}, entry {number},"))
    except LLMValidationError as error:
        raise _bad_headers(variable, error.message) from None


def _bad_headers(name: str, what: str) -> LLMValidationError:
    return LLMValidationError(
        f"the headers in {name} cannot be used: {what}",
        code="validation.config",
        next_step="write NAME=VALUE[,NAME=VALUE], values percent-encoded: authorization=Bearer%20KEY",
    )
