"""The ways in which a body may start a task of its own. Proves nothing itself."""

import asyncio
from collections.abc import Awaitable, Callable

import anyio

from softstop import RunContext

Spawn = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]


async def must_not_begin(run: RunContext, name: str = "late") -> None:
    async with run.step(name):
        raise NotImplementedError


async def alone(work: Callable[[], Awaitable[None]]) -> None:
    await work()


async def anyio_group(*works: Callable[[], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as group:
        for work in works:
            group.start_soon(work)


async def asyncio_group(*works: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work())  # type: ignore[arg-type]


async def gather(*works: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(*[work() for work in works])  # noqa: TID251 - users do


async def wait_for(work: Callable[[], Awaitable[None]]) -> None:
    await asyncio.wait_for(work(), 1_000)  # noqa: TID251 - users do


async def bare_task(work: Callable[[], Awaitable[None]]) -> None:
    await asyncio.create_task(work())  # type: ignore[arg-type]  # noqa: TID251 - users do


SPAWNS = [alone, anyio_group, asyncio_group, gather, wait_for, bare_task]
