"""The chaos matrix: every wire fault x five strategies, over real sockets, through the objects that users hold."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from faults.test_every_fault_has_a_test import IDS
from tests.chaos.arena import CHAINS, STRATEGIES, Outcome, arena, configured, rounds
from tests.chaos.expected import EVERY, HEAVY
from tests.chaos.verdict import judged, settled
from workbench import FaultLab, LLMFailoverHandler, Workbench

LAYERS = ("http", "transport", "body", "reply", "stream")
LIGHT = [fault for fault in EVERY if fault not in HEAVY]


def survived(folder: Path, **wanted: Any) -> list[Outcome]:
    """The outcomes of these cells, of which every promise holds, and so does the log."""
    cells = rounds(**wanted)
    with arena(folder, cells) as place:
        found = asyncio.run(place.run(cells))
        wrong = [problem for outcome in found for problem in judged(outcome)]
        in_log, sums = settled(place, found)
    assert len(found) == sum(map(len, cells))
    assert [*wrong, *in_log] == []
    assert sums["sent"] == sums["accepted"] > len(found)
    return found


def test_the_matrix_has_every_fault_that_a_server_can_have():
    """All ids of the catalogue's wire layers but two, which lie in the client and have tests of their own."""
    ids = [fault for layer in LAYERS for fault in IDS[layer].split()]
    assert sorted({*EVERY} - {"net-tls-plain"}) == sorted({*ids} - {"net-fd-limit", "sse-cancel"})


@pytest.mark.slow
@pytest.mark.long
def test_every_fault_meets_every_strategy(tmp_path):
    """OpenAI's format, whole, streamed and read piece by piece: nothing hangs, is untyped, wrong, or missing."""
    found = survived(tmp_path, wires=["openai"], faults=LIGHT)
    assert {o.cell.fault for o in found} == {*LIGHT, ""}
    assert {o.cell.strategy for o in found} == {*STRATEGIES}


@pytest.mark.slow
@pytest.mark.long
def test_every_fault_meets_the_other_formats(tmp_path):
    """Anthropic's and Gemini's formats, single and in a chain: the same classes and codes, the same counts."""
    found = survived(tmp_path, wires=["anthropic", "gemini"], others=CHAINS, forms=["whole", "stream"], faults=LIGHT)
    assert {o.cell.wire for o in found} == {"anthropic", "gemini"}


@pytest.mark.slow
@pytest.mark.long
def test_huge_answers_and_endless_ones_meet_every_way_of_asking(tmp_path):
    """Ten million characters, a bomb of 64 MB and a stream without an end: a model alone, in a chain, in a vote."""
    strategies = ["single", "failover", "majority_voting"]
    survived(tmp_path, wires=["openai"], strategies=strategies, faults=[f for f in EVERY if f in HEAVY])


def small(lab: FaultLab, folder: Path, *models: str) -> LLMFailoverHandler:
    """A chain of a lab's models."""
    with configured(lab, folder):
        return LLMFailoverHandler(models, log=folder / "log", timeout_s=3, max_retries=0)


def test_a_prompt_too_long_goes_to_a_larger_window_only(tmp_path):
    """http-400-context with a fallback: the smaller one is not asked, the larger one answers."""

    async def main(*models):
        chain = small(lab, tmp_path, *models)
        try:
            return await chain.execute("How much is 2 and 2?")
        except Exception as error:
            return error
        finally:
            await chain.aclose()

    with FaultLab(["strong"], faults="strong=http-400-context", latency=0) as lab:
        alone = asyncio.run(main("lab:strong"))
        assert alone.code == "provider.context_length"
    with arena(tmp_path, rounds(faults=[], wires=["openai"])) as place:
        lab = place.lab
        lab.set_faults({"ill-0": "http-400-context"})  # a window of 8000; well-a has 4000, well-b 32,000
        smaller, larger = asyncio.run(main("lab:ill-0", "lab:well-a")), asyncio.run(main("lab:ill-0", "lab:well-b"))
        assert smaller.code == "provider.context_length"
        assert larger.model == "lab:well-b"
        assert lab.accepted.by_model == {"ill-0": 2, "well-b": 1}


def test_the_pieces_of_a_stream_are_the_text_that_is_logged(tmp_path):
    """Half a character at the end of a stream is U+FFFD in the log, and so it is in the pieces."""

    async def main():
        chain = small(lab, tmp_path, "lab:strong")
        async with aclosing(chain.stream("How much is 2 and 2?")) as pieces:
            said = [piece async for piece in pieces]
        await chain.aclose()
        return "".join(said)

    with FaultLab(["strong"], faults="strong=reply-surrogate", latency=0) as lab:
        said = asyncio.run(main())
    with Workbench.open(tmp_path / "log") as wb:
        assert wb.log.rows("select response from answers") == [(said,)]
    assert said.endswith(" \ufffd")
