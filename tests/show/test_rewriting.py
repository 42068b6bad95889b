"""A rewritten query as text and HTML: what changed, what is expected, and nothing that a query could smuggle in."""

from __future__ import annotations

from workbench.decide.evidence import UNCHANGED, Context, Evidence, Tell, Telling
from workbench.facts import Rewrite
from workbench.show.rewriting import LONGEST, patterns_table, rewrite_html, rewrite_text


def rewritten(original: str, text: str, **more: object) -> Rewrite:
    about = {
        "task": "general",
        "confidence_score": 0.8,
        "estimated_quality_gain": 0.1,
        "gain_low": -0.2,
        "gain_high": 0.4,
    }
    return Rewrite(original=original, text=text, **{"strategies": ("simplify",), **about, **more})  # type: ignore[arg-type]


def test_what_was_added_and_taken_out_is_marked() -> None:
    """Struck through and underlined, not by colour alone; what both have in common stands once."""
    html = rewrite_html(rewritten("Please say why ice floats.", "Say why ice floats."))
    assert "<del>Please s</del><ins>S</ins>ay why ice floats." in html
    assert "predicted gain +0.100 [-0.200, +0.400]" in html


def test_an_addition_alone_has_no_deletion() -> None:
    """Only the new paragraph is marked."""
    html = rewrite_html(rewritten("Say why.", "Say why.\n\nThink first."))
    assert "<ins>\n\nThink first.</ins>" in html
    assert "<del>" not in html


def test_a_deletion_alone_has_no_addition() -> None:
    """Only what went is marked."""
    html = rewrite_html(rewritten("Say now why.", "Say why."))
    assert "<del>now </del>" in html
    assert "<ins>" not in html


def test_markup_and_control_characters_are_inert() -> None:
    """In the query, the reasons and the cues."""
    made = rewritten("<script>x</script>\x1b[31m", "<script>y</script>", reasons=("<b>why</b>",))
    html = rewrite_html(made, [("general", "<i>cue</i>", "<u>found</u>")])
    assert not any(tag in html for tag in ("<script", "<b>", "<i>", "<u>", "\x1b"))
    assert "\x1b" not in rewrite_text(made)


def test_long_queries_are_cut_with_their_length() -> None:
    """A notebook does not take a megabyte into its output."""
    made = rewritten("a" * 1_000_000, "a" * 1_000_000 + "b")
    assert "1000001 characters" in rewrite_text(made)
    assert len(rewrite_html(made)) < 5 * LONGEST


def test_an_unchanged_query_says_so() -> None:
    """Without a difference, and with the probability that this is the best choice."""
    made = rewritten("Why?", "Why?", strategies=(), estimated_quality_gain=0.0)
    told = "no gain predicted; probability that leaving it unchanged is best 0.80"
    assert rewrite_text(made).startswith(f"{UNCHANGED} (general): {told}\n")
    assert "<ins>" not in rewrite_html(made)


def test_that_it_was_tried_is_said_once() -> None:
    """By the reason of the choice, and not by the predicted gain as well."""
    made = rewritten("Why?", "Say why.", explored=True, reasons=("simplify +0.100: tried, to learn about it",))
    assert rewrite_text(made).count("tried") == rewrite_html(made).count("tried") == 1


def test_the_table_has_what_was_told_and_what_is_expected() -> None:
    """Quality is the mean that was told; the unchanged query has no gain of its own."""
    evidence = Evidence()
    for strategy, quality in ((UNCHANGED, 0.5), ("verbose", 1.0), ("verbose", 0.5)):
        evidence = evidence.tell(Telling(Context("", "general", ""), strategy, quality), Tell(discount=1.0))
    rows = {row[3]: row for row in patterns_table(evidence).rows}
    assert rows["verbose"][:6] == ("any", "general", "-", "verbose", "2", "0.750")
    assert rows[UNCHANGED][5:] == ("0.500", "-", "-", "-", "unknown")
    only = Evidence().tell(Telling(Context("m", "general", "g"), "verbose", 1.0), Tell())
    assert [row[3] for row in patterns_table(only).rows] == ["verbose"]


def test_the_table_says_what_its_numbers_are_worth() -> None:
    """How often intervals held is told below; one telling is one, and of all of them older ones count less."""
    evidence = Evidence()
    captions = []
    for _ in range(3):
        evidence = evidence.tell(Telling(Context("", "general", ""), "verbose", 1.0), Tell(discount=0.5))
        captions.append(patterns_table(evidence).caption)
    assert [caption.partition(":")[0] for caption in captions] == [
        "What 1 telling says", "What 2 tellings say", "What 3 tellings say",
    ]  # fmt: skip
    table = patterns_table(evidence)
    assert table.columns[4] == "told"
    assert table.rows[0][4] == "2"  # 1 + 1/2 + 1/4, rounded
    assert "85 to 91 % of cases" in table.notes[-1]


def test_a_key_in_a_query_is_not_shown() -> None:
    """It is sent as it is, and no notebook keeps it."""
    key = "sk-proj-" + "a1B2c3D4" * 5
    made = rewritten(f"Why does {key} not work?", f"Why does {key} not work?\n\nThink first.")
    assert key not in rewrite_html(made, [("general", "cue", key)])
    assert key not in rewrite_text(made)
