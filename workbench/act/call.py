"""One call of one model: a span around it, exactly one row in the log, and a value whatever happens."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import TypeGuard, get_args

from workbench.act.trace import failure_of, span
from workbench.act.world import World
from workbench.canonical import clean_text, text_of
from workbench.decide.budget import price_of, tokens_of
from workbench.decide.classify import error_of
from workbench.decide.tokens import estimated_prompt, estimated_tokens
from workbench.errors import LLMError, LLMProviderError
from workbench.facts import Call, Disciplined, Failure, Model, Request, Response, Source, Usage

ENDINGS = (KeyboardInterrupt, SystemExit, GeneratorExit)  # what ends the program or the call, and passes


async def ask(world: World, model: Model, request: Request, *, member: str | None = None) -> Response | Failure:
    """The model's response, or the failure as a value; cancellation is logged and passes on.

    member: the name under which the log and the merge know the model; its own name by default.
    An exception that is not an LLMError counts as the provider's failure: it must not take the others down. Only
    KeyboardInterrupt and SystemExit do.
    """
    if is_disciplined(model):  # it writes its own rows
        return await model.ask(request, member=member)
    provider, _, bare = model.name.partition(":") if ":" in model.name else ("", "", model.name)
    start_ns, start_s = world.unix_ns(), world.now_s()
    response: Response | None = None
    failure: Failure | None = None
    with span(world, "model", "complete", {"model": model.name, "item_id": request.item_id}) as here:
        try:
            response = await model.complete(request)
            response = checked(model, request, response)
        except LLMError as error:
            response, failure = None, failure_of(error)
        except Exception as error:
            response, failure = None, failure_of(unexpected(model, error))
        except asyncio.CancelledError as error:
            failure = Failure(kind=type(error).__name__, code="cancelled", message="the call was cancelled")
            if is_cancelled():
                raise
        except ENDINGS as error:  # interrupted or dropped: logged, and never held up
            failure = Failure(kind=type(error).__name__, code="cancelled", message="the call was cancelled")
            raise
        except BaseException as error:  # a panic of a library in another language is no Exception, and a failure
            failure = failure_of(unexpected(model, error))
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
                    call_id=here.span_id,
                    member=member or bare,
                )
            )
    if response is None:
        return failure or Failure(kind="LLMProviderError", code="provider.empty", message="no response and no error")
    return response


def unexpected(model: Model, error: BaseException) -> LLMProviderError:
    """What a model of somebody's own raised instead of an LLMError, as the provider's failure.

    A broken connection or a timeout of its own may heal; anything else is a bug that a repetition would repeat.
    """
    return LLMProviderError(
        f"{model.name} raised {type(error).__name__}: {text_of(error)}",
        code="provider.unexpected",
        model=model.name,
        retryable=isinstance(error, ConnectionError | TimeoutError),
        possibly_billed=True,
        next_step="raise LLMError types from complete(), or mend what the cause below shows",
    )


def too_slow(model: Model, share_s: float, error: LLMError) -> LLMError:
    """A deadline that was only this model's share of the time, so that another model may still be asked."""
    return error_of(
        "timeout.attempt",
        f"{model.name} had not answered in {share_s:.1f} s, its share of the time while other models are left",
        model=model.name,
        billed=error.possibly_billed,
        partial=error.partial,
        usage=error.usage,
        cost_usd=error.cost_usd,
    )


def cut_off(model: Model, request: Request, text: str) -> Failure:
    """The failure of an attempt that was cancelled in the middle of its answer, with what that has cost so far."""
    usage = Usage(prompt_tokens=estimated_prompt(request.messages), completion_tokens=estimated_tokens(text))
    if (key := getattr(model, "key", None)) is not None:
        text = key.scrub(text)
    card = getattr(model, "card", None)
    price = price_of(card, usage.prompt_tokens or 0) if card is not None else None
    return replace(
        cancelled(sent=True), partial=text, usage=usage, cost_usd=price.cost_usd(**tokens_of(usage)) if price else None
    )


def cancelled(*, sent: bool) -> Failure:
    """The failure of an attempt that was cancelled; of one that has left nobody knows what it costs."""
    return Failure(kind="CancelledError", code="cancelled", message="the call was cancelled", possibly_billed=sent)


def is_disciplined(model: Model) -> TypeGuard[Disciplined]:
    """Whether a model makes its own attempts; a check of one attribute, for it is made often."""
    return callable(getattr(model, "ask", None))


def is_cancelled() -> bool:
    """Whether this task was asked to stop; a model may also raise CancelledError by itself, as its failure."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # driven by hand, without a loop
        return True
    return task is None or task.cancelling() > 0


def checked(model: Model, request: Request, response: object) -> Response:
    """The response with a text that can be stored; LLMProviderError when it is none."""
    if not isinstance(response, Response) or not isinstance(response.text, str):
        raise LLMProviderError(
            f"{model.name} returned {type(response).__name__} instead of a Response with text",
            code="provider.malformed",
            model=model.name,
            possibly_billed=True,
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
            possibly_billed=True,
            next_step=f"give counts and amounts >= 0 or None, and a source out of {', '.join(get_args(Source))}",
        )
    text = clean_text(response.text)
    return response if text == response.text else replace(response, text=text)
