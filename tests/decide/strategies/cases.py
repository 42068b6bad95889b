"""Small runs and single items for the tests of strategies, and refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from workbench.decide.pool import Pool
from workbench.decide.votes import Ballots
from workbench.errors import LLMValidationError
from workbench.facts import EnsembleResponse, Merge, ModelContribution, Response


def run_of(columns: Mapping[str, Sequence[str | None]], gold: Sequence[str], **known: Any) -> tuple[Pool, Any]:
    """A pool of these answers by model, and the value of each: 1 where it is the item's gold answer."""
    ballots = Ballots.of(list(columns), [list(row) for row in zip(*columns.values(), strict=True)])
    return Pool.of(ballots, **known), ballots.values(np.zeros(ballots.codes.shape), list(gold))


def decided(strategy: Merge, *answers: str | None, models: str = "abcdefgh") -> EnsembleResponse:
    """The answer to one item, given by these models in order."""
    return strategy([
        ModelContribution(model=m, answer=a, response=Response(request_key="", model=m, text=f"{m} {a}", source="live"))
        for m, a in zip(models, answers, strict=False)
    ])  # fmt: skip


def refused(make: Callable[[], object], code: str) -> LLMValidationError:
    """The error of this code that making it ends with; its next step is a short one."""
    with pytest.raises(LLMValidationError) as caught:
        make()
    assert caught.value.code == code
    assert len(caught.value.next_step) <= 160
    return caught.value
