"""What an answer brings, whole or piece by piece, and whether it is one.

Every format fills the same Reply, and one function judges it: an answer has text, a known end, and is neither a
refusal, a tool call nor filtered. Everything from outside is read through `mapping`, `sequence` and `text`, so that
a field of the wrong type is a missing field and never an exception.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from workbench.canonical import plain_scalar
from workbench.decide.classify import classify, error_of
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import Request, Usage

EMPTY: Mapping[str, Any] = {}
RESERVED = ("model", "messages", "stream", "stream_options", "n", "input", "contents", "system")
THINK, THOUGHT = "<think>", "</think>"
ENDS = ("stop", "length", "content_filter", "refusal", "tool_calls")
# Words with which servers say that an answer is not whole.
BROKEN_OFF = (
    "error", "abort", "aborted", "cancelled", "canceled", "insufficient_system_resource", "malformed_response",
    "too_many_tool_calls", "timeout", "network_error",
)  # fmt: skip
QUOTED = 200  # characters of a provider's own words in a message


@dataclass(slots=True)
class Reply:
    """What has been read of an answer so far.

    finish: `stop`, `length`, `content_filter`, `refusal`, `tool_calls`, another word of the provider's, or None.
    found: a place for an answer was there, even if it was empty. ended: the format's own end was seen.
    mode, lead: where in the text we are, and its beginning while that is not known. thought: reasoning has come.
    torn: an event that cannot be read may have brought text.
    held: the end of the text, not handed out yet: half a character, or what may be the beginning of the key.
    error: the values of an error's typed fields, and its message, when one came inside a successful answer.
    """

    text: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    total_tokens: int | None = None
    served_model: str | None = None
    request_id: str | None = None
    finish: str | None = None
    tools: bool = False
    found: bool = False
    ended: bool = False
    broken: int = 0
    events: int = 0
    held: str = ""
    mode: Literal["lead", "thinking", "answer"] = "lead"
    lead: str = ""
    thought: bool = False
    redacted: bool = False
    torn: bool = False
    error: tuple[tuple[object, ...], str] | None = None

    def say(self, piece: str) -> None:
        """Add to the text, but for reasoning that some servers put before it, between `<think>` and `</think>`."""
        if self.mode == "answer":
            if piece:
                self.text.append(piece)
            return
        self.lead += piece
        lead = self.lead.lstrip()
        if self.mode == "lead" and not THINK.startswith(lead[: len(THINK)]):
            self.mode, self.lead, lead = "answer", "", self.lead
            self.text.append(lead)
        elif self.mode == "lead" and lead.startswith(THINK):
            self.mode, self.thought = "thinking", True
        if self.mode == "thinking":
            _, end, answer = lead.partition(THOUGHT)
            if end:
                self.mode, self.lead = "answer", ""
                self.say(answer.lstrip())

    @property
    def whole(self) -> str:
        """The text so far."""
        return "".join(self.text) + (self.lead if self.mode == "lead" else "")

    @property
    def complete(self) -> bool:
        """Whether everything that an answer has is here, even if the format's end is not."""
        return self.finish is not None and self.usage.completion_tokens is not None and bool(self.text)

    @property
    def partial(self) -> str | None:
        """What was said so far, as an answer or as a refusal; None when nothing was."""
        return self.whole or "".join(self.refusal) or None


class Wire(Protocol):
    """One format. All methods are pure; `reply` is filled in place."""

    @property
    def name(self) -> str:
        """The format's name in the configuration."""

    def path(self, model: str, *, stream: bool) -> str:
        """What follows base_url."""

    def body(self, model: str, request: Request, *, stream: bool, max_tokens: int) -> dict[str, Any]:
        """The document to send; max_tokens for formats that must be told one."""

    def limit(self, document: dict[str, Any], tokens: int, *, own_service: bool) -> None:
        """Put a limit of tokens into a document that has none; own_service: it goes to the format's maker."""

    def whole(self, document: Mapping[str, Any], reply: Reply) -> None:
        """Read a whole answer."""

    def event(self, document: Mapping[str, Any], reply: Reply) -> str:
        """Read one event of a stream; the text that it adds."""


def mapping(value: object) -> Mapping[str, Any]:
    """The value when it is a mapping, else an empty one."""
    return value if type(value) is dict or isinstance(value, Mapping) else EMPTY  # the first is nearly always so


def sequence(value: object) -> Sequence[Any]:
    """The value when it is a list, else an empty one."""
    return value if isinstance(value, list) else ()


def text(value: object) -> str:
    """The value when it is a text, else an empty one."""
    return value if isinstance(value, str) else ""


def whole_number(value: object) -> int | None:
    """The value when it is a whole number, also a negative one; else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def params_of(request: Request) -> dict[str, Any]:
    """The request's parameters as a dictionary of their own.

    Raises LLMValidationError validation.params for those that the workbench sets itself.
    """
    if taken := [name for name in request.params if name in RESERVED]:
        raise LLMValidationError(
            f"the parameter {taken[0]!r} is set by the workbench itself",
            code="validation.params",
            next_step="leave it out; several draws of one prompt are Request(sample=...)",
        )
    return json_ready(request.params)


def json_ready(value: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping as plain dictionaries, lists and scalars; LLMValidationError validation.params for anything else."""
    if not value:
        return {}
    try:
        made: dict[str, Any] = json.loads(json.dumps(dict(value), default=_plain, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise LLMValidationError(
            f"the parameters cannot be written as JSON: {error}",
            code="validation.params",
            next_step="use texts, finite numbers, lists and mappings with text keys",
        ) from error
    return made


def _plain(value: object) -> Any:
    return dict(value) if isinstance(value, Mapping) else plain_scalar(value)


def error_fields(document: Mapping[str, Any]) -> tuple[tuple[object, ...], str] | None:
    """Typed fields and message of the error in a body, in the forms of all providers; None without one.

    A bare text in the place of the error is a message without typed fields.
    """
    error = document.get("error")
    if error is None and document.get("type") != "error" and "__type" not in document:
        return None
    if not isinstance(error, Mapping):
        about = (document.get("__type"), document.get("code"), document.get("type"), document.get("status"))
        return about, text(error) or text(document.get("message")) or text(document.get("detail"))
    details = [mapping(d) for d in sequence(error.get("details"))]
    inner = mapping(error.get("innererror")) or mapping(error.get("inner_error"))
    words = (error.get("code"), error.get("type"), error.get("status"), inner.get("code"))
    return (*words, *(d.get("reason") for d in details)), text(error.get("message"))


def retry_delay(document: Mapping[str, Any]) -> object:
    """The wait that Google's `RetryInfo` names, such as `34s`; None without one."""
    details = sequence(mapping(document.get("error")).get("details"))
    return next((d["retryDelay"] for d in map(mapping, details) if "retryDelay" in d), None)


def verdict_on(reply: Reply, *, model: str, streamed: bool) -> LLMError | None:
    """Why a reply is no answer, as an error that is not raised; None when it is one.

    A stream has ended when the format's end or a finish reason was seen: either is enough, for some servers leave
    out one of them. One broken event is forgiven when it shows no trace of text, and the end and the usage still came.
    """
    made = _failed(reply, streamed=streamed)
    if made is None:
        return None
    code, message, more = made
    return error_of(
        code, f"{model} {message}", model=model, request_id=reply.request_id, partial=reply.partial, status=200, **more
    )


def _failed(reply: Reply, *, streamed: bool) -> tuple[str, str, dict[str, Any]] | None:
    if reply.error is not None:
        words, said = reply.error
        verdict = classify(200, words)
        return verdict.code, f"sent an error inside its answer: {quoted(said)}", {"retryable": verdict.retryable}
    if streamed and not reply.events:
        if reply.broken:
            return "provider.malformed", "sent a stream of which nothing can be read", {}
        return "provider.empty", "sent a stream without an event", {}
    if reply.finish == "content_filter":
        return "provider.content_filter", "had its answer filtered", {}
    if reply.refusal or reply.finish == "refusal":
        return "provider.refusal", "declined to answer", {}
    finished = reply.finish is not None and reply.usage.completion_tokens is not None
    if reply.torn or (reply.broken and not (reply.broken == 1 and finished)):
        return "provider.malformed", "sent an event that cannot be read", {}
    if reply.tools or reply.finish == "tool_calls":
        step = "no tools are configured: take `tools` out of the params, or use another model"
        return "provider.empty", "called a tool instead of answering", {"next_step": step, "retryable": False}
    if reply.finish in BROKEN_OFF:
        return "provider.truncated", f"broke its answer off: {reply.finish}", {}
    if streamed and not (reply.ended or reply.finish):
        return "provider.truncated", "ended its stream in the middle of the answer", {}
    if not reply.whole.strip():
        if reply.finish == "length":
            step = "raise max_tokens: all of them went into reasoning before the answer"
            return "provider.empty", "used up its tokens before the answer", {"next_step": step, "retryable": False}
        hint = None if reply.found else "check base_url: what answers there does not speak this wire format"
        return "provider.empty", f"answered without text{'' if reply.found else ' or a place for it'}", {
            "retryable": reply.found, "next_step": hint,
        }  # fmt: skip
    return None


def word(value: object) -> str:
    """A finish reason as one short lower-case word, empty where there is none."""
    return text(value).strip().lower()[:40]


def quoted(said: str) -> str:
    """A provider's own words, cut, with markup that a notebook could take for its own made harmless."""
    line = " ".join(said.split()) or "no message"
    short = line if len(line) <= QUOTED else line[: QUOTED - 3] + "..."
    return short.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
