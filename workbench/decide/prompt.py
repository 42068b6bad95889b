"""Prompt templates: a text with typed slots, and a version that is a hash of all of it.

The language is that of decide/template_language.py. Values are data: whatever they look like, they come out as they
are, and never become part of the template.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from itertools import groupby, islice
from typing import Any, Literal, get_args

from workbench.canonical import canonical_json, clean_text, text_hash
from workbench.decide.template_language import MAX_TEMPLATE, NAME, RESERVED, bad_template, compiled, shown, written
from workbench.decide.weights import closest, is_finite
from workbench.errors import LLMValidationError
from workbench.facts import Message

SlotType = Literal["text", "number", "integer", "boolean", "list", "choice"]
Role = Literal["system", "user", "assistant"]
Value = str | int | float | bool | tuple[str, ...]

MAX_VALUE = 1_000_000  # characters of a value
MAX_ITEMS = 1_000  # of a list
MAX_CELLS = 250_000  # pairs of lines or words that a diff compares
_KINDS: Mapping[SlotType, str] = {
    "text": "a text",
    "number": "a finite number",
    "integer": "a whole number",
    "boolean": "True or False",
    "list": f"a list of at most {MAX_ITEMS} texts",
}
_WORDS = re.compile(r"\w+|\s+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for a value.

    name: lower-case letters, digits and `_`, 40 at most. default: what an optional slot (required=False) stands for
    when it is left out, of the slot's own type. max_chars: of a text, or of all texts of a list together; up to
    1,000,000. choices: the texts that a choice may be.
    Raises LLMValidationError validation.slot for a slot that contradicts itself.
    """

    name: str
    type: SlotType = "text"
    _: KW_ONLY
    required: bool = True
    default: Any = None
    max_chars: int = MAX_VALUE
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part in ("name", "type"):
            object.__setattr__(self, part, _plain(getattr(self, part)))
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name) or self.name in RESERVED:
            raise _bad_slot(f"{shown(self.name)} cannot name a slot", "use lower-case letters, digits and _: topic_2")
        if not isinstance(self.type, str) or self.type not in get_args(SlotType):
            raise _bad_slot(
                f"slot {self.name!r} is of type {shown(self.type)}", f"use one of {', '.join(get_args(SlotType))}"
            )
        most = self.max_chars
        if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MAX_VALUE:
            raise _bad_slot(
                f"max_chars of slot {self.name!r} is {shown(most)}", f"use a whole number from 1 to {MAX_VALUE}"
            )
        listed = isinstance(self.choices, Sequence) and not isinstance(self.choices, str)
        choices = tuple(map(_plain, self.choices)) if listed else ()
        sound = listed and all(isinstance(c, str) for c in choices) and len(set(choices)) == len(choices)
        if not sound or bool(choices) != (self.type == "choice"):
            raise _bad_slot(
                f"slot {self.name!r} of type {self.type} has the choices {shown(self.choices, 60)}",
                "give a choice a list of different texts, and no other slot any",
            )
        object.__setattr__(self, "choices", choices)
        if self.required is not (self.default is None):
            raise _bad_slot(
                f"slot {self.name!r} has required={shown(self.required)} and the default {shown(self.default)}",
                "give a default together with required=False, and only then",
            )
        if self.default is not None:
            object.__setattr__(self, "default", self.accept(self.default))

    def accept(self, value: object) -> Value:
        """The value as a template gets it; LLMValidationError validation.slot when it is of another kind."""
        if self.type == "boolean" and isinstance(value, bool):
            return value
        if self.type in ("text", "choice") and isinstance(value, str):
            text = _plain(value)
            if not self.choices or text in self.choices:
                return self._measured((text,))[0]
        elif self.type == "list" and isinstance(value, Sequence) and not isinstance(value, str | bytes):
            items = tuple(map(_plain, islice(value, MAX_ITEMS + 1)))
            if len(items) <= MAX_ITEMS and all(isinstance(item, str) for item in items):
                return self._measured(items)
        elif self.type in ("number", "integer") and is_finite(value):
            if isinstance(value, numbers.Integral):
                return int(value)
            if self.type == "number":
                return float(value)
        wanted = f"one of {', '.join(self.choices)}"[:120] if self.choices else _KINDS[self.type]
        raise _bad_slot(
            f"slot {self.name!r} takes {wanted}, and was given {type(value).__name__} {shown(value)}",
            f"give {self.name} {wanted}"[:160],
        )

    def _measured(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        size = sum(map(len, texts))
        if size > self.max_chars:
            raise _bad_slot(
                f"slot {self.name!r} takes {self.max_chars} characters, and was given {size}",
                "shorten the value, or raise max_chars of the slot",
            )
        return texts


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A text with slots; role is that of the message it makes. Half a character in it becomes U+FFFD.

    Checked when it is made: what the text names are the declared slots, all of them and no others. A line that holds
    nothing but a tag leaves no line; line ends of the template, not of values, become LF.
    Raises LLMValidationError validation.template for what cannot be read, with the line; security.template for what
    is not part of the language; validation.slot.
    >>> PromptTemplate("greeting", "Hello {{ name }}!", (Slot("name"),)).render(name="{{ 7 * 7 }}")
    'Hello {{ 7 * 7 }}!'
    """

    name: str
    text: str
    slots: tuple[Slot, ...] = ()
    _: KW_ONLY
    role: Role = "user"

    def __post_init__(self) -> None:
        for part in ("name", "text", "role"):
            given = _plain(getattr(self, part))
            object.__setattr__(self, part, clean_text(given) if isinstance(given, str) else given)
        if not isinstance(self.name, str) or not self.name.strip() or len(self.name) > 80:
            raise bad_template(f"a template is called {shown(self.name, 90)}", "give it a name of 1 to 80 characters")
        if not isinstance(self.text, str):
            raise bad_template(
                f"template {self.name!r} is {type(self.text).__name__}",
                f"give a text of up to {MAX_TEMPLATE} characters",
            )
        if not isinstance(self.role, str) or self.role not in get_args(Role):
            raise bad_template(
                f"template {self.name!r} has the role {shown(self.role)}", "use system, user or assistant"
            )
        slots = tuple(self.slots) if isinstance(self.slots, Sequence) else (self.slots,)
        if not all(isinstance(slot, Slot) for slot in slots) or len({slot.name for slot in slots}) < len(slots):
            raise _bad_slot(
                f"the slots of template {self.name!r} are {shown(slots, 80)}", "give different Slot objects"
            )
        object.__setattr__(self, "slots", slots)
        compiled(self.text, self._names)

    @property
    def _names(self) -> tuple[tuple[str, bool], ...]:
        return tuple((slot.name, slot.type == "list") for slot in self.slots)

    @property
    def source(self) -> str:
        """All that the version depends on, to be read: name and role, a line for each slot, the text."""
        about = [canonical_json(asdict(slot)) for slot in self.slots]
        return "\n".join([f"{self.name} ({self.role})", *about, "", self.text])

    @property
    def version(self) -> str:
        """The first 32 hexadecimal digits of the SHA-256 of name, text, slots and role in canonical JSON."""
        return text_hash(
            clean_text(canonical_json([self.name, self.text, [asdict(slot) for slot in self.slots], self.role]))
        )

    def render(self, /, **values: object) -> str:
        """The text that is sent.

        Raises LLMValidationError validation.slot for missing, unknown and unfit values; validation.template_limit
        for a text or an effort out of bounds, and validation.template, as decide/template_language.py says.
        """
        return written(compiled(self.text, self._names), self._accepted(values))

    def message(self, /, **values: object) -> Message:
        """What `render` gives, as a message of the template's role."""
        return Message(role=self.role, content=self.render(**values))

    def diff(self, other: PromptTemplate) -> Diff:
        """How `other` differs from this one, in anything that the version depends on."""
        return diff_texts(self.source, other.source)

    def _accepted(self, values: Mapping[str, object]) -> dict[str, Value]:
        known = {slot.name: slot for slot in self.slots}
        if unknown := next((name for name in values if name not in known), None):
            hint = closest(unknown, known)
            step = f"did you mean {hint!r}?" if hint else f"the slots are: {', '.join(known) or 'none'}"
            raise _bad_slot(f"template {self.name!r} has no slot {shown(unknown, 60)}", step[:160])
        if missing := [slot.name for slot in self.slots if slot.required and slot.name not in values]:
            given = ", ".join(values) or "no value"
            raise _bad_slot(
                f"template {self.name!r} needs {', '.join(missing)}, and was given {given}", f"pass {missing[0]}=..."
            )
        return {name: slot.accept(values[name]) if name in values else slot.default for name, slot in known.items()}


def placed(
    template: PromptTemplate, query: str, system: str | None, values: Mapping[str, object]
) -> tuple[str, str | None]:
    """Question and system message: what the template makes takes the place that its role says.

    The query is the value of the slot `query`, which a template of the role user must have. One of the role system
    makes the system message, and the query stands as it is.
    Raises LLMValidationError validation.template for two system messages, a template without the slot, and one of the
    role assistant; and as `render` does.
    """
    if template.role == "assistant" or (template.role == "system" and system is not None):
        raise bad_template(
            f"template {template.name!r} of the role {template.role} has no place beside system message and question",
            "use a template of the role user, or one of the role system instead of a system message",
        )
    takes = any(slot.name == "query" for slot in template.slots)
    if template.role == "user" and not takes:
        raise bad_template(
            f"template {template.name!r} has no slot 'query', which the question goes into",
            "give it a Slot('query'), or the role system",
        )
    said = template.render(**{**values, **({"query": query} if takes else {})})
    return (said, system) if template.role == "user" else (query, said)


def _plain(value: Any) -> Any:
    """Of a subclass of text only its characters: what it says of itself is code of others."""
    return str.__str__(value) if isinstance(value, str) else value


def _bad_slot(found: str, next_step: str) -> LLMValidationError:
    return LLMValidationError(found, code="validation.slot", next_step=next_step)


# -- differences


@dataclass(frozen=True, slots=True)
class Change:
    """A piece of a text that stayed, was taken out, or was put in."""

    kind: Literal["equal", "delete", "insert"]
    text: str


@dataclass(frozen=True, slots=True)
class Diff:
    """One text made into another. What is not inserted makes the first text, what is not deleted the second."""

    changes: tuple[Change, ...]

    @property
    def changed(self) -> bool:
        """Whether the texts differ."""
        return any(change.kind != "equal" for change in self.changes)

    def __str__(self) -> str:
        mark = {"equal": "{}", "delete": "[-{}-]", "insert": "{{+{}+}}"}
        return "".join(mark[change.kind].format(change.text) for change in self.changes)


def diff_texts(before: str, after: str) -> Diff:
    """How a text became another: by lines, and by words where lines were replaced.

    As many characters stay as can (a longest common subsequence, each line or word weighing its length), and deletions
    come first, as long as no more than MAX_CELLS pairs are to be compared between what both begin and end with;
    beyond, that is replaced as a whole.
    >>> str(diff_texts("Be brief.", "Be very brief."))
    'Be {+very +}brief.'
    """
    pieces: list[Change] = []
    lines, room = _hunks(before.splitlines(keepends=True), after.splitlines(keepends=True), MAX_CELLS)
    for kept, old, new in lines:
        pieces.append(Change("equal", kept))
        words, room = _hunks(_WORDS.findall(old), _WORDS.findall(new), room)
        for same, gone, come in words:
            pieces += [Change("equal", same), Change("delete", gone), Change("insert", come)]
    runs = groupby((piece for piece in pieces if piece.text), key=lambda piece: piece.kind)
    return Diff(tuple(Change(kind, "".join(piece.text for piece in run)) for kind, run in runs))


def _hunks(before: Sequence[str], after: Sequence[str], room: int) -> tuple[list[tuple[str, str, str]], int]:
    """What is common, and then replaced by what, again and again; and how many pairs may still be compared."""
    most = min(len(before), len(after))
    start = next((k for k in range(most) if before[k] != after[k]), most)
    end = next((k for k in range(most - start) if before[-1 - k] != after[-1 - k]), most - start)
    head, tail = "".join(before[:start]), "".join(before[len(before) - end :])
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    if len(old) * len(new) > room:
        return [(head, "".join(old), "".join(new)), (tail, "", "")], room
    hunks: list[tuple[list[str], list[str], list[str]]] = [([head], [], [])]
    for kind, token in _edits(old, new):
        kept, gone, come = hunks[-1]
        if kind != "equal":
            (gone if kind == "delete" else come).append(token)
        elif gone or come:
            hunks.append(([token], [], []))
        else:
            kept.append(token)
    made = [("".join(kept), "".join(gone), "".join(come)) for kept, gone, come in hunks]
    return [*made, (tail, "", "")], room - len(old) * len(new)


def _edits(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each token, with what becomes of it: a way on which the most characters stay."""
    most = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i in range(len(old) - 1, -1, -1):
        row, below = most[i], most[i + 1]
        for j in range(len(new) - 1, -1, -1):
            row[j] = below[j + 1] + len(old[i]) if old[i] == new[j] else max(below[j], row[j + 1])
    i = j = 0
    while i < len(old) and j < len(new):
        if old[i] == new[j]:
            yield "equal", old[i]
            i, j = i + 1, j + 1
        elif most[i + 1][j] >= most[i][j + 1]:
            yield "delete", old[i]
            i += 1
        else:
            yield "insert", new[j]
            j += 1
    yield from (("delete", token) for token in old[i:])
    yield from (("insert", token) for token in new[j:])
