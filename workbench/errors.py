"""What went wrong, and what to do next.

Eight types; catch the root or the narrowest one that you can act on:

    LLMError                     storage.*, run.* and anything without a narrower home
    ├── LLMRouterError           no model, or an unknown one
    ├── LLMOrchestratorError     an ensemble failed as a whole; carries .errors and .partial
    ├── LLMFailoverError         a failover chain is exhausted or every breaker is open; carries .retry_after_s
    ├── LLMProviderError         the other side failed; carries .status and .request_id
    │   └── LLMRateLimitError    429 and quotas; carries .retry_after_s
    ├── LLMTimeoutError          a deadline, idle or run limit (also a TimeoutError)
    └── LLMValidationError       the caller's input (also a ValueError)

A message says what was asked and what was found; `next_step` says what to do about it and is shown as
a note under the traceback. `code` is stable and meant for programs: `area.reason`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class LLMError(Exception):
    """Root of all errors the workbench raises.

    message: what was asked and what was found, one sentence.
    code: stable machine name, `area.reason`.
    retryable: whether the same call may succeed later without a change by the caller.
    next_step: what to do now, one sentence, at most 160 characters where it is ours to choose.
    model: the model concerned, `provider:model`, or None.
    trace_id: 32 hexadecimal digits of the trace the failure belongs to, or None.
    attempts: one facts.Attempt for each attempt of the call that failed, with its time and code.
    possibly_billed: a request had left, and nobody knows whether it will be charged.
    partial: what was saved of an answer, or None.
    usage, cost_usd: tokens (facts.Usage) and US dollars that the failed attempt is known to have used, or None.
    """

    default_code: ClassVar[str] = "error"
    default_next_step: ClassVar[str] = "read the cause below; report it with the trace id if it persists"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retryable: bool | None = None,
        next_step: str | None = None,
        model: str | None = None,
        trace_id: str | None = None,
        attempts: Sequence[Any] = (),
        possibly_billed: bool = False,
        partial: object | None = None,
        usage: Any = None,
        cost_usd: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.retryable = self.default_retryable if retryable is None else retryable
        self.next_step = next_step or self.default_next_step
        self.model = model
        self.trace_id = trace_id
        self.attempts = tuple(attempts)
        self.possibly_billed = possibly_billed
        self.partial = partial
        self.usage = usage
        self.cost_usd = cost_usd
        self.add_note(f"next: {self.next_step}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments break the default protocol, and errors do cross process boundaries.
        return (_rebuild, (type(self), self.message, dict(self.__dict__)))

    def as_dict(self) -> dict[str, Any]:
        """The error as plain JSON values, for `--json` output and log rows."""
        return {
            "error": type(self).__name__,
            "code": self.code,
            "message": self.message,
            "next_step": self.next_step,
            "retryable": self.retryable,
            "model": self.model,
            "trace_id": self.trace_id,
        }


def _rebuild(cls: type[LLMError], message: str, state: dict[str, Any]) -> LLMError:
    error = cls.__new__(cls, message)
    error.args = (message,)
    error.__dict__.update(state)
    return error


class LLMRouterError(LLMError):
    """No model can take the request, or the named one is unknown."""

    default_code = "router.no_candidate"
    default_next_step = "list the models with `workbench models` and name one of them"


class LLMOrchestratorError(LLMError):
    """An ensemble failed as a whole.

    errors: one entry per member that failed, in member order.
    partial: the best answer that was still available, or None.
    contributions: what every member brought, with the status it was given.
    """

    default_code = "ensemble.failed"
    default_next_step = "inspect .errors for each member and .partial for what was saved"

    def __init__(
        self,
        message: str,
        *,
        errors: Sequence[object] = (),
        contributions: Sequence[Any] = (),
        **context: Any,
    ) -> None:
        super().__init__(message, **context)
        self.errors = tuple(errors)
        self.contributions = tuple(contributions)


class LLMFailoverError(LLMError):
    """A failover chain is exhausted, or every breaker on it is open.

    retry_after_s: seconds until the first breaker may let a call through, or None.
    """

    default_code = "failover.exhausted"
    default_next_step = "wait retry_after_s, or add a model to the chain"
    default_retryable = True

    def __init__(self, message: str, *, retry_after_s: float | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.retry_after_s = retry_after_s

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait: `retry_after_s` by its name in HTTP."""
        return self.retry_after_s


class LLMProviderError(LLMError):
    """The other side failed: connection, status, or an answer that cannot be used.

    status: HTTP status, or None when there was no answer.
    request_id: the provider's own id of the request, or None.
    """

    default_code = "provider.error"
    default_next_step = "check the provider's status, or use another model"

    def __init__(
        self, message: str, *, status: int | None = None, request_id: str | None = None, **context: Any
    ) -> None:
        super().__init__(message, **context)
        self.status = status
        self.request_id = request_id


class LLMRateLimitError(LLMProviderError):
    """The provider asks to slow down, or a quota is used up.

    retry_after_s: seconds the provider asked to wait, or None.
    """

    default_code = "rate_limit"
    default_next_step = "wait retry_after_s, or lower the request rate"
    default_retryable = True

    def __init__(self, message: str, *, retry_after_s: float | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.retry_after_s = retry_after_s

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait: `retry_after_s` by its name in HTTP."""
        return self.retry_after_s


class LLMTimeoutError(LLMError, TimeoutError):
    """A deadline, idle or run limit passed."""

    default_code = "timeout.deadline"
    default_next_step = "raise the timeout, or use a faster model"
    default_retryable = True


class LLMValidationError(LLMError, ValueError):
    """The caller's input cannot be used: names, weights, budgets, data, configuration."""

    default_code = "validation.input"
    default_next_step = "correct the named argument and call again"
