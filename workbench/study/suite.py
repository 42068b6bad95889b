"""Suites: the items that a run asks, from a bundled file or from an imported recording, and how answers are scored.

A bundled suite is a JSON-lines file: item_id, task, prompt, reference, answer_kind, and options where the answer
is one of a list. Free text has a metric and may have further references. A recording becomes a suite of its own items:
each answering model is asked the prompt that it was asked when it was recorded.

Three ways to score, each with its name in the log: `exact_answer`, 1 where the extracted answer equals the reference,
else 0; the name of a text metric, which measures the whole response as it stands against the nearest reference; and
`source`, the score that came with the recording.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from workbench.decide.answers import ANSWER_KINDS, extract, infer_kind, normalise, options_in
from workbench.decide.textmetrics import METRICS, References, bleu, chrf
from workbench.errors import LLMValidationError
from workbench.facts import TASKS, EnsembleResponse, Item, Recorded, Request

# Kinds of score that a comparison of answers reproduces; every other kind stays as its source gave it.
EXTRACTED_KINDS = frozenset({"correct", "correct_exact_match"})
EXACT_ANSWER = "exact_answer"
SOURCE = "source"
# The text metrics in the unit that they are quoted in: chrF and BLEU from 0 to 100, the others from 0 to 1.
TEXT_SCORERS: Mapping[str, Callable[[str, References], float]] = MappingProxyType(
    {**METRICS, "chrf": chrf, "bleu": bleu}
)
Judge = Callable[[str | None, str], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Items to ask.

    prompts: prompt style -> item_id -> prompt, where a style asks otherwise than the item does.
    scores: (item_id, model, style) -> score as the recording gives it.
    scores_only: the recording keeps no text, so nothing can be asked or merged.
    metric: scored by this text metric, a name of TEXT_SCORERS; None: by one of the two other ways.
    extracted: scored by comparing extracted answers with the references; else, without a metric, by the recorded
    scores.
    """

    name: str
    kind: str
    items: tuple[Item, ...]
    score_kind: str = "correct"
    prompts: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    scores: Mapping[tuple[str, str, str], float] = field(default_factory=dict, repr=False)
    scores_only: bool = False
    extracted: bool = True
    metric: str | None = None

    @property
    def scorer(self) -> str:
        """What the log calls the scores of this suite."""
        return scorer_of(self.metric, extracted=self.extracted)

    def request(self, item: Item, style: str | None = None) -> Request:
        """What a model of this prompt style is asked."""
        prompt = self.prompts.get(style or "", {}).get(item.item_id, item.prompt)
        return Request.of(prompt, task=item.task, item_id=item.item_id)


def scorer_of(metric: str | None, *, extracted: bool) -> str:
    """The name of a way to score."""
    return metric or (EXACT_ANSWER if extracted else SOURCE)


def top_of(metric: str | None) -> float:
    """The best score of a metric, which brings its scores into [0, 1]; 1 without a metric."""
    return 100.0 if metric in ("chrf", "bleu") else 1.0


def answer_of(item: Item, text: str | None) -> str | None:
    """The normalised answer in a response to the item, or None."""
    return answer_in(text, item.metadata)


def answer_in(text: str | None, metadata: Mapping[str, Any]) -> str | None:
    """The normalised answer in a response to the item with this metadata, or None.

    What a text metric scores is an answer as a whole: "the answer is" is part of a text there, and announces nothing.
    """
    if metadata.get("metric") is not None:
        return None if text is None else normalise(text, "text")
    return extract(text, metadata["answer_kind"], options=metadata.get("options") or ())


def gold_of(item: Item) -> str | None:
    """The item's reference in normalised form, or None."""
    return None if item.reference is None else normalise(item.reference, item.metadata["answer_kind"])


def references_of(item: Item) -> tuple[str, ...]:
    """The item's reference and its further ones, as they stand in the suite."""
    return () if item.reference is None else (item.reference, *(item.metadata.get("references") or ()))


def judge_of(suite: Suite, item: Item) -> Judge | None:
    """What scores an answer to the item: (normalised answer or None, text of the response) -> score.

    None where nothing tells: the item has no reference, or the suite keeps the scores of its source.
    No answer scores 0, and a metric has the text alone.
    """
    references, metric = references_of(item), suite.metric
    if metric is not None and references:
        measure = TEXT_SCORERS[metric]
        return lambda answer, text: 0.0 if answer is None else measure(text, references)
    gold = gold_of(item) if suite.extracted else None
    return None if gold is None else lambda answer, _: float(answer == gold)


def expected(judge: Judge, merged: EnsembleResponse) -> float:
    """Expected score of a merge: the mean over its tied answers, each with a text that stands for it; 0 without any.

    The winner stands with the text that was given for it, every other with that of its first supporter.
    """
    texts: dict[str | None, str] = {merged.answer: merged.text}
    for c in merged.contributions:
        if c.votes and c.response is not None:
            texts.setdefault(c.answer, c.response.text)
    return sum(judge(a, texts.get(a, a)) for a in merged.tied) / len(merged.tied) if merged.tied else 0.0


def read_suite(path: Path) -> Suite:
    """A suite from a JSON-lines file.

    Further fields of an item are its metadata. Where one item has a metric, all have it.

    Raises LLMValidationError: data.file, data.row (with file and line), data.duplicate, data.empty.
    """
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise LLMValidationError(
            f"suite {path} cannot be read: {error}",
            code="data.file",
            next_step="give the path of a UTF-8 JSON-lines file",
        ) from error
    items: dict[str, tuple[int, Item]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        item = _item(path, number, line)
        if item.item_id in items:
            raise LLMValidationError(
                f"{path.name}: item_id {item.item_id!r} stands in lines {items[item.item_id][0]} and {number}",
                code="data.duplicate",
                next_step="give every item an id of its own",
            )
        items[item.item_id] = (number, item)
    if not items:
        raise LLMValidationError(f"suite {path.name} has no items", code="data.empty", next_step="add items to it")
    metric = _metric(path, list(items.values()))
    return Suite(
        name=path.stem,
        kind="suite",
        items=tuple(item for _, item in items.values()),
        score_kind=metric or "correct",
        metric=metric,
        extracted=metric is None,
    )


def _metric(path: Path, items: Sequence[tuple[int, Item]]) -> str | None:
    """The metric of all items; scores of different kinds are never pooled."""
    first, metric = items[0][0], items[0][1].metadata.get("metric")
    for number, item in items:
        if (other := item.metadata.get("metric")) != metric:
            raise LLMValidationError(
                f"{path.name}, line {number}: the metric is {other or 'missing'}, and in line {first} it is "
                f"{metric or 'missing'}",
                code="data.row",
                next_step="score all items of a suite alike: split the file, or give each line the same metric",
            )
    return metric


def _item(path: Path, number: int, line: str) -> Item:
    def bad(problem: str) -> LLMValidationError:
        return LLMValidationError(
            f"{path.name}, line {number}: {problem}",
            code="data.row",
            next_step="each line is an object with item_id, task, prompt, reference and answer_kind",
        )

    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise bad(f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise bad("not a JSON object")
    for name in ("item_id", "task", "prompt", "reference", "answer_kind"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise bad(f"{name} is missing or not a text")
    for name, known in (("task", TASKS), ("answer_kind", ANSWER_KINDS)):
        if row[name] not in known:
            raise bad(f"{name} {row[name][:60]!r} is not one of {', '.join(known)}")
    options = row.get("options") or []
    if not isinstance(options, list) or not all(isinstance(o, str) for o in options):
        raise bad("options is not a list of texts")
    rest: dict[str, Any] = {k: v for k, v in row.items() if k not in ("item_id", "task", "prompt", "reference")}
    rest["options"] = tuple(options)
    if rest.get("metric") is not None:
        if problem := _unmeasurable(rest):
            raise bad(problem)
        rest["references"] = tuple(rest.get("references") or ())
    return Item(
        item_id=row["item_id"], task=row["task"], prompt=row["prompt"], reference=row["reference"], metadata=rest
    )


def _unmeasurable(row: Mapping[str, Any]) -> str:
    """What keeps a metric from scoring the item, or an empty string."""
    metric, references = row["metric"], row.get("references") or []
    if not isinstance(metric, str) or metric not in TEXT_SCORERS:
        return f"metric {metric!r:.60} is not one of {', '.join(TEXT_SCORERS)}"
    if row["answer_kind"] != "text":
        return f"metric {metric} scores answers of kind text, not {row['answer_kind']}"
    if not isinstance(references, list) or not all(isinstance(r, str) and r.strip() for r in references):
        return "references is not a list of texts"
    return ""


def suite_of(recording: str, rows: Sequence[Recorded], *, score_kind: str | None = None) -> Suite:
    """The suite of a recording's items.

    score_kind: keep only the items with scores of this kind. Needed when the recording mixes kinds: scores of
    different kinds are never pooled. Raises LLMValidationError validation.score_kind.
    """
    kinds = sorted({r.score_kind for r in rows if r.score_kind is not None})
    if score_kind is None and len(kinds) > 1:
        raise LLMValidationError(
            f"{recording} mixes {len(kinds)} kinds of score: {', '.join(kinds)}",
            code="validation.score_kind",
            next_step="choose one with --score-kind (score_kind=...): kinds are never pooled",
        )
    if score_kind is not None and score_kind not in kinds:
        raise LLMValidationError(
            f"{recording} has no scores of kind {score_kind!r}, only {', '.join(kinds) or 'responses without scores'}",
            code="validation.score_kind",
            next_step="choose one of the kinds listed",
        )
    chosen = score_kind or (kinds[0] if kinds else "none")
    rows = [r for r in rows if score_kind is None or r.score_kind == score_kind]
    items: dict[str, Item] = {}
    prompts: dict[str, dict[str, str]] = {}
    scores: dict[tuple[str, str, str], float] = {}
    for row in rows:
        if row.item_id not in items:
            items[row.item_id] = _recorded_item(row)
        if row.prompt != items[row.item_id].prompt:
            prompts.setdefault(row.prompt_style, {})[row.item_id] = row.prompt
        if row.score is not None:
            scores[row.item_id, row.model, row.prompt_style] = row.score
    with_text = any(r.response is not None for r in rows)
    return Suite(
        name=recording,
        kind="recording",
        items=tuple(items.values()),
        score_kind=chosen,
        prompts=prompts,
        scores=scores,
        scores_only=not with_text,
        extracted=with_text and chosen in EXTRACTED_KINDS and all(i.reference is not None for i in items.values()),
    )


def _recorded_item(row: Recorded) -> Item:
    # Without a reference nothing tells what form an answer has: the whole response is the answer.
    kind = "text" if row.reference is None else infer_kind(row.reference, row.prompt)
    return Item(
        item_id=row.item_id,
        task=row.task,
        prompt=row.prompt,
        reference=row.reference,
        metadata={"answer_kind": kind, "options": options_in(row.prompt), "score_kind": row.score_kind},
    )
