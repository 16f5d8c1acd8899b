"""Waiters and readers on other loops than the run's: they get its outcome, whatever becomes of that loop (T12, T20)."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from kit.runs import OtherThread
from kit.threads import waits
from softstop import (
    Agent,
    EventStream,
    MisuseError,
    Outcome,
    Run,
    RunContent,
    RunContext,
    RunStatus,
    StopCause,
    Supervisor,
)


async def ends_as_awaited(run: Run) -> Any:
    return (await run).status


async def ends_as_seen(run: Run) -> Any:
    return (await run.ended()).status


async def ends_in_its_events(run: Run) -> Any:
    return [event async for event in run.events()][-1].event


def on_a_loop_that(end: Callable[[asyncio.AbstractEventLoop], None]) -> tuple[list[Run], threading.Thread]:
    """A run on a loop in another thread; the loop ends so, a moment later."""
    runs: list[Run] = []

    def work() -> None:
        loop = asyncio.new_event_loop()

        async def main() -> None:
            runs.append(Agent(waits).arun("go"))
            await asyncio.sleep(0.3)

        loop.run_until_complete(main())
        end(loop)

    thread = threading.Thread(target=work)
    thread.start()
    while not runs:
        time.sleep(0.005)  # noqa: TID251 - a plain thread
    return runs, thread


def is_closed(loop: asyncio.AbstractEventLoop) -> None:
    loop.close()


def cancels_its_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.wait(tasks))
    loop.close()


@pytest.mark.parametrize("end", [is_closed, cancels_its_tasks], ids=lambda end: end.__name__)
@pytest.mark.parametrize("wait", [ends_as_awaited, ends_as_seen, ends_in_its_events], ids=lambda wait: wait.__name__)
def test_who_waits_for_a_run_whose_loop_ends_gets_its_outcome_and_is_not_cancelled(
    wait: Callable[[Run], Awaitable[Any]], end: Callable[[asyncio.AbstractEventLoop], None]
) -> None:
    [run], thread = on_a_loop_that(end)

    async def main() -> Any:
        with anyio.fail_after(30):
            return await wait(run)

    assert str(asyncio.run(main())) in ("cancelled", "RunCancelled")
    thread.join(30)
    assert run.output is not None
    assert run.output.stop is not None
    assert run.output.stop.cause is StopCause.shutdown


def test_a_reader_that_was_not_waiting_when_the_run_s_loop_was_closed_reads_on_to_the_outcome() -> None:
    loop, kinds = asyncio.new_event_loop(), list[str]()

    async def main() -> EventStream:
        run = Agent(waits).arun("go")
        await asyncio.sleep(0.01)
        return run.events()

    async def reads(stream: EventStream) -> None:
        kinds.extend([type(event).__name__ async for event in stream])

    stream = loop.run_until_complete(main())
    loop.close()
    reader = threading.Thread(target=lambda: asyncio.run(reads(stream)), daemon=True)  # it may never come back
    reader.start()
    reader.join(30)
    assert kinds == ["RunStarted", "RunStopRequested", "RunCancelled"]


async def test_a_step_that_waits_for_such_a_run_is_no_failure() -> None:
    [other], thread = on_a_loop_that(cancels_its_tasks)

    async def body(run: RunContext, message: object) -> Any:
        async with run.step("wait"):
            return (await other).status

    with anyio.fail_after(30):
        output = await Agent(body).arun("go")
    await anyio.to_thread.run_sync(thread.join)
    assert (output.status, output.value, output.errors) == (RunStatus.completed, RunStatus.cancelled, ())


async def test_a_reader_on_another_loop_loses_nothing_however_often_its_wait_is_cancelled() -> None:
    async def talks(run: RunContext, message: object) -> None:
        for number in range(150):
            run.write(f"{number} ")
            await asyncio.sleep(0.004)  # twice the reader's patience: some waits end, and some end as an event comes

    async def reads(run: Run) -> tuple[str, int]:
        stream, texts, beats = run.events(), [], 0
        while True:
            try:
                event = await asyncio.wait_for(anext(stream), 0.002)  # noqa: TID251 - a heartbeat, as users write it
            except TimeoutError:
                beats += 1
                continue
            if isinstance(event, RunContent):
                texts.append(event.content)
            if isinstance(event, Outcome):
                return "".join(texts), beats

    with anyio.fail_after(30):
        async with Supervisor() as supervisor:
            run = supervisor.start(Agent(talks))
            text, beats = await anyio.to_thread.run_sync(lambda: asyncio.run(reads(run)))
            output = await run.ended()
    assert beats
    assert text == output.content


@pytest.mark.parametrize("what", ["step", "stream", "member", "client", "boundary", "wait"])
async def test_what_would_begin_on_another_loop_is_misuse_and_says_where_to_go(what: str) -> None:
    async def source() -> Any:
        yield "never"

    async def elsewhere(run: RunContext) -> None:
        if what == "step":
            async with run.step("there"):
                raise NotImplementedError
        if what == "member":
            await run.member(Agent(body), "go")
        if what == "client":
            await run.open(Supervisor())
        if what == "boundary":
            await run.boundary()
        if what == "wait":
            await run.stop_requested()
        async for _ in run.stream("there", source()):
            raise NotImplementedError

    async def body(run: RunContext, message: object) -> None:
        with pytest.raises(MisuseError, match="another event loop"):
            await anyio.to_thread.run_sync(lambda: asyncio.run(elsewhere(run)))

    with anyio.fail_after(30):
        output = await Agent(body).arun("go")
    assert (output.status, output.steps) == (RunStatus.completed, ())


async def test_runs_are_listed_from_any_thread_while_others_come_and_go() -> None:
    async def quick(run: RunContext, message: object) -> None:
        await asyncio.sleep(0)

    stop, errors = threading.Event(), list[BaseException]()

    def lists(supervisor: Supervisor) -> None:
        while not stop.is_set():
            try:
                supervisor.list_runs()
            except RuntimeError as error:
                errors.append(error)

    with anyio.fail_after(30):
        async with Supervisor(keep_ended=50) as supervisor:
            thread = threading.Thread(target=lists, args=(supervisor,))
            thread.start()
            for _ in range(1_000):
                await supervisor.start(Agent(quick))
            stop.set()
            await anyio.to_thread.run_sync(thread.join)
    assert errors == []


async def test_a_step_cannot_be_entered_on_another_loop_while_the_run_s_own_is_busy_in_its_body() -> None:
    async def body(run: RunContext, message: object) -> str:
        async def enter() -> None:
            async with run.step("pay"):
                raise NotImplementedError

        def elsewhere() -> str:
            try:
                asyncio.run(enter())
            except MisuseError as problem:
                return str(problem)
            raise NotImplementedError

        with OtherThread(elsewhere) as thread:
            return str(thread.ask())

    output = await Agent(body).arun("go")
    assert output.steps == ()
    assert "cannot begin in another event loop" in str(output.value)


async def test_a_run_that_is_started_on_a_loop_of_a_thread_belongs_to_that_loop_whatever_is_around_the_thread() -> None:
    async def leaf(run: RunContext, message: object) -> str | None:
        return run.parent_run_id

    async def starts() -> Any:
        return (await Agent(leaf).arun("go").ended()).value

    async def body(run: RunContext, message: object) -> list[Any]:
        async with run.step("in a thread"):
            return [await anyio.to_thread.run_sync(lambda: asyncio.run(starts())), await starts()]

    async with Supervisor() as supervisor:
        outside = await anyio.to_thread.run_sync(lambda: asyncio.run(starts()))
        output = await supervisor.start(Agent(body)).ended()
        assert [run.run_id for run in supervisor.list_runs()] == [output.run_id, output.members[0].run_id]
    assert outside is None
    assert output.value == [None, output.run_id]


async def test_a_supervisor_of_a_thread_s_own_loop_is_none_of_those_that_a_signal_here_is_for() -> None:
    async def inside() -> list[bool]:
        async with Supervisor() as inner:
            return [inner._state in outer._state.family()]

    async with Supervisor() as outer:
        assert await asyncio.to_thread(lambda: asyncio.run(inside())) == [False]
