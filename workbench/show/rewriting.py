"""A rewritten query, and what an optimizer has learned, as text and as HTML."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.canonical import redacted
from workbench.decide.evidence import UNCHANGED, Context, Evidence, Tallies, source_of
from workbench.facts import Rewrite
from workbench.show.tables import CAPTION, NOTE, Table, escape, visible

LONGEST = 2_000  # characters of a query that are shown
PATTERNS = (
    "model",
    "task",
    "group",
    "strategy",
    "told",
    "quality",
    "gain",
    "95 %",
    "P(gain > 0)",
    "source",
)


def rewrite_text(made: Rewrite) -> str:
    """The rewriting in a few lines of text."""
    head = ", ".join(made.strategies) or UNCHANGED
    lines = [f"{head} ({made.task}): {gain_text(made)}", *(f"  {visible(reason)}" for reason in made.reasons)]
    return "\n".join([*lines, "", visible(_cut(made.text))])


def gain_text(made: Rewrite) -> str:
    """The predicted gain in words."""
    if not made.strategies:
        return f"no gain predicted; probability that leaving it unchanged is best {made.confidence_score:.2f}"
    return (
        f"predicted gain {made.estimated_quality_gain:+.3f} [{made.gain_low:+.3f}, {made.gain_high:+.3f}], "
        f"probability that it helps {made.confidence_score:.2f}"
    )


def rewrite_html(made: Rewrite, cues: Sequence[tuple[str, str, str]] = ()) -> str:
    """The rewriting; what was added is underlined, what was deleted struck through.

    cues: task, name and found text of what the task type was told from.
    """
    head = f'<p style="{CAPTION}">{escape(", ".join(made.strategies) or UNCHANGED)} · {escape(made.task)}</p>'
    notes = [gain_text(made), *made.reasons, *(f"{task}: {name} “{_cut(found, 80)}”" for task, name, found in cues)]
    body = _difference(made.original, made.text) if made.strategies else escape(_cut(made.text))
    pre = "white-space:pre-wrap;margin:4px 0;color:var(--jp-content-font-color1,inherit)"
    said = "".join(f'<p style="{NOTE}">{escape(note)}</p>' for note in notes)
    return f'<div class="workbench-rewrite">{head}<pre style="{pre}">{body}</pre>{said}</div>'


def _difference(before: str, after: str) -> str:
    """The new text with what it added underlined; what was deleted is struck through. Secrets are not shown."""
    before, after = redacted(before), redacted(after)
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    gone, new = before[start : len(before) - end], after[start : len(after) - end]
    parts = [escape(_cut(before[:start]))]
    if gone:
        parts.append(f"<del>{escape(_cut(gone))}</del>")
    if new:
        parts.append(f"<ins>{escape(_cut(new))}</ins>")
    return "".join([*parts, escape(_cut(before[len(before) - end :] if end else ""))])


def _cut(text: str, most: int = LONGEST) -> str:
    text = redacted(text)
    return text if len(text) <= most else f"{text[:most]} … ({len(text)} characters)"


def patterns_table(evidence: Evidence) -> Table:
    """What is expected of each strategy in each context that was told about."""
    rows = []
    contexts: dict[Context, list[str]] = {}
    for row in evidence.rows():
        contexts.setdefault(Context(row.model, row.task, row.group), []).append(row.strategy)
    for context, told in contexts.items():
        tallies = evidence.tallies(context)
        names = [name for name in told if name != UNCHANGED]
        for gain in evidence.gains(context, names):
            between = f"[{gain.low:+.3f}, {gain.high:+.3f}]"
            seen, source = _seen(context, gain.strategy, tallies), source_of(context.model) or "unknown"
            rows.append((*seen, f"{gain.mean:+.3f}", between, f"{gain.positive:.2f}", source))
        if UNCHANGED in told:
            seen = _seen(context, UNCHANGED, tallies)
            rows.append((*seen, "-", "-", "-", source_of(context.model) or "unknown"))
    tellings = "1 telling says" if evidence.told == 1 else f"{evidence.told} tellings say"
    return Table(
        caption=f"What {tellings}: predicted gain over the unchanged query",
        columns=PATTERNS,
        rows=tuple(rows),
        numeric=frozenset(PATTERNS[4:-1]),
        notes=(
            "Qualities are in [0, 1]. Older tellings count less, also in the column told.",
            "Predictions lean on other groups, models and tasks where few were told.",
            "95 % intervals of groups held the truth in 85 to 91 % of cases on recorded answers (docs/decisions/0014).",
        ),
    )


def _seen(context: Context, strategy: str, tallies: Tallies) -> tuple[str, ...]:
    tally = tallies[strategy]
    about = (context.model or "any", context.task, context.group or "-", strategy)
    return (*about, f"{tally.n:.0f}", f"{tally.mean:.3f}")
