"""Bodies that will not stop cost no CPU, measured on the real loop: before it is given up and after."""

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


async def in_an_asyncio_group(run: RunContext, deaf: Deaf) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(deaf.endure())


async def in_a_branch_beside_a_step(run: RunContext, deaf: Deaf) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(deaf.endure())
        await in_a_step(run, Deaf())


async def behind_asyncio_shield(run: RunContext, deaf: Deaf) -> None:
    task = asyncio.ensure_future(asyncio.sleep(LAST))  # noqa: TID251 - users do
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

    deaf = {body.__name__: Deaf() for body in BODIES}
    with anyio.fail_after(10):
        async with Supervisor(policy=StopPolicy(grace=0.6, abandon_after=0.6)) as supervisor:
            runs = [supervisor.start(whole(body), deaf[body.__name__]) for body in BODIES]
            await asyncio.sleep(0.05)
            for run in runs:
                run.cancel(mode=mode)
            before = await share_of_a_core(0.5)
            given_up: dict[str, float] = {}
            for run in runs:
                assert (await run.ended()).abandoned
                given_up[run.source.name] = time.monotonic()
            after = await share_of_a_core(0.5)
        await asyncio.sleep(max(0.0, *(each.left for each in deaf.values())) + 0.05)
    assert before < 0.05, f"{before:.0%} of a core while the stops are under way"
    assert after < 0.05, f"{after:.0%} of a core after the runs were given up"
    for name, each in deaf.items():
        late = [when for when in each.deliveries if when > given_up[name] + 0.01 and when < each.until]
        assert not late, f"{name} was interrupted after it was given up"
        rate = max((sum(start <= when < start + 1 for when in each.deliveries) for start in each.deliveries), default=0)
        assert rate <= 20, f"{name} was interrupted {rate} times in a second"
