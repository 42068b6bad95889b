"""The coverage thresholds, held against coverage.json: `python tests/coverage_gate.py [FILE]`.

The pure decisions are the easiest to test and the costliest to get wrong, so they owe the most branches.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Per cent: branches under workbench/decide/, lines and branches of everything, and of each file.
DECIDE_BRANCHES, OVERALL, PER_FILE = 90.0, 85.0, 80.0


def gaps(report: Mapping[str, Any]) -> list[str]:
    """What a coverage report misses of the thresholds, one phrase each."""
    files = {name.replace("\\", "/"): entry["summary"] for name, entry in report["files"].items()}
    pure = [summary for name, summary in files.items() if name.startswith("workbench/decide/")]
    branches = sum(summary["num_branches"] for summary in pure)
    decided = 100 * sum(summary["covered_branches"] for summary in pure) / branches if branches else 100.0
    overall = report["totals"]["percent_covered"]
    missed = []
    if decided < DECIDE_BRANCHES:
        missed.append(f"workbench/decide/ branches {decided:.1f} % < {DECIDE_BRANCHES:g} %")
    if overall < OVERALL:
        missed.append(f"overall {overall:.1f} % < {OVERALL:g} %")
    low = sorted((summary["percent_covered"], name) for name, summary in files.items())
    return missed + [f"{name} {percent:.1f} % < {PER_FILE:g} %" for percent, name in low if percent < PER_FILE]


def main(file: Path) -> int:
    """Print the gaps; 1 when there are any or nothing was measured."""
    try:
        report = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        print(f"coverage: no {file.name}, so nothing was measured")
        return 1
    missed = gaps(report)
    print("\n".join(f"coverage: {line}" for line in missed) or "coverage: every threshold met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "coverage.json")))
