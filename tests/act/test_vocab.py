"""Vocabularies: files of this machine, proved and read once; nothing but `fetch` asks the network."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import inspect
import os
import pwd
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiktoken
from tiktoken_ext import openai_public

from workbench.act import vocab
from workbench.act.vocab import Origin, fetch, files_of, folders, load, origin_of, own_folder
from workbench.decide.tokens import ENCODINGS
from workbench.errors import LLMError, LLMProviderError, LLMValidationError


@pytest.fixture(scope="module")
def real() -> dict[str, bytes]:
    """The vocabularies that this machine has, by encoding; a test that uses it is skipped without them."""
    found = {name: next((f for f in files_of(name, folders()) if not f.problem), None) for name in ENCODINGS}
    if not all(found.values()):
        pytest.skip("no vocabulary on this machine: the extra [tokens] is not installed")
    return {name: file.content for name, file in found.items() if file}


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A process that has not loaded anything yet."""
    known: dict[str, Any] = {}
    monkeypatch.setattr(vocab, "_loaded", known)
    return known


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The content of a vocabulary of a few bytes, for which tiktoken's is exchanged."""
    content = b"IQ== 0\nIg== 1\n"
    origin = Origin(
        name="o200k_base", url="https://o.example/enc/o200k.tiktoken", sha256=hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setattr(vocab, "origin_of", lambda name: origin)
    return content


def unavailable(name: str = "o200k_base", places: Any = ()) -> LLMValidationError:
    """The error of a vocabulary that is not there."""
    with pytest.raises(LLMValidationError) as caught:
        load(name, places)
    assert caught.value.code == "tokens.unavailable"
    assert "workbench[tokens]" in caught.value.next_step
    assert len(caught.value.next_step) <= 160
    return caught.value


# -- where they come from


@pytest.mark.parametrize("name", ENCODINGS)
def test_an_origin_is_what_the_source_of_tiktoken_says(name: str):
    """Its address and SHA-256 stand in the function that makes the encoding; the address's SHA-1 names the file."""
    origin = origin_of(name)
    source = inspect.getsource(openai_public.ENCODING_CONSTRUCTORS[name])
    assert f'"{origin.url}"' in source
    assert f'"{origin.sha256}"' in source
    assert origin.files == (hashlib.sha1(origin.url.encode()).hexdigest(), f"{name}.tiktoken.gz")


def test_an_unknown_encoding_is_refused():
    """With those that there are."""
    with pytest.raises(LLMValidationError, match="'klingon'") as caught:
        load("klingon")
    assert caught.value.code == "validation.encoding"
    assert "o200k_base" in caught.value.next_step


def test_folders_are_the_variable_the_users_own_and_the_carrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In this order; a package is found without being run, and one without a place has no files."""
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / "carrier")])
    monkeypatch.setattr(vocab, "find_spec", lambda name: spec)
    env = {"TIKTOKEN_CACHE_DIR": str(tmp_path / "named"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    own = tmp_path / "cache" / "workbench" / "tiktoken"
    assert own_folder(env) == own
    assert folders(env) == (tmp_path / "named", own, tmp_path / "carrier" / "data")
    assert folders({**env, "TIKTOKEN_CACHE_DIR": " "}) == (own, tmp_path / "carrier" / "data")
    spec.submodule_search_locations = None
    assert folders(env) == (tmp_path / "named", own)
    monkeypatch.setattr(vocab, "find_spec", lambda name: None)
    assert folders({}) == (Path.home() / ".cache" / "workbench" / "tiktoken",)


def test_the_carriers_code_is_not_run(real: dict[str, bytes], forgetful: dict[str, Any]):
    """Its files are all that is wanted of it: importing it takes a second."""
    load("cl100k_base")
    assert vocab.CARRIER not in sys.modules


# -- loading


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_vocabulary_is_that_of_tiktoken(name: str, real: dict[str, bytes], tmp_path: Path, monkeypatch):
    """tiktoken itself, given the same file in its cache, makes the same tokens of every kind of text."""
    (tmp_path / origin_of(name).files[0]).write_bytes(real[name])
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    theirs = tiktoken.Encoding(**openai_public.ENCODING_CONSTRUCTORS[name]())
    ours = load(name, [tmp_path])
    assert ours.name == theirs.name == name
    for text in ("", "Hello, world", "  def f(x):\n\treturn 1_000", "größer 世界 مرحبا 👩‍👧", "e\u0301\x00\x85 " * 9):
        assert ours.encode(text) == theirs.encode_ordinary(text)
        assert theirs.decode(ours.encode(text)) == text
        assert ours.count(text) == len(ours.encode(text))


def test_known_tokens_are_as_published(real: dict[str, bytes]):
    """The example of OpenAI's cookbook, "tiktoken is great!", in both encodings."""
    assert load("cl100k_base").encode("tiktoken is great!") == [83, 1609, 5963, 374, 2294, 0]
    assert load("o200k_base").encode("tiktoken is great!") == [83, 8251, 2488, 382, 2212, 0]


@pytest.mark.parametrize("special", ["<|endoftext|>", "<|im_start|>", "<|endofprompt|>"])
def test_special_tokens_in_a_text_are_ordinary_text(special: str, real: dict[str, bytes]):
    """They raise nothing, and are more than one token, none of them special."""
    encoding = load("o200k_base")
    tokens = encoding.encode(f"a {special} b")
    assert len(tokens) > 4
    assert max(tokens) < 199_998  # the first special one


def test_half_a_character_counts_as_the_one_that_replaces_it(real: dict[str, bytes]):
    """Lone surrogates raise nothing; a pair of them is the character it stands for."""
    encoding = load("o200k_base")
    assert encoding.encode("a\ud800b") == encoding.encode("a\ufffdb")
    assert encoding.encode("\ud83d\ude00") == encoding.encode("😀")


@pytest.mark.slow
def test_a_text_that_tiktoken_gives_up_on_is_a_typed_error(real: dict[str, bytes], capfd):
    """A million blanks before a word end in a panic, which is no Exception; the next text is counted again."""
    encoding = load("o200k_base")
    with pytest.raises(LLMValidationError, match="gives up on this text of 1100001 characters") as caught:
        encoding.count(" " * 1_100_000 + "a")
    assert caught.value.code == "tokens.unavailable"
    assert encoding.count("a") == 1


def test_what_is_no_panic_passes(real: dict[str, bytes]):
    """A number is the caller's mistake, and an interrupt the user's wish."""
    with pytest.raises(TypeError):
        load("o200k_base").count(7)  # type: ignore[arg-type]


def test_a_vocabulary_is_made_once_however_many_threads_ask(
    real: dict[str, bytes], forgetful: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Eight threads at once, one encoding."""
    made, began, make = [], threading.Barrier(8), vocab._made
    monkeypatch.setattr(vocab, "_made", lambda *args: made.append(args[0]) or make(*args))
    counts: list[int] = []

    def ask() -> None:
        began.wait()
        counts.append(load("cl100k_base").count("tiktoken is great!"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["cl100k_base"]
    assert counts == [6] * 8
    assert load("cl100k_base").name == "cl100k_base"
    assert made == ["cl100k_base"]


def test_a_forked_process_is_not_held_up_by_a_lock_of_its_parent():
    """What holds it there is gone here."""
    before = vocab._lock
    with before:
        vocab._after_fork()
        assert not vocab._lock.locked()
    assert vocab._lock is not before


# -- files that are not there, or not whole


def test_a_missing_vocabulary_names_its_files_and_places(tmp_path: Path, forgetful: dict[str, Any]):
    """Also where there is no place at all."""
    message = unavailable(places=[tmp_path / "nowhere"]).message
    for told in ("o200k_base", *origin_of("o200k_base").files, str(tmp_path / "nowhere")):
        assert told in message
    assert "no folder is named" in unavailable().message


def test_a_vocabulary_that_is_loaded_is_still_looked_for_in_named_places(real: dict[str, bytes], tmp_path: Path):
    """Those who name folders learn whether the files are in them; it is not made again."""
    before = load("o200k_base").encode
    unavailable(places=[tmp_path])
    (tmp_path / origin_of("o200k_base").files[0]).write_bytes(real["o200k_base"])
    assert load("o200k_base", [tmp_path]).encode("a") == before("a")


@pytest.mark.parametrize("form", ["plain", "packed", "cut", "no gzip", "folder", "empty"])
def test_a_damaged_file_is_named(form: str, small: bytes, tmp_path: Path, forgetful: dict[str, Any]):
    """Changed, cut short, not packed, a folder in its place, without content."""
    plain, packed = (tmp_path / file for file in vocab.origin_of("o200k_base").files)
    path = plain if form in {"plain", "folder", "empty"} else packed
    if form == "folder":
        path.mkdir()
    else:
        whole = gzip.compress(small, mtime=0)
        path.write_bytes(
            {
                "plain": small + b"!",
                "packed": gzip.compress(small + b"!"),
                "cut": whole[:-9],
                "no gzip": small,
                "empty": b"",
            }[form]
        )
    message = unavailable(places=[tmp_path]).message
    assert str(path) in message
    assert ("is damaged" in message) == (form in {"plain", "packed", "empty"})
    assert ("cannot be read" in message) == (form in {"cut", "no gzip", "folder"})


def test_a_damaged_file_is_passed_over_for_an_intact_one(small: bytes, tmp_path: Path):
    """Both are told of; the second one is used."""
    plain, packed = vocab.origin_of("o200k_base").files
    (tmp_path / plain).write_bytes(b"damaged")
    (tmp_path / packed).write_bytes(gzip.compress(small))
    found = list(files_of("o200k_base", [tmp_path / "none", tmp_path]))
    assert [bool(file.problem) for file in found] == [True, False]
    assert found[1].content == small
    assert found[1].path == tmp_path / packed


def test_a_packed_file_without_end_is_not_unpacked_to_its_end(small: bytes, tmp_path: Path, monkeypatch):
    """It is damaged after the largest size a vocabulary may have."""
    monkeypatch.setattr(vocab, "LARGEST_BYTES", 100)
    (tmp_path / "o200k_base.tiktoken.gz").write_bytes(gzip.compress(bytes(10**6)))
    [file] = files_of("o200k_base", [tmp_path])
    assert "is damaged" in file.problem


@pytest.mark.parametrize("packed", [False, True])
def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(packed: bool, small: bytes, tmp_path: Path):
    """Reading it would wait for somebody who writes, with the lock that every count needs."""
    path = tmp_path / vocab.origin_of("o200k_base").files[packed]
    os.mkfifo(path)
    [file] = files_of("o200k_base", [tmp_path])
    assert file.problem == "cannot be read: it is a pipe"


def test_a_folder_that_cannot_be_is_told(small: bytes, forgetful: dict[str, Any], tmp_path: Path):
    """A NUL in its name, half a character, a loop of links."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in (Path("a\0b"), tmp_path / "\ud800", tmp_path / "loop"):
        assert "cannot be read" in unavailable(places=[place]).message


def test_a_user_without_a_home_can_count(forgetful: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """As in a container whose user is a mere number; only a folder to fetch into has to be named then."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    environ = {"TIKTOKEN_CACHE_DIR": "~nobody-here/x"}
    assert folders(environ)[:2] == (Path("~nobody-here/x"), Path("~/.cache/workbench/tiktoken"))
    assert list(files_of("o200k_base", folders(environ)[:2])) == []
    with pytest.raises(LLMValidationError, match="no home folder") as caught:
        fetch("o200k_base")
    assert caught.value.code == "validation.config"


@pytest.mark.parametrize("body", ["return {'mergeable_ranks': load_other(url)}", "return open('x')", "return read()"])
def test_a_tiktoken_that_loads_in_another_way_is_not_let_loose(body: str, monkeypatch: pytest.MonkeyPatch):
    """Its function sees our loader alone: with another one it would reach its cache, or the network."""
    within: dict[str, Any] = {
        "load_other": lambda url: pytest.fail("it has gone its own way"),
        "url": "https://o.example",
    }
    exec(f"def o200k_base():\n    {body}", within)  # as a later version could be written
    monkeypatch.setitem(openai_public.ENCODING_CONSTRUCTORS, "o200k_base", within["o200k_base"])
    with pytest.raises(LLMError, match="in a way that is not known here") as caught:
        origin_of.__wrapped__("o200k_base")
    assert caught.value.code == "tokens.unavailable"


def test_loading_asks_nothing_of_the_network(real: dict[str, bytes], forgetful: dict[str, Any], monkeypatch):
    """Present, missing or damaged: no socket is made."""
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a socket was made"))
    assert load("cl100k_base").count("hello") == 1
    unavailable()


# -- fetching


@pytest.fixture
def server() -> Iterator[Any]:
    """A server on loopback that gives `server.body` with `server.status` for every path, and remembers the paths."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            self.send_response(made.status)
            self.send_header("content-length", str(len(made.body)))
            self.end_headers()
            self.wfile.write(made.body[: made.sent])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    made: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.body, made.status, made.asked, made.sent = b"", 200, [], None
    made.base = f"http://127.0.0.1:{made.server_port}/encodings"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_a_vocabulary_is_fetched_proved_and_kept(server: Any, small: bytes, tmp_path: Path):
    """Under tiktoken's own name, in a folder that is made for it; what is there is not asked for again."""
    server.body, place = small, tmp_path / "a" / "b"
    found = fetch("o200k_base", place, base=f"{server.base}/")
    assert found.path == place / vocab.origin_of("o200k_base").files[0]
    assert found.path.read_bytes() == found.content == small
    assert server.asked == ["/encodings/o200k.tiktoken"]
    assert fetch("o200k_base", place, base=server.base) == found
    assert len(server.asked) == 1
    assert [path.name for path in place.iterdir()] == [found.path.name]


def test_a_damaged_file_is_fetched_again(server: Any, small: bytes, tmp_path: Path):
    """In its place, whole."""
    server.body = small
    path = tmp_path / vocab.origin_of("o200k_base").files[0]
    path.write_bytes(b"damaged")
    assert fetch("o200k_base", tmp_path, base=server.base).path.read_bytes() == small


def test_the_default_folder_is_the_first_that_is_looked_in(server: Any, small: bytes, tmp_path: Path, monkeypatch):
    """$TIKTOKEN_CACHE_DIR where it is set."""
    server.body = small
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "named"))
    assert fetch("o200k_base", base=server.base).path.parent == tmp_path / "named"


@pytest.mark.parametrize("broken", ["other", "missing", "short", "silent", "scheme", "nonsense", "no TLS"])
def test_a_fetch_that_fails_is_typed_and_leaves_no_file(broken: str, server: Any, small: bytes, tmp_path: Path):
    """Another file, an error of the server, a body cut short, nobody listening, no HTTP, no address, no certificate."""
    server.body = b"<html>Log in</html>" if broken == "other" else small
    server.status = 404 if broken == "missing" else 200
    server.sent = 3 if broken == "short" else None
    if broken == "silent":
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        server.base = f"http://127.0.0.1:{port}"
    elsewhere = {"scheme": tmp_path.as_uri(), "nonsense": "http://[::1", "no TLS": f"https{server.base[4:]}"}
    server.base = elsewhere.get(broken, server.base)
    with pytest.raises(LLMValidationError if broken == "scheme" else LLMProviderError) as caught:
        fetch("o200k_base", tmp_path / "to", base=server.base)
    codes = {"other": "provider.malformed", "short": "provider.malformed", "scheme": "security.url"}
    assert caught.value.code == codes.get(broken, "provider.connection")
    assert len(caught.value.next_step) <= 160
    assert not (tmp_path / "to").exists()


Talk = Callable[[socket.socket, Callable[[], bool]], None]


@pytest.fixture
def liar() -> Iterator[Callable[[Talk], str]]:
    """A server that says what a function writes; the function is told whether the test is over."""
    over, threads, taken = threading.Event(), [], []

    def serve(talk: Talk) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        taken.append(listening)

        def answer(connected: socket.socket) -> None:
            with connected, suppress(OSError):
                connected.recv(65536)
                talk(connected, lambda: over.wait(0.01))

        def work() -> None:
            with suppress(OSError):
                while True:
                    threads.append(threading.Thread(target=answer, args=(listening.accept()[0],)))
                    threads[-1].start()

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}/encodings"

    yield serve
    over.set()
    for listening in taken:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
    for thread in threads:
        thread.join()


def drip(connected: socket.socket, is_over: Callable[[], bool], head: bytes, piece: bytes) -> None:
    connected.sendall(head)
    while not is_over():
        connected.sendall(piece)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"a"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["body", "chunks", "head", "interim"],
)
def test_a_fetch_that_drips_has_an_end(head, piece, liar, small: bytes, tmp_path: Path, monkeypatch):
    """Each piece comes in time, and the whole would take for ever."""
    monkeypatch.setattr(vocab, "LONGEST_S", 0.2)
    base = liar(lambda connected, is_over: drip(connected, is_over, head, piece))
    with pytest.raises(LLMProviderError, match=r"it was not over after 0\.2 s") as caught:
        fetch("o200k_base", tmp_path / "to", base=base)
    assert caught.value.code == "provider.connection"
    assert not (tmp_path / "to").exists()


def test_a_fetch_that_is_sent_on_and_on_has_an_end(liar, small: bytes, tmp_path: Path, monkeypatch):
    """Each redirection is a new connection, and the time is that of all."""
    monkeypatch.setattr(vocab, "LONGEST_S", 0.2)
    asked = []

    def elsewhere(connected: socket.socket, is_over: Callable[[], bool]) -> None:
        asked.append(1)
        for _ in range(5):
            is_over()
        place = f"{base}/{len(asked)}".encode()
        connected.sendall(b"HTTP/1.1 302 Found\r\nLocation: " + place + b"\r\nContent-Length: 0\r\n\r\n")

    base = liar(elsewhere)
    with pytest.raises(LLMProviderError, match=r"it was not over after 0\.2 s"):
        fetch("o200k_base", tmp_path / "to", base=base)
    assert 1 < len(asked) < 10


def test_a_connection_that_is_made_too_late_is_not_used():
    """The time was over while it was made."""
    line = vocab._Line()
    line._cut()
    with socket.socket() as late, pytest.raises(TimeoutError):
        line.take(late)


@pytest.mark.parametrize("scheme", ["ftp", "file", "data", "gopher"])
def test_a_fetch_is_sent_to_the_web_alone(scheme: str, liar, small: bytes, tmp_path: Path):
    """A redirection to another protocol is not followed; on its port nobody is asked."""
    asked: list[int] = []
    port = liar(lambda connected, is_over: asked.append(1)).split(":")[2].partition("/")[0]
    place = f"{scheme}://127.0.0.1:{port}/x".encode()
    base = liar(lambda c, _: c.sendall(b"HTTP/1.1 302 Found\r\nLocation: " + place + b"\r\nContent-Length: 0\r\n\r\n"))
    with pytest.raises(LLMProviderError) as caught:
        fetch("o200k_base", tmp_path / "to", base=base)
    assert (caught.value.code, asked) == ("provider.connection", [])


@pytest.mark.parametrize(
    "base", ["https://user:hunter2@o.example/x", "http://hunter2@o.example", "http://", "http:///x", "http://a b/", ""]
)
def test_sec_secret_an_address_with_a_password_is_refused(base: str, tmp_path: Path):
    """Before anybody can quote it: neither the message nor its causes have it; nor is there one without a host."""
    with pytest.raises(LLMValidationError) as caught:
        fetch("o200k_base", tmp_path, base=base)
    assert caught.value.code == "security.url"
    assert "hunter2" not in caught.value.message
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_a_file_that_cannot_be_put_in_its_place_leaves_no_half(server: Any, small: bytes, tmp_path: Path):
    """A folder of its name is in the way."""
    server.body = small
    path = tmp_path / vocab.origin_of("o200k_base").files[0]
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        fetch("o200k_base", tmp_path, base=server.base)
    assert list(tmp_path.iterdir()) == [path]


def test_several_may_fetch_at_once(server: Any, small: bytes, tmp_path: Path):
    """Threads of one process do not write into each other's files."""
    server.body, found, began = small, [], threading.Barrier(6)

    def ask() -> None:
        began.wait()
        found.append(fetch("o200k_base", tmp_path, base=server.base).path.read_bytes())

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [small] * 6
    assert len(list(tmp_path.iterdir())) == 1


def test_a_fetched_vocabulary_counts(server: Any, real: dict[str, bytes], tmp_path: Path, forgetful: dict[str, Any]):
    """The real file, from loopback to a count."""
    server.body = real["cl100k_base"]
    fetch("cl100k_base", tmp_path, base=server.base)
    assert load("cl100k_base", [tmp_path]).count("tiktoken is great!") == 6
    shutil.rmtree(tmp_path)
