"""T13: the cause is a recorded fact, never inferred from an exception, and a run's own code cannot forge an end."""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable

import anyio
import pytest

from kit.runs import at, begun, cancel_natively, deaf, listen, names, now, one, payer, sleeper, statuses, words
from softstop import (
    Agent,
    RunCancelled,
    RunContext,
    RunStatus,
    StepCompleted,
    StepFailed,
    StopCause,
    StopMode,
    Supervisor,
)


async def test_who_why_when_and_how_are_fields_of_the_outcome() -> None:
    wall = asyncio.get_running_loop().wall  # type: ignore[attr-defined]

    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(10)
        await anyio.sleep(1_000)

    async with Supervisor(clock=wall) as supervisor:
        run = supervisor.start(Agent(body))
        started = wall()
        at(3, lambda: run.cancel("enough", by="user-7", mode="turn"))
        outcome = (await listen(run))[-1]
    assert isinstance(outcome, RunCancelled)
    assert (outcome.cause, outcome.reason, outcome.by, outcome.via) == (StopCause.user, "enough", "user-7", None)
    assert outcome.mode is StopMode.turn
    assert outcome.requested_at == started + 3
    assert outcome.stopped_at == started + 10


@pytest.mark.parametrize("raised", [TimeoutError, asyncio.CancelledError, SystemExit, KeyError])
async def test_what_the_body_raises_after_the_stop_does_not_change_the_cause(raised: type[BaseException]) -> None:
    async def body(run: RunContext, message: object) -> None:
        try:
            await anyio.sleep(1_000)
        except asyncio.CancelledError:
            raise raised("misleading") from None

    run, events = await one(body, stop_at=3)
    outcome = events[-1]
    assert isinstance(outcome, RunCancelled)
    assert (outcome.cause, outcome.reason) == (StopCause.user, "enough")
    assert run.status is RunStatus.cancelled


async def swallow(run: RunContext) -> None:
    for _ in range(3):
        try:
            await anyio.sleep(1_000)
        except asyncio.CancelledError:
            run.write("ignored ")


async def swallow_and_write(run: RunContext) -> None:
    try:
        await anyio.sleep(1_000)
    except asyncio.CancelledError:
        run.write("completed, honestly")


async def swallow_all(run: RunContext) -> None:
    with contextlib.suppress(BaseException):  # what careless code does
        await anyio.sleep(1_000)


async def swallow_in_gather(run: RunContext) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(anyio.sleep(1_000), return_exceptions=True)  # noqa: TID251 - users do


@pytest.mark.parametrize(
    "work", [swallow, swallow_and_write, swallow_all, swallow_in_gather], ids=lambda work: work.__name__
)
async def test_swallowing_the_cancellation_does_not_complete_the_run(
    work: Callable[[RunContext], Awaitable[None]],
) -> None:
    async def body(run: RunContext, message: object) -> str:
        await work(run)
        return "done"

    run, _ = await one(body, stop_at=3)
    assert run.status is RunStatus.cancelled


STRAY = (
    asyncio.CancelledError(), SystemExit(3), BaseException("odd"), BaseExceptionGroup("of a group", [BaseException()]),
)  # fmt: skip


@pytest.mark.parametrize("stray", STRAY, ids=repr)
async def test_a_stray_end_raised_by_a_tool_is_that_step_s_failure_and_the_run_may_go_on(stray: BaseException) -> None:
    seen: list[BaseException] = []

    async def body(run: RunContext, message: object) -> str:
        try:
            async with run.step("tool"):
                await anyio.sleep(1)
                raise stray
        except StepFailed as error:
            seen.append(error)
        async with run.step("next"):
            await anyio.sleep(1)
        return "went on"

    run, events = await one(body)
    assert run.status is RunStatus.completed
    assert [event.status for event in events if isinstance(event, StepCompleted)] == ["failed", "completed"]
    assert seen[0].__cause__ is stray
    assert isinstance(seen[0], StepFailed)
    assert seen[0].step == "tool"
    assert type(stray).__name__.removesuffix("Group") in seen[0].error


async def test_a_stray_cancelled_error_of_a_step_that_a_stop_waits_for_is_that_step_s_failure_too() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("tool"):
            await anyio.sleep(2)
            raise asyncio.CancelledError

    run, _ = await one(body, stop_at=1)
    assert run.output is not None
    assert (run.status, statuses(run.output)) == (RunStatus.cancelled, [("tool", "failed")])
    assert run.output.errors[0].startswith("StepFailed: step 'tool' raised CancelledError although nothing")


@pytest.mark.parametrize("stray", [asyncio.CancelledError(), SystemExit(3), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("where", ["body", "step", "branch", "source"])
async def test_a_stray_end_that_nobody_asked_for_fails_the_run_and_does_not_cancel_it(
    stray: BaseException, where: str
) -> None:
    class Source:
        def __aiter__(self) -> "Source":
            return self

        async def __anext__(self) -> str:
            raise stray

    async def body(run: RunContext, message: object) -> None:
        async def tool() -> None:
            async with run.step("tool"):
                raise stray

        if where == "body":
            raise stray
        if where == "step":
            await tool()
        if where == "source":
            async for _ in run.stream("read", Source()):
                raise NotImplementedError
        async with anyio.create_task_group() as group:
            group.start_soon(tool)

    run, events = await one(body)
    assert names(events)[-1] == "RunFailed"
    assert type(stray).__name__ in " ".join(run.output.errors)  # type: ignore[union-attr]
    if where == "source":
        assert statuses(run.output) == [("read", "failed")]


async def test_a_stray_cancelled_error_of_one_branch_cannot_end_the_group_silently() -> None:
    """anyio alone would leave the group without an error and go on as if all branches had ended."""
    after: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        async def bad() -> None:
            async with run.step("bad"):
                raise asyncio.CancelledError

        async with anyio.create_task_group() as group:
            group.start_soon(bad)
        after.append("as if nothing had happened")

    run, _ = await one(body)
    assert run.status is RunStatus.failed
    assert after == []


@pytest.mark.parametrize("where", ["wait", "step"])
async def test_a_native_cancel_from_outside_is_a_shutdown_now(where: str) -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(sleeper if where == "wait" else payer)))
        await anyio.sleep(1)
        cancel_natively(run)
        outcome = (await listen(run))[-1]
    assert isinstance(outcome, RunCancelled)
    assert (outcome.cause, outcome.mode) == (StopCause.shutdown, StopMode.now)
    assert [step.status for step in outcome.steps] == ([] if where == "wait" else ["unsettled"])


async def test_a_native_cancel_before_the_first_step_of_its_task_ends_the_run() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper))
        cancel_natively(run)
        with anyio.fail_after(1):
            events = await listen(run)
    outcome = events[-1]
    assert names(events) == ["RunStopRequested", "RunCancelled"]
    assert isinstance(outcome, RunCancelled)
    assert (outcome.cause, outcome.mode) == (StopCause.shutdown, StopMode.now)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio.TaskGroup leaves cancels in the task's count")
async def test_a_native_cancel_that_the_body_swallows_is_a_shutdown_all_the_same() -> None:
    async def body(run: RunContext, message: object) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await anyio.sleep(1_000)
        return "done"

    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(body)))
        cancel_natively(run)
        outcome = (await listen(run))[-1]
    assert isinstance(outcome, RunCancelled)
    assert outcome.cause is StopCause.shutdown


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_body_that_handles_the_failure_of_an_asyncio_task_group_completes(stopped: bool) -> None:
    async def fail() -> None:
        await anyio.sleep(1)
        raise ConnectionError

    async def body(run: RunContext, message: object) -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
        except* ConnectionError:
            async with run.step("pay"):
                await anyio.sleep(1)
                if stopped:
                    run_to_stop.cancel("too late for what is begun")
        return "done"

    async with Supervisor() as supervisor:
        run_to_stop = supervisor.start(Agent(body))
        output = await run_to_stop.ended()
    assert (output.status, output.content) == (RunStatus.completed, "done")


async def test_a_native_cancel_after_a_stop_leaves_the_first_cause() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(payer)))
        run.cancel("enough")
        await anyio.sleep(1)
        cancel_natively(run)
        outcome = (await listen(run))[-1]
    assert isinstance(outcome, RunCancelled)
    assert (outcome.cause, outcome.reason) == (StopCause.user, "enough")


async def test_a_body_s_own_timeouts_are_its_own_affair() -> None:
    async def body(run: RunContext, message: object) -> str:
        with anyio.move_on_after(1) as moved:
            await anyio.sleep(1_000)
        with pytest.raises(TimeoutError), anyio.fail_after(1):
            await anyio.sleep(1_000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anyio.sleep(1_000), 1)  # noqa: TID251 - users do
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):  # noqa: TID251 - users do
                await anyio.sleep(1_000)
        task = asyncio.ensure_future(anyio.sleep(1_000))  # noqa: TID251 - users do
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return str(moved.cancelled_caught)

    run, events = await one(body)
    assert run.status is RunStatus.completed
    assert names(events) == ["RunStarted", "RunContent", "RunCompleted"]
    assert run.output is not None
    assert run.output.value == "True"


async def test_a_timeout_of_the_body_s_own_that_escapes_is_a_failure_and_no_stop() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with asyncio.timeout(1):  # noqa: TID251 - users do
            await anyio.sleep(1_000)

    run, events = await one(body)
    assert names(events) == ["RunStarted", "RunFailed"]
    assert run.stop is None


async def test_a_stop_and_the_body_s_own_timeout_at_one_instant_keep_the_stop_s_cause() -> None:
    async def body(run: RunContext, message: object) -> None:
        with anyio.fail_after(3):
            await anyio.sleep(1_000)

    run, events = await one(body, stop_at=3)
    outcome = events[-1]
    if isinstance(outcome, RunCancelled):
        assert outcome.cause is StopCause.user
    else:
        assert names(events)[-1] == "RunFailed"
        assert run.output is not None
        assert "TimeoutError" in run.output.errors[0]


async def test_causes_are_told_for_every_way_a_run_can_be_stopped() -> None:
    """No two of them look alike, and none is told by an exception."""
    causes = {}
    async with Supervisor() as supervisor:
        by_user = supervisor.start(Agent(sleeper))
        by_caller = supervisor.start(Agent(sleeper))
        by_owner = supervisor.start(Agent(sleeper))
        await anyio.sleep(1)
        by_user.cancel()
        with anyio.move_on_after(1):
            await by_caller
        by_shutdown = supervisor.start(Agent(sleeper))
        async with by_owner:
            pass
        await supervisor.drain()
        for name in ("by_user", "by_caller", "by_owner", "by_shutdown"):
            output = await locals()[name].ended()
            causes[name] = output.stop.cause.value
    assert causes == {
        "by_user": "user", "by_caller": "caller_gone", "by_owner": "caller_gone", "by_shutdown": "shutdown",
    }  # fmt: skip


async def test_reason_and_author_are_kept_up_to_a_thousand_characters_and_can_be_sent() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(sleeper)))
        run.cancel("why " * 10_000, by="\ud800" + "x" * 2_000)
        outcome = (await listen(run))[-1]
    assert isinstance(outcome, RunCancelled)
    for told, begins in ((outcome.reason, "why why "), (outcome.by, "?xxx")):
        assert told is not None
        assert len(told) == 1_000
        assert told.startswith(begins)
        assert told.endswith("…")
    assert outcome.to_json()


async def test_a_first_native_cancel_hastens_the_last_waits_and_a_second_one_ends_them() -> None:
    async def body(run: RunContext, message: object) -> str:
        async def pay() -> None:
            async with run.step("pay"):
                await deaf(100)

        asyncio.get_running_loop().create_task(pay())
        await asyncio.sleep(0)
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(3)
        cancel_natively(run)
        await anyio.sleep(1)
        assert run.status is RunStatus.stopping
        cancel_natively(run)
        output = await run.ended()
        assert now() == 4
        await anyio.sleep(100)
    assert output.stop is not None
    assert (output.stop.cause, output.stop.mode) == (StopCause.shutdown, StopMode.now)
    assert [(step.step, step.status) for step in output.steps] == [("pay", "abandoned")]
    assert output.abandoned == ("pay",), "what the run ends without is named"


async def test_a_native_cancel_that_a_body_swallows_around_its_stream_is_a_shutdown() -> None:
    async def body(run: RunContext, message: object) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            async for word in run.stream("write", words(9)):
                run.write(word)
        return "done"

    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(body)))
        await anyio.sleep(2.5)
        cancel_natively(run)
        outcome = (await listen(run))[-1]
    assert isinstance(outcome, RunCancelled)
    assert outcome.cause is StopCause.shutdown
