"""T2: a step is a boundary of the body's own cancel scopes, too: none begins in one that is cancelled."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager

import anyio
import pytest

from kit.runs import now, one, statuses
from kit.spawns import anyio_group, must_not_begin
from softstop import Agent, RunContext, RunStatus, Supervisor


@pytest.mark.parametrize("scope", [anyio.move_on_after, anyio.fail_after], ids=lambda scope: scope.__name__)
async def test_none_begins_after_the_body_s_own_time_has_run_out_during_the_step_before(
    scope: Callable[[float], AbstractContextManager[object]],
) -> None:
    async def body(run: RunContext, message: object) -> str:
        try:
            with scope(1):
                async with run.step("pay"):
                    await anyio.sleep(2)
                await must_not_begin(run)
        except TimeoutError:
            assert scope is anyio.fail_after
        async with run.step("after"):
            await anyio.sleep(1)
        async with run.step("brief"):
            return f"{now():g}"

    run, _ = await one(body)
    assert run.output is not None
    assert (run.status, run.output.value) == (RunStatus.completed, "3")
    assert statuses(run.output) == [("pay", "completed"), ("after", "completed"), ("brief", "completed")]


async def test_none_begins_there_although_the_supervisor_s_clock_stands_still() -> None:
    async def body(run: RunContext, message: object) -> None:
        with anyio.move_on_after(1):
            async with run.step("pay"):
                await anyio.sleep(2)
            await must_not_begin(run)

    async with Supervisor(clock=lambda: 5.0) as supervisor:
        assert statuses(await supervisor.start(Agent(body))) == [("pay", "completed")]


async def test_no_stream_begins_there_and_its_source_is_closed() -> None:
    closed: list[float] = []

    class Source:
        def __aiter__(self) -> AsyncGenerator[str]:
            raise NotImplementedError

        async def aclose(self) -> None:
            closed.append(now())

    async def body(run: RunContext, message: object) -> None:
        with anyio.move_on_after(1):
            async with run.step("pay"):
                await anyio.sleep(2)
            async for _ in run.stream("late", Source()):
                raise NotImplementedError

    run, _ = await one(body)
    assert (run.status, statuses(run.output), closed) == (RunStatus.completed, [("pay", "completed")], [2])


async def test_none_begins_in_a_branch_whose_sibling_has_failed_during_its_step() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def fails() -> None:
            await anyio.sleep(1)
            raise KeyError

        async def pays() -> None:
            async with run.step("outer"):
                async with run.step("pay"):
                    await anyio.sleep(2)
                async with run.step("book"):  # inside a begun one there is no boundary
                    await anyio.sleep(2)
            await must_not_begin(run)

        with pytest.raises(ExceptionGroup):
            await anyio_group(fails, pays)

    run, _ = await one(body)
    assert statuses(run.output) == [("pay", "completed"), ("book", "completed"), ("outer", "completed")]


async def test_a_scope_that_is_cancelled_around_another_task_s_steps_is_no_boundary_here() -> None:
    async def body(run: RunContext, message: object) -> str:
        async def hurried() -> None:
            with anyio.move_on_after(1):
                async with run.step("pay"):
                    await anyio.sleep(2)
                await must_not_begin(run)

        async def patient() -> None:
            for _ in range(4):
                async with run.step("walk"):
                    await anyio.sleep(1)

        await anyio_group(hurried, patient)
        return "done"

    run, _ = await one(body)
    assert run.status is RunStatus.completed
    assert [name for name, _ in statuses(run.output)].count("walk") == 4


async def test_a_body_that_takes_its_interruption_back_is_refused_without_a_wait() -> None:
    """As under a scope of its own that it leaves: nothing around it has still to be cancelled."""
    refused: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await anyio.sleep(1_000)
        except asyncio.CancelledError:
            task.uncancel()
        for _ in range(3):
            try:
                await run.boundary()
            except asyncio.CancelledError:
                refused.append(now())

    await one(body, stop_at=2)
    assert refused == [2, 2, 2]
