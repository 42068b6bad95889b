"""Gemini generateContent. Source: the API reference of `models.generateContent` and `GenerateContentResponse`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from workbench.act.wire.reply import Reply, error_fields, mapping, params_of, sequence, text, whole_number, word
from workbench.facts import Request, Usage

_PARAMS = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}


class Gemini:
    """The format named `gemini`."""

    name = "gemini"

    def path(self, model: str, *, stream: bool) -> str:
        """The model is part of the path."""
        place = "/".join(quote(part, safe="") for part in model.split("/"))
        place = place if "/" in place else f"models/{place}"
        return f"/{place}:streamGenerateContent?alt=sse" if stream else f"/{place}:generateContent"

    def body(self, model: str, request: Request, *, stream: bool, max_tokens: int) -> dict[str, Any]:
        """The document to send; parameters that belong to the generation go by their Google names."""
        params = params_of(request)
        config = {_PARAMS[name]: params.pop(name) for name in list(params) if name in _PARAMS}
        if "stop" in params:
            stop = params.pop("stop")
            config["stopSequences"] = [stop] if isinstance(stop, str) else stop
        made: dict[str, Any] = {
            "contents": [
                {"role": "model" if m.role == "assistant" else "user", "parts": [{"text": m.content}]}
                for m in request.messages
                if m.role != "system"
            ],
            **params,
        }
        if config:
            made["generationConfig"] = {**mapping(params.get("generationConfig")), **config}
        if system := [m.content for m in request.messages if m.role == "system"]:
            made["systemInstruction"] = {"parts": [{"text": "\n\n".join(system)}]}
        return made

    def limit(self, document: dict[str, Any], tokens: int, *, own_service: bool) -> None:
        """Part of the generation's configuration."""
        document["generationConfig"] = {**mapping(document.get("generationConfig")), "maxOutputTokens": tokens}

    def whole(self, document: Mapping[str, Any], reply: Reply) -> None:
        """Read a whole answer."""
        self.event(document, reply)

    def event(self, document: Mapping[str, Any], reply: Reply) -> str:
        """Read one event of a stream, which has the form of a whole answer."""
        before = len(reply.text)
        reply.error = reply.error or error_fields(document)
        reply.served_model = text(document.get("modelVersion")) or reply.served_model
        reply.request_id = reply.request_id or text(document.get("responseId")) or None
        if mapping(document.get("promptFeedback")).get("blockReason"):
            reply.finish = "content_filter"
        usage = mapping(document.get("usageMetadata"))
        if usage:
            shown, thought = (whole_number(usage.get(name)) for name in ("candidatesTokenCount", "thoughtsTokenCount"))
            reply.usage = Usage(
                prompt_tokens=whole_number(usage.get("promptTokenCount")),
                completion_tokens=None if shown is None and thought is None else (shown or 0) + (thought or 0),
                cached_tokens=whole_number(usage.get("cachedContentTokenCount")),
            )
            reply.total_tokens = whole_number(usage.get("totalTokenCount"))
        for candidate in sequence(document.get("candidates"))[:1]:
            self._candidate(mapping(candidate), reply)
        return "".join(reply.text[before:])

    def _candidate(self, candidate: Mapping[str, Any], reply: Reply) -> None:
        reason = text(candidate.get("finishReason"))
        if reason and reason != "FINISH_REASON_UNSPECIFIED":
            reply.finish = _FINISH.get(reason, word(reason))
        content = candidate.get("content")
        reply.found = reply.found or isinstance(content, Mapping)
        for part in map(mapping, sequence(mapping(content).get("parts"))):
            if part.get("functionCall"):
                reply.tools = True
            if part.get("thought"):  # reasoning is no answer
                reply.thought = True
            else:
                reply.say(text(part.get("text")))


_FILTERED = (
    "SAFETY",
    "RECITATION",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "LANGUAGE",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
)
_FINISH = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "MALFORMED_FUNCTION_CALL": "tool_calls",
    "UNEXPECTED_TOOL_CALL": "tool_calls",
    "OTHER": "error",
    **dict.fromkeys(_FILTERED, "content_filter"),
}
