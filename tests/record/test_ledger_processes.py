"""The accounts in a folder under real processes: exact when they race, never lower than paid when they are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.processes import environment, output
from workbench.record.ledger import FileLedger

SCOPES = ("run:r1", "model:p:m", "month:2026-11")
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, and limits of a process, are POSIX")

PROLOGUE = """
import os, sys
from workbench.record import ledger as module
from workbench.record.ledger import FileLedger
folder, SCOPES = sys.argv[1], ("run:r1", "model:p:m", "month:2026-11")
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""

RACE = """
import asyncio, json
import httpx
from workbench.act.admission import Admission, Discipline
from workbench.act.failover import Chain
from workbench.act.http import Http
from workbench.act.live import HttpModel
from workbench.act.provider import Provider
from workbench.act.world import MemorySink, World
from workbench.facts import Failure, ModelCard, Request
asked = 0
def answer(request):
    global asked
    asked += 1
    usage = {"prompt_tokens": 17, "completion_tokens": 100, "total_tokens": 117}
    choice = {"index": 0, "message": {"content": "42"}, "finish_reason": "stop"}
    return httpx.Response(200, json={"id": "r", "model": "m", "choices": [choice], "usage": usage})
async def main():
    world = World.real(MemorySink())
    card = ModelCard(name="p:m", prompt_usd_per_mtok=1.0, completion_usd_per_mtok=2.0, max_output_tokens=100)
    provider = Provider(name="p", wire="openai", base_url="http://p.test/v1", auth="none")
    model = HttpModel(provider, "m", Http(transport=httpx.MockTransport(answer)), world, cards={"p:m": card})
    ledger = FileLedger(folder, {"month:*": int(sys.argv[2])})
    admission = Admission(world, Discipline(timeout_s=15.0), ledger=ledger, limited=True)
    chain = Chain(admission, (model,))
    os.read(start, 1)  # ends for all children at once
    replies = await asyncio.gather(*(chain.ask(Request.of("How many?", item_id=str(n))) for n in range(32)))
    failed = [reply for reply in replies if isinstance(reply, Failure)]
    assert len(failed) + asked == 32
    ledger.close()
    say(asked, *sorted({failure.code for failure in failed}))
start, go = os.pipe()
children = []
for _ in range(8):
    children.append(os.fork())
    if not children[-1]:
        os.close(go)
        asyncio.run(main())
        os._exit(0)
os.close(go)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 8
"""


def child(code: str, *args: object) -> subprocess.Popen[str]:
    """A real process that runs the code with the folder and the other arguments."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROLOGUE) + textwrap.dedent(code), *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(code),
    )


def line(process: subprocess.Popen[str]) -> str:
    """The next line the process prints; its errors where there is none."""
    assert process.stdout is not None
    assert process.stderr is not None
    return process.stdout.readline().strip() or pytest.fail(process.stderr.read())


def seen(folder: Path) -> tuple[int, int, int]:
    """Spent, reserved and uncertain of the month, as a process that comes anew sees them."""
    found = {FileLedger(folder, {}).balance(scope) for scope in SCOPES}
    assert len(found) == 1, found
    account = found.pop()
    return account.spent, account.reserved, account.uncertain


@posix
def test_bud_race_of_8_processes_with_32_calls_admits_exactly_what_fits(tmp_path: Path) -> None:
    """256 calls of 0.000217 USD in 8 processes against room for 100 and a rest: 100 are sent, 156 refused."""
    # Of "How many?" 17 tokens at most at 1, and 100 of the answer at 2 micro-dollars: 217, and so the answer costs.
    budget = 100 * 217 + 216
    said = [words.split() for words in output(child(RACE, tmp_path / "ledger", budget)).splitlines()]
    assert len(said) == 8
    assert sum(int(words[0]) for words in said) == 100
    assert {code for words in said for code in words[1:]} == {"budget.exceeded"}
    months = FileLedger(tmp_path / "ledger", {"month:*": budget}).balances()
    (spent,) = {account.spent for scope, account in months.items() if scope.startswith(("month:", "model:"))}
    assert spent == 100 * 217 <= budget
    assert {account.reserved + account.uncertain + account.overrun for account in months.values()} == {0}


def test_bud_settle_fail_by_kill_9_is_possibly_billed_and_the_rest_exact(tmp_path: Path) -> None:
    """A killed process held 30 and had paid 5: the 30 become spent and uncertain, and 65 of 100 are left."""
    process = child(
        """
        ledger = FileLedger(folder, {})
        ledger.reserve(SCOPES, 10)
        ledger.settle(SCOPES, 10, 5)
        ledger.reserve(SCOPES, 10)
        ledger.reserve(SCOPES, 20)
        say("holding")
        sys.stdin.readline()
        """,
        tmp_path,
    )
    assert line(process) == "holding"
    ledger = FileLedger(tmp_path, {"month:*": 100})
    assert seen(tmp_path) == (5, 30, 0)
    assert ledger.reserve(SCOPES, 66).may_fit_later
    process.kill()
    process.communicate()
    assert not ledger.reserve(SCOPES, 66).may_fit_later
    assert ledger.reserve(SCOPES, 65) is None
    ledger.settle(SCOPES, 65, 65)
    assert seen(tmp_path) == (100, 0, 30)


def test_bud_settle_fail_under_sigkills_at_random_moments(tmp_path: Path) -> None:
    """24 kills of 4 writers, the file rewritten all the time: nothing acknowledged is lost, nothing stays open."""
    writer = """
        module.REWRITE_BYTES = 2500
        ledger = FileLedger(folder, {})
        while True:
            assert ledger.reserve(SCOPES, 10) is None
            ledger.settle(SCOPES, 10, 7)
            say(7)
        """
    chance, kills, acknowledged = random.Random(7), 24, 0
    writers = [child(writer, tmp_path) for _ in range(4)]
    for kill in range(kills):
        victim = writers.pop(0)
        for _ in range(chance.randrange(1, 60)):
            acknowledged += int(line(victim))
        victim.kill()
        assert victim.stdout is not None
        acknowledged += sum(map(int, victim.stdout.read().split()))  # not by communicate: it forgets what was buffered
        out, err = victim.communicate()
        assert (out, err) == ("", "")
        if kill < kills - 4:
            writers.append(child(writer, tmp_path))
        if kill % 6 == 0:
            assert FileLedger(tmp_path, {}).balance("month:2026-11").spent >= acknowledged
    FileLedger(tmp_path, {}).open()
    spent, reserved, uncertain = seen(tmp_path)
    assert reserved == 0
    # Each kill may have met one call that was not settled (10), or settled and not told (7).
    assert acknowledged <= spent <= acknowledged + 10 * kills
    assert uncertain <= 10 * kills
    assert (spent - uncertain) % 7 == 0
    assert uncertain % 10 == 0
    assert not list(tmp_path.glob("owner-*"))
    assert not list(tmp_path.glob("*.corrupt"))
    assert acknowledged > 3000


@posix
def test_bud_settle_fail_of_a_parent_is_not_the_childs(tmp_path: Path) -> None:
    """A forked child owns nothing of its parent's, cannot settle it, and does not keep it alive after a kill."""
    process = child(
        """
        from workbench.errors import LLMValidationError
        ledger = FileLedger(folder, {"month:*": 100})
        ledger.reserve(SCOPES, 60)
        pid = os.fork()
        if pid:
            os.kill(os.getpid(), 9)
        sys.stdin.readline()  # the parent is gone when the test says so
        try:
            ledger.settle(SCOPES, 60, 1)
        except LLMValidationError as error:
            say(error.code)
        say(ledger.reserve(SCOPES, 50).may_fit_later, ledger.reserve(SCOPES, 30))
        account = ledger.balance("month:2026-11")
        say(account.spent, account.reserved, account.uncertain)
        ledger.settle(SCOPES, 30, 20)
        ledger.close()
        """,
        tmp_path,
    )
    assert process.wait(30) == -signal.SIGKILL
    assert seen(tmp_path) == (60, 0, 60), "the child must not hold its parent's lock"
    out, err = process.communicate("go\n", timeout=30)
    assert (out.split("\n"), err) == (["validation.budget", "False None", "60 30 60", ""], "")
    assert seen(tmp_path) == (80, 0, 60)


@posix
def test_a_child_forked_while_threads_reserve_has_accounts_of_its_own(tmp_path: Path) -> None:
    """Children forked in the middle of other threads' turns reserve, settle and end; all of it adds up."""
    process = child(
        """
        import threading
        ledger, paid = FileLedger(folder, {}), [0, 0]
        going = True
        def work(number):
            while going:
                ledger.reserve(SCOPES, 5)
                ledger.settle(SCOPES, 5, 3)
                paid[number] += 3
        threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                ledger.reserve(SCOPES, 5)
                ledger.settle(SCOPES, 5, 4)
                ledger.close()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        going = False
        for thread in threads:
            thread.join()
        ledger.close()
        say(sum(paid) + 10 * 4)
        """,
        tmp_path,
    )
    paid = int(output(process))
    assert seen(tmp_path) == (paid, 0, 0)


@posix
def test_a_full_disk_refuses_reservations_and_keeps_settlements(tmp_path: Path) -> None:
    """Where a line does not fit it is taken back whole; the settlement is written when there is room again."""
    process = child(
        """
        import logging, resource
        from workbench.errors import LLMError
        logging.disable()
        ledger = FileLedger(folder, {})
        ledger.reserve(SCOPES, 20)
        ledger.reserve(SCOPES, 10)
        size = os.path.getsize(ledger.folder / "accounts.ledger")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 15, hard))
        for _ in range(2):
            try:
                ledger.reserve(SCOPES, 1)
            except LLMError as error:
                say(error.code, error.retryable, len(error.next_step) <= 160)
            assert os.path.getsize(ledger.folder / "accounts.ledger") == size
        ledger.settle(SCOPES, 20, 15)
        ledger.settle(SCOPES, 10, 5)
        try:
            ledger.reserve(SCOPES, 1)
        except LLMError as error:
            say(error.code)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        say(ledger.reserve(SCOPES, 1))
        account = ledger.balance("month:2026-11")
        say(account.spent, account.reserved)
        ledger.settle(SCOPES, 1, 0)
        """,
        tmp_path,
    )
    full = "storage.full True True"
    assert output(process).split("\n") == [full, full, "storage.full", "None", "20 1", ""]
    assert seen(tmp_path) == (20, 0, 0)


def test_the_accounts_are_read_as_json_lines(tmp_path: Path) -> None:
    """The file is plain text: a checksum and an array in each line, which any tool can read."""
    ledger = FileLedger(tmp_path, {})
    ledger.reserve(["run:a"], 3)
    text = (tmp_path / "accounts.ledger").read_text("ascii").splitlines()
    head, reservation = (json.loads(row[9:]) for row in text)
    assert head == ["#ledger", 2]
    assert (reservation[0], reservation[2:]) == ("r", [3, "run:a"])
