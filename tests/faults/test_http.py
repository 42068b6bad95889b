"""Statuses and headers: each is retried, failed over or raised as what it is, and never mistaken for an answer."""

from __future__ import annotations

import html

import pytest

from faults.bench import CANARY, Bench, fast
from faults.server import FaultServer, head, reply, streamed
from faults.shapes import WIRES, document, event, events, problem
from workbench.decide.breaker import Breaker
from workbench.errors import LLMFailoverError, LLMProviderError
from workbench.facts import ModelCard

PARAM = "Unsupported value: 'temperature' may be from 0 to 2"
FORMS = [(wire, stream) for wire in WIRES for stream in (False, True)]


def good(wire: str = "openai", text: str = "four", *, stream: bool = False):
    """An answer of the format."""
    return streamed(events(wire, text)) if stream else reply(document(wire, text))


def bad(status: int, wire: str = "openai", message: str = "no", kind: str = "server_error", **headers):
    """A refusal of the format, with nothing in it but its status and its words."""
    return reply(problem(wire, message, kind), status, **headers)


def circuit(bench: Bench, model: str = "m"):
    """The model's circuit after the call."""
    return bench.admission.breakers.circuit("p", model)


@pytest.mark.parametrize(("wire", "stream"), FORMS)
def test_http_400_is_raised_after_one_attempt_in_the_providers_own_redacted_words(server, wire, stream):
    """One request; the message names the parameter to change and not the key; the breaker is not charged."""
    kind = "INVALID_ARGUMENT" if wire == "gemini" else "invalid_request_error"
    server.on("m", reply(problem(wire, f"{PARAM} (key {CANARY})", kind, param="temperature"), 400))
    bench = Bench(server=server, wire=wire, stream=stream, retries=3)
    error = bench.call().fails(LLMProviderError, "provider.bad_request", caused=False)
    assert PARAM in error.message
    assert error.status == 400
    assert not error.retryable
    assert not error.possibly_billed
    assert circuit(bench).failed == 0


def test_http_400_does_not_fail_over_because_any_model_would_refuse_it(server):
    """A request that is wrong is wrong for the fallback too."""
    server.on("m", bad(400, kind="invalid_request_error"))
    server.on("other", good())
    Bench(server=server, models=("m", "other")).call().fails(LLMProviderError, "provider.bad_request", caused=False)
    assert not server.asked("other")


@pytest.mark.parametrize("stream", [False, True])
def test_http_400_context_is_not_retried_and_names_tokens_limit_and_chunker(server, stream):
    """The next step has the number of tokens, the window, and the function that chunks."""
    server.on("m", reply(problem("openai", "too long", code="context_length_exceeded"), 400))
    card = ModelCard(name="p:m", context_window=8192, prompt_usd_per_mtok=1, completion_usd_per_mtok=2)
    bench = Bench(server=server, stream=stream, retries=3, cards={"p:m": card}, prompt="word " * 4000)
    error = bench.call().fails(LLMProviderError, "provider.context_length", caused=False)
    assert "8192" in error.next_step
    assert "~50" in error.next_step  # 20,000 characters and the rest of the document are a little over 5,000 tokens
    assert "Chunk" in error.next_step


def test_http_400_context_fails_over_only_to_a_larger_window(server):
    """The fallback with a window as small is not asked, the larger one answers."""
    server.on("m", reply(problem("openai", "too long", code="context_length_exceeded"), 400))
    server.on("small", good(text="wrong"))
    server.on("large", good(text="large"))
    prices = {"prompt_usd_per_mtok": 1, "completion_usd_per_mtok": 2}
    windows = {"m": 8192, "small": 8192, "large": 100_000}
    cards = {f"p:{n}": ModelCard(name=f"p:{n}", context_window=w, **prices) for n, w in windows.items()}
    bench = Bench(server=server, models=("m", "small", "large"), cards=cards, retries=3)
    response = bench.call().answers("large", attempts=2)
    assert response.model == "p:large"
    assert not server.asked("small")


@pytest.mark.parametrize(("wire", "stream"), FORMS)
def test_http_401_disables_the_model_for_the_run_and_names_the_variable(server, wire, stream):
    """One request in a whole run, however many calls; the key appears nowhere, though the provider quotes it."""
    server.on("m", reply(problem(wire, f"Incorrect API key: {CANARY}", "authentication_error"), 401))
    bench = Bench(server=server, wire=wire, stream=stream, retries=3)
    error = bench.call().fails(LLMProviderError, "provider.auth", caused=False)
    assert "FAULTS_KEY" in error.next_step
    assert "Incorrect API key" in error.message
    again = bench.call()
    assert (type(again.error), again.error.code) == (LLMProviderError, "provider.auth")
    assert "FAULTS_KEY" in again.error.next_step
    assert len(server.asked("m")) == 1


@pytest.mark.parametrize(("status", "code"), [(402, "provider.payment"), (403, "provider.auth")])
@pytest.mark.parametrize("wire", WIRES)
def test_http_402_and_http_403_are_not_retried_and_fail_over(server, wire, status, code):
    """The fallback answers after one attempt on the model that is locked, paid out or forbidden."""
    server.on("m", bad(status, wire, "no", "billing_error" if status == 402 else "permission_error"))
    server.on("other", good(wire, "other"))
    outcome = Bench(server=server, wire=wire, retries=3, models=("m", "other")).call()
    assert outcome.answers("other", attempts=2).model == "p:other"
    assert outcome.rows[0].failure.code == code


def test_http_402_says_to_top_up_or_to_remove_the_model(server):
    """The next step is what a person can do."""
    server.on("m", bad(402, kind="billing_error"))
    error = Bench(server=server, retries=3).call().fails(LLMProviderError, "provider.payment", caused=False)
    assert "top up" in error.next_step
    assert not error.retryable


def test_http_403_names_the_model_and_the_permission(server):
    """The next step says which model may not be used, and with which key."""
    server.on("m", bad(403, kind="permission_error"))
    error = Bench(server=server, retries=3).call().fails(LLMProviderError, "provider.auth", caused=False)
    assert "may use m" in error.next_step
    assert error.model == "p:m"


@pytest.mark.parametrize("wire", WIRES)
def test_http_404_lists_known_models_and_the_closest_name(server, wire):
    """A slip of the pen is answered with the name that was meant."""
    server.on("gpt-5-mnii", bad(404, wire, kind="not_found_error"))
    cards = {f"p:{n}": ModelCard(name=f"p:{n}", prompt_usd_per_mtok=1, completion_usd_per_mtok=2)
             for n in ("claude", "gpt-5-mini", "gpt-4")}  # fmt: skip
    bench = Bench(server=server, wire=wire, retries=3, models=("gpt-5-mnii",), cards=cards, unlisted=("gpt-5-mnii",))
    error = bench.call().fails(LLMProviderError, "provider.not_found", caused=False)
    assert "'p:gpt-5-mini'" in error.next_step
    assert "p:claude" in error.next_step


def test_http_404_never_proposes_the_name_that_was_not_found(server):
    """A model that we have a price for and the provider has retired is not its own correction."""
    server.on("gpt-5-mini", bad(404, kind="not_found_error"))
    cards = {"p:gpt-5-nano": ModelCard(name="p:gpt-5-nano", prompt_usd_per_mtok=1, completion_usd_per_mtok=2)}
    bench = Bench(server=server, models=("gpt-5-mini",), cards=cards)
    error = bench.call().fails(LLMProviderError, "provider.not_found", caused=False)
    assert "did you mean 'p:gpt-5-mini'" not in error.next_step


def test_http_404_without_a_near_name_says_how_to_find_one(server):
    """Where no known name is near, the next step still names a command or a setting."""
    server.on("m", bad(404, kind="not_found_error"))
    error = Bench(server=server, cards={"p:zzzzzzzzzzz": ModelCard(name="p:zzzzzzzzzzz")}).call().fails(
        LLMProviderError, "provider.not_found", caused=False
    )  # fmt: skip
    assert "workbench" in error.next_step


@pytest.mark.parametrize(("wire", "stream"), FORMS)
def test_http_408_is_retried_until_it_answers(server, wire, stream):
    """Three attempts, three rows, one result."""
    server.on("m", bad(408, wire), bad(408, wire), good(wire, stream=stream))
    bench = Bench(server=server, wire=wire, stream=stream, retries=2)
    outcome = bench.call()
    outcome.answers("four", attempts=3)
    assert [r.status for r in outcome.rows] == ["error", "error", "ok"]
    assert all(0 <= wait < 0.04 for wait in outcome.waits)
    assert len(set(outcome.waits)) == 2


@pytest.mark.parametrize("wire", WIRES)
def test_http_409_is_retried_with_the_same_idempotency_key(server, wire):
    """The server sees one key twice, and answers the second time."""
    server.on("m", bad(409, wire), good(wire))
    outcome = Bench(server=server, wire=wire, retries=3).call()
    outcome.answers("four", attempts=2)
    keys = [s.key for s in server.asked("m")]
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32


@pytest.mark.parametrize("wire", WIRES)
def test_http_413_names_the_size_of_the_request(server, wire):
    """The bytes that were sent are in the next step, as the server counted them."""
    server.on("m", bad(413, wire, kind="request_too_large"))
    bench = Bench(server=server, wire=wire, retries=3, prompt="long " * 1000)
    error = bench.call().fails(LLMProviderError, "provider.bad_request", caused=False)
    assert f"{len(server.asked('m')[0].raw)} bytes" in error.next_step


@pytest.mark.parametrize("wire", WIRES)
def test_http_422_keeps_the_offending_field_in_the_message(server, wire):
    """Not retried; the provider's sentence about the field is quoted."""
    server.on("m", bad(422, wire, "messages.0.role: value is not a valid member", "invalid_request_error"))
    error = Bench(server=server, wire=wire, retries=3).call().fails(
        LLMProviderError, "provider.bad_request", caused=False
    )  # fmt: skip
    assert "messages.0.role" in error.message


def test_http_422_quotes_a_list_of_details_as_some_frameworks_send_it(server):
    """Bodies without an error object are quoted too: {"detail": [{"loc": [...]}]}."""
    detail = {"detail": [{"loc": ["body", "temperature"], "msg": "not a float", "type": "float_parsing"}]}
    server.on("m", reply(detail, 422))
    error = Bench(server=server).call().fails(LLMProviderError, "provider.bad_request", caused=False)
    assert "temperature" in error.message


@pytest.mark.parametrize(("wire", "stream"), FORMS)
def test_http_500_then_recovery_is_two_failures_and_one_success(server, wire, stream):
    """Retried to success; the breaker has counted exactly what happened."""
    server.on("m", bad(500, wire), bad(500, wire), good(wire, stream=stream))
    bench = Bench(server=server, wire=wire, stream=stream, retries=2)
    bench.call().answers("four", attempts=3)
    assert (circuit(bench).buffered, circuit(bench).failed) == (3, 2)


@pytest.mark.parametrize("wire", WIRES)
def test_http_500_always_opens_the_breaker_and_lists_the_attempts(server, wire):
    """Retries are bounded; once the window is bad the circuit opens and no request leaves any more."""
    server.on("m", bad(500, wire))
    breaker = Breaker(failure_rate=0.5, minimum_calls=6, window_calls=10, cooldown_s=30)
    bench = Bench(server=server, wire=wire, retries=2, discipline={"breaker": breaker})
    error = bench.call().fails(LLMProviderError, "provider.server", attempts=3, caused=False)
    assert [a.code for a in error.attempts] == ["provider.server"] * 3
    starts = [a.start_s for a in error.attempts]
    assert starts == sorted(starts)
    assert circuit(bench).state == "closed"
    bench.call().fails(LLMProviderError, "provider.server", attempts=3, caused=False)
    assert circuit(bench).state == "open"
    outcome = bench.call()
    refused = outcome.error
    assert (type(refused), refused.code) == (LLMFailoverError, "failover.all_open")
    assert 29 < refused.retry_after <= 30
    assert [(r.attempt, r.status, r.final) for r in outcome.rows] == [(0, "refused", True)]
    assert len(server.asked("m")) == 6


@pytest.mark.parametrize("stream", [False, True])
def test_http_502_html_is_quoted_short_and_escaped(server, stream):
    """A gateway's page is not parsed as JSON; at most 200 characters of it, and no live tag."""
    page = "<html><script>alert(1)</script><body>" + "Bad Gateway & more " * 200 + "</body></html>"
    server.on("m", reply(page.encode(), 502, content_type="text/html"))
    error = Bench(server=server, stream=stream).call().fails(LLMProviderError, "provider.server", caused=False)
    assert error.status == 502
    assert "<" not in error.message
    assert "&lt;script&gt;" in error.message
    assert "Bad Gateway" in error.message
    quoted = error.message.partition("502: ")[2]
    assert len(html.unescape(quoted)) <= 200


@pytest.mark.parametrize(("wire", "after_s"), [("openai", 1), ("anthropic", 0.3), ("gemini", 0.3)])
def test_http_503_ra_is_honoured_as_for_429(server, wire, after_s):
    """Retry-After is waited for, once."""
    server.on("m", bad(503, wire, retry_after=after_s), good(wire))
    outcome = Bench(server=server, wire=wire, timeout_s=3, policy=fast(1, base_delay_s=0.3)).call()
    outcome.answers("four", attempts=2)
    first, second = server.asked("m")
    assert after_s <= second.at_s - first.at_s < after_s + 0.5


@pytest.mark.parametrize(("wire", "stream"), FORMS)
def test_http_504_is_possibly_billed(server, wire, stream):
    """Nobody knows whether the work was done: retryable, and the worst case is booked as possibly billed."""
    server.on("m", bad(504, wire))
    bench = Bench(server=server, wire=wire, stream=stream, retries=1)
    outcome = bench.call()
    error = outcome.fails(LLMProviderError, "provider.server", attempts=2, caused=False)
    assert error.retryable
    assert error.possibly_billed
    assert all(r.failure.possibly_billed for r in outcome.rows)
    assert bench.ledger.balance("model:p:m").uncertain == 2 * bench.worst_micro()


@pytest.mark.parametrize("wire", WIRES)
def test_http_529_backs_off_longer_than_500_and_charges_the_bucket(server, wire):
    """With the same draw the wait is twice that of a 500; each retry is paid for."""
    waits = {}
    for status in (500, 529):
        server.on("m", bad(status, wire, kind="overloaded_error" if status == 529 else "api_error"))
        policy = fast(1, base_delay_s=0.1, max_delay_s=1)
        bench = Bench(server=server, wire=wire, policy=policy, draw=0.5)
        before = bench.admission.retries
        outcome = bench.call()
        code = "provider.overloaded" if status == 529 else "provider.server"
        outcome.fails(LLMProviderError, code, attempts=2, caused=False)
        waits[status] = outcome.waits
        assert bench.admission.retries == before - 1
    assert waits == {500: [0.05], 529: [0.1]}


def test_http_529_prefers_the_fallback(server):
    """An overloaded model is left at once where there is another."""
    server.on("m", bad(529, kind="overloaded_error"))
    server.on("other", good(text="other"))
    outcome = Bench(server=server, retries=3, models=("m", "other")).call()
    outcome.answers("other", attempts=2)
    assert len(server.asked("m")) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_http_redirect_is_not_followed_and_the_key_stays_here(server, status):
    """The canary listener sees no request at all; the next step says to set the right base_url."""
    with FaultServer() as canary:
        server.on("m", (head(status, length=0, location=canary.url("/v1/chat/completions")),))
        error = Bench(server=server, retries=3).call().fails(LLMProviderError, "provider.redirect", caused=False)
        assert "base_url" in error.next_step
        assert canary.accepted == 0
    assert server.asked("m")[0].headers["authorization"] == f"Bearer {CANARY}"


@pytest.mark.parametrize(("wire", "stream"), FORMS)
def test_http_200_error_is_the_error_that_it_is(server, wire, stream):
    """An error object with status 200 is no empty success, whole or as the first event of a stream."""
    kind = {"openai": "server_error", "anthropic": "api_error", "gemini": "INTERNAL"}[wire]
    document = problem(wire, "the machine stopped", kind, code=500 if wire == "gemini" else None)
    server.on("m", streamed([event(document)]) if stream else reply(document))
    error = Bench(server=server, wire=wire, stream=stream, retries=1).call().fails(
        LLMProviderError, "provider.server", attempts=2, caused=False
    )  # fmt: skip
    assert "the machine stopped" in error.message
    assert error.retryable
