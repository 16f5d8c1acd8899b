"""T18: the run belongs to the supervisor; readers cost it nothing, and only a caller that is cancelled stops it."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import anyio
import pytest

from kit.runs import begun, listen, names, now, payer, sleeper
from softstop import (
    Agent,
    Event,
    Run,
    RunContent,
    RunContext,
    RunNotFound,
    RunStatus,
    StopCause,
    StopPolicy,
    Supervisor,
)

Call = Callable[[Run], Awaitable[None]]


async def teller(run: RunContext, message: object) -> str:
    """Ten words in ten seconds."""
    for number in range(10):
        await anyio.sleep(1)
        run.write(f"word{number} ")
    return "done"


async def awaits(run: Run) -> None:
    await run


async def reads(run: Run) -> None:
    async for _ in run:
        pass


async def works_while_reading(run: Run) -> None:
    async for _ in run:
        await anyio.sleep(1_000)


async def owns(run: Run) -> None:
    async with run:
        await works_while_reading(run)


async def reads_by_hand(run: Run) -> None:
    stream = aiter(run)
    while True:
        await anext(stream)


async def awaits_in_a_group(run: Run) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(awaits, run)


async def reads_in_a_helper(run: Run) -> None:
    await reads(run)


CALLERS = [awaits, reads, owns, reads_by_hand, awaits_in_a_group, reads_in_a_helper]


async def by_asyncio_timeout(call: Call, run: Run) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):  # noqa: TID251 - callers do
            await call(run)


async def by_wait_for(call: Call, run: Run) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call(run), 3)  # noqa: TID251 - callers do


async def by_anyio_scope(call: Call, run: Run) -> None:
    with anyio.move_on_after(3):
        await call(run)


async def by_task_cancel(call: Call, run: Run) -> None:
    task = asyncio.ensure_future(call(run))  # type: ignore[type-var]  # noqa: TID251 - callers do
    await anyio.sleep(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task  # type: ignore[misc]


WAYS = [by_asyncio_timeout, by_wait_for, by_anyio_scope, by_task_cancel]
ids = {"ids": lambda what: what.__name__}


@pytest.mark.parametrize("way", WAYS, **ids)
async def test_a_caller_cancelled_while_it_works_on_an_event_merely_stops_reading(
    way: Callable[[Call, Run], Awaitable[None]],
) -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(teller))
        await way(works_while_reading, run)
        assert now() == 3
        assert (await run.ended()).status is RunStatus.completed


@pytest.mark.parametrize("call", CALLERS, **ids)
@pytest.mark.parametrize("way", WAYS, **ids)
async def test_a_caller_that_is_cancelled_stops_its_run(
    call: Call, way: Callable[[Call, Run], Awaitable[None]]
) -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper))
        await way(call, run)
        output = await run.ended()
        assert now() == 3
    assert output.status is RunStatus.cancelled
    assert output.stop is not None
    assert output.stop.cause is StopCause.caller_gone


@pytest.mark.parametrize("call", [call for call in CALLERS if call is not owns], **ids)
@pytest.mark.parametrize("way", WAYS, **ids)
async def test_a_detached_run_outlives_its_caller(call: Call, way: Callable[[Call, Run], Awaitable[None]]) -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(teller), policy=StopPolicy(on_caller_gone="detach"))
        await way(call, run)
        output = await run.ended()
        assert now() == 10
    assert output.status is RunStatus.completed
    assert output.stop is None


async def reads_events_of_the_supervisor(run: Run) -> None:
    async for _ in run.events():
        await anyio.sleep(1_000)


async def waits_for_the_end(run: Run) -> None:
    await run.ended()


@pytest.mark.parametrize("call", [reads_events_of_the_supervisor, waits_for_the_end], **ids)
@pytest.mark.parametrize("way", WAYS, **ids)
async def test_a_mere_reader_never_stops_a_run(call: Call, way: Callable[[Call, Run], Awaitable[None]]) -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(teller), run_id="r1")
        await way(call, run)
        with anyio.move_on_after(1):
            async for _ in supervisor.events("r1", after=3):
                await anyio.sleep(1_000)
        assert (await run.ended()).status is RunStatus.completed


@pytest.mark.parametrize("way", ["break", "return", "exception", "aclose", "drop"])
async def test_one_that_merely_leaves_the_loop_stops_reading_and_nothing_else(way: str) -> None:
    async def read() -> str:
        async for event in run:
            if isinstance(event, RunContent):
                if way == "break":
                    break
                if way == "return":
                    return "left"
                if way == "exception":
                    raise KeyError("left")
        return "left"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(teller))
        if way == "exception":
            with pytest.raises(KeyError):
                await read()
        elif way in ("aclose", "drop"):
            stream = aiter(run)
            await anext(stream)
            del stream
            gc.collect()
        else:
            await read()
        assert now() <= 1
        output = await run.ended()
        assert now() == 10
    assert output.status is RunStatus.completed


async def test_a_break_while_a_cancellation_of_the_reader_was_survived_before_is_just_a_break() -> None:
    """A caller that has handled a timeout of its own in the loop's body is still there."""
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(teller))
        async for event in run:
            with anyio.move_on_after(0.1):
                await anyio.sleep(5)
            if isinstance(event, RunContent):
                break
        assert (await run.ended()).status is RunStatus.completed


async def test_dropping_the_run_object_changes_nothing() -> None:
    async with Supervisor() as supervisor:
        supervisor.start(Agent(teller), run_id="r1")
        gc.collect()
        await anyio.sleep(5)
        gc.collect()
        assert (await supervisor.get_run("r1").ended()).status is RunStatus.completed


# -- owning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["end of the block", "exception", "cancelled", "return"])
async def test_leaving_the_block_of_a_run_early_stops_it_and_waits_for_its_end(way: str) -> None:
    ended: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(10)
        ended.append(now())
        await anyio.sleep(1_000)

    async def own() -> None:
        async with run:
            await anyio.sleep(3)
            if way == "exception":
                raise KeyError("left")
            if way == "return":
                return
            if way == "cancelled":
                await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), policy=StopPolicy(on_caller_gone="detach"))
        if way == "exception":
            with pytest.raises(KeyError):
                await own()
        elif way == "cancelled":
            with anyio.move_on_after(4):
                await own()
        else:
            await own()
        assert now() == 10
        assert ended == [10]
        assert run.status is RunStatus.cancelled
    assert run.stop is not None
    assert run.stop.cause is StopCause.caller_gone


async def test_leaving_the_block_of_a_run_that_has_ended_changes_nothing() -> None:
    async with Supervisor() as supervisor:
        async with supervisor.start(Agent(payer)) as run:
            await run
        assert run.status is RunStatus.completed
        assert run.stop is None


# -- readers ---------------------------------------------------------------------------------------------------------


async def test_any_number_of_readers_see_the_same_log() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(teller))
        seen: list[list[Event]] = [[] for _ in range(20)]

        async def read(into: list[Event]) -> None:
            into.extend([event async for event in run.events()])

        async with anyio.create_task_group() as group:
            for into in seen:
                group.start_soon(read, into)
    assert all(events == seen[0] for events in seen)
    assert names(seen[0]) == ["RunStarted", *["RunContent"] * 10, "RunCompleted"]
    assert all(one is other for one, other in zip(seen[0], seen[1], strict=True)), "events are not copied"


@pytest.mark.parametrize("pause", [0.5, 3.0, 100.0])
async def test_a_slow_reader_delays_neither_the_run_nor_other_readers(pause: float) -> None:
    times: dict[str, list[float]] = {"slow": [], "fast": []}

    async def read(name: str, pause: float) -> None:
        async for _ in run.events():
            times[name].append(now())
            await anyio.sleep(pause)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(teller))
        async with anyio.create_task_group() as group:
            group.start_soon(read, "slow", pause)
            group.start_soon(read, "fast", 0)
            await run.ended()
            assert now() == 10
    assert times["fast"] == [0, *range(1, 11), 10]


async def test_a_vanished_reader_leaves_nothing_behind_and_the_run_goes_on() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(teller)))
        for _ in range(50):
            with anyio.move_on_after(0.01):
                await listen(run)
        stream = run.events()
        await anext(stream)
        del stream
        gc.collect()
        assert (await run.ended()).status is RunStatus.completed
        assert not run._state.writer.log.waiters


@pytest.mark.parametrize("after", range(13))
async def test_a_late_reader_replays_from_any_seq(after: int) -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(teller), run_id="r1")
        await run.ended()
        whole = await listen(run)
        assert [event async for event in supervisor.events("r1", after=after)] == whole[after:]


async def test_a_reader_that_joins_in_the_middle_misses_nothing_and_sees_nothing_twice() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(teller))
        first = run.events()
        seen = [await anext(first) for _ in range(4)]
        await anyio.sleep(2.5)
        resumed = [event async for event in run.events(after=seen[-1].seq)]
        assert [*seen, *resumed] == await listen(run)
        assert [event async for event in first] == resumed


async def test_a_read_that_is_cancelled_in_the_very_turn_of_its_event_loses_no_event() -> None:
    async def body(run: RunContext, message: object) -> None:
        for number in range(30):
            await anyio.sleep(1)
            run.write(f"{number} ")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        stream, seen = run.events(), []
        while "RunCompleted" not in names(seen):
            with anyio.move_on_after(1):
                seen.append(await anext(stream))
                await asyncio.sleep(0)
        assert seen == await listen(run)


async def test_one_stream_object_is_a_position_of_its_own() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(teller))
        one, other = run.events(), run.events()
        assert await anext(one) == await anext(other)
        assert aiter(one) is one
        assert [*await one.read()] == [*await other.read()]
        await run.ended()


async def test_events_of_a_run_that_is_not_known_are_an_error_and_no_silent_empty_stream() -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(RunNotFound):
            supervisor.events("nobody")
        with pytest.raises(RunNotFound):
            supervisor.get_run("nobody")


async def test_a_run_may_be_awaited_often_and_by_many() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(payer))
        outputs = []

        async def wait() -> None:
            outputs.append(await run)

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(wait)
        outputs.append(await run)
    assert len(outputs) == 6
    assert all(output == outputs[0] for output in outputs)


async def test_two_callers_of_which_one_is_cancelled_stop_the_run_and_the_other_reads_its_outcome() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper))
        outputs = []

        async def stays() -> None:
            outputs.append(await run)

        async with anyio.create_task_group() as group:
            group.start_soon(stays)
            with anyio.move_on_after(2):
                await run
    assert [output.status for output in outputs] == [RunStatus.cancelled]
    assert now() == 2
