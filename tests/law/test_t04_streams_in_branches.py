"""T4 in tasks of the body's own: a stream is stopped there too, and its source cleans up before its group ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from kit.runs import Words, at, now, one
from softstop import Agent, RunContext, RunStatus, StopPolicy, Supervisor, cancel_run


@pytest.mark.parametrize("way", ["gather", "TaskGroup", "wait_for"])
async def test_a_stream_in_a_task_that_asyncio_started_is_interrupted_and_closed_too(way: str) -> None:
    source = Words(stall_at=2)

    async def body(run: RunContext, message: object) -> None:
        async def write() -> None:
            async for word in run.stream("write", source):
                run.write(word)

        if way == "gather":
            await asyncio.gather(write(), anyio.sleep(1_000))  # noqa: TID251 - users do
        elif way == "wait_for":
            await asyncio.wait_for(write(), 1_000)  # noqa: TID251 - users do
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(write())

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(5, run.cancel)
        output = await run.ended()
        assert now() == 5
    assert output.status is RunStatus.cancelled
    assert output.content == "word1 word2 "
    assert source.closed == 1


async def test_a_stream_is_interrupted_at_once_although_a_foreign_step_runs_on() -> None:
    source = Words(stall_at=1)

    async def body(run: RunContext, message: object) -> None:
        async def write() -> None:
            async for word in run.stream("write", source):
                run.write(word)

        async def pay() -> None:
            async with run.step("pay"):
                await anyio.sleep(10)

        await asyncio.gather(write(), pay())  # noqa: TID251 - users do

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 10
    assert source.closed_at == 3
    assert sorted((step.step, step.status) for step in output.steps) == [("pay", "completed"), ("write", "cut")]


async def slow_to_close(closed: list[float]) -> AsyncIterator[str]:
    """A source that stalls after its first word, takes two seconds to clean up, and notes when it has."""
    try:
        yield "hello "
        await anyio.sleep_forever()
    finally:
        await anyio.sleep(2)
        closed.append(now())


async def write_out(run: RunContext, source: AsyncIterator[str]) -> None:
    async for word in run.stream("write", source):
        run.write(word)


@pytest.mark.parametrize("where", ["body", "anyio branch", "asyncio branch"])
async def test_a_stalled_generator_may_clean_up_wherever_it_is_read(where: str) -> None:
    closed: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        async def write() -> None:
            await write_out(run, slow_to_close(closed))

        if where == "body":
            await write()
        elif where == "anyio branch":
            async with anyio.create_task_group() as group:
                group.start_soon(write)
                group.start_soon(anyio.sleep, 1_000)
        else:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(write())
                tasks.create_task(asyncio.sleep(1_000))

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 5
    assert closed == [5]
    assert output.status is RunStatus.cancelled


async def in_asyncio_branches(*branches: Coroutine[Any, Any, object]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for branch in branches:
            tasks.create_task(branch)


async def test_a_source_that_closes_slowly_is_closed_before_its_asyncio_group_is_cancelled() -> None:
    class Slow(Words):
        async def aclose(self) -> None:
            await anyio.sleep(2)
            await super().aclose()

    source = Slow(stall_at=1)

    async def body(run: RunContext, message: object) -> None:
        async def write() -> None:
            async for word in run.stream("write", source):
                run.write(word)

        await in_asyncio_branches(write(), asyncio.sleep(1_000))

    run, events = await one(body, stop_at=3)
    assert (source.closed, source.closed_at) == (1, 5)
    assert (run.status, events[-1].content) == (RunStatus.cancelled, "word1 ")


async def test_a_clean_up_in_an_asyncio_branch_holds_the_stop_up_for_its_own_time_and_no_longer() -> None:
    ended: list[tuple[str, float]] = []

    async def never_clean() -> AsyncIterator[str]:
        try:
            yield "hello "
            await anyio.sleep_forever()
        finally:
            try:
                await anyio.sleep(1_000)
            finally:
                ended.append(("torn", now()))

    async def body(run: RunContext, message: object) -> None:
        await in_asyncio_branches(write_out(run, never_clean()), asyncio.sleep(1_000))

    run, _ = await one(body, stop_at=3, policy=StopPolicy(cleanup_timeout=4))
    assert run.status is RunStatus.cancelled
    assert ended == [("torn", 7)]
    assert now() == 7


async def test_a_source_in_an_asyncio_branch_that_asks_for_the_stop_itself_cleans_up() -> None:
    closed: list[float] = []

    async def asks(run: RunContext) -> AsyncIterator[str]:
        try:
            yield "hello "
            await anyio.sleep(3)
            cancel_run(run.run_id)
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(2)
            closed.append(now())

    async def body(run: RunContext, message: object) -> None:
        await in_asyncio_branches(write_out(run, asks(run)), asyncio.sleep(1_000))

    run, _ = await one(body)
    assert run.status is RunStatus.cancelled
    assert closed == [5]


async def test_a_source_in_an_asyncio_branch_that_swallows_the_stop_does_not_hold_it_up() -> None:
    async def deaf() -> AsyncIterator[str]:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await anyio.sleep(1_000)
            yield "still here "

    async def body(run: RunContext, message: object) -> None:
        async def write() -> None:
            async for word in run.stream("write", deaf()):
                run.write(word)
                await anyio.sleep(1_000)

        await in_asyncio_branches(write(), asyncio.sleep(1_000))

    run, events = await one(body, stop_at=3, policy=StopPolicy(cleanup_timeout=4, grace=20))
    assert run.status is RunStatus.cancelled
    assert events[-1].content == "still here "
    assert now() == 3


async def test_a_source_left_in_an_asyncio_branch_closes_whole_if_the_stop_comes_meanwhile() -> None:
    closed: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        async def write() -> None:
            async with run.stream("write", slow_to_close(closed)) as pieces:
                async for word in pieces:
                    run.write(word)
                    break

        await in_asyncio_branches(write(), asyncio.sleep(1_000))

    run, _ = await one(body, stop_at=1)
    assert (run.status, closed, now()) == (RunStatus.cancelled, [2], 2)


async def test_eight_generators_read_in_branches_all_clean_up_side_by_side() -> None:
    closed: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        async def write() -> None:
            await write_out(run, slow_to_close(closed))

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(write)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 5
    assert closed == [5] * 8
    assert [step.status for step in output.steps] == ["cut"] * 8


async def test_a_generator_in_a_branch_that_will_not_clean_up_is_left_after_cleanup_timeout() -> None:
    left: list[float] = []

    async def connection() -> AsyncIterator[str]:
        try:
            yield "hello "
            await anyio.sleep_forever()
        finally:
            try:
                await anyio.sleep_forever()
            finally:
                left.append(now())

    async def body(run: RunContext, message: object) -> None:
        async def write() -> None:
            await write_out(run, connection())

        async with anyio.create_task_group() as group:
            group.start_soon(write)

    async with Supervisor(policy=StopPolicy(cleanup_timeout=6)) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        assert (await run.ended()).status is RunStatus.cancelled
        assert now() == 9
    assert left == [9]


@pytest.mark.parametrize("by", ["its own scope", "a failing sibling", "asyncio's timeout"])
async def test_a_stalled_source_in_a_branch_is_still_interrupted_by_what_is_around_it(by: str) -> None:
    async def body(run: RunContext, message: object) -> str:
        async def write() -> None:
            if by == "its own scope":
                with anyio.move_on_after(2):
                    await read()
            elif by == "asyncio's timeout":
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(2):  # noqa: TID251 - users do
                        await read()
            else:
                await read()

        async def read() -> None:
            async for word in run.stream("write", connection()):
                run.write(word)

        async def fail() -> None:
            await anyio.sleep(2)
            if by == "a failing sibling":
                raise KeyError("sibling")

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            group.start_soon(fail)
        return "done"

    async def connection() -> AsyncIterator[str]:
        yield "hello "
        await anyio.sleep_forever()

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body)).ended()
        assert now() == 2
    assert output.status is (RunStatus.failed if by == "a failing sibling" else RunStatus.completed)
    assert output.content.startswith("hello ")


async def test_mode_now_interrupts_a_stalled_generator_in_a_branch_too() -> None:
    async def connection() -> AsyncIterator[str]:
        yield "hello "
        await anyio.sleep_forever()

    async def body(run: RunContext, message: object) -> None:
        async def write() -> None:
            await write_out(run, connection())

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            group.start_soon(anyio.sleep, 1_000)

    run, _ = await one(body, stop_at=3, mode="now")
    assert now() == 3
    assert run.status is RunStatus.cancelled


async def test_a_branch_that_waits_ends_with_the_last_source_that_takes_its_time_to_close() -> None:
    ended: dict[str, float] = {}

    class Slow(Words):
        async def aclose(self) -> None:
            await anyio.sleep(5)
            ended["source"] = now()

    async def body(run: RunContext, message: object) -> None:
        async def waits(name: str, itself: bool) -> None:
            try:
                await anyio.sleep(3)
                if itself:
                    run_of[0].cancel()  # this branch is running at that moment, and waits only after it
                await anyio.sleep(1_000)
            finally:
                ended[name] = now()

        async with anyio.create_task_group() as group:
            group.start_soon(waits, "branch", True)
            group.start_soon(waits, "sibling", False)
            async for word in run.stream("write", Slow(stall_at=1)):
                run.write(word)

    run_of = []
    async with Supervisor() as supervisor:
        run_of.append(supervisor.start(Agent(body)))
        await run_of[0].ended()
    assert ended == {"branch": 8, "sibling": 8, "source": 8}
