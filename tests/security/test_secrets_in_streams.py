"""A server that gives the key back in the middle of a streamed answer, cut in two."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from faults.server import FaultServer, streamed
from faults.shapes import delta, event
from workbench import LLMFailoverHandler

KEY = "Kx7abcdefghij0123456789"


@pytest.mark.parametrize("cut", [1, 4, 11, len(KEY) - 1])
def test_sec_secret_log_a_key_in_two_pieces_of_a_stream_is_not_shown(
    cut: int, tmp_path: Path, log_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Neither in the pieces that are handed out, nor in the log; the text around it is whole."""
    done = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    with FaultServer() as server:
        parts = [delta("openai", f"It is {KEY[:cut]}"), delta("openai", f"{KEY[cut:]}, I "), delta("openai", "think.")]
        server.on("m", streamed(parts, done, event("[DONE]")))
        (tmp_path / "workbench.toml").write_text(
            f'[providers.p]\nwire = "openai"\nbase_url = "{server.url()}"\nauth = "bearer"\nkey_env = "P_KEY"\n'
        )
        monkeypatch.setenv("WORKBENCH_CONFIG", str(tmp_path / "workbench.toml"))
        monkeypatch.setenv("P_KEY", KEY)

        async def read() -> str:
            handler = LLMFailoverHandler("p:m", log=log_folder)
            pieces = [piece async for piece in handler.stream("What is the key?")]
            await handler.aclose()
            return "".join(pieces)

        assert asyncio.run(read()) == "It is [redacted], I think."
    assert not [path for path in log_folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
