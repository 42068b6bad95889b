"""The forty canaries: what is planted where, and whose it is.

A canary is a secret unless `own` names the places where the user put it on purpose or asked for it to be: then it may
stand there, and only there. Places are those of scene.py: log (rows, spool, torn files, exports), told (everything
that is printed, shown or drawn: reprs, notebook outputs, pages, commands), traceback, logging, otel.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from urllib.parse import quote

NOBODYS: frozenset[str] = frozenset()
FOREIGN = "an exception of the user's own code, as Python itself shows the cause of ours"
SETTING = "a value that the settings take only where it neither looks like a key nor is called one"
QUOTED = "what was asked of a model or answered by it is what the log is for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """One planted value. name: what it stands for. look: its form, with {} for what makes it unlike all others."""

    name: str
    look: str = "Kx7{}"
    own: frozenset[str] = NOBODYS
    why: str = ""

    @property
    def value(self) -> str:
        """The planted text."""
        return self.look.format(self.core)

    @property
    def core(self) -> str:
        """The part that no other canary has."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:20]

    @property
    def forms(self) -> set[bytes]:
        """It, and what it becomes on its way: in a URL, in JSON, as basic authorization; and most of it, cut."""
        whole = {self.value, quote(self.value, safe=""), json.dumps(self.value)[1:-1], self.core, self.core[:12]}
        basic = base64.b64encode(f"user:{self.value}".encode()).decode()
        return {form.encode() for form in (*whole, self.core[-12:], basic)}


def _own(*places: str) -> frozenset[str]:
    return frozenset(places)


SHOWN = _own("log", "told", "traceback", "logging", "record")
CANARIES = (
    # keys
    Canary(name="key-env"),
    Canary(name="key-env-known-look", look="sk-proj-{}"),
    Canary(name="key-file"),
    Canary(name="key-anthropic", look="sk-ant-{}"),
    Canary(name="key-gemini", look="AIza{}"),
    Canary(name="key-azure"),
    Canary(name="key-of-odd-characters", look='a"b\\c/+={}'),
    Canary(name="key-never-used"),
    Canary(name="key-with-a-space", look="two {}"),
    Canary(name="key-file-of-two-lines"),
    Canary(name="key-in-toml"),
    Canary(name="key-in-place-of-its-name", look="sk-{}"),
    # headers
    Canary(name="header-authorization-in-toml"),
    Canary(name="header-bearer-in-toml", look="Bearer {}"),
    Canary(name="header-of-a-provider", own=SHOWN, why=SETTING),
    Canary(name="header-set-by-the-server"),
    Canary(name="header-for-opentelemetry"),
    # addresses
    Canary(name="url-password-in-toml"),
    Canary(name="url-query-in-toml"),
    Canary(name="url-password-in-python"),
    Canary(name="url-password-of-another-scheme"),
    Canary(name="url-password-for-opentelemetry"),
    Canary(name="query-of-a-provider", own=SHOWN | {"otel"}, why=SETTING),
    Canary(name="proxy-password"),
    Canary(name="proxy-password-unusable"),
    # environment
    Canary(name="env-bystander"),
    Canary(name="env-nearly-a-setting"),
    Canary(name="env-key-in-a-setting", look="sk-{}"),
    # exceptions of the user's own functions
    Canary(name="exception-authorization", own=_own("traceback"), why=FOREIGN),
    Canary(name="exception-url", own=_own("traceback"), why=FOREIGN),
    Canary(name="exception-json", own=_own("traceback"), why=FOREIGN),
    Canary(name="exception-cause", own=_own("traceback"), why=FOREIGN),
    # metadata and parameters
    Canary(name="metadata-named"),
    Canary(name="metadata-known-look", look="sk-{}"),
    Canary(name="params-header"),
    Canary(name="user-id", own=_own("record"), why="a logging record has it as `user_id`, for the user's own handler"),
    # what is the user's own
    Canary(name="prompt-that-quotes-a-key", look="sk-{}", own=_own("log"), why=QUOTED),
    Canary(name="answer-of-a-function", look="sk-{}", own=_own("log"), why=QUOTED),
    Canary(name="params-user", own=_own("log"), why="a parameter of a request is stored, so that it can be repeated"),
    Canary(
        name="notebook-cell",
        look="sk-{}",
        own=_own("source", "logging", "record"),
        why="it stands in a cell of the user's notebook, and Jupyter's own loggers show cells at DEBUG",
    ),
)
