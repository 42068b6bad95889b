"""A key, and the two places it may come from: an environment variable, or a file outside the repository.

A Secret names its origin wherever Python would show a value (repr, str, format, copies) and cannot be pickled;
`reveal` is the one way to the key, called where a request's header is written. A key that no header can carry
is refused here, before anything is sent, and no message contains it.
"""

from __future__ import annotations

import hmac
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, SupportsIndex
from urllib.parse import quote

from workbench.errors import LLMValidationError

MAX_KEY_CHARS = 8192
REDACTED = "[redacted]"
SHORTEST = 12  # characters of a key that no text contains by chance
PACKAGE = Path(__file__).resolve().parent.parent


class _Veiled(bytes):
    """Bytes that do not show themselves."""

    def __repr__(self) -> str:
        return "b'[secret]'"


class Secret:
    """A key that shows its origin and never itself; equal to a Secret of the same key, not hashable.

    origin: where the key came from, such as OPENAI_API_KEY or a file's path; shown in its place.
    Raises LLMValidationError validation.config for a key that is empty or has a character that is not visible
    ASCII: no HTTP header carries it as it stands.
    """

    __slots__ = ("_forms", "_value", "origin")
    __hash__ = None  # type: ignore[assignment]  # a hash by value would let a dictionary of guesses find the key

    def __init__(self, value: str, *, origin: str = "argument") -> None:
        self.origin = origin
        problem = _problem(value)
        if problem is not None:
            del value  # tools that print a traceback with its variables must not print the key
            raise LLMValidationError(
                f"the key in {origin} {problem}",
                code="validation.config",
                next_step=f"set {origin} to the key alone, without quotes or spaces, or unset it"[:160],
            )
        self._value = value
        # As it is, as a URL, JSON and Python write it; the longest first, for one may begin another. In any case of
        # letters: what a wire format lowers, such as a finish reason, is a key still.
        forms = {value, quote(value, safe=""), quote(value), json.dumps(value)[1:-1], repr(value)[1:-1]}
        found = {form.lower() for form in forms} if len(value) >= SHORTEST else ()
        self._forms = sorted(found, key=len, reverse=True)

    def reveal(self) -> str:
        """The key itself; for a request's header and nothing else."""
        return self._value

    def header(self, prefix: str = "") -> bytes:
        """The key as the value of a header, whose repr does not show it to tools that print variables."""
        return _Veiled(prefix.encode() + self._value.encode())

    def scrub(self, text: str) -> str:
        """The text with the key, also as a URL or JSON writes it and in any case, replaced by [redacted].

        Keys of fewer than SHORTEST characters are left: `test` or `EMPTY`, as local servers take them, are words.
        """
        lower = text.lower()
        for form in self._forms:
            if form in lower:
                text = re.sub(re.escape(form), REDACTED, text, flags=re.I)
                lower = text.lower()
        return text

    def settled(self, text: str) -> tuple[str, str]:
        """The text, scrubbed, and in its place the end of it that may be the beginning of the key, to be held back.

        For an answer that arrives in pieces: the held end goes before the next piece.
        """
        if not self._forms:
            return text, ""
        text, start = self.scrub(text), self._value.lower()
        lower = text.lower()
        most = min(len(text), len(start) - 1)
        held = next((n for n in range(most, 0, -1) if lower.endswith(start[:n])), 0)
        return text[: len(text) - held], text[len(text) - held :]

    def __repr__(self) -> str:
        return f"Secret({self.origin})"

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        # In constant time: how long a comparison takes must not tell how many characters were right.
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: Any) -> Secret:
        return self

    def __getstate__(self) -> NoReturn:
        raise _unpicklable(self.origin)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise _unpicklable(self.origin)


def read_key(
    *,
    env: str | None = None,
    file: str | os.PathLike[str] | None = None,
    required: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Secret | None:
    """The key in environment variable `env`, else in `file`; None when neither is there.

    file: its first and only line is the key; it must lie outside every repository. environ: default os.environ.
    required: a missing key is an error and not None. Raises LLMValidationError validation.config for a missing
    required key, a key that cannot be used, a file inside a repository, and one that cannot be read.
    """
    environment = os.environ if environ is None else environ
    if env and env in environment:
        return Secret(environment[env], origin=env)
    path = Path(file).expanduser() if file is not None else None
    if path is not None:
        _check_outside(path)
        if path.exists():
            return Secret(_read(path), origin=str(path))
    if not required:
        return None
    sought = " and ".join([*([f"{env} is not set"] if env else []), *([f"{path} does not exist"] if path else [])])
    raise LLMValidationError(
        f"a key is needed: {sought or 'neither a variable nor a file is named for it'}",
        code="validation.config",
        next_step=f"set {env}" if env else "name an environment variable in key_env, or a file in key_file",
    )


def _problem(value: object) -> str | None:
    """Why no header can carry the value as a key, or None."""
    if not isinstance(value, str):
        return f"is a {type(value).__name__}, not a text"
    if not value.strip():
        return "is blank" if value else "is empty"
    if any(ch.isspace() for ch in value):
        return "has white space in or around it"
    if any(not "!" <= ch <= "~" for ch in value):
        return "has a control or non-ASCII character in it"
    return f"has more than {MAX_KEY_CHARS} characters" if len(value) > MAX_KEY_CHARS else None


def _check_outside(path: Path) -> None:
    """Refuse a file under version control's folder: what lies there gets committed."""
    checkout = PACKAGE.parent
    for folder in path.resolve().parents:
        if (folder / ".git").exists() or (folder == checkout and (folder / "pyproject.toml").is_file()):
            raise LLMValidationError(
                f"the key file {path} lies inside the repository {folder}",
                code="validation.config",
                next_step="move the file out of the repository, or use an environment variable (key_env)",
            )


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            return lines.read(MAX_KEY_CHARS + 2).removesuffix("\n")
    except (OSError, ValueError) as error:
        # A decoding error carries the file's bytes, so it is named and not chained.
        why = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise LLMValidationError(
            f"the key file {path} cannot be read: {why}",
            code="validation.config",
            next_step="make it a readable text file with the key alone, or use an environment variable (key_env)",
        ) from None


def _unpicklable(origin: str) -> LLMValidationError:
    return LLMValidationError(
        f"the key in {origin} was to be pickled, which would write it down",
        code="security.secret",
        next_step="pass the name of the environment variable and read the key where it is used",
    )
