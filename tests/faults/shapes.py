"""What the three wire formats look like on the wire, written by hand from their references."""

from __future__ import annotations

import json
from typing import Any

WIRES = ("openai", "anthropic", "gemini")


def document(wire: str, text: Any = "four", *, finish: str | None = "stop", served: str = "m", **changes: Any) -> Any:
    """A whole answer. finish: in OpenAI's words. changes: replace top-level fields; a value of ... removes one."""
    if wire == "openai":
        made: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": served,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        }
    elif wire == "anthropic":
        reasons = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", None: None}
        made = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": served,
            "content": [{"type": "text", "text": text}],
            "stop_reason": reasons[finish],
            "usage": {"input_tokens": 11, "output_tokens": 7},
        }
    else:
        reasons = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY", None: None}
        candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
        made = {
            "candidates": [candidate | ({"finishReason": reasons[finish]} if finish else {})],
            "usageMetadata": {"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18},
            "modelVersion": served,
            "responseId": "r1",
        }
    made |= changes
    return {name: value for name, value in made.items() if value is not ...}


def event(document: Any, name: str = "") -> bytes:
    """One server-sent event."""
    data = document if isinstance(document, str) else json.dumps(document)
    return (f"event: {name}\n" if name else "").encode() + f"data: {data}\n\n".encode()


def delta(wire: str, text: Any, served: str = "m") -> bytes:
    """An event that brings a piece of text."""
    if wire == "openai":
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        return event({"id": "c1", "object": "chat.completion.chunk", "model": served, "choices": [choice]})
    if wire == "anthropic":
        made = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        return event(made, "content_block_delta")
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    return event({"candidates": [candidate], "modelVersion": served, "responseId": "r1"})


def opening(wire: str, served: str = "m") -> list[bytes]:
    """What comes before the text."""
    if wire == "openai":
        first = {"index": 0, "delta": {"role": "assistant", "content": "", "refusal": None}, "finish_reason": None}
        return [event({"id": "c1", "object": "chat.completion.chunk", "model": served, "choices": [first]})]
    if wire == "gemini":
        return []
    usage = {"input_tokens": 11, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": served, "content": [], "usage": usage}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    return [
        event({"type": "message_start", "message": message}, "message_start"),
        event(block, "content_block_start"),
        event({"type": "ping"}, "ping"),
    ]


def closing(wire: str, served: str = "m", *, finish: str = "stop", usage: bool = True) -> list[bytes]:
    """What comes after the text: the reason, the usage and the format's own end."""
    if wire == "openai":
        last = {"index": 0, "delta": {}, "finish_reason": finish}
        base = {"id": "c1", "object": "chat.completion.chunk", "model": served}
        counts = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
        counted = [event({**base, "choices": [], "usage": counts})] if usage else []
        return [event({**base, "choices": [last]}), *counted, event("[DONE]")]
    if wire == "anthropic":
        reasons = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
        made: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": reasons[finish]}}
        if usage:
            made["usage"] = {"output_tokens": 7}
        return [
            event({"type": "content_block_stop", "index": 0}, "content_block_stop"),
            event(made, "message_delta"),
            event({"type": "message_stop"}, "message_stop"),
        ]
    reasons = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
    candidate = {"content": {"parts": [{"text": ""}], "role": "model"}, "finishReason": reasons[finish], "index": 0}
    counts = {"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18}
    return [event({"candidates": [candidate], "modelVersion": served} | ({"usageMetadata": counts} if usage else {}))]


def events(wire: str, *pieces: str, served: str = "m", finish: str = "stop", usage: bool = True) -> list[bytes]:
    """A whole stream, event by event."""
    texts = [delta(wire, piece, served) for piece in pieces]
    return [*opening(wire, served), *texts, *closing(wire, served, finish=finish, usage=usage)]


def problem(wire: str, message: str, kind: str = "invalid_request_error", code: Any = None, **more: Any) -> Any:
    """An error as the format writes it. kind: OpenAI's or Anthropic's type, Google's status."""
    if wire == "openai":
        return {"error": {"message": message, "type": kind, "param": None, "code": code, **more}}
    if wire == "anthropic":
        return {"type": "error", "error": {"type": kind, "message": message, **more}, "request_id": "req_1"}
    return {"error": {"code": code, "message": message, "status": kind, **more}}
