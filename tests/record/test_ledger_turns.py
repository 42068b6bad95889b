"""Turns at the accounts in a folder: none is waited for in an event loop, and an interrupt spoils none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys

import pytest

from tests.act.wire.harness import NO_RETRY, REQUEST, Scripted, Step, chain, raised
from workbench.act.world import World
from workbench.decide.budget import Account
from workbench.errors import LLMError, LLMTimeoutError
from workbench.record import accounts as books_module
from workbench.record import ledger as ledger_module
from workbench.record.accounts import Books, line_of
from workbench.record.ledger import FileLedger
from workbench.record.lock import try_lock

SCOPES = ("run:r1", "model:p:m", "month:2026-11")


@pytest.fixture
def folder(tmp_path):
    """Where the accounts are; not made yet."""
    return tmp_path / "log" / "ledger"


@pytest.fixture
def no_sleep(monkeypatch):
    """Whoever stops the thread fails the test."""

    def stopped(_):
        raise AssertionError("the event loop stands still")

    monkeypatch.setattr(ledger_module.time, "sleep", stopped)


def seen(folder, scope="month:2026-11"):
    """Spent, reserved and uncertain of a scope, as a process that comes anew sees them."""
    account = FileLedger(folder, {}).balance(scope)
    return account.spent, account.reserved, account.uncertain


@contextlib.contextmanager
def held(folder):
    """The lock as another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "accounts.lock").open("ab") as file:
        assert try_lock(file.fileno())
        yield


# -- in an event loop


@pytest.mark.usefixtures("no_sleep")
def test_a_held_lock_stops_no_loop_and_the_call_ends_at_its_deadline(folder):
    """Another task goes on ticking; after 1 s three calls are told who has the accounts, and nothing was sent."""
    world = World.virtual()
    model, ticks = Scripted("p:m", world), []
    one = chain(world, model, ledger=FileLedger(folder, {"model:*": 10**6}), timeout_s=1.0, retry=NO_RETRY)

    async def tick():
        while True:
            ticks.append(world.now_s())
            await world.sleep(0.05)

    async def story():
        ticking = asyncio.create_task(tick())
        try:
            return await asyncio.gather(*(one.complete(REQUEST) for _ in range(3)), return_exceptions=True)
        finally:
            ticking.cancel()

    with held(folder):
        errors = world.run(story())
    assert [type(error) for error in errors] == [LLMTimeoutError] * 3
    assert {error.code for error in errors} == {"timeout.deadline"}
    assert all("held by another process" in error.message for error in errors)
    assert world.now_s() == pytest.approx(1.0)
    assert len(ticks) >= 20
    assert model.seen == []


@pytest.mark.usefixtures("no_sleep")
def test_a_call_goes_on_when_the_lock_is_free_again(folder):
    """Held for 0.3 s, the accounts are asked again soon after; the call is admitted and booked."""
    world = World.virtual()
    ledger = FileLedger(folder, {"model:*": 10**6})
    one = chain(world, Scripted("p:m", world, (Step("42", after_s=1.0),)), ledger=ledger)

    async def story():
        with held(folder):
            call = asyncio.create_task(one.complete(REQUEST))
            await world.sleep(0.3)
        return await call

    assert world.run(story()).text == "42"
    assert world.now_s() < 1.35
    assert ledger.balance("model:p:m").reserved == 0


def test_a_failing_disk_is_not_waited_for(tmp_path):
    """Only a held lock is: where no folder can be made, the call is refused at once."""
    (tmp_path / "file").write_text("")
    world = World.virtual()
    one = chain(world, Scripted("p:m", world), ledger=FileLedger(tmp_path / "file" / "ledger", {}), retry=NO_RETRY)
    assert raised(world, one.complete(REQUEST)).code == "storage.readonly"
    assert world.now_s() == 0.0


@pytest.mark.usefixtures("no_sleep")
def test_a_settlement_under_a_held_lock_is_written_by_a_timer(folder):
    """It is set aside in full for everybody until then, and written when nobody calls any more."""
    world, ledger = World.virtual(), FileLedger(folder, {})
    told = []

    async def story():
        ledger.reserve(SCOPES, 9)
        with held(folder):
            ledger.settle(SCOPES, 9, 4)
            await world.sleep(3.0)
        told.append(lines(folder)[-1][0])
        await world.sleep(ledger_module.LATEST_S)
        told.append(lines(folder)[-1][0])

    world.run(story())
    assert told == ["r", "p"]
    assert seen(folder) == (4, 0, 0)


def lines(folder):
    """The rows of the file."""
    return [json.loads(row[9:]) for row in (folder / "accounts.ledger").read_text("ascii").splitlines()]


@pytest.mark.parametrize("how", ["close", "balance", "reserve", "exit"])
def test_a_settlement_that_is_late_when_its_loop_ends_is_written_with_the_next_turn(folder, how):
    """The loop's timer never comes; any turn of the object writes it, and the end of the process."""
    ledger = FileLedger(folder, {})

    async def story():
        ledger.reserve(SCOPES, 9)
        with held(folder):
            ledger.settle(SCOPES, 9, 4)

    asyncio.run(story())
    assert lines(folder)[-1][0] == "r"
    if how == "exit":
        ledger_module._write_behind()
    else:
        {"close": ledger.close, "balance": ledger.balances, "reserve": lambda: ledger.reserve(SCOPES, 0)}[how]()
    if how == "reserve":
        assert lines(folder)[-1][0] == "r", "what is free writes nothing"
        ledger.reserve(SCOPES, 1)
        assert seen(folder) == (4, 1, 0)
    else:
        assert seen(folder) == (4, 0, 0)
    assert ledger not in ledger_module._behind


@pytest.mark.usefixtures("no_sleep")
def test_what_others_have_left_is_booked_by_the_first_turn_after_a_held_lock(folder):
    """Opened in a loop under a held lock, the ledger does what opening does as soon as it can."""
    lost = FileLedger(folder, {})
    lost.reserve(SCOPES, 40)
    del lost

    async def story():
        ledger = FileLedger(folder, {})
        with held(folder):
            ledger.open()
            assert ledger.reserve(SCOPES, 0) is None, "what is free waits for no lock"
        assert ledger.reserve(["run:other"], 1) is None
        return [row[0] for row in lines(folder)]

    assert asyncio.run(story()) == ["#ledger", "r", "g", "r"]


def test_who_waits_for_the_lock_keeps_no_other_thread_waiting(folder, monkeypatch):
    """A thread that waits for another process holds nothing that the thread of a loop needs."""
    ledger = FileLedger(folder, {}, patience_s=0.01)
    guarded = []
    monkeypatch.setattr(ledger_module.time, "sleep", lambda _: guarded.append(ledger._guard.locked()))
    with held(folder), pytest.raises(LLMError, match=r"waited 0\.01 s"):
        ledger.reserve(SCOPES, 1)
    assert set(guarded) == {False}


def test_settlements_that_a_loop_has_kept_take_no_thread_its_patience(folder, monkeypatch):
    """Two are late, but nobody has waited in vain yet: a plain call waits; the next one does so no more."""
    ledger, waited = FileLedger(folder, {}, patience_s=0.01), []
    monkeypatch.setattr(ledger_module.time, "sleep", waited.append)

    async def story():
        for _ in range(2):
            ledger.settle(["run:r1"], 2, 1)

    for _ in range(2):
        ledger.reserve(["run:r1"], 2)
    with held(folder):
        asyncio.run(story())
        assert waited == []
        for _ in range(2):
            with pytest.raises(LLMError, match="held by another process"):
                ledger.reserve(["run:r1"], 1)
            waited.append("told")
    assert len(waited) > 2
    assert waited.index("told") == len(waited) - 2
    assert seen(folder, "run:r1") == (0, 4, 0)
    ledger.close()
    assert seen(folder, "run:r1") == (2, 0, 0)


# -- interrupts


class Interrupt:
    """Raises KeyboardInterrupt at the nth call, return, or end of a system call in the ledger's modules."""

    def __init__(self, nth):
        self.left, self.fired = nth, False

    def __call__(self, frame, event, _):
        if event == "c_call" or not frame.f_code.co_filename.endswith(
            ("ledger.py", "accounts.py", "owners.py", "lock.py")
        ):
            return
        if "record" in frame.f_code.co_filename and not self.fired:
            self.left -= 1
            if self.left < 0:
                self.fired = True
                raise KeyboardInterrupt


@pytest.mark.parametrize("act", ["reserve", "settle", "balance", "open", "close"])
def test_an_interrupt_at_any_moment_leaves_no_lock_and_doubles_nothing(tmp_path, act):
    """Whatever was cut short has happened once or not at all, others get the lock, and the next call goes on."""
    nth, fired = 0, True
    while fired:
        folder = tmp_path / str(nth)
        ledger = FileLedger(folder, {})
        ledger.reserve(SCOPES, 5)
        ledger.reserve(SCOPES, 6)
        do = {
            "reserve": lambda ledger=ledger: ledger.reserve(SCOPES, 7),
            "settle": lambda ledger=ledger: ledger.settle(SCOPES, 5, 4),
            "balance": lambda ledger=ledger: ledger.balance("run:r1"),
            "open": ledger.open,
            "close": ledger.close,
        }[act]
        interrupt = Interrupt(nth)
        sys.setprofile(interrupt)
        try:
            do()
        except KeyboardInterrupt:
            assert interrupt.fired
        finally:
            sys.setprofile(None)
        fired, nth = interrupt.fired, nth + 1
        with held(folder):
            assert not ledger._guard.locked(), nth
        found = {"reserve": {(0, 11, 0), (0, 18, 0)}, "settle": {(0, 11, 0), (4, 6, 0)}}.get(act, {(0, 11, 0)})
        account = ledger.balance("run:r1")
        before = (account.spent, account.reserved, account.uncertain)
        assert before in found, (nth, before)
        ledger.settle(SCOPES, 6, 3)
        assert seen(folder) == (before[0] + 3, before[1] - 6, 0), nth
    assert nth > {"close": 3}.get(act, 10)


def test_a_settlement_that_was_written_when_the_interrupt_came_is_written_once(folder, monkeypatch):
    """Room for two calls of 1000, one of them settled under an interrupt: 1000 are spent, 1000 set aside."""
    ledger, write = FileLedger(folder, {"run:*": 2000}), books_module.os.write
    for _ in range(2):
        ledger.reserve(SCOPES, 1000)

    def written(fd, data):
        write(fd, data)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(books_module.os, "write", written)
        with pytest.raises(KeyboardInterrupt):
            ledger.settle(SCOPES, 1000, 1000)
    assert ledger.balance("run:r1") == Account(limit=2000, spent=1000, reserved=1000)
    assert [row[0] for row in lines(folder)] == ["#ledger", "r", "r", "p"]


def test_a_settlement_is_known_by_its_number_after_a_rewriting_too():
    """The same line once more changes nothing; the next number, and the same of another owner, do."""
    books = Books()
    row = ["p", "a", 1, 5, 4, 0, "run:r1"]
    for each in (["r", "a", 10, "run:r1"], row, row):
        books.apply(each)
    books.prune()
    again = Books()
    for each in list(books.rows()):
        again.apply(each)
    again.apply(row)
    assert (again.accounts, books.accounts) == ({"run:r1": [4, 5, 0]},) * 2
    again.apply(["p", "a", 2, 5, 1, 0, "run:r1"])
    again.apply(["p", "b", 1, 0, 2, 0, "run:r1"])
    assert again.accounts == {"run:r1": [7, 0, 0]}


def test_numbers_of_settlements_do_not_pile_up(monkeypatch):
    """Of owners that have nothing set aside only the newest are remembered."""
    monkeypatch.setattr(books_module, "KEPT_NUMBERS", 2)
    books = Books()
    books.apply(["r", "0", 2, "run:r1"])
    for owner in range(5):
        books.apply(["p", str(owner), 1, 1, 1, 0, "run:r1"])
    books.prune()
    assert set(books.numbers) == {"0", "3", "4"}


def test_accounts_of_the_first_form_go_on_in_this_one(folder):
    """Settlements without numbers count as before; the file is brought to the form of this version at once."""
    folder.mkdir(parents=True)
    rows = [["#ledger", 1], ["a", "run:r1", 7, 2], ["r", "x", 10, "run:r1"], ["s", "x", 10, 4, 0, "run:r1"]]
    (folder / "accounts.ledger").write_bytes(b"".join(map(line_of, rows)))
    ledger = FileLedger(folder, {})
    assert ledger.balance("run:r1") == Account(spent=11, uncertain=2)
    assert lines(folder) == [["#ledger", 2], ["a", "run:r1", 11, 2]]


# -- files that cannot be replaced, and folders that are


def test_where_an_open_file_cannot_be_replaced_calls_that_begin_at_once_are_admitted(folder, monkeypatch):
    """60 reservations in a row, the file beyond its size: each is in the accounts, and so are their settlements."""
    monkeypatch.setattr(ledger_module, "REWRITE_BYTES", 1000)
    ledger = FileLedger(folder, {})
    ledger.open()
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "in use")))
        assert [ledger.reserve(SCOPES, 10) for _ in range(60)] == [None] * 60
        assert seen(folder) == (0, 600, 0)
        for _ in range(60):
            ledger.settle(SCOPES, 10, 3)
    assert seen(folder) == (180, 0, 0)


def test_what_is_reserved_after_the_folder_was_removed_is_under_way(folder):
    """The owner's file went with the folder; a new one says that the process lives."""
    ledger = FileLedger(folder, {})
    ledger.reserve(SCOPES, 10)
    ledger.settle(SCOPES, 10, 10)
    shutil.rmtree(folder)
    ledger.reserve(SCOPES, 60)
    assert seen(folder) == (0, 60, 0)
    ledger.settle(SCOPES, 60, 5)
    assert seen(folder) == (5, 0, 0)


def test_calls_from_before_the_removal_give_back_nothing_of_those_after_it(folder):
    """A call of 20 was under way when the folder went: its settlement adds what it cost, and 60 stay set aside."""
    ledger = FileLedger(folder, {})
    ledger.reserve(SCOPES, 20)
    shutil.rmtree(folder)
    ledger.reserve(SCOPES, 60)
    ledger.settle(SCOPES, 20, 15)
    assert seen(folder) == (15, 60, 0)
    ledger.settle(SCOPES, 60, 5)
    assert seen(folder) == (20, 0, 0)
    ledger.close()
    assert sorted(path.name for path in folder.iterdir()) == ["accounts.ledger", "accounts.lock"]
