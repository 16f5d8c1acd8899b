"""What the feed of a server tells of runs of other processes on its store."""

from contextlib import AsyncExitStack

import anyio

from kit.durable import Two, teller
from softstop import Agent, Event, Supervisor
from softstop.server.elsewhere import Elsewhere
from softstop.stores import MemoryStore, Recording


async def test_what_was_stored_before_a_server_began_is_not_told_by_its_feed() -> None:
    told: list[Event] = []
    async with AsyncExitStack() as stack:
        two = Two(stack)
        there, _ = await two.open()
        await there.start(Agent(teller), "go", run_id="ended")
        await there.ended("ended")
        await there.start(Agent(teller), "go", run_id="live")
        await anyio.sleep(2.5)
        recording = await stack.enter_async_context(Recording(MemoryStore(two.shelf)))
        supervisor = await stack.enter_async_context(Supervisor(recorder=recording))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Elsewhere(recording, supervisor, told.append).attend)
            await anyio.sleep(10)
            tasks.cancel_scope.cancel()
    assert {event.run_id for event in told} == {"live"}
    assert [event.event for event in told[:1] + told[-1:]] == ["StepCompleted", "RunCompleted"]
