"""What the three wire formats look like on the wire, whole, streamed and refused.

Sources: the API references of OpenAI's `POST /chat/completions`, Anthropic's `POST /v1/messages` with its streaming
events, and Google's `models.generateContent`; their pages of error codes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from workbench.act.provider import Wire

FINISH: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "openai": {"stop": "stop", "length": "length", "content_filter": "content_filter", "tool_calls": "tool_calls"},
        "anthropic": {"stop": "end_turn", "length": "max_tokens", "refusal": "refusal", "tool_calls": "tool_use"},
        "gemini": {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY", "tool_calls": "STOP"},
    }
)
TYPES: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "openai": {401: "authentication_error", 402: "billing_error", 403: "permission_error", 429: "rate_limit_error"},
        "anthropic": {
            401: "authentication_error",
            402: "billing_error",
            403: "permission_error",
            404: "not_found_error",
            413: "request_too_large",
            429: "rate_limit_error",
            504: "timeout_error",
            529: "overloaded_error",
        },
        "gemini": {
            401: "UNAUTHENTICATED",
            403: "PERMISSION_DENIED",
            404: "NOT_FOUND",
            409: "ABORTED",
            429: "RESOURCE_EXHAUSTED",
            503: "UNAVAILABLE",
            504: "DEADLINE_EXCEEDED",
            529: "UNAVAILABLE",
        },
    }
)
_OTHERS = {
    "openai": ("invalid_request_error", "server_error"),
    "anthropic": ("invalid_request_error", "api_error"),
    "gemini": ("INVALID_ARGUMENT", "INTERNAL"),
}
_WORDS = re.compile(r"\s*\S+\s*$|\s*\S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What an answer says, before any format.

    text: None stands for a null. finish: in the words of facts.Response. usage: tokens of prompt and completion, or
    None where none are told. total: of both, where it is to be another number than their sum.
    """

    wire: Wire
    model: str
    ident: str
    text: str | None
    usage: tuple[int, int] | None
    total: int | None = None
    finish: str = "stop"

    @property
    def reason(self) -> str:
        """The finish reason as the format spells it."""
        return FINISH[self.wire][self.finish]


def pieces(text: str) -> list[str]:
    """The text word by word, as streams bring it; joined they are the text."""
    return _WORDS.findall(text) if text.strip() else [text]


def usage_of(said: Said) -> dict[str, Any]:
    """The usage as the format has it in a whole answer; empty where none is told."""
    if said.usage is None:
        return {}
    prompt, completion = said.usage
    total = prompt + completion if said.total is None else said.total
    if said.wire == "openai":
        return {"usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}}
    if said.wire == "anthropic":
        return {"usage": {"input_tokens": prompt, "output_tokens": completion}}
    counts = {"promptTokenCount": prompt, "candidatesTokenCount": completion, "totalTokenCount": total}
    return {"usageMetadata": counts}


def _openai(said: Said, kind: str, choices: list[Any]) -> dict[str, Any]:
    made = {"id": said.ident, "object": kind, "created": 0, "model": said.model, "choices": choices}
    return {**made, "system_fingerprint": "simulated"}


def _candidate(said: Said, text: str | None, *, last: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    return {**found, "finishReason": said.reason} if last else found


def _gemini(said: Said, text: str | None, *, last: bool) -> dict[str, Any]:
    made = {"candidates": [_candidate(said, text, last=last)], "modelVersion": said.model, "responseId": said.ident}
    return {**made, **(usage_of(said) if last else {})}


def document(said: Said) -> dict[str, Any]:
    """The whole answer."""
    if said.wire == "gemini":
        return _gemini(said, said.text, last=True)
    if said.wire == "openai":
        message = {"role": "assistant", "content": said.text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": said.reason}
        return {**_openai(said, "chat.completion", [choice]), **usage_of(said)}
    return {
        "id": said.ident,
        "type": "message",
        "role": "assistant",
        "model": said.model,
        "content": [{"type": "text", "text": said.text}],
        "stop_reason": said.reason,
        "stop_sequence": None,
        **usage_of(said),
    }


def opening(said: Said) -> list[dict[str, Any]]:
    """The events before the text."""
    if said.wire == "gemini":
        return []
    if said.wire == "openai":
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return [_openai(said, "chat.completion.chunk", [choice])]
    message: dict[str, Any] = {
        "id": said.ident,
        "type": "message",
        "role": "assistant",
        "model": said.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
    if said.usage is not None:
        message["usage"] = {"input_tokens": said.usage[0], "output_tokens": 1}
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]


def delta(said: Said, text: str | None) -> dict[str, Any]:
    """The event that brings a piece of text."""
    if said.wire == "gemini":
        return _gemini(said, text, last=False)
    if said.wire == "openai":
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        return _openai(said, "chat.completion.chunk", [choice])
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}


def closing(said: Said) -> list[dict[str, Any]]:
    """The events after the text: the reason and the usage."""
    if said.wire == "gemini":
        return [_gemini(said, "", last=True)]
    if said.wire == "openai":
        choice = {"index": 0, "delta": {}, "finish_reason": said.reason}
        ends = [_openai(said, "chat.completion.chunk", [choice])]
        return [*ends, {**_openai(said, "chat.completion.chunk", []), **usage_of(said)}] if said.usage else ends
    last = {"type": "message_delta", "delta": {"stop_reason": said.reason, "stop_sequence": None}}
    if said.usage is not None:
        last["usage"] = {"output_tokens": said.usage[1]}
    return [{"type": "content_block_stop", "index": 0}, last, {"type": "message_stop"}]


def event(wire: str, found: Mapping[str, Any]) -> bytes:
    """A document as a server-sent event; Anthropic's are named by their type."""
    name = f"event: {found['type']}\n" if wire == "anthropic" else ""
    return f"{name}data: {json.dumps(found)}\n\n".encode()


def done(wire: str) -> list[bytes]:
    """What ends a stream besides its last document."""
    return [b"data: [DONE]\n\n"] if wire == "openai" else []


def problem(wire: str, status: int, message: str, *, code: str | None = None) -> dict[str, Any]:
    """An error as the format writes it; code: OpenAI's, or the reason in a detail of Google's."""
    kind = TYPES[wire].get(status) or _OTHERS[wire][status >= 500]
    if wire == "openai":
        kind = "insufficient_quota" if code == "insufficient_quota" else kind
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}
    if wire == "anthropic":
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "simulated"}
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code.upper()}] if code else []
    return {"error": {"code": status, "message": message, "status": kind, "details": details}}
