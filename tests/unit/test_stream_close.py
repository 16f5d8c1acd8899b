"""A divisible step whose source takes its time to close."""

from __future__ import annotations

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
    assert run.task is not None
    run.task.cancel()
    output = await run

    assert output.status is RunStatus.cancelled
    assert [(step.step, step.status) for step in output.steps] == [("write", "cut")]
