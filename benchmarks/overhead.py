"""What does a whole call cost beside other clients? CPU of the calling process, against a server that answers at once.

Ours is a call as a user has it: key, deadline, retry, breaker, budgets, rate limit, span, and the log on disk, moved
into DuckDB at the end of each batch; `ours` over its own connections, `ours-plain` over httpx's. All clients run in
processes of their own, take turns in random order, and check every answer.

Raw httpx is measured in three places. `httpx`, the base of the ratios, has an environment of its own, as pip installs
it; `httpx-here` is the one beside workbench. Both look four times a call, in the whole path, for the package sniffio,
which pip installs no more; `httpx-sniffio` has it, because the openai SDK beside it brings it, and is the cheapest.

Goals, as medians over the rounds: `ours-plain` at most 1.20 of `httpx-here` at concurrency 1; `ours` at most 0.65 of
`httpx` at 1, 0.30 at 32, 0.25 at 256, and at every one of them a tenth of LiteLLM's Router and a third of the openai
SDK.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from _overhead_figures import Costs, ratios, table, worst_ratio
from _overhead_places import PLACES
from _timing import finish, goal, median

HERE = Path(__file__).resolve().parent
BASE, HERE_BASE = "httpx", "httpx-here"
OWN = ("ours", "ours-plain", HERE_BASE)
PEERS = tuple(client for place in PLACES for client in place.clients)
# Who is compared with whom at which concurrency, and the most that it may cost.
LARGEST = {
    ("ours-plain", HERE_BASE, 1): 1.20,
    ("ours", BASE, 1): 0.65,
    ("ours", BASE, 32): 0.30,
    ("ours", BASE, 256): 0.25,
}
SHARES = {"router": 1 / 10, "openai": 1 / 3}
BATCH_S = 300.0  # longer than any batch takes: who has not answered by then hangs
KEPT = ("PATH", "SYSTEMROOT", "LANG", "TMPDIR", "TEMP")


class Worker:
    """A client in a process of its own, waiting for batches."""

    def __init__(self, client: str, python: str | Path, url: str, home: Path) -> None:
        home.mkdir()
        self.client = client
        self._said = home / "stderr.txt"
        # No proxy, key or setting of the developer's; LiteLLM otherwise asks the network for its prices.
        clean = {name: os.environ[name] for name in KEPT if name in os.environ}
        clean |= {"HOME": str(home), "USERPROFILE": str(home), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        command = [str(python), str(HERE / "_overhead_worker.py"), client, url, str(home)]
        with self._said.open("w") as stderr:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=clean, cwd=home
            )

    def answer(self) -> dict[str, Any]:
        """Its next line; RuntimeError with the end of what it said when it is gone or hangs."""
        assert self._process.stdout is not None
        watch = threading.Timer(BATCH_S, self._process.kill)
        watch.start()
        line = self._process.stdout.readline()
        watch.cancel()
        if not line:
            said = self._said.read_text("utf-8", "replace").strip()
            raise RuntimeError(f"{self.client} has ended: {said[-1500:] or 'without a word'}")
        return dict(json.loads(line))

    def batch(self, **order: int) -> dict[str, Any]:
        """What one batch cost."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def serving() -> Iterator[str]:
    """The address of a server that answers at once, for the length of the body."""
    command = [sys.executable, str(HERE / "_overhead_server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


@contextmanager
def working(clients: Sequence[str]) -> Iterator[dict[str, Worker]]:
    """The clients that can be had, each warm; the others are said."""
    pythons: dict[str, str | Path] = dict.fromkeys(OWN, sys.executable)
    for place in PLACES:
        wanted = [client for client in place.clients if client in clients]
        if wanted and (problem := place.made()):
            print(f"left out, {', '.join(wanted)}: {place.name} cannot be made: {problem}")
        elif wanted:
            pythons |= dict.fromkeys(wanted, place.python)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="workbench-overhead-")))
        url = stack.enter_context(serving())
        workers: dict[str, Worker] = {}
        for client in clients:
            if client not in pythons:
                continue
            worker = Worker(client, pythons[client], url, folder / client)
            stack.callback(worker.stop)
            try:
                worker.answer()
            except RuntimeError as error:
                if client in OWN:
                    raise
                print(f"left out, {client}: {error}")
            else:
                workers[client] = worker
        yield workers


def measured(workers: dict[str, Worker], rounds: int, calls: int, concurrencies: Sequence[int]) -> Costs:
    """CPU in microseconds a call, by client and concurrency; every round in an order of its own."""
    costs: dict[tuple[str, int], list[float]] = {(w, c): [] for c in concurrencies for w in workers}
    flushes: list[float] = []
    order = random.Random(rounds)
    for number in range(rounds):
        # All clients of one concurrency stand together: a ratio's two sides are seconds apart.
        for concurrency in order.sample(concurrencies, len(concurrencies)):
            for client in order.sample(list(workers), len(workers)):
                batch = max(calls, 4 * concurrency)
                try:
                    cost = workers[client].batch(calls=batch, concurrency=concurrency)
                except RuntimeError as error:
                    print(f"left out, {client} at concurrency {concurrency}: {error}", flush=True)
                    del workers[client]
                    costs = {at: found for at, found in costs.items() if at[0] != client}
                    continue
                costs[client, concurrency].append(cost["cpu_s"] / batch * 1e6)
                if client == "ours":
                    flushes.append(cost["flush_cpu_s"] / batch * 1e6)
        print(f"round {number + 1} of {rounds} is done", flush=True)
    if flushes:
        print(f"of a call of ours, moving its rows into DuckDB: {median(flushes):.0f} us CPU")
    return costs


def judged(costs: Costs, concurrencies: Sequence[int]) -> list[dict[str, object]]:
    """The goals that were measured; what was not is said."""
    results = []
    for (client, base, concurrency), limit in LARGEST.items():
        name = f"{client} at concurrency {concurrency}"
        if found := ratios(costs, client, base, concurrency):
            results.append(goal(name, median(found), limit, f"x {base}"))
        else:
            print(f"{name}: not measured")
    for peer, limit in SHARES.items():
        name = f"ours beside {peer}, worst over concurrency {', '.join(map(str, concurrencies))}"
        worst = worst_ratio(costs, "ours", peer, concurrencies)
        if worst is not None:
            results.append(goal(name, worst, limit, f"x {peer}"))
        else:
            print(f"{name}: not measured")
    return results


def main(rounds: int, calls: int, concurrencies: Sequence[int], clients: Sequence[str]) -> None:
    """Measure, print a table for each concurrency, and judge."""
    with working(clients) as workers:
        costs = measured(workers, rounds, calls, concurrencies)
        failed = [client for client in OWN if client in clients and client not in workers]
    for concurrency in concurrencies:
        print(f"\nCPU a call at concurrency {concurrency}, median [least, most] of {rounds} rounds of >= {calls} calls")
        base = BASE if BASE in workers else HERE_BASE
        print("\n".join(table(costs, clients, base, concurrency)))
    print()
    wrong = [goal(f"{client}: calls that ended a batch", 1, 0, "calls") for client in failed]
    finish([*judged(costs, concurrencies), *wrong])


def profile(calls: int, client: str) -> None:
    """Print where the CPU of one of our own clients goes, one call after the other."""
    with working([client]) as workers:
        print("\n".join(workers[client].batch(calls=calls, profile=25)["lines"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=1000, help="of a batch; at least four for each of those at once")
    parser.add_argument("--concurrency", default="1,32,256", help="calls at once, with commas between them")
    parser.add_argument("--only", help=f"some of {','.join((*OWN, *PEERS))}; raw httpx is always measured")
    parser.add_argument(
        "--no-peers", action="store_true", help="what needs no other environment: ours and raw httpx here"
    )
    parser.add_argument("--profile", nargs="?", const="ours", choices=OWN, help="where the CPU goes, instead")
    given = parser.parse_args()
    if given.profile:
        profile(given.calls, given.profile)
    else:
        chosen = set(given.only.split(",")) if given.only else {*OWN, *PEERS}
        if unknown := chosen - {*OWN, *PEERS}:
            parser.error(f"no client {', '.join(sorted(unknown))}; there are: {', '.join((*OWN, *PEERS))}")
        known = OWN if given.no_peers else (*OWN, *PEERS)
        at_once = sorted({int(number) for number in given.concurrency.split(",")})
        main(given.rounds, given.calls, at_once, [name for name in known if name in chosen | {BASE, HERE_BASE}])
