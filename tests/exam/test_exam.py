"""All sixteen situations are passed, with every seed, and beyond what the exam asks; the judge itself is tested too.

The exam is that of the public bench for failover, made again here from its published numbers, in virtual time; on real
sockets it is taken in test_sockets.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import httpx
import pytest

from tests.exam.candidate import COMPARABLE, COMPARABLE_FAST, DEFAULTS, DEFAULTS_FAST, Candidate, Sat, exam
from tests.exam.scenarios import PROMPT, SCENARIOS, A, One, Ran, Scenario, back_after_s, judged, shrinks, useless
from tests.exam.wall import FAST, TEXT, Seen, Wall
from workbench.act.admission import Discipline
from workbench.decide.breaker import Breaker
from workbench.decide.retry import RetryPolicy
from workbench.errors import LLMProviderError
from workbench.facts import Request, Response

SEEDS = range(20)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
NO_BREAKER = Breaker(minimum_calls=10_000, window_calls=10_000)
PATIENT = {"timeout_s": 30.0, "first_token_s": None, "idle_s": None, "stream": True, "breaker": NO_BREAKER}


@lru_cache(maxsize=64)
def sitting(seed: int, discipline: Discipline) -> dict[str, Sat]:
    return {sat.scenario.name: sat for sat in exam(seed, discipline)}


def words(sats: dict[str, Sat]) -> dict[str, str]:
    return {name: sat.verdict.word for name, sat in sats.items()}


def every(name: str) -> list[Sat]:
    """One scenario of every sitting."""
    return [sitting(seed, discipline)[name] for discipline in (COMPARABLE, DEFAULTS) for seed in SEEDS]


# -- the verdicts


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("discipline", [COMPARABLE, DEFAULTS], ids=["comparable", "defaults"])
def test_one_client_passes_all_sixteen_scenarios(discipline, seed):
    """The word is `pass` for each, whatever the jitter."""
    assert words(sitting(seed, discipline)) == dict.fromkeys(BY_NAME, "pass")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("discipline", [COMPARABLE_FAST, DEFAULTS_FAST], ids=["comparable", "defaults"])
def test_the_fast_timings_give_the_same_verdicts(discipline, seed):
    """With a tenth of the outage and of the cooldown, and with shorter limits of silence, the words are the same."""
    sats = {sat.scenario.name: sat for sat in exam(seed, discipline, timings=FAST)}
    assert words(sats) == dict.fromkeys(BY_NAME, "pass")


@pytest.mark.parametrize("model", ["flap", "flap-overloaded"])
def test_an_outage_is_passed_whatever_its_503_says(model):
    """Overloaded or merely unavailable: few calls are wasted, and the primary is used again soon."""
    for seed in SEEDS[:5]:
        (sat,) = exam(seed, COMPARABLE, scenarios=[replace(BY_NAME["S15"], model=model)])
        assert (sat.verdict.word, useless(sat.ran) <= 4) == ("pass", True), (seed, sat.ran.on_primary)


@pytest.mark.parametrize("name", list(BY_NAME))
def test_every_attempt_is_one_row_and_every_call_has_one_final_row(name):
    """The log has as many attempts as the provider saw, per call one key, one end."""
    for sat in every(name):
        assert [row.model for row in sat.attempts] == [seen.model for seen in sat.ran.seen]
        assert [row.idempotency_key for row in sat.attempts] == [seen.key for seen in sat.ran.seen]
        assert all(seen.key for seen in sat.ran.seen)
        assert len({row.call_id for row in sat.rows}) == len(sat.ran.requests) == sum(row.final for row in sat.rows)
        assert len({(row.call_id, row.idempotency_key) for row in sat.rows}) == len(sat.ran.requests)


# -- above the bar


def test_an_outage_costs_four_useless_calls_and_the_primary_is_back_within_a_cooldown():
    """S15: three failures open the circuit, and one probe per 30 s looks whether it may close."""
    for sat in every("S15"):
        back_s = back_after_s(sat.ran)
        assert useless(sat.ran) <= 4
        assert back_s is not None
        assert back_s <= 30.0


def test_without_a_breaker_the_outage_is_passed_with_45_useless_calls():
    """S15 alone does not show a missing breaker: 15 requests, three attempts each, all in vain."""
    (sat,) = exam(0, replace(COMPARABLE, breaker=NO_BREAKER), scenarios=[BY_NAME["S15"]])
    assert (sat.verdict.word, useless(sat.ran)) == ("pass", 45)


def test_silence_costs_no_more_than_the_limit_to_the_first_token():
    """S06: the fallback answers within first_token_s + 1.5 s, its own second of talking included."""
    for sat in every("S06"):
        assert COMPARABLE.first_token_s is not None
        assert sat.ran.one.took_s <= COMPARABLE.first_token_s + 1.5
        assert [seen.did for seen in sat.ran.seen] == ["silence", "ok"]
        assert sat.ran.seen[0].left_s is not None


@pytest.mark.parametrize("name", ["S08", "S14"])
def test_a_cut_stream_is_hardly_asked_again_and_its_part_is_booked_as_possibly_billed(name):
    """At most two attempts on the primary; 21 + ceil(bytes / 4) tokens of 40 words may be charged."""
    heard = " ".join(TEXT.split()[:40])
    tokens = math.ceil(len(heard) / 4)
    prompt = math.ceil(len(PROMPT) / 4) + 4
    for sat in every(name):
        assert len(sat.ran.on_primary) <= 2
        for row in sat.attempts[:-1]:
            assert row.failure is not None
            assert (row.failure.possibly_billed, row.failure.partial) == (True, heard)
        assert sat.uncertain_micro == len(sat.ran.on_primary) * (prompt * 1 + tokens * 2)
        assert sat.spent_micro - sat.uncertain_micro == 21 * 1 + 60 * 2


def test_a_stalled_stream_is_left_at_the_limit_of_silence():
    """S09: 10 s without a word are enough; the connection is closed, and the fallback answers."""
    for sat in every("S09"):
        assert COMPARABLE.idle_s is not None
        assert sat.ran.one.took_s <= COMPARABLE.idle_s + 2.5
        assert sat.ran.seen[0].left_s is not None


def test_one_broken_event_loses_no_word():
    """S10: the primary's answer is whole, in one attempt, and flagged."""
    for sat in every("S10"):
        result = sat.ran.one.result
        assert isinstance(result, Response)
        assert (result.text, result.flags, len(sat.ran.seen)) == (TEXT, ("event_skipped",), 1)


def test_a_filtered_prompt_is_not_carried_to_another_model():
    """S13: one attempt, no failover, a clean error that says how to allow it."""
    for sat in every("S13"):
        error = sat.ran.one.result
        assert isinstance(error, LLMProviderError)
        assert (error.code, len(sat.ran.seen)) == ("provider.content_filter", 1)
        assert "failover_on_content_filter" in error.next_step


def test_a_filtered_prompt_goes_to_the_fallback_where_that_is_allowed():
    """S13 with the option on: the exam calls that partial, and so it is an option."""
    (sat,) = exam(0, replace(COMPARABLE, failover_on_content_filter=True), scenarios=[BY_NAME["S13"]])
    assert (sat.verdict.word, len(sat.ran.on_fallback)) == ("partial", 1)


# -- whole answers


@pytest.mark.parametrize("model", ["slow", "cut", "stall", "broken"])
def test_without_streaming_there_is_no_truncated_success_and_the_deadline_holds(model):
    """The same four faults on whole answers: the fallback answers in full, within the 30 s of the call."""
    scenario = Scenario(name="whole", model=model, limit_s=30)
    for seed in SEEDS:
        (sat,) = exam(seed, replace(COMPARABLE, stream=False), scenarios=[scenario])
        assert not any(seen.stream for seen in sat.ran.seen)
        assert (sat.verdict.word, sat.ran.one.complete) == ("pass", True)
        assert sat.ran.one.took_s <= 30.0


@pytest.mark.parametrize("model", ["cut", "stall", "broken"])
def test_without_streaming_and_without_a_fallback_they_are_clean_errors(model):
    """Nothing saves a fault that stays: a typed error within the deadline."""
    (sat,) = exam(
        0, replace(COMPARABLE, stream=False), scenarios=[replace(BY_NAME["S08"], model=model)], fallbacks=False
    )
    assert (sat.verdict.word, sat.ran.alive) == ("safe", True)
    assert sat.ran.one.took_s <= 30.0


# -- the stage and the judge


def test_a_single_call_scores_as_the_published_row_of_a_bare_client():
    """One attempt, 30 s, no fallback, no limits of silence: the published words of the row `dir`, in order."""
    bare = Discipline(**PATIENT, retry=RetryPolicy(max_retries=0))
    found = "".join(sat.verdict.word[0] for sat in exam(0, bare, fallbacks=False))
    assert found == "ssssss" + "p" + "ss" + "pp" + "s" + "p" + "sss"


def test_retries_alone_score_as_the_published_row_of_a_client_with_retries():
    """Two retries, no fallback: as the row `oai`, but that a broken event (S10) is survived here."""
    retrying = Discipline(**PATIENT, retry=RetryPolicy(max_retries=2))
    words = {sat.scenario.name: sat.verdict.word for sat in exam(0, retrying, fallbacks=False)}
    passed = {name for name, word in words.items() if word == "pass"}
    assert passed == {"S01", "S03", "S05", "S07", "S10", "S11", "S13"}
    assert {words[name] for name in BY_NAME if name not in passed} == {"safe"}


def test_patience_with_a_slow_first_token_is_partial():
    """S07 without a limit to the first token: the answer comes after 21 s, which is late where a fallback waits."""
    (sat,) = exam(0, Discipline(**PATIENT), scenarios=[BY_NAME["S07"]])
    assert sat.verdict.word == "partial"


def test_waiting_for_silence_to_end_fails():
    """S06 with neither a deadline nor a limit of silence: 120 s are above the 100 s that are required."""
    bare = Discipline(**{**PATIENT, "timeout_s": None}, retry=RetryPolicy(max_retries=0))
    (sat,) = exam(0, bare, scenarios=[BY_NAME["S06"]])
    assert (sat.verdict.word, sat.verdict.missed) == ("fail", ("total <= 100 s",))


@pytest.mark.parametrize(
    ("sizes", "fine"),
    [
        ([100], True),
        ([100, 60], True),
        ([100, 100], False),
        ([100, 140], False),
        ([100, 60, 60], False),
        ([None, None], False),
        ([100, None], False),
    ],
)
def test_only_a_smaller_prompt_may_follow_one_that_was_too_long(sizes, fine):
    """S12: an unknown size counts as sent again."""
    assert shrinks(sizes) is fine


def answered(text: str, **changes: object) -> One:
    response = Response(request_key="", model="wall:ok", text=text, source="live")
    return One(sent_s=0.0, took_s=1.0, result=replace(response, **changes))


def ran(*requests: One, seen: tuple[Seen, ...] = (), model: str = "cut", **changes: object) -> Ran:
    return replace(Ran(requests=requests, seen=seen, primary=model, fallback=A), **changes)


def attempt(model: str, at_s: float, did: str = "503") -> Seen:
    return Seen(at_s, model, 1, True, "user", 97, did)


ERROR = One(sent_s=0.0, took_s=1.0, result=LLMProviderError("no"))
HANG = One(sent_s=0.0, took_s=41.0, result=None)


@pytest.mark.parametrize(
    ("name", "went", "word"),
    [
        ("S08", ran(HANG), "fail"),
        ("S08", ran(answered(TEXT[:-1])), "fail"),
        ("S08", ran(answered(TEXT)), "pass"),
        ("S08", ran(answered(TEXT.replace(" ", "\n "))), "pass"),
        ("S08", ran(ERROR), "safe"),
        ("S09", ran(answered(TEXT), alive=False), "fail"),
        ("S09", ran(replace(ERROR, took_s=45.1)), "fail"),
        ("S03", ran(answered(TEXT), seen=(attempt("cut", 0.0),)), "partial"),
        ("S03", ran(ERROR, seen=(attempt("cut", 0.0),)), "safe"),
        ("S04", ran(ERROR, seen=(attempt("cut", 0.0),) * 7), "fail"),
        ("S11", ran(answered(TEXT)), "partial"),  # no usage
        ("S13", ran(ERROR, seen=(attempt("cut", 0.0),)), "pass"),
        ("S13", ran(answered(TEXT), seen=(attempt("cut", 0.0),)), "partial"),
        ("S13", ran(ERROR, seen=(attempt("cut", 0.0),) * 2), "fail"),
        ("S14", ran(ERROR, seen=(attempt("cut", 0.0), attempt("ok-noprefill", 1.0, "prefill"))), "fail"),
        ("S15", ran(answered(TEXT), ERROR, seen=(attempt("cut", 61.0, "ok"),)), "fail"),
        ("S15", ran(answered(TEXT), seen=(attempt("cut", 90.1, "ok"),)), "fail"),
        ("S15", ran(answered(TEXT), seen=(attempt("cut", 89.9, "ok"),)), "pass"),
        ("S16", ran(answered(TEXT, model="wall:cut"), seen=(attempt("ok", 0.0, "ok"),)), "fail"),
    ],
)
def test_the_verdict_follows_the_order_of_the_questions(name, went, word):
    """Hang, truncated success, required, error, advisory: hand-made results, one for each way to a word."""
    assert judged(BY_NAME[name], went).word == word


def test_a_healthy_answer_takes_60_events_of_a_word_and_ends_as_the_protocol_says():
    """Role, 60 words, finish, usage, [DONE]; 21 and 60 tokens; about 0.9 s."""
    candidate = Candidate(0, COMPARABLE)
    document = {"model": A, "stream": True, "stream_options": {"include_usage": True}}
    request = httpx.Request("POST", "http://wall.invalid/v1/chat/completions", json={**document, "messages": MESSAGES})

    async def heard() -> list[bytes]:
        response = await candidate.wall.transport.handle_async_request(request)
        return [chunk async for chunk in response.aiter_raw()]

    events = candidate.world.run(heard())
    assert len(events) == 1 + 60 + 1 + 1 + 1
    assert b'"role"' in events[0]
    assert b'"stop"' in events[-3]
    assert b'"prompt_tokens": 21, "completion_tokens": 60, "total_tokens": 81' in events[-2]
    assert events[-1] == b"data: [DONE]\n\n"
    assert 0.7 <= candidate.world.now_s() <= 1.1


MESSAGES = [{"role": "user", "content": PROMPT}]


@pytest.mark.parametrize(("model", "status"), [("ok", 200), ("ok-noprefill", 400), ("nobody", 404)])
def test_only_one_healthy_model_continues_a_prefill(model, status):
    """A says the rest of the text, B refuses, and an unknown model is not found."""
    candidate = Candidate(0, COMPARABLE)
    said = " ".join(TEXT.split()[:58])
    prefill = [*MESSAGES, {"role": "assistant", "content": said}]
    request = httpx.Request(
        "POST", "http://wall.invalid/v1/chat/completions", json={"model": model, "messages": prefill}
    )

    async def heard() -> tuple[int, bytes]:
        response = await candidate.wall.transport.handle_async_request(request)
        return response.status_code, await response.aread()

    found, body = candidate.world.run(heard())
    rest = " ".join(TEXT.split()[58:]).encode()
    assert (found, rest in body and said.encode() not in body) == (status, status == 200)


def test_the_provider_names_its_models():
    """GET /models is answered without counting as an attempt."""
    wall = Wall(lambda: 0.0)
    seen, _ = wall.answer(httpx.Request("GET", "http://wall.invalid/v1/models"))
    assert (seen.did, wall.log) == ("models", [])


def test_the_prompt_of_the_exam_has_seventeen_words():
    """So that its usage is the published 21 tokens."""
    assert len(Request.of(PROMPT).prompt.split()) == 17
