"""The run that code finds by itself, and the supervisors that are made as configured for runs in no block."""

import asyncio
from collections.abc import Iterator

import pytest

import softstop
from kit.spawns import anyio_group, asyncio_group, gather
from softstop import Agent, Event, Limits, MisuseError, RunContext, RunStarted, RunStatus, Supervisor, current_run


async def test_code_of_a_run_finds_it_in_steps_tasks_and_threads_and_other_code_finds_none() -> None:
    found: list[str | None] = []

    def look() -> None:
        here = current_run()
        found.append(None if here is None else here.run_id)

    async def look_in_a_task() -> None:
        look()

    async def body(run: RunContext, message: object) -> None:
        async with run.step("look"):
            look()
            await asyncio.to_thread(look)
        for together in (anyio_group, asyncio_group, gather):
            await together(look_in_a_task)

    look()
    await Agent(body).arun(run_id="mine")
    look()
    assert found == [None, "mine", "mine", "mine", "mine", "mine", None]


async def test_a_task_that_outlives_its_run_still_finds_it_and_is_refused_there() -> None:
    tasks: list[asyncio.Task[None]] = []
    ended = asyncio.Event()

    async def late() -> None:
        await ended.wait()
        here = current_run()
        assert here is not None
        async with here.step("late"):
            raise NotImplementedError

    async def body(run: RunContext, message: object) -> None:
        tasks.append(asyncio.ensure_future(late()))  # noqa: TID251 - users do

    run = Agent(body).arun(run_id="mine")
    assert (await run).status is RunStatus.completed
    ended.set()
    with pytest.raises(MisuseError, match="run 'mine' is already completed, and nothing begins in it any more"):
        await tasks[0]


class Told:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def notice(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def told() -> Iterator[Told]:
    """What the default supervisors made in this test tell; each has a limit of its own, too."""
    told = Told()
    softstop.configure(lambda: Supervisor(limits=Limits(steps=7), observers=[told]))
    yield told
    softstop.configure(Supervisor)


async def nothing(run: RunContext, message: object) -> None:
    return


async def test_a_run_in_no_block_belongs_to_a_supervisor_that_was_made_as_configured(told: Told) -> None:
    run = Agent(nothing).arun()
    await run
    assert isinstance(told.events[0], RunStarted)
    assert (told.events[0].run_id, told.events[0].limits) == (run.run_id, Limits(steps=7))
    async with Supervisor():
        other = Agent(nothing).arun()
        await other
    assert {event.run_id for event in told.events} == {run.run_id}
