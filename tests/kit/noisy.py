"""Bodies that stay: each swallows its cancellation in a manner of its own, and notes when. Proves nothing itself."""

import asyncio
from collections.abc import Awaitable, Callable

import anyio

from kit.runs import now
from softstop import RunContext

Body = Callable[[RunContext, object], Awaitable[object]]

LAST = 200.0  # when they all end by themselves


async def retries(run: RunContext) -> None:
    while now() < LAST:
        try:
            await anyio.sleep(LAST - now())
        except asyncio.CancelledError:
            note()


async def retries_in_a_step(run: RunContext) -> None:
    async with run.step("pay"):
        await retries(run)


async def slow_child_of_an_asyncio_group(run: RunContext) -> None:
    async def child() -> None:
        while now() < LAST:
            try:
                await asyncio.sleep(LAST - now())
            except asyncio.CancelledError:
                note()

    async with asyncio.TaskGroup() as group:
        group.create_task(child())


async def shielded_task_in_a_loop(run: RunContext) -> None:
    task = asyncio.ensure_future(asyncio.sleep(LAST))  # noqa: TID251 - users do
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            note()


async def awaitable_that_refuses(run: RunContext) -> None:
    class Refuses(asyncio.Future[None]):
        def cancel(self, msg: object = None) -> bool:
            note()
            return False

    refuses = Refuses()
    asyncio.get_running_loop().call_later(LAST, refuses.set_result, None)
    await refuses


async def behind_a_shield_of_its_own_first(run: RunContext) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.sleep(2.5)
    await retries(run)


async def source_that_retries(run: RunContext) -> None:
    class Source:
        def __aiter__(self) -> "Source":
            return self

        async def __anext__(self) -> str:
            await retries(run)
            raise StopAsyncIteration

    async for _ in run.stream("read", Source()):
        raise NotImplementedError


NOISY = [
    retries, retries_in_a_step, slow_child_of_an_asyncio_group, shielded_task_in_a_loop, awaitable_that_refuses,
    behind_a_shield_of_its_own_first, source_that_retries,
]  # fmt: skip
deliveries: list[float] = []


def note() -> None:
    deliveries.append(now())
    if len(deliveries) > 2_000:
        raise RuntimeError("a spinning loop")


def deaf(seconds: float, *, step: str | None = "pay") -> Body:
    """A body that swallows every cancellation for so many seconds, in a step or in none."""

    async def endure() -> None:
        until = now() + seconds  # then it ends by itself, so that no test leaves it behind
        while now() < until:
            try:
                await anyio.sleep(until - now())
            except asyncio.CancelledError:
                deliveries.append(now())

    async def body(run: RunContext, message: object) -> str:
        if step is None:
            await endure()
        else:
            async with run.step(step):
                await endure()
        run.write("too late")

    deliveries: list[float] = []
    body.deliveries = deliveries  # type: ignore[attr-defined]
    return body
