"""The error tree: what can be caught as what, and what every error tells."""

from __future__ import annotations

import copy
import json
import multiprocessing
import traceback
from concurrent.futures import ProcessPoolExecutor

import pytest

from workbench import errors
from workbench.decide.policies import policy
from workbench.errors import (
    LLMError,
    LLMFailoverError,
    LLMOrchestratorError,
    LLMProviderError,
    LLMRateLimitError,
    LLMRouterError,
    LLMTimeoutError,
    LLMValidationError,
)

# class -> bases that a caller may catch it as, default code, retryable by default
TREE = {
    LLMError: ((Exception,), "error", False),
    LLMRouterError: ((LLMError,), "router.no_candidate", False),
    LLMOrchestratorError: ((LLMError,), "ensemble.failed", False),
    LLMFailoverError: ((LLMError,), "failover.exhausted", True),
    LLMProviderError: ((LLMError,), "provider.error", False),
    LLMRateLimitError: ((LLMProviderError, LLMError), "rate_limit", True),
    LLMTimeoutError: ((LLMError, TimeoutError), "timeout.deadline", True),
    LLMValidationError: ((LLMError, ValueError), "validation.input", False),
}

FULL = [
    LLMError("a", code="storage.locked", retryable=True, next_step="wait", model="p:m", trace_id="ab" * 16),
    LLMRouterError("b", model="p:m"),
    LLMOrchestratorError(
        "c", errors=[LLMTimeoutError("t"), ValueError("v")], partial={"answer": "4"}, code="ensemble.quorum"
    ),
    LLMFailoverError("d", retry_after_s=30.0),
    LLMProviderError("e", status=503, request_id="req_1", code="provider.server", retryable=True),
    LLMRateLimitError("f", status=429, retry_after_s=2.5, request_id="req_2"),
    LLMTimeoutError("g", code="timeout.idle", model="p:m"),
    LLMValidationError("h: é \U0001f600", next_step="correct it"),
]


def state(error):
    """All that an error says, with the errors it carries told the same way."""
    return {
        name: [state(e) if isinstance(e, Exception) else e for e in value] if name == "errors" else value
        for name, value in {"type": type(error), "args": error.args, "text": str(error), **vars(error)}.items()
    }


def test_the_tree_is_complete():
    """The module defines these eight types and no other error."""
    defined = {e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, BaseException)}
    assert defined == set(TREE)


@pytest.mark.parametrize("kind", TREE, ids=lambda k: k.__name__)
def test_each_type_is_caught_as_its_parents(kind):
    """Every type is caught by the root and by its documented parents, and by no sibling."""
    parents = TREE[kind][0]
    with pytest.raises(parents):
        raise kind("what happened")
    siblings = {k for k in TREE if k is not kind and k is not LLMError and k not in parents}
    assert not any(issubclass(kind, k) for k in siblings)


@pytest.mark.parametrize("kind", TREE, ids=lambda k: k.__name__)
def test_an_error_made_of_a_message_alone_is_complete(kind):
    """The message is the text; code, retryability and a next step of at most 160 characters have defaults."""
    error = kind("model 'x' was asked, nothing was found")
    assert str(error) == error.message == "model 'x' was asked, nothing was found"
    assert (error.code, error.retryable) == TREE[kind][1:]
    assert 0 < len(error.next_step) <= 160
    assert (error.model, error.trace_id) == (None, None)


@pytest.mark.parametrize("error", FULL, ids=lambda e: type(e).__name__)
def test_the_next_step_is_shown_under_the_traceback(error):
    """The note comes last in what a user sees, once."""
    shown = "".join(traceback.format_exception(error)).rstrip().splitlines()
    assert shown[-1] == f"next: {error.next_step}"
    assert sum(line.startswith("next: ") for line in shown) == 1


def test_what_is_given_replaces_the_defaults():
    """Code, retryability and next step of one error are its own; False is a choice, not a gap."""
    error = LLMTimeoutError("late", code="timeout.run", retryable=False, next_step="start a new run")
    assert (error.code, error.retryable, error.next_step) == ("timeout.run", False, "start a new run")
    assert LLMTimeoutError("late").retryable


def test_an_ensembles_errors_cannot_change_later():
    """The failures are kept as a tuple of their own."""
    failures = [ValueError("a")]
    error = LLMOrchestratorError("all failed", errors=failures)
    failures.append(ValueError("b"))
    assert len(error.errors) == 1
    assert isinstance(error.errors, tuple)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
@pytest.mark.parametrize("error", FULL, ids=lambda e: type(e).__name__)
def test_a_copy_says_the_same(error, how):
    """A copy has the type, text, note and every field of the original, and is another object."""
    twin = how(error)
    assert twin is not error
    assert state(twin) == state(error)


def test_errors_cross_process_boundaries():
    """Sent to another process and back, every error arrives with its fields, and one raised there is raised here."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        for sent, received in zip(FULL, pool.map(copy.copy, FULL), strict=True):
            assert state(received) == state(sent)
        with pytest.raises(LLMValidationError, match="'majority' is not one of") as caught:
            pool.submit(policy, "majority").result()
    assert caught.value.code == "validation.strategy"


@pytest.mark.parametrize("error", FULL, ids=lambda e: type(e).__name__)
def test_an_error_is_plain_json(error):
    """The dictionary form survives JSON and names type, code, message and what to do."""
    plain = json.loads(json.dumps(error.as_dict()))
    assert plain == error.as_dict()
    assert plain == {
        "error": type(error).__name__,
        "code": error.code,
        "message": error.message,
        "next_step": error.next_step,
        "retryable": error.retryable,
        "model": error.model,
        "trace_id": error.trace_id,
    }
