"""The catalogue's layer `tokens`: without a vocabulary and a network, nothing is tried, and nothing is hidden."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from workbench.act import vocab
from workbench.act.vocab import INSTALL, origin_of
from workbench.errors import LLMValidationError
from workbench.facts import Message
from workbench.session.tokens import TokenCounter

GPT = "openai:gpt-4o"


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A machine without vocabulary, extra and network, on which every attempt to reach out is noted and fails."""
    tried: list[Any] = []

    def refuse(*args: Any, **_: Any) -> Any:
        tried.append(args)
        raise OSError("the network is unreachable")

    monkeypatch.setattr(vocab, "_loaded", {})
    monkeypatch.setattr(vocab, "find_spec", lambda name: None)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "named"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    return tried


def test_tok_offline_names_the_extra_and_the_file_when_exact_is_demanded(offline: list[Any], tmp_path: Path):
    """Typed, with every place that was looked at; the network is not tried."""
    counter = TokenCounter(exact=True)
    for ask in (lambda: counter.count("Hello", GPT), lambda: counter.count_messages("Hello", GPT)):
        with pytest.raises(LLMValidationError) as caught:
            ask()
        assert caught.value.code == "tokens.unavailable"
        assert INSTALL in caught.value.next_step
        for told in (*origin_of("o200k_base").files, str(tmp_path / "named"), str(tmp_path / "cache")):
            assert told in caught.value.message
    assert offline == []


def test_tok_offline_is_a_labelled_estimate_otherwise(offline: list[Any]):
    """With a band around it, for a text, a conversation and a cost; the network is not tried."""
    counter, text = TokenCounter(), "How many tokens has this text, which nobody can count here? " * 5
    found = [
        counter.count(text, GPT),
        counter.count(text),
        counter.count_messages([Message(role="user", content=text)], GPT),
        counter.estimate_cost(text, GPT).prompt,
    ]
    for count in found:
        assert count.method == "estimate:o200k_base"
        assert count.low < count.count < count.high
    assert offline == []


def test_tok_offline_finds_a_file_that_was_put_there_damaged(offline: list[Any], tmp_path: Path):
    """It is named, is no reason to ask the network for another one, and stays where it is."""
    path = tmp_path / "named" / origin_of("o200k_base").files[0]
    path.parent.mkdir()
    path.write_bytes(b"SGVsbG8= 0\n")
    with pytest.raises(LLMValidationError, match="is damaged") as caught:
        TokenCounter(exact=True).count("Hello", GPT)
    assert str(path) in caught.value.message
    assert TokenCounter().count("Hello", GPT).method == "estimate:o200k_base"
    assert path.read_bytes() == b"SGVsbG8= 0\n"
    assert offline == []
