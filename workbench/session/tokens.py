"""Counting tokens for a model, and what they cost before and after the call."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from workbench.act.traced import trace_performance
from workbench.act.vocab import Vocabulary, load
from workbench.canonical import text_of
from workbench.decide.budget import Price, price_of
from workbench.decide.template_language import shown
from workbench.decide.tokens import (
    DEFAULT_OUTPUT,
    ENCODINGS,
    LARGEST,
    Ratio,
    TokenCount,
    conversation,
    estimate,
    exact_count,
    family_of,
    largest_output,
    learn_ratios,
    read_params,
    reported_count,
)
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import Message, ModelCard, Request, Usage
from workbench.session.later import LaterLog
from workbench.session.settings import load_settings

__all__ = ["CostEstimate", "Fit", "Learnt", "TokenCounter"]

DEFAULT_ENCODING = ENCODINGS[0]  # of a text that is for no model in particular
MOST_ROWS = 5000  # the newest that are learnt from, for each model
COMPONENT = "token_counter"

# Usage that was estimated or cut says nothing, nor does that of another model than was asked.
_LOGGED = f"""
    select provider || ':' || model as name, t.text, params, prompt_tokens, completion_tokens
    from calls c join texts t on t.hash = c.prompt_hash
    where ok and source = 'live' and prompt_tokens > 0 and ($model is null or $model = provider || ':' || model)
        and not regexp_matches(coalesce(flags, ''), 'usage_|model_mismatch')
    qualify row_number() over (partition by name order by start_unix_ns desc) <= {MOST_ROWS}
    order by name, start_unix_ns desc, span_id
"""

Asked = str | Sequence[Message] | Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What the log says of a model. prompt: reported over estimated tokens. answer_tokens: the median, or None.

    Raises LLMValidationError validation.learnt.
    """

    prompt: Ratio
    answer_tokens: int | None = None

    def __post_init__(self) -> None:
        tokens = self.answer_tokens
        if not isinstance(self.prompt, Ratio) or not (tokens is None or (type(tokens) is int and tokens >= 0)):
            raise _not_learnt(f"prompt {shown(self.prompt, 60)} and answer_tokens {shown(tokens)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether a prompt fits: true where even the upper end of its band and the reserve are within the window."""

    prompt: TokenCount
    reserve_tokens: int
    context_window: int

    @property
    def left_tokens(self) -> int:
        """What is left of the window; below 0 where it does not fit."""
        return self.context_window - self.reserve_tokens - self.prompt.high

    def __bool__(self) -> bool:
        return self.left_tokens >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEstimate:
    """What a call costs in US dollars, with nothing read from the provider's cache unless it was reported.

    low_usd: of the fewest prompt tokens and no answer. high_usd: of the most and an answer of max_tokens. likely_usd:
    of the likely prompt and `answer_tokens`, the median answer of the log, or max_tokens where none was learnt.
    All are the same where usage is known. method: how the prompt was counted. price_source, price_date: of the card.
    """

    model: str
    low_usd: float
    likely_usd: float
    high_usd: float
    method: str
    prompt: TokenCount
    answer_tokens: int
    max_tokens: int
    price_source: str
    price_date: str


class TokenCounter:
    """Counts tokens exactly where the model's vocabulary is on this machine; else it estimates them, and says so.

    Nothing is ever asked of the network. exact: None counts exactly where it can; True raises where it cannot; False
    always estimates. learnt: what another counter has learnt, as its `learnt` or `as_dict()`. vocabularies: folders of
    vocabularies; default those of docs/reference/tokens.md. log: folder of the log that `learn` reads; default
    WORKBENCH_LOG, or data/log. settings: of docs/reference/settings.md.
    Raises LLMValidationError validation.learnt, validation.config.
    """

    def __init__(
        self,
        *,
        exact: bool | None = None,
        learnt: Mapping[str, Any] | None = None,
        vocabularies: Sequence[str | os.PathLike[str]] | None = None,
        log: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        if not (exact is None or isinstance(exact, bool)):
            raise _bad_option(f"exact is {shown(exact)}", "use True, False, or None for exact counts where they can be")
        self.exact = exact
        self.learnt: dict[str, Learnt] = _learnt_of({} if learnt is None else learnt)
        self._places = None if vocabularies is None else _folders(vocabularies)
        self._vocabularies: dict[str, Vocabulary | None] = {}
        self._loaded = load_settings(overrides=settings)
        self._log = LaterLog(log, durability=self._loaded.settings.durability)

    def __repr__(self) -> str:
        return f"TokenCounter(exact={self.exact}, learnt={sorted(self.learnt)})"

    def count(self, text: str, model: str | None = None) -> TokenCount:
        """The tokens of a text; special tokens in it are ordinary text, and half a character counts as U+FFFD.

        model: `provider:model` or a short name; None counts as the newest models of OpenAI do.
        Raises LLMValidationError tokens.unavailable with exact=True, validation.input for what is no text.
        """
        if not isinstance(text, str):
            raise _bad_input(f"text is a {type(text).__name__}, not a text", "count what the text says, as a str")
        name, family = self._family(model)
        return self._text(text, name, family)

    def count_messages(self, messages: Asked, model: str | None = None) -> TokenCount:
        """The tokens of a conversation, a Request or one user message; an estimate, for frames are never exact.

        Raises as `count` does.
        """
        name, family = self._family(model)
        parts = [self._part(text, family) for text in _texts(messages)]
        estimated = any(part.estimated for part in parts)
        counted = conversation(parts, family, self._ratio(name) if estimated else None)
        told = read_params(messages.params) if isinstance(messages, Request) else []
        more = [counted, *(self._part(text, family) for text in told)]
        count, low, high = (sum(getattr(part, end) for part in more) for end in ("count", "low", "high"))
        return TokenCount(count=count, method=counted.method, low=low, high=high)

    @trace_performance(COMPONENT, "fits")
    def fits(self, messages: Asked, model: str, reserve_tokens: int = DEFAULT_OUTPUT) -> Fit:
        """Whether a conversation and `reserve_tokens` for the answer fit into the model's context window.

        Raises LLMValidationError tokens.unknown_window for a model whose window nobody has given, and as `count` does;
        LLMRouterError router.unknown_model.
        """
        if type(reserve_tokens) is not int or reserve_tokens < 0:
            raise _bad_input(f"reserve_tokens is {shown(reserve_tokens)}", "reserve a whole number of tokens >= 0")
        card = self._loaded.card(model)
        if card.context_window is None:
            raise LLMValidationError(
                f"the context window of {card.name} is not known",
                code="tokens.unknown_window",
                model=card.name,
                next_step=f'give context_window under [models."{card.name}"] in workbench.toml'[:160],
            )
        prompt = self.count_messages(messages, model)
        return Fit(prompt=prompt, reserve_tokens=reserve_tokens, context_window=card.context_window)

    @trace_performance(COMPONENT, "estimate_cost")
    def estimate_cost(self, messages: Asked, model: str, max_tokens: int | None = None) -> CostEstimate:
        """What a call would cost.

        max_tokens: the longest answer; default what the Request says, else all that the model can give.
        Raises LLMValidationError budget.unknown_price, and as `count` does; LLMRouterError router.unknown_model.
        """
        card = self._loaded.card(model)
        prompt = self.count_messages(messages, model)
        price = _price(card, prompt.high)
        params = messages.params if isinstance(messages, Request) else {}
        if max_tokens is not None and (type(max_tokens) is not int or not 0 <= max_tokens <= LARGEST):
            raise _bad_input(f"max_tokens is {shown(max_tokens)}", f"give a whole number from 0 to {LARGEST}")
        longest = largest_output(params, card) if max_tokens is None else max_tokens
        known = self.learnt.get(card.name)
        likely = longest if known is None or known.answer_tokens is None else min(known.answer_tokens, longest)
        low, middle, high = (
            price.cost_usd(prompt_tokens=asked, completion_tokens=answered)
            for asked, answered in ((prompt.low, 0), (prompt.count, likely), (prompt.high, longest))
        )
        return CostEstimate(
            model=card.name, low_usd=low, likely_usd=middle, high_usd=high, method=prompt.method, prompt=prompt,
            answer_tokens=likely, max_tokens=longest, price_source=card.source, price_date=card.date,
        )  # fmt: skip

    @trace_performance(COMPONENT, "actual_cost")
    def actual_cost(self, usage: Usage, model: str) -> CostEstimate:
        """What a call has cost by the usage that the provider reported.

        Raises LLMValidationError budget.unknown_price, validation.usage where a count is missing or none;
        LLMRouterError router.unknown_model.
        """
        if not isinstance(usage, Usage):
            raise _bad_usage(f"the usage is a {type(usage).__name__}")
        asked, answered, cached = usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens or 0
        if asked is None or answered is None:
            raise _bad_usage(f"the usage has {shown(asked)} prompt and {shown(answered)} completion tokens")
        card = self._loaded.card(model)
        try:
            cost = _price(card, asked).cost_usd(prompt_tokens=asked, completion_tokens=answered, cached_tokens=cached)
        except OverflowError as error:
            raise _bad_usage("the usage has more tokens than any number of US dollars pays for") from error
        prompt = reported_count(asked)
        return CostEstimate(
            model=card.name, low_usd=cost, likely_usd=cost, high_usd=cost, method=prompt.method, prompt=prompt,
            answer_tokens=answered, max_tokens=answered, price_source=card.source, price_date=card.date,
        )  # fmt: skip

    @trace_performance(COMPONENT, "learn")
    def learn(self, model: str | None = None) -> Mapping[str, Learnt]:
        """Learn from the usage that the log's live calls have reported, for one model or all; what is new, by model.

        Prompts sent with tools or schemas are left out, and the newest 5,000 of each model are read. It holds for
        prompts like those. Raises LLMError storage.* where the log cannot be read.
        """
        name = None if model is None else self._loaded.resolve(model)
        rows: dict[str, list[tuple[int, int, int | None]]] = {}
        seen = set()
        for full, text, params, asked, answered in self._log.open().rows(_LOGGED, {"model": name}):
            given = json.loads(params or "{}")
            plain = isinstance(given, dict) and not any(isinstance(value, list | dict) for value in given.values())
            if not plain or (full, text, asked) in seen:  # a repeated prompt says nothing new
                continue
            seen.add((full, text, asked))
            family = family_of(full)
            likely = conversation([estimate(said, family) for said in _logged(text)], family).count
            rows.setdefault(full, []).append((likely, asked, answered))
        found = {full: _learnt_from(known) for full, known in rows.items()}
        self.learnt.update(found)
        return found

    def as_dict(self) -> dict[str, Any]:
        """What was learnt as plain JSON values, for `TokenCounter(learnt=...)`."""
        return {name: asdict(known) for name, known in sorted(self.learnt.items())}

    def close(self) -> None:
        """Let go of the log."""
        self._log.close()

    # -- what it counts with

    def _family(self, model: str | None) -> tuple[str | None, str]:
        """The full name of a model, and its family."""
        if model is None:
            return None, DEFAULT_ENCODING
        if not isinstance(model, str):
            raise _bad_input(f"model is a {type(model).__name__}, not a name", "name it, for example, openai:gpt-4o")
        name = self._loaded.resolve(model)
        return name, family_of(name)

    def _ratio(self, name: str | None) -> Ratio | None:
        known = None if name is None else self.learnt.get(name)
        return None if known is None else known.prompt

    def _text(self, text: str, name: str | None, family: str) -> TokenCount:
        if (vocabulary := self._vocabulary(family)) is not None:
            try:
                return exact_count(vocabulary.count(text), vocabulary.name)
            except LLMValidationError:  # a text that its tokenizer gives up on
                if self.exact:
                    raise
        return estimate(text, family, self._ratio(name))

    def _part(self, text: str, family: str) -> TokenCount:
        return self._text(text, None, family)

    def _vocabulary(self, family: str) -> Vocabulary | None:
        """The vocabulary of a family; None where it is to be estimated. It is looked for once."""
        if self.exact is False:
            return None
        if family not in ENCODINGS:
            if self.exact:
                raise LLMValidationError(
                    f"no vocabulary of the family {family} can be read here, and exact=True demands an exact count",
                    code="tokens.unavailable",
                    next_step="use exact=None for an estimate with its band; `learn` makes it closer",
                )
            return None
        if family not in self._vocabularies:
            try:
                self._vocabularies[family] = load(family, self._places)
            except LLMError:
                if self.exact:
                    raise
                self._vocabularies[family] = None
        return self._vocabularies[family]


def _texts(messages: Asked) -> list[str]:
    """The texts of the messages."""
    if isinstance(messages, str):
        return [messages]
    given: Any = messages.messages if isinstance(messages, Request) else messages
    listed: list[Any] = list(given) if isinstance(given, Iterable) and not isinstance(given, Mapping) else [None]
    if not all(isinstance(message, Message) and isinstance(message.content, str) for message in listed):
        raise LLMValidationError(
            "messages hold what is no Message with a text",
            code="validation.messages",
            next_step="pass a list of Message(role='user', content='...'), a Request, or one text",
        )
    return [message.content for message in listed]


def _folders(given: Any) -> tuple[Path, ...]:
    """The folders of a list; one alone would be taken for a list of its letters."""
    listed = isinstance(given, Iterable) and not isinstance(given, str | bytes | os.PathLike)
    folders = tuple(given) if listed else (None,)
    if not all(isinstance(folder, str | os.PathLike) for folder in folders):
        raise _bad_option(f"vocabularies are {shown(given)}, not a list of folders", "pass ['FOLDER', ...], or None")
    return tuple(map(Path, folders))


def _price(card: ModelCard, prompt_tokens: int) -> Price:
    if (price := price_of(card, prompt_tokens)) is None:
        raise LLMValidationError(
            f"the price of {card.name} for a prompt of {prompt_tokens} tokens is not known",
            code="budget.unknown_price",
            model=card.name,
            next_step=f'give its prices under [models."{card.name}"] in workbench.toml'[:160],
        )
    return price


def _logged(text: str) -> list[str]:
    """The texts of the messages of a prompt as the log keeps it: the prompt itself, or JSON of several messages."""
    if text.startswith('[["'):
        try:
            return [content for role, content in json.loads(text) if isinstance(role + content, str)]
        except (ValueError, TypeError, RecursionError):  # a prompt that only begins like that
            pass
    return [text]


def _learnt_from(rows: Sequence[tuple[int, int, int | None]]) -> Learnt:
    """What the rows of a model say: estimated and reported prompt tokens, and those of the answer."""
    answers = [answered for _, _, answered in rows if answered is not None]
    return Learnt(
        prompt=learn_ratios([likely for likely, _, _ in rows], [asked for _, asked, _ in rows]),
        answer_tokens=median_low(answers) if answers else None,
    )


def _learnt_of(given: Mapping[str, Any]) -> dict[str, Learnt]:
    """What another counter has learnt."""
    try:
        return {
            str.__str__(name): known
            if isinstance(known, Learnt)
            else Learnt(prompt=Ratio(**known["prompt"]), answer_tokens=known["answer_tokens"])
            for name, known in given.items()
        }
    except (AttributeError, KeyError, TypeError, LLMValidationError) as error:
        raise _not_learnt(text_of(error)) from error


def _not_learnt(why: str) -> LLMValidationError:
    return LLMValidationError(
        f"this is not what a TokenCounter has learnt: {why}",
        code="validation.learnt",
        next_step="pass what as_dict() of a TokenCounter gave, or leave it out",
    )


def _bad_usage(message: str) -> LLMValidationError:
    step = "pass a usage with both counts, or use estimate_cost"
    return LLMValidationError(message, code="validation.usage", next_step=step)


def _bad_option(message: str, next_step: str) -> LLMValidationError:
    return LLMValidationError(message, code="validation.config", next_step=next_step)


def _bad_input(message: str, next_step: str) -> LLMValidationError:
    return LLMValidationError(message, next_step=next_step)
