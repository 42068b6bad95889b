"""The aggregator: one failure counts once, totals are exact under threads, memory is bounded, nothing is leaked."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import subprocess
import sys
import threading
import weakref
from dataclasses import FrozenInstanceError, replace

import pytest

from workbench.act.aggregate import ErrorAggregator, check_health, error_aggregator, logger_of
from workbench.act.world import World
from workbench.canonical import MAX_TEXT, text_of
from workbench.errors import LLMError, LLMRateLimitError, LLMValidationError


@pytest.fixture
def world():
    """A virtual world, whose clock the test moves with `pause`."""
    return World.virtual()


@pytest.fixture
def counts(world):
    """An aggregator of its own on that clock."""
    return ErrorAggregator(world=world)


class HostileError(Exception):
    """An exception whose text cannot be read."""

    def __str__(self):
        raise RuntimeError("no text for you")


class NoTextError(Exception):
    """An exception whose text is no text."""

    def __str__(self):
        return 42  # noqa: PLE0307


# -- rates


def test_mon_empty_the_rate_of_nothing_is_none(counts):
    """Without a record there is no rate: None and not 0, for everything, a component and a window."""
    assert counts.get_error_rate() is None
    assert counts.get_error_rate("router") is None
    assert counts.get_error_rate("router", window_s=60) is None
    assert counts.get_recent_errors(5) == []


def test_the_rate_is_errors_over_outcomes_per_component_and_in_all(counts):
    """1 error of 4 in a, 1 of 1 in b: rates 0.25, 1 and 2/5; a component without records has none."""
    counts.add_error(ValueError("x"), "a", "op")
    for _ in range(3):
        counts.add_success("a", "op")
    counts.add_error(ValueError("y"), "b")
    assert counts.get_error_rate("a") == 0.25
    assert counts.get_error_rate("b") == 1.0
    assert counts.get_error_rate() == 0.4
    assert counts.get_error_rate("c") is None


def test_a_window_sees_only_what_is_recent(counts, world):
    """An error 100 s ago is in a window of 100 s and not in one of 99 s; what follows it is in both."""
    counts.add_error(ValueError("old"), "a")
    world.pause(100)
    counts.add_success("a")
    assert counts.get_error_rate("a", window_s=100) == 0.5
    assert counts.get_error_rate("a", window_s=99) == 0.0
    world.pause(200)
    assert counts.get_error_rate("a", window_s=99) is None
    assert counts.get_error_rate("a") == 0.5


@pytest.mark.parametrize("window_s", [0, -1, float("nan"), float("inf"), "60", True], ids=repr)
def test_a_window_that_is_none_is_refused(counts, window_s):
    """Windows are finite numbers of seconds above 0."""
    with pytest.raises(LLMValidationError) as caught:
        counts.get_error_rate(window_s=window_s)
    assert caught.value.code == "validation.config"


# -- one failure, one count


def test_the_same_exception_counts_once(counts):
    """Contexts around each other see one exception: the innermost is charged, whatever the others call themselves."""
    error = ValueError("x")
    assert counts.add_error(error, "inner", "op") is True
    assert counts.add_error(error, "outer", "op") is False
    assert counts.count() == (1, 0)
    assert [(e.component, e.count) for e in counts.get_recent_errors()] == [("inner", 1)]


def test_an_error_raised_from_a_counted_one_is_the_same_failure(counts):
    """A typed error around a counted exception adds nothing, at any depth; an unrelated one does."""
    first = ValueError("x")
    counts.add_error(first, "inner")
    second = LLMError("wrapped")
    second.__cause__ = first
    third = LLMError("wrapped again")
    third.__cause__ = second
    assert counts.add_error(third, "outer") is False
    assert counts.add_error(LLMError("another"), "outer") is True
    assert counts.count() == (2, 0)


def test_causes_that_form_a_ring_are_counted_once(counts):
    """An exception that is its own cause, at two removes, ends the search."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert counts.add_error(first) is True
    assert counts.add_error(second) is False


def test_a_copy_is_an_error_of_its_own(counts):
    """What comes back from another process carries the mark of the sent object, and counts all the same."""
    error = LLMRateLimitError("slow down", retry_after_s=2.0)
    counts.add_error(error)
    received = pickle.loads(pickle.dumps(error))
    assert (received.code, received.retry_after_s) == (error.code, 2.0)
    assert counts.add_error(received) is True
    assert counts.add_error(copy.copy(error)) is True
    assert counts.count() == (3, 0)


def test_two_aggregators_do_not_know_of_each_other(counts):
    """An exception counts once in each aggregator."""
    error = ValueError("x")
    other = ErrorAggregator()
    assert counts.add_error(error) is True
    assert other.add_error(error) is True
    assert (counts.add_error(error), other.add_error(error)) == (False, False)


def test_clear_forgets_everything(counts):
    """After clear() there is no rate, no entry and no mark: the same exception counts again."""
    error = ValueError("x")
    counts.add_error(error, "a")
    counts.clear()
    assert counts.get_error_rate() is counts.get_error_rate("a") is counts.get_error_rate(window_s=9) is None
    assert counts.get_recent_errors() == []
    assert counts.add_error(error, "a") is True


# -- entries


def test_equal_errors_are_one_entry_with_count_and_times(counts, world):
    """Three errors alike in type, code, text, component and operation are one entry: count, first and last time."""
    start_ns = world.unix_ns()
    for _ in range(3):
        counts.add_error(ValueError("x"), "a", "op")
        world.pause(10)
    (entry,) = counts.get_recent_errors()
    assert (entry.kind, entry.code, entry.message, entry.component, entry.operation) == (
        "ValueError", "untyped", "x", "a", "op",
    )  # fmt: skip
    assert (entry.count, entry.first_unix_ns, entry.last_unix_ns) == (3, start_ns, start_ns + 20_000_000_000)
    assert counts.count("a") == (3, 0)
    with pytest.raises(FrozenInstanceError):
        entry.count = 4


@pytest.mark.parametrize(
    ("error", "component", "operation"),
    [
        (KeyError("x"), "a", "op"),
        (LLMError("x", code="b.c"), "a", "op"),
        (LLMError("y"), "a", "op"),
        (LLMError("x"), "b", "op"),
        (LLMError("x"), "a", None),
    ],
    ids=["type", "code", "text", "component", "operation"],
)
def test_errors_that_differ_in_anything_are_two_entries(counts, error, component, operation):
    """Type, code, text, component and operation each tell entries apart."""
    counts.add_error(LLMError("x"), "a", "op")
    counts.add_error(error, component, operation)
    assert [e.count for e in counts.get_recent_errors()] == [1, 1]


def test_entries_come_newest_first_and_a_repetition_is_new(counts):
    """Order is that of the last occurrence; n cuts, a component filters, n <= 0 gives nothing."""
    for text in ("a", "b", "c", "a"):
        counts.add_error(ValueError(text), text)
    assert [e.message for e in counts.get_recent_errors()] == ["a", "c", "b"]
    assert [e.message for e in counts.get_recent_errors(2)] == ["a", "c"]
    assert [e.message for e in counts.get_recent_errors(component="b")] == ["b"]
    assert counts.get_recent_errors(0) == counts.get_recent_errors(-3) == []


def test_the_history_is_bounded_and_totals_stay_exact():
    """Of 25 different errors with max_history=10 the newest 10 are kept; the totals know all 25."""
    counts = ErrorAggregator(max_history=10, world=World.virtual())
    for k in range(25):
        counts.add_error(ValueError(str(k)), "a")
    assert [e.message for e in counts.get_recent_errors(100)] == [str(k) for k in range(24, 14, -1)]
    assert counts.count("a") == (25, 0)
    assert counts.count("a", window_s=60) == (10, 0)


def test_component_names_without_end_do_not_fill_memory():
    """With max_history=10 the totals of the 10 last active components are kept; those of everything stay exact."""
    counts = ErrorAggregator(max_history=10, world=World.virtual())
    for k in range(25):
        counts.add_success(f"c{k}")
    assert counts.count() == (0, 25)
    assert counts.count("c24") == counts.count("c15") == (0, 1)
    assert counts.count("c14") == (0, 0)


def test_a_component_that_stays_active_keeps_exact_totals():
    """However many names come and go: the one without an outcome for longest makes room, not the oldest name."""
    counts = ErrorAggregator(max_history=2, world=World.virtual())
    for k in range(5):
        counts.add_error(ValueError(str(k)), "router")
        counts.add_success(f"c{k}")
    assert counts.count("router") == (5, 0)
    assert (counts.count("c4"), counts.count("c3")) == ((0, 1), (0, 0))
    assert counts.count() == (5, 5)


@pytest.mark.parametrize("max_history", [0, -1, 1.5, True, "10", None, float("nan")], ids=repr)
def test_a_history_that_is_no_count_is_refused(max_history):
    """max_history is a whole number >= 1."""
    with pytest.raises(LLMValidationError) as caught:
        ErrorAggregator(max_history=max_history)
    assert caught.value.code == "validation.config"


def test_what_is_no_exception_is_refused(counts):
    """A text in the place of an exception is named as such, and nothing is counted."""
    with pytest.raises(LLMValidationError, match="str"):
        counts.add_error("it failed", "a")
    assert counts.count() == (0, 0)


# -- what is kept of an exception


@pytest.mark.parametrize("error", [HostileError(), NoTextError()], ids=["raises", "42"])
def test_a_text_that_cannot_be_read_is_said_to_be_so(counts, error):
    """A broken __str__ costs its text, never the record."""
    assert counts.add_error(error, "a") is True
    assert type(error).__name__ in counts.get_recent_errors()[0].message


def test_secrets_and_excess_are_not_kept(counts):
    """Keys are taken out before anything is cut, lone surrogates replaced, lines joined, and the rest is short."""
    secret = "sk-" + "a1B2c3D4" * 4
    counts.add_error(ValueError(f"refused {secret}\nfor \udcff " + "x" * 100_000))
    message = counts.get_recent_errors()[0].message
    assert message.startswith("refused [redacted] for � xxx")
    assert len(message) == MAX_TEXT
    for length in range(MAX_TEXT - len(secret), MAX_TEXT + 1):
        assert "sk-" not in text_of(ValueError("y" * length + " " + secret))


def test_an_exception_is_not_kept_alive(counts):
    """The record holds texts: the exception and what its traceback holds are freed with the last reference."""

    class Watched(Exception):  # noqa: N818
        pass

    error = Watched("x")
    seen = weakref.ref(error)
    counts.add_error(error, "a")
    del error
    gc.collect()
    assert seen() is None


def test_a_record_made_inside_a_record_does_not_lock_up(world):
    """A clock that records, as a finaliser might, ends in two counts and not in a deadlock."""
    pending = [LLMError("from within")]

    def now_s():
        while pending and holder:
            holder[0].add_error(pending.pop(), "inner")
        return 0.0

    holder = []
    holder.append(ErrorAggregator(world=replace(world, now_s=now_s)))
    thread = threading.Thread(target=holder[0].add_error, args=(ValueError("x"), "outer"), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert holder[0].count() == (2, 0)


# -- threads


def test_fifty_threads_lose_and_double_nothing(counts):
    """50 threads with 200 errors and 300 successes each, and one shared exception: 10 001 errors, 15 000 successes."""
    shared, barrier = ValueError("shared"), threading.Barrier(50)

    def work(k):
        barrier.wait()
        for j in range(200):
            counts.add_error(ValueError(f"kind {j % 4}"), f"c{k % 5}", "op")
            counts.add_error(shared, "shared")
        for _ in range(300):
            counts.add_success(f"c{k % 5}")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(k,)) for k in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert counts.count() == (10_001, 15_000)
    assert [counts.count(f"c{c}") for c in range(5)] == [(2000, 3000)] * 5
    assert counts.count("shared") == (1, 0)
    entries = counts.get_recent_errors(100)
    assert len(entries) == 21  # 5 components x 4 texts, and the shared one
    assert sum(e.count for e in entries) == 10_001
    assert {e.count for e in entries if e.component != "shared"} == {500}


# -- health


@pytest.mark.parametrize(
    ("errors", "successes", "status", "rate"),
    [
        (0, 0, "unknown", None),
        (0, 5, "healthy", 0.0),
        (1, 19, "healthy", 0.05),
        (1, 9, "degraded", 0.1),
        (4, 6, "degraded", 0.4),
        (1, 1, "unhealthy", 0.5),
        (3, 0, "unhealthy", 1.0),
    ],
)
def test_health_follows_the_error_rate(counts, errors, successes, status, rate):
    """From 10 % errors a component is degraded, from 50 % unhealthy; without records it is unknown."""
    for k in range(errors):
        counts.add_error(ValueError(str(k)), "a")
    for _ in range(successes):
        counts.add_success("a")
    health = check_health("a", aggregator=counts)
    assert (health.component, health.status, health.error_rate) == ("a", status, rate)
    assert (health.errors, health.successes) == (errors, successes)
    assert (health.last_error.message if errors else health.last_error) == (str(errors - 1) if errors else None)


def test_health_is_about_now(counts, world):
    """An outage older than the window is over, but its last error is still shown; None looks at everything."""
    counts.add_error(ValueError("outage"), "a")
    world.pause(301)
    assert check_health("a", aggregator=counts).status == "unknown"
    counts.add_success("a")
    health = check_health("a", aggregator=counts)
    assert (health.status, health.last_error.message) == ("healthy", "outage")
    assert check_health("a", window_s=None, aggregator=counts).status == "unhealthy"


def test_health_of_everything_counts_every_component(counts):
    """Without a component the health is that of all records together."""
    counts.add_error(ValueError("x"), "a")
    counts.add_success("b")
    assert check_health(aggregator=counts).error_rate == 0.5
    assert check_health("b", aggregator=counts).status == "healthy"
    assert check_health("b", aggregator=counts).last_error is None


def test_thresholds_are_the_callers(counts):
    """A caller who tolerates half of the calls failing can say so; a threshold that is no number is refused."""
    counts.add_error(ValueError("x"))
    counts.add_success()
    assert check_health(aggregator=counts, degraded_rate=0.6, unhealthy_rate=0.9).status == "healthy"
    with pytest.raises(LLMValidationError):
        check_health(aggregator=counts, degraded_rate=float("nan"))


def test_there_is_one_aggregator_for_everybody():
    """Without an aggregator of its own, health is read from the global one."""
    error_aggregator.add_error(ValueError("x"), "test_there_is_one")
    assert check_health("test_there_is_one").status == "unhealthy"


# -- logging


def test_the_package_prints_nothing_by_itself():
    """In a program that has set up no logging, an error that is logged leaves standard error empty."""
    program = "from workbench.act.aggregate import logger_of; logger_of('router').error('boom'); print('done')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("done", "")


def test_loggers_are_named_after_components():
    """A component logs under `workbench.<component>`, so that a level set on `workbench` holds for it."""
    assert logger_of("router").name == "workbench.router"
    assert logger_of("router").parent is logger_of(None) is logging.getLogger("workbench")
