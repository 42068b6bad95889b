"""Numbers of tokens: what a request may take at most, what was reported, and whether that can be true.

A count without a vocabulary is an estimate and is labelled as one. A provider's report is believed unless it
contradicts itself or the request: a lie must not change what a budget thinks is left.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from workbench.canonical import canonical_json, clean_text
from workbench.facts import Message, ModelCard, Usage

BYTES_PER_TOKEN = 4  # English prose in the vocabularies of today; other scripts have fewer bytes per token
PER_MESSAGE = 4  # role and separators
LARGEST = 10_000_000  # tokens; above every context window on offer
DEFAULT_OUTPUT = 4096


def estimated_tokens(text: str) -> int:
    """An estimate of the tokens in a text, >= 1 unless it is empty: one for every four bytes of UTF-8."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def estimated_prompt(messages: Sequence[Message]) -> int:
    """An estimate of the tokens of a conversation."""
    return sum(estimated_tokens(m.content) + PER_MESSAGE for m in messages)


def largest_prompt(messages: Sequence[Message], params: Mapping[str, Any] = MappingProxyType({})) -> int:
    """No fewer tokens than the conversation can have: a token is at least one byte.

    params: of the request; tools, schemas and texts among them are read and billed like the prompt.
    """
    said = sum(len(m.content.encode("utf-8", "replace")) + 2 * PER_MESSAGE for m in messages)
    told = [value for value in params.values() if isinstance(value, str | Mapping | list | tuple)] if params else []
    return said + sum(len(clean_text(canonical_json(value)).encode()) for value in told)


LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "maxOutputTokens")


def asked_output(params: Mapping[str, Any]) -> int | None:
    """The limit of tokens that a request sets for its answer, under any of the names in use; None without one."""
    if not params:
        return None
    config = params.get("generationConfig")
    places = (params, config) if isinstance(config, Mapping) else (params,)
    found = [place[name] for place in places for name in LIMITS if name in place]
    whole = [int(float(v)) for v in found if isinstance(v, numbers.Real) and not isinstance(v, bool) and float(v) > 0]
    return max(whole, default=None)


def largest_output(params: Mapping[str, Any], card: ModelCard) -> int:
    """The tokens that an answer may have: what the request says, else all that the model can give."""
    return asked_output(params) or card.max_output_tokens or DEFAULT_OUTPUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Usage that can be booked, and what was unusual about the report."""

    usage: Usage
    flags: tuple[str, ...] = ()


def counted(
    reported: Usage,
    total: int | None,
    *,
    messages: Sequence[Message],
    text: str,
    limit: int,
    card: ModelCard,
) -> Counted:
    """The usage to book for an answer.

    reported: as the provider said it, of any value; total: the sum it gave, or None. Missing or negative counts, and
    zeros for what is not empty, are estimated (flag `usage_estimated`). Counts that no model can reach, or that
    exceed the given total, are cut to the most that the request allows or the text shows (flag `usage_capped`).
    A given total above both is believed: reasoning is charged for. limit: tokens that the answer may have.
    """
    prompt, completion = _count(reported.prompt_tokens), _count(reported.completion_tokens)
    flags = []
    # Some proxies report zeros for what they did not count: a prompt or an answer of words has tokens.
    prompt = None if prompt == 0 and any(m.content for m in messages) else prompt
    completion = None if completion == 0 and text else completion
    if prompt is None or completion is None:
        flags.append("usage_estimated")
        prompt = estimated_prompt(messages) if prompt is None else prompt
        completion = estimated_tokens(text) if completion is None else completion
    window = card.context_window or LARGEST
    sum_given = _count(total)
    contradicted = sum_given is not None and prompt + completion > sum_given
    if sum_given is not None and not flags and prompt + completion < sum_given <= window:
        completion = sum_given - prompt  # reasoning that some providers leave out of the answer's count
    if contradicted or prompt > window or completion > max(10 * limit, window):
        flags.append("usage_capped")
        prompt = min(prompt, largest_prompt(messages))
        completion = min(completion, max(limit, estimated_tokens(text)))
    cached = _count(reported.cached_tokens)
    usage = Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=None if cached is None else min(cached, prompt),
    )
    return Counted(usage=usage, flags=tuple(flags))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
