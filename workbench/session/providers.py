"""The providers: four built in, and those of the configuration file.

An address is checked by its form alone, no name is looked up: http or https, a host, no user or password in it,
and neither the link-local addresses at which clouds hand out credentials nor numbers dressed up as names.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import SplitResult, urlsplit

from workbench.act.provider import AUTH_OF_WIRE, AUTHS, WIRES, Provider
from workbench.canonical import redacted
from workbench.errors import LLMValidationError
from workbench.session.rules import Rule, check_keys, check_table, refusal

BUILT_IN: Mapping[str, Provider] = MappingProxyType({
    provider.name: provider
    for provider in (
        Provider(
            name="openai", wire="openai", base_url="https://api.openai.com/v1", key_env="OPENAI_API_KEY",
            auth="bearer",
        ),
        Provider(
            name="anthropic", wire="anthropic", base_url="https://api.anthropic.com", key_env="ANTHROPIC_API_KEY",
            auth="x-api-key",
        ),
        Provider(
            name="gemini", wire="gemini", base_url="https://generativelanguage.googleapis.com/v1beta",
            key_env="GEMINI_API_KEY", auth="x-goog-api-key",
        ),
        Provider(name="ollama", wire="openai", base_url="http://127.0.0.1:11434/v1", auth="none", local=True),
    )
})  # fmt: skip
# Prefixes of model names that never leave this machine.
OFFLINE = ("recorded", "simulated")

_PLACE, _COUNT = Rule(kind="text", hidden=True), Rule(kind="integer", low=1)
FIELDS: Mapping[str, Rule] = MappingProxyType({
    "wire": Rule(kind="choice", choices=WIRES),
    "base_url": _PLACE,
    "key_env": _PLACE,
    "key_file": _PLACE,
    "auth": Rule(kind="choice", choices=AUTHS),
    "requests_per_minute": Rule(kind="number", low=0, above=True),
    "tokens_per_minute": _COUNT,
    "concurrency": _COUNT,
    "local": Rule(kind="flag"),
})  # fmt: skip
_PAIRS = ("headers", "query")
_MOVE_KEY = "put the key into an environment variable, and its name into key_env; revoke a key that was in the file"
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_A_KEY = re.compile(r"(?i)(api[_-]?)?(key|token|secret|password)")
_CARRIES_KEY = re.compile(r"(?i)authorization|cookie|secret|password|(^|[-_])(key|token|sig|signature)$|apikey")


def providers_of(table: Mapping[str, Any], *, file: Path | None) -> dict[str, Provider]:
    """The built-in providers, as [providers.NAME] of the file changes them, and the file's own.

    table: of [providers]. Raises LLMValidationError validation.config, or security.url for an address.
    """
    found = dict(BUILT_IN)
    label = file.name if file else "argument"
    for name, entry in check_table(table, f"{label} [providers]").items():
        where = f"{label} [providers.{name}]"
        if not _NAME.fullmatch(name) or name in OFFLINE:
            raise refusal(
                f"{where} cannot be a provider's name",
                f"use lower-case letters, digits, - and _, but neither {' nor '.join(OFFLINE)}",
            )
        found[name] = _provider(name, check_table(entry, where), where, file)
    return found


def _provider(name: str, table: Mapping[str, Any], where: str, file: Path | None) -> Provider:
    for key in table:
        if _A_KEY.fullmatch(key):
            raise refusal(f"{where} has a {key}, and files are shared", _MOVE_KEY)
    check_keys(table, [*FIELDS, *_PAIRS], where)
    given = {key: rule.check(table[key], f"{where} {key}") for key, rule in FIELDS.items() if key in table}
    given |= {key: _pairs(table[key], f"{where} {key}") for key in _PAIRS if key in table}
    base = BUILT_IN.get(name)
    if base is None:
        for key in ("wire", "base_url"):
            if key not in given:
                raise refusal(f"{where} has no {key}", f"add {key}: {FIELDS[key].allowed}")
        base = Provider(name=name, wire=given["wire"], base_url=given["base_url"])
    if "base_url" in given:
        host = check_url(given["base_url"], f"{where} base_url").hostname or ""
        given["base_url"] = given["base_url"].rstrip("/")
        # Another machine may well ask for money: that it does not has to be said.
        given.setdefault("local", base.local and is_loopback(host))
    _check_key_places(given, where)
    if "key_file" in given:
        path = Path(given["key_file"]).expanduser()
        given["key_file"] = str((file.parent if file else Path.cwd()) / path)
    made = replace(base, **given)
    if "auth" not in given:
        keyed = made.key_env is not None or made.key_file is not None
        return replace(made, auth=AUTH_OF_WIRE[made.wire] if keyed else "none")
    if made.auth != "none" and made.key_env is None and made.key_file is None:
        raise refusal(f"{where} auth is {made.auth!r} and no key is named", "name a variable in key_env, or set auth")
    return made


def _check_key_places(given: Mapping[str, Any], where: str) -> None:
    # Neither message shows the value: it may be the key itself.
    env = given.get("key_env")
    if env is not None and (not _VARIABLE.fullmatch(env) or redacted(env) != env):
        raise refusal(f"{where} key_env is not the name of an environment variable", _MOVE_KEY)
    if "key_file" in given and redacted(given["key_file"]) != given["key_file"]:
        raise refusal(
            f"{where} key_file is not the path of a file",
            "put the key into a file, and its path into key_file; revoke a key that was in the file",
        )


def _pairs(value: Any, where: str) -> dict[str, str]:
    """A table of names and texts that HTTP can carry and that are no keys."""
    pairs = check_table(value, where)
    for name, text in pairs.items():
        if not _TOKEN.fullmatch(name):
            raise refusal(f"{where} has a name that HTTP cannot carry", "use letters, digits and - in names")
        if not isinstance(text, str) or not text.isascii() or not text.isprintable():
            raise refusal(f"{where} {name} is not a text of printable ASCII characters", "write a quoted text")
        if _CARRIES_KEY.search(name) or redacted(f"{name}: {text}") != f"{name}: {text}":
            raise refusal(
                f"{where} {name} would carry a key, and files are shared",
                "put the key into an environment variable, name it in key_env, and choose auth",
            )
    return dict(pairs)


def check_url(url: str, where: str) -> SplitResult:
    """The parts of a provider's address; LLMValidationError security.url for one that must not be asked."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise _bad_url(where, "cannot be read as an address") from None
    problem = None
    if parts.scheme not in ("http", "https"):
        problem = "is neither http nor https"
    elif parts.username is not None or parts.password is not None:
        problem = "has a user or a password in it"
    elif not host or not url.isascii() or not url.isprintable() or any(ch in url for ch in " \\<>\"'"):
        problem = "has no host, or a character that no address has"
    elif "?" in url or "#" in url:
        problem = "has a query or a fragment in it"
    elif _is_guarded(host):
        problem = "names a host at which clouds keep credentials, or a number in place of one"
    if problem:
        raise _bad_url(where, problem)
    return parts


def _bad_url(where: str, problem: str) -> LLMValidationError:
    # The address is not shown: it may have a password in it.
    step = "write it as https://host/path; keys go to key_env, parameters to query"
    return refusal(f"{where} {problem}", step, code="security.url")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    return mapped if mapped is not None else found


def _is_guarded(host: str) -> bool:
    address = _address(host.rstrip("."))
    if address is not None:
        return address.is_link_local or address.is_unspecified or address.is_multicast or host == "fd00:ec2::254"
    last = host.rstrip(".").rpartition(".")[2]
    # 0x7f000001, 2130706433 and 0177.1 are addresses to a resolver, and names to everybody else.
    return bool(re.fullmatch(r"0x[0-9a-f]*|\d+", last)) or host.rstrip(".") == "metadata.google.internal"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, told by its form alone."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def as_dict(provider: Provider) -> dict[str, Any]:
    """The provider as plain JSON values."""
    values = {field.name: getattr(provider, field.name) for field in fields(provider)}
    return {**values, "headers": dict(provider.headers), "query": dict(provider.query)}
