"""Rewriting a prompt by rules: five strategies and three variants, each edit explained and none of them a loss.

    clarify     mends slips and short forms, sets material apart, says how the answer is to be stated
    expand      says what a good answer considers;   step_by_step, verbose: asks for steps, for details
    simplify    takes out filler and politeness
    exemplify   puts given examples first
    constrain   says how the answer is to look;      concise: asks for a short one

What a rewriting says of its own stands in paragraphs of its own: at the beginning, at the end, or before the cue that
the prompt ends in. Inside the user's text only the instruction is edited, and no protected part of it; what results is
checked against decide/invariants.py, and a rewriting that does not hold is none. So "no change" is a common result, and
it says why.

Idempotent: what is there is not said again, in whatever order strategies are applied. No strategy is known to help:
study/ measures what they do to which model on which task.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType

from workbench.canonical import clean_text
from workbench.decide.edits import Edit, Rewritten, applied, composed
from workbench.decide.invariants import protected, violations
from workbench.decide.layout import Layout, check_query
from workbench.decide.phrases import Group, fillers, repairs
from workbench.decide.wordings import OWN, WORDINGS
from workbench.errors import LLMValidationError

__all__ = ["STRATEGIES", "VARIANTS", "Edit", "Example", "Rewritten", "rewrite", "rewrite_all"]

STRATEGIES = ("clarify", "expand", "simplify", "exemplify", "constrain", "step_by_step", "verbose", "concise")
VARIANTS: Mapping[str, str] = MappingProxyType({"step_by_step": "expand", "verbose": "expand", "concise": "constrain"})
EDITABLE = 100_000  # characters; in a longer text nothing is edited, and only whole paragraphs are added
ROUNDS = 8  # an edit may make room for another; texts that need more rounds are left alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A prompt and the answer that it should get."""

    prompt: str
    answer: str


def rewrite(text: str, strategy: str, *, task: str = "general", examples: Sequence[Example] = ()) -> Rewritten:
    """A prompt rewritten by one strategy.

    task: one of facts.TASKS, as which it is read. examples: for `exemplify`; one of the prompt itself is left out.
    Raises LLMValidationError validation.query for a blank text, validation.strategy, validation.task for unknown names,
    validation.examples for examples that are none.
    >>> print(rewrite("Could you please explain why ice floats?", "simplify").diff())
    [-Could you please explain-]{+Explain+} why ice floats[-?-]{+.+}
    """
    _check(text, [strategy], task, examples)
    edits, reason = _step(text, strategy, task, examples)
    return _made(text, strategy, edits, [strategy] if edits else [], "" if edits else reason)


def rewrite_all(
    text: str, strategies: Sequence[str], *, task: str = "general", examples: Sequence[Example] = ()
) -> Rewritten:
    """A prompt rewritten by several strategies in turn, until none finds anything left; raises as `rewrite` does.

    The edits are those of the whole.
    """
    _check(text, strategies, task, examples)
    edits: list[Edit] = []
    effective: list[str] = []
    reasons: dict[str, str] = {}
    current = text
    for _ in range(ROUNDS):
        before = current
        for strategy in strategies:
            step, reason = _step(current, strategy, task, examples)
            reasons.setdefault(strategy, reason)
            if step:
                edits = composed(text, edits, current, step)
                current = applied(current, step)
                effective += [strategy] if strategy not in effective else []
        if current == before:
            break
    else:
        edits, effective = [], []
        reasons = dict.fromkeys(reasons, "it comes to no end")
    told = "; ".join(f"{name}: {reasons[name]}" for name in reasons if name not in effective)
    return _made(text, "+".join(strategies), edits, effective, told)


def _check(text: str, strategies: Sequence[str], task: str, examples: Sequence[Example]) -> None:
    check_query(text, task)
    if isinstance(strategies, str) or not all(strategy in STRATEGIES for strategy in strategies):
        raise LLMValidationError(
            f"{strategies!r:.80} names a strategy that is none of {', '.join(STRATEGIES)}",
            code="validation.strategy",
            next_step="use names of decide.rewrite.STRATEGIES",
        )
    for example in examples:
        if not isinstance(example, Example) or not example.prompt.strip() or not example.answer.strip():
            raise LLMValidationError(
                f"{example!r:.80} is no Example with a prompt and an answer",
                code="validation.examples",
                next_step="pass Example(prompt=..., answer=...), both with some text",
            )


def _made(text: str, strategy: str, edits: list[Edit], effective: Sequence[str], reason: str) -> Rewritten:
    """The rewriting, if it keeps what it must keep; else none."""
    made = Rewritten(
        original=text,
        text=applied(text, edits),
        strategy=strategy,
        edits=tuple(edits),
        applied=tuple(effective),
        reason=reason,
    )
    if edits and (broken := violations(text, made.text, added=made.added)):
        told = f"it would not keep {', '.join(map(str, broken[:3]))}"
        return Rewritten(original=text, text=text, strategy=strategy, reason=told)
    return made


# -- strategies


@lru_cache(maxsize=4)
def _layout(text: str, task: str) -> Layout:
    """How a prompt is built: strategies that are tried on it one after the other need not look again."""
    return Layout(text, task)


def _step(text: str, strategy: str, task: str, examples: Sequence[Example]) -> tuple[list[Edit], str]:
    """What a strategy does to a text, and why it does not do more."""
    layout = _layout(text, task)
    if strategy == "simplify":
        return _edited(layout, strategy)
    if strategy == "exemplify":
        return _exemplified(layout, examples)
    edits, reason = _edited(layout, strategy) if strategy == "clarify" else ([], "")
    variant, why = _variant(layout, strategy)
    if variant:
        edits = sorted([*edits, _addition(layout, strategy, variant)], key=lambda e: (e.start, e.before != ""))
        why = ""
    return edits, why or reason


_PRESENT = "the prompt already says so"
_FORM = (
    *OWN["constrain"],
    *(text for v in ("answer", "option") for s in ("clarify", "step_by_step") for text in WORDINGS[s][v].values()),
)
_ALONE = tuple(text for v in ("cue", "option cue") for text in WORDINGS["constrain"][v].values())
_ANSWERED = ("question_answering", "reasoning")  # tasks with one right answer, which is read by a program


def _has(layout: Layout, texts: Sequence[str]) -> bool:
    return any(text in layout.text for text in texts)


def _variant(layout: Layout, strategy: str) -> tuple[str, str]:
    """The variant of what a strategy says, or empty and why it says nothing."""
    if _has(layout, OWN[strategy]):
        return "", _PRESENT
    return _VARIANT[strategy](layout)


def _clarified(layout: Layout) -> tuple[str, str]:
    if layout.task == "general":
        return "", "a general request has no form of its own"
    if layout.task not in _ANSWERED:
        return layout.task, ""
    if layout.cue or layout.says_form or _has(layout, _FORM) or layout.has_examples:
        return "", "the prompt says how to answer"
    return ("option" if layout.options else "answer"), ""


def _constrained(layout: Layout) -> tuple[str, str]:
    if layout.says_form or _has(layout, _FORM) or layout.has_examples:
        return "", "the prompt says how to answer"
    if layout.task in ("summarization", "translation", "code_generation"):
        return layout.task, ""
    if layout.cue:
        if layout.says_steps or layout.says_detailed or _has(layout, (*OWN["step_by_step"], *OWN["verbose"])):
            return "", "the prompt asks for more than the answer alone"
        return ("option cue" if layout.options else "cue"), ""
    if layout.task == "general":
        return "general", ""
    return ("option" if layout.options else "answer"), ""


def _stepwise(layout: Layout) -> tuple[str, str]:
    if layout.says_steps:
        return "", _PRESENT
    if layout.says_alone or _has(layout, _ALONE):
        return "", "the prompt asks for the answer alone"
    if layout.says_brief or _has(layout, OWN["concise"]):
        return "", "the prompt asks for a short answer"
    if layout.few_shot or layout.has_examples:
        return "examples", ""
    if layout.says_form or _has(layout, _FORM):
        return "own", ""
    if layout.task not in _ANSWERED:
        return "result", ""
    return ("option" if layout.options else "answer"), ""


def _lengthened(layout: Layout) -> tuple[str, str]:
    if layout.task == "translation":
        return "", "a translation is as long as its source"
    if layout.says_detailed:
        return "", _PRESENT
    if layout.says_brief or layout.says_alone or _has(layout, (*OWN["concise"], *_ALONE)):
        return "", "the prompt asks for a short answer"
    return "any", ""


def _shortened(layout: Layout) -> tuple[str, str]:
    if layout.task == "translation":
        return "", "a translation is as long as its source"
    if layout.says_brief or layout.says_alone or _has(layout, _ALONE):
        return "", _PRESENT
    if layout.says_detailed or _has(layout, OWN["verbose"]):
        return "", "the prompt asks for a long answer"
    return "any", ""


_VARIANT: Mapping[str, Callable[[Layout], tuple[str, str]]] = MappingProxyType(
    {
        "clarify": _clarified,
        "expand": lambda layout: (layout.task, ""),
        "constrain": _constrained,
        "step_by_step": _stepwise,
        "verbose": _lengthened,
        "concise": _shortened,
    }
)


# -- additions

_WHY = MappingProxyType(
    {
        "clarify": "says what the task is and where the answer goes",
        "expand": "says what a good answer considers",
        "exemplify": "shows what is wanted by examples",
        "constrain": "says how the answer is to look",
        "step_by_step": "asks for steps before the answer",
        "verbose": "asks for details",
        "concise": "asks for a short answer",
    }
)


def _addition(layout: Layout, strategy: str, variant: str) -> Edit:
    """The paragraph of a strategy: before the cue, else behind the text, or first where neither can be."""
    said = WORDINGS[strategy][variant][layout.spoken]
    cue = layout.spans.cue
    # Behind a text that is summarised or translated it would be taken for a part of it.
    material = layout.task in ("summarization", "translation")
    if material or layout.few_shot or layout.open_ended or layout.ends_in_label:
        return Edit(start=0, before="", after=f"{said}\n\n", reason=_WHY[strategy])
    if cue is None:
        return Edit(start=len(layout.text.rstrip()), before="", after=f"\n\n{said}", reason=_WHY[strategy])
    apart = "" if layout.text[:cue].endswith("\n\n") else "\n"
    return Edit(start=cue, before="", after=f"{apart}{said}\n\n", reason=_WHY[strategy])


def _exemplified(layout: Layout, examples: Sequence[Example]) -> tuple[list[Edit], str]:
    if layout.few_shot or layout.has_examples:
        return [], "the prompt already shows examples"
    own = layout.body.strip()
    shown = [example for example in examples if example.prompt.strip() != own]
    if not shown:
        return [], "there are no examples"
    whole = "\0".join(part for example in shown for part in (example.prompt, example.answer))
    mark = hashlib.sha256(clean_text(whole).encode()).hexdigest()[:8]
    while mark in whole or mark in layout.text:
        mark = hashlib.sha256(mark.encode()).hexdigest()[:8]
    lines = [WORDINGS["exemplify"]["any"][layout.spoken] + "\n"]
    for i, example in enumerate(shown, 1):
        lines += [f"[example {i} {mark}]", example.prompt, f"[answer {i} {mark}]", example.answer]
    block = "\n".join((*lines, f"[end of examples {mark}]\n\n"))
    return [Edit(start=0, before="", after=block, reason=_WHY["exemplify"])], ""


# -- edits of the instruction


def _edited(layout: Layout, strategy: str) -> tuple[list[Edit], str]:
    """Fillers or repairs of the instruction, as often as they make room for others, in places of the whole text."""
    body = layout.body
    if len(body) > EDITABLE:
        return [], "the prompt is too long to be edited safely"
    if not layout.instruction:
        return [], "the instruction cannot be told from its material"
    edits: list[Edit] = []
    current, now = body, layout
    for _ in range(ROUNDS):
        proposed = _proposed(now, current, strategy)
        found = _kept(current, proposed)
        if not found:
            break
        edits = composed(body, edits, current, found)
        current = applied(current, found)
        now = Layout(current, layout.task)
    else:
        return [], "it comes to no end"
    if edits:
        return _in_place(layout, edits), ""
    if proposed:
        return [], "what could be changed is protected"
    return [], "there is nothing to take out" if strategy == "simplify" else "there is nothing to mend"


def _proposed(layout: Layout, body: str, strategy: str) -> list[Group]:
    end = layout.instruction
    if not end:
        return []
    if strategy == "simplify":
        return fillers(body, end, layout.spoken)
    return repairs(body, end, layout.spoken, layout=layout.task != "code_generation" and not layout.open_ended)


def _kept(text: str, groups: list[Group]) -> list[Edit]:
    """The edits of those groups that touch nothing protected and keep the invariants."""
    if not groups:
        return []
    starts, ends = _untouchable(text)
    safe = [group for group in groups if not any(_touches(starts, ends, *change[:2]) for change in group)]
    if violations(text, applied(text, _flat(text, safe))):
        safe = [group for group in safe if not violations(text, applied(text, _flat(text, [group])))]
    return _flat(text, safe)


def _flat(text: str, groups: Sequence[Group]) -> list[Edit]:
    changes = sorted(change for group in groups for change in group)
    return [Edit(start=start, before=text[start:end], after=after, reason=why) for start, end, after, why in changes]


def _untouchable(text: str) -> tuple[list[int], list[int]]:
    """Starts and ends of the union of the protected parts; a negation may be written in another way."""
    starts: list[int] = []
    ends: list[int] = []
    for part in protected(text):
        if part.kind == "negation":
            continue
        if ends and part.start <= ends[-1]:
            ends[-1] = max(ends[-1], part.end)
        else:
            starts.append(part.start)
            ends.append(part.end)
    return starts, ends


def _touches(starts: list[int], ends: list[int], start: int, end: int) -> bool:
    k = bisect_left(starts, end) - 1
    return k >= 0 and ends[k] > start


def _in_place(layout: Layout, edits: Sequence[Edit]) -> list[Edit]:
    """Edits of the body as edits of the whole text; none of them reaches over what was added."""
    begin, stop, resume, _ = layout.spans
    return [replace(e, start=e.start + begin + (resume - stop if e.start >= stop - begin else 0)) for e in edits]
