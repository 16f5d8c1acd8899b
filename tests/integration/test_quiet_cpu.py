"""A body that will not stop costs no CPU, measured on the real loop: before it is given up and after."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import anyio
import pytest

from softstop import Agent, RunContext, StopPolicy, Supervisor

LAST = 2.6  # seconds after which the bodies end by themselves


class Deaf:
    """Counts what is delivered to it."""

    def __init__(self) -> None:
        self.until = time.monotonic() + LAST
        self.deliveries: list[float] = []

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    async def endure(self) -> None:
        while self.left > 0:
            try:
                await asyncio.sleep(self.left)
            except asyncio.CancelledError:
                self.deliveries.append(time.monotonic())


async def alone(run: RunContext, deaf: Deaf) -> None:
    await deaf.endure()


async def in_a_step(run: RunContext, deaf: Deaf) -> None:
    async with run.step("pay"):
        await deaf.endure()


async def in_a_branch(run: RunContext, deaf: Deaf) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(deaf.endure)


async def in_a_branch_beside_a_step(run: RunContext, deaf: Deaf) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(deaf.endure)
        await in_a_step(run, Deaf())


async def in_an_asyncio_group(run: RunContext, deaf: Deaf) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(deaf.endure())


async def behind_asyncio_shield(run: RunContext, deaf: Deaf) -> None:
    task = asyncio.ensure_future(asyncio.sleep(LAST))  # noqa: TID251 - users do
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            deaf.deliveries.append(time.monotonic())


BODIES = [alone, in_a_step, in_a_branch, in_a_branch_beside_a_step, in_an_asyncio_group, behind_asyncio_shield]


async def share_of_a_core(seconds: float) -> float:
    began, cpu = time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    return (time.process_time() - cpu) / (time.monotonic() - began)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
@pytest.mark.parametrize("mode", ["step", "now"])
async def test_a_deaf_body_takes_less_than_a_twentieth_of_a_core(
    body: Callable[[RunContext, Deaf], Awaitable[None]], mode: str
) -> None:
    async def whole(run: RunContext, message: Deaf) -> None:
        await body(run, message)

    deaf = Deaf()
    with anyio.fail_after(10):
        async with Supervisor(policy=StopPolicy(grace=0.6, abandon_after=0.6)) as supervisor:
            run = supervisor.start(Agent(whole), deaf)
            await asyncio.sleep(0.05)
            run.cancel(mode=mode)
            before = await share_of_a_core(0.5)
            await run.ended()
            given_up = time.monotonic()
            after = await share_of_a_core(0.5)
            assert run.output is not None
            assert run.output.abandoned
        await asyncio.sleep(max(0.0, deaf.left) + 0.05)
    assert before < 0.05, f"{before:.0%} of a core while the stop is under way"
    assert after < 0.05, f"{after:.0%} of a core after the run was given up"
    assert not [when for when in deaf.deliveries if when > given_up + 0.01 and when < deaf.until]
    rate = max((sum(start <= when < start + 1 for when in deaf.deliveries) for start in deaf.deliveries), default=0)
    assert rate <= 20
