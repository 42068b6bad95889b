"""How many members of an ensemble must have answered before their answers are merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from workbench.errors import LLMOrchestratorError, LLMValidationError
from workbench.facts import ModelContribution


@dataclass(frozen=True)
class Quorum:
    """The rule that `needed` members have answered in time; whole number >= 1.

    An answer counts before it is read or rated: one that does not vote, or that a quality threshold leaves out of
    the merge, has been given all the same.
    """

    needed: int
    name: ClassVar[str] = "quorum"
    version: ClassVar[str] = "1"

    def __call__(self, contributions: Sequence[ModelContribution]) -> int:
        """The number of members that answered in time.

        Raises LLMOrchestratorError: ensemble.all_failed for none, ensemble.quorum for too few, with the best of
        their contributions in .partial.
        """
        got = [c for c in contributions if c.status == "kept" and c.failure is None]
        if len(got) >= self.needed:
            return len(got)
        if not got:
            raise nobody(contributions)
        raise LLMOrchestratorError(
            f"{len(got)} of {len(contributions)} members answered in time, {self.needed} are needed "
            f"({', '.join(map(_told, contributions))})",
            code="ensemble.quorum",
            errors=[c.failure for c in contributions if c.failure],
            partial=best(got),
            contributions=contributions,
            next_step="lower quorum, raise timeout_s or grace_s, or use the answer kept in .partial",
        )


def check_quorum(quorum: object, members: int) -> None:
    """Refuse a quorum that is not a whole number from 1 to the number of members."""
    if isinstance(quorum, bool) or not isinstance(quorum, int) or not 1 <= quorum <= members:
        raise LLMValidationError(
            f"quorum is {quorum!r:.40}, and there are {members} members",
            code="validation.quorum",
            next_step=f"set quorum to a whole number from 1 to {members}",
        )


def nobody(contributions: Sequence[ModelContribution]) -> LLMOrchestratorError:
    """The error of an ensemble of which no member answered in time; an answer that was late is its .partial."""
    late = [c for c in contributions if c.answer is not None or c.response is not None]
    return LLMOrchestratorError(
        f"all {len(contributions)} members failed" + (f", {len(late)} of them by being late" if late else ""),
        code="ensemble.all_failed",
        errors=[c.failure for c in contributions if c.failure],
        partial=best(late) if late else None,
        contributions=contributions,
        next_step="raise timeout_s, or use the late answer kept in .partial" if late
        else "read .errors, one per member in order; raise timeout_s if they say timeout",
    )  # fmt: skip


def best(contributions: Sequence[ModelContribution]) -> ModelContribution:
    """The contribution with the highest quality, unknown being lowest; the first of equals."""
    return max(contributions, key=lambda c: -1.0 if c.quality is None else c.quality)


def _told(c: ModelContribution) -> str:
    return f"{c.model}: {c.failure.code if c.failure else 'late' if c.status == 'late' else 'answered'}"
