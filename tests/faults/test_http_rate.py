"""Refusals for a time: hints are obeyed where they can be, quotas are not waited for, and storms stay small."""

from __future__ import annotations

import asyncio
import math
import time
from email.utils import formatdate
from itertools import pairwise

import pytest

from faults.bench import Bench, fast
from faults.server import reply, streamed
from faults.shapes import WIRES, document, events, problem
from workbench.act.http import Http
from workbench.act.trace import span
from workbench.decide.retry import Bucket
from workbench.errors import LLMRateLimitError

FORMS = [(wire, stream) for wire in WIRES for stream in (False, True)]


def good(wire: str = "openai", text: str = "four", *, stream: bool = False):
    """An answer of the format."""
    return streamed(events(wire, text)) if stream else reply(document(wire, text))


def bad(status: int, wire: str = "openai", message: str = "no", kind: str = "server_error", **headers):
    """A refusal of the format, with nothing in it but its status and its words."""
    return reply(problem(wire, message, kind), status, **headers)


@pytest.mark.parametrize(("wire", "stream"), FORMS)
def test_http_429_plain_backs_off_and_then_raises_without_a_hint(server, wire, stream):
    """Full jitter inside the deadline, each retry paid for from the bucket, no invented retry_after."""
    server.on("m", bad(429, wire, kind="rate_limit_error"))
    bench = Bench(server=server, wire=wire, stream=stream, retries=3)
    before = bench.admission.retries
    outcome = bench.call()
    error = outcome.fails(LLMRateLimitError, "rate_limit", attempts=4, caused=False)
    assert error.retry_after is None
    assert error.retry_after_s is None
    assert error.retryable
    assert all(0 <= wait <= ceiling for wait, ceiling in zip(outcome.waits, (0.02, 0.04, 0.08), strict=True))
    assert bench.admission.retries == before - 3  # the credits of the three calls do not fit into a full bucket


@pytest.mark.parametrize(
    ("wire", "stream", "after_s"), [("openai", False, 1), ("anthropic", True, 0.3), ("gemini", False, 0.3)]
)
def test_http_429_seconds_are_waited_for_and_hold_up_nobody_else(server, wire, stream, after_s):
    """The second attempt comes when it was asked to, 0.5 s later at most; the siblings have long answered."""
    server.on("m", bad(429, wire, kind="rate_limit_error", retry_after=after_s), good(wire, stream=stream))
    bench = Bench(server=server, wire=wire, stream=stream, retries=2, timeout_s=3, policy=fast(2, base_delay_s=0.5))
    outcome = bench.call()
    outcome.answers("four", attempts=2)
    first, second = server.asked("m")
    assert after_s <= second.at_s - first.at_s < after_s + 0.5
    assert after_s <= outcome.elapsed_s < after_s + 0.5
    assert all(s.at_s - first.at_s < 0.25 for s in server.seen if s.model.startswith("well"))


def test_http_429_date_is_read_and_waited_for(server):
    """A Retry-After of now + 2 s as an HTTP date: the next attempt comes not before that second."""
    due = int(time.time()) + 2
    server.on("m", bad(429, retry_after=formatdate(due, usegmt=True)), good())
    seen_at = []
    outcome = Bench(server=server, retries=1, timeout_s=4).call()
    seen_at.append(time.time())
    outcome.answers("four", attempts=2)
    assert due <= seen_at[0] < due + 0.6


@pytest.mark.parametrize("value", ["-5", "-0.1", "nan", "inf", "-inf", "1e9", "soon", "\xb2", ""])
def test_http_429_negative_and_unreadable_hints_are_ignored(server, value):
    """Normal jittered backoff, no negative sleep, no busy loop."""
    server.on("m", bad(429, retry_after=value))
    outcome = Bench(server=server, policy=fast(2, base_delay_s=0.1), draw=0.5).call()
    error = outcome.fails(LLMRateLimitError, "rate_limit", attempts=3, caused=False)
    assert error.retry_after is None
    assert outcome.waits == [0.05, 0.05]  # half of 0.1, and half of the largest, which is 0.1 too
    times = [s.at_s for s in server.asked("m")]
    assert all(later - sooner >= 0.049 for sooner, later in pairwise(times))


def test_http_429_huge_hints_are_raised_at_once(server):
    """999,999 s are not slept through: the error comes at once and carries them."""
    server.on("m", bad(429, retry_after=999999))
    outcome = Bench(server=server, retries=3, timeout_s=5).call()
    error = outcome.fails(LLMRateLimitError, "rate_limit", caused=False)
    assert error.retry_after == 999999
    assert outcome.elapsed_s < 1


def test_http_429_huge_hints_fail_over_at_once(server):
    """With a fallback the call is answered, well under the deadline."""
    server.on("m", bad(429, retry_after=999999))
    server.on("other", good(text="other"))
    outcome = Bench(server=server, retries=3, timeout_s=5, models=("m", "other")).call()
    outcome.answers("other", attempts=2)
    assert outcome.elapsed_s < 1


@pytest.mark.parametrize("stream", [False, True])
def test_http_429_quota_is_not_retried_and_fails_over(server, stream):
    """Waiting does not help; a code of its own says so; another model may."""
    server.on("m", reply(problem("openai", "out of credits", "insufficient_quota", "insufficient_quota"), 429))
    server.on("other", good(text="other", stream=stream))
    error = Bench(server=server, retries=3, stream=stream).call().fails(
        LLMRateLimitError, "rate_limit.quota", caused=False
    )  # fmt: skip
    assert not error.retryable
    outcome = Bench(server=server, retries=3, stream=stream, models=("m", "other"), seed=8).call()
    outcome.answers("other", attempts=2)


def test_http_429_storm_is_bounded_and_spread_out(server):
    """64 callers at once against 429 and then recovery: bounded retries, no waves, everybody ends in time."""
    start_s, storm_s = [0.0], 0.8

    def weather(seen):
        start_s[0] = start_s[0] or seen.at_s
        return bad(429, kind="rate_limit_error") if seen.at_s < start_s[0] + storm_s else good()

    server.on("m", weather)
    bucket = Bucket(capacity=100.0, ratio=0.1)
    policy = fast(4, base_delay_s=0.4, max_delay_s=0.8)
    bench = Bench(server=server, policy=policy, timeout_s=30.0, discipline={"retries": bucket})
    outcomes = asyncio.run(storm(bench, 64))
    assert len(outcomes) == 64
    for outcome in outcomes:
        outcome.holds()
        assert outcome.error is None or (type(outcome.error), outcome.error.code) == (LLMRateLimitError, "rate_limit")
    assert any(o.error is None for o in outcomes), "nobody was there when it had passed"
    retries = sum(len(o.waits) for o in outcomes)
    assert retries <= 100 + 0.1 * 64
    assert len(server.asked("m")) == 64 + retries
    # Kolmogorov-Smirnov against the uniform distribution that full jitter means, at the level of 0.1 %.
    firsts = sorted(o.waits[0] for o in outcomes if o.waits)
    distance = max(abs((i + 0.5) / len(firsts) - wait / 0.4) for i, wait in enumerate(firsts))
    assert distance < 1.95 / math.sqrt(len(firsts)), distance
    for outcome in outcomes:  # and nobody comes sooner than it was told to
        for wait, (before, after) in zip(outcome.waits, pairwise(outcome.rows), strict=True):
            assert (after.start_unix_ns - before.start_unix_ns) / 1e9 - before.duration_ms / 1e3 >= wait - 0.002


async def storm(bench, callers):
    """So many calls at the same time, each as an outcome."""
    http = Http()
    chain = bench.chain(http, "m")
    with span(bench.world, "test", "run", run_id=bench.run_id):
        outcomes = await asyncio.gather(*(bench.timed(chain, f"caller-{n}") for n in range(callers)))
    await http.aclose()
    for outcome in outcomes:
        outcome.facts = bench.sink.facts
    return outcomes
