"""Anthropic messages. Source: the API reference of `POST /v1/messages` and of its streaming events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workbench.act.wire.reply import Reply, error_fields, mapping, params_of, sequence, text, whole_number, word
from workbench.facts import Request

VERSION = "2023-06-01"


class Anthropic:
    """The format named `anthropic`."""

    name = "anthropic"

    def path(self, model: str, *, stream: bool) -> str:
        """The same path for every model."""
        return "/v1/messages"

    def body(self, model: str, request: Request, *, stream: bool, max_tokens: int) -> dict[str, Any]:
        """The document to send; system messages stand apart, and a limit of tokens is compulsory."""
        system = "\n\n".join(m.content for m in request.messages if m.role == "system")
        params = params_of(request)
        if "stop" in params:
            stop = params.pop("stop")
            params["stop_sequences"] = [stop] if isinstance(stop, str) else stop
        made: dict[str, Any] = {
            "model": model,
            "max_tokens": max_tokens,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages if m.role != "system"],
            **params,
        }
        if system:
            made["system"] = system
        if stream:
            made["stream"] = True
        return made

    def limit(self, document: dict[str, Any], tokens: int, *, own_service: bool) -> None:
        """It always has one."""
        document["max_tokens"] = tokens

    def whole(self, document: Mapping[str, Any], reply: Reply) -> None:
        """Read a whole answer."""
        reply.error = error_fields(document)
        self._head(document, reply)
        blocks = document.get("content")
        reply.found = isinstance(blocks, list)
        for block in sequence(blocks):
            self._block(mapping(block), reply)

    def event(self, document: Mapping[str, Any], reply: Reply) -> str:
        """Read one event of a stream."""
        before = len(reply.text)
        match document.get("type"):
            case "message_start":
                reply.found = True
                self._head(mapping(document.get("message")), reply)
            case "content_block_start":
                self._block(mapping(document.get("content_block")), reply)
            case "content_block_delta":
                delta = mapping(document.get("delta"))
                if delta.get("type") == "text_delta":
                    reply.say(text(delta.get("text")))
                elif delta.get("type") == "thinking_delta":
                    reply.thought = True
            case "message_delta":
                self._head({**mapping(document.get("delta")), "usage": document.get("usage")}, reply)
            case "message_stop":
                reply.ended = True
            case _:
                reply.error = reply.error or error_fields(document)
        return "".join(reply.text[before:])

    def _head(self, message: Mapping[str, Any], reply: Reply) -> None:
        reply.served_model = text(message.get("model")) or reply.served_model
        reply.request_id = reply.request_id or text(message.get("id")) or None
        reason = word(message.get("stop_reason"))
        reply.finish = _FINISH.get(reason, reason) or reply.finish
        usage = mapping(message.get("usage"))
        prompt, cached = whole_number(usage.get("input_tokens")), whole_number(usage.get("cache_read_input_tokens"))
        if prompt is not None:
            # input_tokens leaves out what the cache held or took in; a prompt is all of it.
            written = whole_number(usage.get("cache_creation_input_tokens"))
            total = prompt + max(cached or 0, 0) + max(written or 0, 0)
            reply.usage = replace(reply.usage, prompt_tokens=total, cached_tokens=cached)
        if (completion := whole_number(usage.get("output_tokens"))) is not None:
            reply.usage = replace(reply.usage, completion_tokens=completion)

    def _block(self, block: Mapping[str, Any], reply: Reply) -> None:
        match block.get("type"):
            case "text":
                reply.say(text(block.get("text")))
            case "tool_use" | "server_tool_use":
                reply.tools = True
            case _:  # thinking: reasoning is no answer
                pass


_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
}
