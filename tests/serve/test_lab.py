"""The lab as a provider: the same answers as in-process, real latencies, honest counts, and a clean end."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
import tomllib
import urllib.request

import pytest

from serve.calls import WIRES, run
from workbench import FaultLab as PublicLab
from workbench.act.simulated import PROFILES, Profile, SimulatedModel
from workbench.errors import LLMError, LLMRouterError, LLMValidationError
from workbench.facts import Message, Request
from workbench.serve.lab import FaultLab, FaultRule
from workbench.session.places import suites
from workbench.session.settings import load_settings
from workbench.session.workbench import Workbench
from workbench.study.suite import read_suite

SUITES = {name: read_suite(path) for name, path in suites().items()}
MODELS = ("strong", "medium", "weak")


def alone(name, request, items=()):
    """What the model says in-process; a failure as an error."""
    return asyncio.run(SimulatedModel(PROFILES[name], {item.item_id: item for item in items}).complete(request))


def turns(*pairs, **more):
    """A request of several turns."""
    return Request(messages=tuple(Message(role=role, content=content) for role, content in pairs), **more)


UNKNOWN = [
    turns(("user", "How many roads?")),
    turns(("system", "Be brief."), ("user", "How many roads?")),
    turns(("system", "Be brief."), ("system", "Be kind."), ("user", "Naïve 🎈?"), params={"temperature": 0.3}),
    turns(("user", "One?"), ("assistant", "Two."), ("user", "Three?"), params={"max_tokens": 64}, task="reasoning"),
    turns(("user", "a\nb\tc  d")),
]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_says_the_same_in_process_and_through_the_lab(lab, wire, stream):
    """Three models, items of every bundled suite and unknown prompts: equal text, usage, price and finish reason."""
    asked = [(suite.items, suite.request(item)) for suite in SUITES.values() for item in suite.items[::9]]
    asked += [((), request) for request in UNKNOWN]

    async def main(client):
        chains = {name: client.chain(name, wire=wire, stream=stream) for name in MODELS}
        return [[await chains[name].complete(request) for _, request in asked] for name in MODELS]

    assert len(asked) >= 20
    for name, found in zip(MODELS, run(lab, main), strict=True):
        for (items, request), response in zip(asked, found, strict=True):
            expected = alone(name, request, items)
            assert response.text == expected.text
            assert response.usage.prompt_tokens == expected.usage.prompt_tokens
            assert response.usage.completion_tokens == expected.usage.completion_tokens
            assert response.cost_usd == pytest.approx(expected.cost_usd)
            assert response.finish_reason == expected.finish_reason
            assert response.source == "live"
            assert response.served_model == name
            assert response.request_id.startswith("simulated-")
            assert not response.flags
    assert {entry.status for entry in lab.log} == {200}


def test_an_item_is_known_and_another_prompt_is_not(lab):
    """The answer to an item is about it, and any other prompt gets the answer for unknown ones."""
    item = SUITES["question_answering"].items[0]

    async def main(client):
        return [(await client.call("strong", prompt=p)).text for p in (item.prompt, item.prompt + " ")]

    known, unknown = run(lab, main)
    assert "outside the suite" not in known
    assert "outside the suite" in unknown


def test_a_profile_that_fails_fails_through_the_lab_too():
    """The declared probability of failure is a 503 on the same prompts."""
    profile = Profile(name="shaky", skill={"general": 0.5}, fail=0.4)
    requests = [Request.of(f"Question {n}?") for n in range(30)]

    async def main(client):
        chain = client.chain("shaky")
        return [type(await chain.ask(request)).__name__ for request in requests]

    with FaultLab([profile], suites=(), latency=0) as lab:
        found = run(lab, main)

    def fails(request):
        try:
            asyncio.run(SimulatedModel(profile).complete(request))
        except LLMError:
            return "Failure"
        return "Response"

    assert found == [fails(request) for request in requests]
    assert 5 <= found.count("Failure") <= 20


@pytest.mark.parametrize(("stream", "scale"), [(False, 1.0), (True, 1.0), (False, 0.25)])
def test_the_latency_is_waited_for(stream, scale):
    """The answer takes as long as the model says, times the factor; a stream's first text about 30 % of it."""
    expected = alone("weak", Request.of("How much is 2+2?"))

    async def main(client):
        return [await client.call("weak", stream=stream) for _ in range(3)]

    with FaultLab("weak", suites=(), latency=scale) as lab:
        # The least of three: a busy machine delays everybody, and nobody comes too soon.
        found = min(run(lab, main), key=lambda response: response.latency_ms)
    least = expected.latency_ms * scale
    assert least - 1 <= found.latency_ms <= least + 150
    if stream:
        assert 0.3 * least - 1 <= found.ttft_ms <= 0.3 * least + 100


def test_accepted_counts_by_key_model_and_fault(lab):
    """Three calls, one of them retried twice: five requests, three keys, and each has its attempts in order."""
    lab.set_faults({"weak": "http-500"})

    async def main(client):
        await client.call("weak", retries=2)
        await client.call("strong")
        await client.call("strong")
        return [row.idempotency_key for row in client.rows]

    keys = run(lab, main)
    counts = lab.accepted
    assert counts.total == 5
    assert counts.by_model == {"weak": 3, "strong": 2}
    assert counts.by_fault == {"http-500": 2}
    assert counts.by_key == {keys[0]: 3, keys[3]: 1, keys[4]: 1}
    assert counts.as_dict() == {
        "accepted": 5,
        "idempotency_keys": 3,
        "by_model": {"strong": 2, "weak": 3},
        "by_fault": {"http-500": 2},
    }
    assert [(e.model, e.attempt, e.fault, e.status) for e in lab.log] == [
        ("weak", 1, "http-500", 500),
        ("weak", 2, "http-500", 500),
        ("weak", 3, None, 200),
        ("strong", 1, None, 200),
        ("strong", 1, None, 200),
    ]
    assert lab.quiet()  # the last answer's end is noted when it has been sent, which its reader may well precede
    assert all(entry.answered and entry.left_s is None for entry in lab.log)
    times = [entry.at_s for entry in lab.log]
    assert times == sorted(times)
    with urllib.request.urlopen(f"{lab.url}/lab/counts") as page:
        assert json.load(page) == counts.as_dict()
    assert lab.accepted.total == 5


def test_a_request_whose_body_did_not_come_is_not_accepted(lab):
    """Half a body and a close: nothing was accepted."""

    async def main(_):
        _, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(b'POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 100\r\n\r\n{"model": "weak"')
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    run(lab, main)
    assert lab.quiet()
    assert lab.log == ()
    assert lab.accepted.total == 0


def test_faults_change_while_calls_are_made(lab):
    """Set from another thread and healed again, from the next request on."""
    seen = []

    async def main(client):
        for faults in ("*=http-401", (), [FaultRule(model="weak", fault="http-402")]):
            setter = threading.Thread(target=lab.set_faults, args=(faults,))
            setter.start()
            await asyncio.to_thread(setter.join)
            seen.append(getattr(await client.call("weak"), "code", "fine"))
        lab.heal()
        seen.append(getattr(await client.call("weak"), "code", "fine"))

    run(lab, main)
    assert seen == ["provider.auth", "fine", "provider.payment", "fine"]
    assert lab.faults == ()


def test_reset_forgets_counts_and_attempts(lab):
    """After it the log is empty, and a fault of the first attempt happens again."""
    lab.set_faults("weak=http-409")

    async def main(client):
        first = await client.call("weak!http-409")
        await client.call("weak!http-409")
        lab.reset()
        assert lab.log == ()
        return first, await client.call("weak")

    first, again = run(lab, main)
    assert (first.code, again.code) == ("provider.conflict", "provider.conflict")
    assert lab.accepted.total == 1


def test_an_unknown_model_is_a_404_in_each_format_with_the_known_names(lab):
    """The provider's own words name the models there are."""

    async def main(client):
        return [await client.call("stron", wire=wire, stream=s) for wire in WIRES for s in (False, True)]

    for found in run(lab, main):
        assert found.code == "provider.not_found"
        assert "there are strong, medium, weak" in found.message
        assert "did you mean strong?" in found.message


@pytest.mark.parametrize(
    ("path", "headers", "place", "name"),
    [
        ("/v1/models", {}, "data", "id"),
        ("/v1/models", {"anthropic-version": "2023-06-01"}, "data", "display_name"),
        ("/v1beta/models", {}, "models", "displayName"),
    ],
)
def test_the_models_are_listed_in_each_format(lab, path, headers, place, name):
    """GET .../models, marked as simulated."""
    with urllib.request.urlopen(urllib.request.Request(lab.url + path, headers=headers)) as page:
        assert page.headers["x-workbench-simulated"] == "1"
        assert [m[name].removesuffix(" (simulated)") for m in json.load(page)[place]] == list(MODELS)


# -- how it is reached


def test_a_workbench_runs_a_suite_through_the_lab(lab, log_folder):
    """Runs over all three formats beside the model in-process: the same scores, source live, a cost, and the log."""
    names = ["simulated:weak", "lab:weak", "lab-anthropic:weak", "lab-gemini:weak"]
    with lab.open(log_folder) as wb:
        assert wb.models == ["lab:strong", "lab:medium", "lab:weak"]
        wb.run_sync("question_answering", models=names)
        rows = wb.sql("select member, source, count(*) n, sum(cost_usd) usd from calls group by all")
        texts = wb.sql("select item_id, count(distinct response_hash) n from calls group by all")
    by_model = {row["member"]: row for row in rows.to_dict("records")}
    assert {m: r["source"] for m, r in by_model.items()} == dict.fromkeys(names, "live") | {names[0]: "simulated"}
    n = len(SUITES["question_answering"].items)
    assert {row["n"] for row in by_model.values()} == {n}
    usd = by_model["simulated:weak"]["usd"]
    assert all(row["usd"] == pytest.approx(usd) for row in by_model.values())
    assert set(texts["n"]) == {1}
    assert lab.accepted.by_model == {"weak": 3 * n}


def test_a_workbench_is_opened_with_a_whole_configuration_or_with_settings(lab, log_folder):
    """The lab's configuration as it is, a durability of None as configured; both at once are refused by name."""
    with lab.open(log_folder, durability=None, timeout_s=7.0) as wb:
        assert (wb.live.loaded.settings.timeout_s, str(wb.log.folder)) == (7.0, str(log_folder))
    loaded = lab.loaded(timeout_s=8.0)
    with Workbench.open(log_folder, loaded=loaded) as wb:
        assert wb.live.loaded is loaded
    with pytest.raises(LLMValidationError, match="timeout_s") as caught:
        Workbench.open(log_folder, loaded=loaded, timeout_s=9.0)
    assert caught.value.code == "validation.config"


def test_the_lines_for_the_configuration_file_say_what_the_lab_hands_over(lab, tmp_path):
    """Read by the settings they give the same providers without a key, and the same prices."""
    file = tmp_path / "workbench.toml"
    file.write_text(lab.toml("net-refused"))
    assert set(tomllib.loads(file.read_text())) == {"providers", "models"}
    read = load_settings(file=file, env={})
    for name, provider in lab.providers("net-refused").items():
        assert read.providers[name] == provider
        assert provider.auth == "none"
    prices = {(c.name, c.prompt_usd_per_mtok, c.completion_usd_per_mtok) for c in lab.cards("net-refused").values()}
    cards = read.cards
    assert {(n, cards[n].prompt_usd_per_mtok, cards[n].completion_usd_per_mtok) for n, _, _ in prices} == prices
    assert ("lab:strong", 3.0, 12.0) in prices
    loaded = lab.loaded("net-refused", timeout_s=7.0)
    assert loaded.settings.timeout_s == 7.0
    assert loaded.providers["lab-net-refused"].base_url == lab.base_url(fault="net-refused")


def test_base_url_refuses_what_has_no_address(lab):
    """A fault of answers, an unknown one and an unknown format are refused by name."""
    for options, code in (({"fault": "http-500"}, "validation.fault"), ({"fault": "net-rfused"}, "validation.fault")):
        with pytest.raises(LLMValidationError) as caught:
            lab.base_url(**options)
        assert caught.value.code == code
    with pytest.raises(LLMValidationError, match="openai, anthropic, gemini"):
        lab.base_url("opanai")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"models": ["stong"]}, LLMRouterError, "stong"),
        ({"models": ["weak", "simulated:weak"]}, LLMValidationError, "twice"),
        ({"models": []}, LLMValidationError, "without models"),
        ({"suites": ["qestion_answering"]}, LLMRouterError, "question_answering"),
        ({"latency": -1}, LLMValidationError, "latency"),
        ({"latency": float("nan")}, LLMValidationError, "latency"),
        ({"faults": "nobody=http-500"}, LLMValidationError, "nobody"),
    ],
)
def test_a_lab_that_cannot_be_is_refused_when_it_is_made(options, kind, words):
    """Names, factors and rules are checked before a port is opened."""
    with pytest.raises(kind, match=words) as caught:
        FaultLab(**options)
    assert caught.value.next_step


def test_a_port_in_use_is_a_typed_error(lab):
    """The next step names the option."""
    with pytest.raises(LLMValidationError) as caught:
        FaultLab(port=lab.port).start()
    assert caught.value.code == "validation.port"
    assert "--port" in caught.value.next_step


# -- life


def test_a_lab_stops_cleanly_while_it_answers():
    """Stopped in the middle of slow answers: clients see a typed error, and no thread or connection is left."""
    before = threading.active_count()

    async def main(client):
        calls = [asyncio.create_task(client.call("strong", stream=s)) for s in (False, True) * 5]
        while len(client.lab.log) < 10:  # noqa: ASYNC110 - the lab tells nobody
            await asyncio.sleep(0.005)
        await asyncio.to_thread(client.lab.stop)
        return await asyncio.gather(*calls)

    lab = PublicLab(latency=20.0)
    lab.start()
    start_s = time.monotonic()
    found = run(lab, main)
    assert time.monotonic() - start_s < 3
    assert {f.code for f in found} <= {"provider.connection", "provider.protocol"}
    assert threading.active_count() == before
    lab.stop()  # a second time it does nothing
    gc.collect()  # what was not closed warns here


def test_a_lab_comes_back_on_its_port():
    """Stopped and started again it has the same address: an outage of the whole provider."""
    lab = FaultLab(["weak"], suites=(), latency=0)
    codes = []
    with lab:
        url = lab.url
        lab.start()  # a second time it does nothing
        codes.append(run(lab, lambda client: client.call("weak")))
    codes.append(run(lab, lambda client: client.call("weak")))
    with lab:
        assert lab.url == url
        codes.append(run(lab, lambda client: client.call("weak")))
    assert [getattr(found, "code", "fine") for found in codes] == ["fine", "provider.connection", "fine"]


def test_a_lab_is_an_asynchronous_context_manager_too():
    """`async with`, without blocking the loop."""

    async def main():
        async with FaultLab(["weak"], suites=(), latency=0) as lab:
            reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
            writer.write(b"GET /v1/models HTTP/1.0\r\n\r\n")
            found = await reader.read()
            writer.close()
            await writer.wait_closed()
            return found

    assert b'"weak"' in asyncio.run(main())
    assert "source=simulated" in repr(FaultLab(["weak"], suites=()))


def test_a_lab_on_ipv6_is_reached_by_its_address():
    """The host stands in brackets in every address."""
    with FaultLab("weak", suites=(), latency=0, host="::1") as lab:
        assert lab.url == f"http://[::1]:{lab.port}"
        assert lab.base_url(fault="net-refused").startswith("http://[::1]:")
        bases = [lab.base_url(), lab.base_url(fault="net-refused")]
        codes = [run(lab, lambda client, base=base: client.call("weak", base_url=base)) for base in bases]
    assert [getattr(found, "code", "fine") for found in codes] == ["fine", "provider.connection"]


def test_the_log_keeps_no_prompt(lab):
    """A lab may run for days: what was asked is let go when it is answered."""

    async def main(client):
        return await client.call("weak", prompt="a canary in the mine")

    run(lab, main)
    (entry,) = lab._account._entries
    assert (entry.model, entry.asked.raw) == ("weak", b"")
