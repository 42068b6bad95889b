"""What a configured value may be, whichever way it comes: an argument, a line of a file, or the text of a variable.

Every refusal names the place of the value, shows what stands there and says what may. What looks like a key is
never shown: people do paste keys where a name belongs.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from workbench.canonical import redacted
from workbench.decide.weights import closest
from workbench.errors import LLMValidationError

Kind = Literal["number", "integer", "flag", "choice", "text"]
FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,4})?", re.I)
_INTEGER = re.compile(r"[+-]?\d{1,30}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which values are accepted.

    kind: "number" is a finite float, "integer" a whole number, "flag" true or false, "choice" one of `choices`,
    "text" a line that is not empty. low, high: inclusive bounds, `above` makes the low one exclusive.
    optional: None is a value too, "none" in an environment variable. hidden: no message shows the value.
    code: of the LLMValidationError.
    """

    kind: Kind
    low: float | None = None
    high: float | None = None
    above: bool = False
    choices: tuple[str, ...] = ()
    optional: bool = False
    hidden: bool = False
    code: str = "validation.config"

    @property
    def allowed(self) -> str:
        """The accepted values in words, such as "a number > 0"."""
        words = {
            "number": f"a number{self._range}",
            "integer": f"a whole number{self._range}",
            "flag": "true or false",
            "choice": " or ".join(self.choices),
            "text": "a text on one line",
        }[self.kind]
        return f"{words}, or none" if self.optional else words

    @property
    def _range(self) -> str:
        if self.low is not None and self.high is not None:
            return f" in {'(' if self.above else '['}{self.low:g}, {_bound(self.high)}]"
        return "" if self.low is None else f" {'>' if self.above else '>='} {self.low:g}"

    def check(self, value: Any, where: str) -> Any:
        """The value in its kind; LLMValidationError that names `where` when it is not accepted.

        A boolean is not a number, and neither are NaN and infinities.
        """
        if value is None and self.optional:
            return None
        found = self._number(value) if self.kind in ("number", "integer") else self._word(value)
        if found is None:
            said = _kind_of(value) if self.hidden else shown(value)
            raise refusal(f"{where} is {said}, not {self.allowed}", f"set it to {self.allowed}", code=self.code)
        return found

    def parse(self, text: str, where: str) -> Any:
        """The value that a variable's text stands for, checked."""
        word = text.strip()
        value: Any = word
        if self.optional and word.lower() == "none":
            value = None
        elif self.kind == "flag":
            value = FLAGS.get(word.lower(), word)
        elif self.kind == "integer" and _INTEGER.fullmatch(word):
            value = int(word)
        elif self.kind == "number" and _NUMBER.fullmatch(word):
            value = float(word)
        return self.check(value, where)

    def _number(self, value: Any) -> float | int | None:
        accepted = numbers.Real if self.kind == "number" else numbers.Integral
        if isinstance(value, bool) or not isinstance(value, accepted):
            return None
        try:
            number = float(value)
        except OverflowError:  # an integer beyond the range of floats
            return None
        low = -math.inf if self.low is None else self.low
        fits = low < number if self.above else low <= number
        if not math.isfinite(number) or not fits or (self.high is not None and number > self.high):
            return None
        return int(value) if isinstance(value, numbers.Integral) and self.kind == "integer" else number

    def _word(self, value: Any) -> str | bool | None:
        if self.kind == "flag":
            return value if isinstance(value, bool) else None
        if not isinstance(value, str):
            return None
        if self.kind == "choice":
            return value if value in self.choices else None
        return value if value.strip() and value.isprintable() else None


def _bound(number: float) -> str:
    return f"{number:g}".replace("e+0", "e").replace("e+", "e")


def refusal(message: str, next_step: str, *, code: str = "validation.config") -> LLMValidationError:
    """The error for a configuration that cannot be used."""
    return LLMValidationError(message, code=code, next_step=next_step[:160])


def shown(value: Any) -> str:
    """A value as a message may show it: short, and without what looks like a key."""
    try:
        text = redacted(repr(value))
    except ValueError:  # an integer with more digits than Python prints
        return "a number beyond all bounds"
    return text if len(text) <= 60 else f"{text[:60]}..."


def check_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse a key that is not known, with the closest one that is.

    where: what the key stands in, for the message, such as "workbench.toml [call]".
    """
    choices = list(known)
    for key in table:
        if key in choices:
            continue
        hint = closest(str(key), choices)
        step = f"did you mean {hint!r}?" if hint else f"use one of: {', '.join(choices)}"
        raise refusal(f"{where} has an unknown key {shown(key)}", step)


def check_table(value: Any, where: str) -> Mapping[str, Any]:
    """The value as a table; LLMValidationError when it is something else."""
    if not isinstance(value, Mapping):
        # By its kind alone: where a provider's table belongs, people have written its key.
        raise refusal(f"{where} is {_kind_of(value)}, not a table", "see docs/reference/settings.md for the form")
    return value


def _kind_of(value: Any) -> str:
    return f"a value of type {type(value).__name__}"


def read_fields(table: Mapping[str, Any], rules: Mapping[str, Rule], where: str) -> dict[str, Any]:
    """The table's values, each checked by the rule of its key; unknown keys are refused."""
    check_keys(table, rules, where)
    return {key: rules[key].check(value, f"{where} {key}") for key, value in table.items()}
