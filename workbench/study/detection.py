"""How well the task type of a prompt is told from its text, against always saying the most frequent type.

The baseline knows the most frequent type of the very prompts that it is judged on, which is more than a user knows. On
prompts of one type it is right by construction, and nothing is tested. Balanced accuracy, the mean recall of the types
that occur, does not reward either side for the types that happen to be frequent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from workbench.canonical import text_of
from workbench.decide.calibration import expected_calibration_error
from workbench.decide.tasks import detect
from workbench.decide.template_language import shown
from workbench.errors import LLMValidationError
from workbench.facts import TASKS
from workbench.study.found import wilson
from workbench.study.stats import mcnemar
from workbench.study.timings import Estimate

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Detection on n prompts whose task type is known.

    accuracy: share of right types, with Wilson's interval. balanced_accuracy: mean of `recall`, in [0, 1].
    majority_task: the most frequent true type, of equal ones the first of facts.TASKS. majority_accuracy: what always
    saying it gets; its balanced accuracy is 1 / len(recall). p_value: McNemar's exact test against that, two-sided;
    None where all prompts have one type. recall: of each type that occurs, with Wilson's interval. confusion: true
    type -> detected type -> prompts, all of facts.TASKS on the inside. calibration_error: of the confidence (ECE, 10
    bins), in [0, 1].
    """

    n: int
    accuracy: Estimate
    balanced_accuracy: float
    majority_task: str
    majority_accuracy: float
    p_value: float | None
    recall: Mapping[str, Estimate]
    confusion: Mapping[str, Mapping[str, int]]
    calibration_error: float

    def df(self) -> pd.DataFrame:
        """One row for each true type: prompts, recall with its interval, and how often each type was detected."""
        import pandas as pd

        rows = [
            {"task": task, "n": sum(found.values())}
            | {"recall": share.value, "recall_low": share.low, "recall_high": share.high}
            | {f"as_{name}": count for name, count in found.items()}
            for (task, share), found in zip(self.recall.items(), self.confusion.values(), strict=True)
        ]
        return pd.DataFrame(rows)


def measure(items: Iterable[tuple[str, str]]) -> Measured:
    """Detect the task type of each prompt and compare it with the true one.

    items: (prompt, true task type), at least one.
    Raises LLMValidationError: validation.items for none, validation.task for a type that is not of facts.TASKS,
    validation.query for a blank prompt.
    """
    try:
        pairs = [(prompt, task) for prompt, task in items]
    except (TypeError, ValueError) as error:
        raise LLMValidationError(
            f"what is to be measured on is no list of pairs: {text_of(error)}",
            code="validation.items",
            next_step="pass pairs of a prompt and its task type",
        ) from error
    if not pairs:
        raise LLMValidationError(
            "no prompts to measure on", code="validation.items", next_step="pass pairs of a prompt and its task type"
        )
    unknown = sorted({shown(task) for _, task in pairs if not (isinstance(task, str) and task in TASKS)})
    if unknown:
        raise LLMValidationError(
            f"{', '.join(unknown):.80} is not among the task types",
            code="validation.task",
            next_step=f"use one of {', '.join(TASKS)}",
        )
    found = [detect(prompt) for prompt, _ in pairs]
    count = Counter(task for _, task in pairs)
    met = Counter((task, one.task) for (_, task), one in zip(pairs, found, strict=True))
    present = [task for task in TASKS if count[task]]
    recall = {task: wilson(met[task, task] / count[task], count[task]) for task in present}
    majority = max(present, key=count.__getitem__)  # of equal ones the first
    right = np.array([one.task == task for (_, task), one in zip(pairs, found, strict=True)], dtype=np.float64)
    baseline = np.array([task == majority for _, task in pairs], dtype=np.float64)
    return Measured(
        n=len(pairs),
        accuracy=wilson(float(right.mean()), len(pairs)),
        balanced_accuracy=float(np.mean([share.value for share in recall.values()])),
        majority_task=majority,
        majority_accuracy=float(baseline.mean()),
        p_value=mcnemar(right, baseline) if len(present) > 1 else None,
        recall=MappingProxyType(recall),
        confusion=MappingProxyType(
            {task: MappingProxyType({name: met[task, name] for name in TASKS}) for task in present}
        ),
        calibration_error=expected_calibration_error(np.array([one.confidence for one in found]), right),
    )
