"""Conversations put together from parts, and cut down to a budget of tokens by leaving parts out.

A part is what stays or goes as a whole: the system message, an example (a question with its answer), a turn of the
history (what the user said with what was answered), a passage of context, the question. System message and question
always stay. Parts are counted one by one; where a passage is put before the question, its separator is counted too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar

from workbench.canonical import clean_text
from workbench.decide.optimize import check_query
from workbench.decide.template_language import shown
from workbench.decide.tokens import DEFAULT_OUTPUT, PER_MESSAGE
from workbench.errors import LLMValidationError
from workbench.facts import Message

Kind = Literal["system", "example", "history", "passage", "question"]
Count = Callable[[str], int]
T = TypeVar("T")

DROPPED_FIRST: tuple[Kind, ...] = ("history", "passage", "example")
BETWEEN = "\n\n"  # passages, and the question
CUT = "\n[... the rest of this passage was cut to fit]"
LEAST = 200  # characters of a passage that are worth keeping


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that the question rests on. cut: it may be cut at its end, with the marker CUT, rather than left out."""

    text: str
    cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What stays or goes as a whole. position: among those of its kind, from 0."""

    kind: Kind
    position: int
    messages: tuple[Message, ...]
    cut: bool = False

    def tokens(self, count: Count) -> int:
        """What it adds to a conversation; raises LLMValidationError validation.count for a count that is none."""
        if self.kind == "passage":
            return _counted(count, self.messages[0].content + BETWEEN)
        return sum(_counted(count, message.content) + PER_MESSAGE for message in self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A part that was left out, or cut. tokens, characters: how many it has lost."""

    kind: Kind
    position: int
    tokens: int
    characters: int
    cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """A conversation as it is sent.

    versions: of the templates in it, by name. dropped: in the order in which they were left out. counts: tokens of
    what was kept, by kind of part.
    """

    messages: tuple[Message, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[Dropped, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens of what was kept: no more than the budget without its reserve."""
        return sum(self.counts.values())

    def render(self) -> str:
        """The conversation as one text: a single message as it is, several each under its role in brackets."""
        if len(self.messages) == 1:
            return self.messages[0].content
        return BETWEEN.join(f"[{m.role}]\n{m.content}" for m in self.messages)


@dataclass(frozen=True)
class TokenBudget:
    """Which parts are left out, by their numbers of tokens alone.

    Parts go until the rest fits into budget_tokens without reserve_tokens: kind by kind in the order of `first`; of
    the history the oldest, of passages and examples the last, which are taken for the least relevant.
    budget_tokens: None leaves out nothing. reserve_tokens: for the answer; None takes a quarter of the budget,
    DEFAULT_OUTPUT at most.
    Raises LLMValidationError validation.budget_tokens for numbers that are none.
    """

    budget_tokens: int | None = None
    reserve_tokens: int | None = None
    first: tuple[Kind, ...] = DROPPED_FIRST
    name: ClassVar[str] = "token_budget"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        budget, reserve = self.budget_tokens, self.reserve_tokens
        if not (budget is None or _is_count(budget)) or not (reserve is None or _is_count(reserve)):
            raise _bad_budget(
                f"budget_tokens is {shown(budget)} and reserve_tokens {shown(reserve)}, not whole numbers >= 0",
                "give the model's context window, and what its answer may take of it",
            )
        if reserve is None:
            object.__setattr__(self, "reserve_tokens", 0 if budget is None else min(DEFAULT_OUTPUT, budget // 4))
        named = [kind for kind in self.first if isinstance(kind, str)] if isinstance(self.first, Sequence) else []
        if sorted(named) != sorted(DROPPED_FIRST) or len(named) != len(self.first):
            raise _bad_budget(
                f"first is {shown(self.first, 60)}, not an order of {', '.join(DROPPED_FIRST)}",
                "name each of them once",
            )
        object.__setattr__(self, "first", tuple(self.first))

    @property
    def room(self) -> int | None:
        """Tokens that the conversation may have, below 0 where the reserve is larger than the budget."""
        return None if self.budget_tokens is None else self.budget_tokens - (self.reserve_tokens or 0)

    def __call__(self, parts: Sequence[tuple[str, int]], **known: object) -> tuple[int, ...]:
        """Places of the parts that go, in the order in which they go. parts: kind and tokens of each, in their order.

        known: what the log is told besides; it decides nothing.
        Raises LLMValidationError validation.budget_tokens when not even system message and question fit.
        """
        gone: list[int] = []
        if self.room is None:
            return ()
        total = sum(tokens for _, tokens in parts)
        places: dict[str, list[int]] = {}
        for place, (kind, _) in enumerate(parts):
            places.setdefault(kind, []).append(place)
        for kind in self.first:
            found = places.get(kind, [])
            for place in found if kind == "history" else reversed(found):
                if total <= self.room:
                    return tuple(gone)
                gone.append(place)
                total -= parts[place][1]
        if total > self.room:
            raise _bad_budget(
                f"system message and question have {shown(total)} tokens, and budget_tokens="
                f"{shown(self.budget_tokens)} less reserve_tokens={shown(self.reserve_tokens)} leaves "
                f"{shown(max(self.room, 0))}",
                "shorten them, raise budget_tokens (the model's context window), or lower reserve_tokens",
            )
        return tuple(gone)


def assemble(
    question: str,
    *,
    system: str | None = None,
    examples: Sequence[Any] = (),
    context: Sequence[str | Passage] = (),
    history: Sequence[Message | Mapping[str, str]] = (),
) -> tuple[Part, ...]:
    """The parts of a conversation in the order in which they are sent.

    examples: (question, answer) pairs, or objects with `prompt` and `answer`; context: passages; both the most relevant
    first. history: messages of user and assistant, or mappings of role and content, the oldest first; a turn begins
    with each message of the user.
    Raises LLMValidationError validation.query for a blank question, validation.messages for anything that is no text.
    """
    check_query(question)
    parts = []
    if system is not None and system != "":
        parts.append(Part(kind="system", position=0, messages=(_message("system", system),)))
    for place, example in enumerate(_list("examples", examples)):
        named = hasattr(example, "prompt") and hasattr(example, "answer")
        pair = (example.prompt, example.answer) if named else example
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise _bad_messages(f"example {place} is {shown(pair, 60)}", "give each example as (question, answer)")
        said = (_message("user", pair[0]), _message("assistant", pair[1]))
        parts.append(Part(kind="example", position=place, messages=said))
    parts += [Part(kind="history", position=k, messages=turn) for k, turn in enumerate(_turns(history))]
    for place, given in enumerate(_list("context", context)):
        passage = given if isinstance(given, Passage) else Passage(given)
        if not isinstance(passage.cut, bool):
            raise _bad_messages(f"passage {place} has cut={shown(passage.cut)}", "set cut to True or False")
        parts.append(Part(kind="passage", position=place, messages=(_message("user", passage.text),), cut=passage.cut))
    return (*parts, Part(kind="question", position=0, messages=(_message("user", question),)))


def fit(
    parts: Sequence[Part],
    budget_tokens: int | None,
    reserve_tokens: int | None,
    count: Count,
    *,
    first: tuple[Kind, ...] = DROPPED_FIRST,
    versions: Mapping[str, str] = MappingProxyType({}),
) -> ChatPrompt:
    """The conversation of the parts that fit the budget; which these are, and how, `TokenBudget` says.

    A message is kept as it is or not at all, but for the first passage that would have to go: where it may be cut, as
    much of it as fits stays, if that is LEAST characters or more, and the marker CUT says so.
    count: tokens of a text. Raises LLMValidationError validation.budget_tokens, validation.count.
    """
    return fitted(parts, [part.tokens(count) for part in parts], TokenBudget(budget_tokens, reserve_tokens, first),
                  count, versions=versions)  # fmt: skip


def fitted(
    parts: Sequence[Part],
    tokens: Sequence[int],
    budget: TokenBudget,
    count: Count,
    *,
    versions: Mapping[str, str] = MappingProxyType({}),
) -> ChatPrompt:
    """As `fit`, for parts that have been counted: tokens of each."""
    gone = budget([(part.kind, n) for part, n in zip(parts, tokens, strict=True)])
    away = set(gone)
    left = {place: part for place, part in enumerate(parts) if place not in away}
    counts = {place: tokens[place] for place in left}
    dropped = [
        Dropped(kind=parts[k].kind, position=parts[k].position, tokens=tokens[k], characters=_size(parts[k]))
        for k in gone
    ]
    if gone and parts[gone[-1]].cut and budget.room is not None:
        place = gone[-1]
        head = _head(parts[place], budget.room - sum(counts.values()), count)
        if head is not None:
            left[place], counts[place] = head, head.tokens(count)
            lost = _size(parts[place]) - _size(head) + len(CUT)
            dropped[-1] = replace(dropped[-1], tokens=tokens[place] - counts[place], characters=lost, cut=True)
    by_kind: dict[str, int] = {}
    for place in sorted(left):
        by_kind[parts[place].kind] = by_kind.get(parts[place].kind, 0) + counts[place]
    return ChatPrompt(
        messages=_sent([left[place] for place in sorted(left)]),
        versions=MappingProxyType(dict(versions)),
        dropped=tuple(dropped),
        counts=MappingProxyType(by_kind),
    )


def _sent(parts: Sequence[Part]) -> tuple[Message, ...]:
    """The messages; passages stand before the question, in its message, since many models want turns to alternate."""
    apart = [message for part in parts if part.kind not in ("passage", "question") for message in part.messages]
    last = [part.messages[0].content for part in parts if part.kind in ("passage", "question")]
    return (*apart, _message("user", BETWEEN.join(last)))


def _turns(history: Sequence[Message | Mapping[str, str]]) -> list[tuple[Message, ...]]:
    turns: list[list[Message]] = []
    for place, given in enumerate(_list("history", history)):
        message = given
        if isinstance(given, Mapping) and given.keys() == {"role", "content"}:
            message = Message(role=given["role"], content=given["content"])
        if not isinstance(message, Message) or not _speaks(message.role):
            raise _bad_messages(
                f"message {place} of the history is {shown(message, 60)}", "give Message objects of user and assistant"
            )
        said = _message(message.role, message.content)
        if said.role == "user" or not turns:
            turns.append([])
        turns[-1].append(said)
    return [tuple(turn) for turn in turns]


def _speaks(role: object) -> bool:
    return isinstance(role, str) and str.__str__(role) in ("user", "assistant")


def _head(part: Part, room: int, count: Count) -> Part | None:
    """The passage cut to what has room, or None when that is less than LEAST characters."""
    text = part.messages[0].content

    def cut(characters: int) -> Part:
        return replace(part, messages=(_message("user", text[:characters] + CUT),))

    def fits(characters: int) -> bool:
        return cut(characters).tokens(count) <= room

    if len(text) <= LEAST or not fits(LEAST):
        return None
    low, high = LEAST, 2 * LEAST
    while high < len(text) and fits(high):  # never counts much more than fits
        low, high = high, 2 * high
    high = min(high, len(text))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return cut(low)


def _message(role: str, content: object) -> Message:
    """The message as it is sent: half a character as U+FFFD, and of a subclass of text only its characters."""
    if not isinstance(content, str):
        raise _bad_messages(f"a message of the {role} is {type(content).__name__} {shown(content)}", "give a text")
    return Message(role=str.__str__(role), content=clean_text(str.__str__(content)))


def _list(name: str, given: Sequence[T]) -> Sequence[T]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise _bad_messages(f"{name} is {type(given).__name__}, not a list", f"give {name} as a list, also of one")
    return given


def _size(part: Part) -> int:
    return sum(len(message.content) for message in part.messages)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _counted(count: Count, text: str) -> int:
    found = count(text)
    if not _is_count(found):
        raise LLMValidationError(
            f"the token count of a text is {shown(found)}, not a whole number >= 0",
            code="validation.count",
            next_step="let count(text) return the number of tokens",
        )
    return found


def _bad_budget(found: str, next_step: str) -> LLMValidationError:
    return LLMValidationError(found, code="validation.budget_tokens", next_step=next_step)


def _bad_messages(found: str, next_step: str) -> LLMValidationError:
    return LLMValidationError(found, code="validation.messages", next_step=next_step)
