"""How long from a recording to a comparison? gsm8k_openai2021 and mmlu_pro, real answers, an empty log.

Goals: importing the 22,076 rows of both takes at most 10 s; comparing mmlu_pro (16,800 responses, 10,000
bootstrap samples, 100 half splits, from the log) at most 5 s CPU, with the libraries already imported.
"""

from __future__ import annotations

import tempfile
import time

from _timing import cpu_s, finish, goal, interleaved, median, recordings, spread

import workbench.study.stats  # noqa: F401 - imported before the clock starts, as the goal says
from workbench import MajorityVoting, Workbench

FILES = ("gsm8k_openai2021.parquet", "mmlu_pro.parquet")
ROUNDS = 3

if __name__ == "__main__":
    import pandas as pd  # noqa: F401 - imported before the clock starts
    import scipy.special  # noqa: F401 - the same

    imports: list[float] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder, Workbench.open(folder) as wb:
            start = time.perf_counter()
            rows = sum(wb.import_file(recordings() / name).added for name in FILES)
            imports.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder, Workbench.open(folder) as wb:
        wb.import_file(recordings() / FILES[1])
        runs: list[str] = []
        asked = cpu_s(lambda: runs.append(wb.run_sync("mmlu_pro", merge=MajorityVoting()).run_id))
        found = interleaved({"compare": lambda: cpu_s(lambda: wb.get_run(runs[0]).compare())}, ROUNDS)["compare"]
    print(f"import of {rows} rows: wall s {spread(imports)}")
    print(f"run of mmlu_pro, 16,800 calls logged and merged: CPU s {asked:.2f}")
    print(f"compare of mmlu_pro: CPU s {spread(found)}")
    finish(
        [
            goal(f"import {rows} rows", median(imports), 10.0, "s"),
            goal("compare mmlu_pro", median(found), 5.0, "s CPU"),
        ]
    )
