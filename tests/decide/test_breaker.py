"""The circuit breaker: 23 situations with what must be seen in each, then its fields, its waits and odd clocks."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workbench.decide.breaker import STATES, Breaker, Circuit, Permit
from workbench.decide.merge import params_of
from workbench.errors import LLMValidationError

NEW = Circuit(provider="openai", model="gpt")
SLOW_S = 60.0


def call(breaker, circuit, result, now_s=0.0):
    """The circuit after a call that passes at once; result is S or F, small letters take 60 s, `-` has no result."""
    circuit, permit = breaker.admit(circuit, now_s)
    assert permit is not None, f"refused at {now_s} s while {circuit.state}"
    if result == "-":
        return breaker.release(circuit, permit)
    duration_s = SLOW_S if result.islower() else 1.0
    return breaker.record(circuit, permit, ok=result in "Ss", duration_s=duration_s, now_s=now_s)


def calls(breaker, circuit, results, now_s=0.0):
    """The circuit after several calls at the same time, one letter each."""
    for result in results:
        circuit = call(breaker, circuit, result, now_s)
    return circuit


def admit_all(breaker, circuit, times, now_s):
    """The circuit and what each of so many askers got."""
    permits = []
    for _ in range(times):
        circuit, permit = breaker.admit(circuit, now_s)
        permits.append(permit)
    return circuit, permits


def opened(breaker, now_s=0.0):
    """A circuit that failures have opened at `now_s`."""
    circuit = calls(breaker, NEW, "F" * breaker.minimum_calls, now_s)
    assert circuit.state == "open"
    return circuit


def half_open(breaker, now_s=0.0):
    """A circuit that became half-open at `now_s` + cooldown, with all its permits free."""
    now_s += breaker.cooldown_s
    circuit, permit = breaker.admit(opened(breaker, now_s - breaker.cooldown_s), now_s)
    circuit = breaker.release(circuit, permit)
    assert (circuit.state, circuit.permits_in_use) == ("half_open", 0)
    return circuit


# -- the conformance table


def test_row_01_a_new_circuit_is_closed_with_undefined_rates():
    """Nothing is known, so nothing is claimed."""
    assert (NEW.state, NEW.failure_rate, NEW.slow_rate, NEW.buffered) == ("closed", None, None, 0)


def test_row_02_too_few_results_keep_it_closed_whatever_they_are():
    """Four failures of four do not open a circuit that needs five results."""
    circuit = calls(Breaker(failure_rate=0.5, window_calls=20, minimum_calls=5), NEW, "FFFF")
    assert (circuit.state, circuit.failure_rate, circuit.slow_rate, circuit.buffered) == ("closed", None, None, 4)


def test_row_03_it_opens_at_the_call_that_completes_the_minimum():
    """F F F S S with a minimum of five: open at the fifth, a success, at 3 / 5."""
    breaker = Breaker(failure_rate=0.5, window_calls=20, minimum_calls=5)
    circuit = calls(breaker, NEW, "FFFS")
    assert circuit.state == "closed"
    circuit = call(breaker, circuit, "S", now_s=7.0)
    assert (circuit.state, circuit.failure_rate, circuit.since_s) == ("open", 0.6, 7.0)


@pytest.mark.parametrize(
    ("threshold", "results"),
    [(0.5, "SFSF"), (0.6, "SSFFF"), (0.7, "SSSFFFFFFF"), (1 / 3, "SSF"), (0.1, "SSSSSSSSSF"), (1.0, "FFF")],
)
def test_row_04_a_rate_equal_to_the_threshold_opens(threshold, results):
    """The threshold itself is too much, also where it has no exact double."""
    breaker = Breaker(minimum_calls=len(results), failure_rate=threshold)
    assert calls(breaker, NEW, results[:-1]).state == "closed"
    assert calls(breaker, NEW, results).state == "open"


def test_row_05_a_rate_just_under_the_threshold_stays_closed():
    """9 of 20 with a threshold of one half."""
    breaker = Breaker(failure_rate=0.5, window_calls=20, minimum_calls=20)
    circuit = calls(breaker, NEW, "F" * 9 + "S" * 11)
    assert (circuit.state, circuit.failure_rate) == ("closed", 0.45)


def test_row_06_the_count_window_forgets_the_oldest_result():
    """With a window of four the fifth result takes the place of the first."""
    breaker = Breaker(minimum_calls=4, window_calls=4, failure_rate=0.75)
    circuit = calls(breaker, NEW, "FFSS")
    assert (circuit.failure_rate, circuit.buffered) == (0.5, 4)
    circuit = call(breaker, circuit, "S")
    assert (circuit.failure_rate, circuit.buffered) == (0.25, 4)
    circuit = call(breaker, circuit, "S")
    assert (circuit.failure_rate, circuit.buffered) == (0.0, 4)
    assert calls(breaker, circuit, "FF").state == "closed"
    assert calls(breaker, circuit, "FFF").state == "open"


def test_row_07_the_time_window_forgets_by_the_second_without_traffic():
    """Results of second 0 and 3 leave a window of ten seconds at 10 and at 13."""
    breaker = Breaker(minimum_calls=2, window_s=10, failure_rate=1.0)
    circuit = call(breaker, calls(breaker, NEW, "FS", 0.9), "s", 3.0)
    seen = {at: breaker.tick(circuit, at) for at in (9.99, 10.0, 12.99, 13.0)}
    assert [(c.buffered, c.failed, c.slow) for c in seen.values()] == [(3, 1, 1), (1, 0, 1), (1, 0, 1), (0, 0, 0)]
    assert [c.failure_rate for c in seen.values()] == [1 / 3, None, None, None]
    assert call(breaker, circuit, "S", 10.5).buffered == 2


def test_row_08_the_time_window_opens_at_the_sixth_second():
    """S S S F F one second apart is 40 %; one more F makes it 50 %."""
    breaker = Breaker(failure_rate=0.5, window_calls=20, minimum_calls=5, window_s=20)
    circuit = NEW
    for at, result in enumerate("SSSFF"):
        circuit = call(breaker, circuit, result, float(at))
    assert (circuit.state, circuit.failure_rate) == ("closed", 0.4)
    circuit = call(breaker, circuit, "F", 5.0)
    assert (circuit.state, circuit.failure_rate) == ("open", 0.5)


def test_row_09_slow_successes_open_it():
    """Slowness alone is enough; no failure is made up for it."""
    circuit = calls(Breaker(minimum_calls=4, slow_rate=0.75), NEW, "Ssss")
    assert (circuit.state, circuit.failure_rate, circuit.slow_rate) == ("open", 0.0, 0.75)


def test_row_10_a_slow_failure_is_slow_and_failed():
    """One result, counted once in each rate."""
    circuit = calls(Breaker(minimum_calls=4, failure_rate=1.0), NEW, "SSSf")
    assert (circuit.state, circuit.buffered, circuit.failure_rate, circuit.slow_rate) == ("closed", 4, 0.25, 0.25)


@pytest.mark.parametrize("now_s", [0.0, 15.0, 29.999])
def test_row_11_an_open_circuit_refuses_and_counts_the_refusal(now_s):
    """Before the wait is over no call passes, and the window stays as it was when it opened."""
    breaker = Breaker()
    circuit, permits = admit_all(breaker, opened(breaker), 2, now_s)
    assert permits == [None, None]
    assert circuit == replace(opened(breaker), not_permitted=2)
    assert (circuit.failure_rate, circuit.buffered) == (1.0, 3)


def test_row_12_after_the_wait_the_next_caller_makes_it_half_open():
    """Nothing happens until somebody asks; then the window is empty and the caller probes."""
    breaker = Breaker()
    circuit = opened(breaker)
    assert breaker.tick(circuit, 30.0).state == "open"
    circuit, permit = breaker.admit(circuit, 30.0)
    assert permit == Permit(epoch=2, started_s=30.0, probe=True, number=1)
    assert (circuit.state, circuit.since_s, circuit.permits_in_use) == ("half_open", 30.0, 1)
    assert (circuit.buffered, circuit.failed, circuit.failure_rate) == (0, 0, None)


def test_row_13_with_automatic_transition_time_alone_makes_it_half_open():
    """A timer's tick is enough, from the end of the wait on."""
    breaker = Breaker(automatic=True)
    assert breaker.tick(opened(breaker), 29.999).state == "open"
    circuit = breaker.tick(opened(breaker), 30.0)
    assert (circuit.state, circuit.since_s, circuit.buffered, circuit.permits_in_use) == ("half_open", 30.0, 0, 0)


def test_row_14_half_open_lets_as_many_pass_as_it_has_permits():
    """Of six callers four probe."""
    breaker = Breaker(permits=4)
    circuit, permits = admit_all(breaker, half_open(breaker), 6, 30.0)
    assert [p is not None for p in permits] == [True] * 4 + [False] * 2
    assert all(p.probe for p in permits[:4])
    assert (circuit.permits_in_use, circuit.not_permitted) == (4, 2)


def test_row_14_a_result_does_not_make_room_for_a_further_probe():
    """Four permits are four probes, not four at a time."""
    breaker = Breaker(permits=4)
    circuit, permits = admit_all(breaker, half_open(breaker), 4, 30.0)
    circuit = breaker.record(circuit, permits[0], ok=True, duration_s=1.0, now_s=31.0)
    assert (circuit.permits_in_use, circuit.buffered) == (3, 1)
    assert breaker.admit(circuit, 31.0)[1] is None


def test_row_15_a_released_permit_lets_one_more_pass():
    """A probe that was cancelled gives its place to the next caller, once."""
    breaker = Breaker(permits=2)
    circuit, (first, second) = admit_all(breaker, half_open(breaker), 2, 30.0)
    circuit = breaker.release(circuit, first)
    assert breaker.release(circuit, first) == circuit
    _, permits = admit_all(breaker, circuit, 2, 31.0)
    assert [p is not None for p in permits] == [True, False]
    assert permits[0].number not in (first.number, second.number)


def test_row_16_bad_probes_open_it_again():
    """F F S F of four probes: open at 75 %, from the last of them on."""
    breaker = Breaker(permits=4)
    circuit = calls(breaker, half_open(breaker), "FFS", 31.0)
    assert (circuit.state, circuit.failure_rate) == ("half_open", None)
    circuit = call(breaker, circuit, "F", 32.0)
    assert (circuit.state, circuit.failure_rate, circuit.since_s) == ("open", 0.75, 32.0)


def test_row_17_good_probes_close_it():
    """F S S S of four probes: closed, and the window starts anew."""
    breaker = Breaker(permits=4)
    circuit = calls(breaker, half_open(breaker), "FSSS", 31.0)
    assert (circuit.state, circuit.since_s, circuit.openings) == ("closed", 31.0, 0)
    assert (circuit.buffered, circuit.failed, circuit.failure_rate) == (0, 0, None)
    assert calls(breaker, circuit, "FF").state == "closed"


def test_row_18_slow_probes_open_it_again():
    """Three slow successes of four are 75 %."""
    breaker = Breaker(permits=4, slow_rate=0.75)
    circuit = calls(breaker, half_open(breaker), "Ssss", 31.0)
    assert (circuit.state, circuit.failure_rate, circuit.slow_rate) == ("open", 0.0, 0.75)


@pytest.mark.parametrize("then", ["open", "closed"])
def test_row_19_missing_results_end_half_open_at_the_limit(then):
    """One second after it began the state is what was configured, whoever looks and however late."""
    breaker = Breaker(permits=4, half_open_limit_s=1.0, half_open_then=then)
    circuit, (permit, *_) = admit_all(breaker, half_open(breaker), 2, 30.0)
    assert breaker.tick(circuit, 30.999).state == "half_open"
    for now_s in (31.0, 40.0):
        after = breaker.tick(circuit, now_s)
        assert (after.state, after.since_s, after.permits_in_use) == (then, 31.0, 0)
        assert breaker.record(circuit, permit, ok=False, duration_s=1.0, now_s=now_s) == after


def test_row_19_the_wait_after_the_limit_counts_from_the_limit():
    """Probes lost at 30 s, limit at 31 s, cooldown 30 s: who asks at 61 s may probe."""
    breaker = Breaker(permits=1, half_open_limit_s=1.0)
    circuit, _ = admit_all(breaker, half_open(breaker), 1, 30.0)
    assert breaker.admit(circuit, 60.9)[1] is None
    after, permit = breaker.admit(circuit, 61.0)
    assert permit.probe
    assert (after.state, after.since_s, after.openings, after.permits_in_use) == ("half_open", 61.0, 2, 1)


def test_row_20_the_wait_grows_with_every_opening():
    """5 s, then 7.5 s: the second is not over at 6 s and is over at 11 s; a close starts again at 5 s."""
    breaker = Breaker(cooldown_s=5.0, cooldown_factor=1.5)
    circuit = call(breaker, half_open(breaker), "F", 5.0)
    assert (circuit.state, circuit.openings) == ("open", 2)
    assert breaker.admit(circuit, 5.0 + 6.0)[1] is None
    circuit = call(breaker, circuit, "S", 5.0 + 11.0)
    assert circuit.state == "closed"
    circuit = calls(breaker, circuit, "FFF", 20.0)
    assert breaker.retry_after_s(circuit, 20.0) == 5.0


def test_row_21_an_ignored_error_is_neither_success_nor_failure():
    """A thousand client errors leave a closed circuit as it was, and a half-open one with all its permits."""
    breaker = Breaker(permits=1)
    assert calls(breaker, NEW, "-" * 1000) == NEW
    circuit = half_open(breaker)
    after = calls(breaker, circuit, "-" * 1000, 31.0)
    assert (after.state, after.buffered, after.permits_in_use) == ("half_open", 0, 0)
    assert breaker.admit(after, 31.0)[1] is not None


def test_row_22_a_late_result_of_a_former_state_does_not_count():
    """What began while closed, or in an earlier half-open, decides nothing afterwards."""
    breaker = Breaker(permits=2)
    circuit, (early, *_) = admit_all(breaker, NEW, 1, 0.0)
    circuit = calls(breaker, circuit, "FFF")
    for now_s in (1.0, 30.0, 31.0):
        assert breaker.record(circuit, early, ok=True, duration_s=1.0, now_s=now_s) == circuit
        assert breaker.release(circuit, early) == circuit
        circuit, permit = breaker.admit(circuit, now_s)
    assert (circuit.state, circuit.permits_in_use) == ("half_open", 2)
    probe, circuit = permit, breaker.reset(circuit, 32.0)
    for late in (early, probe):
        assert breaker.record(circuit, late, ok=False, duration_s=1.0, now_s=33.0) == circuit


def test_row_22_a_late_probe_does_not_free_the_place_of_a_later_one():
    """Probes of two half-open phases may bear one number: the first comes back late and moves nothing."""
    breaker = Breaker(permits=2)
    first, (late, failing) = admit_all(breaker, breaker.force(NEW, "half_open", 0.0), 2, 0.0)
    circuit, (current, _) = admit_all(breaker, breaker.force(first, "half_open", 5.0), 2, 5.0)
    assert (late.number, late.epoch + 1) == (current.number, current.epoch)
    assert breaker.release(circuit, late) == circuit
    assert breaker.record(circuit, failing, ok=False, duration_s=1.0, now_s=6.0) == circuit
    assert breaker.admit(circuit, 6.0)[1] is None


def test_row_23_forced_open_refuses_all_for_ever():
    """No wait ends it, and there is no time to come back at."""
    breaker = Breaker()
    circuit, permits = admit_all(breaker, breaker.force(NEW, "forced_open", 5.0), 3, 1e9)
    assert permits == [None] * 3
    assert (circuit.state, circuit.not_permitted) == ("forced_open", 3)
    assert breaker.tick(circuit, 2e9).state == "forced_open"
    assert breaker.retry_after_s(circuit, 1e9) == math.inf


def test_row_23_disabled_passes_all_and_counts_nothing():
    """Any number of failures leaves no trace."""
    breaker = Breaker()
    circuit = breaker.force(NEW, "disabled", 5.0)
    assert calls(breaker, circuit, "F" * 50, 6.0) == circuit
    assert (circuit.buffered, circuit.failure_rate, breaker.retry_after_s(circuit, 6.0)) == (0, None, 0.0)


def test_row_23_metrics_only_counts_and_never_opens():
    """The rates are there, and that a threshold was reached is told once."""
    breaker = Breaker(failure_rate=0.5, window_calls=20)
    circuit = calls(breaker, breaker.force(NEW, "metrics_only", 5.0), "FF", 6.0)
    assert not circuit.tripped
    circuit = call(breaker, circuit, "F", 6.0)
    assert (circuit.state, circuit.tripped, circuit.failure_rate, circuit.epoch) == ("metrics_only", True, 1.0, 1)
    circuit = calls(breaker, circuit, "F" * 50, 6.0)
    assert (circuit.state, circuit.tripped, circuit.buffered) == ("metrics_only", True, 20)
    assert not breaker.reset(circuit, 7.0).tripped
    assert not breaker.force(circuit, "metrics_only", 7.0).tripped


# -- the fault catalogue


def test_br_one_fail_keeps_the_circuit_closed():
    """The first and only call fails: 100 % of one is not enough to judge."""
    for breaker in (Breaker(minimum_calls=5), Breaker(minimum_calls=5, window_s=60), Breaker()):
        circuit = call(breaker, NEW, "F")
        assert (circuit.state, circuit.failure_rate, circuit.failed) == ("closed", None, 1)
        assert breaker.admit(circuit, 1.0)[1] is not None


def test_br_slow_opens_on_the_share_of_slow_calls():
    """Every call succeeds, half of the window is slow: open, and the next caller is refused."""
    breaker = Breaker(minimum_calls=6, slow_rate=0.5, slow_call_s=2.0)
    circuit = NEW
    for duration_s in (2.0, 1.999, 9.0, 0.1, 0.1, 2.0):
        assert circuit.state == "closed"
        circuit, permit = breaker.admit(circuit, 0.0)
        circuit = breaker.record(circuit, permit, ok=True, duration_s=duration_s, now_s=0.0)
    assert (circuit.state, circuit.failure_rate, circuit.slow_rate) == ("open", 0.0, 0.5)
    assert breaker.admit(circuit, 1.0)[1] is None


def test_br_halfopen_cancel_never_leaves_it_stuck():
    """However many probes in a row are cancelled, the next caller may probe and its success closes the circuit."""
    breaker = Breaker(permits=1)
    circuit = half_open(breaker)
    for _ in range(100):
        circuit, permits = admit_all(breaker, circuit, 2, 31.0)
        assert [p is not None for p in permits] == [True, False]
        circuit = breaker.release(circuit, permits[0])
    assert call(breaker, circuit, "S", 32.0).state == "closed"


def test_br_clock_back_waits_at_most_one_cooldown_from_when_it_is_noticed():
    """A circuit that opened at 10,000 s on a clock that now says 5 s is tried again at 35 s."""
    breaker = Breaker()
    circuit = opened(breaker, 10_000.0)
    assert breaker.retry_after_s(circuit, 5.0) == 30.0
    circuit, permit = breaker.admit(circuit, 5.0)
    assert (circuit.state, permit) == ("open", None)
    assert breaker.admit(circuit, 34.9)[1] is None
    assert breaker.admit(circuit, 35.0)[1].probe


def test_br_clock_back_does_not_keep_results_for_ever():
    """Results of seconds that are now in the future count as of now, and leave the time window in their turn."""
    breaker = Breaker(minimum_calls=9, window_s=10)
    circuit = NEW
    for at in (991.0, 999.0, 1000.0):
        circuit = call(breaker, circuit, "F", at)
    circuit = call(breaker, circuit, "S", 995.0)
    assert circuit.buckets == ((991, 1, 1, 0), (995, 3, 2, 0))
    circuit = call(breaker, circuit, "S", 5.0)
    assert (circuit.buckets, circuit.buffered, circuit.failed) == (((5, 5, 3, 0),), 5, 3)
    assert breaker.tick(circuit, 14.9).buffered == 5
    assert breaker.tick(circuit, 15.0).buffered == 0


# -- permits


@pytest.mark.parametrize("ending", ["record", "release"])
def test_a_probe_permit_is_given_back_once(ending):
    """A second record or a release after it moves nothing: another probe keeps its place."""
    breaker = Breaker(permits=3)
    circuit, (first, _, _) = admit_all(breaker, half_open(breaker), 3, 30.0)
    circuit = breaker.record(circuit, first, ok=True, duration_s=1.0, now_s=31.0)
    if ending == "record":
        again = breaker.record(circuit, first, ok=False, duration_s=1.0, now_s=31.0)
    else:
        again = breaker.release(circuit, first)
    assert again == circuit
    assert (circuit.buffered, circuit.permits_in_use) == (1, 2)


def test_an_admitted_call_costs_a_closed_circuit_nothing():
    """Admitting on the happy path makes no new circuit."""
    circuit, permit = Breaker().admit(NEW, 3.0)
    assert circuit is NEW
    assert permit == Permit(epoch=0, started_s=3.0)


def test_a_result_for_an_open_circuit_with_its_own_epoch_changes_nothing():
    """No call is admitted while open, so a permit that claims it is not believed."""
    breaker = Breaker()
    circuit = opened(breaker)
    forged = Permit(epoch=circuit.epoch, started_s=0.0)
    assert breaker.record(circuit, forged, ok=True, duration_s=1.0, now_s=1.0) == circuit


# -- reset and force


@pytest.mark.parametrize("state", STATES)
def test_a_reset_circuit_is_as_good_as_new_from_every_state(state):
    """Only its epoch tells it from a new one, so that permits given before do not count."""
    breaker = Breaker()
    circuit, _ = breaker.admit(breaker.force(opened(breaker), state, 5.0), 6.0)
    epoch = circuit.epoch + 1
    expected = Circuit(provider="openai", model="gpt", since_s=9.0, epoch=epoch, needed=3)
    assert breaker.reset(circuit, 9.0) == expected


@pytest.mark.parametrize("state", STATES)
def test_force_enters_every_state_with_an_empty_window(state):
    """The state begins now, in a new epoch, with what was measured before left behind."""
    breaker = Breaker()
    circuit = breaker.force(calls(breaker, NEW, "Ff"), state, 5.0)
    assert (circuit.state, circuit.since_s, circuit.epoch) == (state, 5.0, 1)
    assert (circuit.buffered, circuit.failed, circuit.slow, circuit.results) == (0, 0, 0, "")


def test_forcing_an_open_circuit_open_again_starts_its_wait_again():
    """The wait is the one of a further opening."""
    breaker = Breaker(cooldown_s=10.0, cooldown_factor=2.0)
    circuit = breaker.force(opened(breaker), "open", 4.0)
    assert breaker.retry_after_s(circuit, 4.0) == 20.0


@pytest.mark.parametrize("state", ["shut", "OPEN", "", None, 1, ["open"]], ids=repr)
def test_force_refuses_a_state_that_there_is_not(state):
    """The error names what was given and the six states."""
    with pytest.raises(LLMValidationError, match="forced_open") as caught:
        Breaker().force(NEW, state, 0.0)
    assert caught.value.code == "validation.config"


# -- waits


def test_retry_after_s_is_the_time_that_is_left():
    """The rest of the cooldown while open, 0 where a call may pass."""
    breaker = Breaker(permits=1)
    circuit = opened(breaker)
    assert [breaker.retry_after_s(circuit, t) for t in (0.0, 10.0, 29.5, 30.0, 99.0)] == [30.0, 20.0, 0.5, 0.0, 0.0]
    assert breaker.retry_after_s(NEW, 5.0) == 0.0
    assert breaker.retry_after_s(half_open(breaker), 31.0) == 0.0


def test_retry_after_s_is_rounded_up_to_where_a_call_passes():
    """11.65 + ((9.5 + 20.8) - 11.65) falls short of 9.5 + 20.8 in doubles; who waits as told is admitted."""
    breaker = Breaker(cooldown_s=20.8)
    circuit = opened(breaker, 9.5)
    assert 11.65 + ((9.5 + 20.8) - 11.65) < 9.5 + 20.8
    assert breaker.admit(circuit, 11.65 + breaker.retry_after_s(circuit, 11.65))[1] is not None


def test_retry_after_s_while_probes_are_out_is_the_cooldown_or_the_way_over_the_limit():
    """Without a limit one more cooldown is a guess; with one it is the rest of the limit and the wait after it."""
    assert _busy_half_open(Breaker()) == 30.0
    assert _busy_half_open(Breaker(half_open_limit_s=10.0, cooldown_factor=2.0)) == 9.0 + 60.0
    assert _busy_half_open(Breaker(half_open_limit_s=10.0, half_open_then="closed")) == 9.0


def _busy_half_open(breaker):
    circuit, _ = admit_all(breaker, half_open(breaker), 1, 30.0)
    return breaker.retry_after_s(circuit, 31.0)


@given(since_s=st.floats(0, 1e9), cooldown_s=st.floats(0.001, 1e6), part=st.floats(0, 1))
@example(since_s=1e9, cooldown_s=0.001, part=0.7)
def test_waiting_for_retry_after_s_is_always_enough(since_s, cooldown_s, part):
    """Who comes back after exactly that time is admitted: no rounding sends a caller away for 1e-16 s, for ever."""
    breaker = Breaker(cooldown_s=cooldown_s, max_cooldown_s=1e6)
    circuit = opened(breaker, since_s)
    now_s = since_s + part * cooldown_s
    wait_s = breaker.retry_after_s(circuit, now_s)
    assert (wait_s == 0) == (now_s >= since_s + cooldown_s)
    assert breaker.admit(circuit, now_s + wait_s)[1] is not None


@pytest.mark.parametrize(("openings", "wait_s"), [(0, 5.0), (1, 5.0), (2, 10.0), (4, 40.0), (5, 60.0), (10**6, 60.0)])
def test_the_wait_doubles_up_to_its_limit_and_never_overflows(openings, wait_s):
    """5 s, 10 s, 20 s, 40 s, then 60 s for ever."""
    assert Breaker(cooldown_s=5.0, cooldown_factor=2.0, max_cooldown_s=60.0).wait_s(openings) == wait_s


# -- the fields


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, value)
        for field in ("failure_rate", "slow_rate")
        for value in (0, -0.1, 1.0001, 50, True, "0.5", None, float("nan"), float("inf"))
    ]
    + [
        (field, value)
        for field in ("minimum_calls", "window_calls", "permits")
        for value in (0, -1, 1.5, True, "3", None, float("nan"), float("inf"), 10_001, 10**400, 10**5000)
    ]
    + [("window_s", value) for value in (0, -5, 1.5, True, "60", float("nan"), float("inf"), 3601)]
    + [
        (field, value)
        for field in ("slow_call_s", "cooldown_s", "max_cooldown_s")
        for value in (0, -1.0, True, "30", None, float("nan"), float("inf"), float("-inf"), 10**400, [30])
    ]
    + [("half_open_limit_s", value) for value in (0, -1.0, False, "1", float("nan"), float("inf"))]
    + [("cooldown_factor", value) for value in (0.5, 0, -2.0, True, None, float("nan"), float("inf"))]
    + [("half_open_then", value) for value in ("half_open", "", None, True, ["open"])]
    + [("automatic", value) for value in (0, 1, None, "yes")]
    + [("max_cooldown_s", 29.9), ("cooldown_s", 301)],
    ids=lambda v: repr(v)[:20] if not isinstance(v, int) or v.bit_length() < 64 else "huge",
)
def test_nonsense_in_a_field_is_refused_by_name(field, value):
    """The error names the field, has a code, and a next step that says what may stand there."""
    with pytest.raises(LLMValidationError) as caught:
        Breaker(**{field: value})
    named = "max_cooldown_s" if (field, value) == ("cooldown_s", 301) else field
    assert caught.value.code == "validation.config"
    assert f" {named} " in caught.value.message
    assert f"set {named} to " in caught.value.next_step
    assert len(caught.value.next_step) <= 160


def test_the_edges_of_the_ranges_are_accepted():
    """The smallest and the largest values make a breaker."""
    tiny = Breaker(
        failure_rate=1e-9, slow_rate=1e-9, slow_call_s=1e-9, minimum_calls=1, window_calls=1, window_s=1,
        cooldown_s=0.001, max_cooldown_s=0.001, permits=1, half_open_limit_s=0.001,
    )  # fmt: skip
    assert call(tiny, NEW, "F").state == "open"
    Breaker(failure_rate=1, slow_rate=1, minimum_calls=10_000, window_calls=10_000, window_s=3600, cooldown_factor=1000)


def test_fields_are_kept_as_plain_numbers():
    """60, 60.0, a fraction and a numpy number are one policy, with one form in the log."""
    plain = Breaker(slow_call_s=60.0, failure_rate=0.25, minimum_calls=4)
    for other in (
        Breaker(slow_call_s=60, failure_rate=Fraction(1, 4), minimum_calls=4.0),
        Breaker(slow_call_s=np.float64(60), failure_rate=np.float64(0.25), minimum_calls=np.int64(4)),
    ):
        assert other == plain
        assert json.dumps(params_of(other)) == json.dumps(params_of(plain))
    assert Breaker(**json.loads(json.dumps(params_of(plain)))) == plain


def test_a_count_window_never_needs_more_results_than_it_holds():
    """A minimum of ten with a window of four is a minimum of four."""
    breaker = Breaker(minimum_calls=10, window_calls=4)
    assert calls(breaker, NEW, "FFF").state == "closed"
    assert calls(breaker, NEW, "FFFF").state == "open"


def test_values_cannot_be_changed():
    """A policy, a circuit and a permit stay what they are."""
    for value, field in ((Breaker(), "permits"), (NEW, "state"), (Permit(epoch=0, started_s=0.0), "epoch")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field, 1)


# -- the log's form


@pytest.mark.parametrize("breaker", [Breaker(permits=2), Breaker(permits=2, window_s=5)], ids=["count", "time"])
def test_a_circuit_comes_back_from_json(breaker):
    """What the log keeps of a circuit makes the same circuit again, in every state on its way."""
    closed = call(breaker, calls(breaker, NEW, "Ff", 3.0), "S", 4.0)
    probing, _ = admit_all(breaker, half_open(breaker), 3, 30.0)
    for circuit in (NEW, closed, opened(breaker), probing, breaker.force(NEW, "metrics_only", 1.0)):
        assert Circuit.from_dict(json.loads(json.dumps(circuit.as_dict()))) == circuit


def test_again_refuses_an_event_that_there_is_not():
    """A row that this version does not know is not decided in some other way."""
    with pytest.raises(LLMValidationError, match="event"):
        Breaker().again({"event": "guess", "circuit": NEW.as_dict(), "now_s": 0.0})
