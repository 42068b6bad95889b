"""Edits of a text as values: what stood where, what takes its place, and why; applied, composed and shown.

Edits stand in the order of the text and do not overlap. Where two begin at the same place, an addition comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

CONTEXT = 40  # characters around an edit that a diff shows


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """`before`, which stands at `start` of the original, becomes `after`. An empty `before` is an addition."""

    start: int
    before: str
    after: str
    reason: str

    @property
    def end(self) -> int:
        """Where `before` ends in the original."""
        return self.start + len(self.before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A prompt, rewritten or left as it is.

    strategy: its name, of several joined by "+". edits: in the order of the original; applied they give `text`.
    applied: the strategies that changed something. reason: why others did not.
    """

    original: str
    text: str
    strategy: str
    edits: tuple[Edit, ...] = ()
    applied: tuple[str, ...] = ()
    reason: str = ""

    @property
    def changed(self) -> bool:
        """Whether the text differs from the original."""
        return self.text != self.original

    @property
    def added(self) -> tuple[tuple[int, int], ...]:
        """Where the rewriting says something of its own: spans (start, end) of `text`, as `violations` takes them."""
        shift, found = 0, []
        for edit in self.edits:
            if not edit.before:
                found.append((edit.start + shift, edit.start + shift + len(edit.after)))
            shift += len(edit.after) - len(edit.before)
        return tuple(found)

    def diff(self) -> str:
        """The edits in their places, [-what went-]{+what came+}, with CONTEXT characters around; empty without any."""
        parts, at = [], 0
        for edit in self.edits:
            kept = self.original[at : edit.start]
            if len(kept) > 2 * CONTEXT:
                kept = f"{kept[:CONTEXT] if at else ''}[...]{kept[-CONTEXT:]}"
            parts += [kept, f"[-{edit.before}-]" if edit.before else "", f"{{+{edit.after}+}}" if edit.after else ""]
            at = edit.end
        rest = self.original[at:]
        return "".join((*parts, rest if len(rest) <= CONTEXT else f"{rest[:CONTEXT]}[...]")) if parts else ""


def applied(text: str, edits: Sequence[Edit]) -> str:
    """The text after the edits."""
    parts, at = [], 0
    for edit in edits:
        parts += [text[at : edit.start], edit.after]
        at = edit.end
    return "".join((*parts, text[at:]))


def between(original: str, text: str, reason: str) -> tuple[Edit, ...]:
    """The one edit that makes `text` of `original`, from the first word that differs on; none for equal texts.

    It is never an addition, which would declare what it brings: where only something came, it replaces the whole.
    """
    if original == text:
        return ()
    shorter = min(len(original), len(text))
    start = next((i for i in range(shorter) if original[i] != text[i]), shorter)
    start = max(0, original.rfind(" ", 0, start), original.rfind("\n", 0, start))
    left = shorter - start
    same = next((i for i in range(left) if original[-1 - i] != text[-1 - i]), left)
    stop = len(original) - same
    if stop == start:
        start, same = 0, 0
        stop = len(original)
    after = text[start : len(text) - same]
    return (Edit(start=start, before=original[start:stop], after=after, reason=reason),)


def composed(text: str, first: Sequence[Edit], middle: str, second: Sequence[Edit]) -> list[Edit]:
    """The edits that do to `text` what `first`, which made `middle` of it, and then `second` do.

    Edits that overlap become one. An addition stays one, since no second edit touches it.
    """
    ours: list[tuple[int, int, Edit]] = []  # start and end in `middle`
    shift = 0
    for edit in first:
        ours.append((edit.start + shift, edit.start + shift + len(edit.after), edit))
        shift += len(edit.after) - len(edit.before)
    theirs = [(edit.start, edit.end, edit) for edit in second]
    found: list[Edit] = []
    shift = i = j = 0  # shift: from places of `middle` to those of `text`
    while i < len(ours) or j < len(theirs):
        if j == len(theirs) or (i < len(ours) and ours[i][1] <= theirs[j][0]):
            edit = ours[i][2]
            shift += len(edit.before) - len(edit.after)
            i += 1
        elif i == len(ours) or theirs[j][1] <= ours[i][0]:
            edit = replace(theirs[j][2], start=theirs[j][0] + shift)
            j += 1
        else:
            low, high = min(ours[i][0], theirs[j][0]), max(ours[i][1], theirs[j][1])
            start, i0, j0 = low + shift, i, j
            while (i < len(ours) and ours[i][0] < high) or (j < len(theirs) and theirs[j][0] < high):
                if i < len(ours) and ours[i][0] < high:
                    high, i = max(high, ours[i][1]), i + 1
                else:
                    high, j = max(high, theirs[j][1]), j + 1
            both = [e for _, _, e in (*ours[i0:i], *theirs[j0:j])]
            shift += sum(len(e.before) - len(e.after) for e in both[: i - i0])
            after = applied(middle[low:high], [replace(e, start=e.start - low) for e in both[i - i0 :]])
            reason = "; ".join(dict.fromkeys(e.reason for e in both))
            edit = Edit(start=start, before=text[start : high + shift], after=after, reason=reason)
        found.append(edit)
    return [edit for edit in found if edit.before != edit.after]
