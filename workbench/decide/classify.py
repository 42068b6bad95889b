"""What a provider's refusal means, as data: (status, typed codes of the body, headers) -> code and what follows.

Two tables. RULES maps what was received to one of our codes, CODES says for each code which error it is, whether
the same request may succeed later, whom it concerns, and whether the attempt may have been billed. Only fields with
a closed set of values are read: message texts are written for people, change without notice and quote the prompt.

Sources of the codes: the error references of OpenAI, Anthropic, Google (google.rpc.Code) and AWS Bedrock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from types import MappingProxyType
from typing import Any, Literal

from workbench.errors import LLMError, LLMProviderError, LLMRateLimitError, LLMTimeoutError, LLMValidationError

Scope = Literal["request", "content", "context", "account", "model", "caller"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What one code means.

    scope: whom it concerns. `request`: any model would refuse it. `content`: a filter or a refusal. `context`: any
        model with no larger window. `account`: this model or key, until somebody acts. `model`: this model, for now.
        `caller`: us. Failover follows from it.
    billed: the provider may have done the work, and may charge for it.
    charged: it counts as a failure of the model's circuit breaker.
    """

    error: type[LLMError] = LLMProviderError
    retryable: bool = False
    scope: Scope = "model"
    billed: bool = False
    charged: bool = True
    next_step: str


CODES: Mapping[str, Code] = MappingProxyType(
    {
        "provider.bad_request": Code(
            scope="request", charged=False, next_step="change the parameter that the message names"
        ),
        "provider.context_length": Code(
            scope="context",
            charged=False,
            next_step="shorten or chunk the prompt, lower max_tokens, or use a model with a larger context_window",
        ),
        "provider.content_filter": Code(
            scope="content", charged=False, next_step="rephrase, or set failover_on_content_filter = true"
        ),
        "provider.refusal": Code(
            scope="content",
            billed=True,
            charged=False,
            next_step="the model declined: rephrase, or ask another model; .partial has its words",
        ),
        "provider.auth": Code(
            scope="account", charged=False, next_step="check the key and its permissions; see `workbench doctor`"
        ),
        "provider.payment": Code(
            scope="account", charged=False, next_step="top up the account, or take the model out of the run"
        ),
        "provider.not_found": Code(
            scope="account", charged=False, next_step="check the model's name and base_url: `workbench config show`"
        ),
        "rate_limit": Code(
            error=LLMRateLimitError,
            retryable=True,
            charged=False,  # a 4xx: the service is well, we are too many
            next_step="lower concurrency or requests_per_minute, or wait for retry_after_s",
        ),
        "rate_limit.quota": Code(
            error=LLMRateLimitError,
            scope="account",
            charged=False,
            next_step="raise the quota or top up the account; waiting does not help",
        ),
        "rate_limit.local": Code(
            error=LLMRateLimitError,
            scope="caller",
            charged=False,
            retryable=True,
            next_step="raise requests_per_minute or tokens_per_minute, or lower the concurrency",
        ),
        "budget.exceeded": Code(
            error=LLMValidationError,
            charged=False,
            next_step="raise the budget, lower max_tokens, or use a cheaper model",
        ),
        "budget.unknown_price": Code(
            error=LLMValidationError,
            charged=False,
            next_step="give the model's prices, or set allow_unknown_price = true",
        ),
        "provider.conflict": Code(retryable=True, next_step="ask again; raise max_retries if it stays"),
        "provider.server": Code(retryable=True, next_step="raise max_retries, or name another model under [failover]"),
        "provider.overloaded": Code(
            retryable=True, next_step="name another model under [failover], or lower the concurrency"
        ),
        "provider.redirect": Code(
            scope="account", charged=False, next_step="set base_url to the address that answers itself"
        ),
        "provider.connection": Code(
            retryable=True, billed=True, next_step="check base_url and the network; raise max_retries"
        ),
        "provider.dns": Code(scope="account", next_step="check the host name in base_url"),
        "provider.tls": Code(
            scope="account", next_step="check the certificate and base_url; set SSL_CERT_FILE for your own"
        ),
        "provider.protocol": Code(
            retryable=True, billed=True, next_step="check that base_url is an HTTP service of this wire format"
        ),
        "provider.too_large": Code(billed=True, next_step="raise max_response_bytes, or lower max_tokens"),
        "provider.malformed": Code(
            retryable=True, billed=True, next_step="check base_url: a proxy, a portal or another service has answered"
        ),
        "provider.truncated": Code(
            retryable=True, billed=True, next_step="ask again; .partial has what arrived before the stream ended"
        ),
        "provider.empty": Code(
            retryable=True, billed=True, next_step="ask again or raise max_tokens: the answer has no text"
        ),
        "timeout.deadline": Code(
            error=LLMTimeoutError, retryable=True, billed=True, next_step="raise timeout_s, or use a faster model"
        ),
        "timeout.attempt": Code(
            error=LLMTimeoutError, retryable=True, billed=True, next_step="raise timeout_s, or set stream = true"
        ),
        "timeout.first_token": Code(
            error=LLMTimeoutError, retryable=True, billed=True, next_step="raise first_token_s, or use a faster model"
        ),
        "timeout.idle": Code(
            error=LLMTimeoutError, retryable=True, billed=True, next_step="raise idle_s, or use a faster model"
        ),
        "validation.request": Code(
            error=LLMValidationError, scope="request", charged=False, next_step="correct the messages or params"
        ),
    }
)
UNKNOWN = Code(billed=True, next_step="read the cause; report it with the trace id if it stays")
# Ours to refuse, before anything is sent.
CALLER = Code(error=LLMValidationError, scope="caller", charged=False, next_step="correct the named argument")
CALLERS = ("validation.", "budget.", "security.", "replay.", "rate_limit.local")


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: statuses and typed codes that it takes (empty takes all), and what they mean.

    retryable, billed: where they differ from the code's own.
    """

    statuses: frozenset[int]
    words: frozenset[str]
    code: str
    retryable: bool | None = None
    billed: bool | None = None


def _rule(
    statuses: Iterable[int], words: str, code: str, *, retryable: bool | None = None, billed: bool | None = None
) -> Rule:
    return Rule(frozenset(statuses), frozenset(words.split()), code, retryable, billed)


_ANY: tuple[int, ...] = ()
_REFUSED = range(400, 500)
_CONTEXT = "context_length_exceeded exceed_context_size_error string_above_max_length request_too_large_for_model"
_FILTER = (
    "content_policy_violation content_filter responsibleaipolicyviolation safety prohibited_content moderation_blocked"
)
_QUOTA = "insufficient_quota billing_hard_limit_reached quota_exceeded billing_not_active access_terminated"
_LIMIT = "rate_limit_error rate_limit_exceeded resource_exhausted throttlingexception toomanyrequestsexception"
_AUTH = (
    "authentication_error invalid_api_key permission_error permission_denied unauthenticated api_key_invalid "
    "no_db_connection "  # how LiteLLM's proxy without a database refuses a key
    "accessdeniedexception unrecognizedclientexception"
)
_OVERLOAD = "overloaded_error overloaded slow_down engine_overloaded"
_SERVER = (
    "server_error internal_server_error internalservererror internalservererrorexception api_error internal "
    "unavailable "
    "timeout_error deadline_exceeded serviceunavailable serviceunavailableexception internalserverexception "
    "modeltimeoutexception service_unavailable unknown_error"
)
_BAD = (
    "invalid_request_error invalid_argument validationexception invalid_prefill failed_precondition out_of_range "
    "bad_request unprocessable_entity"
)

# The first row that fits decides. Codes refine a status of their own family; otherwise the status wins: a proxy
# that wraps a 404 into `api_error` has still not found the model.
RULES: tuple[Rule, ...] = (
    _rule((*_REFUSED, 500, 200), _CONTEXT, "provider.context_length"),
    _rule((400, 403, 422, 451, 200), _FILTER, "provider.content_filter"),
    _rule((400, 402, 403, 429, 200), _QUOTA, "rate_limit.quota"),
    _rule((400, 401, 403, 200), _AUTH, "provider.auth"),
    _rule((400, 429, 503, 200), _LIMIT, "rate_limit"),
    _rule((400, 429, 500, 502, 503, 529, 200), _OVERLOAD, "provider.overloaded"),
    _rule((400, 200), "insufficient_funds billing_error payment_required", "provider.payment"),
    _rule((400, 200), "model_not_found not_found_error not_found resourcenotfoundexception", "provider.not_found"),
    _rule((200,), _BAD, "provider.bad_request"),
    _rule((200,), _SERVER, "provider.server"),
    _rule((400,), "serviceunavailable serviceunavailableexception", "provider.server"),
    _rule((401, 403), "", "provider.auth"),
    _rule((402,), "", "provider.payment"),
    _rule((404, 410), "", "provider.not_found"),
    # A gateway that gave up waiting does not know what became of the request.
    _rule((408, 504, 524), "", "provider.server", billed=True),
    _rule((425,), "", "provider.server"),
    _rule((409,), "", "provider.conflict"),
    _rule((429,), "", "rate_limit"),
    _rule((451,), "", "provider.content_filter"),
    _rule((529,), "", "provider.overloaded"),
    _rule((501, 505), "", "provider.server", retryable=False),
    _rule(range(400, 500), "", "provider.bad_request"),
    _rule(range(500, 600), "", "provider.server"),
    _rule(range(300, 400), "", "provider.redirect"),
    _rule(range(201, 300), "", "provider.malformed"),
    # An error inside a 200 of which nothing is known: not retried, for nothing says that it can heal.
    _rule((200,), "", "provider.server", retryable=False),
    _rule(_ANY, "", "provider.protocol"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a provider's refusal means."""

    code: str
    retryable: bool
    billed: bool = False
    retry_after_s: float | None = None

    @property
    def meaning(self) -> Code:
        """The row of CODES."""
        return CODES[self.code]


def meaning_of(code: str) -> Code:
    """What a code means; for codes of others, which the tables do not know, the cautious reading."""
    return CODES.get(code) or (CALLER if code.startswith(CALLERS) else UNKNOWN)


def error_of(
    code: str,
    message: str,
    *,
    retryable: bool | None = None,
    billed: bool | None = None,
    retry_after_s: float | None = None,
    status: int | None = None,
    request_id: str | None = None,
    next_step: str | None = None,
    **context: Any,
) -> LLMError:
    """The error that a code stands for, not raised; what is not given comes from the code's row."""
    meaning = CODES[code]
    if issubclass(meaning.error, LLMProviderError):
        context |= {"status": status, "request_id": request_id}
    if issubclass(meaning.error, LLMRateLimitError):
        context["retry_after_s"] = retry_after_s
    error = meaning.error(
        message,
        code=code,
        retryable=meaning.retryable if retryable is None else retryable,
        possibly_billed=meaning.billed if billed is None else billed,
        next_step=(next_step or meaning.next_step)[:160],
        **context,
    )
    if retry_after_s is not None and not hasattr(error, "retry_after_s"):
        error.retry_after_s = retry_after_s  # type: ignore[attr-defined]
    return error


def classify(
    status: int,
    words: Iterable[object] = (),
    headers: Mapping[str, str] = MappingProxyType({}),
    *,
    hint_s: float | None = None,
    now_unix_s: float = 0.0,
) -> Verdict:
    """The verdict on an answer that is no success.

    status: of HTTP; 200 for an error inside a successful answer or stream.
    words: values of the body's typed fields (`code`, `type`, `status`, `reason`), of any type; the first that a row
        knows decides. A number from 400 to 599 among them, also as digits, stands for the status of an error
        inside a 200. headers: with lower-case names. hint_s: seconds to wait that the body names in a typed field.
    now_unix_s: wall clock, for a Retry-After that is a date.
    """
    typed = [_word(word) for word in words if isinstance(word, str) or (isinstance(word, int) and 99 < word < 10_000)]
    if status == 200:  # noqa: SIM102 - two questions
        if inner := next((int(w) for w in typed if w.isascii() and w.isdigit() and 400 <= int(w[:4]) <= 599), None):
            status = inner
    known = frozenset(typed)
    rule = next(r for r in RULES if (not r.statuses or status in r.statuses) and (not r.words or r.words & known))
    retryable = CODES[rule.code].retryable if rule.retryable is None else rule.retryable
    if headers.get("x-should-retry", "").strip().lower() == "false":
        retryable = False
    waits = retryable or CODES[rule.code].error is LLMRateLimitError
    after = retry_after_s(headers, now_unix_s=now_unix_s) if waits else None
    return Verdict(
        code=rule.code,
        retryable=retryable,
        billed=CODES[rule.code].billed if rule.billed is None else rule.billed,
        retry_after_s=hint_s if after is None and waits else after,
    )


def _word(word: str | int) -> str:
    # Codes are short; whatever is longer is prose in the wrong place.
    return str(word)[:64].strip().lower().rpartition("#")[2].rpartition(".")[2]


_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_UNITS = re.compile(r"(?:([0-9]{1,4})h)?(?:([0-9]{1,5})m(?!s))?(?:([0-9]{1,7}(?:\.[0-9]{1,9})?)s)?(?:([0-9]{1,9})ms)?")


def retry_after_s(headers: Mapping[str, str], *, now_unix_s: float) -> float | None:
    """Seconds that the headers ask to wait, >= 0; None where they do not or cannot be read.

    Read in this order: `retry-after-ms` and `x-ms-retry-after-ms` (milliseconds), `retry-after` as seconds, as a
    duration such as `1m30s`, or as an HTTP date (RFC 9110, section 10.2.3); LiteLLM's proxy hands a provider's own
    headers on under the prefix `llm_provider-`. Negative and unreadable values count as none. Only ASCII digits are
    numbers here: `float` would also take nan, inf and the digits of other scripts.
    """
    for name in ("retry-after-ms", "x-ms-retry-after-ms", "llm_provider-retry-after-ms"):
        value = headers.get(name, "").strip()
        if _SECONDS.fullmatch(value):
            return float(value) / 1e3
    for name in ("retry-after", "llm_provider-retry-after"):
        if (found := duration_s(headers.get(name, ""), now_unix_s=now_unix_s)) is not None:
            return found
    return None


def duration_s(text: object, *, now_unix_s: float | None = None) -> float | None:
    """Seconds in a text such as `2`, `34.5s`, `1m30s`, or until an HTTP date; None where it is none of them."""
    if not isinstance(text, str) or not (value := text.strip()) or len(value) > 64:
        return None
    if _SECONDS.fullmatch(value):
        return float(value)
    if found := _UNITS.fullmatch(value):
        hours, minutes, seconds, millis = (float(part or 0) for part in found.groups())
        return hours * 3600 + minutes * 60 + seconds + millis / 1e3
    if now_unix_s is None:
        return None
    try:
        parsed = parsedate_tz(value)
        if parsed is None or not (0 < parsed[2] < 32 and parsed[3] < 24 and parsed[4] < 60 and parsed[5] <= 60):
            return None  # the library carries a 99th of November over into the next year
        return max(mktime_tz(parsed) - now_unix_s, 0.0)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
