"""Spool files: what is acknowledged is there, whole, once, and belongs to one living process."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.processes import environment, output
from workbench.errors import LLMError
from workbench.record.lock import try_lock
from workbench.record.spool import SpoolFile, SpoolWriter, decode, encode, read_spool

COLUMNS = {"scores": ("item_id", "value"), "texts": ("hash", "text")}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
ROWS = st.lists(SCALARS, min_size=1, max_size=6)


def named(found: SpoolFile) -> dict[str, list[dict[str, Any]]]:
    """The rows by table, each a mapping by column name."""
    return {
        table: [dict(zip(names, row, strict=True)) for row in found.values(table, names)]
        for table, names in found.columns.items()
        if table in found.rows
    }


def child(code: str, *args: object) -> subprocess.Popen[str]:
    """A real process that runs the code with the arguments in sys.argv[1:]."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(code),
    )


def score(item: object, value: float = 1.0) -> list[Any]:
    return ["scores", str(item), value]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))


def items(folder: Path) -> list[str]:
    """item_id of every whole score in the folder, in file order; nothing may be torn."""
    found = [read_spool(path, 0, alive=False) for path in files(folder)]
    assert not [line for f in found for line in f.torn]
    return [row["item_id"] for f in found for row in named(f).get("scores", [])]


def is_locked(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        return not try_lock(fd)
    finally:
        os.close(fd)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SpoolWriter]:
    made = SpoolWriter(tmp_path, COLUMNS)
    yield made
    made.close()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; the test is skipped where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a file system is not permitted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


# -- lines


@given(st.lists(ROWS, max_size=5))
@settings(deadline=None)
def test_every_row_is_decoded_as_it_was_encoded(rows: list[list[Any]]) -> None:
    """Encoding and decoding give the same rows, a batch on each line."""
    lines = encode(rows).split(b"\n")
    assert lines.pop() == b""
    assert [row for line in lines for row in decode(line) or ()] == rows


def test_a_line_holds_a_thousand_rows_at_most() -> None:
    """What one torn line can hide is bounded."""
    rows = [["scores", f"i{n}", 0.5] for n in range(2001)]
    found = [decode(line) for line in encode(rows).splitlines()]
    assert [len(batch or ()) for batch in found] == [1000, 1000, 1]
    assert [row for batch in found for row in batch or ()] == rows


@pytest.mark.parametrize("row", [["scores", "i", 1.0], ["texts", "h", "[[1]]"]])
def test_a_line_of_one_row_alone_is_read(row: list[Any]) -> None:
    """Logs written before a line held a batch are read as they are."""
    body = json.dumps(row, separators=(",", ":")).encode()
    assert decode(b"%08x %s" % (zlib.crc32(body), body)) == [row]


@pytest.mark.parametrize("value", [math.inf, -math.inf, 2**70, -(2**64), "half \ud800"])
@pytest.mark.parametrize("table", ["scores", "contributions"])
def test_numbers_that_are_not_finite_or_long_are_kept(table: str, value: Any) -> None:
    """A score that a user's own function gives is not turned into an empty one."""
    kept = "half \ufffd" if isinstance(value, str) else value
    assert decode(encode([[table, "i", value], [table, "j", 1.0]])[:-1]) == [[table, "i", kept], [table, "j", 1.0]]
    (found,) = decode(encode([[table, "i", math.nan]])[:-1]) or ()
    assert math.isnan(found[2])


@pytest.mark.parametrize(
    "value", [np.float32("nan"), np.float64("nan"), np.float32("inf"), [math.nan], {"a": math.inf}]
)
def test_no_number_becomes_nothing_wherever_it_stands(value: Any) -> None:
    """Of numpy, in a list or in a mapping: what JSON has no number for comes back as it went."""
    ((_, found),) = decode(encode([["scores", value]])[:-1]) or ()
    inner = found[0] if isinstance(found, list) else found["a"] if isinstance(found, dict) else found
    assert isinstance(inner, float)
    assert not math.isfinite(inner)


@given(ROWS, st.data())
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_never_gives_another_row(row: list[Any], data: st.DataObject) -> None:
    """A line with one byte changed is refused; within the checksum it may still say the same row."""
    line = bytearray(encode([row])[:-1])
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= data.draw(st.integers(1, 255))
    got = decode(bytes(line))
    assert got is None or (at < 8 and got == [row])


@given(ROWS, st.data())
def test_a_cut_line_is_refused(row: list[Any], data: st.DataObject) -> None:
    """No beginning of a line passes for the line."""
    line = encode([row])[:-1]
    assert decode(line[: data.draw(st.integers(0, len(line) - 1))]) is None


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"not a line", b"00000000 ", b"zzzzzzzz [1]", b"\xff" * 40, b"00000000 [1]"]
)
def test_bytes_of_others_are_refused(line: bytes) -> None:
    """What no spool writer wrote is refused without an exception."""
    assert decode(line) is None


@pytest.mark.parametrize("body", [b"{}", b"3", b"null", b'"x"'])
def test_a_line_that_holds_no_row_is_refused(body: bytes) -> None:
    """A right checksum over something other than an array is not a row."""
    assert decode(b"%08x %s" % (zlib.crc32(body), body)) is None


@given(st.text(alphabet=st.characters(categories=["Cs", "Cc", "L"]), min_size=1))
def test_reply_surrogate_in_a_row_is_always_written(text: str) -> None:
    """Lone surrogates and control characters never stop a row from being written and read."""
    got = decode(encode([["texts", "h", text]])[:-1])
    assert got is not None
    assert len(got[0][2]) == len(text)


# -- files


def test_rows_can_be_read_as_soon_as_write_returns(tmp_path: Path, writer: SpoolWriter) -> None:
    """An acknowledged row is in the file while its writer still lives."""
    writer.write([score("a"), ["texts", "h", "hello"]])
    [path] = files(tmp_path)
    found = read_spool(path, 0, alive=True)
    assert named(found) == {"scores": [{"item_id": "a", "value": 1.0}], "texts": [{"hash": "h", "text": "hello"}]}
    assert (found.count, found.torn, found.end) == (2, [], path.stat().st_size)


def test_reading_goes_on_where_it_stopped(tmp_path: Path, writer: SpoolWriter) -> None:
    """A second reading from the first one's end gives the new rows only."""
    writer.write([score("a")])
    [path] = files(tmp_path)
    first = read_spool(path, 0, alive=True)
    writer.write([score("b")])
    assert named(read_spool(path, first.end, alive=True)) == {"scores": [{"item_id": "b", "value": 1.0}]}


def test_reading_in_portions_gives_every_row_once(tmp_path: Path, writer: SpoolWriter) -> None:
    """Portions of a limited size together are the whole file."""
    for start in range(0, 100, 5):
        writer.write([score(i) for i in range(start, start + 5)])
    [path] = files(tmp_path)
    got: list[str] = []
    start = 0
    while (found := read_spool(path, start, alive=True, limit=7)).count:
        assert found.count <= 10  # whole lines
        got += [row["item_id"] for row in named(found)["scores"]]
        start = found.end
    assert got == [str(i) for i in range(100)]


def test_a_file_of_other_columns_is_read_by_name(tmp_path: Path) -> None:
    """The file's own header names its columns, so a version with more columns can read it."""
    writer = SpoolWriter(tmp_path, {"scores": ("value", "item_id")})
    writer.write([["scores", 0.5, "a"]])
    writer.close()
    assert named(read_spool(files(tmp_path)[0], 0, alive=False)) == {"scores": [{"value": 0.5, "item_id": "a"}]}


def test_the_lock_tells_a_living_writer_from_a_dead_one(tmp_path: Path, writer: SpoolWriter) -> None:
    """A spool file is locked from its first moment until its writer closes it."""
    writer.write([score("a")])
    [path] = files(tmp_path)
    assert is_locked(path)
    writer.close()
    assert not is_locked(path)


def test_a_closed_writer_goes_on_in_a_new_file(tmp_path: Path, writer: SpoolWriter) -> None:
    """Writing after close() loses nothing and leaves the former file to others."""
    writer.write([score("a")])
    writer.close()
    writer.write([score("b")])
    assert [is_locked(path) for path in files(tmp_path)] == [False, True]
    assert items(tmp_path) == ["a", "b"]


def test_a_large_file_is_left_for_a_new_one(tmp_path: Path, writer: SpoolWriter) -> None:
    """Beyond 64 MiB the writer goes on in a second file and lets go of the first."""
    for i in range(66):
        writer.write([["texts", str(i), "x" * 2**20]])
    writer.write([["texts", "last", "x"]])
    assert [is_locked(path) for path in files(tmp_path)] == [False, True]
    hashes = [row["hash"] for p in files(tmp_path) for row in named(read_spool(p, 0, alive=False))["texts"]]
    assert hashes == [*map(str, range(66)), "last"]


def test_durability_disk_writes_the_same_bytes(tmp_path: Path) -> None:
    """With durability "disk" a batch is acknowledged as with "process", only later."""
    made = []
    for durability in ("process", "disk"):
        folder = tmp_path / durability
        folder.mkdir()
        writer = SpoolWriter(folder, COLUMNS, durability)  # type: ignore[arg-type]
        for i in range(20):
            writer.write([score(i), score(f"{i}b")])
        writer.close()
        made.append(files(folder)[0].read_bytes())
    assert made[0] == made[1]


# -- torn lines


def torn_file(folder: Path, tail: bytes) -> Path:
    writer = SpoolWriter(folder, COLUMNS)
    writer.write([score("a"), score("b")])
    writer.close()
    [path] = files(folder)
    with path.open("ab") as file:
        file.write(tail)
    return path


def test_st_spool_torn_last_line_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    """While the writer lives, a line without its end is neither read nor passed over."""
    whole = encode([score("c")])
    path = torn_file(tmp_path, whole[:15])
    found = read_spool(path, 0, alive=True)
    assert (found.count, found.torn, found.end) == (2, [], path.stat().st_size - 15)
    with path.open("ab") as file:
        file.write(whole[15:])
    assert named(read_spool(path, found.end, alive=True)) == {"scores": [{"item_id": "c", "value": 1.0}]}


def test_st_spool_torn_last_line_of_a_dead_writer_is_set_aside(tmp_path: Path) -> None:
    """Once the writer is dead, the bytes of its torn line are returned beside the whole rows."""
    path = torn_file(tmp_path, b'0123abcd ["scores","c"')
    found = read_spool(path, 0, alive=False)
    assert (found.count, found.torn, found.end) == (2, [b'0123abcd ["scores","c"'], path.stat().st_size)


@pytest.mark.parametrize("alive", [True, False])
def test_st_spool_torn_line_in_the_middle_costs_only_itself(tmp_path: Path, alive: bool) -> None:
    """A whole line with a wrong checksum is set aside; the lines behind it are read."""
    path = torn_file(tmp_path, b"00000000 [damaged]\n" + encode([score("c")]))
    found = read_spool(path, 0, alive=alive)
    assert [row["item_id"] for row in named(found)["scores"]] == ["a", "b", "c"]
    assert found.torn == [b"00000000 [damaged]\n"]


def test_st_spool_torn_row_of_an_unknown_table_is_set_aside(tmp_path: Path) -> None:
    """A row of a table that the header does not name is kept aside, not guessed at."""
    stray = encode([["unheard_of", 1]])
    assert read_spool(torn_file(tmp_path, stray), 0, alive=False).torn == [stray]


@pytest.mark.parametrize("row", [[], [[1]], [{"a": 1}], [None]])
def test_st_spool_torn_row_without_a_table_is_set_aside(tmp_path: Path, row: list[Any]) -> None:
    """A row that does not begin with a table's name is set aside without an exception."""
    stray = encode([row])
    assert read_spool(torn_file(tmp_path, stray), 0, alive=False).torn == [stray]


def test_st_spool_torn_header_is_set_aside_once(tmp_path: Path) -> None:
    """A dead file without a readable header is set aside whole, and then it is finished."""
    path = tmp_path / "1-1-1.spool"
    path.write_bytes(b'deadbeef ["#colu')
    found = read_spool(path, 0, alive=False)
    assert (found.torn, found.end) == ([b'deadbeef ["#colu'], 16)
    assert read_spool(path, found.end, alive=False) == SpoolFile(path=path, alive=False, end=16)


def test_st_spool_torn_before_the_header_is_nothing(tmp_path: Path) -> None:
    """A file whose writer died before its first byte holds nothing and is no error."""
    path = tmp_path / "1-1-1.spool"
    path.touch()
    found = read_spool(path, 0, alive=False)
    assert (found.count, found.torn, found.end) == (0, [], 0)


# -- threads, forks, kills


def test_many_threads_write_whole_batches(tmp_path: Path, writer: SpoolWriter) -> None:
    """Batches of eight threads arrive whole and in each thread's order."""

    def work(name: int) -> None:
        for batch in range(100):
            writer.write([score(f"{name}/{batch}/{i}") for i in range(3)])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = items(tmp_path)
    assert len(files(tmp_path)) == 1
    for name in range(8):
        mine = [i for i in got if i.startswith(f"{name}/")]
        assert mine == [f"{name}/{batch}/{i}" for batch in range(100) for i in range(3)]
    assert all(len({i.rsplit("/", 1)[0] for i in got[at : at + 3]}) == 1 for at in range(0, len(got), 3))


def test_a_forked_child_writes_to_a_file_of_its_own(tmp_path: Path) -> None:
    """After a fork, rows of parent and child are in two files, each row once."""
    out = output(
        child(
            """
            import os, sys
            from pathlib import Path
            from workbench.record.spool import SpoolWriter
            writer = SpoolWriter(Path(sys.argv[1]), {"scores": ("item_id", "value")})
            writer.write([["scores", "before", 1.0]])
            pid = os.fork()
            who = "parent" if pid else "child"
            for i in range(50):
                writer.write([["scores", f"{who}{i}", 1.0]])
            if pid == 0:
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            writer.write([["scores", "after", 1.0]])
            writer.close()
            print("done")
            """,
            tmp_path,
        )
    )
    assert out == "done\n"
    wanted = ["before", *(f"parent{i}" for i in range(50)), *(f"child{i}" for i in range(50)), "after"]
    assert sorted(items(tmp_path)) == sorted(wanted)
    assert len(files(tmp_path)) == 2


def test_a_child_forked_while_a_thread_writes_can_write(tmp_path: Path) -> None:
    """A fork in the middle of another thread's write does not block the child for ever."""
    process = child(
        """
        import os, sys, threading
        from pathlib import Path
        from workbench.record.spool import SpoolWriter
        writer = SpoolWriter(Path(sys.argv[1]), {"scores": ("item_id", "value")})
        batch = [["scores", "thread", 1.0]] * 200
        going = True
        def work():
            while going:
                writer.write(batch)
        thread = threading.Thread(target=work)
        thread.start()
        for i in range(10):
            pid = os.fork()
            if pid == 0:
                writer.write([["scores", f"child{i}", 1.0]])
                os._exit(0)
            os.waitpid(pid, 0)
        going = False
        thread.join()
        """,
        tmp_path,
    )
    try:
        assert process.wait(timeout=4) == 0
    except subprocess.TimeoutExpired:
        stuck = _children(process.pid)
        process.kill()
        for pid in stuck:
            os.kill(pid, signal.SIGKILL)
        pytest.fail("a forked child waits for a lock that no thread of it holds")
    finally:
        process.communicate()
    assert {f"child{i}" for i in range(10)} <= set(items(tmp_path))


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except (OSError, IndexError):
            continue
    return found


def test_st_kill9_loses_no_acknowledged_batch(tmp_path: Path) -> None:
    """Batches whose write returned before a SIGKILL are whole in the file, whose lock is free."""
    seed = random.Random(7)
    process = child(
        """
        import os, sys
        from pathlib import Path
        from workbench.record.spool import SpoolWriter
        writer = SpoolWriter(Path(sys.argv[1]), {"scores": ("item_id", "value")})
        n = 0
        while True:
            writer.write([["scores", f"{n}/{i}", 1.0] for i in range(40)])
            os.write(1, b"%d\\n" % n)
            n += 1
        """,
        tmp_path,
    )
    assert process.stdout is not None
    for _ in range(seed.randrange(50, 200)):
        last = int(process.stdout.readline())
    process.kill()
    rest = process.communicate()[0].split()
    last = int(rest[-1]) if rest else last
    [path] = files(tmp_path)
    assert not is_locked(path)
    found = read_spool(path, 0, alive=False)
    got = [row["item_id"] for row in named(found)["scores"]]
    assert got[: (last + 1) * 40] == [f"{n}/{i}" for n in range(last + 1) for i in range(40)]
    assert len(found.torn) <= 1


# -- failing disks


def test_st_disk_full_keeps_rows_in_memory_and_writes_them_later(tiny_disk: Path) -> None:
    """Rows that a full disk refuses are kept in order and are written when there is space again."""
    writer = SpoolWriter(tiny_disk, COLUMNS)
    writer.write([score("first")])
    filler = tiny_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096) if shutil.disk_usage(tiny_disk).free else 0:
            pass
    for i in range(300):
        writer.write([score(i)])
    with pytest.raises(LLMError) as full:
        writer.flush()
    assert (full.value.code, full.value.retryable) == ("storage.full", True)
    filler.unlink()
    writer.write([score("last")])
    writer.close()
    found = [read_spool(path, 0, alive=False) for path in files(tiny_disk)]
    got = [row["item_id"] for f in found for row in named(f).get("scores", [])]
    assert list(dict.fromkeys(got)) == ["first", *map(str, range(300)), "last"]


LIMITED = """
    import resource, signal, sys
    from pathlib import Path
    from workbench.errors import LLMError
    from workbench.record.spool import SpoolWriter
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = SpoolWriter(Path(sys.argv[1]), {"scores": ("item_id", "value"), "texts": ("hash", "text")})
    FREE = resource.RLIM_INFINITY
    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, FREE))
    def flush():
        try:
            writer.flush()
        except LLMError as error:
            return error.code
"""


def test_st_disk_full_in_the_middle_of_a_batch_is_made_good(tmp_path: Path) -> None:
    """A batch that was cut off by a limit is written again whole, and the next ones follow it."""
    out = output(
        child(
            LIMITED
            + """
    writer.write([["scores", "first", 1.0]])
    limit(500)
    for n in range(5):
        writer.write([["scores", f"{n}/{i}", 1.0] for i in range(50)])
    print(flush() is not None)
    limit(FREE)
    print(flush())
    writer.close()
            """,
            tmp_path,
        )
    )
    assert out.split() == ["True", "None"]
    found = [read_spool(path, 0, alive=False) for path in files(tmp_path)]
    got = [row["item_id"] for f in found for row in named(f).get("scores", [])]
    assert list(dict.fromkeys(got)) == ["first", *(f"{n}/{i}" for n in range(5) for i in range(50))]


def test_st_disk_full_at_the_start_of_a_file_leaves_no_file_without_a_header(tmp_path: Path) -> None:
    """A file becomes visible as a spool file only when its header is in it whole."""
    output(
        child(
            LIMITED
            + """
    limit(40)
    for n in range(5):
        writer.write([["scores", str(n), 1.0]])
            """,
            tmp_path,
        )
    )
    assert [path.name for path in files(tmp_path) if not path.read_bytes().endswith(b"\n")] == []


def test_st_disk_full_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A failing disk is one warning, however many batches it refuses."""
    writer = SpoolWriter(tmp_path / "gone", COLUMNS)
    for i in range(20):
        writer.write([score(i)])
    assert [r.name for r in caplog.records] == ["workbench.record"]
    with pytest.raises(LLMError, match="20 batches are in memory"):
        writer.flush()
    (tmp_path / "gone").mkdir()
    writer.close()
    assert items(tmp_path / "gone") == [str(i) for i in range(20)]


def test_rows_written_after_the_folder_was_removed_are_not_lost_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file without a name takes no more rows: they are kept, which is said, raised at a flush, and mended.

    An open file can be written to long after it was removed, and nobody will ever read it.
    """
    folder = tmp_path / "spool"
    folder.mkdir()
    writer = SpoolWriter(folder, COLUMNS)
    writer.write([score("removed with the folder")])
    shutil.rmtree(folder)
    for name in ("a", "b"):
        writer.write([score(name)])
    assert [r.name for r in caplog.records] == ["workbench.record"]
    with pytest.raises(LLMError, match="2 batches are in memory") as caught:
        writer.flush()
    assert (caught.value.code, caught.value.retryable) == ("storage.removed", True)
    assert len(caught.value.next_step) <= 160
    folder.mkdir()
    writer.write([score("c")])
    writer.close()
    assert items(folder) == ["a", "b", "c"]


def test_st_readonly_folder_is_a_typed_error_at_flush(tmp_path: Path) -> None:
    """What cannot be written at the end is raised with a code and a next step."""
    (tmp_path / "file").write_text("in the way")
    writer = SpoolWriter(tmp_path / "file", COLUMNS)
    writer.write([score("a")])
    with pytest.raises(LLMError) as caught:
        writer.close()
    assert (caught.value.code, caught.value.retryable) == ("storage.readonly", False)
    assert "1 batches" in caught.value.message
    assert json.dumps(caught.value.as_dict())


def test_a_lock_held_by_a_dead_process_is_free(tmp_path: Path) -> None:
    """Locks go with their process, however it ends."""
    path = tmp_path / "file"
    process = child(
        """
        import os, sys, time
        from workbench.record.lock import try_lock
        fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
        print(try_lock(fd), flush=True)
        time.sleep(60)
        """,
        path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    assert is_locked(path)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 5
    while is_locked(path) and time.monotonic() < deadline:
        pass
    assert not is_locked(path)


def test_a_column_that_a_file_lacks_is_none_also_in_rows_that_are_too_long():
    """Rows are read by the names of their own header, short and long ones too."""
    rows = [["t", 1, 2, 99], ["t", 1], ["t", 1, 2]]
    found = SpoolFile(path=Path("x"), alive=True, columns={"t": ["a", "b"]}, rows={"t": rows})
    assert found.values("t", ["b", "a", "c"]) == [(2, 1, None), (None, 1, None), (2, 1, None)]
    assert found.values("t", ["a", "b"]) == [(1, 2), (1, None), (1, 2)]
