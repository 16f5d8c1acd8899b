"""Recordings over a long time: leases that are kept for a day, and nothing that grows with the number of runs."""

import gc

import anyio
import pytest

from kit.runs import now
from kit.stores import followed
from softstop import Agent, EventsExpired, RunContext, RunStatus, Supervisor
from softstop.stores import MemoryStore, Recording, RunRecord, Shelf

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
