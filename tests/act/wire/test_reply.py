"""What an answer brings, whether it is one, and the bytes that events are made of."""

from __future__ import annotations

import random
from types import MappingProxyType

import pytest

from workbench.act.wire import reply as module
from workbench.act.wire.reply import Reply, error_fields, json_ready, params_of, quoted, retry_delay, verdict_on
from workbench.act.wire.sse import EventStream
from workbench.errors import LLMProviderError, LLMValidationError
from workbench.facts import Request, Usage

GOOD = {"text": ["42"], "found": True, "finish": "stop", "events": 2, "ended": True}
FULL = Usage(prompt_tokens=10, completion_tokens=5)


@pytest.mark.parametrize(
    ("more", "streamed", "expected"),
    [
        ({}, False, None),
        ({}, True, None),
        ({"finish": None}, False, None),  # some servers name no end of a whole answer
        ({"finish": None}, True, None),  # [DONE] is enough
        ({"ended": False}, True, None),  # so is a finish reason
        ({"finish": "length"}, True, None),
        ({"finish": None, "ended": False}, True, ("provider.truncated", True)),
        ({"events": 0, "text": []}, True, ("provider.empty", True)),
        ({"events": 0, "text": [], "broken": 2}, True, ("provider.malformed", True)),
        ({"finish": "content_filter"}, False, ("provider.content_filter", False)),
        ({"refusal": ["No."]}, False, ("provider.refusal", False)),
        ({"finish": "refusal"}, True, ("provider.refusal", False)),
        ({"tools": True}, False, ("provider.empty", False)),
        ({"finish": "tool_calls"}, True, ("provider.empty", False)),
        ({"broken": 1}, True, ("provider.malformed", True)),
        ({"broken": 1, "usage": FULL}, True, None),  # one is forgiven when end and usage came
        ({"broken": 2, "usage": FULL}, True, ("provider.malformed", True)),
        ({"broken": 1, "usage": FULL, "finish": None}, True, ("provider.malformed", True)),
        ({"text": []}, False, ("provider.empty", True)),
        ({"text": [" \n\t"]}, False, ("provider.empty", True)),
        ({"text": [], "found": False}, False, ("provider.empty", False)),
        ({"text": [], "finish": "length"}, False, ("provider.empty", False)),
    ],
)
def test_an_answer_has_text_and_an_end_and_is_no_refusal(more, streamed, expected):
    """Everything else is named, with whether asking again may help; the model is in the message."""
    made = verdict_on(Reply(**{**GOOD, **more}), model="p:m", streamed=streamed)
    assert (made and (made.code, made.retryable)) == expected
    if made is not None:
        assert made.message.startswith("p:m ")
        assert made.model == "p:m"
        assert 0 < len(made.next_step) <= 160


def test_what_was_said_is_kept():
    """As the partial answer: the text, else the refusal's words, else nothing."""
    assert Reply(text=["4", "2"], refusal=["No"]).partial == "42"
    assert Reply(refusal=["N", "o"]).partial == "No"
    assert Reply().partial is None
    made = verdict_on(Reply(text=["4"], events=1, request_id="r"), model="p:m", streamed=True)
    assert (made.partial, made.request_id, made.status) == ("4", "r", 200)


@pytest.mark.parametrize(
    ("body", "words", "message"),
    [
        ({"error": {"code": 1, "type": "t", "status": "s", "message": "m"}}, (1, "t", "s", None), "m"),
        ({"error": {"innererror": {"code": "i"}}}, (None, None, None, "i"), ""),
        ({"error": {"inner_error": {"code": "i"}}}, (None, None, None, "i"), ""),
        ({"error": {"details": [{"reason": "a"}, 3, {"reason": "b"}]}}, (None, None, None, None, "a", None, "b"), ""),
        ({"error": "words"}, (None, None, None, None), "words"),
        ({"error": [], "message": "m"}, (None, None, None, None), "m"),
        ({"error": 7, "detail": "d", "code": "c"}, (None, "c", None, None), "d"),
        ({"__type": "X", "message": "m"}, ("X", None, None, None), "m"),
        ({"type": "error"}, (None, None, "error", None), ""),
    ],
)
def test_an_error_is_read_in_the_forms_of_all_providers(body, words, message):
    """Typed fields apart from the words."""
    assert error_fields(body) == (words, message)


@pytest.mark.parametrize("body", [{}, {"error": None}, {"type": "message"}, {"message": "hello"}])
def test_a_document_without_an_error_has_none(body):
    """A null is none."""
    assert error_fields(body) is None


def test_the_wait_of_a_body_is_found_among_its_details():
    """The first that names one."""
    assert retry_delay({"error": {"details": [{"reason": "x"}, {"retryDelay": "34s"}, {"retryDelay": "1s"}]}}) == "34s"
    assert retry_delay({"error": {"details": {}}}) is None
    assert retry_delay({}) is None


def test_quoted_words_are_cut_and_harmless():
    """200 characters on one line, without live markup."""
    assert quoted("  a\n\tb ") == "a b"
    assert quoted("") == "no message"
    assert quoted("<b>&") == "&lt;b&gt;&amp;"
    assert quoted("x" * 200) == "x" * 200
    assert quoted("x" * 201) == "x" * 197 + "..."


class Scalar:
    """A number as numpy has them."""

    def item(self):
        """The Python number."""
        return 3


def test_parameters_become_plain_values():
    """Frozen mappings, tuples and the numbers of other libraries."""
    params = {"a": MappingProxyType({"b": (1, 2)}), "d": Scalar()}
    assert json_ready(params) == {"a": {"b": [1, 2]}, "d": 3}
    assert params_of(Request(messages=(), params={})) == {}


@pytest.mark.parametrize("value", [object(), float("nan"), float("inf"), b"bytes", 1j, {5}])
def test_a_parameter_that_json_has_no_form_for_is_refused_by_name(value):
    """Before anything is sent, as validation.params and not as a TypeError or as invalid JSON."""
    with pytest.raises(LLMValidationError) as caught:
        params_of(Request(messages=(), params={"temperature": value}))
    assert caught.value.code == "validation.params"


@pytest.mark.parametrize("value", [None, 1, "x", [], (), {}, MappingProxyType({})])
def test_values_from_outside_are_read_by_their_type(value):
    """A mapping, list, text or whole number, or the empty one in its place."""
    assert module.mapping(value) == (value if isinstance(value, dict | MappingProxyType) else {})
    assert list(module.sequence(value)) == (value if isinstance(value, list) else [])
    assert module.text(value) == (value if isinstance(value, str) else "")
    assert module.whole_number(value) == (value if isinstance(value, int) else None)
    assert module.whole_number(True) is None
    assert module.whole_number(-3) == -3


# -- events out of bytes


def parsed(raw, sizes, longest=1000):
    """The events of bytes that arrive in pieces of the given sizes, the last one over and over."""
    events, found, at = EventStream(longest), [], 0
    sizes = iter(sizes)
    size = next(sizes)
    while at < len(raw):
        found += events.feed(raw[at : at + size])
        at += size
        size = next(sizes, size)
    return [*found, *events.close()]


EXAMPLES = [
    (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    (b"data:a\ndata:  b\n\n", [b"a\n b"]),
    (b": ping\n\nevent: x\nid: 1\nretry: 5\ndata: a\n\n", [b"a"]),
    (b"data: a", [b"a"]),
    (b"data: a\n", [b"a"]),
    (b"data: a\r", [b"a"]),
    (b"data\n\n", [b""]),
    (b"data: a\n\n\n\n", [b"a"]),
    (b"Data: a\n\nxdata: b\n\n", []),
    (b"data: \xe4\xb8\x96\xe7\x95\x8c\n\n", ["世界".encode()]),
    (b"data: a\x0bb\x0cc\x1cd\xc2\x85e\n\n", [b"a\x0bb\x0cc\x1cd\xc2\x85e"]),
    (b"", []),
    (b"\xef\xbb", []),
]


@pytest.mark.parametrize(("raw", "expected"), EXAMPLES)
def test_events_do_not_depend_on_how_their_bytes_arrive(raw, expected):
    """Whole, byte by byte, and in a hundred random ways."""
    rng = random.Random(3)
    for sizes in ([len(raw) or 1], [1], [2], [3], *([rng.randrange(1, 6) for _ in range(30)] for _ in range(100))):
        assert parsed(raw, sizes) == expected, sizes


@pytest.mark.parametrize(
    "raw", [b"data: " + b"x" * 1001, b"data: " + b"x" * 600 + b"\ndata: " + b"x" * 600, b"x" * 1001]
)
def test_an_event_beyond_the_limit_is_refused(raw):
    """In one line, in several, or in a line that never ends."""
    with pytest.raises(LLMProviderError) as caught:
        parsed(raw + b"\n\n" * (raw[:1] == b"d"), [100])
    assert caught.value.code == "provider.too_large"
