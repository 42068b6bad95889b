"""What each wire format carries, read by hand and not by the workbench's own readers."""

from __future__ import annotations

import json
import urllib.request

import pytest

from serve.calls import run
from workbench.act.simulated import conversation_key
from workbench.facts import Message
from workbench.serve.lab import FaultLab

TEXT = "This is a simulated answer to a prompt outside the suite. The answer is "


def sent(lab, path, **body):
    """Headers and body of an answer."""
    made = urllib.request.Request(lab.url + path, data=json.dumps(body).encode())
    with urllib.request.urlopen(made, timeout=5) as page:
        return page.headers, page.read().decode()


def events(text):
    """The documents of an event stream."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(one) for one in data if one != "[DONE]"]


USER = [{"role": "user", "content": "How many?"}]
PARTS = [{"role": "user", "parts": [{"text": "How "}, {"text": "many?"}]}]


def test_every_answer_says_that_it_is_simulated(lab):
    """The header, the id, and OpenAI's fingerprint, whole and streamed."""
    for stream in (False, True):
        headers, text = sent(lab, "/v1/chat/completions", model="weak", messages=USER, stream=stream)
        assert headers["x-workbench-simulated"] == "1"
        assert headers["x-request-id"].startswith("simulated-")
        found = events(text) if stream else [json.loads(text)]
        assert {one["system_fingerprint"] for one in found} == {"simulated"}
        assert {one["id"] for one in found} == {headers["x-request-id"]}
    assert json.loads(sent(lab, "/v1/messages", model="weak", messages=USER)[1])["id"].startswith("simulated-")


@pytest.mark.parametrize(("options", "told"), [({}, False), ({"include_usage": True}, True)])
def test_openai_tells_the_usage_of_a_stream_only_when_asked(lab, options, told):
    """In a last chunk without choices, before [DONE]."""
    _, text = sent(lab, "/v1/chat/completions", model="weak", messages=USER, stream=True, stream_options=options)
    found = events(text)
    assert text.endswith("data: [DONE]\n\n")
    assert ["usage" in one for one in found] == [False] * (len(found) - 1) + [told]
    # "How many?" has 9 characters and the answer 74 or 75, four to a token, as the simulation declares it.
    assert not told or found[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 18, "total_tokens": 20}
    said = "".join(c["delta"].get("content", "") for one in found for c in one["choices"])
    assert said.startswith(TEXT)


def test_anthropic_takes_its_system_prompt_apart_and_names_its_events(lab):
    """As a text or as blocks; the events come in the documented order."""
    told = [
        sent(lab, "/v1/messages", model="weak", messages=USER, system=system)[1]
        for system in ("Be brief.", [{"type": "text", "text": "Be brief."}])
    ]
    texts = [json.loads(one)["content"][0]["text"] for one in told]
    assert texts[0] == texts[1]
    _, text = sent(lab, "/v1/messages", model="weak", messages=USER, stream=True)
    names = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert names == [one["type"] for one in events(text)]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(names[2:-3]) == {"content_block_delta"}


def test_gemini_streams_events_or_without_alt_sse_one_list(lab):
    """The same text in both, and the parts of a content are one prompt."""
    place = "/v1beta/models/weak:"
    _, listed = sent(lab, f"{place}streamGenerateContent", contents=PARTS)
    _, streamed = sent(lab, f"{place}streamGenerateContent?alt=sse", contents=PARTS)
    _, whole = sent(lab, f"{place}generateContent", contents=PARTS)
    texts = [
        "".join(one["candidates"][0]["content"]["parts"][0]["text"] for one in found)
        for found in (json.loads(listed), events(streamed), [json.loads(whole)])
    ]
    assert texts[0].startswith(TEXT)
    assert len(set(texts)) == 1
    assert events(streamed)[-1]["candidates"][0]["finishReason"] == "STOP"
    openai = sent(lab, "/v1/chat/completions", model="weak", messages=USER)[1]
    assert json.loads(openai)["choices"][0]["message"]["content"] == texts[0]


def test_a_developer_is_the_system_and_a_model_the_assistant(lab):
    """The formats' other names for the same roles give the same answer."""
    turns = [("developer", "Be brief."), ("user", "One?"), ("assistant", "Two."), ("user", "Three?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    openai = sent(lab, "/v1/chat/completions", model="strong", messages=messages)[1]
    contents = [{"role": r.replace("assistant", "model"), "parts": [{"text": c}]} for r, c in turns[1:]]
    system = {"parts": [{"text": "Be brief."}]}
    gemini = sent(lab, "/v1beta/models/strong:generateContent", contents=contents, system_instruction=system)[1]
    text = json.loads(openai)["choices"][0]["message"]["content"]
    assert json.loads(gemini)["candidates"][0]["content"]["parts"][0]["text"] == text
    parts = [Message(role=r, content=c) for r, c in (("system", "Be brief."), *turns[1:])]
    assert conversation_key(parts) != conversation_key(parts[1:])


def test_a_window_begins_again_with_reset(lab):
    """An outage of ten seconds: there, over when they have passed, there again after a reset."""
    lab.set_faults("*=http-401/0-10")
    codes = []

    async def main(client):
        return await client.call("weak")

    for step in ("now", "later", "again"):
        if step == "later":
            lab._account.start_s -= 10
        elif step == "again":
            lab.reset()
        codes.append(getattr(run(lab, main), "code", "fine"))
    assert codes == ["provider.auth", "fine", "provider.auth"]


def test_two_labs_of_one_seed_have_the_same_weather():
    """Request by request, over sockets, whatever the idempotency keys are."""

    async def main(client):
        return [getattr(await client.call("weak"), "code", "fine") for _ in range(40)]

    seen = []
    for seed in (3, 3, 4):
        with FaultLab("weak", suites=(), faults="weak=http-402@0.5", latency=0, seed=seed) as lab:
            seen.append(run(lab, main))
    assert seen[0] == seen[1] != seen[2]
    assert set(seen[0]) == {"fine", "provider.payment"}
