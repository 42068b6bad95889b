"""What the process has used: seconds of the processor that only grow, and the largest memory."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from workbench.act import usage
from workbench.act.usage import ProcessUsage, usage_now


def test_the_difference_of_two_usages_is_what_lies_between():
    """Seconds are subtracted, the peak stays the largest so far."""
    start = ProcessUsage(cpu_s=1.5, peak_rss_bytes=100)
    end = ProcessUsage(cpu_s=4.0, peak_rss_bytes=300)
    assert end.since(start) == ProcessUsage(cpu_s=2.5, peak_rss_bytes=300)
    assert start.since(end).cpu_s == 0.0


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_user_and_system_seconds_are_added_and_memory_is_in_bytes(monkeypatch, platform, unit):
    """ru_maxrss counts kibibytes on Linux and bytes on macOS."""
    told = SimpleNamespace(ru_utime=1.25, ru_stime=0.5, ru_maxrss=2048)
    monkeypatch.setattr(usage, "resource", SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: told))
    monkeypatch.setattr(sys, "platform", platform)
    assert usage_now() == ProcessUsage(cpu_s=1.75, peak_rss_bytes=2048 * unit)


def test_where_the_system_does_not_tell_there_is_none(monkeypatch):
    """As on Windows: None and not 0, and the difference of nothing is nothing."""
    known = ProcessUsage(cpu_s=1.0, peak_rss_bytes=5)
    monkeypatch.setattr(usage, "resource", None)
    nothing = ProcessUsage(cpu_s=None, peak_rss_bytes=None)
    assert usage_now() == nothing
    assert (nothing.since(known), known.since(nothing).cpu_s) == (nothing, None)


@pytest.mark.skipif(usage.resource is None, reason="the system does not tell")
def test_this_process_uses_time_and_memory():
    """Work takes processor time; a Python process takes more than a megabyte and less than a terabyte."""
    start = usage_now()
    sum(k * k for k in range(300_000))
    used = usage_now().since(start)
    assert 0 < used.cpu_s < 60
    assert 2**20 < used.peak_rss_bytes < 2**40
