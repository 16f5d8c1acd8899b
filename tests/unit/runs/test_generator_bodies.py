"""Bodies that are async generators: each yield is content and a boundary, and nobody else waits for them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from kit.runs import at, listen, now, one
from softstop import Agent, Run, RunContent, RunContext, RunStatus, StopCause, Supervisor, Usage
from softstop.log.writer import LONGEST


@pytest.mark.parametrize(
    ("text", "sent"), [("a\ud800b", "a?b"), ("é" * (LONGEST + 1), "é" * (LONGEST + 1)), ("", "")], ids=len
)
async def test_what_a_generator_yields_is_written_in_pieces_that_can_be_sent(text: str, sent: str) -> None:
    async def body(run: RunContext, message: object) -> AsyncIterator[str]:
        yield text

    run, events = await one(body)
    pieces = [event.content for event in events if isinstance(event, RunContent)]
    assert "".join(pieces).encode() == sent.encode()
    assert all(0 < len(piece) <= LONGEST for piece in pieces)
    assert run.status is RunStatus.completed


async def test_what_a_generator_charges_is_told_with_its_next_piece() -> None:
    async def body(run: RunContext, message: object) -> AsyncIterator[str]:
        yield "a"
        run.charge(Usage(output_tokens=2))
        run.charge(Usage(output_tokens=1))
        yield "b"
        yield "c"

    _, events = await one(body)
    told = [event.metrics and event.metrics.output_tokens for event in events if isinstance(event, RunContent)]
    assert told == [None, 3, None]


async def test_a_generator_that_never_waits_stops_between_two_pieces_and_holds_there_in_a_pause() -> None:
    runs: list[Run] = []

    async def body(run: RunContext, message: object) -> AsyncIterator[str]:
        for number in range(10):
            yield f"{number}"
            if number == 3:
                runs[0].pause()
            if number == 6:
                runs[0].cancel()

    async with Supervisor() as supervisor:
        runs.append(supervisor.start(Agent(body)))
        await anyio.sleep(10)
        held = "".join(event.content for event in await runs[0].events().read() if isinstance(event, RunContent))
        runs[0].resume()
        output = await runs[0].ended()
    assert held == "01234"
    assert (output.status, output.content) == (RunStatus.cancelled, "01234567")


async def test_a_generator_that_never_waits_lets_other_runs_go_on() -> None:
    ended: list[str] = []

    async def endless(run: RunContext, message: object) -> AsyncIterator[str]:
        for _ in range(100_000):
            if ended:
                return
            yield "x"
        ended.append("nobody else ran")

    async def brief(run: RunContext, message: object) -> None:
        await asyncio.sleep(0)
        ended.append("brief")

    async with Supervisor() as supervisor:
        for body in (endless, brief):
            supervisor.start(Agent(body))
        await anyio.sleep(1)
    assert ended == ["brief"]


async def test_a_generator_that_is_stopped_has_closed_what_it_has_open_before_the_outcome() -> None:
    closed: list[str] = []

    async def body(run: RunContext, message: object) -> AsyncIterator[str]:
        try:
            while True:
                yield "x"
                await anyio.sleep(1)
        finally:
            await anyio.sleep(2)
            closed.append("generator")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(2.5)
        run.cancel()
        events = await listen(run)
        assert closed == ["generator"]
    assert (events[-1].content, run.stop and run.stop.cause) == ("xxx", StopCause.user)


async def test_a_generator_that_yields_what_is_no_text_cleans_up_whole_although_a_stop_comes_meanwhile() -> None:
    cleaned: list[float] = []

    async def body(run: RunContext, message: object) -> AsyncIterator[Any]:
        try:
            yield 1
        finally:
            await anyio.sleep(3)
            cleaned.append(now())

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.cancel)
        await run.ended()
    assert cleaned == [3]
