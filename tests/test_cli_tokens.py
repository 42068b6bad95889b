"""`workbench tokens`: counts of files and of standard input, where vocabularies are, and fetching them."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from workbench.act import vocab
from workbench.act.vocab import Origin
from workbench.cli import main
from workbench.decide.tokens import estimate

CONTENT = b"IQ== 0\nIg== 1\n"


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """The command inside this process."""

    def call(*args: str | Path) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["tokens", *map(str, args)])
        captured = capsys.readouterr()
        return Said(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine whose vocabularies would be in two folders, and are a few bytes each."""
    here = SimpleNamespace(named=tmp_path / "named", own=tmp_path / "cache" / "workbench" / "tiktoken")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(here.named))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(vocab, "find_spec", lambda name: None)
    monkeypatch.setattr(vocab, "_loaded", {})

    def origin(name: str) -> Origin:
        url = f"https://o.example/{name}.tiktoken"
        return Origin(name=name, url=url, sha256=hashlib.sha256(CONTENT).hexdigest())

    monkeypatch.setattr(vocab, "origin_of", origin)
    return here


# -- count


def test_files_are_counted_with_their_method_and_band(cli: Callable[..., Said], tmp_path: Path):
    """A line each; bytes that are no UTF-8 are a character each."""
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("How many?", "utf-8")
    two.write_bytes(b"\xff\xfe")
    said = cli("count", one, two, "--model", "claude3")
    known = [estimate(text, "anthropic") for text in ("How many?", "\ufffd\ufffd")]
    assert said.out.splitlines() == [
        f"{found.count} tokens (estimate:anthropic, {found.low} to {found.high})  {file}"
        for found, file in zip(known, (one, two), strict=True)
    ]
    said = cli("count", one, two, "--model", "claude3", "--json")
    assert json.loads(said.out)["counts"][0] == {
        "file": str(one), "count": known[0].count, "method": "estimate:anthropic", "low": known[0].low,
        "high": known[0].high,
    }  # fmt: skip


@pytest.mark.parametrize("args", [(), ("-",)])
def test_standard_input_is_counted(cli: Callable[..., Said], args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    """Without a file, or with - for one."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"How many?")))
    said = json.loads(cli("count", *args, "--estimate", "--json").out)
    assert (said["file"], said["count"], said["method"]) == (
        "-",
        estimate("How many?", "o200k_base").count,
        "estimate:o200k_base",
    )


def test_standard_input_that_is_named_twice_is_the_same_twice(cli: Callable[..., Said], monkeypatch):
    """It is read once, and what is left then has no tokens."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"How many?")))
    one, two = json.loads(cli("count", "-", "-", "--json").out)["counts"]
    assert one == two
    assert one["count"] > 0


def test_an_exact_count_that_cannot_be_is_exit_2(cli: Callable[..., Said], tmp_path: Path):
    """With the files and the extra that are missing."""
    file = tmp_path / "one.txt"
    file.write_text("How many?")
    said = cli("count", file, "--exact", "--model", "gpt4")
    assert (said.code, said.out) == (2, "")
    assert "o200k_base.tiktoken.gz" in said.err
    assert "next: pip install 'workbench[tokens]'" in said.err


def test_a_file_that_cannot_be_read_is_exit_1(cli: Callable[..., Said], tmp_path: Path):
    """It is named."""
    said = cli("count", tmp_path / "none.txt")
    assert (said.code, said.out) == (1, "")
    assert "none.txt" in said.err


# -- status


def test_the_status_says_what_is_where(cli: Callable[..., Said], places: SimpleNamespace):
    """One that is intact, one that is damaged, and what to do about it."""
    places.named.mkdir()
    intact, damaged = (places.named / vocab.origin_of(name).files[0] for name in ("o200k_base", "cl100k_base"))
    intact.write_bytes(CONTENT)
    damaged.write_bytes(b"x")
    said = cli("status")
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[:3] == ["looked for in", f"  {places.named}", f"  {places.own}"]
    assert lines[3:5] == ["o200k_base: counted exactly", f"  {intact} is intact"]
    assert lines[5] == "cl100k_base: estimated"
    assert lines[6].startswith(f"  {damaged} is damaged")
    assert lines[7] == "  next: pip install 'workbench[tokens]', or run `workbench tokens fetch cl100k_base`"
    found = json.loads(cli("status", "--json").out)
    assert found["folders"] == [str(places.named), str(places.own)]
    assert found["encodings"]["o200k_base"] == {"exact": True, "files": [{"path": str(intact), "problem": None}]}
    assert found["encodings"]["cl100k_base"]["exact"] is False


# -- fetch


@pytest.fixture
def base() -> Iterator[str]:
    """The address of a folder on loopback that has every vocabulary."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/encodings"
    server.shutdown()
    thread.join()
    server.server_close()


def test_vocabularies_are_fetched_to_the_folder_that_is_looked_in(
    cli: Callable[..., Said], base: str, places: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
):
    """All of them, to TIKTOKEN_CACHE_DIR, else to a folder of the user's own; or one, to a folder that is named."""
    said = cli("fetch", "--base", base)
    files = [places.named / vocab.origin_of(name).files[0] for name in ("o200k_base", "cl100k_base")]
    assert said.out.splitlines() == [f"o200k_base: {files[0]}", f"cl100k_base: {files[1]}"]
    assert all(file.read_bytes() == CONTENT for file in files)
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    own = places.own / files[1].name
    assert json.loads(cli("fetch", "cl100k_base", "--base", base, "--json").out) == {"cl100k_base": str(own)}
    assert own.read_bytes() == CONTENT
    elsewhere = places.own.parent / "elsewhere"
    cli("fetch", "cl100k_base", "--base", base, "--to", elsewhere)
    assert [file.name for file in elsewhere.iterdir()] == [files[1].name]


def test_a_fetch_that_fails_is_exit_1(cli: Callable[..., Said], tmp_path: Path):
    """Nobody listens there, and no folder is made."""
    said = cli("fetch", "o200k_base", "--base", "http://127.0.0.1:9/encodings")
    assert (said.code, said.out) == (1, "")
    assert "LLMProviderError" in said.err
    assert not (tmp_path / "named").exists()


def test_help_loads_nothing_heavy() -> None:
    """Neither the tokenizer nor numpy for a page of help."""
    script = (
        "import sys\nfrom workbench.cli import main\n"
        "try: main(['tokens', 'count', '--help'])\nexcept SystemExit as e: assert not e.code\n"
        "print([m for m in ('numpy', 'tiktoken', 'duckdb') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert "Usage:" in done.stdout
