"""Tables as text and as HTML. The text form comes first: it is what logs, terminals and tests read.

HTML has no script and no style of its own beyond JupyterLab's theme variables; every cell is escaped.
"""

from __future__ import annotations

import html
import unicodedata
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A caption, column names, rows of ready-made text, and notes below.

    numeric: names of right-aligned columns.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()
    notes: tuple[str, ...] = field(default=())

    def text(self) -> str:
        """The table in monospaced text."""
        cells = [tuple(inline(c) for c in row) for row in (self.columns, *self.rows)]
        widths = [max(_width(row[j]) for row in cells) for j in range(len(self.columns))]
        lines = [
            "  ".join(_pad(cell, widths[j], right=self.columns[j] in self.numeric) for j, cell in enumerate(row))
            for row in cells
        ]
        rule = "  ".join("-" * w for w in widths)
        body = [line.rstrip() for line in (lines[0], rule, *lines[1:])]
        return "\n".join([inline(self.caption), *body, *(inline(n) for n in self.notes)])

    def html(self) -> str:
        """The table as HTML without scripts."""
        head = "".join(f'<th style="{self._align(c)}">{html.escape(c)}</th>' for c in self.columns)
        rows = "".join(
            "<tr>"
            + "".join(
                f'<td style="{self._align(c)}">{escape(cell)}</td>' for c, cell in zip(self.columns, row, strict=True)
            )
            + "</tr>"
            for row in self.rows
        )
        notes = "".join(f'<p style="{NOTE}">{escape(n)}</p>' for n in self.notes)
        return (
            f'<div class="workbench-table"><p style="{CAPTION}">{escape(self.caption)}</p>'
            f'<table style="{TABLE}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{notes}</div>'
        )

    def _align(self, column: str) -> str:
        return f"text-align:{'right' if column in self.numeric else 'left'};padding:2px 10px;white-space:nowrap"


@dataclass(frozen=True, slots=True)
class Words:
    """Sentences, shown as a list."""

    sentences: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join(f"- {inline(s)}" for s in self.sentences)

    def _repr_html_(self) -> str:
        return "<ul>" + "".join(f'<li style="{WORDS}">{escape(s)}</li>' for s in self.sentences) + "</ul>"


@dataclass(frozen=True, slots=True)
class Shown:
    """A table that shows itself."""

    table: Table

    def __repr__(self) -> str:
        return self.table.text()

    def _repr_html_(self) -> str:
        return self.table.html()

    def df(self) -> pd.DataFrame:
        """The rows as they are shown: every cell a text."""
        import pandas as pd

        return pd.DataFrame(list(self.table.rows), columns=list(self.table.columns))


CAPTION = "margin:6px 0 4px;font-weight:600;color:var(--jp-content-font-color1,inherit)"
NOTE = "margin:4px 0;color:var(--jp-content-font-color2,inherit);max-width:72em"
WORDS = "margin:4px 0;color:var(--jp-content-font-color1,inherit);max-width:72em"
TABLE = "border-collapse:collapse;font-variant-numeric:tabular-nums;color:var(--jp-content-font-color1,inherit)"


def without_blank(table: Table) -> Table:
    """The table without the columns in which no row says anything."""
    said = [j for j in range(len(table.columns)) if any(row[j] != "-" for row in table.rows)]
    return replace(
        table,
        columns=tuple(table.columns[j] for j in said),
        rows=tuple(tuple(row[j] for j in said) for row in table.rows),
    )


def visible(text: str) -> str:
    """The text with control characters shown as escapes, so that a terminal does not obey them."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else _escaped(c) for c in text)


def inline(text: str) -> str:
    """The text on one line: line breaks and tabs are shown as escapes too, so that no cell can forge a row."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _escaped(c: str) -> str:
    return f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}"


def escape(text: str) -> str:
    """The text for HTML: control characters visible, markup inert."""
    return html.escape(visible(text))


def _width(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _pad(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
