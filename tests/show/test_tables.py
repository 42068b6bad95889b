"""Tables: aligned text first, HTML without scripts, and nothing that a terminal would obey."""

from __future__ import annotations

import unicodedata
from html.parser import HTMLParser

import pytest

from workbench.show.tables import Shown, Table, Words, escape, visible, without_blank

PLAIN = Table(
    caption="two rows",
    columns=("model", "score"),
    rows=(("a", "0.5"), ("longer name", "10.25")),
    numeric=frozenset({"score"}),
    notes=("a note",),
)


def columns_of(text: str) -> list[int]:
    """The display column at which the second cell of each line ends, caption and notes left out."""
    wide = {"W": 2, "F": 2}
    return [sum(wide.get(unicodedata.east_asian_width(c), 1) for c in line) for line in text.splitlines()]


def test_text_is_left_and_numbers_are_right_aligned():
    """Every line of the table stands under its column, exactly so."""
    assert PLAIN.text().splitlines() == [
        "two rows",
        "model        score",
        "-----------  -----",
        "a              0.5",
        "longer name  10.25",
        "a note",
    ]


def test_wide_characters_take_two_columns():
    """Names in Chinese or full width do not push the numbers out of line."""
    table = Table(
        caption="", columns=("model", "score"), rows=(("通义千问", "0.5"), ("ＧＰＴ", "0.25"), ("plain", "1")),
        numeric=frozenset({"score"}),
    )  # fmt: skip
    assert set(columns_of(table.text())[1:]) == {8 + 2 + 5}


def test_combining_marks_take_no_column():
    """An accent of its own does not shift the cells after it."""
    table = Table(caption="", columns=("m", "score"), rows=(("e\u0301te\u0301", "0.5"), ("ete", "0.5")))
    first, second = table.text().splitlines()[3:]
    assert first.replace("\u0301", "") == second


def test_lines_have_no_trailing_blanks():
    """Tables can be compared and committed as they are."""
    table = Table(caption="c", columns=("a", "b"), rows=(("x", ""), ("yyyy", "z")))
    assert [line for line in table.text().splitlines() if line != line.rstrip()] == []


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("over\rwrite", "over\\x0dwrite"),
        ("back\x08space", "back\\x08space"),
        ("nul\x00", "nul\\x00"),
        ("del\x7f", "del\\x7f"),
        ("right\u202eleft", "right\\u202eleft"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("half \ud800", "half \\ud800"),
        ("Ünï 通 🙂\n\tok", "Ünï 通 🙂\n\tok"),
    ],
)
def test_sec_ansi_control_characters_are_visible(raw: str, shown: str):
    """What a terminal would obey is shown as an escape; letters, line breaks and tabs stay."""
    assert visible(raw) == shown


def test_sec_ansi_no_part_of_a_table_reaches_the_terminal_raw():
    """Caption, column names, cells and notes are all made visible."""
    evil = "\x1b[2J"
    text = Table(caption=evil, columns=(evil,), rows=((evil,),), notes=(evil,)).text()
    assert "\x1b" not in text
    assert text.count("\\x1b[2J") == 4


def test_sec_ansi_a_line_break_in_a_cell_cannot_forge_a_row():
    """A cell stays in its line."""
    table = Table(caption="c", columns=("model", "score"), rows=(("a\nb  1.0000", "0.0"),))
    assert len(table.text().splitlines()) == 4


class Seen(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_sec_xss_markup_in_any_part_of_a_table_is_text():
    """Caption, columns, cells and notes with markup are shown, not run."""
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    table = Table(caption=evil, columns=(evil,), rows=((evil,),), numeric=frozenset({evil}), notes=(evil,))
    for page in (table.html(), Shown(table)._repr_html_(), Words((evil,))._repr_html_()):
        seen = Seen(page)
        assert not {"script", "img"} & set(seen.tags)
        assert seen.attributes <= {"style", "class"}
        assert evil in seen.text


def test_the_html_form_has_the_same_cells_and_alignment():
    """One row a row, numbers to the right, themed by JupyterLab's own variables."""
    seen = Seen(PLAIN.html())
    assert (seen.tags.count("tr"), seen.tags.count("th"), seen.tags.count("td")) == (3, 2, 4)
    assert PLAIN.html().count("text-align:right") == 3  # the heading and two numbers
    assert "var(--jp-content-font-color1,inherit)" in PLAIN.html()


def test_columns_in_which_no_row_says_anything_are_dropped():
    """A column of dashes goes; one with a single value stays, dashes included."""
    table = Table(
        caption="c", columns=("model", "latency", "cost"), rows=(("a", "-", "-"), ("b", "-", "0.1")),
        numeric=frozenset({"latency", "cost"}), notes=("n",),
    )  # fmt: skip
    kept = without_blank(table)
    assert (kept.columns, kept.rows, kept.notes) == (("model", "cost"), (("a", "-"), ("b", "0.1")), ("n",))


def test_a_shown_table_is_a_data_frame_of_its_texts():
    """Rows and columns as they are shown; a table without rows keeps its columns."""
    frame = Shown(PLAIN).df()
    assert frame.to_dict("records") == [{"model": "a", "score": "0.5"}, {"model": "longer name", "score": "10.25"}]
    empty = Shown(Table(caption="c", columns=("model", "score"), rows=())).df()
    assert (len(empty), list(empty.columns)) == (0, ["model", "score"])


def test_results_show_text_first():
    """repr is the text of the table, and the list of sentences."""
    assert repr(Shown(PLAIN)) == PLAIN.text()
    assert repr(Words(("one", "two\x1b"))) == "- one\n- two\\x1b"
    assert escape("<\x1b>") == "&lt;\\x1b&gt;"
