"""What a caller may bring to a PromptEngineer (optimizer, counter, score): how it is asked, and what it may answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from workbench.canonical import text_of
from workbench.decide.template_language import shown
from workbench.decide.tokens import TokenCount
from workbench.decide.weights import is_finite
from workbench.errors import LLMError, LLMValidationError


class Optimizer(Protocol):
    """What rewrites queries and learns from their results, such as QueryOptimizer."""

    def optimize_query(self, query: str) -> Any:
        """An object with `optimized_query`, `task_type`, `strategies`; told `task` and `model` where it takes them."""

    def update_weights(self, result_quality: float) -> Any:
        """Learn from a quality; told `of` which of its objects, and the `answer`, where it takes them."""


class Counter(Protocol):
    """What counts tokens, such as TokenCounter; its `count_messages` counts the whole, where it has one."""

    def count(self, text: str, model: str | None = None) -> TokenCount:
        """The tokens of a text."""


async def told(method: Callable[..., Any], value: object, known: Mapping[str, object]) -> Any:
    """What a method gives, plain or asynchronous, told as much of what is known as it takes.

    Raises LLMError as it is, and execution.failed for any other exception, which is its cause.
    """
    try:
        takes = inspect.signature(method).parameters
    except ValueError:  # a function of C need not say what it takes
        takes = MappingProxyType({})
    if not any(one.kind is one.VAR_KEYWORD for one in takes.values()):
        known = {name: told for name, told in known.items() if name in takes}
    try:
        made = method(value, **known)
        return await made if inspect.isawaitable(made) else made
    except LLMError:
        raise
    except Exception as error:
        raise LLMError(
            f"{getattr(method, '__qualname__', 'the optimizer')} failed: {type(error).__name__}: {text_of(error)}",
            code="execution.failed",
            next_step="see the cause; enable_query_optimization=False goes on without the optimizer",
        ) from error


def rewriting(made: Any) -> tuple[str, Any, list[str]]:
    """Text, task and strategies of what an optimizer has made. Raises LLMValidationError validation.optimizer."""
    text, task, given = (getattr(made, name, None) for name in ("optimized_query", "task_type", "strategies"))
    strategies = given if isinstance(given, Sequence) and not isinstance(given, str) else (None,)
    if isinstance(text, str) and all(isinstance(name, str) for name in strategies):
        return text, task, [str(name) for name in strategies]
    raise LLMValidationError(
        f"the optimizer gave a {type(made).__name__} without a text as optimized_query, or a list as strategies",
        code="validation.optimizer",
        next_step="let optimize_query return an object with optimized_query, task_type and strategies",
    )


def token_count(found: object) -> TokenCount:
    """What a counter has given. Raises LLMValidationError validation.count for what is no TokenCount."""
    if isinstance(found, TokenCount):
        return found
    raise LLMValidationError(
        f"the counter gave a {type(found).__name__}, not a TokenCount",
        code="validation.count",
        next_step="let count(text, model=...) return a TokenCount of workbench.decide.tokens",
    )


def having(given: Any, what: str, *methods: str) -> Any:
    """The object, which must have the methods. Raises LLMValidationError validation.WHAT."""
    if missing := [name for name in methods if not callable(getattr(given, name, None))]:
        raise LLMValidationError(
            f"the {what} is a {type(given).__name__} without {missing[0]}",
            code=f"validation.{what}",
            next_step=f"give an object with {' and '.join(methods)}, or leave it out",
        )
    return given


def quality_of(found: object) -> float:
    """What a score has given. Raises LLMValidationError validation.score for what is no finite number."""
    if isinstance(found, bool) or is_finite(found):
        return float(found)
    raise LLMValidationError(
        f"score gave {type(found).__name__} {shown(found)}, not a finite number",
        code="validation.score",
        next_step="return a number, as a rule from 0 to 1",
    )
