"""T13: a native cancel of a run's task is cause `shutdown`, also where the groups of its sources take it back."""

import asyncio
from collections.abc import AsyncGenerator

import anyio
import pytest

from kit.runs import OtherThread, at, cancel_natively, now, payer, statuses
from kit.spawns import anyio_group, asyncio_group, gather
from softstop import Agent, RunContext, RunStatus, StopCause, StopMode, Supervisor


@pytest.mark.parametrize("spawn", [anyio_group, asyncio_group, gather])
async def test_a_body_whose_branches_read_sources_with_groups_of_anyio_ends_cancelled(spawn: object) -> None:
    """anyio takes a cancel of the body back, too, when it takes back those of such a source."""

    async def source() -> AsyncGenerator[str]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 1_000)
            yield "begun"
            await anyio.sleep(1_000)

    async def body(run: RunContext, message: object) -> None:
        async def reads() -> None:
            async with run.stream("read", source()) as chunks:
                async for chunk in chunks:
                    run.write(chunk)

        await spawn(reads, reads)  # type: ignore[operator]

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), "go")
        await asyncio.sleep(0)
        (task,) = supervisor.statistics().tasks
        at(3, task.cancel)
        output = await run.ended()
    assert output.stop is not None
    assert (output.status, output.stop.cause, output.stop.mode) == (
        RunStatus.cancelled, StopCause.shutdown, StopMode.now,
    )  # fmt: skip
    assert (statuses(output), output.errors) == ([("read", "cut")] * 2, ())


async def test_a_stop_that_another_thread_requested_before_it_stays_the_only_one() -> None:
    async def body(run: RunContext, message: object) -> None:
        await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await asyncio.sleep(1)
        (task,) = supervisor.statistics().tasks
        with OtherThread(lambda: run.cancel("enough")) as thread:
            task.cancel()
            thread.ask()
        output = await run.ended()
    assert output.stop is not None
    assert (output.stop.cause, output.stop.reason, output.stop.mode) == (StopCause.user, "enough", StopMode.step)


async def test_one_that_comes_while_a_run_waits_for_a_member_of_its_ended_body_cuts_that_member() -> None:
    async def body(run: RunContext, message: object) -> str:
        run.start_member(Agent(payer), "go")
        await anyio.sleep(1)
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(3)
        cancel_natively(run)
        output = await run.ended()
        assert now() == 3
    assert statuses(output.members[0]) == [("pay", "unsettled")]
    assert output.stop is not None
    assert (output.stop.cause, output.stop.mode) == (StopCause.shutdown, StopMode.now)
