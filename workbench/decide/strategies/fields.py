"""A merge of structured answers: every field of the members' JSON objects is voted on by itself.

Five members may give five different objects and still agree on every field. Equal are numbers of the same value (1 and
1.0, not true), without tolerance, and strings that are the same in NFC with white space collapsed; keys are compared as
they are.

What is read: the answer where it is an object, else the last object in the text. Answers of free text have lost their
capitals (decide/answers.py), so the object in the text is read where it says the same but for that. An object does not
vote with a key twice, NaN, Infinity, a number beyond floats or more than LEVELS levels, nor does any other JSON. Time
is linear in the input.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, ClassVar, Literal, get_args

from workbench.canonical import canonical_json, clean_text
from workbench.decide.answers import MAX_DIGITS, MAX_WORD, normalise
from workbench.decide.merge import check_contributions, prepare
from workbench.decide.weights import Weights, check_members, units_of
from workbench.errors import LLMValidationError
from workbench.facts import EnsembleResponse, ModelContribution

Lists = Literal["whole", "elementwise"]
LEVELS = 64  # of objects and lists in each other
ATTEMPTS = 8  # closing braces of a text, from its end, that may end the object
_MARK = re.compile(r'\\.|["{}]', re.S)
_BEGINS = re.compile(r'\{\s*"')


@dataclass(frozen=True)
class FieldWise:
    """The object of the fields that most weight stands behind; its canonical JSON is the answer and the text.

    A key is kept where more than half of the weight of those who have its object have it. Of its values the one with
    the most weight wins; of equals, the first in the order of their JSON, objects last. Objects compete with other
    values as one, and where they win they are merged key by key. Spellings of a value are voted on in the same way.
    lists: `whole`: a list is a value; `elementwise`: it is merged position by position, as an object is by keys.
    weights: model -> weight >= 0, for every member, not all 0. None: each contribution's own.
    agreement: mean over the fields decided, keys dropped included, of the share of weight that had it so.

    It is a merge of one item alone, not a strategy of decide/pool.py: what it gives may be nobody's answer.
    """

    weights: Mapping[str, float] | None = None
    lists: Lists = "whole"
    name: ClassVar[str] = "field_wise"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        if self.weights is not None:
            object.__setattr__(self, "weights", Weights(self.weights))
        if not isinstance(self.lists, str) or self.lists not in get_args(Lists):
            raise LLMValidationError(
                f"lists {self.lists!r:.60} is not {' or '.join(get_args(Lists))}",
                code="validation.strategy",
                next_step="use whole, or elementwise where positions of lists correspond",
            )

    def __call__(self, contributions: Sequence[ModelContribution]) -> EnsembleResponse:
        """The merged object; answer None where no member has one. Raises as the merges of decide/merge.py do."""
        check_contributions(contributions)
        if self.weights is not None and contributions:
            check_members(self.weights, [c.model for c in contributions])
            contributions = [replace(c, weight=float(self.weights[c.model])) for c in contributions]
        parts = prepare(contributions, None)
        read = [_object_of(c) if c.status == "kept" and c.weight > 0 else None for c in parts]
        voters = [(given, c.weight) for given, c in zip(read, parts, strict=True) if given is not None]
        units = units_of([weight for _, weight in voters])
        vote = _Vote(slack=len(units), total=sum(units), elementwise=self.lists == "elementwise")
        found = vote.merged([(given, u) for (given, _), u in zip(voters, units, strict=True)]) if voters else None
        answer = None if found is None else clean_text(canonical_json(found))
        agreement = vote.agreement if voters else 0.0
        top = max(c.weight for c in parts) or 1.0  # sums of huge weights would overflow
        heard = math.fsum(weight / top for _, weight in voters)
        asked = math.fsum(c.weight / top for c in parts) or 1.0
        return EnsembleResponse(
            text=answer or "",
            answer=answer,
            tied=() if answer is None else (answer,),
            strategy=self.name,
            confidence=agreement * min(1.0, heard / asked),
            agreement=agreement,
            contributions=tuple(parts),
        )


@dataclass(slots=True)
class _Vote:
    """The count over one set of objects. slack: units within which two sums are equal; total: those of all voters."""

    slack: int
    total: int
    elementwise: bool
    shares: list[float] = field(default_factory=list)

    @property
    def agreement(self) -> float:
        """Mean share behind what was decided; 1 where there was nothing to decide."""
        return math.fsum(self.shares) / len(self.shares) if self.shares else 1.0

    def merged(self, given: Sequence[tuple[Any, int]]) -> Any:
        """The object, or the list, that these of one type come to."""
        fields: dict[Any, list[tuple[Any, int]]] = {}
        for node, units in given:
            for key, value in node.items() if isinstance(node, dict) else enumerate(node):
                fields.setdefault(key, []).append((value, units))
        whole = sum(units for _, units in given)
        found = {}
        for key in sorted(fields):
            having = sum(units for _, units in fields[key])
            if 2 * having - whole > self.slack:
                found[key] = self._value(fields[key])
            else:
                self.shares.append((self.total - having) / self.total)
        return found if isinstance(given[0][0], dict) else list(found.values())

    def _value(self, given: Sequence[tuple[Any, int]]) -> Any:
        """The value that most units stand behind."""
        groups: dict[Hashable, list[tuple[Any, int]]] = {}
        for value, units in given:
            groups.setdefault(self._group(value), []).append((value, units))
        forms = {self._spelled(key, group): group for key, group in groups.items()}
        support = {form: sum(units for _, units in group) for form, group in forms.items()}
        winner = self._first(support)
        self.shares.append(support[winner] / self.total)
        return self.merged(forms[winner]) if winner in ("{", "[") else json.loads(winner)

    def _group(self, value: Any) -> Hashable:
        """What two values have alike that are votes for the same."""
        if isinstance(value, dict):
            return dict
        return list if self.elementwise and isinstance(value, list) else _same(value)

    def _spelled(self, key: Hashable, group: Sequence[tuple[Any, int]]) -> str:
        """The JSON of equal values that most units stand behind; of what is merged further, how it begins."""
        if key in (dict, list):
            return "{" if key is dict else "["
        support: dict[str, int] = {}
        for value, units in group:
            form = canonical_json(value)
            support[form] = support.get(form, 0) + units
        return self._first(support)

    def _first(self, support: Mapping[str, int]) -> str:
        top = max(support.values())
        return min(form for form, units in support.items() if top - units <= self.slack)


def _object_of(c: ModelContribution) -> dict[str, Any] | None:
    """The object that a contribution gives, or None."""
    given = None if c.answer is None else _read(c.answer)
    said = None if c.response is None else _last_object(c.response.text)
    if given is None or said is None:
        return said if given is None else given
    folded = normalise(canonical_json(said), "text")
    return said if folded is not None and _same(_read(folded)) == _same(given) else given


def _last_object(text: str) -> dict[str, Any] | None:
    """The object that ends last in a text, prose around it or not; what is within one that cannot be read is none."""
    text = text[: text.rfind("}") + 1]
    marks = [match.start() for match in _MARK.finditer(text) if match[0] in '"{}']
    ends = (at for at in range(len(marks) - 1, -1, -1) if text[marks[at]] == "}")
    for end in islice(ends, ATTEMPTS):
        depth, start = _opening(text, marks, end)
        if depth > LEVELS:
            return None
        if depth == 0:
            found = _read(text[start : marks[end] + 1])
            if found is not None or _BEGINS.match(text, start):
                return found
    return None


def _opening(text: str, marks: Sequence[int], end: int) -> tuple[int, int]:
    """Where the brace opens that closes at the mark `end`, and the levels open there: 0, or more where none does."""
    depth, quoted = 0, False
    for at in range(end, -1, -1):
        mark = text[marks[at]]
        if mark == '"':
            quoted = not quoted
        elif not quoted:
            depth += 1 if mark == "}" else -1
            if depth == 0 or depth > LEVELS:
                return depth, marks[at]
    return depth, 0


def _real(literal: str) -> float:
    found = float(literal)
    if not math.isfinite(found):
        raise _unreadable(literal)
    return found


def _integer(literal: str) -> int:
    if len(literal) > MAX_DIGITS:
        raise _unreadable(literal)
    return int(literal)


def _constant(literal: str) -> Any:
    raise _unreadable(literal)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _unreadable("a key twice")
    return found


def _unreadable(what: str) -> ValueError:
    return ValueError(f"{what:.40} cannot be read")


_JSON = json.JSONDecoder(parse_float=_real, parse_int=_integer, parse_constant=_constant, object_pairs_hook=_unique)


def _read(text: str) -> dict[str, Any] | None:
    """The object that a text is, or None: what cannot be read does not vote."""
    try:
        found = _JSON.decode(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and _within(found, LEVELS) else None


def _within(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        return levels > 0 and all(_within(part, levels - 1) for part in value.values())
    return not isinstance(value, list) or (levels > 0 and all(_within(part, levels - 1) for part in value))


def _same(value: Any) -> Hashable:
    """A key that two values share if and only if they are the same."""
    if isinstance(value, str):
        words = (w if w.isascii() or len(w) > MAX_WORD else unicodedata.normalize("NFC", w) for w in value.split())
        return " ".join(words)
    if isinstance(value, bool) or value is None:
        return (value,)  # True equals 1 by itself
    if isinstance(value, dict):
        return ("object", frozenset((key, _same(part)) for key, part in value.items()))
    if isinstance(value, list):
        return ("list", tuple(_same(part) for part in value))
    number: float = value
    return number
