"""The peers, each started once for a run of the tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.programs import AIMOCK, LITELLM, LLMOCK, Peer, free_port, installed, running

HERE = Path(__file__).parent
KEY = "sk-peer-0123456789"
ANSWER = "Four, said the mock."
EMOJI = "Ünïcode 😀 stays whole."


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of this folder; without `-m peers` they install nothing and are skipped."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("peers")
            if "peers" not in config.option.markexpr:
                item.add_marker(pytest.mark.skip(reason="run with `dev.py test --peers`"))


@pytest.fixture(scope="session")
def llmock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """LLMock: OpenAI, Anthropic and Gemini formats, and faults that a test scripts; it takes every key."""
    program, port = installed(LLMOCK), free_port()
    command = [program.script("llmock"), "serve", "--host", "127.0.0.1", "--port", port, "--response-style", "echo"]
    home = tmp_path_factory.mktemp("llmock")
    with running("llmock", command, port=port, health="/health", home=home) as log:
        bases = {"openai": "/v1", "anthropic": "/anthropic", "gemini": "/gemini/v1beta"}
        yield Peer(name="llmock", url=f"http://127.0.0.1:{port}", bases=bases, log=log)


@pytest.fixture
def script(llmock: Peer) -> Iterator[Peer]:
    """LLMock with an empty script, before and after."""
    llmock.post("/_llmock/reset", {})
    yield llmock
    llmock.post("/_llmock/reset", {})


@pytest.fixture(scope="session")
def litellm(llmock: Peer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """LiteLLM's proxy, with mocked models and with two that it relays to LLMock."""
    program, port = installed(LITELLM), free_port()
    home = tmp_path_factory.mktemp("litellm")

    def entry(name: str, model: str = "openai/gpt-4o-mini", **params: object) -> dict[str, object]:
        return {"model_name": name, "litellm_params": {"model": model, "api_key": "none", **params}}

    config = {
        "model_list": [
            entry("plain", mock_response=ANSWER),
            entry("limited", mock_response="litellm.RateLimitError"),
            entry("too-long", mock_response="litellm.ContextWindowExceededError"),
            entry("broken", mock_response="litellm.InternalServerError"),
            entry("overloaded", mock_response="Exception: mock_streaming_error"),
            entry("late", mock_timeout=True, timeout=0.05),
            entry("vectors", "openai/text-embedding-3-small", mock_response=[0.25, 0.5]),
            entry("relayed", "openai/gpt-4o", api_base=llmock.base("openai")),
            entry("relayed-claude", "anthropic/claude-haiku-4-5-20251001", api_base=llmock.base("anthropic")),
        ],
        "litellm_settings": {"telemetry": False, "num_retries": 0},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {"master_key": KEY},
    }
    (home / "config.yaml").write_text(json.dumps(config), "utf-8")  # JSON is YAML
    command = [program.script("litellm"), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    local = dict.fromkeys(("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_LOCAL_BLOG_POSTS"), "True")
    with running("litellm", command, port=port, health="/health/liveliness", home=home, **local) as log:
        bases = {"openai": "/v1", "anthropic": "", "gemini": "/v1beta"}
        yield Peer(name="litellm", url=f"http://127.0.0.1:{port}", bases=bases, key=KEY, log=log)


@pytest.fixture(scope="session")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """Aimock: OpenAI, Anthropic and Gemini formats from a server in JavaScript, which checks the key."""
    program, port = installed(AIMOCK), free_port()
    home = tmp_path_factory.mktemp("aimock")
    thinker = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    refused = {"error": {"message": "Slow down.", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}
    fixtures = [
        {"match": {"model": "limited"}, "response": {**refused, "status": 429, "retryAfter": 1}},
        {
            "match": {"model": "cut"},
            "response": {"content": "a b c d e f g h"},
            "chunkSize": 4,
            "truncateAfterChunks": 3,
        },
        {"match": {"model": "short"}, "response": {"content": "one two", "finishReason": "length"}},
        {"match": {"model": "filtered"}, "response": {"content": "one two", "finishReason": "content_filter"}},
        {"match": {"model": "thinker"}, "response": {"content": "4.", "reasoning": "2 and 2.", "usage": thinker}},
        {"match": {"model": "tools"}, "response": {"toolCalls": [{"name": "add", "arguments": "{}"}]}},
        # Pieces of nine UTF-16 units: the first one ends in the middle of the emoji.
        {"match": {"model": "emoji"}, "response": {"content": EMOJI, "usage": thinker}, "chunkSize": 9},
        {"match": {"inputText": "one"}, "response": {"embedding": [0.25, 0.5]}},
        {"match": {"userMessage": "2+2?"}, "response": {"content": ANSWER}},
    ]
    (home / "fixtures.json").write_text(json.dumps({"fixtures": fixtures}), "utf-8")
    command = [program.script("llmock"), "-p", str(port), "-h", "127.0.0.1", "-f", "fixtures.json", "--strict"]
    with running("aimock", command, port=port, health="/health", home=home, AIMOCK_API_KEYS=KEY) as log:
        bases = {"openai": "/v1", "anthropic": "", "gemini": "/v1beta"}
        yield Peer(name="aimock", url=f"http://127.0.0.1:{port}", bases=bases, key=KEY, log=log)
