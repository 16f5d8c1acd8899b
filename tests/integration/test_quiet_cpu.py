"""Bodies that will not stop cost no CPU, measured on the real loop: before it is given up and after."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import anyio
import pytest

from kit.foreign import turns
from softstop import Agent, RunContext, StopPolicy, Supervisor


class Deaf:
    """Counts what is delivered to it, until it is over."""

    def __init__(self, over: asyncio.Event) -> None:
        self.over = over
        self.deliveries: list[float] = []

    async def endure(self) -> None:
        while not self.over.is_set():
            try:
                await self.over.wait()
            except asyncio.CancelledError:
                self.deliveries.append(time.monotonic())


async def alone(run: RunContext, deaf: Deaf) -> None:
    await deaf.endure()


async def in_a_step(run: RunContext, deaf: Deaf) -> None:
    async with run.step("pay"):
        await deaf.endure()


async def in_an_asyncio_group(run: RunContext, deaf: Deaf) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(deaf.endure())


async def in_a_branch_beside_a_step(run: RunContext, deaf: Deaf) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(deaf.endure())
        await in_a_step(run, Deaf(deaf.over))


async def behind_asyncio_shield(run: RunContext, deaf: Deaf) -> None:
    task = asyncio.ensure_future(deaf.over.wait())  # noqa: TID251 - users do
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            deaf.deliveries.append(time.monotonic())


BODIES = [alone, in_a_step, in_an_asyncio_group, in_a_branch_beside_a_step, behind_asyncio_shield]


async def share_of_a_core(seconds: float) -> float:
    began, cpu = time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    return (time.process_time() - cpu) / (time.monotonic() - began)


@pytest.mark.parametrize("mode", ["step", "now"])
async def test_deaf_bodies_of_all_kinds_take_less_than_a_twentieth_of_a_core_together(mode: str) -> None:
    def whole(body: Callable[[RunContext, Deaf], Awaitable[None]]) -> Agent:
        async def run_it(run: RunContext, message: Deaf) -> None:
            await body(run, message)

        return Agent(run_it, name=body.__name__)

    over = asyncio.Event()
    deaf = {body.__name__: Deaf(over) for body in BODIES}
    with anyio.fail_after(50):
        async with Supervisor(policy=StopPolicy(grace=0.6, abandon_after=0.6)) as supervisor:
            runs = [supervisor.start(whole(body), deaf[body.__name__]) for body in BODIES]
            await asyncio.sleep(0.05)
            for run in runs:
                run.cancel(mode=mode)
            before = await share_of_a_core(0.5)
            for run in runs:
                assert (await run.ended()).abandoned
            await turns()
            heard = [len(each.deliveries) for each in deaf.values()]
            after = await share_of_a_core(0.5)
        assert [len(each.deliveries) for each in deaf.values()] == heard, "interrupted after they were given up"
        over.set()
        await turns()
    assert before < 0.05, f"{before:.0%} of a core while the stops are under way"
    assert after < 0.05, f"{after:.0%} of a core after the runs were given up"
    for name, each in deaf.items():
        times = each.deliveries  # the first of a second may have come late, and the next one not
        rate = max((sum(start <= when < start + 0.9 for when in times) for start in times), default=0)
        assert rate <= 20, f"{name} was interrupted {rate} times in a second"
