"""Vocabularies from files of this machine: exact counts without a network.

tiktoken knows where its vocabularies come from and their SHA-256, and fetches what it does not find. Its recipe of an
encoding is run here with our own loader in the place of its own, and with nothing else that it could call: a file is
looked for, checked and read; the network is out of reach. `fetch` alone downloads, and only when somebody asks for it.

Folders are looked through in this order, and damaged files are passed over:

    $TIKTOKEN_CACHE_DIR          files under tiktoken's own names, the SHA-1 of their address
    ~/.cache/workbench/tiktoken  what `workbench tokens fetch` has put there ($XDG_CACHE_HOME/workbench/tiktoken)
    bpe_openai/data              the package of the extra [tokens], of which only the files are used: NAME.tiktoken.gz
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import re
import socket
import stat
import threading
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

from workbench.canonical import redacted, text_of
from workbench.decide.tokens import ENCODINGS
from workbench.errors import LLMError, LLMProviderError, LLMValidationError

if TYPE_CHECKING:
    from tiktoken import Encoding

CARRIER = "bpe_openai"
LARGEST_BYTES = 64 * 2**20  # of a vocabulary; those of today have 1.7 and 3.6 million
TIMEOUT_S = 60.0  # of each step of a download
LONGEST_S = 600.0  # of all of them together
INSTALL = "pip install 'workbench[tokens]'"

_loaded: dict[str, Encoding] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where tiktoken's own source says that a vocabulary comes from. sha256: of the file, hexadecimal."""

    name: str
    url: str
    sha256: str

    @property
    def files(self) -> tuple[str, str]:
        """The names under which a folder may hold it: that of tiktoken's cache, and that of the carrier."""
        return hashlib.sha1(self.url.encode(), usedforsecurity=False).hexdigest(), f"{self.name}.tiktoken.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyFile:
    """A file that should hold a vocabulary. content: unpacked; empty where there is a problem."""

    path: Path
    content: bytes = field(default=b"", repr=False)
    problem: str = ""


class Vocabulary:
    """Makes and counts the tokens of one encoding; made by `load`, safe in several threads."""

    def __init__(self, encoding: Encoding) -> None:
        self.name = encoding.name
        self._encode = encoding.encode_ordinary

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, in which special tokens are ordinary text; half a character counts as U+FFFD.

        Raises LLMValidationError tokens.unavailable for a text that tiktoken gives up on, such as a million blanks.
        """
        try:
            return self._encode(text)
        except BaseException as error:  # what it raises there is a panic of Rust, which is no Exception
            if type(error).__name__ != "PanicException":
                raise
            raise LLMValidationError(
                f"tiktoken gives up on this text of {len(text)} characters: {text_of(error)}",
                code="tokens.unavailable",
                next_step="take the long run of blanks out of the text, or use exact=None for an estimate",
            ) from error

    def count(self, text: str) -> int:
        """How many tokens `encode` gives."""
        return len(self.encode(text))


def folders(environ: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """Where vocabularies are looked for, in order; folders that do not exist are among them."""
    env = os.environ if environ is None else environ
    named = env.get("TIKTOKEN_CACHE_DIR", "").strip()
    spec = find_spec(CARRIER)  # finds a package without running it
    carried = [Path(place) / "data" for place in (spec.submodule_search_locations or ())] if spec else []
    return (*([_at_home(named)] if named else []), own_folder(env), *carried)


def own_folder(environ: Mapping[str, str] | None = None) -> Path:
    """The folder of the user in which `fetch` puts vocabularies; it begins with ~ where the user has no home."""
    env = os.environ if environ is None else environ
    return _at_home(env.get("XDG_CACHE_HOME", "").strip() or "~/.cache") / "workbench" / "tiktoken"


def _at_home(path: str) -> Path:
    """The path with ~ expanded where that can be; Path.expanduser raises for users of containers, who have no home."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def load(name: str, places: Sequence[Path] | None = None) -> Vocabulary:
    """The vocabulary of an encoding, one of ENCODINGS; made once in a process, however often it is asked for.

    places: folders to look in; default `folders()`. Raises LLMValidationError tokens.unavailable where none of them has
    the file, or only damaged ones.
    """
    with _lock:  # the second of two threads waits for what the first one reads
        if places is not None or name not in _loaded:
            looked = folders() if places is None else tuple(places)
            problems = []
            for file in files_of(name, looked):
                if not file.problem:
                    if name not in _loaded:
                        _loaded[name] = _made(name, file.content)
                    break
                problems.append(f"{file.path} {file.problem}")
            else:
                raise _unavailable(name, looked, problems)
        return Vocabulary(_loaded[name])


def files_of(name: str, places: Sequence[Path]) -> Iterator[VocabularyFile]:
    """The files of a vocabulary in folders, in their order, each read and checked when its turn has come."""
    origin = origin_of(name)
    for path in (place / file for place in places for file in origin.files):
        try:
            if stat.S_ISFIFO(path.stat().st_mode):  # reading it would wait for somebody who writes
                raise OSError("it is a pipe")
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                content = file.read(LARGEST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, EOFError, ValueError, zlib.error) as error:  # a name that no file can have is a ValueError
            yield VocabularyFile(path=path, problem=f"cannot be read: {text_of(error)}")
            continue
        if hashlib.sha256(content).hexdigest() == origin.sha256:
            yield VocabularyFile(path=path, content=content)
        else:
            yield VocabularyFile(path=path, problem=f"is damaged: its SHA-256 is not {origin.sha256[:12]}...")


@cache
def origin_of(name: str) -> Origin:
    """Where a vocabulary comes from. Raises LLMValidationError validation.encoding for a name not in ENCODINGS."""
    if name not in ENCODINGS:
        raise LLMValidationError(
            f"{name!r:.60} is no encoding that can be counted here",
            code="validation.encoding",
            next_step=f"use one of {', '.join(ENCODINGS)}",
        )
    found = []

    def note(url: str, expected_hash: str) -> dict[bytes, int]:
        found.append(Origin(name=name, url=url, sha256=expected_hash))
        return {}

    _recipe(name, note)
    return found[0]


def _recipe(name: str, loader: Callable[..., dict[bytes, int]]) -> dict[str, Any]:
    """What tiktoken makes an encoding of, by its own function, which sees its texts and our loader, nothing else."""
    from tiktoken_ext import openai_public  # type: ignore[import-untyped]

    own: Any = openai_public.ENCODING_CONSTRUCTORS[name]
    texts = {key: value for key, value in own.__globals__.items() if isinstance(value, str)}
    within = {**texts, "load_tiktoken_bpe": loader, "__builtins__": {}}
    try:
        made: dict[str, Any] = FunctionType(own.__code__, within)()
    except (NameError, TypeError) as error:
        raise LLMError(
            f"tiktoken makes {name} in a way that is not known here: {text_of(error)}",
            code="tokens.unavailable",
            next_step="install tiktoken 0.14, or use exact=False for estimates",
        ) from error
    return made


def _made(name: str, content: bytes) -> Encoding:
    from tiktoken import Encoding

    def read(url: str, expected_hash: str) -> dict[bytes, int]:
        lines = (line.split() for line in content.splitlines() if line)
        return {base64.b64decode(token): int(rank) for token, rank in lines}

    return Encoding(**_recipe(name, read))


def _unavailable(name: str, looked: Sequence[Path], problems: Sequence[str]) -> LLMValidationError:
    origin = origin_of(name)
    places = f"in {', '.join(map(str, looked))}" if looked else "there, for no folder is named"
    found = "; ".join(problems) or f"neither {' nor '.join(origin.files)} is {places}"
    return LLMValidationError(
        f"the vocabulary {name} is not on this machine: {found}",
        code="tokens.unavailable",
        next_step=f"{INSTALL}, or run `workbench tokens fetch`, or set TIKTOKEN_CACHE_DIR; exact=None estimates",
    )


def fetch(name: str, folder: Path | None = None, *, base: str | None = None) -> VocabularyFile:
    """Download a vocabulary from where tiktoken would take it; nothing is asked where an intact one lies already.

    folder: default the first of `folders()`; made if it is not there. base: address of another folder with the files.
    Raises LLMValidationError security.url for a base that is none, LLMProviderError provider.connection,
    provider.malformed (another file than expected), and OSError where the folder cannot be written.
    """
    origin, place = origin_of(name), folder or folders()[0]
    if str(place).startswith("~"):
        raise LLMValidationError(
            f"{place} cannot be made: this user has no home folder",
            code="validation.config",
            next_step="name the folder, by --to or in TIKTOKEN_CACHE_DIR",
        )
    if there := next((file for file in files_of(name, [place]) if not file.problem), None):
        return there
    url = origin.url if base is None else f"{base.rstrip('/')}/{origin.url.rpartition('/')[2]}"
    content = _downloaded(url)
    if (found := hashlib.sha256(content).hexdigest()) != origin.sha256:
        raise LLMProviderError(
            f"{redacted(url)} gave {len(content)} bytes with the SHA-256 {found[:12]}..., not {origin.sha256[:12]}...",
            code="provider.malformed",
            next_step="try again; a proxy or a portal may have answered in its place",
        )
    place.mkdir(parents=True, exist_ok=True)
    path = place / origin.files[0]
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)  # readers see the old file or the whole new one
    finally:
        part.unlink(missing_ok=True)
    return VocabularyFile(path=path, content=content)


def _downloaded(url: str) -> bytes:
    """The body of one GET. act/http posts to providers, on an event loop; this is one file, now and then."""
    if not _ADDRESS.match(url):  # a password in it would be shown by errors that are not ours
        raise LLMValidationError(
            f"{redacted(url)!r:.200} cannot be downloaded: only http:// and https:// can, without a user or password",
            code="security.url",
            next_step="leave base out, or give the address of a folder of vocabularies",
        )
    line = _Line()
    try:
        with line, line.opener().open(url, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read(LARGEST_BYTES + 1)
        if line.is_cut:
            raise TimeoutError
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        why = f"it was not over after {LONGEST_S:g} s" if line.is_cut else text_of(error)
        raise LLMProviderError(
            f"{redacted(url)} cannot be downloaded: {why}",
            code="provider.connection",
            next_step=f"check the network, or {INSTALL}, which brings the files with it"[:160],
        ) from error
    return content


_ADDRESS = re.compile(r"https?://[^/?#@\s]+(?:[/?#]|\Z)", re.I)


class _Line:
    """The connections of one download, cut after LONGEST_S: a timeout is of each step, and a server can take many.

    is_cut: whether that has happened.
    """

    def __init__(self) -> None:
        self.is_cut = False
        self._guard = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(LONGEST_S, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def opener(self) -> urllib.request.OpenerDirector:
        """What follows redirections to http:// and https:// alone; urllib's own goes to ftp:// too."""
        line = self

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                line.take(self.sock)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                line.take(self.sock)

        class PlainHandler(urllib.request.HTTPHandler):
            def http_open(self, req: urllib.request.Request) -> Any:
                return self.do_open(Plain, req)

        class SecureHandler(urllib.request.HTTPSHandler):
            def https_open(self, req: urllib.request.Request) -> Any:
                return self.do_open(Secure, req)

        made = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(), PlainHandler(), SecureHandler(), urllib.request.UnknownHandler(),
            urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):  # fmt: skip
            made.add_handler(handler)
        return made

    def take(self, connected: socket.socket) -> None:
        """Cut this connection too when the time comes; raises TimeoutError when it has come."""
        with self._guard:
            if self.is_cut:
                raise TimeoutError
            self._sockets.append(connected)

    def _cut(self) -> None:
        with self._guard:
            self.is_cut = True
            for connected in self._sockets:
                with suppress(OSError):  # it is over already
                    socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _after_fork() -> None:
    """A lock that a thread of the parent holds would never be let go here."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
