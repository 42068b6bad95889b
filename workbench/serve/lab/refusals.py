"""The faults of the layer http: statuses, and what their headers ask for."""

from __future__ import annotations

from email.utils import formatdate

from workbench.serve.lab.fault import Fault, Script, Shot, ident_of, refused
from workbench.serve.lab.shapes import problem
from workbench.serve.lab.steps import Answer, reply

PAGE = b"<!doctype html><html><head><title>502</title></head><body><h1>Bad Gateway</h1>" + b"<hr>" * 80 + b"</body>"


def _status(status: int, message: str, *, code: str | None = None, **headers: object) -> Script:
    return lambda shot: refused(shot, status, message, code=code, **headers)


def _dated(shot: Shot) -> Answer:
    after = formatdate(int(shot.now_unix_s) + 2, usegmt=True)
    return refused(shot, 429, "too many requests: see Retry-After", retry_after=after)


def _redirect(shot: Shot) -> Answer:
    return reply(b"", 307, **ident_of(shot.said), location=f"{shot.url}/moved")


def _page(shot: Shot) -> Answer:
    return reply(PAGE, 502, **{**ident_of(shot.said), "content_type": "text/html"})


def _inside(shot: Shot) -> Answer:
    return reply(problem(shot.wire, 500, "the machine stopped"), **ident_of(shot.said))


PROVIDER, LIMIT = "LLMProviderError", "LLMRateLimitError"


def _refusal(id_: str, script: Script, does: str, expect: str, code: str, *, error: str = PROVIDER) -> Fault:
    return Fault(id=id_, layer="http", does=does, expect=expect, error=error, code=code, script=script)


def _passing(id_: str, first: int, script: Script, does: str, expect: str) -> Fault:
    return Fault(id=id_, layer="http", does=does, expect=expect, script=script, first=first)


_BUSY = "too many requests"
_STORM = "answers 429 without a hint: put it on `*` with a window, and call with many at once"
FAULTS: tuple[Fault, ...] = (
    _refusal("http-400", _status(400, "temperature may be from 0 to 2"), "answers 400 with a message about a parameter",
             "one attempt; the message is quoted", "provider.bad_request"),
    Fault(id="http-400-context", layer="http", wires=("openai",), error=PROVIDER, code="provider.context_length",
          does="answers 400 with the code context_length_exceeded",
          expect="no retry; failover only to a larger window",
          script=_status(400, "the prompt has more tokens than the window", code="context_length_exceeded")),
    _refusal("http-401", _status(401, "the key is not known"), "answers 401",
             "no retry; the model is out for the run", "provider.auth"),
    _refusal("http-402", _status(402, "the credits are used up"), "answers 402",
             "no retry; failover", "provider.payment"),
    _refusal("http-403", _status(403, "this key may not use the model"), "answers 403",
             "no retry; failover", "provider.auth"),
    _refusal("http-404", _status(404, "no such model", code="model_not_found"), "answers 404 for a model that is there",
             "no retry; the closest name is proposed", "provider.not_found"),
    _passing("http-408", 2, _status(408, "the request took too long"), "answers 408 to the first two attempts",
             "retried with jitter; succeeds"),
    _passing("http-409", 1, _status(409, "a conflict with another request"), "answers 409 to the first attempt",
             "retried with the same idempotency key; succeeds"),
    _refusal("http-413", _status(413, "the request is too large"), "answers 413",
             "no retry; the size is named", "provider.bad_request"),
    _refusal("http-422", _status(422, "messages.0.role: not a valid member"), "answers 422 with the offending field",
             "no retry; the field is quoted", "provider.bad_request"),
    _refusal("http-429-plain", _status(429, _BUSY), "answers 429 without a hint",
             "backs off with full jitter, then fails", "rate_limit", error=LIMIT),
    _passing("http-429-seconds", 1, _status(429, _BUSY, retry_after=1), "answers 429 with Retry-After: 1, once",
             "waits a second; succeeds"),
    _passing("http-429-date", 1, _dated, "answers 429 with a Retry-After date two seconds ahead, once",
             "waits until then; succeeds"),
    _refusal("http-429-negative", _status(429, _BUSY, retry_after=-5), "answers 429 with Retry-After: -5",
             "the hint is ignored; usual backoff", "rate_limit", error=LIMIT),
    _refusal("http-429-huge", _status(429, _BUSY, retry_after=999_999), "answers 429 with Retry-After: 999999",
             "fails, or fails over, at once", "rate_limit", error=LIMIT),
    Fault(id="http-429-quota", layer="http", wires=("openai",), error=LIMIT, code="rate_limit.quota",
          does="answers 429 with the code insufficient_quota", expect="no retry; failover",
          script=_status(429, "the quota is used up", code="insufficient_quota")),
    _refusal("http-429-storm", _status(429, _BUSY), _STORM,
             "bounded retries, spread out", "rate_limit", error=LIMIT),
    _passing("http-500", 2, _status(500, "internal error"), "answers 500 to the first two attempts",
             "retried; succeeds"),
    _refusal("http-500-always", _status(500, "internal error"), "answers 500",
             "bounded retries; the circuit opens", "provider.server"),
    _refusal("http-502-html", _page, "answers 502 with a gateway's HTML page",
             "quoted short and escaped", "provider.server"),
    _passing("http-503-ra", 1, _status(503, "come back soon", retry_after=1), "answers 503 with Retry-After: 1, once",
             "waits a second; succeeds"),
    _refusal("http-504", _status(504, "the model did not answer in time"), "answers 504",
             "retried; possibly billed", "provider.server"),
    _refusal("http-529", _status(529, "overloaded"), "answers 529",
             "backs off longer than for a 500; failover preferred", "provider.overloaded"),
    _refusal("http-redirect", _redirect, "answers 307 to another address of the lab, which counts who follows",
             "not followed; the key goes nowhere else", "provider.redirect"),
    _refusal("http-200-error", _inside, "answers 200 with an error object",
             "the error that it is", "provider.server"),
)  # fmt: skip
