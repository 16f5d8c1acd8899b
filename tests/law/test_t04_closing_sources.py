"""T4: a source is closed whenever its step ends, may take its time to close, and that time is bounded."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack

import anyio
import anyio.lowlevel
import pytest

from kit.runs import Words, at, names, now, one, statuses
from softstop import Agent, RunContext, RunStatus, StopPolicy, Supervisor

TELLING = "word1 word2 word3 "


async def end_of_a_run_stopped_after_three_seconds(source: Words) -> float:
    """When a run has ended that reads a source."""

    async def body(run: RunContext, message: object) -> None:
        async for word in run.stream("write", source):
            run.write(word)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        await run.ended()
        return now()


async def test_closing_may_take_time_and_is_not_cut_short_by_the_stop() -> None:
    class Slow(Words):
        async def aclose(self) -> None:
            await anyio.sleep(4)
            await super().aclose()

    source = Slow(stall_at=1)

    assert await end_of_a_run_stopped_after_three_seconds(source) == 7
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


@pytest.mark.parametrize("how", ["def", "async def"])
async def test_a_source_that_has_a_close_and_no_aclose_is_closed(how: str) -> None:
    closed: list[float] = []

    class Response:
        def __aiter__(self) -> "Response":
            return self

        async def __anext__(self) -> str:
            await anyio.sleep(2)
            return "x"

        def close(self) -> Awaitable[None] | None:
            async def close() -> None:
                await anyio.sleep(1)
                closed.append(now())

            if how == "async def":
                return close()
            closed.append(now())
            return None

    async def body(run: RunContext, message: object) -> None:
        async for chunk in run.stream("read", Response()):
            run.write(chunk)

    run, _ = await one(body, stop_at=3)
    assert closed == [3 if how == "def" else 4]
    assert run.status is RunStatus.cancelled


async def test_a_generator_that_is_stopped_between_two_chunks_has_ended_what_it_iterates_over() -> None:
    """Python's `aclose` alone would leave the inner one to the garbage collector."""
    closed: list[tuple[str, float]] = []

    async def inner() -> AsyncIterator[str]:
        try:
            while True:
                await anyio.sleep(1)
                yield "x"
        finally:
            await anyio.sleep(1)
            closed.append(("inner", now()))

    async def outer() -> AsyncIterator[str]:
        try:
            async for chunk in inner():
                yield chunk
        finally:
            closed.append(("outer", now()))

    async def body(run: RunContext, message: object) -> None:
        async for chunk in run.stream("read", outer()):
            run.write(chunk)
            async with run.step("look"):
                await anyio.sleep(4)

    run, events = await one(body, stop_at=3)
    assert closed == [("inner", 6), ("outer", 6)]
    assert (run.status, events[-1].content, now()) == (RunStatus.cancelled, "x", 6)


async def test_a_source_that_fails_is_closed_before_its_failure_is_told() -> None:
    class Fails(Words):
        async def __anext__(self) -> str:
            if self.made == 2:
                raise ConnectionError("reset by peer")
            return await super().__anext__()

        async def aclose(self) -> None:
            await anyio.sleep(1)
            await super().aclose()

    source = Fails()
    caught: list[int] = []

    async def body(run: RunContext, message: object) -> None:
        try:
            async for _ in run.stream("read", source):
                pass
        except ConnectionError:
            caught.append(source.closed)

    run, _ = await one(body)
    assert (caught, source.closed, source.closed_at) == ([1], 1, 3)
    assert run.output is not None
    assert [(step.step, step.status) for step in run.output.steps] == [("read", "failed")]


@pytest.mark.parametrize("how", ["left early", "failed"])
async def test_a_source_that_fails_to_close_hides_neither_what_was_read_nor_why_it_ended(how: str) -> None:
    class Broken(Words):
        async def __anext__(self) -> str:
            if how == "failed" and self.made == 1:
                raise ValueError("no more")
            return await super().__anext__()

        async def aclose(self) -> None:
            raise ConnectionError("reset by peer")

    caught: list[str] = []

    async def body(run: RunContext, message: object) -> str:
        try:
            async with run.stream("read", Broken()) as words:
                async for word in words:
                    run.write(word)
                    if how == "left early":
                        break
        except ValueError as problem:
            caught.append(str(problem))
        return "done"

    run, _ = await one(body)
    assert run.output is not None
    assert (run.output.status, run.output.value, run.output.content) == (RunStatus.completed, "done", "word1 ")
    assert caught == ([] if how == "left early" else ["no more"])


@pytest.mark.parametrize("kind", ["object", "generator"])
async def test_a_source_that_comes_to_a_boundary_as_it_closes_is_refused_at_once_and_nobody_waits(kind: str) -> None:
    ends: list[float] = []

    async def says_goodbye(run: RunContext) -> None:
        try:
            async with run.step("goodbye"):
                raise NotImplementedError
        finally:
            ends.append(now())

    class Polite(Words):
        async def aclose(self) -> None:
            await says_goodbye(contexts[0])

    async def polite(run: RunContext) -> AsyncIterator[str]:
        try:
            yield "word1 "
            await anyio.sleep_forever()
        finally:
            await says_goodbye(run)

    contexts: list[RunContext] = []

    async def body(run: RunContext, message: object) -> None:
        contexts.append(run)
        async for word in run.stream("read", Polite(stall_at=1) if kind == "object" else polite(run)):
            run.write(word)

    run, events = await one(body, stop_at=3)
    assert (ends, now()) == ([3], 3)
    assert (run.status, events[-1].content) == (RunStatus.cancelled, "word1 ")


async def pays_and_tells(run: RunContext) -> AsyncIterator[str]:
    """A tool as some write it: it yields in the middle of its step."""
    async with run.step("pay"):
        yield "debit "
        await anyio.sleep(2)
        yield "credit "
    yield "more "
    raise NotImplementedError


@pytest.mark.parametrize("rests", [0, 3], ids=["while it is pulled", "between two chunks"])
async def test_a_source_that_yields_in_the_middle_of_a_step_is_read_on_until_that_has_ended(rests: int) -> None:
    async def body(run: RunContext, message: object) -> None:
        async for text in run.stream("tool", pays_and_tells(run)):
            run.write(text)
            await anyio.sleep(rests)

    run, _ = await one(body, stop_at=1)
    assert statuses(run.output) == [("pay", "completed"), ("tool", "cut")]
    assert run.output is not None
    assert run.output.content in ("debit credit ", "debit credit more ")


@pytest.mark.parametrize("end", ["by itself", "native", "in a branch"])
async def test_a_source_that_was_left_in_the_middle_of_a_step_does_not_keep_its_run_alive(end: str) -> None:
    async def read(run: RunContext) -> None:
        async for text in run.stream("tool", pays_and_tells(run)):
            run.write(text)
            if end == "native":
                asyncio.current_task().cancel()  # type: ignore[union-attr]
                await anyio.sleep(1)
            break

    async def body(run: RunContext, message: object) -> None:
        async with AsyncExitStack() as stack:
            if end == "in a branch":
                group = await stack.enter_async_context(anyio.create_task_group())
                group.start_soon(read, run)
            else:
                await read(run)

    with anyio.fail_after(1):
        run, _ = await one(body)
    assert statuses(run.output) == [("pay", "unsettled"), ("tool", "cut" if end == "native" else "completed")]
    assert run.output is not None
    assert (run.output.abandoned, now()) == ((), 0)


@pytest.mark.parametrize("left", [True, False], ids=["left", "read on"])
async def test_a_stop_that_waits_for_a_step_whose_source_nobody_can_read_on_says_so(left: bool) -> None:
    async def body(run: RunContext, message: object) -> None:
        async for _ in run.stream("tool", pays_and_tells(run)):
            if left:
                break
            await anyio.sleep(2)
        await anyio.sleep(1_000)

    run, _ = await one(body, stop_at=1, policy=StopPolicy(grace=10))
    assert run.output is not None
    assert (statuses(run.output)[0][1], now()) == (("unsettled", 11) if left else ("completed", 6))
    assert [line.partition(", whose")[0] for line in run.output.errors] == (
        ["stream 'tool' was left in the middle of a step of its source"] if left else []
    )


@pytest.mark.parametrize("how", ["as a block", "aclose"])
async def test_a_stream_that_is_left_before_its_first_chunk_has_closed_its_source_and_gives_none(how: str) -> None:
    source = Words()

    async def body(run: RunContext, message: object) -> None:
        stream = run.stream("write", source)
        if how == "as a block":
            async with stream:
                pass
        else:
            await stream.aclose()
        async for _ in stream:
            raise NotImplementedError

    run, events = await one(body)
    assert (run.status, source.closed) == (RunStatus.completed, 1)
    assert names(events) == ["RunStarted", "RunCompleted"], "no step has begun"


async def test_a_source_that_swallows_its_first_interruption_is_interrupted_again_and_closed() -> None:
    class Opening(Words):  # as anyio does while it opens a connection
        async def __anext__(self) -> str:
            with contextlib.suppress(asyncio.CancelledError):
                await anyio.sleep(1_000)
            await anyio.sleep(1_000)
            return "never"

    source = Opening()

    assert await end_of_a_run_stopped_after_three_seconds(source) == pytest.approx(3, abs=0.2)
    assert source.closed == 1
