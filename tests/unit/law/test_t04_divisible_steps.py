"""T4: a divisible step ends between two chunks; what was received is kept, and the source is closed in bounded time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from lawkit import Words, at, listen, names, now, one, words

from softstop import Agent, Event, RunContext, RunStatus, StepCompleted, StepStarted, StopPolicy, Supervisor, cancel_run

TELLING = "word1 word2 word3 "


@pytest.mark.parametrize("kind", ["iterator", "generator"])
async def test_a_stop_lands_between_two_chunks_and_keeps_all_received_ones(kind: str) -> None:
    source = Words() if kind == "iterator" else words(1_000)

    async def body(run: RunContext, message: object) -> None:
        async for word in run.stream("write", source):
            run.write(word)
        raise NotImplementedError

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3.5, run.cancel)
        events = await listen(run)
        assert now() == 3.5
    assert events[-1].content == TELLING == "".join(e.content or "" for e in events[:-1])
    assert names(events) == [
        "RunStarted", "StepStarted", *["RunContent"] * 3, "RunStopRequested", "StepCompleted", "RunCancelled",
    ]  # fmt: skip
    if isinstance(source, Words):
        assert (source.made, source.closed) == (3, 1)
    else:
        assert source.ag_frame is None  # closed


async def test_a_stalled_source_is_interrupted_at_once_and_closed() -> None:
    source = Words(stall_at=3)

    async def body(run: RunContext, message: object) -> None:
        async for word in run.stream("write", source):
            run.write(word)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(100, run.cancel)
        output = await run.ended()
        assert now() == 100
    assert output.content == TELLING
    assert (source.closed, source.closed_at) == (1, 100)


async def test_a_chunk_in_the_hands_of_the_body_is_delivered_before_the_stop_lands() -> None:
    async def body(run: RunContext, message: object) -> None:
        async for word in run.stream("write", Words()):
            if word == "word3 ":
                run_of[0].cancel()
            run.write(word)

    run_of = []
    async with Supervisor() as supervisor:
        run_of.append(supervisor.start(Agent(body)))
        output = await run_of[0].ended()
        assert now() == 3
    assert output.content == TELLING


async def test_a_chunk_that_arrives_in_the_very_turn_of_the_stop_is_not_lost() -> None:
    """The source has produced it, so the provider was paid for it: it is in the text, or the source keeps it."""

    class Queue:
        def __init__(self) -> None:
            self.chunks: asyncio.Queue[str] = asyncio.Queue()

        def __aiter__(self) -> "Queue":
            return self

        async def __anext__(self) -> str:
            return await self.chunks.get()

    source = Queue()

    async def body(run: RunContext, message: object) -> None:
        async for word in run.stream("write", source):
            run.write(word)

    def put_and_stop() -> None:
        source.chunks.put_nowait("last ")
        run.cancel()

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(1, put_and_stop)
        output = await run.ended()
    assert output.content == "last " or source.chunks.qsize() == 1


async def test_a_source_that_never_waits_is_stopped_after_a_bounded_number_of_chunks() -> None:
    made = 0

    async def fast() -> AsyncIterator[str]:
        nonlocal made
        while True:
            made += 1
            yield "x"

    async def body(run: RunContext, message: object) -> None:
        async for chunk in run.stream("write", fast()):
            run.write(chunk)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        run.cancel()
        before = made
        output = await run.ended()
    assert 0 < before <= made <= before + 256
    assert output.content == "x" * len(output.content)
    assert made - 1 <= len(output.content) <= made


async def test_the_work_between_two_chunks_is_a_wait_in_no_step_and_ends_at_once() -> None:
    source = Words()

    async def body(run: RunContext, message: object) -> None:
        async for word in run.stream("write", source):
            run.write(word)
            await anyio.sleep(50)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 3
    assert output.content == "word1 "
    assert (source.made, source.closed) == (1, 1)


async def test_an_atomic_step_between_two_chunks_ends_first() -> None:
    source = Words()

    async def body(run: RunContext, message: object) -> None:
        async for word in run.stream("write", source):
            async with run.step("save"):
                await anyio.sleep(5)
                run.write(word)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 6
    assert output.content == "word1 "
    assert [(step.step, step.status) for step in output.steps] == [("save", "completed"), ("write", "cut")]
    assert (source.made, source.closed) == (1, 1)


async def test_closing_may_take_time_and_is_not_cut_short_by_the_stop() -> None:
    class Slow(Words):
        async def aclose(self) -> None:
            await anyio.sleep(4)
            await super().aclose()

    source = Slow(stall_at=1)

    async def body(run: RunContext, message: object) -> None:
        async for word in run.stream("write", source):
            run.write(word)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        await run.ended()
        assert now() == 7
    assert source.closed == 1


async def test_a_stalled_generator_gets_to_await_in_its_own_clean_up() -> None:
    closed: list[float] = []

    async def connection() -> AsyncIterator[str]:
        try:
            yield "hello "
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(2)  # tells the provider to stop generating
            closed.append(now())

    async def body(run: RunContext, message: object) -> None:
        async for word in run.stream("write", connection()):
            run.write(word)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
    assert closed == [5]
    assert output.content == "hello "


async def test_a_source_that_will_not_close_is_left_after_cleanup_timeout() -> None:
    class Stubborn(Words):
        async def aclose(self) -> None:
            await anyio.sleep_forever()

    async def body(run: RunContext, message: object) -> None:
        async for word in run.stream("write", Stubborn(stall_at=1)):
            run.write(word)

    async with Supervisor(policy=StopPolicy(cleanup_timeout=6)) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 9
    assert output.status is RunStatus.cancelled
    assert output.content == "word1 "


async def test_a_source_that_fails_to_close_hides_neither_the_stop_nor_its_cause() -> None:
    class Broken(Words):
        async def aclose(self) -> None:
            raise ConnectionError("reset by peer")

    async def body(run: RunContext, message: object) -> None:
        async for word in run.stream("write", Broken()):
            run.write(word)

    run, events = await one(body, stop_at=3.5)
    assert run.status is RunStatus.cancelled
    assert events[-1].cause.value == "user"  # type: ignore[attr-defined]
    assert events[-1].content == TELLING


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


async def test_a_stream_that_was_read_to_its_end_is_completed_and_not_cut() -> None:
    source = Words(3)

    async def body(run: RunContext, message: object) -> str:
        async for word in run.stream("write", source):
            run.write(word)
        return "done"

    run, events = await one(body)
    assert [event.kind for event in events if isinstance(event, StepStarted)] == ["divisible"]
    assert [event.status for event in events if isinstance(event, StepCompleted)] == ["completed"]
    assert run.output is not None
    assert run.output.content == TELLING
    assert source.made == 3


async def test_leaving_a_stream_early_as_a_block_closes_its_source_at_once() -> None:
    source = Words()

    async def body(run: RunContext, message: object) -> str:
        async with run.stream("write", source) as chunks:
            async for word in chunks:
                run.write(word)
                if word == "word3 ":
                    break
        assert source.closed == 1
        return "enough"

    run, _ = await one(body)
    assert run.status is RunStatus.completed


async def test_a_stream_that_was_left_open_is_closed_before_the_outcome() -> None:
    source = Words()

    async def body(run: RunContext, message: object) -> None:
        async for word in run.stream("write", source):
            run.write(word)
            break

    _run, events = await one(body)
    assert source.closed == 1
    assert names(events)[-2:] == ["StepCompleted", "RunCompleted"]


async def test_an_agent_that_is_a_generator_stops_between_two_chunks() -> None:
    closed: list[float] = []

    async def body(run: RunContext, message: object) -> AsyncIterator[str]:
        try:
            for number in range(1, 1_000):
                await anyio.sleep(1)
                yield f"word{number} "
        finally:
            closed.append(now())

    run, events = await one(body, stop_at=3.5)
    assert closed == [3.5]
    assert events[-1].content == TELLING
    assert run.status is RunStatus.cancelled


async def test_a_source_without_aclose_is_fine() -> None:
    class Bare:
        def __aiter__(self) -> "Bare":
            return self

        async def __anext__(self) -> str:
            await anyio.sleep(1)
            return "x"

    async def body(run: RunContext, message: object) -> None:
        async for chunk in run.stream("write", Bare()):
            run.write(chunk)

    run, events = await one(body, stop_at=3.5)
    assert (run.status, events[-1].content) == (RunStatus.cancelled, "xxx")


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
    assert now() == 7


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


async def test_a_stream_that_is_stopped_as_it_is_told_never_asks_its_source() -> None:
    class Watcher:
        def notice(self, event: Event) -> None:
            if isinstance(event, StepStarted):
                cancel_run(event.run_id)

    class Asked(Words):
        asked = 0

        async def __anext__(self) -> str:
            self.asked += 1
            return await super().__anext__()

    source = Asked()

    async def body(run: RunContext, message: object) -> None:
        async for _ in run.stream("write", source):
            raise NotImplementedError

    async with Supervisor(observers=[Watcher()]) as supervisor:
        run = supervisor.start(Agent(body))
        assert (await run.ended()).status is RunStatus.cancelled
    assert (source.asked, source.closed, now()) == (0, 1, 0)


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


async def test_a_branch_that_waits_ends_at_once_although_another_one_s_source_takes_its_time_to_close() -> None:
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
    assert ended == {"branch": 3, "sibling": 3, "source": 8}
