"""OpenAI chat completions; also spoken by Ollama, vLLM, llama.cpp, LiteLLM's proxy, OpenRouter and Azure.

Source: the API reference of `POST /chat/completions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.act.wire.reply import Reply, error_fields, mapping, params_of, sequence, text, whole_number, word
from workbench.facts import Request, Usage

REASONING = ("reasoning_content", "reasoning", "thinking")


class OpenAI:
    """The format named `openai`."""

    name = "openai"

    def path(self, model: str, *, stream: bool) -> str:
        """The same path for every model."""
        return "/chat/completions"

    def body(self, model: str, request: Request, *, stream: bool, max_tokens: int) -> dict[str, Any]:
        """The document to send; the usage is asked for in streams too."""
        made: dict[str, Any] = {
            "model": model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        }
        if request.params:
            made |= params_of(request)
        if stream:
            made |= {"stream": True, "stream_options": {"include_usage": True}}
        return made

    def limit(self, document: dict[str, Any], tokens: int, *, own_service: bool) -> None:
        """OpenAI's own service has another name for it than all others of its format."""
        document["max_completion_tokens" if own_service else "max_tokens"] = tokens

    def whole(self, document: Mapping[str, Any], reply: Reply) -> None:
        """Read a whole answer."""
        self._read(document, reply, "message")

    def event(self, document: Mapping[str, Any], reply: Reply) -> str:
        """Read one event of a stream."""
        before = len(reply.text)
        self._read(document, reply, "delta")
        return "".join(reply.text[before:])

    def _read(self, document: Mapping[str, Any], reply: Reply, place: str) -> None:
        reply.error = reply.error or error_fields(document)
        reply.served_model = text(document.get("model")) or reply.served_model
        reply.request_id = reply.request_id or text(document.get("id")) or None
        usage = mapping(document.get("usage"))
        if usage:
            details = mapping(usage.get("prompt_tokens_details"))
            reply.usage = Usage(
                prompt_tokens=whole_number(usage.get("prompt_tokens")),
                completion_tokens=whole_number(usage.get("completion_tokens")),
                cached_tokens=whole_number(details.get("cached_tokens")),
            )
            reply.total_tokens = whole_number(usage.get("total_tokens"))
        choices = map(mapping, sequence(document.get("choices")))
        # One was asked for; a server that sends it twice has not said it twice.
        if choice := next((c for c in choices if c.get("index") in (0, None)), None):
            self._choice(choice, reply, place)

    def _choice(self, choice: Mapping[str, Any], reply: Reply, place: str) -> None:
        reason = word(choice.get("finish_reason"))
        reply.finish = _FINISH.get(reason, reason) or reply.finish
        reply.error = reply.error or error_fields(choice)
        message = choice.get(place)
        if not isinstance(message, Mapping):
            return
        reply.found = True
        reply.thought = reply.thought or any(
            message.get(name) for name in ("reasoning_content", "reasoning", "thinking")
        )
        content = message.get("content")
        if isinstance(content, str):
            reply.say(content)
        for part in sequence(content):  # a list of typed parts, of which only text is an answer
            if mapping(part).get("type") in ("text", "output_text"):
                reply.say(text(mapping(part).get("text")))
            elif refusal := text(mapping(part).get("refusal")):
                reply.refusal.append(refusal)
        if refusal := text(message.get("refusal")):
            reply.refusal.append(refusal)
        if message.get("tool_calls") or message.get("function_call"):
            reply.tools = True


_FINISH = {
    "function_call": "tool_calls",
    "tool_call": "tool_calls",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "limit": "length",
}
