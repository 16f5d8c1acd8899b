"""T4: a divisible step ends between two chunks; what was received is kept."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest

from kit.runs import Words, at, listen, names, now, one, statuses, words
from kit.spawns import anyio_group, asyncio_group, gather
from softstop import (
    Agent,
    Event,
    RunContext,
    RunStatus,
    StepCompleted,
    StepStarted,
    StopMode,
    Supervisor,
    cancel_run,
)

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


async def test_a_stream_that_the_bodys_own_time_limit_ends_is_cut_and_hinders_no_completion() -> None:
    source = Words(stall_at=2)

    async def body(run: RunContext, message: object) -> str:
        with anyio.move_on_after(5):
            async for word in run.stream("write", source):
                run.write(word)
        assert cancel_run(run.run_id)
        return "done"

    run, events = await one(body)
    assert [event.status for event in events if isinstance(event, StepCompleted)] == ["cut"]
    assert (run.status, source.closed) == (RunStatus.completed, 1)


@pytest.mark.parametrize("goes_on", [True, False], ids=["the source goes on", "the source stalls then"])
@pytest.mark.parametrize("mode", list(StopMode))
async def test_a_begun_step_in_a_source_ends_and_only_then_is_the_wait_for_its_chunk_interrupted(
    mode: StopMode, goes_on: bool
) -> None:
    closed: list[float] = []

    async def source(run: RunContext) -> AsyncIterator[str]:
        try:
            async with run.step("pay"):
                await anyio.sleep(3)
            yield "paid"
            await anyio.sleep(0 if goes_on else 1_000)
        finally:
            closed.append(now())

    async def body(run: RunContext, message: object) -> None:
        async for text in run.stream("answer", source(run)):
            run.write(text)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(1, lambda: run.cancel(mode=mode))
        output = await run.ended()
    torn = mode is StopMode.now
    statuses = {step.step: step.status for step in output.steps}
    assert statuses["pay"] == ("unsettled" if torn else "completed")
    assert output.content == ("" if torn else "paid")
    assert closed == [1.0 if torn else 3.0]


@pytest.mark.parametrize("branch", [False, True], ids=["body", "branch of a group"])
async def test_a_source_that_stalls_after_its_step_is_interrupted_when_that_has_ended_and_cleans_up(
    branch: bool,
) -> None:
    cleaned: list[float] = []

    async def source(run: RunContext) -> AsyncIterator[str]:
        try:
            async with run.step("pay"):
                await anyio.sleep(3)
            await anyio.sleep(1_000)
            yield "never"
        finally:
            await anyio.sleep(1)
            cleaned.append(now())

    async def read(run: RunContext) -> None:
        async for _ in run.stream("answer", source(run)):
            raise NotImplementedError

    async def body(run: RunContext, message: object) -> None:
        if not branch:
            await read(run)
        async with anyio.create_task_group() as group:
            group.start_soon(read, run)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.cancel)
        output = await run.ended()
    assert [(step.step, step.status) for step in output.steps] == [("pay", "completed"), ("answer", "cut")]
    assert cleaned == [4.0]


@pytest.mark.parametrize("way", [anyio_group, asyncio_group, gather], ids=lambda way: way.__name__)
async def test_a_begun_step_in_a_group_of_a_source_ends_and_so_long_lives_what_it_needs(
    way: Callable[..., Awaitable[None]],
) -> None:
    closed: list[float] = []

    async def source(run: RunContext) -> AsyncIterator[str]:
        requests: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue()

        async def helper() -> None:
            while True:
                request = await requests.get()
                await anyio.sleep(1)
                request.set_result("paid")

        async def pays() -> None:
            async with run.step("pay"):
                await anyio.sleep(2)
                answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
                await requests.put(answer)
                await answer

        try:
            await way(helper, pays)
            yield "never"
        finally:
            closed.append(now())

    async def body(run: RunContext, message: object) -> None:
        async for _ in run.stream("answer", source(run)):
            raise NotImplementedError

    run, _ = await one(body, stop_at=1)
    assert statuses(run.output) == [("pay", "completed"), ("answer", "cut")]
    assert closed == [3.0]


async def test_a_stream_that_was_opened_before_a_step_gives_no_chunk_in_that_step_after_a_stop() -> None:
    source, seen = Words(100), list[float]()

    async def body(run: RunContext, message: object) -> None:
        async with run.stream("read", source) as chunks:
            await anext(chunks)
            async with run.step("pay"):
                async for _ in chunks:
                    seen.append(now())

    run, _ = await one(body, stop_at=3.5)
    assert (seen, source.made, source.closed) == ([2, 3, 4], 4, 1)
    assert statuses(run.output) == [("read", "cut"), ("pay", "completed")]


async def test_a_source_that_raises_a_stray_cancellation_in_a_begun_step_under_a_stop_ends_that_step_at_once() -> None:
    async def source() -> AsyncIterator[str]:
        yield "a"
        raise asyncio.CancelledError

    async def body(run: RunContext, message: object) -> None:
        async with run.step("ask"):
            await anyio.sleep(5)
            async for _ in run.stream("read", source()):
                pass

    await one(body, stop_at=1)
    assert now() == 5
