"""What a drain asks of each run, also when it is called from elsewhere or is cancelled itself."""

import asyncio

import anyio

from kit.runs import at, deaf, now, sleeper
from softstop import Agent, Run, RunContext, RunStatus, StopCause, StopPolicy, Supervisor


async def test_a_drain_that_is_cancelled_has_asked_every_run_all_the_same() -> None:
    async with Supervisor() as supervisor:
        runs = [supervisor.start(Agent(sleeper)) for _ in range(300)]
        await anyio.sleep(1)
        draining = asyncio.get_running_loop().create_task(supervisor.drain())
        await asyncio.sleep(0)
        assert not all(run.stopping for run in runs)
        draining.cancel()
        await anyio.sleep(1)
        assert {run.stop and run.stop.cause for run in runs} == {StopCause.shutdown}


async def test_a_drain_gives_each_run_the_grace_of_its_own_policy() -> None:
    async def slow(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(1_000)

    ended: dict[int, float] = {}

    async def note_end(run: Run, number: int) -> None:
        await run.ended()
        ended[number] = now()

    supervisor = Supervisor(policy=StopPolicy(grace=20, abandon_after=1))
    async with anyio.create_task_group() as group, supervisor:
        policies = [None, StopPolicy(grace=3, abandon_after=1), StopPolicy(grace=0, abandon_after=1)]
        runs = [supervisor.start(Agent(slow), policy=policy) for policy in policies]
        for number, run in enumerate(runs):
            group.start_soon(note_end, run, number)
        await anyio.sleep(1)
        await supervisor.drain()
    assert ended == {0: 21, 1: 4, 2: 1}
    assert [run.stop and run.stop.grace for run in runs] == [20, 3, 0]


async def test_a_run_may_drain_another_supervisor_than_its_own() -> None:
    async with Supervisor() as other, Supervisor() as supervisor:
        started = other.start(Agent(sleeper))

        async def body(run: RunContext, message: object) -> int:
            async with run.step("clean up"):
                return await other.drain()

        output = await supervisor.start(Agent(body)).ended()
    assert (output.status, output.value, started.status) == (RunStatus.completed, 1, RunStatus.cancelled)


async def test_leaving_a_supervisor_waits_a_while_for_what_its_runs_ended_without() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await deaf(12)

    policy = StopPolicy(grace=2, abandon_after=6)
    async with Supervisor(policy=policy) as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.cancel)
        await run.ended()
        assert (now(), supervisor.abandoned) == (9, 1)
    assert (now(), supervisor.abandoned) == (12, 0)
