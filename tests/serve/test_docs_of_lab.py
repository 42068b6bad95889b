"""The reference of the lab: its table is the one in the code, and its example runs."""

from __future__ import annotations

import re
from pathlib import Path

from workbench.serve.lab.catalog import markdown

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "lab.md"
MARK = "<!-- faults -->\n"


def test_the_reference_has_the_faults_of_the_code():
    """Every fault with its sentence, and nothing else."""
    _, found, rest = PAGE.read_text("utf-8").partition(MARK)
    assert found
    assert rest.strip() == markdown()
    assert len(rest.strip().splitlines()) == 2 + 71


def test_the_example_of_the_reference_runs(capsys):
    """As it stands on the page; the counts that it prints are those of a run with retries."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    names: dict[str, object] = {}
    exec(compile(code, PAGE.name, "exec"), names)
    counts = names["counts"]
    assert counts.by_model["strong"] == 48
    assert counts.by_model["weak"] == counts.total - 48 > 48
    # 30 % of 48 calls and more, for what was refused is asked again: a mean of 14.4 with a deviation of 3.2.
    assert 5 <= counts.by_fault["http-429-plain"] <= 40
    assert counts.by_model["weak"] - counts.by_fault["http-429-plain"] <= 48
    assert "lab-anthropic:weak" in capsys.readouterr().out


if __name__ == "__main__":  # python tests/serve/test_docs_of_lab.py writes it
    head, mark, _ = PAGE.read_text("utf-8").partition(MARK)
    PAGE.write_text(f"{head}{mark}{markdown()}\n", "utf-8")
