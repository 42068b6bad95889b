"""Policies are called here, so that every choice is in the log.

`decide` times a pure policy, writes what went in, with which parameters, and what came out (or why it refused),
and returns the output. Deciding again from the log must give the same value: study/replay.py checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from workbench.act.trace import current_span
from workbench.act.world import World
from workbench.decide.merge import params_of
from workbench.errors import LLMError
from workbench.facts import Decision, EnsembleResponse, Failure, ModelContribution

T = TypeVar("T")


def decide(
    world: World,
    policy: Callable[..., T],
    *,
    kind: str,
    request_key: str = "",
    run_id: str | None = None,
    item_id: str | None = None,
    by_name: bool = False,
    **facts: Any,
) -> T:
    """What `policy` makes of the facts, given to it in order or by name; the decision is logged even when it raises."""
    start = world.now_s()
    output: Any = None
    try:
        made = policy(**facts) if by_name else policy(*facts.values())
        output = encode(made)
        return made
    except LLMError as error:
        output = {"error": error.code}
        raise
    except BaseException as error:
        output = {"error": type(error).__name__}
        raise
    finally:
        here = current_span()
        world.sink.write(
            Decision(
                span_id=world.new_id(8),
                request_key=request_key,
                kind=kind,
                policy=str(getattr(policy, "name", type(policy).__name__)),
                version=str(getattr(policy, "version", "")),
                params=params_of(policy),
                inputs={name: encode(value) for name, value in facts.items()},
                output=output,
                duration_us=(world.now_s() - start) * 1e6,
                run_id=run_id or (here.run_id if here else None),
                item_id=item_id,
            )
        )


def encode(value: Any) -> Any:
    """A value as the log keeps it; contributions as [model, answer, quality, weight, status, failure code]."""
    if isinstance(value, ModelContribution):
        failure = value.failure.code if value.failure else None
        return [value.model, value.answer, value.quality, value.weight, value.status, failure]
    if isinstance(value, Failure):
        return {"code": value.code, "retryable": value.retryable, "retry_after_s": value.retry_after_s,
                "status": value.status, "possibly_billed": value.possibly_billed}  # fmt: skip
    if isinstance(value, EnsembleResponse):
        return {
            "answer": value.answer,
            "tied": list(value.tied),
            "confidence": value.confidence,
            "agreement": value.agreement,
        }
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [encode(v) for v in value]
    return value
