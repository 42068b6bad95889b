"""What a span is told, in a form that can be kept: plain JSON values, bounded, copied, and without secrets.

Whatever is given, keeping it neither fails nor takes much: no object of the caller stays alive, a cycle ends where it
begins, and a span keeps at most MOST_CHARACTERS characters in at most MOST_PARTS values, MOST_ITEMS of one container
and MOST_DEEP containers deep.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

from workbench.canonical import clean_text, names_secret, plain_scalar, redacted

LONGEST_TEXT = 2_000
MOST_CHARACTERS = 10_000
MOST_PARTS = 200
MOST_ITEMS = 50
MOST_DEEP = 6
_LONGEST_KEY = 200
_MORE_READ = 10_000  # characters behind a cut that are searched too: half a secret is not known as one
_SHORT = 64
_BIGGEST = 2**63
# Beside those that are known in any text: of a name of its own less is said by accident.
_SECRET_NAME = re.compile(r"(?:^|[_\-. ])(?:auth|cookie|pwd|secret|token)$", re.I)


class _Kept(dict[str, Any]):
    """What was cut, so that it is not cut again."""


def copied(given: Mapping[Any, Any]) -> dict[Any, Any]:
    """A copy of the caller's mapping, one level deep; one that cannot be read becomes a note of that."""
    try:
        return dict(given)
    except Exception as error:  # a mapping of somebody's own must not break the call that it describes
        return {"metadata": f"<{type(given).__name__}: reading failed with {type(error).__name__}>"}


def kept(values: dict[Any, Any]) -> dict[str, Any]:
    """The same dictionary where all of it may be kept as it is, as is usual; else a copy in plain values, cut."""
    if _is_plain(values) or isinstance(values, _Kept):
        return values
    return _Kept(_Cutting().mapping(values, MOST_PARTS))


def _is_plain(values: dict[Any, Any]) -> bool:
    """Whether all of it is short texts, finite numbers, truth values and nothing."""
    if len(values) > MOST_PARTS:
        return False
    room = MOST_CHARACTERS
    for key, value in values.items():
        if type(key) is not str or len(key) > _LONGEST_KEY:
            return False
        kind = type(value)
        if kind is str:
            if len(value) > LONGEST_TEXT:
                return False
            room -= len(value)
        elif kind is int:
            if not -_BIGGEST <= value < _BIGGEST:
                return False
        elif kind is float:
            if value - value != 0.0:  # NaN and infinities
                return False
        elif value is not None and kind is not bool:
            return False
    return room >= 0


def shown(values: Mapping[str, Any]) -> dict[str, Any]:
    """Kept values as they may be shown and written: what looks like a secret, or is called one, is taken out."""
    return _mapping(values, named=False)


def _mapping(values: Mapping[str, Any], *, named: bool) -> dict[str, Any]:
    return {shown_name(key): _without_secrets(value, named=named or _is_secret(key)) for key, value in values.items()}


def _without_secrets(value: Any, *, named: bool) -> Any:
    if isinstance(value, str):
        if named and value:
            return "[redacted]"
        return shown_name(value) if len(value) <= _SHORT else _open(value)
    if isinstance(value, dict):
        return _mapping(value, named=named)
    if isinstance(value, list):
        if len(value) == 2 and not named and isinstance(value[0], str) and _is_secret(value[0]):  # a header
            return [shown_name(value[0]), _without_secrets(value[1], named=True)]
        return [_without_secrets(part, named=named) for part in value]
    return value


def _open(text: str) -> str:
    return redacted(clean_text(text))


# Names come again and again, as do short values such as a model's; the search for secrets costs as much as the span.
shown_name = lru_cache(maxsize=2048)(_open)


@lru_cache(maxsize=2048)
def _is_secret(key: str) -> bool:
    return names_secret(key) or _SECRET_NAME.search(key) is not None


class _Cutting:
    """One walk through foreign values: what is left of the room, and which containers it is inside of."""

    def __init__(self) -> None:
        self.room, self.parts, self.inside = MOST_CHARACTERS, MOST_PARTS, set[int]()

    def mapping(self, values: Mapping[Any, Any], most: int = MOST_ITEMS) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in islice(values.items(), most):
            if self.parts <= 0:
                break
            out[_cut(key if isinstance(key, str) else _repr(key), _LONGEST_KEY)] = self.value(value)
        if len(values) > len(out):
            out["…"] = f"{len(out)} of {len(values)} kept"
        return out

    def sequence(self, values: Iterable[Any], length: int) -> list[Any]:
        out: list[Any] = []
        for value in islice(values, MOST_ITEMS):
            if self.parts <= 0:
                break
            out.append(self.value(value))
        if length > len(out):
            out.append(f"… {len(out)} of {length} kept")
        return out

    def value(self, value: Any) -> Any:
        self.parts -= 1
        try:
            return self._plain(value)
        except Exception as error:  # whatever a foreign object does must not break the call that it describes
            return f"<{type(value).__name__}: reading failed with {type(error).__name__}>"

    def _plain(self, value: Any) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self.text(value, LONGEST_TEXT)
        if isinstance(value, int):
            return int(value) if -_BIGGEST <= value < _BIGGEST else f"<int of {value.bit_length()} bits>"
        if isinstance(value, float):
            return float(value) if value - value == 0.0 else repr(float(value))
        if isinstance(value, bytes | bytearray):
            return self.text(repr(bytes(value[: LONGEST_TEXT + _MORE_READ])), LONGEST_TEXT)
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            return self._container(value)
        try:
            return self._plain(plain_scalar(value))
        except Exception:  # no number of a library: its repr it is
            return self.text(_repr(value), LONGEST_TEXT)

    def _container(self, value: Any) -> Any:
        if id(value) in self.inside:
            return f"<{type(value).__name__} that contains itself>"
        if len(self.inside) >= MOST_DEEP:
            return f"<{type(value).__name__} of {len(value)}>"
        self.inside.add(id(value))
        try:
            return self.mapping(value) if isinstance(value, Mapping) else self.sequence(value, len(value))
        finally:
            self.inside.discard(id(value))

    def text(self, text: str, longest: int) -> str:
        limit = min(longest, max(self.room, 0))
        self.room -= min(len(text), limit)
        return _cut(text, limit)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    start = redacted(clean_text(text[: limit + _MORE_READ]))[:limit] if limit else ""
    return f"{start}… ({len(text)} characters)"


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # the same
        return f"<{type(value).__name__}: repr failed with {type(error).__name__}>"
