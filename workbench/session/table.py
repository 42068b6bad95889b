"""The table of settings: what each is called, may be, is by default, and means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal, get_args

from workbench.session.rules import Rule

Group = Literal["call", "breaker", "budget", "log"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The value of every setting, checked; SETTINGS says what each means and may be.

    Raises LLMValidationError validation.config (validation.budget for budgets) for a value that is not allowed.
    """

    timeout_s: float = 30.0
    max_retries: int = 2
    base_delay_s: float = 0.5
    backoff_factor: float = 2.0
    max_delay_s: float = 8.0
    max_retry_after_s: float = 60.0
    retry_capacity: float = 100.0
    retry_ratio: float = 0.1
    first_token_s: float = 10.0
    idle_s: float = 10.0
    stream: bool = False
    hedge_after_s: float | None = None
    hedge_ratio: float = 0.05
    failover_on_content_filter: bool = False
    max_output_tokens: int | None = None
    max_response_bytes: int = 16_777_216
    max_connections: int | None = None
    failure_rate: float = 0.7
    slow_rate: float = 1.0
    slow_call_s: float = 60.0
    minimum_calls: int = 3
    window_calls: int = 10
    cooldown_s: float = 30.0
    cooldown_factor: float = 1.0
    max_cooldown_s: float = 300.0
    permits: int = 1
    budget_run_usd: float | None = None
    budget_model_usd: float | None = None
    budget_month_usd: float | None = None
    allow_unknown_price: bool = False
    durability: Literal["process", "disk"] = "process"
    log_level: Literal["debug", "info", "warning", "error"] | None = None

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            object.__setattr__(self, name, setting.rule.check(getattr(self, name), f"setting {name}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting: its name, the table of the file it stands in, what it may be, and one line of help."""

    name: str
    group: Group
    rule: Rule
    help: str

    @property
    def default(self) -> Any:
        """The value where nobody sets one."""
        return next(field.default for field in fields(Settings) if field.name == self.name)

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"WORKBENCH_{self.name.upper()}"


_DURATION = Rule(kind="number", low=0, high=86_400, above=True)
_DELAY = Rule(kind="number", low=0, high=86_400)
_SHARE = Rule(kind="number", low=0, high=1)
_RATE = Rule(kind="number", low=0, high=1, above=True)
_COUNT = Rule(kind="integer", low=1, high=10_000)
_COOLDOWN = Rule(kind="number", low=0.001, high=86_400)
_FLAG = Rule(kind="flag")
_FACTOR = Rule(kind="number", low=1)
_BUDGET = Rule(kind="number", low=0, high=1e12, optional=True, code="validation.budget")
_CALL: tuple[tuple[str, Rule, str], ...] = (
    ("timeout_s", _DURATION, "Deadline of a call in seconds, with all attempts, waits and models of its chain."),
    ("max_retries", Rule(kind="integer", low=0, high=1000), "Further attempts per model; 0 is one attempt."),
    ("base_delay_s", _DELAY, "Ceiling of the drawn wait after the first attempt."),
    ("backoff_factor", _FACTOR, "Growth of that ceiling per attempt."),
    ("max_delay_s", _DELAY, "Largest ceiling of a drawn wait."),
    ("max_retry_after_s", _DELAY, "Longest wait that a provider may ask for."),
    ("retry_capacity", Rule(kind="number", low=0, above=True), "Retries that all calls together may make at once."),
    ("retry_ratio", Rule(kind="number", low=0), "Retries earned by each call begun."),
    ("first_token_s", _DURATION, "Longest silence before the first text of a streamed answer."),
    ("idle_s", _DURATION, "Longest silence between two pieces of a streamed answer."),
    ("stream", _FLAG, "Ask for answers piece by piece."),
    (
        "hedge_after_s",
        Rule(kind="number", low=0, high=86_400, above=True, optional=True),
        "Ask a second time after this many seconds without an answer; none never does.",
    ),
    ("hedge_ratio", _SHARE, "Second calls earned by each call begun, at most five at once."),
    ("failover_on_content_filter", _FLAG, "Let another model answer what one model's filter refused."),
    (
        "max_output_tokens",
        Rule(kind="integer", low=1, high=10_000_000, optional=True),
        "Most tokens of an answer, sent where a request sets no limit, and reserved in budgets.",
    ),
    ("max_response_bytes", Rule(kind="integer", low=1024), "Longest body of an answer, in bytes."),
    (
        "max_connections",
        Rule(kind="integer", low=1, optional=True),
        "Connections open at once; none derives it from the limit of open files.",
    ),
)
_BREAKER: tuple[tuple[str, Rule, str], ...] = (
    ("failure_rate", _RATE, "Share of failed calls at which a breaker opens."),
    ("slow_rate", _RATE, "Share of slow calls at which it opens."),
    ("slow_call_s", _DURATION, "A call that takes this long is slow."),
    ("minimum_calls", _COUNT, "Calls that must be known before the shares count."),
    ("window_calls", _COUNT, "Calls that are remembered."),
    ("cooldown_s", _COOLDOWN, "Time an open breaker lets nothing through."),
    ("cooldown_factor", Rule(kind="number", low=1, high=1000), "Growth of that time with each opening in a row."),
    ("max_cooldown_s", _COOLDOWN, "Longest such time, at least cooldown_s."),
    ("permits", _COUNT, "Trial calls that a half-open breaker lets through."),
)
_BUDGETS: tuple[tuple[str, Rule, str], ...] = (
    ("budget_run_usd", _BUDGET, "Most that a run may cost; none is unlimited, 0 allows models without cost."),
    ("budget_model_usd", _BUDGET, "Most that a model may cost."),
    ("budget_month_usd", _BUDGET, "Most that a calendar month may cost."),
    ("allow_unknown_price", _FLAG, "Call models of unknown price under a budget, uncounted."),
)
_LOG: tuple[tuple[str, Rule, str], ...] = (
    (
        "durability",
        Rule(kind="choice", choices=("process", "disk")),
        "What a written row survives: the end of the process, or a power cut too.",
    ),
    (
        "log_level",
        Rule(kind="choice", choices=("debug", "info", "warning", "error"), optional=True),
        "Level of the loggers `workbench.*`; none leaves it to the program.",
    ),
)
SETTINGS: Mapping[str, Setting] = MappingProxyType({
    name: Setting(name=name, group=group, rule=rule, help=text)
    for group, rows in zip(GROUPS, (_CALL, _BREAKER, _BUDGETS, _LOG), strict=True)
    for name, rule, text in rows
})  # fmt: skip
