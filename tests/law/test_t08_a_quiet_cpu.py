"""T8: whatever a body does with its cancellation, it sees few of them, and the CPU stays quiet."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise

import anyio
import pytest

from kit.noisy import LAST, NOISY, deaf, deliveries, retries, retries_in_a_step
from kit.runs import at, now
from softstop import Agent, RunContext, StopPolicy, Supervisor


@pytest.mark.parametrize("work", NOISY, ids=lambda work: work.__name__)
@pytest.mark.parametrize("mode", ["step", "now"])
async def test_a_body_that_stays_sees_at_most_20_deliveries_a_second_and_none_once_abandoned(
    work: Callable[[RunContext], Awaitable[None]], mode: str
) -> None:
    async def body(run: RunContext, message: object) -> None:
        await work(run)

    deliveries.clear()
    loop = asyncio.get_running_loop()
    async with Supervisor(policy=StopPolicy(grace=10, abandon_after=5)) as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(3)
        before = loop.turns  # type: ignore[attr-defined]
        run.cancel(mode=mode)
        output = await run.ended()
        ended = now()
        turns = loop.turns - before  # type: ignore[attr-defined]
        assert ended == (18 if mode == "step" else 8)
        seconds = ended - 3
        assert output.abandoned
        assert turns <= 60 * seconds, f"{turns} turns of the loop in {seconds} s"
        worst = max((sum(start <= when < start + 1 for when in deliveries) for start in deliveries), default=0)
        assert worst <= 20, f"{worst} deliveries in one second"
        count, before = len(deliveries), loop.turns  # type: ignore[attr-defined]
        await anyio.sleep(100)
        assert len(deliveries) == count, "delivered to an abandoned body"
        assert loop.turns - before < 20  # type: ignore[attr-defined]
    await anyio.sleep(LAST)


async def test_a_deaf_child_of_an_anyio_group_of_the_body_s_own_is_asked_by_that_group_and_the_run_still_ends_in_time() -> (  # noqa: E501
    None
):
    heard: list[float] = []

    async def deaf_child() -> None:
        until = now() + 3.5
        while now() < until:
            try:
                await anyio.sleep(0.5)
            except asyncio.CancelledError:
                heard.append(now())  # anyio delivers to it on every turn, as it does without us

    async def body(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(deaf_child)

    async with Supervisor(policy=StopPolicy(grace=1, abandon_after=1)) as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.cancel)
        output = await run.ended()
        assert now() == pytest.approx(3, abs=0.01), "abandoned after grace and abandon_after, however loud its group is"
        assert output.abandoned == ("body",)
        assert heard[0] == pytest.approx(1, abs=0.01)
        await anyio.sleep(2)
    assert max(heard) <= 3.6


async def test_a_branch_whose_step_ends_beside_a_deaf_one_is_stopped_at_once_and_not_at_the_next_pulse() -> None:
    left: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        async def pays() -> None:
            async with run.step("pay"):
                await anyio.sleep(10)
            try:
                await anyio.sleep(1_000)
            finally:
                left.append(now())

        async with anyio.create_task_group() as group:
            group.start_soon(retries, run)
            group.start_soon(pays)

    deliveries.clear()
    async with Supervisor(policy=StopPolicy(grace=20, abandon_after=5)) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        await run.ended()
    assert left == [10]
    await anyio.sleep(LAST)


async def test_a_hundred_deaf_runs_are_as_quiet_as_one() -> None:
    loop = asyncio.get_running_loop()
    bodies = [deaf(30, step=None) for _ in range(100)]
    async with Supervisor(policy=StopPolicy(grace=5, abandon_after=5)) as supervisor:
        runs = [supervisor.start(Agent(body)) for body in bodies]
        await anyio.sleep(1)
        before = loop.turns  # type: ignore[attr-defined]
        for run in runs:
            run.cancel()
        for run in runs:
            await run.ended()
        assert now() == 11
        assert loop.turns - before <= 60 * 10 * 100  # type: ignore[attr-defined]
        for body in bodies:
            seen = body.deliveries  # type: ignore[attr-defined]
            assert max(sum(start <= when < start + 1 for when in seen) for start in seen) <= 20
    await anyio.sleep(30)


async def test_a_stop_that_waits_behind_a_shield_costs_next_to_no_loop_turns() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(100)
        await anyio.sleep(1)

    async with Supervisor(policy=StopPolicy(grace=None)) as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(1)
        loop = asyncio.get_running_loop()
        before = loop.turns  # type: ignore[attr-defined]
        run.cancel()
        await run.ended()
        assert now() == 100
        assert loop.turns - before < 100  # type: ignore[attr-defined]


async def test_a_deaf_branch_beside_a_step_is_as_quiet() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(retries, run)
            async with run.step("pay"):
                await anyio.sleep(100)

    deliveries.clear()
    loop = asyncio.get_running_loop()
    async with Supervisor(policy=StopPolicy(grace=None)) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        await anyio.sleep(3.5)
        before = loop.turns  # type: ignore[attr-defined]
        await anyio.sleep(50)
        assert loop.turns - before <= 60 * 50  # type: ignore[attr-defined]
        worst = max((sum(start <= when < start + 1 for when in deliveries) for start in deliveries), default=0)
        assert worst <= 20
        run.cancel(mode="now")
        await run.ended()
    await anyio.sleep(LAST)


async def test_a_deaf_step_in_another_task_is_asked_no_more_once_its_run_is_abandoned() -> None:
    async def body(run: RunContext, message: object) -> None:
        await asyncio.wait([asyncio.get_running_loop().create_task(retries_in_a_step(run))])

    deliveries.clear()
    async with Supervisor(policy=StopPolicy(grace=0, abandon_after=2)) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        assert (await run.ended()).abandoned
        count = len(deliveries)
        await anyio.sleep(50)
        assert count == len(deliveries) > 1
    await anyio.sleep(LAST)


@pytest.mark.leaves_tasks
@pytest.mark.parametrize("cleanup_timeout", [1.0, 6.0], ids=["before the run is given up", "after it"])
@pytest.mark.parametrize("mode", ["step", "now"])
async def test_a_generator_in_a_branch_that_will_not_clean_up_is_as_quiet_when_its_time_is_over(
    cleanup_timeout: float, mode: str
) -> None:
    async def source(run: RunContext) -> AsyncIterator[str]:
        try:
            yield "word"
            await anyio.sleep(1_000)
        finally:
            await retries(run)

    async def body(run: RunContext, message: object) -> None:
        async def read() -> None:
            async for _ in run.stream("read", source(run)):
                pass

        async with asyncio.TaskGroup() as group:  # one of anyio delivers on its own account, see below
            group.create_task(read())
            group.create_task(asyncio.sleep(1_000))

    deliveries.clear()
    loop = asyncio.get_running_loop()
    policy = StopPolicy(grace=3, abandon_after=2, cleanup_timeout=cleanup_timeout)
    async with Supervisor(policy=policy) as supervisor:
        run = supervisor.start(Agent(body))
        at(1, lambda: run.cancel(mode=mode))
        assert (await run.ended()).abandoned == ("read",)
        count, before = len(deliveries), loop.turns  # type: ignore[attr-defined]
        await anyio.sleep(60)
        assert loop.turns - before < 20  # type: ignore[attr-defined]
        worst = max((sum(start <= when < start + 1 for when in deliveries) for start in deliveries), default=0)
        assert worst <= 20, f"{worst} deliveries in one second"
        assert len(deliveries) == count, "delivered to an abandoned body"
    await anyio.sleep(LAST)


async def test_a_body_that_swallows_each_interruption_is_asked_again_at_least_once_a_second() -> None:
    heard: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        for _ in range(30):
            try:
                await asyncio.sleep(1_000)
            except asyncio.CancelledError:
                heard.append(now())

    async with Supervisor(policy=StopPolicy(grace=60, cleanup_timeout=2)) as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.cancel)
        await run.ended()
    assert (heard[0], heard[1]) == (1, 3), "then it has peace for its clean-up, once"
    assert max(later - before for before, later in pairwise(heard[1:])) <= 1.001


async def test_clean_up_that_tries_a_step_again_and_again_is_told_of_it_in_one_line() -> None:
    tries = 0

    async def body(run: RunContext, message: object) -> None:
        nonlocal tries
        try:
            await anyio.sleep(1_000)
        finally:
            while tries < 4:
                tries += 1
                with contextlib.suppress(asyncio.CancelledError):
                    async with run.step("undo"):
                        await anyio.sleep(1)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.cancel)
        output = await run.ended()
    assert tries == 4
    assert [line for line in output.errors if "in clean-up" in line] == list(output.errors)
    assert len(output.errors) == 1
