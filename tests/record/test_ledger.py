"""The accounts in a folder: shared by every handle on it, whole after any damage, and typed where they fail."""

from __future__ import annotations

import logging
import os
import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from workbench.decide.budget import Account
from workbench.errors import LLMError, LLMValidationError
from workbench.record import accounts as books_module
from workbench.record import ledger as ledger_module
from workbench.record.accounts import line_of
from workbench.record.ledger import FileLedger
from workbench.record.lock import try_lock

SCOPES = ("run:r1", "model:openai:gpt", "month:2026-11")


@pytest.fixture
def folder(tmp_path):
    """Where the accounts are; not made yet."""
    return tmp_path / "log" / "ledger"


def seen(folder, scope="month:2026-11"):
    """Spent, reserved and uncertain of a scope, as a process that comes anew sees them."""
    account = FileLedger(folder, {}).balance(scope)
    return account.spent, account.reserved, account.uncertain


def paid(folder, actual, scopes=SCOPES, *, times=1):
    """Book so much from a handle of its own that is closed again."""
    ledger = FileLedger(folder, {})
    for _ in range(times):
        assert ledger.reserve(scopes, actual) is None
        ledger.settle(scopes, actual, actual)
    ledger.close()


def lines(folder):
    return (folder / "accounts.ledger").read_bytes().splitlines(keepends=True)


# -- what is shared


def test_two_handles_share_every_account(folder):
    """What one sets aside the other cannot have; what one spends is spent for both."""
    one, two = FileLedger(folder, {"run:*": 100}), FileLedger(folder, {"run:*": 100})
    assert one.reserve(SCOPES, 60) is None
    assert (two.reserve(SCOPES, 60).reserved, two.balance("run:r1").left) == (60, 40)
    one.settle(SCOPES, 60, 30)
    assert two.reserve(SCOPES, 60) is None
    assert one.balances() == two.balances()
    assert one.balance("run:r1") == Account(limit=100, spent=30, reserved=60)


def test_each_process_applies_its_own_limits(folder):
    """One account, two limits: the careful one stops where the other goes on."""
    careful, free = FileLedger(folder, {"month:*": 50}), FileLedger(folder, {"month:*": 500})
    assert free.reserve(SCOPES, 45) is None
    assert careful.reserve(SCOPES, 45).limit == 50
    assert free.reserve(SCOPES, 45) is None


def test_months_and_models_go_on_after_a_restart(folder):
    """What was spent in the month and by the model is there when everything was closed and opened again."""
    paid(folder, 70)
    ledger = FileLedger(folder, {"month:*": 100, "model:*": 80})
    assert ledger.balance("month:2026-11") == Account(limit=100, spent=70)
    said = ledger.reserve(["run:r2", *SCOPES[1:]], 20)
    assert (said.scope, said.spent, said.may_fit_later) == ("model:openai:gpt", 70, False)
    assert ledger.reserve(["run:r2", "model:other", "month:2026-11"], 30) is None


def test_nobody_settles_what_another_has_set_aside(folder):
    """A handle that settles another's reservation is refused, and nothing changes."""
    one, two = FileLedger(folder, {}), FileLedger(folder, {})
    one.reserve(SCOPES, 5)
    two.reserve(SCOPES, 3)
    with pytest.raises(LLMValidationError, match="only 3 is set aside"):
        two.settle(SCOPES, 5, 5)
    assert seen(folder) == (0, 8, 0)


def test_a_closed_ledger_settles_what_is_under_way_and_opens_again(folder):
    """Closing leaves no file of its own behind, but only once the last call has settled."""
    ledger = FileLedger(folder, {"month:*": 10})
    ledger.reserve(SCOPES, 10)
    ledger.close()
    assert FileLedger(folder, {"month:*": 10}).reserve(SCOPES, 1).may_fit_later, "its owner lives"
    ledger.settle(SCOPES, 10, 4)
    assert not list(folder.glob("owner-*"))
    assert ledger.reserve(SCOPES, 6) is None
    ledger.settle(SCOPES, 6, 6)
    ledger.close()
    assert sorted(path.name for path in folder.iterdir()) == ["accounts.ledger", "accounts.lock"]
    assert seen(folder) == (10, 0, 0)


def test_a_free_call_touches_no_file(folder):
    """What changes nothing is not written once its accounts are there."""
    ledger = FileLedger(folder, {"run:*": 0})
    ledger.reserve(SCOPES, 0)
    before = lines(folder)
    for _ in range(3):
        assert ledger.reserve(SCOPES, 0) is None
        ledger.settle(SCOPES, 0, 0)
    assert lines(folder) == before


# -- owners that are gone


def test_bud_settle_fail_of_a_lost_owner_is_possibly_billed(folder):
    """What nobody will settle any more is spent and uncertain for everybody, once, and its file is cleared away."""
    lost = FileLedger(folder, {})
    lost.reserve(SCOPES, 40)
    del lost
    ledger = FileLedger(folder, {"month:*": 100})
    ledger.open()
    assert ledger.balance("month:2026-11") == Account(limit=100, spent=40, uncertain=40)
    assert not list(folder.glob("owner-*"))
    assert seen(folder) == (40, 0, 40)


def test_bud_settle_fail_tells_a_waiting_call_that_it_waits_in_vain(folder):
    """While the owner lives a call may fit later; when it is gone, the next look says that it never will."""
    lost, ledger = FileLedger(folder, {}), FileLedger(folder, {"run:*": 100})
    lost.reserve(SCOPES, 60)
    assert ledger.reserve(SCOPES, 60).may_fit_later
    del lost
    said = ledger.reserve(SCOPES, 60)
    assert (said.spent, said.reserved, said.may_fit_later) == (60, 0, False)
    assert ledger.reserve(SCOPES, 40) is None


@pytest.mark.parametrize("uncertain", [False, True])
def test_bud_settle_fail_and_a_late_settlement_do_not_count_twice(folder, uncertain):
    """An owner that was taken for gone and settles all the same corrects what was booked for it."""
    slow = FileLedger(folder, {})
    slow.reserve(SCOPES, 60)
    slow.reserve(SCOPES, 10)
    for path in folder.glob("owner-*"):
        path.unlink()
    assert seen(folder) == (70, 0, 70)
    slow.settle(SCOPES, 60, 25, uncertain=uncertain)
    assert seen(folder) == (35, 0, 10 + 25 * uncertain)
    slow.settle(SCOPES, 10, 0)
    assert seen(folder) == (25, 0, 25 * uncertain)


# -- the size of the file


def test_the_file_stays_small_and_says_the_same(folder, monkeypatch):
    """Rewritten to its sum, the file is bounded; amounts set aside, other handles and lost owners survive it."""
    monkeypatch.setattr(ledger_module, "REWRITE_BYTES", 3000)
    other, lost, ledger = FileLedger(folder, {}), FileLedger(folder, {}), FileLedger(folder, {})
    other.reserve(SCOPES, 7)
    lost.reserve(SCOPES, 5)
    del lost
    ledger.open()
    for turn in range(200):
        assert ledger.reserve(SCOPES, 3) is None
        ledger.settle(SCOPES, 3, 2, uncertain=turn % 2 == 0)
        assert (folder / "accounts.ledger").stat().st_size < 3200
    assert seen(folder) == (405, 7, 205)
    other.settle(SCOPES, 7, 1)
    assert ledger.balances() == other.balances()
    assert seen(folder) == (406, 0, 205)
    assert not list(folder.glob("*.new"))


def test_old_runs_are_forgotten_and_nothing_else(folder, monkeypatch):
    """The newest runs, those with calls under way, and all models and months are kept."""
    monkeypatch.setattr(ledger_module, "REWRITE_BYTES", 2000)
    monkeypatch.setattr(books_module, "KEPT_RUNS", 5)
    ledger = FileLedger(folder, {})
    ledger.reserve(["run:under-way", "month:2025-01"], 1)
    for number in range(60):
        scopes = [f"run:{number}", f"model:{number}", "month:2026-11"]
        ledger.reserve(scopes, 2)
        ledger.settle(scopes, 2, 2)
    found = ledger.balances()
    runs = [scope for scope in found if scope.startswith("run:")]
    assert len(runs) < 30
    assert {f"run:{number}" for number in range(55, 60)} | {"run:under-way"} <= set(runs)
    assert sum(scope.startswith("model:") for scope in found) == 60
    assert (found["month:2026-11"].spent, found["month:2025-01"].reserved) == (120, 1)


def test_where_an_open_file_cannot_be_replaced_it_goes_on_growing(folder, monkeypatch, caplog):
    """As on Windows while another process has it open: said once, and no call is lost or refused."""
    monkeypatch.setattr(ledger_module, "REWRITE_BYTES", 1000)
    paid(folder, 1)
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "in use")))
    with caplog.at_level(logging.WARNING, "workbench.record"):
        paid(folder, 1, times=8)
    assert len(caplog.records) == 1
    monkeypatch.undo()
    assert seen(folder) == (9, 0, 0)
    assert not list(folder.glob("*.new"))


# -- damage


def test_a_torn_last_line_is_an_operation_that_did_not_happen(folder):
    """Cut after any byte of the last line, the accounts are those of the lines before, and go on from there."""
    paid(folder, 3, times=3)
    whole = (folder / "accounts.ledger").read_bytes()
    last = len(lines(folder)[-1])
    for cut in range(1, last):
        (folder / "accounts.ledger").write_bytes(whole[:-cut])
        # The last settlement is missing, and its owner is gone: the worst case stays booked.
        assert seen(folder) == (9, 0, 3), cut
        paid(folder, 2)
        assert seen(folder) == (11, 0, 3), cut


def test_a_torn_line_of_a_living_process_is_removed_by_the_next(folder):
    """Half a line that a killed process left does not spoil the line of the next."""
    ledger = FileLedger(folder, {})
    ledger.reserve(SCOPES, 5)
    with (folder / "accounts.ledger").open("ab") as file:
        file.write(line_of(["r", "somebody", 50, *SCOPES])[:-4])
    ledger.settle(SCOPES, 5, 5)
    assert seen(folder) == (5, 0, 0)


@pytest.mark.parametrize(
    ("damage", "spent"),
    [
        (lambda rows: rows[0] + rows[1] + rows[2][:9] + b"X" + rows[2][10:] + b"".join(rows[3:]), 6),
        (lambda rows: b"".join(rows[:2]) + b"\xff\xfe\n" + b"".join(rows[2:]), 6),
        (lambda rows: b"".join(rows) + b"\0" * 100, 6),
        (lambda rows: b"X" + b"".join(rows)[1:], 6),
        (lambda rows: b"".join(rows[1:]), 6),
        (lambda rows: b"".join(rows[:3]) + line_of(["?", 1]) + b"".join(rows[3:]), 6),
        (lambda rows: b"".join(rows[:4]) + line_of(["r", 1]) + b"".join(rows[4:]), 6),
        (lambda rows: b"not a ledger\n", 0),
        (lambda rows: b"not a ledger", 0),
        (lambda rows: b"\0" * 4096, 0),
        (lambda rows: b"", 0),
    ],
    ids=["flip", "line", "zeros", "head", "headless", "kind", "form", "text", "word", "blank", "empty"],
)
def test_a_damaged_file_is_told_once_kept_aside_and_gone_on_from(folder, damage, spent):
    """The error names the file that was kept; what could be read counts on, and the next call is admitted."""
    paid(folder, 3, times=2)
    spoiled = damage(lines(folder))
    (folder / "accounts.ledger").write_bytes(spoiled)
    ledger = FileLedger(folder, {})
    with pytest.raises(LLMError) as caught:
        ledger.reserve(SCOPES, 1)
    error = caught.value
    (aside,) = folder.glob("*.corrupt")
    assert (error.code, error.retryable) == ("storage.corrupt", True)
    assert aside.name in error.message
    assert len(error.next_step) <= 160
    assert aside.read_bytes() == spoiled
    assert ledger.reserve(SCOPES, 1) is None
    ledger.settle(SCOPES, 1, 1)
    assert seen(folder)[0] == spent + 1


def test_damage_met_by_a_settlement_is_told_by_the_next_call(folder):
    """A settlement never fails for the disk: it is booked, and the next reservation says what was found."""
    ledger = FileLedger(folder, {})
    ledger.reserve(SCOPES, 5)
    with (folder / "accounts.ledger").open("ab") as file:
        file.write(b"???\n")
    ledger.settle(SCOPES, 5, 4)
    with pytest.raises(LLMError) as caught:
        ledger.reserve(SCOPES, 1)
    assert caught.value.code == "storage.corrupt"
    assert ledger.reserve(SCOPES, 1) is None
    assert seen(folder)[:2] == (4, 1)


def test_a_file_cut_short_under_a_living_process_is_written_again(folder):
    """What the process knows is not lost with the file's end."""
    paid(folder, 3, times=2)
    ledger = FileLedger(folder, {})
    ledger.reserve(SCOPES, 5)
    os.truncate(folder / "accounts.ledger", len(lines(folder)[0]))
    with pytest.raises(LLMError, match="could not be read"):
        ledger.reserve(SCOPES, 1)
    ledger.settle(SCOPES, 5, 5)
    assert seen(folder) == (11, 0, 0)


def test_a_newer_form_is_left_alone(folder):
    """A file of a later version is refused with the next step, and stays as it is."""
    folder.mkdir(parents=True)
    newer = line_of(["#ledger", 3]) + b"whatever follows\n"
    (folder / "accounts.ledger").write_bytes(newer)
    with pytest.raises(LLMError) as caught:
        FileLedger(folder, {}).open()
    assert caught.value.code == "storage.schema"
    assert (folder / "accounts.ledger").read_bytes() == newer


def test_a_removed_folder_begins_anew(folder):
    """Who removes the folder wants new accounts; calls under way are booked in them, with what they cost."""
    paid(folder, 50)
    one, two = FileLedger(folder, {}), FileLedger(folder, {"month:*": 30})
    one.reserve(SCOPES, 20)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert two.reserve(SCOPES, 10) is None
    one.settle(SCOPES, 20, 15)
    assert seen(folder) == (15, 10, 0)


def test_a_removed_folder_has_one_lock_again(folder):
    """A handle from before the removal waits for the lock that others take now, not for one that nobody sees."""
    old = FileLedger(folder, {}, patience_s=0.0)
    old.reserve(SCOPES, 20)
    (folder / "accounts.lock").unlink()
    with (folder / "accounts.lock").open("wb") as held:
        assert try_lock(held.fileno())
        with pytest.raises(LLMError) as caught:
            old.reserve(SCOPES, 1)
    assert caught.value.code == "storage.locked"
    assert old.reserve(SCOPES, 1) is None


def test_an_interrupt_between_the_file_and_the_memory_changes_no_account(folder, monkeypatch):
    """After KeyboardInterrupt in the middle of a reservation memory and file agree again."""
    ledger = FileLedger(folder, {})
    ledger.reserve(SCOPES, 5)

    def interrupted(self, row):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(books_module.Books, "apply", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ledger.reserve(SCOPES, 7)
    assert (ledger.balance("month:2026-11").reserved, seen(folder)) == (12, (0, 12, 0))
    ledger.settle(SCOPES, 5, 5)
    assert (ledger.balance("month:2026-11").reserved, seen(folder)) == (7, (5, 7, 0))


# -- storage that refuses


def test_what_is_no_folder_is_storage_readonly(tmp_path):
    """Where the folder cannot be made, the reservation is refused with a type and a next step."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LLMError) as caught:
        FileLedger(tmp_path / "file" / "ledger", {}).reserve(SCOPES, 1)
    assert (caught.value.code, caught.value.retryable) == ("storage.readonly", False)
    assert "--log" in caught.value.next_step


def test_a_held_lock_is_storage_locked_and_loses_no_settlement(folder):
    """A process that does not go on refuses others with a type; what they settle is written when it goes on."""
    ledger = FileLedger(folder, {}, patience_s=0.0)
    ledger.reserve(SCOPES, 5)
    ledger.reserve(SCOPES, 6)
    with (folder / "accounts.lock").open("r+b") as held:
        assert try_lock(held.fileno())
        ledger.settle(SCOPES, 5, 4)
        ledger.settle(SCOPES, 6, 3)
        with pytest.raises(LLMError) as caught:
            ledger.reserve(SCOPES, 1)
    assert (caught.value.code, caught.value.retryable) == ("storage.locked", True)
    assert seen(folder) == (0, 11, 0)
    assert ledger.reserve(SCOPES, 1) is None
    assert seen(folder) == (7, 1, 0)


def test_bud_settle_fail_at_the_end_leaves_the_worst_case_booked(folder, caplog):
    """A settlement that cannot be written before closing is told; until it is, what was reserved is possibly billed."""
    ledger = FileLedger(folder, {}, patience_s=0.0)
    ledger.reserve(SCOPES, 9)
    with (folder / "accounts.lock").open("r+b") as held, caplog.at_level(logging.WARNING, "workbench.record"):
        assert try_lock(held.fileno())
        ledger.settle(SCOPES, 9, 4)
        ledger.close()
    assert ["kept in memory" in caplog.text, "stays booked" in caplog.text] == [True, True]
    assert seen(folder) == (9, 0, 9)
    ledger.open()
    assert seen(folder) == (4, 0, 0)


# -- any order of events


class TwoHandles(RuleBasedStateMachine):
    """Two handles on one folder, one of them dropped and made again at times, beside lists that are added up."""

    @initialize(tmp=st.integers(0, 2**60), limits=st.lists(st.none() | st.integers(0, 60), min_size=3, max_size=3))
    def _open(self, tmp, limits):
        self.limits = dict(zip(SCOPES, limits, strict=True))
        given = {scope: limit for scope, limit in self.limits.items() if limit is not None}
        self.make = lambda: FileLedger(self.folder, given)
        self.folder = f"{self.base}/{tmp:x}-{next(self.numbers)}"
        self.handles = [self.make(), self.make()]
        self.open = [[], []]  # (scopes, amount) of the calls under way, by handle
        self.booked = []  # (scopes, spent, uncertain)

    def _spent(self, scope):
        return sum(spent for scopes, spent, _ in self.booked if scope in scopes)

    def _reserved(self, scope):
        return sum(amount for calls in self.open for scopes, amount in calls if scope in scopes)

    @rule(who=st.integers(0, 1), scopes=st.sets(st.sampled_from(SCOPES), min_size=1), amount=st.integers(0, 30))
    def reserve(self, who, scopes, amount):
        """A call gets the money exactly when every scope has it, and hears whether waiting helps."""
        names = sorted(scopes)
        left = {s: self.limits[s] - self._spent(s) for s in names if amount and self.limits[s] is not None}
        said = self.handles[who].reserve(names, amount)
        assert (said is None) == all(amount <= room - self._reserved(s) for s, room in left.items())
        if said is None:
            self.open[who].append((names, amount))
        else:
            assert said.may_fit_later == all(amount <= room for room in left.values())

    @rule(who=st.integers(0, 1), which=st.integers(0, 100), actual=st.integers(0, 40), uncertain=st.booleans())
    def settle(self, who, which, actual, uncertain):
        """A call under way ends with what it cost."""
        if self.open[who]:
            names, amount = self.open[who].pop(which % len(self.open[who]))
            self.handles[who].settle(names, amount, actual, uncertain=uncertain)
            self.booked.append((names, actual, actual if uncertain else 0))

    @rule(who=st.integers(0, 1))
    def die(self, who):
        """A handle goes with calls under way: the worst case of each is spent and uncertain."""
        self.handles[who] = None
        self.handles[who] = self.make()
        self.handles[who].open()
        self.booked += [(names, amount, amount) for names, amount in self.open[who]]
        self.open[who] = []

    @rule(who=st.integers(0, 1))
    def close(self, who):
        """Closing changes nothing."""
        self.handles[who].close()

    @invariant()
    def both_see_the_sums(self):
        """Each handle sees the sum of all events."""
        if hasattr(self, "handles"):
            for scope in SCOPES:
                wanted = Account(
                    limit=self.limits[scope],
                    spent=self._spent(scope),
                    reserved=self._reserved(scope),
                    uncertain=sum(unsure for scopes, _, unsure in self.booked if scope in scopes),
                )
                assert [handle.balance(scope) for handle in self.handles] == [wanted, wanted]


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="a handle dies with its last reference")
def test_bud_race_of_two_handles_in_any_order_is_the_sum_of_its_events(tmp_path, monkeypatch):
    """Reserve, settle, die, close in any order, with a rewriting every few lines: the accounts are the sums."""
    monkeypatch.setattr(ledger_module, "REWRITE_BYTES", 1500)
    TwoHandles.base, TwoHandles.numbers = tmp_path, iter(range(10**9))
    run = TwoHandles.TestCase()
    run.settings = settings(max_examples=25, stateful_step_count=30)
    run.runTest()
