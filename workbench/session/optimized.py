"""A query as an optimizer gives it back."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.decide.evidence import Context
from workbench.decide.tasks import Cue
from workbench.facts import Rewrite
from workbench.show.rewriting import rewrite_html, rewrite_text


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizedQuery:
    """A query, what it became and why; shows itself in a notebook.

    rewrite: the decision. context: which queries it learns with. cues: what the task type was told from, empty where
    it was given. item_id: of the suite item that is asked, if any.
    """

    rewrite: Rewrite
    context: Context
    cues: tuple[Cue, ...] = ()
    item_id: str | None = None

    @property
    def original_query(self) -> str:
        """The query as it was given."""
        return self.rewrite.original

    @property
    def optimized_query(self) -> str:
        """The text to ask; the query itself where it was left unchanged."""
        return self.rewrite.text

    @property
    def changed(self) -> bool:
        """Whether a strategy was applied."""
        return bool(self.rewrite.strategies)

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies that were applied; none where the query was left unchanged."""
        return self.rewrite.strategies

    @property
    def task_type(self) -> str:
        """The task type, given or detected."""
        return self.rewrite.task

    @property
    def confidence_score(self) -> float:
        """Probability that this is the better choice than the other one; see facts.Rewrite."""
        return self.rewrite.confidence_score

    @property
    def estimated_quality_gain(self) -> float:
        """Predicted gain in quality, near 0 until something was learned; `.gain_interval` says how sure it is."""
        return self.rewrite.estimated_quality_gain

    @property
    def gain_interval(self) -> tuple[float, float]:
        """The 95 % interval of the predicted gain."""
        return self.rewrite.gain_low, self.rewrite.gain_high

    def __repr__(self) -> str:
        return rewrite_text(self.rewrite)

    def _repr_html_(self) -> str:
        return rewrite_html(self.rewrite, [(cue.task, cue.name, cue.found) for cue in self.cues])
