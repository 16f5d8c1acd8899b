"""Recordings over a long time: leases that are kept for a day, and nothing that grows with the number of runs."""

import gc
from collections.abc import Sequence

import anyio
import pytest

from kit.runs import now
from kit.stores import followed, record
from softstop import Agent, EventsExpired, RunContext, RunStatus, Supervisor
from softstop.stores import MemoryStore, News, Recording, RunRecord, Shelf
from softstop.stores.sqlite.owners import Sign

DAY = 86_400


async def all_day(run: RunContext, message: object) -> str:
    for hour in range(24):
        async with run.step(f"hour {hour}"):
            await anyio.sleep(DAY / 24)
    return "done"


async def test_leases_of_a_day_are_kept_by_owners_that_live_and_by_no_other() -> None:
    shelf = Shelf(clock=now)
    one, two = (Recording(MemoryStore(shelf), lease=30.0, clock=now) for _ in range(2))
    async with one, Supervisor(recorder=one) as supervisor, two, Supervisor(recorder=two) as other:
        runs = [owner.start(Agent(all_day), run_id=name) for owner, name in ((supervisor, "a"), (other, "b"))]
        lost = MemoryStore(shelf)
        async with lost.open("never attends", 30.0):
            await lost.create(RunRecord("c", "c", None, Agent(all_day).source, None, None, {}, 0.0))
            began = now()
            await followed(two, "c")
            assert 60 <= now() - began <= 60 + 30, "two leases, and until the next beat of another one"
            assert [(await run).status for run in runs] == [RunStatus.completed] * 2
    assert now() >= DAY


async def quick(run: RunContext, message: object) -> str:
    async with run.step("work"):
        run.write("done")
    return "done"


async def test_a_recording_that_is_used_long_after_it_was_made_holds_no_step_up() -> None:
    recording = Recording(MemoryStore(Shelf(clock=now)), lease=30.0, clock=now)
    await anyio.sleep(DAY)
    async with recording, Supervisor(recorder=recording) as supervisor:
        assert (await supervisor.start(Agent(quick))).status is RunStatus.completed
        assert now() == DAY


async def test_an_idle_process_drops_the_events_of_runs_that_ended_long_ago() -> None:
    shelf = Shelf(clock=now, keep_logs_for=600.0)
    recording = Recording(MemoryStore(shelf), lease=30.0, clock=now)
    async with recording, Supervisor(recorder=recording) as supervisor:
        run = supervisor.start(Agent(quick), run_id="r")
        await run
        await anyio.sleep(500)
        assert await followed(recording, "r")
        await anyio.sleep(111)  # until the next sign of life of the process, at most
        with pytest.raises(EventsExpired):
            await followed(recording, "r")
        output = await recording.output("r")
        assert output is not None
        assert output.content == "done"


async def test_nothing_grows_with_the_number_of_runs() -> None:
    shelf = Shelf(keep_ended=10)
    sizes: list[int] = []
    async with Recording(MemoryStore(shelf)) as recording, Supervisor(recorder=recording, keep_ended=10) as supervisor:
        for _ in range(4):
            for _ in range(100):
                run = supervisor.start(Agent(quick))
                await run
                await followed(recording, run.run_id)
            gc.collect()
            sizes.append(len(gc.get_objects()))
    assert sizes[-1] - sizes[1] < 50, sizes
    assert len(shelf._roots) == len(shelf._runs) == 10
    assert not recording._roots
    assert not recording._tails


async def test_nobody_is_taken_for_dead_before_two_of_its_leases_are_over() -> None:
    """For one and a half it may begin something, see `Recording.holds`."""
    shelf = Shelf(clock=now)
    store, other = MemoryStore(shelf), MemoryStore(shelf)
    async with store.open("stands", 10.0), other.open("other", 10.0):
        await store.create(record("r"))
        await store.attend()  # which begins with a sign of life
        await anyio.sleep(19 - 10 / 3)
        assert await other.adopt() == []
        await anyio.sleep(2)
        assert [each.run_id for each in await other.adopt()] == ["r"]
    sign = Sign(100.0, 10.0)
    assert [sign.has_lapsed(100.0 + age) for age in (19, 21)] == [False, True]


class Standing(MemoryStore):
    """Of a process that stands still, now and then."""

    stands = 0.0

    async def attend(self) -> Sequence[News]:
        await anyio.sleep(self.stands)
        return await super().attend()


async def test_of_two_runs_of_a_process_that_stood_still_the_one_that_nobody_took_goes_on() -> None:
    shelf = Shelf(clock=now)
    store, other = Standing(shelf), MemoryStore(shelf)
    recording = Recording(store, lease=10.0, clock=now)
    async with recording, Supervisor(recorder=recording) as supervisor, other.open("other", 1_000.0):
        runs = {name: supervisor.start(Agent(all_day), run_id=name) for name in ("a", "b")}
        await anyio.sleep(1)
        store.stands = 30.0
        await anyio.sleep(26)
        (taken,) = await other.adopt(limit=1)
        store.stands = 0.0
        await anyio.sleep(20)
        assert [name for name, run in runs.items() if run.stopping] == [taken.run_id]
        for run in runs.values():
            run.cancel(mode="now")


async def test_what_the_store_has_refused_is_told_to_nobody_who_follows_here() -> None:
    async def writes(run: RunContext, message: object) -> None:
        while True:
            run.write("w ")
            await anyio.sleep(1)

    shelf = Shelf(clock=now)
    store, other = Standing(shelf), MemoryStore(shelf)
    recording = Recording(store, lease=10.0, clock=now)
    got: list[int] = []

    async def follow() -> None:
        async for page in recording.follow("r"):
            got.extend(seq for seq, _ in page.events)

    async with recording, Supervisor(recorder=recording) as supervisor, other.open("other", 1_000.0):
        run = supervisor.start(Agent(writes), run_id="r")
        store.stands = 30.0
        async with anyio.create_task_group() as tasks:
            await anyio.sleep(0.5)
            tasks.start_soon(follow)
            await anyio.sleep(26)
            assert [taken.run_id for taken in await other.adopt()] == ["r"]
            await anyio.sleep(3)
            tasks.cancel_scope.cancel()
        assert run.stopping
        assert got == [seq for seq, _ in (await other.read("r")).events] == [*range(1, 29)]


async def test_a_process_that_wakes_begins_nothing_until_it_knows_what_was_taken_from_it() -> None:
    store = Standing(Shelf(clock=now))
    recording = Recording(store, lease=9.0, clock=now)
    async with recording:
        store.stands = 20.0  # from its last sign of life on
        held: list[bool] = []
        for seconds in (13, 1, 6.5, 10):
            await anyio.sleep(seconds)
            held.append(recording.holds())
            store.stands = 0.0
    assert held == [True, False, False, True], "at 20.5 it is awake, and has asked nobody since"
