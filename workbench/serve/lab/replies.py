"""The faults of the layers reply and stream: well-formed answers that are none, and streams that go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workbench.act.provider import Wire
from workbench.serve.lab.fault import Edit, Fault, Script, Shot, begun, events, opened, told
from workbench.serve.lab.shapes import Said, closing, delta, done, event, opening, pieces, problem
from workbench.serve.lab.steps import FIN, RESET, STALL, Answer, Forever, Pause

PROVIDER = "LLMProviderError"
PLACE = {"openai": "choices", "anthropic": "content", "gemini": "candidates"}
ABSURD = 10**18
Found = dict[str, Any]


# -- replies


def _edited(edit: Edit) -> Script:
    return lambda shot: told(shot, edit=edit)


def _said(**changes: Any) -> Script:
    return lambda shot: told(shot, replace(shot.said, **changes))


def _more(tail: str) -> Script:
    def script(shot: Shot) -> Answer:
        return told(shot, replace(shot.said, text=f"{shot.said.text}{tail}"))

    return script


def _ends_stream(shot: Shot, found: Found) -> bool:
    """Whether it is what ends a stream of Gemini's: without it the stream is cut off, which is another fault."""
    return shot.wire == "gemini" and shot.stream and "usageMetadata" in found


def _without_place(shot: Shot, found: Found) -> Found | None:
    if str(found.get("type", "")).startswith("content_block"):
        return None
    if _ends_stream(shot, found):
        return _without_message(shot, found)
    return {name: value for name, value in found.items() if name != PLACE[shot.wire]}


def _with_empty_place(shot: Shot, found: Found) -> Found | None:
    if str(found.get("type", "")).startswith("content_block"):
        return None
    if _ends_stream(shot, found):
        return _without_message(shot, found)
    return {**found, PLACE[shot.wire]: []} if PLACE[shot.wire] in found else found


def _without_message(shot: Shot, found: Found) -> Found | None:
    if shot.wire == "anthropic":
        if found.get("type") == "content_block_delta":
            return {**found, "delta": {"type": "text_delta"}}
        return {**found, "content": [{"type": "text"}]} if "content" in found else found
    place = PLACE[shot.wire]
    kept = [{k: v for k, v in c.items() if k not in ("message", "delta", "content")} for c in found.get(place, [])]
    return {**found, place: kept}


def _declined(shot: Shot, found: Found) -> Found | None:
    choices = []
    for choice in found["choices"]:
        name = "delta" if "delta" in choice else "message"
        said = choice[name]
        if said.get("content"):
            said = {**said, "content": None, "refusal": said["content"]}
        choices.append({**choice, name: said})
    return {**found, "choices": choices}


def _refusal(shot: Shot) -> Answer:
    said = replace(shot.said, text="I can't help with that.")
    if shot.wire == "openai":
        return told(shot, said, edit=_declined)
    return told(shot, replace(said, finish="refusal"))


_CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b'}}
_USE = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 2}}
_FUNCTION = {"parts": [{"functionCall": {"name": "add", "args": {"a": 2}}}], "role": "model"}


def _called(shot: Shot, found: Found) -> Found | None:
    """The document with a call of a tool where its text was."""
    if shot.wire == "gemini":
        return {**found, "candidates": [{**c, "content": _FUNCTION} for c in found["candidates"]]}
    if shot.wire == "anthropic":
        if found.get("type") == "content_block_start":
            return {**found, "content_block": {**_USE, "input": {}}}
        if found.get("type") == "content_block_delta":
            return {**found, "delta": {"type": "input_json_delta", "partial_json": '{"a'}}
        return {**found, "content": [_USE]} if "content" in found else found
    calls = {"content": None, "tool_calls": [{**_CALL, "index": 0}]}
    choices = [
        {**c, name: {**c[name], **calls}} if c[name].get("content") else c
        for c in found["choices"]
        for name in ("delta" if "delta" in c else "message",)
    ]
    return {**found, "choices": choices}


def _tools(shot: Shot) -> Answer:
    return told(shot, replace(shot.said, text="add", finish="tool_calls"), edit=_called)


def _short(shot: Shot) -> Answer:
    text = shot.said.text or ""
    return told(shot, replace(shot.said, text=text[: max(1, len(text) // 2)], finish="length"))


def _negative(shot: Shot) -> Answer:
    return told(shot, replace(shot.said, usage=(-10, (shot.said.usage or (0, 1))[1])))


REPLY: tuple[Fault, ...] = tuple(
    Fault(id=id_, layer="reply", does=does, expect=expect, script=script, code=code, error=PROVIDER if code else None)
    for id_, script, code, does, expect in (
        ("reply-no-choices", _edited(_without_place), "provider.empty",
         "leaves out the list of answers", "typed"),
        ("reply-empty-choices", _edited(_with_empty_place), "provider.empty",
         "sends an empty list of answers", "typed; the usage is booked"),
        ("reply-null-content", _said(text=None), "provider.empty",
         "sends null in the place of the text", "typed; never the word None"),
        ("reply-refusal", _refusal, "provider.refusal",
         "declines to answer", "flagged; its words are kept"),
        ("reply-tools", _tools, "provider.empty",
         "calls a tool with broken arguments", "typed; says that no tools are configured"),
        ("reply-filter", _said(text="", finish="content_filter"), "provider.content_filter",
         "has its answer filtered", "no retry; failover only where it is switched on"),
        ("reply-length", _short, None,
         "cuts the text and says `length`", "succeeds, truncated"),
        ("reply-no-message", _edited(_without_message), "provider.empty",
         "sends an answer without a message in it", "typed"),
        ("reply-no-usage", _said(usage=None), None,
         "leaves out the usage", "succeeds; the cost is an estimate, and says so"),
        ("reply-usage-negative", _negative, None,
         "reports -10 prompt tokens", "succeeds; estimated, the budget does not grow"),
        ("reply-usage-absurd", _said(usage=(ABSURD, ABSURD), total=3), None,
         "reports 10^18 tokens that sum up to 3", "succeeds; capped at what the request allows"),
        ("reply-wrong-model", _said(model="some-other-model-2019"), None,
         "says that another model has answered", "succeeds; the mismatch is stored"),
        ("reply-dup-id", _said(ident="chatcmpl-DUPLICATE"), None,
         "gives every answer the same id", "succeeds; no row is lost"),
        ("reply-surrogate", _more(" \ud83d"), None,
         "ends the text with half a surrogate pair", "succeeds; U+FFFD stands for it"),
        ("reply-nul", _more(" a\0b"), None,
         "has a NUL in the text", "succeeds; the text is kept as it is"),
        ("reply-special-token", _more(" <|endoftext|>"), None,
         "has a special token's name in the text", "succeeds; counted as text"),
    )
)  # fmt: skip
_ONLY: Mapping[str, tuple[Wire, ...]] = {"reply-refusal": ("openai", "anthropic"), "reply-filter": ("openai", "gemini")}
REPLY = tuple(replace(f, wires=_ONLY[f.id]) if f.id in _ONLY else f for f in REPLY)


# -- streams


def _error_mid(shot: Shot) -> Answer:
    return begun(shot, 1, event(shot.wire, problem(shot.wire, 529, "overloaded: come back later", code="529")), FIN)


def _bad_json(shot: Shot) -> Answer:
    said, words = shot.said, pieces(shot.said.text or "")
    bad = b'data: {"id":\n\n'  # twice: one that shows no text may be forgiven
    parts = [*(event(said.wire, delta(said, word)) for word in words)]
    first = [event(said.wire, one) for one in opening(said)]
    last = [*(event(said.wire, one) for one in closing(said)), *done(said.wire)]
    return opened(said, *first, *parts[:1], bad, bad, *parts[1:], *last, FIN)


def _with_cafe(said: Said) -> Said:
    return replace(said, text=f"{said.text} caf@")


def _split_utf8(shot: Shot) -> Answer:
    raw = b"".join(events(shot, _with_cafe(shot.said))).replace(b"caf@", "café".encode())
    cut = raw.index(b"\xc3") + 1
    return opened(shot.said, raw[:cut], Pause(0.03), raw[cut:], FIN)


def _crlf(shot: Shot) -> Answer:
    raw = b": keep-alive\n\n" + b": keep-alive\n\n".join(events(shot, shot.said))
    return opened(shot.said, raw.replace(b"\n", b"\r\n"), FIN)


def _endless(shot: Shot) -> Answer:
    return begun(shot, 1, Forever(event(shot.wire, delta(shot.said, " again"))))


STREAM: tuple[Fault, ...] = tuple(
    Fault(id=id_, layer="stream", forms=("stream",), script=script, error=error, code=code, does=does, expect=expect)
    for id_, script, error, code, does, expect in (
        ("sse-no-done", lambda shot: begun(shot, 2, FIN), PROVIDER, "provider.truncated",
         "ends the stream after two words", "no success; the partial text is kept"),
        ("sse-reset", lambda shot: begun(shot, 2, RESET), PROVIDER, "provider.connection",
         "resets the connection after two words", "typed; no retry once text was shown"),
        ("sse-stall", lambda shot: begun(shot, 1, STALL), "LLMTimeoutError", "timeout.idle",
         "sends one word, then nothing", "ends at idle_s"),
        ("sse-endless", _endless, "LLMTimeoutError", "timeout.deadline",
         "says `again` for ever", "ends at the deadline or the largest answer"),
        ("sse-error-mid", _error_mid, PROVIDER, "provider.overloaded",
         "sends an error after the first word", "the code that is inside it"),
        ("sse-bad-json", _bad_json, PROVIDER, "provider.malformed",
         "sends events that are no JSON between good ones", "typed; no text with a hole in it"),
        ("sse-nothing", lambda shot: opened(shot.said, FIN), PROVIDER, "provider.empty",
         "ends the stream before the first event", "typed as empty"),
        ("sse-split-utf8", _split_utf8, None, None,
         "splits a character over two packets", "succeeds; the character is whole"),
        ("sse-crlf", _crlf, None, None,
         "ends lines in CRLF and puts comments between events", "succeeds with the same text"),
        ("sse-usage-last", told, None, None,
         "sends the usage in a last event of its own", "succeeds; the usage is booked"),
    )
)  # fmt: skip
CANCEL = Fault(
    id="sse-cancel",
    layer="stream",
    forms=("stream",),
    way="client",
    does="lies in the client: leave the loop over a stream after its first piece; `left_s` of the log tells when",
    expect="closed within a second; booked as received",
)
FAULTS = (*REPLY, *STREAM, CANCEL)
