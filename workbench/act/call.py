"""One call of one model: a span around it, exactly one row in the log, and a value whatever happens."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import get_args

from workbench.act.trace import failure_of, span
from workbench.act.world import World
from workbench.canonical import clean_text
from workbench.errors import LLMError, LLMProviderError
from workbench.facts import Call, Failure, Model, Request, Response, Source, Usage


async def ask(world: World, model: Model, request: Request, *, member: str | None = None) -> Response | Failure:
    """The model's response, or the failure as a value; cancellation is logged and passes on.

    member: the name under which the log and the merge know the model; its own name by default.
    An exception that is not an LLMError counts as the provider's failure: it must not take the others down.
    """
    provider, _, bare = model.name.partition(":") if ":" in model.name else ("", "", model.name)
    start_ns, start_s = world.unix_ns(), world.now_s()
    response: Response | None = None
    failure: Failure | None = None
    with span(world, "model", "complete", {"model": model.name, "item_id": request.item_id}) as here:
        try:
            response = await model.complete(request)
            response = _checked(model, request, response)
        except LLMError as error:
            response, failure = None, failure_of(error)
        except Exception as error:
            response, failure = None, replace(failure_of(error), code="provider.unexpected")
        except asyncio.CancelledError as error:
            failure = Failure(kind=type(error).__name__, code="cancelled", message="the call was cancelled")
            if _cancelled():
                raise
        except BaseException as error:  # interrupted or dropped: logged, and never held up
            failure = Failure(kind=type(error).__name__, code="cancelled", message="the call was cancelled")
            raise
        finally:
            if failure is not None:
                here.failure = failure
                here.attributes["failure"] = failure.code
            world.sink.write(
                Call(
                    span_id=here.span_id,
                    trace_id=here.trace_id,
                    run_id=here.run_id,
                    item_id=request.item_id,
                    provider=provider,
                    model=member or bare,
                    request=request,
                    response=response,
                    failure=failure,
                    start_unix_ns=start_ns,
                    duration_ms=(world.now_s() - start_s) * 1e3,
                )
            )
    if response is None:
        return failure or Failure(kind="LLMProviderError", code="provider.empty", message="no response and no error")
    return response


def _cancelled() -> bool:
    """Whether this task was asked to stop; a model may also raise CancelledError by itself, as its failure."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # driven by hand, without a loop
        return True
    return task is None or task.cancelling() > 0


def _checked(model: Model, request: Request, response: object) -> Response:
    """The response with a text that can be stored; LLMProviderError when it is none."""
    if not isinstance(response, Response) or not isinstance(response.text, str):
        raise LLMProviderError(
            f"{model.name} returned {type(response).__name__} instead of a Response with text",
            code="provider.malformed",
            model=model.name,
            next_step="return workbench.facts.Response from complete()",
        )
    usage = response.usage
    counts = (usage.prompt_tokens, usage.completion_tokens) if isinstance(usage, Usage) else ("usage",)
    amounts = (response.latency_ms, response.ttft_ms, response.cost_usd)
    if (
        response.source not in get_args(Source)
        or not all(n is None or (isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63) for n in counts)
        or not all(a is None or (isinstance(a, int | float) and math.isfinite(a) and a >= 0) for a in amounts)
    ):
        raise LLMProviderError(
            f"{model.name} returned a Response whose usage, latency, cost or source cannot be used",
            code="provider.malformed",
            model=model.name,
            next_step=f"give counts and amounts >= 0 or None, and a source out of {', '.join(get_args(Source))}",
        )
    text = clean_text(response.text)
    return response if text == response.text else replace(response, text=text)
