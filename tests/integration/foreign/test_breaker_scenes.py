"""Scenes of ordinary asyncio and anyio code in which a run once stood still for its whole grace, or never ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from kit.foreign import LONG, ended, turns, words
from softstop import (
    Agent,
    BudgetExceeded,
    Event,
    Limits,
    RunContext,
    RunStatus,
    StepCompleted,
    StepStarted,
    StopCause,
    StopOutcome,
    Supervisor,
    Usage,
)


class Tasks:
    """Tasks that outlive the body that began them."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, work: Awaitable[None]) -> None:
        self._tasks.append(asyncio.ensure_future(work))  # noqa: TID251 - users do

    async def end(self) -> None:
        await asyncio.wait(self._tasks)


# -- the body returns while a task of it is in a step ----------------------------------------------------------------


async def reads_in_a_step(run: RunContext, begun: anyio.Event) -> None:
    async with run.step("answer and pay"):
        async for word in run.stream("answer", words()):
            run.write(word)
            begun.set()


async def reads_in_a_step_of_a_step(run: RunContext, begun: anyio.Event) -> None:
    async with run.step("outer"):
        await reads_in_a_step(run, begun)


async def reads_by_a_child(run: RunContext, begun: anyio.Event) -> None:
    async with run.step("outer"), asyncio.TaskGroup() as group:
        group.create_task(reads_in_a_step(run, begun))


READERS = [reads_in_a_step, reads_in_a_step_of_a_step, reads_by_a_child]
each_reader = pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)


@each_reader
async def test_a_stream_in_a_step_that_outlives_the_body_is_read_to_its_end(
    reader: Callable[[RunContext, anyio.Event], Awaitable[None]],
) -> None:
    tasks, begun = Tasks(), anyio.Event()

    async def body(run: RunContext, message: str) -> None:
        tasks.begin(reader(run, begun))
        await begun.wait()

    with anyio.fail_after(9):
        output = await Agent(body, policy=LONG).arun("go").ended()
        await tasks.end()

    assert (output.status, output.content, output.errors) == (RunStatus.completed, "abcde", ())
    assert {status for _, status in ended(output)} == {"completed"}


@each_reader
async def test_a_stop_of_a_run_whose_body_has_returned_lets_the_stream_in_the_step_end(
    reader: Callable[[RunContext, anyio.Event], Awaitable[None]],
) -> None:
    tasks, begun = Tasks(), anyio.Event()

    async def body(run: RunContext, message: str) -> None:
        tasks.begin(reader(run, begun))
        await begun.wait()

    with anyio.fail_after(9):
        run = Agent(body, policy=LONG).arun("go")
        await begun.wait()
        await turns(3)
        run.cancel()
        output = await run.ended()
        await tasks.end()

    assert (output.content, output.abandoned, output.errors) == ("abcde", (), ())
    assert {status for _, status in ended(output)} == {"completed"}


# -- a budget inside a begun step ------------------------------------------------------------------------------------


async def call(work: Awaitable[None]) -> None:
    await work


async def in_a_task_group(work: Awaitable[None]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(call(work))


async def in_gather(work: Awaitable[None]) -> None:
    await asyncio.gather(work)  # noqa: TID251 - users do


async def in_an_anyio_group(work: Awaitable[None]) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(call, work)


async def in_wait_for(work: Awaitable[None]) -> None:
    await asyncio.wait_for(work, 60)  # noqa: TID251 - users do


@pytest.mark.parametrize(
    "place", [call, in_a_task_group, in_gather, in_an_anyio_group, in_wait_for], ids=lambda place: place.__name__
)
async def test_a_budget_that_is_used_up_inside_a_begun_step_is_an_error_there_which_the_step_may_handle(
    place: Callable[[Awaitable[None]], Awaitable[None]],
) -> None:
    async def body(run: RunContext, message: str) -> None:
        async def pay() -> None:
            async with run.step("pay"):
                run.write("debit ")
                try:
                    async with run.step("ask", reserve=Usage(output_tokens=500)):
                        raise NotImplementedError
                except BudgetExceeded:
                    run.write("unasked ")
                await asyncio.sleep(0.001)
                run.write("credit")

        await place(pay())
        async with run.step("mail"):
            raise NotImplementedError

    with anyio.fail_after(9):
        output = await Agent(body, policy=LONG).arun("go", limits=Limits(tokens=100)).ended()

    assert (output.status, output.content) == (RunStatus.cancelled, "debit unasked credit")
    assert output.stop is not None
    assert output.stop.cause is StopCause.token_budget
    assert ended(output) == [("pay", "completed")]


@pytest.mark.parametrize("place", [call, in_a_task_group, in_an_anyio_group], ids=lambda place: place.__name__)
async def test_a_budget_error_that_a_step_does_not_handle_ends_the_run_at_once(
    place: Callable[[Awaitable[None]], Awaitable[None]],
) -> None:
    async def body(run: RunContext, message: str) -> None:
        async def ask() -> None:
            async with run.step("ask", reserve=Usage(output_tokens=500)):
                raise NotImplementedError

        async with run.step("pay"):
            await place(ask())

    with anyio.fail_after(9):
        output = await Agent(body, policy=LONG).arun("go", limits=Limits(tokens=100)).ended()

    assert (output.status, ended(output)) == (RunStatus.cancelled, [("pay", "failed")])
    assert output.stop is not None
    assert output.stop.cause is StopCause.token_budget
    assert output.abandoned == ()


# -- a step's end that raises ----------------------------------------------------------------------------------------


async def leaky() -> AsyncGenerator[int]:
    """It leaves its scope open where it is left, as many libraries do."""
    with anyio.move_on_after(60):
        for number in range(3):
            yield number


@pytest.mark.parametrize("mode", [None, "step", "now"])
@pytest.mark.parametrize("outlives", [False, True])
async def test_a_scope_that_a_step_leaves_open_does_not_keep_its_run_from_ending(
    outlives: bool, mode: str | None
) -> None:
    tasks, kept, reading = Tasks(), [], anyio.Event()

    async def read(run: RunContext) -> None:
        async with run.step("read"):
            reading.set()
            await asyncio.sleep(0.005)
            kept.append(leaky())
            async for _ in kept[0]:
                break

    async def body(run: RunContext, message: str) -> None:
        if outlives:
            tasks.begin(read(run))
            await reading.wait()
        else:
            await read(run)

    with anyio.fail_after(9):
        run = Agent(body, policy=LONG).arun("go")
        await reading.wait()
        if mode == "step":
            run.cancel()
        await turns()
        output = await run.ended()
        if mode == "now":
            assert run.cancel(mode="now").outcome is StopOutcome.too_late
        if outlives:
            await tasks.end()
        with suppress(RuntimeError):  # anyio's: not the task that has entered the scope
            await kept[0].aclose()

    assert output.status is RunStatus.completed  # the one step was not refused, nor cut
    assert ended(output) == [("read", "completed")]
    [line] = output.errors
    assert "run.open(" in line


class Watcher:
    """An observer that raises what is no Exception, at one kind of event."""

    def __init__(self, kind: type[Event], exc: BaseException) -> None:
        self.kind, self.exc = kind, exc

    def notice(self, event: Event) -> None:
        if isinstance(event, self.kind):
            raise self.exc


def failure() -> BaseException:
    try:
        pytest.fail("an assertion of a test")
    except BaseException as exc:  # noqa: BLE001
        return exc


RAISED = [failure(), SystemExit(3), asyncio.CancelledError()]


@pytest.mark.parametrize("kind", [StepStarted, StepCompleted])
@pytest.mark.parametrize(
    "exc", [failure(), SystemExit(3), asyncio.CancelledError()], ids=lambda exc: type(exc).__name__
)
async def test_an_observer_that_raises_what_is_no_exception_leaves_no_step_open(
    kind: type[Event], exc: BaseException
) -> None:
    async def body(run: RunContext, message: str) -> None:
        async with run.step("pay"):
            await asyncio.sleep(0)

    with anyio.fail_after(9):
        async with Supervisor(policy=LONG, observers=[Watcher(kind, exc)]) as supervisor:
            run = supervisor.start(Agent(body), "go")
            output = await run.ended()

    assert output.status.ended
    assert [name for name, _ in ended(output)] == ["pay"]
    assert output.abandoned == ()
