"""A divisible step whose source takes its time to close."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio

from softstop import Agent, RunContext, RunStatus


class SlowToClose:
    """A stalled source; closing it takes a second."""

    def __aiter__(self) -> SlowToClose:
        return self

    async def __anext__(self) -> str:
        await anyio.sleep_forever()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        await anyio.sleep(1)


async def test_a_stream_that_is_torn_natively_while_its_source_closes_is_told_all_the_same() -> None:
    async def body(run: RunContext, message: object) -> None:
        async for _ in run.stream("write", SlowToClose()):
            raise NotImplementedError

    run = Agent(body).arun("go")
    await anyio.sleep(1)
    run.cancel()
    await anyio.sleep(0.5)
    assert run._state.task is not None
    run._state.task.cancel()
    output = await run

    assert output.status is RunStatus.cancelled
    assert [(step.step, step.status) for step in output.steps] == [("write", "cut")]


class SwallowsOnce(SlowToClose):
    """A stalled source in whose library the first cancellation gets lost, as while a connection is being opened."""

    async def __anext__(self) -> str:
        with suppress(asyncio.CancelledError):
            await anyio.sleep_forever()
        return await super().__anext__()


async def test_a_source_in_which_the_first_interruption_gets_lost_is_interrupted_again_soon() -> None:
    async def body(run: RunContext, message: object) -> None:
        async for _ in run.stream("write", SwallowsOnce()):
            raise NotImplementedError

    run = Agent(body).arun("go")
    await anyio.sleep(1)
    asked = asyncio.get_running_loop().time()
    run.cancel()
    output = await run

    assert output.status is RunStatus.cancelled
    assert asyncio.get_running_loop().time() - asked < 1.2  # a second of it is closing
