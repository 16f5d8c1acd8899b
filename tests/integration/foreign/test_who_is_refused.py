"""Who comes to a boundary after a stop, where anyio does not deliver: in shields, in threads, beside clean-up.

The run ends as soon as what is there has ended: nobody waits for a delivery that never comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from threading import Event as ThreadEvent

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from kit.foreign import LONG, ended, turns, words
from softstop import Agent, RunContext, RunStatus


async def call(work: Awaitable[None]) -> None:
    await work


async def a_step(run: RunContext) -> None:
    async with run.step("audit"):
        raise NotImplementedError


async def a_stream(run: RunContext) -> None:
    async for _ in run.stream("audit", words()):
        raise NotImplementedError


async def a_boundary(run: RunContext) -> None:
    await run.boundary()
    raise NotImplementedError


async def a_member(run: RunContext) -> None:
    async def audit(run: RunContext, message: str) -> None:
        raise NotImplementedError

    await run.member(Agent(audit), "go")
    raise NotImplementedError


async def an_opening(run: RunContext) -> None:
    @asynccontextmanager
    async def client() -> AsyncIterator[None]:
        raise NotImplementedError
        yield

    await run.open(client())
    raise NotImplementedError


async def cleans_up() -> None:
    try:
        await anyio.sleep_forever()
    finally:
        await asyncio.sleep(0.03)


async def gathers() -> None:
    await asyncio.gather(cleans_up(), cleans_up())  # noqa: TID251 - users do


async def waits_for() -> None:
    await asyncio.wait_for(cleans_up(), 60)  # noqa: TID251 - users do


async def groups() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(cleans_up())
        group.create_task(cleans_up())


async def in_anyio(first: Awaitable[None], second: Awaitable[None]) -> None:
    async with anyio.create_task_group() as group:
        for work in (first, second, anyio.sleep_forever()):
            group.start_soon(call, work)


async def in_asyncio(first: Awaitable[None], second: Awaitable[None]) -> None:
    async with asyncio.TaskGroup() as group:
        for work in (first, second, anyio.sleep_forever()):
            group.create_task(call(work))


def named(values: list[Callable[..., Awaitable[None]]], name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, values, ids=lambda value: value.__name__)


@named([in_anyio, in_asyncio], "branches")
@named([cleans_up, gathers, waits_for, groups], "sibling")
@named([a_step, a_stream, a_boundary, a_member, an_opening], "refused")
async def test_who_is_refused_in_a_shield_while_a_sibling_cleans_up_does_not_hold_up_the_end(
    refused: Callable[[RunContext], Awaitable[None]],
    sibling: Callable[[], Awaitable[None]],
    branches: Callable[[Awaitable[None], Awaitable[None]], Awaitable[None]],
) -> None:
    waiting = anyio.Event()

    async def body(run: RunContext, message: str) -> None:
        async def auditor() -> None:
            with anyio.CancelScope(shield=True):
                waiting.set()
                await stopped.wait()
                await asyncio.sleep(0.01)  # by now the sibling cleans up
                await refused(run)

        await branches(auditor(), sibling())

    stopped = anyio.Event()
    with anyio.fail_after(9):
        run = Agent(body, policy=LONG).arun("go")
        await waiting.wait()
        await turns()
        run.cancel()
        stopped.set()
        output = await run.ended()

    assert (output.status, output.abandoned, output.errors) == (RunStatus.cancelled, (), ())
    assert ended(output) == []


@named([a_step, a_stream, a_boundary, a_member], "refused")
async def test_a_thread_that_comes_to_a_boundary_of_its_run_after_the_stop_does_not_hold_up_the_end(
    refused: Callable[[RunContext], Awaitable[None]],
) -> None:
    async def body(run: RunContext, message: str) -> None:
        def in_a_thread() -> None:
            try:
                anyio.from_thread.run(wait)
                anyio.from_thread.run(refused, run)
            finally:
                over.set()

        await anyio.to_thread.run_sync(in_a_thread)

    async def wait() -> None:
        waiting.set()
        with anyio.CancelScope(shield=True):
            await stopped.wait()

    waiting, stopped, over = anyio.Event(), anyio.Event(), ThreadEvent()
    with anyio.fail_after(9):
        run = Agent(body, policy=LONG).arun("go")
        await waiting.wait()
        run.cancel()
        await turns()
        stopped.set()
        output = await run.ended()
        while not over.is_set():  # a thread that asks a closed loop would wait for ever, whoever runs it
            await asyncio.sleep(0.001)

    assert (output.status, output.abandoned) == (RunStatus.cancelled, ())
    assert ended(output) == []
