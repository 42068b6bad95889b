"""Recorded models: the answers of a real model, given again.

A recorded model answers exactly the prompts it was asked when it was recorded. Another prompt, or another
sample, is a new experiment: it raises instead of answering something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from workbench.errors import LLMProviderError, LLMValidationError
from workbench.facts import Recorded, Request, Response, Usage


@dataclass(frozen=True, slots=True)
class RecordedModel:
    """One model of one recording, in one prompt style.

    name: `recorded:RECORDING/MODEL/STYLE`. answers: item_id -> what was recorded.
    """

    recording: str
    model: str
    prompt_style: str
    answers: Mapping[str, Recorded] = field(repr=False)
    by_prompt: Mapping[str, tuple[Recorded, ...]] = field(repr=False)

    @classmethod
    def of(cls, rows: Iterable[Recorded]) -> RecordedModel:
        """The model behind rows of one recording, model and prompt style (at least one row)."""
        answers = {row.item_id: row for row in rows}
        by_prompt: dict[str, tuple[Recorded, ...]] = {}
        for row in answers.values():
            by_prompt[row.prompt] = (*by_prompt.get(row.prompt, ()), row)
        first = next(iter(answers.values()))
        return cls(first.recording, first.model, first.prompt_style, answers, by_prompt)

    @property
    def name(self) -> str:
        """`recorded:RECORDING/MODEL/STYLE`."""
        return f"recorded:{self.recording}/{self.model}/{self.prompt_style}"

    async def complete(self, request: Request) -> Response:
        """The recorded answer to the request's item, or to its prompt when it names no item.

        Raises LLMValidationError replay.unrecorded for a prompt or sample that was not recorded, and
        LLMProviderError replay.no_text where only a score was recorded.
        """
        row = self._find(request)
        if row.response is None:
            raise LLMProviderError(
                f"{self.recording} keeps no text of {self.model} for item {row.item_id}, only scores",
                code="replay.no_text",
                model=self.name,
                next_step="compare single models by their recorded scores instead of merging",
            )
        return Response(
            request_key=request.key,
            model=self.name,
            text=row.response,
            usage=Usage(prompt_tokens=row.prompt_tokens, completion_tokens=row.completion_tokens),
            latency_ms=row.latency_ms,
            cost_usd=row.cost_usd,
            finish_reason="stop",
            source="recorded",
        )

    def _find(self, request: Request) -> Recorded:
        if request.sample or request.params:
            what = f"sample {request.sample}" if request.sample else f"parameters {dict(request.params)}"
            raise self._unrecorded(f"{self.model} was recorded once per item with its own settings, not with {what}")
        if len(request.messages) != 1 or request.messages[0].role != "user":
            raise self._unrecorded(
                f"{self.model} was recorded with one user message, not {len(request.messages)} messages"
            )
        if request.item_id is None:
            found = self.by_prompt.get(request.prompt, ())
            if len(found) != 1:
                raise self._unrecorded(f"{len(found)} items of {self.recording} have this prompt for {self.model}")
            return found[0]
        row = self.answers.get(request.item_id)
        if row is None:
            raise self._unrecorded(f"{self.model} has no answer to item {request.item_id!r} in {self.recording}")
        if row.prompt != request.prompt:
            raise self._unrecorded(f"item {row.item_id!r} was asked with another prompt when {self.model} was recorded")
        return row

    def _unrecorded(self, message: str) -> LLMValidationError:
        return LLMValidationError(
            message,
            code="replay.unrecorded",
            model=self.name,
            next_step="ask a live or simulated model: a changed prompt is a new experiment",
        )
