"""A recording or a bundled suite by its name."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.decide.weights import closest
from workbench.errors import LLMRouterError, LLMValidationError
from workbench.facts import Recorded, ReplaySource
from workbench.session.places import suites
from workbench.study.suite import Suite, read_suite, suite_of


def find_suite(source: ReplaySource, name: str, score_kind: str | None) -> tuple[Sequence[Recorded], Suite]:
    """The recorded rows, empty for a bundled suite, and the suite.

    Raises LLMRouterError router.unknown_suite, LLMValidationError validation.score_kind.
    """
    bundled = suites()
    recorded = [str(r["recording"]) for r in source.recordings()]
    if name in recorded:
        rows = source.recorded(name)
        return rows, suite_of(name, rows, score_kind=score_kind)
    if name in [*bundled]:  # also a name that is none, and cannot be looked up
        suite = read_suite(bundled[name])
        if score_kind not in (None, suite.score_kind):
            raise LLMValidationError(
                f"{name} has scores of kind {suite.score_kind!r} only, not {score_kind!r:.60}",
                code="validation.score_kind",
                next_step="leave score_kind out for a bundled suite",
            )
        return (), suite
    hint = closest(str(name), [*recorded, *bundled])
    raise LLMRouterError(
        f"unknown recording or suite {name!r:.80}; recordings: {', '.join(recorded) or 'none'}; "
        f"suites: {', '.join(bundled)}",
        code="router.unknown_suite",
        next_step=f"did you mean {hint!r}?" if hint else "import it: workbench import FILE.parquet",
    )
