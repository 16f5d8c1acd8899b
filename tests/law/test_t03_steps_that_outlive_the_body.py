"""T3: a begun step ends before the outcome of its run, also in a task that outlives the body."""

import asyncio

import anyio

from kit.runs import Words, now, one
from softstop import RunContext, RunStatus


async def test_a_step_that_a_task_which_outlives_the_body_begins_while_a_source_is_closed_ends_before_the_outcome() -> (
    None
):
    class Slow(Words):
        async def aclose(self) -> None:
            await anyio.sleep(5)

    async def body(run: RunContext, message: object) -> None:
        async def reads() -> None:
            async for _ in run.stream("read", Slow(delay=0)):
                await anyio.sleep(20)

        async def pays() -> None:
            await anyio.sleep(2)
            async with run.step("pay"):
                await anyio.sleep(10)

        tasks.extend(asyncio.get_running_loop().create_task(work) for work in (reads(), pays()))
        await anyio.sleep(1)

    tasks: list[asyncio.Task[None]] = []
    run, _ = await one(body)
    assert run.output is not None
    assert (run.status, now()) == (RunStatus.completed, 12)
    assert [(step.step, step.status) for step in run.output.steps] == [("read", "completed"), ("pay", "completed")]
    await asyncio.wait(tasks)
