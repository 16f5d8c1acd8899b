"""T5: a body that returns untouched by the stop has completed, and the receipt says so; touched, it is cancelled."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest

from kit.runs import Words, at, listen, names, now, one, payer, sleeper
from softstop import (
    Agent,
    RunCompleted,
    RunContext,
    RunStatus,
    StopCause,
    StopOutcome,
    StopResult,
    Supervisor,
)
from softstop.ports import AdapterContext


async def test_a_run_that_returns_after_its_last_step_has_completed_although_a_stop_was_accepted() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(payer))
        await anyio.sleep(3)
        receipt = run.cancel("enough")
        assert receipt.outcome is StopOutcome.accepted
        events = await listen(run)
        assert await receipt.wait() is StopResult.completed_anyway
        assert now() == 10
    assert names(events) == [
        "RunStarted", "StepStarted", "RunStopRequested", "StepCompleted", "RunContent", "RunCompleted",
    ]  # fmt: skip
    assert isinstance(events[-1], RunCompleted)


async def test_the_output_of_a_run_that_completed_anyway_still_tells_of_the_stop() -> None:
    run, _ = await one(payer, stop_at=3)
    output = run.output
    assert output is not None
    assert (output.status, output.value) == (RunStatus.completed, "paid")
    assert output.stop is not None
    assert output.stop.cause is StopCause.user
    assert output.raise_for_status() is output


async def test_leaving_a_step_is_no_boundary_so_code_right_after_it_runs() -> None:
    after: list[str] = []

    async def body(run: RunContext, message: object) -> str:
        async with run.step("pay"):
            await anyio.sleep(10)
        after.append("ran")
        return "done"

    run, _ = await one(body, stop_at=3)
    assert after == ["ran"]
    assert run.status is RunStatus.completed


async def test_a_body_that_stops_itself_and_returns_has_completed() -> None:
    async def body(run: RunContext, message: object) -> str:
        supervisor.cancel_run(run.run_id)
        return "done"

    async with Supervisor() as supervisor:
        assert (await supervisor.start(Agent(body)).ended()).status is RunStatus.completed


async def test_awaiting_what_is_already_done_is_no_wait() -> None:
    async def body(run: RunContext, message: object) -> str:
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        ready.set_result("done")
        async with run.step("pay"):
            await anyio.sleep(10)
        return await ready

    run, _ = await one(body, stop_at=3)
    assert run.status is RunStatus.completed


# -- touched: none of these may be told as completed -----------------------------------------------------------------


async def swallow(run: RunContext) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await anyio.sleep(1_000)


async def swallow_and_uncancel(run: RunContext) -> None:
    try:
        await anyio.sleep(1_000)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()


async def swallow_in_a_branch(run: RunContext) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(swallow, run)


async def swallow_in_gather(run: RunContext) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(anyio.sleep(1_000))  # noqa: TID251 - users do


async def swallow_exceptions_of_gather(run: RunContext) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(anyio.sleep(1_000), return_exceptions=True)  # noqa: TID251 - users do


async def refused_step(run: RunContext) -> None:
    async with run.step("pay"):
        await anyio.sleep(10)
    try:
        async with run.step("refused"):
            raise NotImplementedError
    except asyncio.CancelledError:
        pass


async def refused_boundary(run: RunContext) -> None:
    async with run.step("pay"):
        await anyio.sleep(10)
    with contextlib.suppress(asyncio.CancelledError):
        await run.boundary()


async def refused_member(run: RunContext) -> None:
    async with run.step("pay"):
        await anyio.sleep(10)
    with contextlib.suppress(asyncio.CancelledError):
        await run.member(Agent(sleeper), "late")


async def refused_unwaited_member(run: RunContext) -> None:
    async with run.step("pay"):
        await anyio.sleep(10)
    run.start_member(Agent(sleeper), "late")


async def cut_stream(run: RunContext) -> None:
    try:
        async for word in run.stream("write", Words()):
            run.write(word)
    except asyncio.CancelledError:
        pass


async def refused_stream(run: RunContext) -> None:
    async with run.step("pay"):
        await anyio.sleep(10)
    try:
        async for word in run.stream("write", Words()):
            run.write(word)
    except asyncio.CancelledError:
        pass


async def stopped_member(run: RunContext) -> None:
    async with run.step("pay"):
        await run.member(Agent(sleeper), "go")


async def step_in_the_body_while_a_branch_waits(run: RunContext) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 1_000)
        async with run.step("pay"):
            await anyio.sleep(10)


async def step_in_a_branch_that_ends_while_another_waits(run: RunContext) -> None:
    async def pay() -> None:
        async with run.step("pay"):
            await anyio.sleep(10)

    async with anyio.create_task_group() as group, run.step("hold"):
        group.start_soon(pay)
        group.start_soon(anyio.sleep, 1_000)
        await anyio.sleep(12)


TOUCHED = [
    swallow, swallow_and_uncancel, swallow_in_a_branch, swallow_in_gather, swallow_exceptions_of_gather, refused_step,
    refused_boundary, refused_member, refused_unwaited_member, cut_stream, refused_stream, stopped_member,
    step_in_the_body_while_a_branch_waits, step_in_a_branch_that_ends_while_another_waits,
]  # fmt: skip


@pytest.mark.parametrize("work", TOUCHED, ids=lambda work: work.__name__)
async def test_a_body_that_the_stop_has_touched_is_cancelled_although_it_returns(
    work: Callable[[RunContext], Awaitable[None]],
) -> None:
    async def body(run: RunContext, message: object) -> str:
        await work(run)
        return "as if nothing had happened"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        receipts = []
        at(3, lambda: receipts.append(run.cancel()))
        events = await listen(run)
        assert await receipts[0].wait() is StopResult.stopped
    assert names(events)[-1] == "RunCancelled"
    assert run.status is RunStatus.cancelled


async def test_a_step_that_was_cut_makes_the_run_cancelled_although_the_body_returns() -> None:
    async def body(run: RunContext, message: object) -> str:
        try:
            async with run.step("pay"):
                await anyio.sleep(1_000)
        except asyncio.CancelledError:
            pass
        return "as if nothing had happened"

    _run, events = await one(body, stop_at=3, mode="now")
    assert names(events)[-1] == "RunCancelled"
    assert [step.status for step in events[-1].steps] == ["unsettled"]  # type: ignore[attr-defined]


async def test_a_step_refused_in_a_stray_task_makes_the_run_cancelled_although_its_body_was_never_interrupted() -> None:
    stray: list[asyncio.Task[None]] = []

    async def body(run: RunContext, message: object) -> str:
        async def late() -> None:
            await anyio.sleep(5)
            async with run.step("refused"):
                raise NotImplementedError

        stray.append(asyncio.create_task(late()))  # noqa: TID251 - users do
        async with run.step("pay"):
            await anyio.sleep(10)
        return "as if nothing had happened"

    run, events = await one(body, stop_at=3)
    assert names(events)[-1] == "RunCancelled"
    assert run.status is RunStatus.cancelled
    with pytest.raises(asyncio.CancelledError):
        await stray[0]


async def test_a_member_that_ended_before_the_stop_takes_nothing_from_completion() -> None:
    async def body(run: RunContext, message: object) -> str:
        async with run.step("outer"):
            await run.member(Agent(payer), "go")
            await anyio.sleep(1)
        return "done"

    run, _ = await one(body, stop_at=10.5)
    assert run.status is RunStatus.completed


async def broken() -> AsyncIterator[str]:
    yield "half "
    raise ValueError("broken")


@pytest.mark.parametrize("count", [1, 2, 20])
@pytest.mark.parametrize("what", ["step", "stream", "stage"])
async def test_any_failure_of_before_the_stop_that_the_body_raises_in_the_end_has_failed_the_run(
    what: str, count: int
) -> None:
    async def fails(run: RunContext, number: int) -> None:
        if what == "stream":
            async for _ in run.stream(f"read {number}", broken()):
                pass
        elif what == "stage":
            async with AdapterContext(run).stage(f"stage {number}"):
                raise ValueError("broken")
        else:
            async with run.step(f"pay {number}"):
                raise ValueError("broken")

    async def body(run: RunContext, message: object) -> None:
        failures: list[ValueError] = []
        for number in range(count):
            try:
                await fails(run, number)
            except ValueError as failure:
                failures.append(failure)
        try:
            await anyio.sleep(1_000)
        finally:
            raise failures[0]  # the oldest one: all are remembered

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        receipts = []
        at(3, lambda: receipts.append(run.cancel()))
        output = await run.ended()
        assert await receipts[0].wait() is StopResult.failed_anyway
    assert output.status is RunStatus.failed
    assert output.errors[0] == "ValueError: broken"


async def test_a_step_that_the_body_s_own_timeout_tears_after_the_stop_hinders_completion() -> None:
    """Nothing was delivered and nothing refused: the torn step alone says that the work was not done."""

    async def body(run: RunContext, message: object) -> str:
        try:
            async with asyncio.timeout(5), run.step("pay"):  # noqa: TID251 - native, so it tears a step
                await anyio.sleep(10)
        except TimeoutError:
            return "given up"
        raise NotImplementedError

    run, _ = await one(body, stop_at=3)
    assert run.output is not None
    assert [(step.step, step.status) for step in run.output.steps] == [("pay", "unsettled")]
    assert (run.status, run.output.value) == (RunStatus.cancelled, "given up")
    undisturbed, _ = await one(body)
    assert undisturbed.status is RunStatus.completed


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
async def test_a_stop_by_a_task_that_the_body_starts_eagerly_interrupts_no_body_that_returns_without_a_wait() -> None:
    async def stops() -> None:
        run.cancel()

    async def body(run: RunContext, message: object) -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(stops())
        return "done"

    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        output = await run.ended()
    assert (output.status, output.value) == (RunStatus.completed, "done")


async def test_a_stage_that_the_body_s_own_timeout_tears_after_the_stop_hinders_completion_like_a_step() -> None:
    async def body(run: RunContext, message: object) -> str:
        door = AdapterContext(run)
        try:
            with door.region():  # as around members, which a stop ends by itself
                async with asyncio.timeout(5), door.stage("members"):  # noqa: TID251 - native
                    await anyio.sleep(10)
        except TimeoutError:
            return "given up"
        raise NotImplementedError

    run, _ = await one(body, stop_at=3)
    assert run.output is not None
    assert [(step.step, step.status) for step in run.output.steps] == [("members", "cut")]
    assert (run.status, run.output.value) == (RunStatus.cancelled, "given up")
