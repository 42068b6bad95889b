"""`workbench simulate` in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from workbench.serve.lab import FAULTS

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-W", "error", "-m", "workbench", "simulate"]
ASK = json.dumps({"model": "weak", "messages": [{"role": "user", "content": "Hello?"}]}).encode()


def finished(*arguments, env=None):
    """The command run to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, text=True,
        timeout=20, check=False,
    )  # fmt: skip


def asked(url, *, key="k1"):
    """The status of one question."""
    made = urllib.request.Request(f"{url}/v1/chat/completions", data=ASK, headers={"idempotency-key": key})
    try:
        with urllib.request.urlopen(made, timeout=5) as page:
            return page.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def serving(stream):
    """The address in the banner's first line."""
    found = re.search(r"http://127\.0\.0\.1:\d+", stream.readline())
    assert found
    return found[0]


def rest(process):
    """What else it says on both streams until it ends; what was read ahead of a line is part of it."""
    with process.stdout, process.stderr:
        said = process.stdout.read(), process.stderr.read()
        process.wait(10)
        return said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("as_json", [False, True])
def test_it_serves_until_it_is_stopped_and_tells_the_counts(number, as_json):
    """SIGTERM and Ctrl-C end it with exit code 0, at once, and the counts are those of what was asked."""
    options = ["--port", "0", "--latency", "0", "--faults", "weak=http-409", *(["--json"] if as_json else [])]
    with subprocess.Popen(
        [*COMMAND, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            url = serving(process.stderr if as_json else process.stdout)
            assert [asked(url), asked(url), asked(url, key="k2")] == [409, 200, 409]
            start_s = time.monotonic()
            process.send_signal(number)
            out, err = rest(process)
        finally:
            process.kill()
    assert process.returncode == 0
    assert time.monotonic() - start_s < 5
    if as_json:
        document = json.loads(out)
        assert document == {
            "url": url,
            "simulated": True,
            "accepted": 3,
            "idempotency_keys": 2,
            "by_model": {"weak": 3},
            "by_fault": {"http-409": 2},
        }
        assert "[providers.lab]" in err
    else:
        assert "accepted 3 requests of 2 calls" in out
        assert "model weak: 3" in out
        assert "fault http-409: 2" in out
        assert err == ""


def test_the_banner_has_what_one_needs_to_reach_it():
    """Addresses, the faults of addresses, and lines for workbench.toml; and it says that it is simulated."""
    with subprocess.Popen(
        [*COMMAND, "--port", "0", "--models", "weak"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "WORKBENCH_LAB_FAULTS": "weak=http-401@0.5 *=http-529/5-9"},
    ) as process:  # fmt: skip
        url = serving(process.stdout)
        process.send_signal(signal.SIGTERM)
        out, err = rest(process)
    assert err == ""
    assert "models: weak\n" in out
    assert "faults: weak=http-401@0.5, *=http-529/5-9" in out
    assert f'base_url = "{url}/v1"' in out
    assert '[models."lab-gemini:weak"]' in out
    for fault in ("net-refused", "net-dns", "net-tls", "net-tls-plain"):
        assert re.search(rf"^{fault}: https?://", out, re.M)


def test_without_openssl_it_serves_all_the_same():
    """The address for net-tls is left out, and the reason is on standard error."""
    with subprocess.Popen(
        [*COMMAND, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PATH": "/nonexistent"},
    ) as process:  # fmt: skip
        serving(process.stdout)
        process.send_signal(signal.SIGTERM)
        out, err = rest(process)
    assert "no address for net-tls:" in err
    assert not re.search(r"^net-tls: ", out, re.M)
    assert process.returncode == 0


def test_another_host_than_loopback_is_warned_of():
    """It lets the network in, and says so."""
    with subprocess.Popen(
        [*COMMAND, "--port", "0", "--host", "0.0.0.0"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert asked(serving(process.stdout)) == 200
        process.send_signal(signal.SIGTERM)
        _, err = rest(process)
    assert "warning: 0.0.0.0 is not this machine alone" in err


def test_the_list_of_faults_is_the_table():
    """As text and as JSON, without a port."""
    text = finished("--list-faults").stdout
    assert all(f"\n{fault} " in text for fault in FAULTS)
    listed = json.loads(finished("--list-faults", "--json").stdout)
    assert [entry["fault"] for entry in listed] == list(FAULTS)
    assert {entry["code"] for entry in listed if entry["fault"] == "http-402"} == {"provider.payment"}


@pytest.mark.parametrize(
    ("options", "code", "step"),
    [
        (["--faults", "weak=http-5003"], "validation.fault", "did you mean"),
        (["--faults", "weak"], "validation.fault", "MODEL=FAULT"),
        (["--models", "weak,stron"], "router.unknown_model", "did you mean 'strong'?"),
        (["--latency", "-1"], "validation.config", "latency"),
        (["--port", "70000"], "usage", "--help"),
    ],
)
def test_a_bad_request_is_refused_with_exit_code_2(options, code, step):
    """Before anything listens, with the next step."""
    done = finished(*options, "--json")
    assert done.returncode == 2
    document = json.loads(done.stdout)
    assert document["code"] == code
    assert step in document["next_step"]


def test_a_port_in_use_is_exit_code_2_with_the_option_to_change(lab):
    """The message names host and port."""
    done = finished("--port", str(lab.port))
    assert done.returncode == 2
    assert f"127.0.0.1:{lab.port} cannot be listened on" in done.stderr
    assert "next: choose another --port" in done.stderr
    assert done.stdout == ""
