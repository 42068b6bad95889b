"""The world: real time and chance behind one door, and a virtual one that follows from its seed."""

from __future__ import annotations

import asyncio

import pytest

from workbench.act.world import MemorySink, World
from workbench.facts import Score

SCORE = Score(item_id="i", model="m", scorer="s", value=1.0)


def test_an_hour_of_waiting_takes_no_time():
    """A virtual sleep moves both virtual clocks by its length and returns at once."""
    world = World.virtual()

    async def backoff():
        start_s, start_ns = world.now_s(), world.unix_ns()
        for _ in range(6):
            await world.sleep(600)
        return world.now_s() - start_s, world.unix_ns() - start_ns

    assert world.run(backoff()) == (3600.0, 3_600_000_000_000)


def test_virtual_time_stands_still_while_nobody_sleeps():
    """Work takes no virtual time, and neither does a sleep of zero or less."""
    world = World.virtual()

    async def work():
        for seconds in (0, -5, -1e9):
            await world.sleep(seconds)
        return sum(range(10_000)), world.now_s()

    assert world.run(work()) == (49_995_000, 0.0)


def test_a_virtual_sleep_lets_others_run():
    """Sleeping gives way to other tasks, as a real sleep does."""
    world, order = World.virtual(), []

    async def task(name):
        order.append(name)
        await world.sleep(1)
        order.append(name)

    async def both():
        await asyncio.gather(task("a"), task("b"))

    world.run(both())
    assert order[:2] == ["a", "b"]


def test_concurrent_sleeps_overlap_and_wake_in_order_of_time():
    """Three sleepers side by side take as long as the longest, and the shortest wakes first."""
    world, woken = World.virtual(), []

    async def task(seconds):
        await world.sleep(seconds)
        woken.append((seconds, world.now_s()))

    async def all_three():
        await asyncio.gather(task(5.0), task(1.0), task(3.0))

    world.run(all_three())
    assert woken == [(1.0, 1.0), (3.0, 3.0), (5.0, 5.0)]


def test_virtual_time_waits_for_whoever_still_works():
    """A task that gives way many times without sleeping is done before an hour's sleep beside it ends."""
    world = World.virtual()

    async def work():
        for _ in range(50):
            await asyncio.sleep(0)
        return world.now_s()

    async def both():
        return await asyncio.gather(work(), world.sleep(3600))

    assert world.run(both())[0] == 0.0


def test_a_seed_decides_every_draw_and_name():
    """Two virtual worlds of one seed agree in all draws and ids; another seed gives others."""

    def made(seed):
        world = World.virtual(seed)
        return [world.draw() for _ in range(5)], [world.new_id(8) for _ in range(5)], world.unix_ns()

    assert made(1) == made(1)
    assert made(1)[:2] != made(2)[:2]


def test_naming_things_does_not_change_the_draws():
    """One more span or log row, which takes an id, leaves the chances of a run as they were."""
    plain, traced = World.virtual(3), World.virtual(3)
    traced.new_id(16)
    assert [plain.draw() for _ in range(5)] == [traced.draw() for _ in range(5)]


@pytest.mark.parametrize("world", [World.virtual(0), World.real(MemorySink())], ids=["virtual", "real"])
def test_draws_and_ids_have_their_declared_form(world):
    """Draws lie in [0, 1), and new_id(n) has 2n hexadecimal digits that do not repeat."""
    draws = [world.draw() for _ in range(2000)]
    assert all(0 <= d < 1 for d in draws)
    assert len(set(draws)) == 2000
    ids = [world.new_id(8) for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert all(len(bytes.fromhex(i)) == 8 for i in ids)
    assert len(bytes.fromhex(world.new_id(16))) == 16


def test_the_memory_sink_keeps_facts_in_order():
    """Facts are kept as they were written, batch after batch, by the world's own sink or a given one."""
    sink = MemorySink()
    world = World.virtual(sink=sink)
    assert world.sink is sink
    world.sink.write(SCORE, SCORE)
    world.sink.write()
    world.sink.write(SCORE)
    assert sink.facts == [SCORE] * 3
    assert World.virtual().sink.facts == []


def test_every_timer_of_the_loop_is_virtual():
    """A deadline of asyncio passes by the virtual clock, at its very second."""
    world = World.virtual()

    async def late():
        try:
            async with asyncio.timeout(90):
                await asyncio.sleep(3600)
        except TimeoutError:
            return world.now_s()

    assert world.run(late()) == 90.0


def test_a_virtual_pause_moves_the_clock_of_plain_functions():
    """`pause` takes virtual time and no other; a pause of less than nothing takes none."""
    world = World.virtual()
    world.pause(3600)
    world.pause(-1)
    assert world.now_s() == 3600.0


def test_a_virtual_sleep_on_another_loop_is_refused():
    """Where the loop's timers are real, a virtual sleep says what to do instead of waiting in earnest."""
    with pytest.raises(RuntimeError, match=r"world\.run"):
        asyncio.run(World.virtual().sleep(1))


def test_waiting_for_nothing_ends(monkeypatch):
    """A task that waits for what nobody will do is an error of its own, not a hang."""
    monkeypatch.setattr("workbench.act.world.PATIENCE_S", 0.05)

    async def stuck():
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="never happens"):
        World.virtual().run(stuck())


def test_a_thread_is_waited_for():
    """Work in a thread takes real time, and the virtual loop has the patience for it."""
    world = World.virtual()

    async def work():
        return await asyncio.to_thread(sum, range(1000)), world.now_s()

    assert world.run(work()) == (499500, 0.0)
