"""Clients and where they may be opened and closed: a client that outlives a step is the run's, by `run.open`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest

from kit.foreign import Library, ended, pass_time, turns
from softstop import Agent, MisuseError, RunContext, RunStatus, StepFailed, StopPolicy, StopRequest
from softstop.events import StepStarted

# -- opened or closed in a step --------------------------------------------------------------------------------------


async def test_a_client_opened_in_a_step_and_open_after_it_is_told_and_ruins_nothing() -> None:
    library = Library()

    async def body(run: RunContext, message: str) -> None:
        async with AsyncExitStack() as stack:
            async with run.step("connect"):
                client = await stack.enter_async_context(library.connect())
            async with run.step("use"):
                run.write(await client.ask())
            await asyncio.sleep(0.001)
        async with run.step("after it"):
            run.write("done")

    with anyio.fail_after(9):
        run = Agent(body).arun("go")
        output = await run.ended()
        begun = [event.step async for event in run.events() if isinstance(event, StepStarted)]

    assert (output.status, output.content, library.told) == (RunStatus.completed, "asked done", ["client closed"])
    assert [step.step for step in output.steps] == begun == ["connect", "use", "after it"]
    [line] = output.errors
    assert "'connect'" in line
    assert "run.open(" in line


async def test_a_run_with_a_client_left_open_by_a_step_is_stopped_between_steps_all_the_same() -> None:
    library, waiting = Library(), anyio.Event()

    async def body(run: RunContext, message: str) -> None:
        async with AsyncExitStack() as stack:
            async with run.step("connect"):
                client = await stack.enter_async_context(library.connect())
            async with run.step("use"):
                run.write(await client.ask())
            waiting.set()
            await anyio.sleep_forever()

    with anyio.fail_after(9):
        run = Agent(body).arun("go")
        await waiting.wait()
        run.cancel()
        output = await run.ended()

    assert (output.status, output.content, output.abandoned) == (RunStatus.cancelled, "asked ", ())
    assert ended(output) == [("connect", "completed"), ("use", "completed")]
    assert len(output.errors) == 1


async def test_a_client_opened_in_a_step_and_closed_in_it_is_nobody_s_business() -> None:
    library = Library()

    async def body(run: RunContext, message: str) -> None:
        async with run.step("use"), library.connect() as client:
            run.write(await client.ask())

    with anyio.fail_after(9):
        output = await Agent(body).arun("go").ended()

    assert (output.status, output.content, output.errors) == (RunStatus.completed, "asked ", ())
    assert library.told == ["client closed"]


async def test_a_client_cannot_be_closed_in_a_later_step_and_is_told_how_to() -> None:
    library = Library()

    async def body(run: RunContext, message: str) -> str:
        stack = AsyncExitStack()
        await stack.enter_async_context(library.connect())
        with pytest.raises(MisuseError, match=r"'disconnect'.*run\.open\("):
            async with run.step("disconnect"):
                await stack.aclose()
        return "the body goes on"

    with anyio.fail_after(9):
        output = await Agent(body).arun("go").ended()

    assert ended(output) == [("disconnect", "failed")]
    assert output.status.ended
    assert output.abandoned == ()


async def test_a_client_that_the_run_opened_is_used_by_many_steps_and_closed_after_the_last() -> None:
    library = Library()

    async def body(run: RunContext, message: str) -> None:
        client = await run.open(library.connect())
        for number in range(3):
            async with run.step(f"use {number}"):
                run.write(await client.ask())
        assert library.told == []

    with anyio.fail_after(9):
        output = await Agent(body).arun("go").ended()

    assert (output.status, output.content, output.errors) == (RunStatus.completed, "asked asked asked ", ())
    assert library.told == ["client closed"]


# -- run.open --------------------------------------------------------------------------------------------------------


async def test_what_fails_to_open_raises_in_the_body_which_may_go_on() -> None:
    class Refused:
        async def __aenter__(self) -> None:
            raise ConnectionRefusedError("nobody is there")

        async def __aexit__(self, *exc: object) -> None:
            raise NotImplementedError

    async def body(run: RunContext, message: str) -> None:
        with pytest.raises(ConnectionRefusedError):
            await run.open(Refused())
        async with run.step("without it"):
            run.write("done")

    with anyio.fail_after(9):
        output = await Agent(body).arun("go").ended()

    assert (output.status, output.content, output.errors) == (RunStatus.completed, "done", ())


async def test_what_raises_a_stray_cancellation_as_it_opens_fails_the_run_and_does_not_stop_it() -> None:
    @asynccontextmanager
    async def stray() -> AsyncIterator[None]:
        raise asyncio.CancelledError
        yield

    async def body(run: RunContext, message: str) -> None:
        await run.open(stray())

    with anyio.fail_after(9):
        output = await Agent(body).arun("go").ended()

    assert (output.status, output.stop) == (RunStatus.failed, None)
    assert isinstance(output.error, StepFailed)


@pytest.mark.parametrize("stopped", [False, True])
async def test_what_fails_to_close_is_told_and_changes_no_outcome(stopped: bool) -> None:
    @asynccontextmanager
    async def client() -> AsyncIterator[None]:
        yield
        raise ConnectionResetError("the other side has gone")

    async def body(run: RunContext, message: str) -> None:
        await run.open(client())
        await run.open(library.connect())
        if stopped:
            waiting.set()
            await anyio.sleep_forever()

    library, waiting = Library(), anyio.Event()
    with anyio.fail_after(9):
        run = Agent(body).arun("go")
        if stopped:
            await waiting.wait()
            run.cancel()
        output = await run.ended()

    assert output.status is (RunStatus.cancelled if stopped else RunStatus.completed)
    assert output.errors == ("ConnectionResetError: the other side has gone",)
    assert library.told == ["client closed"]


@pytest.mark.parametrize("stopped", [False, True])
async def test_what_is_slow_to_close_is_cut_and_the_others_are_closed_whole(stopped: bool) -> None:
    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        yield
        pass_time(5)  # its share of the time
        await anyio.sleep_forever()

    async def body(run: RunContext, message: str) -> None:
        await run.open(library.connect())
        await run.open(slow())
        if stopped:
            waiting.set()
            await anyio.sleep_forever()

    library, waiting = Library(), anyio.Event()
    with anyio.fail_after(30):
        run = Agent(body).arun("go", policy=StopPolicy(cleanup_timeout=10))
        if stopped:
            await waiting.wait()
            run.cancel()
        output = await run.ended()

    assert output.status is (RunStatus.cancelled if stopped else RunStatus.completed)
    [line] = output.errors
    assert "to close and was cut" in line
    assert library.told == ["client closed"]


async def test_what_the_run_opened_serves_its_on_stop_callbacks_and_is_closed_newest_first() -> None:
    told: list[str] = []

    @asynccontextmanager
    async def client(name: str) -> AsyncIterator[str]:
        yield name
        await asyncio.sleep(0)
        told.append(f"{name} closed")

    async def body(run: RunContext, message: str) -> None:
        library = await run.open(Library().connect())

        async def goodbye(stop: StopRequest) -> None:
            told.append(f"{await library.ask()}{stop.reason}")

        run.on_stop(goodbye)
        for name in ("first", "second", "third"):
            await run.open(client(name))
        waiting.set()
        await anyio.sleep_forever()

    waiting = anyio.Event()
    with anyio.fail_after(9):
        run = Agent(body).arun("go")
        await waiting.wait()
        run.cancel("enough")
        output = await run.ended()

    assert (output.status, output.errors) == (RunStatus.cancelled, ())
    assert told == ["asked enough", "third closed", "second closed", "first closed"]


async def test_a_stop_while_something_opens_does_not_wait_for_it() -> None:
    opening, told = anyio.Event(), []

    @asynccontextmanager
    async def never() -> AsyncIterator[None]:
        opening.set()
        try:
            await anyio.sleep_forever()
            yield
        finally:
            await asyncio.sleep(0.001)
            told.append("socket closed")

    async def body(run: RunContext, message: str) -> None:
        await run.open(never())

    with anyio.fail_after(9):
        run = Agent(body).arun("go")
        await opening.wait()
        run.cancel()
        output = await run.ended()

    assert (output.status, output.abandoned, output.errors) == (RunStatus.cancelled, (), ())
    assert told == ["socket closed"]


async def test_a_timeout_around_an_opening_ends_the_opening() -> None:
    told: list[str] = []

    @asynccontextmanager
    async def never() -> AsyncIterator[None]:
        try:
            await anyio.sleep_forever()
            yield
        finally:
            told.append("socket closed")

    async def body(run: RunContext, message: str) -> None:
        with anyio.move_on_after(0.01):
            await run.open(never())
        async with run.step("without it"):
            await turns()
            run.write(" and ".join(told))

    with anyio.fail_after(9):
        output = await Agent(body).arun("go").ended()

    assert (output.status, output.content, output.errors) == (RunStatus.completed, "socket closed", ())
