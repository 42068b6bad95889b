"""What a request asks, read from each of the three wire formats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from workbench.act.provider import Wire
from workbench.act.wire.reply import mapping, sequence, text
from workbench.facts import Message
from workbench.serve.lab.http1 import Asked

_GEMINI = re.compile(r".*/([^/]+):(generateContent|streamGenerateContent)")
ROLES = {"developer": "system", "model": "assistant"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question to a model.

    usage: the tokens are told in a stream too. listed: a stream as one JSON list, as Gemini sends it without alt=sse.
    """

    wire: Wire
    model: str
    messages: tuple[Message, ...]
    stream: bool
    usage: bool = True
    listed: bool = False


class BadAsk(Exception):  # noqa: N818 - an answer, and no error of ours
    """A request that no model can be asked. status: of the answer; its words are the message."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


def wire_of(asked: Asked) -> Wire:
    """The format that a request seems to speak, by its path and headers."""
    path = urlsplit(asked.path).path
    if path.endswith("/messages") or "anthropic-version" in asked.headers:
        return "anthropic"
    return "gemini" if path.startswith("/v1beta") or _GEMINI.fullmatch(path) else "openai"


def is_ask(asked: Asked) -> bool:
    """Whether the path is one at which models are asked."""
    path = urlsplit(asked.path).path
    return path.endswith(("/chat/completions", "/messages")) or _GEMINI.fullmatch(path) is not None


def read_ask(asked: Asked) -> Ask:
    """What is asked. Raises BadAsk."""
    body = asked.body
    if not isinstance(body, Mapping):
        raise BadAsk(400, "the body is no JSON object")
    wire = wire_of(asked)
    if wire == "gemini":
        return _gemini(asked, body)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadAsk(400, "model: the name of a model is missing")
    system = _system(body.get("system")) if wire == "anthropic" else []
    messages = tuple(system + [_message(m, "content") for m in sequence(body.get("messages"))])
    if not any(m.role != "system" for m in messages):
        raise BadAsk(400, "messages: at least one message is needed")
    stream = body.get("stream") is True
    wanted = mapping(body.get("stream_options")).get("include_usage") is True
    return Ask(
        wire=wire, model=model, messages=messages, stream=stream, usage=wire == "anthropic" or not stream or wanted
    )


def _gemini(asked: Asked, body: Mapping[str, Any]) -> Ask:
    parts = urlsplit(asked.path)
    found = _GEMINI.fullmatch(parts.path)
    if found is None:
        raise BadAsk(404, "no such method")
    instruction = body.get("systemInstruction", body.get("system_instruction"))
    system = _system(mapping(instruction).get("parts"))
    messages = tuple(system + [_message(m, "parts") for m in sequence(body.get("contents"))])
    if not any(m.role != "system" for m in messages):
        raise BadAsk(400, "contents: at least one content is needed")
    stream = found[2] == "streamGenerateContent"
    listed = stream and "alt=sse" not in parts.query.split("&")
    return Ask(wire="gemini", model=unquote(found[1]), messages=messages, stream=stream and not listed, listed=listed)


def _system(found: object) -> list[Message]:
    said = _text(found)
    return [Message(role="system", content=said)] if said else []


def _message(found: object, place: str) -> Message:
    message = mapping(found)
    role = text(message.get("role")) or "user"
    return Message(role=ROLES.get(role, role), content=_text(message.get(place)))


def _text(content: object) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(text(mapping(part).get("text")) for part in sequence(content))
