"""Facts: frozen values, stable keys, and texts that can always be stored."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import facts
from workbench.canonical import canonical_json, clean_text, text_hash
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import EnsembleResponse, Failure, Message, ModelContribution, Request

ROOT = Path(__file__).parents[1]
VALUES = [v for v in vars(facts).values() if inspect.isclass(v) and dataclasses.is_dataclass(v)]
any_text = st.text(st.characters(), max_size=30)  # lone surrogates included
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def ask(prompt="How many?", **more):
    """A request with one user message."""
    return Request(messages=(Message(role="user", content=prompt),), **more)


# --- values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES, ids=lambda v: v.__name__)
def test_every_fact_is_frozen_slotted_and_named(value):
    """A fact cannot be changed, takes no attribute of its own, and is made by naming its fields."""
    assert value.__dataclass_params__.frozen
    assert "__slots__" in vars(value)
    assert all(f.kw_only for f in dataclasses.fields(value))
    assert value.__doc__
    assert "(" + ", ".join(f.name for f in dataclasses.fields(value)) not in value.__doc__  # not the generated one


def test_a_request_cannot_be_changed():
    """Neither the fields of a request nor the parameters inside it can be set after it was made."""
    given_params = {"temperature": 0.0}
    request = ask(params=given_params)
    key = request.key
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.sample = 2
    given_params["temperature"] = 1.0
    assert request.key == key
    with pytest.raises(TypeError):
        request.params["temperature"] = 1.0


def test_only_kept_contributions_with_an_answer_vote():
    """Filtered, failed and late members, and those without an answer, have no vote; the empty answer is one."""
    assert ModelContribution(model="m", answer="x").votes
    assert ModelContribution(model="m", answer="").votes
    assert not ModelContribution(model="m").votes
    for status in ("filtered", "failed", "late"):
        assert not ModelContribution(model="m", answer="x", status=status).votes


def test_unrated_counts_kept_contributions_of_unknown_quality():
    """A filtered or failed member is not counted, and a quality of 0 is known."""
    failure = Failure(kind="LLMError", code="error", message="")
    parts = (
        ModelContribution(model="a", answer="x"),
        ModelContribution(model="b", answer="x", quality=0.0),
        ModelContribution(model="c"),
        ModelContribution(model="d", failure=failure, status="failed"),
        ModelContribution(model="e", answer="x", status="late"),
    )
    merged = EnsembleResponse(
        text="x", answer="x", tied=("x",), strategy="s", confidence=1.0, agreement=1.0, contributions=parts
    )
    assert merged.unrated == 2


def test_the_prompt_is_the_last_user_message():
    """System messages, earlier turns and a prefilled answer are not the prompt."""
    turns = [("system", "s"), ("user", "first"), ("assistant", "a"), ("user", "second"), ("assistant", "p")]
    messages = tuple(Message(role=r, content=c) for r, c in turns)
    assert Request(messages=messages).prompt == "second"
    assert Request(messages=messages[:1]).prompt == ""
    assert Request.of("only", task="reasoning", item_id="i") == ask("only", task="reasoning", item_id="i")


# --- keys -----------------------------------------------------------------------------------------------


def test_cache_key_is_the_published_hash():
    """A key can be computed without the workbench: SHA-256 of [messages, params, task, sample] as compact JSON."""
    request = ask("Grüße 😀", params={"top_p": 0.5, "n": 1}, task="reasoning", sample=3)
    text = '[[["user","Grüße 😀"]],{"n":1,"top_p":0.5},"reasoning",3]'
    assert request.key == hashlib.sha256(text.encode("utf-8")).hexdigest()


def test_cache_key_is_the_same_in_every_process():
    """Other processes with other hash seeds give the same keys, in whatever order parameters were named."""
    code = (
        "from workbench.facts import Message, Request\n"
        "messages = (Message(role='system', content='é'), Message(role='user', content='\\ud83d?'))\n"
        "names = {'temperature', 'top_p', 'seed', 'stop', 'max_tokens'}\n"  # a set: its order is the hash seed's
        "print(Request(messages=messages, params={n: [len(n), n] for n in names}, sample=2).key)"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1", "999")
    }
    messages = (Message(role="system", content="é"), Message(role="user", content="\ud83d?"))
    names = ["stop", "seed", "temperature", "max_tokens", "top_p"]
    assert seen == {Request(messages=messages, params={n: [len(n), n] for n in names}, sample=2).key}


def test_cache_key_tells_everything_apart_that_changes_an_answer():
    """Messages, their roles and borders, every parameter with its type, task and sample are in the key."""
    requests = [
        ask(),
        ask("How many??"),
        ask("how many?"),
        ask(unicodedata.normalize("NFC", "é")),
        ask(unicodedata.normalize("NFD", "é")),
        ask(task="reasoning"),
        ask(sample=1),
        *(ask(params={"temperature": t}) for t in (0, 0.0, False, None, "0", 1, 1.0, True, [1], {"a": 1})),
        ask(params={"top_p": 1}),
        ask(params={"temperature": 1, "seed": 7}),
        Request(messages=(Message(role="system", content="How many?"),)),
        Request(messages=(Message(role="user", content="How "), Message(role="user", content="many?"))),
        Request(messages=()),
    ]
    assert len({r.key for r in requests}) == len(requests)


def test_cache_key_does_not_depend_on_who_asks():
    """The suite item is for the log: two items that ask the same share the answer."""
    assert ask(item_id="a").key == ask(item_id="b").key == ask().key


@pytest.mark.parametrize(
    "request_",
    [
        ask("\udc80", params={"stop": ["\ud800"]}),
        ask(task="\ud800"),
        Request(messages=(Message(role="\ud800", content=""),)),
    ],
    ids=["parameter", "task", "role"],
)
def test_cache_key_exists_for_any_text(request_):
    """A lone surrogate anywhere in a request does not keep it from having a key."""
    assert len(request_.key) == 64


@pytest.mark.parametrize("params", [{"temperature": float("nan")}, {"stop": {"a"}}, {1: 2, "a": 3}], ids=str)
def test_cache_key_refuses_parameters_that_are_no_json_by_name(params):
    """Parameters that cannot be sent or hashed are a typed error of the caller, not a bare one from within."""
    with pytest.raises(LLMError) as caught:
        _ = ask(params=params).key
    assert caught.value.code.startswith("validation.")


# --- texts ----------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(any_text)
def test_clean_text_replaces_lone_surrogates_and_nothing_else(text):
    """Each lone surrogate becomes one U+FFFD, a split pair its character, and all else stays, in order."""
    expected, rest = [], list(text)
    while rest:
        first = rest.pop(0)
        if "\ud800" <= first <= "\udbff" and rest and "\udc00" <= rest[0] <= "\udfff":
            low = rest.pop(0)
            expected.append(chr(0x10000 + (ord(first) - 0xD800) * 0x400 + ord(low) - 0xDC00))
        else:
            expected.append("\ufffd" if "\ud800" <= first <= "\udfff" else first)
    cleaned = clean_text(text)
    assert cleaned == "".join(expected)
    assert cleaned.encode().decode() == cleaned
    assert clean_text(cleaned) == cleaned


@pytest.mark.parametrize("text", ["", "\ufeffa", "\x00", "a\u0301", "😀", "\uffff\U0010ffff"], ids=ascii)
def test_clean_text_leaves_what_can_be_stored(text):
    """Byte-order marks, NUL, combining characters and noncharacters are not its business, also beside a surrogate."""
    assert clean_text(text) is text
    assert clean_text(text + "\ud800") == text + "\ufffd"


def test_text_hash_is_a_content_address():
    """32 hexadecimal digits of SHA-256: equal texts share one, and the empty text has the well-known one."""
    assert text_hash("") == "e3b0c44298fc1c149afbf4c8996fb924"
    assert text_hash("a") != text_hash("a ")


@settings(deadline=None)
@given(json_values)
def test_canonical_json_keeps_the_value_and_one_form(value):
    """Reading it gives the value back, and a value with keys in another order has the same string."""
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(_reordered(value)) == text


def _reordered(value):
    """The value with every object's keys in reverse order of insertion."""
    if isinstance(value, dict):
        return {k: _reordered(v) for k, v in reversed(value.items())}
    return [_reordered(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, -float("inf")], {"a": {"b": float("nan")}}], ids=str)
def test_canonical_json_refuses_what_json_cannot_say(value):
    """NaN and infinities have no JSON form; they are refused at any depth, as a ValueError."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_the_key_follows_what_may_still_change():
    """A list of messages is taken as it is at that moment; a list inside the parameters may change under the key."""
    messages = [Message(role="user", content="2+2?")]
    request = Request(messages=messages)
    key = request.key
    messages.append(Message(role="user", content="3+3?"))
    assert request.key == key == Request.of("2+2?").key
    stop = ["a"]
    asked = Request(messages=request.messages, params={"stop": stop})
    before = asked.key
    stop.append("b")
    assert asked.key != before
    assert asked.key == Request(messages=request.messages, params={"stop": ["a", "b"]}).key


@pytest.mark.parametrize("messages", [None, 7, Message(role="user", content="2+2?")])
def test_messages_that_are_no_list_are_refused(messages):
    """With the way to make a request."""
    with pytest.raises(LLMValidationError) as caught:
        Request(messages=messages)
    assert caught.value.code == "validation.request"
