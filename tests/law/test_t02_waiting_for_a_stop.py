"""T2: `await run.stop_requested()`: in a begun step it returns with the stop, elsewhere it is a wait like any other."""

import asyncio
import threading

import anyio
import pytest

from kit.runs import at, names, now, one, statuses
from softstop import (
    Agent,
    Limits,
    RunContext,
    RunStatus,
    StopCause,
    StopPolicy,
    StopRequest,
    Supervisor,
)
from softstop.ports import AdapterContext
from softstop.testing import stop_everywhere


@pytest.mark.parametrize("mode", ["turn", "step"])
async def test_in_a_begun_step_it_returns_with_the_stop_and_the_step_ends_whole(mode: str) -> None:
    seen: list[StopRequest] = []

    async def body(run: RunContext, message: object) -> None:
        with AdapterContext(run).turn():
            async with run.step("job"):
                seen.append(await run.stop_requested())
                await anyio.sleep(2)
                run.write(f"told the client, {now():g}")
                assert await run.stop_requested() == seen[0]
        await run.boundary()

    run, events = await one(body, stop_at=3, mode=mode)
    assert run.output is not None
    assert (run.status, run.output.content) == (RunStatus.cancelled, "told the client, 5")
    assert statuses(run.output) == [("job", "completed")]
    assert [(stop.cause, stop.reason, stop.by) for stop in seen] == [(StopCause.user, "enough", "user-7")]
    assert "RunEscalated" not in names(events)


async def test_several_tasks_of_a_step_wait_for_it_and_one_that_is_cancelled_leaves_nothing() -> None:
    async def body(run: RunContext, message: object) -> str:
        async def watch() -> None:
            stop = await run.stop_requested()
            run.write(f"{stop.reason} {now():g}, ")

        async with run.step("job"), anyio.create_task_group() as group:
            with anyio.move_on_after(1):
                await run.stop_requested()
            assert not run._run.parked
            group.start_soon(watch)
            group.start_soon(watch)
        return "done"

    run, _ = await one(body, stop_at=3)
    assert run.output is not None
    assert (run.status, run.output.content) == (RunStatus.completed, "enough 3, enough 3, ")


async def test_work_that_is_raced_with_it_ends_early_in_a_step_of_its_own() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("search"), anyio.create_task_group() as group:

            async def watch() -> None:
                await run.stop_requested()
                group.cancel_scope.cancel()

            group.start_soon(watch)
            try:
                await anyio.sleep(20)
            finally:
                run.write(f"so far {now():g}")
            group.cancel_scope.cancel()
        await run.boundary()

    run, _ = await one(body, stop_at=3)
    assert run.output is not None
    assert (run.output.content, statuses(run.output)) == ("so far 3", [("search", "completed")])


async def test_outside_a_step_the_wait_is_interrupted_as_any_other() -> None:
    async def body(run: RunContext, message: object) -> str:
        try:
            await run.stop_requested()
            raise NotImplementedError
        finally:
            await anyio.sleep(1)
            run.write(f"cleaned up {now():g}")

    run, events = await one(body, stop_at=3)
    assert run.output is not None
    assert (run.status, run.output.content) == (RunStatus.cancelled, "cleaned up 4")
    assert names(events) == ["RunStarted", "RunStopRequested", "RunContent", "RunCancelled"]


async def test_outside_a_step_it_waits_with_the_body_for_the_last_begun_step() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def pay() -> None:
            async with run.step("pay"):
                await anyio.sleep(10)

        async def watch() -> None:
            try:
                await run.stop_requested()
                raise NotImplementedError
            finally:
                run.write(f"{now():g}")

        async with anyio.create_task_group() as group:
            group.start_soon(pay)
            group.start_soon(watch)

    run, _ = await one(body, stop_at=3)
    assert run.output is not None
    assert (run.status, run.output.content, statuses(run.output)) == (
        RunStatus.cancelled, "10", [("pay", "completed")],
    )  # fmt: skip


async def test_in_a_step_of_the_parent_a_member_s_code_sees_the_parent_s_stop_there() -> None:
    async def member(run: RunContext, message: RunContext) -> None:
        async with run.step("job"):
            stops = [await message.stop_requested(), await run.stop_requested()]
            run.write(", ".join(f"{stop.cause} via {stop.via}" for stop in stops))

    async def body(run: RunContext, message: object) -> None:
        await run.member(Agent(member), run)

    run, _ = await one(body, stop_at=3, run_id="lead")
    assert run.output is not None
    assert run.output.members[0].content == "user via None, user via lead"


@pytest.mark.parametrize("limits", [Limits(timeout=3), Limits(steps=1)])
async def test_a_limit_is_a_stop_as_any_other(limits: Limits) -> None:
    async def body(run: RunContext, message: object) -> None:
        async def next_step() -> None:
            await anyio.sleep(3)
            async with run.step("refused"):
                raise NotImplementedError

        async with anyio.create_task_group() as group:
            group.start_soon(next_step)
            async with run.step("job"):
                stop = await run.stop_requested()
                run.write(f"{stop.limit} at {now():g}")

    run, _ = await one(body, limits=limits)
    assert run.output is not None
    assert run.output.content.endswith(" used at 3")


async def test_a_stop_of_another_thread_wakes_it() -> None:
    async def body(run: RunContext, message: object) -> str:
        async with run.step("job"):
            thread = threading.Thread(target=lambda: handle.cancel("elsewhere"))
            thread.start()
            run.write(str((await run.stop_requested()).reason))
        thread.join()
        return "done"

    async with Supervisor() as supervisor:
        handle = supervisor.start(Agent(body))
        output = await handle.ended()
    assert output.content == "elsewhere"


async def test_a_pause_and_its_end_are_no_stop() -> None:
    async def body(run: RunContext, message: object) -> str:
        async with run.step("job"):
            await run.stop_requested()
            run.write(f"{now():g}")
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.pause)
        at(2, run.resume)
        at(3, run.cancel)
        assert (await run.ended()).content == "3"


@pytest.mark.parametrize("grace", [0, 2])
async def test_when_grace_ends_it_has_returned_and_what_follows_is_cut(grace: float) -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("job"):
            try:
                await run.stop_requested()
                await anyio.sleep(1_000)
            finally:
                run.write(f"{now():g}")

    run, _ = await one(body, stop_at=3, policy=StopPolicy(grace=grace))
    assert run.output is not None
    assert (run.output.content, statuses(run.output)) == (f"{3 + grace:g}", [("job", "unsettled")])


async def test_in_a_task_that_outlives_its_run_it_ends_with_that_run() -> None:
    ended: list[float] = []

    async def body(run: RunContext, message: object) -> str:
        async def watch() -> None:
            try:
                await run.stop_requested()
            finally:
                ended.append(now())

        tasks.append(asyncio.ensure_future(watch()))  # noqa: TID251 - users do
        await anyio.sleep(3)
        return "done"

    tasks: list[asyncio.Task[None]] = []
    run, _ = await one(body)
    await asyncio.wait(tasks)
    assert (run.status, ended[0]) == (RunStatus.completed, pytest.approx(3, abs=0.1))
    assert tasks[0].cancelled()


def test_no_stop_at_any_moment_breaks_the_law_around_it() -> None:
    async def body(run: RunContext, message: object) -> str:
        async with run.step("job"):
            with anyio.move_on_after(1.5):
                await run.stop_requested()
                await anyio.sleep(0.5)
        await run.boundary()
        with anyio.move_on_after(1):
            await run.stop_requested()
        return "done"

    report = stop_everywhere(lambda supervisor: supervisor.start(Agent(body)))
    assert report.violations == 0
    assert report.outcomes.keys() == {"cancelled", "completed"}
