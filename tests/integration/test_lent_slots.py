"""Slots that are lent to queued runs by code of a run in other threads, on other loops and at the sync door."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from kit.processes import finish, script
from softstop import Agent, Run, RunContext, RunStatus, SlotLent, Supervisor


async def leaf(run: RunContext, message: object) -> str:
    async with run.step("work"):
        await asyncio.sleep(0.05)
    return "done"


async def to_its_end(run: Run) -> Any:
    return (await run).status


async def by_its_events(run: Run) -> Any:
    return [event async for event in run][-1].status  # type: ignore[attr-defined]


def on_a_loop_of_its_own(wait: Callable[[Run], Awaitable[Any]], run: Run) -> Any:
    async def main() -> Any:
        return await wait(run)

    return asyncio.run(main())


def on_the_loop_of_the_run(wait: Callable[[Run], Awaitable[Any]], run: Run) -> Any:
    return anyio.from_thread.run(wait, run)


@pytest.mark.parametrize("where", [on_a_loop_of_its_own, on_the_loop_of_the_run], ids=lambda where: where.__name__)
@pytest.mark.parametrize("wait", [to_its_end, by_its_events], ids=lambda wait: wait.__name__)
async def test_a_thread_of_a_run_that_waits_for_a_queued_one_lends_its_slot(where: Any, wait: Any) -> None:
    async def lead(run: RunContext, message: object) -> Any:
        queued = supervisor.start(Agent(leaf))
        async with run.step("ask"):
            return await anyio.to_thread.run_sync(where, wait, queued)

    with anyio.fail_after(30):
        async with Supervisor(max_running=1) as supervisor:
            run = supervisor.start(Agent(lead))
            output = await run.ended()
            events = [event async for event in run.events()]
    assert (output.status, output.value) == (RunStatus.completed, RunStatus.completed)
    assert sum(isinstance(event, SlotLent) for event in events) == 1
    slots = supervisor._state.slots
    assert (slots.running, slots._loans, slots._waits) == ({}, {}, {})


SYNC = """

softstop.configure(lambda: Supervisor(max_running=1))

async def leaf(run, message):
    await asyncio.sleep(0.05)
    return "done"

async def lead(run, message):
    async with run.step("ask"):
        return await asyncio.to_thread(ask)

def ask():
    if STREAM:
        with Agent(leaf).run("go", parent=None, stream=True) as events:
            return [event.event.value for event in events][-1]
    output = Agent(leaf).run("go", parent=None)
    return output.value

output = Agent(lead).run("go")
say(output.status.value, output.value, len(output.members))
"""


@pytest.mark.parametrize("stream", [False, True])
def test_the_sync_door_lends_the_slot_of_the_run_in_whose_thread_it_waits(stream: bool) -> None:
    with script(SYNC.replace("STREAM", str(stream))) as process:
        _, out, err = finish(process)
    assert err == ""
    assert out.split() == ["completed", "RunCompleted" if stream else "done", "0"]
