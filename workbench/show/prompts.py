"""Prompts in a notebook: a conversation as it is sent, and how two texts differ.

What was deleted is struck through and what was inserted is underlined, beside their colours, and the text form marks
them with signs: nothing is told by colour alone. The colours are translucent, for light and dark themes. Everything
shown is escaped; there is no script and nothing is loaded. What looks like a secret is sent, and not shown: notebooks
are passed on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workbench.canonical import redacted
from workbench.decide.prompt import Diff, PromptTemplate, diff_texts
from workbench.errors import LLMValidationError
from workbench.show.tables import CAPTION, NOTE, escape, inline, visible

AROUND = 3  # lines of an unchanged stretch that are shown beside a change
MOST = 20_000  # characters of a piece that are shown
_DELETED = "text-decoration:line-through;background:rgba(215,58,73,.22);color:inherit"
_INSERTED = "text-decoration:underline;background:rgba(40,167,69,.25);color:inherit"
_LEFT_OUT = "opacity:.7;font-style:italic"
_PRE = (
    "white-space:pre-wrap;overflow-wrap:anywhere;margin:2px 0 8px;padding:6px 10px;max-width:100em;"
    "color:var(--jp-content-font-color1,inherit);background:transparent;border:1px solid rgba(128,128,128,.4)"
)


# Kind of a piece -> what stands around it in text, and as HTML.
_SIGNS = {"equal": ("", ""), "delete": ("[-", "-]"), "insert": ("{+", "+}"), "left out": ("", "")}
_TAGS = {
    "equal": ("", ""),
    "delete": (f'<del style="{_DELETED}">', "</del>"),
    "insert": (f'<ins style="{_INSERTED}">', "</ins>"),
    "left out": (f'<span style="{_LEFT_OUT}">', "</span>"),
}


@dataclass(frozen=True, slots=True)
class ShownDiff:
    """A difference that shows itself, without the middle of long unchanged stretches. caption: what is compared."""

    found: Diff
    caption: str

    def __repr__(self) -> str:
        pieces = (_SIGNS[kind][0] + visible(text) + _SIGNS[kind][1] for kind, text in _pieces(self.found))
        return f"{visible(self.caption)}\n{''.join(pieces)}"

    def _repr_html_(self) -> str:
        pieces = (_TAGS[kind][0] + escape(text) + _TAGS[kind][1] for kind, text in _pieces(self.found))
        return (
            f'<div class="workbench-diff"><p style="{CAPTION}">{escape(self.caption)}</p>'
            f'<pre style="{_PRE}">{"".join(pieces)}</pre></div>'
        )


def prompt_diff(before: Any, after: Any) -> ShownDiff:
    """How one prompt became another: texts, PromptTemplates, engineered prompts, or whatever has `render()`.

    Of templates everything that their version depends on is compared. What looks like a secret is `[redacted]`.
    Raises LLMValidationError validation.prompt for anything else.
    """
    texts = _text(before), _text(after)
    found = diff_texts(*map(redacted, texts))
    lost, won = (sum(len(c.text) for c in found.changes if c.kind == kind) for kind in ("delete", "insert"))
    said = f"{lost} characters deleted, {won} inserted" if found.changed else "no difference"
    if not found.changed and texts[0] != texts[1]:
        said = "they differ in what is not shown, for it looks like a secret"
    return ShownDiff(found, f"{_named(before)} -> {_named(after)}: {said}")


def prompt_text(prompt: Any) -> str:
    """An engineered prompt in plain text: what it is, each message under its role, then notes."""
    said = [f"[{m.role}]\n{visible(_cut(redacted(m.content)))}" for m in prompt.messages]
    return "\n\n".join([inline(_caption(prompt)), *said, "\n".join(inline(note) for note in _notes(prompt))])


def prompt_html(prompt: Any) -> str:
    """An engineered prompt as HTML."""
    said = "".join(
        f'<p style="{NOTE}">{escape(m.role)}</p><pre style="{_PRE}">{escape(_cut(redacted(m.content)))}</pre>'
        for m in prompt.messages
    )
    notes = "".join(f'<p style="{NOTE}">{escape(note)}</p>' for note in _notes(prompt))
    return f'<div class="workbench-prompt"><p style="{CAPTION}">{escape(_caption(prompt))}</p>{said}{notes}</div>'


def _caption(prompt: Any) -> str:
    told = "as named" if prompt.detected is None else f"detected, confidence {prompt.detected.confidence:.2f}"
    return f"Prompt for {prompt.task} ({told}), template {prompt.template} {prompt.version[:12]}"


def _notes(prompt: Any) -> Iterator[str]:
    n, budget = prompt.tokens, prompt.budget
    band = "" if n.low == n.high else f", {n.low} to {n.high}"
    limit = "" if budget.room is None else f" of {budget.budget_tokens}, {budget.reserve_tokens} reserved"
    yield f"{n.count} tokens ({n.method}{band}){limit}"
    if prompt.cues:
        yield "Cues: " + ", ".join(f"{cue.name} ({cue.task}, {cue.weight:g})" for cue in prompt.cues)
    for part in prompt.dropped:
        lost = f"{part.tokens} tokens, {part.characters} characters"
        yield f"{'Cut' if part.cut else 'Left out'}: {part.kind} {part.position + 1} ({lost})"
    if any(redacted(m.content) != m.content for m in prompt.messages):
        yield "What looks like a secret is not shown here, and is sent as it is."


def _pieces(found: Diff) -> Iterator[tuple[str, str]]:
    for change in found.changes:
        lines = change.text.splitlines(keepends=True) if change.kind == "equal" else []
        if len(lines) > 2 * AROUND + 1:
            yield "equal", _cut("".join(lines[:AROUND]))
            yield "left out", f"... {len(lines) - 2 * AROUND} unchanged lines ...\n"
            yield "equal", _cut("".join(lines[-AROUND:]))
        else:
            yield change.kind, _cut(change.text)


def _cut(text: str) -> str:
    return text if len(text) <= MOST else f"{text[:MOST]} ... {len(text) - MOST} more characters"


def _text(prompt: object) -> str:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, PromptTemplate):
        return prompt.source
    render = getattr(prompt, "render", None)
    if callable(render) and isinstance(text := render(), str):
        return text
    raise LLMValidationError(
        f"a {type(prompt).__name__} is no prompt that could be compared",
        code="validation.prompt",
        next_step="give a text, a PromptTemplate, or what engineer_prompt returns",
    )


def _named(prompt: object) -> str:
    """The name of a template with the beginning of its version, else `text`."""
    name, version = (getattr(prompt, part, None) for part in ("template", "version"))
    name = prompt.name if isinstance(prompt, PromptTemplate) else name
    return f"{name} {version[:12]}" if isinstance(name, str) and isinstance(version, str) else "text"
