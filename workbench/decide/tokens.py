"""Numbers of tokens: what a request may take at most, what was reported, and whether that can be true.

A count without a vocabulary is an estimate and is labelled as one, with a band. A provider's report is believed unless
it contradicts itself or the request: a lie must not change what a budget thinks is left.

Two estimates stand here. `estimated_tokens` is one for every four bytes: it costs nothing and is what live calls are
paced and booked by where nothing better was reported. `estimate` is the closer one, with the band.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from types import MappingProxyType
from typing import Any

from workbench.canonical import canonical_json, clean_text
from workbench.decide.template_language import shown
from workbench.decide.token_estimate import FAMILIES, SLACK, likely_tokens
from workbench.decide.weights import is_finite
from workbench.errors import LLMValidationError
from workbench.facts import Message, ModelCard, Usage

__all__ = [
    "DEFAULT_OUTPUT", "ENCODINGS", "FAMILIES", "LARGEST", "PER_MESSAGE", "Counted", "Ratio", "TokenCount",
    "asked_output", "conversation", "counted", "estimate", "estimated_prompt", "estimated_tokens",
    "exact_count", "family_of", "largest_output", "largest_prompt", "learn_ratios", "read_params", "reported_count",
]  # fmt: skip

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
    Raises LLMValidationError validation.params.
    """
    said = sum(len(m.content.encode("utf-8", "replace")) + 2 * PER_MESSAGE for m in messages)
    return said + sum(len(text.encode()) for text in read_params(params)) if params else said


def read_params(params: Mapping[str, Any]) -> list[str]:
    """The parameters of a request that are read and billed like the prompt, as JSON: texts, tools, schemas.

    Raises LLMValidationError validation.params for what has no JSON form.
    """
    told = [value for value in params.values() if isinstance(value, str | Mapping | list | tuple)]
    try:
        return [clean_text(canonical_json(value)) for value in told]
    except (TypeError, ValueError, RecursionError) as error:
        raise LLMValidationError(
            f"the parameters {', '.join(map(str, params)):.80} cannot be written as JSON: {error!s:.80}",
            code="validation.params",
            next_step="use texts, finite numbers, lists and mappings with text keys",
        ) from error


LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "maxOutputTokens")


def asked_output(params: Mapping[str, Any]) -> int | None:
    """The tokens that a request allows its answer, under any of the names in use, LARGEST at most; None without any."""
    if not params:
        return None
    config = params.get("generationConfig")
    places = (params, config) if isinstance(config, Mapping) else (params,)
    found = [place[name] for place in places for name in LIMITS if name in place]
    real = [v for v in found if isinstance(v, numbers.Real) and not isinstance(v, bool)]
    whole = [int(min(v, LARGEST)) for v in real if v > 0]  # type: ignore[operator, call-overload]
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


# -- counts with a band

ENCODINGS = ("o200k_base", "cl100k_base")
ENOUGH = 19  # the fewest rows whose ends are the 5 % and 95 % of the next one
_NAME = 200  # characters of a model's name that are read
_FAR = 1e30  # no report in 64 bits comes near, and what is multiplied by it stays finite

# The first that is found in a model's name, in lower case. OpenAI's as tiktoken 0.14 has them; those that it does not
# list are `openai`. Llama 2 and what was made from it have another vocabulary than Llama 3.
_FAMILY_NAMES = tuple(
    (family, re.compile(pattern))
    for family, pattern in (
        ("anthropic", r"claude|anthropic"),
        ("gemini", r"gemini|gemma"),
        ("qwen", r"qwen|qwq"),
        ("mistral", r"mistral|mixtral|ministral|codestral|pixtral|magistral|devstral|mathstral"),
        ("other", r"(?:code|tiny)-?llama|llama-?2|llama-?(?:7|13|33|65)b|vicuna"),
        ("llama", r"(?<!o)llama"),
        ("o200k_base", r"(?<![a-z0-9])(?:gpt-oss|(?:chat)?gpt-?(?:4o|4\.[15]|5))(?![0-9])"),
        ("o200k_base", r"(?<![^/:])(?:o[13]|o4-mini)(?![a-z0-9])"),
        ("cl100k_base", r"(?<![a-z0-9])(?:gpt-?(?:4|3\.?5)(?![0-9.])|text-embedding-(?:ada-002|3-(?:small|large)))"),
        ("cl100k_base", r"(?<![^/:])(?:davinci|babbage)-002"),
        ("openai", r"(?<![a-z0-9])gpt-?[0-9]|davinci|^openai$"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """A number of tokens, how it was found, and the band in which the true one lies for at least nine of ten texts.

    method: `exact:ENCODING`, `provider-usage` or `estimate:FAMILY`. low <= count <= high, whole numbers >= 0; they are
    equal unless it is an estimate. Raises LLMValidationError validation.count.
    """

    count: int
    method: str
    low: int
    high: int

    def __post_init__(self) -> None:
        whole = type(self.low) is type(self.count) is type(self.high) is int
        if not whole or not 0 <= self.low <= self.count <= self.high or not isinstance(self.method, str):
            raise LLMValidationError(
                f"low, count and high of {shown((self.low, self.count, self.high), 80)} by {shown(self.method)} are no "
                "count of tokens",
                code="validation.count",
                next_step="give whole numbers 0 <= low <= count <= high, and say by method how they were found",
            )

    @property
    def estimated(self) -> bool:
        """Whether it is an estimate."""
        return self.method.startswith("estimate:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """What a model's reported counts are of the estimates: factors, 1e-30 <= low <= factor <= high <= 1e30.

    factor: the median. low, high: between which nine of ten lie. n: rows it was learnt from; 0 for none.
    Raises LLMValidationError validation.ratio.
    """

    factor: float
    low: float
    high: float
    n: int

    def __post_init__(self) -> None:
        ends = (self.low, self.factor, self.high)
        sound = all(is_finite(end) for end in ends) and 1 / _FAR <= self.low <= self.factor <= self.high <= _FAR
        if not sound or type(self.n) is not int or self.n < 0:
            raise LLMValidationError(
                f"low, factor and high of {shown(ends, 80)} with n={shown(self.n)} are no ratio",
                code="validation.ratio",
                next_step="give numbers 0 < low <= factor <= high and a whole n >= 0, as learn_ratios does",
            )


@lru_cache(maxsize=1024)
def family_of(model: str) -> str:
    """The family of vocabularies, one of FAMILIES, that a model's name tells of; `other` where it tells of none.

    model: `provider:model` or the bare name; not a short name, which may stand for anything.
    >>> family_of("openai:gpt-4o-mini"), family_of("ollama:llama3.1"), family_of("ollama:phi4")
    ('o200k_base', 'llama', 'other')
    """
    provider, _, bare = model[:_NAME].lower().partition(":")
    names = (bare, provider)  # whose model it is tells where its own name does not
    return next((family for name in names for family, pattern in _FAMILY_NAMES if pattern.search(name)), "other")


def exact_count(count: int, encoding: str) -> TokenCount:
    """A count made with the vocabulary of an encoding."""
    return TokenCount(count=count, method=f"exact:{encoding}", low=count, high=count)


def reported_count(count: int) -> TokenCount:
    """A count that the provider has reported."""
    return TokenCount(count=count, method="provider-usage", low=count, high=count)


def estimate(text: str, family: str = "other", ratio: Ratio | None = None) -> TokenCount:
    """An estimate of the tokens of a text by a model of a family, in one pass over it; 0 for the empty text alone.

    ratio: what was learnt of the model, for texts like those it was learnt from.
    Raises LLMValidationError validation.family.
    """
    if family not in FAMILIES:
        raise LLMValidationError(
            f"{family!r:.60} is no family of vocabularies",
            code="validation.family",
            next_step=f"use one of {', '.join(FAMILIES)}",
        )
    method = f"estimate:{family}"
    if not text:
        return TokenCount(count=0, method=method, low=0, high=0)
    likely, low, high = likely_tokens(text, family)
    found = _banded(likely, low, high, ratio, method)
    if ratio is not None:
        return found
    most = len(text.encode("utf-8", "replace")) + 1  # a token is at least one byte; some add a blank in front
    return TokenCount(count=min(found.count, most), method=method, low=found.low, high=min(found.high, most))


def conversation(parts: Sequence[TokenCount], family: str, ratio: Ratio | None = None) -> TokenCount:
    """The tokens of a conversation from those of the texts of its messages: an estimate, for frames are never counted.

    A message's frame is PER_MESSAGE tokens, between none and twice as many. ratio: as for `estimate`, of parts without.
    """
    frames = PER_MESSAGE * len(parts)
    count, low, high = (sum(getattr(part, end) for part in parts) for end in ("count", "low", "high"))
    plain = TokenCount(count=count + frames, method=f"estimate:{family}", low=low, high=high + 2 * frames)
    if ratio is None or not plain.count:
        return plain
    return _banded(plain.count, low / plain.count, plain.high / plain.count, ratio, plain.method)


def _banded(likely: int, low: float, high: float, ratio: Ratio | None, method: str) -> TokenCount:
    """An estimate > 0 with its band; what was learnt from few rows makes the band wider, never narrower."""
    count = likely
    if ratio is not None:
        count = max(1, round(likely * ratio.factor))
        few = ratio.n < ENOUGH
        low, high = (min(low, ratio.low), max(high, ratio.high)) if few else (ratio.low, ratio.high)
    return TokenCount(
        count=count,
        method=method,
        low=min(count, max(1, math.floor(likely * low) - SLACK)),
        high=max(count, math.ceil(likely * high) + SLACK),
    )


def learn_ratios(estimates: Sequence[float], actuals: Sequence[float]) -> Ratio:
    """What reported counts are of estimates: the median of their ratios, and between which nine of ten of the next lie.

    estimates, actuals: > 0, of the same prompts, in any order. From ENOUGH rows on, low and high are the k-th smallest
    and largest ratio, k = (n + 1) // 20: of exchangeable rows the next is outside with a probability <= 0.1 (conformal
    prediction, Vovk et al. 2005). With fewer they are the smallest and the largest, which promises less, and `estimate`
    keeps the family's band; with none all are 1. Raises LLMValidationError validation.ratio.
    >>> learn_ratios([10, 100, 1000], [12, 110, 1150])
    Ratio(factor=1.15, low=1.1, high=1.2, n=3)
    """
    if len(estimates) != len(actuals) or not all(is_finite(v) and v > 0 for v in (*estimates, *actuals)):
        raise LLMValidationError(
            f"{len(estimates)} estimates and {len(actuals)} actual counts, not as many of each, all of them > 0",
            code="validation.ratio",
            next_step="leave out prompts without a reported count, and give both numbers for each of the others",
        )
    ratios = sorted(actual / likely for likely, actual in zip(estimates, actuals, strict=True))
    n = len(ratios)
    if not n:
        return Ratio(factor=1.0, low=1.0, high=1.0, n=0)
    k = max(1, (n + 1) // 20)
    return Ratio(factor=median(ratios), low=ratios[k - 1], high=ratios[n - k], n=n)
