"""Every fault of the catalogue's wire layers, provoked on the lab and met by the workbench's own chain."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import time

import pytest

from faults.test_every_fault_has_a_test import IDS
from faults.test_transport import CHILD, ROOT
from serve.calls import WIRES, run
from workbench import errors
from workbench.act.simulated import Profile, SimulatedModel
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import Request, Response
from workbench.serve.lab import FAULTS, FaultLab

# As the catalogue has it: what a call without retries ends with.
ENDS = {
    "http-400": "LLMProviderError provider.bad_request",
    "http-400-context": "LLMProviderError provider.context_length",
    "http-401": "LLMProviderError provider.auth",
    "http-402": "LLMProviderError provider.payment",
    "http-403": "LLMProviderError provider.auth",
    "http-404": "LLMProviderError provider.not_found",
    "http-413": "LLMProviderError provider.bad_request",
    "http-422": "LLMProviderError provider.bad_request",
    "http-429-plain": "LLMRateLimitError rate_limit",
    "http-429-negative": "LLMRateLimitError rate_limit",
    "http-429-huge": "LLMRateLimitError rate_limit",
    "http-429-quota": "LLMRateLimitError rate_limit.quota",
    "http-429-storm": "LLMRateLimitError rate_limit",
    "http-500-always": "LLMProviderError provider.server",
    "http-502-html": "LLMProviderError provider.server",
    "http-504": "LLMProviderError provider.server",
    "http-529": "LLMProviderError provider.overloaded",
    "http-redirect": "LLMProviderError provider.redirect",
    "http-200-error": "LLMProviderError provider.server",
    "net-refused": "LLMProviderError provider.connection",
    "net-dns": "LLMProviderError provider.dns",
    "net-tls": "LLMProviderError provider.tls",
    "net-reset-head": "LLMProviderError provider.connection",
    "net-reset-body": "LLMProviderError provider.connection",
    "net-fin-body": "LLMProviderError provider.connection",
    "net-stall-head": "LLMTimeoutError timeout.deadline",
    "net-stall-body": "LLMTimeoutError timeout.deadline",
    "net-drip": "LLMTimeoutError timeout.deadline",
    "net-garbage": "LLMProviderError provider.protocol",
    "net-gzip-bomb": "LLMProviderError provider.too_large",
    "body-truncated": "LLMProviderError provider.malformed",
    "body-html": "LLMProviderError provider.malformed",
    "body-empty": "LLMProviderError provider.malformed",
    "body-badutf8": "LLMProviderError provider.malformed",
    "body-array": "LLMProviderError provider.malformed",
    "reply-no-choices": "LLMProviderError provider.empty",
    "reply-empty-choices": "LLMProviderError provider.empty",
    "reply-null-content": "LLMProviderError provider.empty",
    "reply-refusal": "LLMProviderError provider.refusal",
    "reply-tools": "LLMProviderError provider.empty",
    "reply-filter": "LLMProviderError provider.content_filter",
    "reply-no-message": "LLMProviderError provider.empty",
    "sse-no-done": "LLMProviderError provider.truncated",
    "sse-reset": "LLMProviderError provider.connection",
    "sse-stall": "LLMTimeoutError timeout.idle",
    "sse-endless": "LLMTimeoutError timeout.deadline",
    "sse-error-mid": "LLMProviderError provider.overloaded",
    "sse-bad-json": "LLMProviderError provider.malformed",
    "sse-nothing": "LLMProviderError provider.empty",
}
# Attempts that it takes until they succeed, and the seconds that they have to wait at least.
PASS = {
    "http-408": (3, 0.0),
    "http-409": (2, 0.0),
    "http-429-seconds": (2, 1.0),
    "http-429-date": (2, 0.9),
    "http-500": (3, 0.0),
    "http-503-ra": (2, 1.0),
}
FINE = [
    "body-10mb", "reply-length", "reply-no-usage", "reply-usage-negative", "reply-usage-absurd", "reply-wrong-model",
    "reply-dup-id", "reply-surrogate", "reply-nul", "reply-special-token", "sse-split-utf8", "sse-crlf",
    "sse-usage-last",
]  # fmt: skip
OTHERS = ["net-keepalive-lie", "net-fd-limit", "sse-cancel"]
LAYERS = ("http", "transport", "body", "reply", "stream")
# Limits of time for faults that only a limit ends; everything else has to end by itself.
LIMITS = {
    "net-stall-head": {"timeout_s": 0.6},
    "net-stall-body": {"timeout_s": 0.6},
    "net-drip": {"timeout_s": 0.6},
    "sse-stall": {"idle_s": 0.6},
    "sse-endless": {"timeout_s": 0.6},
}
WELL = "This is a simulated answer to a prompt outside the suite. The answer is "
ADDRESSES = ("net-refused", "net-dns", "net-tls")


def forms(fault):
    """The wire formats in which a fault makes sense, whole and streamed."""
    return [(wire, stream) for wire in WIRES for stream in (False, True) if FAULTS[fault].fits(wire, stream=stream)]


def test_the_lab_has_every_fault_of_the_catalogues_wire_layers():
    """The ids, layer by layer, and each of them is met by a test of this module."""
    for layer in LAYERS:
        assert [f.id for f in FAULTS.values() if f.layer == layer] == IDS[layer].split()
    assert sorted([*ENDS, *PASS, *FINE, *OTHERS]) == sorted(FAULTS)


def test_the_table_says_what_the_catalogue_says():
    """Class and code of the table are those of the catalogue, and the rest succeeds."""
    assert {f.id: f"{f.error} {f.code}" for f in FAULTS.values() if f.code} == ENDS
    assert {f.error for f in FAULTS.values() if not f.code} == {None}


@pytest.mark.parametrize("fault", [f for f in ENDS if f not in ADDRESSES])
def test_a_fault_ends_with_the_catalogued_error_in_every_format(lab, fault):
    """Asked as NAME!FAULT, whole and streamed: class and code, one attempt, and the lab has counted it."""

    async def main(client):
        for wire, stream in forms(fault):
            options = {"stream": stream, **LIMITS.get(fault, {})}
            found = await client.call(f"strong!{fault}", wire=wire, **options)
            assert isinstance(found, LLMError), f"{wire}, {stream=}: {found!r}"
            assert f"{type(found).__name__} {found.code}" == ENDS[fault], f"{wire}, {stream=}: {found!r}"
            assert type(found) is getattr(errors, ENDS[fault].split()[0])

    run(lab, main)
    assert lab.quiet()
    assert [found.fault for found in lab.log] == [fault] * len(forms(fault))
    assert {(found.wire, found.stream) for found in lab.log} == set(forms(fault))
    assert lab.accepted.by_fault == {fault: len(forms(fault))}


@pytest.mark.parametrize("fault", PASS)
def test_a_passing_fault_is_over_after_its_attempts(lab, fault):
    """One call, retried under one idempotency key: it succeeds with the attempts that the catalogue names."""
    attempts, least_s = PASS[fault]

    async def main(client):
        start_s = time.monotonic()
        found = await client.call(f"weak!{fault}", retries=3)
        return found, time.monotonic() - start_s

    found, took_s = run(lab, main)
    assert isinstance(found, Response), repr(found)
    assert found.text.startswith(WELL)
    assert took_s >= least_s
    assert [entry.attempt for entry in lab.log] == list(range(1, attempts + 1))
    assert [entry.fault for entry in lab.log] == [fault] * (attempts - 1) + [None]
    assert len(lab.accepted.by_key) == 1
    assert lab.accepted.total == attempts


@pytest.mark.parametrize("fault", FINE)
def test_a_fault_that_is_none_for_a_careful_client_succeeds(lab, fault):
    """The answer is a success in every format, with what the catalogue asks to be noticed."""

    async def main(client):
        made = []
        for wire, stream in forms(fault):
            found = await client.call(f"strong!{fault}", wire=wire, stream=stream, timeout_s=10)
            assert isinstance(found, Response), f"{wire}, {stream=}: {found!r}"
            made.append(found)
        return made

    made = run(lab, main)
    flag = {"reply-no-usage": "usage_estimated", "reply-usage-negative": "usage_estimated",
            "reply-usage-absurd": "usage_capped", "reply-wrong-model": "model_mismatch",
            "reply-surrogate": "text_replaced"}.get(fault)  # fmt: skip
    tail = {"reply-surrogate": " \ufffd", "reply-nul": " a\0b", "reply-special-token": " <|endoftext|>",
            "sse-split-utf8": " café"}.get(fault, "")  # fmt: skip
    for found in made:
        assert flag is None or flag in found.flags
        if fault == "body-10mb":
            assert len(found.text) > 9_999_000
        elif fault == "reply-length":
            assert found.truncated
            assert WELL.startswith(found.text)
        else:
            assert re.fullmatch(re.escape(WELL) + r"\d+\." + re.escape(tail), found.text)
        if fault == "reply-dup-id":
            assert found.request_id == "chatcmpl-DUPLICATE"


@pytest.mark.parametrize("wire", WIRES)
def test_net_refused_has_an_address_of_its_own(lab, wire):
    """Nobody listens there, and nobody else can take the port while the lab runs."""

    async def main(client):
        return await client.call("strong", wire=wire, base_url=lab.base_url(wire, fault="net-refused"))

    found = run(lab, main)
    assert (type(found).__name__, found.code) == ("LLMProviderError", "provider.connection")
    assert not found.possibly_billed
    assert lab.log == ()
    port = int(re.search(r":(\d+)", lab.base_url(fault="net-refused").removeprefix("http:"))[1])
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))


def test_net_dns_has_an_address_that_no_resolver_knows(lab, monkeypatch):
    """The top-level domain `invalid` is reserved for that; RFC 2606."""
    asked = []

    def unknown(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    async def main(client):
        return await client.call("strong", base_url=lab.base_url(fault="net-dns"))

    found = run(lab, main)
    assert found.code == "provider.dns"
    assert {h.decode() if isinstance(h, bytes) else h for h in asked} == {"name.invalid"}


@pytest.mark.parametrize("fault", ["net-tls", "net-tls-plain"])
def test_net_tls_has_two_addresses(lab, fault):
    """A certificate that nobody has signed, and https to the plain port: refused, and nothing was sent."""
    base = lab.base_url(fault=fault)
    assert base.startswith("https://127.0.0.1:")
    assert (base == f"https://127.0.0.1:{lab.port}/v1") == (fault == "net-tls-plain")

    async def main(client):
        return await client.call("strong", base_url=base)

    found = run(lab, main)
    assert found.code == "provider.tls"
    assert lab.log == ()


def test_net_tls_without_openssl_is_a_typed_error(monkeypatch):
    """Without the command that makes certificates the address cannot be had, and another one is named."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with FaultLab(latency=0) as lone, pytest.raises(LLMError) as caught:
        lone.base_url(fault="net-tls")
    assert caught.value.code == "serve.openssl"
    assert "net-tls-plain" in caught.value.next_step


def test_net_keepalive_lie_costs_one_retry_on_a_fresh_connection(lab):
    """The second call on the connection is cut off after it was read, and succeeds when it is made again."""
    lab.set_faults("weak=net-keepalive-lie")

    async def main(client):
        return [await client.call("weak", retries=1) for _ in range(2)], client.rows

    found, rows = run(lab, main)
    assert [f.text for f in found] == [found[0].text] * 2
    assert [row.status for row in rows] == ["ok", "error", "ok"]
    assert [entry.status for entry in lab.log] == [200, None, 200]
    assert [entry.attempt for entry in lab.log] == [1, 1, 2]


def test_sse_cancel_is_seen_by_the_lab():
    """A client that leaves a stream after a piece: the log says when, and the answer as not sent to its end."""
    with FaultLab(latency=6.0) as slow:

        async def main(client):
            return await client.streamed("weak", leave_after=1)

        assert run(slow, main) == ["This"]
        assert slow.quiet()
        (entry,) = slow.log
    assert not entry.answered
    assert 0 < entry.left_s - entry.at_s < 2


def test_net_fd_limit_is_provoked_in_the_client():
    """256 calls at once in a process with 64 descriptors: all are accepted once, and answered as in-process."""
    model = SimulatedModel(Profile(name="m", skill={"general": 0.5}))
    with FaultLab(model.profile, suites=(), latency=0.02) as lab:
        child = subprocess.run(
            [sys.executable, "-W", "error", "-c", CHILD, lab.base_url()],
            cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert child.returncode == 0, child.stderr
        told = json.loads(child.stdout)
        assert (told["codes"], told["rows"]) == ([], 256)
        expected = [asyncio.run(model.complete(Request.of(f"question {n}"))).text for n in range(256)]
        assert told["texts"] == expected
        assert lab.accepted.total == len(lab.accepted.by_key) == 256


@pytest.mark.parametrize("fault", ["net-refused", "net-dns", "net-tls", "net-fd-limit", "sse-cancel"])
def test_a_fault_that_no_answer_provokes_is_refused_as_a_rule(lab, fault):
    """The next step says how to have it."""
    with pytest.raises(LLMValidationError) as caught:
        lab.set_faults({"strong": fault})
    assert caught.value.code == "validation.fault"
    assert ("base_url" in caught.value.next_step) == (fault in ADDRESSES)


def test_a_fault_that_makes_no_sense_for_a_request_is_said_so(lab):
    """`strong!sse-reset` without a stream, and a mistyped fault, are a 400 with the reason."""

    async def main(client):
        whole = await client.call("strong!sse-reset")
        typo = await client.call("strong!sse-rest", stream=True)
        return whole, typo

    whole, typo = run(lab, main)
    assert (whole.code, typo.code) == ("provider.bad_request", "provider.bad_request")
    assert "sse-reset makes sense for a stream" in whole.message
    assert "'sse-rest' is no fault" in typo.message


def test_http_redirect_counts_who_follows(lab):
    """The workbench does not follow, so that the log has one request and none of the address it points at."""

    async def main(client):
        return await client.call("strong!http-redirect")

    assert run(lab, main).code == "provider.redirect"
    assert [entry.path for entry in lab.log] == ["/v1/chat/completions"]
