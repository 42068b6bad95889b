"""What a provider's refusal means: by status, typed codes and headers, never by the words of a message."""

from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.act.wire.reply import Reply, error_fields, retry_delay, verdict_on
from workbench.decide.classify import CODES, RULES, classify, duration_s, error_of, meaning_of, retry_after_s
from workbench.errors import LLMError, LLMProviderError, LLMRateLimitError, LLMTimeoutError, LLMValidationError

NOW = 784_111_700.0  # Sun, 06 Nov 1994 08:48:20 GMT
IN_77_S = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994")


def verdict(status, body=None, **headers):
    """Code and retryable for a body, with headers by keyword."""
    words, _ = error_fields(body if isinstance(body, dict) else {}) or ((), "")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    found = classify(status, words, named, now_unix_s=NOW)
    return found.code, found.retryable


def openai(code=None, kind=None, message="m"):
    """An error body of OpenAI."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def anthropic(kind, message="m"):
    """An error body of Anthropic."""
    return {"type": "error", "error": {"type": kind, "message": message}}


def google(code, status, *reasons, message="m"):
    """An error body of Google."""
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason} for reason in reasons]
    return {"error": {"code": code, "message": message, "status": status, "details": details}}


def bedrock(kind):
    """An error body of AWS Bedrock."""
    return {"__type": f"com.amazonaws.bedrock#{kind}", "message": "m"}


# Written from the error references of the providers, by hand: status, body, our code, retryable.
TABLE = [
    # OpenAI
    (400, openai(None, "invalid_request_error"), "provider.bad_request", False),
    (400, openai("invalid_value", "invalid_request_error"), "provider.bad_request", False),
    (400, openai("context_length_exceeded", "invalid_request_error"), "provider.context_length", False),
    (400, openai("string_above_max_length", "invalid_request_error"), "provider.context_length", False),
    (400, openai("content_policy_violation", "invalid_request_error"), "provider.content_filter", False),
    (400, openai("content_filter", None), "provider.content_filter", False),
    (400, openai("invalid_api_key", None), "provider.auth", False),
    (400, openai("billing_hard_limit_reached", None), "rate_limit.quota", False),
    (401, openai("invalid_api_key", "invalid_request_error"), "provider.auth", False),
    (401, openai(None, None), "provider.auth", False),
    (402, openai(None, None), "provider.payment", False),
    (403, openai("unsupported_country_region_territory", "request_forbidden"), "provider.auth", False),
    (403, openai("insufficient_quota", None), "rate_limit.quota", False),
    (404, openai("model_not_found", "invalid_request_error"), "provider.not_found", False),
    (408, openai(None, None), "provider.server", True),
    (409, openai(None, None), "provider.conflict", True),
    (413, openai(None, None), "provider.bad_request", False),
    (415, openai(None, None), "provider.bad_request", False),
    (422, openai(None, None), "provider.bad_request", False),
    (425, openai(None, None), "provider.server", True),
    (429, openai("rate_limit_exceeded", "requests"), "rate_limit", True),
    (429, openai("rate_limit_exceeded", "tokens"), "rate_limit", True),
    (429, openai("insufficient_quota", "insufficient_quota"), "rate_limit.quota", False),
    (429, openai("billing_not_active", None), "rate_limit.quota", False),
    (429, openai(None, None), "rate_limit", True),
    (500, openai(None, "server_error"), "provider.server", True),
    (500, openai("internal_error", "internal_server_error"), "provider.server", True),
    (502, None, "provider.server", True),
    (503, openai("slow_down", "server_error"), "provider.overloaded", True),
    (503, openai(None, "engine_overloaded"), "provider.overloaded", True),
    (503, None, "provider.server", True),
    (504, None, "provider.server", True),
    # Azure's filter
    (
        400,
        {"error": {"code": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        "provider.content_filter",
        0,
    ),
    # Anthropic
    (400, anthropic("invalid_request_error"), "provider.bad_request", False),
    (401, anthropic("authentication_error"), "provider.auth", False),
    (402, anthropic("billing_error"), "provider.payment", False),
    (403, anthropic("permission_error"), "provider.auth", False),
    (404, anthropic("not_found_error"), "provider.not_found", False),
    (413, anthropic("request_too_large"), "provider.bad_request", False),
    (429, anthropic("rate_limit_error"), "rate_limit", True),
    (500, anthropic("api_error"), "provider.server", True),
    (504, anthropic("timeout_error"), "provider.server", True),
    (529, anthropic("overloaded_error"), "provider.overloaded", True),
    (529, None, "provider.overloaded", True),
    (400, anthropic("billing_error"), "provider.payment", False),
    # Google
    (400, google(400, "INVALID_ARGUMENT"), "provider.bad_request", False),
    (400, google(400, "INVALID_ARGUMENT", "API_KEY_INVALID"), "provider.auth", False),
    (400, google(400, "FAILED_PRECONDITION"), "provider.bad_request", False),
    (400, google(400, "OUT_OF_RANGE"), "provider.bad_request", False),
    (401, google(401, "UNAUTHENTICATED"), "provider.auth", False),
    (403, google(403, "PERMISSION_DENIED"), "provider.auth", False),
    (404, google(404, "NOT_FOUND"), "provider.not_found", False),
    (429, google(429, "RESOURCE_EXHAUSTED"), "rate_limit", True),
    (500, google(500, "INTERNAL"), "provider.server", True),
    (500, google(500, "UNKNOWN"), "provider.server", True),
    (503, google(503, "UNAVAILABLE"), "provider.server", True),
    (503, google(503, "RESOURCE_EXHAUSTED"), "rate_limit", True),
    (504, google(504, "DEADLINE_EXCEEDED"), "provider.server", True),
    # Bedrock
    (429, bedrock("ThrottlingException"), "rate_limit", True),
    (400, bedrock("ThrottlingException"), "rate_limit", True),
    (503, bedrock("ServiceUnavailableException"), "provider.server", True),
    (400, bedrock("ValidationException"), "provider.bad_request", False),
    (403, bedrock("AccessDeniedException"), "provider.auth", False),
    (404, bedrock("ResourceNotFoundException"), "provider.not_found", False),
    # statuses alone, and shapes that say nothing
    (301, None, "provider.redirect", False),
    (308, None, "provider.redirect", False),
    (204, None, "provider.malformed", True),
    (206, None, "provider.malformed", True),
    (410, None, "provider.not_found", False),
    (418, None, "provider.bad_request", False),
    (451, None, "provider.content_filter", False),
    (501, None, "provider.server", False),
    (505, None, "provider.server", False),
    (599, None, "provider.server", True),
    (100, None, "provider.protocol", True),
    (999, None, "provider.protocol", True),
    (400, {"error": "bad"}, "provider.bad_request", False),
    (500, {"error": None}, "provider.server", True),
    (500, {"detail": "down"}, "provider.server", True),
    (400, {"error": ["x"]}, "provider.bad_request", False),
    (429, {"error": 7}, "rate_limit", True),
]


@pytest.mark.parametrize(("status", "body", "code", "retryable"), TABLE, ids=lambda v: json.dumps(v)[:60])
def test_a_refusal_is_told_by_its_status_and_typed_codes(status, body, code, retryable):
    """Each documented refusal of OpenAI, Azure, Anthropic, Google and Bedrock has the code that follows from it."""
    assert verdict(status, body) == (code, bool(retryable))


# -- RELIABILITY.md, section 6, by row


def inside(error, *, streamed=True):
    """The error that an answer with status 200 ends in when an error object comes inside it."""
    reply = Reply(error=error_fields(error), events=1)
    return verdict_on(reply, model="p:m", streamed=streamed)


@pytest.mark.parametrize(
    ("number", "code"),
    [(500, "provider.server"), (502, "provider.server"), (429, "rate_limit"), (401, "provider.auth")],
)
def test_row_1_a_numeric_code_inside_a_stream_counts_as_the_status(number, code):
    """An error in a 200 is told by its own number, also by one written as digits, and not by the 200."""
    for written in (number, str(number)):
        made = inside({"error": {"code": written, "message": "m"}})
        assert (made.code, made.retryable) == (code, number != 401)


@pytest.mark.parametrize(
    "kind", ["server_error", "InternalServerError", "overloaded_error", "api_error", "timeout_error"]
)
def test_row_2_an_error_type_alone_inside_a_stream_is_transient(kind):
    """A typed failure of the service inside a 200 may heal."""
    made = inside({"error": {"type": kind, "message": "m"}})
    assert made.retryable
    assert made.code in ("provider.server", "provider.overloaded")


@pytest.mark.parametrize("kind", ["rate_limit_error", "rate_limit_exceeded"])
def test_row_3_a_rate_limit_inside_a_stream_is_one(kind):
    """The class and the code are those of a 429."""
    made = inside({"error": {"type": kind, "message": "m"}})
    assert (type(made), made.code, made.retryable) == (LLMRateLimitError, "rate_limit", True)


def test_row_3_an_invalid_request_inside_a_stream_is_never_retried():
    """The same request would be as invalid again."""
    made = inside({"error": {"type": "invalid_request_error", "message": "m"}})
    assert (made.code, made.retryable) == ("provider.bad_request", False)


@pytest.mark.parametrize("body", [anthropic("api_error"), openai("server_error", "server_error")])
def test_row_4_the_status_wins_over_a_wrapped_type(body):
    """A 404 that a proxy calls api_error is still a 404."""
    assert verdict(404, body) == ("provider.not_found", False)


def test_row_6_an_exceeded_quota_is_not_retried():
    """429 with the typed code of a quota: waiting does not help."""
    body = openai("insufficient_quota", "insufficient_quota", "You exceeded your current quota")
    assert verdict(429, body) == ("rate_limit.quota", False)


def test_row_6_a_503_is_a_rate_limit_or_transient_by_its_typed_status():
    """RESOURCE_EXHAUSTED is a rate limit, UNAVAILABLE a failure that heals; both may be asked again."""
    assert verdict(503, google(503, "RESOURCE_EXHAUSTED")) == ("rate_limit", True)
    assert verdict(503, google(503, "UNAVAILABLE")) == ("provider.server", True)


def test_row_7_a_duration_of_minutes_and_seconds_is_waited_for():
    """Groq's `1m30s` is 90 s."""
    assert classify(429, (), {"retry-after": "1m30s"}).retry_after_s == 90.0


def test_row_8_a_stream_without_events_may_be_asked_again():
    """No event came: an empty answer, and retryable."""
    made = verdict_on(Reply(), model="p:m", streamed=True)
    assert (made.code, made.retryable) == ("provider.empty", True)


@pytest.mark.parametrize("body", ["overloaded", None, 7, [], {"error": "overloaded"}, {"error": None}, {"error": [1]}])
def test_row_10_an_error_without_typed_fields_does_not_break_and_is_not_retried(body):
    """A text, null, number or list in the place of the error, inside a 200: unknown, so not asked again."""
    made = inside(body if isinstance(body, dict) and body.get("error") is not None else {"error": body or "x"})
    assert (made.code, made.retryable) == ("provider.server", False)


@pytest.mark.parametrize(
    ("kind", "code", "retryable"),
    [
        ("ThrottlingException", "rate_limit", True),
        ("ServiceUnavailableException", "provider.server", True),
        ("ValidationException", "provider.bad_request", False),
    ],
)
def test_row_11_bedrock_codes_have_their_meaning_with_every_prefix(kind, code, retryable):
    """Whether the type comes bare, with a namespace or with a shape's prefix, and in whatever status family."""
    for written in (kind, f"com.amazonaws#{kind}", f"aws.protocols.{kind}", kind.lower()):
        assert verdict(400, {"__type": written, "message": "m"}) == (code, retryable)


# -- messages never decide

WORDS = ("rate limit", "overloaded", "quota", "context length", "429", "401", "timeout", "invalid api key", "exceeded")


def _prose(rng):
    letters = "".join(
        chr(rng.choice([rng.randrange(32, 127), rng.randrange(160, 0x3000)])) for _ in range(rng.randrange(40))
    )
    parts = [letters, *rng.choices(WORDS, k=rng.randrange(1, 5))]
    rng.shuffle(parts)
    return " ".join(parts)


def test_the_text_of_a_message_never_changes_the_class():
    """10,000 messages full of telling words change neither code nor retryable of the status and typed code."""
    rng = random.Random(6)
    shapes = (
        lambda m: (400, openai(None, "invalid_request_error", m), "provider.bad_request", False),
        lambda m: (500, openai(None, "server_error", m), "provider.server", True),
        lambda m: (429, openai("rate_limit_exceeded", None, m), "rate_limit", True),
        lambda m: (429, openai("insufficient_quota", None, m), "rate_limit.quota", False),
        lambda m: (401, anthropic("authentication_error", m), "provider.auth", False),
        lambda m: (529, anthropic("overloaded_error", m), "provider.overloaded", True),
        lambda m: (400, google(400, "INVALID_ARGUMENT", message=m), "provider.bad_request", False),
        lambda m: (503, {"message": m, "detail": m}, "provider.server", True),
        lambda m: (404, {"error": m}, "provider.not_found", False),
        lambda m: (200, openai(None, "server_error", m), "provider.server", True),
    )
    for number in range(10_000):
        status, body, code, retryable = shapes[number % len(shapes)](_prose(rng))
        assert verdict(status, body) == (code, retryable), body


# -- Retry-After


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0.25", 0.25),
        ("120", 120.0),
        ("1m30s", 90.0),
        ("90s", 90.0),
        ("34.5s", 34.5),
        ("250ms", 0.25),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("1h2m3s", 3723.0),
        ("1s500ms", 1.5),
        *((date, 77.0) for date in IN_77_S),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),  # past
        ("", None),
        ("   ", None),
        ("-5", None),
        ("+5", None),
        ("nan", None),
        ("NaN", None),
        ("inf", None),
        ("-inf", None),
        ("Infinity", None),
        ("1e3", None),
        ("0x10", None),
        ("1_000", None),
        ("٣٠", None),  # 30 in Arabic-Indic digits
        ("１２", None),  # full width
        ("9" * 400, None),
        ("soon", None),
        ("5 seconds", None),
        ("m", None),
        ("1d", None),
        ("5;q=1", None),
        ("\x00", None),
        ("Sun, 99 Nov 1994 99:99:99 GMT", None),
        ("Sun, 06 Nov 99999999999999 08:49:37 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_duration_or_date(written, seconds):
    """What can be read is seconds >= 0, whatever cannot is no hint."""
    assert retry_after_s({"retry-after": written}, now_unix_s=NOW) == seconds


def test_retry_after_of_a_huge_number_is_huge_or_none_and_never_infinite():
    """A number of nine digits is what it says; it is the policy that refuses to wait so long."""
    assert retry_after_s({"retry-after": "999999999"}, now_unix_s=NOW) == 999_999_999.0


@pytest.mark.parametrize("name", ["retry-after-ms", "x-ms-retry-after-ms"])
def test_milliseconds_win_over_seconds(name):
    """The finer header is read first; one that cannot be read leaves the other."""
    assert retry_after_s({name: "1500", "retry-after": "9"}, now_unix_s=NOW) == 1.5
    assert retry_after_s({name: "250.5"}, now_unix_s=NOW) == 0.2505
    for bad in ("-1", "nan", "inf", "", "٣"):
        assert retry_after_s({name: bad, "retry-after": "9"}, now_unix_s=NOW) == 9.0
        assert retry_after_s({name: bad}, now_unix_s=NOW) is None


def test_a_wait_is_given_only_where_waiting_can_help():
    """A 401 with Retry-After names no wait; a quota does, for whoever wants to know."""
    assert classify(401, (), {"retry-after": "5"}).retry_after_s is None
    assert classify(503, (), {"retry-after": "5"}).retry_after_s == 5.0
    assert classify(429, ("insufficient_quota",), {"retry-after": "5"}).retry_after_s == 5.0


def test_the_hint_of_the_body_is_taken_where_no_header_names_one():
    """Google's RetryInfo counts after the headers."""
    body = google(429, "RESOURCE_EXHAUSTED")
    body["error"]["details"].append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"})
    hint_s = duration_s(retry_delay(body))
    assert hint_s == 34.5
    assert classify(429, (), {}, hint_s=hint_s).retry_after_s == 34.5
    assert classify(429, (), {"retry-after": "2"}, hint_s=hint_s).retry_after_s == 2.0
    assert classify(400, (), {}, hint_s=hint_s).retry_after_s is None


@pytest.mark.parametrize("said", ["false", "False", " FALSE "])
def test_x_should_retry_false_is_obeyed(said):
    """The provider knows that the same request meets the same end."""
    assert verdict(500, None, x_should_retry=said) == ("provider.server", False)


@pytest.mark.parametrize("said", ["true", "", "no", "0"])
def test_no_other_word_of_x_should_retry_changes_anything(said):
    """`true` does not make a bad request worth repeating."""
    assert verdict(500, None, x_should_retry=said) == ("provider.server", True)
    assert verdict(400, None, x_should_retry=said) == ("provider.bad_request", False)


# -- the tables themselves

ACTION = re.compile(
    r"`workbench [a-z ]+`|\b[a-z]+_[a-z_]+\b|\[failover\]|SSL_CERT_FILE|\.partial|stream = true"
    r"|\b(check|change|rephrase|correct|top up|raise|ask|shorten|lower|report|name)\b"
)


@pytest.mark.parametrize("code", CODES)
def test_every_code_says_what_to_do_next(code):
    """The next step is one short line that names a setting, a command or something to do."""
    step = CODES[code].next_step
    assert 0 < len(step) <= 160
    assert "\n" not in step
    assert ACTION.search(step)


def test_every_rule_leads_to_a_code_and_the_last_takes_everything():
    """No row names a code that does not exist, and no answer falls through the table."""
    assert {rule.code for rule in RULES} <= set(CODES)
    assert (RULES[-1].statuses, RULES[-1].words) == (frozenset(), frozenset())
    assert all(word == word.lower() and "." not in word and "#" not in word for rule in RULES for word in rule.words)


@pytest.mark.parametrize(
    ("prefix", "kind"),
    [
        ("rate_limit", LLMRateLimitError),
        ("timeout.", LLMTimeoutError),
        ("provider.", LLMProviderError),
        ("validation.", LLMValidationError),
    ],
)
def test_every_code_is_raised_as_the_class_of_its_area(prefix, kind):
    """What comes before the dot decides the class."""
    of_area = [meaning for code, meaning in CODES.items() if code.startswith(prefix)]
    assert of_area
    assert {meaning.error for meaning in of_area} == {kind}


@pytest.mark.parametrize("code", CODES)
def test_an_error_is_made_of_every_code(code):
    """Class, code, retryable and next step come from the table; status, wait and a cut next step are kept."""
    made = error_of(code, "what happened", status=500, request_id="r", retry_after_s=2.5, next_step="x" * 500)
    meaning = CODES[code]
    assert (type(made), made.code, made.retryable) == (meaning.error, code, meaning.retryable)
    assert made.possibly_billed is meaning.billed
    assert made.retry_after_s == 2.5
    assert made.next_step == "x" * 160
    if isinstance(made, LLMProviderError):
        assert (made.status, made.request_id) == (500, "r")
    assert error_of(code, "m").next_step == meaning.next_step
    assert error_of(code, "m", retryable=True, billed=True).possibly_billed


@pytest.mark.parametrize(
    ("code", "scope"),
    [
        ("validation.suite", "caller"),
        ("budget.exceeded", "model"),
        ("security.url", "caller"),
        ("replay.missing", "caller"),
        ("rate_limit.local", "caller"),
        ("provider.unexpected", "model"),
        ("storage.full", "model"),
        ("", "model"),
    ],
)
def test_a_code_of_others_is_read_cautiously(code, scope):
    """What the table does not know is not retried; ours to refuse concerns no model."""
    meaning = meaning_of(code)
    assert (meaning.scope, meaning.retryable) == (scope, code == "rate_limit.local")
    assert meaning.next_step


# -- nothing that can come raises

ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=80)
    | st.binary(max_size=8)
    | st.sampled_from(sorted(word for rule in RULES for word in rule.words)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "x-ms-retry-after-ms", "x-should-retry", "x"]),
    st.text(max_size=80)
    | st.from_regex(r"(Sun|Mon)?,? ?[0-9]{0,12}[ -][A-Z][a-z]{2}[ -][0-9]{1,12} [0-9:]{1,12} ?(GMT|[+-][0-9]{4})?"),
)


@settings(max_examples=300)
@given(
    st.integers() | st.sampled_from([200, 400, 429, 500]),
    st.lists(ANY, max_size=6),
    HEADERS,
    st.floats(allow_nan=False),
)
def test_classification_never_raises(status, words, headers, now):
    """Whatever types and texts come in, out comes a code of the table and a wait that is None or >= 0."""
    found = classify(status, words, headers, now_unix_s=now)
    assert found.code in CODES
    assert found.meaning is CODES[found.code]
    assert found.retry_after_s is None or found.retry_after_s >= 0
    assert isinstance(error_of(found.code, "m", retry_after_s=found.retry_after_s), LLMError)


@settings(max_examples=300)
@given(ANY, ANY)
def test_reading_an_error_never_raises(error, other):
    """Any JSON value in the place of the error, and around it, is read or ignored."""
    for body in (
        {"error": error},
        {"type": "error", "error": error, "message": other},
        {"__type": error, "code": other},
    ):
        words, message = error_fields(body) or ((), "")
        assert isinstance(message, str)
        assert classify(500, words).code in CODES
        duration_s(retry_delay(body), now_unix_s=0.0)


@settings(max_examples=300)
@given(ANY, st.none() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_duration_never_raises(value, now):
    """Any value in the place of a wait is seconds >= 0 or None."""
    found = duration_s(value, now_unix_s=now)
    assert found is None or found >= 0


def test_a_number_with_more_digits_than_python_prints_is_no_code():
    """An integer beyond Python's limit for texts classifies like any unknown code."""
    assert classify(500, [10**5000]).code == "provider.server"
    assert classify(200, [10**5000]).code == "provider.server"
