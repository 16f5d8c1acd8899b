"""A divisible step whose source takes its time to close."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio
import pytest

from kit.runs import cancel_natively
from softstop import Agent, RunContext, RunStatus
from softstop.aio.closing import finish_within


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
    cancel_natively(run)
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


@pytest.mark.parametrize("shield", [False, True])
async def test_what_took_too_long_is_cut_once_and_leaves_no_cancel_behind(shield: bool) -> None:
    task = asyncio.current_task()
    assert task is not None
    assert not await finish_within(2, anyio.sleep_forever, shield=shield)
    assert (task.cancelling(), anyio.current_time()) == (0, 2)
    assert await finish_within(2, lambda: anyio.sleep(1), shield=shield)
    assert await finish_within(2, lambda: None, shield=shield)
    assert task.cancelling() == 0


async def test_a_cancel_of_somebody_else_in_the_same_moment_is_not_swallowed() -> None:
    heard: list[int] = []

    async def closes() -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await finish_within(2, anyio.sleep_forever)
        finally:
            heard.append(task.cancelling())

    task = asyncio.get_running_loop().create_task(closes())
    asyncio.get_running_loop().call_later(2, lambda: task.cancel())
    await asyncio.wait([task])
    assert (task.cancelled(), heard) == (True, [1])


async def test_a_group_that_wraps_the_end_of_a_generator_is_no_failure_and_any_other_is() -> None:
    async def closes(*errors: BaseException) -> None:
        raise BaseExceptionGroup("of a task group", errors)

    assert await finish_within(2, lambda: closes(GeneratorExit(), GeneratorExit()))
    with pytest.raises(BaseExceptionGroup):
        await finish_within(2, lambda: closes(GeneratorExit(), ValueError("broken")))
