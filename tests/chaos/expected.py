"""What a caller must see of every wire fault, written down from the fault catalogue, not from the lab's own table."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.act.provider import Wire

PROVIDER, LIMIT, TIMEOUT = "LLMProviderError", "LLMRateLimitError", "LLMTimeoutError"
# Class and code that the call of a single model ends with.
FAILS: Mapping[str, tuple[str, str]] = {
    "http-400": (PROVIDER, "provider.bad_request"),
    "http-400-context": (PROVIDER, "provider.context_length"),
    "http-401": (PROVIDER, "provider.auth"),
    "http-402": (PROVIDER, "provider.payment"),
    "http-403": (PROVIDER, "provider.auth"),
    "http-404": (PROVIDER, "provider.not_found"),
    "http-413": (PROVIDER, "provider.bad_request"),
    "http-422": (PROVIDER, "provider.bad_request"),
    "http-429-plain": (LIMIT, "rate_limit"),
    "http-429-negative": (LIMIT, "rate_limit"),
    "http-429-huge": (LIMIT, "rate_limit"),
    "http-429-quota": (LIMIT, "rate_limit.quota"),
    "http-429-storm": (LIMIT, "rate_limit"),
    "http-500-always": (PROVIDER, "provider.server"),
    "http-502-html": (PROVIDER, "provider.server"),
    "http-504": (PROVIDER, "provider.server"),
    "http-529": (PROVIDER, "provider.overloaded"),
    "http-redirect": (PROVIDER, "provider.redirect"),
    "http-200-error": (PROVIDER, "provider.server"),
    "net-refused": (PROVIDER, "provider.connection"),
    "net-dns": (PROVIDER, "provider.dns"),
    "net-tls": (PROVIDER, "provider.tls"),
    "net-tls-plain": (PROVIDER, "provider.tls"),
    "net-reset-head": (PROVIDER, "provider.connection"),
    "net-reset-body": (PROVIDER, "provider.connection"),
    "net-fin-body": (PROVIDER, "provider.connection"),
    "net-stall-head": (TIMEOUT, "timeout.deadline"),
    "net-stall-body": (TIMEOUT, "timeout.deadline"),
    "net-drip": (TIMEOUT, "timeout.deadline"),
    "net-garbage": (PROVIDER, "provider.protocol"),
    "net-gzip-bomb": (PROVIDER, "provider.too_large"),
    "body-truncated": (PROVIDER, "provider.malformed"),
    "body-html": (PROVIDER, "provider.malformed"),
    "body-empty": (PROVIDER, "provider.malformed"),
    "body-badutf8": (PROVIDER, "provider.malformed"),
    "body-array": (PROVIDER, "provider.malformed"),
    "reply-no-choices": (PROVIDER, "provider.empty"),
    "reply-empty-choices": (PROVIDER, "provider.empty"),
    "reply-null-content": (PROVIDER, "provider.empty"),
    "reply-refusal": (PROVIDER, "provider.refusal"),
    "reply-tools": (PROVIDER, "provider.empty"),
    "reply-filter": (PROVIDER, "provider.content_filter"),
    "reply-no-message": (PROVIDER, "provider.empty"),
    "sse-no-done": (PROVIDER, "provider.truncated"),
    "sse-reset": (PROVIDER, "provider.connection"),
    "sse-stall": (TIMEOUT, "timeout.idle"),
    "sse-endless": (TIMEOUT, "timeout.deadline"),
    "sse-error-mid": (PROVIDER, "provider.overloaded"),
    "sse-bad-json": (PROVIDER, "provider.malformed"),
    "sse-nothing": (PROVIDER, "provider.empty"),
}
# Faults that pass, or are none for a careful client: how many attempts the call takes at most.
PASSES: Mapping[str, int] = {
    "http-408": 3,
    "http-409": 2,
    "http-429-seconds": 2,
    "http-429-date": 2,
    "http-500": 3,
    "http-503-ra": 2,
    "net-keepalive-lie": 2,
    "body-10mb": 1,
    "reply-length": 1,
    "reply-no-usage": 1,
    "reply-usage-negative": 1,
    "reply-usage-absurd": 1,
    "reply-wrong-model": 1,
    "reply-dup-id": 1,
    "reply-surrogate": 1,
    "reply-nul": 1,
    "reply-special-token": 1,
    "sse-split-utf8": 1,
    "sse-crlf": 1,
    "sse-usage-last": 1,
}
# What the fault itself adds to the text, as the caller must see it.
TAILS: Mapping[str, str] = {
    "reply-surrogate": " \ufffd",
    "reply-nul": " a\0b",
    "reply-special-token": " <|endoftext|>",
    "sse-split-utf8": " café",
}
WHOLE_ONLY = {"net-reset-body", "net-fin-body", "net-stall-body", "net-keepalive-lie"}
STREAM_ONLY = {
    "sse-no-done", "sse-reset", "sse-stall", "sse-endless", "sse-error-mid", "sse-bad-json", "sse-nothing",
    "sse-split-utf8", "sse-crlf", "sse-usage-last",
}  # fmt: skip
WIRES_OF: Mapping[str, tuple[Wire, ...]] = {
    "http-400-context": ("openai",),
    "http-429-quota": ("openai",),
    "reply-refusal": ("openai", "anthropic"),
    "reply-filter": ("openai", "gemini"),
}
# An address with the fault: nothing ever arrives at the lab.
ADDRESSES = ("net-refused", "net-dns", "net-tls", "net-tls-plain")
# Any model would refuse the request, or its content: nobody else may be asked.
REQUEST_SCOPED = {"http-400", "http-400-context", "http-413", "http-422", "reply-refusal", "reply-filter"}
# The time is up with the first model: nothing is left for another.
TAKES_ALL_TIME = {"sse-endless"}
# Pieces have been handed out by then: nobody may take over in the middle of a text.
SHOWN = {"sse-no-done", "sse-reset", "sse-stall", "sse-endless", "sse-error-mid", "sse-bad-json"}
# The fault is in the text itself.
OWN_WORDS = {"sse-endless", "reply-refusal"}
# Seconds that a cell of a passing fault must take at least: the provider has asked for them.
WAITS_S: Mapping[str, float] = {"http-429-seconds": 1.0, "http-429-date": 0.9, "http-503-ra": 1.0}
# Ends with the deadline, to which a single call takes the whole of its time.
DEADLINE = {"net-stall-head", "net-stall-body", "net-drip", "sse-endless"}
# So much work for both sides that they would hold up the others: run by themselves.
HEAVY = {"body-10mb", "net-gzip-bomb", "sse-endless"}
EVERY = (*FAILS, *PASSES)


def forms_of(fault: str) -> tuple[bool, ...]:
    """Whether it can be provoked on a whole answer (False), on a stream (True), or on both."""
    return tuple(form for form in (False, True) if fault not in (WHOLE_ONLY if form else STREAM_ONLY))


def wires_of(fault: str) -> tuple[Wire, ...]:
    """The formats in which it makes sense; an address with a fault speaks OpenAI's."""
    if fault in ADDRESSES:
        return ("openai",)
    return WIRES_OF.get(fault, ("openai", "anthropic", "gemini"))
