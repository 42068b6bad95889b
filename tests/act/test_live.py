"""One attempt over HTTP: what is sent, what becomes of the answer, and that the key is never seen."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote

import httpx
import pytest

from tests.act.wire.harness import (
    KEY,
    REQUEST,
    Server,
    chat,
    document,
    events,
    piece,
    priced,
    rows,
    shared,
    stream_of,
    streamed,
    told,
    wired,
)
from workbench.act.failover import Chain
from workbench.act.trace import failure_of
from workbench.act.world import World
from workbench.decide.retry import RetryPolicy
from workbench.errors import LLMError, LLMProviderError, LLMTimeoutError, LLMValidationError
from workbench.facts import Message, ModelCard, Request, Terms, Usage

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
LAST = {"choices": [], "usage": USAGE}
WHOLE, STREAM = Terms(), Terms(stream=True)


def asked(*answers, wire="openai", terms=WHOLE, request=REQUEST, on_text=None, **more):
    """The response of one attempt, and the server that was asked."""
    world, server = World.virtual(), Server(answers)
    model = wired(world, server, wire, **more)
    return world.run(model.attempt(request, terms, on_text)), server


def failed(*answers, wire="openai", terms=WHOLE, request=REQUEST, on_text=None, **more):
    """The error of one attempt, after what holds for every one was checked."""
    world, server = World.virtual(), Server(answers)
    model = wired(world, server, wire, **more)
    with pytest.raises(LLMError) as caught:
        world.run(model.attempt(request, terms, on_text))
    error = caught.value
    assert error.model == model.name
    assert 0 < len(error.next_step) <= 160
    return error


# -- what is sent


def test_a_request_carries_its_headers():
    """Type, key, idempotency key and the provider's own; no compression is asked for."""
    terms = Terms(idempotency_key="k1")
    _, server = asked(document(chat()), terms=terms, provider={"headers": {"x-team": "a"}})
    (sent,) = server.requests
    headers = dict(sent.headers)
    assert str(sent.url) == "http://127.0.0.1:9/v1/chat/completions"
    assert (headers["host"], headers["accept"], headers["accept-encoding"]) == (
        "127.0.0.1:9",
        "application/json",
        "identity",
    )
    assert (headers["authorization"], headers["idempotency-key"], headers["x-team"]) == (f"Bearer {KEY}", "k1", "a")
    assert (headers["content-type"], headers["content-length"]) == ("application/json", str(len(sent.content)))


def test_an_azure_like_address_has_its_query_and_key_header():
    """`api-version` goes with every request, beside a query that base_url has already."""
    _, server = asked(document(chat()), provider={"auth": "api-key", "query": {"api-version": "2024-10-21", "x": "1"}})
    (sent,) = server.requests
    assert dict(sent.url.params) == {"api-version": "2024-10-21", "x": "1"}
    assert sent.headers["api-key"] == KEY
    assert "authorization" not in sent.headers


@pytest.mark.parametrize(
    ("wire", "header", "path"),
    [
        ("anthropic", "x-api-key", "/v1/v1/messages"),
        ("gemini", "x-goog-api-key", "/v1/models/gpt:generateContent"),
    ],
)
def test_each_wire_has_its_own_key_header_and_path(wire, header, path):
    """And Anthropic's version goes along."""
    world, server = World.virtual(), Server([document({})])
    with pytest.raises(LLMError):
        world.run(wired(world, server, wire).attempt(REQUEST, Terms()))
    (sent,) = server.requests
    assert (sent.headers[header], sent.url.path) == (KEY, path)
    assert ("anthropic-version" in sent.headers) is (wire == "anthropic")


@pytest.mark.parametrize("more", [{"key": None}, {"provider": {"auth": "none"}}])
def test_without_a_key_none_is_sent(more):
    """Local servers take none."""
    _, server = asked(document(chat()), **more)
    assert "authorization" not in server.requests[0].headers


def test_gemini_streams_by_its_own_path():
    """A query of the provider's joins the one of the format."""
    made = {"candidates": [{"content": {"parts": [{"text": "42"}]}, "finishReason": "STOP"}]}
    response, server = asked(streamed(made, done=False), wire="gemini", terms=STREAM, provider={"query": {"a": "b"}})
    assert response.text == "42"
    assert dict(server.requests[0].url.params) == {"alt": "sse", "a": "b"}


def test_parameters_and_texts_of_every_kind_pass_through():
    """Lone surrogates are replaced, other scripts are sent as they are."""
    messages = (Message(role="user", content="世界 \ud800 \x00"),)
    _, server = asked(
        document(chat()), request=Request(messages=messages, params={"temperature": 0.5, "max_tokens": 7})
    )
    (body,) = server.bodies
    assert body["messages"][0]["content"] == "世界 \ufffd \x00"
    assert (body["temperature"], body["max_tokens"]) == (0.5, 7)


@pytest.mark.parametrize(
    ("messages", "params", "code"),
    [
        ((Message(role="tool", content="x"),), {}, "validation.request"),
        ((Message(role="", content="x"),), {}, "validation.request"),
        ((Message(role="user", content="x"),), {"stream": True}, "validation.params"),
        ((Message(role="user", content="x"),), {"n": 2}, "validation.params"),
        ((Message(role="user", content="x"),), {"temperature": float("nan")}, "validation.params"),
        ((Message(role="user", content="x"),), {"x": object()}, "validation.params"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_it_is_sent(messages, params, code):
    """By its code, and nothing is billed."""
    world, server = World.virtual(), Server([document(chat())])
    with pytest.raises(LLMValidationError) as caught:
        world.run(wired(world, server).attempt(Request(messages=messages, params=params), Terms()))
    assert (caught.value.code, caught.value.possibly_billed, server.requests) == (code, False, [])


def test_a_sample_that_has_no_form_is_refused_before_it_is_sent():
    """The key of a request is made of it: what cannot be written is not paid for first."""
    world, server = World.virtual(), Server([document(chat())])
    request = Request(messages=REQUEST.messages, sample=object())  # type: ignore[arg-type]
    with pytest.raises(LLMValidationError):
        world.run(Chain(shared(world), (wired(world, server),)).complete(request))
    assert server.requests == []


def test_samples_of_one_prompt_are_different_requests_with_the_same_body():
    """The n-th draw has a key of its own; the provider is asked the same."""
    draws = [Request(messages=REQUEST.messages, sample=n) for n in range(3)]
    made = [asked(document(chat()), request=request) for request in draws]
    assert len({response.request_key for response, _ in made}) == 3
    assert len({server.requests[0].content for _, server in made}) == 1


# -- what becomes of the answer


def test_a_whole_answer_is_a_response():
    """Text, usage, price, end, the provider's model and id; `complete` is an attempt without terms."""
    world, server = World.virtual(), Server([document(chat(), x_request_id="r1")])
    model = wired(world, server)
    response = world.run(model.complete(REQUEST))
    assert (response.text, response.model, response.request_key) == ("42", "p:gpt", REQUEST.key)
    assert response.usage == Usage(prompt_tokens=10, completion_tokens=5)
    assert response.cost_usd == pytest.approx(20e-6)
    assert (response.finish_reason, response.served_model, response.request_id) == ("stop", "gpt", "r1")
    assert (response.flags, response.source, response.ttft_ms) == ((), "live", None)


@pytest.mark.parametrize("end", [{"choice": {"finish_reason": None}}, {"choice": {"finish_reason": "length"}}])
def test_an_answer_without_an_end_has_stopped(end):
    """One that was cut says so."""
    response, _ = asked(document(chat(**end)))
    assert response.finish_reason == (end["choice"]["finish_reason"] or "stop")
    assert response.truncated is (response.finish_reason == "length")


@pytest.mark.parametrize(
    ("more", "flags"),
    [
        ({"usage": None}, ("usage_estimated",)),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": 5}}, ("usage_estimated",)),
        ({"usage": {"prompt_tokens": 10, "completion_tokens": 10**9, "total_tokens": 1}}, ("usage_capped",)),
        ({"model": "other"}, ("model_mismatch",)),
        ({"model": "GPT"}, ()),
        ({"model": "org/gpt:free"}, ()),
        ({"model": "gpt-2026-01-01"}, ()),
        ({"model": "gpt-mini"}, ("model_mismatch",)),
        ({"model": None}, ()),
        ({"model": ""}, ()),
        ({"content": "4\ud800"}, ("text_replaced",)),
    ],
)
def test_what_is_unusual_about_an_answer_is_flagged(more, flags):
    """Estimated or cut usage, another model than was asked, replaced characters."""
    content = more.pop("content", "42")
    raw = json.dumps(chat(content, **more)).encode()
    response, _ = asked(lambda: httpx.Response(200, content=raw))
    assert response.flags == flags
    if content != "42":
        assert response.text == "4\ufffd"


def test_a_broken_event_is_flagged_where_the_rest_is_whole():
    """One event that is no JSON is skipped when end and usage came."""
    response, _ = asked(streamed(piece("4"), "{broken", piece("2", "stop"), LAST), terms=STREAM)
    assert (response.text, response.flags) == ("42", ("event_skipped",))


def test_the_model_that_served_sets_the_price():
    """Where its card is known and has a price; else the price of the one that was asked."""
    dear = ModelCard(name="p:big", prompt_usd_per_mtok=100.0, completion_usd_per_mtok=200.0)
    cards = {"p:gpt": priced("p:gpt"), "p:big": dear, "p:free": ModelCard(name="p:free")}
    for served, cost_usd in (("big", 2000e-6), ("free", 20e-6), ("unknown", 20e-6), ("gpt", 20e-6)):
        response, _ = asked(document(chat(model=served)), cards=cards)
        assert response.cost_usd == pytest.approx(cost_usd), served


def test_an_unknown_price_is_no_price():
    """None, and not 0; a prompt beyond the card's prices has none either."""
    assert asked(document(chat()), cards={})[0].cost_usd is None
    small = ModelCard(name="p:gpt", prompt_usd_per_mtok=1.0, completion_usd_per_mtok=1.0, prices_up_to_tokens=9)
    assert asked(document(chat()), cards={"p:gpt": small})[0].cost_usd is None


@pytest.mark.parametrize(
    ("answer", "code", "retryable"),
    [
        (lambda: httpx.Response(200, content=b"not json"), "provider.malformed", True),
        (lambda: httpx.Response(200, content=b"\xff\xfe"), "provider.malformed", True),
        (lambda: httpx.Response(200, content=b"[" * 100_000), "provider.malformed", True),
        (lambda: httpx.Response(200, content=b""), "provider.malformed", True),
        (lambda: httpx.Response(200, html="<html>"), "provider.malformed", False),
        (document([1]), "provider.malformed", False),
        (document("text"), "provider.malformed", False),
        (lambda: httpx.Response(200, content=b"null"), "provider.malformed", False),
        (document({}), "provider.empty", False),
        (document(chat("")), "provider.empty", True),
        (document(chat(None, message={"refusal": "No."})), "provider.refusal", False),
        (document({"error": {"type": "server_error", "message": "m"}}), "provider.server", True),
    ],
)
def test_what_is_no_answer_is_a_typed_failure(answer, code, retryable):
    """With the cause where there was one."""
    error = failed(answer)
    assert (error.code, error.retryable) == (code, retryable)
    if b"json" in (answer().content or b""):
        assert isinstance(error.__cause__, ValueError)


def test_a_failure_that_used_tokens_books_them():
    """A refusal reports its usage and costs what it costs; its words are kept."""
    error = failed(document(chat(None, message={"refusal": "I cannot."})))
    assert (error.partial, error.usage) == ("I cannot.", Usage(prompt_tokens=10, completion_tokens=5))
    assert error.cost_usd == pytest.approx(20e-6)
    assert error.possibly_billed


def test_a_refused_status_quotes_the_provider_and_keeps_its_id():
    """Redacted, on one line, with status and request id."""
    error = failed(document({"error": {"message": "no\nway", "type": "x"}}, 400, request_id="r9"))
    assert isinstance(error, LLMProviderError)
    assert (error.status, error.request_id) == (400, "r9")
    assert error.message == "p:gpt answered 400: no way"


@pytest.mark.parametrize(
    ("raw", "said"),
    [(b"plain words", "plain words"), (b'"a text"', "a text"), (b"", "no message"), (b"\xff\xfe", "\ufffd\ufffd"),
     (b"null", "no message")],
)  # fmt: skip
def test_a_refusal_in_any_form_is_quoted(raw, said):
    """Without JSON, as a JSON text, empty, and as bytes that are no text."""
    assert failed(lambda: httpx.Response(500, content=raw)).message == f"p:gpt answered 500: {said}"


def test_a_refusal_whose_body_breaks_is_told_by_its_status():
    """The status says enough."""
    body = lambda: httpx.Response(429, stream=stream_of([b"x", httpx.ReadError("x")]).stream)  # noqa: E731
    assert failed(body).code == "rate_limit"


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, None, ("P_KEY", "gpt", "workbench doctor")),
        (404, None, ("gpt-4", "workbench models")),
        (400, "context_length_exceeded", ("SemanticChunker", "context_window", "1000")),
        (413, None, ("bytes", "SemanticChunker")),
        (500, None, ("max_retries",)),
    ],
)
def test_the_next_step_names_what_depends_on_the_model(status, kind, words):
    """Key variable, closest name, window, size."""
    cards = {"p:gpt": priced("p:gpt", 1000), "p:gpt-4": priced("p:gpt-4"), "q:other": priced("q:other")}
    error = failed(document({"error": {"code": kind, "message": "m"}}, status), cards=cards)
    assert all(word in error.next_step for word in words)


def test_an_unknown_model_without_a_close_name_has_the_general_next_step():
    """Nothing is invented."""
    assert "base_url" in failed(document({}, 404), cards={}).next_step


def test_the_retry_delay_of_a_body_is_kept():
    """Google names it in the details."""
    body = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "34s"}]}}
    assert failed(document(body, 429), wire="gemini").retry_after_s == 34.0


# -- streams and time


def timely(pieces, every_s, **terms):
    """The response or error, the pieces heard, and when it ended."""
    world, heard = World.virtual(), []
    body = stream_of(pieces, every_s)
    model = wired(world, Server([body]))

    async def attempt():
        try:
            return await model.attempt(REQUEST, Terms(stream=True, **terms), heard.append)
        except LLMError as error:
            return error

    return world.run(attempt()), heard, world.now_s(), body.stream


FLOW = [events(piece("4"), done=False), events(piece("2"), done=False), events(piece(None, "stop"), LAST)]


def test_a_stream_gives_its_pieces_and_the_time_of_the_first():
    """One piece a second."""
    response, heard, _, body = timely(FLOW, 1.0)
    assert (response.text, heard) == ("42", ["4", "2"])
    assert (response.ttft_ms, response.latency_ms) == (1000.0, 3000.0)
    assert body.closed


@pytest.mark.parametrize(
    ("every_s", "terms", "code", "at_s", "heard"),
    [
        (2.0, {"first_token_s": 1.0}, "timeout.first_token", 1.0, []),
        (2.0, {"first_token_s": 3.0, "idle_s": 1.0}, "timeout.idle", 3.0, ["4"]),
        (2.0, {"timeout_s": 5.0}, "timeout.deadline", 5.0, ["4", "2"]),
        (2.0, {"timeout_s": 1.0, "first_token_s": 9.0}, "timeout.deadline", 1.0, []),
    ],
)
def test_every_silence_has_its_limit(every_s, terms, code, at_s, heard):
    """Until the first text, between two pieces, and for the whole; the connection is closed and the text kept."""
    error, told_so_far, ended_s, body = timely(FLOW, every_s, **terms)
    assert isinstance(error, LLMTimeoutError)
    assert (error.code, ended_s, told_so_far) == (code, pytest.approx(at_s), heard)
    assert error.partial == ("".join(heard) or None)
    assert error.possibly_billed
    assert isinstance(error.__cause__, TimeoutError)
    assert body.closed


def test_events_without_text_do_not_put_off_the_first_token():
    """A server that sends empty events for ever is given up at first_token_s; text moves the limit on."""
    empty = [events(piece(""), done=False)] * 50
    error, _, ended_s, _ = timely(empty, 0.5, first_token_s=2.0, idle_s=1.0)
    assert (error.code, ended_s) == ("timeout.first_token", pytest.approx(2.0))


def test_a_whole_answer_has_one_deadline():
    """A silent server is left at the deadline; the request had left."""
    error = failed(60.0, terms=Terms(timeout_s=2.0))
    assert (error.code, error.possibly_billed) == ("timeout.deadline", True)


def test_waiting_for_a_connection_is_under_the_deadline_and_not_billed():
    """Nothing had left when the time was over."""
    world, server = World.virtual(), Server([60.0])
    model = wired(world, server)
    model.http.max_connections = 1

    async def two():
        first = asyncio.create_task(model.attempt(REQUEST, Terms(timeout_s=9.0)))
        await asyncio.sleep(0)
        with pytest.raises(LLMTimeoutError) as caught:
            await model.attempt(REQUEST, Terms(timeout_s=1.0))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return caught.value

    assert not world.run(two()).possibly_billed
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("made", "code", "partial"),
    [
        ([events(piece("4"), done=False)], "provider.truncated", "4"),
        ([events(piece("4"), done=False), b'data: {"cho'], "provider.truncated", "4"),
        ([], "provider.empty", None),
        ([b": ping\n\n"], "provider.empty", None),
        ([events(done=True)], "provider.empty", None),
        ([events("{broken", "[1]")], "provider.malformed", None),
        ([events(piece("4"), {"error": {"code": "429", "message": "m"}})], "rate_limit", "4"),
        ([events(piece("4"), done=False), httpx.ReadError("x")], "provider.connection", "4"),
        ([events(piece("x" * 700), piece("x" * 700))], "provider.too_large", "x" * 1400),
        ([b"data: " + b"x" * 3000], "provider.too_large", None),
    ],
)
def test_a_stream_that_does_not_end_well_is_a_typed_failure(made, code, partial):
    """What had arrived is kept and may have been billed."""
    longest = 1200 if code == "provider.too_large" else 2**20
    error = failed(lambda: stream_of(made), terms=STREAM, longest=longest)
    if code == "provider.too_large" and partial:
        assert error.partial is None or partial.startswith(error.partial)
    else:
        assert error.partial == partial
    assert error.code == code


def test_a_last_event_without_an_empty_line_still_counts():
    """Some servers leave it out."""
    raw = events(piece("42", "stop"), done=False).rstrip(b"\n")
    assert asked(lambda: stream_of([raw]), terms=STREAM)[0].text == "42"


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
def test_a_server_that_does_not_stream_is_read_whole(kind):
    """Its text is one piece."""
    heard = []
    response, _ = asked(document(chat(), content_type=kind), terms=STREAM, on_text=heard.append)
    assert (response.text, heard) == ("42", ["42"])


def test_an_error_in_the_place_of_a_stream_gives_no_piece():
    """A consumer that was given nothing can still be given another model's answer."""
    heard = []
    error = failed(document({"error": {"type": "server_error", "message": "m"}}), terms=STREAM, on_text=heard.append)
    assert (error.code, heard) == ("provider.server", [])


@pytest.mark.parametrize("kind", ["text/event-stream", "Text/Event-Stream; charset=UTF-8", "TEXT/EVENT-STREAM"])
def test_the_type_of_a_stream_is_read_in_any_case(kind):
    """Media types do not distinguish capitals (RFC 9110, section 8.3.1)."""
    body = events(piece("42", "stop"), LAST)
    answer = lambda: httpx.Response(200, content=body, headers={"content-type": kind})  # noqa: E731
    assert asked(answer, terms=STREAM)[0].text == "42"


# -- the key


def echoes():
    """Answers in which a provider gives the key back, in every place and form."""
    forms = [KEY, f"Bearer {KEY}", quote(KEY, safe=""), json.dumps(KEY)[1:-1]]
    for form in forms:
        yield document({"error": {"message": f"bad key {form} given", "type": "x"}}, 401)
        yield document({"error": {"message": f"{'x' * 180} {form}", "type": "x"}}, 401)
        yield lambda form=form: httpx.Response(500, content=form.encode())
        yield document({"error": {"message": f"bad key {form}", "type": "server_error"}})
        yield document({"error": {"message": f"{'x' * 180} {form}", "type": "server_error"}})
        yield streamed(piece("4"), {"error": {"message": f"key {form}", "type": "server_error"}})
        yield lambda form=form: httpx.Response(500, json={}, headers={"x-request-id": form.replace("\\", "")})
        yield document({"id": form, "error": {"message": "m", "type": "server_error"}})
        yield document(chat(None, message={"refusal": f"your key is {form}"}))


@pytest.mark.parametrize("number", range(36))
def test_a_key_that_a_provider_gives_back_is_never_shown(number):
    """Not in the error, its values and traceback, the failure, nor a row of the log; not even half of it."""
    world = World.virtual()
    server = Server([list(echoes())[number]])
    admission = shared(world, retry=RetryPolicy(max_retries=0), stream=number % 9 == 5)
    with pytest.raises(LLMError) as caught:
        world.run(Chain(admission, (wired(world, server),)).complete(REQUEST))
    assert len(server.requests) == 1
    assert caught.value.code != "provider.unexpected"
    shown = "\n".join(
        [told(caught.value), repr(failure_of(caught.value)), repr(caught.value.as_dict()), repr(rows(world, object))]
    )
    for part in (KEY[3:], KEY[:14], quote(KEY, safe="")[3:], "canary"):
        assert part not in shown


def test_nothing_that_holds_the_key_shows_it():
    """Neither the model nor what it is made of."""
    world = World.virtual()
    model = wired(world, Server([]))
    for shown in (
        repr(model),
        str(model),
        repr(model.provider),
        repr(model.key),
        f"{model.key}",
        repr(model._addresses),
    ):
        assert "canary" not in shown


def test_the_key_is_not_in_the_error_of_a_request_that_cannot_be_written():
    """A header that no library takes is named without its value."""
    world = World.virtual()

    def handler(request):
        raise httpx.LocalProtocolError(f"Illegal header value {request.headers['authorization']!r}")

    with pytest.raises(LLMError) as caught:
        world.run(wired(world, handler).attempt(REQUEST, Terms()))
    assert caught.value.code == "provider.protocol"
    assert "canary" not in str(caught.value) + repr(caught.value) + caught.value.next_step


# -- cancellation


@pytest.mark.parametrize("when_s", [0.0, 0.5, 1.5, 2.5])
def test_a_cancelled_attempt_closes_its_connection(when_s):
    """Before the head, in the body and between pieces; CancelledError passes."""
    world, body = World.virtual(), stream_of(FLOW, 1.0)

    async def slow(request):
        await asyncio.sleep(0.25)
        return body

    model = wired(world, slow)

    async def cancelled():
        task = asyncio.create_task(model.attempt(REQUEST, STREAM))
        await asyncio.sleep(when_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    world.run(cancelled())
    assert body.stream.closed is (when_s > 0.25)


# -- other paths of the provider


def test_another_path_is_asked_with_the_same_discipline():
    """A document comes back with its latency; a stream is never asked for."""
    world, server = World.virtual(), Server([document({"data": [1]})])
    model = wired(world, server)
    made, latency_ms = world.run(model.post_json("/embeddings", {"input": ["a"]}, REQUEST, Terms(stream=True)))
    assert (made, latency_ms) == ({"data": [1]}, 0.0)
    (sent,) = server.requests
    assert (sent.url.path, sent.headers["accept"]) == ("/v1/embeddings", "application/json")
    assert server.bodies == [{"input": ["a"]}]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (60.0, "timeout.deadline"),
        (document({"error": {}}, 500), "provider.server"),
        (document([]), "provider.malformed"),
    ],
)
def test_another_path_fails_as_an_attempt_does(answer, code):
    """By its code and model."""
    world = World.virtual()
    model = wired(world, Server([answer]))
    with pytest.raises(LLMError) as caught:
        world.run(model.post_json("/embeddings", {}, REQUEST, Terms(timeout_s=1.0)))
    assert (caught.value.code, caught.value.model) == (code, "p:gpt")
