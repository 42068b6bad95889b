"""The exam on real sockets: the same verdicts, attempts, rows and accounts as in virtual time with the same timings."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import httpx
import pytest

from tests.exam.candidate import COMPARABLE_FAST, DEFAULTS_FAST, SEED, Candidate, Sat, Sitting, on_sockets
from tests.exam.scenarios import PROMPT, SCENARIOS, WHOLE, A, Scenario
from tests.exam.sockets import OnSocket
from tests.exam.wall import FAST, REFUSED, TEXT, Asked, Seen, Wall, closing

HAIR_S = 0.5
BROKEN = ("reset", "silence", "cut", "stall")  # after these a connection cannot be used again

IN_ORDER = [Sitting(seed=SEED, discipline=COMPARABLE_FAST), Sitting(seed=SEED, discipline=DEFAULTS_FAST)]
SHORT = tuple(scenario for scenario in SCENARIOS if not scenario.series)
STREAMED = [Sitting(seed=SEED, discipline=DEFAULTS_FAST, scenarios=SHORT[lane::4]) for lane in range(4)]
NOT_STREAMED = [
    Sitting(seed=SEED, discipline=replace(DEFAULTS_FAST, stream=False), scenarios=two, fallbacks=fallbacks)
    for two in (WHOLE[:2], WHOLE[2:])
    for fallbacks in (True, False)
]
PATIENT = Sitting(seed=SEED, discipline=replace(COMPARABLE_FAST, stream=False), scenarios=WHOLE)
SILENT = Scenario(name="whole silence", model="silent", limit_s=30)
ALONE = replace(PATIENT, scenarios=(SILENT,), fallbacks=False)  # it waits until the provider closes without a word


def words(sats: list[Sat]) -> dict[str, str]:
    return {sat.scenario.name: sat.verdict.word for sat in sats}


def stories(sats: list[Sat]) -> list[tuple[object, ...]]:
    return [sat.story for sat in sats]


# -- both layers


@pytest.mark.slow
@pytest.mark.long
def test_one_client_passes_all_sixteen_in_order_and_both_layers_tell_the_same_story():
    """With the comparable budget and with our defaults, scaled; and the faults of whole answers, unscaled."""
    *streamed, whole, silent = on_sockets([*IN_ORDER, PATIENT, ALONE])
    for sitting, sats in zip(IN_ORDER, streamed, strict=True):
        assert words(sats) == dict.fromkeys((s.name for s in SCENARIOS), "pass")
        assert stories(sats) == stories(sitting.virtual())
        assert {sat.scenario.name for sat in sats if sat.resets} == {"S05"}
        # One after the other, the calls share one connection for as long as nothing breaks it; a busy machine may
        # lose one more now and then.
        lost = sum(seen.did in BROKEN or seen.left_s is not None for sat in sats for seen in sat.ran.seen)
        assert 1 + lost <= sum(sat.connections for sat in sats) <= 2 * (1 + lost)
    assert words(whole) == dict.fromkeys((s.name for s in WHOLE), "pass")
    assert stories(whole) == stories(PATIENT.virtual())
    assert words(silent) == {SILENT.name: "safe"}
    assert stories(silent) == stories(ALONE.virtual())


def test_both_layers_tell_the_same_story_of_all_that_takes_seconds():
    """Eight clients side by side: fifteen scenarios, and four faults of whole answers with and without a fallback."""
    sittings = [*STREAMED, *NOT_STREAMED]
    found = on_sockets(sittings)
    for sitting, sats in zip(sittings, found, strict=True):
        assert stories(sats) == stories(sitting.virtual())
        saved = {s.scenario.name: "pass" if s.ran.fallback or "slow" in s.scenario.name else "safe" for s in sats}
        assert words(sats) == saved


def test_the_stories_that_are_compared_hang_on_no_hair():
    """Words three times as slow change none, and no circuit half-opens within half a second of a request."""
    for sitting in [*IN_ORDER, *STREAMED, *NOT_STREAMED, PATIENT, ALONE]:
        sats = sitting.virtual()
        assert stories(sats) == stories(sitting.virtual(replace(FAST, word_s=3 * FAST.word_s)))
        for sat in (sat for sat in sats if sat.scenario.series):
            failed = [seen.at_s for seen in sat.ran.on_primary if seen.did == "503"]
            opens = [at_s + sitting.discipline.breaker.cooldown_s for at_s in failed[2:]]
            assert len(opens) == 2
            assert min(abs(at_s - one.sent_s) for at_s in opens for one in sat.ran.requests) >= HAIR_S


def test_stories_differ_where_anything_but_the_time_does():
    """One attempt less, another end of a connection, a client that left: each makes another story."""
    (sat,) = Sitting(seed=SEED, discipline=COMPARABLE_FAST, scenarios=(SCENARIOS[4],)).virtual()
    first, *more = sat.ran.seen
    assert first.did == "reset"
    changed = [
        replace(sat, ran=replace(sat.ran, seen=tuple(more))),
        replace(sat, ran=replace(sat.ran, seen=(replace(first, left_s=1.0), *more))),
        replace(sat, ran=replace(sat.ran, alive=False)),
        replace(sat, rows=sat.rows[1:]),
        replace(sat, rows=(replace(sat.rows[0], failure=replace(sat.rows[0].failure, code="provider.protocol")),)),
        replace(sat, uncertain_micro=sat.uncertain_micro + 1),
    ]
    assert all(other.story != sat.story for other in changed)
    later = replace(sat.rows[0], duration_ms=1e6)
    assert replace(sat, rows=(later, *sat.rows[1:])).story == sat.story


# -- the stage


@pytest.fixture
def wall() -> Wall:
    return Wall(time.perf_counter, replace(FAST, word_s=0.0, silence_s=0.0, stall_s=60.0))


@pytest.fixture
def server(wall: Wall) -> Iterator[OnSocket]:
    with OnSocket(wall.answer, wall.since_s) as server:
        yield server


@pytest.fixture
def client(server: OnSocket) -> Iterator[socket.socket]:
    with dialled(server) as client:
        yield client


def dialled(server: OnSocket) -> socket.socket:
    """A plain socket, which shows what the kernel has heard."""
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=10.0)


def say(client: socket.socket, model: str, *, stream: bool = True) -> None:
    """Write one request."""
    document = {"model": model, "stream": stream, "messages": [{"role": "user", "content": PROMPT}]}
    request = httpx.Request("POST", "http://exam/v1/chat/completions", json=document)
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    client.sendall("\r\n".join([f"POST {request.url.path} HTTP/1.1", *lines, "", ""]).encode() + request.content)


def heard(client: socket.socket, end: bytes | None = None) -> bytes:
    """All bytes until `end`, or until the server closes."""
    found = b""
    while (piece := client.recv(65_536)) and not (end and (found + piece).endswith(end)):
        found += piece
    return found + piece


def test_a_reset_is_a_reset(server, client):
    """The kernel tells it as one, and not as an end."""
    say(client, "reset-once")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    asyncio.run(server.settled())
    assert server.resets == 1


def test_silence_ends_with_a_close_and_no_byte(client):
    """A plain end of the connection instead of a status line."""
    say(client, "silent")
    assert client.recv(1) == b""


def test_a_cut_stream_is_closed_after_forty_words_without_the_last_chunk(client):
    """The head says chunked; 40 words come, no finish, no [DONE], no chunk of length 0, and then the end."""
    say(client, "cut")
    head, _, body = heard(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked")
    assert len(re.findall(rb'"content": " ?[a-t]word\d+"', body)) == 40
    assert b'"stop"' not in body
    assert b"[DONE]" not in body
    assert not body.endswith(b"0\r\n\r\n")


def test_a_cut_answer_ends_before_the_length_that_it_has_announced(client):
    """Six tenths of the bytes, rounded down."""
    say(client, "cut", stream=False)
    head, _, body = heard(client).partition(b"\r\n\r\n")
    length = int(re.findall(rb"content-length: (\d+)", head)[0])
    assert len(body) == length * 6 // 10


def test_a_whole_stream_is_what_the_script_says_and_the_connection_is_kept(wall, server, client):
    """One chunk for each event, then the last one; a second request is answered on the same connection."""
    for number in (1, 2):
        say(client, A)
        body = heard(client, b"\r\n0\r\n\r\n").partition(b"\r\n\r\n")[2]
        parts = re.findall(rb"([0-9a-f]+)\r\n(.*?\n\n|)\r\n", body, re.DOTALL)
        assert [int(size, 16) for size, _ in parts] == [len(data) for _, data in parts]
        events = [data for _, data in parts if data]
        assert len(events) == 1 + 60 + 1 + 1
        assert events[-2:] == [closing(asked(number))[0].data, b"data: [DONE]\n\n"]
        assert "".join(re.findall(r'"content": "([^"]*)"', b"".join(events).decode())) == TEXT
    asyncio.run(server.settled())
    assert ([seen.number for seen in wall.log], server.connections) == ([1, 2], 1)
    assert [seen.left_s for seen in wall.log] == [None, None]


def asked(number: int) -> Asked:
    return Asked(A, number, 0.0, True, False, ({"role": "user", "content": PROMPT},))


def test_a_client_that_leaves_is_noticed(wall, server):
    """A minute before the server would have ended the connection."""
    with dialled(server) as client:
        say(client, "stall")
        heard(client, b"\n\n\r\n")
    asyncio.run(server.settled())
    (seen,) = wall.log
    assert seen.left_s is not None
    assert seen.left_s - seen.at_s < 30.0


def test_what_no_socket_can_do_is_told_when_the_server_stops():
    """A connection that was accepted cannot be refused any more, and nobody would see an error in a thread."""
    with ExitStack() as opened:
        server = opened.enter_context(
            OnSocket(lambda _: (Seen(0.0, "", 1, False, "", 0, ""), [REFUSED]), time.perf_counter)
        )
        with dialled(server) as client:
            say(client, A)
            assert client.recv(1) == b""
        with pytest.raises(ExceptionGroup) as caught:
            opened.close()
    assert "'refused'" in str(caught.value.exceptions[0])


def test_a_client_on_sockets_draws_as_its_twin_in_virtual_time():
    """The same seed gives the same pauses, so that only the time can differ."""
    with Candidate(SEED, COMPARABLE_FAST, timings=FAST, sockets=True) as real:
        twin = Candidate(SEED, COMPARABLE_FAST, timings=FAST)
        assert [real.world.draw() for _ in range(5)] == [twin.world.draw() for _ in range(5)]
