"""What is asked of the disk before a row is acknowledged, as strace sees it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.crash.straced import started, told

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="strace is a program of Linux")
CALLS = "openat,write,writev,pwrite64,rename,renameat,renameat2,fsync,fdatasync"
WRITER = """
    log = Log.open(sys.argv[1], durability=sys.argv[2])
    say("opened")
    for n in range(3):
        log.write(score(n))
        say(f"acknowledged {n}")
    for n in range(3):
        log.write(span(n))
    log.flush()
    say("acknowledged spans")
    log.close()
"""


def steps(folder: Path, durability: str, trace: Path) -> list[str]:
    """What happened to the spool and what was said, in order, from the opening on: a word and its object each."""
    process = started(["-y", "-o", str(trace), "-e", f"trace={CALLS}"], WRITER, folder, durability)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    found = []
    for line in told(trace):
        if '"opened\\n"' in line:
            found.clear()
        elif line.startswith("write(1<"):
            found.append(line.partition('"')[2].partition("\\n")[0])
        elif f"{folder}/spool" in line:
            assert " = -1" not in line, line
            at = "directory" if line.partition("<")[2].partition(">")[0] == f"{folder}/spool" else "file"
            found.append(f"{line.partition('(')[0]} {at}")
    return found


def test_durability_disk_acknowledges_after_the_disk_has_said_so(tmp_path: Path) -> None:
    """With "disk" a batch is written, then fdatasync returns, and only then does write() or flush() return."""
    seen = steps(tmp_path / "log", "disk", tmp_path / "trace")
    spoken = [place for place, step in enumerate(seen) if step.startswith("acknowledged")]
    assert [seen[place] for place in spoken] == [*(f"acknowledged {n}" for n in range(3)), "acknowledged spans"]
    for before, place in zip([0, *spoken], spoken, strict=False):
        assert "write file" in seen[before:place]
        assert [step for step in seen[before:place] if step.endswith("file")][-1] == "fdatasync file"


def test_durability_disk_makes_the_name_of_a_new_spool_file_last(tmp_path: Path) -> None:
    """The spool's folder is synced once, between the naming of a file and the first acknowledgement.

    A file whose name is lost in a power cut is lost with all its rows.
    """
    seen = steps(tmp_path / "log", "disk", tmp_path / "trace")
    named = next(place for place, step in enumerate(seen) if step.startswith("rename"))
    assert seen.count("fsync directory") == 1
    assert named < seen.index("fsync directory") < seen.index("acknowledged 0")


def test_durability_process_waits_for_no_disk(tmp_path: Path) -> None:
    """With "process" nothing is synced: what is written survives the process, and that is all that is promised."""
    seen = steps(tmp_path / "log", "process", tmp_path / "trace")
    assert [step for step in seen if "sync" in step] == []
    assert seen.index("write file") < seen.index("acknowledged 0")
