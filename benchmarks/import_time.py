"""What does `import workbench` cost? CPU of a fresh interpreter, minus a bare one, beside `import httpx`.

Goal: at most 1.2 times httpx, with none of the heavy libraries loaded.
"""

from __future__ import annotations

import json
import subprocess
import sys

from _timing import finish, goal, interleaved, median, process_cpu_s, spread

CODES = {
    "bare": "pass",
    "httpx": "import httpx",
    "workbench": "import workbench",
    "workbench.cli": "import workbench.cli",
    "Workbench": "from workbench import Workbench",
}
HEAVY = ("numpy", "pandas", "plotly", "scipy", "papermill", "duckdb", "ipywidgets")

if __name__ == "__main__":
    for code in CODES.values():
        process_cpu_s(code)  # bytecode is written in an uncounted first round
    found = interleaved({name: lambda c=code: process_cpu_s(c) for name, code in CODES.items()}, rounds=11)
    bare = median(found["bare"])
    for name, values in found.items():
        print(f"{name:15} CPU s {spread(values)}, above bare {median(values) - bare:.4f}")
    listing = f"import json, sys, workbench; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", listing]))
    ratio = max(0.0, median(found["workbench"]) - bare) / (median(found["httpx"]) - bare)
    finish(
        [
            goal("import workbench / import httpx, CPU", ratio, 1.2, "x"),
            goal(f"heavy libraries loaded {loaded}", float(len(loaded)), 0, "modules"),
        ]
    )
