"""The table of error codes in the reference is the one in the code."""

from __future__ import annotations

from pathlib import Path

from workbench.decide.classify import CODES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "models.md"


def table() -> str:
    """CODES as a Markdown table."""
    rows = ["| code | error | retryable | concerns | may be billed | next step |", "|---|---|---|---|---|---|"]
    rows += [
        f"| `{code}` | `{c.error.__name__}` | {'yes' if c.retryable else 'no'} | {c.scope} | "
        f"{'yes' if c.billed else 'no'} | {c.next_step} |"
        for code, c in CODES.items()
    ]
    return "\n".join(rows)


def test_the_reference_has_the_codes_of_the_code() -> None:
    """Every code with its error, and nothing else."""
    _, found, rest = PAGE.read_text("utf-8").partition("<!-- codes -->\n")
    assert found
    assert rest.partition("\n\n")[0].strip() == table()


if __name__ == "__main__":  # python tests/test_docs_of_models.py writes it
    head, mark, rest = PAGE.read_text("utf-8").partition("<!-- codes -->\n")
    PAGE.write_text(f"{head}{mark}{table()}\n\n{rest[rest.index('## Flags') :]}", "utf-8")
