"""Answers that parse and are none: refusals, tools, filters, lies about usage. Each is seen for what it is."""

from __future__ import annotations

import math

import pytest

from faults.bench import COMPLETION_USD, PROMPT_USD, Bench
from faults.server import reply, streamed
from faults.shapes import WIRES, closing, delta, document, event, events, opening
from workbench.errors import LLMProviderError
from workbench.facts import Call, ModelCard
from workbench.record.log import Log

OPENAI_PART = {"id": "c1", "object": "chat.completion.chunk", "model": "m"}


def choice(**fields):
    """An OpenAI answer with one choice of these fields; a stream's event when it has a delta."""
    return document("openai", choices=[{"index": 0, **fields}])


def bench_on(server, answer, wire="openai", **options):
    """A bench whose model answers so."""
    server.on("m", answer)
    return Bench(server=server, wire=wire, **options)


def empty(bench, code="provider.empty"):
    """The error of a reply that is no answer."""
    outcome = bench.call()
    return outcome.fails(LLMProviderError, code, attempts=len(outcome.rows), caused=False)


@pytest.mark.parametrize("value", [..., None, {}, "", "text", 4])
def test_reply_no_choices_is_empty(server, value):
    """choices missing, null, or of another type."""
    error = empty(bench_on(server, reply(document("openai", choices=value))))
    assert error.usage.completion_tokens == 7


@pytest.mark.parametrize(("wire", "field"), [("anthropic", "content"), ("gemini", "candidates")])
@pytest.mark.parametrize("value", [..., None, {}, [], "text"])
def test_reply_no_choices_in_the_other_formats_is_empty(server, wire, field, value):
    """The same place in the other two formats."""
    empty(bench_on(server, reply(document(wire, **{field: value})), wire))


@pytest.mark.parametrize("wire", WIRES)
def test_reply_empty_choices_is_empty_and_keeps_the_usage(server, wire):
    """An empty list is no IndexError; what it used is recorded and booked."""
    field = {"openai": "choices", "anthropic": "content", "gemini": "candidates"}[wire]
    bench = bench_on(server, reply(document(wire, **{field: []})), wire)
    outcome = bench.call()
    error = outcome.fails(LLMProviderError, "provider.empty", caused=False)
    assert (error.usage.prompt_tokens, error.usage.completion_tokens) == (11, 7)
    assert outcome.rows[0].failure.usage == error.usage
    assert error.cost_usd == pytest.approx((11 * PROMPT_USD + 7 * COMPLETION_USD) / 1e6)
    assert bench.ledger.balance("model:p:m").spent == 25


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("text", [None, "", "   \n"])
def test_reply_null_content_is_empty_and_never_the_word_none(server, wire, stream, text):
    """content null, empty or blank with finish `stop`."""
    parts = [*opening(wire), delta(wire, text), *closing(wire)]
    answer = streamed(parts) if stream else reply(document(wire, text))
    error = empty(bench_on(server, answer, wire, stream=stream))
    assert "None" not in str(error.partial or "")
    assert error.retryable


@pytest.mark.parametrize("stream", [False, True])
def test_reply_refusal_is_flagged_and_its_words_are_kept(server, stream):
    """The refusal's text is in the log and on the error, and no answer."""
    words = "I can't help with that."
    if stream:
        parts = [
            event({**OPENAI_PART, "choices": [{"index": 0, "delta": {"refusal": w}}]}) for w in (words[:9], words[9:])
        ]
        answer = streamed([*parts, *closing("openai")])
    else:
        answer = reply(choice(message={"content": None, "refusal": words}, finish_reason="stop"))
    bench = bench_on(server, answer, stream=stream, retries=2)
    outcome = bench.call()
    error = outcome.fails(LLMProviderError, "provider.refusal", caused=False)
    assert error.partial == words
    assert outcome.rows[0].failure.partial == words
    assert not error.retryable


def test_reply_refusal_of_anthropic_is_a_refusal_or_a_filter(server):
    """stop_reason `refusal` is no answer, also when some text came before it."""
    bench = bench_on(server, reply(document("anthropic", "I can", finish="content_filter")), "anthropic", retries=2)
    error = bench.call().fails(LLMProviderError, "provider.refusal", caused=False)
    assert error.partial == "I can"


TOOLS = [{"id": "t1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b'}}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_reply_tools_say_that_no_tools_are_configured(server, wire, stream):
    """A call of a tool, with broken arguments, instead of an answer."""
    if wire == "openai":
        field, end = ("delta", "tool_calls") if stream else ("message", "tool_calls")
        made = choice(**{field: {"content": None, "tool_calls": TOOLS}, "finish_reason": end})
        parts = [event(made), *closing("openai", finish="tool_calls")]
    elif wire == "anthropic":
        block = {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 2}}
        made = document("anthropic", content=[block], stop_reason="tool_use")
        start = {"type": "content_block_start", "index": 0, "content_block": {**block, "input": {}}}
        piece = {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "input_json_delta", "partial_json": '{"a'},
        }
        end = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}}
        parts = [opening("anthropic")[0], event(start), event(piece), event(end), event({"type": "message_stop"})]
    else:
        content = {"parts": [{"functionCall": {"name": "add", "args": {"a": 2}}}], "role": "model"}
        made = document("gemini", candidates=[{"content": content, "finishReason": "STOP"}])
        parts = [event(made)]
    error = empty(bench_on(server, streamed(parts) if stream else reply(made), wire, stream=stream, retries=2))
    assert "no tools are configured" in error.next_step
    assert not error.retryable
    assert len(server.asked("m")) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", ["openai", "gemini"])
def test_reply_filter_has_a_code_of_its_own_and_is_not_retried(server, wire, stream):
    """Empty content with the filter's finish reason; no failover unless it is switched on."""
    if stream:
        answer = streamed(events(wire, finish="content_filter"))
        good = streamed(events(wire, "other"))
    else:
        answer, good = reply(document(wire, "", finish="content_filter")), reply(document(wire, "other"))
    server.on("other", good)
    options = {"stream": stream, "retries": 2, "models": ("m", "other")}
    error = empty(bench_on(server, answer, wire, **options), "provider.content_filter")
    assert "failover_on_content_filter" in error.next_step
    assert not error.retryable
    assert not server.asked("other")
    outcome = bench_on(server, answer, wire, **options, discipline={"failover_on_content_filter": True}).call()
    outcome.answers("other", attempts=2)


def test_reply_filter_of_a_gemini_prompt_is_the_same_code(server):
    """promptFeedback.blockReason and no candidates."""
    answer = reply(document("gemini", candidates=..., promptFeedback={"blockReason": "SAFETY"}))
    empty(bench_on(server, answer, "gemini", retries=2), "provider.content_filter")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_reply_length_is_returned_as_truncated(server, wire, stream):
    """A text cut at its limit comes back with truncated=True and no retry."""
    if stream:
        answer = streamed(events(wire, "fo", "ur an", finish="length"))
    else:
        answer = reply(document(wire, "four an", finish="length"))
    response = bench_on(server, answer, wire, stream=stream, retries=2).call().answers("four an")
    assert response.truncated
    assert response.finish_reason == "length"


@pytest.mark.parametrize("wire", WIRES)
def test_reply_length_without_text_names_max_tokens(server, wire):
    """All tokens went before the answer: the next step names max_tokens, and the same is not asked again."""
    error = empty(bench_on(server, reply(document(wire, "", finish="length")), wire, retries=2))
    assert "max_tokens" in error.next_step
    assert len(server.asked("m")) == 1


@pytest.mark.parametrize("message", [..., None, [], "four", 4])
def test_reply_no_message_is_empty(server, message):
    """A choice of index and finish_reason alone, or whose message is something else."""
    fields = {"finish_reason": "stop"} | ({} if message is ... else {"message": message})
    empty(bench_on(server, reply(choice(**fields))))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_reply_no_usage_is_estimated_and_never_booked_as_nothing(server, wire, stream):
    """One token for every four bytes of what was sent and said, marked as an estimate."""
    field = "usageMetadata" if wire == "gemini" else "usage"
    if stream:
        opened = [e.replace(b'"usage"', b'"used"') for e in opening(wire)]
        answer = streamed([*opened, delta(wire, "four or so"), *closing(wire, usage=False)])
    else:
        answer = reply(document(wire, "four or so", **{field: ...}))
    bench = bench_on(server, answer, wire, stream=stream)
    response = bench.call().answers("four or so")
    assert response.estimated
    # 16 bytes of prompt are 4 tokens and 4 more for the message; 10 bytes of answer are 3 tokens.
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (8, 3)
    assert response.cost_usd == pytest.approx((8 * PROMPT_USD + 3 * COMPLETION_USD) / 1e6)
    assert bench.ledger.balance("model:p:m").spent == 14


USAGE = {
    "openai": ("usage", "prompt_tokens", "completion_tokens", "total_tokens"),
    "anthropic": ("usage", "input_tokens", "output_tokens", None),
    "gemini": ("usageMetadata", "promptTokenCount", "candidatesTokenCount", "totalTokenCount"),
}


def reported(wire, prompt, completion, total=None):
    """An answer with this usage."""
    field, *names = USAGE[wire]
    counts = {n: v for n, v in zip(names, (prompt, completion, total), strict=True) if n and v is not None}
    return reply(document(wire, "four", **{field: counts}))


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("prompt", "completion"), [(-10, 7), (11, -7), (-(10**18), -(10**18)), (1.5, 7), ("11", "7")])
def test_reply_usage_negative_or_no_number_is_estimated(server, wire, prompt, completion):
    """The budget never grows by a lie: a count that cannot be is replaced by an estimate."""
    bench = bench_on(server, reported(wire, prompt, completion), wire)
    response = bench.call().answers("four")
    assert response.estimated
    estimate = (11 if prompt == 11 else 8, 7 if completion == 7 else 1)
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == estimate
    assert bench.ledger.balance("model:p:m").spent == math.ceil(estimate[0] * PROMPT_USD + estimate[1] * COMPLETION_USD)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("prompt", "completion"), [(10**18, 10**18), (11, 10**18), (10**18, 7), (10**400, 1)])
def test_reply_usage_absurd_is_capped_at_what_the_request_allows(server, wire, prompt, completion):
    """10^18 tokens with a total of 3: at most the reservation is booked, the answer stays, and a flag tells."""
    total = 3 if prompt < 10**300 else None
    bench = bench_on(server, reported(wire, prompt, completion, total), wire, params={"max_tokens": 100})
    response = bench.call().answers("four")
    assert "usage_capped" in response.flags
    assert response.usage.prompt_tokens <= 24  # the bytes of the prompt and 8
    assert response.usage.completion_tokens <= 100
    assert 0 < bench.ledger.balance("model:p:m").spent <= bench.worst_micro() == 224


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_reply_wrong_model_is_stored_and_priced_as_served(server, wire, stream):
    """Accepted; requested and served are both told, and the served one's price is booked."""
    served = "some-other-model-2019"
    answer = streamed(events(wire, "four", served=served)) if stream else reply(document(wire, served=served))
    other = ModelCard(name=f"p:{served}", prompt_usd_per_mtok=10, completion_usd_per_mtok=20)
    bench = bench_on(server, answer, wire, stream=stream, cards={other.name: other})
    outcome = bench.call()
    response = outcome.answers("four")
    assert (response.model, response.served_model) == ("p:m", served)
    assert "model_mismatch" in response.flags
    assert bench.ledger.balance("model:p:m").spent == 250
    assert outcome.rows[0].response.served_model == served


def test_reply_dup_id_loses_and_overwrites_no_row(server, tmp_path):
    """The same id on every answer: our own ids are the key, in the log too."""
    answers = [reply(document("openai", f"answer {n}", id="chatcmpl-DUPLICATE")) for n in range(20)]
    bench = bench_on(server, answers[0])
    server.on("m", *answers)
    for _ in answers:
        outcome = bench.call()
        outcome.holds()
    rows = [f for f in bench.sink.facts if isinstance(f, Call) and f.model == "m"]
    assert len({r.span_id for r in rows}) == 20
    assert {r.response.request_id for r in rows} == {"chatcmpl-DUPLICATE"}
    assert stored(bench, tmp_path) == sorted([f"answer {n}" for n in range(20)])


def stored(bench, folder):
    """The texts of all answers of model m, as the log gives them back."""
    log = Log.open(folder / "log")
    try:
        log.write(*(f for f in bench.sink.facts if isinstance(f, Call)))
        log.flush()
        return sorted(
            text for (text,) in log.rows("select text from calls join texts on hash = response_hash where model = 'm'")
        )
    finally:
        log.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_reply_surrogate_is_replaced_before_anything_keeps_it(server, wire, stream, tmp_path):
    """A lone surrogate becomes U+FFFD, flagged, and the log takes the text."""
    answer = streamed(events(wire, "smile \ud83d", ".")) if stream else reply(document(wire, "smile \ud83d."))
    bench = bench_on(server, answer, wire, stream=stream)
    response = bench.call().answers("smile \ufffd.")
    assert "text_replaced" in response.flags
    assert stored(bench, tmp_path) == ["smile \ufffd."]


@pytest.mark.parametrize("wire", WIRES)
def test_reply_surrogate_pair_split_over_two_events_is_one_character(server, wire):
    """Half an emoji in one event and half in the next are one emoji, as their JSON escapes mean it."""
    answer = streamed(events(wire, "smile \ud83d", "\ude00."))
    bench_on(server, answer, wire, stream=True).call().answers("smile \U0001f600.")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_reply_nul_is_stored_and_read_back_identical(server, wire, stream, tmp_path):
    """A NUL in the text passes through the client and the log as it is."""
    text = "a\0b\0\0c"
    answer = streamed(events(wire, text)) if stream else reply(document(wire, text))
    bench = bench_on(server, answer, wire, stream=stream)
    bench.call().answers(text)
    assert stored(bench, tmp_path) == [text]


@pytest.mark.parametrize("wire", WIRES)
def test_reply_special_token_is_counted_as_text(server, wire):
    """<|endoftext|> in the answer, and in the prompt, is text: counted, not refused."""
    field = "usageMetadata" if wire == "gemini" else "usage"
    answer = reply(document(wire, "<|endoftext|>", **{field: ...}))
    response = bench_on(server, answer, wire, prompt="<|endoftext|> ?").call().answers("<|endoftext|>")
    # 13 bytes of answer are 4 tokens; 15 of prompt are 4, and 4 for the message.
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (8, 4)
