"""When a fault happens: to which model, how often, how many times, and between which seconds.

In text a rule is MODEL=FAULT[@RATE][*N][/FROM-UNTIL], for example

    strong=http-503-ra@0.3      three in ten requests of strong, drawn from the seed
    *=http-500-always/10-40     all models are down from the 10th to the 40th second
    weak=net-reset-head*1       the first attempt of each call of weak

N counts the attempts of each call, told by its idempotency key; of each model where a request has none.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from workbench.act.provider import Wire
from workbench.errors import LLMValidationError
from workbench.serve.lab.catalog import FAULTS, fault_of
from workbench.serve.lab.fault import Fault

ALL = "*"
FORM = "MODEL=FAULT[@RATE][*N][/FROM-UNTIL]"
_NUMBER = r"\d{1,400}(?:\.\d{1,400})?"  # any float, written out
_RULE = re.compile(
    rf"(?P<fault>[A-Za-z0-9_-]+?)(?:@(?P<rate>{_NUMBER}))?(?:\*(?P<first>\d{{1,400}}))?"
    rf"(?:/(?P<from>{_NUMBER})?-(?P<until>{_NUMBER})?)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRule:
    """One fault of one model.

    model: its name, or `*` for all. rate: probability in [0, 1]. first: attempts of each call that it hits; None for
    as many as the fault itself names, which are all for most. from_s, until_s: seconds since the lab was started or
    reset. Raises LLMValidationError validation.fault.
    """

    model: str
    fault: str
    rate: float = 1.0
    first: int | None = None
    from_s: float = 0.0
    until_s: float = math.inf

    def __post_init__(self) -> None:
        fault_of(self.fault, str(self))
        problem = None
        if not 0 <= self.rate <= 1:
            problem = f"the rate {self.rate} is not in [0, 1]"
        elif self.first is not None and self.first < 1:
            problem = f"the number of attempts {self.first} is not >= 1"
        elif not 0 <= self.from_s < self.until_s:
            problem = f"the window {self.from_s}-{self.until_s} s is empty, or begins before 0"
        if problem:
            raise _refused(str(self), problem)

    def __str__(self) -> str:
        rate = "" if self.rate == 1 else f"@{_written(self.rate)}"
        first = "" if self.first is None else f"*{self.first}"
        until = "" if self.until_s == math.inf else _written(self.until_s)
        window = f"/{_written(self.from_s)}-{until}" if self.from_s or until else ""
        return f"{self.model}={self.fault}{rate}{first}{window}"

    @classmethod
    def parse(cls, text: str) -> FaultRule:
        """The rule of a text MODEL=FAULT[@RATE][*N][/FROM-UNTIL]; LLMValidationError validation.fault."""
        model, equals, rest = text.strip().partition("=")
        found = _RULE.fullmatch(rest.strip())
        if not equals or not model.strip() or found is None:
            raise _refused(text, f"it is not of the form {FORM}")
        return cls(
            model=model.strip(),
            fault=found["fault"],
            rate=float(found["rate"] or 1),
            first=int(found["first"]) if found["first"] else None,
            from_s=float(found["from"] or 0),
            until_s=float(found["until"] or math.inf),
        )

    def of(self, model: str) -> bool:
        """Whether it is about this model."""
        return self.model in (ALL, model)


def _written(number: float) -> str:
    """The shortest decimal digits that are read as the same number, without an exponent."""
    return format(Decimal(repr(float(number) + 0.0)).normalize(), "f")  # + 0.0: there is no -0


Given = str | FaultRule | Sequence[str | FaultRule]
Faults = Mapping[str, Given] | Iterable[str | FaultRule] | str


def _refused(rule: str, problem: str) -> LLMValidationError:
    return LLMValidationError(
        f"the fault rule {rule[:200]!r} cannot be used: {problem}",
        code="validation.fault",
        next_step=f"write {FORM}, such as strong=http-503-ra@0.3 or '*=http-500-always/10-40'",
    )


def rules_of(faults: Faults, models: Iterable[str]) -> tuple[FaultRule, ...]:
    """The rules in the order given.

    faults: texts or rules; or a table of model -> the fault's part of a text, a rule, or several of either. models:
    the names there are. Raises LLMValidationError validation.fault for a model or fault that there is not.
    """
    made: list[FaultRule] = []
    if isinstance(faults, str):
        faults = [faults]
    if isinstance(faults, Mapping):
        for model, given in faults.items():
            several = [given] if isinstance(given, str | FaultRule) else given
            made += [
                FaultRule.parse(f"{model}={one}") if isinstance(one, str) else replace(one, model=model)
                for one in several
            ]
    else:
        made = [FaultRule.parse(one) if isinstance(one, str) else one for one in faults]
    names = [ALL, *models]
    for rule in made:
        if rule.model not in names:
            raise _refused(str(rule), f"there is no model {rule.model!r}, only {', '.join(names)}")
    return tuple(made)


class Weather:
    """The rules in force, and the draws that were made for them.

    seed: of the draws. The n-th draw of a rule for a model is the same in every lab with this seed.
    """

    def __init__(self, rules: Sequence[FaultRule], *, seed: int) -> None:
        self.rules, self.seed = tuple(rules), seed
        self._draws: Counter[tuple[int, str]] = Counter()

    def choose(self, *, model: str, wire: Wire, stream: bool, attempt: int, at_s: float) -> Fault | None:
        """The fault of the first rule that applies; None for good weather.

        attempt: of the call, from 1. at_s: seconds since the start. A fault that makes no sense for the wire format,
        or for a whole answer or a stream, does not apply.
        """
        for index, rule in enumerate(self.rules):
            fault = FAULTS[rule.fault]
            first = rule.first or fault.first
            if not (rule.of(model) and rule.from_s <= at_s < rule.until_s and fault.fits(wire, stream=stream)):
                continue
            if first is not None and attempt > first:
                continue
            if rule.rate == 1 or self._draw(index, model) < rule.rate:
                return fault
        return None

    def _draw(self, index: int, model: str) -> float:
        number = self._draws[index, model]
        self._draws[index, model] += 1
        digest = hashlib.blake2b(f"{self.seed}|{index}|{model}|{number}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64
