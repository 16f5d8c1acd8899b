"""Readers of a log: woken by each event, at any pace, from any position, ended by the outcome."""

import asyncio

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.logs import finish, make, text_of
from kit.runs import at, sleeper
from softstop import Agent, Event, EventStream, Run, RunCompleted, RunContent, RunContext, RunStarted, Supervisor
from softstop.log.log import Log
from softstop.log.writer import Writer
from softstop.testing import run_virtual


def live_log(writers: int = 1) -> tuple[Log, list[Writer]]:
    log, made = make(writers)
    log.loop = asyncio.get_running_loop()
    return log, made


async def test_a_reader_is_woken_by_each_event_and_ends_after_the_outcome() -> None:
    _, (writer,) = live_log()
    seen: list[Event] = []

    async def read() -> None:
        seen.extend([event async for event in EventStream(writer)])

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        for number in range(5):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(seen) == 0  # they come when the stream has ended: a list is built
            writer.write(f"{number}")
        finish(writer)
    assert [event.content for event in seen] == ["0", "1", "2", "3", "4", "01234"]


async def test_a_reader_takes_all_that_is_there_in_one_read() -> None:
    _, (writer,) = live_log()
    stream = EventStream(writer)
    for _ in range(100):
        writer.write("x")
    assert len(await stream.read()) == 100
    writer.write("y")
    assert [event.content for event in await stream.read()] == ["y"]
    finish(writer)
    assert len(await stream.read()) == 1
    assert await stream.read() == []
    assert await stream.read() == []


async def test_a_reader_of_a_member_skips_what_is_not_its_own_without_stalling() -> None:
    _, (root, member) = live_log(2)
    stream = EventStream(member)
    root.write("not yours")
    member.write("yours")
    root.write("not yours")
    assert [event.content for event in await stream.read()] == ["yours"]
    with anyio.move_on_after(1) as waited:
        await anext(stream)
    assert waited.cancelled_caught
    member.write("again")
    assert (await anext(stream)).content == "again"
    finish(member)
    assert isinstance(await anext(stream), RunCompleted)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def turns_of_the_loop(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=12),
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.booleans(),
)
def test_readers_of_any_pace_see_the_same_text_structure_and_end(
    bursts: list[tuple[int, int]], paces: list[int], fold: bool
) -> None:
    async def main() -> None:
        log, (writer,) = live_log()
        seen: list[list[Event]] = [[] for _ in paces]

        async def read(pace: int, into: list[Event]) -> None:
            async for event in EventStream(writer):
                into.append(event)
                await turns_of_the_loop(pace)

        async with anyio.create_task_group() as group:
            for pace, into in zip(paces, seen, strict=True):
                group.start_soon(read, pace, into)
            for size, turns in bursts:
                for number in range(size):
                    writer.write(f"{number};")
                writer.emit(RunStarted())
                if fold:
                    log.fold(3)
                await turns_of_the_loop(turns)
            whole = writer.content
            finish(writer)
        for events in seen:
            assert text_of(events, "r0") == whole
            assert [type(event) for event in events if not isinstance(event, RunContent)] == (
                [RunStarted] * len(bursts) + [RunCompleted]
            )
            assert [event.seq for event in events] == sorted({event.seq for event in events})
            assert events[-1].seq == log.seq

    run_virtual(main)


async def test_a_cancelled_read_leaves_no_waiter_and_loses_nothing() -> None:
    log, (writer,) = live_log()
    stream = EventStream(writer)
    for _ in range(20):
        with anyio.move_on_after(0.1):
            await anext(stream)
    assert not log.waiters
    writer.write("x")
    assert (await anext(stream)).content == "x"


async def test_a_hundred_readers_that_wait_are_woken_once_each() -> None:
    log, (writer,) = live_log()
    ends: list[int] = []

    async def read() -> None:
        stream = EventStream(writer)
        ends.append((await anext(stream)).seq)
        ends.append((await anext(stream)).seq)

    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(read)
        await anyio.sleep(1)
        assert len(log.waiters) == 100
        writer.write("x")
        await anyio.sleep(1)
        assert ends == [1] * 100
        finish(writer)
    assert ends == [1] * 100 + [2] * 100
    assert not log.waiters


async def test_a_position_beyond_the_end_waits_for_what_is_new_only() -> None:
    _, (writer,) = live_log()
    writer.write("old")
    stream = EventStream(writer, after=1)
    with anyio.move_on_after(1) as waited:
        await anext(stream)
    assert waited.cancelled_caught
    writer.write("new")
    assert (await anext(stream)).content == "new"


async def test_a_reader_of_a_member_reads_all_that_is_below_it_and_nothing_beside_it() -> None:
    async def says(run: RunContext, message: object) -> None:
        run.write(f"{message} ")

    async def middle(run: RunContext, message: object) -> None:
        await run.member(Agent(says), "below")

    async def lead(run: RunContext, message: object) -> None:
        run.write("above ")
        await run.member(Agent(middle), "go")
        await run.member(Agent(says), "beside")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        await run.ended()
        events = [event async for event in run.members[0].events()]
    assert text_of(events, run.members[0].members[0].run_id) == "below "
    assert {event.run_id for event in events} == {run.members[0].run_id, run.members[0].members[0].run_id}


async def test_a_reader_that_breaks_in_a_task_that_was_cancelled_before_stops_nothing() -> None:
    async def body(run: RunContext, message: object) -> str:
        for _ in range(5):
            run.write("x")
            await anyio.sleep(1)
        return "done"

    async def reads(run: Run) -> int:
        try:
            await anyio.sleep(1_000)
        except asyncio.CancelledError:
            async for _ in run:
                break
        task = asyncio.current_task()
        return 0 if task is None else task.cancelling()

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        reader = asyncio.get_running_loop().create_task(reads(run))
        at(2, reader.cancel)
        assert await reader == 1
        assert (await run.ended()).value == "done"


async def test_waits_for_an_outcome_that_are_given_up_leave_nothing_in_the_run() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper))
        for _ in range(5):
            with anyio.move_on_after(1):
                await run.ended()
        assert not run._state.waiting
        run.cancel()


async def test_a_reader_of_a_member_that_keeps_up_is_given_none_of_its_parent_s_events() -> None:
    _, (root, member) = live_log(2)
    seen: list[str | None] = []

    async def read() -> None:
        seen.extend([event.content async for event in EventStream(member)])

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        for number in range(4):
            await turns_of_the_loop(3)
            (member if number % 2 else root).write(f"{number}")
        await turns_of_the_loop(3)
        finish(member)
    assert seen == ["1", "3", "13"]
