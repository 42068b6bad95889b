"""Money as whole micro-US-dollars: what a call costs, and whether accounts can bear it.

Reserve the worst case before a call, settle with what it cost. Between the two the money is set aside, so however
many calls are under way at once, no reservation takes spent + reserved over the limit. Only an answer that costs more
than was reserved can (an overrun): it is booked, and everything that costs money is refused from then on.

Limits are rounded down to whole micro-dollars and costs up, so rounding never overspends.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType

from workbench.decide.retry import checked
from workbench.errors import LLMValidationError
from workbench.facts import ModelCard, Refusal, Usage

MICRO = 1_000_000
LARGEST_USD = (2**63 - 1) // MICRO  # in micro-dollars it still fits into a 64-bit column of the log
LARGEST_PRICE = 1e9
SETTINGS: Mapping[str, str] = MappingProxyType(
    {"run": "budget_run_usd", "month": "budget_month_usd", "model": "budget_model_usd"}
)


def micro_usd(value: object, name: str = "budget_usd") -> int:
    """An amount in US dollars as whole micro-dollars, rounded down.

    value: an int, float, Decimal or Fraction from 0 to 9.2e12; a float counts as the decimal number it is shown as.
    Raises LLMValidationError validation.budget, naming `name`, for anything else.
    >>> micro_usd(0.29)
    290000
    """
    exact = _decimal(value)
    if isinstance(exact, numbers.Rational) and not isinstance(exact, bool):
        exact = Fraction(int(exact.numerator), int(exact.denominator))
    if isinstance(exact, Decimal) and not exact.is_finite():
        exact = None
    if isinstance(exact, Decimal | Fraction) and 0 <= exact <= LARGEST_USD:
        # The exponent is looked at first: 1E-999999999 written as a fraction would not fit into memory.
        small = isinstance(exact, Decimal) and (not exact or exact.adjusted() < -6)
        return 0 if small else math.floor(Fraction(exact) * MICRO)
    allowed = f"an amount in US dollars from 0 to {LARGEST_USD}"
    raise LLMValidationError(
        f"{name} is {_shown(value)}, not {allowed}",
        code="validation.budget",
        next_step=f"set {name} to a finite number of US dollars >= 0, or leave it out for no limit",
    )


def usd_text(micro: int) -> str:
    """Micro-dollars as US dollars with 2 to 6 decimals.

    >>> usd_text(290000), usd_text(1), usd_text(-1500000)
    ('0.29', '0.000001', '-1.50')
    """
    whole, part = divmod(abs(micro), MICRO)
    decimals = f"{part:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micro < 0 else ''}{whole}.{decimals}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One budget and what became of it, in micro-dollars.

    limit: None is no limit. spent: booked, paid or possibly paid. reserved: set aside for calls under way.
    uncertain: the part of spent that is only possibly billed. None of them is negative; uncertain <= spent.
    Raises LLMValidationError validation.budget.
    """

    limit: int | None = None
    spent: int = 0
    reserved: int = 0
    uncertain: int = 0

    def __post_init__(self) -> None:
        spent, reserved, uncertain, limit = self.spent, self.reserved, self.uncertain, self.limit
        whole = type(spent) is type(reserved) is type(uncertain) is int
        bounded = limit is None or (type(limit) is int and limit >= 0)
        if whole and bounded and 0 <= uncertain <= spent and reserved >= 0:
            return  # as nearly always, and it is asked often
        for name in ("spent", "reserved", "uncertain"):
            check_micro(name, getattr(self, name))
        if self.limit is not None:
            check_micro("limit", self.limit)
        if self.uncertain > self.spent:
            raise _bad_amount(f"uncertain is {self.uncertain}, more than spent, which is {self.spent}")

    @property
    def left(self) -> int | None:
        """What a reservation may still take, >= 0; None without a limit."""
        return None if self.limit is None else max(0, self.limit - self.spent - self.reserved)

    @property
    def overrun(self) -> int:
        """What was spent beyond the limit."""
        return 0 if self.limit is None else max(0, self.spent - self.limit)

    def could_fit(self, amount: int) -> bool:
        """Whether `amount` would fit if every outstanding reservation were released."""
        check_micro("amount", amount)
        return amount == 0 or self.limit is None or self.spent + amount <= self.limit

    def reserve(self, amount: int) -> Account | None:
        """The account with `amount` set aside, or None where it does not fit.

        0 always fits, also into a budget of 0 and after an overrun: free models still run.
        """
        check_micro("amount", amount)
        if amount and self.limit is not None and self.spent + self.reserved + amount > self.limit:
            return None
        return Account(limit=self.limit, spent=self.spent, reserved=self.reserved + amount, uncertain=self.uncertain)

    def settle(self, *, reserved: int, actual: int, uncertain: bool = False) -> Account:
        """The account after a call for which `reserved` was set aside and that cost `actual`.

        actual: may be more than reserved; 0 releases the reservation. uncertain: only possibly billed.
        Raises LLMValidationError validation.budget when less than `reserved` is set aside.
        """
        check_micro("reserved", reserved)
        check_micro("actual", actual)
        if reserved > self.reserved:
            raise _bad_amount(f"{reserved} is to be settled, but only {self.reserved} is set aside")
        return Account(
            limit=self.limit,
            spent=self.spent + actual,
            reserved=self.reserved - reserved,
            uncertain=self.uncertain + (actual if uncertain else 0),
        )


def reserve_all(accounts: Mapping[str, Account], amount: int) -> Mapping[str, Account] | Refusal:
    """The accounts with `amount` set aside in each, or the refusal of one of them.

    An account that can never bear the amount is named before one that is only waiting for calls under way; among
    equals the first. Raises LLMValidationError validation.budget for an amount that is no whole number >= 0.
    """
    after = {scope: account.reserve(amount) for scope, account in accounts.items()}
    refused = [scope for scope, account in after.items() if account is None]
    if not refused:
        return {scope: account for scope, account in after.items() if account is not None}
    hopeless = [scope for scope in refused if not accounts[scope].could_fit(amount)]
    scope = (hopeless or refused)[0]
    account = accounts[scope]
    return Refusal(
        scope=scope,
        limit=account.limit or 0,
        spent=account.spent,
        reserved=account.reserved,
        amount=amount,
        may_fit_later=not hopeless,
    )


def exceeded(refusal: Refusal) -> LLMValidationError:
    """The error budget.exceeded that tells the caller which budget refused, and which setting raises it."""
    setting = SETTINGS.get(refusal.scope.partition(":")[0], "the budget of this scope")
    first = "wait for the calls under way, or raise" if refusal.may_fit_later else "raise"
    limit, spent, reserved = map(usd_text, (refusal.limit, refusal.spent, refusal.reserved))
    return LLMValidationError(
        f"{usd_text(refusal.amount)} USD do not fit into the budget of {refusal.scope}: limit {limit} USD, "
        f"spent {spent} USD, reserved {reserved} USD",
        code="budget.exceeded",
        next_step=f"{first} {setting}; models with a price of 0 need no budget",
    )


def limit_of(limits: Mapping[str, int], scope: str) -> int | None:
    """The limit of a scope: its own entry, else the longest pattern `prefix*` that fits, else None."""
    if scope in limits:
        return limits[scope]
    patterns = [key for key in limits if key.endswith("*") and scope.startswith(key[:-1])]
    return limits[max(patterns, key=len)] if patterns else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model charges, in US dollars per million tokens; 1 USD per million is 1 micro-dollar per token.

    Each from 0 to 1e9, taken as the decimal number it is shown as. cached_usd_per_mtok: of prompt tokens read from
    the provider's cache; None is the prompt price.
    Raises LLMValidationError validation.config.
    """

    prompt_usd_per_mtok: float
    completion_usd_per_mtok: float
    cached_usd_per_mtok: float | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_usd_per_mtok", "completion_usd_per_mtok", "cached_usd_per_mtok"):
            given = getattr(self, name)
            if given is None and name == "cached_usd_per_mtok":
                continue
            price = checked(name, given)
            if price > LARGEST_PRICE:
                raise LLMValidationError(
                    f"{name} is {price:g}, beyond {LARGEST_PRICE:g} US dollars per million tokens",
                    code="validation.config",
                    next_step=f"set {name} to US dollars per million tokens",
                )
            object.__setattr__(self, name, price)

    def cost_micro(self, *, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> int:
        """Whole micro-dollars for a call, rounded up.

        cached_tokens: part of prompt_tokens. A report of more cached than prompt tokens is charged for all of them.
        Raises LLMValidationError validation.input for counts that are no whole numbers >= 0.
        """
        micro, parts = self._exact_micro(prompt_tokens, completion_tokens, cached_tokens)
        return -(-micro // parts)

    def cost_usd(self, *, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """US dollars for a call, not rounded to micro-dollars; arguments as for `cost_micro`."""
        micro, parts = self._exact_micro(prompt_tokens, completion_tokens, cached_tokens)
        return micro / (parts * MICRO)  # correctly rounded, of whole numbers

    def _exact_micro(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> tuple[int, int]:
        """Micro-dollars as a fraction of whole numbers."""
        counts = (
            ("prompt_tokens", prompt_tokens),
            ("completion_tokens", completion_tokens),
            ("cached_tokens", cached_tokens),
        )
        for name, count in counts:
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise LLMValidationError(
                    f"{name} is {_shown(count)}, not a whole number >= 0",
                    next_step=f"pass {name} as a number of tokens, or estimate it before asking for a cost",
                )
        prompt, cached, completion, parts = _whole(self)
        micro = prompt * max(0, prompt_tokens - cached_tokens) + cached * cached_tokens + completion * completion_tokens
        return micro, parts


def price_of(card: ModelCard, prompt_tokens: int = 0) -> Price | None:
    """The price on a model's card for a prompt of so many tokens, or None where it is not known."""
    if card.prompt_usd_per_mtok is None or card.completion_usd_per_mtok is None:
        return None
    if card.prices_up_to_tokens is not None and prompt_tokens > card.prices_up_to_tokens:
        return None
    return _price(card.prompt_usd_per_mtok, card.completion_usd_per_mtok, card.cached_usd_per_mtok)


def tokens_of(usage: Usage) -> dict[str, int]:
    """The counts of a usage as `Price` takes them; unknown ones are 0."""
    return {
        "prompt_tokens": usage.prompt_tokens or 0,
        "completion_tokens": usage.completion_tokens or 0,
        "cached_tokens": usage.cached_tokens or 0,
    }


def check_micro(name: str, amount: object) -> None:
    """Refuse an amount that is no whole number of micro-dollars >= 0."""
    if isinstance(amount, bool) or not isinstance(amount, int) or amount < 0:
        raise _bad_amount(f"{name} is {_shown(amount)}, not a whole number of micro-dollars >= 0")


def check_scopes(scopes: Sequence[str]) -> tuple[str, ...]:
    """The scopes, each once, in order; LLMValidationError validation.budget for a single string in place of a list."""
    if isinstance(scopes, str) or not all(isinstance(scope, str) and scope for scope in scopes):
        raise LLMValidationError(
            f"scopes are {_shown(scopes)}, not a sequence of names such as run:r1",
            code="validation.budget",
            next_step="pass the scopes as a list of texts, such as ['run:r1', 'model:openai:gpt']",
        )
    return tuple(dict.fromkeys(scopes))


@lru_cache(maxsize=1024)
def _price(prompt: float, completion: float, cached: float | None) -> Price:
    return Price(prompt_usd_per_mtok=prompt, completion_usd_per_mtok=completion, cached_usd_per_mtok=cached)


@lru_cache(maxsize=1024)
def _whole(price: Price) -> tuple[int, int, int, int]:
    """The prices of a prompt, a cached and an answer's token as whole numbers, and of how many parts of a micro-dollar.

    Each as it is written: 0.15, and not the binary number beside it.
    """
    cached = price.prompt_usd_per_mtok if price.cached_usd_per_mtok is None else price.cached_usd_per_mtok
    written = (price.prompt_usd_per_mtok, cached, price.completion_usd_per_mtok)
    exact = [Fraction(Decimal(float.__repr__(amount))) for amount in written]
    parts = math.lcm(*(amount.denominator for amount in exact))
    prompt, kept, completion = (int(amount * parts) for amount in exact)
    return prompt, kept, completion, parts


def _decimal(value: object) -> object:
    return Decimal(float.__repr__(value)) if isinstance(value, float) else value


def _shown(value: object) -> str:
    try:
        return repr(value)[:40]
    except ValueError:  # an integer with more digits than Python prints
        return "a number beyond all bounds"


def _bad_amount(message: str) -> LLMValidationError:
    return LLMValidationError(
        message, code="validation.budget", next_step="reserve and settle whole micro-dollars, as micro_usd gives them"
    )
