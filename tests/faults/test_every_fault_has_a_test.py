"""Every fault of the catalogue's layers that are built has a test with its id in the name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
IDS = {
    "http": (
        "http-400 http-400-context http-401 http-402 http-403 http-404 http-408 http-409 http-413 "
        "http-422 http-429-plain http-429-seconds http-429-date http-429-negative http-429-huge "
        "http-429-quota http-429-storm http-500 http-500-always http-502-html http-503-ra http-504 "
        "http-529 http-redirect http-200-error"
    ),
    "transport": (
        "net-refused net-dns net-tls net-reset-head net-reset-body net-fin-body net-stall-head "
        "net-stall-body net-drip net-garbage net-gzip-bomb net-keepalive-lie net-fd-limit"
    ),
    "body": "body-truncated body-html body-empty body-badutf8 body-array body-10mb",
    "reply": (
        "reply-no-choices reply-empty-choices reply-null-content reply-refusal reply-tools "
        "reply-filter reply-length reply-no-message reply-no-usage reply-usage-negative "
        "reply-usage-absurd reply-wrong-model reply-dup-id reply-surrogate reply-nul "
        "reply-special-token"
    ),
    "stream": (
        "sse-no-done sse-reset sse-stall sse-endless sse-error-mid sse-bad-json sse-nothing "
        "sse-split-utf8 sse-crlf sse-usage-last sse-cancel"
    ),
    "router": "router-unknown router-none router-stats-empty",
    "failover": "fo-exhausted fo-all-open fo-cycle fo-auth-no-failover",
    "breaker": "br-one-fail br-halfopen-race br-halfopen-cancel br-slow br-clock-back br-4xx",
    "hedge": "hedge-double",
    "retry": "retry-deadline retry-zero retry-baseexception retry-storm retry-partial-bill",
    "budget": "bud-nan bud-zero bud-race bud-settle-fail bud-actual-higher bud-price-unknown",
    "clock": "clk-back",
    "ensemble": (
        "ens-all-fail ens-quorum ens-one-slow ens-one-raises ens-tie ens-weights-zero ens-weights-neg "
        "ens-weights-nan ens-weights-unknown ens-zero-models ens-cancel"
    ),
    "storage": ("st-kill9 st-disk-full st-readonly st-corrupt st-newer st-older st-locked st-spool-torn st-spool-dup"),
    "notebook": (
        "nb-interrupt-await nb-interrupt-sync nb-running-loop nb-two-kernels nb-fork nb-exit nb-restart "
        "nb-failing-cell nb-kernel-dies nb-cell-hang"
    ),
    "tokens": "tok-offline",
    "optimizer": "opt-empty prompt-inject",
    "security, of templates": "sec-jinja",
    "config": "cfg-types cfg-env",
    "tracing": "trace-nested-raise trace-huge",
}
NAMES = [n for file in TESTS.rglob("test_*.py") for n in re.findall(r"def (test_\w+)", file.read_text("utf-8"))]


@pytest.mark.parametrize("fault", [f for ids in IDS.values() for f in ids.split()])
def test_a_fault_of_the_catalogue_has_a_test(fault: str) -> None:
    """The id, with underscores, begins the name of at least one test."""
    assert [name for name in NAMES if name.startswith(f"test_{fault.replace('-', '_')}")]
