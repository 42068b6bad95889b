"""Rewriting a query with the strategy that promises most, as one pure decision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from workbench.decide.choose import CAUTION, Choice, ChooseStrategy
from workbench.decide.evidence import UNCHANGED, Context, Gain
from workbench.decide.rewrite import STRATEGIES, Example, Rewritten, rewrite
from workbench.decide.weights import closest
from workbench.errors import LLMValidationError
from workbench.facts import Rewrite


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeQuery:
    """The query under the strategy that is chosen from what is expected of each.

    caution: as for ChooseStrategy. A strategy that finds nothing to do in the query is passed over, and the choice is
    made again among the others, with the draws that they had.
    """

    caution: float = CAUTION
    name: ClassVar[str] = "query_optimizer"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        ChooseStrategy(caution=self.caution)  # says what is wrong with it

    def __call__(
        self,
        query: str,
        context: Context,
        gains: Sequence[Gain],
        draws: Sequence[float] | None = None,
        examples: Sequence[Example] = (),
    ) -> Rewrite:
        """The rewriting; draws: as for ChooseStrategy.

        Raises LLMValidationError validation.query, validation.strategy, validation.config.
        """
        check_query(query)
        passed: list[str] = []
        while True:
            choice = self._choice(gains, draws, passed)
            if choice.strategy == UNCHANGED:
                return _rewrite(query, context, choice, None, passed)
            done = _rewritten(query, choice.strategy, context.task, tuple(examples))
            if done.changed:
                return _rewrite(query, context, choice, done, passed)
            passed.append(choice.strategy)

    def comes_to(
        self, strategy: str, query: str, context: Context, gains: Sequence[Gain], draws: Sequence[float] | None = None
    ) -> bool:
        """Whether the decision would try this strategy: as the first choice, or where those before find nothing."""
        others = [gain.strategy for gain in gains if gain.strategy != strategy]
        if self._choice(gains, draws, others).strategy != strategy:
            return False  # not even if it were alone
        passed: list[str] = []
        while (choice := self._choice(gains, draws, passed)).strategy != strategy:
            if _rewritten(query, choice.strategy, context.task, ()).changed:
                return False
            passed.append(choice.strategy)
        return True

    def _choice(self, gains: Sequence[Gain], draws: Sequence[float] | None, passed: Sequence[str]) -> Choice:
        """The choice among the strategies that were not passed over, each with the draw that it had."""
        left = [i for i, gain in enumerate(gains) if gain.strategy not in passed]
        drawn = None if draws is None else [draws[0], *(draws[i + 1] for i in left)]
        return ChooseStrategy(caution=self.caution)([gains[i] for i in left], drawn)


@lru_cache(maxsize=4)
def _rewritten(query: str, strategy: str, task: str, examples: tuple[Example, ...]) -> Rewritten:
    """`rewrite`; whoever asked `comes_to` decides next, and need not wait twice."""
    return rewrite(query, strategy, task=task, examples=examples)


def _rewrite(query: str, context: Context, choice: Choice, done: Rewritten | None, passed: Sequence[str]) -> Rewrite:
    why = [choice.reason, *(f"{name} found nothing to change" for name in passed)]
    return Rewrite(
        original=query,
        text=query if done is None else done.text,
        task=context.task,
        strategies=() if done is None else (choice.strategy,),
        confidence_score=choice.confidence,
        estimated_quality_gain=choice.gain.mean,
        gain_low=choice.gain.low,
        gain_high=choice.gain.high,
        explored=choice.explored,
        reasons=(*why, *(edit.reason for edit in (done.edits if done else ()))),
    )


def check_query(query: object) -> None:
    """Refuse what is no text, or a blank one. Raises LLMValidationError validation.query."""
    if not isinstance(query, str) or not query.strip():
        raise LLMValidationError(
            f"the query is {'blank' if isinstance(query, str) else f'a {type(query).__name__}, not a text'}",
            code="validation.query",
            next_step="pass the text that a model is to be asked",
        )


def check_strategies(strategies: Iterable[str]) -> tuple[str, ...]:
    """The strategies, each named once. Raises LLMValidationError validation.strategy for none and for unknown ones."""
    names = (strategies,) if isinstance(strategies, str) else tuple(strategies)
    for name in names:
        if name not in STRATEGIES:
            hint = closest(str(name), STRATEGIES)
            raise LLMValidationError(
                f"rewriting strategy {name!r:.60} is not one of {', '.join(STRATEGIES)}",
                code="validation.strategy",
                next_step=f"did you mean {hint!r}?" if hint else "choose among those listed",
            )
    if not names or len(set(names)) < len(names):
        raise LLMValidationError(
            f"strategies are {', '.join(names) or 'none'}, which does not name different ones",
            code="validation.strategy",
            next_step=f"name each once: {', '.join(STRATEGIES)}"[:160],
        )
    return names
