"""Stops that come before their run, what is left of runs that another has taken, and ends that fail at first."""

from contextlib import suppress

import anyio
import pytest

from kit.runs import now, sleeper
from kit.stores import Flaky, one, record, stored
from softstop import Agent, RunCancelled, RunContext, RunStatus, RunSuperseded, StopCause, StopRequest, Supervisor
from softstop.durable import Runs
from softstop.stores import Batch, MemoryStore, Page, Recording, Shelf
from softstop.stores.orphans import final_batch


async def quick(run: RunContext, message: object) -> str:
    return "done"


async def test_a_stop_that_came_before_its_run_stops_no_later_run_that_has_the_id_again() -> None:
    store = MemoryStore(Shelf(keep_ended=1))
    async with Recording(store) as recording, Supervisor(recorder=recording, keep_ended=1) as supervisor:
        runs = Runs(supervisor, recording)

        async def stopped_early(run_id: str) -> None:
            await store.request(run_id, StopRequest())
            await anyio.sleep(0.1)

        async def refused(run_id: str) -> None:
            await stopped_early(run_id)
            raise InterruptedError

        status: list[RunStatus] = []
        for run_id, admit in (("r", stopped_early), ("other", None), ("r", refused), ("another", None), ("r", None)):
            with suppress(InterruptedError):
                await runs.start(Agent(quick), run_id=run_id, admit=admit)
                status.append((await runs.ended(run_id)).status)
            await anyio.sleep(1)
    assert status == [RunStatus.cancelled, *[RunStatus.completed] * 3]


async def test_a_stop_that_came_while_two_start_one_run_is_not_lost_with_the_first_that_gives_up() -> None:
    store = MemoryStore()
    async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor:
        with recording.early.starting("r"):
            with recording.early.starting("r"):
                await store.create(record("r"))
                await store.request("r", StopRequest())
                await anyio.sleep(0.1)
            run = await supervisor.start(Agent(quick), run_id="r")
    assert run.status is RunStatus.cancelled


async def test_a_stop_of_a_lost_run_that_is_ended_here_stops_no_later_run_that_has_its_id() -> None:
    shelf = Shelf(keep_ended=1)
    lost, store = MemoryStore(shelf), Unreadable(shelf)
    async with lost.open("lost", 10.0):
        await lost.create(record("damaged"))
    async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor:
        await anyio.sleep(5)
        await store.request("damaged", StopRequest())
        await anyio.sleep(35)
        status = [(await one(store, "damaged")).status]
        for run_id in ("next", "damaged"):
            status.append((await supervisor.start(Agent(quick), run_id=run_id)).status)
            await anyio.sleep(1)
    assert status == [RunStatus.cancelled, RunStatus.completed, RunStatus.completed]


async def test_what_is_left_of_a_run_that_another_has_taken_waits_for_no_store() -> None:
    shelf = Shelf()
    store, other = Flaky(shelf), MemoryStore(shelf)

    async def goes_down() -> None:
        store.down = "full"

    async with other.open("other", 10.0):
        await other.create(record("r"))
        async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor:
            store.after_commit = goes_down
            with pytest.raises(RunSuperseded):
                await supervisor.start(Agent(sleeper), run_id="r")
            await anyio.sleep(0.1)
            assert recording.unstored == 0
    assert now() < 1


class Unreadable(MemoryStore):
    """A store that for some time cannot read the events of one run."""

    async def read(self, root_run_id: str, after: int = 0, limit: int = 1_000) -> Page:
        if root_run_id == "damaged" and now() < 10:
            raise OSError("it cannot be read")
        return await super().read(root_run_id, after, limit)


async def test_a_stop_that_comes_before_the_end_of_a_lost_run_is_written_is_its_cause() -> None:
    shelf = Shelf()
    lost, store = MemoryStore(shelf), Unreadable(shelf)
    async with lost.open("lost", 10.0):
        await lost.create(record("damaged"))
    async with Recording(store) as recording, Supervisor(recorder=recording):
        await anyio.sleep(5)
        assert (await one(store, "damaged")).owner == recording.owner
        await store.request("damaged", StopRequest(reason="in between", requested_at=5.0))
        await anyio.sleep(35)
        outcome = (await stored(store, "damaged"))[-1]
    assert isinstance(outcome, RunCancelled)
    assert (outcome.reason, outcome.cause) == ("in between", StopCause.user)


async def test_the_end_of_a_lost_run_that_cannot_be_written_is_tried_again_and_hinders_no_other() -> None:
    shelf = Shelf()
    lost, store = MemoryStore(shelf), Unreadable(shelf)
    async with lost.open("lost", 10.0):
        for run_id in ("damaged", "fine"):
            await lost.create(record(run_id))
    async with Recording(store) as recording, Supervisor(recorder=recording):
        status: list[RunStatus] = []
        for seconds in (1, 39):
            await anyio.sleep(seconds)
            status += [(await one(store, run_id)).status for run_id in ("fine", "damaged")]
    assert status == [RunStatus.cancelled, RunStatus.pending, RunStatus.cancelled, RunStatus.cancelled]


async def test_members_that_were_never_begun_end_before_those_above_them() -> None:
    store = MemoryStore()
    async with store.open("dead", 10.0):
        await store.create(record("root"))
        await store.commit([Batch("root", 0, 0, runs=[record("m", "root"), record("below", "m", "root")])])
        words = await final_batch(store, await one(store, "root"), 5.0)
    assert list(words.outcomes) == ["below", "m", "root"]


async def test_what_was_written_right_before_the_recording_is_left_is_stored_although_a_commit_ends_then() -> None:
    store, gate = Flaky(), anyio.Event()
    async with Recording(store) as recording:
        supervisor = Supervisor(recorder=recording)
        store.after_commit = gate.wait
        run = supervisor.start(Agent(sleeper), run_id="r")
        await anyio.sleep(1)  # its beginning is being stored
        gate.set()
        run.cancel()
    assert (await one(store, "r")).status is RunStatus.cancelled
