"""T15: what is charged in a step is told by that step's own events, whatever else the run does meanwhile."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from kit.runs import Words, at, deaf, listen, one, words
from softstop import (
    Agent,
    Event,
    Outcome,
    RunContent,
    RunContext,
    StepCompleted,
    StepStarted,
    StopPolicy,
    Supervisor,
    Usage,
)


def out(tokens: int) -> Usage:
    return Usage(output_tokens=tokens)


def by_step(events: list[Event], run_id: str | None = None) -> dict[str, Usage | None]:
    """The usage of each step of a run, by name."""
    ends = [event for event in events if isinstance(event, StepCompleted) and event.run_id == (run_id or event.run_id)]
    return {event.step: event.usage for event in ends}


def told(events: list[Event]) -> list[tuple[str, Usage]]:
    """Which events of the root tell usage, and how much."""
    root = events[0].run_id
    return [(type(event).__name__, event.metrics) for event in events if event.metrics and event.run_id == root]


async def test_two_parallel_steps_report_what_was_charged_in_each() -> None:
    async def call(run: RunContext, name: str, tokens: int, seconds: float) -> None:
        async with run.step(name):
            run.charge(out(tokens))
            await anyio.sleep(seconds)

    async def body(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as calls:
            calls.start_soon(call, run, "dear", 100, 2)
            calls.start_soon(call, run, "cheap", 7, 1)
            await anyio.sleep(0.5)
            run.charge(out(3))  # in no step

    run, events = await one(body)
    assert by_step(events) == {"cheap": out(7), "dear": out(100)}
    assert told(events) == [("StepCompleted", out(7)), ("StepCompleted", out(100)), ("RunCompleted", out(3))]
    assert run.usage == out(110)


async def test_a_step_around_others_has_only_what_was_charged_directly_in_it() -> None:
    async def leaf(run: RunContext, message: object) -> None:
        run.charge(out(1_000))

    async def body(run: RunContext, message: object) -> None:
        async with run.step("outer"):
            run.charge(out(1))
            async with run.step("inner"):
                run.charge(out(10))
            await run.member(Agent(leaf), "go")
            run.charge(out(2))
        async with run.step("free"):
            pass

    run, events = await one(body, run_id="root")
    assert by_step(events, "root") == {"inner": out(10), "outer": out(3), "free": None}
    assert run.usage == out(13)


async def test_what_a_stream_s_loop_charges_is_told_with_its_content_at_once_and_whole_at_its_end() -> None:
    async def body(run: RunContext, message: object) -> None:
        run.charge(out(5))
        async for word in run.stream("write", words(2)):
            run.charge(out(10))
            run.write(word)
        run.charge(out(1))

    _, events = await one(body)
    content, done = ("RunContent", out(10)), ("RunCompleted", out(1))
    assert told(events) == [("StepStarted", out(5)), content, content, done]
    assert by_step(events) == {"write": out(20)}


async def test_a_step_s_content_and_its_end_together_tell_what_it_used() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("call"):
            run.charge(out(2))
            run.write("a")
            run.charge(out(3))

    _, events = await one(body)
    assert told(events) == [("RunContent", out(2)), ("StepCompleted", out(3))]
    assert by_step(events) == {"call": out(5)}


class Metered:
    """A source that charges when it is closed, as an answer does that was cut."""

    def __init__(self, run: RunContext) -> None:
        self._run = run

    def __aiter__(self) -> "Metered":
        return self

    async def __anext__(self) -> str:
        await anyio.sleep(1)
        return "word "

    async def aclose(self) -> None:
        self._run.charge(out(40))


@pytest.mark.parametrize("leaves", [True, False], ids=["closed when the run ends", "cut"])
async def test_what_a_source_charges_as_it_is_closed_belongs_to_its_stream(leaves: bool) -> None:
    async def read(run: RunContext) -> None:
        async for word in run.stream("answer", Metered(run)):
            run.write(word)
            if leaves:
                return

    async def body(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(read, run)
        await anyio.sleep(9)
        run.charge(out(2))

    _, events = await one(body, stop_at=None if leaves else 3.5)
    assert by_step(events) == {"answer": out(40)}
    assert events[-1].metrics == (out(2) if leaves else None)


async def test_what_a_thread_charges_belongs_to_the_step_that_waits_for_it() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("outer"), run.step("thread"):
            await asyncio.to_thread(run.charge, out(6))
            await anyio.lowlevel.checkpoint()

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        events = await listen(run)
    assert by_step(events) == {"thread": out(6), "outer": None}


async def test_what_is_charged_when_its_step_has_ended_is_told_by_the_step_around_it_or_the_next_event() -> None:
    async def late(run: RunContext) -> None:
        await anyio.sleep(1)
        run.charge(out(8))
        await anyio.sleep(1)
        run.charge(out(9))

    async def body(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group, run.step("outer"):
            async with run.step("inner"):
                group.start_soon(late, run)
                await anyio.sleep(0.5)
            await anyio.sleep(1)

    _, events = await one(body)
    assert by_step(events) == {"inner": None, "outer": out(8)}
    assert told(events) == [("StepCompleted", out(8)), ("RunCompleted", out(9))]


async def test_a_step_that_is_abandoned_tells_what_it_has_used_so_far() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("deaf"):
            run.charge(out(4))
            await deaf(60)
            run.charge(out(5))  # the outcome is published

    async with Supervisor(policy=StopPolicy(abandon_after=1)) as supervisor:
        run = supervisor.start(Agent(body))
        at(1, lambda: run.cancel(mode="now"))
        events = await listen(run)
        await anyio.sleep(100)
    assert by_step(events) == {"deaf": out(4)}
    assert isinstance(events[-1], Outcome)
    assert (events[-1].usage, events[-1].metrics) == (out(4), None)


async def test_what_an_observer_of_its_end_charges_is_told_by_the_outcome() -> None:
    contexts: list[RunContext] = []

    class Meter:
        def notice(self, event: Event) -> None:
            if isinstance(event, StepCompleted):
                contexts[0].charge(out(1))

    async def body(run: RunContext, message: object) -> None:
        contexts.append(run)
        async with run.step("call"):
            run.charge(out(2))

    async with Supervisor(observers=[Meter()]) as supervisor:
        events = await listen(supervisor.start(Agent(body)))
    assert by_step(events) == {"call": out(2)}
    assert told(events) == [("StepCompleted", out(2)), ("RunCompleted", out(1))]


async def test_content_says_in_which_step_of_its_run_it_was_written() -> None:
    async def leaf(run: RunContext, message: object) -> None:
        run.write("member ")
        async with run.step("own"):
            run.write("its-own ")

    async def beside(run: RunContext) -> None:
        await anyio.sleep(1.5)
        run.write("beside ")

    async def letters(run: RunContext) -> AsyncIterator[str]:
        run.write("source ")
        yield "chunk "

    async def body(run: RunContext, message: object) -> AsyncIterator[str]:
        run.write("before ")
        async with run.step("one"):
            run.write("one ")
            async with run.step("two"):
                await asyncio.to_thread(run.write, "two ")
                await anyio.lowlevel.checkpoint()
            run.write("one-again ")
            await run.member(Agent(leaf), "go", run_id="leaf")
            async for chunk in run.stream("three", letters(run)):
                run.write(chunk)
                async with run.step("four"):
                    yield "four "
                run.write("three ")
            run.write("one-more ")
        async with anyio.create_task_group() as group:
            group.start_soon(beside, run)
            async with run.step("five"):
                await anyio.sleep(2)
                run.write("five ")
        yield "after"

    _, events = await one(body, run_id="root")
    wrote = [(e.content.strip(), e.step_id) for e in events if isinstance(e, RunContent) and e.run_id == "root"]
    assert wrote == [
        ("before", None), ("one", 1), ("two", 2), ("one-again", 1), ("source", 3), ("chunk", 3), ("four", 4),
        ("three", 3), ("one-more", 1), ("beside", None), ("five", 5), ("after", None),
    ]  # fmt: skip
    members = [(e.content.strip(), e.step_id) for e in events if isinstance(e, RunContent) and e.run_id == "leaf"]
    assert members == [("member", None), ("its-own", 1)]


async def breaks(run: RunContext) -> None:
    async for word in run.stream("write", words(5, 0)):
        run.write(word)
        run.charge(out(1))
        break


async def returns(run: RunContext) -> None:
    async for word in run.stream("write", words(5, 0)):
        run.write(word)
        run.charge(out(1))
        return


async def raises(run: RunContext) -> None:
    with suppress(KeyError):
        async for word in run.stream("write", words(5, 0)):
            run.write(word)
            run.charge(out(1))
            raise KeyError(word)


@pytest.mark.parametrize("inside", [False, True], ids=["in no step", "in a step"])
@pytest.mark.parametrize("leave", [breaks, returns, raises], ids=lambda leave: leave.__name__)
async def test_what_follows_a_loop_that_was_left_early_is_no_part_of_its_stream(leave: Any, inside: bool) -> None:
    async def follows(run: RunContext) -> None:
        await leave(run)
        run.charge(out(10))
        run.write("then ")

    async def body(run: RunContext, message: object) -> None:
        if inside:
            async with run.step("around"):
                await follows(run)
        else:
            await follows(run)
        async with run.step("after"):
            run.charge(out(100))

    _, events = await one(body)
    around = {"around": out(10)} if inside else {}
    assert by_step(events) == {"write": out(1), "after": out(100), **around}
    begun = {event.step: event.step_id for event in events if isinstance(event, StepStarted)}
    texts = [(event.content, event.step_id) for event in events if isinstance(event, RunContent)]
    assert texts == [("word1 ", begun["write"]), ("then ", begun.get("around"))]


async def test_a_loop_that_goes_on_where_it_was_left_is_part_of_its_stream() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.stream("write", words(5, 0)) as pieces:
            async for _ in pieces:
                break
            run.charge(out(1))
            async for _ in pieces:
                run.charge(out(10))

    _, events = await one(body)
    assert by_step(events) == {"write": out(41)}


async def test_a_task_holds_no_stream_that_has_ended() -> None:
    sources: list[weakref.ref[Words]] = []

    async def body(run: RunContext, message: object) -> None:
        for _ in range(3):
            source = Words(2)
            sources.append(weakref.ref(source))
            async for _ in run.stream("write", source):
                pass
        del source
        gc.collect()
        run.write(f"{[source() for source in sources]}")

    run, _ = await one(body)
    assert run.output is not None
    assert run.output.content == "[None, None, None]"


async def test_parallel_streams_tell_their_texts_apart_also_to_a_reader_that_comes_late() -> None:
    async def read(run: RunContext, name: str, delay: float) -> None:
        async for word in run.stream(name, words(2_000, delay)):
            run.write(f"{name}{word}")

    async def body(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(read, run, "a", 1)
            group.start_soon(read, run, "b", 1.5)

    def texts(events: list[Event]) -> dict[Any, str]:
        found: dict[Any, str] = {}
        for event in events:
            if isinstance(event, RunContent):
                found[event.step_id] = found.get(event.step_id, "") + event.content
        return found

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        live = await listen(run)
        replayed = await listen(run)
        half = len(live) // 2
        rest = [event async for event in run.events(after=live[half].seq)]
    assert len(replayed) < len(live)
    assert texts(replayed) == texts(live)
    assert {key[0] for key in texts(live).values()} == {"a", "b"}
    assert texts(rest) == texts(live[half + 1 :])
    outcome = live[-1]
    assert outcome.content == "".join(event.content for event in replayed if isinstance(event, RunContent))
