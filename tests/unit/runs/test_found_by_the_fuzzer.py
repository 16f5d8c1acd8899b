"""Bugs that random programs in real time have found, each reduced to what a user would have seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from softstop import Agent, Limits, RunContext, RunStatus, Supervisor, Usage


@asynccontextmanager
async def client(log: list[str], name: str, closes: float) -> AsyncIterator[None]:
    yield
    await asyncio.sleep(closes)
    log.append(f"{name} is closed")


async def test_t09_a_client_opened_while_the_others_are_closed_is_closed_before_the_outcome() -> None:
    log: list[str] = []
    kept: list[asyncio.Task[None]] = []

    async def late(run: RunContext) -> None:
        await asyncio.sleep(0.1)
        await run.open(client(log, "late", 0.0))

    async def body(run: RunContext, message: object) -> None:
        await run.open(client(log, "first", 0.2))
        kept.append(asyncio.get_running_loop().create_task(late(run)))

    with anyio.fail_after(5):
        async with Supervisor() as supervisor:
            output = await supervisor.start(Agent(body))
            assert log == ["first is closed", "late is closed"]
    assert output.status is RunStatus.completed


async def test_t06_a_step_begun_while_the_clients_are_closed_is_finished_before_the_outcome() -> None:
    log: list[str] = []
    kept: list[asyncio.Task[None]] = []

    async def late(run: RunContext) -> None:
        await asyncio.sleep(0.1)
        async with run.step("pay"):
            await asyncio.sleep(1)

    async def body(run: RunContext, message: object) -> None:
        await run.open(client(log, "first", 0.2))
        kept.append(asyncio.get_running_loop().create_task(late(run)))

    with anyio.fail_after(5):
        async with Supervisor() as supervisor:
            output = await supervisor.start(Agent(body))
    assert output.status is RunStatus.completed
    assert [(step.step, step.status) for step in output.steps] == [("pay", "completed")]


async def ask(run: RunContext, message: object) -> None:
    async with run.step("ask", reserve=Usage(output_tokens=10)):
        run.write("asked")


async def asks_in_a_step(run: RunContext, message: object) -> None:
    async with run.step("pay"):
        await ask(run, message)


async def asks_in_a_member(run: RunContext, message: object) -> None:
    await run.member(Agent(ask), message)


async def asks_in_the_step_of_a_member(run: RunContext, message: object) -> None:
    await run.member(Agent(asks_in_a_step), message)


async def asks_in_a_member_that_a_step_starts_in_the_pause(run: RunContext, message: object) -> None:
    async with run.step("pay"):
        run.charge(Usage(output_tokens=5))
        await asyncio.sleep(0.2)
        await run.member(Agent(ask), message)


@pytest.mark.parametrize("wakes_members", [False, True], ids=["", "members are resumed one by one"])
@pytest.mark.parametrize("ends", ["more room", "a stop"])
@pytest.mark.parametrize(
    "body",
    [
        asks_in_a_step, asks_in_a_member, asks_in_the_step_of_a_member,
        asks_in_a_member_that_a_step_starts_in_the_pause,
    ],
)  # fmt: skip
async def test_t17_a_reservation_without_room_under_a_limit_that_pauses_waits_for_room_and_does_not_block_the_loop(
    body: Callable[[RunContext, object], Awaitable[None]], ends: str, wakes_members: bool
) -> None:
    with anyio.fail_after(5):
        async with Supervisor() as supervisor:
            run = supervisor.start(Agent(body), limits=Limits(tokens=5, on_exhausted="pause"))
            await asyncio.sleep(1)
            for member in run.members if wakes_members else ():
                member.resume()
                await asyncio.sleep(0.1)
            assert not run.status.ended
            if ends == "more room":
                run.limits.update(tokens=100)
            else:
                run.cancel()
            output = await run
    texts = [output.content, *(member.content for member in output.members)]
    if ends == "more room":
        assert (output.status, "".join(texts)) == (RunStatus.completed, "asked")
    else:
        assert (output.status, "".join(texts)) == (RunStatus.cancelled, "")


@pytest.mark.parametrize("cancels", [1, 2])
async def test_t09_a_native_cancel_while_clients_are_closed_leaves_none_of_them_open(cancels: int) -> None:
    log: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        for name in ("first", "second", "third"):
            await run.open(client(log, name, 0.3))

    with anyio.fail_after(5):
        async with Supervisor() as supervisor:
            run = supervisor.start(Agent(body))
            await asyncio.sleep(0.1)
            (task,) = [task for task, run_id in supervisor.statistics().tasks.items() if run_id == run.run_id]
            for _ in range(cancels):
                task.cancel()
                await asyncio.sleep(0.05)
            assert len((await run).errors) == cancels, "each is told"
            await asyncio.sleep(0.5)
            assert sorted(log) == ["first is closed", "second is closed", "third is closed"]
            assert not supervisor.statistics().tasks


@pytest.mark.parametrize("turns", range(8))
async def test_t09_a_client_opened_in_the_very_turn_in_which_the_last_one_closes_keeps_nobody_waiting(
    turns: int,
) -> None:
    log: list[str] = []
    kept: list[asyncio.Task[None]] = []

    async def late(run: RunContext) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await run.open(client(log, "late", 0.0))

    async def body(run: RunContext, message: object) -> None:
        await run.open(client(log, "first", 0.0))
        kept.append(asyncio.get_running_loop().create_task(late(run)))

    with anyio.fail_after(5):
        async with Supervisor() as supervisor:
            await supervisor.start(Agent(body))
            await asyncio.wait(kept)
            assert not supervisor.statistics().tasks


@pytest.mark.parametrize("levels", [1, 2, 3])
async def test_t08_clean_up_of_a_body_whose_source_was_refused_a_stream_is_not_torn(levels: int) -> None:
    log: list[str] = []

    async def words() -> AsyncIterator[str]:
        yield "never"

    async def source(run: RunContext, levels: int) -> AsyncIterator[str]:
        async for word in run.stream(f"{levels} below", source(run, levels - 1) if levels > 1 else words()):
            yield word

    async def body(run: RunContext, message: object) -> None:
        try:
            async for word in run.stream("outer", source(run, levels)):
                run.write(word)
        finally:
            await asyncio.sleep(1)
            log.append("cleaned up")

    with anyio.fail_after(5):
        async with Supervisor() as supervisor:
            output = await supervisor.start(Agent(body), limits=Limits(steps=levels))
    assert log == ["cleaned up"]
    assert output.status is RunStatus.cancelled
