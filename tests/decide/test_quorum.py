"""The rule that so many members must have answered."""

from __future__ import annotations

import pytest

from workbench.decide.quorum import Quorum, best, check_quorum
from workbench.errors import LLMOrchestratorError, LLMValidationError
from workbench.facts import Failure, ModelContribution, Response

DOWN = Failure(kind="LLMProviderError", code="provider.server", message="down")
TEXT = Response(request_key="", model="m", text="42", source="live")


def part(model, status="kept", *, quality=None, failure=None):
    """A contribution with a text and no answer that could be read."""
    response = None if failure else TEXT
    return ModelContribution(model=model, response=response, failure=failure, status=status, quality=quality)


def test_members_that_answered_in_time_count_whether_their_answer_votes_or_not():
    """Two texts without a readable answer are two; late and failed ones are none."""
    parts = [part("a"), part("b"), part("c", "late"), part("d", "failed", failure=DOWN)]
    assert Quorum(1)(parts) == Quorum(2)(parts) == 2
    with pytest.raises(LLMOrchestratorError) as caught:
        Quorum(3)(parts)
    assert caught.value.code == "ensemble.quorum"
    assert "2 of 4 members answered in time, 3 are needed" in caught.value.message
    assert "(a: answered, b: answered, c: late, d: provider.server)" in caught.value.message
    assert caught.value.errors == (DOWN,)
    assert caught.value.contributions == tuple(parts)


def test_the_partial_answer_is_the_best_that_came_in_time():
    """The highest quality; unknown quality is the lowest, and a late answer is none."""
    parts = [part("a"), part("b", quality=0.2), part("c", quality=0.9), part("d", "late", quality=1.0)]
    with pytest.raises(LLMOrchestratorError) as caught:
        Quorum(4)(parts)
    assert caught.value.partial is parts[2]
    assert best([part("x"), part("y")]).model == "x"


def test_nobody_in_time_is_all_failed_with_the_late_answer_as_partial():
    """One failed and one late: every failure in .errors, and the late answer is not thrown away."""
    parts = [part("a", "failed", failure=DOWN), part("b", "late")]
    with pytest.raises(LLMOrchestratorError) as caught:
        Quorum(1)(parts)
    assert (caught.value.code, caught.value.errors, caught.value.partial) == ("ensemble.all_failed", (DOWN,), parts[1])
    assert "1 of them by being late" in caught.value.message
    with pytest.raises(LLMOrchestratorError) as caught:
        Quorum(1)(parts[:1])
    assert caught.value.partial is None


@pytest.mark.parametrize("quorum", [1, 2, 3])
def test_from_one_to_all_members_may_be_needed(quorum):
    """The bounds are allowed."""
    check_quorum(quorum, 3)


@pytest.mark.parametrize("quorum", [0, -1, 4, True, 2.0, "2", None])
def test_another_quorum_is_refused_with_what_is_allowed(quorum):
    """The error names the number that was given and the largest one."""
    with pytest.raises(LLMValidationError) as caught:
        check_quorum(quorum, 3)
    assert caught.value.code == "validation.quorum"
    assert caught.value.next_step == "set quorum to a whole number from 1 to 3"
